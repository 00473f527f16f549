"""A run as its record, its model, and its results so far. Several threads may read it while it grows."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from dreamy_lens import _upcalls
from dreamy_lens.errors import FeatureError, SettingsError
from dreamy_lens.features.expressions import Feature
from dreamy_lens.features.parser import feature_names, parse
from dreamy_lens.models.embedded import EMBEDDED_NAME
from dreamy_lens.results.attribution import Attribution
from dreamy_lens.results.continuation import Continuation
from dreamy_lens.results.history import HistoryBuilder
from dreamy_lens.results.prompt import Decoder
from dreamy_lens.results.snapshot import Snapshot
from dreamy_lens.results.upstream import Upstream
from dreamy_lens.runs import saving
from dreamy_lens.runs.companions import Companions, RunCompanions
from dreamy_lens.runs.interventions import RunInterventions
from dreamy_lens.runs.spec import RunRecord, RunSpec
from dreamy_lens.runs.worker import DONE, READY, STOPPED
from dreamy_lens.search.config import SearchConfig, iterations_text
from dreamy_lens.search.constraint_kinds import Constraint
from dreamy_lens.search.lengths import without_empty
from dreamy_lens.search.steps import Step

if TYPE_CHECKING:
    import pandas as pd

    from dreamy_lens.results.mechanisms import Mechanisms
    from dreamy_lens.runs.session import Session

R = TypeVar("R", bound="RecordedRun")

_START = 80
"""Most characters of the start that a title shows."""


class RecordedRun(RunCompanions, RunInterventions):
    """Base of :class:`~dreamy_lens.runs.dream.Dream`. No method here waits for a run in the background to end.

    Args:
        record: Record of the run so far.
        session: Model, scorer and constraints of the run, if they are loaded; None loads them when they are needed.

    Attributes:
        provenance: Feature, model, seed, BOS and template of the run's prompts.
        folder: Folder in which the run was last saved, or from which it was loaded; None if there is none.
    """

    def __init__(self, record: RunRecord, session: Session | None = None) -> None:
        self.provenance = record.provenance
        self.folder: Path | None = None
        self._companions = Companions()
        self._spec, self._state = record.spec, record.state
        self._builder = HistoryBuilder.from_history(record.history)
        self._identity, self._fluency_name = record.identity, record.fluency_name
        self._session = session
        self._decoder: Decoder = (
            saving.SavedTexts(record.texts, self._vocabulary) if session is None else session.scorer.vocabulary
        )
        self._snapshot: Snapshot | None = None
        self._lock = threading.RLock()

    @classmethod
    def from_record(cls: type[R], record: RunRecord, folder: Path | None = None) -> R:
        """Make a run from its record; the model is loaded when it is needed.

        Args:
            record: Record of the run.
            folder: Absolute path of the folder from which the record was read; None for a record from memory.
        """
        run = cls(record)
        run.folder = folder
        return run

    @classmethod
    def load(
        cls: type[R],
        path: str | os.PathLike[str],
        model: Any = None,
        fluency_model: Any = None,
        feature: Feature | None = None,
    ) -> R:
        """Open a saved run; see :func:`dreamy_lens.load_run`."""
        return cls.from_record(*saving.read_record(path, model, fluency_model, feature))

    # What the run was asked for.

    @property
    def config(self) -> SearchConfig:
        """Settings of the search."""
        return self._spec.config

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        """Constraints on the prompts."""
        return self._spec.constraints

    @property
    def spec(self) -> RunSpec:
        """Spec of the run, with its models in memory: loaded now if the run was opened from a folder."""
        return dataclasses.replace(self.session.spec, config=self._spec.config)

    @property
    def recorded_spec(self) -> RunSpec:
        """Spec of the run as it was asked for or saved; nothing is loaded."""
        return self._spec

    @property
    def identity(self) -> dict[str, Any] | None:
        """JSON values that identify the run's model and what its numbers depend on; None if they are unknown."""
        return self._identity

    @property
    def fluency_name(self) -> str | None:
        """Name of the fluency model; None if the feature's own model measures fluency."""
        return self._fluency_name

    @property
    def passes(self) -> dict[str, str]:
        """How passes were run on an accelerator, by kind, with the times that were measured; empty on a CPU.

        A run that was loaded from a folder has no entries before it continues.
        """
        return {} if self._session is None else self._session.scorer.passes

    @property
    def feature(self) -> Feature:
        """Expression of the feature that the run drives."""
        if self._session is not None:
            return self._session.scorer.bound.feature
        return parse(self.provenance.feature) if self._spec.feature is None else self._spec.feature

    @property
    def feature_label(self) -> str:
        """Short name of the feature, for titles."""
        return self.feature_names[0]

    @property
    def feature_names(self) -> tuple[str, str]:
        """Short name of the feature for titles, and a longer one with its hook points for tooltips."""
        try:
            feature = self.feature
        except FeatureError:  # a custom function of an earlier Python session has a name that cannot be parsed here
            return feature_names(self.provenance.feature)
        return feature.label, feature.long_label

    @property
    def start_text(self) -> str:
        """Prompt that the run started from, in quotes; the number of prompts, if there were several; "" for none."""
        start = self._spec.start
        if start is None:
            return ""
        if len(start) > 1:
            return f"{len(start)} prompts"
        ids = without_empty(start[0]).tolist()
        if isinstance(self._decoder, saving.SavedTexts) and not self._decoder.has(ids):
            return f"a prompt of {len(ids)} tokens"  # its text would need the model, which is not loaded for a title
        text = self._decoder.text(ids).removeprefix(" ")
        return f"“{text}”" if len(text) <= _START else f"“{text[:_START]}…”"

    # What the run has found.

    @property
    def iteration(self) -> int:
        """Number of iterations completed so far."""
        return 0 if self._state is None else self._state.iteration

    @property
    def done_text(self) -> str:
        """Number of completed iterations in words, such as "3 of 20 iterations"."""
        return iterations_text(self.iteration, self.config.iterations)

    @property
    def finished(self) -> bool:
        """Return whether all iterations of the settings are completed."""
        return self._state is not None and self.iteration >= self.config.iterations

    @property
    def so_far(self) -> Snapshot:
        """Snapshot of the results so far, even while the run goes on: its `frontier`, `history` and `population`."""
        with self._lock:
            if self._snapshot is None:
                history, rows = self._builder.build(), self._builder.frontier_rows
                self._snapshot = Snapshot(history, rows, self._decoder, self.provenance, self)
            return self._snapshot

    @property
    def note(self) -> str:
        """Sentence which says that no prompt so far turns the feature on, or "" if there is no such thing."""
        return self.so_far.frontier.note

    def take(self, step: Step) -> None:
        """Add a step to the history, and make its state the current one."""
        with self._lock:
            self._builder.add(step)
            self._state = step.state
            self._snapshot = None

    def attribution(self, prompt: Any, k: int = 32, **settings: Any) -> Attribution:
        """Compute the attribution of any prompt with this run's feature, model and constraints.

        Args:
            prompt: One text, ids `[n]`, or a Prompt.
            k: Number of substitutes to try at each position.
            **settings: Keywords of :func:`dreamy_lens.attribution`.
        """
        found = next(self.attributions(prompt, [k], **settings))
        return self.noted(found, "attribution", (prompt,), ({} if k == 32 else {"k": k}) | settings)

    def attributions(self, prompt: Any, ks: Sequence[int], **settings: Any) -> Iterator[Attribution]:
        """Yield attributions of one prompt with more and more substitutes, each computed when it is requested.

        Args:
            prompt: One text, ids `[n]`, or a Prompt.
            ks: Numbers of substitutes at each position, ascending.
            **settings: Keywords of :func:`dreamy_lens.attribution`.
        """

        def work() -> Iterator[Attribution]:
            from dreamy_lens.analysis.attribution import attributions

            own = {"allowed": self.session.constraint_set.allowed, "renew": not self.active}
            try:
                yield from attributions(self.session.scorer, prompt, ks, **own, **settings)
            finally:
                if not self.active:  # a run that is under way replays its recorded passes, and frees them at its end
                    self.session.scorer.release_graphs()

        growing = work()
        for _ in ks:
            yield self.use_model(lambda: next(growing))

    def generate(self, prompt: Any, n_tokens: int = 20, **settings: Any) -> Continuation:
        """Let this run's model continue any prompt, with the run's BOS and template around it.

        Args:
            prompt: One text, ids `[n]`, or a Prompt.
            n_tokens: Number of tokens to write.
            **settings: `temperature`, `top_k`, `top_p` and `seed` of :func:`dreamy_lens.generate`.
        """
        from dreamy_lens.analysis.continuation import continue_prompt

        def work() -> Continuation:
            scorer = self.session.scorer
            return continue_prompt(scorer.frame, scorer.model, prompt, n_tokens, **settings)

        return self.noted(self.use_model(work), "generate", (prompt, n_tokens), settings)

    def upstream(self, prompt: Any, **settings: Any) -> Upstream:
        """Divide the value of any prompt into contributions of this run's model: of embeddings, heads and MLPs.

        Args:
            prompt: One text, ids `[n]`, or a Prompt.
            **settings: `quantity`, `neurons` and `steps` of :func:`dreamy_lens.upstream`.
        """
        from dreamy_lens.analysis.upstream import decompose

        found = self.use_model(lambda: decompose(self.session.scorer, prompt, **settings))
        return self.noted(found, "upstream", (prompt,), settings)

    def mechanisms(self, **settings: Any) -> Mechanisms:
        """Find the ways in which the prompts of this run drive its feature; see :func:`dreamy_lens.mechanisms`.

        Args:
            **settings: `share`, `examples`, `similar`, `most` and `seed` of :func:`dreamy_lens.mechanisms`.
        """
        return _upcalls.mechanisms(self, **settings)

    def by_context(self, prompt: Any) -> pd.DataFrame:
        """Return the scores of a prompt in each context of a run with `contexts()`: context, value, cross_entropy.

        Args:
            prompt: One text, ids `[n]`, or a Prompt.

        Raises:
            SettingsError: The run scores prompts in one context only.
        """
        import pandas as pd

        from dreamy_lens.scoring.contexts import ContextScorer
        from dreamy_lens.scoring.prompts import as_ids

        def work() -> pd.DataFrame:
            scorer = self.session.scorer
            if not isinstance(scorer, ContextScorer):
                raise SettingsError(
                    "This run scores prompts in one context. Give several: constraints=dl.constraints.contexts([...])."
                )
            scores = [each.score(as_ids(prompt, scorer.vocabulary, each.frame.bos)[0]) for each in scorer.parts]
            names = [frame.describe().removeprefix("inside the ") for frame in scorer.origin.frames]
            values = [float(score.value[0]) for score in scores]
            costs = [float(score.cross_entropy[0]) for score in scores]
            return pd.DataFrame({"context": names, "value": values, "cross_entropy": costs})

        return self.use_model(work)

    def record(self) -> RunRecord:
        """Return the record of the run as it is now: :meth:`save` writes it, and :meth:`from_record` reads it."""
        with self._lock:
            so_far, record = self.so_far, self._bare_record()
        return dataclasses.replace(record, texts=saving.texts_of([*so_far.frontier, *so_far.population]))

    def _bare_record(self) -> RunRecord:
        """Return the record without the prompts' texts, because texts may need the model's tokenizer."""
        with self._lock:
            history, state = self.so_far.history, self._state
        return RunRecord(self._spec, self.provenance, history, state, self._identity, self._fluency_name)

    # The model.

    @property
    def session(self) -> Session:
        """Model, scorer and constraints of the run; loaded now if the run was opened from a folder."""
        if self._session is not None:
            return self._session
        with self._lock:  # without the lock, two threads could load the model twice
            if self._session is None:
                from dreamy_lens.runs.session import Session

                # Assigned last: until the session is open, texts still come from the folder.
                session = Session.reopen(self._bare_record())
                self._decoder, self._session = session.scorer.vocabulary, session
                self._snapshot = None
            return self._session

    @property
    def has_session(self) -> bool:
        """Return whether the run's session is open: the run was started here, or its model was loaded again."""
        return self._session is not None

    @property
    def has_model(self) -> bool:
        """Return whether the model can be used without loading anything from a folder or the network."""
        given = self._spec.model is not None and not isinstance(self._spec.model, (str, Path))
        return self.has_session or given or self.provenance.model == EMBEDDED_NAME

    @property
    def model(self) -> Any:
        """The model with its hook points; loaded now if the run was opened from a folder."""
        return self.session.scorer.model.source

    @property
    def models(self) -> set[Any]:
        """All models that scoring uses; loaded now if they are not in memory."""
        return set(self.session.scorer.models)

    @property
    def made_in(self) -> tuple[str | None, str | None]:
        """Device type and dtype of the model that the run was made with.

        The device type is None if it is unknown or not present here; the dtype is None if it is unknown.
        """
        from dreamy_lens.runs.session import available

        saved = self._identity or {}
        return available(saved.get("device")), saved.get("dtype")

    def _vocabulary(self) -> Decoder:
        return self.session.scorer.vocabulary

    # Copies. A pickled copy holds what a folder would hold: it leaves the model behind, and loads it by its name when
    # it is needed. A copy in memory shares the model, which no run changes.

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (type(self), *saving.pack_record(self.record()), self.folder)

    def __copy__(self: R) -> R:
        other = object.__new__(type(self))
        with self._lock:  # so that a step in the background cannot change the run while it is copied
            other.__dict__.update(self.__dict__)
            history = self.so_far.history
        other._builder = HistoryBuilder.from_history(history)
        other.drop_worker()
        other.unlock()
        other._snapshot = None  # the prompts of a snapshot compute attributions with the run that made it
        if isinstance(self._decoder, saving.SavedTexts):
            other._decoder = self._decoder.with_vocabulary(other._vocabulary)
        return other

    def __deepcopy__(self: R, memo: dict[int, Any]) -> R:
        return self.__copy__()

    def unlock(self) -> None:
        """Replace the lock by a new one: threads of the original run, or of the parent process, cannot release it."""
        self._lock = threading.RLock()

    def _idle_status(self) -> str:
        return READY if self._state is None else DONE if self.finished else STOPPED


def _unpickled(kind: type[R], meta: dict[str, Any], arrays: dict[str, np.ndarray], folder: Path | None) -> R:
    return kind.from_record(saving.unpack_record(meta, arrays, folder), folder)
