"""Bad features, settings and corpora of a scan are told in a sentence; damaged and unwritable files cost nothing."""

from __future__ import annotations

import errno
import json
import os
import shutil

import numpy as np
import pytest

import dreamy_lens as dl
from dreamy_lens.corpus import open_corpus
from dreamy_lens.errors import CorpusError, ExamplesError, FeatureError, ModelError, SettingsError
from dreamy_lens.scan import Examples, Scan, ScanConfig, model_digest
from dreamy_lens.scan.scan_folder import ScanFolder
from dreamy_lens.scan.storage import CHECKPOINT_FILE
from tests.helpers.background import processes
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


@pytest.mark.parametrize(
    ("corpus", "error", "words"),
    [
        ([""], CorpusError, "empty"),
        (["too short"] * 3, CorpusError, "shorter"),
    ],
)
def test_a_corpus_without_windows_is_told(neox, corpus, error, words):
    with pytest.raises(error, match=words):
        scan(dl.neuron(1, 3), neox, corpus, length=20)


@pytest.mark.parametrize(
    "settings", [{"k": 0}, {"length": 0}, {"tokens": 3}, {"sample": -1}, {"stride": 0}, {"k": 2.5}, {"context": -1}]
)
def test_settings_out_of_range_are_told(neox, settings):
    with pytest.raises(SettingsError):
        scan(dl.neuron(1, 3), neox, texts(), **settings)


def test_a_count_of_tokens_may_be_a_text():
    assert ScanConfig(tokens="1.5k") == ScanConfig(tokens=1500)  # pyright: ignore[reportArgumentType]
    with pytest.raises(SettingsError, match=r"'many' is not a count; write for example 500000, 500k or 1\.5M\."):
        ScanConfig(tokens="many")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("model", ["stories/", "stories/a.txt", ["A text.", "Another one."]])
