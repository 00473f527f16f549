"""Token gradients against a relaxation of the plain Hugging Face model, in which a token may be a mixture of tokens.

With weights t `[B, n, d_vocab]` in the place of tokens, the embeddings are t @ E and the cross-entropy's targets are t
itself. The relaxed value is differentiated twice over: by finite differences, in the direction of single substitutions,
and by autograd for all entries at once. Neither runs a bridge or knows an embedding leaf.
"""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import dreamy_lens as dl
from dreamy_lens.errors import NoGradientError
from dreamy_lens.models import Bypass
from tests.features.test_oracle import save_sae
from tests.helpers import models
from tests.helpers.by_hand import Pass
from tests.helpers.scorers import make_scorer

LENGTH, PROMPTS = 7, 2


class Relaxed:
    """Plain model of a family in double precision, as a function of token weights."""

    def __init__(self, family: models.Family, bos: bool) -> None:
        self.family, self.bos = family, int(bos)
        self.raw = _double(family.name)
        size = self.raw.get_input_embeddings().num_embeddings
        allowed = torch.tensor([i for i in range(len(family.tokenizer)) if i not in family.tokenizer.all_special_ids])
        g = torch.Generator().manual_seed(11)
        self.ids = allowed[torch.randint(len(allowed), (PROMPTS, LENGTH), generator=g)]
        self.others = allowed[torch.randint(len(allowed), (PROMPTS, LENGTH), generator=g)]
        self.table = self.raw.get_input_embeddings()(torch.arange(size)).detach()
        self.weights = torch.nn.functional.one_hot(self.ids, size).to(self.table)

    def run(self, weights: Tensor, prefix: list[int] | None = None, suffix: list[int] | None = None) -> Pass:
        count = len(weights)
        before = self.table[[self.family.bos] * self.bos + (prefix or [])].expand(count, -1, -1)
        after = self.table[suffix or []].expand(count, -1, -1)
        return Pass(self.family, embeds=torch.cat([before, weights @ self.table, after], 1), raw=self.raw)

    def cross_entropy(self, run: Pass, weights: Tensor) -> Tensor:
        return run.cross_entropy(weights if self.bos else weights[:, 1:])

    def gradient(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the gradient of a function `[B, n, d_vocab] -> [B]` at the prompts, by autograd."""
        leaf = self.weights.clone().requires_grad_(True)
        (found,) = torch.autograd.grad(function(leaf).sum(), leaf)
        return found

    def differences(self, function: Callable[[Tensor], Tensor], step: float = 0.004) -> Tensor:
        """Return the slopes towards another token at each position, `[B, n]`, by differences of fourth order."""
        rows, places = torch.arange(PROMPTS)[:, None], torch.arange(LENGTH)
        towards = self.weights.new_zeros(PROMPTS, LENGTH, *self.weights.shape[1:])  # [prompt, substituted place, ...]
        towards[rows, places, places, self.others] += 1
        towards[rows, places, places, self.ids] -= 1
        steps = torch.tensor([-2, -1, 1, 2]).to(towards)[:, None, None, None, None] * step
        with torch.no_grad():  # all of them in one pass
            moved = (self.weights[:, None] + steps * towards).flatten(0, 2)
            a, b, c, d = function(moved).reshape(4, PROMPTS, LENGTH)
        return (8 * (c - b) - (d - a)) / (12 * step)

    def slopes(self, gradient: Tensor) -> Tensor:
        """Return the slopes towards another token at each position, `[B, n]`, by a gradient `[B, n, d_vocab]`."""
        pick = lambda ids: gradient.gather(-1, ids[..., None]).squeeze(-1)  # noqa: E731
        return pick(self.others) - pick(self.ids)

    def agree(self, found: Tensor, function: Callable[[Tensor], Tensor]) -> None:
        assert found.shape == self.weights.shape
        exact = self.gradient(function)
        scale = exact.abs().max().item()
        assert scale > 1e-4, "no gradient here, so this would prove nothing"
        torch.testing.assert_close(found.double(), exact, atol=3e-5 * scale, rtol=0)
        measured = self.differences(function)
        torch.testing.assert_close(self.slopes(found.double()), measured, atol=2e-3 * scale, rtol=0)


@cache
def _double(name: str) -> Any:
    return copy.deepcopy(models.family(name).raw).double().requires_grad_(False)


@pytest.fixture(scope="session", params=[True, False], ids=["bos", "no_bos"])
def relaxed(any_family, request) -> Relaxed:
    return Relaxed(any_family, request.param)


def _direction(width: int) -> Tensor:
    return torch.randn(width, generator=torch.Generator().manual_seed(5))


def _v(x: Tensor) -> Tensor:
    return _direction(x.shape[-1]).to(x)


def _standardised(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / x.var(-1, keepdim=True, unbiased=False).sqrt()


def _runner_up(logits: Tensor, token: int) -> Tensor:
    return torch.cat([logits[..., :token], logits[..., token + 1 :]], -1).max(-1).values


def _resid(layer: int, point: str = "post"):
    return dl.hook(f"blocks.{layer}.hook_resid_{point}")


POINT = "blocks.1.mlp.hook_post"

# Each feature, given d_model, with its value from a plain pass, given the index b of the prompt's first token.
FEATURES: dict[str, tuple[Callable[[int], Any], Callable[[Pass, int], Tensor]]] = {
    "neuron": (lambda d: dl.neuron(1, 5), lambda p, b: p.mlp_post(1)[:, -1, 5]),
    "pre-activation at a position": (
        lambda d: dl.hook("blocks.1.mlp.hook_pre")[3, 7],
        lambda p, b: p.mlp_pre(1)[:, b + 3, 7],
    ),
    "direction": (lambda d: _resid(1)[-1] @ _direction(d), lambda p, b: p.resid_post(1)[:, -1] @ _v(p.resid_post(1))),
    "embedding": (
        lambda d: _resid(0, "pre")[2] @ _direction(d),
        lambda p, b: p.resid_pre(0)[:, b + 2] @ _v(p.resid_pre(0)),
    ),
    "standardised": (
        lambda d: _resid(1, "pre")[-1].standardised() @ _direction(d),
        lambda p, b: _standardised(p.resid_pre(1)[:, -1]) @ _v(p.resid_pre(1)),
    ),
    "cosine": (
        lambda d: _resid(0)[-2].cosine(_direction(d)),
        lambda p, b: torch.cosine_similarity(p.resid_post(0)[:, -2], _v(p.resid_post(0)), -1),
    ),
    "norm": (lambda d: _resid(1)[4].norm(), lambda p, b: p.resid_post(1)[:, b + 4].norm(dim=-1)),
    "max": (
        lambda d: dl.hook("blocks.0.mlp.hook_post")[..., 9].max(),
        lambda p, b: p.mlp_post(0)[:, b:, 9].max(-1).values,
    ),
    "mean": (
        lambda d: dl.hook("blocks.0.mlp.hook_pre")[1:5, 9].mean(),
        lambda p, b: p.mlp_pre(0)[:, b + 1 : b + 5, 9].mean(-1),
    ),
    "attention pattern": (
        lambda d: dl.hook("blocks.1.attn.hook_pattern")[2, -1, -2],
        lambda p, b: p.pattern(1)[:, 2, -1, -2],
    ),
    "attention score": (
        lambda d: dl.hook("blocks.1.attn.hook_attn_scores")[1, -1, -3],
        lambda p, b: p.scores(1)[:, 1, -1, -3],
    ),
    "head output": (lambda d: dl.hook("blocks.1.attn.hook_z")[-1, 3, 2], lambda p, b: p.z(1)[:, -1, 3, 2]),
    "query": (lambda d: dl.hook("blocks.1.attn.hook_q")[-1, 0, 1], lambda p, b: p.qkv(1)[0][:, -1, 0, 1]),
    "logit": (lambda d: dl.logit(40), lambda p, b: p.logits[:, -1, 40]),
    "logit difference": (
        lambda d: dl.logit_difference(40),
        lambda p, b: p.logits[:, -1, 40] - _runner_up(p.logits[:, -1], 40),
    ),
    "log-probability": (lambda d: dl.log_prob(40, 2), lambda p, b: p.log_probs()[:, b + 2, 40]),
    "sum": (
        lambda d: 2 * dl.neuron(0, 1) - dl.logit(9) / 4 + 1,
        lambda p, b: 2 * p.mlp_post(0)[:, -1, 1] - p.logits[:, -1, 9] / 4 + 1,
    ),
    "product": (
        lambda d: dl.hook("blocks.0.mlp.hook_pre")[-1, 1] * dl.log_prob(3),
        lambda p, b: p.mlp_pre(0)[:, -1, 1] * p.log_probs()[:, -1, 3],
    ),
    "clipped": (lambda d: dl.log_prob(3).clip(min=-50), lambda p, b: p.log_probs()[:, -1, 3]),
    "custom": (
        lambda d: dl.custom("spread", [POINT], lambda a: a[POINT][:, 1:].std((1, 2))),
        lambda p, b: p.mlp_post(1)[:, 1:].std((1, 2)),
    ),
}


@pytest.mark.parametrize("kind", FEATURES)
def test_value_gradients(relaxed, kind):
    make, by_hand = FEATURES[kind]
    feature = make(relaxed.raw.config.hidden_size)
    scorer = make_scorer(feature, relaxed.family.bridge, prepend_bos=bool(relaxed.bos))
    gradient = scorer.gradient(relaxed.ids)
    np.testing.assert_allclose(gradient.value, scorer.score(relaxed.ids).value, atol=1e-5, rtol=1e-5)
    relaxed.agree(gradient.of_value(), lambda weights: by_hand(relaxed.run(weights), relaxed.bos))


def test_cross_entropy_gradients_see_tokens_as_targets_too(relaxed):
    """Changing a token changes what is predicted from it, and how well it is predicted itself."""
    scorer = make_scorer("L0.N0", relaxed.family.bridge, prepend_bos=bool(relaxed.bos))
    gradient = scorer.gradient(relaxed.ids)
    np.testing.assert_allclose(gradient.cross_entropy, scorer.score(relaxed.ids).cross_entropy, atol=1e-5)
    relaxed.agree(gradient.of_cross_entropy(), lambda weights: relaxed.cross_entropy(relaxed.run(weights), weights))


def test_cross_entropy_as_a_feature_has_the_same_gradient(relaxed):
    for feature, by_hand in (
        (dl.features.mean_cross_entropy(), lambda run, ce: ce),
        (
            3 * dl.features.mean_cross_entropy()
            - dl.features.mean_cross_entropy() * dl.hook("blocks.0.mlp.hook_pre")[-1, 2],
            lambda run, ce: 3 * ce - ce * run.mlp_pre(0)[:, -1, 2],
        ),
    ):
        scorer = make_scorer(feature, relaxed.family.bridge, prepend_bos=bool(relaxed.bos))

        def function(weights: Tensor, by_hand: Any = by_hand) -> Tensor:
            run = relaxed.run(weights)
            return by_hand(run, relaxed.cross_entropy(run, weights))

        relaxed.agree(scorer.gradient(relaxed.ids).of_value(), function)


@pytest.mark.parametrize("architecture", ["standard", "topk", "jumprelu"])
def test_sae_latents_have_a_gradient_where_they_are_on_and_their_pre_activations_everywhere(
    family, tmp_path, architecture
):
    relaxed = Relaxed(family, bos=True)
    w = save_sae(tmp_path / "sae", architecture, relaxed.raw.config.hidden_size, "blocks.1.hook_resid_pre")
    pre = lambda run, i: (run.resid_pre(1)[:, -1] - w["b_dec"]) @ w["W_enc"][:, i].double() + w["b_enc"][i]  # noqa: E731
    folder, bridge = tmp_path / "sae", family.bridge
    scorers = [make_scorer(dl.sae_latent(folder, i), bridge, prepend_bos=True) for i in range(13)]
    on = np.stack([scorer.values(relaxed.ids) > 0 for scorer in scorers])  # [latent, prompt]
    assert on.any() and not on.all()
    for i in (int(on.all(1).argmax()), int(on.any(1).argmin())):
        measured = scorers[i].gradient(relaxed.ids).of_value()
        expected = relaxed.gradient(lambda weights, i=i: pre(relaxed.run(weights), i))
        expected_here = expected * torch.from_numpy(on[i])[:, None, None]
        scale = expected.abs().max().item()
        torch.testing.assert_close(measured.double(), expected_here, atol=3e-5 * scale, rtol=0)
        open_ = make_scorer(dl.sae_latent(folder, i, pre_activation=True), bridge, prepend_bos=True)
        relaxed.agree(open_.gradient(relaxed.ids).of_value(), lambda weights, i=i: pre(relaxed.run(weights), i))


@pytest.mark.parametrize("bos", [True, False])
def test_only_the_prompt_of_a_template_is_differentiated(family, bos):
    relaxed = Relaxed(family, bos)
    prefix, suffix = [5, 90], [61, 200, 3]
    feature = dl.hook("blocks.1.mlp.hook_pre")[-1, 6]
    scorer = make_scorer(feature, family.bridge, prepend_bos=bos, prefix=prefix, suffix=suffix)
    gradient = scorer.gradient(relaxed.ids)
    relaxed.agree(gradient.of_value(), lambda t: relaxed.run(t, prefix, suffix).mlp_pre(1)[:, -1, 6])
    relaxed.agree(gradient.of_cross_entropy(), lambda t: relaxed.run(t, prefix).cross_entropy(t))


@pytest.mark.parametrize("bos", [True, False])
def test_another_model_s_cross_entropy_adds_its_own_part(gpt2, llama, bos):
    relaxed, other = Relaxed(gpt2, bos), Relaxed(llama, bos)
    foreign = lambda t: other.cross_entropy(other.run(t), t)  # noqa: E731
    scorer = make_scorer(dl.neuron(1, 5), gpt2.bridge, fluency_model=llama.bridge, prepend_bos=bos)
    gradient = scorer.gradient(relaxed.ids)
    relaxed.agree(gradient.of_value(), lambda t: relaxed.run(t).mlp_post(1)[:, -1, 5])
    relaxed.agree(gradient.of_cross_entropy(), foreign)
    both = make_scorer(dl.logit(4) + 2 * dl.features.mean_cross_entropy(llama.bridge), gpt2.bridge, prepend_bos=bos)
    relaxed.agree(both.gradient(relaxed.ids).of_value(), lambda t: relaxed.run(t).logits[:, -1, 4] + 2 * foreign(t))


def test_the_objective_mixes_value_and_cross_entropy_for_each_member(family):
    """Members may share a prompt and differ in λ, in any order."""
    scorer = make_scorer(dl.logit(8) - dl.features.mean_cross_entropy() / 2, family.bridge, prepend_bos=True)
    relaxed = Relaxed(family, bos=True)
    gradient = scorer.gradient(relaxed.ids)
    rows, lambdas = torch.tensor([1, 0, 0, 1]), torch.tensor([0.1, 2.0, 0.0, 10.0])
    value, cross_entropy = gradient.of_value()[rows], gradient.of_cross_entropy()[rows]
    expected = value - lambdas[:, None, None] * cross_entropy
    torch.testing.assert_close(gradient.objective(rows, lambdas), expected, atol=1e-5, rtol=1e-5)


def test_gradients_do_not_depend_on_the_batch(any_family):
    relaxed = Relaxed(any_family, bos=True)
    feature = dl.hook("blocks.1.mlp.hook_post")[..., 2].max() - dl.features.mean_cross_entropy()
    together, apart = (
        make_scorer(feature, any_family.bridge, prepend_bos=True, batch_size=size).gradient(relaxed.ids)
        for size in (None, 1)
    )
    torch.testing.assert_close(apart.of_value(), together.of_value(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(apart.of_cross_entropy(), together.of_cross_entropy(), atol=1e-5, rtol=1e-5)


def test_a_model_is_left_as_it_was(family):
    bridge, ids = family.bridge, Relaxed(family, bos=True).ids
    before = {name: (p.detach().clone(), p.requires_grad) for name, p in bridge.named_parameters()}
    make_scorer("blocks.1.attn.hook_result[-1, 0, 0] + L0.N1", bridge, prepend_bos=True).gradient(ids)
    for name, p in bridge.named_parameters():
        assert torch.equal(p, before[name][0]) and p.requires_grad == before[name][1] and p.grad is None
    assert not any(point.fwd_hooks or point.bwd_hooks for point in bridge.hook_dict.values())
    assert not bridge.cfg.use_attn_result


def test_beyond_a_clip_the_gradient_is_zero(gpt2):
    ids = Relaxed(gpt2, bos=True).ids
    assert not make_scorer("log_prob(3).clip(max=-50)", gpt2.bridge).gradient(ids).of_value().any()


def test_a_value_without_a_gradient_is_an_error_that_says_so(gpt2):
    ids, point = Relaxed(gpt2, bos=True).ids, "blocks.0.mlp.hook_post"
    detached = dl.custom("detached", [point], lambda a: a[point][:, -1, 0].detach())
    with pytest.raises(NoGradientError, match=r"detached.*is not a differentiable function of the prompt's tokens"):
        make_scorer(detached, gpt2.bridge).gradient(ids)


def test_compatibility_mode_has_the_same_gradients(family):
    relaxed = Relaxed(family, bos=True)
    scorer = make_scorer("L1.N5 - log_prob(9)", models.compatible(family.name).bridge, prepend_bos=True)
    gradient = scorer.gradient(relaxed.ids)

    def by_hand(weights: Tensor) -> Tensor:
        run = relaxed.run(weights)
        return run.mlp_post(1)[:, -1, 5] - run.log_probs()[:, -1, 9]

    # Centred embeddings shift all tokens of a position alike, which no substitution notices.
    shift = lambda g: g - g.mean(-1, keepdim=True)  # noqa: E731
    expected = relaxed.gradient(by_hand)
    torch.testing.assert_close(
        shift(gradient.of_value().double()), shift(expected), atol=3e-5 * expected.abs().max().item(), rtol=0
    )
    expected = relaxed.gradient(lambda weights: relaxed.cross_entropy(relaxed.run(weights), weights))
    found = gradient.of_cross_entropy().double()
    torch.testing.assert_close(shift(found), shift(expected), atol=3e-5 * expected.abs().max().item(), rtol=0)


def test_weights_changed_between_two_gradients_are_noticed(gpt2):
    bridge = models.new_bridge("gpt2", gpt2.raw)
    ids = Relaxed(gpt2, bos=True).ids
    make_scorer("L1.N5", bridge).gradient(ids)
    with torch.no_grad():
        for p in bridge.parameters():
            p.mul_(1.5)
    scorer = make_scorer("L1.N5", bridge)
    np.testing.assert_allclose(scorer.gradient(ids).value, scorer.score(ids).value, atol=1e-5)


def test_a_model_is_without_its_parts_only_while_no_other_thread_may_use_it(gpt2, monkeypatch):
    """This holds also while the fastest options are chosen, such as a cached prefix of a template."""
    scorer = make_scorer("L1.N5", gpt2.bridge, prefix=[40, 41])
    lock, bare, held = scorer.model.lock, Bypass.bare, []

    def watched(parts, names):
        other = threading.Thread(target=lambda: held.append(not lock.acquire(blocking=False) or lock.release()))
        other.start()
        other.join()
        return bare(parts, names)

    monkeypatch.setattr(Bypass, "bare", watched)
    scorer.gradient(Relaxed(gpt2, bos=True).ids)
    assert held and all(held)


def test_a_dream_under_inference_mode_is_the_dream_without(gpt2):
    settings = {"iterations": 2, "population": 2, "children": 4, "length": 5, "progress": False}
    usual = dl.dream("L1.N3", gpt2.bridge, **settings)
    with torch.inference_mode():
        run = dl.dream("L1.N3", gpt2.bridge, **settings)
    np.testing.assert_array_equal(run.history.ids, usual.history.ids)


def test_a_hook_point_computed_on_request_warns_of_nothing(gpt2):
    """TransformerLens warns if the attention of a layer is left out while it switches such a hook point on."""
    settings = {"iterations": 2, "length": 4, "children": 8, "samples": 8, "progress": False}
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        dl.dream("blocks.0.attn.hook_result[-1, 1, 3]", gpt2.bridge, **settings)
    assert not [str(warning.message) for warning in found if "use_attn_result" in str(warning.message)]
