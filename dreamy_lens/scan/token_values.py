"""Values that are computed after a scan, for the kept windows: cross-entropies, and feature values at every token."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int

from dreamy_lens.errors import DreamyLensError
from dreamy_lens.models.hooked_model import locked
from dreamy_lens.models.transfer import to_device, to_host
from dreamy_lens.scan.scanner import Scanner
from dreamy_lens.scoring.feature_bank import FeatureBank
from dreamy_lens.scoring.prefix_sharing import is_close
from dreamy_lens.scoring.window_scorer import WindowScorer

CHECKED = 4
"""Number of windows on which the values of one forward pass are compared with those of shortened prompts."""

TokenValueJob = tuple[int, int, np.ndarray]
"""Pairs of a feature of one bank and a window: number of the bank, number of its first feature, rows of the pairs."""

JobArguments = tuple[int, np.ndarray, np.ndarray, np.ndarray]
"""Arguments of :meth:`TokenValues.values`."""

JobRunner = Callable[
    [Sequence[TokenValueJob], Callable[[TokenValueJob], JobArguments]], Iterable[tuple[TokenValueJob, np.ndarray]]
]
"""Function that takes jobs and a function from a job to its arguments, and yields each job with its values."""


class TokenValues:
    """Computation of values on the windows that a scan kept.

    Args:
        scanner: Scanner of the scan.
    """

    def __init__(self, scanner: Scanner) -> None:
        self.scanner = scanner

    def cross_entropies(self, ids: Int[np.ndarray, "windows length"]) -> Float[np.ndarray, " windows"]:
        """Return the cross-entropy of each window."""
        config, out = self.scanner.config, np.empty(len(ids), np.float32)
        scorer = WindowScorer([], self.scanner.model, self.scanner.frame, config.length, True, config.batch_size)
        for rows, scores in scorer.passes(ids):
            assert scores.cross_entropy is not None
            out[rows] = to_host(scores.cross_entropy)[0]
        return out

    def values(
        self,
        number: int,
        ids: Int[np.ndarray, "windows length"],
        which: Int[np.ndarray, " pairs"],
        columns: Int[np.ndarray, " pairs"],
    ) -> Float[np.ndarray, "pairs length"]:
        """Return the values at every token, for pairs of a feature of one bank and a window.

        Args:
            number: Number of the bank.
            ids: Token ids of the windows, each window once.
            which: Window of each pair, as a row of `ids`.
            columns: Feature of each pair, as a column of the bank.

        Returns:
            Value of the feature if the prompt ended at each token; NaN at tokens where the feature has no value.
        """
        bank = self.scanner.banks[number]
        if bank.series is not None:
            values = self._in_one_pass(bank, ids, which, columns)
            checked = np.flatnonzero(which < CHECKED)[:CHECKED]
            reference = self._with_shortened_prompts(bank, ids, which[checked], columns[checked])
            if _agree(values[checked], reference, self.scanner.model.dtype):
                return values
        # In this model, later tokens change the activations at earlier tokens.
        return self._with_shortened_prompts(bank, ids, which, columns)

    def _in_one_pass(self, bank: FeatureBank, ids: np.ndarray, which: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return the values at every token by reading all positions of one forward pass."""
        assert bank.series is not None
        config = self.scanner.config
        scorer = WindowScorer([bank], self.scanner.model, self.scanner.frame, config.length, False, config.batch_size)
        scorer.prepare(ids)
        out = np.empty((len(which), config.length), np.float32)
        order = np.argsort(which, kind="stable")
        size = max(1, scorer.size // 4) if len(bank) * config.length > 1 << 12 else scorer.size
        for start in range(0, len(ids), size):
            low, high = np.searchsorted(which[order], [start, start + size])
            pairs = order[low:high]
            with locked(scorer.models), torch.no_grad():
                series = bank.series(scorer.read(ids[start : start + size]))
                series = series[:, -config.length :]  # without the BOS before the prompt
                device = series.device
                picked = series[to_device(which[pairs] - start, device), :, to_device(columns[pairs], device)]
            out[pairs] = to_host(picked.float())[0]
        return out

    def _with_shortened_prompts(
        self, bank: FeatureBank, ids: np.ndarray, which: np.ndarray, columns: np.ndarray
    ) -> np.ndarray:
        """Return the values at every token by scoring a shortened prompt for each."""
        config = self.scanner.config
        out = np.full((len(which), config.length), np.nan, np.float32)
        used, row_of = np.unique(which, return_inverse=True)
        for end in range(1, config.length + 1):
            try:
                scorer = WindowScorer([bank], self.scanner.model, self.scanner.frame, end, False, config.batch_size)
                for rows, scores in scorer.passes(ids[used, :end]):
                    pairs = np.flatnonzero((row_of >= rows.start) & (row_of < rows.stop))
                    values = to_host(scores.values[0])[0]
                    out[pairs, end - 1] = values[row_of[pairs] - rows.start, columns[pairs]]
            except DreamyLensError:  # a feature that reads position 5 has no value at earlier positions
                continue
        return out


def _agree(values: np.ndarray, reference: np.ndarray, dtype: torch.dtype) -> bool:
    """Return whether values equal a reference, where it has values, up to rounding in `dtype`."""
    known = ~np.isnan(reference)
    return is_close(torch.from_numpy(values[known]), torch.from_numpy(reference[known]), dtype)
