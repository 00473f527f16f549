"""Spec and record of a run: the values that runs, sessions and folders exchange."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamy_lens.errors import PromptError
from dreamy_lens.features.expressions import Feature
from dreamy_lens.results.history import History
from dreamy_lens.results.prompt import Provenance
from dreamy_lens.search.config import SearchConfig
from dreamy_lens.search.constraint_kinds import Constraint
from dreamy_lens.search.constraint_set import template_ids
from dreamy_lens.search.constraints import listed_constraints
from dreamy_lens.search.steps import State

if TYPE_CHECKING:
    from dreamy_lens.models.hooked_model import HookedModel


@dataclass(frozen=True, eq=False)
class RunSpec:
    """Request for a run. :meth:`of` makes it for a new run; for a saved run it is read from the folder.

    Attributes:
        feature: Expression to drive; None for a saved run whose feature is parsed from its text.
        model: HookedModel that the feature reads. For a saved run also a bridge, a Hugging Face id or a folder; None is
            then the model that the run names.
        config: Settings of the search; its length is that of `start`, if there is a start.
        constraints: Constraints on the prompts, including a template.
        fluency_model: Model whose cross-entropy measures fluency; None is the feature's model, or for a saved run the
            fluency model that the run names.
        start: Initial prompts, int64 `[P, n]`, or None if the search draws them.
    """

    feature: Feature | None
    model: Any
    config: SearchConfig
    constraints: tuple[Constraint, ...] = ()
    fluency_model: Any = None
    start: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        feature: Feature,
        model: HookedModel,
        config: SearchConfig,
        *,
        start: Any = None,
        constraints: Sequence[Constraint] | Constraint = (),
        fluency_model: HookedModel | None = None,
        named: Collection[str] = (),
    ) -> RunSpec:
        """Make a spec from the arguments of a user.

        Args:
            feature: Expression to drive.
            model: Model that the feature reads.
            config: Settings of the search; a start overrides their length.
            start: Initial prompts in any form that :func:`dreamy_lens.dream` takes, or None.
            constraints: One constraint, or several.
            fluency_model: Model whose cross-entropy measures fluency; None is the feature's model.
            named: Names of the settings that the user gave explicitly.

        Raises:
            PromptError: A start has tokens that the model does not have, starts differ in length, or the user gave a
                `length` that is not that of the start.
            ConstraintError: Something among the constraints is not a constraint.
        """
        rows = None
        several = listed_constraints(constraints)
        if start is not None:
            from dreamy_lens.scoring.prompts import as_ids, strip_bos

            bos = model.bos(config.prepend_bos)
            is_first = not strip_bos(template_ids(several, model.vocabulary)[0], bos)
            prompts = as_ids(start, model.vocabulary, bos if is_first else [])
            config, rows = with_start(config, prompts, "length" in named, "shortest" in named)
        return cls(feature, model, config, several, fluency_model, rows)


def with_start(
    config: SearchConfig, prompts: Sequence[np.ndarray], names_length: bool = False, names_shortest: bool = False
) -> tuple[SearchConfig, np.ndarray]:
    """Return settings whose lengths include those of the initial prompts, and the prompts as one array.

    Args:
        config: Settings of the search.
        prompts: Token ids of each prompt.
        names_length: Whether the user gave the lengths, which are then kept.
        names_shortest: Whether the user gave only the smallest length, which is then kept.

    Raises:
        PromptError: Starts differ in length where prompts have one length, or do not have the given length.
    """
    from dreamy_lens.search.lengths import right_aligned
    from dreamy_lens.search.population import stack_prompts

    shortest = config.least_length
    if shortest == config.length:
        rows = stack_prompts(prompts)
        if names_length and rows.shape[1] != config.length:
            raise PromptError(
                f"The start has {rows.shape[1]} tokens, but length={config.length} was given; leave out length, or "
                f"give a start of {config.length} tokens."
            )
        return dataclasses.replace(config, length=rows.shape[1]), rows
    lengths = [len(prompt) for prompt in prompts]
    bounds = min(shortest, *lengths), max(config.length, *lengths)
    if names_length and bounds != (shortest, config.length):
        odd = next(n for n in lengths if not shortest <= n <= config.length)
        raise PromptError(
            f"A start has {odd} tokens, but length=({shortest}, {config.length}) was given; give starts of {shortest} "
            f"to {config.length} tokens, or a wider range."
        )
    if names_shortest and bounds[0] < shortest:
        raise PromptError(
            f"A start has {bounds[0]} tokens, but shortest={shortest} was given; give starts of at least {shortest} "
            "tokens, or a smaller number."
        )
    config = dataclasses.replace(config, **dict(zip(("shortest", "length"), bounds, strict=True)))
    return config, right_aligned(prompts, config.length)


@dataclass(frozen=True, eq=False)
class RunRecord:
    """Complete state of a run: a folder holds it, and a run continues from it.

    Attributes:
        spec: Spec of the run.
        provenance: Feature, model, seed, BOS and template of the run's prompts.
        history: Every evaluated prompt.
        state: State from which the search continues; None before the first step.
        identity: JSON values that identify the run's model and what its numbers depend on; None if they are unknown.
        fluency_name: Name of the fluency model; None if the feature's own model measures fluency.
        texts: Text, tokens and round trip of prompts by their ids, written as `"17,4,25"`.
    """

    spec: RunSpec
    provenance: Provenance
    history: History
    state: State | None = None
    identity: dict[str, Any] | None = None
    fluency_name: str | None = None
    texts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
