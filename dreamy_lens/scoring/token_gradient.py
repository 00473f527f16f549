"""Token gradients, kept as factors: the first-order effect of every token substitution."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dreamy_lens.models.kernels import matmul_t
from dreamy_lens.models.transfer import to_device


@dataclass(frozen=True)
class ModelGradient:
    """Contribution of one model to a gradient.

    Attributes:
        value: Gradient of the value at the prompt's embeddings, float32 `[B, n, d_model]`.
        cross_entropy: Gradient of the cross-entropy at the prompt's embeddings, float32 `[B, n, d_model]`.
        value_charge: Derivative of the value with respect to this model's cross-entropy, `[B]`.
        cross_entropy_charge: 1 for the fluency model, otherwise 0, `[B]`.
        surprisal: -log p of each token divided by the number of predicted tokens, `[B, n, d_vocab]`: the exact
            contribution of the token, as a target, to the mean cross-entropy. None if not needed.
        table: Embedding of each token, `[d_vocab, d_model]`.
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
        parts: Contribution of each model that was run.
        value: Values of the prompts, float32 `[B]`.
        cross_entropy: Cross-entropies of the prompts, float32 `[B]`, nats per token.
        fluency: Number of the part whose model measures the cross-entropy.
    """

    parts: tuple[ModelGradient, ...]
    value: Float[Tensor, " B"]
    cross_entropy: Float[Tensor, " B"]
    fluency: int = 0

    def objective(self, rows: Int64[Tensor, " M"], lambdas: Float[Tensor, " M"]) -> Float[Tensor, "M n d_vocab"]:
        """Compute the gradient of the full objective `L = value - λ cross_entropy` (Eq. 1) for members of a population.

        Args:
            rows: Index of each member's prompt, `[M]`; several members may have one prompt.
            lambdas: λ of each member, `[M]`.

        Returns:
            The gradient, float32 `[M, n, d_vocab]`. The present token has an entry too: the effect of a substitution is
            the difference between two entries of one position.
        """
        return self._mixture(rows, torch.ones_like(lambdas), -lambdas)

    def of_value(self) -> Float[Tensor, "B n d_vocab"]:
        """Compute the gradient of the value alone."""
        rows = torch.arange(len(self.value), device=self.value.device)
        return self._mixture(
            rows, torch.ones(len(rows), device=rows.device), torch.zeros(len(rows), device=rows.device)
        )

    def of_cross_entropy(self) -> Float[Tensor, "B n d_vocab"]:
        """Compute the gradient of the cross-entropy alone."""
        rows = torch.arange(len(self.value), device=self.value.device)
        return self._mixture(
            rows, torch.zeros(len(rows), device=rows.device), torch.ones(len(rows), device=rows.device)
        )

    def _mixture(
        self, rows: Int64[Tensor, " M"], of_value: Float[Tensor, " M"], of_cross_entropy: Float[Tensor, " M"]
    ) -> Float[Tensor, "M n d_vocab"]:
        """Sum both gradients over all models, with the weights of each member."""
        width = min(len(part.table) for part in self.parts)
        total: Tensor | None = None
        for part in self.parts:
            device = part.value.device
            at, f, c = (to_device(x, device) for x in (rows, of_value, of_cross_entropy))
            embedded = f[:, None, None] * part.value[at] + c[:, None, None] * part.cross_entropy[at]
            gradient = matmul_t(embedded, part.table[:width].float())
            if part.surprisal is not None:
                charge = f * part.value_charge[at] + c * part.cross_entropy_charge[at]
                gradient += charge[:, None, None] * part.surprisal[at, :, :width]
            gradient = to_device(gradient, rows.device)
            total = gradient if total is None else total + gradient
        assert total is not None
        return total

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """Tensors of all parts except the tables, then the scores; :meth:`of` is the inverse."""
        parts = ((p.value, p.cross_entropy, p.value_charge, p.cross_entropy_charge, p.surprisal) for p in self.parts)
        return (*itertools.chain(*parts), self.value, self.cross_entropy)

    @staticmethod
    def of(tensors: Sequence[Any], tables: Sequence[Tensor], fluency: int) -> Gradient:
        """Make a gradient of its :attr:`tensors`, the embedding table of each part, and the fluency model's number."""
        groups = (tensors[5 * i : 5 * i + 5] for i in range(len(tables)))
        parts = tuple(ModelGradient(a, b, c, d, e, t) for (a, b, c, d, e), t in zip(groups, tables, strict=True))
        return Gradient(parts, tensors[-2], tensors[-1], fluency)

    def part(self, rows: slice) -> Gradient:
        """Return the gradients of some of the prompts."""
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
        return Gradient(tuple(parts), self.value[rows], self.cross_entropy[rows], self.fluency)

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
        value, cross_entropy = (torch.cat([getattr(g, name) for g in gradients]) for name in ("value", "cross_entropy"))
        return Gradient(tuple(parts), value, cross_entropy, gradients[0].fluency)
