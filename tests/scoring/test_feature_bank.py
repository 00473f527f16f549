"""Features that are computed together have the values that each of them has alone, on every family of models."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import dreamy_lens as dl
from dreamy_lens.errors import FeatureError, FeatureRangeError, SettingsError, UnknownHookError
from dreamy_lens.features import neurons
from dreamy_lens.features.families import expressions
from dreamy_lens.models import as_hooked
from dreamy_lens.scoring import PromptFrame, WindowScorer, given_order, make_banks
from tests.helpers.scorers import make_scorer

N = 6
POST = "blocks.0.mlp.hook_post"


def _features(d_model: int) -> list:
    random = np.random.default_rng(0)
    directions = random.normal(size=(3, d_model)).astype(np.float32)
    stream = dl.hook("blocks.1.hook_resid_post")
    return [
        dl.neurons(0),
        *(dl.neuron(1, i) for i in (3, 0, 39)),
        dl.hook("blocks.0.mlp.hook_post")[..., :].max(),
        *(dl.hook("blocks.1.mlp.hook_post")[..., i].mean() for i in (2, 5)),
        dl.hook("blocks.1.mlp.hook_post")[0, 7],
        *(stream[-1].standardised() @ v for v in directions),
        *(stream[-1].cosine(v) for v in directions),
        *((stream[...] @ v).max() for v in directions[:2]),
        stream[-1],
        stream[-1].norm(),
        *(2.5 * dl.logit(i) for i in (5, 9)),
        *(dl.log_prob(i, 2) for i in (5, 9)),
        dl.logit_difference(7),
        dl.hook("blocks.0.attn.hook_pattern")[:, -1, 1],
        dl.hook("blocks.0.attn.hook_pattern")[2, -1, 1],
        *(dl.hook("blocks.0.attn.hook_pattern")[i].max() for i in (0, 2)),  # two axes of positions
        *(dl.hook("blocks.1.attn.hook_pattern")[i, 1:, :].mean() for i in (1, 2)),
        dl.hook("blocks.1.attn.hook_pattern")[...].max(),
        (-dl.neuron(1, 4)).clip(max=0.1),
        dl.features.mean_cross_entropy(),
        dl.neuron(0, 1) * dl.neuron(1, 1),
        dl.custom(
            "gap", ["blocks.0.mlp.hook_post"], lambda a: a["blocks.0.mlp.hook_post"][:, -1, :2].diff().squeeze(-1)
        ),
    ]


def _rows(family, count: int = 5, n: int = N) -> np.ndarray:
    return np.random.default_rng(1).integers(1, 300, size=(count, n))


def _bulk(family, features, cross_entropy: bool = True, n: int = N) -> WindowScorer:
    model = as_hooked(family.bridge)
    frame = PromptFrame(model, model.prepends_bos)
    return WindowScorer(make_banks(expressions(features, model), model), model, frame, n, cross_entropy)


def test_values_are_those_of_each_feature_by_itself(family):
    features = _features(32)
    bulk, rows = _bulk(family, features), _rows(family)
    (_, found), *rest = bulk.passes(rows)
    assert not rest and not bulk.plain  # the faster pass agreed with the plain pass
    for bank, values in zip(bulk.banks, found.values, strict=True):
        assert values.shape == (len(rows), len(bank))
        for i in range(len(bank)):
            alone = make_scorer(bank.members[i], family.bridge, share_prefixes=False).values(rows)
            assert np.allclose(values[:, i], alone, atol=1e-4), bank.members[i].label
    costs = make_scorer(features[1], family.bridge, share_prefixes=False).score(rows).cross_entropy
    assert np.allclose(found.cross_entropy, costs, atol=1e-4)


def test_values_at_every_position_are_those_of_prompts_that_end_there(family):
    bulk, rows = _bulk(family, _features(32)), _rows(family)
    bulk.prepare(rows)
    with torch.no_grad():
        readings = bulk.read(rows)
    told = 0
    for bank in bulk.banks:
        if bank.series is None:
            continue
        series = bank.series(readings)
        assert series.shape == (len(rows), N, len(bank))
        for i in {0, len(bank) - 1}:
            scorer = make_scorer(bank.members[i], family.bridge, share_prefixes=False)
            for end in range(1 if bulk.layout.bos else 2, N + 1):  # one token alone has no cross-entropy
                assert np.allclose(series[:, end - 1, i], scorer.values(rows[:, :end]), atol=1e-4), (bank, end)
        told += len(bank)
    assert told > 120  # most features need no new pass for every position


def test_numbers_are_those_of_the_plain_model(family):
    """Every neuron of a layer has the value that Hugging Face's own modules give."""
    rows, model = _rows(family), as_hooked(family.bridge)
    before = model.bos(None)
    first = np.tile(np.array(before, dtype=np.int64), (len(rows), 1))
    ids = torch.from_numpy(np.concatenate([first, rows], 1))
    down = {"gpt2": "c_proj", "neox": "dense_4h_to_h", "llama": "down_proj", "gemma2": "down_proj"}[family.name]
    blocks = next(m for m in family.raw.modules() if isinstance(m, torch.nn.ModuleList))
    seen = []
    handle = getattr(blocks[1].mlp, down).register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        logits = family.raw(ids).logits
    handle.remove()
    bulk = _bulk(family, dl.neurons(1))
    (_, found), *_ = bulk.passes(rows)
    assert torch.allclose(found.values[0], seen[0][:, -1], atol=1e-4)
    losses = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none").mean(1)
    assert torch.allclose(found.cross_entropy, losses, atol=1e-4)


