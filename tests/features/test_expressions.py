"""The algebra: one meaning has one tree, equal trees are equal values, and nonsense is refused when it is written."""

from __future__ import annotations

import fractions
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dreamy_lens as dl
from dreamy_lens.errors import FeatureError
from dreamy_lens.features import expressions as ex

F, G, H = dl.neuron(0, 1), dl.logit(" dog"), dl.hook("blocks.1.hook_resid_post")[-1] @ [1.0, 2.0]
WHOLE = st.integers(-8, 8).map(float)  # exact in every order, so that laws hold to the bit
TERMS = st.sampled_from([F, G, H, F * G])


def tree(f: ex.Feature) -> str:
    """The whole tree, types and all, which equality could gloss over."""
    if isinstance(f, (ex.Sum, ex.Product)):
        return f"{type(f).__name__}({', '.join(map(tree, f.children))})"
    if isinstance(f, ex.Scaled):
        return f"{f.factor:g}·{tree(f.of)}"
    return f"{f.value:g}" if isinstance(f, ex.Constant) else str(f)


# Normal forms.


@given(TERMS, TERMS, TERMS)
def test_brackets_of_sums_and_products_do_not_matter(a, b, c):
    assert (a + b) + c == a + (b + c) and hash((a + b) + c) == hash(a + (b + c))
    assert (a * b) * c == a * (b * c)


@given(TERMS, TERMS, WHOLE, WHOLE)
def test_multiples_fold_and_multiply_out(a, b, x, y):
    assert x * (y * a) == (x * y) * a == y * a * x
    assert x * (a + b) == x * a + x * b
    assert x * (a + y) == x * a + x * y
    assert (x * a) * (y * b) == (x * y) * (a * b)


@given(TERMS, TERMS, WHOLE, WHOLE)
def test_a_sum_has_at_most_one_constant_which_is_last_and_not_zero(a, b, x, y):
    for f in (x + a + y + b, (x + a) + (b + y), a - x - (y - b), 0 * (a + x) + b, x * (a + y) - b):
        assert isinstance(f, ex.Sum)
        assert not any(isinstance(term, (ex.Sum, ex.Constant)) for term in f.terms[:-1])
        assert not (isinstance(f.terms[-1], ex.Constant) and f.terms[-1].value == 0)
    assert x + a + b + y == a + b + (x + y)


def test_neutral_elements_and_signs_leave_nothing_behind():
    assert F + 0 == F - 0 == 1 * F == F / 1 == -1 * -F == F
    assert F - G == F + -1 * G
    assert 1 - F == -F + 1
    assert tree(2 * F - G / 4 + 3) == 'Sum(2·blocks.0.mlp.hook_post[-1, 1], -0.25·logit(" dog"), 3)'
    assert (
        tree(F * G * (F + 1))
        == 'Product(blocks.0.mlp.hook_post[-1, 1], logit(" dog"), Sum(blocks.0.mlp.hook_post[-1, 1], 1))'
    )
    assert sum([F, G, H]) == F + G + H


def test_order_is_kept():
    assert F + G != G + F and F * G != G * F


# Values.


def test_equal_expressions_are_equal_values_with_equal_hashes():
    def make():
        hook = dl.hook("blocks.2.hook_resid_pre")
        return [
            hook[-1].standardised() @ np.array([1.0, -2.0]),
            hook[3, 1:9:2].norm(),
            hook[-1].cosine("v.npy"),
            dl.hook("blocks.2.mlp.hook_post")[..., 3].max().clip(max=6),
            dl.hook("blocks.0.attn.hook_pattern")[1, -1, "bos"],
            dl.logit_difference(" dog"),
            dl.log_prob(7, slice(2)).mean(),
            dl.sae_latent("sae", 4, pre_activation=True),
            dl.features.mean_cross_entropy("other"),
            0.5 * dl.neuron(1, 2) - 3,
        ]

    one, other = make(), make()
    for i, f in enumerate(one):
        assert f == other[i] and hash(f) == hash(other[i])
        assert all(f != g for j, g in enumerate(other) if i != j)
    assert len({*one, *other}) == len(one)


def test_what_is_alike_but_different_differs():
    assert dl.logit(" dog") != dl.logit("dog") != dl.log_prob("dog")
    assert dl.logit(5) != dl.logit("5")
    assert dl.sae_latent("sae", 4) != dl.sae_latent("sae", 4, pre_activation=True)
    assert dl.hook("a")[1] != dl.hook("a")[1:]
    assert dl.hook("a") != dl.hook("a")[...]
    assert F.max() != F.mean()
    assert F.clip(min=1) != F.clip(max=1)
    assert F @ [1.0, 2.0] != F.cosine([1.0, 2.0])


def test_numbers_and_indices_of_any_library_mean_the_same():
    for two in (2, 2.0, np.float32(2), np.int64(2), fractions.Fraction(2)):
        assert two * F == F * two == 2.0 * F
        assert two + F == F + 2
        assert F / two == 0.5 * F
    assert dl.hook("a")[np.int64(-1), np.int32(3)] == dl.hook("a")[-1, 3]
    assert type(dl.hook("a")[np.int64(-1)].index[0]) is int  # pyright: ignore
    assert F @ torch.tensor([1.0, 2.0]) == F @ [1, 2] == F @ np.array([1.0, 2.0])


