"""A short dream of a tiny model, and what it means that two histories are the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dreamy_lens as dl
from dreamy_lens.results import History
from dreamy_lens.runs import Dream

FEATURE = "L1.N3"
SMALL: dict[str, Any] = {"population": 3, "children": 6, "top_k": 16, "length": 5, "restart_every": 3}
SMALL |= {"progress": False}


def dream(model: Any, feature: Any = FEATURE, **settings: Any) -> Dream:
    """Eight iterations unless told otherwise; restarts begin iterations 4 and 7."""
    return dl.dream(feature, model, **(SMALL | {"iterations": 8} | settings))


def same(a: History, b: History) -> None:
    """Two histories are equal in everything but the time and the work that they took."""
    first, second = a.arrays(), b.arrays()
    assert set(first) == set(second)
    for name in first:
        if name in ("seconds", "token_layers"):
            assert len(first[name]) == len(second[name]) and (np.diff(first[name]) >= 0).all()
        else:
            np.testing.assert_array_equal(first[name], second[name], err_msg=name)


class interrupt_after:
    """The user presses Ctrl-C when an iteration has just been noted."""

    def __init__(self, iterations: int, error: BaseException | None = None) -> None:
        self.iterations, self.error = iterations, KeyboardInterrupt() if error is None else error

    def __enter__(self) -> None:
        self.patch = pytest.MonkeyPatch()
        take = Dream.take

        def taken(run, step):
            take(run, step)
            if step.iteration == self.iterations:
                raise self.error

        self.patch.setattr(Dream, "take", taken)

    def __exit__(self, *error: Any) -> None:
        self.patch.undo()
