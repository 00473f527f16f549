"""Prompts in several contexts: values, cross-entropies and gradients against plain scorers and Hugging Face."""

from __future__ import annotations

import json
from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch

import dreamy_lens as dl
from dreamy_lens.cli.main import main
from dreamy_lens.errors import ConstraintError, CorpusError, FeatureRangeError, PromptError, SettingsError
from dreamy_lens.models import as_hooked
from dreamy_lens.panels import AttributionPanel
from dreamy_lens.runs.python_code import run_code
from dreamy_lens.scoring.contexts import Combination, ContextScorer
from dreamy_lens.scoring.scorer import Scorer
from tests.helpers import models
from tests.helpers.quick import quick_ones
from tests.helpers.scorers import make_scorer
from tests.search.test_chat import CHATML, chatty

FRAMES = [([5, 6, 7], [8]), ([11], []), ([], [12, 13])]
IDS = np.random.default_rng(0).integers(1, 320, size=(5, 6))
PRE = "blocks.2.mlp.hook_pre[-1, 812]"
SMALL = {"iterations": 3, "population": 3, "children": 6, "top_k": 16, "length": 5, "search": "epo", "progress": False}
CONTEXTS = dl.constraints.contexts(["Return {dream}", "See also: {dream}.", "Raises an error"], "min")
COMBINATIONS = [Combination("mean"), Combination("min"), Combination("soft_min", 0.3)]


