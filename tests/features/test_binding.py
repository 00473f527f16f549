"""Binding: what does not fit the model is told before anything is searched, in a sentence that helps."""

from __future__ import annotations

import copy
import re

import numpy as np
import pytest
import torch

import dreamy_lens as dl
from dreamy_lens.errors import (
    FeatureError,
    FeatureRangeError,
    HookNotFiredError,
    ModelError,
    PromptError,
    SAEError,
    TokenError,
    UnknownHookError,
)
from dreamy_lens.features import bind
from dreamy_lens.models import Vocabulary, as_hooked
from tests.helpers import models
from tests.helpers.quick import quick_ones
from tests.helpers.scorers import make_scorer

POST = "blocks.0.mlp.hook_post"


def sentence(error: type[Exception], feature, model, **settings) -> str:
    with pytest.raises(error) as caught:
        bind(feature, model, **settings)
    assert type(caught.value) is error
    return str(caught.value)


# Hook points.


@pytest.mark.parametrize(
    ("index", "order"),
    [("0, 0, 5", "0, 5, 0"), ("1, -4, -2", "1, -2, -4"), ("0, 2, -1", "0, -1, 2"), ("-1, 1, 2", "-1, 2, 1")],
)
def test_attention_to_a_later_token_is_refused_with_the_right_order(gpt2, index, order):
    ids = [5, 6, 7, 8, 9, 10, 11]
    for name, value in (("pattern", "0"), ("attn_scores", "minus infinity")):
        feature = f"blocks.0.attn.hook_{name}[{index}]"
        with pytest.raises(FeatureRangeError) as caught:
            dl.score(feature, ids, gpt2.bridge)
        assert f"is {value} for every prompt here" in str(caught.value) or "masked" in str(caught.value)
        assert name != "pattern" or f"The order is head, query, key: write [{order}]." in str(caught.value)
    assert dl.score(f"blocks.0.attn.hook_pattern[{order}]", ids, gpt2.bridge).value[0] > 0
    assert dl.score("blocks.0.attn.hook_pattern[0, 2, -1]", ids[:3], gpt2.bridge).value[0] > 0  # -1 is 2 there
    with pytest.raises(FeatureRangeError, match=r"position -1 comes after position 2\. The order is head, query, key"):
        dl.dream("blocks.0.attn.hook_pattern[0, 2, -1]", gpt2.bridge, length=5)


@pytest.mark.parametrize("name", ["L2.N", "l2", "L2N"])
def test_half_of_a_neuron_is_answered_with_a_whole_one(gpt2, name):
    with pytest.raises(UnknownHookError, match=r"; a neuron of layer 2 is, for example, L2\.N812\.$"):
        dl.score(name, [5, 6], gpt2.bridge)


def test_an_unknown_hook_point_is_answered_with_the_nearest_names(gpt2):
    said = sentence(UnknownHookError, "blocks.1.mlp.hook_pst[-1, 3]", gpt2.bridge)
    assert "tiny-gpt2 has no hook point 'blocks.1.mlp.hook_pst'; nearest: blocks.1.mlp.hook_post, " in said


def test_a_layer_that_is_not_there_is_answered_with_the_layers(gpt2):
    assert "its layers are 0 to 1." in sentence(UnknownHookError, "L7.N3", gpt2.bridge)


def test_a_hook_point_that_never_fires(neox):
    said = sentence(HookNotFiredError, "blocks.0.attn.hook_rot_q[-1, 0]", neox.bridge)
    assert (
        "lists the hook point 'blocks.0.attn.hook_rot_q', but a forward pass does not go through it; the nearest"
        in said
    )


def test_a_hook_point_without_prompts_in_it(llama):
    said = sentence(FeatureRangeError, "rotary_emb.hook_cos[0, 0]", llama.bridge)
    assert "it has no axis for the prompts, so it does not depend on them" in said


# Indices.


