"""Test that a scan, in one call or several, equals scoring every window by itself, and reports what it skipped."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import dreamy_lens as dl
from dreamy_lens.corpus import open_corpus
from dreamy_lens.errors import CorpusError, ExamplesError, FeatureError, ModelError, SettingsError
from dreamy_lens.scan import Checkpoint, Examples, Scan, ScanConfig, model_digest
from dreamy_lens.scan.scan_folder import ScanFolder
from dreamy_lens.scan.storage import CHECKPOINT_FILE
from tests.helpers.background import processes
from tests.helpers.brute_scan import brute_scan
from tests.helpers.quick import quick_ones
from tests.helpers.scans import scanned_in_parts

WORDS = "the dog runs over hill and a cat sleeps in house friends bark she said that big red sun".split()


def texts(count: int = 12, length: int = 60, seed: int = 0) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, size=length)) + f" {i}." for i in range(count)]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMY_LENS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of a few hundred characters, so that a small corpus has several."""
    from dreamy_lens.corpus import corpus as corpora

    monkeypatch.setattr(corpora, "BLOCK", 800)


def scan(features, family, corpus, **settings):
    return dl.max_activating(features, family.bridge, corpus, **{"k": 4, "length": 6, "progress": False, **settings})


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


def identical(ours, theirs) -> bool:
    """Return whether two tables are equal to the last bit."""
    first, second = (t.sort_by(t.schema.names[0]).to_pydict() for t in (ours, theirs))
    return repr(first) == repr(second)


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


# Stopping and going on.


@pytest.mark.parametrize("at", quick_ones([1, 3, 7], [3]))
def test_stopping_anywhere_and_going_on_is_never_having_stopped(neox, small_blocks, tmp_path, at):
    one = Scan(_features(), neox.bridge, texts(20), ScanConfig(k=4, length=6, sample=30, batch_size=4))
    straight = one.run(out=tmp_path / "straight", progress=False)
    scanner, calls = one.scanner(), 0
    state = scanner.new_checkpoint()

    def after(progress, block):
        nonlocal calls
        calls += 1
        return calls % at == 0

    done, rounds = False, 0
    while not done:
        done = scanner.run(state, after=after)
        rounds += 1
        state.save(tmp_path / "state", one.identity)
        scanner, state = one.scanner(), Checkpoint.load(tmp_path / "state", one.identity)
    assert rounds > 1
    pieces = one.build_examples(scanner, state, None)
    for name in ("kept", "windows", "features"):
        assert identical(getattr(pieces.tables, name), getattr(straight.tables, name)), name


CHILD = """
import sys, time
import dreamy_lens as dl
from tests.helpers import models
from dreamy_lens.corpus import corpus
from dreamy_lens.scan import scan, scanner
scan.SAVE_SECONDS, corpus.BLOCK = 0.0, 800
from tests.scan.test_scan import texts
family = models.family("neox")
if "slow" in sys.argv:  # so that there is time to be killed in
    usual = scanner.Scanner._count
    scanner.Scanner._count = lambda *a: (time.sleep(0.2), usual(*a), time.sleep(0.2))[1]
print("ready", flush=True)
dl.max_activating(dl.neurons(1), family.bridge, texts(40), k=4, length=6, out=sys.argv[1], batch_size=8, progress=False)
"""


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_and_counts_nothing_twice(neox, tmp_path):
    folder, script = tmp_path / "scan", tmp_path / "child.py"
    script.write_text(CHILD)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    states = []
    for wait in (0.6, 1.1):
        command = [sys.executable, str(script), str(folder), "slow"]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
        assert child.stdout is not None and child.stdout.readline() == b"ready\n"
        seen = len(states)
        deadline = time.monotonic() + 60
        while not (folder / CHECKPOINT_FILE).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(wait)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        states.append((folder / CHECKPOINT_FILE).stat().st_size)
        assert len(states) == seen + 1 and not (folder / "examples.json").exists()
    subprocess.run([sys.executable, str(script), str(folder)], check=True, env=environment, stdout=subprocess.DEVNULL)
    assert not (folder / CHECKPOINT_FILE).exists()
    killed = Examples.load(folder)
    from dreamy_lens.corpus import corpus as corpora

    former, corpora.BLOCK = corpora.BLOCK, 800
    try:
        straight = scan(dl.neurons(1), neox, texts(40), batch_size=8, cache=False)
    finally:
        corpora.BLOCK = former
    assert killed.header["counts"] == straight.header["counts"]
    for name in ("kept", "windows"):
        assert getattr(killed.tables, name).equals(getattr(straight.tables, name)), name