@pytest.mark.parametrize("softness", [1e-30, 1e-3, 1.0, 1e3, 1e6, 1e10, 1e30])
def test_a_soft_minimum_is_exact_for_every_softness(softness):
    values = torch.tensor([[6.1, -2.0, 3.0], [5.9, 4.0, 3.0], [7.3, 0.5, 3.0]])
    v = [[Decimal(float(x)) for x in column] for column in values.T]
    s = Decimal(softness)
    with localcontext() as context:
        context.prec = 80
        context.Emax, context.Emin = 10**9, -(10**9)
        low = [min(column) for column in v]
        powers = [[(-(x - a) / s).exp() for x in column] for column, a in zip(v, low, strict=True)]
        expected = [float(a - s * (sum(p) / 3).ln()) for a, p in zip(low, powers, strict=True)]
        slopes = [[float(x / sum(p)) for x in p] for p in powers]
    combination = Combination("soft_min", softness)
    np.testing.assert_allclose(combination(values).numpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(combination.weights(values).T.numpy(), slopes, rtol=2e-3, atol=1e-6)


def in_contexts(feature, bridge, combination, frames=FRAMES, **settings):
    scorer = ContextScorer(dl.parse(feature), as_hooked(bridge), frames, combination, prepend_bos=True, **settings)
    parts = [
        make_scorer(feature, bridge, prefix=a, suffix=b, prepend_bos=True, share_prefixes=False) for a, b in frames
    ]
    return scorer, parts


def combined(combination, values):
    """The combination by numpy, from values [K, B]."""
    if combination.kind == "soft_min":
        s = combination.softness
        return -s * np.log(np.exp(-values.astype(np.float64) / s).mean(0))
    return values.mean(0) if combination.kind == "mean" else values.min(0)


@pytest.mark.parametrize(
    ("feature", "combination"),
    list(zip(["L1.N3", "logit(9)", "L0.N1 - 0.5 * mean_cross_entropy()"], COMBINATIONS, strict=True)),
    ids=["neuron, mean", "logit, min", "difference, soft_min"],
)
def test_scores_are_those_in_each_context_combined(family, feature, combination):
    scorer, parts = in_contexts(feature, family.bridge, combination)
    found, each = scorer.score(IDS), [part.score(IDS) for part in parts]
    expected = combined(combination, np.stack([scores.value for scores in each]))
    np.testing.assert_allclose(found.value, expected, atol=2e-5)
    np.testing.assert_allclose(found.cross_entropy, np.mean([s.cross_entropy for s in each], axis=0), atol=2e-5)
    np.testing.assert_allclose(scorer.values(IDS), expected, atol=2e-5)
    for own, plain in zip(scorer.each(IDS), each, strict=True):
        np.testing.assert_allclose(own.value, plain.value, atol=2e-5)


def test_a_value_is_that_of_hugging_face(gpt2):
    scorer, _ = in_contexts("logit(9)", gpt2.bridge, Combination("min"))
    rows = [[gpt2.bos, *before, *IDS[0].tolist(), *after] for before, after in FRAMES]
    with torch.no_grad():
        logits = [float(gpt2.raw(torch.tensor([row])).logits[0, -1, 9]) for row in rows]
    assert scorer.score(IDS[0]).value[0] == pytest.approx(min(logits), abs=1e-4)


@pytest.mark.parametrize("combination", COMBINATIONS, ids=lambda c: c.kind)
@pytest.mark.parametrize("feature", ["L1.N3", "L0.N1 - 0.5 * mean_cross_entropy()"])
def test_gradients_are_the_slopes_of_what_is_scored(gpt2, feature, combination):
    """Against the chain rule over plain scorers, and against finite differences in the embeddings."""
    scorer, parts = in_contexts(feature, gpt2.bridge, combination)
    found, each = scorer.gradient(IDS), [part.gradient(IDS) for part in parts]
    values = np.stack([np.asarray(gradient.value) for gradient in each])
    if combination.kind == "mean":
        weights = np.full_like(values, 1 / 3)
    elif combination.kind == "min":
        weights = (values == values.min(0)).astype(np.float32)
    else:
        weights = np.exp(-values / combination.softness)
        weights /= weights.sum(0)
    slopes = np.stack([np.asarray(gradient.of_value()) for gradient in each])
    expected = (weights[:, :, None, None] * slopes).sum(0)
    np.testing.assert_allclose(found.of_value(), expected, atol=2e-4)
    mean = np.mean([np.asarray(gradient.of_cross_entropy()) for gradient in each], axis=0)
    np.testing.assert_allclose(found.of_cross_entropy(), mean, atol=2e-4)
    np.testing.assert_allclose(found.value, combined(combination, values), atol=2e-5)
    lambdas = torch.tensor([0.5, 2.0])
    rows = torch.tensor([1, 3])
    mixed = expected[[1, 3]] - np.array([0.5, 2.0])[:, None, None] * mean[[1, 3]]
    np.testing.assert_allclose(found.objective(rows, lambdas), mixed, atol=3e-4)
    own = found.parts[found.fluency].surprisal
    surprisals = [gradient.parts[gradient.fluency].surprisal for gradient in each]
    assert own is not None and all(s is not None for s in surprisals)
    np.testing.assert_allclose(own, torch.stack(surprisals).mean(0), atol=1e-5)


def test_the_gradient_check_of_a_run_holds_in_contexts():
    from dreamy_lens.scoring.gradient_check import require_gradient

    scorer = ContextScorer(dl.parse(PRE), as_hooked(None), FRAMES, Combination("soft_min", 0.5))
    require_gradient(scorer, 6)  # compares the gradient with finite differences


def test_gradients_in_some_contexts_are_drawn_by_the_prompts(gpt2):
    scorer, parts = in_contexts("L1.N3", gpt2.bridge, Combination("mean"), drawn=2)
    chosen = scorer.draw(IDS)
    assert len(chosen) == 2 and chosen == scorer.draw(IDS.copy())
    assert len({tuple(scorer.draw(IDS + i)) for i in range(12)}) == 3
    expected = np.mean([np.asarray(parts[k].gradient(IDS).of_value()) for k in chosen], axis=0)
    np.testing.assert_allclose(scorer.gradient(IDS).of_value(), expected, atol=1e-4)
    on_device = scorer.gradient_on_device(torch.from_numpy(IDS))
    np.testing.assert_allclose(on_device.of_value(), expected, atol=1e-4)
    # Scores are those in all contexts.
    each = np.mean([part.score(IDS).value for part in parts], axis=0)
    np.testing.assert_allclose(scorer.score(IDS).value, each, atol=2e-5)


def test_a_prompt_that_stays_is_improved_in_other_contexts_in_each_iteration(gpt2, monkeypatch):
    """A run in which no child is better keeps its prompt; its contexts are drawn anew, alone and side by side."""
    drawn: list[tuple[int, tuple[int, ...]]] = []
    original = ContextScorer.draw

    def draw(self, rows, number=0):
        chosen = original(self, rows, number)
        drawn.append((number, tuple(chosen)))
        return chosen

    scorer, parts = in_contexts("L1.N3", gpt2.bridge, Combination("mean"), drawn=1)
    assert len({tuple(scorer.draw(IDS, number)) for number in range(20)}) == 3
    (k,) = scorer.draw(IDS, 7)
    expected = np.asarray(parts[k].gradient(IDS).of_value())
    np.testing.assert_allclose(scorer.gradient_in(IDS, 7).of_value(), expected, atol=1e-4)
    np.testing.assert_allclose(scorer.gradient_in(torch.from_numpy(IDS), 7).of_value(), expected, atol=1e-4)

    monkeypatch.setattr(ContextScorer, "draw", draw)
    contexts = dl.constraints.contexts(["a", "b", "c", "d"], gradients_in=1)
    settings = {"constraints": contexts, "length": 3, "progress": False, "keep_parents": True, "search": "gcg"}
    for more in ({"seed": 0}, {"seeds": [0, 1]}):
        drawn.clear()
        dl.dream("L1.N3", gpt2.bridge, iterations=6, children=1, top_k=1, **settings, **more)
        searched = [(number, chosen) for number, chosen in drawn if number]
        assert sorted({number for number, _ in searched}) == [1, 2, 3, 4, 5, 6]
        assert len(searched) == 6 * len(more.get("seeds", [0])) and len({chosen for _, chosen in searched}) > 1

    # The frontier search chooses parents twice in its first iteration, and keeps what it knows about recent ones.
    settings |= {"search": "frontier", "parents": 2, "samples": 16, "children": 8}
    del settings["keep_parents"]
    for more in ({"seed": 0}, {"seeds": [0, 1]}):
        drawn.clear()
        dl.dream("L1.N3", gpt2.bridge, iterations=6, **settings, **more)
        numbers = sorted(number for number, _ in drawn if number)
        assert numbers == sorted([*range(1, 8)] * len(more.get("seeds", [0])))
        assert len({chosen for number, chosen in drawn if number}) > 1


@pytest.mark.parametrize("search", quick_ones(["epo", "frontier", "gcg", "random"], ["frontier"]))
def test_every_search_finds_prompts_for_all_contexts(search):
    settings = {"iterations": 2, "length": 5, "search": search, "progress": False, "seed": 1}
    run = dl.dream(PRE, constraints=CONTEXTS, **settings)
    best = run.frontier.best()
    table = run.by_context(best)
    assert list(table["context"]) == [f"template '{frame.text}'" for frame in CONTEXTS.frames]
    assert best.value == pytest.approx(table["value"].min(), abs=1e-4)
    assert best.cross_entropy == pytest.approx(table["cross_entropy"].mean(), abs=1e-4)
    again = dl.score(PRE, np.array(best.ids), contexts=CONTEXTS)
    assert best.value == pytest.approx(float(again.value[0]), abs=1e-4)
    for frame, value in zip(CONTEXTS.frames, table["value"], strict=True):
        alone = dl.score(PRE, np.array(best.ids), contexts=frame)
        assert float(alone.value[0]) == pytest.approx(value, abs=1e-4)


@pytest.mark.slow
def test_runs_side_by_side_take_the_steps_that_they_take_alone():
    features, seeds = ["L2.N812", "L3.N40"], [0, 1]
    together = dl.dream(features, seeds=seeds, constraints=CONTEXTS, **SMALL)
    for run in together:
        alone = dl.dream(run.feature, seed=run.config.seed, constraints=CONTEXTS, **SMALL)
        assert np.array_equal(run.history.ids, alone.history.ids)
        np.testing.assert_allclose(run.history.value, alone.history.value, atol=1e-4)
    with pytest.raises(SettingsError, match="share_prompts offers prompts to other features in one template"):
        dl.dream(features, constraints=CONTEXTS, share_prompts=True, iterations=2, length=5, progress=False)


@pytest.mark.slow
def test_runs_are_saved_continued_and_shown(tmp_path):
    run = dl.dream("L2.N812", constraints=CONTEXTS, **{**SMALL, "iterations": 4})
    half = dl.dream("L2.N812", constraints=CONTEXTS, **{**SMALL, "iterations": 2})
    half.save(tmp_path / "half")
    opened = dl.load_run(tmp_path / "half")
    assert opened.constraints == (CONTEXTS,) and opened.provenance.contexts.startswith("min in 3 contexts (")
    opened.resume(2)
    assert np.array_equal(opened.history.ids, run.history.ids)
    assert "min in 3 contexts" in run.to_html() and "dl.constraints.contexts([" in run_code(run)
    names = {}
    exec(run_code(half).replace("progress=False", ""), names)
    assert np.array_equal(names["run"].history.ids, half.history.ids)


def test_attributions_are_in_all_contexts_and_a_prompt_alone_says_that_it_does_not_know_them(tmp_path):
    run = dl.dream("L2.N812", constraints=CONTEXTS, **SMALL)
    best = run.frontier.best()
    attribution = best.attribution(k=4)
    assert attribution.value == pytest.approx(best.value, abs=1e-4)
    given = dl.attribution("L2.N812", np.array(best.ids), k=4, contexts=CONTEXTS)
    np.testing.assert_allclose(given.values, attribution.values, atol=1e-4)
    changed = np.array(best.ids)
    changed[2] = attribution.candidates[2, 1]
    expected = dl.score("L2.N812", changed, contexts=CONTEXTS).value[0]
    assert attribution.values[2, 1] == pytest.approx(float(expected), abs=1e-4)
    saved = dl.results.Attribution.load(attribution.save(tmp_path / "a.json"))
    assert saved.contexts == attribution.contexts == best.provenance.contexts
    alone = dl.results.Prompt.from_dict(best.to_dict())
    with pytest.raises(PromptError, match=r"scored in several contexts .* which only its run knows"):
        alone.attribution()
    panel = run.explore(best)
    assert isinstance(panel, AttributionPanel) and panel.found["value"] == pytest.approx(best.value, abs=1e-4)
    assert "contexts=dl.constraints.contexts([" in panel.python["prompt"]


def test_constraints_hold_in_every_context():
    rules = [dl.constraints.contexts(["the do{dream}", "a{dream}"]), dl.constraints.forbid_text("dog")]
    run = dl.dream("L2.N812", constraints=[*rules, dl.constraints.round_trip()], **SMALL)
    for ids in run.history.ids[:40]:
        text = run.so_far.text(ids.tolist())
        assert "dog" not in ("the do" + text).casefold()
        for frame in rules[0].frames:
            before, after = frame.text.split("{dream}")
            assert as_hooked(None).vocabulary.encode(before + text + after)[-len(ids) :] == ids.tolist()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((["only one {dream}"],), "at least two contexts"),
        (("User: {dream}",), "at least two contexts"),
        ((["a {dream}", 3],), "A context is a text, a template or a chat; got 3"),
        ((["a {dream}", "a {dream}"],), "has one context twice"),
        ((["a {dream}", "b {dream}"], "max"), "combines values by mean, min, soft_min; got 'max'"),
    ],
)
def test_contexts_are_checked(arguments, sentence):
    with pytest.raises(ConstraintError) as error:
        dl.constraints.contexts(*arguments)
    assert sentence in str(error.value)


