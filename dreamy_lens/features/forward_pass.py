"""Results of one forward pass: activations, logits, cross-entropy, and the places of the prompt's tokens in a row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from dreamy_lens.errors import FeatureRangeError, PromptError
from dreamy_lens.features import expressions as ex

if TYPE_CHECKING:
    from dreamy_lens.features.sae.conditions import Conditions
    from dreamy_lens.models.hooked_model import HookedModel


@dataclass(frozen=True)
class RowLayout:
    """Layout of a row of ids: BOS, then a template's prefix, the prompt, and the template's suffix.

    Attributes:
        bos: 1 if the row starts with a BOS, else 0.
        prefix: Number of template tokens before the prompt.
        length: Number of prompt tokens.
        suffix: Number of template tokens after the prompt.
    """

    bos: int
    prefix: int
    length: int
    suffix: int

    def followed_by(self, tokens: int) -> RowLayout:
        """Return the layout of rows with more tokens at their end, such as the tail of a model."""
        return replace(self, suffix=self.suffix + tokens) if tokens else self

    @property
    def before(self) -> int:
        """Number of tokens before the prompt."""
        return self.bos + self.prefix

    @property
    def total(self) -> int:
        """Number of tokens in the whole row."""
        return self.before + self.length + self.suffix

    @property
    def positions(self) -> int:
        """Number of positions that a feature can name: all except the BOS."""
        return self.total - self.bos

    @property
    def terms(self) -> int:
        """Number of predicted prompt tokens: all if a token precedes the prompt, else all except the first (Eq. 1)."""
        return self.length if self.before else self.length - 1

    @property
    def predicting(self) -> slice:
        """The places in the row whose logits predict the prompt's tokens."""
        return slice(max(self.before - 1, 0), self.before + self.length - 1)

    @property
    def predicted(self) -> slice:
        """The places in the row of the prompt's predicted tokens."""
        return slice(max(self.before, 1), self.before + self.length)

    def check(self) -> None:
        """Raise PromptError if the prompt has no predicted token, and therefore no cross-entropy."""
        if self.terms < 1:
            raise PromptError(
                "A prompt of one token with nothing before it has no predicted token, so it has no cross-entropy. "
                "Use prepend_bos=True, or a longer prompt."
            )


class ActivationSource(Protocol):
    """Interface by which features read one model's pass over a batch; :class:`ForwardPass` is the plain version."""

    @property
    def layout(self) -> RowLayout:
        """The layout of every row."""
        ...

    @property
    def size(self) -> int:
        """The number of prompts."""
        ...

    @property
    def activations(self) -> Mapping[str, Tensor]:
        """The activations by hook point, `[batch, ...]`."""
        ...

    @property
    def cross_entropy(self) -> Float[Tensor, " batch"]:
        """Mean cross-entropy of each prompt, float32, nats per token (Eq. 1)."""
        ...

    def picked(self, name: str, element: ex.Element, what: str) -> Tensor:
        """Return the activation `[batch, ...]` at a hook point with positions first, indexed by :func:`pick`."""
        ...

    def over_vocabulary(self, function: Callable[[Tensor], Tensor], element: ex.Element, what: str) -> Tensor:
        """Apply a function `[..., d_vocab] -> [...]` to float32 logits.

        Returns:
            Values `[batch]` at a position, or `[batch, m]` at a span.
        """
        ...


