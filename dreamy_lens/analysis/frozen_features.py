"""Features whose norms and choices keep the values that they have on one prompt, so that they are linear."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dreamy_lens.errors import FeatureError
from dreamy_lens.features import expressions as ex
from dreamy_lens.features.binding import BoundFeature, bind
from dreamy_lens.features.directions import Direction


@dataclass(frozen=True)
class HeldFeature:
    """Feature with what was held.

    Attributes:
        bound: Changed feature.
        linear: Whether it is linear in the activations that it reads, once its choices are made.
        quantity: What it is of the feature: "value", "pre" or "unclipped".
        notes: Sentences that say what was held or left out.
    """

    bound: BoundFeature
    linear: bool
    quantity: str
    notes: tuple[str, ...]


_LINEAR = (ex.Hook, ex.Projected, ex.Scaled, ex.Sum, ex.Constant, ex.Reduced)


def linearised(
    bound: BoundFeature, prepend_bos: bool, evaluate: Callable[[BoundFeature], float], quantity: str | None
) -> HeldFeature:
    """Return a feature with its norms held and its limits left out.

    A maximum, and the runner-up among logits, are linear once the position or the token is chosen, as the prompt
    chooses it. A standardisation and a cosine are, once their lengths are held. The activation of a latent is replaced
    by its pre-activation.

    Args:
        bound: Feature to change.
        prepend_bos: Whether a BOS stands before the prompt.
        evaluate: Function that returns the value of a feature on the prompt.
        quantity: Quantity that is asked for; "value" changes nothing.
    """
    feature, model = bound.feature, bound.model
    notes: list[str] = []
    quantities: set[str] = set()
    if quantity == "value":
        return HeldFeature(bound, _is_linear(feature), "value", ())

    def value_of(part: ex.Feature) -> float:
        return evaluate(bind(part, model, prepend_bos=prepend_bos))

    def note(text: str) -> None:
        if text not in notes:
            notes.append(text)

    def change(node: ex.Feature) -> ex.Feature | None:
        if isinstance(node, ex.Clipped):
            note("The limits of clip() are left out.")
            quantities.add("unclipped")
            return node.of.transform(change)
        if isinstance(node, ex.Latent) and not node.pre_activation:
            note("The latent's pre-activation is decomposed, before its activation function.")
            quantities.add("pre")
            return ex.Latent(node.sae, node.latent, node.position, True, node.hook, node.ignore)
        if isinstance(node, ex.Projected) and isinstance(node.of, ex.Standardised):
            vector = np.asarray(node.direction.values, dtype=np.float64)
            length, mean = _moments(node.of.of, len(vector), value_of)
            deviation = np.sqrt(max(length**2 / len(vector) - mean**2, 0.0))
            centred = vector - vector.mean()
            if deviation > 0 and centred.any():
                note("The standard deviation of the units is held at its value on the prompt.")
                return ex.scaled(1.0 / deviation, ex.Projected(node.of.of, Direction(centred.astype(np.float32))))
        if isinstance(node, ex.Cosine):
            length = value_of(ex.Norm(node.of)) * float(np.linalg.norm(np.asarray(node.direction.values, dtype=float)))
            if length > 0:
                note("The length of the vector is held at its value on the prompt.")
                return ex.scaled(1.0 / length, ex.Projected(node.of, node.direction))
        return None

    def attempt(node: ex.Feature) -> ex.Feature | None:
        try:
            return change(node)
        except FeatureError:  # a vector at several positions has several lengths
            if isinstance(node, ex.Latent):
                raise
            return None

    changed = feature.transform(attempt)
    if changed != feature:
        bound = bind(changed, model, prepend_bos=prepend_bos)
    of = next((each for each in ("pre", "unclipped") if each in quantities), "value")
    return HeldFeature(bound, _is_linear(changed), of, tuple(notes))


def _moments(vector: ex.Feature, width: int, value_of: Callable[[ex.Feature], float]) -> tuple[float, float]:
    """Return the length and the mean of a vector of units."""
    ones = Direction(np.full(width, 1.0 / width, dtype=np.float32))
    return value_of(ex.Norm(vector)), value_of(ex.Projected(vector, ones))


def _is_linear(feature: ex.Feature) -> bool:
    """Return whether a feature is linear in the activations that it reads, once its choices are made."""
    return all(
        isinstance(node, _LINEAR)
        or (isinstance(node, ex.Logit) and node.kind in ("logit", "runner_up", "logit_difference"))
        or (isinstance(node, ex.Latent) and node.pre_activation)
        for node in feature.walk()
    )
