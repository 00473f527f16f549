"""Speed of dreamy_lens alone: how the time of an iteration grows with the settings, and which code takes it."""

from __future__ import annotations

import importlib
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from speed_models import CHILDREN, LENGTH, NEURON, POPULATION, SHAPES, bridge
from speed_sides import Place, Steps, prepare, wait

AXES: dict[str, tuple[int, ...]] = {"length": (6, 12, 24, 48), "children": (8, 32, 128), "population": (2, 8, 32)}
"""Settings to vary, one at a time around the paper's Table 1; the feature's layer is varied too."""

SYMBOLS = {"length": "n", "children": "r", "population": "M", "layer": "layer"}

PARTS = (
    ("forward passes", "dreamy_lens.scoring.forward", "ForwardScorer", "score"),
    ("gradient passes", "dreamy_lens.scoring.backward", "BackwardScorer", "gradient"),
    ("proposals", "dreamy_lens.scoring.token_gradient", "Gradient", "objective"),
    ("proposals", "dreamy_lens.search.epo", None, "rank_candidates"),
    ("proposals", "dreamy_lens.search.epo", None, "make_children"),
    ("selection", "dreamy_lens.search.epo", None, "select"),
    ("history", "dreamy_lens.runs.dream", "Dream", "take"),
)
"""Timed functions: the name of the part, and the function's module, class and name. Nested time counts only once."""


def apart(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function in a new process and return its result."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def points(layers: int) -> list[dict[str, int]]:
    """List the settings to measure: those of Table 1 with one of them varied."""
    base = {"length": LENGTH, "children": CHILDREN, "population": POPULATION, "layer": layers // 2}
    axes = {**AXES, "layer": tuple(range(layers))}
    return [{**base, axis: value} for axis, values in axes.items() for value in values]


def shapes(place: Place, iterations: int, rounds: int) -> list[dict[str, Any]]:
    """Measure the seconds per iteration at each point, with shared prefixes and without, in alternation."""
    prepare(place.threads)
    import dreamy_lens as dl

    model, layers = bridge(place.model, place.device), SHAPES[place.model].layers
    results: list[dict[str, Any]] = []
    axes = [axis for axis, values in {**AXES, "layer": range(layers)}.items() for _ in values]
    for axis, point in zip(axes, points(layers), strict=True):
        settings = {name: value for name, value in point.items() if name != "layer"}
        searches = {
            kind: Steps(
                dl.dream(
                    f"L{point['layer']}.N{NEURON}",
                    model,
                    search="epo",
                    iterations=0,
                    prepend_bos=False,
                    share_prefixes=share,
                    progress=False,
                    **settings,
                )
            )
            for kind, share in (("shared", None), ("plain", False))
        }
        seconds: dict[str, list[list[float]]] = {kind: [] for kind in searches}
        for turn in range(rounds + 1):
            for kind, search in searches.items():
                turn_seconds = search.run(iterations if turn else 1)
                if turn:  # the first turn is the warm-up
                    seconds[kind].append(turn_seconds)
        results.append({"axis": axis, **point, **seconds})
    return results


class Timers:
    """Seconds spent in timed functions, each without the timed functions that it calls."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner: list[float] = []
        self._replaced: list[tuple[Any, str, Any]] = []

    def put(self, part: str, module: str, owner: str | None, name: str) -> None:
        """Replace a function by a timed one."""
        holder: Any = importlib.import_module(module)
        holder = holder if owner is None else getattr(holder, owner)
        function = getattr(holder, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            began = time.perf_counter()
            try:
                out = function(*args, **kwargs)
                wait(self.device)
                return out
            finally:
                total = time.perf_counter() - began
                self.seconds[part] += total - self._inner.pop()
                if self._inner:
                    self._inner[-1] += total

        self._replaced.append((holder, name, function))
        setattr(holder, name, timed)

    def remove(self) -> None:
        """Put the functions back."""
        for holder, name, function in reversed(self._replaced):
            setattr(holder, name, function)


def profile(place: Place, iterations: int) -> dict[str, float]:
    """Measure the mean seconds per iteration of each part, and of the rest."""
    prepare(place.threads)
    import dreamy_lens as dl

    timers = Timers(place.device)
    model = bridge(place.model, place.device)
    try:
        for part in PARTS:
            timers.put(*part)
        settings: dict[str, Any] = {"search": "epo", "iterations": 0, "prepend_bos": False, "progress": False}
        search = Steps(dl.dream(SHAPES[place.model].feature, model, **settings))
        search.run(2)  # warm-up
        timers.seconds.clear()
        total = sum(search.run(iterations)) / iterations
    finally:
        timers.remove()
    parts = {part: timers.seconds[part] / iterations for part, *_ in PARTS}
    return parts | {"rest": total - sum(parts.values())}
