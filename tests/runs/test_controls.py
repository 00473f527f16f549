"""A run in the background: what can be done with it meanwhile, and that none of it changes what it finds."""

from __future__ import annotations

import copy
import dataclasses
import gc
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import types
import warnings
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from packaging.version import Version

import dreamy_lens as dl
from dreamy_lens import _host
from dreamy_lens.errors import SettingsError
from dreamy_lens.models import HookedModel
from dreamy_lens.runs import Dream
from dreamy_lens.scoring import Scorer
from tests.helpers import models
from tests.helpers.background import PATIENCE, Gate, Press, begun, held, paused, until_status
from tests.helpers.dreams import dream, same
from tests.helpers.scorers import make_scorer

POINT = "blocks.1.mlp.hook_post"
posix = pytest.mark.skipif(os.name == "nt", reason="signals are sent otherwise there")


@pytest.fixture(scope="module")
def whole() -> Dream:
    return dream(models.family("gpt2").bridge)


# Pause, go on, stop.


def test_it_goes_on_while_the_caller_does_something_else(gpt2, whole):
    run, gate = held(gpt2.bridge)
    assert (run.status, run.active, run.iteration, run.error) == ("running", True, 3, None)
    assert run.so_far.iteration == 3 and len(run.so_far.frontier) and "running, 3 of 8 iterations" in repr(run)
    assert run.wait(timeout=0.0) is run and run.active
    gate.open()
    assert run.wait() is run and (run.status, run.active) == ("done", False)
    same(run.history, whole.history)
    assert run.frontier.prompts == whole.frontier.prompts


def test_a_new_run_returns_at_once_too(gpt2, whole):
    run = dream(gpt2.bridge, wait=False)
    assert run.status in ("ready", "running", "done")
    same(run.history, whole.history)  # reading waits
    assert run.status == "done"


def test_a_pause_stands_still_and_is_ended(gpt2, whole):
    run = paused(gpt2.bridge)
    before = run.so_far
    assert run.active and run.status == "paused"
    assert run.ask(lambda: run.so_far).result(PATIENCE) is before and before.iteration == 3
    assert run.resume() is run and run.resume() is run and run.wait().finished
    same(run.history, whole.history)


def test_going_on_after_a_pause_may_wait(gpt2, whole):
    assert paused(gpt2.bridge).resume(wait=True).status == "done"


def test_a_listener_may_pause_and_another_thread_goes_on(gpt2, whole):
    run = begun(gpt2.bridge, lambda run: run.pause() if run.iteration in (2, 5) else None, lambda run: run.resume())
    same(run.history, whole.history)


def test_a_stop_ends_it_after_the_step_in_progress(gpt2, whole):
    run, gate = held(gpt2.bridge)
    assert run.stop() is run and run.active
    gate.open()
    assert run.wait().iteration == 3 and run.status == "stopped" and not run.finished
    same(run.resume(progress=False).history, whole.history)
    assert run.status == "done"


@pytest.mark.parametrize("calls", [["stop", "pause"], ["pause", "stop"], ["pause", "stop", "resume"]])
def test_a_stop_is_not_taken_back(gpt2, whole, calls):
    run, gate = held(gpt2.bridge)
    for call in calls[:2]:
        getattr(run, call)()
    gate.open()
    if len(calls) == 3:  # which waits for the end, and goes on from there
        run.resume(wait=False, progress=False)
        assert run.wait().finished
    else:
        assert (run.wait().iteration, run.status) == (3, "stopped")
        run.pause().stop()  # of one that has ended, nothing comes
        assert run.status == "stopped"
    same(run.resume(progress=False).history, whole.history)


def test_a_paused_run_stops(gpt2, whole):
    run = paused(gpt2.bridge)
    assert run.stop().wait().status == "stopped" and run.iteration == 3
    same(run.resume(progress=False, wait=False).wait().history, whole.history)


