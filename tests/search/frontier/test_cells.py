"""Cells of the frontier search: ways are found while it goes on, and each keeps prompts of its own."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import dreamy_lens as dl
from dreamy_lens.errors import FeatureError, SettingsError
from dreamy_lens.search import FrontierSearch
from dreamy_lens.search.frontier import cells as cells_module
from dreamy_lens.search.frontier import optimizer
from dreamy_lens.search.frontier.archive import Archive
from dreamy_lens.search.frontier.cells import MOST, UNKNOWN, Cells
from tests.helpers import models
from tests.helpers.dreams import same

SMALL = FrontierSearch(iterations=5, length=5, children=16, parents=4, samples=16, diversity=0.5)


def archive_of(value: list[float], seed: int = 0) -> Archive:
    """An archive of random prompts with these values, which become less fluent with their value."""
    archive = Archive(4, 9.0)
    ids = np.random.default_rng(seed).integers(0, 1000, (len(value), 4))
    archive.add(ids, np.array(value), 3 + 0.1 * np.array(value), 1)
    return archive


def test_prompts_are_put_into_cells_by_the_direction_beyond_what_is_ordinary():
    archive = archive_of([0.0, 0.0, 5.0, 4.0, 3.0, 0.5, 4.5])
    cells = Cells(archive)
    ordinary = np.array([1.0, 1.0, 1.0], dtype=np.float32)
    ways = np.array([[0, 0, 0], [0, 0, 0], [5, 0, 0], [0, 4, 0], [2.9, 0.5, 0], [0, 0, 0.5], [0.2, 4, 0]], np.float32)
    rows = np.arange(7)
    cells.begin(rows, ordinary + ways * (rows > 1)[:, None], floor=0.0)
    cells.ordinary = ordinary
    cells.strongest, cells.leaders = np.empty(0, np.int64), np.empty((0, 3), np.float32)
    cells.learn(rows, ordinary + ways, floor=0.0)
    assert cells.of.tolist() == [UNKNOWN, UNKNOWN, 0, 1, 0, UNKNOWN, 1]  # the weak one begins no cell
    assert cells.strongest.tolist() == [2, 6] and cells.is_known.all() and cells.alive == [0, 1]
    assert [cells.rows(cell).tolist() for cell in cells.alive] == [[2, 4], [3, 6]]
    # Children belong to the cell of their parent until their own fingerprint says otherwise.
    archive.add(np.array([[1, 2, 3, 4], [5, 6, 7, 8]]), np.array([6.0, 1.0]), np.array([4.0, 4.0]), 1)
    cells.inherit(np.array([3, 0]), np.array([7, 8]))
    assert cells.of[7:].tolist() == [1, UNKNOWN] and 7 in cells.due(0.0).tolist()
    cells.learn(np.array([7]), ordinary + np.array([[9, 0, 0]], np.float32), floor=0.0)
    assert cells.of[7] == 0 and cells.strongest[0] == 7 and 7 not in cells.due(0.0).tolist()


def test_similar_cells_are_joined_and_the_weakest_makes_room():
    count = MOST + 2
    archive = archive_of([*np.linspace(5, 6, count).tolist(), 7.0])
    cells = Cells(archive)
    prints = np.eye(count + 1, dtype=np.float32)
    cells.ordinary = np.zeros(count + 1, dtype=np.float32)
    cells.leaders = np.empty((0, count + 1), dtype=np.float32)
    for row in range(count):
        cells.learn(np.array([row]), prints[[row]], floor=0.0)
    assert len(cells.alive) == MOST and sorted(cells.strongest.tolist()) == list(range(2, count))
    assert cells.of[:2].tolist() == [UNKNOWN, UNKNOWN]
    # A stronger prompt between two cells makes them one.
    both = prints[[5]] + prints[[6]]
    cells.leaders[cells.of[5]] = cells.leaders[cells.of[6]] = both[0] / np.linalg.norm(both)
    cells.learn(np.array([count]), both, floor=0.0)
    assert cells.of[5] == cells.of[6] == cells.of[count] and len(cells.alive) == MOST - 1


def test_cells_take_turns_and_survive_a_saved_run():
    archive = archive_of([5.0, 4.0, 3.0])
    cells = Cells(archive)
    cells.ordinary, cells.leaders = np.zeros(3, np.float32), np.empty((0, 3), np.float32)
    assert cells.turns(1, 2) == []
    cells.learn(np.arange(3), np.eye(3, dtype=np.float32), floor=0.0)
    turns = [[rows.tolist() for rows in cells.turns(iteration, 2)] for iteration in range(3)]
    assert turns == [[[0], [1]], [[2], [0]], [[1], [2]]]
    memory = cells.arrays()
    restored = Cells(archive)
    restored.restore(memory)
    assert all(np.array_equal(restored.arrays()[name], array) for name, array in memory.items())
    cells.of[0] = 7
    assert memory["cells_of"][0] == 0  # what was saved does not change


def test_a_diverse_run_goes_on_as_if_it_had_never_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(cells_module, "AT_ONCE", 8)
    monkeypatch.setattr(optimizer, "EVERY", 2)
    model = models.family("gpt2").bridge
    whole = dl.dream("L1.N3", model, search=SMALL, progress=False)
    part = dl.dream("L1.N3", model, search=dataclasses.replace(SMALL, iterations=3), progress=False)
    part.save(tmp_path / "run")
    again = dl.load_run(tmp_path / "run", model).resume(2, progress=False)
    same(whole.history, again.history)
    plain = dl.dream("L1.N3", model, search=dataclasses.replace(SMALL, diversity=0.0), progress=False)
    assert not np.array_equal(plain.history.ids, whole.history.ids)
    scores = dl.score("L1.N3", whole.history.ids[-30:], model)
    np.testing.assert_allclose(scores.value, whole.history.value[-30:], atol=1e-4, rtol=1e-4)


def test_diverse_runs_side_by_side_find_what_each_finds_alone():
    model = models.family("neox").bridge
    runs = dl.dream(["L1.N3", "L1.N4"], model, search=SMALL, progress=False)
    for run, feature in zip(runs, ("L1.N3", "L1.N4"), strict=True):
        alone = dl.dream(feature, model, search=SMALL, progress=False)
        np.testing.assert_array_equal(run.history.ids, alone.history.ids)


def test_diversity_needs_upstream_contributions():
    model = models.family("gpt2").bridge
    with pytest.raises(FeatureError, match=r"diversity= needs upstream contributions.*a product of a query"):
        dl.dream("blocks.1.attn.hook_pattern[0, -1, 0]", model, search=SMALL, progress=False)
    with pytest.raises(SettingsError, match="diversity"):
        FrontierSearch(diversity=2.0)
