"""Doctor: step-by-step checks of a model and a feature, whose findings say in words what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dreamy_lens._warnings import ignored_warnings
from dreamy_lens.errors import DreamyLensError
from dreamy_lens.features.expressions import Feature
from dreamy_lens.features.parser import parse
from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.models.load import as_hooked
from dreamy_lens.scoring.gradient_check import (
    CAUSES,
    DIFFERS,
    MISSING,
    GradientCheck,
    check_gradient,
    check_reach,
    choose_prompts,
)
from dreamy_lens.scoring.graphs import PATIENCE
from dreamy_lens.scoring.scorer import Scorer

AGREEMENT = 0.02
"""Largest accepted relative difference between gradient and finite difference; float32 noise is about 0.001."""

STEPS = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3)
"""Steps of the finite differences, as shares of the length of an embedding."""

NOT_DIFFERENTIATED = "a part of the computation is not differentiated"


@dataclass(frozen=True)
class Finding:
    """Result of one check.

    Attributes:
        passed: Whether the check passed; None if it could not be judged.
        check: Name of the check.
        seen: Observation of the check, in words.
    """

    passed: bool | None
    check: str
    seen: str

    def __str__(self) -> str:
        mark = {True: "ok  ", False: "FAIL", None: "note"}[self.passed]
        return f"{mark}  {self.check}: {self.seen}"


def examine(
    feature: Any = None, model: Any = None, *, prepend_bos: bool | None = None, length: int = 12
) -> Iterator[Finding]:
    """Check that a model supports dreams, and that a feature of it is computed and differentiated correctly.

    Args:
        feature: Expression or its text; None checks the model only.
        model: Bridge, Hugging Face id or folder; None is the embedded model.
        prepend_bos: Whether a BOS stands before every prompt; None follows the model's convention.
        length: Number of tokens of the random prompts on which the feature is tried.

    Yields:
        The finding of each check; a failed check on which later checks depend is the last.

    >>> all(finding.passed for finding in examine("L2.N17"))
    True
    """
    failure, hooked = _attempt("the model loads", lambda: as_hooked(model))
    if hooked is None:
        yield failure
        return
    dtype = str(hooked.dtype).removeprefix("torch.")
    yield Finding(
        True,
        "the model loads",
        f"{hooked.name}: {hooked.n_layers} layers, d_model {hooked.d_model}, context {hooked.n_ctx}, {dtype} on "
        f"{hooked.device}",
    )
    yield from _tokenizer(hooked, prepend_bos)
    if feature is None:
        return
    yield from _feature(feature, hooked, prepend_bos, length)


def _tokenizer(hooked: HookedModel, prepend_bos: bool | None) -> Iterator[Finding]:
    """Check the vocabulary, the BOS and the decoding of text."""
    vocabulary = hooked.vocabulary
    count = f"{int(vocabulary.allowed.sum()):,} of {vocabulary.size:,}"
    others = "the others are special, empty or unused"
    yield Finding(True, "the vocabulary", f"{count} tokens can be proposed; {others}")
    failure, bos = _attempt("the BOS", lambda: hooked.bos(prepend_bos))
    if bos is None:
        yield failure
    else:
        piece = repr(hooked.tokenizer.convert_ids_to_tokens(bos[0])) if bos else "none; the first token is not charged"
        yield Finding(True, "the BOS", piece)
    sample = "The value of x, if it is not None; else a copy."
    trips = vocabulary.text(vocabulary.encode(sample)).strip() == sample
    yield Finding(
        trips or None, "text survives the tokenizer", "yes" if trips else "a plain sentence comes back changed"
    )


def _feature(feature: Any, hooked: HookedModel, prepend_bos: bool | None, length: int) -> Iterator[Finding]:
    """Check the feature's text, binding, values, prefix sharing and gradient."""
    failure, expression = _attempt("the feature can be read", lambda: parse(feature))
    if expression is None:
        yield failure
        return
    yield Finding(True, "the feature can be read", expression.long_label)
    failure, scorer = _attempt(
        "the feature fits the model", lambda: _make_scorer(expression, hooked, prepend_bos, length)
    )
    if scorer is None:
        yield failure
        return
    hooks = [name for names in scorer.bound.hooks.values() for name in names]
    outputs = ["the model's output"] if scorer.bound.logits else []
    yield Finding(
        True, "the feature fits the model", f"it reads {', '.join(hooks + outputs)}, and a forward pass gets there"
    )

    rng = np.random.default_rng(0)
    ids = rng.choice(np.flatnonzero(scorer.allowed), size=(16, length))
    with ignored_warnings():  # unshared prefixes are a finding of their own below
        failure, scores = _attempt("the value on random prompts", lambda: scorer.score(ids))
    if scores is None:
        yield failure
        return
    finite = np.isfinite(scores.value) & np.isfinite(scores.cross_entropy)
    if not finite.all():
        coarse = scorer.model.dtype not in (torch.float32, torch.float64)
        advice = "try float32" if coarse else "a search skips such prompts, so check the feature's arithmetic"
        seen = f"NaN or infinite on {int((~finite).sum())} of {len(ids)}; {advice}"
        yield Finding(False, "the value on random prompts", seen)
        return
    low, high = float(scores.value.min()), float(scores.value.max())
    level = f"cross-entropy about {float(np.median(scores.cross_entropy)):.1f}"
    varies = high > low
    seen = f"{low:.4g} to {high:.4g}, {level}" if varies else f"always {low:.4g}, {level}"
    yield Finding(varies or None, "the value on random prompts", seen)

    unshared = scorer.forward.unshared
    why = "; ".join(f"no, on {model.name}: {text}" for model, text in unshared.items())
    yield Finding(None if unshared else True, "prompts share prefixes", why or "yes, with the same numbers as without")

    yield from _gradient(scorer, choose_prompts(ids, scores.value), varies)
    yield from _passes(scorer, length)


