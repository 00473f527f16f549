"""Where new prompts come from: the first population, and the children of each later one."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamy_lens.errors import PromptError
from dreamy_lens.search.constraint_set import ConstraintSet

REDRAWS = 16
"""How often a child that breaks a rule is drawn again before its place is left empty."""


def first_population(start: Any, size: int, rules: ConstraintSet, rng: np.random.Generator) -> np.ndarray:
    """The initial prompts, int64 `[size, n]`.

    Args:
        start: ids `[P, n]` of any number of prompts, or None for random ones. Fewer than `size` are repeated in turn,
            more are subsampled without replacement.
        size: M.
        rules: which prompts may exist.
        rng: what is drawn from.
    """
    if start is None:
        return rules.random(size, rng)
    rows = np.asarray(start, dtype=np.int64)
    rules.demand(rows)
    if len(rows) > size:
        return rows[np.sort(rng.choice(len(rows), size=size, replace=False))]
    return rows[np.arange(size) % len(rows)]


def same_length(rows: list[np.ndarray]) -> np.ndarray:
    """Given prompts as one array `[P, n]`, or a PromptError if their lengths differ."""
    lengths = sorted({len(row) for row in rows})
    if len(lengths) > 1:
        raise PromptError(
            f"Starts must have one length, and these have {', '.join(map(str, lengths))} tokens; trim or lengthen some."
        )
    return np.stack(rows)


def candidates(gradient: Tensor, members: Tensor, allowed: Tensor, top_k: int, count: int | None = None) -> Tensor:
    """The k most promising tokens at each position of each member, best first, `[M, n, k]` on the gradient's device.

    Args:
        gradient: of the full objective, `[M, n, d_vocab]`; it is overwritten.
        members: ids `[M, n]`.
        allowed: bool `[d_vocab]`.
        top_k: k; less where fewer tokens are allowed. The token that is there already is not a candidate.
        count: how many tokens of the gradient's are allowed, if that is known: counting waits for the device.
    """
    width = gradient.shape[-1]
    # Entries that are not finite first: however bad, an allowed token stays above every other.
    limit = torch.finfo(gradient.dtype).max
    gradient.nan_to_num_(nan=-limit, posinf=limit, neginf=-limit)
    gradient.masked_fill_(~allowed[:width], -torch.inf)
    gradient.scatter_(-1, members[..., None], -torch.inf)
    # All allowed tokens but the present one can be chosen, and rules see to it that there are two.
    count = int(allowed[:width].sum()) if count is None else count
    return gradient.topk(min(top_k, count - 1), dim=-1).indices


def proposed(
    gradient: Any, rows: Tensor, lambdas: Tensor, members: Tensor, allowed: Tensor, top_k: int, rules: ConstraintSet
) -> Tensor:
    """The candidates of each member by the gradient of its own objective, `[M, n, k]`, left on the device.

    Args:
        gradient: of the members' prompts.
        rows: which of its prompts each member is, `[M]`.
        lambdas: each member's λ, `[M]`.
        members: ids `[M, n]`.
        allowed: as in `rules`, on the device.
        top_k: k.
        rules: which prompts may exist.
    """
    objective = gradient.objective(rows, lambdas)
    return candidates(objective, members, allowed, top_k, int(rules.allowed[: objective.shape[-1]].sum()))


def children(
    members: np.ndarray, proposals: np.ndarray, count: int, rules: ConstraintSet, rng: np.random.Generator
) -> tuple[np.ndarray, int]:
    """Mutate each member r times: one position drawn uniformly, to a candidate drawn uniformly (Section 2).

    Args:
        members: `[M, n]`.
        proposals: `[M, n, k]`, from :func:`candidates`.
        count: r.
        rules: a child that breaks them is drawn again, up to REDRAWS times, and left out after that.
        rng: what is drawn from.

    Returns:
        The children `[<= M r, n]` in the order of their parents, and how many draws were rejected.
    """
    size, _, k = proposals.shape
    parents = np.repeat(np.arange(size), count)
    rows = members[parents].copy()
    pending = np.arange(len(rows))
    rejected = 0
    for _ in range(1 + REDRAWS):
        at = rng.choice(rules.open, size=len(pending))
        which = rng.integers(k, size=len(pending))
        rows[pending] = members[parents[pending]]
        rows[pending, at] = proposals[parents[pending], at, which]
        bad = ~rules.check(rows[pending])
        rejected += int(bad.sum())
        pending = pending[bad]
        if not len(pending):
            break
    keep = np.ones(len(rows), dtype=bool)
    keep[pending] = False
    return rows[keep], rejected


def warn_if_flat(gradient: Any, label: str) -> None:
    """Say so if the gradient of the value guides nothing at the start."""
    if all(not part.value.any() and not part.value_charge.any() for part in gradient.parts):
        warnings.warn(
            f"The gradient of {label} is exactly zero on every initial prompt, so at first it "
            "cannot guide the search. A latent or a neuron that is off, or a clip(), does this: try "
            "pre_activation=True, hook_pre, or another start.",
            RuntimeWarning,
            stacklevel=3,
        )
