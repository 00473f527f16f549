"""Windows are exactly those of a naive loop, for every tokenizer, and each can be located in its document."""

from __future__ import annotations

import copy
import random
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dreamy_lens as dl
from dreamy_lens.corpus import Block, Section, WindowSettings, cut_windows
from dreamy_lens.corpus.windows import NO_HASH
from dreamy_lens.errors import SettingsError
from dreamy_lens.models import Vocabulary
from dreamy_lens.models.vocabulary import REPLACEMENT
from tests.helpers import models

WORDS = ["The", " dog", " dogs", "\n", " ", "  ", "é", "日本", "🙂", "house", ",", models.BOS, "<|end", "x" * 7]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary(models.tokenizer(), len(models.tokenizer()) + models.PADDED)


@pytest.fixture(scope="module")
def embedded() -> Vocabulary:
    model = dl.load_model()
    return Vocabulary(model.tokenizer, model.cfg.d_vocab)


def block(*texts: str, start: int = 0) -> Block:
    return Block(0, 0, tuple(Section(f"text {i}", start, text) for i, text in enumerate(texts)))


def naive(texts: list[str], vocabulary: Vocabulary, length: int, stride: int) -> dict[str, Any]:
    """Return the windows of texts, computed by a plain loop."""
    windows, seen, duplicates, short, offset, bounds = [], set(), 0, 0, 0, [0]
    for s, text in enumerate(texts):
        ids = vocabulary.encode(text)
        begin, any_window = 0, False
        while begin <= len(ids):
            end = begin
            while end < len(ids) and ids[end] not in vocabulary.special and ids[end] < vocabulary.size:
                end += 1
            for start in range(begin, end - length + 1, stride):
                any_window = True
                window = tuple(ids[start : start + length])
                if window in seen:
                    duplicates += 1
                else:
                    seen.add(window)
                    windows.append((offset + start, s, window))
            begin = end + 1
        short += not any_window
        offset += len(ids)
        bounds.append(offset)
    return {"windows": windows, "duplicates": duplicates, "short": short, "bounds": bounds}


def cut(texts: list[str], vocabulary: Vocabulary, length: int, stride: int | None) -> dict[str, Any]:
    windows = cut_windows(block(*texts), vocabulary, WindowSettings(length, stride))
    assert windows.tokens.dtype == windows.section.dtype == np.int32
    assert windows.ids.shape == (len(windows), length)
    assert {a.dtype for a in (windows.starts, windows.bounds, windows.hashes, windows.ids)} == {np.dtype(np.int64)}
    rows = [
        (int(a), int(b), tuple(ids.tolist()))
        for a, b, ids in zip(windows.starts, windows.section, windows.ids, strict=True)
    ]
    assert len(set(windows.hashes.tolist())) == len(rows)
    bounds = windows.bounds.tolist()
    return {"windows": rows, "duplicates": windows.duplicates, "short": windows.short, "bounds": bounds}


@given(
    texts=st.lists(st.lists(st.sampled_from(WORDS), max_size=12).map("".join) | st.text(max_size=20), max_size=6),
    length=st.integers(1, 9),
    stride=st.integers(1, 11) | st.none(),
)
def test_windows_are_those_of_a_naive_loop(texts: list[str], length: int, stride: int | None):
    vocabulary = Vocabulary(models.tokenizer(), len(models.tokenizer()) + models.PADDED)
    texts = [text for text in texts if text]
    assert cut(texts, vocabulary, length, stride) == naive(texts, vocabulary, length, stride or length)


@pytest.mark.parametrize("stride", [None, 1, 5])
def test_windows_are_those_of_a_naive_loop_for_trained_tokenizers(stories: models.Family, embedded, stride):
    texts = [
        f"Once upon a time, {name} went over the hill. 日本 <s> And {name} 🙂 slept.\n" for name in ("Tim", "a dog")
    ]
    for vocabulary in (Vocabulary(stories.tokenizer, 512), embedded):
        assert cut(texts, vocabulary, 6, stride) == naive(texts, vocabulary, 6, stride or 6)


