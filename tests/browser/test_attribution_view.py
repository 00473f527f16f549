"""One prompt in Chromium: what its tokens carry, what others would do, and whatever one types."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from dreamy_lens.runs.python_code import HOLE
from tests.browser.fake_states import VOCABULARY, bare, entry, found, prompt, quick, run_state, runs_state
from tests.browser.fake_states import attribution_state as any_state
from tests.browser.mounted import Mounted

Mount = Callable[..., Mounted]
MINUS = "−"


def number(text: str) -> float:
    return float(text.replace(MINUS, "-").replace(",", ""))


def another(seed: int = 7, **changes: Any) -> dict[str, Any]:
    rng = random.Random(seed)
    return {**found(entry(prompt(rng), 4.321, 6.789, 9), rng), "trips": True, **changes}


def attribution_state(**changes: Any) -> dict[str, Any]:
    return any_state(**{"found": another(), "attributions": {}, **changes})


def answer(view: Mounted, one: dict[str, Any], number: str = "") -> None:
    view.say(type="answer", id=number or view.sent()[-1]["id"], found=one)


def tokens(view: Mounted) -> list[str]:
    return view.find(".dlp-token > b").all_text_contents()


def show_substitutes(view: Mounted, position: int) -> None:
    view.find(".dlp-token").nth(position).click()


# In stages.


def test_an_answer_comes_in_four_stages(mount: Mount):
    state = run_state(60, attributed=1)
    (one,) = state["attributions"].values()
    view = mount("dream", {**state, "attributions": {}})
    view.find(f'.dlp-table tr[data-key="{one["key"]}"]').click()
    view.frames()
    asked = view.sent("look")
    assert [m["ids"] for m in asked] == [one["ids"]]
    assert view.page.get_by_text("working…").is_visible() and view.page.get_by_text("trying substitutes…").is_visible()
    answer(view, bare(one, value=1.5))
    assert view.text(".dlp-numbers b") == "1.500" and view.page.get_by_text("working…").is_visible()
    answer(view, quick(one))
    assert "the worst of 4 substitutes so far (max " in view.text(".dlp-legend")
    assert view.find(".dlp-token > small").count() == 0 and view.page.get_by_text("working…").is_visible()
    answer(view, {**one, "series": None})
    assert "the worst of 32 substitutes (max " in view.text(".dlp-legend") and "so far" not in view.text(".dlp-one")
    assert view.find(".dlp-token > small").count() == 0 and view.button("Heat map").is_visible()
    shares = view.find(".dlp-token").evaluate_all(
        "(all) => all.map((one) => [one.style.getPropertyValue('--d'), one.style.getPropertyValue('--h')].map(Number))"
    )
    most = max(one["drop"])
    clipped = [
        [min(1, max(0, d / most)), min(1, max(0, f / most)) if abs(f) >= 0.0005 else 0]  # what reads 0.000 has no bar
        for d, f in zip(one["drop"], one["floor"], strict=True)
    ]
    assert [x for pair in shares for x in pair] == pytest.approx([x for pair in clipped for x in pair], abs=6e-4)
    answer(view, one)
    assert view.find(".dlp-token > small").count() == len(one["ids"])
    assert view.page.get_by_text("working…").count() == 0 and len(view.sent("look")) == 1
    better = view.find(".dlp-token").evaluate_all("(all) => all.map((one) => one.classList.contains('dlp-better'))")
    assert better == [f <= -0.0005 for f in one["floor"]]


def test_few_substitutes_are_never_taken_for_all(mount: Mount):
    state = run_state(60, attributed=1)
    (one,) = state["attributions"].values()
    view = mount("dream", {**state, "attributions": {}})
    view.find(f'.dlp-table tr[data-key="{one["key"]}"]').click()
    view.frames()
    (asked,) = view.sent("look")
    answer(view, quick(one))
    view.button("Heat map").click()
    assert view.find(".dlp-heat [role=gridcell]").count() == 4 * len(one["ids"])
    assert "so far, best on top" in view.text(".dlp-legend")
    view.button("Heat map").click()
    # Another prompt is tried before all of the substitutes are known, so the rest of this answer never comes.
    show_substitutes(view, 0)
    view.find(".dlp-ledger tbody button").first.click()
    new = another(8)
    answer(view, new)
    answer(view, quick(one), asked["id"])  # too late
    assert tokens(view) == [VOCABULARY[i].replace("\n", "↵") for i in new["ids"]]
    view.button("Undo").click()
    assert "so far" in view.text(".dlp-legend")
    first, _, again = view.sent("look")
    assert again["ids"] == first["ids"] == one["ids"]
    answer(view, one)
    assert "32 substitutes (max " in view.text(".dlp-legend") and view.page.get_by_text("working…").count() == 0


def test_an_error_is_a_sentence_and_the_prompt_stays(mount: Mount):
    view = mount("attribution", attribution_state())
    before = tokens(view)
    box = view.page.get_by_label("edit the whole prompt")
    box.fill("")
    box.press("Enter")
    assert view.sent() == []
    box.fill("what is <b>this</b>?")
    box.press("Enter")
    (asked,) = view.sent()
    assert asked == {"type": "edit", "text": "what is <b>this</b>?", "id": asked["id"]}
    view.say(type="answer", id=asked["id"], error="A prompt has at most 64 tokens; this one has <b>99</b>.")
    wrong = view.find(".dlp-one .dlp-wrong")
    assert wrong.inner_text() == "A prompt has at most 64 tokens; this one has <b>99</b>."
    assert wrong.get_attribute("role") == "alert"
    assert tokens(view) == before and view.button("Undo").count() == 0
    assert box.input_value() == "what is <b>this</b>?"  # to be mended
    assert view.page.get_by_text("working…").count() == 0


def test_an_error_instead_of_an_attribution(mount: Mount):
    state = run_state(60, attributed=0)
    view = mount("dream", {**state, "picked": state["frontier"][0]["key"]})
    view.say(type="answer", id=view.sent("look")[0]["id"], error="This feature has no gradient.")
    assert "This feature has no gradient." in view.text(".dlp-one")
    assert view.page.get_by_text("trying substitutes…").count() == 0
    assert view.find(".dlp-token").count() == 12 and len(view.sent("look")) == 1


def test_a_notice_is_read_out(mount: Mount):
    view = mount("attribution", attribution_state())
    view.say(type="notice", text="The model is busy.\u202e")
    assert view.text(".dlp-notice") == "The model is busy.[U+202E]"
    assert view.find(".dlp-notice").get_attribute("aria-live") == "polite"


# Substitutes.


def test_a_long_ledger_is_folded_until_asked_for(mount: Mount):
    rng = random.Random(0)
    one = found(entry(prompt(rng), 4.0, 5.0, 1), rng, k=32)
    view = mount("attribution", attribution_state(found=one))
    show_substitutes(view, 0)
    assert view.find(".dlp-ledger tbody tr").count() == 13
    more = view.button("20 more")
    more.focus()
    view.page.keyboard.press("Enter")
    assert view.find(".dlp-ledger tbody tr").count() == 32
    assert view.page.evaluate("() => document.activeElement !== document.body")


def test_substitutes_are_tried_undone_and_left(mount: Mount):
    state = attribution_state()
    one = state["found"]
    view = mount("attribution", state)
    steps = []
    now = one
    for position in (0, 3):
        if view.find(".dlp-token.dlp-on").count() == 0 or position:
            show_substitutes(view, position)
        substitute = now["subs"][position][1]
        view.find(".dlp-ledger button.dlp-sub").nth(1).click()
        asked = view.sent()[-1]
        ids = [*now["ids"][:position], substitute[1], *now["ids"][position + 1 :]]
        assert asked == {"type": "look", "ids": ids, "id": asked["id"]}
        now = another(seed=position, ids=ids, key=".".join(map(str, ids)), tokens=[VOCABULARY[i] for i in ids])
        answer(view, now)
        steps.append(now)
    first, second = steps
    assert view.find(".dlp-token.dlp-changed").count() == 2
    asked = len(view.sent())
    view.button("Undo").click()
    assert view.find(".dlp-token.dlp-changed").count() == 1
    assert view.text(".dlp-numbers b") == f"{first['value']:.3f}"
    view.button("Undo").click()
    assert view.button("Undo").count() == 0 and view.find(".dlp-token.dlp-changed").count() == 0
    assert len(view.sent()) == asked  # it is all known
    show_substitutes(view, 0)
    view.find(".dlp-ledger button.dlp-sub").nth(1).click()
    view.frames()
    answer(view, first, view.sent()[-1].get("id", ""))
    view.button("Back to the picked prompt").click()
    assert view.button("Undo").count() == 0 and view.text(".dlp-numbers b") == f"{one['value']:.3f}"
    assert second["key"] != first["key"]


# The heat map.


def test_the_strongest_column_of_a_wide_heat_map_is_in_view(mount: Mount):
    state = run_state(60, steps=60)
    key, one = next(iter(state["attributions"].items()))
    long = {name: (one[name] * 3)[:30] for name in ("ids", "tokens", "floor", "subs")}
    for at in (0, 14, 29):
        drop = [9.0 if i == at else 0.1 for i in range(30)]
        view = mount("dream", {**state, "attributions": {key: {**one, **long, "drop": drop}}, "picked": key})
        view.page.set_viewport_size({"width": 500, "height": 900})
        view.button("Heat map").click()
        view.frames()
        where = """(at) => {
          const box = document.querySelector(".dlp-one .dlp-scroll").getBoundingClientRect();
          const head = document.querySelectorAll(".dlp-heat [role=columnheader]")[at].getBoundingClientRect();
          return head.left >= box.left - 1 && head.right <= box.right + 1;
        }"""
        assert view.page.evaluate(where, at), at


def test_bars_stand_on_their_tokens(mount: Mount):
    view = mount("dream", {**run_state(60, steps=60), "picked": next(iter(run_state(60, steps=60)["attributions"]))})
    gaps = view.find(".dlp-token").evaluate_all(
        """(all) => all.map((one) => {
          const bar = one.querySelector("i"), border = parseFloat(getComputedStyle(bar).borderBottomWidth);
          const edge = bar.getBoundingClientRect().bottom - (one.classList.contains("dlp-better") ? 0 : border);
          return one.querySelector("b").getBoundingClientRect().top - edge;
        })"""
    )
    assert max(map(abs, gaps)) < 0.5


def test_the_heat_map_is_a_grid_for_the_keyboard(mount: Mount):
    state = attribution_state()
    one = state["found"]
    one["subs"][1] = one["subs"][1][:3]
    view = mount("attribution", state)
    view.button("Heat map").click()
    assert view.find(".dlp-token").count() == 0 and view.focused == "Heat map"
    assert view.find(".dlp-heat button:disabled").count() == 5
    grid = view.page.get_by_role("grid")
    assert grid.get_by_role("row").count() == 9 and grid.get_by_role("columnheader").count() == 12
    assert grid.locator("[tabindex='0']").count() == 1
    view.page.keyboard.press("Tab")
    for _ in range(12):  # over the boxes for copying, if they come after
        if view.page.evaluate("() => Boolean(document.activeElement.closest('[role=grid]'))"):
            break
        view.page.keyboard.press("Tab")
    where = "() => document.activeElement.dataset.focus"
    for key, at in (
        ("ArrowDown", "1-0"),
        ("ArrowRight", "1-1"),
        ("ArrowDown", "2-1"),
        ("ArrowDown", "2-1"),  # nothing was tried below it
        ("End", "2-11"),
        ("ArrowRight", "2-11"),
        ("ArrowDown", "3-11"),
        ("Home", "3-0"),
        ("ArrowRight", "3-2"),  # over the place where nothing was tried
        ("ArrowLeft", "3-0"),
        ("ArrowUp", "2-0"),
        ("ArrowUp", "1-0"),
        ("ArrowLeft", "1-0"),  # it is the edge
    ):
        view.page.keyboard.press(key)
        assert view.page.evaluate(where) == f"heat-{at}", key
    assert grid.locator("[tabindex='0']").count() == 1
    view.page.keyboard.press("Enter")
    (asked,) = view.sent("look")
    assert asked["ids"] == [one["subs"][0][1][1], *one["ids"][1:]]
    view.button("Heat map").click()
    assert view.find(".dlp-token").count() == 12


# Copying.


def copied(view: Mounted, name: str) -> str:
    view.button(f"copy as {name}").click()
    view.page.get_by_text(f"copied as {name}").wait_for()
    return view.page.evaluate("() => navigator.clipboard.readText()")


def test_what_is_shown_is_copied_as_text_ids_and_python(mount: Mount):
    state = attribution_state()
    one = state["found"]
    view = mount("attribution", state, permissions=["clipboard-read", "clipboard-write"])
    assert copied(view, "ids") == json.dumps(one["ids"], separators=(",", ":"))
    assert copied(view, "text") == one["text"]
    code = state["python"]["prompt"].replace(HOLE, str(one["ids"]).strip("[]"))
    assert copied(view, "Python") == code
    view.change(python={})  # the view of an attribution whose feature is unknown
    assert view.button("copy as Python").count() == 1
    view.again()
    assert view.button("copy as Python").count() == 0


@pytest.mark.parametrize("kind", ["dream", "runs"])
def test_a_run_and_its_best_prompt_are_copied_as_python(mount: Mount, kind: str):
    state = run_state(40) if kind == "dream" else runs_state(2)
    view = mount(kind, {**state, "live": False}, permissions=["clipboard-read", "clipboard-write"])

    def code() -> str:
        view.button("Copy as Python").click()
        view.page.get_by_text("Copied as Python").first.wait_for()
        return view.page.evaluate("() => navigator.clipboard.readText()")

    assert code() == state["python"]["run"]
    if kind == "dream":
        box = view.page.get_by_label("maximum cross-entropy, as a number")
        box.fill("4.5")
        assert code() == state["python"]["run"] + "\n" + state["python"]["best"].replace(HOLE, "4.5")
    assert not view.sent()


def test_without_permission_it_says_so_or_copies_all_the_same(mount: Mount):
    view = mount("attribution", attribution_state())
    view.page.evaluate(
        """() => {
          Object.defineProperty(navigator, "clipboard", { value: { writeText: () => Promise.reject(Error("no")) } });
          document.execCommand = (name) => {
            host.command = [name, document.activeElement.value];
            return host.allowed;
          };
          host.allowed = true;
        }"""
    )
    view.button("copy as text").click()
    view.page.wait_for_function("() => host.command")
    assert view.page.evaluate("() => host.command") == ["copy", attribution_state()["found"]["text"]]
    assert view.page.get_by_text("copied as text").is_visible()
    assert view.focused == "copy as text"  # the focus is where it was
    view.page.evaluate("() => { host.allowed = false; }")
    view.button("copy as ids").click()
    view.page.get_by_text("The browser does not let this page use the clipboard. Copy the text").wait_for()
    assert view.page.locator("textarea.dlp-away").count() == 0
    shown, ids = view.find(".dlp-code textarea"), json.dumps(attribution_state()["found"]["ids"], separators=(",", ":"))
    assert shown.input_value() == ids and view.focused == "ids to copy"
    assert view.page.evaluate("() => getSelection().toString()") in (ids, "")
    view.button("Close").click()
    assert shown.is_hidden()


# What is asked.


def test_a_question_is_asked_once_however_often_the_frontier_comes(mount: Mount):
    state = run_state(40, attributed=0)
    view = mount("dream", {**state, "picked": state["frontier"][2]["key"]})
    for step in range(41, 46):
        view.change(frontier=[dict(e) for e in state["frontier"]], step=step)
    assert len(view.sent()) == 1
    box = view.page.get_by_label("edit the whole prompt")
    box.fill(" before the first answer")
    box.press("Enter")
    view.change(frontier=[dict(e) for e in state["frontier"]], step=46)
    first, second = view.sent()
    assert (first["type"], second["type"]) == ("look", "edit")
    answer(view, another(text=" before the first answer"), second["id"])
    assert view.text(".dlp-text") == "before the first answer"


def test_an_error_is_not_asked_for_again_by_itself(mount: Mount):
    state = run_state(40, attributed=0)
    view = mount("dream", {**state, "picked": state["frontier"][2]["key"]})
    view.say(type="answer", id=view.sent()[0]["id"], error="This feature has no gradient.")
    view.change(frontier=[dict(e) for e in state["frontier"]], step=41)
    assert len(view.sent()) == 1 and view.text(".dlp-one .dlp-wrong") == "This feature has no gradient."


def test_two_tries_before_an_answer_are_one_step_back(mount: Mount):
    view = mount("attribution", attribution_state())
    box = view.page.get_by_label("edit the whole prompt")
    for text in (" one", " two"):
        box.fill(text)
        box.press("Enter")
    answer(view, another(seed=8, text=" two"))
    view.button("Undo").click()
    assert view.button("Undo").count() == 0 and view.button("Back to the picked prompt").count() == 0


def test_an_answer_about_a_prompt_that_was_left_is_not_shown(mount: Mount):
    state = run_state(60, attributed=1)
    (known,) = state["attributions"].values()
    other = next(e for e in state["frontier"] if e["key"] != known["key"])
    view = mount("dream", {**state, "picked": other["key"]})
    (asked,) = view.sent("look")
    view.find(f'.dlp-table tr[data-key="{known["key"]}"]').click()
    view.frames()
    assert view.page.get_by_text("working…").count() == 0
    answer(view, found(other, random.Random(1)), asked["id"])
    assert view.text(".dlp-text").startswith(known["text"].strip()[:10])
