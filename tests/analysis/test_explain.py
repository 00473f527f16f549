"""Explanations in words, with scripted language models, and the scores of explanations and of dreams."""

from __future__ import annotations

import json
import math
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import numpy as np
import pytest

import dreamy_lens as dl
from dreamy_lens.analysis import ChatEndpoint
from dreamy_lens.analysis.explanation_prompts import ShownText, read_explanation, read_numbers, read_texts
from dreamy_lens.analysis.prediction import EmbeddingSimilarity, GramSimilarity, auroc, token_weights
from dreamy_lens.cli.main import main
from dreamy_lens.errors import LLMError, SettingsError
from dreamy_lens.results import AnswerScore, Explanation, Simulation

FEATURE = "L2.N812"
TEXTS = [
    f"{verb} the {noun} of file {i}, {end}."
    for i, verb in enumerate(["Return", "Open", "Close", "Read", "Write", "Copy"])
    for noun in ("name", "path", "content", "size")
    for end in ("if given", "applied only", "otherwise an error", "which is correctly set")
]


@pytest.fixture(scope="module")
def run():
    return dl.dream(FEATURE, iterations=4, length=6, wait=True, progress=False)


@pytest.fixture(scope="module")
def examples():
    return dl.max_activating(FEATURE, corpus=TEXTS, k=24, length=6, stride=1, sample=200, cache=False, progress=False)


class Scripted:
    """Language model that explains by a fixed sentence, and answers questions by a function of each numbered text."""

    def __init__(self, right: Any = lambda text: True) -> None:
        self.right, self.prompts = right, list[str]()

    def __call__(self, prompt: str) -> str:
        self.prompts.append(prompt)
        if "ANSWER:" in prompt:
            lines = [line.partition(". ") for line in prompt.splitlines() if line.partition(". ")[0].isdigit()]
            named = [number for number, _, text in lines if self.right(text)]
            return "ANSWER: " + (", ".join(named) or "none")
        if "TEXT:" in prompt:
            return "TEXT: if given, applied only\nTEXT: 'the size'\n"
        return "Let me think.\nEXPLANATION: words at the end of a sentence on files"


def test_without_a_language_model_there_is_the_prompt_and_the_prediction(run, examples):
    found = dl.explain(run, examples, count=5)
    assert not found and found.llm == "" and found.detection is found.fuzzing is found.simulation is None
    best = max((p for p in run.frontier if p.cross_entropy <= 9), key=lambda p: p.value).text
    assert "Reply with one line that begins with EXPLANATION:" in found.prompt
    assert best in found.dreams and len(found.dreams) <= 5
    assert found.prediction is not None and set(found.prediction.auroc) == {"dreams", "windows", "both"}
    assert all(0 <= area <= 1 for areas in found.prediction.auroc.values() for area in areas.values())
    assert "no explanation yet" in str(found) and best.replace("\n", "⏎") in found.prompt


def test_windows_that_are_shown_and_held_out_are_of_different_documents(run, examples):
    found = dl.explain(run, examples, count=5)
    shown = {w.document for w in examples.of(FEATURE).top if w.text in found.windows}
    llm = Scripted()
    dl.explain(run, examples, llm, scores="detection")
    questions = "".join(p for p in llm.prompts if "On which of them" in p)
    for count in (2, 12):
        detected = dl.explain(run, examples, Scripted(), scores="detection", count=count).detection
        assert detected is not None and detected.positives == detected.negatives <= count
        assert (detected.positives == 2) == (count == 2)
    held = [w for w in examples.of(FEATURE).top if w.document not in shown]
    assert (
        held
        and shown
        and all(text.replace("\n", "⏎") in found.prompt.replace("«", "").replace("»", "") for text in found.windows)
    )
    assert any(w.text in questions for w in held)


