"""Test every command through `main`: its output, its errors and its exit status."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import dreamy_lens as dl
from dreamy_lens.cli.commands import COMMANDS
from dreamy_lens.cli.main import main
from dreamy_lens.runs import Dream
from dreamy_lens.scoring import Scorer
from tests.helpers import models

SMALL = "--iterations 2 --population 2 --children 4 --top-k 16 --length 4 --quiet".split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    """A model as a Hugging Face folder."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    models.raw_model("gpt2").save_pretrained(path)
    models.tokenizer().save_pretrained(path)
    return str(path)


@pytest.fixture
def cli(capsys):
    """Return a function that runs a command and returns exit status, stdout and stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        try:
            status = main(words)
        except SystemExit as error:
            status = int(error.code or 0)
        out = capsys.readouterr()
        return status, out.out, out.err

    return run


# The whole.


def test_without_a_command_it_explains_itself(cli):
    status, out, _ = cli()
    assert status == 2 and all(name in out for name in ("dream", "attribute", "hooks", "show", "doctor"))
    status, out, _ = cli("dream", "--help")
    assert status == 0 and "blocks.2.mlp.hook_post[..., 17].max()" in out and "--restart-every N" in out
    status, out, _ = cli("--version")
    assert status == 0 and out == f"dreamy-lens {dl.__version__}\n"
    status, _, err = cli("sleep")
    assert status == 2 and "invalid choice: 'sleep'" in err


def test_the_list_of_commands_imports_no_library_that_takes_time():
    heavy = ["torch", "transformer_lens", "pandas", "plotly", "pyarrow", "ray"]
    code = (
        "import sys\nfrom dreamy_lens.cli.main import main\n"
        "for words in (['--help'], ['--version'], ['sleep'], []):\n"
        "    try:\n        main(words)\n    except SystemExit:\n        pass\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    help = done.stdout.split("commands:")[1]
    assert all(f"    {name}" in help and command.help.split()[0] in help for name, command in COMMANDS.items())


def test_every_example_of_the_help_is_a_feature():
    from dreamy_lens.cli.commands import FEATURES

    for line in FEATURES.splitlines()[1:]:
        text = line.strip().split("   ")[0].strip("'")
        assert dl.parse(text) if "v.safetensors" not in text and "folder" not in text else True


# dream.


def test_dream_prints_the_frontier_on_stdout_and_nothing_else(cli):
    status, out, err = cli("dream", "L2.N17", *SMALL)
    lines = out.splitlines()
    assert status == 0 and lines[0] == "L2.N17 on embedded"
    assert lines[1].split() == ["value", "cross-entropy", "perplexity", "text"] and len(lines) > 2
    assert err == ""


def test_dream_shows_progress_on_stderr_unless_quiet(cli, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    status, out, err = cli("dream", "L2.N17", *SMALL[:-1])
    assert status == 0 and "dreaming" in err and "dreaming" not in out


def test_dream_is_the_library_s(cli):
    _, out, _ = cli("dream", "L2.N17", *SMALL, "--seed", "3", "--lambda-min", "0.5", "--keep-parents", "--no-bos")
    settings = {"iterations": 2, "population": 2, "children": 4, "top_k": 16, "length": 4, "progress": False}
    run = dl.dream("L2.N17", seed=3, lambda_min=0.5, keep_parents=True, prepend_bos=False, **settings)
    assert out == f"{run}\n"


def test_dream_with_constraints_starts_and_a_template(cli, tmp_path):
    words = ["--forbid", "e", "--round-trip", "--printable", "--template", "User: {dream} Assistant:"]
    status, _, err = cli("dream", "L2.N17", *SMALL, *words, "--out", str(tmp_path / "run"))
    assert status == 0, err
    run = dl.load_run(tmp_path / "run")
    said = [c.describe() for c in run.constraints]
    template = "inside the template 'User: {dream} Assistant:'"
    assert said == [
        "without the text 'e' in any case",
        "round-trips through its text",
        "printable",
        template,
    ]
    assert run.provenance.prefix and not any("e" in p.text for p in run.frontier)
    small = " ".join(SMALL).replace("--length 4 ", "").split()
    status, _, err = cli("dream", "L2.N17", "--start", "Return a copy", *small, "--out", str(tmp_path / "b"))
    assert status == 0, err
    run = dl.load_run(tmp_path / "b", dl.load_model())
    np.testing.assert_array_equal(run.history.ids[0], run.session.scorer.vocabulary.encode("Return a copy"))


def test_dream_writes_a_page(cli, tmp_path):
    page = tmp_path / "page.html"
    status, out, _ = cli("dream", "L2.N17", *SMALL, "--html", str(page))
    assert status == 0 and out.endswith(f"Written: {page}\n") and "<html" in page.read_text(encoding="utf-8")


def test_dream_with_several_seeds(cli, tmp_path):
    out, page = tmp_path / "runs", tmp_path / "page.html"
    words = ("dream", "L2.N17", *SMALL, "--seeds", "2", "--out", str(out), "--html", str(page))
    status, told, err = cli(*words)
    assert status == 0 and err == "" and [path.name for path in sorted(out.iterdir())] == ["run-000", "run-001"]
    assert "seed 0: Dream(L2.N17" in told and "seed 1: Dream(L2.N17" in told and "all runs together" in told
    settings = {"iterations": 2, "population": 2, "children": 4, "top_k": 16, "length": 4}
    runs = dl.dream("L2.N17", seeds=2, **settings)
    assert str(runs.frontier) in told and dl.load(out).frontier == runs.frontier and "<html" in page.read_text("utf-8")
    status, shown, _ = cli("show", str(out))
    assert status == 0 and str(runs.frontier) in shown
    assert "already holds a run" in cli(*words, "--model", "nobody/has-this")[2]  # reported before the model is loaded
    assert "keep one" in cli("dream", "L2.N17", "--seed", "1", "--seeds", "2")[2]
    assert "at least 1" in cli("dream", "L2.N17", "--seeds", "0")[2]
    assert "leave out --seeds" in cli("dream", "--resume", str(out / "run-000"), "--seeds", "2")[2]


def test_a_model_folder_a_precision_and_a_device(cli, folder, tmp_path):
    words = ("--model", folder, "--dtype", "bfloat16", "--device", "cpu")
    status, out, err = cli("dream", "L1.N3", *words, *SMALL, "--out", str(tmp_path / "run"))
    assert status == 0, err
    assert out.startswith(f"L1.N3 on {folder}")
    assert dl.load_run(tmp_path / "run").provenance.model == folder


def test_another_model_for_fluency(cli, folder):
    status, out, err = cli("dream", "L1.N3", "--model", folder, "--fluency-model", folder, *SMALL)
    assert status == 0 and "cross-entropy" in out, err
    status, _, err = cli("dream", "L1.N3", "--model", folder, "--fluency-model", "embedded", *SMALL)
    assert status == 1 and "have different tokenizers" in err


def test_save_resume_and_show(cli, tmp_path):
    run, more = str(tmp_path / "run"), str(tmp_path / "more")
    assert cli("dream", "L2.N17", *SMALL, "--out", run)[0] == 0
    _, whole, _ = cli("dream", "L2.N17", *SMALL, "--iterations", "5")
    status, out, err = cli("dream", "L2.N17", *SMALL, "--out", run)
    assert (status, out) == (1, "") and f"already holds a run; continue it with --resume {run}, choose another" in err
    status, resumed, err = cli("dream", "--resume", run, "--iterations", "3", "--quiet", "--out", more)
    assert status == 0 and resumed == whole, err
    assert dl.load_run(run).iteration == 2 and dl.load_run(more).iteration == 5
    status, resumed, _ = cli("dream", "--resume", run, "--iterations", "3", "--quiet", "--device", "cpu")
    assert status == 0 and resumed == whole and dl.load_run(run).iteration == 5  # the run's own folder
    status, shown, _ = cli("show", run)
    assert status == 0 and shown.startswith(whole) and "5 of 5 iterations, seed 0" in shown


def test_show_prints_the_program_that_makes_a_result_again(cli, tmp_path):
    run = str(tmp_path / "run")
    assert cli("dream", "L2.N17", *SMALL, "--out", run)[0] == 0
    status, code, _ = cli("show", run, "--python")
    assert status == 0 and code.startswith(
        'import dreamy_lens as dl\n\nrun = dl.dream("L2.N17", search=dl.EPO(iterations=2, '
    )
    assert json.loads(cli("show", run, "--python", "--json")[1]) == {"kind": "Dream", "python": code.rstrip("\n")}
    steering = dl.steer("L2.N17", "the file", strengths=[1], n_tokens=0, placebos=1)
    status, code, _ = cli("show", str(steering.save(tmp_path / "steering.json")), "--python")
    assert status == 0 and code == f"{steering.code}\n"
    frontier = dl.load_run(run).frontier
    frontier.save(tmp_path / "frontier.json")
    status, _, err = cli("show", str(tmp_path / "frontier.json"), "--python")
    assert status == 2 and "--python needs a result that has its program, and this Frontier has none" in err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["L2.N17"], "leave out the feature"),
        (["--seed", "0"], "leave out --seed"),
        (["--top-k", "4", "--forbid", "a"], "leave out --top-k, --forbid"),
        (["--no-bos"], "leave out --no-bos"),
        (["--bos"], "leave out --bos"),
        (["--round-trip"], "leave out --round-trip"),
        (["--keep-parents"], "leave out --keep-parents"),
    ],
)
def test_a_resumed_run_keeps_its_settings(cli, words, named):
    status, out, err = cli("dream", *words, "--resume", "somewhere")
    assert status == 2 and out == "" and f"--resume goes on with the run's own settings; {named}" in err


# What is wrong is told on stderr in a sentence.


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["dream"], 2, "name a feature, as in `dreamy-lens dream L2.N17`"),
        (["dream", "L2.N17", "--iterations", "many"], 2, "invalid int value: 'many'"),
        (["dream", "L2.N17", "--bos", "--no-bos"], 2, "not allowed with"),
        (
            ["dream", "L2.N1700"],
            1,
            "dreamy-lens: blocks.2.mlp.hook_post[-1, 1700]: there is no unit 1700; embedded has 896",
        ),
        (["dream", "L2.N17 +"], 1, "    L2.N17 +\n            ^"),
        (["dream", "blocks.2.mlp.hook_pst[-1, 3]"], 1, "nearest: blocks.2.mlp.hook_post"),
        (
            ["dream", "L2.N17", "--iterations", "-1"],
            1,
            "iterations is -1; it must be a whole number, at least 0",
        ),
        (["dream", "L2.N17", "--template", "no place"], 1, "A template has the prompt's place, {dream}, exactly once"),
        (["dream", "L2.N17", "--length", "600"], 1, "embedded's context is 512; use at most 511"),
        (["dream", "L2.N17", "--model", "./nowhere"], 1, "There is no folder './nowhere'"),
        (["dream", "L2.N17", "--dtype", "float99"], 1, "'float99' is not a torch dtype"),
        (["dream", "--resume", "./nowhere"], 1, "There is no folder"),
        (["attribute", "L2.N17", ""], 1, "The text '' has no tokens"),
        (["attribute", "L2.N17", "a prompt", "-k", "0"], 1, "k is 0; it is how many substitutes to try"),
        (["attribute", "L2.N17"], 2, "required: PROMPT"),
        (["show", "./nowhere"], 1, "There is no folder"),
        (["show"], 2, "required: PATH"),
        (["show", "run", "--wrong"], 2, "usage: dreamy-lens show [-h]"),
        (["show", "run", "--wrong"], 2, "dreamy-lens show: error: unrecognized arguments: --wrong"),
        (["--wrong"], 2, "dreamy-lens: error: unrecognized arguments: --wrong"),
    ],
)
def test_sentences_and_statuses(cli, words, status, said):
    found, out, err = cli(*words)
    assert found == status and out == "" and said in err


def test_a_folder_that_is_taken(cli, tmp_path):
    (tmp_path / "a.txt").write_text("mine")
    status, _, err = cli("dream", "L2.N17", *SMALL, "--out", str(tmp_path))
    assert status == 1 and "exists and is not a run folder; choose another name" in err and "Found" not in err


def test_what_was_found_before_an_error_is_printed(cli, monkeypatch):
    take = Dream.take

    def fails(run, step):
        take(run, step)
        if step.iteration == 1:
            raise dl.errors.OutOfMemoryError("A single prompt does not fit.")

    monkeypatch.setattr(Dream, "take", fails)
    status, out, err = cli("dream", "L2.N17", *SMALL)
    assert status == 1 and out == ""
    assert err.startswith("dreamy-lens: A single prompt does not fit.\nFound before that:\n")
    assert "cross-entropy  perplexity  text" in err


def test_even_before_an_error_that_is_not_ours(capsys, monkeypatch):
    take = Dream.take

    def fails(run, step):
        take(run, step)
        raise ZeroDivisionError

    monkeypatch.setattr(Dream, "take", fails)
    with pytest.raises(ZeroDivisionError):
        main(["dream", "L2.N17", *SMALL])
    assert "Found before that:" in capsys.readouterr().err


def test_an_interrupted_search_prints_what_it_has(cli, monkeypatch):
    take = Dream.take

    def pressed(run, step):
        take(run, step)
        raise KeyboardInterrupt

    monkeypatch.setattr(Dream, "take", pressed)
    status, out, err = cli("dream", "L2.N17", *SMALL)
    assert status == 0 and "perplexity" in out and "Interrupted after 0 of 2 iterations" in err


def test_an_interrupt_elsewhere_ends_quietly(cli, monkeypatch):
    def pressed(self, *arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(Scorer, "gradient", pressed)
    status, out, err = cli("attribute", "L2.N17", "a prompt", "--quiet")
    assert (status, out, err) == (130, "", "dreamy-lens: interrupted.\n")


def test_a_file_that_cannot_be_written_is_told_before_the_search(cli, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(Scorer, "score", lambda *a: pytest.fail("it was searched"))
    for place, words in ((tmp_path / "file" / "page.html", "Not a directory. A part"), (tmp_path, "It is a folder")):
        status, out, err = cli("dream", "L2.N17", *SMALL, "--html", str(place))
        assert (status, out) == (1, "") and words in err and "Traceback" not in err


def test_what_was_found_is_printed_though_it_cannot_be_written(cli, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    status, out, err = cli("dream", "L2.N17", *SMALL, "--html", str(tmp_path / "page.html"))
    assert status == 1 and "perplexity" in out
    assert "page.html' cannot be written: No space left on device. Make room" in err and "Traceback" not in err
    with pytest.warns(RuntimeWarning, match="could not be saved .* No space left"):
        status, out, err = cli("dream", "L2.N17", *SMALL, "--out", str(tmp_path / "run"))
    assert status == 1 and "perplexity" in out
    (tmp_path / "corpus.txt").write_text("The dog runs over the hill, and the cat sleeps in the house. " * 9)
    with pytest.warns(RuntimeWarning, match="could not be saved .* No space left"):
        corpus = str(tmp_path / "corpus.txt")
        status, out, err = cli("scan", "L2.N17", "--corpus", corpus, "--out", str(tmp_path / "scan"), "--quiet")
    assert status == 1 and "L2.N17" in out
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["corpus.txt"]


# attribute.


def test_attribute_prints_a_row_for_each_token(cli, tmp_path):
    page = tmp_path / "strip.html"
    status, out, err = cli("attribute", 'log_prob(" the")', "Return a copy of", "-k", "3", "--html", str(page))
    lines = out.splitlines()
    assert status == 0 and err == 'Attributing log_prob(" the") to the tokens of the prompt ...\n'
    assert "drop to worst" in lines[0] and "drop to best" in lines[0]
    assert [line.split("'")[1] for line in lines[1:5]] == ["Return", " a", " copy", " of"]
    assert lines[5] == f"Written: {page}" and "<html" in page.read_text(encoding="utf-8")


def test_attribute_writes_the_strip_for_a_paper(cli, tmp_path, monkeypatch):
    status, out, _ = cli("attribute", "L2.N17", "Return a copy", "-k", "3", "--out", str(tmp_path / "strip.svg"))
    svg = (tmp_path / "strip.svg").read_text(encoding="utf-8")
    assert status == 0 and f"Written: {tmp_path / 'strip.svg'}" in out
    assert "> copy</text>" in svg and "with the worst of 3 substitutes" in svg
    # What cannot be written is refused before any work.
    monkeypatch.setattr("dreamy_lens.cli.model.load_selected_model", None)
    monkeypatch.setitem(sys.modules, "kaleido", None)
    for name, words in (("strip.gif", "ends in .gif"), ("strip.pdf", r"dreamy-lens[export]")):
        status, _, err = cli("attribute", "L2.N17", "Return a copy", "--out", str(tmp_path / name))
        assert status == 1 and words in err, err


# upstream.


def test_upstream_prints_the_largest_components_and_writes_every_form(cli, tmp_path):
    page, table, picture = (tmp_path / f"upstream.{ending}" for ending in ("html", "csv", "svg"))
    words = ["upstream", "L2.N17", "Return a copy of", "--html", page, "--csv", table, "--out", picture]
    status, out, err = cli(*map(str, words))
    assert status == 0 and err == "Dividing L2.N17 into the contributions of components ...\n"
    assert out.startswith("The pre-activation of L2.N17 is ") and "contribution  share  component  from" in out
    assert all(f"Written: {file}" in out and file.stat().st_size > 300 for file in (page, table, picture))
    status, out, _ = cli("upstream", "L2.N17", "Return a copy of", "--json", "--quiet")
    document = json.loads(out)
    assert status == 0 and document["kind"] == "Upstream" and document["quantity"] == "pre"
    assert abs(sum(document["contributions"]) + document["bias"] - document["total"]) < 1e-4
    status, _, err = cli("upstream", "blocks.3.attn.hook_pattern[0, -1, 2]", "Return a copy of")
    assert status == 1 and "a product of a query and a key" in err


# Interventions.


@pytest.mark.parametrize(
    ("words", "kind", "announced", "began"),
    [
        (
            ["steer", "L2.N17", "Return a copy of", *"--strengths 3 --units raw --n-tokens 2".split()],
            *("Steering", "Steering L2.N17 ...", "The vector of L2.N17 is added at every token after the BOS."),
        ),
        (
            ["ablate", "L1.MLP", "L2.N17", "--prompt", "Return a copy of", "--of", "L3.N40", "--kind", "zero"],
            *("Ablation", "Ablating L1.MLP, L2.N17 ...", "Ablation at every token after the BOS of 1 prompt"),
        ),
        (
            ["patch", "L2.N17", "Return a copy of"],
            *("Patching", "Patching L2.N17 ...", "L2.N17 is "),
        ),
    ],
)
def test_interventions_print_their_effects_and_write_every_form(cli, tmp_path, words, kind, announced, began):
    page, table, picture = (tmp_path / f"result.{ending}" for ending in ("html", "csv", "svg"))
    words = [*words, "--placebos", "1"]
    status, out, err = cli(*words, "--html", str(page), "--csv", str(table), "--out", str(picture))
    assert status == 0 and err == f"{announced}\n" and out.startswith(began)
    assert all(f"Written: {file}" in out and file.stat().st_size > 200 for file in (page, table, picture))
    status, out, _ = cli(*words, "--json", "--quiet")
    document = json.loads(out)
    assert status == 0 and document["kind"] == kind and document["table"]


def test_interventions_tell_what_is_wrong(cli):
    for words, told in (
        (["steer", 'logit(" the")', "Return"], "is a logit itself"),
        (["steer", "L2.N17", "Return", "--positions", "9"], "there is no position 9"),
        (["ablate", "L9.MLP", "--prompt", "Return"], "there is no layer 9"),
        (["patch", "L2.N17", "Return a copy", "--neutral", "Return"], "patching needs equal lengths"),
    ):
        status, _, err = cli(*words)
        assert status == 1 and told in err, err


# mechanisms.


def test_mechanisms_prints_the_cells_of_a_run_and_writes_every_form(cli, tmp_path):
    small = "--iterations 1 --children 16 --samples 16 --length 4 --quiet".split()
    assert cli("dream", "L2.N812", *small, "--diversity", "0.5", "--out", str(tmp_path / "run"))[0] == 0
    page, table, picture = (tmp_path / f"mechanisms.{ending}" for ending in ("html", "csv", "svg"))
    words = ["mechanisms", tmp_path / "run", "--json", "--quiet", "--html", page, "--csv", table, "--out", picture]
    status, out, _ = cli(*map(str, words))
    document = json.loads(out[: out.rindex("}") + 1])
    assert status == 0 and document["kind"] == "Mechanisms" and document["asked"] == 0.8
    assert len(document["drops"]) == len(document["cells"]) >= 1 and document["cells"][0]["name"] == "A"
    assert all(file.stat().st_size > 100 for file in (page, table, picture))
    status, _, err = cli("mechanisms", str(tmp_path / "nothing"))
    assert status == 1 and "nothing" in err


# baselines.


@pytest.mark.slow
def test_baselines_are_of_a_run_which_keeps_them_or_of_a_feature(cli, tmp_path):
    (tmp_path / "texts.txt").write_text(
        "Return a copy of the array, with its axes transposed.\n\n" * 3, encoding="utf-8"
    )
    small = "--iterations 1 --children 16 --samples 16 --length 4 --quiet".split()
    assert cli("dream", "L2.N812", *small, "--out", str(tmp_path / "run"))[0] == 0
    words = ["baselines", str(tmp_path / "run"), "--corpus", str(tmp_path / "texts.txt"), "--prompts", "64", "--quiet"]
    status, out, _ = cli(*words, "--json", "--csv", str(tmp_path / "table.csv"))
    document = json.loads(out[: out.rindex("}") + 1])
    run = dl.load_run(tmp_path / "run")
    assert status == 0 and document["kind"] == "Baselines" and document["length"] == 4
    assert [each["count"] for each in document["baselines"]] == [64, len(run.baselines.corpus)]
    for row, prompt in zip(document["table"], run.frontier, strict=True):
        own = run.baselines.random
        assert row["z_random"] == pytest.approx((prompt.value - own.values.mean()) / own.values.std(ddof=1), abs=1e-3)
    assert (tmp_path / "table.csv").read_text(encoding="utf-8").startswith("value,cross_entropy,z_random,z_corpus")
    status, out, _ = cli(*words)
    assert status == 0 and "z, random" in out and "corpus windows" in out and run.frontier[-1].text.strip() in out
    status, out, _ = cli("baselines", "L2.N812", "--length", "4", "--prompts", "64", "--quiet")
    assert status == 0 and "random prompts" in out and "corpus windows" not in out
    status, _, err = cli("baselines", str(tmp_path / "run"), "--length", "5")
    assert status == 1 and "The run has its own length" in err
    status, _, err = cli("explain", str(tmp_path / "run"), "--llm", "http://localhost:1/v1")
    assert status == 1 and "needs the name of a model there: --llm-model NAME" in err


# hooks.


def test_hooks_lists_names_with_shapes(cli):
    status, out, _ = cli("hooks")
    lines = dict(line.split("  ", 1) for line in out.splitlines())
    assert status == 0 and lines["blocks.2.mlp.hook_post"].strip() == "[position, 896]"
    assert lines["blocks.0.attn.hook_rot_q"].strip() == "never reached"


def test_hooks_can_be_searched(cli, folder):
    _, out, _ = cli("hooks", "mlp", "post")
    assert [line.split()[0] for line in out.splitlines()] == [f"blocks.{i}.mlp.hook_post" for i in range(6)]
    _, out, _ = cli("hooks", "*.1.attn.hook_pattern", "--model", folder)
    assert out == "blocks.1.attn.hook_pattern  [4, position, position]\n"


def test_hooks_that_match_nothing(cli):
    status, out, err = cli("hooks", "hook_pst")
    assert status == 1 and out == ""
    assert err.startswith(
        "dreamy-lens: no hook point of embedded matches 'hook_pst'; nearest: blocks.0.mlp.hook_post, "
    )


def test_through_a_pipe_each_command_says_what_begins(cli, folder, tmp_path):
    small, corpus = SMALL[:-1], tmp_path / "corpus.txt"
    corpus.write_text("The dog runs over the hill and the cat sleeps in the house. " * 9)
    run, model = str(tmp_path / "run"), ("--model", folder)
    scan = ("scan", "L1.N3", "--corpus", str(corpus), "--length", "4", *model)
    for words, said in (
        (("dream", "L1.N3", *small, "--out", run, *model), "Dreaming of L1.N3 ..."),
        (scan, f"Scanning {corpus} ..."),
        (("attribute", "L1.N3", "the dog", *model), "Attributing L1.N3 to the tokens of the prompt ..."),
    ):
        status, _, err = cli(*words)
        loading = [f"Loading the model {folder} ..."] * (words is not scan)  # which loads it where it scans
        assert status == 0 and err.splitlines() == [*loading, said]
    _, _, err = cli("dream", "--resume", run, "--iterations", "1")
    assert err.startswith("Continuing the dream of L1.N3 ...\n")
    status, out, err = cli(*scan, "--quiet")
    assert (status, err) == (0, "") and out


def test_where_no_hook_point_is_near_none_is_named(cli):
    status, out, err = cli("hooks", "nosuch")
    assert (status, out) == (1, "")
    advice = "`dreamy-lens hooks` without a word lists all"
    assert err == f"dreamy-lens: no hook point of embedded matches 'nosuch'; {advice}.\n"


class Closed(io.StringIO):
    """Writing end of a pipe whose reader has closed it."""

    def __init__(self, file) -> None:
        super().__init__()
        self.file = file

    def write(self, text: str) -> int:
        raise BrokenPipeError

    def fileno(self) -> int:
        return self.file.fileno()


def test_a_pipe_that_is_closed_is_no_error(tmp_path, monkeypatch, capsys):
    with open(tmp_path / "pipe", "w") as file:
        monkeypatch.setattr(sys, "stdout", Closed(file))
        status = main(["hooks", "mlp"])
        file.write("what was still to be flushed")
    assert status == 0 and capsys.readouterr().err == ""
    assert (tmp_path / "pipe").read_text() == ""


# show.


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    dl.dream("L2.N17", iterations=4, population=3, children=6, top_k=32, length=4, progress=False, save_to=path)
    return path


def test_show_needs_no_model(cli, saved, monkeypatch, tmp_path):
    from dreamy_lens.models import load

    monkeypatch.setattr(load, "load_model", lambda *a, **k: pytest.fail("a model was loaded"))
    csv = tmp_path / "frontier.csv"
    status, out, _ = cli("show", str(saved), "--csv", str(csv))
    assert status == 0 and out.startswith("L2.N17 on embedded\n")
    frame = pd.read_csv(csv)
    np.testing.assert_allclose(frame["value"], dl.load_run(saved).frontier.values)


def test_show_the_best_under_a_limit(cli, saved):
    run = dl.load_run(saved)
    middle = run.frontier[len(run.frontier) // 2]
    status, out, _ = cli("show", str(saved), "--max-cross-entropy", str(middle.cross_entropy + 1e-6))
    assert status == 0 and out.startswith(f"{middle.text!r}\n") and f"ids {list(middle.ids)}" in out
    status, _, err = cli("show", str(saved), "--max-cross-entropy", "0.001")
    assert status == 1 and "The most fluent one has cross-entropy" in err


def test_show_writes_a_page(cli, saved, tmp_path):
    status, out, _ = cli("show", str(saved), "--html", str(tmp_path / "page.html"))
    assert status == 0 and "Written:" in out and (tmp_path / "page.html").stat().st_size > 2000


# doctor.


def test_doctor_passes_a_sound_feature(cli):
    status, out, err = cli("doctor", "L2.N17")
    assert status == 0 and err == "" and all(line.startswith("ok    ") for line in out.splitlines())
    assert "the gradient agrees with a finite difference: within" in out
    assert cli("doctor")[0] == 0


def test_doctor_fails_with_a_status(cli, tmp_path):
    status, out, _ = cli("doctor", "L2.N1700")
    assert status == 1 and out.splitlines()[-1].startswith("FAIL  the feature fits the model: ")
    status, out, _ = cli("doctor", "L2.N17", "--model", str(tmp_path))
    assert status == 1 and out.startswith("FAIL  the model loads: ") and "no config.json" in out
