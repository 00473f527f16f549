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
from dreamy_lens.scoring.sampling import Samples
from dreamy_lens.scoring.scorer import Scorer
from dreamy_lens.scoring.sharing import Offer
from dreamy_lens.scoring.swap_tables import SwapTables, swap_tables
from dreamy_lens.search.constraint_set import ConstraintSet
from dreamy_lens.search.frontier.archive import EVERYTHING, Archive
from dreamy_lens.search.frontier.cells import EVERY, Cells
from dreamy_lens.search.frontier.config import FrontierSearch
from dreamy_lens.search.frontier.crossings import Crossings
from dreamy_lens.search.frontier.donors import Donors
from dreamy_lens.search.frontier.effects import SwapEffects
from dreamy_lens.search.frontier.journal import Journal
from dreamy_lens.search.frontier.moves import Moves
from dreamy_lens.search.frontier.offers import KINDS, Batch, Offers, make_offers, rank_within
from dreamy_lens.search.frontier.parents import choose_parents
from dreamy_lens.search.frontier.tables import TableCache, TableGroup
from dreamy_lens.search.lengths import by_length, in_order, lengths_of, right_aligned
from dreamy_lens.search.pareto import non_dominated
from dreamy_lens.search.population import not_finite_error, warn_if_flat
from dreamy_lens.search.protocol import (
    BigramRequest,
    Clock,
    FingerprintRequest,
    HostTransfer,
    ModelRequest,
    OfferRequest,
    SampleRequest,
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
SWEPT_TOKENS = 8192
"""Number of tokens of prompts that the start may compute in order to try the tokens of one position."""
LEAST_SWEPT = 512
"""Number of these tokens that are tried at least."""
PLACED = 64, 4
"""Number of the best of these tokens, and of the samples into which each is put."""
_CROSS = KINDS.index("cross")


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
        self.shortest = config.least_length
        self.unpredicted = config.length - scorer.layout(config.length).terms  # 1 if no token precedes the prompt
        self.memory = TABLE_BYTES.get(self.device.type, TABLE_BYTES["cpu"]) * TOGETHER // max(TOGETHER, scorer.together)
        self.clock = Clock(0.0 if state is None else state.seconds)
        self.rng = np.random.default_rng(config.seed)
        self.seed = int(self.rng.integers(2**63))  # of the random numbers on the device
        self.archive = Archive(config.length, config.max_cross_entropy)
        self.journal = Journal(config.parents)
        self.allowed = to_device(constraints.allowed, self.device)
        self.iteration = 0
        self.bigrams: Bigrams | None = None
        self.pool: Donors | None = None
        self.pool_seed = 0
        most = self.memory // (12 * config.length * len(constraints.allowed))
        kept = min(max(2 * config.parents, most), KEPT_ITERATIONS * config.parents)
        self.tables = TableCache(kept, scorer.redraws_contexts)
        self.pending: Offers | None = None
        self.rejected = 0
        self.island = self.islands = self.pending_island = 1
        self.areas: list[float] = []
        self.steepest = int(constraints.free_positions[-1])  # the position at which tokens matter most
        self.cells = Cells(self.archive) if config.diversity else None

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
        new = new + (yield from self._sample(self.islands))
        if not len(self.archive):
            raise not_finite_error(self.label, new.non_finite)
        value = self.archive.value.astype(np.float64)
        spread = float(np.std(value))
        self.scale = spread or float(np.abs(value).max()) or 1.0
        self.floor = float(np.median(value))
        self._forget()
        new = new + (yield from self._sweep(self.islands))
        if self.cells is not None:
            rows = self.cells.first()
            self.cells.begin(rows, (yield from self._fingerprints(rows)), self.floor)
        yield new.step(self._state(), None, self._rejections())
        if self.config.iterations:  # only now, so that the first prompts are seen early
            yield from self._prepare_moves()

    def _prepare_moves(self) -> Any:
        """Ask for the bigrams, and make the maker of moves."""
        bigrams: Bigrams | None = yield BigramRequest(len(self.constraints.allowed))
        self.bigrams = None if bigrams is None else bigrams.to(self.device)
        self.moves = Moves(self.constraints, self.unpredicted, self.bigrams, self.device, self.seed)

    def _forget(self) -> None:
        """Begin to learn about moves."""
        length, width = self.config.length, len(self.constraints.allowed)
        self.effects = (
            SwapEffects(length, width, slope=0.0, learns_slope=True, deviation=1.0, most=6.0),
            SwapEffects(length, width, slope=1.0, learns_slope=False, deviation=0.4, most=2.0),
        )
        self.crossed = Crossings(length)

    def _sample(self, island: int) -> Any:
        """Draw samples of the model as donors, and score them for an island."""
        self.pool_seed = int(self.rng.integers(2**63))
        rows, good = yield from self._draw_pool()
        self.rejected += int((~good).sum())
        rows = rows[good]
        if not len(rows) and not len(self.archive):
            rows = self.constraints.random(min(self.config.samples, 64), self.rng)
        new: NewScores = yield from self.cache.evaluate(rows)
        self.archive.add(new.ids, new.value, new.cross_entropy, island)
        return new

    def _draw_pool(self) -> Any:
        """Draw the samples of a seed, keep those that obey the constraints as donors, and return all."""
        config = self.config
        entries = config.length * len(self.constraints.allowed)
        keep = max(1, min(config.samples, self.memory // 4 // (4 * entries)))
        is_resized = self.shortest < config.length
        fixed = {} if is_resized else dict(self.constraints.fixed)
        samples: Samples = yield SampleRequest(
            config.samples, config.length, self.constraints.allowed, fixed, self.pool_seed, keep
        )
        (rows,) = yield HostTransfer((samples.ids,))
        if is_resized:  # the beginning of a sample is a sample, too; longer ones are more fluent on average
            rng = np.random.default_rng(self.pool_seed)
            lengths = rng.integers(self.shortest, config.length + 1, size=(2, len(rows))).max(axis=0)
            rows = right_aligned([row[:n] for row, n in zip(rows, lengths, strict=True)], config.length)
            for position, token in self.constraints.fixed.items():
                rows[:, position] = token
        good = self.constraints.may_stand(rows)
        good[good] = self.constraints.check(rows[good])
        kept = np.flatnonzero(good[: len(samples.surprisal)])
        self.pool = None
        if len(kept):
            surprisal = to_device(samples.surprisal, self.device)
            if len(kept) < len(surprisal):
                surprisal = surprisal[to_device(kept, self.device)]
            self.pool = Donors.of(rows[kept], surprisal)
        return rows, good

    def _sweep(self, island: int) -> Any:
        """Try many tokens at one position of an island's strongest prompt, and put the best into samples they suit."""
        if self.pool is None:
            return self._nothing()
        mine = np.where(self.archive.island == island, self.archive.value, -np.inf)
        strongest = int(np.argmax(mine))
        position = self.steepest = yield from self._steepest(strongest)
        assert isinstance(self.pool.surprisal, Tensor)
        surprisal = self.pool.surprisal[:, position]
        tokens = np.flatnonzero(self.constraints.allowed)
        most = max(LEAST_SWEPT, SWEPT_TOKENS // (self.config.length - position))
        if len(tokens) > most:
            likely = surprisal.mean(0).masked_fill(~self.allowed, torch.inf)
            (tokens,) = yield HostTransfer((likely.topk(most, largest=False).indices,))
        rows = np.repeat(self.archive.ids[[strongest]], len(tokens), axis=0)
        rows[:, position] = tokens
        ((_, prompts),) = by_length(rows)
        value = yield ModelRequest(False, prompts, values_only=True)
        count, copies = PLACED
        best = tokens[np.argsort(-np.nan_to_num(value, nan=-np.inf), kind="stable")[:count]]
        suits = surprisal[:, to_device(best, self.device)]
        (places,) = yield HostTransfer((suits.topk(min(copies, len(suits)), dim=0, largest=False).indices,))
        rows = self.pool.ids[places.T.reshape(-1)]
        rows[:, position] = np.repeat(best, places.shape[0])
        new = yield from self.cache.evaluate(rows[self.constraints.check(rows)])
        self.archive.add(new.ids, new.value, new.cross_entropy, island)
        return new

    def _steepest(self, row: int) -> Any:
        """Return the free position of a prompt at which the gradient says that tokens matter most."""
        ((_, ids),) = by_length(self.archive.ids[[row]])
        gradient = yield ModelRequest(True, ids)
        if self.iteration == 0:
            warn_if_flat(gradient, self.label)
        tables = self._tables(gradient, ids)
        spread = tables.value[0][:, self.allowed].std(dim=1)
        (spread,) = yield HostTransfer((spread,))
        free = self.constraints.free_positions
        free = free[free >= self.config.length - self.shortest]  # that every prompt has
        # Of equal positions, the last one is taken: it is the cheapest.
        return int(free[::-1][np.nan_to_num(spread[free[::-1]]).argmax()])

    def _tables(self, gradient: Any, ids: np.ndarray) -> SwapTables:
        """Return the tables of prompts of one length."""
        terms = ids.shape[1] - self.unpredicted
        tables = swap_tables(gradient, to_device(ids, self.device), self.allowed, terms, self.bigrams)
        tables.value.div_(self.scale).nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
        tables.cross_entropy.nan_to_num_(nan=torch.inf)
        return tables.right_aligned(self.config.length)

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
        self._note(children)
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
        new = yield from self._sample(self.island)
        if not len(new.ids):  # nothing to begin with: no sample was new and obeyed the constraints
            self.island = EVERYTHING
            return new
        return new + (yield from self._sweep(self.island))

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
        rows, weight = choose_parents(
            self.archive, self.island, self.config, self.effects, self.scale, self.steepest, self.rng, self._ways()
        )
        self.journal.choose(rows)
        group = self.tables.touch(rows.tolist(), len(self.journal.columns["parents"].rows))
        if group.rows:
            yield from self._compute(group)
        tables = SwapTables.stack([self.tables[row] for row in rows.tolist()])
        ids = self.archive.ids[rows]
        terms = (lengths_of(ids) - self.unpredicted).astype(np.float32)
        batch = Batch(rows, ids, weight, terms, tables)
        return self.moves.rank(batch, self.effects, self._donors(), self.crossed, self.config.children, self.rng)

    def _ways(self) -> Sequence[np.ndarray]:
        """Return the rows of the cells that give parents of their own."""
        if self.cells is None:
            return ()
        count = max(1, min(self.config.parents, round(self.config.diversity * self.config.parents)))
        return self.cells.turns(self.iteration, count)

    def _compute(self, group: TableGroup) -> Any:
        """Compute the swap tables of a group of rows."""
        parts = by_length(self.archive.ids[list(group.rows)])
        tables: list[SwapTables] = []
        for _, ids in parts:
            tables.append(self._tables((yield ModelRequest(True, ids, draw=group.draw)), ids))
        if len(parts) == 1:
            self.tables.put(group, tables[0])
            return
        place = to_device(np.argsort(np.concatenate([which for which, _ in parts])), self.device)
        self.tables.put(group, SwapTables(*(table[place] for table in SwapTables.stack(tables))))

    def _donors(self) -> Donors | None:
        """Return the samples, or recent parents, as donors of beginnings."""
        recent = [row for row in self.tables.rows if self.island in (EVERYTHING, self.archive.island[row])][-DONORS:]
        if self.pool is not None and (len(recent) < DONORS // 4 or self.rng.random() < 0.5):
            return self.pool
        if not recent:
            return None
        tables = [self.tables[row] for row in recent]
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

    # Learning.

    def _note(self, children: Offers) -> None:
        """Note the swaps and crossings that were scored in the journal, and learn from them."""
        rows = self.archive.rows(children.ids)
        known = (rows >= 0) & (children.position >= 0)
        child = rows[known]
        place = np.where(children.kind == _CROSS, -1 - children.position, children.position)[known]
        self.journal.move(self.iteration, children.parent[known], child, place, children.predicted[:, known])
        self._learn(children.parent[known], child, place, children.predicted[:, known])

    def _learn(self, parent: np.ndarray, child: np.ndarray, place: np.ndarray, predicted: np.ndarray) -> None:
        """Learn from moves: rows of parents and children, position or -1 - cut, and predictions `[2, K]`."""
        archive = self.archive
        change = (archive.value[child] - archive.value[parent]) / self.scale
        dearer = archive.cross_entropy[child] - archive.cross_entropy[parent]
        swap = place >= 0
        if swap.any():
            position = place[swap]
            old, new = archive.ids[parent[swap], position], archive.ids[child[swap], position]
            self.effects[0].learn(position, old, new, predicted[0, swap], change[swap])
            self.effects[1].learn(position, old, new, predicted[1, swap], dearer[swap])
        if not swap.all():
            self.crossed.learn(-1 - place[~swap], change[~swap].astype(float))

    # Interruptions.

    def _state(self) -> State:
        """Return the state after an iteration; everything in it stays as it is when the search goes on."""
        memory = {
            **self.journal.arrays(),
            "island": self.archive.island,
            "areas": np.array(self.areas, dtype=np.float64),
            "scale": np.array([self.scale, self.floor]),
            "islands": np.array([self.island, self.islands, self.pending_island, self.pool_seed, self.steepest]),
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
        yield from self._draw_pool()
        for group in self.tables.groups:
            yield from self._compute(group)
        self.rng.bit_generator.state = state.rng

    def _remember(self, memory: Mapping[str, np.ndarray]) -> None:
        """Restore the archive, the journal, what was learned from it, and the pending children."""
        ids, value, cross_entropy = self.cache.finite()
        self.archive.add(ids, value, cross_entropy, memory["island"])
        self.scale, self.floor = memory["scale"].tolist()
        numbers = memory["islands"].tolist()
        self.island, self.islands, self.pending_island, self.pool_seed, self.steepest = numbers
        self.areas = memory["areas"].tolist()
        self._forget()
        self.journal.restore(memory)
        moves, predicted = self.journal.columns["moves"].rows, self.journal.columns["predicted"].rows
        ends = np.flatnonzero(np.diff(moves[:, 0])) + 1
        for part, guess in zip(np.split(moves, ends), np.split(predicted, ends), strict=True):
            if len(part):
                self._learn(part[:, 1], part[:, 2], part[:, 3], guess.T)
        for time, parents in enumerate(self.journal.columns["parents"].rows, 1):
            rows = parents[parents >= 0].tolist()
            np.add.at(self.archive.uses, rows, 1)
            self.tables.touch(rows, time)
        if self.cells is not None:
            self.cells.restore(memory)
        self.pending = None
        if "pending_ids" in memory:
            self.pending = Offers(**{name: memory[f"pending_{name}"] for name in Offers._fields})

    def _nothing(self) -> NewScores:
        return NewScores(
            np.empty((0, self.config.length), np.int64), np.empty(0, np.float32), np.empty(0, np.float32), 0
        )

    def _rejections(self) -> int:
        rejected, self.rejected = self.rejected, 0
        return rejected
