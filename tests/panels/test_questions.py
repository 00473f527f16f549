"""Questions of a panel are answered, those that cannot be with a sentence; prompts are picked and edited."""

from __future__ import annotations

import gc
import threading
import weakref

import numpy as np
import pytest

import dreamy_lens as dl
from dreamy_lens.html.escaping import escape
from dreamy_lens.panels import (
    AttributionPanel,
    DreamPanel,
    RunsPanel,
    frozen_run,
    inspector_of,
    state,
)
from dreamy_lens.panels.follower import RunFollower
from dreamy_lens.panels.messages import QUICK, SUBSTITUTES
from dreamy_lens.results import Frontier, Prompt, Provenance
from tests.helpers.dreams import dream, same
from tests.helpers.frozen_pages import frozen_state
from tests.helpers.panel_messages import Heard, plain

FEATURE = "L1.N3"


# What is asked.


def test_a_look_is_answered_with_scores_then_few_substitutes_then_all_then_values_at_every_position(run, monkeypatch):
    panel = DreamPanel(run)
    heard = Heard(panel, monkeypatch)
    prompt = run.frontier[0]
    panel._handler.hear(panel, {"type": "look", "id": 1, "ids": list(prompt.ids)})
    run.ask(lambda: None).result()
    first, quick, second, third = (one["found"] for one in heard.answers(1))
    assert first["value"] == pytest.approx(prompt.value, rel=1e-3) and first["subs"] is None
    assert [one["tried"] for one in (first, quick, second, third)] == [None, QUICK, SUBSTITUTES, SUBSTITUTES]
    assert [one["partial"] for one in (first, quick, second, third)] == [False, True, False, False]
    assert inspector_of(run).known == {first["key"]: third}
    attribution = prompt.attribution()
    np.testing.assert_allclose(second["drop"], attribution.drop_to_worst, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(second["floor"], attribution.drop_to_best, rtol=1e-3, atol=1e-4)
    best = attribution.top(2)[0]
    assert second["subs"][2][0][:2] == [best.token, best.token_id] and second["series"] is None
    scorer = run.session.scorer
    values = [float(scorer.values(np.array(prompt.ids[:end]))[0]) for end in range(1, 6)]
    np.testing.assert_allclose(third["series"], values, rtol=1e-3, atol=1e-5)
    assert all(plain(one) for one in heard.said)


def test_the_quick_strip_is_of_substitutes_that_the_whole_one_has_too(run, monkeypatch):
    panel = DreamPanel(run)
    heard = Heard(panel, monkeypatch)
    ids = list(run.frontier[0].ids)
    panel._handler.hear(panel, {"type": "look", "id": 1, "ids": ids})
    run.ask(lambda: None).result()
    _, quick, whole, _ = (one["found"] for one in heard.answers(1))
    for few, every in zip(quick["subs"], whole["subs"], strict=True):
        assert 0 < len(few) <= QUICK < len(every) and all(one in every for one in few)
        assert few[0][2] <= every[0][2] and few[-1][2] >= every[-1][2]
    assert (quick["value"], quick["ce"]) == (whole["value"], whole["ce"])
    assert all(a <= b for a, b in zip(quick["drop"], whole["drop"], strict=True))
    assert all(a >= b for a, b in zip(quick["floor"], whole["floor"], strict=True))
    same_all_at_once = run.attribution(ids, k=SUBSTITUTES)
    np.testing.assert_allclose(whole["drop"], same_all_at_once.drop_to_worst, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("asked_after", [1, 2, 3])
def test_what_is_asked_between_two_answers_ends_the_first_question(run, monkeypatch, asked_after):
    panel = DreamPanel(run)
    heard, ids = Heard(panel, monkeypatch), list(run.frontier[0].ids)
    say = panel.send

    def then_ask(message):
        say(message)
        if len(heard.answers(1)) == asked_after and message["id"] == 1:
            panel._handler.hear(panel, {"type": "look", "id": 2, "ids": ids[::-1]})

    panel._handler._send = then_ask
    panel._handler.hear(panel, {"type": "look", "id": 1, "ids": ids})
    run.ask(lambda: None).result()
    assert len(heard.answers(1)) == asked_after and len(heard.answers(2)) == 4
    # What was known when it ended is kept only if it was of all substitutes.
    assert [one["tried"] for one in inspector_of(run).known.values()] == [SUBSTITUTES] * (2 if asked_after == 3 else 1)
    panel._handler.hear(panel, {"type": "look", "id": 3, "ids": ids})
    run.ask(lambda: None).result()
    assert [one["found"]["tried"] for one in heard.answers(3)][-1] == SUBSTITUTES
    assert len(heard.answers(3)) == (2 if asked_after == 3 else 4)


def test_a_frozen_run_has_no_quick_strip(run):
    panel = DreamPanel(run)
    seen = []
    panel._handler._send = lambda message: seen.append((panel.to_html(), dict(panel.attributions)))
    panel._handler.hear(panel, {"type": "look", "id": 1, "ids": list(run.frontier[0].ids)})
    run.ask(lambda: None).result()
    assert [len(known) for _, known in seen] == [0, 0, 1, 1]


def test_a_token_or_a_whole_prompt_can_be_typed(gpt2, run, monkeypatch):
    panel = DreamPanel(run)
    heard = Heard(panel, monkeypatch)
    vocabulary, ids = run.session.scorer.vocabulary, list(run.frontier[0].ids)
    panel._handler.hear(panel, {"type": "try", "id": 1, "ids": ids, "position": 1, "text": vocabulary.text([40, 41])})
    panel._handler.hear(panel, {"type": "edit", "id": 2, "text": vocabulary.text([50, 51, 52])})
    run.ask(lambda: None).result()
    put = vocabulary.encode(vocabulary.text([40, 41]))
    (tried, *_), typed = heard.answers(1), heard.answers(2)[-1]
    assert tried["found"]["ids"] == [ids[0], *put, *ids[2:]]
    one = dl.score(FEATURE, [np.array(tried["found"]["ids"])], gpt2.bridge)
    assert tried["found"]["value"] == pytest.approx(float(one.value[0]), rel=1e-4)
    assert tried["found"]["ce"] == pytest.approx(float(one.cross_entropy[0]), rel=1e-4)
    assert typed["found"]["ids"] == vocabulary.encode(vocabulary.text([50, 51, 52])) and typed["found"]["drop"]
    # The second question came before the first was answered whole, so the rest of that answer was not worked out.
    assert len(heard.answers(1)) == 1


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"type": "edit", "text": ""}, "at least one token"),
        ({"type": "edit", "text": "a " * 500}, "context is"),
        ({"type": "look", "ids": [10**7]}, "10000000"),
        ({"type": "look", "ids": []}, "at least one token"),
    ],
)
def test_bad_questions_are_answered_with_a_sentence(run, monkeypatch, message, said):
    panel = DreamPanel(run)
    heard = Heard(panel, monkeypatch)
    panel._handler.hear(panel, {**message, "id": 5})
    run.ask(lambda: None).result()
    (answer,) = heard.answers(5)
    assert said in answer["error"]


