"""Dictionaries on the Hugging Face Hub and in the releases of SAELens, with the cache of the Hub's own client."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import dreamy_lens as dl
from dreamy_lens.cli.main import main
from dreamy_lens.errors import FeatureError, RunFolderError, SAEError
from dreamy_lens.features import load_sae
from dreamy_lens.features.sae import sources as sae_sources
from dreamy_lens.features.sae.names import source_stamps, source_text
from tests.features.test_sae_conditions import POST, prompts, saved
from tests.features.test_sae_released import RELEASED

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SCOPE = "layer_20/width_16k/average_l0_71"


class Cache:
    """The cache of the Hub's client as it lies on a disk: blobs, links in a snapshot, and the name of a revision."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(self, repository: str, source: Path, path: str = "") -> None:
        """Put a file, or the files of a folder, into the snapshot of a repository."""
        home = self.root / f"models--{repository.replace('/', '--')}"
        for file in sorted(source.rglob("*")) if source.is_dir() else [source]:
            if not file.is_file() or file.name.startswith("expected"):
                continue
            name = path if source.is_file() else f"{path}/{file.relative_to(source).as_posix()}".strip("/")
            blob, link = home / "blobs" / name.replace("/", "-"), home / "snapshots" / COMMIT / name
            for place in (blob, link):
                place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, blob)
            link.symlink_to(blob)
        for ref in ("main", "v1"):
            (home / "refs").mkdir(parents=True, exist_ok=True)
            (home / "refs" / ref).write_text(COMMIT)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache without anything in it, and a client that is offline and asks nobody."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(sae_sources, "_LOCATED", {})
    return Cache(tmp_path / "hub")


REPOSITORIES = [
    ("google/gemma-scope-2b-pt-res", f"gemma_scope/gemma-scope-2b-pt-res/{SCOPE}", SCOPE, SCOPE),
    ("google/gemma-scope-2b-pt-res", f"gemma_scope/gemma-scope-2b-pt-res/{SCOPE}", SCOPE, f"{SCOPE}/params.npz"),
    ("EleutherAI/sae-pythia-70m", "sparsify/topk/layers.1", "layers.1", "layers.1"),
    ("canrager/lm_sae", "dictionary_learning/GatedAutoEncoder", "a/trainer_0", "a/trainer_0"),
    ("jbloom/GPT2-Small", "saelens/jumprelu", "blocks.1", "blocks.1/cfg.json"),
    ("me/alone", "saelens/topk", "", ""),
    ("mwhanna/qwen3", "circuit_tracer/transcoders", "", "layer_1.safetensors"),
    ("mntss/clt", "circuit_tracer/cross_layer", "deep", "deep/1"),
]


@pytest.mark.parametrize(("repository", "files", "path", "asked"), REPOSITORIES)
def test_a_place_on_the_hub_is_the_same_dictionary_as_its_folder(cache, repository, files, path, asked):
    cache.add(repository, RELEASED / files, path)
    if files.startswith("sparsify"):
        cache.add(repository, RELEASED / "sparsify/topk/config.json", "config.json")
    known = load_file(RELEASED / files / "expected.safetensors")
    for source in (f"hf://{repository}/{asked}", f"hf://{repository}@v1/{asked}"):
        sae = load_sae(source)
        assert (sae.encode(known["x"]) - known["latents"]).abs().max() <= 1e-5 * known["latents"].abs().max()
        assert sae.source == source and sae == load_sae(source) and str(sae).startswith(f"SAE {source} (")
    if files.startswith("sparsify"):
        assert (
            sae.conditions is not None and sae.conditions.model_name == "EleutherAI/pythia-70m"
        )  # of the folder above
    if asked:
        assert load_sae(repository, sae_id=asked) == load_sae(f"hf://{repository}/{asked}")


