"""Turn runs and attributions into small JSON values for the views. Nothing here displays anything."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamy_lens.search.config import UNLIMITED
from dreamy_lens.search.pareto import Staircase

if TYPE_CHECKING:
    from dreamy_lens.results.attribution import Attribution
    from dreamy_lens.results.history import History
    from dreamy_lens.results.prompt import Prompt
    from dreamy_lens.results.snapshot import Snapshot
    from dreamy_lens.runs.dream import Dream

MOMENTS = 300
"""Most iterations that the chart of a run shows."""

CROWDS = 100
"""Most iterations whose population a view keeps."""


CLOUD = 1000
"""Most evaluated prompts that the cloud of a view shows."""

_LEVELS, _DIGIT = 720, 90  # steps of a coordinate of the cloud, finer than a pixel; values of one of its letters


def rounded(x: float, digits: int = 6) -> float | None:
    """Round a number to significant digits.

    Args:
        x: Number to round.
        digits: Number of significant digits.

    Returns:
        Rounded number; None for infinities and NaN, which JSON does not have.
    """
    return float(f"{x:.{digits}g}") if math.isfinite(x) else None


def key(ids: Iterable[int]) -> str:
    """Return the key that identifies a prompt in a view.

    Args:
        ids: Token ids of the prompt.
    """
    return ".".join(str(int(i)) for i in ids)


def frontier_entry(prompt: Prompt) -> dict[str, Any]:
    """Return the entry of a prompt on a frontier.

    Args:
        prompt: Prompt with its scores.
    """
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


def attributed_entry(attribution: Attribution, text: str, trips: bool, partial: bool = False) -> dict[str, Any]:
    """Return the entry of a prompt with its attribution.

    Args:
        attribution: Attribution of the prompt.
        text: Text of the prompt.
        trips: Whether the prompt round-trips.
        partial: Whether more substitutes will be tried.
    """
    n, k = attribution.candidates.shape
    best = [attribution.top(i, k) for i in range(n)]
    return {
        **scored_entry(attribution.ids, attribution.tokens, text, trips, attribution.value, attribution.cross_entropy),
        "drop": [rounded(x) for x in attribution.drop_to_worst],
        "floor": [rounded(x) for x in attribution.drop_to_best],
        "subs": [[[s.token, s.token_id, rounded(s.value), rounded(s.cross_entropy)] for s in row] for row in best],
        "tried": k,
        "partial": partial,
    }


def scored_entry(
    ids: Iterable[int], tokens: Sequence[str], text: str, trips: bool, value: float, cross_entropy: float
) -> dict[str, Any]:
    """Return the entry of a prompt with its scores only.

    Args:
        ids: Token ids of the prompt.
        tokens: Text of each token.
        text: Text of the prompt.
        trips: Whether the prompt round-trips.
        value: Value of the feature.
        cross_entropy: Cross-entropy of the prompt, in nats per token.
    """
    ids = [int(i) for i in ids]
    scores = {"value": rounded(value), "ce": rounded(cross_entropy)}
    nothing = {"drop": None, "floor": None, "subs": None, "tried": None, "partial": False, "series": None}
    return {"key": key(ids), "ids": ids, "tokens": list(tokens), "text": text, "trips": trips, **scores, **nothing}


def trimmed(entry: dict[str, Any], best: int = 6, worst: int = 2) -> dict[str, Any]:
    """Return an entry with fewer substitutes: the best ones and the worst ones of each position.

    The strip's colours and bars show the best and the worst substitute, so these are always kept.

    Args:
        entry: Entry of a prompt.
        best: Number of best substitutes to keep at each position.
        worst: Number of worst substitutes to keep at each position.
    """
    if entry["subs"] is None:
        return entry
    rows = [row if len(row) <= best + worst else [*row[:best], *row[len(row) - worst :]] for row in entry["subs"]]
    return {**entry, "subs": rows}


def outlined(x: np.ndarray, y: np.ndarray, most: int = CLOUD, bins: int = 64) -> np.ndarray:
    """Choose points that stand for many: the outline of all points, and an even sample of the others.

    Args:
        x: Coordinates across, float `[n]`, finite.
        y: Coordinates up, float `[n]`, finite.
        most: Most points to choose, at least four for each bin.
        bins: Number of strips, across and up, whose outermost points are kept.

    Returns:
        Indices of the chosen points, ascending.
    """
    if len(x) <= most:
        return np.arange(len(x))
    outline: set[int] = set()
    for along, height in ((x, y), (y, x)):
        span = float(np.ptp(along)) or 1.0
        strip = np.minimum(((along - along.min()) / span * bins).astype(int), bins - 1)
        order = np.lexsort((height, strip))
        ends = np.flatnonzero(np.diff(strip[order]))
        outline |= {*order[np.append(0, ends + 1)].tolist(), *order[np.append(ends, len(order) - 1)].tolist()}
    others = np.setdiff1d(np.arange(len(x)), np.fromiter(outline, int))
    room = max(0, most - len(outline))
    sample = others[np.linspace(0, len(others) - 1, min(room, len(others))).astype(int)]
    return np.sort(np.concatenate([np.fromiter(outline, int), sample]))


def cloud_of(history: History, most: int = CLOUD) -> dict[str, Any]:
    """Return evaluated prompts as points of the plane, in a short form.

    `data` has six letters for each point, column by column: two each for the coordinates as steps of the range, and for
    the difference between the iterations of two points that follow one another. `at` says how many points there are,
    `of` how many prompts they stand for.

    Args:
        history: Every evaluated prompt.
        most: Most points.
    """
    finite = np.flatnonzero(np.isfinite(history.cross_entropy) & np.isfinite(history.value))
    x, y = history.cross_entropy[finite].astype(float), history.value[finite].astype(float)
    if not len(finite):
        return {"x": [0, 1], "y": [0, 1], "at": 0, "of": 0, "data": ""}
    kept = outlined(x, y, most)
    iterations = history.iteration[finite][kept].astype(int)
    columns, ranges = [], {}
    for name, values in (("x", x[kept]), ("y", y[kept])):
        low, span = float(values.min()), float(np.ptp(values)) or 1.0
        columns.append(np.rint((values - low) / span * (_LEVELS - 1)).astype(int))
        ranges[name] = [rounded(low), rounded(span / (_LEVELS - 1))]
    columns.append(np.minimum(np.diff(iterations, prepend=0), _DIGIT**2 - 1))
    letters = [part for column in columns for part in (column // _DIGIT, column % _DIGIT)]
    return {
        **ranges,
        "at": len(kept),
        "of": len(finite),
        "data": "".join(chr(35 + n) for part in letters for n in part),
    }


def calibration_of(run: Dream, so_far: Snapshot) -> dict[str, Any]:
    """Return the scale of a run's values: mean and deviation of each baseline, and known held-out cross-entropies.

    Args:
        run: Run; without baselines the result is empty.
        so_far: Results of the run, whose frontier is shown.
    """
    baselines = run.baselines
    if baselines is None:
        return {}
    known, rows = baselines.known_held_out, so_far.history.ids[so_far.frontier_rows].tolist()
    held = {key(ids): rounded(known[tuple(ids)], 5) for ids in rows if tuple(ids) in known}
    scales: list[list[Any]] = []
    for b in (b for b in baselines.all if b.deviation > 0):
        of = f"{b.name} ({b.source})" if b.source else b.name
        title = f"standard deviations above the mean of {len(b):,} {of}: {b.mean:.3g} ± {b.deviation:.3g}"
        scales.append([f"z, {b.name.split()[0]}", title, rounded(b.mean), rounded(b.deviation)])
    fluency = f"cross-entropy under {baselines.fluency}" if baselines.fluency else ""
    return {"scales": scales, "held": held, "fluency": fluency}


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
            prompt = tuple(history.ids[row].tolist())
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