def test_one_context_may_be_given_in_every_form(gpt2):
    bridge = models.new_bridge("gpt2", gpt2.raw)
    bridge.tokenizer = chatty(CHATML)
    messages = [{"role": "user", "content": "On {dream}"}]
    value = lambda contexts: float(dl.score("L1.N3", " dog", bridge, contexts=contexts).value[0])  # noqa: E731
    stands_before = value(dl.constraints.template("Over the{dream}"))
    assert stands_before == value("Over the") == value(["Over the"]) == value("Over the{dream}")
    assert value(dl.constraints.chat(messages)) == value(messages) == value([messages])
    assert dl.constraints.contexts(["a", messages]) == dl.constraints.contexts(["a", dl.constraints.chat(messages)])
    ids = bridge.tokenizer("Over the", add_special_tokens=False)["input_ids"]
    expected = dl.generate(" dog", bridge, 3, prefix=ids)
    assert dl.generate(" dog", bridge, 3, contexts="Over the").ids == expected.ids
    before, after = dl.constraints.chat(messages).texts(bridge.tokenizer)
    answer = dl.generate(before.removeprefix("<|endoftext|>") + " dog" + after, bridge, 3)
    assert dl.generate(" dog", bridge, 3, contexts=messages).ids == answer.ids
    for contexts, said in (
        ([messages, "a"], "continued in one context, and contexts= has 2"),
        ([7], "A context is a text, a template or a chat; got 7"),
    ):
        with pytest.raises(ConstraintError, match=said):
            dl.generate(" dog", bridge, contexts=contexts)
    with pytest.raises(FeatureRangeError, match=r"In context 2 of 2: .*there is no position 3"):
        dl.score("blocks.1.mlp.hook_post[3, 3]", " dog", bridge, contexts=["Over the hill", "a"])


