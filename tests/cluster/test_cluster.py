"""Sweeps and scans on a cluster: shared folders, objects that are sent to workers, and workers that die."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import dreamy_lens as dl
from dreamy_lens.cluster import (
    ActorPool,
    LostJob,
    ModelRef,
    RayConfig,
    SharedFolder,
    actor_pool,
    connected,
    dumps,
    ray_cluster,
    scan_tasks,
)
from dreamy_lens.corpus.corpus import Corpus, Piece, Shard
from dreamy_lens.corpus.problems import Problems
from dreamy_lens.errors import (
    ClusterError,
    FeatureError,
    FeatureSyntaxError,
    ModelError,
    RunFolderError,
    SettingsError,
    UnknownHookError,
)
from tests.helpers import models
from tests.helpers.dreams import dream, same
from tests.sweeps.test_sweep import FEATURES, made

PATIENCE = 120.0
"""Seconds to wait for what must happen at once on a machine that does nothing else."""

# Shared folders.


@pytest.fixture(params=["folder", "url", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> SharedFolder:
    where = {"folder": tmp_path / "a b", "url": f"file://{tmp_path}/a b", "memory": f"memory://{tmp_path.name}"}
    return SharedFolder(where[request.param])


def test_what_is_written_in_a_place_is_read_there(place):
    assert place.read("x/one.json") is None and place.names("x") == []
    for number in range(3):
        place.write(f"x/{number}.json", {"n": number, "half": "\ud800"})
    place.write("x/1.json", {"n": 10})
    assert place.names("x") == ["0.json", "1.json", "2.json"]
    assert place.read("x/0.json") == {"n": 0, "half": "\ud800"}
    found = place.read_all(["x/1.json", "x/2.json", "x/7.json"])
    assert {name: one["n"] for name, one in found.items()} == {"x/1.json": 10, "x/2.json": 2}
    assert place.read_all([]) == {}
    place.remove("x/1.json")
    place.remove("x/1.json")
    assert place.names("x") == ["0.json", "2.json"]
    again = pickle.loads(pickle.dumps(place))
    assert again.text == place.text and again.names("x") == place.names("x")


def test_what_is_not_whole_is_not_there(tmp_path):
    (tmp_path / "half.json").write_text('{"n": ')
    (tmp_path / "list.json").write_text("[1]")
    for where in (tmp_path, f"file://{tmp_path}"):
        assert SharedFolder(where).read_all(["half.json", "list.json"]) == {}


def test_folders_go_to_urls_and_come_back(tmp_path):
    (tmp_path / "mine").mkdir()
    for name, data in {"a.json": b"{}", "b.bin": bytes(range(256))}.items():
        (tmp_path / "mine" / name).write_bytes(data)
    place = SharedFolder(f"memory://{tmp_path.name}")
    place.put(tmp_path / "mine", "runs/one")
    copy = place.local("runs/one")
    assert {p.name: p.read_bytes() for p in copy.iterdir()} == {"a.json": b"{}", "b.bin": bytes(range(256))}
    assert place.local("runs/one") == copy
    del place
    assert not copy.exists()
    assert SharedFolder(tmp_path).local("mine") == tmp_path / "mine"


def test_places_that_cannot_be(tmp_path):
    with pytest.raises(RunFolderError, match="'nosuch://x' cannot be reached: Protocol not known: nosuch"):
        SharedFolder("nosuch://x")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="is a file; name a folder"):
        SharedFolder(tmp_path / "file").check_free_or("sweep.json")
    with pytest.raises(RunFolderError, match=r"'file'.*; choose another folder"):
        SharedFolder(tmp_path).check_free_or("sweep.json")
    with pytest.raises(RunFolderError, match="cannot be written"):
        SharedFolder(tmp_path / "file" / "in").write("a.json", {})


# Objects that are sent to workers.


@pytest.mark.parametrize("name", models.FAMILIES)
def test_a_model_in_memory_arrives_as_it_is(name):
    bridge = models.new_bridge(name, models.raw_model(name))
    here = dream(bridge, iterations=3)
    shipped = ModelRef.of(bridge)
    data = shipped.packed()
    weights = sum(p.numel() * p.element_size() for p in bridge.parameters())
    assert data.model is None and len(data.data or b"") < weights + 300_000
    arrived = pickle.loads(pickle.dumps(data)).loaded()
    assert arrived.source is not bridge and arrived.name == shipped.name
    assert ModelRef.of(arrived.source).identity == shipped.identity
    same(here.history, dream(arrived.source, iterations=3).history)


def test_a_loaded_model_that_was_used_arrives_too():
    bridge = dl.load_model()
    here = dream(bridge, iterations=2)
    arrived = ModelRef.of(bridge).packed().loaded()
    same(here.history, dream(arrived, iterations=2).history)


def test_models_are_told_apart(gpt2, tmp_path):
    first, second = (ModelRef.of(models.new_bridge("gpt2", models.raw_model("gpt2"))) for _ in range(2))
    assert first.identity == second.identity
    next(iter(second.model.parameters())).data[0] += 1
    assert ModelRef.of(second.model).digest != first.digest
    assert ModelRef.of(None).identity == {"name": "embedded", "dtype": None, "digest": None}
    assert ModelRef.of("some/model", dtype="bfloat16").identity["dtype"] == "bfloat16"
    (tmp_path / "config.json").write_text("{}")
    assert ModelRef.of(tmp_path).name == str(tmp_path)
    with pytest.raises(SettingsError, match="dtype is 'float16', but the model is in memory already"):
        ModelRef.of(gpt2.bridge, dtype="float16")
    with pytest.raises(ModelError, match="not a model dreamy_lens can hook"):
        ModelRef.of(object())


def test_a_model_that_cannot_be_sent_says_what_to_give_instead():
    pytest.importorskip("ray", reason="Ray is not installed")
    bridge = models.new_bridge("gpt2", models.raw_model("gpt2"))
    object.__setattr__(bridge, "going_on", (one for one in ()))
    with pytest.raises(
        ModelError, match=r"cannot be sent to workers \(.*generator.*Give its Hugging Face id or folder"
    ):
        ModelRef.of(bridge).packed()


def test_functions_of_features_are_sent_with_what_they_hold():
    pytest.importorskip("ray", reason="Ray is not installed")
    factor = 3.0
    feature = dl.custom("mine", ["blocks.0.mlp.hook_post"], lambda a: factor * a["blocks.0.mlp.hook_post"][:, -1, 0])
    arrived = pickle.loads(dumps(feature))
    value = np.ones((2, 3, 4))
    np.testing.assert_array_equal(arrived.function({"blocks.0.mlp.hook_post": value}), [3.0, 3.0])


# Ray.


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Start a cluster with two workers on this machine."""
    pytest.importorskip("ray", reason="Ray is not installed")
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this module
    with connected(RayConfig(workers=2)) as started:
        yield started
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def test_what_a_call_asks_for():
    mine = RayConfig("ray://head:10001", workers=3)
    assert RayConfig.from_argument(False) is RayConfig.from_argument(None) is None
    assert RayConfig.from_argument(True) == RayConfig() and RayConfig.from_argument("auto") == RayConfig("auto")
    assert RayConfig.from_argument(mine) is mine
    for wrong in (7, ""):
        with pytest.raises(SettingsError, match="use ray=True for a cluster that starts by itself"):
            RayConfig.from_argument(wrong)  # type: ignore[arg-type]
    for address in ("", True):
        with pytest.raises(SettingsError, match=r"address is .*; use 'auto'"):
            RayConfig(address)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("share", "message"),
    [
        ((0, 1, 0), "workers is 0; it must be a whole number, at least 1"),
        ((True, 1, 0), "workers is True"),
        ((None, 0, 0), "cpus_per_worker is 0; it must be a number, more than 0"),
        ((None, 1, -1), "gpus_per_worker is -1; it must be a number, at least 0"),
        ((None, 1, 1.5), "gpus_per_worker is 1.5; above 1 it must be a whole number"),
        ((None, float("nan"), 0), "cpus_per_worker is nan"),
    ],
)
def test_shares_that_no_worker_can_have(share, message):
    with pytest.raises(SettingsError, match=message):
        RayConfig(None, *share)


