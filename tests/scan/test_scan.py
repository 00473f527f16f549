"""A scan finds what scoring every window finds, in all or a part of a corpus."""

from __future__ import annotations

import numpy as np
import pytest

import dreamy_lens as dl
from dreamy_lens.errors import CorpusError
from dreamy_lens.scan import Scan, ScanConfig
from tests.helpers.brute_scan import brute_scan
from tests.helpers.scans import scanned_in_parts
from tests.helpers.word_corpora import scan, texts


def frames(tables):
    features, kept = tables.features.to_pandas(), tables.kept.to_pandas()
    kept = kept.sort_values(["feature", "kind", "rank"]).reset_index(drop=True)
    return features, kept, tables.windows.to_pandas().set_index("window").sort_index()


def assert_same(ours, theirs, atol: float = 1e-4):
    """Assert that tables are equal, up to rounding of values."""
    for a, b in zip(frames(ours), frames(theirs), strict=True):
        assert list(a.index) == list(b.index)
        for name in a.columns:
            left, right = a[name].tolist(), b[name].tolist()
            if name in ("label", "document", "kind"):
                assert left == right
                continue
            for x, y in zip(left, right, strict=True):
                x, y = np.asarray(x, float), np.asarray(y, float)
                if name == "histogram":  # a value at the edge of a bin may round to either side
                    assert x.sum() == y.sum() and np.abs(x - y).max(initial=0) <= 2
                else:
                    assert np.allclose(x, y, atol=atol, rtol=1e-5, equal_nan=True), name


def _features(d_model: int = 32) -> list:
    random = np.random.default_rng(3)
    stream = dl.hook("blocks.1.hook_resid_post")
    return [
        dl.neuron(1, 3),
        dl.logit(9),
        dl.hook("blocks.0.mlp.hook_post")[..., 5].max(),
        *(stream[-1].standardised() @ random.normal(size=d_model).astype(np.float32) for _ in range(2)),
        dl.logit_difference(7),
        dl.hook("blocks.0.attn.hook_pattern")[1, -1, 0],
        dl.neuron(1, 4),
        dl.hook("blocks.0.mlp.hook_post")[2, 1] * dl.neuron(0, 2),
    ]


# Right numbers.


def test_it_finds_what_scoring_every_window_finds(family):
    assert_found_as_by_scoring(family, cross_entropy=True)


def test_without_cross_entropies_too(neox):
    assert_found_as_by_scoring(neox, cross_entropy=False)


def assert_found_as_by_scoring(family, cross_entropy):
    corpus = texts(6, 25)
    found = scan(_features(), family, corpus, cross_entropy=cross_entropy, sample=9, prepend_bos=True, cache=False)
    features = found.tables.features.to_pandas()
    plain = brute_scan(
        _features(), family.bridge, corpus, 4, 6, cross_entropy=cross_entropy, prepend_bos=True,
        sampled=features.sample_windows[0].tolist(), widths=features.histogram_width.tolist(),
    )  # fmt: skip
    assert_same(found.tables, plain)
    assert found.header["counts"]["windows"] == plain.header["counts"]["windows"]
    assert list(found) == [str(dl.parse(f)) for f in _features()]  # in the order that was given


def test_without_bos_and_with_a_stride(neox):
    corpus = texts(4, 30)
    found = scan(dl.neuron(1, 3), neox, corpus, stride=2, length=5, sample=0, context=3, cache=False)
    features = found.tables.features.to_pandas()
    plain = brute_scan(
        [dl.neuron(1, 3)], neox.bridge, corpus, 4, 5, 2, sampled=[], context=3, widths=features.histogram_width.tolist()
    )
    ours, theirs = (frames(t)[1].drop(columns="values") for t in (found.tables, plain))
    assert ours.window.tolist() == theirs.window.tolist() and np.allclose(ours.value, theirs.value, atol=1e-4)
    # The value at the first token is known even where it has no cross-entropy.
    assert not any(np.isnan(v).any() for v in found.tables.kept.to_pandas()["values"])


def test_a_kept_window_is_what_score_says_of_its_ids(family):
    found = scan(dl.neurons(1), family, texts())
    assert len(found) == 40
    for label in list(found)[::13]:
        top = found.of(label).top
        assert len(top) == 4 and [w.value for w in top] == sorted((w.value for w in top), reverse=True)
        scores = dl.score(label, np.array([w.ids for w in top]), family.bridge)
        assert np.allclose(scores.value, [w.value for w in top], atol=1e-4)
        assert np.allclose(scores.cross_entropy, [w.cross_entropy for w in top], atol=1e-4)
        assert np.allclose([w.values[-1] for w in top], [w.value for w in top], atol=1e-4)


