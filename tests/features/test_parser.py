"""The text form: what is written can be read again, and what cannot be read is told where and why."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

import dreamy_lens as dl
from dreamy_lens.errors import FeatureError, FeatureSyntaxError
from dreamy_lens.features import expressions as ex
from dreamy_lens.features import quote, tokenise, unquote

# Every node, with everything that it can hold.

ANYTHING = st.text(min_size=1, max_size=12)
NAMES = st.one_of(
    st.sampled_from(
        ["blocks.2.mlp.hook_post", "embed.hook_out", "logit", "L2.N17", "bos", "true", "a.max", "hook", "1a.b"]
    ),
    st.from_regex(r"[a-z_]{1,6}(\.[a-z0-9_]{1,5}){0,3}", fullmatch=True),
    ANYTHING,
)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e12, max_value=1e12)
FACTORS = st.floats(min_value=-1e3, max_value=1e3).filter(lambda x: x == 0 or abs(x) > 1e-3)
INDICES = st.integers(-(10**6), 10**6)
STEPS = st.one_of(st.none(), st.integers(1, 5))
SPANS = st.builds(slice, st.one_of(st.none(), INDICES), st.one_of(st.none(), INDICES), STEPS)
POSITIONS = st.one_of(INDICES, SPANS, st.just("bos"))
ELEMENTS = st.one_of(POSITIONS, st.just(Ellipsis))
TOKENS = st.one_of(ANYTHING, st.integers(0, 10**6))
VECTORS = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=5).filter(any)
DIRECTIONS = st.one_of(VECTORS, st.sampled_from(["v.npy", "a b/ü.safetensors:one", 'quo"te.npy']))
HOOKS = st.builds(dl.hook, NAMES)


@st.composite
def clipped(draw, of: ex.Feature) -> ex.Feature:
    low, high = sorted([draw(NUMBERS), draw(NUMBERS)])
    return of.clip(**draw(st.sampled_from([{"min": low}, {"max": high}, {"min": low, "max": high}])))


LEAVES = st.one_of(
    HOOKS,
    st.builds(lambda hook, index: hook[tuple(index)], HOOKS, st.lists(ELEMENTS, min_size=1, max_size=4)),
    st.builds(dl.logit, TOKENS, POSITIONS),
    st.builds(dl.logit.runner_up, TOKENS, POSITIONS),
    st.builds(dl.log_prob, TOKENS, POSITIONS),
    st.builds(
        dl.sae_latent, ANYTHING, INDICES, POSITIONS, pre_activation=st.booleans(), hook=st.one_of(st.none(), ANYTHING)
    ),
    st.builds(dl.features.mean_cross_entropy, st.one_of(st.none(), ANYTHING)),
    st.builds(lambda name: dl.custom(name, ["a.b"], len), ANYTHING),
    st.builds(dl.neuron, st.integers(0, 99), st.integers(0, 10**6)),
)


def larger(of: st.SearchStrategy[ex.Feature]) -> st.SearchStrategy[ex.Feature]:
    return st.one_of(
        st.builds(lambda f: f.standardised(), of),
        st.builds(lambda f: f.norm(), of),
        st.builds(lambda f: f.on("base"), of),
        st.builds(lambda f: f.max(), of),
        st.builds(lambda f: f.mean(), of),
        st.builds(lambda f, v: f @ v, of, DIRECTIONS),
        st.builds(lambda f, v: f.cosine(v), of, DIRECTIONS),
        of.flatmap(lambda f: clipped(f)),
        st.builds(lambda f: -f, of),
        st.builds(lambda f, x: x * f, of, FACTORS),
        st.builds(lambda f, x: f / x, of, FACTORS.filter(bool)),
        st.builds(lambda f, x: f + x, of, NUMBERS),
        st.builds(lambda f, x: x - f, of, NUMBERS),
        st.builds(lambda f, g: f + g, of, of),
        st.builds(lambda f, g: f - g, of, of),
        st.builds(lambda f, g: f * g, of, of),
    )


FEATURES = st.recursive(LEAVES, larger, max_leaves=6)


@given(FEATURES)
@example(2 * (dl.neuron(1, 2) + 3) * 0)
@example(-(dl.hook("a")[-1] @ "v.npy"))
@example((-dl.hook("a")[-1]) @ "v.npy")
@example(-(dl.neuron(1, 2) * dl.neuron(3, 4)) - dl.neuron(5, 6) * -2)
@example((dl.neuron(1, 2) - 1).clip(min=-1e-7, max=1e16))
def test_what_is_written_reads_back_as_the_same_value(f):
    text = str(f)
    again = dl.parse(text)
    assert again == f and hash(again) == hash(f)
    assert str(again) == text
    assert dl.parse(f) is f


@given(FEATURES)
def test_texts_and_labels_are_single_lines(f):
    for text in (str(f), f.label, repr(f)):
        assert len(text.splitlines()) == 1 and text.isprintable()


@given(FEATURES)
def test_a_label_is_no_longer_than_the_text(f):
    assert len(f.label) <= len(str(f)) + 20
    assert len(f.label) <= len(f.long_label) and repr(f) == f"Feature({f.long_label})"


@given(ANYTHING)
def test_quoted_text_reads_back(text):
    (token, end) = tokenise(quote(text))
    assert (token.kind, end.kind) == ("string", "end")
    assert unquote(token, quote(text)) == text


def test_long_directions_are_abbreviated_in_labels_only():
    f = dl.hook("a")[-1] @ np.arange(1.0, 2001.0)
    assert len(str(f)) > 10_000 and len(f.label) < 30 and f.label.startswith("a[-1] @ v2000#")
    assert (dl.hook("a")[-1] @ "some/where/v.npy").label == 'a[-1] @ "v.npy"'
    assert dl.sae_latent("some/where/sae/", 3).label == 'sae_latent("sae", 3)'


@pytest.mark.parametrize(
    ("text", "feature"),
    [
        ("blocks.2.mlp.hook_post[-1, 17]", dl.neuron(2, 17)),
        (" L2.N17 ", dl.neuron(2, 17)),
        ("neuron(2, 17, position=0)", dl.neuron(2, 17, 0)),
        ("neuron(2, index=17)", dl.neuron(2, 17)),
        ('logit(" dog") - logit.runner_up(" dog")', dl.logit_difference(" dog")),
        ("logit_difference(' dog')", dl.logit_difference(" dog")),
        ('runner_up("x", bos)', dl.logit.runner_up("x", "bos")),
        ('logit("x", "bos")', dl.logit("x", "bos")),
        ("logit(40, 1:-3)", dl.logit(40, slice(1, -3))),
        ("logit(40, -3:)", dl.logit(40, slice(-3, None))),
        ("logit(40, :)", dl.logit(40, slice(None))),
        ("logit(40, ...)", dl.logit(40, slice(None))),
        ("log_prob(40, position=::2).mean()", dl.log_prob(40, slice(None, None, 2)).mean()),
        (r'logit("\u00e9\n\"")', dl.logit('é\n"')),
        (r'logit("\ud83d\ude00")', dl.logit("😀")),
        (r"""logit('it\'s "so"\\')""", dl.logit('it\'s "so"\\')),
        (r"""logit('\"')""", dl.logit('"')),
        ("blocks.3.attn.hook_pattern[0, -1, bos]", dl.hook("blocks.3.attn.hook_pattern")[0, -1, "bos"]),
        ('blocks.3.attn.hook_pattern[0, -1, "bos"]', dl.hook("blocks.3.attn.hook_pattern")[0, -1, "bos"]),
        ("a.b[..., 17].max()", dl.hook("a.b")[..., 17].max()),
        ("a.b.mean()", dl.hook("a.b").mean()),
        ("L2.N17.clip(max=6)", dl.neuron(2, 17).clip(max=6)),
        ("L2.N17.clip(-1, 6.5)", dl.neuron(2, 17).clip(-1, 6.5)),
        ('hook("a b.max")[1:9:2]', dl.hook("a b.max")[1:9:2]),
        ('(a.b)[+3, :4] @ "v.npy"', dl.hook("a.b")[3, :4] @ "v.npy"),
        ('a[-1].standardised().cosine("v.npy")', dl.hook("a")[-1].standardised().cosine("v.npy")),
        ('a @ "v.npy" * 2 / 4 - b @ "w.npy"', 0.5 * (dl.hook("a") @ "v.npy") - dl.hook("b") @ "w.npy"),
        ("2*3 - -(1 - L0.N1)/.5e1", 6 - -(1 - dl.neuron(0, 1)) / 5),
        ("-+-L0.N1", dl.neuron(0, 1)),
        ("sae_latent('s', 4, -2, true)", dl.sae_latent("s", 4, -2, pre_activation=True)),
        ("sae_latent('s', 4, pre_activation=False, hook=none)", dl.sae_latent("s", 4)),
        (
            "mean_cross_entropy()\n  + mean_cross_entropy('gpt2')",
            dl.features.mean_cross_entropy() + dl.features.mean_cross_entropy("gpt2"),
        ),
    ],
)
def test_texts_and_what_they_mean(text, feature):
    assert dl.parse(text) == feature


# Errors. The mark ^ stands below the character that the message is about.

ERRORS = [
    ("", "^", "The feature is empty"),
    ("3", "^", "A number alone is not a feature"),
    ("2 * (3 - 1)", "^", "A number alone is not a feature"),
    ("a.b[0] 17", "       ^", "'17' is left over"),
    ("a.b[0", "     ^", "Expected ']' to close the index, found the end of the text"),
    ("(a + b", "      ^", "Expected ')' to close the bracket, found the end"),
    ("a + ", "    ^", "The text ends too early"),
    ("a + * b", "    ^", "Expected a hook point, a function, a number or a bracket, found '*'"),
    ("L2.N*", "^", "L2.N* is a pattern, which names many features. Patterns are for scans: max_activating()"),
    ('sae_latent("a", *)', "^", 'Name one feature here, such as sae_latent("a", 12).'),
    ("2 * L*.N5", "    ^", "Name one feature here, such as L2.N5."),
    ("blocks.*.hook_out[-1, 3]", "^", "Name one feature here, such as blocks.2.hook_out."),
    ("blocks.2.hook_*[-1, 3]", "^", "blocks.2.hook_* is a pattern, which names many features."),
    ("L2.N1 *", "       ^", "The text ends too early"),
    ('logit("L2.N*") +', "                ^", "The text ends too early"),
    ("a $ b", "  ^", "'$' has no meaning here"),
    ('logit(" dog)', "      ^", "This quote is never closed"),
    ("logit(“dog”)", "      ^", "typographic quote"),
    ("mean_cross_entropy(<Bridge>)", "                   ^", "an object in memory, which has no text form"),
    ('a + "dog"', "    ^", "A text in quotes belongs inside a function"),
    ("logit(dog)", "      ^", 'Write a text as "dog", or " dog" with the leading space'),
    ("sae_latent(folder, 3)", "           ^", 'Write a text as "folder"'),
    ("logit(", "      ^", "Expected a text in quotes, a number, a position, true or false"),
    ("logit(-", "       ^", "Expected a text in quotes"),
    ("logit()", "^", "logit() takes (token, position); something is missing"),
    ('logit("a", "b", "c")', "                ^", "logit() takes (token, position), and this is one too many"),
    ('logit("a", token="b")', "           ^", "logit() is given 'token' twice"),
    ('logit("a", place=3)', "           ^", "logit() has no argument 'place'; logit() takes (token, position)"),
    ('logit("a" "b")', "          ^", "Expected ',' or ')' after an argument, found '\"b\"'"),
    ("logit(1.5)", "^", "A token is given as its text or its id; got 1.5"),
    (r'logit("a\qb")', "        ^", r"There is no escape \q; there are"),
    ("mean_cross_entropy(5)", "^", "takes a model"),
    ("logti(3)", "^", "There is no function 'logti' (did you mean logit?)"),
    (
        "a.b.nrm()",
        "    ^",
        "A feature has no 'nrm' (did you mean norm?); it has standardised(), norm(), cosine(direction)",
    ),
    ("a.b[0].nrm()", "       ^", "A feature has no 'nrm' (did you mean norm?)"),
    ("L2.N17.relu()", "       ^", "A feature has no 'relu'; it has standardised()"),
    ("dl.logit(3)", "^", "Write logit(...) without 'dl' before it"),
    ("a[0].max", "        ^", "Expected '(' after max, found the end"),
    ("a[0].norm(3)", "          ^", "norm() takes no arguments, and this is one too many"),
    ("a[0].cosine()", "     ^", "cosine() takes a direction in quotes"),
    ("a[0].clip()", "     ^", "clip() needs a limit"),
    ("a[0].", "     ^", "After the dot comes one of"),
    ("a[0] @ 3", "       ^", "After @ comes a direction in quotes"),
    ('3 @ "v.npy"', "  ^", "can only be applied to a feature, not to a number"),
    ("(2).max()", "   ^", "can only be applied to a feature, not to a number"),
    ("1 / a", "  ^", "A feature can only be divided by a number"),
    ("a / 0", "  ^", "/ 0 is not a feature"),
    ("2 / 0 * a", "  ^", "Division by zero"),
    ("a + 1e999", "  ^", "finite"),
    ("1e300 * 1e300 * a", "              ^", "finite"),
    ("a[1.5]", "  ^", "An index is an integer"),
    ("a[]", "  ^", "Expected an index: an integer, a slice such as 2:5, ... or bos"),
    ("a[eos]", "  ^", "Expected an index"),
    ("a[0, ]", "     ^", "Expected an index"),
    ("a[::-1]", " ^", "the step of a slice must be positive"),
    ("L2.N17[0]", "      ^", "Only a hook point can be indexed, and only once"),
    ("a[0][1]", "    ^", "Only a hook point can be indexed, and only once"),
    ("a + custom('unheard of')", "    ^", "not defined in this session"),
    ("a @ 'data:float32,xx'", "  ^", "not base64"),
    ("9" * 5000 + " * a", "^", "too many digits"),
    ("(" * 100_000 + "a", "^", "nested too deeply"),
]


@pytest.mark.parametrize(("text", "mark", "sentence"), ERRORS, ids=[text[:30] for text, _, _ in ERRORS])
def test_what_does_not_parse_is_told_where_and_why(text, mark, sentence):
    with pytest.raises(FeatureSyntaxError) as caught:
        dl.parse(text)
    error = caught.value
    assert sentence in str(error)
    assert (error.text, error.position) == (text, mark.index("^"))
    message, shown, caret = str(error).rsplit("\n", 2)
    assert "\n" not in message
    assert caret == "    " + mark
    assert shown == "    " + text if len(text) < 100 else shown.endswith("…")


def test_the_caret_of_a_long_text_is_shown_with_its_surroundings():
    text = "L1.N2 + \n" * 50 + "L1.N3 $ L2.N4" + " - L0.N0" * 50
    with pytest.raises(FeatureSyntaxError) as caught:
        dl.parse(text)
    _, shown, caret = str(caught.value).split("\n")
    assert shown[caret.index("^")] == "$" and len(shown) < 120


def test_syntax_errors_are_feature_errors_and_value_errors():
    with pytest.raises(FeatureError):
        dl.parse("a[")
    with pytest.raises(ValueError):
        dl.parse("a[")


@given(st.text(max_size=30))
def test_any_text_parses_or_is_a_feature_error(text):
    try:
        f = dl.parse(text)
    except FeatureError as error:
        assert str(error).strip()
    else:
        assert dl.parse(str(f)) == f


@given(FEATURES, st.data())
def test_any_damaged_text_parses_or_is_a_feature_error(f, data):
    text = str(f)
    assume(len(text) > 1)
    i = data.draw(st.integers(0, len(text) - 1))
    damaged = text[:i] + data.draw(st.sampled_from(["", *'()[]".,:@*-=1a '])) + text[i + 1 :]
    try:
        dl.parse(damaged)
    except FeatureError as error:
        assert str(error).strip()


def test_inline_directions_are_plain_base64_of_little_endian_float32():
    text = base64.b64encode(np.array([1.5, -2.0], "<f4").tobytes()).decode()
    f = dl.parse(f'a[-1] @ "data:float32,{text}"')
    assert f == dl.hook("a")[-1] @ [1.5, -2.0]
