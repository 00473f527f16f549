"""Fixtures of the tests about panels."""

from __future__ import annotations

import pytest

from tests.helpers.dreams import dream


@pytest.fixture
def run(gpt2):
    return dream(gpt2.bridge)