def test_a_corpus_in_the_place_of_the_model_is_told(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stories").mkdir()
    (tmp_path / "stories" / "a.txt").write_text("A text.")
    with pytest.raises(
        ModelError, match=r"The second argument is the model; to scan a corpus, write corpus="
    ) as caught:
        dl.max_activating("L2.N17", model)
    assert str(caught.value).endswith(f"write corpus={model!r}.")


def test_a_feature_that_needs_gradients_is_told(neox):
    import torch

    def slope(a):
        x = a["blocks.0.mlp.hook_post"]
        return torch.autograd.grad(x.sum(), x)[0][:, -1, 0]

    with pytest.raises(FeatureError, match=r"slope.*without gradients"):
        scan(dl.custom("slope", ["blocks.0.mlp.hook_post"], slope), neox, texts())


def test_texts_with_halves_of_characters_and_nul(neox):
    odd = [*texts(3), "a lone \ud800 surrogate and a NUL \x00 in the text " * 5, "\x00" * 50]
    found = scan(dl.neuron(1, 3), neox, odd)
    assert found.header["counts"]["documents"] == 5 and found.header["problem_count"] >= 1


def test_broken_lines_and_files_are_passed_over_and_reported(neox, tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    good = texts(6)
    lines = [json.dumps({"text": good[0]}), '{"text": ', json.dumps({"text": good[1]})]
    (folder / "a.jsonl").write_text("\n".join(lines))
    (folder / "b.jsonl.gz").write_bytes(b"this is no gzip file")
    (folder / "c.txt").write_text(good[2])
    found = scan(dl.neuron(1, 3), neox, folder)
    assert found.header["counts"]["documents"] == 3 and found.header["problem_count"] == 2
    assert any("a.jsonl" in p["name"] for p in found.problems) and any("b.jsonl" in p["name"] for p in found.problems)


def test_a_shard_that_fails_is_reported_by_name_and_the_rest_completes(neox, monkeypatch, tmp_path):
    from dreamy_lens.corpus import files

    monkeypatch.setattr(files, "SMALL", 1)  # small files share a shard
    for i, text in enumerate(texts(3)):
        (tmp_path / f"part{i}.txt").write_text(text)
    corpus = open_corpus(tmp_path)
    usual = corpus.blocks

    def blocks(shard, start=0):
        if shard == 1:
            raise OSError("the disk is on fire")
        return usual(shard, start)

    monkeypatch.setattr(corpus, "blocks", blocks)
    with pytest.warns(RuntimeWarning, match=r"part1.txt.*on fire"):
        found = scan(dl.neuron(1, 3), neox, corpus, cache=False)
    assert found.failed_shards[0]["name"].endswith("part1.txt") and found.header["counts"]["documents"] == 2


def test_a_full_disk_leaves_what_was_saved(neox, small_blocks, tmp_path, monkeypatch):
    from dreamy_lens.scan import scan as scanning

    monkeypatch.setattr(scanning, "SAVE_SECONDS", 0.0)
    usual, calls = os.fsync, 0

    def full(descriptor):
        nonlocal calls
        calls += 1
        if calls > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return usual(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(RuntimeWarning, match=r"No space left.*Make room") as warned:
        found = scan(dl.neurons(1), neox, texts(20), out=tmp_path / "out", batch_size=4)
    assert len(warned) == 1 and found.folder is None and found.header["complete"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [CHECKPOINT_FILE]  # complete, and no partial file
    monkeypatch.setattr(os, "fsync", usual)
    whole = scan(dl.neurons(1), neox, texts(20), out=tmp_path / "out", batch_size=4)
    straight = scan(dl.neurons(1), neox, texts(20), cache=False, batch_size=4)
    assert whole.tables.kept.equals(straight.tables.kept) and found.tables.kept.equals(straight.tables.kept)
    assert found.save(tmp_path / "later") == tmp_path / "later"
    assert Examples.load(tmp_path / "later").tables.kept.equals(straight.tables.kept)


def test_a_model_that_has_moved_is_the_same_model(tmp_path):
    from dreamy_lens.models import as_hooked
    from dreamy_lens.models.embedded import FOLDER

    digests = []
    for name in ("here", "there"):
        shutil.copytree(FOLDER, tmp_path / name)
        digests.append(model_digest(as_hooked(str(tmp_path / name))))
    assert digests[0] == digests[1]
    config = tmp_path / "there" / "config.json"
    config.write_text(config.read_text().replace('"layer_norm_eps": 1e-05', '"layer_norm_eps": 1e-04'))
    shutil.copytree(tmp_path / "there", tmp_path / "changed")
    assert model_digest(as_hooked(str(tmp_path / "changed"))) != digests[0]


SCANNER = """
import sys
import dreamy_lens as dl
from dreamy_lens.corpus import corpus
from dreamy_lens.scan import scan
from tests.helpers import models
from tests.helpers.word_corpora import texts
scan.SAVE_SECONDS, corpus.BLOCK = 0.0, 800
bridge = models.family("neox").bridge
print("ready", flush=True)
sys.stdin.readline()
settings = {"k": 4, "length": 6, "batch_size": 8, "progress": False}
found = dl.max_activating(dl.neurons(1), bridge, texts(6), out=sys.argv[1] + "/scan", **settings)
assert found.header["complete"] and len(found.of("L1.N3").top) == 4
for _ in range(4):
    found.save(sys.argv[1] + "/copy", overwrite=True)
    assert len(dl.scan.Examples.load(sys.argv[1] + "/copy")) == len(found)
"""


@pytest.mark.slow
def test_two_scans_into_one_folder_at_the_same_time_leave_it_whole(neox, small_blocks, tmp_path):
    processes(SCANNER, *[[str(tmp_path / "out")]] * 2)
    straight = scan(dl.neurons(1), neox, texts(6), cache=False, batch_size=8)
    for name in ("scan", "copy"):
        found = Examples.load(tmp_path / "out" / name)
        assert found.header["counts"] == {**straight.header["counts"], "blocks": found.header["counts"]["blocks"]}
        assert_same(found.tables, straight.tables)  # other tests edit weights, and undo it up to rounding
        files = {path.name for path in (tmp_path / "out" / name).iterdir()}
        assert files - {CHECKPOINT_FILE} == {"examples.json", *(f"{t}.parquet" for t in found.tables.parts)}


def test_a_slower_scan_never_replaces_the_state_of_a_longer_one(neox, small_blocks, tmp_path):
    one = Scan(dl.neurons(1), neox.bridge, texts(12), ScanConfig(k=4, length=6, batch_size=8))
    states = {}
    scanner = one.scanner()
    states["long"] = scanner.new_checkpoint()
    scanner.run(states["long"])
    scanner = one.scanner()
    states["short"] = scanner.new_checkpoint()
    scanner.run(states["short"], after=lambda *_: True)
    folder = ScanFolder(tmp_path / "out", cached=False)
    for name, expected in (("short", "short"), ("long", "long"), ("short", "long")):
        assert folder.save_state(states[name], one.identity)
        saved = folder.load_state(one.identity, "cpu")
        assert saved is not None and saved.counts["tokens"] == states[expected].counts["tokens"]
    assert 0 < states["short"].counts["tokens"] < states["long"].counts["tokens"]
    scan(dl.neurons(1), neox, texts(12), out=tmp_path / "done", batch_size=8)
    done = ScanFolder(tmp_path / "done", cached=False)
    assert done.save_results(lambda path: pytest.fail("it was written"), False, 10, one.identity) is None
    assert Examples.load(tmp_path / "done").header["complete"]


@pytest.mark.parametrize("cache", ["/dev/null/x", "/proc/x", "a\0b", "~no_such_user/x", "{long}"])
def test_a_cache_that_cannot_be_written_costs_nothing_but_a_warning(neox, monkeypatch, cache):
    cache = cache.format(long="x" * 300)
    straight = scan(dl.neurons(1), neox, texts(), cache=False)
    if "\0" in cache:
        monkeypatch.setattr(os, "environ", {**os.environ, "DREAMY_LENS_CACHE": cache})
    else:
        monkeypatch.setenv("DREAMY_LENS_CACHE", cache)
    if cache.startswith("~"):  # then the folder for temporary files is used
        found = scan(dl.neurons(1), neox, texts())
        assert found.folder is not None
    else:
        with pytest.warns(RuntimeWarning, match=r"cache folder .* cannot be written: .* goes on without") as warned:
            found = scan(dl.neurons(1), neox, texts())
        assert len(warned) == 1 and found.folder is None
        with pytest.raises(ExamplesError, match=r"cannot be (written|read).*: .+\. [A-Z].+\.$"):  # which was asked for
            scan(dl.neurons(1), neox, texts(), out=cache)
    assert found.tables.kept.equals(straight.tables.kept)


@pytest.mark.parametrize("name", ["examples.json", "kept.parquet", CHECKPOINT_FILE])
def test_a_damaged_cache_is_scanned_again(neox, name):
    first = scan(dl.neurons(1), neox, texts(4, seed=9))
    assert first.folder is not None
    if name == CHECKPOINT_FILE:
        (first.folder / "examples.json").unlink()
    (first.folder / name).write_bytes(b"{ damaged")
    with pytest.warns(RuntimeWarning, match=r"in .*cannot be used: .+") as warned:
        second = scan(dl.neurons(1), neox, texts(4, seed=9))
    assert len(warned) == 1 and second.folder == first.folder
    assert second.tables.kept.equals(Examples.load(first.folder).tables.kept) and second.header["complete"]


def test_what_is_held_does_not_grow_with_the_corpus(neox, small_blocks):
    sizes = []
    for count in (30, 120):
        one = Scan(dl.neuron(1, 3), neox.bridge, texts(count), ScanConfig(k=4, length=6, sample=16))
        state = one.scanner().new_checkpoint()
        most = 0

        def after(progress, block):
            nonlocal most
            progress.prune()
            most = max(most, len(progress.store))
            return False

        one.scanner().run(state, after=after)
        sizes.append(most)
    assert max(sizes) <= 4 + 64 + 16  # kept at most: k, the levels, the sample


def test_progress_is_shown(neox, small_blocks, capsys):
    scan(dl.neurons(1), neox, texts(20), progress=True, cache=False)
    shown = capsys.readouterr().err
    assert "scanning: 100%" in shown and "tokens/s" in shown and "40 features" in shown
