"""Run a bridge on a packed row: one token for each distinct prefix of many rows, and every hook point still there.

Everything in a transformer but attention works on each token by itself, so the bridge is called on one row of T tokens
with their positions. Attention, and what TransformerLens writes out in many operations, is replaced for the length of
the pass, in the first of these ways that gives what plain rows give:

* `INTERFACE`: the Hugging Face module that the bridge wraps, with :mod:`~dreamy_lens.models.tree_attention`.
* `HEADS`: the bridge's own attention, with queries, keys and values spread to whole rows between its projections.
* `ROWS`: the bridge's own attention on whole rows, its projections too; works for any attention. Layers with a hook
  point inside their attention always go this way, so that scores and patterns are `[head, query, key]` as ever.

Which of them a model allows is found out by :class:`~dreamy_lens.scoring.prefix_sharing.PrefixSharing`; nothing here
is trusted.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dreamy_lens.models import tree_attention
from dreamy_lens.models.bypass import Bypass
from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.models.prefix_tree import PrefixTree
from dreamy_lens.models.transfer import to_device
from dreamy_lens.models.tree_attention import RUNNING, Current, UnsupportedAttention

INTERFACE, HEADS, ROWS = WAYS = ("interface", "heads", "rows")

FINAL = "unembed.hook_in"
"""The hook point whose activation the unembedding turns into logits."""


_INSIDE = re.compile(r"blocks\.(\d+)\.(attn\.|hook_[qkv]_input|hook_attn_in)")
"""Hook points that are computed in the course of a block's attention."""


class NotPackable(Exception):
    """This model, or this hook point of it, cannot be run on a packed row; the message says why."""


@dataclass
class PassCache:
    """What a pass leaves for later passes over rows that begin with the same tokens.

    Attributes:
        length: P, how many tokens.
        inputs: by layer, what attention needs of them: keys and values, or inputs.
        activations: by hook point, `[1, P, ...]`.
    """

    length: int
    inputs: dict[int, tuple[Tensor, ...]] = field(default_factory=dict)
    activations: dict[str, Tensor] = field(default_factory=dict)