def test_what_is_alike_is_one_bank(neox):
    model = as_hooked(neox.bridge)
    features = [dl.neuron(0, 1), dl.logit(3), dl.neuron(0, 2), -dl.neuron(0, 3), dl.logit(4), -dl.neuron(0, 5)]
    found = make_banks(features, model)
    assert [[str(f) for f in bank.members] for bank in found] == [
        ["blocks.0.mlp.hook_post[-1, 1]", "blocks.0.mlp.hook_post[-1, 2]"],
        ["logit(3)", "logit(4)"],
        ["-blocks.0.mlp.hook_post[-1, 3]", "-blocks.0.mlp.hook_post[-1, 5]"],
    ]
    assert given_order(found).tolist() == [0, 2, 1, 4, 3, 5]  # indices into the banks, in input order


def test_latents_of_an_autoencoder_are_encoded_once(neox):
    class Halves:
        d_in, d_sae, calls = 32, 64, 0

        def encode(self, x):
            Halves.calls += 1
            return torch.cat([x, -x], -1).relu()

    sae = Halves()
    features = [dl.sae_latent(sae, i, hook="blocks.0.hook_resid_post") for i in range(40)]
    bulk, rows = _bulk(neox, features, False), _rows(neox)
    bulk.prepare(rows)
    Halves.calls = 0
    (_, found), *_ = bulk.passes(rows)
    assert Halves.calls == 1
    for i in (0, 33):
        assert np.allclose(found.values[0][:, i], make_scorer(features[i], neox.bridge).values(rows), atol=1e-4)


def test_no_layer_below_the_deepest_feature_runs_without_cross_entropy(neox):
    entered = []
    blocks = neox.bridge.blocks
    handles = [b.register_forward_pre_hook(lambda m, x, i=i: entered.append(i)) for i, b in enumerate(blocks)]
    originals = [getattr(b, "original_component", b) for b in blocks]
    handles += [b.register_forward_pre_hook(lambda m, x, i=i: entered.append(i)) for i, b in enumerate(originals)]
    try:
        list(_bulk(neox, dl.neurons(0), False).passes(_rows(neox)))
        assert set(entered) == {0}
        list(_bulk(neox, dl.neurons(0), True).passes(_rows(neox)))
        assert set(entered) == {0, 1}
    finally:
        for handle in handles:
            handle.remove()


def test_edits_by_hooks_of_the_user_are_seen(neox):
    bulk, rows = _bulk(neox, [dl.neurons(1), dl.neurons(0)]), _rows(neox)
    (_, before), *_ = bulk.passes(rows)
    with neox.bridge.hooks(fwd_hooks=[("blocks.0.hook_resid_post", lambda x, hook: x * 0)]):
        (_, during), *_ = bulk.passes(rows)
        alone = make_scorer(dl.neuron(1, 3), neox.bridge).values(rows)
    (_, after), *_ = bulk.passes(rows)
    assert torch.equal(before.values[0], after.values[0])
    assert not torch.allclose(before.values[0], during.values[0], atol=1e-2)
    assert np.allclose(during.values[0][:, 3], alone, atol=1e-4)


