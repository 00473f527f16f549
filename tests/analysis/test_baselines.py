"""Baselines: what random prompts and corpus windows reach, and where a dream stands."""

from __future__ import annotations

import itertools
import math
import pickle
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import dreamy_lens as dl
from dreamy_lens.errors import CorpusError, FeatureError, PromptError, RunFolderError, SettingsError
from dreamy_lens.models.load import as_hooked
from dreamy_lens.results import Baselines, Prompt, Provenance
from dreamy_lens.results.baselines import distinct_share, longest_repeat
from tests.helpers.dreams import dream
from tests.helpers.models import family, new_bridge

TEXTS = ["The dog runs over the hill and the cat sleeps in the house.", "She said that the big red house was her own."]
FEATURE = "blocks.1.hook_resid_post[-1, 3]"


def prompt_of(ids, model, value: float, cross_entropy: float = 2.0) -> Prompt:
    origin = Provenance(FEATURE, "tiny", seed=0, iteration=1, prepend_bos=True)
    return Prompt.decode(ids, value, cross_entropy, as_hooked(model).vocabulary, origin)


def test_numbers_are_those_of_plain_scores(gpt2):
    found = dl.baselines(FEATURE, gpt2.bridge, TEXTS, prompts=40, length=4, seed=3, batch_size=16)
    same = dl.baselines(FEATURE, gpt2.bridge, TEXTS, prompts=40, length=4, seed=3)
    np.testing.assert_allclose(found.random.values, same.random.values, atol=1e-5)
    other = dl.baselines(FEATURE, gpt2.bridge, prompts=40, length=4, seed=4)
    assert other.corpus is None and not np.allclose(found.random.values, other.random.values)
    # All windows of so small a corpus are taken, each once.
    ids = [gpt2.tokenizer.encode(text, add_special_tokens=False) for text in TEXTS]
    ids = [[i for i in row if i != gpt2.bos] for row in ids]
    windows = {tuple(row[i : i + 4]) for row in ids for i in range(0, len(row) - 3, 4)}
    values = dl.score(FEATURE, np.array(sorted(windows)), gpt2.bridge).value
    np.testing.assert_allclose(np.sort(found.corpus.values), np.sort(values), atol=1e-5)
    assert found.corpus.mean == pytest.approx(values.mean(), abs=1e-5)
    assert found.corpus.deviation == pytest.approx(values.std(ddof=1), abs=1e-5)
    assert found.corpus.quantile(1) == pytest.approx(values.max(), abs=1e-5)
    value = float(values.max())
    z = (value - values.mean()) / values.std(ddof=1)
    assert found.z(value)["corpus windows"] == pytest.approx(z, rel=1e-4)
    assert found.corpus.above(found.corpus.quantile(1)) == pytest.approx(1 / len(values))
    frame = found.to_pandas()
    assert frame["count"].tolist() == [40, len(values)] and frame["name"].tolist() == [
        "random prompts",
        "corpus windows",
    ]


def test_random_prompts_have_only_tokens_that_may_stand_in_a_prompt_inside_the_template(gpt2):
    values = dl.baselines("blocks.0.hook_resid_pre[0, 0]", gpt2.bridge, prompts=2000, length=1).random.values
    allowed = np.flatnonzero(as_hooked(gpt2.bridge).vocabulary.allowed)
    single = dl.score("blocks.0.hook_resid_pre[0, 0]", allowed[:, None], gpt2.bridge).value
    assert set(np.round(values, 4)) <= set(np.round(single, 4))
    assert len(set(np.round(values, 4))) > 0.9 * len(set(np.round(single, 4)))
    inside = dl.baselines(FEATURE, gpt2.bridge, prompts=8, length=3, suffix=[9, 9])
    outside = dl.baselines(FEATURE, gpt2.bridge, prompts=8, length=3)
    assert not np.allclose(inside.random.values, outside.random.values)


