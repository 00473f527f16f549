"""Beginning of an island: samples of the language model, and the tokens that raise the value most put into them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamy_lens.models.transfer import to_device
from dreamy_lens.scoring.sampling import Samples
from dreamy_lens.search.constraint_set import ConstraintSet
from dreamy_lens.search.frontier.archive import Archive
from dreamy_lens.search.frontier.config import FrontierSearch
from dreamy_lens.search.frontier.donors import Donors
from dreamy_lens.search.frontier.tables import ParentTables
from dreamy_lens.search.lengths import by_length, right_aligned
from dreamy_lens.search.population import warn_if_flat
from dreamy_lens.search.protocol import HostTransfer, ModelRequest, SampleRequest
from dreamy_lens.search.score_cache import NewScores, ScoreCache

SWEPT_TOKENS = 8192
"""Number of tokens of prompts that the start may compute in order to try the tokens of one position."""
LEAST_SWEPT = 512
"""Number of these tokens that are tried at least."""
PLACED = 64, 4
"""Number of the best of these tokens, and of the samples into which each is put."""


class Beginnings:
    """Maker of the first prompts of islands.

    Args:
        config: Settings of the search.
        constraints: Constraints on prompts.
        cache: Scores of all prompts.
        archive: Archive, to which the prompts are added.
        tables: Maker of swap tables.
        memory: Bytes for the surprisals of the samples.
        rng: Random generator of the search.
        label: Name of the feature in warnings.

    Attributes:
        pool: Samples that obey the constraints, as donors; None if there are none.
        pool_seed: Seed from which the samples were drawn.
        steepest: Position at which tokens matter most.
        rejected: Number of samples that do not obey the constraints.
    """

    def __init__(
        self,
        config: FrontierSearch,
        constraints: ConstraintSet,
        cache: ScoreCache,
        archive: Archive,
        tables: ParentTables,
        memory: int,
        rng: np.random.Generator,
        label: str,
    ) -> None:
        self._config, self._constraints, self._cache, self._archive = config, constraints, cache, archive
        self._tables, self._memory, self._rng, self._label = tables, memory, rng, label
        self.pool: Donors | None = None
        self.pool_seed = 0
        self.steepest = int(constraints.free_positions[-1])
        self.rejected = 0

    def sample(self, island: int) -> Any:
        """Draw samples of the model as donors, and score them for an island.

        Args:
            island: Number of the island.

        Returns:
            The prompts that were scored.
        """
        self.pool_seed = int(self._rng.integers(2**63))
        rows, good = yield from self.draw_pool()
        self.rejected += int((~good).sum())
        rows = rows[good]
        if not len(rows) and not len(self._archive):
            rows = self._constraints.random(min(self._config.samples, 64), self._rng)
        new: NewScores = yield from self._cache.evaluate(rows)
        self._archive.add(new.ids, new.value, new.cross_entropy, island)
        return new

    def draw_pool(self) -> Any:
        """Draw the samples of :attr:`pool_seed`, and keep those that obey the constraints as donors.

        Returns:
            All samples, and whether each obeys the constraints.
        """
        config, constraints = self._config, self._constraints
        entries = config.length * len(constraints.allowed)
        keep = max(1, min(config.samples, self._memory // (4 * entries)))
        is_resized = config.least_length < config.length
        fixed = {} if is_resized else dict(constraints.fixed)
        samples: Samples = yield SampleRequest(
            config.samples, config.length, constraints.allowed, fixed, self.pool_seed, keep
        )
        (rows,) = yield HostTransfer((samples.ids,))
        if is_resized:  # the beginning of a sample is a sample, too; longer ones are more fluent on average
            rng = np.random.default_rng(self.pool_seed)
            lengths = rng.integers(config.least_length, config.length + 1, size=(2, len(rows))).max(axis=0)
            rows = right_aligned([row[:n] for row, n in zip(rows, lengths, strict=True)], config.length)
            for position, token in constraints.fixed.items():
                rows[:, position] = token
        good = constraints.may_stand(rows)
        good[good] = constraints.check(rows[good])
        kept = np.flatnonzero(good[: len(samples.surprisal)])
        self.pool = None
        if len(kept):
            surprisal = to_device(samples.surprisal, self._tables.device)
            if len(kept) < len(surprisal):
                surprisal = surprisal[to_device(kept, self._tables.device)]
            self.pool = Donors.of(rows[kept], surprisal)
        return rows, good

    def sweep(self, island: int, first: bool = False) -> Any:
        """Try many tokens at one position of an island's strongest prompt, and put the best into samples they suit.

        Args:
            island: Number of the island.
            first: Whether the search begins, so that a gradient of zeros is told.

        Returns:
            The prompts that were scored; not those of which only the value was computed.
        """
        archive, constraints = self._archive, self._constraints
        if self.pool is None:
            return NewScores.none(self._config.length)
        mine = np.where(archive.island == island, archive.value, -np.inf)
        strongest = int(np.argmax(mine))
        position = self.steepest = yield from self._steepest_position(strongest, first)
        assert isinstance(self.pool.surprisal, Tensor)
        surprisal = self.pool.surprisal[:, position]
        tokens = np.flatnonzero(constraints.allowed)
        most = max(LEAST_SWEPT, SWEPT_TOKENS // (self._config.length - position))
        if len(tokens) > most:
            likely = surprisal.mean(0).masked_fill(~self._tables.allowed, torch.inf)
            (tokens,) = yield HostTransfer((likely.topk(most, largest=False).indices,))
        rows = np.repeat(archive.ids[[strongest]], len(tokens), axis=0)
        rows[:, position] = tokens
        ((_, prompts),) = by_length(rows)
        value = yield ModelRequest(False, prompts, values_only=True)
        count, copies = PLACED
        best = tokens[np.argsort(-np.nan_to_num(value, nan=-np.inf), kind="stable")[:count]]
        suits = surprisal[:, to_device(best, self._tables.device)]
        (places,) = yield HostTransfer((suits.topk(min(copies, len(suits)), dim=0, largest=False).indices,))
        rows = self.pool.ids[places.T.reshape(-1)]
        rows[:, position] = np.repeat(best, places.shape[0])
        new = yield from self._cache.evaluate(rows[constraints.check(rows)])
        archive.add(new.ids, new.value, new.cross_entropy, island)
        return new

    def _steepest_position(self, row: int, first: bool) -> Any:
        """Return the free position of a prompt at which the gradient says that tokens matter most."""
        config = self._config
        ((_, ids),) = by_length(self._archive.ids[[row]])
        gradient = yield ModelRequest(True, ids)
        if first:
            warn_if_flat(gradient, self._label)
        tables = self._tables.of_gradient(gradient, ids)
        spread = tables.value[0][:, self._tables.allowed].std(dim=1)
        (spread,) = yield HostTransfer((spread,))
        free = self._constraints.free_positions
        free = free[free >= config.length - config.least_length]  # that every prompt has
        # Of equal positions, the last one is taken: it is the cheapest.
        return int(free[::-1][np.nan_to_num(spread[free[::-1]]).argmax()])
