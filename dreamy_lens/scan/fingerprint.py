"""What tells one scan from another: digests of a model's weights and of features."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch

from dreamy_lens._host import versions
from dreamy_lens.features import expressions as ex
from dreamy_lens.models.hooked_model import HookedModel


def model_digest(model: HookedModel) -> str:
    """Of everything that decides what a model computes, as far as it is in its weights and settings; 16 letters.

    The bits of every parameter are summed up as integers, at two places of a permutation, so it takes one reading of
    the weights on the device where they are, and does not depend on the order of the sums.
    """
    digest = hashlib.sha256()
    module, mode = model.backend.module, model.state[1:]
    # Soft caps, window sizes: no weights, but numbers depend on them.
    settings = sorted(map(str, model.backend.settings().items()))
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


def _bits(tensor: torch.Tensor) -> str:
    flat = tensor.detach().reshape(-1)
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    if not flat.numel() or flat.element_size() not in kinds:
        return ""
    total = weighted = 0
    for part in flat.contiguous().view(kinds[flat.element_size()]).split(1 << 24):
        whole = part.long()
        total += int(whole.sum())
        # Which entry it is counts too: two rows that change places are another model.
        weighted += int((whole * (torch.arange(len(whole), device=whole.device) % 65_521 + 1)).sum())
    return f"{total} {weighted}"


def features_digest(features: Iterable[ex.Feature]) -> str:
    """Of features in their order, and of the files that they name; 16 letters."""
    digest = hashlib.sha256()
    for feature in features:
        digest.update(str(feature).encode("utf-8", "surrogatepass") + b"\0")
        for node in feature.walk():
            digest.update(node.digest_key())
    return digest.hexdigest()[:16]


def has_text_form(feature: ex.Feature) -> bool:
    """Whether the text of a feature says all that it is: not so for functions and for objects of this session."""
    return all(node.has_text_form for node in feature.walk())


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that compute a scan's numbers; "unknown" for one that is not installed."""
    libraries = ("dreamy-lens", "torch", "transformer-lens", "transformers", "tokenizers")
    installed = versions(*libraries)
    return {name: installed.get(name, "unknown") for name in libraries}
