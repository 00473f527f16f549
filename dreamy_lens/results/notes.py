"""Note on prompts whose values mean that the search found nothing: a feature that never fired looks like a find."""

from __future__ import annotations

from dreamy_lens.errors import FeatureError, quoted
from dreamy_lens.features.meaning import before_nonlinearity, is_off_at_zero, of_expert, predicted_token, reads_mlp
from dreamy_lens.features.parser import parse

SILENT = 1e-6
"""Largest value of a feature that counts as off: nonlinearities leave traces of this size where they round to zero."""


def note_on_values(feature: str, best: float, evaluated: int, in_template: bool = False) -> str:
    """Return a note which says that a feature never fired or that its goal was not reached, or "" for no note.

    Only a feature for which zero means "off", such as a neuron after its nonlinearity or a latent, can be silent. In a
    template with text after the prompt, a logit difference below zero is a goal that may be out of reach.

    Args:
        feature: Text form of the feature.
        best: Highest value of all prompts.
        evaluated: Number of prompts that were scored.
        in_template: Whether there is text of a template after the prompt.
    """
    if not best <= SILENT:
        return ""
    try:
        expression = parse(feature)
    except FeatureError:  # a function of another Python session, whose values may mean anything
        return ""
    prompts = f"{evaluated:,} prompt{'s' * (evaluated != 1)}"
    name, token = expression.label, predicted_token(expression)
    if is_off_at_zero(expression):
        template = (
            " It is read after the end of the template, and not at the last token of the dream: end the template with "
            "{dream}, or read all positions, as in blocks.2.mlp.hook_post[..., 17].max()."
        )
        # A gated MLP multiplies what the nonlinearity gives by another number, which may be negative.
        gated = ", unless its MLP is gated, as in Llama, and it is on below 0" if reads_mlp(expression) else ""
        before = "the router's logit of its expert" if of_expert(expression) else "its value before the nonlinearity"
        return (
            f"{name} never rose above 0 in {prompts}: none of them turns it on{gated}.{template * in_template} "
            "Look for text that does with a scan (`dreamy-lens scan`, dl.max_activating), and start there; dream of "
            f"{before}, {before_nonlinearity(expression).label}; or try another unit."
        )
    if token is not None and in_template and best < 0:
        return (
            f"{name} never rose above 0 in {prompts}: {quoted(token)} was never the likeliest next token. It is "
            "predicted after the end of the template, which may leave no room for it: end the template with {dream}, "
            "or with a text that it can follow."
        )
    return ""
