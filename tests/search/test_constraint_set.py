"""Constraints where they meet: numpy ids, templates and forbidden text, fixed tokens, values that are not finite."""

from __future__ import annotations

import json

import numpy as np
import pytest

import dreamy_lens as dl
from dreamy_lens import constraints as rules_of
from dreamy_lens.errors import ConstraintError, FeatureError, SettingsError
from dreamy_lens.models import Vocabulary
from dreamy_lens.search import EPO, ConstraintSet, to_dict
from tests.helpers import models


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary(models.tokenizer(), len(models.tokenizer()) + models.PADDED)


def test_ids_out_of_arrays_are_ids():
    """Users write `forbid_tokens(*run.history.ids[0])`, and the constraint must fit into JSON."""
    row = np.array([5, 7], dtype=np.int32)
    assert rules_of.forbid_tokens(*row) == rules_of.forbid_tokens(5, 7)
    fixed = rules_of.fix({np.int64(0): row[1]})
    assert fixed == rules_of.fix({0: 7}) and json.loads(json.dumps(to_dict(fixed)))["at"] == [[0, 7]]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            lambda: rules_of.forbid_tokens([1, 2]),
            r"got \[1, 2\]. Give several tokens one by one: forbid_tokens\(\*tokens\)",
        ),
        (lambda: rules_of.forbid_tokens(1.5), r"takes a token as its text or its id; got 1.5"),
        (lambda: rules_of.forbid_tokens(True), "got True"),
        (lambda: rules_of.forbid_tokens(""), "got ''"),
        (lambda: rules_of.fix({"a": 1}), r"'a' is not a position: use 0, 1, \.\.\. or -1"),
        (lambda: rules_of.fix([1]), r"takes tokens by position, as in fix\(\{0:"),
        (lambda: rules_of.fix({0: None}), "takes a token as its text or its id; got None"),
    ],
)
def test_what_is_not_a_token_or_a_position_is_refused_when_written(make, told):
    with pytest.raises(ConstraintError, match=told):
        make()


def test_text_may_not_arise_where_prompt_and_template_meet(vocabulary):
    ids = np.array([vocabulary.encode(" dog")[:1] * 3])
    piece = vocabulary.piece(ids[0, 0])
    head = piece.strip()[0]  # the template ends with this letter, and the prompt continues with the rest
    rest = vocabulary.encode(piece.strip()[1:])
    row = np.array([rest])
    forbidden = rules_of.forbid_text(piece)
    assert ConstraintSet([forbidden], vocabulary, len(rest)).check(row).all()
    assert (
        not ConstraintSet([forbidden, rules_of.template(f"A {head}{{dream}}")], vocabulary, len(rest)).check(row).any()
    )
    own = rules_of.template(f"A{piece}, and {{dream}}")  # the template may contain it, because the user wrote it
    assert ConstraintSet([forbidden, own], vocabulary, len(rest)).check(row).all()


def test_fixed_tokens_with_forbidden_text_are_found_at_once(vocabulary):
    with pytest.raises(
        ConstraintError, match=r"Position 2 is fixed to ' dog', but a constraint asks for prompts without the text"
    ):
        ConstraintSet([rules_of.fix({2: " dog"}), rules_of.forbid_text("DOG")], vocabulary, 4)


def test_a_templates_text_is_what_the_model_reads_on_sentencepiece(stories):
    """A word tokenizer must not put a space of its own between the prompt and the suffix."""
    vocabulary = Vocabulary(stories.bridge.tokenizer, stories.bridge.cfg.d_vocab)
    for after in ("\nAssistant:", " and then", "!", "so"):
        rules = ConstraintSet([rules_of.template("User: {dream}" + after)], vocabulary, 4)
        row = vocabulary.encode("Once upon a time")[:4]
        assert vocabulary.text([*row, *rules.suffix]) == vocabulary.text(row) + after


def test_random_starts_that_are_not_finite_are_drawn_again():
    """Half of all prompts are NaN, so a single member often begins on one of them."""
    hook = "blocks.1.mlp.hook_post"

    def sometimes(found):
        value = found[hook][:, -1, 0]
        return value.where(found[hook][:, -1, 1] > found[hook][:, -1, 2], float("nan"))

    feature = dl.custom("nan on half", [hook], sometimes)
    lost = 0
    for seed in range(6):
        run = dl.dream(feature, seed=seed, iterations=1, population=1, children=4, length=4, progress=False)
        assert np.isfinite(run.history.value).all() and len(run.population) == 1
        lost += run.history.non_finite
    assert lost > 3
    never = dl.custom("never finite", [hook], lambda found: found[hook][:, -1, 0] * float("nan"))
    with pytest.raises(FeatureError, match=r"every one of the \d\d+ initial prompts that were tried"):
        dl.dream(never, iterations=1, population=2, length=4, progress=False)


def test_settings_out_of_numpy_are_settings_and_words_are_not():
    given = {"keep_parents": np.True_, "prepend_bos": np.False_, "batch_size": np.int64(4)}
    config = EPO(**given)
    assert config.keep_parents is True and config.prepend_bos is False and config.batch_size == 4
    for name in ("keep_parents", "prepend_bos"):
        with pytest.raises(SettingsError, match=f"{name} is 'no'; use True or False"):
            EPO(**{name: "no"})
    with pytest.raises(SettingsError, match="batch_size is 'many'; it must be a whole number"):
        EPO(batch_size="many")
