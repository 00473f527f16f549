"""Companions of a run in its folder: baselines and starred prompts come back, and those of another run do not."""

from __future__ import annotations

import json

import pytest
import torch

import dreamy_lens as dl
from dreamy_lens.panels import DreamPanel
from tests.helpers import models
from tests.helpers.dreams import dream


def test_starred_prompts_are_in_the_folder(gpt2, tmp_path):
    run = dream(gpt2.bridge, save_to=tmp_path / "run")
    first, *_, last = run.frontier
    run.starred = [last, first]
    loaded = dl.load_run(tmp_path / "run", gpt2.bridge)
    assert loaded.starred == [last, first]
    assert loaded.starred[0].attribution(k=3).value == pytest.approx(last.value, rel=1e-4)
    assert len(DreamPanel(loaded).view_state["stars"]) == 2
    # Saving the run to another folder copies them, even if they have not been read.
    dl.load_run(tmp_path / "run", gpt2.bridge).save(tmp_path / "copy")
    assert dl.load_run(tmp_path / "copy", gpt2.bridge).starred == [last, first]
    loaded.starred = []
    assert dl.load_run(tmp_path / "run", gpt2.bridge).starred == []
    assert dl.load_run(tmp_path / "copy", gpt2.bridge).starred == [last, first]


def test_what_is_starred_before_the_run_is_saved_is_saved_with_it(gpt2, tmp_path):
    run = dream(gpt2.bridge)
    run.starred = [run.frontier[0]]
    dl.baselines(run, prompts=8)
    run.save(tmp_path / "run")
    loaded = dl.load_run(tmp_path / "run", gpt2.bridge)
    assert loaded.starred == run.starred and str(loaded.baselines) == str(run.baselines)


def test_those_of_another_run_in_the_folder_are_not_read(gpt2, tmp_path):
    run = dream(gpt2.bridge, save_to=tmp_path / "run")
    run.starred = list(run.frontier[:1])
    other = dream(gpt2.bridge, seed=5)
    other.save(tmp_path / "run", overwrite=True)
    assert other.starred == [] and dl.load_run(tmp_path / "run", gpt2.bridge).starred == []


def test_those_of_other_weights_of_the_same_name_are_not_read(tmp_path):
    bridges = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        raw = models.raw_model("gpt2")
        with torch.no_grad():
            raw.transformer.wte.weight.add_(seed)
        bridges.append(models.new_bridge("gpt2", raw))
    run = dream(bridges[0], save_to=tmp_path / "run")
    dl.baselines(run, prompts=8)
    assert dl.load_run(tmp_path / "run", bridges[0]).baselines is not None
    other = dream(bridges[1])
    assert other.provenance.model == run.provenance.model and other.config.length == run.config.length
    other.save(tmp_path / "run", overwrite=True)
    assert other.baselines is None and dl.load_run(tmp_path / "run", bridges[1]).baselines is None


@pytest.mark.parametrize("content", ["{", json.dumps({"format": "dreamy_lens starred prompts", "version": 1}), "[]"])
def test_a_damaged_companion_is_said_and_the_run_is_read_without_it(gpt2, tmp_path, content):
    run = dream(gpt2.bridge, save_to=tmp_path / "run")
    (tmp_path / "run" / "starred.json").write_text(content)
    loaded = dl.load_run(tmp_path / "run", gpt2.bridge)
    with pytest.warns(RuntimeWarning, match=r"starred\.json.* The run is used without it"):
        assert loaded.starred == []
    assert list(loaded.frontier) == list(run.frontier)
