"""The command `dreamy-lens study`."""

from __future__ import annotations

import json

import pandas as pd
import pytest

import dreamy_lens as dl
from dreamy_lens.cli.main import main
from dreamy_lens.studies.catalogue import STUDIES

SMALL = ["--set", "search=random", "--set", "iterations=1", "--set", "length=4", "--quiet"]


def test_studies_are_listed(capsys):
    assert main(["study"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(STUDIES)
    assert main(["study", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)["table"]] == list(STUDIES)


def test_a_study_is_made_saved_and_shown(capsys, tmp_path):
    out = tmp_path / "study"
    words = ["study", "seeds", *SMALL, "--set", "feature=L2.N17", "--set", "seeds=2", "--out", str(out)]
    files = ["--csv", str(tmp_path / "seeds.csv"), "--html", str(tmp_path / "seeds.html")]
    assert main([*words, "--json", *files]) == 0
    document = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert document["kind"] == "StudyResult" and document["name"] == "seeds"
    assert [row["seed"] for row in document["table"]] == [0, 1] and set(document["tables"]) >= {"groups"}
    assert len(document["claims"]) == 4 and len(pd.read_csv(tmp_path / "seeds.csv")) == 2
    assert "<svg" in (tmp_path / "seeds.html").read_text(encoding="utf-8")
    assert main(["show", str(out)]) == 0
    text = capsys.readouterr().out
    assert text.strip() == str(dl.load(out)).strip() and "Seeds on one feature, on embedded" in text


def test_wrong_words_are_answered(capsys):
    assert main(["study", "seed"]) == 1
    assert "There is no study 'seed'; there are: token_logits" in capsys.readouterr().err
    assert main(["study", "seeds", "--set", "seedz=3"]) == 1
    assert "did you mean seeds?" in capsys.readouterr().err
    for words in (["seeds", "--set", "seeds"], ["seeds", "--also", "gpt2"]):
        with pytest.raises(SystemExit):
            main(["study", *words])
    assert "NAME=VALUE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "option"), [("out=3", "--out"), ("quick=true", "--quick"), ("progress=1", "--quiet")]
)
def test_an_option_is_not_a_setting(setting, option, capsys):
    with pytest.raises(SystemExit):
        main(["study", "seeds", "--set", setting])
    assert f"give the option {option}\n" in capsys.readouterr().err
