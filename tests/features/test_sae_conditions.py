"""The conditions of an autoencoder's training, against plain Hugging Face models that really were processed so."""

from __future__ import annotations

import copy
import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import dreamy_lens as dl
from dreamy_lens.errors import FeatureError, SAEError
from dreamy_lens.features import load_sae
from dreamy_lens.features.sae.conditions import CHECKED, CONDITIONS, HARMLESS_LOADING, IRRELEVANT, OTHER_WEIGHTS, USED
from dreamy_lens.models.names import same_model
from tests.helpers.by_hand import Pass
from tests.helpers.models import Family, compatible, new_bridge

LATENTS, LATENT = 9, 4
POST = "blocks.1.hook_resid_post"


def saved(folder: Path, width: int, hook: str = POST, **settings: Any) -> tuple[str, dict[str, torch.Tensor]]:
    """An autoencoder with random weights, whose mean over the units matters; its folder and its tensors."""
    g = torch.Generator().manual_seed(11)
    weights = {
        "W_enc": 0.3 + torch.randn(width, LATENTS, generator=g),
        "W_dec": torch.randn(LATENTS, width, generator=g),
    }
    weights |= {"b_enc": torch.randn(LATENTS, generator=g), "b_dec": torch.randn(width, generator=g)}
    metadata = {"hook_name": hook} | settings
    folder.mkdir(exist_ok=True)
    config = {"architecture": "standard", "d_in": width, "d_sae": LATENTS, "metadata": metadata}
    (folder / "cfg.json").write_text(json.dumps(config))
    save_file(weights, folder / "sae_weights.safetensors")
    return str(folder), weights


def prompts(family: Family, n: int = 7) -> torch.Tensor:
    return torch.randint(5, 300, (4, n), generator=torch.Generator().manual_seed(2))


def centred(raw: Any) -> Any:
    """The plain model with centred writing weights, written from their definition."""
    raw = copy.deepcopy(raw)
    inner = raw.base_model
    raw.get_output_embeddings().weight = torch.nn.Parameter(raw.get_output_embeddings().weight.detach().clone())
    with torch.no_grad():
        tables = [inner.wte, inner.wpe] if hasattr(inner, "wte") else [inner.embed_in]
        for table in tables:
            table.weight -= table.weight.mean(-1, keepdim=True)
        for block in getattr(inner, "h", None) or inner.layers:
            for writer in (
                [block.attn.c_proj, block.mlp.c_proj]
                if hasattr(block, "attn")
                else [block.attention.dense, block.mlp.dense_4h_to_h]
            ):
                of_units = -1 if hasattr(writer, "nf") else 0  # GPT-2 stores weights [in, out]
                writer.weight -= writer.weight.mean(of_units, keepdim=True)
                writer.bias -= writer.bias.mean()
    return raw


