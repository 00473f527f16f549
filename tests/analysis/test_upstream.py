"""Upstream contributions: against plain models, against interventions, and refused where they would be wrong."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import dreamy_lens as dl
from dreamy_lens.analysis import fingerprints
from dreamy_lens.errors import FeatureError, PromptError, RunFolderError, SAEError, SettingsError
from dreamy_lens.models import as_hooked
from dreamy_lens.results import ModelComponent, Upstream
from dreamy_lens.scoring import Scorer
from tests.helpers.models import compatible, family, new_bridge
from tests.trust import zoo

PROMPT = "The dog runs over the hill"
DIRECTION = np.random.default_rng(0).normal(size=32).astype(np.float32)
RESID = dl.hook("blocks.1.hook_resid_post")
EXACT = {
    "a neuron before its nonlinearity": "blocks.1.mlp.hook_pre[-1, 5]",
    "a direction": RESID[-1] @ DIRECTION,
    "a standardised direction": RESID[-1].standardised() @ DIRECTION,
    "a cosine": RESID[-1].cosine(DIRECTION),
    "a norm's output": "blocks.1.ln2.hook_out[-1, 5]",
    "a query": "blocks.1.attn.hook_q[-1, 0, 1]",
    "a head": "blocks.1.attn.hook_z[-1, 1, 2]",
    "a head's result": "blocks.1.attn.hook_result[-1, 1, 2]",
    "an attention": "blocks.1.hook_attn_out[-1, 2]",
    "a maximum and a sum": "blocks.1.mlp.hook_pre[..., 5].max() - 2 * blocks.0.hook_resid_post[1, 3] + 3",
    "a mean": "blocks.1.hook_resid_post[..., 7].mean()",
}
INTEGRATED = {
    "a log-probability": 'log_prob("he")',
    "a product": "blocks.1.mlp.hook_pre[-1, 5] * blocks.0.mlp.hook_pre[-1, 3]",
    "a length": RESID[-1].norm(),
    "an MLP's output": "blocks.1.hook_mlp_out[-1, 2]",
}


def check_sums(found: Upstream, total: float | None = None) -> None:
    """All that must add up adds up."""
    size = max(abs(found.total), 1e-3)
    assert abs(found.contributions.sum() + found.bias - found.total) <= 1e-4 * size
    assert found.error <= 1e-4 * size
    if total is not None:
        assert found.total == pytest.approx(total, rel=1e-4, abs=1e-6)
    known = np.isfinite(found.by_position).all(1)
    assert known.all()
    np.testing.assert_allclose(found.by_position.sum(1), found.contributions, atol=1e-4 * size)


@pytest.mark.parametrize("name", EXACT)
def test_contributions_sum_to_the_value(family, name):
    found = dl.upstream(EXACT[name], PROMPT, family.bridge)
    assert found.method == "exact" and found.quantity == "value"
    check_sums(found, float(dl.score(EXACT[name], [PROMPT], family.bridge).value[0]))
    assert found.value == pytest.approx(found.total, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", INTEGRATED)
def test_integrated_contributions_sum_to_the_value(family, name):
    found = dl.upstream(INTEGRATED[name], PROMPT, family.bridge)
    assert found.method == "integrated gradients" and found.quantity == "value"
    check_sums(found, float(dl.score(INTEGRATED[name], [PROMPT], family.bridge).value[0]))


@pytest.mark.parametrize("name", ["gpt2", "neox", "gemma2"])
def test_compatibility_mode_changes_no_sum(name):
    for feature in ("blocks.1.mlp.hook_pre[-1, 5]", 'logit("he")', "blocks.1.attn.hook_result[-1, 1, 2]"):
        check_sums(dl.upstream(feature, PROMPT, compatible(name).bridge))


@pytest.mark.parametrize("name", ["BloomForCausalLM", "GPTJForCausalLM", "OPTForCausalLM", "PhiForCausalLM"])
def test_other_blocks_norms_and_positions(name):
    """ALiBi with a norm of the embedding, blocks with one norm for attention and MLP, positions with an offset."""
    architecture = zoo.ARCHITECTURES[name]
    model = zoo.bridge_of(architecture, zoo.plain_model(architecture))
    for feature, quantity in (("L1.N5", "pre"), ("logit(5)", "value")):
        found = dl.upstream(feature, [5, 9, 7, 30], model)
        assert (found.method, found.quantity, found.notes) == ("exact", quantity, ())
        check_sums(found)


def test_logits_are_decomposed_before_a_soft_cap(family):
    found = dl.upstream('logit_difference("he")', PROMPT, family.bridge)
    value = float(dl.score('logit_difference("he")', [PROMPT], family.bridge).value[0])
    capped = family.name == "gemma2"
    assert found.method == "exact" and found.quantity == ("pre" if capped else "value")
    check_sums(found, None if capped else value)
    assert found.value == pytest.approx(value, rel=1e-4)
    check_sums(dl.upstream('logit_difference("he")', PROMPT, family.bridge, quantity="value", steps=64), value)


def test_neurons_are_decomposed_before_their_nonlinearity(family):
    gated = family.name in ("llama", "gemma2")
    found = dl.upstream("L1.N5", PROMPT, family.bridge)
    pre = dl.score("blocks.1.mlp.hook_pre[-1, 5]", [PROMPT], family.bridge).value[0]
    post = dl.score("L1.N5", [PROMPT], family.bridge).value[0]
    assert found.value == pytest.approx(post, rel=1e-4)
    if not gated:
        assert (found.method, found.quantity) == ("exact", "pre")
        check_sums(found, float(pre))
        with pytest.raises(FeatureError, match=r"no 'gate' to decompose; it has 'pre', 'value'"):
            dl.upstream("L1.N5", PROMPT, family.bridge, quantity="gate")
        check_sums(dl.upstream("L1.N5", PROMPT, family.bridge, quantity="value"), float(post))
        return
    assert (found.method, found.quantity) == ("integrated gradients", "value")
    assert any('quantity="gate"' in note for note in found.notes)
    check_sums(found, float(post))
    up = dl.score("blocks.1.mlp.hook_pre_linear[-1, 5]", [PROMPT], family.bridge).value[0]
    for quantity, value in (("gate", pre), ("up", up)):
        part = dl.upstream("L1.N5", PROMPT, family.bridge, quantity=quantity)
        assert (part.method, part.quantity) == ("exact", quantity)
        check_sums(part, float(value))
    with pytest.raises(FeatureError, match="no 'pre' to decompose; it has 'gate', 'up', 'value'"):
        dl.upstream("L1.N5", PROMPT, family.bridge, quantity="pre")


def test_contributions_are_those_of_the_weights_of_the_plain_model(gpt2):
    """Every number of one neuron of GPT-2, from the plain model's weights."""
    raw = gpt2.raw.transformer
    found = dl.upstream("blocks.1.mlp.hook_pre[-1, 5]", [5, 9, 7, 30], gpt2.bridge, neurons=40)
    ids = torch.tensor([[gpt2.bos, 5, 9, 7, 30]])
    assert found.ids.tolist() == ids[0].tolist() and found.start == 1 and found.length == 4
    seen = {}
    handles = [
        raw.h[1].ln_2.register_forward_hook(lambda m, i, o: seen.update(mid=i[0][0, -1])),
        raw.h[0].mlp.c_proj.register_forward_hook(lambda m, i, o: seen.update(post=i[0][0, -1])),
        *(
            raw.h[i].attn.c_attn.register_forward_hook(lambda m, x, o, i=i: seen.update({f"v{i}": o[0, :, 64:]}))
            for i in (0, 1)
        ),
    ]
    with torch.no_grad():
        patterns = gpt2.raw(ids, output_attentions=True).attentions
    for handle in handles:
        handle.remove()
    gpt2.raw.requires_grad_(False)
    norm, w = raw.h[1].ln_2, raw.h[1].mlp.c_fc.weight[:, 5]
    scale = (seen["mid"].var(unbiased=False) + norm.eps).sqrt()

    def read(vector):
        return float(((vector - vector.mean()) * norm.weight / scale) @ w)

    expected = {"embedding": read(raw.wte.weight[30]), "position": read(raw.wpe.weight[4])}
    for layer in (0, 1):
        out = raw.h[layer].attn.c_proj.weight
        for h in range(4):
            rows = slice(8 * h, 8 * h + 8)
            values = seen[f"v{layer}"][:, rows]
            by_source = [read(patterns[layer][0, h, -1, s] * values[s] @ out[rows]) for s in range(5)]
            expected[f"L{layer}.H{h}"] = sum(by_source)
            where = [c.name for c in found.components].index(f"L{layer}.H{h}")
            np.testing.assert_allclose(found.by_position[where], by_source, atol=1e-4)
    each = [read(a * row) for a, row in zip(seen["post"], raw.h[0].mlp.c_proj.weight, strict=True)]
    expected["L0.MLP"] = sum(each)
    for neuron in found.neurons:
        assert neuron.contribution == pytest.approx(each[neuron.index], abs=1e-4)
        assert neuron.activation == pytest.approx(float(seen["post"][neuron.index]), abs=1e-5)
    assert len(found.neurons) == 40
    biases = [raw.h[0].attn.c_proj.bias, raw.h[1].attn.c_proj.bias, raw.h[0].mlp.c_proj.bias]
    bias = sum(map(read, biases)) + float(norm.bias @ w + raw.h[1].mlp.c_fc.bias[5])
    assert {c.name for c in found.components} == expected.keys()
    for component, contribution in zip(found.components, found.contributions, strict=True):
        assert contribution == pytest.approx(expected[component.name], abs=1e-4), component
    assert found.bias == pytest.approx(bias, abs=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "neox", "llama"])
