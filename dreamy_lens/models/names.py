"""Names of models and hook points: absolute paths of model folders, and suggestions for misspelt names."""

from __future__ import annotations

import difflib
import fnmatch
import os
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from dreamy_lens._files import why_no_path
from dreamy_lens.errors import LONGEST
from dreamy_lens.models.embedded import EMBEDDED_NAME


def located(name: str) -> str:
    """Return the absolute path of a model folder, valid in any working folder; return other names unchanged."""
    if why_no_path(name):
        return name
    folder = Path(name).expanduser()
    if name == EMBEDDED_NAME or not (folder / "config.json").is_file():
        return name
    return os.path.abspath(folder)


def nearest(name: str, names: Sequence[str], count: int = 3, cutoff: float = 0.5) -> list[str]:
    """Return the names most similar to a misspelt name, same layer first; compare a partial name with name endings.

    Of a name of absurd length, only the beginning is compared.

    Args:
        name: Name that does not exist.
        names: Names that exist.
        count: Largest number of names to return.
        cutoff: Least likeness, from 0 to 1, of the names that are returned; there may be none.
    """
    if name in names:
        return [name]
    cutoff = cutoff if len(name) <= LONGEST else 0.0  # such a name is like no other by its length alone
    name = name[:LONGEST]
    parts = name.split(".")

    def likeness(other: str) -> float:
        end = ".".join(other.split(".")[-len(parts) :])
        return max(difflib.SequenceMatcher(None, name, text).ratio() for text in {other, end})

    degrees = {other: likeness(other) for other in names}
    ranked = sorted((other for other in names if degrees[other] >= cutoff), key=lambda other: -degrees[other])
    same_layer = [other for other in ranked if other.split(".")[:2] == parts[:2]]
    return (same_layer or ranked)[:count]


def same_model(stated: str, name: str) -> bool | None:
    """Return whether two names mean the same model; None if that cannot be decided.

    The owner of a Hugging Face id does not count, because many models are copied, and the short names of
    TransformerLens stand for the ids. The name of a folder decides only if it is equal, or if it is the name of another
    well-known model.

    Args:
        stated: Name in a file.
        name: Name of a loaded model: a Hugging Face id, a short name, or a folder.

    >>> same_model("gpt2-small", "openai-community/gpt2"), same_model("gpt2-small", "embedded")
    (True, False)
    >>> same_model("gpt2-small", "/models/mine") is None
    True
    """
    (one, one_is_known), (other, other_is_known) = _identity(stated), _identity(name)
    if one == other:
        return True
    return False if one_is_known and other_is_known else None


def _identity(name: str) -> tuple[str, bool]:
    """Return the last part of the official name of a model, in small letters, and whether the name is a known one."""
    name = name[:400]
    text = name.strip().rstrip("/\\").replace("\\", "/").lower()
    cached = re.search(r"models--[^/]+?--([^/]+)/snapshots/[^/]+$", text)  # the cache of the Hugging Face Hub
    last = cached[1] if cached else text.rpartition("/")[2]
    official = _aliases().get(text) or _aliases().get(last)
    is_id = text.count("/") == 1 and not text.startswith((".", "/", "~")) and not Path(name).is_dir()
    return official or last, official is not None or is_id or cached is not None or text == EMBEDDED_NAME


@lru_cache(maxsize=1)
def _aliases() -> dict[str, str]:
    """Return the last part of the official name for every name that TransformerLens knows, in small letters."""
    try:
        from transformer_lens.supported_models import MODEL_ALIASES, OFFICIAL_MODEL_NAMES
    except ImportError:  # version 3 has them elsewhere
        try:
            from transformer_lens.loading_from_pretrained import (  # pyright: ignore[reportMissingImports]
                MODEL_ALIASES,
                OFFICIAL_MODEL_NAMES,
            )
        except ImportError:
            return {}
    known: dict[str, str] = {}
    for official in {*OFFICIAL_MODEL_NAMES, *MODEL_ALIASES}:
        last = official.lower().rpartition("/")[2]
        for alias in (official, last, *MODEL_ALIASES.get(official, [])):
            known.setdefault(alias.lower(), last)
    return known


def matches(name: str, pattern: str) -> bool:
    """Return whether a name has every word of a pattern, ignoring case; ``*`` or ``?`` must match the full name."""
    name, pattern = name.lower(), pattern.lower().strip()
    if any(c in pattern for c in "*?"):
        return fnmatch.fnmatchcase(name, pattern)
    return all(word in name for word in pattern.split())
