"""Nothing found is ever lost: a run that was stopped, interrupted or broken goes on as if it had not been."""

from __future__ import annotations

import errno
import os
import signal
import warnings
from typing import Any

import numpy as np
import pytest

import dreamy_lens as dl
from dreamy_lens import constraints as rules_of
from dreamy_lens.errors import RunFolderError, SettingsError
from dreamy_lens.results import HistoryBuilder
from dreamy_lens.runs import Dream
from dreamy_lens.runs import worker as running
from dreamy_lens.scoring import Scorer
from dreamy_lens.search import epo as search
from tests.helpers.dreams import dream, interrupt_after, same

# Stop anywhere, go on.


@pytest.mark.parametrize("stop", range(9))
def test_a_run_that_was_saved_and_resumed_is_the_run_that_never_stopped(gpt2, whole, tmp_path, stop):
    dream(gpt2.bridge, iterations=stop).save(tmp_path / "run")
    again = dl.load_run(tmp_path / "run", gpt2.bridge)
    assert again.iteration == stop
    if stop < 8:
        again.resume(8 - stop, progress=False)
    same(again.history, whole.history)
    assert again.config == whole.config and again.finished
    assert again.frontier.prompts == whole.frontier.prompts


def test_step_by_step_is_the_same_too(gpt2, whole):
    run = dream(gpt2.bridge, iterations=0)
    for _ in range(8):
        assert run.resume(1, progress=False) is run
    same(run.history, whole.history)


def test_resuming_with_no_number_completes_what_was_planned(gpt2, whole, tmp_path):
    with interrupt_after(3):
        run = dream(gpt2.bridge, save_to=tmp_path / "run")
    assert run.iteration == 3 and not run.finished
    again = dl.load_run(tmp_path / "run", gpt2.bridge).resume(progress=False)
    assert again.finished
    same(again.history, whole.history)
    assert again.resume(progress=False).iteration == 8  # there is nothing left to do


