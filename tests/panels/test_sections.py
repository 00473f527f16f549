"""Sections below a prompt: what is computed when they are opened, what is kept, and what a frozen view has of them."""

from __future__ import annotations

import gc
import threading
import time
import weakref

import numpy as np
import pytest

import dreamy_lens as dl
from dreamy_lens._host import say
from dreamy_lens.errors import SettingsError
from dreamy_lens.html.escaping import Html
from dreamy_lens.panels import AttributionPanel, DreamPanel, frozen_run, state
from dreamy_lens.panels.messages import LOG
from dreamy_lens.panels.run_view import WAYS, sections_of
from dreamy_lens.panels.sections import HELD, WRITTEN, PanelSection, SectionHandler, SectionStore
from dreamy_lens.runs import Dream
from tests.helpers.dreams import FEATURE, dream, same
from tests.helpers.frozen_pages import frozen_state

NAMES = ["upstream", "mechanisms", "downstream", "words"]


@pytest.fixture
def run(gpt2):
    return dream(gpt2.bridge)


@pytest.fixture
def silent_llm():
    return lambda prompt: "EXPLANATION: small words"


class Asked:
    """A panel whose view asks for sections, and what it is answered."""

    def __init__(self, panel, monkeypatch):
        self.panel, self.answers, self.lock = panel, [], threading.Lock()
        monkeypatch.setattr(panel, "send", lambda content, buffers=None: self.answers.append(content))

    def send(self, name, ids=()):
        """Ask as the view does, on the thread of the notebook."""
        self.panel._handle_custom_msg({"type": "section", "name": name, "ids": [int(i) for i in ids]}, [])

    def html(self, name, ids=()):
        """HTML of a section, once it is there."""
        answer = self.answer(name, ids)
        assert "error" not in answer, answer["error"]
        return answer["html"]

    def answer(self, name, ids=()):
        count = len(self.answers)
        self.send(name, ids)
        settle(self.panel)
        (answer,) = self.answers[count:]
        key = "" if name in ("mechanisms", "words") else state.key(ids)
        assert (answer["type"], answer["id"]) == ("section", f"{name} {key}")
        return answer


def settle(panel):
    """Wait until the model thread has nothing left to do."""
    ask = panel._thread.ask if isinstance(panel, AttributionPanel) else panel.run.ask
    ask(lambda: None).result(120)


# What is computed.


def test_a_panel_lists_its_sections_and_has_their_rules(run):
    panel = DreamPanel(run)
    assert [name for name, *_ in panel.sections] == NAMES and panel.fragments == {}
    assert [label for _, label, _, _ in panel.sections] == [
        *("Where it comes from", "Ways to drive it", "What it does", "In words")
    ]
    assert [whole for *_, whole in panel.sections] == [False, True, False, True]
    assert all(waiting.endswith("…") for _, _, waiting, _ in panel.sections)
    assert ".dl .dl-table" in panel.section_style and "/*" not in panel.section_style


def test_each_section_is_what_python_computes(run, monkeypatch):
    asked, prompt = Asked(DreamPanel(run), monkeypatch), run.frontier[-1]
    assert asked.html("upstream", prompt.ids) == prompt.upstream().body()
    assert asked.html("downstream", prompt.ids) == prompt.steer(n_tokens=WRITTEN).body()
    ways = asked.html("mechanisms")
    assert ways == run.mechanisms().body(WAYS) + '<p class="dl-note">After iteration 8.</p>'


def test_a_typed_prompt_has_the_template_of_the_run(gpt2, monkeypatch):
    run = dream(gpt2.bridge, constraints=[dl.constraints.template("In short:{dream} and so on.")], iterations=1)
    asked, ids = Asked(DreamPanel(run), monkeypatch), [30, 31, 32]
    html = asked.html("upstream", ids)
    assert html == run.upstream(np.array(ids)).body()
    assert html != dl.upstream(FEATURE, np.array(ids), gpt2.bridge).body()
    assert asked.html("downstream", ids) == run.steer(np.array(ids), n_tokens=WRITTEN).body()


def test_of_several_contexts_the_first_is_used_and_said(gpt2, monkeypatch):
    contexts = dl.constraints.contexts(["First:{dream} done.", "Then{dream}"])
    run = dream(gpt2.bridge, constraints=[contexts], iterations=1)
    asked, ids = Asked(DreamPanel(run), monkeypatch), list(run.frontier[0].ids)
    assert asked.html("upstream", ids) == run.upstream(np.array(ids)).body()
    assert "context" in asked.html("upstream", ids)


