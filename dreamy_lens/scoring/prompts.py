"""Prompts in the forms in which users give them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from dreamy_lens.errors import PromptError
from dreamy_lens.features.forward_pass import RowLayout
from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.models.transfer import to_device, to_host
from dreamy_lens.models.vocabulary import Vocabulary


@dataclass(frozen=True)
class PromptFrame:
    """What stands around every prompt that is scored, and whose cross-entropy counts.

    Attributes:
        fluency: the model whose cross-entropy it is.
        prepend_bos: whether a BOS stands first.
        prefix: ids of a template before the prompt.
        suffix: ids after it.
    """

    fluency: HookedModel
    prepend_bos: bool
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()

    def layout(self, n: int) -> RowLayout:
        """How rows of prompts of n tokens are made up."""
        return RowLayout(int(self.prepend_bos), len(self.prefix), n, len(self.suffix))

    def rows(self, prompts: Int64[np.ndarray, "B n"], model: HookedModel) -> Int64[np.ndarray, "B total"]:
        """BOS, prefix, prompt and suffix of each prompt, as a model reads them."""
        size = len(prompts)
        before = np.array([*model.bos(self.prepend_bos), *self.prefix], dtype=np.int64)
        after = np.array(self.suffix, dtype=np.int64)
        return np.concatenate([np.tile(before, (size, 1)), prompts, np.tile(after, (size, 1))], axis=1)

    def on_device(
        self, prompts: Int64[np.ndarray, "B n"] | Int64[Tensor, "B n"], model: HookedModel
    ) -> Int64[Tensor, "B total"]:
        """BOS, prefix, prompt and suffix on the model's device, of prompts that may be there already."""
        if isinstance(prompts, np.ndarray):
            return to_device(self.rows(prompts, model), model.device)
        around = self.rows(np.zeros((1, 0), dtype=np.int64), model)
        ends = to_device(around, model.device).expand(len(prompts), -1)
        before = around.shape[1] - len(self.suffix)
        return torch.cat([ends[:, :before], to_device(prompts, model.device), ends[:, before:]], dim=1)


def as_ids(prompts: Any, vocabulary: Vocabulary) -> list[Int64[np.ndarray, " n"]]:
    """Read prompts in any form in which users give them.

    Args:
        prompts: a text, ids `[n]` or `[B, n]`, a Prompt (anything with `.ids`), or a list of these.
        vocabulary: the model's vocabulary.
    """
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
        raise PromptError(f"A prompt is a text, token ids, or a list of either; got {prompts!r}.") from None
    if not prompts:
        raise PromptError("There is no prompt: give a text, token ids, or a list of either.")
    if all(isinstance(p, (int, np.integer)) and not isinstance(p, bool) for p in prompts):
        return [vocabulary.check(prompts)]
    return [_row(prompt, vocabulary) for prompt in prompts]


def _row(prompt: Any, vocabulary: Vocabulary) -> Int64[np.ndarray, " n"]:
    if isinstance(prompt, str):
        ids = vocabulary.encode(prompt)
        if not ids:
            raise PromptError(f"The text {prompt!r} has no tokens; a prompt needs at least one.")
    else:
        ids = getattr(prompt, "ids", prompt)
        ids = to_host(ids)[0] if isinstance(ids, Tensor) else ids
    checked = vocabulary.check(ids)
    if checked.ndim != 1:
        raise PromptError(
            f"In a list of prompts each is a text or ids [n]; one of these has shape {list(checked.shape)}."
        )
    return checked