class PackedModel:
    """A model that can be run on packed rows.

    Args:
        model: the model.
        way: one of `WAYS`, for layers with no hook point inside their attention.

    Raises:
        NotPackable: the model is not one stack of blocks with attention.
    """

    def __init__(self, model: HookedModel, way: str = INTERFACE) -> None:
        bridge = model.bridge
        self.model, self.way = model, way
        self.blocks: list[Any] = list(getattr(bridge, "blocks", ()))
        encoder = getattr(getattr(getattr(bridge, "original_model", None), "config", None), "is_encoder_decoder", False)
        if len(self.blocks) != model.n_layers or encoder:
            raise NotPackable("it is not one stack of blocks")
        attentions = [getattr(block, "attn", None) for block in self.blocks]
        if any(getattr(a, "original_component", None) is None for a in attentions):
            raise NotPackable("a block of it has no attention")
        if FINAL not in bridge.hook_dict:
            raise NotPackable(f"it has no hook point {FINAL}")
        self.attentions: list[Any] = attentions
        if way == HEADS and not all(hasattr(a, "_reconstruct_attention") for a in attentions):
            raise NotPackable("its attention does not keep its heads apart from its projections")
        self.parts = Bypass(bridge, besides=attentions)
        self._arguments: dict[Any, list[tuple[tuple, dict[str, Any]]]] = {}
        tree_attention.register()

    def check(self, capture: Sequence[str]) -> None:
        """Raise NotPackable if one of these hook points cannot be read in a packed pass."""
        for name in capture:
            if name.startswith("unembed.") and name != FINAL:
                raise NotPackable(f"{name} comes behind what a packed pass computes")

    def come_by_rows(self, capture: Sequence[str]) -> frozenset[str]:
        """Those of these hook points whose activation comes as `[B, n, ...]`: in attentions that work on whole rows."""
        points, inside, found = self.model.bridge.hook_dict, _layers_inside(capture), set()
        for name in capture:
            layer = re.match(r"blocks\.(\d+)\.", name)
            if layer and (self.way == ROWS or int(layer[1]) in inside):
                attention = self.attentions[int(layer[1])]
                if any(module is points[name] for module in attention.modules()):
                    found.add(name)
        return frozenset(found)

    def depth(self, capture: Sequence[str]) -> int:
        """The first block that none of these hook points needs."""
        found = [re.match(r"blocks\.(\d+)\.", name) for name in capture]
        early = ("embed.", "hook_embed", "pos_embed.", "hook_pos_embed")
        return (
            max(
                (int(m[1]) + 1 if m else 0 if name.startswith(early) else len(self.blocks))
                for m, name in zip(found, capture, strict=True)
            )
            if found
            else 0
        )

    @torch.no_grad()
    def run(
        self,
        packing: PrefixTree,
        capture: Sequence[str],
        *,
        final: bool,
        cut: PrefixTree | None = None,
        before: PassCache | None = None,
        keep: PassCache | None = None,
    ) -> dict[str, Tensor]:
        """One pass.

        Args:
            packing: the rows.
            capture: hook points to read.
            final: whether :data:`FINAL` is wanted; without it the pass ends at the last hook point.
            cut: the packing to go on with in the blocks that no hook point needs.
            before: what is known of the prefix, if the packing leaves one out.
            keep: to be filled for later passes.

        Returns:
            Activations by name: `[1, T, ...]` for nodes (of the cut packing for `FINAL`), or `[B, n, ...]` for what
            is inside an attention.
        """
        names: list[str] = list(dict.fromkeys([*capture, FINAL] if final else capture))
        state = _State(self, packing, packing if cut is None else cut, self.depth(capture), before, keep)
        length = packing.length
        with self.model.lock, self.model.kernels.used():
            key = length, self.model.device, self.model.dtype
            if key not in self._arguments:
                self._arguments[key] = self._plain_arguments(length)
            state.arguments = self._arguments[key]
            with self._replaced(state, names), _implementation(self.attentions):
                mask = torch.zeros(1, 1, 1, 1, device=packing.ids.device)  # so that no mask of size T² is made
                found = self.model.passed(
                    packing.ids[None], names, position_ids=packing.positions[None], attention_mask=mask
                )
        if final and state.cuts:
            kept = state.cut.kept
            assert kept is not None
            found[FINAL] = found[FINAL][:, to_device(kept, found[FINAL].device)]
        if keep is not None:
            keep.activations = {name: x[:, : keep.length] for name, x in found.items()}
        return found

    def logits(self, final: Tensor) -> Tensor:
        """Logits `[m, d_vocab]` of what :data:`FINAL` was at m nodes, `[m, d_model]`, in the model's precision."""
        bridge = self.model.bridge
        transform = getattr(getattr(bridge, "adapter", None), "apply_output_logits_transform", None)
        with torch.no_grad(), self.model.kernels.used():
            found = bridge.unembed(final[None])[0]
            return found if transform is None else transform(found)

    def _plain_arguments(self, length: int) -> list[tuple[tuple, dict[str, Any]]]:
        """What a plain row of this length passes to each layer's attention besides its input."""
        found: list[tuple[tuple, dict[str, Any]] | None] = [None] * len(self.blocks)

        def look(layer: int) -> Any:
            usual = self.attentions[layer].forward

            def forward(*args: Any, **kwargs: Any) -> Any:
                rest = {k: v for k, v in kwargs.items() if k != "hidden_states"}
                found[layer] = args if "hidden_states" in kwargs else args[1:], rest
                return usual(*args, **kwargs)

            return forward

        token = int(self.model.vocabulary.allowed.nonzero()[0][0])
        ids = torch.full((1, length), token, device=self.model.device)
        with _patched((a, "forward", look(i)) for i, a in enumerate(self.attentions)):
            self.model.passed(ids, [FINAL])
        if None in found:
            raise NotPackable("a block does not call its attention")
        return found  # pyright: ignore[reportReturnType]

    @contextlib.contextmanager
    def _replaced(self, state: _State, names: Sequence[str]) -> Iterator[None]:
        """The model's modules for the length of the pass: its own where nobody looks, and attention by this package."""
        inside = _layers_inside(names)
        patches: list[tuple[Any, str, Any]] = []
        for i, attention in enumerate(self.attentions):
            way = ROWS if i in inside else self.way
            patches.append((attention, "forward", state.attention(i, way, attention.forward)))
            if way == HEADS:
                patches.append((attention, "_reconstruct_attention", state.spread(i, attention._reconstruct_attention)))
                project = attention._apply_output_projection
                patches.append((attention, "_apply_output_projection", state.gathered(i, project)))
        if state.cuts:
            # Past the blocks there are as many nodes as before them, since some models count on that.
            for i in {state.depth, len(self.blocks) - 1}:
                block = self.blocks[i]
                block = block.original_component if self.parts.is_bare(block, names) else block
                patches.append((block, "forward", state.cutting(i, block.forward)))
        with self.parts.bare(names), _patched(patches):
            yield