# Families.


def test_patterns_and_families_in_text(neox):
    model = as_hooked(neox.bridge)
    assert expressions("L1.N*", model) == [neurons(1)]
    assert expressions(["L*.N*", neurons()], model) == [neurons(0), neurons(1)]
    assert expressions("blocks.*.hook_resid_post[-1]", model) == [
        dl.hook(f"blocks.{i}.hook_resid_post")[-1] for i in range(2)
    ]
    third = [dl.neuron(0, 3), dl.neuron(1, 3)]
    assert expressions("L*.N3", model) == third == expressions("l*n3", model)
    assert expressions("2 * L*.N3", model) == [2 * f for f in third] == expressions("2*L*.N3", model)
    assert expressions("L1.N*.clip(max=0.1)", model) == [neurons(1).clip(max=0.1)]
    assert expressions('logit("L2.N*")', model) == [dl.logit("L2.N*")]  # a text
    assert expressions("2 * L0.N3", model) == [2 * dl.neuron(0, 3)]  # a product, no pattern
    assert expressions(("2 * L0.N3", ["L0.N3", "L0.N3"]), model) == [2 * dl.neuron(0, 3), dl.neuron(0, 3)]


@pytest.mark.parametrize(
    "text", ["L1.N3*L0.N4", "L1.N3 *L0.N4", "L1.N3*2", "2*L1.N3*L0.N4", "L1.N3*-1", "(L1.N3)*L0.N4"]
)
def test_a_star_between_features_is_a_product(neox, text):
    assert expressions(text, as_hooked(neox.bridge)) == [dl.parse(text)]


def test_a_pattern_may_be_a_factor_or_a_term(neox):
    model = as_hooked(neox.bridge)
    assert expressions("L*.N3*2", model) == [2 * dl.neuron(i, 3) for i in range(2)]
    assert expressions("L*.N3-L1.N4", model) == [dl.neuron(i, 3) - dl.neuron(1, 4) for i in range(2)]


def test_members_of_a_family_are_named_and_parse(family):
    model = as_hooked(family.bridge)
    (heads,) = make_banks([0.5 * dl.hook("blocks.0.attn.hook_z")[-1]], model)
    last = heads.members[len(heads) - 1]
    sizes = tuple(family.bridge.cfg.d_head for _ in range(1))
    assert str(last) == f"0.5 * blocks.0.attn.hook_z[-1, 3, {sizes[0] - 1}]"
    assert dl.parse(str(last)) == last
    assert [str(f) for f in heads.members[:2]] == [f"0.5 * blocks.0.attn.hook_z[-1, 0, {i}]" for i in range(2)]


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ([], FeatureError, "There is no feature"),
        (7, FeatureError, "Features are expressions"),
        ("blocks.*.mlp.hook_pots[-1]", UnknownHookError, "blocks.0.mlp.hook_post"),
        (dl.hook("blocks.0.mlp.hook_post"), FeatureRangeError, "leaves positions"),
        (dl.hook("blocks.0.mlp.hook_post")[-1].standardised(), FeatureRangeError, "no name of its own"),
        (dl.hook("blocks.0.mlp.hook_post")[-1, 400], FeatureRangeError, "there is no unit 400"),
        ([dl.neuron(0, 1), dl.neuron(0, 400)], FeatureRangeError, "there is no unit 400"),
        (dl.hook("blocks.0.mlp.hook_post")[..., 4], FeatureRangeError, "one number"),
        (
            dl.custom(
                "slope",
                ["blocks.0.mlp.hook_post"],
                lambda a: torch.autograd.grad(a["blocks.0.mlp.hook_post"].sum(), a["blocks.0.mlp.hook_post"])[0][
                    :, 0, 0
                ],
            ),
            FeatureError,
            "slope",
        ),
    ],
)
def test_what_does_not_fit_is_said(neox, given, error, words):
    model = as_hooked(neox.bridge)
    with pytest.raises(error, match=words):
        make_banks(expressions(given, model), model)


def test_rows_longer_than_a_context_are_told(neox):
    with pytest.raises(SettingsError, match=r"A window of \d+ tokens.* context is \d+; use a length of at most"):
        _bulk(neox, dl.neuron(0, 1), n=as_hooked(neox.bridge).n_ctx + 1)
