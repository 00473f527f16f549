"""Tiny models with random weights of every architecture that transformers builds from a configuration.

A model has two layers, and different numbers for different things (heads, widths, experts), so that an axis taken for
another one shows. Heads are grouped where the architecture allows it. The modules that give neurons and heads their
meaning are named by hand, in the plain Hugging Face model.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import pytest
import torch
from packaging.version import Version

from tests.helpers.models import tokenizer

LAYER = 1
"""Index of the layer that is examined: the last one, which has attention in hybrids too."""

HEADS = 4
PADDED = 5
"""Rows of every embedding that no token has."""

_GENERAL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "initializer_range": 0.25,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 331,
}
"""Settings that many configurations know; a configuration that does not know one is made without it."""


@dataclass(frozen=True)
class Architecture:
    """Architecture, and where the plain Hugging Face model computes what the familiar hook points are named after.

    Attributes:
        name: Class of transformers.
        kind: Type of its configuration in `CONFIG_MAPPING`.
        layers: Path of the list of layers.
        down: Path, within a layer, of the MLP's last linear map; None if there is none, as in a mixture of experts.
        out: Path, within a layer, of the attention's last linear map; None if layer 1 has no attention of this kind.
        block: Name of the list of layers in hook points.
        settings: Settings of the configuration, besides the general ones.
    """

    name: str
    kind: str
    layers: str = "model.layers"
    down: str | None = "mlp.down_proj"
    out: str | None = "self_attn.o_proj"
    block: str = "blocks"
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def family(self) -> str:
        """Name of the architecture in documents."""
        name = self.name
        for ending in ("ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForConditionalGeneration"):
            name = name.removesuffix(ending)
        return name


_LATENT = {"q_lora_rank": 16, "kv_lora_rank": 12, "qk_rope_head_dim": 4, "qk_nope_head_dim": 6, "v_head_dim": 8}
_LATENT |= {"head_dim": 4, "num_key_value_heads": 4}
_ROUTED = {"n_group": 1, "topk_group": 1, "n_shared_experts": 1, "first_k_dense_replace": 1}
_MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_expand": 2}
_DELTA = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8}
_DELTA |= {"linear_value_head_dim": 8, "layer_types": ["linear_attention", "full_attention"]}
_SHARED = {"shared_expert_intermediate_size": 24}


def _llama_like(names: str) -> list[Architecture]:
    """Return architectures whose layers name their modules as Llama does: pairs "Class:type"."""
    return [Architecture(f"{name}ForCausalLM", kind) for name, kind in (pair.split(":") for pair in names.split())]


def _experts(names: str, **settings: Any) -> list[Architecture]:
    """Return architectures with a mixture of experts in the layer and Llama's attention: pairs "Class:type"."""
    pairs = (pair.split(":") for pair in names.split())
    return [Architecture(f"{name}ForCausalLM", kind, down=None, settings=settings) for name, kind in pairs]


