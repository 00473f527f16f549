"""Going on with a run: in the precision it was made in, with what its text cannot hold, from copies, after any key."""

from __future__ import annotations

import copy
import json
import os
import pickle
import re
import signal
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dreamy_lens as dl
from dreamy_lens import _files
from dreamy_lens.cli.main import main
from dreamy_lens.errors import RunFolderError, SettingsError
from dreamy_lens.features import constructors
from dreamy_lens.models import load as loading
from dreamy_lens.results import merge
from dreamy_lens.results import storage as folders
from dreamy_lens.runs import Dream
from dreamy_lens.scoring import Scorer
from tests.helpers import models
from tests.helpers.dreams import FEATURE, dream, same
from tests.helpers.quick import quick_ones

POINT = "blocks.0.mlp.hook_post"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> str:
    """A model as a Hugging Face folder."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    models.raw_model("gpt2").save_pretrained(path)
    models.tokenizer().save_pretrained(path)
    return str(path)


@pytest.fixture
def strict():
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        yield


def loaded(name: str, dtype: str) -> Any:
    from dreamy_lens.models import wrap

    return wrap(dl.load_model(name, device="cpu", dtype=dtype), name)


def altered(path: Path, change: Any, sealed: bool = True) -> None:
    """Edit a run's meta; sealed, with a checksum that fits, as a hand-written file might have none."""
    head = json.loads((path / "run.json").read_text("ascii"))
    change(head["meta"])
    if sealed:
        del head["meta_sha256"]
    (path / "run.json").write_text(json.dumps(head), "ascii")


# Precision and device.


@pytest.mark.parametrize("dtype", quick_ones(["bfloat16", "float32", "float64"], ["bfloat16"]))
def test_a_model_loaded_by_its_name_comes_in_the_run_s_own_precision(tiny, tmp_path, strict, dtype):
    full = dream(loaded(tiny, dtype), fluency_model=loaded(tiny, dtype))
    dream(loaded(tiny, dtype), fluency_model=loaded(tiny, dtype), iterations=4).save(tmp_path / "run")
    for again in (dl.load_run(tmp_path / "run"), dl.load_run(tmp_path / "run", tiny, fluency_model=Path(tiny))):
        same(again.resume(4, progress=False).history, full.history)
        scorer = again.session.scorer
        assert scorer.model.dtype == scorer.fluency.dtype == getattr(torch, dtype)
        assert scorer.model is not scorer.fluency


def test_the_embedded_model_too(tmp_path, strict):
    dream(loaded("embedded", "bfloat16"), iterations=1).save(tmp_path / "run")
    assert dl.load_run(tmp_path / "run").resume(1, progress=False).session.scorer.model.dtype == torch.bfloat16
    dream(None, iterations=1).save(tmp_path / "usual")
    again = dl.load_run(tmp_path / "usual").resume(1, progress=False)
    assert again.session.scorer.model is loading.as_hooked(None)  # not a second copy of it


def test_another_precision_is_told_and_from_then_on_known(tiny, tmp_path):
    path = tmp_path / "run"
    dream(loaded(tiny, "float32"), iterations=2).save(path)
    run = dl.load_run(path, loaded(tiny, "bfloat16"))
    said = (
        "not continue exactly as if it had never stopped: "
        "the model was in float32 on cpu when the run was made, and is in"
    )
    with pytest.warns(RuntimeWarning, match=f"{said} bfloat16 on cpu now") as caught:
        run.resume(1, progress=False)
    assert caught[0].filename == __file__
    run.save()
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        run.resume(1, progress=False)
        again = dl.load_run(path).resume(1, progress=False)  # in bfloat16, which it went on in
        assert again.session.scorer.model.dtype == torch.bfloat16
    with pytest.warns(RuntimeWarning, match="bfloat16 on cpu when the run was made, and is in float32 on cpu now"):
        dl.load_run(path, loaded(tiny, "float32")).resume(1, progress=False)


