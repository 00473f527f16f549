"""Follower of a run: the state of its view, again and again while the run goes on. Nothing here displays anything."""

from __future__ import annotations

import math
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamy_lens.panels.state import CLOUD, calibration_of, cloud_of, frontier_entry, rounded
from dreamy_lens.search.config import UNLIMITED
from dreamy_lens.search.pareto import Staircase

if TYPE_CHECKING:
    from dreamy_lens.results.history import History
    from dreamy_lens.results.snapshot import Snapshot
    from dreamy_lens.runs.dream import Dream

MOMENTS = 300
"""Most iterations that the chart of a run shows."""

CROWDS = 100
"""Most iterations whose population a view keeps."""


class RunFollower:
    """State of the view of one run, again and again while the run goes on. It computes and decodes nothing twice.

    Args:
        run: Run to follow. While the run goes on, only its model thread may call the methods.
    """

    def __init__(self, run: Dream) -> None:
        self._run = weakref.ref(run)
        self._entries: dict[int, dict[str, Any]] = {}
        self._texts: dict[int, str] = {}
        self._growth: list[tuple[int, float, float]] = []
        self._previous: tuple[int, dict[str, Any] | None] = (0, None)

    @property
    def run(self) -> Dream:
        """Run that is followed; the follower does not keep it in memory."""
        run = self._run()
        assert run is not None
        return run

    def state(self) -> dict[str, Any]:
        """Return the traits that change while the run goes on, by their names."""
        run, so_far = self.run, self.run.so_far
        history = so_far.history
        seconds = float(history.seconds[-1]) if len(history.seconds) else 0.0
        best = float(history.value[so_far.frontier_rows[-1]]) if len(so_far.frontier_rows) else math.nan
        return {
            "status": run.status,
            "step": so_far.iteration,
            "steps": 0 if run.config.iterations == UNLIMITED else run.config.iterations,
            "seconds": round(seconds, 2),
            "left": self._left(history),
            "used": self._used(history),
            "budget": self._budget(history),
            "evaluated": len(history),
            "hypervolume": rounded(so_far.hypervolume, 5) if len(history) else 0.0,
            "error": "" if run.error is None else f"{type(run.error).__name__}: {run.error}",
            "note": "" if run.active else run.note,
            "population": self._population(so_far),
            "frontier": [self._entry(so_far, row) for row in so_far.frontier_rows.tolist()],
            "previous": self._earlier(history),
            "restarts": [[i, rounded(w, 4)] for i, w in history.restarts],
            "growth": self._grown(so_far, best),
            "calibration": calibration_of(run, so_far),
        }

    def brief(self) -> dict[str, Any]:
        """Return the values that a view of several runs shows of this run, by their names."""
        run, so_far = self.run, self.run.so_far
        return {
            "status": run.status,
            "step": so_far.iteration,
            "steps": 0 if run.config.iterations == UNLIMITED else run.config.iterations,
            "used": self._used(so_far.history),
            "evaluated": len(so_far.history),
            "error": "" if run.error is None else f"{type(run.error).__name__}: {run.error}",
            "note": "" if run.active else run.note,
            "frontier": [self._entry(so_far, row) for row in so_far.frontier_rows.tolist()],
        }

    def cloud(self, most: int = CLOUD) -> dict[str, Any]:
        """Return the evaluated prompts as points of the plane; see :func:`cloud_of`."""
        return cloud_of(self.run.so_far.history, most)

    def past(self) -> dict[str, Any]:
        """Return every prompt that was on the frontier at any time, and the population of some iterations."""
        so_far = self.run.so_far
        history, points, texts, ids = so_far.history, [], [], []
        index_of_prompt: dict[tuple[int, ...], int] = {}
        for row, iteration in ever_on_frontier(history):
            prompt = tuple(history.ids_of(row))
            if prompt not in index_of_prompt:
                index_of_prompt[prompt] = len(texts)
                texts.append(self._text(so_far, row))
                ids.append(list(prompt))
            scores = float(history.cross_entropy[row]), float(history.value[row])
            points.append([*(rounded(x, 5) for x in scores), iteration, index_of_prompt[prompt]])
        moments = np.unique(np.linspace(0, max(0, history.iterations), CROWDS).astype(int)).tolist()
        crowds = {}
        for t in moments if history.iterations >= 0 else []:
            rows = np.unique(history.population[t][history.population[t] >= 0])
            pairs = zip(history.cross_entropy[rows].tolist(), history.value[rows].tolist(), strict=True)
            crowds[str(t)] = [[rounded(x, 4), rounded(y, 4)] for x, y in pairs]
        return {"points": points, "texts": texts, "ids": ids, "population": crowds}

    def _entry(self, so_far: Snapshot, row: int) -> dict[str, Any]:
        if row not in self._entries:
            self._entries[row] = frontier_entry(so_far.prompt(row))
        return self._entries[row]

    def _text(self, so_far: Snapshot, row: int) -> str:
        if row not in self._texts:
            ids = so_far.history.ids_of(row)
            self._texts[row] = self._entries[row]["text"] if row in self._entries else so_far.text(ids)
        return self._texts[row]

    def _population(self, so_far: Snapshot) -> list[list[Any]]:
        history = so_far.history
        rows = history.population[-1].tolist() if len(history.population) else []
        return [
            [
                rounded(float(history.cross_entropy[row])),
                rounded(float(history.value[row])),
                rounded(float(history.lambdas[slot]), 3),
                self._text(so_far, row),
            ]
            for slot, row in enumerate(rows)
            if row >= 0
        ]

    def _budget(self, history: History) -> dict[str, float]:
        """Return the budgets in seconds and prompts that may still end the run; none for a run that has ended."""
        if not self.run.active:
            return {}
        config = self.run.config
        passed = float(history.seconds[-1]) if len(history.seconds) else 0.0
        limits = {"seconds": (passed, config.seconds), "prompts": (len(history), config.prompts)}
        # A budget that is used up no longer applies: the run was resumed.
        return {name: most for name, (used, most) in limits.items() if most is not None and used < most}

    def _used(self, history: History) -> float:
        """Return the share of the run's budget that is used up, 1 at the end; -1 if no budget is a number."""
        config, budget = self.run.config, self._budget(history)
        if not self.run.active:
            return 1.0
        shares = [history.iterations / config.iterations] if 0 < config.iterations < UNLIMITED else []
        shares += [history.seconds[-1] / budget["seconds"]] if "seconds" in budget and len(history.seconds) else []
        shares += [len(history) / budget["prompts"]] if "prompts" in budget else []
        return round(max(0.0, min(1.0, float(max(shares)))), 4) if shares else -1.0

    def _left(self, history: History) -> float:
        """Return the seconds to the end, estimated from the last iterations; -1 if there are too few."""
        config, budget = self.run.config, self._budget(history)
        remaining = config.iterations - history.iterations
        if remaining <= 0 or not self.run.active:
            return 0.0
        left = [budget["seconds"] - float(history.seconds[-1])] if "seconds" in budget and len(history.seconds) else []
        recent = history.seconds[-31:]
        if len(recent) > 3:
            # The median, because a pause makes the time between two iterations very long.
            iteration = float(np.median(np.diff(recent)))
            left += [iteration * remaining] if config.iterations < UNLIMITED else []
            first = len(history.seconds) - len(recent) + 1
            new = np.count_nonzero(history.iteration >= first) / (len(recent) - 1)  # prompts of an iteration
            left += [iteration * (budget["prompts"] - len(history)) / new] if "prompts" in budget and new else []
        return round(min(left), 1) if left else -1.0

    def _earlier(self, history: History) -> dict[str, Any] | None:
        """Return the frontier before the last restart."""
        restarts = len(history.restarts)
        if restarts and restarts != self._previous[0]:
            iteration = history.restarts[-1][0] - 1
            rows = history.frontier_rows(iteration)
            pairs = zip(history.cross_entropy[rows].tolist(), history.value[rows].tolist(), strict=True)
            points = [[rounded(x), rounded(y)] for x, y in pairs]
            self._previous = restarts, {"iteration": int(iteration), "points": points}
        return self._previous[1]

    def _grown(self, so_far: Snapshot, best: float) -> dict[str, list[Any]]:
        if not self.run.active and so_far.history.iterations > 0:
            self._growth = _growth_of(so_far)
        elif math.isfinite(best) and (not self._growth or self._growth[-1][0] < so_far.iteration):
            self._growth.append((so_far.iteration, best, so_far.hypervolume))
        moments = self._growth
        if len(moments) > MOMENTS:
            moments = [moments[i] for i in np.linspace(0, len(moments) - 1, MOMENTS).astype(int)]
        names = ("iteration", "best", "hypervolume")
        columns = zip(*moments, strict=True) if moments else ([], [], [])
        return {name: [rounded(x, 5) for x in column] for name, column in zip(names, columns, strict=True)}


def _growth_of(so_far: Snapshot) -> list[tuple[int, float, float]]:
    frame = so_far.evolution()
    columns = (frame[name].tolist() for name in ("iteration", "best_value", "hypervolume"))
    return [(i, best, area) for i, best, area in zip(*columns, strict=True) if math.isfinite(best)]


def ever_on_frontier(history: History) -> list[tuple[int, int]]:
    """Find every row that was on the frontier after any iteration.

    Args:
        history: Every evaluated prompt.

    Returns:
        Pairs of a row and the first iteration after which it was on the frontier.
    """
    stairs, first_iteration, begin = Staircase(), {}, 0
    ends = np.searchsorted(history.iteration, np.arange(len(history.seconds)), side="right").tolist()
    value, cross_entropy = history.value.tolist(), history.cross_entropy.tolist()
    for iteration, end in enumerate(ends):
        grown = [stairs.add(row, value[row], cross_entropy[row]) for row in range(begin, end)]
        for row in stairs.rows if any(grown) else []:
            first_iteration.setdefault(row, iteration)
        begin = end
    return list(first_iteration.items())
