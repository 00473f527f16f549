"""What people guess works or is answered: completion, names, exchanged arguments, spellings of neurons."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

import dreamy_lens as dl
from dreamy_lens.errors import DreamyLensError, FeatureError, ModelError

SMALL = {"iterations": 1, "population": 2, "children": 4, "top_k": 16, "length": 4}


def test_signatures_have_every_setting_with_its_default():
    shown = inspect.signature(dl.dream).parameters
    for search in (dl.FrontierSearch, dl.EPO, dl.GCG, dl.RandomSearch):
        kind = type(search())
        assert {field.name for field in dataclasses.fields(kind)} <= set(shown)
    assert shown["iterations"].default == dl.FrontierSearch().iterations and shown["top_k"].default == dl.EPO().top_k
    assert not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in shown.values())
    assert "iterations" in inspect.signature(dl.sweep).parameters
    assert "seed" not in inspect.signature(dl.sweep).parameters


def test_modules_list_what_they_are_for():
    assert dir(dl.constraints) == [
        "chat",
        "contexts",
        "fix",
        "forbid_text",
        "forbid_tokens",
        "printable",
        "round_trip",
        "template",
        "varied",
    ]
    assert all(issubclass(getattr(dl.errors, name), DreamyLensError) for name in dir(dl.errors))
    assert "DreamyLensError" in dir(dl.errors) and {"open", "docstrings"} <= set(dir(dl.corpus))
    for module in (dl, dl.constraints, dl.corpus, dl.errors, dl.features, dl.figures, dl.panels):
        assert not {"Any", "np", "annotations", "dataclass"} & set(dir(module)), module.__name__
    assert dl.attribute is dl.attribution


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("N812", "a neuron has a layer, too: L2.N812 is the neuron 812 of layer 2"),
        ("L2.812", "the neuron 812 of layer 2 is written L2.N812"),
        ("L2N812", "the neuron 812 of layer 2 is written L2.N812"),
        ("layer2.N812", "the neuron 812 of layer 2 is written L2.N812"),
        ("L2.MLP.812", "the neuron 812 of layer 2 is written L2.N812"),
        ("blocks.2.812", "the neuron 812 of layer 2 is written L2.N812"),
    ],
)
def test_spellings_of_a_neuron_are_understood(text, said):
    with pytest.raises(FeatureError) as caught:
        dl.dream(text, **SMALL)
    assert said in str(caught.value)


def test_exchanged_arguments_are_answered():
    model, corpus = dl.load_model(), dl.corpus.open(["a text is here for you"])
    run = dl.dream("L2.N17", **SMALL)
    calls = [
        (
            lambda: dl.max_activating("L2.N17", corpus),
            ModelError,
            r"A Corpus where a model was expected: write corpus=\.\.\.",
        ),
        (lambda: dl.card("L2.N17", corpus), ModelError, "A Corpus where a model was expected"),
        (lambda: dl.card("L2.N17", run), ModelError, r"A Dream where a model was expected: a run is given by run="),
        (
            lambda: dl.dream(model, "L2.N17"),
            FeatureError,
            "A TransformerBridge where a feature was expected: the feature",
        ),
        (
            lambda: dl.dream("L2.N17", dl.neuron(2, 3)),
            ModelError,
            "A feature where a model was expected: the feature comes",
        ),
        (lambda: dl.dream(run), FeatureError, r"A Dream where a feature was expected: .* is run\.feature"),
        (lambda: dl.load_run(run), dl.errors.RunFolderError, "A Dream where the folder of a run was expected"),
        (
            lambda: dl.attribution("a prompt is here", "L2.N17"),
            FeatureError,
            r"'L2\.N17' is a feature, and stands where",
        ),
        (lambda: dl.generate(model, "the file"), ModelError, "If it is a prompt, it comes before the model"),
        (lambda: dl.max_activating(model, "L2.N17"), ModelError, "this is a feature: the feature comes before the"),
        (
            lambda: dl.explain(model),
            dl.errors.SettingsError,
            r"explain\(\) takes one run .* a TransformerB",
        ),
        (lambda: dl.patch("L2.N17", model, "the file"), dl.errors.PromptError, "got a TransformerBridge"),
        (
            lambda: dl.score("a prompt is here", "L2.N17"),
            FeatureError,
            r"the feature comes first, as in score\(feature",
        ),
    ]
    for call, kind, said in calls:
        with pytest.raises(kind, match=said) as caught:
            call()
        assert len(str(caught.value)) < 250
