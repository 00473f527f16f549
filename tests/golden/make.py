"""What the package makes with given seeds, stored in this folder as files that later code has to open and to reproduce.

There are two kinds of goldens:

* *Data*: `data/` has saved runs, scans, a sweep, an unfinished scan, parcels of a scan on workers, and numbers. They
  are what users have on their disks. `python tests/golden/make.py --only data` wrote them once; they must never be
  written again: code that cannot open them, or finds other numbers, has broken the files that users have.
* *Words*: `pages/`, `cli.json.gz` and `texts.json.gz` have what people read: pages, what commands print, the texts of
  results and of errors. When you reword something on purpose, read the difference that the test shows, then write
  them again with `python tests/golden/make.py --only pages cli texts`.

`examples.json` counts the examples in the docstrings of every public name, so that none is lost unnoticed; it
is written with `--only examples`.

Everything is made with the public interface alone. The exceptions are parcels, which only workers of a cluster write:
`make_parcels` is of the code that wrote them, and may go when that code has moved.
"""

from __future__ import annotations

import argparse
import ast
import base64
import contextlib
import doctest
import gzip
import importlib
import inspect
import io
import json
import logging
import os
import re
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # so that the tests' helpers are found by a script too

import numpy as np

import dreamy_lens as dl
from dreamy_lens.panels.frozen import from_text
from dreamy_lens.search import config_to_dict
from tests.golden import cases
from tests.golden.cases import EXAMPLES, LOGIT_EFFECT, MERGE, SWEEP, sentences
from tests.helpers import models
from tests.helpers.frozen_pages import DATA as PACKED

HERE = Path(__file__).resolve().parent
DATA = HERE / "data"
PRE = "blocks.2.mlp.hook_pre[-1, 812]"
PROMPT = "the same as described only"
TEXTS = sentences(24, 30)
LONG = 9000  # texts of the corpus of several blocks

GREEDY = dl.EPO(lambda_min=0.0, lambda_max=0.0, restart_every=0)


# Runs.

SMALL: dict[str, Any] = {"population": 3, "children": 6, "length": 6, "top_k": 64, "progress": False}


def _searches() -> dict[str, tuple[Any, Any, dict[str, Any]]]:
    """Feature, model and settings of every run; a model is one of the tests' families, or None for the embedded one."""
    rules, hook = dl.constraints, dl.hook
    post, resid = hook("blocks.2.mlp.hook_post"), hook("blocks.4.hook_resid_post")
    several = [rules.forbid_text(" the"), rules.forbid_tokens(" a", 17), rules.printable(), rules.round_trip()]
    difference = 0.5 * dl.neuron(2, 17) - dl.neuron(3, 5).clip(max=6)
    return {
        "pre": (PRE, None, {"iterations": 4, "restart_every": 2}),
        "half": (PRE, None, {"iterations": 2, "restart_every": 2}),
        "post": (dl.neuron(2, 812), None, {"seed": 3}),
        "template": (PRE, None, {"constraints": [rules.template("User: {dream}\nAssistant:")]}),
        "start": (PRE, None, {"start": PROMPT}),
        "starts": (PRE, None, {"start": ["the same as described only", "the same as described if"]}),
        "rules": (PRE, None, {"constraints": [*several, rules.fix({0: "Return"})]}),
        "logit": (dl.logit(" the"), None, {}),
        "logit_difference": (dl.logit_difference(" the"), None, {"constraints": rules.forbid_text("the")}),
        "log_prob": (dl.log_prob(" the"), None, {"keep_parents": True}),
        "standardised": (resid[-1].standardised() @ cases.DIRECTION, None, {}),
        "maximum": (post[..., 17].max(), None, {}),
        "pattern": (hook("blocks.3.attn.hook_pattern")[0, -1, 2], None, {}),
        "combined": (difference, None, {"prepend_bos": False}),
        "norm": (resid[-1].norm(), None, {"seed": 2}),
        "greedy": (PRE, None, {"search": GREEDY, "population": 1, "children": 8}),
        "custom": (dl.custom("golden gap", ["blocks.1.mlp.hook_pre"], cases.gap), None, {}),
        "fluency": ("blocks.1.mlp.hook_pre[-1, 3]", "gpt2", {"fluency_model": "neox", "iterations": 4}),
        "llama": ("blocks.1.mlp.hook_post[-1, 3]", "llama", {}),
        "gemma2": ("blocks.0.hook_resid_post[-1, 5]", "gemma2", {}),
    }


