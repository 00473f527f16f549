"""Scoring: two numbers for every prompt, whatever the lengths, the batches, the model's depth and its precision."""

from __future__ import annotations

import copy
import warnings
import weakref

import numpy as np
import pytest
import torch

import dreamy_lens as dl
from dreamy_lens.errors import FeatureError, OutOfMemoryError, PromptError, SettingsError
from dreamy_lens.models import HookedModel, as_hooked
from dreamy_lens.scoring import BatchRunner, batching, is_out_of_memory
from tests.helpers import models
from tests.helpers.models import BOS
from tests.helpers.scorers import make_scorer

FEATURE = "blocks.0.mlp.hook_post[-1, 3]"
IDS = np.random.default_rng(0).integers(1, 320, size=(6, 7))


def same(found, expected, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(found, expected, atol=tolerance, rtol=tolerance)


class Watch:
    """Record of the hook points that fired on a model, and how often."""

    def __init__(self, bridge, *names: str) -> None:
        self.points = {name: bridge.hook_dict[name] for name in names}
        self.passed = dict.fromkeys(names, 0)

    def __enter__(self) -> dict[str, int]:
        for name, point in self.points.items():
            point.add_hook(lambda activation, hook, name=name: self.passed.update({name: self.passed[name] + 1}))
        return self.passed

    def __exit__(self, *error) -> None:
        for point in self.points.values():
            point.remove_hooks()


# Models that are run.


@pytest.mark.parametrize("bos", [True, False])
def test_the_fluency_model_gives_the_cross_entropy_and_the_other_one_the_value(gpt2, llama, bos):
    mixed = make_scorer(FEATURE, gpt2.bridge, fluency_model=llama.bridge, prepend_bos=bos).score(IDS)
    same(mixed.value, make_scorer(FEATURE, gpt2.bridge, prepend_bos=bos).score(IDS).value)
    same(mixed.cross_entropy, make_scorer(FEATURE, llama.bridge, prepend_bos=bos).score(IDS).cross_entropy)
    same(mixed.cross_entropy, make_scorer(dl.features.mean_cross_entropy(), llama.bridge, prepend_bos=bos).values(IDS))


def test_only_tokens_that_every_model_knows_are_allowed(gpt2, llama):
    scorer = make_scorer(FEATURE, gpt2.bridge, fluency_model=llama.bridge)
    known = len(gpt2.tokenizer)
    assert not scorer.allowed[0] and scorer.allowed[1:known].all() and not scorer.allowed[known:].any()


@pytest.mark.parametrize("bos", [True, False])
def test_a_template_is_as_if_it_were_typed_around_the_prompt(family, bos):
    prefix, suffix = [5, 6, 7], [8, 9]
    inside = make_scorer(FEATURE, family.bridge, prefix=prefix, suffix=suffix, prepend_bos=bos)
    row = np.ones((len(IDS), 1), dtype=int)
    typed = np.concatenate([row * prefix, IDS, row * suffix], axis=1)
    plain = make_scorer(FEATURE, family.bridge, prepend_bos=bos)
    same(inside.score(IDS).value, plain.score(typed).value)
    # The prompt's seven terms are the terms of the whole row without those of the prefix.
    short, longer = typed[:, :3], typed[:, :10]
    sums = [plain.score(x).cross_entropy * (x.shape[1] - (not bos)) for x in (short, longer)]
    same(inside.score(IDS).cross_entropy, (sums[1] - sums[0]) / 7, 1e-4)


def test_without_anything_before_it_the_first_token_is_free(family):
    with_bos, without = (make_scorer(FEATURE, family.bridge, prepend_bos=bos).score(IDS) for bos in (True, False))
    assert not np.allclose(with_bos.cross_entropy, without.cross_entropy, atol=1e-3)
    logits = family.bridge(torch.from_numpy(IDS), use_cache=False).detach().log_softmax(-1)
    charged = -logits[:, :-1].gather(-1, torch.from_numpy(IDS[:, 1:, None])).squeeze(-1).mean(-1)
    same(without.cross_entropy, charged.numpy())


def test_one_token_with_nothing_before_it_has_no_cross_entropy(gpt2):
    with pytest.raises(PromptError, match=r"no predicted token, so it has no cross-entropy. Use prepend_bos=True"):
        make_scorer(FEATURE, gpt2.bridge, prepend_bos=False).score([[5]])
    assert np.isfinite(make_scorer(FEATURE, gpt2.bridge, prepend_bos=True).score([[5]]).cross_entropy).all()
    assert np.isfinite(
        make_scorer(FEATURE, gpt2.bridge, prepend_bos=False, prefix=[4]).score([[5]]).cross_entropy
    ).all()


# Only what is needed runs.

DEEPER = ("blocks.0.hook_resid_post", "blocks.1.mlp.hook_pre", "unembed.hook_out")


def test_values_run_no_deeper_than_the_deepest_hook_point(family):
    scorer = make_scorer(FEATURE, family.bridge)
    with Watch(family.bridge, "blocks.0.mlp.hook_pre", *DEEPER) as passed:
        values = scorer.values(IDS)
        assert passed == {"blocks.0.mlp.hook_pre": 1} | dict.fromkeys(DEEPER, 0)
    same(values, scorer.score(IDS).value)


def test_nor_does_the_feature_s_model_when_another_one_judges_fluency(gpt2, llama):
    scorer = make_scorer(FEATURE, gpt2.bridge, fluency_model=llama.bridge)
    with Watch(gpt2.bridge, *DEEPER) as passed, Watch(llama.bridge, "unembed.hook_out") as judged:
        scorer.score(IDS)
        scorer.gradient(IDS)
        assert set(passed.values()) == {0} and judged == {"unembed.hook_out": 2}


def test_two_hook_points_run_to_the_deeper_one(gpt2):
    with Watch(gpt2.bridge, "blocks.1.mlp.hook_pre", "unembed.hook_out") as passed:
        make_scorer(f"blocks.1.mlp.hook_pre[-1, 0] + {FEATURE}", gpt2.bridge).values(IDS)
        # Two passes probe shapes, one is the trial, and one computes the values.
        assert passed["unembed.hook_out"] == 0 and passed["blocks.1.mlp.hook_pre"] == 4


def test_a_score_is_one_pass(family):
    scorer = make_scorer(FEATURE, family.bridge)
    scorer.score(IDS)  # the first score of a model also tries whether it is causal
    with Watch(family.bridge, "unembed.hook_out") as passed:
        scorer.score(IDS)
        assert passed == {"unembed.hook_out": 1}


# Any prompts.


def test_texts_of_several_lengths_come_back_in_their_order(gpt2):
    texts = ["The dog runs over the hill", "A cat", "the house of the king", "A dog", "bread"]
    together = dl.score(FEATURE, texts, gpt2.bridge)
    for i, text in enumerate(texts):
        alone = dl.score(FEATURE, text, gpt2.bridge)
        same(together.value[i], alone.value[0])
        same(together.cross_entropy[i], alone.cross_entropy[0])
    assert len({len(gpt2.tokenizer.encode(text, add_special_tokens=False)) for text in texts}) > 2
    same(together.perplexity, np.exp(together.cross_entropy))
    assert repr(together).startswith("Scores(5 prompts, value ")


def test_every_form_of_a_prompt_scores_alike(gpt2):
    run = dl.dream(FEATURE, gpt2.bridge, iterations=1, population=2, children=3, length=4, progress=False)
    prompt = run.frontier[-1]
    ids = list(prompt.ids)
    forms = [
        prompt,
        ids,
        tuple(ids),
        np.array(ids),
        torch.tensor(ids),
        [prompt],
        [ids],
        np.array([ids], dtype=np.int32),
    ]
    for form in forms:
        same(dl.score(FEATURE, form, gpt2.bridge).value, [prompt.value])
    same(dl.score(FEATURE, run.frontier, gpt2.bridge).value, run.frontier.values)
    same(dl.score(FEATURE, [prompt, "A dog", [3, 4]], gpt2.bridge).value[0], prompt.value)


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ([], "There is no prompt"),
        ("", "The text '' has no tokens"),
        (["A dog", ""], "The text '' has no tokens"),
        ([[1, 2], []], "must be token ids"),
        ([1.5, 2.5], "must be token ids"),
        ([[1, 2], [3, 400]], r"contains id 400, outside the vocabulary, which has ids 0 to 334"),
        ([-1], "contains id -1"),
        (7, "A prompt is a text, token ids, or a list of either; got 7"),
        (None, "got None"),
        ([True, False], "must be token ids"),
        ([[[1, 2], [3, 4]]], r"one entry has shape \[2, 2\]"),
        (np.zeros((2, 3, 4), dtype=int), r"got shape \[2, 3, 4\]"),
        (np.zeros((0, 3), dtype=int), r"got shape \[0, 3\]"),
    ],
)
def test_what_is_no_prompt_is_told(gpt2, prompts, said):
    with pytest.raises(PromptError, match=said):
        dl.score(FEATURE, prompts, gpt2.bridge)


