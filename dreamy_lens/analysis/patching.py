"""Activation patching: which activations of a prompt's pass carry a feature's value, by layer and position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dreamy_lens.analysis.feature_vectors import positions_first
from dreamy_lens.analysis.interventions import (
    Measurement,
    Positions,
    Replacement,
    Row,
    check_alone,
    check_whole,
    measure,
)
from dreamy_lens.analysis.reference_prompts import reference_prompts
from dreamy_lens.errors import FeatureError, PromptError, SettingsError, quoted
from dreamy_lens.features import expressions as ex
from dreamy_lens.features.shapes import Axes, ShapeProbe
from dreamy_lens.models.editable_hooks import check_editable
from dreamy_lens.models.hooked_model import locked
from dreamy_lens.results.patching import COMPONENTS, Patching
from dreamy_lens.scoring.prompts import as_ids
from dreamy_lens.scoring.scorer import Scorer
from dreamy_lens.search.frames import summary_of_contexts

_HOOKS = {"resid_pre": "hook_resid_pre", "attn_out": "hook_attn_out", "mlp_out": "hook_mlp_out"}


def patch_prompt(
    scorer: Scorer,
    prompt: Any,
    neutral: Any = None,
    *,
    component: str = "resid_pre",
    layers: Any = None,
    reference: Any = None,
    placebos: int = 4,
    seed: int = 0,
) -> Patching:
    """Patch activations of a prompt into a neutral prompt, and back; see :func:`dreamy_lens.patch`.

    Args:
        scorer: Scorer of the feature; of several contexts, the first is used.
        prompt: One text, ids `[n]`, or a Prompt.
        neutral: Prompt of equal length; None draws one.
        component: "resid_pre", "attn_out" or "mlp_out".
        layers: Layers to patch; None is all of them.
        reference: Texts or a corpus from which the neutral prompt and the placebos are drawn; None takes texts that the
            model writes.
        placebos: Number of other prompts that are patched into the neutral prompt.
        seed: Seed of what is drawn.
    """
    check_whole(placebos=(placebos, 0), seed=(seed, 0))
    if component not in COMPONENTS:
        raise SettingsError(f"component is {quoted(component)}; it is one of {', '.join(map(quoted, COMPONENTS))}.")
    model = scorer.model
    check_alone(scorer.bound, model, "patching")
    ids = _one(scorer, prompt, "prompt")
    layout = scorer.check_length(len(ids))
    chosen = _layers(layers, model.n_layers)
    needed = int(neutral is None) + placebos
    drawn = np.zeros((0, len(ids)), dtype=np.int64)
    source = ""
    with locked([model]), model.keep_hooks():
        if needed:
            drawn, source = reference_prompts(scorer, reference, needed + 4, len(ids), seed)
            drawn = drawn[~(drawn == ids).all(1)][:needed]
        if neutral is None:
            if not len(drawn):
                raise PromptError(
                    "No neutral prompt could be drawn that differs from the prompt; give one: neutral=..."
                )
            base, drawn, how = drawn[0], drawn[1:], f"the first of the {source}"
        else:
            base, how = _one(scorer, neutral, "neutral prompt"), "given"
        if len(base) != len(ids):
            raise PromptError(
                f"The prompt has {len(ids)} tokens and the neutral prompt {len(base)}; patching needs equal lengths. "
                f"Give a neutral prompt of {len(ids)} tokens, or leave it out: then one is drawn."
            )
        if np.array_equal(base, ids):
            raise PromptError("The neutral prompt is the prompt itself, so there is nothing to patch.")
        work = _Patches(scorer, component, chosen, layout.before)
        rows = scorer.frame.rows(np.stack([ids, base, *drawn]), model)
        return _result(scorer, work, rows, ids, base, how, source, int(seed))


def _one(scorer: Scorer, prompt: Any, what: str) -> Int64[np.ndarray, " n"]:
    found = as_ids(prompt, scorer.vocabulary, scorer.frame.bos)
    if len(found) != 1:
        raise PromptError(f"One {what} is patched at a time; got {len(found)}. Call it once for each.")
    return found[0]


def _layers(given: Any, count: int) -> list[int]:
    """Return the layers to patch."""
    if given is None:
        return list(range(count))
    several = [given] if isinstance(given, (int, np.integer)) else list(given)
    whole = all(isinstance(i, (int, np.integer)) and not isinstance(i, bool) and 0 <= i < count for i in several)
    if not several or not whole:
        raise SettingsError(f"layers is {quoted(given)}; it names layers from 0 to {count - 1}.")
    return sorted({int(i) for i in several})


class _Patches:
    """Patches of one component at layers and positions.

    Attributes:
        names: Hook point of each layer.
        places: Places of the row that are patched: from the prompt's first token to the end.
    """

    def __init__(self, scorer: Scorer, component: str, layers: Sequence[int], before: int) -> None:
        self.scorer, self.model = scorer, scorer.model
        self.layers, self.before = layers, before
        self.names = [f"blocks.{i}.{_HOOKS[component]}" for i in layers]
        self.axes: list[Axes] = []
        for name in self.names:
            self.model.check_hook(name)
            axes = ShapeProbe(self.model, ex.Hook(name), scorer.prepend_bos).axes[name]
            if [axis.name for axis in axes].count("position") != 1:
                raise FeatureError(f"The activation at {name} of {self.model.name} has no single axis of positions.")
            check_editable(self.model, name)
            self.axes.append(axes)

    def measured(self, rows: np.ndarray, interventions: Sequence[Row], capture: Sequence[str] = ()) -> Measurement:
        """Run rows with their patches and read the feature; a pass ends where all is read."""
        bound = self.scorer.bound
        layout = self.scorer.layout(rows.shape[1] - self.before - len(self.scorer.suffix))
        return measure(self.model, rows, layout, interventions, [bound], capture, logits=False)

    def grid(self, source: dict[str, Tensor], into: np.ndarray) -> Float[np.ndarray, "layers pos"]:
        """Return the feature's value with activations of one row patched into another, by layer and position.

        Args:
            source: Activations `[1, ...]` of the row that is patched in, by hook point.
            into: Row that they are patched into.
        """
        places = range(self.before, len(into))
        found = []
        for name, axes in zip(self.names, self.axes, strict=True):
            value = positions_first(source[name], axes)[0]
            patches = [(Replacement(name, axes, None, value, Positions(str(i), (i,))),) for i in places]
            found.append(self.measured(np.tile(into, (len(patches), 1)), patches).values[:, 0])
        return np.stack(found)


def _result(
    scorer: Scorer,
    work: _Patches,
    rows: Int64[np.ndarray, "prompts total"],
    ids: np.ndarray,
    base: np.ndarray,
    how: str,
    source: str,
    seed: int,
) -> Patching:
    """Compute the grids. `rows` are those of the prompt, the neutral prompt, and the placebos."""
    model, vocabulary, feature = scorer.model, scorer.vocabulary, scorer.bound.feature
    with torch.no_grad():
        plain = work.measured(rows, [()] * len(rows), work.names)
    own, none = plain.values[0, 0], plain.values[1, 0]
    if not np.isfinite([own, none]).all() or abs(own - none) <= 1e-6 * max(abs(own), abs(none), 1e-6):
        raise FeatureError(
            f"{feature.label} is {own:.4g} on the prompt and {none:.4g} on the neutral prompt, so there is no "
            "difference to divide. Choose another neutral prompt."
        )
    activations = [{name: x[i : i + 1] for name, x in plain.captured.items()} for i in range(len(rows))]
    into = work.grid(activations[0], rows[1])
    back = work.grid(activations[1], rows[0])
    others = [work.grid(each, rows[1]) for each in activations[2:]]
    size = own - none
    tokens, opposite = (vocabulary.tokens([int(i) for i in row[work.before :]]) for row in rows[:2])
    notes = []
    contexts = summary_of_contexts(scorer.origin)
    if contexts:
        notes.append(f"The feature is scored {contexts}; the patching is in the first context.")
    if len(others) and abs(size) < float(np.abs(plain.values[2:, 0] - none).max()):
        notes.append(
            "A placebo's own value is farther from the neutral prompt's than the prompt's is, so a share of 1 says "
            "little."
        )
    return Patching(
        feature=str(feature),
        model=model.name,
        component=work.names[0].rpartition("hook_")[2],
        prompt=vocabulary.text(ids.tolist()),
        neutral=vocabulary.text(base.tolist()),
        ids=ids,
        neutral_ids=base,
        how=how,
        placebo_source=source if len(others) else "",
        seed=seed,
        layers=tuple(work.layers),
        tokens=tuple(tokens),
        neutral_tokens=tuple(opposite),
        value=float(own),
        neutral_value=float(none),
        placebo_own_values=plain.values[2:, 0],
        denoising=(into - none) / size,
        noising=(back - none) / size,
        placebos=np.stack([(grid - none) / size for grid in others])
        if others
        else np.zeros((0, *into.shape), dtype=np.float64),
        notes=tuple(notes),
    )