def test_a_head_without_its_output_takes_its_contribution_away(name):
    """The last heads before a direction have no other path to it, so an intervention shows their contribution."""
    model = new_bridge(name, family(name).raw)
    feature = f"blocks.1.hook_resid_{'post' if name == 'neox' else 'mid'}[-1, 3]"
    found = dl.upstream(feature, PROMPT, model)
    for head in range(4):
        name_of_hook = "blocks.1.attn.hook_z"
        model.add_hook(name_of_hook, lambda z, hook, head=head: z.index_fill(2, torch.tensor([head]), 0.0))
        without = dl.score(feature, [PROMPT], model).value[0]
        model.reset_hooks()
        contribution = found.contributions[[c.name for c in found.components].index(f"L1.H{head}")]
        assert found.value - without == pytest.approx(contribution, abs=1e-4)


def test_the_embedded_model_and_its_top_components():
    found = dl.upstream("L3.N40", "Return a copy of the given list")
    check_sums(found, float(dl.score("blocks.3.mlp.hook_pre[-1, 40]", ["Return a copy of the given list"]).value[0]))
    assert [c.kind for c in found.components].count("head") == 21
    top = found.top(5)
    assert [abs(t.contribution) for t in top] == sorted(map(abs, found.contributions), reverse=True)[:5]
    mlp = found.top(1, kind="mlp")[0]
    assert mlp.neurons and all(n.layer == mlp.component.layer for n in mlp.neurons)
    position, token, _ = found.top(1, kind="head")[0].sources[0]
    assert found.tokens[position] == token


