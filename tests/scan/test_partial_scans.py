"""Test scans of a small part of a corpus, their memory, interrupts, and invalid settings."""

from __future__ import annotations

import signal

import numpy as np
import pytest

import dreamy_lens as dl
from dreamy_lens.corpus import open_corpus
from dreamy_lens.errors import CorpusError, SettingsError
from dreamy_lens.scan import Scan, ScanConfig, check_memory, scanner, windows_per_block
from dreamy_lens.scan.sampling import MIN_SHARE
from tests.helpers.scans import scanned_in_parts
from tests.helpers.word_corpora import scan, texts

# A small part.


def test_shares_are_in_proportion_or_drawn_in_proportion():
    characters = [3000, 1000, 0, 2000, 4000]
    assert windows_per_block(characters, 100, 0).tolist() == [30, 10, 0, 20, 40]
    drawn = np.array([windows_per_block(characters, 35, seed) for seed in range(2000)])
    assert (drawn.sum(1) == 35).all() and set(np.unique(drawn)) <= {0, 17, 18, 35}  # two points, 17 and 18 windows
    assert np.allclose(drawn.mean(0), [10.5, 3.5, 0, 7, 14], atol=0.9)  # three standard deviations
    assert windows_per_block(characters, 35, 7).tolist() == windows_per_block(characters, 35, 7).tolist()
    assert len(np.unique(drawn, axis=0)) > 2
    assert windows_per_block(characters, 1, 0).sum() == 1 and windows_per_block([], 5, 0).tolist() == []


def test_of_a_small_part_only_blocks_that_are_drawn_are_tokenized(neox, small_blocks, monkeypatch):
    cut, usual = [], scanner.cut_windows
    monkeypatch.setattr(scanner, "cut_windows", lambda block, *rest: (cut.append(block.number), usual(block, *rest))[1])
    corpus = open_corpus(texts(200))
    blocks = len(corpus.block_sizes())
    found = scan(dl.neuron(1, 3), neox, corpus, tokens=6 * 3 * MIN_SHARE)
    assert blocks > 40 and len(set(cut)) == 3
    assert found.counts["windows"] == 3 * MIN_SHARE and found.counts["documents"] == 200
    again = scan(dl.neuron(1, 3), neox, texts(200), tokens=6 * 3 * MIN_SHARE, cache=False)
    assert again.tables.kept.equals(found.tables.kept)
    other = scan(dl.neuron(1, 3), neox, texts(200), tokens=6 * 3 * MIN_SHARE, seed=1)
    assert other.tables.windows["window"].to_pylist() != found.tables.windows["window"].to_pylist()


def test_a_small_part_is_the_same_in_parcels(neox, small_blocks):
    one = Scan(dl.neurons(1), neox.bridge, texts(100), ScanConfig(k=4, length=6, tokens=600, sample=20))
    once, merged = one.scanner().new_checkpoint(), one.scanner().new_checkpoint()
    one.scanner().run(once)
    for part in scanned_in_parts(one, 2000):
        merged.merge(part)
    assert once.counts == merged.counts and once.counts["windows"] == 100
    assert np.array_equal(once.stats.window, merged.stats.window)
    assert np.array_equal(once.stats.counts, merged.stats.counts)


def test_a_part_without_any_window_is_told(neox, small_blocks):
    with pytest.raises(CorpusError, match="Ask for more tokens, or a smaller length"):
        scan(dl.neuron(1, 3), neox, ["a dog"] * 2000 + texts(1), tokens=6, seed=1)


# What is held.


def test_windows_are_forgotten_without_saving(neox, small_blocks, monkeypatch):
    monkeypatch.setattr(scanner, "MIN_STORED", 10)
    settings = ScanConfig(k=4, length=6, sample=0, cross_entropy=False, batch_size=8)
    one = Scan(dl.neuron(1, 3), neox.bridge, texts(300), settings)
    sizes: list[int] = []
    state = one.scanner().new_checkpoint()
    one.scanner().run(state, after=lambda progress, block: sizes.append(len(progress.store)))
    assert state.counts["windows"] > 2000 and max(sizes) <= 10
    found = one.run(cache=False, progress=False)
    monkeypatch.setattr(scanner, "MIN_STORED", 10**9)
    assert one.run(cache=False, progress=False).tables.windows.equals(found.tables.windows)


