"""Measure how fast a corpus is scanned, compared with the plain Hugging Face model on the same windows.

    python benchmarks/scan.py                                       # the embedded model
    python benchmarks/scan.py --model EleutherAI/pythia-160m --device cuda

All measurements alternate for several rounds, and the table shows medians. A scan is timed from text to statistics:
reading, tokenizing, passes, counting and keeping windows. The plain pass gets its windows as finished batches, computes
the logits of every position and discards them.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import dreamy_lens as dl
from dreamy_lens.corpus import open_corpus
from dreamy_lens.scan import Scan, ScanConfig, Scanner


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="Hugging Face id or folder; default: the embedded model")
    parser.add_argument("--device")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--corpus", help="source for dreamy_lens.corpus.open; default: the help on Python's syntax")
    parser.add_argument("--tokens", type=int, default=60_000, help="tokens of the windows in each turn")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    bridge = dl.load_model(options.model, device=options.device, dtype=options.dtype)
    raw = _plain(options, bridge)
    if options.corpus is None:
        corpus = open_corpus([d.text for d in dl.corpus.docstrings(packages=["pydoc_data.topics"])])
    else:
        corpus = open_corpus(options.corpus)
    layers = int(bridge.cfg.n_layers)
    kinds: dict[str, tuple[Any, bool]] = {
        "one neuron": (dl.neuron(layers // 2, 5), True),
        "neurons of one layer": (dl.neurons(layers // 2), True),
        "neurons of all layers": (dl.neurons(), True),
        "one layer, no cross-entropy": (dl.neurons(layers // 2), False),
        "first layer, no cross-entropy": (dl.neurons(0), False),
        "all layers, no cross-entropy": (dl.neurons(), False),
    }
    settings = {"tokens": options.tokens, "seed": None}
    scans = {name: Scan(f, bridge, corpus, ScanConfig(cross_entropy=ce, **settings)) for name, (f, ce) in kinds.items()}
    scanners = {name: scan.scanner() for name, scan in scans.items()}
    rows = _windows(scanners["one neuron"])
    turns: dict[str, Any] = {}
    for size in (256, 1024, 4096) if str(options.device).startswith("cuda") else (32, 64, 256):
        turns[f"plain pass, {size} rows"] = lambda size=size: _pass(raw, rows, size)
    turns |= {name: lambda scanner=scanner: scanner.run(scanner.new_checkpoint()) for name, scanner in scanners.items()}
    passes = {name: lambda scanner=scanner: _only_passes(scanner, rows) for name, scanner in scanners.items()}

    for turn in turns.values():
        turn()
    spent: dict[str, list[float]] = {name: [] for name in turns}
    inside: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(options.rounds):
        for name, turn in turns.items():
            spent[name].append(_timed(turn))
        for name, turn in passes.items():
            inside[name].append(_timed(turn))
    best = min((name for name in turns if name.startswith("plain")), key=lambda name: statistics.median(spent[name]))
    tokens = len(rows) * scanners["one neuron"].config.length
    where = f"{torch.get_num_threads()} threads, {next(bridge.parameters()).device}"
    what = f"model {bridge.cfg.model_name}, {len(rows):,} windows of {tokens // len(rows)} tokens"
    print(f"torch {torch.__version__}, {where}, {what}")
    print(f"{'':32}{'features':>9}{'tokens/s':>10}{'of plain':>10}{'lowest':>8}{'highest':>9}{'around passes':>15}")
    for name, times in spent.items():
        ratios = [a / b for a, b in zip(spent[best], times, strict=True)]
        count = f"{scanners[name].features:,}" if name in scanners else ""
        around = ""
        if name in inside:
            part = 1 - statistics.median(i / t for i, t in zip(inside[name], times, strict=True))
            around = f"{part:.0%}"
        middle = tokens / statistics.median(times)
        print(
            f"{name:32}{count:>9}{middle:>10,.0f}{statistics.median(ratios):>10.0%}{min(ratios):>8.0%}{max(ratios):>9.0%}"
            f"{around:>15}"
        )
    _memory(bridge, corpus, settings)


def _memory(bridge: Any, corpus: Any, settings: dict[str, Any]) -> None:
    """Print the memory of a scan of one layer's neurons in each tenth of a corpus."""
    print("\nmemory of this process while it scans a repeated corpus, one layer without cross-entropy:")
    texts = [
        section.text for shard in range(len(corpus.shards)) for b in corpus.blocks(shard) for section in b.sections
    ]
    times = 20
    repeated = open_corpus([f"{text} ({i})" for i in range(times) for text in texts])
    scanner = Scan(dl.neurons(0), bridge, repeated, ScanConfig(cross_entropy=False)).scanner()
    most: list[float] = []
    total = sum(row[2] for row in repeated.block_sizes())

    def after(progress: Any, block: Any) -> bool:
        part = min(9, 10 * progress.counts["characters"] // total)
        progress.prune()  # a scan prunes whenever it saves its state
        used = _resident()
        most.extend([0.0] * (part + 1 - len(most)))
        most[part] = max(most[part], used)
        return False

    state = scanner.new_checkpoint()
    scanner.run(state, after=after)
    print(f"{state.counts['tokens']:,} tokens; maximum in each tenth, MB: {', '.join(f'{m:,.0f}' for m in most)}")


def _resident() -> float:
    """Memory of this process in MB."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 2**20
    except OSError:  # not Linux: the largest memory so far
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def _plain(options: argparse.Namespace, bridge: Any) -> Any:
    """Load the same weights as a plain Hugging Face model."""
    from transformers import AutoModelForCausalLM

    from dreamy_lens.models.embedded import FOLDER

    source = str(FOLDER) if options.model is None else options.model
    raw = AutoModelForCausalLM.from_pretrained(source, dtype=getattr(torch, options.dtype))
    return raw.to(next(bridge.parameters()).device).eval()


def _windows(scanner: Scanner) -> torch.Tensor:
    """Cut the rows that a scan runs, BOS included."""
    from dreamy_lens.corpus.windows import cut_windows

    parts: list[np.ndarray] = []
    wanted = (scanner.config.tokens or 0) // scanner.config.length
    for shard in range(len(scanner.corpus.shards)):
        for block in scanner.corpus.blocks(shard):
            parts.append(cut_windows(block, scanner.model.vocabulary, scanner.config.windows).ids)
            if sum(map(len, parts)) >= wanted:
                break
    rows = np.concatenate(parts)[:wanted]
    return torch.from_numpy(scanner.frame.rows(rows, scanner.model)).to(scanner.model.device)


@torch.no_grad()
def _pass(raw: Any, rows: torch.Tensor, size: int) -> None:
    for part in rows.split(size):
        raw(part, use_cache=False)
    _wait(rows)


def _only_passes(scanner: Scanner, rows: torch.Tensor) -> None:
    ids = rows[:, -scanner.config.length :].cpu().numpy()
    with scanner.scorer.keep_hooks():
        for _ in scanner.scorer.passes(ids):
            pass
    _wait(rows)


def _wait(rows: torch.Tensor) -> None:
    if rows.device.type == "cuda":
        torch.cuda.synchronize(rows.device)


def _timed(turn: Any) -> float:
    start = time.perf_counter()
    turn()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
