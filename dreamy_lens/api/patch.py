"""Activation patching between a prompt and a neutral prompt: `patch()`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dreamy_lens._host import working
from dreamy_lens.analysis.patching import patch_prompt
from dreamy_lens.api.noted_code import notes_code
from dreamy_lens.api.signatures import parse_first
from dreamy_lens.errors import names_keywords
from dreamy_lens.models.load import as_hooked
from dreamy_lens.results.patching import Patching
from dreamy_lens.search.frames import scorer_around


@names_keywords
@notes_code("patching")
def patch(
    feature: Any,
    prompt: Any,
    neutral: Any = None,
    model: Any = None,
    *,
    component: str = "resid_pre",
    layers: Any = None,
    reference: Any = None,
    placebos: int = 4,
    seed: int = 0,
    prepend_bos: bool | None = None,
    prefix: Sequence[int] = (),
    suffix: Sequence[int] = (),
    contexts: Any = None,
) -> Patching:
    """Patch activations of a prompt into a neutral prompt, and back, to see where the feature's value is carried.

    One activation at a time, of one layer and one position, is taken from the pass of one prompt and put into the pass
    of the other. The feature's value then lies between that of the neutral prompt, a share of 0, and that of the
    prompt, a share of 1. Patched from the prompt into the neutral prompt (denoising), a large share says that this
    activation is enough; patched from the neutral prompt into the prompt (noising), a small share says that it is
    needed. As placebos, activations of other prompts are patched into the neutral prompt.

    Args:
        feature: Expression, or its text such as ``"L2.N17"``.
        prompt: One text, token ids `[n]`, or a :class:`~dreamy_lens.results.Prompt`, such as a dream.
        neutral: Prompt of the same number of tokens. None draws one: a text that the model writes itself, in the
            template of the prompt, or a window of `reference`.
        model: TransformerBridge, Hugging Face id, or folder of a model; None is the embedded model.
        component: "resid_pre" (the residual stream before each block), "attn_out" or "mlp_out".
        layers: Layers to patch; None is all of them.
        reference: Texts, or anything that :func:`dreamy_lens.corpus.open` takes, from which the neutral prompt and the
            placebos are drawn. None draws texts from the model.
        placebos: Number of other prompts that are patched into the neutral prompt; 0 for none.
        seed: Seed of what is drawn. Equal settings give equal numbers.
        prepend_bos: Whether a BOS token stands before the prompts; None is the model's convention.
        prefix: Token ids of a template before the prompts.
        suffix: Token ids of a template after the prompts.
        contexts: Template, chat or several contexts, from :mod:`dreamy_lens.constraints`, in place of `prefix` and
            `suffix`. Of several contexts, the first is used.

    Returns:
        A :class:`~dreamy_lens.results.Patching`: `.denoising` and `.noising` `[L, P]`, `.placebos` `[R, L, P]`,
        `.plot()`, a heat map, `.to_pandas()` and `.save(path)`.

    Raises:
        FeatureError: The feature does not fit the model, has the same value on both prompts, or the model does not use
            what is put at a hook point; the message gives the reason.
        PromptError: The prompts differ in length, are equal, or are too long for the model.
        SettingsError: A setting has a value that it cannot have, or a keyword does not exist.

    >>> import dreamy_lens as dl
    >>> found = dl.patch("L2.N812", "if given, applied only", placebos=2)
    >>> found.denoising.shape, found.placebos.shape  # layers, positions
    ((6, 5), (2, 6, 5))
    >>> len(found.neutral_ids) == len(found.ids)
    True
    """
    expression = parse_first(feature, prompt, "patch(feature, prompt)")
    hooked = as_hooked(model)
    scorer = scorer_around(contexts, expression, hooked, prefix, suffix, prepend_bos=prepend_bos)
    with working("Patching"):
        return patch_prompt(
            scorer,
            prompt,
            neutral,
            component=component,
            layers=layers,
            reference=reference,
            placebos=placebos,
            seed=seed,
        )
