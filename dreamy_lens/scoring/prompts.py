"""Prompts: reading them in the forms that users give, and the tokens that stand around them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from dreamy_lens.errors import PromptError, quoted
from dreamy_lens.features.binding import BoundFeature
from dreamy_lens.features.forward_pass import RowLayout
from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.models.transfer import to_device, to_host
from dreamy_lens.models.vocabulary import Vocabulary


def uniform_prompts(
    allowed: Bool[np.ndarray, " d_vocab"], count: int, length: int, seed: int
) -> Int64[np.ndarray, "count length"]:
    """Draw prompts whose tokens are independent and uniform among those that may stand in a prompt.

    >>> uniform_prompts(np.array([False, True, True]), 2, 4, seed=0).tolist()
    [[2, 2, 2, 1], [1, 1, 1, 1]]
    """
    return np.random.default_rng(seed).choice(np.flatnonzero(allowed), (count, length)).astype(np.int64)


@dataclass(frozen=True)
class PromptFrame:
    """Tokens around every prompt that is scored, and the model whose cross-entropy counts.

    Attributes:
        fluency: Model whose cross-entropy counts.
        prepend_bos: Whether a BOS stands first.
        prefix: Token ids of the template before the prompt.
        suffix: Token ids of the template after the prompt.
    """

    fluency: HookedModel
    prepend_bos: bool
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()

    @classmethod
    def of(cls, fluency: HookedModel, prepend_bos: bool, prefix: Sequence[int], suffix: Sequence[int]) -> PromptFrame:
        """Return the frame with a template's ids as a user gives them; a BOS that begins the prefix is taken once.

        Raises:
            PromptError: A part of the template is not token ids of the model.
        """
        before, after = (
            _template_part(ids, where, fluency.vocabulary) for ids, where in ((prefix, "before"), (suffix, "after"))
        )
        return cls(fluency, prepend_bos, tuple(strip_bos(before, fluency.bos(prepend_bos))), after)

    def layout(self, n: int) -> RowLayout:
        """Return the layout of the rows for prompts of n tokens."""
        return RowLayout(int(self.prepend_bos), len(self.prefix), n, len(self.suffix))

    @property
    def bos(self) -> list[int]:
        """Ids of the BOS, if it stands directly before the prompt; otherwise none."""
        return [] if self.prefix else self.fluency.bos(self.prepend_bos)

    def rows(self, prompts: Int64[np.ndarray, "B n"], model: HookedModel) -> Int64[np.ndarray, "B total"]:
        """Return the row that a model reads for each prompt: BOS, prefix, prompt, suffix and the model's tail."""
        size = len(prompts)
        before = np.array([*model.bos(self.prepend_bos), *self.prefix], dtype=np.int64)
        after = np.array([*self.suffix, *model.tail], dtype=np.int64)
        return np.concatenate([np.tile(before, (size, 1)), prompts, np.tile(after, (size, 1))], axis=1)

    def on_device(
        self, prompts: Int64[np.ndarray, "B n"] | Int64[Tensor, "B n"], model: HookedModel
    ) -> Int64[Tensor, "B total"]:
        """Return the row of each prompt on the model's device: BOS, prefix, prompt, suffix and the model's tail."""
        if isinstance(prompts, np.ndarray):
            return to_device(self.rows(prompts, model), model.device)
        around = self.rows(np.zeros((1, 0), dtype=np.int64), model)
        ends = to_device(around, model.device).expand(len(prompts), -1)
        before = around.shape[1] - len(self.suffix) - len(model.tail)
        return torch.cat([ends[:, :before], to_device(prompts, model.device), ends[:, before:]], dim=1)


def _template_part(ids: Sequence[int], where: str, vocabulary: Vocabulary) -> tuple[int, ...]:
    """Check the ids of the template before or after the prompt, and return them as numbers."""
    if len(ids) == 0:
        return ()
    if isinstance(ids, str):
        raise PromptError(
            f"The template {where} the prompt is given as token ids here; got the text {quoted(ids)}. Encode it."
        )
    given = to_host(ids)[0] if isinstance(ids, Tensor) else ids
    return tuple(vocabulary.check(given, f"The template {where} the prompt").reshape(-1).tolist())


