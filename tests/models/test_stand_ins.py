"""Tokenizers without BOS: no token is invented for them, and no prompt starts with one that the model never saw."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import dreamy_lens as dl
from dreamy_lens.errors import ConstraintError, ModelError, PromptError
from dreamy_lens.models import as_hooked
from dreamy_lens.models.stand_ins import STAND_IN, without_stand_ins
from tests.helpers.bare_tokenizers import KINDS, bare_tokenizer, bridged, raw_gpt2, saved

TEXT = "the dog and the cat"
SPARE = 3


def raw_numbers(raw, ids: list[int], target: int) -> tuple[float, float]:
    """The last logit of a token, and the mean cross-entropy of all ids but the first, from the plain model."""
    with torch.no_grad():
        logits = raw(torch.tensor([ids])).logits[0]
    return float(logits[-1, target]), float(torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:])))


@pytest.mark.parametrize("spare", [0, SPARE])
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_whose_tokenizer_has_no_bos_starts_without_one(kind, spare):
    original = bare_tokenizer(kind)
    raw = raw_gpt2(len(original) + spare)
    ids = original.encode(TEXT, add_special_tokens=False)
    bridge = bridged(raw, bare_tokenizer(kind))
    assert bridge.tokenizer.bos_token_id is not None  # what TransformerLens put in
    with pytest.warns(UserWarning, match="has no BOS token, so its prompts start without one"):
        hooked = as_hooked(bridge)
    assert not hooked.prepends_bos and hooked.bos(None) == []
    assert hooked.tokenizer.get_vocab() == original.get_vocab()
    assert hooked.vocabulary.special == set(original.all_special_ids)
    value, cross_entropy = raw_numbers(raw, ids, ids[0])
    scores = dl.score(dl.logit(ids[0]), [TEXT, ids], bridge)
    np.testing.assert_allclose(scores.value, value, rtol=1e-5)
    np.testing.assert_allclose(scores.cross_entropy, cross_entropy, rtol=1e-5)
    run = dl.dream(dl.logit(ids[0]), bridge, length=4, iterations=2, population=2, children=4)
    assert not run.provenance.prepend_bos
    for prompt in run.frontier:
        assert max(prompt.ids) < len(original) and not set(prompt.ids) & set(original.all_special_ids)
        assert raw_numbers(raw, list(prompt.ids), ids[0]) == pytest.approx(
            (prompt.value, prompt.cross_entropy), rel=1e-4
        )
    with pytest.raises(ModelError, match="has no BOS token, so prepend_bos=True is impossible"):
        dl.score(dl.logit(ids[0]), TEXT, bridge, prepend_bos=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_s_model_starts_without_one_too(kind, tmp_path):
    original = bare_tokenizer(kind)
    raw = raw_gpt2(len(original))
    bridge = dl.load_model(saved(raw, original, tmp_path), device="cpu")
    ids = original.encode(TEXT, add_special_tokens=False)
    with pytest.warns(UserWarning, match="start without one"):
        scores = dl.score(dl.logit(ids[0]), TEXT, bridge)
    assert (scores.value[0], scores.cross_entropy[0]) == pytest.approx(raw_numbers(raw, ids, ids[0]), rel=1e-5)


@pytest.mark.filterwarnings("ignore:.*start without one")
def test_scans_and_attributions_start_without_one():
    original = bare_tokenizer("WordPiece")
    raw = raw_gpt2(len(original))
    bridge = bridged(raw, bare_tokenizer("WordPiece"))
    ids = original.encode(TEXT, add_special_tokens=False)
    examples = dl.max_activating(dl.logit(ids[0]), bridge, [TEXT], length=3, stride=1, progress=False)
    assert not examples.prepend_bos
    window = examples[0].top[0]
    assert (window.value, window.cross_entropy) == pytest.approx(raw_numbers(raw, list(window.ids), ids[0]), rel=1e-4)
    attribution = dl.attribution(dl.logit(ids[0]), TEXT, bridge, k=2)
    changed = [*ids[:-1], int(attribution.candidates[-1, 0])]
    assert attribution.values[-1, 0] == pytest.approx(raw_numbers(raw, changed, ids[0])[0], rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loaded", [False, True])
def test_what_was_put_in_is_taken_out_of_a_copy(kind, loaded, tmp_path):
    original = bare_tokenizer(kind)
    given = original
    if loaded:
        original.save_pretrained(tmp_path)
        given = AutoTokenizer.from_pretrained(tmp_path)
        original = AutoTokenizer.from_pretrained(tmp_path)
    else:
        given = bare_tokenizer(kind)
    text = f"{STAND_IN}the dog"
    bridge = bridged(raw_gpt2(len(original)), given)
    changed = len(bridge.tokenizer), bridge.tokenizer.bos_token
    restored = without_stand_ins(bridge.tokenizer)
    assert restored.get_vocab() == original.get_vocab() and restored.all_special_ids == original.all_special_ids
    assert restored.encode(text) == original.encode(text)
    assert restored.bos_token is restored.eos_token is restored.pad_token is None
    assert (len(bridge.tokenizer), bridge.tokenizer.bos_token) == changed  # the bridge's own stays as it was
    assert without_stand_ins(pickle.loads(pickle.dumps(bridge.tokenizer))).get_vocab() == original.get_vocab()


def test_declared_tokens_stay():
    backend = bare_tokenizer("byte-level BPE").backend_tokenizer
    eos = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=STAND_IN)
    restored = without_stand_ins(bridged(raw_gpt2(len(eos)), copy.deepcopy(eos)).tokenizer)
    assert restored.eos_token == STAND_IN and restored.bos_token is None
    assert restored.get_vocab() == eos.get_vocab()
    both = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=STAND_IN, eos_token=STAND_IN)
    assert without_stand_ins(both) is both
    assigned = copy.deepcopy(bare_tokenizer("byte-level BPE"))
    assigned.bos_token = "a"
    assert without_stand_ins(assigned).bos_token == "a"


@pytest.mark.filterwarnings("ignore:.*start without one")
def test_a_declared_bos_without_a_row_does_not_start_prompts():
    tokenizer = bare_tokenizer("byte-level BPE")
    rows = len(tokenizer)
    declared = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        bos_token="<s>",
        eos_token="<s>",
        add_bos_token=True,
        name_or_path="local",
    )
    raw = raw_gpt2(rows)
    bridge = bridged(raw, declared)
    with pytest.warns(UserWarning, match=rf"BOS token '<s>' with id {rows}, and the embedding has only {rows} rows"):
        hooked = as_hooked(bridge)
    ids = tokenizer.encode(TEXT)
    scores = dl.score(dl.logit(5), TEXT, hooked)
    assert (scores.value[0], scores.cross_entropy[0]) == pytest.approx(raw_numbers(raw, ids, 5), rel=1e-5)
    with pytest.raises(PromptError, match=rf"the token '<s>' with id {rows}, outside the vocabulary"):
        dl.score(dl.logit(5), "<s>the dog", hooked)
    with pytest.raises(ConstraintError, match="The template contains the token '<s>'"):
        dl.dream(dl.logit(5), hooked, constraints=dl.constraints.template("<s>{dream}"), iterations=1)


@pytest.mark.filterwarnings("ignore:.*start without one")
def test_rows_without_a_token_enter_no_pass():
    tokenizer = bare_tokenizer("characters")
    rows = len(tokenizer) + SPARE
    bridge = bridged(raw_gpt2(rows), tokenizer)
    feature = dl.logit(0)
    for use in (
        lambda ids: dl.score(feature, ids, bridge),
        lambda ids: dl.score(feature, [1, 2], bridge, prefix=ids),
        lambda ids: dl.score(feature, [1, 2], bridge, suffix=ids),
        lambda ids: dl.attribution(feature, ids, bridge),
        lambda ids: dl.explore(feature, ids, bridge),
        lambda ids: dl.dream(feature, bridge, start=ids, iterations=1),
    ):
        with pytest.raises(PromptError, match=rf"id {rows - 1}, and the tokenizer has no such token"):
            use([1, rows - 1])
        with pytest.raises(PromptError, match=rf"id {rows}, outside the vocabulary"):
            use([1, rows])
    with pytest.raises(ConstraintError, match=r"fix\(\) at position 0: .*no such token"):
        dl.dream(feature, bridge, length=3, iterations=1, constraints=dl.constraints.fix({0: rows - 1}))
