"""Several searches over one model, whose prompts are scored in the same passes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from dreamy_lens.scoring.scorer import JointScorer
from dreamy_lens.search.epo import Ask, Search, Step


def together(searches: Sequence[Search], scorer: JointScorer) -> Iterator[tuple[int, Step]]:
    """Drive searches side by side: each goes on until it asks for a model, and then all are answered at once.

    Every search draws from its own random generator and sees its own prompts only, so it takes the steps that it would
    take alone; scores may differ in their last digit, as between any two sizes of batches.

    Args:
        searches: from :func:`~dreamy_lens.search.epo.search`.
        scorer: for their features, in the same order.

    Yields:
        The number of a search, and a step of it.
    """
    answers: dict[int, Any] = dict.fromkeys(range(len(searches)))
    while answers:
        asked: dict[int, Ask] = {}
        for number, answer in answers.items():
            while True:
                try:
                    said = searches[number].send(answer)
                except StopIteration:
                    break
                if isinstance(said, Ask):
                    asked[number] = said
                    break
                yield number, said
                answer = None
        answers = {}
        for gradient in (True, False):
            of = {number: ask.ids for number, ask in asked.items() if ask.gradient is gradient}
            if of:
                found = scorer.gradients(of) if gradient else scorer.scores(of)
                answers.update(found)
