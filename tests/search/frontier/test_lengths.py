"""Prompts of several lengths in one search: tokens are inserted and deleted, and every number is that of the prompt."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dreamy_lens as dl
from dreamy_lens import constraints as rules_of
from dreamy_lens.errors import ConstraintError, FeatureError, PromptError, SettingsError
from dreamy_lens.panels.follower import RunFollower
from dreamy_lens.panels.run_view import view_labels
from dreamy_lens.runs.frames import frames_of
from dreamy_lens.runs.python_code import prompt_code, run_code
from dreamy_lens.search import EPO, ConstraintSet, FrontierSearch
from dreamy_lens.search.frontier import optimizer
from dreamy_lens.search.frontier.crossings import Crossings
from dreamy_lens.search.frontier.donors import Donors
from dreamy_lens.search.frontier.effects import SwapEffects
from dreamy_lens.search.frontier.moves import Moves
from dreamy_lens.search.frontier.offers import KINDS, Batch, deleted, inserted, make_offers
from dreamy_lens.search.lengths import EMPTY, by_length, in_order, lengths_of, right_aligned, without_empty
from tests.helpers import models, waiting
from tests.helpers.dreams import same
from tests.helpers.toy import VOCABULARY

HEAD = "blocks.0.attn.hook_z[-2, 0, 1]"
SMALL = FrontierSearch(iterations=6, length=(3, 7), children=60, parents=4, samples=64)


def search(model: Any, feature: Any = "L1.N3", **settings: Any) -> Any:
    """Run a small search of prompts of three to seven tokens."""
    return dl.dream(feature, model, **{"search": SMALL, "progress": False, **settings})


@pytest.fixture
def restless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave an island after every second iteration."""
    monkeypatch.setattr(optimizer, "PATIENCE", 1)
    monkeypatch.setattr(optimizer, "GROWTH", 100.0)


# Arrays of prompts of several lengths.

PROMPTS = st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=6), min_size=1)


@given(PROMPTS)
def test_prompts_of_several_lengths_are_taken_out_of_an_array_as_they_were_put_in(prompts):
    rows = right_aligned(prompts, 6)
    assert [without_empty(row).tolist() for row in rows] == prompts
    assert lengths_of(rows).tolist() == [len(prompt) for prompt in prompts]
    parts = by_length(rows)
    assert all((ids != EMPTY).all() for _, ids in parts)
    assert in_order([which for which, _ in parts], [ids.sum(axis=1) for _, ids in parts]).tolist() == [
        sum(prompt) for prompt in prompts
    ]


@given(st.lists(st.integers(0, 50), min_size=2, max_size=6), st.data())
def test_a_token_is_inserted_and_deleted_where_it_is_said(prompt, data):
    place = data.draw(st.integers(0, len(prompt) - 1))
    row, column = right_aligned([prompt], 7), np.array([7 - len(prompt) + place])
    longer = inserted(row, column, np.array([99]))
    assert without_empty(longer[0]).tolist() == [*prompt[:place], 99, *prompt[place:]]
    assert without_empty(deleted(row, column)[0]).tolist() == [*prompt[:place], *prompt[place + 1 :]]
    np.testing.assert_array_equal(deleted(longer, column - 1), row)


@given(PROMPTS, st.integers(1, 4))
def test_only_prompts_of_a_length_in_the_range_and_without_gaps_may_stand(prompts, shortest):
    rules = ConstraintSet((), VOCABULARY, 6, shortest=shortest)
    usable = np.flatnonzero(rules.allowed)
    rows = right_aligned([usable[prompt] for prompt in prompts], 6)
    assert rules.may_stand(rows).tolist() == [len(prompt) >= shortest for prompt in prompts]
    gap = np.full((1, 6), usable[0])
    gap[0, 1] = EMPTY
    assert not rules.may_stand(gap).any()


# Moves.


