"""Names of models and hook points: absolute paths of model folders, and suggestions for misspelt names."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence

from dreamy_lens.errors import LONGEST

EMBEDDED_NAME = "embedded"
"""Name of the embedded model in results."""


def located(name: str) -> str:
    """Return the absolute path of a model folder, valid in any working folder; return other names unchanged."""
    folder = os.path.expanduser(name)
    if name == EMBEDDED_NAME or not os.path.isfile(os.path.join(folder, "config.json")):
        return name
    return os.path.abspath(folder)


def nearest(name: str, names: Sequence[str], count: int = 3) -> list[str]:
    """Return the names most similar to a misspelt name, same layer first; compare a partial name with name endings.

    Of a name of absurd length, only the beginning is compared.
    """
    if name in names:
        return [name]
    name = name[:LONGEST]
    parts = name.split(".")

    def likeness(other: str) -> float:
        end = ".".join(other.split(".")[-len(parts) :])
        return max(difflib.SequenceMatcher(None, name, text).ratio() for text in {other, end})

    ranked = sorted(names, key=lambda other: -likeness(other))
    same_layer = [other for other in ranked if other.split(".")[:2] == parts[:2]]
    return (same_layer or ranked)[:count]
