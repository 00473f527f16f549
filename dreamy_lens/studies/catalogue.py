"""Catalogue of the studies: their names, the functions that make them, and what they are for.

This module imports no library that takes time to import.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

from dreamy_lens.errors import SettingsError, close_names, quoted


class StudyEntry(NamedTuple):
    """Study of the catalogue.

    Attributes:
        module: Module of `dreamy_lens.studies` with the function.
        function: Name of the function in the module.
        help: What the study does, in the imperative.
        paper: Parts of the paper that it repeats; "" for a study that is not in the paper.
    """

    module: str
    function: str
    help: str
    paper: str = ""


STUDIES = {
    "token_logits": StudyEntry(
        "logit_study", "study_token_logits", "dream of tokens that a model shall predict", "Section 3.1, Table 2"
    ),
    "neurons": StudyEntry(
        "neuron_study", "study_neurons", "dream of neurons, and attribute", "Tables 3 and 5, Figures 1 and 4"
    ),
    "seeds": StudyEntry(
        "seed_study",
        "study_seeds",
        "dream of one neuron with many seeds, and group the prompts by what triggers them",
        "Figures 2a and 2b, Table 4",
    ),
    "against_data": StudyEntry(
        "data_study", "study_against_data", "compare dreams with the strongest windows of a corpus", "Figure 3"
    ),
    "residual": StudyEntry(
        "residual_study",
        "study_residual",
        "align the residual stream with random directions, by three methods",
        "Section 3.5, Figures 5b-e and 6",
    ),
    "corpus_fluency": StudyEntry(
        "fluency_study", "study_corpus_fluency", "measure the cross-entropy of windows of a corpus", "Figure 5a"
    ),
    "optimisers": StudyEntry(
        "optimiser_study", "study_optimisers", "compare searches on features and seeds at equal time"
    ),
    "scaling": StudyEntry("scaling_study", "study_scaling", "compare what dreams reach in models of several sizes"),
}
"""All studies, in the order in which they are listed."""


def study_function(name: str) -> Any:
    """Return the function that makes a study.

    Args:
        name: Name of the study, one of :data:`STUDIES`; "-" may stand for "_".

    Raises:
        SettingsError: There is no such study.
    """
    name = name.replace("-", "_")
    if name not in STUDIES:
        near = close_names(name, list(STUDIES))
        meant = f" Did you mean {near[0]}?" if near else ""
        raise SettingsError(f"There is no study {quoted(name)}; there are: {', '.join(STUDIES)}.{meant}")
    entry = STUDIES[name]
    return getattr(import_module(f"dreamy_lens.studies.{entry.module}"), entry.function)
