"""Sides of the quality benchmark: searches that run for a number of iterations, or of processor seconds."""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from quality_models import LENGTH, Model, Refused, feature, plain_target

EPO, WARM, FRONTIER, REFERENCE, MERGED = "epo", "warm-epo", "frontier", "reference", "merged"
SIDES = (EPO, WARM, FRONTIER, REFERENCE, MERGED)
MERGED_SEEDS = tuple(range(8))
REFERENCE_ITERATIONS = 10**6


@dataclass
class Recording:
    """Prompts that a search has evaluated, with the processor seconds since its start.

    Attributes:
        value, cross_entropy: Scores of every prompt.
        cpu: Processor seconds at the end of the iteration that evaluated the prompt.
        ends: Processor seconds at the end of each iteration, beginning with iteration 0.
        in_model: Processor seconds of these that answering requests took: passes through the model and transfers. NaN
            where they are not known.
    """

    value: list[np.ndarray] = field(default_factory=list)
    cross_entropy: list[np.ndarray] = field(default_factory=list)
    cpu: list[np.ndarray] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    in_model: list[float] = field(default_factory=list)

    def add(self, value: np.ndarray, cross_entropy: np.ndarray, seconds: float, in_model: float) -> None:
        """Add the prompts of an iteration that ends now."""
        self.value.append(value)
        self.cross_entropy.append(cross_entropy)
        self.cpu.append(np.full(len(value), seconds))
        self.ends.append(seconds)
        self.in_model.append(in_model)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return everything as float32 arrays."""
        joined = {name: np.concatenate(getattr(self, name)) for name in ("value", "cross_entropy", "cpu")}
        joined |= {name: np.array(getattr(self, name)) for name in ("ends", "in_model")}
        return {name: array.astype(np.float32) for name, array in joined.items()}


class Watch:
    """Clock of processor seconds, and of those in which requests are answered."""

    def __init__(self) -> None:
        gc.collect()
        self.in_model, self._start = 0.0, time.process_time()

    def __call__(self) -> float:
        """Return the processor seconds since the start."""
        return time.process_time() - self._start

    def steps(self, search: Any, scorer: Any) -> Iterator[Any]:
        """Answer the requests of a search, and yield its steps."""
        from dreamy_lens.search import Step

        answer = None
        while True:
            try:
                event = search.send(answer)
            except StopIteration:
                return
            answer = None
            if isinstance(event, Step):
                yield event
            else:
                began = time.process_time()
                answer = event.answer(scorer)
                self.in_model += time.process_time() - began


def warm_scorer(model: Model, name: str) -> Any:
    """Make the scorer of a feature, and call it with other prompts, so that nothing is computed for the first time."""
    from dreamy_lens.scoring.scorer import Scorer
    from dreamy_lens.search import ConstraintSet

    scorer = Scorer(feature(name, model.hooked), model.hooked)
    prompts = ConstraintSet((), scorer.vocabulary, LENGTH).random(8, np.random.default_rng(99))
    scorer.score(prompts)
    scorer.gradient(prompts)
    scorer.values(prompts)
    return scorer


def run_side(
    side: str, model: Model, name: str, seed: int, iterations: int | None, seconds: float, checkout: str | None
) -> Recording:
    """Run one search.

    Args:
        side: One of `SIDES`, except `merged`.
        model: Model to search on.
        name: Name of the feature.
        seed: Seed of the search.
        iterations: Number of iterations; None for as many as fit.
        seconds: Processor seconds after which the iteration in progress is the last one.
        checkout: Folder of the reference's code; None if it can be imported.

    Raises:
        Refused: The side cannot run.
    """
    if side == REFERENCE:
        return run_reference(model, name, seed, seconds, checkout)
    from dreamy_lens.scoring.bigrams import forget_bigrams
    from dreamy_lens.search import (
        EPO,
        UNLIMITED,
        ConstraintSet,
        EPOOptimizer,
        FrontierOptimizer,
        FrontierSearch,
        ScoreCache,
    )

    scorer = warm_scorer(model, name)
    forget_bigrams(model.hooked)  # every run pays for its own
    constraints = ConstraintSet((), scorer.vocabulary, LENGTH)
    last = UNLIMITED if iterations is None else iterations
    recording, watch, cache, start = Recording(), Watch(), ScoreCache(), None
    config: Any = EPO(iterations=last, seed=seed, length=LENGTH)
    optimizer: Any = EPOOptimizer()
    if side == FRONTIER:
        config, optimizer = FrontierSearch(iterations=last, seed=seed, length=LENGTH), FrontierOptimizer()
    elif side == WARM:
        start = warm_start(scorer, constraints, config, cache, watch, recording)
    for step in watch.steps(optimizer.search(scorer, config, constraints, start, cache), scorer):
        recording.add(step.value, step.cross_entropy, watch(), watch.in_model)
        if recording.ends[-1] > seconds:
            break
    return recording


def warm_start(scorer: Any, constraints: Any, config: Any, cache: Any, watch: Watch, recording: Recording) -> Any:
    """Take the start of the frontier search with this seed: samples of the language model, and a sweep of one token.

    Returns:
        For each λ of EPO, the prompt of this start that is best under it, `[M, n]`.
    """
    from dreamy_lens.search import FrontierOptimizer, FrontierSearch

    only = FrontierSearch(iterations=0, seed=config.seed, length=LENGTH)
    search = FrontierOptimizer().search(scorer, only, constraints, None, cache)
    (step,) = watch.steps(search, scorer)
    recording.add(step.value, step.cross_entropy, watch(), watch.in_model)
    objective = step.value - config.lambdas[:, None] * step.cross_entropy
    return step.ids[objective.argmax(axis=1)]


# The paper's own code.


def find_reference(checkout: str | None) -> Any:
    """Import the reference's `epo`.

    Raises:
        Refused: It is not there.
    """
    if checkout is not None and checkout not in sys.path:
        sys.path.insert(0, checkout)
    try:
        return importlib.import_module("dreamy.epo").epo
    except ImportError as error:
        raise Refused(f"The reference's code cannot be imported ({error}); name its checkout: --reference.") from None


def run_reference(model: Model, name: str, seed: int, seconds: float, checkout: str | None) -> Recording:
    """Run the reference's own `epo` on a plain model, and score its prompts with dreamy_lens afterwards, untimed.

    Its settings are those of the paper's Table 1. If the model's convention has a BOS, its runner puts one in front, so
    that both sides read the same values. The reference's cross-entropy never counts the first token. Prompts with
    special tokens, which only the reference draws, do not count.
    """
    import torch

    epo = find_reference(checkout)
    plain = load_plain(model)
    scorer = warm_scorer(model, name)
    run = runner(name, plain, model.hooked.bos(None))
    other = torch.randint(0, plain.vocabulary, (8, LENGTH), generator=torch.Generator().manual_seed(99))
    with torch.no_grad():
        run(input_ids=other)
    ends: list[float] = []
    watch = Watch()

    def callback(*_: Any, **__: Any) -> bool:
        ends.append(watch())
        return ends[-1] > seconds

    with contextlib.redirect_stdout(io.StringIO()):
        history = epo(
            run,
            plain.model,
            plain.tokenizer,
            seq_len=LENGTH,
            population_size=8,
            iters=REFERENCE_ITERATIONS,
            explore_per_pop=32,
            batch_size=256,
            topk=min(512, plain.vocabulary),
            restart_frequency=30,
            seed=seed,
            callback=callback,
        )
    # Its history repeats the parents in front of every generation; only those of the first generation are new. The
    # callback is called at the beginning of every iteration, and once more at the end.
    generations, targets = ([array[0][:8], array[0][8:], *array[1:, 8:]] for array in (history.ids, history.target))
    recording, allowed = Recording(), scorer.allowed
    for ids, target, end in zip(generations, targets, ends[: len(generations)], strict=True):
        counted = allowed[ids].all(axis=1)
        value = cross_entropy = np.empty(0, np.float32)
        if counted.any():
            scores = scorer.score(ids[counted].astype(np.int64))
            value, cross_entropy = scores.value, scores.cross_entropy
        if not np.allclose(value, target[counted], rtol=1e-2, atol=1e-2):
            raise SystemExit(f"The reference and dreamy_lens compute different values of {name} on {model.name}.")
        recording.add(value, cross_entropy, end, float("nan"))
    return recording


def load_plain(model: Model) -> Any:
    """Load the plain Hugging Face model."""
    from plain_model import PlainModel

    if model.path is None:
        from dreamy_lens.models.embedded import FOLDER

        return PlainModel.load(str(FOLDER))
    return PlainModel.load(str(Path(model.path)))


def runner(name: str, plain: Any, bos: list[int]) -> Any:
    """Make the function that the reference's `epo` calls: it maps token ids or embeddings to target and logits."""
    import torch

    module, value = plain_target(name, plain)
    embed = plain.model.get_input_embeddings()
    first = torch.tensor([bos], dtype=torch.int64)
    keeps_input = name.startswith("L")

    def run(input_ids: Any = None, inputs_embeds: Any = None) -> dict[str, Any]:
        read: dict[str, Any] = {}
        if bos and input_ids is not None:
            input_ids = torch.cat([first.expand(len(input_ids), -1), input_ids], dim=1)
        elif bos:
            inputs_embeds = torch.cat([embed(first).expand(len(inputs_embeds), -1, -1), inputs_embeds], dim=1)

        def hook(_: Any, inputs: Any, output: Any) -> None:
            read["there"] = inputs[0] if keeps_input else output[0] if isinstance(output, tuple) else output

        handle = None if module is None else module.register_forward_hook(hook)
        try:
            logits = plain.model(input_ids=input_ids, inputs_embeds=inputs_embeds, use_cache=False).logits
        finally:
            if handle is not None:
                handle.remove()
        return {"target": value(read.get("there"), logits), "logits": logits[:, len(bos) :]}

    return run
