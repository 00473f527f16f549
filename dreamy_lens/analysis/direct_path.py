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
from torch import Tensor

from dreamy_lens.models.hooked_model import HookedModel


class NoPathError(Exception):
    """There is no direct path; the message is a sentence that says why."""


@dataclass(frozen=True)
class DirectPath:
    """The way from a hook point to the residual stream.

    Attributes:
        through: components on it, in order, with their names; none if the hook point is in the stream.
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
        """Whether a norm is on the way to the stream."""
        return any(_is_norm(name) for name, _ in self.through)

    @torch.no_grad()
    def follow(self, vector: Tensor) -> Tensor:
        """What a vector at the hook point is in the residual stream, `[d_model]`, up to the scales of norms."""
        out = vector.float()
        out = out.sum(0) if self.by_head and out.dim() > 1 else out.flatten()
        for name, component in self.through:
            out = _norm(component, out, name) if _is_norm(name) else _linear(component, out, name)
        return out


def path(model: HookedModel, name: str) -> DirectPath:
    """The way from a hook point to the residual stream.

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
            of = at_block + part
            after = _component(model, at_block + norm)
            if is_one_of(*(n + ".hook_out" for n, _ in after)):
                return DirectPath((), later, "output")
            # Where a norm follows, TransformerLens' own name is for what comes out of it.
            if is_one_of(f"{of}.hook_out", f"{of}.{projection}.hook_out", at_block + output):
                return DirectPath(after, later, "output")
            if is_one_of(f"{of}.hook_result"):
                return DirectPath(after, later, "output", by_head=True)
            if is_one_of(f"{of}.{projection}.hook_in", f"{of}.hook_post" if part == "mlp" else f"{of}.hook_z"):
                inner = _component(model, f"{of}.{projection}")
                if inner:
                    return DirectPath((*inner, *after), later, "inside")
    raise NoPathError(
        f"{name} is not in the residual stream, and what it holds gets there only through a nonlinearity or through "
        "attention, in a way that depends on the prompt."
    )


@torch.no_grad()
def logits_of(model: HookedModel, vector: Tensor) -> Tensor:
    """What a vector `[d_model]` in the residual stream adds to the logits, with the last norm's scale taken as 1.

    Returns:
        float32 `[d_vocab]` on the CPU, before any soft cap.

    Raises:
        NoPathError: the model has no unembedding that can be asked, or its last norm is of an unknown kind.
    """
    norm, unembedding = (model.backend.component(name) for name in ("ln_final", "unembed"))
    out = vector if norm is None else _norm(norm, vector, "ln_final")
    if unembedding is None:
        raise NoPathError(f"{model.name} has no unembedding, so there are no logits to promote.")
    return _linear(unembedding, out, "unembed").cpu()


def _component(model: HookedModel, name: str) -> tuple[tuple[str, Any], ...]:
    """A component with its name, if the model has it."""
    module = model.backend.component(name)
    return () if module is None else ((name, module),)


def _is_norm(name: str) -> bool:
    return name.rpartition(".")[2].startswith("ln")


def _linear(component: Any, x: Tensor, name: str) -> Tensor:
    """`x` through a linear map, its bias left out, float32."""
    inner = getattr(component, "original_component", None) or component
    like = next((p for p in inner.parameters() if p.is_floating_point()), x)
    given = x.to(like.device, like.dtype)
    try:
        mapped, nothing = inner(torch.stack([given, torch.zeros_like(given)])[None])[0].float()
    except (RuntimeError, TypeError, ValueError) as error:
        raise NoPathError(f"{name} does not take what comes before it by itself ({error}).") from error
    return mapped - nothing


def _norm(component: Any, x: Tensor, name: str) -> Tensor:
    """`x` through a norm whose scale is 1 and whose bias is left out, float32.

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
        told = [_centred(p) if centres else p for p in plus[2:]]
        if all(_close(a, gain * _scaled(t)) for a, t in zip(answers[2:], told, strict=True)):
            x = x.to(gain.device)
            return gain * (_centred(x) if centres else x)
    raise NoPathError(f"{name} is a {type(component).__name__} that is neither a LayerNorm nor an RMSNorm.")


def _close(a: Tensor, b: Tensor) -> bool:
    """To the precision of half-precision weights, relative to the whole."""
    return bool((a - b).norm() <= 0.02 * b.norm())


def _ramp(n: int) -> Tensor:
    return torch.linspace(-0.5, 1.5, n) if n > 1 else torch.ones(n)


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)


def _scaled(x: Tensor) -> Tensor:
    return x / x.pow(2).mean(-1, keepdim=True).sqrt().clamp_min(1e-12)


@contextlib.contextmanager
def _unhooked(component: Any) -> Iterator[None]:
    """No hooks on the hook points of a component: those of users change activations, and this is about weights."""
    tables = [m._forward_hooks for m in component.modules() if hasattr(m, "fwd_hooks")]
    before = [dict(table) for table in tables]
    try:
        for table in tables:
            table.clear()
        yield
    finally:
        for table, hooks in zip(tables, before, strict=True):
            table.update(hooks)