def test_the_table_has_a_row_for_each_prompt(gpt2):
    held_out = new_bridge("gpt2", gpt2.raw)
    held_out.add_hook("blocks.1.hook_resid_post", lambda x, hook: x.roll(1, -1))
    found = dl.baselines(FEATURE, gpt2.bridge, TEXTS, prompts=16, length=4, fluency_model=held_out)
    prompts = [
        prompt_of(ids, gpt2.bridge, v) for ids, v in (([5, 9, 5, 9], 1.0), ([5, 9, 7, 30, 2], 2.0), ([8, 3, 1, 4], 0.5))
    ]
    table = found.of(prompts)
    assert table["value"].tolist() == [1.0, 2.0, 0.5]
    assert table["z_random"].tolist() == [found.random.z(v) for v in (1.0, 2.0, 0.5)]
    assert table["z_corpus"].tolist() == [found.corpus.z(v) for v in (1.0, 2.0, 0.5)]
    expected = [float(dl.score(FEATURE, list(p.ids), held_out).cross_entropy[0]) for p in prompts]
    np.testing.assert_allclose(table["held_out_cross_entropy"], expected, atol=1e-5)
    own = [float(dl.score(FEATURE, list(p.ids), gpt2.bridge).cross_entropy[0]) for p in prompts]
    assert not np.allclose(own, expected, atol=1e-3)
    assert table["longest_repeat"].tolist() == [2, 0, 0] and table["distinct"].tolist() == [2 / 3, 1.0, 1.0]
    assert len(found.of(prompts[0])) == 1 and len(found.of([])) == 0
    for wrong in ("a text", np.array([5, 9]), ["a text"]):
        with pytest.raises(PromptError, match="which have values"):
            found.of(wrong)


def test_repetition_equals_a_plain_search_for_equal_parts():
    rng = np.random.default_rng(0)
    for n in range(12):
        for _ in range(20):
            ids = rng.integers(0, 3, n).tolist()
            parts = [
                (length, i, j) for length in range(1, n) for i, j in itertools.combinations(range(n - length + 1), 2)
            ]
            expected = max((length for length, i, j in parts if ids[i : i + length] == ids[j : j + length]), default=0)
            assert longest_repeat(ids) == expected
    assert math.isnan(distinct_share([1])) and distinct_share([1, 1, 1], 1) == 1 / 3


def test_baselines_are_plain_data(gpt2, tmp_path):
    found = dl.baselines(FEATURE, gpt2.bridge, TEXTS, prompts=16, length=4)
    loaded = dl.load(found.save(tmp_path / "baselines.json"))
    assert isinstance(loaded, Baselines) and str(loaded) == str(found) and repr(loaded) == repr(found)
    pd.testing.assert_frame_equal(loaded.to_pandas(), found.to_pandas())
    assert str(pickle.loads(pickle.dumps(found))) == str(found)
    assert "corpus windows (2 texts)" in str(found) and "<table" in found._repr_html_()
    (tmp_path / "damaged.json").write_text('{"format": "dreamy_lens baselines", "version": 1}')
    with pytest.raises(RunFolderError, match="no complete baselines"):
        Baselines.load(tmp_path / "damaged.json")


