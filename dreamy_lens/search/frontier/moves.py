"""Moves of the frontier search: how children are made of parents, ranked on the device by predicted scores.

A swap replaces one token. A pair replaces two neighbours. A shift deletes a token at one place and inserts one at
another. A crossing puts the beginning of another prompt before the parent's end. The device ranks them, and the host
makes the children of those that rank highest and are new.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dreamy_lens.models.transfer import to_device
from dreamy_lens.scoring.bigrams import Bigrams
from dreamy_lens.scoring.swap_tables import FOLLOWING
from dreamy_lens.search.constraint_set import ConstraintSet
from dreamy_lens.search.frontier.crossings import Crossings
from dreamy_lens.search.frontier.donors import Donors
from dreamy_lens.search.frontier.effects import SwapEffects
from dreamy_lens.search.frontier.offers import PAIRS, Batch, Ranking, shifted
from dreamy_lens.search.lengths import EMPTY, lengths_of

SHARES = np.array([0.42, 0.15, 0.15, 0.15, 0.13])
"""Share of the children of each kind of move: swaps that are predicted best; swaps at a uniform position, of which
better ones are more likely; pairs; crossings; shifts. The order is that of :data:`KINDS`."""
RESIZED = np.array([0.06, 0.03])
"""Share of insertions, and of deletions, if prompts may have several lengths; the others have the rest."""
FIRST_TOKENS = 8
"""Largest number of tokens that are tried as the first of a pair."""
PAIR_ENTRIES = 1 << 22
"""Largest number of pairs that are ranked in one iteration."""
FROM_PLACE = 16
"""Number of pairs that are kept of those at one place of a parent, of which some become children."""
NOISE = 1 << 21
"""Number of random numbers that are drawn once, and then read from changing offsets."""


class Moves:
    """Maker of moves for one search.

    Args:
        constraints: Constraints on prompts.
        unpredicted: Number of tokens of a prompt whose surprisal is not among those averaged in the cross-entropy.
        bigrams: Predictions after single tokens, or None.
        device: Device of the tables.
        seed: Seed of the random numbers that are kept on the device.
    """

    def __init__(
        self, constraints: ConstraintSet, unpredicted: int, bigrams: Bigrams | None, device: torch.device, seed: int
    ) -> None:
        self.constraints, self.unpredicted, self.bigrams = constraints, unpredicted, bigrams
        self.is_resized = constraints.shortest < constraints.length
        self.allowed = to_device(constraints.allowed, device)
        self._device = device
        self._gumbel, self._normal = _random_numbers(seed, device)
        self._runs = _runs(constraints.free_positions)

    def rank(
        self,
        batch: Batch,
        effects: tuple[SwapEffects, SwapEffects],
        donors: Donors | None,
        crossed: Crossings,
        children: int,
        rng: np.random.Generator,
    ) -> Ranking:
        """Rank the moves of parents on the device.

        Args:
            batch: Parents.
            effects: What has been learned about swaps, for value and cross-entropy.
            donors: Prompts whose beginnings are offered, or None.
            crossed: What has been learned about crossings.
            children: Number of children to make.
            rng: Random generator.
        """
        count = len(batch.rows)
        each = np.full(count, children // count)
        each[: children - each.sum()] += 1
        shares = self._shares(batch, donors is not None)
        counts = np.array([rng.multinomial(c, own / own.sum()) for c, own in zip(each, shares, strict=True)])
        known: dict[str, Any] = {"counts": counts, "batch": batch}
        score = self._scores(batch, effects)  # [P, n, V]
        tensors = [*self._swaps(score, batch, counts[:, 0], rng)]
        known["explore"], found = self._explored(score, batch, counts[:, 1], effects[0].deviation, rng)
        tensors += found
        if counts[:, 2].sum():
            known["pair"], found = self._pairs(batch, effects, int(counts[:, 2].sum()), rng)
            tensors += found
        if donors is not None and counts[:, 3].sum():
            known["donors"] = donors.ids
            tensors.append(self._crossings(batch, donors, crossed, effects, int(counts[:, 3].max()), rng))
        if counts[:, 4].sum():
            known["shift"], found = self._shifts(batch, counts[:, 4], rng)
            tensors.append(found)
        if self.is_resized and counts[:, 5].sum():
            known["insert"], found = self._insertions(batch, effects, counts[:, 5], rng)
            tensors.append(found)
        if self.is_resized and counts[:, 6].sum():
            known["delete"] = True
            tensors.append(self._deletions(batch, effects, int(counts[:, 6].max()), rng))
        return Ranking(known, tuple(tensors))

    def _shares(self, batch: Batch, has_donors: bool) -> np.ndarray:
        """Return the share of each kind of move among each parent's children, `[P, kinds]`."""
        shares = SHARES.copy()
        if self.bigrams is None or not len(self._runs.pairs):
            shares[2] = 0
        if not has_donors:
            shares[3] = 0
        if not len(self._runs.shifts):
            shares[4] = 0
        if not self.is_resized:
            return np.tile(shares, (len(batch.rows), 1))
        shares = np.tile(np.concatenate([(1 - RESIZED.sum()) * shares, RESIZED]), (len(batch.rows), 1))
        lengths = lengths_of(batch.ids)
        shares[:, 2] *= _neighbours(self._usable(batch)).any()
        shares[lengths < 2, 4] = 0
        if self.constraints.fixed:
            shares[:, 4] = 0
        shares[lengths == self.constraints.length, 5] = 0
        shares[lengths == self.constraints.shortest, 6] = 0
        return shares

    def _usable(self, batch: Batch) -> np.ndarray:
        """Return which places of parents have tokens that may change, bool `[P, n]`."""
        usable = batch.ids != EMPTY
        usable[:, list(self.constraints.fixed)] = False
        return usable

    # Random numbers.
    def _noise(self, pool: Tensor, shape: tuple[int, ...], rng: np.random.Generator) -> Tensor:
        """Return random numbers from a pool, from a random offset on."""
        size = int(np.prod(shape))
        if size > len(pool):
            return self._noise(pool.repeat(-(-size // len(pool)) + 1), shape, rng)
        at = int(rng.integers(len(pool) - size + 1))
        return pool[at : at + size].view(shape)

    # Ranking.

    def _on_device(self, *arrays: np.ndarray) -> list[Tensor]:
        return [to_device(array, self._device) for array in arrays]

    def _scores(self, batch: Batch, effects: tuple[SwapEffects, SwapEffects]) -> Float[Tensor, "P n d_vocab"]:
        """Return the predicted change of `value - λ cross_entropy` for every swap; -inf where there is none."""
        value, cost = effects
        lost = value.lost(batch.ids) - batch.weight[:, None] * cost.lost(batch.ids)
        weight, lost, gained, dearer = self._on_device(batch.weight, lost, value.gained(), cost.gained())
        score = batch.tables.cross_entropy + dearer
        score *= -weight[:, None, None]
        score.add_(batch.tables.value, alpha=value.slope)
        score += gained
        score += lost[..., None]
        for position in self.constraints.fixed:
            score[:, position] = -torch.inf
        if self.is_resized:
            (empty,) = self._on_device(batch.ids == EMPTY)
            score.masked_fill_(empty[..., None], -torch.inf)
        return score

    def _swaps(self, score: Tensor, batch: Batch, counts: np.ndarray, rng: np.random.Generator) -> list[Tensor]:
        """Rank the swaps that are predicted best: `[P, K]` flat numbers of (position, token), and their predictions.

        Differences that the language model makes between tokens count at its own temperature: Gumbel noise of λ / n.
        """
        (weight,) = self._on_device(batch.weight / batch.terms)
        noise = self._noise(self._gumbel, tuple(score.shape), rng)
        noisy = torch.addcmul(score, noise, weight[:, None, None]).flatten(1)
        at = noisy.topk(min(int(4 * counts.max(initial=0) + 8), noisy.shape[1]), dim=1).indices
        return [at, batch.tables.value.flatten(1).gather(1, at), batch.tables.cross_entropy.flatten(1).gather(1, at)]

    def _explored(
        self, score: Tensor, batch: Batch, counts: np.ndarray, temperature: float, rng: np.random.Generator
    ) -> tuple[tuple[np.ndarray, np.ndarray], list[Tensor]]:
        """Draw swaps at uniform positions from the Boltzmann distribution of their scores.

        Returns:
            Number of the parent and position of each; and on the device, its token and its predictions.
        """
        parent = np.repeat(np.arange(len(counts)), counts)
        if self.is_resized:
            position = _draw_places(self._usable(batch)[parent], rng)
        else:
            position = rng.choice(self.constraints.free_positions, size=len(parent))
        at = self._on_device(parent, position)
        noisy = score[at[0], at[1]]
        noisy += self._noise(self._gumbel, tuple(noisy.shape), rng) * temperature
        token = noisy.argmax(1) if len(parent) else torch.empty(0, dtype=torch.int64, device=self._device)
        place = (*at, token)
        return (parent, position), [token, batch.tables.value[place], batch.tables.cross_entropy[place]]

    def _pairs(
        self, batch: Batch, effects: tuple[SwapEffects, SwapEffects], count: int, rng: np.random.Generator
    ) -> tuple[tuple[np.ndarray, np.ndarray], list[Tensor]]:
        """Rank replacements of two neighbours, at random places of random parents.

        The surprisal of the first token is exact; that of the second, and of the token after it, is corrected by
        bigrams.

        Returns:
            Number of the parent and first position of each place; and on the device, first and second tokens `[K, 12]`.
        """
        assert self.bigrams is not None
        places = -(-count // PAIRS)
        if self.is_resized:
            neighbours = _neighbours(self._usable(batch))
            parent = rng.choice(np.flatnonzero(neighbours.any(axis=1)), size=places)
            position = _draw_places(neighbours[parent], rng)
        else:
            parent = rng.integers(len(batch.rows), size=places)
            position = rng.choice(self._runs.pairs, size=places)
        ids, length = batch.ids[parent], batch.ids.shape[1]
        index = np.arange(places)
        value, cost = effects
        has_next = (position + 2 < length).astype(np.float32)
        following = ids[index, np.minimum(position + 2, length - 1)]
        at, first, second, old, old_second, follower, factor, weight, terms = self._on_device(
            parent,
            position,
            position + 1,
            ids[index, position],
            ids[index, position + 1],
            following,
            has_next,
            batch.weight[parent] / batch.terms[parent],
            batch.terms[parent],
        )
        gained, dearer = self._on_device(value.gained(), cost.gained())
        weight, terms = weight[:, None], terms[:, None]
        tables, width = batch.tables, batch.tables.value.shape[-1]

        def alone(place: Tensor) -> Tensor:
            surprisal = tables.surprisal[at, place] + dearer[place] * terms
            return (tables.value[at, place] * value.slope + gained[place] - weight * surprisal).masked_fill_(
                ~self.allowed, -torch.inf
            )

        start = alone(first)
        tried = min(FIRST_TOKENS, max(1, PAIR_ENTRIES // (places * width)), width)
        start.scatter_(1, old[:, None], -torch.inf)
        best = start.topk(tried, dim=1)
        end = alone(second)
        end.scatter_(1, old_second[:, None], -torch.inf)
        end -= FOLLOWING * weight * self.bigrams.after[old]  # what the old first token predicts
        end += FOLLOWING * weight * factor[:, None] * self.bigrams.before[follower]
        score = best.values[:, :, None] + end[:, None, :]
        score.addcmul_(weight[:, :, None] * FOLLOWING, self.bigrams.after[best.indices])
        flat = score.flatten(1).topk(min(FROM_PLACE, tried * width), dim=1).indices
        tokens = [best.indices.gather(1, torch.div(flat, width, rounding_mode="floor")), flat % width]
        return (parent, position), tokens

    def _crossings(
        self,
        batch: Batch,
        donors: Donors,
        crossed: Crossings,
        effects: tuple[SwapEffects, SwapEffects],
        count: int,
        rng: np.random.Generator,
    ) -> Int64[Tensor, "P K"]:
        """Rank crossings: the donor's beginning before the cut, and the parent's end after it.

        The surprisal of the first token after the cut, behind the donor's beginning, is exact.

        Returns:
            Flat numbers of (donor, cut) for each parent, best first.
        """
        value, cost = effects
        ids, length = batch.ids, batch.ids.shape[1]
        own = donors.own
        head = torch.cat([torch.zeros_like(own[:, :1]), own.cumsum(1)], 1)[:, :length]  # before each cut
        flipped = batch.tables.own.flip(1).cumsum(1).flip(1)
        tail = torch.cat([flipped[:, 1:], torch.zeros_like(flipped[:, :1])], 1)  # after the token at each cut
        mean, spread = crossed.estimates(value.deviation)
        at, other, mean, spread, weight = self._on_device(ids, donors.ids, mean, spread, batch.weight)
        weight = weight[:, None, None]
        change = head[None] + donors.junctions(at) + tail[:, None]  # the sum of surprisals
        if self.is_resized:
            terms, of_children = self._on_device(batch.terms, self._terms_of(donors.ids))
            change = change / of_children[:, None] - (flipped[:, :1] / terms[:, None])[..., None]
        else:
            change = (change - flipped[:, :1, None]) / float(batch.terms[0])
        noise = self._noise(self._normal, tuple(change.shape), rng)
        score = mean - weight * change + noise * torch.sqrt(spread**2 + (1.5 * weight * cost.deviation) ** 2)
        same = (other[None] != at[:, None]).cumsum(2).roll(1, 2) == 0  # the beginnings are equal: no new prompt
        score.masked_fill_(same, -torch.inf)
        if self.is_resized:  # the cut is among the parent's tokens, and not before the donor's first
            inside = (at != EMPTY)[:, None] & (other != EMPTY)[None]
            score.masked_fill_(~inside, -torch.inf)
        score[..., 0] = -torch.inf
        flat = score.flatten(1)
        return flat.topk(min(2 * count, flat.shape[1]), dim=1).indices

    def _shifts(
        self, batch: Batch, counts: np.ndarray, rng: np.random.Generator
    ) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], Tensor]:
        """Draw shifts: a token is deleted at one place, and one that the model finds likely is inserted at another.

        Returns:
            Number of the parent, place of the deletion and place of the insertion of each; and its token (on the
            device).
        """
        parent = np.repeat(np.arange(len(counts)), counts)
        length = batch.ids.shape[1]
        if self.is_resized:
            size = lengths_of(batch.ids)[parent]
            first = length - size
        else:
            first, size = self._runs.shifts[rng.integers(len(self._runs.shifts), size=len(parent))].T
        # Both are mostly before the last token, on which many features depend most.
        size = size - ((first + size == length) & (size > 2) & (rng.random(len(parent)) < 0.7))
        gone, place = rng.integers(size), rng.integers(size - 1)
        place += place >= gone  # two different places
        gone, place = first + gone, first + place
        before = np.where(place <= gone, place, np.minimum(place + 1, length - 1))
        at = self._on_device(parent, before)
        score = -batch.tables.surprisal[at[0], at[1]]
        if self.bigrams is not None and len(parent):
            rest = shifted(batch.ids[parent], gone, place, np.zeros_like(gone))
            following = rest[np.arange(len(rest)), np.minimum(place + 1, length - 1)]
            following, inner = self._on_device(following, (place < length - 1).astype(np.float32))
            score += inner[:, None] * self.bigrams.before[following]
        score += self._noise(self._gumbel, tuple(score.shape), rng)
        return (parent, gone, place), score.masked_fill_(~self.allowed, -torch.inf).argmax(1)

    # Moves that change the length.

    def _terms_of(self, ids: np.ndarray) -> np.ndarray:
        """Return the number of tokens whose surprisals are averaged in the cross-entropy of prompts, float32."""
        return (lengths_of(ids) - self.unpredicted).astype(np.float32)

    def _insertions(
        self, batch: Batch, effects: tuple[SwapEffects, SwapEffects], counts: np.ndarray, rng: np.random.Generator
    ) -> tuple[tuple[np.ndarray, np.ndarray], Tensor]:
        """Draw insertions before a uniform token of the parent, of tokens that fit there and have raised the value.

        Returns:
            Number of the parent, and place of the token before which is inserted, of each; and its token (on the
            device).
        """
        parent = np.repeat(np.arange(len(counts)), counts)
        place = _draw_places((batch.ids != EMPTY)[parent], rng)
        value, _ = effects
        at, where, follower, weight = self._on_device(
            parent, place, batch.ids[parent, place], (batch.weight / batch.terms)[parent]
        )
        surprisal = batch.tables.surprisal[at, where]
        if self.bigrams is not None:
            surprisal = surprisal - self.bigrams.before[follower]
        (gained,) = self._on_device(value.gained())
        score = gained[where - 1] - weight[:, None] * surprisal
        noise = self._noise(self._gumbel, tuple(score.shape), rng)
        score += noise * (weight + value.deviation / 2)[:, None]
        return (parent, place), score.masked_fill_(~self.allowed, -torch.inf).argmax(1)

    def _deletions(
        self, batch: Batch, effects: tuple[SwapEffects, SwapEffects], count: int, rng: np.random.Generator
    ) -> Int64[Tensor, "P K"]:
        """Rank deletions: the surprisal of the token behind is exact, and what the value loses is what was learned.

        Returns:
            Places of the tokens that go, for each parent, best first.
        """
        value, cost = effects
        usable = self._usable(batch) & (lengths_of(batch.ids) > self.constraints.shortest)[:, None]
        ids, usable, lost, weight, terms = self._on_device(
            batch.ids, usable, value.lost(batch.ids), batch.weight[:, None], batch.terms[:, None]
        )
        own, surprisal = batch.tables.own, batch.tables.surprisal
        behind = surprisal[:, :-1].gather(-1, ids[:, 1:, None].clamp(min=0))[..., 0]  # once it is gone
        saved = own.clone()
        saved[:, :-1] += own[:, 1:] - behind
        total = own.sum(1, keepdim=True)
        change = (total - saved) / (terms - 1).clamp(min=1) - total / terms
        noise = self._noise(self._normal, tuple(change.shape), rng)
        spread = torch.sqrt(value.deviation**2 + (weight * cost.deviation) ** 2)
        score = (lost - weight * change + noise * spread).masked_fill(~usable, -torch.inf)
        return score.topk(min(2 * count, score.shape[1]), dim=1).indices


def _neighbours(usable: np.ndarray) -> np.ndarray:
    """Return which places `[P, n]` may change together with the place after them."""
    return usable & np.roll(usable, -1, axis=1) & (np.arange(usable.shape[1]) < usable.shape[1] - 1)


def _draw_places(usable: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a uniform place among those that are usable, for each row `[K, n]` of which at least one is."""
    number = (rng.random(len(usable)) * usable.sum(axis=1)).astype(np.int64)
    return (usable.cumsum(axis=1) > number[:, None]).argmax(axis=1)


@functools.lru_cache(maxsize=2)
def _random_numbers(seed: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return Gumbel and normal numbers, which are the same on every device; searches with one seed share them."""
    numbers = np.random.default_rng(seed)
    gumbel, normal = numbers.gumbel(size=NOISE).astype(np.float32), numbers.standard_normal(NOISE, dtype=np.float32)
    return to_device(gumbel, device), to_device(normal, device)


class _Runs(NamedTuple):
    """Runs of neighbouring free positions.

    Attributes:
        shifts: First position and size of each run of at least two positions, int64 `[R, 2]`.
        pairs: First positions of neighbours, both of which are free, int64 `[N]`.
    """

    shifts: Int64[np.ndarray, "R 2"]
    pairs: Int64[np.ndarray, " N"]


def _runs(free: np.ndarray) -> _Runs:
    parts = [part for part in np.split(free, np.flatnonzero(np.diff(free) > 1) + 1) if len(part) > 1]
    shifts = np.array([(part[0], len(part)) for part in parts], dtype=np.int64).reshape(-1, 2)
    return _Runs(shifts, np.concatenate([part[:-1] for part in parts] or [free[:0]]))
