"""Several runs side by side in the background, together and each by itself."""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np
import pytest

import dreamy_lens as dl
from dreamy_lens.errors import SettingsError
from dreamy_lens.runs import Dreams
from tests.helpers import models
from tests.helpers.background import PATIENCE, Gate, Press, until_status
from tests.helpers.dreams import dream, same

FEATURES = ["L1.N3", "L0.N5"]


@pytest.fixture(scope="module")
def whole() -> Dreams:
    return dream(models.family("gpt2").bridge, FEATURES)  # type: ignore[return-value]


def alike(runs: Any, others: Any) -> None:
    for a, b in zip(runs, others, strict=True):
        same(a.history, b.history)


def held(model: Any, iteration: int = 3) -> tuple[Any, Gate]:
    gate, runs = Gate(iteration), dream(model, FEATURES, iterations=0)
    runs.listen(gate, every=0.0)
    runs.resume(8, wait=False, progress=False)
    gate.wait()
    return runs, gate


def test_they_go_on_together_and_stop_together(gpt2, whole):
    runs, gate = held(gpt2.bridge)
    assert (runs.status, runs.active, runs.iteration) == ("running", True, 3)
    assert [run.status for run in runs] == ["running"] * 2 and runs[:1].active and "running" in repr(runs[0])
    answer = runs[1].ask(lambda: [run.iteration for run in runs])
    runs[0].stop()
    gate.open()
    assert runs.wait() is runs and runs.status == "stopped" and {run.status for run in runs} == {"stopped"}
    assert answer.result(PATIENCE) == [run.iteration for run in runs]
    assert runs.resume(wait=False, progress=False).wait().status == "done"
    alike(runs, whole)


def test_a_pause_of_one_is_a_pause_of_all(gpt2, whole):
    runs, gate = held(gpt2.bridge)
    still = until_status(runs, "paused")
    runs[1].pause()
    gate.open()
    assert still.wait(PATIENCE) and {run.status for run in runs} == {"paused"}
    with pytest.raises(SettingsError, match="still paused"):
        runs.resume(2)
    assert runs.resume() is runs
    alike(runs, whole)
    assert runs.status == "done"


@pytest.mark.parametrize("first", [0, 1])
def test_where_they_are_at_different_iterations_they_are_completed(gpt2, whole, first):
    runs = dream(gpt2.bridge, FEATURES, iterations=3)
    for run in runs:
        run.go_until(whole[0].config.iterations)
    runs[first].resume(1, progress=False)
    with pytest.raises(
        SettingsError,
        match=r"at the same iteration, and these are at \[3, 4\]; resume\(\) without a number completes all",
    ):
        runs.resume(2, progress=False)
    for run in runs:
        run.go_until(8)
    runs.resume(progress=False)
    for run, other in zip(runs, whole, strict=True):
        assert run.iteration == 8
        np.testing.assert_array_equal(run.history.ids, other.history.ids)


def test_one_that_goes_on_by_itself_is_left_to_it(gpt2, whole):
    runs = dream(gpt2.bridge, FEATURES, iterations=3)
    gate = Gate(4)
    runs[0].listen(gate, every=0.0)
    runs[0].resume(5, wait=False, progress=False)
    gate.wait()
    assert (runs[0].status, runs[1].status, runs.status, runs.active) == ("running", "done", "running", True)
    told: list[str] = []
    runs.listen(lambda runs: told.append(runs.status))
    assert runs.ask(lambda: 1) and runs[0].worker.active  # the run stays with its worker
    with pytest.raises(SettingsError, match="still"):
        runs.resume(5)
    gate.open()
    assert runs.wait() is runs and runs[0].iteration == 8 and told
    same(runs[0].history, whole[0].history)
    runs[1].resume(5, progress=False)
    same(runs[1].history, whole[1].history)


def test_runs_that_were_put_together_are_waited_for_and_stopped_together(gpt2, whole):
    gates = [Gate(2), Gate(3)]
    alone = [dream(gpt2.bridge, feature, iterations=0) for feature in FEATURES]
    for run, gate in zip(alone, gates, strict=True):
        run.listen(gate, every=0.0)
        run.resume(8, wait=False, progress=False)
        gate.wait()
    runs = Dreams(alone)
    assert runs.ask(lambda: 2).result(PATIENCE) == 2 and all(run.worker.active for run in runs)
    runs.stop()
    for gate in gates:
        gate.open()
    assert [run.iteration for run in runs.wait()] == [2, 3] and runs.status == "stopped"


def test_an_error_of_one_is_everybody_s(gpt2, monkeypatch):
    runs, gate = held(gpt2.bridge)
    monkeypatch.setattr(dl.runs.dream.Dream, "take", lambda run, step: 1 / 0)
    gate.open()
    with pytest.raises(ZeroDivisionError) as caught:
        runs.wait()
    assert caught.value.run is runs and runs.error is caught.value  # type: ignore[attr-defined]
    assert runs.status == "failed" and runs[0].error is runs.error
    monkeypatch.undo()
    assert runs.resume(progress=False).error is None and runs.status == "done"


@pytest.mark.skipif(os.name == "nt", reason="signals are sent otherwise there")
def test_an_interrupt_while_one_is_read_stops_all(gpt2, whole, capsys):
    runs, gate = held(gpt2.bridge)
    with Press(runs, gate.open):
        assert runs[1].history.iterations == runs[1].iteration
    assert "Interrupted. Everything found so far is kept" in capsys.readouterr().err and runs.status == "stopped"
    runs.resume(progress=False)
    alike(runs, whole)


def test_those_who_listen_to_one_or_all_are_kept(gpt2):
    heard: dict[str, list[int]] = {"all": [], "one": []}
    runs = dream(gpt2.bridge, FEATURES, iterations=1)
    runs.listen(lambda runs: heard["all"].append(runs.iteration), every=0.0)
    runs[1].listen(lambda run: heard["one"].append(run.iteration), every=0.0)
    runs.resume(2, wait=False, progress=False).wait()
    assert max(heard["all"]) == max(heard["one"]) == 3
    runs[1].resume(1, wait=False, progress=False).wait()
    assert max(heard["one"]) == 4


def test_saving_meanwhile_saves_whole_runs(gpt2, whole, tmp_path):
    runs, gate = held(gpt2.bridge)
    saver = threading.Thread(target=lambda: runs.save(tmp_path / "all"))
    saver.start()
    gate.open()
    saver.join()
    runs.wait()
    alike(runs, whole)
    for place, run in zip(runs.run_folders(tmp_path / "all"), whole, strict=True):
        again = dl.load_run(place, gpt2.bridge)
        again = again if again.finished else again.resume(progress=False)
        np.testing.assert_array_equal(again.history.ids, run.history.ids)


def test_a_bar_for_several(gpt2, capsys):
    runs = dream(gpt2.bridge, FEATURES, progress=True)
    last = capsys.readouterr().err.rsplit("\r", 1)[-1]
    best = sorted(run.frontier.best().value for run in runs)
    assert "8/8" in last and f"2 runs, best values {best[0]:.3g} to {best[1]:.3g}" in last
    area = sorted(run.hypervolume for run in runs)
    assert f"hypervolumes {area[0]:.4g} to {area[1]:.4g}" in last
