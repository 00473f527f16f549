"""What a run is asked for, and all that is kept of it: the values that runs, sessions and folders hand each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dreamy_lens.errors import PromptError
from dreamy_lens.features.expressions import Feature
from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.results.history import History
from dreamy_lens.results.prompt import Provenance
from dreamy_lens.scoring.prompts import as_ids
from dreamy_lens.search.config import EPOConfig
from dreamy_lens.search.constraints import Constraint
from dreamy_lens.search.population import stack_prompts
from dreamy_lens.search.steps import State


@dataclass(frozen=True, eq=False)
class RunSpec:
    """What a run is asked for. Made by :meth:`of` for a new run, and read from the folder of a saved one.

    Attributes:
        feature: expression to drive; None for a saved run whose feature its text alone must make again.
        model: model that the feature reads: a HookedModel, or for a saved run anything that stands for one, and None
            for the one of its name.
        config: settings of the search; its length is that of `start`, if there is one.
        constraints: constraints on the prompts, a template among them.
        fluency_model: model whose cross-entropy counts as fluency; None is the model itself, or for a saved run the
            one of its name.
        start: initial prompts, int64 `[P, n]`, or None for random tokens.
    """

    feature: Feature | None
    model: Any
    config: EPOConfig
    constraints: tuple[Constraint, ...] = ()
    fluency_model: Any = None
    start: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        feature: Feature,
        model: HookedModel,
        config: EPOConfig,
        *,
        start: Any = None,
        constraints: Sequence[Constraint] | Constraint = (),
        fluency_model: HookedModel | None = None,
        named: Collection[str] = (),
    ) -> RunSpec:
        """Bring what a user gives into one form.

        Args:
            feature: expression to drive.
            model: model that the feature reads.
            config: settings of the search; a start decides their length.
            start: initial prompts in any form that :func:`dreamy_lens.dream` takes, or None.
            constraints: one constraint, or several.
            fluency_model: model whose cross-entropy counts as fluency; None is the model itself.
            named: names of the settings that the user wrote out.

        Raises:
            PromptError: a start is not made of the model's tokens, starts differ in length, or `length` was asked for
                and is another.
        """
        rows = None
        if start is not None:
            rows = stack_prompts(as_ids(start, model.vocabulary))
            if "length" in named and rows.shape[1] != config.length:
                raise PromptError(
                    f"The start has {rows.shape[1]} tokens and length={config.length} was asked for; leave out length, "
                    f"or give a start of {config.length} tokens."
                )
            config = dataclasses.replace(config, length=rows.shape[1])
        several = (constraints,) if isinstance(constraints, Constraint) else tuple(constraints)
        return cls(feature, model, config, several, fluency_model, rows)


@dataclass(frozen=True, eq=False)
class RunRecord:
    """All that is kept of a run: a folder holds it, and a run goes on from it.

    Attributes:
        spec: what the run was asked for.
        provenance: feature, model, seed, BOS and template of the run's prompts.
        history: every evaluated prompt.
        state: where the search goes on; None before its first step.
        identity: what tells the run's model from others, as JSON values; None if it is not known.
        fluency_name: name of the fluency model, if it is another model than the feature's.
        texts: text, tokens and round trip of prompts by their ids, written as `"17,4,25"`.
    """

    spec: RunSpec
    provenance: Provenance
    history: History
    state: State | None = None
    identity: dict[str, Any] | None = None
    fluency_name: str | None = None
    texts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
