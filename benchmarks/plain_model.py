"""The independent judge: a plain Hugging Face model that scores both sides' prompts, and nothing that is measured."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np

RANDOM_PROMPTS, RANDOM_SEED = 1024, 20240201
MLP_OUTPUT = ("model.layers.{}.mlp.down_proj", "gpt_neox.layers.{}.mlp.dense_4h_to_h", "transformer.h.{}.mlp.c_proj")


class PlainModel:
    """A Hugging Face model and one MLP neuron of it at the last position, without any of the code that is measured."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model.eval().requires_grad_(False), tokenizer
        self.vocabulary = int(self.model.get_input_embeddings().num_embeddings)
        self.special = np.array(sorted({i for i in self.tokenizer.all_special_ids if i is not None}), dtype=np.int64)

    @classmethod
    def load(cls, folder: str) -> PlainModel:
        """The model of a folder, in float32."""
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        return cls(model, AutoTokenizer.from_pretrained(folder))

    def mlp_output(self, layer: int) -> Any:
        """The linear map whose input is the MLP's neurons, after the nonlinearity and any gate."""
        for name in MLP_OUTPUT:
            with contextlib.suppress(AttributeError, IndexError):
                return self.model.get_submodule(name.format(layer))
        raise SystemExit(f"No MLP output found in layer {layer} of {type(self.model).__name__}; extend MLP_OUTPUT.")

    def default_features(self, count: int) -> list[str]:
        """Neurons spread evenly: the j-th of C is number (j + 1/2) width / C of layer j mod layers."""
        output = self.mlp_output(0)
        width = getattr(output, "in_features", None) or output.nx
        layers = self.model.config.num_hidden_layers
        return [f"L{j % layers}.N{(2 * j + 1) * width // (2 * count)}" for j in range(count)]

    def runner(self, feature: str) -> Callable[..., dict[str, Any]]:
        """The kind of function that the reference's `epo` calls: token ids or embeddings -> target and logits."""
        layer, neuron = parse(feature)
        output = self.mlp_output(layer)

        def run(input_ids: Any = None, inputs_embeds: Any = None) -> dict[str, Any]:
            found = {}
            handle = output.register_forward_pre_hook(lambda _, inputs: found.update(target=inputs[0][:, -1, neuron]))
            try:
                logits = self.model(input_ids=input_ids, inputs_embeds=inputs_embeds, use_cache=False).logits
            finally:
                handle.remove()
            return {"target": found["target"], "logits": logits}

        return run

    def score(self, feature: str, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Value and mean cross-entropy of the n - 1 predicted tokens, `[N]` each; no BOS, float32."""
        import torch

        run, values, ces = self.runner(feature), [], []
        with torch.no_grad():
            for part in torch.from_numpy(ids.astype(np.int64)).split(256):
                found = run(input_ids=part)
                log_p = found["logits"][:, :-1].float().log_softmax(dim=-1)
                ces.append(-log_p.gather(-1, part[:, 1:, None])[..., 0].mean(dim=-1))
                values.append(found["target"].float())
        return torch.cat(values).numpy(), torch.cat(ces).numpy()

    def floor(self, feature: str, length: int) -> float:
        """The median value of random prompts of ordinary tokens: where an area begins."""
        ordinary = np.setdiff1d(np.arange(self.vocabulary), self.special)
        ids = np.random.default_rng(RANDOM_SEED).choice(ordinary, size=(RANDOM_PROMPTS, length))
        return float(np.median(self.score(feature, ids)[0]))


def parse(feature: str) -> tuple[int, int]:
    found = re.fullmatch(r"L(\d+)\.N(\d+)", feature)
    if not found:
        raise SystemExit(f"Features here are MLP neurons such as L2.N17, not {feature!r}.")
    return int(found[1]), int(found[2])
