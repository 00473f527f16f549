"""Parts of a card that say what its dreams mean: mechanisms, upstream, downstream, words, calibration.

Each part is computed by the function that a user would call. A part that cannot be computed is left out, with the
reason, so that one feature without a vector or without a linear pre-activation still has a card.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dreamy_lens._host import working
from dreamy_lens.api.baselines import baselines
from dreamy_lens.api.explain import explain
from dreamy_lens.api.mechanisms import mechanisms
from dreamy_lens.comparison.card import PARTS
from dreamy_lens.comparison.merged_runs import dreams_of, prompt_length
from dreamy_lens.errors import DreamyLensError, LLMError, PromptError, SettingsError, quoted
from dreamy_lens.features.expressions import Feature
from dreamy_lens.models.hooked_model import HookedModel
from dreamy_lens.results.merged import Merged
from dreamy_lens.results.prompt import Prompt
from dreamy_lens.scan.feature_examples import FeatureExamples

FLUENT = 9.0
"""Most cross-entropy, in nats per token, of the dream that is decomposed and steered, if there is such a dream."""


def checked_parts(parts: Sequence[str] | str) -> tuple[str, ...]:
    """Return the names of the parts, or raise SettingsError."""
    names = (parts,) if isinstance(parts, str) else tuple(parts)
    wrong = [name for name in names if name not in PARTS]
    if wrong:
        raise SettingsError(f"parts has {quoted(wrong[0])}; a card's parts are {', '.join(map(repr, PARTS))}.")
    return names


def card_parts(
    names: Sequence[str],
    feature: Feature,
    model: HookedModel,
    merged: Merged,
    examples: FeatureExamples,
    llm: Any = None,
    llm_model: str | None = None,
    held_out_model: Any = None,
    progress: bool | None = None,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Compute parts of a card.

    Args:
        names: Names of the parts, of :data:`~dreamy_lens.comparison.card.PARTS`.
        feature: Feature of the card.
        model: Its model.
        merged: Runs of the feature.
        examples: Examples of the feature in a corpus.
        llm: Language model that is asked for an explanation; see :func:`dreamy_lens.explain`. None asks none.
        llm_model: Name of the model at the address `llm`.
        held_out_model: Model whose cross-entropy of each dream is shown; None shows none.
        progress: Whether to say what is being done.

    Returns:
        Results by name, and the reason why a part is missing, by name.

    Raises:
        LLMError: The language model does not answer.
    """
    origin, length = merged.runs[0].provenance, prompt_length(merged)
    if not len(merged.frontier):
        return {}, dict.fromkeys(names, "No prompt had finite scores.")
    strongest = _strongest(merged.frontier.prompts)

    def calibration() -> Any:
        if origin.contexts:
            raise PromptError("The dreams were scored in several contexts, and random prompts are not.")
        around = {"prefix": origin.prefix, "suffix": origin.suffix, "prepend_bos": origin.prepend_bos}
        return baselines(feature, model, length=length, fluency_model=held_out_model, **around)

    work: dict[str, tuple[str, Callable[[], Any]]] = {
        "mechanisms": (
            "Looking for the ways in which dreams drive it",
            lambda: _mechanisms(merged, feature, model, examples),
        ),
        "upstream": ("Decomposing the strongest dream", strongest.upstream),
        "downstream": ("Steering", lambda: strongest.steer(n_tokens=12)),
        "words": ("Comparing held-out windows", lambda: explain(merged, examples, llm, llm_model=llm_model)),
        "calibration": ("Scoring random prompts", calibration),
    }
    found: dict[str, Any] = {}
    absent: dict[str, str] = {}
    for name in names:
        what, compute = work[name]
        try:
            with working(what, progress):
                found[name] = compute()
        except LLMError:
            raise
        except DreamyLensError as error:
            absent[name] = str(error)
    return found, absent


def _mechanisms(merged: Merged, feature: Feature, model: HookedModel, examples: FeatureExamples) -> Any:
    """Find mechanisms in everything that the runs evaluated; of runs without a history, in their frontier."""
    runs = dreams_of(merged)
    if runs:
        return mechanisms(runs, examples=examples)
    origin = merged.runs[0].provenance
    around = {"prefix": origin.prefix, "suffix": origin.suffix, "prepend_bos": origin.prepend_bos}
    return mechanisms(merged.frontier.prompts, feature, model, examples=examples, **around)


def _strongest(prompts: Sequence[Prompt]) -> Prompt:
    """Return the strongest dream that is not very odd, or the strongest of all."""
    fluent = [prompt for prompt in prompts if prompt.cross_entropy <= FLUENT] or list(prompts)
    return max(fluent, key=lambda prompt: prompt.value)
