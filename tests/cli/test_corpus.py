"""Test `dreamy-lens scan`, `compare` and `card` from end to end, and their messages about mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

import dreamy_lens as dl
from dreamy_lens.cli.corpus import count_option
from dreamy_lens.cli.main import main
from dreamy_lens.cluster import RayConfig
from dreamy_lens.scan import Examples
from dreamy_lens.sweeps import Sweep

TEXT = (
    "Return a copy of the array, with axes transposed and the dtype kept as it was. Raise an error if the file is only "
    "readable by its owner, or if the values are not finite; only the first of them is named in the message."
)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.txt").write_text(f"{i}. {TEXT} {'And so on. ' * i}")
    return folder


def test_scan_compare_and_card(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out, run, page = tmp_path / "out", tmp_path / "run", tmp_path / "page.html"
    scan = [
        "scan",
        "L2.N812",
        "L2.N17",
        "--corpus",
        str(corpus),
        "--length",
        "6",
        "--out",
        str(out),
        "-k",
        "3",
        "--quiet",
    ]
    assert main(scan) == 0
    told = capsys.readouterr().out
    assert "2 features of embedded" in told and "L2.N812" in told and f"In {out}" in told
    assert main(scan) == 0  # opened, not scanned again
    assert main(["show", str(tmp_path / "nothing")]) == 1
    capsys.readouterr()

    small = ["--iterations", "3", "--population", "2", "--children", "4", "--length", "6", "--quiet"]
    assert main(["dream", "L2.N812", "--out", str(run), *small]) == 0
    capsys.readouterr()
    assert main(["compare", str(run), str(out), "--html", str(page)]) == 0
    told = capsys.readouterr().out
    assert "compare(" not in told  # which is Python; the option is --corpus
    assert "against" in told and "Written:" in told and "<html" in page.read_text()

    card = [
        "card",
        "L2.N812",
        "--run",
        str(run),
        "--examples",
        str(out),
        "--html",
        str(tmp_path / "card.html"),
        "--quiet",
    ]
    assert main(card) == 0
    assert "Logit effect" in (tmp_path / "card.html").read_text()
    assert len(Examples.load(out)) == 2


def test_a_page_of_one_feature(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    page = tmp_path / "page.html"
    given = ["--corpus", str(corpus), "--length", "6", "--quiet", "--html", str(page)]
    assert main(["scan", "L2.N17", *given]) == 0
    assert "<html" in page.read_text()
    assert main(["scan", "L2.N17", "L2.N18", *given]) == 0
    assert "2 features of embedded" in page.read_text() and "<a href" not in page.read_text()


def test_an_index_of_many_features(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    index, out = tmp_path / "layer2", tmp_path / "out"
    given = ["scan", "L2.N17", "L2.N18", "--corpus", str(corpus), "--length", "6", "--quiet", "--html", f"{index}/"]
    assert main([*given, "--out", str(out)]) == 0
    assert f"Written: {index}\n" in capsys.readouterr().out
    assert (index / "features" / "1.html").is_file() and 'href="features/1.html"' in (index / "index.html").read_text()
    assert main(["scan", "L2.N*", "--corpus", "/nowhere", "--html", str(index)]) == 1  # checked before the corpus
    assert "holds an index already" in capsys.readouterr().err
    assert main(["show", str(out), "--html", str(tmp_path / "shown")]) == 0
    assert (tmp_path / "shown" / "index.html").read_bytes() == (index / "index.html").read_bytes()
    assert main(["show", str(out), "--html", str(tmp_path / "shown.html")]) == 0
    assert "<table" in (tmp_path / "shown.html").read_text()
    assert main(["show", str(out), "--html", str(tmp_path / "shown.csv")]) == 1


def test_a_run_has_no_index(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = tmp_path / "run"
    small = ["--iterations", "1", "--population", "2", "--children", "4", "--length", "6", "--quiet"]
    assert main(["dream", "L2.N812", "--out", str(run), *small]) == 0
    assert main(["show", str(run), "--html", f"{tmp_path}/pages/"]) == 1
    assert "a page is one file" in capsys.readouterr().err and not (tmp_path / "pages").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["scan", "L2.N17", "--corpus", "/nowhere/at/all.txt"], "/nowhere/at/all.txt"),
        (["scan", "L2.N17", "--tokens", "3"], "--tokens 3"),
        (["scan", "L2.N1717"], "no unit 1717"),
        (["compare", "/nowhere/run", "/nowhere/examples"], "/nowhere/run"),
    ],
)
def test_mistakes_are_told_in_a_sentence(arguments, words, capsys):
    assert main(arguments) == 1
    assert words in capsys.readouterr().err


def test_options_of_ray_without_it_are_a_mistake(capsys):
    with pytest.raises(SystemExit):
        main(["scan", "L2.N17", "--workers", "2"])
    assert "--ray" in capsys.readouterr().err


def test_counts_as_people_write_them():
    assert [count_option(t) for t in ("12", "1_000", "2,000", "500k", "1.5M", "2G", "3b")] == [
        12, 1000, 2000, 500_000, 1_500_000, 2 * 10**9, 3 * 10**9,
    ]  # fmt: skip
    for text in ("many", "-5", "", "1.5.2x"):
        with pytest.raises(Exception, match="is not a count"):
            count_option(text)


def test_of_many_features_those_that_stand_out_are_printed(corpus: Path, capsys: pytest.CaptureFixture[str]):
    given = ["--corpus", str(corpus), "--length", "6", "-k", "2", "--quiet"]
    assert main(["scan", "L2.N*", *given]) == 0
    told = capsys.readouterr().out
    examples = dl.max_activating("L2.N*", corpus=str(corpus), length=6, k=2, progress=False)
    frame = examples.to_pandas()
    above = (frame["maximum"] - frame["mean"]) / frame["deviation"]
    printed = [line.split("  ")[0] for line in told.splitlines() if line.startswith("L2.N")]
    assert [str(dl.parse(name)) for name in printed] == frame["label"][above.nlargest(12).index].tolist()
    assert "most deviations above their mean" in told and "and 884 more features" in told


def test_a_sweep_and_its_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "sweep"
    small = ["--iterations", "2", "--population", "2", "--children", "4", "--length", "5", "--quiet"]
    command = ["sweep", "L2.N812", "L3.N5", "--seeds", "2", "--out", str(out), *small]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "4 of 4 runs" in told and "hypervolume" in told and told.count(" done ") == 4
    runs = Sweep.load(out)
    assert runs.seeds == [0, 1] and all(run.config.length == 5 and run.config.iterations == 2 for run in runs)
    assert main(command) == 0  # all of it is there
    assert main([*command[:-1], "--length", "6", "--quiet"]) == 1
    assert "length" in capsys.readouterr().err


def test_where_it_is_done_is_passed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    asked: list[dict] = []

    class Asked(Exception):
        pass

    def ask(*features, **keywords):
        asked.append(keywords)
        raise Asked

    monkeypatch.setattr(dl, "max_activating", ask)
    monkeypatch.setattr(dl, "sweep", ask)
    share = ["--workers", "3", "--cpus-per-worker", "2", "--gpus-per-worker", "0.5", "--dtype", "bfloat16"]
    for command in (["scan", "L2.N17"], ["sweep", "L2.N17", "--out", str(tmp_path)]):
        for ray, address in ((["--ray"], None), (["--ray", "auto"], "auto")):
            with pytest.raises(Asked):
                main([*command, *share, *ray])
            assert asked[-1]["ray"] == RayConfig(address, workers=3, cpus_per_worker=2, gpus_per_worker=0.5)
            assert asked[-1]["model"] is None and asked[-1]["dtype"] == "bfloat16"  # which every worker loads
        with pytest.raises(Asked):
            main(command)
        assert asked[-1]["ray"] is None and "workers" not in asked[-1]
        with pytest.raises(Asked):
            main([*command, "--device", "cpu"])
        assert asked[-1]["model"].cfg.device == "cpu" and "dtype" not in asked[-1]
        with pytest.raises(SystemExit):
            main([*command, *share])