def families(name: str) -> dict[str, Any]:
    """The models that a run needs to be opened, where the embedded one is not meant."""
    _, model, settings = _searches()[name]
    given = {"model": model, "fluency_model": settings.get("fluency_model")}
    return {key: models.family(one).bridge for key, one in given.items() if one is not None}


RUN_NAMES = tuple(_searches())


def searched(name: str) -> Any:
    """The run of a name, made now."""
    feature, _, settings = _searches()[name]
    settings = {"iterations": 3, **SMALL, **settings, **families(name)}
    if "start" in settings:  # which decides the length
        settings.pop("length")
    return dl.dream(feature, **settings)


def side_by_side() -> Any:
    """Two features with two seeds each, made now."""
    return dl.dream([PRE, "L3.N40"], seeds=[0, 1], iterations=2, **SMALL)


def make_runs(place: Path) -> None:
    """Saved runs, some side by side, and merged ones."""
    for name in _searches():
        searched(name).save(place / "runs" / name)
    runs = side_by_side()
    runs.save(place / "side_by_side")
    MERGE(runs[:2]).save(place / "merged.json")
    runs[0].frontier.save(place / "frontier.json")


def opened(place: Path, name: str) -> Any:
    """A run of the data."""
    feature = {"feature": _searches()[name][0]} if name == "custom" else {}
    return dl.load_run(place / "runs" / name, **families(name), **feature)


def numbers_of(run: Any) -> dict[str, Any]:
    """What a run found, as JSON values."""
    history, frontier = run.history, run.frontier
    rows = [[p.text, list(map(int, p.ids)), float(p.value), float(p.cross_entropy)] for p in frontier]
    return {
        "feature": str(run.feature),
        "prompts": len(history),
        "iteration": int(run.iteration),
        "first": history.ids[:3].tolist(),
        "last": history.ids[-3:].tolist(),
        "value": [float(history.value.min()), float(history.value.sum()), float(history.value.max())],
        "cross_entropy": [float(history.cross_entropy.min()), float(history.cross_entropy.sum())],
        "population": history.population.tolist(),
        "lambdas": history.lambdas.tolist(),
        "restarts": [list(one) for one in history.restarts],
        "rejected": int(history.rejected),
        "hypervolume": float(run.hypervolume),
        "frontier": rows,
    }


# Scans.


def _scans() -> dict[str, tuple[Any, Any, dict[str, Any]]]:
    several = [PRE, "L2.N812", "L3.N40", 'logit(" the")', "blocks.2.mlp.hook_post[..., 17].max()"]
    return {
        "several": (several, None, {"k": 4, "length": 6, "sample": 40, "context": 5}),
        "part": (["L3.N40", PRE], None, {"k": 3, "length": 6, "tokens": 240, "sample": 16, "cross_entropy": False}),
        "overlapping": ("L1.N3", None, {"k": 3, "length": 8, "stride": 3, "sample": 16, "prepend_bos": False}),
        "layer": (dl.neurons(1), "neox", {"k": 2, "length": 6, "sample": 8, "context": 2}),
        "fluency": ("L1.N3", "gpt2", {"k": 3, "length": 6, "sample": 8, "fluency_model": "neox"}),
    }


SCAN_NAMES = tuple(_scans())


def scanned(name: str, **more: Any) -> Any:
    """The scan of a name, made now."""
    features, model, settings = _scans()[name]
    known = {"model": model, "fluency_model": settings.get("fluency_model")}
    given = {key: models.family(one).bridge for key, one in known.items() if one is not None}
    texts = TEXTS if model is None else TEXTS[:8]
    return dl.max_activating(features, corpus=texts, **{"progress": False, **settings, **given, **more})


def make_scans(place: Path) -> None:
    """Finished scans, and examples that were saved from memory."""
    for name in _scans():
        scanned(name, out=place / "scans" / name)
    scanned("several", cache=False).save(place / "examples")


class Text:
    """A text that counts how often it is read, and may interrupt the reader.

    Args:
        text: it.
        number: of the text among others.
        deadly: the reading, counted from 1, at which Ctrl-C is pressed; 0 is never.
    """

    def __init__(self, text: str, number: int, deadly: int = 0) -> None:
        self._text, self.source, self._deadly, self.reads = text, f"text {number}", deadly, 0

    @property
    def text(self) -> str:
        """The text."""
        self.reads += 1
        if self.reads == self._deadly:
            signal.raise_signal(signal.SIGINT)
        return self._text


