"""Models and tokenizers of unusual kinds: they work, or are refused with what to do."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import ByT5Tokenizer

import dreamy_lens as dl
from dreamy_lens.cli.corpus import unescaped
from dreamy_lens.cli.main import main
from dreamy_lens.errors import ModelError, SettingsError, TokenizerError
from dreamy_lens.models import as_hooked
from tests.helpers.bare_tokenizers import raw_gpt2, saved
from tests.helpers.models import new_bridge, raw_model


@pytest.mark.filterwarnings("ignore:.*start without one")
def test_a_tokenizer_without_vocabulary_files_is_loaded(tmp_path):
    letters = ByT5Tokenizer(extra_ids=0)
    raw = raw_gpt2(len(letters))
    folder = saved(raw, letters, tmp_path)
    assert not (folder / "tokenizer.json").exists() and (folder / "tokenizer_config.json").exists()
    bridge = dl.load_model(folder, device="cpu")
    ids = [b + 3 for b in b"the dog"]
    with torch.no_grad():
        logits = raw(torch.tensor([ids])).logits[0]
    scores = dl.score(dl.logit("d"), "the dog", bridge)
    assert scores.value[0] == pytest.approx(float(logits[-1, ord("d") + 3]), rel=1e-5)
    expected = float(torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:])))
    assert scores.cross_entropy[0] == pytest.approx(expected, rel=1e-5)


def test_a_folder_without_any_tokenizer_is_refused(tmp_path):
    raw_model("gpt2").save_pretrained(tmp_path)
    with pytest.raises(TokenizerError, match=r"neither tokenizer_config\.json nor any of tokenizer\.json"):
        dl.load_model(tmp_path, device="cpu")
    # Only the configuration of a tokenizer that needs a vocabulary.
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))
    with pytest.raises(TokenizerError, match="none that could stand in a prompt"):
        dl.load_model(tmp_path, device="cpu")


@pytest.mark.parametrize("name", ["", "  "])
def test_an_empty_name_is_no_folder(name):
    with pytest.raises(ModelError, match=r"^The name of the model is empty\. Give a Hugging Face id or a folder"):
        dl.load_model(name)


def test_a_misspelt_option_is_named_before_anything_is_loaded(tmp_path):
    with pytest.raises(SettingsError, match=r"^There is no setting 'devcie'; did you mean device\?$"):
        dl.load_model(tmp_path, devcie="cpu")
    with pytest.raises(SettingsError, match=r"There is no setting 'colour'; there are: .*dtype.*revision"):
        dl.load_model(colour=1)
    assert dl.load_model(n_ctx=32, trust_remote_code=False).cfg.n_ctx == 32


def test_a_model_without_weights_is_refused(capsys):
    with pytest.raises(ModelError, match="device 'meta' has no weights"):
        dl.load_model(device="meta")
    assert main(["attribute", "L2.N17", "the", "--device", "meta"]) == 1
    assert "device 'meta' has no weights" in capsys.readouterr().err
    bridge = new_bridge("gpt2", raw_model("gpt2")).to("meta")
    with pytest.raises(ModelError, match="weights on the device 'meta'"):
        as_hooked(bridge)


def test_a_model_of_inference_mode_is_refused_and_one_that_is_loaded_in_it_works(gpt2):
    with torch.inference_mode():
        bridge = new_bridge("gpt2", raw_model("gpt2"))
    with pytest.raises(ModelError, match=r"made inside torch\.inference_mode"):
        as_hooked(bridge)
    expected = dl.score("L2.N17", "the dog", dl.load_model(device="cpu"))
    small = {"iterations": 1, "population": 2, "children": 4, "length": 4}
    with torch.inference_mode():
        loaded = dl.load_model(device="cpu")
        assert dl.score("L2.N17", "the dog", loaded).value == expected.value
        inside = dl.attribution("L1.N3", "the dog", gpt2.bridge, k=3), dl.dream("L1.N3", gpt2.bridge, **small)
    outside = dl.attribution("L1.N3", "the dog", gpt2.bridge, k=3), dl.dream("L1.N3", gpt2.bridge, **small)
    np.testing.assert_array_equal(inside[0].values, outside[0].values)
    np.testing.assert_array_equal(inside[1].history.value, outside[1].history.value)
    assert np.isfinite(dl.attribution("L2.N17", "the dog", loaded, k=3).values).all()


@pytest.mark.parametrize("text", ["\\x", "\\u12", "\\", "\\U00110000", "a\\xz" * 1000])
def test_a_separator_that_cannot_be_read_is_refused(text, tmp_path, capsys):
    (tmp_path / "corpus.txt").write_text("the dog")
    words = ["scan", "L2.N17", "--corpus", str(tmp_path), "--separator", text, "--length", "3", "--quiet"]
    assert main(words) == 1
    error = capsys.readouterr().err
    assert "--separator" in error and "escape sequence" in error and len(error) < 600


def test_a_separator_has_escape_sequences():
    assert unescaped("\\n\\t\\x41—é\\\\") == "\n\tA—é\\"
    with pytest.raises(SettingsError):
        unescaped("\\N{no such name}")
