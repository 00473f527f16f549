"""Ensembles of models: `ensemble()`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dreamy_lens.errors import names_keywords
from dreamy_lens.models.ensemble import Ensemble, check_members
from dreamy_lens.models.load import as_hooked


@names_keywords
def ensemble(models: Iterable[Any], *, mean: str = "probabilities") -> Ensemble:
    """Return an ensemble of models with one tokenizer, which can be given wherever a model can.

    As a fluency model it asks for prompts that all members find likely: `dream(feature, base, fluency_model=ensemble([
    base, chat]))`. Prefixes are shared in every member.

    Args:
        models: Models in any form that `model=` takes; at least two. Where they differ in whether a BOS stands before
            prompts, the first one decides.
        mean: "probabilities": the probability of a token is the mean of the members' (a mixture). "log_probs": it is
            their geometric mean, normalised (a product of experts), which is low where any member finds a token
            unlikely.

    Raises:
        ModelError: There are fewer than two models, or there is no such mean.
        FeatureError: The models have different tokenizers.

    >>> import dreamy_lens as dl
    >>> both = dl.ensemble([dl.load_model(), dl.load_model()])
    >>> alone, together = (dl.score("L2.N17", "Return a copy", fluency_model=m) for m in (None, both))
    >>> bool(abs(alone.cross_entropy[0] - together.cross_entropy[0]) < 1e-4)
    True
    """
    listed = [models] if isinstance(models, (str, bytes)) or not isinstance(models, Iterable) else list(models)
    check_members(len(listed), models, mean)
    return Ensemble([as_hooked(model) for model in listed], mean)
