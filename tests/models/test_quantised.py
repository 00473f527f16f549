"""Models with quantised weights: they compute as in transformers, and a gradient that is not there is found.

The libraries for quantised weights are not needed by anything else, so their tests run only where they are installed.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dreamy_lens as dl
from dreamy_lens.errors import ModelError, NoGradientError, SettingsError
from dreamy_lens.models import pretrained
from dreamy_lens.models.weights import check_finite
from tests.helpers import models

IDS = np.array([5, 9, 7, 11])
SMALL: dict[str, Any] = {"iterations": 1, "children": 8, "length": 4, "progress": False}


def logits_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.from_numpy(IDS)[None]).logits[0, -1]


def save_base(folder: Path) -> Path:
    """Save a Llama whose matrices can be divided into the blocks of 64 numbers that share a scale."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = models.tokenizer()
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=0, initializer_range=0.25, **sizes)
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def bitsandbytes_8() -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0)


def bitsandbytes_4() -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)


def quanto() -> Any:
    from transformers import QuantoConfig

    return QuantoConfig(weights="int8")


def torchao() -> Any:
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    return TorchAoConfig(Int8WeightOnlyConfig())


LIBRARIES = {
    bitsandbytes_8: "bitsandbytes",
    bitsandbytes_4: "bitsandbytes",
    quanto: "optimum.quanto",
    torchao: "torchao",
}


@pytest.fixture(params=LIBRARIES, ids=lambda make: make.__name__)
def make(request) -> Any:
    pytest.importorskip(LIBRARIES[request.param], reason="these quantised weights need their library")
    return request.param


def test_quantised_weights_compute_as_in_transformers(make, tmp_path):
    from transformers import AutoModelForCausalLM

    base = save_base(tmp_path)
    raw = AutoModelForCausalLM.from_pretrained(base, quantization_config=make(), device_map={"": "cpu"})
    bridge = dl.load_model(base, quantization_config=make(), device="cpu")
    plain = AutoModelForCausalLM.from_pretrained(base)
    expected, unrounded = (logits_of(model) for model in (raw, plain))
    value = dl.score(dl.logit(12), IDS, bridge, prepend_bos=False, share_prefixes=False).value[0]
    assert value == pytest.approx(float(expected[12]), abs=2e-3)
    assert float((expected - unrounded).abs().max()) > 1e-4  # the weights are rounded


def test_a_search_is_right_or_refused(make, tmp_path):
    bridge = dl.load_model(save_base(tmp_path), quantization_config=make(), device="cpu")
    try:
        best = dl.dream("L1.N3", bridge, **SMALL).frontier.best()
    except NoGradientError as error:
        assert make is bitsandbytes_4 and "gemv_4bit computed without a backward pass (device: cpu)" in str(error)
        best = dl.dream("L1.N3", bridge, **SMALL, search="random").frontier.best()
    alone = dl.score("L1.N3", np.array(best.ids), bridge, share_prefixes=False)
    assert best.value == pytest.approx(float(alone.value[0]), abs=1e-4)


def test_a_quantisation_is_a_configuration_of_transformers(tmp_path):
    base = save_base(tmp_path)
    with pytest.raises(SettingsError, match=r"quantization_config is 4; it is a configuration of transformers"):
        dl.load_model(base, quantization_config=4)
    with pytest.raises(SettingsError, match=r"checkpoint_index does not go together with quantization_config"):
        dl.load_model(base, quantization_config={"quant_method": "bitsandbytes"}, checkpoint_index=1)


class Rounded(torch.Tensor):
    """Weights in 8 bits, as other libraries wrap them: torch adds up nothing but what `dequantize` returns."""

    numbers: torch.Tensor

    @staticmethod
    def __new__(cls, numbers: torch.Tensor) -> Rounded:
        self = torch.Tensor._make_wrapper_subclass(cls, numbers.shape, dtype=torch.float32)
        self.numbers = numbers
        return self

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["numbers"], None

    @classmethod
    def __tensor_unflatten__(cls, inner, meta, size, stride) -> Rounded:
        return cls(inner["numbers"])

    def dequantize(self) -> torch.Tensor:
        return self.numbers.float() / 16

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.detach.default:
            return cls(args[0].numbers)
        raise NotImplementedError(f"{function} on rounded weights")


def test_wrapped_weights_are_checked_by_their_numbers():
    whole = Rounded(torch.tensor([[3, 9], [4, 1]], dtype=torch.int8))
    check_finite([("w", whole)], "this model")
    with pytest.raises(ModelError, match="1 of the 4 numbers of w are NaN"):
        check_finite([("w", Rounded(torch.tensor([[3, torch.nan], [4, 1]])))], "this model")


@pytest.fixture
def no_backward():
    """An operation that torch knows, with a kernel for processors and no backward pass, as that of 4 bits."""
    library = torch.library.Library("dreamy_lens_tests", "FRAGMENT")  # pyright: ignore[reportPrivateImportUsage]
    library.define("same(Tensor x) -> Tensor")
    library.impl("same", lambda x: x.clone(), "CPU")
    yield torch.ops.dreamy_lens_tests.same
    library._destroy()


def test_an_operation_without_a_backward_pass_is_named_before_a_search(no_backward):
    """Also where the residual stream carries enough of the gradient for finite differences to agree."""
    bridge = models.new_bridge("gpt2", models.family("gpt2").raw)
    layers = dict(bridge.original_model.named_modules())
    layer = next(
        m for n, m in layers.items() if type(m).__name__ == "Conv1D" and ".1." in n and n.split(".")[-2] == "c_proj"
    )
    usual = layer.forward
    layer.forward = lambda x: no_backward(usual(x))
    try:
        for feature in ("logit(9)", "blocks.1.hook_resid_post[-1, 3]", "L0.N3"):  # the last one for its cross-entropy
            with pytest.raises(NoGradientError, match=r"dreamy_lens_tests::same computed without a backward pass"):
                dl.dream(feature, bridge, **SMALL)
        assert len(dl.dream("logit(9)", bridge, **SMALL, search="random").frontier)
    finally:
        del layer.forward


def test_a_library_that_repeats_a_message_says_it_once(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(pretrained, "_SAID", set())
    with pytest.raises((ImportError, ValueError, RuntimeError, ModelError)):  # no library knows this method
        dl.load_model(save_base(tmp_path), quantization_config={"quant_method": "no-such-method"})
    logger = logging.getLogger(pretrained.REPEATING)
    with caplog.at_level("WARNING", logger=pretrained.REPEATING):
        for message in ("inputs will be cast", "inputs will be cast", "something else"):
            logger.warning(message)
    assert [record.message for record in caplog.records] == ["inputs will be cast", "something else"]
