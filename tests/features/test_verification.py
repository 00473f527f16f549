"""Functions that users supply are tried before a search: they must leave activations alone and look at one row each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import dreamy_lens as dl
from dreamy_lens.errors import FeatureError, SAEError
from dreamy_lens.features import bind
from dreamy_lens.models import as_hooked
from dreamy_lens.scoring import make_banks

POST = "blocks.1.mlp.hook_post"


def refused(feature: Any, family: Any) -> str:
    with pytest.raises(FeatureError) as caught:
        bind(feature, family.bridge)
    return str(caught.value)


def in_place(a):
    return a[POST].relu_()[:, -1, 3]


def counting(a):
    counting.calls = getattr(counting, "calls", 0) + 1
    return a[POST][:, -1, 3] + counting.calls


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (in_place, f"changes the activation at {POST} in place"),
        (lambda a: a[POST].__setitem__((slice(None), 0), 0.0) or a[POST][:, -1, 3], "in place"),
        (lambda a: a[POST][:, -1, 3].sub_(1), "in place"),
        (
            lambda a: a[POST][:, -1, 3] - a[POST][:, -1, 3].mean(0),
            "other prompts of a batch: a prompt has",
        ),
        (lambda a: a[POST][:, -1, 3] - a[POST][0, -1, 3], "depends on the other prompts"),
        (lambda a: a[POST][:, -1, 3].softmax(0), "depends on the other prompts"),
        (lambda a: torch.arange(len(a[POST])) + a[POST][:, -1, 3], "depends on the other prompts"),
        (lambda a: a[POST][:, -1, 3].argsort().float(), "depends on the other prompts"),
        (lambda a: a[POST][:, -1, 3].flip(0), "depends on the other prompts"),
        (lambda a: torch.nn.functional.dropout(a[POST][:, -1], 0.5).sum(-1), "two different values for the same"),
        (lambda a: a[POST][:, -1, 3] + torch.rand(()), "two different values"),
        (counting, "two different values"),
        (
            lambda a: a[POST][:, -1, 3].squeeze() if len(a[POST]) > 1 else a[POST][0, -1, 3],
            r"returned shape [] for one",
        ),
        (
            lambda a: a[POST][:, -1, 3] / (len(a[POST]) - 1) if len(a[POST]) > 1 else 1 / 0,
            "on a single prompt of",
        ),
    ],
)
def test_a_function_that_is_not_one_of_each_prompt_is_refused(gpt2, function, said):
    feature = dl.neuron(0, 1) + 2 * dl.custom("mine", [POST], function)
    assert said in refused(feature, gpt2) and 'custom("mine")' in refused(feature, gpt2)


@pytest.mark.filterwarnings("ignore:.*NaN or infinite")
@pytest.mark.parametrize(
    "function",
    [
        lambda a: a[POST][:, -1, 3],
        lambda a: a[POST].clone().relu_()[:, -1, 3],
        lambda a: torch.stack([x[-1].argmax().float() for x in a[POST]]),
        lambda a: a[POST][:, -1, 0].sqrt(),  # NaN on some prompts
        lambda a: a[POST].flatten(1).std(1),
        lambda a: a.pop(POST)[:, -1, 3],
    ],
)
def test_other_functions_pass_and_have_the_values_of_single_prompts(any_family, function):
    ids = [[1, 2, 3], [4, 5, 6], [7, 8, 9], [3, 2, 1]]
    scores = dl.score(dl.custom("mine", [POST], function), ids, any_family.bridge, prepend_bos=False)
    alone = [
        dl.score(dl.custom("mine", [POST], function), row, any_family.bridge, prepend_bos=False).value for row in ids
    ]
    np.testing.assert_allclose(scores.value, np.concatenate(alone), atol=1e-5, rtol=1e-5)


class BatchTopK:
    """Autoencoder that keeps the strongest latents of the whole batch, as some do in training."""

    def encode(self, x):
        latents = x[..., :6].relu()
        least = latents.flatten().topk(max(1, latents.numel() // 6)).values[-1]
        return latents * (latents >= least)


class InPlace:
    def encode(self, x):
        return x.relu_()[..., :6]


class Sound:
    def encode(self, x):
        return x.relu()[..., :6]


def test_the_encode_of_an_autoencoder_is_tried_too_also_in_scans(gpt2):
    assert "encode() of SAE a BatchTopK" in refused(dl.sae_latent(BatchTopK(), 2, hook=POST), gpt2)
    assert "in place" in refused(dl.sae_latent(InPlace(), 2, hook=POST), gpt2)
    bind(dl.sae_latent(Sound(), 2, hook=POST), gpt2.bridge)
    for bad in (BatchTopK(), InPlace()):
        with pytest.raises(FeatureError, match=r"depends on the other prompts|in place"):
            make_banks([dl.sae_latent(bad, i, hook=POST) for i in range(3)], as_hooked(gpt2.bridge))
    make_banks([dl.sae_latent(Sound(), i, hook=POST) for i in range(3)], as_hooked(gpt2.bridge))


class Damaged(torch.nn.Module):
    """Autoencoder with a parameter that its encode() hides."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = torch.nn.Parameter(torch.full((6,), float("nan")))

    def encode(self, x):
        return torch.nn.functional.relu(x[..., :6] + self.bias).nan_to_num()


def test_an_autoencoder_in_memory_that_is_not_finite(gpt2):
    with pytest.raises(SAEError, match="is damaged: 6 of the 6 numbers of bias"):
        bind(dl.sae_latent(Damaged(), 2, hook=POST), gpt2.bridge)