def test_moves_of_every_kind_make_prompts_of_their_parents_tokens():
    rules = ConstraintSet((), VOCABULARY, 6, shortest=3)
    rng, g = np.random.default_rng(0), torch.Generator().manual_seed(0)
    ids, width = rules.random(40, rng), VOCABULARY.size
    ids, others = ids[:6], ids[6:]
    assert len(set(lengths_of(ids).tolist())) > 2
    empty = torch.as_tensor(ids == EMPTY)[..., None]
    surprisal = (torch.rand(6, 6, width, generator=g) * 9).masked_fill(empty, torch.inf)
    own = surprisal.gather(-1, torch.as_tensor(ids).clamp(min=0)[..., None])[..., 0].masked_fill(empty[..., 0], 0.0)
    tables = optimizer.SwapTables(torch.randn(6, 6, width, generator=g), surprisal / 6, surprisal, own)
    batch = Batch(np.arange(6), ids, np.full(6, 0.5, np.float32), lengths_of(ids).astype(np.float32), tables)
    after = torch.log_softmax(torch.randn(width, width, generator=g), 1)
    moves = Moves(rules, 0, optimizer.Bigrams(after, after.T.contiguous()), torch.device("cpu"), 0)
    donors = Donors.of(others, torch.rand(len(others), 6, width, generator=g))
    known = SwapEffects(6, width, 1.0, False, 1.0, 6.0), SwapEffects(6, width, 1.0, False, 1.0, 6.0)
    ranking = moves.rank(batch, known, donors, Crossings(6), 1200, rng)
    offers = make_offers(ranking, tuple(t.numpy() for t in ranking.tensors))
    assert set(offers.kind.tolist()) == set(range(len(KINDS))) and offers.quota.sum() == 1200
    good = rules.may_stand(offers.ids) & (offers.ids != ids[offers.parent]).any(axis=1)
    assert good.mean() > 0.8  # the search drops what may not stand, and copies
    seen, columns = set(), (offers.ids, offers.parent, offers.kind, offers.position)
    for row, parent, kind, cut in zip(*(column[good] for column in columns), strict=True):
        child, old = without_empty(row).tolist(), without_empty(ids[parent]).tolist()
        name, longer = KINDS[kind], len(child) - len(old)
        if name == "insert":
            assert longer == 1 and any(child[:i] + child[i + 1 :] == old for i in range(len(child)))
        elif name == "delete":
            assert longer == -1 and any(old[:i] + old[i + 1 :] == child for i in range(len(old)))
        elif name == "cross":
            assert (row[cut:] == ids[parent, cut:]).all() and (row[:cut] == others[:, :cut]).all(1).any()
            seen.add(longer)
        else:
            assert longer == 0
    assert {-1, 0, 1} <= seen  # crossings give prompts the donor's length


def test_a_deletion_is_ranked_by_the_surprisal_that_the_next_token_then_has():
    rules = ConstraintSet((), VOCABULARY, 4, shortest=1)
    usable = np.flatnonzero(rules.allowed)[:4]
    ids, width = usable[None], VOCABULARY.size
    surprisal = torch.full((1, 4, width), 5.0)
    surprisal[0, 1, usable[2]] = 0.5  # without the token at place 1, the third one is likely
    own = torch.full((1, 4), 5.0)
    tables = optimizer.SwapTables(torch.zeros(1, 4, width), surprisal / 4, surprisal, own)
    batch = Batch(np.arange(1), ids, np.full(1, 100.0, np.float32), np.full(1, 4, np.float32), tables)
    moves = Moves(rules, 0, None, torch.device("cpu"), 0)
    known = SwapEffects(4, width, 1.0, False, 1e-6, 6.0), SwapEffects(4, width, 1.0, False, 1e-6, 6.0)
    places = moves._deletions(batch, known, 1, np.random.default_rng(0))
    assert places[0, 0] == 1


# Runs.


