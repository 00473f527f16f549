"""Steering of a model by a feature: `steer()`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dreamy_lens._host import working
from dreamy_lens.analysis.steering import steer_prompt
from dreamy_lens.api.noted_code import notes_code
from dreamy_lens.api.signatures import parse_first
from dreamy_lens.errors import names_keywords
from dreamy_lens.models.load import as_hooked
from dreamy_lens.results.steering import STRENGTHS, Steering
from dreamy_lens.search.frames import scorer_around


@names_keywords
@notes_code("steering")
def steer(
    feature: Any,
    prompt: Any,
    model: Any = None,
    *,
    strengths: Any = STRENGTHS,
    mode: str = "add",
    units: str = "sd",
    positions: Any = "all",
    tokens: Any = (),
    features: Any = (),
    n_tokens: int = 20,
    reference: Any = None,
    placebos: int = 4,
    top: int = 5,
    seed: int = 0,
    prepend_bos: bool | None = None,
    prefix: Sequence[int] = (),
    suffix: Sequence[int] = (),
    contexts: Any = None,
) -> Steering:
    """Change a feature while the model reads a prompt and writes on, and measure what it then predicts.

    A vector stands for the feature: a neuron's unit at its hook point, a direction at the hook point that it is read
    from, or a latent's row of the decoder. Its coordinate is the neuron's activation, the projection on the direction,
    or the latent; or minus that, if the feature falls where it rises. Factors and constants of the feature do not
    count. `mode="add"` adds the vector. `mode="set"` moves the activation along it until the coordinate is the
    strength. `mode="clamp"` does so only where the coordinate is below the strength, or above it for a negative one.

    A strength counts standard deviations of the coordinate over the tokens of reference prompts: with "add" a strength
    of 2 raises it by two of them, and with "set" and "clamp" it becomes their mean plus two. With `units="raw"`, "add"
    adds the vector times the strength, and "set" and "clamp" take the strength as the coordinate.

    Beside each strength stand placebos, whose vector has the same length and which are moved exactly as far: for a
    neuron other units of its hook point, for a direction or a latent random directions.

    Args:
        feature: Neuron, direction or latent: an expression, or its text such as ``"L2.N17"``.
        prompt: One text, token ids `[n]`, or a :class:`~dreamy_lens.results.Prompt`.
        model: TransformerBridge, Hugging Face id, or folder of a model; None is the embedded model.
        strengths: One strength or several, negative ones too.
        mode: "add", "set" or "clamp".
        units: "sd" or "raw".
        positions: "all" (every token except the BOS, also those that the model writes), "last" (the prompt's last
            token), or positions as in features: a number, a list, a slice, or "bos".
        tokens: Tokens whose logits and log-probabilities are read: texts of one token, or ids.
        features: Other feature or features to read in the same passes.
        n_tokens: Number of tokens that the model writes after the prompt, the most probable at each step; 0 is none.
        reference: Reference prompts for the unit: texts, or anything that :func:`dreamy_lens.corpus.open` takes. None
            draws texts from the model, in the template of the prompt.
        placebos: Number of placebos beside each strength.
        top: Number of changed tokens to list in each direction.
        seed: Seed of the placebos and of the reference prompts. Equal settings give equal numbers.
        prepend_bos: Whether a BOS token stands before the prompt; None is the model's convention.
        prefix: Token ids of a template before the prompt.
        suffix: Token ids of a template after the prompt.
        contexts: Template, chat or several contexts, from :mod:`dreamy_lens.constraints`, in place of `prefix` and
            `suffix`. Of several contexts, the first is used.

    Returns:
        A :class:`~dreamy_lens.results.Steering`: `.untouched`, `.effects` and `.placebos`, each with the value reached,
        the KL divergence, the tokens that change most, the chosen tokens and the continuation; `.kl` `[S]`,
        `.placebo_kl` `[S, R]`, `.plot()`, `.to_pandas()` and `.save(path)`.

    Raises:
        FeatureError: No vector stands for the feature, it does not vary on the reference prompts, or what is put at its
            hook point is not used by the model; the message gives the reason.
        ModelError: The model sees later tokens, so it cannot write on.
        PromptError: There is not exactly one prompt, it is too long for the model, or has ids outside its vocabulary.
        SettingsError: A setting has a value that it cannot have, or a keyword does not exist.

    >>> import dreamy_lens as dl
    >>> found = dl.steer("L2.N812", "if given, applied only", strengths=[0, 4], n_tokens=3, placebos=2)
    >>> float(found.kl[0]), bool(found.kl[1] > 0), found.placebo_kl.shape
    (0.0, True, (2, 2))
    >>> found.effects[0].continuation == found.untouched.continuation
    True
    >>> dl.steer("L2.N812", "if given", mode="set", units="raw", strengths=3, n_tokens=0).values[0]
    array([3.])
    """
    expression = parse_first(feature, prompt, "steer(feature, prompt)")
    hooked = as_hooked(model)
    scorer = scorer_around(contexts, expression, hooked, prefix, suffix, prepend_bos=prepend_bos)
    with working("Steering"):
        return steer_prompt(
            scorer,
            prompt,
            strengths=strengths,
            mode=mode,
            units=units,
            positions=positions,
            tokens=tokens,
            features=features,
            n_tokens=n_tokens,
            reference=reference,
            placebos=placebos,
            top=top,
            seed=seed,
        )
