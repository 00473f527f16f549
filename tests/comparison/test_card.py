"""A feature's card: one page with everything, made from what is there or from scratch, safe and self-contained."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import dreamy_lens as dl
from dreamy_lens.api.card import SCAN_SETTINGS
from dreamy_lens.api.card import card as whole_card
from dreamy_lens.errors import CorpusError, ExamplesError, NoGradientError, SettingsError, UnknownHookError
from dreamy_lens.panels import card_page
from dreamy_lens.results import Prompt
from dreamy_lens.scan import ScanConfig
from tests.helpers import models

card = partial(whole_card, parts=())  # the parts on what dreams mean have tests of their own, below

FEATURE = "L1.N7"
SMALL = {"iterations": 4, "population": 3, "children": 12, "length": 6, "top_k": 64, "progress": False}
SCAN = {"k": 6, "cache": False, "sample": 64}
HOSTILE = '<script>alert("a")</script></style></title><img src=x onerror=alert(1)> \u202e the dog'


def texts() -> list[str]:
    words = "the dog runs over hill and a cat sleeps in house friends bark she said that big red sun".split()
    random = np.random.default_rng(0)
    return [*(" ".join(random.choice(words, size=40)) for _ in range(6)), f"{HOSTILE} {HOSTILE} {HOSTILE}"]


@pytest.fixture(scope="module")
def bridge():
    return models.family("gpt2").bridge


@pytest.fixture(scope="module")
def run(bridge):
    return dl.dream(FEATURE, bridge, **SMALL)


@pytest.fixture(scope="module")
def examples(bridge):
    return dl.max_activating([FEATURE, "L1.N8"], bridge, texts(), k=6, length=6, sample=64, cache=False, progress=False)


@pytest.fixture(scope="module")
def made(run, examples):
    return whole_card(FEATURE, run=run, examples=examples, strips=3)


class Page(HTMLParser):
    """Parser of a page: elements, ids, links and text. It refuses attributes that run or fetch something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.ids: Counter[str] = Counter()
        self.links: list[str] = []
        self.said: list[str] = []
        self.inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.inside.append(tag)
        for name, value in attrs:
            assert not name.startswith("on") and name not in ("src", "srcset", "action"), (tag, name, value)
            if name == "id" and value:
                self.ids[value] += 1
            if name == "href":
                self.links.append(value)

    def handle_endtag(self, tag):
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data):
        if not {"style", "script"} & set(self.inside):
            self.said.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.said).split())


def test_the_page_has_everything(made, run, examples):
    page = Page(made.to_html())
    for heading in ("Dreams against the corpus", "Dreams, token by token", "In 7 texts", "Logit effect", "Settings"):
        assert heading in page.text
    assert made.title in page.text and made.sentence in page.text
    found = examples.of(FEATURE)
    assert "strongest dream" in page.text and "strongest window" in page.text  # marked in the histogram
    for tab in ("strongest", "quantiles", "by fluency"):
        assert tab in page.text
    assert f"{found.windows:,} windows of 6 tokens" in page.text
    for name in ("fingerprint", "lambda_min", "transformer-lens", "seed", "duplicates"):
        assert name in page.text
    assert len(made.attributions) == 3 and {0, len(run.frontier) - 1} <= set(made.attributions)
    strips = [i for i in page.ids if re.fullmatch(r"k[0-9a-f]{7}d\d+", i)]
    assert len(strips) == 3


def test_it_reads_without_scripts_and_fetches_nothing(made):
    whole, still = made.to_html(), made.to_html(static=True)
    assert "<script" not in still and "script-src" not in still
    assert "default-src 'none'" in still and "default-src 'none'" in whole
    # What a page without scripts says, the other says too; it has the run's panel besides.
    assert len(set(Page(still).text.split()) - set(Page(whole).text.split())) == 0
    assert 'class="dl-explore"' in whole and 'class="dl-explore"' not in still
    for text in (still, whole):
        page = Page(text)
        assert not any(href for href in page.links if not href.startswith("#"))
        plain = re.sub(r"<script.*?</script>", "", text, flags=re.S)
        assert not re.search(r"url\((?!#)|@import|https?://", plain)
        assert all(page.ids[href[1:]] == 1 for href in page.links), "a link that leads nowhere"
        assert max(page.ids.values()) == 1


