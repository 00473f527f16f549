"""Hostile and damaged input of features: every answer is one of the package's errors, soon, and of bounded length."""

from __future__ import annotations

import json
import resource
import time

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import dreamy_lens as dl
from dreamy_lens.errors import DreamyLensError, FeatureError, FeatureRangeError, SAEError
from dreamy_lens.features import Direction, load_sae
from dreamy_lens.features.node import DEEPEST

RESID = "blocks.0.hook_resid_post"
DIGITS = "9" * 5000

TEXTS = {
    "digits of a neuron": f"L0.N{DIGITS}",
    "digits of a family": f"L{DIGITS}.N*",
    "digits of a layer": f"blocks.{DIGITS}.hook_resid_post[-1, 0]",
    "digits of a layer in quotes": f'hook("blocks.{DIGITS}.hook_resid_post")[-1, 0]',
    "digits of an index": f"{RESID}[-1, {DIGITS[:399]}]",
    "digits of a token": f"logit({DIGITS[:399]})",
    "digits of a latent": f'sae_latent("x", {DIGITS[:399]})',
    "digits of a factor": f"{RESID}[-1, 0] * {DIGITS[:399]}",
    "superscripts of a layer": "blocks.².mlp.hook_post[-1, 0]",
    "superscripts of an index": f"{RESID}[-1, ²]",
    "superscripts of a neuron": "L².N³",
    "superscripts of a token": "logit(²)",
    "digits of another script": "L٣.N*",
    "chained methods": f"{RESID}[-1, 0]" + ".clip(0, 1)" * 900,
    "brackets": "(" * 900 + f"{RESID}[-1, 0]" + ")" * 900,
    "signs": "-" * 5000 + f"{RESID}[-1, 0]",
    "a long name": "a" * 10_000,
    "a long dotted name": "a." * 5000 + "b",
    "a long name in quotes": f'hook("{"q" * 10_000}")[-1, 0]',
    "a long function": "f" * 10_000 + "(1)",
    "a long method": f"{RESID}[-1, 0].{'m' * 10_000}()",
    "a long custom function": f'custom("{"c" * 10_000}")',
    "a long rest": "L0.N1 " + "x" * 200_000,
    "a long file": f'{RESID}[-1] @ "{"z" * 10_000}.npy"',
    "a file with NUL": f'{RESID}[-1] @ "a\\u0000.npy"',
    "a file of nobody": f'{RESID}[-1] @ "~nobody-here/x.npy"',
    "a long folder": f'sae_latent("{"z" * 300}", 1)',
    "a folder with NUL": 'sae_latent("a\\u0000", 1)',
    "a long model": f'mean_cross_entropy("{"m" * 10_000}")',
}


@pytest.mark.parametrize("what", TEXTS)
def test_hostile_texts_are_refused_soon_and_in_few_words(what):
    dl.features.bind("L0.N0")  # the model is loaded before the clock starts
    began = time.process_time()
    with pytest.raises(DreamyLensError) as caught:
        dl.features.bind(TEXTS[what])
    assert time.process_time() - began < 5  # of the processor, far above the milliseconds that it takes
    assert len(str(caught.value)) < 1500


LARGE = 10**5000

MADE = {
    "a layer": lambda: dl.neuron(LARGE, 0),
    "a neuron": lambda: dl.neuron(0, LARGE),
    "a family": lambda: dl.neurons(LARGE),
    "a token": lambda: dl.logit(LARGE),
    "an index": lambda: dl.hook("x")[LARGE],
    "a slice": lambda: dl.hook("x")[:LARGE],
    "a hook point": lambda: dl.hook(LARGE),  # pyright: ignore
    "a latent": lambda: dl.sae_latent("x", LARGE),
    "a factor": lambda: dl.neuron(0, 1) * LARGE,
    "a limit": lambda: dl.neuron(0, 1).clip(0, LARGE),
    "a text": lambda: dl.parse(LARGE),  # pyright: ignore
    "a custom function": lambda: dl.custom("a", [LARGE], len),  # pyright: ignore
    "a model": lambda: dl.features.mean_cross_entropy(LARGE),
}


@pytest.mark.parametrize("what", MADE)
def test_numbers_that_python_does_not_write_are_refused(what):
    with pytest.raises(FeatureError):
        MADE[what]()


def test_the_deepest_feature_that_can_be_made_can_be_used():
    feature = dl.neuron(0, 1)
    for _ in range(DEEPEST - 1):
        feature = feature.clip(-1, 1)
    assert dl.parse(str(feature)) == feature and hash(feature) is not None
    assert -1 <= dl.score(feature, " a file").value <= 1
    with pytest.raises(FeatureError, match="nested at most 100 levels"):
        feature.clip(-1, 1)
    many = sum((dl.neuron(0, i % 9) for i in range(900)), dl.neuron(1, 1))  # sums are one level
    assert np.isfinite(dl.score(many, " a file").value)


