"""Export of a trained model: a Hugging Face folder with a record of the training."""

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
"""Name of the file beside the weights that records the training."""


def _package_versions() -> dict[str, str]:
    """Return the versions of the packages whose documentation was read."""
    return {name: number for name, number in versions(*PACKAGES).items() if name != "python"}


@dataclass(frozen=True)
class Record:
    """Record of a training: facts that the weights themselves do not hold.

    Attributes:
        recipe: Shape, schedule and seed of the training.
        step: Number of steps that were made; fewer than `recipe.steps` if the training was stopped.
        seconds: Time of the training, without evaluation.
        threads: Number of CPU threads.
        training_documents: Number of documents that the model was trained on.
        training_bytes: UTF-8 bytes of the training documents.
        training_tokens: Tokens of the training documents in one pass, end-of-text tokens included.
        held_out_documents: Number of documents that were kept apart for evaluation.
        device: Device of the training.
        machine: Type of the processor.
        python: Version of Python, and so of the standard library whose documentation was read.
        torch: Version of torch, with its build.
        packages: Versions of the packages whose documentation was read.
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
        """Read the record of a model's folder."""
        values = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return cls(**{**values, "recipe": Recipe(**values["recipe"])})


def export(model: Any, tokenizer: Any, record: Record, folder: Path) -> Path:
    """Save weights in half precision, tokenizer and record; return the folder.

    Args:
        model: Trained `GPTNeoXForCausalLM`.
        tokenizer: Tokenizer of the `tokenizers` library.
        record: Record of the training.
        folder: Folder to write; an existing folder is replaced.
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
