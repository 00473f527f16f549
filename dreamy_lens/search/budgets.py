"""Budgets of a search: it ends after the step with which it has used up its seconds, its prompts or its patience."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from dreamy_lens.scoring.work import Work
from dreamy_lens.search.config import UNLIMITED, SearchConfig
from dreamy_lens.search.pareto import Staircase
from dreamy_lens.search.protocol import Clock, Search
from dreamy_lens.search.steps import Step

STALLED = 100
"""Number of steps without a new prompt after which a run without a limit of iterations ends: there may be no other."""
PLATEAU_STEPS = 20
"""Fewest steps after which a search can be found to have stopped growing."""


class Budget:
    """Account of what a run has used of its budgets.

    Args:
        config: Settings of the run.
    """

    def __init__(self, config: SearchConfig) -> None:
        self.config = config
        self.prompts = 0
        self._stairs = Staircase()
        self._reference: tuple[float, float] | None = None
        self._areas: list[float] = []
        self._stalled = 0  # steps without a new prompt

    def add(self, value: np.ndarray, cross_entropy: np.ndarray, seconds: float) -> bool:
        """Add the prompts of a step, and return whether a budget is used up.

        Args:
            value: Values of the step's new prompts, `[K]`.
            cross_entropy: Their cross-entropies, `[K]`, nats per token.
            seconds: Seconds that the run has taken.
        """
        config = self.config
        self.prompts += len(value)
        self._stalled = 0 if len(value) else self._stalled + 1
        if config.until is not None:
            self._grow(value, cross_entropy)
        return (
            (config.seconds is not None and seconds >= config.seconds)
            or (config.prompts is not None and self.prompts >= config.prompts)
            or (config.until is not None and self._has_stopped_growing(config.until))
            or (config.iterations >= UNLIMITED and self._stalled >= STALLED)
        )

    def add_steps(
        self, value: np.ndarray, cross_entropy: np.ndarray, iteration: np.ndarray, seconds: np.ndarray
    ) -> bool:
        """Add the steps of a run that continues, and return whether a budget is used up.

        Args:
            value: Values of the prompts in order of evaluation, `[N]`.
            cross_entropy: Their cross-entropies, `[N]`, nats per token.
            iteration: Iteration of each prompt, `[N]`, never falling.
            seconds: Seconds from the start of the run to the end of each iteration, `[T+1]`.
        """
        ends = np.searchsorted(iteration, np.arange(len(seconds)), side="right")
        begin, is_used_up = 0, False
        for end, passed in zip(ends.tolist(), seconds.tolist(), strict=True):
            is_used_up = self.add(value[begin:end], cross_entropy[begin:end], passed)
            begin = end
        return is_used_up

    def _grow(self, value: np.ndarray, cross_entropy: np.ndarray) -> None:
        """Add prompts to the frontier, whose hypervolume is measured from the worst scores of the first step."""
        if self._reference is None and len(value):
            self._reference = float(value.min()), float(cross_entropy.max())
        for v, c in zip(value.tolist(), cross_entropy.tolist(), strict=True):
            self._stairs.add(0, v, c)
        self._areas.append(0.0 if self._reference is None else self._stairs.hypervolume(self._reference))

    def _has_stopped_growing(self, share: float) -> bool:
        """Return whether the hypervolume grew by less than this share over the last quarter of the steps."""
        steps = len(self._areas)
        if steps <= PLATEAU_STEPS:
            return False
        before = self._areas[steps - 1 - steps // 4]
        return self._areas[-1] - before <= share * self._areas[-1]


def metered(search: Search, work: Work, token_layers: float, seconds: float) -> Search:
    """Pass on the events of a search, and note in its steps what has been computed for it and how long that took.

    The time between a step and the next request for one, such as a pause, is not time of the search.

    Args:
        search: Search to meter.
        work: Account of the scorer that answers its requests.
        token_layers: Token-layers that the run had used before this search.
        seconds: Seconds that the run had taken before this search.
    """
    answer: Any = None
    clock = Clock(seconds)
    while True:
        try:
            event = search.send(answer)
        except StopIteration:
            return
        if isinstance(event, Step):
            seconds = clock()
            state = dataclasses.replace(event.state, seconds=seconds)
            yield dataclasses.replace(event, token_layers=token_layers, seconds=seconds, state=state)
            answer, clock = None, Clock(seconds)
        else:
            before = work.token_layers
            answer = yield event
            token_layers += work.token_layers - before


def within_budget(search: Search, budget: Budget) -> Search:
    """Pass on the events of a search, and end it after the step with which a budget is used up.

    Args:
        search: Search to limit.
        budget: Account of the run, with what it has used before this search.
    """
    answer: Any = None
    while True:
        try:
            event = search.send(answer)
        except StopIteration:
            return
        answer = yield event
        if isinstance(event, Step) and budget.add(event.value, event.cross_entropy, event.seconds):
            search.close()
            return
