"""Recognition of a format by the files of a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from dreamy_lens.errors import SAEError
from dreamy_lens.features.sae.formats import (
    circuit_tracer,
    dictionary_learning,
    gemma_scope,
    llama_scope,
    saelens,
    sparsify,
)
from dreamy_lens.features.sae.formats.encoder import Opened

WEIGHTS = (saelens.WEIGHTS, sparsify.WEIGHTS, *gemma_scope.WEIGHTS, dictionary_learning.WEIGHTS)
"""Names of the files of weights, of which each belongs to one format."""

CONFIGS = (saelens.CONFIG, dictionary_learning.CONFIG)

_FORMATS = (
    ((saelens.WEIGHTS,), saelens.CONFIG, saelens.open_saelens),
    ((sparsify.WEIGHTS,), sparsify.CONFIG, sparsify.open_sparsify),
    (gemma_scope.WEIGHTS, None, gemma_scope.open_gemma_scope),
    ((dictionary_learning.WEIGHTS,), dictionary_learning.CONFIG, dictionary_learning.open_dictionary_learning),
)
"""Names of the files of weights, of which one shows the format; the configuration that it needs; its function."""

FORMATS_TEXT = (
    f"{saelens.CONFIG} and {saelens.WEIGHTS} (SAELens), {sparsify.CONFIG} and {sparsify.WEIGHTS} (sparsify), "
    f"{dictionary_learning.CONFIG} and {dictionary_learning.WEIGHTS} (dictionary_learning), "
    f"{gemma_scope.WEIGHTS[0]} (Gemma Scope), or {llama_scope.CONFIG} and {llama_scope.WEIGHTS} (Llama Scope)"
)


def folder_of(place: Path) -> Path:
    """Return the folder of a dictionary, given the folder or one of its files."""
    return place.parent if place.name in (*WEIGHTS, *CONFIGS) else place


def open_folder(
    place: Path, whose: str, defaults: Mapping[str, Any] | None = None, overrides: Mapping[str, Any] | None = None
) -> Opened:
    """Return the dictionary of a folder, in whatever format it is.

    Args:
        place: Folder; for circuit-tracer, the file of a layer, or the number of a layer in place of a file.
        whose: Subject of the error messages, as in "The SAE folder x".
        defaults: Settings and conditions, under the keys of SAELens, that hold where the files state nothing.
        overrides: Settings and conditions that hold whatever the files state.

    Raises:
        SAEError: There is no such folder, no dictionary in it, or one of its files is missing or damaged.
    """
    defaults, overrides = dict(defaults or {}), dict(overrides or {})
    layer = circuit_tracer.layer_of(place)
    if layer is not None:
        return _completed(circuit_tracer.open_circuit_tracer(place.parent, layer, whose), defaults, overrides)
    if place.is_file():
        raise SAEError(
            f'{place} is a file without a format that dreamy_lens knows. Name its tensors: tensors={{"W_enc": '
            f'"encoder.weight.T", ...}}, or give a folder that holds {FORMATS_TEXT}.'
        )
    if not place.is_dir():
        raise SAEError(
            f"There is no SAE folder {str(place)!r} (working folder: {Path.cwd()}). Give a folder that holds "
            f"{FORMATS_TEXT}; one on the Hugging Face Hub is named hf://owner/repository/folder, and one in a release "
            "of SAELens saelens://release/id."
        )
    later = all((place / name).is_file() for name in llama_scope.LATER) and not (place / saelens.CONFIG).is_file()
    if later or (place / llama_scope.CONFIG).is_file():
        return _completed(llama_scope.open_llama_scope(place, whose), defaults, overrides)
    form = next((form for form in _FORMATS if any((place / name).is_file() for name in form[0])), None)
    missing = form[1] if form is not None else saelens.CONFIG
    if form is None and (place / saelens.CONFIG).is_file():
        missing = saelens.WEIGHTS
    if form is None or (missing is not None and not (place / missing).is_file()):
        raise SAEError(f"The SAE folder {place} has no {missing}; {_what_is_there(place)}")
    if form[2] is saelens.open_saelens:
        return saelens.open_saelens(place, whose, defaults, overrides)
    return _completed(form[2](place, whose), defaults, overrides)


def _completed(opened: Opened, defaults: dict[str, Any], overrides: dict[str, Any]) -> Opened:
    """Return a dictionary with settings that its files do not state."""
    encoder = opened.encoder
    read, written = encoder.hook_name, encoder.output_hook
    read = overrides.pop("hook_name", None) or read or defaults.pop("hook_name", None)
    written = overrides.pop("hook_name_out", None) or written or defaults.pop("hook_name_out", None)
    scales = defaults.pop("rescale_acts_by_decoder_norm", encoder.scales_by_decoder_norm)
    stated = {key: value for key, value in opened.stated.items() if value is not None}
    encoder = replace(encoder, hook_name=read, output_hook=written, scales_by_decoder_norm=scales)
    return replace(opened, encoder=encoder, stated={**defaults, **stated, **overrides})


def _what_is_there(folder: Path) -> str:
    found = (path for depth in ("*", "*/*") for name in WEIGHTS for path in folder.glob(f"{depth}/{name}"))
    below = sorted({path.parent.relative_to(folder).as_posix() for path in islice(found, 20)})  # not a whole disk
    if below:
        return f"but folders below it do: {', '.join(below[:5])}{', …' if len(below) > 5 else ''}. Give one of those."
    here = sorted(path.name for path in folder.iterdir())
    listed = f"it has {', '.join(here[:8])}{', …' if len(here) > 8 else ''}" if here else "it is empty"
    return f"{listed}. A dictionary is {FORMATS_TEXT}."
