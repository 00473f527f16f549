"""The direct path from a place in a model to its logits: through the residual stream, last norm and unembedding.

Between what a component writes and the logits stands nothing but linear maps and norms, if what later layers make of it
is left out. A norm divides by a scale that depends on the prompt; with that scale taken out, it is linear too: it
takes the mean off where it is a LayerNorm, and multiplies by its weights. What a norm does is found out by asking it,
so that weights stored as an offset from one, and weights folded elsewhere, come out right.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from einops import reduce
from jaxtyping import Float
from torch import Tensor

from dreamy_lens.models.hooked_model import HookedModel


class NoPathError(Exception):
    """There is no direct path; the message is a sentence that says why."""


@dataclass(frozen=True)
class DirectPath:
    """The direct path from a hook point to the residual stream.

    Attributes:
        through: components on the path, in order, with their names; none if the hook point is in the stream.
        later: whether anything reads the stream after that, the last norm aside.
        kind: "stream" for the residual stream, "output" for what a component adds to it, "inside" for what is mapped
            linearly to such an output.
        by_head: whether an activation `[head, d_model]` is summed over its heads.
    """

    through: tuple[tuple[str, Any], ...]
    later: bool
    kind: str
    by_head: bool = False

    @property
    def norms(self) -> bool:
        """Whether a norm is on the path to the stream."""
        return any(_is_norm(name) for name, _ in self.through)

    @property
    def first(self) -> str:
        """Name of the first component on the path; "" if there is none."""
        return self.through[0][0] if self.through else ""

    @torch.no_grad()
    def follow(self, vector: Float[Tensor, ...]) -> Float[Tensor, " d_model"]:
        """Map a vector at the hook point to the residual stream, up to the scales of norms."""
        out = vector.float()
        out = reduce(out, "head model -> model", "sum") if self.by_head and out.dim() > 1 else out.flatten()
        for name, component in self.through:
            out = apply_norm(component, out, name) if _is_norm(name) else apply_linear(component, out, name)
        return out


def find_direct_path(model: HookedModel, name: str) -> DirectPath:
    """Find the direct path from a hook point to the residual stream.

    Raises:
        NoPathError: it is not in the stream, and nothing linear leads there.
    """

    def is_one_of(*names: str) -> bool:
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
            # Where a norm follows, TransformerLens' own name is for what comes out of it.
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
        f"{name} is not in the residual stream, and what it holds gets there only through a nonlinearity or through "
        "attention, in a way that depends on the prompt."
    )


@torch.no_grad()
def logits_of(model: HookedModel, vector: Float[Tensor, " d_model"]) -> Float[Tensor, " d_vocab"]:
    """Compute what a vector in the residual stream adds to the logits, with the last norm's scale taken as 1.

    Returns:
        float32 on the CPU, before any soft cap.

    Raises:
        NoPathError: the model has no unembedding that can be asked, or its last norm is of an unknown kind.
    """
    norm, unembedding = (model.backend.component(name) for name in ("ln_final", "unembed"))
    out = vector if norm is None else apply_norm(norm, vector, "ln_final")
    if unembedding is None:
        raise NoPathError(f"{model.name} has no unembedding, so there are no logits to promote.")
    return apply_linear(unembedding, out, "unembed").cpu()


def _component(model: HookedModel, name: str) -> tuple[tuple[str, Any], ...]:
    """A component with its name, if the model has it."""
    module = model.backend.component(name)
    return () if module is None else ((name, module),)


def _is_norm(name: str) -> bool:
    return name.rpartition(".")[2].startswith("ln")


def apply_linear(component: Any, x: Float[Tensor, " d_in"], name: str) -> Float[Tensor, " d_out"]:
    """Map `x` through a linear component, its bias left out; float32."""
    inner = getattr(component, "original_component", None) or component
    like = next((p for p in inner.parameters() if p.is_floating_point()), x)
    given = x.to(like.device, like.dtype)
    try:
        mapped, bias = inner(torch.stack([given, torch.zeros_like(given)])[None])[0].float()
    except (RuntimeError, TypeError, ValueError) as error:
        raise NoPathError(f"{name} does not take what comes before it by itself ({error}).") from error
    return mapped - bias


def apply_norm(component: Any, x: Float[Tensor, " d_model"], name: str) -> Float[Tensor, " d_model"]:
    """Map `x` through a norm whose scale is taken as 1 and whose bias is left out; float32.

    A norm is asked about a vector of plus and minus ones without a mean, from which its weights can be read, and about
    the same vector moved away from zero, which tells whether it takes means off. A third answer checks both.
    """
    n = x.numel()
    signs = torch.ones(n)
    signs[1::2] = -1.0
    if n % 2:
        signs[-1] = 0.0  # and the vector has no mean; the last weight is read from its mirror image
    probes = [signs, signs.flip(0), signs + 0.5, _ramp(n)]
    like = next((p for p in component.parameters() if p.is_floating_point()), x)
    plus = torch.stack(probes).to(like.device, like.dtype) * 8.0  # so large that a norm's epsilon is nothing
    with _unhooked(component):
        up, down = component(plus[None])[0].float(), component(-plus[None])[0].float()
    answers = (up - down) / 2  # without the bias
    plus = plus.float()
    gain = torch.where(plus[0] != 0, answers[0] / _scaled(plus[0]), answers[1] / _scaled(plus[1]))
    for centres in (False, True):
        expected = [_centred(p) if centres else p for p in plus[2:]]
        if all(_close(a, gain * _scaled(t)) for a, t in zip(answers[2:], expected, strict=True)):
            x = x.to(gain.device)
            return gain * (_centred(x) if centres else x)
    raise NoPathError(f"{name} is a {type(component).__name__} that is neither a LayerNorm nor an RMSNorm.")


def _close(a: Tensor, b: Tensor) -> bool:
    """Tell whether two vectors agree to the precision of half-precision weights, relative to the whole."""
    return bool((a - b).norm() <= 0.02 * b.norm())


def _ramp(n: int) -> Tensor:
    return torch.linspace(-0.5, 1.5, n) if n > 1 else torch.ones(n)


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)


def _scaled(x: Tensor) -> Tensor:
    return x / x.pow(2).mean(-1, keepdim=True).sqrt().clamp_min(1e-12)


@contextlib.contextmanager
def _unhooked(component: Any) -> Iterator[None]:
    """Take hooks off the hook points of a component: those of users change activations, and this is about weights."""
    tables = [m._forward_hooks for m in component.modules() if hasattr(m, "fwd_hooks")]
    before = [dict(table) for table in tables]
    try:
        for table in tables:
            table.clear()
        yield
    finally:
        for table, hooks in zip(tables, before, strict=True):
            table.update(hooks)