@pytest.mark.parametrize(
    "settings",
    [
        {"constraints": [rules_of.round_trip(), rules_of.forbid_text("dog")]},
        {"constraints": [rules_of.template("The dog{dream} the"), rules_of.fix({0: " cat"})]},
        {"start": [[30, 31, 32, 33, 34], [40, 41, 42, 43, 44]]},
        {"keep_parents": True, "prepend_bos": False},
        {"feature": "L1.N3 - 0.5 * mean_cross_entropy()"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_everything_a_run_was_made_with_is_saved(gpt2, tmp_path, settings):
    full = dream(gpt2.bridge, **settings)
    dream(gpt2.bridge, **(settings | {"iterations": 3})).save(tmp_path / "run")
    again = dl.load_run(tmp_path / "run", gpt2.bridge)
    assert again.constraints == full.constraints and again.provenance == full.provenance
    same(again.resume(5, progress=False).history, full.history)


def test_a_run_with_another_fluency_model(gpt2, llama, tmp_path):
    full = dream(gpt2.bridge, fluency_model=llama.bridge)
    dream(gpt2.bridge, fluency_model=llama.bridge, iterations=4).save(tmp_path / "run")
    again = dl.load_run(tmp_path / "run", gpt2.bridge, fluency_model=llama.bridge)
    same(again.resume(4, progress=False).history, full.history)
    again.save()
    with pytest.raises(RunFolderError, match="belongs to another model: the cross-entropy of one of its prompts was"):
        dl.load_run(tmp_path / "run", gpt2.bridge, fluency_model=gpt2.bridge).resume(1)


@pytest.mark.filterwarnings("ignore:.*NaN or infinite")
def test_non_finite_prompts_are_known_after_a_resume(gpt2, tmp_path):
    point = "blocks.1.mlp.hook_post"

    def rooted(a):
        return a[point][:, -1, 3].sqrt()

    feature = dl.custom("rooted", [point], rooted)
    start = np.random.default_rng(0).integers(1, 300, size=(40, 3))
    start = start[np.isfinite(dl.score(feature, start, gpt2.bridge).value)][:1]
    # So few possible children that the same ones come again and again.
    few: dict[str, Any] = {"start": start, "length": 3, "top_k": 2, "restart_every": 0}
    full = dream(gpt2.bridge, feature, **few)
    assert full.history.non_finite > 1 and np.isfinite(full.history.value).all()
    for stop in (2, 4, 6):
        dream(gpt2.bridge, feature, iterations=stop, **few).save(tmp_path / "run", overwrite=True)
        same(dl.load_run(tmp_path / "run", gpt2.bridge).resume(8 - stop, progress=False).history, full.history)


@pytest.mark.parametrize("bad", [0, -3, 1.5, True, "10"])
def test_more_iterations_are_a_positive_number(whole, bad):
    with pytest.raises(SettingsError, match="the number of iterations to add, at least 1; got"):
        whole.resume(bad)


# Interrupts and errors.


@pytest.mark.parametrize("at", [0, 2, 3, 4])
def test_an_interrupted_run_keeps_everything_and_goes_on(gpt2, whole, capsys, at):
    with interrupt_after(at):
        run = dream(gpt2.bridge)
    assert (
        f"Interrupted after {at} of 8 iterations. Everything found so far is kept; .resume() continues."
        in capsys.readouterr().err
    )
    assert run.iteration == at and len(run.frontier)
    n = len(run.history)
    np.testing.assert_array_equal(run.history.ids, whole.history.ids[:n])
    same(run.resume(progress=False).history, whole.history)


@pytest.mark.parametrize("where", ["select", "rank_candidates", "make_children"])
def test_an_interrupt_in_the_middle_of_an_iteration_loses_that_iteration_only(gpt2, whole, monkeypatch, where):
    original, calls = getattr(search, where), []

    def third_time(*arguments):
        calls.append(None)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(search, where, third_time)
    run = dream(gpt2.bridge)
    assert run.iteration == 2
    same(run.resume(progress=False).history, whole.history)


def test_an_interrupt_while_scoring(gpt2, whole, monkeypatch):
    original, calls = Scorer.score, []

    def fourth_time(self, ids):
        calls.append(None)
        found = original(self, ids)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(Scorer, "score", fourth_time)
    run = dream(gpt2.bridge)
    assert run.iteration == 2
    same(run.resume(progress=False).history, whole.history)


@pytest.mark.parametrize("start", [None, [[30, 31, 32, 33, 34], [40, 41, 42, 43, 44]]])
def test_an_interrupt_before_anything_was_found(gpt2, monkeypatch, tmp_path, start):
    whole = dream(gpt2.bridge, start=start)
    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "score", lambda self, ids: (_ for _ in ()).throw(KeyboardInterrupt()))
        run = dream(gpt2.bridge, start=start, save_to=tmp_path / "run")
    assert not len(run.history) and not len(run.frontier) and "no prompts" in repr(run)
    same(run.resume(progress=False).history, whole.history)
    again = dl.load_run(tmp_path / "run", gpt2.bridge)
    assert not len(again.history)
    same(again.resume(8, progress=False).history, whole.history)


@pytest.mark.skipif(os.name == "nt", reason="signals are sent otherwise there")
def test_ctrl_c_while_a_step_is_noted_waits_until_it_is(gpt2, whole, monkeypatch):
    add = HistoryBuilder.add

    def pressed(self, step):
        if step.iteration == 2:
            os.kill(os.getpid(), signal.SIGINT)
        add(self, step)

    monkeypatch.setattr(HistoryBuilder, "add", pressed)
    usual = signal.getsignal(signal.SIGINT)
    run = dream(gpt2.bridge)
    assert signal.getsignal(signal.SIGINT) is usual
    assert run.iteration == run.history.iterations == 2
    monkeypatch.undo()
    same(run.resume(progress=False).history, whole.history)


def test_an_error_carries_the_run_and_saves_it(gpt2, whole, tmp_path):
    broken = RuntimeError("the device is gone")
    with interrupt_after(4, broken), pytest.raises(RuntimeError, match="the device is gone") as caught:
        dream(gpt2.bridge, save_to=tmp_path / "run")
    run = caught.value.run  # type: ignore[attr-defined]
    assert run.iteration == 4 and len(run.frontier)
    again = dl.load_run(tmp_path / "run", gpt2.bridge)
    assert again.iteration == 4
    same(again.resume(progress=False).history, whole.history)


def test_an_error_is_not_hidden_by_a_folder_that_cannot_be_written_any_more(gpt2, tmp_path, monkeypatch):
    save = Dream.save

    def full(self, path=None, **settings):
        if self.iteration > 0:
            raise OSError("no space left")
        return save(self, path, **settings)

    monkeypatch.setattr(Dream, "save", full)
    with interrupt_after(3, RuntimeError("first")), pytest.raises(RuntimeError, match="first") as caught:
        with pytest.warns(RuntimeWarning, match="The run could not be saved: no space left"):
            dream(gpt2.bridge, save_to=tmp_path / "run")
    assert caught.value.run.iteration == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize("first", [0, 3])
def test_a_disk_that_is_full_does_not_end_a_run(gpt2, whole, tmp_path, monkeypatch, first):
    write = os.fsync

    def full(descriptor):
        if run_iterations() >= first:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor)

    taken = []
    take = Dream.take
    monkeypatch.setattr(Dream, "take", lambda self, step: (take(self, step), taken.append(step.iteration))[0])
    monkeypatch.setattr(running, "SAVE_SECONDS", 0.0)

    def run_iterations():
        return taken[-1]

    with monkeypatch.context() as patch, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        patch.setattr(os, "fsync", full)
        run = dream(gpt2.bridge, save_to=tmp_path / "run")
    texts = [str(warning.message) for warning in warned if "could not be saved" in str(warning.message)]
    assert len(texts) == 1 and "No space left on device. Make room" in texts[0] and "The search goes on" in texts[0]
    same(run.history, whole.history)
    assert run.status == "done" and run.worker is not None and "No space left" in str(run.worker.save_error)
    assert (tmp_path / "run").exists() == (first > 0)
    if first:
        assert dl.load_run(tmp_path / "run").iteration == first - 1
    run.save(tmp_path / "run")  # once there is room
    same(dl.load_run(tmp_path / "run").history, whole.history)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["arrays.safetensors", "run", "run.json"]


def test_a_feature_that_fails_in_the_middle(gpt2):
    point, calls = "blocks.0.mlp.hook_post", []

    def tires(a):
        calls.append(None)
        if len(calls) > 24:
            raise ArithmeticError("tired")
        return a[point][:, -1, 0]

    with pytest.raises(ArithmeticError, match="tired") as caught:
        dream(gpt2.bridge, dl.custom("tires", [point], tires))
    assert 1 < caught.value.run.iteration < 8  # type: ignore[attr-defined]
