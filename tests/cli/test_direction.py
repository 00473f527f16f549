"""`dreamy-lens direction`: two files of texts become a file with a direction that features read."""

from __future__ import annotations

import json

import numpy as np
import pytest

import dreamy_lens as dl
from dreamy_lens.cli.main import main

HOOK = "blocks.1.hook_resid_post"


def test_two_files_become_a_direction(tmp_path, capsys):
    positive, negative = tmp_path / "imports.txt", tmp_path / "returns.jsonl"
    positive.write_text("import numpy\n\nimport os.path\n")
    negative.write_text('"return x"\n"return\\nself"\n')
    out = tmp_path / "v.safetensors"
    arguments = ["direction", str(positive), str(negative), "--hook", HOOK, "--out", str(out), "--name", "imports"]
    assert main([*arguments, "--position", "mean", "--quiet"]) == 0
    shown = capsys.readouterr().out
    found = dl.direction.load(out)
    expected = dl.direction.difference(
        ["import numpy", "import os.path"], ["return x", "return\nself"], HOOK, position="mean", name="imports"
    )
    assert found == expected and found.described in shown and str(out) in shown
    assert main([*arguments, "--position", "-1", "--method", "probe", "--no-bos", "--json", "--quiet"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["origin"].startswith("logistic probe") and document["entries"] == len(found)
    assert document["length"] == pytest.approx(float(np.linalg.norm(dl.direction.load(out).values)))
    assert np.isfinite(dl.score(f'{HOOK}[-1] @ "{out}"', "import re").value).all()


def test_files_that_cannot_be_used_are_told_before_the_model_is_loaded(tmp_path, capsys):
    texts, broken = tmp_path / "a.txt", tmp_path / "b.jsonl"
    texts.write_text("a\n")
    broken.write_text('"a"\n{\n')
    for positive, out, sentence in (
        (texts, tmp_path / "v.npy", "does not end so"),
        (tmp_path / "nothing.txt", tmp_path / "v.safetensors", "cannot be read"),
        (broken, tmp_path / "v.safetensors", "Line 2 of"),
    ):
        model = ["--model", str(tmp_path / "no model")]
        assert main(["direction", str(positive), str(texts), "--hook", HOOK, "--out", str(out), *model]) == 1
        assert sentence in capsys.readouterr().err
    (tmp_path / "empty.txt").write_text("\n")
    arguments = ["direction", str(tmp_path / "empty.txt"), str(texts), "--hook", HOOK]
    assert main([*arguments, "--out", str(tmp_path / "v.safetensors")]) == 1
    assert "The positive side has no texts" in capsys.readouterr().err
