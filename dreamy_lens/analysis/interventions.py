"""Interventions: changes of activations during a pass, each for its own row of a batch.

This module promises:

* Nothing outlives a pass: hooks are attached for one pass and removed in every case, and no cache is used or filled.
* A hook point is changed only if the rest of the model reads what is put there; see
  :mod:`dreamy_lens.models.editable_hooks`.
* A row without an intervention gives the numbers of the untouched model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dreamy_lens.analysis.feature_vectors import FeatureVector, positions_first
from dreamy_lens.errors import FeatureError, FeatureRangeError, SettingsError, quoted
from dreamy_lens.features import expressions as ex
from dreamy_lens.features.binding import BoundFeature, bind
from dreamy_lens.features.forward_pass import ForwardPass, RowLayout, place_of
from dreamy_lens.features.parser import parse
from dreamy_lens.features.shapes import Axes
from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.models.transfer import to_host
from dreamy_lens.results.effect import TokenChange

AT_ONCE = 1 << 26
"""Most logits of one pass."""


@dataclass(frozen=True)
class Positions:
    """Positions of a row at which activations are changed.

    Attributes:
        words: Description for results.
        places: Places in the row; None is every place from `start` on, also of tokens that are written later.
        start: First place, if `places` is None.
    """

    words: str
    places: tuple[int, ...] | None
    start: int = 0

    def mask(self, length: int, device: Any = None) -> Bool[Tensor, " pos"]:
        """Return which places of a row are changed."""
        if self.places is None:
            return torch.arange(length, device=device) >= self.start
        mask = torch.zeros(length, dtype=torch.bool, device=device)
        mask[[i for i in self.places if i < length]] = True
        return mask


def positions_of(given: Any, layout: RowLayout) -> Positions:
    """Return the positions that a user names: "all", "last", "bos", a position, a slice, or a list of positions.

    Positions count the tokens that the model reads, without the BOS, as in features.

    Raises:
        FeatureRangeError: There is no such position.
        SettingsError: It is none of these.
    """
    if isinstance(given, str):
        if given == "all":
            return Positions(f"every token{' after the BOS' if layout.bos else ''}", None, layout.bos)
        if given == "last":
            whose = "the template" if layout.suffix else "the prompt"
            return Positions(f"the last token of {whose}", (layout.total - 1,))
        if given != ex.BOS:
            raise SettingsError(
                f'positions is {quoted(given)}; it is "all", "last", "bos", a position, a slice or a list of positions.'
            )
    if isinstance(given, slice):
        if any(x is not None and (isinstance(x, bool) or not isinstance(x, (int, np.integer))) for x in
               (given.start, given.stop, given.step)) or given.step == 0:  # fmt: skip
            raise SettingsError(f"positions is {quoted(given)}; a slice has whole numbers.")
        chosen = [i + layout.bos for i in range(layout.positions)[given]]
        if not chosen:
            raise FeatureRangeError(
                f"positions={given} is empty; there are positions 0 to {layout.positions - 1} after the BOS."
            )
    else:
        several = list(given) if isinstance(given, (list, tuple, range, np.ndarray)) else [given]
        chosen = [_place(each, layout) for each in several]
        if not chosen:
            raise SettingsError('positions is empty; name at least one position, or "all".')
    chosen = sorted(set(chosen))
    shown = ["the BOS" if layout.bos and i == 0 else str(i - layout.bos) for i in chosen]
    return Positions(f"position{'s' * (len(chosen) > 1)} {', '.join(shown)}", tuple(chosen))


def _place(given: Any, layout: RowLayout) -> int:
    if given != ex.BOS and (isinstance(given, bool) or not isinstance(given, (int, np.integer))):
        raise SettingsError(f"positions has {quoted(given)}; a position is a whole number, and -1 is the last token.")
    element = given if given == ex.BOS else int(given)
    place, count = place_of(element, layout), layout.positions
    is_there = bool(layout.bos) if element == ex.BOS else -count <= element < count
    if place is None or not is_there:
        raise FeatureRangeError(
            f"positions: there is no position {given}; the {count} tokens that the model reads have positions 0 to "
            f"{count - 1}, or -1 to {-count} from the end."
        )
    return place


class Intervention(Protocol):
    """Change of activations in the rows of a batch that it is given."""

    @property
    def hooks(self) -> tuple[str, ...]:
        """Hook points that the intervention reads or changes."""
        ...

    def edit(self, name: str, x: Float[Tensor, "rows ..."]) -> Tensor | None:
        """Return the changed activation of some rows at a hook point, or None to leave it."""
        ...


@dataclass
class Shift:
    """Addition of a vector, times an amount for each position.

    Attributes:
        vector: Vector of a feature, whose coordinate the amount may depend on.
        amount: Function of the coordinate `[rows, pos]` that returns how often the vector is added.
        positions: Positions at which it is added.
        reads: Whether the amount depends on the coordinate.
        rows: Vectors to add in place of the feature's, for a placebo; None are the feature's own.
    """

    vector: FeatureVector
    amount: Callable[[Tensor], Tensor]
    positions: Positions
    reads: bool = True
    rows: tuple[Tensor, ...] | None = None
    _coordinate: Tensor | None = field(default=None, repr=False)

    @property
    def hooks(self) -> tuple[str, ...]:
        """Hook points that the intervention reads or changes."""
        own = () if not self.reads or self.vector.reads in self.vector.writes else (self.vector.reads,)
        return (*own, *self.vector.writes)

    def edit(self, name: str, x: Float[Tensor, "rows ..."]) -> Tensor | None:
        """Return the changed activation of some rows at a hook point, or None to leave it."""
        vector = self.vector
        if self.reads and name == vector.reads:
            self._coordinate = vector.coordinate(x).float()
        if name not in vector.writes:
            return None
        if not self.reads:
            here = x if name != vector.reads else positions_first(x, vector.axes)
            return self.moved(name, x, self.amount(torch.zeros(here.shape[:2], device=x.device)))
        return self.moved(name, x, None if self._coordinate is None else self.amount(self._coordinate.to(x.device)))

    def moved(self, name: str, x: Float[Tensor, "rows ..."], amount: Float[Tensor, "rows pos"] | None) -> Tensor:
        """Return an activation plus the vector times an amount, at the positions that are changed.

        Args:
            name: Hook point of the activation, one of `vector.writes`.
            x: Activation.
            amount: Factor of the vector at each position; None if the coordinate is not known yet.

        Raises:
            FeatureError: The amount is not known.
        """
        vector = self.vector
        if amount is None:
            raise FeatureError(f"{vector.reads} is computed after {name}, so the latent is not known there.")
        new = x.float().clone()
        view = positions_first(new, vector.axes) if name == vector.reads else new
        row = (vector.rows if self.rows is None else self.rows)[vector.writes.index(name)]
        row = (vector.sign * row).to(x.device).reshape([1, 1, *view.shape[2:]])
        amount = amount.to(x.device) * self.positions.mask(view.shape[1], x.device)
        view += amount.reshape([*amount.shape, *[1] * (view.ndim - 2)]) * row
        return new


@dataclass
class Replacement:
    """Replacement of a component's output, or of one head's part of it.

    Attributes:
        hook: Hook point of the output.
        axes: Axes of the activation there.
        head: Index on the axis of heads; None replaces all.
        value: Activation to use, `[...]` for every position or `[pos, ...]`; None is zero.
        positions: Positions at which it is replaced.
    """

    hook: str
    axes: Axes
    head: int | None
    value: Tensor | None
    positions: Positions

    @property
    def hooks(self) -> tuple[str, ...]:
        """Hook point that the intervention changes."""
        return (self.hook,)

    def edit(self, name: str, x: Float[Tensor, "rows ..."]) -> Tensor | None:
        """Return the changed activation of some rows."""
        new = x.clone()
        view = positions_first(new, self.axes)
        part = view if self.head is None else view[:, :, self.head]
        mask = self.positions.mask(part.shape[1], x.device)
        if self.value is None:
            part[:, mask] = 0
            return new
        value = self.value.to(x)
        if value.ndim == part.ndim - 1:  # positions first
            value = value[: part.shape[1]][mask]
        part[:, mask] = value.expand_as(part[:, mask])
        return new


Row = tuple[Intervention, ...]
"""Interventions in one row; none is the untouched model."""


def run_rows(
    model: HookedModel,
    ids: Int[Tensor, "rows pos"],
    interventions: Sequence[Row],
    capture: Sequence[str] = (),
    logits: bool = True,
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Run one pass in which every row has its own interventions.

    Args:
        model: Model to run.
        ids: Rows of token ids.
        interventions: Interventions of each row.
        capture: Hook points to read, after the changes.
        logits: True to compute the model's output; otherwise the pass ends at the last hook point of `capture`.

    Returns:
        Activations by hook point and the logits, or None.
    """
    grouped: dict[int, tuple[Intervention, list[int]]] = {}
    for i, row in enumerate(interventions):
        for each in row:
            grouped.setdefault(id(each), (each, []))[1].append(i)
    groups = list(grouped.values())

    def editor(name: str, some: list[tuple[Intervention, list[int]]]) -> Callable[[Tensor], Tensor | None]:
        def edit(x: Tensor) -> Tensor | None:
            out = None
            if len(x) != len(ids):  # what is equal for all rows, such as embeddings of positions
                x = x.expand(len(ids), *x.shape[1:])
            for each, rows in some:
                new = each.edit(name, (x if out is None else out)[rows])
                if new is not None:
                    out = x.clone() if out is None else out
                    out[rows] = new.to(x.dtype)
            return out

        return edit

    names = dict.fromkeys(name for each, _ in groups for name in each.hooks)
    edits = [(name, editor(name, [group for group in groups if name in group[0].hooks])) for name in names]
    with torch.no_grad():
        if not edits:
            return model.run(ids, capture, logits=logits)
        return model.run_edited(ids, edits, capture, logits=logits)


