"""Prompt as a result: its tokens, its scores and its provenance."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dreamy_lens import _upcalls
from dreamy_lens.figures.protocols import TextDecoder
from dreamy_lens.html.page import fragment
from dreamy_lens.results.prompt_table import prompt_table

if TYPE_CHECKING:
    from dreamy_lens.results.attribution import Attribution


class Decoder(TextDecoder, Protocol):
    """Decoder that can also check round trips, such as :class:`dreamy_lens.models.vocabulary.Vocabulary`."""

    def round_trips(self, ids: Iterable[int]) -> bool:
        """Return whether the text of a prompt encodes back to exactly its token ids."""
        ...


@dataclass(frozen=True)
class Provenance:
    """Provenance of a prompt or a run. It is enough to score a prompt again.

    Attributes:
        feature: Text form of the feature.
        model: Name or folder of the model.
        seed: Seed of the run; None if no run made the prompt.
        iteration: Iteration in which the prompt was first evaluated (0 is the initial population); None for a run.
        prepend_bos: Whether the prompt was scored with a BOS token before it.
        prefix: Token ids of a template before the prompt; they do not count for cross-entropy.
        suffix: Token ids of a template after the prompt.
    """

    feature: str
    model: str
    seed: int | None
    iteration: int | None
    prepend_bos: bool
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()

    def at(self, iteration: int | None) -> Provenance:
        """Return a copy for a prompt of this iteration."""
        return dataclasses.replace(self, iteration=iteration)

    def to_dict(self) -> dict[str, Any]:
        """Return the provenance as JSON values, which :meth:`from_dict` reads."""
        return {**dataclasses.asdict(self), "prefix": list(self.prefix), "suffix": list(self.suffix)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Provenance:
        """Return the provenance that :meth:`to_dict` wrote."""
        template = {"prefix": tuple(data.get("prefix", ())), "suffix": tuple(data.get("suffix", ()))}
        return cls(**{**data, **template})


@dataclass(frozen=True)
class Prompt:
    """Prompt with its scores.

    Attributes:
        ids: Token ids without BOS and without the tokens of a template, length n.
        tokens: Tokens, each decoded by itself, length n.
        text: Decoding of all tokens together.
        value: Value of the feature.
        cross_entropy: Mean cross-entropy of the predicted tokens in nats per token (Eq. 1 of the paper).
        round_trips: Whether `text` encodes back to exactly `ids`; if not, the text stands for another prompt elsewhere.
        provenance: Provenance of the prompt: feature, model, seed, iteration and template.

    >>> origin = Provenance("L2.N17", "docstrings", seed=0, iteration=7, prepend_bos=True)
    >>> prompt = Prompt((5, 9), (" the", " file"), " the file", 3.25, 2.0, True, origin)
    >>> prompt
    Prompt(' the file', value 3.25, cross-entropy 2.00)
    >>> f"{prompt.perplexity:.2f}"
    '7.39'
    >>> Prompt.from_dict(prompt.to_dict()) == prompt
    True
    """

    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    text: str
    value: float
    cross_entropy: float
    round_trips: bool
    provenance: Provenance
    # A run sets a function that uses its own model, so that attribution does not load the model a second time.
    _attribute: Callable[..., Attribution] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def decode(
        cls,
        ids: Iterable[int],
        value: float,
        cross_entropy: float,
        decoder: Decoder,
        provenance: Provenance,
        attribute: Callable[..., Attribution] | None = None,
    ) -> Prompt:
        """Return a prompt from its token ids and scores.

        Args:
            ids: Token ids without BOS and without the tokens of a template, length n.
            value: Value of the feature.
            cross_entropy: Cross-entropy in nats per token.
            decoder: Decoder that supplies tokens, text and the round trip.
            provenance: Provenance of the prompt.
            attribute: Function that :meth:`attribution` calls with the prompt; None is `dreamy_lens.attribution`.
        """
        ids = tuple(int(i) for i in ids)
        tokens, text = tuple(decoder.tokens(ids)), decoder.text(ids)
        round_trips = bool(decoder.round_trips(ids))
        return cls(ids, tokens, text, float(value), float(cross_entropy), round_trips, provenance, attribute)

    @property
    def perplexity(self) -> float:
        """Exponential of the cross-entropy."""
        return math.exp(self.cross_entropy) if self.cross_entropy < 700 else math.inf

    def attribution(self, k: int = 32, **settings: Any) -> Attribution:
        """Return the effects of substitutions at each position on the value (Figure 1 of the paper).

        A prompt of a run in memory uses the run's model. Any other prompt, for example one that was pickled, loads the
        model that its provenance names.

        Args:
            k: Number of substitutes tried at each position.
            **settings: Settings of `dreamy_lens.attribution`.
        """
        if self._attribute is not None:
            return self._attribute(self, k=k, **settings)
        origin = self.provenance
        settings.setdefault("prepend_bos", origin.prepend_bos)
        for name in ("prefix", "suffix"):
            if getattr(origin, name):
                settings.setdefault(name, getattr(origin, name))
        return _upcalls.attribution(origin.feature, np.array(self.ids), origin.model, k=k, **settings)

    def to_dict(self) -> dict[str, Any]:
        """Return the prompt as JSON values, which :meth:`from_dict` reads."""
        names = ("text", "value", "cross_entropy", "round_trips")
        plain = {name: getattr(self, name) for name in names}
        return {"ids": list(self.ids), "tokens": list(self.tokens), **plain, "provenance": self.provenance.to_dict()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Prompt:
        """Return the prompt that :meth:`to_dict` wrote."""
        parts = {"ids": tuple(data["ids"]), "tokens": tuple(data["tokens"])}
        return cls(**{**data, **parts, "provenance": Provenance.from_dict(data["provenance"])})

    # Pickling leaves out the run's model. A prompt is immutable, so its copy in memory is the prompt itself.

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_attribute": None}

    def __copy__(self) -> Prompt:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Prompt:
        return self

    def __len__(self) -> int:
        return len(self.ids)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Prompt({self.text!r}, value {self.value:.4g}, cross-entropy {self.cross_entropy:.2f})"

    def _repr_html_(self) -> str:
        return fragment(prompt_table([self]))
