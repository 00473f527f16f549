"""Neurons of the experts in a mixture of experts, and the logits of its router.

Transformers stores the experts of a layer in one module with a tensor for all of them, so no hook point shows an
expert's neurons. They are functions of what the MLP reads, at each position alone: the router chooses experts, and a
chosen expert's neurons are its gated hidden units, which its last linear map reads. A neuron of an expert that the
router does not choose is 0.

The router's choice is made by the layer's own code, which runs until it calls the experts. The expert's neurons are
computed from its weights by the module's own gating function. A pass at the time of binding compares both with what the
layer does; a layer in which they differ is refused.
"""

from __future__ import annotations

import inspect
import weakref
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dreamy_lens.errors import FeatureRangeError, HookMeaningError
from dreamy_lens.models.hook_evidence import PROBE_LENGTH, same_numbers

if TYPE_CHECKING:
    from dreamy_lens.models.hooked_model import HookedModel

_FOUND: weakref.WeakKeyDictionary[Any, dict[Any, str | None]] = weakref.WeakKeyDictionary()
"""Why the experts of a layer cannot be computed, or None, by layer and mode of the model."""


_GATE = "_apply_gate"
"""Method by which a module of experts gates hidden units."""


class _Chosen(Exception):
    """Ends a layer's own code when the router has chosen."""


