"""dreamy_lens alone: how an iteration's time grows with its settings, and which parts of the code it is spent in."""

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
"""Settings that are varied, each alone around the paper's Table 1; the feature's layer is the fourth."""

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
"""Where timers go: a name for the part, and a function as its module, class and name. What a timer holds inside another
is not counted twice."""


def apart(function: Callable[..., Any], *args: Any) -> Any:
    """The function's result, from a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def points(layers: int) -> list[dict[str, int]]:
    """The settings to measure: Table 1's, and those that differ from it in one."""
    usual = {"length": LENGTH, "children": CHILDREN, "population": POPULATION, "layer": layers // 2}
    axes = {**AXES, "layer": tuple(range(layers))}
    return [{**usual, axis: value} for axis, values in axes.items() for value in values]


def shapes(place: Place, iterations: int, rounds: int) -> list[dict[str, Any]]:
    """Seconds per iteration at each point, with shared prefixes and without, which take turns."""
    prepare(place.threads)
    import dreamy_lens as dl

    model, layers = bridge(place.model, place.device), SHAPES[place.model].layers
    found: list[dict[str, Any]] = []
    axes = [axis for axis, values in {**AXES, "layer": range(layers)}.items() for _ in values]
    for axis, point in zip(axes, points(layers), strict=True):
        settings = {name: value for name, value in point.items() if name != "layer"}
        searches = {
            kind: Steps(
                dl.dream(
                    f"L{point['layer']}.N{NEURON}",
                    model,
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
                once = search.run(iterations if turn else 1)
                if turn:  # the first is for warming up
                    seconds[kind].append(once)
        found.append({"axis": axis, **point, **seconds})
    return found


class Timers:
    """Seconds spent in functions, each without those spent in others that are timed inside it."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner: list[float] = []

    def put(self, part: str, module: str, owner: str | None, name: str) -> None:
        """Replace a function by one that is timed."""
        place: Any = importlib.import_module(module)
        place = place if owner is None else getattr(place, owner)
        usual = getattr(place, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            began = time.perf_counter()
            try:
                out = usual(*args, **kwargs)
                wait(self.device)
                return out
            finally:
                total = time.perf_counter() - began
                self.seconds[part] += total - self._inner.pop()
                if self._inner:
                    self._inner[-1] += total

        setattr(place, name, timed)


def profile(place: Place, iterations: int) -> dict[str, float]:
    """Seconds per iteration of each part, on average, and of the rest."""
    prepare(place.threads)
    import dreamy_lens as dl

    timers = Timers(place.device)
    for part in PARTS:
        timers.put(*part)
    model = bridge(place.model, place.device)
    search = Steps(dl.dream(SHAPES[place.model].feature, model, iterations=0, prepend_bos=False, progress=False))
    search.run(2)  # for warming up
    timers.seconds.clear()
    whole = sum(search.run(iterations)) / iterations
    found = {part: timers.seconds[part] / iterations for part, *_ in PARTS}
    return found | {"rest": whole - sum(found.values())}