def test_prompts_beyond_the_context(gpt2):
    long = np.ones((1, 64), dtype=int)
    assert len(make_scorer(FEATURE, gpt2.bridge, prepend_bos=False).score(long)) == 1
    with pytest.raises(
        PromptError,
        match=r"A prompt of 64 tokens makes 65 with the BOS, and tiny-gpt2's context is 64; use at most 63\.",
    ):
        make_scorer(FEATURE, gpt2.bridge, prepend_bos=True).score(long)
    with pytest.raises(PromptError, match=r"A prompt of 65 tokens is too long, and .* use at most 64\."):
        make_scorer(FEATURE, gpt2.bridge, prepend_bos=False).score(np.ones((1, 65), dtype=int))
    around = make_scorer(FEATURE, gpt2.bridge, prefix=[1] * 4, suffix=[2], prepend_bos=True)
    with pytest.raises(PromptError, match=r"makes 70 with the BOS and the template's 5, and .* use at most 58"):
        around.score(long)
    with pytest.raises(PromptError, match="shorten the template"):
        make_scorer(FEATURE, gpt2.bridge, prefix=[1] * 70).score([[1, 2]])


def test_a_special_token_may_be_scored_though_it_is_never_proposed(gpt2):
    assert len(dl.score(FEATURE, f"A dog{BOS}", gpt2.bridge)) == 1


