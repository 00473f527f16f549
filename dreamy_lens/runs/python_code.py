"""Python code that makes a result again: a run, several runs, or the attribution of a prompt.

Panels copy these texts to the clipboard. A text runs by itself, in a new Python session: it imports what it uses.
Only a feature that is an object of the user's session, or a model whose weights were changed, has to be filled in; a
comment says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dreamy_lens._literals import python_literal
from dreamy_lens.errors import FeatureError
from dreamy_lens.features.parser import parse
from dreamy_lens.models.embedded import EMBEDDED_NAME
from dreamy_lens.search.config import SearchConfig
from dreamy_lens.search.lengths import without_empty
from dreamy_lens.search.optimizers import default_search

if TYPE_CHECKING:
    from dreamy_lens.runs.recorded_run import RecordedRun
    from dreamy_lens.scoring.scorer import Scorer

HOLE = "\0"
"""Place of a value that a view fills in: the ids of the prompt that it shows, or the limit that is set. No text that is
written as Python has this character."""

BEST = f"prompt = run.frontier.best(max_cross_entropy={HOLE})\nprint(prompt)"
"""Code after that of a run, for the strongest prompt under a limit of cross-entropy."""


_START = ("import dreamy_lens as dl", "")


def program(code: str, setup: Sequence[str] = ()) -> str:
    """Return a complete program.

    Args:
        code: Code that uses `dl`.
        setup: Lines before it, such as comments and the loading of a model.
    """
    return "\n".join([*_START, *setup, code])


def body_of(code: str) -> list[str]:
    """Return the lines of a complete program after the import of the package.

    Args:
        code: Program of :func:`program`.
    """
    return code.split("\n")[len(_START) :]


def run_code(run: RecordedRun, empty: bool = False) -> str:
    """Return the program that makes a run again.

    Args:
        run: Run, whose settings are written where they differ from the defaults.
        empty: Whether the program makes a run of no iterations, which has the feature, the models, the template and
            the constraints of the run.
    """
    call = _Call.of(run)
    if empty:
        return program(f"run = {call.empty(run).text()}", call.setup)
    shown = [] if run.active or run.finished else [f"# The run that was shown had completed {run.done_text}."]
    return program(f"run = {call.text()}", [*call.setup, *shown])


def runs_code(runs: Sequence[RecordedRun]) -> str:
    """Return the program that makes several runs again, in one call if they differ only in feature and seed.

    Args:
        runs: Runs in order.
    """
    calls = [_Call.of(run) for run in runs]
    setup = list(dict.fromkeys(line for call in calls for line in call.setup))
    features, seeds = (
        list(dict.fromkeys(values)) for values in zip(*((c.feature, c.seed) for c in calls), strict=True)
    )
    grid = [(feature, seed) for feature in features for seed in seeds]
    if grid == [(c.feature, c.seed) for c in calls] and len({tuple(c.others.items()) for c in calls}) == 1:
        feature = features[0] if len(features) == 1 else f"[{', '.join(features)}]"
        call = _Call(feature, 0, {"seeds": repr(seeds), **calls[0].others}, [])
        return program(f"runs = {call.text()}", setup)
    listed = "".join(f"    {call.text()},\n" for call in calls)
    return program(f"runs = [\n{listed}]\npanel = dl.panels.RunsPanel(runs)", setup)


def prompt_code(run: RecordedRun) -> str:
    """Return the program that makes the attribution of a prompt under a run's feature, with a hole for the ids.

    Args:
        run: Run whose feature, models, template and constraints are used.
    """
    call, origin = _Call.of(run), run.provenance
    if run.constraints:  # they restrict the substitutes, and a run of no iterations knows them
        comment = "# A run of 0 iterations has the feature, the template and the constraints."
        text = f"run = {call.empty(run).text()}"
        return program(f"{text}\nattribution = run.attribution([{HOLE}])", [*call.setup, comment])
    kept = {name: call.others[name] for name in ("model", "fluency_model") if name in call.others}
    more = {"prepend_bos": repr(origin.prepend_bos)} if run.config.prepend_bos is not None else {}
    return program(_attribution(call.feature, kept | more), call.setup)


def attribution_code(
    feature: str,
    model: str,
    prepend_bos: bool | None = None,
    prefix: Sequence[int] = (),
    suffix: Sequence[int] = (),
    k: int = 32,
) -> str:
    """Return the program that makes an attribution, with a hole for the prompt's ids.

    Args:
        feature: Text of the feature.
        model: Name or folder of the model; "" if it is unknown.
        prepend_bos: Whether a BOS token stands before the prompt; None is the model's convention.
        prefix: Token ids of a template before the prompt.
        suffix: Token ids of a template after the prompt.
        k: Number of substitutes that are tried at each position.
    """
    name, setup = feature_argument(feature)
    keywords = {} if model in ("", EMBEDDED_NAME) else {"model": python_literal(model)}
    return program(_attribution(name, keywords | _around(prepend_bos, prefix, suffix, k)), setup)


def scorer_code(scorer: Scorer) -> str:
    """Return the program that makes an attribution with a scorer, with a hole for the prompt's ids.

    Args:
        scorer: Scorer whose feature, models and template are used.
    """
    name, setup = feature_argument(str(scorer.bound.feature))
    keywords, lines = model_argument("model", scorer.model, None, "")
    if scorer.fluency is not scorer.model:
        more, others = model_argument("fluency_model", scorer.fluency, None, "")
        keywords, lines = keywords | more, lines + others
    if scorer.origin is None:
        around = _around(scorer.prepend_bos, scorer.prefix, scorer.suffix)
    else:
        around = {"contexts": scorer.origin.code(), "prepend_bos": repr(scorer.prepend_bos)}
    if scorer.prepend_bos == bool(scorer.model.bos(None)):
        around.pop("prepend_bos")
    return program(_attribution(name, keywords | around), [*setup, *lines])


def model_setup(name: str) -> str:
    """Return the line that loads a model of the user's session by its name.

    Args:
        name: Name of the model.
    """
    return f"model = dl.load_model({python_literal(name)})  # if its weights were changed, use the model itself"


@dataclasses.dataclass(frozen=True)
class _Call:
    """Call of `dl.dream`: the feature, the seed, the other keywords as Python, and lines before the call."""

    feature: str
    seed: int
    others: dict[str, str]
    setup: list[str]

    @classmethod
    def of(cls, run: RecordedRun) -> _Call:
        origin, config, spec = run.provenance, run.config, run.recorded_spec
        feature, setup = feature_argument(origin.feature)
        saved = run.identity or {}
        keywords, lines = model_argument("model", spec.model, origin.model, saved.get("dtype"))
        if run.fluency_name is not None:
            dtype = (saved.get("fluency") or {}).get("dtype")
            more, others = model_argument("fluency_model", spec.fluency_model, run.fluency_name, dtype)
            keywords, lines = keywords | more, lines + others
        settings = _settings(config, has_start=spec.start is not None)
        if type(config) is default_search():
            keywords |= settings
        else:
            keywords["search"], more = _search(config, settings)
            lines = [*lines, *more]
        if spec.start is not None:
            rows = [without_empty(row).tolist() for row in spec.start]
            keywords["start"] = repr(rows[0] if len(rows) == 1 else rows)
        if spec.constraints:
            keywords["constraints"] = f"[{', '.join(constraint.code() for constraint in spec.constraints)}]"
        return cls(feature, config.seed, keywords, [*setup, *lines])

    def empty(self, run: RecordedRun) -> _Call:
        """Return the call of a run of no iterations, which has the models, the template and the constraints."""
        kept = {n: self.others[n] for n in ("model", "fluency_model", "constraints") if n in self.others}
        config, keywords = run.config, {**kept, "iterations": "0"}
        if config.prepend_bos is not None:
            keywords["prepend_bos"] = repr(config.prepend_bos)
        if run.constraints and config.least_length < config.length:
            keywords["length"] = repr((config.least_length, config.length))
        elif run.constraints and config.length != type(config)().length:
            keywords["length"] = repr(config.length)
        return _Call(self.feature, 0, keywords, [line for line in self.setup if not line.startswith("from ")])

    def text(self) -> str:
        keywords = {name: value for name, value in self.others.items() if name != "seeds"}
        order = {"model": keywords.pop("model")} if "model" in keywords else {}
        if "seeds" in self.others:
            order["seeds"] = self.others["seeds"]
        elif self.seed:
            order["seed"] = repr(self.seed)
        listed = [f"{name}={value}" for name, value in (order | keywords).items()]
        return f"dl.dream({', '.join([self.feature, *listed])})"


def _settings(config: SearchConfig, has_start: bool) -> dict[str, str]:
    """Return the settings that differ from the defaults, as Python; the seed is written by the call."""
    budgets = {name: getattr(config, name) for name in ("seconds", "prompts", "until")}
    plain = type(config)(**budgets)  # the default number of iterations depends on the other budgets
    names = [field.name for field in dataclasses.fields(config) if field.init and field.name != "seed"]
    values = {name: getattr(config, name) for name in names if not (name == "length" and has_start)}
    shortest = values.pop("shortest", None)
    if shortest is not None:
        values["length"] = (shortest, config.length)
    return {
        name: repr(value)
        for name, value in values.items()
        if value != getattr(plain, name) or (name in budgets and value is not None)
    }


def _search(config: SearchConfig, settings: Mapping[str, str]) -> tuple[str, list[str]]:
    """Return the settings of a search as Python, and lines before the call."""
    own = type(config).__module__.startswith("dreamy_lens.")
    lines = [] if own else [f"from {type(config).__module__} import {type(config).__qualname__}"]
    listed = ", ".join(f"{name}={value}" for name, value in settings.items())
    return f"{'dl.' if own else ''}{type(config).__name__}({listed})", lines


def search_argument(config: SearchConfig) -> tuple[str, list[str]]:
    """Return the settings of a search as a Python argument, and lines before the call.

    Args:
        config: Settings.
    """
    settings = _settings(config, has_start=False)
    return _search(config, {"seed": repr(config.seed), **settings} if config.seed else settings)


def session_argument(name: str, what: str, setup: list[str]) -> str:
    """Return the name of an object of the user's session as a Python argument, and add a comment on it.

    Args:
        name: Name of the argument.
        what: Description of the object.
        setup: Lines before the call, to which the comment is added.
    """
    setup.append(f"# {name} is an object of your own Python session: {what}")
    return name


def feature_argument(text: str) -> tuple[str, list[str]]:
    """Return a feature as a Python argument, and lines before the call.

    Args:
        text: Text of the feature.
    """
    own: tuple[str, list[str]] = ("feature", [])
    session_argument(own[0], repr(text), own[1])
    if 'custom("' in text:  # the text of a function of the user is valid only in the session that defined it
        return own
    try:
        feature = parse(text)
    except FeatureError:  # an object in memory, or a path that no longer exists
        return own
    try:
        short = str(parse(feature.label)) == str(feature)
    except FeatureError:
        short = False
    return python_literal(feature.label if short else text), []


def model_argument(keyword: str, model: Any, name: str | None, dtype: str | None) -> tuple[dict[str, str], list[str]]:
    """Return a model as a keyword in Python, and lines before the call.

    Args:
        keyword: Name of the keyword.
        model: HookedModel; or for a run from a folder the model or name that the user gave, or None.
        name: Name of the model; None is that of the HookedModel.
        dtype: Precision of the model; None or "" if unknown.
    """
    name = str(model.name if name is None else name)
    if name == EMBEDDED_NAME and dtype in (None, "", "float32"):
        return {}, []
    if getattr(model, "loaded_by_name", True) and dtype in (None, "", "float32"):
        return {keyword: python_literal(name)}, []
    precision = f", dtype={python_literal(dtype)}" if dtype and dtype != "float32" else ""
    line = f"{keyword} = dl.load_model({python_literal(name)}{precision})"
    own = "" if getattr(model, "loaded_by_name", True) else "  # if its weights were changed, use the model itself"
    return {keyword: keyword}, [line + own]


def _around(prepend_bos: bool | None, prefix: Sequence[int], suffix: Sequence[int], k: int = 32) -> dict[str, str]:
    given: Mapping[str, tuple[Any, Any]] = {
        "k": (k, 32),
        "prepend_bos": (prepend_bos, None),
        "prefix": ([int(i) for i in prefix], []),
        "suffix": ([int(i) for i in suffix], []),
    }
    return {name: repr(value) for name, (value, default) in given.items() if value != default}


def _attribution(feature: str, keywords: Mapping[str, str]) -> str:
    listed = "".join(f", {name}={value}" for name, value in keywords.items())
    return f"attribution = dl.attribution({feature}, [{HOLE}]{listed})"
