"""Swap tables: predicted changes of value and cross-entropy for every token at every position of a prompt."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import pad

from dreamy_lens.models.kernels import matmul_t
from dreamy_lens.models.transfer import to_device
from dreamy_lens.scoring.bigrams import Bigrams
from dreamy_lens.scoring.sampling import fit
from dreamy_lens.scoring.token_gradient import Gradient

CONTEXT = 0.25
"""Share of the context's gradient that predicts best beside the bigrams; without bigrams, it counts in full."""
FOLLOWING = 1.1
"""Weight of the change of the next token's surprisal that the bigrams predict."""


class SwapTables(NamedTuple):
    """Tables of P prompts, on one device.

    Attributes:
        value: Change of the value that the gradient predicts, float32 `[P, n, d_vocab]`.
        cross_entropy: Predicted change of the cross-entropy, nats per token; infinite for tokens that are not allowed
            and for the present one.
        surprisal: -log p of every token given what stands before it, in nats.
        own: -log p of the prompts' own tokens, `[P, n]`.
    """

    value: Float[Tensor, "P n d_vocab"]
    cross_entropy: Float[Tensor, "P n d_vocab"]
    surprisal: Float[Tensor, "P n d_vocab"]
    own: Float[Tensor, "P n"]

    def rows(self, which: slice) -> SwapTables:
        """Return the tables of some of the prompts."""
        return SwapTables(*(table[which] for table in self))

    def right_aligned(self, width: int) -> SwapTables:
        """Return the tables with positions before the prompts' first tokens, where nothing is proposed."""
        missing = width - self.own.shape[1]
        if not missing:
            return self
        empty = (0.0, torch.inf, torch.inf)
        value, change, surprisal = (pad(t, (0, 0, missing, 0), value=x) for t, x in zip(self, empty, strict=False))
        return SwapTables(value, change, surprisal, pad(self.own, (missing, 0)))

    @staticmethod
    def stack(parts: list[SwapTables]) -> SwapTables:
        """Put tables together."""
        return SwapTables(*(torch.cat(tables) for tables in zip(*parts, strict=True)))


def swap_tables(
    gradient: Gradient,
    ids: Int64[Tensor, "P n"],
    allowed: Bool[Tensor, " d_vocab"],
    terms: int,
    bigrams: Bigrams | None,
) -> SwapTables:
    """Predict the changes that replacing single tokens would make.

    The surprisal of the new token itself is exact. That of the token after it is predicted by the model's bigrams, and
    that of later tokens by the gradient.

    Args:
        gradient: Gradients at the prompts.
        ids: Token ids of the prompts, on the device that the tables are wanted on.
        allowed: Tokens that may be proposed.
        terms: Number of tokens whose surprisals are averaged in the cross-entropy.
        bigrams: Predictions after single tokens, or None.

    Returns:
        Tables with as many columns as `allowed` has entries.
    """
    fluency = gradient.parts[gradient.fluency]
    whole = len(allowed)
    width = min(whole, *(len(part.table) for part in gradient.parts))
    device = ids.device
    at = ids[..., None]
    value = to_device(gradient.of_value()[..., :width], device)
    value = fit(value.sub_(value.gather(-1, at)), whole, 0.0)
    assert fluency.surprisal is not None
    surprisal = fit(to_device(fluency.surprisal[..., :width], device) * terms, whole, torch.inf)
    own = surprisal.gather(-1, at)
    change = surprisal - own
    context = to_device(matmul_t(fluency.cross_entropy, fluency.table[:width].float()), device)
    context = fit(context.sub_(context.gather(-1, at)), whole, 0.0)
    if bigrams is None:
        change.add_(context, alpha=terms)
    else:
        following = bigrams.before[at[:, 1:, 0]]  # [P, n - 1, d_vocab]
        following -= following.gather(-1, at[:, :-1])
        change[:, :-1].sub_(following, alpha=FOLLOWING)
        change.add_(context, alpha=CONTEXT * terms)
    change /= terms
    change.masked_fill_(~allowed, torch.inf).scatter_(-1, at, torch.inf)
    return SwapTables(value, change, surprisal, own[..., 0])
