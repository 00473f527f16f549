"""Continuations: what a model writes after a prompt, compared with Hugging Face's own `generate`."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch

import dreamy_lens as dl
from dreamy_lens.errors import PromptError, SettingsError
from dreamy_lens.html.escaping import escape

PROMPT = "The dog runs"


def written_by_hugging_face(family, row, n_tokens):
    """The most probable tokens by the plain model, which knows nothing of bridges; padding rows are never written."""
    row = list(row)
    start = len(row)
    known = torch.tensor([i in set(family.tokenizer.get_vocab().values()) for i in range(family.raw.config.vocab_size)])
    log_probs = []
    for _ in range(n_tokens):
        with torch.no_grad():
            logits = family.raw(torch.tensor([row])).logits[0, -1]
        scores = logits.masked_fill(~known, -math.inf).log_softmax(-1)
        row.append(int(scores.argmax()))
        log_probs.append(float(scores.max()))
    return row[start:], log_probs


def test_the_most_probable_tokens_are_those_of_the_plain_model(any_family):
    family = any_family
    ids = family.tokenizer.encode(PROMPT, add_special_tokens=False)
    ids = [i for i in ids if i != family.bos]
    found = dl.generate(ids, family.bridge, 6, prepend_bos=True)
    expected, log_probs = written_by_hugging_face(family, [family.bos, *ids], 6)
    if found.ended == "end":  # the plain model above writes on
        expected, log_probs = expected[: len(found)], log_probs[: len(found)]
    assert found.ids == tuple(expected)
    np.testing.assert_allclose(found.log_probs, log_probs, atol=1e-4)
    assert found.prompt_ids == tuple(ids) and len(found.tokens) == len(found) == len(found.ids)


def test_the_row_is_the_one_that_is_scored(gpt2):
    ids = [5, 9, 7]
    around = {"prefix": [11, 12], "suffix": [13]}
    for bos in (True, False):
        found = dl.generate(ids, gpt2.bridge, 3, prepend_bos=bos, **around)
        row = [*([gpt2.bos] if bos else []), 11, 12, 5, 9, 7, 13]
        assert found.ids == tuple(written_by_hugging_face(gpt2, row, 3)[0])
    # A BOS that the prompt or the template begins with is taken once, as in scores.
    assert dl.generate([gpt2.bos, *ids], gpt2.bridge, 3).ids == dl.generate(ids, gpt2.bridge, 3).ids
    with_bos = {**around, "prefix": [gpt2.bos, 11, 12]}
    assert dl.generate(ids, gpt2.bridge, 3, **with_bos).ids == dl.generate(ids, gpt2.bridge, 3, **around).ids


def test_hooks_of_the_user_act(gpt2):
    def damp(activation, hook):
        return activation * 0.0

    plain = dl.generate(PROMPT, gpt2.bridge, 3)
    gpt2.bridge.add_hook("blocks.1.hook_resid_post", damp)
    try:
        hooked = dl.generate(PROMPT, gpt2.bridge, 3)
    finally:
        gpt2.bridge.reset_hooks()
    assert not np.allclose(plain.log_probs, hooked.log_probs)
    assert dl.generate(PROMPT, gpt2.bridge, 3).ids == plain.ids


def test_samples_follow_the_settings_and_the_seed():
    def sample(**settings):
        return dl.generate("Return a copy of the", n_tokens=6, **settings)

    greedy = sample()
    assert greedy.seed is None and greedy.how == "most probable tokens"
    assert sample(temperature=1.0, seed=1).ids == sample(temperature=1.0, seed=1).ids
    assert len({sample(temperature=1.0, seed=seed).ids for seed in range(4)}) > 1
    # One token is left to sample from; or the temperature is so low that one token has all the probability.
    for only in ({"top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-4}):
        assert sample(**{"temperature": 1.0, "seed": 5, **only}).ids == greedy.ids
    assert sample(temperature=0.7, seed=3).how == "sampled at temperature 0.7, seed 3"


def test_samples_have_the_probabilities_of_the_model():
    """First tokens of many samples at temperature 2 among the 3 most probable ones, against the model's own numbers."""
    from dreamy_lens.analysis.continuation import _choose

    scores = np.log(np.array([0.5, 0.02, 0.3, 0.18]))
    generator = np.random.default_rng(0)
    counts = np.bincount([_choose(scores, 2.0, 3, None, generator) for _ in range(4000)], minlength=4)
    expected = np.sqrt([0.5, 0.0, 0.3, 0.18])
    np.testing.assert_allclose(counts / counts.sum(), expected / expected.sum(), atol=0.03)
    # The smallest set whose probabilities reach 0.6 is the two most probable tokens.
    counts = np.bincount([_choose(scores, 1.0, None, 0.6, generator) for _ in range(500)], minlength=4)
    assert counts[1] == counts[3] == 0 and counts[0] > counts[2] > 100