def models_to_run(
    features: Sequence[BoundFeature], fluency: HookedModel
) -> tuple[tuple[HookedModel, ...], HookedModel]:
    """Return the models that passes for features run, and the one of them that gives the cross-entropy.

    A model of which nothing is read, but which is run with a tail, is not run without. Where it is the fluency model,
    the pass with the tail gives the cross-entropy: in a causal model the tokens after the prompt do not change it.

    Args:
        features: Features of one model.
        fluency: Model whose cross-entropy counts.
    """
    models = dict.fromkeys([*(m for f in features for m in f.models), fluency])
    read = {m for f in features for m in f.models if f.hooks[m] or m in f.logits}
    replaced = {m.base for m in models if m.tail} - read
    counted = next((m for m in models if m.tail and m.base is fluency), fluency) if fluency in replaced else fluency
    return tuple(m for m in models if m not in replaced), counted


def longest(layout: RowLayout, models: Iterable[HookedModel]) -> RowLayout:
    """Return the layout of the longest rows, those of the model with the longest tail."""
    return layout.followed_by(max((len(model.tail) for model in models), default=0))


def as_ids(prompts: Any, vocabulary: Vocabulary, bos: Sequence[int] = ()) -> list[Int64[np.ndarray, " n"]]:
    """Convert prompts, in any form that users give them, to token ids.

    A BOS that a prompt begins with, and that stands directly before every prompt anyway, is taken once: it is left out
    here. All other special tokens in a text stay, as tokens of the prompt.

    Args:
        prompts: Text, ids `[n]` or `[B, n]`, a Prompt (any object with `.ids`), or a list of these.
        vocabulary: Vocabulary of the model.
        bos: Ids of the BOS that stands directly before the prompts, or none; :attr:`PromptFrame.bos`.

    Raises:
        PromptError: There is no prompt, or one is not of these forms, or has an id that is not a token of the model.
    """
    return [_without_bos(row, bos) for row in _all_ids(prompts, vocabulary)]


def strip_bos(ids: Sequence[int], bos: Sequence[int]) -> Sequence[int]:
    """Return ids without the BOS tokens at their beginning, if a BOS is put before them.

    Args:
        ids: Token ids.
        bos: Ids of the BOS that is put before them, or none.

    >>> strip_bos([0, 7, 0], [0]), strip_bos([0, 7, 0], [])
    ([7, 0], [0, 7, 0])
    """
    start = 0
    while bos and start < len(ids) and ids[start] == bos[0]:
        start += 1
    return ids[start:]


def _without_bos(row: Int64[np.ndarray, " n"], bos: Sequence[int]) -> Int64[np.ndarray, " n"]:
    kept: Any = strip_bos(row, bos) if bos and row[0] == bos[0] else row  # pyright: ignore[reportArgumentType]
    if not len(kept):
        raise PromptError("The prompt is only the BOS, which stands before every prompt anyway; give more tokens.")
    return kept


def _all_ids(prompts: Any, vocabulary: Vocabulary) -> list[Int64[np.ndarray, " n"]]:
    """Convert prompts to token ids as they are given."""
    if isinstance(prompts, Tensor):
        (prompts,) = to_host(prompts)
    if isinstance(prompts, str) or hasattr(prompts, "ids"):
        prompts = [prompts]
    if isinstance(prompts, np.ndarray):
        checked = vocabulary.check(prompts)
        return list(checked[None] if checked.ndim == 1 else checked)
    try:
        prompts = list(prompts)
    except TypeError:
        raise PromptError(f"A prompt is a text, token ids, or a list of either; got {quoted(prompts)}.") from None
    if not prompts:
        raise PromptError("There is no prompt: give a text, token ids, or a list of either.")
    if all(isinstance(p, (int, np.integer)) and not isinstance(p, bool) for p in prompts):
        return [vocabulary.check(prompts)]
    return [_row(prompt, vocabulary) for prompt in prompts]


def _row(prompt: Any, vocabulary: Vocabulary) -> Int64[np.ndarray, " n"]:
    """Convert one entry of a list of prompts to token ids."""
    if isinstance(prompt, str):
        ids = vocabulary.encode(prompt)
        if not ids:
            raise PromptError(f"The text {quoted(prompt)} has no tokens; a prompt needs at least one.")
    else:
        ids = getattr(prompt, "ids", prompt)
        ids = to_host(ids)[0] if isinstance(ids, Tensor) else ids
    checked = vocabulary.check(ids)
    if checked.ndim != 1:
        raise PromptError(
            f"Each entry of a list of prompts is a text or ids [n]; one entry has shape {list(checked.shape)}."
        )
    return checked