def _passes(scorer: Scorer, length: int) -> Iterator[Finding]:
    """Report how passes are run on a CUDA device: eagerly, or as graphs, with the times that were measured."""
    if scorer.model.device.type != "cuda":
        return
    rng = np.random.default_rng(0)
    children = np.repeat(rng.choice(np.flatnonzero(scorer.allowed), size=(8, length)), 32, axis=0)
    for _ in range(PATIENCE + 1):
        changed = rng.integers(0, length, len(children))
        children[np.arange(len(children)), changed] = rng.choice(np.flatnonzero(scorer.allowed), size=len(children))
        scorer.score(children)
        scorer.gradient(children[::32])
    for kind, way in scorer.passes.items():
        yield Finding(True, f"{kind} on {scorer.model.device}", way)
    scorer.release_graphs()


def _gradient(scorer: Scorer, ids: np.ndarray, varies: bool) -> Iterator[Finding]:
    """Check the gradient on some prompts, against finite differences; `varies` says whether the value differs."""
    check = "the value has a gradient"
    failure, found = _attempt(check, lambda: check_gradient(scorer, ids, STEPS))
    if found is None:
        yield failure
        return
    if found.verdict == MISSING:
        yield Finding(
            False,
            check,
            f"exactly zero, but the value moves with the embeddings: by {found.measured:.3g} for a step of an "
            f"embedding's length. Likely causes: {CAUSES}",
        )
        return
    if not found.length:
        reach = check_reach(scorer, ids)
        if reach is not None and reach.verdict == MISSING:
            seen = f"exactly zero, and so is that of everything the feature reads. Likely causes: {CAUSES}"
            yield Finding(False, check, seen)
            return
        # If the value varies, a search works without a gradient too, but slowly.
        yield Finding(
            None if varies else False,
            check,
            f"exactly zero on four random prompts{'' if varies else ', and no prompt is better than another'}: a "
            "latent or neuron that is off, or a clip(). A search starts without guidance; pre_activation=True or "
            "hook_pre would guide it",
        )
        return
    yield Finding(True, check, f"of length {found.length:.3g} at the embeddings")
    yield _difference(scorer, found)


def _difference(scorer: Scorer, found: GradientCheck) -> Finding:
    """Return the finding on how far a gradient is from finite differences."""
    check = "the gradient agrees with a finite difference"
    coarse = scorer.model.dtype not in (torch.float32, torch.float64)
    if found.error > AGREEMENT:
        why = f"in {scorer.model.dtype} this is rounding; check again in float32" if coarse else NOT_DIFFERENTIATED
        wrong = not coarse or found.verdict == DIFFERS
        return Finding(False if wrong else None, check, f"off by {found.error:.1%} at best; {why}")
    if found.verdict == DIFFERS:
        slopes = f"{found.measured:.3g} in a direction in which the gradient says {found.gradient:.3g}"
        return Finding(False, check, f"the value moves by {slopes}; {NOT_DIFFERENTIATED}")
    return Finding(True, check, f"within {found.error:.1e} of it (steps of {found.share:g} of an embedding's length)")


def _make_scorer(expression: Feature, hooked: HookedModel, prepend_bos: bool | None, length: int) -> Scorer:
    """Make the scorer of a feature, and check that it can score prompts of this length."""
    scorer = Scorer(expression, hooked, prepend_bos=prepend_bos)
    scorer.check_length(length)
    return scorer


def _attempt(check: str, function: Callable[[], Any]) -> tuple[Finding, Any]:
    """Call a function, and return a finding with its result, which is None if it raised an error of the package."""
    try:
        return Finding(True, check, ""), function()
    except DreamyLensError as error:
        return Finding(False, check, str(error)), None
