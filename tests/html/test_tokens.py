"""Strips of tokens."""

from __future__ import annotations

import re

import numpy as np

from dreamy_lens.html.tokens import StripToken, ValueScale, token_strip
from dreamy_lens.results import StripScale, attribution_strip
from tests.helpers.fakes import HOSTILE, Reader, attribution_of


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


def test_all_strips_of_a_page_have_one_scale_for_colours_and_bars():
    found, other = attribution_of((" a", " b", " c")), attribution_of((" d", " e"), k=7, seed=3)
    scale = StripScale.of([found, other])
    drops = [*found.drop_to_worst, *other.drop_to_worst]
    assert scale.full == max(drops) and scale.tried == 7
    legend = Reader(scale.legend).said
    assert f"Colour: drop in value with the worst of 7 substitutes (max {max(drops):.2f})" in " ".join(legend)
    for one in (found, other):
        shown = re.findall(r"--d:([^;]*);--h:([^\"]*)\"", attribution_strip(one, scale))
        shares = [[float(x) for x in pair] for pair in shown]
        expected = np.clip([one.drop_to_worst / max(drops), one.drop_to_best / max(drops)], 0, 1).T
        assert np.allclose(shares, expected, atol=0.006)
