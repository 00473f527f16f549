"""A Ray cluster of two nodes, of which one is lost while a sweep or a scan runs on both."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dreamy_lens as dl
from dreamy_lens.cluster import RayConfig, connected, scan_tasks
from tests.cluster.test_cluster import PATIENCE, corpus_of, equal, scanned
from tests.helpers.dreams import dream, same
from tests.sweeps.test_sweep import made


class Nodes:
    """A cluster of processes of this machine: a head node, and a second node that can be lost."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        arguments = {"num_cpus": 1, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args=arguments)
        self.config = RayConfig(self.cluster.address, workers=2)

    def add(self) -> Any:
        """Add the second node, which has room for one worker as the head node has."""
        node = self.cluster.add_node(num_cpus=1)
        self.cluster.wait_for_nodes()
        return node

    def lose_after(self, node: Any, file: Path) -> threading.Thread:
        """Return a thread that kills the processes of a node once a worker there has written a file."""

        def lose() -> None:
            deadline = time.monotonic() + PATIENCE
            while not file.exists() and time.monotonic() < deadline:
                time.sleep(0.02)
            self.cluster.remove_node(node, allow_graceful=False)

        thread = threading.Thread(target=lose, daemon=True)
        thread.start()
        return thread


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    pytest.importorskip("ray", reason="Ray is not installed")
    from ray import cloudpickle

    modules = [sys.modules[name] for name in (__name__, "tests.cluster.test_cluster")]
    for module in modules:
        cloudpickle.register_pickle_by_value(module)  # workers cannot import these modules
    started = Nodes()
    yield started
    started.cluster.shutdown()
    for module in modules:
        cloudpickle.unregister_pickle_by_value(module)


class OnSecondNode:
    """A neuron that is read no further on the second node, and on the first only after that began."""

    def __init__(self, node: str, reached: Path) -> None:
        self.node, self.reached, self.calls = node, reached, 0

    def __call__(self, activations: Any) -> Any:
        ray = sys.modules.get("ray")
        values = activations["blocks.1.mlp.hook_post"][:, -1, 3]
        in_worker = ray is not None and ray.is_initialized() and ray.get_runtime_context().get_actor_id() is not None
        self.calls += len(values) > 3  # when it is bound, it is tried on three prompts and on each alone
        if in_worker and ray is not None and self.calls > 2:
            if ray.get_runtime_context().get_node_id() == self.node:
                self.reached.write_text("")
                time.sleep(PATIENCE)
            deadline = time.monotonic() + PATIENCE
            while not self.reached.exists() and time.monotonic() < deadline:
                time.sleep(0.02)
        return values


def on_second_node(node: Any, reached: Path) -> Any:
    return dl.custom("stops", ["blocks.1.mlp.hook_post"], OnSecondNode(node.node_id, reached))


@pytest.mark.slow
def test_a_sweep_completes_on_the_node_that_is_left(nodes, tmp_path, gpt2, capsys):
    node, reached = nodes.add(), tmp_path / "reached"
    feature = on_second_node(node, reached)
    thread = nodes.lose_after(node, reached)
    runs = made(f"file://{tmp_path}/sweep", features=feature, seeds=range(3), ray=nodes.config, progress=True)
    thread.join(PATIENCE)
    assert reached.exists() and list(runs.to_pandas()["status"]) == ["done"] * 3
    assert sorted(runs.to_pandas()["attempts"]) == [1, 1, 2]
    for seed, run in enumerate(runs):
        same(run.history, dream(gpt2.bridge, feature, iterations=3, seed=seed).history)
    assert "A worker died" in capsys.readouterr().err


@pytest.mark.slow
def test_a_scan_finds_the_same_on_the_node_that_is_left(nodes, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scan_tasks, "MIN_CHARACTERS", 300_000)
    node, reached = nodes.add(), tmp_path / "reached"
    features, corpus = [dl.neurons(1), on_second_node(node, reached)], corpus_of(2)
    here = scanned(features, corpus, cache=False)
    thread = nodes.lose_after(node, reached)
    there = scanned(features, corpus, out=f"file://{tmp_path}/scan", ray=nodes.config, progress=True)
    thread.join(PATIENCE)
    assert reached.exists() and there.failed_shards == []
    equal(there, here)
    assert "100%" in capsys.readouterr().err
    with connected(nodes.config) as left:
        assert sum(entry["Alive"] for entry in left.ray.nodes()) == 1
