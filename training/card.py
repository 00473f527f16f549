"""Write the model card of a trained model, with measurements on the saved weights.

    python -m training.card FOLDER

This command writes the card of a folder again, from its weights, its `training.json` and the installed documentation.
"""

from __future__ import annotations

import argparse
import json
import lzma
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dreamy_lens.corpus import Document, docstrings
from training.evaluate import bits, continuation
from training.export import Record
from training.recipe import END_OF_TEXT

PROMPTS = (
    "Return True if",
    "Returns the number of",
    "Compute the mean of",
    "Convert a string",
    "Parameters\n----------\nx : array_like\n",
)
TOKENS = 70
TEMPERATURE = 0.7


def main(arguments: list[str] | None = None) -> None:
    """Run ``python -m training.card``."""
    import torch

    parser = argparse.ArgumentParser(
        description="Measure a model on the held-out documentation and write its card again."
    )
    parser.add_argument("folder", type=Path, help="folder of a trained model")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads; default: chosen by torch")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    held_out = docstrings("held_out")
    record = Record.read(options.folder)
    if len(held_out) != record.held_out_documents:
        wanted = ", ".join(f"{name} {number}" for name, number in record.packages.items())
        parser.error(
            f"This installation has {len(held_out):,} held-out docstrings, but the training kept "
            f"{record.held_out_documents:,} apart. Use Python {record.python} with {wanted}."
        )
    write_card(options.folder, held_out)


def write_card(folder: Path, held_out: Sequence[Document]) -> None:
    """Measure the model of a folder and write its README.md.

    Args:
        folder: Folder with weights, tokenizer and `training.json`.
        held_out: Documents to measure the model on; at least one.
    """
    import torch
    from tokenizers import Tokenizer
    from transformers import GPTNeoXForCausalLM

    model = GPTNeoXForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    (folder / "README.md").write_text(_card(model, tokenizer, Record.read(folder), held_out), encoding="utf-8")


def _card(model: Any, tokenizer: Any, record: Record, held_out: Sequence[Document]) -> str:
    recipe = record.recipe
    texts = [document.text for document in held_out]
    sizes = [len(text.encode()) for text in texts]
    measured = bits(model, tokenizer, texts)
    xz = 8 * len(lzma.compress("\n".join(texts).encode(), preset=9 | lzma.PRESET_EXTREME)) / sum(sizes)
    seen = record.step * recipe.rows * recipe.context
    passes = f"{seen / 1e6:.1f} M tokens, {seen / record.training_tokens:.1f} passes"
    command = f"python -m training.train --out FOLDER --steps {recipe.steps}"
    command += f" --stop-at {record.step}" if record.step < recipe.steps else ""
    command += f" --seed {recipe.seed} --device {record.device}"
    command += f" --threads {record.threads}" if record.device == "cpu" else ""
    versions = ", ".join(f"{name} {number}" for name, number in record.packages.items())
    rows = {
        "": "",
        "---": "---",
        "held-out bits per byte": f"**{sum(measured) / sum(sizes):.3f}** over all {len(texts):,} held-out docstrings "
        f"({sum(sizes) / 1e6:.3f} MB)",
        "for comparison": f"`xz -9e` on the held-out text alone: {xz:.2f}",
        "training text": f"{record.training_documents:,} docstrings, {record.training_bytes / 1e6:.1f} MB, "
        f"{record.training_tokens:,} tokens",
        "training": f"{record.step:,} steps of {recipe.rows} x {recipe.context} tokens ({passes}) "
        f"in {record.seconds:,.0f} s",
        "machine": f"{record.machine}, {record.device}, {record.threads} threads, torch {record.torch}",
        "weights": "float16 safetensors",
    }
    paragraphs = (
        f"""A GPT-NeoX language model of {model.num_parameters():,} parameters ({recipe.layers} layers, d_model
        {recipe.width}, {recipe.heads} heads, d_mlp {4 * recipe.width}, {recipe.vocabulary:,} tokens, context
        {recipe.context}), trained from random weights on the English prose of Python's own documentation. It is
        the model that `dreamy_lens.load_model()` returns. It is small enough to ship inside the package, and trained
        well enough that dreams about it read like documentation.""",
        "\n".join(f"| {name} | {text} |" for name, text in rows.items()),
        f"""**Data.** The training text is docstrings, read with `ast` from the source files of the standard library of
        Python {record.python}, its `pydoc_data.topics`, and {versions}. Near-duplicates were removed: a text is a
        near-duplicate if half of its word 6-grams occur in earlier texts. A docstring is *held out* if the MD5 of its
        UTF-8 text, as an integer, is divisible by 50. The model was trained neither on held-out docstrings nor on
        their near-duplicates.""",
        f"""**Measure.** Bits per byte are measured on the float16 weights of this folder. Each text is read after an
        end-of-text token, in windows of {recipe.context} tokens that overlap by half, and its bits are divided by its
        UTF-8 bytes. Documentation is formulaic, and more so in some packages than in others:
        {_by_package(held_out, measured, sizes)}.""",
        f"""**Tokenizer.** Byte-level BPE, trained on the training text. Every string round-trips. `{END_OF_TEXT}`
        stands before every document, and so also after every document. It is both BOS and EOS, and prompts should
        start with it.""",
        f"""**Training.** Muon for the matrices, AdamW for the other parameters, learning rate {recipe.learning_rate:g}
        with {recipe.warmup} steps of warm-up and a linear cool-down over the last {recipe.cooldown:.0%} of
        {recipe.steps:,} steps. {_stopped(record)} The command, with the packages named above:""",
        f"```sh\n{command}\n```",
        """**Limits.** The model knows the style and the vocabulary of documentation, but not whether a text is true. It
        is an object of study, not an assistant.""",
        "## Continuations",
        f"""Each prompt is continued twice: greedily, and with the first sample at temperature {TEMPERATURE} (seed 0). A
        continuation has at most {TOKENS} tokens; `...` replaces a line that is unfinished at that length. Greedy
        decoding of such a small model soon repeats itself.""",
    )
    title = f"# docstrings-neox-{model.num_parameters() / 1e6:.0f}m"
    header = f"---\nlicense: mit\nlanguage: en\nlibrary_name: transformers\n---\n\n{title}"
    return "\n\n".join([header, *map(_wrapped, paragraphs), *_continuations(model, tokenizer)]) + "\n"


