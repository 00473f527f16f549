"""Verification of hook points whose activations are changed: that the rest of the model reads what was put there.

TransformerLens fires some hook points on a copy, or at the input of one component only, so that a changed activation
goes nowhere, or not everywhere where its name says. One pass over a few tokens shows it for the model at hand.
"""

from __future__ import annotations

import re
import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dreamy_lens._warnings import ignored_warnings
from dreamy_lens.errors import HookNotEditableError
from dreamy_lens.models.hook_evidence import PROBE_LENGTH, same_numbers

if TYPE_CHECKING:
    from dreamy_lens.models.hooked_model import HookedModel

_FOUND: weakref.WeakKeyDictionary[Any, dict[Any, str | None]] = weakref.WeakKeyDictionary()
"""Reasons of each model why a hook point cannot be edited, or None, by name of the hook point and mode."""

_STREAM = re.compile(r"blocks\.(\d+)\.(hook_resid_pre|hook_resid_mid|hook_resid_post|hook_in|hook_out)")
_WRITTEN = re.compile(r"blocks\.(\d+)\.(hook_mlp_out|hook_attn_out)")


def uneditable(model: HookedModel, name: str) -> str | None:
    """Return why a changed activation at a hook point does not do what its name says, or None if it does.

    Args:
        model: Model with the hook point.
        name: Name of the hook point, which fires in a forward pass.

    Raises:
        HookNotFiredError: A forward pass does not go through the hook point.
        ModelError: The backend cannot change activations.
    """
    known = _FOUND.setdefault(model.base, {})
    key = name, model.backend.mode
    if key not in known:
        quiet = ignored_warnings()  # TransformerLens warns of a discarded edit; the error says it
        with model.lock, torch.no_grad(), model.backend.unhooked(), quiet:
            known[key] = _reason(model, name)
    return known[key]


def check_editable(model: HookedModel, name: str) -> None:
    """Raise HookNotEditableError unless the rest of a model reads what is put at a hook point.

    Args:
        model: Model with the hook point.
        name: Name of the hook point, which fires in a forward pass.

    Raises:
        HookNotEditableError: A changed activation goes nowhere, or not everywhere.
        HookNotFiredError: A forward pass does not go through the hook point.
        ModelError: The backend cannot change activations.
    """
    why = uneditable(model, name)
    if why is not None:
        raise HookNotEditableError(f"The activation at {name} of {model.name} cannot be changed: {why}.")


def _reason(model: HookedModel, name: str) -> str | None:
    allowed = model.vocabulary.allowed.nonzero()[0]
    before = model.bos(None)
    rows = [[*before, *(int(allowed[(i * 7 + k * 3) % len(allowed)]) for i in range(PROBE_LENGTH))] for k in range(2)]
    ids = torch.tensor(rows, device=model.device)
    stream, written = _STREAM.fullmatch(name), _WRITTEN.fullmatch(name)
    layer = int((stream or written)[1]) if stream or written else 0  # pyright: ignore[reportOptionalSubscript]
    after = f"blocks.{layer}.hook_resid_post"
    watched = [after] if written and after in model.hook_names() else []
    activations, plain = model.run(ids, [name, *watched])
    assert plain is not None
    noise = torch.randn(activations[name].shape, generator=torch.Generator().manual_seed(0)).to(plain.device)
    noise = noise * activations[name].float().std().clamp_min(1e-3).to(plain.device)

    def edited(change: Any) -> tuple[dict[str, Tensor], Tensor]:
        seen, logits = model.run_edited(ids, [(name, change)], watched)
        assert logits is not None
        return seen, logits

    seen, moved = edited(lambda x: x.float() + noise.to(x.device))
    if not bool(moved.isfinite().all()):
        return None  # nothing can be told from numbers that are not finite
    if same_numbers(moved, plain) and float((moved - plain).abs().max()) <= 1e-6 * float(plain.abs().max()):
        return "TransformerLens shows it there, but the rest of the model does not read what is put in its place"
    if stream is not None:
        _, swapped = edited(lambda x: x.flip(0))
        # What follows the stream depends on nothing else, except where a model reads its tokens again in every layer.
        if not same_numbers(swapped, plain.flip(0), plain) and _reads_tokens_once(model, ids):
            where = f"blocks.{layer}.hook_attn_out" if stream[2] == "hook_resid_mid" else after
            return (
                "one component reads it there, and the residual stream goes on without the change. To change the "
                f"stream, use {where}"
            )
    if watched and written is not None and (written[2] == "hook_mlp_out" or model.backend.parallel_blocks):
        difference = seen[after].float() - activations[after].float() - noise.to(seen[after].device)
        if not same_numbers(difference, torch.zeros_like(difference), activations[after]):
            return "what is put there is not what the component adds to the residual stream"
    return None


def _reads_tokens_once(model: HookedModel, ids: Tensor) -> bool:
    """Return whether the first residual stream alone decides the logits, as in models that read their tokens once."""
    first = "blocks.0.hook_resid_pre"
    if first not in model.hook_names():
        return True
    _, plain = model.run(ids)
    _, swapped = model.run_edited(ids, [(first, lambda x: x.flip(0))])
    assert plain is not None and swapped is not None
    return same_numbers(swapped, plain.flip(0), plain)
