"""Dictionaries on this machine: in folders, in the cache of the Hugging Face Hub's client, and in releases of SAELens.

The network is used only for sources that name the Hub or a release, see
:mod:`~dreamy_lens.features.sae.names`, and only for the files of that dictionary. The registry of releases is a file of
the installed library sae_lens, which is not imported: beside TransformerLens 4 that fails.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreamy_lens.errors import SAEError, close_names, quoted, shorten
from dreamy_lens.features.paths import checked_path
from dreamy_lens.features.sae.formats import (
    circuit_tracer,
    dictionary_learning,
    gemma_scope,
    llama_scope,
    saelens,
    sparsify,
)
from dreamy_lens.features.sae.formats.checkpoints import CHECKPOINTS, SingleFile
from dreamy_lens.features.sae.formats.folders import CONFIGS, WEIGHTS, folder_of
from dreamy_lens.features.sae.names import HUB, PLACES, RELEASES, REPOSITORY
from dreamy_lens.models import hub

REGISTRY = "pretrained_saes.yaml"

CONVERSIONS = {
    None: {},
    "dictionary_learning_1": {"hook_name": "blocks.{layer}.hook_resid_post", "rescale_acts_by_decoder_norm": False},
    "gemma_2": {},
    "gemma_2_transcoder": {},
    "gemma_3": {},
    "llama_scope": {},
    "llama_scope_r1_distill": {},
    "mntss_clt_layer_transcoder": {},
    "mwhanna_transcoder": {
        "hook_name": "blocks.{layer}.mlp.hook_in",
        "hook_name_out": "blocks.{layer}.mlp.hook_out",
        "model_from_pretrained_kwargs": {"fold_ln": False},
    },
    "sparsify": {},
}
"""Functions of SAELens by which the registry says in which format a release is, and what they take for granted."""

_LOCATED: dict[str, Located] = {}


@dataclass(frozen=True)
class Located:
    """A dictionary on this machine.

    Attributes:
        place: Its folder, or one of its files.
        whose: Subject of messages, as in "The SAE folder x".
        defaults: Settings and conditions that the registry states, under the keys of SAELens, if its files do not.
        overrides: Settings and conditions of the registry that its files state wrongly.
        scale: Number that an activation is multiplied by first. None if the registry has none.
        tensors: Names of the tensors in a single file, for each name of SAELens. None if the format has its own.
    """

    place: Path
    whose: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    scale: float | None = None
    tensors: Mapping[str, str] | None = None


def locate_sae(source: str) -> Located:
    """Return where a dictionary is on this machine, after a download if it is not here yet.

    Raises:
        SAEError: The source does not exist, or cannot be downloaded.
    """
    known = _LOCATED.get(source)
    if known is not None and known.place.exists():
        return known
    if source.startswith(RELEASES):
        found = _released(source)
    elif source.startswith(HUB):
        found = Located(_downloaded(source), f"The SAE {source}")
    else:
        place = folder_of(Path(checked_path(source, "The folder of an autoencoder")).expanduser())
        return Located(place, f"The SAE folder {place}")
    _LOCATED[source], PLACES[source] = found, found.place
    return found


# The Hub.


Fetch = Callable[[str], "Path | None"]
"""Function that downloads a file of a repository; None if the repository has none of this name."""


def _downloaded(source: str, find: Callable[[str, Fetch], Path | None] | None = None) -> Path:
    """Return the place of a dictionary in the cache of the Hub's client.

    Args:
        source: Text that names the repository and the path in it.
        find: Function of the path and a Fetch that downloads the files. None recognises the format.
    """
    found = re.fullmatch(r"hf://([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.*))?", source)
    if found is None or not REPOSITORY.fullmatch(found[1]):
        raise SAEError(
            f"{quoted(source, 200)} names no repository of the Hugging Face Hub. Write hf://owner/repository/folder, "
            "or hf://owner/repository@revision/folder."
        )
    repository, revision, path = found[1], found[2], (found[3] or "").strip("/")
    import huggingface_hub
    from huggingface_hub import constants, errors

    offline = bool(getattr(constants, "HF_HUB_OFFLINE", False))
    reasons: list[str] = []

    def fetch(name: str) -> Path | None:
        try:
            return Path(huggingface_hub.hf_hub_download(repository, name, revision=revision))
        except errors.LocalEntryNotFoundError as error:  # it cannot be asked, and its cache has no copy
            reasons.append(" ".join(str(error).split()))
        except errors.EntryNotFoundError:
            pass
        return None

    try:
        with hub.asked(source) as unanswered:
            place = (find or _fetched)(path, fetch)
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError, ValueError) as error:
        kind = type(error).__name__
        why = {
            "RepositoryNotFoundError": "there is no such repository, or it is private",
            "RevisionNotFoundError": f"it has no revision {quoted(revision)}",
            "GatedRepoError": "it asks for your consent first: accept its terms on its page, and run `hf auth login`",
        }.get(kind, shorten(" ".join(str(error).split()), 300))
        raise SAEError(f"The SAE {source} cannot be downloaded: {why}.") from error
    if place is not None:
        return place
    if reasons:
        asked = (
            ", and the Hub was not asked, because HF_HUB_OFFLINE is set" if offline else ", and the Hub did not give it"
        )
        raise SAEError(
            f"The SAE {source} is not in the cache of the Hugging Face Hub's client{unanswered or asked}. Download it "
            "where there is a network, or give its folder on this machine."
        )
    raise SAEError(
        f"There is no dictionary at {source}: neither a configuration nor weights under the names that are known "
        f"here ({', '.join(WEIGHTS)}). Look at the files of the repository, and name the folder that holds them."
    )


def _fetched(path: str, fetch: Fetch) -> Path | None:
    """Return the place of a dictionary after a download of its files, or None if there is none at a path."""
    above, _, last = path.rpartition("/")
    below = f"{above}/" if above else ""
    layer = re.fullmatch(r"(?:layer_|W_enc_)?([0-9]{1,4})(?:\.safetensors)?", last)
    if layer is not None:
        number = layer[1]
        file = fetch(f"{below}layer_{number}.safetensors")
        if file is None and (file := fetch(f"{below}W_enc_{number}.safetensors")) is not None:
            fetch(f"{below}W_dec_{number}.safetensors")
        if file is not None:
            fetch(f"{below}{circuit_tracer.CONFIG}")
            return file
    if last in (*WEIGHTS, *CONFIGS):
        path = above
        above = path.rpartition("/")[0]
        below = f"{above}/" if above else ""
    here = f"{path}/" if path else ""
    if (config := fetch(f"{here}{saelens.CONFIG}")) is not None:
        if fetch(f"{here}{saelens.WEIGHTS}") is not None:
            if (measured := saelens.measured_in(config)) is not None:
                fetch(f"{here}{measured}")
            return config.parent
        if fetch(f"{here}{sparsify.WEIGHTS}") is None:
            return None
        folder = below.rstrip("/").rpartition("/")[0] if last.startswith("seed") else below.rstrip("/")
        fetch(f"{folder}/{sparsify.TRAINING}" if folder else sparsify.TRAINING)
        return config.parent
    if (weights := fetch(f"{here}{gemma_scope.WEIGHTS[0]}")) is not None:
        return weights.parent
    if (config := fetch(f"{here}{llama_scope.CONFIG}")) is not None:
        return config.parent if fetch(f"{here}{llama_scope.WEIGHTS}") is not None else None
    has_config = fetch(f"{here}{dictionary_learning.CONFIG}") is not None
    if has_config and (weights := fetch(f"{here}{llama_scope.LATER[1]}")) is not None:
        return weights.parent
    for name in (dictionary_learning.WEIGHTS, gemma_scope.WEIGHTS[1]):
        if (weights := fetch(f"{here}{name}")) is not None:
            return weights.parent
    return None


# The registry of SAELens.


def _released(source: str) -> Located:
    """Return the dictionary of a release."""
    release, _, sae_id = source.removeprefix(RELEASES).partition("/")
    entry = registry_entry(registry(), release)
    saes = {str(sae.get("id")): sae for sae in entry.get("saes") or () if isinstance(sae, Mapping)}
    if sae_id not in saes:
        near = close_names(sae_id, saes) or list(saes)[:5]
        raise SAEError(
            f"The release {release} of SAELens has no dictionary {quoted(sae_id)}; it has {len(saes)}, among them "
            f"{', '.join(near)}. Name one: sae_id=..., or saelens://{release}/ID."
        )
    conversion: Any = entry.get("conversion_func")
    path = str(saes[sae_id].get("path"))
    overrides = entry.get("config_overrides") or {}
    if conversion in CHECKPOINTS:
        return _checkpoint(CHECKPOINTS[conversion], source, entry, path, overrides)
    if conversion == "temporal":
        raise SAEError(
            f"The release {release} holds temporal autoencoders, whose latents at one position depend on the "
            "activations at all positions before it. dreamy_lens reads dictionaries that encode each position alone. "
            "Compute the latents in a function of your own: dl.custom(name, hooks, function)."
        )
    if conversion not in CONVERSIONS:
        raise SAEError(
            f"The release {release} is in the format {quoted(conversion)}, which dreamy_lens does not read. Load it "
            "with sae_lens beside transformer-lens 3.9, and give the object; or give its file with tensors={...}."
        )
    layer = re.search(r"layer[_s.]*([0-9]+)", path)
    defaults: dict[str, Any] = {"model_name": entry.get("model")}
    for key, value in CONVERSIONS[conversion].items():
        if not isinstance(value, str):
            defaults[key] = value
        elif layer is not None:
            defaults[key] = value.format(layer=layer[1])
    scale = saes[sae_id].get("norm_scaling_factor")
    place = _downloaded(f"{HUB}{entry.get('repo_id')}/{path}".rstrip("/"))
    number = float(scale) if isinstance(scale, (int, float)) else None
    return Located(place, f"The SAE {source}", defaults, overrides, number)


def _checkpoint(
    form: SingleFile, source: str, entry: Mapping[str, Any], path: str, overrides: Mapping[str, Any]
) -> Located:
    """Return the dictionary of a release whose dictionaries are single files."""

    def find(path: str, fetch: Fetch) -> Path | None:
        if form.beside is not None:
            fetch(form.beside(path))
        return fetch(path)

    repository = str(entry.get("repo_id"))
    place = _downloaded(f"{HUB}{repository}/{path}", find)
    defaults = {"model_name": entry.get("model"), **form.settings(repository, place)}
    return Located(place, f"The SAE {source}", defaults, overrides, tensors=form.tensors)


def registry() -> str:
    """Return the text of the registry; sae_lens is found, and not imported."""
    spec = importlib.util.find_spec("sae_lens")
    folders = (spec.submodule_search_locations if spec is not None else None) or ()
    file = next((path for folder in folders if (path := Path(folder) / REGISTRY).is_file()), None)
    if file is None:
        raise SAEError(
            "Releases of SAELens are named in a file of the library sae_lens, which is not installed here. Install it "
            "without what it needs, pip install --no-deps sae-lens, or name the repository: hf://owner/repository/folder."
        )
    return file.read_text(encoding="utf-8")


def registry_entry(text: str, release: str) -> Mapping[str, Any]:
    """Return what the registry says of a release. Of the file, which is long, only this part is parsed."""
    import yaml

    starts = {m[1].strip("'\""): m.start() for m in re.finditer(r"^(?:- )?([^\s#][^:\n]*):[ \t]*$", text, re.M)}
    if release not in starts:
        near = close_names(release, starts)
        raise SAEError(
            f"The registry of SAELens has no release {quoted(release)}"
            f"{f'; did you mean {near[0]}?' if near else f'; it has {len(starts)}.'} A release is written "
            "saelens://RELEASE/ID, and a repository of the Hugging Face Hub hf://owner/repository/folder."
        )
    start = starts[release]
    later = [begin for begin in starts.values() if begin > start]
    try:
        found = yaml.safe_load(text[start : min(later, default=len(text))])
    except yaml.YAMLError as error:
        raise SAEError(f"The registry of SAELens cannot be read at {release}: {shorten(str(error), 200)}.") from error
    entry = next(iter(found.values())) if isinstance(found, Mapping) else None
    if not isinstance(entry, Mapping):
        raise SAEError(f"The registry of SAELens says nothing of {release}. Install another version of sae-lens.")
    return entry