def test_a_model_that_tells_right_texts_scores_one_and_one_that_names_all_scores_half(run, examples):
    top = {w.text for w in examples.of(FEATURE).top}
    told = dl.explain(run, examples, Scripted(lambda text: text in top), scores=["detection"])
    assert told and told.text == "words at the end of a sentence on files" and told.llm == "Scripted"
    assert told.detection is not None and told.detection.accuracy == 1.0 and told.detection.f1 == 1.0
    blind = dl.explain(run, examples, Scripted(), scores=["detection", "fuzzing"])
    assert blind.detection is not None and blind.detection.accuracy == 0.5
    assert blind.fuzzing is not None and blind.fuzzing.accuracy == 0.5 and blind.fuzzing.positives > 0


def test_fuzzing_marks_the_tokens_at_which_the_feature_is_high(run, examples):
    values = {w.text: (w.tokens, w.values) for w in examples.of(FEATURE).top}

    def right(marked: str) -> bool:
        tokens, series = values[marked.replace("«", "").replace("»", "")]
        series = np.nan_to_num(series, nan=-np.inf)
        high = set(np.flatnonzero(series >= 0.5 * series.max()).tolist())
        expected = "".join(f"«{t}»" if i in high else t for i, t in enumerate(tokens)).replace("»«", "")
        return marked == expected

    found = dl.explain(run, examples, Scripted(right), scores="fuzzing").fuzzing
    assert found is not None and found.accuracy == 1.0 and found.positives == found.negatives


def test_texts_that_are_written_by_the_explanation_are_measured_at_every_end(run):
    found = dl.explain(run, None, Scripted(), scores="simulation").simulation
    assert found is not None and set(found.texts) == {"if given, applied only", "the size"}
    for text, value in zip(found.texts, found.values, strict=True):
        ids = dl.load_model().tokenizer(text, add_special_tokens=False).input_ids
        ends = [float(dl.score(FEATURE, np.array(ids[:n])).value[0]) for n in range(1, len(ids) + 1)]
        assert value == pytest.approx(max(ends), abs=1e-4)
    best = max(p.value for p in run.frontier)
    assert found.dream == best and found.share == pytest.approx(
        (max(found.values) - found.floor) / (best - found.floor)
    )
    assert Simulation(("a",), (2.0,), 1.0, 1.0).share is not None and math.isnan(Simulation((), (), 0.0, 1.0).share)


def test_the_explanation_stays_with_the_run(run, tmp_path):
    dl.explain(run, llm=Scripted(), scores=())
    assert run.explanation is None  # the run has no folder
    run.save(tmp_path / "run")
    told = dl.explain(tmp_path / "run", llm=Scripted(), scores="simulation")
    again = dl.load_run(tmp_path / "run").explanation
    assert again is not None and again.to_dict() == told.to_dict() and again.simulation == told.simulation
    other = dl.dream(FEATURE, iterations=1, length=6, seed=5, wait=True, progress=False)
    other.save(tmp_path / "run", overwrite=True)
    assert dl.load_run(tmp_path / "run").explanation is None
    dl.explain(other, llm=Scripted(), scores=(), store=False)
    assert other.explanation is None


def test_an_explanation_is_saved_and_loaded_in_every_form(run, examples, tmp_path):
    told = dl.explain(run, examples, Scripted())
    told.save(tmp_path / "e.json")
    again = dl.load(tmp_path / "e.json")
    assert isinstance(again, Explanation) and again.to_dict() == told.to_dict() and str(again) == str(told)
    told.save(tmp_path / "e.csv")
    assert len((tmp_path / "e.csv").read_text().splitlines()) == 1 + len(told.scores)
    page = told.to_html(tmp_path / "e.html")
    assert told.text in page and "<script" not in page and "http" not in page.partition("<body")[2]
    hostile = Explanation(FEATURE, "m", "<script>alert(1)</script>", "<b>")
    assert "<script>alert" not in hostile.to_html()


