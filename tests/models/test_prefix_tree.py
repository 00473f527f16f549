"""Rows as a tree: one node for each distinct prefix, and every row finds its tokens again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dreamy_lens.models import PrefixTree, build_tree
from dreamy_lens.models.prefix_tree import ROUND


@st.composite
def rows_and_known(draw) -> tuple[np.ndarray, int]:
    """Rows of few tokens, so that most share a prefix, and how much of a common one is known."""
    length, count = draw(st.integers(1, 8)), draw(st.integers(1, 12))
    tokens = draw(st.integers(1, 4))
    rows = draw(st.lists(st.lists(st.integers(0, tokens), min_size=length, max_size=length), min_size=count))
    rows = np.array(rows[:12], dtype=np.int64) + 7
    known = draw(st.integers(0, length - 1))
    rows[:, :known] = rows[0, :known]
    again = draw(st.lists(st.integers(0, len(rows) - 1), max_size=3))  # equal rows, anywhere
    return np.concatenate([rows, rows[again]]), known


def prefixes(rows: np.ndarray) -> list[list[tuple[int, ...]]]:
    """What each row and position stands for."""
    return [[tuple(row[: at + 1]) for at in range(len(row))] for row in rows.tolist()]


def stands_for(packing: PrefixTree, rows: np.ndarray) -> dict[int, tuple[int, ...]]:
    """The prefix of each node, after a check that every place it is at agrees and that no two nodes have one."""
    found: dict[int, tuple[int, ...]] = {}
    for nodes, there in zip(packing.index.tolist(), prefixes(rows), strict=True):
        for node, prefix in zip(nodes, there, strict=True):
            assert found.setdefault(node, prefix) == prefix
    assert len(set(found.values())) == len(found)
    return found


@given(rows_and_known())
def test_a_node_is_a_distinct_prefix(given):
    rows, known = given
    packing = build_tree(rows, known=known)
    found = stands_for(packing, rows)
    distinct = {prefix for row in prefixes(rows) for prefix in row}
    assert len(found) == len(distinct)
    for node, prefix in found.items():
        if len(prefix) <= known:
            assert node == len(prefix) - 1
        else:
            assert packing.ids[node - known] == prefix[-1]
            assert packing.positions[node - known] == len(prefix) - 1
    # Those that are to be computed come first, with no gap.
    computed = sorted(node - known for node in found if node >= known)
    assert computed == list(range(sum(len(prefix) > known for prefix in distinct)))


@given(rows_and_known())
def test_groups_cover_the_nodes_once_and_in_order(given):
    rows, known = given
    packing = build_tree(rows, known=known)
    covered, keys = [], []
    for group in packing.groups:
        own = packing.length - group.start
        nodes = np.arange(group.first, group.first + group.rows * own)
        covered.append(nodes)
        of_rows = group.keys.reshape(group.rows, packing.length)
        np.testing.assert_array_equal(of_rows[:, group.start :], nodes.reshape(group.rows, own))
        keys += of_rows.tolist()
    real = len(stands_for(packing, rows).keys() - set(range(known)))
    np.testing.assert_array_equal(np.concatenate(covered), known + np.arange(real))
    starts = [group.start for group in packing.groups]
    assert starts == sorted(set(starts)) and min(starts) >= known
    # Each distinct row is in one group, whole.
    assert sorted(keys) == sorted(
        {tuple(row): nodes for row, nodes in zip(rows.tolist(), packing.index.tolist(), strict=True)}.values()
    )


@given(rows_and_known(), st.data())
def test_the_first_positions_of_a_packing_are_the_packing_of_the_first_positions(given, data):
    rows, known = given
    packing = build_tree(rows, known=known)
    length = data.draw(st.integers(max(known, 1), rows.shape[1]))
    cut, fresh = packing.truncate(length), build_tree(rows[:, :length], known=known)
    assert (cut.length, cut.rows, cut.known) == (length, len(rows), known)
    if length == rows.shape[1]:
        assert cut is packing and cut.kept is None
        return
    assert cut.nodes == fresh.nodes and len(cut.kept) == cut.nodes
    ours, theirs = stands_for(cut, rows[:, :length]), stands_for(fresh, rows[:, :length])
    assert set(ours.values()) == set(theirs.values())
    for node, prefix in ours.items():
        if len(prefix) > known:
            assert (cut.ids[node - known], cut.positions[node - known]) == (prefix[-1], len(prefix) - 1)
            # The node of the whole packing that it was.
            assert int(cut.kept[node - known]) + known in packing.index[:, len(prefix) - 1].tolist()
    torch.testing.assert_close(cut.ids, packing.ids[cut.kept])
    torch.testing.assert_close(cut.positions, packing.positions[cut.kept])
    real = len(ours.keys() - set(range(known)))
    assert (cut.kept[:real].diff() > 0).all()
    wanted = stands_for(packing, rows)
    assert [wanted[int(node) + known] for node in cut.kept[:real]] == [ours[known + i] for i in range(real)]
    assert not (set((cut.kept[real:] + known).tolist()) & wanted.keys())  # those that stand for nothing
    covered = [np.arange(g.first, g.first + g.rows * (length - g.start)) for g in cut.groups]
    np.testing.assert_array_equal(np.concatenate([np.empty(0, int), *covered]), known + np.arange(real))
    keys = [row for g in cut.groups for row in g.keys.reshape(g.rows, length).tolist()]
    there = {tuple(row) for row in cut.index.tolist()}
    # Every row that has nodes of its own, whole; of known ones alone there may be none.
    assert {tuple(row) for row in keys} == (there if real else set())


@given(rows_and_known(), st.data())
def test_owners_say_where_a_node_stands(given, data):
    rows, known = given
    whole = build_tree(rows, known=known)
    for packing in (whole, whole.truncate(data.draw(st.integers(max(known, 1), rows.shape[1])))):
        index = packing.index.reshape(-1)
        owners = packing.owners
        assert owners.shape == (packing.nodes,)
        real = len(set(index.tolist()) - set(range(known)))
        np.testing.assert_array_equal(index[owners[:real]], known + np.arange(real))
        assert (owners >= 0).all() and (owners < index.numel()).all()
        # What rows are made of nodes with comes back from them.
        values = torch.randn(known + packing.nodes, 3)
        torch.testing.assert_close(values[index][owners[:real]], values[known : known + real])


@given(rows_and_known(), st.data())
def test_nodes_come_in_round_numbers_and_one_at_least_stands_for_nothing(given, data):
    rows, known = given
    whole = build_tree(rows, known=known)
    for packing in (whole, whole.truncate(data.draw(st.integers(max(known, 1), rows.shape[1])))):
        real = len(set(packing.index.reshape(-1).tolist()) - set(range(known)))
        assert packing.nodes % ROUND == 0 and real < packing.nodes <= real + ROUND
        assert packing.ids.shape == packing.positions.shape == (packing.nodes,)
        assert packing.ids.dtype == packing.positions.dtype == packing.index.dtype == torch.int64
        assert set(packing.ids.tolist()) <= set(rows.reshape(-1).tolist())  # all are tokens that a model may be given
        assert 0 <= packing.positions.min() and packing.positions.max() < packing.length


@given(rows_and_known())
def test_the_index_is_there_on_the_processor_too(given):
    rows, known = given
    packing = build_tree(rows, "cpu", known)
    np.testing.assert_array_equal(packing.host_index, packing.index.numpy())
    assert (packing.rows, packing.length) == rows.shape


@given(rows_and_known(), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_changes_nothing(given, random):
    rows, known = given
    order = random.sample(range(len(rows)), len(rows))
    one, other = build_tree(rows, known=known), build_tree(rows[order], known=known)
    assert torch.equal(one.ids, other.ids) or one.nodes == other.nodes
    assert torch.equal(one.index[order], other.index)


@pytest.mark.parametrize("real", [1, ROUND - 1, ROUND, ROUND + 1, 2 * ROUND])
def test_a_full_number_of_nodes_takes_one_more(real):
    packing = build_tree(np.arange(real)[:, None])
    assert packing.nodes == (real // ROUND + 1) * ROUND
    assert sorted(packing.index.reshape(-1).tolist()) == list(range(real))


def test_children_of_one_parent_cost_what_follows_their_mutation():
    parent = np.arange(100, 112)
    rows = np.repeat(parent[None], 12, 0)
    rows[np.arange(12), np.arange(12)] = 7
    packing = build_tree(np.concatenate([parent[None], rows]))
    assert len(set(packing.index.reshape(-1).tolist())) == 12 + 12 * 13 // 2
    starts = [(group.start, group.rows) for group in packing.groups]
    assert starts == [(0, 2), *((start, 1) for start in range(1, 12))]


def test_rows_are_not_changed():
    rows = np.array([[3, 1], [2, 1], [3, 1]])
    rows.setflags(write=False)
    build_tree(rows).truncate(1)
    np.testing.assert_array_equal(rows, [[3, 1], [2, 1], [3, 1]])
