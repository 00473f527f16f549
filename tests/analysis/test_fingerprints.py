"""Fingerprints of many prompts at once: against the decomposition of each, and against plain weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import dreamy_lens as dl
from dreamy_lens.analysis import fingerprints
from dreamy_lens.errors import FeatureError, PromptError
from dreamy_lens.models import as_hooked
from dreamy_lens.scoring import Scorer
from tests.analysis.test_upstream import save_sae
from tests.helpers.models import compatible, family, new_bridge
from tests.trust import zoo

IDS = np.random.default_rng(3).integers(1, 300, size=(5, 6))
DIRECTION = np.random.default_rng(0).normal(size=32).astype(np.float32)
RESID = dl.hook("blocks.1.hook_resid_post")
FEATURES = {
    "a neuron": "L1.N5",
    "a neuron below": "L0.N5",
    "a direction": RESID[-1] @ DIRECTION,
    "a standardised direction": RESID[-1].standardised() @ DIRECTION + 0.5 * dl.hook("blocks.0.mlp.hook_pre")[-1, 2],
    "a cosine": RESID[-1].cosine(DIRECTION),
    "a standardised maximum": (RESID[:].standardised() @ DIRECTION).max(),
    "a query": "blocks.1.attn.hook_q[-1, 0, 1]",
    "a head": "blocks.1.attn.hook_z[-1, 1, 2]",
    "a head's result": "blocks.1.attn.hook_result[-1, 1, 2]",
    "a maximum and a sum": "blocks.1.mlp.hook_pre[..., 5].max() - 2 * blocks.0.hook_resid_post[1, 3] + 3",
    "logits": 'logit_difference("he")',
    "a product": "blocks.1.mlp.hook_pre[-1, 5] * blocks.0.mlp.hook_pre[-1, 3]",
    "an MLP's output": "blocks.1.hook_mlp_out[-1, 2]",
}


def check(feature, bridge, ids=IDS, **settings):
    """Compare the numbers of the first and the last prompt with those of their own decompositions."""
    scorer = Scorer(dl.parse(feature), as_hooked(bridge))
    found = fingerprints(scorer, ids, **settings)
    for i, row in ((0, ids[0]), (len(ids) - 1, ids[-1])):
        one = dl.upstream(feature, np.asarray(row), bridge, neurons=40)
        size = max(1e-3, float(np.abs(one.contributions).max()))
        assert found.components == one.components and found.quantity == one.quantity
        np.testing.assert_allclose(found.contributions[i], one.contributions, atol=1e-4 * size)
        assert found.bias[i] == pytest.approx(one.bias, abs=1e-4 * size)
        assert found.total[i] == pytest.approx(one.total, abs=1e-4 * size)
        for neuron in one.neurons:
            where = np.flatnonzero((found.neurons == (neuron.layer, neuron.index)).all(1))
            assert found.by_neuron[i, where] == pytest.approx(neuron.contribution, abs=1e-4 * size)
    return found


@pytest.mark.parametrize("name", FEATURES)
def test_every_prompt_has_the_contributions_of_its_own_decomposition(family, name):
    found = check(FEATURES[name], family.bridge)
    units = found.unit_contributions()
    assert len(found.names) == units.shape[1]
    np.testing.assert_allclose(units.sum(1), found.contributions.sum(1), atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(found.normalised(), axis=1), 1.0)


@pytest.mark.parametrize("name", ["BloomForCausalLM", "OPTForCausalLM"])
def test_other_architectures_have_the_same_contributions(name):
    architecture = zoo.ARCHITECTURES[name]
    check("L1.N5", zoo.bridge_of(architecture, zoo.plain_model(architecture)), IDS[:2])


def test_models_in_compatibility_mode_have_the_same_contributions():
    check("L1.N5", compatible("gpt2").bridge)


def test_prompts_of_several_lengths_and_many_passes_keep_their_order(monkeypatch):
    ragged = [IDS[0], IDS[1][:4], IDS[2], IDS[3][:4]]
    monkeypatch.setattr("dreamy_lens.analysis.contributions.ENTRIES", 1)  # one prompt in each pass
    found = check("L1.N5", family("gpt2").bridge, ragged)
    assert len(found) == 4 and check("L1.N5", family("gpt2").bridge, ragged, neurons=False).by_neuron.shape == (4, 0)


@pytest.mark.parametrize("name", ["a standardised direction", "a cosine", "a standardised maximum"])
def test_lengths_of_many_prompts_are_held_in_as_many_passes_as_those_of_one(gpt2, monkeypatch, name):
    model = as_hooked(gpt2.bridge)
    scorer, passes = Scorer(dl.parse(FEATURES[name]), model), []
    run = type(model).run
    monkeypatch.setattr(type(model), "run", lambda *a, **k: (passes.append(1), run(*a, **k))[1])
    counts = []
    for ids in (IDS[:1], np.tile(IDS, (8, 1))):
        passes.clear()
        fingerprints(scorer, ids)
        counts.append(len(passes))
    assert counts[0] == counts[1] < 10


def test_latents_are_those_of_the_pre_activation(tmp_path):
    for normalised, folder in ((False, "plain"), (True, "normalised")):
        sae = dl.sae_latent(save_sae(tmp_path / folder, 32, normalised), 2)
        check(sae, family("gpt2").bridge, IDS[:3])


def test_neurons_contribute_their_activation_times_the_weights_of_the_plain_model():
    gpt2 = family("gpt2")
    raw = gpt2.raw.transformer
    found = fingerprints(Scorer(dl.parse("blocks.1.hook_resid_post[-1, 3]"), as_hooked(gpt2.bridge)), IDS)
    rows = torch.cat([torch.full((len(IDS), 1), gpt2.bos), torch.tensor(IDS)], 1)
    seen = {}
    handles = [
        raw.h[i].mlp.c_proj.register_forward_hook(lambda m, x, o, i=i: seen.update({i: x[0][:, -1]})) for i in (0, 1)
    ]
    with torch.no_grad():
        gpt2.raw(rows)
    for handle in handles:
        handle.remove()
    expected = [(seen[i] * raw.h[i].mlp.c_proj.weight[:, 3]).detach().numpy() for i in (0, 1)]
    np.testing.assert_allclose(found.by_neuron, np.concatenate(expected, axis=1), atol=1e-5)
    embedded = raw.wte.weight[rows[:, -1], 3].detach().numpy()
    np.testing.assert_allclose(found.contributions[:, 0], embedded, atol=1e-6)


def test_what_has_no_fingerprint_is_refused_with_the_reason():
    gpt2 = family("gpt2")

    def of(feature, ids=IDS, bridge=gpt2.bridge):
        return fingerprints(Scorer(dl.parse(feature), as_hooked(bridge)), ids)

    for feature, reason in (
        ("blocks.1.attn.hook_pattern[0, -1, 0]", "a product of a query and a key"),
        ("embed.hook_out[-1, 0]", "before the first block"),
        ('log_prob("he dog runs")', "more than one pass"),
    ):
        with pytest.raises(FeatureError, match=reason):
            of(feature)
    with pytest.raises(PromptError):
        of("L1.N5", [])
    model = new_bridge("gpt2", gpt2.raw)
    model.add_hook("blocks.0.hook_resid_post", lambda x, hook: 1.5 * x)
    with pytest.raises(FeatureError, match="something else writes to it"):
        of("blocks.1.hook_resid_post[-1, 3]", bridge=model)
