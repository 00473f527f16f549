"""Objects of the libraries sparsify and dictionary_learning, whose tensors are read and whose `encode` is not called.

`encode` of a sparsify object returns the strongest latents only, and `encode` of some dictionary_learning objects
writes into its result by a fixed number of axes. Their arithmetic is known from the files that they write.
"""

from __future__ import annotations

from typing import Any

from dreamy_lens.features.sae.formats import mapped
from dreamy_lens.features.sae.formats.dictionary_learning import CLASSES
from dreamy_lens.features.sae.formats.encoder import Opened

_SPARSIFY = {"W_enc": "encoder.weight.T", "b_enc": "encoder.bias", "W_dec": "W_dec", "b_dec": "b_dec"}
_LINEAR = {"W_enc": "encoder.weight.T", "b_enc": "encoder.bias", "W_dec": "decoder.weight.T"}
_PLAIN = {"W_enc": "W_enc", "b_enc": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec", "threshold": "threshold"}
_GATED = {"b_gate": "gate_bias", "b_mag": "mag_bias", "r_mag": "r_mag", "b_dec": "decoder_bias"}
_TENSORS = {
    "AutoEncoder": {**_LINEAR, "b_dec": "bias"},
    "AutoEncoderNew": _LINEAR,
    "GatedAutoEncoder": {"W_enc": "encoder.weight.T", "W_dec": "decoder.weight.T", **_GATED},
    "AutoEncoderTopK": {**_LINEAR, "b_dec": "b_dec"},
    "BatchTopKSAE": {**_LINEAR, "b_dec": "b_dec", "threshold": "threshold"},
    "MatryoshkaBatchTopKSAE": _PLAIN,
    "JumpReluAutoEncoder": _PLAIN,
}


def open_object(thing: Any, whose: str) -> Opened | None:
    """Return the dictionary of an object of one of the libraries, or None for any other object.

    Args:
        thing: Object in memory.
        whose: Subject of messages, as in "The AutoEncoderTopK".

    Raises:
        SAEError: Its settings cannot be computed.
    """
    for kind in type(thing).__mro__:
        library = kind.__module__.partition(".")[0]
        if library == "sparsify" and kind.__name__ == "SparseCoder":
            return _of_sparsify(thing, whose)
        if library == "dictionary_learning" and kind.__name__ in CLASSES:
            return _of_dictionary_learning(thing, kind.__name__, whose)
    return None


def _of_sparsify(thing: Any, whose: str) -> Opened:
    settings = thing.cfg
    tensors = {
        name: own for name, own in _SPARSIFY.items() if own.partition(".")[0] != "W_dec" or thing.W_dec is not None
    }
    config = {
        "architecture": getattr(settings, "activation", "topk"),
        "k": settings.k,
        "apply_b_dec_to_input": not settings.transcode,
    }
    return mapped.open_mapped(thing, tensors, config, whose)


def _of_dictionary_learning(thing: Any, kind: str, whose: str) -> Opened:
    subtracts = getattr(thing, "apply_b_dec_to_input", kind not in ("AutoEncoderNew", "JumpReluAutoEncoder"))
    config: dict[str, Any] = {"architecture": CLASSES[kind], "apply_b_dec_to_input": bool(subtracts)}
    if CLASSES[kind] == "topk":
        config["k"] = int(thing.k)
    return mapped.open_mapped(thing, _TENSORS[kind], config, whose)
