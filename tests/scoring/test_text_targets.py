"""Texts of several tokens as targets, beside the plain Hugging Face model that reads the prompt and then the text."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

import dreamy_lens as dl
from dreamy_lens.errors import FeatureError, PromptError, SettingsError, TokenError
from dreamy_lens.models.load import as_hooked
from dreamy_lens.scoring.joint import JointScorer
from dreamy_lens.scoring.scorer import Scorer
from tests.helpers import models

TARGET = " the house was"
OTHER = " over and over"


def log_probs(family: models.Family, rows, target: str, prefix=(), suffix=(), bos=True, margins=False) -> np.ndarray:
    """Log-probabilities (or margins) of the target's tokens after each prompt, `[B, m]`, one row of ids at a time."""
    ids = family.tokenizer.encode(target, add_special_tokens=False)
    found = []
    for row in rows:
        whole = [*[family.bos] * bos, *prefix, *map(int, row), *suffix, *ids]
        with torch.no_grad():
            logits = family.raw(input_ids=torch.tensor([whole])).logits[0, -len(ids) - 1 : -1].double()
        own = logits.gather(1, torch.tensor(ids)[:, None])[:, 0]
        if margins:
            logits[torch.arange(len(ids)), ids] = -torch.inf
        found.append((own - (logits.amax(-1) if margins else logits.logsumexp(-1))).numpy())
    return np.array(found)


