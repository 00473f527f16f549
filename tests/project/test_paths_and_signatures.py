"""Tab completes every keyword of the public functions; "~" is the home folder everywhere; names are checked first."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import dreamy_lens as dl
from dreamy_lens.errors import FeatureError, ModelError
from dreamy_lens.results import Frontier, Merged, merge
from dreamy_lens.scan import Examples, ScanConfig

SMALL = {"iterations": 1, "population": 2, "children": 4, "top_k": 16, "length": 4}
TEXTS = ["Return a copy of the array, with axes transposed.", "Raise an error if the file is not found."]
STUB = Path(dl.__file__).with_suffix(".pyi")


def of_api() -> list[str]:
    """Names of the public functions in dreamy_lens.api, as the stub of the package has them."""
    tree = ast.parse(STUB.read_text(encoding="utf-8"))
    froms = [node for node in tree.body if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("api.")]
    return [alias.asname or alias.name for node in froms for alias in node.names]


@pytest.mark.parametrize("name", of_api())
def test_every_keyword_of_a_public_function_is_in_its_signature(name):
    public = getattr(dl, name)
    functions = [public]
    if not inspect.isfunction(public):  # an object that is called, and has functions
        methods = inspect.getmembers(public, inspect.ismethod)
        functions = [method for method_name, method in methods if method_name.strip("_") in (method_name, "call")]
    for function in functions:
        parameters = inspect.signature(function).parameters
        assert not [p for p in parameters.values() if p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        assert len(of_api()) >= 10 and function.__doc__ and function.__module__.startswith("dreamy_lens.api.")
        source = ast.parse(inspect.getsource(inspect.getmodule(function)))  # what a type checker sees through the stub
        nodes = source.body if function is public else ast.walk(source)
        written = [node for node in nodes if isinstance(node, ast.FunctionDef) and node.name == function.__name__]
        own = {a.arg for a in (*written[-1].args.args, *written[-1].args.kwonlyargs)} - {"self"}
        assert own <= set(parameters) and (set(parameters) == own or written[-1].args.kwarg is not None)


def test_the_signatures_of_scans_and_cards_have_their_settings():
    scan, card = (inspect.signature(f).parameters for f in (dl.max_activating, dl.card))
    assert {field: scan[field].default for field in ("k", "length", "tokens", "batch_size")} == {
        field: getattr(ScanConfig(), field) for field in ("k", "length", "tokens", "batch_size")
    }
    for name in ("iterations", "seeds", "constraints", "fluency_model", "search", "length", "population"):
        assert card[name].default == inspect.signature(dl.dream).parameters[name].default
        assert card[name].kind is inspect.Parameter.KEYWORD_ONLY


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder, and a working folder in which nothing may appear that is called "~"."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    yield tmp_path / "home"
    assert list((tmp_path / "work").iterdir()) == []


def test_a_tilde_is_the_home_folder_everywhere(home):
    run = dl.dream("L2.N17", save_to="~/run", **SMALL)
    assert (home / "run" / "run.json").is_file() and run.folder == home / "run"
    assert dl.load_run("~/run").resume(1, save_to="~/run").iteration == 2
    assert dl.load("~/run").iteration == 2
    run.save("~/again")
    runs = dl.dream("L2.N17", seeds=2, save_to="~/runs", **SMALL)
    assert (home / "runs" / "run-001" / "run.json").is_file() and len(dl.load("~/runs")) == 2
    runs.save("~/more")
    assert len(type(runs).load("~/more")) == 2
    assert len(dl.sweep("L2.N17", out="~/sweep", **SMALL)) == 1 == len(dl.load("~/sweep"))
    examples = dl.max_activating("L2.N17", corpus=TEXTS, length=4, out="~/scan")
    examples.save("~/scan2")
    assert len(dl.load("~/scan")) == len(Examples.load("~/scan2")) == 1
    comparison = dl.compare(dl.load_run("~/run"), "~/scan")
    merged = merge(runs)
    run.frontier.save("~/frontier.json")
    merged.save("~/merged.json")
    comparison.save("~/comparison.json")
    attribution = run.frontier.best().attribution(k=2)
    attribution.save("~/attribution.json")
    assert Frontier.load("~/frontier.json") == run.frontier and len(Merged.load("~/merged.json")) == 2
    assert type(attribution).load("~/attribution.json").value == attribution.value
    assert dl.load("~/comparison.json").sentence == type(comparison).load("~/comparison.json").sentence
    for name, result in {"run": run, "runs": runs, "comparison": comparison, "attribution": attribution}.items():
        result.to_html(f"~/{name}.html")
        assert (home / f"{name}.html").is_file()
    examples.of(0).to_html("~/examples.html")
    run.frontier.save("~/frontier.csv")
    card = dl.card("L2.N17", run="~/run", examples="~/scan", path="~/card.html")
    assert (home / "card.html").is_file() and card.to_html("~/card2.html")
    (home / "texts.txt").write_text(TEXTS[0])
    assert len(dl.corpus.open("~/texts.txt").shards) == 1


@pytest.mark.parametrize("wrong", [{"model": "~/no/such/model"}, {"features": "L99.N1"}, {"fluency_model": "./none"}])
def test_a_sweep_with_a_wrong_name_leaves_nothing_behind(home, wrong):
    arguments = {"features": "L2.N17", "out": "~/sweep", **SMALL, **wrong}
    with pytest.raises((ModelError, FeatureError)):
        dl.sweep(**arguments)
    assert not (home / "sweep").exists() or not list((home / "sweep").iterdir())
    assert len(dl.sweep("L2.N17", out="~/sweep", **SMALL)) == 1
