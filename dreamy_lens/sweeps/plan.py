"""The plan of a sweep: features, settings and seeds, as tasks with names, and as a manifest in its folder."""

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
from dreamy_lens.search.config import EPOConfig, configs_of_seeds
from dreamy_lens.search.constraints import Constraint, to_dict

FORMAT = "dreamy_lens sweep"
VERSION = 1
MANIFEST = "sweep.json"

_NOT_IN_CONFIG = ("start", "constraints")
"""Entries of a dictionary of settings that are not fields of EPOConfig."""


@dataclass(frozen=True)
class Setting:
    """One variant of the settings of a sweep.

    Attributes:
        config: Settings of EPO; each run has its own seed.
        given: Settings that are particular to this variant, for tables: `{"population": 4}`.
        start: Initial prompts in any form, or None.
        constraints: Constraints on prompts.
        named: Names of the settings that the user gave.
    """

    config: EPOConfig
    given: dict[str, Any]
    start: Any
    constraints: tuple[Constraint, ...]
    named: frozenset[str]

    @property
    def label(self) -> str:
        """The settings that are particular to this variant, as text: `population=4, length=6`."""
        return label_of(self.given)

    def to_dict(self) -> dict[str, Any]:
        """Return the variant as JSON values."""
        config = {name: value for name, value in dataclasses.asdict(self.config).items() if name != "seed"}
        rules = [_plain(to_dict(rule)) for rule in self.constraints]
        return {"config": config, "given": _plain(self.given), "start": _plain(self.start), "constraints": rules}


@dataclass(frozen=True)
class SweepTask:
    """One run of a sweep.

    Attributes:
        name: Name of the run's folder.
        feature: Number of the feature among the sweep's features.
        setting: Number of the variant among the sweep's settings.
        seed: Seed of the run.
    """

    feature: int
    setting: int
    seed: int

    @property
    def name(self) -> str:
        """Name of the run's folder and of its result."""
        return f"feature-{self.feature:03d}-setting-{self.setting:02d}-seed-{self.seed}"


@dataclass(frozen=True)
class Plan:
    """The runs of a sweep, checked as far as that can be without a model.

    Attributes:
        features: Expressions, with absolute paths.
        settings: Variants of the settings, at least one.
        seeds: Seeds of each feature and variant.
        model: Model to dream of.
        fluency_model: Model whose cross-entropy counts as fluency; None is `model`.
    """

    features: tuple[Feature, ...]
    settings: tuple[Setting, ...]
    seeds: tuple[int, ...]
    model: ModelRef
    fluency_model: ModelRef | None

    @classmethod
    def from_arguments(
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
        """Make the plan of the arguments of `sweep()`.

        Raises:
            FeatureError: A feature does not parse.
            SettingsError: A setting is unknown or outside its range; something is empty, or is there twice.
        """
        given = list(features) if isinstance(features, (list, tuple)) else [features]
        expressions = [parse(feature).absolute() for feature in given]
        if not expressions:
            raise SettingsError("There is no feature: the list is empty.")
        texts = [str(feature) for feature in expressions]
        twice = next((text for text in texts if texts.count(text) > 1), None)
        if twice is not None:
            raise SettingsError(f"The feature {twice} is there twice; equal ones make equal runs.")
        base = EPOConfig.from_settings(config, common)
        beside = {"start": start, "constraints": constraints}
        return cls(
            tuple(expressions),
            _settings(base, beside, settings, set(common)),
            tuple(config.seed for config in configs_of_seeds(base, seeds, common)),
            ModelRef.of(model, dtype),
            None if fluency_model is None else ModelRef.of(fluency_model),
        )

    @property
    def tasks(self) -> list[SweepTask]:
        """Every run, feature by feature, setting by setting, and seed by seed within each."""
        return tasks_of(len(self.features), len(self.settings), self.seeds)

    def config(self, task: SweepTask) -> EPOConfig:
        """Return the configuration of one run."""
        return dataclasses.replace(self.settings[task.setting].config, seed=task.seed)

    def to_dict(self) -> dict[str, Any]:
        """Return the manifest, as the JSON values that come back from a file."""
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
    """Return the tasks of so many features and settings."""
    seeds = list(seeds)
    return [SweepTask(f, s, seed) for f in range(features) for s in range(settings) for seed in seeds]


def label_of(given: Mapping[str, Any]) -> str:
    """Return settings as text."""
    return ", ".join(f"{name}={value}" for name, value in given.items())


def add_seeds(existing: dict[str, Any], asked: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the manifest of a folder's sweep, with the seeds that are new.

    Args:
        existing: Manifest in the folder.
        asked: Manifest of the sweep that is asked for.
        where: Folder, for messages.

    Raises:
        RunFolderError: The manifests differ in something else; the message says in what.
    """
    for what in ("model", "fluency_model", "features", "settings"):
        mine, own = asked[what], existing.get(what)
        if what == "settings" and isinstance(own, list):  # how they were written down makes no difference
            mine, own = ([{**one, "given": None} for one in both] for both in (mine, own))
        if mine == own:
            continue
        raise RunFolderError(
            f"The sweep in {where} is another one: {_difference(what, own, mine)}. Seeds may be added to a sweep, and "
            "nothing else changes; choose another folder for another sweep."
        )
    return {**existing, "seeds": list(dict.fromkeys([*existing["seeds"], *asked["seeds"]]))}


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
        own = {name: value for name, value in one.items() if name not in _NOT_IN_CONFIG}
        more = beside | {name: value for name, value in one.items() if name in _NOT_IN_CONFIG}
        rules = more["constraints"]
        rules = (rules,) if isinstance(rules, Constraint) else tuple(rules)
        given = own | {name: _summary(name, one[name]) for name in _NOT_IN_CONFIG if name in one}
        found.append(
            Setting(EPOConfig.from_settings(base, own), given, more["start"], rules, frozenset(common | own.keys()))
        )
    if not found:
        raise SettingsError("settings is empty; leave it out, or give at least one.")
    whole = [{**setting.to_dict(), "given": None} for setting in found]
    for number, one in enumerate(whole):
        if one in whole[:number]:
            raise SettingsError(
                f"settings[{number}] makes the same runs as settings[{whole.index(one)}]; leave it out."
            )
    return tuple(found)


def _summary(name: str, value: Any) -> Any:
    """Return a start or constraints as text, for tables."""
    if name == "constraints":
        rules = (value,) if isinstance(value, Constraint) else tuple(value)
        return "; ".join(rule.describe() for rule in rules)
    return value if isinstance(value, str) or value is None else "ids"


def _plain(value: Any) -> Any:
    """Return numbers, texts, arrays, and lists and dictionaries of them as JSON values."""
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if hasattr(value, "tolist"):  # numpy's, and torch's
        return value.tolist()
    return value if value is None or isinstance(value, (str, int, float, bool)) else repr(value)
