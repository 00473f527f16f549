"""Steering: what a model predicts and writes with a feature added, set or clamped at strengths, beside placebos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dreamy_lens.analysis.ablation_parts import editable_vector
from dreamy_lens.analysis.feature_vectors import FeatureVector, placebo_rows
from dreamy_lens.analysis.interventions import (
    Measurement,
    Positions,
    Row,
    Shift,
    bound_alone,
    check_alone,
    check_whole,
    kl_divergence,
    log_softmax,
    measure,
    positions_of,
    run_rows,
    several,
    token_changes,
)
from dreamy_lens.analysis.reference_prompts import COUNT, reference_activations, reference_prompts
from dreamy_lens.errors import FeatureError, HookNotEditableError, ModelError, PromptError, SettingsError, quoted
from dreamy_lens.models.causality import is_causal
from dreamy_lens.models.hooked_model import HookedModel, locked
from dreamy_lens.models.transfer import to_host
from dreamy_lens.results.effect import Effect
from dreamy_lens.results.steering import MODES, STRENGTHS, UNITS, Steering
from dreamy_lens.scoring.prompts import as_ids
from dreamy_lens.scoring.scorer import Scorer
from dreamy_lens.search.frames import summary_of_contexts

LONGEST = 24
"""Number of tokens of a reference prompt, if the model's context has room."""


def steer_prompt(
    scorer: Scorer,
    prompt: Any,
    *,
    strengths: Any = STRENGTHS,
    mode: str = "add",
    units: str = "sd",
    positions: Any = "all",
    tokens: Any = (),
    features: Any = (),
    n_tokens: int = 20,
    reference: Any = None,
    placebos: int = 4,
    top: int = 5,
    seed: int = 0,
) -> Steering:
    """Change a feature on one prompt at several strengths; see :func:`dreamy_lens.steer`.

    Args:
        scorer: Scorer of the feature; of several contexts, the first is used.
        prompt: One text, ids `[n]`, or a Prompt.
        strengths: One strength or several.
        mode: "add", "set" or "clamp".
        units: "sd" or "raw".
        positions: Positions at which the feature is changed.
        tokens: Tokens whose logits are read.
        features: Other features to read in the same passes.
        n_tokens: Number of tokens of the continuations; 0 writes none.
        reference: Texts or a corpus for the unit; None takes texts that the model writes.
        placebos: Number of placebos beside each strength.
        top: Number of changed tokens to list in each direction.
        seed: Seed of the placebos and of the reference prompts.
    """
    numbers = _checked(strengths, mode, units)
    check_whole(n_tokens=(n_tokens, 0), placebos=(placebos, 0), top=(top, 0), seed=(seed, 0))
    model, bos, vocabulary = scorer.model, scorer.prepend_bos, scorer.vocabulary
    check_alone(scorer.bound, model, "steering")
    found = as_ids(prompt, vocabulary, scorer.frame.bos)
    if len(found) != 1:
        raise PromptError(f"One prompt is steered at a time; got {len(found)}. Call it once for each prompt.")
    ids = found[0]
    layout = scorer.check_length(len(ids))
    where = positions_of(positions, layout)
    chosen = [vocabulary.token_id(token) for token in several(tokens)]
    feature = scorer.bound.feature
    vector = editable_vector(feature, model, bos, "steered")
    if vector.scaled and mode != "add":
        raise FeatureError(
            f"{feature.label} divides by a length that depends on the activation, so there is no amount that sets it. "
            'Use mode="add", or the plain direction: hook[...] @ v.'
        )
    bound = [scorer.bound, *(bound_alone(each, model, bos, "steering") for each in several(features))]
    if n_tokens and not is_causal(model):
        raise ModelError(
            f"{model.name} sees later tokens, so it cannot continue a text. Give n_tokens=0 to steer without one."
        )
    with locked([model]), model.keep_hooks():
        unit = _unit(scorer, vector, mode, units, reference, seed)
        stand_ins = placebo_rows(vector, placebos, np.random.default_rng(seed))
        rows: list[Row] = [()]
        for strength in numbers:
            amount = unit.amount(strength)
            rows += [(Shift(vector, amount, where, mode != "add", own),) for own in (None, *stand_ins)]
        row = scorer.frame.rows(ids[None], model)
        measured = measure(model, np.tile(row, (len(rows), 1)), layout, rows, bound, _watched(vector))
        _check_reached(model, vector, measured, rows, where, 1 + len(stand_ins))
        written = _continuations(model, row[0], rows, int(n_tokens)) if n_tokens else [[] for _ in rows]
        losses = _cross_entropies(model, row[0], written)
    coordinates = vector.coordinate(measured.captured[vector.reads])[:, _last_place(where, layout.total)].tolist()
    assert measured.logits is not None
    log_probs = log_softmax(measured.logits)
    kl = kl_divergence(log_probs[:1], log_probs)

    def effect(i: int, strength: float | None) -> Effect:
        after = [*row[0].tolist(), *written[i]]
        before_text, whole = vocabulary.text(row[0].tolist()), vocabulary.text(after)
        text = whole[len(before_text) :] if whole.startswith(before_text) else vocabulary.text(written[i])
        return Effect(
            strength=strength,
            coordinate=float(coordinates[i]),
            kl=float(kl[i]),
            values=tuple(measured.values[i].tolist()),
            logits=tuple(measured.logits[i, chosen].tolist()) if measured.logits is not None else (),
            log_probs=tuple(log_probs[i, chosen].tolist()),
            changes=token_changes(vocabulary, log_probs[0], log_probs[i], int(top)) if i else (),
            continuation=text if written[i] else "",
            continuation_ids=tuple(written[i]),
            cross_entropy=losses[i],
        )

    step = 1 + len(stand_ins)
    notes = list(unit.notes)
    contexts = summary_of_contexts(scorer.origin)
    if contexts:
        notes.append(f"The feature is scored {contexts}; the steering is in the first context.")
    kinds = {"unit": "other units there", "direction": "random directions of the same length"}
    kind = kinds.get(vector.kind, "random directions of the length of the decoder's row")
    full = row[0].tolist()
    return Steering(
        feature=str(feature),
        model=model.name,
        prompt=vocabulary.text(ids.tolist()),
        ids=row[0],
        tokens=tuple(vocabulary.tokens(full)),
        start=layout.before,
        length=len(ids),
        mode=mode,
        units=units,
        unit=unit.words,
        mean=unit.mean,
        deviation=unit.deviation,
        reference=unit.reference,
        positions=where.words,
        placebo_kind=f"{kind}, which are moved as far",
        seed=int(seed),
        targets=tuple(vocabulary.piece(i) for i in chosen),
        features=tuple(str(each.feature) for each in bound),
        untouched=effect(0, None),
        effects=tuple(effect(1 + k * step, s) for k, s in enumerate(numbers)),
        placebos=tuple(
            tuple(effect(2 + k * step + j, s) for j in range(len(stand_ins))) for k, s in enumerate(numbers)
        ),
        notes=tuple(notes),
    )


