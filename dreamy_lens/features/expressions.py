"""Feature expressions: immutable values that describe the quantity to measure.

An expression is a small immutable tree. Leaves read values from a model (a hook point, a logit, an SAE's latents, the
cross-entropy of a model) and are defined in this module. The inner nodes reduce and combine values; they are defined in
:mod:`dreamy_lens.features.algebra` and imported here under the same names. This module uses no model, does not import
torch and computes no values: :mod:`dreamy_lens.features.binding` checks an expression against a model and evaluates it,
and :mod:`dreamy_lens.features.parser` parses the text form of exactly these nodes.

A new leaf needs three parts: a class in this module, derived from :class:`Leaf`; a function in
:mod:`~dreamy_lens.features.constructors` that makes the leaf, under the name that the class declares in `functions=`;
and a rule in :mod:`~dreamy_lens.features.compile` that computes it. A leaf that reads hook points or positions that it
cannot name without a model also needs a case in :mod:`~dreamy_lens.features.shapes`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from dreamy_lens.features.algebra import (
    Clipped,
    Constant,
    Cosine,
    Directed,
    Feature,
    Norm,
    OnModel,
    Product,
    Projected,
    Reduced,
    Scaled,
    Standardised,
    Sum,
    Unary,
    product,
    scaled,
    total,
)
from dreamy_lens.features.lexer import SHORT_EXPERT_NEURON, SHORT_NEURON, is_name, quote
from dreamy_lens.features.node import BOS, FUNCTIONS, METHODS, Element, Span, Writer, element, integer, position
from dreamy_lens.features.sae.names import short_name, source_stamps
from dreamy_lens.models.embedded import EMBEDDED_NAME

__all__ = [
    "BOS",
    "Clipped",
    "Constant",
    "Cosine",
    "Custom",
    "Directed",
    "Element",
    "ExpertNeuron",
    "Feature",
    "Hook",
    "Latent",
    "Leaf",
    "Logit",
    "MeanCrossEntropy",
    "Norm",
    "OnModel",
    "Product",
    "Projected",
    "Reduced",
    "RouterLogit",
    "Scaled",
    "Span",
    "Standardised",
    "Sum",
    "Unary",
    "Writer",
    "integer",
    "position",
    "product",
    "scaled",
    "total",
]


_SAE_LATENT = ("sae", "latent", "position", "pre_activation", "hook", "ignore", "sae_id")
_MLP = re.compile(r"blocks\.(0|[1-9][0-9]*)\.mlp\.hook_post")


class Leaf(Feature):
    """A feature that reads values from a model and contains no other features."""

    is_leaf: ClassVar[bool] = True


@dataclass(frozen=True, repr=False)
class Hook(Leaf, functions={"hook": ("name",), "neuron": ("layer", "index", "position")}):
    """The activation at a hook point, `[...]` for one prompt without the batch axis; `index` selects from its axes."""

    name: str
    index: tuple[Element, ...] | None = None

    def __getitem__(self, index: Any) -> Feature:
        if self.index is not None:
            return super().__getitem__(index)
        elements = index if isinstance(index, tuple) else (index,)
        if not elements:
            return self
        return Hook(self.name, tuple(element(e, self.name) for e in elements))

    def elements(self, count: int) -> list[Element]:
        """Return one element for each of `count` axes, with `...` and missing elements replaced by full spans."""
        index = self.index or ()
        fill: list[Element] = [Span()] * (count - len([e for e in index if e is not Ellipsis]))
        cut = index.index(Ellipsis) if Ellipsis in index else len(index)
        return [*index[:cut], *fill, *index[cut + 1 :]]

    def write(self, writer: Writer) -> str:
        """Return `name[index]`, or `L2.N17` for a neuron if the writer uses these names.

        A name that is ambiguous in the text form is written as `hook("name")`.
        """
        match = _MLP.fullmatch(self.name) if writer.neurons else None
        if match and self.index is not None and len(self.index) == 2:
            position, unit = self.index
            if position == -1 and isinstance(unit, int) and unit >= 0:
                return f"L{match[1]}.N{unit}"
        name = self.name if _stands_alone(self.name) else f"hook({quote(self.name)})"
        return name if self.index is None else f"{name}[{', '.join(map(writer.element, self.index))}]"

    def named_hooks(self) -> tuple[str, ...]:
        """Return the name of the hook point."""
        return (self.name,)

    def at_every_position(self, place: Element) -> Hook | None:
        """Return this hook with its other indices at every position, or None if the first index is not `place`."""
        index = self.index or ()
        # Activations of residual streams, MLPs and heads have positions first, and no second axis of positions.
        if any(part in self.name for part in ("hook_pattern", "attn_scores", "rot_attn")):
            return None
        first = index[0] if index else None
        if (Span() if first is Ellipsis else first) != place:
            return None
        return Hook(self.name, (Span(), *(index[1:] if index and first is not Ellipsis else index)))


@dataclass(frozen=True, repr=False)
class ExpertNeuron(Leaf, functions={"expert_neuron": ("layer", "expert", "index", "position")}):
    """A neuron of one expert in a mixture of experts; 0 where the router does not choose the expert."""

    layer: int
    expert: int
    index: int
    position: int | Span | str = -1

    def write(self, writer: Writer) -> str:
        """Return `L1.E2.N3`, or `expert_neuron(1, 2, 3, position=...)` at another position than the last."""
        if self.position == -1:
            return f"L{self.layer}.E{self.expert}.N{self.index}"
        return f"expert_neuron({self.layer}, {self.expert}, {self.index}{writer.position(self.position)})"

    def named_hooks(self) -> tuple[str, ...]:
        """Return the hook point that the router and the experts read."""
        return (f"blocks.{self.layer}.mlp.hook_in",)

    def named_positions(self) -> tuple[Element, ...]:
        """Return the position at which the neuron is read."""
        return (self.position,)

    def at_every_position(self, place: Element) -> ExpertNeuron | None:
        """Return this neuron at every position, or None if its position is not `place`."""
        return replace(self, position=Span()) if self.position == place else None


@dataclass(frozen=True, repr=False)
class RouterLogit(Leaf, functions={"router": ("layer", "expert", "position")}):
    """The logit that the router of a mixture of experts gives an expert."""

    layer: int
    expert: int
    position: int | Span | str = -1

    def write(self, writer: Writer) -> str:
        """Return `router(1, 2)`, with `position=...` at another position than the last."""
        return f"router({self.layer}, {self.expert}{writer.position(self.position)})"

    def named_hooks(self) -> tuple[str, ...]:
        """Return the hook point that the router and the experts read."""
        return (f"blocks.{self.layer}.mlp.hook_in",)

    def named_positions(self) -> tuple[Element, ...]:
        """Return the position at which the logit is read."""
        return (self.position,)

    def at_every_position(self, place: Element) -> RouterLogit | None:
        """Return this logit at every position, or None if its position is not `place`."""
        return replace(self, position=Span()) if self.position == place else None


@dataclass(frozen=True, repr=False)
class Logit(
    Leaf,
    functions={
        "logit": ("token", "position"),
        "logit.runner_up": ("token", "position"),
        "runner_up": ("token", "position"),
        "logit_difference": ("token", "position", "reduce"),
        "log_prob": ("token", "position", "reduce"),
    },
):
    """A token's logit, the largest other logit (`runner_up`), or the token's log-probability, at a position (Eq. 3).

    The log-probability, and the margin `logit_difference`, are also of a text of several tokens after the prompt;
    `reduce` says how its tokens make one number.
    """

    kind: str
    token: str | int
    position: int | Span | str = -1
    reduce: str | None = None

    def write(self, writer: Writer) -> str:
        """Return `logit(token, position=...)`, or the text with another of the functions of this class."""
        function = "logit.runner_up" if self.kind == "runner_up" else self.kind
        token = quote(self.token) if isinstance(self.token, str) else str(self.token)
        reduce = "" if self.reduce is None else f", reduce={quote(self.reduce)}"
        return f"{function}({token}{writer.position(self.position)}{reduce})"

    def named_positions(self) -> tuple[Element, ...]:
        """Return the position after which the model predicts the token."""
        return (self.position,)

    def at_every_position(self, place: Element) -> Logit | None:
        """Return the feature of this token after every position, or None if its position is not `place`.

        A text of several tokens follows the prompt's end only. Without a model only `reduce` shows that it is one.
        """
        return replace(self, position=Span()) if self.position == place and self.reduce is None else None


@dataclass(frozen=True, repr=False)
class Latent(Leaf, functions={"sae_latent": _SAE_LATENT}):
    """One latent of a sparse autoencoder (SAE), at the SAE's own hook point."""

    sae: Any
    latent: int
    position: int | Span | str = -1
    pre_activation: bool = False
    hook: str | None = None
    ignore: str | None = None

    def write(self, writer: Writer) -> str:
        """Return `sae_latent(folder, latent, ...)`."""
        pre = ", pre_activation=true" if self.pre_activation else ""
        hook = f", hook={quote(self.hook)}" if self.hook else ""
        more = f"{pre}{hook}" + (f", ignore={quote(self.ignore)}" if self.ignore else "")
        named = isinstance(self.sae, str) and writer.short
        source = quote(short_name(self.sae)) if named else writer.source(self.sae)
        return f"sae_latent({source}, {self.latent}{writer.position(self.position)}{more})"

    @property
    def has_text_form(self) -> bool:
        """True if the autoencoder is given as a folder."""
        return isinstance(self.sae, str)

    def map_paths(self, change: Callable[[str], str]) -> Latent:
        """Return this latent with `change` applied to the folder of the autoencoder."""
        return replace(self, sae=change(self.sae)) if isinstance(self.sae, str) else self

    def digest_key(self) -> bytes:
        """Return the stamps of the autoencoder's files."""
        return source_stamps(self.sae) if isinstance(self.sae, str) else b""

    def named_positions(self) -> tuple[Element, ...]:
        """Return the position that the autoencoder reads."""
        return (self.position,)

    def at_every_position(self, place: Element) -> Latent | None:
        """Return this latent at every position, or None if its position is not `place`."""
        return replace(self, position=Span()) if self.position == place else None

    def __hash__(self) -> int:
        return hash((self.sae if isinstance(self.sae, str) else id(self.sae), self.latent, self.position))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Latent):
            return NotImplemented
        same = (
            self.sae == other.sae if isinstance(self.sae, str) and isinstance(other.sae, str) else self.sae is other.sae
        )
        rest = ("latent", "position", "pre_activation", "hook", "ignore")
        return same and all(getattr(self, name) == getattr(other, name) for name in rest)


