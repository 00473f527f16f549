"""Ensembles: mixtures and products of models with one tokenizer, against Hugging Face's own logits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import dreamy_lens as dl
from dreamy_lens.errors import FeatureError, ModelError, UnknownHookError
from dreamy_lens.models import as_hooked
from tests.helpers.models import raw_model, tokenizer
from tests.helpers.scorers import make_scorer

IDS = np.random.default_rng(0).integers(1, 320, size=(6, 7))
IDS[1:4] = IDS[0]
IDS[1:4, 4] = [3, 4, 5]
TEMPLATE = {"prefix": [5, 6, 7], "suffix": [8]}
MEANS = ["probabilities", "log_probs"]


@pytest.fixture(scope="module")
def members(request):
    """Two models of one tokenizer: of different widths, architectures and numbers of layers."""
    return request.getfixturevalue("gpt2"), request.getfixturevalue("llama")


def log_probs(members, rows, mean):
    """Log probabilities [B, pos, V] of the ensemble, from the plain models."""
    with torch.no_grad():
        each = [family.raw(torch.tensor(rows)).logits.double().log_softmax(-1) for family in members]
    width = min(x.shape[-1] for x in each)
    stacked = torch.stack([x[..., :width] for x in each])
    if mean == "probabilities":
        return stacked.logsumexp(0) - math.log(len(each))
    return stacked.mean(0).log_softmax(-1)


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("template", [{}, TEMPLATE], ids=["alone", "template"])
@pytest.mark.filterwarnings("error::RuntimeWarning")  # of prompts that are scored whole
def test_cross_entropies_are_those_of_the_mean_and_prefixes_are_shared(members, mean, template):
    both = dl.ensemble([family.bridge for family in members], mean=mean)
    scorer = make_scorer("L1.N3", members[0].bridge, fluency_model=as_hooked(both), prepend_bos=True, **template)
    rows = [[members[0].bos, *template.get("prefix", []), *row, *template.get("suffix", [])] for row in IDS.tolist()]
    before = 1 + len(template.get("prefix", []))
    predicted = log_probs(members, rows, mean)[:, before - 1 : before + 6]
    expected = -predicted.gather(-1, torch.from_numpy(IDS)[..., None])[..., 0].mean(-1)
    found = scorer.score(IDS)
    np.testing.assert_allclose(found.cross_entropy, expected, atol=1e-4)
    whole = make_scorer(
        "L1.N3", members[0].bridge, fluency_model=as_hooked(both), prepend_bos=True, share_prefixes=False, **template
    ).score(IDS)
    np.testing.assert_allclose(found.cross_entropy, whole.cross_entropy, atol=1e-4)
    np.testing.assert_allclose(found.value, whole.value, atol=1e-5)
    assert not scorer.forward.unshared  # several rows, and one pass over their distinct prefixes in each member


@pytest.mark.parametrize("mean", MEANS)
def test_gradients_are_exact(members, mean):
    """Against autograd over one-hot tokens, through the plain models' embeddings."""
    both = as_hooked(dl.ensemble([family.bridge for family in members], mean=mean))
    found = make_scorer("logit(9)", both, prepend_bos=True).gradient(IDS[:2])
    width = both.vocabulary.size
    onehot = torch.nn.functional.one_hot(torch.from_numpy(IDS[:2]), width).float().requires_grad_(True)
    scores = []
    for family in members:
        table = family.raw.get_input_embeddings().weight[:width]
        rows = torch.cat([table[family.bos].expand(2, 1, -1), onehot @ table], 1)
        scores.append(family.raw(inputs_embeds=rows).logits.log_softmax(-1)[..., :width])
    stacked = torch.stack(scores)
    combined = stacked.mean(0) if mean == "log_probs" else stacked.logsumexp(0) - math.log(2)
    value = combined[:, -1, 9]
    (expected,) = torch.autograd.grad(value.sum(), onehot, retain_graph=True)
    np.testing.assert_allclose(found.of_value(), expected, atol=2e-4)
    cross_entropy = -(combined[:, :-1].log_softmax(-1) * onehot).sum(-1).mean(-1)
    (expected,) = torch.autograd.grad(cross_entropy.sum(), onehot)
    np.testing.assert_allclose(found.of_cross_entropy(), expected, atol=2e-4)


