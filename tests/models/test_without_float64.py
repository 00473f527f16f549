"""Devices without float64, such as Apple's: nothing on them is float64, and prompts share prefixes all the same."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

import dreamy_lens as dl
from dreamy_lens.models import to_device
from tests.helpers import devices, models
from tests.helpers.scorers import make_scorer


@pytest.fixture(autouse=True)
def _no_float64() -> Iterator[None]:
    with devices.emulated(float64=False):
        yield


@pytest.fixture
def bridge():
    found = models.new_bridge("gpt2", models.raw_model("gpt2"))
    devices.place(found, "cuda:0")
    return found


def test_the_emulated_device_has_no_float64():
    with pytest.raises(TypeError, match="no float64"):
        torch.zeros(2, dtype=torch.float64, device="cuda")
    with pytest.raises(TypeError, match="no float64"):
        to_device(np.zeros(2, np.float32), "cuda").double()


@pytest.mark.filterwarnings("error::RuntimeWarning")  # of prompts that are scored whole
@pytest.mark.parametrize("search", ["epo", "frontier"])
@pytest.mark.parametrize("feature", ["L1.N3", "own"])
def test_searches_share_prefixes(bridge, search, feature):
    if feature == "own":
        feature = dl.custom(
            "spread", ["blocks.0.hook_resid_post"], lambda a: a["blocks.0.hook_resid_post"][:, -1].std(1)
        )
    run = dl.dream(feature, bridge, search=search, iterations=3, children=8, length=5, progress=False)
    assert run.iteration == 3 and np.isfinite(run.history.value).all()
    prompts = run.history.ids[:7]
    plain = make_scorer(feature, models.family("gpt2").bridge, prepend_bos=run.config.prepend_bos)
    np.testing.assert_allclose(run.history.value[:7], plain.score(prompts).value, atol=1e-4)


def test_attributions_and_scores(bridge):
    found = dl.attribution("L1.N3", "the dog", bridge, k=4)
    usual = dl.attribution("L1.N3", "the dog", models.family("gpt2").bridge, k=4)
    np.testing.assert_allclose(found.drop_to_worst, usual.drop_to_worst, atol=1e-4)


def test_scans_have_the_same_moments(bridge):
    texts = ["the dog and the cat are friends over the hill"] * 3 + [
        "a cat sings",
        "the sun is over the house of the king",
    ]
    settings = {"length": 4, "tokens": None, "cache": False, "progress": False}
    found = dl.max_activating(dl.neurons(1), bridge, texts, **settings)
    usual = dl.max_activating(dl.neurons(1), models.family("gpt2").bridge, texts, **settings)
    for name in ("mean", "deviation", "maximum"):
        np.testing.assert_allclose(found.to_pandas()[name], usual.to_pandas()[name], atol=1e-5)
