"""Dictionaries as their libraries write them, against what these libraries compute for the same activations.

`tools/make_sae_fixtures.py` wrote the files of `released/`, each library in an environment of its own.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dreamy_lens.errors import SAEError
from dreamy_lens.features import load_sae

RELEASED = Path(__file__).parent / "released"
POST = "blocks.1.hook_resid_post"

LAYERS = {"circuit_tracer/transcoders": "layer_1.safetensors", "circuit_tracer/cross_layer": "W_enc_1.safetensors"}
FOLDERS = sorted(path.parent.relative_to(RELEASED).as_posix() for path in RELEASED.rglob("expected.safetensors"))
FOLDERS = [name for name in FOLDERS if not name.startswith("releases/")]  # tests/features/test_sae_sources.py has these


def opened(folder: str, **options: Any) -> Any:
    place = RELEASED / folder
    return load_sae(place / LAYERS[folder] if folder in LAYERS else place, **options)


def expected(folder: str) -> dict[str, torch.Tensor]:
    known = load_file(RELEASED / folder / "expected.safetensors")
    if "-att/" in folder:  # the file has the heads of attention side by side
        known["x"] = known["x"].unflatten(-1, (2, 4))
    return known


def test_every_library_and_format_has_its_files():
    kinds = {name.partition("/")[0] for name in FOLDERS}
    assert kinds == {"saelens", "gemma_scope", "circuit_tracer", "sparsify", "dictionary_learning"}
    assert len(FOLDERS) == 40


@pytest.mark.parametrize("folder", FOLDERS)
def test_latents_are_those_of_the_library_itself(folder):
    sae, known = opened(folder), expected(folder)
    scale = known["latents"].abs().max()
    assert (sae.encode(known["x"]) - known["latents"]).abs().max() <= 1e-5 * scale
    for i in (0, 5, 15):
        assert (sae.latent(known["x"], i) - known["latents"][:, i]).abs().max() <= 1e-5 * scale
    pre = sae.encode(known["x"], pre_activation=True)
    on = known["latents"] > 0
    torch.testing.assert_close(pre[on], known["latents"][on], atol=1e-5 * float(scale), rtol=0)
    torch.testing.assert_close(sae.latent(known["x"], 5, pre_activation=True), pre[:, 5], atol=1e-5, rtol=1e-5)
    if sae.architecture != "standard":
        assert (pre[~on] > 0).any(), "the activation function would not matter here"


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_a_latent_writes_is_what_decoding_adds(folder):
    sae, known = opened(folder), expected(folder)
    for i in (0, 7, 15):
        row = sae.decoder_row(i)
        assert (row - known["decoder"][i].flatten()).abs().max() <= 2e-5 * known["decoder"].abs().max()


PLACES = {
    "saelens/standard_none": (POST, POST),
    "saelens/skip_transcoder": ("blocks.1.ln2.hook_normalized", "blocks.1.hook_mlp_out"),
    "sparsify/topk/layers.1": (POST, POST),
    "sparsify/topk/layers.1.mlp": ("blocks.1.mlp.hook_out", "blocks.1.mlp.hook_out"),
    "sparsify/groupmax/h.1": (POST, POST),
    "sparsify/transcoders/transformer.h.1.mlp": ("blocks.1.mlp.hook_in", "blocks.1.mlp.hook_out"),
    "sparsify/skip_transcoders/layers.1.mlp": ("blocks.1.mlp.hook_in", "blocks.1.mlp.hook_out"),
    "dictionary_learning/AutoEncoderTopK": (POST, POST),
    "circuit_tracer/transcoders": ("blocks.1.mlp.hook_in", "blocks.1.mlp.hook_out"),
    "circuit_tracer/cross_layer": ("blocks.1.mlp.hook_in", "blocks.1.mlp.hook_out"),
}


@pytest.mark.parametrize("folder", PLACES)
def test_the_place_that_is_read_and_the_place_that_is_written(folder):
    sae = opened(folder)
    assert (sae.hook_name, sae.output_hook) == PLACES[folder]
    if folder == "circuit_tracer/cross_layer":
        assert sae.output_hooks == tuple(f"blocks.{layer}.mlp.hook_out" for layer in (1, 2, 3))


@pytest.mark.parametrize("folder", [name for name in FOLDERS if name.startswith("gemma_scope")])
def test_gemma_scope_states_its_conditions_by_the_name_of_the_release(folder):
    sae, known = opened(folder), json.loads((RELEASED / folder / "expected.json").read_text())
    assert (sae.hook_name, sae.output_hook) == (known["hook_name"], known.get("hook_name_out", known["hook_name"]))
    stated = sae.conditions
    assert (stated.model_name, stated.prepend_bos, stated.context_size) == (
        known["model_name"],
        known["prepend_bos"],
        known["context_size"],
    )


def test_a_gemma_scope_file_without_the_name_of_its_release_states_nothing(tmp_path):
    folder = RELEASED / "gemma_scope/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71"
    place = tmp_path / "layer_20" / "width_16k"
    shutil.copytree(folder, place)
    with pytest.raises(SAEError, match=r"does not say which hook point .* hook=\"blocks"):
        load_sae(place)
    sae = load_sae(place / "params.npz", hook="blocks.20.hook_resid_post")
    stated = sae.conditions
    assert stated is not None and (stated.model_name, stated.prepend_bos, stated.context_size) == (None, None, None)


def test_what_the_other_formats_state(tmp_path):
    for folder, name in (
        ("sparsify/topk/layers.1", "EleutherAI/pythia-70m"),
        ("dictionary_learning/BatchTopKSAE", "EleutherAI/pythia-70m-deduped"),
        ("circuit_tracer/cross_layer", "Qwen/Qwen3-0.6B"),
    ):
        stated = opened(folder).conditions
        assert (stated.model_name, stated.prepend_bos, stated.folds_norms) == (name, None, False)
    stated = opened("sparsify/topk/layers.1").conditions
    assert (stated.context_size, stated.no_special, stated.centred) == (64, True, False)
    lone = tmp_path / "layers.1"
    shutil.copytree(RELEASED / "sparsify/topk/layers.1", lone)
    stated = load_sae(lone).conditions
    assert stated is not None and (stated.model_name, stated.context_size) == (None, None)