class Experts:
    """Experts of one layer, verified.

    Args:
        model: Model with the layer.
        layer: Index of the layer.
        name: Hook point whose activation the router and the experts of the layer read.
        label: Text form of the feature, for error messages.

    Attributes:
        count: Number of experts.
        width: Number of neurons of each.

    Raises:
        HookMeaningError: The layer has no experts, or experts whose neurons cannot be computed.
    """

    def __init__(self, model: HookedModel, layer: int, name: str, label: str) -> None:
        self.model, self.name = model, name
        self._mlp, self._experts, why = _modules(model, layer)
        if why is None:
            weights = self._experts.gate_up_proj.shape  # [expert, out, in], or [expert, in, out] if transposed
            self.count, self.width = weights[0], weights[2 if self._experts.is_transposed else 1] // 2
            known = _FOUND.setdefault(model, {})
            key = layer, model.backend.mode
            if key not in known:
                known[key] = self._differs()
            why = known[key]
        if why is not None:
            raise self._refusal(label, why)

    def check(self, expert: int, index: int, label: str) -> None:
        """Raise FeatureRangeError unless there is such a neuron."""
        for noun, given, count in (("expert", expert, self.count), ("neuron", index, self.width)):
            if not 0 <= given < count:
                raise FeatureRangeError(
                    f"{label}: there is no {noun} {given}; {self.model.name} has {count} {noun}s there, 0 to "
                    f"{count - 1}."
                )

    def neuron(self, x: Float[Tensor, "*place d_model"], expert: int, index: int) -> Float[Tensor, "*place"]:
        """Return a neuron's values where the router chooses its expert, and 0 elsewhere.

        The values are differentiable in `x`; the router's choice is constant around almost every `x`.
        """
        # The gating function acts on each neuron alone, so it is given the two units of this one.
        w = self.width
        units = [index, w + index] if self._experts.is_concatenated else [2 * index, 2 * index + 1]
        value = self._gated(x, expert, units)[..., 0]
        chosen = (self.choice(x)[0] == expert).any(-1).reshape(value.shape)
        return torch.where(chosen, value, torch.zeros_like(value))

    def check_router(self, label: str) -> None:
        """Raise HookMeaningError unless the router has one linear map of what the MLP reads."""
        if self._router() is None:
            raise self._refusal(label, "its router is not one linear map with a number for each expert")

    def router_logit(self, x: Float[Tensor, "*place d_model"], expert: int) -> Float[Tensor, "*place"]:
        """Return the logit that the router gives an expert, before any normalisation; differentiable in `x`."""
        router = self._router()
        assert router is not None
        weight, bias = router.weight[expert], getattr(router, "bias", None)
        logit = x.to(weight.dtype) @ weight
        return logit if bias is None else logit + bias[expert]

    def _router(self) -> Any:
        """Return the only module of the MLP whose weights have one row for each expert; None without such a module."""
        shape = (self.count, self.model.d_model)
        found = {
            id(weight): module
            for module in self._mlp.modules()
            if isinstance(weight := getattr(module, "weight", None), Tensor) and tuple(weight.shape) == shape
        }
        return next(iter(found.values())) if len(found) == 1 else None

    def _refusal(self, label: str, why: str) -> HookMeaningError:
        return HookMeaningError(
            f"{label} on {self.model.name} cannot be computed: {why}. `dreamy-lens hooks` shows the shapes of all hook "
            "points."
        )

    def choice(self, x: Float[Tensor, "*place d_model"]) -> tuple[Int[Tensor, "n k"], Tensor]:
        """Return the experts that the router chooses at each place, and their weights."""
        found: dict[str, Tensor] = {}

        def stop(module: Any, args: Any, kwargs: Any) -> None:
            found.update(_arguments(module, args, kwargs))
            raise _Chosen

        with self.model.lock, torch.no_grad():
            handle = self._experts.register_forward_pre_hook(stop, with_kwargs=True)
            try:
                self._mlp(x.detach().reshape(1, -1, x.shape[-1]))
            except _Chosen:
                pass
            finally:
                handle.remove()
        return found["index"], found["weights"]

    def _gated(self, x: Tensor, expert: int, units: list[int] | slice) -> Tensor:
        """Return the gated hidden units of an expert, `[..., width]`, from both halves of its first linear map."""
        weight, bias = self._experts.gate_up_proj[expert], getattr(self._experts, "gate_up_proj_bias", None)
        weight = (weight.T if self._experts.is_transposed else weight)[units]
        hidden = torch.nn.functional.linear(
            x.to(weight.dtype), weight, None if bias is None else bias[expert][units].to(weight.dtype)
        )
        return getattr(self._experts, _GATE)(hidden)

    @torch.no_grad()
    def _differs(self) -> str | None:
        """Return how the experts' neurons differ from what the layer computes with them; None if they do not."""
        model, seen = self.model, dict[str, Tensor]()

        def keep(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            seen.update(_arguments(module, args, kwargs))
            seen["output"] = output[0] if isinstance(output, tuple) else output

        allowed = model.vocabulary.allowed.nonzero()[0]
        rows = [[int(allowed[(i * 7 + row * 3) % len(allowed)]) for i in range(PROBE_LENGTH)] for row in range(2)]
        with model.lock, model.backend.unhooked():
            handle = self._experts.register_forward_hook(keep, with_kwargs=True)
            try:
                activations, _ = model.run(torch.tensor(rows, device=model.device), [self.name])
            finally:
                handle.remove()
            if not {"x", "index", "weights", "output"} <= seen.keys():
                return "its experts are not given the router's choice"
            x = activations[self.name].reshape(-1, activations[self.name].shape[-1])
            index, _ = self.choice(activations[self.name])
        if not same_numbers(x, seen["x"]):
            return "its experts do not read what the MLP reads"
        if index.shape != seen["index"].shape or not torch.equal(index, seen["index"]):
            return "its router chooses other experts when it is asked alone"
        written = torch.zeros_like(x)
        for expert in range(self.count):
            gated, down = self._gated(x, expert, slice(None)), self._experts.down_proj[expert]
            bias = getattr(self._experts, "down_proj_bias", None)
            out = torch.nn.functional.linear(gated, down.T if self._experts.is_transposed else down)
            out = out if bias is None else out + bias[expert]
            written += out * (seen["weights"] * (index == expert)).sum(-1, keepdim=True)
            alone = self.neuron(x, expert, self.width - 1)
            if not same_numbers(alone, gated[:, -1] * (index == expert).any(-1), gated):
                return "its experts' gating function mixes neurons"
        if not same_numbers(written, seen["output"]):
            return "its experts do not write what their neurons and weights say"
        return None


def _modules(model: HookedModel, layer: int) -> tuple[Any, Any, str | None]:
    """Return the MLP of a layer, the module of its experts, and why there are none; None if there are."""
    try:
        mlp = model.backend.component(f"blocks.{layer}.mlp")
    except (AttributeError, IndexError, KeyError, TypeError):
        mlp = None
    mlp = getattr(mlp, "original_component", None) or mlp
    parts = [] if mlp is None else [m for m in mlp.modules() if _GATE in dir(type(m))]
    if len(parts) != 1:
        return mlp, None, "this layer has no experts, or experts that transformers gates in another way"
    (experts,) = parts
    weights = [getattr(experts, name, None) for name in ("gate_up_proj", "down_proj")]
    if not all(isinstance(w, Tensor) and w.ndim == 3 and w.is_floating_point() for w in weights):
        return mlp, None, "its experts' weights are not two tensors of numbers, as after quantisation"
    return mlp, experts, None


def _arguments(module: Any, args: Any, kwargs: Any) -> dict[str, Tensor]:
    """Return what a module of experts is given: `x`, and the `index` and the `weights` of the router's choice."""
    names = [name for name in inspect.signature(module.forward).parameters if name != "self"]
    given = dict(zip(names, args, strict=False)) | kwargs
    values = [given.get(name) for name in names[:3]]
    keys = ("x", "index", "weights")
    return {key: value for key, value in zip(keys, values, strict=False) if isinstance(value, Tensor)}
