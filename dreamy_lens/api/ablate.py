"""Ablation of components and features: `ablate()`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dreamy_lens._host import working
from dreamy_lens.analysis.ablation import DRAWS, ablate_parts
from dreamy_lens.api.noted_code import notes_code
from dreamy_lens.errors import names_keywords
from dreamy_lens.features.expressions import Feature, MeanCrossEntropy
from dreamy_lens.models.load import as_hooked
from dreamy_lens.results.ablation import Ablation
from dreamy_lens.search.frames import scorer_around


@names_keywords
@notes_code("ablation")
def ablate(
    parts: Any,
    prompts: Any,
    model: Any = None,
    *,
    kind: str = "mean",
    of: Any = (),
    tokens: Any = (),
    positions: Any = "all",
    reference: Any = None,
    draws: int = DRAWS,
    placebos: int = 8,
    top: int = 5,
    seed: int = 0,
    prepend_bos: bool | None = None,
    prefix: Sequence[int] = (),
    suffix: Sequence[int] = (),
    contexts: Any = None,
) -> Ablation:
    """Take components or features out of a model, and measure what it then predicts and what other features become.

    Each part is ablated alone, and all of them together. The part that is ablated gets, at the positions that are
    named, the value zero, its mean over the tokens of reference prompts, or its activations on reference prompts.
    Beside each ablation stand its placebos: other heads, MLPs or attentions, drawn at random (heads of the same layer
    first); for a neuron other neurons of its layer, and for a direction or a latent random directions of the same
    length, which are moved as far as the feature is.

    Args:
        parts: Component or feature, or a list: "L2.H3" (a head), "L1.MLP", "L1.attn", "embedding", "position"; an entry
            of :meth:`Upstream.top <dreamy_lens.results.Upstream.top>`; a neuron, a direction or a latent.
        prompts: One prompt or a list of prompts of one length: texts, token ids, or Prompts.
        model: TransformerBridge, Hugging Face id, or folder of a model; None is the embedded model.
        kind: "zero", "mean" or "resample".
        of: Feature or list of features to read in the same passes.
        tokens: Tokens whose logits and log-probabilities are read: texts of one token, or ids.
        positions: "all" (every token except the BOS), "last", or positions as in features: a number, a list, a slice,
            or "bos".
        reference: Reference prompts: texts, or anything that :func:`dreamy_lens.corpus.open` takes. None draws texts
            from the model, in the template of the prompts.
        draws: Number of reference prompts of a resample ablation; the effects are means over them.
        placebos: Number of placebos of each ablation; fewer if there are fewer other components.
        top: Number of changed tokens to list in each direction.
        seed: Seed of the reference prompts and of the placebos. Equal settings give equal numbers.
        prepend_bos: Whether a BOS token stands before every prompt; None is the model's convention.
        prefix: Token ids of a template before every prompt.
        suffix: Token ids of a template after every prompt.
        contexts: Template, chat or several contexts, from :mod:`dreamy_lens.constraints`, in place of `prefix` and
            `suffix`. Of several contexts, the first is used.

    Returns:
        An :class:`~dreamy_lens.results.Ablation`: `.kl` `[N, P]`, `.changes_of_values` `[N, P, F]`, `.log_probs`
        `[N, P, T]`, each with its placebos, `.plot()`, `.to_pandas()` and `.save(path)`.

    Raises:
        FeatureError: There is no such part, no vector stands for a feature, or what is put at its hook point is not
            used by the model; the message gives the reason.
        PromptError: There is no prompt, it is too long for the model, or has ids outside its vocabulary.
        SettingsError: A setting has a value that it cannot have, or the prompts have several lengths.

    >>> import dreamy_lens as dl
    >>> prompt = "if given, applied only"
    >>> found = dl.ablate(["L1.MLP", "L0.H2"], prompt, of="L2.N812", placebos=3)
    >>> found.parts
    ('L1.MLP', 'L0.H2', 'L1.MLP + L0.H2')
    >>> found.kl.shape, found.placebo_changes.shape  # ablations, placebos, prompts, features
    ((3, 1), (3, 3, 1, 1))
    >>> top = dl.upstream("L2.N812", prompt).top(2)
    >>> len(dl.ablate(top, prompt, kind="zero", placebos=0))
    3
    """
    hooked = as_hooked(model)
    about: Feature = MeanCrossEntropy()
    scorer = scorer_around(contexts, about, hooked, prefix, suffix, prepend_bos=prepend_bos)
    with working("Ablating"):
        return ablate_parts(
            scorer,
            parts,
            prompts,
            kind=kind,
            of=of,
            tokens=tokens,
            positions=positions,
            reference=reference,
            draws=draws,
            placebos=placebos,
            top=top,
            seed=seed,
        )