def test_a_run_is_fluent_for_all_members_and_goes_on_from_its_folder(tmp_path):
    for name, family in (("one", "gpt2"), ("two", "llama")):
        raw_model(family).save_pretrained(tmp_path / name)
        tokenizer().save_pretrained(tmp_path / name)
    names = [str(tmp_path / "one"), str(tmp_path / "two")]
    both = dl.ensemble(names, mean="log_probs")
    settings = {"length": 5, "search": "epo", "population": 3, "children": 6, "progress": False}
    run = dl.dream("L1.N3", names[0], fluency_model=both, iterations=4, **settings)
    best = run.frontier.best()
    assert best.cross_entropy == pytest.approx(
        float(dl.score("L1.N3", np.array(best.ids), names[0], fluency_model=both).cross_entropy[0]), abs=1e-4
    )
    half = dl.dream("L1.N3", names[0], fluency_model=both, iterations=2, **settings)
    half.save(tmp_path / "run")
    opened = dl.load_run(tmp_path / "run")  # the name of an ensemble names its members
    assert opened.fluency_name == both.name == f'ensemble("{names[0]}", "{names[1]}", mean="log_probs")'
    opened.resume(2)
    assert np.array_equal(opened.history.ids, run.history.ids)
    assert as_hooked(both.name).backend.mean == "log_probs"


def test_searches_sample_from_an_ensemble_and_corpora_are_scored_by_it(members):
    both = dl.ensemble([family.bridge for family in members])
    run = dl.dream("L1.N3", members[0].bridge, fluency_model=both, iterations=2, length=5, progress=False)
    assert np.isfinite(run.frontier.cross_entropies).all()
    texts = [f"the dog and the cat {i} are friends over the hill and a cat sings" for i in range(12)]
    settings = {"length": 6, "progress": False, "k": 3, "cache": False}
    examples = dl.max_activating("L1.N3", members[0].bridge, texts, fluency_model=both, **settings)
    for window in examples.of(0).top:
        expected = dl.score("L1.N3", np.array(window.ids), members[0].bridge, fluency_model=both)
        assert window.cross_entropy == pytest.approx(float(expected.cross_entropy[0]), abs=1e-3)
    assert len(dl.generate("the dog", both, 3)) <= 3


def test_a_members_hooks_act_and_switch_sharing_off(members):
    both = as_hooked(dl.ensemble([family.bridge for family in members]))
    scorer = make_scorer("L1.N3", members[0].bridge, fluency_model=both, prepend_bos=True)
    plain = scorer.score(IDS)
    members[1].bridge.add_hook("blocks.1.hook_resid_post", lambda activation, hook: activation * 0.0)
    try:
        assert both.is_hooked
        hooked = scorer.score(IDS)
    finally:
        members[1].bridge.reset_hooks()
    assert not np.allclose(plain.cross_entropy, hooked.cross_entropy)
    np.testing.assert_allclose(scorer.score(IDS).cross_entropy, plain.cross_entropy, atol=1e-5)


def test_what_is_no_ensemble_is_refused(gpt2):
    with pytest.raises(ModelError, match="at least two models, in a list; got"):
        dl.ensemble([gpt2.bridge])
    with pytest.raises(ModelError, match="at least two models, in a list; got 'embedded'"):
        dl.ensemble("embedded")
    with pytest.raises(ModelError, match="one of 'probabilities', 'log_probs'; got 'median'"):
        dl.ensemble([gpt2.bridge, gpt2.bridge], mean="median")
    with pytest.raises(FeatureError, match="different tokenizers"):
        dl.ensemble([gpt2.bridge, dl.load_model()])
    with pytest.raises(UnknownHookError, match=r"ensemble\(.*has no hook point"):
        dl.score("L1.N3", "the dog", dl.ensemble([gpt2.bridge, gpt2.bridge]))
    for name in ('ensemble("a", 3)', "ensemble(a, b)", "ensemble("):
        with pytest.raises(ModelError, match="names no ensemble"):
            as_hooked(name)


def test_the_first_member_decides_whether_a_bos_stands_before_prompts(tmp_path):
    raw_model("gpt2").save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    with_bos, without = dl.load_model(tmp_path), dl.load_model(tmp_path)
    with_bos.cfg.default_prepend_bos, without.cfg.default_prepend_bos = True, False
    assert as_hooked(dl.ensemble([with_bos, without])).prepends_bos
    assert not as_hooked(dl.ensemble([without, with_bos])).prepends_bos
    scores = [dl.score(dl.log_prob(9), IDS[:1], dl.ensemble([without, with_bos]), prepend_bos=b) for b in (None, False)]
    assert scores[0].value == scores[1].value and scores[0].cross_entropy == scores[1].cross_entropy
