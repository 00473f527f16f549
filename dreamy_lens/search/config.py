"""Settings of a run."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from dreamy_lens.errors import SettingsError, quoted, unknown_setting
from dreamy_lens.search.settings import check_values, documented, setting

MAX_IDS = 2**27
"""Largest number of token ids of the prompts of one iteration: a gigabyte."""
MAX_SEEDS = 100_000
"""Largest number of seeds, each of which is a run."""
_NEGATIVE = "a negative λ would reward prompts for being unlikely"


@documented
@dataclass(frozen=True)
class EPOConfig:
    """Settings of EPO. The defaults are those of the paper's Table 1. Each setting is a keyword of `dream()` too.

    Each setting is declared once, below. The command line and the notebook form offer every setting declared here.

    Attributes:
        {settings}

    Raises:
        SettingsError: A setting is outside its range.

    >>> print(EPOConfig(population=4).lambdas.round(2))
    [ 0.1   0.46  2.15 10.  ]
    >>> EPOConfig.gcg().lambdas.tolist()
    [0.0]
    """

    iterations: int = setting(
        300, "iterations", "number of times (T) that the population is replaced by its best children", minimum=0
    )
    population: int = setting(
        8,
        "population",
        "members (M) of the population, each with its own weight λ of fluency",
        minimum=1,
        maximum=100_000,
    )
    children: int = setting(
        32, "children", "mutations (r) of each member that are scored in one iteration", minimum=1, maximum=1_000_000
    )
    top_k: int = setting(
        512,
        "top k",
        "candidate tokens (k) at each position, the best by the gradient of the full objective; a small k is greedier",
        minimum=1,
    )
    length: int = setting(
        12,
        "length",
        "number of tokens (n) of a prompt; a start text has its own length",
        minimum=1,
        maximum=MAX_IDS,
    )
    lambda_min: float = setting(
        0.1,
        "least λ",
        "smallest weight λ of fluency; if the largest λ is 0 too, fluency does not count",
        too_low=_NEGATIVE,
        advanced=True,
    )
    lambda_max: float = setting(
        10.0,
        "largest λ",
        "largest weight λ of fluency; the members' weights are log-uniform between the smallest and the largest",
        too_low=_NEGATIVE,
        advanced=True,
    )
    restart_every: int = setting(
        30,
        "restart every",
        "iterations between restarts; only one member survives a restart; 0 for no restarts",
        minimum=0,
        advanced=True,
    )
    restart_lambda_min: float = setting(
        0.667,
        "least restart λ",
        "smallest weight λ_r by which a restart chooses the member that survives",
        too_low=_NEGATIVE,
        advanced=True,
    )
    restart_lambda_max: float = setting(
        6.0,
        "largest restart λ",
        "largest weight λ_r of a restart, which draws λ_r uniformly between the smallest and the largest",
        too_low=_NEGATIVE,
        advanced=True,
    )
    keep_parents: bool = setting(
        False,
        "keep parents",
        "let parents compete with their children; the paper selects from the children only, and the history keeps "
        "every prompt either way",
        advanced=True,
    )
    prepend_bos: bool | None = setting(
        None,
        "prepend BOS",
        "put a BOS token before every prompt",
        when_none="for the model's convention",
        advanced=True,
    )
    seed: int = setting(0, "seed", "seed of the random generator", minimum=0, maximum=2**128)
    batch_size: int | None = setting(
        None,
        "batch size",
        "largest number of prompts in one pass through the model; it affects only speed and rounding",
        minimum=1,
        when_none="to choose it automatically",
        advanced=True,
    )
    share_prefixes: bool | None = setting(
        None,
        "share prefixes",
        "compute prefixes that children share only once; it affects only speed and rounding",
        when_none="to share them where that gives the same numbers",
        advanced=True,
    )

    def __post_init__(self) -> None:
        check_values(self)
        if self.lambda_min > self.lambda_max or self.restart_lambda_min > self.restart_lambda_max:
            which = "lambda" if self.lambda_min > self.lambda_max else "restart_lambda"
            low, high = getattr(self, f"{which}_min"), getattr(self, f"{which}_max")
            raise SettingsError(f"{which}_min is {low:g}, above {which}_max, {high:g}; swap them.")
        ids = self.population * (self.children + 1) * self.length
        if ids > MAX_IDS:
            raise SettingsError(
                f"An iteration of {self.population} members with {self.children} children of {self.length} tokens has "
                f"{ids:,} token ids, and the limit is {MAX_IDS:,}; use a smaller population, fewer children or a "
                "smaller length."
            )
        if self.lambda_min == 0 < self.lambda_max and self.population > 1:
            raise SettingsError(
                "lambda_min is 0, but λs are spaced evenly in their logarithm; use a small number such as 0.001, or "
                "set lambda_max=0 too for no fluency at all."
            )

    def draw_restart(self, iteration: int, rng: np.random.Generator) -> float | None:
        """Draw λ_r if the iteration begins with a restart, and return None otherwise."""
        if not self.restart_every or iteration == 1 or (iteration - 1) % self.restart_every:
            return None
        return float(rng.uniform(self.restart_lambda_min, self.restart_lambda_max))

    @property
    def lambdas(self) -> np.ndarray:
        """λ of each slot, float32 `[population]`, log-uniform and ascending."""
        if self.lambda_max == 0:
            return np.zeros(self.population, dtype=np.float32)
        if self.population == 1:
            return np.array([self.lambda_min], dtype=np.float32)
        return np.geomspace(self.lambda_min, self.lambda_max, self.population).astype(np.float32)

    @classmethod
    def gcg(cls, **settings: Any) -> EPOConfig:
        """Return the settings of greedy coordinate gradient (GCG): one member, no fluency, no restarts, 256 children.

        The number of children is that of a whole iteration under EPO's defaults.

        Args:
            **settings: Settings to replace.
        """
        return cls(
            **{"population": 1, "children": 256, "lambda_min": 0.0, "lambda_max": 0.0, "restart_every": 0} | settings
        )

    @classmethod
    def from_settings(
        cls, config: EPOConfig | None, settings: dict[str, Any], keywords: Sequence[str] = ()
    ) -> EPOConfig:
        """Return a configuration with some settings replaced.

        Args:
            config: Configuration to start from, whose class is kept; None is the default configuration.
            settings: New values, by the names of the settings.
            keywords: Names of the caller's other keywords, which an unknown setting may stand for.

        Raises:
            SettingsError: A setting is unknown, and the message names the nearest one; or a value is outside its range.

        >>> EPOConfig.from_settings(None, {"length": 6}).length
        6
        """
        if config is not None and not isinstance(config, cls):
            raise SettingsError(f"config must be an EPOConfig; got {type(config).__name__!r}.")
        kind = cls if config is None else type(config)
        known = [field.name for field in fields(kind)]
        for name in settings:
            if name not in known:
                raise unknown_setting(name, [*known, *keywords])
        return kind(**({} if config is None else asdict(config)) | settings)


def configs_of_seeds(config: EPOConfig, seeds: Iterable[int] | None, named: Collection[str] = ()) -> list[EPOConfig]:
    """Return a configuration for each seed; for `seeds=None` the configuration itself.

    Args:
        config: Configuration that all runs share.
        seeds: Distinct seeds.
        named: Names of the settings that the user gave; `seed` must not be among them if `seeds` is given.

    Raises:
        SettingsError: The seeds are empty, a single number, or not distinct; or `seed` is given too.
    """
    if seeds is None:
        return [config]
    if "seed" in named:
        raise SettingsError("Both seed= and seeds= are given; keep one.")
    if isinstance(seeds, (int, np.integer)):
        several = f"range({min(max(int(seeds), 2), MAX_SEEDS)})"
        raise SettingsError(
            f"seeds is {quoted(seeds)}; give several seeds, such as {several}. For one seed, use seed=."
        )
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
