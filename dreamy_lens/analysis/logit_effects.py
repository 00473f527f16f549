"""The logit effect of a feature: which tokens it promotes and suppresses by the direct path to the logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamy_lens.analysis.direct_path import DirectPath, NoPathError, logits_of, path
from dreamy_lens.errors import SAEError, SettingsError
from dreamy_lens.features import expressions as ex
from dreamy_lens.features.binding import bind
from dreamy_lens.features.parser import parse
from dreamy_lens.features.sae import SAE
from dreamy_lens.features.shapes import ShapeProbe
from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.models.load import as_hooked
from dreamy_lens.results.logit_effect import LogitEffect, TokenEffect


def logit_effect(feature: Any, model: Any = None, count: int = 10, *, prepend_bos: bool | None = None) -> LogitEffect:
    """The tokens that a feature promotes and suppresses most, by the direct path from its place to the logits.

    A neuron stands for its row of the output weights, a direction in the residual stream for itself, the latent of a
    sparse autoencoder for its row of the decoder. That vector goes through the last norm's weights and the unembedding.
    The norm's scale depends on the prompt, so it is taken as 1: numbers compare with each other, and in a prompt all
    are divided by one positive number. They are relative to the mean over all tokens, because a softmax is blind to
    what all logits have in common.

    Args:
        feature: an expression or its text.
        model: a bridge, a Hugging Face id or folder; None is the embedded model.
        count: tokens of either kind.
        prepend_bos: whether prompts follow a BOS; None is the model's convention.

    Returns:
        A LogitEffect; for features that have none, such as attention patterns, one that is false and says why.

    Raises:
        FeatureError: or one of its kinds, if the feature does not fit the model.

    >>> effect = logit_effect("L2.N17", count=3)
    >>> len(effect.promoted), effect.promoted[0].change > 0 > effect.suppressed[0].change
    (3, True)
    >>> print(logit_effect('logit(" the")'))
    The feature is a logit itself: raising it is all that it does to the logits.
    """
    if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < 1:
        raise SettingsError(f"count is {count!r}; it is how many tokens of either kind to show, at least 1.")
    hooked, expression = as_hooked(model), parse(feature)
    bind(expression, hooked, prepend_bos=prepend_bos)  # names, ranges and widths
    label = expression.label
    with hooked.lock:
        try:
            vector, way, words = _placed(expression, hooked, prepend_bos)
            effects = logits_of(hooked, way.follow(vector)).numpy().astype(np.float32)
        except NoPathError as none:
            return LogitEffect(label, (), (), None, str(none))
    values = _centred(effects, hooked)
    if not np.nan_to_num(values).any():
        return LogitEffect(label, (), (), None, f"{label} has no effect: what it writes adds the same to every logit.")
    order = np.argsort(-values, kind="stable")
    order = order[~np.isnan(values[order])]

    def of(ids: np.ndarray) -> tuple[TokenEffect, ...]:
        return tuple(TokenEffect(int(i), hooked.vocabulary.piece(int(i)), float(values[i])) for i in ids)

    promoted, suppressed = of(order[:count]), of(order[::-1][:count])
    return LogitEffect(label, promoted, suppressed, values, _sentence(words, way, values))


def _centred(effects: np.ndarray, model: HookedModel) -> np.ndarray:
    """Relative to the mean over tokens; rows of the unembedding that no token has are NaN."""
    vocabulary = model.vocabulary
    real = np.zeros(len(effects), dtype=bool)
    real[: vocabulary.size] = vocabulary.known[: len(effects)]
    values = np.where(real, effects - effects[real].mean(dtype=np.float64), np.nan).astype(np.float32)
    deviation = float(np.nanstd(values))
    # What is left of a vector that a norm takes off altogether is rounding.
    return values if deviation > 1e-6 * float(np.abs(effects[real]).max(initial=0.0)) else np.where(real, 0.0, np.nan)


def _sentence(words: str, way: DirectPath, values: np.ndarray) -> str:
    later = " What later layers make of it is left out." if way.later else ""
    post = " The norm after that component is taken in the same way." if way.norms else ""
    spread = np.nanstd(values)
    return (
        f"The direct path: {words}, through the last norm's weights and the unembedding.{later} The norm divides by a "
        f"scale that depends on the prompt, which is taken as 1: compare the numbers with each other.{post} They are "
        f"relative to the mean over all tokens, and their standard deviation over all tokens is {spread:.2g}."
    )


def _placed(f: ex.Feature, model: HookedModel, bos: bool | None) -> tuple[Tensor, DirectPath, str]:
    """The vector at a hook point that a feature stands for, the way from there, and both in words."""
    match f:
        case ex.Scaled():
            vector, way, words = _placed(f.of, model, bos)
            return (vector, way, words) if f.factor > 0 else (-vector, way, f"minus {words}")
        case ex.Clipped() | ex.Reduced():
            return _placed(f.of, model, bos)
        case ex.Sum(terms=(term, ex.Constant())):
            return _placed(term, model, bos)
        case ex.Latent():
            return _latent(f, model, bos)
        case ex.Hook():
            return _hook(f, f, None, model, bos)
        case ex.Projected() | ex.Cosine():
            of = f.of.of if isinstance(f.of, ex.Standardised) else f.of
            if isinstance(of, ex.Hook):
                return _hook(f, of, torch.tensor(f.direction.values), model, bos)
        case ex.Logit(kind="logit"):
            raise NoPathError("The feature is a logit itself: raising it is all that it does to the logits.")
        case ex.Logit() | ex.MeanCrossEntropy():
            raise NoPathError("The feature is computed from the logits, so it has no effect on them.")
        case ex.Custom():
            raise NoPathError("The feature is a function of your own, and which vector stands for it is not known.")
        case ex.Norm():
            raise NoPathError("The feature is the length of a vector, whose direction depends on the prompt.")
    if all(isinstance(one, (ex.Logit, ex.Scaled, ex.Constant, ex.Sum, ex.Product)) for one in f.walk()):
        raise NoPathError("The feature is made of logits, so it has no effect on them.")
    raise NoPathError("The feature is made of several, and no one vector stands for it: ask for one at a time.")


def _hook(
    f: ex.Feature, at: ex.Hook, direction: Tensor | None, model: HookedModel, bos: bool | None
) -> tuple[Tensor, DirectPath, str]:
    probe = ShapeProbe(model, at, bos)
    axes = probe.axes[at.name]
    way = path(model, at.name)
    pairs = [(a, e) for a, e in zip(axes, probe.spread(at), strict=True) if a.name != "position"]
    vector = torch.zeros([a.size or 0 for a, _ in pairs])
    place = tuple(e.slice() if isinstance(e, ex.Span) else e for _, e in pairs)
    if direction is None:
        vector[place] = 1.0
    else:
        vector[place] = direction.view(vector[place].shape)
    if direction is not None:
        what = {"stream": "the direction itself", "output": "the direction, as it is added to the residual stream"}
        words = what.get(way.kind, f"the direction, through the output weights {_named(way)}")
    else:
        unit = f"unit {place[-1]} of {at.name}"
        words = f"what {unit} writes, its row of {_named(way)}" if way.kind == "inside" else unit
    return vector, way, words


def _latent(f: ex.Latent, model: HookedModel, bos: bool | None) -> tuple[Tensor, DirectPath, str]:
    probe = ShapeProbe(model, f, bos)
    sae: SAE = probe.sae(f)
    row, name = _decoder_row(sae, f.latent)
    way = path(model, name)
    head = sae.encoder.head if sae.encoder else None
    if head is not None:
        sizes = [a.size or 0 for a in probe.axes[sae.hook_name] if a.name != "position"]
        whole = torch.zeros(sizes)
        whole[head] = row
        row = whole
    words = f"the latent's row of the decoder at {name}"
    return row, way, words if way.kind != "inside" else f"{words}, through {_named(way)}"


def _decoder_row(sae: SAE, latent: int) -> tuple[Tensor, str]:
    """A latent's row of the decoder, `[d_in]`, and the hook point that it stands at."""
    try:
        return sae.decoder_row(latent), sae.output_hook
    except SAEError as error:
        raise NoPathError(str(error)) from error


def _named(way: DirectPath) -> str:
    return way.through[0][0] if way.through else ""
