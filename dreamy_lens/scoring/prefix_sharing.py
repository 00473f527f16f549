"""Whether and how prompts of a model may be scored by shared prefixes, found out on a few prompts before it is used."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from dreamy_lens.features.forward_pass import ForwardPass, RowLayout
from dreamy_lens.models.backend import NotPackable, PackedRunner
from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.models.packed_attention import PassCache
from dreamy_lens.models.prefix_tree import build_tree
from dreamy_lens.models.transfer import to_device
from dreamy_lens.models.tree_attention import UnsupportedAttention
from dreamy_lens.scoring.batching import is_out_of_memory
from dreamy_lens.scoring.packed_reading import PackedPass
from dreamy_lens.scoring.prompts import PromptFrame

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}
"""By which part of the largest activation a packed pass may differ from a plain one; less precise types round more."""

COARSE = 0.05


class PrefixSharing:
    """Packed passes of one model, for prompts of one layout.

    Args:
        model: whose passes they are.
        layout: of every row.
        frame: what stands around every prompt.
        capture: hook points that will be read.
        final: whether logits will be.
        everywhere: whether a feature reads logits at other places than those that predict the prompt's tokens.
        at_most: rows in one pass, if there is a limit.

    Attributes:
        packed: the way that was found to give what plain rows give, or None if none does.
        why: in that case, why.
    """

    def __init__(
        self,
        model: HookedModel,
        layout: RowLayout,
        frame: PromptFrame,
        capture: Sequence[str],
        final: bool,
        everywhere: bool = False,
        at_most: int | None = None,
    ) -> None:
        self.model, self.layout, self.frame, self.capture = model, layout, frame, tuple(capture)
        self.final, self.everywhere = final, everywhere
        self.packed: PackedRunner | None = None
        self.why = "" if model.packed_ways else "its backend cannot run packed rows"
        self._kept: dict[bool, PassCache] = {}
        self._rows_of: dict[PackedRunner, frozenset[str]] = {}
        for way in model.packed_ways:
            try:
                packed = model.packed(way)
                packed.check(self.capture)
                self.why = self._tried(packed, at_most)
            except NotPackable as error:
                self.why = self.why or str(error)
            except UnsupportedAttention as error:
                self.why = str(error)
            except Exception as error:
                # Whatever an architecture does not like about packed rows is a reason not to use them.
                self.why = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            else:
                if not self.why:
                    self.packed = packed
                    break
        self._kept.clear()
        self._hooks = model.other_hooks

    @property
    def holds(self) -> bool:
        """Whether no hooks were attached to the model since."""
        return not self.model.is_hooked and self.model.other_hooks == self._hooks

    def run(self, rows: Int64[np.ndarray, "B total"], final: bool, packed: PackedRunner | None = None) -> PackedPass:
        """Run one packed pass.

        Args:
            rows: the rows, BOS and template included.
            final: whether logits are wanted.
            packed: a way to try; None is the one that was found.
        """
        packed = packed or self.packed
        assert packed is not None
        layout, device = self.layout, self.model.device
        before = self._prefix(rows, final, packed)
        packing = build_tree(rows, device, 0 if before is None else before.length)
        cut = packing
        if final and packed.depth(self.capture) < packed.model.n_layers and not self.everywhere:
            cut = packing.truncate(layout.predicting.stop)
        found = packed.run(packing, self.capture, final=final, cut=cut, before=before)
        return PackedPass(packed, layout, rows, packing, cut, found, before, self._by_rows(packed))

    def _by_rows(self, packed: PackedRunner) -> frozenset[str]:
        if packed not in self._rows_of:
            self._rows_of = {packed: packed.row_hooks(self.capture)}
        return self._rows_of[packed]

    def _prefix(self, rows: np.ndarray, final: bool, packed: PackedRunner) -> PassCache | None:
        """What is known of a template's prefix; made by the first pass."""
        if not self.layout.prefix:
            return None
        if final not in self._kept:
            kept = PassCache(self.layout.before)
            packing = build_tree(rows[:1, : self.layout.before], self.model.device)
            packed.run(packing, self.capture, final=final, keep=kept)
            self._kept[final] = kept
        return self._kept[final]

    def _tried(self, packed: PackedRunner, at_most: int | None) -> str:
        """Why a way cannot be used, or nothing; found out on fewer rows where memory does not do for a few."""
        rows = self.frame.rows(trial_prompts(self.model, self.layout, self.frame), self.model)[:at_most]
        while True:
            try:
                return self._differs(packed, rows)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if len(rows) == 1:
                    return "one prompt of a trial did not fit into memory"
            rows = rows[: len(rows) // 2]

    @torch.no_grad()
    def _differs(self, packed: PackedRunner, rows: np.ndarray) -> str:
        """Why a way cannot be used, if its activations or losses are not those of plain rows; else nothing."""
        layout, model = self.layout, self.model
        self._kept.clear()
        run = self.run(rows, self.final, packed)
        ids = to_device(rows, model.device)
        found, logits = model.run(ids, self.capture, logits=self.final)
        plain = ForwardPass(found, logits, ids, layout)
        reading = run.reading(np.arange(len(rows)))
        for name in self.capture:
            if not is_close(reading.activations[name], plain.activations[name], model.dtype):
                return f"its activation at {name} comes out differently"
        if self.final and layout.terms > 0 and not is_close(reading.cross_entropy, plain.cross_entropy, model.dtype):
            return "its cross-entropy comes out differently"
        return ""


def trial_prompts(model: HookedModel, layout: RowLayout, frame: PromptFrame) -> Int64[np.ndarray, "B n"]:
    """Draw prompts of the kind that a search scores: two, and children of them that differ in one token."""
    random = np.random.default_rng(0)
    allowed = model.vocabulary.allowed.nonzero()[0]
    allowed = allowed[allowed < frame.fluency.vocabulary.size]
    n = layout.length
    parents = random.choice(allowed, size=(2, n))
    places = sorted({0, 1 % n, n // 2, (n + 1) // 2 % n, n - 1})
    rows = [parents]
    for parent in parents:
        children = np.repeat(parent[None], len(places), 0)
        children[np.arange(len(places)), places] = random.choice(allowed, size=len(places))
        rows.append(children)
    return np.concatenate(rows).astype(np.int64)


def is_close(ours: Tensor, plain: Tensor, dtype: torch.dtype) -> bool:
    """Tell whether two tensors that a model of this type computed differ by rounding at most."""
    if ours.shape != plain.shape:
        return False
    tolerance = TOLERANCE.get(dtype, COARSE)
    a, b = ours.double().to(plain.device), plain.double()  # of a model on several devices, one may be on another
    usual = b.abs() < 1e30  # beyond is the minus infinity of a mask, which architectures write differently
    if not torch.equal(usual, a.abs() < 1e30):
        return False
    a, b = a[usual], b[usual]
    return a.numel() == 0 or bool((a - b).abs().max() <= tolerance * b.abs().max().clamp_min(1e-6))


def warn_unshared(model: HookedModel, why: str) -> None:
    """Warn that a model's prompts are scored whole."""
    warnings.warn(
        f"Prompts are scored whole on {model.name}, which is slower than by shared prefixes and gives the same "
        f"numbers: {why}. share_prefixes=False says that this is meant.",
        RuntimeWarning,
        stacklevel=2,
    )