@pytest.mark.parametrize(("index", "shown"), [(40, "40"), (-41, "-41"), (99, "99")])
def test_a_neuron_out_of_range(gpt2, index, shown):
    said = sentence(FeatureRangeError, dl.neuron(0, index), gpt2.bridge)
    assert said == f"{POST}[-1, {shown}]: there is no unit {shown}; tiny-gpt2 has 40 units there, 0 to 39."


def test_the_first_and_last_neurons_are_in_range(gpt2):
    for index in (0, 39, -1, -40):
        bind(dl.neuron(0, index), gpt2.bridge)


def test_a_head_out_of_range(gpt2):
    said = sentence(FeatureRangeError, "blocks.1.attn.hook_pattern[4, -1, 0]", gpt2.bridge)
    assert said.endswith("there is no head 4; tiny-gpt2 has 4 heads there, 0 to 3.")
    said = sentence(FeatureRangeError, "blocks.1.attn.hook_z[-1, 4, 0]", gpt2.bridge)
    assert said.endswith("there is no head 4; tiny-gpt2 has 4 heads there, 0 to 3.")


def test_grouped_keys_have_as_many_heads_as_there_are_groups(llama):
    said = sentence(FeatureRangeError, "blocks.0.attn.hook_k[-1, 2, 0]", llama.bridge)
    assert "tiny-llama has 2 heads there, 0 to 1" in said


def test_too_many_indices(gpt2):
    said = sentence(FeatureRangeError, f"{POST}[0, 1, 2]", gpt2.bridge)
    assert said == f"{POST}[0, 1, 2] has 3 indices, and an activation there has 2: [position, unit], without the batch."


def test_two_ellipses(gpt2):
    said = sentence(FeatureError, dl.hook(POST)[..., 1, ...], gpt2.bridge)
    assert "'...' can stand only once in an index of [position, unit]" in said


def test_an_ellipsis_fills_up_and_missing_indices_are_whole_axes(gpt2):
    prompt = [[3, 4, 5, 6]]
    one = dl.score(f"{POST}[..., 7].max()", prompt, gpt2.bridge).value
    assert one == dl.score(f"{POST}[:, 7].max()", prompt, gpt2.bridge).value
    norm = dl.score(f"{POST}[-1].norm()", prompt, gpt2.bridge).value
    assert norm == dl.score(f"{POST}[-1, ...].norm()", prompt, gpt2.bridge).value


def test_bos_is_no_unit(gpt2):
    said = sentence(FeatureRangeError, dl.hook(POST)[-1, "bos"], gpt2.bridge)
    assert '"bos" is a position, and there it indexes the units (0 to 39)' in said


def test_slices_that_take_nothing(gpt2):
    assert "takes none of the 40 units" in sentence(FeatureRangeError, f"{POST}[-1, 40:].norm()", gpt2.bridge)
    said = sentence(FeatureRangeError, f"{POST}[5:3, 1].max()", gpt2.bridge)
    assert "the slice 5:3 is empty" in said
    said = sentence(FeatureRangeError, f"{POST}[4:, 1].max()", gpt2.bridge, length=4)
    assert "the slice 4: is empty; there are positions 0 to 3." in said
    bind(f"{POST}[3:, 1].max()", gpt2.bridge, length=4)
    bind(f"{POST}[2:-30, 1].max()", gpt2.bridge)


# Positions.


@pytest.mark.parametrize("position", [8, -9])
def test_a_position_that_the_prompts_do_not_have(gpt2, position):
    said = sentence(FeatureRangeError, dl.neuron(0, 1, position), gpt2.bridge, length=8)
    assert (
        f"there is no position {position}; the 8 tokens that the model reads have positions 0 to 7, or -1 to -8" in said
    )
    assert said.endswith('(the BOS is the position "bos").')
    bind(dl.neuron(0, 1, position), gpt2.bridge, length=9)


@pytest.mark.parametrize("position", [64, -65])
def test_a_position_beyond_the_context(gpt2, position):
    said = sentence(FeatureRangeError, dl.neuron(0, 1, position), gpt2.bridge, prepend_bos=False)
    assert "only prompts of 65 tokens have, and tiny-gpt2's context is 64;" in said


