"""Packed pass of fixed shape, and the form in which features read it.

The pass and its reading depend on tensors of the device only, so that they can be recorded as a graph of the device
(:mod:`~dreamy_lens.models.device_graph`). Prompts are the rows of a slice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from dreamy_lens.features import expressions as ex
from dreamy_lens.features.forward_pass import RowLayout, pick
from dreamy_lens.models.backend import PackedRunner
from dreamy_lens.models.packed_attention import PassCache
from dreamy_lens.models.packed_forward import FINAL
from dreamy_lens.scoring.packed_reading import chunk_size, logsumexp_


class StaticPass:
    """Packed pass of one model over rows of fixed number and length.

    Args:
        packed: Packed form of the model.
        layout: Layout of every row.
        index: Node of every row and position, int64 `[B, total]`.
        found: Activations by hook point, from :meth:`PackedRunner.run`.
        before: Cached pass over the template's prefix, if there is one.
        by_rows: Hook points whose activations are stored for each row, not for each node.
        predicting: Distinct nodes whose logits predict a token of a prompt, int64 `[N]`; None without logits.
        places: Place in `predicting` of the node that predicts each token, int64 `[B, terms]`; None without logits.
        targets: Predicted tokens, int64 `[B, terms]`; None without logits.
    """

    def __init__(
        self,
        packed: PackedRunner,
        layout: RowLayout,
        index: Int64[Tensor, "B total"],
        found: dict[str, Tensor],
        before: PassCache | None,
        by_rows: frozenset[str],
        predicting: Int64[Tensor, " N"] | None = None,
        places: Int64[Tensor, "B terms"] | None = None,
        targets: Int64[Tensor, "B terms"] | None = None,
    ) -> None:
        self.packed, self.layout, self.index, self.found, self.before = packed, layout, index, found, before
        self.by_rows, self.predicting, self.places, self.targets = by_rows, predicting, places, targets

    def at_nodes(self, name: str) -> Float[Tensor, "nodes ..."] | None:
        """Return the activation at each node, cached nodes first; None if it is stored by rows."""
        if name in self.by_rows:
            return None
        tensor = self.found[name][0]
        return tensor if self.before is None else torch.cat([self.before.activations[name][0], tensor])

    def logits(self, nodes: Int64[Tensor, " m"]) -> Iterator[tuple[int, Float32[Tensor, "chunk d_vocab"]]]:
        """Yield the logits of these nodes chunk by chunk, each with the number of its first node."""
        size = chunk_size(self._final.device, self.packed.model.vocabulary.size)
        for start in range(0, len(nodes), size):
            yield start, self.packed.logits(self._final[nodes[start : start + size]]).float()

    @cached_property
    def _final(self) -> Tensor:
        final = self.at_nodes(FINAL)
        assert final is not None
        return final

    @cached_property
    def losses(self) -> Float32[Tensor, "B terms"]:
        """-log p of the predicted tokens of each row, in nats."""
        assert self.predicting is not None and self.places is not None and self.targets is not None
        places, targets = self.places.reshape(-1), self.targets.reshape(-1)
        sums: list[Tensor] = []
        chosen: Tensor | None = None
        for start, logits in self.logits(self.predicting):
            inside = (places - start).clamp(0, len(logits) - 1)
            own = logits[inside, targets]
            # Without a host that sorts them, all pairs are read from every chunk, and those of other chunks dropped.
            chosen = own if chosen is None else torch.where(places >= start, own, chosen)
            sums.append(logsumexp_(logits))
        assert chosen is not None
        return (torch.cat(sums)[places] - chosen).view(self.targets.shape)

    def reading(self, rows: slice) -> StaticReading:
        """Return the reading of some of the prompts."""
        return StaticReading(self, rows)


class StaticReading:
    """Prompts of a static pass, as an :class:`~dreamy_lens.features.forward_pass.ActivationSource` for features."""

    def __init__(self, run: StaticPass, rows: slice) -> None:
        self.run, self.rows = run, rows
        self.index = run.index[rows]

    @property
    def layout(self) -> RowLayout:
        """Layout of every row."""
        return self.run.layout

    @property
    def size(self) -> int:
        """Number of prompts."""
        return len(self.index)

    @property
    def activations(self) -> Mapping[str, Tensor]:
        """Activations by hook point, `[batch, ...]`, made on access."""
        return _StaticActivations(self)

    def picked(self, name: str, element: ex.Element, what: str) -> Tensor:
        """Return the activation `[batch, ...]` at a position or span; the hook point's first axis is the positions."""
        tensor = self.run.at_nodes(name)
        if tensor is None:
            return pick(self.activations[name], 1, element, self.layout, what)
        return tensor[pick(self.index, 1, element, self.layout, what)]

    def over_vocabulary(self, function: Callable[[Tensor], Tensor], element: ex.Element, what: str) -> Tensor:
        """Apply a function `[..., d_vocab] -> [...]` to the float32 logits at a position or a span of m positions.

        Returns:
            `[batch]` for a position, `[batch, m]` for a span.
        """
        at = pick(self.index, 1, element, self.layout, what)
        return torch.cat([function(logits) for _, logits in self.run.logits(at.reshape(-1))]).view(at.shape)

    @property
    def cross_entropy(self) -> Float32[Tensor, " batch"]:
        """Mean cross-entropy of each prompt, nats per token (Eq. 1)."""
        return self.run.losses[self.rows].mean(-1)


class _StaticActivations(Mapping[str, Tensor]):
    """Activations of whole rows by hook point, each made on access."""

    def __init__(self, reading: StaticReading) -> None:
        self._reading = reading

    def __getitem__(self, name: str) -> Tensor:
        run = self._reading.run
        tensor = run.at_nodes(name)
        return run.found[name][self._reading.rows] if tensor is None else tensor[self._reading.index]

    def __iter__(self) -> Iterator[str]:
        return iter(self._reading.run.found)

    def __len__(self) -> int:
        return len(self._reading.run.found)
