"""Models with adapters and with quantised weights, compared with the library peft and with plain transformers."""

from __future__ import annotations

import copy
import json
import shutil

import numpy as np
import pytest
import torch

import dreamy_lens as dl
from dreamy_lens.errors import ModelError, SettingsError
from dreamy_lens.models import as_hooked
from tests.helpers.models import raw_model, tokenizer

peft = pytest.importorskip("peft", reason="adapters need the library peft")
FEATURE = "blocks.1.mlp.hook_post[-1, 3]"
TARGETS = {"gpt2": ["c_attn", "c_fc"], "neox": ["query_key_value", "dense_4h_to_h"], "llama": ["q_proj", "down_proj"]}


def save_base(folder, family):
    raw_model(family).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def save_adapter(folder, base, family, **settings):
    """Save an adapter with weights that are not zero, and return the adapted model as peft computes it."""
    torch.manual_seed(1)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS[family], task_type="CAUSAL_LM", **settings)
    raw = copy.deepcopy(raw_model(family))
    raw.config._name_or_path = raw.name_or_path = str(base)
    adapted = peft.get_peft_model(raw, config)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn_like(weight) * 0.3)
    adapted.save_pretrained(folder)
    return adapted.eval()


def logits_of(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]


@pytest.mark.parametrize("family", TARGETS)
@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_the_folder_of_an_adapter_loads_its_model_with_the_adapter(tmp_path, family):
    base = save_base(tmp_path / "base", family)
    adapted = save_adapter(tmp_path / "lora", base, family)
    bridge = dl.load_model(tmp_path / "lora", device="cpu")
    ids = [5, 9, 7, 11]
    expected, plain = logits_of(adapted, ids), logits_of(raw_model(family), ids)
    scores = dl.score(dl.logit(12), ids, bridge, prepend_bos=False)
    assert scores.value[0] == pytest.approx(float(expected[-1, 12]), rel=1e-4, abs=1e-5)
    assert abs(float(expected[-1, 12] - plain[-1, 12])) > 1e-3  # the adapter does something
    cross_entropy = torch.nn.functional.cross_entropy(expected[:-1], torch.tensor(ids[1:]))
    assert scores.cross_entropy[0] == pytest.approx(float(cross_entropy), rel=1e-4)
    # It is known by the folder, which gives it again; and it has gradients and hook points as any other model.
    assert as_hooked(bridge).name == str(tmp_path / "lora")
    again = as_hooked(str(tmp_path / "lora"), device="cpu")
    assert again.weights_digest == as_hooked(bridge).weights_digest
    run = dl.dream(FEATURE, bridge, iterations=2, population=2, children=4, length=4, progress=False)
    assert np.isfinite(run.frontier.best().value) and not hasattr(bridge.original_model, "peft_config")


@pytest.mark.parametrize("targets", [["c_attn", "wte"], ["c_fc", "lm_head"], ["wte", "lm_head"]])
@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_an_adapter_on_one_of_two_shared_tables_acts_on_that_one_alone(tmp_path, targets, monkeypatch):
    """GPT-2 shares the weights of its embedding and its unembedding; the adapter is beside one of them."""
    base = save_base(tmp_path / "base", "gpt2")
    monkeypatch.setitem(TARGETS, "gpt2", targets)
    adapted, ids = save_adapter(tmp_path / "lora", base, "gpt2"), [5, 9, 7, 11]
    bridge = dl.load_model(tmp_path / "lora", device="cpu")
    expected = logits_of(adapted, ids)
    np.testing.assert_allclose(logits_of(bridge.original_model, ids), expected, atol=2e-4)
    scores = dl.score(dl.logit(12), ids, bridge, prepend_bos=False)
    assert scores.value[0] == pytest.approx(float(expected[-1, 12]), rel=1e-4, abs=1e-4)
    cross_entropy = torch.nn.functional.cross_entropy(expected[:-1], torch.tensor(ids[1:]))
    assert scores.cross_entropy[0] == pytest.approx(float(cross_entropy), rel=1e-4)
    rows = bridge.original_model.get_input_embeddings().weight, bridge.original_model.get_output_embeddings().weight
    assert rows[0].data_ptr() != rows[1].data_ptr()


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_a_merge_that_changes_what_the_model_predicts_is_refused(tmp_path, monkeypatch):
    base = save_base(tmp_path / "base", "llama")
    save_adapter(tmp_path / "lora", base, "llama")

    def without_deltas(self, *args, **keywords):
        return self.unload()

    monkeypatch.setattr(peft.PeftModel, "merge_and_unload", without_deltas, raising=False)
    with pytest.raises(ModelError, match=r"predicts something else than beside the adapter, as peft computes it"):
        dl.load_model(tmp_path / "lora", device="cpu")


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_an_adapter_is_given_to_a_model_by_name(tmp_path):
    base = save_base(tmp_path / "base", "gpt2")
    adapted = save_adapter(tmp_path / "lora", "somebody/elses-path", "gpt2")
    bridge = dl.load_model(base, adapter=tmp_path / "lora", device="cpu")
    ids = [5, 9, 7, 11]
    expected = float(logits_of(adapted, ids)[-1, 12])
    assert dl.score(dl.logit(12), ids, bridge, prepend_bos=False).value[0] == pytest.approx(expected, rel=1e-4)
    # Neither folder gives this model again by itself, and its name says so.
    assert as_hooked(bridge).name == f"{base} with the adapter {tmp_path / 'lora'}"


