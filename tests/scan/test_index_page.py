"""Test the index of a scan: its statistics against all values, its folder, and what it does with folders that exist."""

from __future__ import annotations

import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dreamy_lens as dl
from dreamy_lens import _files
from dreamy_lens.errors import FileWriteError
from dreamy_lens.scan import Examples, index_page
from tests.helpers import models
from tests.helpers.scans import one, scanned
from tests.scan.test_distribution import SHAPES, made

HOSTILE = "</td><script>alert(1)</script>"
LABELS = tuple(f"blocks.2.mlp.hook_post[-1, {i}]" for i in range(5))


def raw_shape(values: np.ndarray) -> tuple[float, float, float]:
    """Share above 0, skewness and excess kurtosis of all values, by definition."""
    centred = values.astype(np.float64) - values.mean(dtype=np.float64)
    second = (centred**2).mean()
    return (
        float((values > 0).mean()),
        float((centred**3).mean() / second**1.5),
        float((centred**4).mean() / second**2 - 3),
    )


@pytest.fixture(scope="module")
def examples() -> Examples:
    rng = np.random.default_rng(0)
    values = np.where(rng.random(300) < 0.1, rng.exponential(2, 300), 0)
    return scanned(values, rng.uniform(1, 9, 300), labels=LABELS, pieces=(HOSTILE, "\u202eb", " c"))


