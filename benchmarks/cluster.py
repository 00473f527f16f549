"""Calculate what a scan and a sweep cost on a cluster. Nothing here is measured.

    python benchmarks/cluster.py                                        # the tables of docs/cluster.md
    python benchmarks/cluster.py --gpus 64 --utilisation 0.3 --price 4
    python benchmarks/cluster.py --layers 32 --width 4096 --mlp 14336 --matrices 3 --vocabulary 128256

Every line shows its calculation, so that you can put in other figures.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

# Bytes that a scan keeps of each feature: the tensors of dreamy_lens/scan/feature_stats.py.
TOP, LEVELS, BINS = 64, 64, 128
PER_FEATURE = TOP * (4 + 8 + 8) + LEVELS * (4 + 8) + BINS * 8 + 8 + 3 * 8 + 2 * 4 + 8
SAMPLED = 1 << 28  # the most values on sampled windows
PER_WINDOW = 12 * 4 + 24 * 4 * 2 + 8 + 8 + 4 + 8  # ids, context, number, place, cross-entropy, document
USED_LEVELS = 25  # levels of cross-entropy at which a corpus has windows
TASKS_EACH = 4  # for each worker


@dataclass(frozen=True)
class Setup:
    """A model and a cluster."""

    name: str = "Pythia-12B"
    layers: int = 36
    width: int = 5120
    mlp: int = 20480
    matrices: int = 2
    vocabulary: int = 50688
    bytes: int = 2
    gpus: int = 16
    flops: float = 989e12
    utilisation: float = 0.4
    bandwidth: float = 3.35e12
    storage: float = 2e9
    price: float = 2.5
    tokens: float = 500e6
    length: int = 12
    bos: int = 1
    seeds: int = 60
    iterations: int = 300
    population: int = 8
    nodes: int = 1690

    @property
    def body(self) -> float:
        """Number of weights in the layers."""
        return self.layers * (4 * self.width**2 + self.matrices * self.width * self.mlp)

    @property
    def weights(self) -> float:
        """Bytes of all weights: layers, embedding, unembedding."""
        return (self.body + 2 * self.width * self.vocabulary) * self.bytes

    @property
    def features(self) -> int:
        """Number of neurons in the model."""
        return self.layers * self.mlp

    @property
    def row(self) -> int:
        """Tokens that the model reads for one window."""
        return self.length + self.bos

    @property
    def per_token(self) -> float:
        """FLOPs for one token, logits included."""
        return 2 * self.body + 4 * self.layers * self.row * self.width + 2 * self.width * self.vocabulary

    @property
    def speed(self) -> float:
        """FLOPs that a GPU reaches in a second."""
        return self.flops * self.utilisation


def scan(s: Setup) -> list[tuple[str, str, str]]:
    """Rows of the table of a scan: quantity, calculation, result."""
    windows = s.tokens / s.length
    per_window = s.row * s.per_token
    rate = s.speed / per_window * s.length
    hours = s.tokens / rate / 3600
    sample = min(1024, SAMPLED // s.features)
    state = s.features * PER_FEATURE + sample * s.features * 4
    tasks = TASKS_EACH * s.gpus
    stored = min(windows / tasks, s.features * (TOP + USED_LEVELS)) * PER_WINDOW
    file = state + stored
    pairs = s.features * (TOP + USED_LEVELS)
    again = pairs * s.row * (s.per_token - 2 * s.width * s.vocabulary) / 2 / s.speed / 3600
    counting = 15 * 4 * s.features / s.bandwidth
    kept = min(windows, pairs)
    return [
        ("windows", f"{s.tokens / 1e6:,.0f} M tokens / {s.length}", f"{windows / 1e6:,.1f} M"),
        ("FLOPs of a token", "2 × weights of the layers + attention + logits", f"{s.per_token / 1e9:,.1f} G"),
        ("FLOPs of a window", f"× {s.row} tokens that the model reads", f"{per_window / 1e9:,.0f} G"),
        (
            "tokens/s of a GPU",
            f"{s.flops / 1e12:,.0f} TFLOP/s × {s.utilisation:.0%} / FLOPs of a window × {s.length}",
            f"{rate:,.0f}",
        ),
        ("GPU hours of the pass", "tokens / (tokens/s)", f"{hours:,.1f}"),
        (
            "of which counting",
            f"15 reads and writes of {s.features:,} numbers for a window / {s.bandwidth / 1e12:.2f} TB/s",
            f"{counting * windows / 3600:,.2f}",
        ),
        (
            "GPU hours of values at tokens",
            f"{pairs / 1e6:,.0f} M pairs of neuron and window, each through half of the layers on average",
            f"{again:,.1f}",
        ),
        ("hours", f"the sum of both / {s.gpus} GPUs", f"{(hours + again) / s.gpus:,.1f}"),
        ("price", f"GPU hours × ${s.price:.2f}", f"${(hours + again) * s.price:,.0f}"),
        ("weights on each GPU", f"{s.bytes} bytes for each weight", f"{s.weights / 1e9:,.1f} GB"),
        (
            "statistics on each GPU",
            f"{s.features:,} neurons × {PER_FEATURE:,} bytes",
            f"{s.features * PER_FEATURE / 1e9:,.2f} GB",
        ),
        ("sample on each GPU", f"{sample:,} windows × neurons × 4 bytes", f"{sample * s.features * 4 / 1e9:,.2f} GB"),
        (
            "values of 256 windows",
            "neurons × 4 bytes, and activations at all positions",
            f"{256 * s.features * (4 + s.row * s.bytes) / 1e9:,.1f} GB",
        ),
        ("weights read from storage", f"× {s.gpus} workers", f"{s.weights * s.gpus / 1e9:,.0f} GB"),
        ("text read from storage", "4 bytes a token", f"{s.tokens * 4 / 1e9:,.0f} GB"),
        ("one task's file", "statistics + sample + kept windows", f"{file / 1e9:,.1f} GB"),
        ("files of all tasks", f"× {tasks}", f"{file * tasks / 1e9:,.0f} GB"),
        (
            "minutes to merge them",
            f"reading at {s.storage / 1e9:.0f} GB/s, and the same time again for merging",
            f"{2 * file * tasks / s.storage / 60:,.0f}",
        ),
        (
            "memory of the driver",
            "weights + 2 × (statistics + sample + all kept windows)",
            f"{(s.weights + 2 * (state + kept * PER_WINDOW)) / 1e9:,.0f} GB",
        ),
        (
            "results",
            "sample + pairs at 70 bytes each + windows, before compression",
            f"{(sample * s.features * 4 + pairs * 70 + kept * PER_WINDOW) / 1e9:,.0f} GB",
        ),
    ]


def sweep(s: Setup) -> list[tuple[str, str, str]]:
    """Rows of the table of a sweep: quantity, calculation, result."""
    children = s.nodes * s.per_token
    gradient = 3 * s.population * s.row * s.per_token
    seconds = (children + gradient) / s.speed
    reads = 3 * s.weights / s.bandwidth
    run = s.iterations * max(seconds, reads)
    load = s.weights * s.gpus / s.storage
    rounds = -(-s.seeds // s.gpus)
    wall = load + rounds * run
    return [
        ("children", f"{s.nodes:,} tokens with shared prefixes × FLOPs of a token", f"{children / 1e12:,.1f} T"),
        ("gradient", f"3 × {s.population} members × {s.row} tokens × FLOPs of a token", f"{gradient / 1e12:,.1f} T"),
        (
            "an iteration",
            f"the sum of both / ({s.flops / 1e12:,.0f} TFLOP/s × {s.utilisation:.0%})",
            f"{seconds * 1e3:,.0f} ms",
        ),
        (
            "weights read in an iteration",
            f"3 passes × weights / {s.bandwidth / 1e12:.2f} TB/s",
            f"{reads * 1e3:,.0f} ms",
        ),
        ("a run", f"{s.iterations} iterations × the longer time of these two", f"{run:,.0f} s"),
        ("loading", f"weights × {s.gpus} workers / {s.storage / 1e9:.0f} GB/s", f"{load:,.0f} s"),
        ("the sweep", f"loading + {rounds} runs one after the other", f"{wall / 60:,.1f} min"),
        ("price", f"{s.gpus} GPUs × ${s.price:.2f}", f"${wall / 3600 * s.gpus * s.price:,.2f}"),
    ]


def table(rows: list[tuple[str, str, str]]) -> str:
    """Write rows as a Markdown table."""
    lines = ["| | calculation | |", "| --- | --- | ---: |", *(f"| {a} | {b} | {c} |" for a, b, c in rows)]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in vars(Setup()).items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    s = Setup(**vars(parser.parse_args()))
    print(f"A scan for all {s.features:,} neurons of {s.name}:\n\n{table(scan(s))}\n")
    print(f"A sweep of {s.seeds} seeds:\n\n{table(sweep(s))}")


if __name__ == "__main__":
    main()
