"""Attribution of one prompt to its tokens: `attribution()`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dreamy_lens._host import working
from dreamy_lens.analysis.attribution import attribute as compute_attribution
from dreamy_lens.api.noted_code import notes_code
from dreamy_lens.api.signatures import parse_first
from dreamy_lens.errors import names_keywords
from dreamy_lens.models.load import as_hooked
from dreamy_lens.results.attribution import Attribution
from dreamy_lens.search.frames import scorer_around


@names_keywords
@notes_code("attribution")
def attribution(
    feature: Any,
    prompt: Any,
    model: Any = None,
    k: int = 32,
    *,
    weight: float = 0.0,
    prepend_bos: bool | None = None,
    prefix: Sequence[int] = (),
    suffix: Sequence[int] = (),
    contexts: Any = None,
    fluency_model: Any = None,
    batch_size: int | None = None,
) -> Attribution:
    """Measure how much each token of a prompt contributes to a feature's value (Figure 1 of the paper).

    At each position, the k most promising substitutes replace the prompt's token, one at a time, and each changed
    prompt is scored.

    Args:
        feature: Expression, or its text such as ``"L2.N17"``.
        prompt: One text, token ids `[n]`, or a :class:`~dreamy_lens.results.Prompt`. If it begins with the BOS that is
            put before it anyway, the BOS is left out, and the attribution does not count it.
        model: TransformerBridge, Hugging Face id, or folder of a model; None is the embedded model.
        k: Number of substitutes that are tried at each position: those that the token gradient ranks highest, as in
            EPO.
        weight: Weight λ of the cross-entropy in the objective whose gradient ranks the substitutes. At 0, only the
            feature's value counts.
        prepend_bos: Whether a BOS token stands before the prompt; None is the model's convention.
        prefix: Token ids of a template before the prompt; they are not substituted.
        suffix: Token ids of a template after the prompt; they are not substituted.
        contexts: Template, chat or several contexts, from :mod:`dreamy_lens.constraints`, in place of `prefix` and
            `suffix`.
        fluency_model: Model whose cross-entropy is measured, with the same tokenizer; None is `model`.
        batch_size: Most prompts in one forward pass; None chooses the number.

    Returns:
        An :class:`~dreamy_lens.results.Attribution`: the substitutes `candidates`, int64 `[n, k]`, their `values` and
        `cross_entropies` (nats per token), float32 `[n, k]`, and for each position the drops of the value to the worst
        and to the best substitute, `drop_to_worst` and `drop_to_best`, float64 `[n]`, in the feature's units.

    Raises:
        FeatureError: The feature does not fit the model.
        NoGradientError: The value is not a differentiable function of the tokens.
        PromptError: The prompt is empty, too long for the model, or has ids outside its vocabulary.
        SettingsError: `k` is not a whole number of at least 1, or a keyword does not exist.

    >>> import dreamy_lens as dl
    >>> result = dl.attribution('log_prob(" the")', "Return a copy of", k=4)
    >>> result.values.shape
    (4, 4)
    >>> bool((result.drop_to_worst >= result.drop_to_best).all())
    True
    """
    expression = parse_first(feature, prompt, "attribution(feature, prompt)")
    hooked = as_hooked(model)
    settings: dict[str, Any] = {
        "fluency_model": None if fluency_model is None else as_hooked(fluency_model),
        "prepend_bos": prepend_bos,
        "batch_size": batch_size,
    }
    scorer = scorer_around(contexts, expression, hooked, prefix, suffix, **settings)
    with working("Computing the attribution"):
        return compute_attribution(scorer, prompt, k, weight=weight)


attribute = attribution
"""The same function, by the name of the command."""