def test_settings_of_contexts_are_checked():
    two = ["a {dream}", "b {dream}"]
    for softness, other in ((1e-300, "min"), (1e300, "mean")):
        with pytest.raises(ConstraintError, match=f"between 1e-30 and 1e30; .* combine='{other}'"):
            dl.constraints.contexts(two, "soft_min", softness=softness)
    with pytest.raises(ConstraintError, match="softness= belongs to combine=\"soft_min\", and combine is 'mean'"):
        dl.constraints.contexts(two, softness=0.5)
    for softness in (0, -1, float("inf"), True, "x"):
        with pytest.raises(ConstraintError, match="softness is a number above 0"):
            dl.constraints.contexts(two, "soft_min", softness=softness)
    with pytest.raises(ConstraintError, match="gradients_in is a number of contexts"):
        dl.constraints.contexts(two, gradients_in=0)
    with pytest.raises(ConstraintError, match=r"only one template; got 2; put all of them into contexts"):
        dl.dream("L2.N812", constraints=[dl.constraints.contexts(two), dl.constraints.template("c {dream}")], **SMALL)
    with pytest.raises(ConstraintError, match="leave out prefix= and suffix="):
        dl.score("L2.N812", "the", contexts=two, prefix=[3])
    with pytest.raises(ConstraintError, match=r"contexts= takes template\(\), chat\(\) or contexts\(\)"):
        dl.score("L2.N812", "the", contexts=dl.constraints.printable())
    assert float(dl.score("L2.N812", "the", contexts=two).value[0]) == pytest.approx(
        float(dl.score("L2.N812", "the", contexts=dl.constraints.contexts(two)).value[0])
    )


