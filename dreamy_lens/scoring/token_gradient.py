"""Token gradients, kept as factors: what a substitution would change, to first order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dreamy_lens.models.kernels import matmul_t
from dreamy_lens.models.transfer import to_device


@dataclass(frozen=True)
class ModelGradient:
    """Contribution of one model to a gradient.

    Attributes:
        value: gradient of the value at the prompt's embeddings, float32 `[B, n, d_model]`.
        cross_entropy: gradient of the cross-entropy at the prompt's embeddings.
        value_charge: how much the value depends on this model's cross-entropy, `[B]`.
        cross_entropy_charge: 1 for the fluency model, else 0, `[B]`.
        surprisal: -log p of each token divided by the number of predicted tokens, `[B, n, d_vocab]`, or None if not
            needed: the exact change of the mean cross-entropy with the token as a target.
        table: `[d_vocab, d_model]`, what each token embeds to.
    """

    value: Float[Tensor, "B n d_model"]
    cross_entropy: Float[Tensor, "B n d_model"]
    value_charge: Float[Tensor, " B"]
    cross_entropy_charge: Float[Tensor, " B"]
    surprisal: Float[Tensor, "B n d_vocab"] | None
    table: Float[Tensor, "d_vocab d_model"]


@dataclass(frozen=True)
class Gradient:
    """Gradients with respect to the one-hot tokens of B prompts, for one or several models.

    Attributes:
        parts: one for each model that was run.
        value: the prompts' values, float32 `[B]`.
        cross_entropy: the prompts' cross-entropies, float32 `[B]`, nats per token.
    """

    parts: tuple[ModelGradient, ...]
    value: Float[Tensor, " B"]
    cross_entropy: Float[Tensor, " B"]

    def objective(self, rows: Int64[Tensor, " M"], lambdas: Float[Tensor, " M"]) -> Float[Tensor, "M n d_vocab"]:
        """Gradient of the full objective `L = value - λ cross_entropy` (Eq. 1) for members of a population.

        Args:
            rows: which prompt each member is, `[M]`; several may be the same one.
            lambdas: each member's λ, `[M]`.

        Returns:
            `[M, n, d_vocab]` float32. The token that is there has an entry like any other: only differences within a
            position say what a substitution does.
        """
        return self._mixture(rows, torch.ones_like(lambdas), -lambdas)

    def of_value(self) -> Float[Tensor, "B n d_vocab"]:
        """Gradient of the value alone."""
        rows = torch.arange(len(self.value), device=self.value.device)
        return self._mixture(
            rows, torch.ones(len(rows), device=rows.device), torch.zeros(len(rows), device=rows.device)
        )

    def of_cross_entropy(self) -> Float[Tensor, "B n d_vocab"]:
        """Gradient of the cross-entropy alone."""
        rows = torch.arange(len(self.value), device=self.value.device)
        return self._mixture(
            rows, torch.zeros(len(rows), device=rows.device), torch.ones(len(rows), device=rows.device)
        )

    def _mixture(
        self, rows: Int64[Tensor, " M"], of_value: Float[Tensor, " M"], of_cross_entropy: Float[Tensor, " M"]
    ) -> Float[Tensor, "M n d_vocab"]:
        """Sum of both gradients with weights for each member, over all models."""
        width = min(len(part.table) for part in self.parts)
        total: Tensor | None = None
        for part in self.parts:
            device = part.value.device
            at, f, c = (to_device(x, device) for x in (rows, of_value, of_cross_entropy))
            embedded = f[:, None, None] * part.value[at] + c[:, None, None] * part.cross_entropy[at]
            out = matmul_t(embedded, part.table[:width].float())
            if part.surprisal is not None:
                charge = f * part.value_charge[at] + c * part.cross_entropy_charge[at]
                out += charge[:, None, None] * part.surprisal[at, :, :width]
            out = to_device(out, rows.device)
            total = out if total is None else total + out
        assert total is not None
        return total

    def part(self, rows: slice) -> Gradient:
        """Select some of the prompts."""
        parts = (
            ModelGradient(
                p.value[rows],
                p.cross_entropy[rows],
                p.value_charge[rows],
                p.cross_entropy_charge[rows],
                None if p.surprisal is None else p.surprisal[rows],
                p.table,
            )
            for p in self.parts
        )
        return Gradient(tuple(parts), self.value[rows], self.cross_entropy[rows])

    @staticmethod
    def concatenate(gradients: Sequence[Gradient]) -> Gradient:
        """Put the gradients of consecutive batches together."""
        if len(gradients) == 1:
            return gradients[0]
        parts = []
        for group in zip(*(g.parts for g in gradients), strict=True):
            surprisals = [p.surprisal for p in group if p.surprisal is not None]
            parts.append(
                ModelGradient(
                    torch.cat([p.value for p in group]),
                    torch.cat([p.cross_entropy for p in group]),
                    torch.cat([p.value_charge for p in group]),
                    torch.cat([p.cross_entropy_charge for p in group]),
                    torch.cat(surprisals) if len(surprisals) == len(group) else None,
                    group[0].table,
                )
            )
        return Gradient(
            tuple(parts), torch.cat([g.value for g in gradients]), torch.cat([g.cross_entropy for g in gradients])
        )
