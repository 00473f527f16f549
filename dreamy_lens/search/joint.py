"""Several searches over one model, whose prompts are scored in the same passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from dreamy_lens.models.transfer import to_host
from dreamy_lens.scoring.scorer import JointScorer
from dreamy_lens.search.protocol import HostTransfer, ModelRequest, Search, Step


def together(
    searches: Sequence[Search], scorer: JointScorer, between: Callable[[], object] | None = None
) -> Iterator[tuple[int, Step]]:
    """Drive searches side by side: each goes on until it asks for a model, and then all are answered at once.

    On an accelerator all are waited for together, once in an iteration. Where one has fallen behind, because its first
    prompts had to be drawn again, the others stand still there until it has caught up.

    Every search draws from its own random generator and sees its own prompts only, so it takes the steps that it would
    take alone; scores may differ in their last digit, as between any two sizes of batches.

    Args:
        searches: from :func:`~dreamy_lens.search.epo.search`.
        scorer: for their features, in the same order.
        between: called before the passes of every stage, for whoever wants to use the model meanwhile.

    Yields:
        The number of a search, and a step of it.
    """
    answers: dict[int, Any] = dict.fromkeys(range(len(searches)))
    asked: dict[int, ModelRequest | HostTransfer] = {}
    while answers:
        for number, answer in answers.items():
            while True:
                try:
                    said = searches[number].send(answer)
                except StopIteration:
                    break
                if not isinstance(said, Step):
                    asked[number] = said
                    break
                yield number, said
                answer = None
        # What has to be waited for is waited for once, when nobody has anything else to ask.
        waiting = all(isinstance(one, HostTransfer) for one in asked.values())
        now = {number: asked[number] for number in sorted(asked) if waiting or isinstance(asked[number], ModelRequest)}
        asked = {number: one for number, one in asked.items() if number not in now}
        if now and between is not None:
            between()
        answers = _answers(now, scorer)


def _answers(asked: dict[int, ModelRequest | HostTransfer], scorer: JointScorer) -> dict[int, Any]:
    """To what several searches ask at one stage of an iteration."""
    fetches = {number: ask.tensors for number, ask in asked.items() if isinstance(ask, HostTransfer)}
    arrays = iter(to_host(*(tensor for tensors in fetches.values() for tensor in tensors)))
    answers: dict[int, Any] = {number: tuple(next(arrays) for _ in tensors) for number, tensors in fetches.items()}
    asks = {number: ask for number, ask in asked.items() if isinstance(ask, ModelRequest)}
    for stays in (False, True):
        scores: dict[int, Any] = {
            number: ask.ids for number, ask in asks.items() if not ask.gradient and ask.stays is stays
        }
        if scores:
            answers |= scorer.scores_there(scores) if stays else scorer.scores(scores)
    gradients = {number: ask.ids for number, ask in asks.items() if ask.gradient}
    return answers | (scorer.gradients(gradients) if gradients else {})
