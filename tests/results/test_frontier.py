"""Prompts, frontiers and merged runs as plain data."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamy_lens.errors import RunFolderError, SettingsError
from dreamy_lens.results import Frontier, Merged, Prompt, SavedRun, merge
from tests.helpers.fakes import HOSTILE, ORIGIN, Pieces, frontier_of, prompt

points = st.lists(st.tuples(st.floats(-50, 50, width=32), st.floats(0, 20, width=32)), max_size=12)


def test_results_import_neither_torch_nor_plotly_nor_pandas():
    modules = "results.prompt results.history results.frontier results.merged results.storage".split()
    modules += "html.page runs.report results.attribution".split()
    lines = [f"import dreamy_lens.{name}" for name in modules] + ["import dreamy_lens.figures.frontier"]
    check = "import sys; assert not {'torch', 'plotly', 'pandas', 'transformer_lens', 'safetensors'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", "; ".join([*lines, check])], check=True)


@given(points)
def test_a_frontier_keeps_what_is_not_beaten_and_sorts_it_from_fluent_to_strong(pairs):
    frontier = frontier_of(*pairs)
    assert np.all(np.diff(frontier.values) > 0) and np.all(np.diff(frontier.cross_entropies) > 0)
    for v, c in pairs:
        assert any(p.value >= v and p.cross_entropy <= c for p in frontier)
    assert Frontier(frontier) == frontier == frontier[:] and len(frontier) == len(list(frontier))
    assert set(frontier.hull()) <= set(frontier)


def test_the_best_prompt_is_the_strongest_that_is_fluent_enough():
    frontier = frontier_of((1, 2), (3, 4), (9, 8))
    assert frontier.best().value == 9
    assert frontier.best(max_cross_entropy=4).value == 3
    assert frontier.best(max_perplexity=math.exp(3.99)).value == 1
    assert frontier.best(max_cross_entropy=8, max_perplexity=math.exp(4.01)).value == 3
    assert frontier.best(max_cross_entropy=2.5, max_perplexity=1e9).value == 1


def test_asking_for_more_fluency_than_there_is_says_how_much_there_is():
    frontier = frontier_of((1, 2.25), (3, 4))
    with pytest.raises(SettingsError, match=r"at most 2 nats/token\. .* cross-entropy 2\.250 \(perplexity 9\.5\)"):
        frontier.best(max_cross_entropy=2)
    with pytest.raises(SettingsError, match="a perplexity of at most 3"):
        frontier.best(max_perplexity=3)
    with pytest.raises(SettingsError, match="at least 1"):
        frontier.best(max_perplexity=0)
    with pytest.raises(SettingsError, match="no prompts, because no evaluated prompt had finite scores"):
        Frontier([]).best()


@given(st.integers(0, 9))
def test_a_few_prompts_of_a_frontier_are_spread_over_all_of_it(count):
    frontier = frontier_of((0, 2), (0.1, 2.1), (5, 3), (5.1, 3.1), (9, 8), (9.1, 11.9), (9.2, 12))
    few = frontier.spread(count)
    assert len(few) == min(count, len(frontier)) and set(few) <= set(frontier)
    if count >= 2:
        assert few[0] == frontier[0] and few[-1] == frontier[-1]
    if count == 4:
        assert [p.value for p in few] == [0, 5.1, 9, 9.2]


def test_a_frontier_reads_as_text_and_html():
    frontier = frontier_of((1, 2), (30, 4))
    lines = str(frontier).splitlines()
    assert len(lines) == 3 and lines[1].endswith("at 1 2") and "30.00" in lines[2]
    assert len({line.index("at") for line in lines[1:]}) == 1
    assert repr(frontier) == "Frontier(2 prompts, value 1 to 30, cross-entropy 2.00 to 4.00)"
    assert repr(frontier_of((-2, 2), (-0.0, 4))).startswith("Frontier(2 prompts, value -2 to 0, ")
    assert "<table" in frontier._repr_html_() and "<script" not in frontier._repr_html_()
    assert repr(Frontier([])) == "Frontier(no prompts)" and str(Frontier([])) and Frontier([])._repr_html_()
    frame = frontier.to_pandas()
    assert frame["value"].tolist() == [1, 30] and frame["seed"].tolist() == [3, 3]
    assert Frontier([]).to_pandas().empty and list(Frontier([]).to_pandas()) == list(frame)


def test_a_frontier_survives_its_file_whatever_its_tokens_are(tmp_path):
    hostile = Prompt.decode(range(len(HOSTILE)), 2.5, 3.5, Pieces(HOSTILE), ORIGIN)
    frontier = Frontier([prompt(1, 2), hostile])
    frontier.save(tmp_path / "deep" / "frontier.json")
    found = Frontier.load(tmp_path / "deep" / "frontier.json")
    assert found == frontier and found[1].text == hostile.text and found[1].tokens == HOSTILE
    Frontier([]).save(tmp_path / "none.json")
    assert len(Frontier.load(tmp_path / "none.json")) == 0


def test_a_damaged_file_is_told_in_a_sentence(tmp_path):
    file = frontier_of((1, 2)).save(tmp_path / "f.json")
    data = file.read_text()
    file.write_text(data[:-9])
    with pytest.raises(RunFolderError, match="truncated or altered"):
        Frontier.load(file)
    file.write_text(data.replace("cross_entropy", "crossentropy"))
    with pytest.raises(RunFolderError, match="not a complete frontier"):
        Frontier.load(file)
    with pytest.raises(RunFolderError, match=r"There is no file .*g\.json"):
        Frontier.load(tmp_path / "g.json")
    with pytest.raises(RunFolderError, match="it says it is 'dreamy_lens frontier'"):
        file.write_text(data)
        Merged.load(file)


def test_a_prompt_is_a_value_and_survives_a_dictionary():
    one = prompt(1.5, 2.0)
    assert Prompt.from_dict(one.to_dict()) == one and hash(Prompt.from_dict(one.to_dict())) == hash(one)
    assert dataclasses.replace(one, _tools=RecordingRun()) == one
    assert repr(one) == "Prompt(' a file', value 1.5, cross-entropy 2.00)" and str(one) == " a file"
    assert "\n" not in repr(prompt(1, 2, "a\nb\u2028\u202e")) and "\u202e" not in repr(prompt(1, 2, "\u202e"))
    assert one.perplexity == pytest.approx(math.exp(2)) and prompt(1, 5000.0).perplexity == math.inf
    assert "a file" in one._repr_html_()


class RecordingRun:
    """Run that records what its prompts ask of it."""

    def __init__(self) -> None:
        self.asked = []

    def attribution(self, *args, **settings):
        self.asked.append(("attribution", args, settings))

    def generate(self, *args, **settings):
        self.asked.append(("generate", args, settings))


def test_a_prompt_of_a_run_asks_the_run_for_its_attribution_and_its_continuation():
    run = RecordingRun()
    one = dataclasses.replace(prompt(1, 2), _tools=run)
    one.attribution(k=5, weight=0.5)
    one.generate(7, temperature=1.0)
    attribution = ("attribution", (one,), {"k": 5, "weight": 0.5})
    assert run.asked == [attribution, ("generate", (one, 7), {"temperature": 1.0})]


def test_a_prompt_alone_asks_for_attribution_as_it_was_scored(monkeypatch):
    import dreamy_lens

    asked = {}
    monkeypatch.setitem(
        vars(dreamy_lens),
        "attribution",
        lambda feature, ids, model, **settings: asked.update(
            feature=feature, ids=ids.tolist(), model=model, **settings
        ),
    )
    one = prompt(1, 2)
    one = dataclasses.replace(one, provenance=dataclasses.replace(one.provenance, prefix=(7, 8), prepend_bos=False))
    one.attribution()
    expected = {"feature": "L2.N17", "ids": [1, 2], "model": "docstrings", "k": 32}
    assert asked == {**expected, "prepend_bos": False, "prefix": (7, 8)}


def run(seed: int, *pairs: tuple[float, float], **provenance) -> SavedRun:
    return SavedRun(dataclasses.replace(ORIGIN, seed=seed, **provenance), frontier_of(*pairs, seed=seed))


def test_merged_runs_have_the_frontier_of_all_and_each_prompt_says_its_seed():
    merged = merge([run(0, (1, 2), (5, 6)), run(1, (2, 2), (4, 5)), run(2, (0, 9))])
    assert [(p.value, p.provenance.seed) for p in merged.frontier] == [(2, 1), (4, 1), (5, 0)]
    frame = merged.to_pandas()
    assert frame[["run", "seed", "value", "merged"]].values.tolist() == [
        [0, 0, 1, False],
        [0, 0, 5, True],
        [1, 1, 2, True],
        [1, 1, 4, True],
        [2, 2, 0, False],
    ]
    assert repr(merged).startswith("Merged(3 runs of L2.N17, Frontier(3 prompts")
    assert "<table" in merged._repr_html_() and "value" in str(merged)


def test_merging_merged_runs_and_reading_them_back_gives_the_same(tmp_path):
    a, b, c = run(0, (1, 2), (5, 6)), run(1, (2, 2)), run(2, (9, 9))
    merged = merge([merge([a, b]), c])
    assert [r.provenance.seed for r in merged.runs] == [0, 1, 2]
    assert merged.frontier == merge([a, b, c]).frontier
    found = Merged.load(merged.save(tmp_path / "merged.json"))
    assert found.frontier == merged.frontier and found.runs == merged.runs


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("feature", "L2.N18"),
        ("model", "other"),
        ("prepend_bos", False),
        ("prefix", (1,)),
        ("contexts", "min in 2 contexts (1f0c8a9d)"),
    ],
)
def test_runs_that_do_not_compare_are_not_merged(name, value):
    with pytest.raises(SettingsError, match=f"Runs 0 and 2 differ in {name}: .*merge those"):
        merge([run(0, (1, 2)), run(1, (1, 2)), run(2, (1, 2), **{name: value})])


def test_merging_nothing_is_an_error():
    with pytest.raises(SettingsError, match="no runs to merge"):
        merge([])
