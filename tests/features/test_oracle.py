"""Every kind of feature against arithmetic on the plain Hugging Face model's activations, which no bridge touched."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import dreamy_lens as dl
from tests.helpers.by_hand import Pass
from tests.helpers.models import Family, compatible, new_bridge

LENGTH = 9
PROMPTS = 4


class Setting:
    """A family's model on a few random prompts, with or without BOS, and its plain pass over them."""

    def __init__(self, family: Family, bos: bool) -> None:
        self.family, self.bos = family, bos
        allowed = torch.tensor([i for i in range(len(family.tokenizer)) if i not in family.tokenizer.all_special_ids])
        g = torch.Generator().manual_seed(7)
        self.ids = allowed[torch.randint(len(allowed), (PROMPTS, LENGTH), generator=g)]
        before = torch.full((PROMPTS, int(bos)), family.bos)
        with torch.no_grad():
            self.by_hand = Pass(family, torch.cat([before, self.ids], 1))
        self.tokens = torch.arange(int(bos), LENGTH + int(bos))  # the places of the prompt's tokens
        self.vector = torch.randn(family.raw.config.hidden_size, generator=g)

    def agree(self, feature, expected: torch.Tensor) -> None:
        """The feature's values are the expected ones `[PROMPTS]` to 1e-5 of their size, and differ between prompts."""
        assert expected.shape == (PROMPTS,)
        found = dl.score(feature, self.ids, self.family.bridge, prepend_bos=self.bos).value
        assert found.dtype == np.float32
        scale = max(1.0, expected.abs().max().item())
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-5 * scale, rtol=0, err_msg=str(feature))
        assert found.std() > 1e-4, f"{feature} hardly depends on the prompt here, so this would prove nothing"


@pytest.fixture(scope="session", params=[True, False], ids=["bos", "no_bos"])
def setting(any_family, request) -> Setting:
    return Setting(any_family, request.param)


def mid_is_there(setting: Setting) -> bool:
    return setting.family.name != "neox"  # attention and MLP read the same stream there


# Activations as they are.


@pytest.mark.parametrize(
    "point", ["mlp.hook_pre", "mlp.hook_post", "hook_resid_pre", "hook_resid_mid", "hook_resid_post"]
)
def test_units_at_one_position(setting, point):
    layer = int(setting.bos)  # each layer with every family and point, without trying every pair
    if point == "hook_resid_mid" and not mid_is_there(setting):
        pytest.skip("this architecture has no middle of the residual stream")
    x = getattr(setting.by_hand, point.replace("mlp.hook", "mlp").replace("hook_", ""))(layer)[:, setting.tokens]
    hook = dl.hook(f"blocks.{layer}.{point}")
    unit = int(x.std(0).amin(0).argmax())  # one that depends on the prompt everywhere
    setting.agree(hook[-1, unit], x[:, LENGTH - 1, unit])
    setting.agree(hook[0, unit - x.shape[-1]], x[:, 0, unit])
    setting.agree(hook[-3, unit], x[:, LENGTH - 3, unit])
    setting.agree(f"blocks.{layer}.{point}[4, {unit}]", x[:, 4, unit])


def test_neurons_by_their_short_name(setting):
    setting.agree("L1.N30", setting.by_hand.mlp_post(1)[:, -1, 30])
    setting.agree(dl.neuron(0, 3, position=2), setting.by_hand.mlp_post(0)[:, setting.tokens[2], 3])


def test_attention_scores_patterns_and_head_outputs(setting):
    layer = int(setting.bos)
    scores, pattern, z = (getattr(setting.by_hand, what)(layer) for what in ("scores", "pattern", "z"))
    at = setting.tokens
    block = f"blocks.{layer}.attn"
    for head, query, key in ((0, -1, -2), (3, 5, 3), (1, 4, 4)):
        setting.agree(dl.hook(f"{block}.hook_attn_scores")[head, query, key], scores[:, head, at[query], at[key]])
        setting.agree(dl.hook(f"{block}.hook_pattern")[head, query, key], pattern[:, head, at[query], at[key]])
    setting.agree(dl.hook(f"{block}.hook_z")[-1, 2, 4], z[:, -1, 2, 4])
    setting.agree(dl.hook(f"{block}.hook_z")[3, 1].norm(), z[:, at[3], 1].pow(2).sum(-1).sqrt())
    q, k, v = setting.by_hand.qkv(layer)
    for name, x in (("q", q), ("k", k), ("v", v)):
        setting.agree(dl.hook(f"{block}.hook_{name}")[-2, 1, 5], x[:, -2, 1, 5])


