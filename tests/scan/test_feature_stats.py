"""Test that the statistics of a scan equal those of sorting and counting all values at once, in any order."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dreamy_lens.scan import (
    FeatureStats,
    WindowSample,
    draw_windows,
    exponents,
    feature_stats,
    first_number,
    priorities,
)
from dreamy_lens.scan.feature_stats import BINS, NO_WINDOW, PER_NAT

K = 5


@st.composite
def streams(draw: st.DrawFn):
    """Windows in blocks, with few different values, so that there are ties and repeated texts."""
    features, blocks = draw(st.integers(1, 4)), draw(st.integers(1, 8))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    texts = 24
    scale = 10.0 ** random.integers(-8, 8, size=features)
    table = (random.integers(-6, 7, size=(texts, features)) * scale).astype(np.float32)
    table[random.random(table.shape) < 0.05] = random.choice([np.nan, np.inf, -np.inf])
    costs = (random.random(texts) * 20).astype(np.float32)
    drawn = [random.permutation(texts)[: random.integers(1, 13)] for _ in range(blocks)]
    hashes = np.concatenate(drawn).astype(np.int64)
    return table[hashes], costs[hashes], hashes, np.cumsum([0, *map(len, drawn)]).tolist()


def stats_of(stream, first: int = 0, last: int | None = None) -> FeatureStats:
    """Return the statistics of some blocks of a stream."""
    values, losses, hashes, cuts = stream
    found = FeatureStats.empty(values.shape[1], K, True)
    numbers = np.arange(len(values), dtype=np.int64) * 3 + 1
    cuts = cuts[first : None if last is None else last + 1]
    for a, b in itertools.pairwise(cuts):
        new = found.add(*(torch.from_numpy(x[a:b]) for x in (values, numbers, hashes, losses)))
        assert new.tolist() == found.kept_windows(int(numbers[a])).tolist()
    return found


@given(streams())
def test_the_strongest_windows_are_those_of_sorting_everything(stream):
    values, _, hashes, _ = stream
    feature_stats = stats_of(stream)
    for f in range(values.shape[1]):
        firsts: dict[int, tuple[float, int]] = {}
        for i, text in enumerate(hashes.tolist()):
            if np.isfinite(values[i, f]) and text not in firsts:
                firsts[text] = (float(values[i, f]), 3 * i + 1)
        wanted = sorted(firsts.values(), key=lambda one: (-one[0], one[1]))[:K]
        kept = feature_stats.window[f] != NO_WINDOW
        assert (
            list(zip(feature_stats.value[f][kept].tolist(), feature_stats.window[f][kept].tolist(), strict=True))
            == wanted
        )
        assert not bool(kept[len(wanted) :].any())


@given(streams())
def test_the_strongest_at_every_fluency(stream):
    values, losses, _, _ = stream
    feature_stats = stats_of(stream)
    levels = np.clip(np.floor(losses * PER_NAT), 0, 63).astype(int)
    for f in range(values.shape[1]):
        for level in range(64):
            rows = [i for i in np.flatnonzero(levels == level) if np.isfinite(values[i, f])]
            best = max(rows, key=lambda i: (values[i, f], -i), default=None)
            assert feature_stats.level_window[f, level] == (NO_WINDOW if best is None else 3 * best + 1)


@given(streams())
def test_histogram_and_moments_are_of_all_finite_values(stream):
    values = stream[0]
    feature_stats = stats_of(stream)
    for f in range(values.shape[1]):
        finite = values[np.isfinite(values[:, f]), f].astype(np.float64)
        largest = np.abs(finite).max(initial=0)
        width = 2.0 ** int(feature_stats.exponent[f])
        assert np.array_equal(
            np.bincount(np.floor(finite / width).astype(int) + BINS // 2, minlength=BINS),
            feature_stats.counts[f].numpy(),
        )
        assert largest == 0 or BINS / 4 * width <= largest < BINS / 2 * width  # no wider than it must be
        count, total, squares = feature_stats.moments[:, f].tolist()
        assert count == len(finite) and feature_stats.odd[f] == len(values) - len(finite)
        assert total == pytest.approx(finite.sum(), abs=1e-9 * max(largest, 1e-30) * 60)
        assert squares == pytest.approx((finite**2).sum(), rel=1e-9)
        if len(finite):
            assert feature_stats.ends[:, f].tolist() == [finite.min(), finite.max()]


@given(streams(), st.randoms(use_true_random=False))
def test_tallies_of_parts_merge_into_the_stats_of_the_whole_in_any_order(stream, random):
    whole, blocks = stats_of(stream), len(stream[3]) - 1
    cuts = sorted({0, blocks, *(random.randint(0, blocks) for _ in range(2))})
    parts = [stats_of(stream, a, b) for a, b in itertools.pairwise(cuts)]
    random.shuffle(parts)
    merged = FeatureStats.empty(len(whole), K, True)
    for part in parts:
        merged.merge(part)
    for name, tensor in whole.tensors().items():
        ours = merged.tensors()[name]
        # Sums come in another order; all else is equal to the last bit.
        assert torch.allclose(ours, tensor, rtol=1e-12) if name == "moments" else torch.equal(ours, tensor), name


@given(streams())
def test_features_counted_a_few_at_a_time_are_counted_as_all_at_once(stream):
    whole, usual = stats_of(stream), feature_stats.VALUES_AT_ONCE["cpu"]
    feature_stats.VALUES_AT_ONCE["cpu"] = 12
    try:
        parts = stats_of(stream)
    finally:
        feature_stats.VALUES_AT_ONCE["cpu"] = usual
    for name, tensor in whole.tensors().items():
        assert torch.equal(parts.tensors()[name], tensor), name


def test_bins_hold_what_they_are_said_to_hold():
    largest = torch.tensor([1.0, 0.999, 63.999, 64.0, 1e-30, 3e38, 0.0])
    width = torch.exp2(exponents(largest).double())
    bins = torch.floor(largest.double() / width)
    assert bool((bins < BINS // 2).all()) and bool((bins[:-1] >= BINS // 4).all())


def test_what_is_kept_from_a_number_on():
    feature_stats = FeatureStats.empty(1, 2, False)
    values = torch.tensor([[3.0], [1.0], [2.0]])
    feature_stats.add(values, torch.tensor([10, 11, 12]), torch.tensor([1, 2, 3]))
    assert feature_stats.kept_windows().tolist() == [10, 12]
    assert feature_stats.kept_windows(11).tolist() == [12]


# The sample.


@pytest.mark.parametrize("order", ["forwards", "backwards", "parts"])
def test_a_sample_does_not_depend_on_the_order(order: str):
    numbers = np.arange(500, dtype=np.int64) + first_number(2, 3)
    values = torch.arange(500.0)[:, None] * torch.tensor([1.0, -1.0])
    sample = WindowSample.empty(40, 2, seed=7)
    pieces = [slice(a, a + 60) for a in range(0, 500, 60)]
    if order == "backwards":
        pieces.reverse()
    if order == "parts":
        for half in (pieces[1::2], pieces[::2]):
            part = WindowSample.empty(40, 2, seed=7)
            for at in half:
                part.add(values[at], numbers[at])
            sample.merge(part)
    else:
        for at in pieces:
            sample.add(values[at], numbers[at])
    wanted = np.sort(numbers[np.argsort(priorities(numbers, 7))[:40]])
    found, its = sample.ordered()
    assert found.tolist() == wanted.tolist()
    assert its[:, 0].tolist() == (wanted - numbers[0]).tolist()
    assert its[:, 1].tolist() == (numbers[0] - wanted).tolist()


def test_a_sample_is_uniform():
    numbers = np.concatenate([first_number(0, b) + np.arange(500) for b in range(40)])
    drawn = numbers[np.argsort(priorities(numbers, 1))[:2000]]
    halves = (drawn >> 20) < 20
    assert abs(halves.mean() - 0.5) < 0.04  # three and a half standard deviations
    assert abs(((drawn & 0xFFFFF) < 250).mean() - 0.5) < 0.04
    other = numbers[np.argsort(priorities(numbers, 2))[:2000]]
    assert abs(len(np.intersect1d(drawn, other)) - 200) < 60


def test_a_share_of_a_block_is_drawn_without_replacement():
    rows = draw_windows(100, 30, [0, 1, 2])
    assert len(set(rows.tolist())) == 30 and rows.tolist() == sorted(rows.tolist())
    assert rows.tolist() == draw_windows(100, 30, [0, 1, 2]).tolist() != draw_windows(100, 30, [0, 1, 3]).tolist()
    assert draw_windows(10, 30, [0]).tolist() == list(range(10)) == draw_windows(10, None, [0]).tolist()
