"""The embedded model predicts documentation, its card says how it was trained, and it can be trained anew."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dreamy_lens.corpus import Document, documentation
from dreamy_lens.errors import SettingsError
from dreamy_lens.models import as_hooked
from dreamy_lens.models.embedded import FOLDER
from training import card, train
from training.evaluate import bits, bits_per_byte, continuation
from training.export import Record
from training.recipe import Batches, Recipe


@pytest.fixture(scope="module")
def plain() -> tuple[Any, Any]:
    """The embedded model and its tokenizer without TransformerLens, as training uses them."""
    return open_plain(FOLDER)


def open_plain(folder: Path) -> tuple[Any, Any]:
    from tokenizers import Tokenizer
    from transformers import GPTNeoXForCausalLM

    model = GPTNeoXForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, Tokenizer.from_file(str(folder / "tokenizer.json"))


# What it has learnt.


def test_it_predicts_held_out_documentation_with_at_most_a_bit_and_a_half_per_byte(plain: tuple[Any, Any]):
    """Twenty documents, spread over packages; texts on this side of the split were never trained on."""
    found = [d.text for d in documentation.read_documents(["numpy", "huggingface_hub"]) if d.held_out]
    unique = list(dict.fromkeys(found))
    sample = unique[:: len(unique) // 20][:20]
    assert len(sample) == 20
    assert bits_per_byte(*plain, sample) <= 1.5


def test_bits_are_those_of_a_plain_forward_pass_and_do_not_depend_on_the_batch(plain: tuple[Any, Any]):
    model, tokenizer = plain
    texts = ["Return the sum of the elements.", "Raises ValueError if the file is not found.", "a"]
    by_hand = []
    for text in texts:
        ids = torch.tensor([[0, *tokenizer.encode(text, add_special_tokens=False).ids]])
        with torch.no_grad():
            losses = model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])
        by_hand.append(-losses.sum().item() / torch.log(torch.tensor(2.0)).item())
    assert bits(model, tokenizer, texts) == pytest.approx(by_hand, abs=1e-3)
    assert bits(model, tokenizer, texts, batch=1) == pytest.approx(by_hand, abs=1e-3)
    assert bits_per_byte(model, tokenizer, texts) == pytest.approx(sum(by_hand) / sum(map(len, texts)), abs=1e-4)


def test_every_token_of_a_text_longer_than_the_context_is_charged_once(tiny: Path):
    """A model that gives every token the same probability charges log2(vocabulary) for each."""
    model, tokenizer = open_plain(tiny / "model")
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()
    for text in ("Short.", "A longer text. " * 20):
        tokens = len(tokenizer.encode(text, add_special_tokens=False).ids)
        assert bits(model, tokenizer, [text])[0] == pytest.approx(
            tokens * torch.log2(torch.tensor(RECIPE.vocabulary)).item()
        )


def test_its_card_says_what_its_record_says(plain: tuple[Any, Any]):
    record, text = Record.read(FOLDER), (FOLDER / "README.md").read_text(encoding="utf-8")
    flat = " ".join(text.split())
    assert (
        f"--out FOLDER --steps {record.recipe.steps} --stop-at {record.step} --seed 0 --device cpu --threads 2" in flat
    )
    assert f"{record.training_documents:,} docstrings" in flat and f"{record.held_out_documents:,} held-out" in flat
    assert f"{plain[0].num_parameters():,} parameters" in flat
    written, _ = continuation(*plain, card.PROMPTS[0], 12, 0.0)
    assert card.PROMPTS[0] + written.split("\n")[0] in text


# Training it.

RECIPE = Recipe(vocabulary=300, layers=1, width=16, heads=2, context=32, rows=2, steps=6, warmup=2)


def corpus() -> tuple[list[Document], list[Document]]:
    documents = [
        Document(f"Return item {i} of the list, or raise an error if there is no item {i}.", "x/y.py")
        for i in range(60)
    ]
    return documents[4:], documents[:4]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model" / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training that was never interrupted."""
    out = tmp_path_factory.mktemp("tiny")
    train.train(RECIPE, out, "cpu", checkpoint_every=2, corpus=corpus())
    return out


