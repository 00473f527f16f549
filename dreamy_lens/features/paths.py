"""Where a feature's files are, written so that it means the same in every working folder."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from dreamy_lens.features.directions import Direction
from dreamy_lens.features.expressions import Feature, Latent, MeanCrossEntropy

_WITH_NAME = ".safetensors:"


def absolute(feature: Feature) -> Feature:
    """The same feature with absolute paths in the place of relative ones that exist here; other names stay.

    This goes for directions' files, for sparse autoencoders' folders, and for the folders of other models.
    """
    changed: dict[str, Any] = {}
    for field in fields(feature):  # type: ignore[arg-type]
        value = getattr(feature, field.name)
        if isinstance(value, Feature):
            new: Any = absolute(value)
        elif isinstance(value, tuple) and value and all(isinstance(v, Feature) for v in value):
            new = tuple(map(absolute, value))
        elif isinstance(value, Direction) and value.path is not None:
            new = Direction(_absolute(value.path))
        elif isinstance(value, str) and (isinstance(feature, Latent) and field.name == "sae"):
            new = _absolute(value)
        elif isinstance(value, str) and isinstance(feature, MeanCrossEntropy) and value != "embedded":
            new = _absolute(value)
        else:
            continue
        if new != value:
            changed[field.name] = new
    return replace(feature, **changed) if changed else feature  # type: ignore[type-var]


def _absolute(location: str) -> str:
    """A path, or `file.safetensors:name`, made absolute if it exists."""
    path, name = location, ""
    if not Path(path).expanduser().exists() and _WITH_NAME in location:
        stem, _, name = location.partition(_WITH_NAME)
        path, name = f"{stem}.safetensors", f":{name}"
    file = Path(path).expanduser()
    return os.path.abspath(file) + name if file.exists() else location
