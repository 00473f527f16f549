"""Models whose layers are on several devices, which are emulated here: the same numbers and runs as on one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import dreamy_lens as dl
from dreamy_lens.models import as_hooked, to_host
from tests.helpers import devices, models
from tests.helpers.devices import Placed, Waits
from tests.helpers.dreams import SMALL
from tests.helpers.scorers import make_scorer


@pytest.fixture
def waits() -> Iterator[Waits]:
    with devices.emulated() as found:
        yield found


def alike(a: Any, b: Any) -> None:
    """Two histories have the same prompts and populations, and the same numbers but for rounding."""
    first, second = a.arrays(), b.arrays()
    for name in set(first) - {"seconds", "token_layers"}:
        exact = first[name].dtype.kind != "f" or name == "restarts"
        np.testing.assert_allclose(first[name], second[name], 0 if exact else 1e-5, 0 if exact else 1e-5, err_msg=name)


FIRST = ("wte", "wpe", "drop", "h.0", "embed_in", "emb_dropout", "rotary_emb", "embed_tokens", "layers.0")
"""Parts of Hugging Face models that go to the first device, if they have them; the rest goes to the second."""


def spread(name: str) -> Any:
    """A bridge whose layers are on two devices, as `device_map=` of transformers and accelerate puts them there."""
    from accelerate import dispatch_model
    from transformer_lens.model_bridge import TransformerBridge

    raw = models.raw_model(name)
    (inside, body), (head, _) = raw.named_children()
    parts = [f"{inside}.{part}" for part, module in body.named_children() if part not in ("h", "layers")]
    parts += [f"{inside}.{blocks}.{i}" for blocks in ("h", "layers") if hasattr(body, blocks) for i in (0, 1)]
    where = {part: "cuda:0" if part.removeprefix(f"{inside}.") in FIRST else "cuda:1" for part in parts}
    tied = raw.get_output_embeddings().weight is raw.get_input_embeddings().weight
    where[head] = "cuda:0" if tied else "cuda:1"
    memo: dict[int, Placed] = {}
    for part, device in where.items():
        devices.place(raw.get_submodule(part), device, memo)
    dispatch_model(raw, where, main_device="cuda:0", force_hooks=True)  # pyright: ignore[reportArgumentType]
    bridge = TransformerBridge.boot_transformers(f"tiny-{name}", hf_model=raw, tokenizer=models.tokenizer())
    assert {p.device.index for p in bridge.parameters()} == {0, 1} and as_hooked(bridge).device.index == 0
    return bridge


@pytest.mark.filterwarnings("error::RuntimeWarning")  # of prompts that are scored whole
@pytest.mark.parametrize("name", models.FAMILIES)
def test_a_model_on_two_devices_gives_the_numbers_of_one(waits, name):
    bridge, own = spread(name), models.family(name).bridge
    ids = np.random.default_rng(0).integers(1, 320, size=(9, 6))
    ids[1:5] = ids[0]
    ids[1:5, 4] = [3, 4, 5, 6]
    features = ("L1.N3", "blocks.1.attn.hook_pattern[1, -1, 0]", "L0.N1 + logit(9)")
    features += ("blocks.0.hook_resid_post[:, 3].max() - 0.1 * mean_cross_entropy()",)
    for i, feature in enumerate(features):
        template = {"prefix": [5, 6, 7], "suffix": [8]} if (i + models.FAMILIES.index(name)) % 2 else {}
        there, here = (make_scorer(feature, b, prepend_bos=True, **template) for b in (bridge, own))
        found, expected = there.score(ids), here.score(ids)
        np.testing.assert_allclose(found.value, expected.value, atol=1e-5, rtol=1e-5)
        np.testing.assert_allclose(found.cross_entropy, expected.cross_entropy, atol=1e-5, rtol=1e-5)
        np.testing.assert_allclose(there.values(ids), expected.value, atol=1e-5, rtol=1e-5)
        ways, usual = (next(iter(s.forward._sharings.values())) for s in (there, here))
        assert ways is not None and usual is not None and ways.packed is not None and usual.packed is not None
        assert ways.packed.way == usual.packed.way
        slopes, usual = there.gradient(ids), here.gradient(ids)
        for part in ("of_value", "of_cross_entropy"):
            (slope,) = to_host(getattr(slopes, part)())
            np.testing.assert_allclose(slope, getattr(usual, part)(), atol=1e-4, rtol=1e-4)
        whole = make_scorer(feature, bridge, prepend_bos=True, share_prefixes=False, **template).values(ids)
        np.testing.assert_allclose(whole, expected.value, atol=1e-5, rtol=1e-5)


def test_runs_side_by_side_on_two_devices_are_those_on_one(waits):
    features = ["L0.N3", "log_prob(9)", "blocks.1.hook_resid_post[-1, 3]"]
    alone = dl.dream(features, models.family("llama").bridge, **SMALL, iterations=4)
    for run, own in zip(dl.dream(features, spread("llama"), **SMALL, iterations=4), alone, strict=True):
        alike(run.history, own.history)
