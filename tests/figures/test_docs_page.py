"""The examples of the page about figures run, in the order in which they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "figures.md"


@pytest.mark.filterwarnings("ignore:.*kopts:UserWarning")
def test_the_examples_run(tmp_path, monkeypatch):
    if not PAGE.is_file():
        pytest.skip("the documentation is not part of this copy")
    monkeypatch.chdir(tmp_path)
    *examples, images = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    names: dict = {}
    for example in examples:
        exec(example.replace("dl.dream(", "dl.dream(population=2, children=8, length=6, feature="), names)
        if "figure" in names:
            assert len(names["figure"].data)
    assert all("<svg" in (tmp_path / name).read_text("utf-8") for name in ("strip.svg", "substitutes.svg"))
    assert (tmp_path / "frontier.html").stat().st_size > 1_000_000 and images.count("figures.save") == 2
