"""Train the embedded model on the documentation of the installed packages.

    python -m training.train --out runs/embedded

To continue after an interruption, run the same command again: it starts from the last checkpoint, with the batches that
it would have seen. On the same machine with the same number of threads, the result does not depend on where the
training was interrupted. The folder holds `checkpoint.pt` and `log.jsonl` during the training, and at the end also
`model/`, a Hugging Face folder with a model card. `--stop-at STEP` ends the schedule early and exports the model at
this step; the same command without `--stop-at` then continues from this step.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from dreamy_lens._files import replacing
from dreamy_lens.corpus import Document, docstrings
from dreamy_lens.errors import SettingsError
from training.card import write_card
from training.evaluate import bits_per_byte
from training.export import Record, export
from training.optimizer import optimizers
from training.recipe import Batches, Recipe, encode_documents, model_config, train_tokenizer


def main(arguments: list[str] | None = None) -> None:
    """Run ``python -m training.train``."""
    parser = argparse.ArgumentParser(
        description="Train the embedded model on the documentation of the installed packages."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints, log and finished model")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="training steps of 4,096 tokens")
    parser.add_argument(
        "--stop-at",
        type=int,
        default=None,
        metavar="STEP",
        help="stop after this step, and export the model",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--threads", type=int, default=None, help="CPU threads; default: chosen by torch")
    parser.add_argument("--checkpoint-every", type=int, default=250, help="steps between checkpoints")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    recipe = Recipe(steps=options.steps, seed=options.seed)
    try:
        train(recipe, options.out, options.device, options.checkpoint_every, options.stop_at)
    except SettingsError as error:
        parser.error(str(error))


def train(
    recipe: Recipe,
    out: Path,
    device: str,
    checkpoint_every: int = 250,
    stop_at: int | None = None,
    corpus: tuple[Sequence[Document], Sequence[Document]] | None = None,
) -> Path:
    """Train, evaluate and export a model.

    Args:
        recipe: Shapes, steps and seed.
        out: Working folder. If it holds a checkpoint, the training continues from it.
        device: Any torch device.
        checkpoint_every: Steps between checkpoints. At each checkpoint a sample of the held-out text is measured too.
        stop_at: Step to stop at before the end of the schedule; by default the schedule runs to its end.
        corpus: Training documents and held-out documents; default: the documentation of the installed packages.

    Returns:
        Folder of the finished model.

    Raises:
        SettingsError: The checkpoint in `out` is of another recipe.
    """
    from tokenizers import Tokenizer
    from tqdm.auto import tqdm
    from transformers import GPTNeoXForCausalLM

    out.mkdir(parents=True, exist_ok=True)
    training, held_out = corpus or (docstrings("train"), docstrings("held_out"))
    tokenizer_file = out / "tokenizer.json"
    if not tokenizer_file.exists():
        with replacing(tokenizer_file) as temporary:
            train_tokenizer((d.text for d in training), recipe.vocabulary).save(str(temporary))
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    batches = Batches(encode_documents(tokenizer, [d.text for d in training]), recipe)

    torch.manual_seed(recipe.seed)
    model = _initialised(GPTNeoXForCausalLM(model_config(recipe)), recipe).to(device).train()
    optims = optimizers(model, recipe.learning_rate, recipe.weight_decay)
    step, seconds = _resume(out / "checkpoint.pt", recipe, model, optims)

    end = recipe.steps if stop_at is None else min(stop_at, recipe.steps)
    bar = tqdm(total=end, initial=step, unit="step", mininterval=5)
    last = time.monotonic()
    while step < end:
        ids = torch.from_numpy(batches[step].astype("int64")).to(device)
        logits = model(ids[:, :-1], use_cache=False).logits
        loss = F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optim in optims:
            for group in optim.param_groups:
                group["lr"] = recipe.learning_rate_at(step)
            optim.step()
            optim.zero_grad(set_to_none=True)
        step += 1
        now = time.monotonic()
        seconds, last = seconds + now - last, now
        bar.update()
        if step % 25 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")
            _log(out, {"step": step, "loss": round(loss.item(), 4), "seconds": round(seconds, 1)})
        if step % checkpoint_every == 0 or step == end:
            _save(out / "checkpoint.pt", recipe, model, optims, step, seconds)
            measured = bits_per_byte(model, tokenizer, [d.text for d in held_out[::8]])
            _log(out, {"step": step, "held_out_bits_per_byte": round(measured, 4), "sample": "one in eight"})
            last = time.monotonic()
    bar.close()
    record = Record(
        recipe=recipe,
        step=step,
        seconds=round(seconds, 1),
        threads=torch.get_num_threads(),
        training_documents=len(training),
        training_bytes=sum(len(d.text.encode()) for d in training),
        training_tokens=batches.tokens,
        held_out_documents=len(held_out),
        device=device,
    )
    folder = export(model, tokenizer, record, out / "model")
    write_card(folder, held_out)  # after the export, because the card measures the saved weights
    return folder


def _initialised(model: Any, recipe: Recipe) -> Any:
    """Set the output projections to zero, so that every block starts as the identity."""
    with torch.no_grad():
        for layer in model.gpt_neox.layers:
            layer.attention.dense.weight.zero_()
            layer.mlp.dense_4h_to_h.weight.zero_()
    return model


def _resume(file: Path, recipe: Recipe, model: Any, optims: list[torch.optim.Optimizer]) -> tuple[int, float]:
    if not file.exists():
        return 0, 0.0
    state = torch.load(file, map_location="cpu", weights_only=True)
    if state["recipe"] != asdict(recipe):
        differing = [f"{k} {v}, not {asdict(recipe)[k]}" for k, v in state["recipe"].items() if v != asdict(recipe)[k]]
        raise SettingsError(
            f"The checkpoint in {file.parent} is of another training ({'; '.join(differing)}). "
            "Continue with the settings of that training, or choose another folder."
        )
    model.load_state_dict(state["model"])
    for optim, saved in zip(optims, state["optimizers"], strict=True):
        optim.load_state_dict(saved)
    return state["step"], state["seconds"]


def _save(
    file: Path, recipe: Recipe, model: Any, optims: list[torch.optim.Optimizer], step: int, seconds: float
) -> None:
    state = {
        "recipe": asdict(recipe),
        "model": model.state_dict(),
        "optimizers": [o.state_dict() for o in optims],
        "step": step,
        "seconds": seconds,
    }
    with replacing(file) as temporary:
        torch.save(state, temporary)


def _log(out: Path, entry: dict[str, Any]) -> None:
    with (out / "log.jsonl").open("a") as file:
        file.write(json.dumps(entry) + "\n")


if __name__ == "__main__":
    main()
