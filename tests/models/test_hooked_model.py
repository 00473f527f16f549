"""Hook points: found, listed with shapes, computed on request and no longer, and named nearly right."""

from __future__ import annotations

import pytest
import torch

from dreamy_lens.errors import HookNotFiredError, ModelError, UnknownHookError
from dreamy_lens.models import HookedModel, as_hooked, gate_of, matches, nearest, wrap
from dreamy_lens.models.hook_points import hook_points
from tests.helpers.models import family as tiny
from tests.helpers.models import new_bridge

GATES = ("use_attn_result", "use_hook_mlp_in", "use_attn_in", "use_split_qkv_input")


@pytest.fixture
def hooked(family) -> HookedModel:
    return as_hooked(family.bridge)


def untouched(model: HookedModel) -> bool:
    """No hooks are left, no request is, and no pass is thought to be going on."""
    points = model.source.hook_dict.values()
    gates = [getattr(model.source.cfg, gate, False) for gate in GATES]
    return not any(point.fwd_hooks or point.bwd_hooks for point in points) and not any(gates)


# Listing.


def test_every_hook_point_is_listed_once_with_its_shape(hooked):
    points = {p.name: p.shape for p in hook_points(hooked)}
    assert set(points) == set(hooked.hook_names())
    cfg = hooked.source.cfg
    assert points["blocks.1.hook_resid_post"] == ("position", 32)
    assert points["blocks.1.mlp.hook_post"] == ("position", 40)
    assert points["blocks.0.attn.hook_pattern"] == (cfg.n_heads, "position", "position")
    assert points["blocks.0.attn.hook_z"] == ("position", cfg.n_heads, cfg.d_head)
    assert str(next(p for p in hook_points(hooked, "blocks.1.hook_resid_post"))).endswith("[position, 32]")


def test_points_computed_on_request_are_listed_with_shapes_and_switched_off_again(hooked):
    cfg = hooked.source.cfg
    points = {p.name: p.shape for p in hook_points(hooked)}
    assert points["blocks.0.attn.hook_result"] == ("position", cfg.n_heads, 32)
    assert untouched(hooked)


def test_points_that_never_fire_are_listed_as_such(neox):
    found = {p.name: p for p in hook_points(as_hooked(neox.bridge), "hook_rot_q")}
    assert set(found) == {"blocks.0.attn.hook_rot_q", "blocks.1.attn.hook_rot_q"}
    assert all(p.shape is None and str(p).endswith("never reached") for p in found.values())


def test_the_order_is_that_of_the_forward_pass(hooked):
    found = [p.name for p in hook_points(hooked, "hook_resid_post")]
    assert found == ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
    mixed = [p.name for p in hook_points(hooked) if p.name.endswith(("mlp.hook_pre", "mlp.hook_post"))]
    assert mixed == [f"blocks.{i}.mlp.{point}" for i in (0, 1) for point in ("hook_pre", "hook_post")]


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("", True),
        ("mlp post", True),
        ("POST mlp", True),
        ("blocks.2 attn", False),
        ("*hook_post", True),
        ("hook_post*", False),
        ("blocks.?.mlp.*", True),
        ("post pre", False),
    ],
)
def test_patterns(pattern, fits):
    assert matches("blocks.2.mlp.hook_post", pattern) == fits


# Names nearly right.

NAMES = [
    "embed.hook_out",
    "hook_embed",
    *(
        f"blocks.{i}.{rest}"
        for i in range(12)
        for rest in (
            "hook_resid_pre",
            "attn.hook_pattern",
            "attn.hook_z",
            "mlp.hook_pre",
            "mlp.hook_post",
            "hook_resid_post",
        )
    ),
    "ln_final.hook_normalized",
]


@pytest.mark.parametrize(
    ("asked", "first"),
    [
        ("blocks.3.mlp.hook_post", "blocks.3.mlp.hook_post"),
        ("blocks.3.mlp.hook_pst", "blocks.3.mlp.hook_post"),
        ("blocks.11.attn.pattern", "blocks.11.attn.hook_pattern"),
        ("blocks.7.resid_pre", "blocks.7.hook_resid_pre"),
        ("hook_pst", "blocks.0.mlp.hook_post"),
        ("mlp.hook_pst", "blocks.0.mlp.hook_post"),
        ("resid_post", "blocks.0.hook_resid_post"),
        ("hook_patern", "blocks.0.attn.hook_pattern"),
        ("block.5.mlp.hook_pre", "blocks.5.mlp.hook_pre"),
        ("hook_embd", "hook_embed"),
    ],
)
def test_the_nearest_name(asked, first):
    assert nearest(asked, NAMES)[0] == first


def test_a_name_without_its_layer_finds_that_point_of_several_layers():
    assert nearest("hook_pst", NAMES) == [f"blocks.{i}.mlp.hook_post" for i in range(3)]


def test_nearest_names_stay_in_the_layer_that_was_asked_for():
    assert all(name.startswith("blocks.4.") for name in nearest("blocks.4.mlp.post", NAMES))


def test_an_unknown_hook_point_is_answered_with_names_or_with_the_layers(gpt2):
    model = as_hooked(gpt2.bridge)
    with pytest.raises(
        UnknownHookError, match=r"tiny-gpt2 has no hook point 'hook_pst'; nearest: blocks.0.mlp.hook_post,"
    ):
        model.check_hook("hook_pst")
    with pytest.raises(UnknownHookError, match=r"'blocks.2.mlp.hook_post'; its layers are 0 to 1\."):
        model.check_hook("blocks.2.mlp.hook_post")
    model.check_hook("blocks.1.mlp.hook_post")