def test_the_input_is_not_changed(gpt2):
    ids = IDS.copy()
    ids.setflags(write=False)
    scorer = make_scorer(FEATURE, gpt2.bridge)
    scorer.score(ids)
    scorer.gradient(ids)
    np.testing.assert_array_equal(ids, IDS)


def test_duplicates_and_batches_change_nothing(family):
    scorer = make_scorer(FEATURE, family.bridge)
    whole = scorer.score(np.concatenate([IDS, IDS[:2]]))
    np.testing.assert_allclose(whole.value[-2:], whole.value[:2], atol=1e-6)
    for size in (1, 4, 100):
        part = make_scorer(FEATURE, family.bridge, batch_size=size).score(IDS)
        same(part.value, whole.value[:6])
        same(part.cross_entropy, whole.cross_entropy[:6])


# Precision.


def test_losses_are_float32_whatever_the_model_s_precision(gpt2):
    from transformer_lens.model_bridge import TransformerBridge

    raw = copy.deepcopy(models.raw_model("gpt2")).to(torch.bfloat16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bridge = TransformerBridge.boot_transformers(
            "tiny-bf16", hf_model=raw, tokenizer=gpt2.tokenizer, device="cpu", dtype=torch.bfloat16
        )
    scorer = make_scorer(FEATURE, bridge, prepend_bos=False, share_prefixes=False)
    found = scorer.score(IDS)
    assert found.value.dtype == found.cross_entropy.dtype == np.float32
    with torch.no_grad():
        logits = bridge(torch.from_numpy(IDS), use_cache=False)
    assert logits.dtype == torch.bfloat16
    exact = logits.double().log_softmax(-1)[:, :-1].gather(-1, torch.from_numpy(IDS[:, 1:, None])).squeeze(-1)
    same(found.cross_entropy, -exact.mean(-1).numpy(), 1e-6)  # bfloat16 would be off by 0.01
    gradient = scorer.gradient(IDS)
    assert gradient.of_value().dtype == gradient.of_cross_entropy().dtype == torch.float32


# Memory.


def little_memory(monkeypatch, room: int) -> list[int]:
    """Simulate a device that holds `room` whole prompts at once; return the list of sizes that are tried."""
    monkeypatch.setattr(batching, "_BUDGETS", weakref.WeakKeyDictionary())  # so that no other test is short of memory
    tried: list[int] = []
    run = HookedModel.run

    def limited(self, ids, *arguments, **settings):
        tried.append(len(ids))
        if len(ids) > room:
            raise torch.OutOfMemoryError("no room")
        return run(self, ids, *arguments, **settings)

    monkeypatch.setattr(HookedModel, "run", limited)
    return tried


def test_out_of_memory_halves_the_batch_says_so_and_remembers(gpt2, monkeypatch):
    scorer = make_scorer(FEATURE, gpt2.bridge, share_prefixes=False)
    expected, slope = scorer.score(IDS), scorer.gradient(IDS).of_value()
    tried = little_memory(monkeypatch, room=2)
    with pytest.warns(RuntimeWarning) as told:
        found = scorer.score(IDS)
    assert str(told[0].message).startswith(
        "Out of memory with 6 prompts at once; going on with batches of 3. batch_size=3"
    )
    assert len(told) == 2
    assert tried == [6, 3, 1, 1, 1, 1, 1, 1]
    same(found.value, expected.value)
    same(found.cross_entropy, expected.cross_entropy)
    tried.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scorer.score(IDS[:3])
    assert tried == [1, 1, 1]
    with pytest.warns(RuntimeWarning):
        torch.testing.assert_close(scorer.gradient(IDS).of_value(), slope, atol=1e-5, rtol=1e-5)


def test_a_small_batch_first_does_not_make_later_ones_small(gpt2, monkeypatch):
    scorer = make_scorer(FEATURE, gpt2.bridge, share_prefixes=False)
    tried = little_memory(monkeypatch, room=100)
    scorer.gradient(IDS[:1])
    scorer.score(IDS[:1])
    tried.clear()
    scorer.gradient(IDS)
    scorer.score(IDS)
    assert tried == [6, 6]


def test_long_vocabularies_are_scored_in_pieces(gpt2, monkeypatch):
    from dreamy_lens.scoring import forward as module

    scorer = make_scorer(FEATURE, gpt2.bridge, share_prefixes=False)
    monkeypatch.setattr(module, "LOGITS_BUDGET", 4 * 335 * 8)  # four prompts of eight tokens
    tried = little_memory(monkeypatch, room=100)
    scorer.score(IDS)
    assert tried == [4, 2]


def test_one_prompt_that_does_not_fit_is_an_error(gpt2, monkeypatch):
    scorer = make_scorer(FEATURE, gpt2.bridge, share_prefixes=False)
    little_memory(monkeypatch, room=0)
    with pytest.warns(RuntimeWarning), pytest.raises(OutOfMemoryError, match="A single prompt does not fit") as caught:
        scorer.score(IDS)
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)


