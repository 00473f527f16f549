"""Files and folders for results: every function and command checks them before it loads a model or computes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

import dreamy_lens as dl
from dreamy_lens import errors
from dreamy_lens.cli.main import main
from dreamy_lens.results import Attribution, Frontier, Merged
from dreamy_lens.runs import Dream

MISSING_MODEL = "nobody/has-this-model"
"""Name of a model that does not exist: an error about a file shows that the file was looked at first."""

SMALL = {"iterations": 1, "population": 2, "children": 4, "top_k": 16, "length": 4}
TEXTS = ["Return a copy of the array, with axes transposed.", "Raise an error if the file is not found."]


@pytest.fixture(scope="module")
def run() -> Dream:
    return dl.dream("L2.N17", **SMALL)


@pytest.fixture(scope="module")
def results(run) -> dict:
    """Every kind of result that writes a page."""
    examples = dl.max_activating("L2.N17", corpus=TEXTS, length=4, k=4, cache=False)
    return {
        "run": run,
        "examples": examples.of(0),
        "comparison": dl.compare(run, examples),
        "card": dl.card("L2.N17", run=run, examples=examples, parts=()),
        "attribution": run.frontier.best().attribution(k=2),
        "upstream": run.frontier.best().upstream(),
        "steering": run.frontier.best().steer(strengths=3, n_tokens=0, placebos=1),
        "ablation": run.frontier.best().ablate("L1.MLP", kind="zero", placebos=1),
        "patching": run.frontier.best().patch(placebos=0, layers=[2]),
    }


CALLS = {
    "a page": lambda path: dl.card("L2.N17", MISSING_MODEL, path=path),
    "a run": lambda path: dl.dream("L2.N17", MISSING_MODEL, save_to=path),
    "several runs": lambda path: dl.dream("L2.N17", MISSING_MODEL, seeds=[0, 1], save_to=path),
    "a sweep": lambda path: dl.sweep("L2.N17", MISSING_MODEL, out=path),
    "a scan": lambda path: dl.max_activating("L2.N17", MISSING_MODEL, TEXTS, out=path),
    "the scan of a card": lambda path: dl.card("L2.N17", MISSING_MODEL, scan={"out": path}),
}
COMMANDS = {
    "dream --html": ["dream", "L2.N17", "--html"],
    "dream --out": ["dream", "L2.N17", "--out"],
    "attribute --html": ["attribute", "L2.N17", "a text", "--html"],
    "upstream --html": ["upstream", "L2.N17", "a text", "--html"],
    "steer --html": ["steer", "L2.N17", "a text", "--html"],
    "ablate --html": ["ablate", "L1.MLP", "--prompt", "a text", "--html"],
    "patch --html": ["patch", "L2.N17", "a text", "--html"],
    "scan --out": ["scan", "L2.N17", "--out"],
    "scan --html": ["scan", "L2.N17", "--html"],
    "card --html": ["card", "L2.N17", "--html"],
    "sweep --out": ["sweep", "L2.N17", "--out"],
}
SAVED = ["compare nowhere nothing --html", "show nowhere --html", "show nowhere --csv"]


@pytest.mark.parametrize("name", CALLS)
def test_functions_look_at_their_files_before_they_load_a_model(tmp_path, name):
    call = CALLS[name]
    (tmp_path / "file").write_text("a file")
    kinds = (errors.FileWriteError, errors.RunFolderError, errors.ExamplesError)
    with pytest.raises(kinds, match="Not a directory"):
        call(tmp_path / "file" / "inside")
    with pytest.raises(kinds, match=r"ends in \.svg, which stands for a picture, and a .* is written there"):
        call(tmp_path / "new.svg")
    with pytest.raises(errors.ModelError, match="has-this-model"):
        call(tmp_path / "new" / "and" / ("deep.html" if name == "a page" else "deep.1b"))  # folders are made
    left = ["file", "new"] if name == "a sweep" else ["file"]  # a sweep loads its models after its folder is made
    assert sorted(path.name for path in tmp_path.iterdir()) == left


@pytest.mark.parametrize("name", [*COMMANDS, *SAVED])
def test_commands_look_at_their_files_before_they_load_a_model(tmp_path, capsys, name):
    words = [*COMMANDS[name], "--model", MISSING_MODEL] if name in COMMANDS else name.split()
    at = words.index(name.split()[-1]) + 1
    (tmp_path / "file").write_text("a file")
    for path, said in ((tmp_path / "file" / "inside", "Not a directory"), (tmp_path / "x.png", "ends in .png")):
        assert main([*words[:at], str(path), *words[at:]]) == 1
        assert said in capsys.readouterr().err, name
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_is_taken_is_told_before_a_model_is_loaded(tmp_path, run, capsys):
    run.save(tmp_path / "one")
    dl.dream("L2.N17", seeds=[0, 1], save_to=tmp_path / "two", **SMALL)
    for folder, seeds in ((tmp_path / "one", None), (tmp_path / "two", [0, 1]), (tmp_path / "two", None)):
        with pytest.raises(errors.RunFolderError, match=r"already holds a run|is not a run folder"):
            dl.dream("L2.N17", MISSING_MODEL, seeds=seeds, save_to=folder)
    with pytest.raises(errors.RunFolderError, match="holds a single run"):
        dl.sweep("L2.N17", MISSING_MODEL, out=tmp_path / "one")
    assert main(["dream", "L2.N17", "--model", MISSING_MODEL, "--out", str(tmp_path / "two")]) == 1
    assert "is not a run folder" in capsys.readouterr().err
    # Runs that go on look at a new folder before the search, too.
    runs = dl.dream("L2.N17", seeds=[0, 1], **SMALL)
    with pytest.raises(errors.RunFolderError, match="already holds a run"):
        runs.resume(1, save_to=tmp_path / "two")
    assert runs.iteration == 1
    runs.save(tmp_path / "own")
    assert runs.resume(1, save_to=tmp_path / "own").iteration == 2


PAGES = ["run", "examples", "comparison", "card", "attribution", "upstream", "steering", "ablation", "patching"]


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_not_computed_for_a_file_that_cannot_be_written(tmp_path, results, name, monkeypatch):
    def compute(*_, **__):
        raise AssertionError("the page was computed")

    monkeypatch.setattr("dreamy_lens.html.page.document", compute)
    monkeypatch.setattr(Dream, "attributions", compute)
    (tmp_path / "file").write_text("a file")
    with pytest.raises(errors.FileWriteError, match="Not a directory"):
        results[name].to_html(tmp_path / "file" / "page.html")
    with pytest.raises(errors.FileWriteError, match=r"'.*fig\.svg' ends in \.svg.*a page is written there; end the"):
        results[name].to_html(tmp_path / "fig.svg")


def test_the_ending_of_a_name_decides_what_a_result_writes(tmp_path, results, run):
    attribution, merged = results["attribution"], dl.load_run(run.save(tmp_path / "run")).frontier
    kinds = {"attribution": (attribution, Attribution), "frontier": (run.frontier, Frontier)}
    kinds["merged"] = results["card"].merged, Merged
    for name, (result, kind) in kinds.items():
        table = pd.read_csv(result.save(tmp_path / f"{name}.csv"))
        assert list(table.columns) == list(result.to_pandas().columns) and len(table) == len(result.to_pandas())
        assert "<html" in result.save(tmp_path / f"{name}.html").read_text(encoding="utf-8")
        for file in (tmp_path / f"{name}.json", tmp_path / f"{name}.v1", tmp_path / f"{name}"):
            assert len(kind.load(result.save(file))) == len(result)
        for ending in ("txt", "xlsx", "npz", "gif"):
            with pytest.raises(errors.FileWriteError, match=r"\.json, \.csv, .*\.svg"):
                result.save(tmp_path / f"{name}.{ending}")
            assert not (tmp_path / f"{name}.{ending}").exists()
    assert len(merged) == len(run.frontier)


@pytest.mark.parametrize("ending", ["html", "json", "csv"])
def test_a_folder_with_the_ending_of_a_file_is_not_made(tmp_path, run, results, ending):
    for save in (run.save, dl.dream("L2.N17", seeds=[0, 1], **SMALL).save):
        with pytest.raises(errors.RunFolderError, match=r"a run, which is a folder,.*run\.to_html"):
            save(tmp_path / f"run.{ending}")
    examples = dl.max_activating("L2.N17", corpus=TEXTS, length=4, k=4, cache=False)
    with pytest.raises(errors.ExamplesError, match=r"which is a folder,"):
        examples.save(tmp_path / f"examples.{ending}")
    assert not any(tmp_path.iterdir())
    # A folder of an earlier version may have such a name: it is opened, continued and saved as before.
    shutil.move(run.save(tmp_path / "run"), old := tmp_path / f"run.{ending}")
    assert Path(dl.load_run(old).resume(1, save_to=old).save()) == old