# Files that announce more than they hold.


def header(shape: str) -> bytes:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize("shape", ["(1000000000000,)", "(1000000, 1000000)", "(99999999999999999999,)", "(-5,)", "()"])
def test_a_direction_whose_header_lies_is_refused_before_memory_is_taken(tmp_path, shape):
    file = tmp_path / "v.npy"
    file.write_bytes(header(shape) + b"\0" * 64)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(FeatureError, match=r"v\.npy"):
        _ = Direction(str(file)).values
    with file.open("r+b") as large:  # a file that really is as large, and takes no place on the disk
        large.truncate(2**33)
    with pytest.raises(FeatureError, match=r"v\.npy"):
        _ = Direction(str(file)).values
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_a_direction_in_an_archive_or_among_objects_is_refused(tmp_path):
    with (tmp_path / "many.npy").open("wb") as file:
        np.savez(file, a=np.ones(3), b=np.ones(3))
    np.save(tmp_path / "objects.npy", np.array([{}, 1], dtype=object), allow_pickle=True)
    for name in ("many.npy", "objects.npy"):
        with pytest.raises(FeatureError, match=name):
            _ = Direction(str(tmp_path / name)).values
    np.save(tmp_path / "right.npy", np.arange(1.0, 4.0))
    np.testing.assert_array_equal(Direction(str(tmp_path / "right.npy")).values, np.float32([1, 2, 3]))


def large_safetensors(file, shapes: dict[str, list[int]]) -> None:
    """A file of the announced size that takes no place on the disk."""
    entries, at = {}, 0
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape))
        entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(entries).encode()
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        out.truncate(8 + len(text) + at)


def test_a_direction_as_wide_as_no_model_is_not_read(tmp_path):
    large_safetensors(tmp_path / "v.safetensors", {"v": [2**31]})
    with pytest.raises(FeatureRangeError, match=r"shape \[2147483648\].* at most 16777216 numbers"):
        _ = Direction(str(tmp_path / "v.safetensors")).values


# Autoencoders.


def autoencoder(folder, config=None, **changed):
    folder.mkdir(exist_ok=True)
    weights = {"W_enc": torch.ones(4, 3), "W_dec": torch.ones(3, 4), "b_dec": torch.ones(4), "b_enc": torch.ones(3)}
    weights |= changed
    (folder / "cfg.json").write_text(json.dumps({"hook_name": RESID} | (config or {})))
    save_file(weights, folder / "sae_weights.safetensors")
    return folder


MISTYPED = {
    "metadata that are a list": {"metadata": [1]},
    "metadata that contradict": {"metadata": {"hook_name": "blocks.1.hook_resid_post"}},
    "an architecture that is a list": {"architecture": ["standard"]},
    "an activation that is an object": {"activation_fn": {"name": "relu"}},
    "arguments that are a text": {"activation_fn_kwargs": "k=3"},
    "arguments that are unknown": {"activation_fn_kwargs": {"slope": 0.1}},
    "TopK under JumpReLU": {"architecture": "gated", "activation_fn": "topk", "k": 2},
    "a k that is true": {"architecture": "topk", "k": True},
    "a k that is a fraction": {"architecture": "topk", "k": 2.5},
    "a flag that is a text": {"apply_b_dec_to_input": "false"},
    "another flag that is a text": {"architecture": "topk", "k": 1, "rescale_acts_by_decoder_norm": "no"},
    "norms for another architecture": {"rescale_acts_by_decoder_norm": True},
    "a hook point that is a number": {"hook_name": 5},
    "a head that is a text": {"hook_head_index": "2"},
    "a head below zero": {"hook_head_index": -1},
    "a layer that is not the hook point's": {"hook_layer": 3},
    "a width that is a text": {"d_in": "4"},
    "a normalisation that is a number": {"normalize_activations": 1},
    "an unknown reshaping": {"reshape_activations": "flat"},
    "loading that is a list": {"model_from_pretrained_kwargs": ["fold_ln"]},
    "a BOS that is a text": {"prepend_bos": "false"},
    "a model that is an object": {"model_name": {"name": "gpt2"}},
    "a slice that is a text": {"seqpos_slice": "1:"},
    "a slice of five": {"seqpos_slice": [1, 2, 3, 4, 5]},
    "arguments of passes": {"model_kwargs": {"fast": True}},
}


