"""Logit effects of features, compared with small changes of activations in the models themselves."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import dreamy_lens as dl
from dreamy_lens.analysis import NoPathError, apply_norm
from dreamy_lens.api.logit_effect import logit_effect
from dreamy_lens.errors import FeatureRangeError, SettingsError, UnknownHookError
from tests.features.test_sae import modern, save
from tests.helpers import models

pytestmark = pytest.mark.filterwarnings("ignore:A forward hook edited hook_scale")

IDS = (5, 9, 30, 100, 200, 17)
LAST = 1  # the small models have two layers


def differences(bridge, hook, change, scales):
    """Return the change of the logits, `[d_vocab]`, by an activation at the last token; norms keep their scales.

    The change is multiplied by the scales that `scales` names, innermost first.
    """
    ids = torch.tensor([IDS])
    kept: dict[str, torch.Tensor] = {}
    rows = []

    def note(name):
        def read(x, hook=None):
            kept[name] = x.detach().clone()

        return name, read

    def keep(name):
        return name, lambda x, hook=None: kept[name]

    def changed(x, hook=None):
        x = x.clone()
        x[:, -1] += change.view(x[:, -1].shape)
        return x

    def out(x, hook=None):
        rows.append(x[0, -1].detach().clone())

    with torch.no_grad():
        for hooks in ([note(n) for n in scales], [*[keep(n) for n in scales], (hook, changed)]):
            with bridge.hooks(fwd_hooks=[*hooks, ("unembed.hook_out", out)]):
                bridge(ids)
    found = (rows[1] - rows[0]).double()
    for name in scales:
        found = found * kept[name][0, -1].double()
    return (found - found[: len(models.tokenizer())].mean()).numpy()


def scales_of(family, part=None):
    post = {"mlp": "ln2_post", "attn": "ln1_post"}.get(part or "")
    after = [f"blocks.{LAST}.{post}.hook_scale"] if post and family.name == "gemma2" else []
    return [*after, "ln_final.hook_scale"]


def agrees(effect, found, scale=1.0):
    known = ~np.isnan(effect.values)
    assert known.sum() == len(models.tokenizer())  # the padded rows are not known tokens
    mine, theirs = effect.values[known].astype(np.float64) * scale, found[known]
    assert np.corrcoef(mine, theirs)[0, 1] > 0.99999
    np.testing.assert_allclose(mine, theirs, atol=2e-3 * np.abs(theirs).max())


def test_a_neuron_does_to_the_logits_what_turning_it_up_does(family):
    change = torch.zeros(40)
    change[7] = 0.5
    found = differences(family.bridge, f"blocks.{LAST}.mlp.hook_post", change, scales_of(family, "mlp"))
    effect = logit_effect(dl.neuron(LAST, 7), family.bridge)
    agrees(effect, found, 0.5)
    assert "left out" not in effect.path  # no layer comes after it


def test_a_direction_in_the_stream_does_what_adding_it_does(family):
    v = torch.randn(32)
    found = differences(family.bridge, f"blocks.{LAST}.hook_resid_post", 0.1 * v, scales_of(family))
    stream = dl.hook(f"blocks.{LAST}.hook_resid_post")[-1]
    agrees(logit_effect(stream @ v, family.bridge), found, 0.1)
    agrees(logit_effect(stream.standardised() @ v, family.bridge), found, 0.1)
    agrees(logit_effect(stream.cosine(v), family.bridge), found, 0.1)
    agrees(logit_effect(-2 * (stream @ v) + 1, family.bridge), -found, 0.1)
    unit = differences(family.bridge, f"blocks.{LAST}.hook_resid_post", torch.eye(32)[3], scales_of(family))
    agrees(logit_effect(dl.hook(f"blocks.{LAST}.hook_resid_post")[..., 3].max(), family.bridge), unit)


def test_it_is_the_derivative_of_the_plain_models_end(family):
    """Nothing is frozen and no bridge is involved: a small step does not change the norm's scale."""
    raw = family.raw
    body = getattr(raw, "transformer", None) or getattr(raw, "gpt_neox", None) or raw.model
    norm = next(getattr(body, n) for n in ("ln_f", "final_layer_norm", "norm") if hasattr(body, n))
    head = raw.get_output_embeddings()
    x, v = torch.randn(32).double(), torch.randn(32).double()
    centred = x - x.mean() if family.name in ("gpt2", "neox") else x
    v = v - centred * (v @ centred) / (centred @ centred)
    steps = [head(norm((x + e * v).float()[None, None]))[0, 0].double() for e in (-0.02, 0.02)]
    found = ((steps[1] - steps[0]) / 0.04 * centred.pow(2).mean().sqrt()).detach().numpy()
    effect = logit_effect(dl.hook("blocks.0.hook_resid_post")[-1] @ v.float(), family.bridge)
    agrees(effect, found - found[: len(models.tokenizer())].mean())
    assert "later layers" in effect.path


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_weights_that_are_folded_give_the_same(name):
    plain, folded = models.family(name), models.compatible(name)
    for feature in (dl.neuron(LAST, 7), dl.hook(f"blocks.{LAST}.hook_attn_out")[-1] @ torch.randn(32)):
        one, other = logit_effect(feature, plain.bridge), logit_effect(feature, folded.bridge)
        known = ~np.isnan(one.values)
        np.testing.assert_allclose(one.values[known], other.values[known], atol=1e-4 * np.nanmax(np.abs(one.values)))


