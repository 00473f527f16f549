"""Execution of a study: its folder, its model, its sweeps and scans, and its result."""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamy_lens._files import FAILURES, StrPath, expanded, failure_of, write_whole
from dreamy_lens._host import say
from dreamy_lens.api.max_activating import max_activating
from dreamy_lens.api.sweep import sweep
from dreamy_lens.errors import FeatureError, RunFolderError, SettingsError
from dreamy_lens.features.parser import feature_names, parse
from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.models.load import as_hooked
from dreamy_lens.results.study import (
    FAILS,
    HOLDS,
    NOT_MEASURED,
    PLAN,
    StudyChart,
    StudyClaim,
    StudyResult,
    check_study_folder,
)
from dreamy_lens.runs.call_code import CallWriter, code_or_nothing
from dreamy_lens.runs.python_code import program
from dreamy_lens.scan.fingerprint import model_digest
from dreamy_lens.studies.settings import StudySettings

if TYPE_CHECKING:
    import pandas as pd

    from dreamy_lens.features.expressions import Feature
    from dreamy_lens.results.frontier import Frontier
    from dreamy_lens.results.merged import Merged
    from dreamy_lens.results.prompt import Prompt
    from dreamy_lens.scan.examples import Examples
    from dreamy_lens.sweeps.sweep import Sweep

GROWING = ("seeds", "names", "llm", "groups")
"""Settings that may differ when a study continues: the runs that are there stay valid."""