def by_hand(x: torch.Tensor, weights: dict[str, torch.Tensor]) -> np.ndarray:
    return ((x - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"])[..., LATENT].numpy()


def latent(folder: str, **options: Any) -> Any:
    return dl.sae_latent(folder, LATENT, pre_activation=True, **options)


def activation(raw: Any, family: Family, ids: torch.Tensor, hook: str = POST) -> torch.Tensor:
    with torch.no_grad():
        seen = Pass(family, torch.cat([torch.full((len(ids), 1), family.bos), ids], 1), raw=raw)
        return {
            POST: seen.resid_post,
            "blocks.1.hook_resid_pre": seen.resid_pre,
            "blocks.1.mlp.hook_post": seen.mlp_post,
        }[hook](1)[:, -1]


@pytest.mark.parametrize("hook", [POST, "blocks.1.hook_resid_pre", "blocks.1.mlp.hook_post"])
@pytest.mark.parametrize("name", ["gpt2", "neox"])
def test_centred_writing_weights_give_the_numbers_of_a_model_that_was_centred(name, hook, request, tmp_path):
    family, ids = request.getfixturevalue(name), prompts(request.getfixturevalue(name))
    raw = centred(family.raw)
    x = activation(raw, family, ids, hook)
    stated = {"model_from_pretrained_kwargs": {"center_writing_weights": True}}
    folder, weights = saved(tmp_path / "sae", x.shape[-1], hook, **stated)
    expected = by_hand(x, weights)
    for bridge in (family.bridge, compatible(name).bridge):
        found = dl.score(latent(folder), ids, bridge, prepend_bos=True).value
        np.testing.assert_allclose(found, expected, atol=2e-4)
    ignored = latent(folder, ignore="model_from_pretrained_kwargs")
    plain = dl.score(ignored, ids, family.bridge, prepend_bos=True).value
    np.testing.assert_allclose(plain, by_hand(activation(family.raw, family, ids, hook), weights), atol=2e-4)
    if hook != "blocks.1.mlp.hook_post":
        assert np.abs(plain - expected).max() > 0.1, "the condition would not matter here"


def test_scans_dreams_and_attributions_keep_the_condition_too(gpt2, tmp_path):
    ids = prompts(gpt2)
    folder, weights = saved(tmp_path / "sae", 32, model_from_pretrained_kwargs={"center_writing_weights": True})
    expected = by_hand(activation(centred(gpt2.raw), gpt2, ids), weights)
    run = dl.dream(
        latent(folder), gpt2.bridge, start=ids[0].tolist(), iterations=2, length=7, prepend_bos=True, wait=True,
        progress=False,
    )  # fmt: skip
    best = run.frontier[-1]
    again = dl.score(latent(folder), torch.tensor([list(best.ids)]), gpt2.bridge, prepend_bos=True).value
    np.testing.assert_allclose(best.value, again[0], atol=1e-4)
    text = " ".join(["The dog runs over the hill and the cat sleeps in the house."] * 4)
    scanned = dl.max_activating(latent(folder), gpt2.bridge, [text], length=5, k=3, prepend_bos=True, progress=False)
    windows = scanned[latent(folder)]
    assert len(windows.top) == 3
    for window in windows.top:
        x = activation(centred(gpt2.raw), gpt2, torch.tensor([list(window.ids)]))
        np.testing.assert_allclose(window.value, by_hand(x, weights)[0], atol=2e-4)
    found = dl.attribution(latent(folder), ids[0].tolist(), gpt2.bridge, prepend_bos=True)
    np.testing.assert_allclose(found.value, expected[0], atol=2e-4)


def test_a_model_with_rms_norms_is_never_centred(llama, tmp_path):
    ids = prompts(llama)
    x = activation(llama.raw, llama, ids)
    folder, weights = saved(tmp_path / "sae", 32, model_from_pretrained_kwargs={"center_writing_weights": True})
    found = dl.score(latent(folder), ids, llama.bridge, prepend_bos=True).value
    np.testing.assert_allclose(found, by_hand(x, weights), atol=2e-4)


@pytest.mark.parametrize(
    "stated",
    [
        {"model_from_pretrained_kwargs": {"center_writing_weights": False}},
        {"model_from_pretrained_kwargs": {}, "sae_lens_training_version": "6.18.0"},
    ],
)
def test_the_mean_that_a_centred_model_has_lost_is_missed(gpt2, tmp_path, stated):
    folder, weights = saved(tmp_path / "sae", 32, **stated)
    ids = prompts(gpt2)
    plain = dl.score(latent(folder), ids, gpt2.bridge, prepend_bos=True).value
    np.testing.assert_allclose(plain, by_hand(activation(gpt2.raw, gpt2, ids), weights), atol=2e-4)
    with pytest.raises(SAEError, match=r"the mean is lost. Use the model as it was loaded, without enable_comp"):
        dl.score(latent(folder), ids, compatible("gpt2").bridge, prepend_bos=True)


def test_folded_value_biases_are_compared_with_the_model(gpt2, tmp_path):
    folded, _ = saved(
        tmp_path / "a", 32, "blocks.1.attn.hook_z", model_from_pretrained_kwargs={"fold_value_biases": True}
    )
    plain, _ = saved(
        tmp_path / "b", 32, "blocks.1.attn.hook_z", model_from_pretrained_kwargs={"fold_value_biases": False}
    )
    ids = prompts(gpt2)
    with pytest.raises(SAEError, match=r"with folded value biases .*after model.enable_compatibility_mode\(\)"):
        dl.score(latent(folded), ids, gpt2.bridge)
    with pytest.raises(SAEError, match=r"without folded value biases .*after load_model\(name\)"):
        dl.score(latent(plain), ids, compatible("gpt2").bridge)
    for folder, bridge in ((folded, compatible("gpt2").bridge), (plain, gpt2.bridge)):
        assert np.isfinite(dl.score(latent(folder), ids, bridge).value).all()


def test_the_output_of_an_unfolded_norm_is_not_taken_from_before_its_weights(gpt2, tmp_path):
    name = "blocks.1.ln2.hook_normalized"
    folder, weights = saved(tmp_path / "sae", 32, name, model_from_pretrained_kwargs={"fold_ln": False})
    ids = prompts(gpt2)
    with pytest.raises(SAEError, match=r'before them on .*: hook="blocks.1.ln2.hook_out"'):
        dl.score(latent(folder), ids, gpt2.bridge)
    with torch.no_grad():
        seen = Pass(gpt2, torch.cat([torch.full((4, 1), gpt2.bos), ids], 1))
        x = gpt2.raw.transformer.h[1].ln_2(seen.resid_mid(1))[:, -1]
    found = dl.score(latent(folder, hook="blocks.1.ln2.hook_out"), ids, gpt2.bridge, prepend_bos=True).value
    np.testing.assert_allclose(found, by_hand(x, weights), atol=2e-4)


@pytest.mark.parametrize("kwargs", [{"layer_norm_eps": 3.0}, {"fold_ln": "yes"}, {"center_writing_weights": 1}])
def test_loading_that_cannot_be_understood_is_refused_and_can_be_ignored(gpt2, tmp_path, kwargs):
    folder, _ = saved(tmp_path / "sae", 32, model_from_pretrained_kwargs=kwargs)
    with pytest.raises(SAEError, match=next(iter(kwargs))):
        load_sae(folder)
    assert load_sae(folder, ignore="model_from_pretrained_kwargs").hook_name == POST


# BOS, model, rows.


@pytest.mark.parametrize("trained", [True, False])
def test_prompts_follow_a_bos_as_in_training_or_are_refused(gpt2, tmp_path, trained):
    folder, weights = saved(tmp_path / "sae", 32, prepend_bos=trained)
    ids = prompts(gpt2)
    found = dl.score(latent(folder), ids, gpt2.bridge, prepend_bos=trained).value
    with torch.no_grad():
        rows = torch.cat([torch.full((4, 1), gpt2.bos), ids], 1) if trained else ids
        np.testing.assert_allclose(found, by_hand(Pass(gpt2, rows).resid_post(1)[:, -1], weights), atol=2e-4)
    with pytest.raises(SAEError, match=rf"prepend_bos: {str(trained).lower()}.* use prepend_bos={trained}\."):
        dl.score(latent(folder), ids, gpt2.bridge, prepend_bos=not trained)
    with pytest.raises(SAEError, match="prepend_bos"):
        dl.dream(latent(folder), gpt2.bridge, prepend_bos=not trained, wait=True)
    assert len(dl.score(latent(folder, ignore="prepend_bos"), ids, gpt2.bridge, prepend_bos=not trained).value) == 4


def test_another_model_is_refused_and_an_unknown_name_is_said_once(gpt2, tmp_path):
    folder, _ = saved(tmp_path / "a", 224, model_name="gpt2-small")
    with pytest.raises(SAEError, match=r'trained on gpt2-small .*this model is embedded.*ignore="model_name"'):
        dl.score(latent(folder), " a file")
    assert np.isfinite(dl.score(latent(folder, ignore="model_name"), " a file").value).all()
    own, _ = saved(tmp_path / "b", 224, model_name="embedded")
    unknown, _ = saved(tmp_path / "c", 32, model_name="gpt2-small")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        dl.score(latent(own), " a file")
        for _ in range(3):
            dl.score(latent(unknown), prompts(gpt2), gpt2.bridge)
    (sentence,) = (str(w.message) for w in said if "cannot be told" in str(w.message))
    assert sentence.endswith(
        "if it is not, the latents mean nothing: load the model of the training, load_model('gpt2-small')."
    )


@pytest.mark.parametrize(
    ("stated", "name", "expected"),
    [
        ("gpt2-small", "gpt2", True),
        ("gpt2-small", "openai-community/gpt2", True),
        ("gemma-2-2b", "google/gemma-2-2b", True),
        ("google/gemma-2-2b", "unsloth/gemma-2-2b", True),
        ("gemma-2-2b", "google/gemma-2-2b-it", False),
        ("pythia-70m-deduped", "EleutherAI/pythia-70m", False),
        ("gpt2-small", "gpt2-medium", False),
        ("gpt2-small", "/models/gpt2-medium", False),
        ("gemma-2-2b", "/models/gemma-2-2b", True),
        ("gemma-2-2b", "/cache/models--google--gemma-2-2b/snapshots/0123abc", True),
        ("gemma-2-2b", "/models/tuned", None),
        ("/home/me/mine", "google/gemma-2-2b", None),
        ("gpt2-small", "embedded", False),
    ],
)
def test_names_of_models(stated, name, expected):
    assert same_model(stated, name) is expected


def test_rows_and_positions_outside_the_training_are_said_once(gpt2, tmp_path):
    folder, _ = saved(
        tmp_path / "sae", 32, context_size=8, seqpos_slice=[2, None], exclude_special_tokens=True, prepend_bos=True
    )
    ids = prompts(gpt2, 9)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        dl.score(latent(folder), ids[:, :7], gpt2.bridge, prepend_bos=True)
        assert not said
        dl.score(latent(folder, position=0), ids[:, :7], gpt2.bridge, prepend_bos=True)
        dl.score(latent(folder, position="bos") + latent(folder), ids[:, :7], gpt2.bridge, prepend_bos=True)
        for _ in range(2):
            dl.score(latent(folder, position=3), ids, gpt2.bridge, prepend_bos=True)
        dl.score(latent(folder, position=3), ids[:, :8], gpt2.bridge, prepend_bos=True)
    texts = " ".join(str(w.message) for w in said)
    assert "of 8 tokens (context_size), and rows here have 10, though no position after the end" in texts
    for part in ("context_size", "seqpos_slice", "exclude_special_tokens"):
        assert texts.count(part) == (1 if part != "seqpos_slice" else 2)  # positions 1 and 0 are two facts


@pytest.mark.parametrize("position", [-1, 7, slice(None), slice(2, 8)])
def test_positions_after_the_rows_of_the_training_are_refused_unless_they_are_ignored(gpt2, tmp_path, position):
    folder, weights = saved(tmp_path / "sae", 32, "blocks.0.hook_resid_post", context_size=8, prepend_bos=True)
    ids, at = prompts(gpt2, 8), {"position": position}

    def pre(n: int, **more: Any) -> Any:
        feature = latent(folder, **at, **more)
        feature = feature.max() if isinstance(position, slice) else feature
        return lambda: dl.score(feature, ids[:, :n], gpt2.bridge, prepend_bos=True).value

    with pytest.raises(SAEError) as error:
        pre(8)()
    for part in ("rows of 8 tokens (context_size), and rows here have 9, of which position 8 is read", "shorter by 1"):
        assert part in str(error.value)
    assert 'sae_latent(..., ignore="context_size")' in str(error.value)
    if position in (-1, slice(None)):
        assert np.isfinite(pre(7)()).all()  # with the BOS, a row as long as those of the training
    row = torch.tensor([[gpt2.bos, *prompt] for prompt in ids.tolist()])
    with torch.no_grad():
        states = gpt2.raw(row, output_hidden_states=True).hidden_states[1]
    every = by_hand(states, weights)[:, 1:][:, position if isinstance(position, slice) else slice(-1, None)].max(1)
    np.testing.assert_allclose(pre(8, ignore="context_size")(), every, atol=1e-4)


def test_windows_that_are_longer_than_the_rows_of_the_training_are_refused(gpt2, tmp_path):
    folder, _ = saved(tmp_path / "sae", 32, context_size=8, prepend_bos=True)
    texts, settings = ["the dog runs over the hill and the cat"] * 3, {"prepend_bos": True, "progress": False}
    for length in (8, 7):
        scan = {"model": gpt2.bridge, "length": length, "cache": False, **settings}
        if length == 8:
            with pytest.raises(SAEError, match=r"rows here have 9, of which position 8 is read"):
                dl.max_activating(latent(folder), corpus=texts, **scan)
        else:
            assert len(dl.max_activating(latent(folder), corpus=texts, **scan))


@pytest.mark.parametrize(
    ("stated", "position", "said_of"),
    [
        ([1, 2], -1, r"positions 1:2 of a row \(seqpos_slice\), and position 5 of the row is not among them"),
        ([1, 3, 1], -1, r"positions 1:3:1 of a row \(seqpos_slice\), and position 5 of the row is not among them"),
        ([3], 3, r"positions :3 of a row \(seqpos_slice\), and position 4 of the row is not among them"),
        ([2, None], 0, r"positions 2: of a row \(seqpos_slice\), and position 1 of the row is not among them"),
        ([0, -1], -1, r"positions 0:-1 of a row .* whether position 5 of the row is among them cannot be told"),
        ([1, 2], 0, None),
        ([2, None], -1, None),
    ],
)
def test_a_slice_of_positions_is_kept_without_the_size_of_the_context(gpt2, tmp_path, stated, position, said_of):
    folder, _ = saved(tmp_path / "sae", 32, seqpos_slice=stated)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(2):
            dl.score(latent(folder, position=position), prompts(gpt2, 5), gpt2.bridge, prepend_bos=True)
    texts = [str(w.message) for w in said]
    assert len(texts) == (said_of is not None)
    if said_of is not None:
        assert re.search(said_of, texts[0])


@pytest.mark.parametrize("stated", ["1:", [1, 2, 3, 4], [1, 2, 0], []])
def test_a_slice_that_is_none_is_refused_with_what_is_accepted(tmp_path, stated):
    folder, _ = saved(tmp_path / "sae", 32, seqpos_slice=stated)
    with pytest.raises(SAEError, match=r"\[start, stop, step\], \[start, stop\] or \[stop\] is needed: whole numbers"):
        load_sae(folder)


def test_arguments_of_passes_are_refused_and_ignored_by_their_own_name(gpt2, tmp_path):
    folder, _ = saved(tmp_path / "sae", 32, model_kwargs={"a": 1})
    with pytest.raises(SAEError, match=r'arguments a=1, .*\(model_kwargs\).*load_sae\(\.\.\., ignore="model_kwargs"\)'):
        load_sae(folder)
    with pytest.raises(SAEError, match="model_kwargs"):
        load_sae(folder, ignore="model_from_pretrained_kwargs")
    assert np.isfinite(dl.score(latent(folder, ignore="model_kwargs"), prompts(gpt2), gpt2.bridge).value).all()


def test_other_weights_old_versions_and_unknown_keys_are_said_once(gpt2, tmp_path):
    old, _ = saved(tmp_path / "old", 32, sae_lens_training_version="3.4.0")
    step, _ = saved(tmp_path / "step", 32, model_from_pretrained_kwargs={"checkpoint_index": 7}, twist=2, trick=None)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(2):
            for folder in (old, step):
                dl.score(latent(folder), prompts(gpt2), gpt2.bridge)
    texts = " ".join(str(w.message) for w in said)
    assert texts.count("checkpoint_index=7") == texts.count("centred the writing weights") == 1
    assert texts.count("absent: twist.") == 1 and "trick" not in texts


# What ignores and keys look like.


def test_what_is_ignored_is_part_of_the_feature(tmp_path):
    folder, _ = saved(tmp_path / "sae", 32)
    feature = latent(folder, ignore=["prepend_bos", "model_name"])
    assert 'ignore="model_name, prepend_bos"' in str(feature)
    assert dl.parse(str(feature)) == feature != latent(folder)
    sae = load_sae(folder, ignore="model_name")
    assert sae != load_sae(folder) and load_sae(sae, ignore="prepend_bos").conditions.ignored == (  # pyright: ignore
        "model_name",
        "prepend_bos",
    )
    with pytest.raises(FeatureError, match=r"no condition 'modelname'.*there are model_name, model_from"):
        latent(folder, ignore="modelname")


def test_an_object_in_memory_states_conditions_too(gpt2):
    class Config:
        hook_name, prepend_bos, context_size = POST, False, 5

    class Encoder:
        cfg = Config()

        def encode(self, x: torch.Tensor) -> torch.Tensor:
            return x[..., :4]

    with pytest.raises(SAEError, match=r"The Encoder was trained without a BOS .*use prepend_bos=False"):
        dl.score(dl.sae_latent(Encoder(), 1), prompts(gpt2), gpt2.bridge, prepend_bos=True)
    with pytest.raises(SAEError, match=r"The Encoder was trained on rows of 5 tokens .*of which position 6 is read"):
        dl.score(dl.sae_latent(Encoder(), 1), prompts(gpt2, 7), gpt2.bridge, prepend_bos=False)


def test_every_key_that_is_known_is_described():
    page = (Path(__file__).parents[2] / "docs" / "conditions.md").read_text(encoding="utf-8")
    tables = (USED, CHECKED, IRRELEVANT, HARMLESS_LOADING, OTHER_WEIGHTS)
    assert [key for table in tables for key in sorted(table) if f"`{key}`" not in page] == []
    assert not USED & CHECKED and not (USED | CHECKED) & IRRELEVANT and set(CONDITIONS) <= CHECKED


def test_a_model_with_a_norm_behind_its_embedding_is_not_centred_by_guess(tmp_path):
    import transformers as hf

    config = hf.BloomConfig(vocab_size=340, hidden_size=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)
    torch.manual_seed(0)
    bridge = new_bridge("bloom", hf.BloomForCausalLM(config).eval())
    folder, _ = saved(tmp_path / "sae", 32, model_from_pretrained_kwargs={"center_writing_weights": True})
    with pytest.raises(SAEError, match=r"of tiny-bloom cannot be computed. Use the model after model\.enable_comp"):
        dl.score(latent(folder), [5, 6, 7], bridge, prepend_bos=True)
