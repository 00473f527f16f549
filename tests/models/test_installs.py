"""No library installs anything while a model is loaded: installers are stopped, and the part for text is loaded."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dreamy_lens as dl
from dreamy_lens.models.installs import InstallationBlocked, no_installs
from tests.helpers import models


@pytest.fixture
def started(monkeypatch) -> list[Any]:
    """Processes that would have been started: none ever is."""
    commands: list[Any] = []

    def start(*args: Any, **options: Any) -> Any:
        if args[0] != ["lscpu"]:  # with which torch 2.6 asks for the features of the processor
            commands.append(args)
        raise OSError("no process in this test")

    monkeypatch.setattr(subprocess, "_fork_exec", start)
    monkeypatch.setattr(os, "posix_spawn", start)
    return commands


PIP = [
    [sys.executable, "-m", "pip", "install", "torchvision", "-q"],
    ["uv", "pip", "install", "torchvision", "-q"],
    ["/usr/bin/pip3.11", "install", "-U", "torch"],
    ["conda", "install", "-y", "torch"],
    "pip install torchvision",
    ["sh", "-c", "cd /tmp && pip install torchvision"],
    b"pip download torch",
]


@pytest.mark.parametrize("command", PIP)
def test_installers_are_stopped_before_a_process_starts(started, command):
    with no_installs() as stopped:
        with pytest.raises(InstallationBlocked, match="lets no library install anything"):
            subprocess.check_call(command, shell=not isinstance(command, list))
        with pytest.raises(InstallationBlocked):
            os.system(command if isinstance(command, (str, bytes)) else " ".join(command))
    assert len(stopped) == 2 and not started
    with pytest.raises(OSError, match="no process in this test"):
        subprocess.check_call(command, shell=not isinstance(command, list))
    assert len(started) == 1


@pytest.mark.parametrize("command", [["git", "log"], ["gcc", "--version"], ["/home/pip/bin/tool", "install"], ["uv"]])
def test_other_commands_and_other_threads_are_left_alone(started, command):
    def run() -> None:
        with pytest.raises(OSError, match="no process in this test"):
            subprocess.run(PIP[0], check=False)

    with no_installs() as stopped:
        with pytest.raises(OSError, match="no process in this test"):
            subprocess.run(command, check=False)
        other = threading.Thread(target=run)
        other.start()
        other.join(60)
    assert not stopped and len(started) == 2


def save_vision_language_model(folder: Path) -> Any:
    """Save a tiny model for text and images, whose processor is missing."""
    import transformers as hf

    tokenizer = models.tokenizer()
    size = len(tokenizer) + models.PADDED
    body: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2}
    text = hf.LlamaConfig(vocab_size=size, num_attention_heads=4, num_key_value_heads=2, bos_token_id=0, **body)
    vision = hf.CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4
    )
    torch.manual_seed(3)
    raw: Any = hf.LlavaForConditionalGeneration(
        hf.LlavaConfig(vision_config=vision, text_config=text, image_token_index=size - 1)
    ).eval()
    raw.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return raw


def test_a_vision_language_folder_loads_its_text_part_and_starts_no_process(started, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)  # also where it is installed
    raw = save_vision_language_model(tmp_path / "vl")
    with pytest.warns(RuntimeWarning, match=r"only the part for text was .*pip install torchvision.* was stopped"):
        model = dl.load_model(tmp_path / "vl", device="cpu")
    assert not started
    ids = torch.randint(1, 300, (4, 7), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = raw(ids).logits
    scores = dl.score("logit(9)", ids.numpy(), model, prepend_bos=False)
    np.testing.assert_allclose(scores.value, logits[:, -1, 9], atol=1e-5)
    losses = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    np.testing.assert_allclose(scores.cross_entropy, losses.view(4, -1).mean(1), atol=1e-5)
    assert dl.dream("L1.N3", model, iterations=1, population=2, children=4, length=6).iteration == 1
    assert not started
