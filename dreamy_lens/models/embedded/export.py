"""Write the finished model as a Hugging Face folder with a model card."""

from __future__ import annotations

import copy
import json
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from dreamy_lens.dataset.docstrings import PACKAGES, Document
from dreamy_lens.models.embedded.evaluate import bits_per_byte, continuation
from dreamy_lens.models.embedded.recipe import END_OF_TEXT, Recipe

PROMPTS = (
    "Return the ",
    "Parameters\n----------\nx : array_like\n",
    "Raises an exception if the",
    "This class represents a",
    "Compute the mean of",
)


def export(
    model: Any,
    tokenizer: Any,
    recipe: Recipe,
    folder: Path,
    training: list[Document] | tuple[Document, ...],
    held_out: list[Document] | tuple[Document, ...],
    tokens: int,
    seconds: float,
) -> Path:
    """Save weights in half precision, tokenizer and card; the figures in the card are of the saved weights.

    Args:
        model: the trained `GPTNeoXForCausalLM`.
        tokenizer: of the `tokenizers` library.
        recipe: what was asked for.
        folder: replaced if it exists.
        training: the training documents.
        held_out: the held-out documents.
        tokens: tokens in one pass over the training documents.
        seconds: training time.
    """
    from transformers import PreTrainedTokenizerFast

    if folder.exists():
        shutil.rmtree(folder)
    half = copy.deepcopy(model).cpu().eval().half()
    half.save_pretrained(folder, safe_serialization=True)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        unk_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        model_max_length=recipe.context,
        clean_up_tokenization_spaces=False,
        add_bos_token=True,
    ).save_pretrained(folder)

    saved = half.float()
    measured = bits_per_byte(saved, tokenizer, [d.text for d in held_out])
    card = _card(saved, tokenizer, recipe, training, held_out, tokens, seconds, measured)
    (folder / "README.md").write_text(card, encoding="utf-8")
    return folder


def _card(
    model: Any,
    tokenizer: Any,
    recipe: Recipe,
    training: Any,
    held_out: Any,
    tokens: int,
    seconds: float,
    measured: float,
) -> str:
    sizes = {name: sum(len(d.text.encode()) for d in part) for name, part in (("train", training), ("held", held_out))}
    parameters = sum(p.numel() for p in model.parameters())
    seen = recipe.steps * recipe.rows * recipe.context
    shape = (
        f"{recipe.layers} layers, d_model {recipe.width}, {recipe.heads} heads, d_mlp {4 * recipe.width}, "
        f"{recipe.vocabulary:,} tokens, context {recipe.context}"
    )
    samples = "\n".join(
        f"**`{json.dumps(prompt)}`**\n\n```text\n{title}: {prompt}{continuation(model, tokenizer, prompt, 60, temperature)}\n```\n"
        for prompt in PROMPTS
        for title, temperature in (("greedy", 0.0), ("sampled, temperature 0.8", 0.8))
    )
    return f"""---
license: mit
language: en
library_name: transformers
---

# docstrings-neox-5m

A GPT-NeoX language model of {parameters:,} parameters ({shape}), trained from random weights on the English prose of
Python's own documentation. It is the model that `dreamy_lens.load_model()` returns: small enough to ship inside the
package, trained well enough for dreams about it to read like documentation.

| | |
| --- | --- |
| held-out bits per byte | **{measured:.3f}** over all {len(held_out):,} held-out docstrings ({sizes["held"] / 1e6:.2f} MB) |
| training text | {len(training):,} docstrings, {sizes["train"] / 1e6:.1f} MB, {tokens:,} tokens |
| training | {recipe.steps:,} steps of {recipe.rows} x {recipe.context} tokens ({seen / 1e6:.1f} M tokens, {seen / tokens:.1f} passes), {seconds:,.0f} s |
| machine | {platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {next(model.parameters()).device} |
| weights | float16 safetensors |

**Data.** Docstrings read with `ast` from the source files of {", ".join(PACKAGES)} ({_versions()}; Python {platform.python_version()}).
Near-duplicates are removed (half of a text's word 6-grams already seen). A docstring is *held out* if the MD5 of its
UTF-8 text, as an integer, is divisible by 50; neither these nor their near-duplicates were trained on. Bits per byte
are measured on the float16 weights as shipped, each text after the end-of-text token, windows of {recipe.context} tokens overlapping by half.

**Tokenizer.** Byte-level BPE trained on the same training text: every string round-trips. `{END_OF_TEXT}` stands before every
document and so also ends it; it is both BOS and EOS, and prompts should start with it.

**Training.** `python -m dreamy_lens.models.embedded.train --out FOLDER --steps {recipe.steps} --seed {recipe.seed}`: Muon for the
matrices, AdamW for the rest, learning rate {recipe.learning_rate:g} with {recipe.warmup} steps of warm-up and a linear cool-down over the last {recipe.cooldown:.0%}.

**Limits.** It knows the style and vocabulary of documentation, not its truth. It is an object of study, not an assistant.

## Continuations

{samples}"""


def _versions() -> str:
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package.replace('_', '-'))}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)