def test_an_interrupt_gives_what_was_found_and_the_next_call_goes_on(neox, small_blocks, tmp_path, monkeypatch, capsys):
    from dreamy_lens.scan import scanner

    calls, usual = 0, scanner.Scanner._count

    def interrupting(*arguments):
        nonlocal calls
        calls += 1
        if calls == 3:
            signal.raise_signal(signal.SIGINT)  # in the middle of counting
        usual(*arguments)

    monkeypatch.setattr(scanner.Scanner, "_count", interrupting)
    settings = {"out": tmp_path / "out", "batch_size": 4}
    part = scan(dl.neurons(1), neox, texts(20), **settings)
    assert not part.header["complete"] and "call again" in capsys.readouterr().err
    assert 0 < part.header["counts"]["windows"] < 200 and len(part.of("L1.N3").top) == 4
    monkeypatch.setattr(scanner.Scanner, "_count", usual)
    whole = scan(dl.neurons(1), neox, texts(20), **settings)
    assert whole.header["complete"]
    straight = scan(dl.neurons(1), neox, texts(20), cache=False, batch_size=4)
    assert whole.tables.kept.equals(straight.tables.kept) and whole.header["counts"] == straight.header["counts"]


# The cache.


def test_the_same_scan_is_opened_and_another_is_not(neox, gpt2, monkeypatch):
    from dreamy_lens.scan import scanner

    first = scan(dl.neurons(1), neox, texts())
    assert first.folder is not None
    ran = []
    usual = scanner.Scanner.run
    monkeypatch.setattr(scanner.Scanner, "run", lambda *a, **k: (ran.append(1), usual(*a, **k))[1])
    second = scan(dl.neurons(1), neox, texts())
    assert not ran and second.folder == first.folder and second.tables.kept.equals(first.tables.kept)
    for change in (
        {"k": 5}, {"length": 5}, {"stride": 3}, {"cross_entropy": False}, {"tokens": 600}, {"prepend_bos": True},
    ):  # fmt: skip
        ran.clear()
        scan(dl.neurons(1), neox, texts(), **change)
        assert ran, change
    for features, family, corpus in (
        (dl.neurons(0), neox, texts()), (dl.neurons(1), gpt2, texts()), (dl.neurons(1), neox, texts(seed=1)),
    ):  # fmt: skip
        ran.clear()
        scan(features, family, corpus)
        assert ran


def test_an_edited_weight_is_another_model(neox):
    import torch

    first = scan(dl.neurons(1), neox, texts())
    weight = next(p for n, p in neox.bridge.named_parameters() if "mlp" in n and p.ndim == 2)
    before = weight[0, 0].item()
    with torch.no_grad():
        weight[0, 0] += 1
        try:
            second = scan(dl.neurons(1), neox, texts())
        finally:
            weight[0, 0] = before  # to the last bit: other tests compare digests of this model
    assert second.folder != first.folder


def test_functions_of_the_session_and_hooked_models_are_not_cached(neox):
    custom = dl.custom("first", ["blocks.0.mlp.hook_post"], lambda a: a["blocks.0.mlp.hook_post"][:, -1, 0])
    assert scan(custom, neox, texts()).folder is None
    with neox.bridge.hooks(fwd_hooks=[("blocks.0.hook_resid_post", lambda x, hook: x * 0)]):
        assert scan(dl.neuron(1, 3), neox, texts()).folder is None


