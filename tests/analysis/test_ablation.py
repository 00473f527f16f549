"""Ablations: against hooks on plain Hugging Face models, with placebos, and refused where they would be wrong."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import dreamy_lens as dl
from dreamy_lens.analysis import ablated_values
from dreamy_lens.analysis.ablation_placebos import placebo_sets
from dreamy_lens.analysis.feature_vectors import locate_vector, placebo_rows
from dreamy_lens.errors import FeatureError, FeatureRangeError, RunFolderError, SettingsError, UnknownHookError
from dreamy_lens.features.parser import parse
from dreamy_lens.models.load import as_hooked
from dreamy_lens.results import Ablation, TokenChange
from tests.helpers.autoencoders import save_sae
from tests.helpers.models import family
from tests.helpers.plain_hooks import modules_of, run_changed
from tests.trust import zoo

IDS = [5, 9, 7, 30, 12]
STREAM = "blocks.1.hook_resid_post[-1, 3]"


def plain_and_bridge(name):
    """A plain model and its bridge: parallel blocks, gated MLPs, norms after components."""
    if name in ("gpt2", "neox", "llama", "gemma2"):
        return family(name).raw, family(name).bridge
    architecture = zoo.ARCHITECTURES[name]
    raw = zoo.plain_model(architecture)
    return raw, zoo.bridge_of(architecture, raw)


def kl(before, after):
    p, q = (x[0, -1].double() for x in (before, after))
    known = as_hooked(family("gpt2").bridge).vocabulary.known
    p, q = (x[: len(known)][torch.from_numpy(known[: len(x)])].log_softmax(-1) for x in (p, q))
    return float((p.exp() * (p - q)).sum())


@pytest.mark.parametrize("name", ["gpt2", "neox", "llama", "gemma2", "GPTJForCausalLM"])
def test_components_without_their_output_are_those_of_the_plain_model(name):
    """Zero ablation of an MLP, an attention and a head, by hooks on the Hugging Face modules; the BOS stays."""
    raw, bridge = plain_and_bridge(name)
    bos = as_hooked(bridge).bos(True)
    row = [*bos, *IDS]

    def without(x):
        x[:, 1:] = 0
        return x

    def headless(x):
        width = x.shape[-1] // 4
        x[:, 1:, 2 * width : 3 * width] = 0
        return x

    def silent(x):
        x[:, 1:, 5] = 0
        return x

    first, last = modules_of(raw, 0), modules_of(raw, 1)
    changes = {
        "L0.MLP": {"outputs": {first["mlp"]: without}},
        "L0.attn": {"outputs": {first["attn"]: without}},
        "L1.H2": {"inputs": {last["heads"]: headless}},
        "L0.N5": {"inputs": {first["neurons"]: silent}},
    }
    plain, _ = run_changed(raw, row)
    for part, change in changes.items():
        found = dl.ablate(part, IDS, bridge, kind="zero", of=STREAM, placebos=0, prepend_bos=True)
        logits, stream = run_changed(raw, row, **change, read=last["block"])
        assert found.values[0, 0, 0] == pytest.approx(float(stream[0, -1, 3]), abs=1e-4), part
        assert found.kl[0, 0] == pytest.approx(kl(plain, logits), abs=1e-4), part
        alone = ablated_values(bridge, STREAM, [IDS], part, "zero", prepend_bos=True)
        assert alone[0] == pytest.approx(float(stream[0, -1, 3]), abs=1e-4), part


def test_mean_and_resample_take_the_activations_of_reference_prompts(gpt2):
    raw, parts = gpt2.raw, modules_of(gpt2.raw, 0)
    texts = ["The dog runs over the hill and the cat sleeps in the house of the king of the hill."]
    kept = []

    def keep(x):
        kept.append(x.clone())
        return x

    scorer = dl.features.bind(STREAM, gpt2.bridge)
    from dreamy_lens.analysis.reference_prompts import reference_prompts
    from dreamy_lens.scoring.scorer import Scorer

    drawn, words = reference_prompts(Scorer(scorer), texts, 16, len(IDS), 0)
    assert words.startswith("windows of 5 tokens")
    for ids in drawn.tolist():
        run_changed(raw, [0, *ids], outputs={parts["mlp"]: keep})
    mean = torch.cat(kept)[:, 1:].flatten(0, 1).mean(0)

    def put_mean(x):
        x[:, 1:] = mean
        return x

    last = modules_of(raw, 1)["block"]
    _, stream = run_changed(raw, [0, *IDS], outputs={parts["mlp"]: put_mean}, read=last)
    found = dl.ablate("L0.MLP", IDS, gpt2.bridge, of=STREAM, reference=texts, placebos=0)
    assert found.values[0, 0, 0] == pytest.approx(float(stream[0, -1, 3]), abs=1e-4)

    several, _ = reference_prompts(Scorer(scorer), texts, 2, len(IDS), 0)
    values = []
    for ids in several.tolist():
        kept.clear()
        run_changed(raw, [0, *ids], outputs={parts["mlp"]: keep})
        other = kept[0]

        def put(x, other=other):
            x[:, 1:] = other[:, 1:]
            return x

        values.append(float(run_changed(raw, [0, *IDS], outputs={parts["mlp"]: put}, read=last)[1][0, -1, 3]))
    settings = {"kind": "resample", "draws": 2, "reference": texts}
    found = dl.ablate("L0.MLP", IDS, gpt2.bridge, of=STREAM, placebos=0, **settings)
    assert found.values[0, 0, 0] == pytest.approx(np.mean(values), abs=1e-4) and found.draws == 2
    alone = ablated_values(gpt2.bridge, STREAM, [IDS], "L0.MLP", **settings)
    assert alone[0] == pytest.approx(np.mean(values), abs=1e-4)


def test_several_parts_are_ablated_alone_and_together(gpt2):
    prompts = [IDS, [8, 41, 3, 77, 20]]
    found = dl.ablate(["L0.H1", "L1.MLP", "L0.N3"], prompts, gpt2.bridge, kind="zero", of=[STREAM], tokens=[8])
    assert found.parts == ("L0.H1", "L1.MLP", "L0.N3", "L0.H1 + L1.MLP + L0.N3")
    assert found.values.shape == (4, 2, 1) and found.log_probs.shape == (4, 2, 1)
    parts = modules_of(gpt2.raw, 0)

    def head(x):
        x[:, 1:, 8:16] = 0
        return x

    def neuron(x):
        x[:, 1:, 3] = 0
        return x

    def mlp(x):
        x[:, 1:] = 0
        return x

    last = modules_of(gpt2.raw, 1)
    for p, ids in enumerate(prompts):
        _, stream = run_changed(
            gpt2.raw,
            [0, *ids],
            inputs={parts["heads"]: head, parts["neurons"]: neuron},
            outputs={last["mlp"]: mlp},
            read=last["block"],
        )
        assert found.values[3, p, 0] == pytest.approx(float(stream[0, -1, 3]), abs=1e-4)
        lone = ablated_values(gpt2.bridge, STREAM, [ids], ["L0.H1", "L1.MLP", "L0.N3"], "zero")
        assert lone[0] == pytest.approx(found.values[3, p, 0], abs=1e-5)


def test_placebos_are_other_components_and_the_same_every_time(gpt2):
    one, two = (dl.ablate("L0.H1", IDS, gpt2.bridge, kind="zero", of=STREAM, placebos=5, seed=3) for _ in range(2))
    assert one.to_dict() == two.to_dict() and one.placebo_values.shape == (1, 5, 1, 1)
    # Heads of the same layer first: all three others are among the placebos.
    for head in ("L0.H0", "L0.H2", "L0.H3"):
        value = dl.ablate(head, IDS, gpt2.bridge, kind="zero", of=STREAM, placebos=0).values[0, 0, 0]
        assert np.abs(one.placebo_values[0, :3, 0, 0] - value).min() < 1e-5
    mlps = dl.ablate(["L0.MLP", "embedding"], IDS, gpt2.bridge, kind="zero", of=STREAM, placebos=4)
    known = np.isfinite(mlps.placebo_kl[:, :, 0]).sum(1)
    assert known.tolist() == [1, 0, 0] and "no placebo: embedding" in mlps.notes[0]


def test_components_of_an_upstream_result_are_taken(gpt2):
    found = dl.upstream("L1.N5", IDS, gpt2.bridge)
    top = found.top(3)
    ablation = dl.ablate(top, IDS, gpt2.bridge, of="L1.N5", placebos=1)
    assert ablation.parts[:3] == tuple(each.component.name for each in top)
    neuron = dl.ablate(found.neurons[0], IDS, gpt2.bridge, placebos=1)
    assert neuron.parts == (found.neurons[0].name,)
    for component in found.components:  # every name of an upstream result is one that can be ablated
        assert ablated_values(gpt2.bridge, "L1.N5", [IDS], component, "zero").shape == (1,)
        assert ablated_values(gpt2.bridge, "L1.N5", [IDS], component.name, "zero").shape == (1,)


def test_prompts_of_several_lengths_and_components_after_the_feature(gpt2):
    prompts = [IDS, IDS[:3], [8, 41, 3, 77, 20]]
    values = ablated_values(gpt2.bridge, "L0.N5", prompts, "L1.MLP")
    plain = [dl.score("L0.N5", [ids], gpt2.bridge).value[0] for ids in prompts]
    np.testing.assert_allclose(values, plain, atol=1e-6)  # what comes later changes nothing
    with pytest.raises(SettingsError, match="have 3, 5 tokens"):
        dl.ablate("L1.MLP", prompts, gpt2.bridge)


def test_a_direction_is_taken_out_of_the_stream(gpt2):
    v = torch.from_numpy(np.random.default_rng(0).normal(size=32).astype(np.float32))

    def project(x):
        x[:, 1:] -= ((x[:, 1:] @ v) / (v @ v))[..., None] * v
        return x

    block = modules_of(gpt2.raw, 0)["block"]
    _, stream = run_changed(gpt2.raw, [0, *IDS], outputs={block: project}, read=modules_of(gpt2.raw, 1)["block"])
    along = dl.hook("blocks.0.hook_resid_post")[-1] @ v
    found = dl.ablate([along], IDS, gpt2.bridge, kind="zero", of=[STREAM, along], placebos=2)
    assert found.values[0, 0] == pytest.approx([float(stream[0, -1, 3]), 0], abs=1e-4)


@pytest.mark.parametrize("kind", ["zero", "mean"])
def test_features_that_overlap_all_reach_their_targets_in_any_order(gpt2, kind):
    """Directions that are not orthogonal, and a unit of the same hook point: their span is taken out of the stream."""
    a, noise = torch.from_numpy(np.random.default_rng(1).normal(size=(2, 32)).astype(np.float32))
    unit = torch.zeros(32)
    unit[3] = 1
    vectors = torch.stack([a, a + 0.5 * noise, unit])
    hook = dl.hook("blocks.0.hook_resid_post")
    features = [hook[-1] @ vectors[0], hook[-1] @ vectors[1], hook[-1, 3]]
    settings = {"kind": kind, "of": [*features, STREAM], "placebos": 3, "seed": 2}
    found = dl.ablate(features, IDS, gpt2.bridge, **settings)
    alone = np.diagonal(found.values[:3, 0, :3])  # each feature at its target
    np.testing.assert_allclose(found.values[3, 0, :3], alone, atol=2e-4)
    backwards = dl.ablate(features[::-1], IDS, gpt2.bridge, **settings)
    np.testing.assert_allclose(backwards.values[3], found.values[3], atol=2e-4)
    assert found.placebo_values.shape == (4, 3, 1, 4) and np.isfinite(found.placebo_values).all()
    if kind == "zero":
        basis = torch.linalg.qr(vectors.T.double()).Q.float()

        def project(x):
            x[:, 1:] -= x[:, 1:] @ basis @ basis.T
            return x

        block = modules_of(gpt2.raw, 0)["block"]
        _, stream = run_changed(gpt2.raw, [0, *IDS], outputs={block: project}, read=modules_of(gpt2.raw, 1)["block"])
        assert found.values[3, 0, 3] == pytest.approx(float(stream[0, -1, 3]), abs=2e-4)


def test_latents_of_one_hook_point_are_read_before_any_is_taken_out(gpt2, tmp_path):
    w = save_sae(tmp_path / "sae", "blocks.0.hook_resid_post")
    latents = [dl.sae_latent(str(tmp_path / "sae"), i) for i in (1, 2, 4)]

    def without(x):
        latent = ((x[:, 1:] - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
        x[:, 1:] -= latent[..., [1, 2, 4]] @ w["W_dec"][[1, 2, 4]]
        return x

    block = modules_of(gpt2.raw, 0)["block"]
    _, stream = run_changed(gpt2.raw, [0, *IDS], outputs={block: without}, read=modules_of(gpt2.raw, 1)["block"])
    for some in (latents, latents[::-1]):
        found = dl.ablate(some, IDS, gpt2.bridge, kind="zero", of=STREAM, placebos=0)
        assert found.values[3, 0, 0] == pytest.approx(float(stream[0, -1, 3]), abs=1e-4)


def test_placebos_of_parts_together_are_distinct_sets_of_other_parts():
    named = {i: [(SimpleNamespace(name=f"{i}{k}", hook="h"), None) for k in range(3)] for i in "ab"}
    shared = [(SimpleNamespace(name=f"L{k}", hook="h"), None) for k in range(3)]
    words = lambda sets: [{part.name for part, _ in some} for some in sets]  # noqa: E731
    assert words(placebo_sets([named["a"], named["b"]], 2)) == [{"a0", "b0"}, {"a1", "b1"}]
    pairs = words(placebo_sets([shared, shared[::-1]], 9))
    assert len(pairs) == 3 and all(len(pair) == 2 for pair in pairs) and len(set(map(frozenset, pairs))) == 3
    assert placebo_sets([shared[:1], shared[:1]], 4) == [] and placebo_sets([[], shared], 4) == []
    assert words(placebo_sets([shared], 2)) == [{"L0"}, {"L1"}]


def test_placebos_of_units_are_units_that_are_not_ablated(gpt2):
    bridge = gpt2.bridge
    vectors = [locate_vector(parse(f"L0.N{i}"), as_hooked(bridge), True) for i in range(3)]
    drawn = placebo_rows(vectors[0], 1000, np.random.default_rng(0), vectors[1:])
    units = sorted(int(row.flatten().argmax()) for (row,) in drawn)
    assert units == list(range(3, bridge.cfg.d_mlp))


def test_mixtures_of_experts_are_ablated_as_a_whole():
    architecture = zoo.ARCHITECTURES["MixtralForCausalLM"]
    raw = zoo.plain_model(architecture)
    bridge = zoo.bridge_of(architecture, raw)
    assert ablated_values(bridge, STREAM, [IDS], "L0.MLP", "zero", prepend_bos=False).shape == (1,)
    with pytest.raises(FeatureError, match="mixture of experts"):
        dl.ablate("L0.E1.N3", IDS, bridge)


def test_what_cannot_be_ablated_is_refused_with_the_reason(gpt2):
    for part, error, words in (
        ("L7.MLP", FeatureRangeError, "there is no layer 7"),
        ("L0.H9", FeatureRangeError, "there is no head 9"),
        ("blocks.1.attn.hook_pattern[0, -1, 0]", FeatureError, "as an attention pattern has"),
        ('logit("he")', FeatureError, "cannot be ablated"),
        ("blocks.9.mlp.hook_pos[-1, 3]", UnknownHookError, "has no hook point"),
    ):
        with pytest.raises(error, match=words):
            dl.ablate(part, IDS, gpt2.bridge)
    for settings in ({"kind": "half"}, {"draws": 0}, {"placebos": -1}, {"kinds": "zero"}):
        with pytest.raises(SettingsError):
            dl.ablate("L0.H1", IDS, gpt2.bridge, **settings)
    with pytest.raises(SettingsError, match="is given twice"):
        dl.ablate(["L0.H1", "L0.H1"], IDS, gpt2.bridge)
    with pytest.raises(SettingsError, match="nothing to ablate"):
        dl.ablate([], IDS, gpt2.bridge)


def test_prompts_and_runs_use_their_own_model_and_template():
    rules = dl.constraints.contexts(["User: {dream} A", "See {dream}"])
    run = dl.dream(
        "L2.N17", iterations=1, population=2, children=4, length=5, constraints=rules, seed=0, search=dl.EPO()
    )
    prompts = [run.frontier.best(), [5, 9, 7, 30, 12]]
    prompt = prompts[0]
    ablation = prompt.ablate("L1.MLP", placebos=0)
    assert ablation.features == (str(dl.neuron(2, 17)),)
    assert any("first context" in note for note in ablation.notes)
    steering = prompt.steer(strengths=5, n_tokens=1, placebos=0, units="raw")
    assert steering.start == len(run.provenance.prefix) + 1 and steering.length == 5
    patching = run.patch(prompt, prompts[1], placebos=0, layers=[2])
    assert patching.denoising.shape[1] == 5 + len(run.provenance.suffix)


def test_results_are_plain_data(gpt2, tmp_path):
    found = dl.ablate(["L0.H1", "embedding"], IDS, gpt2.bridge, of=STREAM, tokens=[8], placebos=2)
    loaded = dl.load(found.save(tmp_path / "ablation.json"))
    assert isinstance(loaded, Ablation)
    assert loaded.to_dict() == found.to_dict() and str(loaded) == str(found) and repr(loaded) == repr(found)
    assert len(found.to_pandas()) == 9
    for name in ("a.svg", "a.csv", "a.html"):
        assert found.save(tmp_path / name).stat().st_size > 400
    (tmp_path / "damaged.json").write_text('{"format": "dreamy_lens ablation", "version": 1}')
    with pytest.raises(RunFolderError, match="no complete ablation"):
        Ablation.load(tmp_path / "damaged.json")


def test_hostile_tokens_stay_text():
    hostile = "<script>alert(1)</script>\u202e"
    one, change = np.ones((1, 1)), TokenChange(1, hostile, 0.1, 0.2, 0.7)
    found = Ablation(
        *("<b>model</b>", "zero", (hostile,), (hostile,), np.array([[1]]), "all", "", 1, 0, ("L0.N1",), (hostile,)),
        *(one, one[None], one[None, None], one, one[None], one, one[None], one, one[None], one[None, None]),
        (((change,),),),
    )
    for page in (found.to_html(), found._repr_html_(), found.plot().svg):
        assert "<script>alert" not in page and "<b>" not in page and "\u202e" not in page
    assert "\u202e" not in str(found)
