"""Mechanisms: the ways in which prompts drive a feature, found from their fingerprints and tested by ablation.

The fingerprint of a prompt is what heads and neurons contribute to the feature beyond what they contribute on ordinary
text, as a direction. Prompts whose fingerprints are alike are a cell. The most characteristic unit of each cell is then
taken out of the model: if cells are real, that lowers the prompts of its own cell and leaves the others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int64

from dreamy_lens.analysis.contributions import Fingerprints, fingerprints
from dreamy_lens.analysis.prompt_groups import average_linkage, mean_distance, nearest_rows, self_bleu, spread_rows
from dreamy_lens.analysis.reference_prompts import reference_prompts
from dreamy_lens.analysis.unit_ablation import values_without
from dreamy_lens.errors import FeatureError, SettingsError, quoted
from dreamy_lens.models.transfer import to_host
from dreamy_lens.results.frontier import Frontier
from dreamy_lens.results.mechanisms import CellUnit, MechanismCell, Mechanisms, TextDiversity
from dreamy_lens.results.prompt import Prompt, Provenance
from dreamy_lens.scoring.scorer import Scorer
from dreamy_lens.search.frames import summary_of_contexts
from dreamy_lens.search.lengths import right_aligned, without_empty
from dreamy_lens.search.pareto import non_dominated

ORDINARY = 64
"""Number of texts that the model writes, whose fingerprints and values are ordinary."""
SMALLEST = 3
"""Fewest prompts of a cell."""
REFINED = 48
"""Number of prompts near each cell that are examined in a second round, so that its frontier is not left to chance."""
ABLATED = 12
"""Number of each cell's strongest prompts on which ablation is measured."""
WEAK = 0.1
"""Share of the maximum below which a corpus window is in no cell."""
CONTROLS = 4
"""Number of random units of the same kind, for each cell."""
LISTED = 8
"""Number of characteristic units of each cell."""
TEXTS = 64
"""Most prompts whose texts are compared with each other."""


