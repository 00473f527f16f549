"""A run in the background and the other threads of the process leave each other alone."""

from __future__ import annotations

import copy
import threading
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from packaging.version import Version

import dreamy_lens as dl
from dreamy_lens.models import HookedModel
from tests.helpers.background import PATIENCE, held
from tests.helpers.dreams import dream, same
from tests.helpers.scorers import make_scorer

POINT = "blocks.1.mlp.hook_post"


@pytest.mark.skipif(
    Version(torch.__version__) < Version("2.7"),
    reason="in torch 2.6, get_default_device() fails after set_default_device(None), also in the tests after this one",
)
def test_the_state_of_torch_is_each_thread_s_own(gpt2, whole):
    run, gate = held(gpt2.bridge)
    usual = torch.get_default_device()
    try:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            torch.set_grad_enabled(False)
            torch.set_default_device("meta")
            gate.open()
            run.wait()
    finally:
        torch.set_grad_enabled(True)
        torch.set_default_device(None if usual.type == "cpu" else usual)
    same(run.history, whole.history)
    with torch.no_grad():
        same(dream(gpt2.bridge, wait=False).history, whole.history)
    run = dream(gpt2.bridge, iterations=0)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        same(run.resume(8, wait=False, progress=False).history, whole.history)


def test_two_runs_on_one_model_are_what_they_are_alone(gpt2, whole):
    other = dream(gpt2.bridge, "log_prob(' the')", seed=1)
    for _ in range(3):
        both = threading.Barrier(2)

        def meet(run: Any, both: threading.Barrier = both) -> None:
            if run.iteration == 0:
                both.wait(PATIENCE)

        runs = [dream(gpt2.bridge, iterations=0), dream(gpt2.bridge, "log_prob(' the')", seed=1, iterations=0)]
        for run in runs:
            run.listen(meet, every=1e9)
            run.resume(8, wait=False, progress=False)
        same(runs[0].wait().history, whole.history)
        same(runs[1].wait().history, other.history)


def test_the_hooks_of_another_thread_s_pass_are_nobody_s_own(gpt2, monkeypatch):
    """Gradients of a model with hooks are computed in another way, with other rounding."""
    scorer = make_scorer("L1.N3", gpt2.bridge)
    ids, point = np.array([[5, 6, 7, 8]]), gpt2.bridge.hook_dict[POINT]
    inside, comes, saw = threading.Event(), threading.Event(), []
    lock, is_hooked = HookedModel.lock, HookedModel.is_hooked

    def taken(model: Any) -> Any:
        comes.set()
        return lock.fget(model)

    def looked(model: Any) -> bool:
        saw.append(is_hooked.fget(model))
        return saw[-1]

    def a_pass() -> None:
        with lock.fget(scorer.model):
            handle = point.register_forward_hook(lambda *a: None)
            inside.set()
            assert comes.wait(PATIENCE)
            handle.remove()

    thread = threading.Thread(target=a_pass)
    thread.start()
    assert inside.wait(PATIENCE)
    monkeypatch.setattr(HookedModel, "lock", property(taken))
    monkeypatch.setattr(HookedModel, "is_hooked", property(looked))
    scorer.gradient(ids)
    thread.join()
    assert saw and not any(saw)


def test_the_model_can_be_called_meanwhile(gpt2, whole):
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        plain, cache = gpt2.bridge.run_with_cache(ids)
        run, gate = held(gpt2.bridge, 0)
        gate.open()
        calls = 0
        while run.active or not calls:
            assert torch.allclose(gpt2.bridge(ids), plain, atol=1e-5)
            found = gpt2.bridge.run_with_cache(ids)[1]
            assert found[POINT].shape == cache[POINT].shape and torch.allclose(found[POINT], cache[POINT], atol=1e-5)
            seen: list[Any] = []
            gpt2.bridge.run_with_hooks(ids, fwd_hooks=[(POINT, lambda a, hook=None, seen=seen: seen.append(a))])
            assert [a.shape for a in seen] == [cache[POINT].shape]
            calls += 1
    same(run.history, whole.history)


def test_a_copy_of_the_model_made_meanwhile_is_one_of_its_own(gpt2, whole):
    ids = torch.tensor([[5, 6, 7, 8]])
    run, gate = held(gpt2.bridge)
    again = copy.deepcopy(gpt2.bridge)
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.zero_()
        assert not torch.allclose(again(ids), gpt2.bridge(ids)) and not again(ids).any()
    gate.open()
    same(run.history, whole.history)


def test_a_warning_in_the_background_is_a_warning(gpt2):
    def warns(a: Any) -> Any:
        warnings.warn("take care", UserWarning, stacklevel=1)
        return a[POINT][:, -1, 3]

    feature = dl.custom("warns", [POINT], warns)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = dream(gpt2.bridge, feature)
    with pytest.warns(UserWarning, match="take care"):
        run = dream(gpt2.bridge, feature, wait=False).wait()
    same(run.history, expected.history)
