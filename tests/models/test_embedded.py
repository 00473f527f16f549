"""The embedded model loads without a network, reads and writes any text, and what cannot be loaded is told."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from dreamy_lens.errors import ModelError, TokenizerError
from dreamy_lens.models import HookedModel, as_hooked, load_model
from dreamy_lens.models.embedded import FOLDER


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every attempt to reach another machine fails, and is noted."""
    attempts: list[Any] = []

    def refuse(*arguments: Any, **_: Any) -> Any:
        attempts.append(arguments)
        raise OSError("there is no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return attempts


@pytest.fixture(scope="module")
def embedded() -> Any:
    return as_hooked()


# Loading.


def test_it_loads_without_arguments_and_without_touching_the_network(no_network: list[Any]):
    model = load_model()
    assert (model.cfg.n_layers, model.cfg.d_model, model.cfg.n_ctx) == (6, 224, 512)
    assert not model.training and next(model.parameters()).dtype == torch.float32
    assert no_network == []


def test_it_is_small_enough_to_ship():
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 12_000_000
    assert {t.dtype for t in load_file(FOLDER / "model.safetensors").values()} == {torch.float16}


def test_its_prompts_follow_the_end_of_text_token_it_was_trained_with(embedded: HookedModel):
    assert embedded.prepends_bos and embedded.bos(None) == [0] and embedded.bos(False) == []
    tokenizer = embedded.tokenizer
    assert tokenizer.bos_token == tokenizer.eos_token == "<|endoftext|>"
    assert tokenizer("Return").input_ids[0] == tokenizer.bos_token_id == 0
    assert embedded.source.original_model.config.eos_token_id == 0


@settings(max_examples=300)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_every_text_comes_back_from_its_tokens(text: str):
    vocabulary = as_hooked().vocabulary
    assert vocabulary.text(vocabulary.encode(text)) == text


def test_every_token_but_the_end_of_text_may_be_proposed(embedded: HookedModel):
    assert embedded.vocabulary.size == 4096
    assert embedded.vocabulary.allowed.sum() == 4095 and not embedded.vocabulary.allowed[0]


def test_dtypes_are_given_as_torch_has_them_or_by_name():
    assert next(load_model(dtype="bfloat16").parameters()).dtype == torch.bfloat16
    assert next(load_model(dtype=torch.float16).parameters()).dtype == torch.float16


def test_a_model_is_wrapped_once():
    assert as_hooked() is as_hooked(None) is as_hooked("embedded")
    bridge = load_model("embedded")
    hooked = as_hooked(bridge)
    assert hooked is not as_hooked() and hooked.source is bridge
    assert as_hooked(bridge) is hooked and as_hooked(hooked) is hooked
    assert hooked.name == "embedded"


# What cannot be loaded.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the embedded model's folder to break."""
    return Path(shutil.copytree(FOLDER, tmp_path / "copy"))


def test_a_folder_in_the_home_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.setenv("USERPROFILE", str(folder.parent))
    assert load_model("~/copy").cfg.n_layers == 6


def test_a_folder_without_a_tokenizer_is_told(folder: Path):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(TokenizerError, match=r"has a model but no tokenizer: .*such as tokenizer\.json.*Save it again"):
        load_model(folder)
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(
        TokenizerError, match=r"has a model but no tokenizer: .* any of tokenizer\.json.*save_pretrained"
    ):
        load_model(folder)


def test_a_folder_without_a_model_is_told(folder: Path):
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"has no config.json, so it is not a Hugging Face model folder"):
        load_model(folder)


def test_damaged_weights_are_told(folder: Path):
    (folder / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(ModelError, match=r"The folder .* cannot be loaded as a Hugging Face model: .*header"):
        load_model(folder)


def test_a_file_is_no_folder(folder: Path):
    with pytest.raises(
        ModelError, match=r"model.safetensors' is a file; name the folder that holds the model: .*copy'"
    ):
        load_model(folder / "model.safetensors")


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "a/b/c"])
def test_a_folder_that_is_not_there_is_told_without_asking_the_network(name: str, no_network: list[Any]):
    with pytest.raises(ModelError, match=r"There is no folder .* \(working folder: "):
        load_model(name)
    assert no_network == []


def test_a_hub_id_that_cannot_be_loaded_is_told_with_the_reason(monkeypatch: pytest.MonkeyPatch):
    from transformer_lens.model_bridge import TransformerBridge

    def unreachable(*_: Any, **__: Any) -> Any:
        raise OSError("no connection.")

    monkeypatch.setattr(TransformerBridge, "boot_transformers", unreachable)
    expected = r"'owner/missing' is neither a local folder nor a model .* Hub: no connection. .* load_model\(\)"
    with pytest.raises(ModelError, match=expected):
        load_model("owner/missing")
    with pytest.raises(ModelError, match="owner/missing"):
        as_hooked("owner/missing")


def test_dtypes_and_devices_that_do_not_exist_are_told():
    for wrong in ("bloat16", "int64", torch.int64, "nn"):
        with pytest.raises(ModelError, match="is not a torch dtype that a model can have; use 'float32'"):
            load_model(dtype=wrong)
    with pytest.raises(ModelError, match="There is no device 'nope' here; there is cpu"):
        load_model(device="nope")


def test_an_incomplete_installation_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("dreamy_lens.models.embedded.FOLDER", tmp_path)
    with pytest.raises(ModelError, match=r"weights are missing .* Install the package again"):
        load_model()


def test_what_is_no_model_is_told():
    with pytest.raises(ModelError, match="is not a model dreamy_lens can hook"):
        as_hooked(torch.nn.Linear(2, 2))