@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_half_precision_gives_nearly_the_same(name):
    plain = models.family(name)
    half = models.new_bridge(name, plain.raw, torch.bfloat16)
    one, other = (logit_effect(dl.neuron(LAST, 7), bridge) for bridge in (plain.bridge, half))
    known = ~np.isnan(one.values)
    assert np.corrcoef(one.values[known], other.values[known])[0, 1] > 0.999


@pytest.mark.parametrize("size", [7, 8])
def test_what_a_norm_does_is_found_out_by_asking_it(size):
    x = torch.randn(size)
    layer, rms = torch.nn.LayerNorm(size), torch.nn.RMSNorm(size)
    for norm in (layer, rms):
        torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(layer.bias)
    with torch.no_grad():
        torch.testing.assert_close(apply_norm(layer, x, "ln"), layer.weight * (x - x.mean()), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(apply_norm(rms, x, "ln"), rms.weight * x, rtol=1e-3, atol=1e-4)
    with pytest.raises(NoPathError, match="behaves neither as a LayerNorm nor"), torch.no_grad():
        apply_norm(torch.nn.Tanh(), x, "ln")


def test_a_head_writes_through_its_output_weights(family):
    size = 6 if family.name == "gemma2" else 8
    v = torch.randn(size)
    feature = dl.hook(f"blocks.{LAST}.attn.hook_z")[-1, 2] @ v
    effect = logit_effect(feature, family.bridge)
    assert "attn.o" in effect.path
    # The MLP reads the head's output, so the test freezes it.
    kept: dict[str, torch.Tensor] = {}
    still = f"blocks.{LAST}.mlp.hook_out"
    with torch.no_grad(), family.bridge.hooks(fwd_hooks=[(still, lambda x, hook=None: kept.update(x=x.clone()))]):
        family.bridge(torch.tensor([IDS]))
    whole = torch.zeros(4, size)
    whole[2] = v
    with held(family.bridge, still, kept["x"]):
        found = differences(family.bridge, f"blocks.{LAST}.attn.hook_z", whole, scales_of(family, "attn"))
    agrees(effect, found)


@contextlib.contextmanager
def held(bridge, name, value):
    with bridge.hooks(fwd_hooks=[(name, lambda x, hook=None: value)]):
        yield


def test_a_latent_writes_its_row_of_the_decoder(tmp_path, gpt2):
    d_in, d_sae = 32, 6
    weights = {"W_enc": torch.randn(d_in, d_sae), "W_dec": torch.randn(d_sae, d_in)}
    weights |= {"b_dec": torch.randn(d_in), "b_enc": torch.randn(d_sae)}
    config = modern("standard", d_in=d_in, d_sae=d_sae, metadata={"hook_name": "blocks.0.hook_resid_post"})
    folder = save(tmp_path / "sae", config, weights)
    effect = logit_effect(dl.sae_latent(folder, 4), gpt2.bridge)
    same = logit_effect(dl.hook("blocks.0.hook_resid_post")[-1] @ weights["W_dec"][4], gpt2.bridge)
    np.testing.assert_allclose(effect.values, same.values, rtol=1e-5, atol=1e-6)
    assert "decoder" in effect.path

    class Object:
        def encode(self, x):
            return x[..., :3].relu()

    bare = logit_effect(dl.sae_latent(Object(), 1, hook="blocks.0.hook_resid_post"), gpt2.bridge)
    assert not bare and "W_dec" in bare.path


def test_what_has_no_effect_says_why(gpt2):
    cases = {
        'logit("h")': "a logit itself",
        'logit("h") - logit.runner_up("h")': "made of logits",
        'log_prob("h")': "computed from the logits",
        "blocks.0.attn.hook_pattern[0, -1, 1]": "through attention",
        "blocks.0.mlp.hook_pre[-1, 3]": "nonlinearity",
        "L0.N1 - L0.N2": "made of several",
        "L0.N1 * L0.N2": "made of several",
        "blocks.0.hook_resid_post[-1].norm()": "length of a vector",
    }
    for text, why in cases.items():
        effect = logit_effect(text, gpt2.bridge)
        assert not effect and why in effect.path and effect.promoted == ()
        assert str(effect) == effect.path and "none" in repr(effect)
    own = dl.custom("mine", ["blocks.0.hook_resid_post"], lambda a: a["blocks.0.hook_resid_post"][:, -1, 0])
    assert "of your own" in logit_effect(own, gpt2.bridge).path
    # A LayerNorm subtracts the mean over units, and this vector is nothing but a mean.
    flat = logit_effect(dl.hook("blocks.1.hook_resid_post")[-1] @ torch.ones(32), gpt2.bridge)
    assert not flat and "adds the same number to every logit" in flat.path


def test_what_does_not_fit_the_model_is_refused(gpt2):
    with pytest.raises(UnknownHookError):
        logit_effect("blocks.7.mlp.hook_post[-1, 0]", gpt2.bridge)
    with pytest.raises(FeatureRangeError):
        logit_effect("L0.N4000", gpt2.bridge)
    with pytest.raises(FeatureRangeError):
        logit_effect(dl.hook("blocks.0.hook_resid_post")[-1] @ torch.ones(5), gpt2.bridge)
    with pytest.raises(SettingsError, match="count"):
        logit_effect("L0.N1", gpt2.bridge, count=0)


def test_hooks_of_others_neither_matter_nor_go(gpt2):
    plain = logit_effect("L1.N7", gpt2.bridge)
    with gpt2.bridge.hooks(
        fwd_hooks=[(n, lambda x, hook=None: x * 0) for n in ("ln_final.hook_out", "unembed.hook_out")]
    ):
        hooked = logit_effect("L1.N7", gpt2.bridge)
        assert not gpt2.bridge(torch.tensor([IDS])).any()
    np.testing.assert_array_equal(plain.values, hooked.values)


def test_tokens_come_strongest_first_and_safe(gpt2):
    effect = logit_effect("L1.N7", gpt2.bridge, count=5)
    changes = [e.change for e in effect.promoted]
    assert changes == sorted(changes, reverse=True) and effect.promoted[0].change == np.nanmax(effect.values)
    assert effect.suppressed[0].change == np.nanmin(effect.values)
    assert abs(np.nanmean(effect.values)) < 1e-4 and effect.deviation > 0
    table = effect.to_pandas()
    assert list(table.columns) == ["kind", "rank", "token", "id", "change"] and len(table) == 10
    page = effect._repr_html_()
    assert "promoted" in page and "<script" not in page
    assert "promoted: " in str(effect)


@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_a_cross_layer_transcoder_writes_to_every_layer_from_its_own_on(tmp_path, request, name):
    family, width = request.getfixturevalue(name), 32
    rows = torch.randn(6, 2, width, generator=torch.Generator().manual_seed(4))
    encoder = {"W_enc_0": torch.randn(6, width), "b_enc_0": torch.randn(6)}
    save_file(encoder, tmp_path / "W_enc_0.safetensors")
    save_file({"W_dec_0": rows}, tmp_path / "W_dec_0.safetensors")
    hooks = "feature_input_hook: mlp.hook_in\nfeature_output_hook: mlp.hook_out\n"
    (tmp_path / "config.yaml").write_text(hooks)
    effect = logit_effect(dl.sae_latent(tmp_path / "W_enc_0.safetensors", 4), family.bridge)
    assert "blocks.0.mlp.hook_out to blocks.1.mlp.hook_out, added up" in effect.path
    alone = [
        logit_effect(dl.hook(f"blocks.{layer}.mlp.hook_out")[-1] @ rows[4, layer].tolist(), family.bridge).values
        for layer in (0, 1)
    ]
    np.testing.assert_allclose(effect.values, alone[0] + alone[1], atol=1e-4)


def test_a_transcoder_is_read_at_one_place_and_followed_from_another(tmp_path, gpt2):
    weights = {"W_enc": torch.randn(32, 6), "W_dec": torch.randn(6, 32), "b_enc": torch.randn(6)}
    config = modern("transcoder", d_in=32, d_sae=6, apply_b_dec_to_input=False)
    config["metadata"] = {"hook_name": "blocks.0.ln2.hook_normalized", "hook_name_out": "blocks.0.hook_mlp_out"}
    latent = dl.sae_latent(save(tmp_path / "sae", config, weights), 4)
    ours = logit_effect(latent, gpt2.bridge).values
    theirs = logit_effect(dl.hook("blocks.0.hook_mlp_out")[-1] @ weights["W_dec"][4].tolist(), gpt2.bridge).values
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    text = ["The dog runs over the hill and the cat sleeps in the house."]
    page = dl.card(latent, gpt2.bridge, text, parts=(), iterations=1, length=4, strips=1, k=2, progress=False)
    assert "blocks.0.hook_mlp_out" in page.to_html()


def test_placebos_stand_beside_the_effect(gpt2):
    effect, again = (logit_effect("L1.N7", gpt2.bridge, placebos=39, seed=2) for _ in range(2))
    assert effect.placebo_largest.shape == (39,) and effect.placebo_kind == "other units there"
    np.testing.assert_array_equal(effect.placebo_largest, again.placebo_largest)
    # With as many placebos as there are other neurons, they are all of them.
    others = [logit_effect(f"L1.N{i}", gpt2.bridge, placebos=0) for i in range(40) if i != 7]
    np.testing.assert_allclose(sorted(effect.placebo_largest), sorted(o.largest for o in others), rtol=1e-4)
    np.testing.assert_allclose(sorted(effect.placebo_deviations), sorted(o.deviation for o in others), rtol=1e-4)
    assert effect.share_below == np.mean([o.largest < effect.largest for o in others])
    assert effect.z == pytest.approx((effect.largest - np.mean([o.largest for o in others])) / np.std(
        [o.largest for o in others], ddof=1), rel=1e-3)  # fmt: skip
    assert "Placebos, 39 other units there" in str(effect) and "Placebos" in effect.html()
    along = logit_effect(
        dl.hook("blocks.1.hook_resid_post")[-1] @ (3 * np.ones(32) + np.eye(32)[0]).tolist(), gpt2.bridge
    )
    assert along.placebo_kind == "random directions of the same length" and np.isfinite(along.z)
    assert np.isnan(others[0].z) and others[0].placebo_words == ""
    with pytest.raises(SettingsError, match="placebos is -1"):
        logit_effect("L1.N7", gpt2.bridge, placebos=-1)
