"""Prefix sharing: the way in which a model scores prompts by shared prefixes, verified on a few prompts before use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from dreamy_lens.errors import warn
from dreamy_lens.features.forward_pass import ForwardPass, RowLayout
from dreamy_lens.models.backend import NotPackable, PackedRunner
from dreamy_lens.models.causality import is_causal
from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.models.packed_attention import PassCache
from dreamy_lens.models.prefix_tree import build_tree
from dreamy_lens.models.transfer import in_float64, to_device
from dreamy_lens.models.tree_attention import UnsupportedAttention
from dreamy_lens.scoring.batching import is_out_of_memory
from dreamy_lens.scoring.packed_reading import PackedPass
from dreamy_lens.scoring.prompts import PromptFrame

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}
"""Largest difference between a packed and a plain pass, relative to the largest activation, by dtype."""

COARSE_TOLERANCE = 0.05
"""Tolerance for less precise dtypes, which round more."""


class PrefixSharing:
    """Packed passes of one model, for prompts of one layout.

    Args:
        model: Model that is run.
        layout: Layout of every row.
        frame: Tokens around every prompt.
        capture: Hook points that will be read.
        final: Whether logits will be read.
        everywhere: Whether a feature reads logits at positions other than those that predict the prompt's tokens.
        at_most: Largest number of rows in one pass; None sets no limit.

    Attributes:
        packed: Packed form of the model whose numbers agree with plain passes; None if there is none.
        why: Reason why `packed` is None; empty otherwise.
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
        self._kept: dict[bool, PassCache] = {}
        self._rows_of: dict[PackedRunner, frozenset[str]] = {}
        self._hooks = model.other_hooks
        self.why = "" if model.packed_ways else "its backend has no packed passes"
        if model.packed_ways and not is_causal(model):
            self.why = "a token's activations depend on later tokens, so prefixes cannot be shared"
            return
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
                # Architectures refuse packed rows with many kinds of errors; each is a reason to use plain rows.
                detail = (str(error).splitlines() or [""])[0].rstrip(".")
                self.why = f"the model does not run on packed rows ({type(error).__name__}: {detail})"
            else:
                if not self.why:
                    self.packed = packed
                    break
        self._kept.clear()
        self._hooks = model.other_hooks  # the trials may have added hooks of TransformerLens

    @property
    def holds(self) -> bool:
        """Return whether the hooks on the model are still those under which the sharing was verified."""
        return not self.model.is_hooked and self.model.other_hooks == self._hooks

    def run(self, rows: Int64[np.ndarray, "B total"], final: bool, packed: PackedRunner | None = None) -> PackedPass:
        """Run one packed pass.

        Args:
            rows: Token ids of the rows, with BOS and template.
            final: Whether logits are needed.
            packed: Packed form of the model to try; None is the verified one.
        """
        packed = packed or self.packed
        assert packed is not None
        layout, device = self.layout, self.model.device
        before = self.prefix(rows, final, packed)
        packing = build_tree(rows, device, 0 if before is None else before.length)
        cut = packing.truncate(layout.predicting.stop) if self.truncates(final, packed) else packing
        found = packed.run(packing, self.capture, final=final, cut=cut, before=before)
        return PackedPass(packed, layout, rows, packing, cut, found, before, self._by_rows(packed))

    def truncates(self, final: bool, packed: PackedRunner | None = None) -> bool:
        """Return whether the last blocks of a pass compute only the positions that predict tokens of the prompt."""
        packed = packed or self.packed
        assert packed is not None
        return final and packed.depth(self.capture) < packed.model.n_layers and not self.everywhere

    def _by_rows(self, packed: PackedRunner) -> frozenset[str]:
        """Return the hook points whose activations are stored for each row."""
        if packed not in self._rows_of:
            self._rows_of = {packed: packed.row_hooks(self.capture)}
        return self._rows_of[packed]

    def prefix(self, rows: np.ndarray, final: bool, packed: PackedRunner | None = None) -> PassCache | None:
        """Return the cached pass over the template's prefix, which the first call makes; None without a prefix."""
        packed = packed or self.packed
        assert packed is not None
        if not self.layout.prefix:
            return None
        if final not in self._kept:
            kept = PassCache(self.layout.before)
            packing = build_tree(rows[:1, : self.layout.before], self.model.device)
            packed.run(packing, self.capture, final=final, keep=kept)
            self._kept[final] = kept
        return self._kept[final]

    def _tried(self, packed: PackedRunner, at_most: int | None) -> str:
        """Return why a packed form cannot be used, or ""; try fewer rows when memory runs out."""
        rows = self.frame.rows(trial_prompts(self.model, self.layout, self.frame), self.model)[:at_most]
        while True:
            try:
                return self._differs(packed, rows)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if len(rows) == 1:
                    return "a single trial prompt does not fit into memory"
            rows = rows[: len(rows) // 2]

    @torch.no_grad()
    def _differs(self, packed: PackedRunner, rows: np.ndarray) -> str:
        """Return how the numbers of a packed form differ from those of plain rows, or ""."""
        layout, model = self.layout, self.model
        self._kept.clear()
        run = self.run(rows, self.final, packed)
        ids = to_device(rows, model.device)
        activations, logits = model.run(ids, self.capture, logits=self.final)
        plain = ForwardPass(activations, logits, ids, layout)
        reading = run.reading(np.arange(len(rows)))
        for name in self.capture:
            if not is_close(reading.activations[name], plain.activations[name], model.dtype):
                return f"its activation at {name} differs"
        if self.final and layout.terms > 0 and not is_close(reading.cross_entropy, plain.cross_entropy, model.dtype):
            return "its cross-entropy differs"
        return ""


def trial_prompts(model: HookedModel, layout: RowLayout, frame: PromptFrame) -> Int64[np.ndarray, "B n"]:
    """Draw prompts like those of a search: two parents, and children of them that differ in one token."""
    random = np.random.default_rng(0)
    allowed = model.vocabulary.allowed.nonzero()[0]
    allowed = allowed[allowed < frame.fluency.vocabulary.size]
    n = layout.length
    parents = random.choice(allowed, size=(2, n))
    positions = sorted({0, 1 % n, n // 2, (n + 1) // 2 % n, n - 1})
    rows = [parents]
    for parent in parents:
        children = np.repeat(parent[None], len(positions), 0)
        children[np.arange(len(positions)), positions] = random.choice(allowed, size=len(positions))
        rows.append(children)
    return np.concatenate(rows).astype(np.int64)


def is_close(ours: Tensor, plain: Tensor, dtype: torch.dtype) -> bool:
    """Return whether two tensors that a model of this dtype computed differ by rounding at most."""
    if ours.shape != plain.shape:
        return False
    tolerance = TOLERANCE.get(dtype, COARSE_TOLERANCE)
    a, b = in_float64(ours), in_float64(plain)
    a = a.to(b.device)  # if a model spans several devices
    unmasked = b.abs() < 1e30  # larger entries are the minus infinity of masks, which architectures write differently
    if not torch.equal(unmasked, a.abs() < 1e30):
        return False
    a, b = a[unmasked], b[unmasked]
    return a.numel() == 0 or bool((a - b).abs().max() <= tolerance * b.abs().max().clamp_min(1e-6))


def warn_unshared(model: HookedModel, why: str) -> None:
    """Warn that prompts are scored whole on a model."""
    warn(
        f"Prompts are scored whole on {model.name}, which is slower than by shared prefixes and gives the same "
        f"numbers: {why}. Set share_prefixes=False to silence this warning.",
        RuntimeWarning,
    )