def prompts(family: models.Family, count=6, n=5, seed=0) -> np.ndarray:
    """Prompts of which half share a beginning, as those of a search do."""
    rows = np.random.default_rng(seed).integers(1, len(family.tokenizer), size=(count, n))
    rows[count // 2 :, : n - 1] = rows[0, : n - 1]
    return rows


REDUCED = {"sum": lambda x: x.sum(-1), "mean": lambda x: x.mean(-1), "min": lambda x: x.min(-1)}


@pytest.mark.parametrize("share", [True, False])
def test_values_and_cross_entropies_are_those_of_the_plain_model(family, share):
    rows, around = prompts(family), {"prefix": [7, 9], "suffix": [11, 5, 300]}
    ids = family.tokenizer.encode(TARGET, add_special_tokens=False)
    assert len(ids) > 2
    options = {"model": family.bridge, "share_prefixes": None if share else False, "prepend_bos": True}
    expected = log_probs(family, rows, TARGET, *around.values())
    plain = dl.score("L0.N1", rows, **options, **around).cross_entropy
    for reduce, function in REDUCED.items():
        scores = dl.score(dl.log_prob(TARGET, reduce=reduce), rows, **options, **around)
        np.testing.assert_allclose(scores.value, function(expected), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(scores.cross_entropy, plain, rtol=1e-5, atol=1e-6)  # the target does not count
    margins = log_probs(family, rows, TARGET, *around.values(), margins=True)
    for reduce, function in (("first", lambda x: x[:, 0]), ("min", REDUCED["min"]), ("mean", REDUCED["mean"])):
        scores = dl.score(dl.logit_difference(TARGET, reduce=reduce), rows, **options, **around)
        np.testing.assert_allclose(scores.value, function(margins), rtol=1e-4, atol=1e-4)
    without = dl.score(f'log_prob("{TARGET}")', rows, **(options | {"prepend_bos": False}))
    np.testing.assert_allclose(without.value, log_probs(family, rows, TARGET, bos=False).sum(-1), rtol=1e-4, atol=1e-4)


def test_sums_constants_hooks_and_two_texts_in_one_feature(gpt2):
    rows = prompts(gpt2)
    one, other = (log_probs(gpt2, rows, text).sum(-1) for text in (TARGET, OTHER))
    neuron = dl.score("L0.N1", rows, gpt2.bridge).value
    feature = dl.log_prob(TARGET) - 0.5 * dl.log_prob(OTHER) + 2 * dl.neuron(0, 1) + 3
    np.testing.assert_allclose(
        dl.score(feature, rows, gpt2.bridge).value, one - 0.5 * other + 2 * neuron + 3, rtol=1e-4, atol=1e-4
    )
    model = as_hooked(gpt2.bridge)
    parts = [
        factor * Scorer(term, model).gradient(rows[:2]).of_value()
        for factor, term in ((1, dl.log_prob(TARGET)), (-0.5, dl.log_prob(OTHER)), (2, dl.neuron(0, 1)))
    ]
    whole = Scorer(feature, model).gradient(rows[:2]).of_value()
    torch.testing.assert_close(whole, sum(parts), rtol=1e-3, atol=1e-4)
    alone = Scorer(dl.log_prob(TARGET).clip(min=-99) + 3, as_hooked(gpt2.bridge))
    np.testing.assert_allclose(alone.values(rows), one + 3, rtol=1e-4)
    tail = tuple(gpt2.tokenizer.encode(TARGET, add_special_tokens=False))
    assert [model.tail for model in alone.models] == [tail]  # one pass gives values and cross-entropies
    np.testing.assert_allclose(dl.score(-dl.log_prob(TARGET), rows, gpt2.bridge).value, -one, rtol=1e-4)


def test_another_fluency_model_counts_the_same_prompts(gpt2, neox):
    rows = prompts(gpt2)
    scores = dl.score(dl.log_prob(TARGET), rows, gpt2.bridge, fluency_model=neox.bridge, prepend_bos=True)
    fluency = dl.score("L0.N1", rows, neox.bridge, prepend_bos=True).cross_entropy
    np.testing.assert_allclose(scores.cross_entropy, fluency, rtol=1e-5)
    np.testing.assert_allclose(scores.value, log_probs(gpt2, rows, TARGET).sum(-1), rtol=1e-4)


@pytest.mark.parametrize("reduce", ["sum", "min"])
@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_gradients_are_those_of_the_plain_model(name, reduce):
    family = models.family(name)
    rows, around = prompts(family, 3), {"prefix": (7,), "suffix": (11, 5)}
    scorer = Scorer(dl.log_prob(TARGET, reduce=reduce), as_hooked(family.bridge), **around, prepend_bos=True)
    gradient = scorer.gradient(rows)
    table = family.raw.get_input_embeddings()(torch.arange(family.raw.config.vocab_size)).detach()
    ids = family.tokenizer.encode(TARGET, add_special_tokens=False)
    n, before = rows.shape[1], 2
    for row, of_value, of_loss in zip(rows, gradient.of_value(), gradient.of_cross_entropy(), strict=True):
        whole = torch.tensor([family.bos, 7, *map(int, row), 11, 5, *ids])
        hot = torch.nn.functional.one_hot(whole, len(table)).float().requires_grad_()
        logits = family.raw(inputs_embeds=(hot @ table)[None]).logits[0]
        own = logits[-len(ids) - 1 : -1].log_softmax(-1)[torch.arange(len(ids)), ids]
        (expected,) = torch.autograd.grad(getattr(own, reduce)(), hot, retain_graph=True)
        torch.testing.assert_close(of_value, expected[before : before + n, : of_value.shape[-1]], rtol=1e-3, atol=1e-4)
        predicted = logits[before - 1 : before + n - 1].log_softmax(-1)
        loss = -(predicted * hot[before : before + n]).sum(-1).mean()
        (expected,) = torch.autograd.grad(loss, hot)
        torch.testing.assert_close(of_loss, expected[before : before + n, : of_loss.shape[-1]], rtol=1e-3, atol=1e-4)


def test_several_scorers_with_their_own_texts_score_as_each_alone(gpt2):
    model = as_hooked(gpt2.bridge)
    features = [dl.log_prob(TARGET), dl.neuron(0, 1), dl.log_prob(OTHER), dl.log_prob(TARGET, reduce="mean")]
    scorers = [Scorer(feature, model) for feature in features]
    joint = JointScorer(scorers)
    ids = {i: prompts(gpt2, 2, seed=i) for i in range(len(features))}
    together, gradients = joint.scores(ids), joint.gradients(ids)
    for i, feature in enumerate(features):
        alone = Scorer(feature, model)
        np.testing.assert_allclose(together[i].value, alone.values(ids[i]), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(together[i].cross_entropy, alone.score(ids[i]).cross_entropy, rtol=1e-5)
        torch.testing.assert_close(gradients[i].of_value(), alone.gradient(ids[i]).of_value(), rtol=1e-3, atol=1e-4)


def test_attribution_doctor_and_scans_give_the_same_numbers(gpt2):
    feature, row = dl.log_prob(TARGET), prompts(gpt2)[0]
    result = dl.attribution(feature, row, gpt2.bridge, k=3)
    swapped = np.repeat(row[None], 3, 0)
    swapped[:, 2] = result.candidates[2]
    np.testing.assert_allclose(result.values[2], log_probs(gpt2, swapped, TARGET).sum(-1), rtol=1e-4)

    from dreamy_lens.scoring.gradient_check import AGREES, check_gradient

    assert check_gradient(Scorer(feature, as_hooked(gpt2.bridge)), prompts(gpt2)).verdict == AGREES

    texts = ["The dog runs over the hill and the cat", "She said that the big red house"]
    feats = [feature, dl.log_prob("."), dl.log_prob(","), feature - dl.neuron(0, 1), -dl.log_prob(OTHER)]
    examples = dl.max_activating(feats, gpt2.bridge, texts, k=3, length=4, progress=False)
    for i, text in ((0, TARGET), (1, ".")):
        windows = examples[i].top
        rows = [list(window.ids) for window in windows]
        np.testing.assert_allclose(
            [window.value for window in windows], log_probs(gpt2, rows, text).sum(-1), rtol=1e-4, atol=1e-4
        )
        # At every token: the value of the prompt that ends there.
        ends = [log_probs(gpt2, [rows[0][:end]], text).sum() for end in range(1, 5)]
        np.testing.assert_allclose(windows[0].values, ends, rtol=1e-4, atol=1e-4)


def test_a_search_finds_prompts_for_a_text_and_saves_and_resumes(gpt2, tmp_path):
    feature = dl.parse(f'log_prob("{TARGET}", reduce="mean")')
    run = dl.dream(feature, gpt2.bridge, search=dl.GCG(iterations=6, children=32, length=5), progress=False)
    history = run.history
    assert history.value.max() > history.value[0]
    best = run.frontier.strongest if hasattr(run.frontier, "strongest") else run.frontier.best()
    np.testing.assert_allclose(best.value, log_probs(gpt2, [best.ids], TARGET).mean(), rtol=1e-4)
    run.save(tmp_path / "run")
    again = dl.load_run(tmp_path / "run", model=gpt2.bridge)
    again.resume(1).wait()
    assert dl.parse(again.provenance.feature) == feature


def test_text_forms_are_read_back(gpt2):
    for text in ('log_prob(" a b c")', 'log_prob("x", reduce="min")', 'logit_difference(" a b", reduce="first")'):
        assert str(dl.parse(text)) == text and dl.parse(str(dl.parse(text))) == dl.parse(text)
    assert dl.log_prob(" a b") == dl.parse('log_prob(" a b")') != dl.log_prob(" a b", reduce="sum")
    one = dl.score(dl.log_prob(".", reduce="min"), prompts(gpt2), gpt2.bridge).value
    np.testing.assert_array_equal(one, dl.score(dl.log_prob("."), prompts(gpt2), gpt2.bridge).value)


def test_a_text_is_read_as_it_stands_after_other_text(stories):
    vocabulary = as_hooked(stories.bridge).vocabulary  # SentencePiece puts a space before a text that stands alone
    for text in (" was a dog.", "was a dog.", "ish words", "\nOne day", "."):
        ids = vocabulary.target_ids(text)
        assert vocabulary.text([*vocabulary.encode("a"), *ids]) == "a" + text
    rows = np.array([[403, 407, 261, 378]])
    spaced, joined = (dl.score(dl.log_prob(t), rows, stories.bridge).value for t in (" was a dog.", "was a dog."))
    assert spaced[0] > joined[0]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: dl.logit(" the house over"),
            TokenError,
            r'write log_prob\(" the house over", reduce="sum"\), .*reduce="first"',
        ),
        (lambda: dl.logit_difference(" the house over"), TokenError, r'logit_difference\(" the house over", reduce='),
        (lambda: dl.log_prob(" the house over", 2), FeatureError, "stand after the whole prompt, so no position"),
        (lambda: dl.log_prob(" the house over", slice(None)).max(), FeatureError, "no position can be given"),
        (lambda: dl.log_prob(" dog" * 70), TokenError, "context is 64; shorten it"),
        (lambda: dl.log_prob("a b", reduce="max"), FeatureError, "reduce is one of 'sum', 'mean', 'min'"),
        (lambda: dl.logit_difference("a b", reduce="sum"), FeatureError, "one of 'first', 'mean', 'min'"),
        (lambda: dl.parse('log_prob("a b", reduce="all")'), FeatureError, "reduce is one of"),
        (lambda: dl.log_prob(999), TokenError, "outside the vocabulary"),
    ],
)
def test_what_is_refused_and_why(gpt2, make, error, message):
    with pytest.raises(error, match=message):
        dl.features.bind(make(), gpt2.bridge)


