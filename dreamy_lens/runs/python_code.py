"""Python code that makes a result again: a run, several runs, or the attribution of a prompt.

Panels copy these texts to the clipboard. A text runs by itself, in a new Python session: it imports what it uses.
Only a feature that is an object of the user's session, or a model whose weights were changed, has to be filled in; a
comment says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dreamy_lens.errors import FeatureError
from dreamy_lens.features.parser import parse
from dreamy_lens.models.embedded import EMBEDDED_NAME
from dreamy_lens.search.config import SearchConfig
from dreamy_lens.search.constraints import python_literal
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


def program(code: str, setup: Sequence[str] = ()) -> str:
    """Return a complete program.

    Args:
        code: Code that uses `dl`.
        setup: Lines before it, such as comments and the loading of a model.
    """
    return "\n".join(["import dreamy_lens as dl", "", *setup, code])


def run_code(run: RecordedRun) -> str:
    """Return the program that makes a run again.

    Args:
        run: Run, whose settings are written where they differ from the defaults.
    """
    call = _Call.of(run)
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
        keywords = {**call.others, "iterations": "0"}
        keywords.pop("start", None)
        one_length = run.config.least_length == run.config.length
        if one_length and run.config.length != type(run.config)().length:
            keywords["length"] = repr(run.config.length)
        text = f"run = {_Call(call.feature, call.seed, keywords, []).text()}"
        comment = "# A run of 0 iterations has the feature, the template and the constraints."
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
    name, setup = _feature(feature)
    keywords = {} if model in ("", EMBEDDED_NAME) else {"model": python_literal(model)}
    return program(_attribution(name, keywords | _around(prepend_bos, prefix, suffix, k)), setup)


def scorer_code(scorer: Scorer) -> str:
    """Return the program that makes an attribution with a scorer, with a hole for the prompt's ids.

    Args:
        scorer: Scorer whose feature, models and template are used.
    """
    name, setup = _feature(str(scorer.bound.feature))
    keywords, lines = _model("model", scorer.model, None, "")
    if scorer.fluency is not scorer.model:
        more, others = _model("fluency_model", scorer.fluency, None, "")
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
        feature, setup = _feature(origin.feature)
        saved = run.identity or {}
        keywords, lines = _model("model", spec.model, origin.model, saved.get("dtype"))
        if run.fluency_name is not None:
            dtype = (saved.get("fluency") or {}).get("dtype")
            more, others = _model("fluency_model", spec.fluency_model, run.fluency_name, dtype)
            keywords, lines = keywords | more, lines + others
        settings = _settings(config, has_start=spec.start is not None)
        if type(config) is default_search():
            keywords |= settings
        else:
            where = "dl." if type(config).__module__.startswith("dreamy_lens.") else ""
            if not where:
                lines.append(f"from {type(config).__module__} import {type(config).__qualname__}")
            listed = ", ".join(f"{name}={value}" for name, value in settings.items())
            keywords["search"] = f"{where}{type(config).__name__}({listed})"
        if spec.start is not None:
            rows = [without_empty(row).tolist() for row in spec.start]
            keywords["start"] = repr(rows[0] if len(rows) == 1 else rows)
        if spec.constraints:
            keywords["constraints"] = f"[{', '.join(constraint.code() for constraint in spec.constraints)}]"
        return cls(feature, config.seed, keywords, [*setup, *lines])

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


def _feature(text: str) -> tuple[str, list[str]]:
    """Return a feature as a Python argument, and lines before the call."""
    own = "feature", [f"# feature is an object of your own Python session: {text!r}"]
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


def _model(keyword: str, model: Any, name: str | None, dtype: str | None) -> tuple[dict[str, str], list[str]]:
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
