"""Hooks are attached once in a run, do nothing outside its passes, and are gone when it ends, whatever ends it."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import pytest
import torch
from transformer_lens.hook_points import HookPoint

import dreamy_lens as dl
from dreamy_lens.models import as_hooked, persistent_hooks_of, wrap
from tests.helpers import models
from tests.helpers.dreams import dream, same

IDS = torch.arange(1, 11).view(2, 5)
POINT = "blocks.1.mlp.hook_post"
FEATURES = ["L1.N3", 'logit(" the")', "hook('blocks.0.attn.hook_pattern')[1, -1, 0]", "hook('hook_embed')[-1, 3]"]
GATED = "hook('blocks.0.attn.hook_result')[-1, 1, 3]"


@pytest.fixture(params=["plain", "compatible"])
def bridge(request: pytest.FixtureRequest) -> Any:
    """GPT-2 as it is, and with one hook point by several names."""
    return (models.family if request.param == "plain" else models.compatible)("gpt2").bridge


@pytest.fixture
def attached(monkeypatch: pytest.MonkeyPatch) -> list[HookPoint]:
    """The hook points to which something was attached, each time."""
    seen: list[HookPoint] = []
    usual = HookPoint.add_hook

    def add_hook(self: HookPoint, *args: Any, **settings: Any) -> Any:
        seen.append(self)
        return usual(self, *args, **settings)

    monkeypatch.setattr(HookPoint, "add_hook", add_hook)
    return seen


def hooks(bridge: Any) -> int:
    """How many hooks torch would call at hook points."""
    points = [m for m in bridge.modules() if isinstance(m, HookPoint)]
    assert not any(p.fwd_hooks or p.bwd_hooks for p in points), "TransformerLens sees hooks between two passes"
    return sum(len(p._forward_hooks) + len(p._backward_hooks) for p in points)


def begun(bridge: Any, feature: Any = "L1.N3", steps: int = 3) -> Any:
    """A run that stands still between two of its steps."""
    running = dream(bridge, feature, iterations=0).steps(8)
    for _ in range(steps):
        next(running)
    return running


@pytest.mark.parametrize("feature", [*FEATURES, GATED])
def test_a_run_attaches_as_many_hooks_however_long_it_is(bridge, attached, feature):
    counts = []
    dream(bridge, feature, iterations=1)  # the first run verifies what the hook point's name says
    for iterations in (1, 4):
        attached.clear()
        dream(bridge, feature, iterations=iterations)
        counts.append(len(attached))
    assert counts[0] == counts[1] > 0 and not hooks(bridge)


def test_without_that_they_are_counted_again_and_again(gpt2, attached, monkeypatch):
    monkeypatch.setattr(type(persistent_hooks_of(gpt2.bridge)), "keep", lambda self: contextlib.nullcontext())
    counts = []
    for iterations in (1, 4):
        attached.clear()
        dream(gpt2.bridge, iterations=iterations)
        counts.append(len(attached))
    assert counts[1] >= counts[0] + 2 * 3


def test_runs_side_by_side_attach_as_many_hooks_however_long_they_are(gpt2, attached):
    counts = []
    dream(gpt2.bridge, FEATURES[:3], iterations=1, seeds=[0, 1])
    for iterations in (1, 4):
        attached.clear()
        dream(gpt2.bridge, FEATURES[:3], iterations=iterations, seeds=[0, 1])
        counts.append(len(attached))
    assert counts[0] == counts[1] and not hooks(gpt2.bridge)


@pytest.mark.parametrize("feature", [*FEATURES, GATED])
def test_results_are_those_of_passes_that_attach_hooks_of_their_own(bridge, monkeypatch, feature):
    ours, kept = dream(bridge, feature, iterations=4), dl.attribution(feature, [3, 4, 5, 6], bridge, k=5)
    monkeypatch.setattr(type(persistent_hooks_of(bridge)), "keep", lambda self: contextlib.nullcontext())
    same(ours.history, dream(bridge, feature, iterations=4).history)
    alone = dl.attribution(feature, [3, 4, 5, 6], bridge, k=5)
    assert (kept.values == alone.values).all() and (kept.candidates == alone.candidates).all()


def test_the_model_is_the_user_s_between_two_steps(bridge):
    plain, cache = bridge.run_with_cache(IDS)
    running, model = begun(bridge), as_hooked(bridge)
    assert hooks(bridge) > 0 and not model.is_hooked and not wrap(bridge, "another").is_hooked
    found: list[torch.Tensor] = []

    def call() -> None:
        logits, seen = bridge.run_with_cache(IDS)
        assert all(torch.equal(seen[name], cache[name]) for name in cache)
        found.append(logits)
        edit = (POINT, lambda activation, hook: activation * 0)
        found.append(bridge.run_with_hooks(IDS, fwd_hooks=[edit]))

    call()
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert torch.equal(found[0], plain) and torch.equal(found[2], plain)
    assert torch.equal(found[1], found[3]) and not torch.equal(found[1], plain)
    running.close()
    assert not hooks(bridge) and torch.equal(bridge(IDS), plain)


def test_a_user_s_gradient_does_not_notice(gpt2):
    def slope() -> torch.Tensor:
        seen: list[torch.Tensor] = []
        reader = (POINT, lambda gradient, hook: seen.append(gradient.clone()))
        with gpt2.bridge.hooks(bwd_hooks=[reader]):
            gpt2.bridge(IDS).sum().backward()
        gpt2.bridge.zero_grad()
        return seen[0]

    plain, running = slope(), begun(gpt2.bridge)
    assert torch.equal(slope(), plain)
    running.close()


def test_a_user_s_hook_in_the_middle_of_a_run_is_seen_and_its_edits_are_read(gpt2):
    running, model = begun(gpt2.bridge), as_hooked(gpt2.bridge)
    plain = model.run(IDS, [POINT])[0][POINT]
    gpt2.bridge.add_hook(POINT, lambda activation, hook: activation * 2)
    try:
        assert model.is_hooked
        torch.testing.assert_close(model.run(IDS, [POINT])[0][POINT], 2 * plain)
        next(running)
    finally:
        gpt2.bridge.reset_hooks()
    assert not model.is_hooked
    torch.testing.assert_close(model.run(IDS, [POINT])[0][POINT], plain)
    running.close()
    assert not hooks(gpt2.bridge)


@pytest.mark.parametrize("thorough", [False, True])
def test_hooks_that_somebody_removes_are_attached_again(gpt2, thorough):
    whole, run = dream(gpt2.bridge), dream(gpt2.bridge, iterations=0)
    for step in run.steps(8):
        if step.iteration:
            run.take(step)
        gpt2.bridge.reset_hooks()
        if thorough:
            for point in gpt2.bridge.hook_dict.values():
                point._forward_hooks.clear()
    assert (run.history.ids == whole.history.ids).all() and not hooks(gpt2.bridge)


def test_the_leaf_of_a_backward_pass_comes_before_readers_that_stand_there_already(bridge):
    model, other = as_hooked(bridge), torch.zeros(2, 5, 32)
    with model.keep_hooks():
        assert model.run(IDS, ["hook_embed", "embed.hook_out"])[0]["hook_embed"].any()
        found = model.run(IDS, ["embed.hook_out", "hook_embed"], embeddings=other)[0]
        assert not found["hook_embed"].any() and not found["embed.hook_out"].any()
        assert model.run(IDS, ["hook_embed"])[0]["hook_embed"].any()
        assert hooks(bridge) == 3
    assert not hooks(bridge)


def test_whoever_leaves_last_takes_them_away(gpt2):
    model = as_hooked(gpt2.bridge)
    with model.keep_hooks():
        with model.keep_hooks():
            model.run(IDS, [POINT])
        assert hooks(gpt2.bridge) == 1
        running = begun(gpt2.bridge)
    assert hooks(gpt2.bridge) > 1
    del running  # a generator that nobody closes
    assert not hooks(gpt2.bridge)
    model.run(IDS, [POINT])
    assert not hooks(gpt2.bridge) and not persistent_hooks_of(gpt2.bridge).ids


def test_they_are_gone_after_an_error(gpt2, monkeypatch):
    running, model = begun(gpt2.bridge), as_hooked(gpt2.bridge)

    def fail(*args: Any, **settings: Any) -> Any:
        raise RuntimeError("broken")

    monkeypatch.setattr(type(gpt2.bridge.blocks[1].mlp), "forward", fail)
    with pytest.raises(RuntimeError, match="broken"):
        list(running)
    with pytest.raises(RuntimeError, match="broken"), model.keep_hooks():
        model.run(IDS, [POINT])
    assert not hooks(gpt2.bridge)


def test_a_run_that_ends_during_somebody_else_s_pass_leaves_that_pass_its_hooks(gpt2):
    running, model = begun(gpt2.bridge), as_hooked(gpt2.bridge)
    usual = gpt2.bridge.blocks[0].forward

    def closing(*args: Any, **settings: Any) -> Any:
        running.close()
        return usual(*args, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(gpt2.bridge.blocks[0].__dict__, "forward", closing)
        assert model.run(IDS, [POINT])[0][POINT].shape == (2, 5, 40)
    assert not hooks(gpt2.bridge)