def test_without_ray_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ClusterError, match=r'pip install "dreamy-lens\[ray\]"'):
        with connected(RayConfig()):
            pass


@pytest.mark.parametrize(("late", "starts"), [(0, 1), (2, 3), (5, 3)])
def test_a_machine_too_busy_to_start_ray_in_time_is_given_more_than_one_chance(monkeypatch, late, starts):
    tried: list[str] = []

    class Ray:
        def shutdown(self) -> None:
            tried.append("shutdown")

    def init(ray: Any, cores: int) -> None:
        tried.append("init")
        if tried.count("init") <= late:
            raise Exception("The current node timed out during startup. This could happen because of the load.")

    monkeypatch.setattr(ray_cluster, "_init_local", init)
    with (
        contextlib.nullcontext() if late < starts else pytest.raises(ClusterError, match=r"of the load\. Without ray=")
    ):
        ray_cluster._start(Ray(), 2, 1)
    assert tried.count("init") == starts and tried.count("shutdown") == starts - 1


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:99999"])
def test_an_address_at_which_nobody_is(address):
    with pytest.raises(ClusterError, match=f"There is no Ray cluster to join at '{address}'.*`ray start --head`"):
        ray_cluster._join(None, address)


@pytest.mark.slow
def test_a_cluster_that_is_there_is_used_and_left(cluster):
    with connected(RayConfig(), tasks=1) as again:
        assert not again.started and again.workers == 1
    with connected(RayConfig("auto", workers=5)) as again:
        assert again.workers == 5
    with connected(RayConfig(cluster.ray.get_runtime_context().gcs_address)) as again:
        assert again.workers == int(cluster.ray.cluster_resources()["CPU"])
    assert cluster.ray.is_initialized()
    with pytest.raises(ClusterError, match=r"connected to another Ray cluster than '10\.1\.2\.3:4'"):
        with connected(RayConfig("10.1.2.3:4")):
            pass
    with pytest.raises(ClusterError, match="A worker needs 1 CPUs and 8 GPUs, and the Ray cluster has"):
        with connected(RayConfig(gpus_per_worker=8)):
            pass