def test_many_features_are_counted_in_larger_pieces(neox, monkeypatch):
    plain = scan(dl.neurons(1), neox, texts(), batch_size=4, cache=False)
    monkeypatch.setattr(scanner, "MANY_FEATURES", 1)
    counted, usual = [], scanner.Scanner._count
    monkeypatch.setattr(scanner.Scanner, "_count", lambda *a: (counted.append(len(a[4])), usual(*a))[1])
    many = scan(dl.neurons(1), neox, texts(), batch_size=4, cache=False)
    assert max(counted) > 4 * scanner.MAX_PASSES
    assert many.tables.kept.equals(plain.tables.kept) and many.tables.windows.equals(plain.tables.windows)


# Interrupts.


def test_an_interrupt_while_the_corpus_is_read_ends_it_at_once(neox, small_blocks, capsys):
    read, reached = 0, 10**9

    class Texts:
        def __iter__(self):
            nonlocal read
            for i, text in enumerate(texts(200)):
                read += 1
                if i == reached:
                    signal.raise_signal(signal.SIGINT)
                yield text

    corpus = open_corpus(Texts())
    corpus.fingerprint  # noqa: B018  (which reads the first texts)
    read, reached = 0, 20
    with pytest.raises(KeyboardInterrupt):
        scan(dl.neuron(1, 3), neox, corpus, tokens=600, cache=False, progress=True)
    assert read <= 25
    told = capsys.readouterr().err
    assert "reading the corpus" in told and "stopping" not in told


def test_the_first_interrupt_of_a_scan_is_heard(neox, small_blocks, monkeypatch, capsys):
    usual = scanner.Scanner._count

    def interrupting(*arguments):
        monkeypatch.setattr(scanner.Scanner, "_count", usual)
        signal.raise_signal(signal.SIGINT)
        assert "stopping ..." in capsys.readouterr().err  # at once
        usual(*arguments)

    monkeypatch.setattr(scanner.Scanner, "_count", interrupting)
    part = scan(dl.neuron(1, 3), neox, texts(20), batch_size=4, cache=False)
    assert not part.header["complete"] and part.counts["windows"]


# What cannot be.


def test_a_generator_that_is_used_up_is_told(neox):
    used = iter(texts(4))
    scan(dl.neuron(1, 3), neox, used)
    with pytest.raises(CorpusError, match=r"can be read only once.*function"):
        scan(dl.neuron(1, 3), neox, used)


@pytest.mark.parametrize("settings", [{"cross_entropy": "no"}, {"cross_entropy": 1}, {"prepend_bos": "yes"}])
def test_what_is_true_or_false_is_nothing_else(neox, settings):
    with pytest.raises(SettingsError, match="is True or False"):
        scan(dl.neuron(1, 3), neox, texts(), **settings)


def test_more_than_fits_in_memory_is_told(neox):
    with pytest.raises(
        SettingsError, match=r"40 features with k=10,000,000 .* take 7\.5 GB .* at most 5,\d\d\d,\d\d\d"
    ):
        scan(dl.neurons(1), neox, texts(), k=10_000_000)
    with pytest.raises(SettingsError, match="fewer features at a time"):
        check_memory(10_000_000, 64)
    check_memory(700_000, 64)


@pytest.mark.parametrize("cross_entropy", [True, False])
def test_windows_longer_than_a_context_are_told_before_anything_is_read(neox, cross_entropy):
    def unread():
        raise AssertionError("read")
        yield ""

    context = neox.bridge.cfg.n_ctx
    for bos in (True, False):
        with pytest.raises(SettingsError, match=f"use a length of at most {context - bos}"):
            given = {"length": context + 1 - bos, "prepend_bos": bos, "cross_entropy": cross_entropy}
            scan(dl.neuron(1, 3), neox, open_corpus(unread), cache=False, **given)
