"""Values that a scan leaves out: cross-entropies of kept windows, and features' values at every token of them."""

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
"""Number of windows on which values read at all positions of one pass are compared with those of shorter prompts."""

TokenValueJob = tuple[int, int, np.ndarray]
"""Pairs of features of one bank and windows: the bank's number, the number of its first feature, the pairs' rows."""

JobArguments = tuple[int, np.ndarray, np.ndarray, np.ndarray]
"""Arguments of :meth:`TokenValues.values`."""

JobRunner = Callable[
    [Sequence[TokenValueJob], Callable[[TokenValueJob], JobArguments]], Iterable[tuple[TokenValueJob, np.ndarray]]
]
"""Function that is given jobs and what makes the arguments of one, and gives each job with its values, in any order."""


class TokenValues:
    """Computes values for windows that a scan kept.

    Args:
        scanner: Scanner of the scan.
    """

    def __init__(self, scanner: Scanner) -> None:
        self.scanner = scanner

    def cross_entropies(self, ids: Int[np.ndarray, "windows length"]) -> Float[np.ndarray, " windows"]:
        """Return the cross-entropy of each window."""
        config, out = self.scanner.config, np.empty(len(ids), np.float32)
        bulk = WindowScorer([], self.scanner.model, self.scanner.frame, config.length, True, config.batch_size)
        for at, found in bulk.passes(ids):
            assert found.cross_entropy is not None
            out[at] = to_host(found.cross_entropy)[0]
        return out

    def values(
        self,
        number: int,
        ids: Int[np.ndarray, "windows length"],
        which: Int[np.ndarray, " pairs"],
        columns: Int[np.ndarray, " pairs"],
    ) -> Float[np.ndarray, "pairs length"]:
        """Return values at every token, for pairs of a feature of one bank and a window.

        Args:
            number: Number of the bank.
            ids: Token ids of the windows, each window once.
            which: Window of each pair, as a row of `ids`.
            columns: Feature of each pair, as a column of the bank.

        Returns:
            The feature's value if the prompt ended at each token; NaN where it has none.
        """
        bank = self.scanner.banks[number]
        if bank.series is not None:
            values = self._in_one_pass(bank, ids, which, columns)
            some = np.flatnonzero(which < CHECKED)[:CHECKED]
            again = self._ending_there(bank, ids, which[some], columns[some])
            if _agree(values[some], again, self.scanner.model.dtype):
                return values
        # Here later tokens change what is computed at earlier ones.
        return self._ending_there(bank, ids, which, columns)

    def _in_one_pass(self, bank: FeatureBank, ids: np.ndarray, which: np.ndarray, columns: np.ndarray) -> np.ndarray:
        assert bank.series is not None
        config = self.scanner.config
        bulk = WindowScorer([bank], self.scanner.model, self.scanner.frame, config.length, False, config.batch_size)
        bulk.prepare(ids)
        out = np.empty((len(which), config.length), np.float32)
        order = np.argsort(which, kind="stable")
        size = max(1, bulk.size // 4) if len(bank) * config.length > 1 << 12 else bulk.size
        for start in range(0, len(ids), size):
            low, high = np.searchsorted(which[order], [start, start + size])
            pairs = order[low:high]
            with locked(bulk.models), torch.no_grad():
                series = bank.series(bulk.read(ids[start : start + size]))
                series = series[:, -config.length :]  # without what stands before the prompt
                device = series.device
                picked = series[to_device(which[pairs] - start, device), :, to_device(columns[pairs], device)]
            out[pairs] = to_host(picked.float())[0]
        return out

    def _ending_there(self, bank: FeatureBank, ids: np.ndarray, which: np.ndarray, columns: np.ndarray) -> np.ndarray:
        config = self.scanner.config
        out = np.full((len(which), config.length), np.nan, np.float32)
        used, row_of = np.unique(which, return_inverse=True)
        for end in range(1, config.length + 1):
            try:
                bulk = WindowScorer([bank], self.scanner.model, self.scanner.frame, end, False, config.batch_size)
                for at, found in bulk.passes(ids[used, :end]):
                    pairs = np.flatnonzero((row_of >= at.start) & (row_of < at.stop))
                    values = to_host(found.values[0])[0]
                    out[pairs, end - 1] = values[row_of[pairs] - at.start, columns[pairs]]
            except DreamyLensError:  # a feature that reads position 5 has no value before it
                continue
        return out


def _agree(ours: np.ndarray, theirs: np.ndarray, dtype: torch.dtype) -> bool:
    known = ~np.isnan(theirs)
    return is_close(torch.from_numpy(ours[known]), torch.from_numpy(theirs[known]), dtype)
