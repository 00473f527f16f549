"""Attention of a bridge on a packed row: replacements for the bridge's modules during one pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dreamy_lens.models.prefix_tree import PrefixTree
from dreamy_lens.models.transfer import to_device
from dreamy_lens.models.tree_attention import NAME, RUNNING, Current

INTERFACE, HEADS, ROWS = "interface", "heads", "rows"
"""Ways to replace attention; :mod:`~dreamy_lens.models.packed_forward` describes them."""

HEAD_BIASES = ("alibi", "position_bias")
"""Names of arguments that add the distance of a key to the scores of each head (ALiBi)."""


@dataclass
class PassCache:
    """Cache of a pass, for later passes over rows that begin with the same tokens.

    Attributes:
        length: Number P of cached tokens.
        inputs: Tensors that attention needs for the cached tokens, by layer: keys and values, or attention inputs.
        activations: Activations of the cached tokens by hook point, `[1, P, ...]`.
        members: Caches of the members of an ensemble.
    """

    length: int
    inputs: dict[int, tuple[Tensor, ...]] = field(default_factory=dict)
    activations: dict[str, Tensor] = field(default_factory=dict)
    members: list[PassCache] = field(default_factory=list)


@dataclass
class PackedAttention:
    """Replacements that one packed pass makes in a bridge.

    Attributes:
        attentions: Attention components of the bridge, layer by layer.
        arguments: Arguments, except its input, that each attention component receives for a plain row.
        packing: Tree of the rows.
        cut: Tree of the positions that blocks from `depth` on compute; may be `packing` itself.
        depth: Index of the first block that works on `cut`.
        before: Cache of an earlier pass over the prefix, if the tree leaves out a known prefix.
        keep: Cache that this pass fills for later passes.
    """

    attentions: list[Any]
    arguments: list[tuple[tuple, dict[str, Any]]]
    packing: PrefixTree
    cut: PrefixTree
    depth: int
    before: PassCache | None
    keep: PassCache | None
    _rotary: dict[tuple[int, bool], Any] = field(default_factory=dict)
    _kept: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def tree_at(self, layer: int) -> PrefixTree:
        """Return the tree that a layer works on."""
        return self.packing if layer < self.depth else self.cut

    def attention(self, layer: int, way: str, usual: Any) -> Any:
        """Return a layer's attention over the nodes, in one of the ways; `usual` is the component's own forward."""
        module = self.attentions[layer]

        def forward(*args: Any, **kwargs: Any) -> Any:
            x, own = (kwargs["hidden_states"], args) if "hidden_states" in kwargs else (args[0], args[1:])
            positional, named = self.arguments[layer]
            packing = self.tree_at(layer)
            # Some attentions add the residual stream to their output; it belongs to the nodes, as their input does.
            at_nodes = [i for i, y in enumerate(own) if isinstance(y, Tensor) and y.shape[:2] == x.shape[:2]]
            if way == ROWS:
                # Residual stream before the norm, which some bridges store for the inputs of their heads.
                forked = getattr(module, "_captured_pre_ln_residual", None)
                index = to_device(packing.index, x.device)  # layers may be on several devices
                inputs = [x, *(own[i] for i in at_nodes), *([] if forked is None else [forked])]
                rows = [y[index] for y in self._with_prefix(layer, *inputs)]
                if forked is not None:
                    module._captured_pre_ln_residual = rows[-1]
                of_rows = _replaced(_cut(positional, packing), at_nodes, rows[1:])
                out = usual(rows[0], *of_rows, **_cut(named, packing, len(index)))
                return _first(out, lambda y: y.flatten(0, 1)[to_device(packing.owners, y.device)][None])
            if way == HEADS:
                return usual(x, *_replaced(positional, at_nodes, [own[i] for i in at_nodes]), **named)
            named = {k: self._at_nodes(k, v, layer) for k, v in named.items()}
            RUNNING.current = Current(packing, *self._exchange(layer))
            try:
                out = module.original_component(module.hook_in(x), *positional, **named)
            finally:
                RUNNING.current = None
            if self.keep is not None:
                self.keep.inputs[layer] = tuple(x[:, :, : self.keep.length] for x in self._kept.pop())
            return _first(out, module.hook_out)

        return forward

    def _exchange(self, layer: int) -> tuple[Any, Any]:
        before = None if self.before is None else self.before.inputs[layer]
        return before, None if self.keep is None else self._kept

    def _with_prefix(self, layer: int, *tensors: Tensor) -> list[Tensor]:
        """Prepend the cached tensors of the known prefix to tensors `[1, T, ...]`; return them as `[P + T, ...]`."""
        if self.keep is not None:
            self.keep.inputs[layer] = tuple(x[:, : self.keep.length] for x in tensors)
        if self.before is None:
            return [x[0] for x in tensors]
        known = self.before.inputs[layer]
        return [torch.cat([old[0], new[0]]) for old, new in zip(known, tensors, strict=True)]

    def _at_nodes(self, name: str, value: Any, layer: int) -> Any:
        """Convert an attention argument of a plain row to the packed row."""
        positions = self.tree_at(layer).positions
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
        """Return a function that expands queries, keys and values of the nodes to full rows before `usual`."""

        def reconstruct(q: Tensor, k: Tensor, v: Tensor, **named: Any) -> Any:
            packing = self.tree_at(layer)
            index = to_device(packing.index, q.device)
            rows = [x[index] for x in self._with_prefix(layer, q, k, v)]
            return usual(*rows, **_cut(self.arguments[layer][1], packing, len(index)))

        return reconstruct

    def gather(self, layer: int, usual: Any) -> Any:
        """Return a function that selects head outputs at the nodes from those of full rows before `usual`."""
        return lambda out: usual(out.flatten(0, 1)[to_device(self.tree_at(layer).owners, out.device)][None])

    @property
    def cuts(self) -> bool:
        """True if some blocks work on fewer nodes than the first."""
        return self.cut is not self.packing and self.depth < len(self.attentions)

    def cut_at(self, layer: int, usual: Any) -> Any:
        """Return the forward of the block that drops nodes, or of the last block, which restores them as zeros."""
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
            if layer < len(self.attentions) - 1:
                return out
            return _first(out, lambda x: x.new_zeros(1, nodes, x.shape[-1]).index_copy(1, to_device(kept, x.device), x))

        return forward


def _replaced(values: tuple, places: Sequence[int], tensors: Sequence[Tensor]) -> tuple:
    """Return values with tensors in some places."""
    given = dict(zip(places, tensors, strict=False))
    return tuple(given.get(i, value) for i, value in enumerate(values))


def _cut(values: Any, packing: PrefixTree, rows: int = 1) -> Any:
    """Truncate the arguments of a plain row to the length of the tree's rows; repeat those of heads for every row."""
    n = packing.length

    def cut(name: str, value: Any) -> Any:
        if name == "position_embeddings" and value is not None:
            return tuple(x[:, :n] for x in value)
        if name == "alibi" and isinstance(value, Tensor):  # [row * head, 1, key] or [row, head, 1, key]
            return value[..., :n].repeat(rows, *[1] * (value.dim() - 1))
        if isinstance(value, Tensor):
            return value[..., :n, :n] if name == "attention_mask" else value[..., :n]
        return value

    if isinstance(values, tuple):
        return tuple(cut("", value) for value in values)
    return {name: cut(name, value) for name, value in values.items()}


