"""The figures of docs/cluster.md are those of benchmarks/cluster.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE, SCRIPT = ROOT / "docs" / "cluster.md", ROOT / "benchmarks" / "cluster.py"

pytestmark = pytest.mark.skipif(not PAGE.is_file() or not SCRIPT.is_file(), reason="needs the whole source tree")


def printed(*options: str) -> str:
    ran = subprocess.run([sys.executable, str(SCRIPT), *options], capture_output=True, text=True, check=True)
    return ran.stdout


def test_the_page_has_what_the_script_prints():
    page = PAGE.read_text(encoding="utf-8")
    for line in printed().splitlines():
        assert line in page, line


def test_the_bytes_of_a_feature_are_those_of_its_statistics():
    from dreamy_lens.scan import FeatureStats

    tensors = FeatureStats.empty(3, 64, True).tensors().values()
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 3
    assert f"neurons × {size:,.0f} bytes" in printed()


def test_other_clusters_can_be_put_in():
    assert "| GPU hours of the pass | tokens / (tokens/s) | 4.1 |" in printed("--utilisation", "0.8", "--bos", "0")
