"""Compare the quality of searches after equal processor time.

    python benchmarks/quality.py train FOLDER
    python benchmarks/quality.py run FOLDER --models embedded stories260K gutenberg --sides epo warm-epo frontier merged
    python benchmarks/quality.py table FOLDER --budgets 30 100 300
    python benchmarks/quality.py curves FOLDER --out curves.svg

`train` trains the model "gutenberg". `run` runs every search that FOLDER does not have yet, and writes one file for
each. `table` prints the table, and writes it into FOLDER; `curves` draws how the frontiers grow. All can be stopped at
any time; the same command continues. README.md beside this file describes the measures.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch are imported

import numpy as np
from quality_curves import picture
from quality_models import LENGTH, Model, Refused, check_fires, feature, shared_folder
from quality_sides import EPO, FRONTIER, MERGED, MERGED_SEEDS, REFERENCE, SIDES, WARM, find_reference, run_side
from quality_table import Natural, Run, measures, report

FORMAT = 1
MODELS = ("embedded", "stories260K", "gutenberg")
HALVES = ("tune", "report", "all")
PACKAGES = ("numpy", "torch", "transformers", "transformer-lens")


class Task(NamedTuple):
    """Search to run."""

    side: str
    model: str
    feature: str
    seed: int

    @property
    def file(self) -> str:
        return f"{file_name(self.model, self.feature)}.{self.side}.{self.seed}.npz"

    def __str__(self) -> str:
        return f"{self.model}, {self.feature}, {self.side}, seed {self.seed}"


def file_name(model: str, name: str) -> str:
    """Make the beginning of the names of files about a feature; different features have different ones."""
    digest = hashlib.sha256(name.encode()).hexdigest()[:6]
    return f"{model}.{re.sub('[^A-Za-z0-9]+', '-', name).strip('-')}-{digest}"


def write(path: Path, content: bytes) -> None:
    """Write a file as a whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    partial.write_bytes(content)
    os.replace(partial, path)


# Running.


class Folder:
    """Folder of finished runs.

    Args:
        path: Where it is.
        iterations: Iterations of EPO that give the time of the other sides; None for an existing folder.
    """

    def __init__(self, path: Path, iterations: int | None = None) -> None:
        self.path, file = path, path / "protocol.json"
        if not file.is_file():
            if iterations is None:
                raise Refused(f"{path} has no runs; make some: quality.py run {path}.")
            write(file, json.dumps({"format": FORMAT, "iterations": iterations, "length": LENGTH}).encode())
        self.protocol = json.loads(file.read_text())
        if (self.protocol["format"], self.protocol["length"]) != (FORMAT, LENGTH):
            raise Refused(f"{path} was made by another version of this benchmark; name another folder.")
        if iterations is not None and iterations != self.iterations:
            raise Refused(
                f"The runs in {path} have {self.iterations} iterations, not {iterations}; name another folder."
            )

    @property
    def iterations(self) -> int:
        return self.protocol["iterations"]

    def has(self, task: Task) -> bool:
        return (self.path / "runs" / task.file).is_file()

    def save(self, task: Task, arrays: dict[str, np.ndarray], about: dict[str, Any]) -> None:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, about=json.dumps({**task._asdict(), **about}), **arrays)  # pyright: ignore
        write(self.path / "runs" / task.file, buffer.getvalue())

    def load(self, task: Task) -> Run:
        return read(self.path / "runs" / task.file)

    def runs(self) -> list[Run]:
        """Read all finished runs."""
        return [read(file) for file in sorted((self.path / "runs").glob("*.npz"))]

    def natural(self, model: Model, name: str) -> Natural:
        """Return the scores of natural windows for a feature, which are measured once.

        Raises:
            Refused: The feature never fires, or the model is not the one of the other runs.
        """
        file, digest = self.path / "natural" / f"{file_name(model.name, name)}.json", model.hooked.weights_digest
        if not file.is_file():
            from dreamy_lens.scoring.scorer import Scorer

            scores = Scorer(feature(name, model.hooked), model.hooked).score(model.windows)
            check_fires(name, scores.value)
            floor, dull = float(np.median(scores.value)), float(np.quantile(scores.cross_entropy, 0.05))
            half = "tune" if name in model.features("tune") else "report"
            found = Natural(model.name, name, digest, floor, dull, half)
            write(file, json.dumps(found._asdict()).encode())
        found = Natural(**json.loads(file.read_text()))
        if found.digest != digest:
            raise Refused(f"The model {model.name} is not the one of the runs in {self.path}; name another folder.")
        return found

    def naturals(self) -> dict[tuple[str, str], Natural]:
        """Read the scores of natural windows that have been measured, by model and feature."""
        files = sorted((self.path / "natural").glob("*.json"))
        return {(n.model, n.feature): n for n in (Natural(**json.loads(file.read_text())) for file in files)}