def test_the_bos_is_a_position_of_its_own(setting):
    if not setting.bos:
        return
    for layer in (0, 1):
        pattern = setting.by_hand.pattern(layer)
        setting.agree(dl.hook(f"blocks.{layer}.attn.hook_pattern")[2, 2, "bos"], pattern[:, 2, 3, 0])
        scores = setting.by_hand.scores(layer)
        setting.agree(dl.hook(f"blocks.{layer}.attn.hook_attn_scores")[0, 1, "bos"], scores[:, 0, 2, 0])


def test_a_head_s_contribution_to_the_residual_stream(setting):
    """`hook_result` is gated in TransformerLens: it is computed on request only."""
    attention = setting.by_hand.attention(1)
    z = setting.by_hand.z(1)[:, -1, 2]  # [batch, d_head]
    width = z.shape[-1]
    out = next(getattr(attention, n) for n in ("c_proj", "dense", "o_proj") if hasattr(attention, n))
    weight = out.weight if setting.family.name == "gpt2" else out.weight.T  # Conv1D keeps it the other way round
    expected = z @ weight[2 * width : 3 * width].detach()
    setting.agree(dl.hook("blocks.1.attn.hook_result")[-1, 2] @ setting.vector, expected @ setting.vector)


# Reductions over units.


def test_projections_cosines_and_norms(setting):
    v, point = setting.vector, "blocks.1.hook_resid_post"
    h = setting.by_hand.resid_post(1)[:, setting.tokens].double()
    last, v64 = h[:, -1], v.double()
    length = last.pow(2).sum(-1).sqrt()
    setting.agree(dl.hook(point)[-1] @ v, last @ v64)
    setting.agree(dl.hook(point)[-1].cosine(v), (last @ v64) / (length * v64.pow(2).sum().sqrt()))
    setting.agree(dl.hook(point)[-1].norm(), length)
    mean = last.mean(-1, keepdim=True)
    deviation = ((last - mean) ** 2).mean(-1, keepdim=True).sqrt()
    setting.agree(dl.hook(point)[-1].standardised() @ v, ((last - mean) / deviation) @ v64)
    setting.agree(dl.hook(point)[-1, 3:20:4].norm(), last[:, 3:20:4].pow(2).sum(-1).sqrt())


def test_standardised_projections_of_equation_4_at_every_position(setting):
    h = setting.by_hand.resid_pre(1)[:, setting.tokens].double()
    each = (h - h.mean(-1, keepdim=True)) / h.std(-1, keepdim=True, unbiased=False) @ setting.vector.double()
    standardised = dl.hook("blocks.1.hook_resid_pre").standardised() @ setting.vector
    setting.agree(standardised.max(), each.max(-1).values)
    setting.agree(standardised.mean(), each.mean(-1))


def test_directions_from_files(setting, tmp_path):
    path = tmp_path / "v.safetensors"
    save_file({"one": setting.vector, "two": 2 * setting.vector}, path)
    np.save(tmp_path / "v.npy", setting.vector.numpy())
    expected = setting.by_hand.resid_post(0)[:, -1] @ setting.vector
    setting.agree(f'blocks.0.hook_resid_post[-1] @ "{(tmp_path / "v.npy").as_posix()}"', expected)
    setting.agree(dl.hook("blocks.0.hook_resid_post")[-1] @ f"{path}:two", 2 * expected)


# Reductions over positions.


def test_maxima_and_means_over_positions_leave_the_bos_out(setting):
    x = setting.by_hand.mlp_pre(0)[:, setting.tokens, 7]
    hook = dl.hook("blocks.0.mlp.hook_pre")
    setting.agree(hook[..., 7].max(), x.max(-1).values)
    setting.agree(hook[..., 7].mean(), x.mean(-1))
    setting.agree(hook[2:6, 7].max(), x[:, 2:6].max(-1).values)
    setting.agree(hook[-4:, 7].mean(), x[:, -4:].mean(-1))
    setting.agree(hook[1::3, 7].mean(), x[:, 1::3].mean(-1))
    setting.agree(hook[:-2, 7].max(), x[:, :-2].max(-1).values)
    pattern = setting.by_hand.pattern(1)[:, :, setting.tokens][..., setting.tokens]
    setting.agree(dl.hook("blocks.1.attn.hook_pattern")[1, 1:, :4].mean(), pattern[:, 1, 1:, :4].mean((-1, -2)))
    setting.agree(dl.hook("blocks.1.attn.hook_pattern")[1, :, 2].max(), pattern[:, 1, :, 2].max(-1).values)


# The output.


