"""What a run evaluated: collected step by step, saved, continued."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamy_lens.errors import RunFolderError
from dreamy_lens.results import Frontier, History, HistoryBuilder
from dreamy_lens.search import hypervolume, non_dominated
from tests.helpers.fakes import ORIGIN, Pieces, build, steps


def same(a: History, b: History) -> bool:
    one, other = a.arrays(), b.arrays()
    return one.keys() == other.keys() and all(
        np.array_equal(one[k], other[k]) and one[k].dtype == other[k].dtype for k in one
    )


def test_the_history_holds_every_step_in_order():
    found = list(steps(9))
    history = build(iter(found))
    assert len(history) == sum(len(s.ids) for s in found)
    assert np.array_equal(history.ids, np.concatenate([s.ids for s in found]))
    assert np.array_equal(history.value, np.concatenate([s.value for s in found]))
    assert np.array_equal(history.seconds, [s.seconds for s in found])
    assert history.restarts == ((4, 1.5), (8, 1.5))
    assert (history.rejected, history.non_finite) == (sum(range(10)), 5)
    for t, step in enumerate(found):
        assert np.array_equal(history.ids[history.population[t]], step.population)
    assert np.array_equal(history.seconds_of_prompt, [found[t].seconds for t in history.iteration])
    dtypes = {name: a.dtype for name, a in history.arrays().items()}
    assert dtypes["ids"] == dtypes["iteration"] == dtypes["population"] == np.int32
    assert dtypes["value"] == dtypes["cross_entropy"] == dtypes["lambdas"] == np.float32


def test_a_snapshot_does_not_change_when_the_run_goes_on_and_cannot_be_written():
    builder = HistoryBuilder(np.ones(3))
    found = list(steps(30))
    builder.add(found[0])
    before = builder.build()
    kept = {name: a.copy() for name, a in before.arrays().items()}
    for step in found[1:]:
        builder.add(step)
    assert all(np.array_equal(kept[name], a) for name, a in before.arrays().items())
    with pytest.raises(ValueError, match="read-only"):
        before.value[0] = 99


@pytest.mark.parametrize("stop", [0, 1, 7])
def test_a_history_that_was_saved_and_continued_equals_one_that_never_stopped(stop):
    found = list(steps(12))
    straight = build(iter(found))
    first = build(iter(found[: stop + 1]))
    builder = HistoryBuilder.from_history(History.from_arrays(first.arrays()))
    for step in found[stop + 1 :]:
        builder.add(step)
    assert same(builder.build(), straight)
    assert np.array_equal(builder.frontier_rows, straight.frontier_rows())


def test_steps_out_of_order_are_refused():
    builder = HistoryBuilder(np.ones(3))
    found = list(steps(2))
    builder.add(found[0])
    with pytest.raises(ValueError, match="got step 2; the next step of this history is 1"):
        builder.add(found[2])


def test_a_member_without_finite_scores_is_marked_in_the_population():
    step = next(steps(0))
    population = np.concatenate([step.population[:2], [[77, 77, 77, 77]]])
    history = build(iter([dataclasses.replace(step, population=population)]))
    assert history.population.tolist() == [[0, 1, -1]]
    assert same(History.from_arrays(history.arrays()), history)


def test_steps_that_found_nothing_new_are_fine():
    step = next(steps(0))
    nothing = {name: getattr(step, name)[:0] for name in ("ids", "value", "cross_entropy")}
    builder = HistoryBuilder(np.ones(3))
    builder.add(step)
    builder.add(dataclasses.replace(step, iteration=1, **nothing))
    history = builder.build()
    assert history.iterations == 1 and len(history) == len(step.ids)
    empty = HistoryBuilder(np.ones(3)).build()
    assert len(empty) == 0 and repr(empty) == "History(no prompts yet)" and len(empty.frontier_rows()) == 0
    assert same(History.from_arrays(empty.arrays()), empty)
    assert len(empty.evolution()) == 0


@given(st.integers(0, 12), st.integers(0, 2**16), st.none() | st.tuples(st.integers(-3, 9), st.integers(4, 13)))
def test_the_evolution_says_what_each_prefix_of_the_run_had(iterations, seed, reference):
    history = build(steps(iterations, new=5, seed=seed))
    frame = history.evolution(reference)
    reference = history.reference() if reference is None else reference
    assert frame["iteration"].tolist() == list(range(iterations + 1))
    for t in range(iterations + 1):
        value, costs = (a[history.iteration <= t] for a in (history.value, history.cross_entropy))
        row = frame.iloc[t]
        assert row["evaluated"] == len(value)
        assert row["best_value"] == value.max()
        assert row["frontier_size"] == len(non_dominated(value, costs)) == len(history.frontier_rows(t))
        assert row["hypervolume"] == pytest.approx(hypervolume(value, costs, reference), rel=1e-9)
        assert (row["restart"] == 1.5) == (t > 0 and t % 4 == 0)


def test_tables_and_prompts_come_out_of_the_history():
    history = build(steps(5))
    frame = history.to_pandas(Pieces())
    assert len(frame) == len(history)
    assert np.flatnonzero(frame["frontier"]).tolist() == sorted(history.frontier_rows().tolist())
    assert frame["text"][3] == Pieces().text(history.ids[3].tolist())
    assert "text" not in history.to_pandas()
    frontier = Frontier.from_history(history, Pieces(), ORIGIN)
    assert [p.ids for p in frontier] == [tuple(history.ids[r].tolist()) for r in history.frontier_rows()]
    assert [p.provenance.iteration for p in frontier] == history.iteration[history.frontier_rows()].tolist()
    assert "prompts" in history._repr_html_() and "best value" in repr(history)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("value", lambda a: a[:-1]),
        ("ids", lambda a: a[:, 0]),
        ("population", lambda a: a + 10_000),
        ("population", lambda a: a[1:]),
        ("iteration", lambda a: a[::-1]),
        ("iteration", lambda a: a + 1),
        ("restarts", lambda a: a[:, :1]),
        ("counts", lambda a: a[:1]),
        ("counts", lambda a: a * np.nan),
        ("ids", lambda a: a.astype(np.float32)),
        ("population", lambda a: a * 1.0),
        ("value", lambda a: a.astype("U8")),
        ("lambdas", lambda a: a.astype(bool)),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(name, change):
    arrays = build(steps(5)).arrays()
    arrays[name] = change(arrays[name])
    with pytest.raises(RunFolderError, match="do not fit together"):
        History.from_arrays(arrays)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["restarts", "seconds", "value", "cross_entropy", "lambdas"])
def test_numbers_that_no_run_writes_are_refused(name, number):
    arrays = build(steps(9)).arrays()
    arrays[name] = arrays[name].copy()
    assert arrays[name].size
    arrays[name].flat[0] = number
    with pytest.raises(RunFolderError, match="NaN or infinite numbers"):
        History.from_arrays(arrays)


def test_a_missing_array_is_named():
    arrays = build(steps(1)).arrays()
    del arrays["seconds"]
    with pytest.raises(RunFolderError, match="lacks seconds"):
        History.from_arrays(arrays)
