"""Sparse autoencoders read from folders and wrapped objects, against a few lines of arithmetic."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from dreamy_lens.errors import FeatureRangeError, SAEError
from dreamy_lens.features import load_sae

D_IN, D_SAE, HOOK = 6, 10, "blocks.1.hook_resid_post"


def tensors(architecture: str, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=g).to(dtype)  # noqa: E731
    found = {"W_enc": draw(D_IN, D_SAE), "W_dec": draw(D_SAE, D_IN), "b_dec": draw(D_IN)}
    if architecture == "gated":
        return found | {"b_gate": draw(D_SAE), "b_mag": draw(D_SAE), "r_mag": draw(D_SAE)}
    found["b_enc"] = draw(D_SAE)
    return found | {"threshold": draw(D_SAE).abs()} if architecture == "jumprelu" else found


def save(folder, config: dict, weights: dict[str, torch.Tensor]):
    folder.mkdir(exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps(config))
    save_file(weights, folder / "sae_weights.safetensors")
    return folder


def modern(architecture: str, **settings) -> dict:
    config = {
        "architecture": architecture,
        "d_in": D_IN,
        "d_sae": D_SAE,
        "dtype": "float32",
        "apply_b_dec_to_input": True,
    }
    config |= {"normalize_activations": "none", "reshape_activations": "none", "metadata": {"hook_name": HOOK}}
    return config | ({"k": 3} if architecture == "topk" else {}) | settings


def by_hand(w: dict[str, torch.Tensor], architecture: str, x: torch.Tensor, k: int = 3) -> tuple[list, list]:
    """Latents and pre-activations of one row x [d_in], one multiplication at a time."""
    w, x = {name: t.double() for name, t in w.items()}, x.double() - w["b_dec"].double()
    pre, open_ = [], []
    for j in range(D_SAE):
        dot = sum(float(x[i]) * float(w["W_enc"][i, j]) for i in range(D_IN))
        if architecture == "gated":
            pre.append(dot * float(w["r_mag"][j].exp()) + float(w["b_mag"][j]))
            open_.append(dot + float(w["b_gate"][j]) > 0)
        else:
            pre.append(dot + float(w["b_enc"][j]))
            open_.append(architecture != "jumprelu" or pre[-1] > float(w["threshold"][j]))
    if architecture == "topk":
        open_ = [sum(other > p for other in pre) < k for p in pre]
    return [max(p, 0.0) if o else 0.0 for p, o in zip(pre, open_, strict=True)], pre


@pytest.fixture
def x():
    return torch.randn(4, 3, D_IN, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("architecture", ["standard", "topk", "jumprelu", "gated"])
def test_every_latent_equals_arithmetic_by_hand(tmp_path, x, architecture):
    weights = tensors(architecture)
    sae = load_sae(save(tmp_path / "sae", modern(architecture), weights))
    rows = [by_hand(weights, architecture, row) for row in x.flatten(0, 1)]
    latents, pre = (torch.tensor(part).view(4, 3, D_SAE) for part in zip(*rows, strict=True))
    assert (latents == 0).any() and (latents > 0).any()
    torch.testing.assert_close(sae.encode(x), latents, atol=1e-5, rtol=1e-5)
    for i in range(D_SAE):
        torch.testing.assert_close(sae.latent(x, i), latents[..., i], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(sae.latent(x, i, pre_activation=True), pre[..., i], atol=1e-5, rtol=1e-5)
    assert (sae.hook_name, sae.d_in, sae.d_sae, sae.architecture) == (HOOK, D_IN, D_SAE, architecture)


@pytest.mark.parametrize("architecture", ["topk", "jumprelu", "gated"])
def test_an_inactive_latent_has_no_gradient_but_its_pre_activation_has(tmp_path, x, architecture):
    sae = load_sae(save(tmp_path / "sae", modern(architecture), tensors(architecture)))
    x.requires_grad_(True)
    inactive = (sae.encode(x) == 0).nonzero()[0].tolist()
    for pre_activation in (False, True):
        value = sae.latent(x, inactive[2], pre_activation)[inactive[0], inactive[1]]
        (gradient,) = torch.autograd.grad(value, x)
        assert bool(gradient.any()) is pre_activation


OLD = {
    "version 1": ({"hook_point": HOOK, "d_in": D_IN, "d_sae": D_SAE}, "standard"),
    "version 3": ({"hook_name": HOOK, "activation_fn_str": "relu", "activation_fn_kwargs": {}}, "standard"),
    "version 4, TopK": (
        {"architecture": "topk", "hook_name": HOOK, "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}},
        "topk",
    ),
    "TopK under another architecture": (
        {"architecture": "standard", "hook_name": HOOK, "activation_fn": "topk", "activation_fn_kwargs": {"k": 3}},
        "topk",
    ),
    "TopK with k on top": (
        {"architecture": "topk", "hook_name": HOOK, "k": 3, "activation_fn_str": "relu", "activation_fn_kwargs": {}},
        "topk",
    ),
}


@pytest.mark.parametrize("version", OLD)
def test_configurations_of_older_versions_mean_the_same(tmp_path, x, version):
    config, architecture = OLD[version]
    weights = tensors(architecture) | {"scaling_factor": torch.full((D_SAE,), 2.0)}
    sae = load_sae(save(tmp_path / "sae", config | {"normalize_activations": False}, weights))
    expected = torch.tensor(by_hand(weights, architecture, x[0, 0])[0])
    torch.testing.assert_close(sae.encode(x)[0, 0], expected, atol=1e-5, rtol=1e-5)
    assert sae.hook_name == HOOK


@pytest.mark.parametrize(
    ("config", "read", "written"),
    [
        ({"hook_point": "blocks.{layer}.hook_resid_pre", "hook_point_layer": 3}, "blocks.3.hook_resid_pre", None),
        ({"hook_name": "transformer.h.1"}, "blocks.1.hook_resid_post", None),
        ({"hook_name": "model.layers.2.mlp"}, "blocks.2.mlp.hook_out", None),
        ({"hook_name": "blocks.3.hook_resid_pre"}, "blocks.3.hook_resid_pre", None),
        (
            {"hook_name": "blocks.1.ln2.hook_normalized", "hook_name_out": "model.layers.1.mlp"},
            "blocks.1.ln2.hook_normalized",
            "blocks.1.mlp.hook_out",
        ),
    ],
)
def test_hook_points_of_older_schemes_are_those_of_today(tmp_path, config, read, written):
    sae = load_sae(save(tmp_path / "sae", config, tensors("standard")))
    assert (sae.hook_name, sae.output_hook) == (read, written or read)


def test_decoder_bias_stays_out_where_the_configuration_says_so(tmp_path, x):
    weights = tensors("standard")
    sae = load_sae(save(tmp_path / "sae", modern("standard", apply_b_dec_to_input=False), weights))
    torch.testing.assert_close(sae.encode(x), (x @ weights["W_enc"] + weights["b_enc"]).relu())


@pytest.mark.parametrize("kind", ["constant_norm_rescale", "layer_norm"])
def test_normalised_activations_do_not_feel_a_rescaled_input(tmp_path, x, kind):
    weights = tensors("standard")
    sae = load_sae(save(tmp_path / "sae", modern("standard", normalize_activations=kind), weights))
    if kind == "layer_norm":
        centred = x - x.mean(-1, keepdim=True)
        normal = centred / ((centred**2).sum(-1, keepdim=True) / (D_IN - 1)).sqrt()
    else:
        normal = x / x.square().mean(-1, keepdim=True).sqrt()
    expected = ((normal - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]).relu()
    torch.testing.assert_close(sae.encode(x), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(sae.encode(7 * x), expected, atol=1e-4, rtol=1e-4)


def test_a_normalisation_whose_scale_is_not_in_the_folder_is_refused_or_stated(tmp_path, x):
    weights, config = tensors("standard"), modern("standard", normalize_activations="expected_average_only_in")
    folder = save(tmp_path / "sae", config, weights)
    with pytest.raises(SAEError, match=r"which its files do not hold\. State it .*ignore=\"normalize_activations\""):
        load_sae(folder)
    as_it_is = load_sae(save(tmp_path / "plain", modern("standard"), weights))
    torch.testing.assert_close(load_sae(folder, ignore="normalize_activations").encode(x), as_it_is.encode(x))
    stated = load_sae(save(tmp_path / "stated", config | {"norm_scaling_factor": 0.25}, weights))
    torch.testing.assert_close(stated.encode(x), as_it_is.encode(0.25 * x))
    torch.testing.assert_close(stated.decoder_row(3), weights["W_dec"][3] / 0.25)
    for wrong, sentence in ((-1, "a positive number is needed"), ("1", "norm_scaling_factor = '1'")):
        with pytest.raises(SAEError, match=sentence):
            load_sae(save(tmp_path / "wrong", config | {"norm_scaling_factor": wrong}, weights))


def test_decoder_norms_decide_which_latents_are_strongest(tmp_path, x):
    weights = tensors("topk")
    sae = load_sae(save(tmp_path / "sae", modern("topk", rescale_acts_by_decoder_norm=True), weights))
    pre = ((x - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]) * weights["W_dec"].norm(dim=1)
    kept = pre >= pre.sort(-1, descending=True).values[..., 2:3]
    torch.testing.assert_close(sae.encode(x), (pre * kept).relu(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sae.latent(x, 4), (pre * kept).relu()[..., 4], atol=1e-5, rtol=1e-5)


def test_heads_are_laid_side_by_side_or_picked(tmp_path):
    z = torch.randn(2, 5, 3, 2)
    weights = tensors("standard")
    config = modern("standard", reshape_activations="hook_z", metadata={"hook_name": "blocks.0.attn.hook_z"})
    joined = load_sae(save(tmp_path / "joined", config, weights))
    plain = load_sae(save(tmp_path / "plain", modern("standard"), weights))
    torch.testing.assert_close(joined.latent(z, 3), plain.latent(z.reshape(2, 5, 6), 3))
    z = torch.randn(2, 5, 3, D_IN)
    config = {"hook_point": "blocks.0.attn.hook_z", "hook_point_head_index": 2}
    picked = load_sae(save(tmp_path / "picked", config, weights))
    torch.testing.assert_close(picked.encode(z), plain.encode(z[:, :, 2]))
    with pytest.raises(SAEError, match=r"encodes attention head 2, .* shape \[2, 6\]"):
        picked.latent(torch.zeros(2, 6), 0)


def test_computes_in_float32_whatever_the_precisions(tmp_path, x):
    half = load_sae(save(tmp_path / "half", modern("standard"), tensors("standard", torch.bfloat16)))
    weights = {name: t.float() for name, t in tensors("standard", torch.bfloat16).items()}
    full = load_sae(save(tmp_path / "full", modern("standard"), weights))
    assert half.latent(x.bfloat16(), 2).dtype == torch.float32
    assert half.latent(x.double(), 2).dtype == torch.float64
    torch.testing.assert_close(half.latent(x.bfloat16(), 2), full.latent(x.bfloat16().float(), 2))


class Wrapped(torch.nn.Module):
    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.linear = torch.nn.Linear(D_IN, D_SAE, dtype=dtype)

    def encode(self, x):
        assert x.dtype == self.linear.weight.dtype
        return self.linear(x).relu()


def test_any_object_with_encode_can_be_wrapped_whatever_its_precision(x):
    for thing in (Wrapped(), Wrapped(torch.bfloat16)):
        sae = load_sae(thing, hook=HOOK)
        assert torch.equal(sae.latent(x, 3), thing.encode(x.to(thing.linear.weight))[..., 3].float())
        assert (sae.hook_name, sae.d_sae) == (HOOK, None)
        with pytest.raises(FeatureRangeError, match="latents 0 to 9"):
            sae.latent(x, 10)
        with pytest.raises(SAEError, match="gives no pre-activations"):
            sae.latent(x, 3, pre_activation=True)
    with pytest.raises(SAEError, match="does not say which hook point"):
        load_sae(Wrapped())
    with pytest.raises(SAEError, match="has no encode"):
        load_sae(object(), hook=HOOK)


@pytest.mark.parametrize(
    ("encode", "found"),
    [
        (lambda x: x[..., 0], r"shape \[4, 3\]"),
        (lambda x: x.flatten(0, 1), r"shape \[12, 6\]"),
        (lambda x: (x, x), "a tuple"),
    ],
)
def test_what_encode_must_return_is_said(x, encode, found):
    class Odd:
        pass

    odd = Odd()
    odd.encode = encode  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(SAEError, match=rf"shape \[4, 3, 6\] and returned {found}.*\[4, 3, latents\] is needed"):
        load_sae(odd, hook=HOOK).latent(x, 0)


class Config:
    def __init__(self, **settings):
        self.settings, self.hook_name = settings, HOOK

    def to_dict(self):
        return self.settings


def test_an_object_in_the_style_of_saelens_shows_its_pre_activations(x):
    class Standard:
        cfg = Config(**modern("standard"))

        def __init__(self):
            parts = {name: torch.nn.Parameter(tensor) for name, tensor in tensors("standard").items()}
            self.W_enc, self.W_dec = parts["W_enc"], parts["W_dec"]
            self.b_enc, self.b_dec = parts["b_enc"], parts["b_dec"]

        def encode(self, x):
            return ((x - self.b_dec) @ self.W_enc + self.b_enc).relu()

    thing = Standard()
    sae = load_sae(thing)
    assert (sae.hook_name, sae.d_in, sae.d_sae) == (HOOK, D_IN, D_SAE)
    pre = (x - thing.b_dec) @ thing.W_enc + thing.b_enc
    torch.testing.assert_close(sae.latent(x, 7, pre_activation=True), pre[..., 7].detach())
    torch.testing.assert_close(sae.latent(x, 7), pre[..., 7].relu())


def test_equal_folders_and_hook_points_are_equal_autoencoders(tmp_path):
    folder = save(tmp_path / "sae", modern("standard"), tensors("standard"))
    one, other = load_sae(folder), load_sae(str(folder / "cfg.json"))
    assert one == other and hash(one) == hash(other)
    assert load_sae(one) is one
    moved = load_sae(one, hook="blocks.0.hook_resid_post")
    assert moved != one and moved.hook_name == "blocks.0.hook_resid_post"


def test_reading_a_configuration_needs_no_torch(tmp_path):
    code = "import sys, dreamy_lens.features.sae.dictionary; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_out_of_range_latents_and_widths_are_told_apart(tmp_path, x):
    sae = load_sae(save(tmp_path / "sae", modern("standard"), tensors("standard")))
    for i in (-1, D_SAE):
        with pytest.raises(FeatureRangeError, match=f"latent {i} is out of range.*latents 0 to 9"):
            sae.latent(x, i)
    with pytest.raises(SAEError, match=r"width 6.*shape \[4, 5\]"):
        sae.encode(torch.zeros(4, 5))


def broken(tmp_path, **changes):
    config = modern(changes.pop("architecture", "standard"))
    dropped = changes.pop("drop", ())
    weights = {name: tensor for name, tensor in tensors("standard").items() if name not in dropped}
    weights |= changes.pop("tensors", {})
    return save(tmp_path / "sae", config | changes, weights)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"architecture": "temporal"}, "has the architecture 'temporal'; dreamy_lens computes standard, topk"),
        ({"activation_fn": "sigmoid"}, "activation function 'sigmoid'"),
        ({"normalize_activations": "batch"}, "normalisation of activations 'batch'"),
        ({"drop": ["b_enc"]}, "lacks b_enc, which a standard autoencoder needs; it has W_dec, W_enc, b_dec"),
        ({"architecture": "jumprelu"}, "lacks threshold"),
        ({"architecture": "topk", "k": None}, r"gives no k\. Set"),
        ({"architecture": "topk", "k": 11}, "10 latents, but its configuration gives k = 11"),
        ({"tensors": {"W_enc": torch.zeros(D_SAE, D_IN)}}, "contradicts itself: W_enc is \\[10, 6\\].*transposing"),
        ({"d_sae": 11}, "d_sae = 11 in cfg.json"),
        ({"metadata": {}}, "does not say which hook point it encodes. Name it"),
    ],
)
def test_a_folder_that_cannot_be_used_is_told_why(tmp_path, changes, sentence):
    with pytest.raises(SAEError, match=sentence):
        load_sae(broken(tmp_path, **changes))


def test_missing_and_damaged_files_are_told_apart(tmp_path):
    with pytest.raises(SAEError, match="There is no SAE folder"):
        load_sae(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SAEError, match=r"has no cfg.json; it is empty"):
        load_sae(tmp_path / "empty")
    folder = save(tmp_path / "sae", modern("standard"), tensors("standard"))
    with pytest.raises(SAEError, match=r"but folders below it do: sae. Give one of those"):
        load_sae(tmp_path)
    weights = folder / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(SAEError, match=r"cannot be read as safetensors.*\(100 bytes\)"):
        load_sae(folder)
    (folder / "cfg.json").write_text("{")
    with pytest.raises(SAEError, match="is not JSON"):
        load_sae(folder)
    weights.unlink()
    with pytest.raises(SAEError, match=r"has no sae_weights.safetensors; it has cfg.json"):
        load_sae(folder)
