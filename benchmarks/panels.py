"""Measure what a panel costs a run: equal runs in a notebook's kernel with a panel and without, in alternation.

    python benchmarks/panels.py --rounds 5 --iterations 100
    python benchmarks/panels.py --answers     how soon a typed token is answered, and how large a frozen run is

The benchmark starts a kernel and reads its messages as a notebook does. It uses each run's own clock: the seconds until
the last step. It needs ipykernel and jupyter_client, which the extra `test` installs.
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
run.defer(lambda: None).result()  # waits until the frozen view has all that it needs
print("@" + json.dumps(seconds))
"""

PARTS = ("value and cross-entropy", "quick strip", "whole strip", "every position")
"""Answers to one question, in the order in which they arrive."""

WORDS = (" only", " never", " same", " file", " list", " value", " name", " type", " default", " module")


def answers(feature: str, iterations: int) -> None:
    """Print the seconds from a view's message to each answer, running and paused, and the size of a frozen run."""
    import dreamy_lens as dl
    from dreamy_lens.panels import DreamPanel, frozen_run

    run = dl.dream(feature, iterations=5000, wait=False, progress=False)
    panel, times = DreamPanel(run), {}
    panel._handler._send = lambda message: times.setdefault(message["id"], []).append(time.perf_counter())
    while run.iteration < 10:
        time.sleep(0.05)
    for status in ("running", "paused"):
        if status == "paused":
            run.pause()
            while run.status != "paused":
                time.sleep(0.01)
        rows, moments = [], random.Random(0)
        for number, word in enumerate(WORDS * 3):
            time.sleep(moments.uniform(0.0, 0.2))  # at a random moment of a step
            history = run.so_far.history
            ids = history.ids[moments.randrange(len(history))].tolist()  # never the same question twice
            name, began = f"{status}{number}", time.perf_counter()
            question = {"type": "try", "id": name, "ids": ids, "position": number * 5 % len(ids), "text": word}
            panel._handler.hear(panel, question)
            while len(times.get(name, [])) < len(PARTS):
                time.sleep(0.001)
            rows.append([at - began for at in times[name]])
        parts = (
            f"{part} {statistics.median(row):.3f} s (maximum {max(row):.3f})"
            for part, row in zip(PARTS, zip(*rows, strict=True), strict=True)
        )
        print(f"{status}: {', '.join(parts)}")
    began = time.perf_counter()
    run.stop().wait()
    print(f"stopped after {time.perf_counter() - began:.3f} s")
    run = dl.dream(feature, iterations=iterations, seed=1, progress=False)
    run.to_html()
    print(
        f"a run of {iterations} iterations, {len(run.frontier)} prompts on its frontier: "
        f"{len(frozen_run(run)):,} characters"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--feature", default="L2.N812")
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--answers", action="store_true", help="measure how soon questions are answered instead")
    options = parser.parse_args()
    if options.answers:
        return answers(options.feature, 3 * options.iterations)

    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3", extra_arguments=[])
    printed: list[str] = []
    sizes: list[int] = []
    finished = threading.Event()

    def listen() -> None:
        while not finished.is_set():
            try:
                message = client.get_iopub_msg(timeout=0.5)
            except Exception:
                continue
            content = message["content"]
            if message["msg_type"] == "stream":
                printed.append(content["text"])
            elif message["msg_type"] == "error":
                print("\n".join(content["traceback"]), file=sys.stderr)
            elif message["msg_type"].startswith("comm"):
                sizes.append(len(json.dumps(content, default=str)))

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()

    def seconds(progress: str, seed: int, iterations: int) -> float:
        printed.clear()
        code = RUN.format(feature=options.feature, iterations=iterations, seed=seed, progress=progress)
        client.execute(code)
        client.get_shell_msg(timeout=900)
        for _ in range(600):
            results = [text for text in "".join(printed).splitlines() if text.startswith("@")]
            if results:
                return float(json.loads(results[-1][1:]))
            finished.wait(0.1)
        raise RuntimeError("the kernel printed no result within a minute after the run")

    try:
        for progress in ("False", "None"):  # warm-up
            seconds(progress, 99, 5)
        sizes.clear()
        with_panel, without, ratios = [], [], []
        for seed in range(options.rounds):
            order = ("False", "None") if seed % 2 else ("None", "False")
            spent = {progress: seconds(progress, seed, options.iterations) for progress in order}
            with_panel.append(spent["None"])
            without.append(spent["False"])
            ratios.append(spent["None"] / spent["False"])
            print(
                f"seed {seed}: with {spent['None']:.2f} s, without {spent['False']:.2f} s, {ratios[-1]:.3f}", flush=True
            )
        print(
            f"median of {options.rounds}: with {statistics.median(with_panel):.2f} s, without "
            f"{statistics.median(without):.2f} s; ratio {statistics.median(ratios):.3f} "
            f"({min(ratios):.3f} to {max(ratios):.3f}); {len(sizes)} messages to the view, "
            f"{statistics.median(sizes) if sizes else 0:,.0f} characters each in the median"
        )
    finally:
        finished.set()
        thread.join(2)
        client.stop_channels()
        manager.shutdown_kernel(now=True)


if __name__ == "__main__":
    main()
