"""Settings of a search: those that every optimiser has, and budgets."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np

from dreamy_lens.errors import SettingsError, quoted, unknown_setting
from dreamy_lens.search.settings import check_values, documented, setting

MAX_IDS = 2**27
"""Largest number of token ids of the prompts of one iteration: a gigabyte."""


class _Unlimited(int):
    """Whole number that is so large that it stands for no limit, and says so in the representation of settings."""

    def __repr__(self) -> str:
        return "UNLIMITED"


UNLIMITED = _Unlimited(10**9)
"""Number of iterations of a run that another budget ends."""
MAX_SEEDS = 100_000
"""Largest number of seeds, each of which is a run."""


@documented
@dataclass(frozen=True)
class SearchConfig:
    """Settings that every optimiser has. Each setting is a keyword of `dream()` too.

    Each setting is declared once. The command line and the notebook form offer every setting that is declared here or
    in a subclass. A run ends at the first of its budgets: `iterations`, `seconds`, `prompts` and `until`.

    Attributes:
        {settings}

    Raises:
        SettingsError: A setting is outside its range.
    """

    _names_iterations: ClassVar[bool]
    name: ClassVar[str] = ""
    """Name of the search on the command line; "" for none."""

    iterations: int = setting(
        None,
        "iterations",
        "largest number of iterations (T)",
        minimum=0,
        maximum=UNLIMITED,
        when_none="for 300, or for no limit if another budget is given",
        place=0,
    )
    length: int = setting(
        12,
        "length",
        "number of tokens (n) of a prompt; a start text has its own length",
        minimum=1,
        maximum=MAX_IDS,
        place=20,
    )
    seconds: float | None = setting(
        None,
        "seconds",
        "largest number of seconds; the iteration in progress is completed",
        when_none="for no limit",
        place=0,
    )
    prompts: int | None = setting(
        None,
        "prompts",
        "largest number of evaluated prompts; the iteration in progress is completed",
        minimum=1,
        when_none="for no limit",
        advanced=True,
        place=40,
    )
    until: float | None = setting(
        None,
        "until growth below",
        "end the run when its hypervolume has grown by less than this share over the last quarter of the run",
        maximum=1,
        when_none="to go on",
        advanced=True,
        place=40,
    )
    prepend_bos: bool | None = setting(
        None,
        "prepend BOS",
        "put a BOS token before every prompt",
        when_none="for the model's convention",
        advanced=True,
        place=50,
    )
    seed: int = setting(0, "seed", "seed of the random generator", minimum=0, maximum=2**128, place=50)
    batch_size: int | None = setting(
        None,
        "batch size",
        "largest number of prompts in one pass through the model; it affects only speed and rounding",
        minimum=1,
        when_none="to choose it automatically",
        advanced=True,
        place=50,
    )
    share_prefixes: bool | None = setting(
        None,
        "share prefixes",
        "compute prefixes that children share only once; it affects only speed and rounding",
        when_none="to share them where that gives the same numbers",
        advanced=True,
        place=50,
    )

    def __post_init__(self) -> None:
        if isinstance(self.length, (tuple, list)):
            raise SettingsError(
                f"length is {quoted(self.length)}, and {type(self).__name__} searches prompts of one length; give one "
                "number, or use dl.FrontierSearch, which searches several lengths."
            )
        check_values(self)
        # Whether the user named the number of iterations is kept: another budget that is added later may replace it.
        object.__setattr__(self, "_names_iterations", self.iterations is not None)
        if self.iterations is None:
            others = (self.seconds, self.prompts, self.until)
            object.__setattr__(self, "iterations", 300 if others == (None, None, None) else UNLIMITED)
        elif self.iterations == UNLIMITED:  # read from a file, for example
            object.__setattr__(self, "iterations", UNLIMITED)
        ids = self.prompts_at_once * self.length
        if ids > MAX_IDS:
            raise SettingsError(
                f"An iteration of up to {self.prompts_at_once:,} prompts of {self.length} tokens has {ids:,} token ids "
                f"and the limit is {MAX_IDS:,}; use fewer prompts in an iteration, or a smaller length."
            )

    @property
    def prompts_at_once(self) -> int:
        """Largest number of prompts that one iteration handles."""
        return 1

    @property
    def least_length(self) -> int:
        """Smallest number of tokens of a prompt; `length` unless prompts have several lengths."""
        return self.length

    @property
    def lambdas(self) -> np.ndarray:
        """λ of each slot of the population, float32 `[M]`, ascending; empty for an optimiser without slots."""
        return np.empty(0, dtype=np.float32)

    @classmethod
    def from_settings(
        cls, config: SearchConfig | None, settings: dict[str, Any], keywords: Sequence[str] = ()
    ) -> SearchConfig:
        """Return a configuration with some settings replaced.

        Args:
            config: Configuration to start from, whose class is kept; None is the default configuration of this class.
            settings: New values, by the names of the settings.
            keywords: Names of the caller's other keywords, which an unknown setting may stand for.

        Raises:
            SettingsError: A setting is unknown, and the message names the nearest one; or a value is outside its range.

        >>> from dreamy_lens.search import EPO
        >>> EPO.from_settings(None, {"length": 6}).length
        6
        """
        if config is not None and not isinstance(config, SearchConfig):
            raise SettingsError(f"search must be settings such as dl.EPO(iterations=100); got {quoted(config)}.")
        kind = cls if config is None else type(config)
        known = [field.name for field in fields(kind)]
        for name in settings:
            if name not in known:
                owners = [other.__name__ for other in _kinds(SearchConfig) if name in other.__dataclass_fields__]
                if owners:
                    raise SettingsError(f"{name} is a setting of {', '.join(owners)}, and not of {kind.__name__}.")
                raise unknown_setting(name, [*known, *keywords])
        former = {} if config is None else asdict(config)
        if config is not None and not config._names_iterations:
            former["iterations"] = None
        if "length" in settings:  # it replaces a range: two numbers are another one, and one is the length of all
            former.pop("shortest", None)
        return kind(**former | settings)


def _kinds(kind: type[SearchConfig]) -> list[type[SearchConfig]]:
    """Return a class of settings and all classes that inherit from it."""
    return [kind, *(inner for child in kind.__subclasses__() for inner in _kinds(child))]


def lengths_text(config: SearchConfig) -> str:
    """Return the number of tokens of a run's prompts, in words.

    >>> from dreamy_lens.search import FrontierSearch
    >>> lengths_text(FrontierSearch(length=8)), lengths_text(FrontierSearch(length=(4, 16)))
    ('8', '4 to 16')
    """
    least, most = config.least_length, config.length
    return str(most) if least == most else f"{least} to {most}"


def iterations_text(completed: int, last: int) -> str:
    """Return how many iterations of a run are completed, in words.

    >>> iterations_text(3, 20), iterations_text(1, UNLIMITED)
    ('3 of 20 iterations', '1 iteration')
    """
    if last < UNLIMITED:
        return f"{completed} of {last} iterations"
    return f"{completed} iteration{'s' * (completed != 1)}"


def budget_text(config: SearchConfig, seconds: float, prompts: int) -> str:
    """Return how much of the budgets in seconds and prompts is used up, in words; "" if there are none.

    Args:
        config: Settings of the run.
        seconds: Seconds that the run has taken.
        prompts: Number of evaluated prompts.

    >>> from dreamy_lens.search import EPO
    >>> budget_text(EPO(seconds=60, prompts=5000), 7.2, 1024)
    '7 of 60 s, 1,024 of 5,000 prompts'
    """
    parts = [] if config.seconds is None else [f"{seconds:.0f} of {config.seconds:g} s"]
    parts += [] if config.prompts is None else [f"{prompts:,} of {config.prompts:,} prompts"]
    return ", ".join(parts)


def with_default(kind: type[SearchConfig], name: str, default: Any) -> Any:
    """Return a dataclass field like a setting of another class, with another default.

    Args:
        kind: Class that declares the setting.
        name: Name of the setting.
        default: New default value.
    """
    declared = {field.name: field for field in fields(kind)}[name]
    return dataclasses.field(default=default, metadata=declared.metadata)


def configs_of_seeds(
    config: SearchConfig, seeds: Iterable[int] | int | None, named: Collection[str] = ()
) -> list[SearchConfig]:
    """Return a configuration for each seed; for `seeds=None` the configuration itself.

    Args:
        config: Configuration that all runs share.
        seeds: Distinct seeds, or their number: 2 is the seeds 0 and 1.
        named: Names of the settings that the user gave; `seed` must not be among them if `seeds` is given.

    Raises:
        SettingsError: The seeds are empty, not distinct or a number below 1; or `seed` is given too.
    """
    if seeds is None:
        return [config]
    if "seed" in named:
        raise SettingsError("Both seed= and seeds= are given; keep one.")
    if isinstance(seeds, (int, np.integer)):
        if isinstance(seeds, bool) or seeds < 1:
            raise SettingsError(
                f"seeds is {quoted(seeds)}; give the number of seeds, at least 1, or the seeds themselves, such as "
                "[0, 1]. For one seed, use seed=."
            )
        seeds = range(int(seeds))
    given = list(itertools.islice(seeds, MAX_SEEDS + 1))
    if len(given) > MAX_SEEDS:
        raise SettingsError(f"There are more than {MAX_SEEDS:,} seeds, and each is a run; give fewer.")
    configs = [replace(config, seed=seed) for seed in given]
    if not configs:
        raise SettingsError("seeds is empty; give at least one.")
    given = [config.seed for config in configs]
    if len(set(given)) < len(given):
        raise SettingsError(f"seeds contains a seed twice: {quoted(given)}; equal seeds make equal runs.")
    return configs
