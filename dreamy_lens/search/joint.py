"""Joint searches: several searches over one model, whose prompts go through the same passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from dreamy_lens.models.transfer import to_host
from dreamy_lens.scoring.contexts import JointContextScorer
from dreamy_lens.scoring.joint import JointScorer
from dreamy_lens.scoring.sharing import SharingScorer
from dreamy_lens.search.protocol import (
    BigramRequest,
    HostTransfer,
    ModelRequest,
    OfferRequest,
    Request,
    SampleRequest,
    Search,
)
from dreamy_lens.search.steps import Step


def drive_together(
    searches: Sequence[Search], scorer: JointScorer | JointContextScorer, between: Callable[[], object] | None = None
) -> Iterator[tuple[int, Step]]:
    """Drive searches side by side: each runs until it makes a request, and then all requests are answered at once.

    On an accelerator, the host waits for all searches together, once in an iteration. If one search falls behind,
    because its first prompts had to be drawn again, the other searches wait until it has caught up.

    Every search draws from its own random generator and sees only its own prompts, so it takes the steps that it would
    take alone. Scores may differ in their last digit, as they do between any two batch sizes.

    Args:
        searches: Searches from :meth:`Optimizer.search <dreamy_lens.search.optimizers.Optimizer.search>`.
        scorer: Joint scorer of the features of the searches, in the order of the searches.
        between: Function that is called before the passes of every stage, so that another user of the model has a turn.

    Yields:
        The number of a search, and a step of that search.
    """
    answers: dict[int, Any] = dict.fromkeys(range(len(searches)))
    requests: dict[int, Request] = {}
    while answers:
        for number, answer in answers.items():
            while True:
                try:
                    event = searches[number].send(answer)
                except StopIteration:
                    break
                if not isinstance(event, Step):
                    requests[number] = event
                    break
                yield number, event
                answer = None
        # Transfers come last, when every search requests one, so that the host waits for the device once.
        only_transfers = all(isinstance(request, HostTransfer) for request in requests.values())
        current = {
            number: requests[number]
            for number in sorted(requests)
            if only_transfers or not isinstance(requests[number], HostTransfer)
        }
        requests = {number: request for number, request in requests.items() if number not in current}
        if current and between is not None:
            between()
        answers = _answer(current, scorer)


def _answer(requests: dict[int, Request], scorer: JointScorer | JointContextScorer) -> dict[int, Any]:
    """Answer the requests of several searches at one stage of an iteration.

    Scores and gradients of all searches are computed in the same passes, for each length of prompts; rare requests are
    answered one by one.
    """
    transfers = {number: request.tensors for number, request in requests.items() if isinstance(request, HostTransfer)}
    arrays = iter(to_host(*(tensor for tensors in transfers.values() for tensor in tensors)))
    answers: dict[int, Any] = {number: tuple(next(arrays) for _ in tensors) for number, tensors in transfers.items()}
    passes: dict[int, ModelRequest] = {}
    asked: list[int] = []
    for number, request in requests.items():
        if isinstance(request, ModelRequest) and not request.values_only:
            passes[number] = request
        elif isinstance(request, OfferRequest):
            answers[number] = scorer.offer(number) if isinstance(scorer, SharingScorer) else None
        elif not isinstance(request, HostTransfer):
            same = next((other for other in asked if _is_same(requests[other], request)), None)
            answers[number] = request.answer(scorer.scorers[number]) if same is None else answers[same]
            asked.append(number)
    groups: dict[tuple[bool, bool, int], dict[int, Any]] = {}
    for number, request in passes.items():
        kind = request.gradient, request.on_device, request.ids.shape[1]
        groups.setdefault(kind, {})[number] = request.ids
    for (gradient, on_device, _), ids in groups.items():
        if not gradient:
            answers |= scorer.scores_on_device(ids) if on_device else scorer.scores(ids)
        elif isinstance(scorer, JointContextScorer):
            answers |= scorer.gradients(ids, {number: passes[number].draw for number in ids})
        else:
            answers |= scorer.gradients(ids)
    return answers


def _is_same(one: Request, other: Request) -> bool:
    """Return whether two rare requests of searches over one model have one answer."""
    if isinstance(one, SampleRequest) and isinstance(other, SampleRequest):
        plain = ("count", "length", "fixed", "seed", "keep")
        return all(getattr(one, name) == getattr(other, name) for name in plain) and np.array_equal(
            one.allowed, other.allowed
        )
    return isinstance(one, BigramRequest) and one == other
