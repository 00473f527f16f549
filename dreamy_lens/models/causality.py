"""Verification that a model is causal: that its output at a position does not depend on later tokens.

The cross-entropy of Eq. 1 measures fluency only if each token is predicted from the tokens before it. A model that sees
both sides of a token, such as BERT or the encoder of T5, reads the token that it should predict. Prefixes can be shared
between prompts only in a causal model, too.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch

from dreamy_lens.errors import ModelError

if TYPE_CHECKING:
    from dreamy_lens.models.hooked_model import HookedModel

_LENGTH = 8
_CHANGES = 4
"""Number of different last tokens that are tried."""

_FOUND: weakref.WeakKeyDictionary[Any, dict[Any, bool]] = weakref.WeakKeyDictionary()
"""Verdicts of each model, by mode of the model."""


def is_causal(model: HookedModel) -> bool:
    """Return whether logits at a position stay the same when a later token changes; tried once for each model."""
    with model.lock:
        known, key = _FOUND.setdefault(model.base, {}), model.backend.mode
        if key not in known:
            verdict = _try(model.base)
            if verdict is None:
                return True  # logits that are NaN show nothing; the scorer says which weights are damaged
            known[key] = verdict
        return known[key]


def check_causal(model: HookedModel) -> None:
    """Raise ModelError unless a model is causal, because its cross-entropy would not measure fluency."""
    if not is_causal(model):
        raise ModelError(
            f"{model.name} sees later tokens: its output at a position changes when a later token changes, so its "
            "cross-entropy does not measure fluency. Give a causal model with the same tokenizer: fluency_model=... "
            "(a scan can also leave it out: cross_entropy=False)."
        )


@torch.no_grad()
def _try(model: HookedModel) -> bool | None:
    """Compare logits before the last position between rows that differ in the last token only; None if some are NaN."""
    allowed = [int(i) for i in model.vocabulary.allowed.nonzero()[0]]
    length = min(_LENGTH, model.n_ctx or _LENGTH)
    row = [*model.bos(None), *(allowed[i * 5 % len(allowed)] for i in range(length))][:length]
    last = [allowed[(i * len(allowed)) // _CHANGES] for i in range(_CHANGES)]
    ids = torch.tensor([[*row[:-1], token] for token in last], device=model.device)
    with model.backend.unhooked():  # hooks of the user are not part of the model
        _, logits = model.run(ids, logits=True)
    assert logits is not None
    if logits.isnan().any() or length == 1:
        return None
    # Rounding may differ between rows where experts group tokens, but by far less than by what a token tells.
    finite = logits.float().nan_to_num(posinf=0.0, neginf=0.0)
    tolerance = max(4 * torch.finfo(logits.dtype).eps, 1e-4) * float(finite.abs().max())
    before = finite[:, : length - 1]
    return bool(((before - before[:1]).abs().max() <= tolerance).item())
