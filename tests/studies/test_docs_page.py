"""The examples of the page about studies run, at toy size: as Python, and as commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from dreamy_lens.cli.main import main

PAGE = Path(__file__).resolve().parents[2] / "docs" / "studies.md"
TOY = 'search="epo", seeds=2, iterations=2, length=4'


def blocks(language: str) -> list[str]:
    if not PAGE.is_file():
        pytest.skip("the documentation is not part of this copy")
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)


def test_the_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (example,) = blocks("python")
    assert "quick=True" in example
    names: dict = {}
    exec(example.replace("quick=True", f"{TOY}, progress=False"), names)
    assert "end at very different values" in capsys.readouterr().out
    assert (tmp_path / "seeds.svg").read_text("utf-8").startswith("<svg") and (tmp_path / "seeds.html").is_file()
    assert len(names["study"].table) == 2


def test_the_commands_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (commands,) = blocks("sh")
    toy = [x for setting in TOY.replace("seeds=2, ", "").split(", ") for x in ("--set", setting)]
    for command in commands.splitlines():
        program, *arguments = shlex.split(command, comments=True)
        assert program == "dreamy-lens"
        if arguments != ["study"]:
            arguments = [a for a in arguments if a not in ("--quick", "--ray")] + toy
            arguments += [] if any("seeds=" in a for a in arguments) else ["--set", "seeds=2"]
        assert main([a.replace("seeds=4", "seeds=1") for a in arguments]) in (0, None)
        printed = capsys.readouterr().out
        found = r"^token_logits " if arguments == ["study"] else r"^\[(holds|does not hold|measured|not measured)\]"
        assert re.search(found, printed, re.M), printed
    assert (tmp_path / "seeds.html").is_file()