def test_it_is_small(made):
    assert len(made.to_html().encode()) < 300_000
    assert len(made._repr_html_()) < len(made.to_html())


def test_hostile_text_is_shown_and_does_nothing(bridge, run):
    at = "blocks.1.mlp.hook_post"
    own = dl.custom('"><img src=x onerror=alert(1)>', [at], lambda a: a[at][:, -1, 7])
    found = card(own, bridge, texts(), scan=SCAN, strips=2, **SMALL)
    assert "of your own" in found.logit_effect.path
    whole, still, cell = found.to_html(), found.to_html(static=True), found._repr_html_()
    for text, scripts in ((whole, 2), (still, 0), (cell, 0)):
        page = Page(text)  # which refuses attributes that run or fetch something
        assert page.tags["img"] == 0 and page.tags["script"] == scripts and page.tags["style"] == 1
        assert page.inside == [] and text.count("</title>") == page.tags["title"]
        assert "\u202e" not in text
    assert "<img" in Page(whole).text and "alert" in Page(whole).text  # it is there to be read


def test_from_scratch_it_dreams_and_scans_alike(bridge):
    found = card(FEATURE, bridge, texts(), scan=SCAN, strips=2, seeds=[0, 1], **SMALL)
    assert len(found.merged.runs) == 2 and found.comparison.seeds == (0, 1)
    assert found.comparison.scanned.length == 6 and found.comparison.scanned.settings["k"] == 6
    assert not found.comparison.warnings
    assert 'class="dl-explore"' not in found.to_html()  # a panel is of one run
    assert "Card(" in repr(found) and found.sentence in str(found)


def test_it_takes_what_is_there(made, run, examples, bridge, tmp_path):
    run.save(tmp_path / "run")
    examples.save(tmp_path / "examples")
    again = whole_card(FEATURE, bridge, run=tmp_path / "run", examples=tmp_path / "examples", strips=3)
    pages = [each.to_html(static=True).split('<details class="dl-python">') for each in (again, made)]
    assert pages[0][0] == pages[1][0] and len(pages[0]) == len(pages[1]) == 2
    assert f'run="{tmp_path / "run"}", examples="{tmp_path / "examples"}"' in again.code
    two = dl.dream([FEATURE, "L1.N8"], bridge, **SMALL)
    assert card("L1.N8", run=two, examples=examples, strips=1).title == "L1.N8"
    path = tmp_path / "card.html"
    card(FEATURE, run=run, examples=examples.of(FEATURE), strips=1, path=path)
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_what_does_not_belong_together_is_refused(run, examples, bridge, neox):
    with pytest.raises(SettingsError, match=r"card is about .*8.*run is of .*7"):
        card("L1.N8", run=run, examples=examples)
    other = dl.max_activating("L1.N8", bridge, texts(), length=6, cache=False, progress=False)
    with pytest.raises(ExamplesError, match="not among"):
        card(FEATURE, run=run, examples=other)
    with pytest.raises(ExamplesError, match="tiny-neox"):
        card(FEATURE, neox.bridge, examples=examples, strips=1, **SMALL)
    with pytest.raises(SettingsError, match="makes no new dreams, so iterations would have no effect"):
        card(FEATURE, run=run, examples=examples, iterations=3)
    with pytest.raises(SettingsError, match="keep one of them"):
        card(FEATURE, run=run, examples=examples, corpus=texts())
    with pytest.raises(SettingsError, match="with examples= the card scans nothing"):
        card(FEATURE, run=run, examples=examples, scan={"k": 3})
    with pytest.raises(SettingsError, match="'kk'"):
        card(FEATURE, run=run, scan={"kk": 3})
    with pytest.raises(ExamplesError, match="or a folder that holds it; got 5"):
        card(FEATURE, run=run, examples=5)


