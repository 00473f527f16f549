"""Shared prefixes of prompts are computed once, and the numbers are those of whole rows."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dreamy_lens as dl
from dreamy_lens import constraints as rules_of
from dreamy_lens.models import PackedModel, PrefixTree
from dreamy_lens.scoring import Scorer, Scores
from dreamy_lens.scoring import packed_reading as shared_passes
from tests.helpers import by_hand, dreams, models
from tests.helpers.scorers import make_scorer

LENGTH = 8
TOLERANCE = 1e-4
SMALLEST = 0.05
"""Scale of numbers that are all next to nothing: what they are sums of is larger, and so is its rounding."""

ROUNDED = 0.05
"""What numbers of bfloat16 models differ by."""

IN_BLOCKS = (
    "mlp.hook_pre[-1, 3]",
    "mlp.hook_post[0, 3]",
    "hook_resid_pre[2, 3]",
    "hook_resid_mid[-1, 3]",
    "hook_resid_post[:, 3].mean()",
    "attn.hook_q[-1, 1, 2]",
    "attn.hook_k[1, 1, 2]",
    "attn.hook_v[..., 1, 2].max()",
    "attn.hook_z[-1, 1, 2]",
    "attn.hook_pattern[1, -1, 0]",
    "attn.hook_attn_scores[1, 3, 2]",
    "attn.hook_result[-1, 1, 2]",
    "attn.hook_rot_q[-1, 1, 2]",
    "attn.hook_in[-1, 2]",
    "attn.hook_out[-1, 2]",
    "hook_mlp_in[-1, 2]",
    "hook_attn_in[-1, 2, 3]",
    "hook_q_input[-1, 2, 3]",
    "hook_attn_out[-1, 2]",
    "hook_mlp_out[-1, 2]",
    "ln1.hook_scale[-1, 0]",
    "ln1.hook_normalized[-1, 3]",
    "ln2.hook_normalized[-1, 3]",
)
ELSEWHERE = (
    "hook_embed[-1, 3]",
    "embed.hook_out[1, 3]",
    "pos_embed.hook_out[-1, 3]",
    "blocks.0.hook_in[-1, 3]",
    "blocks.0.hook_out[-1, 3]",
    "ln_final.hook_scale[-1, 0]",
    "ln_final.hook_normalized[-1, 3]",
    "unembed.hook_in[-1, 3]",
    "logit(7)",
    "logit(7, :).max()",
    "logit.runner_up(7)",
    "log_prob(7, 2)",
    "mean_cross_entropy()",
    "L0.N3 - 2 * log_prob(7) + blocks.1.attn.hook_z[0, 1, 2]",
)
KINDS = (*(f"blocks.1.{kind}" for kind in IN_BLOCKS), *ELSEWHERE)
FEWER = KINDS[1::3]
"""Of every sort some."""

ABSENT = {
    "pos_embed.hook_out[-1, 3]": ("neox", "llama", "gemma2", "stories"),
    "blocks.1.hook_resid_mid[-1, 3]": ("neox",),
    "blocks.1.attn.hook_rot_q[-1, 1, 2]": ("gpt2", "neox"),
}
"""Which families have no such hook point."""


def children(length: int = LENGTH, parents: int = 2) -> np.ndarray:
    """Draw parents, and for each parent a child with another token at each position, from the first to the last."""
    random = np.random.default_rng(0)
    rows = np.repeat(random.integers(1, 320, (parents, length)), length + 1, 0)
    for row, place in enumerate(np.tile(np.arange(length + 1), parents)):
        if place < length:
            rows[row, place] = random.integers(1, 320)
    return rows


ROWS = children()


def close(found: Any, expected: Any, tolerance: float = TOLERANCE) -> None:
    """Assert that numbers agree up to this fraction of the largest number."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape and np.isfinite(expected).all()
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * max(np.abs(expected).max(), SMALLEST))


def agree(found: Scores, expected: Scores, tolerance: float = TOLERANCE) -> None:
    close(found.value, expected.value, tolerance)
    close(found.cross_entropy, expected.cross_entropy, tolerance)


def both(feature: Any, bridge: Any, **options: Any) -> tuple[Scorer, Scorer]:
    """Make a scorer that shares prefixes, and a scorer that does not."""
    return make_scorer(feature, bridge, **options), make_scorer(feature, bridge, share_prefixes=False, **options)


