"""Logit effect of a feature: the tokens that it promotes and suppresses by the direct path to the logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from dreamy_lens.analysis.direct_path import DirectPath, JoinedPaths, NoPathError, find_direct_path, logits_of
from dreamy_lens.analysis.feature_vectors import FeatureVector, locate_vector, placebo_rows
from dreamy_lens.errors import SettingsError, quoted
from dreamy_lens.features.binding import bind
from dreamy_lens.features.parser import parse
from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.results.logit_effect import LogitEffect, TokenEffect


def find_logit_effect(
    feature: Any,
    model: HookedModel,
    count: int = 10,
    placebos: int = 16,
    seed: int = 0,
    prepend_bos: bool | None = None,
) -> LogitEffect:
    """Compute which tokens a feature promotes and suppresses most; see :func:`dreamy_lens.logit_effect`.

    Args:
        feature: Expression or its text.
        model: Model with hook points.
        count: Number of promoted tokens, and of suppressed tokens, to return.
        placebos: Number of placebos; 0 for none.
        seed: Seed of the placebos.
        prepend_bos: Whether a BOS stands before every prompt; None follows the model's convention.

    Raises:
        FeatureError: The feature does not fit the model; the error may be of a subclass.
        SettingsError: `count` is not a whole number, at least 1, or `placebos` or `seed` is none of at least 0.
    """
    if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < 1:
        raise SettingsError(
            f"count is {quoted(count)}; it is the number of tokens to list in each direction, at least 1."
        )
    for name, value in (("placebos", placebos), ("seed", seed)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
            raise SettingsError(f"{name} is {quoted(value)}; it is a whole number of at least 0.")
    expression = parse(feature)
    bind(expression, model, prepend_bos=prepend_bos)  # checks names, ranges and widths
    label = expression.label
    with model.lock:
        try:
            found = locate_vector(expression, model, prepend_bos)
            vector, path, words = _locate(found, model)
            effects = logits_of(model, path.follow(vector)).numpy().astype(np.float32)
            others = placebo_rows(found, int(placebos), np.random.default_rng(seed))
            along = [path.follow(rows[0] if len(rows) == 1 else torch.stack(rows)) for rows in others]
            beside = [_centre(logits_of(model, x).numpy().astype(np.float32), model) for x in along]
        except NoPathError as error:
            return LogitEffect(label, (), (), None, str(error))
    values = _centre(effects, model)
    if not np.nan_to_num(values).any():
        return LogitEffect(label, (), (), None, f"{label} has no effect: it adds the same number to every logit.")
    order = np.argsort(-values, kind="stable")
    order = order[~np.isnan(values[order])]

    def token_effects(ids: np.ndarray) -> tuple[TokenEffect, ...]:
        """Pair tokens with their effects."""
        return tuple(TokenEffect(int(i), model.vocabulary.piece(int(i)), float(values[i])) for i in ids)

    promoted, suppressed = token_effects(order[:count]), token_effects(order[::-1][:count])
    deviations = np.array([float(np.nanstd(each)) for each in beside])
    largest = np.array([float(np.nanmax(np.abs(each))) for each in beside])
    kind = "other units there" if found.kind == "unit" else "random directions of the same length"
    return LogitEffect(label, promoted, suppressed, values, _describe(words, path, values), deviations, largest, kind)


def _centre(effects: Float32[np.ndarray, " d_vocab"], model: HookedModel) -> Float32[np.ndarray, " d_vocab"]:
    """Subtract the mean effect over tokens; rows of the unembedding without a token become NaN."""
    vocabulary = model.vocabulary
    real = np.zeros(len(effects), dtype=bool)
    real[: vocabulary.size] = vocabulary.known[: len(effects)]
    values = np.where(real, effects - effects[real].mean(dtype=np.float64), np.nan).astype(np.float32)
    deviation = float(np.nanstd(values))
    # If a norm removes the whole vector, only rounding is left.
    return values if deviation > 1e-6 * float(np.abs(effects[real]).max(initial=0.0)) else np.where(real, 0.0, np.nan)


def _describe(words: str, path: DirectPath | JoinedPaths, values: np.ndarray) -> str:
    """Describe the direct path and the meaning of the numbers."""
    later = " The effect through later layers is left out." if path.later else ""
    post = " The scale of the norm after that component is taken as 1 too." if path.norms else ""
    spread = np.nanstd(values)
    return (
        f"The direct path: {words}, through the last norm's weights and the unembedding.{later} The norm divides by a "
        f"scale that depends on the prompt and is taken as 1: compare the numbers with each other.{post} They are "
        f"relative to the mean over all tokens, and their standard deviation over all tokens is {spread:.2g}."
    )


Location = tuple[Float[Tensor, "..."], DirectPath | JoinedPaths, str]
"""Vector at a hook point, the direct path from there, and a description of both."""


def _locate(found: FeatureVector, model: HookedModel) -> Location:
    """Return the vector that stands for a feature, with its sign, and the direct path from there."""
    first = found.writes[0]
    if len(found.writes) > 1:
        path = JoinedPaths(tuple(find_direct_path(model, name) for name in found.writes))
        words = f"the latent's rows of the decoders at {first} to {found.writes[-1]}, added up"
        vector = torch.stack(found.rows)
    else:
        path, vector = find_direct_path(model, first), found.rows[0]
        words = _words(found, path)
    return (vector, path, words) if found.sign > 0 else (-vector, path, f"minus {words}")


def _words(found: FeatureVector, path: DirectPath) -> str:
    """Describe a vector and the beginning of its path."""
    inside = path.kind == "inside"
    if found.kind == "latent":
        words = f"the latent's row of the decoder at {found.writes[0]}"
        return f"{words}, through {path.first}" if inside else words
    if found.kind == "unit":
        return f"the output of {found.label}, its row of {path.first}" if inside else found.label
    kinds = {"stream": "the direction itself", "output": "the direction, added to the residual stream"}
    return kinds.get(path.kind, f"the direction, through the output weights {path.first}")