def test_more_iterations_are_for_a_run_that_has_ended(gpt2):
    run, gate = held(gpt2.bridge)
    with pytest.raises(SettingsError, match=r"The run is still running, at iteration 3\. .* wait\(\) for the end"):
        run.resume(5)
    with pytest.raises(SettingsError, match="still"):
        run.resume(save_to="somewhere")
    gate.open()
    assert run.wait().resume(2, progress=False).iteration == 10


def test_of_two_threads_that_go_on_with_a_run_one_does(gpt2, whole, monkeypatch):
    run, both, found = dream(gpt2.bridge, iterations=3), threading.Barrier(2), []
    go_until = Dream.go_until
    monkeypatch.setattr(Dream, "go_until", lambda run, until: (go_until(run, until), both.wait(PATIENCE)))

    def go_on() -> None:
        try:
            found.append(run.resume(5, wait=False, progress=False))
        except SettingsError as error:
            found.append(error)

    threads = [threading.Thread(target=go_on) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    same(run.wait().history, whole.history)
    assert sorted(type(one).__name__ for one in found) == ["Dream", "SettingsError"]


def test_nothing_is_lost_when_many_threads_ask_pause_and_go_on(gpt2, whole):
    run = begun(gpt2.bridge)
    answers: list[int] = []

    def disturb(number: int) -> None:
        for i in range(30):
            run.pause()
            answers.append(run.ask(lambda i=i: 100 * number + i).result(PATIENCE))
            run.resume() if run.active and run.status != "done" else None

    threads = [threading.Thread(target=disturb, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if run.active:
        run.resume()
    same(run.wait().history, whole.history)
    assert sorted(answers) == [100 * n + i for n in range(3) for i in range(30)]


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
    cancelled = run.ask(lambda: pytest.fail("nobody wants to know"))
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


# Listening.


def test_listeners_hear_every_step_and_every_change(gpt2):
    heard: list[Any] = []
    begun(gpt2.bridge, lambda run: heard.append((run.status, run.iteration))).wait()
    steps = [("running", i) for i in range(9)]
    assert heard == [*steps, ("done", 8)]


@pytest.mark.parametrize("error", [ValueError("no screen"), SystemExit(3)])
def test_a_listener_that_fails_is_logged_and_dropped(gpt2, whole, caplog, error):
    calls = []

    def fails(run: Any) -> None:
        calls.append(run.iteration)
        if run.iteration == 2:
            raise error

    with caplog.at_level(logging.ERROR, "dreamy_lens"):
        same(begun(gpt2.bridge, fails).wait().history, whole.history)
    assert calls == [0, 1, 2] and caplog.text.count("is not called again") == 1


@pytest.mark.parametrize("where", ["ready", "running", "done"])
def test_a_listener_that_fails_at_any_change_of_status(gpt2, whole, where):
    def fails(run: Any) -> None:
        if run.status == where or run.iteration == 0:
            raise ValueError

    same(begun(gpt2.bridge, fails).wait().history, whole.history)


def test_a_listener_leaves_while_it_is_called(gpt2):
    calls: list[int] = []
    run = dream(gpt2.bridge, iterations=0)
    leave = run.listen(lambda run: (calls.append(run.iteration), run.iteration == 2 and leave()), every=0.0)
    run.resume(4, wait=False, progress=False).wait()
    assert calls == [0, 1, 2]


def test_going_on_keeps_those_who_listen(gpt2):
    seen: list[int] = []
    run = begun(gpt2.bridge, lambda run: seen.append(run.iteration)).wait()
    run.resume(2, progress=False)
    run.resume(1, wait=False, progress=False).wait()
    assert sorted(set(seen)) == list(range(12))


def test_few_are_told_of_every_step(gpt2):
    heard: list[str] = []
    run = dream(gpt2.bridge, iterations=0)
    run.listen(lambda run: heard.append(run.status), every=1e9)
    run.resume(8, wait=False, progress=False).wait()
    assert heard == ["running", "done"]


# Ways out.


def _broken(after: int) -> Any:
    calls: list[None] = []

    def breaks(a: Any) -> Any:
        calls.append(None)
        if len(calls) > after:
            raise ArithmeticError("it broke")
        return a[POINT][:, -1, 3]

    return dl.custom("breaks", [POINT], breaks)


@pytest.mark.parametrize("when", ["at once", "on the way"])
def test_an_error_is_kept_until_somebody_waits(gpt2, tmp_path, when, monkeypatch):
    run = dream(gpt2.bridge, _broken(10**9), iterations=0)
    take = Dream.take

    def taken(run: Any, step: Any) -> None:
        if when == "at once" or step.iteration == 3:
            raise ArithmeticError("it broke")
        take(run, step)

    monkeypatch.setattr(Dream, "take", taken)
    run.resume(8, wait=False, progress=False, save_to=tmp_path / "run")
    with pytest.raises(ArithmeticError, match="it broke") as caught:
        run.wait()
    assert caught.value is run.error and caught.value.run is run  # type: ignore[attr-defined]
    assert (run.status, run.iteration) == ("failed", 0 if when == "at once" else 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run.history.iterations == run.iteration  # told already
    assert (tmp_path / "run").exists() is (when == "on the way")
    monkeypatch.undo()
    same(run.resume(progress=False).history, dream(gpt2.bridge, _broken(10**9)).history)
    assert run.error is None and run.status == "done"


def test_a_run_whose_very_first_scoring_fails(gpt2, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "score", lambda self, ids: 1 / 0)
        run = dream(gpt2.bridge, wait=False)
        with pytest.warns(RuntimeWarning, match=r"The run failed \(ZeroDivisionError: .*\), so these are its results"):
            assert len(run.frontier) == 0
        with pytest.raises(ZeroDivisionError):
            run.wait()
        assert not len(run.so_far.history) and (run.status, run.iteration) == ("failed", 0)
    assert run.resume(progress=False).finished


def test_an_error_keeps_no_tensors(gpt2, monkeypatch):
    kept: list[Any] = []
    run = dream(gpt2.bridge, iterations=1)

    def fails(self: Any, step: Any) -> None:
        large = torch.zeros(10)
        kept.append(weakref.ref(large))
        raise ArithmeticError("out of memory, say")

    monkeypatch.setattr(Dream, "take", fails)
    run.resume(1, wait=False, progress=False)
    with pytest.raises(ArithmeticError):
        run.wait()
    assert kept[0]() is None


@posix
@pytest.mark.parametrize("read", ["wait", "history"])
def test_an_interrupt_while_somebody_waits_stops_it_and_keeps_everything(gpt2, whole, capsys, read):
    run, gate = held(gpt2.bridge)
    with Press(run, gate.open):
        found = getattr(run, read)
        found() if read == "wait" else None
    assert (run.status, run.iteration, run.worker.interrupted) == ("stopped", 3, True)
    assert capsys.readouterr().err == "Interrupted. Everything found so far is kept; .resume() continues.\n"
    assert len(run.frontier) and run.history.iterations == 3
    same(run.resume(progress=False).history, whole.history)


@posix
def test_an_interrupt_while_an_answer_is_awaited_is_passed_on_and_the_run_goes_on(gpt2, whole):
    run, gate = held(gpt2.bridge)
    ask, asked = run.worker.ask, threading.Event()
    run.worker.ask = lambda *given: (ask(*given), asked.set())[0]
    presser = threading.Thread(target=lambda: (asked.wait(PATIENCE), os.kill(os.getpid(), signal.SIGINT)))
    with pytest.raises(KeyboardInterrupt):
        presser.start()
        run.attribution(whole.frontier[0])
    presser.join()
    gate.open()
    same(run.history, whole.history)


def test_an_interrupt_of_a_listener_or_an_answer_ends_a_run_in_this_thread(gpt2, whole, capsys):
    def pressed(run: Any) -> None:
        if run.iteration == 2 and run.status == "running":
            raise KeyboardInterrupt

    run = begun(gpt2.bridge, pressed, wait=True)
    assert (run.status, run.iteration) == ("stopped", 2)
    assert "Interrupted after 2 of 8 iterations. Everything found so far is kept" in capsys.readouterr().err
    same(dream(gpt2.bridge, iterations=2).resume(6, progress=False).history, whole.history)

    run, asked = dream(gpt2.bridge, iterations=0), []

    def interrupted() -> None:
        raise KeyboardInterrupt

    def ask(run: Any) -> None:
        if run.iteration == 2 and not asked:
            thread = threading.Thread(target=lambda: asked.append(run.ask(interrupted)))
            thread.start()
            thread.join()

    run.listen(ask, every=0.0)
    run.resume(8, progress=False, wait=True)
    assert (run.status, run.iteration) == ("stopped", 2)
    assert isinstance(asked[0].exception(PATIENCE), KeyboardInterrupt)
    same(run.resume(progress=False).history, whole.history)


@posix
def test_ctrl_c_at_the_very_end_costs_nothing(gpt2, whole):
    def pressed(run: Any) -> None:
        if run.status == "done":
            os.kill(os.getpid(), signal.SIGINT)

    usual = signal.getsignal(signal.SIGINT)
    run = begun(gpt2.bridge, pressed, wait=True)
    assert run.status == "done" and signal.getsignal(signal.SIGINT) is usual
    same(run.history, whole.history)


def test_the_end_of_the_program_is_passed_on_with_what_was_found(gpt2, tmp_path, monkeypatch):
    take = Dream.take

    def terminated(run: Any, step: Any) -> None:
        take(run, step)
        if step.iteration == 3:
            sys.exit("terminated")

    monkeypatch.setattr(Dream, "take", terminated)
    with pytest.raises(SystemExit, match="terminated"):
        dream(gpt2.bridge, save_to=tmp_path / "run")
    assert dl.load_run(tmp_path / "run").iteration == 3


def test_a_panel_that_cannot_be_shown_does_not_cost_the_run(gpt2, whole, monkeypatch, caplog):
    def show(run: Any) -> None:
        raise ImportError("no widgets here")

    monkeypatch.setattr("dreamy_lens.panels.cells.show", show)
    run = dream(gpt2.bridge, wait=False, progress=True)
    same(run.history, whole.history)
    assert "cannot be shown" in caplog.text and "no widgets here" in caplog.text


_SCRIPT = """
import dreamy_lens as dl
run = dl.dream("L2.N17", iterations=10**6, population=2, children=8, length=6, wait=False, progress=False)
import threading
there = threading.Event()
run.listen(lambda run: there.set() if run.iteration > 2 else None, every=0.0)
assert there.wait(60)
{last}
print(run.status)
"""


@pytest.mark.parametrize(
    "last",
    [
        "",
        pytest.param("run.ask(lambda: run.pause()).result()", marks=pytest.mark.slow),
        pytest.param("run.stop().wait(); run.ask(run.so_far.frontier[0].attribution)", marks=pytest.mark.slow),
    ],
)
def test_a_program_that_ends_meanwhile_ends_well(last):
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT.format(last=last)], capture_output=True, text=True, timeout=PATIENCE * 2
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() in ("running", "paused", "stopped")


_UNFINISHED = """
import logging
logging.getLogger("dreamy_lens.progress").setLevel("WARNING")  # says that the model is being loaded
import dreamy_lens as dl
from dreamy_lens.models import as_hooked
model = dl.load_model()
settings = dict(iterations=1, population=2, children=4, length=6, progress=False)
one, two = dl.dream("L2.N17", model, **settings), dl.dream(["L1.N3", "L1.N4"], model, **settings)
kept = [one.steps(5), one.session.steps(5, None, one.history), two.steps(5), as_hooked(model).keep_hooks()]
print([next(steps, None) is not None for steps in kept[:3]], kept[3].__enter__())
"""


@pytest.mark.slow
def test_a_program_that_ends_with_unfinished_searches_says_nothing():
    """Python ends generators when the globals of modules are gone already."""
    done = subprocess.run([sys.executable, "-c", _UNFINISHED], capture_output=True, text=True, timeout=PATIENCE * 2)
    assert (done.returncode, done.stderr, done.stdout.strip()) == (0, "", "[True, True, True] None")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked there")
def test_a_forked_process_has_what_was_found(gpt2, whole):
    run, gate = held(gpt2.bridge)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some versions of Python warn of every fork beside a thread
        child = os.fork()
    if not child:
        good = False
        try:
            good = run.status == "stopped" and run.history.iterations == 3 and len(run.frontier) > 0
            good = good and not run.active and run.wait() is run
            good = good and dl.score("L1.N3", run.frontier[0].ids, gpt2.bridge).value[0] == run.frontier[0].value
        finally:
            os._exit(not good)
    assert os.waitpid(child, 0)[1] == 0
    gate.open()
    same(run.history, whole.history)


def test_a_run_in_the_background_leaves_nothing_behind(gpt2):
    bridge = models.new_bridge("gpt2", gpt2.raw)
    run = begun(bridge, lambda run: None).wait()
    with pytest.raises(ZeroDivisionError):
        run.ask(lambda: 1 / 0).result(PATIENCE)
    assert run.worker.left(PATIENCE) and not [n for n in ("forward", "run_with_cache") if n in bridge.__dict__]
    there = weakref.ref(bridge)
    del run, bridge
    gc.collect()
    assert there() is None


# What else happens in the process.


@pytest.mark.skipif(
    Version(torch.__version__) < Version("2.7"),
    reason="in torch 2.6, get_default_device() fails after set_default_device(None), also in the tests after this one",
)
def test_the_state_of_torch_is_each_thread_s_own(gpt2, whole):
    run, gate = held(gpt2.bridge)
    usual = torch.get_default_device()
    try:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            torch.set_grad_enabled(False)
            torch.set_default_device("meta")
            gate.open()
            run.wait()
    finally:
        torch.set_grad_enabled(True)
        torch.set_default_device(None if usual.type == "cpu" else usual)
    same(run.history, whole.history)
    with torch.no_grad():
        same(dream(gpt2.bridge, wait=False).history, whole.history)
    run = dream(gpt2.bridge, iterations=0)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        same(run.resume(8, wait=False, progress=False).history, whole.history)


def test_two_runs_on_one_model_are_what_they_are_alone(gpt2, whole):
    other = dream(gpt2.bridge, "log_prob(' the')", seed=1)
    for _ in range(3):
        both = threading.Barrier(2)

        def meet(run: Any, both: threading.Barrier = both) -> None:
            if run.iteration == 0:
                both.wait(PATIENCE)

        runs = [dream(gpt2.bridge, iterations=0), dream(gpt2.bridge, "log_prob(' the')", seed=1, iterations=0)]
        for run in runs:
            run.listen(meet, every=1e9)
            run.resume(8, wait=False, progress=False)
        same(runs[0].wait().history, whole.history)
        same(runs[1].wait().history, other.history)


def test_the_hooks_of_another_thread_s_pass_are_nobody_s_own(gpt2, monkeypatch):
    """Where somebody hooked a model, gradients are computed another way, with other last digits."""
    scorer = make_scorer("L1.N3", gpt2.bridge)
    ids, point = np.array([[5, 6, 7, 8]]), gpt2.bridge.hook_dict[POINT]
    inside, comes, saw = threading.Event(), threading.Event(), []
    lock, is_hooked = HookedModel.lock, HookedModel.is_hooked

    def taken(model: Any) -> Any:
        comes.set()
        return lock.fget(model)

    def looked(model: Any) -> bool:
        saw.append(is_hooked.fget(model))
        return saw[-1]

    def a_pass() -> None:
        with lock.fget(scorer.model):
            handle = point.register_forward_hook(lambda *a: None)
            inside.set()
            assert comes.wait(PATIENCE)
            handle.remove()

    thread = threading.Thread(target=a_pass)
    thread.start()
    assert inside.wait(PATIENCE)
    monkeypatch.setattr(HookedModel, "lock", property(taken))
    monkeypatch.setattr(HookedModel, "is_hooked", property(looked))
    scorer.gradient(ids)
    thread.join()
    assert saw and not any(saw)


def test_the_model_can_be_called_meanwhile(gpt2, whole):
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        plain, cache = gpt2.bridge.run_with_cache(ids)
        run, gate = held(gpt2.bridge, 0)
        gate.open()
        calls = 0
        while run.active or not calls:
            assert torch.allclose(gpt2.bridge(ids), plain, atol=1e-5)
            found = gpt2.bridge.run_with_cache(ids)[1]
            assert found[POINT].shape == cache[POINT].shape and torch.allclose(found[POINT], cache[POINT], atol=1e-5)
            seen: list[Any] = []
            gpt2.bridge.run_with_hooks(ids, fwd_hooks=[(POINT, lambda a, hook=None, seen=seen: seen.append(a))])
            assert [a.shape for a in seen] == [cache[POINT].shape]
            calls += 1
    same(run.history, whole.history)


def test_a_copy_of_the_model_made_meanwhile_is_one_of_its_own(gpt2, whole):
    ids = torch.tensor([[5, 6, 7, 8]])
    run, gate = held(gpt2.bridge)
    again = copy.deepcopy(gpt2.bridge)
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.zero_()
        assert not torch.allclose(again(ids), gpt2.bridge(ids)) and not again(ids).any()
    gate.open()
    same(run.history, whole.history)


def test_a_warning_in_the_background_is_a_warning(gpt2):
    def warns(a: Any) -> Any:
        warnings.warn("take care", UserWarning, stacklevel=1)
        return a[POINT][:, -1, 3]

    feature = dl.custom("warns", [POINT], warns)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = dream(gpt2.bridge, feature)
    with pytest.warns(UserWarning, match="take care"):
        run = dream(gpt2.bridge, feature, wait=False).wait()
    same(run.history, expected.history)


# In a script, and in a notebook.


def test_a_script_waits_with_a_bar(gpt2, capsys):
    run = dream(gpt2.bridge, progress=True)
    assert run.status == "done" and not run.active
    text = capsys.readouterr().err
    best, last = run.frontier.best(), text.rsplit("\r", 1)[-1]
    assert "8/8" in last and f"best value {best.value:.3g} at cross-entropy {best.cross_entropy:.2f}" in last
    assert f"frontier {len(run.frontier)}, hypervolume {run.hypervolume:.4g}" in last
    dream(gpt2.bridge, iterations=1)
    assert capsys.readouterr().err == ""


def _python(monkeypatch: pytest.MonkeyPatch, shell: Any, marimo: bool | None = None) -> None:
    """A process with that IPython shell, and marimo loaded: in a notebook, or not, or not at all."""
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))  # type: ignore[arg-type]
    if marimo is None:
        monkeypatch.delitem(sys.modules, "marimo", raising=False)
    else:
        there = types.SimpleNamespace(running_in_notebook=lambda: marimo)
        monkeypatch.setitem(sys.modules, "marimo", there)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shell", "marimo", "notebook", "kernel"),
    [
        (types.SimpleNamespace(kernel=object()), None, True, True),
        (types.SimpleNamespace(), None, False, False),  # IPython in a terminal
        (None, None, False, False),
        (None, True, True, False),
        (None, False, False, False),
        (types.SimpleNamespace(kernel=object()), False, True, True),
    ],
)
def test_a_notebook_is_known_by_its_kernel(monkeypatch, shell, marimo, notebook, kernel):
    _python(monkeypatch, shell, marimo)
    assert (_host.is_notebook(), _host.in_kernel()) == (notebook, kernel)


def test_no_notebook_where_nothing_of_it_is_loaded(monkeypatch):
    for name in ("IPython", "marimo"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert not _host.is_notebook()


def test_in_a_notebook_it_returns_at_once(gpt2, whole, monkeypatch):
    _python(monkeypatch, types.SimpleNamespace(kernel=object()))
    run = dream(gpt2.bridge)
    assert run.worker._in_own_thread
    same(run.history, whole.history)
    gate = Gate(9)
    run.listen(gate, every=0.0)
    run.resume(2, progress=False)
    gate.wait()
    assert run.active
    gate.open()
    ended = until_status(run, "done")
    assert run.wait().iteration == 10 and ended.wait(PATIENCE)
