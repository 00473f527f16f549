"""Values of prompts without single heads and neurons: many units and prompts in the same passes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64

from dreamy_lens.analysis.ablation_parts import find_part
from dreamy_lens.analysis.interventions import measure, positions_of
from dreamy_lens.analysis.reference_prompts import reference_activations
from dreamy_lens.models.hooked_model import locked
from dreamy_lens.scoring.scorer import Scorer


def values_without(
    scorer: Scorer, prompts: Sequence[np.ndarray], units: Sequence[str | None], texts: Int64[np.ndarray, "T n"]
) -> Float64[np.ndarray, "U P"]:
    """Return the value of each prompt with each unit kept at its mean over texts, at every position.

    Args:
        scorer: Scorer of the feature; of several contexts, the first is used.
        prompts: Token ids of prompts of any lengths.
        units: Names of heads, neurons, attentions or MLPs, such as "L1.H3" and "L0.N17"; None leaves the model as it
            is.
        texts: Texts whose activations are averaged: over all their positions but the BOS.
    """
    model = scorer.model
    found = np.zeros((len(units), len(prompts)))
    lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
    with locked([model]), model.keep_hooks():
        parts = [None if name is None else find_part(name, model, scorer.prepend_bos) for name in units]
        hooks = list(dict.fromkeys(part.hook for part in parts if part is not None))
        activations = reference_activations(scorer, texts, hooks) if hooks else {}
        bos = scorer.layout(texts.shape[1]).bos
        means = [
            None if part is None else part.read(activations[part.hook])[:, bos:].flatten(0, 1).mean(0) for part in parts
        ]
        for length in np.unique(lengths).tolist():
            which = np.flatnonzero(lengths == length)
            layout = scorer.check_length(length)
            everywhere = positions_of("all", layout)
            rows = scorer.frame.rows(np.stack([prompts[i] for i in which.tolist()]), model)
            changes = [
                () if part is None else (part.replaced(mean, everywhere),)
                for part, mean in zip(parts, means, strict=True)
            ]
            measured = measure(
                model,
                np.tile(rows, (len(units), 1)),
                layout,
                [change for change in changes for _ in which],
                [scorer.bound],
                logits=False,
            )
            found[:, which] = measured.values[:, 0].reshape(len(units), len(which))
    return found
