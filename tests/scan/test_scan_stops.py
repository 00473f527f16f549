"""A scan that was stopped, killed or beside another one goes on as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import dreamy_lens as dl
from dreamy_lens.scan import Checkpoint, Examples, Scan, ScanConfig
from dreamy_lens.scan.storage import CHECKPOINT_FILE
from tests.helpers.quick import quick_ones
from tests.helpers.word_corpora import scan, texts


def identical(ours, theirs) -> bool:
    """Return whether two tables are equal to the last bit."""
    first, second = (t.sort_by(t.schema.names[0]).to_pydict() for t in (ours, theirs))
    return repr(first) == repr(second)


def _features(d_model: int = 32) -> list:
    random = np.random.default_rng(3)
    stream = dl.hook("blocks.1.hook_resid_post")
    return [
        dl.neuron(1, 3),
        dl.logit(9),
        dl.hook("blocks.0.mlp.hook_post")[..., 5].max(),
        *(stream[-1].standardised() @ random.normal(size=d_model).astype(np.float32) for _ in range(2)),
        dl.logit_difference(7),
        dl.hook("blocks.0.attn.hook_pattern")[1, -1, 0],
        dl.neuron(1, 4),
        dl.hook("blocks.0.mlp.hook_post")[2, 1] * dl.neuron(0, 2),
    ]


@pytest.mark.parametrize("at", quick_ones([1, 3, 7], [3]))
def test_stopping_anywhere_and_going_on_is_never_having_stopped(neox, small_blocks, tmp_path, at):
    one = Scan(_features(), neox.bridge, texts(20), ScanConfig(k=4, length=6, sample=30, batch_size=4))
    straight = one.run(out=tmp_path / "straight", progress=False)
    scanner, calls = one.scanner(), 0
    state = scanner.new_checkpoint()

    def after(progress, block):
        nonlocal calls
        calls += 1
        return calls % at == 0

    done, rounds = False, 0
    while not done:
        done = scanner.run(state, after=after)
        rounds += 1
        state.save(tmp_path / "state", one.identity)
        scanner, state = one.scanner(), Checkpoint.load(tmp_path / "state", one.identity)
    assert rounds > 1
    pieces = one.build_examples(scanner, state, None)
    for name in ("kept", "windows", "features"):
        assert identical(getattr(pieces.tables, name), getattr(straight.tables, name)), name


CHILD = """
import sys, time
import dreamy_lens as dl
from tests.helpers import models
from dreamy_lens.corpus import corpus
from dreamy_lens.scan import scan, scanner
scan.SAVE_SECONDS, corpus.BLOCK = 0.0, 800
from tests.helpers.word_corpora import texts
family = models.family("neox")
if "slow" in sys.argv:  # so that there is time to be killed in
    usual = scanner.Scanner._count
    scanner.Scanner._count = lambda *a: (time.sleep(0.2), usual(*a), time.sleep(0.2))[1]
print("ready", flush=True)
dl.max_activating(dl.neurons(1), family.bridge, texts(40), k=4, length=6, out=sys.argv[1], batch_size=8, progress=False)
"""


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_and_counts_nothing_twice(neox, tmp_path):
    folder, script = tmp_path / "scan", tmp_path / "child.py"
    script.write_text(CHILD)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    states = []
    for wait in (0.6, 1.1):
        command = [sys.executable, str(script), str(folder), "slow"]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
        assert child.stdout is not None and child.stdout.readline() == b"ready\n"
        seen = len(states)
        deadline = time.monotonic() + 60
        while not (folder / CHECKPOINT_FILE).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(wait)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        states.append((folder / CHECKPOINT_FILE).stat().st_size)
        assert len(states) == seen + 1 and not (folder / "examples.json").exists()
    subprocess.run([sys.executable, str(script), str(folder)], check=True, env=environment, stdout=subprocess.DEVNULL)
    assert not (folder / CHECKPOINT_FILE).exists()
    killed = Examples.load(folder)
    from dreamy_lens.corpus import corpus as corpora

    former, corpora.BLOCK = corpora.BLOCK, 800
    try:
        straight = scan(dl.neurons(1), neox, texts(40), batch_size=8, cache=False)
    finally:
        corpora.BLOCK = former
    assert killed.header["counts"] == straight.header["counts"]
    for name in ("kept", "windows"):
        assert getattr(killed.tables, name).equals(getattr(straight.tables, name)), name


def test_an_interrupt_gives_what_was_found_and_the_next_call_goes_on(neox, small_blocks, tmp_path, monkeypatch, capsys):
    from dreamy_lens.scan import scanner

    calls, usual = 0, scanner.Scanner._count

    def interrupting(*arguments):
        nonlocal calls
        calls += 1
        if calls == 3:
            signal.raise_signal(signal.SIGINT)  # in the middle of counting
        usual(*arguments)

    monkeypatch.setattr(scanner.Scanner, "_count", interrupting)
    settings = {"out": tmp_path / "out", "batch_size": 4}
    part = scan(dl.neurons(1), neox, texts(20), **settings)
    assert not part.header["complete"] and "call again" in capsys.readouterr().err
    assert 0 < part.header["counts"]["windows"] < 200 and len(part.of("L1.N3").top) == 4
    monkeypatch.setattr(scanner.Scanner, "_count", usual)
    whole = scan(dl.neurons(1), neox, texts(20), **settings)
    assert whole.header["complete"]
    straight = scan(dl.neurons(1), neox, texts(20), cache=False, batch_size=4)
    assert whole.tables.kept.equals(straight.tables.kept) and whole.header["counts"] == straight.header["counts"]
