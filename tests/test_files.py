"""Files for the user: replaced in one step, nothing left of a write that fails, and an error that says what to do."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from dreamy_lens import _files
from dreamy_lens.errors import DreamyLensError, FileWriteError
from dreamy_lens.figures import save
from tests.helpers.fakes import attribution_of, frontier_of


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def full(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_file_is_replaced_in_one_step_and_keeps_its_mode(tmp_path):
    file = tmp_path / "new" / "page.html"
    assert _files.write_text(file, "one \ud800") == file and file.read_text() == "one ?"
    file.chmod(0o640)
    (tmp_path / "link").symlink_to(file)
    assert _files.write_text(tmp_path / "link", "two") == tmp_path / "link"
    assert file.read_text() == "two" and (tmp_path / "link").is_symlink() and names(file.parent) == ["page.html"]
    if os.name == "posix":
        assert file.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("there", [False, True])
def test_a_full_disk_leaves_the_old_page_and_no_other_file(tmp_path, monkeypatch, there):
    page, figure = tmp_path / "page.html", tmp_path / "figure.html"
    for file in (page, figure) if there else ():
        file.write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    attribution = attribution_of((" a", " b"))
    with pytest.raises(FileWriteError, match=r"page.html' cannot be written: No space left on device. Make room"):
        attribution.to_html(page)
    with pytest.raises(FileWriteError, match=r"figure.html' cannot be written: No space left on device. Make room"):
        save(frontier_of((1, 2)).plot(), figure)
    assert names(tmp_path) == (["figure.html", "page.html"] if there else [])
    assert all(file.read_text() == "old" for file in tmp_path.iterdir())


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs the device /dev/full")
def test_a_device_is_written_to_and_not_replaced(capfd):
    with pytest.raises(FileWriteError, match="'/dev/full' cannot be written: No space left on device"):
        _files.write_text("/dev/full", "text")
    assert not os.path.isfile("/dev/full")
    _files.write_text("/dev/stdout", "text")
    assert capfd.readouterr().out.endswith("text")


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("a\0b.html", "null .*Choose another name"),
        ("x" * 300, "File name too long. Choose a shorter name"),
        ("folder", "Is a directory. It is a folder"),
        ("file/page.html", "A part of the path is a file"),
        ("~no_such_user_here/page.html", "Choose another name"),
        ("/proc/x/page.html", "Choose another folder"),
    ],
)
def test_a_path_that_cannot_be_a_file_is_told(tmp_path, monkeypatch, place, words):
    if place.startswith("/proc") and not os.path.isdir("/proc/self"):
        pytest.skip("there is no /proc here")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    for write in (_files.check_file, lambda path: _files.write_text(path, "text")):
        with pytest.raises(FileWriteError, match=f"cannot be written: .*{words}") as caught:
            write(place)
        assert isinstance(caught.value, (DreamyLensError, OSError)) and len(str(caught.value)) < 600
    assert names(tmp_path) == ["file", "folder"]


@pytest.mark.skipif(sys.platform == "win32", reason="names have another limit")
def test_a_name_as_long_as_the_file_system_takes_is_written(tmp_path):
    for name in ("x" * 255, "ü" * 127):
        _files.write_text(tmp_path / name, "text")
        _files.check_file(tmp_path / name)
    assert len(names(tmp_path)) == 2


def test_a_value_is_computed_without_a_cache(tmp_path, monkeypatch):
    for cache in ("/dev/null/x", "~no_such_user_here", "x" * 300):
        monkeypatch.setenv("DREAMY_LENS_CACHE", cache)
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        assert _files.cached_json("test", ["key"], lambda: 7) == 7
    monkeypatch.setenv("DREAMY_LENS_CACHE", str(tmp_path / "cache"))
    assert _files.cached_json("test", ["key"], lambda: 7) == 7
    (file,) = (tmp_path / "cache").iterdir()
    assert _files.cached_json("test", ["key"], lambda: 8) == 7
    data = file.read_bytes()
    for damaged in (data[:-4], data[:12] + b"\xff\xff" + data[14:], b"", b"{}"):
        file.write_bytes(damaged)
        assert _files.cached_json("test", ["key"], lambda: 9) == 9
