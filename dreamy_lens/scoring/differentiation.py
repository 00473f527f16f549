"""Backward passes: token gradients of value and cross-entropy."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from dreamy_lens.errors import NoGradientError
from dreamy_lens.features.bind import BoundFeature
from dreamy_lens.features.readings import Layout, Reading
from dreamy_lens.models.access import EMBEDDING, HookedModel, held
from dreamy_lens.models.parts import Parts
from dreamy_lens.scoring.gradient import Gradient, Part
from dreamy_lens.scoring.memory import Batches
from dreamy_lens.scoring.passes import LOGITS_BUDGET
from dreamy_lens.scoring.prompts import Frame
from dreamy_lens.scoring.sharing import close, sample


class Differentiation:
    """Token gradients of a feature and of the cross-entropy.

    Args:
        feature: bound to its model.
        frame: what stands around every prompt, and whose cross-entropy counts.
        models: all that are run.
        batch_size: most prompts in one pass; None chooses.
        bare: whether parts of bridges may be left out; None leaves them out where that gives the same gradients.
    """

    def __init__(
        self,
        feature: BoundFeature,
        frame: Frame,
        models: tuple[HookedModel, ...],
        batch_size: int | None = None,
        bare: bool | None = None,
    ) -> None:
        self.feature, self.frame, self.models, self.bare = feature, frame, models, bare
        self.batches = Batches(batch_size)
        self._parts: dict[int, dict[HookedModel, Parts]] = {}

    def gradient(self, rows: np.ndarray) -> Gradient:
        """Of prompts `[B, n]`."""
        layout = self.frame.layout(rows.shape[1])
        widest = max(model.vocabulary.size for model in self.models)
        fits = max(1, LOGITS_BUDGET // (layout.total * widest))
        parts = self._leaving_out(layout)
        return Gradient.joined(self.batches.map(lambda part: self._gradient(rows[part], layout, parts), len(rows), fits))

    def _leaving_out(self, layout: Layout) -> dict[HookedModel, Parts]:
        """Which parts of each model may be left out: all, all but the attention, or none."""
        if self.bare is False:
            return {}
        if layout.length not in self._parts:
            rows = sample(self.models[0], layout, self.frame)[:2]
            plain = self._gradient(rows, layout, {})
            found: dict[HookedModel, Parts] = {}
            for model in self.models:
                attentions = [getattr(block, "attn", None) for block in getattr(model.bridge, "blocks", ())]
                for besides in ([], attentions):
                    parts = Parts(model.bridge, besides)
                    with contextlib.suppress(RuntimeError, TypeError, ValueError, AttributeError, NoGradientError):
                        if _same(self._gradient(rows, layout, {model: parts}), plain, model.dtype):
                            found[model] = parts
                            break
            self._parts[layout.length] = found
        return self._parts[layout.length]

    def _gradient(self, rows: np.ndarray, layout: Layout, bare: dict[HookedModel, Parts]) -> Gradient:
        leaves: dict[HookedModel, Tensor] = {}
        readings: dict[HookedModel, Reading] = {}
        place = slice(layout.before, layout.before + layout.length)
        fluency = self.frame.fluency
        with held(self.models), torch.enable_grad(), contextlib.ExitStack() as frozen:
            for model in self.models:
                frozen.enter_context(model.frozen())
            for model in self.models:
                full = torch.from_numpy(self.frame.rows(rows, model)).to(model.device)
                # The bridge's own, and not rows of the table, which an edit of the weights can leave behind.
                leaf = model.embedded(full).requires_grad_(True)
                logits = model in self.feature.logits or model is fluency
                names = self.feature.hooks.get(model, ())
                with model.kernels.used(), _without(bare.get(model), names):
                    found, output = model.run(full, names, logits=logits, embeddings=leaf)
                charge = torch.zeros(len(rows), device=model.device, requires_grad=True)
                leaves[model] = leaf
                readings[model] = Reading(found, output, full, layout, charge)
            value = self.feature({**readings})
            if not value.requires_grad:
                raise NoGradientError(
                    f"{self.feature.feature.label} does not depend on the prompt's tokens differentiably on "
                    f"{self.feature.model.name}, so there is nothing to rank substitutions by. Choose another hook "
                    "point; a custom function must not detach()."
                )
            cross_entropy = readings[fluency].cross_entropy
            wanted = [*leaves.values(), *(readings[m].charge for m in self.models)]
            of_value = torch.autograd.grad(value.sum(), wanted, retain_graph=True, allow_unused=True)
            of_cross_entropy = torch.autograd.grad(cross_entropy.sum(), wanted, allow_unused=True)
            tables = [model.embedding_table for model in self.models]
        count = len(self.models)
        parts = []
        for i, model in enumerate(self.models):
            embedded = [
                g[i] if g[i] is not None else torch.zeros_like(leaves[model]) for g in (of_value, of_cross_entropy)
            ]
            charged = [g[count + i] for g in (of_value, of_cross_entropy)]
            needed = any(g is not None for g in charged)
            charged = [g if g is not None else torch.zeros(len(rows), device=model.device) for g in charged]
            surprisal = readings[model].surprisal() / layout.terms if needed else None
            v, c = (g[:, place].float() for g in embedded)
            parts.append(Part(v, c, charged[0], charged[1], surprisal, tables[i]))
        return Gradient(tuple(parts), value.detach(), cross_entropy.detach().to(value.device))


@contextlib.contextmanager
def _without(parts: Parts | None, names: tuple[str, ...]) -> Iterator[None]:
    with contextlib.nullcontext() if parts is None else parts.bare([*names, EMBEDDING]):
        yield


def _same(ours: Gradient, plain: Gradient, dtype: torch.dtype) -> bool:
    """Whether two gradients are the same but for rounding."""
    pairs = [(ours.value, plain.value), (ours.cross_entropy, plain.cross_entropy)]
    for a, b in zip(ours.parts, plain.parts, strict=True):
        pairs += [(a.value, b.value), (a.cross_entropy, b.cross_entropy)]
    return all(close(a, b, dtype) for a, b in pairs)
