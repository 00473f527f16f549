"""The host waits for an accelerator once in an iteration, and the pipelined order changes nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

import dreamy_lens as dl
from dreamy_lens import constraints as rules_of
from dreamy_lens.models import to_device, to_host
from dreamy_lens.search import (
    EPO,
    ConstraintSet,
    ScoreCache,
    Step,
    choose_survivor,
    choose_survivor_on_device,
    drive,
    epo,
    select,
    select_on_device,
)
from tests.helpers import models, waiting
from tests.helpers.dreams import FEATURE, SMALL, dream, same
from tests.helpers.toy import LENGTH, VOCABULARY, Toy

SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "no restarts": {"restart_every": 0},
    "restarts": {"restart_every": 1},
    "parents": {"keep_parents": True},
    "template": {"constraints": rules_of.template("The dog{dream} and the cat")},
    "constraints": {"constraints": [rules_of.template("Over{dream}"), rules_of.round_trip()]},
    "batches": {"batch_size": 5},
}


@pytest.fixture
def pipelined(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the order for accelerators on the CPU."""
    monkeypatch.setattr(epo, "PIPELINED", ("cpu",))


# The counter of waits.


def test_the_counter_sees_what_waits():
    with waiting.accelerator() as waits:
        there = to_device(np.arange(6.0), "cuda")
        assert there.device.type == "cuda" and not waits.seen
        plants = [
            lambda: there.sum().item(),
            lambda: bool((there > 2).any()),
            lambda: float(there[0]),
            lambda: there.cpu(),
            lambda: there.tolist(),
            lambda: there.to("cpu"),
            lambda: there[there > 2],
            lambda: there.nonzero(),
            lambda: torch.equal(there, there),
            lambda: torch.arange(3).to("cuda"),
            lambda: torch.arange(3).to("cuda", non_blocking=True),  # not from pinned memory
            lambda: torch.tensor([1, 2], device="cuda"),
            lambda: there[torch.tensor([1, 2])],
            lambda: to_host(there, there + 1),
        ]
        for number, plant in enumerate(plants):
            waits.seen.clear()
            plant()
            assert len(waits.seen) == 1, f"{number}: {waits.seen}"
        waits.seen.clear()
        other = torch.zeros(6, device=there.device) + there * 2
        other[2:].masked_fill_(there[2:] > 3, 0).scatter_(0, there[:1].long(), 1.0)
        other.topk(2).indices, other.argmax(), torch.where(other > 1, other, 0.0)
        assert not waits.seen
        with pytest.raises(RuntimeError, match="two devices"):
            other + torch.zeros(6)
        with pytest.raises(TypeError):
            other.numpy()


def test_what_comes_by_itself_is_there_only_after_a_wait():
    with waiting.accelerator():
        there = to_device(np.arange(4), "cuda")
        target = torch.empty(4, dtype=torch.int64, pin_memory=True).copy_(there, non_blocking=True)
        assert target.tolist() == [113] * 4
        (found,) = to_host(there)
        assert found.tolist() == target.tolist() == [0, 1, 2, 3]


# One wait.


def waits_of(model: Any, feature: Any, waits: waiting.Waits, **settings: Any) -> tuple[list[list[str]], Any]:
    """Return the waits in each iteration of a run, and the run."""
    run = dream(model, feature, **(settings | {"iterations": 0}))
    found = []
    for step in run.steps(8):
        if step.iteration:
            run.take(step)
            found.append(list(waits.seen))
        waits.seen.clear()
    return found, run


CASES = [
    *((name, FEATURE, {}) for name in models.FAMILIES),
    ("gpt2", 'logit(" the")', {}),
    ("neox", "hook('blocks.0.attn.hook_pattern')[1, -1, 0]", {}),
    ("llama", "hook('blocks.1.hook_resid_post')[:, 5].max()", {}),
    ("gpt2", FEATURE, SETTINGS["template"]),
    # Each of these has a test of a toy problem, below.
    *(
        pytest.param("gpt2", FEATURE, SETTINGS[name], marks=pytest.mark.slow)
        for name in list(SETTINGS)[1:]
        if name != "template"
    ),
]


@pytest.mark.parametrize(("name", "feature", "settings"), CASES)
def test_an_iteration_waits_once_and_finds_what_it_finds_on_the_processor(name, feature, settings):
    plain = dream(models.family(name).bridge, feature, **settings)
    with waiting.accelerator() as waits:
        found, run = waits_of(
            waiting.moved(models.new_bridge(name, models.family(name).raw)), feature, waits, **settings
        )
    # The first iteration verifies the faster passes, and has to read their results.
    assert [len(one) for one in found[1:]] == [1] * 7, found[1:]
    assert all("transfer.py" in one[0] for one in found[1:])
    np.testing.assert_array_equal(run.history.ids, plain.history.ids)
    np.testing.assert_allclose(run.history.value, plain.history.value, atol=1e-4, rtol=1e-4)
    np.testing.assert_array_equal(run.history.population, plain.history.population)


