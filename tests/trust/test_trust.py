"""On every architecture, each kind of feature equals the plain Hugging Face model's number, or is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.trust.findings import KINDS, row
from tests.trust.zoo import ARCHITECTURES

IN_USE = {"Gemma2", "Gemma3", "GptOss", "Llama", "Mixtral", "Qwen3"}
"""Families that researchers use most: always tried."""

PAGE = Path(__file__).parents[2] / "docs" / "architectures.md"


@pytest.fixture(scope="module")
def rows() -> dict[str, str]:
    """Rows of the table of the documents, by architecture."""
    if not PAGE.is_file():
        pytest.skip("needs the whole source tree")
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    return {line.split(" | ")[0].removeprefix("| "): line for line in lines[1:]}


def alike() -> Iterator[Any]:
    """Names of architectures. Of those with the same modules and settings, the first one and those in use are quick."""
    seen = set()
    for name, architecture in ARCHITECTURES.items():
        modules = (architecture.layers, architecture.down, architecture.out, *architecture.settings)
        quick = modules not in seen or architecture.family in IN_USE
        seen.add(modules)
        yield pytest.param(name, marks=[] if quick else pytest.mark.slow)


@pytest.mark.parametrize("name", list(alike()))
def test_every_kind_of_feature_is_right_or_refused(name, rows):
    architecture = ARCHITECTURES[name]
    found = row(architecture)
    assert "WRONG" not in found
    assert found == rows[architecture.family], "python docs/make_architectures.py"


def test_the_documents_have_a_row_for_each_and_no_other(rows):
    assert set(rows) == {architecture.family for architecture in ARCHITECTURES.values()}
    assert len(rows) >= 80 and all(line.count(" | ") == len(KINDS) + 1 for line in rows.values())
