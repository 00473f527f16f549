"""Sparse autoencoders from folders, and from objects in memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dreamy_lens.errors import SAEError
from dreamy_lens.features.paths import checked_path
from dreamy_lens.features.sae import SAE
from dreamy_lens.features.sae_conditions import CONDITIONS, chosen_conditions, read_conditions, warn_of_unknown_keys
from dreamy_lens.features.sae_format import CONFIG, WEIGHTS, fields_of, open_folder, read_config, reader_of


def load_sae(
    source: str | os.PathLike[str] | object, hook: str | None = None, *, ignore: str | Iterable[str] | None = None
) -> SAE:
    """Read a sparse autoencoder from a folder, or wrap one that is already in memory.

    Args:
        source: Folder in SAELens format (`cfg.json`, `sae_weights.safetensors`), or any object with
            `encode(x [..., d_in]) -> [..., d_sae]`, or an `SAE`.
        hook: Hook point that the autoencoder encodes. Default: the hook point named by its configuration (for an object
            `cfg.hook_name` or `cfg.metadata.hook_name`).
        ignore: Conditions of the configuration that are not kept, as names or as one text: "model_name" (use it with
            another model than that of its training), "prepend_bos", "model_from_pretrained_kwargs" (how the model's
            weights were processed), "model_kwargs" (arguments of its passes). docs/conditions.md explains them.

    Returns:
        Autoencoder as an immutable value. The numbers of a folder are read when first needed.

    Raises:
        SAEError: The folder is incomplete or contradicts itself, its architecture is not one of
            `sae_format.ARCHITECTURES`, or neither `hook` nor the configuration names a hook point.
        FeatureError: `ignore` names no condition.

    Example:
        >>> class Halves:
        ...     def encode(self, x):
        ...         return (x[..., :2] - x[..., 2:]).relu()
        >>> sae = load_sae(Halves(), hook="blocks.0.hook_resid_post")
        >>> import torch
        >>> sae.latent(torch.tensor([[1.0, 5.0, 3.0, 2.0]]), 1)
        tensor([3.])
    """
    ignored = chosen_conditions(ignore)
    if isinstance(source, SAE):
        before = source.conditions.ignored if source.conditions else ()
        if hook in (None, source.hook_name) and not set(ignored) - set(before):
            return source
        return load_sae(source.origin, hook or source.hook_name, ignore=[*before, *ignored])
    if not isinstance(source, (str, os.PathLike)):
        return _wrap(source, hook, ignored)
    given = Path(checked_path(os.fspath(source), "The folder of an autoencoder"))
    given = given.parent if given.name in (CONFIG, WEIGHTS) else given
    folder = given.expanduser()
    config, shapes, read = open_folder(folder)
    whose = f"The SAE folder {folder}"
    encoder = read_config(config, shapes, whose)
    fields = fields_of(config, whose)
    conditions = read_conditions(fields, whose, ignored)
    warn_of_unknown_keys(fields, conditions)
    name = _hook_name(hook, encoder.hook_name, f"{CONFIG} of the SAE folder {folder}")
    return SAE(name, encoder.d_in, encoder.d_sae, encoder.architecture, str(given), encoder, conditions, _read=read)


def _wrap(thing: Any, hook: str | None, ignored: tuple[str, ...]) -> SAE:
    kind = type(thing).__name__
    if not callable(getattr(thing, "encode", None)):
        raise SAEError(
            f"An object of type {kind} is not a sparse autoencoder: it has no encode(x). Give a folder with {CONFIG} "
            f"and {WEIGHTS}, or an object whose encode(x [..., d_in]) returns latents [..., d_sae]."
        )
    config = getattr(thing, "cfg", None)
    metadata = getattr(config, "metadata", None)
    named = getattr(config, "hook_name", None) or getattr(metadata, "hook_name", None)
    name = _hook_name(hook, named, f"The configuration of the {kind}")
    whose = f"The {kind}"
    encoder = read = None
    stated: dict[str, Any] = {}
    if callable(getattr(config, "to_dict", None)):
        shapes, read = reader_of(thing)
        settings = config.to_dict()  # pyright: ignore[reportOptionalMemberAccess]
        try:
            encoder = read_config(settings, shapes, whose)
        except SAEError:
            read = None  # encode() works; only the pre-activations are unknown
        stated = fields_of(settings, whose)
    else:  # what a configuration of any class states about the training
        for holder in (metadata, config):
            found = {key: getattr(holder, key, None) for key in CONDITIONS}
            stated |= {key: value for key, value in found.items() if isinstance(value, (str, bool, Mapping))}
    conditions = read_conditions(stated, whose, ignored)
    if encoder is not None:
        sizes = encoder.d_in, encoder.d_sae, encoder.architecture
        return SAE(name, *sizes, None, encoder, conditions, _read=read, _object=thing)
    sizes = (getattr(thing, size, None) or getattr(config, size, None) for size in ("d_in", "d_sae"))
    d_in, d_sae = (size if isinstance(size, int) else None for size in sizes)
    return SAE(name, d_in, d_sae, "encode", conditions=conditions, _object=thing)


def _hook_name(given: str | None, configured: Any, where: str) -> str:
    if given or configured:
        return given or str(configured)
    raise SAEError(
        f'{where} does not say which hook point it encodes. Name it, for example hook="blocks.3.hook_resid_post".'
    )