def test_looking_at_a_run_in_another_precision_is_not_going_on_with_it(tiny, tmp_path, strict):
    dream(loaded(tiny, "bfloat16"), iterations=1).save(tmp_path / "run")
    run = dl.load_run(tmp_path / "run", loaded(tiny, "float32"))
    assert run.frontier[0].attribution(k=2).values.shape == (5, 2)
    run.save()
    assert dl.load_run(tmp_path / "run").resume(1, progress=False).session.scorer.model.dtype == torch.bfloat16


def test_weights_that_are_a_little_other_are_another_model(gpt2, whole, tmp_path):
    whole.save(tmp_path / "run")
    raw = copy.deepcopy(gpt2.raw)
    with torch.no_grad():
        raw.transformer.h[0].mlp.c_proj.weight.mul_(1.02)
    with pytest.raises(RunFolderError, match=r"belongs to another model: it was made on .* with other weights"):
        dl.load_run(tmp_path / "run", models.new_bridge("gpt2", raw)).resume(1)
    altered(tmp_path / "run", lambda meta: meta["identity"].pop("weights"))  # as earlier versions saved it
    with pytest.raises(RunFolderError, match=r"belongs to another model: the .* of one of its prompts was"):
        dl.load_run(tmp_path / "run", models.new_bridge("gpt2", raw)).resume(1)
    again = dl.load_run(tmp_path / "run", models.new_bridge("gpt2", gpt2.raw))
    assert again.resume(1, progress=False).iteration == 9


def test_a_model_without_the_feature_is_told_to_be_another_model(gpt2, tmp_path):
    small = {"iterations": 1, "population": 2, "children": 4, "length": 5, "progress": False}
    dl.dream("L2.N812", save_to=tmp_path / "run", **small)
    said = r"made on 'embedded', and its feature does not fit 'tiny-gpt2', which is another model: .*\. Give the"
    with pytest.raises(RunFolderError, match=said):
        dl.load_run(tmp_path / "run", model=gpt2.bridge).resume(1)


def test_a_fluency_model_of_another_make_is_told_by_what_it_has(gpt2, whole, tmp_path):
    dream(gpt2.bridge, fluency_model=models.family("llama").bridge, iterations=1).save(tmp_path / "run")
    altered(tmp_path / "run", lambda meta: meta["identity"]["fluency"].update(n_layers=7))
    run = dl.load_run(tmp_path / "run", gpt2.bridge, fluency_model=models.family("llama").bridge)
    said = (
        r"was made on 'tiny-llama' with n_layers 7, .* another fluency model\. .*load_run\(path, fluency_model=model\)"
    )
    with pytest.raises(RunFolderError, match=said):
        run.resume(1)


def test_a_device_that_is_not_here_is_replaced_and_told(tiny, tmp_path):
    dream(loaded(tiny, "float32"), iterations=1).save(tmp_path / "run")
    altered(tmp_path / "run", lambda meta: meta["identity"].update(device="xpu"))
    run = dl.load_run(tmp_path / "run")
    with pytest.warns(RuntimeWarning, match="was in float32 on xpu when the run was made, and is in float32 on"):
        assert run.resume(1, progress=False).iteration == 2


def test_a_folder_that_does_not_say_its_precision_still_goes_on(gpt2, whole, tmp_path, strict):
    dream(gpt2.bridge, iterations=4).save(tmp_path / "run")
    names = ("tokenizer", "n_layers", "d_vocab")
    altered(tmp_path / "run", lambda meta: meta.update(identity={n: meta["identity"][n] for n in names}))
    same(dl.load_run(tmp_path / "run", gpt2.bridge).resume(4, progress=False).history, whole.history)


def test_the_command_line_goes_on_in_the_run_s_precision(tiny, tmp_path, strict, monkeypatch, capsys):
    path = str(tmp_path / "run")
    small = "--iterations 1 --population 2 --children 4 --top-k 16 --length 4 --quiet".split()
    assert (
        main(["dream", "L1.N3", "--model", tiny, "--dtype", "bfloat16", "--device", "cpu", *small, "--out", path]) == 0
    )
    seen, load = [], loading.load_model

    def noted(*arguments, **options):
        bridge = load(*arguments, **options)
        seen.append(next(bridge.parameters()).dtype)
        return bridge

    monkeypatch.setattr(loading, "load_model", noted)
    for words in ([], ["--device", "cpu"], ["--model", tiny], ["--dtype", "bfloat16"]):
        assert main(["dream", "--resume", path, "--iterations", "1", "--quiet", *words]) == 0, capsys.readouterr().err
    assert seen == [torch.bfloat16] * 4 and dl.load_run(path).iteration == 5


