"""Tokens: which may be proposed, how they read, and which prompts survive being written down."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models
from transformers import PreTrainedTokenizerFast

from dreamy_lens.errors import PromptError, TokenError, TokenizerError
from dreamy_lens.models import Vocabulary, as_hooked
from dreamy_lens.models.vocabulary import REPLACEMENT
from tests.helpers.models import BOS, PADDED, tokenizer

SIZE = len(tokenizer())
VOCABULARY = Vocabulary(tokenizer(), SIZE + PADDED)


# What may be proposed.


def test_everything_but_specials_and_padded_rows_may_be_proposed():
    assert VOCABULARY.allowed.shape == (SIZE + PADDED,) and VOCABULARY.allowed.dtype == bool
    assert np.flatnonzero(~VOCABULARY.allowed).tolist() == [0, *range(SIZE, SIZE + PADDED)]
    assert VOCABULARY.special == {0}


def test_a_model_s_vocabulary_counts_the_rows_of_its_embedding(family):
    vocabulary = as_hooked(family.bridge).vocabulary
    assert vocabulary.size == SIZE + PADDED
    assert (vocabulary.allowed == VOCABULARY.allowed).all()


def test_fewer_rows_than_tokens_are_the_limit():
    vocabulary = Vocabulary(tokenizer(), 100)
    assert len(vocabulary.allowed) == 100 and vocabulary.allowed.sum() == 99
    with pytest.raises(TokenError, match="has ids 0 to 99"):
        vocabulary.token_id(100)


def test_added_tokens_are_proposed_unless_they_are_special():
    added = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(tokenizer().backend_tokenizer.to_str()))
    added.add_tokens(["walrus"])
    added.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    vocabulary = Vocabulary(added, len(added))
    (walrus, turn) = (added.convert_tokens_to_ids(name) for name in ("walrus", "<|turn|>"))
    assert vocabulary.allowed[walrus] and not vocabulary.allowed[turn] and not vocabulary.allowed[0]
    assert vocabulary.token_id("walrus") == walrus and vocabulary.token_id("<|turn|>") == turn


def test_a_trained_model_s_specials_are_left_out(stories):
    vocabulary = as_hooked(stories.bridge).vocabulary
    left_out = set(np.flatnonzero(~vocabulary.allowed).tolist())
    specials = set(stories.tokenizer.all_special_ids)
    assert specials <= left_out and all(vocabulary.piece(i) == "" for i in left_out - specials)
    assert len(left_out) <= len(specials) + 1


def test_a_tokenizer_without_tokens_is_an_error_that_names_the_files():
    with pytest.raises(TokenizerError, match="no tokenizer"):
        Vocabulary(None, 10)
    empty = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(tokenizer_models.BPE()), bos_token=BOS)
    with pytest.raises(TokenizerError, match=r"none that could stand in a prompt.*tokenizer\.json"):
        Vocabulary(empty, 10)


# How tokens read.


@given(st.text(st.characters(max_codepoint=126, min_codepoint=32)))
def test_pieces_of_plain_text_join_to_the_text(text):
    ids = VOCABULARY.encode(text)
    assert "".join(VOCABULARY.tokens(ids)) == VOCABULARY.text(ids) == text


def test_half_characters_read_as_replacement_characters():
    ids = VOCABULARY.encode("é")
    assert len(ids) == 2 and VOCABULARY.text(ids) == "é"
    assert VOCABULARY.tokens(ids) == [REPLACEMENT, REPLACEMENT]
    assert VOCABULARY.text(ids[:1]) == REPLACEMENT


def test_spaces_before_words_are_part_of_the_piece_in_every_kind_of_tokenizer(stories):
    for vocabulary in (VOCABULARY, as_hooked(stories.bridge).vocabulary):
        ids = vocabulary.encode("the house over the hill")
        assert "".join(vocabulary.tokens(ids)).strip() == "the house over the hill"
        assert vocabulary.piece(ids[-1]) != vocabulary.piece(ids[-1]).strip() or len(ids) > 5


def test_rows_without_a_token_read_as_nothing():
    assert VOCABULARY.piece(SIZE) == "" and VOCABULARY.piece(-1) == ""
    assert VOCABULARY.piece(0) == BOS


def test_spaces_before_punctuation_are_not_cleaned_up():
    for text in ("the dog , the cat .", "do n't", " the  dog "):
        assert VOCABULARY.text(VOCABULARY.encode(text)) == text


# Text and back.


@given(st.text())
def test_the_ids_of_any_text_round_trip(text):
    ids = VOCABULARY.encode(text)
    assert VOCABULARY.round_trips(ids) and VOCABULARY.text(ids) == text
    assert VOCABULARY.round_trips(np.array(ids, dtype=np.int64))


def test_encoding_adds_no_special_tokens():
    assert tokenizer().encode("the")[0] == 0  # the tokenizer itself does
    assert 0 not in VOCABULARY.encode("the dog")
    assert VOCABULARY.encode("") == []


def test_ids_that_their_text_would_not_give_do_not_round_trip():
    (dog,) = VOCABULARY.encode(" dog")
    letters = [VOCABULARY.token_id(c) for c in " dog"]
    assert VOCABULARY.text(letters) == VOCABULARY.text([dog])
    assert VOCABULARY.round_trips([dog]) and not VOCABULARY.round_trips(letters)
    assert not VOCABULARY.round_trips(VOCABULARY.encode("é")[:1])


@given(st.lists(st.text(), max_size=4))
def test_many_texts_are_encoded_like_each(texts):
    assert VOCABULARY.encode_many(texts) == [VOCABULARY.encode(text) for text in texts]


def test_equal_tokenizers_have_equal_digests(gpt2, llama, stories):
    same, also, other = (as_hooked(f.bridge).vocabulary.digest for f in (gpt2, llama, stories))
    assert same == also == VOCABULARY.digest != other


# Targets.


def test_a_target_is_one_token_by_text_or_id():
    (dog,) = VOCABULARY.encode(" dog")
    assert VOCABULARY.token_id(" dog") == VOCABULARY.token_id(dog) == dog
    assert VOCABULARY.token_id(BOS) == VOCABULARY.token_id(0) == 0
    assert VOCABULARY.token_id(SIZE + PADDED - 1) == SIZE + PADDED - 1  # a row without a token has a logit, too


def test_a_target_of_several_tokens_shows_the_split_and_offers_the_first():
    with pytest.raises(TokenError) as caught:
        VOCABULARY.token_id(" dog house")
    ids = VOCABULARY.encode(" dog house")
    assert "' dog house' is 2 tokens here: ' dog' + ' house'" in str(caught.value)
    assert f"take the first, ' dog' (id {ids[0]})" in str(caught.value)
    assert "leading space" not in str(caught.value)


def test_a_forgotten_leading_space_is_noticed():
    with pytest.raises(TokenError, match="or ' house' with a leading space, which is one token"):
        VOCABULARY.token_id("house")


def test_targets_that_are_no_token_are_told_what_there_is():
    for token in (-1, SIZE + PADDED):
        with pytest.raises(TokenError, match=rf"Token {token} is outside .* ids 0 to {SIZE + PADDED - 1}"):
            VOCABULARY.token_id(token)
    with pytest.raises(TokenError, match="no token at all"):
        VOCABULARY.token_id("")


# Ids from users.


def test_prompts_are_checked_ids():
    for ids in ([3, 4], [[3, 4], [5, 6]], np.array([3, 4], np.int32), (3, 4)):
        checked = VOCABULARY.check(ids)
        assert checked.dtype == np.int64 and checked.tolist() == np.asarray(ids).tolist()


@pytest.mark.parametrize(
    ("ids", "sentence"),
    [
        ([], r"got shape \[0\]"),
        ([1.5], "got shape .*float"),
        (3, r"got shape \[\]"),
        ([[[1]]], r"got shape \[1, 1, 1\]"),
        ([True], "bool"),
        ([-1, 4], "contains id -1"),
        ([4, 10**6], "contains id 1000000, outside the vocabulary, which has ids 0 to"),
    ],
)
def test_what_is_no_prompt_is_refused(ids, sentence):
    with pytest.raises(PromptError, match=sentence):
        VOCABULARY.check(ids)


def test_gaps_in_the_ids_are_not_proposed_and_nothing_is_cut_off():
    words = Tokenizer(tokenizer_models.WordLevel({"a": 0, "b": 2, "c": 9}, unk_token="a"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.decoder = decoders.Fuse()
    vocabulary = Vocabulary(PreTrainedTokenizerFast(tokenizer_object=words), 12)
    assert np.flatnonzero(vocabulary.allowed).tolist() == [0, 2, 9]


# What is long or large.


def test_unknown_targets_of_any_length_give_short_errors():
    for target in ("dog " * 200, "dog" * 300_000):
        with pytest.raises(TokenError) as caught:
            VOCABULARY.token_id(target)
        assert len(str(caught.value)) < 500
    with pytest.raises(TokenError, match="a number of thousands of digits is outside the vocabulary"):
        VOCABULARY.token_id(10**5000)


def test_targets_and_ids_without_a_row_are_named():
    vocabulary = Vocabulary(tokenizer(), 100)
    over = VOCABULARY.token_id(" over")
    with pytest.raises(TokenError, match=f"'Ġover' with id {over}, and the model's embedding has rows for .* 0 to 99"):
        vocabulary.token_id(" over")
    with pytest.raises(PromptError, match=f"the token 'Ġover' with id {over}, outside the vocabulary"):
        vocabulary.check([1, over])
    with pytest.raises(PromptError, match=f"id {SIZE}, and the tokenizer has no such token"):
        VOCABULARY.check([1, SIZE])