def test_the_bos_takes_one_place_of_the_context(gpt2):
    bind(dl.neuron(0, 1, 63), gpt2.bridge, prepend_bos=False)
    said = sentence(FeatureRangeError, dl.neuron(0, 1, 63), gpt2.bridge, prepend_bos=True)
    assert "context is 64 with the BOS" in said


def test_bos_where_prompts_have_none(gpt2):
    said = sentence(FeatureRangeError, f"{POST}[bos, 1]", gpt2.bridge, prepend_bos=False)
    assert "prompts are scored without one here; use prepend_bos=True, or a position 0, 1, ..." in said
    bind(f"{POST}[bos, 1]", gpt2.bridge, prepend_bos=True)


def test_logits_and_latents_have_positions_too(gpt2):
    said = sentence(FeatureRangeError, dl.logit(5, 12), gpt2.bridge, length=12)
    assert "there is no position 12" in said
    assert '"bos" is the beginning' in sentence(
        FeatureRangeError, dl.log_prob(5, "bos"), gpt2.bridge, prepend_bos=False
    )


def test_a_bos_that_the_tokenizer_does_not_have(gpt2, monkeypatch):
    tokenizer = copy.deepcopy(gpt2.tokenizer)
    tokenizer.bos_token = None
    hooked = as_hooked(gpt2.bridge)
    monkeypatch.setattr(hooked, "vocabulary", Vocabulary(tokenizer, hooked.vocabulary.size))
    said = sentence(ModelError, "L0.N1", gpt2.bridge, prepend_bos=True)
    assert "tokenizer has no BOS token, so prepend_bos=True is impossible; use False." in said
    bind("L0.N1", gpt2.bridge)


# What is left over.


def test_a_whole_activation_is_no_number(gpt2):
    said = sentence(FeatureRangeError, POST, gpt2.bridge)
    assert f"{POST} leaves one number for every position and for each of 40 units: take one position" in said
    assert said.endswith(f"for example {POST}[-1, 0].")
    bind(f"{POST}[-1, 0]", gpt2.bridge)  # what it suggests


def test_a_vector_is_no_number(gpt2):
    said = sentence(FeatureRangeError, f"{POST}[-1, 3:10]", gpt2.bridge)
    assert "leaves one number for each of 7 units: pick one unit, or project on a direction with @." in said


def test_one_number_for_every_position_is_not_one(gpt2):
    said = sentence(FeatureRangeError, 'log_prob(" the", position=:)', gpt2.bridge)
    assert (
        "leaves one number for every position: take one position, as in [-1, ...], or reduce them with .max()" in said
    )


def test_a_whole_pattern(gpt2):
    said = sentence(FeatureRangeError, "blocks.0.attn.hook_pattern", gpt2.bridge)
    assert "leaves one number for each of 4 heads and for every pair of positions: pick one head; take one" in said


def test_parts_with_different_axes(gpt2):
    first, second = f"{POST}[-1]", "blocks.0.hook_resid_post[-1]"
    said = sentence(FeatureRangeError, f"({first} + {second}).norm()", gpt2.bridge)
    assert f"{first} leaves one number for each of 40 units; {second} leaves one number for each of 32 units" in said
    said = sentence(FeatureRangeError, f"({POST}[:, 1] * {first}).max()", gpt2.bridge)
    assert f"{POST}[:, 1] leaves one number for every position" in said


def test_a_maximum_over_no_positions(gpt2):
    said = sentence(FeatureRangeError, f"{POST}[-1, 2].max()", gpt2.bridge)
    assert f".max() is over positions, and {POST}[-1, 2] leaves none; write ':' or '...' where the position is." in said


def test_units_are_needed_to_project(gpt2):
    said = sentence(FeatureRangeError, dl.hook(POST)[-1, 2] @ np.ones(3), gpt2.bridge)
    assert f"@ is taken over one axis of units, and {POST}[-1, 2] leaves a single number" in said
    said = sentence(FeatureRangeError, dl.hook("blocks.0.attn.hook_z")[-1].cosine(np.ones(8)), gpt2.bridge)
    assert "cosine() is taken over one axis of units" in said and "for each of 4 heads and for each of 8 units" in said