@pytest.mark.parametrize(
    ("llm", "sentence"),
    [
        (lambda prompt: time.sleep(30), r"did not answer in 0\.1 s\. Give it more time with timeout="),
        (lambda prompt: 1 / 0, "failed with ZeroDivisionError: division by zero"),
        (lambda prompt: None, "returned NoneType; llm= is a function that takes a prompt"),
        (lambda prompt: "<!DOCTYPE html><html>404</html>", "returned a page of HTML. Is the address that of the API"),
        (lambda prompt: "I cannot help with that.", r"not answer as it is asked to; it says 'I cannot help"),
        (lambda prompt: "", "does not answer as it is asked to"),
    ],
)
def test_a_language_model_that_gives_no_explanation_is_an_error_that_says_why(run, llm, sentence):
    timeout = 0.1 if "0" in sentence and "s" in sentence and "did not" in sentence else 20.0
    with pytest.raises(LLMError, match=sentence):
        dl.explain(run, llm=llm, timeout=timeout)


def test_every_kind_of_page_is_told(run):
    for page in ("<!DOCTYPE html><p>", "\ufeff<HTML>", "<?xml version='1.0'?>", "<head><title>502</title>"):
        with pytest.raises(LLMError, match=r"returned a page of HTML\. Is the address that of the API"):
            dl.explain(run, llm=lambda prompt, page=page: page)


def test_a_score_that_fails_is_left_out_and_the_rest_stays(run, examples):
    def llm(prompt: str) -> str:
        return "EXPLANATION: files" if "EXPLANATION:" in prompt else "no idea"

    with pytest.warns(RuntimeWarning, match="The explanation is there, but not the score of"):
        told = dl.explain(run, examples, llm)
    assert told.text == "files" and told.detection is told.fuzzing is told.simulation is None
    assert [note.partition(":")[0] for note in told.notes] == ["No detection", "No fuzzing", "No simulation"]
    assert told.prediction is not None


def test_a_reply_is_asked_for_once_more(run):
    replies = iter(["hm", "EXPLANATION: **files**"])
    assert dl.explain(run, llm=lambda prompt: next(replies), scores=()).text == "files"


def test_replies_are_read_strictly():
    assert read_numbers("ANSWER: 2 and 4.", 4) == [1, 3] and read_numbers("ANSWER: none.", 4) == []
    for wrong in ("2, 4", "ANSWER: 5", "ANSWER: 0", "ANSWER: two", "ANSWER: all of them", "ANSWER:"):
        assert read_numbers(wrong, 4) is None
    assert read_explanation("EXPLANATION: a\nEXPLANATION: b") == "b" and read_explanation("EXPLANATION:") is None
    assert read_texts('TEXT: "a b"\n2\nTEXT: c') == ["a b", "c"] and read_texts("a\nb") is None
    # A decimal number, a range and a remark are no list of texts; a word in the middle of a sentence is no answer.
    for wrong in ("ANSWER: 1.3", "ANSWER: 1-3", "ANSWER: 1, 3 (the end)", "I would answer: 3"):
        assert read_numbers(wrong, 4) is None
    assert read_explanation("I have no explanation: sorry") is None


def test_replies_may_be_set_in_other_letters_in_bold_and_on_the_next_line():
    for right in ("Answer: 1, 3", "**Answer:** 1, 3", "ANSWER: [1, 3]", "ANSWER: #1, #3", "ANSWER:\n1 and 3.", "1. 3"):
        assert read_numbers(right if "nswer" in right.lower() else f"ANSWER: {right}", 4) == [0, 2]
    for right in ("Explanation: a b", "**Explanation**: a b", "EXPLANATION:\r\n  a b", "- **EXPLANATION: a b**"):
        assert read_explanation(right) == "a b"
    assert read_explanation("EXPLANATION:\nEXPLANATION: a") == "a"
    assert read_texts("**TEXT:** a\n- Text: b\nTEXT: **c**\nTEXT: *d") == ["a", "b", "c", "*d"]