class Job:
    """Object that runs the jobs of these tests; `kills` has the number of attempts at which a job kills its worker."""

    def __init__(self, folder: Path, kills: dict[str, int] | None = None, **faults: Any) -> None:
        self.folder, self.kills, self.faults = folder, kills or {}, faults

    def ready(self) -> None:
        error = self.faults.get("ready")
        if isinstance(error, Exception):
            raise error
        if error == "die":
            os.kill(os.getpid(), signal.SIGKILL)

    def run(self, job: str, attempt: int) -> tuple[str, int, int]:
        (self.folder / f"{job}-{attempt}").write_text(str(os.getpid()))
        if attempt <= self.kills.get(job, 0):
            os.kill(os.getpid(), signal.SIGKILL)
        if job in self.faults:
            raise self.faults[job]
        while job == "slow" and attempt == 1:
            time.sleep(0.05)
        return job, attempt, os.getpid()


def written(file: Path) -> str:
    """Wait until a worker has written a file, and return its content."""
    deadline = time.monotonic() + PATIENCE
    while not file.is_file() or not file.read_text():
        assert time.monotonic() < deadline, f"no worker wrote {file.name}"
        time.sleep(0.02)
    return file.read_text()


def ended(pid: int) -> bool:
    """Wait until a process has ended; one that only its parent has not taken leave of yet has."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def work(cluster: Any, job: Job, names: list[str]) -> tuple[dict[str, Any], list[str]]:
    messages: list[str] = []
    return dict(ActorPool(cluster, dumps(job), messages.append).work(names)), messages


@pytest.mark.slow
def test_jobs_are_shared_out_and_those_of_the_dead_are_done_again(cluster, tmp_path):
    names = ["a", "dies", "b", "c", "always", "d", "wrong"]
    results, messages = work(cluster, Job(tmp_path, {"dies": 1, "always": 9}, wrong=OSError("disk full")), names)
    assert set(results) == set(names)
    assert {name: results[name][:2] for name in "abcd"} == {name: (name, 1) for name in "abcd"}
    assert results["dies"][:2] == ("dies", 2)
    for name, reason in (("always", "A worker died (ActorDiedError"), ("wrong", "A worker failed with OSError: disk")):
        assert isinstance(results[name], LostJob) and results[name].attempts == actor_pool.ATTEMPTS
        assert results[name].reason.startswith(reason)
    assert len(messages) == 1 + 2 + 2 and all(text.endswith("The job is tried again.") for text in messages)


@pytest.mark.slow
def test_a_worker_that_is_killed_from_outside_is_replaced(cluster, tmp_path):
    going = ActorPool(cluster, dumps(Job(tmp_path))).work(["slow", *"abc"])
    first = dict(next(going) for _ in range(3))
    assert set(first) == set("abc")
    os.kill(int(written(tmp_path / "slow-1")), signal.SIGKILL)
    assert [(job, result[:2]) for job, result in going] == [("slow", ("slow", 2))]


@pytest.mark.slow
def test_workers_that_do_not_get_ready(cluster, tmp_path):
    error = FeatureSyntaxError("wrong", "L2.N", 3)
    with pytest.raises(FeatureSyntaxError, match="wrong") as caught:
        work(cluster, Job(tmp_path, ready=error), ["a"])
    assert caught.value.position == 3
    with pytest.raises(ClusterError, match=r"A worker died .* Other workers failed too while they got ready"):
        work(cluster, Job(tmp_path, ready="die"), ["a", "b"])
    assert not list(tmp_path.iterdir())


def test_when_nobody_wants_more_the_workers_end(cluster, tmp_path):
    going = ActorPool(cluster, dumps(Job(tmp_path))).work(["slow", "a"])
    next(going)
    pid = int(written(tmp_path / "slow-1"))
    going.close()
    assert ended(pid)


def test_workers_for_which_there_is_no_room_are_told_of(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(actor_pool, "PATIENCE_SECONDS", 0.0)
    messages: list[str] = []
    wide = ray_cluster.Cluster(cluster.ray, 1, 10_000, 0, False)
    going = ActorPool(wide, dumps(Job(tmp_path)), messages.append)
    monkeypatch.setattr(actor_pool, "SLICE_SECONDS", 0.01)
    with pytest.raises(InterruptedError):

        def stop(text: str) -> None:
            raise InterruptedError(text)

        going.report = stop
        list(going.work(["a"]))


# Sweeps.


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Make a sweep in this process."""
    return made(tmp_path_factory.mktemp("sweep") / "whole", seeds=[0])


