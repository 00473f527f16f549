"""Fixtures of the tests about runs."""

from __future__ import annotations

import pytest

from dreamy_lens.runs import Dream
from tests.helpers import models
from tests.helpers.dreams import dream


@pytest.fixture(scope="module")
def whole() -> Dream:
    """A run that was never stopped."""
    return dream(models.family("gpt2").bridge)