def test_a_run_keeps_its_baselines_and_its_tables_have_the_scores(gpt2, tmp_path):
    run = dream(gpt2.bridge, FEATURE, constraints=dl.constraints.template(" the {dream} is"), save_to=tmp_path / "run")
    assert run.baselines is None and "z, random" not in str(run.frontier)
    found = dl.baselines(run, corpus=TEXTS, prompts=40, fluency_model=gpt2.bridge)
    assert run.baselines is found and found.length == run.config.length and found.around
    origin, front = run.provenance, run.frontier
    around = {"prefix": origin.prefix, "suffix": origin.suffix, "length": run.config.length}
    np.testing.assert_array_equal(
        found.random.values, dl.baselines(FEATURE, gpt2.bridge, prompts=40, **around).random.values
    )
    # The numbers of the table, from plain scores.
    frame = front.to_pandas()
    ids = np.array([p.ids for p in front])
    held_out = dl.score("mean_cross_entropy()", ids, gpt2.bridge).cross_entropy
    values, mean = found.random.values.astype(float), found.random.values.astype(float).mean()
    np.testing.assert_allclose(frame["held_out_cross_entropy"], held_out, atol=1e-5)
    np.testing.assert_allclose(frame["z_random"], (front.values - mean) / values.std(ddof=1), rtol=1e-5)
    assert list(frame["longest_repeat"]) == [longest_repeat(p.ids) for p in front]
    for shown in (str(front), str(run), str(front[:1]), str(front.spread(2)), str(front.hull())):
        assert re.search(r"z, random +z, corpus +held-out +repeats +text", shown)
    for shown in (front._repr_html_(), run._repr_html_()):
        assert "<th>z, random</th><th>z, corpus</th><th>held-out</th><th>repeats</th><th>text</th>" in shown
    assert "z, random" not in str(front.calibrated(None))
    # They are in the run's folder, also after the run goes on; new prompts have no held-out score until asked for.
    loaded = dl.load_run(tmp_path / "run", gpt2.bridge)
    assert str(loaded.baselines) == str(found) and str(loaded.frontier) == str(front)
    longer = loaded.resume(30, progress=False).frontier
    new = [p.ids not in found.known_held_out for p in longer]
    assert any(new) and list(longer.to_pandas()["held_out_cross_entropy"].isna()) == new
    held_out_cells = [row[-3] for row in longer.table()[1]]
    assert [cell == "-" for cell in held_out_cells] == new
    found.of(longer)
    assert not longer.calibrated(found).to_pandas()["held_out_cross_entropy"].isna().any()
    # Another run in the folder, here in another template, does not get them.
    other = dream(gpt2.bridge, FEATURE)
    other.save(tmp_path / "run", overwrite=True)
    assert other.baselines is None and dl.load_run(tmp_path / "run", gpt2.bridge).baselines is None


def test_a_run_has_its_own_settings_for_baselines(gpt2):
    run = dream(gpt2.bridge, FEATURE, iterations=1)
    with pytest.raises(SettingsError, match="The run has its own length and prepend_bos; leave it out"):
        dl.baselines(run, length=4, prepend_bos=False)
    with pytest.raises(SettingsError, match=r"The run has its own model; .* Texts are given as corpus="):
        dl.baselines(run, gpt2.bridge, prompts=4)
    with pytest.raises(SettingsError, match="prompts is 1"):
        dl.baselines(run, prompts=1)


def test_what_cannot_be_measured_is_refused(gpt2):
    for settings in ({"length": 0}, {"prompts": 1}, {"windows": 1}, {"seed": -1}, {"prompt": 3}):
        with pytest.raises(SettingsError):
            dl.baselines(FEATURE, gpt2.bridge, **settings)
    with pytest.raises(CorpusError, match="0 different windows of 30 tokens"):
        dl.baselines(FEATURE, gpt2.bridge, ["too short"], length=30, prompts=2)
    with pytest.raises(PromptError, match="context is 64"):
        dl.baselines(FEATURE, gpt2.bridge, length=200, prompts=2)
    with pytest.raises(FeatureError, match="different tokenizers"):
        dl.baselines(FEATURE, gpt2.bridge, fluency_model=dl.load_model(), prompts=2)
    with pytest.raises(FeatureError, match="no baseline"):
        nothing = dl.custom(
            "nothing", [FEATURE.partition("[")[0]], lambda a: a[FEATURE.partition("[")[0]][:, -1, 0] / 0
        )
        dl.baselines(nothing, family("gpt2").bridge, prompts=4, length=3)


def test_the_example_of_the_documentation_runs(tmp_path, monkeypatch):
    page = Path(__file__).resolve().parents[2] / "docs" / "baselines.md"
    if not page.is_file():
        pytest.skip("the documentation is not part of this copy")
    monkeypatch.chdir(tmp_path)
    example = "".join(re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S))
    names: dict = {}
    exec(example.replace("iterations=2, ", "iterations=1, population=2, children=4, search=dl.EPO(), "), names)
    assert len(names["known"].of(names["run"].frontier)) == len(names["run"].frontier)
    assert "z, corpus" in str(names["run"].frontier)