def read(file: Path) -> Run:
    """Read a finished run."""
    with np.load(file) as data:
        arrays = {name: data[name] for name in data.files if name != "about"}
        about = json.loads(str(data["about"]))
    return Run(about.pop("model"), about.pop("feature"), about.pop("side"), about.pop("seed"), arrays, about)


def versions() -> dict[str, str]:
    """Name what the figures depend on: packages, the commit of dreamy_lens, and the processor."""
    import dreamy_lens as dl

    root = Path(dl.__file__).resolve().parents[1]
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    return {**found, "python": platform.python_version(), "dreamy_lens": commit, "processor": processor()}


def processor() -> str:
    file = Path("/proc/cpuinfo")
    match = re.search(r"model name\s*:\s*(.*)", file.read_text()) if file.is_file() else None
    return match[1] if match else platform.processor() or platform.machine()


def tasks(sides: Sequence[str], features: dict[str, list[str]], seeds: Sequence[int]) -> Iterator[Task]:
    """List the searches to run. The sides alternate, and the EPO run that gives the others their time is first."""
    others = [side for side in SIDES if side in sides and side not in (EPO, MERGED)]
    listed = [(seed, [EPO, *others]) for seed in seeds]
    if MERGED in sides:
        listed += [(seed, [EPO]) for seed in MERGED_SEEDS if seed not in seeds]
    for seed, chosen in listed:
        for model, names in features.items():
            for name in names:
                for side in chosen:
                    yield Task(side, model, name, seed)


def run(args: argparse.Namespace) -> None:
    """Run every search that the folder does not have."""
    import torch

    torch.set_num_threads(1)
    import dreamy_lens as dl

    folder, about = Folder(args.folder, args.iterations), {"iterations": args.iterations, "versions": versions()}
    print(f"dreamy_lens of {Path(dl.__file__).parent}, {about['versions']['dreamy_lens']}", flush=True)
    sides = list(args.sides)
    if REFERENCE in sides:
        try:
            find_reference(args.reference)
        except Refused as reason:
            print(f"Side {REFERENCE} is skipped. {reason}", flush=True)
            sides.remove(REFERENCE)
    models: dict[str, Model] = {}
    features: dict[str, list[str]] = {}
    for name in dict.fromkeys([*args.models, *args.model]):
        models[name] = Model.load(name, args.folder, args.model, args.corpus)
        features[name] = []
        for chosen in models[name].features(args.features):
            try:
                folder.natural(models[name], chosen)
            except Refused as reason:
                print(f"{name}: {reason}", flush=True)
            else:
                features[name].append(chosen)
    for task in tasks(sides, features, args.seeds):
        if not folder.has(task):
            run_task(folder, task, models[task.model], args.reference, about)


def run_task(folder: Folder, task: Task, model: Model, checkout: str | None, about: dict[str, Any]) -> None:
    """Run one search, and save it."""
    seconds, iterations = float("inf"), folder.iterations
    if task.side != EPO:
        seconds, iterations = float(folder.load(task._replace(side=EPO)).arrays["ends"][-1]), None
    try:
        recording = run_side(task.side, model, task.feature, task.seed, iterations, seconds, checkout)
    except Refused as reason:
        print(f"{task} is skipped. {reason}", flush=True)
        return
    arrays = recording.arrays()
    done, end = len(arrays["ends"]) - 1, float(arrays["ends"][-1])
    more = {"seconds_per_iteration": end / max(done, 1), "in_model": float(arrays["in_model"][-1]) / end}
    folder.save(task, arrays, {**about, **more})
    finished = Run(task.model, task.feature, task.side, task.seed, arrays, {})
    found = measures(finished, None, folder.natural(model, task.feature))
    numbers = ", ".join(f"{name} {found[name]:.3g}" for name in ("HV9", "HV6", "f9"))
    print(f"{task}: {done} iterations, {len(arrays['value'])} prompts, {end:.1f} s, {numbers}", flush=True)


def table(args: argparse.Namespace) -> None:
    """Print the table of the finished runs, and write it into the folder."""
    folder = Folder(args.folder)
    late = [budget for budget in args.budgets if budget > folder.iterations]
    if late:
        raise Refused(f"The runs have {folder.iterations} iterations, so there is no budget of {late[0]}.")
    naturals = folder.naturals()
    runs = chosen_runs(folder, naturals, args)
    printed = report(runs, naturals, args.budgets, folder.iterations)
    print(printed.text)
    for name, content in (("table.md", printed.markdown), ("table.csv", printed.csv), ("runs.csv", printed.runs_csv)):
        write(args.folder / name, content.encode())