def test_a_maximum_reads_its_position_and_limits_are_left_out(gpt2):
    best = dl.upstream("blocks.1.mlp.hook_post[..., 5].max()", PROMPT, gpt2.bridge)
    values = [dl.upstream(f"blocks.1.mlp.hook_post[{i}, 5]", PROMPT, gpt2.bridge) for i in range(best.length)]
    own = max(values, key=lambda each: each.value)
    np.testing.assert_allclose(best.contributions, own.contributions, atol=1e-6)
    clipped = dl.upstream("blocks.1.hook_resid_post[-1, 3].clip(max=0)", PROMPT, gpt2.bridge)
    assert clipped.quantity == "unclipped" and clipped.value <= 0 and any("clip()" in n for n in clipped.notes)
    check_sums(clipped, float(dl.score("blocks.1.hook_resid_post[-1, 3]", [PROMPT], gpt2.bridge).value[0]))


def test_a_maximum_over_equal_values_is_the_first_of_them():
    """A neuron with a ReLU that is off everywhere: the pre-activation of one position, and not a mean of several."""
    architecture = zoo.ARCHITECTURES["OPTForCausalLM"]
    model = zoo.bridge_of(architecture, zoo.plain_model(architecture))
    ids = [5, 9, 7, 30, 11, 8]
    found = dl.upstream("blocks.1.mlp.hook_post[..., 5].max()", ids, model)
    first = dl.upstream("blocks.1.mlp.hook_pre[0, 5]", ids, model)
    assert found.value == 0 and any("reached at several positions; the first" in note for note in found.notes)
    assert found.total == pytest.approx(first.total, rel=1e-5)
    np.testing.assert_allclose(found.contributions, first.contributions, atol=1e-6)