def test_a_feature_on_the_hub_is_scored_saved_and_read_again(gpt2, cache, tmp_path):
    folder, _ = saved(tmp_path / "sae", 32, model_name="gpt2-small")
    cache.add("me/tiny", Path(folder), "layer1")
    feature = dl.sae_latent("me/tiny", 4, pre_activation=True, sae_id="layer1", ignore="model_name")
    assert feature == dl.parse(str(feature)) and 'sae_latent("hf://me/tiny/layer1", 4' in str(feature)
    ids = prompts(gpt2)
    before = source_stamps("hf://me/tiny/layer1")
    value = dl.score(feature, ids, gpt2.bridge).value
    local = dl.sae_latent(folder, 4, pre_activation=True, ignore="model_name")
    np.testing.assert_allclose(value, dl.score(local, ids, gpt2.bridge).value, atol=1e-6)
    assert source_stamps("hf://me/tiny/layer1") != before, "a scan that is kept knows the files"
    run = dl.dream(str(feature), gpt2.bridge, iterations=1, length=5, wait=True, progress=False)
    run.save(tmp_path / "run")
    assert dl.load_run(tmp_path / "run").feature == feature
    assert run.identity["dictionaries"] == {"hf://me/tiny/layer1": COMMIT}
    with pytest.raises(SAEError, match=r"The SAE hf://me/tiny/layer1 was trained on gpt2-small|cannot be told"):
        dl.score(dl.sae_latent("hf://me/tiny/layer1", 4), " a file")


def test_a_run_knows_the_commit_of_its_dictionary(gpt2, cache, tmp_path, monkeypatch):
    folder, weights = saved(tmp_path / "sae", 32, model_name="gpt2-small")
    cache.add("me/tiny", Path(folder), "layer1")
    feature = dl.sae_latent("hf://me/tiny/layer1", 4, pre_activation=True, ignore="model_name")
    dl.dream(feature, gpt2.bridge, iterations=1, length=5, wait=True, progress=False).save(tmp_path / "run")
    # The repository has another commit, with other numbers under the same name.
    later = COMMIT[::-1]
    home = next(cache.root.iterdir())
    changed = home / "snapshots" / later / "layer1"
    shutil.copytree(home / "snapshots" / COMMIT / "layer1", changed)
    save_file({**weights, "W_enc": 2 * weights["W_enc"]}, changed / "sae_weights.safetensors")
    (home / "refs" / "main").write_text(later)
    monkeypatch.setattr(sae_sources, "_LOCATED", {})
    with pytest.raises(RunFolderError, match=rf"hf://me/tiny/layer1 was at commit {COMMIT[:12]} .* is at {later[:12]}"):
        dl.load_run(tmp_path / "run", gpt2.bridge).resume(1, progress=False)
    pinned = dl.sae_latent(f"hf://me/tiny@{COMMIT}/layer1", 4, pre_activation=True, ignore="model_name")
    run = dl.load_run(tmp_path / "run", gpt2.bridge, feature=pinned).resume(1, progress=False)
    assert run.iteration == 2


def test_the_command_line_takes_a_place_on_the_hub(cache, tmp_path, capsys):
    folder, _ = saved(tmp_path / "sae", 224, model_name="embedded")
    cache.add("me/tiny", Path(folder), "layer1")
    printed = []
    for source in (f'"{folder}", 4', '"hf://me/tiny/layer1", 4', '"me/tiny", 4, sae_id="layer1"'):
        text = f"sae_latent({source}, pre_activation=true)"
        assert main(["attribute", text, "the same as described", "-k", "2", "--quiet"]) == 0
        printed.append(capsys.readouterr().out)
    assert "described" in printed[0] and printed == printed[:1] * 3


def test_only_what_is_named_is_fetched_and_only_once(cache, monkeypatch, tmp_path):
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    asked: list[tuple[str, str, Any]] = []

    def download(repository: str, name: str, revision: Any = None) -> str:
        asked.append((repository, name, revision))
        file = RELEASED / "gemma_scope/gemma-scope-2b-pt-res" / name
        if not file.is_file():
            raise EntryNotFoundError("404")
        return str(file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    source = f"hf://google/gemma-scope-2b-pt-res@v1/{SCOPE}"
    feature = dl.sae_latent(source, 3)
    assert dl.parse(str(feature)) == feature and asked == [], "a name alone downloads nothing"
    load_sae(source)
    assert asked == [
        ("google/gemma-scope-2b-pt-res", f"{SCOPE}/cfg.json", "v1"),
        ("google/gemma-scope-2b-pt-res", f"{SCOPE}/params.npz", "v1"),
    ]
    load_sae(source)
    assert len(asked) == 2
    with pytest.raises(SAEError, match=r"There is no dictionary at hf://google/gemma-scope-2b-pt-res/x: neither"):
        load_sae("hf://google/gemma-scope-2b-pt-res/x")


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("RepositoryNotFoundError", "there is no such repository, or it is private"),
        ("RevisionNotFoundError", "it has no revision 'v9'"),
        ("GatedRepoError", "accept its terms on its page, and run `hf auth login`"),
    ],
)
def test_what_the_hub_refuses_is_said_in_one_sentence(cache, monkeypatch, kind, sentence):
    import huggingface_hub
    from huggingface_hub import errors

    def download(*_: Any, **__: Any) -> str:
        response = type("R", (), {"headers": {}, "request": None})()
        raise getattr(errors, kind)("a page of text", response=response)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(SAEError, match=sentence):
        load_sae("hf://owner/repository@v9/folder")


