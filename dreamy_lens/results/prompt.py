"""One prompt as a result: what it is, how it scored, and where it came from."""

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
    """A decoder that also encodes; :class:`dreamy_lens.models.vocabulary.Vocabulary` is one."""

    def round_trips(self, ids: Iterable[int]) -> bool:
        """Return whether the text of a prompt encodes to exactly the same ids."""
        ...


@dataclass(frozen=True)
class Provenance:
    """Where a prompt came from, enough to score it again.

    Attributes:
        feature: text form of the feature.
        model: name or folder of the model.
        seed: of the run, or None if no run made the prompt.
        iteration: in which it was first evaluated (0: the initial population), or None for a whole run.
        prepend_bos: whether a BOS token stood in front when it was scored.
        prefix: token ids of a template before the prompt; they are not charged for cross-entropy.
        suffix: token ids of a template after it.
    """

    feature: str
    model: str
    seed: int | None
    iteration: int | None
    prepend_bos: bool
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()

    def at(self, iteration: int | None) -> Provenance:
        """The same, for a prompt of this iteration."""
        return dataclasses.replace(self, iteration=iteration)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**dataclasses.asdict(self), "prefix": list(self.prefix), "suffix": list(self.suffix)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Provenance:
        """The inverse of :meth:`to_dict`."""
        fixed = {"prefix": tuple(data.get("prefix", ())), "suffix": tuple(data.get("suffix", ()))}
        return cls(**{**data, **fixed})


@dataclass(frozen=True)
class Prompt:
    """A prompt with its scores.

    Attributes:
        ids: token ids, length n, without BOS and without a template's tokens.
        tokens: each token decoded by itself, length n.
        text: the decoding of all of them together.
        value: of the feature.
        cross_entropy: mean over the predicted tokens, nats per token (Eq. 1 of the paper).
        round_trips: whether `text` encodes to exactly `ids`; if not, pasting it elsewhere gives another prompt.
        provenance: feature, model, seed and iteration it came from.

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
    # A run puts its own model behind this, so that a click does not load the model a second time.
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
        """A prompt from ids and scores; the decoder supplies the rest."""
        ids = tuple(int(i) for i in ids)
        tokens, text = tuple(decoder.tokens(ids)), decoder.text(ids)
        trips = bool(decoder.round_trips(ids))
        return cls(ids, tokens, text, float(value), float(cross_entropy), trips, provenance, attribute)

    @property
    def perplexity(self) -> float:
        """The exponential of the cross-entropy."""
        return math.exp(self.cross_entropy) if self.cross_entropy < 700 else math.inf

    def attribution(self, k: int = 32, **settings: Any) -> Attribution:
        """What other tokens would do at each position (Figure 1 of the paper).

        A prompt of a live run asks the run's own model. Any other prompt, one that was pickled for instance, loads the
        model its provenance names.

        Args:
            k: substitutions tried per position.
            **settings: as for `dreamy_lens.attribution`.
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
        """Plain JSON values."""
        names = ("text", "value", "cross_entropy", "round_trips")
        plain = {name: getattr(self, name) for name in names}
        return {"ids": list(self.ids), "tokens": list(self.tokens), **plain, "provenance": self.provenance.to_dict()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Prompt:
        """The inverse of :meth:`to_dict`."""
        parts = {"ids": tuple(data["ids"]), "tokens": tuple(data["tokens"])}
        return cls(**{**data, **parts, "provenance": Provenance.from_dict(data["provenance"])})

    # A copy on disk or in another process leaves the run's model behind; a copy in memory needs no second one of it.

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
