"""Every page and cell in Chromium, from small results: nothing is wider than the screen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import dreamy_lens as dl
from tests.browser.chromium import watch

pytestmark = pytest.mark.slow  # sixteen kinds of result are made; the views of runs have such tests of their own

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PROMPT = "if given, the method is applied only"
TEXTS = [f"If given, the method number {i} is applied only where the array is a copy of the other." for i in range(8)]
FULL = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


def cell(html: str) -> str:
    """A cell's HTML on a page as narrow as its window."""
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    return f'<!DOCTYPE html><html lang="en"><head>{head}<title>cell</title></head><body>{html}</body></html>'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module")
def made(folder: Path) -> dict[str, Any]:
    """A small result of every kind."""
    small: dict[str, Any] = {"iterations": 3, "length": 6, "progress": False, "wait": True}
    run, runs = dl.dream("L2.N812", **small), dl.dream("L2.N812", seeds=2, **small)
    examples = dl.max_activating(["L2.N812", "L2.N17"], corpus=TEXTS, k=4, length=6, cache=False, progress=False)
    study: dict[str, Any] = {"length": 6, "search": dl.RandomSearch(iterations=1, children=8), "progress": False}
    return {
        "run": run,
        "runs": runs,
        "comparison": dl.compare(runs, examples),
        "examples": examples.of("L2.N812"),
        "index": examples,
        "card": dl.card("L2.N812", run=run, examples=examples, strips=2, k=4, progress=False),
        "attribution": dl.attribution("L2.N812", PROMPT, k=8),
        "steering": dl.steer("L2.N812", PROMPT, tokens=[" the", " of"], features=["L3.N5"], n_tokens=4, placebos=2),
        "ablation": dl.ablate(["L2.mlp", "L3.mlp"], PROMPT, of=["L2.N812", "L3.N5"], tokens=[" the"], placebos=2),
        "patching": dl.patch("L2.N812", PROMPT, placebos=1),
        "upstream": dl.upstream("L2.N812", PROMPT),
        "mechanisms": dl.mechanisms(run, examples=examples),
        "explanation": dl.explain(run, examples, lambda prompt: "EXPLANATION: words\nANSWER: 1", scores=("detection",)),
        "baselines": dl.baselines("L2.N812", corpus=TEXTS, prompts=16, windows=8, length=6),
        "study": dl.studies.seeds(feature="L2.N812", seeds=2, **study),
        "sweep": dl.sweep(["L2.N812"], out=folder / "sweep", seeds=2, iterations=2, length=6, progress=False),
    }


@pytest.fixture(scope="module")
def pages(made: dict[str, Any], folder: Path) -> dict[str, str]:
    """Every page and every cell, by name."""
    found = {name: result.to_html() for name, result in made.items() if hasattr(result, "to_html")}
    found |= {f"{name} static": made[name].to_html(static=True) for name in ("run", "card")}
    parts = {"frontier": made["run"].frontier, "history": made["run"].history, "merged": made["runs"].merged()[0]}
    parts |= {"prompt": made["run"].frontier[-1], "logit effect": dl.logit_effect("L2.N812")}
    found |= {f"cell: {name}": cell(result._repr_html_()) for name, result in (made | parts).items()}
    made["index"].to_html(folder / "index/", progress=False)
    return found


@pytest.fixture(scope="module")
def page(chromium: Browser) -> Iterator[Page]:
    context = chromium.new_context(offline=True)
    seen = watch(context)
    yield context.new_page()
    context.close()
    assert not seen.errors and not seen.refused


def test_no_page_is_wider_than_its_window(pages: dict[str, str], page: Page, folder: Path):
    wide = []
    for number, (name, html) in enumerate(pages.items()):
        (folder / f"{number}.html").write_text(html, encoding="utf-8")
        files = {name: folder / f"{number}.html"}
        if name == "index":
            files |= {f"index {part}": folder / "index" / part for part in ("index.html", "features/0.html")}
        for label, file in files.items():
            page.goto(file.as_uri())
            page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
            for width in (360, 700, 1000, 1400):
                page.set_viewport_size({"width": width, "height": 900})
                over = page.evaluate(FULL)
                if over > 0:
                    wide.append(f"{label}: {over} px wider than {width}")
    assert not wide, "\n".join(wide)


def test_a_phone_leaves_out_the_perplexity_of_a_table_and_nothing_else(pages: dict[str, str], page: Page, folder: Path):
    page.set_viewport_size({"width": 390, "height": 800})
    shown = "(kind) => [...document.querySelectorAll(kind)].filter((each) => each.checkVisibility()).length"
    for name in ("mechanisms", "upstream", "steering", "run static"):
        (folder / "phone.html").write_text(pages[name], encoding="utf-8")
        page.goto((folder / "phone.html").as_uri())
        cells = page.evaluate(shown, ".dl-table td:last-child")
        assert cells == page.locator(".dl-table td:last-child").count() > 0, name
        assert page.evaluate(shown, ".dl-table .dl-minor") == 0, name
        hidden = "[...document.querySelectorAll('.dl-table th')].filter((each) => !each.checkVisibility())"
        assert set(page.evaluate(f"{hidden}.map((each) => each.textContent)")) <= {"perplexity"}, name


def test_the_button_copies_the_program_or_selects_it(made: dict[str, Any], page: Page, folder: Path):
    for number, name in enumerate(("comparison", "index", "card")):
        (folder / "copy.html").write_text(made[name].to_html(), encoding="utf-8")
        page.goto((folder / "copy.html").as_uri())
        page.locator(".dl-python summary").click()
        refused = "Promise.reject(new Error('no'))"
        taken = "(globalThis.copied = text, Promise.resolve())"
        page.evaluate(f"() => {{ navigator.clipboard.writeText = (text) => {refused if number == 1 else taken}; }}")
        page.locator(".dl-python button").click()
        page.wait_for_function("document.querySelector('.dl-python button').textContent !== 'Copy'")
        found = page.evaluate("getSelection().toString()" if number == 1 else "copied")
        assert found.strip() == made[name].code, name
