"""Batch of prompts as a forward pass of fixed shape, which a graph of the device can run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dreamy_lens.features.binding import BoundFeature
from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.scoring.blocks import PromptBlock, pad_blocks
from dreamy_lens.scoring.static_inputs import ModelBatch, Sizes


class ForwardBatch:
    """Prompts of one or several features, prepared for each model that their passes run.

    Args:
        features: All features of the scorer.
        blocks: Prompts of each feature.
        for_all: Whether every feature is computed for every prompt, instead of for its own prompts.
        models: Prepared batch of each model that is run.
        fluency: Model whose cross-entropy counts; None if it is not wanted.
    """

    step = 32

    def __init__(
        self,
        features: Sequence[BoundFeature],
        blocks: tuple[PromptBlock, ...],
        for_all: bool,
        models: Mapping[HookedModel, ModelBatch],
        fluency: HookedModel | None,
    ) -> None:
        self.features, self.blocks, self.for_all = tuple(features), blocks, for_all
        self.models, self.fluency = dict(models), fluency

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of the blocks, then those that the batch of each model needs."""
        return (*map(len, self.blocks), *(size for batch in self.models.values() for size in batch.sizes))

    def arrays(self, room: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Return the inputs of a pass with this room, int64."""
        rooms, rows = self._rooms(room), pad_blocks(self.blocks, room[: len(self.blocks)])[1]
        arrays = {}
        for i, (batch, own) in enumerate(zip(self.models.values(), rooms, strict=True)):
            arrays |= {f"{i}.{name}": array for name, array in batch.arrays(own, rows).items()}
        return arrays

    def run(self, inputs: Mapping[str, Tensor], room: tuple[int, ...]) -> Float[Tensor, "quantity row"]:
        """Run the models, and return values (of every feature if `for_all`), and cross-entropies if wanted."""
        rooms = self._rooms(room)
        blocks, rows = pad_blocks(self.blocks, room[: len(self.blocks)])
        with torch.no_grad():
            runs = {}
            for i, (model, batch) in enumerate(self.models.items()):
                own = {name.partition(".")[2]: x for name, x in inputs.items() if name.startswith(f"{i}.")}
                runs[model] = batch.run(own, rooms[i], rows)
            everything = slice(0, len(rows))
            if self.for_all:
                readings = {model: run.reading(everything) for model, run in runs.items()}
                scores = [feature(readings) for feature in self.features]
            else:
                parts = [
                    self.features[b.feature]({model: run.reading(b.rows) for model, run in runs.items()})
                    for b in blocks
                ]
                scores = [torch.cat(parts)]
            if self.fluency is not None:
                scores.append(runs[self.fluency].reading(everything).cross_entropy.float())
            return torch.stack(scores)

    def result(self, outputs: Any, room: tuple[int, ...]) -> Float[Tensor, "quantity B"]:
        """Return the scores of the batch's own prompts, as a copy."""
        blocks = pad_blocks(self.blocks, room[: len(self.blocks)])[0]
        parts = [outputs[:, new.start : new.start + len(old)] for old, new in zip(self.blocks, blocks, strict=True)]
        return parts[0].clone() if len(parts) == 1 else torch.cat(parts, dim=1)

    def _rooms(self, room: tuple[int, ...]) -> list[Sizes]:
        """Return the part of the room that belongs to each model."""
        rest, width = room[len(self.blocks) :], len(Sizes._fields)
        return [Sizes(*rest[i : i + width]) for i in range(0, len(rest), width)]
