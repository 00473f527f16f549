"""Every benchmark that the documents name runs, at toy size. What it measures means nothing at that size."""

from __future__ import annotations

import importlib
import json
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dreamy_lens.scoring import graph_choice
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


def epo(run, model, tokenizer, *, seq_len, population_size, iters, explore_per_pop, callback, initial_ids=None, **rest):
    \"\"\"What the reference's function takes and gives, and a search by chance.\"\"\"
    ids, target, xentropy, keep = [], [], [], []
    members = torch.randint(0, 200, (population_size, seq_len)) if initial_ids is None else initial_ids
    for i in range(iters):
        if callback(i, None, 0.0, None) and i:
            break
        rows = torch.cat([members, torch.randint(0, 200, (population_size * explore_per_pop, seq_len))])
        ids.append(rows.numpy())
        target.append(run(input_ids=rows)["target"].detach().numpy())
        xentropy.append(np.ones(len(rows), dtype=np.float32))
        keep.append(np.arange(population_size))
    callback(i, None, 0.0, None, final=True)
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


@pytest.mark.slow
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


@pytest.fixture
def tiny(tmp_path: Path) -> list[str]:
    """Words that name a tiny model and its text."""
    folder, corpus = tmp_path / "model", tmp_path / "corpus.txt"
    models.raw_model("neox").save_pretrained(folder)
    models.tokenizer().save_pretrained(folder)
    words, rng = "the cat sat on a mat and looked at one of the dogs in it".split(), np.random.default_rng(0)
    corpus.write_text("\n".join(" ".join(rng.choice(words, size=30)) for _ in range(200)), encoding="utf-8")
    return ["--models", "tiny", "--model", f"tiny={folder}", "--corpus", f"tiny={corpus}"]


@pytest.mark.slow
def test_the_benchmark_quality(benchmark, checkout, tiny, tmp_path, monkeypatch, capsys):
    quality, sides = benchmark("quality"), benchmark("quality_sides")
    monkeypatch.setattr(quality, "MERGED_SEEDS", (0, 1))
    monkeypatch.setattr(benchmark("quality_table"), "MERGED_SEEDS", (0, 1))
    report = ["L1.N3", "direction L0.S0", "logit(5) - logit(7)"]
    monkeypatch.setitem(benchmark("quality_models").FEATURES, "tiny", {"tune": ["L0.N3"], "report": report})
    folder = tmp_path / "runs"
    words = ["run", str(folder), *tiny, "--iterations", "3", "--seeds", "0", "--reference", checkout]
    quality.main([*words, "--sides", *sides.SIDES, "--features", "report"])
    printed = capsys.readouterr().out
    files = sorted((folder / "runs").iterdir())
    assert "is skipped" not in printed and "never fires" not in printed
    assert len(files) == printed.count(" iterations, ") == 5 * len(report)  # four sides, and EPO's second seed
    run = quality.read(next(file for file in files if ".epo.0." in file.name))
    assert len(run.arrays["ends"]) == 4 and all(array.dtype == np.float32 for array in run.arrays.values())
    assert (np.diff(run.arrays["cpu"]) >= 0).all() and 0 < run.about["in_model"] < 1
    assert len(run.arrays["value"]) == len(run.arrays["cross_entropy"]) == len(run.arrays["cpu"]) > 8
    assert "torch" in run.about["versions"] and run.about["iterations"] == 3

    # A run that is there is not repeated, and one that is missing is.
    before = {file: file.stat().st_mtime_ns for file in files}
    gone = next(file for file in files if ".frontier." in file.name)
    gone.unlink()
    quality.main([*words, "--sides", *sides.SIDES, "--features", "report"])
    assert capsys.readouterr().out.count(" iterations, ") == 1
    assert gone.is_file() and all(file.stat().st_mtime_ns == at for file, at in before.items() if file != gone)
    assert not list(folder.rglob("*.part"))

    quality.main(["table", str(folder), "--budgets", "3"])
    printed = capsys.readouterr().out
    for pair in ("warm-epo / epo", "reference / epo", "frontier / epo", "frontier / warm-epo", "frontier / merged"):
        assert pair in printed
    assert all((folder / name).is_file() for name in ("table.md", "table.csv", "runs.csv"))
    quality.main(["curves", str(folder), "--out", str(tmp_path / "curves.svg")])
    drawn = ET.fromstring((tmp_path / "curves.svg").read_text())
    lines = [line.get("class") for line in drawn.iter("{http://www.w3.org/2000/svg}polyline")]
    assert sorted(lines) == ["line epo", "line frontier", "line reference", "line warm-epo"]
    for wrong, why in (
        (["table", str(folder), "--budgets", "4"], "no budget of 4"),
        ([*words[:-4], "--iterations", "2"], "another"),
    ):
        with pytest.raises(SystemExit, match=why):
            quality.main(wrong)


