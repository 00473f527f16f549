"""The feature browser without a browser: messages in, traits and messages out, runs started, compared and removed."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import dreamy_lens as dl
from dreamy_lens.errors import ConstraintError, SettingsError
from dreamy_lens.panels import FeatureBrowser, settings
from dreamy_lens.results import merge
from dreamy_lens.search import searches, setting_fields
from tests.features.test_sae_conditions import saved
from tests.features.test_sae_sources import cache

__all__ = ["cache"]

SMALL = {"iterations": "3", "population": "2", "children": "4", "top_k": "8", "length": "4"}


class Played:
    """A browser, and what its form says to its view."""

    def __init__(self, model):
        self.browser = FeatureBrowser(model).wait()
        self.form = self.browser.form
        self.said = []
        self.form.send = lambda content, buffers=None: self.said.append(json.loads(json.dumps(content)))

    def ask(self, kind, text="", wait=True, **typed):
        """Send a message as the view does, and give the answer to it."""
        number = len(self.said) + 1000
        self.form._hear(self.form, {"type": kind, "id": number, "text": text, "typed": typed})
        if wait:
            self.browser.wait()
            return next(one for one in self.said if one["id"] == number)
        return None

    def start(self, text="L1.N3", **typed):
        answer = self.ask("start", text, **(SMALL | typed))
        assert answer == {"type": "started", "id": answer["id"], "error": ""}
        return self.browser.runs


@pytest.fixture
def played(gpt2):
    play = Played(gpt2.bridge)
    yield play
    play.browser.close()


# The model.


def test_a_model_is_shown_with_its_hook_points_and_their_shapes(played, gpt2):
    form = played.form
    assert form.model == form.models[-1] == "tiny-gpt2" and form.loading == form.model_error == ""
    assert "2 layers · width 32 · 335 tokens" in form.about and f"{len(form.hooks)} hook points" in form.about
    assert [name for name, _ in form.hooks] == list(gpt2.bridge.hook_dict)
    assert all(dl.parse(text) == dl.hook(name) for name, text in form.hooks)
    assert form.shapes["blocks.1.mlp.hook_post"] == ["position", 40]
    assert form.shapes["blocks.1.attn.hook_pattern"] == [4, "position", "position"]
    assert set(form.shapes) == set(gpt2.bridge.hook_dict) and None in form.shapes.values()
    state = {name: value for name, value in form.get_state().items() if not name.startswith("_")}
    assert json.loads(json.dumps(state)) == state


def test_models_are_loaded_by_name_and_used_again(played):
    form = played.form
    form._hear(form, {"type": "load", "name": " /no/such/folder "})
    assert form.loading == "/no/such/folder"
    played.browser.wait()
    assert "There is no folder '/no/such/folder'" in form.model_error and form.model == "tiny-gpt2"
    assert form.loading == ""
    form._hear(form, {"type": "load", "name": "embedded"})
    played.browser.wait()
    assert form.model == "embedded" and form.model_error == "" and form.models == ["embedded", "tiny-gpt2"]
    assert played.ask("check", "L5.N800")["python"] == "dl.dream('L5.N800', seed=0)"
    before = form.hooked
    form._hear(form, {"type": "load", "name": "tiny-gpt2"})
    form._hear(form, {"type": "load", "name": "embedded"})
    played.browser.wait()
    assert form.hooked is before


def test_what_goes_wrong_is_said_and_not_raised(played, monkeypatch):
    monkeypatch.setattr("dreamy_lens.panels.form.bind", lambda *args: 1 / 0)
    played.form._hear(played.form, {"type": "check", "id": 5, "text": "L1.N3", "typed": {}})
    played.browser.wait()
    assert played.said[-1]["type"] == "notice" and "ZeroDivisionError" in played.said[-1]["error"]
    for message in (None, "start", {}, {"type": "unknown"}):
        played.form._hear(played.form, message)


# Features and settings.


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("L1.N3", "blocks.1.mlp.hook_post[-1, 3]"),
        ("blocks.1.attn.hook_pattern[0, -1, 2]", "blocks.1.attn.hook_pattern[0, -1, 2]"),
        ("L1.N40", "there is no unit 40"),
        ("blocks.1.mlp.hook_pots[-1, 3]", "nearest: blocks.1.mlp.hook_post"),
        ("blocks.1.mlp.hook_post", "leaves one number for every position"),
        ("", "The feature is empty"),
    ],
)
def test_a_feature_is_checked_against_the_model(played, text, said):
    answer = played.ask("check", text)
    assert said in answer["said" if answer["ok"] else "error"] and answer["settings_error"] == ""
    assert answer["ok"] == (said == answer["said"]) and bool(answer["python"]) == answer["ok"]


def test_a_dictionary_on_the_hub_is_downloaded_when_a_run_starts_and_not_while_its_name_is_typed(
    played, cache, tmp_path
):
    folder, _ = saved(tmp_path / "sae", 32)
    cache.add("me/tiny", Path(folder), "layer1")
    text = 'sae_latent("hf://me/tiny/layer1", 4, pre_activation=true)'
    for typed in (text.replace("layer1", "la"), text):
        answer = played.ask("check", typed)
        assert answer["ok"] and answer["said"].endswith(", which is downloaded when you start") and answer["python"]
    assert "names no repository" in played.ask("start", 'sae_latent("hf://me", 4)', **SMALL)["error"]
    (run,) = played.start(text)
    assert run.wait().feature == dl.parse(text)
    assert played.ask("check", text)["said"] == 'sae_latent("layer1", 4, pre_activation=true)'
    assert "out of range" in played.ask("check", text.replace(" 4", " 99"))["error"]


def test_where_a_text_does_not_parse_is_said(played):
    answer = played.ask("check", "L1.N3 - * 2")
    assert answer["at"] == 8 and answer["error"].endswith("\n    L1.N3 - * 2\n            ^")


def test_only_the_newest_question_is_answered(played):
    form, hold = played.form, threading.Event()
    form._thread.ask(lambda: hold.wait(10))
    for number in range(5):
        form._hear(form, {"type": "check", "id": number, "text": f"L1.N{number}", "typed": {}})
    hold.set()
    played.browser.wait()
    assert [one["id"] for one in played.said] == [4]


def test_a_bad_setting_is_a_sentence_that_begins_with_its_name(played):
    for name, typed in (("population", "x"), ("iterations", "1.5"), ("lambda_min", "-1"), ("seeds", "1,,a")):
        answer = played.ask("check", "L1.N3", search="epo", **{name: typed})
        assert answer["ok"] and answer["settings_error"].startswith(f"{name} ") and answer["python"] == ""
    assert "{dream}" in played.ask("check", "L1.N3", template="no place")["settings_error"]
    assert "parents" in played.ask("start", "L1.N3", parents="0")["error"] and not played.browser.runs


def test_the_line_of_python_starts_the_same_run(played, gpt2):
    typed = SMALL | {"seeds": "4", "round_trip": True, "template": "a {dream}b", "forbidden": "dog", "lambda_max": "5"}
    answer = played.ask("check", "L1.N3", **typed)
    line = answer["python"]
    loaded = f"model = dl.load_model({json.dumps(played.form.model)})  # if"
    assert answer["program"].startswith(f"import dreamy_lens as dl\n\n{loaded}")
    assert answer["program"].endswith(f"\nrun = {line}")
    assert line.startswith("dl.dream('L1.N3', model, iterations=3,") and "lambda_min" not in line
    (run,) = played.start(**typed)
    same = eval(line[:-1] + ", progress=False)", {"dl": dl, "model": gpt2.bridge})
    assert same.config == run.wait().config and same.constraints == run.constraints
    assert same.provenance == run.provenance and np.array_equal(same.history.ids, run.history.ids)


@pytest.mark.parametrize("search", searches())
def test_every_setting_has_its_default_and_a_sentence(search):
    kind = searches()[search]
    fields = [field for field in settings.form_fields() if not field.searches or search in field.searches]
    known = {setting.name: setting.default for setting in setting_fields(kind)}
    assert {field.name for field in fields} >= set(known) - {"seed"}
    for field in fields:
        shown = field.to_dict()
        assert shown["help"].endswith(".") and shown["label"] and shown["placeholder"]
        default = known.get(field.name, "none")
        if default is None:
            assert shown["default"] == ""
        elif default != "none":
            assert float(shown["default"]) == default
    defaults = {field.name: field.to_dict()["default"] for field in fields}
    assert len(defaults) == len(fields)
    own = {} if search == "frontier" else {"search": kind()}
    assert settings.arguments(defaults | {"search": search}) == settings.arguments({"search": search})
    assert settings.arguments({"search": search}) == {**own, "seed": 0}


@pytest.mark.parametrize("search", searches())
def test_a_run_of_any_search_is_started_from_the_form(played, gpt2, search):
    small = {"iterations": "2", "children": "8", "length": "4", "samples": "8", "seconds": "600"}
    typed = {"search": search, "population": "2", "top_k": "8", "parents": "2", "seeds": "3", **small}
    answer = played.ask("check", "L1.N3", **typed)
    assert answer["settings_error"] == "" and ("search=dl." in answer["python"]) == (search != "frontier")
    assert ("population" in answer["python"]) == (search in ("epo", "gcg"))
    (run,) = played.start(**typed)
    assert type(run.wait().config) is searches()[search] and run.status == "done"
    same = eval(answer["python"][:-1] + ", progress=False)", {"dl": dl, "model": gpt2.bridge})
    assert same.config == run.config and np.array_equal(same.history.ids, run.history.ids)
    together = played.start(**typed | {"seeds": "4-5"})[1:]
    assert [run.wait().config.seed for run in together] == [4, 5]


def test_settings_are_checked_for_the_chosen_search(played):
    typed = {"search": "frontier", "samples": "2", "population": "x"}
    said = played.ask("check", "L1.N3", **typed)["settings_error"]
    assert said.startswith("samples is 2") and "at least 8" in said
    assert played.ask("check", "L1.N3", **typed | {"search": "random"})["settings_error"] == ""
    assert played.ask("check", "L1.N3", **typed | {"search": "epo"})["settings_error"].startswith("population is 'x'")
    said = played.ask("check", "L1.N3", search="greedy")["settings_error"]
    assert said == "search is 'greedy'; choose one of frontier, epo, gcg, random."


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("", [0]), ("7", [7]), ("0, 1,2", [0, 1, 2]), ("0-3", [0, 1, 2, 3]), ("5 1 - 2;9", [5, 1, 2, 9])],
)
def test_seeds(text, seeds):
    assert settings.parse_seeds(text) == seeds


@pytest.mark.parametrize(("text", "said"), [("a", "'a'"), ("-1", "'-1'"), ("3-1", "give 1-3"), ("1, 0-2", "twice")])
def test_seeds_that_are_none(text, said):
    with pytest.raises(SettingsError, match=said):
        settings.parse_seeds(text)
    with pytest.raises(SettingsError, match="more than 64"):
        settings.parse_seeds("0-999999999")


def test_constraints_that_cannot_be_are_refused():
    with pytest.raises(ConstraintError):
        settings.arguments({"template": "nothing"})
    for typed, said in (
        ({"contexts": "Return {dream}"}, "at least two contexts"),
        ({"contexts": "a | b", "softness": "2"}, 'softness= belongs to combine="soft_min"'),
        ({"contexts": "a | b", "gradients_in": "x"}, "gradients_in is a number of contexts"),
        ({"contexts": '["a", 7]'}, "chat\\(\\) takes messages"),
        ({"contexts": '["a", "b"'}, "The list of contexts is no JSON"),
        ({"chat": '[{"role": "user"'}, "The chat is no JSON"),
        ({"chat": '{"messages": [], "tool": []}'}, "or an object with messages, tools, add_generation_prompt"),
    ):
        with pytest.raises(ConstraintError, match=said):
            settings.arguments(typed)
    with pytest.raises(SettingsError, match="contexts is empty, and combine is about several contexts"):
        settings.arguments({"combine": "min"})


def test_contexts_chats_and_a_fluency_model_are_typed_in_the_form(played, gpt2, neox, tmp_path):
    """The run's value is that of the plain model in each context, its cross-entropy that of the other model."""
    other = tmp_path / "other"
    neox.raw.save_pretrained(other)
    neox.tokenizer.save_pretrained(other)
    typed = {"contexts": "Over{dream} hill | She said", "combine": "min", "gradients_in": "1"}
    typed |= {"fluency_model": str(other)}
    answer = played.ask("check", "L1.N3", **typed | {"seeds": "0"})
    assert answer["settings_error"] == ""
    code = 'dl.constraints.contexts(["Over{dream} hill", "She said{dream}"], "min", gradients_in=1)'
    assert f"fluency_model={str(other)!r}" in answer["python"] and code in answer["python"]
    (run,) = played.start(**typed)
    best = run.wait().frontier.best()
    values, surprisals = [], []
    for before, after in (("Over", " hill"), ("She said", "")):
        start, end = (gpt2.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (before, after))
        row = torch.tensor([[0, *start, *best.ids, *end]])
        with torch.no_grad():
            states = gpt2.raw.transformer(row, output_hidden_states=True)
            block = gpt2.raw.transformer.h[1]
            middle = states.hidden_states[1] + block.attn(block.ln_1(states.hidden_states[1]))[0]
            values.append(float(block.mlp.act(block.mlp.c_fc(block.ln_2(middle)))[0, -1, 3]))
            log_probs = neox.raw(row).logits[0].log_softmax(-1)
        first = 1 + len(start)
        surprisals.append(-np.mean([float(log_probs[first + i - 1, token]) for i, token in enumerate(best.ids)]))
    assert best.value == pytest.approx(min(values), abs=1e-4)
    assert best.cross_entropy == pytest.approx(np.mean(surprisals), abs=1e-4)

    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "On {dream}"}]
    (made,) = settings.arguments({"chat": json.dumps(messages)})["constraints"]
    assert made == dl.constraints.chat(messages)
    closed = {"messages": messages, "add_generation_prompt": False, "tools": [{"name": "add"}]}
    frames = [*("Return {dream}", "See | also"), messages, closed]
    (several,) = settings.arguments({"contexts": json.dumps(frames)})["constraints"]
    chats = [dl.constraints.chat(messages), dl.constraints.chat(messages, False, tools=[{"name": "add"}])]
    assert several == dl.constraints.contexts([*frames[:2], *chats])
    # What only looks like JSON is a message of the user.
    for text in ("{dream} is", "[{dream}]", "[{dream}] {x}"):
        assert settings.arguments({"chat": text})["constraints"] == [dl.constraints.chat(text)]