# What the text of a feature cannot hold.


class Encoder:
    """The least that counts as a sparse autoencoder in memory."""

    hook_name, d_in, d_sae = "blocks.1.hook_resid_post", 16, 4

    def __init__(self, width: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.weight, self.d_in = torch.randn(width, 4, generator=generator), width

    def encode(self, x):
        return x @ self.weight


def width_of(bridge: Any) -> int:
    return int(bridge.cfg.d_model)


def features(gpt2: Any) -> dict[str, Any]:
    made = Encoder(width_of(gpt2.bridge))
    return {
        "an SAE": dl.sae_latent(made, 2, hook=Encoder.hook_name),
        "a model": dl.neuron(1, 3) - 0.5 * dl.features.mean_cross_entropy(models.family("llama").bridge),
        "a function": dl.custom("own", [POINT], lambda a: a[POINT][:, -1, 0]),
    }


@pytest.mark.parametrize("what", ["an SAE", "a model", "a function"])
def test_a_feature_with_an_object_goes_on_if_the_object_is_given(gpt2, tmp_path, monkeypatch, strict, what):
    feature, path = features(gpt2)[what], tmp_path / "run"
    full = dream(gpt2.bridge, feature)
    dream(gpt2.bridge, feature, iterations=4).save(path)
    monkeypatch.setattr(constructors, "_customs", {})
    with pytest.raises(RunFolderError, match=r"cannot continue\. Give the feature: load_run\(path, feature=...\)"):
        dl.load_run(path, gpt2.bridge).resume(4)
    again = dl.load_run(path, gpt2.bridge, feature=feature)
    assert again.feature is feature and again.provenance == full.provenance
    same(again.resume(4, progress=False).history, full.history)
    again.save()
    assert dl.load_run(path, gpt2.bridge, feature=feature).resume(1, progress=False).iteration == 9


def test_another_feature_is_refused_by_its_text_or_else_by_its_scores(gpt2, whole, tmp_path):
    path = tmp_path / "run"
    made = dl.sae_latent(Encoder(width_of(gpt2.bridge)), 2, hook=Encoder.hook_name)
    dream(gpt2.bridge, made, iterations=2).save(path)
    for other in ("L1.N3", dl.sae_latent(Encoder(width_of(gpt2.bridge)), 3, hook=Encoder.hook_name)):
        with pytest.raises(
            RunFolderError, match=r"drives another feature: sae_latent\(<Encoder>, 2, .*Give the feature"
        ):
            dl.load_run(path, gpt2.bridge, feature=other)
    alike = dl.sae_latent(Encoder(width_of(gpt2.bridge), seed=1), 2, hook=Encoder.hook_name)
    with pytest.raises(RunFolderError, match=r"the value of one of its prompts was .*feature="):
        dl.load_run(path, gpt2.bridge, feature=alike).resume(1)
    whole.save(tmp_path / "plain")
    assert dl.load_run(tmp_path / "plain", gpt2.bridge, feature=FEATURE).resume(1, progress=False).iteration == 9


def test_files_are_saved_with_their_whole_path_and_may_be_moved(gpt2, tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    np.save("v.npy", np.random.default_rng(0).normal(size=width_of(gpt2.bridge)).astype(np.float32))
    feature = dl.hook("blocks.1.hook_resid_post")[-1] @ "v.npy"
    run = dream(gpt2.bridge, feature, iterations=1, save_to="run")
    assert str(tmp_path / "a" / "v.npy") in run.provenance.feature and str(run.feature) == str(feature)
    monkeypatch.chdir(tmp_path / "b")
    path = tmp_path / "a" / "run"
    again = dl.load_run(path, gpt2.bridge)
    assert again.provenance == run.provenance and repr(again) == repr(run)
    assert again.resume(1, progress=False).iteration == 2
    os.rename(tmp_path / "a" / "v.npy", tmp_path / "b" / "v.npy")
    again = dl.load_run(path, gpt2.bridge, feature=dl.hook("blocks.1.hook_resid_post")[-1] @ "v.npy")
    again.resume(1, progress=False).save()
    assert dl.load_run(path, gpt2.bridge).resume(1, progress=False).iteration == 3


def test_all_places_of_files_in_a_feature(tmp_path, monkeypatch):

    monkeypatch.chdir(tmp_path)
    for name in ("v.safetensors", "sae/cfg.json", "lm/config.json"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    here = tmp_path.as_posix()
    pairs = {
        'blocks.1.hook_resid_post[-1] @ "v.safetensors:x"': f'blocks.1.hook_resid_post[-1] @ "{here}/v.safetensors:x"',
        '2 * sae_latent("sae", 3) - mean_cross_entropy("lm")': f'2 * sae_latent("{here}/sae", 3) - '
        f'mean_cross_entropy("{here}/lm")',
        'mean_cross_entropy("gpt2") + L1.N3': 'mean_cross_entropy("gpt2") + blocks.1.mlp.hook_post[-1, 3]',
        'blocks.1.hook_resid_post[-1].cosine("none.npy")': 'blocks.1.hook_resid_post[-1].cosine("none.npy")',
    }
    for short, long in pairs.items():
        assert str(dl.parse(short).absolute()) == long and dl.parse(long).absolute() == dl.parse(long)


# Ctrl-C while saving.


@pytest.mark.skipif(os.name == "nt", reason="signals are sent otherwise there")
@pytest.mark.parametrize("presses", [1, 3])
def test_ctrl_c_in_the_last_save_costs_nothing(gpt2, whole, tmp_path, monkeypatch, strict, presses):
    write = _files.write_synced

    def pressed(*arguments):
        if "run.json" in arguments[0].name and json.loads(arguments[1])["meta"]["state"]["iteration"] == 8:
            for _ in range(presses):
                os.kill(os.getpid(), signal.SIGINT)
        write(*arguments)

    monkeypatch.setattr(_files, "write_synced", pressed)
    usual = signal.getsignal(signal.SIGINT)
    run = dream(gpt2.bridge, save_to=tmp_path / "run")
    assert signal.getsignal(signal.SIGINT) is usual
    same(run.history, whole.history)
    same(dl.load_run(tmp_path / "run").history, whole.history)


@pytest.mark.skipif(os.name == "nt", reason="signals are sent otherwise there")
def test_ctrl_c_in_a_save_on_the_way_ends_the_run_when_the_save_is_whole(gpt2, whole, tmp_path, monkeypatch):
    save = Dream.save

    def pressed(self, path=None, **settings):
        if self.iteration == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return save(self, path, **settings)

    monkeypatch.setattr(Dream, "save", pressed)
    run = dream(gpt2.bridge, save_to=tmp_path / "run")
    assert run.iteration == 0 and dl.load_run(tmp_path / "run").iteration == 0
    same(run.resume(progress=False).history, whole.history)


@pytest.mark.parametrize("times", [1, 9])
def test_an_interrupt_that_cannot_be_held_back_is_survived(gpt2, whole, tmp_path, monkeypatch, times):
    save, left = Dream.save, [times]

    def interrupted(self, path=None, **settings):
        if self.iteration == 8 and left[0]:
            left[0] -= 1
            raise KeyboardInterrupt
        return save(self, path, **settings)

    monkeypatch.setattr(Dream, "save", interrupted)
    if times > 3:
        with pytest.warns(
            RuntimeWarning, match=r"was interrupted while it was saved; call run.save\('.*run'\) to save it"
        ):
            run = dream(gpt2.bridge, save_to=tmp_path / "run")
        assert dl.load_run(tmp_path / "run").iteration == 0
    else:
        run = dream(gpt2.bridge, save_to=tmp_path / "run")
        same(dl.load_run(tmp_path / "run").history, whole.history)
    same(run.history, whole.history)


# Copies.


class Weighty:
    """Refuses to be copied, as a model on a busy machine should be."""

    def __deepcopy__(self, memo):
        raise AssertionError("the model was copied")

    def __reduce__(self):
        raise AssertionError("the model was pickled")


def test_prompts_and_frontiers_are_copied_without_their_model(gpt2, whole, monkeypatch):
    monkeypatch.setattr(gpt2.bridge, "_weighty", Weighty(), raising=False)
    prompt, frontier = whole.frontier[0], whole.frontier
    assert copy.deepcopy(prompt) is prompt and copy.copy(prompt) is prompt
    assert copy.deepcopy(frontier) == frontier and copy.deepcopy(frontier)[0].attribution(k=2).values.shape == (5, 2)
    data = pickle.dumps([prompt, frontier])
    assert len(data) < 20_000 and pickle.loads(data) == [prompt, frontier]
    assert pickle.loads(data)[0]._tools is None


def test_a_pickled_prompt_asks_the_model_of_its_name(tmp_path):
    prompt = dream(None, "L2.N17", iterations=1).frontier.best()
    again = pickle.loads(pickle.dumps(prompt))
    first, second = prompt.attribution(k=3), again.attribution(k=3)
    np.testing.assert_array_equal(first.candidates, second.candidates)
    np.testing.assert_allclose(first.values, second.values, atol=1e-5)


def test_a_pickled_run_leaves_its_model_behind_and_opens_it_when_needed(tiny, tmp_path, strict):
    full = dream(loaded(tiny, "bfloat16"))
    run = dream(loaded(tiny, "bfloat16"), iterations=4)
    run.session.scorer.model.source._weighty = Weighty()
    for protocol in (2, pickle.HIGHEST_PROTOCOL):
        again = pickle.loads(pickle.dumps(run, protocol))
        assert not again.has_session and again.config == run.config and again.folder is None
        same(again.history, run.history)
        assert again.frontier.prompts == run.frontier.prompts and again.population == run.population
        assert str(again) == str(run) and repr(again) == repr(run)
        same(again.resume(4, progress=False).history, full.history)
    merged = pickle.loads(pickle.dumps(merge([run, full])))
    assert merged.frontier == merge([run, full]).frontier


def test_a_run_that_was_loaded_is_pickled_too(gpt2, whole, tmp_path):
    whole.save(tmp_path / "run")
    again = pickle.loads(pickle.dumps(dl.load_run(tmp_path / "run", gpt2.bridge)))
    assert again.folder == tmp_path / "run" and again.frontier == whole.frontier


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy])
def test_a_copied_run_shares_the_model_and_goes_its_own_way(gpt2, whole, how):
    run = dream(gpt2.bridge, iterations=4)
    before = run.history
    again = how(run)
    assert again.model is gpt2.bridge and again.frontier == run.frontier
    again.resume(4, progress=False)
    same(again.history, whole.history)
    assert run.iteration == 4 and run.history is before
    same(run.resume(4, progress=False).history, whole.history)


def test_a_copy_of_a_loaded_run_reads_its_own_texts(gpt2, whole, tmp_path, monkeypatch):
    whole.save(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(loading, "load_model", lambda *a, **k: pytest.fail("a model was loaded"))
        run = dl.load_run(tmp_path / "run", gpt2.bridge)
        again = copy.deepcopy(run)
        assert again.frontier == whole.frontier
    other = next(ids for ids in again.history.ids if tuple(ids) not in {p.ids for p in again.frontier})
    again.so_far.text(other)  # a text that was not saved needs the tokenizer: the copy's own
    assert again.has_session and not run.has_session


# Altered folders.


@pytest.mark.parametrize("name", ["config", "provenance", "texts", "state"])
def test_an_altered_run_is_told_by_its_checksum(whole, tmp_path, name):
    whole.save(tmp_path / "run")
    altered(tmp_path / "run", lambda meta: meta[name].update(added=1), sealed=False)
    with pytest.raises(
        RunFolderError, match=r"The run.json of .*run' was altered: its content does not match its checksum"
    ):
        dl.load_run(tmp_path / "run")


def test_the_layout_of_run_json_is_free(whole, tmp_path):
    whole.save(tmp_path / "run")
    altered(tmp_path / "run", lambda meta: None, sealed=False)  # on one line now
    head = json.loads((tmp_path / "run" / "run.json").read_text("ascii"))
    (tmp_path / "run" / "run.json").write_text(json.dumps(head, indent=4, sort_keys=True), "ascii")
    assert dl.load_run(tmp_path / "run").iteration == 8


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda m: m["state"].update(iteration=7),
            "its state has completed iteration 7, but its history ends with iteration 8",
        ),
        (lambda m: m.update(state=None), "its state has completed no iteration, but its history ends with iteration 8"),
        (lambda m: m["state"].update(iteration="x"), "is damaged: invalid literal"),
        (lambda m: m["state"].update(seconds=float("nan")), "its duration is nan seconds"),
        (lambda m: m["state"].update(rng={}), "random generator is invalid"),
        (lambda m: m["state"].update(rng=None), "random generator is invalid"),
        (lambda m: m["state"]["rng"].update(bit_generator="MT19937"), "random generator is invalid"),
        (lambda m: m["state"]["rng"]["state"].update(state=-1), "random generator is invalid"),
        (lambda m: m["state"]["rng"]["state"].update(state="x"), "random generator is invalid"),
        (lambda m: m["config"].update(population=4), "the 3 λs of its history are not those of its settings"),
        (lambda m: m["config"].update(lambda_max=5.0), "λs of its history are not those"),
        (lambda m: m["config"].update(length=6), "its prompts have 5 tokens, but its settings say 6"),
        (
            lambda m: m["config"].update(iterations=-1),
            r"iterations is -1; it must be a whole number, .*\. Copy the folder again from an intact one\.$",
        ),
        (lambda m: m["config"].update(colour=1), "There is no setting 'colour'"),
        (lambda m: m.update(config=[]), "is damaged"),
        (lambda m: m.pop("config"), "'config' is missing"),
        (lambda m: m["provenance"].update(feature=3), "its feature is not a text"),
        (lambda m: m["provenance"].update(colour=3), "is damaged"),
        (lambda m: m.update(provenance=None), "is damaged"),
        (lambda m: m.update(fluency_model=["a"]), "its fluency model is not a text"),
        (lambda m: m.update(identity=3), "the identity of its model is missing"),
        (lambda m: m.update(texts=[]), "is damaged"),
        (lambda m: m.update(texts={"1,2": {"text": "a"}}), "'tokens' is missing"),
        (lambda m: m.update(constraints=[{"kind": "colour"}]), "is damaged"),
        (lambda m: m.update(constraints=3), "is damaged"),
        (lambda m: m.update(kind="nightmare"), "holds a 'nightmare', not a dream"),
    ],
)
def test_what_does_not_fit_together_is_told_in_a_sentence(whole, tmp_path, change, said):
    whole.save(tmp_path / "run")
    altered(tmp_path / "run", change)
    with pytest.raises(RunFolderError, match=said) as caught:
        dl.load_run(tmp_path / "run")
    assert ".." not in str(caught.value).replace("...", "") and str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"state_population": np.zeros((2, 5), np.int64)},
            r"population has shape \[2, 5\], but its settings say \[3, 5\]",
        ),
        ({"state_population": np.zeros((3, 5), np.int64)}, "population is not the last one of its history"),
        ({"state_population": np.zeros((3, 5), np.float32)}, "its population has"),
        ({"state_population": None}, "'state_population' is missing"),
        ({"state_non_finite": np.zeros((2, 4), np.int64)}, "prompts without finite scores are not ids of prompts of 5"),
        ({"start": np.zeros((2, 4), np.int64)}, "initial prompts are not ids of prompts of 5 tokens"),
        ({"start": np.zeros((2, 5), np.float32)}, "initial prompts are not ids"),
    ],
)
def test_arrays_that_do_not_fit(whole, tmp_path, change, said):
    whole.save(tmp_path / "run")
    meta, arrays = folders.read_folder(tmp_path / "run")
    arrays = {name: array for name, array in {**arrays, **change}.items() if array is not None}
    folders.write_folder(tmp_path / "run", meta, arrays, overwrite=True)
    with pytest.raises(RunFolderError, match=said):
        dl.load_run(tmp_path / "run")


