"""Models while they are used: by threads, moved, edited, put back into training, and from other working folders."""

from __future__ import annotations

import copy
import pickle
import shutil
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models
from transformers import PreTrainedTokenizerFast

import dreamy_lens as dl
from dreamy_lens.cli.main import main
from dreamy_lens.errors import HookNotFiredError, ModelError, PromptError, TokenError, UnknownHookError
from dreamy_lens.models import Vocabulary, as_hooked, load_model, located, locked, wrap
from dreamy_lens.scoring import Scorer
from tests.helpers import models
from tests.helpers.dreams import SMALL
from tests.helpers.scorers import make_scorer

FEATURE = "blocks.0.mlp.hook_post[-1, 3]"
IDS = np.random.default_rng(0).integers(1, 320, size=(6, 7))


def own(name: str = "gpt2", **config: Any) -> Any:
    """A bridge of the test's own, which it may change."""
    raw = models.raw_model(name)
    for key, value in config.items():
        setattr(raw.config, key, value)
    return models.new_bridge(name, raw)


# Threads.


def together(*jobs: Callable[[], Any]) -> list[Any]:
    """The results of jobs that start at the same moment, each in a thread; the first error of any is raised."""
    start, results, errors = threading.Barrier(len(jobs)), [None] * len(jobs), []

    def work(i: int) -> None:
        start.wait()
        try:
            results[i] = jobs[i]()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads), "the threads wait for each other"
    if errors:
        raise errors[0]
    return results


def test_two_dreams_at_once_on_one_bridge_are_those_of_one_after_the_other(gpt2):
    def dream(feature: str, seed: int) -> Callable[[], Any]:
        return lambda: dl.dream(feature, gpt2.bridge, seed=seed, **SMALL, iterations=12).history

    jobs = [dream("L1.N3", 1), dream("blocks.0.attn.hook_result[-1, 1, 3]", 2)]
    for found, alone in zip(together(*jobs), [job() for job in jobs], strict=True):
        np.testing.assert_array_equal(found.ids, alone.ids)
        np.testing.assert_array_equal(found.value, alone.value)
        np.testing.assert_array_equal(found.cross_entropy, alone.cross_entropy)


def test_values_gradients_and_scores_at_once_are_those_alone_also_for_two_wrappers_of_a_bridge(llama):
    bridge = llama.bridge
    shallow = make_scorer("blocks.0.mlp.hook_post[-1, 3]", wrap(bridge, "one"))
    deep = make_scorer("blocks.1.hook_resid_post[-1, 5]", wrap(bridge, "other"))

    def job(scorer: Scorer) -> Callable[[], Any]:
        def work() -> list[np.ndarray]:
            out = []
            for k in range(25):
                ids = (IDS + k) % 320 + 1
                out += [scorer.values(ids), scorer.score(ids).cross_entropy, scorer.gradient(ids).of_value().numpy()]
            return out

        return work

    jobs = [job(shallow), job(deep), job(shallow)]
    for found, alone in zip(together(*jobs), [job() for job in jobs], strict=True):
        for a, b in zip(found, alone, strict=True):
            np.testing.assert_array_equal(a, b)


def test_threads_that_need_two_models_in_different_orders_do_not_wait_for_each_other(gpt2, llama):
    one = make_scorer(FEATURE, gpt2.bridge, fluency_model=llama.bridge)
    other = make_scorer(FEATURE, llama.bridge, fluency_model=gpt2.bridge)
    together(*([lambda s=s: [s.gradient(IDS) for _ in range(15)] for s in (one, other)]))


def test_one_bridge_has_one_lock_which_copies_do_not_share():
    bridge = own()
    one, other = as_hooked(bridge), wrap(bridge)
    assert one.lock is other.lock
    with locked([one, other]), one.frozen():
        one.run(torch.tensor([[1, 2]]))  # it is re-entrant
    copied = copy.deepcopy(bridge)
    assert as_hooked(copied).lock is not one.lock and as_hooked(copied).source is copied
    pickle.dumps(Vocabulary(models.tokenizer(), 300))


def test_threads_that_ask_for_a_bridge_at_once_get_one_wrapper():
    bridge = own()
    assert len(set(together(*[lambda: as_hooked(bridge)] * 4))) == 1
    assert len(set(together(*[as_hooked] * 4))) == 1


# Training mode.


