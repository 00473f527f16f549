"""Every study at toy size: its numbers against independent ones, its folder, its settings."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import dreamy_lens as dl
from dreamy_lens.errors import CorpusError, FeatureError, ModelError, RunFolderError, SettingsError, TokenError
from dreamy_lens.models.load import as_hooked
from dreamy_lens.results import StudyResult
from dreamy_lens.runs.dream import Dream
from dreamy_lens.scoring.prompts import uniform_prompts
from dreamy_lens.search.pareto import hypervolume
from dreamy_lens.studies.catalogue import STUDIES, study_function
from dreamy_lens.studies.directions import random_directions
from dreamy_lens.studies.execution import spaced
from dreamy_lens.studies.paper import TABLE_5, default_neurons, layer_at
from dreamy_lens.studies.prompt_scores import prompt_scores
from dreamy_lens.studies.residual_study import SLACKS, ScoredPool
from dreamy_lens.studies.scaling_study import parameter_count
from tests.helpers.models import family

TEXTS = [
    "The dog runs over the hill and the cat sleeps in the house, over and over.",
    "She said that the big red house over there was her own house.",
    "Once upon a time there was a little bird, and it had a red house.",
]
SEARCH = dl.EPO(iterations=2, population=2, children=6, top_k=16)
SMALL: dict[str, Any] = {"search": SEARCH, "length": 5, "progress": False}
VERDICTS = {"holds", "does not hold", "measured", "not measured"}


def checked(study: StudyResult, name: str) -> StudyResult:
    """A result with what every study has."""
    assert study.name == name and len(study.table) and study.claims and study.charts
    assert {claim.verdict for claim in study.claims} <= VERDICTS
    assert "<svg" in study.to_html() and "<script" not in study.to_html()
    assert study.table.columns[-1] != "ids" and str(study)
    return study


# The studies on the trained model of the shared folder.


def test_seeds_on_a_trained_model(stories, tmp_path):
    settings = {**SMALL, "feature": "L1.N60", "seeds": 3}
    study = checked(dl.studies.seeds(stories.bridge, out=tmp_path, limit=20.0, **settings), "seeds")
    runs = dl.load(tmp_path / "runs", stories.bridge)
    assert study.table["best_value"].tolist() == [run.frontier[-1].value for run in runs]
    references = [run.history.reference() for run in runs]
    reference = min(v for v, _ in references), max(c for _, c in references)
    joint = runs.merged().frontier.hypervolume(reference)
    shares = [run.frontier.hypervolume(reference) / joint for run in runs]
    assert study.table["share_of_joint"].tolist() == pytest.approx(shares) and max(shares) <= 1
    assert study.tables["groups"]["prompts"].sum() == 3
    assert dl.load(tmp_path).to_html() == study.to_html()
    strict = dl.studies.seeds(stories.bridge, limit=0.1, **settings)  # no prompt is that fluent
    assert strict.table[["value", "cross_entropy"]].isna().all(axis=None) and (strict.table["group"] == "").all()
    assert strict.table["best_value"].tolist() == study.table["best_value"].tolist()
    assert not len(strict.tables["groups"]) and strict.claims[3].verdict == "does not hold"


def test_groups_of_one_prompt_each_are_no_groups():
    from dreamy_lens.studies.prompt_grouping import PromptGroup
    from dreamy_lens.studies.seed_study import SeedStudy, _claims

    frame = pd.DataFrame({"best_value": [1.0] * 4, "value": 1.0, "cross_entropy": 2.0, "share_of_joint": 0.5})

    def verdict(*members: tuple[int, ...]) -> str:
        groups = [PromptGroup(str(i), "word", each, (), str(i)) for i, each in enumerate(members)]
        return _claims(SeedStudy(), {"seeds": frame}, groups, "L2.N5")[3].verdict

    assert verdict((0,), (1,), (2,), (3,)) == "does not hold" == verdict((0, 1), (2,), (3,))
    assert verdict((0, 1), (2, 3)) == "holds"


def test_what_names_groups_is_checked_before_any_run_and_its_failure_loses_none(gpt2, monkeypatch):
    from dreamy_lens.studies.prompt_grouping import PromptGroup

    def broken(prompt: str) -> str:
        raise ValueError("no answer")

    for wrong in ({"llm": "http://localhost:1/v1"}, {"names": "x"}):
        with pytest.raises(SettingsError, match=f"^{next(iter(wrong))} is"):
            dl.studies.seeds("no/such/model", **wrong)
    with pytest.raises(CorpusError):
        dl.studies.seeds(gpt2.bridge, feature="L99.N99", corpus="nofile.txt")
    settings = {**SMALL, "feature": "L1.N3", "seeds": 4, "limit": 30.0}
    one = PromptGroup("x", "n-gram", (0, 1, 2, 3))
    monkeypatch.setattr("dreamy_lens.studies.seed_study.group_by_ending", lambda *_: [one])
    study = dl.studies.seeds(gpt2.bridge, llm=broken, **settings)
    assert len(study.table) == 4 and any("no names of a language model" in note for note in study.notes)


def test_seeds_are_grouped_by_mechanisms_too(gpt2):
    study = checked(dl.studies.seeds(gpt2.bridge, feature="L1.N3", seeds=2, groups="mechanisms", **SMALL), "seeds")
    assert study.claims[-1].name == "groups by mechanisms" and "can be driven to" in study.claims[-1].found
    table = study.tables["mechanisms"]
    assert len(table) and table["prompts"].min() > 0 and table["text"].str.len().min() > 0


def test_neurons_and_their_attributions(gpt2):
    settings = {**SMALL, "features": ["L0.N6", "L1.N3"], "substitutes": 4}
    study = checked(dl.studies.neurons(gpt2.bridge, **settings), "neurons")
    for label, own in study.tables["attributions"].groupby("feature"):
        text = study.table.set_index("feature").loc[label, "text"]
        assert len(own) == 5 and "".join(own["token"]).strip() == str(text).strip()
        assert (own["drop_to_worst"] >= own["drop_to_best"]).all()
    assert study.table["feature"].tolist() == ["L0.N6", "L1.N3"]


def test_dreams_against_data_are_those_of_a_comparison(gpt2):
    study = dl.studies.against_data(gpt2.bridge, features=["L1.N3"], corpus=TEXTS, k=4, limit=99.0, **SMALL)
    checked(study, "against_data")
    examples = dl.max_activating("L1.N3", gpt2.bridge, TEXTS, length=5, k=4, cache=False, progress=False)
    row = study.table.iloc[0]
    assert row["window"] == pytest.approx(examples.of(0).top[0].value)
    assert row["fluent_window"] == row["window"] and row["fluent_dream"] == row["dream"]
    run = dl.dream("L1.N3", gpt2.bridge, wait=True, **SMALL)
    assert row["dream"] == pytest.approx(run.frontier[-1].value, rel=1e-5)
    assert study.claims[0].verdict == ("holds" if row["dream"] > row["window"] else "does not hold")
    assert len(study.tables["windows"]) == 4


def test_cross_entropies_of_windows_are_those_of_the_plain_model(stories):
    study = dl.studies.corpus_fluency(
        stories.bridge, corpus=TEXTS, lengths=[2, 5, 10**6], windows=6, random=3, length=5, progress=False
    )
    checked(study, "corpus_fluency")
    assert study.table["length"].tolist() == [2, 5] and "1000000 tokens do not fit" in study.notes[0]
    from dreamy_lens.analysis.baselines import windows_of_corpus

    hooked = as_hooked(stories.bridge)
    rows, _ = windows_of_corpus(TEXTS, hooked.vocabulary, 6, 5, 0)
    ids = torch.tensor(np.concatenate([np.full((len(rows), 1), stories.bos), rows], axis=1))
    with torch.no_grad():
        logs = stories.raw(ids).logits.float().log_softmax(-1)
    expected = -logs[:, :-1].gather(2, ids[:, 1:, None])[..., 0].mean(1).double().numpy()
    row = study.table.set_index("length").loc[5]
    assert row["mean"] == pytest.approx(expected.mean(), rel=1e-4)
    assert row["deviation"] == pytest.approx(expected.std(ddof=1), rel=1e-3)


def test_targets_are_predicted_without_their_letters(gpt2):
    study = checked(dl.studies.token_logits(gpt2.bridge, tokens=["he"], seeds=1, **SMALL), "token_logits")
    assert all("he" not in text.lower() for text in study.tables["prompts"]["text"])
    rules = [dl.constraints.forbid_text("he")]
    run = dl.dream(dl.logit_difference("he"), gpt2.bridge, constraints=rules, wait=True, **SMALL)
    assert study.table["best_value"][0] == pytest.approx(run.frontier[-1].value, rel=1e-5)
    ids = torch.tensor([[gpt2.bos, *run.frontier[-1].ids]])
    with torch.no_grad():
        logits = gpt2.raw(ids).logits[0, -1].float()
    target = gpt2.tokenizer("he", add_special_tokens=False)["input_ids"][0]
    known = logits[: len(gpt2.tokenizer)]
    others = torch.cat([known[:target], known[target + 1 :]])
    assert study.table["best_value"][0] == pytest.approx(float(known[target] - others.max()), rel=1e-3)
    with pytest.raises(TokenError):
        dl.studies.token_logits(gpt2.bridge, tokens=["several words here"], **SMALL)
    for wrong in ([], [3]):
        with pytest.raises(SettingsError, match="a list of texts of one token"):
            dl.studies.token_logits(gpt2.bridge, tokens=wrong, **SMALL)


def test_targets_that_a_model_lacks_are_replaced_with_a_note(gpt2):
    study = dl.studies.token_logits(
        gpt2.bridge, seeds=1, **{**SMALL, "search": dl.RandomSearch(iterations=0, children=4)}
    )
    assert len(study.table) == 3 == study.table["token"].nunique() and "has no token" in study.notes[0]


def test_alignments_have_the_scale_of_baselines(gpt2):
    settings = {**SMALL, "layers": [0, 1], "directions": 1, "prompts": 32, "corpus": TEXTS, "k": 3}
    study = checked(dl.studies.residual(gpt2.bridge, **settings), "residual")
    width = as_hooked(gpt2.bridge).d_model
    rows = study.tables["directions"].set_index(["layer", "method"])
    for layer in (0, 1):
        (feature,) = random_directions(width, layer, 1, 0)
        known = dl.baselines(feature, gpt2.bridge, TEXTS, length=5, prompts=32, windows=999).random
        for method in ("random prompts", "corpus windows", "dreams"):
            row = rows.loc[(layer, method)]
            assert row["z"] == pytest.approx(known.z(row["value"]), rel=1e-3)
        assert rows.loc[(layer, "random prompts"), "value"] == pytest.approx(known.values.max(), rel=1e-5)
    assert study.table["directions"].tolist() == [1] * 6
    curves = study.tables["slack"].groupby(["layer", "method"])["cross_entropy"]
    assert all((np.diff(values) <= 1e-9).all() for _, values in curves)


def test_a_direction_is_equation_4_of_the_plain_model(gpt2):
    (feature,) = random_directions(32, 0, 1, 7)
    rows = np.array([[5, 9, 7], [30, 2, 8]])
    found = prompt_scores([feature, dl.parse("L1.N3")], as_hooked(gpt2.bridge), rows)
    ids = torch.tensor(np.concatenate([np.full((2, 1), gpt2.bos), rows], axis=1))
    with torch.no_grad():
        stream = gpt2.raw(ids, output_hidden_states=True).hidden_states[1][:, -1].double().numpy()
    unit = np.random.default_rng([7, 0]).standard_normal((1, 32))[0]
    standard = (stream - stream.mean(1, keepdims=True)) / stream.std(1, keepdims=True)
    assert found.values[:, 0] == pytest.approx(standard @ (unit / np.linalg.norm(unit)), rel=1e-3)
    assert found.values[:, 1] == pytest.approx(dl.score("L1.N3", rows, gpt2.bridge).value, abs=1e-6)


@pytest.mark.parametrize("name", ["gemma2", "neox"])
def test_values_of_many_features_keep_the_order_of_the_features(name):
    features = ["L1.N3", 'logit("he")', "L0.N2", "L1.N1", "blocks.0.hook_resid_post[-1, 3]"]
    bridge = family(name).bridge
    hooked, rows = as_hooked(bridge), uniform_prompts(as_hooked(bridge).vocabulary.allowed, 4, 3, 0)
    found = prompt_scores([dl.parse(f) for f in features], hooked, rows)
    for i, feature in enumerate(features):
        scores = dl.score(feature, rows, bridge)
        np.testing.assert_allclose(found.values[:, i], scores.value, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.cross_entropy, scores.cross_entropy, rtol=1e-4)


def test_slack_is_the_lowest_cross_entropy_near_the_top():
    pool = ScoredPool(np.array([5.0, 4.6, 3.0, 0.0]), np.array([9.0, 8.0, 4.0, 2.0]))
    curve = dict(zip(SLACKS, pool.slack(1.0).tolist(), strict=True))
    assert curve[0.0] == 9.0 and curve[0.5] == 8.0 and curve[2.0] == 4.0 == curve[4.0]
    assert pool.best(4.0) == (3.0, 4.0) and math.isnan(pool.best(1.0)[0])
    assert np.isnan(ScoredPool(np.empty(0), np.empty(0)).slack(1.0)).all()


def test_searches_are_compared_by_equal_areas(gpt2):
    searches = {"epo": SEARCH, "random": dl.RandomSearch(children=8)}
    settings = {**SMALL, "search": None, "searches": searches, "features": "L1.N3", "seeds": 2, "iterations": 2}
    study = checked(dl.studies.optimisers(gpt2.bridge, seconds=60.0, cap=20.0, **settings), "optimisers")
    runs = study.tables["runs"]
    assert runs["relative"].max() == 1 and (runs["relative"] >= 0).all()
    run = dl.dream("L1.N3", gpt2.bridge, search=SEARCH, length=5, seed=1, wait=True, progress=False)
    row = runs[(runs["search"] == "epo") & (runs["seed"] == 1)].iloc[0]
    area = hypervolume(run.history.value, run.history.cross_entropy, (row["floor"], 20.0))
    assert row["hypervolume"] == pytest.approx(area, rel=1e-4)
    for _, curve in study.tables["curves"].groupby("search"):
        assert (np.diff(curve["hypervolume"]) >= 0).all()
    assert study.claims[0].name == "random against epo" and "search" not in study.settings


@pytest.mark.parametrize(("took", "verdict"), [((3.0, 3.1), "holds"), ((0.5, 3.0), "not measured")])
def test_searches_that_took_different_times_get_no_verdict(took: tuple[float, float], verdict: str):
    from dreamy_lens.studies.optimiser_study import _claims

    rows = [
        {"search": name, "feature": "L1.N3", "seed": seed, "hypervolume": area + 0.1 * seed}
        for name, area in (("a", 1.0), ("b", 2.0))
        for seed in range(3)
    ]
    (claim,) = _claims(pd.DataFrame(rows), dict(zip("ab", took, strict=True)))
    assert claim.verdict == verdict and ("no equal time" in claim.found) == (verdict != "holds")


@pytest.mark.parametrize("name", ["gpt2", "neox", "llama", "gemma2"])
def test_parameters_are_those_of_the_hugging_face_model(name):
    assert parameter_count(as_hooked(family(name).bridge)) == sum(p.numel() for p in family(name).raw.parameters())


def test_models_of_several_sizes_are_compared(stories, gpt2, tmp_path):
    models = [stories.bridge, gpt2.bridge]
    settings = {**SMALL, "directions": 1, "prompts": 16, "out": tmp_path}
    study = checked(dl.studies.scaling(models, **settings), "scaling")
    assert study.table["layers"].tolist() == [5, 2]
    assert study.table["parameters"].tolist() == [
        sum(p.numel() for p in model.raw.parameters()) for model in (stories, gpt2)
    ]
    assert dl.load(tmp_path).table["z"].tolist() == study.table["z"].tolist()
    with pytest.raises(SettingsError, match="list of models is empty"):
        dl.studies.scaling([], **SMALL)
    with pytest.raises(SettingsError, match="in the list twice"):
        dl.studies.scaling([gpt2.bridge, gpt2.bridge], **SMALL)
    with pytest.raises(ModelError, match="nosuch"):
        dl.studies.scaling([gpt2.bridge, "./nosuch"], **SMALL)


# Folders.


@contextlib.contextmanager
def interrupted_at_step(number: int) -> Iterator[None]:
    """The user presses Ctrl-C at a step, counted over all runs."""
    take, steps = Dream.take, itertools.count(1)

    def taken(run: Any, step: Any) -> None:
        take(run, step)
        if next(steps) == number:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Dream, "take", taken)
        yield


def test_a_study_goes_on_where_it_was_and_takes_more_seeds(gpt2, tmp_path):
    settings = {**SMALL, "feature": "L1.N3", "out": tmp_path / "study"}
    first = dl.studies.seeds(gpt2.bridge, seeds=1, **settings)
    done = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "study" / "runs" / "runs").iterdir()}
    more = dl.studies.seeds(gpt2.bridge, seeds=2, **settings)
    now = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "study" / "runs" / "runs").iterdir()}
    assert len(done) == 1 and len(now) == 2 and done.items() <= now.items()
    assert more.table["best_value"][0] == first.table["best_value"][0] and len(dl.load(tmp_path / "study").table) == 2
    again = dl.studies.seeds(gpt2.bridge, seeds=1, **settings)
    assert len(again.table) == 1 and again.settings["seeds"] == 1  # of the two in the folder
    for wrong, said in (({"length": 6}, "has length=5, and 6 was asked for"), ({"feature": "L1.N4"}, "has feature=")):
        with pytest.raises(RunFolderError, match=said):
            dl.studies.seeds(gpt2.bridge, **{**settings, **wrong})
    with pytest.raises(RunFolderError, match="holds the study seeds"):
        dl.studies.neurons(gpt2.bridge, **{**SMALL, "out": tmp_path / "study"})
    with pytest.raises(RunFolderError, match="something else than a study"):
        dl.studies.seeds(gpt2.bridge, **{**settings, "out": tmp_path / "study" / "runs"})
    with pytest.raises(SettingsError, match="not at a URL"):
        dl.studies.seeds(gpt2.bridge, **{**settings, "out": "s3://bucket/study"})
    (tmp_path / "study" / "study-plan.json").write_text("{")
    with pytest.raises(RunFolderError, match="is damaged"):
        dl.studies.seeds(gpt2.bridge, **settings)


def test_an_interrupted_study_says_what_is_missing_and_goes_on(gpt2, tmp_path, caplog):
    caplog.set_level("INFO", "dreamy_lens")
    from tests.helpers.dreams import interrupt_after

    settings = {**SMALL, "feature": "L1.N3", "seeds": 2, "out": tmp_path}
    with interrupt_after(1), pytest.raises(KeyboardInterrupt):
        dl.studies.seeds(gpt2.bridge, **{**settings, "progress": None})
    assert "was interrupted. The same call with the same folder goes on with it." in caplog.text
    with pytest.raises(RunFolderError, match="a study that has not ended"):
        dl.load(tmp_path)
    with interrupted_at_step(4):
        part = dl.studies.seeds(gpt2.bridge, **settings)
    assert len(part.table) == 1 and "1 of 2 runs are finished, and only these are counted. Repeat" in part.notes[0]
    assert {claim.verdict for claim in part.claims} <= {"measured", "not measured"}
    assert len(dl.studies.seeds(gpt2.bridge, **settings).table) == 2


def test_an_interrupt_begins_no_further_part_of_a_study(gpt2, tmp_path):
    settings = {**SMALL, "features": "L1.N3", "seeds": 2, "seconds": 60, "out": tmp_path}
    del settings["search"]
    searches = {"first": SEARCH, "second": SEARCH}
    with interrupted_at_step(5), pytest.raises(KeyboardInterrupt):
        dl.studies.optimisers(gpt2.bridge, searches=searches, **settings)
    assert {p.name for p in tmp_path.iterdir() if p.is_dir()} == {"runs-first"}
    assert set(dl.studies.optimisers(gpt2.bridge, searches=searches, **settings).table["runs"]) == {2}


def test_a_folder_keeps_its_study(gpt2, stories, tmp_path):
    small = {"corpus": TEXTS, "lengths": [2, 4], "length": 4, "windows": 8, "random": 4, "progress": False}
    study = dl.studies.corpus_fluency(gpt2.bridge, out=tmp_path / "a", **small)
    before = (tmp_path / "a" / "study.json").read_bytes()
    with pytest.raises(RunFolderError, match="of another model"):
        dl.studies.corpus_fluency(stories.bridge, out=tmp_path / "a", **small)
    with pytest.raises(RunFolderError, match=r"of another corpus|has corpus="):
        dl.studies.corpus_fluency(gpt2.bridge, out=tmp_path / "a", **{**small, "corpus": TEXTS[:2]})
    other = dl.studies.neurons(gpt2.bridge, features="L1.N3", **SMALL)
    with pytest.raises(RunFolderError, match="holds the study corpus_fluency; choose another folder for neurons"):
        other.save(tmp_path / "a")
    assert (tmp_path / "a" / "study.json").read_bytes() == before
    study.save(tmp_path / "a")
    (tmp_path / "a" / "lengths.parquet").unlink()
    with pytest.raises(RunFolderError, match=r"the file lengths\.parquet is missing"):
        dl.load(tmp_path / "a")


def test_a_text_file_that_has_changed_is_another_corpus(gpt2, tmp_path):
    small = {"lengths": [2, 4], "length": 4, "windows": 8, "random": 4, "progress": False, "out": tmp_path / "a"}
    file = tmp_path / "text.txt"
    file.write_text(" ".join(TEXTS))
    dl.studies.corpus_fluency(gpt2.bridge, corpus=str(file), **small)
    dl.studies.corpus_fluency(gpt2.bridge, corpus=str(file), **small)
    file.write_text(" ".join(TEXTS) + " And more of it.")
    with pytest.raises(RunFolderError, match="of another corpus"):
        dl.studies.corpus_fluency(gpt2.bridge, corpus=str(file), **small)


def test_a_call_that_failed_leaves_its_folder_free(gpt2, tmp_path):
    with pytest.raises(FeatureError):
        dl.studies.seeds(gpt2.bridge, feature="L99.N1", seeds=1, out=tmp_path, **SMALL)
    settings = {**SMALL, "length": 4, "seeds": 1, "out": tmp_path}
    study = dl.studies.seeds(gpt2.bridge, feature="L1.N3", **settings)
    for same in (dl.neuron(1, 3), "blocks.1.mlp.hook_post[-1, 3]"):
        assert dl.studies.seeds(gpt2.bridge, feature=same, **settings).table.equals(study.table)


# Settings and names.


def test_neurons_of_the_paper_are_at_the_same_depth_and_alive(gpt2):
    hooked = as_hooked(gpt2.bridge)
    chosen = default_neurons(hooked, 12)
    assert len(chosen) == len(TABLE_5) == len(set(chosen))
    values = prompt_scores(chosen, hooked, uniform_prompts(hooked.vocabulary.allowed, 1024, 12, 0)).values
    assert ((values > 0).mean(axis=0) >= 0.01).all()
    assert [layer_at(n, 36) for n, _ in TABLE_5] == [2, 7, 12, 17, 22, 27] and layer_at(35, 1) == 0
    assert spaced(6, 7) == list(range(6)) and spaced(32, 7)[0] == 0 and spaced(32, 7)[-1] == 31


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_refuses_settings_that_do_not_exist_before_it_loads_a_model(name):
    function = study_function(name)
    assert getattr(dl.studies, name) is function and function.__doc__
    for wrong, said in (
        ({"lenght": 5}, "did you mean length"),
        ({"length": 0}, "at least 1"),
        ({"limit": -1}, "above 0"),
    ):
        with pytest.raises(SettingsError, match=said):
            function("no/such/model", **wrong)
    with pytest.raises(SettingsError, match="quick is True or False"):
        function("no/such/model", quick=3)
    with pytest.raises(SettingsError, match=r"There is no search|search has no effect in this study"):
        function("no/such/model", search="hill")
    with pytest.raises(SettingsError) as wrong:
        function("no/such/model", qqq=3)
    assert str(wrong.value).count("length") <= 2  # each setting is named once


def test_a_study_s_own_settings_are_checked():
    for call in (
        lambda: dl.studies.seeds(seeds=0),
        lambda: dl.studies.seeds(groups="colour"),
        lambda: dl.studies.residual(layers=[]),
        lambda: dl.studies.residual(layers=0),
        lambda: dl.studies.corpus_fluency(lengths=[0]),
        lambda: dl.studies.optimisers(searches={}),
        lambda: dl.studies.optimisers(searches={"a/b": "epo"}),
        lambda: dl.studies.optimisers(seconds=None),
        lambda: dl.studies.scaling(depth=2),
        lambda: dl.studies.neurons(features=[]),
        lambda: dl.studies.optimisers(search="gcg"),
        lambda: dl.studies.corpus_fluency(seconds=1),
        lambda: dl.studies.corpus_fluency(ray=True),
        lambda: dl.studies.seeds(search=dl.EPO(iterations=1, length=6)),
    ):
        with pytest.raises(SettingsError):
            call()
    with pytest.raises(FeatureError):
        dl.studies.neurons(features=["L99.N1"], **SMALL)
    with pytest.raises(AttributeError, match="it has: token_logits, neurons"):
        _ = dl.studies.neuron


def test_a_quick_study_has_its_own_settings_which_the_user_may_replace():
    from dreamy_lens.studies.seed_study import SeedStudy

    assert (SeedStudy().seeds, SeedStudy().searched.iterations, SeedStudy().searched.population) == (60, 300, 8)
    assert SeedStudy(length=6, search=dl.EPO(length=6)).searched.length == 6 == SeedStudy(length=6).searched.length
    quick = SeedStudy.chosen(True, {"seeds": 5})
    assert (quick.seeds, quick.seconds, quick.searched.iterations) == (5, 20.0, 300)
    assert SeedStudy.chosen(False, {"search": "frontier", "iterations": 7}).searched.iterations == 7
