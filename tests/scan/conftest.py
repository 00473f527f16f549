"""Fixtures of the tests about scans."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMY_LENS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of a few hundred characters, so that a small corpus has several."""
    from dreamy_lens.corpus import corpus as corpora

    monkeypatch.setattr(corpora, "BLOCK", 800)
