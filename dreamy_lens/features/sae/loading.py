"""Sparse autoencoders from folders, from the Hugging Face Hub, and from objects in memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dreamy_lens.errors import FeatureError, SAEError
from dreamy_lens.features.paths import checked_path
from dreamy_lens.features.sae.conditions import CONDITIONS, chosen_conditions, read_conditions, warn_of_unknown_keys
from dreamy_lens.features.sae.dictionary import SAE, attributes_of
from dreamy_lens.features.sae.formats import mapped, objects, saelens
from dreamy_lens.features.sae.formats.encoder import Opened
from dreamy_lens.features.sae.formats.folders import open_folder
from dreamy_lens.features.sae.formats.modules import hook_of_module
from dreamy_lens.features.sae.names import is_remote, source_text
from dreamy_lens.features.sae.sources import locate_sae


def load_sae(
    source: str | os.PathLike[str] | object,
    hook: str | None = None,
    *,
    sae_id: str | None = None,
    tensors: Mapping[str, str] | None = None,
    config: Mapping[str, Any] | None = None,
    ignore: str | Iterable[str] | None = None,
) -> SAE:
    """Read a sparse autoencoder or a transcoder, or wrap one that is already in memory.

    Args:
        source: Folder in the format of SAELens, sparsify, dictionary_learning, Gemma Scope or circuit-tracer;
            `hf://owner/repository/folder` on the Hugging Face Hub, from which its files are downloaded; a release of
            SAELens, with `sae_id`; any object with `encode(x [..., d_in]) -> [..., d_sae]`; or an `SAE`.
            docs/features.md has an example of each.
        hook: Hook point that the autoencoder encodes. Default: the hook point that its configuration, its path or its
            object names.
        sae_id: Dictionary within the source: a folder of a repository, or the id in a release of SAELens.
        tensors: Names of the tensors in a file of another format, or of the attributes of an object, for each name of
            SAELens: `{"W_enc": "enc.weight.T", "b_enc": "enc.bias", "W_dec": "dec.weight.T"}`; `.T` turns the axes
            round. W_enc is `[d_in, d_sae]`, W_dec `[d_sae, d_out]`.
        config: Settings and conditions that belong to `tensors`, under the keys of SAELens' `cfg.json`, such as
            `{"architecture": "topk", "k": 32, "apply_b_dec_to_input": True, "model_name": "gpt2"}`.
        ignore: Conditions of the configuration that are not kept, as names or as one text: "model_name" (use it with
            another model than that of its training), "prepend_bos", "model_from_pretrained_kwargs" (how the model's
            weights were processed), "model_kwargs" (arguments of its passes), "normalize_activations" (the one number
            that activations were scaled by), "context_size" (the length of its rows). docs/conditions.md explains them.

    Returns:
        Autoencoder as an immutable value. The numbers of a file are read when first needed.

    Raises:
        SAEError: The dictionary does not exist, is incomplete or contradicts itself, its architecture is not one of
            `formats.encoder.ARCHITECTURES`, or neither `hook` nor the configuration names a hook point.
        FeatureError: `ignore` names no condition, or `tensors` and `config` have other names than those of SAELens.

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
    if config is not None and tensors is None:
        raise FeatureError('config belongs to tensors: load_sae(source, tensors={"W_enc": ...}, config={...}).')
    if isinstance(source, SAE):
        return _changed(source, hook, ignored)
    if not isinstance(source, (str, os.PathLike)):
        return _wrap(source, hook, tensors, config, ignored)
    given = source_text(source, sae_id)
    if tensors is not None:
        if is_remote(given):
            raise FeatureError("tensors belongs to a file on this machine. Download the file, and give its path.")
        file = Path(checked_path(given, "The file of an autoencoder")).expanduser()
        if not file.is_file():
            raise SAEError(
                f"There is no file {str(file)!r} (working folder: {Path.cwd()}). tensors=... names its tensors."
            )
        whose = f"The SAE file {file}"
        opened = mapped.open_mapped(file, tensors, config, whose)
        mapping = repr((sorted(tensors.items()), sorted((config or {}).items(), key=str)))
        return _sae(opened, hook, whose, ignored, str(given), mapping=mapping)
    found = locate_sae(given)
    if found.tensors is not None:
        config = {key: value for key, value in {**found.defaults, **found.overrides}.items() if value is not None}
        opened = mapped.open_mapped(found.place, found.tensors, config, found.whose)
        return _sae(opened, hook, found.whose, ignored, str(given))
    opened = open_folder(found.place, found.whose, found.defaults, found.overrides)
    if found.scale is not None and opened.encoder.normalisation == "expected_average_only_in":
        opened = replace(opened, encoder=replace(opened.encoder, normalisation="none", input_scale=found.scale))
    text = given if is_remote(given) else str(_shown(Path(given), found.place))
    return _sae(opened, hook, found.whose, ignored, text)


def _shown(given: Path, place: Path) -> Path:
    """Return a path as the user wrote it, without the name of a file of the dictionary."""
    return given.parent if place == given.expanduser().parent else given


