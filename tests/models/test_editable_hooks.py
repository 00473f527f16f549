"""Hook points that are changed: those that the model does not go on with are refused, on every architecture."""

from __future__ import annotations

import pytest
import torch

import dreamy_lens as dl
from dreamy_lens.errors import HookNotEditableError, HookNotFiredError
from dreamy_lens.models.editable_hooks import check_editable, uneditable
from dreamy_lens.models.load import as_hooked
from tests.helpers.models import compatible, family, new_bridge
from tests.trust import zoo

EDITABLE = ("hook_resid_pre", "hook_resid_post", "hook_attn_out", "hook_mlp_out", "attn.hook_z", "mlp.hook_post")


def bridge_of(name):
    architecture = zoo.ARCHITECTURES[name]
    return zoo.bridge_of(architecture, zoo.plain_model(architecture))


@pytest.mark.parametrize("name", ["gpt2", "neox", "llama", "gemma2"])
def test_streams_outputs_heads_and_neurons_can_be_changed(name):
    for own in (family(name), *([compatible(name)] if name == "gpt2" else [])):
        model = as_hooked(own.bridge)
        assert [uneditable(model, f"blocks.{i}.{hook}") for i in (0, 1) for hook in EDITABLE] == [None] * 12


def test_an_activation_that_is_only_shown_is_refused():
    model = as_hooked(bridge_of("GPTJForCausalLM"))
    with pytest.raises(HookNotEditableError, match="does not read what is put in its place"):
        check_editable(model, "blocks.0.attn.hook_pattern")
    assert uneditable(model, "blocks.0.attn.hook_z") is None
    with pytest.raises(HookNotFiredError):
        check_editable(as_hooked(family("neox").bridge), "blocks.0.attn.hook_rot_q")


def test_an_input_of_one_component_is_not_the_stream(llama):
    direction = dl.hook("blocks.0.hook_resid_mid")[-1] @ torch.ones(32)
    with pytest.raises(HookNotEditableError, match=r"goes on without the change.*use blocks\.0\.hook_attn_out"):
        dl.steer(direction, [5, 9, 7], llama.bridge)


def test_edits_act_for_one_pass_and_readers_see_them(gpt2):
    model = as_hooked(new_bridge("gpt2", gpt2.raw))
    ids = torch.tensor([[0, 5, 9], [0, 7, 30]])
    name = "blocks.0.mlp.hook_post"
    plain, before = model.run(ids, [name])
    with model.keep_hooks():
        model.run(ids, [name], logits=False)  # leaves a reader attached
        seen, logits = model.run_edited(ids, [(name, lambda x: 2 * x), (name, lambda x: x + 1)], [name])
        after, same = model.run(ids, [name])
    torch.testing.assert_close(seen[name], 2 * plain[name] + 1)
    assert not torch.equal(logits, before)
    torch.testing.assert_close(after[name], plain[name], rtol=0, atol=0)
    torch.testing.assert_close(same, before, rtol=0, atol=0)
    looked, untouched = model.run_edited(ids, [(name, lambda x: None)], [name])
    assert torch.equal(untouched, before) and torch.equal(looked[name], plain[name])

    def fail(x):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        model.run_edited(ids, [(name, fail)])
    assert torch.equal(model.run(ids)[1], before) and not model.is_hooked