def test_it_ends_where_the_model_ends_its_text(gpt2, monkeypatch):
    written = dl.generate(PROMPT, gpt2.bridge, 4)
    # A chat's end of turn is not the tokenizer's own end, and stands in the configuration of the generation.
    monkeypatch.setattr(gpt2.raw.config, "eos_token_id", [gpt2.bos, written.ids[0]], raising=False)
    monkeypatch.setattr(gpt2.bridge.original_model.config, "eos_token_id", [written.ids[0]], raising=False)
    ended = dl.generate(PROMPT, gpt2.bridge, 4)
    assert (ended.ended, len(ended), ended.text) == ("end", 0, "")
    assert repr(ended) == f"Continuation({PROMPT!r} -> '', most probable tokens)"


def test_it_ends_where_the_context_is_full(gpt2):
    n_ctx = gpt2.raw.config.n_positions
    found = dl.generate([5] * (n_ctx - 3), gpt2.bridge, 10, prepend_bos=True)
    assert found.ended in ("context", "end") and len(found) <= 2
    with pytest.raises(PromptError, match=f"reads at most {n_ctx}, so there is no room"):
        dl.generate([5] * n_ctx, gpt2.bridge, 1, prepend_bos=False)


def test_prompts_of_runs_continue_with_the_runs_model():
    template = dl.constraints.template("Raise{dream}if")
    run = dl.dream("L2.N17", iterations=2, population=2, children=4, length=4, constraints=template, progress=False)
    best = run.frontier.best()
    found = best.generate(5)
    around = {name: getattr(best.provenance, name) for name in ("prefix", "suffix", "prepend_bos")}
    assert around["prefix"] and around["suffix"]
    expected = dl.generate(np.array(best.ids), None, 5, **around)
    assert found.ids == expected.ids == best.continue_(5).ids == run.generate(best, 5).ids
    # A pickled prompt has left the run behind, and knows its model and what stands around it.
    assert pickle.loads(pickle.dumps(best)).generate(5).ids == found.ids


def test_a_card_shows_what_the_model_writes():
    texts = ["Return a copy of the array, with axes transposed.", "Raise an error if the file is not found."]
    settings = {"iterations": 2, "population": 2, "children": 4, "length": 6, "scan": {"cache": False}}
    card = dl.card("L2.N17", corpus=texts, strips=2, k=4, continue_tokens=5, parts=(), **settings)
    assert set(card.continuations) == set(card.attributions) and card.not_continued == ""
    page = card.to_html(static=True)
    for i, continuation in card.continuations.items():
        assert continuation.ids == card.comparison.frontier[i].generate(5).ids
        assert "".join(f'">{escape(token)}</span>' for token in continuation.tokens[:1]) in page
    assert page.count("dl-continuation") >= 2
    with pytest.raises(SettingsError, match="continue_tokens is -1"):
        dl.card("L2.N17", corpus=texts, continue_tokens=-1, **settings)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"n_tokens": 0}, "n_tokens is 0; it is the number of tokens to write, at least 1."),
        ({"n_tokens": True}, "n_tokens is True"),
        ({"temperature": -1}, "temperature is -1"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"temperature": 1, "top_k": 0}, "top_k is 0"),
        ({"temperature": 1, "top_p": 1.5}, "top_p is 1.5"),
        ({"temperature": 1, "seed": -1}, "seed is -1"),
        ({"top_k": 3}, "temperature 0 samples nothing"),
    ],
)
def test_settings_are_checked(settings, sentence):
    with pytest.raises(SettingsError) as error:
        dl.generate("Return", **settings)
    assert sentence in str(error.value)


@pytest.mark.parametrize("temperature", [5e-324, 1e-310, 1e-300, 1e-9])
def test_the_smallest_temperatures_take_the_most_probable_token(temperature):
    greedy = dl.generate("Return a copy of the", n_tokens=3)
    assert dl.generate("Return a copy of the", n_tokens=3, temperature=temperature, top_p=0.9).ids == greedy.ids


def test_one_prompt_at_a_time():
    with pytest.raises(PromptError, match="One prompt is continued at a time; got 2"):
        dl.generate(["Return", "Raise"])


def test_a_result_is_shown_and_exported():
    found = dl.generate("Return a copy of the", n_tokens=3)
    assert str(found) == found.text and found.text.startswith(" ")
    assert list(found.to_pandas().columns) == ["token", "id", "log_prob"] and len(found.to_pandas()) == 3
    assert found.to_dict()["ids"] == list(found.ids) and found.to_dict()["ended"] == "length"
    shown = found._repr_html_()
    assert "Return a copy of the" in shown and "most probable tokens; the requested number of tokens" in shown