_ALL = [
    # Dense decoders.
    *_llama_like(
        "Apertus:apertus Arcee:arcee BitNet:bitnet Cohere:cohere Cohere2:cohere2 Ernie4_5:ernie4_5 Exaone4:exaone4 "
        "Gemma:gemma Gemma2:gemma2 Gemma3:gemma3_text Glm:glm Glm4:glm4 Granite:granite "
        "HunYuanDenseV1:hunyuan_v1_dense Jais2:jais2 Llama:llama Ministral3:ministral3 Mistral:mistral "
        "Nemotron:nemotron Olmo:olmo Olmo2:olmo2 Olmo3:olmo3 Phi3:phi3 Qwen2:qwen2 Qwen3:qwen3 SeedOss:seed_oss "
        "SmolLM3:smollm3 StableLm:stablelm VaultGemma:vaultgemma"
    ),
    Architecture("BloomForCausalLM", "bloom", "transformer.h", "mlp.dense_4h_to_h", "self_attention.dense"),
    Architecture("FalconForCausalLM", "falcon", "transformer.h", "mlp.dense_4h_to_h", "self_attention.dense"),
    Architecture("GPT2LMHeadModel", "gpt2", "transformer.h", "mlp.c_proj", "attn.c_proj"),
    Architecture("GPTBigCodeForCausalLM", "gpt_bigcode", "transformer.h", "mlp.c_proj", "attn.c_proj"),
    Architecture("OpenAIGPTLMHeadModel", "openai-gpt", "transformer.h", "mlp.c_proj", "attn.c_proj"),
    Architecture("GPTNeoXForCausalLM", "gpt_neox", "gpt_neox.layers", "mlp.dense_4h_to_h", "attention.dense"),
    Architecture("MptForCausalLM", "mpt", "transformer.blocks", "ffn.down_proj", "attn.out_proj"),
    Architecture("NanoChatForCausalLM", "nanochat", down="mlp.fc2"),
    Architecture("PhiForCausalLM", "phi", down="mlp.fc2", out="self_attn.dense"),
    Architecture("Starcoder2ForCausalLM", "starcoder2", down="mlp.c_proj"),
    Architecture("YoutuForCausalLM", "youtu", settings=_LATENT),
    Architecture(
        "CodeGenForCausalLM",
        "codegen",
        "transformer.h",
        "mlp.fc_out",
        "attn.out_proj",
        settings={"rotary_dim": 4, "n_ctx": 64},
    ),
    Architecture("GPTJForCausalLM", "gptj", "transformer.h", "mlp.fc_out", "attn.out_proj", settings={"rotary_dim": 4}),
    Architecture(
        "GPTNeoForCausalLM",
        "gpt_neo",
        "transformer.h",
        "mlp.c_proj",
        "attn.attention.out_proj",
        settings={"num_layers": 2, "attention_types": [[["global", "local"], 1]], "window_size": 8},
    ),
    Architecture(
        "ModernBertDecoderForCausalLM",
        "modernbert-decoder",
        down="mlp.Wo",
        out="attn.Wo",
        settings={"global_attn_every_n_layers": 2, "local_attention": 4, "cls_token_id": 0, "sep_token_id": 0},
    ),
    Architecture(
        "OPTForCausalLM",
        "opt",
        "model.decoder.layers",
        "fc2",
        "self_attn.out_proj",
        settings={"ffn_dim": 40, "word_embed_proj_dim": 32},
    ),
    Architecture(
        "XGLMForCausalLM",
        "xglm",
        down="fc2",
        out="self_attn.out_proj",
        settings={"num_layers": 2, "attention_heads": HEADS, "ffn_dim": 40, "d_model": 32, "pad_token_id": 1},
    ),
    Architecture(
        "Gemma4ForCausalLM",
        "gemma4_text",
        settings={
            "layer_types": ["sliding_attention", "full_attention"],
            "vocab_size_per_layer_input": 335,
            "hidden_size_per_layer_input": 8,
            "global_head_dim": 8,
            "sliding_window": 8,
        },
    ),
    # Mixtures of experts.
    *_experts("Afmoe:afmoe Ernie4_5_Moe:ernie4_5_moe FlexOlmo:flex_olmo GraniteMoe:granitemoe GptOss:gpt_oss"),
    *_experts("Llama4:llama4_text MiniMaxM2:minimax_m2 Mixtral:mixtral Olmoe:olmoe Qwen3Moe:qwen3_moe Laguna:laguna"),
    *_experts("Qwen2Moe:qwen2_moe", **_SHARED),
    *_experts("DeepseekV2:deepseek_v2 DeepseekV3:deepseek_v3 Glm4MoeLite:glm4_moe_lite", **_LATENT, **_ROUTED),
    *_experts("GlmMoeDsa:glm_moe_dsa", **_LATENT, **_ROUTED, index_n_heads=2, index_head_dim=8, index_topk=4),
    *_experts("Glm4Moe:glm4_moe", **_ROUTED),
    Architecture("JetMoeForCausalLM", "jetmoe", down=None, out=None),
    # Hybrids of attention and recurrence.
    Architecture(
        "BambaForCausalLM", "bamba", down="feed_forward.down_proj", settings=_MAMBA | {"attn_layer_indices": [1]}
    ),
    Architecture(
        "Lfm2ForCausalLM",
        "lfm2",
        down="feed_forward.w2",
        out="self_attn.out_proj",
        settings={"layer_types": ["conv", "full_attention"]},
    ),
    Architecture(
        "Lfm2MoeForCausalLM",
        "lfm2_moe",
        down=None,
        out="self_attn.out_proj",
        settings={"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    ),
    Architecture(
        "FalconH1ForCausalLM",
        "falcon_h1",
        down="feed_forward.down_proj",
        settings={"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8},
    ),
    Architecture(
        "JambaForCausalLM",
        "jamba",
        down=None,
        settings={
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "mamba_d_state": 8,
            "use_mamba_kernels": False,
        },
    ),
    Architecture("Qwen3_5ForCausalLM", "qwen3_5_text", settings=_DELTA),
    *_experts("Qwen3Next:qwen3_next Qwen3_5Moe:qwen3_5_moe_text", **_DELTA, **_SHARED),
    Architecture(
        "OlmoHybridForCausalLM", "olmo_hybrid", settings={"layer_types": ["linear_attention", "full_attention"]}
    ),
    # Recurrent models, and others whose layers TransformerLens does not open.
    Architecture("FalconMambaForCausalLM", "falcon_mamba", "backbone.layers", None, None),
    Architecture("MambaForCausalLM", "mamba", "backbone.layers", None, None),
    Architecture(
        "Mamba2ForCausalLM",
        "mamba2",
        "backbone.layers",
        None,
        None,
        settings={"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1},
    ),
    Architecture("RwkvForCausalLM", "rwkv", "rwkv.blocks", None, None),
    Architecture(
        "RecurrentGemmaForCausalLM",
        "recurrent_gemma",
        down=None,
        out=None,
        settings={
            "block_types": ["recurrent", "attention"],
            "lru_width": 32,
            "attention_window_size": 8,
            "num_key_value_heads": 1,
        },
    ),
    Architecture(
        "NemotronHForCausalLM", "nemotron_h", down=None, out=None, settings={"layers_block_type": ["attention", "mlp"]}
    ),
    # Models that see both sides of a token.
    Architecture("BertForMaskedLM", "bert", "bert.encoder.layer", "output.dense", "attention.output.dense"),
    Architecture(
        "T5ForConditionalGeneration",
        "t5",
        "decoder.block",
        "layer.2.DenseReluDense.wo",
        None,
        block="decoder_blocks",
        settings={
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 40,
            "num_layers": 2,
            "num_heads": HEADS,
            "decoder_start_token_id": 0,
        },
    ),
]

ARCHITECTURES = {architecture.name: architecture for architecture in _ALL}


_NEEDED = {
    "GlmMoeDsaForCausalLM": ("torch", "2.7"),
    "Qwen3_5ForCausalLM": ("transformer-lens", "4"),
    "Qwen3NextForCausalLM": ("transformer-lens", "4"),
    "T5ForConditionalGeneration": ("transformer-lens", "4"),
}
"""Lowest versions that run some architectures beside the lowest transformers; before, a pass ends in an error."""


def plain_model(architecture: Architecture) -> Any:
    """Return a plain Hugging Face model of an architecture; the same numbers every time. Norm weights are jittered."""
    import transformers as hf
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    package, least = _NEEDED.get(architecture.name, ("torch", "2"))
    if Version(version(package)) < Version(least):
        pytest.skip(f"{package} {version(package)} cannot run {architecture.name}; version {least} can")
    kind = CONFIG_MAPPING[architecture.kind]
    known = set(inspect.signature(kind.__init__).parameters) | set(kind.attribute_map)
    known |= {name for base in kind.__mro__ for name in getattr(base, "__annotations__", {})}
    settings = {name: value for name, value in _GENERAL.items() if name in known}
    config = kind(**settings | {"vocab_size": len(tokenizer()) + PADDED} | architecture.settings)
    config.architectures = [architecture.name]
    config._attn_implementation = config._experts_implementation = "eager"
    torch.manual_seed(0)
    model = getattr(hf, architecture.name)(config).eval().float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def bridge_of(architecture: Architecture, raw: Any) -> Any:
    """Return a bridge over a copy of a plain model."""
    from transformer_lens.model_bridge import TransformerBridge

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bridge = TransformerBridge.boot_transformers(
            f"tiny-{architecture.family}",
            hf_model=copy.deepcopy(raw),
            tokenizer=tokenizer(),
            device="cpu",
            dtype=torch.float32,
        )
    return bridge.eval()