def test_the_benchmark_quality_starts_epo_warm_from_the_start_of_the_frontier_search(benchmark, tiny, tmp_path):
    quality, shapes, sides = (benchmark(name) for name in ("quality", "quality_models", "quality_sides"))
    args = quality.parser().parse_args(["run", str(tmp_path), *tiny])
    model = shapes.Model.load("tiny", tmp_path, args.model, args.corpus)
    name = model.features("tune")[0]
    warm, frontier = (
        sides.run_side(side, model, name, 3, iterations, float("inf"), None)
        for side, iterations in ((sides.WARM, 1), (sides.FRONTIER, 0))
    )
    np.testing.assert_array_equal(warm.value[0], frontier.value[0])
    np.testing.assert_array_equal(warm.cross_entropy[0], frontier.cross_entropy[0])
    assert len(warm.value) == 3 and len(warm.value[1]) == 0 and len(warm.value[2]) > 0  # its members are known already


def test_the_benchmark_quality_measures_what_can_be_computed_by_hand(benchmark):
    tables = benchmark("quality_table")
    natural = tables.Natural("m", "f", "", floor=1.0, dull=3.0, half="report")
    # A dominated prompt, one duller than text, one below the floor, and one too unlikely.
    points = np.array([[2.0, 2.0], [1.5, 2.5], [4.0, 5.0], [5.0, 7.0], [0.0, 1.0], [9.0, 9.5]])
    assert tables.measures_of(points, natural) == {
        "HV9": 1 * 7 + 2 * 4 + 1 * 2,
        "HV9n": 1 * 6 + 2 * 4 + 1 * 2,
        "HV6": 1 * 4 + 2 * 1,
        "f4.6": 1.0,
        "f6": 3.0,
        "f9": 4.0,
    }
    assert set(tables.measures_of(points[4:], natural).values()) == {0.0}
    assert tables.ratio(0, 0) == 1 and tables.ratio(1, 0) == float("inf") and tables.ratio(1, 2) == 0.5
    assert tables.interval([[2.0, 2.0], [2.0]]) == (2.0, 2.0)


def test_the_benchmark_quality_compares_made_up_runs_correctly(benchmark):
    tables = benchmark("quality_table")

    def run(side: str, feature: str, seed: int, value: float, slower: float = 1.0) -> Any:
        arrays = {
            "value": [0.5, value, 100.0],
            "cross_entropy": [5.0, 5.0, 5.0],
            "cpu": [1.0, 2.0 * slower, 50.0],
            "ends": [1.0, 2.0 * slower, 50.0],
            "in_model": [1.0, 1.8 * slower, 5.0],
        }
        return tables.Run("m", feature, side, seed, {k: np.array(v, np.float32) for k, v in arrays.items()}, {})

    runs = [
        run("epo", f, seed, 1.0 + (seed == 0)) for f in ("a", "b") for seed in range(8)
    ]  # HV9: 8 with seed 0, else 4
    runs += [run("frontier", "a", 0, 4.0), run("frontier", "a", 1, 2.0), run("frontier", "b", 0, 1.0)]
    runs += [run("warm-epo", "a", 0, 2.0), run("warm-epo", "b", 0, 4.0, slower=1.1)]  # the last one is too late
    naturals = {("m", f): tables.Natural("m", f, "", 0.0, 3.0, "report") for f in ("a", "b")}
    rows = {(row.side, row.baseline): row for row in tables.rows(runs, naturals, 1)}
    assert set(rows) == {("warm-epo", "epo"), ("frontier", "epo"), ("frontier", "warm-epo"), ("frontier", "merged")}
    against_epo = rows["frontier", "epo"]
    assert against_epo.summaries["HV9"][::3] == (2.0, 2) and against_epo.summaries["HV9"].of == 3  # 2, 2 and a half
    assert against_epo.summaries["f9"].worst == 0.5 and against_epo.summaries["f4.6"].median == 1.0
    assert (against_epo.summaries["HV9"].low, against_epo.summaries["HV9"].high) == (0.5, 2.0)
    assert against_epo.worst_seed == (pytest.approx(2 / 3), "a") and against_epo.outside == pytest.approx(0.1)
    assert rows["warm-epo", "epo"].summaries["HV9"].worst == 0.25  # after 1 of 2 seconds: 0.5 against 2
    merged = rows["frontier", "merged"].summaries["HV9"]  # a: 4 and 2 against 2; b: 1 against 2
    assert (merged.median, merged.won, merged.of, merged.worst) == (1.0, 1, 2, 0.5)
    printed = tables.report(runs, naturals, [1], 1)
    assert "2.00 (0.50 to 2.00) 2/3" in printed.text and "| frontier / merged |" in printed.markdown
    assert "1,m,frontier,epo,HV9,2.0,0.5,2.0,2,3,0.5" in printed.csv.splitlines()
    assert "1,m,b,warm-epo,0,2,2,0.5,0,0.5,0.5,0.0000" in printed.runs_csv.splitlines()


