"""Frontiers of numbers, against definitions written out as loops."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamy_lens.search import Staircase, hull_rows, hypervolume, non_dominated

# Small whole numbers make ties and collinear points common; exact arithmetic makes them exact.
points = st.lists(st.tuples(st.integers(-6, 6), st.integers(0, 8)), max_size=24)
rough = st.lists(st.tuples(st.floats(-1e3, 1e3, width=32), st.floats(0, 50, width=32)), max_size=24)


def columns(pairs):
    return [v for v, _ in pairs], [c for _, c in pairs]


def beats(a, b) -> bool:
    return a[0] >= b[0] and a[1] <= b[1] and a != b


@given(st.one_of(points, rough))
def test_a_row_is_on_the_frontier_exactly_if_no_row_beats_it_and_no_earlier_one_equals_it(pairs):
    unbeaten = (i for i, p in enumerate(pairs) if not any(beats(q, p) for q in pairs))
    expected = [i for i in unbeaten if pairs[i] not in pairs[:i]]
    expected.sort(key=lambda i: pairs[i][1])
    assert non_dominated(*columns(pairs)).tolist() == expected


@given(st.one_of(points, rough))
def test_along_the_frontier_cross_entropy_and_value_rise_strictly(pairs):
    v, c = map(np.array, columns(pairs))
    rows = non_dominated(v, c)
    assert np.all(np.diff(v[rows]) > 0) and np.all(np.diff(c[rows]) > 0)


@given(points)
def test_the_hull_has_the_rows_that_are_the_only_best_ones_for_some_weight(pairs):
    rows = non_dominated(*columns(pairs)).tolist()
    # Between whole points this small every slope is a ratio of numbers up to 12, so weights between them suffice.
    slopes = sorted({a / b for a in range(13) for b in range(1, 9)})
    weights = [(a + b) / 2 for a, b in pairwise(slopes)] + [1e-6, 1e6]
    expected = set()
    for weight in weights:
        scores = [pairs[i][0] - weight * pairs[i][1] for i in rows]
        expected |= {row for row, s in zip(rows, scores, strict=True) if s == max(scores)}
    assert hull_rows(*columns(pairs)).tolist() == [row for row in rows if row in expected]


@given(points, st.tuples(st.integers(-6, 6), st.integers(0, 8)))
def test_the_hypervolume_is_the_number_of_unit_squares_that_some_row_covers(pairs, reference):
    squares = [(x, y) for x in range(reference[0], 7) for y in range(-1, reference[1])]
    covered = sum(any(v >= x + 1 and c <= y for v, c in pairs) for x, y in squares)
    assert hypervolume(*columns(pairs), reference) == covered


@given(st.one_of(points, rough), st.tuples(st.integers(-6, 6), st.integers(0, 8)))
def test_a_staircase_that_grew_one_by_one_is_the_frontier_of_all(pairs, reference):
    stairs = Staircase()
    for row, (v, c) in enumerate(pairs):
        added = stairs.add(row, v, c)
        assert added == (row in non_dominated(*columns(pairs[: row + 1])))
    assert stairs.rows == non_dominated(*columns(pairs)).tolist()
    assert stairs.hypervolume(reference) == pytest.approx(hypervolume(*columns(pairs), reference), rel=1e-9)


def test_scores_that_are_not_finite_are_never_on_a_frontier():
    v = [np.nan, 9.0, 5.0, np.inf, 1.0]
    c = [1.0, np.nan, 3.0, 2.0, -np.inf]
    assert non_dominated(v, c).tolist() == [2]
    assert hypervolume(v, c, (0.0, 4.0)) == 5.0


def test_of_equal_prompts_the_earliest_stands_for_all():
    assert non_dominated([3, 3, 3], [1, 1, 1]).tolist() == [0]


def test_columns_of_different_length_are_refused():
    with pytest.raises(ValueError, match=r"both be \[N\]"):
        non_dominated([1, 2], [1])