@dataclass(frozen=True, repr=False)
class MeanCrossEntropy(Leaf, functions={"mean_cross_entropy": ("model",)}):
    """Mean cross-entropy of the prompt, nats per token (Eq. 1), under the model itself (None) or another model."""

    model: Any = None

    def write(self, writer: Writer) -> str:
        """Return `mean_cross_entropy(model)`."""
        return f"mean_cross_entropy({'' if self.model is None else writer.source(self.model)})"

    @property
    def has_text_form(self) -> bool:
        """True if the model is the model itself (None) or is given by a name from which it can be loaded."""
        return self.model is None or isinstance(self.model, str)

    def map_paths(self, change: Callable[[str], str]) -> MeanCrossEntropy:
        """Return this feature with `change` applied to the folder of the other model."""
        is_path = isinstance(self.model, str) and self.model != EMBEDDED_NAME
        return replace(self, model=change(self.model)) if is_path else self


@dataclass(frozen=True, repr=False)
class Custom(Leaf, functions={"custom": ("name",)}):
    """A function of named hook points' activations, supplied by the user."""

    name: str
    hooks: tuple[str, ...]
    function: Callable[[Mapping[str, Any]], Any]

    def write(self, writer: Writer) -> str:
        """Return `custom(name)`, which has a meaning only in the session that defined the function."""
        return f"custom({quote(self.name)})"

    @property
    def has_text_form(self) -> bool:
        """False, because the text does not contain the function."""
        return False

    def named_hooks(self) -> tuple[str, ...]:
        """Return the hook points whose activations are passed to the function."""
        return self.hooks


def _stands_alone(name: str) -> bool:
    """Return True if a hook point's name is unambiguous without `hook(...)` in the text form."""
    return (
        is_name(name)
        and SHORT_NEURON.fullmatch(name) is None
        and SHORT_EXPERT_NEURON.fullmatch(name) is None
        and name.rpartition(".")[2] not in METHODS
        and name not in FUNCTIONS
    )
