"""Programs that results note: each runs in a new session, and makes the result again."""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import dreamy_lens as dl
from dreamy_lens.runs.call_code import CallWriter, call_code, program_of
from tests.helpers.quick import quick_ones

pytestmark = pytest.mark.usefixtures("short_start")

PROMPT = "if given, the method is applied only"
TEXTS = [f"If given, the method number {i} is applied only where the array is a copy of the other." for i in range(8)]
SMALL: dict[str, Any] = {"iterations": 2, "length": 5}
SCAN: dict[str, Any] = {"corpus": TEXTS, "k": 4, "length": 5, "cache": False}


def executed(code: str) -> dict[str, Any]:
    """What a program leaves behind in a new session."""
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(code, "<copied>", "exec"), names)
    return names


@functools.cache
def run_and_examples() -> tuple[Any, Any]:
    return dl.dream("L2.N812", **SMALL), dl.max_activating(["L2.N812", "L2.N17"], **SCAN)


def compared(**settings: Any) -> Any:
    return dl.compare(*run_and_examples(), **settings)


RESULTS: dict[str, Callable[[], Any]] = {
    "steering": lambda: dl.steer("L2.N812", PROMPT, strengths=[2, 8], n_tokens=3, placebos=2, tokens=[" the"]),
    "ablation": lambda: dl.ablate(["L2.mlp", dl.neuron(2, 812)], PROMPT, of="L2.N812", placebos=2),
    "patching": lambda: dl.patch("L2.N812", PROMPT, placebos=1, layers=[1, 2]),
    "upstream": lambda: dl.upstream(dl.neuron(2, 812), np.array([5, 9, 11]), neurons=3),
    "effect": lambda: dl.logit_effect(dl.neuron(2, 812), count=3, placebos=2),
    "continuation": lambda: dl.generate(PROMPT, n_tokens=4, temperature=0.5, seed=3),
    "attribution": lambda: dl.attribution("L2.N812", PROMPT, k=4, contexts=dl.constraints.template("Say {dream}!")),
    "baselines": lambda: dl.baselines("L2.N812", prompts=16, length=5, seed=2),
    "mechanisms": lambda: dl.mechanisms(["if given, applied only", "the same as described only"], "L2.N812"),
    "explanation": lambda: dl.explain(*run_and_examples(), count=2),
    "comparison": lambda: compared(limits=[4.0, float("inf")]),
    "examples": lambda: dl.max_activating(
        ["L2.N812", "L2.N17"], config=dl.scan.ScanConfig(k=3, length=5), corpus=TEXTS
    ),
    "card": lambda: dl.card("L2.N812", corpus=TEXTS, scan={"cache": False}, strips=1, k=4, parts=(), **SMALL),
    "study": lambda: dl.studies.seeds(
        feature="L2.N17", seeds=1, length=5, search=dl.RandomSearch(iterations=1, children=8), progress=False
    ),
}


@functools.cache
def made(name: str) -> Any:
    """Result of this name, which is computed once for all tests."""
    return RESULTS[name]()


@functools.cache
def run_with_template() -> Any:
    constraints = [dl.constraints.template('Say "it" {dream}\n!'), dl.constraints.printable()]
    return dl.dream("L2.N812", constraints=constraints, seed=3, search=dl.EPO(population=4, children=8), **SMALL)


def table_of(result: Any) -> pd.DataFrame:
    return result.comparison.to_pandas() if hasattr(result, "comparison") else result.to_pandas()


def assert_same(ours: Any, theirs: Any) -> None:
    ours, theirs = table_of(ours), table_of(theirs)
    times = [name for name in ours.columns if "second" in str(name)]
    pd.testing.assert_frame_equal(ours.drop(columns=times), theirs.drop(columns=times), check_exact=False, rtol=1e-4)


@pytest.mark.parametrize("name", quick_ones(RESULTS, set(RESULTS) - {"card", "explanation", "steering"}))
def test_the_program_of_a_result_makes_it_again(name: str):
    result = made(name)
    code = program_of(result)
    assert code.startswith("import dreamy_lens as dl\n") and "object of your own" not in code
    again = executed(code)[name]
    assert_same(result, again)
    assert program_of(again) == code


METHODS: dict[str, Callable[[Any, Any], Any]] = {
    "steering": lambda run, prompt: run.steer(prompt, strengths=[4], n_tokens=2, placebos=1),
    "ablation": lambda run, prompt: run.ablate("L2.mlp", prompt, placebos=2),
    "patching": lambda run, prompt: run.patch(prompt, placebos=1, layers=[2]),
    "upstream": lambda run, prompt: prompt.upstream(neurons=2),
    "continuation": lambda run, prompt: prompt.generate(3, temperature=0.5, seed=3),
    "attribution": lambda run, prompt: prompt.attribution(k=4),
}


@pytest.mark.parametrize("name", list(METHODS))
def test_the_program_of_a_method_of_a_run_has_the_runs_template(name: str):
    run = run_with_template()
    result = METHODS[name](run, run.frontier[0])
    assert_same(result, executed(result.code)[name])


def test_a_method_of_a_run_from_a_prompt_names_the_settings_that_differ():
    run, _ = run_and_examples()
    ids = list(run.frontier[0].ids)
    assert run.upstream(run.frontier[0]).code.endswith(
        f'\nrun = dl.dream("L2.N812", iterations=0)\nupstream = run.upstream({ids})'
    )