def shares(scorer: Scorer) -> bool:
    """Return whether a scorer shares prefixes on all its models."""
    found = scorer.forward._sharings.values()
    return len(found) > 0 and all(s is not None and s.packed is not None for s in found)


class Runs:
    """Record of the packed passes: their prefix trees, and the number of passes whose results were cached."""

    def __init__(self) -> None:
        self.packings: list[PrefixTree] = []
        self.kept = 0

    def clear(self) -> None:
        self.packings.clear()
        self.kept = 0


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Runs]:
    found, run = Runs(), PackedModel.run

    def watched(self: PackedModel, packing: PrefixTree, *args: Any, **named: Any) -> Any:
        found.packings.append(packing)
        found.kept += named.get("keep") is not None
        return run(self, packing, *args, **named)

    monkeypatch.setattr(PackedModel, "run", watched)
    yield found


def check(feature: Any, bridge: Any, runs: Runs, rows: np.ndarray = ROWS, **options: Any) -> None:
    """Assert that the scores are those of whole rows, and that fewer tokens were computed."""
    fast, plain = both(feature, bridge, **options)
    agree(fast.score(rows), plain.score(rows))
    assert shares(fast)
    runs.clear()
    again = fast.score(rows)
    (packing,) = runs.packings
    assert packing.nodes < rows.size
    agree(again, plain.score(rows))
    close(fast.values(rows), plain.values(rows))


# Every kind of feature.


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_feature_gets_the_numbers_of_whole_rows(family, kind, runs):
    if family.name in ABSENT.get(kind, ()):
        pytest.skip(f"{family.name} has no such hook point")
    check(kind, family.bridge, runs, prepend_bos=True)


@pytest.mark.parametrize("kind", FEWER)
@pytest.mark.parametrize("name", models.FAMILIES)
def test_so_it_does_in_compatibility_mode(name, kind, runs):
    if name in ABSENT.get(kind, ()):
        pytest.skip(f"{name} has no such hook point")
    check(kind, models.compatible(name).bridge, runs, prepend_bos=False)


@pytest.mark.parametrize("kind", FEWER)
def test_so_it_does_inside_a_template(any_family, kind, runs):
    if any_family.name in ABSENT.get(kind, ()):
        pytest.skip(f"{any_family.name} has no such hook point")
    check(kind, any_family.bridge, runs, prefix=[5, 6, 7], suffix=[8, 9])


LAYOUT_FEATURES = (
    "blocks.1.mlp.hook_post[0, 3]",
    "L1.N3",
    "blocks.1.hook_resid_post[:, 3].max()",
    "blocks.1.attn.hook_pattern[1, -1, 0]",
    "log_prob(7)",
    "mean_cross_entropy()",
)


@pytest.mark.parametrize("name", ["gpt2", "neox", "gemma2"])
@given(data=st.data())
@settings(max_examples=20)
def test_whatever_the_layout_and_wherever_children_differ(name, data):
    feature = data.draw(st.sampled_from(LAYOUT_FEATURES), "feature")
    n, bos = data.draw(st.integers(1, 12), "n"), data.draw(st.booleans(), "bos")
    prefix, suffix = (data.draw(st.lists(st.integers(1, 319), max_size=m)) for m in (4, 3))
    bos = bos or (n == 1 and not prefix)
    parents = data.draw(st.lists(st.lists(st.integers(1, 319), min_size=n, max_size=n), min_size=1, max_size=3))
    rows = [list(parent) for parent in parents]
    places = st.tuples(st.integers(0, len(parents) - 1), st.integers(0, n - 1), st.integers(1, 319))
    for parent, place, token in data.draw(st.lists(places, max_size=12), "children"):
        rows.append([*parents[parent][:place], token, *parents[parent][place + 1 :]])
    options = {"prefix": prefix, "suffix": suffix, "prepend_bos": bos}
    fast, plain = both(feature, models.family(name).bridge, **options)
    agree(fast.score(rows), plain.score(rows))
    assert shares(fast)