def test_the_benchmark_quality_refuses_a_feature_that_never_fires(benchmark):
    shapes = benchmark("quality_models")
    with pytest.raises(shapes.Refused, match="never fires on 3 natural windows"):
        shapes.check_fires("L1.N100", np.array([-0.1, 0.0, -0.2]))
    with pytest.raises(shapes.Refused, match="never fires"):
        shapes.check_fires("latent L1.F3", np.zeros(3))
    shapes.check_fires("direction L1.S0", np.array([-2.0, -1.0, -3.0]))


def test_the_benchmark_quality_trains_a_model_and_continues(benchmark, tmp_path, monkeypatch, capsys):
    quality, training = benchmark("quality"), benchmark("quality_training")
    small = {"VOCABULARY": 270, "LAYERS": 1, "WIDTH": 8, "HEADS": 2, "CONTEXT": 16, "BATCH": 2, "CHECKPOINT_EVERY": 1}
    for name, value in small.items():
        monkeypatch.setattr(training, name, value)
    text = tmp_path / "text.txt"
    text.write_text("It was the best of times, it was the worst of times.\n" * 40, encoding="utf-8")
    words = ["train", str(tmp_path), "--text", str(text), "--steps"]
    validate, calls = training.validate, iter([0.0, KeyboardInterrupt()])

    def interrupted(*args: Any) -> float:
        event = next(calls)
        if isinstance(event, BaseException):
            raise event
        return validate(*args)

    monkeypatch.setattr(training, "validate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        quality.main([*words, "4"])
    monkeypatch.setattr(training, "validate", validate)
    quality.main([*words, "4"])
    assert "from step 2" in capsys.readouterr().out and not (tmp_path / "gutenberg.training").exists()
    model = benchmark("quality_models").Model.load("gutenberg", tmp_path, {}, {"gutenberg": str(text)})
    assert (
        model.hooked.source.cfg.n_layers == 1
        and model.hooked.vocabulary.text(model.hooked.vocabulary.encode(" times")) == " times"
    )


def test_the_benchmark_pruning(benchmark, capsys):
    words = ["--features", "L0.N40", "--seeds", "1", "--iterations", "2", "--no-bos", "--threads", "1"]
    benchmark("pruning").main(words)
    assert re.search(r"^L0.N40 +\d", capsys.readouterr().out, re.M)


def test_the_benchmark_parts(benchmark, monkeypatch, capsys):
    parts = benchmark("parts")
    monkeypatch.setattr(parts, "SHAPES", ((4, 8, 8),))
    monkeypatch.setattr(parts, "SEARCHES", ((4, 2, 2),))
    monkeypatch.setattr(parts, "ITERATIONS", 2)
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


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["--answers"]])
def test_the_benchmark_panels(benchmark, monkeypatch, capsys, words):
    pytest.importorskip("ipykernel")
    panels = benchmark("panels")
    monkeypatch.setattr(panels, "WORDS", panels.WORDS[:1])
    monkeypatch.setattr(sys, "argv", ["panels.py", "--rounds", "1", "--iterations", "2", *words])
    panels.main()
    printed = capsys.readouterr().out
    assert "prompts on its frontier" in printed if words else "median of 1: with" in printed