def test_so_it_does_with_a_direction(gpt2):
    feature = dl.hook("blocks.0.hook_resid_post")[-1] @ np.linspace(-1, 1, 32, dtype=np.float32)
    with waiting.accelerator() as waits:
        found, _ = waits_of(waiting.moved(models.new_bridge("gpt2", gpt2.raw)), feature, waits)
    assert [len(one) for one in found[1:]] == [1] * 7, found[1:]


def test_the_order_of_the_processor_waits_twice(gpt2, monkeypatch):
    monkeypatch.setattr(epo, "PIPELINED", ())
    with waiting.accelerator() as waits:
        found, _ = waits_of(waiting.moved(models.new_bridge("gpt2", gpt2.raw)), FEATURE, waits)
    assert [len(one) for one in found[1:]] == [2] * 7, found[1:]


def test_several_searches_wait_once_together(gpt2):
    features = [FEATURE, 'logit(" the")']
    plain = dl.dream(features, gpt2.bridge, seeds=[0, 1], iterations=6, **SMALL)
    with waiting.accelerator() as waits:
        runs = dl.dream(
            features,
            waiting.moved(models.new_bridge("gpt2", gpt2.raw)),
            seeds=[0, 1],
            iterations=0,
            **SMALL,
        )
        counts: dict[int, int] = {}
        for run, step in runs.steps(6):
            if step.iteration:
                run.take(step)
            counts[step.iteration] = counts.get(step.iteration, 0) + len(waits.seen)
            waits.seen.clear()
    assert [counts[i] for i in range(2, 7)] == [1] * 5
    for ours, own in zip(runs, plain, strict=True):
        np.testing.assert_array_equal(ours.history.ids, own.history.ids)


# Equal searches.


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_both_orders_give_one_history(gpt2, monkeypatch, settings):
    plain = dream(gpt2.bridge, **settings)
    monkeypatch.setattr(epo, "PIPELINED", ("cpu",))
    same(dream(gpt2.bridge, **settings).history, plain.history)


class There(Toy):
    """Toy that answers with tensors, as an accelerator does."""

    def score_on_device(self, ids: np.ndarray) -> torch.Tensor:
        found = self.score(ids)
        return torch.from_numpy(np.stack([found.value, found.cross_entropy]))

    def gradient_on_device(self, ids: torch.Tensor) -> Any:
        return self.gradient(ids.numpy())


def steps(toy: Any = None, rules: Any = (), known: ScoreCache | None = None, state: Any = None, **settings: Any) -> Any:
    own = {"iterations": 9, "population": 4, "children": 8, "top_k": 12, "restart_every": 3, "length": LENGTH}
    config = EPO(**{**own, **settings})
    toy = There() if toy is None else toy
    return drive(
        epo.EPOOptimizer().search(toy, config, ConstraintSet(rules, VOCABULARY, LENGTH), cache=known, state=state), toy
    )


def equal(ours: Step, own: Step) -> None:
    assert (ours.iteration, ours.restart, ours.rejected, ours.non_finite) == (
        own.iteration,
        own.restart,
        own.rejected,
        own.non_finite,
    )
    for name in ("ids", "value", "cross_entropy", "population"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(own, name))
    assert ours.state.rng == own.state.rng
    np.testing.assert_array_equal(ours.state.population, own.state.population)
    np.testing.assert_array_equal(ours.state.non_finite, own.state.non_finite)


def compared(monkeypatch: pytest.MonkeyPatch, make: Any) -> Iterator[tuple[Step, Step]]:
    own = list(make())
    monkeypatch.setattr(epo, "PIPELINED", ("cpu",))
    ours = list(make())
    assert len(ours) == len(own)
    for pair in zip(ours, own, strict=True):
        equal(*pair)
        yield pair


BAD = np.flatnonzero(VOCABULARY.allowed)[::6]
COARSE = torch.randint(3, (LENGTH, VOCABULARY.size), generator=torch.Generator().manual_seed(1))
TOYS = {
    "plain": lambda: There(),
    "non-finite": lambda: There(nan=BAD, infinite=BAD[::2] + 1),
    "ties": lambda: There(worth=COARSE, cost=COARSE * 0),
}