@dataclass
class ForwardPass:
    """Results of one model's plain pass over a batch of prompts.

    Attributes:
        activations: Activations by hook point, `[batch, ...]`.
        logits: Logits `[batch, total, d_vocab]`, or None if no feature needed them.
        ids: Token ids `[batch, total]`.
        layout: Layout of every row.
        charge: Zeros `[batch]`, added to the cross-entropy, or None. The gradient at `charge` measures how much a value
            depends on the prompt's cross-entropy, and therefore on the tokens as *targets*. The gradient at the
            embeddings does not include this dependence.
    """

    activations: dict[str, Tensor]
    logits: Float[Tensor, "batch total d_vocab"] | None
    ids: Int[Tensor, "batch total"]
    layout: RowLayout
    charge: Float[Tensor, " batch"] | None = field(default=None)

    @property
    def size(self) -> int:
        """The number of prompts."""
        return len(self.ids)

    def part(self, rows: slice) -> ForwardPass:
        """Return the results of some of the prompts."""
        logits, charge = (None if x is None else x[rows] for x in (self.logits, self.charge))
        activations = {name: x[rows] for name, x in self.activations.items()}
        return ForwardPass(activations, logits, self.ids[rows], self.layout, charge)

    def picked(self, name: str, element: ex.Element, what: str) -> Tensor:
        """Return the activation `[batch, ...]` at a hook point with positions first, indexed by :func:`pick`."""
        return pick(self.activations[name], 1, element, self.layout, what)

    def over_vocabulary(self, function: Callable[[Tensor], Tensor], element: ex.Element, what: str) -> Tensor:
        """Apply a function `[..., d_vocab] -> [...]` to float32 logits.

        Returns:
            Values `[batch]` at a position, or `[batch, m]` at a span.
        """
        assert self.logits is not None
        return function(pick(self.logits, 1, element, self.layout, what).float())

    @property
    def cross_entropy(self) -> Float[Tensor, " batch"]:
        """Mean cross-entropy of each prompt, float32, nats per token (Eq. 1)."""
        return self._cross_entropy

    @cached_property
    def _cross_entropy(self) -> Tensor:
        assert self.logits is not None
        self.layout.check()
        logits = self.logits[:, self.layout.predicting].float()
        targets = self.ids[:, self.layout.predicted]
        flat = rearrange(logits, "batch pos vocab -> (batch pos) vocab")
        losses = F.cross_entropy(flat, rearrange(targets, "batch pos -> (batch pos)"), reduction="none")
        mean = losses.view(targets.shape).mean(-1)
        return mean if self.charge is None else mean + self.charge

    @torch.no_grad()
    def surprisal(self) -> Float[Tensor, "batch length d_vocab"]:
        """Return -log p of every token at each of the prompt's positions, float32.

        The values at the first position are zero if no token precedes it, because the model does not predict it then.
        """
        assert self.logits is not None
        surprisal = -self.logits[:, self.layout.predicting].detach().float().log_softmax(-1)
        missing = self.layout.length - surprisal.shape[1]
        return F.pad(surprisal, (0, 0, missing, 0)) if missing else surprisal


Readings = Mapping["HookedModel", ActivationSource]


def pick(tensor: Tensor, axis: int, element: ex.Element, layout: RowLayout, what: str) -> Tensor:
    """Index an axis of positions. Positions count the tokens after the BOS; only ``"bos"`` selects the BOS.

    Returns:
        The tensor without the axis for an integer or ``"bos"``, or with the selected positions for a span.
    """
    check_position(element, layout, what)
    size = tensor.shape[axis]
    if element == ex.BOS:
        return tensor.select(axis, 0)
    if isinstance(element, int):
        return tensor.select(axis, element + layout.bos if element >= 0 else size + element)
    tensor = tensor.narrow(axis, layout.bos, size - layout.bos)
    return tensor if element == ex.Span() else tensor[(slice(None),) * axis + (element.slice(),)]


def place_of(element: ex.Element, layout: RowLayout) -> int | None:
    """Return the place in the row of a position that a feature names; None for a span."""
    if element == ex.BOS:
        return 0
    if isinstance(element, int):
        return element + layout.bos if element >= 0 else layout.total + element
    return None


def check_training(conditions: Iterable[tuple[Conditions, ex.Element]], layout: RowLayout) -> None:
    """Refuse positions after the rows of an autoencoder's training, and warn once of others that it did not have."""
    for condition, element in conditions:
        place = place_of(element, layout)
        last = place
        if isinstance(element, ex.Span):
            last = max(range(layout.positions)[element.slice()], default=0) + layout.bos
        condition.check_rows(layout.total, place, last or 0, place == 0 and layout.bos > 0)


def check_position(element: ex.Element, layout: RowLayout, what: str) -> None:
    """Raise FeatureRangeError if a position does not exist or a span contains no position."""
    count = layout.positions
    if element == ex.BOS:
        if not layout.bos:
            raise FeatureRangeError(
                f'{what}: "bos" is the beginning-of-sequence token, and prompts are scored without one here; '
                "use prepend_bos=True, or a position 0, 1, ..."
            )
    elif isinstance(element, ex.Span):
        if not range(count)[element.slice()]:
            start, stop = ("" if x is None else x for x in (element.start, element.stop))
            raise FeatureRangeError(f"{what}: the slice {start}:{stop} is empty; there are positions 0 to {count - 1}.")
    elif isinstance(element, int) and not -count <= element < count:
        bos = ' (the BOS is the position "bos")' if layout.bos else ""
        raise FeatureRangeError(
            f"{what}: there is no position {element}; the {count} tokens that the model reads have positions 0 to "
            f"{count - 1}, or -1 to {-count} from the end{bos}."
        )
