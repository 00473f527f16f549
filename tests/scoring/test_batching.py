"""Passes with shared prefixes when memory is short: smaller batches, equal numbers, and a failed size never again."""

from __future__ import annotations

import warnings
import weakref
from typing import Any

import numpy as np
import pytest
import torch

import dreamy_lens as dl
from dreamy_lens.errors import OutOfMemoryError
from dreamy_lens.models import PackedModel, as_hooked, wrap
from dreamy_lens.scoring import BackwardScorer, BatchRunner, MemoryBudget, Scorer, Scores, batching, memory_budget
from tests.helpers import dreams
from tests.helpers.scorers import make_scorer

FEATURE = "blocks.0.mlp.hook_post[-1, 3]"
IDS = np.random.default_rng(0).integers(1, 320, size=(40, 7))
TOTAL = 8
"""Tokens of a row, with the BOS."""

TRIAL = 12
"""Prompts in the pass that verifies prefix sharing."""


def same(found: Scores, expected: Scores) -> None:
    np.testing.assert_allclose(found.value, expected.value, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(found.cross_entropy, expected.cross_entropy, atol=1e-5, rtol=1e-5)


@pytest.fixture(autouse=True)
def _own_rooms(monkeypatch):
    """Give each test its own memory budgets, so that no other test runs short of memory."""
    monkeypatch.setattr(batching, "_BUDGETS", weakref.WeakKeyDictionary())


@pytest.fixture
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        yield


def scorer_of(bridge: Any, **settings: Any) -> Scorer:
    """Return a scorer that has made its trial pass."""
    scorer = make_scorer(FEATURE, bridge, prepend_bos=True, **settings)
    scorer.score(IDS[:1])
    return scorer


def device(monkeypatch, holds: int = 10**6) -> list[int]:
    """Simulate a device that holds this many prompts in a packed pass; return the list of sizes that are tried."""
    tried: list[int] = []
    run = PackedModel.run

    def limited(self, packing, *arguments, **settings):
        tried.append(packing.rows)
        if packing.rows > holds:
            raise torch.OutOfMemoryError("no room")
        return run(self, packing, *arguments, **settings)

    monkeypatch.setattr(PackedModel, "run", limited)
    return tried


def scoring(bridge: Any, tokens: int | None = None, grows: bool = False) -> MemoryBudget:
    """Return the memory budget of a bridge for scoring; set it first if tokens are given."""
    room = memory_budget(as_hooked(bridge), "scoring")
    if tokens is not None:
        room.tokens, room.grows = tokens, grows
    return room


# Too many prompts at once.


def test_out_of_memory_halves_the_batch_and_says_so(family, monkeypatch):
    scorer = scorer_of(family.bridge)
    expected = scorer.score(IDS)
    tried = device(monkeypatch, holds=15)
    with pytest.warns(RuntimeWarning, match="Out of memory with") as told:
        found = scorer.score(IDS)
    assert [str(w.message)[:70] for w in told] == [
        "Out of memory with 40 prompts at once; going on with batches of 20. ba",
        "Out of memory with 20 prompts at once; going on with batches of 10. ba",
    ]
    assert tried == [40, 20, 10, 10, 10, 10]
    same(found, expected)


def test_the_next_scorer_of_the_same_bridge_does_not_try_more(gpt2, monkeypatch, quiet):
    scorer = scorer_of(gpt2.bridge)
    expected = scorer.score(IDS)
    tried = device(monkeypatch, holds=15)
    with pytest.warns(RuntimeWarning):
        scorer.score(IDS)
    room = scoring(gpt2.bridge)
    assert room == MemoryBudget(10 * TOTAL, grows=False)
    tried.clear()
    same(scorer.score(IDS), expected)
    same(make_scorer(FEATURE, gpt2.bridge, prepend_bos=True).score(IDS), expected)
    assert tried == [10] * 4 + [TRIAL] + [10] * 4
    tried.clear()
    make_scorer(FEATURE, wrap(gpt2.bridge), prepend_bos=True).score(IDS)  # the budget is the bridge's
    assert tried == [TRIAL] + [10] * 4
    tried.clear()
    make_scorer(FEATURE, gpt2.bridge, prepend_bos=True).score(np.repeat(IDS, 2, 1))  # longer prompts take more
    assert max(tried[1:]) == 10 * TOTAL // 15


def test_values_alone_are_halved_too(gpt2, monkeypatch):
    scorer = scorer_of(gpt2.bridge)
    expected = scorer.values(IDS)
    tried = device(monkeypatch, holds=25)
    with pytest.warns(RuntimeWarning, match="Out of memory with 40 prompts"):
        found = scorer.values(IDS)
    assert tried == [40, 20, 20]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_batches_of_a_template_s_prompts_are_the_same(family, monkeypatch):
    scorer = scorer_of(family.bridge, prefix=[5, 6, 7], suffix=[8, 9])
    expected = scorer.score(IDS)
    tried = device(monkeypatch, holds=9)
    with pytest.warns(RuntimeWarning):
        same(scorer.score(IDS), expected)
    assert tried == [40, 20, 10, *[5] * 8]


def test_prompts_come_back_in_their_order_and_related_ones_in_one_batch(gpt2, monkeypatch):
    """Children of two parents come in turns, and each batch holds the children of one parent."""
    parents = IDS[[0, 1]]
    rows = parents[np.arange(40) % 2].copy()
    rows[:, -1] = np.arange(1, 41)
    expected = scorer_of(gpt2.bridge).score(rows)
    scorer, nodes = scorer_of(gpt2.bridge, batch_size=20), []
    run = PackedModel.run
    monkeypatch.setattr(
        PackedModel, "run", lambda self, p, *a, **s: nodes.append(int(p.host_index.max())) or run(self, p, *a, **s)
    )
    same(scorer.score(rows), expected)
    assert nodes == [7 + 20 - 1] * 2  # one BOS, six tokens of the parent, and the last one of each child


def test_one_prompt_that_does_not_fit_is_an_error(gpt2, monkeypatch):
    scorer = scorer_of(gpt2.bridge)
    device(monkeypatch, holds=0)
    with pytest.warns(RuntimeWarning), pytest.raises(OutOfMemoryError, match="A single prompt does not fit") as caught:
        scorer.score(IDS[:4])
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)


