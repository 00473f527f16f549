"""Parameters of tests of which a few are quick, and the others are left to `make test-all`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def quick_ones(values: Iterable[Any], quick: Iterable[Any]) -> list[Any]:
    """Return parameters of a test, of which all but some are marked slow.

    Args:
        values: Parameters.
        quick: Those of them that stay quick.

    Raises:
        ValueError: A quick one is not among the parameters.
    """
    listed, kept = list(values), list(quick)
    if missing := [value for value in kept if value not in listed]:
        raise ValueError(f"{missing} are not among the parameters {listed}.")
    return [value if value in kept else pytest.param(value, marks=pytest.mark.slow) for value in listed]
