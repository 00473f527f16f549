"""How a search talks to a model: a coroutine that yields steps and requests, and the loop that answers the requests.

A search never calls a model itself. It yields a :class:`ModelRequest` or a :class:`HostTransfer` and is sent the
answer, so that several searches can run side by side and have their prompts scored in the same passes (see
:mod:`~dreamy_lens.search.joint`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from dreamy_lens.models.transfer import to_host
from dreamy_lens.scoring.scorer import Scorer
from dreamy_lens.search.steps import Step


@dataclass(frozen=True)
class ModelRequest:
    """A request for scores or token gradients of prompts.

    Attributes:
        gradient: whether token gradients are requested, and not scores.
        ids: the prompts, int64 `[B, n]`; a tensor on the model's device if the host need not know them.
        on_device: whether scores are to stay on the device, as a tensor `[2, B]`, so that nothing waits for them.
    """

    gradient: bool
    ids: np.ndarray | Tensor
    on_device: bool = False

    def answer(self, scorer: Scorer) -> Any:
        """Compute what is requested: a :class:`Gradient`, :class:`Scores`, or a tensor of scores."""
        if self.gradient:
            return scorer.gradient_on_device(self.ids) if isinstance(self.ids, Tensor) else scorer.gradient(self.ids)
        return scorer.score_on_device(self.ids) if self.on_device else scorer.score(self.ids)


@dataclass(frozen=True)
class HostTransfer:
    """A request to copy tensors from the device: the one thing that the host has to wait for.

    Attributes:
        tensors: on the device.
    """

    tensors: tuple[Tensor, ...]

    def answer(self, scorer: Scorer) -> tuple[np.ndarray, ...]:
        """Copy the tensors to arrays."""
        return to_host(*self.tensors)


Search = Generator["Step | ModelRequest | HostTransfer", Any, None]
"""A search as a coroutine: it yields steps and requests, and is sent the answer to each request."""


def drive(search: Search, scorer: Scorer, between: Callable[[], object] | None = None) -> Iterator[Step]:
    """Answer a search's requests, and give its steps one at a time.

    Args:
        search: from :meth:`Optimizer.search <dreamy_lens.search.optimizers.Optimizer.search>`.
        scorer: answers the requests.
        between: called before every pass through the model, so that another user of the model can have a turn.
    """
    answer = None
    while True:
        try:
            event = search.send(answer)
        except StopIteration:
            return
        answer = None
        if isinstance(event, Step):
            yield event
        else:
            if between is not None:
                between()
            answer = event.answer(scorer)


class Clock:
    """Seconds since the beginning of a run that has taken some already."""

    def __init__(self, offset: float) -> None:
        self._start = time.perf_counter() - offset

    def __call__(self) -> float:
        """Seconds."""
        return time.perf_counter() - self._start
