"""The models of the speed benchmark, and what a search on them costs if nothing is shared.

Only speed is measured on them, and that depends on shapes: all but the embedded model have random weights, in the
shapes of well-known models, so that nothing has to be downloaded.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

LENGTH, POPULATION, CHILDREN, TOP_K, RESTART_EVERY = 12, 8, 32, 512, 30
"""n, M, r, k and the iterations between restarts of the paper's Table 1."""

NEURON = 40
"""The MLP neuron of the middle layer that is driven."""


@dataclass(frozen=True)
class Shape:
    """A model's shape.

    Attributes:
        kind: "embedded", "gpt2" or "neox".
        layers: how many blocks.
        width: d_model; the MLP is four times as wide.
        heads: of each attention.
        vocabulary: rows of the embedding.
        cuda_only: whether it is too large for a processor; such models are in bfloat16, the others in float32.
    """

    kind: str
    layers: int
    width: int
    heads: int
    vocabulary: int
    cuda_only: bool = False

    @property
    def dtype(self) -> str:
        return "bfloat16" if self.cuda_only else "float32"

    @property
    def feature(self) -> str:
        return f"L{self.layers // 2}.N{NEURON}"

    @property
    def word(self) -> str:
        """A text of one token, also where it is repeated."""
        return " the" if self.kind == "embedded" else " t5"

    @property
    def parameters(self) -> int:
        """Of the matrices that every token of a pass is multiplied with: blocks and unembedding."""
        return self.layers * 12 * self.width**2 + self.vocabulary * self.width

    @property
    def flop(self) -> float:
        """Of one iteration of EPO without any sharing: M r children, and a pass forward and back over M members.

        Two per parameter and token, in each direction. Back means to the embeddings only: no weight gets a gradient.
        """
        return 2.0 * self.parameters * LENGTH * POPULATION * (CHILDREN + 2)


SHAPES = {
    "embedded": Shape("embedded", 6, 224, 7, 4096),
    "gpt2-small": Shape("gpt2", 12, 768, 12, 50257),
    "pythia-410m": Shape("neox", 24, 1024, 16, 50304, cuda_only=True),
    "pythia-1.4b": Shape("neox", 24, 2048, 16, 50304, cuda_only=True),
    "pythia-6.9b": Shape("neox", 32, 4096, 32, 50432, cuda_only=True),
    "pythia-12b": Shape("neox", 36, 5120, 40, 50688, cuda_only=True),
}


def plain(name: str, device: str) -> tuple[Any, Any]:
    """The Hugging Face model and its tokenizer, made on the device in its own precision: no larger copy ever exists."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPTNeoXConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    shape = SHAPES[name]
    if shape.kind == "embedded":
        from dreamy_lens.models.embedded import FOLDER

        model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).to(device)
        return model.eval().requires_grad_(False), AutoTokenizer.from_pretrained(FOLDER)
    last = shape.vocabulary - 1
    config: Any
    if shape.kind == "gpt2":
        config = GPT2Config(vocab_size=shape.vocabulary, bos_token_id=last, eos_token_id=last)
    else:
        config = GPTNeoXConfig(
            vocab_size=shape.vocabulary,
            hidden_size=shape.width,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            intermediate_size=4 * shape.width,
            rotary_pct=0.25,
            bos_token_id=last,
            eos_token_id=last,
        )
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, shape.dtype))
    return model.eval().requires_grad_(False), words(shape.vocabulary)


def words(size: int) -> Any:
    """A tokenizer of a vocabulary of this size, made in memory: the words t0, t1 and so on, the last one special."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({f"t{i}": i for i in range(size)}, unk_token="t0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = f"t{size - 1}"
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=special, eos_token=special, name_or_path="local", add_bos_token=True
    )


def bridge(name: str, device: str) -> Any:
    """The same model as dreamy_lens reads it."""
    import dreamy_lens as dl

    if SHAPES[name].kind == "embedded":
        return dl.load_model(device=device)
    from transformer_lens.model_bridge import TransformerBridge

    model, tokenizer = plain(name, device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return TransformerBridge.boot_transformers(
            f"{name}-shape", hf_model=model, tokenizer=tokenizer, device=device, dtype=model.dtype
        ).eval()
