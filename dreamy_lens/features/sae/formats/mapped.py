"""Tensors of any file or object, with a mapping from the names of SAELens, and a configuration under its keys.

A name of a tensor may end in `.T`, which turns its two axes round: `{"W_enc": "enc.weight.T", "b_enc": "enc.bias"}`.
The tensors of an object are its attributes, with dots between them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreamy_lens.errors import FeatureError, SAEError, close_names, quoted, shorten
from dreamy_lens.features.sae.formats import saelens
from dreamy_lens.features.sae.formats.encoder import LATENT_AXIS, Opened
from dreamy_lens.features.sae.formats.files import Stored, TensorFile, arranged, check_numbers, open_tensors

NAMES = (*LATENT_AXIS, "b_dec")
"""Names of tensors that a mapping may have."""


def open_mapped(
    source: Path | object, tensors: Mapping[str, str], config: Mapping[str, Any] | None, whose: str
) -> Opened:
    """Return a dictionary whose tensors are named by a mapping.

    Args:
        source: File of tensors, or an object that has them as attributes.
        tensors: Name in the source for each name of SAELens.
        config: Settings and conditions under the keys of SAELens' `cfg.json`.
        whose: Subject of the error messages, as in "The SAE file x".

    Raises:
        SAEError: A tensor does not exist, or the tensors and the settings do not fit.
        FeatureError: The mapping or the settings have other names than those of SAELens.
    """
    if not isinstance(tensors, Mapping) or not all(isinstance(name, str) for name in tensors.values()):
        raise FeatureError(
            f'tensors is a mapping such as {{"W_enc": "enc.weight.T", "b_enc": "enc.bias"}}; got {quoted(tensors)}.'
        )
    odd = [str(name) for name in tensors if name not in NAMES]
    if odd:
        raise FeatureError(
            f"tensors has the name {quoted(odd[0])}; its names are those of SAELens: {', '.join(NAMES)}."
        )
    config = dict(config or {})
    unknown = saelens.unknown_settings(config)
    if unknown:
        near = close_names(unknown[0], saelens.SETTINGS)
        raise FeatureError(
            f"config has the key {quoted(unknown[0])}, which {saelens.CONFIG} of SAELens has not"
            f"{f'; did you mean {near[0]}?' if near else '; docs/conditions.md lists the keys.'}"
        )
    if isinstance(source, Path):
        file = open_tensors(source)
    else:
        file = _attributes(source, tensors)
    placed: dict[str, tuple[TensorFile, Stored]] = {}
    for name, own in tensors.items():
        turned = own not in file.shapes and own.endswith(".T")
        own = own.removesuffix(".T") if turned else own
        if own not in file.shapes:
            listed = ", ".join(map(shorten, list(file.shapes)[:12])) or "no tensors"
            raise SAEError(f"{whose} has no tensor {quoted(own)} (for {name}); it has {listed}.")
        placed[name] = file, Stored(own, turned)
    check_numbers(file, tuple(place.name for _, place in placed.values()))
    if "b_dec" not in tensors:
        config.setdefault("apply_b_dec_to_input", False)
    elif "apply_b_dec_to_input" not in config and not str(config.get("architecture")).endswith("transcoder"):
        raise SAEError(
            f"{whose} has a b_dec, and whether it is subtracted from an activation before encoding has to be said: "
            'config={"apply_b_dec_to_input": True} or False.'
        )
    shapes, read = arranged(placed)
    return saelens.from_config(config, shapes, read, whose, "config")


def _attributes(thing: object, tensors: Mapping[str, str]) -> TensorFile:
    """Return the named attributes of an object as if they were the tensors of a file."""

    def attribute(name: str) -> Any:
        found: Any = thing
        for step in name.split("."):
            found = getattr(found, step, None)
        return found

    def part(name: str, axis: int | None, i: int) -> Any:
        tensor = attribute(name)
        return tensor if axis is None else tensor.select(axis, i)

    found = {name: attribute(name) for name in tensors.values()}
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items() if hasattr(tensor, "shape")}
    return TensorFile(Path(type(thing).__name__), shapes, part)
