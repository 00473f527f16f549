"""The page of a dream."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest

from dreamy_lens.errors import NoGradientError
from dreamy_lens.results import Frontier, Prompt
from dreamy_lens.runs import report
from tests.helpers.fakes import HOSTILE, ORIGIN, Pieces, Reader, attribution_of, build, frontier_of, steps

RISING = [(float(i), 2 + i / 3) for i in range(1, 21)]


def full_page(pieces: tuple[str, ...] = (), points=RISING, n: int = 12) -> str:
    rng = np.random.default_rng(0)
    rows = rng.integers(0, max(len(pieces), 40), (len(points), n)).tolist()
    prompts = [
        Prompt.decode(ids, *point, Pieces(pieces), ORIGIN.at(3)) for ids, point in zip(rows, points, strict=True)
    ]
    frontier = Frontier(prompts)
    found = {i: attribution_of(p.tokens, 32, pieces=pieces) for i, p in enumerate(frontier)}
    history = build(steps(12))
    return report.report_page(
        "A dream", frontier, found, history.evolution(), {"model": "docstrings", "λ": 0.1}, "Why.", history
    )


def test_a_page_of_twenty_prompts_is_small_and_whole():
    source = full_page()
    assert len(source.encode()) < 150_000
    page = Reader(source)
    assert page.tags.count("section") == 20 and page.tags.count("svg") == 3 and page.tags.count("circle") == 20
    assert not page.open and "Why." in page.said and "docstrings" in page.said


def test_every_link_leads_to_a_place_that_is_there_once():
    for source in (full_page(), report.report_page("t", frontier_of((1, 2), (3, 4)), {1: attribution_of((" a",))})):
        targets = re.findall(r' id="([^"]+)"', source)
        assert len(targets) == len(set(targets))
        assert set(re.findall(r'href="#([^"]+)"', source)) <= set(targets)
        assert not re.findall(r'href="[^#]', source)


def test_hostile_tokens_do_not_become_markup_anywhere():
    plain, hostile = Reader(full_page()), Reader(full_page(HOSTILE))
    assert set(plain.tags) == set(hostile.tags) and plain.attributes == hostile.attributes
    assert plain.tags.count("section") == hostile.tags.count("section") and not hostile.open
    source = report.report_page(HOSTILE[0], frontier_of((1, 2)), settings={HOSTILE[0]: HOSTILE[1]}, intro=HOSTILE[0])
    assert "script" not in Reader(source).tags and "img" not in Reader(source).tags


def test_a_page_without_prompts_says_so():
    assert "there is no frontier" in report.report_page("t", Frontier([]))


def test_attributions_may_be_a_list_and_must_be_of_the_frontier():
    frontier = frontier_of((1, 2), (3, 4))
    source = report.report_page("t", frontier, [None, attribution_of((" a",))])
    assert source.count("<section") == 1 and 'section class="dl-dream" id="p2"' in source
    with pytest.raises(ValueError, match="frontier has 2"):
        report.report_page("t", frontier, {2: attribution_of((" a",))})


def test_a_run_becomes_a_page_even_if_its_feature_has_no_gradient():
    history = build(steps(6))

    def attribute(asked, k=32):
        assert k == 7
        if refuse:
            raise NoGradientError("none")
        return attribution_of(asked.tokens, k)

    tools = SimpleNamespace(attribution=attribute)
    frontier = Frontier.from_history(history, Pieces(), ORIGIN, tools)
    run = SimpleNamespace(
        passes={},
        provenance=ORIGIN,
        frontier=frontier,
        history=history,
        config=None,
        start_text="",
        evolution=lambda: history.evolution(),
    )
    for refuse in (False, True):
        source = report.static_page_of_run(run, k=7)
        assert source.count("<section") == (0 if refuse else len(frontier))
        assert f"evaluated {len(history):,} prompts" in source and "A dream of L2.N17" in source
        assert report.static_page_of_run(run, k=7, strips=3).count("<section") == (0 if refuse else 3)
        assert "<dt>numpy</dt>" in source and "<dt>prepend_bos</dt><dd>True</dd>" in source
