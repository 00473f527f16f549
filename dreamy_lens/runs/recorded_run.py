"""A run as what is kept of it, its model, and what it has found until now; several threads may read it as it grows."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from dreamy_lens.analysis.attribution import attributions
from dreamy_lens.errors import FeatureError
from dreamy_lens.features.expressions import Feature
from dreamy_lens.features.parser import parse
from dreamy_lens.models.load import EMBEDDED_NAME
from dreamy_lens.results.attribution import Attribution
from dreamy_lens.results.history import HistoryBuilder
from dreamy_lens.results.prompt import Decoder
from dreamy_lens.results.snapshot import Snapshot
from dreamy_lens.runs import saving
from dreamy_lens.runs.controls import RunControls
from dreamy_lens.runs.session import Session, available
from dreamy_lens.runs.spec import RunRecord, RunSpec
from dreamy_lens.runs.worker import DONE, READY, STOPPED
from dreamy_lens.search.config import EPOConfig
from dreamy_lens.search.constraints import Constraint
from dreamy_lens.search.steps import Step

R = TypeVar("R", bound="RecordedRun")


class RecordedRun(RunControls):
    """Base of :class:`~dreamy_lens.runs.dream.Dream`: nothing here waits for a run that goes on.

    Args:
        record: what is kept of the run until now.
        session: the run's model, scorer and rules, if they are at hand; None loads them when they are needed.

    Attributes:
        provenance: feature, model, seed, BOS and template.
        folder: where the run was last saved or loaded, or None.
    """

    def __init__(self, record: RunRecord, session: Session | None = None) -> None:
        self.provenance = record.provenance
        self.folder: Path | None = None
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
        """Make a run of what was kept of it; its model is loaded when it is needed.

        Args:
            record: what was kept.
            folder: whole path of the folder that it was read from, if it was.
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
        return cls.from_record(*saving.read(path, model, fluency_model, feature))

    # What it is of.

    @property
    def config(self) -> EPOConfig:
        """The settings."""
        return self._spec.config

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        """The constraints on the prompts."""
        return self._spec.constraints

    @property
    def spec(self) -> RunSpec:
        """What the run was asked for, with the models at hand: loaded now if the run was opened from a folder."""
        return dataclasses.replace(self.session.spec, config=self._spec.config)

    @property
    def identity(self) -> dict[str, Any] | None:
        """What tells the run's model from others, and what its numbers depend on, as JSON values; None if not known."""
        return self._identity

    @property
    def fluency_name(self) -> str | None:
        """Name of the fluency model, if it is another model than the feature's."""
        return self._fluency_name

    @property
    def feature(self) -> Feature:
        """What was driven, as an expression."""
        if self._session is not None:
            return self._session.scorer.bound.feature
        return parse(self.provenance.feature) if self._spec.feature is None else self._spec.feature

    @property
    def feature_label(self) -> str:
        """The feature in short, for titles."""
        try:
            return self.feature.label
        except FeatureError:  # a custom function of another session has a name, and nothing to parse it to
            return self.provenance.feature

    # What was found.

    @property
    def iteration(self) -> int:
        """Iterations completed until now."""
        return 0 if self._state is None else self._state.iteration

    @property
    def finished(self) -> bool:
        """Whether all iterations of the settings are completed."""
        return self._state is not None and self.iteration >= self.config.iterations

    @property
    def so_far(self) -> Snapshot:
        """What was found until now, for a run that goes on: it has `frontier`, `history` and `population` too."""
        with self._lock:
            if self._snapshot is None:
                history, rows = self._builder.build(), self._builder.frontier_rows
                self._snapshot = Snapshot(history, rows, self._decoder, self.provenance, self.attribution)
            return self._snapshot

    def take(self, step: Step) -> None:
        """Note a step."""
        with self._lock:
            self._builder.add(step)
            self._state = step.state
            self._snapshot = None

    def attribution(self, prompt: Any, k: int = 32, **settings: Any) -> Attribution:
        """What other tokens would do at each position of any prompt, with this run's feature, model and constraints."""
        return next(self.attributions(prompt, [k], **settings))

    def attributions(self, prompt: Any, ks: Sequence[int], **settings: Any) -> Iterator[Attribution]:
        """Attributions of a prompt with more and more substitutes, each worked out when it is asked for.

        Args:
            prompt: as for :meth:`attribution`.
            ks: numbers of substitutes at each position, ascending.
            **settings: as for :func:`dreamy_lens.attribution`.
        """

        def work() -> Iterator[Attribution]:
            usual = {"allowed": self.session.rules.allowed, "renew": not self.active}
            yield from attributions(self.session.scorer, prompt, ks, **usual, **settings)

        growing = work()
        for _ in ks:
            yield self.use_model(lambda: next(growing))

    def record(self) -> RunRecord:
        """All that is kept of the run, as it is now: what :meth:`save` writes, and :meth:`from_record` reads."""
        with self._lock:
            so_far, record = self.so_far, self._bare_record()
        return dataclasses.replace(record, texts=saving.texts_of([*so_far.frontier, *so_far.population]))

    def _bare_record(self) -> RunRecord:
        """The record without the texts of prompts, for which a model may be needed."""
        with self._lock:
            history, state = self.so_far.history, self._state
        return RunRecord(self._spec, self.provenance, history, state, self._identity, self._fluency_name)

    # The model.

    @property
    def session(self) -> Session:
        """What the run needs to go on; its model is loaded now if the run was opened from a folder."""
        if self._session is not None:
            return self._session
        with self._lock:  # two threads that want it at the same time would load two models
            if self._session is None:
                # Assigned last: while it opens, texts come from the folder still.
                session = Session.reopen(self._bare_record())
                self._decoder, self._session = session.scorer.vocabulary, session
                self._snapshot = None
            return self._session

    @property
    def has_session(self) -> bool:
        """Whether the run's model was loaded, or is the one that the run was started with."""
        return self._session is not None

    @property
    def has_model(self) -> bool:
        """Whether the run's model is in memory, so that using it loads nothing from a folder or the network."""
        given = self._spec.model is not None and not isinstance(self._spec.model, (str, Path))
        return self.has_session or given or self.provenance.model == EMBEDDED_NAME

    @property
    def model(self) -> Any:
        """The model with its hook points; loaded now if the run was opened from a folder."""
        return self.session.scorer.model.source

    @property
    def models(self) -> set[Any]:
        """All models that scoring uses, loaded if need be."""
        return set(self.session.scorer.models)

    @property
    def made_in(self) -> tuple[str | None, str | None]:
        """Kind of device, if there is one here, and dtype of the model the run was made with; None where not known."""
        saved = self._identity or {}
        return available(saved.get("device")), saved.get("dtype")

    def _vocabulary(self) -> Decoder:
        return self.session.scorer.vocabulary

    # Copies. One on disk or in another process is what a folder would keep: it leaves the model behind, and loads it
    # by its name when it needs it. One in memory shares the model, which no run changes.

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (type(self), *saving.pack(self.record()), self.folder)

    def __copy__(self: R) -> R:
        other = object.__new__(type(self))
        with self._lock:  # a run that goes on is copied as it is now
            other.__dict__.update(self.__dict__)
            history = self.so_far.history
        other._builder = HistoryBuilder.from_history(history)
        other.drop_worker()
        other.unlock()
        other._snapshot = None  # its prompts ask the run they belong to
        if isinstance(self._decoder, saving.SavedTexts):
            other._decoder = self._decoder.with_vocabulary(other._vocabulary)
        return other

    def __deepcopy__(self: R, memo: dict[int, Any]) -> R:
        return self.__copy__()

    def unlock(self) -> None:
        """Forget which threads may be reading: a copy has readers of its own, and so has another process."""
        self._lock = threading.RLock()

    def _idle_status(self) -> str:
        return READY if self._state is None else DONE if self.finished else STOPPED


def _unpickled(kind: type[R], meta: dict[str, Any], arrays: dict[str, np.ndarray], folder: Path | None) -> R:
    return kind.from_record(saving.unpack(meta, arrays, folder), folder)
