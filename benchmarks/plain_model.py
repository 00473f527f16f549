"""Independent scores: a plain Hugging Face model that scores the prompts of both sides without any measured code."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np

RANDOM_PROMPTS, RANDOM_SEED = 1024, 20240201
MLP_OUTPUT = ("model.layers.{}.mlp.down_proj", "gpt_neox.layers.{}.mlp.dense_4h_to_h", "transformer.h.{}.mlp.c_proj")


class PlainModel:
    """Hugging Face model whose MLP neurons are read at the last position, without any measured code."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model.eval().requires_grad_(False), tokenizer
        self.vocabulary = int(self.model.get_input_embeddings().num_embeddings)
        self.special = np.array(sorted({i for i in self.tokenizer.all_special_ids if i is not None}), dtype=np.int64)

    @classmethod
    def load(cls, folder: str) -> PlainModel:
        """Load the model of a folder, in float32."""
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        return cls(model, AutoTokenizer.from_pretrained(folder))

    def mlp_output(self, layer: int) -> Any:
        """Find the linear map whose input is the MLP's neurons, after the nonlinearity and any gate."""
        for name in MLP_OUTPUT:
            with contextlib.suppress(AttributeError, IndexError):
                return self.model.get_submodule(name.format(layer))
        raise SystemExit(f"No MLP output found in layer {layer} of {type(self.model).__name__}; extend MLP_OUTPUT.")

    def default_features(self, count: int) -> list[str]:
        """Choose neurons that are spread evenly: the j-th of C is number (j + 1/2) width / C of layer j mod layers."""
        output = self.mlp_output(0)
        width = getattr(output, "in_features", None) or output.nx
        layers = self.model.config.num_hidden_layers
        return [f"L{j % layers}.N{(2 * j + 1) * width // (2 * count)}" for j in range(count)]

    def runner(self, feature: str) -> Callable[..., dict[str, Any]]:
        """Make the function that the reference's `epo` calls: it maps token ids or embeddings to target and logits."""
        layer, neuron = parse(feature)
        output = self.mlp_output(layer)

        def run(input_ids: Any = None, inputs_embeds: Any = None) -> dict[str, Any]:
            read = {}
            handle = output.register_forward_pre_hook(lambda _, inputs: read.update(target=inputs[0][:, -1, neuron]))
            try:
                logits = self.model(input_ids=input_ids, inputs_embeds=inputs_embeds, use_cache=False).logits
            finally:
                handle.remove()
            return {"target": read["target"], "logits": logits}

        return run

    def score(self, feature: str, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute value and mean cross-entropy of the n - 1 predicted tokens, `[N]` each; no BOS, float32."""
        import torch

        run, values, ces = self.runner(feature), [], []
        with torch.no_grad():
            for part in torch.from_numpy(ids.astype(np.int64)).split(256):
                result = run(input_ids=part)
                log_p = result["logits"][:, :-1].float().log_softmax(dim=-1)
                ces.append(-log_p.gather(-1, part[:, 1:, None])[..., 0].mean(dim=-1))
                values.append(result["target"].float())
        return torch.cat(values).numpy(), torch.cat(ces).numpy()

    def floor(self, feature: str, length: int) -> float:
        """Median value of random prompts of ordinary tokens, which is the lower edge of areas."""
        ordinary = np.setdiff1d(np.arange(self.vocabulary), self.special)
        ids = np.random.default_rng(RANDOM_SEED).choice(ordinary, size=(RANDOM_PROMPTS, length))
        return float(np.median(self.score(feature, ids)[0]))


def parse(feature: str) -> tuple[int, int]:
    match = re.fullmatch(r"L(\d+)\.N(\d+)", feature)
    if not match:
        raise SystemExit(f"{feature!r} is not an MLP neuron. This benchmark takes MLP neurons such as L2.N17.")
    return int(match[1]), int(match[2])
