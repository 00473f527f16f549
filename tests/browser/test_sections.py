"""Sections below a prompt: each opens where it belongs, in a live panel and in a saved page, at every width."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import dreamy_lens as dl
from dreamy_lens.panels import AttributionPanel, DreamPanel
from dreamy_lens.panels.sections import SECTION_STYLE
from dreamy_lens.results import Prompt
from dreamy_lens.runs import Dream
from tests.browser.fake_states import attribution_state, empty_state, run_state
from tests.browser.mounted import FRAMES, Mounted
from tests.browser.test_looks import OVERLAPS
from tests.browser.test_own_prompts import TYPED, edited
from tests.browser.test_views_for_everyone import CONTRAST, STICKS_OUT, UNNAMED
from tests.helpers.fakes import HOSTILE

if TYPE_CHECKING:
    from playwright.sync_api import Page

Mount = Callable[..., Mounted]
LABELS = {
    "upstream": "Where it comes from",
    "mechanisms": "Ways to drive it",
    "downstream": "What it does",
    "words": "In words",
}
LISTED = [[name, label, f"Computing {name}…", name in ("mechanisms", "words")] for name, label in LABELS.items()]
SETTINGS: dict[str, Any] = {"population": 4, "children": 16, "length": 8, "restart_every": 5}


def with_sections(state: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**state, "sections": LISTED, "section_style": SECTION_STYLE, "fragments": {}, **more}


def live_state(**more: Any) -> dict[str, Any]:
    state = run_state(60, steps=60)
    return with_sections({**state, "picked": next(iter(state["attributions"]))}, **more)


def button(view: Mounted | Page, name: str) -> Any:
    page = view.page if isinstance(view, Mounted) else view
    return page.get_by_role("button", name=LABELS[name], exact=True)


def expanded(view: Mounted) -> list[str]:
    """Names of the sections that are open."""
    return [name for name in LABELS if button(view, name).get_attribute("aria-expanded") == "true"]


def place(view: Mounted | Page) -> Any:
    page = view.page if isinstance(view, Mounted) else view
    return page.locator(".dlp-section")


def text(view: Mounted | Page) -> str:
    """Text of the section that is open, which has a shadow root once it is answered."""
    return place(view).locator("> p, .dl").inner_text()


def answer(view: Mounted, name: str, html: str, key: str | None = None) -> None:
    state = view.page.evaluate("() => ({ picked: host.state.picked })")
    whole = name in ("mechanisms", "words")
    view.say(type="section", id=f"{name} {'' if whole else key or state['picked']}", html=html)


# A stand-in for Python.


def test_a_click_says_at_once_what_is_computed_and_the_answer_takes_its_place(mount: Mount):
    view = mount("dream", live_state())
    entry = next(e for e in run_state(60, steps=60)["frontier"] if e["key"] == live_state()["picked"])
    assert not place(view).is_visible() and expanded(view) == []
    button(view, "upstream").click()
    assert view.sent("section") == [{"type": "section", "name": "upstream", "ids": entry["ids"]}]
    assert place(view).get_by_role("status").inner_text() == "Computing upstream…" and expanded(view) == ["upstream"]
    assert button(view, "upstream").get_attribute("aria-controls") == place(view).get_attribute("id")
    answer(view, "upstream", "<p>From <strong>L1.H0</strong>.</p>")
    assert text(view) == "From L1.H0." and place(view).locator("strong").count() == 1
    button(view, "upstream").click()
    assert not place(view).is_visible() and expanded(view) == []


def test_one_section_is_open_at_a_time_and_late_answers_do_not_replace_it(mount: Mount):
    view = mount("dream", live_state())
    for name in LABELS:
        button(view, name).click()
        assert expanded(view) == [name] and view.sent("section")[-1]["name"] == name
    assert view.sent("section")[-1]["ids"] == []  # about the run
    answer(view, "downstream", "<p>too late</p>")
    assert text(view) == "Computing words…"
    answer(view, "words", "<p>Numbers.</p>")
    assert text(view) == "Numbers."
    answer(view, "upstream", "<p>too late</p>")
    assert text(view) == "Numbers."


def test_a_section_never_stands_under_another_prompt(mount: Mount):
    view = mount("dream", live_state())
    first = live_state()["picked"]
    button(view, "upstream").click()
    answer(view, "upstream", "<p>of the first</p>")
    rows = view.find(".dlp-table tbody tr")
    rows.nth(7).click()
    view.frames()
    view.frames()
    assert not place(view).is_visible() and expanded(view) == [] and len(view.sent("section")) == 1
    second = view.page.evaluate("() => host.state.picked")
    button(view, "upstream").click()
    assert ".".join(map(str, view.sent("section")[-1]["ids"])) == second != first
    answer(view, "upstream", "<p>of the first, late</p>", first)
    assert text(view) == "Computing upstream…"
    answer(view, "upstream", "<p>of the second</p>")
    assert text(view) == "of the second"
    rows.nth(0).click()
    view.frames()
    view.frames()
    assert not place(view).is_visible()
    view.find(f".dlp-table tr[data-key='{second}']").click()
    view.frames()
    view.frames()
    assert text(view) == "of the second" and expanded(view) == ["upstream"]


def test_a_section_of_the_run_stays_when_another_prompt_is_picked(mount: Mount):
    view = mount("dream", live_state())
    button(view, "mechanisms").click()
    answer(view, "mechanisms", "<p>two ways</p>")
    view.find(".dlp-table tbody tr").nth(7).click()
    view.frames()
    view.frames()
    assert text(view) == "two ways" and len(view.sent("section")) == 1


def test_a_prompt_that_was_typed_has_sections_of_its_own(mount: Mount):
    view = mount("dream", live_state())
    button(view, "upstream").click()
    answer(view, "upstream", "<p>of the picked prompt</p>")
    edited(view)
    view.frames()
    assert not place(view).is_visible()
    button(view, "upstream").click()
    assert view.sent("section")[-1]["ids"] == TYPED["ids"]
    answer(view, "upstream", "<p>of the typed prompt</p>", TYPED["key"])
    assert text(view) == "of the typed prompt"
    view.button("Undo").click()
    view.frames()
    assert not place(view).is_visible()


def test_an_error_is_a_sentence_in_the_section(mount: Mount):
    view = mount("dream", live_state())
    button(view, "upstream").click()
    sentence = "has no upstream decomposition " + "".join(HOSTILE[:6])
    view.say(type="section", id=f"upstream {live_state()['picked']}", error=sentence)
    alert = place(view).get_by_role("alert")
    assert alert.get_attribute("class") == "dlp-wrong" and alert.inner_text().startswith("has no upstream")
    assert view.page.evaluate("() => document.querySelectorAll('.dlp :is(img, script, [onerror])').length") == 0
    button(view, "upstream").click()
    button(view, "upstream").click()
    assert len(view.sent("section")) == 2  # asked again


def test_no_script_in_a_section_runs(mount: Mount):
    view = mount("dream", live_state())
    button(view, "words").click()
    answer(view, "words", "<p>text</p><script>document.title = 'changed'</script>")
    assert place(view).locator("p").inner_text() == "text" and view.page.evaluate("() => document.title") == "a view"


def test_silence_is_said_and_a_late_answer_is_shown(mount: Mount):
    view = mount("dream", live_state())
    view.page.clock.install()
    button(view, "mechanisms").click()
    view.page.clock.run_for(1000)
    assert text(view) == "Computing mechanisms…"
    view.page.clock.run_for(21_000)
    assert text(view).startswith("Computing mechanisms… No answer has come yet")
    view.page.evaluate("() => host.fire('msg:custom', { type: 'section', id: 'mechanisms ', html: '<p>ways</p>' }, [])")
    view.page.clock.run_for(60_000)
    assert text(view) == "ways"


def test_without_a_prompt_there_are_the_sections_of_the_run(mount: Mount):
    view = mount("dream", with_sections(empty_state()))
    shown = [name for name in LABELS if button(view, name).count()]
    assert shown == ["mechanisms", "words"]
    button(view, "words").click()
    assert view.sent("section") == [{"type": "section", "name": "words", "ids": []}]


def test_a_view_without_sections_has_no_row(mount: Mount):
    assert not mount("dream", run_state(60, steps=60)).find(".dlp-about").is_visible()


def test_a_view_that_is_drawn_again_opens_what_was_open(mount: Mount):
    state = live_state()
    view = mount("dream", state)
    button(view, "upstream").click()
    answer(view, "upstream", "<p>of the first</p>")
    view.again()
    assert len(view.sent("section")) == 2 and text(view) == "Computing upstream…"
    answer(view, "upstream", "<p>of the first</p>")
    view.change(fragments={f"upstream {state['picked']}": "<p>known</p>", "mechanisms ": "<p>ways</p>"})
    view.again()
    assert text(view) == "known" and len(view.sent("section")) == 2
    button(view, "mechanisms").click()  # is shown at once, and asked for, as the run may have gone on
    assert text(view) == "ways" and view.sent("section")[-1]["name"] == "mechanisms"
    answer(view, "mechanisms", "<p>more ways</p>")
    assert text(view) == "more ways"


def test_python_freezes_the_view_again_when_a_section_was_opened(mount: Mount):
    view = mount("dream", live_state())
    view.page.mouse.move(400, 300)
    button(view, "words").click()
    assert view.sent("keep") == []
    view.page.evaluate("() => document.activeElement.blur()")
    view.page.mouse.move(2, 2)
    view.page.wait_for_function("() => host.sent.some((m) => m.type === 'keep')")
    assert view.saved()["view_state"]["section"] == "words "


@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_keys_open_and_close_a_section_and_the_focus_stays(mount: Mount, key: str):
    view = mount("dream", live_state())
    button(view, "upstream").focus()
    view.page.keyboard.press("Tab")
    assert view.focused == LABELS["mechanisms"]
    view.page.keyboard.press(key)
    answer(view, "mechanisms", "<p>ways</p>")
    assert view.focused == LABELS["mechanisms"] and expanded(view) == ["mechanisms"]
    view.page.keyboard.press(key)
    assert view.focused == LABELS["mechanisms"] and not place(view).is_visible()


def test_a_view_of_one_prompt_has_them_too(mount: Mount):
    listed = [LISTED[0], LISTED[2]]
    state = with_sections(attribution_state(), sections=listed)
    view = mount("attribution", state)
    button(view, "downstream").click()
    assert view.sent("section") == [{"type": "section", "name": "downstream", "ids": state["found"]["ids"]}]
    answer(view, "downstream", "<p>steered</p>", state["found"]["key"])
    assert text(view) == "steered" and not button(view, "mechanisms").count()


# Python itself.


@pytest.fixture(scope="module")
def run() -> Dream:
    return dl.dream("L2.N812", iterations=8, progress=False, wait=True, **SETTINGS)


def picked_prompt(run: Dream) -> Prompt:
    """The prompt that a panel picks by itself."""
    prompt = run.frontier.representative()
    assert prompt is not None
    return prompt


class Host:
    """A live panel whose view is in Chromium: messages go both ways, as between a notebook and its kernel."""

    def __init__(self, mount: Mount, panel: DreamPanel | AttributionPanel, monkeypatch: Any, **more: Any) -> None:
        self.panel, self._said, self._heard = panel, [], 0
        monkeypatch.setattr(panel, "send", lambda content, buffers=None: self._said.append(content))
        names = {name for kind in type(panel).__mro__ for name in vars(kind) if not name.startswith("_")}
        state = {name: value for name, value in panel.get_state().items() if name in names}
        self.view = mount("dream" if isinstance(panel, DreamPanel) else "attribution", state, **more)
        self.pass_on()

    def pass_on(self) -> None:
        """Let Python answer what the view has sent."""
        sent = self.view.sent()
        for message in sent[self._heard :]:
            if message["type"] == "section":
                self.panel._handle_custom_msg(message, [])
        self._heard = len(sent)
        thread = self.panel.run if isinstance(self.panel, DreamPanel) else self.panel._thread
        thread.ask(lambda: None).result(120)
        while self._said:
            self.view.say(**self._said.pop(0))

    def open(self, name: str) -> str:
        """Open a section, and return its text."""
        button(self.view, name).click()
        self.pass_on()
        return text(self.view)


SHADOW = """document.querySelector(".dlp-section > div").shadowRoot"""
OVERFLOW = """
() => {
  const whole = document.querySelector(".dlp").getBoundingClientRect();
  const inside = SHADOW.querySelector(".dl").getBoundingClientRect();
  const narrow = inside.width < whole.width / 2;
  return [document.documentElement.scrollWidth > innerWidth, inside.right > whole.right + 0.5, narrow];
}
""".replace("SHADOW", SHADOW)


def contrast_of_a_section() -> str:
    """CONTRAST, of the text in the shadow root, without figures: they have colours of their own."""
    changes = {
        'createTreeWalker(document.querySelector(".dlp"),': f"createTreeWalker({SHADOW},",
        "e = e.parentElement)": "e = e.parentElement ?? e.getRootNode().host)",
        "textarea, option": "textarea, option, svg",
    }
    script = CONTRAST
    for before, after in changes.items():
        assert script.count(before) == 1
        script = script.replace(before, after)
    return script


def test_each_button_of_a_live_panel_shows_what_python_computes(mount: Mount, run: Dream, monkeypatch):
    host = Host(mount, DreamPanel(run), monkeypatch)
    prompt = picked_prompt(run)
    shown = host.open("upstream")
    upstream = prompt.upstream()
    assert upstream.sentence in shown and upstream.top(1)[0].component.name in shown
    assert place(host.view).locator("svg rect").count() > 20 and place(host.view).locator("tr").count() > 5
    assert "placebo" in host.open("downstream")
    assert place(host.view).locator("svg path, svg polyline").count() >= 2
    assert "After iteration 8." in host.open("mechanisms")
    assert place(host.view).locator("table").count() >= 1
    assert "dl.explain(run, llm=...)" in host.open("words")
    assert host.view.page.evaluate(UNNAMED) == []


def test_another_prompt_of_a_live_panel_has_another_section(mount: Mount, run: Dream, monkeypatch):
    host = Host(mount, DreamPanel(run), monkeypatch)
    first, last = picked_prompt(run), run.frontier[-1]
    if first == last:
        first = run.frontier[0]
    for prompt in (first, last):
        host.view.change(picked=".".join(map(str, prompt.ids)))
        host.view.frames()
        assert not place(host.view).is_visible()
        assert prompt.upstream().sentence in host.open("upstream")


def test_a_live_panel_of_a_prompt_answers(mount: Mount, monkeypatch):
    panel = AttributionPanel("L2.N812", "the same as described only").wait()
    host = Host(mount, panel, monkeypatch)
    assert "components" in host.open("upstream") and "placebo" in host.open("downstream")


def test_a_feature_without_a_decomposition_says_why(mount: Mount, monkeypatch):
    hook = "blocks.1.hook_resid_post"
    feature = dl.custom("steps", [hook], lambda a: a[hook][:, -1, 0].detach().round())
    host = Host(mount, AttributionPanel(feature, "the same as described only").wait(), monkeypatch)
    host.open("upstream")
    assert "gradient" in place(host.view).get_by_role("alert").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_sections_fit_every_width_and_can_be_read(mount: Mount, run: Dream, monkeypatch, scheme: str):
    host = Host(mount, DreamPanel(run), monkeypatch, scheme=scheme)
    page = host.view.page
    for name in LABELS:
        host.open(name)
        for width in (320, 400, 700, 1000, 1400):
            page.set_viewport_size({"width": width, "height": 900})
            host.view.frames()
            assert page.evaluate(OVERFLOW) == [False, False, False], (name, width)
            assert page.evaluate(STICKS_OUT) == page.evaluate(OVERLAPS) == [], (name, width)
        assert page.evaluate(contrast_of_a_section()) == [], name
        assert page.evaluate(CONTRAST) == [], name


def test_the_theme_of_the_page_counts_and_not_that_of_the_system(mount: Mount, run: Dream, monkeypatch):
    host = Host(mount, DreamPanel(run), monkeypatch, scheme="light")
    host.open("upstream")
    ink = f"() => getComputedStyle({SHADOW}.querySelector('td')).color"
    filters = f"() => getComputedStyle({SHADOW}.querySelector('.dl-figure')).filter"
    light = host.view.page.evaluate(ink)
    assert host.view.page.evaluate(filters) == "none"
    host.view.page.evaluate("() => { document.body.dataset.jpThemeLight = 'false'; }")
    host.view.frames()
    assert host.view.page.evaluate(ink) != light and "invert" in host.view.page.evaluate(filters)
    assert host.view.page.evaluate(contrast_of_a_section()) == []
    host.view.page.evaluate(f"() => {{ {SHADOW}.querySelector('p').style.color = '#333'; }}")
    assert len(host.view.page.evaluate(contrast_of_a_section())) == 1  # the check itself can fail


# Frozen.


@pytest.fixture(scope="module")
def frozen_page(run: Dream) -> str:
    """The page of a run of which two sections about one prompt and one about the run were opened, one of them last."""
    panel, prompt = DreamPanel(run), picked_prompt(run)
    key = ".".join(map(str, prompt.ids))
    panel.picked = key
    for name in ("upstream", "mechanisms"):
        panel._handle_custom_msg({"type": "section", "name": name, "ids": list(prompt.ids)}, [])
    run.ask(lambda: None).result(120)
    panel.view_state = {"section": f"upstream {key}"}  # pyright: ignore[reportAttributeAccessIssue]
    return panel.to_html()


def test_a_frozen_view_has_the_sections_that_were_opened_and_needs_no_kernel(
    offline_page: Callable[..., Page], frozen_page: str, run: Dream, tmp_path: Path
):
    policy = "default-src 'none'; script-src 'unsafe-inline' blob:; style-src 'unsafe-inline'; base-uri 'none'"
    head = f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}"><title>a run</title>'
    path = tmp_path / "page.html"
    path.write_text(f'<!DOCTYPE html><html lang="en">{head}<body>{frozen_page}</body></html>', encoding="utf-8")
    page = offline_page(path)
    page.set_default_timeout(5000)
    page.locator(".dlp-about").wait_for()
    shown = [name for name in LABELS if button(page, name).count()]
    assert {"upstream", "mechanisms"} <= set(shown)
    prompt = picked_prompt(run)
    assert prompt.upstream().sentence in text(page)  # as the user left it
    button(page, "mechanisms").click()
    assert "After iteration 8." in text(page)
    other = next(p for p in run.frontier if p != prompt)
    page.locator(f".dlp-dot[data-key='{'.'.join(map(str, other.ids))}']").click(force=True)
    page.evaluate(FRAMES)
    assert "After iteration 8." in text(page)
    names = [name for name in ("upstream", "mechanisms") if button(page, name).count()]
    assert names == ["mechanisms"]  # there is nothing about the other prompt
    for width, scheme in ((400, "dark"), (1400, "light")):
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)  # pyright: ignore[reportArgumentType]
        page.evaluate(FRAMES)
        assert page.evaluate(OVERFLOW)[:2] == [False, False]