def test_a_run_without_prompts_is_whole(gpt2, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "score", lambda self, ids: (_ for _ in ()).throw(KeyboardInterrupt()))
        dream(gpt2.bridge, save_to=tmp_path / "run")
    assert dl.load_run(tmp_path / "run").iteration == 0


# Numbers and folders that were typed.


def test_numbers_of_numpy_are_numbers(gpt2, whole):
    run = dream(gpt2.bridge, iterations=6)
    assert run.resume(np.int64(2), progress=False).finished and type(run.config.iterations) is int
    same(run.history, whole.history)
    for bad in (np.bool_(True), np.int64(0), np.float64(2.0), np.array([2, 2])):
        with pytest.raises(SettingsError, match="the number of iterations to add, at least 1; got"):
            run.resume(bad)


@pytest.mark.parametrize("bad", [float("nan"), np.float32("nan"), "much", [3]])
def test_a_limit_that_is_not_a_number(whole, bad):
    for name in ("max_cross_entropy", "max_perplexity"):
        with pytest.raises(SettingsError, match=f"{name} is .*, which is not a number; give it in .*, or None for no"):
            whole.frontier.best(**{name: bad})
    assert whole.frontier.best(max_cross_entropy=np.float32(1e9)) == whole.frontier.best(max_perplexity=float("inf"))


