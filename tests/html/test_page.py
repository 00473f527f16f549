"""Foreign text shown safely, and pieces that can be read."""

from __future__ import annotations

import re
import unicodedata
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamy_lens.html.escaping import Html, escape, visible
from dreamy_lens.html.numbers import decimals, number, perplexity
from dreamy_lens.html.page import document, table
from dreamy_lens.html.tokens import StripToken, ValueScale, token_strip
from dreamy_lens.results.frontier import Frontier
from dreamy_lens.results.strips import strip_scales
from tests.helpers.fakes import HOSTILE, Reader, attribution_of, prompt

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


def test_a_strip_of_hostile_tokens_has_only_its_own_elements():
    n = len(HOSTILE)
    strip = token_strip(StripToken(text, 0.5, text, 0.5, text) for text in HOSTILE)
    page = Reader(strip)
    assert sorted(set(page.tags)) == ["b", "div", "i", "span"] and page.tags.count("b") == n
    assert page.attributes == {"class", "tabindex", "style", "title", "hidden"}
    found = attribution_of(HOSTILE, pieces=HOSTILE)
    for source in (found._repr_html_(), found.to_html()):
        page = Reader(source)
        assert "script" not in page.tags and "img" not in page.tags
        assert not {name for name in page.attributes if name.startswith("on")}
        assert not page.open
        source.encode("utf-8")


def test_a_strip_is_safe_in_every_form():
    for values in (None, [0.5] * len(HOSTILE), [float("nan"), float("inf"), -9.0] + [0.0] * (len(HOSTILE) - 3)):
        tokens = ValueScale(2.0, 2, True).tokens(HOSTILE, values)
        for inline in (False, True):
            page = Reader(token_strip(tokens, inline=inline))
            assert page.tags.count("span") == len(HOSTILE) and set(page.tags) <= {"b", "div", "span"} and not page.open
            assert page.attributes <= {"class", "style", "title", "data-v"}


def test_shares_outside_their_range_are_brought_into_it():
    colours, bars = [-1, 0.504, 7, float("nan")], [0.25, -3, float("inf"), 0]
    strip = token_strip(StripToken(*token) for token in zip("abcd", colours, [""] * 4, bars, strict=True))
    assert re.findall(r"--d:([^;]*);--h:([^\"]*)\"", strip) == [("0", ".25"), (".5", "0"), ("1", "1"), ("0", "0")]
    assert strip.count("dl-up") == 1


def test_a_table_escapes_its_cells_unless_they_are_markup():
    source = table(["<b>"], [["<i>"], [Html("<u>x</u>")]], ['"x', "y"])
    page = Reader(source)
    assert page.tags.count("u") == 1 and "i" not in page.tags and "b" not in page.tags
    assert "<b>" in page.said and "<i>" in page.said and not page.open


def test_tables_of_prompts_are_safe_and_aligned():
    frontier = Frontier([prompt(i, i + 1, text) for i, text in enumerate(HOSTILE)])
    assert "script" not in Reader(frontier._repr_html_()).tags
    lines = str(frontier).split("\n")
    assert len(lines) == len(HOSTILE) + 1 and not [c for line in lines for c in line if unicodedata.category(c) == "Cc"]


def test_a_page_fetches_nothing_and_its_policy_forbids_scripts():
    source = document("a <b>", "<p>x</p>")
    assert "default-src 'none'" in source and "script-src" not in source
    page = Reader(source)
    assert not {"script", "link", "img", "iframe"} & set(page.tags) and not {"src"} & page.attributes
    assert "http" not in source.replace("http-equiv", "") and "url(" not in source and "@import" not in source


def themes() -> dict[str, dict[str, str]]:
    rules = (files("dreamy_lens") / "html" / "style.css").read_text(encoding="utf-8")
    blocks = re.findall(r"\.dl \{([^{}]*--bg[^{}]*)\}", rules)
    parsed = [dict(re.findall(r"--(\w+): ([^;]+);", block)) for block in blocks]
    return dict(zip(("light", "dark", "print"), parsed, strict=True))


def rgb(colour: str) -> tuple[float, ...]:
    if colour.startswith("#"):
        digits = colour[1:] if len(colour) == 7 else "".join(c * 2 for c in colour[1:])
        return tuple(int(digits[i : i + 2], 16) for i in (0, 2, 4))
    return tuple(map(float, colour.split()))


def contrast(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    def luminance(colour):
        parts = [c / 255 for c in colour]
        parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark", "print"])
def test_all_text_has_enough_contrast_on_every_ground_it_can_stand_on(theme):
    colours = {name: rgb(value) for name, value in themes()[theme].items()}
    for text in ("fg", "mut", "link"):
        for ground in ("bg", "soft"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for share in range(101):
        heat = tuple(
            h * share / 100 + g * (1 - share / 100) for h, g in zip(colours["heat"], colours["bg"], strict=True)
        )
        assert contrast(colours["fg"], heat) >= 4.5, f"heat {share} %"
    assert contrast(colours["bar"], colours["bg"]) >= 3 and contrast(colours["bar"], colours["heat"]) >= 1.5
    # Stronger colour is always further from the ground in lightness alone, which every kind of colour vision sees.
    steps = [
        tuple(h * s + g * (1 - s) for h, g in zip(colours["heat"], colours["bg"], strict=True)) for s in (0, 0.5, 1)
    ]
    distances = [contrast(step, colours["bg"]) for step in steps]
    assert distances == sorted(distances) and distances[-1] > 1.8


def test_numbers_are_written_for_people():
    assert number(-0.0001, 2) == "0.00" and number(float("inf"), 1) == "∞"
    assert number(1234.5, 2) == "1,234.50" and number(-2, 1, sign=True) == "−2.0"
    assert [perplexity(x) for x in (7.39, 99.96, 12345.6, float("inf"))] == ["7.4", "100", "12,346", "∞"]
    assert decimals([]) == decimals([0.0]) == 3 and decimals([float("nan"), 20]) == 2


def test_the_scales_of_a_strip_are_those_of_its_drops():
    found = attribution_of((" a", " b", " c"))
    colour, bar = strip_scales(found)
    assert colour == found.drop_to_worst.max() and bar == max(found.drop_to_best.max(), 0.1 * colour)