def test_texts_without_a_value_are_left_out_of_the_simulation(run, tmp_path):
    bos = dl.load_model().tokenizer.bos_token

    def writes(*texts: str) -> Any:
        return lambda prompt: "\n".join(f"TEXT: {t}" for t in texts) if "TEXT:" in prompt else "EXPLANATION: \ud800."

    told = dl.explain(run, llm=writes(bos, "the size"), scores="simulation")
    assert told.simulation is not None and told.simulation.texts == ("the size",) and not told.notes
    assert told.text == "\ufffd." and dl.load(told.save(tmp_path / "told.json")).text == told.text
    with pytest.warns(RuntimeWarning, match="wrote no text on which the feature has a value"):
        told = dl.explain(run, llm=writes(bos), scores="simulation")
    assert told.simulation is None and any("No simulation: <lambda> wrote no text" in note for note in told.notes)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"evidence": "all"}, "evidence is 'all'; it is one of 'both', 'dreams', 'windows'"),
        ({"evidence": "windows"}, "there are no examples. Give examples="),
        ({"count": 0}, "count is 0; it is a whole number of at least 1"),
        ({"scores": "vibes"}, "scores has 'vibes'; there are 'detection', 'fuzzing', 'simulation'"),
        ({"timeout": -1}, "timeout is -1; it is a number of seconds"),
        ({"llm": 7}, "llm is 7; it is a function that takes a prompt"),
        ({"llm_model": "x"}, "llm= has no address"),
        ({"llm": len, "llm_model": "x"}, "llm_model belongs to an address"),
        ({"llm": "localhost:1"}, "it is an address of HTTP"),
        ({"llm": "http://localhost:1"}, "needs the name of a model: llm_model="),
    ],
)
def test_settings_that_cannot_be(run, settings, sentence):
    with pytest.raises(SettingsError, match=sentence):
        dl.explain(run, **settings)


# Prediction.


def test_the_area_under_the_curve_counts_pairs():
    random = np.random.default_rng(0)
    active, inactive = random.integers(0, 5, 30).astype(float), random.integers(0, 4, 40).astype(float)
    pairs = [(a > b) + 0.5 * (a == b) for a in active for b in inactive]
    assert auroc(active, inactive) == pytest.approx(np.mean(pairs))
    assert math.isnan(auroc(np.empty(0), inactive))


def test_similarities_agree_with_plain_cosines():
    random = np.random.default_rng(1)
    texts = random.integers(0, 6, (12, 5))
    known, windows = texts[:3], texts[3:]
    table = random.normal(size=(6, 4))
    weights = 0.5 ** (np.arange(5)[::-1] / 2)
    np.testing.assert_allclose(token_weights(5), weights)
    means = ((table - table.mean(0))[texts] * weights[None, :, None]).sum(1)
    units = means / np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(EmbeddingSimilarity(table)(known, windows), (units[3:] @ units[:3].T).max(1))
    # N-grams: a dense vector for each text over all n-grams of all texts.
    grams = sorted({tuple(t[i : i + n]) for t in texts.tolist() for n in (1, 2, 3) for i in range(6 - n)})
    df = {
        g: sum(any(tuple(t[i : i + len(g)]) == g for i in range(6 - len(g))) for t in windows.tolist()) for g in grams
    }

    def dense(t: list[int]) -> np.ndarray:
        found = [
            sum(weights[i + len(g) - 1] for i in range(6 - len(g)) if tuple(t[i : i + len(g)]) == g)
            * math.log((1 + len(windows)) / (1 + df[g]))
            for g in grams
        ]
        return np.array(found) / np.linalg.norm(found)

    vectors = np.stack([dense(t) for t in texts.tolist()])
    ours = GramSimilarity(windows.tolist())(known.tolist(), windows.tolist())
    np.testing.assert_allclose(ours, (vectors[3:] @ vectors[:3].T).max(1), atol=1e-12)


def test_scores_of_answers():
    score = AnswerScore("detection", 3, 4, 1, 10)
    assert score.accuracy == pytest.approx((0.75 + 0.9) / 2) and score.f1 == pytest.approx(6 / 8)
    assert math.isnan(AnswerScore("detection", 0, 0, 0, 0).accuracy)
    assert ShownText("ab", 1.0, ("a", "b"), np.array([np.nan, -1.0])).high() == []
    quoted = ShownText("a «b» c", 1.0, ("a", " «", "b", "»", " c"))
    assert quoted.marked([2]) == "a ‹«b»› c" and quoted.marked([1, 2]) == "a« ‹b»› c"