def test_nothing_is_computed_twice_for_any_view_of_the_run(run, monkeypatch):
    first, second = Asked(DreamPanel(run), monkeypatch), Asked(DreamPanel(run), monkeypatch)
    ids, other = run.frontier[0].ids, run.frontier[-1].ids
    html, ways = first.html("upstream", ids), first.html("mechanisms")
    for name in ("upstream", "mechanisms"):
        monkeypatch.setattr(Dream, name, lambda *given, **more: 1 / 0)
    asks = []
    monkeypatch.setattr(Dream, "ask", lambda self, function, soon=False: asks.append(function))
    for name, expected in (("upstream", html), ("mechanisms", ways)):
        second.send(name, ids)
        assert second.answers[-1]["html"] == expected  # at once, also while the model is busy
    assert not asks
    second.send("upstream", other)
    assert len(asks) == 1


def test_ways_are_looked_for_again_when_the_run_has_gone_on(run, monkeypatch):
    asked = Asked(DreamPanel(run), monkeypatch)
    before = asked.html("mechanisms")
    run.resume(4, wait=True)
    after = asked.html("mechanisms")
    assert "After iteration 8." in before and "After iteration 12." in after
    assert list(sections_of(run).fragments().values()) == [after]


def test_sections_wait_for_the_end_of_a_step(run, monkeypatch):
    """They may change the model, so they must not run between two passes of one step."""
    asked, flags = Asked(DreamPanel(run), monkeypatch), []
    ask = Dream.ask
    monkeypatch.setattr(Dream, "ask", lambda self, f, soon=False: flags.append(soon) or ask(self, f))
    for name in NAMES:
        asked.html(name, run.frontier[0].ids)
    assert not any(flags) and len(flags) >= len(NAMES)


