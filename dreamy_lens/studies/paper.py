"""The paper's experiments, as far as their settings are known, on models of any size.

The paper's neurons are those of Pythia-12B, which has 36 layers. In another model, a layer at the same share of the
depth stands for each.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dreamy_lens.errors import FeatureError
from dreamy_lens.features.constructors import neuron
from dreamy_lens.features.expressions import Feature
from dreamy_lens.features.families import neurons
from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.scoring.prompts import uniform_prompts
from dreamy_lens.studies.prompt_scores import prompt_scores

PROMPTS, RARE = 1024, 100
"""Number of random prompts by which neurons are said to be alive, and the most of them to one that drives a neuron."""
LAYERS = 36
"""Number of layers of Pythia-12B."""
TABLE_5 = ((2, 0), (7, 1), (12, 2), (17, 3), (22, 4), (27, 5))
"""Layer and index of the neurons of Table 5."""
SEEDS_NEURON = (10, 5)
"""Layer and index of the neuron of Figure 2a and Table 4."""
TOKENS = (" dog", " AI", " grand")
"""Target tokens of Table 2."""
TABLE_5_MAXIMA = (6.71, 3.41, 6.78, 3.62, 5.41, 4.59)
"""Highest values of Table 5, in the order of its neurons."""
TABLE_5_FLUENT = (3.93, 2.54, 5.11, 3.18, 4.84, 3.30)
"""Highest values of Table 5 with a cross-entropy of at most 6 nats per token."""


def layer_at(layer: int, layers: int) -> int:
    """Return the layer of a model at the depth of a layer of Pythia-12B.

    >>> [layer_at(layer, 6) for layer, _ in TABLE_5], layer_at(10, 36)
    ([0, 1, 2, 2, 3, 4], 10)
    """
    return min(layers - 1, int((layer + 0.5) / LAYERS * layers))


def default_neurons(model: HookedModel, length: int) -> list[Feature]:
    """Return the neurons that stand for those of Table 5; see :func:`living_neurons`."""
    return living_neurons(model, TABLE_5, length)


def default_neuron(model: HookedModel, length: int) -> Feature:
    """Return the neuron that stands for the paper's L10.N5; see :func:`living_neurons`."""
    return living_neurons(model, [SEEDS_NEURON], length)[0]


def living_neurons(model: HookedModel, places: Sequence[tuple[int, int]], length: int) -> list[Feature]:
    """Return a neuron for each of Pythia-12B's: at the same depth, the first from its index on that is alive.

    A neuron is alive if it is above 0 on at least one in :data:`RARE` random prompts. Many neurons of small models are
    not, and hardly any prompt drives them. If no neuron of a layer is alive, the next layer stands for it.

    Args:
        model: Model.
        places: Layer and index of neurons of Pythia-12B.
        length: Number of tokens of the random prompts.

    Raises:
        FeatureError: The model has too few neurons that are alive.
    """
    rows = uniform_prompts(model.vocabulary.allowed, PROMPTS, length, 0)
    alive: dict[int, np.ndarray] = {}

    def units_of(layer: int) -> np.ndarray:
        if layer not in alive:
            values = prompt_scores([neurons(layer)], model, rows, cross_entropy=False).values
            alive[layer] = np.flatnonzero((values > 0).mean(axis=0) * RARE >= 1)
        return alive[layer]

    chosen: list[Feature] = []
    for place, index in places:
        nearest = layer_at(place, model.n_layers)
        for layer in [*range(nearest, model.n_layers), *range(nearest - 1, -1, -1)]:
            units = units_of(layer).tolist()
            ordered = [u for u in units if u >= index] + [u for u in units if u < index]
            found = next((f for f in (neuron(layer, u) for u in ordered) if f not in chosen), None)
            if found is not None:
                chosen.append(found)
                break
        else:
            raise FeatureError(
                f"{model.name} has too few neurons that are above 0 on random prompts. Name the features: features=."
            )
    return chosen
