"""Comparison of a feature's gradient with finite differences, which shows a gradient that is not there.

A backward pass can fail in silence: 4-bit weights whose kernels have no backward pass, an operation under `no_grad()`,
a hook that detaches. The gradient is then zero or wrong, and a search goes on without guidance. The check here moves
the embeddings of a few prompts in small steps, and compares how the value moves with what the gradient says.

A sound feature is never taken for a broken one. A slope counts only if the value moves to both sides of a prompt alike,
and at the same rate with every step. A neuron or latent that is off, a threshold, the kink of a maximum, a saturated
probability and the rounding of sixteen bits therefore leave the check without a verdict.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dreamy_lens.errors import DreamyLensError, NoGradientError, warn
from dreamy_lens.features import expressions as ex
from dreamy_lens.models.transfer import to_device, to_host
from dreamy_lens.scoring.batching import memory_budget
from dreamy_lens.scoring.missing_backward import noting_missing_backward
from dreamy_lens.scoring.scorer import Scorer

AGREES, MISSING, DIFFERS, FLAT, UNCLEAR = "agrees", "missing", "differs", "flat", "unclear"

CANDIDATES = 12
"""Number of random prompts from which those for the check are chosen."""

PROMPTS = 4
"""Number of prompts on which the gradient is compared."""

STEPS = (3e-2, 1e-2, 3e-3)
"""Steps, as shares of the length of an embedding."""

COARSE_STEPS = (3e-1, 1e-1)
"""Steps for models in sixteen bits, where smaller ones are lost in rounding."""

TOLERANCE, COARSE_TOLERANCE = 0.1, 0.5
"""Relative difference from a finite difference above which a gradient is wrong, in 32 and in 16 bits."""

CAUSES = (
    "weights in 4 or 8 bits, whose kernels have no backward pass on some devices (load the model with dtype='float32' "
    "or 'bfloat16'), an operation under no_grad() or detach(), or a hook that replaces an activation"
)
"""Likely causes of a gradient that is missing or wrong, for messages."""


@dataclass(frozen=True)
class GradientCheck:
    """Result of comparing a gradient with finite differences.

    Attributes:
        verdict: "agrees"; "missing": the value has a slope, and the gradient is exactly zero; "differs": the value has
            another slope than the gradient says; "flat": the gradient and every slope are zero; "unclear": kinks or
            rounding hide the slope.
        gradient: Slope by the gradient where both differ most clearly, in units of the feature for a step of an
            embedding's length.
        measured: Slope that was measured there.
        error: Median over the prompts of the relative difference in the direction of the gradient, at the best step;
            infinite if the gradient is zero.
        share: The best step, as a share of the length of an embedding.
        length: Mean length of the gradient at the embeddings.
    """

    verdict: str
    gradient: float
    measured: float
    error: float
    share: float
    length: float


def require_gradient(scorer: Scorer, n: int, start: Int64[np.ndarray, "P n"] | None = None) -> None:
    """Check the gradient of a scorer's feature before a search, on random prompts and on a few of the start.

    Args:
        scorer: Scorer of the feature.
        n: Number of tokens of a prompt.
        start: Initial prompts of the search; None if they are random.

    Raises:
        NoGradientError: The value moves with the embeddings, and the gradient is exactly zero, or an operation lets no
            gradient through.
    """
    ids = random_prompts(scorer, n)
    if start is not None:
        ids = np.concatenate([np.asarray(start, dtype=np.int64)[:PROMPTS], ids])
    ids = choose_prompts(ids, scorer_values(scorer, ids))
    found, what = check_gradient(scorer, ids), f"{scorer.bound.feature.label} on {scorer.model.name}"
    if found.verdict == FLAT:
        # The feature is off on these prompts. Whether a gradient reaches what it reads can be seen nevertheless.
        found = check_reach(scorer, ids) or found
        what = f"what {what} reads"
    if found.verdict == MISSING:
        raise NoGradientError(
            f"The gradient of {what} is exactly zero, but the value moves with the embeddings: by {found.measured:.3g} "
            f"for a step of an embedding's length. A search would go on without guidance. Likely causes: {CAUSES}."
        )
    if found.verdict == DIFFERS:
        warn(
            f"The gradient of {what} is wrong: it says that the value moves by {found.gradient:.3g} for a step of an "
            f"embedding's length, and the value moves by {found.measured:.3g}. The search will be badly guided. Likely "
            f"causes: {CAUSES}.",
            RuntimeWarning,
        )


def random_prompts(scorer: Scorer, n: int) -> Int64[np.ndarray, "K n"]:
    """Draw random prompts of n tokens, the same ones in every call."""
    return np.random.default_rng(0).choice(np.flatnonzero(scorer.allowed), size=(CANDIDATES, n)).astype(np.int64)


def choose_prompts(ids: Int64[np.ndarray, "C n"], values: Float[np.ndarray, " C"]) -> Int64[np.ndarray, "K n"]:
    """Choose prompts on which a slope is likely to show: half of them with the highest values, half from the middle."""
    order = np.argsort(-np.nan_to_num(values, nan=-np.inf, posinf=-np.inf), kind="stable")
    middle = order[len(order) // 2 :]
    return ids[np.unique(np.concatenate([order[: PROMPTS // 2], middle[: PROMPTS - PROMPTS // 2]]))]


def scorer_values(scorer: Scorer, ids: Int64[np.ndarray, "C n"]) -> Float[np.ndarray, " C"]:
    """Compute the values of prompts by plain passes."""
    nothing = torch.zeros(1, 1, scorer.model.embedding_table.shape[1], device=scorer.model.device)
    return np.concatenate(to_host(*_batches(scorer, ids, lambda at: nothing.expand(len(ids[at]), -1, -1))))


def check_reach(scorer: Scorer, ids: Int64[np.ndarray, "K n"]) -> GradientCheck | None:
    """Compare the gradient of a random mixture of what a feature reads, for features that are off on the prompts.

    Args:
        scorer: Scorer of the feature.
        ids: Token ids of the prompts.

    Returns:
        The comparison, or None if the feature reads nothing from its model that could be mixed.
    """
    proxy = _mixture_scorer(scorer)
    try:
        return None if proxy is None else check_gradient(proxy, ids)
    except DreamyLensError:  # such as an activation of whole numbers
        return None


def _mixture_scorer(scorer: Scorer) -> Scorer | None:
    """Return a scorer of a random mixture of what a feature reads, or None if it reads nothing from its model."""
    hooks = scorer.bound.hooks.get(scorer.model, ())
    mixture: ex.Feature = ex.Custom("mixture", tuple(hooks), _mixture)
    if any(model.base is scorer.model for model in scorer.bound.logits):
        mixture = ex.Logit("logit", int(np.flatnonzero(scorer.allowed)[0]))
    elif not hooks:
        return None
    around: dict[str, Any] = {"prefix": scorer.prefix, "suffix": scorer.suffix, "prepend_bos": scorer.prepend_bos}
    return Scorer(mixture, scorer.model, **around)


def _mixture(activations: Mapping[str, Tensor]) -> Tensor:
    """Return a fixed random combination of all activations, `[batch]`."""
    total = torch.zeros(())
    for activation in activations.values():
        flat = activation.flatten(1).float()
        flat = torch.where(flat.abs() < 1e30, flat, torch.zeros_like(flat))  # masked attention scores
        weights = torch.randn(flat.shape[1], generator=torch.Generator().manual_seed(1)) / flat.shape[1] ** 0.5
        total = total.to(flat.device) + flat @ to_device(weights, flat.device)
    return total


def check_gradient(
    scorer: Scorer, ids: Int64[np.ndarray, "K n"], steps: tuple[float, ...] | None = None
) -> GradientCheck:
    """Compare the gradient of a scorer's feature with finite differences.

    This takes one backward pass over the prompts, and forward passes, up to the feature's hook point, over four times
    as many rows for each step.

    Args:
        scorer: Scorer of the feature.
        ids: Token ids of the prompts.
        steps: Steps as shares of the length of an embedding; None chooses them by the precision of the model.

    Raises:
        NoGradientError: The value is not a differentiable function of the embeddings at all, or the gradient does not
            go through an operation on its way.
    """
    coarse = scorer.model.dtype.itemsize < 4
    steps = steps or (COARSE_STEPS if coarse else STEPS)
    found, missing = noting_missing_backward(lambda: scorer.plain_gradient(ids))
    if missing:
        raise NoGradientError(
            f"The gradients of {scorer.bound.feature.label} and of the cross-entropy on {scorer.model.name} are wrong: "
            f"{' and '.join(missing)} computed without a backward pass (device: {scorer.model.device.type}). If "
            "the weights are quantised, load the model without quantization_config, or on a GPU; or use "
            'search="random", which needs no gradient.'
        )
    own = (p.value for m, p in zip(scorer.backward.models, found.parts, strict=False) if m.base is scorer.model)
    slope = torch.stack(list(own)).sum(0)
    lengths = slope.norm(dim=(1, 2), keepdim=True)
    random = torch.randn(slope.shape, generator=torch.Generator().manual_seed(0))
    random = to_device(random, slope.device)
    random /= random.norm(dim=-1, keepdim=True)  # one unit vector for each token
    # In the direction of the gradient the slope is steepest, and so clearest above the noise. A random direction shows
    # what the gradient lacks altogether.
    along = torch.where(lengths > 0, slope / lengths.clamp_min(1e-30), -random.flip(0))
    directions = torch.stack([along, random])  # [direction, K, n, d_model]
    table = scorer.model.embedding_table
    row = float(table[to_device(np.asarray(ids), table.device)].float().norm(dim=-1).mean())
    expected, length = to_host((directions * slope).sum((-1, -2)) * row, lengths.flatten())
    usual = np.stack([length, length / slope.shape[-1] ** 0.5]) * row  # slope in a direction of no particular kind

    sides = np.array([0.0, *(sign * share for share in steps for sign in (-1, 1))])  # [side]
    count = len(ids)
    side, at, k = (x.ravel() for x in np.meshgrid(range(len(sides)), range(2), range(count), indexing="ij"))

    def shifts(part: slice) -> Tensor:
        picked = directions[to_device(at[part], slope.device), to_device(k[part], slope.device)]
        sizes = (row * sides[side[part]]).astype(np.float32)
        return picked * to_device(sizes, slope.device)[:, None, None]

    (values,) = to_host(torch.cat(_batches(scorer, ids[k], shifts)))
    values = values.astype(np.float64).reshape(len(sides), 2, count)
    measured = values[0], values[1::2], values[2::2], expected, usual, np.array(steps), coarse, float(length.mean())
    result = _judge(*measured)
    if result.verdict in (MISSING, DIFFERS):
        # Values far below what they are computed from, as in the tail of a GELU, are made of rounding errors.
        proxy = _mixture_scorer(scorer)
        if proxy is not None:
            result = _judge(*measured, float(np.abs(scorer_values(proxy, ids)).max()))
    return result


def _batches(scorer: Scorer, ids: Int64[np.ndarray, "B n"], shifts: Any) -> list[Tensor]:
    """Return the values of prompts with shifted embeddings, batch by batch; `shifts` returns those of a slice."""
    return scorer.forward.batches.map(
        lambda part: scorer.values_at(ids[part], shifts(part)),
        len(ids),
        None,
        memory_budget(scorer.model, "scoring"),
        scorer.layout(ids.shape[1]).total,
    )


def _judge(
    at: Float[np.ndarray, "two K"],
    behind: Float[np.ndarray, "step two K"],
    ahead: Float[np.ndarray, "step two K"],
    expected: Float[np.ndarray, "two K"],
    usual: Float[np.ndarray, "two K"],
    steps: Float[np.ndarray, " step"],
    coarse: bool,
    length: float,
    scale: float = 0.0,
) -> GradientCheck:
    """Compare the slopes around prompts, in two directions, with those that the gradient says.

    Args:
        at: Values at the prompts, in one column for each prompt.
        behind: Values one step against each direction.
        ahead: Values one step in each direction.
        expected: Slopes by the gradient, for a step of an embedding's length.
        usual: Slopes that a gradient of this length gives in such a direction, on average.
        steps: Steps as shares of the length of an embedding.
        coarse: Whether the model computes in sixteen bits.
        length: Mean length of the gradient.
        scale: Size of the numbers that the values are computed from; slopes lost in their rounding are unclear.
    """
    share = steps[:, None, None]
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):  # values may be NaN or infinite
        left, right, measured = (at - behind) / share, (ahead - at) / share, (ahead - behind) / (2 * share)
        # Against the largest value of all: a value near zero may be the difference of two large numbers.
        largest = max(scale, np.nan_to_num(np.abs(np.stack([ahead, behind])), posinf=0.0).max())
        noise = largest * (2.0**-7 if coarse else 2.0**-20) / share
        straight = (np.abs(left - right) <= 0.5 * np.abs(measured)) & (np.abs(measured) > 4 * noise)
        spread, size = measured.max(0) - measured.min(0), np.abs(measured).max(0)
        steady = straight.all(0) & (spread <= (0.3 if coarse else 0.1) * size)  # [two, K]
        off = np.abs(measured - expected).min(0)
        against = np.maximum(np.maximum(np.abs(expected), np.abs(measured).min(0)), usual)
        right_enough = off <= (COARSE_TOLERANCE if coarse else TOLERANCE) * against
        relative = np.abs(measured[:, 0] - expected[0]) / np.maximum(np.abs(expected[0]), 1e-300)  # [step, K]
    has = usual[0] > 0
    missing = steady & ~has
    wrong = steady & ~right_enough & (off > 3 * spread) & has
    error, share_at = np.inf, float(steps[0])
    if has.any():
        medians = np.sort(np.nan_to_num(relative[:, has], nan=np.inf), axis=1)[:, (has.sum() - 1) // 2]
        error, share_at = float(medians.min()), float(steps[medians.argmin()])

    def result(verdict: str, which: np.ndarray) -> GradientCheck:
        two, k = np.unravel_index(np.where(which, off, -1.0).argmax(), which.shape)
        middle = float(np.nanmedian(measured[:, two, k])) if np.isfinite(measured[:, two, k]).any() else np.nan
        return GradientCheck(verdict, float(expected[two, k]), middle, error, share_at, length)

    if not has.all() and 2 * missing.any(0).sum() >= (~has).sum() and 2 * (~has).sum() >= len(has):
        return result(MISSING, missing)
    if 2 * wrong.sum(1).max() > has.sum():
        return result(DIFFERS, wrong)
    agrees = has.any() and 2 * right_enough[0, has].sum() >= has.sum()
    return result(AGREES if agrees else UNCLEAR if has.any() else FLAT, np.ones_like(steady))
