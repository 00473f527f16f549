"""Sides of the speed benchmark, each in a process of its own, and the parent's control over their turns.

This module imports nothing heavy, because a new process inherits the peak memory of its parent.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import multiprocessing
import os
import sys
import time
import warnings
from dataclasses import dataclass
from typing import Any

from speed_models import CHILDREN, LENGTH, POPULATION, RESTART_EVERY, SHAPES, TOP_K, bridge, plain

OURS, REFERENCE, OURS_GCG, NANOGCG = "dreamy_lens", "reference", "dreamy_lens, GCG", "nanogcg"
SEARCH_WIDTH = 256
"""Children in an iteration of GCG: as many as in an iteration of EPO."""

PER_ITERATION = {
    OURS: POPULATION * CHILDREN,
    REFERENCE: POPULATION * CHILDREN,
    OURS_GCG: SEARCH_WIDTH,
    NANOGCG: SEARCH_WIDTH,
}
"""Children that each side draws in an iteration."""


class Failed(Exception):
    """A side could not start or continue; the message says why."""


@dataclass(frozen=True)
class Place:
    """Environment of a side: a name of `SHAPES`, the device, torch's threads, and the reference's folder."""

    model: str
    device: str
    threads: int
    checkout: str


class Steps:
    """Search of dreamy_lens that can stop and continue at no cost; `resume()` would check the model again.

    Args:
        search: Finished run.
    """

    def __init__(self, search: Any) -> None:
        self.search, self._steps = search, search.steps(10**9)

    def run(self, k: int) -> list[float]:
        """Run k more iterations. Return the seconds of each, including the time to record it."""
        seconds = []
        for _ in range(k):
            began = time.perf_counter()
            self.search.take(next(self._steps))
            seconds.append(time.perf_counter() - began)
        return seconds


# The sides. Each has `run(k)`, which runs k more iterations and returns the seconds of each.


class DreamyLens:
    """EPO by dreamy_lens, without parents in the selection, as in the paper, and without BOS, as in the reference."""

    def __init__(self, place: Place) -> None:
        import dreamy_lens as dl

        shape = SHAPES[place.model]
        settings: dict[str, Any] = {"length": LENGTH, "top_k": TOP_K, "prepend_bos": False, "iterations": 0}
        feature = shape.feature
        if isinstance(self, DreamyLensGCG):
            feature, config = f'log_prob("{shape.word}")', dl.GCG(children=SEARCH_WIDTH, **settings)
        else:
            sizes = {"population": POPULATION, "children": CHILDREN, "restart_every": RESTART_EVERY}
            config = dl.EPO(keep_parents=False, **sizes, **settings)
        self.steps = Steps(dl.dream(feature, bridge(place.model, place.device), search=config, progress=False))

    def run(self, k: int) -> list[float]:
        return self.steps.run(k)


class DreamyLensGCG(DreamyLens):
    """GCG by dreamy_lens: one member, no fluency; the feature is the log probability of a token after the prompt."""


class Reference:
    """The paper's own `epo`, unchanged, on the plain Hugging Face model."""

    def __init__(self, place: Place) -> None:
        sys.path.insert(0, place.checkout)
        from plain_model import PlainModel

        self.device, self.members = place.device, None
        self.model = PlainModel(*plain(place.model, place.device))
        self.runner = self.model.runner(SHAPES[place.model].feature)

    def run(self, k: int) -> list[float]:
        """Continue from the last turn. One more iteration runs without being counted: the last computes no gradient."""
        from dreamy.epo import epo  # pyright: ignore[reportMissingImports]

        ends: list[float] = []

        def callback(*_: Any, **__: Any) -> None:
            wait(self.device)
            ends.append(time.perf_counter())

        with contextlib.redirect_stdout(io.StringIO()):
            history = epo(
                self.runner,
                self.model.model,
                self.model.tokenizer,
                seq_len=LENGTH,
                population_size=POPULATION,
                iters=k + 1,
                explore_per_pop=CHILDREN,
                batch_size=256,
                topk=TOP_K,
                restart_frequency=RESTART_EVERY,
                seed=0 if self.members is None else None,
                initial_ids=self.members,
                callback=callback,
            )
        import torch

        self.members = torch.from_numpy(history.ids[-1][history.keep[-1]])
        return [b - a for a, b in itertools.pairwise(ends[: k + 1])]


