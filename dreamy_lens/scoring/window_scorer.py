"""Window scorer: values of many features, and cross-entropies, of the windows of a corpus.

Prompts of a search share prefixes. Windows do not, so every row is run whole. The savings are around the arithmetic:
components of a model that no feature reads are left out, all features take their numbers from one pass, and no layer
after the deepest hook point is run unless the cross-entropy is requested.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dreamy_lens.errors import SettingsError
from dreamy_lens.features.binding import runs_user_code
from dreamy_lens.features.forward_pass import ActivationSource, ForwardPass
from dreamy_lens.models.backend import ComponentBypass
from dreamy_lens.models.causality import check_causal
from dreamy_lens.models.hooked_model import HookedModel, keep_hooks, locked
from dreamy_lens.models.transfer import to_device
from dreamy_lens.scoring.batching import TOKENS, BatchRunner
from dreamy_lens.scoring.feature_bank import FeatureBank
from dreamy_lens.scoring.graphs import GRAPH, GraphedPasses
from dreamy_lens.scoring.kv_prefix import empty_cache
from dreamy_lens.scoring.prefix_sharing import is_close
from dreamy_lens.scoring.prompts import PromptFrame, longest
from dreamy_lens.scoring.window_batch import WindowBatch

MAX_ENTRIES = {"cpu": 3 << 21, "cuda": 1 << 29}
"""Largest count of logits and activations in one pass, by kind of device. The caches of a CPU hold little more."""

MIN_ROWS = 16
"""Smallest number of rows in one pass; with fewer, matrix products become slow."""

TRIAL_ROWS = 8
"""Number of rows on which a faster pass must agree with the plain pass before it is used."""


class WindowScores(NamedTuple):
    """Values of B rows for each bank, and cross-entropies if requested, on the model's device."""

    rows: int
    values: list[Float[Tensor, "B F"]]
    cross_entropy: Float[Tensor, " B"] | None


