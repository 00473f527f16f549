"""Settings of EPO, and of GCG, which is EPO with one member and without fluency."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dreamy_lens.errors import SettingsError
from dreamy_lens.search.config import SearchConfig, with_default
from dreamy_lens.search.settings import documented, setting

_NEGATIVE = "a negative λ would reward prompts for being unlikely"


@documented
@dataclass(frozen=True)
class EPO(SearchConfig):
    """Settings of EPO. The defaults are those of the paper's Table 1. Each setting is a keyword of `dream()` too.

    Each setting is declared once, below. The command line and the notebook form offer every setting declared here.

    Attributes:
        {settings}

    Raises:
        SettingsError: A setting is outside its range.

    >>> print(EPO(population=4).lambdas.round(2))
    [ 0.1   0.46  2.15 10.  ]
    """

    name: ClassVar[str] = "epo"

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

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lambda_min > self.lambda_max or self.restart_lambda_min > self.restart_lambda_max:
            which = "lambda" if self.lambda_min > self.lambda_max else "restart_lambda"
            low, high = getattr(self, f"{which}_min"), getattr(self, f"{which}_max")
            raise SettingsError(f"{which}_min is {low:g}, above {which}_max, {high:g}; swap them.")
        if self.lambda_min == 0 < self.lambda_max and self.population > 1:
            raise SettingsError(
                "lambda_min is 0, but λs are spaced evenly in their logarithm; use a small number such as 0.001, or "
                "set lambda_max=0 too for no fluency at all."
            )

    @property
    def prompts_at_once(self) -> int:
        """Largest number of prompts that one iteration handles: the population and its children."""
        return self.population * (self.children + 1)

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


@documented
@dataclass(frozen=True)
class GCG(EPO):
    """Settings of greedy coordinate gradient (GCG): one member, no fluency, no restarts, 256 children.

    The number of children is that of a whole iteration under EPO's defaults.

    Attributes:
        {settings}

    >>> GCG().lambdas.tolist()
    [0.0]
    """

    name: ClassVar[str] = "gcg"

    population: int = with_default(EPO, "population", 1)
    children: int = with_default(EPO, "children", 256)
    lambda_min: float = with_default(EPO, "lambda_min", 0.0)
    lambda_max: float = with_default(EPO, "lambda_max", 0.0)
    restart_every: int = with_default(EPO, "restart_every", 0)
