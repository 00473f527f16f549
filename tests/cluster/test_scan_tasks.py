"""Tasks of a scan: shared by workers, continued at the last save of a dead worker, given up after too many attempts."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dreamy_lens as dl
from dreamy_lens.cluster import (
    LostJob,
    ModelRef,
    ScanTask,
    ScanWorker,
    SharedFolder,
    TaskLedger,
    local_copy,
    plan_tasks,
    scan_tasks,
)
from dreamy_lens.corpus import corpus as corpora
from dreamy_lens.corpus import open_corpus
from dreamy_lens.errors import ClusterError, CorpusError, ExamplesError, OutOfMemoryError, RunFolderError, SettingsError
from dreamy_lens.scan import Checkpoint, Scan, ScanConfig, Scanner
from tests.helpers import models

WORDS = "the dog runs over hill and a cat sleeps in house friends bark she said that big red sun".split()
SETTINGS = ScanConfig(k=4, length=6, sample=20, batch_size=4)


def texts(count: int, length: int = 60, seed: int = 0) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, size=length)) + f" {i}." for i in range(count)]


def folder_of(tmp_path: Path, files: int) -> Any:
    """Return a corpus with a shard for each file."""
    (tmp_path / "texts").mkdir()
    for i in range(files):
        (tmp_path / "texts" / f"{i:02d}.txt").write_text("\n\n".join(texts(6, seed=i)))
    return open_corpus(tmp_path / "texts", separator="\n\n")


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Make blocks of a few hundred characters, tasks of a few thousand, and a shard for each file."""
    from dreamy_lens.corpus import files

    monkeypatch.setattr(corpora, "BLOCK", 800)
    monkeypatch.setattr(scan_tasks, "MIN_CHARACTERS", 2500)
    monkeypatch.setattr(files, "SMALL", 0)


def worker_of(place: SharedFolder | Path | str, corpus: Any, workers: int = 1, **settings: Any) -> ScanWorker:
    """Return a worker that is not ready yet, with a new ledger, for a scan of the neurons of a layer."""
    bridge = models.family("neox").bridge
    scan = Scan(dl.neurons(1), bridge, corpus, SETTINGS)
    place = place if isinstance(place, SharedFolder) else SharedFolder(place)
    ledger = TaskLedger.new(place, scan.identity, plan_tasks(scan.corpus, workers, False))
    return ScanWorker(scan.features, ModelRef.of(bridge), None, scan.corpus, SETTINGS, ledger, **settings)


def once(worker: ScanWorker) -> Checkpoint:
    """Return the results of one process that scans the corpus by itself."""
    scanner = Scan(worker.features, worker.model.model, worker.corpus, SETTINGS).scanner()
    checkpoint = scanner.new_checkpoint()
    scanner.run(checkpoint)
    return checkpoint


def merged(worker: ScanWorker) -> Checkpoint:
    """Return the merged results of all receipts."""
    receipts = worker.ledger.receipts()
    total = None
    for number in sorted(receipts, reverse=True):
        with local_copy(worker.ledger.place, receipts[number]["file"]) as file:
            part = Checkpoint.load(file, worker.ledger.identity)
        total, _ = (part, None) if total is None else (total, total.merge(part))
    assert total is not None
    return total


def same(ours: Checkpoint, theirs: Checkpoint) -> None:
    for name, tensor in theirs.stats.tensors().items():
        np.testing.assert_allclose(ours.stats.tensors()[name].numpy(), tensor.numpy(), rtol=1e-12, err_msg=name)
    ours.prune()
    theirs.prune()
    assert ours.counts == theirs.counts and np.array_equal(ours.store.number, theirs.store.number)
    assert np.array_equal(ours.store.ids, theirs.store.ids)
    a, b = ours.sample.ordered(), theirs.sample.ordered()
    assert np.array_equal(a[0], b[0]) and np.array_equal(a[1].numpy(), b[1].numpy())


# The plan of tasks.


