"""Test quantiles from a histogram, the strongest windows and a sample, against the ranks of all values."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import pytest

from dreamy_lens.api.compare import compare
from dreamy_lens.html.numbers import number
from dreamy_lens.scan import FeatureExamples
from tests.comparison.test_comparison import saved
from tests.helpers.scans import one, scanned

N, S, K = 20_000, 1000, 32


def gelu(rng: np.random.Generator) -> np.ndarray:
    x = rng.normal(-1, 1.2, N) + np.where(rng.random(N) < 0.003, 8, 0)
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


SHAPES: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "a neuron behind a GELU": gelu,
    "a sparse latent": lambda rng: np.where(rng.random(N) < 0.03, rng.exponential(2, N), 0),
    "a few levels": lambda rng: rng.integers(0, 4, N).astype(float),
    "far from zero": lambda rng: rng.normal(1000, 0.5, N),
    "negative": lambda rng: -rng.exponential(1, N),
    "one extreme": lambda rng: np.append(rng.normal(0, 1e-4, N - 1), 50.0),
    "all the same": lambda rng: np.full(N, 2.5),
}
SHARES = (0.0, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.995, 0.999, 0.9999, 1.0)


def made(values: np.ndarray, rng: np.random.Generator, size: int = S) -> FeatureExamples:
    return one(values, np.full(len(values), 3.0), k=K, sample=np.sort(rng.choice(len(values), size, False)).tolist())


@pytest.mark.parametrize("shape", SHAPES)
def test_so_many_windows_are_at_or_below_a_quantile(shape: str):
    rng = np.random.default_rng(5)
    values = SHAPES[shape](rng).astype(np.float32)
    examples = made(values, rng)
    found = [examples.quantile_value(q) for q in SHARES]
    assert found == sorted(found) and found[0] == values.min() and found[-1] == values.max()
    for q, value in zip(SHARES, found, strict=True):
        exact = round((1 - q) * N) < K or q == 0
        if not exact and min(q, 1 - q) * S < 5:  # known only to within a bin
            goal = np.sort(values)[math.ceil(q * N) - 1]
            assert abs(value - goal) <= examples.histogram.width
            continue
        off = 1 / N if exact else 4 * math.sqrt(q * (1 - q) / S)
        assert (values < value).mean() - off <= q <= (values <= value).mean() + off, q


@pytest.mark.parametrize("shape", SHAPES)
def test_the_windows_of_a_quantile_are_of_its_rank(shape: str):
    rng = np.random.default_rng(6)
    values = SHAPES[shape](rng).astype(np.float32)
    examples = made(values, rng)
    for q in (0.5, 0.9, 0.99, 0.999, 1.0):
        shown = examples.quantile(q)
        off = 4 * math.sqrt(max(q * (1 - q), 2 / S) / S) + 4 / S
        assert len(shown) == 8
        for w in shown:
            assert (values < w.value).mean() - off <= q <= (values <= w.value).mean() + off, q
    assert examples.quantile(1.0) == examples.top[:8]


def test_the_median_of_a_sparse_latent_is_zero():
    rng = np.random.default_rng(1)
    values = SHAPES["a sparse latent"](rng)
    values[0] = -0.001  # by which the histogram has a bin below zero
    examples = made(values, rng)
    assert examples.quantile_value(0.5) == 0.0 == examples.quantile_value(0.9)
    assert {w.value for w in examples.quantile(0.5)} == {0.0}


def test_texts_that_stand_many_times_in_a_corpus_do_not_shift_ranks():
    rng = np.random.default_rng(2)
    values = np.concatenate([np.full(4000, 30.0), rng.normal(0, 1, N - 4000)])
    order = rng.permutation(N)
    values = values[order]
    examples = made(values, rng)
    # A scan keeps no text twice: of the 4000 repeats one is among the strongest.
    first = int(np.flatnonzero(values == 30.0)[0])
    kept = [first, *[i for i in np.argsort(-values, kind="stable") if values[i] != 30.0][: K - 1]]
    known = examples.distribution
    known = type(known)(known.histogram, known.ends, values[kept].astype(float), known.sample)
    assert known.quantile(0.9) == 30.0 and known.quantile(0.999) == 30.0
    rest = np.sort(values)
    assert known.quantile((N - 4010) / N) == pytest.approx(rest[N - 4011])  # the eleventh of those that stand once
    assert known.shares_of_top()[1:4] == pytest.approx(1 - (4000 + np.arange(3) + 0.5) / N)


def test_without_a_sample_a_quantile_stays_in_its_bin():
    rng = np.random.default_rng(3)
    values = SHAPES["a neuron behind a GELU"](rng).astype(np.float32)
    examples = made(values, rng, 0)
    for q in SHARES:
        goal = np.sort(values)[max(0, math.ceil(q * N) - 1)]
        assert abs(examples.quantile_value(q) - goal) <= examples.histogram.width


def test_pages_and_comparisons_say_the_same_number():
    rng = np.random.default_rng(4)
    values = SHAPES["a neuron behind a GELU"](rng)
    sample = np.sort(rng.choice(N, S, False)).tolist()
    examples = scanned(values, np.full(N, 3.0), k=K, sample=sample)
    found = compare(saved((5.2, 3.5)), examples)
    assert found.quantile_values == tuple(examples[0].quantile_value(q) for q, _ in found.quantiles)
    pattern = r"([\d.]+) % of the windows are at or below ([^<]+)<"
    said = re.findall(pattern, examples[0].to_html())
    assert said == re.findall(pattern, found.to_html()) and [float(q) for q, _ in said] == [99.9, 99, 90, 50]
    for (q, _), text in zip(found.quantiles, (t for _, t in said), strict=True):
        places = len(text.partition(".")[2])
        assert text == number(examples[0].quantile_value(q), places)
        shown = float(text.replace("\u2212", "-"))
        assert abs((values <= shown).mean() - q) < 4 * math.sqrt(q * (1 - q) / S) + 5e-3
