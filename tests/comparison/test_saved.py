"""A comparison that is saved and opened again is the same comparison."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

import dreamy_lens as dl
from dreamy_lens.comparison import Comparison
from dreamy_lens.errors import FileWriteError, RunFolderError

SMALL = {"iterations": 2, "population": 2, "children": 8, "top_k": 16, "length": 4}
TEXTS = ["Return a copy of the array, with axes transposed.", "Raise an error if the \udc80 file is not found."] * 3


@pytest.fixture(scope="module", params=["plain", "whole corpus", "without cross-entropy"])
def comparison(request):
    runs = dl.dream("L2.N17", seeds=2, **SMALL)
    measured = request.param != "without cross-entropy"
    examples = dl.max_activating("L2.N17", corpus=TEXTS, length=4, k=4, cache=False, cross_entropy=measured)
    corpus = TEXTS if request.param == "whole corpus" else None
    return dl.compare(runs, examples, corpus=corpus, limits=[4.0, float("inf")], quantiles=[0.5, 0.99])


def test_everything_is_kept(comparison, tmp_path):
    opened = dl.load(comparison.save(tmp_path / "comparison.json"))
    assert type(opened) is Comparison
    assert repr(opened) == repr(comparison) and str(opened) == str(comparison)
    assert opened.to_html() == comparison.to_html()
    assert opened.figure().to_json() == comparison.figure().to_json()
    pd.testing.assert_frame_equal(opened.to_pandas(), comparison.to_pandas())
    assert opened.frontier == comparison.frontier and opened.top == comparison.top
    assert set(opened.series) == set(comparison.series)
    for ids, values in comparison.series.items():
        np.testing.assert_array_equal(opened.series[ids], values)
    again = opened.save(tmp_path / "again.json")
    assert again.read_bytes() == (tmp_path / "comparison.json").read_bytes()


def test_the_ending_of_the_name_decides_the_format(comparison, tmp_path):
    assert comparison.save(tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html")
    assert len(pd.read_csv(comparison.save(tmp_path / "table.csv"))) == len(comparison.to_pandas())
    with pytest.raises(FileWriteError, match="stands for arrays"):
        comparison.save(tmp_path / "comparison.npz")


def test_other_versions_and_damaged_files_are_refused(comparison, tmp_path):
    file = comparison.save(tmp_path / "comparison.json")
    whole = json.loads(file.read_text())
    changes = {
        r"has version 2 .* reads version 1|format version 2": {"version": 2},
        r"has version 0 of the format of comparisons": {"version": 0},
        r"not a complete comparison": {"windows": []},
    }
    for message, change in changes.items():
        file.write_text(json.dumps({**whole, **change}))
        with pytest.raises(RunFolderError, match=message):
            Comparison.load(file)
    del whole["cloud"]
    file.write_text(json.dumps(whole))
    with pytest.raises(RunFolderError, match="the entry 'cloud' is missing"):
        Comparison.load(file)
    file.write_text("{")
    with pytest.raises(RunFolderError, match="not complete JSON"):
        Comparison.load(file)
