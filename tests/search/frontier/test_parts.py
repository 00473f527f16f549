"""The parts of the frontier search: what is learned about swaps, moves, parents, the archive and the journal."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dreamy_lens.scoring.bigrams import Bigrams
from dreamy_lens.scoring.swap_tables import SwapTables
from dreamy_lens.search import ConstraintSet, non_dominated
from dreamy_lens.search.frontier.archive import EVERYTHING, Archive
from dreamy_lens.search.frontier.config import FrontierSearch
from dreamy_lens.search.frontier.crossings import Crossings
from dreamy_lens.search.frontier.donors import Donors
from dreamy_lens.search.frontier.effects import SwapEffects
from dreamy_lens.search.frontier.journal import Journal
from dreamy_lens.search.frontier.moves import Moves
from dreamy_lens.search.frontier.offers import Batch, make_offers, rank_within, shifted
from dreamy_lens.search.frontier.parents import NICHE, choose_parents
from dreamy_lens.search.score_cache import ScoreCache
from tests.helpers.toy import VOCABULARY

LENGTH, WIDTH = 5, VOCABULARY.size


def effects(slope: float = 0.0, learns_slope: bool = True, most: float = 6.0) -> SwapEffects:
    return SwapEffects(LENGTH, WIDTH, slope, learns_slope, 1.0, most)


# What is learned about swaps.


def test_the_model_learns_what_tokens_and_positions_do():
    rng = np.random.default_rng(0)
    worth = rng.normal(size=(LENGTH, 40))
    where = np.array([0.0, 0.0, -1.0, 0.0, -2.0])
    model, errors = effects(), []
    for _ in range(300):
        position, old, new = rng.integers(LENGTH, size=50), rng.integers(40, size=50), rng.integers(40, size=50)
        gradient = rng.normal(size=50).astype(np.float32)
        change = 0.7 * gradient + worth[position, new] - worth[position, old] + where[position]
        errors.append(float(np.abs(change - model.predict(position, old, new, gradient)).mean()))
        model.learn(position, old, new, gradient, change.astype(np.float32))
    assert np.mean(errors[-20:]) < 0.25 * errors[0]
    assert model.slope == pytest.approx(0.7, abs=0.05)
    assert model.deviation < 0.5
    # Both forms of a prediction agree.
    ids = rng.integers(40, size=(1, LENGTH))
    table = model.lost(ids)[0][:, None] + model.gained()
    at = np.arange(LENGTH)
    new = rng.integers(40, size=LENGTH)
    np.testing.assert_allclose(table[at, new], model.predict(at, ids[0], new, np.zeros(LENGTH)), atol=1e-5)


def test_a_change_without_bounds_is_clipped():
    model = effects(most=2.0)
    model.learn(np.array([1]), np.array([3]), np.array([4]), np.zeros(1, np.float32), np.array([1e30], np.float32))
    assert np.isfinite(model.deviation) and abs(model.gained()).max() <= 2


def test_the_effect_of_a_crossing_is_learned_for_each_cut():
    crossed = Crossings(LENGTH)
    for _ in range(50):
        crossed.learn(np.array([1, 2, 2]), np.array([-1.0, 0.4, 0.6]))
    mean, spread = crossed.estimates(1.0)
    assert mean[1] == pytest.approx(-1, abs=0.1) and mean[2] == pytest.approx(0.5, abs=0.05)
    assert spread[2] < 0.4 and spread[4] > 0.9  # nothing is known of cut 4


# Moves.


def batch(ids: np.ndarray, value: torch.Tensor, cost: torch.Tensor) -> Batch:
    """Parents whose tables hold the same numbers at every prompt."""
    at = torch.as_tensor(ids)[..., None]
    tables = []
    for table in (value, cost):
        whole = table.expand(len(ids), -1, -1)
        tables.append(whole - whole.gather(-1, at))
    surprisal = cost.expand(len(ids), -1, -1) * LENGTH
    allowed = torch.as_tensor(ConstraintSet((), VOCABULARY, LENGTH).allowed)
    tables[1] = tables[1].scatter(-1, at, torch.inf).masked_fill(~allowed, torch.inf)
    weight = np.full(len(ids), 0.5, dtype=np.float32)
    known = SwapTables(*tables, surprisal, surprisal.gather(-1, at)[..., 0])
    return Batch(np.arange(len(ids)), ids, weight, np.full(len(ids), LENGTH, dtype=np.float32), known)


@pytest.fixture
def parents() -> Batch:
    rng = np.random.default_rng(1)
    constraints = ConstraintSet((), VOCABULARY, LENGTH)
    g = torch.Generator().manual_seed(0)
    ids = constraints.random(32, rng)[:2]
    return batch(ids, torch.randn(LENGTH, WIDTH, generator=g), torch.rand(LENGTH, WIDTH, generator=g) * 3)


def test_swaps_are_those_that_are_predicted_best(parents):
    constraints = ConstraintSet((), VOCABULARY, LENGTH)
    moves = Moves(constraints, 0, None, torch.device("cpu"), 0)
    known = effects(1.0, False), effects(1.0, False)
    rng = np.random.default_rng(0)
    ranking = moves.rank(parents, known, None, Crossings(LENGTH), 400, rng)
    offers = make_offers(ranking, tuple(t.numpy() for t in ranking.tensors))
    swaps = offers.take(np.flatnonzero((offers.kind == 0) & (offers.parent == 0)))
    expected = parents.tables.value[0] - 0.5 * parents.tables.cross_entropy[0]
    expected[:, ~torch.as_tensor(constraints.allowed)] = -torch.inf
    swaps = swaps.take(np.flatnonzero(np.isfinite(swaps.predicted[1])))  # the search drops the rest
    score = swaps.predicted[0] - 0.5 * swaps.predicted[1]
    tokens = swaps.ids[np.arange(len(swaps.ids)), swaps.position]
    np.testing.assert_allclose(score, expected[swaps.position, tokens], atol=1e-5)
    assert ((swaps.ids != parents.ids[0]).sum(1) == 1).all()
    # Noise of λ / n reorders only what is close: the best are among those offered.
    best = expected.flatten().topk(10).values.numpy()
    assert np.isin(np.round(best, 4), np.round(score, 4)).all()
    assert offers.quota.sum() == 400


def test_children_of_every_kind_keep_the_rest_of_their_parent(parents):
    constraints = ConstraintSet((), VOCABULARY, LENGTH)
    after = torch.log_softmax(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(3)), 1)
    bigrams = Bigrams(after, after.T.contiguous())
    moves = Moves(constraints, 0, bigrams, torch.device("cpu"), 0)
    donors = Donors(constraints.random(32, np.random.default_rng(5)), torch.rand(32, LENGTH, WIDTH), torch.rand(32, 5))
    known = effects(1.0, False), effects(1.0, False)
    ranking = moves.rank(parents, known, donors, Crossings(LENGTH), 600, np.random.default_rng(0))
    offers = make_offers(ranking, tuple(t.numpy() for t in ranking.tensors))
    assert set(offers.kind.tolist()) == {0, 1, 2, 3, 4} and offers.quota.sum() == 600
    for ids, parent, kind, position in zip(offers.ids, offers.parent, offers.kind, offers.position, strict=True):
        old = parents.ids[parent]
        differs = np.flatnonzero(ids != old)
        if kind in (0, 1):
            assert differs.tolist() in ([position], [])
        elif kind == 2:
            assert len(differs) == 0 or differs[-1] - differs[0] < 2
        elif kind == 3 and position > 0:
            assert (ids[position:] == old[position:]).all()
            assert (ids[:position] == donors.ids[:, :position]).all(1).any()


@given(st.integers(2, 8).flatmap(lambda n: st.tuples(st.just(n), *[st.integers(0, n - 1)] * 2)))
def test_a_shift_deletes_one_token_and_inserts_another(case):
    length, gone, place = case
    ids = np.arange(10, 10 + length)
    expected = np.insert(np.delete(ids, gone), place, 99)
    found = shifted(ids[None], np.array([gone]), np.array([place]), np.array([99]))
    assert found[0].tolist() == expected.tolist()


@given(st.lists(st.integers(0, 4)))
def test_the_place_within_a_group(groups):
    expected = [groups[:i].count(group) for i, group in enumerate(groups)]
    assert rank_within(np.array(groups, dtype=np.int64)).tolist() == expected


@given(st.lists(st.integers(0, 3)), st.lists(st.integers(0, 3)))
def test_new_prompts_are_those_of_their_first_rows(seen, offered):
    cache = ScoreCache()
    for token in dict.fromkeys(seen):
        cache.add(np.array([[token]]), np.ones(1), np.ones(1))
    rows = np.array(offered, dtype=np.int64).reshape(-1, 1)
    expected = [i for i, token in enumerate(offered) if token not in seen and token not in offered[:i]]
    assert cache.first_unseen(rows).tolist() == expected
    assert [row[0] for row in cache.unseen(rows).values()] == [offered[i] for i in expected]


# Archive and parents.


def filled(seed: int = 0, count: int = 500) -> tuple[Archive, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    archive = Archive(LENGTH, 9.0)
    value, cost = rng.normal(size=count).astype(np.float32), rng.uniform(2, 12, count).astype(np.float32)
    for part in np.array_split(np.arange(count), 7):
        ids = np.stack([part] * LENGTH, axis=1)
        archive.add(ids, value[part], cost[part], 1 + int(part[0]) % 2)
    return archive, value, cost


def test_the_archive_keeps_the_frontier_of_each_island_and_of_everything():
    archive, value, cost = filled()
    for group in (EVERYTHING, 1, 2):
        rows = np.flatnonzero((cost < 9.5) & (True if group == EVERYTHING else archive.island == group))
        expected = rows[non_dominated(value[rows], cost[rows])]
        assert archive.frontier(group).tolist() == expected.tolist()
    assert archive.rows(np.full((2, LENGTH), [[17], [999]])).tolist() == [17, -1]
    better = archive.improves(np.array([9.0, -9.0]), np.array([5.0, 5.0]))
    assert better.tolist() == [True, False]


def test_parents_are_near_the_frontier_and_share_the_pool_between_niches():
    archive, value, cost = filled()
    archive.ids[:, -1] = np.arange(len(archive)) % 10  # ten niches
    config = FrontierSearch(parents=200, length=LENGTH)
    known = effects(), effects()
    rows, weights = choose_parents(archive, EVERYTHING, config, known, 1.0, LENGTH - 1, np.random.default_rng(0))
    assert (weights > 0).all() and archive.uses.sum() == 200
    assert value[rows].mean() > value.mean() and cost[rows].max() < 9.5
    assert len(np.unique(rows)) > 20  # a prompt that was used often gives way to others
    _, counts = np.unique(archive.ids[np.unique(rows), -1], return_counts=True)
    assert len(counts) == 10 and NICHE > 0


def test_an_island_without_a_prompt_below_the_limit_gives_way_to_everything():
    archive, *_ = filled()
    archive.add(np.full((1, LENGTH), 900), np.array([1.0]), np.array([30.0]), 3)
    rows, _ = choose_parents(
        archive, 3, FrontierSearch(length=LENGTH), (effects(), effects()), 1.0, 0, np.random.default_rng(0)
    )
    assert (rows < 500).all()


def test_what_a_journal_has_handed_out_never_changes():
    journal = Journal(2)
    journal.choose(np.array([1, 2]))
    before = journal.arrays()
    kept = {name: array.copy() for name, array in before.items()}
    for number in range(2000):
        journal.choose(np.array([number]))
        one = np.array([number])
        journal.move(number, one, one, one, np.zeros((2, 1), np.float32))
    assert all(np.array_equal(before[name], kept[name]) for name in kept)
    again = Journal(2)
    again.restore(journal.arrays())
    assert all(np.array_equal(a, b) for a, b in zip(again.arrays().values(), journal.arrays().values(), strict=True))