def test_passages_are_drawn_from_a_corpus():
    texts = [f"word{i} is followed by word{i + 1} and some more text here" for i in range(30)]
    found = dl.corpus.passages(texts, 5, words=4, seed=3)
    assert len(set(found)) == 5 and all(len(p.split()) == 4 for p in found)
    assert all(any(p in text for text in texts) for p in found)
    assert found == dl.corpus.passages(texts, 5, words=4, seed=3) != dl.corpus.passages(texts, 5, words=4, seed=4)
    with pytest.raises(CorpusError, match="has only 1 different passages of 3 words"):
        dl.corpus.passages(["one two three"], 2, words=3)
    with pytest.raises(SettingsError, match="count is 0"):
        dl.corpus.passages(texts, 0)
    contexts = dl.constraints.contexts(found, "soft_min", softness=0.5, gradients_in=2)
    run = dl.dream("L2.N812", constraints=contexts, **SMALL)
    assert np.isfinite(run.frontier.best().value)


def test_work_is_counted_whole_rows_agree_and_lengths_are_checked_in_every_context(gpt2):
    scorer, _ = in_contexts("L1.N3", gpt2.bridge, Combination("mean"))
    assert isinstance(scorer, Scorer) and len(scorer.parts) == 3
    scorer.score(IDS)
    assert scorer.work.token_layers > 0
    whole = scorer.without_sharing().score(IDS)
    np.testing.assert_allclose(whole.value, scorer.score(IDS).value, atol=2e-5)
    n_ctx = gpt2.raw.config.n_positions
    with pytest.raises(PromptError, match="context is"):
        scorer.check_length(n_ctx - 4)


def test_the_command_line_takes_contexts(capsys):
    arguments = ["dream", "L2.N812", "--iterations", "1", "--length", "4", "--search", "random", "--json", "--quiet"]
    contexts = ["--context", "Return {dream}", "--context", "See also", "--combine", "soft_min", "--softness", "0.5"]
    assert main([*arguments, *contexts]) == 0
    found = json.loads(capsys.readouterr().out)
    frames = dl.constraints.contexts(["Return {dream}", "See also"], "soft_min", softness=0.5)
    best = found["table"][-1]
    expected = dl.score("L2.N812", np.array(best["ids"]) if "ids" in best else best["text"], contexts=frames)
    assert best["value"] == pytest.approx(float(expected.value[0]), abs=1e-3)
    with pytest.raises(SystemExit):
        main([*arguments, "--combine", "min"])
    assert "give them with --context" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*arguments, "--passages", "3"])
    assert "--passages is about --contexts-from" in capsys.readouterr().err


