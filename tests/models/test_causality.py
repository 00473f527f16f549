"""A model that sees later tokens has values and no fluency of its own, and shares no prefixes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import dreamy_lens as dl
from dreamy_lens.errors import ModelError
from dreamy_lens.models import as_hooked
from dreamy_lens.models.causality import is_causal
from tests.helpers.scorers import make_scorer
from tests.trust.findings import Examination
from tests.trust.zoo import ARCHITECTURES

# TransformerLens 4 has hooks of its own on BERT, and prompts of a hooked model are scored whole without a warning.
pytestmark = pytest.mark.filterwarnings("ignore:Prompts are scored whole")

FEATURE = "blocks.1.mlp.hook_post[-1, 3]"


@pytest.fixture(scope="module")
def bert() -> Examination:
    return Examination(ARCHITECTURES["BertForMaskedLM"])


@pytest.fixture
def expected(bert) -> np.ndarray:
    return bert.run(bert.layer.output.dense, "input")[:, -1, 3].numpy()


def test_it_is_tried_once_for_each_model(family):
    hooked = as_hooked(family.bridge)
    assert is_causal(hooked)
    calls = []
    handle = family.bridge.original_model.register_forward_hook(lambda *_: calls.append(1))
    try:
        assert is_causal(hooked) and not calls
    finally:
        handle.remove()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_is_not_mistaken_for_it(family, dtype):
    from tests.helpers.models import new_bridge

    assert is_causal(as_hooked(new_bridge(family.name, family.raw, dtype)))


def test_it_cannot_continue_a_text(bert):
    with pytest.raises(ModelError, match=r"sees later tokens.*so it cannot continue a text"):
        dl.generate(bert.ids[0], bert.bridge)


def test_fluency_is_refused_with_the_way_out(bert):
    for call in (
        lambda: dl.score(FEATURE, bert.ids, bert.bridge),
        lambda: dl.dream(FEATURE, bert.bridge, iterations=1),
        lambda: dl.dream(FEATURE, bert.bridge, search=dl.FrontierSearch(iterations=1, samples=8)),
        lambda: dl.attribution(FEATURE, bert.ids[0], bert.bridge),
        lambda: dl.max_activating(FEATURE, bert.bridge, ["one two three four five six seven eight nine ten"] * 3),
        lambda: make_scorer("mean_cross_entropy()", bert.bridge),
    ):
        with pytest.raises(ModelError, match=r"sees later tokens.*fluency_model="):
            call()


def test_values_are_right_without_it(bert, expected):
    np.testing.assert_allclose(make_scorer(FEATURE, bert.bridge).values(bert.ids), expected, atol=1e-4)


def test_another_model_judges_fluency_and_prompts_are_scored_whole(bert, expected, gpt2):
    scores = dl.score(FEATURE, bert.ids, bert.bridge, fluency_model=gpt2.bridge)
    np.testing.assert_allclose(scores.value, expected, atol=1e-4)
    with torch.no_grad():
        losses = gpt2.raw(bert.rows).logits.log_softmax(-1)[:, :-1].gather(-1, bert.rows[:, 1:, None])[..., 0]
    assert bert.bos == 1
    np.testing.assert_allclose(scores.cross_entropy, -losses.mean(1).numpy(), atol=1e-4)


def test_a_search_runs_with_another_model_s_fluency(bert, gpt2):
    run = dl.dream(FEATURE, bert.bridge, fluency_model=gpt2.bridge, iterations=2, length=5, progress=False)
    best = run.frontier[-1]
    value = make_scorer(FEATURE, bert.bridge).values([list(best.ids)])
    np.testing.assert_allclose(value, best.value, atol=1e-4)


def test_values_along_a_prompt_are_those_of_the_prompts_cut_there(bert):
    """A pass over the whole prompt would show each token the tokens after it."""
    from dreamy_lens.scoring import make_banks

    (bank,) = make_banks([dl.hook("blocks.1.hook_resid_post")[-1, i] for i in range(4)], as_hooked(bert.bridge))
    assert bank.series is None
