"""`dl.load` and `dreamy-lens show` open whatever was saved, and several runs have what one run has."""

from __future__ import annotations

import json

import pandas as pd
import pytest

import dreamy_lens as dl
from dreamy_lens.cli.main import main
from dreamy_lens.errors import RunFolderError, SettingsError
from dreamy_lens.panels import RunsPanel
from dreamy_lens.results import merge

SMALL = {"iterations": 1, "population": 2, "children": 4, "top_k": 16, "length": 4}
TEXTS = ["Return a copy of the array, with axes transposed.", "Raise an error if the file is not found."]


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> dict:
    """Everything that can be saved, with the path at which it is."""
    folder = tmp_path_factory.mktemp("saved")
    runs = dl.dream("L2.N17", seeds=2, save_to=folder / "Dreams", **SMALL)
    merged, attribution = merge(runs), runs[0].frontier.best().attribution(k=2)
    results = {
        "Dream": (runs[0], runs[0].save(folder / "Dream")),
        "Dreams": (runs, folder / "Dreams"),
        "Sweep": (dl.sweep(["L2.N17", "L3.N5"], seeds=2, out=folder / "Sweep", **SMALL), folder / "Sweep"),
        "Examples": (
            dl.max_activating("L2.N17", corpus=TEXTS, length=4, k=4, out=folder / "Examples"),
            folder / "Examples",
        ),
    }
    compared = dl.compare(runs, results["Examples"][0])
    for name, result in {
        "Comparison": compared,
        "Frontier": merged.frontier,
        "Merged": merged,
        "Attribution": attribution,
    }.items():
        results[name] = result, result.save(folder / f"{name}.json")
    return results


KINDS = ["Dream", "Dreams", "Sweep", "Examples", "Frontier", "Merged", "Attribution", "Comparison"]


@pytest.mark.parametrize("kind", KINDS)
def test_one_function_and_one_command_open_everything(saved, kind, capsys, tmp_path):
    result, path = saved[kind]
    opened = dl.load(path)
    assert type(opened).__name__ == kind and len(opened.to_pandas()) == len(result.to_pandas())
    assert dl.load(str(path)).to_pandas().shape == opened.to_pandas().shape
    assert main(["show", str(path), "--csv", str(tmp_path / "table.csv")]) == 0
    out = capsys.readouterr().out
    assert "L2.N17" in out or kind in ("Frontier", "Merged", "Attribution")
    assert "value" in out or kind in ("Examples", "Attribution")
    assert len(pd.read_csv(tmp_path / "table.csv")) == len(result.to_pandas())


def test_what_is_not_there_is_told(tmp_path, saved):
    with pytest.raises(RunFolderError, match=r"There is no folder .* Runs in .*: Dream\."):
        dl.load(saved["Dream"][1].parent / "Draem")
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "other.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(RunFolderError, match=r"without a run \(run\.json\).*it has: notes\.txt, other\.json"):
        dl.load(tmp_path)
    for name in ("notes.txt", "other.json"):
        with pytest.raises(RunFolderError, match="is a file, and not one of a frontier"):
            dl.load(tmp_path / name)


def test_several_runs_go_on_from_their_folder(saved):
    runs, path = saved["Dreams"]
    opened = dl.load(path)
    assert [run.config.seed for run in opened] == [0, 1] and opened.resume(1).iteration == 2
    assert list(opened[0].history.value[: len(runs[0].history)]) == list(runs[0].history.value)


def test_several_runs_have_a_frontier_a_figure_and_a_page(saved, tmp_path):
    runs, _ = saved["Dreams"]
    assert runs.frontier == merge(runs).frontier and len(runs.plot().data) >= 3
    page = runs.to_html(tmp_path / "runs.html")
    assert (
        (tmp_path / "runs.html").read_text(encoding="utf-8") == page and "Dreams of" in page and "seed 1" in repr(runs)
    )
    assert repr(RunsPanel(runs)) == "RunsPanel(L2.N17, 2 runs, done)"
    several = dl.dream(["L2.N17", "L3.N5"], **SMALL)
    assert "runs.of(feature)" in repr(several) and "runs.of" not in repr(runs)
    for read in (lambda: several.frontier, several.plot):
        with pytest.raises(SettingsError, match=r"2 features \(L2\.N17, L3\.N5\).*runs\.of\(feature\)"):
            read()
    assert several.of("L3.N5").frontier == several[1].frontier


def test_a_number_of_seeds_is_that_many_seeds(tmp_path):
    assert [run.config.seed for run in dl.dream("L2.N17", seeds=2, **SMALL)] == [0, 1]
    assert dl.sweep("L2.N17", seeds=2, out=tmp_path / "sweep", **SMALL).seeds == [0, 1]
    for wrong in (0, -1, True):
        with pytest.raises(SettingsError, match="give the number of seeds, at least 1"):
            dl.dream("L2.N17", seeds=wrong, **SMALL)