@pytest.mark.parametrize(("workers", "files", "whole"), [(1, 3, False), (1, 12, True), (2, 12, False), (2, 17, True)])
def test_parcels_are_all_blocks_each_once(tmp_path, workers, files, whole):
    corpus = folder_of(tmp_path, files)
    tasks = plan_tasks(corpus, workers, False)
    assert [task.number for task in tasks] == list(range(len(tasks)))
    blocks = []
    for task in tasks:
        for shard in range(task.shard, task.last + 1):
            first = task.block if shard == task.shard else 0
            for block in corpus.blocks(shard, first):
                if shard < task.last or task.end is None or block.number < task.end:
                    blocks.append((shard, block.number))
    assert blocks == [(shard, block) for shard, block, _ in corpus.block_sizes()]
    assert len(tasks) == scan_tasks.TASKS_PER_WORKER * workers if whole else all(p.end is not None for p in tasks)
    assert len(tasks) > 1


def test_a_sample_needs_to_know_the_blocks(tmp_path):
    corpus = folder_of(tmp_path, 12)
    assert all(task.end is None for task in plan_tasks(corpus, 1, False))
    assert all(task.end is not None for task in plan_tasks(corpus, 1, True))


def test_a_ledger_is_read_again(tmp_path):
    worker = worker_of(tmp_path, texts(40))
    ledger = worker.ledger
    again = TaskLedger.open(SharedFolder(tmp_path), ledger.identity)
    assert again is not None and (again.mark, again.tasks) == (ledger.mark, ledger.tasks)
    assert TaskLedger.open(SharedFolder(tmp_path / "other"), ledger.identity) is None
    with pytest.raises(ExamplesError, match="holds another scan: k was 4 and is now 5"):
        TaskLedger.open(SharedFolder(tmp_path), {**ledger.identity, "k": 5})
    SharedFolder(tmp_path).write(scan_tasks.MANIFEST, {"format": "other"})
    with pytest.raises(ExamplesError, match="has a format that this dreamy_lens does not read"):
        TaskLedger.open(SharedFolder(tmp_path), ledger.identity)


# Workers that run tasks.


@pytest.mark.parametrize("where", ["{}/a", "file://{}/a", "memory://{}/a"])
def test_parcels_by_one_worker_make_the_whole(tmp_path, where):
    worker = worker_of(where.format(tmp_path if "memory" not in where else tmp_path.name), texts(40))
    assert len(worker.ledger.tasks) > 3
    for task in reversed(worker.ledger.tasks):
        receipt = worker.run(task)
        assert receipt["status"] == "done" and worker.run(task)["file"] == receipt["file"]
    same(merged(worker), once(worker))
    left = worker.ledger.place.names("parcels")
    assert not [name for name in left if ".part" in name]


def test_a_parcel_of_several_shards(tmp_path):
    worker = worker_of(tmp_path / "a", folder_of(tmp_path, 12))
    assert all(task.last > task.shard for task in worker.ledger.tasks)
    for task in worker.ledger.tasks:
        worker.run(task)
    same(merged(worker), once(worker))


class Stopped(BaseException):
    """Exception that stands for the death of a worker, so that this process survives."""


def killed_after(blocks: int, patch: pytest.MonkeyPatch) -> None:
    """Make the scanner die at the end of its n-th block from now on."""
    end, ended = Scanner._end, []

    def counted(self: Scanner, *rest: Any) -> None:
        end(self, *rest)
        ended.append(1)
        if len(ended) == blocks:
            raise Stopped

    patch.setattr(Scanner, "_end", counted)


@pytest.mark.parametrize("where", ["{}/a", "file://{}/a"])
def test_what_a_dead_worker_saved_is_not_done_again(tmp_path, monkeypatch, where):
    worker = worker_of(where.format(tmp_path), folder_of(tmp_path, 8), save_seconds=0.0)
    task = worker.ledger.tasks[1]
    assert task.last > task.shard
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        killed_after(4, patch)
        worker.run(task)
    names = worker.ledger.place.names("parcels")
    assert {f"{task.number:04d}.part", f"{task.number:04d}.part.json", f"{task.number:04d}.attempts"} <= set(names)
    other = dataclasses.replace(worker)
    counts: list[int] = []
    take = Scanner._take

    def counted(self: Scanner, block: Any, *rest: Any) -> Any:
        counts.append(block.number)
        return take(self, block, *rest)

    monkeypatch.setattr(Scanner, "_take", counted)
    other.run(task)
    assert len(counts) < len([1 for shard, *_ in worker.corpus.block_sizes() if task.shard <= shard <= task.last])
    for rest in worker.ledger.tasks:
        other.run(rest)
    same(merged(worker), once(worker))


