"""A question that only looks is answered between two passes of a step; any other waits for the step's end."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import dreamy_lens as dl
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
        from dreamy_lens.runs.worker import RunWorker

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
