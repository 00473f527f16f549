"""Foreign text shown safely."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamy_lens.html.escaping import escape, visible
from tests.helpers.fakes import HOSTILE, Reader

anything = st.text(alphabet=st.characters(codec=None), max_size=12) | st.sampled_from(HOSTILE)


@given(anything)
def test_escaped_text_is_never_markup_and_always_utf8(text):
    for token in (False, True):
        escaped = escape(text, token)
        assert not set(escaped) & set("<>\"'")
        escaped.encode("utf-8")
        page = Reader(f'<b title="{escaped}">{escaped}</b>')
        assert page.tags == ["b"] and page.attributes == {"title"}
        assert "".join(page.said) == visible(text, token)


@given(anything)
def test_visible_text_has_nothing_that_hides_or_moves_the_rest_of_its_line(text):
    shown = visible(text)
    hidden = {"Cc", "Cs", "Co", "Cn", "Zl", "Zp"}
    assert not [c for c in shown if unicodedata.category(c) in hidden]
    assert not [c for c in shown if unicodedata.category(c) == "Cf" and c not in "\u200c\u200d"]
    assert visible(text, token=True).strip()


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (" the", " the"),
        (" ", "·"),
        ("    ", "····"),
        ("\n", "↵"),
        ("\r\n", "␍↵"),
        ("\n    ", "↵····"),
        ("\t", "→"),
        ("a\nb", "a↵b"),
        ("", "∅"),
        ("\ufffd", "�"),
        ("\ud800", "[U+D800]"),
        ("\u202e", "[U+202E]"),
        ("\u2028", "[U+2028]"),
        ("\xa0", "[U+00A0]"),
        ("\xad", "[U+00AD]"),
        ("\x1b[0m", "[U+001B][0m"),
        ("\u0301", "◌\u0301"),
        ("\u200d", "[U+200D]"),
        ("क्\u200dष", "क्\u200dष"),
        ("שלום", "שלום"),
        ("日本", "日本"),
    ],
)
def test_every_token_can_be_seen(token, shown):
    assert visible(token, token=True) == shown
