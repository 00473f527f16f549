"""Graphs of passes, kept by shape: a pass replays the smallest recorded graph that has room for it.

Batches of a search vary in size from iteration to iteration, and a graph has one size. A batch is therefore padded to
the room of a graph that is not much larger; if there is none and the shape keeps coming, a new graph is recorded.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from dreamy_lens.models.device_graph import DeviceGraph, new_pool
from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.models.transfer import fill, wait_for
from dreamy_lens.scoring.batching import is_out_of_memory
from dreamy_lens.scoring.graph_choice import EAGER, Choice, Differs, choose, remembered

GRAPH = "graph"
"""Name in reports of the graph of a pass of which there is one kind only."""

SWITCH = "DREAMY_LENS_GRAPHS"
"""Environment variable that keeps all passes eager if it is "0"."""

T = TypeVar("T")

PATIENCE = 3
"""Number of passes before the first graph of a shape is recorded: a shape that comes once or twice is not worth it."""

LADDER = 1.25
"""Ratio between the rooms of two graphs, so that a few graphs serve all batches of a search."""

SPARE = 1.03
"""Least room that a new graph has beyond its first batch, as a ratio."""

WASTE = 1.4
"""Largest ratio of a graph's room to what its batch needs."""

MOST = 12
"""Largest number of graphs that are kept; the one that was not used for the longest time goes."""


MOST_RECORDINGS = 3 * MOST
"""Largest number of recordings of one kind of pass in a run, each of which takes as long as several passes.

Searches side by side can have batches of ever new shapes; what fits no graph by then is run eagerly.
"""


class RecordableBatch(Protocol):
    """RecordableBatch that a graph can run.

    Attributes:
        step: Number of which the rooms of graphs are multiples, so that matrix products have even shapes; 0 gives a
            graph exactly the room of its first batch.
    """

    step: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes that the batch needs."""
        ...

    def arrays(self, room: tuple[int, ...]) -> Mapping[str, np.ndarray | Tensor]:
        """Return the inputs of a pass with this room, int64: arrays, or tensors on the device."""
        ...

    def run(self, inputs: Mapping[str, Tensor], room: tuple[int, ...]) -> Any:
        """Run the pass on inputs on the device, and return tensors."""
        ...

    def result(self, outputs: Any, room: tuple[int, ...]) -> Any:
        """Return the batch's own part of the outputs, as copies that a replay does not overwrite."""
        ...


@dataclass
class _Recorded:
    """Recorded graph, with the room that it has and the shapes of its inputs."""

    graph: DeviceGraph
    room: tuple[int, ...]
    shapes: dict[str, tuple[int, ...]]
    used: int = 0