def test_the_examples_of_one_feature_and_those_in_a_folder_have_the_program(tmp_path: Path):
    examples = dl.max_activating(["L2.N812", "L2.N17"], **SCAN, out=tmp_path / "scan")
    assert "out=" not in examples.code and "cache" not in examples.code
    saved = dl.load(tmp_path / "scan")
    assert saved.code == examples.code
    one = saved.of("L2.N17")
    again = executed(one.code)["examples"]
    assert [w.ids for w in again.top] == [w.ids for w in one.top]
    assert "As Python" in one.to_html() and "As Python" in examples.to_html()
    page = examples.to_html(tmp_path / "index/")
    assert page.count("As Python") == 1 and "As Python" in (tmp_path / "index/features/1.html").read_text("utf-8")


def test_saved_results_keep_the_program(tmp_path: Path):
    for name in ("steering", "ablation", "patching", "upstream", "attribution", "baselines", "mechanisms"):
        result = made(name)
        opened = type(result).load(result.save(tmp_path / f"{name}.json"))
        assert opened.code == result.code and result.code
    comparison = made("comparison")
    assert dl.load(comparison.save(tmp_path / "comparison.json")).code == comparison.code


def test_pages_and_cells_have_the_program_closed_and_no_new_script():
    for name in ("steering", "ablation", "patching", "upstream", "attribution", "mechanisms", "explanation"):
        result = made(name)
        for html in (result.to_html(), result._repr_html_()):
            assert html.count('<details class="dl-python"><summary>As Python</summary><pre') == 1
            assert "<script" not in html and "<button" not in html
    for name in ("baselines", "effect", "continuation"):
        assert made(name)._repr_html_().count("As Python") == 1


def test_objects_of_the_session_keep_their_names_and_a_comment_says_so(tmp_path: Path):
    def ask(prompt: str) -> str:
        return "EXPLANATION: a method"

    run, examples = run_and_examples()
    explanation = dl.explain(run, examples, ask, count=2, scores=())
    assert "# llm is an object of your own Python session: 'ask'" in explanation.code
    assert explanation.code.endswith("\nexplanation = dl.explain(run, examples, llm, count=2, scores=())")
    texts = [f"Return the array number {i} of the list." for i in range(400)]
    scan = dl.max_activating("L2.N17", corpus=texts, k=2, length=5, cache=False)
    assert "# corpus is an object of your own Python session: list of length 400" in scan.code
    assert "corpus=corpus" in scan.code


def test_a_corpus_that_is_open_is_written_by_its_name_without_its_secrets(tmp_path: Path):
    (tmp_path / "a.txt").write_text("\n\n".join(TEXTS), encoding="utf-8")
    corpus = dl.corpus.open(tmp_path / "a.txt", separator="\n\n")
    examples = dl.max_activating("L2.N17", corpus=corpus, k=2, length=5, cache=False)
    assert f'corpus=dl.corpus.open("{tmp_path / "a.txt"}", separator="\\n\\n")' in examples.code
    assert_same(examples, executed(examples.code)["examples"])
    corpus.source = ("s3://bucket/a", {"storage_options": {"secret": "hidden"}})
    writer = CallWriter()
    assert writer.value("corpus", corpus) == 'dl.corpus.open("s3://bucket/a", storage_options=storage_options)'
    assert "hidden" not in str(writer.setup)


def test_a_sweep_has_its_program(tmp_path: Path):
    sweep = dl.sweep(["L2.N812"], out=tmp_path / "sweep", seeds=2, progress=False, **SMALL)
    assert "As Python" in sweep._repr_html_()
    again = executed(sweep.code.replace(str(tmp_path / "sweep"), str(tmp_path / "again")))["sweep"]
    assert [run.frontier[-1].ids for run in again] == [run.frontier[-1].ids for run in sweep]
    assert dl.load(tmp_path / "sweep").code == ""


def test_a_model_in_memory_is_loaded_by_its_name(gpt2):
    found = dl.upstream("L1.N3", [5, 6, 7], gpt2.bridge)
    name = found.model
    assert f'model = dl.load_model("{name}")  # if its weights' in found.code and "[5, 6, 7], model)" in found.code
    half = dl.load_model(dtype="bfloat16")
    again = executed(dl.attribution("L1.N3", [5, 6, 7], half, k=2).code)["attribution"]
    assert_same(again, dl.attribution("L1.N3", [5, 6, 7], half, k=2))


def test_the_page_without_scripts_and_the_cells_of_runs_have_the_program():
    run, _ = run_and_examples()
    runs = dl.dream("L2.N812", seeds=2, **SMALL)
    code = 'run = dl.dream("L2.N812", iterations=2, length=5)</pre>'
    assert code in run.to_html(static=True, strips=1) and code in run._repr_html_()
    assert 'runs = dl.dream("L2.N812", seeds=[0, 1], iterations=2, length=5)</pre>' in runs._repr_html_()


def test_long_arguments_are_not_written_and_odd_ones_cost_no_result():
    class Odd:
        def __len__(self):
            raise RuntimeError("no length")

    class Matrix(np.ndarray):
        def tolist(self):
            raise AssertionError("all of it was written")

    written: list[Any] = []

    class Counting(CallWriter):
        def _written(self, name: str, value: Any) -> str | None:
            written.append(value)
            return super()._written(name, value)

    writer = Counting()
    assert writer.value("llm", "https://me:secret@example.org/v1") == "llm" and "secret" not in "".join(writer.setup)
    assert writer.value("llm", "https://example.org/v1@2") == '"https://example.org/v1@2"'
    writer.setup.clear()
    assert writer.value("matrix", np.zeros((200_000, 64)).view(Matrix)) == "matrix"
    assert writer.value("texts", ["word " * 1000] * 500_000) == "texts"
    assert writer.value("words", ["word"] * 500_000) == "words"
    assert len(written) < 2000
    assert [line.split()[1] for line in writer.setup] == ["matrix", "texts", "words"]
    assert call_code("x", dl.score, {"feature": Odd(), "prompts": PROMPT}) == ""
