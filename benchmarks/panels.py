"""What a panel costs a run: the same run in a notebook's kernel with its panel and without, in turn.

    python benchmarks/panels.py --rounds 5 --iterations 100
    python benchmarks/panels.py --answers     how soon a typed token is answered, and how large a frozen run is

A kernel is started as a notebook would, its messages are read as by a notebook, and each run's own clock counts: the
seconds until its last step. Needs ipykernel and jupyter_client, which the extra `test` brings.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import threading
import time

RUN = """
import json, torch, dreamy_lens as dl
run = dl.dream({feature!r}, iterations={iterations}, seed={seed}, progress={progress}, wait=False)
run.wait()
seconds = float(run.history.seconds[-1])
run.defer(lambda: None).result()  # what the frozen view needs is worked out first
print("@" + json.dumps(seconds))
"""

PARTS = ("value and cross-entropy", "quick strip", "whole strip", "every position")
"""The answers to one question, in their order."""

WORDS = (" only", " never", " same", " file", " list", " value", " name", " type", " default", " module")


def answers(feature: str) -> None:
    """Seconds from a view's message to the answers, while a run goes on and while it is paused; and a frozen run."""
    import dreamy_lens as dl
    from dreamy_lens.panels.dream import DreamPanel
    from dreamy_lens.panels.run_view import frozen_run

    run = dl.dream(feature, iterations=5000, wait=False, progress=False)
    panel, found = DreamPanel(run), {}
    panel._handler._send = lambda message: found.setdefault(message["id"], []).append(time.perf_counter())
    while run.iteration < 10:
        time.sleep(0.05)
    for what in ("running", "paused"):
        if what == "paused":
            run.pause()
            while run.status != "paused":
                time.sleep(0.01)
        rows, moments = [], random.Random(0)
        for number, word in enumerate(WORDS * 3):
            time.sleep(moments.uniform(0.0, 0.2))  # at any moment of a step
            ids, name, began = list(run.so_far.frontier[-1].ids), f"{what}{number}", time.perf_counter()
            asked = {"type": "try", "id": name, "ids": ids, "position": number * 5 % len(ids), "text": word}
            panel._handler.hear(panel, asked)
            while len(found.get(name, [])) < len(PARTS):
                time.sleep(0.001)
            rows.append([at - began for at in found[name]])
        parts = (
            f"{part} {statistics.median(row):.3f} s (most {max(row):.3f})"
            for part, row in zip(PARTS, zip(*rows, strict=True), strict=True)
        )
        print(f"{what}: {', '.join(parts)}")
    began = time.perf_counter()
    run.stop().wait()
    print(f"stopped after {time.perf_counter() - began:.3f} s")
    run = dl.dream(feature, iterations=300, seed=1, progress=False)
    run.to_html()
    print(f"a run of 300 iterations, {len(run.frontier)} prompts on its frontier: {len(frozen_run(run)):,} characters")


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--feature", default="L2.N812")
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--answers", action="store_true", help="how soon questions are answered, instead")
    options = parser.parse_args()
    if options.answers:
        return answers(options.feature)

    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3", extra_arguments=[])
    said: list[str] = []
    sizes: list[int] = []
    over = threading.Event()

    def listen() -> None:
        while not over.is_set():
            try:
                message = client.get_iopub_msg(timeout=0.5)
            except Exception:
                continue
            content = message["content"]
            if message["msg_type"] == "stream":
                said.append(content["text"])
            elif message["msg_type"] == "error":
                print("\n".join(content["traceback"]), file=sys.stderr)
            elif message["msg_type"].startswith("comm"):
                sizes.append(len(json.dumps(content, default=str)))

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()

    def seconds(progress: str, seed: int, iterations: int) -> float:
        said.clear()
        code = RUN.format(feature=options.feature, iterations=iterations, seed=seed, progress=progress)
        client.execute(code)
        client.get_shell_msg(timeout=900)
        for _ in range(600):
            found = [text for text in "".join(said).splitlines() if text.startswith("@")]
            if found:
                return float(json.loads(found[-1][1:]))
            over.wait(0.1)
        raise RuntimeError("the kernel said nothing")

    try:
        for progress in ("False", "None"):  # warm up
            seconds(progress, 99, 5)
        sizes.clear()
        with_panel, without, ratios = [], [], []
        for seed in range(options.rounds):
            order = ("False", "None") if seed % 2 else ("None", "False")
            found = {progress: seconds(progress, seed, options.iterations) for progress in order}
            with_panel.append(found["None"])
            without.append(found["False"])
            ratios.append(found["None"] / found["False"])
            print(
                f"seed {seed}: with {found['None']:.2f} s, without {found['False']:.2f} s, {ratios[-1]:.3f}", flush=True
            )
        print(
            f"median of {options.rounds}: with {statistics.median(with_panel):.2f} s, without "
            f"{statistics.median(without):.2f} s; ratio {statistics.median(ratios):.3f} "
            f"({min(ratios):.3f} to {max(ratios):.3f}); {len(sizes)} messages to the view, "
            f"{statistics.median(sizes) if sizes else 0:,.0f} characters each in the median"
        )
    finally:
        over.set()
        thread.join(2)
        client.stop_channels()
        manager.shutdown_kernel(now=True)


if __name__ == "__main__":
    main()
