"""Protocol between a search and a model: a coroutine that yields steps and requests, and the loop that answers them.

A search never calls a model itself. It yields a :class:`ModelRequest` or a :class:`HostTransfer` and receives the
answer. So several searches can run side by side, and their prompts can go through the same passes (see
:mod:`~dreamy_lens.search.joint`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from dreamy_lens.errors import FeatureError
from dreamy_lens.models.transfer import to_host
from dreamy_lens.scoring.bigrams import Bigrams, bigram_tables
from dreamy_lens.scoring.contexts import ContextScorer
from dreamy_lens.scoring.sampling import Samples, draw_samples
from dreamy_lens.scoring.scorer import Scorer
from dreamy_lens.search.steps import Step


@dataclass(frozen=True)
class ModelRequest:
    """Request for scores or token gradients of prompts.

    Attributes:
        gradient: Whether token gradients are requested instead of scores.
        ids: Token ids of the prompts, int64 `[B, n]`; a tensor on the model's device if the host does not know them.
        on_device: Whether scores stay on the device, as a tensor `[2, B]`, so that the host does not wait for them.
        values_only: Whether only values are requested, as an array `[B]`.
        draw: Number of the draw of contexts for gradients, such as that of the iteration; see
            :meth:`ContextScorer.draw <dreamy_lens.scoring.contexts.ContextScorer.draw>`.
    """

    gradient: bool
    ids: np.ndarray | Tensor
    on_device: bool = False
    values_only: bool = False
    draw: int = 0

    def answer(self, scorer: Scorer) -> Any:
        """Compute the answer: a :class:`Gradient`, :class:`Scores`, or a tensor of scores."""
        if self.gradient and isinstance(scorer, ContextScorer):
            return scorer.gradient_in(self.ids, self.draw)
        if self.gradient:
            return scorer.gradient_on_device(self.ids) if isinstance(self.ids, Tensor) else scorer.gradient(self.ids)
        if self.values_only:
            return scorer.values(self.ids)
        return scorer.score_on_device(self.ids) if self.on_device else scorer.score(self.ids)


@dataclass(frozen=True)
class SampleRequest:
    """Request for prompts drawn from the model that measures fluency.

    Attributes:
        count: Number of prompts (B).
        length: Number of tokens (n) of a prompt.
        allowed: Tokens that may be drawn, bool `[d_vocab]`.
        fixed: Tokens that never change, by position.
        seed: Seed of the random generator.
        keep: Number of prompts whose surprisals are kept.
    """

    count: int
    length: int
    allowed: np.ndarray
    fixed: dict[int, int]
    seed: int
    keep: int

    def answer(self, scorer: Scorer) -> Samples:
        """Draw the prompts."""
        samples = draw_samples(
            scorer.fluency, scorer.frame, self.count, self.length, self.allowed, self.fixed, self.seed, self.keep
        )
        scorer.work.add(scorer.fluency, samples.computed, (), True)
        return samples


@dataclass(frozen=True)
class BigramRequest:
    """Request for the predictions of the model that measures fluency after single tokens.

    Attributes:
        width: Number of tokens that the tables are about.
    """

    width: int

    def answer(self, scorer: Scorer) -> Bigrams | None:
        """Compute the tables, unless the model has them already; None if they would be too large."""
        tables, computed = bigram_tables(scorer.fluency, scorer.prepend_bos, self.width)
        scorer.work.add(scorer.fluency, computed, (), True)
        return tables


@dataclass(frozen=True)
class FingerprintRequest:
    """Request for the fingerprints of prompts: what the model's components contribute to the value of each.

    Attributes:
        ids: Token ids of the prompts, int64 `[B, n]`.
    """

    ids: np.ndarray

    def answer(self, scorer: Scorer) -> np.ndarray:
        """Compute the fingerprints, float32 `[B, U]`.

        Raises:
            FeatureError: The scorer's feature has no fingerprints, or no layer above gave the scorer a way to them.
        """
        if scorer.fingerprinter is None:
            raise FeatureError(
                f"{scorer.bound.feature.label} is searched without a run, so its prompts have no fingerprints; set "
                "scorer.fingerprinter, or diversity=0."
            )
        tokens = len(self.ids) * scorer.layout(self.ids.shape[1]).total
        scorer.work.add(scorer.model, tokens, scorer.bound.hooks[scorer.model], scorer.model in scorer.bound.logits)
        return scorer.fingerprinter(self.ids)


@dataclass(frozen=True)
class OfferRequest:
    """Request for prompts that searches side by side have tried, scored for this search's feature."""

    def answer(self, scorer: Scorer) -> None:
        """Return None: a search that is alone is offered nothing."""


@dataclass(frozen=True)
class HostTransfer:
    """Request to copy tensors from the device to the host, the only request for which the host must wait.

    Attributes:
        tensors: Tensors on the device.
    """

    tensors: tuple[Tensor, ...]

    def answer(self, scorer: Scorer) -> tuple[np.ndarray, ...]:
        """Copy the tensors into arrays."""
        return to_host(*self.tensors)


Request: TypeAlias = ModelRequest | SampleRequest | BigramRequest | FingerprintRequest | OfferRequest | HostTransfer
"""Request of a search for something that only the model or the device has."""

Search = Generator["Step | Request", Any, None]
"""Search as a coroutine: it yields steps and requests, and receives the answer to each request."""


def drive(search: Search, scorer: Scorer, between: Callable[[], object] | None = None) -> Iterator[Step]:
    """Answer the requests of a search, and yield its steps one at a time.

    Args:
        search: Search from :meth:`Optimizer.search <dreamy_lens.search.optimizers.Optimizer.search>`.
        scorer: Scorer that answers the requests.
        between: Function that is called before every request is answered, so that another user of the model has a turn.
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
    """Clock of a run.

    Args:
        offset: Seconds that the run has already taken.
    """

    def __init__(self, offset: float) -> None:
        self._start = time.perf_counter() - offset

    def __call__(self) -> float:
        """Return the seconds that the run has taken."""
        return time.perf_counter() - self._start