def test_a_tokenizer_written_in_python_will_do():
    from transformers import ByT5Tokenizer

    tokenizer = ByT5Tokenizer()
    assert not tokenizer.is_fast
    vocabulary = Vocabulary(tokenizer, len(tokenizer))
    texts = ["The house é 日本 🙂 of the king.", "Another one."]
    assert cut(texts, vocabulary, 5, 1) == naive(texts, vocabulary, 5, 1)
    check_characters(texts, vocabulary, 5)


def test_special_tokens_and_ids_without_an_embedding_are_in_no_window(vocabulary: Vocabulary):
    text = f"The dog runs.{models.BOS}The cat sleeps.{models.BOS}{models.BOS}The sun"
    windows = cut_windows(block(text), vocabulary, WindowSettings(3, 1))
    assert windows.tokens.tolist().count(0) == 3 and not (windows.ids == 0).any()
    assert 0 in windows.starts and (windows.starts == windows.tokens.tolist().index(0) + 1).any()
    small = Vocabulary(models.tokenizer(), 60)
    assert cut([text], small, 2, 1) == naive([text], small, 2, 1)
    assert (cut_windows(block(text), small, WindowSettings(2, 1)).ids < 60).all()


def test_equal_windows_have_equal_hashes_in_all_blocks(vocabulary: Vocabulary):
    one, two = (
        cut_windows(block(t), vocabulary, WindowSettings(4, 1))
        for t in ("The dog and the cat sleeps", "A dog and the cat sleeps")
    )
    hashes = {tuple(i): h for w in (one, two) for i, h in zip(w.ids.tolist(), w.hashes.tolist(), strict=True)}
    assert len(set(hashes.values())) == len(hashes) < len(one) + len(two)
    assert NO_HASH not in hashes.values()
    other = cut_windows(block("The dog and the cat"), vocabulary, WindowSettings(5, 1))
    assert not set(other.hashes.tolist()) & set(hashes.values())


def test_no_window_hashes_to_the_number_that_stands_for_none(vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("dreamy_lens.corpus.windows._mix", lambda x: np.full_like(x, NO_HASH))
    assert cut_windows(block("The dog"), vocabulary, WindowSettings(1)).hashes.tolist() == [NO_HASH - 1]


def test_a_block_without_windows_has_empty_arrays(vocabulary: Vocabulary):
    for texts in ([], ["a"], [models.BOS, "a"]):
        windows = cut_windows(block(*texts), vocabulary, WindowSettings(12))
        assert (len(windows), windows.ids.shape, windows.short) == (0, (0, 12), len(texts))
        assert windows.bounds.shape == (len(texts) + 1,) and windows.characters([]).shape == (0,)


def check_characters(texts: list[str], vocabulary: Vocabulary, length: int, starts: int = 0) -> None:
    """Check that every window that begins with a complete character occurs in its text at `character`."""
    windows = cut_windows(block(*texts, start=starts), vocabulary, WindowSettings(length, 1))
    whole = 0
    for w, ids in enumerate(windows.ids):
        text = vocabulary.text(ids)
        s = int(windows.section[w])
        before = vocabulary.text(windows.tokens[windows.bounds[s] : windows.starts[w]])
        offset = windows.character(w) - starts
        if text.startswith(REPLACEMENT) or before.endswith(REPLACEMENT):
            assert 0 <= offset <= len(texts[s])
            continue
        whole += 1
        assert texts[s].startswith(text.rstrip(REPLACEMENT), offset), (text, texts[s][offset : offset + 20])
        assert abs(offset - len(before)) <= 1
    assert whole > len(windows) // 3
    everything = windows.characters(np.arange(len(windows))[::-1])[::-1]
    assert everything.tolist() == [windows.character(w) for w in range(len(windows))]


MANY_BYTES = [
    "The dog é ran 日本語 over 🙂🙂 the hill.\n\n  And  the  cat — “sleeps” in the house.",
    "  The sun, Ünïcödé\tand the 🧑‍🚀 sing; naïve cafés. The sun, the sun, the sun, the sun.",
]


@pytest.mark.parametrize("length", [1, 4])
def test_the_document_goes_on_with_the_window_from_its_character(vocabulary: Vocabulary, embedded, length: int):
    check_characters(MANY_BYTES, vocabulary, length)
    check_characters(MANY_BYTES, vocabulary, length, starts=70_000)
    check_characters(MANY_BYTES, embedded, length)


def test_characters_after_sentencepiece(stories: models.Family):
    check_characters(MANY_BYTES, Vocabulary(stories.tokenizer, 512), 4)


def test_characters_where_offsets_leave_out_the_space_of_a_word():
    """The offsets of RoBERTa's tokenizer and of similar ones leave out the space before a word."""
    from tokenizers import Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer.from_str(models.tokenizer().backend_tokenizer.to_str())
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=models.BOS, eos_token=models.BOS)
    assert tokenizer("a dog", return_offsets_mapping=True, add_special_tokens=False)["offset_mapping"][1] == (2, 5)
    check_characters(["The dog ran over the hill, and the cat"], Vocabulary(tokenizer, len(tokenizer)), 3)


