"""Affine maps from the residual stream to hook points, with norms' scales and attention patterns as on one prompt.

A norm divides by a scale, and attention mixes positions by its pattern. If both keep the values that they have on a
prompt, everything between the residual stream and most hook points is affine: queries, keys and values, the neurons
before their nonlinearity, the outputs of heads, and the logits before a soft cap. Every map is compared with the
activation of the pass before it is used, so that a module which does something else is noticed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from einops import einsum, rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor

from dreamy_lens.analysis.direct_path import NoPathError, measure_norm, without_hooks
from dreamy_lens.models.hook_evidence import same_numbers
from dreamy_lens.models.hooked_model import HookedModel

Map = Callable[[Tensor], Tensor]
"""Affine function that autograd can differentiate."""

LOGITS = "logits"
"""Name of the model's output among activations."""

_BLOCK = (
    *("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out"),
    *("attn.hook_z", "attn.hook_pattern", "attn.hook_v", "mlp.hook_pre", "mlp.hook_pre_linear", "mlp.hook_post"),
)
_OUTSIDE = ("embed.hook_out", "pos_embed.hook_out", "unembed.hook_out")


@dataclass(frozen=True)
class Reading:
    """What a hook point reads from the residual stream.

    Attributes:
        stage: Number of writers' stages before the place where it reads: 2i before block i, 2i + 1 between its
            attention and its MLP.
        maps: Affine maps of the residual stream `[pos, d_model]` there; several if the activation is a function of
            several affine quantities, as in a gated MLP.
        combine: Function of the results of the maps that gives the activation; None if the only map gives it.
        parts: Name of what each map gives, if `combine` is not None: "pre", or "gate" and "up".
        unitwise: Whether each number of the activation depends only on the same number of each map.
    """

    stage: int
    maps: tuple[Map, ...]
    combine: Callable[..., Tensor] | None = None
    parts: tuple[str, ...] = ()
    unitwise: bool = True


