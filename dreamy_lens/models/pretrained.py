"""Models that TransformerLens does not load by itself: with an adapter of the library peft, or with quantised weights.

The Hugging Face model is loaded here, the adapter is merged into its weights, and TransformerLens gets the result.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamy_lens._files import why_no_path
from dreamy_lens.errors import ModelError, SettingsError, quoted, shorten

if TYPE_CHECKING:
    import torch

ADAPTER_CONFIG = "adapter_config.json"

OPTIONS = ("trust_remote_code", "revision", "code_revision", "device_map", "max_memory", "offload_folder")
"""Options of TransformerLens that are arguments of Hugging Face's loading too."""

REPEATING = "bitsandbytes.autograd._functions"
"""Logger that writes a line for every matrix product with weights in 8 bits."""
_SAID: set[str] = set()

PROBE = 8
"""Number of tokens after which predictions with a merged adapter are compared with those beside the adapter."""
TOLERANCE = {"float32": 0.02, "float64": 0.02}
"""Largest relative difference of these predictions, by the precision of the weights; of others it is `ROUNDED`."""
ROUNDED = 0.15


def is_adapter(folder: Path) -> bool:
    """Return whether a folder holds an adapter of the library peft; a name that no folder can have holds none."""
    try:
        return (folder / ADAPTER_CONFIG).is_file()
    except OSError:  # the name is too long
        return False


def base_of(folder: Path) -> str:
    """Return the Hugging Face id or the folder of the model that an adapter belongs to, as its configuration names it.

    Raises:
        ModelError: The configuration cannot be read, or names no model.
    """
    base = _stated(folder, "base_model_name_or_path")
    if not isinstance(base, str) or not base.strip():
        raise ModelError(
            f"The folder {quoted(str(folder), 300)} holds an adapter, and its {ADAPTER_CONFIG} names no model that it "
            f"belongs to. Name it: load_model(MODEL, adapter={quoted(str(folder), 300)})."
        )
    if why_no_path(base) is None and not Path(base).expanduser().is_absolute() and (folder / base).is_dir():
        return str((folder / base).resolve())  # a folder beside the adapter, wherever both were moved to
    return base


def base_revision(folder: Path) -> str | None:
    """Return the revision of the model on the Hub that an adapter was trained on; None if it states none."""
    revision = _stated(folder, "revision")
    return revision if isinstance(revision, str) and revision.strip() else None


def _stated(folder: Path, key: str) -> Any:
    """Return a setting of an adapter's configuration; None if it is missing, or cannot be read."""
    try:
        return json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))[key]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def load_pretrained(
    source: str, device: Any, dtype: Any, adapter: Path | None, quantization: Any, options: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """Load a Hugging Face model with quantised weights, or with an adapter merged into its weights.

    Args:
        source: Hugging Face id or folder of the model.
        device: Device of the model.
        dtype: Precision of the weights that are not quantised.
        adapter: Folder of an adapter; None for none.
        quantization: Configuration of the quantisation: an object of transformers, or its settings; None for none.
        options: Options of :func:`dreamy_lens.load_model`.

    Returns:
        The model, and the options that are left for TransformerLens.

    Raises:
        ModelError: The library peft is missing, or the adapter cannot be merged into the model.
        SettingsError: An option does not go together with an adapter or a quantisation.
    """
    what = "an adapter" if adapter is not None else "quantization_config"
    given = {name: value for name, value in options.items() if value is not None}
    wrong = [name for name in given if name not in (*OPTIONS, "tokenizer")]
    if wrong:
        raise SettingsError(
            f"{wrong[0]} does not go together with {what}: the model is loaded by Hugging Face's own code then, which "
            f"takes {', '.join(OPTIONS)}. Leave out {wrong[0]}, or load the Hugging Face model yourself and give it: "
            "load_model(name, hf_model=...)."
        )
    if adapter is not None:
        _check_adapter(adapter)
    from transformers import AutoModelForCausalLM

    keywords = {name: value for name, value in given.items() if name in OPTIONS}
    if quantization is not None:
        keywords["quantization_config"] = _quantization(quantization)
        logging.getLogger(REPEATING).addFilter(_said_once)
        keywords.setdefault("device_map", {"": device})
    model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, attn_implementation="eager", **keywords)
    left = {
        name: given[name] for name in ("trust_remote_code", "revision", "code_revision", "tokenizer") if name in given
    }
    if adapter is not None:
        model = _merged(model, adapter)
        left.setdefault("tokenizer", _tokenizer_of(adapter))
    if keywords.get("device_map") is None:
        model = model.to(device)
    return model.eval(), {name: value for name, value in left.items() if value is not None}