def test_the_benchmark_launches(benchmark, monkeypatch, capsys):
    launches = benchmark("launches")
    monkeypatch.setattr(launches.dl, "load_model", lambda name: models.new_bridge("gpt2", models.raw_model("gpt2")))
    monkeypatch.setattr(graph_choice, "clock", graph_choice.clock)  # put back afterwards
    before, after = (launches.counts("gpt2", "epo", 12, patience)[-2] for patience in (1 << 60, 1))
    assert after[0] < before[0] / 3 and (before[1], after[1]) == (0, 2) and before[2] == after[2] == 1
    monkeypatch.setattr(launches, "counts", lambda model, search, iterations, patience: np.full((9, 3), 7))
    monkeypatch.setattr("sys.argv", ["launches.py"])
    launches.main()
    assert "| epo | before | 7 | 7 | 7 |" in capsys.readouterr().out


def test_the_benchmark_floor(benchmark, monkeypatch, capsys):
    floor = benchmark("floor")
    monkeypatch.setattr(floor, "bridge", lambda name, device: models.family("gpt2").bridge)
    monkeypatch.setattr(floor, "SHAPES", {"embedded": SimpleNamespace(feature="L1.N3")})
    monkeypatch.setattr("sys.argv", ["floor.py", "--models", "embedded", "--searches", "epo", "--iterations", "8"])
    floor.main()
    *_, row = capsys.readouterr().out.strip().splitlines()
    _, model, search, work, rate, least, taken, share, _ = row.split("|")
    assert (model.strip(), search.strip()) == ("embedded", "epo") and 0 < float(work) and 0 < float(rate)
    assert 0 < float(least) < float(taken) and 0 < int(share.strip().removesuffix("%")) < 100


def test_the_benchmark_products(benchmark, monkeypatch, capsys):
    products = benchmark("products")
    monkeypatch.setattr(products, "NODES", 64)
    monkeypatch.setattr(products, "SHAPES", {"embedded": SimpleNamespace(width=16, vocabulary=50, cuda_only=False)})
    products.main(["--turns", "2"])
    _, _, *rows = capsys.readouterr().out.strip().splitlines()
    found = {tuple(cell.strip() for cell in row.split("|")[1:4]) for row in rows}
    assert {("MLP, first", "64 x 16 x 64", r) for r in ("F.linear", "no bias", "F.linear and F.gelu")} <= found
    assert ("MLP, second", "64 x 64 x 16", "F.linear") in found
    assert all(float(row.split("|")[4]) > 0 and float(row.split("|")[5]) > 0 for row in rows)


@pytest.mark.slow
def test_the_benchmark_explanations(benchmark, tmp_path, monkeypatch, capsys):
    explanations = benchmark("explanations")
    ends = [f"{a} of file {i}, {b}." for i in range(9) for a in ("name", "size") for b in ("if given", "only")]
    texts = [f"Return the {end} The result has the same type as the array, with its axes transposed." for end in ends]
    monkeypatch.setattr(explanations.dl.corpus, "docstrings", lambda: texts)
    out = tmp_path / "out.jsonl"
    arguments = ["explanations.py", "--features", "2", "--iterations", "1", "--out", str(out)]
    for _ in range(2):  # the second call continues, and has nothing to do
        monkeypatch.setattr("sys.argv", arguments)
        explanations.main()
    printed = capsys.readouterr().out
    assert len(out.read_text().splitlines()) == 2 and printed.count("of 2: L") == 2
    row = {"auroc": {kind: dict.fromkeys(explanations.SIMILARITIES, 0.5) for kind in explanations.KINDS}}
    better = {"auroc": {**row["auroc"], "dreams": dict.fromkeys(explanations.SIMILARITIES, 0.75)}}
    table = explanations.table([row, better, {"feature": "x"}])
    assert "2 of 3 features" in table and "AUROC, dreams   n-grams     median 0.625" in table
    assert "dreams better than windows, embeddings: 50 % of features (0 to 100 %)" in table


@pytest.mark.slow
def test_the_benchmark_ways(benchmark, monkeypatch, capsys):
    ways = benchmark("ways")
    small = {"children": 8, "samples": 16, "length": 4}
    monkeypatch.setattr(ways.dl, "dream", partial(ways.dl.dream, **small))
    monkeypatch.setattr(ways.dl, "mechanisms", partial(ways.dl.mechanisms, most=4))
    ways.main(["--features", "L2.N812", "--tokens", "0", "--iterations", "1"])
    out = capsys.readouterr().out
    assert "L2.N812 diversity 0.5" in out and "seconds with diversity / without: median" in out