def test_training_that_was_killed_goes_on_to_the_same_weights(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    batch = Batches.__getitem__

    def killed(self: Batches, step: int) -> Any:
        if step == 3:  # one step after a checkpoint, so that a step is lost
            raise KeyboardInterrupt
        return batch(self, step)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Batches, "__getitem__", killed)
        train.train(RECIPE, tmp_path, "cpu", checkpoint_every=2, corpus=corpus())
    assert not (tmp_path / "model").exists()
    torch.rand(7)  # what else the process draws does not matter
    train.train(RECIPE, tmp_path, "cpu", checkpoint_every=2, corpus=corpus())
    assert same(weights(tmp_path), weights(tiny))


def test_training_that_was_stopped_exports_what_there_is_and_can_be_finished(tiny: Path, tmp_path: Path):
    train.train(RECIPE, tmp_path, "cpu", checkpoint_every=5, stop_at=4, corpus=corpus())
    assert Record.read(tmp_path / "model").step == 4
    text = " ".join((tmp_path / "model" / "README.md").read_text(encoding="utf-8").split())
    assert "--steps 6 --stop-at 4 --seed 0" in text and "stopped at step 4 of 6" in text
    assert not same(weights(tmp_path), weights(tiny))
    train.train(RECIPE, tmp_path, "cpu", checkpoint_every=5, corpus=corpus())
    assert same(weights(tmp_path), weights(tiny))
    text = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "--stop-at" not in text and "ran to its end" in text


def test_a_checkpoint_of_another_recipe_is_not_continued(tiny: Path):
    with pytest.raises(SettingsError, match=r"of another training \(steps 6, not 7; seed 0, not 1\)"):
        train.train(replace(RECIPE, steps=7, seed=1), tiny, "cpu", corpus=corpus())


def test_a_trained_folder_is_a_model_like_any_other(tiny: Path):
    model = as_hooked(tiny / "model")
    assert (model.n_layers, model.vocabulary.size, model.tokenizer.bos_token_id) == (1, 300, 0)
    assert model.vocabulary.text(model.vocabulary.encode("naïve → text\n")) == "naïve → text\n"
    entries = [json.loads(line) for line in (tiny / "log.jsonl").read_text().splitlines()]
    assert [e["step"] for e in entries if "held_out_bits_per_byte" in e] == [2, 4, 6]


def test_training_learns(tmp_path: Path):
    train.train(replace(RECIPE, steps=60), tmp_path, "cpu", checkpoint_every=60, corpus=corpus())
    model, tokenizer = open_plain(tmp_path / "model")
    texts = [d.text for d in corpus()[1]]
    tokens = sum(len(tokenizer.encode(text).ids) for text in texts)
    assert sum(bits(model, tokenizer, texts)) < 0.5 * tokens * torch.log2(torch.tensor(300.0)).item()


def test_the_learning_rate_warms_up_holds_and_cools_down_to_zero():
    recipe = Recipe(steps=1000, warmup=10, cooldown=0.5, learning_rate=1.0)
    rates = [recipe.learning_rate_at(step) for step in (0, 9, 400, 500, 750, 1000)]
    assert rates == pytest.approx([0.1, 1.0, 1.0, 1.0, 0.5, 0.0])


def test_the_training_command_reads_its_options(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    called: list[Any] = []
    monkeypatch.setattr(train, "train", lambda *arguments: called.append(arguments))
    train.main(["--out", str(tmp_path), "--steps", "5000", "--stop-at", "3750", "--device", "cpu"])
    assert called == [(Recipe(steps=5000), tmp_path, "cpu", 250, 3750)]
