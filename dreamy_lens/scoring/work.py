"""Work: how much a scorer has computed, in a unit that does not depend on the machine."""

from __future__ import annotations

from collections.abc import Sequence

from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.models.packed_forward import depth

BACKWARD = 3
"""Passes that a forward pass and its backward pass together are worth."""


class Work:
    """Account of token-layers: one token that goes through one layer of a model, forwards.

    Attributes:
        token_layers: Token-layers so far.
    """

    def __init__(self) -> None:
        self.token_layers = 0.0

    def add(self, model: HookedModel, tokens: int, capture: Sequence[str], logits: bool, passes: int = 1) -> None:
        """Add a pass.

        Args:
            model: Model that ran.
            tokens: Number of tokens of all rows, each shared one counted once.
            capture: Hook points that were read.
            logits: Whether the pass went on to the logits.
            passes: Forward passes that it is worth.
        """
        self.token_layers += passes * tokens * (model.n_layers if logits else depth(capture, model.n_layers))
