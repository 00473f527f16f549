"""The library sae_lens itself: its objects and its folders, beside transformer-lens 3.

`tools/try_sae_lens` makes an environment with both for these tests. Beside transformer-lens 4 it cannot be imported.
"""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dreamy_lens as dl
from dreamy_lens.api.logit_effect import logit_effect
from dreamy_lens.features import load_sae
from dreamy_lens.features.sae import sources as sae_sources
from tests.features.test_sae_released import RELEASED, expected
from tests.features.test_sae_sources import cache
from tests.helpers.models import FAMILIES, family

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    sae_lens = pytest.importorskip("sae_lens", exc_type=ImportError)

__all__ = ["cache"]

FOLDERS = sorted(path.name for path in (RELEASED / "saelens").iterdir() if not path.name.endswith("_checkpoint"))

pytestmark = pytest.mark.filterwarnings("ignore")


def of_library(folder: Path) -> Any:
    return sae_lens.SAE.load_from_disk(folder, device="cpu").eval()


@pytest.mark.parametrize("name", FOLDERS)
def test_an_object_of_the_library_and_its_folder_agree_with_its_encode(name):
    folder = RELEASED / "saelens" / name
    thing, x = of_library(folder), expected(f"saelens/{name}")["x"]
    with torch.no_grad():
        latents = thing.encode(x)
    scale = float(latents.abs().max())
    for sae in (load_sae(thing), load_sae(folder)):
        assert (sae.encode(x) - latents).abs().max() <= 1e-6 * scale
        assert (sae.latent(x, 3) - latents[:, 3]).abs().max() <= 1e-6 * scale
    wrapped, read = load_sae(thing), load_sae(folder)
    pre = [sae.encode(x, pre_activation=True).detach() for sae in (wrapped, read)]
    assert (pre[0] - pre[1]).abs().max() <= 1e-6 * scale
    torch.testing.assert_close(wrapped.decoder_row(5), read.decoder_row(5))
    assert (wrapped.hook_name, wrapped.output_hook) == (read.hook_name, read.output_hook)
    stated = wrapped.conditions, read.conditions
    assert stated[0] is not None and stated[1] is not None
    assert (stated[0].model_name, stated[0].prepend_bos) == (stated[1].model_name, stated[1].prepend_bos)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("kind", ["StandardSAE", "TopKSAE", "JumpReLUSAE", "GatedSAE"])
def test_what_the_library_makes_and_saves_is_scored_on_a_model(tmp_path, name, kind):
    hook, model = "blocks.1.hook_resid_post", family(name)
    settings = {"d_in": 32, "d_sae": 48, "dtype": "float32", "device": "cpu"} | ({"k": 4} if kind == "TopKSAE" else {})
    made = getattr(sae_lens, kind)(getattr(sae_lens, f"{kind}Config")(**settings))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    made.cfg.metadata.hook_name = hook
    made.save_model(tmp_path / "sae")
    ids = torch.randint(5, 300, (4, 7), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        _, cache = model.bridge.run_with_cache(ids, prepend_bos=False)
        latents = of_library(tmp_path / "sae").encode(cache[hook][:, -1].float())
    scale = max(float(latents.abs().max()), 1.0)
    best = int(latents.max(0).values.argmax())
    for source in (str(tmp_path / "sae"), of_library(tmp_path / "sae")):
        latent = dl.sae_latent(source, best)
        value = dl.score(latent, ids, model.bridge, prepend_bos=False).value
        np.testing.assert_allclose(value, latents[:, best].numpy(), atol=2e-5 * scale)
        assert logit_effect(latent, model.bridge).promoted


def test_the_library_reads_other_formats_as_dreamy_lens_does():
    from sae_lens.loading import pretrained_sae_loaders as loaders

    folder = RELEASED / "sparsify/topk/layers.1"
    config, weights = loaders.sparsify_disk_loader(folder, cfg_overrides={"dtype": "float32"})
    sae = load_sae(folder)
    assert sae.encoder is not None
    assert (config["activation_fn_kwargs"]["k"], config["d_sae"]) == (sae.encoder.k, sae.d_sae)
    assert sae.opened is not None
    torch.testing.assert_close(weights["W_enc"].contiguous(), sae.opened.read("W_enc", None).contiguous())


def test_the_registry_of_the_library_is_found_and_read_as_the_library_reads_it():
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    text = sae_sources.registry()
    directory = get_pretrained_saes_directory()
    for release in list(directory)[::20]:
        known, entry = directory[release], sae_sources.registry_entry(text, release)
        assert {sae["id"]: sae["path"] for sae in entry["saes"]} == known.saes_map
        assert (entry["repo_id"], entry["model"]) == (known.repo_id, known.model)


@pytest.mark.parametrize(
    ("release", "sae_id", "files"),
    [
        ("gpt2-small-res-jb", "blocks.8.hook_resid_pre", "saelens/standard_none"),
        ("llama-3.1-8b-instruct-andyrdt", "resid_post_layer_3_trainer_1", "dictionary_learning/BatchTopKSAE"),
        ("qwen2.5-7b-instruct-andyrdt", "resid_post_layer_3_trainer_1", "dictionary_learning/AutoEncoder"),
    ],
)
def test_a_release_is_what_the_library_loads_by_the_same_names(cache, tmp_path, release, sae_id, files):
    entry = sae_sources.registry_entry(sae_sources.registry(), release)
    path = next(sae["path"] for sae in entry["saes"] if sae["id"] == sae_id)
    copy = shutil.copytree(RELEASED / files, tmp_path / "copy")
    if files.startswith("saelens"):  # the release is older than metadata
        config = json.loads((copy / "cfg.json").read_text())
        old = {key: value for key, value in config.pop("metadata").items() if value is not None}
        for key in ("model_from_pretrained_kwargs", "sae_lens_version", "sae_lens_training_version"):
            old.pop(key, None)
        (copy / "cfg.json").write_text(json.dumps(config | old | {"activation_fn_str": "relu"}))
    cache.add(entry["repo_id"], copy, path)
    theirs = sae_lens.SAE.from_pretrained(release, sae_id, device="cpu").eval()
    x = expected(files)["x"]
    with torch.no_grad():
        latents = theirs.encode(x)
    ours = load_sae(release, sae_id=sae_id, ignore="prepend_bos")
    assert (ours.encode(x) - latents).abs().max() <= 1e-6 * latents.abs().max()
    kept, stated = theirs.cfg.metadata, ours.conditions
    assert stated is not None and stated.model_name is not None
    loading = kept.model_from_pretrained_kwargs or {}
    assert bool(stated.centred) is bool(loading.get("center_writing_weights"))
    torch.testing.assert_close(ours.decoder_row(3), theirs.W_dec[3].detach())