class Abroad:
    """A neuron that, in a worker, calls `happens` at each reading of many prompts after the fifth.

    When it is bound, it is tried on three prompts and on each alone.
    """

    def __init__(self, folder: Path, happens: Any) -> None:
        self.folder, self.happens, self.home, self.calls = folder, happens, os.getpid(), 0

    def __call__(self, activations: Any) -> Any:
        self.calls += len(activations["blocks.1.mlp.hook_post"]) > 3
        if os.getpid() != self.home and self.calls > 5:
            self.happens(self)
        return activations["blocks.1.mlp.hook_post"][:, -1, 3]


def abroad(name: str, folder: Path, happens: Any) -> Any:
    return dl.custom(name, ["blocks.1.mlp.hook_post"], Abroad(folder, happens))


def test_on_workers_it_is_the_same_and_the_dead_are_replaced(cluster, whole, tmp_path, gpt2, capsys):
    def die(at: Abroad) -> None:
        if not list(at.folder.glob("died-*")):
            (at.folder / f"died-{os.getpid()}").write_text("")
            os.kill(os.getpid(), signal.SIGKILL)

    def refuse(at: Abroad) -> None:
        raise FeatureError("not here")

    once, refused = abroad("once", tmp_path, die), abroad("refused", tmp_path, refuse)
    features = [FEATURES[0], once, refused, FEATURES[1]]
    where = f"file://{tmp_path}/sweep"
    with pytest.warns(RuntimeWarning, match="1 of 4 runs failed"):
        runs = made(where, features=features, seeds=[0], ray=RayConfig(workers=2), progress=True)
    # The dreams of both workers equal those of this process bit for bit, also the dream whose worker was killed.
    for run, here in zip(runs, (whole[0], dream(gpt2.bridge, once, iterations=3), whole[1]), strict=True):
        same(run.history, here.history)
    table, died = runs.to_pandas(), [int(file.name.removeprefix("died-")) for file in tmp_path.glob("died-*")]
    assert list(table["status"]) == ["done", "done", "failed", "done"] and list(table["attempts"]) == [1, 2, 1, 1]
    assert list(runs.failed["feature"]) == ['custom("refused")'] and list(runs.failed["error"]) == ["not here"]
    workers = [int(worker.rpartition(":")[2]) for worker in table["worker"]]
    assert len(died) == 1 and workers[1] not in died and len({*workers, *died}) >= 2 and os.getpid() not in workers
    err = capsys.readouterr().err
    assert "4/4" in err and "1 failed" in err and err.count("A worker died") == 1
    # A repeated call tries only the failed run again; in this process the feature raises no error.
    assert list(made(where, features=features, seeds=[0]).to_pandas()["attempts"]) == [1, 2, 1, 1]


