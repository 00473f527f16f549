"""Verification of functions that users supply: custom features, and the `encode` of an autoencoder in memory.

The package evaluates such a function on batches of many sizes and orders, and reads the same activations for other
parts of a feature. So a function must return the value of each prompt whatever else is in the batch, the same one every
time, and must leave the activations alone. This is tried once, on three short prompts, before a search starts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from dreamy_lens.errors import DreamyLensError, FeatureError
from dreamy_lens.models.transfer import in_float64

PROMPTS = 3
"""Number of different prompts on which functions are tried."""

TOLERANCE, COARSE_TOLERANCE = 1e-3, 0.05
"""Largest relative difference between two values that is taken for rounding, in 32 and in 16 bits."""


def verify_function(function: Callable[[dict[str, Tensor]], Any], activations: Mapping[str, Tensor], whose: str) -> Any:
    """Try a function of activations on several prompts together and on each alone.

    Args:
        function: Function of the activations `[batch, ...]` by hook point; returns a tensor `[batch, ...]`.
        activations: Activations of :data:`PROMPTS` different prompts.
        whose: Function as the subject of the messages, such as "The function of custom("f")".

    Returns:
        What the function returned for all prompts together.

    Raises:
        FeatureError: The function raises an error, changes the activations, returns another value for the same
            activations, or one that depends on the other prompts of the batch.
    """
    activations = {name: x.clone() for name, x in activations.items()}
    before = {name: x.clone() for name, x in activations.items()}
    count = len(next(iter(before.values())))
    tokens = f"of {next((x.shape[1] for x in before.values() if x.dim() > 1), 0)} tokens"
    together = _called(function, dict(activations), f"{whose} failed on {count} prompts {tokens}")
    for name, x in before.items():
        if not _same_bits(x, activations[name]):
            raise FeatureError(
                f"{whose} changes the activation at {name} in place, and everything else that reads this activation "
                f"would get the changed numbers. Let it work on a copy: activations[{name!r}].clone()."
            )
    if not isinstance(together, Tensor) or len(together.shape) < 1 or len(together) != count:
        return together  # the caller says what is wrong with it
    scale = max(float(x.float().nan_to_num(posinf=0, neginf=0).abs().max()) for x in before.values() if x.numel())
    coarse = any(x.dtype.itemsize < 4 for x in before.values())
    if not _is_close(function(dict(activations)), together, scale, coarse):
        raise FeatureError(
            f"{whose} returns two different values for the same activations, so none of them can be relied on. Take "
            "randomness and state out of it."
        )
    for k in range(count):
        one = {name: x[k : k + 1] for name, x in activations.items()}
        alone = _called(function, one, f"{whose} failed on a single prompt {tokens}, though not on {count} prompts")
        if isinstance(alone, Tensor) and alone.shape[:1] != (1,):
            raise FeatureError(
                f"{whose} returned shape {list(alone.shape)} for one prompt alone; its first axis must be that of the "
                "prompts, also if there is only one."
            )
        if not _is_close(alone, together[k : k + 1], scale, coarse):
            raise FeatureError(
                f"{whose} depends on the other prompts of a batch: a prompt has {_shown(together[k])} beside "
                f"{count - 1} others and {_shown(alone)} alone. Each prompt's value must come from its own row of the "
                "activations; do not take means, ranks or maxima over the first axis."
            )
    return together


def checked_values(values: Any, count: int, label: str) -> Tensor:
    """Return what a custom function returned for some prompts; raise FeatureError unless it is one number for each."""
    if not isinstance(values, Tensor) or tuple(values.shape) != (count,):
        what = f"shape {list(values.shape)}" if isinstance(values, Tensor) else repr(type(values).__name__)
        raise FeatureError(
            f"The function of {label} returned {what} for {count} prompts; it must return a tensor with one number for "
            f"each prompt, [{count}]."
        )
    return values


def _called(function: Callable[[dict[str, Tensor]], Any], activations: dict[str, Tensor], failed: str) -> Any:
    """Call a function; turn an error into a FeatureError that begins with `failed`."""
    try:
        return function(activations)
    except DreamyLensError:
        raise
    except Exception as error:
        advice = ""
        if "require grad" in str(error):
            advice = ". It is called without gradients, on plain forward passes, so it cannot differentiate"
        raise FeatureError(f"{failed}: {type(error).__name__}: {error}{advice}") from error


def _same_bits(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors are equal, a NaN being equal to a NaN."""
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())


def _is_close(a: Any, b: Tensor, scale: float, coarse: bool) -> bool:
    """Return whether values differ by rounding at most; they are computed from numbers of the size `scale`."""
    if not isinstance(a, Tensor) or a.shape != b.shape:
        return False
    a, b = in_float64(a.detach()), in_float64(b.detach())
    b = b.to(a.device)
    finite = a.isfinite() & b.isfinite()
    if not _same_bits(torch.where(finite, 0.0, a), torch.where(finite, 0.0, b)):
        return False
    size = max(float(torch.where(finite, b, 0.0).abs().max()), 1e-3 * scale) if b.numel() else 0.0
    allowed = (COARSE_TOLERANCE if coarse else TOLERANCE) * size
    return bool((torch.where(finite, a - b, 0.0).abs() <= allowed).all())


def _shown(x: Any) -> str:
    """Return a value, or the first number of several."""
    if not isinstance(x, Tensor) or not x.numel():
        return repr(type(x).__name__)
    return f"{float(x.flatten()[0]):.6g}"