def test_a_parcel_whose_workers_die_is_given_up_and_what_follows_is_not(tmp_path, monkeypatch):
    worker = worker_of(tmp_path / "a", folder_of(tmp_path, 8), save_seconds=0.0)
    task = worker.ledger.tasks[0]
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        killed_after(2, patch)  # one block has been saved then
        worker.run(task)
    deaths, receipt = 1, None
    while receipt is None:
        with monkeypatch.context() as patch:
            killed_after(1, patch)
            try:
                receipt = dataclasses.replace(worker).run(task)
            except Stopped:
                deaths += 1
    assert 3 <= deaths <= 5  # three from the last save, and perhaps some before a save in the middle of a block
    assert receipt["status"] == "given up" and receipt["why"] == "from block 1 on 3 workers died"
    assert receipt["at"] == [0, 1] and receipt["file"].endswith(".until")
    for rest in worker.ledger.tasks[1:]:
        worker.run(rest)
    ledger = worker.ledger
    before = len(ledger.tasks)
    ledger.split(ledger.receipts())
    assert ledger.tasks[before:] == [ScanTask(before, 1, 0, task.last, None, 0)]
    ledger.split(ledger.receipts())
    assert len(ledger.tasks) == before + 1 == len(TaskLedger.open(ledger.place, ledger.identity).tasks)  # type: ignore[union-attr]
    worker.run(ledger.tasks[-1])
    # All blocks were scanned, except those after the first block of the first shard.
    assert merged(worker).counts["blocks"] == len(worker.corpus.block_sizes()) - len(list(worker.corpus.blocks(0))) + 1


def test_an_error_that_stays_is_told_and_one_that_goes_is_not(tmp_path, monkeypatch):
    worker, times = worker_of(tmp_path / "a", texts(40)), []
    run = Scanner.run

    def failing(self: Scanner, progress: Checkpoint, *rest: Any) -> Any:
        times.append(progress.block)
        if progress.block == 0 or len(times) == 5:
            raise OSError(f"no disk {len(times)}")
        return run(self, progress, *rest)

    monkeypatch.setattr(Scanner, "run", failing)
    first, second = (worker.run(task) for task in worker.ledger.tasks[:2])
    assert first["status"] == "given up" and first["file"] is None and times[:3] == [0, 0, 0]
    assert first["why"] == "from block 0 on the last of 3 attempts ended with OSError: no disk 3"
    third = worker.run(worker.ledger.tasks[2])
    assert (second["status"], third["status"]) == ("done", "done") and len(times) == 6


def test_what_concerns_all_ends_the_scan(tmp_path, monkeypatch):
    worker = worker_of(tmp_path / "a", texts(40))
    task = worker.ledger.tasks[0]
    for wrong, error, message in (
        ({"version": "0.0"}, ClusterError, "install the same version"),
        ({"ledger": dataclasses.replace(worker.ledger, mark="x")}, ClusterError, "does not see the scan's folder"),
        ({"features": ["L7.N3"]}, dl.errors.UnknownHookError, "L7|blocks.7"),
    ):
        receipt = dataclasses.replace(worker, **wrong).run(task)
        assert receipt["status"] == "failed"
        with pytest.raises(error, match=message):
            raise pickle.loads(bytes.fromhex(receipt["error"]))
    monkeypatch.setattr(Checkpoint, "save", lambda *rest: (_ for _ in ()).throw(ExamplesError("no room")))
    assert worker.run(task)["status"] == "failed"
    assert worker.ledger.receipts() == {} and worker.ledger.place.names(f"{task.name}.attempts") == []


def test_workers_that_die_while_they_load_are_not_the_parcels_fault(tmp_path, monkeypatch):
    worker = worker_of(tmp_path / "a", texts(40))
    task = worker.ledger.tasks[0]

    def die(self: ScanWorker) -> None:
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(ScanWorker, "ready", die)
        for _ in range(3):
            with pytest.raises(Stopped):
                worker.run(task)
        receipt = worker.run(task)
    with pytest.raises(ClusterError, match="3 workers died while they loaded the model"):
        raise pickle.loads(bytes.fromhex(receipt["error"]))
    assert worker.ledger.receipts() == {}


def test_a_belated_worker_changes_nothing(tmp_path):
    worker = worker_of(tmp_path / "a", texts(40))
    task = worker.ledger.tasks[0]
    late = dataclasses.replace(worker)
    late.ready()
    late._begin(task, 0, 0, "scanning")
    worker.ledger.place.write(f"{task.name}.json", {"parcel": 0, "status": "given up", "file": None, "why": "x"})
    assert late._scan(task, 0)["status"] == "given up"
    assert worker.ledger.receipts()[0]["status"] == "given up"