# Runs.


def test_a_run_is_started_with_its_panel(played):
    (run,) = played.start()
    assert run.wait().status == "done" and run.config.iterations == 3 and run.feature_label == "L1.N3"
    (box,) = played.browser.children[-1].children
    button, panel = box.children
    assert panel.run is run and "seed 0" in button.description
    assert len(played.browser.children) == 2  # one run has nothing to be compared with
    button.click()
    assert played.browser.runs == [] and played.browser.children[-1].children == ()


def test_several_runs_of_a_feature_are_shown_together(played):
    runs = played.start(seeds="0-1")
    assert [run.config.seed for run in runs] == [0, 1] and runs[0].worker is runs[1].worker
    together = played.browser.children[1]
    assert list(together.run) == runs
    played.start("L0.N5")
    assert played.browser.children[1] is together and len(played.browser.children[-1].children) == 3
    played.start(seeds="2")
    assert [run.config.seed for run in played.browser.children[1].run] == [0, 1, 2]
    played.browser.remove(runs[0])
    played.browser.remove(runs[0])
    assert [run.config.seed for run in played.browser.children[1].run] == [1, 2]
    for run in played.browser.runs:
        run.wait()
    together = merge([run for run in played.browser.runs if run.feature == dl.parse("L1.N3")])
    assert len(together.frontier)