class GraphStore:
    """Recorded graphs of one kind of pass."""

    def __init__(self) -> None:
        self._graphs: dict[Hashable, list[_Recorded]] = {}
        self._waiting: dict[Hashable, int] = {}
        self._count = itertools.count(1)
        self._recordings = 0
        self._pool: Any = None

    def __len__(self) -> int:
        return sum(map(len, self._graphs.values()))

    def clear(self) -> None:
        """Free all graphs and their memory."""
        for key in list(self._graphs):
            self.drop(key)
        self._waiting.clear()
        self._recordings = 0

    def find(self, key: Hashable, batch: RecordableBatch) -> Callable[[RecordableBatch], Any] | None:
        """Return the function that replays the smallest graph with room for a batch; None if there is none.

        Args:
            key: Everything besides its sizes that the pass depends on.
            batch: Batch that is to be run.
        """
        fitting = [g for g in self._graphs.get(key, ()) if _fits(batch.sizes, g.room)]
        best = min(fitting, key=lambda g: _cost(g.room), default=None)
        if best is None or _cost(best.room) > WASTE * _cost(batch.sizes) + batch.step * len(best.room):
            return None
        return lambda b: self._replay(best, b)

    def is_due(self, key: Hashable) -> bool:
        """Count a pass for which there is no graph, and return whether one is to be recorded."""
        self._waiting[key] = self._waiting.get(key, 0) + 1
        if self._recordings >= MOST_RECORDINGS:
            return False
        return self._waiting[key] >= PATIENCE or bool(self._graphs.get(key))

    def drop(self, key: Hashable) -> None:
        """Free the graphs of a key, after the replays that are queued."""
        graphs = self._graphs.pop(key, [])
        if graphs:
            wait_for(graphs[0].graph.buffer.device)
        if not self._graphs:
            self._pool = None

    def record(self, key: Hashable, batch: RecordableBatch, device: torch.device) -> Callable[[RecordableBatch], Any]:
        """Record a graph with room for a batch, and return the function that replays it."""
        self._waiting[key] = 0
        self._recordings += 1
        room = _room(batch.sizes, batch.step)
        arrays = batch.arrays(room)
        shapes = {name: tuple(array.shape) for name, array in arrays.items()}
        buffer = torch.empty(sum(map(math.prod, shapes.values())), dtype=torch.int64, device=device)
        _fill(buffer, arrays)
        self._pool = new_pool() if self._pool is None else self._pool
        try:
            graph = DeviceGraph(lambda x: batch.run(_views(x, shapes), room), buffer, self._pool)
        except BaseException:
            self._pool = None  # torch may take the pool of a recording that failed for one that is being recorded
            raise
        recorded = _Recorded(graph, room, shapes)
        while len(self) >= MOST:
            self._drop_oldest()
        self._graphs.setdefault(key, []).append(recorded)
        return lambda b: self._replay(recorded, b)

    def _replay(self, recorded: _Recorded, batch: RecordableBatch) -> Any:
        recorded.used = next(self._count)
        _fill(recorded.graph.buffer, batch.arrays(recorded.room))
        return batch.result(recorded.graph.replay(), recorded.room)

    def _drop_oldest(self) -> None:
        key, oldest = min(((k, g) for k, gs in self._graphs.items() for g in gs), key=lambda entry: entry[1].used)
        wait_for(oldest.graph.buffer.device)
        self._graphs[key].remove(oldest)


