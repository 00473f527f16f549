"""On every architecture, each kind of feature equals the plain Hugging Face model's number, or is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trust.findings import KINDS, row
from tests.trust.zoo import ARCHITECTURES

PAGE = Path(__file__).parents[2] / "docs" / "architectures.md"


@pytest.fixture(scope="module")
def rows() -> dict[str, str]:
    """Rows of the table of the documents, by architecture."""
    if not PAGE.is_file():
        pytest.skip("needs the whole source tree")
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    return {line.split(" | ")[0].removeprefix("| "): line for line in lines[1:]}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_kind_of_feature_is_right_or_refused(name, rows):
    architecture = ARCHITECTURES[name]
    found = row(architecture)
    assert "WRONG" not in found
    assert found == rows[architecture.family], "python docs/make_architectures.py"


def test_the_documents_have_a_row_for_each_and_no_other(rows):
    assert set(rows) == {architecture.family for architecture in ARCHITECTURES.values()}
    assert len(rows) >= 80 and all(line.count(" | ") == len(KINDS) + 1 for line in rows.values())