class NanoGCG:
    """GCG by the package nanogcg, with a target of one token, so that a row is little more than the prompt.

    The filter for prompts that do not retokenize is off, since the other side has none. The cache of the text before
    the prompt is off too, since there is no such text.
    """

    def __init__(self, place: Place) -> None:
        import nanogcg.gcg as package  # pyright: ignore[reportMissingImports]

        logging.getLogger("nanogcg").setLevel("ERROR")
        self.package, self.device, self.word = package, place.device, SHAPES[place.model].word
        self.model, self.tokenizer = plain(place.model, place.device)
        self.tokenizer.add_bos_token = False
        self.start = self.word * LENGTH

    def run(self, k: int) -> list[float]:
        starts: list[float] = []
        device = self.device

        class Timed(self.package.GCG):  # a step of GCG begins with the gradient
            def compute_token_gradient(self, optim_ids: Any) -> Any:
                wait(device)
                starts.append(time.perf_counter())
                return super().compute_token_gradient(optim_ids)

        config = self.package.GCGConfig(
            num_steps=k,
            optim_str_init=self.start,
            search_width=SEARCH_WIDTH,
            topk=TOP_K,
            use_prefix_cache=False,
            allow_non_ascii=True,
            filter_ids=False,
            verbosity="ERROR",
        )
        Timed(self.model, self.tokenizer, config).run("", self.word)
        wait(device)
        return [b - a for a, b in itertools.pairwise([*starts, time.perf_counter()])]


MAKERS = {OURS: DreamyLens, REFERENCE: Reference, OURS_GCG: DreamyLensGCG, NANOGCG: NanoGCG}


# Processes.


class Lane:
    """Process of one side, as the parent sees it.

    Args:
        side: Name of the side in `MAKERS`.
        place: Environment of the side.

    Attributes:
        loaded: MiB after loading the model: on CUDA those in use, on a processor the peak so far.

    Raises:
        Failed: The side cannot start.
    """

    def __init__(self, side: str, place: Place) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=serve, args=(theirs, side, place), daemon=True)
        self._process.start()
        theirs.close()
        try:
            self.loaded: float = self._answer()
        except Failed:
            self._process.join()
            raise

    def run(self, k: int) -> list[float]:
        """Run one turn. Return the seconds of each of k iterations."""
        self._pipe.send(k)
        return self._answer()

    def end(self) -> float:
        """End the process. Return its peak memory in MiB."""
        self._pipe.send(0)
        peak = self._answer()
        self._process.join()
        return peak

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def _answer(self) -> Any:
        try:
            good, answer = self._pipe.recv()
        except EOFError:
            raise Failed("its process died, probably because there was too little memory") from None
        if not good:
            raise Failed(answer)
        return answer


def serve(pipe: Any, side: str, place: Place) -> None:
    """Run a side in its process: answer each number of iterations with their seconds, and 0 with the peak memory."""
    try:
        prepare(place.threads)
        runner = MAKERS[side](place)
        pipe.send((True, memory(place.device, now=True)))
        while k := pipe.recv():
            pipe.send((True, runner.run(k)))
        pipe.send((True, memory(place.device, now=False)))
    except Exception as error:
        pipe.send((False, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"))


def prepare(threads: int) -> None:
    """Limit torch's threads, and silence everything but the warnings of dreamy_lens; every process calls this first."""
    os.environ["TQDM_DISABLE"] = "1"
    import torch

    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    warnings.filterwarnings("default", category=RuntimeWarning, module="dreamy_lens")


def memory(device: str, now: bool) -> float:
    """Measure MiB. On CUDA: tensors now, or their peak since then. On a processor: always the peak of the process."""
    if device.startswith("cuda"):
        import torch

        if now:
            torch.cuda.reset_peak_memory_stats()
            return torch.cuda.memory_allocated() / 2**20
        return torch.cuda.max_memory_allocated() / 2**20
    import resource

    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def wait(device: str) -> None:
    """Wait until the device has finished its work."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()