def test_the_longest_block_has_room_for_its_windows_in_a_window_number(vocabulary: Vocabulary):
    """The longest block has one token per byte, and a window at each token."""
    texts = ["".join(random.choices("🙂🧑🚀日", k=60_000)) for _ in range(3)]
    blocks = list(dl.corpus.open(texts).blocks(0))
    for one in blocks:
        windows = cut_windows(one, vocabulary, WindowSettings(12, 1))
        assert 0 < len(windows) + windows.duplicates < 2**20


def test_long_texts_bring_no_warning_about_their_length():
    tokenizer = copy.deepcopy(models.tokenizer())
    tokenizer.model_max_length = 64
    text = "The dog runs over the hill. " * 500
    with mock.patch("transformers.tokenization_utils_base.logger.warning") as warning:
        windows = cut_windows(block(text), Vocabulary(tokenizer, len(tokenizer)), WindowSettings(12))
        windows.character(len(windows) - 1)
        assert not warning.called
        tokenizer(text)
        assert warning.called


def test_a_tokenizer_that_was_left_padding_and_truncating_gives_the_same_windows(vocabulary: Vocabulary):
    texts = ["The dog runs over the hill and the cat sleeps.", "The sun is over the hill."]
    expected = cut(texts, vocabulary, 3, 1)
    backend = vocabulary.tokenizer.backend_tokenizer
    backend.enable_truncation(4)
    backend.enable_padding(length=40)
    try:
        assert cut(texts, vocabulary, 3, 1) == expected
    finally:
        backend.no_truncation()
        backend.no_padding()


def test_the_short_way_is_not_taken_where_it_gives_other_ids(monkeypatch: pytest.MonkeyPatch):
    vocabulary = Vocabulary(models.tokenizer(), len(models.tokenizer()))
    whole = vocabulary.encode_many
    monkeypatch.setattr(vocabulary, "encode_many", lambda texts: [ids[1:] for ids in whole(texts)])
    for _ in range(2):
        windows = cut_windows(block("The dog runs"), vocabulary, WindowSettings(1, 1))
        assert windows.tokens.tolist() == whole(["The dog runs"])[0][1:]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"length": 0}, "length is a whole number of tokens, at least 1; got 0"),
        ({"length": 2.5}, "length is a whole number"),
        ({"stride": 0}, "stride is a whole number of tokens, at least 1"),
        ({"context": -1}, "context is a whole number of tokens, at least 0"),
        ({"length": True}, "got True"),
    ],
)
def test_settings_outside_their_range_are_errors(settings: dict[str, Any], message: str):
    with pytest.raises(SettingsError, match=message):
        WindowSettings(**settings)