def test_a_direction_of_another_width(gpt2):
    said = sentence(
        FeatureRangeError, dl.hook("blocks.1.hook_resid_post")[-1].standardised() @ np.ones(31), gpt2.bridge
    )
    assert "the direction has 31 entries, and" in said and said.endswith("has 32 units on tiny-gpt2.")
    said = sentence(FeatureRangeError, dl.hook(POST)[-1, :30] @ np.ones(40), gpt2.bridge)
    assert "has 30 units" in said


def test_a_constant_is_no_feature(gpt2):
    from dreamy_lens.features import Constant

    assert "is a constant: it reads nothing from the model" in sentence(FeatureError, Constant(3.0), gpt2.bridge)


# Targets.


def test_a_target_of_several_tokens_shows_the_split_and_offers_the_first(gpt2):
    said = sentence(TokenError, dl.logit(" dog house"), gpt2.bridge)
    first = gpt2.tokenizer.encode(" dog", add_special_tokens=False)
    assert "' dog house' is 2 tokens here: ' dog' + ' house'" in said
    assert f"take the first, ' dog' (id {first[0]})." in said
    assert 'For the whole text, write log_prob(" dog house", reduce="sum"), or for the margin of its first' in said


def test_a_target_that_is_one_token_with_a_space_before_it(gpt2):
    said = sentence(TokenError, dl.log_prob("house"), gpt2.bridge)
    assert "or ' house' with a leading space, which is one token" in said
    assert said.endswith('For the whole text, write log_prob("house", reduce="sum").')
    assert len(bind(dl.log_prob("house", reduce="sum"), gpt2.bridge).models[1].tail) > 1


def test_a_target_outside_the_vocabulary(gpt2):
    assert "Token 335 is outside the vocabulary, which has ids 0 to 334." in sentence(
        TokenError, "logit(335)", gpt2.bridge
    )


# Other models and autoencoders.


def test_cross_entropy_under_a_model_with_another_tokenizer(gpt2):
    said = sentence(FeatureError, dl.features.mean_cross_entropy(dl.load_model()), gpt2.bridge)
    assert said.startswith("tiny-gpt2 and embedded have different tokenizers, so one prompt's ids mean different text")
    with pytest.raises(FeatureError, match="have different tokenizers"):
        make_scorer("L0.N1", gpt2.bridge, fluency_model=dl.load_model())


class Encoder:
    d_in, d_sae = 40, 6

    def encode(self, x):
        return x[..., :6]


def test_autoencoders_that_do_not_fit(gpt2):
    bind(dl.sae_latent(Encoder(), 5, hook=POST), gpt2.bridge)
    assert "latents 0 to 5" in sentence(FeatureRangeError, dl.sae_latent(Encoder(), 6, hook=POST), gpt2.bridge)
    wide = dl.sae_latent(Encoder(), 5, hook="blocks.0.hook_resid_post")
    assert "width 40" in sentence(SAEError, wide, gpt2.bridge)
    pattern = dl.sae_latent(Encoder(), 5, hook="blocks.0.attn.hook_pattern")
    said = sentence(FeatureRangeError, pattern, gpt2.bridge)
    assert "is [head, position, position], and an autoencoder reads one position at a time" in said
    assert "There is no SAE folder 'nowhere'" in sentence(SAEError, "sae_latent('nowhere', 1)", gpt2.bridge)


