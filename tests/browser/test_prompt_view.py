"""One prompt in Chromium: its strip, its substitutes, and playing with it: asked, answered, too late, undone."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from dreamy_lens.html.numbers import decimals
from tests.browser.fake_states import VOCABULARY, attribution_state, bare, entry, found, key, run_state
from tests.browser.mounted import Mounted

Mount = Callable[..., Mounted]
MINUS = "−"


def changed(one: dict[str, Any], position: int, token: int, value: float) -> dict[str, Any]:
    """What would be found of the prompt with another token in a place."""
    ids = [*one["ids"][:position], token, *one["ids"][position + 1 :]]
    return found(entry(ids, one["ce"] + 0.5, value, 0), random.Random(token))


def tokens(view: Mounted) -> list[str]:
    return view.find(".dlp-token b").all_inner_texts()


def numbers(view: Mounted) -> list[str]:
    return view.find(".dlp-numbers > span").all_inner_texts()


def picked(state: dict[str, Any], at: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    """A state with one of its attributed prompts picked, and what is known of that."""
    name, one = list(state["attributions"].items())[at]
    return {**state, "picked": name}, one


# The strip.


def test_a_strip_shows_what_its_tokens_lose(mount: Mount):
    state, one = picked(run_state(60, steps=60))
    view = mount("dream", state)
    assert view.sent() == []  # everything is known
    style = "(all) => all.map((b) => [b.style.getPropertyValue('--d'), b.style.getPropertyValue('--h')].map(Number))"
    shown = view.find(".dlp-token").evaluate_all(style)
    colour, digits = max(*one["drop"], 0.0), decimals([one["value"], *one["drop"]], 3)
    for (d, height), drop, floor in zip(shown, one["drop"], one["floor"], strict=True):
        assert abs(d - min(1, max(0, drop / colour))) < 1e-3
        expected = min(1, max(0, floor / colour)) if round(floor, digits) else 0
        assert abs(height - expected) < 1e-3
    better = view.find(".dlp-token").evaluate_all("(all) => all.map((b) => b.classList.contains('dlp-better'))")
    assert better == [round(floor, digits) < 0 for floor in one["floor"]]
    legend = view.text(".dlp-legend")
    assert f"(max {colour:.3f})"[:8] in legend and "drop with the best, on the same scale" in legend
    assert view.find(".dlp-token small").count() == len(one["tokens"])
    assert "Below: value if the prompt ended there" in view.text(".dlp-legend:nth-of-type(2)")
    name = view.find(".dlp-token").first.get_attribute("aria-label") or ""
    assert name.startswith(f"1 of {len(one['tokens'])}: ") and "worst substitute " in name


def test_tokens_that_could_not_be_seen_are_seen(mount: Mount):
    pieces = [" the", "  ", "\n", "\t", "", "\u202e", "\ufffd", "\u0301", "é", "\u00a0", "\ud83d", "\u200d"]
    found_ = {**attribution_state()["found"], "tokens": pieces}
    view = mount("attribution", attribution_state(found=found_, attributions={}))
    expected = [" the", "··", "↵", "→", "∅", "[U+202E]", "\ufffd", "◌\u0301", "é", "[U+00A0]", "[U+D83D]", "[U+200D]"]
    assert view.find(".dlp-token b").all_text_contents() == expected


def test_a_token_has_a_ledger(mount: Mount):
    state, one = picked(run_state(60, steps=60))
    view = mount("dream", state)
    view.find(".dlp-token").nth(4).click()
    rows = [row.split("\t") for row in view.find(".dlp-ledger tbody tr").all_inner_texts()]
    assert len(rows) == len(one["subs"][4])
    values = [float(row[1].replace(MINUS, "-")) for row in rows]
    assert values == sorted(values, reverse=True)
    for row, (_, _, value, ce) in zip(rows, one["subs"][4], strict=True):
        change = value - one["value"]
        assert row[2].startswith("+" if change > 0 else MINUS) and row[4][0] in "+" + MINUS + "0"
        assert abs(float(row[2].replace(MINUS, "-")) - change) < 0.002 and row[3] == f"{ce:.2f}"
    assert view.find(".dlp-token").nth(4).get_attribute("aria-expanded") == "true"
    view.find(".dlp-token").nth(4).press("Enter")
    assert view.find(".dlp-ledger").count() == 0


def test_a_long_ledger_is_folded(mount: Mount):
    state, one = picked(run_state(60, steps=60, k=32))
    view = mount("dream", state)
    view.find(".dlp-token").first.click()
    assert view.find(".dlp-ledger tbody tr").count() == 13
    view.button("20 more").click()
    assert view.find(".dlp-ledger tbody tr").count() == len(one["subs"][0]) == 32


# Playing.


def test_a_substitute_is_tried_and_undone(mount: Mount):
    state, one = picked(run_state(60, steps=60))
    view = mount("dream", state)
    view.find(".dlp-token").nth(2).click()
    _, substitute, *_ = one["subs"][2][0]
    view.find(".dlp-ledger tbody button").first.click()
    assert "Working…" in view.text(".dlp-numbers")  # before any answer
    (asked,) = view.sent("look")
    assert asked["ids"] == [*one["ids"][:2], substitute, *one["ids"][3:]]
    new = changed(one, 2, substitute, one["value"] + 1.5)
    view.say(type="answer", id=asked["id"], found=bare(new))
    assert tokens(view)[2] == VOCABULARY[substitute].replace("\n", "↵")
    assert "(+1.50" in numbers(view)[0] and "(+0.50)" in numbers(view)[1]
    assert "Trying substitutes" in view.text(".dlp-one")
    view.say(type="answer", id=asked["id"], found={**new, "series": None})
    assert view.find(".dlp-ramp").count() == 1 and "Working…" in view.text(".dlp-numbers")
    view.say(type="answer", id=asked["id"], found=new)
    assert "Working…" not in view.text(".dlp-numbers")
    assert view.find(".dlp-changed").count() == 1
    view.button("Undo").click()
    assert tokens(view) == [VOCABULARY[i].replace("\n", "↵") for i in one["ids"]]
    assert len(view.sent()) == 1 and view.button("Undo").count() == 0  # known already


def test_a_typed_token_is_read_with_its_space(mount: Mount):
    state, one = picked(run_state(60, steps=60))
    view = mount("dream", state)
    view.find(".dlp-token").nth(1).click()
    box = view.page.get_by_label("another token")
    box.press_sequentially("only")
    assert view.text(".dlp-try .dlp-reading") == "Read as only (no space before it)"
    box.fill("  only")
    assert view.text(".dlp-try .dlp-reading") == "Read as ··only"
    box.press("Enter")
    (asked,) = view.sent("try")
    assert {k: asked[k] for k in ("ids", "position", "text")} == {"ids": one["ids"], "position": 1, "text": "  only"}
    view.say(type="answer", id=asked["id"], error="That is 3 tokens, and 1 is needed.")
    assert view.text(".dlp-one .dlp-wrong") == "That is 3 tokens, and 1 is needed."
    assert view.page.get_by_label("another token").input_value() == "  only"  # to be mended
    assert "Working…" not in view.text(".dlp-numbers") and view.button("Undo").count() == 0


def test_a_whole_prompt_is_edited_lines_and_all(mount: Mount):
    state, one = picked(run_state(60, steps=60))
    state["attributions"][one["key"]]["text"] = " two\n\nlines"
    view = mount("dream", state)
    box = view.page.get_by_label("edit the whole prompt")
    assert box.input_value() == " two\n\nlines"
    box.fill("another")
    assert view.text(".dlp-edit .dlp-reading") == "Read as another… (no space before it)"
    box.press("Shift+Enter")
    box.press_sequentially("line")
    assert view.sent() == []
    box.press("Enter")
    (asked,) = view.sent("edit")
    assert asked["text"] == "another\nline"
    new = found(entry([3, 4, 5], 4.0, 1.0, 0), random.Random(0))
    view.say(type="answer", id=asked["id"], found=new)
    assert tokens(view) == [VOCABULARY[i] for i in (3, 4, 5)]
    view.button("Back to the picked prompt").click()
    assert len(tokens(view)) == len(one["ids"])


def test_late_answers_change_nothing(mount: Mount):
    state, one = picked(run_state(60, steps=60))
    view = mount("dream", state)
    view.find(".dlp-token").nth(0).click()
    for at in (0, 1):
        view.find(".dlp-ledger tbody button").nth(at).click()
    early, late = view.sent("look")
    assert early["id"] != late["id"]
    new = changed(one, 0, one["subs"][0][1][1], 9.5)
    view.say(type="answer", id=late["id"], found=new)
    view.say(type="answer", id=early["id"], found=changed(one, 0, one["subs"][0][0][1], -3.0))
    view.say(type="answer", id=early["id"], error="too late")
    view.say(type="answer", id="somebody else's", error="not mine")
    assert "9.5" in numbers(view)[0] and view.find(".dlp-one .dlp-wrong").count() == 0
    assert tokens(view)[0] == VOCABULARY[one["subs"][0][1][1]].replace("\n", "↵")


def test_what_is_typed_survives_answers_and_updates(mount: Mount):
    state, one = picked(run_state(40, attributed=1))
    state["attributions"] = {one["key"]: {**one, "series": None}}
    view = mount("dream", state)
    (asked,) = view.sent("look")
    view.find(".dlp-token").nth(0).click()
    box = view.page.get_by_label("another token")
    box.press_sequentially(" hal")
    view.page.keyboard.press("ArrowLeft")
    view.say(type="answer", id=asked["id"], found=one)
    view.change(frontier=state["frontier"][1:], step=41)
    view.page.keyboard.type("o")
    assert view.page.get_by_label("another token").input_value() == " haol"


def test_a_dream_starts_from_what_is_shown(mount: Mount):
    state, one = picked(run_state(60, steps=60))
    view = mount("dream", state)
    view.button("Dream from here").click()
    assert view.sent() == [{"type": "start", "ids": one["ids"]}]
    view.say(type="notice", text="The run is over.")
    assert view.text(".dlp-notice") == "The run is over."


def test_silence_is_said(mount: Mount):
    state = run_state(60, attributed=0)
    view = mount("dream", state)
    view.page.clock.install()
    view.find(".dlp-table tbody tr").first.click()
    view.page.clock.run_for(1000)
    assert len(view.sent("look")) == 1 and view.find(".dlp-one .dlp-wrong").count() == 0
    view.page.clock.run_for(21_000)
    assert "No answer has come yet" in view.text(".dlp-one .dlp-wrong")


def test_a_prompt_whose_attribution_was_not_kept(mount: Mount):
    state = run_state(60, steps=60, attributed=1, live=False)
    other = next(e for e in state["frontier"] if e["key"] not in state["attributions"])
    view = mount("dream", {**state, "picked": other["key"]})
    assert view.text(".dlp-legend") == "No attribution was kept for this prompt."
    view.find(".dlp-token").first.click()
    assert "No substitutes were kept" in view.text(".dlp-ledger")


# The heat map.


def test_the_heat_map_is_a_grid_for_the_keyboard(mount: Mount):
    state, one = picked(run_state(60, steps=60))
    view = mount("dream", state)
    view.button("Heat map").click()
    assert view.button("Heat map").get_attribute("aria-pressed") == "true"
    cells = view.find(".dlp-heat [role=gridcell]")
    assert cells.count() == sum(len(row) for row in one["subs"])
    assert view.find(".dlp-heat [tabindex='0']").count() == 1
    value = one["subs"][0][0][2]
    name = cells.first.get_attribute("aria-label") or ""
    assert f"{abs(value):.2f}" in name and ("(+" in name) == (value > one["value"])
    cells.first.focus()
    for press in ("ArrowRight", "ArrowDown"):
        view.page.keyboard.press(press)
    assert view.page.evaluate("() => document.activeElement.dataset.focus") == "heat-1-1"
    assert view.find(".dlp-heat [tabindex='0']").count() == 1
    view.page.keyboard.press("Enter")
    (asked,) = view.sent("look")
    assert asked["ids"] == [one["ids"][0], one["subs"][1][1][1], *one["ids"][2:]]


# By itself.


def test_a_prompt_by_itself(mount: Mount):
    state = attribution_state()
    view = mount("attribution", {**state, "found": None})
    assert view.text(".dlp-one") == "Scoring the prompt…"
    view.change(found=bare(state["found"]))
    assert view.find(".dlp-token").count() == len(state["found"]["tokens"])
    view.change(error="PromptError: no tokens")
    assert view.text(".dlp-wrong") == "PromptError: no tokens"
    assert key(state["found"]["ids"]) == state["found"]["key"]


def test_a_question_is_asked_once_however_often_the_run_moves_on(mount: Mount):
    state = run_state(40, attributed=0)
    entry_ = state["frontier"][1]
    view = mount("dream", {**state, "picked": entry_["key"]})
    for step in (41, 42, 43):
        view.change(frontier=[*state["frontier"][:2], *state["frontier"][-step + 38 :]], step=step)
    (asked,) = view.sent("look")
    view.say(type="answer", id=asked["id"], error="This feature has no gradient.")
    view.change(frontier=state["frontier"][:-1], step=44)
    assert len(view.sent("look")) == 1 and view.text(".dlp-one .dlp-wrong") == "This feature has no gradient."


def test_an_answer_about_what_is_no_longer_picked_changes_nothing(mount: Mount):
    state, one = picked(run_state(60, steps=60))
    other = list(state["attributions"])[2]
    view = mount("dream", state)
    view.find(".dlp-token").first.click()
    view.find(".dlp-ledger tbody button").first.click()
    (asked,) = view.sent("look")
    view.find(f".dlp-table tr[data-key='{other}']").click()
    view.frames()
    before = tokens(view)
    assert "Working…" not in view.text(".dlp-numbers")
    view.say(type="answer", id=asked["id"], found=changed(one, 0, asked["ids"][0], 9.0))
    assert tokens(view) == before and view.button("Undo").count() == 0