class AffineMaps:
    """Activations of one prompt, or of several of one length, and the affine maps between them.

    Args:
        model: Model that is run.
        ids: Row of token ids, BOS and template included.
        also: Further hook points to read, none of which is computed on request.
        activations: Activations of several rows, `[batch, ...]`, at the hook points that a pass over one row reads;
            then every tensor of the maps has this axis first. None runs the row.
    """

    def __init__(
        self,
        model: HookedModel,
        ids: Int[Tensor, "batch pos"],
        also: Iterable[str] = (),
        activations: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.model, self.ids = model, ids
        self.activations: dict[str, Tensor] = {}
        if activations is not None:
            self.activations.update(activations)
            return
        known = set(model.hook_names())
        blocks = (f"blocks.{i}.{name}" for i in range(model.n_layers) for name in _BLOCK)
        names = [name for name in (*_OUTSIDE, *blocks, *also) if name in known]
        with torch.no_grad():
            model.observe(ids, {name: self._reader(name) for name in dict.fromkeys(names)})

    def _reader(self, name: str) -> Callable[..., None]:
        def read(activation: Any, hook: Any = None) -> None:
            if isinstance(activation, Tensor) and len(activation):
                self.activations[name] = activation[0].detach()

        return read

    # The residual stream.

    def stream(self, stage: int) -> Float[Tensor, "pos d_model"]:
        """Return the residual stream before the writers of a stage, float32."""
        layer, between = divmod(stage, 2)
        if layer == self.model.n_layers:
            name = f"blocks.{layer - 1}.hook_resid_post"
        else:
            name = f"blocks.{layer}.hook_resid_{'mid' if between else 'pre'}"
        return self.read(name).float()

    def read(self, name: str) -> Tensor:
        """Return an activation in the model's precision, without the batch axis.

        Raises:
            NoPathError: The hook point does not fire on this model.
        """
        if name not in self.activations:
            raise NoPathError(f"{self.model.name} has no {name}, from which the decomposition is computed.")
        return self.activations[name]

    def component(self, name: str) -> Any:
        """Return a component, or None if the model does not have it."""
        try:
            return self.model.backend.component(name)
        except (AttributeError, IndexError, KeyError, TypeError):
            return None

    # Maps of single components.

    def linear(self, name: str) -> Map:
        """Return the map of a linear component, with its bias."""
        component = self.component(name)
        if component is None:
            raise NoPathError(f"{self.model.name} has no component {name}.")
        inner = getattr(component, "original_component", None) or component
        like = next((p for p in inner.parameters() if p.is_floating_point()), None)

        def apply(x: Tensor) -> Tensor:
            try:
                return inner(x if like is None else x.to(like.device, like.dtype)).float()
            except (RuntimeError, TypeError, ValueError) as error:
                raise NoPathError(f"{name} cannot be applied to vectors ({error}).") from error

        return apply

    def norm(self, name: str, x: Float[Tensor, "pos d_model"], normalised: bool = False) -> Map:
        """Return the map of a norm, with the scales that it has on its input `x`.

        Args:
            name: Name of the component; without one, the map is the identity.
            x: Input of the norm on the prompt.
            normalised: Whether to leave out the weights and the bias.
        """
        component = self.component(name)
        if component is None:
            return lambda u: u
        x = x.detach()
        weights = measure_norm(component, x.shape[-1], name)
        like = next((p for p in component.parameters() if p.is_floating_point()), x)
        with torch.no_grad(), without_hooks(component):
            inputs = torch.stack([x, torch.zeros_like(x)]).to(like.device, like.dtype)
            y, bias = component(inputs).float()
        core = weights(x)
        against = (core * (y - bias)).sum(-1, keepdim=True)
        scale = torch.where(against != 0, (core * core).sum(-1, keepdim=True) / against, torch.ones_like(against))
        if normalised:
            bare = type(weights)(torch.ones_like(weights.gain), weights.centred)
            return lambda u: bare(u) / scale
        return lambda u: weights(u) / scale + bias

    # What the components of a block write.

    def written_by_heads(self, layer: int, z: Tensor | None = None) -> Map:
        """Return the map of heads' outputs `[pos, head, d_head]` to what attention adds to the stream.

        Args:
            layer: Layer of the heads.
            z: Outputs at those positions that the map is for; None is all.
        """
        out = self.linear(f"blocks.{layer}.attn.o")
        z = self.read(f"blocks.{layer}.attn.hook_z").float() if z is None else z

        def project(x: Tensor) -> Tensor:
            return out(rearrange(x, "... head d -> ... (head d)"))

        return self._with_norm(f"blocks.{layer}.ln1_post", project, z)

    def written_by_neurons(self, layer: int, post: Tensor | None = None) -> Map:
        """Return the map of neurons `[pos, unit]` to what the MLP adds to the stream.

        Args:
            layer: Layer of the neurons.
            post: Activations at those positions that the map is for; None is all.
        """
        post = self.read(f"blocks.{layer}.mlp.hook_post").float() if post is None else post
        return self._with_norm(f"blocks.{layer}.ln2_post", self.linear(f"blocks.{layer}.mlp.out"), post)

    def _with_norm(self, name: str, project: Map, x: Tensor) -> Map:
        """Return a map followed by the norm after it, if the model has one."""
        with torch.no_grad():
            norm = self.norm(name, project(x))
        return lambda u: norm(project(u))

    def values(self, layer: int) -> Float[Tensor, "pos head d_head"]:
        """Return the values that each query head reads; several may share those of one key head."""
        values = self.read(f"blocks.{layer}.attn.hook_v").float()
        return self._shared(values, layer)

    def _shared(self, values: Tensor, layer: int) -> Tensor:
        pattern = self.read(f"blocks.{layer}.attn.hook_pattern")
        heads = pattern.shape[-3]
        if values.ndim != pattern.ndim or heads % values.shape[-2]:
            raise NoPathError(f"The values of block {layer}'s attention are not cut into heads.")
        return repeat(values, "... group d -> ... (group same) d", same=heads // values.shape[-2])

    # What hook points read.

    def reading(self, name: str, activation: Tensor) -> Reading:
        """Return what a hook point reads from the residual stream.

        Args:
            name: Name of the hook point, or :data:`LOGITS`.
            activation: Activation there on the prompt, without the batch axis.

        Raises:
            NoPathError: The activation is not an affine function of the stream, or of several affine functions.
        """
        reading = self._find(name)
        x = self.stream(reading.stage)
        with torch.no_grad():
            parts = [affine(x) for affine in reading.maps]
            own = parts[0] if reading.combine is None else reading.combine(*parts)
        if not same_numbers(own, activation):
            raise NoPathError(
                f"{name} of {self.model.name} differs from what the weights say: the activation is not the usual "
                "function of the residual stream there, or hooks change it."
            )
        return reading

    def _is(self, name: str, *others: str) -> bool:
        return any(name == other or self.model.backend.is_same_hook(name, other) for other in others)

    def _find(self, name: str) -> Reading:
        last = 2 * self.model.n_layers
        if name == LOGITS or self._is(name, "unembed.hook_out"):
            return self._logits(name == LOGITS)
        if self._is(name, "ln_final.hook_in"):
            return Reading(last, (lambda u: u,))
        if self._is(name, "ln_final.hook_normalized", "ln_final.hook_out", "unembed.hook_in"):
            bare = self._is(name, "ln_final.hook_normalized")
            return Reading(last, (self.norm("ln_final", self.stream(last), bare),))
        match = re.match(r"blocks\.([0-9]+)\.", name)
        if match is None:
            raise NoPathError(f"{name} is before the first block, so nothing but the token itself is upstream of it.")
        return self._in_block(name, int(match[1]))

    def _logits(self, final: bool) -> Reading:
        last = 2 * self.model.n_layers
        norm, unembed = self.norm("ln_final", self.stream(last)), self.linear("unembed")
        raw = self.read("unembed.hook_out")
        output = self.model.backend.output_logits
        with torch.no_grad():
            capped = final and not same_numbers(output(raw[None])[0], raw)
        combine = (lambda u: output(u)) if capped else None
        return Reading(last, (lambda u: unembed(norm(u)),), combine, ("pre",) if capped else ())

    def _in_block(self, name: str, i: int) -> Reading:
        block = f"blocks.{i}."
        before, after = 2 * i, 2 * i + 2
        has_mid = f"{block}hook_resid_mid" in self.activations and not self.model.backend.parallel_blocks
        middle = 2 * i + 1 if has_mid else before
        # Blocks in which attention and MLP share one norm have no second one.
        second = "ln2" if self.component(f"{block}ln2") is not None or has_mid else "ln1"
        if self._is(name, f"{block}hook_resid_pre", f"{block}hook_in", f"{block}ln1.hook_in"):
            return Reading(before, (lambda u: u,))
        if self._is(name, f"{block}hook_resid_mid", f"{block}ln2.hook_in"):
            return Reading(middle, (lambda u: u,))
        if self._is(name, f"{block}hook_resid_post", f"{block}hook_out"):
            return Reading(after, (lambda u: u,))
        for norm, stage in (("ln1", before), ("ln2", middle)):
            if self._is(name, f"{block}{norm}.hook_normalized"):
                return Reading(stage, (self.norm(block + norm, self.stream(stage), True),))
        if self._is(name, f"{block}ln1.hook_out", f"{block}attn.hook_in"):
            return Reading(before, (self.norm(f"{block}ln1", self.stream(before)),))
        mlp_in = self.norm(block + second, self.stream(middle))
        if self._is(name, f"{block}ln2.hook_out", f"{block}mlp.hook_in", f"{block}hook_mlp_in"):
            return Reading(middle, (mlp_in,))
        for part in ("q", "k", "v"):
            if self._is(name, f"{block}attn.hook_{part}", f"{block}attn.{part}.hook_out"):
                return Reading(before, (_shaped(self._projection(i, part), self.read(name).shape),))
        for part in ("in", "gate"):
            if self._is(name, f"{block}mlp.{part}.hook_out") or (
                part == self._first_of(i) and self._is(name, f"{block}mlp.hook_pre")
            ):
                return Reading(middle, (_chained(mlp_in, self.linear(f"{block}mlp.{part}")),))
        if self._is(name, f"{block}mlp.hook_post", f"{block}mlp.out.hook_in"):
            return self._neurons(i, middle, mlp_in)
        if self._is(name, f"{block}mlp.hook_out", f"{block}mlp.out.hook_out", f"{block}hook_mlp_out"):
            return self._mlp_output(name, i, self._neurons(i, middle, mlp_in))
        heads = self._heads(name, i)
        if heads is not None:
            return Reading(before, (heads,))
        raise NoPathError(self._why_not(name))

    def _first_of(self, i: int) -> str:
        """Return the name of the linear map before the nonlinearity."""
        return "in" if self.component(f"blocks.{i}.mlp.gate") is None else "gate"

    def _projection(self, i: int, part: str) -> Map:
        norm = self.norm(f"blocks.{i}.ln1", self.stream(2 * i))
        linear = self.linear(f"blocks.{i}.attn.{part}")
        return _chained(norm, linear)

    def _neurons(self, i: int, stage: int, norm: Map) -> Reading:
        """Return the reading of neurons after their nonlinearity."""
        mlp = f"blocks.{i}.mlp"
        gated = self._first_of(i) == "gate"
        names = ("gate", "in") if gated else ("in",)
        linears = [self.linear(f"{mlp}.{part}") for part in names]
        nonlinearity = self._nonlinearity(i)

        def combine(first: Tensor, *rest: Tensor) -> Tensor:
            if nonlinearity is None:
                raise NoPathError(f"The nonlinearity of {mlp} is not known. Decompose what it takes, {mlp}.hook_pre.")
            out = nonlinearity(first)
            return out * rest[0] if rest else out

        maps = tuple(_chained(norm, linear) for linear in linears)
        return Reading(stage, maps, combine, ("gate", "up") if gated else ("pre",))

    def _nonlinearity(self, i: int) -> Any:
        """Return the nonlinearity of a block's MLP as the model's own module has it; None if it is not known."""
        holders: list[Any] = []
        for name in (f"blocks.{i}.mlp", f"blocks.{i}"):
            bridge = self.component(name)
            holders += [getattr(bridge, "original_component", None), bridge]
        for holder in holders:
            for attribute in ("act_fn", "act", "activation_fn", "activation", "gelu_impl"):
                own = {} if holder is None else vars(holder)
                found: Any = own.get("_modules", {}).get(attribute, own.get(attribute))
                if callable(found):
                    return found
        return None

    def _mlp_output(self, name: str, i: int, neurons: Reading) -> Reading:
        after = self.written_by_neurons(i)
        if not self._is(name, f"blocks.{i}.hook_mlp_out"):
            after = self.linear(f"blocks.{i}.mlp.out")
        inner = neurons.combine
        assert inner is not None
        return Reading(neurons.stage, neurons.maps, lambda *u: after(inner(*u)), neurons.parts, unitwise=False)

    def _heads(self, name: str, i: int) -> Map | None:
        """Return the map of a hook point after the pattern was applied; None for other hook points."""
        attn = f"blocks.{i}.attn"
        ends = (f"{attn}.hook_out", f"{attn}.o.hook_out", f"blocks.{i}.hook_attn_out")
        is_z = self._is(name, f"{attn}.hook_z", f"{attn}.o.hook_in")
        if not is_z and not self._is(name, f"{attn}.hook_result", *ends):
            return None
        pattern = self.read(f"{attn}.hook_pattern").float()
        project, shape = self._projection(i, "v"), self.read(f"{attn}.hook_v").shape
        z_shape = self.read(f"{attn}.hook_z").shape

        def mix(u: Tensor) -> Tensor:
            values = self._shared(project(u).reshape(shape), i)
            return einsum(pattern, values, "... head to at, ... at head d -> ... to head d").reshape(z_shape)

        if is_z:
            return mix
        if self._is(name, f"{attn}.hook_result"):
            out = self.linear(f"{attn}.o")

            def by_head(u: Tensor) -> Tensor:
                z = mix(u)
                each = torch.diag_embed(rearrange(z, "... head d -> ... d head"))  # [pos, d, head, of head]
                flat = rearrange(each, "... d head of -> ... head (of d)")
                return out(flat) - out(torch.zeros_like(flat))

            return by_head
        written = self.written_by_heads(i)
        if self._is(name, f"blocks.{i}.hook_attn_out"):
            return lambda u: written(mix(u))
        out = self.linear(f"{attn}.o")
        return lambda u: out(rearrange(mix(u), "... head d -> ... (head d)"))

    def _why_not(self, name: str) -> str:
        if "pattern" in name or "attn_scores" in name:
            return (
                f"{name} compares two positions: it is a product of a query and a key, and not an affine function of "
                "the residual stream. Decompose the query or the key (attn.hook_q, attn.hook_k) along a direction."
            )
        if "hook_rot" in name:
            return f"{name} is rotated by the position; decompose the activation before it, attn.hook_q or attn.hook_k."
        return f"{name} is no place from which a way back to the residual stream is known."


def _chained(first: Map, second: Map) -> Map:
    """Return the map that applies one map after another."""
    return lambda u: second(first(u))


def _shaped(affine: Map, shape: torch.Size) -> Map:
    """Return a map whose results have another shape."""
    return lambda u: affine(u).reshape(shape)