@pytest.mark.parametrize("name", ["gpt2", "neox"])
@pytest.mark.parametrize("feature", ["L1.N3", 'logit(" the")', "blocks.0.hook_resid_post[:, 3].max()", HEAD])
def test_every_score_is_that_of_the_prompt_alone(name, feature):
    model = models.family(name).bridge
    run = search(model, feature)
    history = run.history
    lengths = lengths_of(history.ids)
    assert set(lengths.tolist()) == {3, 4, 5, 6, 7} and len(np.unique(history.ids, axis=0)) == len(history) > 200
    later = history.iteration > 0
    assert len(set(lengths[later].tolist())) > 2
    for length in range(3, 8):
        rows = np.flatnonzero(lengths == length)[::3]
        ids = np.array([history.ids_of(row) for row in rows])
        scores = dl.score(feature, ids, model)
        np.testing.assert_allclose(scores.value, history.value[rows], atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(scores.cross_entropy, history.cross_entropy[rows], atol=1e-4)


def test_the_cross_entropy_is_the_mean_over_the_tokens_that_hugging_face_predicts(gpt2):
    run = search(gpt2.bridge, prepend_bos=True)
    for prompt in run.frontier:
        ids = torch.tensor([[gpt2.bridge.tokenizer.bos_token_id, *prompt.ids]])
        with torch.no_grad():
            loss = gpt2.raw(ids, labels=ids).loss
        assert prompt.cross_entropy == pytest.approx(float(loss), abs=1e-4)
        assert EMPTY not in prompt.ids and len(prompt.tokens) == len(prompt.ids)


def test_without_a_bos_the_first_token_of_every_length_is_not_predicted(gpt2):
    run = search(gpt2.bridge, prepend_bos=False, length=(2, 5))
    history = run.history
    for row in range(0, len(history), 9):
        ids = torch.tensor([history.ids_of(row)])
        with torch.no_grad():
            loss = gpt2.raw(ids, labels=ids).loss
        assert history.cross_entropy[row] == pytest.approx(float(loss), abs=1e-4)
    with pytest.raises(PromptError, match="one token with nothing before it"):
        search(gpt2.bridge, prepend_bos=False, length=(1, 5))


@pytest.mark.parametrize(
    "rules",
    [
        [rules_of.template("Over{dream} it"), rules_of.round_trip()],
        [rules_of.varied(ngram=2, distinct=0.5)],
        [rules_of.fix({-1: " the", -3: " dog"})],
        [rules_of.contexts(["A{dream}", "{dream} B"])],
    ],
)
def test_constraints_hold_for_every_prompt(gpt2, rules):
    run = search(gpt2.bridge, constraints=rules)
    ids, constraints = run.history.ids, run.session.constraint_set
    assert constraints.may_stand(ids).all() and constraints.check(ids).all()
    assert len(set(lengths_of(ids).tolist())) == 5
    best = run.frontier.best()
    assert list(best.ids) == run.history.ids_of(int(run.history.frontier_rows()[-1]))
    scores = run.session.scorer.score(np.array([best.ids]))
    assert best.value == pytest.approx(float(scores.value[0]), abs=1e-4)


def test_ways_of_driving_the_feature_are_kept_for_prompts_of_all_lengths(gpt2):
    run = search(gpt2.bridge, diversity=0.5, iterations=9)
    assert len(set(lengths_of(run.history.ids[run.history.iteration > 4]).tolist())) > 1
    assert len(dl.mechanisms(run).cells) >= 1


@pytest.mark.parametrize("cut", [0, 1, 5])
@pytest.mark.usefixtures("restless")
def test_a_search_that_was_saved_and_loaded_goes_on_as_if_it_had_not_stopped(gpt2, tmp_path, cut):
    whole = search(gpt2.bridge, iterations=10)
    search(gpt2.bridge, iterations=cut, save_to=tmp_path / "run")
    loaded = dl.load_run(tmp_path / "run", gpt2.bridge)
    assert (loaded.config.shortest, loaded.config.length) == (3, 7)
    same(loaded.resume(10 - cut, progress=False).history, whole.history)


def test_searches_side_by_side_are_the_searches_they_would_be_alone(gpt2):
    features = ["L1.N3", 'logit(" the")']
    for run, feature in zip(search(gpt2.bridge, features), features, strict=True):
        alone = search(gpt2.bridge, feature)
        np.testing.assert_array_equal(run.history.ids, alone.history.ids)
        np.testing.assert_allclose(run.history.value, alone.history.value, atol=1e-4, rtol=1e-4)


def test_the_host_waits_once_in_an_iteration_for_an_accelerator(gpt2):
    plain = search(gpt2.bridge)
    with waiting.accelerator() as waits:
        model = waiting.moved(models.new_bridge("gpt2", gpt2.raw))
        run = search(model, iterations=0)
        found = []
        for step in run.steps(6):
            if step.iteration:
                run.take(step)
                found.append(len(waits.seen))
            waits.seen.clear()
    assert found[-2:] == [1] * 2  # those before verify the faster passes of each length
    np.testing.assert_array_equal(run.history.ids, plain.history.ids)


def test_a_start_may_have_any_of_the_lengths(gpt2):
    starts = [[20, 30, 40], [20, 30, 40, 50, 60]]
    run = search(gpt2.bridge, start=starts)
    assert [run.history.ids_of(0), run.history.ids_of(1)] == starts
    wider = search(gpt2.bridge, start=list(range(20, 29)))  # the range is that of the settings, and may grow
    assert (wider.config.shortest, wider.config.length) == (3, 9)
    with pytest.raises(PromptError, match=r"A start has 9 tokens, but length=\(3, 7\) was given"):
        search(gpt2.bridge, start=list(range(20, 29)), length=(3, 7))
    with pytest.raises(PromptError, match=r"have 3, 5 tokens.*length=\(3, 5\)"):
        dl.dream("L1.N3", gpt2.bridge, start=starts, progress=False)
    with pytest.raises(PromptError, match=r"id -1, outside .* history\.all_ids"):
        dl.score("L1.N3", run.history.ids[:2], gpt2.bridge)
    with pytest.raises(PromptError, match="A start has 3 tokens, but shortest=4 was given"):
        dl.dream("L1.N3", gpt2.bridge, start=[20, 30, 40], shortest=4, progress=False)


def test_results_know_prompts_by_their_own_tokens(gpt2):
    run = search(gpt2.bridge)
    vocabulary = run.session.scorer.vocabulary
    frame = run.history.to_pandas(vocabulary)
    assert {len(ids) for ids in frame["ids"]} == {3, 4, 5, 6, 7}
    assert frame["text"].tolist() == [vocabulary.text(ids) for ids in frame["ids"]]
    assert view_labels(run)["subtitle"].endswith("3 to 7 tokens")
    assert "length=(3, 7)" in run_code(run)
    fixed = search(gpt2.bridge, constraints=rules_of.fix({-1: " the"}), iterations=0)
    assert "length=(3, 7)" in prompt_code(fixed)
    past = RunFollower(run).past()
    assert all(EMPTY not in ids for ids in past["ids"]) and min(len(ids) for ids in past["ids"]) < 7
    assert all(frame.text for frame in frames_of(run.history, vocabulary.text))
    runs = search(gpt2.bridge, seeds=2)
    assert all(prompt.text == vocabulary.text(prompt.ids) for prompt in runs.frontier)
    best = run.frontier.best()
    assert best.attribution(k=4).tokens == best.tokens
    again = dl.dream("L1.N3", gpt2.bridge, start=best, search=SMALL, iterations=0, progress=False)
    assert again.start_text and again.history.ids_of(0) == list(best.ids)


def test_a_study_has_the_range_of_its_search(gpt2):
    few = FrontierSearch(iterations=1, length=(3, 5), children=16, samples=16)
    settings: dict = {"feature": "L1.N3", "model": gpt2.bridge, "seeds": 2, "search": few, "progress": False}
    with pytest.raises(SettingsError, match=r"prompts of 3 to 5 tokens, .* random prompts of 12.*length=5"):
        dl.studies.seeds(**settings)
    study = dl.studies.seeds(length=5, **settings)
    assert "length=5" in study.settings["search"] and "shortest=3" in study.settings["search"]


# What is refused.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": (9, 4)}, "shortest is 9, which is more than the length, 4"),
        ({"length": (4, 9, 12)}, "length is .* the smallest and the largest"),
        ({"length": (4, "x")}, "length is 'x'; it must be a whole number"),
        ({"length": (0, 9)}, "shortest is 0; it must be"),
        ({"length": (None, 9)}, "lacks the smallest number of tokens"),
        ({"length": (4, 9), "shortest": 5}, "keep one of them"),
        ({"length": (4, 9), "share_prompts": True}, "leave out share_prompts"),
    ],
)
def test_ranges_that_are_none_are_refused(settings, message):
    with pytest.raises(SettingsError, match=message):
        FrontierSearch(**settings)


