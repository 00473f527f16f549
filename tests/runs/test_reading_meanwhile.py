"""A run in the background is read, saved and asked meanwhile, between two of its steps."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import sys
import threading
from typing import Any

import numpy as np
import pytest
import torch

import dreamy_lens as dl
from dreamy_lens.runs import Dream
from tests.helpers.background import PATIENCE, held, paused
from tests.helpers.dreams import dream, same

# Reading meanwhile.


def test_what_was_found_so_far_never_changes_and_fits_together(gpt2, whole):
    seen, done, many = [], threading.Event(), threading.Event()

    def look() -> None:
        while not done.is_set():
            found = run.so_far
            h = found.history
            assert len(h) == len(h.ids) == len(h.value) == len(h.cross_entropy) == len(h.iteration)
            assert len(h.population) == len(h.seconds) == h.iterations + 1 and (h.population[-1] < len(h)).all()
            assert not len(found.frontier_rows) or found.frontier_rows.max() < len(h)
            assert [p.value for p in found.frontier] == h.value[found.frontier_rows].tolist()
            if not seen or seen[-1][0] is not found:
                seen.append((found, h.ids.copy(), h.value.copy(), found.frontier_rows.copy()))
            many.set()

    run = dream(gpt2.bridge, iterations=0)
    thread = threading.Thread(target=look)
    thread.start()
    assert many.wait(PATIENCE)
    run.resume(8, wait=False, progress=False).wait()
    done.set()
    thread.join()
    assert seen and [s[0].iteration for s in seen] == sorted({s[0].iteration for s in seen})
    for found, ids, value, rows in seen:
        assert np.array_equal(found.history.ids, ids) and np.array_equal(found.history.value, value)
        assert np.array_equal(found.frontier_rows, rows)
        assert np.array_equal(whole.history.frontier_rows(found.iteration), rows)
        assert found.hypervolume >= 0 and len(found.population) == 3 and "after" in repr(found)
    same(run.history, whole.history)


@pytest.mark.parametrize("name", ["history", "frontier", "population", "hypervolume", "frontier_rows"])
def test_what_it_found_waits_for_the_end(gpt2, whole, name):
    run, gate = held(gpt2.bridge)
    got: list[Any] = []
    reader = threading.Thread(target=lambda: got.append((getattr(run, name), run.status)))
    with_wait = threading.Event()
    ended = run.worker._ended
    wait, run.worker._ended.wait = ended.wait, lambda timeout=None: (with_wait.set(), wait(timeout))[1]
    reader.start()
    assert with_wait.wait(PATIENCE) and not got
    gate.open()
    reader.join()
    assert got[0][1] == "done" and run.iteration == 8


@pytest.mark.parametrize("how", ["pickle", "copy", "deepcopy"])
@pytest.mark.parametrize("when", ["held", "paused", "ended"])
def test_a_copy_is_of_the_moment(gpt2, whole, how, when):
    made = {"pickle": lambda run: pickle.loads(pickle.dumps(run)), "copy": copy.copy, "deepcopy": copy.deepcopy}[how]
    gate = None
    if when == "held":
        run, gate = held(gpt2.bridge)
    else:
        run = paused(gpt2.bridge) if when == "paused" else dream(gpt2.bridge, iterations=3)
    again = made(run)
    assert (again.iteration, again.active, again.status) == (3, False, "stopped" if when != "ended" else "done")
    if how == "pickle":  # which leaves the model behind
        record = again.record()
        again = Dream.from_record(dataclasses.replace(record, spec=dataclasses.replace(record.spec, model=gpt2.bridge)))
    same(again.resume(5, progress=False).history, whole.history)
    if gate is not None:
        gate.open()
    assert run.iteration >= 3
    same((run.resume(progress=False) if when != "ended" else run.resume(5, progress=False)).history, whole.history)


def test_saving_and_attribution_meanwhile(gpt2, whole, tmp_path):
    expected = whole.attribution(whole.frontier[0], k=4)
    run = paused(gpt2.bridge)
    threads = []

    def in_thread(function: Any) -> None:
        thread = threading.Thread(target=function)
        thread.start()
        threads.append(thread)

    found: list[Any] = []
    run.save(tmp_path / "paused")
    run.resume()
    for _ in range(2):
        in_thread(lambda: found.append(run.attribution(whole.frontier[0], k=4)))
    in_thread(lambda: run.save(tmp_path / "running"))
    for thread in threads:
        thread.join()
    same(run.wait().history, whole.history)
    for one in [*found, run.attribution(whole.frontier[0], k=4)]:
        np.testing.assert_array_equal(one.candidates, expected.candidates)
        np.testing.assert_allclose(one.values, expected.values, atol=1e-5)
    assert dl.load_run(tmp_path / "paused").iteration == 3
    for name in ("paused", "running"):
        again = dl.load_run(tmp_path / name, gpt2.bridge)
        same((again if again.finished else again.resume(progress=False)).history, whole.history)


# Asking.


def test_questions_are_answered_between_two_steps_by_the_thread_at_work(gpt2, whole):
    run, gate = held(gpt2.bridge)
    at: list[Any] = []

    def look() -> str:
        at.append((threading.current_thread().name, run.iteration, len(run.frontier), torch.is_grad_enabled()))
        inner = run.ask(lambda: run.attribution(run.frontier[0], k=2))
        assert inner.done() and run.wait() is run  # it cannot wait for itself
        return inner.result().feature

    first, second = run.ask(look), run.ask(look)
    cancelled = run.ask(lambda: pytest.fail("the question was cancelled"))
    assert cancelled.cancel() and not first.done()
    gate.open()
    assert first.result(PATIENCE) == second.result(PATIENCE) == "blocks.1.mlp.hook_post[-1, 3]"
    assert at[0] == at[1] == ("dreamy_lens", 3, len(whole.history.frontier_rows(3)), True)
    same(run.history, whole.history)


def test_a_question_that_fails_is_the_asker_s_affair(gpt2, whole):
    run, gate = held(gpt2.bridge)
    futures = [run.ask(lambda: 1 / 0), run.ask(lambda: sys.exit(3))]
    gate.open()
    with pytest.raises(ZeroDivisionError):
        futures[0].result(PATIENCE)
    with pytest.raises(SystemExit):
        futures[1].result(PATIENCE)
    same(run.wait().history, whole.history)


def test_a_run_that_has_ended_answers_too(gpt2, whole, tmp_path):
    assert whole.ask(lambda: whole.iteration).result(PATIENCE) == 8
    assert [whole.ask(lambda i=i: i).result(PATIENCE) for i in range(20)] == list(range(20))
    whole.save(tmp_path / "run")
    loaded = dl.load_run(tmp_path / "run", gpt2.bridge)
    assert loaded.ask(lambda: len(loaded.history)).result(PATIENCE) == len(whole.history)
    assert (loaded.status, loaded.active) == ("done", False)


def test_who_answers_still_is_waited_for_before_a_run_goes_on(gpt2, whole):
    run = dream(gpt2.bridge, iterations=3)
    inside, go, order = threading.Event(), threading.Event(), []

    def slow() -> Any:
        inside.set()
        assert go.wait(PATIENCE)
        found = run.attribution(run.frontier[0], k=2)  # in the midst of the hand-over, this is where the model is used
        order.append("answered")
        return found

    answer = run.ask(slow)
    assert inside.wait(PATIENCE)
    after = run.ask(lambda: order.append("after"))
    run.listen(lambda run: order.append(run.iteration), every=0.0)
    run.resume(5, wait=False, progress=False)
    go.set()
    same(run.wait().history, whole.history)
    assert answer.result(PATIENCE).values.shape == (5, 2) and after.done()
    assert order[0] == "answered" and "after" in order and 8 in order


def test_a_run_goes_on_at_the_word_of_somebody_who_asked(gpt2, whole):
    for wait in (False, True):
        run = dream(gpt2.bridge, iterations=3)
        assert run.ask(lambda run=run, wait=wait: run.resume(5, wait=wait, progress=False)).result(PATIENCE) is run
        same(run.wait().history, whole.history)
        assert run.ask(lambda: 1).result(PATIENCE) == 1