def test_a_dictionary_that_is_not_in_the_cache_says_so(cache):
    with pytest.raises(SAEError, match=r"hf://me/missing/x is not in the cache of .* HF_HUB_OFFLINE is set\. Download"):
        load_sae("hf://me/missing/x")
    for odd in ("hf://me", "hf:///x/y", "hf://a b/c/d", "hf://"):
        with pytest.raises(SAEError, match=r"names no repository of the Hugging Face Hub\. Write hf://owner/"):
            load_sae(odd)
    with pytest.raises(SAEError, match=r"There is no SAE folder 'me/missing'.* named hf://owner/repository/folder"):
        load_sae("me/missing")


def test_sae_id_joins_a_source_to_one_text(tmp_path):
    (tmp_path / "runs").mkdir()
    assert source_text(tmp_path / "runs", "layers.3") == f"{tmp_path}/runs/layers.3"
    assert source_text("hf://a/b@v1", "x/y") == "hf://a/b@v1/x/y"
    assert source_text("saelens://release", "id/of/it") == "saelens://release/id/of/it"
    for wrong in ("", "/", 3):
        with pytest.raises(FeatureError, match="sae_id is a folder below the source, or the id in a release"):
            source_text("a/b", wrong)  # pyright: ignore[reportArgumentType]
    with pytest.raises(FeatureError, match="sae_id names a dictionary within a source that is a text"):
        dl.sae_latent(torch.nn.Identity(), 3, sae_id="x")


# The registry of SAELens.

SINGLE = {
    "connor_rob_hook_z": ("ckkissane/attn-saes-gpt2-small-all-layers", "gpt2-small_L3_Hcat_z.pt"),
    "deepseek_r1": ("qresearch/DeepSeek-R1-Distill-Llama-8B-SAE-l19", "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt"),
    "goodfire": ("Goodfire/Llama-3.1-8B-Instruct-SAE-l19", "Llama-3.1-8B-Instruct-SAE-l19.pth"),
    "qwen_scope": ("Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_5", "layer5.sae.pt"),
    "llama_scope": ("fnlp/Llama3_1-8B-Base-LXR-8x", "Llama3_1-8B-Base-L15R-8x"),
    "llama_scope_r1_distill": ("fnlp/Llama-Scope-R1-Distill", "800M-Slimpajama-0-OpenR1-Math-220k/L15R"),
}
"""Repository and path of one dictionary of each release that has a format of its own; the files are in `released/`."""

REGISTRY = f"""
gpt2-small-res-jb:
  repo_id: jbloom/GPT2-Small
  model: gpt2-small
  conversion_func: null
  config_overrides:
    model_from_pretrained_kwargs:
      center_writing_weights: true
    hook_name: {POST}
  saes:
  - id: blocks.1.hook_resid_post
    path: blocks.1
    norm_scaling_factor: 0.5
gemma-scope-2b-pt-res-canonical:
  repo_id: google/gemma-scope-2b-pt-res
  model: gemma-2-2b
  conversion_func: gemma_2
  saes:
  - id: layer_20/width_16k/canonical
    path: {SCOPE}
bench:
  repo_id: canrager/lm_sae
  model: pythia-70m-deduped
  conversion_func: dictionary_learning_1
  saes:
  - id: trainer_0
    path: resid_post_layer_1/trainer_0
clt:
  repo_id: mntss/clt
  model: qwen3-0.6b
  conversion_func: mntss_clt_layer_transcoder
  saes:
  - id: layer_1
    path: 1
strange:
  repo_id: x/y
  model: z
  conversion_func: of_tomorrow
  saes:
  - {{id: a, path: a}}
temporal:
  repo_id: x/y
  model: z
  conversion_func: temporal
  saes:
  - {{id: a, path: a}}
"""
REGISTRY += "".join(
    f"{kind}:\n  repo_id: {repository}\n  model: of-{kind}\n  conversion_func: {kind}\n"
    f"  saes:\n  - {{id: a, path: {path}, norm_scaling_factor: 1.6}}\n"
    for kind, (repository, path) in SINGLE.items()
)


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """The library sae_lens as it is beside TransformerLens 4: installed, and not to be imported."""
    library = tmp_path / "site" / "sae_lens"
    library.mkdir(parents=True)
    (library / "__init__.py").write_text("raise ImportError('transformer-lens 4 has no HookedTransformer')")
    (library / "pretrained_saes.yaml").write_text(REGISTRY)
    monkeypatch.syspath_prepend(str(library.parent))
    monkeypatch.delitem(sys.modules, "sae_lens", raising=False)
    yield library
    assert "sae_lens" not in sys.modules


