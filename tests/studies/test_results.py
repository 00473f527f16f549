"""Results of studies: files, pages, texts."""

from __future__ import annotations

import json
import math

import pandas as pd
import pytest

import dreamy_lens as dl
from dreamy_lens.errors import RunFolderError
from dreamy_lens.results import ChartSeries, StudyChart, StudyClaim, StudyResult

TEXT = "<script>alert(1)</script>\u202e &"
HOSTILE = f"{TEXT} \ud800"  # half a character, which pandas does not hold


def result() -> StudyResult:
    frame = pd.DataFrame({"seed": [0, 1], "value": [1.5, math.nan], "text": [TEXT, " fine"]})
    claim = StudyClaim("spread", f"Do seeds differ? {HOSTILE}", HOSTILE, HOSTILE, "holds", "always")
    series = ChartSeries(HOSTILE, (0.0, 1.0, 2.0), (1.0, math.nan, 2.0), "bars", (0.0, 0.0, 1.0), (2.0, 2.0, 3.0))
    line = ChartSeries("line", (0.0, 1.0), (1.0, 2.0), "steps", (0.5, 1.5), (1.5, 2.5), colour=1)
    charts = (
        StudyChart(HOSTILE, HOSTILE, HOSTILE, (series, line), (HOSTILE, "b", "c")),
        StudyChart("empty", "x", "y", ()),
        StudyChart("log", "x", "y", (ChartSeries("p", (0.0, 10.0, 1e6), (1.0, 1.0, 1.0), "points"),), (), True),
    )
    tables = {"seeds": frame, "more": pd.DataFrame({"a": [1]})}
    return StudyResult("seeds", HOSTILE, HOSTILE, {"x": HOSTILE}, tables, (claim,), charts, (HOSTILE,), 3.0)


def test_a_result_is_the_same_after_it_was_saved(tmp_path):
    own = result()
    loaded = dl.load(own.save(tmp_path / "study"))
    assert isinstance(loaded, StudyResult) and loaded.charts[1:] == own.charts[1:] and loaded.claims == own.claims
    assert str(loaded.charts[0]) == str(own.charts[0])  # NaN is not equal to itself
    assert list(loaded.tables) == ["seeds", "more"] and loaded.table["value"].isna().tolist() == [False, True]
    assert loaded.figure().svg == own.figure().svg and loaded.seconds == 3.0
    assert sorted(p.name for p in (tmp_path / "study").iterdir()) == ["more.parquet", "seeds.parquet", "study.json"]
    assert own.save(tmp_path / "study") == tmp_path / "study"
    assert str(loaded).splitlines()[3] == str(own).splitlines()[3]


def test_hostile_text_stays_text(tmp_path):
    own = result()
    for text in (own.to_html(tmp_path / "page.html"), own._repr_html_(), own.figure().svg):
        assert "<script>alert" not in text and "\u202e" not in text
    assert "alert" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "\u202e" not in repr(own)


def test_the_text_has_claims_and_the_table():
    frame = pd.DataFrame({"n": range(20), "text": ["a"] * 20})
    claims = (
        StudyClaim("a", "Is it?", "yes", "no", "does not hold", "all"),
        StudyClaim("b", "And?", "", "", "measured"),
    )
    text = str(StudyResult("seeds", "Seeds", "m", {}, {"t": frame}, claims))
    assert "[does not hold] Is it? (all)\n    paper: yes\n    here:  no\n[measured] And?" in text
    assert "and 8 more rows; study.table has all." in text
    assert StudyResult("s", "S", "m", {}, {"t": frame}, claims).to_pandas("claims")["verdict"].tolist()[1] == "measured"
    with pytest.raises(RunFolderError, match="it has 't', 'claims'"):
        StudyResult("s", "S", "m", {}, {"t": frame}).to_pandas("u")


def test_damaged_and_other_folders_are_refused(tmp_path):
    own = result()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    for place, said in (("other", "something else than a study"), ("file", "is a file")):
        with pytest.raises(RunFolderError, match=said):
            own.save(tmp_path / place)
    folder = own.save(tmp_path / "study")
    (folder / "more.parquet").unlink()
    with pytest.raises(RunFolderError, match="no complete study"):
        dl.load(folder)
    own.save(folder)
    content = json.loads((folder / "study.json").read_text())
    del content["charts"]
    (folder / "study.json").write_text(json.dumps(content))
    with pytest.raises(RunFolderError, match="'charts' is missing"):
        StudyResult.load(folder)
    del content["tables"]
    (folder / "study.json").write_text(json.dumps(content))
    with pytest.raises(RunFolderError, match="'tables' is missing"):
        StudyResult.load(folder)
    (folder / "study.json").unlink()
    (folder / "study-plan.json").write_text("{}")
    with pytest.raises(RunFolderError, match="a study that has not ended"):
        dl.load(folder)