@dataclass
class _State:
    """One packed pass, and the replacements that it makes in the model."""

    owner: PackedModel
    packing: PrefixTree
    cut: PrefixTree
    depth: int
    before: PassCache | None
    keep: PassCache | None
    arguments: list[tuple[tuple, dict[str, Any]]] = field(default_factory=list)
    _rotary: dict[tuple[int, bool], Any] = field(default_factory=dict)
    _kept: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def of(self, layer: int) -> PrefixTree:
        """The packing that a layer works on."""
        return self.packing if layer < self.depth else self.cut

    def attention(self, layer: int, way: str, usual: Any) -> Any:
        module = self.owner.attentions[layer]

        def forward(*args: Any, **kwargs: Any) -> Any:
            x = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
            more, named = self.arguments[layer]
            packing = self.of(layer)
            if way == ROWS:
                # What the residual stream was before the norm, where a bridge forks it for its heads.
                forked = getattr(module, "_captured_pre_ln_residual", None)
                index = to_device(packing.index, x.device)  # layers may be on several devices
                rows = [y[index] for y in self._whole(layer, x, *([] if forked is None else [forked]))]
                if forked is not None:
                    module._captured_pre_ln_residual = rows[1]
                out = usual(rows[0], *_cut(more, packing), **_cut(named, packing))
                return _first(out, lambda y: y.flatten(0, 1)[to_device(packing.owners, y.device)][None])
            if way == HEADS:
                return usual(x, *more, **named)
            named = {k: self._at_nodes(k, v, layer) for k, v in named.items()}
            RUNNING.current = Current(packing, *self._exchange(layer))
            try:
                out = module.original_component(module.hook_in(x), *more, **named)
            finally:
                RUNNING.current = None
            if self.keep is not None:
                self.keep.inputs[layer] = tuple(x[:, :, : self.keep.length] for x in self._kept.pop())
            return _first(out, module.hook_out)

        return forward

    def _exchange(self, layer: int) -> tuple[Any, Any]:
        before = None if self.before is None else self.before.inputs[layer]
        return before, None if self.keep is None else self._kept

    def _whole(self, layer: int, *tensors: Tensor) -> list[Tensor]:
        """Tensors `[1, T, ...]` with what is known of the prefix before them, `[P + T, ...]`."""
        if self.keep is not None:
            self.keep.inputs[layer] = tuple(x[:, : self.keep.length] for x in tensors)
        if self.before is None:
            return [x[0] for x in tensors]
        known = self.before.inputs[layer]
        return [torch.cat([old[0], new[0]]) for old, new in zip(known, tensors, strict=True)]

    def _at_nodes(self, name: str, value: Any, layer: int) -> Any:
        """An argument of a plain row's attention as the packed row needs it."""
        positions = self.of(layer).positions
        if name == "attention_mask":
            return None
        if name == "position_ids" and isinstance(value, Tensor):
            return positions[None]
        if name == "position_embeddings" and value is not None:
            key = (id(value), layer < self.depth)
            if key not in self._rotary:
                self._rotary[key] = tuple(x[:, to_device(positions, x.device)] for x in value)
            return self._rotary[key]
        return value

    def spread(self, layer: int, usual: Any) -> Any:
        """Queries, keys and values of whole rows, from those of the nodes."""

        def reconstruct(q: Tensor, k: Tensor, v: Tensor, **named: Any) -> Any:
            packing = self.of(layer)
            index = to_device(packing.index, q.device)
            rows = [x[index] for x in self._whole(layer, q, k, v)]
            return usual(*rows, **_cut(self.arguments[layer][1], packing))

        return reconstruct

    def gathered(self, layer: int, usual: Any) -> Any:
        """The outputs of the heads at the nodes, from those of whole rows."""
        return lambda out: usual(out.flatten(0, 1)[to_device(self.of(layer).owners, out.device)][None])

    @property
    def cuts(self) -> bool:
        """Whether some blocks work on fewer nodes."""
        return self.cut is not self.packing and self.depth < len(self.owner.blocks)

    def cutting(self, layer: int, usual: Any) -> Any:
        """The block that drops nodes, and the last one, behind which they are zeros."""
        kept, nodes = self.cut.kept, self.packing.nodes
        assert kept is not None

        def forward(*args: Any, **kwargs: Any) -> Any:
            if layer == self.depth:
                if "hidden_states" in kwargs:
                    x = kwargs["hidden_states"]
                    kwargs = {**kwargs, "hidden_states": x[:, to_device(kept, x.device)]}
                else:
                    args = (args[0][:, to_device(kept, args[0].device)], *args[1:])
            out = usual(*args, **kwargs)
            if layer < len(self.owner.blocks) - 1:
                return out
            return _first(out, lambda x: x.new_zeros(1, nodes, x.shape[-1]).index_copy(1, to_device(kept, x.device), x))

        return forward


