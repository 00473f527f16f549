"""From prompts to values, cross-entropies and token gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamy_lens.errors import FeatureError, PromptError
from dreamy_lens.features.binding import BoundFeature, bind
from dreamy_lens.features.forward_pass import ActivationSource, ForwardPass, RowLayout
from dreamy_lens.models.hooked_model import HookedModel, locked
from dreamy_lens.models.load import as_hooked
from dreamy_lens.models.transfer import to_device, to_host
from dreamy_lens.scoring.backward import BackwardScorer
from dreamy_lens.scoring.forward import ForwardResult, ForwardScorer
from dreamy_lens.scoring.prompts import PromptFrame, as_ids
from dreamy_lens.scoring.token_gradient import Gradient


@dataclass(frozen=True)
class Scores:
    """Value and cross-entropy of prompts.

    Attributes:
        value: the feature's value, float32 `[B]`.
        cross_entropy: mean over the predicted tokens, float32 `[B]`, nats per token (Eq. 1).
    """

    value: np.ndarray
    cross_entropy: np.ndarray

    @property
    def perplexity(self) -> np.ndarray:
        """`exp(cross_entropy)`, float32 `[B]`."""
        return np.exp(self.cross_entropy)

    def __len__(self) -> int:
        return len(self.value)

    def __repr__(self) -> str:
        if len(self) == 1:
            return f"Scores(value={self.value[0]:.4g}, cross_entropy={self.cross_entropy[0]:.4g})"
        return f"Scores({len(self)} prompts, value {self.value.min():.4g} to {self.value.max():.4g})"


class Scorer:
    """Scores prompts of one length and layout for one feature.

    Args:
        feature: an expression, its text, or a bound feature.
        model: whose activations the feature reads; anything :func:`dreamy_lens.load_model` takes, or a bridge.
        fluency_model: whose cross-entropy is measured; None is the model itself. It must share the tokenizer.
        prefix: ids of a template before every prompt.
        suffix: ids after it; they are read by the feature, and not charged to the cross-entropy.
        prepend_bos: whether a BOS stands first; None is the model's convention. Eq. 1's first token is charged exactly
            if something stands before it.
        batch_size: most prompts in one pass; None chooses, and halves it if memory runs out.
        share_prefixes: whether prefixes that prompts share are computed once, which gives the same numbers sooner;
            None does so where a few prompts, scored both ways, agree, and warns where they do not.
    """

    def __init__(
        self,
        feature: Any,
        model: Any = None,
        *,
        fluency_model: Any = None,
        prefix: Sequence[int] = (),
        suffix: Sequence[int] = (),
        prepend_bos: bool | None = None,
        batch_size: int | None = None,
        share_prefixes: bool | None = None,
    ) -> None:
        if isinstance(feature, BoundFeature) and model is None:
            model = feature.model
        self.model: HookedModel = as_hooked(model)
        self.prepend_bos = bool(self.model.bos(prepend_bos))
        self.bound = (
            feature if isinstance(feature, BoundFeature) else bind(feature, self.model, prepend_bos=self.prepend_bos)
        )
        if self.bound.model is not self.model:
            raise FeatureError(
                f"{self.bound.feature.label} is bound to {self.bound.model.name}, and prompts are to be scored on "
                f"{self.model.name}; give the feature unbound, or leave out the model."
            )
        self.fluency: HookedModel = self.model if fluency_model is None else as_hooked(fluency_model)
        if self.fluency is not self.model:
            self.model.check_same_tokenizer(self.fluency)
        self.vocabulary = self.model.vocabulary
        self.prefix, self.suffix = tuple(map(int, prefix)), tuple(map(int, suffix))
        self.frame = PromptFrame(self.fluency, self.prepend_bos, self.prefix, self.suffix)
        self.passes = ForwardScorer([self.bound], self.frame, batch_size, share_prefixes)
        self.models = self.passes.models
        for other in self.models:
            other.bos(self.prepend_bos)
        self.differentiation = BackwardScorer([self.bound], self.frame, self.models, batch_size, share_prefixes)
        self._checked: set[int] = set()

    @property
    def allowed(self) -> np.ndarray:
        """Tokens that every model of this scorer knows, bool `[d_vocab]` of the feature's model."""
        found = self.vocabulary.allowed.copy()
        for model in self.models:
            other = model.vocabulary.allowed
            found[len(other) :] = False
            found[: len(other)] &= other[: len(found)]
        return found

    def invalidate_cache(self) -> None:
        """Forget what was found out about the models: they may have been changed since."""
        with locked(self.models):
            self.passes.invalidate_cache()
            self.differentiation.invalidate_cache()

    # What users call.

    def score(self, ids: Any) -> Scores:
        """Value and cross-entropy of each prompt.

        Args:
            ids: `[B, n]` or `[n]` token ids, without BOS and template.
        """
        return Scores(*to_host(self.score_there(ids))[0])

    def score_there(self, ids: Any) -> Tensor:
        """The same left on the model's device, for which nothing has to wait: values and cross-entropies, `[2, B]`."""
        return _stacked(self.passes.score([self.prompts(ids)])[0])

    def values(self, ids: Any) -> np.ndarray:
        """Only the feature's value, float32 `[B]`: nothing deeper than its hook points runs."""
        return to_host(self.passes.score([self.prompts(ids)], cross_entropy=False)[0].value)[0]

    def gradient(self, ids: Any) -> Gradient:
        """Gradients of value and cross-entropy with respect to the prompts' one-hot tokens.

        Args:
            ids: `[B, n]`; give every prompt once.

        Returns:
            The gradients, kept as factors: `[B, n, d_model]` and the surprisals, from which any mixture
            `value - λ cross_entropy` gives `[B, n, d_vocab]`.

        Raises:
            NoGradientError: the value does not depend on the tokens differentiably.
        """
        return self.differentiation.gradient([self.prompts(ids)])[0]

    def gradient_there(self, ids: Tensor) -> Gradient:
        """The same for prompts `[B, n]` that are on the model's device already and known to be good: nobody looks."""
        return self.differentiation.gradient([ids])[0]

    def values_at(self, ids: Any, shift: Tensor) -> Tensor:
        """The value with the prompts' embeddings moved: what :meth:`gradient` is the slope of.

        Args:
            ids: `[B, n]`.
            shift: `[B, n, d_model]`, added to the embeddings of the prompts' tokens.

        Returns:
            Float32 `[B]`.
        """
        rows = self.prompts(ids)
        layout = self.layout(rows.shape[1])
        full = self._full(rows, self.model)
        with locked(self.models), torch.no_grad():
            embeddings = self.model.embed(full).clone()
            embeddings[:, layout.before : layout.before + layout.length] += shift.to(embeddings)
            readings: dict[HookedModel, ActivationSource] = {}
            for model in self.bound.models:
                ids = self._full(rows, model)
                hooks, logits = self.bound.hooks[model], model in self.bound.logits
                readings[model] = ForwardPass(*model.run(ids, hooks, logits=logits), ids, layout)
            hooks, logits = self.bound.hooks[self.model], self.model in self.bound.logits
            found, output = self.model.run(full, hooks, logits=logits, embeddings=embeddings)
            readings[self.model] = ForwardPass(found, output, full, layout)
            return self.bound(readings)

    def layout(self, n: int) -> RowLayout:
        """How rows of prompts of n tokens are made up."""
        return self.frame.layout(n)

    def check_length(self, n: int) -> RowLayout:
        """Raise PromptError or FeatureRangeError if prompts of n tokens cannot be scored."""
        layout = self.layout(n)
        for model in self.models:
            if model.n_ctx is not None and layout.total > model.n_ctx:
                around = ["the BOS"] * layout.bos
                around += [f"the template's {layout.prefix + layout.suffix}"] * bool(layout.prefix + layout.suffix)
                more = f" makes {layout.total} with {' and '.join(around)}" if around else " is too long"
                room = model.n_ctx - layout.total + n
                advice = f"use at most {room}" if room > 0 else "shorten the template"
                raise PromptError(
                    f"A prompt of {n} tokens{more}, and {model.name}'s context is {model.n_ctx}; {advice}."
                )
        layout.check()
        self.bound.check_layout(layout)
        return layout

    # How it is done.

    def prompts(self, ids: Any) -> np.ndarray:
        """Prompts as an array `[B, n]`, after a check that they can be scored."""
        array = self.vocabulary.check(to_host(ids)[0] if isinstance(ids, Tensor) else ids, "A prompt")
        array = array[None] if array.ndim == 1 else array
        n = array.shape[1]
        if n not in self._checked:
            self.check_length(n)
            self._checked.add(n)
        return array

    def _full(self, rows: np.ndarray, model: HookedModel) -> Tensor:
        return to_device(self.frame.rows(rows, model), model.device)


