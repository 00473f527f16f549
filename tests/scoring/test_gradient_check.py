"""Before a search, the gradient is compared with finite differences: one that is missing or wrong is found.

4-bit weights on a processor are imitated by linear layers whose backward pass returns zeros.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import dreamy_lens as dl
from dreamy_lens.analysis import examine
from dreamy_lens.errors import NoGradientError
from dreamy_lens.runs import session
from dreamy_lens.scoring import check_gradient, require_gradient
from tests.features.test_oracle import save_sae
from tests.helpers import models
from tests.helpers.scorers import make_scorer

SMALL: dict[str, Any] = {"iterations": 1, "population": 2, "children": 4, "length": 6}
ALL = ("c_attn", "c_proj", "c_fc")


class NoBackward(torch.autograd.Function):
    """Identity function whose backward pass returns zeros."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        return torch.zeros_like(grad)


@contextlib.contextmanager
def quantised(bridge: Any, *names: str) -> Iterator[None]:
    """Give the linear layers of these names no backward pass."""
    found = [
        m
        for n, m in bridge.original_model.named_modules()
        if type(m).__name__ == "Conv1D" and n.split(".")[-2] in names
    ]
    assert found
    for module in found:
        module.forward = lambda x, usual=module.forward: NoBackward.apply(usual(x))
    try:
        yield
    finally:
        for module in found:
            del module.forward


@pytest.fixture
def bridge(gpt2):
    return models.new_bridge("gpt2", gpt2.raw)


def failed(feature: Any, model: Any) -> list[tuple[str, str]]:
    return [(finding.check, finding.seen) for finding in examine(feature, model) if finding.passed is False]


def test_weights_without_a_backward_pass_are_an_error_before_the_first_step(bridge):
    with quantised(bridge, "c_fc"):
        with pytest.raises(NoGradientError, match=r"exactly zero, but the value moves .*: by .*4 or 8 bits") as e:
            dl.dream("L1.N3", bridge, **SMALL)
        assert len(e.value.run.history) == 0  # pyright: ignore[reportAttributeAccessIssue]
        with pytest.raises(NoGradientError, match="is exactly zero"):
            dl.dream(["L1.N3", "L1.N4"], bridge, **SMALL)
        ((check, seen),) = failed("L1.N3", bridge)
        assert (
            check == "the value has a gradient" and "but the value moves" in seen and "a latent or neuron" not in seen
        )
        assert dl.score("L1.N3", "the dog", bridge).value[0] != 0  # values need no gradient
    assert dl.dream("L1.N3", bridge, **SMALL).iteration == 1


def test_a_gradient_that_lacks_a_part_is_a_warning_with_the_numbers(bridge):
    feature = dl.hook("blocks.1.hook_resid_post")[-1, 3]
    with quantised(bridge, *ALL):
        with pytest.warns(
            RuntimeWarning, match=r"is wrong: it says that the value moves by .* the value moves by .*4 or 8 bits"
        ):
            require_gradient(make_scorer(feature, bridge), 6)
        assert [check for check, _ in failed(feature, bridge)] == ["the gradient agrees with a finite difference"]


def test_a_part_of_the_prompt_that_the_gradient_lacks_is_seen_in_a_random_direction(bridge):
    """In the direction of the gradient itself, which is that of one token, nothing is wrong."""
    first = dl.hook("blocks.0.hook_resid_pre")[1, 3]
    hidden = dl.custom("hidden", ["blocks.0.hook_resid_pre"], lambda a: a["blocks.0.hook_resid_pre"][:, 2, 5].detach())
    scorer = make_scorer(first + 3 * hidden, bridge, prepend_bos=True)
    found = check_gradient(scorer, np.arange(1, 25).reshape(4, 6))
    assert found.error < 0.01 and found.verdict == "differs"
    assert abs(found.measured - found.gradient) > abs(found.gradient)


def test_a_hook_of_the_user_that_cuts_the_gradient_off(bridge):
    bridge.blocks[0].hook_out.add_hook(lambda x, hook: x.detach().clone() + 0 * x)
    with pytest.raises(NoGradientError, match="a hook that replaces an activation"):
        dl.dream("L1.N3", bridge, **SMALL)
    bridge.reset_hooks()


def test_a_latent_that_is_off_is_no_error_but_weights_without_a_backward_pass_before_it_are(bridge, tmp_path):
    weights = save_sae(tmp_path / "sae", "standard", 32, "blocks.1.mlp.hook_out")
    save_file({**weights, "b_enc": weights["b_enc"] - 1e6}, tmp_path / "sae" / "sae_weights.safetensors")
    off = dl.sae_latent(tmp_path / "sae", 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        require_gradient(make_scorer(off, bridge), 6)
    findings = list(examine(off, bridge))
    assert "a latent or neuron that is off, or a clip()" in findings[-1].seen
    with quantised(bridge, *ALL):
        with pytest.raises(NoGradientError, match=r"The gradient of what .* reads is exactly zero"):
            require_gradient(make_scorer(off, bridge), 6)
        assert failed(off, bridge)[-1][1].startswith("exactly zero, and so is that of everything the feature reads")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_sound_features_pass_in_every_precision(name, dtype, tmp_path):
    family = models.family(name)
    bridge = models.new_bridge(name, family.raw, dtype)
    features = [dl.neuron(1, i) for i in range(4)] + [dl.log_prob(40), dl.logit_difference(40)]
    features += [dl.hook("blocks.0.mlp.hook_post")[..., i].max() for i in range(2)]
    features += [dl.hook("blocks.1.attn.hook_pattern")[i, -1, -2] for i in range(2)]
    for architecture in ("standard", "topk", "jumprelu"):
        save_sae(tmp_path / architecture, architecture, 32, "blocks.1.hook_resid_pre")
        features += [dl.sae_latent(tmp_path / architecture, i) for i in range(3)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for feature in features:
            require_gradient(make_scorer(feature, bridge), 6)


def test_a_run_is_checked_once_and_side_by_side_every_feature_once(gpt2, monkeypatch, tmp_path):
    checked = []
    monkeypatch.setattr(session, "require_gradient", lambda scorer, *rest: checked.append(scorer.bound.feature.label))
    run = dl.dream("L1.N3", gpt2.bridge, save_to=tmp_path / "run", **SMALL)
    run.resume(1)
    dl.load_run(tmp_path / "run", gpt2.bridge).resume(1)
    assert len(checked) == 1
    dl.dream(["L1.N3", "L1.N4"], gpt2.bridge, seeds=[0, 1], **SMALL).resume(1)
    assert len(checked) == 3


def test_values_that_are_not_finite_are_no_reason_to_refuse(gpt2):
    feature = dl.custom("root", ["blocks.1.mlp.hook_post"], lambda a: a["blocks.1.mlp.hook_post"][:, -1, 0].sqrt())
    require_gradient(make_scorer(feature, gpt2.bridge), 6)