class WindowScorer:
    """Scorer of windows of one length.

    Args:
        banks: Feature banks of one model.
        model: Model of the banks.
        frame: Tokens around every window, and the model whose cross-entropy counts.
        length: Number of tokens of a window.
        cross_entropy: Whether cross-entropies are computed.
        batch_size: Number of windows in one pass; None chooses it.

    Raises:
        SettingsError: Windows are longer than the context of a model.
        ModelError: A weight of a model is NaN or infinite.

    Attributes:
        size: Number of windows in one pass. It is fixed, because the windows of a pass affect the last bits of each
            other's numbers.
        plain: Models that are run without any component left out, each with the reason.
    """

    def __init__(
        self,
        banks: Sequence[FeatureBank],
        model: HookedModel,
        frame: PromptFrame,
        length: int,
        cross_entropy: bool,
        batch_size: int | None = None,
    ) -> None:
        self.banks, self.model, self.frame, self.cross_entropy = tuple(banks), model, frame, cross_entropy
        self.layout = frame.layout(length)
        self._check_room(model, length)
        if cross_entropy:
            check_causal(frame.fluency)
        for bank in banks:
            bank.check_layout(self.layout)
        self.models: tuple[HookedModel, ...] = tuple(
            dict.fromkeys([*(m for b in banks for m in b.hooks), *([frame.fluency] if cross_entropy else [])])
        )
        for reader in self.models:
            reader.check_weights()
        self.captures = {
            m: tuple(dict.fromkeys(name for b in banks for name in b.hooks.get(m, ()))) for m in self.models
        }
        self.logits = {
            m for m in self.models if any(m in b.logits for b in banks) or (cross_entropy and m is frame.fluency)
        }
        self.graphs = GraphedPasses(model, "scanning", _same)
        self._runs_user_code = any(runs_user_code(bank.members[0]) for bank in banks)
        self._parts: dict[HookedModel, ComponentBypass] = {}
        self.plain: dict[HookedModel, str] = {}
        self._widths: dict[HookedModel, int] = {}
        self._prepared = False
        self.size = batch_size or 0

    def _check_room(self, model: HookedModel, length: int) -> None:
        """Raise SettingsError if a model, the fluency model included, cannot read windows of this length."""
        layout = self.layout
        models = dict.fromkeys([model, *(m for b in self.banks for m in b.hooks), self.frame.fluency])
        for reader in models:
            total = layout.total + len(reader.tail)
            if reader.n_ctx is not None and total > reader.n_ctx:
                around = ["the BOS"] * layout.bos + [f"the target's {len(reader.tail)} tokens"] * bool(reader.tail)
                more = f" makes {total} with {' and '.join(around)}" if around else " is too long"
                raise SettingsError(
                    f"A window of {length} tokens{more}, and {reader.name}'s context is {reader.n_ctx}; use a length "
                    f"of at most {reader.n_ctx - total + length}."
                )

    def prepare(self, rows: Int64[np.ndarray, "B n"]) -> None:
        """Check once, on a few rows, that the faster passes agree with the plain passes, and choose the batch size."""
        if self._prepared or not len(rows):
            return
        with locked(self.models), torch.no_grad():
            for model in self.models:
                ids = to_device(self.frame.rows(rows[:TRIAL_ROWS], model), model.device)
                plain = self._plain(model, ids)
                self._widths[model] = sum(x[0].numel() for x in plain.activations.values())
                self._parts[model] = model.bypass()
                why = self._differs(model, ids, plain)
                if why:
                    self.plain[model] = why
        if not self.size:
            self.size = self._choose_size()
        self._prepared = True

    def _choose_size(self) -> int:
        """Choose the number of rows in one pass, a power of 2, by the size of what a row computes."""
        device = self.model.device.type
        most = TOKENS.get(device, TOKENS["cpu"]) // longest(self.layout, self.models).total
        budget = MAX_ENTRIES.get(device, MAX_ENTRIES["cpu"])
        row = sum(self._widths.values())
        row += sum((self.layout.total + len(m.tail)) * m.vocabulary.size for m in self.logits)
        row += sum(len(bank) for bank in self.banks)
        size = max(MIN_ROWS, min(most, budget // max(row, 1)))
        return 1 << (size.bit_length() - 1)

    def _differs(self, model: HookedModel, ids: Tensor, plain: ForwardPass) -> str:
        """Return why the faster pass of a model cannot be used, or ""."""
        if model.is_hooked:
            return "hooks are attached to it"
        try:
            bare = self._bare(model, ids)
        except Exception as error:  # architectures may refuse in any way; then the plain pass is used
            return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        for name in self.captures[model]:
            if not is_close(bare.activations[name], plain.activations[name], model.dtype):
                return f"its activation at {name} differs"
        if model in self.logits:
            assert bare.logits is not None and plain.logits is not None
            if not is_close(bare.logits, plain.logits, model.dtype):
                return "its logits differ"
        return ""

    def _plain(self, model: HookedModel, ids: Tensor, past: bool = False) -> ForwardPass:
        """Run the whole model over the rows."""
        cache = empty_cache() if past else None
        activations, logits = model.run(ids, self.captures[model], logits=model in self.logits, past=cache)
        return ForwardPass(activations, logits, ids, self.layout.followed_by(len(model.tail)))

    def _bare(self, model: HookedModel, ids: Tensor, past: bool = False) -> ForwardPass:
        """Run the model over the rows without the components that no feature reads."""
        with model.kernels.used(), self._parts[model].bare(self.captures[model]):
            return self._plain(model, ids, past)

    def read(self, rows: Int64[np.ndarray, "B n"]) -> dict[HookedModel, ActivationSource]:
        """Run every model once over the rows."""
        return self._read({model: to_device(self.frame.rows(rows, model), model.device) for model in self.models})

    def _read(self, ids: Mapping[HookedModel, Tensor], past: bool = False) -> dict[HookedModel, ActivationSource]:
        """Run every model once over its rows on its device; `past` gives it an empty cache."""
        readings: dict[HookedModel, ActivationSource] = {}
        for model in self.models:
            plain = model in self.plain or model.is_hooked
            readings[model] = (self._plain if plain else self._bare)(model, ids[model], past)
        return readings

    def passes(self, rows: Int64[np.ndarray, "B n"]) -> Iterator[tuple[slice, WindowScores]]:
        """Compute values and cross-entropies of the rows, batch by batch.

        Yields:
            Slice of the rows, and their scores, which the scorer does not keep.
        """
        self.prepare(rows)
        batches = BatchRunner(self.size, "windows")
        for start in range(0, len(rows), self.size):
            part = rows[start : start + self.size]
            done = start
            for scores in batches.map(lambda at, part=part: self._score(part[at]), len(part)):
                yield slice(done, done + scores.rows), scores
                done += scores.rows

    def _score(self, rows: Int64[np.ndarray, "B n"]) -> WindowScores:
        """Score the rows of one batch."""
        with locked(self.models), torch.no_grad():
            if self._can_record():
                states = tuple((m.state, m.other_hooks, m.versions, m.addresses) for m in self.models)
                tensors = self.graphs.run(
                    states,
                    (self.layout, len(rows).bit_length(), tuple(self.captures.values()), len(self.banks)),
                    lambda: self._tensors(self.read(rows)),
                    {GRAPH: lambda: self._batch(rows)},
                )
            else:
                tensors = self._tensors(self.read(rows))
            losses = tensors.pop() if self.cross_entropy else None
            return WindowScores(len(rows), tensors, losses)

    def _tensors(self, readings: dict[HookedModel, ActivationSource]) -> list[Tensor]:
        """Return the values of each bank, and cross-entropies if requested."""
        values = [bank(readings) for bank in self.banks]
        if self.cross_entropy:
            values.append(to_device(readings[self.frame.fluency].cross_entropy, self.model.device))
        return values

    def _batch(self, rows: Int64[np.ndarray, "B n"]) -> WindowBatch:
        """Prepare the rows of one batch for a graph; an empty cache keeps Hugging Face from waiting for the device."""
        of_models = {model: self.frame.rows(rows, model) for model in self.models}
        return WindowBatch(of_models, lambda ids: self._tensors(self._read(ids, past=True)))

    def _can_record(self) -> bool:
        """Return whether passes can be recorded as graphs: on one CUDA device, without code of the user's in them."""
        return not self._runs_user_code and all(
            model.is_recordable and model.device == self.model.device for model in self.models
        )

    @contextlib.contextmanager
    def keep_hooks(self) -> Iterator[None]:
        """Keep the hooks of passes attached between passes, inside the `with` block; free graphs at its end."""
        with keep_hooks(self.models):
            try:
                yield
            finally:
                self.graphs.clear()


def _same(ours: list[Tensor], known: list[Tensor], dtype: torch.dtype) -> bool:
    """Return whether two results of a pass differ by rounding at most, each tensor by itself."""
    return all(
        torch.equal(a.isnan(), b.isnan()) and is_close(a.nan_to_num(), b.nan_to_num(), dtype)
        for a, b in zip(ours, known, strict=True)
    )
