"""Digests of a model's weights and of features, which tell one scan from another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from dreamy_lens._host import versions
from dreamy_lens.features import expressions as ex
from dreamy_lens.models.hooked_model import HookedModel


def model_digest(model: HookedModel) -> str:
    """Return a digest of a model's weights and settings, 16 hexadecimal digits.

    For every parameter, the bits are summed as integers, once as they are and once weighted by position. So the digest
    needs only one pass over the weights on their device, and does not depend on the order of the sums.
    """
    digest = hashlib.sha256()
    module, mode = model.backend.module, model.state[1:]
    # Soft caps and window sizes are not weights, but the values depend on them.
    settings = sorted(map(str, _of_the_model(model.backend.settings()).items()))
    digest.update(repr((type(model.source).__name__, str(mode), settings)).encode())
    with model.lock, torch.no_grad():
        seen: set[int] = set()
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if id(tensor) in seen:
                continue
            seen.add(id(tensor))
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(_bits(tensor).encode())
    return digest.hexdigest()[:16]


def _of_the_model(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings without those that say where a model was loaded from and which library wrote them down."""
    return {
        name: _of_the_model(value) if isinstance(value, Mapping) else value
        for name, value in settings.items()
        if name not in ("_name_or_path", "_commit_hash", "transformers_version")
    }


def _bits(tensor: torch.Tensor) -> str:
    """Return the sum and the weighted sum of a tensor's bits."""
    flat = tensor.detach().reshape(-1)
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    if not flat.numel() or flat.element_size() not in kinds:
        return ""
    total = weighted = 0
    for part in flat.contiguous().view(kinds[flat.element_size()]).split(1 << 24):
        integers = part.long()
        total += int(integers.sum())
        # The position counts too: a model with two rows swapped is another model.
        weighted += int((integers * (torch.arange(len(integers), device=integers.device) % 65_521 + 1)).sum())
    return f"{total} {weighted}"


def features_digest(features: Iterable[ex.Feature]) -> str:
    """Return a digest of features in their order and of the files that they name, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for feature in features:
        digest.update(str(feature).encode("utf-8", "surrogatepass") + b"\0")
        for node in feature.walk():
            digest.update(node.digest_key())
    return digest.hexdigest()[:16]


def has_complete_text(feature: ex.Feature) -> bool:
    """Return whether the feature's text defines it; functions and objects in memory have no such text."""
    return all(node.has_text_form for node in feature.walk())


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that compute the values of a scan; "unknown" if not installed."""
    libraries = ("dreamy-lens", "torch", "transformer-lens", "transformers", "tokenizers")
    installed = versions(*libraries)
    return {name: installed.get(name, "unknown") for name in libraries}
