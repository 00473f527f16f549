"""Experiments of the paper, and others, as functions of a model and settings: each returns tables, charts and claims.

Every study that makes runs can be interrupted and continued in its folder `out=`, and uses a Ray cluster with `ray=`.
With `quick=True`, two processor cores finish it in about ten minutes or less. The defaults are the paper's.
"""

from __future__ import annotations

from typing import Any

from dreamy_lens.studies.catalogue import STUDIES, study_function

# A function has another name in its module than here, where `neurons` is a study and not a family of features.
__all__ = ["STUDIES", *STUDIES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in STUDIES:
        known = ", ".join(STUDIES)
        raise AttributeError(f"module 'dreamy_lens.studies' has no attribute {name[:80]!r}; it has: {known}")
    return study_function(name)


def __dir__() -> list[str]:
    return sorted(__all__)
