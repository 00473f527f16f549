"""One pass that shows what a hook point and the components around it hold, for the verification of its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from dreamy_lens.models.hooked_model import HookedModel

PROBE_LENGTH = 6
"""Number of tokens of each of the two prompts of the pass."""

_SIDES = ("in", "out")
_LOW_PRECISION = {torch.float16, torch.bfloat16}


class Evidence(NamedTuple):
    """What one pass shows about a hook point.

    Attributes:
        activation: Activation at the hook point, `[batch, ...]`.
        inputs: Inputs of the layer's components that ran, by name, such as "out".
        outputs: Outputs of those components.
        n_heads: Number of attention heads of the layer; None if it is not known.
        d_model: Width of the residual stream.
    """

    activation: Tensor
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    n_heads: int | None
    d_model: int


@torch.no_grad()
def observe(model: HookedModel, name: str, layer: str, components: tuple[str, ...]) -> Evidence:
    """Run one pass over two prompts, and return what the hook point and the components of its layer hold.

    Hooks of the user are left out: they change numbers, and not what a name means.

    Args:
        model: Model with the hook point.
        name: Name of the hook point.
        layer: Layer of the hook point, such as `blocks.1.mlp`.
        components: Components of the layer to look at, by the last part of their names.
    """
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}

    def keep(part: str) -> Callable[..., None]:
        def hook(module: Any, args: Any, output: Any) -> None:
            first = args[0] if args else None
            result = output[0] if isinstance(output, tuple) else output
            if isinstance(first, Tensor) and isinstance(result, Tensor) and part not in inputs:  # the first call counts
                inputs[part], outputs[part] = first, result

        return hook

    allowed = model.vocabulary.allowed.nonzero()[0]
    rows = [[int(allowed[(i * 7 + row * 3) % len(allowed)]) for i in range(PROBE_LENGTH)] for row in range(2)]
    ids = torch.tensor(rows, device=model.device)
    known = set(model.hook_names())
    pattern = f"{layer}.hook_pattern"  # shows the number of heads
    wanted = [name] if pattern not in known else [name, pattern]
    seen: dict[str, Tensor] = {}

    def read(point: str) -> Callable[..., None]:
        def reader(activation: Any, hook: Any = None) -> None:
            tensor = activation[0] if isinstance(activation, tuple) else activation
            if isinstance(tensor, Tensor):
                seen[point] = tensor

        return reader

    # In compatibility mode, TransformerLens computes some layers from their weights and does not call their modules.
    around = [f"{layer}.{part}.hook_{side}" for part in components for side in _SIDES]
    wanted += [point for point in (f"{layer}.hook_in", *around) if point in known and point not in wanted]
    handles = []
    with model.lock, model.backend.unhooked():
        # Within the lock: a pass of another thread has other modules in these places while it bypasses components.
        modules = {part: _component(model, f"{layer}.{part}") for part in components}
        try:
            for part, module in modules.items():
                if module is not None:
                    module = getattr(module, "original_component", None) or module
                    handles.append(module.register_forward_hook(keep(part)))
            if model.gate_of(name) is None:
                model.observe(ids, {point: read(point) for point in wanted})
            else:
                activations, _ = model.run(ids, [name], logits=True)
                seen |= activations
                model.observe(ids, {point: read(point) for point in wanted if point != name})
        finally:
            for handle in handles:
                handle.remove()
    for part, module in modules.items():
        if module is not None and part not in inputs:
            x = seen.get(f"{layer}.{part}.hook_in", seen.get(f"{layer}.hook_in"))
            y = _by_weights(module, x)
            if x is not None and y is not None and same_numbers(y, seen.get(f"{layer}.{part}.hook_out", y[:0])):
                inputs[part], outputs[part] = x, y
    heads = seen[pattern].shape[1] if pattern in seen else getattr(model.backend, "n_heads", None)
    return Evidence(seen[name], inputs, outputs, heads, model.d_model)


def _component(model: HookedModel, name: str) -> torch.nn.Module | None:
    """Return the module that computes a component; None if the layer has none of this name."""
    try:
        return model.backend.component(name)
    except (AttributeError, IndexError, KeyError, TypeError):
        return None


def _by_weights(module: Any, x: Tensor | None) -> Tensor | None:
    """Compute a linear map from its weights `[out, in]`; None if it has no such weights for this input."""
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if x is None or not isinstance(weight, Tensor) or weight.ndim != 2 or weight.shape[1] != x.shape[-1]:
        return None
    return torch.nn.functional.linear(x, weight.to(x), None if bias is None else bias.to(x))


def same_numbers(a: Tensor, b: Tensor, scale: Tensor | None = None) -> bool:
    """Return whether two tensors hold the same numbers in the same order, up to rounding; shapes may differ."""
    if a.numel() != b.numel():
        return False
    precision = 0.02 if {a.dtype, b.dtype, *([] if scale is None else [scale.dtype])} & _LOW_PRECISION else 1e-4
    a, b = a.reshape(-1).float(), b.reshape(-1).float().to(a.device)
    size = (b if scale is None else scale.float()).abs().max().clamp_min(1e-6)
    return bool(((a - b).abs().max() <= precision * size).item())