@dataclass(frozen=True)
class PromptPool:
    """Scored prompts of any lengths.

    Attributes:
        ids: Token ids, int64 `[N, n]`; shorter prompts stand at the right, behind -1, as in a history.
        value: Values, float32 `[N]`.
        cross_entropy: Cross-entropies, float32 `[N]`, nats per token.
        seed: Seed of the run that found each, -1 for none, int64 `[N]`.
        iteration: Iteration in which each was found, -1 for none, int64 `[N]`.
    """

    ids: Int64[np.ndarray, "N n"]
    value: Float32[np.ndarray, " N"]
    cross_entropy: Float32[np.ndarray, " N"]
    seed: Int64[np.ndarray, " N"]
    iteration: Int64[np.ndarray, " N"]

    @classmethod
    def of(
        cls, prompts: Sequence[Any], value: Any, cross_entropy: Any, seed: Any = -1, iteration: Any = -1
    ) -> PromptPool:
        """Make a pool of prompts with finite scores, each once."""
        longest = max((len(p) for p in prompts), default=0)
        ids = right_aligned(prompts, longest)
        value, cross_entropy = np.asarray(value, dtype=np.float32), np.asarray(cross_entropy, dtype=np.float32)
        columns = [
            ids,
            value,
            cross_entropy,
            *(np.broadcast_to(x, len(ids)).astype(np.int64) for x in (seed, iteration)),
        ]
        good = np.flatnonzero(np.isfinite(value) & np.isfinite(cross_entropy))
        _, first = np.unique(ids[good], axis=0, return_index=True)
        return cls(*(column[good[np.sort(first)]] for column in columns))

    def __len__(self) -> int:
        return len(self.ids)

    def prompts(self, rows: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """Return the token ids of some prompts."""
        return [without_empty(self.ids[row]) for row in np.asarray(rows).tolist()]


def find_mechanisms(
    scorer: Scorer,
    pool: PromptPool,
    provenance: Provenance,
    *,
    share: float = 0.8,
    similar: float = 0.5,
    most: int = 400,
    windows: Sequence[Any] = (),
    quantity: str | None = None,
    seed: int = 0,
) -> Mechanisms:
    """Find the ways in which prompts drive a feature, and test them by ablation; see :func:`dreamy_lens.mechanisms`.

    Args:
        scorer: Scorer of the feature; of several contexts, the first is used for fingerprints and ablation.
        pool: Scored prompts.
        provenance: Provenance of the prompts.
        share: Share of the maximum that a cell must reach to count as a way.
        similar: Mean cosine of fingerprints from which on prompts are in one cell.
        most: Most prompts whose fingerprints are computed in the first round.
        windows: Token ids of the corpus' strongest windows.
        quantity: Quantity whose contributions are computed, as in :func:`dreamy_lens.upstream`.
        seed: Seed of the ordinary texts and of the controls.
    """
    for name, number, low, high in (("share", share, 0.0, 1.0), ("similar", similar, -1.0, 1.0)):
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not low < number <= high:
            raise SettingsError(f"{name} is {quoted(number)}; it is a number above {low:g} and up to {high:g}.")
    for name, number, least in (("most", most, 2), ("seed", seed, 0)):
        if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or number < least:
            raise SettingsError(f"{name} is {quoted(number)}; it is a whole number of at least {least}.")
    if not len(pool):
        raise FeatureError(f"No prompt has a finite value of {scorer.bound.feature.label}, so there are no mechanisms.")
    work = _Mechanisms(scorer, pool, provenance, float(share), float(similar), quantity, int(seed))
    return work.result(int(most), list(windows))


class _Mechanisms:
    """Work on one feature."""

    def __init__(
        self,
        scorer: Scorer,
        pool: PromptPool,
        provenance: Provenance,
        share: float,
        similar: float,
        quantity: str | None,
        seed: int,
    ) -> None:
        self.scorer, self.pool, self.provenance = scorer, pool, provenance
        self.asked, self.similar, self.quantity, self.seed = share, similar, quantity, seed
        length = len(without_empty(pool.ids[int(pool.value.argmax())]))
        texts = self.reference = reference_prompts(scorer, None, ORDINARY, length, seed)[0]
        own = fingerprints(scorer, texts, quantity=quantity)
        self.names, self.usual = own.names, own.unit_contributions().mean(axis=0)
        values = scorer.values(texts)
        self.ordinary = float(np.nanmean(np.where(np.isfinite(values), values, np.nan)))
        self.maximum = float(pool.value.max())
        spread = float(np.nanstd(values))
        if not self.maximum > self.ordinary + max(2 * spread, 1e-6 * max(1.0, abs(self.ordinary))):
            raise FeatureError(
                f"No prompt drives {scorer.bound.feature.label} above ordinary text: the highest value is "
                f"{self.maximum:.4g}, and texts that the model writes have {self.ordinary:.4g} ± {spread:.2g}. Dream "
                "longer, or choose a feature that is not off everywhere."
            )
        self.notes: list[str] = []
        several = summary_of_contexts(scorer.origin)
        if several:
            self.notes.append(f"The feature is scored {several}; fingerprints and ablations are those of the first.")

    def shares(self, value: np.ndarray) -> np.ndarray:
        """Return values as shares of the way from ordinary text to the maximum."""
        return (value - self.ordinary) / (self.maximum - self.ordinary)

    def units(self, prompts: Sequence[np.ndarray]) -> Float64[np.ndarray, "P U"]:
        """Return the contributions of units beyond those on ordinary text."""
        found: Fingerprints = fingerprints(self.scorer, prompts, quantity=self.quantity)
        return found.unit_contributions() - self.usual

    def values(self, prompts: Sequence[np.ndarray]) -> Float64[np.ndarray, " P"]:
        """Return the values of prompts of any lengths."""
        found, lengths = np.zeros(len(prompts)), np.array([len(p) for p in prompts], dtype=np.int64)
        for length in np.unique(lengths).tolist():
            which = np.flatnonzero(lengths == length)
            found[which] = self.scorer.values(np.stack([prompts[i] for i in which.tolist()]))
        return found

    def result(self, most: int, windows: list[Any]) -> Mechanisms:
        """Find and test the cells."""
        chosen = self.choose(most)
        contributions = self.units(self.pool.prompts(chosen))
        label = self._without_small(average_linkage(_directions(contributions), self.similar))
        chosen, contributions, label = self._refined(chosen, contributions, label)
        corpus = [np.asarray(w, dtype=np.int64) for w in windows]
        values = self.values(corpus)
        strong = np.flatnonzero(self.shares(values) >= WEAK)
        if len(strong) < len(corpus):
            self.notes.append(f"{len(corpus) - len(strong)} of {len(corpus)} windows hardly drive the feature.")
        corpus, values = [corpus[i] for i in strong.tolist()], values[strong]
        extra = self.units(corpus) if corpus else contributions[:0]
        label, of_window = self._with_windows(contributions, label, extra)
        count = max([*label.tolist(), *of_window.tolist(), -1]) + 1
        dreamt = self.shares(self.pool.value[chosen])
        seen = self.shares(values)
        reach = [float(np.max([*dreamt[label == c], *seen[of_window == c]])) for c in range(count)]
        order = sorted(range(count), key=lambda c: -reach[c])
        everything = np.concatenate([contributions, extra])
        group = np.concatenate([label, of_window])
        means = [everything[group == c].mean(axis=0) for c in order]
        cells, ablatable = [], []
        for place, c in enumerate(order):
            elsewhere = [m for k, m in enumerate(means) if k != place]
            ranked, units = self._characteristic(means[place], elsewhere)
            ablatable.append(next((i for i in ranked if _is_ablatable(self.names[i])), ranked[0]))
            mine = np.flatnonzero(label == c)
            read = np.flatnonzero(of_window == c)
            read = read[np.argsort(-values[read], kind="stable")]
            cells.append(
                MechanismCell(
                    name=_letters(place),
                    frontier=self._frontier(chosen[mine]),
                    size=len(mine),
                    share=float(dreamt[mine].max()) if len(mine) else float("nan"),
                    units=units,
                    windows=tuple(self.scorer.vocabulary.text(corpus[i].tolist()) for i in read),
                    window_share=float(seen[read].max()) if len(read) else float("nan"),
                )
            )
        members = [
            [
                *self.pool.prompts(self._strongest(chosen[label == c])),
                *(corpus[i] for i in np.flatnonzero(of_window == c)),
            ]
            for c in order
        ]
        drops, controls, control_drops = self._ablations([m[:ABLATED] for m in members], ablatable)
        directions = _directions(np.stack(means)) if means else np.zeros((0, 0))
        return Mechanisms(
            feature=str(self.scorer.bound.feature),
            model=self.scorer.model.name,
            asked=self.asked,
            maximum=self.maximum,
            ordinary=self.ordinary,
            similar=self.similar,
            examined=len(chosen),
            alone=int((label < 0).sum()),
            cells=tuple(cells),
            ablated=tuple(self.names[i] for i in ablatable),
            drops=drops,
            controls=controls,
            control_drops=control_drops,
            texts=self._texts(chosen, label, order),
            overlaps=directions @ directions.T,
            notes=tuple(self.notes),
        )

    # The prompts that are examined.

    def choose(self, most: int) -> Int64[np.ndarray, " K"]:
        """Choose prompts with unlike texts: half of them reach the share that was asked for, the others half of it."""
        shares = self.shares(self.pool.value)
        found: list[int] = []
        for least, count in ((self.asked, most // 2), (self.asked / 2, most - most // 2)):
            rows = np.flatnonzero(shares >= least)
            strongest = int(self.pool.value[rows].argmax())
            found += rows[spread_rows(self.pool.ids[rows], strongest, count)].tolist()
        return np.array(list(dict.fromkeys(found)), dtype=np.int64)

    def _refined(
        self, chosen: np.ndarray, contributions: np.ndarray, label: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Examine the best prompts near each cell too, and put them into the cells that they are like."""
        if label.max(initial=-1) < 0:
            return chosen, contributions, label
        near = label[nearest_rows(self.pool.ids, self.pool.ids[chosen])]
        good = self.shares(self.pool.value) >= self.asked / 2
        good[chosen] = False
        more: list[int] = []
        for c in range(label.max() + 1):
            rows = np.flatnonzero(good & (near == c))
            if len(rows):
                strongest = rows[np.argsort(-self.pool.value[rows], kind="stable")][: REFINED // 2]
                front = rows[non_dominated(self.pool.value[rows], self.pool.cross_entropy[rows])][::-1][: REFINED // 2]
                more += dict.fromkeys([*strongest.tolist(), *front.tolist()])
        if not more:
            return chosen, contributions, label
        extra = self.units(self.pool.prompts(more))
        own = self._nearest_cell(contributions, label, extra)
        return np.concatenate([chosen, more]), np.concatenate([contributions, extra]), np.concatenate([label, own])

    def _without_small(self, label: np.ndarray) -> np.ndarray:
        """Return numbers of cells with enough prompts, and -1 for prompts that are alone."""
        least = min(SMALLEST, max(1, len(label) // 2))
        kept = [c for c in range(label.max(initial=-1) + 1) if (label == c).sum() >= least]
        renamed = np.full(label.max(initial=-1) + 2, -1, dtype=np.int64)
        renamed[kept] = np.arange(len(kept))
        return renamed[label]

    def _nearest_cell(self, contributions: np.ndarray, label: np.ndarray, extra: np.ndarray) -> np.ndarray:
        """Return the cell that each of other prompts is most like, -1 if it is like none."""
        ways, others = _directions(contributions), _directions(extra)
        cosine = np.stack([others @ ways[label == c].mean(axis=0) for c in range(label.max() + 1)], axis=1)
        return np.where(cosine.max(axis=1) >= self.similar, cosine.argmax(axis=1), -1).astype(np.int64)

    def _with_windows(
        self, contributions: np.ndarray, label: np.ndarray, extra: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the cells of dreams and of corpus windows; windows that are like no cell form cells of their own."""
        if not len(extra):
            return label, np.zeros(0, dtype=np.int64)
        own = np.full(len(extra), -1, dtype=np.int64)
        if label.max(initial=-1) >= 0:
            own = self._nearest_cell(contributions, label, extra)
        rest = np.flatnonzero(own < 0)
        new = self._without_small(average_linkage(_directions(extra[rest]), self.similar)) if len(rest) else rest
        own[rest] = np.where(new >= 0, new + label.max(initial=-1) + 1, -1)
        return label, own

    # What is reported of a cell.

    def _characteristic(self, mean: np.ndarray, elsewhere: list[np.ndarray]) -> tuple[list[int], tuple[CellUnit, ...]]:
        """Return units by how much more they contribute in a cell than in the others, and the first as results."""
        highest = np.max(elsewhere, axis=0) if elsewhere else np.zeros_like(mean)
        average = np.mean(elsewhere, axis=0) if elsewhere else np.full_like(mean, np.nan)
        ranked = np.argsort(-(mean - np.maximum(highest, 0.0)), kind="stable").tolist()
        units = [CellUnit(self.names[i], float(mean[i]), float(average[i])) for i in ranked[:LISTED]]
        return ranked, tuple(units)

    def _frontier(self, rows: np.ndarray) -> Frontier:
        best = rows[non_dominated(self.pool.value[rows], self.pool.cross_entropy[rows])] if len(rows) else rows
        prompts = []
        for row, ids in zip(best.tolist(), self.pool.prompts(best), strict=True):
            seed, iteration = int(self.pool.seed[row]), int(self.pool.iteration[row])
            origin = dataclasses.replace(
                self.provenance, seed=None if seed < 0 else seed, iteration=None if iteration < 0 else iteration
            )
            scores = float(self.pool.value[row]), float(self.pool.cross_entropy[row])
            prompts.append(Prompt.decode(ids.tolist(), *scores, self.scorer.vocabulary, origin))
        return Frontier(prompts)

    def _strongest(self, rows: np.ndarray) -> np.ndarray:
        """Return the strongest prompts of a cell."""
        return rows[np.argsort(-self.pool.value[rows], kind="stable")][:ABLATED]

    def _ablations(
        self, members: list[list[np.ndarray]], units: list[int]
    ) -> tuple[np.ndarray, tuple[str, ...], np.ndarray]:
        """Return the mean relative drops of each cell's prompts without each cell's unit, and without random units."""
        if not members:
            return np.zeros((0, 0)), (), np.zeros((0, 0))
        generator = np.random.default_rng(self.seed)
        taken = {self.names[i] for i in units}
        controls: list[str] = []
        for i in units:
            alike = [
                name
                for name in self.names
                if _is_ablatable(name) and _kind(name) == _kind(self.names[i]) and name not in taken
            ]
            drawn = generator.permutation(len(alike))[:CONTROLS].tolist()
            controls += [alike[k] for k in drawn if alike[k] not in controls]
        flat = [prompt for cell in members for prompt in cell]
        owner = np.repeat(np.arange(len(members)), [len(cell) for cell in members])
        before, ordinary = self.values(flat), self.ordinary
        if summary_of_contexts(self.scorer.origin):  # ablations are in the first context, and so is what they change
            (before,) = values_without(self.scorer, flat, [None], self.reference)
            ordinary = float(np.nanmean(values_without(self.scorer, list(self.reference), [None], self.reference)))
        room = np.where(np.abs(before - ordinary) > 1e-12, before - ordinary, np.nan)
        names = [name for name in dict.fromkeys([*(self.names[i] for i in units), *controls]) if _is_ablatable(name)]
        columns = dict.fromkeys((self.names[i] for i in units), np.full(len(members), np.nan))
        if not names:
            self.notes.append("Nothing but the embeddings is upstream of the feature, so there is nothing to ablate.")
            return np.full((len(members),) * 2, np.nan), (), np.zeros((len(members), 0))
        for name, after in zip(names, values_without(self.scorer, flat, names, self.reference), strict=True):
            relative = (before - after) / room
            columns[name] = np.array([np.nanmean(relative[owner == c]) for c in range(len(members))])
        drops = np.stack([columns[self.names[i]] for i in units], axis=1)
        rest = np.stack([columns[c] for c in controls], axis=1) if controls else np.zeros((len(members), 0))
        return drops, tuple(controls), rest

    def _texts(self, chosen: np.ndarray, label: np.ndarray, order: list[int]) -> tuple[TextDiversity, ...]:
        """Return the diversity of the texts of all examined prompts, and of those of each cell."""
        (table,) = to_host(self.scorer.model.embedding_table.float())
        centred = table.astype(np.float64) - table.mean(axis=0, dtype=np.float64)

        def measured(name: str, rows: np.ndarray) -> TextDiversity:
            kept = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), TEXTS)).astype(int))]
            prompts = self.pool.prompts(kept)
            vectors = np.stack([centred[ids].mean(axis=0) for ids in prompts])
            return TextDiversity(name, self_bleu([ids.tolist() for ids in prompts]), mean_distance(vectors))

        groups = [("all", chosen)]
        groups += [(_letters(k), chosen[label == c]) for k, c in enumerate(order) if (label == c).any()]
        return tuple(measured(name, rows) for name, rows in groups)


def _directions(vectors: Float64[np.ndarray, "P U"]) -> Float64[np.ndarray, "P U"]:
    """Return vectors with length 1; zeros stay zeros."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)


def _is_ablatable(name: str) -> bool:
    """Return whether a unit can be taken out without changing which tokens the model reads."""
    return name not in ("embedding", "position")


def _kind(name: str) -> str:
    """Return what a unit is: of neurons with their layer, such as "L1.N", and "L.H" for every head."""
    layer, _, rest = name.partition(".")
    return f"{layer}.N" if rest.startswith("N") else f"L.{rest[:1]}"


def _letters(number: int) -> str:
    """Return the name of a cell: A to Z, then AA, AB, and so on."""
    text = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        text = chr(65 + rest) + text
    return text
