"""Runs in folders: told from other folders and other models, and readable without a model."""

from __future__ import annotations

import pytest

import dreamy_lens as dl
from dreamy_lens import constraints as rules_of
from dreamy_lens.errors import ConstraintError, DreamyLensError, ModelError, RunFolderError, SettingsError
from dreamy_lens.models import load as loading
from dreamy_lens.runs import Dream
from dreamy_lens.runs import worker as running
from dreamy_lens.scoring import Scorer
from tests.helpers import models
from tests.helpers.dreams import dream, same

# Folders.


def test_a_saved_run_shows_its_prompts_without_a_model(whole, tmp_path, monkeypatch):
    whole.save(tmp_path / "run")
    monkeypatch.setattr(loading, "load_model", lambda *a, **k: pytest.fail("a model was loaded"))
    monkeypatch.setattr(loading, "as_hooked", lambda *a, **k: pytest.fail("a model was asked for"))
    run = dl.load_run(tmp_path / "run")
    assert run.frontier.prompts == whole.frontier.prompts and run.population == whole.population
    assert str(run) == str(whole) and repr(run) == repr(whole)
    # A model in memory is written otherwise in the program than its name.
    assert run._repr_html_().partition("<details")[0] == whole._repr_html_().partition("<details")[0]
    assert run.config == whole.config and run.finished and run.folder == tmp_path / "run"
    same(run.history, whole.history)
    assert str(run.feature) == str(whole.feature)


def test_a_run_is_saved_while_it_goes_on(gpt2, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "SAVE_SECONDS", 0.0)
    seen = []
    save = Dream.save

    def noted(self, path=None, **settings):
        seen.append(self.iteration)
        return save(self, path, **settings)

    monkeypatch.setattr(Dream, "save", noted)
    run = dream(gpt2.bridge, iterations=3, save_to=tmp_path / "run")
    assert seen == [0, 1, 2, 3, 3]
    same(dl.load_run(tmp_path / "run").history, run.history)


def test_a_folder_that_is_taken_is_told_before_the_search(gpt2, whole, tmp_path, monkeypatch):
    for name in ("second", "run"):
        whole.save(tmp_path / name)  # the last one is its own
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(Scorer, "score", lambda *a: pytest.fail("it was searched"))
    with pytest.raises(RunFolderError, match="run' already holds a run; choose another name"):
        dream(gpt2.bridge, save_to=tmp_path / "run")
    for name in ("notes", "file"):
        with pytest.raises(RunFolderError, match=f"{name}' exists and is not a run folder"):
            dream(gpt2.bridge, save_to=tmp_path / name)
    with pytest.raises(RunFolderError, match="already holds a run"):
        whole.resume(1, save_to=tmp_path / "second")
    assert (tmp_path / "notes" / "a.txt").read_text() == "mine"


def test_nothing_is_left_behind_by_a_search_that_cannot_begin(gpt2, tmp_path):
    for settings in ({"feature": "L9.N1"}, {"start": "dog dog"}, {"constraints": ["no dogs"]}):
        with pytest.raises(DreamyLensError):
            dream(gpt2.bridge, save_to=tmp_path / "run", **settings)
    impossible = [rules_of.fix({0: "d", 1: "o", 2: "g"}), rules_of.forbid_text("dog")]
    with pytest.raises(ConstraintError, match="random prompts of 5 tokens only 0 obey"):
        dream(gpt2.bridge, save_to=tmp_path / "run", constraints=impossible)
    assert not (tmp_path / "run").exists()


def test_saving_again_replaces_the_run_s_own_folder_only(gpt2, whole, tmp_path):
    run = dream(gpt2.bridge, iterations=1)
    with pytest.raises(SettingsError, match=r"has not been saved yet; give a folder: run.save\('my_run'\)"):
        run.save()
    run.save(tmp_path / "run")
    run.resume(1, progress=False)
    assert run.save() == tmp_path / "run"
    assert dl.load_run(tmp_path / "run").iteration == 2
    with pytest.raises(RunFolderError):
        whole.save(tmp_path / "run")
    whole.save(tmp_path / "run", overwrite=True)
    assert dl.load_run(tmp_path / "run").iteration == 8


def test_a_run_of_another_model_is_refused(gpt2, whole, tmp_path):
    whole.save(tmp_path / "run")
    other = models.family("gemma2").bridge  # the same tokenizer and number of layers
    with pytest.raises(
        RunFolderError,
        match=r"another model: it was made on 'tiny-gpt2' with other weights than 'tiny-gemma2'",
    ):
        dl.load_run(tmp_path / "run", other).resume(1)
    with pytest.raises(
        RunFolderError, match=r"was made on 'tiny-gpt2' with .*, but 'embedded' has .*: it is another model"
    ):
        dl.load_run(tmp_path / "run", dl.load_model()).resume(1)
    run = dl.load_run(tmp_path / "run", other)
    with pytest.raises(RunFolderError):
        run.resume(1)
    assert run.config.iterations == 8  # as it was
    assert run.frontier.prompts == whole.frontier.prompts


def test_a_model_in_memory_has_to_be_given_again(whole, tmp_path, monkeypatch):
    def nowhere(name=None, **options):
        raise ModelError(f"{name!r} is nowhere.")

    whole.save(tmp_path / "run")
    monkeypatch.setattr(loading, "load_model", nowhere)
    with pytest.raises(
        RunFolderError, match=r"cannot be loaded by its name, 'tiny-gpt2'. .* load_run\(path, model=...\)"
    ):
        dl.load_run(tmp_path / "run").resume(1)


def test_a_custom_feature_has_to_be_defined_again(gpt2, tmp_path, monkeypatch):
    from dreamy_lens.features import constructors

    point = "blocks.0.mlp.hook_post"
    dream(gpt2.bridge, dl.custom("mine", [point], lambda a: a[point][:, -1, 0])).save(tmp_path / "run")
    monkeypatch.setattr(constructors, "_customs", {})
    run = dl.load_run(tmp_path / "run", gpt2.bridge)
    assert 'Dream(custom("mine") on tiny-gpt2' in repr(run) and len(run.frontier)
    with pytest.raises(
        RunFolderError, match=r"cannot be made from its text here, .*call dreamy_lens.custom\('mine', ...\) first"
    ):
        run.resume(1)
    dl.custom("mine", [point], lambda a: a[point][:, -1, 0])
    assert run.resume(1, progress=False).iteration == 9


def test_damage_is_told_from_a_run(whole, tmp_path):
    whole.save(tmp_path / "run")
    arrays = tmp_path / "run" / "arrays.safetensors"
    arrays.write_bytes(arrays.read_bytes()[:-40])
    with pytest.raises(RunFolderError, match="truncated"):
        dl.load_run(tmp_path / "run")
    with pytest.raises(RunFolderError, match="There is no folder"):
        dl.load_run(tmp_path / "nothing")