@pytest.mark.parametrize("position", [-1, 0, 4])
def test_logits_runner_ups_and_log_probabilities(setting, position):
    logits = setting.by_hand.logits[:, setting.tokens[position]]
    if setting.family.name == "gemma2":
        assert logits.abs().max() <= 5.0  # after the soft cap
    for token in (int(setting.ids[0, 0]), int(logits[0].argmax())):
        others = torch.cat([logits[:, :token], logits[:, token + 1 :]], -1).max(-1).values
        setting.agree(dl.logit(token, position), logits[:, token])
        setting.agree(dl.logit.runner_up(token, position), others)
        setting.agree(dl.logit_difference(token, position), logits[:, token] - others)
        probability = logits.double().exp()[:, token] / logits.double().exp().sum(-1)
        setting.agree(dl.log_prob(token, position), probability.log())


def test_tokens_by_their_text(setting):
    piece = " the" if setting.family.name != "stories" else "dog"
    (token,) = setting.family.tokenizer.encode(piece, add_special_tokens=False)[-1:]
    if setting.family.name == "stories":
        piece = token
    setting.agree(dl.logit(piece), setting.by_hand.logits[:, -1, token])
    everywhere = setting.by_hand.log_probs()[:, setting.tokens, token]
    setting.agree(dl.log_prob(piece, slice(None)).mean(), everywhere.mean(-1))
    setting.agree(dl.log_prob(piece, slice(2, 5)).max(), everywhere[:, 2:5].max(-1).values)


# Cross-entropy (Eq. 1).


def test_cross_entropy_charges_every_token_that_something_precedes(setting):
    charged = setting.ids if setting.bos else setting.ids[:, 1:]
    expected = setting.by_hand.cross_entropy(charged)
    scores = dl.score("L0.N0", setting.ids, setting.family.bridge, prepend_bos=setting.bos)
    np.testing.assert_allclose(scores.cross_entropy, expected.numpy(), atol=2e-5, rtol=0)
    assert scores.cross_entropy.dtype == np.float32
    setting.agree(dl.features.mean_cross_entropy(), expected)


def test_the_model_s_convention_decides_about_the_bos(any_family):
    setting = Setting(any_family, bos=True)
    explicit = [dl.score("L1.N3", setting.ids, any_family.bridge, prepend_bos=bos) for bos in (True, False)]
    default = dl.score("L1.N3", setting.ids, any_family.bridge)
    prepends = any_family.name != "neox"
    np.testing.assert_array_equal(default.value, explicit[not prepends].value)
    np.testing.assert_array_equal(default.cross_entropy, explicit[not prepends].cross_entropy)
    assert not np.allclose(explicit[0].value, explicit[1].value)


def test_cross_entropy_under_another_model(gpt2, llama):
    setting = Setting(gpt2, bos=True)
    other = Setting(llama, bos=True)
    expected = other.by_hand.cross_entropy(other.ids)
    setting.agree(dl.features.mean_cross_entropy(llama.bridge), expected)
    scores = dl.score("L0.N0", setting.ids, gpt2.bridge, fluency_model=llama.bridge, prepend_bos=True)
    np.testing.assert_allclose(scores.cross_entropy, expected.numpy(), atol=2e-5, rtol=0)
    np.testing.assert_allclose(scores.value, setting.by_hand.mlp_post(0)[:, -1, 0].numpy(), atol=1e-5)


@pytest.mark.parametrize("bos", [True, False])
def test_a_template_is_read_but_only_the_prompt_is_charged(family, bos):
    setting = Setting(family, bos)
    prefix, suffix = [5, 90, 33], [61, 200]
    around = [torch.tensor(part).expand(PROMPTS, -1) for part in ([family.bos] * bos + prefix, suffix)]
    with torch.no_grad():
        whole = Pass(family, torch.cat([around[0], setting.ids, around[1]], 1))
        until = Pass(family, torch.cat([around[0], setting.ids], 1))
    hook = dl.hook("blocks.1.mlp.hook_post")
    for feature, value in (
        (hook[-1, 4], whole.mlp_post(1)[:, -1, 4]),
        (hook[1, 4], whole.mlp_post(1)[:, 1 + bos, 4]),
        (hook[:, 4].max(), whole.mlp_post(1)[:, bos:, 4].max(-1).values),
    ):
        scores = dl.score(feature, setting.ids, family.bridge, prepend_bos=bos, prefix=prefix, suffix=suffix)
        np.testing.assert_allclose(scores.value, value.expand(PROMPTS).numpy(), atol=1e-5)
        # Something stands before the prompt in any case, so all of its tokens are charged.
        expected = until.cross_entropy(setting.ids)
        np.testing.assert_allclose(scores.cross_entropy, expected.numpy(), atol=2e-5)


