"""Steering: against hooks on plain Hugging Face models and arithmetic, with placebos, and refused where it is wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import dreamy_lens as dl
from dreamy_lens.errors import (
    FeatureError,
    FeatureRangeError,
    ModelError,
    PromptError,
    RunFolderError,
    SettingsError,
    TokenError,
)
from dreamy_lens.results import Effect, Steering
from tests.helpers.autoencoders import save_sae
from tests.helpers.models import family, new_bridge
from tests.helpers.plain_hooks import modules_of, run_changed
from tests.trust import zoo

IDS = [5, 9, 7, 30, 12]
V = np.random.default_rng(0).normal(size=32).astype(np.float32)
LATER = "blocks.1.hook_resid_post[-1, 3]"


def plain_and_bridge(name):
    """A plain model and its bridge: parallel blocks, gated MLPs, norms after components."""
    if name in ("gpt2", "neox", "llama", "gemma2"):
        return family(name).raw, family(name).bridge
    architecture = zoo.ARCHITECTURES[name]
    raw = zoo.plain_model(architecture)
    return raw, zoo.bridge_of(architecture, raw)


@pytest.mark.parametrize("name", ["gpt2", "neox", "llama", "gemma2", "GPTJForCausalLM"])
def test_neurons_and_directions_move_as_by_hooks_on_the_plain_model(name):
    raw, bridge = plain_and_bridge(name)
    row = [0, *IDS]  # id 0 is the BOS
    first, last = modules_of(raw, 0), modules_of(raw, 1)
    v = torch.from_numpy(V)

    def add(x):
        x[:, 1:] += 1.5 * v
        return x

    def set_along(x):
        x[:, 1:] += ((4.0 - x[:, 1:] @ v) / (v @ v))[..., None] * v
        return x

    def one(x):
        x[:, 1:, 7] += 1.5
        return x

    def set_one(x):
        x[:, -1, 7] = 4.0
        return x

    def clamp_one(x):
        x[:, 1:, 7] = x[:, 1:, 7].clamp(min=0.4)
        return x

    along = dl.hook("blocks.0.hook_resid_post")[-1] @ V
    cases = [
        (along, "add", 1.5, "all", {"outputs": {first["block"]: add}}),
        (along, "set", 4.0, "all", {"outputs": {first["block"]: set_along}}),
        ("L0.N7", "add", 1.5, "all", {"inputs": {first["neurons"]: one}}),
        ("L0.N7", "set", 4.0, "last", {"inputs": {first["neurons"]: set_one}}),
        ("L0.N7", "clamp", 0.4, "all", {"inputs": {first["neurons"]: clamp_one}}),
    ]
    settings = {"units": "raw", "features": [LATER], "n_tokens": 0, "placebos": 0, "prepend_bos": True}
    for feature, mode, strength, positions, change in cases:
        found = dl.steer(
            feature, IDS, bridge, strengths=strength, mode=mode, positions=positions, tokens=[8, 41], **settings
        )
        logits, stream = run_changed(raw, row, **change, read=last["block"])
        assert found.values[0, 1] == pytest.approx(float(stream[0, -1, 3]), abs=1e-4), (feature, mode)
        np.testing.assert_allclose(found[0].logits, logits[0, -1, [8, 41]], atol=1e-4)
        if mode == "set":
            assert found.values[0, 0] == pytest.approx(4.0, abs=1e-4) and found[0].coordinate == pytest.approx(4.0)
        assert found[0].kl > 0


def test_a_strength_of_zero_is_the_untouched_model(gpt2):
    found = dl.steer("L1.N5", IDS, gpt2.bridge, strengths=[0, 3], tokens=[8], n_tokens=4, placebos=2)
    for same in (found[0], *found.placebos[0]):
        assert same.kl == 0.0 and same.values == found.untouched.values and same.logits == found.untouched.logits
        assert same.continuation_ids == found.untouched.continuation_ids
    assert found[1].kl > 0 and found.strengths == (0.0, 3.0)


def test_continuations_are_those_of_the_plain_model_with_the_vector_at_every_new_token(llama):
    raw = llama.raw
    first = modules_of(raw, 0)

    def one(x):
        x[:, 1:, 7] += 6.0
        return x

    row, known = [0, *IDS], len(llama.tokenizer)
    for _ in range(5):
        logits, _ = run_changed(raw, row, inputs={first["neurons"]: one})
        row.append(int(logits[0, -1, :known].argmax()))
    found = dl.steer("L0.N7", IDS, llama.bridge, strengths=6, units="raw", n_tokens=5, placebos=1)
    assert list(found[0].continuation_ids) == row[6:]
    logits, _ = run_changed(raw, row)
    losses = -logits[0, 5:-1].log_softmax(-1)[torch.arange(5), torch.tensor(row[6:])]
    assert found[0].cross_entropy == pytest.approx(float(losses.mean()), abs=1e-4)
    plain = dl.generate(IDS, llama.bridge, n_tokens=5)
    assert found.untouched.continuation_ids == plain.ids and found.untouched.continuation == plain.text


def test_a_strength_counts_deviations_on_reference_prompts(gpt2):
    texts = ["The dog runs over the hill and the cat sleeps in the house of the king."] * 2
    texts = [texts[0], "She said that the big red house over there was her own house and so on."]
    found = dl.steer("L0.N7", IDS, gpt2.bridge, strengths=[2, -1], reference=texts, n_tokens=0, placebos=0)
    assert found.deviation > 0 and "standard deviation" in found.unit and found.units == "sd"
    for strength, value in zip(found.strengths, found.values[:, 0], strict=True):
        assert value - found.untouched.values[0] == pytest.approx(strength * found.deviation, rel=1e-4)
    held = dl.steer("L0.N7", IDS, gpt2.bridge, strengths=2, mode="set", reference=texts, n_tokens=0, placebos=0)
    assert held.values[0, 0] == pytest.approx(held.mean + 2 * held.deviation, rel=1e-4)
    assert (held.mean, held.deviation) == (found.mean, found.deviation)
    own = dl.steer("L0.N7", IDS, gpt2.bridge, strengths=2, n_tokens=0, placebos=0)
    assert "that the model writes" in own.reference
    # Minus a feature rises where the feature falls.
    minus = dl.steer("-1 * L0.N7", IDS, gpt2.bridge, strengths=2, reference=texts, n_tokens=0, placebos=0)
    assert minus.values[0, 0] - minus.untouched.values[0] == pytest.approx(2 * found.deviation, rel=1e-4)


def test_latents_are_moved_along_their_decoder_row(gpt2, tmp_path):
    w = save_sae(tmp_path / "sae", "blocks.0.hook_resid_post")
    latent = dl.sae_latent(str(tmp_path / "sae"), 2)
    block = modules_of(gpt2.raw, 0)["block"]

    def current(x):
        return ((x - w["b_dec"]) @ w["W_enc"][:, 2] + w["b_enc"][2]).relu()

    def add(x):
        x[:, 1:] += 0.7 * w["W_dec"][2]
        return x

    def put(x):
        x[:, 1:] += (3.0 - current(x[:, 1:]))[..., None] * w["W_dec"][2]
        return x

    settings = {"units": "raw", "features": [LATER], "n_tokens": 0, "placebos": 1}
    for mode, strength, change in (("add", 0.7, add), ("set", 3.0, put)):
        found = dl.steer(latent, IDS, gpt2.bridge, mode=mode, strengths=strength, **settings)
        _, stream = run_changed(gpt2.raw, [0, *IDS], outputs={block: change}, read=modules_of(gpt2.raw, 1)["block"])
        assert found.values[0, 1] == pytest.approx(float(stream[0, -1, 3]), abs=1e-4)
        assert any("row of the decoder" in note for note in found.notes)


def test_a_transcoder_is_read_at_one_place_and_written_at_another(gpt2, tmp_path):
    w = save_sae(tmp_path / "tc", "blocks.0.hook_resid_pre", "blocks.0.hook_mlp_out")
    latent = dl.sae_latent(str(tmp_path / "tc"), 2)
    parts = modules_of(gpt2.raw, 0)
    kept = {}

    def look(x):
        kept["latent"] = ((x - w["b_dec"]) @ w["W_enc"][:, 2] + w["b_enc"][2]).relu()
        return x

    def put(x):
        x[:, 1:] += (3.0 - kept["latent"][:, 1:])[..., None] * w["W_dec"][2]
        return x

    found = dl.steer(
        latent, IDS, gpt2.bridge, mode="set", strengths=3, units="raw", features=LATER, n_tokens=0, placebos=0
    )
    _, stream = run_changed(
        gpt2.raw,
        [0, *IDS],
        inputs={parts["block"]: look},
        outputs={parts["mlp"]: put},
        read=modules_of(gpt2.raw, 1)["block"],
    )
    assert found.values[0, 1] == pytest.approx(float(stream[0, -1, 3]), abs=1e-4)
    assert found.values[0, 0] == found.untouched.values[0]  # read before it is written
    assert any("computed before the change" in note for note in found.notes)


def test_a_cross_layer_transcoder_writes_at_every_layer_from_its_own_on(gpt2, tmp_path):
    g = torch.Generator().manual_seed(4)
    rows = torch.randn(6, 2, 32, generator=g)
    encoder, bias = torch.randn(6, 32, generator=g), torch.randn(6, generator=g)
    save_file({"W_enc_0": encoder, "b_enc_0": bias}, tmp_path / "W_enc_0.safetensors")
    save_file({"W_dec_0": rows}, tmp_path / "W_dec_0.safetensors")
    hooks = "feature_input_hook: mlp.hook_in\nfeature_output_hook: mlp.hook_out\n"
    (tmp_path / "config.yaml").write_text(hooks)
    latent = dl.sae_latent(tmp_path / "W_enc_0.safetensors", 4)
    first, last = modules_of(gpt2.raw, 0), modules_of(gpt2.raw, 1)
    kept = {}

    def look(x):
        kept["latent"] = (x @ encoder[4] + bias[4]).relu()
        return x

    def put(x, layer):
        x[:, 1:] += (3.0 - kept["latent"][:, 1:])[..., None] * rows[4, layer]
        return x

    found = dl.steer(
        latent, IDS, gpt2.bridge, mode="set", strengths=3, units="raw", features=LATER, n_tokens=0, placebos=1
    )
    _, stream = run_changed(
        gpt2.raw,
        [0, *IDS],
        inputs={first["mlp"]: look},
        outputs={first["mlp"]: lambda x: put(x, 0), last["mlp"]: lambda x: put(x, 1)},
        read=last["block"],
    )
    assert found.values[0, 1] == pytest.approx(float(stream[0, -1, 3]), abs=1e-4)


def test_placebos_are_the_same_every_time_and_move_as_far(gpt2):
    along = dl.hook("blocks.0.hook_resid_post")[-1] @ V
    settings = {"strengths": [3.0], "n_tokens": 0, "placebos": 3, "units": "raw"}
    stream = dl.hook("blocks.0.hook_resid_post")[-1]
    plain = dl.score(stream.norm(), [IDS], gpt2.bridge).value[0]
    found, again = (dl.steer(along, IDS, gpt2.bridge, **settings, seed=5) for _ in range(2))
    assert found.to_dict() == again.to_dict()
    assert not np.array_equal(found.placebo_kl, dl.steer(along, IDS, gpt2.bridge, **settings, seed=6).placebo_kl)
    assert len(set(found.placebo_kl[0])) == 3 and plain > 0
    # A neuron's placebos are other neurons: each raises its own activation by as much.
    others = [f"L0.N{i}" for i in range(40) if i != 7]
    moved = dl.steer("L0.N7", IDS, gpt2.bridge, features=others, **settings)
    for placebo in moved.placebos[0]:
        change = np.array(placebo.values) - moved.untouched.values
        assert np.flatnonzero(np.abs(change) > 1e-6).size == 1 and change.max() == pytest.approx(3.0, abs=1e-4)


def test_positions_are_those_of_features(gpt2):
    rows = {"all": range(1, 6), "last": [5], 0: [1], -2: [4], (1, 2): [2, 3], "bos": [0]}
    block = modules_of(gpt2.raw, 0)["neurons"]
    for positions, places in rows.items():

        def put(x, places=tuple(places)):
            x[:, list(places), 7] += 2.0
            return x

        given = list(positions) if isinstance(positions, tuple) else positions
        found = dl.steer(
            "L0.N7", IDS, gpt2.bridge, strengths=2, units="raw", positions=given, features=LATER, n_tokens=0, placebos=0
        )
        _, stream = run_changed(gpt2.raw, [0, *IDS], inputs={block: put}, read=modules_of(gpt2.raw, 1)["block"])
        assert found.values[0, 1] == pytest.approx(float(stream[0, -1, 3]), abs=1e-4), positions
    for suffix, whose in (((), "the prompt"), ((9, 8), "the template")):
        last = dl.steer("L0.N7", IDS, gpt2.bridge, strengths=2, positions="last", suffix=suffix, n_tokens=0, placebos=0)
        assert last.positions == f"the last token of {whose}"
    cut = dl.steer("L0.N7", IDS, gpt2.bridge, strengths=2, positions=slice(1, 3), n_tokens=0, placebos=0)
    assert cut.positions == "positions 1, 2"


def test_the_model_and_the_hooks_of_the_user_stay(gpt2):
    model = new_bridge("gpt2", gpt2.raw)
    calls = []

    def double(x, hook):
        calls.append(hook.name)
        return 2 * x

    model.add_hook("blocks.0.mlp.hook_post", double)
    before = dl.score(LATER, [IDS], model).value
    found = dl.steer("L0.N7", IDS, model, strengths=2, units="raw", features=LATER, n_tokens=2, placebos=1)
    assert found.untouched.values[1] == pytest.approx(float(before[0]), abs=1e-5)
    block = modules_of(gpt2.raw, 0)["neurons"]

    def both(x):
        x = 2 * x
        x[:, 1:, 7] += 2.0  # the feature moves after the hooks of the user
        return x

    _, stream = run_changed(gpt2.raw, [0, *IDS], inputs={block: both}, read=modules_of(gpt2.raw, 1)["block"])
    assert found.values[0, 1] == pytest.approx(float(stream[0, -1, 3]), abs=1e-4)
    count = len(calls)
    np.testing.assert_array_equal(dl.score(LATER, [IDS], model).value, before)
    assert len(calls) > count
    with pytest.raises(RuntimeError, match="stop"):

        def fail(x, hook):
            raise RuntimeError("stop")

        model.add_hook("blocks.1.hook_resid_post", fail)
        dl.steer("L0.N7", IDS, model, strengths=2, units="raw", n_tokens=0)
    model.reset_hooks()
    points = [p for p in model.hook_dict.values() if p.fwd_hooks or p._forward_hooks]
    assert not points
    plain = dl.score(LATER, [IDS], gpt2.bridge).value
    np.testing.assert_allclose(dl.score(LATER, [IDS], model).value, plain, atol=1e-6)


def test_what_cannot_be_steered_is_refused_with_the_reason(gpt2):
    for feature, reason in (
        ('logit("he")', "is a logit itself"),
        ("blocks.1.attn.hook_pattern[0, -1, 0]", "as an attention pattern has"),
        (dl.neuron(1, 2) * dl.neuron(1, 3), "made of several features"),
        (dl.custom("own", ["blocks.0.hook_resid_post"], lambda a: a["blocks.0.hook_resid_post"][:, -1, 0]), "your own"),
        (dl.hook("blocks.0.hook_resid_post")[-1].norm(), "length of a vector"),
    ):
        with pytest.raises(FeatureError, match=reason):
            dl.steer(feature, IDS, gpt2.bridge)
    cosine = dl.hook("blocks.0.hook_resid_post")[-1].cosine(V)
    with pytest.raises(FeatureError, match='Use mode="add"'):
        dl.steer(cosine, IDS, gpt2.bridge, mode="set")
    assert dl.steer(cosine, IDS, gpt2.bridge, strengths=3, n_tokens=0, placebos=0).values[0, 0] > 0


def test_settings_that_cannot_be_are_told(gpt2):
    for settings in (
        {"mode": "push"},
        {"units": "volts"},
        {"strengths": "many"},
        {"strengths": []},
        {"strengths": [float("nan")]},
        {"n_tokens": -1},
        {"placebos": 1.5},
        {"positions": "first"},
        {"positions": []},
        {"strength": 3},
    ):
        with pytest.raises(SettingsError):
            dl.steer("L0.N7", IDS, gpt2.bridge, **settings)
    with pytest.raises(FeatureRangeError, match="there is no position 9"):
        dl.steer("L0.N7", IDS, gpt2.bridge, positions=9)
    with pytest.raises(PromptError, match="One prompt is steered at a time"):
        dl.steer("L0.N7", [IDS, IDS], gpt2.bridge)
    with pytest.raises(TokenError):
        dl.steer("L0.N7", IDS, gpt2.bridge, tokens=["two whole words"])
    with pytest.raises(FeatureError, match="one pass"):
        dl.steer("L0.N7", IDS, gpt2.bridge, features=['log_prob("he dog runs")'])


def test_models_that_see_later_tokens_write_nothing():
    architecture = zoo.ARCHITECTURES["BertForMaskedLM"] if "BertForMaskedLM" in zoo.ARCHITECTURES else None
    if architecture is None:
        pytest.skip("no model of this kind among the small ones")
    model = zoo.bridge_of(architecture, zoo.plain_model(architecture))
    with pytest.raises(ModelError, match="n_tokens=0"):
        dl.steer("L0.N7", IDS, model, units="raw", strengths=1)


def test_results_are_plain_data(gpt2, tmp_path):
    found = dl.steer("L0.N7", IDS, gpt2.bridge, strengths=[1, 3], tokens=[8], features=[LATER], n_tokens=3, placebos=2)
    loaded = dl.load(found.save(tmp_path / "steering.json"))
    assert isinstance(loaded, Steering)
    assert loaded.to_dict() == found.to_dict() and str(loaded) == str(found) and repr(loaded) == repr(found)
    frame = found.to_pandas()
    assert list(frame["kind"]) == ["untouched", "feature", "feature", *["placebo"] * 4]
    for name in ("s.svg", "s.csv", "s.html"):
        assert found.save(tmp_path / name).stat().st_size > 400
    (tmp_path / "damaged.json").write_text('{"format": "dreamy_lens steering", "version": 1}')
    with pytest.raises(RunFolderError, match="no complete steering"):
        Steering.load(tmp_path / "damaged.json")


def test_hostile_tokens_stay_text():
    hostile = "<script>alert(1)</script>\u202e"
    effect = Effect(1.0, 1.0, 0.5, (1.0,), (1.0,), (-1.0,), (), hostile, (1,), 2.0)
    ids, words = np.array([1, 2]), ("add", "raw", "unit", None, None, "", "all", "others")
    found = Steering(
        *("L0.N1", "<b>model</b>", hostile, ids, (hostile, "\n"), 0, 2, *words, 0, (hostile,), ("L0.N1",)),
        *(effect, (effect,), ((effect,),)),
    )
    for page in (found.to_html(), found._repr_html_(), found.plot().svg):
        assert "<script>alert" not in page and "<b>" not in page and "\u202e" not in page
    assert "\u202e" not in str(found)
