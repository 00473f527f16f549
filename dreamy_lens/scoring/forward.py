"""Forward passes over the prompts of one or several features at once, with shared prefixes where a model allows it."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dreamy_lens.features.binding import BoundFeature
from dreamy_lens.features.forward_pass import ActivationSource, ForwardPass, RowLayout
from dreamy_lens.models import tree_kernel
from dreamy_lens.models.causality import check_causal
from dreamy_lens.models.hooked_model import HookedModel, locked
from dreamy_lens.models.transfer import to_device
from dreamy_lens.scoring.batching import BatchRunner, memory_budget
from dreamy_lens.scoring.blocks import PromptBlock, blocks_of
from dreamy_lens.scoring.forward_batch import ForwardBatch
from dreamy_lens.scoring.graphs import GraphedPasses
from dreamy_lens.scoring.packed_reading import PackedPass
from dreamy_lens.scoring.prefix_sharing import PrefixSharing, is_close, warn_unshared
from dreamy_lens.scoring.prompts import PromptFrame, longest, models_to_run
from dreamy_lens.scoring.static_inputs import ModelBatch, PackedBatch, PlainBatch
from dreamy_lens.scoring.work import Work

LOGITS_BUDGET = 1 << 28
"""Default limit on the entries of the logits `[batch, total, d_vocab]` in one plain pass: 1 GiB of float32."""

SHARED, WHOLE = "graph over shared prefixes", "graph over whole rows"
KERNEL = "graph over shared prefixes with one attention kernel"
"""Kinds of graphs, as reports name them."""

COMPILES_FROM = 8.0
"""Milliseconds of a pass from which on the attention kernel is compiled, which takes a second or two.

What it replaces, gathering rows and attention over them, took 18 of 116 ms of a 12B model's iteration on an H100. A run
of 300 iterations with shorter passes would not gain what the compilation costs.
"""


class ForwardResult(NamedTuple):
    """Values of prompts, and cross-entropies if requested, float32 on the model's device."""

    value: Float[Tensor, " B"]
    cross_entropy: Float[Tensor, " B"] | None

    def stack(self) -> Float[Tensor, "2 B"]:
        """Return the values (first row) and the cross-entropies (second row) as one tensor."""
        assert self.cross_entropy is not None
        return torch.stack([self.value, self.cross_entropy])


