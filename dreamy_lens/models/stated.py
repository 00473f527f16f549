"""Settings that a model's files state and that the loaded model would not keep, or that contradict each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dreamy_lens.errors import ModelError, warn

_NOT_KEPT: dict[str, tuple[Any, str]] = {
    "scale_attn_weights": (True, "attention scores that are not divided by the root of the heads' width"),
}
"""Settings of config.json that TransformerLens' attention ignores: the value that it computes, and what they mean.

Every setting of attention, norms, MLPs and logits of the architectures was compared between TransformerLens 4.3 and the
plain Hugging Face model; all others are kept, or TransformerLens refuses the model.
"""


def check_settings(name: str, settings: Mapping[str, Any]) -> None:
    """Raise ModelError if a model has a setting that would be computed as if it were absent.

    Args:
        name: Name of the model.
        settings: Contents of the model's config.json.
    """
    for key, (kept, meaning) in _NOT_KEPT.items():
        if settings.get(key, kept) != kept:
            raise ModelError(
                f"{name} states {key} = {settings[key]!r} ({meaning}), which TransformerLens ignores: every number "
                "would be wrong. Use another model, or give your own Backend for it."
            )


def say_disagreements(name: str, settings: Mapping[str, Any], tokenizer: Any) -> None:
    """Warn if the model and its tokenizer state different tokens as BOS; prompts follow the tokenizer's."""
    stated, used = settings.get("bos_token_id"), getattr(tokenizer, "bos_token_id", None)
    if isinstance(stated, int) and isinstance(used, int) and stated != used:
        warn(
            f"{name} states the BOS {stated} in config.json, and its tokenizer the BOS {used}. Prompts follow "
            f"{used}, the tokenizer's; if the model was trained with {stated}, set tokenizer.bos_token_id = {stated} "
            "before you use it.",
            UserWarning,
        )