def chosen_runs(folder: Folder, naturals: dict[tuple[str, str], Natural], args: argparse.Namespace) -> list[Run]:
    """Return the finished runs of the models and features that were asked for."""
    runs = [run for run in folder.runs() if not args.models or run.model in args.models]
    runs = [run for run in runs if args.features in (naturals[run.model, run.feature].half, "all")]
    if not runs:
        raise Refused(f"{args.folder} has no finished runs of these models and features.")
    return runs


def curves(args: argparse.Namespace) -> None:
    """Draw the curves of the finished runs. Pairs without a run of the frontier search, or of EPO, do not count."""
    folder = Folder(args.folder)
    naturals = folder.naturals()
    runs = chosen_runs(folder, naturals, args)
    complete = {(r.model, r.feature, r.seed) for r in runs if r.side == FRONTIER}
    runs = [r for r in runs if (r.model, r.feature, r.seed) in complete]
    if not runs:
        raise Refused(f"{args.folder} has no finished runs of the frontier search.")
    write(args.out, picture(runs, naturals, folder.iterations).encode())
    print(f"Wrote {args.out}.")


def train(args: argparse.Namespace) -> None:
    """Train the model "gutenberg"."""
    from quality_training import train as train_model

    train_model(args.text, args.folder / "gutenberg", args.steps)


# Command line.


class Pairs(argparse.Action):
    """Option that collects NAME=VALUE."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: str | None = None) -> None:
        name, sign, value = values.partition("=")
        if not (name and sign and value):
            parser.error(f"{option} takes NAME=PATH; got {values!r}.")
        setattr(namespace, self.dest, {**getattr(namespace, self.dest), name: value})


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = p.add_subparsers(required=True, metavar="COMMAND")
    r = commands.add_parser("run", help="run the searches that FOLDER does not have")
    r.add_argument("folder", type=Path, metavar="FOLDER", help="folder of finished runs")
    r.add_argument("--models", nargs="+", default=MODELS, help="names of models (embedded stories260K gutenberg)")
    r.add_argument("--model", action=Pairs, default={}, metavar="NAME=PATH", help="folder of a model")
    r.add_argument("--corpus", action=Pairs, default={}, metavar="NAME=PATH", help="text file of a model")
    r.add_argument("--features", choices=HALVES, default="report", help="half of the features (report)")
    r.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="seeds (0 1 2)")
    r.add_argument("--sides", nargs="+", choices=SIDES, default=[EPO, WARM, FRONTIER], help="(epo warm-epo frontier)")
    r.add_argument("--iterations", type=int, default=300, help="iterations of EPO whose time every side has (300)")
    r.add_argument("--reference", metavar="CHECKOUT", help="clone of the paper's code; default: an importable `dreamy`")
    r.set_defaults(command=run)
    t = commands.add_parser("table", help="print the table of finished runs, and write it")
    t.add_argument("folder", type=Path, metavar="FOLDER", help="folder of finished runs")
    t.add_argument("--budgets", nargs="+", type=int, default=[30, 100, 300], help="iterations of EPO (30 100 300)")
    t.add_argument("--models", nargs="+", help="names of models; default: all")
    t.add_argument("--features", choices=HALVES, default="report", help="half of the features (report)")
    t.set_defaults(command=table)
    c = commands.add_parser("curves", help="draw how the frontiers of the finished runs grow")
    c.add_argument("folder", type=Path, metavar="FOLDER", help="folder of finished runs")
    c.add_argument("--out", type=Path, default=Path("curves.svg"), help="SVG file to write (curves.svg)")
    c.add_argument("--models", nargs="+", help="names of models; default: all")
    c.add_argument("--features", choices=HALVES, default="report", help="half of the features (report)")
    c.set_defaults(command=curves)
    n = commands.add_parser("train", help="train the model gutenberg")
    n.add_argument("folder", type=Path, metavar="FOLDER", help="folder of finished runs, in which the model is put")
    n.add_argument("--text", type=Path, default=shared_folder() / "corpora" / "gutenberg-9mb.txt", help="text file")
    n.add_argument("--steps", type=int, default=3500, help="steps (3500)")
    n.set_defaults(command=train)
    return p


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    try:
        args.command(args)
    except Refused as reason:
        sys.exit(str(reason))


if __name__ == "__main__":
    main()
