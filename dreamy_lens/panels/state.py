"""What runs and attributions become for a view: plain JSON values, kept small. Pure functions, no screen."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamy_lens.results.pareto import Staircase

if TYPE_CHECKING:
    from dreamy_lens.results.attribution import Attribution
    from dreamy_lens.results.history import History
    from dreamy_lens.results.prompt import Prompt
    from dreamy_lens.results.snapshot import Snapshot
    from dreamy_lens.runs.dream import Dream

MOMENTS = 300
"""Iterations that the chart of a run shows at most."""

CROWDS = 100
"""Iterations of which the population is kept at most."""


def rounded(x: float, digits: int = 6) -> float | None:
    """A number as short as it may be; None for what JSON has no number for."""
    return float(f"{x:.{digits}g}") if math.isfinite(x) else None


def key(ids: Iterable[int]) -> str:
    """What tells a prompt from others in a view."""
    return ".".join(str(int(i)) for i in ids)


def entry(prompt: Prompt) -> dict[str, Any]:
    """A prompt of a frontier."""
    return {
        "key": key(prompt.ids),
        "ids": list(prompt.ids),
        "tokens": list(prompt.tokens),
        "text": prompt.text,
        "x": rounded(prompt.cross_entropy),
        "y": rounded(prompt.value),
        "it": prompt.provenance.iteration,
        "trips": prompt.round_trips,
    }


def found(attribution: Attribution, text: str, trips: bool, partial: bool = False) -> dict[str, Any]:
    """A prompt with what substitutes do to it; partial if more of them are to be tried."""
    n, k = attribution.candidates.shape
    best = [attribution.top(i, k) for i in range(n)]
    return {
        **scored(attribution.ids, attribution.tokens, text, trips, attribution.value, attribution.cross_entropy),
        "drop": [rounded(x) for x in attribution.drop_to_worst],
        "floor": [rounded(x) for x in attribution.drop_to_best],
        "subs": [[[s.token, s.token_id, rounded(s.value), rounded(s.cross_entropy)] for s in row] for row in best],
        "tried": k,
        "partial": partial,
    }


def scored(
    ids: Iterable[int], tokens: Sequence[str], text: str, trips: bool, value: float, cross_entropy: float
) -> dict[str, Any]:
    """A prompt of which no more than its scores is known."""
    ids = [int(i) for i in ids]
    scores = {"value": rounded(value), "ce": rounded(cross_entropy)}
    nothing = {"drop": None, "floor": None, "subs": None, "tried": None, "partial": False, "series": None}
    return {"key": key(ids), "ids": ids, "tokens": list(tokens), "text": text, "trips": trips, **scores, **nothing}


def trimmed(one: dict[str, Any], best: int = 6, worst: int = 2) -> dict[str, Any]:
    """The same with few substitutes for each position: those that the strip's colours and bars are about, and some."""
    if one["subs"] is None:
        return one
    kept = [row if len(row) <= best + worst else [*row[:best], *row[len(row) - worst :]] for row in one["subs"]]
    return {**one, "subs": kept}


class RunFollower:
    """What the view of one run shows, moment after moment. Nothing is worked out or decoded twice.

    Args:
        run: which it is of. While it goes on, only the thread at work may ask for the state.
    """

    def __init__(self, run: Dream) -> None:
        self._run = weakref.ref(run)
        self._entries: dict[int, dict[str, Any]] = {}
        self._texts: dict[int, str] = {}
        self._growth: list[tuple[int, float, float]] = []
        self._previous: tuple[int, dict[str, Any] | None] = (0, None)

    @property
    def run(self) -> Dream:
        """Which it is of; whoever follows a run does not keep it."""
        run = self._run()
        assert run is not None
        return run

    def state(self) -> dict[str, Any]:
        """The traits that change as a run goes on."""
        run, so_far = self.run, self.run.so_far
        history = so_far.history
        seconds = float(history.seconds[-1]) if len(history.seconds) else 0.0
        best = float(history.value[so_far.frontier_rows[-1]]) if len(so_far.frontier_rows) else math.nan
        return {
            "status": run.status,
            "step": so_far.iteration,
            "steps": run.config.iterations,
            "seconds": round(seconds, 2),
            "left": self._left(history),
            "evaluated": len(history),
            "hypervolume": rounded(so_far.hypervolume, 5) if len(history) else 0.0,
            "error": "" if run.error is None else f"{type(run.error).__name__}: {run.error}",
            "population": self._population(so_far),
            "frontier": [self._entry(so_far, row) for row in so_far.frontier_rows.tolist()],
            "previous": self._earlier(history),
            "restarts": [[i, rounded(w, 4)] for i, w in history.restarts],
            "growth": self._grown(so_far, best),
        }

    def brief(self) -> dict[str, Any]:
        """What is shown of one run among several."""
        run, so_far = self.run, self.run.so_far
        return {
            "status": run.status,
            "step": so_far.iteration,
            "steps": run.config.iterations,
            "evaluated": len(so_far.history),
            "error": "" if run.error is None else f"{type(run.error).__name__}: {run.error}",
            "frontier": [self._entry(so_far, row) for row in so_far.frontier_rows.tolist()],
        }

    def past(self) -> dict[str, Any]:
        """Every prompt that ever was on the frontier, and the population of some iterations."""
        so_far = self.run.so_far
        history, points, texts, known = so_far.history, [], [], {}
        for row, iteration in ever_on_frontier(history):
            text = self._text(so_far, row)
            if text not in known:
                known[text] = len(texts)
                texts.append(text)
            scores = float(history.cross_entropy[row]), float(history.value[row])
            points.append([*(rounded(x, 5) for x in scores), iteration, known[text]])
        moments = np.unique(np.linspace(0, max(0, history.iterations), CROWDS).astype(int)).tolist()
        crowds = {}
        for t in moments if history.iterations >= 0 else []:
            rows = np.unique(history.population[t][history.population[t] >= 0])
            pairs = zip(history.cross_entropy[rows].tolist(), history.value[rows].tolist(), strict=True)
            crowds[str(t)] = [[rounded(x, 4), rounded(y, 4)] for x, y in pairs]
        return {"points": points, "texts": texts, "population": crowds}

    def _entry(self, so_far: Snapshot, row: int) -> dict[str, Any]:
        if row not in self._entries:
            self._entries[row] = entry(so_far.prompt(row))
        return self._entries[row]

    def _text(self, so_far: Snapshot, row: int) -> str:
        if row not in self._texts:
            ids = so_far.history.ids[row].tolist()
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

    def _left(self, history: History) -> float:
        """Seconds to the end, at the pace of the last iterations; -1 where nothing is known."""
        more = self.run.config.iterations - history.iterations
        if more <= 0 or not self.run.active:
            return 0.0
        recent = history.seconds[-31:]
        # The median, because a pause lies between two iterations like any other time.
        return round(float(np.median(np.diff(recent))) * more, 1) if len(recent) > 3 else -1.0

    def _earlier(self, history: History) -> dict[str, Any] | None:
        """The frontier as it stood before the last restart."""
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
    """Rows that were on the frontier after some iteration, and the first one after which they were."""
    stairs, ever, begin = Staircase(), {}, 0
    ends = np.searchsorted(history.iteration, np.arange(len(history.seconds)), side="right").tolist()
    value, cross_entropy = history.value.tolist(), history.cross_entropy.tolist()
    for iteration, end in enumerate(ends):
        grown = [stairs.add(row, value[row], cross_entropy[row]) for row in range(begin, end)]
        for row in stairs.rows if any(grown) else []:
            ever.setdefault(row, iteration)
        begin = end
    return list(ever.items())