def test_a_standardised_maximum_holds_the_deviation_at_its_position(family):
    """Every number at the position that is largest, and the same in passes over many prompts."""
    feature = (dl.hook("blocks.1.hook_resid_post")[:].standardised() @ DIRECTION).max()
    each = [RESID[i].standardised() @ DIRECTION for i in range(4)]
    prompts = np.random.default_rng(0).integers(1, 300, (5, 4))
    many = fingerprints(Scorer(feature, as_hooked(family.bridge)), prompts)
    chosen = set()
    for row, total, contributions in zip(prompts, many.total, many.contributions, strict=True):
        values = [float(dl.score(f, row, family.bridge).value[0]) for f in each]
        chosen.add(best := int(np.argmax(values)))
        found, alone = (dl.upstream(f, row, family.bridge) for f in (feature, each[best]))
        assert found.method == "exact" and found.total == pytest.approx(max(values), rel=1e-4) == total
        np.testing.assert_allclose(found.contributions, alone.contributions, atol=1e-5)
        np.testing.assert_allclose(contributions, found.contributions, atol=1e-4)
    assert len(chosen) > 1


def test_features_of_several_neurons_say_what_is_added():
    for feature in ("L1.N5 - L1.N6", "L1.N5 + blocks.1.hook_resid_pre[-1, 3]", "blocks.1.mlp.hook_post[..., 5].mean()"):
        found = dl.upstream(feature, PROMPT, family("gpt2").bridge)
        assert found.quantity == "pre" and any("other terms by their values" in note for note in found.notes)
    for feature in ("2 * L1.N5 - 3", "blocks.1.mlp.hook_post[..., 5].max()", "blocks.1.hook_resid_pre[..., 3].mean()"):
        assert not dl.upstream(feature, PROMPT, family("gpt2").bridge).notes


def save_topk_sae(folder, d_in: int) -> str:
    from safetensors.torch import save_file

    g = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {"W_enc": (d_in, 6), "W_dec": (6, d_in), "b_dec": (d_in,), "b_enc": (6,)}
    folder.mkdir()
    save_file({k: torch.randn(*s, generator=g) for k, s in shapes.items()}, folder / "sae_weights.safetensors")
    config = {"architecture": "topk", "k": 2, "d_in": d_in, "d_sae": 6, "dtype": "float32"}
    config |= {"normalize_activations": "none", "reshape_activations": "none", "apply_b_dec_to_input": True}
    config["metadata"] = {"hook_name": "blocks.1.hook_resid_post"}
    (folder / "cfg.json").write_text(json.dumps(config))
    return str(folder)


