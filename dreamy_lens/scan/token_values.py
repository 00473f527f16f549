"""From what a scan kept to the tables that are read: windows with their cross-entropy, and values at their tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from dreamy_lens.corpus.problems import Problems
from dreamy_lens.errors import DreamyLensError
from dreamy_lens.models.hooked_model import locked
from dreamy_lens.models.transfer import to_device, to_host
from dreamy_lens.scan.checkpoint import Checkpoint
from dreamy_lens.scan.feature_stats import BINS, NOBODY
from dreamy_lens.scan.scanner import Scanner, versions
from dreamy_lens.scoring.feature_bank import FeatureBank
from dreamy_lens.scoring.feature_bank import order as order_of
from dreamy_lens.scoring.window_scorer import WindowScorer

CHUNK = 4096
"""Features whose rows are made at a time."""

CHECKED = 4
"""Windows on which values read at all positions of one pass are compared with those of prompts that end there."""


Job = tuple[int, int, np.ndarray]
"""Pairs of features of one bank and windows: the bank's number, its first feature's, and the pairs' rows."""

Answers = Callable[[Sequence[Job], Callable[[Job], tuple[Any, ...]]], Iterable[tuple[Job, np.ndarray]]]
"""Given jobs, and what makes arguments of one, gives each job with its values, in any order."""