def test_a_prompt_and_a_text_that_do_not_fit_into_the_context(gpt2):
    feature = dl.log_prob(" dog" * 40)
    with pytest.raises(PromptError, match=r"A prompt of 40 tokens makes .* the target's .* context is 64; use at most"):
        dl.score(feature, prompts(gpt2, 2, 40), gpt2.bridge)
    with pytest.raises(SettingsError, match=r"the target's .* tokens, and tiny-gpt2's context is 64; use a length"):
        dl.max_activating(feature, gpt2.bridge, ["the dog " * 60], length=40, progress=False)


def test_the_value_is_minus_the_loss_of_nanogcg_in_the_same_chat(gpt2):
    """The losses that nanogcg reports of its own suffixes, in a chat that its tokenizer's chat template writes."""
    nanogcg = pytest.importorskip("nanogcg", reason="the comparison needs the library nanogcg, and its scipy")
    tokenizer = copy.deepcopy(gpt2.tokenizer)
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    messages = [{"role": "system", "content": "be nice"}, {"role": "user", "content": "say{} now"}]
    asked, given = ([{**m, "content": m["content"].format(at)} for m in messages] for at in ("{optim_str}", "{dream}"))
    settings = {"num_steps": 4, "search_width": 24, "topk": 16, "optim_str_init": "x x x x", "seed": 1}
    config = nanogcg.GCGConfig(**settings, use_prefix_cache=False, verbosity="ERROR")
    found = nanogcg.run(copy.deepcopy(gpt2.raw), tokenizer, asked, TARGET, config)
    bridge = models.new_bridge("gpt2", gpt2.raw)
    bridge.tokenizer = tokenizer
    feature, chat = dl.log_prob(TARGET, reduce="mean"), dl.constraints.chat(given)
    for text, loss in zip(found.strings, found.losses, strict=True):
        assert dl.score(feature, text, bridge, contexts=chat).value[0] == pytest.approx(-loss, abs=1e-5)


def test_the_example_of_the_documentation_runs():
    document = Path(__file__).parents[2] / "docs" / "features.md"
    (code,) = (part for part in document.read_text().split("```python\n")[1:] if "dl.log_prob(" in part)
    names: dict = {}
    exec(code.partition("```")[0].replace("iterations=5, children=32", "iterations=1, children=4"), names)
    assert names["run"].frontier.best().value < 0 < names["calm"].frontier.best().value
