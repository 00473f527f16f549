"""Continuation of a prompt by the model that a feature belongs to."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from dreamy_lens.errors import ModelError, PromptError, SettingsError, quoted
from dreamy_lens.models.causality import is_causal
from dreamy_lens.models.hooked_model import HookedModel, locked
from dreamy_lens.models.transfer import to_host
from dreamy_lens.results.continuation import Continuation
from dreamy_lens.scoring.prompts import PromptFrame, as_ids


def continue_prompt(
    frame: PromptFrame,
    model: HookedModel,
    prompt: Any,
    n_tokens: int = 20,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
) -> Continuation:
    """Let a model continue a prompt, with the BOS and the template around the prompt.

    Every token comes from a pass over the whole row, as in scoring, so hooks of the user act as they do there.

    Args:
        frame: BOS and template around the prompt.
        model: Model that continues the prompt.
        prompt: One text, ids `[n]`, or a Prompt.
        n_tokens: Number of tokens to write, at least 1.
        temperature: Temperature of the sampling; 0 takes the most probable token at each step.
        top_k: Number of most probable tokens to sample from; None is all.
        top_p: Smallest sum of probabilities of the most probable tokens to sample from; None is 1.
        seed: Seed of the sampling.

    Raises:
        ModelError: The model sees later tokens, so it cannot continue a text.
        PromptError: There is not exactly one prompt, or it fills the model's context.
        SettingsError: A setting has a value that it cannot have.
    """
    _check_settings(n_tokens, temperature, top_k, top_p, seed)
    vocabulary = model.vocabulary
    prompts = as_ids(prompt, vocabulary, frame.bos)
    if len(prompts) != 1:
        raise PromptError(f"One prompt is continued at a time; got {len(prompts)}. Call it once for each prompt.")
    ids = prompts[0]
    if not is_causal(model):
        raise ModelError(
            f"{model.name} sees later tokens: its output at a position changes when a later token changes, so it "
            "cannot continue a text. Use a causal model with the same tokenizer."
        )
    row = [int(i) for i in frame.rows(ids[None], model)[0]]
    start = len(row)
    if model.n_ctx is not None and start >= model.n_ctx:
        raise PromptError(
            f"The prompt has {start} tokens with BOS and template, and {model.name} reads at most {model.n_ctx}, so "
            "there is no room for a continuation. Give a shorter prompt."
        )
    ends = model.end_tokens
    generator = np.random.default_rng(seed)
    log_probs: list[float] = []
    ended = "length"
    with locked([model]), model.keep_hooks(), torch.no_grad():
        while len(row) - start < n_tokens:
            if model.n_ctx is not None and len(row) >= model.n_ctx:
                ended = "context"
                break
            _, logits = model.run(torch.tensor([row], device=model.device))
            assert logits is not None
            (last,) = to_host(logits[0, -1].float())
            scores = _log_softmax(last, vocabulary.known)
            if not np.isfinite(scores.max()):
                raise ModelError(
                    f"{model.name}'s logits after {quoted(vocabulary.text(row[start - len(ids) :]))} are NaN or "
                    "infinite, so there is no next token. Try float32."
                )
            token = _choose(scores, temperature, top_k, top_p, generator)
            if token in ends:
                ended = "end"
                break
            row.append(token)
            log_probs.append(float(scores[token]))
    written = row[start:]
    return Continuation(
        prompt=vocabulary.text(ids.tolist()),
        prompt_ids=tuple(ids.tolist()),
        text=_text_after(vocabulary, row, start),
        ids=tuple(written),
        tokens=tuple(vocabulary.tokens(written)),
        log_probs=np.array(log_probs, dtype=np.float32),
        ended=ended,
        model=model.name,
        temperature=float(temperature),
        seed=int(seed) if temperature > 0 else None,
    )


def _check_settings(n_tokens: Any, temperature: Any, top_k: Any, top_p: Any, seed: Any) -> None:
    """Raise SettingsError unless the settings of a continuation have values that they can have."""

    def is_number(value: Any, kinds: tuple[type, ...], least: float, most: float = np.inf) -> bool:
        return isinstance(value, kinds) and not isinstance(value, bool) and least <= float(value) <= most

    whole, real = (int, np.integer), (int, float, np.integer, np.floating)
    if not is_number(n_tokens, whole, 1):
        raise SettingsError(f"n_tokens is {quoted(n_tokens)}; it is the number of tokens to write, at least 1.")
    if not is_number(temperature, real, 0, 1e6):
        raise SettingsError(
            f"temperature is {quoted(temperature)}; it is a number of at least 0, and 0 takes the most probable token."
        )
    if top_k is not None and not is_number(top_k, whole, 1):
        raise SettingsError(f"top_k is {quoted(top_k)}; it is a number of tokens to sample from, at least 1, or None.")
    if top_p is not None and not (is_number(top_p, real, 0, 1) and top_p > 0):
        raise SettingsError(f"top_p is {quoted(top_p)}; it is a sum of probabilities above 0 and at most 1, or None.")
    if not is_number(seed, whole, 0):
        raise SettingsError(f"seed is {quoted(seed)}; it is a whole number of at least 0.")
    if temperature == 0 and (top_k is not None or top_p is not None):
        raise SettingsError(
            "top_k and top_p choose the tokens to sample from, and temperature 0 samples nothing: it takes the most "
            "probable token. Give temperature=1, or leave them out."
        )


def _log_softmax(logits: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return the log probabilities of all tokens; rows of the embedding without a token are never written."""
    logits = np.where(known, logits.astype(np.float64), -np.inf)
    top = logits.max()
    return logits - (top + np.log(np.exp(logits - top).sum()))


def _choose(
    scores: np.ndarray, temperature: float, top_k: int | None, top_p: float | None, generator: np.random.Generator
) -> int:
    """Return the next token: the most probable one, or a sample."""
    if temperature == 0:
        return int(scores.argmax())
    order = np.argsort(-scores, kind="stable")
    with np.errstate(over="ignore"):  # at a tiny temperature all other tokens have probability 0
        probabilities = np.exp((scores[order] - scores[order[0]]) / temperature)
    if top_k is not None:
        probabilities[top_k:] = 0
    if top_p is not None:
        # The token whose probability completes the sum belongs to the set.
        before = np.cumsum(probabilities / probabilities.sum()) - probabilities / probabilities.sum()
        probabilities[before >= top_p] = 0
    return int(order[generator.choice(len(order), p=probabilities / probabilities.sum())])


def _text_after(vocabulary: Any, row: list[int], start: int) -> str:
    """Return the text of the tokens from `start` on as it stands after the tokens before, with its leading space."""
    before, whole = vocabulary.text(row[:start]), vocabulary.text(row)
    return whole[len(before) :] if whole.startswith(before) else vocabulary.text(row[start:])
