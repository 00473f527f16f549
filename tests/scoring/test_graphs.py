"""Graphs of the device: passes that are recorded once and replayed without Python give the numbers of eager passes.

The device is emulated: a replay repeats the operations that were recorded, on the tensors that they were recorded with.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version

import dreamy_lens as dl
from dreamy_lens.analysis import doctor
from dreamy_lens.models import device_graph, to_host, tree_kernel
from dreamy_lens.scoring import graph_choice, graphs
from dreamy_lens.scoring.forward import KERNEL, SHARED, WHOLE
from tests.helpers import devices, models
from tests.helpers.devices import Waits
from tests.helpers.dreams import SMALL
from tests.helpers.scorers import make_scorer

pytestmark = pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.21"),
    reason="before version 5.21, transformers copies a number to the device in an eager pass, so no graph can hold it",
)
FEWEST, MOST = "fewest operations", "most operations"


@pytest.fixture
def waits() -> Iterator[Waits]:
    with devices.emulated() as found:
        yield found


@pytest.fixture(params=[FEWEST])
def clock(request, waits, monkeypatch):
    """A clock that kernels started by the host move most, so that graphs win: those of whole rows, or the others."""
    share = 1e-6 if request.param == FEWEST else -1e-6
    monkeypatch.setattr(graph_choice, "clock", lambda: waits.kernels + 1e-3 * waits.launches + share * waits.replayed)


def placed(name: str) -> Any:
    bridge = models.new_bridge(name, models.raw_model(name))
    devices.place(bridge, "cuda:0")
    return bridge


def children(rng: np.random.Generator, count: int, n: int = 6) -> np.ndarray:
    """Prompts as a search makes them: two parents, and children that differ from them in one token."""
    parents = rng.integers(1, 320, size=(2, n))
    rows = parents[rng.integers(0, 2, count)]
    rows[np.arange(count), rng.integers(0, n, count)] = rng.integers(1, 320, count)
    return rows


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found.value, expected.value, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(found.cross_entropy, expected.cross_entropy, atol=1e-5, rtol=1e-5)


def alike(a: Any, b: Any) -> None:
    """Two histories have the same prompts and populations, and the same numbers but for rounding."""
    first, second = a.arrays(), b.arrays()
    for name in set(first) - {"seconds", "token_layers"}:
        exact = first[name].dtype.kind != "f" or name == "restarts"
        np.testing.assert_allclose(first[name], second[name], 0 if exact else 1e-5, 0 if exact else 1e-5, err_msg=name)


FEATURES = ["L1.N3", "logit(9) - logit(8)", "blocks.1.attn.hook_pattern[1, -1, 0]"]
FEATURES += ["blocks.0.hook_resid_post[:, 3].max() - 0.1 * mean_cross_entropy()"]


@pytest.mark.parametrize(
    ("clock", "template"),
    [(FEWEST, {}), (MOST, {"prefix": [5, 6, 7], "suffix": [8]})],
    indirect=["clock"],
    ids=["fewest operations, alone", "most operations, template"],
)
@pytest.mark.parametrize("name", models.FAMILIES)
def test_replayed_passes_give_the_numbers_of_plain_ones(waits, clock, name, template):
    bridge, own = placed(name), models.family(name).bridge
    # A feature each, so that all of them are tried on some family without trying every pair.
    feature = FEATURES[(models.FAMILIES.index(name) + bool(template)) % 4]
    there, here = (make_scorer(feature, b, prepend_bos=True, **template) for b in (bridge, own))
    rng = np.random.default_rng(0)
    for size in (40, 44, 38, 41, 40):
        ids = children(rng, size)
        close(there.score(ids), here.score(ids))
    assert len(there.forward.passes) >= 1, there.passes
    kinds = {choice.way for choice in there.forward.passes.choices.values()}
    for count in (4, 4, 4, 4, 3):
        ids = children(rng, count)
        slopes, usual = there.gradient(ids), here.gradient(ids)
        for part in ("of_value", "of_cross_entropy"):
            (slope,) = to_host(getattr(slopes, part)())
            np.testing.assert_allclose(slope, getattr(usual, part)(), atol=1e-4, rtol=1e-4)
    assert len(there.backward.passes) == 1, there.passes
    assert waits.launches > 0 and kinds <= {SHARED, WHOLE}


@pytest.mark.slow
def test_texts_of_several_tokens_are_replayed_too(waits, clock):
    there, here = (
        make_scorer('log_prob(" the house was") - L0.N3 + 1', b, prepend_bos=True, prefix=[5, 6], suffix=[8])
        for b in (placed("llama"), models.family("llama").bridge)
    )
    rng = np.random.default_rng(0)
    for size in (40, 44, 38):
        ids = children(rng, size)
        close(there.score(ids), here.score(ids))
    for count in (4, 4, 3):
        ids = children(rng, count)
        (slope,) = to_host(there.gradient(ids).of_value())
        np.testing.assert_allclose(slope, here.gradient(ids).of_value(), atol=1e-4, rtol=1e-4)
    assert len(there.forward.passes) >= 1 and len(there.backward.passes) == 1, there.passes


@pytest.fixture
def kernel(monkeypatch) -> list[int]:
    """The attention kernel computed by torch, and a list with the number of nodes of every call."""
    calls: list[int] = []

    def attend(q: Any, k: Any, v: Any, index: Any, owners: Any, scale: float, softcap: Any, window: Any) -> Any:
        calls.append(q.shape[1])
        n = index.shape[1]
        row, place = owners // n, owners % n
        k, v = (x.repeat_interleave(q.shape[0] // k.shape[0], 0)[:, index[row]] for x in (k, v))  # [head, node, pos, d]
        scores = (q[:, :, None] * k).sum(-1) * scale
        scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
        ago = place[:, None] - torch.arange(n, device=place.device)
        scores = scores.masked_fill((ago < 0) | (ago >= (n if window is None else window)), -torch.inf)
        return (scores.softmax(-1)[..., None] * v).sum(2).transpose(0, 1)

    monkeypatch.setattr(tree_kernel, "is_available", lambda: True)
    monkeypatch.setattr(tree_kernel, "attend", attend)
    return calls


@pytest.mark.parametrize("template", [{}, {"prefix": [5, 6, 7], "suffix": [8]}], ids=["alone", "template"])
@pytest.mark.parametrize("name", models.FAMILIES)
def test_the_attention_kernel_is_one_of_the_ways(waits, monkeypatch, kernel, name, template):
    times = iter([9.0, 5.0, 1.0, 7.0] * 2)  # of the eager pass and of the three graphs, each timed three times
    clock = itertools.chain.from_iterable((0.0, t) * graph_choice.REPEATS for t in times)
    monkeypatch.setattr(graph_choice, "clock", lambda: next(clock))
    bridge, own = placed(name), models.family(name).bridge
    there, here = (make_scorer("L1.N3", b, prepend_bos=True, **template) for b in (bridge, own))
    rng = np.random.default_rng(0)
    for _ in range(6):
        ids = children(rng, 40)
        close(there.score(ids), here.score(ids))
    assert [choice.way for choice in there.forward.passes.choices.values()] == [KERNEL]
    assert set(there.forward.passes.choices.popitem()[1].milliseconds) == {"eager", SHARED, KERNEL, WHOLE} and kernel


def test_both_kinds_of_graphs_are_tried_and_named(waits, clock):
    scorer, rng = make_scorer("L1.N3", placed("gpt2")), np.random.default_rng(0)
    for _ in range(4):
        scorer.score(children(rng, 40))
    (choice,) = scorer.forward.passes.choices.values()
    assert set(choice.milliseconds) == {"eager", SHARED, WHOLE} and not choice.dropped
    assert scorer.passes["scoring"].startswith(choice.way) and choice.way in (SHARED, WHOLE)


@pytest.mark.slow
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_runs_in_several_contexts_replay_graphs_in_each(waits, clock):
    contexts = dl.constraints.contexts(["the dog {dream}", "over{dream}."], "soft_min", softness=0.1)
    settings = {**SMALL, "search": "epo", "iterations": 7, "children": 12, "constraints": contexts}
    run = dl.dream("L1.N3", placed("gpt2"), **settings)
    alike(run.history, dl.dream("L1.N3", models.family("gpt2").bridge, **settings).history)
    assert waits.launches > 3 and set(run.passes) == {"scoring", "gradients"}
    assert not any(len(passes) for part in run.session.scorer.parts for passes in part.run_by)  # freed


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("search", ["epo", "frontier"])
def test_runs_take_the_steps_that_they_take_on_a_cpu(waits, clock, search):
    settings = {**SMALL, "search": search, "iterations": 9, "children": 12}
    if search == "frontier":
        settings = {k: v for k, v in settings.items() if k not in ("population", "top_k", "restart_every")}
    run = dl.dream("L1.N3", placed("gpt2"), **settings)
    alike(run.history, dl.dream("L1.N3", models.family("gpt2").bridge, **settings).history)
    assert waits.launches > 3 and set(run.passes) == {"scoring", "gradients"}
    assert not len(run.session.scorer.forward.passes) and not len(run.session.scorer.backward.passes)  # freed


@pytest.mark.parametrize("shared", [False, True])
def test_runs_side_by_side_replay_graphs(waits, clock, shared):
    features = ["L0.N3", "L1.N3", "blocks.1.hook_resid_post[-1, 3]"]
    settings = {**SMALL, "iterations": 9, "children": 12}
    if shared:
        settings = {"search": dl.FrontierSearch(children=12, length=5, share_prompts=True), "iterations": 6}
        settings |= {"progress": False}
    alone = dl.dream(features, models.family("llama").bridge, **settings)
    before = waits.launches
    runs = dl.dream(features, placed("llama"), **settings)
    for run, own in zip(runs, alone, strict=True):
        alike(run.history, own.history)
        assert run.passes
    assert waits.launches > before


def test_a_fluency_model_and_a_latent_are_recorded_too(waits, clock, tmp_path):
    bridge, other = placed("gpt2"), placed("gpt2")
    own = models.family("gpt2").bridge
    there = make_scorer("L1.N3", bridge, fluency_model=other)
    here = make_scorer("L1.N3", own, fluency_model=own)
    rng = np.random.default_rng(1)
    for size in (40, 40, 40, 41, 39):
        ids = children(rng, size)
        close(there.score(ids), here.score(ids))
    assert len(there.forward.passes) >= 1


def test_a_steady_iteration_starts_two_graphs_and_waits_once(waits, clock, monkeypatch):
    marks: list[tuple[int, int, int]] = []
    take = dl.runs.Dream.take

    def taken(run: Any, step: Any) -> None:
        marks.append((waits.kernels, waits.launches, len(waits)))
        take(run, step)

    monkeypatch.setattr(dl.runs.Dream, "take", taken)
    dl.dream("L1.N3", placed("gpt2"), **{**SMALL, "iterations": 24, "children": 24, "search": "epo"})
    kernels, launches, waited = np.diff(np.array(marks), axis=0)[10:-1].T
    assert np.median(kernels) <= 64, kernels
    assert (launches[kernels <= 64] == 2).all() and (waited[kernels <= 64] == 1).all()


def test_slower_graphs_are_not_used_and_that_is_remembered(waits, monkeypatch):
    monkeypatch.setattr(graph_choice, "clock", lambda: waits.launches - 1e-6 * waits.kernels)
    bridge, rng = placed("gpt2"), np.random.default_rng(0)
    for _ in range(2):
        scorer = make_scorer("L1.N3", bridge)
        for _ in range(5):
            scorer.score(children(rng, 40))
        assert scorer.passes["scoring"].startswith("eager (") and SHARED in scorer.passes["scoring"]
        assert not len(scorer.forward.passes)
    assert waits.graphs == 2  # of the two kinds, for the first scorer alone


def test_passes_that_cannot_be_recorded_stay_eager_with_one_line_in_the_log(waits, clock, monkeypatch, caplog):
    def refuse(*arguments: Any) -> None:
        raise RuntimeError("CUDA error: operation not supported\non this card")

    monkeypatch.setattr(device_graph.DeviceGraph, "__init__", refuse)
    scorer, here = make_scorer("L1.N3", placed("gpt2")), make_scorer("L1.N3", models.family("gpt2").bridge)
    rng = np.random.default_rng(0)
    with caplog.at_level(logging.INFO, "dreamy_lens"):
        for _ in range(8):
            ids = children(rng, 40)
            close(scorer.score(ids), here.score(ids))
    lines = [record.getMessage() for record in caplog.records]
    why = "cannot be run as graph over shared prefixes here: RuntimeError: CUDA error: operation not supported."
    assert len(lines) == 2 and why in lines[0]
    assert scorer.passes["scoring"].startswith("eager")


def test_graphs_with_other_numbers_are_dropped(waits, clock, monkeypatch):
    replay = device_graph.DeviceGraph.replay

    def wrong(graph: Any) -> Any:
        out = replay(graph)
        out[0].add_(0.01)
        return out

    monkeypatch.setattr(device_graph.DeviceGraph, "replay", wrong)
    scorer, here = make_scorer("L1.N3", placed("gpt2")), make_scorer("L1.N3", models.family("gpt2").bridge)
    rng = np.random.default_rng(0)
    for _ in range(8):
        ids = children(rng, 40)
        close(scorer.score(ids), here.score(ids))
    assert "its numbers differ" in scorer.passes["scoring"] and not len(scorer.forward.passes)


@pytest.mark.parametrize("how", ["in place", "replaced"])
def test_edits_of_weights_are_seen(waits, clock, how):
    bridge, own = placed("gpt2"), models.new_bridge("gpt2", models.raw_model("gpt2"))
    there, rng = make_scorer("L1.N3", bridge), np.random.default_rng(0)
    for _ in range(6):
        there.score(children(rng, 40))
    assert len(there.forward.passes) >= 1
    for one in (bridge, own):
        module = one.original_model.transformer.h[1].mlp.c_fc
        if how == "in place":
            with torch.no_grad():
                module.weight.mul_(1.5)
        else:
            module.weight = torch.nn.Parameter(own.original_model.transformer.h[1].mlp.c_fc.weight.detach() * 0.5)
            if one is bridge:
                devices.place(bridge, "cuda:0")
    here = make_scorer("L1.N3", own)
    for _ in range(6):
        ids = children(rng, 40)
        close(there.score(ids), here.score(ids))


def test_code_of_the_users_is_never_recorded(waits, clock):
    seen = []

    def counted(activations: Any) -> Any:
        seen.append(1)
        return activations["blocks.0.hook_resid_post"][:, -1].std(1)

    feature = dl.custom("spread", ["blocks.0.hook_resid_post"], counted)
    scorer = make_scorer(feature, placed("gpt2"))
    rng = np.random.default_rng(0)
    for _ in range(6):
        scorer.score(children(rng, 40))
        scorer.gradient(children(rng, 4))
    assert len(seen) >= 12 and not waits.graphs


def test_the_account_of_work_is_that_of_eager_passes(waits, clock):
    bridge, rng = placed("gpt2"), np.random.default_rng(0)
    there, here = make_scorer("L1.N3", bridge), make_scorer("L1.N3", models.family("gpt2").bridge)
    there.score(children(rng, 40)), here.score(children(rng, 40))
    for _ in range(6):
        ids = children(rng, 40)
        before = there.work.token_layers, here.work.token_layers
        there.score(ids), here.score(ids)
        there_by, here_by = there.work.token_layers - before[0], here.work.token_layers - before[1]
        assert there_by == here_by or there_by == 40 * 7 * 2  # of whole rows, if those are faster


def test_the_doctor_names_the_ways(waits, clock):
    bridge = placed("gpt2")
    findings = {finding.check: finding for finding in doctor.examine("L1.N3", bridge, length=6)}
    assert "graph" in findings["scoring on cuda:0"].seen and "eager" in findings["scoring on cuda:0"].seen
    assert "graph" in findings["gradients on cuda:0"].seen


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("features", [["blocks.1.mlp.hook_post[-1]", "L0.N1"], ["logit(9)", "L1.N3 - L0.N2"]])
def test_scans_replay_graphs_and_count_what_a_processor_counts(waits, clock, features, tmp_path):
    texts = [f"the dog and the cat {i} are friends over the hill and a cat sings" for i in range(120)]
    settings = {"length": 6, "batch_size": 16, "progress": False, "k": 5, "cache": False}
    own = dl.max_activating(features, models.family("gpt2").bridge, texts, **settings)
    found = dl.max_activating(features, placed("gpt2"), texts, **settings)
    assert waits.launches > 5
    for name in ("mean", "deviation", "maximum"):
        np.testing.assert_allclose(found.to_pandas()[name], own.to_pandas()[name], atol=1e-4, rtol=1e-4)
    for number in range(2):
        np.testing.assert_allclose(
            found.of(number).to_pandas()["value"], own.of(number).to_pandas()["value"], atol=1e-4, rtol=1e-4
        )


def test_a_way_that_takes_long_to_prepare_is_tried_on_long_passes_only(waits, clock, kernel, monkeypatch):
    monkeypatch.setattr(graph_choice, "clock", lambda: 1e-9 * waits.kernels)  # a pass of microseconds
    scorer, rng = make_scorer("L1.N3", placed("gpt2")), np.random.default_rng(0)
    for _ in range(5):
        scorer.score(children(rng, 40))
    (choice,) = scorer.forward.passes.choices.values()
    assert set(choice.milliseconds) == {"eager", SHARED, WHOLE} and not kernel


def test_an_environment_variable_keeps_passes_eager(waits, clock, monkeypatch):
    monkeypatch.setenv("DREAMY_LENS_GRAPHS", "0")
    scorer, rng = make_scorer("L1.N3", placed("gpt2")), np.random.default_rng(0)
    for _ in range(5):
        scorer.score(children(rng, 40))
        scorer.gradient(children(rng, 4))
    assert not waits.graphs and scorer.passes == {}


@pytest.mark.parametrize("template", [{}, {"prefix": [5, 6, 7]}], ids=["alone", "template"])
def test_passes_recorded_in_inference_mode_run_outside_of_it(waits, clock, template):
    there, here = (make_scorer("L1.N3", b, **template) for b in (placed("gpt2"), models.family("gpt2").bridge))
    rng = np.random.default_rng(0)
    with torch.inference_mode():
        for _ in range(5):
            there.score(children(rng, 40))
    assert len(there.forward.passes)
    for _ in range(2):
        ids = children(rng, 40)
        close(there.score(ids), here.score(ids))


def test_a_model_is_free_after_a_scan_and_graphs_with_their_scorer(waits, clock):
    bridge, rng = placed("gpt2"), np.random.default_rng(0)
    scorer = make_scorer("L1.N3", bridge)
    for _ in range(5):
        scorer.score(children(rng, 40))
        scorer.gradient(children(rng, 4))
    assert len(scorer.forward.passes) and len(scorer.backward.passes)
    kept = [weakref.ref(scorer.forward.passes), weakref.ref(scorer.backward.passes)]
    gc.disable()
    del scorer
    assert not any(passes() for passes in kept)  # without a collection of cycles, which can be late
    gc.enable()
    texts = [f"the dog and the cat {i} are friends over the hill and a cat sings" for i in range(60)]
    launches = waits.launches
    dl.max_activating(["L1.N3"], bridge, texts, length=6, batch_size=16, progress=False, k=5, cache=False)
    assert waits.launches > launches
    known = weakref.ref(bridge)
    del bridge
    gc.collect()
    assert known() is None


def test_a_graph_that_was_not_compared_does_not_stay(waits, clock, monkeypatch):
    scorer, rng = make_scorer("L1.N3", placed("gpt2")), np.random.default_rng(0)

    def interrupt(*arguments: Any) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(scorer.forward.passes, "_same", interrupt)
        scorer.score(children(rng, 40)), scorer.score(children(rng, 40))
        with pytest.raises(KeyboardInterrupt):
            scorer.score(children(rng, 40))
    assert waits.graphs == 1 and not len(scorer.forward.passes)
    for _ in range(3):
        scorer.score(children(rng, 40))
    assert len(scorer.forward.passes) == 1


def test_a_remembered_way_that_a_scorer_does_not_have_is_chosen_anew(waits, clock):
    bridge, own = placed("gpt2"), models.family("gpt2").bridge
    rng = np.random.default_rng(0)
    there, here = make_scorer("L1.N3", bridge), make_scorer("L1.N3", own)
    for _ in range(4):
        there.score(children(rng, 40))
    (choice,) = there.forward.passes.choices.values()
    choice.way = KERNEL  # as where Triton and another way of sharing were
    there.release_graphs()
    for _ in range(4):
        ids = children(rng, 40)
        close(there.score(ids), here.score(ids))
    assert there.passes["scoring"].startswith(("graph over shared prefixes (", "graph over whole rows ("))


def test_gradients_are_compared_whole(waits, clock, monkeypatch):
    replay = device_graph.DeviceGraph.replay

    def wrong(graph: Any) -> Any:
        out = replay(graph)
        out[2].add_(0.01)  # the derivative with respect to the cross-entropy
        return out

    monkeypatch.setattr(device_graph.DeviceGraph, "replay", wrong)
    scorer, rng = make_scorer("L1.N3 - mean_cross_entropy()", placed("gpt2")), np.random.default_rng(0)
    for _ in range(5):
        scorer.gradient(children(rng, 4))
    assert "its numbers differ" in scorer.passes["gradients"] and not len(scorer.backward.passes)


def test_recordings_share_a_stream_and_a_failed_one_leaves_its_stream_and_pool(waits, clock, monkeypatch):
    current, used = [object()], []

    @contextlib.contextmanager
    def on(stream: Any) -> Iterator[None]:
        former = current[0]
        current[0] = stream
        try:
            yield
        finally:
            current[0] = former

    class Recorded:  # like torch.cuda.graph, which stays on its stream if the recording has become invalid
        def __init__(self, graph: Any, pool: Any, stream: Any, capture_error_mode: str) -> None:
            self.inner, self.stream = devices._recorded(graph, pool, stream, capture_error_mode), stream
            used.append((pool, stream))

        def __enter__(self) -> None:
            self.former, current[0] = current[0], self.stream
            self.inner.__enter__()

        def __exit__(self, *error: Any) -> None:
            self.inner.__exit__(*error)
            if len(used) == 1:
                raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
            current[0] = self.former

    monkeypatch.setattr(torch.cuda, "graph", Recorded)
    monkeypatch.setattr(torch.cuda, "stream", on)
    default = current[0]
    scorer, rng = make_scorer("L1.N3", placed("gpt2")), np.random.default_rng(0)
    for size in (40, 40, 40, 40, 160, 160, 160):
        scorer.score(children(rng, size))
    assert current[0] is default and len(used) >= 3
    assert SHARED in scorer.passes["scoring"] and "previous error" in scorer.passes["scoring"]
    (failed, stream), *others = used
    assert all(pool is not failed for pool, _ in others) and all(other is stream for _, other in others)


def test_graphs_of_an_attribution_are_freed(waits, clock):
    run = dl.dream("L1.N3", placed("gpt2"), **{**SMALL, "iterations": 2, "batch_size": 16})
    launches = waits.launches
    run.attribution(run.history.ids[-1], k=30)
    assert waits.launches > launches
    assert not len(run.session.scorer.forward.passes) and not len(run.session.scorer.backward.passes)


def test_a_run_records_a_limited_number_of_graphs(waits, clock, monkeypatch):
    monkeypatch.setattr(graphs, "MOST_RECORDINGS", 2)  # those of the two kinds that are compared
    there, here = make_scorer("L1.N3", placed("gpt2")), make_scorer("L1.N3", models.family("gpt2").bridge)
    rng = np.random.default_rng(0)
    for size in (40, 40, 40, 100, 100, 40, 100, 20):
        ids = children(rng, size)
        close(there.score(ids), here.score(ids))
    assert waits.graphs == 2
