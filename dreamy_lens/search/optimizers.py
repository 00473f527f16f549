"""Which optimiser runs a search: a registry by the class of the settings.

To add an optimiser, write a module with a subclass of :class:`~dreamy_lens.search.config.EPOConfig` for its settings,
and a class with a :meth:`~Optimizer.search`; then register the two here. To add an operator, write it in
:mod:`~dreamy_lens.search.operators` and register `EPO(operator)` here for a subclass of the settings. Users choose by
the class of the settings: `dl.dream(feature, config=OtherConfig(...))`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from jaxtyping import Int64

from dreamy_lens.errors import SettingsError
from dreamy_lens.scoring.scorer import Scorer
from dreamy_lens.search.config import EPOConfig
from dreamy_lens.search.constraint_set import ConstraintSet
from dreamy_lens.search.epo import EPO
from dreamy_lens.search.protocol import Search
from dreamy_lens.search.score_cache import ScoreCache
from dreamy_lens.search.steps import State


class Optimizer(Protocol):
    """A way to search for prompts. :class:`~dreamy_lens.search.epo.EPO` is the paper's."""

    def search(
        self,
        scorer: Scorer,
        config: Any,
        constraints: ConstraintSet,
        start: Int64[np.ndarray, "P n"] | None = None,
        cache: ScoreCache | None = None,
        state: State | None = None,
    ) -> Search:
        """Start or continue a search.

        Args:
            scorer: the feature's scorer. The search sends its requests to it; beyond that it may read only the
                scorer's device and the feature's label.
            config: settings, of the class that :mod:`~dreamy_lens.search.optimizers` registers the optimiser for.
                `config.iterations` is where the run ends, counted from its very beginning.
            constraints: which prompts may exist.
            start: initial prompts, any number of them; None draws random ones.
            cache: scores of prompts evaluated before `state`, when a run is continued.
            state: where to continue; None starts a new run.

        Yields:
            A step for the initial population (iteration 0) and one for each iteration, with the requests that lead to
            them in between.
        """
        ...


OPTIMIZERS: dict[type[EPOConfig], Optimizer] = {EPOConfig: EPO()}
"""The optimiser for each class of settings."""


def find_optimizer(config: EPOConfig) -> Optimizer:
    """Return the optimiser that is registered for the class of these settings.

    Raises:
        SettingsError: no optimiser is registered for that class.
    """
    if type(config) not in OPTIMIZERS:
        raise SettingsError(
            f"No optimiser is registered for settings of the class {type(config).__name__}; there are optimisers for "
            f"{_names()}."
        )
    return OPTIMIZERS[type(config)]


def config_to_dict(config: EPOConfig) -> dict[str, Any]:
    """Settings as JSON values; those of another class than :class:`EPOConfig` say which."""
    values = dataclasses.asdict(config)
    return values if type(config) is EPOConfig else {"class": type(config).__name__, **values}


def config_from_dict(values: Mapping[str, Any]) -> EPOConfig:
    """Settings from what :func:`config_to_dict` returned.

    Raises:
        SettingsError: the values are not settings, or of a class that is not registered here.
    """
    name = values.get("class", EPOConfig.__name__)
    kind = next((kind for kind in OPTIMIZERS if kind.__name__ == name), None)
    if kind is None:
        raise SettingsError(
            f"No optimiser is registered for settings of the class {name}; import the module that "
            f"registers one. There are optimisers for {_names()}."
        )
    return kind.from_settings(None, {key: value for key, value in values.items() if key != "class"})


def _names() -> str:
    return ", ".join(kind.__name__ for kind in OPTIMIZERS)
