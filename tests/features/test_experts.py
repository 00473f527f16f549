"""Neurons of experts, against the plain Hugging Face model: values, gradients, dreams, scans and refusals."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import dreamy_lens as dl
from dreamy_lens.errors import FeatureError, FeatureRangeError, HookMeaningError
from dreamy_lens.results.notes import note_on_values
from tests.helpers.dreams import dream
from tests.helpers.scorers import make_scorer
from tests.trust.zoo import ARCHITECTURES, bridge_of, plain_model

LAYER, INDEX = 1, 3
NAMES = ("MixtralForCausalLM", "GptOssForCausalLM", "DeepseekV3ForCausalLM")
TEXTS = ["The dog runs over the hill and the cat sleeps in the house.", "She said that the big red house was hers."]


@cache
def model(name: str) -> tuple[Any, Any]:
    """Plain model of an architecture, and a bridge over a copy of it."""
    raw = plain_model(ARCHITECTURES[name])
    return raw, bridge_of(ARCHITECTURES[name], raw)


def by_hand(raw: Any, ids: Tensor, expert: int, embeds: Tensor | None = None) -> Tensor:
    """Values of neuron `INDEX` of an expert at every token, `[batch, pos]`, from the plain model's own modules."""
    (experts,) = [m for m in raw.get_submodule(f"model.layers.{LAYER}").modules() if hasattr(m, "_apply_gate")]
    given: list[Any] = []
    handle = experts.register_forward_pre_hook(lambda module, args: given.append(args))
    raw(**({"input_ids": ids} if embeds is None else {"inputs_embeds": embeds}), use_cache=False)
    handle.remove()
    x, chosen = given[0][:2]
    if raw.config.model_type == "gpt_oss":
        both = x @ experts.gate_up_proj[expert] + experts.gate_up_proj_bias[expert]
        gate, up = both[:, 2 * INDEX].clamp(max=experts.limit), both[:, 2 * INDEX + 1]
        value = (up.clamp(-experts.limit, experts.limit) + 1) * gate * torch.sigmoid(experts.alpha * gate)
    else:
        gate, up = x @ experts.gate_up_proj[expert, INDEX], x @ experts.gate_up_proj[expert].chunk(2)[1][INDEX]
        value = gate * torch.sigmoid(gate) * up
    return (value * (chosen == expert).any(-1)).reshape(ids.shape)


def prompts(bridge: Any, count: int = 12, length: int = 6) -> Tensor:
    """Prompts of which many begin in the same way, so that prefixes are shared."""
    rows = torch.randint(1, 320, (count, length), generator=torch.Generator().manual_seed(1))
    rows[1:8, :3] = rows[0, :3]
    return rows


def after_bos(rows: Tensor) -> Tensor:
    return torch.cat([torch.zeros(len(rows), 1, dtype=torch.long), rows], 1)


