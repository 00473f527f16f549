"""Formats beside that of SAELens: hostile files, mappings, objects in memory, and their conditions on real models."""

from __future__ import annotations

import json
import re
import shutil
import warnings
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import dreamy_lens as dl
from dreamy_lens.api.logit_effect import logit_effect
from dreamy_lens.errors import FeatureError, FileWriteError, SAEError
from dreamy_lens.features import load_sae
from dreamy_lens.features.families import expressions
from dreamy_lens.features.sae.formats.modules import hook_of_module
from dreamy_lens.models import as_hooked
from tests.features.test_sae import HOOK, modern, save, tensors
from tests.features.test_sae_released import FOLDERS, RELEASED, expected, opened
from tests.helpers.by_hand import Pass
from tests.helpers.models import compatible

WIDTH = 32


@pytest.mark.parametrize(
    ("module", "inside", "outside"),
    [
        ("layers.3", "blocks.3.hook_resid_pre", "blocks.3.hook_resid_post"),
        ("h.3", "blocks.3.hook_resid_pre", "blocks.3.hook_resid_post"),
        ("transformer.h.1", "blocks.1.hook_resid_pre", "blocks.1.hook_resid_post"),
        ("gpt_neox.layers.11", "blocks.11.hook_resid_pre", "blocks.11.hook_resid_post"),
        ("model.layers.0.mlp", "blocks.0.mlp.hook_in", "blocks.0.mlp.hook_out"),
        ("model.layers.0.self_attn", "blocks.0.attn.hook_in", "blocks.0.attn.hook_out"),
        ("model.embed_tokens", None, "hook_embed"),
        ("model.layers.0.mlp.gate_proj", None, None),
        ("blocks.3.hook_resid_pre", None, None),
        ("blocks.3.mlp.hook_post", None, None),
    ],
)
def test_names_of_modules_are_hook_points(module, inside, outside):
    assert (hook_of_module(module, output=False), hook_of_module(module, output=True)) == (inside, outside)


@pytest.mark.parametrize(("module", "kind"), [("layers.1", "block"), ("layers.1.mlp", "mlp")])
def test_modules_of_a_plain_model_are_read_where_the_library_reads_them(neox, tmp_path, module, kind):
    weights = {"W_dec": torch.randn(6, WIDTH), "b_dec": torch.randn(WIDTH)}
    weights |= {"encoder.weight": torch.randn(6, WIDTH), "encoder.bias": torch.randn(6)}
    ids = torch.randint(5, 300, (4, 7), generator=torch.Generator().manual_seed(2))
    block = neox.raw.gpt_neox.layers[1]
    for transcodes in (False, True):
        folder = tmp_path / f"{transcodes}" / module
        folder.mkdir(parents=True)
        (folder / "cfg.json").write_text(json.dumps({"k": 6, "d_in": WIDTH, "transcode": transcodes}))
        save_file(weights, folder / "sae.safetensors")
        seen: list[torch.Tensor] = []
        hooked = block if kind == "block" else block.mlp
        if kind == "block" and transcodes:
            continue

        def keep(_: Any, inputs: Any, output: Any, transcodes: bool = transcodes, seen: list = seen) -> None:
            seen.append(inputs[0] if transcodes else (output[0] if isinstance(output, tuple) else output))

        handle = hooked.register_forward_hook(keep)
        with torch.no_grad():
            neox.raw(ids)
        handle.remove()
        x = seen[0][:, -1] - (0 if transcodes else weights["b_dec"])
        expected = (x @ weights["encoder.weight"].T + weights["encoder.bias"])[:, 2].numpy()
        latent = dl.sae_latent(folder, 2, pre_activation=True)
        np.testing.assert_allclose(dl.score(latent, ids, neox.bridge, prepend_bos=False).value, expected, atol=2e-4)


