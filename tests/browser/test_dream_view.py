"""The view of a run in Chromium: what it shows, what it sends, with the mouse and with the keyboard alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dreamy_lens.panels.state import cloud_of
from dreamy_lens.results.baselines import longest_repeat
from dreamy_lens.runs.python_code import HOLE
from tests.browser.fake_states import empty_state, run_state, runs_state
from tests.browser.mounted import Mounted

Mount = Callable[..., Mounted]
MINUS = "−"


def number(text: str) -> float:
    return float(text.replace(MINUS, "-").replace(",", ""))


def keys(view: Mounted) -> list[str]:
    """Of the rows of the table."""
    return view.find(".dlp-table tbody tr").evaluate_all("(rows) => rows.map((row) => row.dataset.key)")


def column(view: Mounted, name: str) -> list[str]:
    return view.find(f".dlp-table td.dlp-c-{name}").all_inner_texts()


def slide(view: Mounted, selector: str, value: float) -> None:
    move = "(box, value) => { box.value = value; box.dispatchEvent(new Event('input', { bubbles: true })); }"
    view.find(selector).evaluate(move, value)
    view.frames()


# What it shows.


def test_values_have_a_scale_once_the_baselines_are_measured(mount: Mount):
    state = run_state(30)
    e = state["frontier"][-1]
    view = mount("dream", {**state, "picked": e["key"]})
    assert not view.find(".dlp-c-z").count()
    view.page.get_by_role("button", name="z-scores").click()
    assert len(view.sent("calibrate")) == 1
    scales = [["z, random", "of random prompts", 0.5, 2.0], ["z, corpus", "of windows", 1.0, 4.0]]
    view.change(calibration={"scales": scales, "held": {e["key"]: 3.21}, "fluency": "other"})
    view.frames()
    assert not view.page.get_by_role("button", name="z-scores").count()
    values = dict(zip(keys(view), column(view, "z"), strict=True))
    for entry in state["frontier"]:
        if entry["key"] in values:
            assert number(values[entry["key"]]) == pytest.approx((entry["y"] - 1) / 4, abs=0.051)
    shown = view.find(".dlp-numbers").inner_text()
    found = {name: text for text, name in re.findall(r"([−\d.,]+) (z, random|z, corpus|held-out|repeated)", shown)}
    assert number(found["z, random"]) == pytest.approx((e["y"] - 0.5) / 2, abs=0.051)
    assert number(found["z, corpus"]) == pytest.approx((e["y"] - 1) / 4, abs=0.051)
    titles = view.find(".dlp-numbers span[title]").evaluate_all("(all) => all.map((e) => e.title)")
    assert (
        titles == ["of random prompts", "of windows", "other"]
        and found["held-out"] == "3.21"
        and int(found["repeated"]) == longest_repeat(e["ids"])
    )
    view.find("th.dlp-c-z button").click()
    order = [number(z) for z in column(view, "z")]
    assert order == sorted(order, reverse=order[0] > order[-1])


def test_the_cloud_of_evaluated_prompts_is_shown_when_it_is_asked_for(mount: Mount):
    state = run_state(120, steps=300)
    packed = state["cloud"]
    view = mount("dream", {**state, "cloud": None})
    box, marks = view.page.get_by_label("Show all evaluated prompts"), view.find(".dlp-cloud")
    axis = view.find(".dlp-axes text").all_inner_texts()
    assert not box.is_checked() and not marks.count() and not view.sent("cloud")
    box.check()
    view.frames()
    assert len(view.sent("cloud")) == 1 and not marks.count()
    view.change(cloud=packed)
    drawn = marks.get_attribute("d")
    assert drawn.count("h0") == packed["at"] == 1000
    assert view.page.get_by_text("Show all evaluated prompts (1,000 of 30,721)").is_visible()
    assert view.find(".dlp-axes text").all_inner_texts() != axis  # all points are within the axes
    slide(view, ".dlp-times input", 60)
    assert 300 < marks.get_attribute("d").count("h0") < 900
    slide(view, ".dlp-times input", 120)
    assert marks.get_attribute("d") == drawn
    view.change(step=122)
    assert len(view.sent("cloud")) == 1
    view.change(step=130)
    assert len(view.sent("cloud")) == 2  # asked for again now and then
    view.change(step=130, status="done", cloud=None)
    assert len(view.sent("cloud")) == 3
    box.uncheck()
    view.frames()
    assert not marks.count()


def test_the_points_of_the_cloud_are_where_the_prompts_are(mount: Mount):
    entry = run_state(30)["frontier"][-1]
    points = [(entry["x"], entry["y"], 3), (entry["x"] + 2, entry["y"] - 4, 200), (entry["x"], entry["y"] - 4, 7000)]
    x, y, iteration = (np.array(column) for column in zip(*sorted(points, key=lambda p: p[2]), strict=True))
    cloud = cloud_of(SimpleNamespace(cross_entropy=x, value=y, iteration=iteration))  # pyright: ignore
    at = {"step": 8000, "steps": 8000, "view_state": {"cloud": True}}
    view = mount("dream", {**run_state(30), **at, "frontier": [entry], "cloud": cloud})
    (first, *_) = re.findall(r"M([\d.]+) ([\d.]+)h0", view.find(".dlp-cloud").get_attribute("d"))
    dot = view.find(".dlp-dot circle").last
    assert [float(v) for v in first] == pytest.approx([float(dot.get_attribute(n)) for n in ("cx", "cy")], abs=1)
    view.change(view_state={"cloud": True, "at": 201})
    view.again()
    assert view.find(".dlp-cloud").get_attribute("d").count("h0") == 2


def test_a_frozen_view_has_the_cloud_if_it_was_kept(mount: Mount):
    state = {**run_state(30), "live": False, "view_state": {"cloud": True}}
    view = mount("dream", state)
    assert view.find(".dlp-cloud").count() == 1
    view.change(cloud=None)
    assert view.page.get_by_label("Show all evaluated prompts").is_hidden() and not view.sent()


def test_before_anything_is_known_it_says_what_happens(mount: Mount):
    view = mount("dream", empty_state())
    assert view.text(".dlp-state") == "Scoring the first prompts…"
    assert view.find(".dlp-plot text").text_content() == "The frontier grows here."
    assert "from fluent to strong" in view.text(".dlp-table")
    view.change(status="failed", error="RuntimeError: out of memory")
    assert view.text(".dlp-wrong") == "RuntimeError: out of memory" and "Nothing was found." in view.text(".dlp-table")
    view.change(status="stopped", error="")
    assert view.find(".dlp-wrong").first.is_hidden() and "Stopped before" in view.text(".dlp-table")


def test_a_run_is_described_and_drawn(mount: Mount):
    state = run_state(120)
    view = mount("dream", state)
    best = state["frontier"][-1]
    assert view.text("h3") == state["title"] and view.text("header .dlp-quiet") == state["subtitle"]
    said = view.text(".dlp-state")
    for part in ("iteration 120 of 300", "24 s, about 36 s left", "30,721 prompts", f"best value {best['y']:.3f}"):
        assert part in said, said
    assert view.find("progress").evaluate("(bar) => [bar.value, bar.max]") == [0.4, 1]
    assert view.find(".dlp-dot").count() == len(state["frontier"])
    assert view.find(".dlp-earlier").count() == 1
    assert view.page.get_by_text(f"dotted: iteration {state['previous']['iteration']}").count() == 1
    assert view.find(".dlp-restart").count() == len(state["restarts"])
    assert keys(view) == [e["key"] for e in state["frontier"]]
    assert column(view, "iteration") == [str(e["it"]) for e in state["frontier"]]
    assert view.find(".dlp-table .dlp-mark").count() == sum(not e["trips"] for e in state["frontier"])
    assert view.find(".dlp-table .dlp-mark").first.get_attribute("title") == "Re-tokenizes differently"


def test_a_run_without_a_limit_of_iterations_shows_its_budget(mount: Mount):
    state = run_state(120) | {"steps": 0, "population": [], "restarts": [], "previous": None}
    view = mount("dream", state | {"used": 0.4, "budget": {"seconds": 60.0, "prompts": 40_000}})
    said = view.text(".dlp-state")
    for part in ("iteration 120 ·", "24 s of 60 s, about 36 s left", "30,721 of 40,000 prompts"):
        assert part in said, said
    assert view.find("progress").evaluate("(bar) => [bar.value, bar.max]") == [0.4, 1]
    view.change(budget={}, used=-1, left=-1, seconds=24.0)  # only the growth of the frontier ends it
    assert "iteration 120 · 24 s · 30,721 prompts" in view.text(".dlp-state")
    assert view.find("progress").evaluate("(bar) => bar.position") == -1
    view.change(used=1, status="done", left=0)
    assert "iteration 120 · 24 s · 30,721 prompts" in view.text(".dlp-state") and view.find("progress").count() == 0


def test_traits_arrive_and_only_what_changed_is_drawn(mount: Mount):
    view = mount("dream", run_state(40))
    view.page.evaluate("() => { globalThis.row = document.querySelector('.dlp-table tbody tr') }")
    view.change(step=41, seconds=9.0)
    assert "iteration 41 of 300" in view.text(".dlp-state")
    assert view.page.evaluate("() => row.isConnected")
    later = run_state(60)
    view.change(frontier=later["frontier"], population=later["population"])
    assert keys(view) == [e["key"] for e in later["frontier"]]
    assert not view.page.evaluate("() => row.isConnected")


def test_many_changes_in_one_frame_are_drawn_once(mount: Mount):
    view = mount("dream", run_state(40))
    drawn = """() => new Promise((done) => {
      let count = 0;
      const watch = new MutationObserver((all) => { count += all.filter((one) => one.addedNodes.length).length; });
      watch.observe(document.querySelector(".dlp-plot"), { childList: true });
      for (let i = 0; i < 50; i++) host.change(JSON.stringify({ population: [[3 + i / 50, 1, 1, "a"]] }));
      requestAnimationFrame(() => requestAnimationFrame(() => { watch.disconnect(); done(count); }));
    })"""
    assert view.page.evaluate(drawn) == 1


def test_axes_stay_while_the_frontier_fits_and_grow_in_steps(mount: Mount):
    state = run_state(60)
    view = mount("dream", state)
    labels = lambda: view.find(".dlp-axes text").all_text_contents()  # noqa: E731
    first, last = labels(), state["frontier"][-1]
    assert all(number(a) == round(number(a), 1) for a in first if a[-1].isdigit())
    view.change(frontier=[*state["frontier"][:-1], {**last, "y": last["y"] + 0.01}])
    assert labels() == first
    view.change(frontier=[*state["frontier"][:-1], {**last, "y": 10 * last["y"]}])
    assert labels() != first


def test_it_leaves_nothing_behind(mount: Mount):
    view = mount("dream", run_state(20))
    assert view.page.evaluate("() => host.listeners()") > 5
    view.page.evaluate("() => { host.leave(); host.forget(); }")
    assert view.page.evaluate("() => document.querySelectorAll('.dlp').length") == 0
    assert view.page.evaluate("() => dreamy_lens_live.size") == 0
    assert view.page.evaluate("() => host.listeners()") == 1  # for as long as the model is there


# The controls.


def test_buttons_send_what_they_say(mount: Mount):
    view = mount("dream", run_state(40))
    view.button("Pause").click()
    view.change(status="paused")
    assert view.focused == "Resume"
    view.button("Resume").click()
    view.button("Stop").click()
    view.change(status="stopped")
    assert view.find("progress").count() == 0
    view.button("100 more iterations").click()
    assert view.sent() == [{"type": "pause"}, {"type": "resume"}, {"type": "stop"}, {"type": "more", "iterations": 100}]
    assert view.text("[aria-live=polite].dlp-away") == "stopped"


def test_no_buttons_without_a_kernel(mount: Mount):
    view = mount("dream", run_state(live=False, live_id=""))
    assert not any(view.button(name).count() for name in ("Pause", "Stop", "100 more iterations", "Dream from here"))
    assert view.find("input[type=text]:not(.dlp-number), textarea").count() == 0


# Picking.


def test_a_point_shows_its_prompt_and_is_picked_by_a_click(mount: Mount):
    state = run_state(60, steps=60)
    view = mount("dream", state)
    entry = state["frontier"][3]
    dot = view.find(".dlp-dot").nth(3)
    dot.hover(force=True)
    shown = view.text(".dlp-tip")
    assert entry["text"].strip().split("\n")[0][:20] in shown and f"iteration {entry['it']}" in shown
    assert f"cross-entropy {entry['x']:.2f}" in shown
    dot.click(force=True)
    view.frames()
    assert view.saved() == {"picked": entry["key"]}
    assert view.find(".dlp-dot.dlp-on").get_attribute("data-key") == entry["key"]
    assert view.find(".dlp-ring").count() == 1
    assert view.find(".dlp-table tr.dlp-on").get_attribute("data-key") == entry["key"]
    assert view.find(".dlp-token").count() == len(entry["tokens"])


def test_the_plot_is_one_stop_of_tab_and_arrows_move_along(mount: Mount):
    state = run_state(60, steps=60)
    view = mount("dream", state)
    assert view.find(".dlp-plot [tabindex='0']").count() == 1
    view.find(".dlp-dot[tabindex='0']").focus()
    front = [e["key"] for e in state["frontier"]]
    for key, at in (("Home", 0), ("ArrowRight", 1), ("ArrowUp", 2), ("ArrowLeft", 1), ("End", len(front) - 1)):
        view.page.keyboard.press(key)
        view.frames()
        assert view.saved()["picked"] == front[at], key
        assert view.focused.startswith(f"{at + 1} of {len(front)}: value ")
        assert view.find(".dlp-tip").is_visible()
    view.page.keyboard.press("Tab")
    assert view.page.evaluate("() => !document.activeElement.closest('.dlp-plot')")


def test_pick_focus_hover_and_scroll_stay_as_the_frontier_moves(mount: Mount):
    state = run_state(40)
    picked = state["frontier"][2]
    view = mount("dream", {**state, "picked": picked["key"]})
    view.find(".dlp-dot.dlp-on").focus()
    view.find(".dlp-table .dlp-scroll").evaluate("(box) => { box.scrollTop = 37 }")
    later = sorted([*run_state(80)["frontier"][-5:], picked], key=lambda e: e["x"])
    view.change(frontier=state["frontier"][1:], step=41)
    assert view.find(".dlp-table .dlp-scroll").evaluate("(box) => box.scrollTop") == 37
    view.change(frontier=later, step=80)
    assert view.find(".dlp-dot.dlp-on").get_attribute("data-key") == picked["key"]
    assert view.page.evaluate("() => document.activeElement.dataset.key") == picked["key"]
    assert view.find(".dlp-tip").is_visible()
    view.change(frontier=later[1:] if later[0] is picked else later[:-1])
    before = view.text(".dlp-text")
    view.change(frontier=[e for e in later if e is not picked])
    assert view.text(".dlp-text") == before  # what one reads does not go when something beats it


def test_what_is_picked_elsewhere_is_picked_here(mount: Mount):
    state = run_state(60)
    view = mount("dream", state)
    view.change(picked=state["frontier"][-1]["key"])
    row = view.find(".dlp-table tr.dlp-on")
    assert row.get_attribute("data-key") == state["frontier"][-1]["key"]
    seen = """(row) => {
      const a = row.getBoundingClientRect(), b = row.closest(".dlp-scroll").getBoundingClientRect();
      return a.bottom <= b.bottom + 1 && a.top >= b.top;
    }"""
    assert row.evaluate(seen) and view.page.evaluate("() => scrollY") == 0


def test_the_table_sorts_by_every_column(mount: Mount):
    view = mount("dream", run_state(60), width=1300)
    for name, cast in (("value", number), ("cross-entropy", number), ("perplexity", number), ("iteration", int)):
        for way in ("ascending", "descending"):
            view.find(f"[data-by='{name}']").click()
            found = [cast(cell) for cell in column(view, name)]
            if view.find(f"th.dlp-c-{name}").get_attribute("aria-sort") != way:
                view.find(f"[data-by='{name}']").click()
                found = [cast(cell) for cell in column(view, name)]
            assert found == sorted(found, reverse=way == "descending"), (name, way)
            assert view.find("th[aria-sort=none]").count() == 4
            assert view.page.evaluate("() => document.activeElement.dataset.by") == name
    view.find("[data-by=text]").press("Enter")
    assert view.find("th.dlp-c-text").get_attribute("aria-sort") == "ascending"


def test_rows_are_picked_by_click_and_by_keys(mount: Mount):
    state = run_state(60)
    view = mount("dream", state)
    view.find(".dlp-table tbody tr").nth(4).click()
    view.frames()
    assert view.saved()["picked"] == state["frontier"][4]["key"]
    view.find(".dlp-table tr.dlp-on").focus()
    view.page.keyboard.press("ArrowDown")
    view.frames()
    assert view.saved()["picked"] == state["frontier"][5]["key"]
    assert view.page.evaluate("() => document.activeElement.dataset.key") == state["frontier"][5]["key"]


def test_a_limit_picks_the_strongest_prompt_under_it(mount: Mount):
    state = run_state(120)
    view = mount("dream", state)
    best = [e for e in state["frontier"] if e["x"] <= 5.0][-1]
    slide(view, ".dlp-row input[type=range]", 5.0)
    assert f"Best under 5.00: value {best['y']:.3f}" in view.text(".dlp-row output")
    assert view.saved()["picked"] == best["key"] and view.find(".dlp-plot .dlp-limit").count() == 1
    box = view.page.get_by_label("maximum cross-entropy, as a number")
    box.fill("0.1")
    box.press("Enter")
    view.frames()
    assert "No prompt under 0.10" in view.text(".dlp-row output") and view.saved()["picked"] == best["key"]
    box.fill("")
    box.press("Enter")
    view.frames()
    assert view.find(".dlp-plot .dlp-limit").count() == 0


# The past.


def test_the_frontier_as_it_stood(mount: Mount):
    state = run_state(120)
    view = mount("dream", {**state, "past": None})
    slide(view, ".dlp-times input", 50)
    assert view.sent("past") == [{"type": "past"}] and "loading…" in view.text(".dlp-times output")
    assert keys(view) == [e["key"] for e in state["frontier"]]
    view.change(past=state["past"])
    assert "after iteration 50" in view.text(".dlp-times output")
    points = [p for p in state["past"]["points"] if p[2] <= 50]
    stood = sorted(p for p in points if not any(q[0] <= p[0] and q[1] >= p[1] and q is not p for q in points))
    assert [number(x) for x in column(view, "cross-entropy")] == [round(p[0], 2) for p in stood]
    assert max(int(it) for it in column(view, "iteration")) <= 50
    slide(view, ".dlp-times input", 30)
    assert len(view.sent("past")) == 1  # it is known now
    view.button("now").click()
    view.frames()
    assert keys(view) == [e["key"] for e in state["frontier"]] and view.button("now").is_hidden()


# Several runs.


def test_several_runs_are_merged_for_each_feature(mount: Mount):
    state = runs_state(3, groups=("L2.N812", "L3.N5"))
    view = mount("runs", state, width=1300)
    points = [(e["x"], e["y"], r["name"]) for r in state["runs"] if r["group"] == 0 for e in r["frontier"]]
    best = sorted(p for p in points if not any(q[0] <= p[0] and q[1] >= p[1] and q is not p for q in points))
    assert column(view, "run") == [name for *_, name in best]
    assert view.find(".dlp-run").count() == 6 and view.find(".dlp-merged").count() == 1  # lines, and leads to names
    strongest = {name: max(y for _, y, of in points if of == name) for name in ("seed 0", "seed 1", "seed 2")}
    assert view.find(".dlp-name").all_text_contents() == sorted(strongest, key=lambda name: -strongest[name])
    view.button("seed 1").click()
    view.frames()
    assert set(column(view, "run")) == {"seed 1"} and view.button("seed 1").get_attribute("aria-pressed") == "true"
    view.page.get_by_label("feature").select_option(label="L3.N5")
    view.frames()
    first = min((e for r in state["runs"] if r["group"] == 1 for e in r["frontier"]), key=lambda e: e["x"])
    assert keys(view)[0] == first["key"]
    view.find(".dlp-table tbody tr").first.click()
    view.frames()
    assert view.saved()["picked"] == first["key"]
    owner = next(i for i, r in enumerate(state["runs"]) if any(e["key"] == first["key"] for e in r["frontier"]))
    assert all(m["run"] == owner for m in view.sent("look"))


def test_all_runs_are_paused_together(mount: Mount):
    view = mount("runs", runs_state(2, step=20))
    view.button("Pause all").click()
    view.change(status="paused")
    view.button("Resume all").click()
    view.button("Stop all").click()
    view.change(status="stopped")
    assert view.sent() == [{"type": "pause"}, {"type": "resume"}, {"type": "stop"}]
    assert view.find("progress").count() == 0


# Copying.


@pytest.mark.parametrize("allowed", [True, False])
def test_the_picked_prompt_is_copied(mount: Mount, allowed: bool):
    state = run_state(60)
    entry = state["frontier"][-1]
    view = mount("dream", {**state, "picked": entry["key"]})
    stub = "throw new Error('not allowed')" if not allowed else "host.copied = text"
    clipboard = f"{{ value: {{ writeText: async (text) => {{ {stub} }} }} }}"
    view.page.evaluate(f"() => {{ Object.defineProperty(navigator, 'clipboard', {clipboard}) }}")
    box = """() => {
      const box = document.body.appendChild(document.createElement("textarea"));
      box.id = "it";
      box.focus();
    }"""
    value = "() => { const box = document.getElementById('it'); box.remove(); return box.value; }"

    def copied(name: str) -> Any:
        view.button(f"copy as {name}").click()
        view.page.get_by_text(f"copied as {name}").wait_for()
        if allowed:
            return view.page.evaluate("() => host.copied")
        view.page.evaluate(box)
        view.page.keyboard.press("Control+V")
        return view.page.evaluate(value)

    assert copied("text") == entry["text"]
    assert json.loads(copied("ids")) == entry["ids"]
    assert copied("Python") == state["python"]["prompt"].replace(HOLE, ", ".join(map(str, entry["ids"])))
    assert view.find(".dlp-notice").get_attribute("aria-live") == "polite"
