"""A question that only looks is answered between two passes of a step; any other waits for the step's end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
import torch

import dreamy_lens as dl
from dreamy_lens.runs import ModelThread
from dreamy_lens.scoring import JointScorer, Scorer

SETTINGS = {"iterations": 3, "population": 2, "children": 4, "length": 5, "top_k": 16, "progress": False}


@pytest.mark.parametrize("several", [False, True], ids=["one run", "side by side"])
@pytest.mark.parametrize(("soon", "order"), [(True, "gradient answer scores"), (False, "gradient scores answer")])
def test_when_it_is_answered(neox, monkeypatch, several, soon, order):
    said: list[str] = []
    asked = threading.Event()
    kind, names = (JointScorer, ("gradients", "scores")) if several else (Scorer, ("gradient", "score"))
    usual = {name: getattr(kind, name) for name in names}

    def gradient(self, *given):
        if not asked.is_set():
            asked.set()
            said.append("gradient")
            question = threading.Thread(target=lambda: run.ask(lambda: said.append("answer"), soon=soon))
            question.start()
            question.join()  # it is queued, and not waited for
        return usual[names[0]](self, *given)

    def scores(self, *given):
        if asked.is_set():
            said.append("scores")
        return usual[names[1]](self, *given)

    monkeypatch.setattr(kind, names[0], gradient)
    monkeypatch.setattr(kind, names[1], scores)
    go = threading.Event()
    seeds = {"seeds": [0, 1]} if several else {"seed": 0}
    with monkeypatch.context() as held:  # the run may not begin before `run` is there
        from dreamy_lens.runs import RunWorker

        work = RunWorker.work
        held.setattr(RunWorker, "work", lambda self: (go.wait(), work(self))[1])
        run = dl.dream(dl.neuron(1, 3), neox.bridge, wait=False, **SETTINGS, **seeds)
        go.set()
        run.wait()
    assert " ".join(said[:3]) == order


def test_questions_in_the_middle_change_nothing(neox):
    feature = dl.neuron(1, 3)
    quiet = dl.dream(feature, neox.bridge, wait=True, **{**SETTINGS, "iterations": 12})
    run = dl.dream(feature, neox.bridge, wait=False, **{**SETTINGS, "iterations": 12})
    scores = []
    while run.status not in ("done", "failed"):
        question = run.ask(lambda: dl.score(feature, np.arange(1, 6), neox.bridge).value[0], soon=True)
        scores.append(question.result(30))
    run.wait()
    assert len(set(np.round(scores, 4).tolist())) == 1
    assert np.array_equal(run.history.ids, quiet.history.ids)
    assert np.array_equal(run.history.value, quiet.history.value)


def test_paused_and_ended_runs_answer_such_questions_too(neox):
    run = dl.dream(dl.neuron(1, 3), neox.bridge, wait=False, **{**SETTINGS, "iterations": 500})
    run.pause()
    assert run.ask(lambda: 7, soon=True).result(30) == 7
    run.resume()
    run.stop().wait()
    assert run.ask(lambda: 8, soon=True).result(30) == 8
    with pytest.raises(ZeroDivisionError):
        run.ask(lambda: 1 / 0, soon=True).result(30)


# A thread without a run.


def test_what_is_asked_runs_in_order_in_one_thread_that_ends_when_nothing_is_left():
    thread, hold, seen = ModelThread(), threading.Event(), []
    thread.ask(lambda: hold.wait(30))
    futures = [thread.ask(lambda i=i: seen.append((i, threading.get_ident()))) for i in range(5)]
    last = thread.defer(lambda: len(seen))
    assert thread.ask(lambda: thread.ask(lambda: "asked from within").result(30)) is not None
    hold.set()
    assert [f.result(30) for f in futures] == [None] * 5 and last.result(30) == 5
    assert [i for i, _ in seen] == list(range(5)) and len({who for _, who in seen}) == 1
    assert seen[0][1] != threading.get_ident() and thread.left(30)
    assert thread.ask(lambda: 7).result(30) == 7  # a new thread


def test_errors_are_raised_to_the_one_that_asked_and_end_nothing():
    thread = ModelThread()
    for error in (ValueError("no"), SystemExit(3), KeyboardInterrupt()):

        def fail(error=error):
            raise error

        with pytest.raises(type(error)):
            thread.ask(fail).result(30)
    assert thread.ask(lambda: 1).result(30) == 1


def test_gradients_are_enabled_and_the_default_device_is_that_of_the_maker():
    with torch.device("meta"):
        there = ModelThread()
    with torch.no_grad():
        here = ModelThread()
        assert here.ask(torch.is_grad_enabled).result(30)
    assert there.ask(lambda: torch.zeros(1).device.type).result(30) == "meta"
    assert here.ask(lambda: torch.zeros(1).device.type).result(30) == "cpu"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_after_a_fork_it_answers_in_the_child_too():
    """The parent's thread is not in the child, and what was asked of it is not answered there."""
    thread, hold = ModelThread(), threading.Event()
    thread.ask(lambda: hold.wait(30))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some versions of Python warn of every fork beside a thread
        child = os.fork()
    if child == 0:
        os._exit(0 if thread.ask(lambda: 5).result(30) == 5 else 1)
    hold.set()
    assert os.waitpid(child, 0)[1] == 0 and thread.ask(lambda: 6).result(30) == 6


def test_the_interpreter_exits_while_something_is_asked():
    source = """
import threading, time
from dreamy_lens.runs.model_thread import ModelThread
thread, begun = ModelThread(), threading.Event()
thread.ask(lambda: (begun.set(), time.sleep(0.5), print("whole", flush=True)))
thread.ask(lambda: print("never", flush=True))
begun.wait()
"""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout.split()) == (0, ["whole"]), done.stderr