def _sae(
    opened: Opened, hook: str | None, whose: str, ignored: tuple[str, ...], source: str | None, **more: Any
) -> SAE:
    encoder = opened.encoder
    conditions = read_conditions(opened.stated, whose, ignored)
    warn_of_unknown_keys(opened.unknown, conditions)
    if encoder.normalisation == "covariance_whitening" and "normalize_activations" not in ignored:
        raise SAEError(
            f"{whose} was trained on whitened activations (normalize_activations: covariance_whitening), and the "
            f"statistics are not in its files: a checkpoint of SAELens has them in {saelens.WHITENER}. Copy that file "
            "beside its configuration. If it was folded into the weights, or to use activations as they are: "
            'load_sae(..., ignore="normalize_activations") or sae_latent(..., ignore="normalize_activations").'
        )
    if encoder.normalisation == "expected_average_only_in" and "normalize_activations" not in ignored:
        raise SAEError(
            f"{whose} was trained on activations scaled by one number (normalize_activations: "
            "expected_average_only_in), which its files do not hold. State it in the configuration, for example "
            '"norm_scaling_factor": 0.5; it is the square root of d_in divided by the mean length of an activation. '
            "If it was folded into the weights when the autoencoder was saved, or to use activations as they are: "
            'load_sae(..., ignore="normalize_activations") or sae_latent(..., ignore="normalize_activations").'
        )
    name = _hook_name(hook, encoder.hook_name, f"{opened.config} of {whose[0].lower()}{whose[1:]}")
    sizes = encoder.d_in, encoder.d_sae, encoder.architecture
    return SAE(name, *sizes, source, encoder, conditions, opened=opened, _read=opened.read, **more)


def _changed(sae: SAE, hook: str | None, ignored: tuple[str, ...]) -> SAE:
    """Return an autoencoder at another hook point, or with other conditions ignored."""
    before = sae.conditions.ignored if sae.conditions else ()
    if hook in (None, sae.hook_name) and not set(ignored) - set(before):
        return sae
    names = tuple(name for name in CONDITIONS if name in (*before, *ignored))
    if sae.opened is None or sae.conditions is None:
        return load_sae(sae.origin, hook or sae.hook_name, ignore=names)
    conditions = read_conditions(sae.opened.stated, sae.conditions.whose, names)
    return replace(sae, hook_name=hook or sae.hook_name, conditions=conditions, centres=False)


def _wrap(
    thing: Any,
    hook: str | None,
    tensors: Mapping[str, str] | None,
    config: Mapping[str, Any] | None,
    ignored: tuple[str, ...],
) -> SAE:
    kind = type(thing).__name__
    whose = f"The {kind}"
    if tensors is not None:
        opened = mapped.open_mapped(thing, tensors, config, whose)
        return _sae(opened, hook, whose, ignored, None, _object=thing, computed=True)
    known = objects.open_object(thing, whose)
    if known is not None:
        return _sae(known, hook, whose, ignored, None, _object=thing, computed=True)
    if not callable(getattr(thing, "encode", None)):
        raise SAEError(
            f"An object of type {kind} is not a sparse autoencoder: it has no encode(x). Give a folder with "
            f"{saelens.CONFIG} and {saelens.WEIGHTS}, an object whose encode(x [..., d_in]) returns latents "
            '[..., d_sae], or the names of its tensors: tensors={"W_enc": ...}.'
        )
    settings = attributes_of(getattr(thing, "cfg", None))
    metadata = attributes_of(getattr(settings, "metadata", None))
    named = getattr(settings, "hook_name", None) or getattr(metadata, "hook_name", None)
    named = named or getattr(settings, "hook_point", None)
    named = hook_of_module(str(named), output=True) or named if named else None
    name = _hook_name(hook, named, f"The configuration of the {kind}")
    stated: dict[str, Any] = {}
    if callable(getattr(settings, "to_dict", None)):
        shapes, read = saelens.reader_of(thing)
        written = settings.to_dict()  # pyright: ignore[reportOptionalMemberAccess]
        try:
            opened = saelens.from_config(written, shapes, read, whose)
        except SAEError:  # encode() works; only the pre-activations are unknown
            stated = saelens.fields_of(written, whose)
        else:
            return _sae(opened, name, whose, ignored, None, _object=thing)
    else:  # what a configuration of any class states about the training
        for holder in (metadata, settings):
            found = {key: getattr(holder, key, None) for key in CONDITIONS}
            stated |= {key: value for key, value in found.items() if isinstance(value, (str, bool, int, Mapping))}
    conditions = read_conditions(stated, whose, ignored)
    sizes = (getattr(thing, size, None) or getattr(settings, size, None) for size in ("d_in", "d_sae"))
    d_in, d_sae = (size if isinstance(size, int) else None for size in sizes)
    return SAE(name, d_in, d_sae, "encode", conditions=conditions, _object=thing)


def _hook_name(given: str | None, configured: Any, where: str) -> str:
    if given or configured:
        return given or str(configured)
    raise SAEError(
        f'{where} does not say which hook point it encodes. Name it, for example hook="blocks.3.hook_resid_post".'
    )