def test_norms_that_were_folded_are_missed_behind_their_weights(gpt2, tmp_path):
    place = "blocks.1.mlp.hook_in"
    weights = tensors("standard") | {"W_enc": torch.randn(WIDTH, 10), "b_dec": torch.randn(WIDTH)}
    weights["W_dec"] = torch.randn(10, WIDTH)
    plain, folded = (
        save(
            tmp_path / f"{fold}",
            {"hook_name": place, "model_from_pretrained_kwargs": {"fold_ln": fold}, "architecture": "standard"},
            weights,
        )
        for fold in (False, True)
    )
    ids = torch.randint(5, 300, (4, 7), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        x = gpt2.raw.transformer.h[1].ln_2(Pass(gpt2, ids).resid_mid(1))[:, -1]
    expected = ((x - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"])[:, 3].numpy()
    latent = dl.sae_latent(plain, 3, pre_activation=True)
    np.testing.assert_allclose(dl.score(latent, ids, gpt2.bridge, prepend_bos=False).value, expected, atol=2e-4)
    with pytest.raises(SAEError, match=r"without folded norms \(fold_ln\), .* Use the model as it was loaded\."):
        dl.score(latent, ids, compatible("gpt2").bridge)
    with pytest.raises(
        SAEError, match=r"with folded norms \(fold_ln\), .* after model\.enable_compatibility_mode\(\)\."
    ):
        dl.score(dl.sae_latent(folded, 3), ids, gpt2.bridge)


def test_conditions_of_other_formats_are_kept_or_refused(gpt2):
    folder = RELEASED / "sparsify/topk/layers.1"
    with pytest.raises(SAEError, match=r"encodes activations of width 8.* shape \[7, 32\]"):
        dl.score(dl.sae_latent(folder, 1, ignore="model_name"), [5, 6, 7], gpt2.bridge)
    with pytest.raises(SAEError, match=r"trained on EleutherAI/pythia-70m .*this model is embedded"):
        dl.score(dl.sae_latent(folder, 1), " a file")
    scope = RELEASED / "gemma_scope/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71"
    with pytest.raises(SAEError, match=r"trained with a BOS before each text .* use prepend_bos=True"):
        options = {"hook": "blocks.1.hook_resid_post", "ignore": "model_name"}
        dl.score(dl.sae_latent(scope, 1, **options), [5, 6, 7], gpt2.bridge, prepend_bos=False)


# Files.


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return (Path.write_text, (self.file, "run"))


def test_a_pickle_that_could_run_code_is_refused(tmp_path):
    folder = tmp_path / "sae"
    shutil.copytree(RELEASED / "dictionary_learning/AutoEncoder", folder)
    content = torch.load(folder / "ae.pt", weights_only=True)
    torch.save({**content, "more": Trap(tmp_path / "trace")}, folder / "ae.pt")
    with pytest.raises(SAEError, match=r"holds more than tensors.*torch\.save\(autoencoder\.state_dict\(\), path\)"):
        load_sae(folder)
    assert not (tmp_path / "trace").exists()
    torch.save(content, folder / "ae.pt", _use_new_zipfile_serialization=False)
    assert load_sae(folder).d_sae == 16
    torch.save([1, 2], folder / "ae.pt")
    with pytest.raises(SAEError, match=r"holds list, where a dictionary of tensors is needed"):
        load_sae(folder)
    (folder / "ae.pt").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(SAEError, match=r"\(42 bytes\)\. Download it again"):
        load_sae(folder)


def test_an_archive_of_arrays_is_read_in_parts_and_never_believed(tmp_path):
    good = RELEASED / "gemma_scope/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71/params.npz"
    arrays = dict(np.load(good))
    file = tmp_path / "params.npz"

    def read() -> Any:
        return load_sae(tmp_path, hook=HOOK)

    np.savez(file, **{name: np.asfortranarray(array) for name, array in arrays.items()})
    x = torch.randn(3, 8)
    latents = read().encode(x)
    for save_as in (np.savez, np.savez_compressed):
        save_as(file, **{name: array.astype(">f8") for name, array in arrays.items()})
        torch.testing.assert_close(read().encode(x), latents)
        torch.testing.assert_close(read().latent(x, 3), latents[:, 3])
        torch.testing.assert_close(read().decoder_row(3), torch.tensor(arrays["W_dec"][3]))
    np.savez(file, **arrays | {"W_enc": np.array([None])})
    with pytest.raises(SAEError, match=r"cannot be read as an archive of arrays: W_enc.npy announces"):
        read()
    np.savez(file, **arrays | {"threshold": np.arange(16)})
    with pytest.raises(SAEError, match=r"has threshold \(I64\), where numbers in float64"):
        read()
    header = np.lib.format.header_data_from_array_1_0(np.zeros((8, 16), "f4")) | {"shape": (10**9, 10**9)}
    with zipfile.ZipFile(file, "w") as archive, archive.open("W_enc.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, header)
    with pytest.raises(SAEError, match=r"announces \[1000000000, 1000000000\] of float32, and does not hold them"):
        read()
    file.write_bytes(good.read_bytes()[:300])
    with pytest.raises(SAEError, match=r"\(300 bytes\)\. Download it again"):
        read()


@pytest.mark.parametrize(
    ("folder", "file", "changes", "sentence"),
    [
        (
            "sparsify/topk/layers.1",
            "cfg.json",
            {"activation": "relu"},
            "activation function 'relu'; dreamy_lens computes",
        ),
        ("sparsify/topk/layers.1", "cfg.json", {"signed": True}, r"signed latents \(signed\)"),
        ("sparsify/topk/layers.1", "cfg.json", {"k": None}, r"gives no k\. Set \"k\" in cfg\.json"),
        ("sparsify/groupmax/h.1", "cfg.json", {"k": 3}, "16 latents, which cannot be cut into 3 equal groups"),
        ("sparsify/topk/layers.1", "cfg.json", {"d_in": 9}, "d_in = 9 in cfg.json"),
        ("dictionary_learning/AutoEncoder", "config.json", {"dict_class": "CrossCoder"}, "dict_class 'CrossCoder'"),
        ("dictionary_learning/AutoEncoder", "config.json", {"layer": 2}, "submodule is 'resid_post_layer_1', and its"),
        ("dictionary_learning/AutoEncoder", "config.json", {"submodule_name": None}, "does not say which hook point"),
        ("dictionary_learning/AutoEncoder", "config.json", {"dict_size": 3}, "d_sae = 3 in config.json"),
    ],
)
def test_configurations_that_cannot_be_kept_are_refused(tmp_path, folder, file, changes, sentence):
    place = tmp_path / Path(folder).name
    shutil.copytree(RELEASED / folder, place)
    config = json.loads((place / file).read_text())
    config = {**config, "trainer": config["trainer"] | changes} if "trainer" in config else config | changes
    (place / file).write_text(json.dumps(config))
    with pytest.raises(SAEError, match=sentence):
        load_sae(place)


def test_unknown_keys_of_other_formats_are_said(tmp_path):
    place = tmp_path / "layers.1"
    shutil.copytree(RELEASED / "sparsify/topk/layers.1", place)
    config = json.loads((place / "cfg.json").read_text())
    (place / "cfg.json").write_text(json.dumps(config | {"twist": 2}))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        load_sae(place)
    assert [str(w.message) for w in said if "absent: twist." in str(w.message)]


# Mappings and objects.

NAMES = {"W_enc": "enc.weight.T", "b_enc": "enc.bias", "W_dec": "dec.weight.T", "b_dec": "dec.bias"}


def renamed(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    turned = {"enc.weight": weights["W_enc"].T.contiguous(), "dec.weight": weights["W_dec"].T.contiguous()}
    return turned | {"enc.bias": weights["b_enc"], "dec.bias": weights["b_dec"], "steps": torch.arange(3)}


@pytest.mark.parametrize("ending", ["safetensors", "pt", "npz"])
def test_tensors_of_any_file_are_named(tmp_path, ending):
    weights, file = tensors("topk"), tmp_path / f"mine.{ending}"
    content = renamed(weights)
    if ending == "npz":
        np.savez(file, **{name: tensor.numpy() for name, tensor in content.items()})  # pyright: ignore[reportArgumentType]
    else:
        (save_file if ending == "safetensors" else torch.save)(content, file)  # pyright: ignore[reportArgumentType]
    config = {"architecture": "topk", "k": 3, "apply_b_dec_to_input": True, "hook_name": HOOK, "model_name": "gpt2"}
    sae = load_sae(file, tensors=NAMES, config=config)
    same = load_sae(save(tmp_path / "same", modern("topk"), weights))
    x = torch.randn(4, 6)
    torch.testing.assert_close(sae.encode(x), same.encode(x))
    torch.testing.assert_close(sae.latent(x, 2, True), same.latent(x, 2, True))
    torch.testing.assert_close(sae.decoder_row(4), weights["W_dec"][4])
    assert sae.conditions is not None and sae.conditions.model_name == "gpt2"
    assert (
        sae == load_sae(file, tensors=NAMES, config=config) != load_sae(file, tensors=NAMES, config=config | {"k": 2})
    )
    moved = load_sae(sae, hook="blocks.0.hook_resid_post", ignore="model_name")
    torch.testing.assert_close(moved.encode(x), sae.encode(x))
    assert (moved.hook_name, moved.conditions.ignored) == ("blocks.0.hook_resid_post", ("model_name",))  # pyright: ignore


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"tensors": {"W_enc": "encoder"}}, SAEError, r"no tensor 'encoder' \(for W_enc\); it has .*enc\.weight"),
        (
            {"tensors": {"w_enc": "enc.weight"}},
            FeatureError,
            "has the name 'w_enc'; its names are those of SAELens: W_enc",
        ),
        ({"tensors": ["W_enc"]}, FeatureError, "tensors is a mapping such as"),
        ({"config": {"architecture": "standard"}}, SAEError, r'config=\{"apply_b_dec_to_input": True\} or False'),
        ({"config": {"archtecture": "topk"}}, FeatureError, "has the key 'archtecture'.* did you mean architecture"),
        ({"config": {"apply_b_dec_to_input": True, "architecture": "topk"}}, SAEError, 'Set "k" in config to'),
        ({"tensors": None}, FeatureError, "config belongs to tensors"),
        ({"tensors": {"W_enc": "steps"}}, SAEError, r"has steps \(I64\)"),
    ],
)
def test_a_mapping_that_does_not_fit_is_told_what_fits(tmp_path, changes, error, sentence):
    save_file(renamed(tensors("standard")), tmp_path / "mine.safetensors")
    options = {"tensors": NAMES, "config": {"apply_b_dec_to_input": True}, "hook": HOOK} | changes
    with pytest.raises(error, match=sentence):
        load_sae(tmp_path / "mine.safetensors", **options)


def test_a_file_without_names_asks_for_them(tmp_path):
    save_file(renamed(tensors("standard")), tmp_path / "mine.safetensors")
    with pytest.raises(SAEError, match=r'Name its tensors: tensors=\{"W_enc": "encoder\.weight\.T", \.\.\.\}'):
        load_sae(tmp_path / "mine.safetensors", hook=HOOK)


class ByHand(torch.nn.Module):
    """An autoencoder as people write it."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.enc, self.dec = torch.nn.Linear(width, 10), torch.nn.Linear(10, width)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return self.enc(x - self.dec.bias).relu()

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return self.dec(latents)


def test_an_object_by_hand_scores_scans_and_writes_like_a_folder(gpt2, tmp_path):
    torch.manual_seed(3)
    thing = ByHand()
    ids = torch.randint(5, 300, (4, 7), generator=torch.Generator().manual_seed(2))
    named = load_sae(thing, HOOK, tensors=NAMES, config={"apply_b_dec_to_input": True})
    weights = {"W_enc": thing.enc.weight.T.contiguous(), "b_enc": thing.enc.bias, "b_dec": thing.dec.bias}
    weights |= {"W_dec": thing.dec.weight.T.contiguous()}
    folder = save(tmp_path / "sae", {"hook_name": HOOK}, {name: t.detach() for name, t in weights.items()})
    for pre_activation in (False, True):
        latents = [dl.sae_latent(sae, 4, pre_activation=pre_activation) for sae in (named, str(folder))]
        ours, theirs = (dl.score(latent, ids, gpt2.bridge).value for latent in latents)
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    everything = [dl.sae_latent(named, i, pre_activation=True) for i in range(10)]
    text = "The dog runs over the hill and the cat sleeps in the house."
    scan = dl.max_activating(everything, gpt2.bridge, [text], length=5, k=2, progress=False)
    again = dl.max_activating(
        [dl.sae_latent(str(folder), i, pre_activation=True) for i in range(10)], gpt2.bridge, [text], length=5, k=2,
        progress=False,
    )  # fmt: skip
    for i in range(10):
        pairs = zip(scan[i].top, again[i].top, strict=True)
        assert all(abs(a.value - b.value) < 1e-4 and a.ids == b.ids for a, b in pairs)
    effect = logit_effect(dl.sae_latent(str(folder), 4), gpt2.bridge).values
    for sae in (dl.sae_latent(named, 4), dl.sae_latent(thing, 4, hook=HOOK)):  # without names, by what decode adds
        np.testing.assert_allclose(logit_effect(sae, gpt2.bridge).values, effect, atol=1e-4)
    with pytest.raises(SAEError, match=re.escape('Name its tensors, load_sae(..., tensors={"W_enc": ')):
        dl.score(dl.sae_latent(thing, 4, hook=HOOK, pre_activation=True), ids, gpt2.bridge)


def test_every_latent_of_a_dictionary_is_scanned_by_one_text(gpt2, tmp_path):
    g = torch.Generator().manual_seed(0)
    shapes = {"W_enc": (WIDTH, 6), "W_dec": (6, WIDTH), "b_enc": (6,), "b_dec": (WIDTH,)}
    weights = {name: torch.randn(shape, generator=g) for name, shape in shapes.items()}
    folder = str(save(tmp_path / "sae", {"hook_name": HOOK}, weights))
    model = as_hooked(gpt2.bridge)
    plain = [dl.sae_latent(folder, i) for i in range(6)]
    assert expressions(f'sae_latent("{folder}", *)', model) == plain
    shifted = expressions(f'2 * sae_latent("{folder}", * , position=0, pre_activation=true).clip(max=6) - 1', model)
    assert shifted == [2 * dl.sae_latent(folder, i, 0, pre_activation=True).clip(max=6) - 1 for i in range(6)]
    assert expressions([f'sae_latent("{folder}", 3)', f'sae_latent("{folder}", *)'], model)[0] == plain[3]
    text = "The dog runs over the hill and the cat sleeps in the house."
    settings = {"length": 5, "k": 2, "progress": False, "cache": False}
    scan = dl.max_activating(f'sae_latent("{folder}", *, pre_activation=true)', gpt2.bridge, [text], **settings)
    assert len(scan) == 6
    for i in (0, 5):
        window = scan.of(dl.sae_latent(folder, i, pre_activation=True)).top[0]
        alone = dl.score(dl.sae_latent(folder, i, pre_activation=True), np.array(window.ids), gpt2.bridge).value[0]
        assert window.value == pytest.approx(float(alone), abs=1e-4)
    with pytest.raises(FeatureError, match="several latents beside a pattern; write one with a"):
        expressions(f'sae_latent("{folder}", *) - sae_latent("{folder}", 1)', model)
    with pytest.raises(SAEError, match="There is no SAE folder"):
        expressions('sae_latent("nowhere", *)', model)
    # A text in quotes, and a product, are no patterns.
    assert len(expressions('logit("*") * 2', model)) == 1
    assert len(expressions(f'sae_latent("{folder}", 1) * 2', model)) == 1


@pytest.mark.parametrize("architecture", ["standard", "topk", "jumprelu", "gated"])
@pytest.mark.parametrize("subtracts", [True, False])
def test_a_checkpoint_of_a_training_on_whitened_activations_whitens_them(tmp_path, architecture, subtracts):
    """By the definition of SAELens: the autoencoder sees (x - mean) @ M, and writes z @ M⁻¹."""
    weights = {name: t.double() for name, t in tensors(architecture).items()}
    d_in = len(weights["W_enc"])
    g = torch.Generator().manual_seed(7)
    mean, matrix = torch.randn(d_in, generator=g), torch.randn(d_in, d_in, generator=g) + 2 * torch.eye(d_in)
    config = modern(architecture, normalize_activations="covariance_whitening", apply_b_dec_to_input=subtracts)
    folder = save(tmp_path / "sae", config, tensors(architecture))
    with pytest.raises(SAEError, match=r"covariance_whitening\), and the statistics are not in its files"):
        load_sae(folder)
    x = torch.randn(5, d_in, generator=g)
    plain = load_sae(folder, ignore="normalize_activations")
    torch.testing.assert_close(plain.encode(x), load_sae(save(tmp_path / "raw", modern(
        architecture, apply_b_dec_to_input=subtracts), tensors(architecture))).encode(x))  # fmt: skip
    inverse = torch.linalg.inv(matrix)
    statistics = {"mean": mean, "matrix": matrix, "inverse_matrix": inverse.contiguous()}
    save_file(statistics, folder / "activation_whitening.safetensors")
    whitened = load_sae(folder)
    z = (x - mean) @ matrix
    torch.testing.assert_close(whitened.encode(x), plain.encode(z))
    torch.testing.assert_close(whitened.latent(x, 2, pre_activation=True), plain.latent(z, 2, pre_activation=True))
    torch.testing.assert_close(whitened.decoder_row(2), (weights["W_dec"][2] @ inverse.double()).float())
    column = (matrix.double() @ weights["W_enc"])[:, 2].float()
    torch.testing.assert_close(whitened.encoder_column(2), column, atol=1e-5, rtol=1e-4)
    folded = load_sae(whitened.save(tmp_path / "folded"))
    torch.testing.assert_close(folded.encode(x), whitened.encode(x), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(folded.decoder_row(2), whitened.decoder_row(2), atol=1e-5, rtol=1e-4)
    save_file({**statistics, "matrix": matrix[:, 1:].contiguous()}, folder / "activation_whitening.safetensors")
    with pytest.raises(SAEError, match=r"has matrix of shape .* and it reads activations of width"):
        load_sae(folder)


def test_a_checkpoint_states_the_number_that_its_activations_were_scaled_by(tmp_path):
    config = modern("standard", normalize_activations="expected_average_only_in")
    folder = save(tmp_path / "sae", config, tensors("standard"))
    x = torch.randn(5, tensors("standard")["W_enc"].shape[0], generator=torch.Generator().manual_seed(7))
    plain = load_sae(folder, ignore="normalize_activations")
    (folder / "activation_scaler.json").write_text('{"scaling_factor": 0.25, "has_whitening": false}')
    torch.testing.assert_close(load_sae(folder).encode(x), plain.encode(0.25 * x))
    (folder / "activation_scaler.json").write_text('{"scaling_factor": null}')
    with pytest.raises(SAEError, match="which its files do not hold"):
        load_sae(folder)


class AsInSAELens(torch.nn.Module):
    """An object with the names of SAELens and a configuration, which may subtract the decoder's bias or not."""

    def __init__(self, subtracts: bool, config: Any) -> None:
        super().__init__()
        torch.manual_seed(5)
        shapes = {"W_enc": (WIDTH, 10), "b_enc": (10,), "W_dec": (10, WIDTH), "b_dec": (WIDTH,)}
        for name, shape in shapes.items():
            self.register_parameter(name, torch.nn.Parameter(torch.randn(shape)))
        self.subtracts, self.cfg = subtracts, config

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return ((x - self.b_dec if self.subtracts else x) @ self.W_enc + self.b_enc).relu()


class Stated(SimpleNamespace):
    """A configuration that is written as SAELens writes its own."""

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


def test_pre_activations_of_an_object_are_refused_where_its_encode_computes_something_else():
    """SAELens subtracts the decoder's bias unless the configuration says otherwise; an object may not."""
    x = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(1))
    config = Stated(hook_name=HOOK, d_in=WIDTH, d_sae=10)
    same, other = load_sae(AsInSAELens(True, config)), load_sae(AsInSAELens(False, config))
    thing = same.origin
    expected = (x - thing.b_dec) @ thing.W_enc[:, 2] + thing.b_enc[2]
    torch.testing.assert_close(same.latent(x, 2, pre_activation=True), expected)
    torch.testing.assert_close(other.latent(x, 2), other.origin.encode(x)[:, 2])
    for ask in (lambda: other.latent(x, 2, pre_activation=True), lambda: other.encode(x, pre_activation=True)):
        with pytest.raises(SAEError, match=r"its encode\(\) does not return what W_enc and the other weights give"):
            ask()
    names = {name: name for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    told = load_sae(other.origin, HOOK, tensors=names, config={"apply_b_dec_to_input": False})
    torch.testing.assert_close(told.latent(x, 2, pre_activation=True), x @ thing.W_enc[:, 2] + thing.b_enc[2])


def test_a_configuration_that_is_a_dictionary_is_kept_too(gpt2):
    config = {"hook_point": "transformer.h.0", "hook_name_out": "blocks.1.hook_mlp_out", "d_in": WIDTH, "d_sae": 10}
    sae = load_sae(AsInSAELens(False, config | {"metadata": {"prepend_bos": False}, "context_size": 4}))
    assert (sae.hook_name, sae.output_hook, sae.d_sae) == ("blocks.0.hook_resid_post", "blocks.1.hook_mlp_out", 10)
    with pytest.raises(SAEError, match=r"trained without a BOS .*use prepend_bos=False"):
        dl.score(dl.sae_latent(sae, 1), [5, 6, 7], gpt2.bridge, prepend_bos=True)
    with pytest.raises(SAEError, match=r"rows of 4 tokens .*of which position 4 is read"):
        dl.score(dl.sae_latent(sae, 1), [5, 6, 7, 8, 9], gpt2.bridge, prepend_bos=False)
    with torch.no_grad():
        state = gpt2.raw(torch.tensor([[5, 6, 7]]), output_hidden_states=True).hidden_states[1][0, -1]
        expected = float(sae.origin.encode(state)[1])
    value = dl.score(dl.sae_latent(sae, 1), [5, 6, 7], gpt2.bridge, prepend_bos=False).value[0]
    assert value == pytest.approx(expected, abs=1e-4)


def test_tensors_of_an_object_that_lie_the_other_way_are_not_cut_wrongly():
    class Square(ByHand):
        d_sae = 10

        def __init__(self) -> None:
            super().__init__()
            self.W_dec, self.W_enc = self.dec.weight, self.enc.weight  # [d_out, d_sae], [d_sae, d_in]

    for row in ("decoder_row", "encoder_column"):
        with pytest.raises(SAEError, match=r"is needed\. Name its tensors: load_sae\(\.\.\., tensors="):
            getattr(load_sae(Square(), HOOK), row)(3)


def test_what_an_object_writes_is_known_only_if_it_decodes_linearly():
    class Squares(ByHand):
        def decode(self, latents: torch.Tensor) -> torch.Tensor:
            return self.dec(latents) ** 2

    class Half(ByHand):
        decode = None  # pyright: ignore

    thing = ByHand()
    torch.testing.assert_close(load_sae(thing, HOOK).decoder_row(3), thing.dec.weight[:, 3].detach())
    with pytest.raises(SAEError, match="is not linear, so no single vector is what latent 3 writes"):
        load_sae(Squares(), HOOK).decoder_row(3)
    with pytest.raises(SAEError, match=r"no decoder \(W_dec, or decode\) that can be read"):
        load_sae(Half(), HOOK).decoder_row(3)


def test_objects_of_other_libraries_are_computed_from_their_tensors():
    class AutoEncoderTopK(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.k = torch.tensor(3)
            self.encoder, self.decoder = torch.nn.Linear(6, 10), torch.nn.Linear(10, 6, bias=False)
            self.b_dec = torch.nn.Parameter(torch.randn(6))

    class SparseCoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cfg = type("Config", (), {"k": 3, "activation": "topk", "transcode": False})()
            self.encoder, self.W_dec = torch.nn.Linear(6, 10), torch.nn.Parameter(torch.randn(10, 6))
            self.b_dec = torch.nn.Parameter(torch.randn(6))

        def encode(self, x: torch.Tensor) -> Any:
            return (x, x, x)

    AutoEncoderTopK.__module__, SparseCoder.__module__ = "dictionary_learning.trainers.top_k", "sparsify.sparse_coder"
    x = torch.randn(4, 6)
    for thing in (AutoEncoderTopK(), SparseCoder()):
        pre = thing.encoder(x - thing.b_dec)
        kept = pre >= pre.sort(-1, descending=True).values[:, 2:3]
        sae = load_sae(thing, HOOK)
        torch.testing.assert_close(sae.encode(x), (pre * kept).relu())
        torch.testing.assert_close(sae.latent(x, 3, pre_activation=True), pre[:, 3].detach())
        assert sae.decoder_row(2).shape == (6,)
        with torch.no_grad():
            thing.b_dec += 1.0
        assert not torch.equal(sae.encode(x), (pre * kept).relu()), "weights in training are never kept"


def test_what_load_sae_returns_has_the_text_form_of_its_folder(tmp_path):
    folder = save(tmp_path / "sae", modern("standard") | {"model_name": "gpt2"}, tensors("standard"))
    feature = dl.sae_latent(load_sae(folder, ignore="model_name"), 3)
    assert feature == dl.sae_latent(str(folder), 3, ignore="model_name") and dl.parse(str(feature)) == feature
    moved = dl.sae_latent(load_sae(folder, hook="blocks.0.hook_resid_pre"), 3)
    assert 'hook="blocks.0.hook_resid_pre"' in str(moved)


@pytest.mark.parametrize("folder", [name for name in FOLDERS if "hook_z" not in name])
def test_a_dictionary_of_any_format_is_saved_and_computes_the_same(tmp_path, folder):
    known = expected(folder)
    sae = opened(folder)
    again = load_sae(sae.save(tmp_path / "saved"))
    scale = known["latents"].abs().max()
    assert (again.encode(known["x"]) - known["latents"]).abs().max() <= 2e-5 * scale
    assert (again.decoder_row(7) - known["decoder"][7].flatten()).abs().max() <= 2e-5 * known["decoder"].abs().max()
    assert (again.hook_name, again.output_hook) == (sae.hook_name, sae.output_hook)
    before, after = sae.conditions, again.conditions
    for name in ("model_name", "prepend_bos", "context_size", "folds_norms", "centred", "no_special"):
        assert getattr(before, name) == getattr(after, name)
    with pytest.raises(FileWriteError, match=r"cannot be written: .*not empty"):
        sae.save(tmp_path / "saved")


def test_what_was_named_by_hand_gets_a_text_form_when_it_is_saved(tmp_path):
    save_file(renamed(tensors("topk")), tmp_path / "mine.safetensors")
    config = {"architecture": "topk", "k": 3, "apply_b_dec_to_input": True, "model_name": "gpt2"}
    sae = load_sae(tmp_path / "mine.safetensors", HOOK, tensors=NAMES, config=config)
    assert not dl.sae_latent(sae, 3).has_text_form
    feature = dl.sae_latent(sae.save(tmp_path / "saved"), 3)
    assert feature.has_text_form and dl.parse(str(feature)) == feature
    named = load_sae(ByHand(6), HOOK, tensors=NAMES, config={"apply_b_dec_to_input": True})
    x = torch.randn(4, 6)
    torch.testing.assert_close(load_sae(named.save(tmp_path / "object")).encode(x), named.encode(x).detach())
    with pytest.raises(SAEError, match="gives no pre-activations"):
        load_sae(ByHand(6), HOOK).save(tmp_path / "none")