@pytest.mark.parametrize("what", MISTYPED)
def test_a_mistyped_configuration_is_refused_with_its_key(tmp_path, what):
    config = MISTYPED[what]
    with pytest.raises(SAEError) as caught:
        load_sae(autoencoder(tmp_path / "sae", config))
    assert "sae" in str(caught.value) and len(str(caught.value)) < 700


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "{", "[]", "1e999", f'{{"d_in": {DIGITS}}}', "\xff"]
)
def test_a_configuration_that_is_no_object_is_refused(tmp_path, text):
    folder = autoencoder(tmp_path / "sae")
    (folder / "cfg.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(SAEError, match=r"cfg\.json"):
        load_sae(folder)


def test_a_configuration_of_a_gigabyte_is_not_read(tmp_path):
    folder = autoencoder(tmp_path / "sae")
    with (folder / "cfg.json").open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(SAEError, match="1073741824 bytes, so it is not a configuration"):
        load_sae(folder)


def test_an_autoencoder_that_announces_more_than_it_holds_takes_no_memory(tmp_path):
    folder = autoencoder(tmp_path / "sae")
    text = json.dumps({"W_enc": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}}).encode()
    (folder / "sae_weights.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(SAEError, match="cannot be read as safetensors"):
        load_sae(folder)
    width, latents = 224, 2**20
    sizes = {"W_enc": [width, latents], "W_dec": [latents, width], "b_enc": [latents], "b_dec": [width]}
    large_safetensors(folder / "sae_weights.safetensors", sizes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert load_sae(folder).d_sae == latents
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["W_enc", "b_enc", "b_dec"])
def test_weights_that_are_no_numbers_are_refused_by_every_way(tmp_path, name, bad):
    weights = {
        "W_enc": torch.ones(224, 3),
        "W_dec": torch.ones(3, 224),
        "b_enc": torch.ones(3),
        "b_dec": torch.ones(224),
    }
    weights[name].view(-1)[0] = bad
    folder = str(autoencoder(tmp_path / "sae", **weights))
    for use in (
        lambda f: dl.score(f, " a file"),
        lambda f: dl.dream(f, iterations=1, wait=True, progress=False),
        lambda f: dl.max_activating(f, None, ["a file and a line " * 20], progress=False),
    ):
        with pytest.raises(SAEError, match=f"weights {name} that are NaN or infinite"):
            use(dl.sae_latent(folder, 0, pre_activation=True))
    if name != "b_dec":  # the other latents do not read that number
        assert np.isfinite(dl.score(dl.sae_latent(folder, 1), " a file").value)


def test_weights_of_an_object_that_are_no_numbers_are_refused():
    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(224, 3)
            with torch.no_grad():
                self.linear.weight[2, 7] = torch.nan

        def encode(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x)

    with pytest.raises(SAEError, match=r"weights linear\.weight that are NaN or infinite"):
        dl.score(dl.sae_latent(Encoder(), 0, hook=RESID), " a file")


def test_weights_that_are_integers_are_refused(tmp_path):
    folder = autoencoder(tmp_path / "sae", W_enc=torch.ones(4, 3, dtype=torch.int8))
    with pytest.raises(SAEError, match=r"has W_enc \(I8\), where numbers in float64"):
        load_sae(folder)


# Transcoders, and the scale of a decoder that was trained after the encoder.


@pytest.mark.parametrize("architecture", ["transcoder", "skip_transcoder", "jumprelu_transcoder"])
def test_a_transcoder_has_the_latents_of_its_encoder(tmp_path, architecture):
    g = torch.Generator().manual_seed(0)
    weights = {"W_enc": torch.randn(4, 3, generator=g), "W_dec": torch.randn(3, 7, generator=g), "b_dec": torch.ones(7)}
    if architecture.startswith("jump"):
        weights["threshold"] = torch.full((3,), 0.5)
    config = {"architecture": architecture, "apply_b_dec_to_input": False, "d_out": 7}
    config["metadata"] = {"hook_name_out": "blocks.0.hook_mlp_out"}
    sae = load_sae(autoencoder(tmp_path / "sae", config, **weights))
    x = torch.randn(5, 4, generator=g)
    pre = x @ weights["W_enc"] + 1
    expected = pre * (pre > (0.5 if "threshold" in weights else 0.0))
    torch.testing.assert_close(sae.encode(x), expected)
    assert sae.output_hook == "blocks.0.hook_mlp_out"
    torch.testing.assert_close(sae.decoder_row(2), weights["W_dec"][2])


def test_the_scale_of_a_finetuned_decoder_belongs_to_what_a_latent_writes(tmp_path):
    scale = torch.tensor([1.0, 2.0, 3.0])
    for stated in (True, False):
        config = {"finetuning_scaling_factor": stated}
        sae = load_sae(autoencoder(tmp_path / str(stated), config, scaling_factor=scale))
        torch.testing.assert_close(sae.decoder_row(2), torch.ones(4) * (3.0 if stated else 1.0))
        torch.testing.assert_close(sae.encode(torch.zeros(2, 4)), torch.zeros(2, 3))