def _check_adapter(folder: Path) -> None:
    """Raise ModelError unless the library peft is installed and can merge this kind of adapter into weights."""
    try:
        from peft import PeftConfig
    except ImportError:
        raise ModelError(
            f"The folder {quoted(str(folder), 300)} holds an adapter, and the library peft, which reads adapters, is "
            "not installed: pip install 'dreamy-lens[adapters]'."
        ) from None
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except Exception as error:  # peft raises errors of many kinds for damaged configurations
        raise ModelError(f"The adapter {quoted(str(folder), 300)} cannot be read: {_reason(error)}.") from error
    if getattr(config, "is_prompt_learning", False):
        raise ModelError(
            f"The adapter {quoted(str(folder), 300)} is of the kind {shorten(str(config.peft_type))}, which puts "
            "learned vectors before every prompt instead of changing weights. dreamy_lens reads the tokens of prompts, "
            "and has no place for such vectors. Use an adapter that can be merged into the weights, such as LoRA."
        )


def _merged(model: Any, folder: Path) -> Any:
    """Return a model with an adapter merged into its weights."""
    from peft import PeftModel

    vectors = _tokenizer_of(folder)
    try:
        if vectors is not None and len(vectors) > model.get_input_embeddings().weight.shape[0]:
            model.resize_token_embeddings(len(vectors))  # the adapter was trained with tokens added
        adapted = PeftModel.from_pretrained(model, str(folder)).eval()
        _untie(adapted)
        before = _predictions(adapted)
        merged = adapted.merge_and_unload(safe_merge=True).eval()
        after = _predictions(merged)
    except Exception as error:  # weights that do not fit, damaged files, kinds that cannot be merged
        raise ModelError(
            f"The adapter {quoted(str(folder), 300)} cannot be merged into {quoted(model.name_or_path, 300)}: "
            f"{_reason(error)}. Is it the model that the adapter was trained on?"
        ) from error
    # Weights that are rounded again after the merge predict something a little different.
    tolerance = TOLERANCE.get(str(model.dtype).removeprefix("torch."), ROUNDED)
    if not getattr(model, "is_quantized", False) and float((after - before).norm()) > tolerance * float(before.norm()):
        raise ModelError(
            f"The adapter {quoted(str(folder), 300)} cannot be merged into {quoted(model.name_or_path, 300)}: with the "
            "adapter in its weights, the model predicts something else than beside the adapter, as peft computes it. "
            "Merge it yourself, and give the model: load_model(name, hf_model=...)."
        )
    return merged


def _untie(adapted: Any) -> None:
    """Give the embedding and the unembedding weights of their own if they share them and an adapter is on one of them.

    The adapter acts on one of the two alone; merged into shared weights, it would act on both.
    """
    import torch

    both = adapted.get_input_embeddings(), adapted.get_output_embeddings()
    layers = [getattr(module, "base_layer", module) for module in both]
    if None in both or layers == list(both) or layers[0].weight is not layers[1].weight:
        return
    layers[1].weight = torch.nn.Parameter(layers[1].weight.detach().clone(), requires_grad=False)
    adapted.config.tie_word_embeddings = False


def _predictions(model: Any) -> torch.Tensor:
    """Return the logits of a model after a few tokens, in float32, less their mean."""
    import torch

    table = model.get_input_embeddings().weight
    ids = torch.arange(5, 5 + PROBE, device=table.device) * 7 % table.shape[0]
    with torch.no_grad():
        logits = model(ids[None]).logits.float().cpu()
    return logits - logits.mean(-1, keepdim=True)


def _tokenizer_of(folder: Path) -> Any:
    """Return the tokenizer that was saved beside an adapter; None if there is none."""
    if not (folder / "tokenizer_config.json").is_file():
        return None
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder))


def _quantization(given: Any) -> Any:
    """Return the configuration of a quantisation as transformers takes it; raise SettingsError for anything else."""
    if isinstance(given, Mapping) and isinstance(given.get("quant_method"), str):
        return dict(given)
    if hasattr(given, "quant_method"):
        return given
    raise SettingsError(
        f"quantization_config is {quoted(given)}; it is a configuration of transformers, as in "
        "quantization_config=BitsAndBytesConfig(load_in_8bit=True), or its settings with their quant_method."
    )


def _said_once(record: logging.LogRecord) -> bool:
    """Let a message of a logger pass only the first time."""
    message = record.getMessage()
    is_new = message not in _SAID
    _SAID.add(message)
    return is_new


def _reason(error: Exception) -> str:
    return shorten(" ".join(str(error).split()).rstrip(".") or type(error).__name__, 300)
