"""The doctor finds what is wrong with a model or a feature, and says so in words."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import dreamy_lens as dl
from dreamy_lens.analysis import Finding, examine
from tests.helpers import models

POINT = "blocks.1.mlp.hook_post"


def custom(function) -> dl.custom:  # type: ignore[valid-type]
    return dl.custom("mine", [POINT], lambda a: function(a[POINT][:, -1]))


def failed(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.passed is False]


@pytest.mark.parametrize(
    "feature",
    [
        "L1.N3",
        "blocks.0.hook_resid_post[..., 2].max()",
        "blocks.1.attn.hook_pattern[0, -1, 1]",
        'log_prob(" the") - 0.1 * mean_cross_entropy()',
        "blocks.1.attn.hook_result[-1, 0, 5]",
    ],
)
@pytest.mark.parametrize("bos", [True, False])
def test_a_sound_feature_passes_every_check(family, feature, bos):
    findings = list(examine(feature, family.bridge, prepend_bos=bos))
    assert [str(f) for f in findings if f.passed is not True] == []
    assert [f.check for f in findings] == [
        "the model loads",
        "the vocabulary",
        "the BOS",
        "text survives the tokenizer",
        "the feature can be read",
        "the feature fits the model",
        "the value on random prompts",
        "prompts share prefixes",
        "the value has a gradient",
        "the gradient agrees with a finite difference",
    ]
    assert findings[-1].seen.startswith("within ")


def test_a_model_alone(gpt2):
    findings = list(examine(None, gpt2.bridge))
    assert len(findings) == 4 and all(finding.passed for finding in findings)
    assert findings[0].seen == "tiny-gpt2: 2 layers, d_model 32, context 64, float32 on cpu"
    assert findings[1].seen == "329 of 335 tokens can be proposed; the others are special, empty or unused"
    assert findings[2].seen == "'<|endoftext|>'"
    assert list(examine(None, gpt2.bridge, prepend_bos=False))[2].seen == "none; the first token is not charged"
    assert str(findings[3]) == "ok    text survives the tokenizer: yes"


def test_a_detached_function_has_no_gradient(gpt2):
    (finding,) = failed(list(examine(custom(lambda x: x[:, 0].detach()), gpt2.bridge)))
    assert finding.check == "the value has a gradient"
    assert (
        "is not a differentiable function of the prompt's tokens" in finding.seen
        and "must not detach()" in finding.seen
    )


def test_a_function_detached_in_part_has_a_wrong_gradient(gpt2):
    (finding,) = failed(list(examine(custom(lambda x: x[:, 0] + 2 * x[:, 1].detach()), gpt2.bridge)))
    assert finding.check == "the gradient agrees with a finite difference"
    assert finding.seen.startswith("off by ")
    assert finding.seen.endswith("a part of the computation is not differentiated")


class Wrong(torch.autograd.Function):
    """Identity function with a wrong gradient of 1.3."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        return 1.3 * grad


def test_a_wrong_gradient_is_measured(gpt2):
    (finding,) = failed(list(examine(custom(lambda x: Wrong.apply(x[:, 0])), gpt2.bridge)))
    share = float(finding.seen.removeprefix("off by ").partition("%")[0])
    assert finding.check == "the gradient agrees with a finite difference" and 20 < share < 26  # 0.3 / 1.3


def test_a_gradient_that_is_zero_where_the_value_moves_is_missing(gpt2):
    zero = torch.zeros(1, requires_grad=True)
    (finding,) = failed(list(examine(custom(lambda x: x[:, 0].detach() + zero * x[:, 0]), gpt2.bridge)))
    assert finding.check == "the value has a gradient"
    assert finding.seen.startswith("exactly zero, but the value moves with the embeddings: by ")
    assert "an operation under no_grad() or detach()" in finding.seen and "a latent" not in finding.seen


