"""Names of hook points hold what they say, or are refused: neurons, pre-activations, heads, keys, head results."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import dreamy_lens as dl
from dreamy_lens.analysis.doctor import examine
from dreamy_lens.api.logit_effect import logit_effect
from dreamy_lens.errors import FeatureRangeError, HookMeaningError
from dreamy_lens.features import bind
from dreamy_lens.models import as_hooked
from dreamy_lens.models.hook_meanings import unmeant
from tests.helpers.models import compatible
from tests.trust.findings import Examination
from tests.trust.zoo import ARCHITECTURES

MEANT = ("mlp.hook_pre", "mlp.hook_post", *(f"attn.hook_{x}" for x in ("q", "k", "v", "z", "pattern", "attn_scores")))


@pytest.fixture(scope="module")
def mixture() -> Examination:
    return Examination(ARCHITECTURES["MixtralForCausalLM"])


@pytest.mark.parametrize("mode", ["raw", "compatible"])
@pytest.mark.parametrize("point", [*MEANT, "attn.hook_result"])
def test_familiar_names_mean_what_they_say_in_both_modes(family, mode, point):
    bridge = family.bridge if mode == "raw" else compatible(family.name).bridge
    assert unmeant(as_hooked(bridge), f"blocks.1.{point}") is None


def test_a_mixture_of_experts_has_no_neurons_and_says_what_it_has(mixture):
    for feature in ("L1.N3", dl.neurons(1), "blocks.1.mlp.hook_post[..., 3].max()", "blocks.1.mlp.hook_pre[-1, 3]"):
        with pytest.raises(HookMeaningError, match=r"(?s)mixture of experts.*blocks\.1\.mlp\.hook_out"):
            dl.score(feature, mixture.ids, mixture.bridge)
    with pytest.raises(HookMeaningError, match="is not the MLP's neurons"):
        dl.max_activating(dl.neurons(1), mixture.bridge, ["one two three four five six seven eight nine ten"] * 3)
    with pytest.raises(HookMeaningError, match="is not the MLP's neurons"):
        dl.dream("L1.N3", mixture.bridge, iterations=1)
    with pytest.raises(HookMeaningError):
        logit_effect("L1.N3", mixture.bridge)


def test_the_doctor_says_so_too(mixture):
    findings = list(examine("L1.N3", mixture.bridge))
    assert not findings[-1].passed and "not the MLP's neurons" in str(findings[-1])


def test_its_places_are_features(mixture):
    value = dl.score("blocks.1.mlp.hook_out[-1, 3]", mixture.ids, mixture.bridge).value
    expected = mixture.run(mixture.layer.mlp)[:, -1, 3]
    torch.testing.assert_close(torch.tensor(value), expected, atol=1e-4, rtol=1e-4)


def test_queries_that_hold_a_gate_too_are_not_queries():
    """Qwen3.5's query projection writes twice as many numbers: a gate for each head beside its query."""
    model = Examination(ARCHITECTURES["Qwen3_5ForCausalLM"])
    with pytest.raises(HookMeaningError, match="cut into 8 heads and the layer has 4"):
        bind("blocks.1.attn.hook_q[-1, 3, 0]", as_hooked(model.bridge))


def test_heads_of_latent_attention_are_not_cut_wrongly():
    """DeepSeek's values are wider than head_dim says, so the output is cut into twice as many heads as there are."""
    model = Examination(ARCHITECTURES["DeepseekV3ForCausalLM"])
    with pytest.raises(HookMeaningError, match="cut into 8 heads and the layer has 4"):
        bind("blocks.1.attn.hook_z[-1, 3, 0]", as_hooked(model.bridge))
    bind("blocks.1.attn.hook_pattern[3, -1, 0]", as_hooked(model.bridge))


def test_both_attentions_of_a_decoder_with_an_encoder_are_examined():
    model = Examination(ARCHITECTURES["T5ForConditionalGeneration"])
    for attention in ("self_attn", "cross_attn"):
        assert unmeant(as_hooked(model.bridge), f"decoder_blocks.1.{attention}.hook_z") is None


def test_shared_keys_have_fewer_heads_and_the_right_numbers(llama):
    hooked = as_hooked(llama.bridge)
    with pytest.raises(FeatureRangeError, match="2 heads"):
        bind("blocks.1.attn.hook_k[-1, 3, 0]", hooked)
    assert unmeant(hooked, "blocks.1.attn.hook_k") is None


def test_a_hook_point_that_was_moved_is_noticed(gpt2):
    """The alias leads to another place than its name says."""
    from tests.helpers.models import new_bridge

    bridge = new_bridge("gpt2", gpt2.raw)
    mlp = bridge.blocks[1].mlp
    mlp.out.original_component.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    with pytest.raises(HookMeaningError, match="differs from the input of the MLP's last linear map"):
        bind("L1.N3", as_hooked(bridge))
    bind("L0.N3", as_hooked(bridge))


def test_hooks_of_the_user_do_not_change_what_a_name_means(gpt2):
    """They change numbers: a reader behind them sees others than the module that is before them."""
    from tests.helpers.models import new_bridge

    bridge = new_bridge("gpt2", gpt2.raw)
    plain = dl.score("blocks.1.mlp.hook_pre[-1, 3]", "The dog", bridge).value[0]
    bridge = new_bridge("gpt2", gpt2.raw)
    order: list[str] = []
    for name in ("first", "second"):
        bridge.add_hook("blocks.1.mlp.hook_pre", lambda x, hook, name=name: order.append(name) or 2 * x)
    value = dl.score("blocks.1.mlp.hook_pre[-1, 3]", "The dog", bridge).value[0]
    assert value == pytest.approx(4 * plain, rel=1e-4)
    assert order[:2] == ["first", "second"] and order[::2] == ["first"] * (len(order) // 2)


def test_a_pass_of_another_thread_does_not_change_what_a_name_means(gpt2):
    from tests.helpers.models import new_bridge

    model = as_hooked(new_bridge("gpt2", gpt2.raw))
    with ThreadPoolExecutor(1) as pool:
        with model.lock, model.bypass().bare(["blocks.0.mlp.hook_post"]):  # as in a step of a run
            verdict = pool.submit(unmeant, model, "blocks.1.mlp.hook_post")
            time.sleep(0.2)  # long enough to look at the modules, if the thread does not wait
        assert verdict.result() is None


def test_nor_do_they_make_a_model_see_later_tokens(gpt2):
    from dreamy_lens.models.causality import is_causal
    from tests.helpers.models import new_bridge

    bridge = new_bridge("gpt2", gpt2.raw)
    bridge.add_hook("blocks.0.hook_resid_post", lambda x, hook: x.flip(1))
    assert is_causal(as_hooked(bridge)) and as_hooked(bridge).is_hooked
