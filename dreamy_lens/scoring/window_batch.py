"""Batch of windows as a pass of fixed shape, which a graph of the device can run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamy_lens.models.hooked_model import HookedModel


class WindowBatch:
    """Rows of windows for each model that reads them.

    Args:
        rows: Token ids by model, with BOS, int64 `[B, total]`.
        score: Function that computes the values of every bank, and perhaps cross-entropies, from the rows of each
            model on its device.
    """

    step = 0

    def __init__(
        self, rows: Mapping[HookedModel, np.ndarray], score: Callable[[Mapping[HookedModel, Tensor]], Sequence[Tensor]]
    ) -> None:
        self.rows, self._score = dict(rows), score

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of windows."""
        return (len(next(iter(self.rows.values()))),)

    def arrays(self, room: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Return the rows of each model; the last window is repeated if there is more room."""
        places = np.minimum(np.arange(room[0]), self.sizes[0] - 1)
        return {str(i): rows[places] for i, rows in enumerate(self.rows.values())}

    def run(self, inputs: Mapping[str, Tensor], room: tuple[int, ...]) -> Sequence[Tensor]:
        """Return the values of each bank `[B, F]`, and perhaps cross-entropies `[B]`."""
        with torch.no_grad():
            return self._score({model: inputs[str(i)] for i, model in enumerate(self.rows)})

    def result(self, outputs: Any, room: tuple[int, ...]) -> list[Tensor]:
        """Return the scores of the batch's own windows, as copies."""
        return [x[: self.sizes[0]].clone() for x in outputs]