class StudyExecution:
    """One call of a study. In a `with` block, it has a folder, which is temporary if the user names none.

    Args:
        name: Name of the study.
        title: What the study measures.
        settings: Settings of the study.
        model: Model as the user gave it.
        out: Folder of the study; None keeps no runs.
        ray: Ray cluster, as :func:`dreamy_lens.sweep` takes it.
        progress: Whether to show progress.
    """

    def __init__(
        self,
        name: str,
        title: str,
        settings: StudySettings,
        model: Any,
        out: StrPath | None,
        ray: Any,
        progress: bool | None,
    ) -> None:
        self.name, self.title, self.settings, self.model = name, title, settings, model
        self.ray, self.progress = ray, progress
        self.given_model = model  # a study of several models sets all of them
        self.notes: list[str] = []
        self.interrupted = False
        self._out = None if out is None else expanded(out)
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._hooked: HookedModel | None = None
        self._origins: dict[str, dict[str, str]] = {}
        self._began = time.monotonic()
        if isinstance(out, str) and "://" in out:
            raise SettingsError(f"out is {out!r}; a study is in a folder on a disk that all workers see, not at a URL.")

    def __enter__(self) -> StudyExecution:
        if self._out is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="dreamy-lens-study-", ignore_cleanup_errors=True)
            return self
        check_study_folder(self._out)
        self._check_plan(self._out)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._temporary is not None:
            self._temporary.cleanup()
        elif kind is not None and issubclass(kind, KeyboardInterrupt):
            self.say("The study was interrupted. The same call with the same folder goes on with it.")

    def _check_plan(self, folder: Path) -> None:
        """Write what the folder is for, or raise RunFolderError if it is for another study.

        A folder whose only file is a plan is that of a call that failed, and is free for any study.
        """
        file = folder / PLAN
        if file.is_file() and any(f != file and f.is_file() for f in folder.rglob("*")):
            try:
                old = json.loads(file.read_bytes())
                name, settings = old["name"], dict(old["settings"])
                origins = {
                    kind: {n: str(each[n]) for n in ("digest", "name")} for kind, each in old.get("origins", {}).items()
                }
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                raise RunFolderError(
                    f"{str(file)!r} is damaged, so the study in the folder cannot go on. Choose another folder."
                ) from None
            if name != self.name:
                raise RunFolderError(f"{str(folder)!r} holds the study {name}; choose another folder for {self.name}.")
            # The search has the length and the budgets in it, so that they are named first.
            for key, value in sorted(self._compared().items(), key=lambda item: item[0] == "search"):
                if settings.get(key) != value and _long_form(key, settings.get(key)) != _long_form(key, value):
                    raise RunFolderError(
                        f"The study in {str(folder)!r} has {key}={settings.get(key)!r}, and {value!r} was asked for. "
                        "Choose another folder for other settings."
                    )
            self._origins = origins
            return
        self._write_plan(folder)

    def _write_plan(self, folder: Path) -> None:
        plan = {"format": "dreamy_lens study plan", "version": 1, "name": self.name, "settings": self._compared()}
        plan["origins"] = self._origins
        try:
            write_whole(folder / PLAN, json.dumps(plan).encode("ascii"))
        except FAILURES as problem:
            raise RunFolderError(f"The study cannot be saved in {str(folder)!r}: {failure_of(problem)}") from problem

    def _compared(self) -> dict[str, Any]:
        plain = {k: v for k, v in self.settings.to_dict().items() if k not in GROWING}
        return json.loads(json.dumps(plain))

    def check_origin(self, kind: str, name: str, digest_of: Callable[[], str]) -> None:
        """Raise RunFolderError if the folder's results are of another origin, and otherwise keep this one there.

        Args:
            kind: What the origin is, such as "model".
            name: Its name.
            digest_of: Function that returns what tells it from others; called if the study has a folder.
        """
        if self._out is None:
            return
        former, digest = self._origins.get(kind), digest_of()
        if former is not None and former["digest"] == digest:
            return
        if former is not None:
            raise RunFolderError(
                f"The study in {str(self._out)!r} is of another {kind} or of an earlier state of it, {former['name']}, "
                f"and not of {name}. Choose another folder."
            )
        self._origins[kind] = {"digest": digest, "name": name}
        self._write_plan(self._out)

    def check_going_on(self) -> None:
        """Raise KeyboardInterrupt if a part of the study was interrupted, so that no further one begins."""
        if self.interrupted:
            raise KeyboardInterrupt

    @property
    def folder(self) -> Path:
        """Folder of the runs and scans."""
        if self._out is not None:
            return self._out
        assert self._temporary is not None, "a StudyExecution is used in a with block"
        return Path(self._temporary.name)

    @property
    def hooked(self) -> HookedModel:
        """Model in this process."""
        if self._hooked is None:
            hooked = as_hooked(self.model, dtype=self.settings.dtype)
            self.check_origin("model", hooked.name, lambda: model_digest(hooked))
            self._hooked = hooked
        return self._hooked

    def sweep(self, features: Sequence[Any], part: str = "runs", **more: Any) -> Sweep:
        """Dream of features with the study's search, and return the finished runs.

        Args:
            features: Features.
            part: Name of the folder of the runs.
            **more: Further arguments of :func:`dreamy_lens.sweep`.

        Raises:
            KeyboardInterrupt: An earlier part of the study was interrupted.
            RunFolderError: No run is finished; the message gives the reason of the first.
        """
        self.check_going_on()
        given: dict[str, Any] = {"constraints": self.settings.constraints, "search": self.settings.searched}
        if self.ray is None:  # the model that this process has already
            given["model"] = self.hooked
        else:
            given |= {"model": self.model, "dtype": self.settings.dtype, "ray": self.ray}
        runs = sweep(list(features), out=self.folder / part, progress=self.progress, **{**given, **more})
        if "seeds" in more:  # the folder may have more, of a call before
            runs = runs.of(seed=range(more["seeds"]))
        planned, failed = len(runs.to_pandas()), runs.failed
        self.interrupted = len(runs) + len(failed) < planned
        if not len(runs):
            if self.interrupted:
                raise KeyboardInterrupt
            raise RunFolderError(
                f"No run of the study {self.name} is finished; the first failed: {failed['error'].iloc[0]}"
            )
        if len(runs) < planned:
            where = " Repeat the call with the same folder for the others." if self._out is not None else ""
            self.notes.append(f"{len(runs)} of {planned} runs are finished, and only these are counted.{where}")
        return runs

    def scan(self, features: Any, corpus: Any, part: str = "scan", **more: Any) -> Examples:
        """Scan a corpus for the windows that drive features most.

        Args:
            features: Features.
            corpus: Corpus, as :func:`dreamy_lens.max_activating` takes it.
            part: Name of the folder of the scan.
            **more: Settings of the scan.

        Raises:
            KeyboardInterrupt: An earlier part of the study was interrupted.
        """
        self.check_going_on()
        given: dict[str, Any] = {"length": self.settings.length}
        if self.ray is None:
            model: Any = self.hooked
        else:
            model, given = self.model, {**given, "dtype": self.settings.dtype, "ray": self.ray}
        out = self.folder / part if self._out is not None else None
        examples = max_activating(
            features, model, corpus, out=out, cache=False, progress=self.progress, **{**given, **more}
        )
        if not examples.header.get("complete", True):
            self.interrupted = True
            self.notes.append("The scan of the corpus was interrupted: it is of a part. Repeat the call to go on.")
        return examples

    def say(self, line: str) -> None:
        """Say what is done now, to a user who watches."""
        say(line, self.progress)

    def _code(self) -> str:
        """Return the program that makes the study again."""
        writer, usual = CallWriter(), type(self.settings)()
        given = {name: getattr(self.settings, name) for name in self.settings.setting_names()}
        changed = {name: value for name, value in given.items() if value != getattr(usual, name)}
        texts = [] if self.given_model is None else [writer.value("model", self.given_model)]
        texts += [f"{name}={writer.value(name, value)}" for name, value in changed.items()]
        return program(f"study = dl.studies.{self.name}({', '.join(texts)})", list(dict.fromkeys(writer.setup)))

    def result(
        self,
        tables: Mapping[str, pd.DataFrame],
        claims: Sequence[StudyClaim],
        charts: Sequence[StudyChart],
        model: str | None = None,
    ) -> StudyResult:
        """Return the result, and save it if the study has a folder. Verdicts on a part of the runs are not given."""
        if self.interrupted:
            claims = [
                dataclasses.replace(c, verdict=NOT_MEASURED) if c.verdict in (HOLDS, FAILS) else c for c in claims
            ]
        found = StudyResult(
            name=self.name,
            title=self.title,
            model=self.hooked.name if model is None else model,
            settings=self.settings.to_dict(),
            code=code_or_nothing(self._code),
            tables=dict(tables),
            claims=tuple(claims),
            charts=tuple(charts),
            notes=tuple(dict.fromkeys(self.notes)),
            seconds=time.monotonic() - self._began,
        )
        if self._out is not None:
            found.save(self._out)
        return found