class GraphedPasses(Generic[T]):
    """Passes of one kind that are run in the fastest way: eagerly, or as a graph of one of several kinds of batch.

    Args:
        model: Model for which the choices are remembered.
        kind: Kind of the passes, such as "scoring".
        same: Whether two results of a model of a dtype differ by rounding at most. It is no method of the owner of the
            passes, so that the graphs are free as soon as the owner is gone.
        slow: Ways whose preparation takes long, each with the milliseconds of a pass from which on they are tried.

    Attributes:
        choices: Choices of the passes that were run so far, by their shape.
    """

    def __init__(
        self,
        model: HookedModel,
        kind: str,
        same: Callable[[T, T, torch.dtype], bool],
        slow: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self.model, self.kind, self._same, self._slow = model, kind, same, slow
        self.choices: dict[Hashable, Choice] = {}
        self._uses: dict[Hashable, int] = {}
        self._store = GraphStore()

    def __len__(self) -> int:
        return len(self._store)

    def __str__(self) -> str:
        """The way that was chosen for the shape of most passes, with what was measured; "" if no pass had a choice."""
        most = max(self._uses, key=self._uses.__getitem__, default=None)
        return "" if most is None else str(self.choices[most])

    def clear(self) -> None:
        """Free all graphs and their memory."""
        self._store.clear()

    def run(
        self, key: Hashable, shape: Hashable, eager: Callable[[], T], ways: Mapping[str, Callable[[], RecordableBatch]]
    ) -> T:
        """Run a pass in the fastest way that gives the numbers of the eager one.

        Args:
            key: Everything on which a recorded pass depends besides its sizes and its way.
            shape: What the choice of the way is remembered for.
            eager: Function that runs the pass without a graph.
            ways: Functions that prepare the pass's batch for each kind of graph, the likeliest first.
        """
        if os.environ.get(SWITCH, "1") == "0":
            return eager()
        # A buffer that was made in the caller's inference mode could not be filled outside of it.
        with torch.inference_mode(False), torch.no_grad():
            return self._run(key, shape, eager, ways)

    def _run(
        self, key: Hashable, shape: Hashable, eager: Callable[[], T], ways: Mapping[str, Callable[[], RecordableBatch]]
    ) -> T:
        """Run a pass in the fastest way; see :meth:`run`."""
        device = self.model.device
        memory = remembered(self.model)
        shape = (self.kind, str(device), str(self.model.dtype), shape)
        choice = memory.get(shape)
        if choice is not None and choice.way not in (EAGER, *ways):
            choice = None  # of a scorer whose prefixes are shared in another way
        if choice is not None:
            self.choices[shape] = choice
            self._uses[shape] = self._uses.get(shape, 0) + 1
            if choice.way == EAGER:
                return self._run_eagerly(eager)
        way = next(iter(ways)) if choice is None else choice.way
        batch = ways[way]()
        replay = None if choice is None else self._store.find((key, way), batch)
        if replay is not None:
            return replay(batch)
        if not self._store.is_due((key, way)):
            return self._run_eagerly(eager)

        def prepare(way: str, batch: RecordableBatch) -> Callable[[], T]:
            replay = self._store.record((key, way), batch, device)
            return lambda: replay(batch)

        if choice is None:
            preparations = {way: functools.partial(lambda w: prepare(w, ways[w]()), way) for way in ways}
            try:
                choice, result = choose(
                    lambda: self._run_eagerly(eager), preparations, self._agrees, device, self._slow
                )
            except BaseException:  # an interruption too: a graph that was not compared must not stay
                for other in ways:
                    self._store.drop((key, other))
                raise
            memory[shape] = self.choices[shape] = choice
            for other in ways:
                if other != choice.way:
                    self._store.drop((key, other))
            return result
        result = self._run_eagerly(eager)
        try:
            if not self._agrees(prepare(way, batch)(), result):
                raise Differs
        except BaseException as error:
            self._store.drop((key, way))
            if not isinstance(error, Exception):  # an interruption
                raise
            choice.drop(way, error)  # whatever an architecture, a card or a version of torch refuses
        return result

    def _agrees(self, ours: T, known: T) -> bool:
        return self._same(ours, known, self.model.dtype)

    def _run_eagerly(self, eager: Callable[[], T]) -> T:
        """Run a pass without a graph; where memory runs out, free that of the graphs first."""
        try:
            return eager()
        except Exception as error:
            if not (len(self._store) and is_out_of_memory(error)):
                raise
        self._store.clear()
        return eager()


def _fits(sizes: Sequence[int], room: Sequence[int]) -> bool:
    return len(sizes) == len(room) and all(need <= has for need, has in zip(sizes, room, strict=True))


def _cost(sizes: Sequence[int]) -> int:
    return sum(sizes)


def _room(sizes: Sequence[int], step: int) -> tuple[int, ...]:
    """Return the room of a new graph for a batch of these sizes; 0 means that the pass has no such part.

    >>> _room((100, 400, 0), 32), _room((104, 404, 0), 32), _room((8,), 0)
    ((128, 416, 0), (128, 448, 0), (8,))
    """
    if not step:
        return tuple(sizes)
    total = _cost(sizes)
    steps = math.ceil(math.log(max(total, 1), LADDER))
    ratio = max(SPARE, LADDER**steps / max(total, 1))
    return tuple(math.ceil(size * ratio / step) * step for size in sizes)


def _fill(buffer: Tensor, arrays: Mapping[str, np.ndarray | Tensor]) -> None:
    """Copy inputs into the buffer of a graph, without waiting: arrays in one transfer."""
    on_host = [x for x in arrays.values() if isinstance(x, np.ndarray)]
    if len(on_host) == len(arrays):
        flat = [np.ascontiguousarray(x, dtype=np.int64).reshape(-1) for x in on_host]
        fill(buffer, np.concatenate(flat))
        return
    views = _views(buffer, {name: tuple(x.shape) for name, x in arrays.items()})
    for name, x in arrays.items():
        if isinstance(x, Tensor):
            views[name].copy_(x)
        else:
            fill(views[name], x)


def _views(buffer: Tensor, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    parts = torch.split(buffer, [math.prod(shape) for shape in shapes.values()])
    return {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
