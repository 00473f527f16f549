"""Python code that makes the result of a call again: the call, with the arguments that differ from the defaults.

Functions of the package and methods of runs note this code in their results, whose pages show it. A value that cannot
be written, such as a function or a corpus in memory, keeps its name, and a comment says that it is an object of the
user's session. A program that cannot be written is "": it must never cost the result.
"""

from __future__ import annotations

import dataclasses
import inspect
import logging
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from dreamy_lens._literals import python_literal
from dreamy_lens.corpus.corpus import Corpus
from dreamy_lens.features.expressions import Feature
from dreamy_lens.features.parser import feature_names
from dreamy_lens.results.prompt import Prompt
from dreamy_lens.runs.python_code import (
    body_of,
    feature_argument,
    model_argument,
    program,
    run_code,
    runs_code,
    search_argument,
    session_argument,
)
from dreamy_lens.runs.recorded_run import RecordedRun
from dreamy_lens.scan.config import ScanConfig
from dreamy_lens.search.config import SearchConfig

_LOGGER = logging.getLogger(__name__)

LONGEST = 4000
"""Most characters of a value that is written; a longer one is an object of the user's session."""

_PASSWORD = re.compile(r"[a-z0-9+.-]+://[^/@]*@", re.IGNORECASE)
"""Beginning of an address with a user's name or password."""

_MODELS = ("model", "fluency_model", "held_out_model")


def call_code(
    name: str, function: Callable[..., Any], arguments: Mapping[str, Any], without: Iterable[str] = ("progress",)
) -> str:
    """Return the program that calls a function of `dl` again.

    Args:
        name: Name of the result in the program.
        function: Function, whose signature has the defaults.
        arguments: Values of all its parameters, by name; those of `**settings` are a mapping.
        without: Names of arguments that do not change the result.
    """

    def code() -> str:
        writer = CallWriter()
        call = writer.call(f"dl.{function.__name__}", function, arguments, set(without))
        return program(f"{name} = {call}", list(dict.fromkeys(writer.setup)))

    return code_or_nothing(code)


def method_code(run: RecordedRun, method: str, arguments: Sequence[Any], settings: Mapping[str, Any]) -> str:
    """Return the program that calls a method of a run again, by a run of no iterations with the same feature and model.

    Args:
        run: Run whose feature, models, template and constraints are used.
        method: Name of the method.
        arguments: Positional arguments.
        settings: Keywords.
    """

    def code() -> str:
        writer = CallWriter()
        texts = [writer.value("prompt", value) for value in arguments]
        while texts and texts[-1] == "None":
            texts.pop()
        texts += [f"{name}={writer.value(name, value)}" for name, value in settings.items()]
        names = {"steer": "steering", "ablate": "ablation", "patch": "patching", "generate": "continuation"}
        comment = "# A run of 0 iterations has the feature, the model and the template."
        call = f"{names.get(method, method)} = run.{method}({', '.join(texts)})"
        lines = body_of(run_code(run, empty=True))
        setup = list(dict.fromkeys([*writer.setup, *lines[:-1], comment]))
        return program(f"{lines[-1]}\n{call}", setup)

    return code_or_nothing(code)


def program_of(result: Any) -> str:
    """Return the program that makes a run, several runs or another result again; "" if it is unknown.

    Args:
        result: Result of a function of the package, also one that was saved and opened.
    """
    if isinstance(result, RecordedRun):
        return run_code(result)
    if _has_runs(result) and all(isinstance(run, RecordedRun) for run in result.runs):
        return runs_code(result.runs)
    return str(getattr(result, "code", ""))


