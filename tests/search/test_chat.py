"""Chats around the prompt: the text is the chat template's own, with one BOS and the dream in its place."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch

import dreamy_lens as dl
from dreamy_lens import constraints
from dreamy_lens.errors import ConstraintError
from dreamy_lens.models import Vocabulary
from dreamy_lens.search.constraint_kinds import from_dict, to_dict
from dreamy_lens.search.constraint_set import ConstraintSet, template_ids
from tests.helpers import models

CHATML = (
    "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] | trim }}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
STRICT = "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
STRICT += "{% endif %}<|im_start|>{{ m['role'] }}: {{ m['content'] }}<|im_end|>{% endfor %}"
TOOLS = "{% if tools %}{{ tools | tojson }}{% endif %}" + STRICT
LAST_ONLY = "{{ messages[-1]['content'] }}"


def chatty(chat_template: str | None = CHATML):
    tokenizer = copy.deepcopy(models.tokenizer())
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = chat_template
    return tokenizer


@pytest.fixture
def bridge():
    tokenizer = chatty()
    bridge = models.new_bridge("gpt2", models.raw_model("gpt2"))
    bridge.tokenizer = tokenizer
    return bridge


def texts_of(constraint, tokenizer=None) -> tuple[str, str]:
    return constraint.texts(tokenizer or chatty())


def test_the_text_is_that_of_the_chat_template():
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Tell me about {dream}, please."},
    ]
    before, after = texts_of(constraints.chat(messages))
    whole = chatty().apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert before + "{dream}" + after == whole
    assert before.endswith("user\nTell me about ") and after.endswith("<|im_start|>assistant\n")
    closed = texts_of(constraints.chat(messages, add_generation_prompt=False))
    assert closed == (before, ", please.<|im_end|>\n")


def test_a_last_turn_of_the_assistant_is_continued():
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "The {dream}"}]
    assert texts_of(constraints.chat(messages))[1] == ""
    assert texts_of(constraints.chat(messages, add_generation_prompt=False))[1] == "<|im_end|>\n"


@pytest.mark.parametrize("content", ["", "  \n", None, [{"type": "text", "text": " "}], []])
def test_a_last_turn_of_the_assistant_without_text_is_refused_unless_it_is_closed(content):
    """Nothing can be continued there, and transformers would cut off the end of the turn's beginning."""
    call = {"role": "assistant", "content": content, "tool_calls": [{"function": {"name": "f"}}]}
    messages = [{"role": "user", "content": "Hi {dream}"}, call]
    tokenizer = chatty("{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>{% endfor %}")
    with pytest.raises(ConstraintError, match=r"no text that the model could go on with\. Leave it out"):
        texts_of(constraints.chat(messages), tokenizer)
    assert texts_of(constraints.chat(messages, False), tokenizer)[1].endswith("<|im_end|>")
    assert texts_of(constraints.chat(messages[:1]), tokenizer)[1] == "<|im_end|>"


@pytest.mark.parametrize("tools", [7, "add", {"name": "add"}, ["add"]])
def test_tools_are_descriptions_in_a_list(tools):
    with pytest.raises(ConstraintError, match="tools= takes a list of descriptions"):
        constraints.chat("{dream}", tools=tools)
    with pytest.raises(ConstraintError, match="add_generation_prompt is True or False; got 'no'"):
        constraints.chat("{dream}", "no")  # pyright: ignore[reportArgumentType]
    assert constraints.chat("{dream}", tools=[]) == constraints.chat("{dream}")


def test_tools_and_turns_of_tools():
    messages = [{"role": "user", "content": "{dream}"}, {"role": "tool", "content": "42"}]
    before, after = texts_of(constraints.chat(messages, tools=[{"name": "add"}]), chatty(TOOLS))
    assert '"name": "add"' in before and "tool: 42" in after


