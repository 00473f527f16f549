"""Values of many features, and cross-entropies, of many prompts that have nothing in common: a corpus' windows.

Prompts of a search share prefixes; windows do not, so every row is run whole. What is saved here is everything around
the arithmetic: components of a bridge that nobody reads are left out, all features that share a pass take their numbers
from it, and nothing deeper than the deepest hook point is run unless the cross-entropy is wanted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dreamy_lens.errors import SettingsError
from dreamy_lens.features.forward_pass import ActivationSource, ForwardPass
from dreamy_lens.models.backend import ComponentBypass
from dreamy_lens.models.hooked_model import HookedModel, keep_hooks, locked
from dreamy_lens.models.transfer import to_device
from dreamy_lens.scoring.batching import TOKENS, BatchRunner
from dreamy_lens.scoring.feature_bank import FeatureBank
from dreamy_lens.scoring.prefix_sharing import is_close
from dreamy_lens.scoring.prompts import PromptFrame

NUMBERS = {"cpu": 3 << 21, "cuda": 1 << 29}
"""Logits and activations, counted in numbers, of one pass, by kind of device. A processor's caches hold little more."""

LEAST = 16
"""Rows in one pass below which products of matrices become slow."""

TRIED = 8
"""Rows on which a faster pass has to give what the plain one gives before it is used."""


class WindowScores(NamedTuple):
    """Values of B rows for each bank, and cross-entropies if they were asked for, on the model's device."""

    rows: int
    values: list[Float[Tensor, "B F"]]
    cross_entropy: Float[Tensor, " B"] | None


class WindowScorer:
    """Scores rows of one length.

    Args:
        banks: of one model.
        model: that model.
        frame: what stands around every row, and whose cross-entropy counts.
        length: tokens of a row, without what the frame puts around it.
        cross_entropy: whether it is wanted.
        batch_size: rows in one pass; None chooses.

    Raises:
        SettingsError: rows are longer than a model's context.

    Attributes:
        size: rows in one pass. Which rows come together decides the last bits of their numbers, so it is fixed.
        plain: models that are run as TransformerLens runs them, and why.
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
        for bank in banks:
            bank.check_layout(self.layout)
        self.models: tuple[HookedModel, ...] = tuple(
            dict.fromkeys([*(m for b in banks for m in b.hooks), *([frame.fluency] if cross_entropy else [])])
        )
        self.captures = {
            m: tuple(dict.fromkeys(name for b in banks for name in b.hooks.get(m, ()))) for m in self.models
        }
        self.logits = {
            m for m in self.models if any(m in b.logits for b in banks) or (cross_entropy and m is frame.fluency)
        }
        self._parts: dict[HookedModel, ComponentBypass] = {}
        self.plain: dict[HookedModel, str] = {}
        self._widths: dict[HookedModel, int] = {}
        self._tried = False
        self.size = batch_size or 0

    def _check_room(self, model: HookedModel, length: int) -> None:
        """Raise SettingsError if a model cannot read rows of this length; that of the cross-entropy has to as well."""
        layout = self.layout
        models = dict.fromkeys([model, *(m for b in self.banks for m in b.hooks), self.frame.fluency])
        for reader in models:
            if reader.n_ctx is not None and layout.total > reader.n_ctx:
                more = f" makes {layout.total} with the BOS" if layout.bos else " is too long"
                raise SettingsError(
                    f"A window of {length} tokens{more}, and {reader.name}'s context is {reader.n_ctx}; use a length "
                    f"of at most {reader.n_ctx - layout.total + length}."
                )

    def prepare(self, rows: Int64[np.ndarray, "B n"]) -> None:
        """Find out on a few rows whether the faster passes give what the plain ones give, once."""
        if self._tried or not len(rows):
            return
        with locked(self.models), torch.no_grad():
            for model in self.models:
                ids = to_device(self.frame.rows(rows[:TRIED], model), model.device)
                plain = self._plain(model, ids)
                self._widths[model] = sum(x[0].numel() for x in plain.activations.values())
                self._parts[model] = model.bypass()
                why = self._differs(model, ids, plain)
                if why:
                    self.plain[model] = why
        if not self.size:
            self.size = self._chosen()
        self._tried = True

    def _chosen(self) -> int:
        device = self.model.device.type
        most = TOKENS.get(device, TOKENS["cpu"]) // self.layout.total
        budget = NUMBERS.get(device, NUMBERS["cpu"])
        row = sum(self._widths.values()) + sum(self.layout.total * m.vocabulary.size for m in self.logits)
        row += sum(len(bank) for bank in self.banks)
        size = max(LEAST, min(most, budget // max(row, 1)))
        return 1 << (size.bit_length() - 1)

    def _differs(self, model: HookedModel, ids: Tensor, plain: ForwardPass) -> str:
        if model.is_hooked:
            return "somebody has hooks on it"
        try:
            bare = self._bare(model, ids)
        except Exception as error:  # whatever an architecture does not like is a reason to run it as it is
            return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        for name in self.captures[model]:
            if not is_close(bare.activations[name], plain.activations[name], model.dtype):
                return f"its activation at {name} comes out differently"
        if model in self.logits:
            assert bare.logits is not None and plain.logits is not None
            if not is_close(bare.logits, plain.logits, model.dtype):
                return "its logits come out differently"
        return ""

    def _plain(self, model: HookedModel, ids: Tensor) -> ForwardPass:
        activations, logits = model.run(ids, self.captures[model], logits=model in self.logits)
        return ForwardPass(activations, logits, ids, self.layout)

    def _bare(self, model: HookedModel, ids: Tensor) -> ForwardPass:
        with model.kernels.used(), self._parts[model].bare(self.captures[model]):
            return self._plain(model, ids)

    def read(self, rows: Int64[np.ndarray, "B n"]) -> dict[HookedModel, ActivationSource]:
        """Run every model once over the rows."""
        readings: dict[HookedModel, ActivationSource] = {}
        for model in self.models:
            ids = to_device(self.frame.rows(rows, model), model.device)
            plain = model in self.plain or model.is_hooked
            readings[model] = self._plain(model, ids) if plain else self._bare(model, ids)
        return readings

    def passes(self, rows: Int64[np.ndarray, "B n"]) -> Iterator[tuple[slice, WindowScores]]:
        """Compute values and cross-entropies of the rows, batch by batch.

        Yields:
            A slice of the rows with their scores, which are not kept here.
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
        with locked(self.models), torch.no_grad():
            readings = self.read(rows)
            values = [bank(readings) for bank in self.banks]
            losses = None
            if self.cross_entropy:
                losses = to_device(readings[self.frame.fluency].cross_entropy, self.model.device)
            return WindowScores(len(rows), values, losses)

    @contextlib.contextmanager
    def keep_hooks(self) -> Iterator[None]:
        """Keep the hooks that passes read with attached between passes."""
        with keep_hooks(self.models):
            yield
