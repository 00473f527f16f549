"""Groups of prompts by how they end: shared n-grams, misspellings, names."""

from __future__ import annotations

import itertools

import pytest

from dreamy_lens.errors import LLMError, SettingsError
from dreamy_lens.studies.prompt_grouping import (
    edit_distance,
    group_by_ending,
    last_word,
    named_groups,
    nearest_word,
    vocabulary_words,
)

WORDS = {"only", "applied", "house", "houses", "the", "returned"}


def rows(*texts: str) -> list[list[str]]:
    """Prompts whose tokens are words with the space before them."""
    return [[f" {word}" for word in text.split()] for text in texts]


def kinds(*texts: str) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(g.key, g.kind, g.members) for g in group_by_ending(rows(*texts), WORDS)]


def test_prompts_with_the_same_last_word_are_a_group_that_is_named_by_what_they_share():
    assert kinds("is the only", "was the Only", "a house") == [
        ("the only", "ending", (0, 1)),
        ("house", "single", (2,)),
    ]


def test_misspelt_words_join_the_word_that_they_are_near():
    found = group_by_ending(rows("see only", "see onyl", "b onnly", "is applyed", "x qqqqq"), WORDS)
    assert [(g.key, g.kind, g.members, g.misspelt) for g in found] == [
        ("only", "ending", (0, 1, 2), ("onnly", "onyl")),
        ("applied", "misspelling", (3,), ("applyed",)),
        ("qqqqq", "single", (4,), ()),
    ]


def test_known_and_short_words_are_no_misspellings():
    assert nearest_word("houses", ["house"], WORDS) is None
    assert nearest_word("teh", ["the"], WORDS) is None
    assert nearest_word("onlx1", ["only"], WORDS) is None


def test_the_rest_is_grouped_by_ngrams_that_prompts_share_elsewhere():
    assert kinds("red blue green one", "a red blue green two", "zebra") == [
        ("red blue green", "n-gram", (0, 1)),
        ("zebra", "single", (2,)),
    ]


def test_every_prompt_is_in_one_group():
    texts = ["".join(pair) for pair in itertools.product(["only ", "onyl ", "3 "], ["", "house", "(", "hosue"])]
    members = [i for g in group_by_ending(rows(*texts, ""), WORDS) for i in g.members]
    assert sorted(members) == list(range(len(texts) + 1))


def test_the_last_word_may_be_of_several_tokens():
    assert last_word([" doc", "strings"]) == "docstrings"
    assert last_word([" doc", "\u202e"]) == "doc" or "\u202e" not in last_word([" doc", "\u202e"])
    assert last_word([]) == ""


def test_edit_distance_is_that_of_the_recursive_definition():
    def slow(a: str, b: str) -> int:
        if not a or not b:
            return len(a) + len(b)
        best = min(slow(a[:-1], b) + 1, slow(a, b[:-1]) + 1, slow(a[:-1], b[:-1]) + (a[-1] != b[-1]))
        if len(a) > 1 and len(b) > 1 and a[-1] == b[-2] and a[-2] == b[-1]:
            best = min(best, slow(a[:-2], b[:-2]) + 1)
        return best

    words = ["", "a", "ab", "ba", "abc", "acb", "bca", "cabb"]
    for a, b in itertools.product(words, words):
        assert edit_distance(a, b) == slow(a, b)
        assert edit_distance(a, b, 1) == min(slow(a, b), 2)


def test_groups_are_named_by_the_user_and_by_a_language_model():
    prompts = rows("is only", "be only", "a house", "b house", "alone")
    groups, asked = group_by_ending(prompts, WORDS), []

    def llm(prompt: str) -> str:
        asked.append(prompt)
        return "Certainly. NAME: dwellings"

    named = named_groups(groups, [" ".join(r) for r in prompts], {"only": "limits"}, llm)
    assert [g.name for g in named] == ["limits", "dwellings", "alone"]
    assert len(asked) == 1 and "house" in asked[0]
    with pytest.raises(LLMError):
        named_groups(groups, [""] * 5, None, lambda prompt: "no")
    for wrong in ({"names": "only", "llm": None}, {"names": None, "llm": 3}):
        with pytest.raises(SettingsError):
            named_groups(groups, [""] * 5, **wrong)


def test_words_of_a_vocabulary_begin_with_a_space():
    assert vocabulary_words([" The", "ing", " a1"], ["It's only."]) == {"the", "it", "s", "only"}
