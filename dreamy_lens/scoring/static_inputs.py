"""Inputs of passes of fixed shape: everything that a pass needs of the host, in one buffer of integers.

A batch is prepared in the CPU's memory (:class:`PackedBatch`, :class:`PlainBatch`), padded to the shape of a pass, and
copied to the device in one transfer. On the device, views of the buffer take the places of the batch's arrays.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Int64
from torch import Tensor

from dreamy_lens.features.forward_pass import ActivationSource, ForwardPass, RowLayout
from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.models.prefix_tree import build_tree
from dreamy_lens.models.tree_attention import kernel_used
from dreamy_lens.scoring.kv_prefix import empty_cache
from dreamy_lens.scoring.prefix_sharing import PrefixSharing
from dreamy_lens.scoring.static_reading import StaticPass


class Sizes(NamedTuple):
    """Sizes that a packed pass needs, or has room for.

    Attributes:
        nodes: Nodes of the tree, its padding included.
        cut: Nodes of the truncated tree, its padding included; 0 without one.
        predicting: Distinct nodes whose logits are read.
    """

    nodes: int = 0
    cut: int = 0
    predicting: int = 0


class Reader(Protocol):
    """Pass of fixed shape, whose prompts are read in slices."""

    def reading(self, rows: slice) -> ActivationSource:
        """Return the reading of some of the prompts."""
        ...


class ModelBatch(Protocol):
    """Batch of one model, in the CPU's memory.

    Attributes:
        sizes: Sizes that its pass needs.
        tokens: Number of tokens of its rows, each shared one counted once if prefixes are shared.
    """

    sizes: Sizes
    tokens: int

    def arrays(self, room: Sizes, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return the inputs of a pass with this room, in which the prompts with these numbers stand."""
        ...

    def run(self, inputs: Mapping[str, Tensor], room: Sizes, rows: np.ndarray) -> Reader:
        """Run the model on inputs on its device."""
        ...


class PackedBatch:
    """Batch of a model whose prompts share prefixes.

    Args:
        sharing: Prefix sharing of the model.
        rows: Token ids of the rows, with BOS and template, int64 `[B, total]`.
        final: Whether logits are read.
        by_kernel: Whether one kernel computes the attention over the tree.
    """

    def __init__(
        self, sharing: PrefixSharing, rows: Int64[np.ndarray, "B total"], final: bool, by_kernel: bool = False
    ) -> None:
        layout, self.by_kernel = sharing.layout, by_kernel
        self.sharing, self.final, self._rows = sharing, final, rows
        self.before = sharing.prefix(rows, final)
        self.tree = build_tree(rows, known=0 if self.before is None else self.before.length)
        self.cut = self.tree.truncate(layout.predicting.stop) if sharing.truncates(final) else self.tree
        self.predicting, self.places = np.empty(0, np.int64), np.empty((len(rows), 0), np.int64)
        if final:
            index = self.cut.host_index[:, layout.predicting]
            self.predicting, places = np.unique(index, return_inverse=True)
            self.places = places.reshape(index.shape)
        cut = 0 if self.cut is self.tree else self.cut.nodes
        self.sizes, self.tokens = Sizes(self.tree.nodes, cut, len(self.predicting)), self.tree.nodes

    def arrays(self, room: Sizes, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return the inputs of a pass with this room, in which the prompts with these numbers stand."""
        tree = self.tree.pad(room.nodes, rows)
        arrays = {f"tree.{name}": x.numpy() for name, x in tree.tensors.items()}
        if room.cut:
            cut = self.cut.pad(room.cut, rows)
            arrays |= {f"cut.{name}": x.numpy() for name, x in cut.tensors.items()}
        if self.final:
            spare = np.zeros(room.predicting - len(self.predicting), np.int64)
            arrays["predicting"] = np.concatenate([self.predicting, spare])
            arrays["places"] = self.places[rows]
            arrays["targets"] = self._rows[rows][:, self.sharing.layout.predicted]
        return arrays

    def run(self, inputs: Mapping[str, Tensor], room: Sizes, rows: np.ndarray) -> StaticPass:
        """Run the model on inputs on its device."""
        packed, capture = self.sharing.packed, self.sharing.capture
        assert packed is not None
        tree = self.tree.pad(room.nodes, rows).with_tensors(_part(inputs, "tree."))
        cut = self.cut.pad(room.cut, rows).with_tensors(_part(inputs, "cut.")) if room.cut else tree
        with kernel_used() if self.by_kernel else contextlib.nullcontext():
            found = packed.run(tree, capture, final=self.final, cut=cut, before=self.before)
        return StaticPass(
            packed,
            self.sharing.layout,
            tree.index,
            found,
            self.before,
            packed.row_hooks(capture),
            inputs.get("predicting"),
            inputs.get("places"),
            inputs.get("targets"),
        )


class PlainBatch:
    """Batch of a model that reads every row whole.

    Args:
        model: Model that is run.
        layout: Layout of every row.
        rows: Token ids of the rows, with BOS and template, int64 `[B, total]`.
        capture: Hook points to read.
        final: Whether logits are read.
    """

    sizes = Sizes()

    def __init__(
        self, model: HookedModel, layout: RowLayout, rows: np.ndarray, capture: Sequence[str], final: bool
    ) -> None:
        self.model, self.layout, self.capture, self.final, self._rows = model, layout, tuple(capture), final, rows
        self.tokens = rows.size

    def arrays(self, room: Sizes, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return the inputs of a pass in which the prompts with these numbers stand."""
        return {"ids": self._rows[rows]}

    def run(self, inputs: Mapping[str, Tensor], room: Sizes, rows: np.ndarray) -> PlainPass:
        """Run the model on inputs on its device."""
        ids = inputs["ids"]
        with self.model.kernels.used():
            # With a cache, Hugging Face does not search the rows for packed sequences, for which the host would wait.
            past = empty_cache() if self.model.packed_ways else None
            activations, logits = self.model.run(ids, self.capture, logits=self.final, past=past)
        return PlainPass(ForwardPass(activations, logits, ids, self.layout))


@dataclass
class PlainPass:
    """Plain pass, whose prompts are read in slices."""

    whole: ForwardPass

    def reading(self, rows: slice) -> ForwardPass:
        """Return the reading of some of the prompts."""
        return self.whole.part(rows)


def _part(inputs: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): x for name, x in inputs.items() if name.startswith(prefix)}
