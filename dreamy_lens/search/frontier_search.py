"""Frontier search: it starts from samples of the language model, keeps every prompt, and works where the frontier is.

An iteration chooses parents from an archive of everything scored, each with a λ of its own: the slope of the frontier's
concave hull at a cross-entropy that is drawn anew each time. So no λ has to be set, and the scale of the feature does
not matter. Children are made by four operators; see :data:`OPERATORS`.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from dreamy_lens.errors import FeatureError
from dreamy_lens.models.transfer import to_device
from dreamy_lens.scoring.sampling import Samples
from dreamy_lens.scoring.scorer import Scorer
from dreamy_lens.scoring.swap_tables import SwapTables, swap_tables
from dreamy_lens.search.archive import Archive
from dreamy_lens.search.config import SearchConfig
from dreamy_lens.search.constraint_set import ConstraintSet
from dreamy_lens.search.protocol import BigramRequest, Clock, HostTransfer, ModelRequest, SampleRequest, Search
from dreamy_lens.search.score_cache import ScoreCache
from dreamy_lens.search.settings import documented, setting
from dreamy_lens.search.steps import State
from dreamy_lens.search.swap_effects import SwapEffects

OPERATORS = {"swap": 0.40, "explore": 0.30, "cross": 0.15, "shift": 0.15}
"""Share of the children of each operator: the swaps predicted best; swaps among the best by gradient, uniformly; the
beginning of another prompt before the parent's end; a token deleted at one place and one inserted at another."""

PATIENCE, GROWTH = 12, 0.02
"""An island is left when its hypervolume grew by less than this share in this number of iterations."""
SWEPT = 1 << 15
"""Largest number of last tokens that the start tries."""
TABLE_BYTES = {"cpu": 1 << 28, "cuda": 1 << 32}
"""Memory for the swap tables of parents, by kind of device."""


@documented
@dataclass(frozen=True)
class FrontierSearch(SearchConfig):
    """Settings of the frontier search. An iteration has as many children as one of EPO under its defaults.

    Attributes:
        {settings}

    Raises:
        SettingsError: A setting is outside its range.
    """

    name: ClassVar[str] = "frontier"

    parents: int = setting(8, "parents", "prompts that are changed in one iteration", minimum=1, maximum=100_000)
    children: int = setting(
        256, "children", "changed prompts that are scored in one iteration", minimum=1, maximum=1_000_000
    )
    samples: int = setting(
        256,
        "samples",
        "prompts that the start draws from the language model",
        minimum=8,
        maximum=1_000_000,
        advanced=True,
    )
    max_cross_entropy: float = setting(
        9.0, "largest cross-entropy", "cross-entropy up to which the frontier is searched, nats per token"
    )

    @property
    def prompts_at_once(self) -> int:
        """Largest number of prompts that one iteration handles."""
        return max(self.children + self.parents, self.samples)


class Parent(NamedTuple):
    """Prompt to change, and the weight of fluency for which it is changed."""

    row: int
    weight: float


class Child(NamedTuple):
    """Changed prompt: its ids, the row of its parent, and for a swap the position and token, else -1."""

    ids: np.ndarray
    parent: int
    operator: str
    position: int = -1
    token: int = -1


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
        run = _Run(scorer, config, constraints, ScoreCache() if cache is None else cache)
        yield from run.begin(start)
        for iteration in range(1, config.iterations + 1):
            yield from run.step(iteration)


