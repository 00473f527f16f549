"""Packed passes by every way there is, and the model as it was afterwards."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from dreamy_lens.models import (
    Current,
    NotPackable,
    PackedModel,
    PassCache,
    UnsupportedAttention,
    build_tree,
    tree_attention,
    wrap,
)
from dreamy_lens.models.packed_attention import HEADS, INTERFACE, ROWS
from dreamy_lens.models.packed_forward import FINAL
from dreamy_lens.models.tree_attention import RUNNING
from tests.helpers import models
from tests.helpers.scorers import make_scorer

LENGTH = 9
OUTSIDE = ["blocks.0.mlp.hook_post", "blocks.0.hook_resid_post", "blocks.0.hook_attn_out", "blocks.1.hook_resid_pre"]
INSIDE = ["blocks.0.attn.hook_pattern", "blocks.0.attn.hook_q", "blocks.1.attn.hook_z"]


def children(length: int = LENGTH, count: int = 20) -> np.ndarray:
    """Of three parents, which begin with the same three tokens; a place of each child is another token."""
    random = np.random.default_rng(1)
    parents = random.integers(1, 300, (3, length))
    parents[:, :3] = parents[0, :3]
    rows = parents[np.arange(count) % 3]
    rows[np.arange(count), 3 + np.arange(count) % (length - 3)] = random.integers(1, 300, count)
    return rows


def spread(found: torch.Tensor, packing: Any, by_rows: bool = False) -> torch.Tensor:
    """An activation by rows."""
    return found if by_rows else found[0][packing.index]


@pytest.mark.parametrize("compatible", [False, True], ids=["raw", "compatible"])
@pytest.mark.parametrize("way", [INTERFACE, HEADS, ROWS])
def test_every_way_gives_the_activations_of_plain_rows_or_is_refused(family, way, compatible):
    model = wrap(models.compatible(family.name).bridge if compatible else family.bridge)
    if way == INTERFACE and compatible and family.name in ("gpt2", "neox"):
        pytest.skip("the wrapped module keeps other weights then; a scorer finds that out")
    if way == HEADS and family.name in ("llama", "gemma2"):
        with pytest.raises(NotPackable, match="its attention has no separate step for its heads"):
            PackedModel(model, way)
        return
    rows = children()
    names = [*OUTSIDE, *INSIDE]
    with torch.no_grad():
        plain, _ = model.run(torch.from_numpy(rows), [*names, FINAL], logits=False)
    packed, packing = PackedModel(model, way), build_tree(rows)
    cut = packing.truncate(LENGTH - 1)
    for capture in (OUTSIDE[:3], names):
        with torch.no_grad():
            found = packed.run(packing, capture, final=True, cut=cut if packed.depth(capture) < 2 else packing)
        for name in capture:
            by_rows = name in packed.row_hooks(capture)
            torch.testing.assert_close(spread(found[name], packing, by_rows), plain[name], atol=2e-5, rtol=1e-4)
        behind = cut if packed.depth(capture) < 2 else packing
        torch.testing.assert_close(spread(found[FINAL], behind), plain[FINAL][:, : behind.length], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("way", [INTERFACE, ROWS])
def test_a_known_prefix_is_as_if_it_were_computed(family, way):
    model, rows = wrap(family.bridge), children()
    packed = PackedModel(model, way)
    with torch.no_grad():
        plain, _ = model.run(torch.from_numpy(rows), [*OUTSIDE, FINAL], logits=False)
        kept = PassCache(3)
        packed.run(build_tree(rows[:1, :3]), OUTSIDE, final=True, keep=kept)
        packing = build_tree(rows, known=3)
        found = packed.run(packing, OUTSIDE, final=True, before=kept)
    for name in {*OUTSIDE, FINAL} - packed.row_hooks(OUTSIDE):
        whole = torch.cat([kept.activations[name], found[name]], 1)
        torch.testing.assert_close(whole[0][packing.index], plain[name], atol=2e-5, rtol=1e-4)


def test_whole_rows_and_blocks_of_queries_are_the_same_attention(family, monkeypatch):
    """Accelerators work on whole rows; what they compute must not differ from what tests on a processor see."""
    rows = children()[:, 3:]
    settings = {"prefix": [5, 6, 7, 8], "suffix": [9], "prepend_bos": True}
    features = ("blocks.1.mlp.hook_post[-1, 3]", "log_prob(9)", "blocks.0.hook_resid_post[:, 3].max()")
    for feature in features:
        blocks = make_scorer(feature, family.bridge, **settings)
        with monkeypatch.context() as patch:
            patch.setattr(tree_attention, "_by_groups", tree_attention._by_rows)
            whole = make_scorer(feature, family.bridge, **settings)
            found = whole.score(rows)
        assert [s.packed.way for s in whole.forward._sharings.values()] == [INTERFACE]
        expected = blocks.score(rows)
        np.testing.assert_allclose(found.value, expected.value, atol=1e-5, rtol=1e-4)
        np.testing.assert_allclose(found.cross_entropy, expected.cross_entropy, atol=1e-5, rtol=1e-4)


def test_what_an_architecture_asks_of_attention_is_done_or_refused():
    packing = build_tree(children())
    q = torch.randn(1, 4, packing.nodes, 8)
    module = SimpleNamespace()
    with pytest.raises(UnsupportedAttention, match="calls packed attention outside a packed pass"):
        tree_attention.tree_attention(module, q, q, q)
    RUNNING.current = Current(packing)
    try:
        with pytest.raises(UnsupportedAttention, match="passes position_bias, s_aux, which"):
            tree_attention.tree_attention(module, q, q, q, s_aux=q, position_bias=q)
        out, weights = tree_attention.tree_attention(module, q, q, q, use_cache=False, position_ids=None)
        assert out.shape == (1, packing.nodes, 4, 8) and weights is None
    finally:
        RUNNING.current = None


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_as_it_was_even_if_the_pass_fails(family, monkeypatch, fails):
    bridge = family.bridge
    attention = bridge.blocks[1].attn
    usual = attention.forward

    def spread_over_devices(*args, **kwargs):  # as accelerate sets it on modules of a model in several places
        return usual(*args, **kwargs)

    monkeypatch.setitem(attention.__dict__, "forward", spread_over_devices)
    packed, packing = PackedModel(wrap(bridge)), build_tree(children())
    implementation = attention.original_component.config._attn_implementation

    def state():
        modules = list(bridge.modules()) + list(bridge.original_model.modules())
        return [(id(m), "forward" in m.__dict__, [id(c) for c in m._modules.values()]) for m in modules]

    before = state()
    if fails:
        monkeypatch.setattr(tree_attention, "_by_groups", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError), torch.no_grad():
            packed.run(packing, OUTSIDE, final=True)
    else:
        with torch.no_grad():
            packed.run(packing, OUTSIDE, final=True, cut=packing.truncate(LENGTH - 1))
    assert state() == before
    assert attention.__dict__["forward"] is spread_over_devices
    assert attention.original_component.config._attn_implementation == implementation
    assert RUNNING.current is None


def test_a_model_without_a_stack_of_attention_blocks_is_refused(gpt2):
    class Headless:
        blocks = ()

        def __getattr__(self, name: str) -> Any:
            return getattr(gpt2.bridge, name)

    model = wrap(gpt2.bridge)
    model.backend.bridge = Headless()
    with pytest.raises(NotPackable, match="need a decoder that is one stack of blocks"):
        PackedModel(model)
    with pytest.raises(NotPackable, match=r"unembed.hook_out comes after unembed.hook_in"):
        PackedModel(wrap(gpt2.bridge)).check(["unembed.hook_out"])


def test_one_row_as_long_as_its_packing_reads_what_is_inside_attention(gpt2):
    """59 tokens behind a BOS and four of a template: rows of 64, and 64 nodes."""
    ids = np.random.default_rng(0).integers(1, 320, size=(1, 59))
    settings: dict[str, Any] = {"prefix": [5, 6, 7, 8], "prepend_bos": True}
    feature = "blocks.1.attn.hook_q[-1, 1, 2]"
    fast, plain = (make_scorer(feature, gpt2.bridge, share_prefixes=s, **settings).values(ids) for s in (None, False))
    np.testing.assert_allclose(fast, plain, atol=1e-5)


def test_one_token_behind_a_template_is_packed_too(family):
    ids = np.arange(1, 9)[:, None]
    fast, plain = (
        make_scorer("L0.N3", family.bridge, share_prefixes=s, prefix=[5, 6, 7], prepend_bos=False)
        for s in (None, False)
    )
    found, expected = fast.score(ids), plain.score(ids)
    np.testing.assert_allclose(found.value, expected.value, atol=1e-5)
    np.testing.assert_allclose(found.cross_entropy, expected.cross_entropy, atol=1e-5)
    assert [s.packed.way for s in fast.forward._sharings.values()] == [INTERFACE]


def test_a_hook_in_the_place_of_another_is_noticed(family):
    bridge = models.new_bridge(family.name, family.raw)
    mlp = bridge.blocks[0].mlp.original_component
    rows = children()
    harmless = mlp.register_forward_hook(lambda module, inputs, out: out * 1.5)
    scorer = make_scorer("L1.N3", bridge)
    scorer.score(rows)
    slope = scorer.gradient(rows[:2]).of_value()
    harmless.remove()
    mlp.register_forward_hook(lambda module, inputs, out: out + torch.roll(out, 1, 1))  # mixes neighbours
    found, moved = scorer.score(rows), scorer.gradient(rows[:2]).of_value()
    plain = make_scorer("L1.N3", bridge, share_prefixes=False)
    np.testing.assert_allclose(found.value, plain.score(rows).value, atol=1e-5)
    np.testing.assert_allclose(found.cross_entropy, plain.score(rows).cross_entropy, atol=1e-5)
    torch.testing.assert_close(moved, plain.gradient(rows[:2]).of_value(), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(moved, slope, atol=1e-2)


def test_a_hook_on_the_way_back_is_respected(family):
    """It changes gradients only, and a pass that leaves its hook point out would not go through it."""
    bridge = models.new_bridge(family.name, family.raw)
    rows, scorer = children()[:2], make_scorer("L1.N3", bridge)
    before = scorer.gradient(rows).of_value()
    bridge.hook_dict["blocks.0.mlp.hook_post"].add_hook(lambda gradient, hook: (gradient * 0,), dir="bwd")
    found = scorer.gradient(rows).of_value()
    expected = make_scorer("L1.N3", bridge, share_prefixes=False).gradient(rows).of_value()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(found, before, atol=1e-3)