def test_a_release_and_an_id_name_a_dictionary(gpt2, cache, registry, tmp_path):
    folder, weights = saved(tmp_path / "sae", 32, "blocks.0.hook_resid_pre", model_name="gpt2-small")
    config = json.loads((Path(folder) / "cfg.json").read_text())
    config["normalize_activations"] = "expected_average_only_in"
    (Path(folder) / "cfg.json").write_text(json.dumps(config))
    cache.add("jbloom/GPT2-Small", Path(folder), "blocks.1")
    sae = load_sae("gpt2-small-res-jb", sae_id="blocks.1.hook_resid_post")
    x = torch.randn(4, 32)
    expected = ((0.5 * x - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]).relu()
    torch.testing.assert_close(sae.encode(x), expected)
    torch.testing.assert_close(sae.decoder_row(2), weights["W_dec"][2] / 0.5)
    stated = sae.conditions
    assert sae.hook_name == POST and stated is not None and (stated.model_name, stated.centred) == ("gpt2-small", True)
    feature = dl.sae_latent("gpt2-small-res-jb", 4, sae_id="blocks.1.hook_resid_post", ignore="model_name")
    assert 'sae_latent("saelens://gpt2-small-res-jb/blocks.1.hook_resid_post", 4' in str(feature)
    assert np.isfinite(dl.score(str(feature), prompts(gpt2), gpt2.bridge).value).all()


def test_releases_in_other_formats_are_read_with_what_the_registry_states(cache, registry):
    cache.add("google/gemma-scope-2b-pt-res", RELEASED / f"gemma_scope/gemma-scope-2b-pt-res/{SCOPE}", SCOPE)
    sae = load_sae("saelens://gemma-scope-2b-pt-res-canonical/layer_20/width_16k/canonical")
    assert sae.hook_name == "blocks.20.hook_resid_post"
    place = "resid_post_layer_1/trainer_0"
    cache.add("canrager/lm_sae", RELEASED / "dictionary_learning/AutoEncoder", place)
    config = next(cache.root.rglob(f"snapshots/*/{place}/config.json"))
    content = json.loads(config.read_text())
    content["trainer"] |= {"submodule_name": None, "lm_name": None}  # as in the first files of the library
    config.unlink()
    config.write_text(json.dumps(content))
    sae = load_sae("bench", sae_id="trainer_0")
    assert sae.hook_name == POST and sae.conditions is not None and sae.conditions.model_name == "pythia-70m-deduped"
    x, raw = torch.randn(4, 8), torch.load(RELEASED / "dictionary_learning/AutoEncoder/ae.pt", weights_only=True)
    plain = ((x - raw["bias"]) @ raw["encoder.weight"].T + raw["encoder.bias"]).relu()
    torch.testing.assert_close(sae.encode(x), plain)  # SAELens leaves the norms of the decoder where they are
    cache.add("mntss/clt", RELEASED / "circuit_tracer/cross_layer")
    assert len(load_sae("clt", sae_id="layer_1").output_hooks) == 3


PLACES = {
    "connor_rob_hook_z": ("blocks.3.attn.hook_z", 128),
    "deepseek_r1": ("blocks.19.hook_resid_post", 1024),
    "goodfire": ("blocks.19.hook_resid_post", None),
    "qwen_scope": ("blocks.5.hook_resid_post", 1024),
    "llama_scope": ("blocks.15.hook_resid_post", 1024),
    "llama_scope_r1_distill": ("blocks.15.hook_resid_post", 1024),
}


