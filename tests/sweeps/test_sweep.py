"""Sweeps: every run equals the dream with its seed, wherever it was made, and no run is made twice."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dreamy_lens as dl
from dreamy_lens.api.sweep import sweep
from dreamy_lens.cluster import SharedFolder
from dreamy_lens.errors import (
    ClusterError,
    FeatureSyntaxError,
    ModelError,
    RunFolderError,
    SettingsError,
    UnknownHookError,
)
from dreamy_lens.results import merge
from dreamy_lens.search import hypervolume
from dreamy_lens.sweeps import Sweep, runner
from tests.helpers import models
from tests.helpers.dreams import SMALL, dream, same

FEATURES = ["L1.N3", "L0.N5"]
SETTINGS = [{}, {"length": 4}]
QUICK = SMALL | {"iterations": 3}


def made(out: Any, model: Any = None, features: Any = FEATURES, **settings: Any) -> Sweep:
    model = models.family("gpt2").bridge if model is None else model
    return sweep(features, model, out=out, **(QUICK | {"seeds": [0, 1]} | settings))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    return made(tmp_path_factory.mktemp("sweep") / "whole", settings=SETTINGS)


class counted:
    """Count the runs that are saved from now on, and interrupt the sweep after `interrupt_after` of them."""

    def __init__(self, patch: pytest.MonkeyPatch, interrupt_after: int | None = None) -> None:
        self.saved: list[str] = []
        keep = runner.Runner.keep

        def kept(self_: Any, result: dict[str, Any]) -> dict[str, Any]:
            self.saved.append(result["name"])
            written = keep(self_, result)
            if len(self.saved) == interrupt_after:
                raise KeyboardInterrupt
            return written

        patch.setattr(runner.Runner, "keep", kept)


# The content of a sweep.


def test_every_run_is_the_dream_of_its_seed(whole, gpt2):
    assert len(whole) == 8 and whole.seeds == [0, 1] and whole.settings == ["", "length=4"]
    expected = [(f, s, seed) for f in FEATURES for s in SETTINGS for seed in (0, 1)]
    for run, (feature, setting, seed) in zip(whole, expected, strict=True):
        assert (run.feature, run.config.seed) == (dl.parse(feature), seed)
        same(run.history, dream(gpt2.bridge, feature, iterations=3, seed=seed, **setting).history)
    assert [run.config.seed for run in whole[1:3]] == [1, 0] and whole[-1] is whole[7]


def test_runs_of_a_feature_and_of_settings(whole):
    some = whole.of("L0.N5", length=4)
    assert len(some) == 2 and some[0] is whole[6] and repr(some).startswith("Sweep(2 of 2 runs: 1 feature x 1 setting")
    assert [run.config.seed for run in whole.of(seed=1)] == [1] * 4
    merged = whole.merged(dl.neuron(0, 5), length=4)
    assert merged.frontier == merge(some).frontier and len(merged) == 2
    with pytest.raises(SettingsError, match=r"differ in feature"):
        whole.merged()
    with pytest.raises(SettingsError, match=r"This sweep has no runs of L1\.N7; its features are: L1\.N3, "):
        whole.of("L1.N7")
    with pytest.raises(SettingsError, match="This sweep has no runs with length=9; there are: 5, 4"):
        whole.of(length=9)
    with pytest.raises(SettingsError, match="There is no setting 'lenght'; there are: seed, iterations"):
        whole.of(lenght=4)


def test_the_table_has_a_row_for_each_run(whole):
    table = whole.to_pandas()
    assert list(table["seed"]) == [0, 1] * 4 and set(table["status"]) == {"done"} and not any(table["error"])
    assert list(table["length"]) == [5, 5, 4, 4] * 2
    for (_, row), run in zip(table.iterrows(), whole, strict=True):
        best = run.frontier.best()
        assert row["feature"] == run.feature_label and row["prompts"] == len(run.history)
        np.testing.assert_allclose([row["value"], row["cross_entropy"]], [best.value, best.cross_entropy], rtol=1e-6)
        assert row["seconds"] == run.history.seconds[-1] and row["frontier"] == len(run.frontier)
        runs = [one for one in whole if one.feature == run.feature]
        low, high = (min(r.history.value.min() for r in runs), max(r.history.cross_entropy.max() for r in runs))
        f = run.frontier
        np.testing.assert_allclose(row["hypervolume"], hypervolume(f.values, f.cross_entropies, (low, high)), rtol=1e-5)
    assert len(whole.failed) == 0
    html = whole._repr_html_()
    assert "length=4" in html and html.count("<tr") == 9 and "Sweep(8 of 8 runs" in html


def test_settings_named_as_results_keep_their_own_columns(gpt2, tmp_path):
    small = {"iterations": 1, "length": 4}
    variants = [{"seconds": 50, "search": "epo"}, {"prompts": 300, "search": "random"}, {"length": (3, 4)}]
    sweep = dl.sweep("L1.N3", gpt2.bridge, settings=variants, out=tmp_path / "s", progress=False, **small)
    table = sweep.to_pandas()
    assert table["seconds setting"][0] == 50 and table["prompts setting"][1] == 300
    assert (table["seconds"] < 50).all() and (table["prompts"] < 10_000).all()
    assert table["search"].tolist() == ["EPO", "RandomSearch", "FrontierSearch"]
    assert [len(sweep.of(length=length)) for length in ((3, 4), [3, 4], 4)] == [1, 1, 2]
    assert [len(sweep.of(search=name)) for name in ("epo", "EPO", "frontier", dl.RandomSearch())] == [1, 1, 1, 1]
    with pytest.raises(SettingsError, match="no runs with search='gcg'; there are: 'EPO', 'RandomSearch'"):
        sweep.of(search="gcg")


def test_a_sweep_is_opened_again(whole, gpt2):
    again = Sweep.load(whole.where, gpt2.bridge)
    assert (
        repr(again)
        == repr(whole)
        == f"Sweep(8 of 8 runs: 2 features x 2 settings x 2 seeds on tiny-gpt2, in {whole.where!r})"
    )
    assert again.to_pandas().equals(whole.to_pandas())
    same(again[3].history, whole[3].history)
    assert again[0].resume(1, progress=False).iteration == 4
    with pytest.raises(RunFolderError, match=r"There is no sweep in .*: it has no sweep.json, or a damaged one"):
        Sweep.load(Path(whole.where) / "runs")


def test_one_feature_and_what_dreams_take(gpt2, tmp_path):
    rules, start = dl.constraints.forbid_text("dog"), np.arange(40, 50).reshape(2, 5)
    runs = made(tmp_path / "a", features="L1.N3", seeds=None, seed=5, start=start, constraints=rules)
    same(runs[0].history, dream(gpt2.bridge, iterations=3, seed=5, start=start, constraints=rules).history)
    variants = [{"constraints": [rules]}, {"start": start}]
    runs = made(tmp_path / "b", features="L1.N3", seeds=[0], settings=variants, search=dl.EPO(lambda_max=7))
    assert runs.settings == ["constraints=without the text 'dog' in any case", "start=ids"]
    assert [run.constraints for run in runs] == [(rules,), ()] and runs[0].config.lambda_max == 7


def test_several_side_by_side_are_the_same(whole, tmp_path):
    runs = made(tmp_path / "a", settings=SETTINGS, together=3)
    for run, other in zip(runs, whole, strict=True):
        np.testing.assert_array_equal(run.history.ids, other.history.ids)
        np.testing.assert_allclose(run.history.value, other.history.value, rtol=1e-5, atol=1e-6)


def test_results_go_to_urls(whole, tmp_path):
    where = f"memory://{tmp_path.name}/sweep/"
    runs = made(where, settings=SETTINGS)
    for run, other in zip(runs, whole, strict=True):
        same(run.history, other.history)
    assert len(Sweep.load(where)) == 8
    # A run that was only partly uploaded has no result, and is made again.
    place = SharedFolder(where)
    names = place.names("results")
    place.remove(f"results/{names[0]}")
    place._file_system().rm_file(place._at(f"runs/{names[0].removesuffix('.json')}/arrays.safetensors"))
    assert len(Sweep.load(where)) == 7
    same(made(where, settings=SETTINGS)[0].history, whole[0].history)


# Repeated calls.


def test_what_is_done_is_not_done_again(whole, monkeypatch, capsys):
    count = counted(monkeypatch)
    assert repr(made(whole.where, settings=[{"length": 5}, {"length": 4}], progress=True)) == repr(whole)
    assert count.saved == [] and "8/8" in capsys.readouterr().err


def test_seeds_may_be_added(tmp_path, monkeypatch):
    first = made(tmp_path / "a", seeds=[3])
    count = counted(monkeypatch)
    more = made(tmp_path / "a", seeds=range(3, 5))
    assert len(count.saved) == 2 and all("seed-4" in name for name in count.saved)
    assert len(first) == 2 and len(more) == 4 and more.seeds == [3, 4]
    assert made(tmp_path / "a", seeds=[4]).seeds == [3, 4] and len(count.saved) == 2


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"features": ["L1.N3"]}, "it has 2 features, and 1 were requested"),
        ({"features": ["L1.N3", "L0.N6"]}, r"its features\[1\] is '.*5\]', and '.*6\]' was requested"),
        ({"population": 2}, r"its settings\[0\]: config: population is 3, and 2 was requested"),
        ({"settings": [{}, {"start": "a"}]}, r"its settings\[1\]: config: length is 4, and 5 was requested"),
        ({"model": "neox"}, "its model: name is 'tiny-gpt2', and 'tiny-neox' was requested"),
        ({"fluency_model": "llama"}, "its fluency_model is None, and {'name': 'tiny-llama'"),
    ],
)
def test_another_sweep_is_not_mixed_into_it(whole, other, message):
    there = {name: models.family(other.pop(name)).bridge for name in ("model", "fluency_model") if name in other}
    with pytest.raises(RunFolderError, match=f"is another one: {message}.*; choose another folder"):
        made(whole.where, **({"settings": SETTINGS} | there | other))


def test_a_model_of_the_same_name_with_other_weights_is_another_one(whole):
    bridge = models.new_bridge("gpt2", models.raw_model("gpt2"))
    assert len(made(whole.where, bridge, settings=SETTINGS)) == 8
    next(iter(bridge.parameters())).data[0] += 1
    with pytest.raises(RunFolderError, match="its model: digest is"):
        made(whole.where, bridge, settings=SETTINGS)


def test_a_folder_in_which_nothing_was_done_is_free(tmp_path):
    with pytest.raises(UnknownHookError):
        made(tmp_path / "a", features=["L1.N3", "L7.N3"])
    assert len(made(tmp_path / "a", features=["L1.N3"])) == 2


def test_folders_that_hold_something_else(tmp_path, whole):
    whole[0].save(tmp_path / "run")
    with pytest.raises(RunFolderError, match="holds a single run; choose another folder"):
        made(tmp_path / "run")
    made(tmp_path / "a", seeds=[0])
    (tmp_path / "a" / "sweep.json").write_text("{")
    with pytest.raises(RunFolderError, match="is damaged"):
        made(tmp_path / "a", seeds=[0])
    for change, message in (({"version": 99}, "format version 99"), ({"format": 1}, "not the manifest of a sweep")):
        manifest = json.loads((Path(whole.where) / "sweep.json").read_text())
        (tmp_path / "a" / "sweep.json").write_text(json.dumps(manifest | change))
        with pytest.raises(RunFolderError, match=message):
            Sweep.load(tmp_path / "a")


def test_results_that_were_altered_are_made_again(tmp_path, whole, monkeypatch):
    made(tmp_path / "a")
    results = sorted((tmp_path / "a" / "results").iterdir())
    results[0].write_text(results[0].read_text()[:-20])
    results[1].write_text(json.dumps({"name": results[1].stem, "status": "done"}))
    runs = sorted((tmp_path / "a" / "runs").iterdir())
    os.rename(runs[2], tmp_path / "away")
    count = counted(monkeypatch)
    assert len(Sweep.load(tmp_path / "a")) == 1
    assert len(made(tmp_path / "a")) == 4 and len(count.saved) == 3


# Interrupts and errors.


def test_an_interrupt_keeps_what_is_finished(tmp_path, monkeypatch, whole, capsys):
    with pytest.MonkeyPatch.context() as patch:
        counted(patch, interrupt_after=3)
        runs = made(tmp_path / "a", settings=SETTINGS)
    assert len(runs) == 3 and list(runs.to_pandas()["status"]) == ["done"] * 3 + ["missing"] * 5
    assert "Interrupted after 2 of 8 runs; they are kept" in capsys.readouterr().err
    count = counted(monkeypatch)
    for run, other in zip(made(tmp_path / "a", settings=SETTINGS), whole, strict=True):
        same(run.history, other.history)
    assert len(count.saved) == 5


def test_an_interrupt_in_the_middle_of_a_run(tmp_path, monkeypatch):
    from tests.helpers.dreams import interrupt_after

    with interrupt_after(2):
        runs = made(tmp_path / "a")
    assert len(runs) == 0 and not (tmp_path / "a" / "runs").exists()
    assert len(made(tmp_path / "a")) == 4


def test_a_run_that_fails_is_reported_and_the_others_go_on(tmp_path, whole):
    settings = [{}, {"start": "the " * 80}, {"length": 4}]
    with pytest.warns(RuntimeWarning, match="4 of 12 runs failed; the Sweep's .failed says why"):
        runs = made(tmp_path / "a", settings=settings, together=2)
    assert len(runs) == 8 and "8 of 12 runs, 4 failed" in repr(runs)
    assert list(runs.failed["seed"]) == [0, 1] * 2 and all("length=5 was" in error for error in runs.failed["error"])
    assert all(text.startswith("start=the the") for text in runs.failed["settings"])
    np.testing.assert_array_equal(runs[2].history.ids, whole[2].history.ids)


def test_runs_that_cannot_be_saved_have_failed_and_stay_in_memory(tmp_path, monkeypatch, whole):
    save, full = dl.runs.dream.Dream.save, [1, 2]

    def broken(self: Any, *rest: Any, **more: Any) -> Any:
        if full:
            raise OSError(full.pop(), "No space left on device")
        return save(self, *rest, **more)

    monkeypatch.setattr(dl.runs.dream.Dream, "save", broken)
    with pytest.warns(RuntimeWarning, match=r"2 of 4 runs failed; .* \.unsaved has 2 runs in memory"):
        runs = made(tmp_path / "a")
    assert len(runs) == 2 and all("No space left" in error for error in runs.failed["error"])
    for run, other in zip(runs.unsaved, whole, strict=False):
        same(run.history, other.history)
    again = made(tmp_path / "a")
    assert len(again) == 4 and not again.unsaved and not len(again.failed)


@pytest.mark.parametrize("what", ["the run", "the result", "everything"])
def test_a_run_that_vanishes_while_the_sweep_goes_on_has_failed(tmp_path, monkeypatch, what):
    from dreamy_lens.sweeps.runner import Runner

    run, calls = Runner.run, []

    def removing(self: Any, *rest: Any) -> Any:
        if calls:  # the first run is saved
            folder = tmp_path / "a"
            if what == "the result":
                next((folder / "results").iterdir()).unlink()
            else:
                shutil.rmtree(next((folder / "runs").iterdir()) if what == "the run" else folder)
        calls.append(1)
        return run(self, *rest)

    monkeypatch.setattr(Runner, "run", removing)
    with pytest.warns(RuntimeWarning, match="of 4 runs failed; the Sweep's .failed says why"):
        runs = made(tmp_path / "a")
    assert 1 <= len(runs.failed) == 4 - len(runs) and runs.failed["error"].str.contains("was removed").all()
    with monkeypatch.context() as patch:
        patch.setattr(Runner, "run", run)
        again = made(tmp_path / "a")
    assert len(again) == 4 and not len(again.failed) and len(dl.sweeps.Sweep.load(tmp_path / "a")) == 4


def test_a_run_that_was_removed_later_has_failed(tmp_path):
    made(tmp_path / "a")
    shutil.rmtree(next((tmp_path / "a" / "runs").iterdir()))
    runs = dl.sweeps.Sweep.load(tmp_path / "a")
    assert len(runs) == 3 and list(runs.failed["error"].str.contains("was removed after the run was saved")) == [True]


def test_two_sweeps_into_one_folder_at_the_same_time_are_refused(tmp_path, monkeypatch):
    from dreamy_lens.sweeps.runner import Runner

    run, seen = Runner.run, []

    def also(self: Any, *rest: Any) -> Any:
        with pytest.raises(RunFolderError, match=r"Another process works on the sweep in .*: wait until it ends"):
            made(tmp_path / "a", features=["L1.N9"])
        seen.append(1)
        return run(self, *rest)

    monkeypatch.setattr(Runner, "run", also)
    assert len(made(tmp_path / "a")) == 4 and len(seen) == 4
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["results", "runs", "sweep.json"]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"features": []}, SettingsError, "The list of features is empty"),
        ({"features": ["L1.N3", dl.neuron(1, 3)]}, SettingsError, "is given twice"),
        ({"features": ["L1.N3 +"]}, FeatureSyntaxError, "L1.N3"),
        ({"seeds": 0}, SettingsError, "seeds is 0; give the number of seeds, at least 1"),
        ({"seeds": []}, SettingsError, "seeds is empty"),
        ({"settings": {"population": 4}}, SettingsError, "settings is a list of dictionaries"),
        ({"settings": []}, SettingsError, "settings is empty"),
        ({"settings": [{"seed": 4}]}, SettingsError, r"settings has a seed; give seeds=\[...\]"),
        ({"settings": [{}, {"length": 5}]}, SettingsError, r"settings\[1\] makes the same runs as settings\[0\]"),
        ({"settings": [{"populatoin": 5}]}, SettingsError, "did you mean population"),
        ({"together": 0}, SettingsError, "together is 0"),
        (
            {"workers": 2},
            SettingsError,
            r"is an option of RayConfig: give ray=RayConfig\(workers=",
        ),
        ({"ray": 7}, SettingsError, "ray is 7; use ray=True for a cluster that starts by itself"),
        ({"model": "no/such/folder"}, ModelError, "There is no folder"),
        ({"dtype": "float16"}, SettingsError, "in memory already"),
    ],
)
def test_bad_input_is_said_before_anything_is_searched(tmp_path, given, error, message):
    with pytest.raises(error, match=message):
        made(tmp_path / "a", **given)
    assert not (tmp_path / "a" / "results").exists()


def test_a_worker_checks_where_it_is(tmp_path, monkeypatch):
    runs = made(tmp_path / "a", features="L1.N3", seeds=[0])
    place = SharedFolder(tmp_path / "a")
    mark = json.loads((tmp_path / "a" / "sweep.json").read_text())["mark"]
    plan: Any = None
    for wrong, message in (
        ({"mark": "x"}, "does not see the sweep's folder"),
        ({"place": SharedFolder(tmp_path / "b")}, "name a folder that all machines share"),
        ({"version": "0.0"}, "install the same version on all machines"),
    ):
        with pytest.raises(ClusterError, match=message):
            runner.Runner(**({"plan": plan, "place": place, "mark": mark} | wrong)).ready()
    assert len(runs) == 1


def test_a_sweep_of_a_version_without_some_setting_goes_on(tmp_path):
    search = dl.FrontierSearch(iterations=2, children=20, parents=3, samples=16, length=5)
    settings: dict[str, Any] = {"search": search, "seeds": [0], "progress": False, "out": tmp_path / "sweep"}
    bridge = models.family("gpt2").bridge
    dl.sweep(FEATURES[0], bridge, **settings)
    manifest = tmp_path / "sweep" / "sweep.json"
    content = json.loads(manifest.read_text())
    assert content["settings"][0]["config"].pop("diversity") == 0.0
    manifest.write_text(json.dumps(content))
    assert len(dl.sweep(FEATURES[0], bridge, **{**settings, "seeds": [0, 1]})) == 2
    with pytest.raises(RunFolderError, match=r"diversity is 0\.0, and 0\.5 was requested"):
        dl.sweep(FEATURES[0], bridge, **{**settings, "search": dataclasses.replace(search, diversity=0.5)})
