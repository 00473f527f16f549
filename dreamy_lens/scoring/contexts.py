"""Scoring of prompts in several contexts: one value and one cross-entropy from the same prompt in several templates."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from dreamy_lens.errors import FeatureError, FeatureRangeError, PromptError
from dreamy_lens.features.binding import BoundFeature
from dreamy_lens.features.expressions import Feature, MeanCrossEntropy, OnModel
from dreamy_lens.features.forward_pass import RowLayout
from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.models.transfer import to_host
from dreamy_lens.scoring.joint import JointScorer
from dreamy_lens.scoring.scorer import Scorer, Scores
from dreamy_lens.scoring.token_gradient import Gradient, ModelGradient

Frame = tuple[Sequence[int], Sequence[int]]
"""Token ids of a template before and after the prompt."""


@dataclass(frozen=True)
class Combination:
    """Combination of a feature's values in K contexts to one value.

    Attributes:
        kind: "mean", "min", or "soft_min".
        softness: Softness s of the soft minimum -s log(mean_k exp(-v_k / s)), in the feature's units: near 0 it is the
            minimum, and for large s the mean.
    """

    kind: str
    softness: float = 1.0

    def __call__(self, values: Float[Tensor, "K B"]) -> Float[Tensor, " B"]:
        """Return the combined value of each prompt."""
        if self.kind == "mean":
            return values.mean(0)
        if self.kind == "min":
            return values.amin(0)
        exact = values.double() if values.device.type == "cpu" else values
        lowest = exact.amin(0)
        # By expm1 and log1p no digit is lost, however large or small the softness is.
        mean = torch.expm1((lowest - exact) / self.softness).mean(0)
        return (lowest - self.softness * torch.log1p(mean)).float()

    def weights(self, values: Float[Tensor, "K B"]) -> Float[Tensor, "K B"]:
        """Return the derivative of the combined value with respect to the value in each context."""
        if self.kind == "mean":
            return torch.full_like(values, 1 / len(values))
        if self.kind == "min":
            return torch.zeros_like(values).scatter_(0, values.argmin(0, keepdim=True), 1.0)
        return torch.softmax((values.amin(0) - values) / self.softness, 0)


class ContextScorer(Scorer):
    """Scorer of prompts in several contexts; see :class:`~dreamy_lens.scoring.scorer.Scorer` for the other settings.

    The value is a combination of the values in the contexts, and the cross-entropy is the mean of those in the
    contexts. Every context has a scorer of its own, so prefixes are shared within each.

    Args:
        feature: Expression, or a bound feature.
        model: Model whose activations the feature reads.
        frames: Templates, at least one.
        combination: Combination of the values.
        drawn: Number of contexts, drawn anew in every iteration of a search, in which gradients are computed; None is
            all. Scores are always those in all contexts.
        **settings: Settings of a scorer, except the template.

    Attributes:
        parts: Scorers, one for each context.
        combination: Combination of the values.
    """

    def __init__(
        self,
        feature: Feature | BoundFeature,
        model: HookedModel | None,
        frames: Sequence[Frame],
        combination: Combination,
        drawn: int | None = None,
        **settings: Any,
    ) -> None:
        prefix, suffix = frames[0]
        super().__init__(feature, model, prefix=prefix, suffix=suffix, **settings)
        self.combination, self.drawn = combination, drawn
        self.redraws_contexts = drawn is not None and drawn < len(frames)
        self.parts = tuple(
            Scorer(self.bound, self.model, prefix=before, suffix=after, **settings) for before, after in frames
        )
        for part in self.parts:
            part.work = part.forward.work = part.backward.work = self.work
        self.run_by = tuple(passes for part in self.parts for passes in part.run_by)

    def invalidate_cache(self) -> None:
        """Forget what was found out about the models: they may have been changed since."""
        for part in self.parts:
            part.invalidate_cache()

    def release_graphs(self) -> None:
        """Free the memory of recorded passes; later passes record them anew."""
        for part in self.parts:
            part.release_graphs()

    def score_on_device(self, ids: Any) -> Float[Tensor, "2 B"]:
        """Return values and cross-entropies on the model's device, without waiting for them."""
        rows = self.check_prompts(ids)
        return self.combined([part.score_on_device(rows) for part in self.parts])

    def combined(self, scores: Sequence[Float[Tensor, "2 B"]]) -> Float[Tensor, "2 B"]:
        """Combine values and cross-entropies of the contexts."""
        stacked = torch.stack(list(scores))  # [K, 2, B]
        return torch.stack([self.combination(stacked[:, 0]), stacked[:, 1].mean(0)])

    def each(self, ids: Any) -> list[Scores]:
        """Return the scores of prompts in each context, without combining them.

        Args:
            ids: Token ids `[B, n]` or `[n]`.
        """
        rows = self.check_prompts(ids)
        return [part.score(rows) for part in self.parts]

    def values(self, ids: Any) -> Float32[np.ndarray, " B"]:
        """Compute only the value of each prompt: no layer after the feature's hook points runs."""
        rows = self.check_prompts(ids)
        values = torch.from_numpy(np.stack([part.values(rows) for part in self.parts]))
        return to_host(self.combination(values))[0]

    def gradient(self, ids: Any) -> Gradient:
        """Compute gradients with respect to one-hot tokens; see :meth:`Scorer.gradient`."""
        return self.gradient_in(self.check_prompts(ids))

    def gradient_in(self, ids: Int64[np.ndarray, "B n"] | Int64[Tensor, "B n"], draw: int = 0) -> Gradient:
        """Compute gradients in the contexts of one draw.

        Args:
            ids: Token ids of the prompts, an array, or a tensor on the model's device that is not checked.
            draw: Number of the draw, such as that of the iteration.
        """
        if isinstance(ids, Tensor):
            chosen = self.draw(to_host(ids)[0], draw) if self.redraws_contexts else range(len(self.parts))
            return self.combined_gradient([self.parts[k].gradient_on_device(ids) for k in chosen])
        return self.combined_gradient([self.parts[k].gradient(ids) for k in self.draw(ids, draw)])

    def plain_gradient(self, ids: Any) -> Gradient:
        """Compute gradients in all contexts, by passes that leave out nothing, to compare others with."""
        return self.combined_gradient([part.plain_gradient(ids) for part in self.parts])

    def gradient_on_device(self, ids: Int64[Tensor, "B n"]) -> Gradient:
        """Compute gradients for prompts on the model's device, without checking the prompts."""
        return self.gradient_in(ids)

    def draw(self, rows: Int64[np.ndarray, "B n"], draw: int = 0) -> Sequence[int]:
        """Return the numbers of the contexts in which the gradients of prompts are computed.

        The same prompts get the same contexts in the same draw, so that a run that was stopped continues as if it had
        not been. In another draw they get others, so that a prompt that stays is not improved in the same few for ever.
        """
        if self.drawn is None or not self.redraws_contexts:
            return range(len(self.parts))
        rng = np.random.default_rng([draw, zlib.crc32(np.ascontiguousarray(rows, dtype=np.int64).tobytes())])
        return sorted(rng.choice(len(self.parts), self.drawn, replace=False).tolist())

    def combined_gradient(self, gradients: Sequence[Gradient]) -> Gradient:
        """Combine the gradients in several contexts by the chain rule."""
        values = torch.stack([gradient.value for gradient in gradients])  # [K, B]
        weights = self.combination.weights(values)
        cross_entropy = torch.stack([gradient.cross_entropy for gradient in gradients]).mean(0)
        fluency, parts = gradients[0].fluency, []
        charged: list[ModelGradient] = []
        reads = _reads_cross_entropy(self.bound.feature)
        for number in range(len(gradients[0].parts)):
            group = [gradient.parts[number] for gradient in gradients]
            device = group[0].value.device
            w = weights.to(device)
            value = torch.stack([w[k, :, None, None] * part.value for k, part in enumerate(group)]).sum(0)
            mean = torch.stack([part.cross_entropy for part in group]).mean(0)
            nothing = torch.zeros_like(group[0].value_charge)
            surprisals = [part.surprisal for part in group if part.surprisal is not None]
            is_fluency = number == fluency and bool(surprisals)
            own = sum(surprisals[1:], surprisals[0]) / len(surprisals) if is_fluency else None
            charge = torch.ones_like(nothing) if is_fluency else nothing
            parts.append(ModelGradient(value, mean, nothing, charge, own, group[0].table))
            if reads:  # then the value has an own, weighted share in the surprisals of each context
                still = torch.zeros_like(value)
                charged += [
                    ModelGradient(still, still, w[k] * part.value_charge, nothing, part.surprisal, part.table)
                    for k, part in enumerate(group)
                    if part.surprisal is not None
                ]
        return Gradient((*parts, *charged), self.combination(values), cross_entropy, fluency)

    def values_at(self, ids: Any, shift: Float[Tensor, "B n d_model"]) -> Float[Tensor, " B"]:
        """Compute the value at shifted embeddings of the prompts; :meth:`plain_gradient` is its slope."""
        return self.combination(torch.stack([part.values_at(ids, shift) for part in self.parts]))

    def check_length(self, n: int) -> RowLayout:
        """Check that prompts of n tokens can be scored in every context; see :meth:`Scorer.check_length`."""
        layouts = []
        for number, part in enumerate(self.parts, 1):
            try:
                layouts.append(part.check_length(n))
            except (FeatureRangeError, PromptError) as error:
                raise type(error)(f"In context {number} of {len(self.parts)}: {error}") from error
        return layouts[0]

    def without_sharing(self, template: bool = True) -> Scorer:
        """Make a scorer that scores every prompt whole; see :meth:`Scorer.without_sharing`."""
        if not template:
            return super().without_sharing(template=False)
        fluency = None if self.fluency is self.model else self.fluency
        frames = [(part.prefix, part.suffix) for part in self.parts]
        settings = {"fluency_model": fluency, "prepend_bos": self.prepend_bos, "share_prefixes": False}
        return ContextScorer(self.bound, self.model, frames, self.combination, self.drawn, **settings)


