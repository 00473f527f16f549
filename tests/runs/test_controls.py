"""A run in the background is paused, goes on, and stops, and none of it changes what it finds."""

from __future__ import annotations

import sys
import threading
import types
from typing import Any

import pytest

from dreamy_lens import _host
from dreamy_lens.errors import SettingsError
from dreamy_lens.runs import Dream
from tests.helpers.background import PATIENCE, Gate, begun, held, paused, until_status
from tests.helpers.dreams import dream, same

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