class Cells(HTMLParser):
    """Texts of the cells of a table, with the tags that HTML lets out."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
        self.links += [dict(attrs).get("href", "")] if tag == "a" else []

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "all the same"])
def test_the_shape_agrees_with_all_values(name: str):
    rng = np.random.default_rng(3)
    values = SHAPES[name](rng).astype(np.float32)
    shape, (active, skewness, kurtosis) = made(values, rng).shape, raw_shape(values)
    assert shape.active == pytest.approx(active, abs=0.03)
    # A narrow distribution far from zero is in one or two bins, so the sample of 1,000 windows decides.
    by_sample = name == "far from zero"
    assert shape.skewness == pytest.approx(skewness, rel=0.05, abs=0.25 if by_sample else 0.05)
    assert shape.kurtosis == pytest.approx(kurtosis, rel=0.05, abs=0.5 if by_sample else 0.1)


def test_the_shape_of_a_real_scan_agrees_with_its_activations():
    model, texts = (
        models.family("gpt2").bridge,
        [" ".join(f"word{(i * j) % 17} is {j}" for j in range(60)) for i in range(9)],
    )
    found = dl.max_activating("blocks.1.mlp.hook_post[-1, 3]", model, texts, k=4, length=6, cache=False, progress=False)
    feature = found.of(0)
    windows = feature.sampled  # the sample holds every window of so small a corpus
    assert len(windows) == feature.windows
    values = np.array(dl.score(feature.label, np.array([w.ids for w in windows]), model).value)
    assert tuple(vars(feature.shape).values()) == pytest.approx(raw_shape(values), rel=1e-3, abs=1e-3)


def test_what_the_histogram_cannot_know_is_not_claimed():
    values = np.where(np.arange(400) % 4 == 0, 1.0 + np.arange(400) / 400, 0.0)
    shape = one(values, np.full(400, 3.0), k=4, sample=[]).shape
    assert np.isnan(shape.active)  # the lowest bin holds zeros and small values
    assert shape.kurtosis == pytest.approx(raw_shape(values)[2], abs=0.2)
    assert np.isnan(one([2.5] * 50, [3.0] * 50).shape.skewness)
    assert np.isnan(one([], []).shape.active)


def test_the_index_is_a_table_that_needs_no_script(examples: Examples, tmp_path: Path):
    page = examples.to_html(tmp_path / "layer2")
    cells = Cells(page)
    head, *rows = cells.rows
    assert head == ["feature", "max", "above 0", "skew", "kurtosis", "values", "strongest window"]
    assert [row[0] for row in rows] == [f"L2.N{i}" for i in range(5)]
    first = examples.of(0)
    shape = first.shape
    assert rows[0][1] == f"{first.maximum:.4g}" and rows[0][2] == f"{100 * shape.active:.3g} %"
    assert rows[0][4] == f"{shape.kurtosis:.4g}".replace("-", "−")
    assert cells.tags.count("svg") == 5 and cells.links == [f"features/{i}.html" for i in range(5)]
    assert page == (tmp_path / "layer2" / "index.html").read_text("utf-8")
    for link in cells.links:
        card = (tmp_path / "layer2" / link).read_text("utf-8")
        assert all((tmp_path / "layer2" / "features" / other).resolve().is_file() for other in Cells(card).links)
        assert "//" not in card and "<script" not in card


def test_pages_of_features_have_their_windows_and_neighbours(examples: Examples, tmp_path: Path):
    examples.to_html(f"{tmp_path}/layer2/")
    card = (tmp_path / "layer2" / "features" / "2.html").read_text("utf-8")
    assert Cells(card).links == ["../index.html", "1.html", "3.html"]
    for text in ("L2.N1", "L2.N3", "Skewness", "tokens from one to the next", "quantiles", "docstrings"):
        assert text in card
    assert card.count("<article") >= 4 and 'href="../style.css"' in card
    assert {p.name for p in (tmp_path / "layer2").iterdir()} == {"index.html", "style.css", "features"}
    assert ".dl-index" in (tmp_path / "layer2" / "style.css").read_text("utf-8")


def test_long_windows_leave_room_for_fewer(tmp_path: Path):
    rng = np.random.default_rng(1)
    scanned(rng.normal(size=200), rng.uniform(1, 9, 200), k=64, length=40).to_html(tmp_path / "out")
    card = (tmp_path / "out" / "features" / "0.html").read_bytes()
    assert len(card) <= index_page.PAGE_BYTES and card.count(b"<article") >= 1


def test_tokens_are_no_markup(tmp_path: Path):
    pieces = tuple(f"{HOSTILE}\n{i}" for i in range(60))
    page = scanned(np.arange(50) + 1.0, np.full(50, 2.0), labels=LABELS[:2], pieces=pieces).to_html(tmp_path / "out")
    assert "alert(1)</script>" not in page.replace(re.findall("<script>.*?</script>", page, re.S)[1], "")
    assert "alert(1)" in "".join(Cells(page).rows[1])
    assert "<script" not in (tmp_path / "out" / "features" / "0.html").read_text("utf-8")


def test_a_file_gets_the_table_alone(examples: Examples, tmp_path: Path):
    page = examples.to_html(tmp_path / "layer2.html")
    assert page == (tmp_path / "layer2.html").read_text("utf-8") == examples.to_html()
    assert Cells(page).links == [] and "<style>" in page and not (tmp_path / "features").exists()
    with pytest.raises(FileWriteError, match=r"stands for a table.*a folder with a page for each"):
        examples.to_html(tmp_path / "layer2.csv")
    with pytest.raises(FileWriteError, match="one file; leave the last / out"):
        examples.of(0).to_html(f"{tmp_path}/new/")


def test_an_index_is_replaced_only_on_request_and_nothing_else_ever(
    examples: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "layer2"
    folder.mkdir()  # an empty folder is taken
    examples.to_html(folder)
    monkeypatch.setattr(index_page, "each_feature", lambda *_: pytest.fail("work before the check"))
    with pytest.raises(FileWriteError, match="holds an index already"):
        examples.to_html(folder)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(FileWriteError, match=r"not the folder of an index \(it contains notes.txt\)"):
        examples.to_html(folder, overwrite=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "index.html").write_text("a site of the user")
    with pytest.raises(FileWriteError, match="not the folder of an index"):
        examples.to_html(tmp_path / "other", overwrite=True)
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileWriteError, match="A part of the path is a file"):
        examples.to_html(tmp_path / "file" / "layer2")
    monkeypatch.undo()
    (folder / "notes.txt").unlink()
    (folder / "features" / "99.html").write_text("of an older scan")
    examples.to_html(folder, overwrite=True)
    assert len(list((folder / "features").iterdir())) == 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "layer2", "other"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_write_that_fails_leaves_what_was_there(
    examples: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
):
    folder, before = tmp_path / "layer2", None
    if overwrite:
        before = examples.to_html(folder)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, os.strerror(28))

    for module, name in ((_files, "sync_folder"), *[(os, "rename")] * overwrite):
        with monkeypatch.context() as patch:
            calls: list[int] = []
            real = getattr(module, name)

            def second(*args: Any, real: Any = real, calls: list[int] = calls) -> Any:
                calls.append(1)
                return full() if len(calls) == 2 else real(*args)  # the old folder is aside by then

            patch.setattr(module, name, second if name == "rename" else full)
            with pytest.raises(FileWriteError, match=r"The index cannot be written .* No space left"):
                examples.to_html(folder, overwrite=overwrite)
        assert (folder / "index.html").read_text("utf-8") == before if overwrite else not folder.exists()
        assert [p.name for p in tmp_path.iterdir()] == ["layer2"] * overwrite


def test_only_some_features_are_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    examples = scanned(np.arange(40.0), np.full(40, 3.0), labels=LABELS)
    monkeypatch.setattr(index_page, "_AT_ONCE", 2)
    reader = examples.reader
    sizes = [len(one._tables.parts["features"]) for one in index_page.each_feature(examples.tables, reader)]
    assert sizes == [2, 2, 2, 2, 1]
    monkeypatch.undo()
    assert [one.label for one in index_page.each_feature(examples.tables, reader)] == list(LABELS)
