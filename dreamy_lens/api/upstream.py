"""Decomposition of a feature's value into contributions of a model's components: `upstream()`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dreamy_lens._host import working
from dreamy_lens.analysis.upstream import decompose
from dreamy_lens.api.noted_code import notes_code
from dreamy_lens.api.signatures import parse_first
from dreamy_lens.errors import names_keywords
from dreamy_lens.models.load import as_hooked
from dreamy_lens.results.upstream import Upstream
from dreamy_lens.search.frames import scorer_around


@names_keywords
@notes_code("upstream")
def upstream(
    feature: Any,
    prompt: Any,
    model: Any = None,
    *,
    quantity: str | None = None,
    neurons: int = 10,
    steps: int = 32,
    prepend_bos: bool | None = None,
    prefix: Sequence[int] = (),
    suffix: Sequence[int] = (),
    contexts: Any = None,
) -> Upstream:
    """Divide a feature's value on a prompt into what the model's components contribute.

    The residual stream that a feature reads is the sum of what the embedding, every head and every MLP have written.
    The scale of the norm before the reader is held at its value on this prompt; what follows is then an affine function
    for most features, and their value divides exactly: into one contribution for each component, and one for all
    biases. Heads are divided further by the position that they attend to, with their pattern held, and MLPs by their
    neurons.

    A neuron after its nonlinearity, an SAE's latent, and a logit under a soft cap are decomposed before that function;
    the result says so, and has the value too. The choice that a maximum or a runner-up makes, and the lengths that
    `standardised()` and `cosine()` divide by, are held. A feature that is no affine function even then, such as a
    log-probability, a product, or a neuron of a gated MLP, is divided by integrated gradients along the line from a
    residual stream of zeros, where only biases remain, to that of the prompt.

    Args:
        feature: Expression, or its text such as ``"L2.N17"``.
        prompt: One text, token ids `[n]`, or a :class:`~dreamy_lens.results.Prompt`.
        model: TransformerBridge, Hugging Face id, or folder of a model; None is the embedded model.
        quantity: Quantity to decompose: "pre", the pre-activation; "gate" or "up", the two parts of a neuron in a gated
            MLP; "value", the value itself, by integrated gradients if it is no affine function. None takes the
            pre-activation if there is one, and else the value.
        neurons: Number of neurons to name in each MLP.
        steps: Points at which integrated gradients evaluate the feature.
        prepend_bos: Whether a BOS token stands before the prompt; None is the model's convention.
        prefix: Token ids of a template before the prompt.
        suffix: Token ids of a template after the prompt.
        contexts: Template, chat or several contexts, from :mod:`dreamy_lens.constraints`, in place of `prefix` and
            `suffix`. Of several contexts, the first is used.

    Returns:
        An :class:`~dreamy_lens.results.Upstream`: `.components`, their `.contributions` `[C]` and `.by_position`
        `[C, P]`, `.bias`, `.total`, and the measured `.error` of their sum; `.top(k)`, `.plot()` and `.to_pandas()`.

    Raises:
        FeatureError: The feature does not fit the model, has no such quantity, or cannot be decomposed: an attention
            pattern, a feature of several models, or a model whose components do not sum to its residual stream. The
            message gives the reason.
        PromptError: There is not exactly one prompt, it is too long for the model, or has ids outside its vocabulary.
        SettingsError: A setting has a value that it cannot have, or a keyword does not exist.

    >>> import dreamy_lens as dl
    >>> result = dl.upstream("L2.N812", "if given, applied only")
    >>> result.method, result.quantity
    ('exact', 'pre')
    >>> result.error < 1e-4 * abs(result.total)  # of the sum of all contributions and the bias
    True
    >>> len(result.top(3)), result.top(1, kind="mlp")[0].component.kind
    (3, 'mlp')
    """
    expression = parse_first(feature, prompt, "upstream(feature, prompt)")
    hooked = as_hooked(model)
    scorer = scorer_around(contexts, expression, hooked, prefix, suffix, prepend_bos=prepend_bos)
    with working("Computing the upstream contributions"):
        return decompose(scorer, prompt, quantity=quantity, neurons=neurons, steps=steps)
