"""Prompts in the forms in which users give them."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from dreamy_lens.errors import PromptError


def as_ids(prompts: Any, vocabulary: Any) -> list[np.ndarray]:
    """Prompts in any form that users give them, as a list of id arrays `[n]`.

    Args:
        prompts: a text, ids `[n]` or `[B, n]`, a Prompt (anything with `.ids`), or a list of these.
        vocabulary: the model's.
    """
    if isinstance(prompts, Tensor):
        prompts = prompts.detach().cpu().numpy()
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


def _row(prompt: Any, vocabulary: Any) -> np.ndarray:
    if isinstance(prompt, str):
        ids = vocabulary.encode(prompt)
        if not ids:
            raise PromptError(f"The text {prompt!r} has no tokens; a prompt needs at least one.")
    else:
        ids = getattr(prompt, "ids", prompt)
        ids = ids.detach().cpu() if isinstance(ids, Tensor) else ids
    checked = vocabulary.check(ids)
    if checked.ndim != 1:
        raise PromptError(
            f"In a list of prompts each is a text or ids [n]; one of these has shape {list(checked.shape)}."
        )
    return checked
