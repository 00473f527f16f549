"""Listeners of a run hear its steps and changes, and may fail or leave."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from tests.helpers.background import begun
from tests.helpers.dreams import dream, same


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
