"""A search whose objective is made up, so that every number of it can be worked out again."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from dreamy_lens.models import Vocabulary
from dreamy_lens.scoring import Scores
from dreamy_lens.search import EPO, ConstraintSet, Optimizer, Step, drive, epo, make_children
from tests.helpers import models

LENGTH = 5
VOCABULARY = Vocabulary(models.tokenizer(), len(models.tokenizer()) + models.PADDED)


class Toy:
    """A scorer whose value and cross-entropy are sums of one number for each token and position.

    Args:
        worth: `[n, d_vocab]`, of the value.
        cost: `[n, d_vocab]`, of the cross-entropy.
        nan: tokens that make a prompt's value NaN.
        infinite: tokens that make its cross-entropy infinite.
    """

    def __init__(self, worth: Any = None, cost: Any = None, nan: Any = (), infinite: Any = ()) -> None:
        g = torch.Generator().manual_seed(5)
        shape = (LENGTH, VOCABULARY.size)
        self.worth = torch.randn(shape, generator=g) if worth is None else torch.as_tensor(worth, dtype=torch.float32)
        self.cost = torch.rand(shape, generator=g) if cost is None else torch.as_tensor(cost, dtype=torch.float32)
        self.nan, self.infinite = list(nan), list(infinite)
        self.model = SimpleNamespace(device=torch.device("cpu"))
        self.bound = SimpleNamespace(feature=SimpleNamespace(label="toy"))
        self.scored: list[np.ndarray] = []
        self.differentiated: list[np.ndarray] = []

    def of(self, table: torch.Tensor, ids: np.ndarray) -> np.ndarray:
        return table[torch.arange(LENGTH), torch.from_numpy(ids)].sum(-1).numpy()

    def score(self, ids: np.ndarray) -> Scores:
        self.scored.append(ids.copy())
        value, cross_entropy = self.of(self.worth, ids).copy(), self.of(self.cost, ids).copy()
        value[np.isin(ids, self.nan).any(1)] = np.nan
        cross_entropy[np.isin(ids, self.infinite).any(1)] = np.inf
        return Scores(value, cross_entropy)

    def gradient(self, ids: np.ndarray) -> Any:
        self.differentiated.append(ids.copy())
        parts = [SimpleNamespace(value=self.worth, value_charge=torch.zeros(1))]

        def objective(rows: torch.Tensor, lambdas: torch.Tensor) -> torch.Tensor:
            assert int(rows.max()) < len(ids)
            return self.worth[None] - lambdas[:, None, None] * self.cost[None]

        return SimpleNamespace(parts=parts, objective=objective)

    @property
    def all_scored(self) -> np.ndarray:
        return np.concatenate(self.scored)


@dataclass
class Log:
    """A search's steps, and what was drawn in each iteration."""

    steps: list[Step] = field(default_factory=list)
    proposals: list[np.ndarray] = field(default_factory=list)
    members: list[np.ndarray] = field(default_factory=list)
    pools: list[np.ndarray] = field(default_factory=list)

    @property
    def ids(self) -> np.ndarray:
        return np.concatenate([step.ids for step in self.steps])


def search(
    scorer: Any = None,
    rules: ConstraintSet | None = None,
    start: Any = None,
    optimizer: Optimizer | None = None,
    **settings: Any,
) -> Log:
    """A whole search, on a toy, without rules and by EPO unless told otherwise."""
    log = Log()

    def noted(operator, members, candidates, *rest):
        pool, rejected = make_children(operator, members, candidates, *rest)
        log.members.append(members.copy())
        log.proposals.append(candidates)
        log.pools.append(pool.copy())
        return pool, rejected

    own: dict[str, Any] = {"iterations": 7, "population": 4, "children": 8, "top_k": 12, "restart_every": 0}
    config = EPO(**{**own, "length": LENGTH, **settings})
    scorer = Toy() if scorer is None else scorer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(epo, "make_children", noted)
        running = (optimizer or epo.EPOOptimizer()).search(
            scorer, config, rules or ConstraintSet([], VOCABULARY, LENGTH), start
        )
        log.steps = list(drive(running, scorer))
    return log


def objective(toy: Toy, ids: np.ndarray, weight: float) -> np.ndarray:
    """`L_λ` of each prompt `[B]`."""
    return toy.of(toy.worth, ids) - weight * toy.of(toy.cost, ids)