class TokenValues:
    """Computes what a scan leaves out, for windows that were kept.

    Args:
        scanner: of the scan.
    """

    def __init__(self, scanner: Scanner) -> None:
        self.scanner = scanner

    def cross_entropies(self, ids: np.ndarray) -> np.ndarray:
        """Of windows `[U, n]`, float32 `[U]`."""
        s, out = self.scanner.settings, np.empty(len(ids), np.float32)
        bulk = WindowScorer([], self.scanner.model, self.scanner.frame, s.length, True, s.batch_size)
        for at, found in bulk.passes(ids):
            assert found.cross_entropy is not None
            out[at] = to_host(found.cross_entropy)[0]
        return out

    def values(self, number: int, ids: np.ndarray, which: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Values at every token of pairs of features of one bank and windows.

        Args:
            number: of the bank.
            ids: of the windows, each once, `[U, n]`.
            which: of them each pair has, `[P]`.
            columns: which feature of the bank it has, `[P]`.

        Returns:
            float32 `[P, n]`: what the feature's value is if the prompt ends at each token; NaN where it has none.
        """
        bank = self.scanner.banks[number]
        if bank.series is not None:
            found = self._in_one_pass(bank, ids, which, columns)
            some = np.flatnonzero(which < CHECKED)[:CHECKED]
            again = self._ending_there(bank, ids, which[some], columns[some])
            if _agree(found[some], again, self.scanner.model.dtype):
                return found
        # Here later tokens change what is computed at earlier ones.
        return self._ending_there(bank, ids, which, columns)

    def _in_one_pass(self, bank: FeatureBank, ids: np.ndarray, which: np.ndarray, columns: np.ndarray) -> np.ndarray:
        assert bank.series is not None
        s = self.scanner.settings
        bulk = WindowScorer([bank], self.scanner.model, self.scanner.frame, s.length, False, s.batch_size)
        bulk.prepare(ids)
        out = np.empty((len(which), s.length), np.float32)
        order = np.argsort(which, kind="stable")
        size = max(1, bulk.size // 4) if len(bank) * s.length > 1 << 12 else bulk.size
        for start in range(0, len(ids), size):
            low, high = np.searchsorted(which[order], [start, start + size])
            pairs = order[low:high]
            with locked(bulk.models), torch.no_grad():
                series = bank.series(bulk.read(ids[start : start + size]))
                series = series[:, -s.length :]  # without what stands before the prompt
                device = series.device
                picked = series[to_device(which[pairs] - start, device), :, to_device(columns[pairs], device)]
            out[pairs] = to_host(picked.float())[0]
        return out

    def _ending_there(self, bank: FeatureBank, ids: np.ndarray, which: np.ndarray, columns: np.ndarray) -> np.ndarray:
        s = self.scanner.settings
        out = np.full((len(which), s.length), np.nan, np.float32)
        used, row_of = np.unique(which, return_inverse=True)
        for end in range(1, s.length + 1):
            try:
                bulk = WindowScorer([bank], self.scanner.model, self.scanner.frame, end, False, s.batch_size)
                for at, found in bulk.passes(ids[used, :end]):
                    pairs = np.flatnonzero((row_of >= at.start) & (row_of < at.stop))
                    values = to_host(found.values[0])[0]
                    out[pairs, end - 1] = values[row_of[pairs] - at.start, columns[pairs]]
            except DreamyLensError:  # a feature that reads position 5 has no value before it
                continue
        return out


class TableBuilder:
    """The tables of a scan.

    Args:
        scanner: that scanned.
        progress: what it found.
        told: called with how many of how many pairs of feature and window have been described.
    """

    def __init__(
        self, scanner: Scanner, progress: Checkpoint, told: Callable[[int, int], object] = lambda done, of: None
    ) -> None:
        self.scanner, self.progress, self.told = scanner, progress, told
        progress.prune()
        self.store = progress.store
        self.store._settle()
        tally = progress.tally.to("cpu")
        self.tally = tally
        self.kept = _kept_rows(tally.value.numpy(), tally.window.numpy(), "top")
        fluent = _kept_rows(tally.level_value.numpy(), tally.level_window.numpy(), "fluent")
        both = [np.concatenate(pair) for pair in zip(self.kept, fluent, strict=True)]
        order = np.lexsort((both[2], both[1] == "fluent", both[0]))
        self.order = order_of(scanner.banks)
        self.ordered = bool((self.order == np.arange(len(self.order))).all())
        self.feature, self.kind, self.rank, self.value, self.window = (x[order] for x in both)
        self.values = np.full((len(self.feature), scanner.settings.length), np.nan, np.float32)

    def header(self, identity: dict[str, Any], complete: bool) -> dict[str, Any]:
        """What goes into `examples.json`."""
        s, p, fluency = self.scanner.settings, self.progress, self.scanner.frame.fluency
        problems = Problems.total([self.scanner.corpus.opening_problems, p.problems])
        return {
            "model": self.scanner.model.name,
            "tokenizer": self.scanner.model.vocabulary.digest,
            "prepend_bos": self.scanner.frame.prepend_bos,
            "fluency_model": None if fluency is self.scanner.model else fluency.name,
            "corpus": {"name": self.scanner.corpus.name, "fingerprint": self.scanner.corpus.fingerprint},
            "settings": {
                "k": s.k,
                "length": s.length,
                "stride": s.windows.step,
                "context": s.context,
                "tokens": s.tokens,
                "seed": s.seed,
                "cross_entropy": s.cross_entropy,
                "sample": len(p.sample.number),
            },
            "counts": p.counts,
            "problems": [{"name": one.name, "why": one.why} for one in problems.first],
            "problem_count": len(problems),
            "problem_counts": problems.counts,
            "failed_shards": [{"name": name, "why": why} for name, why in p.failed.items()],
            "complete": complete,
            "seconds": p.seconds,
            "versions": dict(versions()),
            "identity": identity,
        }

    def describe(self, answers: Answers | None = None) -> None:
        """Compute what the scan did not: missing cross-entropies, and values at every token of kept windows.

        Args:
            answers: computes them elsewhere; default: here, one after the other.
        """
        here = TokenValues(self.scanner)
        answers = answers or (lambda jobs, made: ((job, here.values(*made(job))) for job in jobs))
        missing = np.flatnonzero(np.isnan(self.store.cross_entropy))
        if len(missing) and self.scanner.bulk.layout.terms >= 1:
            self.store.cross_entropy[missing] = here.cross_entropies(self.store.ids[missing].astype(np.int64))
        jobs, offset, done = [], 0, 0
        for number, bank in enumerate(self.scanner.banks):
            low, high = np.searchsorted(self.feature, [offset, offset + len(bank)])
            rows = np.arange(low, high)
            jobs += [(number, offset, part) for part in _by_window(rows, self.window[rows])]
            offset += len(bank)
        for (_, _, rows), values in answers(jobs, self._made):
            self.values[rows] = values
            done += len(rows)
            self.told(done, len(self.feature))

    def _made(self, job: Job) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
        """What has to be known of pairs of features of one bank and windows: the arguments of `Describer.values`."""
        number, offset, rows = job
        windows, which = np.unique(self.window[rows], return_inverse=True)
        ids = self.store.ids[self.store.rows(windows)].astype(np.int64)
        return number, ids, which, self.feature[rows] - offset

    # The tables.

    def features(self) -> Iterator[Any]:
        """Rows of the table `features`, as record batches."""
        import pyarrow as pa

        from dreamy_lens.scan.schema import table

        tally, sample = self.tally, self.progress.sample
        numbers, values = sample.ordered()
        columns = to_host(values)[0].T
        count, total, squares = tally.moments.numpy()
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = total / count
            deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
        width, counts = np.exp2(tally.exponent.numpy().astype(float)), tally.counts.numpy()
        banks = self.scanner.banks
        begins = np.cumsum([0, *map(len, banks)])
        for start in range(0, len(tally), CHUNK):
            at = self.order[start : start + CHUNK]
            filled = [np.flatnonzero(row) for row in counts[at]]
            bars = zip(counts[at], filled, strict=True)
            of = np.searchsorted(begins, at, side="right") - 1
            ends = tally.ends.numpy().astype(float)[:, at]
            found = table(
                "features",
                {
                    "feature": np.arange(start, start + len(at)),
                    "label": [str(banks[b].members[i - begins[b]]) for i, b in zip(at, of, strict=True)],
                    "windows": count[at].astype(np.int64),
                    "non_finite": tally.odd.numpy()[at],
                    "mean": mean[at],
                    "deviation": deviation[at],
                    "minimum": np.where(np.isfinite(ends[0]), ends[0], np.nan),
                    "maximum": np.where(np.isfinite(ends[1]), ends[1], np.nan),
                    "histogram_width": width[at],
                    "histogram_start": np.array([(f[0] if len(f) else BINS // 2) - BINS // 2 for f in filled]),
                    "histogram": [row[f[0] : f[-1] + 1].tolist() if len(f) else [] for row, f in bars],
                    "sample_values": np.ascontiguousarray(columns[at]),
                    "sample_windows": pa.array([numbers] * len(at), type=pa.list_(pa.int64())),
                },
            )
            yield from found.to_batches()

    def windows(self) -> dict[str, Any]:
        """Columns of the table `windows`."""
        store = self.store
        return {
            "window": store.number,
            "document": store.documents.tolist(),
            "character": store.character,
            "ids": np.ascontiguousarray(store.ids),
            "before": [row[row >= 0] for row in store.before],
            "after": [row[row >= 0] for row in store.after],
            "cross_entropy": store.cross_entropy,
        }

    def kept_rows(self) -> Iterator[Any]:
        """Rows of the table `kept`, as record batches."""
        from dreamy_lens.scan.schema import table

        size = CHUNK * self.scanner.settings.k
        feature, rows = self.feature, np.arange(len(self.feature))
        if not self.ordered:
            place = np.empty(len(self.order), np.int64)
            place[self.order] = np.arange(len(self.order))
            feature = place[feature]
            rows = np.argsort(feature, kind="stable")
        for start in range(0, len(rows), size):
            at = rows[start : start + size]
            columns = {"feature": feature, "kind": self.kind, "rank": self.rank, "value": self.value}
            columns |= {"window": self.window, "values": np.ascontiguousarray(self.values)}
            given = {name: column[at] for name, column in columns.items()}
            given["kind"] = given["kind"].tolist()
            yield from table("kept", given).to_batches()


def _kept_rows(value: np.ndarray, window: np.ndarray, kind: str) -> tuple[np.ndarray, ...]:
    """Feature, kind, rank, value and window of every place `[F, m]` that is taken."""
    feature, rank = np.nonzero(window != NOBODY)
    at = feature, rank
    return feature.astype(np.int64), np.full(len(feature), kind), rank.astype(np.int64), value[at], window[at]


def _by_window(rows: np.ndarray, windows: np.ndarray, most: int = 1 << 18) -> Iterator[np.ndarray]:
    """Rows in the order of their windows, in parts, so that a window of many features is run once or twice."""
    order = rows[np.argsort(windows, kind="stable")]
    for start in range(0, len(order), most):
        yield order[start : start + most]


def _agree(ours: np.ndarray, theirs: np.ndarray, dtype: torch.dtype) -> bool:
    from dreamy_lens.scoring.prefix_sharing import close

    known = ~np.isnan(theirs)
    return close(torch.from_numpy(ours[known]), torch.from_numpy(theirs[known]), dtype)
