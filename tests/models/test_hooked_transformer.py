"""The `HookedTransformer` of TransformerLens 3 works with everything; TransformerLens 4 has none and skips this."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import dreamy_lens as dl
from dreamy_lens.analysis import examine
from dreamy_lens.errors import ModelError, NoGradientError
from dreamy_lens.models import as_hooked
from tests.helpers import models
from tests.helpers.by_hand import Pass

SMALL: dict[str, Any] = {"iterations": 2, "population": 2, "children": 6, "length": 6}


@pytest.fixture(scope="module")
def hooked(gpt2: models.Family) -> Any:
    """The tiny GPT-2 as a HookedTransformer, with the weights of the plain model."""
    try:
        from transformer_lens import HookedTransformer, HookedTransformerConfig  # pyright: ignore
        from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights  # pyright: ignore
    except ImportError:
        pytest.skip("this TransformerLens has no HookedTransformer")
    tokenizer = models.tokenizer()
    size: dict[str, Any] = {"n_layers": 2, "d_model": 32, "n_heads": 4, "d_head": 8, "d_mlp": 40, "n_ctx": 64}
    size |= {"d_vocab": len(tokenizer) + models.PADDED, "act_fn": "gelu_new", "normalization_type": "LN"}
    with pytest.warns(DeprecationWarning):
        model = HookedTransformer(HookedTransformerConfig(**size, device="cpu"), tokenizer=tokenizer)
    model.load_state_dict(convert_gpt2_weights(gpt2.raw, model.cfg), strict=False)
    return model.requires_grad_(False)


IDS = torch.randint(1, 300, (5, 7), generator=torch.Generator().manual_seed(2))


@pytest.mark.filterwarnings("ignore:Prompts are scored whole")
def test_values_cross_entropies_and_gradients_are_those_of_the_raw_model(hooked, gpt2):
    run = Pass(gpt2, IDS)
    for feature, value in (
        (dl.neuron(1, 3), run.mlp_post(1)[:, -1, 3]),
        (dl.logit(9), run.logits[:, -1, 9]),
        (dl.hook("blocks.0.hook_resid_post")[2, 5], run.resid_post(0)[:, 2, 5]),
        (dl.hook("blocks.1.attn.hook_pattern")[1, -1, 2], run.pattern(1)[:, 1, -1, 2]),
    ):
        scores = dl.score(feature, IDS.numpy(), hooked, prepend_bos=False)
        np.testing.assert_allclose(scores.value, value.detach(), atol=2e-5)
        np.testing.assert_allclose(scores.cross_entropy, run.cross_entropy(IDS[:, 1:]).detach(), atol=2e-5)
    assert [str(f) for f in examine("L1.N3", hooked) if f.passed is False] == []
    table = gpt2.raw.get_input_embeddings().weight
    torch.testing.assert_close(as_hooked(hooked).embedding_table, table.detach(), atol=0, rtol=0)


@pytest.mark.filterwarnings("ignore:Prompts are scored whole")
@pytest.mark.parametrize("feature", ["L1.N3", "blocks.1.attn.hook_result[-1, 0, 5]", 'log_prob(" the")'])
def test_dreams_attributions_scans_and_effects_run(hooked, gpt2, feature, tmp_path):
    run = dl.dream(feature, hooked, save_to=tmp_path / "run", **SMALL)
    assert run.iteration == 2 and not any(point.fwd_hooks for point in hooked.hook_dict.values())
    assert dl.load_run(tmp_path / "run", hooked).resume(1).iteration == 3
    bridged = dl.score(feature, run.history.ids.astype(np.int64), gpt2.bridge, prepend_bos=run.provenance.prepend_bos)
    np.testing.assert_allclose(run.history.value, bridged.value, atol=2e-5)
    dl.attribution(feature, "the dog", hooked)
    dl.max_activating([feature], hooked, ["the dog and the cat " * 10], length=4)


@pytest.mark.filterwarnings("ignore:Prompts are scored whole")
@pytest.mark.parametrize("feature", ["L1.N3", "blocks.1.attn.hook_z[-1, 2, 5]", "blocks.1.hook_resid_post[-1, 3]"])
def test_effects_on_logits_are_those_of_the_bridge(hooked, gpt2, feature):
    from dreamy_lens.api.logit_effect import logit_effect
    from dreamy_lens.features import parse

    found, expected = (logit_effect(parse(feature), as_hooked(model)) for model in (hooked, gpt2.bridge))
    assert str(found) == str(expected)


def test_digests_tell_settings_from_each_other(hooked):
    settings = as_hooked(hooked).backend.settings()
    assert settings["act_fn"] == "gelu_new" and settings["n_heads"] == 4


@pytest.mark.filterwarnings("ignore:Prompts are scored whole")
@pytest.mark.parametrize("part", ["mlp", "attn"])
def test_a_dictionary_of_the_output_of_a_module_is_read_where_this_model_has_it(hooked, gpt2, part, tmp_path):
    folder = tmp_path / f"h.1.{part}"
    folder.mkdir()
    (folder / "cfg.json").write_text(json.dumps({"k": 6, "d_in": 32}))
    weights = {"encoder.weight": torch.randn(6, 32), "encoder.bias": torch.randn(6), "b_dec": torch.randn(32)}
    save_file(weights, folder / "sae.safetensors")
    latent = dl.sae_latent(folder, 2, pre_activation=True)
    values = [dl.score(latent, IDS.numpy(), model, prepend_bos=False).value for model in (hooked, gpt2.bridge)]
    np.testing.assert_allclose(values[0], values[1], atol=2e-4)


class Bare:
    """Object with the surface of a bridge and no hook point at its embeddings."""

    def __init__(self, bridge: Any) -> None:
        self._bridge = bridge

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_bridge"], name)

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._bridge(*args, **options)

    @property
    def hook_dict(self) -> dict[str, Any]:
        return {k: v for k, v in self._bridge.hook_dict.items() if "embed" not in k}


@pytest.mark.filterwarnings("ignore:Prompts are scored whole")
def test_a_model_without_a_hook_point_at_its_embeddings_has_values_and_no_dreams(gpt2):
    model = Bare(models.new_bridge("gpt2", gpt2.raw))
    expected = dl.score("L1.N3", IDS.numpy(), gpt2.bridge).value
    np.testing.assert_allclose(dl.score("L1.N3", IDS.numpy(), model).value, expected, atol=1e-5)
    with pytest.raises(NoGradientError, match=r"no hook point 'embed.hook_out' at the embeddings"):
        dl.dream("L1.N3", model, **SMALL)


def test_what_is_no_model_is_refused(gpt2):
    with pytest.raises(ModelError, match="is not a model dreamy_lens can hook"):
        dl.score("L1.N3", "the dog", gpt2.raw)