def until(happened, seconds=120.0):
    """Wait for what another thread does."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it has not happened"
        time.sleep(0.01)


def test_a_run_that_is_asked_while_it_searches_finds_what_it_would_have_found(gpt2, monkeypatch):
    run = dream(gpt2.bridge, iterations=100_000, wait=False)
    asked, ids = Asked(DreamPanel(run), monkeypatch), [30, 31, 32, 33, 34]
    until(lambda: run.so_far.iteration >= 8)
    for name, prompt in (("upstream", [40, 41]), ("downstream", [40, 41]), ("mechanisms", ())):
        asked.send(name, prompt)
    until(lambda: len(asked.answers) == 3)
    assert run.status == "running"
    run.pause()
    until(lambda: run.status == "paused")
    paused = {name: asked.html(name, ids) for name in ("upstream", "downstream", "mechanisms")}
    assert run.status == "paused" and f"After iteration {run.so_far.iteration}." in paused["mechanisms"]
    run.stop().wait(120)
    assert all("html" in answer for answer in asked.answers)
    whole = dream(gpt2.bridge, iterations=run.iteration)
    same(run.history, whole.history)
    assert paused["upstream"] == whole.upstream(np.array(ids)).body()  # the hooks of the search change nothing


def test_a_section_that_is_no_longer_wanted_is_not_computed(run, monkeypatch):
    asked, begun, go_on = Asked(DreamPanel(run), monkeypatch), threading.Event(), threading.Event()
    run.ask(lambda: (begun.set(), go_on.wait(60)))
    assert begun.wait(60)
    for ids in ([1, 2], [3, 4], [5, 6]):
        asked.send("upstream", ids)
    asked.send("words")
    go_on.set()
    settle(asked.panel)
    assert [answer["id"] for answer in asked.answers] == ["upstream 5.6", "words "]


# Words.


def test_a_run_without_an_explanation_says_how_to_make_one(run, monkeypatch, tmp_path, silent_llm):
    asked = Asked(DreamPanel(run), monkeypatch)
    for method in ("urlopen", "Request"):
        monkeypatch.setattr(f"urllib.request.{method}", lambda *given, **more: 1 / 0)
    before = asked.html("words")
    assert "dl.explain(run, llm=...)" in before and "run.save(folder)" in before
    run.save(tmp_path / "run")
    assert "run.save" not in asked.html("words")
    told = dl.explain(run, llm=silent_llm, scores=())
    assert asked.html("words") == told.body("h3") == run.explanation.body("h3") and "small words" in told.body("h3")
    assert frozen_state(frozen_run(run))["fragments"] == {"words ": told.body("h3")}


# Errors.


def test_what_has_no_decomposition_or_no_vector_says_so(gpt2, monkeypatch):
    hook = "blocks.0.hook_resid_post"
    feature = dl.custom("steps", [hook], lambda a: a[hook][:, -1, 0].detach().round())
    search = dl.RandomSearch(children=6, length=5)
    run = dl.dream(feature, gpt2.bridge, search=search, iterations=1, progress=False)
    asked, ids = Asked(DreamPanel(run), monkeypatch), run.frontier[0].ids
    for name in ("upstream", "downstream"):
        with pytest.raises(dl.errors.DreamyLensError) as raised:
            {"upstream": run.upstream, "downstream": run.steer}[name](np.array(ids))
        assert asked.answer(name, ids)["error"] == str(raised.value)
    assert sections_of(run).fragments() == {}


def test_an_error_of_another_kind_is_shown_and_logged(run, monkeypatch, caplog):
    asked = Asked(DreamPanel(run), monkeypatch)
    monkeypatch.setattr(Dream, "upstream", lambda *given, **more: 1 / 0)
    with caplog.at_level("ERROR", LOG.name):
        assert asked.answer("upstream", [1, 2])["error"] == "ZeroDivisionError: division by zero"
    assert "A section of a view could not be computed" in caplog.text
    monkeypatch.undo()


@pytest.mark.parametrize("message", [{"name": "scan"}, {"name": None}, {}])
def test_a_section_that_does_not_exist_is_not_answered(run, monkeypatch, message):
    asked = Asked(DreamPanel(run), monkeypatch)
    asked.panel._handle_custom_msg({"type": "section", **message}, [])
    settle(asked.panel)
    assert asked.answers == []


def test_a_prompt_that_cannot_be_scored_says_so(run, monkeypatch):
    asked = Asked(DreamPanel(run), monkeypatch)
    assert "10000000" in asked.answer("upstream", [10**7])["error"]


def test_a_run_from_a_folder_loads_its_model_or_says_why_it_cannot(gpt2, run, monkeypatch, tmp_path):
    ids, expected = list(run.frontier[0].ids), run.frontier[0].upstream().body()
    run.save(tmp_path / "run")
    again = dl.load_run(tmp_path / "run", gpt2.bridge)
    asked = Asked(DreamPanel(again), monkeypatch)
    assert not again.has_session
    assert "dl.explain" in asked.html("words") and not again.has_session  # words need no model
    assert asked.html("upstream", ids) == expected and again.has_session
    lost = dl.load_run(tmp_path / "run")
    answer = Asked(DreamPanel(lost), monkeypatch).answer("downstream", ids)
    assert "load_run" in answer["error"] and not lost.has_session


# What keeps what.


def test_sections_do_not_keep_a_run_or_its_model(gpt2, monkeypatch):
    run = dream(gpt2.bridge)
    asked, there = Asked(DreamPanel(run), monkeypatch), weakref.ref(run)
    for name in NAMES:
        asked.html(name, run.frontier[0].ids)
    store = sections_of(run)
    del run
    gc.collect()
    assert there() is None and len(store.fragments()) == 4
    asked.send("mechanisms")
    asked.send("upstream", [1, 2])
    for answer in asked.answers[-2:]:
        assert "This run is no longer in the kernel's memory." in answer["error"]


def counting_store(count=None):
    """Sections that say which prompt they are about; one of them is about the whole run."""
    made = []

    def compute(ids):
        made.append(ids.tolist())
        say("this is said by nothing")
        return Html(f"<p>{ids.tolist()}</p>")

    each = PanelSection("each", "Each", "Counting…", compute)
    return SectionStore([each, PanelSection("all", "All", "Counting…", compute, whole=True)]), made


def test_the_oldest_sections_are_forgotten():
    store, made = counting_store()
    for i in range(HELD + 3):
        store.html({"name": "each", "ids": [i]})
    assert list(store.fragments()) == [f"each {i}" for i in range(3, HELD + 3)]
    store.html({"name": "each", "ids": [5]})
    assert len(made) == HELD + 3
    store.html({"name": "each", "ids": [0]})
    assert made[-1] == [0] and len(store.fragments()) == HELD


def test_fragments_are_those_of_the_prompts_and_of_the_run():
    store, _ = counting_store()
    assert store.frozen_traits(["3"]) == [{}]
    for name, ids in (("each", [1, 2]), ("each", [3]), ("all", [])):
        store.html({"name": name, "ids": ids})
    assert list(store.fragments(["3", "9"])) == ["each 3", "all "]
    every, few, nothing = store.frozen_traits(["3"])
    assert set(every) == set(few) == {"sections", "section_style", "fragments"} and nothing == {}
    assert every["fragments"] == store.fragments() and few["fragments"] == store.fragments(["3"])


def test_the_view_says_what_is_computed_and_python_prints_nothing(capsys):
    store, _ = counting_store()
    answers = []
    SectionHandler(store, lambda function: function(), answers.append).hear({"name": "each", "ids": [1]})
    assert answers == [{"type": "section", "id": "each 1", "html": "<p>[1]</p>"}]
    said = capsys.readouterr()
    assert said.out == said.err == ""


def test_a_model_thread_that_refuses_is_reported_in_the_section():
    def ask(function):
        raise SettingsError("No thread.")

    store, _ = counting_store()
    answers = []
    SectionHandler(store, ask, answers.append).hear({"name": "all", "ids": []})
    assert answers == [{"type": "section", "id": "all ", "error": "No thread."}]


# Frozen.


def test_a_frozen_run_has_the_sections_that_were_opened(run, monkeypatch):
    panel = DreamPanel(run)
    asked = Asked(panel, monkeypatch)
    nothing = frozen_state(panel.to_html())
    assert not {"sections", "section_style", "fragments"} & set(nothing)
    prompt, other = run.frontier[0], run.frontier[-1]
    known = {
        f"upstream {state.key(prompt.ids)}": asked.html("upstream", prompt.ids),
        f"downstream {state.key(other.ids)}": asked.html("downstream", other.ids),
        "mechanisms ": asked.html("mechanisms"),
    }
    for page in (panel.to_html(), frozen_run(run), run.to_html()):
        shown = frozen_state(page)
        assert shown["fragments"] == known and shown["sections"] == panel.sections
        assert shown["section_style"] == panel.section_style and not shown["live"]
    assert "fragments" not in run.to_html(static=True)


def test_a_live_panel_has_at_once_what_its_page_has_of_the_picked_prompt(run, monkeypatch):
    panel = DreamPanel(run)
    asked, (first, *_, last) = Asked(panel, monkeypatch), run.frontier
    for prompt in (first, last):
        asked.html("upstream", prompt.ids)
    panel.picked = state.key(last.ids)
    panel.to_html()
    assert list(panel.fragments) == [f"upstream {panel.picked}"]


def test_sections_are_left_out_first(run, monkeypatch):
    panel = DreamPanel(run)
    asked, (first, *_, last) = Asked(panel, monkeypatch), run.frontier
    for future in panel.prepare():
        future.result()
    bare = len(frozen_run(run))
    panel.picked = state.key(first.ids)
    for prompt in (first, last):
        asked.html("upstream", prompt.ids)
    whole = frozen_run(run, picked=panel.picked)
    few = {f"upstream {panel.picked}"}
    assert set(frozen_state(whole)["fragments"]) == {f"upstream {state.key(p.ids)}" for p in (first, last)}
    less = frozen_run(run, len(whole) - 1, picked=panel.picked)
    assert set(frozen_state(less)["fragments"]) == few and bare < len(less) < len(whole)
    least = frozen_run(run, len(less) - 1, picked=panel.picked)
    assert "fragments" not in frozen_state(least) and len(least) < len(less)
    # All the rest is there: the cloud, the texts of the past and every attribution.
    everything = frozen_state(whole)
    for name in ("cloud", "past", "attributions"):
        assert frozen_state(least)[name] == everything[name] and everything[name]


# One prompt.


def test_an_explored_prompt_has_the_sections_about_a_prompt(gpt2, monkeypatch):
    template = {"prefix": [40, 41], "suffix": [42], "prepend_bos": True}
    panel = AttributionPanel(FEATURE, [30, 31, 32], gpt2.bridge, **template).wait()
    assert [name for name, *_ in panel.sections] == ["upstream", "downstream"]
    asked = Asked(panel, monkeypatch)
    for ids in ([30, 31, 32], [30, 31, 33]):
        assert asked.html("upstream", ids) == dl.upstream(FEATURE, np.array(ids), gpt2.bridge, **template).body()
    steered = dl.steer(FEATURE, np.array([30, 31, 32]), gpt2.bridge, n_tokens=WRITTEN, **template)
    assert asked.html("downstream", [30, 31, 32]) == steered.body()
    shown = frozen_state(panel.to_html())
    assert set(shown["fragments"]) == {"upstream 30.31.32", "upstream 30.31.33", "downstream 30.31.32"}
    assert set(panel.fragments) == {"upstream 30.31.32", "downstream 30.31.32"}  # those of the other are asked for
    monkeypatch.setattr("dreamy_lens.panels.attribution.WEIGHT", len(panel.to_html()) - 1)
    assert set(frozen_state(panel.to_html())["fragments"]) == set(panel.fragments)
    monkeypatch.setattr("dreamy_lens.panels.attribution.WEIGHT", 1000)
    assert "fragments" not in frozen_state(panel.to_html())


def test_a_prompt_that_a_run_explores_has_the_template_of_the_run(gpt2, monkeypatch):
    run = dream(gpt2.bridge, constraints=[dl.constraints.template("In short:{dream} and so on.")], iterations=1)
    ids = list(run.frontier[0].ids)
    asked = Asked(run.explore(run.frontier[0]), monkeypatch)
    assert asked.html("upstream", ids) == run.frontier[0].upstream().body()
