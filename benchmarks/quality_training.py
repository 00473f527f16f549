"""Training of the model "gutenberg" of the quality benchmark: GPT-2 shape, 2.6 million parameters, on one core."""

from __future__ import annotations

import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

from quality_models import Refused

VOCABULARY, LAYERS, WIDTH, HEADS = 4096, 4, 192, 6
CONTEXT, BATCH, HELD_OUT, CHECKPOINT_EVERY = 128, 16, 100_000, 100
LEARNING_RATE, WARM_UP = 2e-3, 100
END = "<|endoftext|>"


def make_tokenizer(lines: list[str]) -> Any:
    """Make a byte-level BPE tokenizer of a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=2,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END, unk_token=END)


def train(text: Path, folder: Path, steps: int) -> None:
    """Train the model, or continue after the last checkpoint. A folder with a finished model stays as it is.

    Args:
        text: Text file, with a paragraph in each line.
        folder: Folder of the model. While it is trained, its checkpoints are in a folder beside it.
        steps: Number of steps.
    """
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    if (folder / "config.json").is_file():
        print(f"{folder} has a trained model already.")
        return
    if not text.is_file():
        raise Refused(f"There is no text in {text}; name a file: --text.")
    torch.set_num_threads(1)
    work = folder.with_name(folder.name + ".training")
    work.mkdir(parents=True, exist_ok=True)
    lines = [" ".join(line.split()) for line in text.read_text(encoding="utf-8", errors="ignore").split("\n")]
    lines = [line for line in lines if len(line) > 20]
    tokenizer = make_tokenizer(lines)
    encoded = tokenizer(lines, add_special_tokens=False)["input_ids"]
    end = tokenizer.bos_token_id
    tokens = torch.tensor([i for row in encoded for i in (end, *row)])
    held = min(HELD_OUT, len(tokens) // 10)
    data, held_out = tokens[:-held], tokens[-held:]
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=CONTEXT,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        bos_token_id=end,
        eos_token_id=end,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    model = GPT2LMHeadModel(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.1)
    checkpoint, first = work / "checkpoint.pt", 0
    if checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    print(
        f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokens):,} tokens, from step {first}",
        flush=True,
    )
    began = time.perf_counter()
    for step in range(first, steps):
        # Warm-up, then half a cosine down to a twentieth.
        rate = min(1, (step + 1) / WARM_UP) * (0.05 + 0.475 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * rate
        starts = torch.randint(len(data) - CONTEXT, (BATCH,), generator=torch.Generator().manual_seed(step))
        rows = torch.stack([data[i : i + CONTEXT] for i in starts.tolist()])
        loss = model(rows, labels=rows).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == steps:
            partial = checkpoint.with_name("checkpoint.part")
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}, partial)
            os.replace(partial, checkpoint)
            seconds = time.perf_counter() - began
            held_loss = validate(model, held_out)
            print(f"step {step + 1}: loss {loss.item():.3f}, held out {held_loss:.3f}, {seconds:.0f} s", flush=True)
    finished = work / "model"
    model.eval().save_pretrained(finished)
    tokenizer.save_pretrained(finished)
    os.replace(finished, folder)
    shutil.rmtree(work)


def validate(model: Any, held_out: Any) -> float:
    """Compute the loss on the held-out text, at most 32 rows of it."""
    import torch

    rows = held_out[: min(32, len(held_out) // CONTEXT) * CONTEXT].view(-1, CONTEXT)
    with torch.no_grad():
        return float(model(rows, labels=rows).loss)