@pytest.mark.parametrize("what", ["bridge", "original"])
def test_a_model_put_back_into_training_is_scored_without_dropout(what):
    raw = models.raw_model("gpt2")
    for module in raw.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    bridge = models.new_bridge("gpt2", raw)
    scorer = make_scorer(FEATURE, bridge)
    expected, slope = scorer.score(IDS), scorer.gradient(IDS).of_value()
    for call in range(3):
        (bridge if what == "bridge" else bridge.original_model).train()
        if call == 0:
            np.testing.assert_array_equal(scorer.score(IDS).cross_entropy, expected.cross_entropy)
        elif call == 1:
            np.testing.assert_array_equal(scorer.values(IDS), expected.value)
        else:
            torch.testing.assert_close(scorer.gradient(IDS).of_value(), slope, rtol=0, atol=0)
        assert not bridge.training and not bridge.original_model.training


# Moves and other precisions.


def test_a_change_of_precision_after_first_use_is_followed():
    bridge = own()
    scorer, model = make_scorer(FEATURE, bridge), as_hooked(bridge)
    before, slope = scorer.score(IDS), scorer.gradient(IDS).of_value()
    bridge.to(torch.float64, print_details=False)
    assert model.dtype == torch.float64 and model.embedding_table.dtype == torch.float64
    np.testing.assert_allclose(scorer.score(IDS).value, before.value, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scorer.gradient(IDS).of_value(), slope, rtol=1e-3, atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_move_to_another_device_after_first_use_is_followed():
    bridge = own()
    scorer = make_scorer(FEATURE, bridge)
    before, slope = scorer.score(IDS), scorer.gradient(IDS).of_value()
    bridge.to("cuda", print_details=False)
    assert as_hooked(bridge).device.type == "cuda"
    np.testing.assert_allclose(scorer.score(IDS).value, before.value, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(scorer.gradient(IDS).of_value().cpu(), slope, rtol=1e-3, atol=1e-3)


# Edited weights.


@pytest.mark.parametrize("mode", [models.family, models.compatible])
@pytest.mark.parametrize("name", models.FAMILIES)
def test_the_table_has_what_the_bridge_embeds_tokens_to(name, mode):
    model, seen = as_hooked(mode(name).bridge), []
    ids = torch.from_numpy(IDS)
    with torch.no_grad(), model.source.hooks(fwd_hooks=[("embed.hook_out", lambda x, hook: seen.append(x.clone()))]):
        model.source(ids)
    assert torch.equal(model.embedding_table[ids], seen[0]) and torch.equal(model.embed(ids), seen[0])


@pytest.mark.parametrize("name", models.FAMILIES)
def test_gradients_are_those_of_weights_edited_behind_torch_s_back(name):
    bridge = own(name)
    scorer = make_scorer("blocks.1.hook_resid_post[-1, 5]", bridge)
    scorer.gradient(IDS)
    bridge.embed.weight.data.mul_(2)
    found = scorer.gradient(IDS)
    np.testing.assert_allclose(found.value.numpy(), scorer.score(IDS).value, rtol=1e-5, atol=1e-6)
    fresh = make_scorer("blocks.1.hook_resid_post[-1, 5]", wrap(bridge)).gradient(IDS)
    torch.testing.assert_close(found.of_value(), fresh.of_value(), rtol=0, atol=0)
    still = scorer.values_at(IDS, torch.zeros(*IDS.shape, 32))
    np.testing.assert_allclose(still.numpy(), found.value.numpy(), rtol=1e-5, atol=1e-6)


# Interrupts.


def test_an_interrupt_while_a_request_is_made_takes_it_back(monkeypatch):
    bridge = own()
    model, ask = as_hooked(bridge), type(bridge).set_use_attn_result

    def interrupted(wanted: bool) -> None:
        ask(bridge, wanted)
        if wanted:
            raise KeyboardInterrupt

    monkeypatch.setattr(bridge, "set_use_attn_result", interrupted, raising=False)
    with pytest.raises(KeyboardInterrupt):
        model.run(torch.tensor([[1, 2]]), ["blocks.0.attn.hook_result"])
    assert not bridge.cfg.use_attn_result


def test_an_interrupt_while_parameters_are_frozen_frees_them():
    bridge = own()
    model = as_hooked(bridge)
    bridge.requires_grad_(True)

    class Stubborn(torch.nn.Parameter):
        def requires_grad_(self, requires_grad: bool = True) -> Any:
            if not requires_grad:
                raise KeyboardInterrupt
            return super().requires_grad_(requires_grad)

    owner = [m for m in bridge.modules() if m._parameters.get("weight") is not None][3]
    owner.weight = Stubborn(owner.weight.data)
    with pytest.raises(KeyboardInterrupt), model.frozen():
        pass
    assert all(p.requires_grad for p in bridge.parameters())


# Names.


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A model folder `here/tiny`, with `here` as the working folder."""
    place = tmp_path / "here" / "tiny"
    models.raw_model("llama").save_pretrained(place)
    models.tokenizer().save_pretrained(place)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return place


def test_a_run_on_a_folder_named_relatively_goes_on_from_another_working_folder(folder, tmp_path, monkeypatch):
    path = str(folder)
    names = [as_hooked("tiny").name, as_hooked("./tiny").name, as_hooked(load_model("tiny")).name]
    names += [wrap(load_model("tiny"), "tiny").name, load_model("tiny").cfg.model_name]
    assert names == [path] * 5
    run = dl.dream("L1.N3", "tiny", save_to=tmp_path / "run", **SMALL, iterations=2)
    assert run.provenance.model == path
    assert main(["dream", "L1.N3", "--model", "tiny", "--out", str(tmp_path / "cli"), "--quiet", "--iterations=1"]) == 0
    monkeypatch.chdir(tmp_path / "elsewhere")
    for name, iterations in (("run", 2), ("cli", 1)):
        again = dl.load_run(tmp_path / name)
        again.resume(1, progress=False)
        assert again.provenance.model == path and again.iteration == iterations + 1


def test_names_that_are_no_model_folder_stay(folder):
    (folder.parent / "empty").mkdir()
    assert [located(n) for n in ("gpt2", "owner/name", "embedded", "empty")] == [
        "gpt2",
        "owner/name",
        "embedded",
        "empty",
    ]
    shutil.copytree(folder, folder.parent / "embedded")
    assert as_hooked("embedded").name == "embedded" and wrap(own(), "mine").name == "mine"


@pytest.mark.parametrize("name", ["a folder", "owner/", r"C:\models\tiny", "x" * 120])
def test_the_hub_is_not_asked_for_what_cannot_be_its(name, monkeypatch):
    from transformer_lens.model_bridge import TransformerBridge

    asked: list[Any] = []
    monkeypatch.setattr(TransformerBridge, "boot_transformers", lambda *given, **more: asked.append(given))
    with pytest.raises(ModelError, match=r"There is no folder '.*' \(working folder: .*owner/name"):
        load_model(name)
    assert not asked


def test_offline_the_missing_folder_is_named(monkeypatch, tmp_path):
    from transformer_lens.model_bridge import TransformerBridge

    def fail(*given: Any, **more: Any) -> None:
        raise OSError("not in the cache.")

    monkeypatch.setattr(TransformerBridge, "boot_transformers", fail)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"not in the cache\. There is no such folder in '.*HF_HUB_OFFLINE is set\. "):
        load_model("tiny")


# Targets.

PIECES = ("▁", "▁the", "the", "▁dog", "▁ho", "use", "▁▁", "▁walrus", "e", "t", "h", "cat")
BYTES = tuple(f"<0x{i:02X}>" for i in range(256))
NAMES = ("<unk>", "<s>", "</s>", *BYTES, *PIECES)
IDS_OF = {name: i for i, name in enumerate(NAMES)}


def metaspace(scheme: str = "first") -> PreTrainedTokenizerFast:
    """A tokenizer as Llama's: spaces are ▁, one stands before every text, and what has no piece is bytes."""
    scores = [(name, -1.0 - 10.0 * name.startswith("<") - len(name) * 0.0) for name in NAMES]
    unigram = Tokenizer(tokenizer_models.Unigram(scores, unk_id=0, byte_fallback=True))
    unigram.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    strip = [decoders.Strip(" ", 1, 0)] if scheme != "never" else []
    unigram.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    return PreTrainedTokenizerFast(tokenizer_object=unigram, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


LLAMA_LIKE = Vocabulary(metaspace(), len(NAMES) + 2)


def test_pieces_of_a_metaspace_tokenizer_have_all_their_spaces():
    read = [LLAMA_LIKE.piece(IDS_OF[name]) for name in PIECES]
    assert read == [name.replace("▁", " ") for name in PIECES]


@pytest.mark.parametrize("scheme", ["first", "always", "never"])
@pytest.mark.parametrize("name", PIECES)
def test_a_target_is_the_token_that_reads_so(name, scheme):
    vocabulary = Vocabulary(metaspace(scheme), len(NAMES))
    assert vocabulary.token_id(name.replace("▁", " ")) == IDS_OF[name]


def test_a_target_that_only_bytes_have_is_that_byte():
    assert LLAMA_LIKE.token_id("\n") == IDS_OF["<0x0A>"] and LLAMA_LIKE.token_id("A") == IDS_OF["<0x41>"]
    assert LLAMA_LIKE.token_id("e") == IDS_OF["e"] != IDS_OF["<0x65>"]
    assert LLAMA_LIKE.token_id("<s>") == 1


@pytest.mark.parametrize(
    ("token", "sentence"),
    [
        (
            " the dog",
            f"2 tokens here: ' the' + ' dog'. A target is one token: take the first, ' the' (id {IDS_OF['▁the']}).",
        ),
        (" cat", "2 tokens here: ' ' + 'cat'. A target is one token: 'cat' without the space, which is one token."),
        ("thee", "2 tokens here: ' the' + 'e'. A target is one token: take the first, ' the'"),
    ],
)
def test_the_advice_about_a_split_target_is_never_a_bare_space(token, sentence):
    with pytest.raises(TokenError) as caught:
        LLAMA_LIKE.token_id(token)
    assert sentence in str(caught.value) and "first, ' '" not in str(caught.value)


def test_a_target_after_a_trained_sentencepiece_tokenizer(stories):
    vocabulary = as_hooked(stories.bridge).vocabulary
    names = stories.tokenizer.convert_ids_to_tokens(range(len(stories.tokenizer)))
    assert names[vocabulary.token_id(" the")] == "▁the" and names[vocabulary.token_id("A")] == "A"
    assert names[vocabulary.token_id("\n")] == "<0x0A>"
    for i in np.flatnonzero(vocabulary.allowed):
        piece = vocabulary.piece(i)
        if "\ufffd" not in piece:
            assert vocabulary.piece(vocabulary.token_id(piece)) == piece
    with pytest.raises(TokenError, match=r"take the first, ' do' .id \d+.\."):
        vocabulary.token_id(" dog house")
    run = dl.dream("L1.N3", stories.bridge, constraints=dl.constraints.fix({0: " the"}), **SMALL, iterations=1)
    assert (run.history.ids[:, 0] == vocabulary.token_id(" the")).all()
    assert np.isfinite(dl.score('logit(" the")', ["Once upon"], stories.bridge).value).all()


def test_a_target_is_an_id_of_any_kind_of_integer():
    assert [LLAMA_LIKE.token_id(kind(5)) for kind in (int, np.int64, np.uint8, np.int32)] == [5] * 4  # pyright: ignore
    assert type(LLAMA_LIKE.token_id(np.int64(5))) is int  # pyright: ignore[reportArgumentType]
    for token in (1.5, [3], True, None, b"the", np.float32(2), np.bool_(True)):
        with pytest.raises(TokenError, match=r"one token, as a text or as an id; got .*\("):
            LLAMA_LIKE.token_id(token)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("vocabulary", [LLAMA_LIKE, Vocabulary(models.tokenizer(), 330)])
def test_half_of_a_surrogate_pair_is_told_in_plain_words(vocabulary):
    sentence = r"its character 2, '\\ud83d', is half of a surrogate pair"
    for call in (vocabulary.encode, lambda text: vocabulary.encode_many(["fine", text])):
        with pytest.raises(PromptError, match=sentence) as caught:
            call("ab\ud83d")
        assert "TextEncodeInput" not in str(caught.value)
    with pytest.raises(TokenError, match=sentence):
        vocabulary.token_id("ab\ud83d")
    with pytest.raises(PromptError, match=r"A text was expected, and got 3 \(int\)"):
        vocabulary.encode(3)  # pyright: ignore[reportArgumentType]


# Hook points.


def test_a_neuron_in_small_letters_is_answered_with_its_spelling(gpt2):
    with pytest.raises(
        UnknownHookError, match=r"no hook point 'l1.n17'; the neuron 17 of layer 1 is written L1\.N17\."
    ):
        dl.score("l1.n17", "the dog", gpt2.bridge)


def test_a_silent_hook_point_is_told_while_other_threads_score(neox):
    scorer = make_scorer(FEATURE, neox.bridge)
    model = as_hooked(neox.bridge)

    def silent() -> None:
        for _ in range(5):
            with pytest.raises(HookNotFiredError, match="a forward pass does not go through it"):
                model.run(torch.from_numpy(IDS), ["blocks.0.attn.qkv.hook_in"], logits=False)

    together(silent, lambda: [scorer.gradient(IDS) for _ in range(10)])
    assert not any(point.fwd_hooks for point in neox.bridge.hook_dict.values())