def test_an_error_of_another_kind_changes_nothing(gpt2, monkeypatch):
    scorer = scorer_of(gpt2.bridge)
    before = scoring(gpt2.bridge).tokens
    monkeypatch.setattr(PackedModel, "run", lambda *arguments, **settings: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        scorer.score(IDS)
    assert scoring(gpt2.bridge).tokens == before and scorer.forward.batches.size is None


# Growing batches.


def test_a_room_that_grows_doubles_while_full_batches_fit(gpt2, monkeypatch, quiet):
    scorer = scorer_of(gpt2.bridge)
    expected, room = scorer.score(IDS), scoring(gpt2.bridge, 8 * TOTAL, grows=True)
    tried = device(monkeypatch)
    same(scorer.score(IDS), expected)
    assert tried == [8, 16, 16] and room.rows(TOTAL) == 32
    tried.clear()
    same(scorer.score(IDS[:20]), Scores(expected.value[:20], expected.cross_entropy[:20]))
    assert tried == [20] and room.rows(TOTAL) == 32  # a batch that is not full tells nothing
    tried.clear()
    scorer.score(IDS)
    scorer.score(IDS)
    assert tried == [32, 8, 40]


def test_a_room_that_does_not_grow_stays(gpt2, monkeypatch, quiet):
    scorer, room = scorer_of(gpt2.bridge), scoring(gpt2.bridge, 8 * TOTAL)
    tried = device(monkeypatch)
    scorer.score(IDS)
    assert tried == [8] * 5 and room == MemoryBudget(8 * TOTAL, grows=False)


def test_what_was_tried_beyond_the_usual_is_taken_back_without_a_warning(gpt2, monkeypatch, quiet):
    monkeypatch.setitem(batching.TOKENS, "cuda", 8 * TOTAL)
    scorer = scorer_of(gpt2.bridge)
    expected, room = scorer.score(IDS), scoring(gpt2.bridge, 8 * TOTAL, grows=True)
    tried = device(monkeypatch, holds=20)
    same(scorer.score(IDS), expected)
    same(scorer.score(IDS), expected)
    assert tried == [8, 16, 16, 32, 16, 16, 8]
    assert room == MemoryBudget(16 * TOTAL, grows=False) and scorer.forward.batches.size is None
    tried.clear()
    scorer.score(IDS)
    assert tried == [16, 16, 8]


def test_the_usual_that_does_not_fit_is_told_and_not_grown_again(gpt2, monkeypatch):
    monkeypatch.setitem(batching.TOKENS, "cuda", 32 * TOTAL)
    scorer, room = scorer_of(gpt2.bridge), scoring(gpt2.bridge, 32 * TOTAL, grows=True)
    tried = device(monkeypatch, holds=20)
    with pytest.warns(RuntimeWarning, match="Out of memory with 32 prompts at once; going on with batches of 16"):
        scorer.score(IDS)
    assert tried == [32, 16, 16, 8] and room == MemoryBudget(16 * TOTAL, grows=False)


# Budgets and limits.


def test_each_kind_of_pass_has_its_own_room(gpt2, llama, monkeypatch):
    scorer = scorer_of(gpt2.bridge)
    slope, usual = scorer.gradient(IDS).of_value(), batching.TOKENS["cpu"]
    device(monkeypatch, holds=15)
    with pytest.warns(RuntimeWarning):
        scorer.score(IDS)
    model = as_hooked(gpt2.bridge)
    assert memory_budget(model, "scoring").tokens == 10 * TOTAL and memory_budget(model, "gradients").tokens == usual
    assert memory_budget(model, "scoring") is memory_budget(model, "scoring") is not memory_budget(model, "gradients")
    assert scoring(llama.bridge).tokens == usual
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        torch.testing.assert_close(scorer.gradient(IDS).of_value(), slope)
    memory_budget(model, "gradients").tokens = 4 * TOTAL
    torch.testing.assert_close(scorer.gradient(IDS).of_value(), slope, atol=1e-5, rtol=1e-5)
    assert memory_budget(model, "scoring").tokens == 10 * TOTAL


@pytest.mark.parametrize(("rows_in_room", "largest"), [(1000, 6), (6, 6), (4, 4)])
@pytest.mark.parametrize("grows", [False, True])
def test_a_given_batch_size_is_a_limit_whatever_the_room(gpt2, monkeypatch, quiet, rows_in_room, largest, grows):
    scorer = scorer_of(gpt2.bridge, batch_size=6)
    expected = scorer_of(gpt2.bridge).score(IDS)
    scoring(gpt2.bridge, rows_in_room * TOTAL, grows)
    tried = device(monkeypatch)
    same(scorer.score(IDS), expected)
    assert tried[0] == largest and max(tried) == (6 if grows else largest) and sum(tried) == 40


def test_the_least_of_all_limits_counts():
    room = MemoryBudget(50, grows=False)
    assert [room.rows(total) for total in (1, 7, 50, 51)] == [50, 7, 1, 1]  # one row is always tried
    assert BatchRunner(None).limit() is None
    assert BatchRunner(None).limit(9) == 9
    assert BatchRunner(3).limit() == 3
    assert BatchRunner(3).limit(2) == 3  # a given size goes before the default
    assert BatchRunner(None).limit(None, room, 10) == 5
    assert BatchRunner(None).limit(4, room, 10) == 4
    assert BatchRunner(None).limit(9, room, 10) == 5
    assert BatchRunner(3).limit(9, room, 10) == 3
    assert BatchRunner(30).limit(9, room, 10) == 5
    assert BatchRunner(30).limit(9, room, 100) == 1


def test_batches_grow_and_shrink_by_what_fits():
    sizes: list[int] = []

    def pass_of(part: slice) -> list[int]:
        sizes.append(part.stop - part.start)
        if sizes[-1] > 5:
            raise torch.OutOfMemoryError("no room")
        return list(range(part.start, part.stop))

    room = MemoryBudget(4, grows=True)
    with pytest.warns(RuntimeWarning, match="Out of memory with 8 things at once"):
        found = BatchRunner(None, "things").map(pass_of, 20, budget=room, row_tokens=2)
    assert sizes == [2, 4, 8, 4, 4, 4, 2] and room == MemoryBudget(8, grows=False)
    assert [i for part in found for i in part] == list(range(20))
    assert BatchRunner(2).map(lambda part: part.stop, 0, budget=room) == []


# Searches.


@pytest.mark.parametrize("feature", [dreams.FEATURE, 'logit(" the")'])
def test_a_dream_with_little_memory_is_the_dream_with_enough(gpt2, monkeypatch, feature):
    whole = dreams.dream(gpt2.bridge, feature)
    tried = device(monkeypatch, holds=TRIAL)
    with pytest.warns(RuntimeWarning, match="Out of memory with"):
        halved = dreams.dream(gpt2.bridge, feature)
    assert sum(size > TRIAL for size in tried) == 1
    alike(halved.history, whole.history)


def test_so_are_several_side_by_side(gpt2, monkeypatch):
    settings = {**dreams.SMALL, "iterations": 8, "seeds": [0, 1]}
    whole = dl.dream([dreams.FEATURE, 'logit(" the")'], gpt2.bridge, **settings)
    device(monkeypatch, holds=TRIAL)
    with pytest.warns(RuntimeWarning, match="Out of memory with"):
        halved = dl.dream([dreams.FEATURE, 'logit(" the")'], gpt2.bridge, **settings)
    for ours, plain in zip(halved, whole, strict=True):
        alike(ours.history, plain.history)


def alike(a: Any, b: Any) -> None:
    np.testing.assert_array_equal(a.ids, b.ids)
    np.testing.assert_allclose(a.value, b.value, atol=1e-4)
    np.testing.assert_allclose(a.cross_entropy, b.cross_entropy, atol=1e-4)


def test_trials_keep_to_the_batch_size_and_to_one_of_equal_features(gpt2, monkeypatch):
    seen: list[int] = []
    gradient, run = BackwardScorer._gradient, PackedModel.run

    def noted(self, rows, *rest):
        seen.append(len(rows))
        return gradient(self, rows, *rest)

    def packed(self, packing, *rest, **named):
        seen.append(packing.rows)
        return run(self, packing, *rest, **named)

    monkeypatch.setattr(BackwardScorer, "_gradient", noted)
    monkeypatch.setattr(PackedModel, "run", packed)
    dl.dream("L1.N3", gpt2.bridge, seeds=range(20), batch_size=4, iterations=1, **{**dreams.SMALL, "restart_every": 0})
    assert max(seen) == 4 and seen.count(2) < 6


def test_a_device_for_a_single_prompt_is_enough(gpt2, monkeypatch):
    monkeypatch.setattr(batching, "_BUDGETS", weakref.WeakKeyDictionary())
    expected = make_scorer("L1.N3", gpt2.bridge).score(np.arange(1, 8)[None])
    run = PackedModel.run

    def little(self, packing, *rest, **named):
        if packing.rows > 1:
            raise torch.OutOfMemoryError("no room")
        return run(self, packing, *rest, **named)

    monkeypatch.setattr(PackedModel, "run", little)
    found = make_scorer("L1.N3", gpt2.bridge).score(np.arange(1, 8)[None])
    np.testing.assert_allclose(found.value, expected.value, atol=1e-5)