class JointScorer:
    """Several scorers' prompts in the same passes, each prompt for its own scorer's feature.

    Args:
        scorers: of one model, one fluency model, and one frame around the prompts.
    """

    def __init__(self, scorers: Sequence[Scorer]) -> None:
        first = scorers[0]
        if any(s.model is not first.model or s.frame != first.frame for s in scorers):
            raise FeatureError("Scorers that work together have one model, one fluency model, and one template.")
        self.scorers = tuple(scorers)
        size, share = first.passes.batches.size, first.passes.share
        # Features that read logits need places behind the prompt's last prediction run to the end; others do not.
        kinds = ([i for i, s in enumerate(scorers) if bool(s.bound.logits) is reads] for reads in (False, True))
        self._passes = [
            (numbers, ForwardScorer([scorers[i].bound for i in numbers], first.frame, size, share))
            for numbers in kinds
            if numbers
        ]
        models = tuple(dict.fromkeys(model for _, passes in self._passes for model in passes.models))
        bound = [s.bound for s in scorers]
        self._differentiation = BackwardScorer(bound, first.frame, models, size, share)

    def scores(self, ids: Mapping[int, np.ndarray]) -> dict[int, Scores]:
        """Scores of prompts `[B_i, n]`, by the number of the scorer they are for; all have one length."""
        found = self.scores_there(ids)
        return {i: Scores(*array) for i, array in zip(found, to_host(*found.values()), strict=True)}

    def scores_there(self, ids: Mapping[int, Any]) -> dict[int, Tensor]:
        """The same left on the model's device: values and cross-entropies, `[2, B_i]`."""
        rows, out = self._each(ids), {}
        for numbers, passes in self._passes:
            if any(i in ids for i in numbers):
                found = dict(zip(numbers, passes.score([rows[i] for i in numbers]), strict=True))
                out |= {i: _stacked(found[i]) for i in numbers if i in ids}
        return out

    def gradients(self, ids: Mapping[int, Any]) -> dict[int, Gradient]:
        """Gradients of prompts `[B_i, n]`, by the number of the scorer they are for; all have one length.

        Prompts that are tensors are on the model's device and known to be good, as for :meth:`Scorer.gradient_there`.
        """
        found = self._differentiation.gradient(self._each(ids))
        return {i: found[i] for i in ids}

    def _each(self, ids: Mapping[int, Any]) -> list[Any]:
        some = next(iter(ids.values()))
        nothing = some[:0]
        if isinstance(some, Tensor):
            return [ids.get(i, nothing) for i in range(len(self.scorers))]
        return [s.prompts(ids[i]) if i in ids else nothing for i, s in enumerate(self.scorers)]