def test_a_fluency_model_is_that_of_dreams_and_windows(run, examples, bridge, llama, monkeypatch):
    found = card(FEATURE, bridge, texts(), scan=SCAN, strips=1, fluency_model=llama.bridge, **SMALL)
    assert found.examples.header["fluency_model"] == llama.bridge.cfg.model_name
    ids = np.array([w.ids for w in found.examples.top])
    costs = dl.score(FEATURE, ids, bridge, fluency_model=llama.bridge).cross_entropy
    np.testing.assert_allclose([w.cross_entropy for w in found.examples.top], costs, rtol=1e-3)
    again = card(FEATURE, run=found.merged.runs[0], examples=found.examples, strips=1)
    assert again.sentence == found.sentence and again.to_html()
    whole = card(FEATURE, bridge, texts(), scan=SCAN, strips=1, fluency_model=bridge, **SMALL)  # the feature's own
    assert whole.examples.header["fluency_model"] is None
    monkeypatch.setattr("dreamy_lens.api.card.dream", lambda *a, **k: pytest.fail("it dreamt"))
    for theirs, more in ((examples, {"fluency_model": llama.bridge}), (found.examples, {})):
        with pytest.raises(ExamplesError, match="so they are not comparable"):
            card(FEATURE, bridge, examples=theirs, **more, **SMALL)
    with pytest.raises(ExamplesError, match="is of 'tiny-gpt2' itself, and the windows' is that of the fluency model"):
        card(FEATURE, run=run, examples=found.examples)


def test_mistakes_are_told_before_anything_takes_long(bridge, monkeypatch):
    monkeypatch.setattr("dreamy_lens.api.card.dream", lambda *a, **k: pytest.fail("it dreamt"))
    with pytest.raises(UnknownHookError):
        card("L9.N7", bridge, texts())
    with pytest.raises(CorpusError):
        card(FEATURE, bridge, "no/such/file.txt")


def test_without_a_gradient_on_device_is_a_table(run, examples, monkeypatch):
    def refuse(self, k=32):
        raise NoGradientError("The value has no gradient here.")

    monkeypatch.setattr(Prompt, "attribution", refuse)
    found = card(FEATURE, run=run, examples=examples)
    assert not found.attributions and "no gradient here" in found.unattributed
    page = Page(found.to_html(static=True))
    assert "no gradient here" in page.text and page.tags["table"] == 1


def test_settings_of_a_scan_are_those_that_there_are():
    taken = {field.name for field in dataclasses.fields(ScanConfig)}
    assert set(SCAN_SETTINGS) <= taken
    assert set(SCAN_SETTINGS) == taken - {"prepend_bos"}  # that is the runs'


def test_the_examples_of_the_documentation_run(tmp_path, monkeypatch):
    page = Path(__file__).resolve().parents[2] / "docs" / "card.md"
    if not page.is_file():
        pytest.skip("the documentation is not part of this copy")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dl, "card", card, raising=False)
    monkeypatch.setenv("DREAMY_LENS_CACHE", str(tmp_path / "cache"))
    small = "population=2, children=4, length=6, progress=False, iterations=2"
    names: dict = {"texts": texts()}
    for example in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S):
        code = re.sub(r"iterations=\d+", small, example).replace("scan={", "corpus=texts, scan={")
        code = code.replace("dl.neurons(2), tokens=60_000", "dl.neurons(2), None, texts, length=6, progress=False")
        exec(code, names)
    assert (tmp_path / "L2.N812.html").stat().st_size > 50_000


# The parts that say what the dreams mean.


def test_a_card_has_every_part_and_each_is_what_its_own_function_gives(made, run, examples, bridge):
    best = max((p for p in run.frontier if p.cross_entropy <= 9), default=None, key=lambda p: p.value)
    best = best or max(run.frontier, key=lambda p: p.value)
    assert not made.absent
    np.testing.assert_allclose(made.upstream.contributions, best.upstream().contributions, atol=1e-5)
    assert made.downstream.prompt == best.text and made.downstream.placebo_kl.shape[1] == 4
    assert made.words.text == "" and made.words.prediction is not None
    assert len(made.calibration.random) == 1024 and made.calibration.length == len(best)
    assert made.mechanisms.maximum == pytest.approx(max(p.value for p in run.frontier), abs=1e-5)
    page = made.to_html(static=True)
    headings = ("Ways to drive it", "Where it comes from", "What it does", "In words", "How far above chance")
    assert [re.search(f">{name}</h2>", page) is not None for name in headings] == [True] * 5
    assert "z, random prompts" in page and "z, windows" in page and len(page) <= 200_000
    (z,) = (made.calibration.random.z(p.value) for p in [run.frontier[-1]])
    assert f"{z:.0f}"[:1] in page


