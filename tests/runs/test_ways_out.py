"""A run in the background ends by an error, an interrupt or the end of the program, and loses nothing."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import warnings
import weakref
from typing import Any

import pytest
import torch

import dreamy_lens as dl
from dreamy_lens.runs import Dream
from dreamy_lens.scoring import Scorer
from tests.helpers import models
from tests.helpers.background import PATIENCE, Press, begun, held
from tests.helpers.dreams import dream, same

POINT = "blocks.1.mlp.hook_post"

posix = pytest.mark.skipif(os.name == "nt", reason="signals are sent otherwise there")


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