def test_a_search_survives_a_batch_that_is_too_large(gpt2, monkeypatch):
    settings = {"iterations": 3, "population": 3, "children": 4, "top_k": 8, "length": 5, "progress": False}
    settings["share_prefixes"] = False
    plain = dl.dream(FEATURE, gpt2.bridge, **settings)
    little_memory(monkeypatch, room=4)
    with pytest.warns(RuntimeWarning, match="Out of memory"):
        halved = dl.dream(FEATURE, gpt2.bridge, **settings)
    same(halved.history.value.max(), plain.history.value.max(), 1e-4)
    assert len(halved.history) == len(plain.history)


def test_what_counts_as_out_of_memory():
    assert is_out_of_memory(torch.OutOfMemoryError("x")) and is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("MPS backend out of memory (...)"))
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))
    assert not is_out_of_memory(RuntimeError("shapes differ")) and not is_out_of_memory(ValueError("out of memory"))


def test_other_errors_pass_through_batches():
    with pytest.raises(ZeroDivisionError):
        BatchRunner(None).map(lambda part: 1 // 0, 3)
    assert BatchRunner(2).map(lambda part: (part.start, part.stop), 5) == [(0, 2), (2, 4), (4, 5)]
    assert BatchRunner(None).map(lambda part: part.stop, 5, default_size=3) == [3, 5]
    with pytest.raises(SettingsError, match="batch_size is 0; it must be at least 1, or None"):
        BatchRunner(0)


# The model is left alone.


def test_a_model_is_left_as_it_was_even_after_an_error(gpt2):
    bridge, point = gpt2.bridge, "blocks.0.mlp.hook_post"
    bridge.requires_grad_(True)
    before = {name: p.detach().clone() for name, p in bridge.named_parameters()}
    switch = {"fails": False}

    def sometimes(a):
        if switch["fails"]:
            raise ArithmeticError("now")
        return a[point][:, -1, 0]

    feature = dl.custom("sometimes", [point], sometimes) + dl.parse("blocks.0.attn.hook_result[-1, 0, 0]")
    scorer = make_scorer(feature, bridge)
    switch["fails"] = True
    for work in (scorer.score, scorer.values, scorer.gradient):
        with pytest.raises(ArithmeticError):
            work(IDS)
    switch["fails"] = False
    for work in (scorer.score, scorer.values, scorer.gradient):
        work(IDS)
    with pytest.raises(FeatureError):
        make_scorer(dl.custom("broken", [point], lambda a: None), bridge)
    for name, p in bridge.named_parameters():
        assert torch.equal(p, before[name]) and p.requires_grad and p.grad is None
    assert not any(p.fwd_hooks or p.bwd_hooks for p in bridge.hook_dict.values())
    assert not bridge.cfg.use_attn_result and not bridge.training


def test_moving_the_embeddings_by_nothing_changes_nothing(family):
    scorer = make_scorer("blocks.0.mlp.hook_post[-2, 3]", family.bridge, prefix=[4], suffix=[5])
    shift = torch.zeros(6, 7, 32)
    same(scorer.values_at(IDS, shift).numpy(), scorer.values(IDS))
    shift[2, -1, 0] = 0.5
    moved = scorer.values_at(IDS, shift).numpy() - scorer.values(IDS)
    assert abs(moved[2]) > 1e-6
    same(np.delete(moved, 2), np.zeros(5))


def test_the_models_of_a_scorer_are_each_run_once(gpt2, llama, monkeypatch):
    ran = []
    run = HookedModel.run
    monkeypatch.setattr(HookedModel, "run", lambda self, *a, **k: (ran.append(self.name), run(self, *a, **k))[1])
    feature = dl.parse(FEATURE) + dl.features.mean_cross_entropy(llama.bridge)
    scorer = make_scorer(feature, gpt2.bridge, fluency_model=llama.bridge)
    assert scorer.models == (as_hooked(gpt2.bridge), as_hooked(llama.bridge))
    ran.clear()
    scorer.score(IDS)
    assert sorted(ran) == ["tiny-gpt2", "tiny-llama"]
