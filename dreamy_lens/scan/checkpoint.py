"""Checkpoint of a scan: its results so far and its position, in one file that is complete at every moment."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dreamy_lens._files import failure_of, write_whole
from dreamy_lens.corpus.problems import Problem, Problems
from dreamy_lens.errors import ExamplesError
from dreamy_lens.scan.feature_stats import FeatureStats
from dreamy_lens.scan.sampling import WindowSample
from dreamy_lens.scan.window_store import WindowStore

FORMAT = "dreamy_lens scan"
VERSION = 1

COUNTS = ("documents", "characters", "windows", "tokens", "duplicates", "short", "blocks")


@dataclass
class Checkpoint:
    """Results of a scan so far, and the position from which it continues.

    Attributes:
        stats: Statistics of all features' values.
        sample: Uniform sample of the windows.
        store: Windows that are kept.
        counts: Numbers of documents, tokens and so on that were scanned, by the names in `COUNTS`.
        problems: Documents and files that were skipped.
        failed: Reason for each shard that could not be read to its end, by the name of the shard.
        shard: Shard that comes next.
        block: Block of the shard that comes next.
        index: Number of windows of that block that have been counted already.
        seconds: Seconds spent so far.
        consistent: Whether every window is counted completely or not at all; False while windows are being counted.
    """

    stats: FeatureStats
    sample: WindowSample
    store: WindowStore
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    problems: Problems = field(default_factory=Problems)
    failed: dict[str, str] = field(default_factory=dict)
    shard: int = 0
    block: int = 0
    index: int = 0
    seconds: float = 0.0
    consistent: bool = True

    def merge(self, other: Checkpoint) -> None:
        """Add the results of another part of the corpus; parts may be merged in any order."""
        self.stats.merge(other.stats)
        self.sample.merge(other.sample)
        self.store.merge(other.store)
        self.prune()
        for name, count in other.counts.items():
            self.counts[name] = self.counts.get(name, 0) + count
        self.problems = Problems.total([self.problems, other.problems])
        self.failed |= other.failed
        self.seconds += other.seconds

    def prune(self) -> None:
        """Remove windows that no feature and no sample refers to any more."""
        kept = self.stats.kept_windows().cpu().numpy()
        self.store.keep(np.union1d(kept, self.sample.number))

    def save(self, path: str | os.PathLike[str], identity: Mapping[str, Any]) -> Path:
        """Write the checkpoint to a file in one step.

        Args:
            path: File to write.
            identity: Identity of the scan, which :meth:`load` checks.

        Returns:
            The file.

        Raises:
            ExamplesError: The disk is full, or the file is not writable. An existing file is unchanged.
        """
        from safetensors.torch import save

        self.prune()
        arrays: dict[str, torch.Tensor] = {}
        for name, tensor in self.stats.tensors().items():
            arrays[f"tally.{name}"] = tensor.cpu().contiguous()
        for name, array in self.store.arrays().items():
            arrays[f"store.{name}"] = torch.from_numpy(np.array(array))  # a copy, since some arrays are read-only
        arrays["sample.values"] = self.sample.values[: len(self.sample.number)].cpu().contiguous()
        arrays["sample.number"] = torch.from_numpy(self.sample.number)
        arrays["sample.priority"] = torch.from_numpy(self.sample.priority)
        head = {
            "format": FORMAT,
            "version": VERSION,
            "identity": dict(identity),
            "sample": [self.sample.size, self.sample.seed],
            "store": [self.store.length, self.store.context],
            "counts": self.counts,
            "problems": [self.problems.counts, [[p.name, p.why, p.kind] for p in self.problems.first]],
            "failed": self.failed,
            "cursor": [self.shard, self.block, self.index],
            "seconds": self.seconds,
        }
        data = save(arrays, metadata={"scan": json.dumps(head)})
        try:
            return write_whole(path, data)
        except OSError as error:
            raise ExamplesError(
                f"The scan cannot be saved to {str(path)!r}: {failure_of(error)} The checkpoint that was saved before "
                "is unchanged; call again to continue from it."
            ) from error

    @classmethod
    def load(cls, path: str | os.PathLike[str], identity: Mapping[str, Any], device: Any = "cpu") -> Checkpoint:
        """Read a checkpoint that :meth:`save` wrote.

        Args:
            path: File of the checkpoint.
            identity: Identity that the scan must have.
            device: Device for the tensors.

        Raises:
            ExamplesError: The file is damaged, or is of another scan; the message names the differences.
        """
        from safetensors import safe_open

        file_name = str(path)
        try:
            with safe_open(file_name, framework="pt") as file:
                head = json.loads((file.metadata() or {})["scan"])
                arrays = {name: file.get_tensor(name) for name in file.keys()}
            if head["format"] != FORMAT or head["version"] > VERSION:
                raise ValueError(f"it has format {head['format']!r}, version {head['version']}")
        except Exception as error:
            if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
                raise
            raise ExamplesError(
                f"The unfinished scan in {file_name!r} cannot be read: {error}. Remove the file to scan "
                "from the beginning."
            ) from error
        check_identity(head["identity"], identity, file_name)
        part = {
            name: {k.split(".", 1)[1]: v for k, v in arrays.items() if k.startswith(f"{name}.")}
            for name in ("tally", "store", "sample")
        }
        stats = FeatureStats(**part["tally"]).to(device)
        sample = WindowSample.empty(head["sample"][0], len(stats), head["sample"][1], device)
        sample.number, sample.priority = (part["sample"][name].numpy().copy() for name in ("number", "priority"))
        sample.values[: len(sample.number)] = part["sample"]["values"].to(device)
        length, context = head["store"]
        store = WindowStore.from_arrays(length, context, {k: v.numpy().copy() for k, v in part["store"].items()})
        problems = Problems(head["problems"][0], [Problem(*p) for p in head["problems"][1]])
        shard, block, index = head["cursor"]
        counts, failed, seconds = head["counts"], head["failed"], head["seconds"]
        return cls(stats, sample, store, counts, problems, failed, shard, block, index, seconds)


def check_identity(saved: Mapping[str, Any], wanted: Mapping[str, Any], folder: str) -> None:
    """Raise ExamplesError, which names the differences, if a saved scan has another identity than the wanted one."""
    differing = [name for name in wanted if saved.get(name) != wanted[name]]
    if not differing:
        return

    def shown(value: Any) -> str:
        text = json.dumps(value)
        return text if len(text) <= 80 else f"{text[:77]}..."

    changes = "; ".join(f"{name} was {shown(saved.get(name))} and is now {shown(wanted[name])}" for name in differing)
    raise ExamplesError(
        f"{folder!r} holds another scan: {changes}. Give the model, corpus, features and settings of "
        "that scan, or another folder."
    )