def test_another_model_s_cross_entropy_and_another_judge_of_fluency(gpt2, llama, gemma2):
    for feature in (
        dl.features.mean_cross_entropy(llama.bridge),
        dl.parse("L1.N3") - dl.features.mean_cross_entropy(llama.bridge),
    ):
        for options in ({}, {"prefix": [5, 6], "suffix": [7]}):
            fast, plain = both(feature, gpt2.bridge, fluency_model=gemma2.bridge, prepend_bos=True, **options)
            agree(fast.score(ROWS), plain.score(ROWS))
            close(fast.values(ROWS), plain.values(ROWS))
            assert shares(fast) and len(fast.models) == 3


@pytest.mark.parametrize("known", [0, 6])
def test_a_sliding_window_shorter_than_the_row_slides_along_each_row(gemma2, known):
    rows = children(14)
    rows[:, :known] = rows[0, :known]
    ids = torch.from_numpy(np.insert(rows, 0, gemma2.bos, axis=1))
    with torch.no_grad():
        plain = by_hand.Pass(gemma2, ids)
    assert "sliding_attention" in plain.cfg.layer_types and plain.cfg.sliding_window == 4
    for place in (-1, 9):
        feature = f"blocks.1.mlp.hook_post[{place}, 3]"
        scorer = make_scorer(feature, gemma2.bridge, prepend_bos=True, prefix=rows[0, :known].tolist())
        found = scorer.score(rows[:, known:])
        at = place if place < 0 else 1 + place  # the template's tokens count
        close(found.value, plain.mlp_post(1)[:, at, 3])
        close(found.cross_entropy, plain.cross_entropy(ids[:, 1 + known :]))
        assert shares(scorer)


# Cached prefixes, and how long they last.


def test_a_template_s_prefix_is_computed_once_and_anew_when_renewed(family, runs):
    scorer, plain = both("L1.N3", family.bridge, prefix=[5, 6, 7], suffix=[8])
    agree(scorer.score(ROWS), plain.score(ROWS))
    assert runs.kept > 0
    runs.clear()
    for rows in (ROWS, ROWS[3:5], ROWS[::-1]):
        agree(scorer.score(rows), plain.score(rows))
    assert runs.kept == 0 and len(runs.packings) == 3
    assert all(packing.known == scorer.layout(LENGTH).before for packing in runs.packings)
    scorer.invalidate_cache()
    agree(scorer.score(ROWS), plain.score(ROWS))
    assert runs.kept > 0


def test_weights_that_are_changed_in_place_count_at_once(family):
    def change(bridge: Any) -> None:
        with torch.no_grad():
            for parameter in bridge.parameters():
                parameter.mul_(1.25)

    bridge, other = (models.new_bridge(family.name, family.raw) for _ in range(2))
    options: dict[str, Any] = {"prefix": [5, 6, 7], "prepend_bos": True}
    scorer = make_scorer("L1.N3", bridge, **options)
    before, slope = scorer.score(ROWS), scorer.gradient(ROWS[:2]).of_value()
    change(bridge)
    change(other)
    plain = make_scorer("L1.N3", other, share_prefixes=False, **options)
    agree(scorer.score(ROWS), plain.score(ROWS))
    moved = scorer.gradient(ROWS[:2]).of_value()
    close(moved, plain.gradient(ROWS[:2]).of_value())
    assert shares(scorer)
    assert not np.allclose(before.value, plain.score(ROWS).value, atol=1e-2) and not torch.allclose(moved, slope)


