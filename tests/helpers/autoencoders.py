"""Autoencoders with random weights, in files."""

from __future__ import annotations

import json

import torch
from safetensors.torch import save_file


def save_sae(folder, hook, output=None):
    """Write a random autoencoder, or a transcoder, in the format of SAELens, and return its tensors."""
    g = torch.Generator().manual_seed(3)
    shapes = {"W_enc": (32, 6), "W_dec": (6, 32), "b_dec": (32,), "b_enc": (6,)}
    weights = {k: torch.randn(*s, generator=g) for k, s in shapes.items()}
    folder.mkdir()
    save_file(weights, folder / "sae_weights.safetensors")
    config = {"architecture": "standard", "d_in": 32, "d_sae": 6, "dtype": "float32", "apply_b_dec_to_input": True}
    config |= {"normalize_activations": "none", "reshape_activations": "none", "metadata": {"hook_name": hook}}
    if output:
        config["metadata"]["hook_name_out"] = output
        config["d_out"] = 32
    (folder / "cfg.json").write_text(json.dumps(config))
    return weights
