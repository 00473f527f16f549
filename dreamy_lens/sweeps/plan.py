"""The plan of a sweep: its features, settings and seeds, the tasks they make, and the manifest in the folder."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dreamy_lens.cluster.model_ref import ModelRef
from dreamy_lens.errors import RunFolderError, SettingsError, quoted
from dreamy_lens.features.expressions import Feature
from dreamy_lens.features.parser import parse
from dreamy_lens.search.config import SearchConfig, configs_of_seeds
from dreamy_lens.search.constraint_kinds import Constraint, to_dict
from dreamy_lens.search.constraints import listed_constraints
from dreamy_lens.search.optimizers import as_settings, config_from_dict, config_to_dict

FORMAT = "dreamy_lens sweep"
VERSION = 1
MANIFEST = "sweep.json"

_NOT_IN_CONFIG = ("start", "constraints")
"""Entries of a dictionary of settings that are not fields of EPO."""


@dataclass(frozen=True)
class Setting:
    """A variant of the settings of a sweep.

    Attributes:
        config: Settings of the search; its seed is replaced by the seed of each run.
        given: Settings in which this variant differs from the common ones, for tables: `{"population": 4}`.
        start: Initial prompts in any form, or None.
        constraints: Constraints on prompts.
        named: Names of the settings that the user gave.
    """

    config: SearchConfig
    given: dict[str, Any]
    start: Any
    constraints: tuple[Constraint, ...]
    named: frozenset[str]

    @property
    def label(self) -> str:
        """Settings in which this variant differs from the common ones, as text: `population=4, length=6`."""
        return label_of(self.given)

    def to_dict(self) -> dict[str, Any]:
        """Return the variant as JSON values."""
        config = {name: value for name, value in config_to_dict(self.config).items() if name != "seed"}
        rules = [_plain(to_dict(rule)) for rule in self.constraints]
        return {"config": config, "given": _plain(self.given), "start": _plain(self.start), "constraints": rules}


@dataclass(frozen=True)
class SweepTask:
    """A planned run of a sweep: a feature, a variant of the settings, and a seed.

    Attributes:
        feature: Index of the feature among the sweep's features.
        setting: Index of the variant among the sweep's settings.
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
    """The runs of a sweep: one for each feature, variant of the settings, and seed.

    Attributes:
        features: Features, whose file paths are absolute.
        settings: Variants of the settings, at least one.
        seeds: Seeds of the runs of each feature and variant.
        model: Model whose activations the features read.
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
        seeds: Iterable[int] | int | None,
        settings: Sequence[Mapping[str, Any]] | None,
        start: Any,
        constraints: Sequence[Constraint] | Constraint,
        fluency_model: Any,
        search: SearchConfig | str | None,
        dtype: Any,
        common: dict[str, Any],
    ) -> Plan:
        """Return the plan for the arguments of :func:`dreamy_lens.sweep`, checked as far as possible without a model.

        Args:
            features: Features or their texts, one or several.
            model: Model whose activations the features read, in any form.
            seeds: Seeds of the runs; None is the single seed of the settings.
            settings: Variants of the settings, as dictionaries; None is one variant, the common settings.
            start: Initial prompts in any form, for variants that have none of their own.
            constraints: Constraints on prompts, for variants that have none of their own.
            fluency_model: Model whose cross-entropy counts as fluency, in any form; None is `model`.
            search: Common settings of the search; None is the default search of each variant's settings.
            dtype: Precision of a model that is loaded by name.
            common: Common settings that were given by keyword, which replace those of `search`.

        Raises:
            FeatureError: A feature does not parse.
            SettingsError: A setting is unknown or outside its range, a list is empty, or a feature or variant is given
                twice.
        """
        given = list(features) if isinstance(features, (list, tuple)) else [features]
        expressions = [parse(feature).absolute() for feature in given]
        if not expressions:
            raise SettingsError("The list of features is empty; give at least one feature.")
        texts = [str(feature) for feature in expressions]
        duplicate = next((text for text in texts if texts.count(text) > 1), None)
        if duplicate is not None:
            raise SettingsError(f"The feature {duplicate} is given twice; equal features make equal runs.")
        base = as_settings(search, common)
        not_in_config = {"start": start, "constraints": constraints}
        return cls(
            tuple(expressions),
            _settings(search, not_in_config, settings, common),
            tuple(config.seed for config in configs_of_seeds(base, seeds, common)),
            ModelRef.of(model, dtype),
            None if fluency_model is None else ModelRef.of(fluency_model),
        )

    @property
    def tasks(self) -> list[SweepTask]:
        """Every run, in the order of the features, then of the settings, then of the seeds."""
        return tasks_of(len(self.features), len(self.settings), self.seeds)

    def config(self, task: SweepTask) -> SearchConfig:
        """Return the configuration of one run."""
        return dataclasses.replace(self.settings[task.setting].config, seed=task.seed)

    def to_dict(self) -> dict[str, Any]:
        """Return the manifest, as the JSON values that a file with it would give back."""
        fluency = self.fluency_model
        content = {
            "format": FORMAT,
            "version": VERSION,
            "features": [str(feature) for feature in self.features],
            "labels": [feature.long_label for feature in self.features],
            "settings": [setting.to_dict() for setting in self.settings],
            "seeds": list(self.seeds),
            "model": self.model.identity,
            "fluency_model": None if fluency is None else fluency.identity,
        }
        return json.loads(json.dumps(content))


def tasks_of(features: int, settings: int, seeds: Iterable[int]) -> list[SweepTask]:
    """Return a task for each feature, variant of the settings, and seed.

    Args:
        features: Number of features.
        settings: Number of variants of the settings.
        seeds: Seeds of the runs.
    """
    seeds = list(seeds)
    return [SweepTask(f, s, seed) for f in range(features) for s in range(settings) for seed in seeds]


def label_of(given: Mapping[str, Any]) -> str:
    """Return settings as text: `population=4, length=6`."""
    return ", ".join(f"{name}={value}" for name, value in given.items())


def add_seeds(existing: dict[str, Any], requested: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the manifest of the sweep in a folder, with the new seeds of a requested sweep added.

    Args:
        existing: Manifest in the folder.
        requested: Manifest of the requested sweep.
        where: Name of the folder, for messages.

    Raises:
        RunFolderError: The manifests differ in more than seeds; the message names the first difference.
    """
    for key in ("model", "fluency_model", "features", "settings"):
        new, old = requested[key], existing.get(key)
        if key == "settings" and isinstance(old, list):
            new, old = ([_comparable(setting) for setting in settings] for settings in (new, old))
        if new == old:
            continue
        raise RunFolderError(
            f"The sweep in {where} is another one: {_difference(key, old, new)}. Only seeds may be added to a sweep; "
            "choose another folder for any other change."
        )
    return {**existing, "seeds": list(dict.fromkeys([*existing["seeds"], *requested["seeds"]]))}


