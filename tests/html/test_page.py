"""Tables and pages that are safe and can be read."""

from __future__ import annotations

import re
import unicodedata
from importlib.resources import files

import pytest

from dreamy_lens.html.escaping import Html
from dreamy_lens.html.page import document, html_table
from dreamy_lens.results import Frontier
from tests.helpers.fakes import HOSTILE, Reader, prompt


def test_a_table_escapes_its_cells_unless_they_are_markup():
    source = html_table(["<b>"], [["<i>"], [Html("<u>x</u>")]], ['"x', "y"])
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
    parsed = [dict(re.findall(r"--(\w+): ([#\d][^;]*);", block)) for block in blocks]
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
