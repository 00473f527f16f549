"""Plotly figures of results, by what they contain."""

from __future__ import annotations

import json

import numpy as np
import pytest
from fakes import HOSTILE, ORIGIN, attribution_of, build, frontier_of, prompt, steps

from dreamy_lens.figures.attribution import attribution_figure
from dreamy_lens.figures.evolution import evolution_figure
from dreamy_lens.figures.frontier import CLOUD, frontier_figure, runs_figure
from dreamy_lens.results import Frontier
from dreamy_lens.results.merge import SavedRun, merge


def named(figure) -> dict[str, object]:
    return {trace.name: trace for trace in figure.data}


def test_a_frontier_is_drawn_as_steps_over_its_history_with_others_and_hull():
    frontier, history = frontier_of((1, 2), (1.5, 3), (9, 4)), build(steps(8))
    traces = named(frontier_figure(frontier, {"dataset": frontier_of((0, 1))}, hull=True, history=history))
    assert list(traces) == ["evaluated", "dataset", "frontier", "convex hull"]
    assert list(traces["frontier"].x) == [2, 3, 4] and list(traces["frontier"].y) == [1, 1.5, 9]
    assert traces["frontier"].line.shape == "hv" and list(traces["convex hull"].y) == [1, 9]
    assert len(traces["evaluated"].x) == len(history) and traces["dataset"].line.color != traces["frontier"].line.color
    assert [t.name for t in frontier.plot(others=[frontier]).data] == ["other 1", "frontier"]


def test_a_long_history_is_thinned_and_the_axes_stay_with_the_frontier():
    history = build(steps(30, new=200))
    figure = frontier_figure(frontier_of((40, 3), (50, 6)), history=history)
    assert len(history) > CLOUD == len(figure.data[0].x) and f"of {len(history):,} evaluated" in figure.data[0].name
    low, high = figure.layout.yaxis.range
    assert 30 < low < 40 and 50 < high < 55


def test_several_runs_and_what_they_reach_together():
    runs = [SavedRun(ORIGIN, frontier_of((1, 2), (5, 6))), SavedRun(ORIGIN, frontier_of((2, 3)))]
    merged = merge(runs)
    figure = merged.plot()
    assert [t.name for t in figure.data] == ["seed 3", "seed 3", "all runs"]
    assert list(figure.data[-1].y) == merged.frontier.values.tolist()
    assert runs_figure(merged, dark=True).layout.paper_bgcolor != figure.layout.paper_bgcolor


def test_the_evolution_has_value_and_hypervolume_with_restarts_marked():
    history = build(steps(9))
    figure, frame = evolution_figure(history), history.evolution()
    assert np.array_equal(figure.data[0].y, frame["best_value"]) and np.array_equal(
        figure.data[1].y, frame["hypervolume"]
    )
    assert {shape.x0 for shape in figure.layout.shapes} == {4, 8}
    several = evolution_figure({"a": history, "b": build(steps(5, seed=1))})
    assert [t.name for t in several.data] == ["a", "a", "b", "b"]
    assert len(evolution_figure(build(iter(()))).data) == 2


def test_several_evolutions_are_measured_from_one_reference():
    one, other = build(steps(3)), build(steps(3, seed=5))
    reference = min(one.reference()[0], other.reference()[0]), max(one.reference()[1], other.reference()[1])
    figure = evolution_figure([one, other])
    assert np.array_equal(figure.data[1].y, one.evolution(reference)["hypervolume"])
    assert np.array_equal(figure.data[3].y, other.evolution(reference)["hypervolume"])


def test_the_attribution_figure_has_every_substitute_best_first():
    found = attribution_of((" a", " b", " c"), k=6)
    figure = attribution_figure(found)
    z = np.array(figure.data[0].z, dtype=float)
    assert z.shape == (6, 3) and np.allclose(z[0], -found.drop_to_best) and np.allclose(z[-1], -found.drop_to_worst)
    assert np.all(np.diff(z, axis=0) <= 0) and list(figure.layout.xaxis.ticktext) == [" a", " b", " c"]
    assert figure.data[0].zmin == -figure.data[0].zmax


@pytest.mark.parametrize("dark", [False, True])
def test_hostile_tokens_are_neither_tags_nor_formulas_in_figures(dark):
    pieces = (*HOSTILE, "$x^2$", "<b>")
    frontier = Frontier([prompt(i, i + 1, text) for i, text in enumerate(pieces)])
    figures = [frontier_figure(frontier, dark=dark), attribution_figure(attribution_of(pieces, pieces=pieces), dark)]
    for figure in figures:
        text = json.loads(figure.to_json())
        said = json.dumps([t["text"] for t in text["data"]] + [text["layout"]["xaxis"].get("ticktext", [])])
        assert "$" not in said and "<script" not in said and "<img" not in said
        figure.to_html(include_plotlyjs=False).encode("utf-8")
