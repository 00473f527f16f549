"""Names of models and of hook points: what they mean in every working folder, and which are like a misspelt one."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

EMBEDDED_NAME = "embedded"
"""How results refer to the embedded model."""


def located(name: str) -> str:
    """A model's name that means the same in every working folder: a model folder's absolute path, or else the name."""
    folder = Path(name).expanduser()
    if name == EMBEDDED_NAME or not (folder / "config.json").is_file():
        return name
    return os.path.abspath(folder)


def nearest(name: str, names: Sequence[str], count: int = 3) -> list[str]:
    """The names most like a misspelt one, same layer first; what is only the end of a name is compared with ends."""
    if name in names:
        return [name]
    parts = name.split(".")

    def likeness(other: str) -> float:
        end = ".".join(other.split(".")[-len(parts) :])
        return max(difflib.SequenceMatcher(None, name, text).ratio() for text in {other, end})

    ranked = sorted(names, key=lambda other: -likeness(other))
    same_layer = [other for other in ranked if other.split(".")[:2] == parts[:2]]
    return (same_layer or ranked)[:count]
