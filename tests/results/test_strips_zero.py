"""Gains of a strip that are zero as numbers."""

from __future__ import annotations

import re

import numpy as np

import dreamy_lens as dl
from dreamy_lens.results import Attribution


def test_a_gain_that_is_zero_as_a_number_has_no_bar_and_no_dotted_line():
    gains = np.array([0.0004, -0.0004, 0.5, -0.5], dtype=np.float32)
    values = np.stack([3 - gains, np.full(4, 1.0)], axis=1).astype(np.float32)
    ids, names = np.full((4, 2), 9), (("p", "q"),) * 4
    found = Attribution(np.arange(4), ("a", "b", "c", "d"), 3.0, 2.0, ids, values, np.ones_like(values), names)
    html = found.to_html()
    heights = [float(h) for h in re.findall(r"--h:([\d.]+)", html)]
    assert [h > 0 for h in heights] == [False, False, True, False]
    assert len(re.findall(r'class="dl-k dl-up"', html)) == 1
    drawn = dl.figures.strip(found).svg
    assert drawn.count('class="bar"') == 1