def _reads_cross_entropy(feature: Feature) -> bool:
    """Return whether a value depends on a cross-entropy itself, besides activations."""
    return any(
        isinstance(node, MeanCrossEntropy) or (isinstance(node, OnModel) and _reads_cross_entropy(node.of))
        for node in feature.walk()
    )


class JointContextScorer:
    """Scorer of several context scorers' prompts in the same passes, each prompt for its own scorer's feature.

    It is a :class:`~dreamy_lens.scoring.joint.JointScorer` in each context.

    Args:
        scorers: Scorers with one model, one fluency model, and the same contexts.
    """

    def __init__(self, scorers: Sequence[ContextScorer]) -> None:
        first = scorers[0]
        if any(len(s.parts) != len(first.parts) or s.drawn != first.drawn for s in scorers):
            raise FeatureError("Scorers that work together must have the same contexts.")
        self.scorers = tuple(scorers)
        self._joints = [JointScorer([s.parts[k] for s in scorers]) for k in range(len(first.parts))]
        for scorer in self.scorers:
            scorer.together = len(self.scorers)
            scorer.run_by = tuple(passes for part in scorer.parts for passes in part.run_by)

    def release_graphs(self) -> None:
        """Free the memory of recorded passes; later passes record them anew."""
        for joint in self._joints:
            joint.release_graphs()

    def scores(self, ids: dict[int, np.ndarray]) -> dict[int, Scores]:
        """Score prompts `[B_i, n]`, given by the number of their scorer; all prompts have one length."""
        tensors = self.scores_on_device(ids)
        return {i: Scores(*array) for i, array in zip(tensors, to_host(*tensors.values()), strict=True)}

    def scores_on_device(self, ids: dict[int, Any]) -> dict[int, Tensor]:
        """Return values and cross-entropies `[2, B_i]` on the model's device, by the number of their scorer."""
        scores = [joint.scores_on_device(ids) for joint in self._joints]
        return {i: self.scorers[i].combined([of_context[i] for of_context in scores]) for i in scores[0]}

    def gradients(self, ids: dict[int, Any], draws: Mapping[int, int] | None = None) -> dict[int, Gradient]:
        """Compute gradients for prompts `[B_i, n]`, given by the number of their scorer; all have one length.

        Args:
            ids: Token ids of the prompts.
            draws: Number of the draw of contexts, by the number of the scorer; None is the first for all.
        """
        if self.scorers[0].redraws_contexts:  # every search draws its own contexts
            return {i: self.scorers[i].gradient_in(rows, (draws or {}).get(i, 0)) for i, rows in ids.items()}
        gradients = [joint.gradients(ids) for joint in self._joints]
        return {i: self.scorers[i].combined_gradient([of_context[i] for of_context in gradients]) for i in ids}