@pytest.mark.slow
@pytest.mark.parametrize("url", [False, True])
def test_on_workers_other_searches_are_the_same_and_go_on_from_what_they_learned(cluster, tmp_path, gpt2, url):
    searches = [
        dl.FrontierSearch(iterations=5, children=20, parents=3, samples=16, length=5),
        dl.RandomSearch(iterations=5, children=20, length=5),
    ]
    where = f"file://{tmp_path}/sweep" if url else tmp_path / "sweep"
    variants = [{"search": search} for search in searches]
    runs = dl.sweep(
        FEATURES[0], gpt2.bridge, out=where, seeds=[0, 1], settings=variants, ray=RayConfig(workers=2), progress=False
    )
    assert list(runs.to_pandas()["status"]) == ["done"] * 4 and len(set(runs.settings)) == 2
    for i, run in enumerate(runs):
        settings: dict[str, Any] = {"search": searches[i // 2], "seed": i % 2, "progress": False}
        assert type(run.config) is type(searches[i // 2]) and run.config.seed == i % 2
        same(run.history, dl.dream(FEATURES[0], gpt2.bridge, **settings).history)
        longer = dl.dream(FEATURES[0], gpt2.bridge, **settings, iterations=9)
        same(dl.load_run(run.folder, gpt2.bridge).resume(4, progress=False).history, longer.history)


def test_a_run_that_kills_its_workers_is_given_up(cluster, monkeypatch, tmp_path):
    """The other runs of its group are then tried one by one."""

    class Deaths:
        def __init__(self, *made_of: Any) -> None:
            pass

        def work(self, groups: Any) -> Iterator[Any]:
            for group in groups:
                dies = any(task.seed == 1 for task in group)
                yield group, LostJob("A worker died (of it).", 3) if dies else self.runner.run(group)

    def started(cluster: Any, made_of: bytes, say: Any) -> Deaths:
        Deaths.runner = pickle.loads(made_of)
        Deaths.runner.ready()
        return Deaths()

    monkeypatch.setattr("dreamy_lens.sweeps.execution.ActorPool", started)
    with pytest.warns(RuntimeWarning, match="1 of 3 runs failed"):
        runs = made(tmp_path / "a", features="L1.N3", seeds=range(3), together=2, ray=True)
    assert list(runs.to_pandas()["status"]) == ["done", "failed", "done"]
    assert list(runs.failed["error"]) == ["A worker died (of it)."] and list(runs.failed["attempts"]) == [3]


@pytest.mark.skipif(os.name == "nt", reason="signals are sent otherwise there")
def test_an_interrupt_ends_the_workers_and_keeps_the_finished(cluster, whole, tmp_path, capsys):
    def press(at: Abroad) -> None:
        if not list(at.folder.glob("pid-*")):
            (at.folder / f"pid-{os.getpid()}").write_text("")
            os.kill(at.home, signal.SIGINT)
            time.sleep(60)

    pressing = abroad("pressing", tmp_path, press)
    features = ["L1.N3", pressing, "L0.N5"]
    runs = made(tmp_path / "a", features=features, seeds=[0], ray=RayConfig(workers=1))
    assert list(runs.to_pandas()["status"]) == ["done", "missing", "missing"]
    assert "Interrupted after 1 of 3 runs" in capsys.readouterr().err and cluster.ray.is_initialized()
    (pid,) = (int(file.name.removeprefix("pid-")) for file in tmp_path.glob("pid-*"))
    assert ended(pid)
    # The other runs are made in this process.
    again = made(tmp_path / "a", features=features, seeds=[0])
    assert len(again) == 3
    same(again[2].history, whole[1].history)


def test_workers_say_what_is_wrong_before_anything_is_searched(cluster, tmp_path, monkeypatch):
    with pytest.raises(UnknownHookError, match=r"blocks\.7"):
        made(tmp_path / "a", "embedded", features=["L1.N3", "L7.N3"], ray=RayConfig(workers=1))
    assert not (tmp_path / "a" / "results").exists()
    with pytest.raises(SettingsError, match="cannot be sent to workers, because of an object in one of them"):
        held = (one for one in ())
        made(tmp_path / "b", features=dl.custom("held", ["blocks.0.mlp.hook_post"], lambda a: held), ray=True)


# Scans.


class Lines(Shard):
    """Texts in memory. Reading a deadly shard always kills a worker, and raises an error in this process."""

    def __init__(self, name: str, texts: list[str], deadly: bool) -> None:
        self.name, self.texts, self.deadly, self.home = name, texts, deadly, os.getpid()
        self.characters = sum(map(len, texts))

    def pieces(self, point: Any, note: Any) -> Iterator[Piece]:
        for i in range(point or 0, len(self.texts)):
            if self.deadly and os.getpid() != self.home:
                os.kill(os.getpid(), signal.SIGKILL)
            if self.deadly:
                raise ValueError("torn")
            yield Piece(f"{self.name}:{i}", 0, self.texts[i], i, i + 1)


def corpus_of(shards: int, deadly: int | None = None) -> Corpus:
    """Return a corpus with a block and a half in each shard."""
    random = np.random.default_rng(0)
    words = np.array("the dog runs over hill and a cat sleeps in house friends bark she said that big sun".split())
    texts = [[" ".join(random.choice(words, size=30_000)) for _ in range(3)] for _ in range(shards)]
    return Corpus("lines", [Lines(f"shard {i}", t, i == deadly) for i, t in enumerate(texts)], "made up", Problems())


def scanned(features: Any, corpus: Corpus, **settings: Any) -> Any:
    """Scan few windows of each block, because these tests are not about the model."""
    usual = {"k": 4, "length": 6, "stride": 600, "sample": 30, "progress": False}
    return dl.max_activating(features, models.family("neox").bridge, corpus, **(usual | settings))


def equal(ours: Any, theirs: Any) -> None:
    """Check that tables are equal to the last bit, except sums, whose last bits depend on the order of addition."""
    for name in ("kept", "windows", "tokens", "features"):
        a, b = getattr(ours.tables, name), getattr(theirs.tables, name)
        for column in a.schema.names:
            if column in ("mean", "deviation"):
                np.testing.assert_allclose(a[column].to_numpy(), b[column].to_numpy(), rtol=1e-12)
            else:
                assert a[column].equals(b[column]), (name, column)
    assert ours.counts == theirs.counts


@pytest.mark.slow
def test_on_workers_a_scan_finds_the_same_though_one_is_killed(cluster, tmp_path, monkeypatch, capsys):
    def die(at: Abroad) -> None:
        if not list(at.folder.glob("died-*")):
            (at.folder / f"died-{os.getpid()}").write_text("")
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(scan_tasks, "MIN_CHARACTERS", 300_000)
    monkeypatch.setattr("dreamy_lens.scan.scan.SAVE_SECONDS", 0.0)
    features, corpus = [dl.neurons(1), abroad("once", tmp_path, die)], corpus_of(3)
    where = f"file://{tmp_path}/scan"
    here = scanned(features, corpus, cache=False)
    there = scanned(features, corpus, out=where, ray=RayConfig(workers=2), progress=True)
    equal(there, here)
    assert len(list(tmp_path.glob("died-*"))) == 1 and there.failed_shards == []
    bar = capsys.readouterr().err
    assert "workers get ready" in bar and "100%" in bar and re.search(r"41 features, (\d+) of \1 parts", bar)
    # The shared folder has only the results, and a repeated call opens them.
    assert set(os.listdir(tmp_path / "scan")) == {file.name for file in Path(there.folder).iterdir()}
    monkeypatch.setattr("dreamy_lens.cluster.cluster_scan.ClusterScan._scan", None)
    equal(scanned(features, corpus, out=where, ray=True), here)


@pytest.mark.slow
def test_a_shard_that_kills_whoever_reads_it_is_reported_and_the_rest_completes(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(actor_pool, "ATTEMPTS", 1)
    monkeypatch.setattr(scan_tasks, "MIN_CHARACTERS", 300_000)
    corpus = corpus_of(3, deadly=1)
    with pytest.warns(RuntimeWarning, match=r"1 of 3 parts of lines could not be read.*shard 1 \(ValueError: torn\)"):
        here = scanned(dl.neurons(1), corpus, cache=False)
    with pytest.warns(RuntimeWarning, match=r"1 of 3 parts of lines .*shard 1 \(from block 0 on 1 workers died\)"):
        there = scanned(dl.neurons(1), corpus, out=tmp_path / "scan", ray=RayConfig(workers=2))
    equal(there, here)
    assert [failed["name"] for failed in there.failed_shards] == ["shard 1"]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals are sent otherwise there")
def test_an_interrupted_scan_goes_on(cluster, tmp_path, monkeypatch, capsys):
    def press(at: Abroad) -> None:
        if len(list((at.folder / "scan" / "parcels").glob("000?.json"))) >= 1 and not list(at.folder.glob("pid-*")):
            (at.folder / f"pid-{os.getpid()}").write_text("")
            os.kill(at.home, signal.SIGINT)
            time.sleep(60)

    monkeypatch.setattr(scan_tasks, "MIN_CHARACTERS", 300_000)
    features, corpus = ["L1.N3", abroad("press", tmp_path, press)], corpus_of(2)
    here = scanned(features, corpus, cache=False)
    some = scanned(features, corpus, out=tmp_path / "scan", ray=RayConfig(workers=1))
    assert "call again with the same arguments to go on" in capsys.readouterr().err
    assert not some.header["complete"] and 0 < some.counts["blocks"] < here.counts["blocks"]
    (pid,) = (int(file.name.removeprefix("pid-")) for file in tmp_path.glob("pid-*"))
    assert ended(pid)
    equal(scanned(features, corpus, out=tmp_path / "scan", ray=RayConfig(workers=1)), here)
    assert not (tmp_path / "scan" / "parcels").exists()
