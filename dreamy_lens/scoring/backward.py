"""Backward passes: token gradients of value and cross-entropy."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamy_lens.errors import NoGradientError
from dreamy_lens.features.binding import BoundFeature
from dreamy_lens.features.forward_pass import ForwardPass, RowLayout
from dreamy_lens.models.backend import EMBEDDING, ComponentBypass
from dreamy_lens.models.causality import check_causal, is_causal
from dreamy_lens.models.hooked_model import HookedModel, locked
from dreamy_lens.models.transfer import to_device
from dreamy_lens.scoring.batching import BatchRunner, is_out_of_memory, memory_budget
from dreamy_lens.scoring.blocks import PromptBlock, blocks_of, pad_blocks
from dreamy_lens.scoring.forward import LOGITS_BUDGET
from dreamy_lens.scoring.graphs import GRAPH, GraphedPasses
from dreamy_lens.scoring.kv_prefix import KVPrefix, empty_cache
from dreamy_lens.scoring.prefix_sharing import is_close, trial_prompts
from dreamy_lens.scoring.prompts import PromptFrame, longest, models_to_run
from dreamy_lens.scoring.token_gradient import Gradient, ModelGradient
from dreamy_lens.scoring.work import BACKWARD, Work


@dataclass
class _PassOptions:
    """Options of a backward pass that make it faster: components left out, a prefix computed once.

    Attributes:
        parts: Components of the model that are left out.
        prefix: Cached prefix of the template; None computes the prefix in every pass.
        give_empty_cache: Whether the model receives an empty cache. With a cache, Hugging Face does not search the
            rows for packed sequences, which is slow on an accelerator.
    """

    parts: ComponentBypass
    prefix: KVPrefix | None = None
    give_empty_cache: bool = False

    def past(self, rows: int) -> Any:
        """Return the key-value cache that the model receives for this number of rows, or None."""
        return empty_cache() if self.give_empty_cache else None if self.prefix is None else self.prefix.cache(rows)


class BackwardScorer:
    """Token gradients of features of one model, and of the cross-entropy.

    Args:
        features: Features, bound to one model.
        frame: Tokens around every prompt, and the model whose cross-entropy counts.
        batch_size: Largest number of prompts in one pass; None chooses it.
        bare: Whether components of models may be left out. None leaves them out where the gradients stay the same.
    """

    def __init__(
        self,
        features: Sequence[BoundFeature],
        frame: PromptFrame,
        batch_size: int | None = None,
        bare: bool | None = None,
    ) -> None:
        self.features, self.frame, self.bare = tuple(features), frame, bare
        self.models, self.counted = models_to_run(self.features, frame.fluency)
        self.batches = BatchRunner(batch_size)
        self.work = Work()
        self.passes = GraphedPasses(features[0].model, "gradients", _same)
        self._options: dict[tuple, dict[HookedModel, _PassOptions]] = {}
        self._trusted: set[HookedModel] = set()  # models whose embedding table gave the embeddings they compute

    def gradient(self, rows: Sequence[np.ndarray] | Sequence[Tensor]) -> list[Gradient]:
        """Compute the gradients of each feature for its own prompts `[B_i, n]`, given as arrays or device tensors.

        Raises:
            ModelError: The model whose cross-entropy counts is not causal.
            NoGradientError: A value does not depend on the tokens differentiably.
        """
        sizes = [len(r) for r in rows]
        prompts: Any = torch.cat(rows) if isinstance(rows[0], Tensor) else np.concatenate(rows)  # pyright: ignore
        owner = np.repeat(np.arange(len(rows)), sizes)
        layout = self.frame.layout(prompts.shape[1])
        widest = max(model.vocabulary.size for model in self.models)
        row_tokens = longest(layout, self.models).total
        default_size = max(1, LOGITS_BUDGET // (row_tokens * widest))
        # The lock is taken first: hooks that another thread has on the model would look like the user's own. Gradients
        # need the caller's inference mode switched off.
        with locked(self.models), torch.inference_mode(False):
            check_causal(self.frame.fluency)
            options = self._pass_options(layout)
            parts = self.batches.map(
                lambda part: self._gradient_in_fastest_way(prompts[part], owner[part], layout, options),
                len(prompts),
                default_size,
                memory_budget(self.models[0], "gradients"),
                row_tokens,
            )
        gradients = Gradient.concatenate(parts)
        if len(rows) == 1:
            return [gradients]
        ends = np.cumsum([0, *sizes])
        return [gradients.part(slice(int(a), int(b))) for a, b in itertools.pairwise(ends)]

    def invalidate_cache(self) -> None:
        """Forget which parts may be left out, and prefixes that were computed: the model may have been changed."""
        self._options.clear()
        self._trusted.clear()
        self.passes.clear()

    def _pass_options(self, layout: RowLayout) -> dict[HookedModel, _PassOptions]:
        """Return the options that make the passes of each model faster; models without an entry are run as they are."""
        if self.bare is False or any(model.is_hooked for model in self.models):
            return {}
        key = layout.length, *((m.state, m.other_hooks, m.versions, m.addresses) for m in self.models)
        if key not in self._options:
            try:
                with locked(self.models):  # other threads' passes must not meet a model without some of its parts
                    self._options[key] = self._choose_options(layout)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self._options[key] = {}  # later batches find the size that fits
        return self._options[key]

    def _choose_options(self, layout: RowLayout) -> dict[HookedModel, _PassOptions]:
        """Return, for each model, the first options that leave the gradients unchanged; a model may have none."""
        rows = trial_prompts(self.features[0].model, layout, self.frame)[: min(2, self.batches.size or 2)]
        owners = [np.full(len(rows), i) for i in {f.feature: i for i, f in enumerate(self.features)}.values()]
        plain = [self._gradient(rows, owner, layout, {}) for owner in owners]
        chosen: dict[HookedModel, _PassOptions] = {}
        for model in self.models:
            tries = [(False, True, False), *itertools.product((False, True), (False,), (True, False))]
            for keep_attention, known, empty in tries:
                if (known and not (layout.prefix and is_causal(model))) or (empty and model.device.type != "cuda"):
                    continue
                with contextlib.suppress(Exception):  # an architecture may refuse an option in any way
                    option = _PassOptions(model.bypass(keep_attention), give_empty_cache=empty)
                    if known:
                        option.prefix = self._prefix(rows, model, layout, option.parts)
                    pairs = zip(owners, plain, strict=True)
                    if all(_same(self._gradient(rows, o, layout, {model: option}), p, model.dtype) for o, p in pairs):
                        chosen[model] = option
                        break
        return chosen

    def _prefix(self, rows: np.ndarray, model: HookedModel, layout: RowLayout, parts: ComponentBypass) -> KVPrefix:
        """Compute the cached prefix of the template, without the components that are left out."""
        names, logits = self._reads(model)
        ids = to_device(self.frame.rows(rows[:1], model)[:, : layout.before], model.device)
        with model.kernels.used(), parts.bare([*names, EMBEDDING]):
            return KVPrefix(model, ids, names, logits)

    def _reads(self, model: HookedModel) -> tuple[tuple[str, ...], bool]:
        """Return the hook points that the features read on a model, and whether they read its logits."""
        names = tuple(dict.fromkeys(name for f in self.features for name in f.hooks.get(model, ())))
        return names, any(model in f.logits for f in self.features) or model is self.counted

    def _gradient_in_fastest_way(
        self, rows: np.ndarray | Tensor, owner: np.ndarray, layout: RowLayout, options: dict[HookedModel, _PassOptions]
    ) -> Gradient:
        """Compute the gradient of one batch, as a graph of the device where that is faster and right."""
        device = self.features[0].model.device
        if not (
            self.bare is not False
            and all(model.is_recordable and model.device == device for model in self.models)
            and layout.terms > 0
            and not any(feature.runs_user_code for feature in self.features)
        ):
            return self._gradient(rows, owner, layout, options)
        blocks, before = blocks_of(owner), self.work.token_layers
        states = tuple((m.state, m.other_hooks, m.versions, m.addresses, id(options.get(m))) for m in self.models)
        reads = tuple(self._reads(m) for m in self.models)
        gradient = self.passes.run(
            (layout, tuple(block.feature for block in blocks), states),
            (layout, len(blocks), reads, tuple(len(m.tail) for m in self.models)),
            lambda: self._gradient(rows, owner, layout, options),
            {GRAPH: lambda: GradientBatch(self, rows, blocks, layout, options)},
        )
        # The pass may have been run several times; what it is worth counts once.
        self.work.token_layers = before
        self._add_work(len(rows), layout, options)
        return gradient

    def _gradient(
        self, rows: np.ndarray | Tensor, owner: np.ndarray, layout: RowLayout, options: dict[HookedModel, _PassOptions]
    ) -> Gradient:
        """Compute the gradients of one batch, whose prompts belong to the features numbered by `owner`."""
        full = {model: self.frame.on_device(rows, model) for model in self.models}
        gradient = self.differentiate(full, blocks_of(owner), layout, options)
        self._add_work(len(rows), layout, options)
        return gradient

    def _add_work(self, rows: int, layout: RowLayout, options: dict[HookedModel, _PassOptions]) -> None:
        """Add what one batch computes to the account."""
        for model in self.models:
            names, logits = self._reads(model)
            tokens = rows * (layout.total + len(model.tail) - _start(options.get(model)))
            self.work.add(model, tokens, names, logits, BACKWARD)

    def differentiate(
        self,
        full: Mapping[HookedModel, Tensor],
        blocks: Sequence[PromptBlock],
        layout: RowLayout,
        options: Mapping[HookedModel, _PassOptions],
    ) -> Gradient:
        """Compute gradients from the rows of each model on its device, BOS and template included, `[B, total]`.

        Args:
            full: Rows by model.
            blocks: Prompts of each feature.
            layout: Layout of every row.
            options: Options that make the passes of a model faster.
        """
        leaves: dict[HookedModel, Tensor] = {}
        readings: dict[HookedModel, ForwardPass] = {}
        starts: dict[HookedModel, int] = {}
        fluency = self.counted
        size = len(full[fluency])
        with locked(self.models), torch.enable_grad(), contextlib.ExitStack() as frozen:
            for model in self.models:
                frozen.enter_context(model.frozen())
            for model in self.models:
                ids = full[model]
                option, (names, logits) = options.get(model), self._reads(model)
                prefix = None if option is None else option.prefix
                starts[model] = start = _start(option)
                # The model computes the embeddings: rows of the table can be out of date after the weights are edited.
                trust = model.device.type == "cuda" and model in self._trusted
                leaf = model.embed(ids[:, start:], trust).requires_grad_(True)
                self._trusted.add(model)
                past = None if option is None else option.past(size)
                with contextlib.ExitStack() as faster:
                    if self.bare is not False:
                        faster.enter_context(model.kernels.used())
                    if option is not None:
                        faster.enter_context(option.parts.bare([*names, EMBEDDING]))
                    activations, output = model.run(ids[:, start:], names, logits=logits, embeddings=leaf, past=past)
                if prefix is not None:
                    activations, output = prefix.prepend(activations, output, ids.shape[1] - start)
                charge = torch.zeros(size, device=model.device, requires_grad=True)
                leaves[model] = leaf
                own = layout.followed_by(len(model.tail))
                readings[model] = ForwardPass(activations, output, ids, own, charge)
            value = self._values(readings, blocks)
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
            charged = [g if g is not None else torch.zeros(size, device=model.device) for g in charged]
            surprisal = readings[model].surprisal() / layout.terms if needed else None
            first = layout.before - starts[model]
            v, c = (g[:, first : first + layout.length].float() for g in embedded)
            parts.append(ModelGradient(v, c, charged[0], charged[1], surprisal, tables[i]))
        scores = value.detach(), to_device(cross_entropy.detach(), value.device)
        return Gradient(tuple(parts), *scores, self.models.index(fluency))

    def _values(self, readings: dict[HookedModel, ForwardPass], blocks: Sequence[PromptBlock]) -> Tensor:
        """Return the value of each prompt for the feature that owns it, `[B]`."""
        values = []
        for block in blocks:
            feature, rows = self.features[block.feature], slice(block.start, block.stop)
            own_readings = readings if len(blocks) == 1 else {m: r.part(rows) for m, r in readings.items()}
            values.append(feature(own_readings).to(feature.model.device))
            if not values[-1].requires_grad:
                raise NoGradientError(
                    f"On {feature.model.name}, {feature.feature.label} is not a differentiable function of the "
                    "prompt's tokens, so no gradient can rank substitutions. Choose another hook point; a custom "
                    "function must not detach()."
                )
        return values[0] if len(values) == 1 else torch.cat(values)


class GradientBatch:
    """Rows of prompts on the device, as a backward pass of fixed shape, which a graph of the device can run.

    Args:
        scorer: Scorer that differentiates.
        rows: Prompts `[B, n]`, as an array or as a tensor on the device.
        blocks: Prompts of each feature.
        layout: Layout of every row.
        options: Options that make the passes of a model faster.
    """

    step = 0

    def __init__(
        self,
        scorer: BackwardScorer,
        rows: np.ndarray | Tensor,
        blocks: Sequence[PromptBlock],
        layout: RowLayout,
        options: Mapping[HookedModel, _PassOptions],
    ) -> None:
        self.scorer, self.rows, self.blocks, self.layout, self.options = scorer, rows, blocks, layout, options

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of prompts of each feature."""
        return tuple(map(len, self.blocks))

    def arrays(self, room: tuple[int, ...]) -> dict[str, np.ndarray | Tensor]:
        """Return the rows of each model, BOS and template included."""
        scorer, rows = self.scorer, self.rows
        if room != self.sizes:
            places = pad_blocks(self.blocks, room)[1]
            rows = rows[places] if isinstance(rows, np.ndarray) else rows[to_device(places, rows.device)]
        of_model = scorer.frame.rows if isinstance(rows, np.ndarray) else scorer.frame.on_device
        return {str(i): of_model(rows, model) for i, model in enumerate(scorer.models)}  # pyright: ignore

    def run(self, inputs: Mapping[str, Tensor], room: tuple[int, ...]) -> tuple[Any, ...]:
        """Return the tensors of the gradient."""
        full = {model: inputs[str(i)] for i, model in enumerate(self.scorer.models)}
        blocks = pad_blocks(self.blocks, room)[0]
        return self.scorer.differentiate(full, blocks, self.layout, self.options).tensors

    def result(self, outputs: Any, room: tuple[int, ...]) -> Gradient:
        """Return the gradient, as a copy."""
        tables = [model.embedding_table for model in self.scorer.models]
        fluency = self.scorer.models.index(self.scorer.counted)
        if room == self.sizes:
            return Gradient.of([None if x is None else x.clone() for x in outputs], tables, fluency)
        whole, blocks = Gradient.of(outputs, tables, fluency), pad_blocks(self.blocks, room)[0]
        own = [whole.part(slice(b.start, b.start + size)) for b, size in zip(blocks, self.sizes, strict=True)]
        joined = own[0] if len(own) == 1 else Gradient.concatenate(own)
        return Gradient.of([None if x is None else x.clone() for x in joined.tensors], tables, fluency)


def _start(option: _PassOptions | None) -> int:
    """Return the number of tokens at the beginning of every row that a pass leaves out."""
    return 0 if option is None or option.prefix is None else option.prefix.length


def _same(ours: Gradient, plain: Gradient, dtype: torch.dtype) -> bool:
    """Return whether two gradients differ by rounding at most."""
    pairs = zip(ours.tensors, plain.tensors, strict=True)
    return all(a is b if a is None or b is None else is_close(a, b, dtype) for a, b in pairs)
