"""Choice between the ways of running a pass on an accelerator: each is verified, then timed, and the fastest stays.

A way that raises an error, or whose numbers differ from those of the first way, is dropped with one line in the log.
Choices are remembered for each model in memory, so a second run of the same shape does not measure again.
"""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar

import torch

from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.models.transfer import NotRecordable, wait_for
from dreamy_lens.scoring.batching import is_out_of_memory

EAGER = "eager"
"""The way that is always there: Python starts every kernel."""

REPEATS = 3
"""Number of passes of each way that are timed; the fastest counts."""

clock = time.perf_counter
"""Clock by which ways are timed, in seconds."""

log = logging.getLogger("dreamy_lens")

T = TypeVar("T")


@dataclass
class Choice:
    """Ways that were measured for passes of one shape.

    Attributes:
        way: Fastest way.
        milliseconds: Time of one pass by way.
        dropped: Reason by way, for ways that cannot be used.
    """

    way: str = EAGER
    milliseconds: dict[str, float] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        times = [f"{way} {ms:.3g} ms" for way, ms in sorted(self.milliseconds.items(), key=lambda item: item[1])]
        return "; ".join([f"{self.way} ({', '.join(times)})" if times else self.way, *self._reasons()])

    def drop(self, way: str, error: BaseException) -> None:
        """Drop a way, and log the reason in one line."""
        why = "the memory of the device does not suffice" if is_out_of_memory(error) else _line(error)
        self.dropped[way] = why
        self.milliseconds.pop(way, None)
        if self.way == way:
            self.way = EAGER
        log.info("A pass cannot be run as %s here: %s.", way, why)

    def _reasons(self) -> list[str]:
        return [f"{way} cannot be used: {why}" for way, why in self.dropped.items()]


_CHOICES: weakref.WeakKeyDictionary[Any, dict[Hashable, Choice]] = weakref.WeakKeyDictionary()


def remembered(model: HookedModel) -> dict[Hashable, Choice]:
    """Return the choices that were made for a model in memory, by shape of the pass."""
    return _CHOICES.setdefault(model.source, {})


class Differs(Exception):
    """Error for a way whose numbers are not those of the eager pass."""

    def __init__(self) -> None:
        super().__init__("its numbers differ from those of the eager pass")


def choose(
    eager: Callable[[], T],
    ways: Mapping[str, Callable[[], Callable[[], T]]],
    same: Callable[[T, T], bool],
    device: torch.device,
    slow: Mapping[str, float] = MappingProxyType({}),
) -> tuple[Choice, T]:
    """Verify and time the ways of running one pass.

    Args:
        eager: Function that runs the pass in the way that is known to be right.
        ways: For each other way, a function that prepares it and returns a function that runs the pass.
        same: Whether two results differ by rounding at most.
        device: Device of the pass.
        slow: Milliseconds by way: a way whose preparation takes long is tried only if the fastest way before it takes
            longer than this.

    Returns:
        The choice, and the result of the eager pass.
    """
    choice, expected = Choice(), eager()
    choice.milliseconds[EAGER] = _milliseconds(eager, device)
    for way, prepare in ways.items():
        if way in slow and min(choice.milliseconds.values()) < slow[way]:
            continue
        try:
            run = prepare()
            if not same(run(), expected):
                raise Differs
        except Exception as error:  # whatever an architecture, a card or a version of torch refuses
            choice.drop(way, error)
        else:
            choice.milliseconds[way] = _milliseconds(run, device)
    choice.way = min(choice.milliseconds, key=choice.milliseconds.__getitem__)
    return choice, expected


def _line(error: BaseException) -> str:
    text = (str(error).splitlines() or [""])[0].rstrip(".")
    return text if isinstance(error, (Differs, NotRecordable)) else f"{type(error).__name__}: {text}"


def _milliseconds(run: Callable[[], Any], device: torch.device) -> float:
    """Return the shortest of several times of a function, until the device has finished."""
    times = []
    for _ in range(REPEATS):
        wait_for(device)
        start = clock()
        run()
        wait_for(device)
        times.append(1000 * (clock() - start))
    return min(times)