def test_features_are_immutable():
    with pytest.raises(AttributeError):
        F.name = "other"  # pyright: ignore[reportAttributeAccessIssue]


def test_features_know_their_parts():
    f = 2 * F - G * H.clip(min=0)
    assert {type(node) for node in f.walk()} == {
        ex.Sum,
        ex.Scaled,
        ex.Product,
        ex.Clipped,
        ex.Projected,
        ex.Hook,
        ex.Logit,
    }


def test_objects_are_compared_by_identity():
    class Encoder:
        def encode(self, x):
            return x

    one, other = Encoder(), Encoder()
    assert dl.sae_latent(one, 3) == dl.sae_latent(one, 3) != dl.sae_latent(other, 3)
    assert hash(dl.sae_latent(one, 3)) == hash(dl.sae_latent(one, 3))


# Nonsense.


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: F[0], "Only a hook point can be indexed, and only once"),
        (lambda: dl.hook("a")[1][2], "Only a hook point can be indexed, and only once.*a\\[1\\]"),
        (lambda: dl.hook("a")[1.5], 'indexed with integers, slices, ..., or "bos"; got 1.5'),
        (lambda: dl.hook("a")[True], "got True"),
        (lambda: dl.hook("a")["eos"], "got 'eos'"),
        (lambda: dl.hook("a")[::-1], "the step of a slice must be positive"),
        (lambda: dl.hook("a")[None:0.5], "got 0.5"),
        (lambda: dl.hook(""), "takes the name of a hook point"),
        (lambda: dl.hook(3), "takes the name of a hook point"),
        (lambda: F / 0, "/ 0 is not a feature"),
        (lambda: float("nan") * F, "finite"),
        (lambda: F + float("inf"), "finite"),
        (lambda: F * 10**400, "finite"),
        (lambda: 1e20 * (1e20 * F), "float32"),
        (lambda: F / 1e-320, "finite"),
        (lambda: F / 1e-39, "float32"),
        (lambda: F * 1e-39, "is zero in float32"),
        (lambda: F.clip(min=1e39), "float32"),
        (lambda: (F + 2e38) + 2e38, "float32"),
        (lambda: 1e30 * (F + 1e30), "float32"),
        (lambda: F.clip(), "needs a limit"),
        (lambda: F.clip(min=2, max=1), "min is above max"),
        (lambda: F.clip(max=float("inf")), "finite"),
        (lambda: F.clip(max="6"), "takes a number; got '6'"),
        (lambda: dl.logit(""), "given as its text or its id"),
        (lambda: dl.logit(1.5), "given as its text or its id"),
        (lambda: dl.logit(" dog", "last"), "position is indexed"),
        (lambda: dl.neuron("3", 1), "neuron is indexed with integers"),
        (lambda: dl.sae_latent(3, 1), "takes a folder or an object with encode"),
        (lambda: dl.sae_latent("sae", "1"), "a latent is a whole number, its index from 0; got '1'"),
        (lambda: dl.sae_latent("sae", 3.5), r"a latent is a whole number.*got 3\.5 \(float\)"),
        (lambda: dl.sae_latent("sae", slice(0, 3)), r"a latent is a whole number.*got slice.*make one feature of each"),
        (lambda: dl.sae_latent("sae", "bos"), "a latent is a whole number"),
        (lambda: dl.sae_latent("sae", True), "a latent is a whole number"),
        (lambda: dl.sae_latent("sae", 1, hook=5), "hook is the name of a hook point; got 5"),
        (lambda: dl.features.mean_cross_entropy(5), "takes a model.*got 5"),
        (lambda: dl.custom("x", [], lambda a: a), "hooks is a list of hook point names"),
        (lambda: dl.custom("x", "a.b", lambda a: a), "hooks is a list of hook point names"),
        (lambda: dl.custom("x", ["a.b"], 3), "the third argument is a function"),
        (lambda: dl.parse('custom("never defined")'), "not defined in this session"),
        (lambda: dl.parse(3), "an expression or its text; got 3"),
    ],
)
def test_nonsense_is_refused_when_it_is_written(make, sentence):
    with pytest.raises(FeatureError, match=sentence):
        make()


@pytest.mark.parametrize(
    "make", [lambda: F / G, lambda: 1 / F, lambda: F * "2", lambda: F + None, lambda: F * True, lambda: F**2]
)
def test_operators_without_a_meaning_are_type_errors(make):
    with pytest.raises(TypeError):
        make()


def test_a_feature_is_not_a_sequence():
    with pytest.raises(TypeError):
        list(dl.hook("a"))
    assert dl.hook("a")[()] == dl.hook("a")


def test_building_features_needs_no_torch():
    code = (
        "import sys, dreamy_lens as dl; f = 2 * dl.neuron(1, 2) - dl.hook('a')[-1] @ [1.0];"
        "assert dl.parse(str(f)) == f;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