class _Run:
    """One search: its archive, what it has learned, and its random generator."""

    def __init__(self, scorer: Scorer, config: FrontierSearch, constraints: ConstraintSet, cache: ScoreCache) -> None:
        self.config, self.constraints, self.cache = config, constraints, cache
        self.device, self.label = scorer.model.device, scorer.bound.feature.label
        self.terms = scorer.layout(config.length).terms
        self.rng = np.random.default_rng(config.seed)
        self.generator = torch.Generator(self.device).manual_seed(int(self.rng.integers(2**63)))
        self.clock = Clock(0.0)
        self.archive = Archive(config.length, config.max_cross_entropy)
        self.allowed = to_device(constraints.allowed, self.device)
        self.free = constraints.free_positions
        self.row_of: dict[bytes, int] = {}
        self.tables: OrderedDict[int, SwapTables] = OrderedDict()
        self.samples: Samples | None = None
        self.rejected = 0
        self.island = self.islands = 1
        self.areas: list[float] = []

    # The start.

    def begin(self, start: np.ndarray | None) -> Search:
        """Score samples of the model, and the best last tokens behind those in which they are likely."""
        config, length = self.config, self.config.length
        width = int(self.allowed.shape[0])
        keep = max(1, min(config.samples, TABLE_BYTES["cpu"] // 4 // (4 * length * width)))
        samples: Samples = yield SampleRequest(
            config.samples, length, self.constraints.allowed, dict(self.constraints.fixed), self._seed(), keep
        )
        self.bigrams: Tensor | None = yield BigramRequest()
        (rows,) = yield HostTransfer((samples.ids,))
        good = self.constraints.check(rows)
        self.rejected += int((~good).sum())
        first = [] if start is None else [start]
        first.append(rows[good])
        if not good.any() and start is None:
            first.append(self.constraints.random(min(config.samples, 64), self.rng))
        new = yield from self.cache.evaluate(np.concatenate(first))
        self._take(new)
        if not len(self.archive):
            raise FeatureError(
                f"{self.label} is NaN or infinite on every one of the {new.non_finite} initial prompts that were "
                "tried, so nothing can be selected. Check the feature with `dreamy-lens doctor`, or give a start on "
                "which it is finite."
            )
        kept = np.flatnonzero(good[: len(samples.surprisal)])
        self.pool = rows[kept]
        self.samples = Samples(samples.ids[torch.as_tensor(kept, device=self.device)], samples.surprisal[kept])
        if len(kept):
            swept = yield from self._sweep()
            new = new + swept
        self.scale = float(np.std(self.archive.value)) or float(np.abs(self.archive.value).max()) or 1.0
        self.floor = float(np.median(self.archive.value))
        self.effects = [
            SwapEffects(length, width, 0.0, True, 1.0, 6.0, self.device),
            SwapEffects(length, width, 1.0, False, 0.4, 2.0, self.device),
        ]
        self.crossed = np.zeros((length, 3))  # number, sum and sum of squares of changes by the cut
        yield new.step(self._state(0), None, self._rejections())

    def _sweep(self) -> Any:
        """Try every last token behind the strongest sample, and put the best ones behind the samples they suit."""
        last, samples = int(self.free[-1]), self.samples
        assert samples is not None
        tokens = np.flatnonzero(self.constraints.allowed)
        if len(tokens) > SWEPT:
            likely = samples.surprisal[:, last].mean(0).masked_fill(~self.allowed, torch.inf)
            (tokens,) = yield HostTransfer((likely.topk(SWEPT, largest=False).indices,))
        mine = np.where(self.archive.islands == self.island, self.archive.value, -np.inf)
        rows = np.repeat(self.archive.ids[[int(np.argmax(mine))]], len(tokens), axis=0)
        rows[:, last] = tokens
        value = yield ModelRequest(False, rows, values_only=True)
        best = tokens[np.argsort(-np.nan_to_num(value, nan=-np.inf))[:64]]
        suits = samples.surprisal[:, last][:, torch.as_tensor(best, device=samples.surprisal.device)]
        (places,) = yield HostTransfer((suits.topk(min(4, len(suits)), dim=0, largest=False).indices,))
        rows = np.repeat(self.pool[places.T.reshape(-1)], 1, axis=0)
        rows[:, last] = np.repeat(best, places.shape[0])
        rows = rows[self._obeys(rows)]
        new = yield from self.cache.evaluate(rows)
        self._take(new)
        return new

    # An iteration.

    def _voyage(self) -> Any:
        """Leave an island that has stopped growing, for everything found so far or for a new island."""
        self.areas.append(self.archive.area(self.island, self.floor))
        patience = PATIENCE
        if len(self.areas) <= patience or self.areas[-1] > (1 + GROWTH) * self.areas[-1 - patience]:
            return None
        self.areas = []
        if self.island and self.islands > 1:
            self.island = 0
            return None
        self.islands += 1
        self.island = self.islands
        return (yield from self._settle())

    def _settle(self) -> Any:
        """Draw new samples, and score them and the best last tokens behind them."""
        config, length = self.config, self.config.length
        width = int(self.allowed.shape[0])
        keep = max(1, min(config.samples, TABLE_BYTES["cpu"] // 4 // (4 * length * width)))
        samples: Samples = yield SampleRequest(
            config.samples, length, self.constraints.allowed, dict(self.constraints.fixed), self._seed(), keep
        )
        (rows,) = yield HostTransfer((samples.ids,))
        good = self.constraints.check(rows)
        new = yield from self.cache.evaluate(rows[good])
        self._take(new)
        kept = np.flatnonzero(good[: len(samples.surprisal)])
        if not len(kept) or not len(new.ids):
            self.island = 0
            return new
        self.pool = rows[kept]
        self.samples = Samples(samples.ids[torch.as_tensor(kept, device=self.device)], samples.surprisal[kept])
        return new + (yield from self._sweep())

    def step(self, iteration: int) -> Search:
        """Choose parents, make children, score them, and learn from them."""
        settled = yield from self._voyage()
        parents = self._choose()
        yield from self._prepare([parent.row for parent in parents])
        children = yield from self._children(parents)
        rows = np.stack([child.ids for child in children]) if children else np.empty((0, self.config.length), np.int64)
        new = yield from self.cache.evaluate(rows)
        self._take(new)
        self._learn(children)
        new = new if settled is None else settled + new
        yield new.step(self._state(iteration), None, self._rejections())

    def _choose(self) -> list[Parent]:
        """Choose parents: each is one of the best for the slope of the hull at a cross-entropy drawn uniformly."""
        archive, rng = self.archive, self.rng
        at, height = archive.hull(self.island)
        height = height / self.scale
        slopes = np.diff(height) / np.maximum(np.diff(at), 1e-3) if len(at) > 1 else np.array([1.0])
        least, most = slopes.min() / 4, 2 * slopes.max()
        near = archive.cross_entropy < archive.most - 0.2
        rows = np.flatnonzero(near & (archive.islands == self.island) if self.island else near)
        value, cost = archive.value[rows] / self.scale, archive.cross_entropy[rows]
        chosen = []
        for _ in range(self.config.parents):
            drawn = rng.uniform(at[0], max(self.config.max_cross_entropy, at[0] + 0.1))
            segment = int(np.searchsorted(at, drawn)) - 1
            weight = slopes[segment] if 0 <= segment < len(slopes) else 2 * least
            weight = float(np.clip(weight * np.exp(0.4 * rng.normal()), least, most))
            score = value - weight * cost
            best = np.argpartition(-score, min(64, len(score) - 1))[:64]
            noise = float(np.hypot(self.effects[0].deviation, weight * self.effects[1].deviation))
            used = archive.uses[rows[best]]
            score = score[best] - 0.15 * noise * used + 0.1 * noise * rng.gumbel(size=len(best))
            row = int(rows[best[score.argmax()]])
            archive.uses[row] += 1
            chosen.append(Parent(row, weight))
        return chosen

    def _prepare(self, rows: list[int]) -> Any:
        """Compute the swap tables of parents that have none, and forget those that were not used for long."""
        missing = [row for row in dict.fromkeys(rows) if row not in self.tables]
        if missing:
            ids = self.archive.ids[missing]
            gradient = yield ModelRequest(True, ids)
            tables = swap_tables(gradient, to_device(ids, self.device), self.allowed, self.terms, self.bigrams)
            for number, row in enumerate(missing):
                self.tables[row] = tables.rows(slice(number, number + 1))
        for row in rows:
            self.tables.move_to_end(row)
        one = 12 * self.config.length * int(self.allowed.shape[0])
        most = max(2 * self.config.parents, TABLE_BYTES.get(self.device.type, 1 << 28) // one)
        while len(self.tables) > min(most, 25 * self.config.parents):
            self.tables.popitem(last=False)

    def _children(self, parents: list[Parent]) -> Any:
        """Make new children of the parents that obey the constraints, each once."""
        config, rng, free = self.config, self.rng, self.free
        per = np.full(len(parents), config.children // len(parents))
        per[: config.children - per.sum()] += 1
        shares = np.array(list(OPERATORS.values()))
        if len(free) < 2:
            shares[[2, 3]] = 0
        counts = np.array([rng.multinomial(count, shares / shares.sum()) for count in per])
        ids = self.archive.ids[[parent.row for parent in parents]]
        tables = SwapTables.stack([self.tables[parent.row] for parent in parents])
        weights = np.array([parent.weight for parent in parents], dtype=np.float32)

        swaps = self._swaps(tables, ids, weights, int(4 * counts[:, 0].max() + 8))
        explored = self._explored(tables, weights, counts[:, 1])
        shifts = self._shifts(tables, ids, counts[:, 3])
        donors, crossings = self._crossings(tables, ids, parents, weights, counts[:, 2])
        found = yield HostTransfer((swaps, explored[2], shifts[3], crossings))
        swaps, tokens, inserted, crossings = found

        made: list[Child] = []
        seen: set[bytes] = set()

        def offer(child: Child) -> bool:
            key = child.ids.tobytes()
            if key in seen or key in self.cache:
                return False
            seen.add(key)
            if not self._obeys(child.ids[None])[0]:
                self.rejected += 1
                return False
            made.append(child)
            return True

        width = tables.value.shape[-1]
        for number, parent in enumerate(parents):
            left = counts[number, 0]
            for flat in swaps[number].tolist():
                if not left:
                    break
                child = self._swapped(ids[number], parent.row, "swap", flat // width, flat % width)
                left -= offer(child)
        for number, position, token in zip(explored[0].tolist(), explored[1].tolist(), tokens.tolist(), strict=True):
            offer(self._swapped(ids[number], parents[number].row, "explore", position, token))
        for number, gone, place, token in zip(*(a.tolist() for a in (*shifts[:3], inserted)), strict=True):
            rest = np.delete(ids[number], gone)
            offer(Child(np.insert(rest, place, token), parents[number].row, "shift"))
        for number in range(len(parents)):
            for flat in crossings[number, : counts[number, 2]].tolist():
                donor, cut = divmod(flat, config.length)
                if cut:
                    child = np.concatenate([donors[donor, :cut], ids[number, cut:]])
                    offer(Child(child, parents[number].row, "cross", token=cut))
        return made

    def _swapped(self, ids: np.ndarray, row: int, operator: str, position: int, token: int) -> Child:
        child = ids.copy()
        child[position] = token
        return Child(child, row, operator, position, token)

    def _swaps(self, tables: SwapTables, ids: np.ndarray, weights: np.ndarray, count: int) -> Tensor:
        """Draw the swaps that are predicted best, `[P, count]` flat numbers of (position, token), best first.

        Differences that the language model makes between tokens count at its own temperature: Gumbel noise of λ / n.
        """
        weight = to_device(weights, self.device)[:, None, None]
        value, cost = self.effects
        lost = value.lost(ids) - weights[:, None] * cost.lost(ids)
        gained = [to_device(effects.gained().astype(np.float32), self.device) for effects in self.effects]
        score = tables.value * (value.slope / self.scale)
        score += to_device(lost.astype(np.float32), self.device)[..., None]
        score += gained[0]
        score -= weight * (tables.cross_entropy + gained[1])
        noise = torch.empty_like(score).exponential_(generator=self.generator).log_()
        score -= noise * (weight / self.terms)
        score = self._only_free(score).flatten(1)
        return score.topk(min(count, score.shape[1]), dim=1).indices

    def _only_free(self, score: Tensor) -> Tensor:
        """Exclude positions that are fixed."""
        for position in self.constraints.fixed:
            score[:, position] = -torch.inf
        return score

    def _explored(
        self, tables: SwapTables, weights: np.ndarray, counts: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, Tensor]:
        """Draw swaps at uniform positions, uniformly among the 512 tokens that the gradient ranks highest there.

        Returns:
            Number of the parent, position, and token (on the device) of each.
        """
        parent = np.repeat(np.arange(len(counts)), counts)
        position = self.rng.choice(self.free, size=len(parent))
        at = [to_device(array, self.device) for array in (parent, position)]
        weight = to_device(weights, self.device)[at[0], None]
        score = tables.value[at[0], at[1]] / self.scale - weight * tables.cross_entropy[at[0], at[1]]
        best = score.topk(min(512, max(1, int(self.constraints.allowed.sum()) - 1)), dim=1).indices
        rank = to_device(self.rng.integers(best.shape[1], size=len(parent)), self.device)
        return parent, position, best.gather(1, rank[:, None])[:, 0]

    def _shifts(
        self, tables: SwapTables, ids: np.ndarray, counts: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, Tensor]:
        """Draw shifts: a token is deleted at one place, and one that the model finds likely is inserted at another.

        Returns:
            Number of the parent, place of the deletion, place of the insertion, and token (on the device) of each.
        """
        parent = np.repeat(np.arange(len(counts)), counts)
        rng, length = self.rng, self.config.length
        gone, place = np.empty(len(parent), np.int64), np.empty(len(parent), np.int64)
        for i in range(len(parent)):
            # Both are mostly before the last token, on which many features depend most.
            whole = rng.random() < 0.3 or length < 3
            gone[i], place[i] = rng.choice(length if whole else length - 1, 2, replace=False)
        before = np.where(place <= gone, place, np.minimum(place + 1, length - 1))
        at = [to_device(array, self.device) for array in (parent, before)]
        score = -tables.surprisal[at[0], at[1]]
        if self.bigrams is not None and len(parent):
            rest = np.stack([np.delete(ids[p], g) for p, g in zip(parent, gone, strict=True)])
            following = rest[np.arange(len(rest)), np.minimum(place, length - 2)]
            inner = to_device((place < length - 1).astype(np.float32), self.device)[:, None]
            score = score + inner * self.bigrams[to_device(following, self.device)][:, : score.shape[1]]
        noise = torch.empty_like(score).exponential_(generator=self.generator).log_()
        token = (score - noise).masked_fill_(~self.allowed[: score.shape[1]], -torch.inf).argmax(1)
        return parent, gone, place, token

    def _crossings(
        self,
        tables: SwapTables,
        ids: np.ndarray,
        parents: list[Parent],
        weights: np.ndarray,
        counts: np.ndarray,
    ) -> tuple[np.ndarray, Tensor]:
        """Rank the crossings of each parent with donors: the donor's beginning, then the parent's end from a cut on.

        The surprisal of the first token after the cut, behind the donor's beginning, is exact.

        Returns:
            Ids of the donors, and flat numbers of (donor, cut) of each parent, best first (on the device).
        """
        length, most = self.config.length, max(1, int(counts.max(initial=0)))
        recent = [row for row in self.tables if not self.island or self.archive.islands[row] == self.island][-64:]
        if self.samples is not None and len(self.pool) and (len(recent) < 16 or self.rng.random() < 0.5):
            donors, surprisal = self.pool, self.samples.surprisal[..., : tables.surprisal.shape[-1]]
            own = surprisal.gather(-1, self.samples.ids[..., None])[..., 0]
        else:
            stacked = SwapTables.stack([self.tables[row] for row in recent])
            donors, surprisal, own = self.archive.ids[recent], stacked.surprisal, stacked.own
        head = torch.cat([torch.zeros_like(own[:, :1]), own.cumsum(1)], 1)[:, :length]  # before each cut
        flipped = tables.own.flip(1).cumsum(1).flip(1)
        tail = torch.cat([flipped[:, 1:], torch.zeros_like(flipped[:, :1])], 1)  # after the token at each cut
        at = to_device(ids, self.device)  # [P, n]
        where = torch.arange(length, device=self.device)
        joint = surprisal[:, where, at].transpose(0, 1)  # [P, D, n]
        change = (head[None] + joint + tail[:, None] - flipped[:, :1, None]) / self.terms
        number, total, squares = self.crossed.T
        mean = total / (number + 2)
        spread = (squares + 3 * self.effects[0].deviation ** 2) / (number + 3) - mean**2
        deviation = np.sqrt(np.maximum(spread, 1e-6))
        gain, width = (to_device(array.astype(np.float32), self.device) for array in (mean, deviation))
        weight = to_device(weights, self.device)[:, None, None]
        noise = torch.empty_like(change).normal_(generator=self.generator)
        noise *= torch.sqrt(width**2 + (1.5 * weight * self.effects[1].deviation) ** 2)
        score = gain - weight * change + noise
        other = to_device(donors, self.device)
        same = (other[None] != at[:, None]).cumsum(2).roll(1, 2) == 0  # the beginnings are equal: no new prompt
        score.masked_fill_(same, -torch.inf)
        score[..., 0] = -torch.inf
        flat = score.flatten(1)
        return donors, flat.topk(min(most, flat.shape[1]), dim=1).indices

    # Book-keeping.

    def _obeys(self, rows: np.ndarray) -> np.ndarray:
        """Return which prompts have only allowed and the fixed tokens, and obey the constraints, bool `[B]`."""
        good = self.constraints.allowed[rows[:, self.free]].all(axis=1)
        for position, token in self.constraints.fixed.items():
            good &= rows[:, position] == token
        good[good] = self.constraints.check(rows[good])
        return good

    def _take(self, new: Any) -> None:
        """Add prompts to the archive."""
        first = len(self.archive)
        self.archive.add(new.ids, new.value, new.cross_entropy, self.island)
        for number, row in enumerate(np.ascontiguousarray(new.ids, dtype=np.int64)):
            self.row_of[row.tobytes()] = first + number

    def _learn(self, children: list[Child]) -> None:
        """Learn from the swaps and crossings that were scored."""
        pairs = [(child, self.row_of.get(child.ids.tobytes())) for child in children]
        known = [(child, row) for child, row in pairs if row is not None]
        swaps = [(child, row) for child, row in known if child.position >= 0]
        archive = self.archive
        if swaps:
            parent = np.array([child.parent for child, _ in swaps])
            row = np.array([row for _, row in swaps])
            position = np.array([child.position for child, _ in swaps])
            predicted = self._predicted(swaps)
            change = (archive.value[row] - archive.value[parent]) / self.scale
            dearer = archive.cross_entropy[row] - archive.cross_entropy[parent]
            old, new = archive.ids[parent, position], archive.ids[row, position]
            self.effects[0].learn(position, old, new, predicted[0] / self.scale, change)
            self.effects[1].learn(position, old, new, predicted[1], dearer)
        crossed = [(child, row) for child, row in known if child.operator == "cross"]
        if crossed:
            change = np.array([archive.value[row] - archive.value[child.parent] for child, row in crossed]) / self.scale
            change = np.clip(change, -6, 6)
            self.crossed *= 0.98
            cut = np.array([child.token for child, _ in crossed])
            np.add.at(self.crossed, cut, np.stack([np.ones_like(change), change, change**2], axis=1))

    def _predicted(self, swaps: list[tuple[Child, int]]) -> Float32[np.ndarray, "2 K"]:
        """Return the predicted changes of value and cross-entropy of swaps."""
        found = np.empty((2, len(swaps)), dtype=np.float32)
        for number, (child, _) in enumerate(swaps):
            tables = self.tables[child.parent]
            found[0, number] = tables.value[0, child.position, child.token]
            found[1, number] = tables.cross_entropy[0, child.position, child.token]
        return found

    def _seed(self) -> int:
        return int(self.rng.integers(2**63))

    def _rejections(self) -> int:
        rejected, self.rejected = self.rejected, 0
        return rejected

    def _state(self, iteration: int) -> State:
        nobody = np.empty((0, self.config.length), dtype=np.int64)
        return State(iteration, nobody, dict(self.rng.bit_generator.state), self.clock(), self.cache.non_finite())