# The endpoint.


@pytest.fixture
def server():
    """A server on this machine that answers as a chat API does, or otherwise, by the name of the model."""
    seen: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append({**body, "key": self.headers["Authorization"], "path": self.path})
            kind = body["model"]
            status, text = 200, "application/json"
            message = {"role": "assistant", "content": "EXPLANATION: files"}
            answer = json.dumps({"id": "1", "object": "chat.completion", "choices": [{"index": 0, "message": message}]})
            if kind == "refuses":
                status, answer = 401, json.dumps({"error": {"message": "bad key"}})
            elif kind == "html":
                answer, text = "<html>hello</html>", "text/html"
            elif kind == "empty":
                answer = json.dumps({"id": "1", "object": "chat.completion", "choices": []})
            elif kind == "slow":
                time.sleep(2)
            self.send_response(status)
            self.send_header("Content-Type", text)
            self.end_headers()
            self.wfile.write(answer.encode())

        def log_message(self, *_: Any) -> None:
            pass

    httpd = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}/v1", seen
    httpd.shutdown()


def test_an_endpoint_is_sent_the_prompt_and_nothing_else(run, server, monkeypatch):
    pytest.importorskip("openai", reason="the library openai is not installed")
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    url, seen = server
    told = dl.explain(run, llm=url, llm_model="tiny", scores=())
    assert told.text == "files" and told.llm == f"tiny at {url}" and "secret" not in json.dumps(told.to_dict())
    (request,) = seen
    assert request["path"] == "/v1/chat/completions" and request["key"] == "Bearer secret"
    assert request["messages"] == [{"role": "user", "content": told.prompt}]
    assert set(request) <= {"messages", "model", "temperature", "key", "path"}


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("refuses", "refused: .*bad key.* Give its key: OPENAI_API_KEY or api_key="),
        ("html", "returned a page of HTML"),
        ("empty", "gave a reply without a text"),
        ("slow", r"did not answer in 0\.3 s\. Raise timeout="),
    ],
)
def test_what_an_endpoint_may_answer_instead(run, server, kind, sentence):
    pytest.importorskip("openai", reason="the library openai is not installed")
    endpoint = ChatEndpoint(server[0], kind, timeout=0.3 if kind == "slow" else 30.0, retries=0)
    with pytest.raises(LLMError, match=sentence):
        dl.explain(run, llm=endpoint)


def test_an_address_where_nobody_is(run):
    pytest.importorskip("openai", reason="the library openai is not installed")
    with pytest.raises(LLMError, match=r"http://127\.0\.0\.1:9/v1 cannot be reached"):
        dl.explain(run, llm=ChatEndpoint("http://127.0.0.1:9/v1", "x", retries=0, timeout=20))


def test_the_library_for_endpoints_is_optional(run, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(LLMError, match=r'pip install "dreamy-lens\[llm\]"'):
        dl.explain(run, llm="http://127.0.0.1:9/v1", llm_model="x")


def test_the_command_line_explains_a_saved_run(run, examples, tmp_path, capsys):
    run.save(tmp_path / "run")
    examples.save(tmp_path / "scan")
    call = ["explain", str(tmp_path / "run"), "--examples", str(tmp_path / "scan"), "--quiet"]
    assert main([*call, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["kind"] == "Explanation" and document["text"] == "" and len(document["table"]) == 6
    assert main([*call, "--prompt"]) == 0
    assert capsys.readouterr().out.startswith("You study one internal feature")
    assert main([*call, "--html", str(tmp_path / "page.html")]) == 0
    assert "in words" in (tmp_path / "page.html").read_text()
    assert main([*call, "--llm", "nowhere"]) != 0
    assert "it is an address of HTTP" in capsys.readouterr().err
