"""`--json` and `--csv` of every command, and the coloured strip of `attribute`."""

from __future__ import annotations

import io
import json
import math

import numpy as np
import pandas as pd
import pytest

import dreamy_lens as dl
from dreamy_lens.cli.commands import COMMANDS
from dreamy_lens.cli.main import main, make_parser
from dreamy_lens.cli.output import plain
from dreamy_lens.cli.strip import print_strip

SMALL = ["--search", "epo", "--iterations", "1", "--population", "2", "--children", "4", "--top-k", "16"]
FEW = ["--length", "4", "--quiet"]
TEXTS = ["Return a copy of the array, with axes transposed.", "Raise an error if the file is not found."]


@pytest.fixture
def printed(capsys):
    """The JSON document that a command prints, which must be all of its output."""

    def run(*words: object, status: int = 0) -> dict:
        capsys.readouterr()
        assert main([str(word) for word in words]) == status
        return json.loads(capsys.readouterr().out, parse_constant=pytest.fail)

    return run


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    file = tmp_path_factory.mktemp("corpus") / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return file


def test_every_command_has_json():
    parser = make_parser()
    (commands,) = (action for action in parser._actions if hasattr(action, "_name_parser_map"))
    flags = {name: set(sub._option_string_actions) for name, sub in commands._name_parser_map.items()}
    assert set(flags) == set(COMMANDS)
    # The demo shows people what the other commands print.
    assert {name for name, own in flags.items() if "--json" not in own} == {"demo"}
    without_table = {"card", "demo", "direction", "doctor"}
    assert {name for name, own in flags.items() if "--csv" not in own} == without_table


def test_runs_as_json_and_csv(printed, tmp_path):
    document = printed(
        "dream", "L2.N17", *SMALL, *FEW, "--json", "--csv", tmp_path / "a.csv", "--out", tmp_path / "run"
    )
    run = dl.load_run(tmp_path / "run")
    assert document["kind"] == "Dream" and document["iteration"] == 1 and document["prompts"] == len(run.history)
    assert [row["value"] for row in document["table"]] == [prompt.value for prompt in run.frontier]
    assert document["table"][0]["ids"] == list(run.frontier[0].ids)
    assert len(pd.read_csv(tmp_path / "a.csv")) == len(run.frontier)
    best = printed("show", tmp_path / "run", "--max-cross-entropy", "99", "--json")
    assert best["kind"] == "Prompt" and best["ids"] == list(run.frontier.best().ids)
    several = printed("dream", "L2.N17", "--seeds", "2", *SMALL, *FEW, "--json")
    assert several["kind"] == "Dreams" and [run["seed"] for run in several["runs"]] == [0, 1]
    assert several["merged"][0]["seeds"] == [0, 1]
    sweep = printed("sweep", "L2.N17", "--seeds", "2", *SMALL, *FEW, "--json", "--out", tmp_path / "sweep")
    assert [row["status"] for row in sweep["table"]] == ["done", "done"]


def test_a_corpus_as_json_and_csv(printed, corpus, tmp_path, capsys):
    words = ["scan", "L2.N17", "L3.N5", "--corpus", corpus, "--length", "4", "-k", "3", "--quiet"]
    scan = printed(*words, "--json", "--csv", tmp_path / "features.csv", "--out", tmp_path / "scan")
    assert [row["label"] for row in scan["table"]] == list(dl.load(tmp_path / "scan").labels)
    assert len(scan["table"][0]["windows_kept"]) >= 3 and len(pd.read_csv(tmp_path / "features.csv")) == 2
    main(["dream", "L2.N17", *SMALL, *FEW, "--out", str(tmp_path / "run")])
    saved = tmp_path / "comparison.json"
    words = ["compare", tmp_path / "run", tmp_path / "scan"]
    comparison = printed(*words, "--json", "--csv", tmp_path / "both.csv", "--out", saved)
    assert comparison["kind"] == "Comparison" and comparison["sentence"] == dl.load(saved).sentence
    assert len(pd.read_csv(tmp_path / "both.csv")) == len(comparison["table"])
    assert printed("show", saved, "--json") == comparison
    assert main(list(map(str, words))) == 0 == main(["show", str(saved)])
    twice = capsys.readouterr().out
    once = twice[: len(twice) // 2]
    assert twice == 2 * once and "--corpus SOURCE" in once
    words = ["card", "L2.N17", "--run", tmp_path / "run", "--examples", tmp_path / "scan", "--quiet"]
    card = printed(*words, "--html", tmp_path / "card.html", "--json")
    assert card["comparison"]["sentence"] == comparison["sentence"] and card["logit_effect"]["promoted"][0]["token"]


def test_models_as_json_and_csv(printed, tmp_path):
    document = printed(
        "attribute", "L2.N17", "Return a copy", "-k", "2", "--json", "--csv", tmp_path / "a.csv", "--quiet"
    )
    assert document["tokens"] == list(dl.attribution("L2.N17", "Return a copy", k=2).tokens)
    assert len(pd.read_csv(tmp_path / "a.csv")) == len(document["table"]) > 0
    hooks = printed("hooks", "2.mlp.hook_post", "--json", "--csv", tmp_path / "hooks.csv")
    assert hooks["table"] == [{"name": "blocks.2.mlp.hook_post", "shape": ["position", 896]}]
    assert pd.read_csv(tmp_path / "hooks.csv")["shape"].tolist() == ["[position, 896]"]
    assert all(finding["passed"] is not False for finding in printed("doctor", "--json")["findings"])
    missing = printed("doctor", "--model", tmp_path / "nothing", "--json", status=1)["findings"]
    assert [finding["passed"] for finding in missing] == [False]


def test_json_has_no_numbers_that_json_does_not_have():
    values = {"a": (math.nan, np.float32(math.inf)), "b": np.array([1.5, math.nan]), 3: pd.NA, "d": np.bool_(True)}
    assert plain(values) == {"a": [None, None], "b": [1.5, None], "3": None, "d": True}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("coloured", [True, False])
def test_a_terminal_gets_a_coloured_strip(monkeypatch, coloured):
    """Not with NO_COLOR, and not in a pipe; a token cannot send commands to the terminal."""
    attribution = dl.attribution("L2.N17", "Return\x1b[2J a copy\n", k=2)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    if not coloured:
        monkeypatch.setenv("NO_COLOR", "1")
    for screen in (Terminal(), io.StringIO()):
        monkeypatch.setattr("sys.stdout", screen)
        print_strip(attribution)
        text = screen.getvalue()
        assert ("\x1b[" in text) == ("48;2;178;24;43" in text) == (coloured and isinstance(screen, Terminal))
        assert "\x1b[2J" not in text and ("[U+001B]" in text and "↵" in text) == bool(text)
