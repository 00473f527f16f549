"""Features that are read from another model, and sums and differences between models."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import dreamy_lens as dl
from dreamy_lens.api.logit_effect import logit_effect
from dreamy_lens.errors import FeatureError, RunFolderError
from tests.helpers.models import new_bridge, raw_model, tokenizer
from tests.helpers.scorers import make_scorer

IDS = np.random.default_rng(0).integers(1, 320, size=(5, 6))
NEURON = "blocks.1.mlp.hook_post[-1, 3]"


@pytest.fixture(scope="module")
def tuned():
    """A model with the weights of another seed: what fine-tuning would leave."""
    raw = copy.deepcopy(raw_model("gpt2"))
    torch.manual_seed(7)
    with torch.no_grad():
        for weight in raw.parameters():
            weight += torch.randn_like(weight) * 0.05
    return new_bridge("gpt2", raw), raw


def neuron_of(raw, ids, bos):
    found = []
    handle = raw.transformer.h[1].mlp.act.register_forward_hook(lambda m, a, out: found.append(out))
    try:
        with torch.no_grad():
            raw(torch.tensor([[bos, *row] for row in ids.tolist()]))
    finally:
        handle.remove()
    return found[0][:, -1, 3].numpy()


@pytest.mark.parametrize("share", [None, False])
def test_a_difference_between_models_is_that_of_hugging_face(gpt2, tuned, share):
    feature = dl.parse(NEURON) - 0.5 * dl.parse(NEURON).on(gpt2.bridge)
    scorer = make_scorer(feature, tuned[0], prepend_bos=True, share_prefixes=share)
    expected = neuron_of(tuned[1], IDS, gpt2.bos) - 0.5 * neuron_of(gpt2.raw, IDS, gpt2.bos)
    np.testing.assert_allclose(scorer.score(IDS).value, expected, atol=2e-5)
    np.testing.assert_allclose(scorer.values(IDS), expected, atol=2e-5)
    # Fluency is that of the model that the feature is bound to.
    own = make_scorer(NEURON, tuned[0], prepend_bos=True).score(IDS)
    np.testing.assert_allclose(scorer.score(IDS).cross_entropy, own.cross_entropy, atol=2e-5)


def test_its_gradient_is_the_sum_of_both_models_gradients(gpt2, tuned):
    feature = dl.parse(NEURON) - dl.parse("logit(9)").on(gpt2.bridge)
    found = make_scorer(feature, tuned[0], prepend_bos=True).gradient(IDS).of_value()
    first = make_scorer(NEURON, tuned[0], prepend_bos=True).gradient(IDS).of_value()
    second = make_scorer("logit(9)", gpt2.bridge, prepend_bos=True).gradient(IDS).of_value()
    np.testing.assert_allclose(found, first - second, atol=2e-4)


def test_a_run_finds_what_one_model_has_and_the_other_has_not(gpt2, tuned):
    before, after = dl.parse(NEURON).on(gpt2.bridge), dl.parse(NEURON)
    settings = {"iterations": 4, "population": 3, "children": 8, "length": 5, "search": "epo", "progress": False}
    run = dl.dream(after - before, tuned[0], **settings)
    best = run.frontier.best()
    values = [dl.score(NEURON, np.array(best.ids), bridge).value[0] for bridge in (tuned[0], gpt2.bridge)]
    assert best.value == pytest.approx(float(values[0] - values[1]), abs=1e-4) and best.value > 0
    attribution = best.attribution(k=3)
    assert attribution.value == pytest.approx(best.value, abs=1e-4)
    together = dl.dream([after - before, after], tuned[0], **settings)
    np.testing.assert_allclose(together[0].history.value, run.history.value, atol=1e-4)


def test_a_corpus_is_scanned_for_it(gpt2, tuned):
    texts = [f"the dog and the cat {i} are friends over the hill and a cat sings" for i in range(20)]
    feature = dl.parse(NEURON) - dl.parse(NEURON).on(gpt2.bridge)
    examples = dl.max_activating(feature, tuned[0], texts, length=6, progress=False, k=3, cache=False)
    for window in examples.of(0).top:
        expected = dl.score(feature, np.array(window.ids), tuned[0]).value[0]
        assert window.value == pytest.approx(float(expected), abs=1e-4)


def test_it_has_a_text_form_and_a_saved_run_loads_both_models(tmp_path):
    for name in ("base", "tuned"):
        raw_model("gpt2").save_pretrained(tmp_path / name)
        tokenizer().save_pretrained(tmp_path / name)
    feature = dl.parse(f'{NEURON} - {NEURON}.on("{tmp_path / "base"}")')
    assert dl.parse(str(feature)) == feature and hash(dl.parse(str(feature))) == hash(feature)
    assert feature == dl.parse(NEURON) - dl.parse(NEURON).on(tmp_path / "base")
    assert feature.label == 'L1.N3 - L1.N3.on("base")'
    run = dl.dream(feature, str(tmp_path / "tuned"), iterations=1, length=4, search="random", progress=False)
    assert run.frontier.best().value == pytest.approx(0, abs=1e-5)
    run.save(tmp_path / "run")
    assert dl.load_run(tmp_path / "run").resume(1).iteration == 2
    assert dl.parse("L1.N3.on('x')") == dl.neuron(1, 3).on("x") != dl.neuron(1, 3).on("y")


@pytest.mark.parametrize("text", ['{n} - {n}.on("base")', '{n} - mean_cross_entropy("base")'])
def test_a_run_does_not_go_on_if_the_other_model_was_fine_tuned(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    raw = copy.deepcopy(raw_model("gpt2"))
    for name in ("base", "tuned"):
        raw.save_pretrained(name)
        tokenizer().save_pretrained(name)
    run = dl.dream(text.format(n=NEURON), "tuned", iterations=1, length=4, search="random", progress=False)
    run.save("run")
    assert dl.load_run("run").resume(1, progress=False).iteration == 2
    with torch.no_grad():
        for weight in raw.parameters():
            weight += torch.randn_like(weight) * 1e-5  # so little that scores agree
    raw.save_pretrained("base")
    with pytest.raises(
        RunFolderError, match=r"belongs to another model that its feature reads: .* with other weights than"
    ):
        dl.load_run("run").resume(1)


def test_what_does_not_fit_is_refused(gpt2, llama):
    for wrong in (None, "", "  ", 3, True):
        with pytest.raises(FeatureError, match=r"on\(\) takes a model, its Hugging Face id or a folder"):
            dl.neuron(1, 3).on(wrong)
    with pytest.raises(FeatureError, match="different tokenizers"):
        dl.features.bind(dl.neuron(1, 3).on(dl.load_model()), gpt2.bridge)
    with pytest.raises(FeatureError, match=r"there is no unit 99999; .* has"):
        dl.features.bind(dl.neuron(1, 3) + dl.hook("blocks.1.mlp.hook_post")[-1, 99999].on(llama.bridge), gpt2.bridge)
    effect = logit_effect(dl.neuron(1, 3).on(llama.bridge), gpt2.bridge)
    assert not effect and "read from another model" in effect.path


def test_functions_of_the_user_are_tried_on_the_other_model(gpt2, llama):
    bad = dl.custom("bad", ["blocks.1.mlp.hook_post"], lambda h: h["blocks.1.mlp.hook_post"].sum())
    with pytest.raises(FeatureError, match="bad"):
        dl.features.bind(dl.neuron(1, 3) + bad.on(llama.bridge), gpt2.bridge)
