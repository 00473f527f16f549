"""Candidates are the allowed tokens that the gradient ranks highest, even if the gradient is not finite."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dreamy_lens.scoring import top_candidates


def test_candidates_are_the_largest_entries_other_than_the_present_token():
    gradient = torch.tensor([[[5.0, 4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0, 5.0]]])
    allowed = torch.tensor([True, True, False, True, True])
    found = top_candidates(gradient.clone(), torch.tensor([[0, 1]]), allowed, 2)
    assert found.tolist() == [[[1, 3], [4, 3]]]
    every = top_candidates(gradient.clone(), torch.tensor([[0, 1]]), allowed, 500)
    assert every.tolist() == [[[1, 3, 4], [4, 3, 0]]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_candidates_are_allowed_whatever_the_gradient(bad):
    allowed = torch.zeros(300, dtype=torch.bool)
    allowed[[50, 120, 121, 200]] = True
    gradient = torch.full((2, 3, 300), bad)
    gradient[0, 0, 120] = 1.0
    found = top_candidates(gradient, torch.full((2, 3), 50), allowed, 3)
    assert found.sort(-1).values.tolist() == [[[120, 121, 200]] * 3] * 2
    assert found[0, 0, 0] == 120 or bad == np.inf
