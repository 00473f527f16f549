"""A new run like another one, from a prompt that was found or typed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dreamy_lens.results.history import HistoryBuilder
from dreamy_lens.runs.dream import Dream
from dreamy_lens.runs.session import Session

if TYPE_CHECKING:
    from dreamy_lens.search.config import EPOConfig


def again(run: Dream, ids: Sequence[int]) -> Dream:
    """A run with the feature, model, settings and constraints of another, which starts from a prompt; not started yet.

    Raises:
        ConstraintError: the prompt breaks one.
        PromptError: it is too long.
    """
    of = run.session.scorer
    config = dataclasses.replace(run.config, length=len(ids))
    fluency = None if of.fluency is of.model else of.fluency
    start = np.asarray(ids, dtype=np.int64)[None]
    session = Session.open(
        of.bound.feature, of.model, config, start=start, constraints=run.constraints, fluency_model=fluency
    )
    return new(session)


def new(session: Session) -> Dream:
    """A run that has found nothing yet."""
    config: EPOConfig = session.config
    return Dream(config, session.provenance, HistoryBuilder(config.lambdas), session=session)
