"""Run a bridge on a packed row: one token for each distinct prefix of many rows, with all hook points available.

Every part of a transformer except attention works on each token separately, so the bridge is called on one row of T
tokens with their positions. Attention, and modules that TransformerLens computes in many operations, are replaced for
the duration of the pass (:mod:`~dreamy_lens.models.packed_attention`). Of the following ways to replace attention, the
first that gives the same results as plain rows is used:

* `INTERFACE`: the Hugging Face module that the bridge wraps, with :mod:`~dreamy_lens.models.tree_attention`.
* `HEADS`: the bridge's own attention; queries, keys and values are expanded to full rows between its projections.
* `ROWS`: the bridge's own attention on full rows, projections included; works for any attention. Layers with a hook
  point inside their attention always use it, so that scores and patterns keep their axes `[head, query, key]`.

:class:`~dreamy_lens.scoring.prefix_sharing.PrefixSharing` tests which of these ways gives correct results for a model.
This module does not check its results.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dreamy_lens.models import tree_attention
from dreamy_lens.models.backend import NotPackable
from dreamy_lens.models.bridge_passes import BridgePasses
from dreamy_lens.models.bypass import Bypass
from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.models.packed_attention import (
    HEAD_BIASES,
    HEADS,
    INTERFACE,
    ROWS,
    PackedAttention,
    PassCache,
    patched,
    tree_attention_used,
)
from dreamy_lens.models.prefix_tree import PrefixTree
from dreamy_lens.models.transfer import to_device

WAYS = (INTERFACE, HEADS, ROWS)

FINAL = "unembed.hook_in"
"""Hook point whose activation the unembedding turns into logits."""


_INSIDE = re.compile(r"blocks\.(\d+)\.(attn\.|hook_[qkv]_input|hook_attn_in)")
"""Pattern of hook points that are computed within a block's attention."""


