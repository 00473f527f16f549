"""Two processes that write to one folder: they take turns, and the longer run stays."""

from __future__ import annotations

import hashlib
import os

import numpy as np
import pytest

import dreamy_lens as dl
from dreamy_lens import _folder_lock
from dreamy_lens.errors import RunFolderError
from dreamy_lens.results import read_folder, write_folder
from tests.helpers.background import processes
from tests.helpers.dreams import dream, same

WRITER = """
import sys
import numpy as np
from dreamy_lens.errors import RunFolderError
from dreamy_lens.results import read_folder, write_folder
folder, mark = sys.argv[1], int(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for step in range(40):
    write_folder(folder, {"mark": mark, "step": step}, {"x": np.full(2000, 100 * mark + step)}, overwrite=True)
    meta, arrays = read_folder(folder)
    assert (arrays["x"] == 100 * meta["mark"] + meta["step"]).all()
"""


def test_two_writers_of_a_run_folder_never_damage_it(tmp_path):
    processes(WRITER, [str(tmp_path / "run"), "1"], [str(tmp_path / "run"), "2"])
    meta, arrays = read_folder(tmp_path / "run")
    assert meta["step"] == 39 and (arrays["x"] == 100 * meta["mark"] + 39).all()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["arrays.safetensors", "run", "run.json"]


def test_a_slower_writer_never_replaces_a_longer_run(gpt2, tmp_path):
    dream(gpt2.bridge, iterations=2).save(tmp_path / "run")
    slow, fast = (dl.load_run(tmp_path / "run", gpt2.bridge) for _ in range(2))
    fast.resume(6, progress=False, save_to=tmp_path / "run")
    with pytest.warns(RuntimeWarning, match=r"longer continuation of this run, with 8 iterations instead of 3"):
        slow.resume(3, progress=False, save_to=tmp_path / "run")
    assert slow.iteration == 5 and slow.status == "done"
    same(dl.load_run(tmp_path / "run").history, fast.history)
    with pytest.raises(RunFolderError, match=r"with 8 iterations instead of 5, .*overwrite=True"):
        slow.save()
    slow.save(tmp_path / "other")
    slow.resume(4, progress=False, save_to=tmp_path / "run2")
    slow.folder = tmp_path / "run"
    slow.save()  # now it is the longer one
    assert dl.load_run(tmp_path / "run").iteration == 9


def test_another_run_that_was_saved_in_the_folder_meanwhile_stays(gpt2, tmp_path):
    run = dream(gpt2.bridge, iterations=2)
    run.save(tmp_path / "run")
    other = dream(gpt2.bridge, iterations=1, seed=5)
    other.save(tmp_path / "run", overwrite=True)
    with pytest.raises(RunFolderError, match=r"holds another run now, which another process saved there"):
        run.save()
    same(dl.load_run(tmp_path / "run").history, other.history)
    run.save(tmp_path / "run", overwrite=True)
    same(dl.load_run(tmp_path / "run").history, run.history)


def test_a_writer_that_waits_too_long_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMY_LENS_TIMEOUT", "0.1")
    with _folder_lock.lock_folder(tmp_path / "run"):
        with pytest.raises(RunFolderError, match=r"another process has been writing to .*run' for 0.1 seconds"):
            write_folder(tmp_path / "run", {}, {"x": np.zeros(3)})
    write_folder(tmp_path / "run", {}, {"x": np.zeros(3)})


def test_a_folder_whose_file_system_has_no_locks_is_written(tmp_path, monkeypatch):
    import filelock

    def refuse(*_, **__):
        raise OSError("no locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    write_folder(tmp_path / "run", {"a": 1}, {"x": np.zeros(3)})
    assert read_folder(tmp_path / "run")[0] == {"a": 1}


def test_a_save_that_was_cut_off_is_finished_before_the_next_one(tmp_path, monkeypatch):
    for value in (1, 2):
        write_folder(tmp_path / "run", {"a": value}, {"x": np.full(9, value)}, overwrite=True)
    arrays = tmp_path / "run" / "arrays.safetensors"
    digest = hashlib.sha256(arrays.read_bytes()).hexdigest()
    arrays.rename(tmp_path / "run" / f"arrays-{digest[:16]}.safetensors")  # the process ended before it renamed it

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunFolderError, match="No space left"):
        write_folder(tmp_path / "run", {"a": 2}, {"x": np.full(9, 2)}, overwrite=True)
    meta, found = read_folder(tmp_path / "run")
    assert meta == {"a": 2} and (found["x"] == 2).all()
