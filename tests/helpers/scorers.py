"""Scorers of a feature's text on a bridge, as the public functions make them."""

from __future__ import annotations

from typing import Any

from dreamy_lens.features import BoundFeature, parse
from dreamy_lens.models import as_hooked
from dreamy_lens.scoring import Scorer


def make_scorer(feature: Any, model: Any = None, *, fluency_model: Any = None, **options: Any) -> Scorer:
    """A scorer of an expression, its text or a bound feature, on anything that stands for a model."""
    bound = isinstance(feature, BoundFeature)
    return Scorer(
        feature if bound else parse(feature),
        None if bound and model is None else as_hooked(model),
        fluency_model=None if fluency_model is None else as_hooked(fluency_model),
        **options,
    )