def _wrapped(paragraph: str) -> str:
    if paragraph.startswith(("|", "#", "```")):
        return paragraph
    return textwrap.fill(" ".join(paragraph.split()), 120, break_long_words=False, break_on_hyphens=False)


def _stopped(record: Record) -> str:
    recipe = record.recipe
    if record.step >= recipe.steps:
        return "The training ran to its end."
    rate = recipe.learning_rate_at(record.step) / recipe.learning_rate
    start = round(recipe.steps * (1 - recipe.cooldown))
    where = f"at {rate:.0%} of its peak"
    if record.step > start:
        where += f", {(record.step - start) / (recipe.steps - start):.0%} of the way down the cool-down"
    return (
        f"The training was stopped at step {record.step:,} of {recipe.steps:,}, before the end of the schedule. The "
        f"learning rate was still {where}."
    )


def _by_package(held_out: Sequence[Document], measured: list[float], sizes: list[int]) -> str:
    """List the bits per byte of each package's documents, in the order of the packages."""
    sums: dict[str, tuple[float, int]] = {}
    for document, text_bits, size in zip(held_out, measured, sizes, strict=True):
        package = document.source.partition("/")[0]
        so_far = sums.get(package, (0.0, 0))
        sums[package] = (so_far[0] + text_bits, so_far[1] + size)
    return ", ".join(f"{package} {total / size:.2f}" for package, (total, size) in sums.items())


def _continuations(model: Any, tokenizer: Any) -> list[str]:
    blocks = []
    for prompt in PROMPTS:
        for title, temperature in (("Greedy", 0.0), (f"Temperature {TEMPERATURE}", TEMPERATURE)):
            text, ended = continuation(model, tokenizer, prompt, TOKENS, temperature)
            if not ended:
                text = text.rpartition("\n")[0].rstrip() + "\n..." if "\n" in text else text + " ..."
            written = (prompt + text).rstrip()
            blocks.append(f"{title}, after `{json.dumps(prompt)}`:\n\n````text\n{written}\n````")
    return blocks


if __name__ == "__main__":
    main()
