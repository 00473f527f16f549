"""Direct path from a hook point to the logits: through the residual stream, the last norm and the unembedding.

If later layers are left out, only linear maps and norms lie between the output of a component and the logits. A norm
divides by a scale that depends on the prompt. Apart from that scale, a norm is linear too: a LayerNorm subtracts the
mean, and every norm multiplies by its weights. The weights are measured on the output of the norm and not read from its
parameters. So weights that are stored as an offset from one, or folded into another component, are correct too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from einops import reduce
from jaxtyping import Float
from torch import Tensor

from dreamy_lens.models.hooked_model import HookedModel


class NoPathError(Exception):
    """Error if there is no direct path; the message is a sentence that gives the reason."""


@dataclass(frozen=True)
class DirectPath:
    """Direct path from a hook point to the residual stream.

    Attributes:
        through: Names and components on the path, in order; empty if the hook point is in the residual stream.
        later: Whether any component other than the last norm reads the residual stream after the end of the path.
        kind: "stream" for a hook point in the residual stream, "output" for the output that a component adds to the
            stream, "inside" for an activation that is mapped linearly to such an output.
        by_head: Whether an activation `[head, d_model]` is summed over its heads.
    """

    through: tuple[tuple[str, Any], ...]
    later: bool
    kind: str
    by_head: bool = False

    @property
    def norms(self) -> bool:
        """Return whether a norm is on the path to the residual stream."""
        return any(_is_norm(name) for name, _ in self.through)

    @property
    def first(self) -> str:
        """Name of the first component on the path; "" if there is none."""
        return self.through[0][0] if self.through else ""

    @torch.no_grad()
    def follow(self, vector: Float[Tensor, ...]) -> Float[Tensor, " d_model"]:
        """Map a vector at the hook point to the residual stream, with the scales of norms taken as 1."""
        out = vector.float()
        out = reduce(out, "head model -> model", "sum") if self.by_head and out.dim() > 1 else out.flatten()
        for name, component in self.through:
            out = apply_norm(component, out, name) if _is_norm(name) else apply_linear(component, out, name)
        return out


@dataclass(frozen=True)
class JoinedPaths:
    """Direct paths of the rows of one activation, `[row, ...]`, each from a hook point of its own.

    Attributes:
        paths: Path of each row.
    """

    paths: tuple[DirectPath, ...]
    kind: ClassVar[str] = "output"

    @property
    def later(self) -> bool:
        """Return whether any component other than the last norm reads the residual stream after one of the paths."""
        return any(path.later for path in self.paths)

    @property
    def norms(self) -> bool:
        """Return whether a norm is on one of the paths."""
        return any(path.norms for path in self.paths)

    @property
    def first(self) -> str:
        """Name of the first component on the first path; "" if there is none."""
        return self.paths[0].first

    @torch.no_grad()
    def follow(self, vector: Float[Tensor, "row ..."]) -> Float[Tensor, " d_model"]:
        """Map each row to the residual stream, and add them up."""
        return torch.stack([path.follow(row) for path, row in zip(self.paths, vector, strict=True)]).sum(0)


def find_direct_path(model: HookedModel, name: str) -> DirectPath:
    """Find the direct path from a hook point to the residual stream.

    Raises:
        NoPathError: The hook point is not in the residual stream, and no linear map leads there.
    """

    def is_one_of(*names: str) -> bool:
        """Return whether the hook point has one of these names."""
        return any(model.backend.is_same_hook(name, other) for other in names)

    if is_one_of("ln_final.hook_in"):
        return DirectPath((), False, "stream")
    parts = name.split(".")
    if parts[0] == "blocks" and len(parts) > 2 and parts[1].isdigit():
        i = int(parts[1])
        at_block = f"blocks.{i}."
        last = i == model.n_layers - 1
        if is_one_of(at_block + "hook_resid_post", at_block + "hook_out"):
            return DirectPath((), not last, "stream")
        if is_one_of(at_block + "hook_resid_pre", at_block + "hook_in", at_block + "hook_resid_mid"):
            return DirectPath((), True, "stream")
        for part, projection, output, norm, later in (
            ("mlp", "out", "hook_mlp_out", "ln2_post", not last),
            ("attn", "o", "hook_attn_out", "ln1_post", not last or not model.backend.parallel_blocks),
        ):
            component = at_block + part
            after = _component(model, at_block + norm)
            if is_one_of(*(norm_name + ".hook_out" for norm_name, _ in after)):
                return DirectPath((), later, "output")
            # If a norm follows, TransformerLens gives its own hook name to the output of that norm.
            if is_one_of(f"{component}.hook_out", f"{component}.{projection}.hook_out", at_block + output):
                return DirectPath(after, later, "output")
            if is_one_of(f"{component}.hook_result"):
                return DirectPath(after, later, "output", by_head=True)
            if is_one_of(
                f"{component}.{projection}.hook_in",
                f"{component}.hook_post" if part == "mlp" else f"{component}.hook_z",
            ):
                inner = _component(model, f"{component}.{projection}")
                if inner:
                    return DirectPath((*inner, *after), later, "inside")
    raise NoPathError(
        f"{name} is not in the residual stream, and its activation gets there only through a nonlinearity or through "
        "attention, in a way that depends on the prompt."
    )


@torch.no_grad()
def logits_of(model: HookedModel, vector: Float[Tensor, " d_model"]) -> Float[Tensor, " d_vocab"]:
    """Compute the change of the logits by a vector in the residual stream, with the last norm's scale taken as 1.

    Returns:
        The change of each logit before any soft cap, float32 on the CPU.

    Raises:
        NoPathError: The model has no usable unembedding, or its last norm is of an unknown kind.
    """
    norm, unembedding = (model.backend.component(name) for name in ("ln_final", "unembed"))
    out = vector if norm is None else apply_norm(norm, vector, "ln_final")
    if unembedding is None:
        raise NoPathError(f"{model.name} has no unembedding, so a feature has no direct path to logits.")
    return apply_linear(unembedding, out, "unembed").cpu()


def _component(model: HookedModel, name: str) -> tuple[tuple[str, Any], ...]:
    """Return a component with its full name, or nothing if the model does not have it."""
    module = model.backend.component(name)
    return () if module is None else ((name, module),)


def _is_norm(name: str) -> bool:
    """Return whether a component is a norm, by its name."""
    return name.rpartition(".")[2].startswith("ln")


def apply_linear(component: Any, x: Float[Tensor, " d_in"], name: str) -> Float[Tensor, " d_out"]:
    """Map `x` through a linear component without its bias; float32."""
    inner = getattr(component, "original_component", None) or component
    like = next((p for p in inner.parameters() if p.is_floating_point()), x)
    given = x.to(like.device, like.dtype)
    try:
        mapped, bias = inner(torch.stack([given, torch.zeros_like(given)])[None])[0].float()
    except (RuntimeError, TypeError, ValueError) as error:
        raise NoPathError(f"{name} cannot be applied to a single vector ({error}).") from error
    return mapped - bias


def apply_norm(component: Any, x: Float[Tensor, " d_model"], name: str) -> Float[Tensor, " d_model"]:
    """Map `x` through a norm, with its scale taken as 1 and without its bias; float32."""
    return measure_norm(component, x.numel(), name)(x)


@dataclass(frozen=True)
class NormWeights:
    """Linear part of a norm: what it does to a vector apart from its scale and its bias.

    Attributes:
        gain: Weights.
        centred: Whether the norm subtracts the mean before it multiplies by the weights.
    """

    gain: Float[Tensor, " d_model"]
    centred: bool

    def __call__(self, x: Float[Tensor, "*row d_model"]) -> Float[Tensor, "*row d_model"]:
        """Return the linear part of the norm of vectors."""
        x = x.to(self.gain.device)
        return self.gain * (_centred(x) if self.centred else x)


def measure_norm(component: Any, d_model: int, name: str) -> NormWeights:
    """Measure the linear part of a norm on probe vectors.

    A vector of plus and minus ones with mean zero reveals its weights. That vector, shifted away from zero, reveals
    whether the norm subtracts the mean. A ramp checks both results.

    Raises:
        NoPathError: The component is no norm of a known kind.
    """
    signs = torch.ones(d_model)
    signs[1::2] = -1.0
    if d_model % 2:
        signs[-1] = 0.0  # keeps the mean at zero; the reversed vector reveals the last weight
    probes = [signs, signs.flip(0), signs + 0.5, _ramp(d_model)]
    like = next((p for p in component.parameters() if p.is_floating_point()), signs)
    plus = torch.stack(probes).to(like.device, like.dtype) * 8.0  # so large that the norm's epsilon is negligible
    with torch.no_grad(), without_hooks(component):
        up, down = component(plus[None])[0].float(), component(-plus[None])[0].float()
    outputs = (up - down) / 2  # removes the bias
    plus = plus.float()
    gain = torch.where(plus[0] != 0, outputs[0] / _scaled(plus[0]), outputs[1] / _scaled(plus[1]))
    for centres in (False, True):
        expected = [_centred(p) if centres else p for p in plus[2:]]
        if all(_close(a, gain * _scaled(t)) for a, t in zip(outputs[2:], expected, strict=True)):
            return NormWeights(gain, centres)
    raise NoPathError(
        f"{name} is a {type(component).__name__}, which behaves neither as a LayerNorm nor as an RMSNorm."
    )


def _close(a: Tensor, b: Tensor) -> bool:
    """Return whether two vectors agree to the precision of half-precision weights, relative to their length."""
    return bool((a - b).norm() <= 0.02 * b.norm())


def _ramp(n: int) -> Tensor:
    """Return evenly spaced numbers whose mean is not zero."""
    return torch.linspace(-0.5, 1.5, n) if n > 1 else torch.ones(n)


def _centred(x: Tensor) -> Tensor:
    """Subtract the mean over the last axis."""
    return x - x.mean(-1, keepdim=True)


def _scaled(x: Tensor) -> Tensor:
    """Divide by the root mean square over the last axis."""
    return x / x.pow(2).mean(-1, keepdim=True).sqrt().clamp_min(1e-12)


@contextlib.contextmanager
def without_hooks(component: Any) -> Iterator[None]:
    """Remove the hooks on a component inside the `with` block: hooks of users could change the measured weights."""
    tables = [m._forward_hooks for m in component.modules() if hasattr(m, "fwd_hooks")]
    before = [dict(table) for table in tables]
    try:
        for table in tables:
            table.clear()
        yield
    finally:
        for table, hooks in zip(tables, before, strict=True):
            table.update(hooks)
