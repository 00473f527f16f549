"""Ablation: what a model does, and what features become, without a component or without another feature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64
from torch import Tensor

from dreamy_lens.analysis.ablation_parts import Part, find_part
from dreamy_lens.analysis.ablation_placebos import placebo_sets, placebos_of
from dreamy_lens.analysis.interventions import (
    Intervention,
    Measurement,
    Positions,
    Row,
    bound_alone,
    check_whole,
    kl_divergence,
    log_softmax,
    measure,
    positions_of,
    several,
    token_changes,
)
from dreamy_lens.analysis.joint_shift import joined
from dreamy_lens.analysis.reference_prompts import COUNT, reference_activations, reference_prompts
from dreamy_lens.errors import SettingsError, quoted
from dreamy_lens.features.binding import BoundFeature
from dreamy_lens.features.forward_pass import RowLayout
from dreamy_lens.models.hooked_model import locked
from dreamy_lens.models.load import as_hooked
from dreamy_lens.results.ablation import KINDS, Ablation
from dreamy_lens.scoring.prompts import as_ids
from dreamy_lens.scoring.scorer import Scorer
from dreamy_lens.search.frames import summary_of_contexts

AT_ONCE = 1 << 24
"""Most probabilities in memory at once."""

DRAWS = 4
"""Number of reference prompts from which a resample ablation takes activations."""


def check_kind(kind: Any) -> None:
    """Raise SettingsError unless `kind` is a kind of ablation."""
    if kind not in KINDS:
        raise SettingsError(f"kind is {quoted(kind)}; it is one of {', '.join(map(quoted, KINDS))}.")


def ablated_values(
    model: Any,
    feature: Any,
    prompts: Any,
    component: Any,
    kind: str = "mean",
    *,
    reference: Any = None,
    positions: Any = "all",
    draws: int = DRAWS,
    seed: int = 0,
    prepend_bos: bool | None = None,
) -> Float32[np.ndarray, " P"]:
    """Return a feature's value on each prompt without a component: without placebos, and without the logits.

    Args:
        model: Scorer of the feature, whose BOS and template are used; or a model, in any form that users give it.
        feature: Feature to read; it is not used if `model` is a scorer.
        prompts: Prompts of any lengths: texts, ids, or Prompts.
        component: Component such as "L2.H3" or "L1.MLP", a component of an upstream result, or a feature; or a list of
            them, which are ablated together.
        kind: "zero", "mean" (over the tokens of reference prompts) or "resample" (activations of reference prompts).
        reference: Texts or a corpus; None takes texts that the model writes.
        positions: Positions at which it is ablated: "all", "last", or positions as in features.
        draws: Number of reference prompts of a resample ablation, over which the values are averaged.
        seed: Seed of the reference prompts.
        prepend_bos: Whether a BOS stands before every prompt, if `model` is no scorer.

    Returns:
        Values, float32 `[P]`.

    >>> from dreamy_lens.analysis import ablated_values
    >>> values = ablated_values(None, "L2.N812", ["if given, applied only", "the list of"], "L1.MLP")
    >>> values.shape
    (2,)
    """
    check_kind(kind)
    check_whole(draws=(draws, 1), seed=(seed, 0))
    scorer = model if isinstance(model, Scorer) else _scorer(model, feature, prepend_bos)
    parts = [find_part(each, scorer.model, scorer.prepend_bos) for each in several(component)]
    ids = as_ids(prompts, scorer.vocabulary, scorer.frame.bos)
    values = np.zeros(len(ids), dtype=np.float32)
    with locked([scorer.model]), scorer.model.keep_hooks():
        for n in sorted({len(row) for row in ids}):
            places = [i for i, row in enumerate(ids) if len(row) == n]
            rows = np.stack([ids[i] for i in places])
            work = _Work(scorer, rows, kind, reference, positions, draws, seed, [scorer.bound])
            measured = work.measured([work.interventions(parts)], logits=False)
            values[places] = measured.values.reshape(work.per_prompt, len(places)).mean(0)
    return values


def _scorer(model: Any, feature: Any, prepend_bos: bool | None) -> Scorer:
    hooked = as_hooked(model)
    bound = bound_alone(feature, hooked, bool(hooked.bos(prepend_bos)), "an ablation")
    return Scorer(bound, hooked, prepend_bos=prepend_bos)


@dataclass(frozen=True)
class _Values:
    """Values that replace a part: one for every position, or one for each draw and position."""

    value: Tensor | None
    by_draw: bool


class _Work:
    """Ablations of prompts of one length."""

    def __init__(
        self,
        scorer: Scorer,
        prompts: Int64[np.ndarray, "P n"],
        kind: str,
        reference: Any,
        positions: Any,
        draws: int,
        seed: int,
        features: Sequence[BoundFeature],
    ) -> None:
        self.scorer, self.model, self.kind, self.features = scorer, scorer.model, kind, features
        self.prompts = prompts
        self.layout: RowLayout = scorer.check_length(prompts.shape[1])
        for bound in features:
            bound.check_layout(self.layout)
        self.positions: Positions = positions_of(positions, self.layout)
        self.rows = scorer.frame.rows(prompts, self.model)
        self.reference, self.source, self.seed = "", reference, seed
        self.drawn: Int64[np.ndarray, "count n"] | None = None
        if kind != "zero":
            count = draws if kind == "resample" else COUNT
            self.drawn, words = reference_prompts(scorer, reference, count, prompts.shape[1], seed)
            self.reference = f"{len(self.drawn)} {words}"
        self.per_prompt = len(self.drawn) if kind == "resample" and self.drawn is not None else 1
        self._activations: dict[str, Tensor] = {}

    def values(self, part: Part) -> _Values:
        """Return the values that replace a part."""
        if self.drawn is None:
            return _Values(None, False)
        if part.hook not in self._activations:
            self._activations |= reference_activations(self.scorer, self.drawn, [part.hook])
        x = part.read(self._activations[part.hook])  # [prompt, pos, ...]
        if self.kind == "resample":
            return _Values(x, True)
        return _Values(x[:, self.layout.bos :].flatten(0, 1).mean(0), False)

    def interventions(self, parts: Sequence[Part], rows: Sequence[Any] | None = None) -> list[Row]:
        """Return the interventions of each draw that ablate several parts together.

        Args:
            parts: Parts to ablate.
            rows: For each part, the vectors of its placebo, or None for its own.
        """
        found: list[list[Intervention]] = [[] for _ in range(self.per_prompt)]
        for part, row in zip(parts, rows or [None] * len(parts), strict=True):
            values = self.values(part)
            for k, some in enumerate(found):
                value = values.value[k] if values.by_draw and values.value is not None else values.value
                some.append(part.replaced(value, self.positions, row))
        return [joined(some) for some in found]

    def measured(self, ablations: Sequence[Sequence[Row]], logits: bool = True) -> Measurement:
        """Run every prompt with every draw of every ablation: rows by ablation, draw and prompt."""
        flat = [row for draws in ablations for row in draws]
        count = len(self.prompts)
        return measure(
            self.model,
            np.tile(self.rows, (len(flat), 1)),
            self.layout,
            [row for row in flat for _ in range(count)],
            self.features,
            logits=logits,
        )


def ablate_parts(
    scorer: Scorer,
    given: Any,
    prompts: Any,
    *,
    kind: str = "mean",
    of: Any = (),
    tokens: Any = (),
    positions: Any = "all",
    reference: Any = None,
    draws: int = DRAWS,
    placebos: int = 8,
    top: int = 5,
    seed: int = 0,
) -> Ablation:
    """Ablate parts of a model, one by one and together, with placebos; see :func:`dreamy_lens.ablate`.

    Args:
        scorer: Scorer whose model, BOS and template are used; of several contexts, the first is used.
        given: Components and features to ablate.
        prompts: Prompts of one length.
        kind: "zero", "mean" or "resample".
        of: Features that are read in the same passes.
        tokens: Tokens whose logits are read.
        positions: Positions at which parts are ablated.
        reference: Texts or a corpus; None takes texts that the model writes.
        draws: Number of reference prompts of a resample ablation.
        placebos: Number of placebos of each ablation.
        top: Number of changed tokens to list in each direction.
        seed: Seed of the reference prompts and of the placebos.
    """
    check_kind(kind)
    check_whole(draws=(draws, 1), placebos=(placebos, 0), top=(top, 0), seed=(seed, 0))
    model, bos = scorer.model, scorer.prepend_bos
    listed = several(given)
    if not listed:
        raise SettingsError("There is nothing to ablate: name components, such as ['L2.H3', 'L1.MLP'], or features.")
    parts = [find_part(each, model, bos) for each in listed]
    names = [part.name for part in parts]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise SettingsError(f"{twice} is given twice; every part is ablated once.")
    bound = [bound_alone(each, model, bos, "an ablation") for each in several(of)]
    chosen = [model.vocabulary.token_id(token) for token in several(tokens)]
    ids = as_ids(prompts, scorer.vocabulary, scorer.frame.bos)
    lengths = sorted({len(row) for row in ids})
    if len(lengths) > 1:
        raise SettingsError(
            f"The prompts have {', '.join(map(str, lengths))} tokens; the prompts of one ablation have one length. "
            "Call it once for each length."
        )
    with locked([model]), model.keep_hooks():
        work = _Work(scorer, np.stack(ids), kind, reference, positions, draws, seed, bound)
        together = [[i] for i in range(len(parts))] + ([list(range(len(parts)))] if len(parts) > 1 else [])
        generator = np.random.default_rng(seed)
        stand_ins = placebos_of(parts, model, bos, set(names), placebos, generator)
        runs: list[list[Row]] = [[()]]
        plan: list[tuple[int, int]] = []  # number of ablations: own ones and placebos, by entry
        for members in together:
            runs.append(work.interventions([parts[i] for i in members]))
            sets = placebo_sets([stand_ins[i] for i in members], placebos)
            plan.append((len(runs) - 1, len(sets)))
            runs += [work.interventions([part for part, _ in some], [row for _, row in some]) for some in sets]
        base = work.measured(runs[:1])
        after = _Outcomes(work, base, chosen, {at for at, _ in plan})
        size = work.per_prompt * len(ids) * model.vocabulary.size
        for i in range(1, len(runs), step := max(1, AT_ONCE // size)):
            after.add(runs[i : i + step], i)
    return _result(work, parts, together, plan, base, after, of=bound, chosen=chosen, top=top, seed=seed)


class _Outcomes:
    """What ablations gave, reduced to what a result needs, so that few distributions are in memory at once.

    Args:
        work: Ablations.
        base: What the untouched model gave.
        chosen: Ids of the chosen tokens.
        shown: Numbers of the ablations whose changed tokens are listed.

    Attributes:
        before: Log-probabilities of the next token in the untouched model, `[prompt, d_vocab]`.
        probabilities: Log of the mean probabilities over draws `[prompt, d_vocab]`, by number of the ablation.
    """

    def __init__(self, work: _Work, base: Measurement, chosen: Sequence[int], shown: set[int]) -> None:
        assert base.logits is not None
        self.work, self.chosen, self.shown = work, list(chosen), shown
        self.before = log_softmax(base.logits)
        self.probabilities: dict[int, np.ndarray] = {}
        self._kl: list[np.ndarray] = []
        self._values: list[np.ndarray] = []
        self._logits: list[np.ndarray] = []
        self._log_probs: list[np.ndarray] = []

    def add(self, runs: Sequence[Sequence[Row]], first: int) -> None:
        """Run some ablations, of which the first has the number `first`."""
        measured = self.work.measured(runs)
        assert measured.logits is not None
        shape = len(runs), self.work.per_prompt, len(self.before)
        logits = measured.logits.reshape(*shape, -1)
        after = log_softmax(logits)
        self._kl.append(kl_divergence(self.before, after).mean(1))
        self._values.append(measured.values.reshape(*shape, measured.values.shape[1]).mean(1))
        self._logits.append(logits[..., self.chosen].mean(1))
        self._log_probs.append(after[..., self.chosen].mean(1))
        for i in self.shown & set(range(first, first + len(runs))):
            with np.errstate(divide="ignore"):
                self.probabilities[i] = np.log(np.exp(after[i - first]).mean(0))

    def joined(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return KL divergences `[N, P]`, values `[N, P, F]`, logits and log-probabilities `[N, P, T]`."""
        kl, values, logits, log_probs = (
            np.concatenate(each) for each in (self._kl, self._values, self._logits, self._log_probs)
        )
        return kl, values, logits, log_probs