def _layers_inside(names: Sequence[str]) -> set[int]:
    """Layers with a hook point inside their attention."""
    return {int(m[1]) for m in map(_INSIDE.match, names) if m}


def _cut(values: Any, packing: PrefixTree) -> Any:
    """Arguments of a plain row for the first positions of it."""
    n = packing.length

    def one(name: str, value: Any) -> Any:
        if name == "position_embeddings" and value is not None:
            return tuple(x[:, :n] for x in value)
        if isinstance(value, Tensor):
            return value[..., :n, :n] if name == "attention_mask" else value[..., :n]
        return value

    if isinstance(values, tuple):
        return tuple(one("", value) for value in values)
    return {name: one(name, value) for name, value in values.items()}


def _first(out: Any, function: Any) -> Any:
    """A function of the first of several outputs, or of the only one."""
    return (function(out[0]), *out[1:]) if isinstance(out, tuple) else function(out)


@contextlib.contextmanager
def _patched(patches: Any) -> Iterator[None]:
    """Set attributes of single modules, and put back what they had: models that are spread over devices have such."""
    done: list[tuple[Any, str, Any]] = []
    try:
        for module, name, value in patches:
            done.append((module, name, module.__dict__.get(name)))
            # Past the module's own __setattr__, which passes names on to what it wraps.
            module.__dict__[name] = value
        yield
    finally:
        for module, name, former in reversed(done):
            if former is None:
                module.__dict__.pop(name, None)
            else:
                module.__dict__[name] = former


@contextlib.contextmanager
def _implementation(attentions: Sequence[Any]) -> Iterator[None]:
    """Have the Hugging Face modules call the attention of this package."""
    configs = {id(c): c for a in attentions if (c := getattr(a.original_component, "config", None)) is not None}
    former = {key: config._attn_implementation for key, config in configs.items()}
    try:
        for config in configs.values():
            config._attn_implementation = tree_attention.NAME
        yield
    finally:
        for key, config in configs.items():
            config._attn_implementation = former[key]


__all__ = [
    "FINAL",
    "HEADS",
    "INTERFACE",
    "ROWS",
    "WAYS",
    "NotPackable",
    "PackedModel",
    "PassCache",
    "UnsupportedAttention",
]
