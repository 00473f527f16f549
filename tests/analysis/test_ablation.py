"""Ablations: against hooks on plain Hugging Face models, with placebos, and refused where they would be wrong."""

from __future__ import annotations

import pytest
import torch

import dreamy_lens as dl
from dreamy_lens.analysis import ablated_values
from dreamy_lens.models.load import as_hooked
from tests.helpers.models import family
from tests.helpers.plain_hooks import modules_of, run_changed
from tests.trust import zoo

IDS = [5, 9, 7, 30, 12]
STREAM = "blocks.1.hook_resid_post[-1, 3]"


def plain_and_bridge(name):
    """A plain model and its bridge: parallel blocks, gated MLPs, norms after components."""
    if name in ("gpt2", "neox", "llama", "gemma2"):
        return family(name).raw, family(name).bridge
    architecture = zoo.ARCHITECTURES[name]
    raw = zoo.plain_model(architecture)
    return raw, zoo.bridge_of(architecture, raw)


def kl(before, after):
    p, q = (x[0, -1].double() for x in (before, after))
    known = as_hooked(family("gpt2").bridge).vocabulary.known
    p, q = (x[: len(known)][torch.from_numpy(known[: len(x)])].log_softmax(-1) for x in (p, q))
    return float((p.exp() * (p - q)).sum())


@pytest.mark.parametrize("name", ["gpt2", "neox", "llama", "gemma2", "GPTJForCausalLM"])
def test_components_without_their_output_are_those_of_the_plain_model(name):
    """Zero ablation of an MLP, an attention and a head, by hooks on the Hugging Face modules; the BOS stays."""
    raw, bridge = plain_and_bridge(name)
    bos = as_hooked(bridge).bos(True)
    row = [*bos, *IDS]

    def without(x):
        x[:, 1:] = 0
        return x

    def headless(x):
        width = x.shape[-1] // 4
        x[:, 1:, 2 * width : 3 * width] = 0
        return x

    def silent(x):
        x[:, 1:, 5] = 0
        return x

    first, last = modules_of(raw, 0), modules_of(raw, 1)
    changes = {
        "L0.MLP": {"outputs": {first["mlp"]: without}},
        "L0.attn": {"outputs": {first["attn"]: without}},
        "L1.H2": {"inputs": {last["heads"]: headless}},
        "L0.N5": {"inputs": {first["neurons"]: silent}},
    }
    plain, _ = run_changed(raw, row)
    for part, change in changes.items():
        found = dl.ablate(part, IDS, bridge, kind="zero", of=STREAM, placebos=0, prepend_bos=True)
        logits, stream = run_changed(raw, row, **change, read=last["block"])
        assert found.values[0, 0, 0] == pytest.approx(float(stream[0, -1, 3]), abs=1e-4), part
        assert found.kl[0, 0] == pytest.approx(kl(plain, logits), abs=1e-4), part
        alone = ablated_values(bridge, STREAM, [IDS], part, "zero", prepend_bos=True)
        assert alone[0] == pytest.approx(float(stream[0, -1, 3]), abs=1e-4), part
