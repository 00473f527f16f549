"""Write a trained model as a Hugging Face folder with a record of its training."""

from __future__ import annotations

import copy
import json
import platform
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from dreamy_lens._host import versions
from dreamy_lens.corpus import PACKAGES
from training.recipe import END_OF_TEXT, Recipe

RECORD = "training.json"
"""The file beside the weights that says how they came about."""


def _package_versions() -> dict[str, str]:
    """Versions of the packages whose documentation was read."""
    return {name: number for name, number in versions(*PACKAGES).items() if name != "python"}


@dataclass(frozen=True)
class Record:
    """How a model was trained: what the weights themselves do not tell.

    Attributes:
        recipe: shape, schedule and seed.
        step: steps that were made; fewer than `recipe.steps` if training was stopped.
        seconds: time the training took, evaluation not counted.
        threads: CPU threads.
        training_documents: documents trained on.
        training_bytes: their UTF-8 bytes.
        training_tokens: their tokens, end-of-text included: one pass.
        held_out_documents: documents kept apart.
        device: what it was trained on.
        machine: type of processor.
        python: version of Python, and so of the standard library whose documentation was read.
        torch: version of torch, with the build.
        packages: versions of the packages whose documentation was read.
    """

    recipe: Recipe
    step: int
    seconds: float
    threads: int
    training_documents: int
    training_bytes: int
    training_tokens: int
    held_out_documents: int
    device: str = "cpu"
    machine: str = field(default_factory=platform.machine)
    python: str = field(default_factory=platform.python_version)
    torch: str = torch.__version__
    packages: dict[str, str] = field(default_factory=_package_versions)

    def write(self, folder: Path) -> None:
        """Save the record beside the weights."""
        (folder / RECORD).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Record:
        """The record of a model's folder."""
        values = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return cls(**{**values, "recipe": Recipe(**values["recipe"])})


def export(model: Any, tokenizer: Any, record: Record, folder: Path) -> Path:
    """Save weights in half precision, tokenizer and record; return the folder.

    Args:
        model: the trained `GPTNeoXForCausalLM`.
        tokenizer: of the `tokenizers` library.
        record: how it was trained.
        folder: replaced if it exists.
    """
    from transformers import PreTrainedTokenizerFast

    if folder.exists():
        shutil.rmtree(folder)
    copy.deepcopy(model).cpu().eval().half().save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        unk_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        model_max_length=record.recipe.context,
        clean_up_tokenization_spaces=False,
        add_bos_token=True,
    ).save_pretrained(folder)
    record.write(folder)
    return folder