@pytest.mark.parametrize("place", ["/proc/x/y", "{file}/run", "{long}", "a\0b"])
def test_a_folder_that_cannot_be_created_is_told_before_the_search(gpt2, tmp_path, monkeypatch, place):
    (tmp_path / "file").write_text("mine")
    if place.startswith("/proc") and not os.path.isdir("/proc/self"):
        pytest.skip("there is no /proc here")
    path = place.format(file=tmp_path / "file", long=tmp_path / ("x" * 300))
    monkeypatch.setattr(Scorer, "score", lambda *a: pytest.fail("it was searched"))
    with pytest.raises(RunFolderError, match=r"cannot be created: .+\. [A-Z].+\.$"):
        dream(gpt2.bridge, save_to=path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_folders_within_folders_are_made(gpt2, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    for name in ("deep/er/run", "empty", "run"):
        dream(gpt2.bridge, iterations=1, save_to=name)
        assert dl.load_run(name).iteration == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep", "empty", "run"]


def test_the_command_line_says_it_in_a_sentence(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert main(["dream", "L2.N17", "--iterations", "1", "--quiet", "--out", str(tmp_path / "file" / "run")]) == 1
    out = capsys.readouterr()
    assert out.out == "" and out.err.startswith("dreamy-lens: The folder ") and "Traceback" not in out.err


@pytest.mark.slow
@pytest.mark.usefixtures("short_start")
def test_the_demo_ends_with_the_line_that_repeats_it(tmp_path, monkeypatch, capsys):
    from dreamy_lens import demo

    monkeypatch.setattr(demo, "SHOWN", 3)
    feature, page = 'logit(" the") - logit(" a")', str(tmp_path / "page.html")
    assert demo.main(["--feature", feature, "--iterations", "1", "--seed", "3", "--html", page]) == 0
    out = capsys.readouterr().out
    line = out.splitlines()[-1].removeprefix("In Python: ")
    scope: dict[str, Any] = {}
    exec(line.replace("seed=3", "seed=3, progress=False"), scope)
    run = scope["run"]
    assert len(run.constraints) == 2 and run.config.seed == 3 and str(run.feature) == str(dl.parse(feature))
    assert re.search(rf"\b{len(run.history):,} prompts in", out)
    assert all(str(run.frontier.spread(demo.SHOWN)).splitlines()[i] in out for i in (1, -1))