def _long_form(name: str, value: Any) -> Any:
    """Return the texts of features in their long form, so that equal features are equal; other settings as they are."""
    if name not in ("feature", "features") or value is None:
        return value
    try:
        texts = [str(parse(each).absolute()) for each in (value if isinstance(value, list) else [value])]
    except FeatureError:
        return value
    return [feature_names(text)[1] for text in texts]


def merged_runs_of(runs: Sweep, features: Sequence[Feature]) -> dict[str, Merged]:
    """Return the merged runs of each feature that has a finished run, by its short name."""
    found: dict[str, Merged] = {}
    for feature in features:
        own = runs.of(feature)
        if len(own):
            short, long = feature_names(str(feature.absolute()))
            found[long if short in found else short] = own.merged()
    return found


def best_within(frontier: Frontier, limit: float) -> Prompt | None:
    """Return the strongest prompt of a frontier with at most this cross-entropy; None if no prompt is that fluent."""
    fluent = [p for p in frontier if p.cross_entropy <= limit]
    return fluent[-1] if fluent else None


def spaced(count: int, most: int) -> list[int]:
    """Return at most `most` numbers below `count`, evenly spaced, with both ends.

    >>> spaced(6, 7), spaced(24, 4), spaced(5, 1)
    ([0, 1, 2, 3, 4, 5], [0, 8, 15, 23], [2])
    """
    if count <= most:
        return list(range(count))
    if most == 1:
        return [(count - 1) // 2]
    return [round(float(x)) for x in np.linspace(0, count - 1, most)]
