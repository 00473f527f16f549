"""Attribution against a loop that changes one token at a time and scores every prompt by itself (Figure 1)."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import dreamy_lens as dl
from dreamy_lens.analysis import attribute, attributions
from dreamy_lens.errors import NoGradientError, PromptError, SettingsError
from dreamy_lens.models import as_hooked
from tests.helpers.scorers import make_scorer

FEATURE = "blocks.1.mlp.hook_post[-1, 3]"
PROMPT = np.array([70, 81, 92, 103, 114])
K = 6


@pytest.mark.parametrize("bos", [True, False])
def test_values_are_those_of_the_changed_prompts(family, bos):
    found = dl.attribution(FEATURE, PROMPT, family.bridge, K, prepend_bos=bos)
    assert found.values.shape == found.cross_entropies.shape == found.candidates.shape == (5, K)
    assert found.value == pytest.approx(dl.score(FEATURE, PROMPT, family.bridge, prepend_bos=bos).value[0], abs=1e-5)
    for position, j in itertools.product(range(5), range(K)):
        changed = PROMPT.copy()
        changed[position] = found.candidates[position, j]
        alone = dl.score(FEATURE, changed, family.bridge, prepend_bos=bos)
        assert found.values[position, j] == pytest.approx(alone.value[0], abs=1e-5)
        assert found.cross_entropies[position, j] == pytest.approx(alone.cross_entropy[0], abs=1e-4)


@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_candidates_are_those_that_the_gradient_ranks_highest(family, weight):
    found = dl.attribution(FEATURE, PROMPT, family.bridge, K, weight=weight)
    scorer = make_scorer(FEATURE, family.bridge)
    gradient = scorer.gradient(PROMPT[None])
    slope = (gradient.of_value() - weight * gradient.of_cross_entropy())[0].numpy()
    slope[:, ~scorer.allowed] = -np.inf
    slope[np.arange(5), PROMPT] = -np.inf
    best = np.sort(slope, axis=1)[:, ::-1][:, :K]
    np.testing.assert_allclose(np.take_along_axis(slope, found.candidates, axis=1), best, rtol=1e-4, atol=1e-5)
    assert all(len(set(row)) == K for row in found.candidates.tolist())


def test_the_weight_of_cross_entropy_changes_the_candidates(gpt2):
    plain, fluent = (dl.attribution(FEATURE, PROMPT, gpt2.bridge, K, weight=w).candidates for w in (0.0, 20.0))
    assert not np.array_equal(plain, fluent)


def test_drops_are_differences_of_values(gpt2):
    found = dl.attribution(FEATURE, PROMPT, gpt2.bridge, K)
    np.testing.assert_allclose(found.drop_to_worst, found.value - found.values.min(1), atol=1e-6)
    np.testing.assert_allclose(found.drop_to_best, found.value - found.values.max(1), atol=1e-6)
    assert (found.drop_to_best < 0).any()  # on a prompt that was not optimised, some substitute is better
    assert found.top(0, 1)[0].value == found.values[0].max() and found.worst(0, 1)[0].value == found.values[0].min()


@pytest.mark.parametrize("kind", [np.array, torch.tensor, list, tuple])
def test_the_input_is_not_changed(gpt2, kind):
    prompt = kind(PROMPT.tolist())
    dl.attribution(FEATURE, prompt, gpt2.bridge, K)
    assert [int(i) for i in prompt] == PROMPT.tolist()


def test_the_result_shares_no_memory_with_the_input(gpt2):
    prompt = PROMPT.copy()
    found = dl.attribution(FEATURE, prompt, gpt2.bridge, K)
    prompt[:] = 1
    assert found.ids.tolist() == PROMPT.tolist()


def test_more_substitutes_than_tokens_are_all_tokens(gpt2):
    found = dl.attribution(FEATURE, PROMPT, gpt2.bridge, 10_000)
    allowed = np.flatnonzero(make_scorer(FEATURE, gpt2.bridge).allowed)
    assert found.candidates.shape == (5, len(allowed) - 1)
    for token, row in zip(PROMPT, found.candidates, strict=True):
        assert sorted(row) == [i for i in allowed if i != token]


def test_special_tokens_are_no_substitutes_even_of_a_special_token(gpt2):
    prompt = np.array([0, 81, 92])
    found = dl.attribution(FEATURE, prompt, gpt2.bridge, 10_000)
    assert not np.isin(found.candidates, [0, *range(330, 335)]).any()


def test_a_template_stays_and_is_read(gpt2):
    prefix, suffix = [30, 31], [40]
    found = dl.attribution(FEATURE, PROMPT, gpt2.bridge, 3, prefix=prefix, suffix=suffix)
    assert found.candidates.shape == (5, 3)
    whole = np.array([*prefix, *PROMPT, *suffix])
    assert found.value == pytest.approx(dl.score(FEATURE, whole, gpt2.bridge).value[0], abs=1e-5)
    whole[2 + 4] = found.candidates[4, 1]
    assert found.values[4, 1] == pytest.approx(dl.score(FEATURE, whole, gpt2.bridge).value[0], abs=1e-5)


def test_fluency_is_of_the_model_that_was_asked(gpt2, llama):
    found = dl.attribution(FEATURE, PROMPT, gpt2.bridge, 3, fluency_model=llama.bridge)
    assert found.cross_entropy == pytest.approx(dl.score(FEATURE, PROMPT, llama.bridge).cross_entropy[0], abs=1e-5)
    assert found.value == pytest.approx(dl.score(FEATURE, PROMPT, gpt2.bridge).value[0], abs=1e-5)


def test_a_text_and_its_tokens_are_attributed_alike(gpt2):
    text = " the dog over"
    ids = gpt2.tokenizer.encode(text, add_special_tokens=False)
    by_text, by_ids = (dl.attribution(FEATURE, p, gpt2.bridge, 4) for p in (text, ids))
    np.testing.assert_array_equal(by_text.candidates, by_ids.candidates)
    assert "".join(by_text.tokens) == text and by_text.feature == FEATURE
    decoded = [[gpt2.tokenizer.decode([i]) for i in row] for row in by_text.candidates]
    assert [list(row) for row in by_text.candidate_tokens] == decoded


def test_more_and_more_substitutes_are_found_as_all_at_once(gpt2, monkeypatch):
    scorer = make_scorer("L1.N3", gpt2.bridge)
    ids, scored, score = np.array([5, 9, 13]), [], scorer.score
    monkeypatch.setattr(scorer, "score", lambda rows: scored.append(len(rows)) or score(rows))
    several = list(attributions(scorer, ids, [2, 5, 10_000, 20_000]))
    every = several[-1].candidates.shape[1]
    assert [one.candidates.shape[1] for one in several] == [2, 5, every, every] and every > 5
    assert sum(scored) == 3 * every + 4  # only the prompt itself is scored more than once
    for k, one in zip((2, 5, every, every), several, strict=True):
        alone = attribute(scorer, ids, k)
        np.testing.assert_array_equal(one.candidates, alone.candidates)
        assert one.candidate_tokens == alone.candidate_tokens
        np.testing.assert_allclose(one.values, alone.values, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(one.cross_entropies, alone.cross_entropies, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(one.values, several[-1].values[:, :k])
        assert one.value == several[0].value == pytest.approx(alone.value, rel=1e-4)


def test_only_what_is_allowed_is_tried(gpt2):
    scorer = make_scorer(FEATURE, gpt2.bridge)
    allowed = np.zeros(scorer.vocabulary.size, dtype=bool)
    allowed[[50, 51, 52]] = True
    assert set(np.unique(attribute(scorer, PROMPT, 32, allowed=allowed).candidates)) <= {50, 51, 52}


def test_small_batches_change_nothing(gpt2):
    whole, parts = (dl.attribution(FEATURE, PROMPT, gpt2.bridge, K, batch_size=size) for size in (None, 4))
    np.testing.assert_allclose(whole.values, parts.values, atol=1e-5)


@pytest.mark.parametrize("k", [0, -1, 2.5, True, None])
def test_k_is_a_positive_number(gpt2, k):
    with pytest.raises(SettingsError, match="it is how many substitutes to try at each position, at least 1"):
        dl.attribution(FEATURE, PROMPT, gpt2.bridge, k)


def test_attribution_is_of_one_prompt(gpt2):
    with pytest.raises(PromptError, match=r"Attribution takes one prompt; got 2. Call it once for each prompt"):
        dl.attribution(FEATURE, ["a dog", "a cat"], gpt2.bridge)


def test_without_a_gradient_on_device_is_nothing_to_rank_by(gpt2):
    point = "blocks.0.mlp.hook_post"
    detached = dl.custom("detached", [point], lambda a: a[point][:, -1, 0].detach())
    with pytest.raises(NoGradientError):
        dl.attribution(detached, PROMPT, gpt2.bridge)


def test_a_model_is_left_as_it_was(gpt2):
    dl.attribution(FEATURE, PROMPT, gpt2.bridge, 3)
    assert not any(p.fwd_hooks for p in as_hooked(gpt2.bridge).source.hook_dict.values())
    assert all(p.requires_grad and p.grad is None for p in gpt2.bridge.parameters())


def test_on_the_embedded_model_the_strings_that_matter_stand_out():
    """The name that a sentence repeats matters more to its prediction than the words around it."""
    found = dl.attribution('log_prob(" the")', "Return a copy of", k=16)
    assert found.drop_to_worst.argmax() == len(found) - 1  # "of" decides the token after "of"