def test_compatibility_mode_between_two_scores_is_noticed(family, runs):
    bridge = models.new_bridge(family.name, family.raw)
    features = ("L1.N3", "blocks.1.hook_resid_post[-1, 3]", "log_prob(7)")
    scorers = [make_scorer(feature, bridge, prefix=[5, 6], prepend_bos=True) for feature in features]
    for scorer in scorers:
        scorer.score(ROWS)
        scorer.gradient(ROWS[:2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bridge.enable_compatibility_mode()
    for feature, scorer in zip(features, scorers, strict=True):
        plain = make_scorer(feature, bridge, share_prefixes=False, prefix=[5, 6], prepend_bos=True)
        agree(scorer.score(ROWS), plain.score(ROWS))
        close(scorer.gradient(ROWS[:2]).of_value(), plain.gradient(ROWS[:2]).of_value())
        runs.clear()
        agree(scorer.score(ROWS), plain.score(ROWS))
        assert runs.packings


# Batches and chunks.


def test_duplicates_single_rows_and_batches_change_nothing(family):
    rows = np.concatenate([ROWS, ROWS[::4], ROWS[:1]])
    for feature in ("L1.N3", "log_prob(7)"):
        expected = make_scorer(feature, family.bridge, share_prefixes=False, prefix=[5]).score(rows)
        for size in (None, 1, 3, 100):
            scorer = make_scorer(feature, family.bridge, prefix=[5], batch_size=size)
            agree(scorer.score(rows), expected)
            one = scorer.score(rows[4])
            close(one.value, expected.value[4:5])
            close(one.cross_entropy, expected.cross_entropy[4:5])
            assert shares(scorer)


@pytest.mark.parametrize(("chunk", "least"), [(1, 1), (335 * 64, 1), (335 * 64, 7)])
def test_the_size_of_chunks_of_logits_changes_nothing(family, monkeypatch, chunk, least):
    features = ("L0.N3", "logit(7, :).max()", "logit.runner_up(7)", "mean_cross_entropy()")
    expected = [make_scorer(feature, family.bridge, share_prefixes=False).score(ROWS) for feature in features]
    monkeypatch.setitem(shared_passes.CHUNK, "cpu", chunk)
    monkeypatch.setattr(shared_passes, "LEAST_ROWS", least)
    for feature, numbers in zip(features, expected, strict=True):
        scorer = make_scorer(feature, family.bridge)
        agree(scorer.score(ROWS), numbers)
        assert shares(scorer)


# Models that were changed.


@pytest.mark.parametrize("prefix", [(), (5, 6)])
def test_a_hook_that_looks_at_positions_is_left_to_whole_rows(family, prefix, runs):
    bridge = models.new_bridge(family.name, family.raw)
    fast, plain = both("log_prob(7)", bridge, prefix=prefix, prepend_bos=True)
    untouched = fast.score(ROWS)
    slope = fast.gradient(ROWS[:3]).of_value()

    def without_position_3(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        kept = torch.ones(activation.shape[1], 1)
        kept[3] = 0
        return activation * kept

    point = bridge.hook_dict["blocks.0.mlp.hook_post"]
    point.add_hook(without_position_3)
    runs.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        for scorer in (fast, make_scorer("log_prob(7)", bridge, prefix=prefix, prepend_bos=True)):
            found, moved = scorer.score(ROWS), scorer.gradient(ROWS[:3])
            agree(found, plain.score(ROWS))
            close(moved.of_value(), plain.gradient(ROWS[:3]).of_value())
            close(moved.of_cross_entropy(), plain.gradient(ROWS[:3]).of_cross_entropy())
    assert not runs.packings
    assert not np.allclose(found.value, untouched.value, atol=1e-3)
    assert not torch.allclose(moved.of_value(), slope, atol=1e-3)
    point.remove_hooks()
    agree(fast.score(ROWS), untouched)
    close(fast.gradient(ROWS[:3]).of_value(), slope)
    assert runs.packings


def test_a_model_whose_tokens_mix_outside_attention_is_scored_whole(family):
    bridge = models.new_bridge(family.name, family.raw)
    early = make_scorer("L1.N3", bridge, prepend_bos=True)
    before = early.score(ROWS)
    mlp = bridge.blocks[0].mlp.original_component
    mlp.register_forward_hook(lambda module, inputs, out: out + torch.roll(out, 1, 1))
    for options in ({}, {"prefix": [5, 6]}):
        fast, plain = both("L1.N3", bridge, prepend_bos=True, **options)
        with pytest.warns(RuntimeWarning, match="scored whole"):
            found = fast.score(ROWS)
        agree(found, plain.score(ROWS), 1e-6)
        assert set(fast.forward._sharings.values()) == {None}
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            agree(fast.score(ROWS), found, 1e-6)
    late = early.score(ROWS)
    agree(late, make_scorer("L1.N3", bridge, share_prefixes=False, prepend_bos=True).score(ROWS))
    assert not np.allclose(late.value, before.value, atol=1e-3)


def test_attention_that_knows_positions_by_its_biases_is_right_either_way():
    import transformers as hf

    sizes: dict[str, Any] = {"vocab_size": len(models.tokenizer()), "hidden_size": 32, "n_layer": 2, "n_head": 4}
    sizes |= {"initializer_range": 0.25, "bos_token_id": 0, "eos_token_id": 0}
    config = hf.BloomConfig(**sizes)
    config._attn_implementation = "eager"
    bridge = models.new_bridge("bloom", hf.BloomForCausalLM(config).eval())
    for feature in ("L1.N3", "blocks.1.attn.hook_pattern[1, -1, 0]", "log_prob(7)"):
        for options in ({}, {"prefix": [5, 6], "suffix": [7]}):
            fast, plain = both(feature, bridge, prepend_bos=True, **options)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Prompts are scored whole", RuntimeWarning)
                agree(fast.score(ROWS), plain.score(ROWS))
            close(fast.gradient(ROWS[:3]).of_value(), plain.gradient(ROWS[:3]).of_value())


def test_less_precise_models_agree_but_for_rounding(family):
    bridge = models.new_bridge(family.name, family.raw, torch.bfloat16)
    for feature in ("L1.N3", "blocks.1.hook_resid_post[:, 3].mean()", "blocks.1.attn.hook_z[-1, 1, 2]", "log_prob(7)"):
        for options in ({}, {"prefix": [5, 6], "suffix": [7]}):
            fast, plain = both(feature, bridge, prepend_bos=True, **options)
            agree(fast.score(ROWS), plain.score(ROWS), ROUNDED)
            assert shares(fast)


# Gradients.


@pytest.mark.parametrize("template", [{}, {"prefix": [5, 6, 7]}, {"prefix": [5, 6, 7], "suffix": [8, 9]}])
def test_gradients_behind_a_template_are_those_of_whole_rows(family, template):
    features = (
        "L0.N3",
        "L1.N3",
        "blocks.1.hook_resid_post[:, 3].max()",
        "blocks.1.attn.hook_pattern[1, -1, 0]",
        "blocks.1.attn.hook_q[-1, 1, 2]",
        "blocks.1.ln1.hook_scale[-1, 0]",
        "log_prob(7)",
        "mean_cross_entropy()",
    )
    for feature in features:
        fast, plain = both(feature, family.bridge, **template)
        found, expected = fast.gradient(ROWS[::3]), plain.gradient(ROWS[::3])
        for part in ("of_value", "of_cross_entropy"):
            close(getattr(found, part)(), getattr(expected, part)())
        close(found.value, expected.value)
        close(found.cross_entropy, expected.cross_entropy)


# Whole searches.


@pytest.mark.parametrize(
    ("feature", "template"),
    [("L1.N3", None), ("log_prob(7)", None), ("blocks.1.attn.hook_z[-1, 1, 2]", None), ("L1.N3", "The{dream} over")],
)
@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_a_dream_selects_the_same_populations(name, feature, template):
    chosen: dict[str, Any] = {"seed": 1, "iterations": 6}
    if template:
        chosen["constraints"] = [rules_of.template(template)]
    bridge = models.family(name).bridge
    fast, plain = (dreams.dream(bridge, feature, share_prefixes=share, **chosen).history for share in (None, False))
    np.testing.assert_array_equal(fast.ids, plain.ids)
    np.testing.assert_array_equal(fast.population, plain.population)
    close(fast.value, plain.value)
    close(fast.cross_entropy, plain.cross_entropy)


def test_a_hook_on_a_module_that_was_put_in_later_is_noticed_by_the_next_scorer(llama):
    bridge = models.new_bridge("llama", llama.raw)
    mlp = bridge.original_model.model.layers[0].mlp
    before = make_scorer("L1.N3", bridge).score(ROWS)
    mlp.act_fn = copy.deepcopy(mlp.act_fn)
    mlp.act_fn.register_forward_hook(lambda module, given, found: found * (torch.arange(found.shape[1]) != 2)[:, None])
    with pytest.warns(RuntimeWarning, match="scored whole"):
        after = make_scorer("L1.N3", bridge).score(ROWS)
    agree(after, make_scorer("L1.N3", bridge, share_prefixes=False).score(ROWS))
    assert not np.allclose(after.value, before.value, atol=1e-3)