class PackedModel:
    """Model that runs on packed rows.

    Args:
        model: Model whose backend runs a bridge.
        way: Way to replace attention, one of `WAYS`, in layers with no hook point inside their attention.

    Raises:
        NotPackable: The model is not one stack of blocks with attention.
    """

    def __init__(self, model: HookedModel, way: str = INTERFACE) -> None:
        backend = model.backend
        if not isinstance(backend, BridgePasses):
            raise NotPackable("packed passes need a backend that runs a TransformerBridge of TransformerLens")
        bridge = backend.bridge
        self.model, self.backend, self.way = model, backend, way
        self.blocks: list[Any] = list(getattr(bridge, "blocks", ()))
        encoder = getattr(getattr(getattr(bridge, "original_model", None), "config", None), "is_encoder_decoder", False)
        if len(self.blocks) != model.n_layers or encoder:
            raise NotPackable("packed passes need a decoder that is one stack of blocks")
        attentions = [getattr(block, "attn", None) for block in self.blocks]
        if any(getattr(a, "original_component", None) is None for a in attentions):
            raise NotPackable("packed passes need attention in every block, and some blocks have none")
        if FINAL not in bridge.hook_dict:
            raise NotPackable(f"packed passes end at the hook point {FINAL}, and this model has none")
        self.attentions: list[Any] = attentions
        if way == HEADS and not all(hasattr(a, "_reconstruct_attention") for a in attentions):
            raise NotPackable("its attention has no separate step for its heads, which packed passes replace")
        self.parts = Bypass(bridge, besides=attentions)
        self._has_alibi = False
        self._arguments: dict[Any, list[tuple[tuple, dict[str, Any]]]] = {}
        tree_attention.register()

    @property
    def has_kernel(self) -> bool:
        """Whether one kernel can compute the attention over the tree on a GPU."""
        return self.way == INTERFACE

    def check(self, capture: Sequence[str]) -> None:
        """Raise NotPackable if one of the hook points cannot be read in a packed pass."""
        for name in capture:
            if name.startswith("unembed.") and name != FINAL:
                raise NotPackable(f"the hook point {name} comes after {FINAL}, where packed passes end")

    def row_hooks(self, capture: Sequence[str]) -> frozenset[str]:
        """Return the hook points in attentions that work on full rows; their activations are `[B, n, ...]`."""
        points, inside, by_rows = self.backend.bridge.hook_dict, _layers_inside(capture), set()
        for name in capture:
            layer = re.match(r"blocks\.(\d+)\.", name)
            if layer and (self.way == ROWS or int(layer[1]) in inside):
                attention = self.attentions[int(layer[1])]
                if any(module is points[name] for module in attention.modules()):
                    by_rows.add(name)
        return frozenset(by_rows)

    def depth(self, capture: Sequence[str]) -> int:
        """Return the index of the first block that none of the hook points needs."""
        return depth(capture, len(self.blocks))

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
        """Run one packed pass.

        Args:
            packing: Tree of the rows.
            capture: Hook points to read.
            final: True to read :data:`FINAL` too; otherwise the pass ends at the last hook point.
            cut: Smaller tree that is used from the first block that no hook point needs; default: `packing`.
            before: Cache of an earlier pass over the prefix, if the tree leaves out a known prefix.
            keep: Cache that this pass fills for later passes.

        Returns:
            Activations by hook point: `[1, T, ...]` for the nodes of `packing` (of `cut` for `FINAL`), or
            `[B, n, ...]` for hook points in an attention that works on full rows.
        """
        names: list[str] = list(dict.fromkeys([*capture, FINAL] if final else capture))
        depth, length = self.depth(capture), packing.length
        with self.model.lock, self.model.kernels.used():
            key = length, self.model.device, self.model.dtype
            if key not in self._arguments:
                self._arguments[key] = self._plain_arguments(length)
            cut = packing if cut is None else cut
            state = PackedAttention(self.attentions, self._arguments[key], packing, cut, depth, before, keep)
            with self._replaced(state, names), tree_attention_used(self.attentions):
                # An empty mask prevents one of size T², but models with ALiBi read positions from the mask.
                mask = None if self._has_alibi else torch.zeros(1, 1, 1, 1, device=packing.ids.device)
                activations = self.backend.run_to_last_hook(
                    packing.ids[None], names, position_ids=packing.positions[None], attention_mask=mask
                )
        if final and state.cuts:
            kept = state.cut.kept
            assert kept is not None
            activations[FINAL] = activations[FINAL][:, to_device(kept, activations[FINAL].device)]
        if keep is not None:
            keep.activations = {name: x[:, : keep.length] for name, x in activations.items()}
        return activations

    def logits(self, final: Float[Tensor, "node d_model"]) -> Float[Tensor, "node d_vocab"]:
        """Return the logits for activations of :data:`FINAL` at some nodes, in the model's precision."""
        bridge = self.backend.bridge
        with torch.no_grad(), self.model.kernels.used():
            return self.backend.output_logits(bridge.unembed(final[None])[0])

    def _plain_arguments(self, length: int) -> list[tuple[tuple, dict[str, Any]]]:
        """Return the arguments, except its input, that each layer's attention gets for a plain row of this length."""
        arguments: list[tuple[tuple, dict[str, Any]] | None] = [None] * len(self.blocks)

        def recorder(layer: int) -> Any:
            original_forward = self.attentions[layer].forward

            def forward(*args: Any, **kwargs: Any) -> Any:
                rest = {k: v for k, v in kwargs.items() if k != "hidden_states"}
                arguments[layer] = args if "hidden_states" in kwargs else args[1:], rest
                return original_forward(*args, **kwargs)

            return forward

        token = int(self.model.vocabulary.allowed.nonzero()[0][0])
        ids = torch.full((1, length), token, device=self.model.device)
        with patched((a, "forward", recorder(i)) for i, a in enumerate(self.attentions)):
            self.backend.run_to_last_hook(ids, [FINAL])
        if None in arguments:
            raise NotPackable("a forward pass skips the attention of some blocks, which packed passes replace")
        self._has_alibi = any(x[1].get(name) is not None for x in arguments if x for name in HEAD_BIASES)
        return arguments  # pyright: ignore[reportReturnType]

    @contextlib.contextmanager
    def _replaced(self, state: PackedAttention, names: Sequence[str]) -> Iterator[None]:
        """Replace modules for one pass: wrapped modules where no hook point is read, and attention over nodes."""
        inside = _layers_inside(names)
        patches: list[tuple[Any, str, Any]] = []
        for i, attention in enumerate(self.attentions):
            way = ROWS if i in inside else self.way
            patches.append((attention, "forward", state.attention(i, way, attention.forward)))
            if way == HEADS:
                patches.append((attention, "_reconstruct_attention", state.spread(i, attention._reconstruct_attention)))
                project = attention._apply_output_projection
                patches.append((attention, "_apply_output_projection", state.gather(i, project)))
        if state.cuts:
            # The last block restores the number of nodes: some models expect the length of their input there.
            for i in {state.depth, len(self.blocks) - 1}:
                block = self.blocks[i]
                block = block.original_component if self.parts.is_bare(block, names) else block
                patches.append((block, "forward", state.cut_at(i, block.forward)))
        with self.parts.bare(names), patched(patches):
            yield


def _layers_inside(names: Sequence[str]) -> set[int]:
    """Return the layers with a hook point inside their attention."""
    return {int(m[1]) for m in map(_INSIDE.match, names) if m}


def depth(capture: Sequence[str], layers: int) -> int:
    """Return the index of the first of a model's blocks that none of the hook points needs.

    >>> depth(["blocks.2.mlp.hook_post", "hook_embed"], layers=8)
    3
    >>> depth(["hook_embed"], layers=8), depth(["ln_final.hook_in"], layers=8)
    (0, 8)
    """
    early = ("embed.", "hook_embed", "pos_embed.", "hook_pos_embed")

    def after(name: str) -> int:
        block = re.match(r"blocks\.(\d+)\.", name)
        if block:
            return int(block[1]) + 1
        return 0 if name.startswith(early) else layers

    return max(map(after, capture), default=0)