class ForwardScorer:
    """Scorer of prompts for features of one model, all in the same frame, by forward passes.

    Args:
        features: Features, bound to one model.
        frame: Tokens around every prompt, and the model whose cross-entropy counts.
        batch_size: Largest number of prompts in one pass; None chooses it.
        share: Whether prefixes that prompts share are computed once. None shares them where the numbers stay the same.

    Attributes:
        models: Every model that a pass runs.
        counted: Model of `models` whose reading gives the cross-entropy; see
            :func:`~dreamy_lens.scoring.prompts.models_to_run`.
    """

    def __init__(
        self,
        features: Sequence[BoundFeature],
        frame: PromptFrame,
        batch_size: int | None = None,
        share: bool | None = None,
    ) -> None:
        self.features, self.frame, self.share = tuple(features), frame, share
        self.model = features[0].model
        self.models, self.counted = models_to_run(self.features, frame.fluency)
        self.batches, self.work = BatchRunner(batch_size), Work()
        self.passes = GraphedPasses(self.model, "scoring", _same, {KERNEL: COMPILES_FROM})
        self._sharings: dict[tuple, PrefixSharing | None] = {}
        self._unshared: dict[HookedModel, str] = {}

    def invalidate_cache(self) -> None:
        """Forget how prefixes may be shared, and the prefixes computed so far: the model may have changed."""
        self._sharings.clear()
        self.passes.clear()

    @property
    def unshared(self) -> dict[HookedModel, str]:
        """Models whose prompts had to be scored whole so far, each with the reason."""
        return dict(self._unshared)

    def score(self, rows: Sequence[np.ndarray], cross_entropy: bool = True) -> list[ForwardResult]:
        """Score the prompts `[B_i, n]` of each feature: value, and cross-entropy if requested.

        Raises:
            ModelError: Cross-entropies are requested of a model that is not causal.
        """
        sizes = [len(r) for r in rows]
        scores = self._score(np.concatenate(rows), np.repeat(np.arange(len(rows)), sizes), cross_entropy)
        ends = np.cumsum([0, *sizes])
        pieces = [scores[:, a:b] for a, b in itertools.pairwise(ends)]
        return [ForwardResult(piece[0], piece[1] if cross_entropy else None) for piece in pieces]

    def score_for_all(self, prompts: np.ndarray) -> Float[Tensor, "features_and_1 B"]:
        """Score prompts `[B, n]` for every feature: a row of values for each feature, and then the cross-entropies."""
        return self._score(prompts, None, True)

    @torch.no_grad()
    def _score(self, prompts: np.ndarray, owner: np.ndarray | None, cross_entropy: bool) -> Tensor:
        """Score prompts for the features numbered by `owner`, or for all: values, and cross-entropies if requested."""
        layout = self.frame.layout(prompts.shape[1])
        row_tokens = longest(layout, self.models).total
        with locked(self.models):
            if cross_entropy:
                check_causal(self.frame.fluency)
            sharings = {m: s for m in self.models if (s := self._sharing(m, layout)) is not None}
            default_size, budget = None, memory_budget(self.model, "scoring")
            if len(sharings) < len(self.models):
                widest = max(model.vocabulary.size for model in self.models)
                default_size = max(1, LOGITS_BUDGET // (row_tokens * widest))
            # Sorting puts rows that share a prefix into one batch.
            limit = self.batches.limit(default_size, budget, row_tokens) or len(prompts)
            order = np.lexsort(prompts.T[::-1]) if len(prompts) > limit else np.arange(len(prompts))
            parts = self.batches.map(
                lambda at: self._score_batch(
                    prompts[order[at]], None if owner is None else owner[order[at]], layout, sharings, cross_entropy
                ),
                len(prompts),
                default_size,
                budget,
                row_tokens,
            )
        scores = torch.cat(parts, dim=1)
        return scores[:, to_device(np.argsort(order), scores.device)] if len(parts) > 1 else scores

    def _score_batch(
        self,
        prompts: np.ndarray,
        owner: np.ndarray | None,
        layout: RowLayout,
        sharings: dict[HookedModel, PrefixSharing],
        cross_entropy: bool,
    ) -> Tensor:
        """Score one batch: values, of every feature if `owner` is None, and cross-entropies if requested, `[_, B]`."""

        def eager() -> Tensor:
            return self._score_eagerly(prompts, owner, layout, sharings, cross_entropy)

        if not self._can_record(layout, cross_entropy):
            return eager()
        blocks = (PromptBlock(0, 0, len(prompts)),) if owner is None else blocks_of(owner)
        batches: list[ForwardBatch] = []

        def batch(way: str) -> ForwardBatch:
            shared = {} if way == WHOLE else sharings
            of_models = self._model_batches(prompts, layout, shared, cross_entropy, way == KERNEL)
            fluency = self.counted if cross_entropy else None
            batches.append(ForwardBatch(self.features, blocks, owner is None, of_models, fluency))
            return batches[-1]

        kinds = [SHARED] if sharings else []
        if longest(layout, self.models).total <= tree_kernel.MOST_POSITIONS and tree_kernel.is_available():
            kinds += [KERNEL] if any(s.packed is not None and s.packed.has_kernel for s in sharings.values()) else []
        ways = {way: functools.partial(batch, way) for way in (*kinds, WHOLE)}
        tails = tuple(len(m.tail) for m in self.models)
        layout_key, magnitude = (layout, cross_entropy, owner is None, tails), (len(prompts) - 1).bit_length()
        states = tuple((m.state, m.other_hooks, m.versions, m.addresses, id(sharings.get(m))) for m in self.models)
        reads = tuple((self._capture(m), self._needs_logits(m, cross_entropy), m in sharings) for m in self.models)
        before = self.work.token_layers
        scores = self.passes.run(
            (*layout_key, tuple(block.feature for block in blocks), magnitude, states),
            (*layout_key, len(blocks), magnitude, reads),
            eager,
            ways,
        )
        if batches:  # the pass may have been run several times; what it is worth counts once
            self.work.token_layers = before
            for model, part in batches[0].models.items():
                capture, final = self._capture(model), self._needs_logits(model, cross_entropy)
                self.work.add(model, part.tokens, capture, final)
        return scores

    def _can_record(self, layout: RowLayout, cross_entropy: bool) -> bool:
        """Return whether passes can be recorded as graphs: on one CUDA device, without code of the user's in them."""
        return (
            self.share is not False
            and all(model.is_recordable and model.device == self.model.device for model in self.models)
            and (layout.terms > 0 or not cross_entropy)
            and not any(feature.runs_user_code for feature in self.features)
        )

    def _model_batches(
        self,
        prompts: np.ndarray,
        layout: RowLayout,
        sharings: dict[HookedModel, PrefixSharing],
        cross_entropy: bool,
        by_kernel: bool,
    ) -> dict[HookedModel, ModelBatch]:
        """Prepare the rows of each model that is run for a pass of fixed shape."""
        batches: dict[HookedModel, ModelBatch] = {}
        for model in self.models:
            final, capture = self._needs_logits(model, cross_entropy), self._capture(model)
            rows = self.frame.rows(prompts, model)
            if model in sharings and (final or capture):
                batches[model] = PackedBatch(sharings[model], rows, final, by_kernel)
            elif final or capture:
                batches[model] = PlainBatch(model, layout.followed_by(len(model.tail)), rows, capture, final)
        return batches

    def _score_eagerly(
        self,
        prompts: np.ndarray,
        owner: np.ndarray | None,
        layout: RowLayout,
        sharings: dict[HookedModel, PrefixSharing],
        cross_entropy: bool,
    ) -> Tensor:
        """Score one batch without a graph of the device; see :meth:`_score_batch`."""
        runs: dict[HookedModel, PackedPass] = {}
        for model, sharing in sharings.items():
            final = self._needs_logits(model, cross_entropy)
            if final or any(f.hooks.get(model) for f in self.features):
                runs[model] = sharing.run(self.frame.rows(prompts, model), final)
                self.work.add(model, len(runs[model].packing.ids), self._capture(model), final)
        whole: dict[HookedModel, ActivationSource] = {}
        if owner is None:  # one pass serves every feature
            rest = (model for model in self.models if model not in sharings)
            whole = {model: self._plain(model, prompts, layout, self._capture(model), True) for model in rest}
        values = len(self.features) if owner is None else 1
        scores = torch.empty(values + cross_entropy, len(prompts), device=self.model.device)
        for i, feature in enumerate(self.features):
            rows = np.arange(len(prompts)) if owner is None else np.flatnonzero(owner == i)
            if not len(rows):
                continue
            readings = {model: run.reading(rows) for model, run in runs.items()} | whole
            for model in self.models:
                logits = model in feature.logits or (cross_entropy and model is self.counted)
                if model not in readings and (logits or model in feature.hooks):
                    readings[model] = self._plain(model, prompts[rows], layout, feature.hooks.get(model, ()), logits)
            at = slice(None) if len(rows) == len(prompts) else to_device(rows, scores.device)
            scores[i if owner is None else 0, at] = to_device(feature(readings), scores.device)
            if cross_entropy and (owner is not None or i == 0):
                scores[-1, at] = to_device(readings[self.counted].cross_entropy, scores.device)
        return scores

    def _plain(
        self, model: HookedModel, prompts: np.ndarray, layout: RowLayout, capture: Sequence[str], logits: bool
    ) -> ForwardPass:
        """Run a model on whole rows."""
        ids = to_device(self.frame.rows(prompts, model), model.device)
        with contextlib.nullcontext() if self.share is False else model.kernels.used():
            activations, output = model.run(ids, capture, logits=logits)
        self.work.add(model, ids.numel(), capture, logits)
        return ForwardPass(activations, output, ids, layout.followed_by(len(model.tail)))

    def _capture(self, model: HookedModel) -> tuple[str, ...]:
        """Return the hook points of a model that features read."""
        return tuple(dict.fromkeys(name for f in self.features for name in f.hooks.get(model, ())))

    def _needs_logits(self, model: HookedModel, cross_entropy: bool) -> bool:
        """Return whether a pass of this model has to compute logits."""
        return any(model in f.logits for f in self.features) or (cross_entropy and model is self.counted)

    def _sharing(self, model: HookedModel, layout: RowLayout) -> PrefixSharing | None:
        """Return the prefix sharing of a model's prompts, or None if each prompt is scored whole."""
        if self.share is False or model.is_hooked:
            return None
        key = model, layout.length, model.state, model.versions, model.addresses
        if key not in self._sharings:
            capture = self._capture(model)
            everywhere = any(model in f.logits for f in self.features)
            own = layout.followed_by(len(model.tail))
            sharing = PrefixSharing(
                model, own, self.frame, capture, self._needs_logits(model, True), everywhere, self.batches.size
            )
            self._sharings[key] = sharing if sharing.packed is not None else None
            if sharing.packed is None:
                self._warn(model, sharing.why)
        sharing = self._sharings[key]
        return sharing if sharing is not None and sharing.holds else None

    def _warn(self, model: HookedModel, why: str) -> None:
        """Warn, once for each model, that its prompts are scored whole."""
        if model not in self._unshared:
            self._unshared[model] = why
            warn_unshared(model, why)


def _same(ours: Tensor, known: Tensor, dtype: torch.dtype) -> bool:
    """Return whether two results of a pass differ by rounding at most, each quantity by itself."""
    pairs = [(a.nan_to_num(), b.nan_to_num()) for a, b in zip(ours, known, strict=True)]
    return torch.equal(ours.isnan(), known.isnan()) and all(is_close(a, b, dtype) for a, b in pairs)
