"""Frontier search: it starts from samples of the language model, keeps every prompt, and works where the frontier is.

An iteration chooses parents from an archive of everything scored, each with a λ of its own: the slope of the frontier's
concave hull at a cross-entropy that is drawn anew each time. So no λ has to be set, and the scale of the feature does
not matter. :mod:`~dreamy_lens.search.frontier.moves` makes children of them, of which the search learns what replacing
a token does (:mod:`~dreamy_lens.search.frontier.effects`). When the frontier stops growing, the search starts again
from new samples with what it has learned, and then joins what it found.

The parents of an iteration are chosen while the children of the one before it are still being scored, so that the host
waits for the device once in each iteration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from dreamy_lens.errors import RunFolderError
from dreamy_lens.models.transfer import to_device
from dreamy_lens.scoring.bigrams import Bigrams
from dreamy_lens.scoring.scorer import Scorer
from dreamy_lens.scoring.sharing import Offer
from dreamy_lens.scoring.swap_tables import SwapTables
from dreamy_lens.search.constraint_set import ConstraintSet
from dreamy_lens.search.frontier.archive import EVERYTHING, Archive
from dreamy_lens.search.frontier.beginnings import Beginnings
from dreamy_lens.search.frontier.cells import EVERY, Cells
from dreamy_lens.search.frontier.config import FrontierSearch
from dreamy_lens.search.frontier.donors import Donors
from dreamy_lens.search.frontier.experience import Experience
from dreamy_lens.search.frontier.moves import Moves
from dreamy_lens.search.frontier.offers import Batch, Offers, make_offers, rank_within
from dreamy_lens.search.frontier.parents import choose_parents
from dreamy_lens.search.frontier.tables import ParentTables, TableCache
from dreamy_lens.search.lengths import by_length, in_order, lengths_of
from dreamy_lens.search.pareto import non_dominated
from dreamy_lens.search.population import not_finite_error
from dreamy_lens.search.protocol import (
    BigramRequest,
    Clock,
    FingerprintRequest,
    HostTransfer,
    ModelRequest,
    OfferRequest,
    Search,
)
from dreamy_lens.search.score_cache import NewScores, ScoreCache, keys_of
from dreamy_lens.search.steps import State

PATIENCE, GROWTH = 12, 0.02
"""An island is left when its hypervolume grew by less than this share in this number of iterations."""
TABLE_BYTES = {"cpu": 1 << 28, "cuda": 1 << 32}
"""Memory for the swap tables of a search's parents, by kind of device; the samples' surprisals have a quarter of it."""
TOGETHER = 4
"""Number of searches side by side that have this memory each; more of them share as much."""
KEPT_ITERATIONS = 25
"""Number of iterations whose parents' swap tables are kept, if there is memory for them."""
DONORS = 64
"""Number of recent parents whose beginnings are offered to others."""


@dataclass(frozen=True)
class FrontierOptimizer:
    """Optimiser that searches the whole frontier at once.

    Attributes:
        uses_gradient: Whether the search is guided by gradients.
    """

    uses_gradient: ClassVar[bool] = True

    def search(
        self,
        scorer: Scorer,
        config: FrontierSearch,
        constraints: ConstraintSet,
        start: Int64[np.ndarray, "P n"] | None = None,
        cache: ScoreCache | None = None,
        state: State | None = None,
    ) -> Search:
        """Start or continue a search; see :meth:`Optimizer.search <dreamy_lens.search.optimizers.Optimizer.search>`."""
        run = _Run(scorer, config, constraints, ScoreCache() if cache is None else cache, state)
        yield from run.begin(start) if state is None else run.resume(state)
        for iteration in range(run.iteration + 1, config.iterations + 1):
            yield from run.step(iteration)