def _checked(strengths: Any, mode: Any, units: Any) -> list[float]:
    """Return the strengths as numbers, after checking the settings."""
    if mode not in MODES:
        raise SettingsError(f"mode is {quoted(mode)}; it is one of {', '.join(map(quoted, MODES))}.")
    if units not in UNITS:
        raise SettingsError(
            f'units is {quoted(units)}; it is "sd" (standard deviations of the feature on reference prompts) or "raw".'
        )
    given = [strengths] if isinstance(strengths, (int, float, np.number)) else strengths
    try:
        numbers = [float(x) for x in given if not isinstance(x, (bool, str))]
    except (TypeError, ValueError):
        numbers = []
    if not numbers or len(numbers) != len(list(given)) or not np.isfinite(numbers).all():
        raise SettingsError(f"strengths is {quoted(strengths)}; it is a finite number, or a list of them.")
    return numbers


class _Unit(NamedTuple):
    """Unit of a strength.

    Attributes:
        amount: Function of a strength that returns the function of the coordinate for :class:`Shift`.
        words: What a strength of 1 is.
        mean: Mean of the coordinate on reference prompts; None in raw units.
        deviation: Standard deviation of the coordinate; None in raw units.
        reference: Description of the reference prompts.
        notes: Sentences for the result.
    """

    amount: Callable[[float], Callable[[Tensor], Tensor]]
    words: str
    mean: float | None
    deviation: float | None
    reference: str
    notes: tuple[str, ...]


def _unit(scorer: Scorer, vector: FeatureVector, mode: str, units: str, reference: Any, seed: int) -> _Unit:
    """Measure the unit of a strength."""
    gain, mean, deviation, source = vector.gain, None, None, ""
    if units == "sd":
        room = (scorer.model.n_ctx or LONGEST + 8) - scorer.layout(0).total
        length = max(2, min(LONGEST, room))
        drawn, source = reference_prompts(scorer, reference, COUNT, length, seed)
        source = f"{len(drawn)} {source}"
        seen = reference_activations(scorer, drawn, [vector.reads])[vector.reads]
        numbers = vector.coordinate(seen)[:, scorer.layout(0).bos :].double()
        mean, deviation = float(numbers.mean()), float(numbers.std(correction=0))
        if not deviation > 0:
            raise FeatureError(
                f"{scorer.bound.feature.label} is {mean:.4g} at every token of the reference prompts ({source}), so "
                'there is no standard deviation to measure strengths in. Give strengths in its own units: units="raw"; '
                "or reference prompts on which it varies: reference=[text, ...]."
            )
    words = _words(vector, mode, mean, deviation, source)

    def amount(strength: float) -> Callable[[Tensor], Tensor]:
        if mode == "add":
            # Raw units are multiples of the vector itself, as steering vectors are used.
            times = strength if deviation is None else strength * deviation / gain
            return lambda coordinate: torch.full_like(coordinate, times)
        target = strength if deviation is None or mean is None else mean + strength * deviation

        def towards(coordinate: Tensor) -> Tensor:
            missing = (target - coordinate) / gain
            if mode == "set":
                return missing
            return missing.clamp(min=0) if strength >= 0 else missing.clamp(max=0)

        return towards

    notes = []
    if vector.kind == "latent" and vector.reads not in vector.writes:
        notes.append(
            f"The latent is read at {vector.reads} and written at {vector.writes[0]}: its own value is computed before "
            "the change."
        )
    elif vector.kind == "latent":
        notes.append(
            "The latent's row of the decoder is added; the encoder may read another value there than the one that was "
            "written."
        )
    return _Unit(amount, words, mean, deviation, source, tuple(notes))