def test_the_maximum_of_a_latent_is_at_the_position_of_its_value(gpt2, tmp_path):
    """Other latents may be larger where its pre-activation is largest: the position is that of the latent's value."""
    sae, rows = save_topk_sae(tmp_path / "sae", 32), np.random.default_rng(0).integers(1, 320, size=(400, 5))
    latents = [[dl.sae_latent(sae, 0, position=i, pre_activation=pre) for i in range(5)] for pre in (False, True)]
    tables = [np.stack([dl.score(f, rows, gpt2.bridge).value for f in some], axis=1) for some in latents]
    # A prompt on which the two positions differ; the weights of the model depend on the versions of its libraries.
    differ = (tables[0].max(axis=1) > 0) & (tables[0].argmax(axis=1) != tables[1].argmax(axis=1))
    row, (values, pre) = rows[differ][0], (table[differ][0] for table in tables)
    best = int(np.argmax(values))
    found = dl.upstream(dl.sae_latent(sae, 0, position=slice(None)).max(), row, gpt2.bridge)
    assert found.method == "exact" and found.quantity == "pre"
    assert found.value == pytest.approx(values[best], rel=1e-5) and found.total == pytest.approx(pre[best], rel=1e-4)


class Shown:
    """An autoencoder in memory that shows only `encode`."""

    def __init__(self) -> None:
        self.weights = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return (x @ self.weights).relu()


class WithoutGradient(Shown):
    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return super().encode(x).detach()


def test_a_latent_of_an_object_without_weights_is_divided_itself(gpt2):
    values = [dl.score(RESID[-1] @ Shown().weights[:, i].numpy(), [PROMPT], gpt2.bridge).value[0] for i in range(6)]
    number = int(np.argmax(values))  # the weights of the model depend on the versions of its libraries
    latent = dl.sae_latent(Shown(), number, hook="blocks.1.hook_resid_post")
    found = dl.upstream(latent, PROMPT, gpt2.bridge)
    assert (found.method, found.quantity) == ("integrated gradients", "value")
    assert any("shows no pre-activations" in note for note in found.notes)
    check_sums(found, float(dl.score(latent, [PROMPT], gpt2.bridge).value[0]))
    # Where the latent is above zero all the way, it is linear, and the exact numbers are known.
    plain = dl.upstream(RESID[-1] @ Shown().weights[:, number].numpy(), PROMPT, gpt2.bridge)
    np.testing.assert_allclose(found.contributions, plain.contributions, atol=1e-4 * abs(plain.total))
    many = fingerprints(Scorer(latent, as_hooked(gpt2.bridge)), [PROMPT])
    np.testing.assert_allclose(many.contributions[0], found.contributions, atol=1e-4 * abs(plain.total))
    with pytest.raises(SAEError, match="gives no pre-activations"):
        dl.upstream(latent, PROMPT, gpt2.bridge, quantity="pre")


def test_a_feature_without_a_gradient_is_refused_with_the_reason(gpt2):
    latent = dl.sae_latent(WithoutGradient(), 2, hook="blocks.1.hook_resid_post")
    for call in (
        lambda: dl.upstream(latent, PROMPT, gpt2.bridge),
        lambda: fingerprints(Scorer(latent, as_hooked(gpt2.bridge)), [PROMPT]),
        lambda: dl.dream(latent, gpt2.bridge, iterations=1, length=4, diversity=0.5, wait=True, progress=False),
    ):
        with pytest.raises(FeatureError, match=r"its value has no gradient\. A function of yours, or encode\(\)"):
            call()


