"""Statements about all windows of a corpus, from the few that are kept: they never claim more than is true."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamy_lens.comparison import CorpusFrontier, default_limits, make_statement
from dreamy_lens.html.words import format_count, plural
from tests.helpers.fakes import frontier_of
from tests.helpers.scans import one

# On a coarse grid, so that ties of values and cross-entropies at the edges of steps come up.
POINTS = st.lists(st.tuples(st.integers(0, 12), st.integers(4, 30)), min_size=1, max_size=25)


def best(points: list[tuple[float, float]], limit: float, inclusive: bool = False) -> float:
    """Return the true best value of all windows below a cross-entropy."""
    return max((v for v, c in points if c < limit or (inclusive and c == limit)), default=-math.inf)


@settings(max_examples=150)
@given(points=POINTS, k=st.integers(1, 6), measured=st.booleans(), known=st.booleans())
def test_the_truth_is_always_within_the_bounds(points, k, measured, known):
    scaled = [(v / 2, c / 10) for v, c in points]
    found = [(float(np.float32(v)), float(np.float32(c))) for v, c in scaled]
    reach = CorpusFrontier.of(one(*zip(*scaled, strict=True), k=k, measured=measured, known=known or measured))
    limits = sorted({c for _, c in found} | {x / 8 for x in range(0, 28)} | {math.inf})
    costs, highs = reach.ceiling()
    assert costs[0] == -math.inf and (np.diff(costs) > 0).all() and (np.diff(highs) > 0).all()
    for limit in limits:
        for inclusive in (False, True):
            bounds, truth = reach.below(limit, inclusive), best(found, limit, inclusive)
            assert bounds.low <= truth <= bounds.high
            assert (bounds.window is None) == (bounds.low == -math.inf)
            if measured and not inclusive and (limit == math.inf or limit * 4 == int(limit * 4)):
                assert bounds.exact and bounds.low == truth
        at = int(np.searchsorted(costs, limit, "right")) - 1
        assert best(found, limit, True) <= highs[at]  # nothing is above the line that is drawn
        for value in (0.25, 2.25, 7.0):
            assert not (reach.beyond(value, limit) and best(found, limit, True) >= value)
    if any(c < limits[-1] for _, c in found) and (known or measured):
        assert reach.below(math.inf).low == max(v for v, _ in found)


def test_strong_windows_say_all_where_one_of_them_is_fluent_enough():
    reach = CorpusFrontier.of(one([5, 4, 3, 2, 1], [4.0, 3.0, 2.0, 1.0, 0.5], k=2, measured=False))
    assert reach.below(5).exact and reach.below(3.5).low == 4  # whatever was not kept is weaker than 4
    below = reach.below(2.5)
    assert below.window is None and below.high == 4 and not below.exact
    assert reach.beyond(4.1, 2.5) and not reach.beyond(4.0, 2.5)
    whole = CorpusFrontier.of(one([5, 4], [4.0, 3.0], k=2, measured=False))
    assert whole.below(2).empty and whole.beyond(-100, 2)


def test_the_last_step_has_no_end():
    # Of everything from 15.75 nats on the strongest alone is kept, and that may be less fluent than another.
    reach = CorpusFrontier.of(one([5.0, 4.0, 1.0], [20.0, 16.0, 3.0], k=1))
    bounds = reach.below(18)
    assert bounds.low <= 4.0 <= bounds.high and not bounds.exact and not reach.beyond(4.5, 18)
    assert reach.below(15.75).exact
    costs, highs = reach.ceiling()
    assert highs[int(np.searchsorted(costs, 16.0, "right")) - 1] >= 4.0
    by_hand = CorpusFrontier(reach.top, reach.fluent, True, False)  # without being told the steps
    assert by_hand.below(18) == bounds
    text = make_statement(18, frontier_of((3, 3.5)), reach, "500M tokens").text
    assert "between 1.00 and 5.00. At multiples of 0.25 up to 15.75 it is known exactly." in text


def test_a_cross_entropy_without_a_value_is_below_no_limit():
    reach = CorpusFrontier.of(one([5.0, 4.0, 1.0], [3.0, 2.0, 2.5]))
    odd = [dataclasses.replace(reach.top[0], cross_entropy=c) for c in (None, math.nan, math.inf)]
    for window in odd:
        some = CorpusFrontier([window, *reach.top[1:]], [*reach.fluent[:2], window], True, False, [8, 10, 63])
        unknown = window.cross_entropy is None  # which may be as fluent as any, in the last step
        assert some.below(15.75).high == 4.0 and some.below(17).high == (5.0 if unknown else 4.0)
        assert len(some.scored) == 2 and some.below(math.inf).high == 5.0


def sentence(value, cost, limit, dreams, **options) -> str:
    options = {"k": 2, "measured": True} | options
    return make_statement(
        limit, frontier_of(*dreams), CorpusFrontier.of(one(value, cost, **options)), "500M tokens"
    ).text


BELOW_4 = "Among prompts with cross-entropy below 4, the best dream scores "
NONE_KEPT = "none of the 2 kept windows has a cross-entropy below 2.75"
UNKNOWN = (
    "so of 500M corpus tokens it is only known that no window there scores above 3.90; a scan with cross_entropy=True "
    "tells more."
)
FEW: dict[str, Any] = {"measured": False}


@pytest.mark.parametrize(
    ("limit", "dream", "options", "says"),
    [
        (4, (5.2, 3.5), {}, f"{BELOW_4}5.20; the best of 500M corpus tokens scores 3.90 (+1.30)."),
        (4, (3.0, 3.5), {}, f"{BELOW_4}3.00; the best of 500M corpus tokens scores 3.90 (−0.90)."),
        (4, (3.9, 3.5), {}, f"{BELOW_4}3.90; the best of 500M corpus tokens scores 3.90 (equal)."),
        (3, (5.2, 3.5), {}, "No dream has a cross-entropy below 3 (the most fluent: 3.50); the best of 500M corpus"),
        (3, (5.2, 3.5), {}, "the best of 500M corpus tokens scores 2.00 there."),
        (0.5, (5.2, 3.5), {}, "below 0.5 (the most fluent: 3.50), and no window of 500M corpus tokens has one either."),
        (1, (2.5, 0.75), {}, "below 1, the best dream scores 2.50; no window of 500M corpus tokens is that fluent."),
        (math.inf, (5.2, 8), {}, "The strongest dream scores 5.20 at cross-entropy 8.00; the strongest of"),
        (math.inf, (5.2, 8), {}, "of 500M corpus tokens scores 5.00 at 6.00 (+0.20)."),
        (2.6, (9, 2.5), {}, "scores 9.00; the best of 500M corpus tokens scores 2.00 (+7.00)"),
        (2.75, (5, 2.5), FEW, f"the best of 500M corpus tokens scores at most 3.90 (+1.10 or more: {NONE_KEPT})."),
        (2.75, (3, 2.5), FEW, f"best dream scores 3.00. N{NONE_KEPT[1:]}, {UNKNOWN}"),
        (2.75, (3, 2.5), {**FEW, "known": False}, "The cross-entropy of the 2 kept windows was not measured, so of"),
        (2, (3, 2.5), FEW, "of 500M corpus tokens it is only known that no window there scores above 3.90."),
    ],
)
def test_a_statement_says_what_is_known_and_no_more(limit, dream, options, says):
    assert says in sentence([3.9, 2.0, 5.0], [3.4, 2.5, 6.0], limit, [dream], **options)


def test_within_a_step_the_statement_names_what_is_not_known():
    # Of the step from 2 to 2.25 the strongest, 5, stands at 2.2: below 2.1 there may be others.
    value, cost = [5, 2, 9, 8], [2.2, 1.9, 6.0, 6.0]
    texts = [sentence(value, cost, 2.1, [(v, 1.5)]) for v in (6, 3, 1)]
    assert "scores 6.00; the best of 500M corpus tokens scores at most 5.00 (+1.00 or more)" in texts[0]
    assert (
        "scores 3.00; the best of 500M corpus tokens scores between 2.00 and 5.00. At multiples of 0.25 it is known"
        in texts[1]
    )
    assert "scores 1.00; the best of 500M corpus tokens scores 2.00 or more (−1.00 or less)" in texts[2]


def test_the_limits_nobody_chose_begin_where_the_corpus_is_strongest():
    frontier = frontier_of((1, 3.2), (5, 4.7), (9, 9.1))
    reach = CorpusFrontier.of(one([5, 4], [3.6, 3.0]))
    assert default_limits(frontier, reach) == (4.0, 6.0, 9.0, math.inf)
    assert default_limits(frontier_of((1, 3.2)), CorpusFrontier.of(one([5.0], [3.5]))) == (4.0, math.inf)
    assert default_limits(frontier_of(), CorpusFrontier.of(one([], []))) == (math.inf,)
    text = make_statement(math.inf, frontier_of(), CorpusFrontier.of(one([], [])), "0 tokens").text
    assert text == "No dream has finite scores."
    assert (
        "no window of 0 corpus tokens was kept"
        in make_statement(math.inf, frontier, CorpusFrontier.of(one([], [])), "0 tokens").text
    )


def test_counts_are_said_as_people_say_them():
    assert [format_count(n) for n in (0, 757_056, 1_200_000, 3.4e9, 2e12)] == ["0", "757k", "1.2M", "3.4B", "2T"]
    assert plural(2, "entry", "entries") == "2 entries"
