"""Continuation of a prompt by a model: `generate()`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dreamy_lens._host import working
from dreamy_lens.analysis.continuation import continue_prompt
from dreamy_lens.api.noted_code import notes_code
from dreamy_lens.errors import names_keywords
from dreamy_lens.models.load import as_hooked
from dreamy_lens.results.continuation import Continuation
from dreamy_lens.scoring.prompts import PromptFrame
from dreamy_lens.search.frames import template_around


@names_keywords
@notes_code("continuation")
def generate(
    prompt: Any,
    model: Any = None,
    n_tokens: int = 20,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    prepend_bos: bool | None = None,
    contexts: Any = None,
    prefix: Sequence[int] = (),
    suffix: Sequence[int] = (),
) -> Continuation:
    """Let a model continue a prompt: what it writes after a dream.

    The row that the model continues is the one that is scored: BOS, template and prompt. With a chat as the template,
    the continuation is therefore the assistant's answer. Hooks that are attached to the model act.

    Args:
        prompt: One text, token ids `[n]`, or a :class:`~dreamy_lens.results.Prompt`.
        model: TransformerBridge, Hugging Face id, or folder of a model; None is the embedded model.
        n_tokens: Number of tokens to write, at least 1. The text is shorter if the model ends it, or if its context is
            full.
        temperature: Temperature of the sampling; 0 takes the most probable token at each step.
        top_k: Number of most probable tokens to sample from; None is all.
        top_p: Smallest sum of probabilities of the most probable tokens to sample from (nucleus sampling); None is 1.
        seed: Seed of the sampling.
        prepend_bos: Whether a BOS token stands before the prompt; None is the model's convention.
        contexts: Template or chat around the prompt, of :mod:`dreamy_lens.constraints`, or its text.
        prefix: Token ids of a template before the prompt.
        suffix: Token ids of a template after the prompt.

    Returns:
        A :class:`~dreamy_lens.results.Continuation`: `.text`, `.tokens`, `.ids` and `.log_probs` (nats, float32 `[m]`)
        of the m tokens that the model wrote, and `.ended`, the reason why the text ends.

    Raises:
        ModelError: The model sees later tokens, as BERT does, so it cannot continue a text.
        ConstraintError: `contexts` is no template or chat, or is several.
        PromptError: There is not exactly one prompt, or it fills the model's context.
        SettingsError: A setting has a value that it cannot have.

    >>> import dreamy_lens as dl
    >>> continuation = dl.generate("Return a copy of the", n_tokens=4)
    >>> len(continuation), continuation.ended
    (4, 'length')
    >>> continuation.text == "".join(continuation.tokens)
    True
    """
    hooked = as_hooked(model)
    before, after = template_around(contexts, hooked, prefix, suffix)
    frame = PromptFrame.of(hooked, bool(hooked.bos(prepend_bos)), before, after)
    with working("Continuing the prompt"):
        return continue_prompt(
            frame, hooked, prompt, n_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
        )