def _comparable(setting: dict[str, Any]) -> dict[str, Any]:
    """Return a variant as it is compared with another.

    Its search has the defaults of settings that the version which wrote it did not have. What was given is left out: it
    depends on how the user wrote the settings.
    """
    config = setting.get("config")
    with contextlib.suppress(SettingsError, TypeError, ValueError):
        complete = json.loads(json.dumps(config_to_dict(config_from_dict(config or {}))))
        config = {name: value for name, value in complete.items() if name != "seed"}
    return {**setting, "config": config, "given": None}


def _difference(name: str, old: Any, new: Any) -> str:
    """Return a clause that names the first difference between two JSON values."""
    if isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            return f"it has {len(old)} {name}, and {len(new)} were requested"
        number = next(i for i, pair in enumerate(zip(old, new, strict=True)) if pair[0] != pair[1])
        return _difference(f"{name}[{number}]", old[number], new[number])
    if isinstance(old, dict) and isinstance(new, dict):
        key = next(key for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key))
        return _difference(f"{name}: {key}", old.get(key), new.get(key))
    return f"its {name} is {old!r}, and {new!r} was requested"


def _settings(
    search: SearchConfig | str | None, not_in_config: dict[str, Any], settings: Any, common: dict[str, Any]
) -> tuple[Setting, ...]:
    """Return the variants of the settings.

    Args:
        search: Common settings of the search, for variants that name no other search.
        not_in_config: Common start and constraints.
        settings: Variants as the user gave them.
        common: Common settings that the user gave by keyword.
    """
    if settings is None:
        settings = [{}]
    if isinstance(settings, Mapping) or not all(isinstance(variant, Mapping) for variant in settings):
        raise SettingsError(
            f"settings is a list of dictionaries, such as [{{'length': 4}}, {{'length': 8}}]; got {quoted(settings)}. "
            "Settings that all runs share are keywords: sweep(..., length=8)."
        )
    variants = []
    for variant in settings:
        if "seed" in variant:
            raise SettingsError("settings has a seed; give seeds=[...], which all variants share.")
        own = {name: value for name, value in variant.items() if name not in (*_NOT_IN_CONFIG, "search")}
        other = not_in_config | {name: value for name, value in variant.items() if name in _NOT_IN_CONFIG}
        rules = listed_constraints(other["constraints"])
        config = as_settings(variant.get("search", search), common | own)
        given = own | ({"search": type(config).__name__} if "search" in variant else {})
        given |= {name: _summary(name, variant[name]) for name in _NOT_IN_CONFIG if name in variant}
        variants.append(Setting(config, given, other["start"], rules, frozenset(common | own)))
    if not variants:
        raise SettingsError("settings is empty; leave it out, or give at least one dictionary.")
    contents = [{**variant.to_dict(), "given": None} for variant in variants]
    for number, content in enumerate(contents):
        if content in contents[:number]:
            raise SettingsError(
                f"settings[{number}] makes the same runs as settings[{contents.index(content)}]; leave it out."
            )
    return tuple(variants)


def _summary(name: str, value: Any) -> Any:
    """Return a short text for a start or for constraints, for tables."""
    if name == "constraints":
        return "; ".join(rule.describe() for rule in listed_constraints(value))
    return value if isinstance(value, str) or value is None else "ids"


def _plain(value: Any) -> Any:
    """Return a value as JSON values: a number, a text, an array, or a list or dictionary of them."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # arrays of numpy, and tensors of torch
        return value.tolist()
    return value if value is None or isinstance(value, (str, int, float, bool)) else repr(value)
