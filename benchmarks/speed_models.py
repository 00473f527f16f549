"""Models of the speed benchmark, and the cost of a search on them without sharing.

The benchmark measures only speed, which depends on shapes. So all models but the embedded one have random weights in
the shapes of well-known models, and nothing has to be downloaded.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

LENGTH, POPULATION, CHILDREN, TOP_K, RESTART_EVERY = 12, 8, 32, 512, 30
"""Settings n, M, r and k, and the iterations between restarts, of the paper's Table 1."""

NEURON = 40
"""Feature of the searches: this MLP neuron of the middle layer."""


@dataclass(frozen=True)
class Shape:
    """Shape of a model.

    Attributes:
        kind: Family of the model: "embedded", "gpt2" or "neox".
        layers: Number of blocks.
        width: d_model; the MLP is four times as wide.
        heads: Number of heads of each attention.
        vocabulary: Number of rows of the embedding.
        cuda_only: Whether the model is too large for a processor. Such models are in bfloat16, the others in float32.
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
        """Text of one token; repeated, each repetition is one token."""
        return " the" if self.kind == "embedded" else " t5"

    @property
    def parameters(self) -> int:
        """Number of parameters in the matrices that multiply every token of a pass: blocks and unembedding."""
        return self.layers * 12 * self.width**2 + self.vocabulary * self.width

    @property
    def flop(self) -> float:
        """Floating-point operations of one iteration of EPO without sharing.

        These are M r children, and one pass forward and back over M members, with two operations for each parameter,
        token and direction. The backward pass goes to the embeddings only: no weight gets a gradient.
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
    """Create the Hugging Face model and its tokenizer on the device, in its precision, so no larger copy exists."""
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
    """Create a tokenizer in memory with `size` tokens: the words t0, t1 and so on, the last one special."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({f"t{i}": i for i in range(size)}, unk_token="t0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = f"t{size - 1}"
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=special, eos_token=special, name_or_path="local", add_bos_token=True
    )


def bridge(name: str, device: str) -> Any:
    """Load the same model as a TransformerLens bridge."""
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