def test_a_part_that_cannot_be_computed_says_why_and_the_others_stay(bridge):
    feature = "blocks.1.attn.hook_pattern[0, -1, 2]"
    settings = {**SMALL, "iterations": 1}
    made = whole_card(feature, bridge, texts(), scan=SCAN, strips=1, parts=("upstream", "downstream"), **settings)
    assert made.upstream is made.downstream is made.mechanisms is None
    assert set(made.absent) == {"upstream", "downstream"}
    page = made.to_html()
    assert "a product of a query and a key" in page and "Ways to drive it" not in page


def test_a_language_model_and_a_held_out_model_are_passed_on(run, examples, bridge):
    def llm(prompt: str) -> str:
        replies = {"EXPLANATION:": "EXPLANATION: <b>dogs</b>", "ANSWER:": "ANSWER: 1", "TEXT:": "TEXT: a"}
        return next(reply for word, reply in replies.items() if word in prompt)

    parts = ("words", "calibration")
    made = whole_card(FEATURE, run=run, examples=examples, strips=1, parts=parts, llm=llm, held_out_model=bridge)
    assert made.words.text == "<b>dogs</b>" and made.words.detection is not None
    page = made.to_html(static=True)
    assert "&lt;b&gt;dogs&lt;/b&gt;" in page and "<b>dogs" not in page and "held-out cross-entropy" in page
    with pytest.raises(SettingsError, match="parts has 'nothing'; a card's parts are 'mechanisms', 'upstream'"):
        whole_card(FEATURE, run=run, examples=examples, parts="nothing")


# The size of the page.


def test_a_page_with_many_ways_shows_the_strongest_and_has_at_most_200_kb(made):
    ways, count = made.mechanisms, 40
    cells = tuple(dataclasses.replace(ways.cells[0], name=f"cell{i}") for i in range(count))
    many = dataclasses.replace(
        ways,
        cells=cells,
        ablated=tuple(f"L0.N{i}" for i in range(count)),
        drops=np.random.default_rng(0).normal(size=(count, count)),
        control_drops=np.zeros((count, len(ways.controls))),
        overlaps=np.eye(count),
        texts=(),
    )
    assert len(many.body()) > 200_000
    card = dataclasses.replace(made, mechanisms=many)
    for static in (True, False):
        page = card.to_html(static=static)
        assert len(page.encode()) <= 200_000 and "shows the strongest 8 cells of 40" in page
        assert many.sentence in page and "cell7" in page and "cell8" not in page
    assert many.strongest(50) is many and len(many.strongest(3)) == len(many.strongest(3).overlaps) == 3


def test_a_page_of_long_texts_shows_fewer_of_them(made, run, monkeypatch):
    """The limit is in bytes, so that texts of other scripts keep to it too."""
    whole, still = (len(made.to_html(static=static).encode()) for static in (False, True))
    wide = dataclasses.replace(made, unattributed="狗" * 10_000, absent={"words": "狗" * 3000})
    monkeypatch.setattr(card_page, "LEAST_PANEL", 1000)
    for limit, is_static in ((still - 3000, True), (whole - 3000, False), (still - 3000, False)):
        monkeypatch.setattr(card_page, "LIMIT", limit)
        monkeypatch.setattr(card_page, "PAGE", limit - 1000)
        for card in (made, wide):
            page = card.to_html(static=is_static)
            assert len(page.encode()) <= limit and "shows fewer of them" in page
        strips = [i for i in Page(page).ids if re.fullmatch(r"k[0-9a-f]{7}d\d+", i)]
        assert not strips or any(i.endswith(f"d{len(run.frontier)}") for i in strips)  # the strongest dream stays


def test_items_are_spread_from_the_first_to_the_last():
    assert card_page.spread_over(range(10), 4) == [0, 3, 6, 9]
    assert [card_page.spread_over([1, 2, 3], n) for n in (0, 1, 2, 3, 9)] == [[], [3], [1, 3], [1, 2, 3], [1, 2, 3]]