# Running.


def ids_for(model: HookedModel, rows: int = 2, length: int = 5) -> torch.Tensor:
    return torch.arange(1, 1 + rows * length, device=model.device).view(rows, length)


def test_activations_come_under_the_names_asked_for(hooked):
    found, logits = hooked.run(ids_for(hooked), ["hook_embed", "blocks.1.hook_resid_post", "hook_embed"])
    assert set(found) == {"hook_embed", "blocks.1.hook_resid_post"}
    assert found["hook_embed"].shape == (2, 5, 32) and logits is not None and logits.shape[:2] == (2, 5)
    assert untouched(hooked)


@pytest.mark.parametrize("name", ["blocks.0.attn.hook_result", "blocks.1.hook_mlp_in", "blocks.0.hook_q_input"])
def test_gated_hook_points_are_switched_on_for_one_pass_only(gpt2, name):
    model = as_hooked(gpt2.bridge)
    if name not in model.hook_names():
        name = name.replace("hook_q_input", "attn.hook_q_input")
    assert gate_of(name) in GATES
    with torch.no_grad():
        plain = model.run(ids_for(model))[1]
        found, logits = model.run(ids_for(model), [name])
    assert found[name].shape[:2] == (2, 5) and untouched(model)
    torch.testing.assert_close(logits, plain, atol=1e-5, rtol=1e-5)


def test_a_request_of_the_user_s_own_stays(gpt2):
    model = as_hooked(gpt2.bridge)
    gpt2.bridge.set_use_attn_result(True)
    try:
        model.run(ids_for(model), ["blocks.0.attn.hook_result"])
        assert gpt2.bridge.cfg.use_attn_result
    finally:
        gpt2.bridge.set_use_attn_result(False)


def test_a_request_that_cannot_be_granted_takes_back_the_others(gpt2, monkeypatch):
    model = as_hooked(gpt2.bridge)

    def refuse(wanted: bool) -> None:
        raise NotImplementedError("not here")

    monkeypatch.setattr(gpt2.bridge, "set_use_hook_mlp_in", refuse, raising=False)
    with pytest.raises(HookNotFiredError, match=r"tiny-gpt2 cannot compute blocks.1.hook_mlp_in: not here"):
        model.run(ids_for(model), ["blocks.0.attn.hook_result", "blocks.1.hook_mlp_in"])
    assert untouched(model)


def test_a_silent_hook_point_is_an_error_that_names_points_that_do_fire(neox):
    model = as_hooked(neox.bridge)
    with pytest.raises(HookNotFiredError, match=r"'blocks.0.attn.qkv.hook_in', but a forward pass does not") as caught:
        model.run(ids_for(model), ["blocks.0.attn.qkv.hook_in"], logits=False)
    named = str(caught.value).rpartition(": ")[2].rstrip(".").split(", ")
    reached = {p.name for p in hook_points(model) if p.shape is not None}
    assert len(named) == 3 and set(named) <= reached
    assert untouched(model)


def test_the_user_s_own_hooks_survive(gpt2):
    model, seen = as_hooked(gpt2.bridge), []
    point = gpt2.bridge.hook_dict["blocks.0.mlp.hook_post"]
    point.add_hook(lambda activation, hook: seen.append(activation.shape[0]))
    try:
        model.run(ids_for(model), ["blocks.0.mlp.hook_post", "blocks.1.mlp.hook_post"], logits=False)
        model.run(ids_for(model, rows=3), ["blocks.0.mlp.hook_post"])
        assert seen == [2, 3]
    finally:
        point.remove_hooks()
    assert untouched(model)


def test_parameters_are_frozen_inside_and_as_they_were_outside():
    model = as_hooked(tiny("gpt2").bridge)
    parameters = list(model.source.parameters())
    model.source.requires_grad_(True)
    parameters[0].requires_grad_(False)
    before = [False] + [True] * (len(parameters) - 1)
    try:
        with pytest.raises(KeyError), model.frozen():
            assert not any(p.requires_grad for p in parameters)
            raise KeyError
        assert [p.requires_grad for p in parameters] == before
    finally:
        parameters[0].requires_grad_(True)


def test_a_model_is_put_in_evaluation_mode_and_told_apart_by_name(gpt2):
    gpt2.bridge.train()
    model = wrap(gpt2.bridge, "mine")
    assert not gpt2.bridge.training and repr(model) == "HookedModel(mine)"
    assert as_hooked(gpt2.bridge) is as_hooked(gpt2.bridge)


def test_what_is_no_model_is_told_so():
    with pytest.raises(ModelError, match=r"Linear is not a model dreamy_lens can hook .it lacks hook_dict, hooks"):
        as_hooked(torch.nn.Linear(2, 2))


def test_device_and_dtype_are_those_of_the_weights_as_they_are_now():
    bridge = new_bridge("gpt2", tiny("gpt2").raw)
    model = as_hooked(bridge)
    assert (model.device.type, model.dtype) == ("cpu", torch.float32)
    bridge.to(torch.float64)
    assert model.dtype == torch.float64
    bridge.embed.original_component.weight = torch.nn.Parameter(bridge.embed.weight.to(torch.bfloat16))
    assert model.dtype == next(bridge.parameters()).dtype == torch.bfloat16
    bridge.to("meta")
    assert model.device.type == "meta"