def test_a_shard_without_anything_readable_is_noted(tmp_path, monkeypatch):
    worker = worker_of(tmp_path / "a", texts(40))
    blocks = worker.corpus.blocks

    def broken(shard: int, start: int = 0) -> Any:
        if start:
            raise ValueError("torn")
        return blocks(shard, start)

    monkeypatch.setattr(worker.corpus, "blocks", broken)
    assert {worker.run(task)["status"] for task in worker.ledger.tasks} == {"done"}
    assert list(merged(worker).failed.values()) == ["ValueError: torn"]


# Values at tokens.


class Here:
    """Pool whose jobs run in this process; the second job is lost."""

    def __init__(self, cluster: Any, made_of: bytes, say: Any, sent: Any) -> None:
        self.worker, self.sent = pickle.loads(made_of), sent
        self.worker.ready()

    def work(self, jobs: Any) -> Any:
        for number, job in reversed(list(enumerate(jobs))):
            yield job, LostJob("A worker died (of it).", 3) if number == 1 else self.worker.run(self.sent(job), 1)


@pytest.mark.parametrize("always", [True, False])
def test_values_at_tokens_are_shared_out(tmp_path, monkeypatch, always):
    pytest.importorskip("ray", reason="Ray is not installed")
    from dreamy_lens.cluster import dumps, value_jobs

    worker = worker_of(tmp_path / "a", texts(40))
    worker.features = ["L1.N3", "L0.N5", dl.neurons(1)]
    scan = Scan(worker.features, worker.model.model, worker.corpus, SETTINGS)
    scanner, states = scan.scanner(), [once(worker), once(worker)]
    here = scan.build_examples(scanner, states[0], None)
    monkeypatch.setattr(value_jobs, "ActorPool", Here)
    monkeypatch.setattr(value_jobs, "MAX_LOCAL_PAIRS", 1 << 20 if always else 0)
    data = dumps(dataclasses.replace(worker, model=worker.model.packed()))
    run_jobs = value_jobs.value_job_runner(None, data, scanner, always)  # type: ignore[arg-type]
    with pytest.warns(RuntimeWarning, match=r"Values at the tokens of \d+ windows are missing .* A worker died"):
        there = scan.build_examples(scanner, states[1], None, run_jobs=run_jobs)
    ours, theirs = (one.tables.kept.to_pandas() for one in (there, here))
    whole = [row is not None and not np.isnan(row).all() for row in ours["values"]]
    assert 0 < sum(whole) < len(ours)
    assert list(ours["window"]) == list(theirs["window"])
    for a, b, there in zip(ours["values"], theirs["values"], whole, strict=True):
        if there:
            np.testing.assert_array_equal(a, b)


# Scans that a cluster cannot run.


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"tokens": 100, "seed": None, "ray": True}, SettingsError, "by one process; leave out ray="),
        ({"corpus": iter(["a text"]), "ray": True}, CorpusError, "each of the workers has to read its part of it"),
        (
            {"workers": 3},
            SettingsError,
            r"is an option of RayConfig: give ray=RayConfig\(workers=",
        ),
        ({"ray": 7}, SettingsError, "ray is 7; use ray=True for a cluster that starts by itself"),
        ({"out": "nowhere://bucket/scan"}, RunFolderError, r"cannot be reached: Protocol not known: nowhere"),
        ({"lenght": 3}, SettingsError, "There is no setting 'lenght'; did you mean length?"),
        ({"config": 3}, SettingsError, "config is a ScanConfig; got 'int'"),
        ({"dtype": "float16"}, SettingsError, "the model is in memory already"),
        ({"corpus": [], "ray": True}, CorpusError, ""),
    ],
)
def test_bad_input(tmp_path, monkeypatch, given, error, message):
    monkeypatch.setenv("DREAMY_LENS_CACHE", str(tmp_path))
    if "corpus" in given:
        pytest.importorskip("ray", reason="Ray is not installed")
    with pytest.raises(error, match=message or None):
        dl.max_activating("L1.N3", models.family("gpt2").bridge, **({"corpus": texts(3), "length": 6} | given))


def test_errors_of_memory_are_told_whole():
    assert str(pickle.loads(pickle.dumps(OutOfMemoryError("too large")))) == "too large"