class _Run:
    """One search: its archive, what it has learned, and its random generator."""

    def __init__(
        self, scorer: Scorer, config: FrontierSearch, constraints: ConstraintSet, cache: ScoreCache, state: State | None
    ) -> None:
        self.config, self.constraints, self.cache = config, constraints, cache
        self.device, self.label = scorer.model.device, scorer.bound.feature.label
        self.unpredicted = config.length - scorer.layout(config.length).terms  # 1 if no token precedes the prompt
        self.clock = Clock(0.0 if state is None else state.seconds)
        self.rng = np.random.default_rng(config.seed)
        self.seed = int(self.rng.integers(2**63))  # of the random numbers on the device
        self.archive = Archive(config.length, config.max_cross_entropy)
        self.cells = Cells(self.archive) if config.diversity else None
        width = len(constraints.allowed)
        self.experience = Experience(self.archive, config.parents, config.length, width)
        memory = TABLE_BYTES.get(self.device.type, TABLE_BYTES["cpu"]) * TOGETHER // max(TOGETHER, scorer.together)
        kept = min(max(2 * config.parents, memory // (12 * config.length * width)), KEPT_ITERATIONS * config.parents)
        allowed = to_device(constraints.allowed, self.device)
        self.kept = TableCache(kept, scorer.redraws_contexts)
        self.tables = ParentTables(self.archive, self.kept, config.length, self.unpredicted, allowed)
        self.beginnings = Beginnings(
            config, constraints, cache, self.archive, self.tables, memory // 4, self.rng, self.label
        )
        self.iteration = 0
        self.floor = 0.0
        self.pending: Offers | None = None
        self.rejected = 0
        self.island = self.islands = self.pending_island = 1
        self.areas: list[float] = []

    # The start.

    def begin(self, start: np.ndarray | None) -> Search:
        """Score samples of the model, and put the tokens that raise the value most into those that they suit.

        Prompts that the user gives are an island of their own, which is searched first.
        """
        new = self._nothing()
        if start is not None:
            new = yield from self.cache.evaluate(start)
            self.archive.add(new.ids, new.value, new.cross_entropy, self.island)
            self.islands += 1 if len(new.ids) else 0
        new = new + (yield from self.beginnings.sample(self.islands))
        if not len(self.archive):
            raise not_finite_error(self.label, new.non_finite)
        value = self.archive.value.astype(np.float64)
        spread = float(np.std(value))
        self.tables.scale = spread or float(np.abs(value).max()) or 1.0
        self.floor = float(np.median(value))
        new = new + (yield from self.beginnings.sweep(self.islands, first=True))
        if self.cells is not None:
            rows = self.cells.first()
            self.cells.begin(rows, (yield from self._fingerprints(rows)), self.floor)
        yield new.step(self._state(), None, self._rejections())
        if self.config.iterations:  # only now, so that the first prompts are seen early
            yield from self._prepare_moves()

    def _prepare_moves(self) -> Any:
        """Ask for the bigrams, and make the maker of moves."""
        bigrams: Bigrams | None = yield BigramRequest(len(self.constraints.allowed))
        self.tables.bigrams = None if bigrams is None else bigrams.to(self.device)
        self.moves = Moves(self.constraints, self.unpredicted, self.tables.bigrams, self.device, self.seed)

    # An iteration.

    def step(self, iteration: int) -> Search:
        """Score the pending children while the moves of the next parents are ranked; then learn."""
        self.iteration = iteration
        settled = yield from self._change_island()
        if self.config.share_prompts:
            settled = settled + self._accept((yield OfferRequest()))
        children, island = self.pending, self.pending_island
        if children is None:  # the first iteration
            ranking = yield from self._rank()
            arrays = yield HostTransfer(ranking.tensors)
            children, island = self._make(make_offers(ranking, arrays)), self.island
        unseen = self.cache.unseen(children.ids)
        rows = np.stack(list(unseen.values())) if unseen else np.empty((0, self.config.length), np.int64)
        scores: list[Tensor] = []
        parts = by_length(rows) if len(rows) else []
        for _, ids in parts:
            scores.append((yield ModelRequest(False, ids, on_device=True)))
        ranking = yield from self._rank()
        arrays = list((yield HostTransfer((*scores, *ranking.tensors))))
        found = [arrays.pop(0).T for _ in parts] or [np.empty((0, 2), dtype=np.float32)]
        new = self.cache.add_new(rows, *in_order([which for which, _ in parts], found).T)
        self.archive.add(new.ids, new.value, new.cross_entropy, self._islands_of(new.ids, children, island))
        self.experience.note(iteration, children, self.tables.scale)
        yield from self._update_cells(children)
        self.areas.append(self.archive.area(self.island, self.floor))
        self.pending, self.pending_island = self._make(make_offers(ranking, tuple(arrays))), self.island
        yield (settled + new).step(self._state(), None, self._rejections())

    def _islands_of(self, ids: np.ndarray, children: Offers, island: int) -> int | np.ndarray:
        """Return the island of new prompts: that of their parents if cells give parents of other islands."""
        if self.cells is None or island == EVERYTHING:
            return island
        parents = dict(zip(keys_of(children.ids), children.parent.tolist(), strict=True))
        return self.archive.island[[parents[key] for key in keys_of(ids)]]

    def _update_cells(self, children: Offers) -> Any:
        """Put children into the cells of their parents, and compute the fingerprints of some prompts now and then."""
        if self.cells is None:
            return
        rows = self.archive.rows(children.ids)
        self.cells.inherit(children.parent[rows >= 0], rows[rows >= 0])
        if self.iteration % EVERY == 0 and len(due := self.cells.due(self.floor)):
            self.cells.learn(due, (yield from self._fingerprints(due)), self.floor)

    def _fingerprints(self, rows: np.ndarray) -> Any:
        """Ask for the fingerprints of prompts, by their rows in the archive."""
        parts = by_length(self.archive.ids[rows])
        found = []
        for _, ids in parts:
            found.append((yield FingerprintRequest(ids)))
        return in_order([which for which, _ in parts], found)

    def _change_island(self) -> Any:
        """Leave an island that has stopped growing, for everything found so far or for a new island.

        Returns:
            The prompts that were scored to begin a new island.
        """
        if len(self.areas) <= PATIENCE or self.areas[-1] > (1 + GROWTH) * self.areas[-1 - PATIENCE]:
            return self._nothing()
        self.areas = []
        if self.island != EVERYTHING and self.islands > 1:
            self.island = EVERYTHING
            return self._nothing()
        self.islands += 1
        self.island = self.islands
        new = yield from self.beginnings.sample(self.island)
        if not len(new.ids):  # nothing to begin with: no sample was new and obeyed the constraints
            self.island = EVERYTHING
            return new
        return new + (yield from self.beginnings.sweep(self.island))

    def _accept(self, offer: Offer | None) -> NewScores:
        """Add the offered prompts that improve the frontier to the archive."""
        if offer is None:
            return self._nothing()
        good = np.isfinite(offer.value) & np.isfinite(offer.cross_entropy) & (offer.cross_entropy < self.archive.most)
        rows = np.flatnonzero(good)
        rows = rows[self.archive.improves(offer.value[rows], offer.cross_entropy[rows])]
        rows = rows[non_dominated(offer.value[rows], offer.cross_entropy[rows])]
        rows = rows[self.constraints.may_stand(offer.ids[rows])]
        rows = rows[self.constraints.check(offer.ids[rows])]
        rows = [row for row, key in zip(rows.tolist(), keys_of(offer.ids[rows]), strict=True) if key not in self.cache]
        new = self.cache.add_new(offer.ids[rows], offer.value[rows], offer.cross_entropy[rows])
        self.archive.add(new.ids, new.value, new.cross_entropy, self.island)
        return new

    def _rank(self) -> Any:
        """Choose parents, and rank their moves on the device."""
        experience, steepest = self.experience, self.beginnings.steepest
        rows, weight = choose_parents(
            self.archive,
            self.island,
            self.config,
            experience.effects,
            self.tables.scale,
            steepest,
            self.rng,
            self._ways(),
        )
        experience.journal.choose(rows)
        group = self.kept.touch(rows.tolist(), len(experience.journal.columns["parents"].rows))
        if group.rows:
            yield from self.tables.compute(group)
        tables = SwapTables.stack([self.kept[row] for row in rows.tolist()])
        ids = self.archive.ids[rows]
        terms = (lengths_of(ids) - self.unpredicted).astype(np.float32)
        batch = Batch(rows, ids, weight, terms, tables)
        children = self.config.children
        return self.moves.rank(batch, experience.effects, self._donors(), experience.crossings, children, self.rng)

    def _ways(self) -> Sequence[np.ndarray]:
        """Return the rows of the cells that give parents of their own."""
        if self.cells is None:
            return ()
        count = max(1, min(self.config.parents, round(self.config.diversity * self.config.parents)))
        return self.cells.turns(self.iteration, count)

    def _donors(self) -> Donors | None:
        """Return the samples, or recent parents, as donors of beginnings."""
        recent = [row for row in self.kept.rows if self.island in (EVERYTHING, self.archive.island[row])][-DONORS:]
        pool = self.beginnings.pool
        if pool is not None and (len(recent) < DONORS // 4 or self.rng.random() < 0.5):
            return pool
        if not recent:
            return None
        tables = [self.kept[row] for row in recent]
        own = torch.cat([table.own for table in tables])
        return Donors(self.archive.ids[recent], [table.surprisal[0] for table in tables], own)

    def _make(self, offers: Offers) -> Offers:
        """Return the offers that become children: those that are new and obey the constraints, up to their quota."""
        ids = offers.ids
        good = np.flatnonzero(self.constraints.may_stand(ids))
        numbers = good[self.cache.first_unseen(ids[good])]
        left = offers.quota.copy()
        taken = np.zeros(len(ids), dtype=bool)
        # A constraint on whole prompts is asked only for as many as may be needed.
        while len(numbers):
            group = offers.group[numbers]
            asked = rank_within(group) < left[group]
            now = numbers[asked]
            if not len(now):
                break
            obeys = self.constraints.check(ids[now])
            self.rejected += int((~obeys).sum())
            taken[now[obeys]] = True
            if obeys.all():
                break
            left -= np.bincount(offers.group[now[obeys]], minlength=len(left))
            numbers = numbers[~asked]
        return offers.take(np.flatnonzero(taken))

    # Interruptions.

    def _state(self) -> State:
        """Return the state after an iteration; everything in it stays as it is when the search goes on."""
        beginnings = self.beginnings
        numbers = [self.island, self.islands, self.pending_island, beginnings.pool_seed, beginnings.steepest]
        memory = {
            **self.experience.journal.arrays(),
            "island": self.archive.island,
            "areas": np.array(self.areas, dtype=np.float64),
            "scale": np.array([self.tables.scale, self.floor]),
            "islands": np.array(numbers),
        }
        if self.cells is not None:
            memory |= self.cells.arrays()
        if self.pending is not None:
            memory |= {f"pending_{name}": array for name, array in self.pending._asdict().items()}
        no_members = np.empty((0, self.config.length), dtype=np.int64)
        rng_state = dict(self.rng.bit_generator.state)
        return State(self.iteration, no_members, rng_state, self.clock(), self.cache.non_finite(), memory)

    def resume(self, state: State) -> Search:
        """Take over the state of an earlier search, and learn again what it had learned."""
        yield from self._prepare_moves()
        self.iteration, memory = state.iteration, state.memory
        try:
            self._remember(memory)
        except (LookupError, ValueError, TypeError, AttributeError) as error:
            raise RunFolderError(
                f"What the search had learned cannot be read ({type(error).__name__}: {str(error)[:200]}); the run's "
                "folder is damaged. Copy it again from an intact one, or start a new run from its best prompts."
            ) from error
        yield from self.beginnings.draw_pool()
        for group in self.kept.groups:
            yield from self.tables.compute(group)
        self.rng.bit_generator.state = state.rng

    def _remember(self, memory: Mapping[str, np.ndarray]) -> None:
        """Restore the archive, the journal, what was learned from it, and the pending children."""
        ids, value, cross_entropy = self.cache.finite()
        self.archive.add(ids, value, cross_entropy, memory["island"])
        self.tables.scale, self.floor = memory["scale"].tolist()
        self.island, self.islands, self.pending_island, seed, steepest = memory["islands"].tolist()
        self.beginnings.pool_seed, self.beginnings.steepest = seed, steepest
        self.areas = memory["areas"].tolist()
        self.experience.restore(memory, self.tables.scale)
        for time, parents in enumerate(self.experience.journal.columns["parents"].rows, 1):
            rows = parents[parents >= 0].tolist()
            np.add.at(self.archive.uses, rows, 1)
            self.kept.touch(rows, time)
        if self.cells is not None:
            self.cells.restore(memory)
        self.pending = None
        if "pending_ids" in memory:
            self.pending = Offers(**{name: memory[f"pending_{name}"] for name in Offers._fields})

    def _nothing(self) -> NewScores:
        return NewScores.none(self.config.length)

    def _rejections(self) -> int:
        rejected = self.rejected + self.beginnings.rejected
        self.rejected = self.beginnings.rejected = 0
        return rejected
