"""Every benchmark that the documents name runs, at toy size. What it measures means nothing at that size."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.helpers import models

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks"
DOCUMENTS = (
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *ROOT.glob("docs/*.md"),
    *FOLDER.glob("*.md"),
    *FOLDER.glob("*.py"),
)

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="needs the whole source tree")


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """A function that imports a benchmark; no other test sees the modules, which have common names."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file and Path(file).parent == FOLDER:
            del sys.modules[name]


REFERENCE = """
import types
import numpy as np
import torch


def epo(run, model, tokenizer, *, seq_len, population_size, iters, explore_per_pop, initial_ids, callback, **rest):
    \"\"\"What the reference's function takes and gives, and a search by chance.\"\"\"
    ids, target, xentropy, keep = [], [], [], []
    members = torch.randint(0, 200, (population_size, seq_len)) if initial_ids is None else initial_ids
    for i in range(iters):
        rows = torch.cat([members, torch.randint(0, 200, (population_size * explore_per_pop, seq_len))])
        ids.append(rows.numpy())
        target.append(run(input_ids=rows)["target"].detach().numpy())
        xentropy.append(np.ones(len(rows), dtype=np.float32))
        keep.append(np.arange(population_size))
        callback()
    return types.SimpleNamespace(
        ids=np.stack(ids), target=np.stack(target), xentropy=np.stack(xentropy), keep=np.stack(keep)
    )
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder that looks like the reference code."""
    package = tmp_path / "reference" / "dreamy"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "epo.py").write_text(REFERENCE)
    monkeypatch.syspath_prepend(str(package.parent))
    for name in ("dreamy", "dreamy.epo"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return str(package.parent)


def commands() -> list[tuple[str, list[str]]]:
    """The name of every benchmark that a document names, with the words of the command line."""
    found = []
    for document in DOCUMENTS:
        for name, words in re.findall(r"benchmarks/(\w+)\.py(.*)", document.read_text(encoding="utf-8")):
            found.append((name, re.split(r"[`#)\s]{2,}|`|#|;", words)[0].split()))
    return found


def test_every_benchmark_that_is_named_is_there_takes_its_options_and_is_run_here():
    run = set(re.findall(r"def test_the_benchmark_(\w+)", Path(__file__).read_text(encoding="utf-8"))) | {"cluster"}
    named = commands()
    assert {name for name, _ in named} <= run and len(named) > 15
    for name, words in named:
        source = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
        for word in words:
            if word.strip("[]").startswith("--"):
                option = re.escape(word.strip("[]"))
                by_rule = re.search(r'"--" \+ name', source)  # options of settings are made from their names
                assert re.search(rf'"{option}"', source) or by_rule or name == "cluster", (name, word)


def test_the_benchmark_speed(benchmark, checkout, tmp_path, monkeypatch, capsys):
    speed, inside, shapes = (benchmark(name) for name in ("speed", "speed_inside", "speed_models"))
    sides = benchmark("speed_sides")

    class Here:
        """A side in this process."""

        def __init__(self, side: str, place: Any) -> None:
            self.loaded, self.run, self.end = 1.0, sides.MAKERS[side](place).run, lambda: 2.0

        def kill(self) -> None:
            pass

    for module in (speed, sides, inside):
        for name, value in (("LENGTH", 4), ("POPULATION", 2), ("CHILDREN", 4), ("TOP_K", 16)):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(speed, "Lane", Here)
    monkeypatch.setattr(speed, "apart", lambda function, *args: function(*args))
    monkeypatch.setattr(speed, "has_cuda", lambda: False)
    monkeypatch.setattr(inside, "AXES", {"length": (4,), "children": (4,), "population": (2,)})
    small = shapes.Shape("gpt2", 2, 32, 2, 300)
    monkeypatch.setitem(shapes.SHAPES, "gpt2-small", small)
    monkeypatch.setitem(shapes.SHAPES, "embedded", shapes.Shape("embedded", 2, 224, 7, 4096))
    monkeypatch.setenv("TQDM_DISABLE", "1")  # which the benchmark sets for its processes
    size = ["--iterations", "1", "--rounds", "2", "--threads", "1", "--out", str(tmp_path / "speed.json")]
    speed.main([checkout, "--models", "embedded", "gpt2-small", "--sides", "dreamy_lens", "reference", *size])
    printed = capsys.readouterr().out
    assert "failed" not in printed and "forward passes" in printed and "ms shared" in printed
    assert len(re.findall(r"^reference +\d", printed, re.M)) == 2 and (tmp_path / "speed.json").is_file()
    parts = json.loads((tmp_path / "speed.json").read_text())["profile"]["embedded"]
    assert all(seconds > 0 for part, seconds in parts.items() if part != "rest"), parts


def test_the_benchmark_faithful(benchmark, checkout, tmp_path, monkeypatch, capsys):
    faithful = benchmark("faithful")

    class Here:
        """An executor in this process."""

        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
            future: Future[Any] = Future()
            future.set_result(function(*args))
            return future

        def shutdown(self, **_: Any) -> None:
            pass

    monkeypatch.setattr(faithful, "ProcessPoolExecutor", Here)
    folder = tmp_path / "model"
    models.raw_model("neox").save_pretrained(folder)
    models.tokenizer().save_pretrained(folder)
    sizes = {"iterations": 2, "population": 2, "children": 3, "top-k": 16, "length": 4, "restart-every": 30}
    words = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
    sides = ["--sides", "reference", "reference_ordinary", "dreamy_lens", "--out", str(tmp_path / "faithful.json")]
    for _ in range(2):  # the second time from the file
        faithful.main([checkout, str(folder), "--features", "L0.N3", "L1.N5", "--seeds", "2", *sides, *words])
    printed = capsys.readouterr()
    assert printed.out.count("L0.N3") >= 2 and printed.err.count(" s\n") == 12


def test_the_benchmark_pruning(benchmark, capsys):
    words = ["--features", "L0.N40", "--seeds", "1", "--iterations", "2", "--no-bos", "--threads", "1"]
    benchmark("pruning").main(words)
    assert re.search(r"^L0.N40 +\d", capsys.readouterr().out, re.M)


def test_the_benchmark_parts(benchmark, monkeypatch, capsys):
    parts = benchmark("parts")
    monkeypatch.setattr(parts, "SHAPES", ((4, 8, 8),))
    monkeypatch.setattr(parts, "SEARCHES", ((4, 2, 2),))
    parts.main(["--threads", "1", "--rounds", "1"])
    assert "n = 4, M = 2, r = 2" in capsys.readouterr().out


def test_the_benchmark_scan(benchmark, tmp_path, monkeypatch, capsys):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("Return the sum of the elements along an axis, or of all of them if there is no axis. " * 20)
    options = ["--corpus", str(corpus), "--tokens", "240", "--rounds", "1", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["scan.py", *options])
    benchmark("scan").main()
    printed = capsys.readouterr().out
    assert "neurons of all layers" in printed and "maximum in each tenth" in printed


def test_the_benchmark_corpora(benchmark, monkeypatch, capsys):
    pytest.importorskip("psutil")
    corpora = benchmark("corpora")
    monkeypatch.setattr(corpora, "FORMATS", ("a.txt", "a.parquet"))
    texts = [type("Document", (), {"text": "Return the sum of the elements. " * 40})]
    monkeypatch.setattr(corpora.dl.corpus, "docstrings", lambda *_: texts)
    opened, real = "Return the sum of the elements along an axis. " * 40, corpora.dl.corpus.open
    monkeypatch.setattr(corpora.dl.corpus, "open", lambda source: real([opened] if source == "docstrings" else source))
    printed_rows = {}

    def read(command: list[str], **_: Any) -> Any:
        printed_rows[command[-1]] = corpora.read(Path(command[-1]))
        return type("Done", (), {"stdout": json.dumps(printed_rows[command[-1]])})

    monkeypatch.setattr(corpora.subprocess, "run", read)
    monkeypatch.setattr(sys, "argv", ["corpora.py", "--megabytes", "1", "--tokens", "500"])
    corpora.main()
    printed = capsys.readouterr().out
    assert len(printed_rows) == 2 and "windows, stride 12" in printed and ".parquet " in printed


@pytest.mark.parametrize("words", [[], ["--answers"]])
def test_the_benchmark_panels(benchmark, monkeypatch, capsys, words):
    pytest.importorskip("ipykernel")
    panels = benchmark("panels")
    monkeypatch.setattr(panels, "WORDS", panels.WORDS[:1])
    monkeypatch.setattr(sys, "argv", ["panels.py", "--rounds", "1", "--iterations", "2", *words])
    panels.main()
    printed = capsys.readouterr().out
    assert "prompts on its frontier" in printed if words else "median of 1: with" in printed
