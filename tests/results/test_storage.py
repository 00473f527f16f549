"""Runs on disk: what was written comes back, cuts at any moment lose nothing, and damage is told in a sentence."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamy_lens import _files
from dreamy_lens.errors import RunFolderError
from dreamy_lens.results import History, read_folder, write_folder
from tests.helpers.fakes import build, steps

META = {"feature": "L2.N17", "seed": 3, "half": "\ud800", "text": "naïve \u2028 </script>"}
NEWER = {"feature": "L2.N17", "seed": 4}


def arrays(seed: int = 0) -> dict[str, np.ndarray]:
    return build(steps(6, seed=seed)).arrays()


def equal(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(
        np.array_equal(a[k], b[k]) and a[k].dtype == b[k].dtype and a[k].shape == b[k].shape for k in a
    )


def names(path: Path) -> list[str]:
    return sorted(p.name for p in path.iterdir())


@given(st.integers(0, 2**16), st.integers(0, 6), st.integers(1, 4))
def test_a_history_survives_the_folder(tmp_path_factory, seed, iterations, n):
    history = build(steps(iterations, new=4, n=n, seed=seed, vocabulary=9000))
    path = tmp_path_factory.mktemp("runs") / "run"
    write_folder(path, META, history.arrays())
    meta, found = read_folder(path)
    assert meta == META and equal(found, history.arrays())
    assert History.from_arrays(found).restarts == history.restarts


def test_arrays_of_any_shape_and_layout_survive(tmp_path):
    given = {
        "scalar": np.array(2.5),
        "empty": np.zeros((0, 3), np.int32),
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "strided": np.arange(20, dtype=np.float32)[::-2],
        "flags": np.array([True, False]),
    }
    write_folder(tmp_path / "run", {}, given)
    assert equal(read_folder(tmp_path / "run")[1], given)


def test_the_folder_has_two_plain_files_and_nothing_else_is_left(tmp_path):
    write_folder(tmp_path / "deep" / "run", META, arrays())
    assert names(tmp_path / "deep") == ["run"]
    assert names(tmp_path / "deep" / "run") == ["arrays.safetensors", "run.json"]
    head = json.loads((tmp_path / "deep" / "run" / "run.json").read_text("ascii"))
    assert head["format"] == "dreamy_lens run" and head["version"] == 1


def test_an_empty_folder_may_become_a_run(tmp_path):
    (tmp_path / "run").mkdir()
    write_folder(tmp_path / "run", META, arrays())
    assert read_folder(tmp_path / "run")[0] == META


def test_a_run_is_replaced_only_if_asked_and_other_files_in_it_stay(tmp_path):
    path = tmp_path / "run"
    write_folder(path, META, arrays())
    (path / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match=r"holds a run already; .* overwrite=True"):
        write_folder(path, NEWER, arrays(1))
    assert read_folder(path)[0] == META
    for seed in (1, 2, 2):
        write_folder(path, NEWER | {"n": seed}, arrays(seed), overwrite=True)
        meta, found = read_folder(path)
        assert meta == NEWER | {"n": seed} and equal(found, arrays(seed))
    assert names(path) == ["arrays.safetensors", "notes.txt", "run.json"]
    assert (path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_not_a_run_is_never_touched(tmp_path, overwrite):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("x")
    with pytest.raises(RunFolderError, match=r"exists and is not a run folder \(it contains chapter.tex\)"):
        write_folder(tmp_path / "thesis", META, arrays(), overwrite)
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunFolderError, match="exists and is not a run folder but a file"):
        write_folder(tmp_path / "file", META, arrays(), overwrite)
    (tmp_path / "thesis" / "run.json").write_text('{"format": "another program"}')
    with pytest.raises(RunFolderError, match="exists and is not a run folder"):
        write_folder(tmp_path / "thesis", META, arrays(), overwrite)
    assert names(tmp_path) == ["file", "thesis"] and names(tmp_path / "thesis") == ["chapter.tex", "run.json"]


class PowerCut(BaseException):
    """Simulated end of the process, which no `except Exception` catches."""


def cut(monkeypatch: pytest.MonkeyPatch, after: int) -> list[str]:
    """Allow `after` changes of the file system, then raise :class:`PowerCut`; a write is cut in its middle."""
    done: list[str] = []

    def guarded(name, real):
        def change(*args, **kwargs):
            if len(done) >= after:
                if name == "write_synced":
                    Path(args[0]).write_bytes(args[1][: len(args[1]) // 2])
                raise PowerCut
            done.append(name)
            return real(*args, **kwargs)

        return change

    monkeypatch.setattr(_files, "write_synced", guarded("write_synced", _files.write_synced))
    monkeypatch.setattr(os, "replace", guarded("replace", os.replace))
    monkeypatch.setattr(os, "rename", guarded("rename", os.rename))
    monkeypatch.setattr(Path, "unlink", guarded("unlink", Path.unlink))
    monkeypatch.setattr(shutil, "rmtree", guarded("rmtree", shutil.rmtree))
    return done


def test_cut_off_anywhere_a_folder_being_replaced_is_the_old_run_or_the_new(tmp_path, monkeypatch):
    outcomes, after = [], 0
    while True:
        path = tmp_path / f"run{after}"
        write_folder(path, META, arrays(0))
        with monkeypatch.context() as patch:
            cut(patch, after)
            try:
                write_folder(path, NEWER, arrays(1), overwrite=True)
                finished = True
            except PowerCut:
                finished = False
        meta, found = read_folder(path)
        outcomes.append("new" if meta == NEWER else "old")
        assert equal(found, arrays(1 if meta == NEWER else 0))
        write_folder(path, META | {"again": True}, arrays(2), overwrite=True)
        meta, found = read_folder(path)
        assert meta == META | {"again": True} and equal(found, arrays(2))
        if finished:
            break
        after += 1
    assert outcomes[0] == "old" and outcomes[-1] == "new" and len(outcomes) >= 4
    assert outcomes == sorted(outcomes, reverse=True)  # once the new run is there, it stays


def test_cut_off_anywhere_a_new_folder_is_whole_or_not_there(tmp_path, monkeypatch):
    outcomes, after = [], 0
    while True:
        path = tmp_path / f"new{after}" / "run"
        with monkeypatch.context() as patch:
            cut(patch, after)
            try:
                write_folder(path, META, arrays())
                finished = True
            except PowerCut:
                finished = False
        outcomes.append(path.exists())
        if path.exists():
            assert read_folder(path)[0] == META
        if finished:
            break
        write_folder(path, META, arrays(), overwrite=True)  # what was left behind is not in the way
        assert read_folder(path)[0] == META
        after += 1
    assert outcomes[0] is False and outcomes[-1] is True and len(outcomes) >= 3
    assert outcomes == sorted(outcomes)  # once the run is there, it stays


def test_an_error_while_writing_leaves_no_litter(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(_files, "write_synced", full)
        with pytest.raises(RunFolderError, match=r"No space left on device\. Make room, or choose"):
            write_folder(tmp_path / "run", META, arrays())
    assert names(tmp_path) == []


def damaged(tmp_path: Path, name: str, change) -> Path:
    path = tmp_path / "run"
    write_folder(path, META, arrays())
    (path / name).write_bytes(change((path / name).read_bytes()))
    return path


def edited(**fields):
    return lambda data: json.dumps(json.loads(data) | fields).encode()


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("arrays.safetensors", lambda d: d[:-7], r"arrays.safetensors is truncated \([\d,]+ bytes, and run.json says"),
        ("arrays.safetensors", lambda d: b"", r"is truncated \(0 bytes"),
        ("arrays.safetensors", lambda d: d[:-1] + bytes([d[-1] ^ 1]), "is altered .*checksum"),
        ("arrays.safetensors", lambda d: d + b"x", r"is altered"),
        ("run.json", lambda d: d[: len(d) // 2], "is not complete JSON: it was truncated or altered"),
        ("run.json", lambda d: b"", "is not complete JSON"),
        ("run.json", lambda d: b"\xff\xfe" + d, "is not complete JSON"),
        ("run.json", lambda d: b"[1, 2]", "is not a dreamy_lens run file: it says nothing about its format"),
        ("run.json", edited(format="a cake recipe"), "it says it is 'a cake recipe'"),
        ("run.json", edited(version=2), r"has format version 2, .* reads up to 1: .*`pip install -U dreamy-lens`"),
        ("run.json", edited(version="1"), "says nothing about its version"),
        ("run.json", edited(arrays=None), "was altered: parts of it are missing"),
        ("run.json", edited(meta=None), "was altered: parts of it are missing"),
    ],
)
def test_damage_is_told_in_a_sentence(tmp_path, name, change, says):
    path = damaged(tmp_path, name, change)
    with pytest.raises(RunFolderError, match=says) as caught:
        read_folder(path)
    assert str(path) in str(caught.value)


def test_a_truncated_history_never_becomes_a_shorter_one(tmp_path):
    path = tmp_path / "run"
    write_folder(path, META, arrays())
    data = (path / "arrays.safetensors").read_bytes()
    for size in range(0, len(data), 97):
        (path / "arrays.safetensors").write_bytes(data[:size])
        with pytest.raises(RunFolderError, match="truncated"):
            read_folder(path)


def test_missing_things_are_named(tmp_path):
    write_folder(tmp_path / "l10n5", META, arrays())
    with pytest.raises(RunFolderError, match=r"There is no folder .*l10n6'\. Runs in .*: l10n5\."):
        read_folder(tmp_path / "l10n6")
    (tmp_path / "l10n5" / "arrays.safetensors").unlink()
    with pytest.raises(RunFolderError, match=r"is damaged: it has no arrays.safetensors"):
        read_folder(tmp_path / "l10n5")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunFolderError, match=r"is not a run folder: it has no run.json \(it is empty\)"):
        read_folder(tmp_path / "empty")
    with pytest.raises(RunFolderError, match="It is a file; a run is a folder"):
        read_folder(tmp_path / "l10n5" / "run.json")


def test_saving_over_a_damaged_run_mends_it(tmp_path):
    path = damaged(tmp_path, "run.json", lambda d: d[:20])
    write_folder(path, NEWER, arrays(1), overwrite=True)
    meta, found = read_folder(path)
    assert meta == NEWER and equal(found, arrays(1))


def test_a_relative_path_and_the_current_folder_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_folder("run", META, arrays())
    monkeypatch.chdir(tmp_path / "run")
    assert read_folder(".")[0] == META
    write_folder(".", NEWER, arrays(), overwrite=True)
    assert read_folder(tmp_path / "run")[0] == NEWER