@pytest.mark.parametrize("name", NAMES)
def test_values_are_those_of_the_plain_model_alone_shared_and_in_batches(name):
    raw, bridge = model(name)
    rows = prompts(bridge)
    for expert in range(4):
        with torch.no_grad():
            expected = by_hand(raw, after_bos(rows), expert)[:, 1:].numpy()
        assert (expected == 0).any() and expected.any()
        for options in ({}, {"share_prefixes": False}, {"batch_size": 5}):
            last, most = (
                make_scorer(f, bridge, prepend_bos=True, **options).score(rows).value
                for f in (f"L1.E{expert}.N3", f"2 * expert_neuron(1, {expert}, 3, :).max() - 1")
            )
            np.testing.assert_allclose(last, expected[:, -1], atol=1e-4)
            np.testing.assert_allclose(most, 2 * expected.max(-1) - 1, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_the_plain_model(name):
    raw, bridge = model(name)
    rows = prompts(bridge)
    ids, embedding = after_bos(rows), raw.get_input_embeddings()
    for expert in (0, 2):
        feature = dl.expert_neuron(LAYER, expert, INDEX, slice(None)).mean()
        found = make_scorer(feature, bridge, prepend_bos=True).gradient(rows).of_value()
        leaf = embedding(ids).detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(by_hand(raw, ids, expert, leaf)[:, 1:].mean(-1).sum(), leaf)
        expected = slope[:, 1:] @ embedding.weight.detach().T
        assert expected.abs().max() > 1e-3
        np.testing.assert_allclose(found, expected[..., : found.shape[-1]], atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("name", NAMES)
def test_logits_of_the_router_and_their_gradients_are_those_of_the_plain_model(name):
    raw, bridge = model(name)
    rows = prompts(bridge)
    ids, embedding = after_bos(rows), raw.get_input_embeddings()
    mlp = raw.model.layers[LAYER].mlp
    (router,) = [m for m in mlp.modules() if getattr(getattr(m, "weight", None), "shape", None) == (4, 32)]
    given: list[Tensor] = []
    handle = router.register_forward_pre_hook(lambda module, args: given.append(args[0].reshape(*ids.shape, -1)))
    leaf = embedding(ids).detach().requires_grad_(True)
    raw(inputs_embeds=leaf, use_cache=False)
    handle.remove()
    logits = given[0] @ router.weight.T + (getattr(router, "bias", None) if name.startswith("GptOss") else 0)
    scorer = make_scorer("router(1, 2) - router(1, 0, 3)", bridge, prepend_bos=True)
    expected = logits[:, -1, 2] - logits[:, 4, 0]
    np.testing.assert_allclose(scorer.score(rows).value, expected.detach(), atol=1e-4)
    (slope,) = torch.autograd.grad(expected.sum(), leaf)
    slope = slope[:, 1:] @ embedding.weight.detach().T
    found = scorer.gradient(rows).of_value()
    np.testing.assert_allclose(found, slope[..., : found.shape[-1]], atol=1e-4 * float(slope.abs().max()))


def test_a_neuron_that_no_prompt_turns_on_is_told_with_what_to_dream_of():
    note = note_on_values("expert_neuron(1, 2, 3, 0:4).max()", 0.0, 100)
    assert "never rose above 0 in 100 prompts" in note and "the router's logit of its expert, router(1, 2" in note


def test_a_dream_of_one_is_right_saved_and_goes_on(tmp_path):
    raw, bridge = model(NAMES[0])
    run = dream(bridge, "L1.E2.N3", iterations=3)
    ids = torch.tensor([prompt.ids for prompt in run.frontier])
    with torch.no_grad():
        expected = by_hand(raw, after_bos(ids), 2)[:, -1]
    np.testing.assert_allclose([prompt.value for prompt in run.frontier], expected, atol=1e-4)
    assert run.frontier[-1].value > 0
    run.save(tmp_path / "run")
    again = dl.load_run(tmp_path / "run", model=bridge)
    assert str(again.feature) == "L1.E2.N3" and again.resume(1, progress=False).iteration == 4
    attribution = run.frontier[-1].attribution(k=3)
    position, column = 2, 1
    changed = torch.tensor([run.frontier[-1].ids])
    changed[0, position] = int(attribution.candidates[position, column])
    with torch.no_grad():
        assert attribution.values[position, column] == pytest.approx(
            float(by_hand(raw, after_bos(changed), 2)[0, -1]), abs=1e-4
        )


def test_a_corpus_is_scanned_for_them(tmp_path):
    raw, bridge = model(NAMES[0])
    features = ["L1.E2.N3", "L1.E0.N3 - L1.E1.N3"]
    found = dl.max_activating(features, bridge, TEXTS * 4, k=3, length=6, progress=False, out=tmp_path / "scan")
    for i, experts in enumerate(((2,), (0, 1))):
        top = found[i].top
        ids = torch.tensor([window.ids for window in top])
        with torch.no_grad():
            values = [by_hand(raw, after_bos(ids), expert)[:, -1] for expert in experts]
        expected = values[0] if len(values) == 1 else values[0] - values[1]
        np.testing.assert_allclose([window.value for window in top], expected, atol=1e-4)


def test_their_text_is_read_and_written():
    assert dl.parse("router(1, 2)") == dl.router(1, 2) and str(dl.router(0, 1, 4)) == "router(0, 1, position=4)"
    for feature in (
        dl.expert_neuron(1, 2, 3),
        dl.expert_neuron(0, 1, 2, 4),
        dl.expert_neuron(0, 1, 2, slice(1, 3)).max(),
    ):
        assert dl.parse(str(feature)) == feature
    assert str(dl.expert_neuron(1, 2, 3)) == "L1.E2.N3"
    assert dl.parse("expert_neuron(1, 2, 3)") == dl.parse("L1.E2.N3")
    with pytest.raises(FeatureError, match="counted from 0"):
        dl.expert_neuron(1, -1, 3)


def test_what_is_not_there_is_refused_with_the_reason(gpt2):
    bridge = model(NAMES[0])[1]
    with pytest.raises(FeatureRangeError, match="there is no expert 4; tiny-Mixtral has 4 experts there, 0 to 3"):
        make_scorer("L1.E4.N3", bridge)
    with pytest.raises(FeatureRangeError, match=r"there is no neuron 40; .* 0 to 39"):
        make_scorer("L1.E0.N40", bridge)
    with pytest.raises(HookMeaningError, match="this layer has no experts"):
        make_scorer("L1.E0.N3", gpt2.bridge)
    with pytest.raises(HookMeaningError, match=r"no single last linear map.*L1\.E0\.N3"):
        make_scorer("L1.N3", bridge)
    with pytest.raises(FeatureError, match=r"no layer 7|no hook point"):
        make_scorer("L7.E0.N3", bridge)


def test_experts_that_do_something_else_are_refused():
    raw = plain_model(ARCHITECTURES[NAMES[0]])
    experts = raw.model.layers[LAYER].mlp.experts
    experts.__class__ = type("Other", (type(experts),), {"_apply_gate": lambda self, both: both.chunk(2, -1)[0]})
    with pytest.raises(HookMeaningError, match="its experts do not write what their neurons and weights say"):
        make_scorer("L1.E0.N3", bridge_of(ARCHITECTURES[NAMES[0]], raw))


def test_in_compatibility_mode_values_are_right_too():
    raw = plain_model(ARCHITECTURES[NAMES[0]])
    bridge = bridge_of(ARCHITECTURES[NAMES[0]], raw)
    bridge.enable_compatibility_mode()
    rows = prompts(bridge)
    with torch.no_grad():
        expected = by_hand(raw, after_bos(rows), 2)[:, -1]
    np.testing.assert_allclose(make_scorer("L1.E2.N3", bridge, prepend_bos=True).score(rows).value, expected, atol=1e-3)


def test_edited_weights_are_seen():
    raw = plain_model(ARCHITECTURES[NAMES[0]])
    bridge = bridge_of(ARCHITECTURES[NAMES[0]], raw)
    rows = prompts(bridge)
    scorer = make_scorer("L1.E2.N3", bridge, prepend_bos=True)
    scorer.score(rows)
    for part in (raw, bridge.original_model):
        with torch.no_grad():
            part.model.layers[LAYER].mlp.experts.gate_up_proj.mul_(1.5)
    with torch.no_grad():
        expected = by_hand(raw, after_bos(rows), 2)[:, -1]
    np.testing.assert_allclose(scorer.score(rows).value, expected, atol=1e-4)
