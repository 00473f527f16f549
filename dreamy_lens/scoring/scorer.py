"""From prompts to values, cross-entropies and token gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from dreamy_lens.errors import FeatureError, PromptError
from dreamy_lens.features.binding import BoundFeature, bind
from dreamy_lens.features.expressions import Feature
from dreamy_lens.features.forward_pass import ActivationSource, ForwardPass, RowLayout
from dreamy_lens.models.hooked_model import HookedModel, locked
from dreamy_lens.models.transfer import to_device, to_host
from dreamy_lens.scoring.backward import BackwardScorer
from dreamy_lens.scoring.forward import ForwardScorer
from dreamy_lens.scoring.prompts import PromptFrame
from dreamy_lens.scoring.token_gradient import Gradient


@dataclass(frozen=True)
class Scores:
    """Value and cross-entropy of prompts.

    Attributes:
        value: the feature's value, float32 `[B]`.
        cross_entropy: mean over the predicted tokens, float32 `[B]`, nats per token (Eq. 1).
    """

    value: Float32[np.ndarray, " B"]
    cross_entropy: Float32[np.ndarray, " B"]

    @property
    def perplexity(self) -> Float32[np.ndarray, " B"]:
        """`exp(cross_entropy)` of each prompt."""
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
        feature: an expression, or a bound feature.
        model: whose activations the feature reads; None is the model that a bound feature is bound to.
        fluency_model: whose cross-entropy is measured; None is the model itself. It must share the tokenizer.
        prefix: ids of a template before every prompt.
        suffix: ids after it; they are read by the feature, and not charged to the cross-entropy.
        prepend_bos: whether a BOS stands first; None is the model's convention. Eq. 1's first token is charged exactly
            if something stands before it.
        batch_size: most prompts in one pass; None chooses, and halves it if memory runs out.
        share_prefixes: whether prefixes that prompts share are computed once, which gives the same numbers sooner;
            None does so where a few prompts, scored both ways, agree, and warns where they do not.

    Attributes:
        bound: the feature, bound to the model.
        fluency: the model whose cross-entropy is measured.
        models: all that are run.
        frame: what stands around every prompt.
        forward: scores prompts.
        backward: computes token gradients.
    """

    def __init__(
        self,
        feature: Feature | BoundFeature,
        model: HookedModel | None = None,
        *,
        fluency_model: HookedModel | None = None,
        prefix: Sequence[int] = (),
        suffix: Sequence[int] = (),
        prepend_bos: bool | None = None,
        batch_size: int | None = None,
        share_prefixes: bool | None = None,
    ) -> None:
        if isinstance(feature, BoundFeature):
            self.bound, self.model = feature, feature.model if model is None else model
            self.prepend_bos = bool(self.model.bos(prepend_bos))
        elif model is None:
            raise FeatureError(f"{feature.label} is not bound to a model, so a scorer of it needs one: give the model.")
        else:
            self.model, self.prepend_bos = model, bool(model.bos(prepend_bos))
            self.bound = bind(feature, model, prepend_bos=self.prepend_bos)
        if self.bound.model is not self.model:
            raise FeatureError(
                f"{self.bound.feature.label} is bound to {self.bound.model.name}, and prompts are to be scored on "
                f"{self.model.name}; give the feature unbound, or leave out the model."
            )
        self.fluency = self.model if fluency_model is None else fluency_model
        if self.fluency is not self.model:
            self.model.check_same_tokenizer(self.fluency)
        self.vocabulary = self.model.vocabulary
        self.prefix, self.suffix = tuple(map(int, prefix)), tuple(map(int, suffix))
        self.frame = PromptFrame(self.fluency, self.prepend_bos, self.prefix, self.suffix)
        self.forward = ForwardScorer([self.bound], self.frame, batch_size, share_prefixes)
        self.models = self.forward.models
        for other in self.models:
            other.bos(self.prepend_bos)
        self.backward = BackwardScorer([self.bound], self.frame, self.models, batch_size, share_prefixes)
        self._checked: set[int] = set()

    @property
    def allowed(self) -> Bool[np.ndarray, " d_vocab"]:
        """Tokens of the feature's model that every model of this scorer knows."""
        allowed = self.vocabulary.allowed.copy()
        for model in self.models:
            other = model.vocabulary.allowed
            allowed[len(other) :] = False
            allowed[: len(other)] &= other[: len(allowed)]
        return allowed

    def invalidate_cache(self) -> None:
        """Forget what was found out about the models, which may have been changed since."""
        with locked(self.models):
            self.forward.invalidate_cache()
            self.backward.invalidate_cache()

    def score(self, ids: Any) -> Scores:
        """Value and cross-entropy of each prompt.

        Args:
            ids: `[B, n]` or `[n]` token ids, without BOS and template.
        """
        return Scores(*to_host(self.score_on_device(ids))[0])

    def score_on_device(self, ids: Any) -> Float[Tensor, "2 B"]:
        """Values and cross-entropies left on the model's device, so that nothing has to wait for them."""
        return self.forward.score([self.check_prompts(ids)])[0].stack()

    def values(self, ids: Any) -> Float32[np.ndarray, " B"]:
        """Only the feature's value of each prompt: nothing deeper than its hook points runs."""
        return to_host(self.forward.score([self.check_prompts(ids)], cross_entropy=False)[0].value)[0]

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
        return self.backward.gradient([self.check_prompts(ids)])[0]

    def gradient_on_device(self, ids: Int64[Tensor, "B n"]) -> Gradient:
        """Gradients for prompts that are on the model's device and known to be good; they are not checked."""
        return self.backward.gradient([ids])[0]

    def values_at(self, ids: Any, shift: Float[Tensor, "B n d_model"]) -> Float[Tensor, " B"]:
        """Compute the value with the prompts' embeddings moved: what :meth:`gradient` is the slope of.

        Args:
            ids: token ids `[B, n]`.
            shift: what is added to the embeddings of the prompts' tokens.
        """
        rows = self.check_prompts(ids)
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
            activations, output = self.model.run(full, hooks, logits=logits, embeddings=embeddings)
            readings[self.model] = ForwardPass(activations, output, full, layout)
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

    def check_prompts(self, ids: Any) -> Int64[np.ndarray, "B n"]:
        """Prompts as an array, after a check that they can be scored."""
        array = self.vocabulary.check(to_host(ids)[0] if isinstance(ids, Tensor) else ids, "A prompt")
        array = array[None] if array.ndim == 1 else array
        n = array.shape[1]
        if n not in self._checked:
            self.check_length(n)
            self._checked.add(n)
        return array

    def unshared(self, template: bool = True) -> Scorer:
        """Make a scorer that scores every prompt whole, which for prompts of many lengths is faster.

        How prefixes can be shared is found out anew for each length of prompts, and that takes time.

        Args:
            template: whether prompts keep the template around them.
        """
        return Scorer(
            self.bound,
            self.model,
            fluency_model=None if self.fluency is self.model else self.fluency,
            prefix=self.prefix if template else (),
            suffix=self.suffix if template else (),
            prepend_bos=self.prepend_bos,
            share_prefixes=False,
        )

    def _full(self, rows: np.ndarray, model: HookedModel) -> Tensor:
        return to_device(self.frame.rows(rows, model), model.device)