def test_a_hook_on_a_module_behind_the_feature_changes_cross_entropies_and_no_cache_hides_it(neox, tmp_path):
    block = neox.bridge.original_model.gpt_neox.layers[1].mlp
    clean = scan("L0.N3", neox, texts(), out=tmp_path / "clean")
    cached = scan("L0.N3", neox, texts())
    handle = block.register_forward_hook(lambda module, given, found: found * 5)
    try:
        hooked = scan("L0.N3", neox, texts())
        with pytest.raises(ExamplesError, match="windows that it kept have other scores now"):
            scan("L0.N3", neox, texts(), out=tmp_path / "clean")
        window = hooked.of("L0.N3").top[0]
        with pytest.warns(RuntimeWarning, match="scored whole"):  # the hook is not run on shared prefixes
            score = dl.score("L0.N3", [list(window.ids)], neox.bridge)
        np.testing.assert_allclose(window.cross_entropy, score.cross_entropy[0], atol=1e-4)
    finally:
        handle.remove()
    assert scan("L0.N3", neox, texts()).of("L0.N3").top[0].cross_entropy == cached.of("L0.N3").top[0].cross_entropy
    assert abs(window.cross_entropy - clean.of("L0.N3").top[0].cross_entropy) > 1e-3


def test_what_features_name_is_part_of_what_they_are(neox, tmp_path):
    vector = np.random.default_rng(0).normal(size=32).astype(np.float32)
    np.save(tmp_path / "v.npy", vector)
    text = f'blocks.1.hook_resid_post[-1] @ "{tmp_path / "v.npy"}"'
    first = scan(text, neox, texts())
    np.save(tmp_path / "v.npy", -vector)
    second = scan(text, neox, texts())
    assert second.folder != first.folder and not np.isclose(second.of(0).top[0].value, first.of(0).top[0].value)


def test_a_folder_is_not_opened_for_what_has_other_values(neox, tmp_path):
    post = "blocks.0.mlp.hook_post"
    scan(dl.custom("mine", [post], lambda a: a[post][:, -1, 3]), neox, texts(), out=tmp_path / "out")
    with pytest.raises(ExamplesError, match="other scores now"):
        scan(dl.custom("mine", [post], lambda a: -a[post][:, -1, 3]), neox, texts(), out=tmp_path / "out")
    again = scan(dl.custom("mine", [post], lambda a: a[post][:, -1, 3]), neox, texts(), out=tmp_path / "out")
    assert again.header["complete"]


def test_a_model_that_computes_otherwise_is_scanned_again(gemma2):
    before = scan(dl.neurons(1), gemma2, texts()).of("L1.N3").top[0].value
    module = gemma2.bridge.blocks[0].mlp.original_component
    handle = module.register_forward_hook(lambda m, x, y: -y)  # norms undo factors
    try:
        second = scan(dl.neurons(1), gemma2, texts())
        value = dl.score("L1.N3", np.array(second.of("L1.N3").top[0].ids), gemma2.bridge).value[0]
        assert np.isclose(second.of("L1.N3").top[0].value, value, atol=1e-3)
    finally:
        handle.remove()
    assert not np.isclose(before, second.of("L1.N3").top[0].value)


def test_two_features_of_one_name_are_told_apart_or_refused(neox):
    post = "blocks.0.mlp.hook_post"
    pair = [dl.custom("same", [post], lambda a, i=i: a[post][:, -1, i]) for i in (1, 2)]
    with pytest.raises(FeatureError, match="2 different features are called"):
        scan(pair, neox, texts())


def test_a_folder_of_another_scan_says_what_differs(neox, gpt2, tmp_path):
    scan(dl.neurons(1), neox, texts(), out=tmp_path / "out")
    with pytest.raises(ExamplesError, match="k was 4 and is now 7"):
        scan(dl.neurons(1), neox, texts(), out=tmp_path / "out", k=7)
    with pytest.raises(ExamplesError, match="another scan: model was"):
        scan(dl.neurons(1), gpt2, texts(), out=tmp_path / "out")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("words")
    with pytest.raises(ExamplesError, match="holds no scan"):
        scan(dl.neurons(1), neox, texts(), out=tmp_path / "other")


def test_a_model_with_another_tokenizer_is_told(neox, tmp_path, monkeypatch):
    scan(dl.neurons(1), neox, texts(), out=tmp_path / "out")
    from dreamy_lens.models import as_hooked

    monkeypatch.setattr(as_hooked(neox.bridge).vocabulary, "digest", "another")
    with pytest.raises(ExamplesError, match="tokenizer was"):
        scan(dl.neurons(1), neox, texts(), out=tmp_path / "out")


# Bad input.


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
from tests.scan.test_scan import texts
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
