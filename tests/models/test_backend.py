"""A backend without TransformerLens: a plain torch model with forward hooks scores, has gradients and dreams."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import dreamy_lens as dl
from dreamy_lens.api.logit_effect import logit_effect
from dreamy_lens.errors import ModelError, UnknownHookError
from dreamy_lens.models import Backend, NotPackable, as_hooked
from dreamy_lens.models.backend import EMBEDDING
from dreamy_lens.models.hook_points import hook_points
from dreamy_lens.scan import model_digest
from tests.helpers import models
from tests.helpers.dreams import SMALL
from tests.helpers.scorers import make_scorer

FEATURE = "blocks.1.mlp.hook_post[-1, 3]"
STREAM = "blocks.0.hook_resid_post"
IDS = np.random.default_rng(0).integers(1, 320, size=(6, 7))


class PlainGPT2(Backend):
    """Hugging Face's GPT-2 as it is, with a few of its modules as hook points."""

    default_prepend_bos = True

    def __init__(self, module: Any, tokenizer: Any) -> None:
        self.name, self.module, self.tokenizer = "plain-gpt2", module.eval(), tokenizer
        config = module.config
        self.n_layers, self.n_ctx, self.d_model = config.n_layer, config.n_positions, config.n_embd
        self.d_vocab = config.vocab_size
        self.points = {EMBEDDING: module.transformer.wte}
        for i, block in enumerate(module.transformer.h):
            self.points |= {f"blocks.{i}.mlp.hook_post": block.mlp.act, f"blocks.{i}.hook_resid_post": block}

    def hook_names(self) -> list[str]:
        return list(self.points)

    def embed(self, ids: Tensor) -> Tensor:
        return self.module.transformer.wte(ids)

    def run(
        self,
        ids: Tensor,
        capture: Iterable[str] = (),
        *,
        logits: bool = True,
        embeddings: Tensor | None = None,
        past: Any = None,
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        activations: dict[str, Tensor] = {}

        def reader(name: str) -> Any:
            def read(module: Any, inputs: Any, output: Any) -> None:
                activations[name] = output[0] if isinstance(output, tuple) else output

            return read

        with contextlib.ExitStack() as hooks:
            if embeddings is not None:
                replaced = self.points[EMBEDDING].register_forward_hook(lambda module, inputs, output: embeddings)
                hooks.callback(replaced.remove)
            for name in dict.fromkeys(capture):
                hooks.callback(self.points[name].register_forward_hook(reader(name)).remove)
            output = self.module(ids, use_cache=False).logits
        return activations, output if logits else None


@pytest.fixture
def raw() -> Any:
    return copy.deepcopy(models.raw_model("gpt2"))


@pytest.fixture
def backend(raw: Any) -> PlainGPT2:
    return PlainGPT2(raw, models.tokenizer())


def rows(ids: np.ndarray = IDS) -> Tensor:
    """Prompts after a BOS."""
    return torch.cat([torch.zeros(len(ids), 1, dtype=torch.long), torch.from_numpy(ids)], 1)


def arithmetic(raw: Any, embeddings: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Value and cross-entropy from the raw model's own modules."""
    seen: list[Tensor] = []
    handle = raw.transformer.h[1].mlp.act.register_forward_hook(lambda module, inputs, output: seen.append(output))
    log_probs = raw(inputs_embeds=embeddings, use_cache=False).logits[:, :-1].log_softmax(-1)
    handle.remove()
    chosen = log_probs.gather(-1, ids[:, 1:, None])[..., 0]
    return seen[0][:, -1, 3], -chosen.mean(-1)


def test_scores_are_those_of_the_raw_model(backend, raw):
    with torch.no_grad():
        value, cross_entropy = arithmetic(raw, raw.transformer.wte(rows()), rows())
    found = make_scorer(FEATURE, backend, share_prefixes=False).score(IDS)
    np.testing.assert_allclose(found.value, value.numpy(), atol=1e-5)
    np.testing.assert_allclose(found.cross_entropy, cross_entropy.numpy(), atol=1e-5)


def test_gradients_are_those_of_the_raw_model(backend, raw):
    leaf = raw.transformer.wte(rows()).detach().requires_grad_(True)
    value, cross_entropy = arithmetic(raw, leaf, rows())
    expected = [torch.autograd.grad(x.sum(), leaf, retain_graph=True)[0][:, 1:] for x in (value, cross_entropy)]
    found = make_scorer(FEATURE, backend).gradient(IDS)
    torch.testing.assert_close(found.parts[0].value, expected[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.parts[0].cross_entropy, expected[1], atol=1e-5, rtol=1e-4)


def test_everything_is_as_with_a_bridge_over_the_same_weights(backend, gpt2):
    feature = f'{STREAM}[..., 5].max() + log_prob(" the") - 0.5 * mean_cross_entropy()'
    ours, theirs = (make_scorer(feature, model, share_prefixes=False) for model in (backend, gpt2.bridge))
    np.testing.assert_allclose(ours.score(IDS).value, theirs.score(IDS).value, atol=1e-4)
    torch.testing.assert_close(ours.gradient(IDS).of_value(), theirs.gradient(IDS).of_value(), atol=1e-4, rtol=1e-4)


def test_prompts_are_scored_whole_and_the_warning_says_why(backend):
    with pytest.warns(RuntimeWarning, match="scored whole on plain-gpt2.*its backend has no packed passes"):
        make_scorer(FEATURE, backend).score(IDS)
    with pytest.raises(NotPackable):
        as_hooked(backend).packed("interface")
    with pytest.raises(NotImplementedError):
        as_hooked(backend).key_values(rows()[:1])


def test_a_template_s_prefix_and_several_batches_go_the_plain_way(backend, raw):
    whole = np.concatenate([np.tile([5, 6, 7], (len(IDS), 1)), IDS], 1)
    with torch.no_grad():
        value, _ = arithmetic(raw, raw.transformer.wte(rows(whole)), rows(whole))
    scorer = make_scorer(FEATURE, backend, prefix=[5, 6, 7], batch_size=4, share_prefixes=False)
    np.testing.assert_allclose(scorer.score(IDS).value, value.numpy(), atol=1e-5)
    np.testing.assert_allclose(scorer.gradient(IDS).value.numpy(), value.numpy(), atol=1e-5)


def test_a_dream_runs_and_its_numbers_are_the_raw_model_s(backend, raw):
    run = dl.dream(FEATURE, backend, iterations=3, share_prefixes=False, **SMALL)
    assert run.model is backend and run.history.iterations == 3
    for prompt in run.frontier:
        ids = rows(np.array([prompt.ids]))
        with torch.no_grad():
            value, cross_entropy = arithmetic(raw, raw.transformer.wte(ids), ids)
        assert prompt.value == pytest.approx(float(value), abs=1e-4)
        assert prompt.cross_entropy == pytest.approx(float(cross_entropy), abs=1e-4)


def test_one_backend_gives_one_model_and_is_what_users_get_back(backend):
    model = as_hooked(backend)
    assert as_hooked(backend) is model and model.source is backend and model.name == "plain-gpt2"


def test_hook_points_are_listed_with_their_shapes_and_wrong_names_are_answered(backend):
    points = {point.name: point.shape for point in hook_points(as_hooked(backend))}
    assert points[STREAM] == ("position", 32) and points["blocks.1.mlp.hook_post"] == ("position", 40)
    with pytest.raises(UnknownHookError, match=r"nearest: blocks.1.mlp.hook_post"):
        dl.features.bind("blocks.1.mlp.hook_pst[-1, 3]", backend)


def test_edits_of_the_weights_are_followed_and_change_the_digest(backend, raw):
    model = as_hooked(backend)
    table, digest = model.embedding_table.clone(), model_digest(model)
    raw.transformer.wte.weight.data.mul_(2)
    assert model_digest(model) != digest
    ids = torch.tensor([[1, 2]])
    torch.testing.assert_close(model.embed(ids), 2 * table[ids])
    torch.testing.assert_close(model.embedding_table, 2 * table)


def test_a_weight_s_effect_on_the_logits_is_not_known_without_components(backend):
    effect = logit_effect(f"{STREAM}[-1, 3]", backend)
    assert not effect


def test_a_backend_that_changes_no_activations_says_so(backend):
    with pytest.raises(ModelError, match=r"has no run_edited\(\), so activations cannot be changed"):
        dl.steer(f"{STREAM}[-1, 3]", [5, 9, 7], backend, n_tokens=0)
