"""Directions from texts and weights, beside arithmetic on the plain Hugging Face model and on saved tensors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import dreamy_lens as dl
from dreamy_lens.errors import FeatureError, FeatureRangeError, PromptError, SettingsError, TokenError
from dreamy_lens.features import Direction
from tests.helpers import models
from tests.search.test_chat import CHATML, chatty

POSITIVE = ["The dog runs over the hill", "A dog", "the dogs bark, the cats do not", "the big red house", "He went"]
NEGATIVE = ["She said that", "the sun is over the hill and the birds are singing", "Over and over the little bird"]
HOOK = "blocks.0.hook_resid_post"


def vectors(family: models.Family, texts, read="last", bos=True) -> np.ndarray:
    """Each text alone through the plain model: its residual stream after the first block, at the last token."""
    rows = []
    for text in texts:
        ids = family.tokenizer.encode(text, add_special_tokens=False)
        row = torch.tensor([[family.bos] * bos + ids])
        with torch.no_grad():
            states = family.raw(input_ids=row, output_hidden_states=True).hidden_states[1][0]
        rows.append(states[-1] if read == "last" else states[bos:].mean(0) if read == "mean" else states[read + bos])
    return torch.stack(rows).double().numpy()


def close(direction: Direction, expected: np.ndarray, to: float = 1e-5) -> bool:
    return float(np.abs(direction.values - expected).max()) <= to * float(np.abs(expected).max())


@pytest.mark.parametrize(("read", "bos"), [("last", True), ("mean", True), (1, False)])
def test_the_mean_difference_is_that_of_each_text_alone(family, read, bos):
    position = {"last": None}.get(read, read)
    arguments = {"model": family.bridge, "prepend_bos": bos, "position": position}
    found = dl.direction.difference(POSITIVE, NEGATIVE, HOOK, **arguments)
    ahead, behind = (vectors(family, side, read, bos) for side in (POSITIVE, NEGATIVE))
    assert close(found, ahead.mean(0) - behind.mean(0))
    one_by_one = dl.direction.difference(POSITIVE, NEGATIVE, HOOK, **arguments, batch_size=1)
    assert close(found, one_by_one.values.astype(float))


def test_the_bos_is_that_of_the_model_and_never_twice(gpt2, neox):
    for family in (gpt2, neox):
        own = dl.direction.difference(POSITIVE, NEGATIVE, HOOK, family.bridge)
        stated = bool(family.bridge.cfg.default_prepend_bos)
        ahead, behind = (vectors(family, side, bos=stated) for side in (POSITIVE, NEGATIVE))
        assert close(own, ahead.mean(0) - behind.mean(0))
    twice = [models.BOS + text for text in POSITIVE]
    assert dl.direction.difference(twice, NEGATIVE, HOOK, gpt2.bridge, prepend_bos=True) == dl.direction.difference(
        POSITIVE, NEGATIVE, HOOK, gpt2.bridge, prepend_bos=True
    )


def test_texts_ids_and_one_text_alone(gpt2):
    encode = gpt2.tokenizer.encode
    by_text = dl.direction.difference(POSITIVE, NEGATIVE[0], HOOK, gpt2.bridge)
    by_ids = dl.direction.difference([encode(t) for t in POSITIVE], encode(NEGATIVE[0]), HOOK, gpt2.bridge)
    assert np.array_equal(by_text.values, by_ids.values)
    assert by_text.origin == f"difference of the means of 5 and 1 texts, {HOOK}[-1] of tiny-gpt2"


def test_the_whitened_difference_is_the_solution_of_its_equation(gpt2):
    ahead, behind = vectors(gpt2, POSITIVE), vectors(gpt2, NEGATIVE)
    x = np.concatenate([ahead - ahead.mean(0), behind - behind.mean(0)])
    gap, d = ahead.mean(0) - behind.mean(0), x.shape[1]
    covariance = x.T @ x / len(x)
    target = np.trace(covariance) / d * np.eye(d)
    chosen = dl.direction.difference(POSITIVE, NEGATIVE, HOOK, gpt2.bridge, method="whitened", shrinkage=0.3)
    assert close(chosen, np.linalg.solve(0.7 * covariance + 0.3 * target, gap), 1e-4)
    # The estimate of Ledoit and Wolf, by its definition: one matrix for each text.
    off = np.linalg.norm(covariance - target) ** 2
    noise = sum(np.linalg.norm(np.outer(row, row) - covariance) ** 2 for row in x) / len(x) ** 2
    share = min(noise, off) / off
    estimated = dl.direction.difference(POSITIVE, NEGATIVE, HOOK, gpt2.bridge, method="whitened")
    assert close(estimated, np.linalg.solve((1 - share) * covariance + share * target, gap), 1e-4)
    assert f"(shrinkage {share:.3g})" in str(estimated.origin)
    # More texts than units take the other way through the algebra.
    narrow = dl.hook("blocks.0.attn.hook_z")[-1, 1, 0:3]
    few = dl.direction.difference(POSITIVE, NEGATIVE, narrow, gpt2.bridge, method="whitened", shrinkage=0.5)
    assert len(few) == 3


def test_the_probe_is_the_minimum_of_its_loss(gpt2):
    ahead, behind = vectors(gpt2, POSITIVE), vectors(gpt2, NEGATIVE)
    found = dl.direction.difference(POSITIVE, NEGATIVE, HOOK, gpt2.bridge, method="probe", penalty=2.0)
    x = torch.tensor(np.concatenate([ahead, behind]))
    y = torch.tensor([1.0] * len(ahead) + [0.0] * len(behind), dtype=torch.double)
    x = x - x.mean(0)
    x = x / x.pow(2).mean().sqrt()
    scale = float(torch.tensor(np.concatenate([ahead, behind])).sub(0).std(0, correction=0).pow(2).mean().sqrt())
    w = torch.tensor(found.values.astype(float) * scale, requires_grad=True)
    b = torch.zeros((), dtype=torch.double, requires_grad=True)
    for _ in range(50):  # the intercept alone, for the weights found
        p = torch.sigmoid(x @ w + b).detach()
        b = (b - (p - y).sum() / (p * (1 - p)).sum()).detach().requires_grad_()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(x @ w + b, y, reduction="sum") + w.pow(2).sum()
    (slope,) = torch.autograd.grad(loss, w)
    assert float(slope.abs().max()) < 1e-5
    assert ((x @ w + b > 0).double() == y).all()


def test_chats_are_written_by_the_chat_template(gpt2):
    bridge = models.new_bridge("gpt2", models.raw_model("gpt2"))
    bridge.tokenizer = chatty(CHATML)
    chats = [[{"role": "user", "content": text}] for text in ("the dog", "the cat", "the sun")]
    texts = [bridge.tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True) for c in chats]
    assert dl.direction.difference(chats[0], chats[1], HOOK, bridge) == dl.direction.difference(
        texts[0], texts[1], HOOK, bridge
    )
    mixed = dl.direction.difference([chats[0], "the dog"], chats[1:], HOOK, bridge)
    assert np.array_equal(mixed.values, dl.direction.difference([texts[0], "the dog"], texts[1:], HOOK, bridge).values)
    closed = dl.direction.difference(chats[0], chats[1], HOOK, bridge, add_generation_prompt=False)
    assert not np.array_equal(closed.values, dl.direction.difference(chats[0], chats[1], HOOK, bridge).values)
    with pytest.raises(FeatureError, match="no chat template to write the messages with; give the texts"):
        dl.direction.difference(chats[0], chats[1], HOOK, gpt2.bridge)


def test_heads_expressions_and_other_hook_points(gpt2):
    head = dl.direction.difference(POSITIVE, NEGATIVE, "blocks.1.attn.hook_z[-1, 2]", gpt2.bridge)
    assert len(head) == 8
    value = dl.score(dl.hook("blocks.1.attn.hook_z")[-1, 2] @ head, POSITIVE + NEGATIVE, gpt2.bridge).value
    assert value[:5].mean() - value[5:].mean() == pytest.approx(float(np.sum(head.values**2)), rel=1e-4)
    whole = dl.direction.difference(POSITIVE, NEGATIVE, dl.hook(HOOK)[-1].standardised(), gpt2.bridge)
    assert abs(float(whole.values.sum())) < 1e-3
    by_slice = dl.direction.difference(POSITIVE, NEGATIVE, HOOK, gpt2.bridge, position=slice(None))
    assert by_slice == dl.direction.difference(POSITIVE, NEGATIVE, HOOK, gpt2.bridge, position="mean")


def test_activations_may_be_of_another_model_and_of_the_difference_of_two(gpt2, neox):
    """What two models have learnt differently about two sets of texts: each model runs on the same rows."""
    there = dl.direction.difference(POSITIVE, NEGATIVE, dl.hook(HOOK)[-1].on(neox.bridge), gpt2.bridge)
    ahead, behind = (vectors(neox, side) for side in (POSITIVE, NEGATIVE))
    assert close(there, ahead.mean(0) - behind.mean(0))
    both = dl.hook(HOOK)[-1] - dl.hook(HOOK)[-1].on(neox.bridge)
    here = [vectors(gpt2, side) for side in (POSITIVE, NEGATIVE)]
    expected = (here[0].mean(0) - here[1].mean(0)) - (ahead.mean(0) - behind.mean(0))
    assert close(dl.direction.difference(POSITIVE, NEGATIVE, both, gpt2.bridge, batch_size=1), expected)


def test_the_texts_of_a_side_may_come_from_a_generator(gpt2):
    chats = [[{"role": "user", "content": text}] for text in ("The dog", "A cat")]
    bridge = models.new_bridge("gpt2", gpt2.raw)
    bridge.tokenizer = chatty(CHATML)
    expected = dl.direction.difference(chats, NEGATIVE, HOOK, bridge)
    assert dl.direction.difference(iter(chats), iter(NEGATIVE), HOOK, bridge) == expected


@pytest.mark.parametrize(
    ("sides", "keywords", "error", "message"),
    [
        (([], ["a"]), {}, FeatureRangeError, "The positive side has no texts"),
        ((["a"], []), {}, FeatureRangeError, "The negative side has no texts"),
        ((["a"], ["b", "c"]), {"method": "whitened"}, FeatureRangeError, "at least 2 texts on each side"),
        ((["a", "b"], "c"), {"method": "probe"}, FeatureRangeError, "there are 2 and 1"),
        ((["a", "b"], ["b", "a"]), {}, FeatureRangeError, "same mean activation"),
        ((["a", "b"], ["b", "a"]), {"method": "whitened"}, FeatureRangeError, "same mean activation"),
        ((["a", "b"], ["b", "a"]), {"method": "probe"}, FeatureRangeError, "nothing that distinguishes"),
        ((["a", "a"], ["b", "b"]), {"method": "whitened"}, FeatureRangeError, "no covariance to whiten with"),
        (("a", "b"), {"method": "median"}, SettingsError, "one of 'mean', 'whitened', 'probe'"),
        (("a", "b"), {"hook": "blocks.0.attn.hook_z"}, FeatureRangeError, "hook\\(name\\)\\[-1, head\\]"),
        (("a", "b"), {"hook": "blocks.0.attn.hook_pattern"}, FeatureRangeError, "a direction is one vector"),
        (("a", "b"), {"hook": "L0.N3"}, FeatureRangeError, "leaves a single number for each text"),
        (("a", "b"), {"hook": f"{HOOK}[-1]", "position": 0}, FeatureError, "position=0 cannot be given too"),
        (("a", "b"), {"position": 5}, FeatureRangeError, "there is no position 5"),
        (("", "b"), {}, PromptError, "The positive side: The text '' has no tokens"),
        (("a" * 200, "b"), {}, PromptError, "context is 64; shorten it"),
        ((["a", "b"], ["c", "d"]), {"method": "probe", "penalty": 0}, SettingsError, "penalty is 0"),
        ((["a", "b"], ["c", "d"]), {"method": "whitened", "shrinkage": 2}, SettingsError, "shrinkage is 2"),
        (("a", "b"), {"shrinkage": 0.5}, SettingsError, 'shrinkage= belongs to method="whitened"'),
        (("a", "b"), {"penalty": 2}, SettingsError, 'penalty= belongs to method="probe"'),
        (({"role": "user", "content": "a"}, "b"), {}, FeatureError, "a chat is a list of messages"),
        (([{"content": "a"}], "b"), {}, FeatureError, "has a role"),
    ],
)
def test_what_is_refused_and_why(gpt2, sides, keywords, error, message):
    keywords = {"hook": HOOK, "model": gpt2.bridge} | keywords
    with pytest.raises(error, match=message):
        dl.direction.difference(*sides, **keywords)


@pytest.mark.parametrize("kind", [models.family, models.compatible])
@pytest.mark.parametrize("name", models.FAMILIES)
def test_directions_from_weights_are_those_of_the_model(kind, name):
    bridge = kind(name).bridge
    token = 300
    given = {"model": bridge}
    embedded = bridge.embed(torch.tensor([[token]]))[0, 0].detach()
    assert np.array_equal(dl.direction.embedding(token, **given).values, embedded)
    pairs = [(dl.direction.unembedding(token, **given), bridge.W_U[:, token])]
    weights = {"input": bridge.blocks[1].mlp.W_in, "output": bridge.blocks[1].mlp.W_out.T}
    if name in ("llama", "gemma2"):
        weights["gate"] = bridge.blocks[1].mlp.W_gate
    pairs += [(dl.direction.neuron(1, 7, w, **given), matrix[:, 7]) for w, matrix in weights.items()]
    for direction, expected in pairs:
        np.testing.assert_allclose(direction.values, expected.detach().numpy(), rtol=1e-5, atol=1e-6)
    if "gate" not in weights:
        with pytest.raises(FeatureError, match=r"has no weights blocks\.1\.mlp\.gate"):
            dl.direction.neuron(1, 7, "gate", **given)


def test_neurons_and_tokens_that_do_not_exist(gpt2):
    for make, error in (
        (lambda: dl.direction.neuron(1, 40, model=gpt2.bridge), FeatureRangeError),
        (lambda: dl.direction.neuron(9, 4, model=gpt2.bridge), FeatureError),
        (lambda: dl.direction.neuron(1, 4, "up", model=gpt2.bridge), SettingsError),
        (lambda: dl.direction.embedding("two words", gpt2.bridge), TokenError),
        (lambda: dl.direction.unembedding(9999, gpt2.bridge), TokenError),
        (lambda: dl.direction.embedding("a", gpt2.bridge, nam="x"), SettingsError),
    ):
        with pytest.raises(error):
            make()


def test_rows_of_an_autoencoder(tmp_path):
    W = {"W_enc": torch.randn(4, 6), "W_dec": torch.randn(6, 4), "b_enc": torch.zeros(6), "b_dec": torch.zeros(4)}
    save_file(W, tmp_path / "sae_weights.safetensors")
    config = {"architecture": "standard", "d_in": 4, "d_sae": 6, "hook_name": HOOK, "dtype": "float32"}
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    decoder, encoder = (dl.direction.sae_latent(tmp_path, 5, side) for side in ("decoder", "encoder"))
    assert np.array_equal(decoder.values, W["W_dec"][5]) and np.array_equal(encoder.values, W["W_enc"][:, 5])
    assert str(decoder.origin).startswith("decoder of sae_latent(")
    named = dl.direction.sae_latent(tmp_path.parent, 5, sae_id=tmp_path.name)
    assert np.array_equal(named.values, decoder.values)
    with pytest.raises(FeatureRangeError, match="latent 6 is out of range"):
        dl.direction.sae_latent(tmp_path, 6)


def test_a_direction_of_another_width_is_refused_with_what_it_was_made_from(gpt2):
    head = dl.direction.difference("the dog", "the cat", "blocks.1.attn.hook_z[-1, 2]", gpt2.bridge, name="dog")
    with pytest.raises(FeatureRangeError, match=r"dog#.*difference of the means.*8 entries.*32 units"):
        dl.features.bind(dl.hook(HOOK)[-1] @ head, gpt2.bridge)


def test_a_named_direction_goes_through_texts_runs_and_scans(gpt2, tmp_path):
    v = dl.direction.difference(POSITIVE, NEGATIVE, HOOK, gpt2.bridge, name="dog-like")
    feature = dl.hook(HOOK)[-1] @ v
    assert feature.label == f"{HOOK}[-1] @ dog-like"
    assert v.fingerprint in repr(feature) and "of 5 and 3 texts" in repr(feature)
    assert dl.parse(str(feature)) == feature
    path = v.save(tmp_path / "v.safetensors")
    assert dl.direction.load(path) == v == dl.direction(v.text)
    by_path = dl.parse(f'{HOOK}[-1].cosine("{path}")')
    cosine = dl.hook(HOOK)[-1].cosine(v)
    both = [dl.score(f, POSITIVE, gpt2.bridge).value for f in (by_path, cosine)]
    assert np.array_equal(*both) and cosine.label.endswith(".cosine(dog-like)")

    run = dl.dream(feature, gpt2.bridge, iterations=1, population=2, children=4, length=4, progress=False)
    run.save(tmp_path / "run")
    again = dl.load_run(tmp_path / "run", model=gpt2.bridge)
    assert dl.parse(again.provenance.feature) == feature
    examples = dl.max_activating([feature, cosine], gpt2.bridge, POSITIVE + NEGATIVE, k=2, length=3, progress=False)
    assert "@ dog-like" in examples.to_html()
    for page in (examples[0].to_html(), again.to_html()):
        assert "@ dog-like" in page and f"({v.origin})" in page  # the origin stands in the tooltip


def test_vectors_of_other_tools_are_read_without_running_code(tmp_path):
    rows = torch.arange(12.0).reshape(3, 4) + 1
    torch.save(rows[1], tmp_path / "one.pt")
    torch.save(rows, tmp_path / "layers.pt")
    torch.save({13: rows[2], "b": rows[0].bfloat16()}, tmp_path / "named.pt")
    torch.save({"code": Path}, tmp_path / "code.pt")
    np.save(tmp_path / "layers.npy", rows.numpy()[None])
    save_file({"only": rows}, tmp_path / "layers.safetensors")
    for name, row, expected in (
        ("one.pt", (), rows[1]),
        ("named.pt:b", (), rows[0]),
        ("layers.pt", 2, rows[2]),
        ("layers.pt", -1, rows[2]),
        ("named.pt:13", (), rows[2]),
        ("layers.npy", (0, 1), rows[1]),
        ("layers.safetensors", 0, rows[0]),
    ):
        loaded = dl.direction.load(tmp_path / name, row)
        np.testing.assert_array_equal(loaded.values, expected)
        assert str(loaded.origin).startswith(f"from {name}")
    for name, row, sentence in (
        ("layers.pt", (), r"shape \[3, 4\]; .* is read with dl.direction.load\(path, row\)"),
        ("layers.npy", 0, r"row 0 has shape \[3, 4\]"),
        ("layers.pt", 3, r"there is no row \[3\] in it"),
        ("layers.pt", (0, 0, 0), r"there is no row \[0, 0, 0\]"),
        ("layers.pt", "0", "row is an index"),
        ("named.pt", (), r"several tensors \(it has: 13, b\); write named.pt:NAME"),
        ("code.pt", (), "code in a file is never run"),
    ):
        with pytest.raises(FeatureError, match=sentence):
            dl.direction.load(tmp_path / name, row)
    with pytest.raises(FeatureError, match=r"dl.direction.load\(path\) reads files of torch"):
        dl.features.bind(dl.hook(HOOK)[-1] @ (tmp_path / "one.pt"))


def test_the_example_of_the_documentation_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    document = Path(__file__).parents[2] / "docs" / "features.md"
    (code,) = (part for part in document.read_text().split("```python\n")[1:] if "direction.difference(" in part)
    names: dict = {}
    exec(code.partition("```")[0].replace("iterations=5", "search=dl.GCG(iterations=1, children=4)"), names)
    assert names["v"].origin in code and (tmp_path / "imports.safetensors").exists()
    assert names["run"].frontier.best().value > 0