# Sparse autoencoders, custom functions, arithmetic.


def save_sae(folder, architecture: str, width: int, hook: str) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(3)
    weights = {"W_enc": torch.randn(width, 13, generator=g) / width**0.5, "W_dec": torch.randn(13, width, generator=g)}
    weights |= {"b_enc": torch.randn(13, generator=g), "b_dec": 0.1 * torch.randn(width, generator=g)}
    config = {"architecture": architecture, "d_in": width, "d_sae": 13, "apply_b_dec_to_input": True}
    config |= {"normalize_activations": "none", "metadata": {"hook_name": hook}, "k": 4}
    if architecture == "jumprelu":
        weights["threshold"] = torch.full((13,), 0.3)
    folder.mkdir()
    (folder / "cfg.json").write_text(json.dumps(config))
    save_file(weights, folder / "sae_weights.safetensors")
    return weights


@pytest.mark.parametrize("architecture", ["standard", "topk", "jumprelu"])
def test_sae_latents_and_pre_activations(setting, tmp_path, architecture):
    hook = "blocks.1.hook_resid_post"
    x = setting.by_hand.resid_post(1)[:, setting.tokens]
    w = save_sae(tmp_path / "sae", architecture, x.shape[-1], hook)
    pre = (x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    post = pre.clamp(min=0)
    if architecture == "topk":
        post = torch.where(pre >= pre.sort(-1, descending=True).values[..., 3:4], post, 0.0)
    if architecture == "jumprelu":
        post = torch.where(pre > 0.3, post, 0.0)
    folder = str(tmp_path / "sae")
    latent = int((post > 0).float().mean((0, 1)).sub(0.5).abs().argmin())  # on for some tokens and off for others
    assert 0 < (post[..., latent] > 0).float().mean() < 1
    setting.agree(dl.sae_latent(folder, latent, slice(None)).mean(), post[..., latent].mean(-1))
    setting.agree(dl.sae_latent(folder, latent, slice(None)).max(), post[..., latent].max(-1).values)
    setting.agree(dl.sae_latent(folder, latent, pre_activation=True), pre[:, -1, latent])
    setting.agree(dl.sae_latent(folder, latent, 3, pre_activation=True), pre[:, 3, latent])


def test_any_object_with_encode_is_an_autoencoder(setting):
    matrix = torch.randn(40 if setting.family.name != "stories" else 172, 6, generator=torch.Generator().manual_seed(2))

    class Encoder:
        def encode(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(x @ matrix)

    feature = dl.sae_latent(Encoder(), 4, -2, hook="blocks.0.mlp.hook_post")
    setting.agree(feature, torch.tanh(setting.by_hand.mlp_post(0)[:, -2] @ matrix)[:, 4])


def test_custom_functions_of_several_hook_points_see_the_bos_too(setting):
    hooks = ["blocks.0.mlp.hook_post", "blocks.1.hook_resid_post"]

    def correlation(a):
        assert a[hooks[0]].shape[:2] == a[hooks[1]].shape[:2]
        return (a[hooks[0]][:, 1:, 3] * a[hooks[1]][:, 1:, 5]).mean(-1)

    expected = (setting.by_hand.mlp_post(0)[:, 1:, 3] * setting.by_hand.resid_post(1)[:, 1:, 5]).mean(-1)
    setting.agree(dl.custom("correlation", hooks, correlation), expected)
    setting.agree('2 * custom("correlation") - 1', 2 * expected - 1)


EACH = "blocks.0.mlp.hook_post[:, 1] - blocks.1.mlp.hook_post[:, 2]"

ARITHMETIC: list[tuple[str, Callable]] = [
    ("2 * L0.N1 - 0.5 * L1.N2 + 3", lambda a, b, r: 2 * a - 0.5 * b + 3),
    ("-L0.N1 / 4", lambda a, b, r: -a / 4),
    ("L0.N1 * L1.N2 - L0.N1 * L0.N1", lambda a, b, r: a * b - a * a),
    ("(L0.N1 + L1.N2) * (L1.N2 - 1)", lambda a, b, r: (a + b) * (b - 1)),
    ("L0.N1.clip(max=1)", lambda a, b, r: a.clamp(max=1)),
    ("(L0.N1 - 2 * L1.N2).clip(min=-0.4, max=1.5)", lambda a, b, r: (a - 2 * b).clamp(-0.4, 1.5)),
    (f"({EACH}).max()", lambda a, b, r: r.max(-1).values),
    (
        f"({EACH} - 2 * L1.N2).mean()",
        lambda a, b, r: r.mean(-1) - 2 * b,
    ),
    (
        f"({EACH}).clip(min=0).mean()",
        lambda a, b, r: r.relu().mean(-1),
    ),
]


@pytest.mark.parametrize(("text", "by_hand"), ARITHMETIC, ids=[text for text, _ in ARITHMETIC])
def test_arithmetic(family, text, by_hand):
    setting = Setting(family, bos=True)
    first, second = setting.by_hand.mlp_post(0)[:, 1:, 1], setting.by_hand.mlp_post(1)[:, 1:, 2]
    setting.agree(text, by_hand(first[:, -1], second[:, -1], first - second))


# Scoring as such.


def test_texts_ids_and_batches_score_alike(any_family):
    setting = Setting(any_family, bos=True)
    bridge, feature = any_family.bridge, "L1.N4"
    together = dl.score(feature, setting.ids, bridge, prepend_bos=True)
    for options in ({"batch_size": 1}, {"batch_size": 3}):
        apart = dl.score(feature, setting.ids, bridge, prepend_bos=True, **options)
        np.testing.assert_allclose(apart.value, together.value, atol=1e-5)
        np.testing.assert_allclose(apart.cross_entropy, together.cross_entropy, atol=1e-5)
    texts = ["the dog sleeps", "a house", "over the hill and over the trees"]
    mixed = dl.score(feature, texts, bridge, prepend_bos=True)
    for i, text in enumerate(texts):
        ids = torch.tensor([any_family.tokenizer.encode(text, add_special_tokens=False)])
        alone = dl.score(feature, ids, bridge, prepend_bos=True)
        np.testing.assert_allclose(mixed.value[i], alone.value[0], atol=1e-5)
        np.testing.assert_allclose(mixed.cross_entropy[i], alone.cross_entropy[0], atol=1e-5)


def test_values_alone_are_the_same_values(any_family):
    from tests.helpers.scorers import make_scorer

    setting = Setting(any_family, bos=True)
    for feature in ("L0.N4", "blocks.1.hook_resid_pre[..., 3].max()", "log_prob(7)"):
        scorer = make_scorer(feature, any_family.bridge, prepend_bos=True)
        np.testing.assert_allclose(scorer.values(setting.ids), scorer.score(setting.ids).value, atol=1e-5)


# Bridges of other kinds.


@pytest.mark.parametrize("bos", [True, False])
def test_compatibility_mode_measures_the_same_neurons_patterns_and_probabilities(family, bos):
    """Folding norms and centring weights moves the residual stream and the logits; these stay."""
    setting = Setting(compatible(family.name), bos)
    run, at = setting.by_hand, setting.tokens
    setting.agree("L1.N5", run.mlp_post(1)[:, -1, 5])
    setting.agree("blocks.0.mlp.hook_pre[..., 3].max()", run.mlp_pre(0)[:, at, 3].max(-1).values)
    setting.agree("blocks.1.attn.hook_pattern[2, -1, -3]", run.pattern(1)[:, 2, -1, -3])
    setting.agree("log_prob(9, 4)", run.log_probs()[:, at[4], 9])
    setting.agree("mean_cross_entropy()", run.cross_entropy(setting.ids if bos else setting.ids[:, 1:]))
    others = torch.cat([run.logits[:, -1, :9], run.logits[:, -1, 10:]], -1).max(-1).values
    setting.agree(dl.logit_difference(9), run.logits[:, -1, 9] - others)


def test_losses_of_a_half_precision_model_are_in_float32(family):
    bridge = new_bridge(family.name, family.raw, torch.bfloat16)
    setting = Setting(family, bos=True)
    # Whole prompts, for sixteen bits show in which order attention rounds.
    scores = dl.score("log_prob(9)", setting.ids, bridge, prepend_bos=True, share_prefixes=False)
    with torch.no_grad():
        logits = bridge(torch.cat([torch.zeros(PROMPTS, 1, dtype=torch.long), setting.ids], 1)).float()
    log_probs = logits.log_softmax(-1)
    picked = log_probs[:, :-1].gather(-1, setting.ids[..., None]).squeeze(-1)
    np.testing.assert_allclose(scores.cross_entropy, -picked.mean(-1).numpy(), atol=1e-5)
    np.testing.assert_allclose(scores.value, log_probs[:, -1, 9].numpy(), atol=1e-5)
    assert scores.value.dtype == scores.cross_entropy.dtype == np.float32