def test_the_command_line_takes_chats_and_passages_as_contexts_for_dreams_and_sweeps(tmp_path, capsys):
    folder, corpus = tmp_path / "model", tmp_path / "stories.txt"
    models.raw_model("gpt2").save_pretrained(folder)
    chatty(CHATML).save_pretrained(folder)
    corpus.write_text("The dog runs over the hill and the cat sleeps in the house of the king.\n")
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "On {dream}!"}]
    (tmp_path / "chat.json").write_text(json.dumps({"messages": messages, "add_generation_prompt": False}))
    given = ["--context", str(tmp_path / "chat.json"), "--contexts-from", str(corpus), "--passages", "3"]
    given += ["--gradients-in", "2", "--combine", "min", "--forbid", "dog"]
    common = ["L1.N3", "--model", str(folder), "--iterations", "1", "--length", "3", "--search", "gcg"]
    common += ["--children", "4", "--quiet", *given]
    frames = [dl.constraints.chat(messages, False), *dl.corpus.passages(corpus, 3)]
    expected = (dl.constraints.forbid_text("dog"), dl.constraints.contexts(frames, "min", gradients_in=2))
    assert main(["dream", *common, "--out", str(tmp_path / "run")]) == 0
    run = dl.load_run(tmp_path / "run")
    assert run.constraints == expected
    assert main(["sweep", *common, "--seeds", "1", "--out", str(tmp_path / "sweep")]) == 0
    swept = dl.load(tmp_path / "sweep")[0]
    assert swept.constraints == expected and np.array_equal(swept.history.ids, run.history.ids)
    capsys.readouterr()
    written = ["generate", " cat", "--model", str(folder), "--tokens", "3", "--json", "--quiet"]
    for option, contexts in ((["--chat", str(tmp_path / "chat.json")], frames[0]), (["--template", "a{dream}"], "a")):
        assert main([*written, *option]) == 0
        expected_ids = dl.generate(" cat", str(folder), 3, contexts=contexts).ids
        assert json.loads(capsys.readouterr().out)["ids"] == list(expected_ids)
    with pytest.raises(SystemExit):
        main([*written, "--chat", "{dream}", "--template", "a{dream}"])
    (tmp_path / "chat.json").write_text("[")
    assert main(["dream", *common]) == 1
    assert "The messages of the chat in " in capsys.readouterr().err


def test_a_target_of_several_tokens_follows_the_prompt_in_each_context(gpt2):
    """Against the plain model, by token ids: BOS, template, prompt, template, and then the target."""
    text, vocabulary = " the dog", as_hooked(gpt2.bridge).vocabulary
    target = vocabulary.target_ids(text)
    scorer, _ = in_contexts(dl.log_prob(text, reduce="sum"), gpt2.bridge, Combination("min"))
    expected = []
    for before, after in FRAMES:
        row = [gpt2.bos, *before, *IDS[0].tolist(), *after]
        with torch.no_grad():
            log_probs = gpt2.raw(torch.tensor([[*row, *target]])).logits[0].log_softmax(-1)
        expected.append(sum(float(log_probs[len(row) - 1 + i, token]) for i, token in enumerate(target)))
    assert scorer.score(IDS[0]).value[0] == pytest.approx(min(expected), abs=1e-4)


@pytest.mark.parametrize("search", ["epo", "frontier"])
def test_a_run_with_drawn_contexts_goes_on_as_if_it_had_not_stopped(tmp_path, search):
    contexts = dl.constraints.contexts(
        ["Return {dream}", "See also", "Raises"], "soft_min", softness=0.5, gradients_in=2
    )
    # So many parents that the tables of earlier ones are used again, as donors.
    small = {"children": 40, "parents": 10, "samples": 8, "length": 5, "search": "frontier", "progress": False}
    small, half = (SMALL, 2) if search == "epo" else (small, 4)
    whole = dl.dream(PRE, constraints=contexts, **{**small, "iterations": 2 * half})
    dl.dream(PRE, constraints=contexts, **{**small, "iterations": half}).save(tmp_path / "run")
    opened = dl.load_run(tmp_path / "run")
    opened.resume(half)
    assert np.array_equal(opened.history.ids, whole.history.ids)