@pytest.mark.parametrize("toy", TOYS)
@pytest.mark.parametrize(
    "settings", [{}, {"restart_every": 1}, {"restart_every": 0}, {"keep_parents": True}, {"population": 1}], ids=str
)
def test_steps_and_states_are_the_same(monkeypatch, toy, settings):
    found = list(compared(monkeypatch, lambda: steps(TOYS[toy](), **settings)))
    assert len(found) == 10
    assert (sum(own.non_finite for _, own in found) > 0) is (toy == "non-finite")


def test_so_they_are_where_nothing_in_a_pool_is_finite_or_nothing_is_new(monkeypatch):
    allowed = np.flatnonzero(VOCABULARY.allowed)
    few = [rules_of.forbid_tokens(*map(int, allowed[2:]))]
    found = list(compared(monkeypatch, lambda: steps(rules=few, iterations=20)))
    assert any(not len(own.ids) for _, own in found)

    class Spoilt(There):
        """Toy whose scores are not finite after the first prompts."""

        def score(self, ids: np.ndarray) -> Any:
            scores = super().score(ids)
            if len(self.scored) > 1:
                scores.value[:] = np.nan
            return scores

    monkeypatch.setattr(epo, "PIPELINED", ())
    pairs = list(compared(monkeypatch, lambda: steps(Spoilt(), restart_every=0)))
    assert all((own.population == pairs[0][1].population).all() for _, own in pairs)


@pytest.mark.parametrize("settings", [{}, {"keep_parents": True, "restart_every": 2}], ids=str)
def test_a_run_goes_on_from_every_iteration_as_if_it_had_never_stopped(pipelined, settings):
    whole = list(steps(TOYS["non-finite"](), **settings))
    for at, step in itertools.islice(enumerate(whole), 9):
        known = ScoreCache()
        for one in whole[: at + 1]:
            known.add(one.ids, one.value, one.cross_entropy)
        lost = np.full(len(step.state.non_finite), np.nan)
        if len(lost):
            known.add(step.state.non_finite, lost, lost)
        rest = list(steps(TOYS["non-finite"](), known=known, state=step.state, **settings))
        for ours, own in zip(rest, whole[at + 1 :], strict=True):
            equal_but_for_order(ours, own)


def equal_but_for_order(ours: Step, own: Step) -> None:
    """Assert that two steps are equal; the order of prompts without finite scores is not compared."""
    assert (ours.iteration, ours.restart, ours.rejected, ours.state.rng) == (
        own.iteration,
        own.restart,
        own.rejected,
        own.state.rng,
    )
    np.testing.assert_array_equal(ours.ids, own.ids)
    np.testing.assert_array_equal(ours.population, own.population)


def test_a_saved_run_goes_on_as_if_it_had_never_stopped(gpt2, pipelined, tmp_path):
    whole = dream(gpt2.bridge)
    for at in (1, 3, 4):
        dream(gpt2.bridge, iterations=at).save(tmp_path / str(at))
        run = dl.load_run(tmp_path / str(at), gpt2.bridge)
        run.resume(8 - at, progress=False)
        same(run.history, whole.history)


def test_the_choice_on_the_device_is_numpy_s():
    rng = np.random.default_rng(0)
    lambdas = EPO(population=4).lambdas
    for _ in range(200):
        value, cross_entropy = rng.integers(0, 4, (2, 12)).astype(np.float32)
        value[rng.integers(0, 8, 3)] = rng.choice([np.nan, np.inf, -np.inf, 0])
        weight = float(rng.uniform(0.1, 3))
        finite = np.isfinite(value[:8]) & np.isfinite(cross_entropy[:8])
        gain = value[:8][finite] - lambdas[:, None] * cross_entropy[:8][finite]
        best = np.flatnonzero(finite)[gain.argmax(1)] if finite.any() else np.arange(8, 12)
        tensors = torch.from_numpy(value), torch.from_numpy(cross_entropy)
        chosen = select_on_device(*tensors, torch.from_numpy(lambdas), 8)
        assert chosen.tolist() == best.tolist() == select(value, cross_entropy, lambdas, 8).tolist()
        if np.isfinite(value[best]).all():
            survivor = int(np.argmax(value[best] - weight * cross_entropy[best]))
            assert choose_survivor(value[best], cross_entropy[best], weight) == survivor
            assert choose_survivor_on_device(*(t[chosen] for t in tensors), weight).tolist() == [survivor]
    assert select_on_device(torch.zeros(4), torch.zeros(4), torch.from_numpy(lambdas), 0).tolist() == [0, 1, 2, 3]
    assert select(np.zeros(4, np.float32), np.zeros(4, np.float32), lambdas, 0).tolist() == [0, 1, 2, 3]
