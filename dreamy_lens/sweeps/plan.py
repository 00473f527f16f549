"""What a sweep consists of: features, settings and seeds, as runs with names, and as a manifest in its folder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dreamy_lens.cluster.model_ref import ModelRef
from dreamy_lens.errors import RunFolderError, SettingsError
from dreamy_lens.features.expressions import Feature
from dreamy_lens.features.parser import parse
from dreamy_lens.search.config import EPOConfig
from dreamy_lens.search.constraints import Constraint, to_dict

FORMAT = "dreamy_lens sweep"
VERSION = 1
MANIFEST = "sweep.json"

_BESIDE = ("start", "constraints")
"""What a dictionary of settings may have besides EPO's."""


@dataclass(frozen=True)
class Setting:
    """One of a sweep's settings.

    Attributes:
        config: EPO's; its seed is each run's own.
        given: what is particular to it, for tables: `{"population": 4}`.
        start: initial prompts in any form, or None.
        constraints: on prompts.
        named: the settings that the user wrote out.
    """

    config: EPOConfig
    given: dict[str, Any]
    start: Any
    constraints: tuple[Constraint, ...]
    named: frozenset[str]

    @property
    def label(self) -> str:
        """In words: `population=4, length=6`; empty if nothing is particular to it."""
        return label_of(self.given)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        config = {name: value for name, value in dataclasses.asdict(self.config).items() if name != "seed"}
        rules = [_plain(to_dict(rule)) for rule in self.constraints]
        return {"config": config, "given": _plain(self.given), "start": _plain(self.start), "constraints": rules}


@dataclass(frozen=True)
class SweepTask:
    """One run of a sweep.

    Attributes:
        name: of its folder.
        feature: its number among the sweep's features.
        setting: its number among the settings.
        seed: its seed.
    """

    feature: int
    setting: int
    seed: int

    @property
    def name(self) -> str:
        """Of its folder, and of its result."""
        return f"feature-{self.feature:03d}-setting-{self.setting:02d}-seed-{self.seed}"


@dataclass(frozen=True)
class Plan:
    """All that is to be done, checked as far as that can be without a model.

    Attributes:
        features: expressions, with absolute paths.
        settings: at least one.
        seeds: of each.
        model: as it is sent to workers.
        fluency_model: likewise, if it is another one.
    """

    features: tuple[Feature, ...]
    settings: tuple[Setting, ...]
    seeds: tuple[int, ...]
    model: ModelRef
    fluency_model: ModelRef | None

    @classmethod
    def of(
        cls,
        features: Any,
        model: Any,
        *,
        seeds: Iterable[int] | None,
        settings: Sequence[Mapping[str, Any]] | None,
        start: Any,
        constraints: Sequence[Constraint] | Constraint,
        fluency_model: Any,
        config: EPOConfig | None,
        dtype: Any,
        common: dict[str, Any],
    ) -> Plan:
        """From the arguments of `sweep()`.

        Raises:
            FeatureError: a feature does not parse.
            SettingsError: a setting is unknown or outside its range; something is empty, or is there twice.
        """
        listed = list(features) if isinstance(features, (list, tuple)) else [features]
        found = [parse(feature).absolute() for feature in listed]
        if not found:
            raise SettingsError("There is no feature: the list is empty.")
        texts = [str(feature) for feature in found]
        twice = next((text for text in texts if texts.count(text) > 1), None)
        if twice is not None:
            raise SettingsError(f"The feature {twice} is there twice; equal ones make equal runs.")
        base = EPOConfig.of(config, common)
        beside = {"start": start, "constraints": constraints}
        return cls(
            tuple(found),
            _settings(base, beside, settings, set(common)),
            _seeds(base, seeds, common),
            ModelRef.of(model, dtype),
            None if fluency_model is None else ModelRef.of(fluency_model),
        )

    @property
    def tasks(self) -> list[SweepTask]:
        """Every run, feature by feature, setting by setting, and seed by seed within each."""
        return tasks_of(len(self.features), len(self.settings), self.seeds)

    def config(self, task: SweepTask) -> EPOConfig:
        """Of one run."""
        return dataclasses.replace(self.settings[task.setting].config, seed=task.seed)

    def to_dict(self) -> dict[str, Any]:
        """The manifest, as JSON values, just as they come back from a file."""
        fluency = self.fluency_model
        content = {
            "format": FORMAT,
            "version": VERSION,
            "features": [str(feature) for feature in self.features],
            "labels": [feature.label for feature in self.features],
            "settings": [setting.to_dict() for setting in self.settings],
            "seeds": list(self.seeds),
            "model": self.model.identity,
            "fluency_model": None if fluency is None else fluency.identity,
        }
        return json.loads(json.dumps(content))


