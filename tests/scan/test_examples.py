"""Test the examples of a scan: they are looked up, decoded, shown and saved."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dreamy_lens as dl
from dreamy_lens.errors import ExamplesError, FeatureError, SettingsError
from dreamy_lens.scan import Examples, Histogram
from tests.helpers.brute_scan import brute_scan, cut_windows
from tests.helpers.fakes import HOSTILE, Reader
from tests.helpers.models import raw_model, tokenizer
from tests.helpers.scans import one, scanned

TEXTS = [
    "The dog runs over the hill and the cat sleeps in the house. " * 2,
    "She said that the big red house was her own.",
]


@pytest.fixture(scope="module")
def found(gpt2: Any) -> Examples:
    """Examples of two features of a tiny model on every second window of two texts."""
    from dreamy_lens.models import as_hooked

    tables = brute_scan(["L1.N3", dl.logit(" dog")], gpt2.bridge, TEXTS, k=5, length=6, stride=2)
    return Examples(tables, as_hooked(gpt2.bridge).vocabulary)


def test_a_feature_is_found_by_expression_text_and_number(found: Examples):
    assert list(found) == ["blocks.1.mlp.hook_post[-1, 3]", 'logit(" dog")'] and len(found) == 2
    for key in ("L1.N3", dl.neuron(1, 3), "blocks.1.mlp.hook_post[-1, 3]", 0, -2, np.int64(0)):
        assert found[key].label == found.of(key).label == "blocks.1.mlp.hook_post[-1, 3]"
    assert "L1.N3" in found and "L1.N4" not in found and "nonsense(" not in found
    assert found[1].feature == dl.logit(" dog")
    with pytest.raises(
        ExamplesError, match=r"blocks.1.mlp.hook_post\[-1, 4\] is not among the 2 features.*nearest: .*3\]"
    ):
        found["L1.N4"]
    with pytest.raises(ExamplesError, match="There are 2 features here, numbered from 0; there is no number 2"):
        found[2]
    with pytest.raises(FeatureError):
        found["nonsense("]


def test_the_strongest_windows_have_their_scores_text_and_surroundings(found: Examples, gpt2: Any):
    for feature in found:
        examples = found[feature]
        scores = dl.score(feature, np.array([w.ids for w in examples.top]), gpt2.bridge)
        np.testing.assert_allclose([w.value for w in examples.top], scores.value, rtol=1e-5)
        np.testing.assert_allclose([w.cross_entropy for w in examples.top], scores.cross_entropy, rtol=1e-4)
        assert [w.value for w in examples.top] == sorted((w.value for w in examples.top), reverse=True)
        for window in examples.top:
            text = TEXTS[int(window.document.split()[1])]
            assert text[window.character :].startswith(window.text) and "".join(window.tokens) == window.text
            assert text[: window.character].endswith(window.before)
            assert text[window.character + len(window.text) :].startswith(window.after)
            assert window.values is not None and window.values[-1] == pytest.approx(window.value, rel=1e-4)
            assert window.perplexity == pytest.approx(math.exp(window.cross_entropy or 0))


def test_fluent_windows_are_the_frontier_to_a_quarter_of_a_nat(found: Examples, gpt2: Any):
    ids = np.array([w["ids"] for w in cut_windows(gpt2.bridge, TEXTS, 6, 2)])
    scores = dl.score("L1.N3", ids, gpt2.bridge)
    bins = np.floor(scores.cross_entropy / 0.25).astype(int)
    best = {b: scores.value[bins == b].max() for b in np.unique(bins)}
    assert [w.value for w in found[0].fluent] == pytest.approx([best[b] for b in sorted(best)], rel=1e-5)
    frontier = found[0].frontier
    assert [w.value for w in frontier] == sorted(w.value for w in frontier)
    assert frontier[-1].value == found[0].top[0].value and len({w.number for w in frontier}) == len(frontier)
    assert found[0].to_pandas().groupby("kind").size().to_dict() == {"fluent": len(best), "top": 5}


def test_windows_near_a_quantile_come_from_the_sample_and_the_strongest():
    value = np.linspace(0, 10, 401)
    examples = one(value, np.full(401, 3.0), k=8)
    for q in (0.5, 0.9, 0.25):
        near = examples.quantile(q, 3)
        assert len(near) == 3 and all(abs(w.value - 10 * q) < 1.1 for w in near)
        assert [w.value for w in near] == sorted((w.value for w in near), reverse=True)
    assert examples.quantile(1.0, 2) == examples.top[:2]
    assert len(examples.quantile(0.5, 1000)) == len({w.number for w in (*examples.sampled, *examples.top)})
    with pytest.raises(SettingsError, match=r"share from 0 to 1, such as 0.99; got 99"):
        examples.quantile(99)


@pytest.mark.parametrize("seed", range(4))
def test_a_histogram_says_what_it_knows(seed: int):
    values = np.random.default_rng(seed).normal(seed, 2, 1000)
    width, low = 0.25, math.floor(values.min() / 0.25)
    histogram = Histogram(width, low, np.bincount(np.floor(values / width).astype(int) - low))
    for value in (-20.0, -0.25, 0.0, 0.1, 1.7, 2.5, 20.0):
        least, most = histogram.above(value)
        assert least <= (values >= value).sum() <= most and (least == most or value % width)
    for rank in (0, 1, 500, 998, 999):
        begins, ends, below, count = histogram.bin_of(rank)
        assert begins <= np.sort(values)[rank] < ends and below <= rank < below + count
        assert count == ((values >= begins) & (values < ends)).sum()
    assert histogram.total == 1000


def test_the_last_fluent_step_has_no_end():
    examples = one([5.0, 4.0, 1.0], [20.0, 16.0, 3.0], k=1)
    assert examples.fluent_levels == (12, 63) and "15.75 nats and up" in examples.to_html()


def test_values_that_are_no_numbers_are_in_no_quantile():
    value, rng = np.arange(200.0), np.random.default_rng(0)
    finite = rng.random(200) < 0.3
    examples = one(value, np.full(200, 3.0), finite=finite, sample=range(0, 200, 2))
    assert np.isnan(examples.sample[0]).any() and examples.non_finite == (~finite).sum()
    for q in (0.0, 0.5, 0.9, 1.0):
        assert all(math.isfinite(w.value) for w in examples.quantile(q)) and math.isfinite(examples.quantile_value(q))
    assert examples.to_html()
    none = one(value, np.full(200, 3.0), finite=np.zeros(200, bool))
    assert none.quantile(0.5) == () and math.isnan(none.quantile_value(0.5)) and none.to_html()


def test_a_scan_that_was_stopped_says_so():
    examples = scanned([1.0, 2.0], [3.0, 3.0], complete=False)
    assert "part of a library (stopped after 8 tokens)" in repr(examples)
    assert "part of a library (stopped after 8 tokens)" in repr(examples[0])
    said = "The scan was stopped after 8 tokens, so the windows are of a part of a library only."
    assert said in examples[0].to_html() and said in examples[0]._repr_html_() and "stopped" in examples._repr_html_()
    for whole in (scanned([1.0], [3.0]), scanned([1.0], [3.0], complete=True)):
        assert "part of" not in repr(whole) + repr(whole[0]) + whole[0].to_html()


def test_examples_are_saved_and_opened_without_the_model(
    found: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    place = found.save(tmp_path / "x")
    with pytest.raises(ExamplesError, match=r"holds examples already; choose another name, or pass overwrite=True"):
        found.save(place)
    found.save(place, overwrite=True)
    monkeypatch.setattr("dreamy_lens.models.load.as_hooked", None)
    again = Examples.load(place)
    assert list(again) == list(found) and again.tables.parts["kept"].is_file
    for i in range(2):
        assert again[i].top == found[i].top and again[i].fluent == found[i].fluent
        assert again[i].sampled == found[i].sampled and again[i].quantile(0.5) == found[i].quantile(0.5)
    assert again.save(place) == place  # where it is already
    again.save(tmp_path / "y")
    assert Examples.load(tmp_path / "y")[0].top == found[0].top
    (tmp_path / "z").mkdir()
    (tmp_path / "z" / "mine.txt").write_text("mine")
    (tmp_path / "f").write_text("mine")
    for name, says in (("z", "has no examples in it; choose another name"), ("f", "is a file; examples are a folder")):
        with pytest.raises(ExamplesError, match=says):
            found.save(tmp_path / name)


def test_examples_without_their_tokens_are_read_with_the_model(found: Examples, tmp_path: Path, gpt2: Any):
    Examples(found.tables).save(tmp_path / "x")
    assert Examples.load(tmp_path / "x", gpt2.bridge)[0].top == found[0].top


def test_a_corpus_with_nothing_in_it_has_examples_too():
    empty = one([], [])
    assert len(empty) == 0 and empty.frontier == () == empty.quantile(0.5) and "0 windows" in repr(empty)
    assert "No window had a finite value" in empty.to_html()


def test_examples_say_what_they_are_of(found: Examples):
    assert repr(found) == f"Examples(2 features of {found.model} in {found.counts['tokens']} tokens of 2 texts)"
    assert repr(found[0]).startswith("FeatureExamples(L1.N3, the strongest 5 of 18 windows of 2 texts")
    frame = found.to_pandas()
    assert frame["label"].tolist() == list(found) and (frame["maximum"] >= frame["mean"]).all()
    assert "blocks.1.mlp.hook_post" in found._repr_html_() and found.prepend_bos and found.problems == []


def test_a_million_features_would_open_as_fast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    labels = [f"blocks.0.mlp.hook_post[-1, {i}]" for i in range(3000)]
    scanned([1.0, 2.0], [3.0, 3.0], labels=labels).save(tmp_path / "x")
    pq = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(pq.ParquetFile, "read", None)  # no table is read whole
    examples = Examples.load(tmp_path / "x")
    assert len(examples) == 3000 and examples[2500].windows == 2


def test_no_token_and_no_document_becomes_markup():
    n = len(HOSTILE)
    examples = one(np.arange(n) + 1.0, np.full(n, 3.0), k=n, length=3, pieces=HOSTILE)
    rows = examples._tables.parts["windows"].source.to_pydict()
    rows["document"] = [HOSTILE[i % 3] for i in range(len(rows["document"]))]
    from dreamy_lens.scan import Table, Tables, arrow_table

    parts = {**examples._tables.parts, "windows": Table(arrow_table("windows", rows))}
    hostile = Examples(Tables(examples.header, **parts), examples.reader)[0]
    for page in (hostile.to_html(), hostile._repr_html_()):
        read = Reader(page)
        assert not {"script", "img", "iframe"} & set(read.tags) and not any(a.startswith("on") for a in read.attributes)
        assert "alert(1)" in "".join(read.said) and page.encode("utf-8", "strict")


def test_a_page_has_tabs_and_one_scale_and_fetches_nothing(found: Examples, tmp_path: Path):
    page = found[0].to_html(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page
    assert page.count('type="radio"') == 3 and "<script" not in page and "default-src 'none'" in page
    assert page.count("<article") == len(found[0].top) + len(found[0].fluent) + sum(
        len(found[0].quantile(q)) for q in (0.999, 0.99, 0.9, 0.5)
    )
    assert "http" not in page.replace("http-equiv", "")


def test_features_with_paths_are_found_by_absolute_paths_and_in_cards(gpt2: Any, tmp_path: Path, monkeypatch: Any):
    monkeypatch.chdir(tmp_path)
    raw_model("gpt2").save_pretrained("base")
    tokenizer().save_pretrained("base")
    np.save("v.npy", np.ones(gpt2.bridge.cfg.d_model, dtype=np.float32))
    texts = ('blocks.1.hook_resid_post[-1] @ "v.npy"', 'L1.N3 - L1.N3.on("base")')
    examples = dl.max_activating(list(texts), gpt2.bridge, TEXTS, length=6, progress=False)
    for number, text in enumerate(texts):
        for key in (text, dl.parse(text).absolute(), str(dl.parse(text).absolute())):
            assert examples[key].label == examples[number].label
    with pytest.raises(ExamplesError, match="is not among the 2 features"):
        examples[str(dl.parse(texts[0]).absolute()).replace("v.npy", "w.npy")]
    settings = {"iterations": 1, "length": 4, "search": "random", "progress": False}
    card = dl.card(texts[1], gpt2.bridge, TEXTS, scan={"length": 6}, continue_tokens=1, parts=(), **settings)
    assert card.examples.label == examples[1].label
