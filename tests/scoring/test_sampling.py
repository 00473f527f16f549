"""Samples of a language model, its bigrams, and the tables of swaps: against the plain model, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dreamy_lens.scoring.bigrams import LEAST, bigram_tables
from dreamy_lens.scoring.sampling import draw_samples
from dreamy_lens.scoring.swap_tables import FOLLOWING, swap_tables
from tests.helpers import models
from tests.helpers.scorers import make_scorer


def log_probs(raw, rows):
    """log p of every token after every token of rows, from the plain Hugging Face model."""
    with torch.no_grad():
        return torch.log_softmax(raw(torch.as_tensor(np.asarray(rows, dtype=np.int64))).logits.float(), -1).numpy()


def draw(name, count=40, length=5, fixed=None, prepend_bos=None, prefix=(), seed=0):
    family = models.family(name)
    scorer = make_scorer("L1.N3", family.bridge, prepend_bos=prepend_bos, prefix=prefix)
    allowed = scorer.vocabulary.allowed
    return scorer, draw_samples(scorer.fluency, scorer.frame, count, length, allowed, fixed or {}, seed, count)


@pytest.mark.parametrize("name", ["gpt2", "neox", "llama"])
@pytest.mark.parametrize("prefix", [(), (20, 21, 22)])
def test_surprisals_are_those_of_the_plain_model(name, prefix):
    scorer, samples = draw(name, prefix=prefix, prepend_bos=True)
    ids = samples.ids.numpy()
    bos = scorer.model.bos(scorer.prepend_bos)
    rows = np.concatenate([np.tile([*bos, *prefix], (len(ids), 1)), ids], axis=1)
    width = samples.surprisal.shape[-1]
    expected = -log_probs(models.family(name).raw, rows)[:, len(bos) + len(prefix) - 1 : -1, :width]
    np.testing.assert_allclose(samples.surprisal.numpy(), expected, atol=2e-4)
    assert scorer.vocabulary.allowed[ids].all()


def test_tokens_are_as_frequent_as_the_model_predicts():
    scorer, samples = draw("gpt2", count=4000, length=1)
    allowed = scorer.vocabulary.allowed
    likely = np.exp(log_probs(models.family("gpt2").raw, [scorer.model.bos(True)])[0, -1, : len(allowed)]) * allowed
    likely /= likely.sum()
    counts = np.bincount(samples.ids[:, 0].numpy(), minlength=len(allowed))
    spread = np.sqrt(4000 * likely * (1 - likely)) + 1
    assert (np.abs(counts - 4000 * likely) < 5 * spread).all()
    assert not counts[~allowed].any()


def test_fixed_tokens_stand_where_they_are_fixed_and_a_seed_decides_everything():
    _, samples = draw("gpt2", fixed={1: 33, 4: 34})
    assert (samples.ids[:, 1] == 33).all() and (samples.ids[:, 4] == 34).all()
    assert torch.equal(samples.ids, draw("gpt2", fixed={1: 33, 4: 34})[1].ids)
    assert not torch.equal(samples.ids, draw("gpt2", fixed={1: 33, 4: 34}, seed=1)[1].ids)


def test_without_anything_before_it_the_first_token_is_uniform():
    scorer, samples = draw("gpt2", count=3000, length=2, prepend_bos=False)
    counts = np.bincount(samples.ids[:, 0].numpy(), minlength=len(scorer.vocabulary.allowed))
    assert (samples.surprisal[:, 0] == 0).all() and counts[scorer.vocabulary.allowed].max() < 40


def test_bigrams_are_predictions_after_single_tokens():
    model = models.family("neox")
    scorer = make_scorer("L1.N3", model.bridge)
    width = scorer.vocabulary.size
    tables, _ = bigram_tables(scorer.fluency, True, width)
    assert tables is not None and torch.equal(tables.before, tables.after.T) and tables.before.is_contiguous()
    rows = [[*scorer.model.bos(True), token] for token in (7, 30, 200)]
    expected = log_probs(model.raw, rows)[:, -1, :width]
    np.testing.assert_allclose(tables.after[[7, 30, 200]].numpy(), np.maximum(expected, LEAST), atol=2e-4)
    wider, computed = bigram_tables(scorer.fluency, True, width + 3)
    assert wider is not None and torch.equal(wider.after[:width, :width], tables.after) and computed == 2 * width
    assert (wider.after[width:] == LEAST).all() and (wider.after[:, width:] == LEAST).all()


def test_a_vocabulary_that_is_too_large_has_no_bigrams(monkeypatch):
    monkeypatch.setattr("dreamy_lens.scoring.bigrams.LARGEST", 300)
    scorer = make_scorer("L1.N3", models.family("gpt2").bridge)
    assert bigram_tables(scorer.fluency, True, 330) == (None, 0)


def test_bigrams_are_computed_once_and_again_after_an_edit_of_the_weights():
    bridge = models.new_bridge("llama", models.raw_model("llama"))
    scorer = make_scorer("L1.N3", bridge)
    width = scorer.vocabulary.size
    first, computed = bigram_tables(scorer.fluency, True, width)
    again, nothing = bigram_tables(scorer.fluency, True, width)
    assert again is first and computed == 2 * width and nothing == 0
    with torch.no_grad():
        for parameter in bridge.parameters():
            parameter *= 1.5
    changed, computed = bigram_tables(scorer.fluency, True, width)
    assert computed == 2 * width and not torch.allclose(changed.after, first.after)
    bridge.blocks[0].hook_resid_post.add_hook(lambda value, hook: value * 0)
    hooked, _ = bigram_tables(scorer.fluency, True, width)
    assert not torch.allclose(hooked.after, changed.after)


@pytest.mark.parametrize("other", [False, True])
def test_tables_hold_the_gradient_the_exact_surprisal_and_the_bigrams(other):
    bridge = models.family("gpt2").bridge
    scorer = make_scorer("L1.N3", bridge, fluency_model=models.family("neox").bridge if other else None)
    raw = models.family("neox" if other else "gpt2").raw
    rng = np.random.default_rng(0)
    ids = rng.choice(np.flatnonzero(scorer.allowed), size=(3, 6))
    gradient = scorer.gradient(ids)
    terms = scorer.layout(6).terms
    table, _ = bigram_tables(scorer.fluency, True, len(scorer.allowed))
    assert table is not None
    allowed = torch.as_tensor(scorer.allowed)
    found = swap_tables(gradient, torch.as_tensor(ids), allowed, terms, table)
    at = np.arange(6)
    for row in range(3):
        value = gradient.of_value()[row].numpy()
        np.testing.assert_allclose(found.value[row], value - value[at, ids[row]][:, None], atol=1e-5)
    rows = np.concatenate([np.tile(scorer.fluency.bos(True), (3, 1)), ids], axis=1)
    surprisal = -log_probs(raw, rows)[:, :-1]
    width = found.surprisal.shape[-1]
    np.testing.assert_allclose(found.surprisal, surprisal[..., :width], atol=2e-4)
    np.testing.assert_allclose(found.own.sum(1) / terms, scorer.score(ids).cross_entropy, atol=2e-4)
    # At the last position nothing follows: there, the change is that of the token itself and of the context's gradient.
    plain = swap_tables(gradient, torch.as_tensor(ids), allowed, terms, None)
    assert torch.isinf(found.cross_entropy[0][:, ~allowed[:width]]).all()
    finite = torch.isfinite(found.cross_entropy)
    assert torch.equal(finite, torch.isfinite(plain.cross_entropy))
    two, last = found.cross_entropy[1], plain.cross_entropy[1]
    token = int(np.flatnonzero(scorer.allowed)[5])
    if ids[1, 2] != token:
        old, after = ids[1, 2], ids[1, 3]
        bigram = -FOLLOWING * float(table.before[after, token] - table.before[after, old]) / terms
        own = (surprisal[1, 2, token] - surprisal[1, 2, old]) / terms
        context = float(last[2, token]) - own
        assert float(two[2, token]) == pytest.approx(own + bigram + 0.25 * context, abs=1e-4)


@pytest.mark.parametrize(("prefix", "prepend_bos"), [((), True), ((20, 21), True), ((), False)])
def test_the_tokens_that_went_through_the_model_are_counted(prefix, prepend_bos):
    _, samples = draw("gpt2", count=10, length=4, prefix=prefix, prepend_bos=prepend_bos)
    before = len(prefix) + prepend_bos
    # Cached, each row is read once, except its last token; a few rows are read again as a check.
    cached = 10 * (before + 3) + 4 * (before + 4)
    assert samples.computed == (cached if before else 10 * (1 + 2 + 3))
