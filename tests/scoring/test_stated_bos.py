"""Prompts and templates that state their BOS or end with special tokens: one BOS, from every entry, as the plain model
computes it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

import dreamy_lens as dl
from dreamy_lens.cli.main import main
from dreamy_lens.errors import ConstraintError, PromptError, RunFolderError
from dreamy_lens.models import as_hooked
from dreamy_lens.panels.messages import PromptInspector
from dreamy_lens.scoring import prompts
from tests.helpers.by_hand import Pass
from tests.helpers.models import BOS, Family
from tests.helpers.scorers import make_scorer

FEATURE = "L1.N3"
TEXT = "the dog and the cat"
CHAT = "{% for m in messages %}{{ bos_token }}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"


@torch.no_grad()
def by_hand(family: Family, ids: list[int], predicted: int, after: int = 0) -> tuple[float, float]:
    """Value of the feature at the last position of a row, and cross-entropy of the tokens before the last `after`."""
    row = Pass(family, torch.tensor([ids]))
    value = row.mlp_post(1)[0, -1, 3]
    logits = row.logits[0, len(ids) - after - predicted - 1 : len(ids) - after - 1]
    targets = torch.tensor(ids[len(ids) - after - predicted : len(ids) - after])
    return float(value), float(torch.nn.functional.cross_entropy(logits, targets))


def chat_tokenizer(family: Family) -> PreTrainedTokenizerFast:
    tokenizer = copy.deepcopy(family.tokenizer)
    tokenizer.chat_template = CHAT
    return tokenizer


def test_a_score_has_one_bos_whatever_states_it(family):
    ids = family.tokenizer.encode(TEXT, add_special_tokens=False)
    row = [family.bos, *ids]
    expected = by_hand(family, row, len(ids))
    assert family.tokenizer.encode(BOS + TEXT, add_special_tokens=False) == row
    for prompt in (
        TEXT,
        BOS + TEXT,
        ids,
        row,
        np.array([row]),
        torch.tensor([row]),
        family.tokenizer(TEXT)["input_ids"],
    ):
        scores = dl.score(FEATURE, prompt, family.bridge, prepend_bos=True)
        assert (scores.value[0], scores.cross_entropy[0]) == pytest.approx(expected, rel=1e-4), prompt
    # Without a BOS before every prompt, the stated one is a token of the prompt, and the row is the same.
    scores = dl.score(FEATURE, [BOS + TEXT, TEXT], family.bridge, prepend_bos=False)
    assert (scores.value[0], scores.cross_entropy[0]) == pytest.approx(expected, rel=1e-4)
    assert (scores.value[1], scores.cross_entropy[1]) == pytest.approx(by_hand(family, ids, len(ids) - 1), rel=1e-4)


def test_special_tokens_at_the_end_stay(family):
    ids = family.tokenizer.encode(TEXT + BOS, add_special_tokens=False)
    assert ids[-1] == family.bos
    expected = by_hand(family, [family.bos, *ids], len(ids))
    for prompt in (TEXT + BOS, BOS + TEXT + BOS, ids):
        scores = dl.score(FEATURE, prompt, family.bridge, prepend_bos=True)
        assert (scores.value[0], scores.cross_entropy[0]) == pytest.approx(expected, rel=1e-4)
    attribution = dl.attribution(FEATURE, BOS + TEXT + BOS, family.bridge, k=2, prepend_bos=True)
    assert attribution.ids.tolist() == ids and attribution.value == pytest.approx(expected[0], rel=1e-4)
    with pytest.raises(ConstraintError, match="special or unused, and cannot stand in a prompt"):
        dl.dream(FEATURE, family.bridge, start=TEXT + BOS, iterations=1, prepend_bos=True)


def test_a_prompt_of_the_bos_alone_is_no_prompt(gpt2):
    for use in (dl.score, dl.attribution, dl.explore):
        with pytest.raises(PromptError, match="only the BOS"):
            use(FEATURE, BOS, gpt2.bridge)


@pytest.mark.parametrize("stated", [False, True])
def test_a_template_has_one_bos(family, stated):
    text = chat_tokenizer(family).apply_chat_template([{"role": "user", "content": "{dream}"}], tokenize=False)
    assert text == f"{BOS}user: {{dream}}{BOS}"
    before, after = text.split("{dream}")
    prefix = family.tokenizer.encode(before, add_special_tokens=False)
    suffix = family.tokenizer.encode(after, add_special_tokens=False)
    assert prefix[0] == family.bos and suffix == [family.bos]
    template = dl.constraints.template(text if stated else text.removeprefix(BOS))
    settings = {"length": 4, "iterations": 2, "population": 2, "children": 4}
    run = dl.dream(FEATURE, family.bridge, constraints=template, prepend_bos=True, **settings)
    assert run.provenance.prefix == tuple(prefix[1:]) and run.provenance.suffix == tuple(suffix)
    for prompt in run.frontier:
        expected = by_hand(family, [*prefix, *prompt.ids, *suffix], len(prompt.ids), len(suffix))
        assert (prompt.value, prompt.cross_entropy) == pytest.approx(expected, rel=1e-4)
        assert prompt.attribution(k=2).value == pytest.approx(expected[0], rel=1e-4)
    ids = list(run.frontier[0].ids)
    scores = dl.score(FEATURE, ids, family.bridge, prepend_bos=True, prefix=prefix, suffix=suffix)
    assert scores.value[0] == pytest.approx(run.frontier[0].value, rel=1e-4)
    round_trip = [template, dl.constraints.round_trip()]
    assert len(dl.dream(FEATURE, family.bridge, constraints=round_trip, prepend_bos=True, **settings).frontier)


def test_a_template_that_states_a_bos_where_there_is_none_keeps_it(neox):
    template = dl.constraints.template(BOS + "{dream}")
    run = dl.dream(FEATURE, neox.bridge, constraints=template, length=4, iterations=1, population=2, children=4)
    assert not run.provenance.prepend_bos and run.provenance.prefix == (neox.bos,)
    prompt = run.frontier[0]
    expected = by_hand(neox, [neox.bos, *prompt.ids], 4)
    assert (prompt.value, prompt.cross_entropy) == pytest.approx(expected, rel=1e-4)


def test_a_start_has_one_bos(gpt2, tmp_path):
    ids = gpt2.tokenizer.encode(TEXT, add_special_tokens=False)
    small = {"iterations": 1, "population": 1, "children": 2, "lambda_min": 1.0, "lambda_max": 1.0}
    for start in (TEXT, BOS + TEXT, [gpt2.bos, *ids]):
        run = dl.dream(FEATURE, gpt2.bridge, start=start, **small)
        assert run.history.ids[0].tolist() == ids
        expected = by_hand(gpt2, [gpt2.bos, *ids], len(ids))
        assert (run.history.value[0], run.history.cross_entropy[0]) == pytest.approx(expected, rel=1e-4)
    # Behind a template, a BOS is not the first token, and a start cannot contain it.
    with pytest.raises(ConstraintError, match="special or unused"):
        template = dl.constraints.template("user: {dream}")
        dl.dream(FEATURE, gpt2.bridge, start=BOS + TEXT, constraints=template, **small)
    only_bos = dl.constraints.template(BOS + "{dream}")
    assert (
        dl.dream(FEATURE, gpt2.bridge, start=BOS + TEXT, constraints=only_bos, **small).history.ids[0].tolist() == ids
    )


def test_a_bos_is_not_fixed_behind_a_bos(gpt2):
    fixed = dl.constraints.fix({0: BOS})
    small = {"length": 4, "iterations": 1, "population": 2, "children": 4}
    with pytest.raises(ConstraintError, match=r"fix\(\) puts the BOS at position 0.*prepend_bos=False"):
        dl.dream(FEATURE, gpt2.bridge, constraints=fixed, **small)
    prompt = dl.dream(FEATURE, gpt2.bridge, constraints=fixed, prepend_bos=False, **small).frontier[0]
    assert prompt.ids[0] == gpt2.bos
    assert (prompt.value, prompt.cross_entropy) == pytest.approx(by_hand(gpt2, list(prompt.ids), 3), rel=1e-4)


def test_windows_of_a_corpus_have_one_bos(gpt2):
    ids = gpt2.tokenizer.encode(TEXT, add_special_tokens=False)
    examples = dl.max_activating(
        FEATURE, gpt2.bridge, [BOS + TEXT + BOS], length=len(ids), progress=False, cache=False, prepend_bos=True
    )
    (window,) = examples[0].top
    assert list(window.ids) == ids
    expected = by_hand(gpt2, [gpt2.bos, *ids], len(ids))
    assert (window.value, window.cross_entropy) == pytest.approx(expected, rel=1e-3)


def test_prompts_of_panels_have_one_bos(gpt2):
    plain = make_scorer(FEATURE, gpt2.bridge)
    inspector = PromptInspector(lambda: plain, lambda ids, ks: iter(()))
    ids = gpt2.tokenizer.encode(TEXT, add_special_tokens=False)
    assert inspector.ids({"type": "edit", "text": BOS + TEXT}).tolist() == ids
    assert inspector.ids({"type": "edit", "text": TEXT + BOS}).tolist() == [*ids, gpt2.bos]
    (a,) = gpt2.tokenizer.encode("a", add_special_tokens=False)
    tried = inspector.ids({"type": "try", "ids": ids, "position": 0, "text": BOS + "a"})
    assert tried.tolist() == [a, *ids[1:]]
    with pytest.raises(PromptError, match="at least one token"):
        inspector.ids({"type": "edit", "text": BOS})
    panel = dl.explore(FEATURE, BOS + TEXT, gpt2.bridge)
    assert panel._ids.tolist() == ids


def test_the_command_line_has_one_bos(capsys):
    hooked = as_hooked()
    bos = hooked.vocabulary.text(hooked.bos(True))
    outputs = []
    for text in ("Return a copy", bos + "Return a copy"):
        assert main(["attribute", "L2.N17", text, "-k", "2"]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]


def test_a_run_that_was_made_behind_two_bos_is_read_but_not_continued(gpt2, tmp_path, monkeypatch):
    monkeypatch.setattr(prompts, "strip_bos", lambda ids, bos: ids)  # as it was before
    small = {"length": 4, "iterations": 1, "population": 2, "children": 4}
    template = dl.constraints.template(BOS + "{dream}")
    dl.dream(FEATURE, gpt2.bridge, constraints=template, save_to=tmp_path / "run", **small)
    monkeypatch.undo()
    run = dl.load_run(tmp_path / "run", gpt2.bridge)
    assert len(run.frontier)
    with pytest.raises(RunFolderError, match="second BOS before a template"):
        run.resume(1)