def save_sae(folder, d_in: int, normalised: bool = False) -> str:
    from safetensors.torch import save_file

    g = torch.Generator().manual_seed(0)
    shapes = {"W_enc": (d_in, 6), "W_dec": (6, d_in), "b_dec": (d_in,), "b_enc": (6,), "threshold": (6,)}
    folder.mkdir()
    save_file(
        {
            k: torch.randn(*s, generator=g).abs_() if k == "threshold" else torch.randn(*s, generator=g)
            for k, s in shapes.items()
        },
        folder / "sae_weights.safetensors",
    )
    config = {"architecture": "jumprelu", "d_in": d_in, "d_sae": 6, "dtype": "float32", "apply_b_dec_to_input": True}
    config |= {"normalize_activations": "layer_norm" if normalised else "none", "reshape_activations": "none"}
    config["metadata"] = {"hook_name": "blocks.1.hook_resid_post"}
    (folder / "cfg.json").write_text(json.dumps(config))
    return str(folder)


def test_latents_are_decomposed_before_their_activation(gpt2, tmp_path):
    folder = save_sae(tmp_path / "sae", 32)
    latent, pre = dl.sae_latent(folder, 2), dl.sae_latent(folder, 2, pre_activation=True)
    found = dl.upstream(latent, PROMPT, gpt2.bridge)
    assert (found.method, found.quantity) == ("exact", "pre")
    check_sums(found, float(dl.score(pre, [PROMPT], gpt2.bridge).value[0]))
    assert found.value == dl.score(latent, [PROMPT], gpt2.bridge).value[0]
    same = dl.upstream(pre, PROMPT, gpt2.bridge)
    assert same.quantity == "value"
    np.testing.assert_allclose(same.contributions, found.contributions)
    # An autoencoder that normalises its input is no affine function of it.
    bent = dl.upstream(dl.sae_latent(save_sae(tmp_path / "normalised", 32, True), 2), PROMPT, gpt2.bridge, steps=2)
    assert bent.method == "integrated gradients" and any("scales its input" in note for note in bent.notes)


def test_what_cannot_be_decomposed_is_refused_with_the_reason(gpt2):
    for feature, reason in (
        ("blocks.1.attn.hook_pattern[0, -1, 0]", "a product of a query and a key"),
        ("embed.hook_out[-1, 0]", "before the first block"),
        ('log_prob("he dog runs")', "Decompose its parts one by one"),
        (dl.neuron(1, 2) - dl.neuron(1, 2).on(family("neox").bridge), "Decompose its parts one by one"),
    ):
        with pytest.raises(FeatureError, match=reason):
            dl.upstream(feature, PROMPT, gpt2.bridge)
    for settings in ({"quantity": "half"}, {"neurons": -1}, {"steps": 0}, {"step": 3}):
        with pytest.raises(SettingsError):
            dl.upstream("L1.N5", PROMPT, gpt2.bridge, **settings)
    for off in (torch.no_grad(), torch.inference_mode()):
        with off:
            check_sums(dl.upstream("L1.N5", PROMPT, gpt2.bridge))
    with pytest.raises(PromptError, match="One prompt is decomposed at a time"):
        dl.upstream("L1.N5", [PROMPT, PROMPT], gpt2.bridge)


def test_another_writer_of_the_stream_is_noticed(gpt2):
    model = new_bridge("gpt2", gpt2.raw)
    model.add_hook("blocks.0.hook_resid_post", lambda x, hook: 1.5 * x)
    with pytest.raises(FeatureError, match="something else writes to it"):
        dl.upstream("blocks.1.hook_resid_post[-1, 3]", PROMPT, model)
    model.reset_hooks()
    model.add_hook("blocks.1.mlp.hook_pre", lambda x, hook: x + 1)
    with pytest.raises(FeatureError, match="differs from what the weights say"):
        dl.upstream("L1.N5", PROMPT, model)


def test_hooks_of_the_user_inside_a_component_act(gpt2):
    model = new_bridge("gpt2", gpt2.raw)
    model.add_hook("blocks.0.attn.hook_z", lambda z, hook: 0 * z)
    found = dl.upstream("blocks.1.hook_resid_post[-1, 3]", PROMPT, model)
    heads = [x for c, x in zip(found.components, found.contributions, strict=True) if c.layer == 0 and c.kind == "head"]
    assert found.error < 1e-4 and not np.any(heads)
    assert any("no source positions" in note for note in found.notes)
    assert np.isnan(found.by_position[[c.kind == "head" and c.layer == 0 for c in found.components]]).all()