def test_removing_stops_a_run_when_nobody_else_goes_on_with_it(played):
    first, second = played.start(seeds="0-1", iterations="100000")
    played.browser.remove(first)
    assert second.active and played.browser.runs == [second] and len(played.browser.children) == 2
    played.browser.remove(second)
    assert second.wait(20).status == "stopped"


@pytest.mark.parametrize("paused", [False, True])
def test_a_feature_is_checked_while_a_run_goes_on(played, paused):
    """By the thread that has the model, between two steps; and the run is the one that it would have been."""
    (run,) = played.start(iterations="100000")
    if paused:
        run.pause()
    answer = played.ask("check", "L0.N5")
    assert answer["ok"] and run.active
    played.start("L0.N5")
    played.browser.runs[1].wait()
    assert run.stop().wait().status == "stopped"
    alone = dl.dream("L1.N3", played.form.hooked, **{**settings.arguments(SMALL), "iterations": run.iteration})
    np.testing.assert_array_equal(alone.history.ids, run.history.ids)


def test_a_refused_start_says_why(played):
    assert "there is no unit 99" in played.ask("start", "L1.N99")["error"]
    assert "context" in played.ask("start", "L1.N3", length="500")["error"]
    assert "start" in played.ask("start", "L1.N3", start="a dog", forbidden="dog")["error"].lower()
    assert played.browser.runs == []


def test_closing_stops_everything(played):
    (run,) = played.start(iterations="100000")
    played.browser.close()
    assert run.wait(20).status == "stopped" and played.browser.runs == []
    assert repr(played.browser).startswith("FeatureBrowser(tiny-gpt2, 0 runs)")
    assert played.form.hooked is None  # ipywidgets keeps closed widgets' callbacks; the model is not to stay with them
