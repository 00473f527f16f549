"""Registry of optimisers: the class of the settings chooses the optimiser of a search.

To add an optimiser, write a module with a subclass of :class:`~dreamy_lens.search.config.SearchConfig` for its
settings, and a class with a :meth:`~Optimizer.search`; then register both here. To add an operator, write it in
:mod:`~dreamy_lens.search.operators` and register `EPOOptimizer(operator)` here for a subclass of the settings. Users
choose by the class of the settings: `dl.dream(feature, search=dl.GCG(...))`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from dreamy_lens.errors import SettingsError, quoted, unknown_setting
from dreamy_lens.search.config import SearchConfig
from dreamy_lens.search.epo_config import EPO, GCG
from dreamy_lens.search.frontier.config import FrontierSearch
from dreamy_lens.search.random_search import RandomOptimizer, RandomSearch
from dreamy_lens.search.settings import SettingField, setting_fields

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Int64

    from dreamy_lens.scoring.scorer import Scorer
    from dreamy_lens.search.constraint_set import ConstraintSet
    from dreamy_lens.search.protocol import Search
    from dreamy_lens.search.score_cache import ScoreCache
    from dreamy_lens.search.steps import State


class Optimizer(Protocol):
    """Optimiser that searches for prompts. :class:`~dreamy_lens.search.epo.EPOOptimizer` is the paper's.

    An optimiser may have an attribute `uses_gradient`. If it is true, the gradient of the feature is compared with
    finite differences before a search starts.
    """

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
            scorer: Scorer of the feature, which answers the requests of the search. Apart from requests, the search may
                read only the scorer's device, layout and share of memory, and the feature's label.
            config: Settings, of the class for which the optimiser is registered. The run ends at
                `config.iterations`, counted from the beginning of the run.
            constraints: Constraints on prompts.
            start: Initial prompts, any number of them; None draws random prompts.
            cache: Scores of the prompts evaluated before `state`; None if there are none.
            state: State from which a run continues; None starts a new run.

        Yields:
            A step for the initial population (iteration 0) and a step for each iteration; before each step, the
            requests that it needs.
        """
        ...


class LateOptimizer:
    """Optimiser whose module is imported when a search begins, so that reading settings needs no torch.

    Args:
        make: Function that imports the optimiser and returns it.
    """

    def __init__(self, make: Callable[[], Optimizer]) -> None:
        self.make = make

    def search(self, *arguments: Any, **keywords: Any) -> Search:
        """Start or continue a search; see :meth:`Optimizer.search`."""
        return self.make().search(*arguments, **keywords)


def _frontier_optimizer() -> Optimizer:
    from dreamy_lens.search.frontier.optimizer import FrontierOptimizer

    return FrontierOptimizer()


def _epo_optimizer() -> Optimizer:
    from dreamy_lens.search.epo import EPOOptimizer

    return EPOOptimizer()


OPTIMIZERS: dict[type[SearchConfig], Optimizer] = {
    FrontierSearch: LateOptimizer(_frontier_optimizer),
    EPO: LateOptimizer(_epo_optimizer),
    GCG: LateOptimizer(_epo_optimizer),
    RandomSearch: RandomOptimizer(),
}
"""Optimiser of each class of settings."""


def searches() -> dict[str, type[SearchConfig]]:
    """Return the registered classes of settings that have a name for the command line, by these names."""
    return {kind.name: kind for kind in OPTIMIZERS if "name" in vars(kind) and kind.name}


def default_search(names: Iterable[str] = ()) -> type[SearchConfig]:
    """Return the search that runs if none is named.

    It is :class:`FrontierSearch`; but settings that it does not have choose the first search that has them all.

    Args:
        names: Names of the settings that are given. Names that no search has do not count.

    >>> default_search(["seed"]).__name__, default_search(["seed", "population"]).__name__
    ('FrontierSearch', 'EPO')
    """
    kinds = (FrontierSearch, *searches().values())
    known = {name for kind in kinds for name in _names_of(kind)}
    given = known.intersection(names)
    return next((kind for kind in kinds if given.issubset(_names_of(kind))), FrontierSearch)


