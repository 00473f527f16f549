"""Scorer: values, cross-entropies and token gradients of prompts for one feature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from dreamy_lens.scoring.graphs import GraphedPasses
from dreamy_lens.scoring.prompts import PromptFrame
from dreamy_lens.scoring.token_gradient import Gradient
from dreamy_lens.scoring.work import Work


@dataclass(frozen=True)
class Scores:
    """Values and cross-entropies of prompts.

    Attributes:
        value: Value of the feature for each prompt, float32 `[B]`.
        cross_entropy: Mean cross-entropy over the predicted tokens of each prompt, float32 `[B]`, nats per token
            (Eq. 1).
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
    """Scorer of prompts for one feature; the prompts of one call have one length.

    Args:
        feature: Expression, or a bound feature.
        model: Model whose activations the feature reads; None is the model that a bound feature is bound to.
        fluency_model: Model whose cross-entropy is measured; None is `model`. It must share the tokenizer.
        prefix: Token ids of the template before every prompt. A BOS at its beginning is the one that stands first; the
            row never has two.
        suffix: Token ids of the template after every prompt. The feature reads them; the cross-entropy does not count
            them.
        prepend_bos: Whether a BOS stands first; None follows the model's convention. The cross-entropy (Eq. 1) counts
            the prompt's first token only if a token stands before it.
        batch_size: Largest number of prompts in one pass; None chooses it, and halves it if memory runs out.
        share_prefixes: Whether prefixes that prompts share are computed once, which is faster and gives the same
            numbers. None first scores a few prompts both ways: it shares if they agree, and warns if they do not.

    Attributes:
        bound: Feature, bound to the model.
        fluency: Model whose cross-entropy is measured.
        models: Every model that a pass runs.
        frame: Tokens around every prompt.
        forward: Scorer of prompts by forward passes.
        backward: Scorer of token gradients by backward passes.
        work: Account of what has been computed.
        together: Number of scorers that work side by side, which share the memory of their device.
        run_by: Passes that score this scorer's prompts; those of a joint scorer, if there is one.
        origin: Constraint that the frame was made of, if a layer above set one; None otherwise.
        fingerprinter: Function from prompts `[B, n]` to their fingerprints `[B, U]`, if a layer above set one.
        redraws_contexts: Whether gradients are computed in contexts that are drawn anew for each iteration.
    """

    redraws_contexts: bool = False

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
            raise FeatureError(f"{feature.label} is not bound to a model, so its scorer needs one: give the model.")
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
        self.frame = PromptFrame.of(self.fluency, self.prepend_bos, prefix, suffix)
        self.prefix, self.suffix = self.frame.prefix, self.frame.suffix
        self.forward = ForwardScorer([self.bound], self.frame, batch_size, share_prefixes)
        self.models = self.forward.models
        for other in self.models:
            other.renew()
            other.bos(self.prepend_bos)
            other.check_weights()
        self.backward = BackwardScorer([self.bound], self.frame, batch_size, share_prefixes)
        self.work = self.forward.work = self.backward.work = Work()
        self.together = 1
        self.run_by: Sequence[GraphedPasses] = (self.forward.passes, self.backward.passes)
        self.origin: Any = None
        self.fingerprinter: Callable[[np.ndarray], np.ndarray] | None = None
        self._checked: set[int] = set()

    @property
    def allowed(self) -> Bool[np.ndarray, " d_vocab"]:
        """Mask of the tokens that may stand in prompts of every model of this scorer."""
        allowed = self.vocabulary.allowed.copy()
        for model in self.models:
            other = model.vocabulary.allowed
            allowed[len(other) :] = False
            allowed[: len(other)] &= other[: len(allowed)]
        return allowed

    def invalidate_cache(self) -> None:
        """Forget what was found out about the models: they may have been changed since."""
        with locked(self.models):
            self.forward.invalidate_cache()
            self.backward.invalidate_cache()

    def release_graphs(self) -> None:
        """Free the memory of recorded passes; later passes record them anew."""
        self.forward.passes.clear()
        self.backward.passes.clear()

    @property
    def passes(self) -> dict[str, str]:
        """How passes are run on an accelerator, by kind, with the times that were measured; empty on a CPU."""
        return {passes.kind: str(passes) for passes in self.run_by if str(passes)}

    def score(self, ids: Any) -> Scores:
        """Compute value and cross-entropy of each prompt.

        Args:
            ids: Token ids `[B, n]` or `[n]`, without BOS and template.
        """
        return Scores(*to_host(self.score_on_device(ids))[0])

    def score_on_device(self, ids: Any) -> Float[Tensor, "2 B"]:
        """Return values and cross-entropies on the model's device, without waiting for them."""
        return self.forward.score([self.check_prompts(ids)])[0].stack()

    def values(self, ids: Any) -> Float32[np.ndarray, " B"]:
        """Compute only the value of each prompt: no layer after the feature's hook points runs."""
        return to_host(self.forward.score([self.check_prompts(ids)], cross_entropy=False)[0].value)[0]

    def gradient(self, ids: Any) -> Gradient:
        """Compute gradients of value and cross-entropy with respect to the prompts' one-hot tokens.

        Args:
            ids: Token ids `[B, n]` of distinct prompts.

        Returns:
            The gradients, kept as factors: `[B, n, d_model]` and the surprisals. The gradient `[B, n, d_vocab]` of any
            mixture `value - λ cross_entropy` follows from them.

        Raises:
            NoGradientError: The value does not depend on the tokens differentiably.
        """
        return self.backward.gradient([self.check_prompts(ids)])[0]

    def plain_gradient(self, ids: Any) -> Gradient:
        """Compute gradients as :meth:`gradient` does, by passes that leave out nothing, to compare others with."""
        backward = BackwardScorer([self.bound], self.frame, self.backward.batches.size, bare=False)
        return backward.gradient([self.check_prompts(ids)])[0]

    def gradient_on_device(self, ids: Int64[Tensor, "B n"]) -> Gradient:
        """Compute gradients for prompts on the model's device, without checking the prompts."""
        return self.backward.gradient([ids])[0]

    def values_at(self, ids: Any, shift: Float[Tensor, "B n d_model"]) -> Float[Tensor, " B"]:
        """Compute the value at shifted embeddings of the prompts; :meth:`gradient` is its slope.

        Args:
            ids: Token ids `[B, n]`.
            shift: Vectors that are added to the embeddings of the prompts' tokens.
        """
        rows = self.check_prompts(ids)
        layout = self.layout(rows.shape[1])
        with locked(self.models), torch.no_grad():
            readings: dict[HookedModel, ActivationSource] = {}
            for model in self.bound.models:
                ids, embeddings = self._rows_on_device(rows, model), None
                if model.base is self.model:
                    embeddings = model.embed(ids).clone()
                    embeddings[:, layout.before : layout.before + layout.length] += to_device(shift, ids.device)
                hooks, logits = self.bound.hooks[model], model in self.bound.logits
                activations, output = model.run(ids, hooks, logits=logits, embeddings=embeddings)
                readings[model] = ForwardPass(activations, output, ids, layout.followed_by(len(model.tail)))
            return self.bound(readings)

    def layout(self, n: int) -> RowLayout:
        """Return the layout of the rows for prompts of n tokens."""
        return self.frame.layout(n)

    def check_length(self, n: int) -> RowLayout:
        """Check that prompts of n tokens can be scored, and return the layout of their rows.

        Raises:
            PromptError: The prompts are too long for a model, or have no predicted token.
            FeatureRangeError: The feature names a position that the prompts do not have.
        """
        layout = self.layout(n)
        for model in self.models:
            total = layout.total + len(model.tail)
            if model.n_ctx is not None and total > model.n_ctx:
                around = ["the BOS"] * layout.bos
                around += [f"the template's {layout.prefix + layout.suffix}"] * bool(layout.prefix + layout.suffix)
                around += [f"the target's {len(model.tail)}"] * bool(model.tail)
                more = f" makes {total} with {' and '.join(around)}" if around else " is too long"
                room = model.n_ctx - total + n
                advice = f"use at most {room}" if room > 0 else f"shorten the {'target' if model.tail else 'template'}"
                raise PromptError(
                    f"A prompt of {n} tokens{more}, and {model.name}'s context is {model.n_ctx}; {advice}."
                )
        layout.check()
        self.bound.check_layout(layout)
        return layout

    def check_prompts(self, ids: Any) -> Int64[np.ndarray, "B n"]:
        """Check that prompts can be scored, and return them as an array."""
        array = self.vocabulary.check(to_host(ids)[0] if isinstance(ids, Tensor) else ids, "A prompt")
        array = array[None] if array.ndim == 1 else array
        n = array.shape[1]
        if n not in self._checked:
            self.check_length(n)
            self._checked.add(n)
        return array

    def without_sharing(self, template: bool = True) -> Scorer:
        """Make a scorer that scores every prompt whole, which is faster for prompts of many lengths.

        Prefix sharing is verified anew for each length of prompts, and the verification takes time.

        Args:
            template: Whether the template stays around the prompts.
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

    def _rows_on_device(self, rows: np.ndarray, model: HookedModel) -> Tensor:
        """Return the whole rows, with BOS and template, on the model's device."""
        return to_device(self.frame.rows(rows, model), model.device)
