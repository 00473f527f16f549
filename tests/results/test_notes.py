"""A feature that never fired is not shown as a find: panels, tables, pages and the terminal say so."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import dreamy_lens as dl
from dreamy_lens.cli.main import main
from dreamy_lens.features.meaning import is_off_at_zero, predicted_token
from dreamy_lens.panels import DreamPanel, RunsPanel
from dreamy_lens.results import merge
from dreamy_lens.results.notes import note_on_values
from tests.helpers import models

SMALL = {"iterations": 1, "population": 2, "children": 4, "top_k": 16, "length": 4}


@pytest.fixture(scope="module")
def dead() -> Any:
    """A model whose neuron L1.N3 never fires."""
    raw = models.raw_model("gpt2")
    with torch.no_grad():
        raw.transformer.h[1].mlp.c_fc.bias[3] = -1000.0
    return models.new_bridge("gpt2", raw)


@pytest.mark.filterwarnings("ignore")  # a search without a slope warns
def test_a_neuron_that_never_fired_is_said_everywhere(dead, tmp_path, capsys):
    run = dl.dream("L1.N3", dead, save_to=tmp_path / "silent", **SMALL)
    # The expression does not say whether the MLP is gated, so the note must be true of either.
    said = (
        f"L1.N3 never rose above 0 in {len(run.history):,} prompts: none of them turns it on, unless its MLP is gated, "
        "as in Llama, and it is on below 0."
    )
    pages = [run.to_html(), run.to_html(static=True), run._repr_html_(), run.frontier._repr_html_()]
    examples = dl.max_activating("L1.N3", dead, corpus=["Return a copy of the array."], length=4, k=2, cache=False)
    comparison = dl.compare(run, examples, values=False)
    pages += [DreamPanel(run).to_html(), comparison.to_html(), merge([run])._repr_html_()]
    for text in (str(run), str(run.frontier), DreamPanel(run).note, RunsPanel([run]).note, *pages):
        assert said in text
    assert "never above 0" in repr(run)
    note = run.frontier.note
    assert (
        "dreamy-lens scan" in note
        and "dream of its value before the nonlinearity, blocks.1.mlp.hook_pre[-1, 3]" in note
    )
    assert "another unit" in note and "template" not in note
    assert main(["show", str(tmp_path / "silent")]) == 0
    assert said in capsys.readouterr().out
    # A slice is not all that was found, so that nothing is said of it.
    assert run.frontier[:1].note == ""


def test_a_feature_that_fired_has_no_note():
    run = dl.dream("blocks.2.mlp.hook_post[..., 17].max()", iterations=3, population=2, children=8, length=6)
    assert run.frontier[-1].value > 1e-6
    assert run.note == "" == DreamPanel(run).note and "never" not in str(run) + repr(run)


@pytest.mark.parametrize(
    ("feature", "is_off"),
    [
        ("L2.N17", True),
        ("blocks.2.mlp.hook_post[..., 17].max()", True),
        ("2 * L2.N17", True),
        ('sae_latent("somewhere", 3)', True),
        ('sae_latent("somewhere", 3, pre_activation=true)', False),
        ("-L2.N17", False),
        ("L2.N17 - L2.N18", False),
        ("blocks.2.mlp.hook_pre[-1, 17]", False),
        ("blocks.2.hook_resid_post[-1, 17]", False),
        ('blocks.2.hook_resid_post[-1] @ "v.npy"', False),
        ('blocks.2.mlp.hook_post[-1] @ "v.npy"', False),
        ('logit(" dog")', False),
        ('log_prob(" dog")', False),
        ('logit_difference(" dog")', False),
    ],
)
def test_zero_means_off_only_for_neurons_and_latents(feature, is_off):
    assert is_off_at_zero(dl.parse(feature)) == is_off
    for best, silent in ((-0.1, is_off), (0.0, is_off), (1e-9, is_off), (0.01, False)):
        assert bool(note_on_values(feature, best, 100)) == silent


def test_the_note_of_a_latent_names_its_value_before_the_nonlinearity():
    assert 'sae_latent("sae", 3, pre_activation=true)' in note_on_values('sae_latent("some/sae", 3)', 0.0, 9)


@pytest.mark.filterwarnings("ignore")
def test_a_template_that_keeps_a_goal_out_of_reach_is_named(dead):
    feature = 'logit(" dog") - logit.runner_up(" dog")'
    assert predicted_token(dl.parse(feature)) == " dog" and predicted_token(dl.parse('logit(" dog")')) is None
    assert note_on_values(feature, -2.0, 100) == ""  # without a template, below zero is a low value like any other
    said = note_on_values(feature, -2.0, 100, in_template=True)
    assert re.search(r"never rose above 0 in 100 prompts: ' dog' was never the likeliest next token", said)
    assert "after the end of the template" in said
    run = dl.dream("L1.N3", dead, constraints=dl.constraints.template("See {dream} there."), **SMALL)
    assert "It is read after the end of the template, and not at the last token of the dream" in str(run)