def test_stories_on_a_model_of_stories(stories, shared):
    """Scan a real corpus with a trained model and a SentencePiece tokenizer, and score the kept windows again."""
    found = scan([dl.neurons(2), "logit(5)"], stories, shared / "corpora" / "tinystories-train-1000.txt", tokens=6000)
    assert 5700 < found.header["counts"]["tokens"] <= 6000
    for label in (list(found)[3], "logit(5)"):
        top = found.of(label).top
        scores = dl.score(label, np.array([w.ids for w in top]), stories.bridge)
        assert np.allclose(scores.value, [w.value for w in top], atol=1e-3)
        assert all(w.before or w.character == 0 for w in top)


def test_batch_size_changes_nothing_but_rounding(neox):
    one = scan(_features(), neox, texts(), batch_size=3, cache=False)
    other = scan(_features(), neox, texts(), batch_size=64, cache=False)
    assert_same(one.tables, other.tables)


def test_a_feature_that_is_not_a_number_somewhere(neox):
    odd = dl.custom("odd", ["blocks.0.mlp.hook_post"], lambda a: (a["blocks.0.mlp.hook_post"][:, -1, 3]).log())
    found = scan(odd, neox, texts(), cache=False)
    row = found.tables.features.to_pandas().iloc[0]
    assert row.non_finite > 0 and row.windows > 0
    assert row.non_finite + row.windows == found.header["counts"]["windows"]
    assert np.isfinite([w.value for w in found.of(odd).top]).all()


# A part of the corpus.


def test_a_token_budget_draws_from_all_of_the_corpus(neox, small_blocks):
    corpus = texts(40)
    whole = scan(dl.neuron(1, 3), neox, corpus).header["counts"]
    part = scan(dl.neuron(1, 3), neox, corpus, tokens=1200)
    assert 0.9 * 1200 <= part.header["counts"]["tokens"] <= 1200 < whole["tokens"]
    windows = part.tables.windows.to_pandas()
    blocks = np.unique(windows.window.to_numpy() >> 20)
    assert len(blocks) > 0.8 * whole["blocks"]
    assert part.header["counts"]["documents"] == whole["documents"]
    again = scan(dl.neuron(1, 3), neox, corpus, tokens=1200, cache=False)
    assert again.tables.kept.equals(part.tables.kept)
    other = scan(dl.neuron(1, 3), neox, corpus, tokens=1200, seed=1)
    assert set(other.tables.windows["window"].to_pylist()) != set(part.tables.windows["window"].to_pylist())


def test_the_first_tokens_of_a_corpus_that_can_be_read_once(neox, small_blocks):
    found = scan(dl.neuron(1, 3), neox, iter(texts(40)), tokens=1200, seed=None, cache=False)
    assert found.header["counts"]["tokens"] == 1200
    assert scan(dl.neuron(1, 3), neox, iter(texts())).folder is None  # its next texts are others
    with pytest.raises(CorpusError, match="seed=None"):
        scan(dl.neuron(1, 3), neox, iter(texts(40)), tokens=1200)
    start = scan(dl.neuron(1, 3), neox, texts(40), tokens=1200, seed=None, cache=False)
    assert start.tables.kept.equals(found.tables.kept)


def test_parts_scanned_apart_merge_into_the_whole(neox, small_blocks):
    whole = Scan(dl.neurons(1), neox.bridge, texts(30), ScanConfig(k=4, length=6, sample=50))
    once = whole.scanner().new_checkpoint()
    whole.scanner().run(once)
    parts = scanned_in_parts(whole, 2000)
    assert len(parts) > 3
    merged = whole.scanner().new_checkpoint()
    for part in reversed(parts):
        merged.merge(part)
    for name, tensor in once.stats.tensors().items():
        ours = merged.stats.tensors()[name].numpy()
        rounding = 1e-12 if name == "moments" else 0.0  # sums come in another order
        assert np.allclose(ours, tensor.numpy(), rtol=rounding, atol=0.0), name
    once.prune(), merged.prune()
    assert np.array_equal(once.store.number, merged.store.number)
    assert np.array_equal(once.store.ids, merged.store.ids)
    assert once.counts == merged.counts and once.sample.ordered()[0].tolist() == merged.sample.ordered()[0].tolist()
