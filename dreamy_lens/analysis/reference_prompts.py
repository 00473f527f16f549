"""Reference prompts: natural text of one length, to which interventions compare a prompt.

They are windows of a corpus, or texts that the model writes itself in the prompt's place.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dreamy_lens.analysis.baselines import windows_of_corpus
from dreamy_lens.errors import ModelError
from dreamy_lens.models.causality import is_causal
from dreamy_lens.scoring.sampling import draw_samples
from dreamy_lens.scoring.scorer import Scorer

COUNT = 16
"""Number of reference prompts."""


def reference_prompts(
    scorer: Scorer, source: Any, count: int, length: int, seed: int
) -> tuple[Int64[np.ndarray, "prompts length"], str]:
    """Return reference prompts of one length, and a description of them. Equal settings give equal prompts.

    Args:
        scorer: Scorer whose BOS and template stand around the prompts.
        source: Texts, or anything that :func:`dreamy_lens.corpus.open` takes, from which windows are drawn. None draws
            texts from the model, at temperature 1, after the BOS and the template's prefix.
        count: Number of prompts; fewer are returned if the corpus has fewer.
        length: Number of tokens of a prompt.
        seed: Seed of the random choices.

    Raises:
        CorpusError: The corpus cannot be read, or has fewer than two windows of this length.
        ModelError: The model sees later tokens, so it writes no text.
    """
    model = scorer.model
    if source is not None:
        rows, name = windows_of_corpus(source, scorer.vocabulary, count, length, seed)
        return rows, f"{len(rows)} windows of {length} tokens of {name}"
    if not is_causal(model):
        raise ModelError(
            f"{model.name} sees later tokens, so it cannot write reference texts. Give some: reference=[text, ...] or "
            "a corpus."
        )
    samples = draw_samples(model, scorer.frame, count, length, scorer.allowed, {}, seed, 0)
    return samples.ids.cpu().numpy(), f"{count} texts of {length} tokens that the model writes (temperature 1)"


def reference_activations(
    scorer: Scorer, prompts: Int64[np.ndarray, "prompts length"], names: list[str]
) -> dict[str, Float[Tensor, "prompts pos ..."]]:
    """Return the activations of reference prompts in the scorer's template, float32 on the CPU."""
    model, found = scorer.model, {name: [] for name in names}
    rows = scorer.frame.rows(prompts, model)
    with model.lock, torch.no_grad():
        for i in range(0, len(rows), 8):
            activations, _ = model.run(torch.as_tensor(rows[i : i + 8], device=model.device), names, logits=False)
            for name in names:
                x = activations[name].detach().float().cpu()
                size = len(rows[i : i + 8])
                found[name].append(x if len(x) == size else x.expand(size, *x.shape[1:]))
    return {name: torch.cat(parts) for name, parts in found.items()}