def test_a_text_is_a_message_of_the_user():
    assert constraints.chat("On {dream}") == constraints.chat([{"role": "user", "content": "On {dream}"}])


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ("no place", "exactly once; these have it 0 times"),
        ([{"role": "user", "content": "{dream} {dream}"}], "these have it 2 times"),
        ([], "chat\\(\\) takes messages"),
        (7, "chat\\(\\) takes messages"),
        ([{"content": "{dream}"}], "has a role"),
        ([{"role": "user", "content": "{dream}", "at": object()}], "must be texts, numbers"),
    ],
)
def test_what_is_no_chat_is_refused(messages, why):
    with pytest.raises(ConstraintError, match=why):
        constraints.chat(messages)


def test_a_model_without_a_chat_template_and_templates_that_refuse_say_so():
    with pytest.raises(ConstraintError, match="has no chat template"):
        texts_of(constraints.chat("{dream}"), chatty(None))
    system = [{"role": "system", "content": "x"}, {"role": "user", "content": "{dream}"}]
    with pytest.raises(ConstraintError, match="refuses these messages: System role not supported\\."):
        texts_of(constraints.chat(system), chatty(STRICT))
    hidden = [{"role": "user", "content": "{dream}"}, {"role": "user", "content": "y"}]
    with pytest.raises(ConstraintError, match="0 times instead of once"):
        texts_of(constraints.chat(hidden), chatty(LAST_ONLY))
    with pytest.raises(ConstraintError, match="only one template or chat; got 2"):
        ConstraintSet([constraints.chat("{dream}"), constraints.template("a{dream}")], Vocabulary(chatty(), 340), 3)


def test_special_tokens_are_tokens_of_the_chat_and_never_of_the_dream(bridge):
    vocabulary = Vocabulary(chatty(), 340)
    before, after = template_ids([constraints.chat("On {dream}!")], vocabulary)
    start, end = (vocabulary.tokenizer.convert_tokens_to_ids(t) for t in ("<|im_start|>", "<|im_end|>"))
    assert before[:2] == [0, start] and after.count(end) == 1 and after.count(start) == 1
    allowed = ConstraintSet([constraints.chat("On {dream}!")], vocabulary, 3).allowed
    assert not allowed[[0, start, end]].any()


@pytest.mark.parametrize("prepend_bos", [None, True, False])
def test_a_dream_in_a_chat_reads_the_chat_with_one_bos(bridge, prepend_bos, tmp_path):
    chat = constraints.chat([{"role": "user", "content": "Tell {dream} now"}])
    settings = {"iterations": 2, "children": 6, "length": 3, "progress": False, "prepend_bos": prepend_bos}
    run = dl.dream("L1.N3", bridge, constraints=[chat, constraints.round_trip()], **settings)
    scorer, prompt = run.session.scorer, run.frontier.best()
    row = scorer.frame.rows(np.array([prompt.ids]), scorer.model)[0]
    tokenizer = chatty()
    whole = tokenizer.apply_chat_template(
        [{"role": "user", "content": f"Tell {prompt.text} now"}], tokenize=False, add_generation_prompt=True
    )
    expected = tokenizer(whole.removeprefix("<|endoftext|>"), add_special_tokens=False)["input_ids"]
    assert row.tolist() == [0, *expected]  # whoever supplies the BOS
    _, cache = bridge.run_with_cache(torch.from_numpy(row)[None])
    assert prompt.value == pytest.approx(float(cache["blocks.1.mlp.hook_post"][0, -1, 3]), abs=1e-4)
    run.save(tmp_path / "run")
    assert dl.load_run(tmp_path / "run").constraints == (chat, constraints.round_trip())


def test_json_values():
    chat = constraints.chat([{"role": "user", "content": "ä {dream}"}], False, tools=[{"name": "f"}])
    assert from_dict(json.loads(json.dumps(to_dict(chat)))) == chat
    assert chat.describe() == "inside the chat 'user: ä {dream}'"
    assert eval(chat.code(), {"dl": dl}) == chat