def test_a_value_that_is_off_has_no_gradient_and_that_is_a_note_with_advice(gpt2):
    findings = list(examine(custom(lambda x: (x[:, 0] * 0).relu() + (x[:, 1] > 0)), gpt2.bridge))
    assert not failed(findings) and findings[-1].passed is None and findings[-1].check == "the value has a gradient"
    assert "exactly zero on four random prompts: a latent" in findings[-1].seen
    assert findings[-1].seen.endswith("hook_pre would guide it")


@pytest.mark.parametrize("feature", ["0 * L1.N4 + L1.N3.clip(max=-90)", "L1.N3.clip(max=-90)"])
def test_a_value_that_never_changes_and_has_no_gradient_is_nothing_to_search(gpt2, feature):
    value, _, gradient = list(examine(feature, gpt2.bridge))[-3:]
    assert value.passed is None and value.seen.startswith("always ")
    assert gradient.passed is False and "and no prompt is better than another" in gradient.seen


def test_values_that_are_not_finite(gpt2):
    (finding,) = failed(list(examine(custom(lambda x: x[:, 0].sqrt()), gpt2.bridge)))
    assert finding.check == "the value on random prompts" and finding.seen.startswith("NaN or infinite on ")
    assert finding.seen.endswith(" of 16; a search skips such prompts, so check the feature's arithmetic")


@pytest.mark.parametrize(
    ("feature", "check", "said"),
    [
        ("L1.N3 +", "the feature can be read", "ends too early"),
        ("blocks.1.mlp.hook_pst[-1, 3]", "the feature fits the model", "nearest: blocks.1.mlp.hook_post"),
        ("L1.N40", "the feature fits the model", "there is no unit 40"),
        ("blocks.1.mlp.hook_post[20, 3]", "the feature fits the model", "there is no position 20; the 12 tokens"),
        ("blocks.0.attn.qkv.hook_in[-1, 3]", "the feature fits the model", "a forward pass does not go through it"),
    ],
)
def test_the_first_thing_that_is_wrong_comes_last(gpt2, feature, check, said):
    findings = list(examine(feature, gpt2.bridge))
    assert failed(findings) == findings[-1:]
    assert findings[-1].check == check and said in findings[-1].seen
    assert str(findings[-1]).startswith(f"FAIL  {check}: ")


def test_a_model_that_does_not_load():
    (finding,) = examine("L1.N3", "./nowhere")
    assert finding.passed is False and "There is no folder './nowhere'" in finding.seen


def test_the_model_is_left_as_it_was(gpt2):
    list(examine("blocks.1.attn.hook_result[-1, 0, 5]", gpt2.bridge))
    assert not any(p.fwd_hooks for p in gpt2.bridge.hook_dict.values()) and not gpt2.bridge.cfg.use_attn_result


def test_rounding_of_a_coarse_model_is_a_note_at_worst(gpt2):
    import copy
    import warnings

    from transformer_lens.model_bridge import TransformerBridge

    from tests.helpers import models

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raw = copy.deepcopy(models.raw_model("gpt2")).to(torch.bfloat16)
        bridge = TransformerBridge.boot_transformers(
            "tiny-bf16", hf_model=raw, tokenizer=gpt2.tokenizer, device="cpu", dtype=torch.bfloat16
        )
    findings = list(examine("L1.N3", bridge))
    assert not failed(findings) and "bfloat16" in findings[0].seen


def test_a_model_that_mixes_neighbours_is_scored_whole_and_says_why(gpt2):
    bridge = models.new_bridge("gpt2", gpt2.raw)
    mlp = bridge.blocks[0].mlp.original_component
    mlp.register_forward_hook(lambda m, i, out: out + F.pad(out, (0, 0, 1, 0))[:, :-1])
    findings = {finding.check: finding for finding in examine("L1.N3", bridge)}
    shared = findings["prompts share prefixes"]
    assert shared.passed is None and shared.seen.startswith(
        "no, on tiny-gpt2: its activation at blocks.1.mlp.hook_post"
    )
    assert findings["the gradient agrees with a finite difference"].passed
