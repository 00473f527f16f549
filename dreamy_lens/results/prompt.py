"""Prompt as a result: its tokens, its scores and its provenance."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dreamy_lens import _upcalls
from dreamy_lens.errors import PromptError
from dreamy_lens.figures.protocols import TextDecoder
from dreamy_lens.html.page import fragment
from dreamy_lens.results.prompt_table import prompt_table

if TYPE_CHECKING:
    from dreamy_lens.results.ablation import Ablation
    from dreamy_lens.results.attribution import Attribution
    from dreamy_lens.results.continuation import Continuation
    from dreamy_lens.results.patching import Patching
    from dreamy_lens.results.steering import Steering
    from dreamy_lens.results.upstream import Upstream


class Decoder(TextDecoder, Protocol):
    """Decoder that can also check round trips, such as :class:`dreamy_lens.models.vocabulary.Vocabulary`."""

    def round_trips(self, ids: Iterable[int]) -> bool:
        """Return whether the text of a prompt encodes back to exactly its token ids."""
        ...


class PromptTools(Protocol):
    """What a run does with its prompts: it uses its own model, so that none is loaded a second time."""

    def attribution(self, prompt: Any, k: int = 32, **settings: Any) -> Attribution:
        """Return the attribution of a prompt."""
        ...

    def generate(self, prompt: Any, n_tokens: int = 20, **settings: Any) -> Continuation:
        """Return a continuation of a prompt."""
        ...

    def upstream(self, prompt: Any, **settings: Any) -> Upstream:
        """Return the contributions of components to the value of a prompt."""
        ...

    def steer(self, prompt: Any, **settings: Any) -> Steering:
        """Return the model's predictions on a prompt with the feature changed."""
        ...

    def ablate(self, parts: Any, prompts: Any, **settings: Any) -> Ablation:
        """Return the values of prompts, and the model's predictions, without parts of the model."""
        ...

    def patch(self, prompt: Any, neutral: Any = None, **settings: Any) -> Patching:
        """Return what patches of a prompt's activations restore of its value."""
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
        contexts: Short text about several contexts in which the prompt was scored; "" for one. `prefix` and `suffix`
            are those of the first context.
    """

    feature: str
    model: str
    seed: int | None
    iteration: int | None
    prepend_bos: bool
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    contexts: str = ""

    def at(self, iteration: int | None) -> Provenance:
        """Return a copy for a prompt of this iteration."""
        return dataclasses.replace(self, iteration=iteration)

    def to_dict(self) -> dict[str, Any]:
        """Return the provenance as JSON values, which :meth:`from_dict` reads."""
        values = {**dataclasses.asdict(self), "prefix": list(self.prefix), "suffix": list(self.suffix)}
        return values if self.contexts else {name: value for name, value in values.items() if name != "contexts"}

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
    _tools: PromptTools | None = field(default=None, repr=False, compare=False)

    @classmethod
    def decode(
        cls,
        ids: Iterable[int],
        value: float,
        cross_entropy: float,
        decoder: Decoder,
        provenance: Provenance,
        tools: PromptTools | None = None,
    ) -> Prompt:
        """Return a prompt from its token ids and scores.

        Args:
            ids: Token ids without BOS and without the tokens of a template, length n.
            value: Value of the feature.
            cross_entropy: Cross-entropy in nats per token.
            decoder: Decoder that supplies tokens, text and the round trip.
            provenance: Provenance of the prompt.
            tools: Run whose model :meth:`attribution`, :meth:`upstream` and the like use; None loads the model
                of the provenance.
        """
        ids = tuple(int(i) for i in ids)
        tokens, text = tuple(decoder.tokens(ids)), decoder.text(ids)
        round_trips = bool(decoder.round_trips(ids))
        return cls(ids, tokens, text, float(value), float(cross_entropy), round_trips, provenance, tools)

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
        if self._tools is not None:
            return self._tools.attribution(self, k=k, **settings)
        origin = self.provenance
        if origin.contexts:
            raise PromptError(
                f"This prompt was scored in several contexts ({origin.contexts}), which only its run knows. Open the "
                "run, and call run.attribution(prompt); or give them: dl.attribution(..., contexts=...)."
            )
        return _upcalls.attribution(
            origin.feature, np.array(self.ids), origin.model, k=k, **{**self._around(), **settings}
        )

    def upstream(self, **settings: Any) -> Upstream:
        """Return the contributions of the model's components to the value: of embeddings, heads and MLPs.

        A prompt of a run in memory uses the run's model. Any other prompt loads the model that its provenance names. Of
        several contexts, the first is used.

        Args:
            **settings: Settings of `dreamy_lens.upstream`, such as `quantity`.
        """
        if self._tools is not None:
            return self._tools.upstream(self, **settings)
        origin, ids = self.provenance, np.array(self.ids)
        return _upcalls.upstream(origin.feature, ids, origin.model, **{**self._around(), **settings})

    def steer(self, **settings: Any) -> Steering:
        """Change the feature while the model reads the prompt and writes on; see `dreamy_lens.steer`.

        A prompt of a run in memory uses the run's model. Any other prompt loads the model that its provenance names. Of
        several contexts, the first is used.

        Args:
            **settings: Settings of `dreamy_lens.steer`, such as `strengths` and `mode`.
        """
        if self._tools is not None:
            return self._tools.steer(self, **settings)
        origin, ids = self.provenance, np.array(self.ids)
        return _upcalls.steer(origin.feature, ids, origin.model, **{**self._around(), **settings})

    def ablate(self, parts: Any, **settings: Any) -> Ablation:
        """Return the feature's value on the prompt, and the predictions, without parts of the model.

        A prompt of a run in memory uses the run's model. Any other prompt loads the model that its provenance names. Of
        several contexts, the first is used.

        Args:
            parts: Components and features, as `dreamy_lens.ablate` takes them.
            **settings: Settings of `dreamy_lens.ablate`, such as `kind`. `of` is the prompt's feature unless given.
        """
        if self._tools is not None:
            return self._tools.ablate(parts, self, **settings)
        origin, ids = self.provenance, np.array(self.ids)
        return _upcalls.ablate(parts, ids, origin.model, **{"of": origin.feature, **self._around(), **settings})

    def patch(self, neutral: Any = None, **settings: Any) -> Patching:
        """Patch activations of the prompt into a neutral prompt, and back; see `dreamy_lens.patch`.

        A prompt of a run in memory uses the run's model. Any other prompt loads the model that its provenance names. Of
        several contexts, the first is used.

        Args:
            neutral: Prompt of equal length; None draws one.
            **settings: Settings of `dreamy_lens.patch`, such as `component`.
        """
        if self._tools is not None:
            return self._tools.patch(self, neutral, **settings)
        origin, ids = self.provenance, np.array(self.ids)
        return _upcalls.patch(origin.feature, ids, neutral, origin.model, **{**self._around(), **settings})

    def generate(self, n_tokens: int = 20, **settings: Any) -> Continuation:
        """Let the model continue the prompt, with the BOS and the template around it.

        A prompt of a run in memory uses the run's model. Any other prompt loads the model that its provenance names.

        Args:
            n_tokens: Number of tokens to write.
            **settings: Settings of `dreamy_lens.generate`, such as `temperature` and `seed`.
        """
        if self._tools is not None:
            return self._tools.generate(self, n_tokens, **settings)
        ids, settings = np.array(self.ids), {**self._around(), **settings}
        return _upcalls.generate(ids, self.provenance.model, n_tokens, **settings)

    def continue_(self, n_tokens: int = 20, **settings: Any) -> Continuation:
        """Let the model continue the prompt: another name of :meth:`generate`."""
        return self.generate(n_tokens, **settings)

    def _around(self) -> dict[str, Any]:
        """Return the keywords that say which tokens stand around the prompt."""
        origin = self.provenance
        template = {name: getattr(origin, name) for name in ("prefix", "suffix") if getattr(origin, name)}
        return {"prepend_bos": origin.prepend_bos, **template}

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
        return {**self.__dict__, "_tools": None}

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