@dataclass(frozen=True)
class Measurement:
    """What passes gave, row by row.

    Attributes:
        values: Value of each feature, float64 `[rows, features]`.
        logits: Logits at the last position, float64 `[rows, d_vocab]`, -inf for rows without a token; or None.
        captured: Activations at the hook points that were asked for, on the CPU.
    """

    values: Float[np.ndarray, "rows features"]
    logits: Float[np.ndarray, "rows d_vocab"] | None
    captured: dict[str, Tensor]


def measure(
    model: HookedModel,
    rows: Int[np.ndarray, "rows pos"],
    layout: RowLayout,
    interventions: Sequence[Row],
    features: Sequence[BoundFeature],
    capture: Sequence[str] = (),
    logits: bool = True,
) -> Measurement:
    """Run rows with their interventions, in batches, and read features and the next-token logits.

    Args:
        model: Model to run.
        rows: Whole rows of token ids, all of one layout.
        layout: Layout of the rows.
        interventions: Interventions of each row.
        features: Features to read, bound to the model alone.
        capture: More hook points to read.
        logits: Whether the next-token logits are wanted.
    """
    hooks = list(dict.fromkeys([*capture, *(name for f in features for name in f.hooks[model])]))
    needs = logits or any(model in f.logits for f in features)
    step = max(1, AT_ONCE // (rows.shape[1] * max(model.vocabulary.size, 4 * model.d_model)))
    values, last, captured = [], [], {name: [] for name in capture}
    known = model.vocabulary.known
    with model.lock:
        for i in range(0, len(rows), step):
            ids = torch.as_tensor(rows[i : i + step], device=model.device)
            activations, output = run_rows(model, ids, interventions[i : i + step], hooks, needs)
            source = {model: ForwardPass(activations, output, ids, layout)}
            read = [to_host(f(source))[0].astype(np.float64) for f in features]
            values.append(np.stack(read, 1) if read else np.zeros((len(ids), 0)))
            if logits and output is not None:
                (numbers,) = to_host(output[:, -1, : len(known)].float())
                last.append(np.where(known[: numbers.shape[1]], numbers.astype(np.float64), -np.inf))
            for name in capture:
                captured[name].append(activations[name].detach().float().cpu())
    joined = {name: torch.cat(parts) for name, parts in captured.items()}
    return Measurement(np.concatenate(values), np.concatenate(last) if last else None, joined)


def log_softmax(logits: Float[np.ndarray, "*row d_vocab"]) -> Float[np.ndarray, "*row d_vocab"]:
    """Return log-probabilities; -inf where a logit is -inf."""
    top = logits.max(-1, keepdims=True)
    return logits - (top + np.log(np.exp(logits - top).sum(-1, keepdims=True)))


def kl_divergence(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return the KL divergence, in nats, of log-probabilities `after` from `before`: sum of p (log p - log q)."""
    real = np.isfinite(before)
    p = np.where(real, np.exp(before), 0.0)
    difference = np.where(real, before - np.where(np.isfinite(after), after, -745.0), 0.0)
    return np.maximum((p * difference).sum(-1), 0.0)


def several(given: Any) -> list[Any]:
    """Return a list of what a user gives as one or as a list: features, tokens, components."""
    return list(given) if isinstance(given, (list, tuple)) else [given]


def bound_alone(feature: Any, model: HookedModel, prepend_bos: bool, what: str) -> BoundFeature:
    """Bind a feature that is read in an intervened pass.

    Raises:
        FeatureError: The feature reads more than one pass of one model.
    """
    expression = feature if isinstance(feature, ex.Feature) else parse(feature)
    bound = bind(expression, model, prepend_bos=prepend_bos)
    check_alone(bound, model, what)
    return bound


def check_alone(bound: BoundFeature, model: HookedModel, what: str) -> None:
    """Raise FeatureError if a feature reads more than one pass of one model."""
    if bound.models != (model,) or model.tail:
        raise FeatureError(
            f"{bound.feature.label} reads more than one pass of one model (another model, or a text of several tokens "
            f"after the prompt), and {what} changes one pass. Give a feature of this model alone."
        )


def check_whole(**numbers: tuple[Any, int]) -> None:
    """Raise SettingsError unless each number, given with its least value, is a whole number of at least that."""
    for name, (value, least) in numbers.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise SettingsError(f"{name} is {quoted(value)}; it is a whole number of at least {least}.")


def token_changes(vocabulary: Any, before: np.ndarray, after: np.ndarray, top: int) -> tuple[TokenChange, ...]:
    """Return the tokens whose probability rises most, the largest first, and then those whose falls most.

    Args:
        vocabulary: Vocabulary of the model.
        before: Log-probabilities of the untouched model `[d_vocab]`.
        after: Log-probabilities after the intervention `[d_vocab]`.
        top: Number of tokens in each direction.
    """
    difference = np.exp(after) - np.exp(before)
    order = np.argsort(-difference, kind="stable")
    up = [int(i) for i in order[:top] if difference[i] > 0]
    down = [int(i) for i in order[::-1][:top] if difference[i] < 0]
    return tuple(
        TokenChange(
            i, vocabulary.piece(i), float(np.exp(before[i])), float(np.exp(after[i])), float(after[i] - before[i])
        )
        for i in (*up, *down)
    )
