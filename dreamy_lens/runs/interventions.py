"""Interventions in the model of a run: steering, ablation and patching, in the run's BOS and template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from dreamy_lens.results.ablation import Ablation
from dreamy_lens.results.patching import Patching
from dreamy_lens.results.steering import Steering
from dreamy_lens.runs.controls import RunControls

if TYPE_CHECKING:
    from dreamy_lens.runs.session import Session

R = TypeVar("R")


class RunInterventions(RunControls):
    """Methods of a run that change its model for the time of one call."""

    @property
    def session(self) -> Session:
        """Session of the run; the class that holds the record defines it."""
        raise NotImplementedError

    def noted(self, result: R, method: str, arguments: Sequence[Any], settings: Mapping[str, Any]) -> R:
        """Return a result with the program that makes it again; the class of runs writes it.

        Args:
            result: Result of a method.
            method: Name of the method.
            arguments: Positional arguments of the call.
            settings: Keywords of the call.
        """
        return result

    def steer(self, prompt: Any, **settings: Any) -> Steering:
        """Change this run's feature at strengths while its model reads any prompt and writes on.

        Args:
            prompt: One text, ids `[n]`, or a Prompt.
            **settings: Settings of :func:`dreamy_lens.steer`, such as `strengths`, except model and template.
        """
        from dreamy_lens.analysis.steering import steer_prompt

        found = self.use_model(lambda: steer_prompt(self.session.scorer, prompt, **settings))
        return self.noted(found, "steer", (prompt,), settings)

    def ablate(self, parts: Any, prompts: Any, **settings: Any) -> Ablation:
        """Measure prompts without parts of this run's model.

        Args:
            parts: Components and features, as :func:`dreamy_lens.ablate` takes them.
            prompts: One prompt or several of one length: texts, ids, or Prompts.
            **settings: Settings of :func:`dreamy_lens.ablate`, such as `kind`, except model and template. `of` is this
                run's feature unless it is given.
        """
        from dreamy_lens.analysis.ablation import ablate_parts

        def work() -> Ablation:
            scorer = self.session.scorer
            return ablate_parts(scorer, parts, prompts, **{"of": [scorer.bound.feature], **settings})

        return self.noted(self.use_model(work), "ablate", (parts, prompts), settings)

    def patch(self, prompt: Any, neutral: Any = None, **settings: Any) -> Patching:
        """Patch activations of any prompt into a neutral prompt, and back, and read this run's feature.

        Args:
            prompt: One text, ids `[n]`, or a Prompt.
            neutral: Prompt of equal length; None draws one.
            **settings: Settings of :func:`dreamy_lens.patch`, such as `component`, except model and template.
        """
        from dreamy_lens.analysis.patching import patch_prompt

        found = self.use_model(lambda: patch_prompt(self.session.scorer, prompt, neutral, **settings))
        return self.noted(found, "patch", (prompt, neutral), settings)
