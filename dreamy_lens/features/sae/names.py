"""Texts that name dictionaries: folders of this machine, places on the Hugging Face Hub, ids in releases of SAELens.

    runs/sae, runs/sae/cfg.json                    a folder, or one of its files
    hf://owner/repository[@revision]/folder        a folder of a repository on the Hugging Face Hub
    saelens://release/id                           a dictionary of the registry that the library sae_lens ships

One text is enough, so features that name it can be written and read again. `sources` finds what a text names.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from dreamy_lens.errors import FeatureError, quoted
from dreamy_lens.features.paths import checked_path, file_stamps

HUB, RELEASES = "hf://", "saelens://"
REPOSITORY = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")

PLACES: dict[str, Path] = {}
"""Places on this machine of what was downloaded in this process, by source."""


def is_remote(source: str) -> bool:
    """Return whether a source may have to be downloaded."""
    return source.startswith((HUB, RELEASES))


def is_unknown(source: object) -> bool:
    """Return whether a source is a text that names the Hub or a release, and was not looked for in this process."""
    return isinstance(source, str) and is_remote(source) and source not in PLACES


def source_text(source: str | os.PathLike[str], sae_id: str | None = None) -> str:
    """Return the one text that names a dictionary.

    Args:
        source: Folder; repository of the Hub as `hf://owner/repository`, or `owner/repository` with `sae_id`; release
            of SAELens as `saelens://release`, or its name with `sae_id`.
        sae_id: Dictionary within the source: a folder below it, or the id in a release. None if the source names it.

    >>> source_text("google/gemma-scope-2b-pt-res", "layer_20/width_16k/average_l0_71")
    'hf://google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71'
    >>> source_text("gpt2-small-res-jb", "blocks.8.hook_resid_pre")
    'saelens://gpt2-small-res-jb/blocks.8.hook_resid_pre'
    """
    text = os.fspath(source)
    if sae_id is None:
        return text
    checked_path(text, "The folder of an autoencoder")
    if not isinstance(sae_id, str) or not sae_id.strip("/"):
        raise FeatureError(f"sae_id is a folder below the source, or the id in a release; got {quoted(sae_id)}.")
    sae_id = sae_id.strip("/")
    if is_remote(text) or Path(text).expanduser().is_dir():
        return f"{text.rstrip('/')}/{sae_id}"
    return f"{HUB if REPOSITORY.fullmatch(text) else RELEASES}{text}/{sae_id}"


def short_name(source: str) -> str:
    """Return a short name of a source for labels: what tells the dictionaries of one repository or release apart.

    >>> short_name("runs/sae"), short_name("hf://a/b/layer_20/width_16k"), short_name("saelens://c/blocks.8")
    ('sae', 'layer_20/width_16k', 'blocks.8')
    """
    source = source.rstrip("/")
    if source.startswith(HUB) and source.count("/") > 3:
        return source.split("/", 4)[4]
    if source.startswith(RELEASES) and source.count("/") > 2:
        return source.split("/", 3)[3]
    return source.rpartition("/")[2]


def source_stamps(source: str) -> bytes:
    """Return stamps of the files of a source, which differ after a change; nothing is downloaded."""
    if not is_remote(source):
        return file_stamps(source)
    place = PLACES.get(source)
    return source.encode() + (file_stamps(str(place)) if place is not None else b"")


def commit_of(source: str) -> str | None:
    """Return the commit of the Hub's repository from which a source was read in this process; None if there is none."""
    place = PLACES.get(source)
    found = re.search(r"/snapshots/([0-9a-f]{40})/", f"{place.as_posix()}/") if place is not None else None
    return found[1] if found else None
