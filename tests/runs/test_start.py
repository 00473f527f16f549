"""New runs: specs in one form, runs like others from a prompt, and specs of what a scorer scores."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import dreamy_lens as dl
from dreamy_lens.errors import ConstraintError, PromptError, SettingsError
from dreamy_lens.models import as_hooked, wrap
from dreamy_lens.runs import Dream, RunSpec, from_prompt, new_run, side_by_side, spec_of_scorer
from dreamy_lens.scoring import Scorer
from dreamy_lens.search import EPO, configs_of_seeds
from tests.helpers.dreams import SMALL, dream, same

FEATURE = dl.parse("L1.N3")
SETTINGS = {name: value for name, value in SMALL.items() if name != "progress"}
CONFIG = EPO(**{**SETTINGS, "iterations": 8})


@pytest.fixture
def hooked(gpt2):
    return as_hooked(gpt2.bridge)


def test_a_spec_has_one_form_whatever_is_given(hooked):
    """A start in any form is rows of ids, which decide the length; one constraint is a tuple of one."""
    rule = dl.constraints.printable()
    spec = RunSpec.of(FEATURE, hooked, CONFIG, start=[30, 31, 32], constraints=rule)
    assert spec.start is not None and spec.start.tolist() == [[30, 31, 32]] and spec.constraints == (rule,)
    assert spec.config == dataclasses.replace(CONFIG, length=3)
    assert RunSpec.of(FEATURE, hooked, CONFIG).start is None
    with pytest.raises(PromptError, match="The start has 3 tokens, but length=5 was given"):
        RunSpec.of(FEATURE, hooked, CONFIG, start=[30, 31, 32], named={"length"})


def test_a_new_run_is_the_run_that_dream_makes(hooked, gpt2):
    run = new_run(RunSpec.of(FEATURE, hooked, CONFIG))
    assert (run.status, run.iteration, len(run.history)) == ("ready", 0, 0)
    same(run.resume(progress=False).history, dream(gpt2.bridge).history)


def test_runs_side_by_side_come_feature_by_feature_and_seed_by_seed(hooked):
    runs = side_by_side([FEATURE, dl.parse("L0.N1")], hooked, configs_of_seeds(CONFIG, [3, 1]))
    assert [(str(run.feature), run.config.seed) for run in runs] == [
        (str(feature), seed) for feature in (FEATURE, dl.parse("L0.N1")) for seed in (3, 1)
    ]


def test_a_configuration_for_each_seed():
    assert configs_of_seeds(CONFIG, None) == [CONFIG]
    assert [config.seed for config in configs_of_seeds(CONFIG, range(2))] == [0, 1]
    with pytest.raises(SettingsError, match="seeds is empty"):
        configs_of_seeds(CONFIG, [])
    with pytest.raises(SettingsError, match="Both seed= and seeds= are given"):
        configs_of_seeds(CONFIG, [1], {"seed"})


def test_a_run_like_another_starts_from_the_prompt(gpt2):
    run = dream(gpt2.bridge, iterations=2, constraints=[dl.constraints.fix({0: 40})])
    other = from_prompt(run.spec, [40, 31, 32])
    assert other.constraints == run.constraints and other.config == dataclasses.replace(run.config, length=3)
    assert other.resume(progress=False).history.ids[0].tolist() == [40, 31, 32]
    with pytest.raises(ConstraintError, match="is fixed"):
        from_prompt(run.spec, [41, 31, 32])


def test_the_spec_of_a_scorer_has_its_models_template_and_bos(hooked, tiny_fluency):
    prefix = hooked.vocabulary.encode("In short:")
    scorer = Scorer(FEATURE, hooked, fluency_model=tiny_fluency, prefix=prefix, prepend_bos=True)
    run = from_prompt(spec_of_scorer(scorer), [30, 31])
    again = run.session.scorer
    assert (again.prefix, again.suffix, again.prepend_bos) == (scorer.prefix, scorer.suffix, True)
    assert again.model is hooked and again.fluency is tiny_fluency
    np.testing.assert_allclose(again.values([30, 31]), scorer.values([30, 31]), rtol=1e-5)


@pytest.fixture
def tiny_fluency(gpt2, hooked):
    """Another model object over the same tokenizer."""
    return wrap(gpt2.bridge, "another")


# Records.


def test_a_record_is_the_run(gpt2, monkeypatch):
    """What is made of a record has the run's prompts, without a model."""
    run = dream(gpt2.bridge, iterations=3)
    again = Dream.from_record(run.record())
    assert not again.has_session and again.has_model and again.folder is None
    assert again.frontier == run.frontier and again.population == run.population and repr(again) == repr(run)
    same(again.resume(2, progress=False).history, dream(gpt2.bridge, iterations=5).history)
    bare = dataclasses.replace(run.record(), spec=dataclasses.replace(run.record().spec, model=None))
    assert not Dream.from_record(bare).has_model and Dream.from_record(bare).frontier == run.frontier