class CallWriter:
    """Writer of values as Python. `setup` has the lines that have to run before."""

    def __init__(self) -> None:
        self.setup: list[str] = []

    def call(
        self, name: str, function: Callable[..., Any], arguments: Mapping[str, Any], without: set[str] | frozenset[str]
    ) -> str:
        """Return a call with the arguments that differ from the defaults; see :func:`call_code`."""
        texts, by_place = [], True
        for parameter in inspect.signature(inspect.unwrap(function)).parameters.values():
            value = arguments.get(parameter.name, parameter.default)
            if parameter.kind is parameter.VAR_KEYWORD:
                texts += [f"{key}={self.value(key, each)}" for key, each in dict(value).items() if key not in without]
            elif isinstance(value, ScanConfig):
                own = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
                usual = ScanConfig()
                changed = {key: each for key, each in own.items() if each != getattr(usual, key)}
                texts += [f"{key}={self.value(key, each)}" for key, each in changed.items()]
            elif parameter.name in without or _is_default(value, parameter.default):
                by_place = False
            else:
                text = self.value(parameter.name, value)
                by_place = by_place and parameter.kind is not parameter.KEYWORD_ONLY
                texts.append(text if by_place else f"{parameter.name}={text}")
        return f"{name}({', '.join(texts)})"

    def value(self, name: str, value: Any) -> str:
        """Return the value of an argument as Python.

        Args:
            name: Name of the argument.
            value: Value of the argument.
        """
        text = self._written(name, value)
        if text is not None and len(text) <= LONGEST:
            return text
        if isinstance(value, Feature):
            return session_argument(name, feature_names(str(value))[0], self.setup)
        what = type(value).__name__
        if hasattr(value, "__len__"):
            what += f" of length {len(value):,}"
        kind = getattr(value, "name", None) or getattr(value, "__name__", None)
        what = f"{kind!r}" if isinstance(kind, str) else what
        return session_argument(name, what, self.setup)

    def _written(self, name: str, value: Any) -> str | None:
        """Return a value as Python; None if it cannot be written."""
        if isinstance(value, str):
            return python_literal(value) if len(value) <= LONGEST and not _PASSWORD.match(value) else None
        if value is None or isinstance(value, (bool, int, range, slice)):
            return python_literal(value)
        if isinstance(value, float):
            return repr(value) if math.isfinite(value) else f'float("{value}")'
        if isinstance(value, os.PathLike):
            return python_literal(os.fspath(value))
        if isinstance(value, Prompt):
            return repr(list(value.ids))
        if isinstance(value, Feature):
            return self._with(feature_argument(str(value)))
        if isinstance(value, RecordedRun) or _has_runs(value):
            return self._runs(value)
        if isinstance(value, SearchConfig):
            return self._with(search_argument(value))
        if isinstance(value, Corpus):
            return self._corpus(value)
        header = getattr(value, "header", None)
        if isinstance(header, dict) and "counts" in header:
            return self._examples(value, header)
        if isinstance(value, Mapping):
            items = [(self._written(name, key), self._written(name, each)) for key, each in value.items()]
            return None if any(None in item for item in items) else f"{{{', '.join(f'{k}: {v}' for k, v in items)}}}"
        if isinstance(value, (list, tuple)):
            return self._sequence(name, value)
        if hasattr(value, "tolist"):  # an array or a tensor
            return repr(value.tolist()) if np.prod(value.shape, dtype=float) <= LONGEST else None
        if callable(getattr(value, "code", None)):  # a constraint or a template
            return value.code()
        return self._model(name, value) if name in _MODELS else None

    def _sequence(self, name: str, values: Sequence[Any]) -> str | None:
        """Return a list or a tuple as Python; None if one of its items cannot be written, or all are too long."""
        runs = [value for value in values if isinstance(value, RecordedRun)]
        if runs and len(runs) == len(values):
            return self._runs(runs)
        items, characters = [], 0
        for value in values:  # of a million texts, only the first few are written
            items.append(self._written(name, value))
            characters += len(items[-1] or "")
            if items[-1] is None or characters > LONGEST:
                return None
        text = ", ".join(map(str, items))
        if isinstance(values, list):
            return f"[{text}]"
        return f"({text},)" if len(items) == 1 else f"({text})"

    def _with(self, written: tuple[str, list[str]]) -> str:
        """Return the text of a value, and keep the lines before it."""
        self.setup += written[1]
        return written[0]

    def _runs(self, value: Any) -> str | None:
        """Return the name of a run, or of several, whose code becomes lines before the call."""
        runs = [value] if isinstance(value, RecordedRun) else list(getattr(value, "runs", value))
        if not runs or not all(isinstance(run, RecordedRun) for run in runs):
            return None
        code = run_code(runs[0]) if len(runs) == 1 else runs_code(runs)
        lines = [line for line in body_of(code) if not line.startswith("panel = ")]
        self.setup += lines
        return "run" if len(runs) == 1 else "runs"

    def _examples(self, value: Any, header: Mapping[str, Any]) -> str | None:
        """Return the name of examples, whose code becomes lines before the call."""
        code, folder = header.get("code"), getattr(value, "folder", None)
        if not code and folder is None:
            return None
        self.setup += body_of(code) if code else [f"examples = dl.load({python_literal(str(folder))})"]
        label = getattr(value, "label", None)
        return "examples" if label is None else f"examples.of({self._with(feature_argument(label))})"

    def _corpus(self, corpus: Corpus) -> str | None:
        """Return a corpus that was opened by its name; None for one that is made of objects."""
        if corpus.source is None:
            return None
        source, options = corpus.source
        texts = [] if source is None else [python_literal(source)]
        for key, each in options.items():  # storage options may have passwords
            secret = key == "storage_options"
            texts.append(f"{key}={session_argument(key, 'a mapping', self.setup) if secret else self.value(key, each)}")
        return f"dl.corpus.open({', '.join(texts)})" if options else ", ".join(texts) or "None"

    def _model(self, name: str, value: Any) -> str:
        """Return a model as Python."""
        from dreamy_lens.models.load import as_hooked

        hooked = as_hooked(value)
        written, lines = model_argument(name, hooked, None, str(hooked.dtype).removeprefix("torch."))
        self.setup += lines
        return written.get(name, "None")


def code_or_nothing(code: Callable[[], str]) -> str:
    """Return a program, or "" if an argument cannot be written; objects of users may raise anything.

    Args:
        code: Function that writes the program.
    """
    try:
        return code()
    except Exception:
        _LOGGER.debug("A program could not be written.", exc_info=True)
        return ""


def _has_runs(value: Any) -> bool:
    """Return whether a value is several runs or a merged run."""
    runs = getattr(value, "runs", None)
    return isinstance(runs, (list, tuple)) and any(isinstance(run, RecordedRun) for run in runs)


def _is_default(value: Any, default: Any) -> bool:
    """Return whether an argument has its default value."""
    if value is default:
        return True
    if isinstance(value, (list, tuple)) and isinstance(default, (list, tuple)):
        return list(value) == list(default)
    return type(value) is type(default) and isinstance(value, (bool, int, float, str)) and value == default
