"""A scan is opened again if it is of the same model, features and corpus, and of nothing else."""

from __future__ import annotations

import numpy as np
import pytest

import dreamy_lens as dl
from dreamy_lens.errors import ExamplesError, FeatureError
from tests.helpers.word_corpora import scan, texts


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