LONG_SCAN: dict[str, Any] = {"k": 4, "length": 6, "stride": 900, "sample": 24, "context": 3, "progress": False}
LONG_FEATURES = [PRE, "L3.N40"]


def scanned_long(**more: Any) -> Any:
    """The scan of several blocks, or what is missing of it."""
    return dl.max_activating(LONG_FEATURES, **{"corpus": long_corpus(), **LONG_SCAN, **more})


def long_corpus() -> list[str]:
    """Texts of several blocks, of which few windows are scanned."""
    return sentences(LONG, 26, seed=7)


def make_unfinished(place: Path) -> None:
    """A scan that was stopped on its way, and the same one finished."""
    # Texts are read once for their length, and then to be scanned.
    texts = [Text(text, i, 2 * (i == LONG // 2)) for i, text in enumerate(long_corpus())]
    with contextlib.redirect_stderr(io.StringIO()):
        some = scanned_long(corpus=texts, out=place / "unfinished")
    assert not some.header["complete"] and some.counts["blocks"] > 0
    scanned_long(out=place / "long")


def make_parcels(place: Path) -> None:
    """The folder of a scan on workers of which one was killed in its parcel, and another finished its own."""
    from dreamy_lens.cluster import ModelRef, ScanTask, ScanWorker, SharedFolder, TaskLedger
    from dreamy_lens.scan import Scan, ScanConfig, Scanner

    class Killed(BaseException):
        """The death of a worker, without that of this process."""

    settings = ScanConfig(**{name: value for name, value in LONG_SCAN.items() if name != "progress"})
    scan = Scan(LONG_FEATURES, None, long_corpus(), settings)
    blocks = len(scan.corpus.block_sizes())
    assert blocks >= 4
    at = SharedFolder(place / "parcels_of_a_scan")
    ledger = TaskLedger.new(at, scan.identity, [ScanTask(0, 0, 0, 0, 3), ScanTask(1, 0, 3, 0, None)])
    worker = ScanWorker(scan.features, ModelRef.of(None), None, scan.corpus, settings, ledger, save_seconds=0.0)
    worker.run(ledger.tasks[1])
    end, ended = Scanner._end, []

    def dying(self: Scanner, *rest: Any) -> None:
        end(self, *rest)
        ended.append(1)
        if len(ended) == 2:  # what was found before has been saved then
            raise Killed

    with mock.patch.object(Scanner, "_end", dying), contextlib.suppress(Killed):
        worker.run(ledger.tasks[0])


# Sweeps.

SWEPT: dict[str, Any] = {"iterations": 2, "population": 2, "children": 4, "top_k": 32, "progress": False}
VARIANTS = [{"length": 4}, {"length": 6}]


def swept(out: Path) -> Any:
    """The sweep, or what is missing of it."""
    return dl.sweep([PRE, "L3.N40"], seeds=[0, 1], settings=VARIANTS, out=out, **SWEPT)


def make_sweeps(place: Path) -> None:
    """A finished sweep."""
    swept(place / "sweep")


def unfinished_sweep(place: Path) -> Path:
    """A copy of the stored sweep that was stopped before its last three runs; `place` is where to."""
    shutil.copytree(DATA / "sweep", place)
    for gone in sorted((place / "results").iterdir())[5:]:
        gone.unlink()
        shutil.rmtree(place / "runs" / gone.stem)
    return place


# Single results.


def make_others(place: Path) -> None:
    """Attributions, scores, logit effects and texts of features."""
    dl.attribution(PRE, PROMPT, k=6).save(place / "attribution.json")
    scores = dl.score(PRE, [PROMPT, "Return a copy of the array"])
    effects = {
        text: LOGIT_EFFECT(text, count=4) for text in ("L2.N812", "blocks.4.hook_resid_post[-1, 3]", 'logit(" the")')
    }
    found = {
        "score": [scores.value.tolist(), scores.cross_entropy.tolist()],
        "effect": {
            text: {
                "promoted": [[one.id, one.token, one.change] for one in effect.promoted],
                "suppressed": [[one.id, one.token, one.change] for one in effect.suppressed],
                "deviation": effect.deviation if effect else None,
            }
            for text, effect in effects.items()
        },
        "config": config_to_dict(dl.EPO()),
    }
    write(place / "others.json", found)
    write(place / "features.json", {name: str(feature) for name, feature in cases.features().items()})


def make_numbers(place: Path) -> None:
    """What is in the files, as numbers, to be compared with what later code reads of them."""
    names = list(_searches())
    found: dict[str, Any] = {"runs": {name: numbers_of(opened(place, name)) for name in names}}
    found["side by side"] = {
        folder.name: numbers_of(dl.load_run(folder)) for folder in sorted((place / "side_by_side").iterdir())
    }
    folders = [*(f"scans/{name}" for name in _scans()), "examples", "long", "unfinished"]
    found["scans"] = {name: examples_of(EXAMPLES.load(place / name)) for name in folders}
    found["sweep"] = [numbers_of(run) for run in SWEEP.load(place / "sweep")]
    write(place / "numbers.json.gz", found)


def examples_of(examples: Any) -> dict[str, Any]:
    """What a scan found, as JSON values."""
    found: dict[str, Any] = {"labels": list(examples.labels), "counts": dict(examples.counts), "features": {}}
    for label in examples.labels[:6]:
        one = examples.of(label)
        found["features"][label] = {
            "top": [_window(window) for window in one.top],
            "fluent": [_window(window) for window in one.fluent],
            "frontier": [_window(window) for window in one.frontier],
            "sample": [float(np.nansum(one.sample[0])), float(np.nansum(one.sample[1]))],
            "distribution": [float(one.quantile_value(q)) for q in (0.1, 0.5, 0.9, 0.99)],
        }
    return found


def _window(window: Any) -> list[Any]:
    cost = None if window.cross_entropy is None else float(window.cross_entropy)
    values = None if window.values is None else [float(x) for x in window.values]
    return [window.text, list(map(int, window.ids)), float(window.value), cost, values]


def make_data(place: Path) -> None:
    """All data."""
    for made in (make_runs, make_scans, make_unfinished, make_parcels, make_sweeps, make_others, make_numbers):
        made(place)
    for file in [*place.glob("sweep/results/*.json"), *place.glob("parcels_of_a_scan/parcels/*.json")]:
        content = json.loads(file.read_bytes())
        if "worker" in content:  # the name of this machine
            file.write_text(json.dumps({**content, "worker": "machine:1"}))


# Words.


def masked(text: str, *places: Path) -> str:
    """A text without what differs from one machine, version, place and minute to another."""
    for i, place in enumerate(places):
        text = text.replace(str(place), f"<PLACE {i}>")
    text = text.replace(dl.__version__, "<version>")
    text = re.sub(r"\b\d+\.\d+\.\d+(?:\+\w+)?\b", "<version>", text)
    text = re.sub(r"\b\d{4}-\d\d-\d\d\b", "<date>", text)
    text = re.sub(r"\b\d+(?:\.\d+)?(?: | )(?:ms|s|min|h|seconds?|minutes?)\b", "<time>", text)
    text = re.sub(r"\b\d+(?:\.\d+)?(?:us|ms|s)\b", "<time>", text)
    text = re.sub(r"scans/[0-9a-f]{24}", "scans/<digest>", text)
    text = re.sub(r"0x[0-9a-f]{6,}", "<address>", text)
    text = re.sub(r"a finite difference: .*", "a finite difference: <noise>", text)
    return re.sub(r"\bdl-[0-9a-f]{6,}\b", "dl-<id>", text)


def unpacked(page: str) -> str:
    """A page with the packed data of its views written out, and without the ids of views and of live panels."""

    def written(found: re.Match[str]) -> str:
        return 'atob("' + gzip.decompress(base64.b64decode(found[1])).decode() + '")'

    def written_85(found: re.Match[str]) -> str:
        return 'const data = "' + gzip.decompress(from_text(found[1], int(found[2]))).decode() + '";'

    page = re.sub(r'atob\("([A-Za-z0-9+/=]{40,})"\)', written, page)
    page = PACKED.sub(written_85, page)
    return re.sub(r'(get\("|=== "|if \(")[0-9a-f]{8,}"', r'\1<live>"', page)


def runs_for_pages() -> Any:
    """The runs that stand for others on pages."""
    return opened(DATA, "pre")


PAGES = (
    *("run", "run_static", "template_static", "comparison", "card", "card_static", "examples", "attribution"),
    *("panel_of_a_run", "panel_of_runs"),
)


def pages() -> Iterator[tuple[str, str]]:
    """Every page by a name, made of the stored data."""
    run, examples = runs_for_pages(), EXAMPLES.load(DATA / "scans" / "several", dl.load_model())
    side_by_side = [dl.load_run(folder) for folder in sorted((DATA / "side_by_side").iterdir())]
    comparison = dl.compare(run, examples, values=True)
    card = dl.card(PRE, run=run, examples=examples, k=3, strips=2, parts=(), progress=False)
    attribution = dl.attribution(PRE, PROMPT, k=4)
    yield "run", run.to_html(k=3, strips=3)
    yield "run_static", run.to_html(k=3, strips=3, static=True)
    yield "template_static", opened(DATA, "template").to_html(k=3, strips=2, static=True)
    yield "comparison", comparison.to_html(top=6, dreams=6)
    yield "card", card.to_html(top=4)
    yield "card_static", card.to_html(top=4, static=True)
    yield "examples", examples.of(PRE).to_html(top=4)
    yield "attribution", attribution.to_html()
    yield "panel_of_a_run", dl.panels.DreamPanel(run).to_html()
    yield "panel_of_runs", dl.panels.RunsPanel(side_by_side).to_html()


def texts() -> dict[str, dict[str, str]]:
    """`repr`, `str` and HTML of every result, and what is said about bad input."""
    run, examples = runs_for_pages(), EXAMPLES.load(DATA / "scans" / "several", dl.load_model())
    comparison = dl.compare(run, examples, values=True)
    of = examples.of(PRE)
    shown: dict[str, Any] = {
        "run": run,
        "run that is half done": opened(DATA, "half"),
        "frontier": run.frontier,
        "history": run.history,
        "prompt": run.frontier[0],
        "found so far": run.so_far,
        "config": dl.EPO(),
        "provenance": run.provenance,
        "runs of a sweep": SWEEP.load(DATA / "sweep"),
        "merged": MERGE([run, opened(DATA, "half")]),
        "attribution": dl.attribution(PRE, PROMPT, k=4),
        "substitute": dl.attribution(PRE, PROMPT, k=4).top(0)[0],
        "logit effect": LOGIT_EFFECT("L2.N812", count=4),
        "no logit effect": LOGIT_EFFECT("blocks.3.attn.hook_pattern[0, -1, 2]"),
        "examples": examples,
        "unfinished examples": EXAMPLES.load(DATA / "unfinished"),
        "examples of a feature": of,
        "window": of.top[0],
        "distribution": of.distribution,
        "comparison": comparison,
        "statement": comparison.headline,
        "card": dl.card(PRE, run=run, examples=examples, k=3, strips=2, parts=(), progress=False),
        "corpus": dl.corpus.open(TEXTS),
        "scores": dl.score(PRE, [PROMPT]),
        "panel": dl.explore(PRE, PROMPT),
        "logit": dl.logit,
    }
    found = {
        name: {"repr": masked(repr(one), HERE), "str": masked(str(one), HERE)}
        | ({"html": masked(unpacked(one._repr_html_()), HERE)} if hasattr(one, "_repr_html_") else {})
        for name, one in shown.items()
    }
    rules = dl.constraints
    every = [
        *(rules.printable(), rules.round_trip(), rules.fix({0: "a", -1: 3}), rules.forbid_text("a b")),
        *(rules.forbid_tokens(*range(12)), rules.template("User: {dream}")),
    ]
    found["constraints"] = {f"{i}": f"{rule!r}\n{rule.describe()}" for i, rule in enumerate(every)}
    found["features"] = {name: repr(feature) for name, feature in cases.features().items()}
    found["errors"] = said()
    return found


def said() -> dict[str, str]:
    """The kind and the sentence of every error."""
    found = {}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, call in cases.errors(models, Path(folder)).items():
            try:
                returned = call()
            except Exception as error:
                # Other tests define custom functions too, and their names may hold any character.
                sentence = re.sub(r"\(defined: .*\); call ", "(defined: <names>); call ", str(error), flags=re.DOTALL)
                sentence = re.sub(r" \(Expected one of .*", "", sentence)  # which torch adds
                found[name] = masked(f"{type(error).__name__}: {sentence}", Path(folder), HERE)
            else:
                found[name] = masked(f"no error: {returned!r}", Path(folder), HERE)
    return found


def cli() -> dict[str, dict[str, Any]]:
    """Exit status, stdout and stderr of every command."""
    found = {}
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, {"COLUMNS": "100"}):
        os.environ["DREAMY_LENS_CACHE"] = str(Path(folder) / "cache")
        for name, words in cases.commands(DATA, Path(folder)).items():
            status, out, err = command(words)
            out, err = (masked(one, Path(folder).resolve(), Path(folder), HERE) for one in (out, err))
            out = re.sub(
                r"(?m)( done .*?) +[\d.]+$", r"\1 <seconds>", re.sub(r"(?m) +seconds$", " seconds", out)
            )  # of a sweep's table
            given = [masked(word, Path(folder), HERE) for word in words]
            found[name] = {"words": given, "status": status, "out": out, "err": err}
    return found


def command(words: list[str]) -> tuple[int, str, str]:
    """Run a command in this process: exit status, stdout, stderr."""
    main = importlib.import_module("dreamy_lens.cli.main").main
    out, err = io.StringIO(), io.StringIO()
    out.fileno = lambda: 1  # type: ignore[method-assign]
    progress = mock.patch.object(logging.getLogger("dreamy_lens.progress"), "disabled", True)  # depends on the time
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings(), progress:
        warnings.simplefilter("ignore")
        try:
            status = main(words)
        except SystemExit as error:
            status = int(error.code or 0)
    return status, out.getvalue(), err.getvalue()


# Examples in docstrings.


def docstring_examples() -> dict[str, int]:
    """How many examples the docstrings of every public name have, and of results; and of the package as a whole."""
    run, examples = runs_for_pages(), EXAMPLES.load(DATA / "scans" / "several")
    named = {name: getattr(dl, name) for name in dl.__all__ if name != "__version__"}
    for module in ("constraints", "corpus", "errors", "panels"):
        own = named.pop(module)
        listed = getattr(own, "__all__", [name for name in vars(own) if not name.startswith("_")])
        named |= {f"{module}.{name}": getattr(own, name) for name in listed}
    results = [run, run.frontier, run.history, run.frontier[0], examples.of(PRE), dl.attribution(PRE, PROMPT, k=2)]
    results += [MERGE([run]), LOGIT_EFFECT(PRE), dl.compare(run, examples), examples.of(PRE).distribution, dl.logit]
    named |= {f"result {type(one).__name__}": type(one) for one in results}
    finder = doctest.DocTestFinder()
    found: dict[str, int] = {}
    for name, one in sorted(named.items()):
        if inspect.isclass(one) or inspect.isfunction(one):
            found[name] = sum(len(test.examples) for test in finder.find(one, name))
    parser, total = doctest.DocTestParser(), 0
    for file in Path(dl.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                total += len(parser.get_examples(ast.get_docstring(node) or ""))
    found["the whole package"] = total
    return found


# Files.


def write(file: Path, content: Any) -> None:
    """JSON as text that can be compared line by line, packed if the name says so."""
    text = json.dumps(content, indent=1, ensure_ascii=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(packed(text) if file.suffix == ".gz" else (text + "\n").encode())


def read(file: Path) -> Any:
    """What :func:`write` wrote."""
    data = file.read_bytes()
    return json.loads(gzip.decompress(data) if file.suffix == ".gz" else data)


def unzipped(file: Path) -> str:
    """The text of a packed file."""
    return gzip.decompress(file.read_bytes()).decode()


def packed(text: str) -> bytes:
    """A text, packed; the same bytes every time."""
    return gzip.compress(text.encode(), compresslevel=9, mtime=0)


def main(arguments: list[str] | None = None) -> None:
    """Make goldens anew."""
    kinds = ("data", "pages", "cli", "texts", "examples")
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--only", nargs="+", choices=kinds, required=True, help="data is never to be written again")
    only = parser.parse_args(arguments).only
    cache = tempfile.TemporaryDirectory()
    os.environ["DREAMY_LENS_CACHE"] = cache.name
    if "data" in only:
        if DATA.exists():
            parser.error(f"there is {DATA.name}/ already, and it is never to be written again")
        make_data(DATA)
    if "pages" in only:
        shutil.rmtree(HERE / "pages", ignore_errors=True)
        (HERE / "pages").mkdir()
        for name, page in pages():
            (HERE / "pages" / f"{name}.html.gz").write_bytes(packed(masked(unpacked(page), HERE)))
    if "cli" in only:
        write(HERE / "cli.json.gz", cli())
    if "texts" in only:
        write(HERE / "texts.json.gz", texts())
    if "examples" in only:
        write(HERE / "examples.json", docstring_examples())


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    main()
