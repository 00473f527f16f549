"""Operators: functions that make children from the members of a population and the candidates for their tokens."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from jaxtyping import Int64

from dreamy_lens.search.constraint_set import ConstraintSet

REDRAWS = 16
"""Number of times that a child that breaks a constraint is drawn again before it is left out."""


class Operator(Protocol):
    """Function that draws one child of each parent."""

    def __call__(
        self,
        members: Int64[np.ndarray, "M n"],
        candidates: Int64[np.ndarray, "M n k"],
        parents: Int64[np.ndarray, " B"],
        positions: Int64[np.ndarray, " free"],
        rng: np.random.Generator,
    ) -> Int64[np.ndarray, "B n"]:
        """Draw children.

        Args:
            members: Prompts of the population. An operator may take tokens from members other than the parent.
            candidates: Candidate tokens for each position of each member, the most promising first.
            parents: Index of the parent of each child.
            positions: Positions that may change.
            rng: Random generator of the search; no other source of randomness is allowed.

        Returns:
            One child for each entry of `parents`, in new memory.
        """
        ...


def replace_one(
    members: Int64[np.ndarray, "M n"],
    candidates: Int64[np.ndarray, "M n k"],
    parents: Int64[np.ndarray, " B"],
    positions: Int64[np.ndarray, " free"],
    rng: np.random.Generator,
) -> Int64[np.ndarray, "B n"]:
    """Replace one token: draw a position uniformly, then a candidate for it uniformly (Section 2 of the paper)."""
    at = rng.choice(positions, size=len(parents))
    rank = rng.integers(candidates.shape[-1], size=len(parents))
    children = members[parents]
    children[np.arange(len(parents)), at] = candidates[parents, at, rank]
    return children


def make_children(
    operator: Operator,
    members: Int64[np.ndarray, "M n"],
    candidates: Int64[np.ndarray, "M n k"],
    count: int,
    constraints: ConstraintSet,
    rng: np.random.Generator,
) -> tuple[Int64[np.ndarray, "children n"], int]:
    """Draw r children of each member that obey the constraints.

    Args:
        operator: Operator that draws the children.
        members: Prompts of the population.
        candidates: Candidate tokens for each position of each member.
        count: Number of children (r) of each member.
        constraints: Constraints on children. A child that breaks them is drawn again, up to REDRAWS times, and then
            left out.
        rng: Random generator of the search.

    Returns:
        The children, at most M r, in the order of their parents; and the number of rejected draws.
    """
    parents = np.repeat(np.arange(len(members)), count)
    children = members[parents]
    pending = np.arange(len(parents))
    rejected = 0
    for _ in range(1 + REDRAWS):
        children[pending] = operator(members, candidates, parents[pending], constraints.free_positions, rng)
        broken = ~constraints.check(children[pending])
        rejected += int(broken.sum())
        pending = pending[broken]
        if not len(pending):
            break
    kept = np.ones(len(children), dtype=bool)
    kept[pending] = False
    return children[kept], rejected
