"""Construction of the tables of a scan, from its checkpoint and from the values at the tokens of kept windows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from einops import rearrange
from jaxtyping import Int

from dreamy_lens.corpus.problems import Problems
from dreamy_lens.models.transfer import to_host
from dreamy_lens.scan.checkpoint import Checkpoint
from dreamy_lens.scan.feature_stats import BINS, NO_WINDOW
from dreamy_lens.scan.fingerprint import library_versions
from dreamy_lens.scan.scanner import Scanner
from dreamy_lens.scan.schema import arrow_table
from dreamy_lens.scan.token_values import JobArguments, JobRunner, TokenValueJob, TokenValues
from dreamy_lens.scoring.feature_bank import given_order

CHUNK = 4096
"""Number of features whose rows are made at a time."""


class TableBuilder:
    """Builder of the header and the rows of the tables of a scan.

    Args:
        scanner: Scanner of the scan.
        checkpoint: Results of the scan.
        report: Function that shows progress; it is called with the number of pairs of a feature and a window whose
            values are known, and with the number of all pairs.
    """

    def __init__(
        self, scanner: Scanner, checkpoint: Checkpoint, report: Callable[[int, int], object] = lambda done, total: None
    ) -> None:
        self.scanner, self.checkpoint, self.report = scanner, checkpoint, report
        checkpoint.prune()
        self.store = checkpoint.store
        self.stats = stats = checkpoint.stats.to("cpu")
        top = _kept_rows(stats.value.numpy(), stats.window.numpy(), "top")
        fluent = _kept_rows(stats.level_value.numpy(), stats.level_window.numpy(), "fluent")
        columns = [np.concatenate(pair) for pair in zip(top, fluent, strict=True)]
        order = np.lexsort((columns[2], columns[1] == "fluent", columns[0]))
        self.order = given_order(scanner.banks)
        self.ordered = bool((self.order == np.arange(len(self.order))).all())
        self.feature, self.kind, self.rank, self.value, self.window = (column[order] for column in columns)
        self.values = np.full((len(self.feature), scanner.config.length), np.nan, np.float32)

    def header(self, identity: dict[str, Any], complete: bool) -> dict[str, Any]:
        """Return the content of `examples.json`."""
        config, checkpoint, fluency = self.scanner.config, self.checkpoint, self.scanner.frame.fluency
        problems = Problems.total([self.scanner.corpus.opening_problems, checkpoint.problems])
        return {
            "model": self.scanner.model.name,
            "tokenizer": self.scanner.model.vocabulary.digest,
            "prepend_bos": self.scanner.frame.prepend_bos,
            "fluency_model": None if fluency is self.scanner.model else fluency.name,
            "corpus": {"name": self.scanner.corpus.name, "fingerprint": self.scanner.corpus.fingerprint},
            "settings": {
                "k": config.k,
                "length": config.length,
                "stride": config.windows.step,
                "context": config.context,
                "tokens": config.tokens,
                "seed": config.seed,
                "cross_entropy": config.cross_entropy,
                "sample": len(checkpoint.sample.number),
            },
            "counts": checkpoint.counts,
            "problems": [{"name": problem.name, "why": problem.why} for problem in problems.first],
            "problem_count": len(problems),
            "problem_counts": problems.counts,
            "failed_shards": [{"name": name, "why": why} for name, why in checkpoint.failed.items()],
            "complete": complete,
            "seconds": checkpoint.seconds,
            "versions": library_versions(),
            "identity": identity,
        }

    def compute_values(self, run_jobs: JobRunner | None = None) -> None:
        """Compute what the scan left out: missing cross-entropies, and values at every token of the kept windows.

        Args:
            run_jobs: Function that computes the values in other processes; None computes them in this one, one job
                after the other.
        """
        token_values = TokenValues(self.scanner)
        run_jobs = run_jobs or (lambda jobs, arguments: ((job, token_values.values(*arguments(job))) for job in jobs))
        missing = np.flatnonzero(np.isnan(self.store.cross_entropy))
        if len(missing) and self.scanner.scorer.layout.terms >= 1:
            self.store.cross_entropy[missing] = token_values.cross_entropies(self.store.ids[missing].astype(np.int64))
        jobs, offset, done = [], 0, 0
        for number, bank in enumerate(self.scanner.banks):
            low, high = np.searchsorted(self.feature, [offset, offset + len(bank)])
            rows = np.arange(low, high)
            jobs += [(number, offset, part) for part in _by_window(rows, self.window[rows])]
            offset += len(bank)
        for (_, _, rows), values in run_jobs(jobs, self._arguments):
            self.values[rows] = values
            done += len(rows)
            self.report(done, len(self.feature))

    def _arguments(self, job: TokenValueJob) -> JobArguments:
        """Return the arguments of `TokenValues.values` for a job."""
        number, offset, rows = job
        windows, which = np.unique(self.window[rows], return_inverse=True)
        ids = self.store.ids[self.store.rows(windows)].astype(np.int64)
        return number, ids, which, self.feature[rows] - offset

    # Rows of the tables.

    def features(self) -> Iterator[Any]:
        """Yield the rows of the table `features`, as record batches."""
        import pyarrow as pa

        stats, sample = self.stats, self.checkpoint.sample
        numbers, values = sample.ordered()
        columns = rearrange(to_host(values)[0], "sampled features -> features sampled")
        count, total, squares = stats.moments.numpy()
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = total / count
            deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
        width, counts = np.exp2(stats.exponent.numpy().astype(float)), stats.counts.numpy()
        banks = self.scanner.banks
        begins = np.cumsum([0, *map(len, banks)])
        for start in range(0, len(stats), CHUNK):
            chunk = self.order[start : start + CHUNK]
            filled = [np.flatnonzero(row) for row in counts[chunk]]
            bars = zip(counts[chunk], filled, strict=True)
            bank_of = np.searchsorted(begins, chunk, side="right") - 1
            ends = stats.ends.numpy().astype(float)[:, chunk]
            rows = arrow_table(
                "features",
                {
                    "feature": np.arange(start, start + len(chunk)),
                    "label": [str(banks[b].members[i - begins[b]]) for i, b in zip(chunk, bank_of, strict=True)],
                    "windows": count[chunk].astype(np.int64),
                    "non_finite": stats.odd.numpy()[chunk],
                    "mean": mean[chunk],
                    "deviation": deviation[chunk],
                    "minimum": np.where(np.isfinite(ends[0]), ends[0], np.nan),
                    "maximum": np.where(np.isfinite(ends[1]), ends[1], np.nan),
                    "histogram_width": width[chunk],
                    "histogram_start": np.array([(f[0] if len(f) else BINS // 2) - BINS // 2 for f in filled]),
                    "histogram": [row[f[0] : f[-1] + 1].tolist() if len(f) else [] for row, f in bars],
                    "sample_values": np.ascontiguousarray(columns[chunk]),
                    "sample_windows": pa.array([numbers] * len(chunk), type=pa.list_(pa.int64())),
                },
            )
            yield from rows.to_batches()

    def windows(self) -> dict[str, Any]:
        """Return the columns of the table `windows`."""
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
        """Yield the rows of the table `kept`, as record batches."""
        size = CHUNK * self.scanner.config.k
        feature, rows = self.feature, np.arange(len(self.feature))
        if not self.ordered:
            position = np.empty(len(self.order), np.int64)
            position[self.order] = np.arange(len(self.order))
            feature = position[feature]
            rows = np.argsort(feature, kind="stable")
        for start in range(0, len(rows), size):
            chunk = rows[start : start + size]
            columns = {"feature": feature, "kind": self.kind, "rank": self.rank, "value": self.value}
            columns |= {"window": self.window, "values": np.ascontiguousarray(self.values)}
            selected = {name: column[chunk] for name, column in columns.items()}
            selected["kind"] = selected["kind"].tolist()
            yield from arrow_table("kept", selected).to_batches()


def _kept_rows(value: np.ndarray, window: Int[np.ndarray, "features places"], kind: str) -> tuple[np.ndarray, ...]:
    """Return feature, kind, rank, value and window of every place that a window has taken."""
    feature, rank = np.nonzero(window != NO_WINDOW)
    value, window = value[feature, rank], window[feature, rank]
    return feature.astype(np.int64), np.full(len(feature), kind), rank.astype(np.int64), value, window


def _by_window(rows: np.ndarray, windows: np.ndarray, most: int = 1 << 18) -> Iterator[np.ndarray]:
    """Yield rows in parts, sorted by window, so that a window that many features keep runs in one or two parts."""
    order = rows[np.argsort(windows, kind="stable")]
    for start in range(0, len(order), most):
        yield order[start : start + most]