def _first(out: Any, function: Any) -> Any:
    """Apply a function to the first of several outputs, or to a single output."""
    return (function(out[0]), *out[1:]) if isinstance(out, tuple) else function(out)


@contextlib.contextmanager
def patched(patches: Iterable[tuple[Any, str, Any]]) -> Iterator[None]:
    """Set attributes of single modules, then restore earlier ones, which models spread over devices have."""
    replaced: list[tuple[Any, str, Any]] = []
    try:
        for module, name, value in patches:
            replaced.append((module, name, module.__dict__.get(name)))
            # Bypasses the module's __setattr__, which forwards names to the wrapped module.
            module.__dict__[name] = value
        yield
    finally:
        for module, name, former in reversed(replaced):
            if former is None:
                module.__dict__.pop(name, None)
            else:
                module.__dict__[name] = former


@contextlib.contextmanager
def tree_attention_used(attentions: Sequence[Any]) -> Iterator[None]:
    """Make the Hugging Face modules call this package's attention within the context."""
    configs = {id(c): c for a in attentions if (c := getattr(a.original_component, "config", None)) is not None}
    former = {key: config._attn_implementation for key, config in configs.items()}
    try:
        for config in configs.values():
            config._attn_implementation = NAME
        yield
    finally:
        for key, config in configs.items():
            config._attn_implementation = former[key]