@pytest.mark.parametrize("given", [None, "step9"])
def test_an_adapter_is_put_on_the_revision_of_the_model_that_it_states(tmp_path, monkeypatch, given):
    """As peft's own `AutoPeftModel` does."""
    config = {"base_model_name_or_path": "owner/base", "revision": "step3", "peft_type": "LORA"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    asked = {}

    def load(source, device, dtype, adapter, quantization, options):
        asked.update(source=source, adapter=adapter, **options)
        raise ModelError("enough")

    monkeypatch.setattr("dreamy_lens.models.load.load_pretrained", load)
    with pytest.raises(ModelError, match="enough"):
        dl.load_model(tmp_path, device="cpu", **({} if given is None else {"revision": given}))
    assert asked == {"source": "owner/base", "adapter": tmp_path, "revision": given or "step3"}
    save_base(tmp_path / "owner" / "base", "gpt2")  # a folder beside the adapter has no revisions
    with pytest.raises(ModelError, match="enough"):
        dl.load_model(tmp_path, device="cpu", **({} if given is None else {"revision": given}))
    assert asked["source"] == str(tmp_path / "owner" / "base")


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_an_adapter_finds_its_model_beside_it(tmp_path):
    save_base(tmp_path / "lora" / "base", "gpt2")
    save_adapter(tmp_path / "lora", tmp_path / "elsewhere", "gpt2")
    config = tmp_path / "lora" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": "base"}))
    assert dl.load_model(tmp_path / "lora", device="cpu").cfg.n_layers == 2


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_an_adapter_of_the_hub_is_read_from_its_cache(tmp_path, monkeypatch):
    """The Hub's cache as its client lays it out, and no network."""
    base = save_base(tmp_path / "base", "gpt2")
    adapted = save_adapter(tmp_path / "lora", base, "gpt2")
    cache = tmp_path / "hub" / "models--owner--lora"
    commit = "0" * 40
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text(commit)
    shutil.copytree(tmp_path / "lora", cache / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    bridge = dl.load_model("owner/lora", device="cpu")
    ids = [5, 9, 7, 11]
    expected = float(logits_of(adapted, ids)[-1, 12])
    assert dl.score(dl.logit(12), ids, bridge, prepend_bos=False).value[0] == pytest.approx(expected, rel=1e-4)
    assert as_hooked(bridge).name == "owner/lora"


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_what_cannot_be_merged_is_refused_with_the_reason(tmp_path):
    base = save_base(tmp_path / "base", "gpt2")
    lora = tmp_path / "lora"
    save_adapter(lora, base, "gpt2")
    with pytest.raises(ModelError, match=r"There is no folder .*so it is no adapter of the library peft"):
        dl.load_model(base, adapter=tmp_path / "nothing")
    with pytest.raises(ModelError, match=r"no adapter_config\.json in the folder"):
        dl.load_model(base, adapter=base)
    with pytest.raises(SettingsError, match=r"^n_ctx does not go together with an adapter"):
        dl.load_model(lora, n_ctx=8)
    other = save_base(tmp_path / "other", "llama")
    with pytest.raises(ModelError, match=r"cannot be merged into .*Is it the model that the adapter was trained on\?"):
        dl.load_model(other, adapter=lora)
    prompts = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    peft.get_peft_model(copy.deepcopy(raw_model("gpt2")), prompts).save_pretrained(tmp_path / "prompts")
    with pytest.raises(ModelError, match=r"vectors before every prompt instead of changing weights"):
        dl.load_model(base, adapter=tmp_path / "prompts")


@pytest.mark.parametrize("broken", ["[]", "{", '{"base_model_name_or_path": 3}', '{"base_model_name_or_path": ""}'])
def test_a_damaged_adapter_is_refused(tmp_path, broken):
    (tmp_path / "adapter_config.json").write_text(broken)
    with pytest.raises(ModelError, match=r"names no model that it belongs to|The adapter .* cannot be read"):
        dl.load_model(tmp_path)


def test_without_peft_the_message_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "owner/base"}))
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ModelError, match=r"the library peft, which reads adapters, is not installed: pip install"):
        dl.load_model(tmp_path)


def test_folders_that_cannot_be_are_told():
    with pytest.raises(ModelError, match="cannot be a model's folder: there is no such user"):
        dl.load_model("~nobody-has-this-name/model")
    with pytest.raises(ModelError, match="cannot be an adapter's folder: there is no such user"):
        dl.load_model(adapter="~nobody-has-this-name/adapter")


def test_an_adapter_whose_model_cannot_be_a_folder_is_told(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "~nobody-has-this-name/model"}')
    with pytest.raises(ModelError, match="there is no such user"):
        dl.load_model(tmp_path)