@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_half_precision_states_its_error(name):
    model = new_bridge(name, family(name).raw, torch.bfloat16)
    found = dl.upstream("blocks.1.hook_resid_post[-1, 3]", PROMPT, model)
    assert 0 < found.error < 0.02 * np.abs(found.contributions).max()
    assert len(found.components) == len(dl.upstream("blocks.1.hook_resid_post[-1, 3]", PROMPT, family(name).bridge))


def test_prompts_and_runs_use_their_own_model_and_template():
    rules = dl.constraints.contexts(["User: {dream} A", "See {dream}"])
    run = dl.dream(
        "L2.N17", iterations=1, population=2, children=4, length=5, constraints=rules, seed=0, search=dl.EPO()
    )
    prompt = run.frontier.best()
    found = prompt.upstream()
    assert any("of the first context" in note for note in found.notes)
    before = len(run.provenance.prefix) + 1
    assert found.start == before and found.length == 5
    assert found.ids[before : before + 5].tolist() == list(prompt.ids)
    other = run.upstream(prompt, quantity="value")
    assert other.method == "integrated gradients" and other.ids.tolist() == found.ids.tolist()
    np.testing.assert_allclose(pickle.loads(pickle.dumps(prompt)).upstream().contributions, found.contributions)


def test_results_are_plain_data(tmp_path, gpt2):
    found = dl.upstream("L1.N5", PROMPT, gpt2.bridge)
    loaded = dl.load(found.save(tmp_path / "upstream.json"))
    assert isinstance(loaded, Upstream)
    assert loaded.to_dict() == found.to_dict() and str(loaded) == str(found) and repr(loaded) == repr(found)
    frame = found.to_pandas()
    assert frame["contribution"].sum() == pytest.approx(found.total, rel=1e-4) and frame["name"].iloc[-1] == "bias"
    assert frame["share"].sum() == pytest.approx(1, rel=1e-4)
    assert len(found.to_pandas("position")) == len(found) * len(found.tokens)
    assert len(found.to_pandas("neuron")) == 10
    with pytest.raises(SettingsError):
        found.to_pandas("layer")
    for name in ("u.svg", "u.csv", "u.html"):
        assert found.save(tmp_path / name).stat().st_size > 500
    (tmp_path / "damaged.json").write_text('{"format": "dreamy_lens upstream", "version": 1}')
    with pytest.raises(RunFolderError, match="no complete upstream contributions"):
        Upstream.load(tmp_path / "damaged.json")


def test_hostile_tokens_stay_text():
    hostile = "<script>alert(1)</script>\u202e"
    found = Upstream(
        *(
            "L0.N1",
            "<b>model</b>",
            hostile,
            np.array([1, 2]),
            (hostile, "\n"),
            0,
            2,
            1.0,
            "value",
            "exact",
            1.0,
            0.5,
            0.0,
        ),
        (ModelComponent("embedding", "embedding"), ModelComponent("L0.attn", "attention", 0)),
        np.array([0.5, 0.0]),
        np.array([[0.25, 0.25], [np.nan, np.nan]]),
    )
    for page in (found.to_html(), found._repr_html_(), found.plot().svg):
        assert "<script>alert" not in page and "<b>" not in page and "\u202e" not in page
    assert "\u202e" not in str(found)


def test_the_example_of_the_documentation_runs(tmp_path, monkeypatch):
    page = Path(__file__).resolve().parents[2] / "docs" / "upstream.md"
    if not page.is_file():
        pytest.skip("the documentation is not part of this copy")
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    exec(example, {})
    assert "<svg" in (tmp_path / "upstream.html").read_text(encoding="utf-8")