def as_settings(
    search: SearchConfig | type[SearchConfig] | str | None, settings: Mapping[str, Any], keywords: Sequence[str] = ()
) -> SearchConfig:
    """Return the settings of a search with some of them replaced.

    Args:
        search: Settings, their class, or the name of a search; None is :func:`default_search`.
        settings: New values, by the names of the settings.
        keywords: Names of the caller's other keywords, which an unknown setting may stand for.

    Raises:
        SettingsError: There is no such search; or a setting is unknown or outside its range.

    >>> as_settings("frontier", {"prompts": 1000}).prompts
    1000
    """
    if isinstance(search, str):
        named = searches()
        if search not in named:
            raise SettingsError(f"There is no search {quoted(search)}; there are: {', '.join(named)}.")
        search = named[search]
    if isinstance(search, type) and issubclass(search, SearchConfig):
        return search.from_settings(None, dict(settings), keywords)
    if search is None:
        every = dict.fromkeys(name for kind in searches().values() for name in _names_of(kind))
        for name in settings:
            if name not in every:
                raise unknown_setting(name, [*every, *keywords])
        search = default_search(settings)()
    return SearchConfig.from_settings(search, dict(settings), keywords)


def _names_of(kind: type[SearchConfig]) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def settings_of_searches() -> list[tuple[SettingField, tuple[str, ...]]]:
    """Return the settings of the named searches, in order, each with the names of the searches that have it.

    A setting that searches describe differently, or give different defaults, occurs once for each description.
    """
    owners: dict[SettingField, tuple[str, ...]] = {}
    for name, kind in searches().items():
        for field in setting_fields(kind):
            owners[field] = (*owners.get(field, ()), name)
    return sorted(owners.items(), key=lambda pair: pair[0].rank)


def find_optimizer(config: SearchConfig) -> Optimizer:
    """Return the optimiser that is registered for the class of these settings.

    Raises:
        SettingsError: No optimiser is registered for that class.
    """
    if type(config) not in OPTIMIZERS:
        raise SettingsError(
            f"No optimiser is registered for settings of the class {type(config).__name__}; there are optimisers for "
            f"{_names()}. "
            f"Register one: dreamy_lens.search.OPTIMIZERS[{type(config).__name__}] = EPOOptimizer(), for example."
        )
    optimizer = OPTIMIZERS[type(config)]
    return optimizer.make() if isinstance(optimizer, LateOptimizer) else optimizer


def config_to_dict(config: SearchConfig) -> dict[str, Any]:
    """Return settings as JSON values, with the name of their class if it is not :class:`EPO`."""
    # Fields of a user's class that were declared without setting() are settings, too.
    names = dict.fromkeys(field.name for field in (*setting_fields(type(config)), *dataclasses.fields(config)))
    values = {name: getattr(config, name) for name in names}
    for name in ("seconds", "prompts", "until", "shortest"):
        if name in values and values[name] is None:  # as the folders of earlier versions, which had no such settings
            del values[name]
    return values if type(config) is EPO else {"class": type(config).__name__, **values}


def config_from_dict(values: Mapping[str, Any]) -> SearchConfig:
    """Return the settings that :func:`config_to_dict` turned into these values.

    Raises:
        SettingsError: The values are not settings, or their class is not registered.
    """
    name = values.get("class", EPO.__name__)
    kind = next((kind for kind in OPTIMIZERS if kind.__name__ == name), None)
    if kind is None:
        raise SettingsError(
            f"No optimiser is registered for settings of the class {name}; import the module that "
            f"registers one. There are optimisers for {_names()}."
        )
    return kind.from_settings(None, {key: value for key, value in values.items() if key != "class"})


def _names() -> str:
    """List the registered classes of settings."""
    return ", ".join(kind.__name__ for kind in OPTIMIZERS)
