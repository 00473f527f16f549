"""What a newcomer does first: the README's session, the demo, and the API as the documentation shows it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import dreamy_lens as dl
from dreamy_lens import demo

README = Path(__file__).parents[2] / "README.md"
SMALL = {"population": 2, "children": 4, "length": 6, "progress": False}


def test_the_readmes_session_runs_from_top_to_bottom(tmp_path, monkeypatch):
    """Every line, with fewer iterations and smaller populations."""
    if not README.is_file():
        pytest.skip("the README is not beside the tests")
    monkeypatch.chdir(tmp_path)
    block = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    code = re.sub(r"iterations=\d+", "iterations=2", block[1]).replace("resume(40)", "resume(1)")
    assert code.count("dl.") >= 7
    whole = dl.dream
    monkeypatch.setattr(dl, "dream", lambda *given, **settings: whole(*given, **SMALL | settings))
    monkeypatch.setattr("dreamy_lens.results.frontier.Frontier.best", lambda self, max_cross_entropy=None: self[-1])
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["run"].iteration == 2
    assert dl.load_run("only").iteration == 2


def test_the_files_that_the_readme_links_to_exist():
    """No dead links."""
    if not README.is_file():
        pytest.skip("the README is not beside the tests")
    links = re.findall(r"\]\(([^)#]+)\)", README.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert local and all((README.parent / link).exists() for link in local)


@pytest.mark.usefixtures("short_start")
def test_the_demo_prints_a_frontier_and_writes_one_self_contained_page(tmp_path, monkeypatch, capsys):
    """As `make demo` does, with one iteration, and with few prompts on the page."""
    monkeypatch.setattr(demo, "SHOWN", 3)
    page = tmp_path / "dream.html"
    assert demo.main(["--iterations", "1", "--html", str(page)]) == 0
    printed, said = capsys.readouterr()
    assert "cross-entropy" in printed and page.as_uri() in printed
    assert "\r" not in said  # where stderr is no terminal, progress is lines
    html = page.read_text(encoding="utf-8")
    assert html.startswith("<!doctype html>") or html.startswith("<!DOCTYPE html>")
    assert html.count("<script") == 1 and not re.search(r'(src|href)="https?:', html)
    assert "default-src 'none'" in html and "worst substitute" in html


def test_names_of_one_feature_are_one_feature():
    """A neuron by its short name, by function and by hook point."""
    assert dl.parse("L2.N17") == dl.neuron(2, 17) == dl.hook("blocks.2.mlp.hook_post")[-1, 17]


def test_a_run_offers_what_the_documentation_shows(tmp_path):
    """Frontier, best prompt, attribution, history, score, save, load, resume."""
    run = dl.dream("blocks.2.mlp.hook_post[-1, 17]", iterations=2, seed=0, **SMALL)
    best = run.frontier.best()
    assert len(best.ids) == len(best.tokens) == 6 and best.perplexity > 1 and best.provenance.seed == 0
    assert best.attribution(k=3).values.shape == (6, 3)
    history = run.history
    assert history.ids.shape == (len(history.value), 6) and history.cross_entropy.shape == history.iteration.shape
    assert len(history.seconds) == 3
    run.save(tmp_path / "run")
    assert dl.load_run(tmp_path / "run").resume(1, progress=False).iteration == 3
    scores = dl.score(dl.neuron(2, 17), ["some text", "some more text than that"])
    assert scores.value.shape == scores.cross_entropy.shape == (2,)
    assert dl.score(run.feature, best.ids).value[0] == pytest.approx(best.value, abs=1e-5)
    assert dl.attribution(run.feature, "any prompt", k=2).values.shape[1] == 2
    assert run.frontier.plot().data and run.plot().data
    assert {"value", "cross_entropy", "text"} <= set(run.to_pandas().columns)
