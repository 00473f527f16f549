"""Weights that are not finite are refused wherever a model is used; digests tell a fine-tuned model from its base."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import dreamy_lens as dl
from dreamy_lens.errors import DreamyLensError, ModelError, RunFolderError, SAEError
from dreamy_lens.models import as_hooked
from tests.features.test_oracle import save_sae
from tests.helpers import models

SMALL: dict[str, Any] = {"iterations": 1, "population": 2, "children": 4, "length": 6}


def changed(family: models.Family, change: Any) -> Any:
    raw = copy.deepcopy(family.raw)
    with torch.no_grad():
        change(raw)
    return models.new_bridge(family.name, raw)


def broken(family: models.Family, value: float) -> Any:
    """A bridge with one bad number, in a bias whose neuron no feature below reads."""

    def change(raw: Any) -> None:
        name, parameter = next((n, p) for n, p in raw.named_parameters() if "mlp" in n)
        del name
        parameter.view(-1)[5] = value

    return changed(family, change)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused_by_everything_that_scores(family, value):
    bridge = broken(family, value)
    said = r"damaged: 1 of the [\d,]+ numbers of .*mlp.* are NaN or infinite, in float32"
    for use in (
        lambda: dl.score("L1.N3", "the dog", bridge),
        lambda: dl.dream("L1.N3", bridge, **SMALL),
        lambda: dl.attribution("L1.N3", "the dog", bridge),
        lambda: dl.max_activating(dl.neurons(1), bridge, ["the dog and the cat " * 20], length=4),
        lambda: dl.score("L1.N3", "the dog", family.bridge, fluency_model=bridge),
    ):
        with pytest.raises(ModelError, match=said):
            use()


def test_a_repaired_model_is_looked_at_again(gpt2):
    bridge = broken(gpt2, float("nan"))
    with pytest.raises(ModelError):
        dl.score("L1.N3", "the dog", bridge)
    with torch.no_grad():
        for parameter in bridge.parameters():
            parameter.nan_to_num_(0.0)
    dl.score("L1.N3", "the dog", bridge)
    with torch.no_grad():
        next(iter(bridge.parameters())).view(-1)[3] = float("inf")
    with pytest.raises(ModelError):
        dl.score("L1.N3", "the dog", bridge)


def test_large_finite_weights_are_no_damage(gpt2):
    def change(raw: Any) -> None:
        raw.transformer.h[1].mlp.c_fc.bias[:20] = 3e38

    as_hooked(changed(gpt2, change)).check_weights()
    half = models.new_bridge("gpt2", gpt2.raw, torch.float16)
    as_hooked(half).check_weights()


@pytest.mark.parametrize("architecture", ["standard", "topk", "jumprelu"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_autoencoder_that_is_not_finite_is_refused_where_the_numbers_are_needed(gpt2, tmp_path, architecture, value):
    weights = save_sae(tmp_path / "sae", architecture, 32, "blocks.1.hook_resid_post")
    weights["W_enc"][3, 7] = value
    save_file(weights, tmp_path / "sae" / "sae_weights.safetensors")
    with pytest.raises(SAEError, match=r"is damaged: 1 of the .* numbers of W_enc"):
        dl.score(dl.sae_latent(tmp_path / "sae", 7), "the dog", gpt2.bridge)
    with pytest.raises(SAEError, match="is damaged"):
        dl.max_activating(
            [dl.sae_latent(tmp_path / "sae", i) for i in range(8)], gpt2.bridge, ["the dog " * 20], length=4
        )
    if architecture != "topk":  # which needs all latents to know the strongest
        dl.score(dl.sae_latent(tmp_path / "sae", 6), "the dog", gpt2.bridge)


def test_values_that_are_not_finite_are_scored_with_a_warning(gpt2):
    root = dl.custom("root", ["blocks.1.mlp.hook_post"], lambda a: a["blocks.1.mlp.hook_post"][:, -1, 3].sqrt())
    prompts = [[i, i + 1, i + 2] for i in range(1, 60, 5)]
    negative = int((dl.score("L1.N3", prompts, gpt2.bridge).value < 0).sum())
    assert 0 < negative < len(prompts)
    with pytest.warns(RuntimeWarning, match=f"{negative} of the {len(prompts)} prompts have a value or cross-entropy"):
        scores = dl.score(root, prompts, gpt2.bridge)
    assert int(torch.from_numpy(scores.value).isnan().sum()) == negative


# The digest.


def fine_tuned(family: models.Family, size: float = 1e-5) -> Any:
    """A bridge whose every weight is off by a hair, so that scores agree within all tolerances."""

    def change(raw: Any) -> None:
        for parameter in raw.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))

    return changed(family, change)


def test_a_run_does_not_go_on_with_a_fine_tuned_model_though_scores_agree(family, tmp_path):
    run = dl.dream("L1.N3", family.bridge, save_to=tmp_path / "run", **SMALL)
    other = fine_tuned(family)
    ids = run.history.ids[:5].tolist()
    torch.testing.assert_close(
        torch.from_numpy(dl.score("L1.N3", ids, other).value),
        torch.from_numpy(dl.score("L1.N3", ids, family.bridge).value),
        atol=1e-2,
        rtol=1e-2,
    )
    with pytest.raises(RunFolderError, match=r"another model: .* with other weights than .* as a fine-tuned"):
        dl.load_run(tmp_path / "run", other).resume(1)
    again = models.new_bridge(family.name, family.raw)  # another bridge with the same weights
    assert dl.load_run(tmp_path / "run", again).resume(1).iteration == 2


def test_a_fine_tuned_fluency_model_is_another_one_too(gpt2, llama, tmp_path):
    dl.dream("L1.N3", gpt2.bridge, fluency_model=llama.bridge, save_to=tmp_path / "run", **SMALL)
    with pytest.raises(RunFolderError, match="belongs to another fluency model: "):
        dl.load_run(tmp_path / "run", gpt2.bridge, fluency_model=fine_tuned(llama)).resume(1)


def test_digests_are_the_same_after_use_and_are_not_compared_across_modes(gpt2, tmp_path):
    hooked = as_hooked(models.new_bridge("gpt2", gpt2.raw))
    before = hooked.weights_digest
    dl.dream("blocks.1.attn.hook_result[-1, 0, 5]", hooked, **SMALL)
    assert hooked.weights_digest == before == as_hooked(models.new_bridge("gpt2", gpt2.raw)).weights_digest
    compatible = as_hooked(models.compatible("gpt2").bridge)
    assert compatible.weights_digest.split()[0] != before.split()[0]


@pytest.mark.parametrize("name", ["lambda_min", "lambda_max", "restart_lambda_min", "restart_lambda_max"])
@pytest.mark.parametrize("value", [1e300, 1e31, 1e-300])
def test_weights_of_fluency_that_float32_does_not_hold_are_refused(name, value):
    with pytest.raises(DreamyLensError, match=f"{name} is .*; it must be (at most 1e.30|0 or at least 1e-30), because"):
        dl.EPO(**{name: value})
    assert torch.from_numpy(dl.EPO(lambda_max=1e30).lambdas).isfinite().all()
