"""Backward passes: token gradients of value and cross-entropy."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from dreamy_lens.errors import NoGradientError
from dreamy_lens.features.bind import BoundFeature
from dreamy_lens.features.readings import Layout, Reading
from dreamy_lens.models.access import EMBEDDING, HookedModel, held
from dreamy_lens.models.parts import Parts
from dreamy_lens.scoring.gradient import Gradient, Part
from dreamy_lens.scoring.memory import Batches, room_of
from dreamy_lens.scoring.passes import LOGITS_BUDGET
from dreamy_lens.scoring.prompts import Frame
from dreamy_lens.scoring.sharing import close, sample


class Differentiation:
    """Token gradients of features of one model, and of the cross-entropy.

    Args:
        features: bound to one model.
        frame: what stands around every prompt, and whose cross-entropy counts.
        models: all that are run.
        batch_size: most prompts in one pass; None chooses.
        bare: whether parts of bridges may be left out; None leaves them out where that gives the same gradients.
    """

    def __init__(
        self,
        features: Sequence[BoundFeature],
        frame: Frame,
        models: tuple[HookedModel, ...],
        batch_size: int | None = None,
        bare: bool | None = None,
    ) -> None:
        self.features, self.frame, self.models, self.bare = tuple(features), frame, models, bare
        self.batches = Batches(batch_size)
        self._parts: dict[tuple, dict[HookedModel, Parts]] = {}

    def gradient(self, rows: Sequence[np.ndarray]) -> list[Gradient]:
        """Of the prompts `[B_i, n]` of each feature."""
        sizes = [len(r) for r in rows]
        prompts, owner = np.concatenate(rows), np.repeat(np.arange(len(rows)), sizes)
        layout = self.frame.layout(prompts.shape[1])
        widest = max(model.vocabulary.size for model in self.models)
        fits = max(1, LOGITS_BUDGET // (layout.total * widest))
        parts = self._leaving_out(layout)
        done = self.batches.map(
            lambda part: self._gradient(prompts[part], owner[part], layout, parts),
            len(prompts),
            fits,
            room_of(self.models[0], "gradients"),
            layout.total,
        )
        whole = Gradient.joined(done)
        if len(rows) == 1:
            return [whole]
        ends = np.cumsum([0, *sizes])
        return [whole.part(slice(int(a), int(b))) for a, b in itertools.pairwise(ends)]

    def renew(self) -> None:
        """Find out anew which parts may be left out: the model may have been changed since."""
        self._parts.clear()

    def _leaving_out(self, layout: Layout) -> dict[HookedModel, Parts]:
        """Which parts of each model may be left out: all, all but the attention, or none."""
        if self.bare is False or any(model.is_hooked for model in self.models):
            return {}
        key = layout.length, *((model.state, model.other_hooks) for model in self.models)
        if key not in self._parts:
            rows = sample(self.features[0].model, layout, self.frame)[:2]
            rows, owner = np.tile(rows, (len(self.features), 1)), np.repeat(np.arange(len(self.features)), len(rows))
            plain = self._gradient(rows, owner, layout, {})
            found: dict[HookedModel, Parts] = {}
            for model in self.models:
                attentions = [getattr(block, "attn", None) for block in getattr(model.bridge, "blocks", ())]
                for besides in ([], attentions):
                    parts = Parts(model.bridge, besides)
                    with contextlib.suppress(RuntimeError, TypeError, ValueError, AttributeError, NoGradientError):
                        if _same(self._gradient(rows, owner, layout, {model: parts}), plain, model.dtype):
                            found[model] = parts
                            break
            self._parts[key] = found
        return self._parts[key]

    def _gradient(
        self, rows: np.ndarray, owner: np.ndarray, layout: Layout, bare: dict[HookedModel, Parts]
    ) -> Gradient:
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
                logits = any(model in f.logits for f in self.features) or model is fluency
                names = tuple(dict.fromkeys(name for f in self.features for name in f.hooks.get(model, ())))
                kernels = contextlib.nullcontext() if self.bare is False else model.kernels.used()
                with kernels, _without(bare.get(model), names):
                    found, output = model.run(full, names, logits=logits, embeddings=leaf)
                charge = torch.zeros(len(rows), device=model.device, requires_grad=True)
                leaves[model] = leaf
                readings[model] = Reading(found, output, full, layout, charge)
            value = self._values(readings, owner)
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

    def _values(self, readings: dict[HookedModel, Reading], owner: np.ndarray) -> Tensor:
        """The value of each prompt, of the feature that it is for, `[B]`."""
        values, places = [], []
        for i, feature in enumerate(self.features):
            rows = np.flatnonzero(owner == i)
            if not len(rows):
                continue
            mine = readings if len(rows) == len(owner) else {m: r.part(rows) for m, r in readings.items()}
            values.append(feature(mine))
            places.append(rows)
            if not values[-1].requires_grad:
                raise NoGradientError(
                    f"{feature.feature.label} does not depend on the prompt's tokens differentiably on "
                    f"{feature.model.name}, so there is nothing to rank substitutions by. Choose another hook point; a "
                    "custom function must not detach()."
                )
        if len(values) == 1:
            return values[0]
        back = torch.from_numpy(np.argsort(np.concatenate(places), kind="stable")).to(values[0].device)
        return torch.cat(values)[back]


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
