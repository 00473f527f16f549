"""Export of a trained model: a Hugging Face folder with a record of the training and a model card."""

from __future__ import annotations

import copy
import json
import platform
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from dreamy_lens.corpus import PACKAGES, Document
from training.recipe import END_OF_TEXT, Recipe

RECORD = "training.json"
"""Name of the file beside the weights that records the training."""


def _versions() -> dict[str, str]:
    """Return the versions of the packages whose documentation was read."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package.replace("_", "-"))
        except PackageNotFoundError:
            continue
    return versions


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
    packages: dict[str, str] = field(default_factory=_versions)

    def write(self, folder: Path) -> None:
        """Save the record beside the weights."""
        (folder / RECORD).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Record:
        """Read the record of a model's folder."""
        values = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return cls(**{**values, "recipe": Recipe(**values["recipe"])})


def export(model: Any, tokenizer: Any, record: Record, folder: Path, held_out: Sequence[Document]) -> Path:
    """Save weights in half precision, tokenizer, record and card. The card has measurements of the saved weights.

    Args:
        model: Trained `GPTNeoXForCausalLM`.
        tokenizer: Tokenizer of the `tokenizers` library.
        record: Record of the training.
        folder: Folder to write; an existing folder is replaced.
        held_out: Held-out documents, for the measurements of the card.
    """
    from transformers import PreTrainedTokenizerFast

    from training.card import write_card

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
    write_card(folder, held_out)
    return folder