def tasks_of(features: int, settings: int, seeds: Iterable[int]) -> list[SweepTask]:
    """Every run of so many features and settings."""
    seeds = list(seeds)
    return [SweepTask(f, s, seed) for f in range(features) for s in range(settings) for seed in seeds]


def label_of(given: Mapping[str, Any]) -> str:
    """What is particular to a setting, in words."""
    return ", ".join(f"{name}={value}" for name, value in given.items())


def joined(there: dict[str, Any], asked: dict[str, Any], where: str) -> dict[str, Any]:
    """The manifest of a folder's sweep that goes on: the same, with the seeds that are new.

    Args:
        there: what the folder has.
        asked: what is to be done.
        where: the folder, for messages.

    Raises:
        RunFolderError: they differ in something else; it says in what.
    """
    for what in ("model", "fluency_model", "features", "settings"):
        mine, own = asked[what], there.get(what)
        if what == "settings" and isinstance(own, list):  # how they were written down makes no difference
            mine, own = ([{**one, "given": None} for one in both] for both in (mine, own))
        if mine == own:
            continue
        raise RunFolderError(
            f"The sweep in {where} is another one: {_difference(what, own, mine)}. Seeds may be added to a sweep, and "
            "nothing else changes; choose another folder for another sweep."
        )
    return {**there, "seeds": list(dict.fromkeys([*there["seeds"], *asked["seeds"]]))}


def _difference(what: str, own: Any, mine: Any) -> str:
    if isinstance(own, list) and isinstance(mine, list):
        if len(own) != len(mine):
            return f"it has {len(own)} {what}, and {len(mine)} were asked for"
        number = next(i for i, pair in enumerate(zip(own, mine, strict=True)) if pair[0] != pair[1])
        return _difference(f"{what}[{number}]", own[number], mine[number])
    if isinstance(own, dict) and isinstance(mine, dict):
        name = next(name for name in dict.fromkeys([*own, *mine]) if own.get(name) != mine.get(name))
        return _difference(f"{what}: {name}", own.get(name), mine.get(name))
    return f"its {what} is {own!r}, and {mine!r} was asked for"


def _settings(base: EPOConfig, beside: dict[str, Any], settings: Any, common: set[str]) -> tuple[Setting, ...]:
    if settings is None:
        settings = [{}]
    if isinstance(settings, Mapping) or not all(isinstance(one, Mapping) for one in settings):
        raise SettingsError(
            f"settings is a list of dictionaries, such as [{{'length': 4}}, {{'length': 8}}]; got {settings!r}. "
            "What all runs share is given as keywords: sweep(..., length=8)."
        )
    found = []
    for one in settings:
        if "seed" in one:
            raise SettingsError("settings has a seed; give seeds=[...] for all of them.")
        own = {name: value for name, value in one.items() if name not in _BESIDE}
        more = beside | {name: value for name, value in one.items() if name in _BESIDE}
        rules = more["constraints"]
        rules = (rules,) if isinstance(rules, Constraint) else tuple(rules)
        given = own | {name: _word(name, one[name]) for name in _BESIDE if name in one}
        found.append(Setting(EPOConfig.of(base, own), given, more["start"], rules, frozenset(common | own.keys())))
    if not found:
        raise SettingsError("settings is empty; leave it out, or give at least one.")
    whole = [{**setting.to_dict(), "given": None} for setting in found]
    for number, one in enumerate(whole):
        if one in whole[:number]:
            raise SettingsError(
                f"settings[{number}] makes the same runs as settings[{whole.index(one)}]; leave it out."
            )
    return tuple(found)


def _word(name: str, value: Any) -> Any:
    """A start or constraints, for tables."""
    if name == "constraints":
        rules = (value,) if isinstance(value, Constraint) else tuple(value)
        return "; ".join(rule.describe() for rule in rules)
    return value if isinstance(value, str) or value is None else "ids"


def _seeds(base: EPOConfig, seeds: Iterable[int] | None, common: dict[str, Any]) -> tuple[int, ...]:
    from dreamy_lens.api.dream import _seeded

    return tuple(config.seed for config in _seeded(base, seeds, common))


def _plain(value: Any) -> Any:
    """JSON values of numbers, texts, arrays, and lists and dictionaries of them."""
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if hasattr(value, "tolist"):  # numpy's, and torch's
        return value.tolist()
    return value if value is None or isinstance(value, (str, int, float, bool)) else repr(value)
