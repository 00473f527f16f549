"""Misspelt keywords of the public functions: the nearest keyword is named, as an error of dreamy_lens."""

from __future__ import annotations

import pytest

import dreamy_lens as dl
from dreamy_lens.errors import SettingsError

CALLS = {
    "sae_latent": (lambda: dl.sae_latent("f", 3, hok="x"), "hok", "hook"),
    "score": (lambda: dl.score("L2.N17", "the", prepend_boss=True), "prepend_boss", "prepend_bos"),
    "attribution": (lambda: dl.attribution("L2.N17", "the", weigth=1.0), "weigth", "weight"),
    "compare": (lambda: dl.compare(None, None, limit=4), "limit", "limits"),
    "load_run": (lambda: dl.load_run("nowhere", fluency=None), "fluency", "fluency_model"),
    "dream": (lambda: dl.dream("L2.N17", constraint=[]), "constraint", "constraints"),
    "max_activating": (lambda: dl.max_activating("L2.N17", corpora=["a"]), "corpora", "corpus"),
    "load_model": (lambda: dl.load_model(devcie="cpu"), "devcie", "device"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_misspelt_keyword_is_named_with_the_nearest_one(name):
    call, misspelt, meant = CALLS[name]
    with pytest.raises(SettingsError) as caught:
        call()
    assert str(caught.value) == f"There is no setting '{misspelt}'; did you mean {meant}?"
