"""Packed pass over many prompts, and the form in which features read it.

This is the counterpart of :class:`~dreamy_lens.features.forward_pass.ForwardPass` for rows that share prefixes.
Activations are stored for each node of the prefix tree, and are expanded to prompts only at the positions that a
feature reads. Logits exist for one chunk of nodes at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from dreamy_lens.features import expressions as ex
from dreamy_lens.features.forward_pass import RowLayout, pick
from dreamy_lens.models.backend import PackedRunner
from dreamy_lens.models.packed_attention import PassCache
from dreamy_lens.models.packed_forward import FINAL
from dreamy_lens.models.prefix_tree import ROUND, PrefixTree
from dreamy_lens.models.transfer import to_device

CHUNK = {"cpu": 1 << 21, "cuda": 1 << 27}
"""Logits that exist at one time, by kind of device. On a CPU they must fit into its caches until they are summed."""

LEAST_ROWS = 128
"""Smallest number of rows in one product with the unembedding, because each product reads the whole matrix."""


def chunk_size(device: torch.device, d_vocab: int) -> int:
    """Return the number of nodes whose logits exist at one time."""
    size = CHUNK.get(device.type, CHUNK["cpu"]) // max(1, d_vocab)
    return max(LEAST_ROWS, size // ROUND * ROUND)


class PackedPass:
    """Packed pass of one model.

    Args:
        packed: Packed form of the model.
        layout: Layout of every row.
        ids: Token ids of the rows, int64 `[B, total]`.
        packing: Prefix tree of the rows.
        cut: Prefix tree of the positions whose logits are needed.
        found: Activations by hook point, from :meth:`PackedRunner.run`.
        before: Cached pass over the template's prefix, if there is one.
        by_rows: Hook points whose activations are stored for each row, not for each node.
    """

    def __init__(
        self,
        packed: PackedRunner,
        layout: RowLayout,
        ids: np.ndarray,
        packing: PrefixTree,
        cut: PrefixTree,
        found: dict[str, Tensor],
        before: PassCache | None,
        by_rows: frozenset[str] = frozenset(),
    ) -> None:
        self.packed, self.layout, self.ids = packed, layout, ids
        self.packing, self.cut, self.found, self.before = packing, cut, found, before
        self._by_rows = by_rows

    def at_nodes(self, name: str) -> Float[Tensor, "nodes ..."] | None:
        """Return the activation at each node, cached nodes first; None if it is stored by rows."""
        tensor = self.found[name]
        if name in self._by_rows:
            return None
        if self.before is None:
            return tensor[0]
        return torch.cat([self.before.activations[name][0], tensor[0]])

    def by_rows(self, name: str) -> Float[Tensor, "B ..."]:
        """Return an activation that is stored by rows, such as one inside an attention."""
        return self.found[name]

    @cached_property
    def final(self) -> Float[Tensor, "nodes d_model"]:
        """Input of the unembedding at each node."""
        final = self.at_nodes(FINAL)
        assert final is not None
        return final

    def logits(self, nodes: Int64[np.ndarray, " m"]) -> Iterator[tuple[slice, Float32[Tensor, "chunk d_vocab"]]]:
        """Yield the logits of these nodes chunk by chunk, each with its slice of `nodes`."""
        size = chunk_size(self.final.device, self.packed.model.vocabulary.size)
        for start in range(0, len(nodes), size):
            part = slice(start, min(start + size, len(nodes)))
            wanted = nodes[part]
            spare = -len(wanted) % ROUND  # rounds the shape, as prefix trees do
            at = to_device(np.append(wanted, np.repeat(wanted[-1:], spare)), self.final.device)
            yield part, self.packed.logits(self.final[at])[: len(wanted)].float()

    @cached_property
    def losses(self) -> Float32[Tensor, "B terms"]:
        """-log p of the predicted tokens of each row, in nats."""
        self.layout.check()
        index = self.cut.host_index[:, self.layout.predicting]
        targets = self.ids[:, self.layout.predicted]
        nodes, which = np.unique(index.reshape(-1), return_inverse=True)
        # Pairs of node and target are sorted by node, so that each chunk of nodes needs one slice of the pairs.
        order = np.argsort(which, kind="stable")
        ends = np.searchsorted(which[order], np.arange(len(nodes) + 1))
        device = self.final.device
        wanted, places = to_device(targets.reshape(-1)[order], device), to_device(which[order], device)
        sums, chosen = [], []
        for part, logits in self.logits(nodes):
            if logits.device != places.device:  # if a model spans several devices
                wanted, places = wanted.to(logits.device), places.to(logits.device)
            pairs = slice(int(ends[part.start]), int(ends[part.stop]))
            chosen.append(logits[places[pairs] - part.start, wanted[pairs]])
            sums.append(logsumexp_(logits))
        losses = torch.cat(sums)[places] - torch.cat(chosen)
        return torch.empty_like(losses).index_copy_(0, to_device(order, losses.device), losses).view(targets.shape)

    def reading(self, rows: np.ndarray) -> PackedReading:
        """Return the reading of some of the prompts, given by their row."""
        return PackedReading(self, rows)


class PackedReading:
    """Prompts of a packed pass, as an :class:`~dreamy_lens.features.forward_pass.ActivationSource` for features."""

    def __init__(self, run: PackedPass, rows: np.ndarray) -> None:
        self.run, self.rows = run, rows

    @property
    def layout(self) -> RowLayout:
        """Layout of every row."""
        return self.run.layout

    @property
    def size(self) -> int:
        """Number of prompts."""
        return len(self.rows)

    @property
    def activations(self) -> Mapping[str, Tensor]:
        """Activations by hook point, `[batch, ...]`, made on access."""
        return _Spread(self)

    def picked(self, name: str, element: ex.Element, what: str) -> Tensor:
        """Return the activation `[batch, ...]` at a position or span; the hook point's first axis is the positions."""
        tensor = self.run.at_nodes(name)
        if tensor is None:
            return pick(self.activations[name], 1, element, self.layout, what)
        return tensor[to_device(self._nodes(element, what), tensor.device)]

    def over_vocabulary(self, function: Callable[[Tensor], Tensor], element: ex.Element, what: str) -> Tensor:
        """Apply a function `[..., d_vocab] -> [...]` to the float32 logits at a position or a span of m positions.

        Returns:
            `[batch]` for a position, `[batch, m]` for a span.
        """
        at = self._nodes(element, what)
        nodes, which = np.unique(at.reshape(-1), return_inverse=True)
        values = torch.cat([function(logits) for _, logits in self.run.logits(nodes)])
        return values[to_device(which.reshape(at.shape), values.device)]

    @property
    def cross_entropy(self) -> Float32[Tensor, " batch"]:
        """Mean cross-entropy of each prompt, nats per token (Eq. 1)."""
        losses = self.run.losses
        return losses[to_device(self.rows, losses.device)].mean(-1)

    def _nodes(self, element: ex.Element, what: str) -> np.ndarray:
        """Return the node of each prompt at a position, or its nodes at a span."""
        index = torch.from_numpy(self.run.packing.host_index[self.rows])
        return pick(index, 1, element, self.layout, what).numpy()


class _Spread(Mapping[str, Tensor]):
    """Activations of whole rows by hook point, each made on access."""

    def __init__(self, reading: PackedReading) -> None:
        self._reading = reading

    def __getitem__(self, name: str) -> Tensor:
        run, rows = self._reading.run, self._reading.rows
        tensor = run.at_nodes(name)
        if tensor is None:
            by_rows = run.by_rows(name)
            return by_rows[to_device(rows, by_rows.device)]
        return tensor[to_device(run.packing.host_index[rows], tensor.device)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._reading.run.found)

    def __len__(self) -> int:
        return len(self._reading.run.found)


def logsumexp_(logits: Float32[Tensor, "chunk d_vocab"]) -> Float32[Tensor, " chunk"]:
    """Compute logsumexp over the last axis in place: `torch.logsumexp` would copy logits that are not needed again."""
    most = logits.amax(-1, keepdim=True)
    most = most.masked_fill(most.isinf(), 0)
    return logits.sub_(most).exp_().sum(-1).log_() + most[..., 0]