def _words(vector: FeatureVector, mode: str, mean: float | None, deviation: float | None, source: str) -> str:
    """Return the sentence that says what a strength of 1 is."""
    names = {"unit": "the activation", "direction": "the projection on the direction", "latent": "the latent"}
    what = names[vector.kind] if vector.sign > 0 else f"minus {names[vector.kind]}"
    if deviation is None:
        if mode != "add":
            return f"The strength is the value of {what}."
        vectors = {"unit": "1 of the activation", "direction": "the direction itself", "latent": "the decoder's row"}
        return f"A strength of 1 {'adds' if vector.sign > 0 else 'subtracts'} {vectors[vector.kind]}."
    spread = f"{deviation:.3g}, the standard deviation of {what} over {source}"
    if mode == "add":
        return f"A strength of 1 adds {spread}."
    return f"The strength counts standard deviations from the mean: {what} of {mean:.3g} plus {spread}, for each."


def _watched(vector: FeatureVector) -> list[str]:
    return [vector.reads]


def _last_place(where: Positions, total: int) -> int:
    return total - 1 if where.places is None else where.places[-1]


def _check_reached(
    model: HookedModel, vector: FeatureVector, measured: Measurement, rows: Sequence[Row], where: Positions, step: int
) -> None:
    """Raise HookNotEditableError unless the activation that was read again has the coordinate that was asked for."""
    if vector.kind == "latent":
        return
    activation = measured.captured[vector.reads]
    seen = vector.coordinate(activation).double()
    mask = where.mask(seen.shape[1])
    before = seen[:1].float()
    size = float(activation.abs().max()) * float(vector.rows[0].norm())
    for i in range(1, len(rows), step):
        (shift,) = rows[i]
        assert isinstance(shift, Shift)
        expected = before + shift.amount(before) * mask * vector.gain
        allowed = (1e-3 if model.dtype in (torch.float32, torch.float64) else 0.05) * max(
            size, float(expected.abs().max())
        )
        if not bool((seen[i] - expected[0]).abs().max() <= allowed):
            raise HookNotEditableError(
                f"{vector.reads} of {model.name} holds {float(seen[i][mask][-1]):.4g} after the change where "
                f"{float(expected[0][mask][-1]):.4g} was put. A hook of yours, or the model, changes it afterwards."
            )


def _continuations(model: HookedModel, row: np.ndarray, rows: Sequence[Row], n_tokens: int) -> list[list[int]]:
    """Return what the model writes in every row, the most probable token at each step, by passes over whole rows."""
    written: list[list[int]] = [[] for _ in rows]
    known = torch.from_numpy(model.vocabulary.known)
    active, ends = list(range(len(rows))), model.end_tokens
    step = max(1, (1 << 26) // ((len(row) + n_tokens) * max(len(known), 4 * model.d_model)))
    for _ in range(n_tokens):
        if not active or (model.n_ctx is not None and len(row) + len(written[active[0]]) >= model.n_ctx):
            break
        left = []
        for at in range(0, len(active), step):
            some = active[at : at + step]
            ids = torch.tensor([[*row.tolist(), *written[i]] for i in some], device=model.device)
            _, logits = run_rows(model, ids, [rows[i] for i in some])
            assert logits is not None
            last = logits[:, -1, : len(known)].float()
            last = last.masked_fill(~known[: last.shape[1]].to(last.device), -torch.inf)
            for i, token in zip(some, to_host(last.argmax(-1))[0].tolist(), strict=True):
                if token not in ends:
                    written[i].append(int(token))
                    left.append(i)
        active = left
    return written


def _cross_entropies(model: HookedModel, row: np.ndarray, written: Sequence[Sequence[int]]) -> list[float | None]:
    """Return the mean cross-entropy of each continuation under the untouched model, in nats per token."""
    found: list[float | None] = [None] * len(written)
    for length in sorted({len(some) for some in written if some}):
        places = [i for i, some in enumerate(written) if len(some) == length]
        for i in places:  # one at a time, so that memory does not grow with the number of placebos
            ids = torch.tensor([[*row.tolist(), *written[i]]], device=model.device)
            with torch.no_grad():
                _, logits = model.run(ids)
            assert logits is not None
            scores = logits[0, len(row) - 1 : -1].float().log_softmax(-1)
            targets = torch.tensor(written[i], device=scores.device)
            found[i] = float(-scores.gather(1, targets[:, None]).mean())
    return found