def test_nonsense_is_not_answered_and_breaks_nothing(run, monkeypatch):
    panel = DreamPanel(run)
    heard = Heard(panel, monkeypatch)
    for message in (None, "stop", {}, {"type": "quit"}, {"type": ["look"]} | {"type": "lo"}):
        panel._handler.hear(panel, message)
    assert not heard.said


def test_pause_resume_and_stop_from_a_panel(gpt2):
    run = dream(gpt2.bridge, iterations=10_000, wait=False)
    panel = DreamPanel(run)
    reached = {name: threading.Event() for name in ("paused", "running", "stopped")}
    run.listen(lambda run: reached[run.status].set() if run.status in reached else None, every=0.0)
    panel._handler.hear(panel, {"type": "pause"})
    assert reached["paused"].wait(20)
    reached["running"].clear()
    panel._handler.hear(panel, {"type": "resume"})
    assert reached["running"].wait(20)
    panel._handler.hear(panel, {"type": "stop"})
    assert run.wait(20).status == "stopped"
    run.ask(lambda: None).result()
    assert panel.status == "stopped" and len(run.frontier)


def test_going_on_from_a_panel_is_the_run_that_never_stopped(gpt2):
    run = dream(gpt2.bridge)
    panel = DreamPanel(run)
    panel._handler.hear(panel, {"type": "more", "iterations": 4})
    run.ask(lambda: None).result()
    assert run.wait().iteration == 12
    run.ask(lambda: None).result()
    assert panel.step == panel.steps == 12 and panel.status == "done"
    same(run.history, dream(gpt2.bridge, iterations=12).history)


def test_a_new_dream_can_start_from_a_prompt_of_a_panel(gpt2, run):
    panel = DreamPanel(run)
    ids = list(run.frontier[-1].ids)[:4]
    panel._handler.hear(panel, {"type": "start", "ids": ids})
    run.ask(lambda: None).result()
    (started,) = panel.started
    started.wait()
    assert started.history.ids[0].tolist() == ids and started.config.length == 4
    same(started.history, dream(gpt2.bridge, start=[ids], length=4).history)