def test_other_searches_say_that_they_have_one_length():
    with pytest.raises(SettingsError, match=r"length is \(4, 9\), and EPO searches prompts of one length"):
        EPO(length=(4, 9))  # type: ignore[arg-type]


def test_one_length_may_be_given_as_a_range():
    assert FrontierSearch(length=(6, 6)) == FrontierSearch(length=6)
    config = FrontierSearch.from_settings(FrontierSearch(length=(4, 16)), {"length": (5, 8)})
    assert (config.shortest, config.length) == (5, 8)
    one = FrontierSearch.from_settings(FrontierSearch(length=(4, 16)), {"length": 6})
    assert one == FrontierSearch(length=6)  # one number replaces a range


@pytest.mark.parametrize("place", ["[3, 5]", "[-4, 5]", "[3:, 5].max()"])
def test_a_feature_reads_only_where_every_prompt_has_a_token(gpt2, place):
    with pytest.raises(FeatureError, match=r"In the shortest prompts, of 3 tokens: .*positions 0 to 2"):
        search(gpt2.bridge, f"blocks.0.hook_resid_post{place}")


def test_a_token_can_be_fixed_only_where_every_prompt_has_one(gpt2):
    with pytest.raises(ConstraintError, match=r"position 0, and prompts have 3 to 7 tokens here.*-1 to -3"):
        search(gpt2.bridge, constraints=rules_of.fix({0: " the"}))
    all_of_three = rules_of.fix({-1: " the", -2: " dog", -3: " and"})
    with pytest.raises(ConstraintError, match=r"shortest prompts, of 3, have only fixed tokens.*length=\(4, 7\)"):
        search(gpt2.bridge, constraints=all_of_three)
    assert len(search(gpt2.bridge, constraints=all_of_three, length=(4, 7), iterations=1).frontier)
    with pytest.raises(ConstraintError, match="the BOS at the beginning of the shortest prompts"):
        search(gpt2.bridge, constraints=rules_of.fix({-3: gpt2.bos}))
