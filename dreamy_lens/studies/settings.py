"""Settings that every study has, and how a call chooses them: the paper's, the quick ones, and those of the user."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np

from dreamy_lens.api.signatures import show_settings
from dreamy_lens.errors import SettingsError, quoted, unknown_setting
from dreamy_lens.features.expressions import Feature
from dreamy_lens.search.config import SearchConfig, lengths_text
from dreamy_lens.search.epo_config import EPO
from dreamy_lens.search.optimizers import as_settings

S = TypeVar("S", bound="StudySettings")


@dataclass(frozen=True)
class StudySettings:
    """Settings that every study has. They are also keywords of the studies.

    Attributes:
        search: Settings of the search, such as `dl.FrontierSearch()`, or its name; None is EPO with the settings of the
            paper's Table 1.
        iterations: Largest number of iterations of a run; None is that of `search`.
        seconds: Largest number of seconds of a run; None is no limit.
        length: Number of tokens of a prompt.
        limit: Largest cross-entropy of a fluent prompt, in nats per token.
        constraints: Constraints on all prompts.
        dtype: Precision of a model that is given by name, such as "bfloat16"; None is float32.

    >>> StudySettings.chosen(quick=False, given={"length": 8}).length
    8
    """

    search: Any = None
    iterations: int | None = None
    seconds: float | None = None
    length: int = 12
    limit: float = 6.0
    constraints: Any = ()
    dtype: Any = None

    quick: ClassVar[Mapping[str, Any]] = {"seconds": 20.0}
    """Settings of the quick version."""
    least: ClassVar[Mapping[str, int]] = {"length": 1}
    """Settings that are whole numbers, with the least that each may be."""
    unused: ClassVar[Mapping[str, str]] = {}
    """Settings that have no effect in a study and are refused, each with the reason."""

    def __post_init__(self) -> None:
        for name, least in {**StudySettings.least, **self.least}.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
                raise SettingsError(f"{name} is {quoted(value)}; it is a whole number of at least {least}.")
        if isinstance(self.limit, bool) or not isinstance(self.limit, (int, float)) or not self.limit > 0:
            raise SettingsError(f"limit is {quoted(self.limit)}; it is a cross-entropy above 0, in nats per token.")
        _ = self.searched  # a setting of the search that cannot be is an error before any work

    @classmethod
    def chosen(cls: type[S], quick: bool, given: Mapping[str, Any], keywords: tuple[str, ...] = ()) -> S:
        """Return the settings of a call.

        Args:
            quick: Whether settings that were not given are those of the quick version.
            given: Settings that were given, by name.
            keywords: Names of the caller's other keywords, which an unknown setting may stand for.

        Raises:
            SettingsError: A setting does not exist, or has a value that it cannot have.
        """
        if not isinstance(quick, (bool, np.bool_)):
            raise SettingsError(f"quick is True or False; got {quoted(quick)}.")
        known, usual = cls.setting_names(), {f.name: f.default for f in dataclasses.fields(cls)}
        for name, value in given.items():
            if name in cls.unused:
                if value is usual[name]:
                    continue
                raise SettingsError(f"{name} has no effect in this study: {cls.unused[name]}.")
            if name not in known:
                raise unknown_setting(name, list(dict.fromkeys([*known, *keywords])))
        return cls(**{**(cls.quick if quick else {}), **given})

    @classmethod
    def setting_names(cls) -> list[str]:
        """Return the names of the settings that have an effect."""
        return [f.name for f in dataclasses.fields(cls) if f.name not in cls.unused]

    @property
    def searched(self) -> SearchConfig:
        """Settings of the search of every run."""
        return self.search_of(self.search)

    def search_of(self, search: Any) -> SearchConfig:
        """Return the settings of a search, with the length and the budgets of the study.

        Args:
            search: Settings of a search, their class or the name of a search; None is EPO. A range of lengths is kept.

        Raises:
            SettingsError: The search has another length than the study.
        """
        own: dict[str, Any] = {"length": self.length}
        if isinstance(search, SearchConfig) and search.least_length == search.length not in (EPO.length, self.length):
            raise SettingsError(
                f"The search has prompts of {search.length} tokens, and the study of {self.length}; give the length to "
                f"the study: length={search.length}."
            )
        if isinstance(search, SearchConfig) and search.least_length < search.length:
            if search.length != self.length:
                raise SettingsError(
                    f"The search has prompts of {lengths_text(search)} tokens, and the study random prompts of "
                    f"{self.length}; give the study the largest length, length={search.length}."
                )
            own["length"] = (search.least_length, self.length)
        if self.seconds is not None:
            own["seconds"] = self.seconds
        if self.iterations is not None:
            own["iterations"] = self.iterations
        elif search is None:
            own["iterations"] = EPO().iterations  # a limit in seconds shall not make a run longer than the paper's
        return as_settings(EPO() if search is None else search, own)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON values, for results and for the plan of a folder."""
        plain = {name: getattr(self, name) for name in self.setting_names()}
        searched = {"search": self.searched} if "search" in plain else {}
        return {name: as_plain(value) for name, value in {**plain, **searched}.items()}


def as_plain(value: Any) -> Any:
    """Return a setting as JSON values; objects that are none become their representation.

    >>> as_plain({"layers": (1, 2), "search": EPO(length=6)})["layers"]
    [1, 2]
    """
    if isinstance(value, Mapping):
        return {str(k): as_plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, range)):
        return [as_plain(v) for v in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, Feature):
        return str(value)
    if callable(value) and hasattr(value, "__name__"):
        return str(value.__name__)
    text = repr(value)
    return text if len(text) <= 400 else f"{text[:380]}…{text[-12:]}"


def show_study_settings(function: Callable[..., Any], settings: type[StudySettings]) -> None:
    """Name a study's settings as keywords in the signature of its function."""
    used = settings.setting_names()
    show_settings(function, {f.name: f.default for f in dataclasses.fields(settings) if f.name in used})


def own_keywords(function: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of a function's parameters that are no settings."""
    return tuple(inspect.signature(function).parameters)