def _stacked(found: ForwardResult) -> Tensor:
    assert found.cross_entropy is not None
    return torch.stack([found.value, found.cross_entropy])


def score(feature: Any, prompts: Any, model: Any = None, *, prepend_bos: bool | None = None, **options: Any) -> Scores:
    """Value and cross-entropy of any prompts.

    Args:
        feature: an expression or its text.
        prompts: one text, several texts of any lengths, or token ids `[n]` or `[B, n]` without BOS.
        model: a bridge, a Hugging Face id or folder; None is the embedded model.
        prepend_bos: whether prompts follow a BOS; None is the model's convention.
        **options: as for :class:`Scorer`: `fluency_model`, `prefix`, `suffix`, `batch_size`.

    Returns:
        Scores, one per prompt, in the order given.

    Raises:
        PromptError: a prompt is empty, too long for the model, or has ids outside its vocabulary.

    >>> import dreamy_lens as dl
    >>> scores = dl.score('log_prob(" the")', ["Return a copy of", "pickle pickle"])
    >>> bool(scores.value[0] > scores.value[1])
    True
    """
    scorer = Scorer(feature, model, prepend_bos=prepend_bos, **options)
    rows = as_ids(prompts, scorer.vocabulary)
    value = np.empty(len(rows), dtype=np.float32)
    cross_entropy = np.empty(len(rows), dtype=np.float32)
    for n in sorted({len(row) for row in rows}):
        at = [i for i, row in enumerate(rows) if len(row) == n]
        found = scorer.score(np.stack([rows[i] for i in at]))
        value[at], cross_entropy[at] = found.value, found.cross_entropy
    return Scores(value, cross_entropy)