def test_a_started_run_says_where_it_started(gpt2, run, tmp_path):
    panel, prompt = DreamPanel(run), run.frontier[-1]
    panel._handler.hear(panel, {"type": "start", "ids": list(prompt.ids)})
    run.ask(lambda: None).result()
    (started,) = panel.started
    started.wait()
    assert "from" not in panel.subtitle and run.start_text == ""
    shown = prompt.text.removeprefix(" ")
    assert started.start_text == f"“{shown}”"
    assert DreamPanel(started).subtitle.endswith(f" tokens · from: “{shown}”")
    assert f"<dt>start</dt><dd>{escape(started.start_text)}</dd>" in started.to_html(static=True)
    started.save(tmp_path / "run")
    again = dl.load_run(tmp_path / "run", gpt2.bridge)  # a title loads no model
    assert again.start_text in (started.start_text, f"a prompt of {started.config.length} tokens")
    assert not again.has_session and again.session and again.start_text == started.start_text
    several = dream(gpt2.bridge, start=[[1, 2], [3, 4]], length=2, iterations=1)
    assert DreamPanel(several).subtitle.endswith("from: 2 prompts")
    long = dream(gpt2.bridge, start=[[262] * 60], length=60, iterations=0)
    assert len(long.start_text) <= 83 and long.start_text.endswith("…”")


# What is picked and edited.


def expected_pick(frontier) -> str:
    fluent = [p for p in frontier if p.cross_entropy <= 5]
    return state.key((fluent[-1] if fluent else frontier[len(frontier) // 2]).ids)


def test_the_best_fluent_prompt_is_picked_when_a_run_has_ended(gpt2, monkeypatch):
    run = dream(gpt2.bridge, wait=False)
    run.pause()
    panel, several = DreamPanel(run), RunsPanel([run])
    chosen = DreamPanel(run)
    assert panel.picked == several.picked == ""
    chosen.picked = "1.2.3"
    run.resume()
    run.wait()
    run.ask(lambda: None).result()
    assert panel.picked == several.picked == DreamPanel(run).picked == expected_pick(run.frontier)
    assert chosen.picked == "1.2.3"  # what the user picked stays
    for futures in (panel.prepare(), several.prepare()):
        for future in futures:
            future.result()
    for page in (panel.to_html(), several.to_html(), frozen_run(run), run.to_html()):
        shown = frozen_state(page)
        assert shown["picked"] == panel.picked and shown["attributions"][panel.picked]["subs"]


def test_the_pick_is_fluent_or_in_the_middle():
    origin = Provenance("f", "m", 0, 0, True)
    prompts = [Prompt((i,), ("a",), "a", float(i), 3.0 + i, True, origin) for i in range(5)]
    assert Frontier(prompts).representative() == prompts[2]
    assert Frontier(prompts[3:]).representative() == prompts[4] and Frontier([]).representative() is None


def test_what_is_edited_is_kept_in_the_frozen_view(run):
    panel = DreamPanel(run)
    base = inspector_of(run).attribution(np.array(run.frontier[0].ids))
    new = inspector_of(run).attribution(np.array([*run.frontier[0].ids[:-1], 7]))
    step = {name: new[name] for name in ("key", "ids", "tokens", "text", "trips", "value", "ce")}
    edit = {"base": {**step, "key": base["key"]}, "now": step, "trail": [], "chosen": 1, "grid": False, "typed": {}}
    panel.view_state = {"at": 3, "edits": {base["key"]: edit}}
    for one, view_state in ((panel, panel.view_state), (RunsPanel([run]), panel.view_state)):
        one.view_state = view_state
        shown = frozen_state(one.to_html())
        assert shown["view_state"] == view_state and shown["attributions"][new["key"]]["subs"]
        assert new["key"] in one.attributions
    explored = AttributionPanel(FEATURE, [1, 2, 3], run.session.scorer.model)
    explored.view_state = panel.view_state
    assert frozen_state(explored.to_html())["view_state"] == panel.view_state


def test_a_live_view_knows_the_ids_of_the_past_and_a_page_its_texts(run):
    past = RunFollower(run).past()
    ids = {tuple(row) for row in past["ids"]}
    assert len(past["ids"]) == len(past["texts"]) == len(ids)
    assert {p.ids for p in run.frontier} <= ids
    kept = frozen_state(frozen_run(run))["past"]
    assert "ids" not in kept and kept["texts"] == past["texts"]


def test_a_view_that_fails_ends_nothing(gpt2, monkeypatch, caplog):
    whole = dream(gpt2.bridge)
    run = dream(gpt2.bridge, wait=False)
    run.pause()
    panel = DreamPanel(run)
    monkeypatch.setattr(panel, "update", lambda: 1 / 0)
    run.resume()
    same(run.history, whole.history)
    assert "not called again" in caplog.text


def test_a_panel_does_not_keep_a_run_or_its_model(gpt2, monkeypatch):
    """ipywidgets keeps every widget; what is large goes all the same."""
    run = dream(gpt2.bridge)
    panel = DreamPanel(run)
    for future in panel.prepare():
        future.result()
    heard, there = Heard(panel, monkeypatch), weakref.ref(run)
    run.ask(lambda: None).result()
    del run
    gc.collect()
    assert there() is None
    panel._handler.hear(panel, {"type": "look", "id": 1, "ids": [1, 2]})
    assert "This run is no longer in the kernel's memory." in heard.said[0]["text"]
