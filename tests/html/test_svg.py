"""Small drawings."""

from __future__ import annotations

import re

import numpy as np
import pytest

from dreamy_lens.html import svg
from dreamy_lens.search import hull_rows
from tests.helpers.fakes import build, frontier_of, steps


@pytest.mark.parametrize(
    "points", [[(2.0, 3.0)], [(1e-7, 3.0), (2e-7, 3.0001)], [(-5e6, 0.0), (4e6, 900.0)], [(0.0, 0.0)]]
)
def test_any_range_of_scores_can_be_drawn(points):
    frontier, history = frontier_of(*points), build(steps(2))
    texts, hull = [prompt.text for prompt in frontier], hull_rows(frontier.values, frontier.cross_entropies)
    cloud = history.cross_entropy, history.value
    source = svg.frontier_svg(frontier.cross_entropies, frontier.values, texts, hull=hull, cloud=cloud)
    assert "nan" not in source and "inf" not in source
    at = [tuple(map(float, xy)) for xy in re.findall(r'<circle cx="([-\d.]+)" cy="([-\d.]+)"', source)]
    assert len(at) == len(points)
    assert all(0 <= x <= svg.WIDTH and 0 <= y <= 380 for x, y in at)
    assert at == sorted(at) and [y for _, y in at] == sorted((y for _, y in at), reverse=True)


def test_ticks_are_round_and_inside():
    rng = np.random.default_rng(0)
    for low, width in zip(rng.normal(0, 100, 200), 10.0 ** rng.uniform(-6, 6, 200), strict=True):
        found = svg.ticks(low, low + width)
        assert 2 <= len(found) <= 13 and low - 1e-6 * width <= found[0] and found[-1] <= low + width * (1 + 1e-6)
