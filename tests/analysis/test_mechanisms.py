"""Mechanisms: planted ways are found and tested by ablation; the numbers agree with plain arithmetic."""

from __future__ import annotations

import copy
import re
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dreamy_lens as dl
from dreamy_lens.analysis import (
    PromptPool,
    average_linkage,
    find_mechanisms,
    mean_distance,
    nearest_rows,
    self_bleu,
    spread_rows,
)
from dreamy_lens.errors import ExamplesError, FeatureError, RunFolderError, SettingsError
from dreamy_lens.models import as_hooked
from dreamy_lens.results import CellUnit, Frontier, MechanismCell, Mechanisms, Prompt, Provenance, TextDiversity
from dreamy_lens.scoring import Scorer
from dreamy_lens.scoring.sampling import draw_samples
from tests.helpers.models import family, new_bridge

FEATURE = "L1.N5"
STREAM = "blocks.1.hook_resid_post[-1, 3]"


NEURONS = (3, 9)
"""Neurons of layer 0 that the planted neuron reads: each is turned on by tokens of its own."""
TOKENS = (range(40, 52), range(60, 72))


@cache
def planted() -> tuple[Any, Any, tuple[np.ndarray, np.ndarray]]:
    """A GPT-2 whose neuron L1.N5 reads what two neurons of layer 0 write, each of which some tokens turn on.

    Returns:
        The bridge, the plain model, and prompts that end in tokens of the one neuron, and of the other.
    """
    raw = copy.deepcopy(family("gpt2").raw)
    raw.lm_head.weight = torch.nn.Parameter(raw.lm_head.weight.detach().clone())  # its texts stay what they were
    first, second = raw.transformer.h
    axes = torch.linalg.qr(torch.randn(32, 5, generator=torch.Generator().manual_seed(0)))[0]
    axes = torch.linalg.qr(torch.cat([torch.ones(32, 1), axes], 1))[0][:, 1:5].T  # four directions of mean 0
    read, write = axes[:2], axes[2:]

    def without(weight: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
        return weight - (weight @ directions.T) @ directions

    with torch.no_grad():
        for weight in (raw.transformer.wte.weight, raw.transformer.wpe.weight):
            weight.copy_(without(weight, axes))
        for block in (first, second):
            for weight in (block.attn.c_proj.weight, block.attn.c_proj.bias, block.mlp.c_proj.weight):
                weight.copy_(without(weight, axes))
        for k, (neuron, tokens) in enumerate(zip(NEURONS, TOKENS, strict=True)):
            raw.transformer.wte.weight[list(tokens)] += 8 * read[k]
            first.mlp.c_fc.weight[:, neuron] = 4 * read[k] / first.ln_2.weight
            first.mlp.c_fc.bias[neuron] = -6 - float(first.ln_2.bias @ (4 * read[k] / first.ln_2.weight))
            first.mlp.c_proj.weight[neuron] = 2 * write[k]
        reader = 4 * write.sum(0) / second.ln_2.weight
        second.mlp.c_fc.weight[:, 5] = reader
        second.mlp.c_fc.bias[5] = -1 - float(second.ln_2.bias @ reader)
    rng = np.random.default_rng(0)
    groups = []
    for tokens in TOKENS:
        rows = rng.integers(100, 300, size=(8, 5))
        rows[:, -1] = rng.choice(list(tokens), 8)
        groups.append(rows)
    return new_bridge("gpt2", raw), raw, (groups[0], groups[1])


def test_two_planted_ways_are_two_cells_and_ablation_tells_them_apart():
    bridge, _, groups = planted()
    found = dl.mechanisms(np.concatenate(groups), FEATURE, bridge)
    assert len(found) == 2 and set(found.ablated) == {f"L0.N{k}" for k in NEURONS}, str(found)
    for cell, unit in zip(found.cells, found.ablated, strict=True):
        own = groups[0] if unit == f"L0.N{NEURONS[0]}" else groups[1]
        assert {p.ids for p in cell.frontier} <= {tuple(row) for row in own.tolist()}
    assert found.confirmed == (True, True)
    off = found.drops[~np.eye(2, dtype=bool)]
    assert found.drops.diagonal().min() > 3 * max(np.abs(off).max(), np.abs(found.control_drops).max())
    assert 1.5 < found.polysemanticity <= 2.01
    # One way alone is one cell.
    assert len(dl.mechanisms(groups[0], FEATURE, bridge)) == 1


@pytest.mark.parametrize("other", ["{dream} the", "the the {dream}"])
def test_in_several_contexts_values_and_ablations_are_compared_in_the_first(other):
    """In the second context, the neuron reads the text after the prompt, or the prompt at other positions."""
    bridge, _, groups = planted()
    prompts = np.concatenate(groups)
    alone = dl.mechanisms(prompts, FEATURE, bridge, contexts=["the {dream}"])
    found = dl.mechanisms(prompts, FEATURE, bridge, contexts=["the {dream}", other])
    assert set(found.ablated) == set(alone.ablated) == {f"L0.N{i}" for i in NEURONS}
    assert found.drops.diagonal().min() > 0.3 > 3 * np.abs(found.control_drops).max()
    assert "those of the first" in "".join(found.notes)


def test_drops_are_those_of_the_plain_model_with_the_neuron_at_its_mean():
    bridge, raw, groups = planted()
    a = NEURONS[0]
    prompts = np.concatenate(groups)
    found = dl.mechanisms(prompts, FEATURE, bridge, seed=3)
    scorer = Scorer(dl.parse(FEATURE), as_hooked(bridge))
    texts = draw_samples(scorer.model, scorer.frame, 64, 5, scorer.allowed, {}, 3, 0).ids.numpy()
    state: dict[str, Any] = {"set": None}

    def change(module: Any, args: Any) -> Any:
        post = args[0].clone()
        state["post"] = post.clone()
        if state["set"] is not None:
            post[..., a] = state["set"]
        return (post,)

    handles = [
        raw.transformer.h[0].mlp.c_proj.register_forward_pre_hook(change),
        raw.transformer.h[1].mlp.c_proj.register_forward_pre_hook(lambda m, x: state.update(value=x[0][:, -1, 5])),
    ]

    def values(ids: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            raw(torch.cat([torch.zeros((len(ids), 1), dtype=torch.int64), torch.tensor(ids)], 1))
        return state["value"].numpy()

    ordinary = values(texts).mean()
    mean = float(state["post"][:, 1:, a].mean())
    before = values(prompts)
    state["set"] = mean
    after = values(prompts)
    for handle in handles:
        handle.remove()
    assert found.ordinary == pytest.approx(ordinary, abs=1e-5) and found.maximum == pytest.approx(
        before.max(), abs=1e-4
    )
    drop = (before - after) / (before - ordinary)
    column = found.ablated.index(f"L0.N{a}")
    for i, cell in enumerate(found.cells):
        mine = [k for k, row in enumerate(prompts.tolist()) if k // 8 == (0 if i == column else 1)]
        assert found.drops[i, column] == pytest.approx(drop[mine].mean(), abs=1e-3), cell.name


def test_corpus_windows_join_the_cells_or_make_new_ones():
    bridge, _, groups = planted()
    scorer = Scorer(dl.parse(FEATURE), as_hooked(bridge))
    scores = scorer.score(groups[0])
    pool = PromptPool.of(groups[0], scores.value, scores.cross_entropy)
    origin = Provenance(FEATURE, "tiny", None, None, True)
    windows = [*groups[1], groups[0][3]]
    found = find_mechanisms(scorer, pool, origin, windows=windows)
    assert [(cell.size, len(cell.windows)) for cell in found.cells] in ([(8, 1), (0, 8)], [(0, 8), (8, 1)])
    corpus = next(cell for cell in found.cells if not cell.size)
    value = scorer.values(groups[1]).max()
    assert np.isnan(corpus.share) and len(found.ways) == 1 and not len(corpus.frontier)
    assert corpus.window_share == pytest.approx((value - found.ordinary) / (found.maximum - found.ordinary), abs=1e-5)
    assert set(found.ablated) == {f"L0.N{k}" for k in NEURONS} and found.confirmed == (True, True)


def test_runs_and_several_runs_are_examined_with_their_own_template():
    model = family("gpt2").bridge
    runs = dl.dream(
        STREAM,
        model,
        seeds=2,
        iterations=2,
        length=5,
        constraints=dl.constraints.template("The dog {dream}"),
        progress=False,
        search=dl.FrontierSearch(children=24, samples=24),
    )
    texts = ["The dog runs over the hill and sings.", "A cat and a dog are friends in the house."] * 3
    examples = dl.max_activating(STREAM, model, texts, k=4, length=5, cache=False, progress=False)
    found = dl.mechanisms(runs, most=12, examples=examples)
    assert all(window in " ".join(texts) for cell in found.cells for window in cell.windows)
    assert found.maximum == pytest.approx(max(run.history.value.max() for run in runs))
    best = found.cells[0].frontier[-1]
    assert best.provenance.seed in (0, 1) and best.provenance.prefix == runs[0].provenance.prefix
    scored = dl.score(STREAM, [list(best.ids)], model, prefix=runs[0].provenance.prefix).value[0]
    assert best.value == pytest.approx(float(scored), rel=1e-4)
    one = runs[0].mechanisms(most=12)
    assert one.examined <= 12 + 48 * max(1, len(one)) and one.feature == found.feature
    for given in ({"feature": "L2.N17"}, {"prepend_bos": True}):
        with pytest.raises(SettingsError, match="Runs have their own"):
            dl.mechanisms(runs, **given)
    with pytest.raises(SettingsError, match="together"):
        dl.mechanisms([runs[0], "a text"])


def test_what_has_no_mechanisms_is_refused_with_the_reason():
    prompts = ["the dog runs", "a cat and a dog"]
    with pytest.raises(FeatureError, match="above ordinary text"):
        dl.mechanisms(prompts, "L1.N17")  # a neuron that is off everywhere
    with pytest.raises(FeatureError, match="a product of a query and a key"):
        dl.mechanisms(prompts, "blocks.3.attn.hook_pattern[0, -1, 0]")
    with pytest.raises(ExamplesError):
        dl.mechanisms(prompts, "L2.N812", examples=3)
    with pytest.raises(SettingsError, match="needs a feature"):
        dl.mechanisms(prompts)
    for settings in ({"share": 0}, {"share": "much"}, {"similar": 2}, {"most": 1}, {"seed": -1}, {"windows": 0}):
        with pytest.raises(SettingsError):
            dl.mechanisms(prompts, "L2.N812", **settings)


@pytest.mark.parametrize("feature", ["blocks.0.attn.hook_q[-1, 1, 2]", "blocks.0.hook_resid_pre[-1, 3]"])
def test_a_feature_above_the_embeddings_alone_has_cells_and_nothing_to_ablate(gpt2, tmp_path, feature):
    prompts = np.random.default_rng(0).integers(1, 300, (400, 4))
    values = dl.score(feature, prompts, gpt2.bridge).value
    found = dl.mechanisms(list(prompts[np.argsort(-values)[:20]]), feature, gpt2.bridge)
    assert len(found) >= 1 and set(found.ablated) <= {"embedding", "position"}
    assert np.isnan(found.drops).all() and not any(found.confirmed) and found.controls == ()
    assert any("there is nothing to ablate" in note for note in found.notes)
    text = found.save(tmp_path / "m.json").read_text(encoding="ascii")
    assert "NaN" not in text and str(dl.load(tmp_path / "m.json")) == str(found)


def test_the_example_of_the_documentation_runs(tmp_path, monkeypatch):
    page = Path(__file__).resolve().parents[2] / "docs" / "mechanisms.md"
    if not page.is_file():
        pytest.skip("the documentation is not part of this copy")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dl, "dream", partial(dl.dream, length=4, children=16, samples=16, progress=False))
    (example,) = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    exec(example, {})
    assert "<svg" in (tmp_path / "ways.html").read_text(encoding="utf-8")


def by_hand() -> Mechanisms:
    """Mechanisms with hostile texts and numbers that are easy to check."""
    hostile = "<script>alert(1)</script>\u202e"
    origin = Provenance("L2.N17", "<b>model</b>", 0, 1, True)
    prompts = [Prompt((1,), (hostile,), hostile, v, ce, True, origin) for v, ce in ((4.0, 3.0), (8.0, 5.0))]
    cells = (
        MechanismCell("A", Frontier(prompts), 5, 1.0, (CellUnit("L0.N1", 2.0, 0.5),), (hostile,), 0.5),
        MechanismCell("B", Frontier(prompts[:1]), 4, 0.5, (CellUnit("L1.H0", 1.0, 0.1),)),
        MechanismCell("C", Frontier([]), 0, float("nan"), (CellUnit("L0.N9", 1.0, 0.1),), ("corpus",), 0.5),
    )
    drops = np.array([[0.5, 0.1, 0.0], [0.2, 0.15, 0.0], [0.0, 0.2, 0.3]])
    controls = np.array([[0.01], [0.02], [0.4]])
    texts = (TextDiversity("all", 0.5, 0.25), TextDiversity("A", float("nan"), float("nan")))
    names = ("L0.N1", "L1.H0", "L0.N9")
    return Mechanisms(
        *("L2.N17", "<b>model</b>", 0.8, 8.0, 0.0, 0.5, 9, 1, cells, names, drops, ("L0.N3",), controls, texts),
        np.eye(3),
        ("a note",),
    )


def test_numbers_of_a_result_are_what_they_say():
    found = by_hand()
    # B's unit lowers C more than B, and a random unit lowers C more than its own.
    assert found.confirmed == (True, False, False)
    assert [cell.name for cell in found.ways] == ["A"] and found["C"].reach == 0.5
    assert found.polysemanticity == pytest.approx(1 / (0.5**2 + 0.25**2 + 0.25**2))
    alike = Mechanisms(**{**found.__dict__, "overlaps": np.ones((3, 3))})
    assert alike.polysemanticity == pytest.approx(1.0)
    assert "in one way; ablation confirms it. 2 more cells reach less" in found.sentence
    frame = found.to_pandas()
    assert frame["share"].tolist() == [0.5, 1.0, 0.5] and frame["cell"].tolist() == ["A", "A", "B"]
    table = found.to_pandas("ablation")
    assert len(table) == 12 and table[table["kind"] == "control"]["drop"].tolist() == [0.01, 0.02, 0.4]
    assert found.to_pandas("cell")["confirmed"].tolist() == [True, False, False]
    assert len(found.to_pandas("unit")) == 3 and len(found.to_pandas("text")) == 2
    for wrong in (lambda: found.to_pandas("layer"), lambda: found.plot("cake"), lambda: found["Z"]):
        with pytest.raises(SettingsError):
            wrong()
    with pytest.raises(ValueError, match="do not fit"):
        Mechanisms(**{**found.__dict__, "drops": np.zeros((2, 2))})


def test_results_are_plain_data_and_hostile_texts_stay_text(tmp_path):
    found = by_hand()
    loaded = dl.load(found.save(tmp_path / "mechanisms.json"))
    assert isinstance(loaded, Mechanisms) and loaded.to_dict() == found.to_dict() and str(loaded) == str(found)
    for page in (found.to_html(), found._repr_html_(), found.plot().svg):
        assert "<script>alert" not in page and "<b>" not in page and "\u202e" not in page
    assert "\u202e" not in str(found) and repr(found).startswith("Mechanisms(L2.N17, 3 cells: A 1.00")
    assert [trace.name for trace in found.plot("frontiers").data] == ["cell A", "cell B"]
    for name in ("m.svg", "m.csv", "m.html"):
        assert found.save(tmp_path / name).stat().st_size > 100
    (tmp_path / "damaged.json").write_text('{"format": "dreamy_lens mechanisms", "version": 1}')
    with pytest.raises(RunFolderError, match="no complete mechanisms"):
        Mechanisms.load(tmp_path / "damaged.json")


def slow_linkage(ways: np.ndarray, similar: float) -> list[frozenset[int]]:
    """Join the two clusters with the highest mean cosine, from the definition."""
    clusters = [frozenset([i]) for i in range(len(ways))]
    while len(clusters) > 1:
        means = {
            (a, b): np.mean([ways[i] @ ways[j] for i in a for j in b])
            for k, a in enumerate(clusters)
            for b in clusters[k + 1 :]
        }
        (a, b), best = max(means.items(), key=lambda each: each[1])
        if best < similar:
            break
        clusters = [c for c in clusters if c not in (a, b)] + [a | b]
    return clusters


def test_clusters_are_those_of_the_definition():
    rng = np.random.default_rng(0)
    for similar in (0.2, 0.5, 0.9):
        centres = rng.normal(size=(4, 6))
        ways = centres[rng.integers(0, 4, 24)] + 0.6 * rng.normal(size=(24, 6))
        ways /= np.linalg.norm(ways, axis=1, keepdims=True)
        label = average_linkage(ways, similar)
        own = {frozenset(np.flatnonzero(label == c).tolist()) for c in range(label.max() + 1)}
        assert own == set(slow_linkage(ways, similar))
    assert average_linkage(np.ones((1, 3)), 0.5).tolist() == [0]


def test_texts_are_compared_as_the_definitions_say():
    # One of two prompts has 3 of 4 tokens, 2 of 3 pairs, 1 of 2 triples of the other, and no run of four.
    score = self_bleu([[1, 2, 3, 4], [1, 2, 3, 9]])
    assert score == pytest.approx((3 / 4 * 2 / 3 * 1 / 2 * 0.5) ** 0.25)
    assert np.isnan(self_bleu([[1, 2]])) and np.isnan(mean_distance(np.ones((1, 2))))
    # A shorter prompt pays for its brevity.
    assert self_bleu([[1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7, 8]]) < self_bleu([[1, 2, 3, 4]] * 2)
    vectors = np.random.default_rng(1).normal(size=(5, 3))
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = [1 - units[i] @ units[j] for i in range(5) for j in range(5) if i != j]
    assert mean_distance(vectors) == pytest.approx(np.mean(pairs))
    ids = np.array([[1, 1, 1], [1, 1, 2], [5, 6, 7], [1, 1, 1]])
    assert spread_rows(ids, 0, 4).tolist() == [0, 2, 1]
    assert nearest_rows(ids, ids[[2, 1]]).tolist() == [1, 1, 0, 1]
    pool = PromptPool.of([[3, 4], [1, 2, 3, 4], [5, 6], [5, 4]], np.arange(4), np.ones(4))
    assert pool.ids[0].tolist() == [-1, -1, 3, 4] and [p.tolist() for p in pool.prompts([0, 3])] == [[3, 4], [5, 4]]
    assert nearest_rows(pool.ids, pool.ids[[2, 1]]).tolist() == [1, 1, 0, 0]  # empty places are no tokens
