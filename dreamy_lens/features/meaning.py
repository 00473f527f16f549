"""What zero means for a feature: neurons and latents are off there, and a logit difference changes its sign."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dreamy_lens.features import expressions as ex


def is_off_at_zero(feature: Any) -> bool:
    """Return whether a feature is on only where its value is above zero.

    This holds for a neuron of an MLP after its nonlinearity and for a latent of an autoencoder, for their maxima and
    means over positions, and for positive multiples of these. It does not hold for directions, logits and sums. In a
    gated MLP it need not hold for a neuron, which may be on below zero too; the expression does not tell.

    >>> from dreamy_lens.features.parser import parse
    >>> is_off_at_zero(parse("2 * L2.N17")), is_off_at_zero(parse("blocks.2.mlp.hook_pre[-1, 17]"))
    (True, False)
    """
    if isinstance(feature, ex.Reduced):
        return is_off_at_zero(feature.of)
    if isinstance(feature, ex.Scaled):
        return feature.factor > 0 and is_off_at_zero(feature.of)
    if isinstance(feature, ex.Latent):
        return not feature.pre_activation
    if isinstance(feature, ex.ExpertNeuron):
        return True
    return isinstance(feature, ex.Hook) and feature.name.endswith(".mlp.hook_post")


def reads_mlp(feature: Any) -> bool:
    """Return whether a feature for which :func:`is_off_at_zero` holds reads a neuron, and not a latent."""
    while isinstance(feature, (ex.Reduced, ex.Scaled)):
        feature = feature.of
    return isinstance(feature, (ex.Hook, ex.ExpertNeuron))


def of_expert(feature: Any) -> bool:
    """Return whether a feature for which :func:`is_off_at_zero` holds reads a neuron of an expert."""
    return any(isinstance(node, ex.ExpertNeuron) for node in feature.walk())


def before_nonlinearity(feature: Any) -> Any:
    """Return a feature that is off at zero as it is before the nonlinearity, where it has a slope everywhere.

    What a neuron of an expert has before it is the router's logit, which decides whether it can be on.

    Args:
        feature: Feature for which :func:`is_off_at_zero` holds.
    """

    def change(node: Any) -> Any:
        if isinstance(node, ex.Hook):
            return ex.Hook(f"{node.name.removesuffix('post')}pre", node.index)
        if isinstance(node, ex.ExpertNeuron):
            return ex.RouterLogit(node.layer, node.expert, node.position)
        return replace(node, pre_activation=True) if isinstance(node, ex.Latent) else None

    return feature.transform(change)


def predicted_token(feature: Any) -> str | int | None:
    """Return the token of a logit difference (Eq. 3), which is above zero where the token is the likeliest next one.

    Other features have none.

    >>> from dreamy_lens.features.parser import parse
    >>> predicted_token(parse('logit(" dog") - logit.runner_up(" dog")'))
    ' dog'
    """
    terms = feature.terms if isinstance(feature, ex.Sum) else ()
    plain = [t for t in terms if isinstance(t, ex.Logit) and t.kind == "logit"]
    others = [t.of for t in terms if isinstance(t, ex.Scaled) and t.factor == -1 and isinstance(t.of, ex.Logit)]
    is_difference = len(terms) == 2 and len(plain) == 1 and len(others) == 1 and others[0].kind == "runner_up"
    return plain[0].token if is_difference and plain[0].token == others[0].token else None