# Functions of the user's.


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (
            lambda a: 1 / 0,
            r'The function of custom\("f"\) failed on 3 prompts of 7 tokens: ZeroDivisionError: division',
        ),
        (lambda a: a["blocks.9"], r"failed on 3 prompts of 7 tokens: KeyError: 'blocks.9'"),
        (lambda a: a[POST][:, -1], r'The function of custom\("f"\) returned shape \[3, 40\] for 3 prompts; .* \[3\]\.'),
        (lambda a: a[POST].mean(), r"returned shape \[\] for 3 prompts"),
        (lambda a: torch.zeros(2), r"returned shape \[2\] for 3 prompts"),
        (
            lambda a: torch.zeros(3),
            r"returned shape \[3\] for one prompt alone; its first axis",
        ),
        (
            lambda a: 3.0,
            r"returned 'float' for 3 prompts; it must return a tensor with one number for each prompt, \[3\]\.",
        ),
        (lambda a: None, r"returned 'NoneType'"),
    ],
)
def test_a_function_that_fails_or_returns_something_else(gpt2, function, said):
    feature = 2 * dl.custom("f", [POST], function) - dl.neuron(0, 1)
    assert re.search(said, sentence(FeatureError, feature, gpt2.bridge))


def test_the_function_that_failed_is_the_one_that_is_named(gpt2):
    good = dl.custom("good", [POST], lambda a: a[POST][:, -1, 0])
    bad = dl.custom("bad", [POST], lambda a: a[POST] @ torch.ones(3))
    with pytest.raises(FeatureError, match=r'custom\("bad"\) failed') as caught:
        bind(good + bad, gpt2.bridge)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_function_whose_shape_is_right_by_chance_is_found_out_when_scoring(gpt2):
    feature = dl.custom("two", [POST], lambda a: a[POST][:3, -1, 0])
    bind(feature, gpt2.bridge)
    with pytest.raises(FeatureError, match=r"returned shape \[3\] for 4 prompts"):
        dl.score(feature, [[1, 2], [3, 4], [5, 6], [7, 8]], gpt2.bridge)


# What it gives.


def test_a_bound_feature_knows_what_it_reads_and_is_scored_as_it_is(gpt2, llama):
    feature = dl.neuron(0, 1) + dl.logit(5) + dl.features.mean_cross_entropy(llama.bridge)
    bound = bind(feature, gpt2.bridge)
    first, second = as_hooked(gpt2.bridge), as_hooked(llama.bridge)
    assert bound.hooks == {first: (POST,), second: ()} and bound.logits == {first, second}
    assert bound.models == (first, second)
    prompt = np.array([[4, 5, 6]])
    assert make_scorer(bound).score(prompt).value == dl.score(feature, prompt, gpt2.bridge).value
    with pytest.raises(FeatureError, match="is bound to tiny-gpt2, and prompts are to be scored on tiny-llama"):
        make_scorer(bound, llama.bridge)


def test_a_hook_point_named_twice_is_read_once(gpt2):
    bound = bind(f"{POST}[-1, 1] - {POST}[-2, 2]", gpt2.bridge)
    assert list(bound.hooks.values()) == [(POST,)]


def test_binding_leaves_the_model_as_it_was(gpt2):
    point = gpt2.bridge.hook_dict[POST]
    for feature in ("L0.N1", dl.custom("broken", [POST], lambda a: 1 / 0)):
        try:
            bind(feature, gpt2.bridge)
        except FeatureError:
            pass
        assert not point.fwd_hooks


def test_positions_are_checked_again_for_the_prompts_that_are_scored(gpt2):
    scorer = make_scorer(dl.neuron(0, 1, 5), gpt2.bridge)
    with pytest.raises(FeatureRangeError, match="there is no position 5; the 4 tokens"):
        scorer.score([[1, 2, 3, 4]])
    assert len(scorer.score([[1, 2, 3, 4, 5, 6]])) == 1
    with pytest.raises(PromptError, match="outside the vocabulary"):
        scorer.score([[1, 2, 3, 4, 5, 6000]])


@pytest.mark.parametrize("name", quick_ones(models.FAMILIES, ["llama"]))
def test_every_reachable_hook_point_of_every_architecture_binds_or_says_why(name):
    bridge = models.family(name).bridge
    for point in as_hooked(bridge).hook_names():
        with pytest.raises((FeatureRangeError, HookNotFiredError)) as caught:
            bind(dl.hook(point), bridge)
        if "for example" in str(caught.value):
            bind(str(caught.value).rpartition("for example ")[2].rstrip("."), bridge)
