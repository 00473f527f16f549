"""Direct effect of a feature on the logits: `logit_effect()`."""

from __future__ import annotations

from typing import Any

from dreamy_lens.analysis.logit_effects import find_logit_effect
from dreamy_lens.api.noted_code import notes_code
from dreamy_lens.errors import names_keywords
from dreamy_lens.models.load import as_hooked
from dreamy_lens.results.logit_effect import LogitEffect


@names_keywords
@notes_code("effect")
def logit_effect(
    feature: Any,
    model: Any = None,
    count: int = 10,
    *,
    placebos: int = 16,
    seed: int = 0,
    prepend_bos: bool | None = None,
) -> LogitEffect:
    """Compute which tokens a feature promotes and suppresses most, by the direct path to the logits.

    A vector stands for the feature: a neuron's row of the output weights, a direction in the residual stream itself, or
    a latent's row of the decoder of its sparse autoencoder. This vector goes through the last norm's weights and the
    unembedding. The norm's scale depends on the prompt, so it is taken as 1. The numbers can be compared with each
    other; in a prompt, all of them are divided by one positive number. They are relative to the mean over all tokens,
    because a softmax ignores a change that is equal for all logits.

    Beside them stand the spread over all tokens and the largest change of placebos: for a neuron of other neurons of
    its hook point, and for a direction or a latent of random directions of the same length.

    Args:
        feature: Expression or its text.
        model: Bridge, Hugging Face id or folder; None is the embedded model.
        count: Number of promoted tokens, and of suppressed tokens, to return.
        placebos: Number of placebos; 0 for none.
        seed: Seed of the placebos. Equal settings give equal numbers.
        prepend_bos: Whether a BOS stands before every prompt; None follows the model's convention.

    Returns:
        A :class:`~dreamy_lens.results.LogitEffect`. For a feature that has none, such as an attention pattern, it is
        false and gives the reason.

    Raises:
        FeatureError: The feature does not fit the model; the error may be of a subclass.
        SettingsError: `count` is not a whole number, at least 1, or `placebos` or `seed` is none of at least 0.

    >>> import dreamy_lens as dl
    >>> effect = dl.logit_effect("L2.N17", count=3)
    >>> len(effect.promoted), effect.promoted[0].change > 0 > effect.suppressed[0].change
    (3, True)
    >>> effect.placebo_deviations.shape, 0 <= effect.share_below <= 1
    ((16,), True)
    >>> print(dl.logit_effect('logit(" the")'))
    The feature is a logit itself: its only effect is on that logit.
    """
    return find_logit_effect(feature, as_hooked(model), count, placebos, seed, prepend_bos)
