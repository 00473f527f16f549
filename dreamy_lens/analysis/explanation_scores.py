"""Scores of an explanation: a language model is examined on texts that it was not shown.

Detection and fuzzing follow the questions of automated interpretability (Paulo et al., 2024): which texts activate the
feature, and which have the right tokens marked. Simulation by dreaming asks for texts, and measures the feature on
them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from dreamy_lens.analysis.explanation_prompts import (
    Examinee,
    ShownText,
    detection_prompt,
    fuzzing_prompt,
    read_numbers,
    read_texts,
    simulation_prompt,
)
from dreamy_lens.errors import LLMError, shorten
from dreamy_lens.results.explanation import AnswerScore, Simulation

AT_ONCE = 10
"""Number of texts in one question."""

WORDS = 12
"""Most words of a text that a language model is asked to write."""


def detection(
    examinee: Examinee, explanation: str, active: Sequence[ShownText], inactive: Sequence[ShownText], seed: int
) -> AnswerScore:
    """Ask which of some texts drive the feature.

    Args:
        examinee: Language model.
        explanation: Explanation of the feature.
        active: Texts that drive the feature, none of which was shown for the explanation.
        inactive: Texts that do not.
        seed: Seed of the order of the texts.

    Raises:
        LLMError: The language model does not answer.
    """
    pairs = [(e.text, True) for e in active] + [(e.text, False) for e in inactive]
    return _questioned("detection", examinee, lambda texts: detection_prompt(explanation, texts), pairs, seed)


def fuzzing(examinee: Examinee, explanation: str, active: Sequence[ShownText], seed: int) -> AnswerScore | None:
    """Ask in which of some texts the tokens at which the feature is high are marked, and not as many others.

    Args:
        examinee: Language model.
        explanation: Explanation of the feature.
        active: Texts that drive the feature, with the values at their tokens.
        seed: Seed of the wrong marks and of the order of the texts.

    Returns:
        The score; None if no text has both tokens at which the feature is high and enough others.
    """
    random = np.random.default_rng(seed)
    pairs: list[tuple[str, bool]] = []
    for e in active:
        high = e.high()
        low = [i for i in range(len(e.tokens)) if i not in high]
        if high and len(low) >= len(high):
            pairs.append((e.marked(high), True))
            pairs.append((e.marked(random.choice(low, len(high), replace=False).tolist()), False))
    if not pairs:
        return None
    return _questioned("fuzzing", examinee, lambda texts: fuzzing_prompt(explanation, texts), pairs, seed)


def _questioned(
    name: str, examinee: Examinee, prompt: Callable[[list[str]], str], pairs: list[tuple[str, bool]], seed: int
) -> AnswerScore:
    order = np.random.default_rng(seed).permutation(len(pairs)).tolist()
    counts = {True: [0, 0], False: [0, 0]}  # named, and all
    for begin in range(0, len(order), AT_ONCE):
        group = [pairs[i] for i in order[begin : begin + AT_ONCE]]
        named = examinee.ask(prompt([text for text, _ in group]), partial(read_numbers, count=len(group)))
        for i, (_, is_right) in enumerate(group):
            counts[is_right][0] += i in named
            counts[is_right][1] += 1
    return AnswerScore(name, *counts[True], *counts[False])


def simulation(
    examinee: Examinee,
    explanation: str,
    values: Callable[[Sequence[str]], Sequence[float]],
    count: int,
    floor: float,
    dream: float,
    window: float | None,
) -> Simulation:
    """Ask for texts that drive the feature, and measure it on them.

    Args:
        examinee: Language model.
        explanation: Explanation of the feature.
        values: Function that returns the highest value of each text; one that is not finite leaves the text out.
        count: Number of texts to ask for.
        floor: Median value of random prompts.
        dream: Highest value of a dream.
        window: Highest value of a window of the corpus; None without examples.

    Raises:
        LLMError: The language model does not answer, or writes no text that has a value.
    """
    texts = examinee.ask(simulation_prompt(explanation, count, WORDS), read_texts)[: 2 * count]
    measured = [(text, float(value)) for text, value in zip(texts, values(texts), strict=True) if np.isfinite(value)]
    if not measured:
        raise LLMError(f"{examinee.name} wrote no text on which the feature has a value: {shorten(repr(texts), 200)}.")
    measured.sort(key=lambda pair: -pair[1])
    return Simulation(tuple(t for t, _ in measured), tuple(value for _, value in measured), floor, dream, window)