@pytest.mark.parametrize("kind", SINGLE)
def test_a_release_with_a_format_of_its_own_is_what_saelens_makes_of_it(cache, registry, kind):
    repository, _ = SINGLE[kind]
    cache.add(repository, RELEASED / "releases" / kind / repository.partition("/")[2])
    known = load_file(RELEASED / "releases" / kind / "expected.safetensors")
    sae = load_sae(kind, sae_id="a")
    scale = known["latents"].abs().max()
    assert (sae.encode(known["x"]) - known["latents"]).abs().max() <= 1e-5 * scale
    for i in (0, 5, 15):
        assert (sae.latent(known["x"], i) - known["latents"][:, i]).abs().max() <= 1e-5 * scale
        row = sae.decoder_row(i)
        assert (row - known["decoder"][i].flatten()).abs().max() <= 2e-5 * known["decoder"].abs().max()
    conditions = sae.conditions
    assert conditions is not None and conditions.model_name == f"of-{kind}"
    assert (sae.hook_name, conditions.context_size) == PLACES[kind]
    feature = dl.sae_latent(kind, 4, sae_id="a")
    assert dl.parse(str(feature)) == feature and f'sae_latent("saelens://{kind}/a", 4' in str(feature)


def test_llama_scope_on_the_hub_needs_no_registry(cache):
    repository, path = SINGLE["llama_scope"]
    folder = RELEASED / "releases/llama_scope" / repository.partition("/")[2]
    cache.add(repository, folder)
    known = load_file(RELEASED / "releases/llama_scope/expected.safetensors")
    for sae in (load_sae(f"hf://{repository}/{path}"), load_sae(folder / path)):
        assert (sae.encode(known["x"]) - known["latents"]).abs().max() <= 1e-5 * known["latents"].abs().max()
    repository, path = SINGLE["llama_scope_r1_distill"]  # its files do not state the scale of the activations
    folder = RELEASED / "releases/llama_scope_r1_distill" / repository.partition("/")[2] / path
    with pytest.raises(SAEError, match="was trained on activations scaled by one number"):
        load_sae(folder)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"act_fn": "topk"}, "has act_fn = 'topk' in hyperparams.json; Llama Scope's dictionaries are jumprelu"),
        ({"norm_activation": "token-wise"}, "norm_activation = 'token-wise'.*dreamy_lens computes dataset-wise"),
        ({"use_glu_encoder": True}, "has use_glu_encoder in hyperparams.json, which dreamy_lens does not compute"),
        ({"jump_relu_threshold": None}, "has jump_relu_threshold = None .* where a positive number is needed"),
        ({"dataset_average_activation_norm": {}}, "has in = None in hyperparams.json, where a positive number"),
        ({"d_sae": 7}, r"contradicts itself: W_enc is \[8, 16\].* beside d_sae = 7 in hyperparams.json"),
    ],
)
def test_what_llama_scope_states_and_cannot_be_kept_is_refused(tmp_path, changes, sentence):
    repository, path = SINGLE["llama_scope"]
    shutil.copytree(RELEASED / "releases/llama_scope" / repository.partition("/")[2] / path, tmp_path / "sae")
    config = tmp_path / "sae" / "hyperparams.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    with pytest.raises(SAEError, match=sentence):
        load_sae(tmp_path / "sae")


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("saelens://gpt2-small-res-jp/x", r"no release 'gpt2-small-res-jp'; did you mean gpt2-small-res-jb\?"),
        ("saelens://gpt2-small-res-jb/x", r"has no dictionary 'x'; it has 1, among them blocks\.1\.hook_resid_post"),
        ("saelens://strange/a", r"in the format 'of_tomorrow', which .* sae_lens beside transformer-lens 3\.9"),
        (
            "saelens://temporal/a",
            r"depend on the activations at all positions before it.*dl\.custom",
        ),
    ],
)
def test_what_the_registry_does_not_have_is_said(cache, registry, source, sentence):
    with pytest.raises(SAEError, match=sentence):
        load_sae(source)


def test_without_sae_lens_a_release_says_what_to_do(cache, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SAEError, match=r"pip install --no-deps sae-lens, or name the repository: hf://"):
        load_sae("gpt2-small-res-jb", sae_id="x")
