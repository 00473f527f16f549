"""Comparisons of dreams with a corpus: what is compared, what is refused, and how it is shown."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dreamy_lens as dl
from dreamy_lens.api.compare import compare
from dreamy_lens.comparison import Comparison, NgramIndex, comparison_figure, edit_distances, index_corpus
from dreamy_lens.comparison.page import CELL_LIMIT
from dreamy_lens.errors import ExamplesError, SettingsError
from dreamy_lens.html.escaping import visible
from dreamy_lens.results import Frontier, Prompt, SavedRun, merge
from dreamy_lens.scan import Examples
from tests.helpers.brute_scan import brute_scan
from tests.helpers.dreams import dream
from tests.helpers.fakes import HOSTILE, ORIGIN, Pieces, Reader, frontier_of
from tests.helpers.models import new_bridge
from tests.helpers.scans import FEATURE, scanned

TEXTS = [
    "The dog runs over the hill and the cat sleeps in the house. " * 2,
    "She said that the big red house was her own.",
]
VALUE, COST = [3.9, 2.0, 5.0, 1.0], [3.4, 2.5, 6.0, 3.0]


def saved(*points: tuple[float, float], **origin: Any) -> SavedRun:
    """Return a saved run with a frontier of these (value, cross-entropy) pairs."""
    return SavedRun(dataclasses.replace(ORIGIN, feature=FEATURE, **origin), frontier_of(*points))


def hostile_run(n: int = 6) -> SavedRun:
    """Return a saved run whose tokens are markup, control characters and other hostile text."""
    ids = [tuple((7 * i + j) % len(HOSTILE) for j in range(5)) for i in range(n)]
    origin = dataclasses.replace(ORIGIN, feature=FEATURE)
    prompts = [Prompt.decode(p, 1.0 + i, 3.0 + i, Pieces(HOSTILE), origin) for i, p in enumerate(ids)]
    return SavedRun(origin, Frontier(prompts))


def said(page: str) -> str:
    """Return the text of a page, without its markup."""
    return "".join(Reader(page).said)


def hostile() -> Comparison:
    """Return a comparison in which all tokens of dreams and windows are hostile text."""
    n = len(HOSTILE)
    examples = scanned(np.arange(n) / 5, np.linspace(2, 6, n), k=8, length=3, pieces=HOSTILE)
    return compare(hostile_run(), examples)


@pytest.fixture(scope="module")
def real(gpt2: Any) -> Comparison:
    """Return a comparison of two seeds of a tiny model with two texts, with all values known."""
    runs = [dream(gpt2.bridge, seed=seed) for seed in (0, 1)]
    tables = brute_scan(["L1.N3", "L1.N4"], gpt2.bridge, TEXTS, k=8, length=5, stride=2)
    from dreamy_lens.models import as_hooked

    return compare(runs, Examples(tables, as_hooked(gpt2.bridge).vocabulary), corpus=TEXTS)


# What is compared.


def test_several_runs_are_one_frontier_and_every_number_is_theirs(real: Comparison, gpt2: Any):
    assert real.seeds == (0, 1) and {p.provenance.seed for p in real.frontier} <= {0, 1}
    assert real.evaluated and len(real.overlaps) == len(real.beyond) == len(real.frontier)
    for statement in real.statements:
        below = [p.value for p in real.frontier if p.cross_entropy < statement.limit]
        assert (statement.dream.value if statement.dream else None) == (max(below) if below else None)
    for prompt, beyond in zip(real.frontier, real.beyond, strict=True):
        assert beyond == all(
            w.value < prompt.value for w in real.corpus_frontier.scored if w.cross_entropy <= prompt.cross_entropy
        )  # type: ignore[operator]


def test_values_at_every_token_are_those_of_prompts_that_end_there(real: Comparison, gpt2: Any):
    shown = [*real.frontier, *(w for _, windows in real.quantiles for w in windows if w.values is None)]
    assert shown and {p.ids for p in shown} == set(real.series)
    for one in shown[:6]:
        ends = [
            float(dl.score("L1.N3", np.array(one.ids[:end]), gpt2.bridge).value[0]) for end in range(1, len(one) + 1)
        ]
        np.testing.assert_allclose(real.series[one.ids], ends, atol=1e-5)
        assert real.series[one.ids][-1] == pytest.approx(one.value, abs=1e-4)


def test_both_areas_have_one_reference(real: Comparison):
    value, cost = real.reference  # type: ignore[misc]
    points = [(p.value, p.cross_entropy) for p in (*real.frontier, *real.windows)]
    assert value == min(v for v, _ in points) and cost == max(c for _, c in points if c is not None)
    areas = real.hypervolume()
    assert areas[0] == real.frontier.hypervolume((value, cost)) and areas[1] > 0
    assert real.hypervolume((value - 1, cost))[0] > areas[0]


def test_the_table_has_dreams_and_windows_with_where_they_are_from(real: Comparison):
    frame = real.to_pandas()
    assert frame["side"].unique().tolist() == [
        "dream",
        "top",
        "fluent",
        *(f"quantile {q:g}" for q, _ in real.quantiles),
    ]
    dreams = frame[frame["side"] == "dream"]
    assert dreams["value"].tolist() == real.frontier.values.tolist() and dreams["beyond"].tolist() == list(real.beyond)
    assert dreams["shared_tokens"].tolist() == [o.longest.length for o in real.overlaps]
    assert frame[frame["side"] == "top"]["document"].str.startswith("text").all()


def test_the_summary_is_sentences_and_a_notebook_and_a_terminal_show_it(real: Comparison):
    assert real.sentence in real.summary.split("\n") and str(real).endswith(real.summary)
    assert "Hypervolume, the area under the frontier above value" in real.summary and "tokens in a row" in real.summary
    assert repr(real).startswith("Comparison(") and "against" in repr(real)


def test_limits_may_be_chosen():
    examples, run = scanned(VALUE, COST), saved((5.2, 3.5), (6.0, 8.0))
    found = compare(run, examples, limits=[4, math.inf])
    assert [s.limit for s in found.statements] == [4, math.inf]
    assert (
        found.sentence
        == "Among prompts with cross-entropy below 4, the best dream scores 5.20; the best of 16 corpus tokens scores "
        "3.90 (+1.30)."
    )
    assert found.statements[0].difference == pytest.approx(1.3)
    assert compare(run, examples, limits=3.5).sentence.startswith("No dream has a cross-entropy below 3.5")
    for wrong in (math.nan, -1, "4 nats", []):
        with pytest.raises(SettingsError, match="limits are cross-entropies in nats per token, such as 4"):
            compare(run, examples, limits=wrong)
    with pytest.raises(SettingsError, match="A quantile is a share from 0 to 1"):
        compare(run, examples, quantiles=[99])


def test_a_comparison_takes_merged_runs_and_folders_of_examples(tmp_path: Path):
    examples = scanned(VALUE, COST)
    examples.save(tmp_path / "x")
    loaded = Examples(Examples.load(tmp_path / "x").tables, examples.reader)
    runs = [saved((5.2, 3.5)), saved((6.0, 3.2), seed=4)]
    found = [compare(r, e) for r in (runs, merge(runs), tuple(runs)) for e in (examples, loaded, examples[0])]
    assert {f.summary for f in found} == {found[0].summary} and len(found[0].frontier) == 1
    assert found[0].seeds == (3, 4)


# What is refused.


@pytest.mark.parametrize(
    ("origin", "header", "says"),
    [
        ({"model": "other"}, {}, "The dreams are of 'other' and the examples of 'docstrings'.* Scan 'other'"),
        ({"prepend_bos": False}, {}, "scored without a BOS before them and the windows with one.*prepend_bos=False"),
        ({"feature": "blocks.2.mlp.hook_post[-1, 18]"}, {}, r"-1, 18\] is not among the 1 features.*nearest: .*17"),
    ],
)
def test_what_does_not_compare_is_refused_with_what_to_do(origin: dict, header: dict, says: str):
    run = SavedRun(dataclasses.replace(ORIGIN, **{"feature": FEATURE, **origin}), frontier_of((1, 2)))
    with pytest.raises(ExamplesError, match=says):
        compare(run, scanned(VALUE, COST, **header))


def test_examples_of_another_feature_are_refused_when_given_alone():
    examples = scanned(VALUE, COST, labels=["blocks.2.mlp.hook_post[-1, 18]"])[0]
    with pytest.raises(ExamplesError, match=r"dreams are of L2\.N17 and the examples of L2\.N18; give the examples of"):
        compare(saved((1, 2)), examples)


def test_runs_of_several_features_are_refused(gpt2: Any):
    runs = dream(gpt2.bridge, ["L1.N3", "L1.N4"], iterations=1)
    with pytest.raises(SettingsError, match=r"of 2 features.*compare\(runs.of\(feature\), examples\)"):
        compare(runs, scanned(VALUE, COST))
    with pytest.raises(SettingsError, match="There are no runs to merge"):
        compare([], scanned(VALUE, COST))
    with pytest.raises(SettingsError, match="compare\\(\\) takes one run or several"):
        compare(7, scanned(VALUE, COST))


def test_the_same_name_of_another_model_or_tokenizer_is_found_out(gpt2: Any):
    run = dream(gpt2.bridge, iterations=1)
    tables = brute_scan(["L1.N3"], gpt2.bridge, TEXTS, k=8, length=5)
    kept = tables.kept.to_pydict()
    kept["value"] = [v + 3 for v in kept["value"]]
    from dreamy_lens.models import as_hooked
    from dreamy_lens.scan import Tables

    reader = as_hooked(gpt2.bridge).vocabulary
    parts = {"features": tables.features, "windows": tables.windows}
    with pytest.raises(
        ExamplesError, match=r"another model or another feature of the same name: a window whose value is"
    ):
        compare(run, Examples(Tables(tables.header, **parts, kept=kept), reader))
    other = Tables({**tables.header, "tokenizer": "0"}, **parts, kept=tables.kept)
    with pytest.raises(ExamplesError, match=r"with different tokenizers \(.* and 0\)"):
        compare(run, Examples(other, reader))
    assert compare(run, Examples(tables, reader), values=False).series == {}


def test_cross_entropy_of_another_model_is_refused(gpt2: Any):
    run = dream(gpt2.bridge, iterations=1, fluency_model=new_bridge("gpt2", gpt2.raw))
    tables = brute_scan(["L1.N3"], gpt2.bridge, TEXTS, k=8, length=5)
    with pytest.raises(ExamplesError, match=r"is that of the fluency model .* Dream without fluency_model"):
        compare(run, Examples(tables))


def test_windows_and_dreams_of_one_fluency_model_compare(gpt2: Any, llama: Any, neox: Any):
    one, other = llama.bridge, neox.bridge
    named = [bridge.cfg.model_name for bridge in (one, other)]
    settings: dict[str, Any] = {"k": 8, "length": 5, "cache": False, "progress": False}
    plain, scans = (
        dl.max_activating("L1.N3", gpt2.bridge, TEXTS, **settings),
        dl.max_activating("L1.N3", gpt2.bridge, TEXTS, fluency_model=one, **settings),
    )
    own, run = dream(gpt2.bridge, iterations=1), dream(gpt2.bridge, iterations=1, fluency_model=one)
    found = compare(run, scans)
    assert not found.warnings and found.to_html() and found.series
    with pytest.raises(ExamplesError, match=f"dreams' .* of {own.provenance.model!r} itself, .* model {named[0]!r}"):
        compare(own, scans)
    with pytest.raises(ExamplesError, match=f"fluency model {named[0]!r}, and the windows' is of .* itself"):
        compare(run, plain)
    from dreamy_lens.scan import Tables

    def of(**header: Any) -> Examples:
        return Examples(Tables({**scans.header, **header}, **scans.tables.parts), scans.reader)

    with pytest.raises(ExamplesError, match=f"that of the fluency model {named[1]!r}.* with the same fluency_model"):
        compare(run, of(fluency_model=named[1]))
    # A model is checked by more than its name: the strongest windows are scored again.
    third = dream(gpt2.bridge, iterations=1, fluency_model=other)
    with pytest.raises(ExamplesError, match=f"another fluency model of the same name, {named[1]!r}"):
        compare(third, of(fluency_model=named[1]))
    lost = SavedRun(run.provenance, run.frontier)
    assert "which does not say which model their cross-entropy is from" in compare(lost, scans).summary
    assert not compare(lost, plain).warnings


def test_values_that_are_no_numbers_are_not_drawn():
    rng, n = np.random.default_rng(0), 60
    value, cost = rng.normal(1, 1, n), rng.uniform(2, 6, n)
    for finite in (rng.random(n) < 0.4, np.zeros(n, bool)):
        found = compare(saved((5.2, 3.5)), scanned(value, cost, finite=finite, sample=range(n)))
        assert np.isfinite(found.cloud).all() and len(found.cloud) == finite.sum()
        page = found.to_html()
        assert not re.search(r"[ MVH\"]nan", page) and found._repr_html_() and found.figure().data
    cost[3] = np.inf
    value[3] = 99.0
    found = compare(saved((5.2, 3.5)), scanned(value, cost, k=5, measured=False))
    assert found.figure().data and not re.search(r'="[^"]*(?<![a-z])(inf|nan)(?![a-z])[^"]*"', found.to_html())


def test_what_is_no_run_and_what_are_no_examples_is_said():
    examples = scanned(VALUE, COST)
    for wrong in (5, None, [1, 2]):
        with pytest.raises(ExamplesError, match=r"Examples are the result of max_activating\(\), or a folder"):
            compare(saved((5.2, 3.5)), wrong)
    for wrong in (examples, "a folder", [examples]):
        with pytest.raises(SettingsError, match=r"compare\(\) takes one run or several, and then examples; got"):
            compare(wrong, examples)


def test_a_scan_that_was_stopped_is_said():
    found = compare(saved((5.2, 3.5)), scanned(VALUE, COST, complete=False))
    text = "The scan was stopped after 16 tokens, so the windows are of a part of a library only."
    assert text in found.warnings and text in found.summary and text in said(found.to_html())
    assert not any("stopped" in w for w in compare(saved((5.2, 3.5)), scanned(VALUE, COST, complete=True)).warnings)


def test_the_area_under_windows_is_a_bound_unless_all_are_kept():
    run = saved((5.2, 3.5))
    assert re.search(r"windows at least [\d.]+\.$", compare(run, scanned(VALUE, COST, k=1)).findings[1])
    assert re.search(r"windows [\d.]+\.$", compare(run, scanned(VALUE, COST, k=4)).findings[1])
    assert "(of the 1 kept window)" in compare(run, scanned(VALUE, COST, k=1, measured=False)).findings[1]


def test_colours_are_explained_where_there_are_any(real: Comparison):
    ramp, how = "value if the prompt ended at the token", "compare(..., values=True)"
    page = said(real.to_html())
    assert ramp in page and how not in page
    windows = said(compare(saved((5.2, 3.5)), scanned(VALUE, COST)).to_html())
    assert "Windows only:" in windows and how in windows
    bare = compare(saved((5.2, 3.5)), scanned([], []))
    assert ramp not in said(bare.to_html()) and how in said(bare.to_html()) and 'dl-switch"' not in bare.to_html()


def test_what_a_reader_must_know_is_said():
    run = saved((5.2, 3.5), prefix=(1,))
    shards = [{"name": f"part-{i}", "why": "gone"} for i in range(5)]
    found = compare(run, scanned(VALUE, COST, failed_shards=shards))
    assert [w.split(" ")[0] for w in found.warnings] == ["The", "The", "5"]
    assert "The dreams have 2 tokens and the windows 4" in found.summary
    assert "stand in a template" in found.summary and "(part-0, part-1, part-2, …)" in found.summary
    assert all(w in said(found.to_html()) for w in ("stand in a template", "could not be scanned"))


# How far the text is from the data.


@settings(max_examples=60)
@given(
    prompts=st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=7), min_size=1, max_size=4),
    sections=st.lists(st.lists(st.integers(0, 6), max_size=12), max_size=6),
)
def test_the_longest_run_of_tokens_in_a_text_is_exact(prompts, sections):
    grams = NgramIndex(prompts)
    for i in range(0, len(sections), 2):
        grams.feed([np.array(s, dtype=np.int64) for s in sections[i : i + 2]], [f"d{j}" for j in range(i, i + 2)])

    def places(run: list[int]) -> list[int]:
        n = len(run)
        return [d for d, s in enumerate(sections) for j in range(len(s) - n + 1) if s[j : j + n] == run]

    for p, ids in enumerate(prompts):
        runs = [(n, i) for n in range(len(ids), 0, -1) for i in range(len(ids) - n + 1) if places(ids[i : i + n])]
        shared = grams.shared(p, str)
        if not runs:
            assert (
                grams.longest(p) == (0, 0) and shared.share == 0 and str(shared) == "none of its tokens appears there"
            )
            continue
        longest, start = runs[0]
        found = places(ids[start : start + longest])
        assert grams.longest(p) == (start, longest) and shared.places == len(found)
        assert shared.document == f"d{found[0]}" and shared.text == str(ids[start : start + longest])


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 3), max_size=6), st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=1)
)
def test_distances_are_edits_of_tokens(ids, rows):
    def distance(a: list[int], b: list[int]) -> int:
        if not a or not b:
            return len(a) + len(b)
        return min(distance(a[1:], b) + 1, distance(a, b[1:]) + 1, distance(a[1:], b[1:]) + (a[0] != b[0]))

    assert edit_distances(ids, np.array(rows)).tolist() == [distance(ids, row) for row in rows]


def test_a_dream_that_stands_in_the_corpus_is_told_apart(gpt2: Any):
    from dreamy_lens.models import as_hooked

    vocabulary = as_hooked(gpt2.bridge).vocabulary
    ids = vocabulary.encode("the cat sleeps in the house")
    grams = index_corpus([ids, [1, 2]], dl.corpus.open(["nothing", *TEXTS, "a \ud800 half"]), vocabulary)
    shared = grams.shared(0, vocabulary.text)
    assert shared.start == 2 and shared.length == len(ids) - 2  # the text has a space before it
    assert shared.document == "text 1" and (shared.places or 0) >= 2 and shared.text in TEXTS[0]
    assert shared.text in shared.around and len(shared.around) > len(shared.text)


def test_runs_across_the_cuts_of_a_long_document_are_found_and_counted_once(gpt2: Any, monkeypatch: pytest.MonkeyPatch):
    from dreamy_lens.corpus import sections
    from dreamy_lens.models import as_hooked

    monkeypatch.setattr(sections, "SECTION", 40)
    vocabulary = as_hooked(gpt2.bridge).vocabulary
    text = " ".join(TEXTS) * 3
    corpus = dl.corpus.open([text, "and more"])
    pieces = [s.text for block in corpus.blocks(0) for s in block.sections]
    assert len(pieces) > 6 and "".join(pieces[:-1]) == text
    whole = [i for piece in pieces[:-1] for i in vocabulary.encode(piece)]
    prompts = [whole[start : start + 9] for start in range(0, len(whole) - 9, 5)]
    grams = index_corpus(prompts, corpus, vocabulary, progress=False)
    for p, ids in enumerate(prompts):
        found = sum(whole[i : i + 9] == ids for i in range(len(whole) - 8))
        assert grams.longest(p) == (0, 9) and grams.shared(p, vocabulary.text).places == found
        single = int(grams._grams[1][p][0])
        assert grams._count[1][single] == (whole + vocabulary.encode("and more")).count(ids[0])


def test_a_corpus_that_is_not_the_one_that_was_scanned_is_said(gpt2: Any):
    from dreamy_lens.models import as_hooked

    run = dream(gpt2.bridge, iterations=1)
    tables = brute_scan(["L1.N3"], gpt2.bridge, TEXTS, k=8, length=5)
    found = compare(run, Examples(tables, as_hooked(gpt2.bridge).vocabulary), corpus=["other text"])
    assert "text, 1 text, is not the scanned corpus, 2 texts." in found.summary
    assert all(o.corpus is not None for o in found.overlaps)


def test_a_dream_made_of_a_window_is_remembered(real: Comparison):
    window = real.top[0]
    prompt = Prompt(window.ids, window.tokens, window.text, 9.0, 9.0, True, real.frontier[0].provenance)
    examples = scanned(VALUE, COST, k=4, length=4)
    kept = examples[0].top[0]
    run = SavedRun(
        dataclasses.replace(ORIGIN, feature=FEATURE),
        Frontier([dataclasses.replace(prompt, ids=kept.ids, tokens=kept.tokens, text=kept.text)]),
    )
    found = compare(run, examples)
    assert found.overlaps[0].nearest.distance == 0 and found.overlaps[0].longest.share == 1  # type: ignore[union-attr]
    assert "1 dream may be partly memorized: of dream 1, 4 of 4 tokens in a row appear in" in found.summary


# How it is shown.


def test_the_figure_has_both_and_the_region_nobody_reaches(real: Comparison):
    figure = real.figure()
    names = [trace.name for trace in figure.data]
    assert names[-1] == "dreams" and "8 strongest windows" in names and any("at random" in str(n) for n in names)
    area, dreams = figure.data[0], figure.data[-1]
    assert (
        area.fill == "toself"
        and area.fillpattern.shape == "/"
        and "Beyond the corpus (" in figure.layout.annotations[0].text
    )
    assert list(dreams.y) == real.frontier.values.tolist() and dreams.marker.symbol != figure.data[-2].marker.symbol
    assert comparison_figure(real, dark=True).layout.paper_bgcolor != figure.layout.paper_bgcolor
    assert len(real.figure(cloud=False).data) == len(figure.data) - 1
    assert comparison_figure(compare(saved(), scanned([], []))).data


def test_the_page_is_self_contained_and_every_point_leads_to_its_card(real: Comparison, tmp_path: Path):
    page = real.to_html(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page
    read = Reader(page)
    assert real.sentence in said(page) and "default-src 'none'" in page
    assert not any(part in page.replace("http-equiv", "") for part in ("http:", "https:", "url(//", "@import"))
    links, ids = set(re.findall(r'<a href="#([^"]+)"', page)), re.findall(r' id="([^"]+)"', page)
    assert links and links <= set(ids) and len(ids) == len(set(ids))
    assert page.count('type="radio"') == 4 and read.tags.count("script") == 1


def test_a_notebook_cell_is_light_and_reads_without_scripts_and_styles(real: Comparison):
    cell = real._repr_html_()
    still = cell.partition("<script")[0]
    read = Reader(still)
    assert len(cell) <= CELL_LIMIT and cell.isascii()
    assert set(read.tags) <= {"div", "span", "ul", "li", "b", "details", "summary"}
    assert read.attributes <= {"data-dreamy", "style", "title", "open"} and real.sentence in said(still)
    assert all(visible(token, token=True) in said(still) for token in real.frontier[-1].tokens)


def test_no_token_becomes_markup():
    found = hostile()
    for page in (found.to_html(), found._repr_html_()):
        read = Reader(page.replace("<!DOCTYPE html>", ""))
        assert not {"img", "iframe"} & set(read.tags) and read.tags.count("script") == 1
        assert not any(name.startswith("on") for name in read.attributes) and "alert(1)" in said(page)
        page.encode("utf-8")
    json.loads(comparison_figure(found).to_json())


def test_nothing_is_compared_with_an_empty_corpus_or_an_empty_frontier():
    empty = compare(saved((1, 2)), scanned([], []))
    assert "no window of 0 corpus tokens was kept" in empty.summary and empty.hypervolume()[1] == 0
    none = compare(saved(), scanned(VALUE, COST))
    assert "No dream has finite scores." in none.summary
    for found in (empty, none, compare(saved(), scanned([], []))):
        assert found.to_html() and found._repr_html_() and len(found.to_pandas()) >= 0


def test_a_comparison_is_plain_data_that_can_be_sent_elsewhere(real: Comparison):
    again = pickle.loads(pickle.dumps(real))
    assert again.summary == real.summary and again.to_html() == real.to_html()
