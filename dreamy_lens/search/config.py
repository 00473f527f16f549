"""The settings of a run."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from dreamy_lens.errors import SettingsError


@dataclass(frozen=True)
class EPOConfig:
    """Settings of EPO; the defaults are the paper's Table 1. All are also keywords of :func:`dreamy_lens.dream`.

    Attributes:
        iterations: T, how many times the population is replaced.
        population: M, members, each in a slot with its own λ.
        children: r, mutations of each member in one iteration; M r prompts are scored.
        top_k: k, candidates at each position, by the gradient of the full objective.
        length: n, tokens of a prompt; a given start decides it instead.
        lambda_min: the least λ. With `lambda_max` 0 too, fluency does not count.
        lambda_max: the largest λ. λs are log-uniform between the two, one for each slot, ascending.
        restart_every: iterations between restarts; 0 is never.
        restart_lambda_min: least λ_r, under which the only member to survive a restart is chosen.
        restart_lambda_max: largest λ_r; it is drawn uniformly between the two.
        keep_parents: whether parents compete with their children. The paper selects from the children; the history
            keeps every prompt either way.
        prepend_bos: whether prompts follow a BOS; None is the model's convention.
        seed: of everything that is drawn.
        batch_size: most prompts in one pass through the model; None chooses. It changes speed, and rounding only.
        share_prefixes: whether what children have in common is computed once; it changes speed, and rounding only. None
            does so where a few prompts, scored both ways, agree; False scores every prompt whole.

    Raises:
        SettingsError: a setting is outside its range.

    >>> print(EPOConfig(population=4).lambdas.round(2))
    [ 0.1   0.46  2.15 10.  ]
    >>> EPOConfig.gcg().lambdas.tolist()
    [0.0]
    """

    iterations: int = 300
    population: int = 8
    children: int = 32
    top_k: int = 512
    length: int = 12
    lambda_min: float = 0.1
    lambda_max: float = 10.0
    restart_every: int = 30
    restart_lambda_min: float = 0.667
    restart_lambda_max: float = 6.0
    keep_parents: bool = False
    prepend_bos: bool | None = None
    seed: int = 0
    batch_size: int | None = None
    share_prefixes: bool | None = None

    def __post_init__(self) -> None:
        least = {
            "iterations": 0,
            "population": 1,
            "children": 1,
            "top_k": 1,
            "length": 1,
            "restart_every": 0,
            "seed": 0,
        }
        for name, low in least.items():
            value = getattr(self, name)
            if isinstance(value, np.integer):
                object.__setattr__(self, name, int(value))
            elif isinstance(value, bool) or not isinstance(value, int):
                raise SettingsError(f"{name} is {value!r}; it must be a whole number, at least {low}.")
            if value < low:
                raise SettingsError(f"{name} is {value}; it must be at least {low}.")
        for name in ("lambda_min", "lambda_max", "restart_lambda_min", "restart_lambda_max"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not math.isfinite(value):
                raise SettingsError(f"{name} is {value!r}; it must be a finite number, at least 0.")
            if value < 0:
                raise SettingsError(f"{name} is {value}; a negative λ would reward prompts for being unlikely.")
            object.__setattr__(self, name, float(value))
        if self.lambda_min > self.lambda_max or self.restart_lambda_min > self.restart_lambda_max:
            which = "lambda" if self.lambda_min > self.lambda_max else "restart_lambda"
            low, high = getattr(self, f"{which}_min"), getattr(self, f"{which}_max")
            raise SettingsError(f"{which}_min is {low:g}, above {which}_max, {high:g}; swap them.")
        if self.lambda_min == 0 < self.lambda_max and self.population > 1:
            raise SettingsError(
                "lambda_min is 0, and λs are spaced evenly in their logarithm; use a small number such as 0.001, or "
                "lambda_max=0 too for no fluency at all."
            )
        for name, otherwise in (
            ("keep_parents", ""),
            ("prepend_bos", ", or None for the model's convention"),
            ("share_prefixes", ", or None to share them where that gives the same numbers"),
        ):
            value = getattr(self, name)
            if isinstance(value, np.bool_):
                object.__setattr__(self, name, bool(value))
            elif not isinstance(value, bool) and not (value is None and otherwise):
                raise SettingsError(f"{name} is {value!r}; use True or False{otherwise}.")
        size = self.batch_size
        if isinstance(size, np.integer):
            object.__setattr__(self, "batch_size", size := int(size))
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise SettingsError(
                f"batch_size is {size!r}; it must be a whole number, at least 1, or None to choose it automatically."
            )

    def drawn_restart(self, iteration: int, rng: np.random.Generator) -> float | None:
        """λ_r if the iteration begins with a restart, which draws it."""
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
        """Greedy coordinate gradient: one member, no fluency, no restarts; as many children as EPO's default in all."""
        return cls(
            **{"population": 1, "children": 256, "lambda_min": 0.0, "lambda_max": 0.0, "restart_every": 0} | settings
        )

    @classmethod
    def of(cls, config: EPOConfig | None, settings: dict[str, Any]) -> EPOConfig:
        """A configuration with some fields replaced; an unknown one is an error that names the nearest."""
        import difflib

        kind = type(config) if isinstance(config, cls) else cls
        known = [f.name for f in fields(kind)]
        for name in settings:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {near[0]}?" if near else f"; there are: {', '.join(known)}."
                raise SettingsError(f"There is no setting {name!r}{hint}")
        if config is not None and not isinstance(config, cls):
            raise SettingsError(f"config is an EPOConfig; got {type(config).__name__!r}.")
        return kind(**({} if config is None else asdict(config)) | settings)
