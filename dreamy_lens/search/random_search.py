"""Random search: every iteration scores new random prompts. It is a baseline, which any other search should beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Int64

from dreamy_lens.search.config import SearchConfig
from dreamy_lens.search.settings import documented, setting
from dreamy_lens.search.steps import State

if TYPE_CHECKING:
    from dreamy_lens.scoring.scorer import Scorer
    from dreamy_lens.search.constraint_set import ConstraintSet
    from dreamy_lens.search.protocol import Search
    from dreamy_lens.search.score_cache import ScoreCache


@documented
@dataclass(frozen=True)
class RandomSearch(SearchConfig):
    """Settings of a random search. An iteration has as many prompts as one of EPO under its defaults.

    Attributes:
        {settings}

    Raises:
        SettingsError: A setting is outside its range.

    >>> import dreamy_lens as dl
    >>> run = dl.dream("L2.N17", search=dl.RandomSearch(iterations=2, children=16, length=6))
    >>> len(run.history)
    48
    """

    name: ClassVar[str] = "random"

    children: int = setting(
        256, "prompts at once", "random prompts that are scored in one iteration", minimum=1, maximum=1_000_000
    )

    @property
    def prompts_at_once(self) -> int:
        """Largest number of prompts that one iteration handles."""
        return self.children


@dataclass(frozen=True)
class RandomOptimizer:
    """Optimiser that draws every prompt independently of what it has found.

    Attributes:
        uses_gradient: Whether the search is guided by gradients.
    """

    uses_gradient: ClassVar[bool] = False

    def search(
        self,
        scorer: Scorer,
        config: RandomSearch,
        constraints: ConstraintSet,
        start: Int64[np.ndarray, "P n"] | None = None,
        cache: ScoreCache | None = None,
        state: State | None = None,
    ) -> Search:
        """Start or continue a search; see :meth:`Optimizer.search <dreamy_lens.search.optimizers.Optimizer.search>`."""
        from dreamy_lens.search.population import not_finite_error
        from dreamy_lens.search.protocol import Clock
        from dreamy_lens.search.score_cache import ScoreCache

        clock = Clock(0.0 if state is None else state.seconds)
        rng = np.random.default_rng(config.seed)
        cache = ScoreCache() if cache is None else cache
        if state is not None:
            rng.bit_generator.state = state.rng
        for iteration in range(0 if state is None else state.iteration + 1, config.iterations + 1):
            rows = start if start is not None and not iteration else constraints.random(config.children, rng)
            new = yield from cache.evaluate(rows)
            if not iteration and not len(new.ids):
                raise not_finite_error(scorer.bound.feature.label, new.non_finite)
            no_members = np.empty((0, config.length), dtype=np.int64)
            state = State(iteration, no_members, dict(rng.bit_generator.state), clock(), cache.non_finite())
            yield new.step(state, None, 0)
