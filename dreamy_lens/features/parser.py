"""Parser of the text form of features: a small grammar with its own reader, without `eval`.

    sum      := product (("+" | "-") product)*
    product  := factor (("*" | "/") factor | "@" STRING)*
    factor   := ("+" | "-") factor | postfix
    postfix  := atom ("." method "(" arguments ")" | index)*
    atom     := NUMBER | "(" sum ")" | hook | function "(" arguments ")" | "L" digits "." "N" digits
    hook     := dotted name | "hook" "(" STRING ")"
    index    := "[" element ("," element)* "]"
    element  := "..." | "bos" | integer | integer? ":" integer? (":" integer?)?

The methods are defined by :class:`~dreamy_lens.features.expressions.Feature`, the functions by
:mod:`dreamy_lens.features.constructors`. `parse(str(feature)) == feature` for every feature whose parts have a text
form.
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Iterable
from typing import Any

from dreamy_lens.errors import FeatureError, FeatureSyntaxError, misplaced, quoted, shorten
from dreamy_lens.features import constructors
from dreamy_lens.features import expressions as ex
from dreamy_lens.features.directions import INLINE_PATTERN, Direction
from dreamy_lens.features.lexer import (
    LATENTS,
    NEURONS,
    SHORT_EXPERT_NEURON,
    SHORT_NEURON,
    WILD_NAME,
    Token,
    tokenise,
    unquote,
)
from dreamy_lens.features.node import FUNCTIONS, METHODS

_NOT_A_FEATURE = "A number alone is not a feature; name a hook point or a logit."


def parse(text: str | ex.Feature) -> ex.Feature:
    """Read a feature from its text form.

    Args:
        text: Text of a feature, or a feature, which is returned unchanged. Examples:
            ``blocks.2.mlp.hook_post[-1, 17]``, ``L2.N17``, ``logit(" dog") - logit.runner_up(" dog")``,
            ``0.5 * L2.N17 - blocks.4.hook_resid_post[-1].standardised() @ "v.safetensors"``.

    Raises:
        FeatureSyntaxError: The text does not parse. The message points at the character.

    >>> parse("L2.N17") == constructors.neuron(2, 17)
    True
    >>> str(parse("2*(L0.N1 - L0.N2)"))
    '2 * blocks.0.mlp.hook_post[-1, 1] - 2 * blocks.0.mlp.hook_post[-1, 2]'
    """
    if isinstance(text, ex.Feature):
        return text
    if wrong := misplaced(text, "a feature", "the feature comes first; the feature of a run is run.feature"):
        raise FeatureError(f"{wrong[0].upper()}{wrong[1:]}")
    if not isinstance(text, str):
        raise FeatureError(f"A feature is an expression or its text; got {quoted(text)} ({type(text).__name__}).")
    try:
        return _Reader(text).whole()
    except RecursionError:
        raise FeatureSyntaxError("This is nested too deeply to be read.", text, 0) from None
    except FeatureSyntaxError:
        pattern = _pattern_in(text)
        if pattern is None:
            raise
        found, example = pattern
        raise FeatureSyntaxError(
            f"{shorten(found[0])} is a pattern, which names many features. Patterns are for scans: max_activating() "
            f"and `dreamy-lens scan`. Name one feature here, such as {shorten(example)}.",
            text,
            found.start(),
        ) from None


def feature_names(text: str) -> tuple[str, str]:
    """Return the short name of a feature for titles, and a longer one with its hook points for tooltips.

    Args:
        text: Text form of the feature. In a text that does not parse, such as that of a custom function of an earlier
            Python session, only the directions are abbreviated.

    >>> feature_names("blocks.2.mlp.hook_post[-1, 17]")
    ('L2.N17', 'blocks.2.mlp.hook_post[-1, 17]')
    """
    try:
        feature = parse(text)
        return feature.label, feature.long_label
    except FeatureError:
        short = re.sub(rf'"{INLINE_PATTERN}"', _short_direction, text)
        return short, short


def _short_direction(match: re.Match[str]) -> str:
    """Return the short name of an inline direction in quotes."""
    try:
        return Direction(match[0].strip('"')).short
    except FeatureError:
        return shorten(match[0], 30)


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = tokenise(text)
        self.i = 0

    # Helpers of the grammar.

    @property
    def now(self) -> Token:
        return self.tokens[self.i]

    @property
    def following(self) -> Token:
        return self.tokens[min(self.i + 1, len(self.tokens) - 1)]

    def is_mark(self, *marks: str) -> bool:
        return self.now.kind == "mark" and self.now.text in marks

    def next(self) -> Token:
        self.i += 1
        return self.tokens[self.i - 1]

    def fail(self, message: str, at: int | None = None) -> FeatureSyntaxError:
        return FeatureSyntaxError(message, self.text, self.now.at if at is None else at)

    def expect(self, mark: str, after: str) -> None:
        if not self.is_mark(mark):
            there = repr(self.now.text) if self.now.text else "the end of the text"
            raise self.fail(f"Expected {mark!r} {after}, found {there}.")
        self.next()

    def attempt(self, do: Callable[[], Any], at: int) -> Any:
        """Return the result of `do()`. Errors of the algebra are raised again with the position `at`."""
        try:
            return do()
        except FeatureSyntaxError:
            raise
        except (FeatureError, ZeroDivisionError) as error:
            raise self.fail(str(error) if isinstance(error, FeatureError) else "Division by zero.", at) from None

    # The grammar, top down. A part is a feature or, as in (2 * 3), a number.

    def whole(self) -> ex.Feature:
        if self.now.kind == "end":
            raise self.fail("The feature is empty; write, for example, blocks.2.mlp.hook_post[-1, 17].")
        feature = self.sum()
        if self.now.kind != "end":
            raise self.fail(f"{self.now.text!r} is left over after a complete feature.")
        if not isinstance(feature, ex.Feature):
            raise self.fail(_NOT_A_FEATURE, 0)
        return feature

    def sum(self) -> Any:
        left = self.product()
        while self.is_mark("+", "-"):
            mark = self.next()
            right = self.product()
            left = self.attempt(lambda a=left, b=right, m=mark: a + b if m.text == "+" else a - b, mark.at)
        return left

    def product(self) -> Any:
        left = self.factor()
        while self.is_mark("*", "/", "@"):
            mark = self.next()
            if mark.text == "@":
                if self.now.kind != "string":
                    raise self.fail('After @ comes a direction in quotes, such as @ "v.safetensors".')
                self.must_be_feature(left, mark.at)
                direction = self.string()
                left = self.attempt(lambda a=left, v=direction: a @ v, mark.at)
                continue
            right = self.factor()
            if mark.text == "/" and isinstance(right, ex.Feature):
                raise self.fail("A feature can only be divided by a number.", mark.at)
            left = self.attempt(lambda a=left, b=right, m=mark: a * b if m.text == "*" else a / b, mark.at)
        return left

    def factor(self) -> Any:
        if self.is_mark("-"):
            self.next()
            return -self.factor()
        if self.is_mark("+"):
            self.next()
            return self.factor()
        return self.postfix()

    def postfix(self) -> Any:
        part = self.atom()
        while self.is_mark(".", "["):
            self.must_be_feature(part, self.now.at)
            if self.is_mark("["):
                part = self.indexed(part)
                continue
            self.next()
            if self.now.kind != "name":
                raise self.fail(f"After the dot comes one of {_methods_list()}.")
            name = self.next()
            part = self.method(part, name.text, name.at)
        return part

    def must_be_feature(self, part: Any, at: int) -> None:
        if not isinstance(part, ex.Feature):
            raise self.fail("This can only be applied to a feature, not to a number.", at)

    def method(self, feature: ex.Feature, name: str, at: int) -> Any:
        if name not in METHODS:
            raise self.fail(f"A feature has no {name!r}{_did_you_mean(name, METHODS)}; it has {_methods_list()}.", at)
        arguments = self.arguments(name, METHODS[name])
        if name == "cosine" and "direction" not in arguments:
            raise self.fail('cosine() takes a direction in quotes, such as cosine("v.safetensors").', at)
        return self.attempt(lambda: getattr(feature, name)(**arguments), at)

    def atom(self) -> Any:
        token = self.now
        if token.kind == "number":
            return float(self.next().text)
        if self.is_mark("("):
            self.next()
            inner = self.sum()
            self.expect(")", "to close the bracket")
            return inner
        if token.kind == "string":
            raise self.fail('A text in quotes belongs inside a function, such as logit(" dog").')
        if token.kind == "end":
            raise self.fail("The text ends too early.")
        if token.kind != "name":
            raise self.fail(f"Expected a hook point, a function, a number or a bracket, found {token.text!r}.")
        self.next()
        if self.is_mark("("):
            return self.call(token.text, token.at)
        return self.named(token.text, token.at)

    def named(self, name: str, at: int) -> ex.Feature:
        of_expert = SHORT_EXPERT_NEURON.fullmatch(name)
        if of_expert is not None:
            return self.attempt(lambda: constructors.expert_neuron(*map(int, of_expert.groups())), at)
        match = SHORT_NEURON.fullmatch(name)
        if match is None:
            return ex.Hook(name)
        return self.attempt(lambda: constructors.neuron(int(match[1]), int(match[2])), at)

    def call(self, name: str, at: int) -> Any:
        """Read a function call, or a method call on a hook point without an index.

        In a method call the name contains the hook point, a dot and the method.
        """
        stem, _, last = name.rpartition(".")
        if name not in FUNCTIONS:
            if stem in ("dl", "dreamy_lens") and last in FUNCTIONS:
                raise self.fail(f"Write {last}(...) without {stem!r} before it.", at)
            if stem:
                return self.method(self.named(stem, at), last, at + len(stem) + 1)
            raise self.fail(
                f"There is no function {name!r}{_did_you_mean(name, FUNCTIONS)}; there are {', '.join(FUNCTIONS)}.", at
            )
        arguments = self.arguments(name, FUNCTIONS[name])
        try:
            return self.attempt(lambda: _function(name)(**arguments), at)
        except TypeError:
            wants = ", ".join(FUNCTIONS[name])
            raise self.fail(f"{name}() takes ({wants}); something is missing here.", at) from None

    def indexed(self, feature: ex.Feature) -> Any:
        at = self.next().at
        elements = [self.element()]
        while self.is_mark(","):
            self.next()
            elements.append(self.element())
        self.expect("]", "to close the index")
        return self.attempt(lambda: feature[tuple(elements)], at)

    def element(self) -> Any:
        token = self.now
        if token.kind == "dots":
            self.next()
            return Ellipsis
        if (token.kind, token.text) in (("name", ex.BOS), ("string", f'"{ex.BOS}"'), ("string", f"'{ex.BOS}'")):
            self.next()
            return ex.BOS
        parts: list[int | None] = [self.integer()]
        while self.is_mark(":") and len(parts) < 3:
            self.next()
            parts.append(self.integer())
        if len(parts) > 1:
            return slice(*parts)
        if parts[0] is None:
            raise self.fail("Expected an index: an integer, a slice such as 2:5, ... or bos.")
        return parts[0]

    def integer(self) -> int | None:
        start = self.i
        sign = -1 if self.is_mark("-") else 1
        if self.is_mark("-", "+"):
            self.next()
        if self.now.kind == "number" and self.now.text.isdigit():
            return sign * int(self.next().text)
        if self.i != start or self.now.kind == "number":
            raise self.fail("An index is an integer.")
        return None

    def arguments(self, name: str, names: tuple[str, ...]) -> dict[str, Any]:
        self.expect("(", f"after {name}")
        takes = f"{name}() takes ({', '.join(names)})" if names else f"{name}() takes no arguments"
        arguments: dict[str, Any] = {}
        while not self.is_mark(")"):
            token = self.now
            key = names[len(arguments)] if len(arguments) < len(names) else None
            if token.kind == "name" and self.following.text == "=":
                key = token.text
                if key not in names:
                    raise self.fail(f"{name}() has no argument {key!r}; {takes}.")
                self.next()
                self.next()
            if key is None:
                raise self.fail(f"{takes}, and this is one too many.")
            if key in arguments:
                raise self.fail(f"{name}() is given {key!r} twice; {takes}.", token.at)
            arguments[key] = self.argument(name)
            if not self.is_mark(")"):
                self.expect(",", "or ')' after an argument")
        self.next()
        return arguments

    def argument(self, function: str) -> Any:
        token = self.now
        if token.kind == "string":
            return self.string()
        if token.kind == "name" and token.text != ex.BOS:
            if token.text.lower() in ("true", "false", "none"):
                return {"true": True, "false": False, "none": None}[self.next().text.lower()]
            raise self.fail(
                f"{token.text!r} is not in quotes. Write a text as {_quoted_example(function, token.text)}."
            )
        if self.is_mark(":") or token.kind in ("dots", "name"):
            return self.element()
        start = self.i
        sign = -1 if self.is_mark("-") else 1
        if self.is_mark("-", "+"):
            self.next()
        if self.now.kind != "number":
            raise self.fail("Expected a text in quotes, a number, a position, true or false.")
        if self.following.text == ":":
            self.i = start
            return self.element()
        text = self.next().text
        return sign * (int(text) if text.isdigit() else float(text))

    def string(self) -> str:
        return unquote(self.next(), self.text)


def _pattern_in(text: str) -> tuple[re.Match[str], str] | None:
    """Return the first pattern of a text that is no feature, and one feature that it stands for; None without one."""
    latents = LATENTS.search(text)
    if latents is not None:
        return latents, f"{latents[0][:-1]}12)"
    for match in NEURONS.finditer(text):
        if "*" in (match[1], match[2]):
            layer, unit = (default if part == "*" else part for part, default in ((match[1], "2"), (match[2], "812")))
            return match, f"L{layer}.N{unit}"
    name = WILD_NAME.search(re.sub(r'"(?:[^"\\]|\\.)*"', lambda quotes: " " * len(quotes[0]), text))
    if name is None or "." not in name[0] or SHORT_NEURON.fullmatch(name[0].rstrip("*")):
        return None
    # Behind the star of a product comes a factor, and behind that of a pattern the rest of the name or an index.
    if "*." in name[0] or (name[0].endswith("*") and text[name.end() : name.end() + 1] in ("", "[")):
        layers = name[0].startswith("blocks.*.") and name[0].count("*") == 1
        return name, name[0].replace("*", "2") if layers else "blocks.2.mlp.hook_post[-1, 812]"
    return None


def _methods_list() -> str:
    return ", ".join(f"{name}({', '.join(arguments)})" for name, arguments in METHODS.items())


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _quoted_example(function: str, word: str) -> str:
    if function in ("hook", "sae_latent", "mean_cross_entropy", "custom", "cosine", "clip", "on"):
        return f'"{word}"'
    return f'"{word}", or " {word}" with the leading space that most words have inside a sentence'


def _function(name: str) -> Any:
    if name == "custom":
        return constructors.defined_custom
    if name == "runner_up":
        return constructors.logit.runner_up
    return operator.attrgetter(name)(constructors)