def _result(
    work: _Work,
    parts: Sequence[Part],
    together: Sequence[Sequence[int]],
    plan: Sequence[tuple[int, int]],
    base: Measurement,
    after: _Outcomes,
    *,
    of: Sequence[BoundFeature],
    chosen: Sequence[int],
    top: int,
    seed: int,
) -> Ablation:
    scorer, vocabulary = work.scorer, work.scorer.vocabulary
    assert base.logits is not None
    before, draws = after.before, work.per_prompt
    kl, values, raw, log_probs = after.joined()
    own = [at - 1 for at, _ in plan]
    most = max(count for _, count in plan)
    names = [" + ".join(parts[i].name for i in members) for members in together]

    def placebo(array: np.ndarray) -> np.ndarray:
        found = np.full((len(plan), most, *array.shape[1:]), np.nan)
        for k, (at, count) in enumerate(plan):
            found[k, :count] = array[at : at + count]
        return found

    without = [name for name, (_, count) in zip(names, plan, strict=True) if most and not count]
    notes = (
        [f"There is no other component of its kind, so there is no placebo: {', '.join(without)}."] if without else []
    )
    contexts = summary_of_contexts(scorer.origin)
    if contexts:
        notes.append(f"The prompts have {contexts}; the ablation is in the first context.")
    shifts = tuple(
        tuple(token_changes(vocabulary, *pair, top) for pair in zip(before, after.probabilities[at], strict=True))
        for at, _ in plan
    )
    return Ablation(
        model=work.model.name,
        kind=work.kind,
        parts=tuple(names),
        prompts=tuple(vocabulary.text(row.tolist()) for row in work.prompts),
        ids=work.prompts,
        positions=work.positions.words,
        reference=work.reference,
        draws=draws,
        seed=int(seed),
        features=tuple(str(bound.feature) for bound in of),
        targets=tuple(vocabulary.piece(i) for i in chosen),
        untouched_values=base.values,
        values=values[own],
        placebo_values=placebo(values),
        kl=kl[own],
        placebo_kl=placebo(kl),
        untouched_logits=base.logits[:, list(chosen)],
        logits=raw[own],
        untouched_log_probs=before[:, list(chosen)],
        log_probs=log_probs[own],
        placebo_log_probs=placebo(log_probs),
        changes=shifts,
        notes=tuple(notes),
    )
