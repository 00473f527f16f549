"""Constraints: allowed tokens, allowed prompts, and the errors if no token or prompt is left."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dreamy_lens import constraints as rules_of
from dreamy_lens.errors import ConstraintError, TokenError
from dreamy_lens.models import Vocabulary
from dreamy_lens.models.vocabulary import REPLACEMENT
from dreamy_lens.search import ConstraintSet, from_dict, to_dict
from tests.helpers import models
from tests.helpers.models import BOS

LENGTH = 6


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary(models.tokenizer(), len(models.tokenizer()) + models.PADDED)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def ids(vocabulary: Vocabulary, *texts: str) -> np.ndarray:
    return np.array([[vocabulary.token_id(piece) for piece in texts]])


# Tokens.


def test_special_and_padded_rows_are_never_allowed(vocabulary, rng):
    rules = ConstraintSet([], vocabulary, LENGTH)
    assert not rules.allowed[0] and not rules.allowed[len(models.tokenizer()) :].any()
    drawn = rules.random(500, rng)
    assert drawn.shape == (500, LENGTH) and drawn.dtype == np.int64
    assert rules.allowed[drawn].all()
    assert len(np.unique(drawn)) > 300  # every other token is drawn


def test_forbidden_tokens_by_text_and_by_id(vocabulary, rng):
    the = vocabulary.token_id(" the")
    rules = ConstraintSet([rules_of.forbid_tokens(" the", 17)], vocabulary, LENGTH)
    assert not rules.allowed[[the, 17]].any()
    assert rules.allowed.sum() == vocabulary.allowed.sum() - 2
    assert not np.isin(rules.random(200, rng), [the, 17]).any()
    with pytest.raises(
        ConstraintError, match=r"has the token ' the' .* position 1, which may not be used here .*without the token"
    ):
        rules.require(ids(vocabulary, "A", " the", " dog", " dog", " dog", " dog"))
    with pytest.raises(TokenError, match="is 2 tokens here"):
        ConstraintSet([rules_of.forbid_tokens(" dog house")], vocabulary, LENGTH)


def test_long_lists_of_tokens_are_described_in_short():
    assert rules_of.forbid_tokens(*range(100)).describe() == "without the tokens 0, 1, 2, 3, 4, 5, 6, 7 and 92 more"


def test_printable_tokens_are_whole_characters_that_show(vocabulary, rng):
    rules = ConstraintSet([rules_of.printable()], vocabulary, LENGTH)
    pieces = [vocabulary.piece(i) for i in np.flatnonzero(rules.allowed)]
    assert " the" in pieces and "\n" in pieces and 50 < len(pieces) < vocabulary.allowed.sum()
    assert not any(REPLACEMENT in piece or "\x19" in piece or "\x7f" in piece for piece in pieces)
    text = vocabulary.text(rules.random(50, rng).reshape(-1))
    assert all(c.isprintable() or c in "\n\t" for c in text)


# Text.


@pytest.mark.parametrize("needle", ["dog", "DOG", " Dog "])
def test_forbidden_text_in_any_case_within_a_token(vocabulary, needle):
    rules = ConstraintSet([rules_of.forbid_text(needle)], vocabulary, LENGTH)
    assert not rules.allowed[vocabulary.token_id(" dog")]
    assert rules.allowed[vocabulary.token_id(" house")]


def test_forbidden_text_across_tokens(vocabulary):
    rules = ConstraintSet([rules_of.forbid_text("dog")], vocabulary, LENGTH)
    rows = np.concatenate([
        ids(vocabulary, "a", "d", "o", "g", "s", "!"),
        ids(vocabulary, "a", "D", "o", "G", "s", "!"),
        ids(vocabulary, "a", "d", "o", "t", "s", "!"),
        ids(vocabulary, "d", "o", "n", "e", "g", "!"),
    ])  # fmt: skip
    assert rules.check(rows).tolist() == [False, False, True, True]
    with pytest.raises(
        ConstraintError, match=r"The start 'adogs!' breaks a constraint: without the text 'dog' in any case\. Change"
    ):
        rules.require(rows[:1])
    rules.require(rows[2:])


def test_forbidden_text_is_some_text():
    for bad in ("", "  ", None, 3):
        with pytest.raises(ConstraintError, match="takes some visible text"):
            rules_of.forbid_text(bad)  # type: ignore[arg-type]


def test_round_trips(vocabulary, rng):
    rules = ConstraintSet([rules_of.round_trip()], vocabulary, LENGTH)
    whole = vocabulary.encode(" the dog and the house")
    row = np.array([(whole * 2)[:LENGTH]])
    assert rules.check(row).all()
    split = ids(vocabulary, " ", "t", "h", "e", " dog", "s")  # would be encoded as " the"
    assert not rules.check(split).any()
    drawn = rules.random(40, rng)
    assert all(vocabulary.encode(vocabulary.text(row)) == row.tolist() for row in drawn)
    loose = ConstraintSet([], vocabulary, LENGTH).random(200, rng)
    assert not all(vocabulary.round_trips(row) for row in loose)


def test_round_trips_inside_a_template(vocabulary):
    alone = ConstraintSet([rules_of.round_trip()], vocabulary, 2)
    inside = ConstraintSet([rules_of.template(" do{dream} over"), rules_of.round_trip()], vocabulary, 2)
    rows = np.concatenate([ids(vocabulary, "g", " cat"), ids(vocabulary, "!", " cat")])
    assert alone.check(rows).tolist() == [True, True]
    assert inside.check(rows).tolist() == [False, True]  # " do" and "g" would be encoded as " dog"


# Positions.


def test_fixed_tokens_stand_where_they_should(vocabulary, rng):
    rules = ConstraintSet([rules_of.fix({0: " the", -1: 17})], vocabulary, LENGTH)
    assert rules.fixed == {0: vocabulary.token_id(" the"), LENGTH - 1: 17}
    assert rules.free_positions.tolist() == [1, 2, 3, 4]
    drawn = rules.random(30, rng)
    assert (drawn[:, 0] == vocabulary.token_id(" the")).all() and (drawn[:, -1] == 17).all()
    drawn[4, 0] = 18
    with pytest.raises(ConstraintError, match="at position 0, where ' the' is fixed"):
        rules.require(drawn)


def test_a_fixed_token_need_not_be_one_that_may_be_proposed(vocabulary, rng):
    rules = ConstraintSet([rules_of.fix({0: " dog"}), rules_of.forbid_tokens(" dog")], vocabulary, LENGTH)
    drawn = rules.random(30, rng)
    assert (drawn[:, 0] == vocabulary.token_id(" dog")).all() and not (
        drawn[:, 1:] == vocabulary.token_id(" dog")
    ).any()
    rules.require(drawn)
    assert ConstraintSet([rules_of.fix({0: BOS})], vocabulary, LENGTH).fixed == {0: 0}


@pytest.mark.parametrize(
    ("at", "said"),
    [
        ({6: " the"}, "names position 6, and prompts of 6 tokens have positions 0 to 5"),
        ({-7: " the"}, "names position -7"),
        ({2: " dog house"}, r"2: ' dog house' is 2 tokens here\. Fix one .* fix\(\{2: ' dog', 3: ' house'\}\)\.$"),
        ({-1: " dog house"}, r"at position -1: .* fix\(\{-2: ' dog', -1: ' house'\}\)\.$"),
        ({0: " the", -6: " dog"}, "Position 0 is fixed to two different tokens"),
        (dict.fromkeys(range(6), 5), "All 6 positions are fixed, so there is nothing to search; free one"),
    ],
)
def test_positions_that_cannot_be_fixed(vocabulary, at, said):
    with pytest.raises(ConstraintError, match=said):
        ConstraintSet([rules_of.fix(at)], vocabulary, LENGTH)


def test_equal_fixes_of_one_position_agree(vocabulary):
    assert ConstraintSet([rules_of.fix({0: 5, -6: 5})], vocabulary, LENGTH).fixed == {0: 5}


# Templates.


def test_a_template_is_tokenized_on_either_side(vocabulary):
    rules = ConstraintSet([rules_of.template("The dog{dream} and the cat")], vocabulary, LENGTH)
    assert rules.prefix == vocabulary.encode("The dog") and rules.suffix == vocabulary.encode(" and the cat")
    bare = ConstraintSet([rules_of.template("{dream}")], vocabulary, LENGTH)
    assert bare.prefix == bare.suffix == []


@pytest.mark.parametrize("text", ["no place", "{dream} and {dream}", "", None])
def test_a_template_has_one_place(text):
    with pytest.raises(ConstraintError, match=r"has the prompt's place, \{dream\}, exactly once; got"):
        rules_of.template(text)


def test_there_is_one_template(vocabulary):
    with pytest.raises(ConstraintError, match="There can be only one template; got 2"):
        ConstraintSet([rules_of.template("a{dream}"), rules_of.template("{dream}b")], vocabulary, LENGTH)


# Nothing left.


def test_an_empty_vocabulary(vocabulary):
    everything = rules_of.forbid_tokens(*range(vocabulary.size))
    with pytest.raises(
        ConstraintError, match=r"The constraints leave none of the vocabulary's 335 tokens, .*without the tokens 0, 1"
    ):
        ConstraintSet([everything], vocabulary, LENGTH)


def test_a_vocabulary_of_one_token_is_nothing_to_search(vocabulary):
    all_but_one = rules_of.forbid_tokens(*(i for i in range(vocabulary.size) if i != 20))
    with pytest.raises(
        ConstraintError, match="leave only 1 of the vocabulary's 335 tokens, so there is nothing to search"
    ):
        ConstraintSet([all_but_one], vocabulary, LENGTH)
    two = rules_of.forbid_tokens(*(i for i in range(vocabulary.size) if i not in (20, 21)))
    assert ConstraintSet([two], vocabulary, LENGTH).allowed.sum() == 2


def test_prompts_that_hardly_any_draw_gives(vocabulary, rng):
    rules = ConstraintSet([rules_of.fix({0: "d", 1: "o", 2: "g"}), rules_of.forbid_text("dog")], vocabulary, LENGTH)
    with pytest.raises(
        ConstraintError, match=r"Of 12800 random prompts of 6 tokens only 0 obey the constraints .*, and 8 are needed"
    ):
        rules.random(8, rng)


def test_what_is_no_constraint(vocabulary):
    with pytest.raises(
        ConstraintError,
        match=r"'dog' is not a constraint; use those of dl.constraints .*: chat, contexts, fix, forbid",
    ):
        ConstraintSet(["dog"], vocabulary, LENGTH)  # type: ignore[list-item]


def test_a_start_with_a_special_token(vocabulary):
    row = ids(vocabulary, BOS, " dog")
    with pytest.raises(
        ConstraintError, match=r"token '<\|endoftext\|>' \(id 0\) at position 0, which is special or unused"
    ):
        ConstraintSet([], vocabulary, 2).require(row)


# As values.

ALL = [
    rules_of.forbid_tokens(" the", 17),
    rules_of.forbid_text("dog"),
    rules_of.round_trip(),
    rules_of.printable(),
    rules_of.fix({0: " the", -1: 3}),
    rules_of.template("a{dream}\nb"),
]


@pytest.mark.parametrize("constraint", ALL, ids=lambda c: type(c).__name__)
def test_constraints_are_values_that_json_can_carry(constraint):
    again = from_dict(json.loads(json.dumps(to_dict(constraint))))
    assert again == constraint and hash(again) == hash(constraint)
    assert again.describe() == constraint.describe()
    assert sum(again == other for other in ALL) == 1


def test_a_constraint_of_an_unknown_kind():
    with pytest.raises(ConstraintError, match="no constraint of the kind 'Rhyme'; there are: ForbidTokens"):
        from_dict({"kind": "Rhyme"})


def test_several_constraints_hold_together(vocabulary, rng):
    rules = ConstraintSet(
        [rules_of.round_trip(), rules_of.printable(), rules_of.forbid_text("the")], vocabulary, LENGTH
    )
    assert rules.describe() == "round-trips through its text; printable; without the text 'the' in any case"
    for row in rules.random(25, rng):
        text = vocabulary.text(row)
        assert vocabulary.encode(text) == row.tolist() and "the" not in text.lower()
        assert all(c.isprintable() or c in "\n\t" for c in text)


# Repetition.


def test_varied_prompts_have_no_sequence_twice_and_enough_distinct_tokens(vocabulary, rng):
    rules = ConstraintSet([rules_of.varied(ngram=2, distinct=0.5)], vocabulary, LENGTH)
    rows = np.array(
        [[1, 2, 3, 4, 5, 6], [1, 2, 3, 1, 2, 4], [1, 1, 2, 2, 1, 3], [1, 2, 1, 3, 1, 4], [1, 1, 1, 1, 2, 3]]
    )
    assert rules.check(rows).tolist() == [True, False, True, True, False]
    assert rules.check(rules.random(100, rng)).all()
    with pytest.raises(ConstraintError, match="breaks a constraint: without a sequence of 2 tokens that occurs twice"):
        rules.require(ids(vocabulary, " dog", " the", " dog", " the", " dog", " the"))


def test_varied_survives_being_saved():
    rule = rules_of.varied(ngram=4, distinct=0.25)
    assert from_dict(json.loads(json.dumps(to_dict(rule)))) == rule


@pytest.mark.parametrize(
    "arguments", [{"ngram": 0}, {"ngram": 2.5}, {"ngram": True}, {"distinct": -0.1}, {"distinct": 2}]
)
def test_varied_refuses_what_makes_no_sense(arguments):
    with pytest.raises(ConstraintError, match=r"varied\(\) takes"):
        rules_of.varied(**arguments)
