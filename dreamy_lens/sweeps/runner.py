"""The worker that makes the runs of a sweep: in this process, or as a Ray actor."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreamy_lens import __version__
from dreamy_lens.cluster.shared_folder import SharedFolder
from dreamy_lens.errors import ClusterError, DreamyLensError
from dreamy_lens.sweeps.plan import MANIFEST, Plan, SweepTask

RUNS, RESULTS = "runs", "results"
DONE, FAILED = "done", "failed"


@dataclass
class Runner:
    """Worker that makes runs of a sweep, and saves each run with its result.

    Args:
        plan: Plan of the sweep.
        place: Shared folder in which the runs are saved.
        mark: Random text in the sweep's manifest, with which a worker checks that it sees this folder and not another.
        device: Device of models that are loaded by name; None is the first GPU if there is one.
        threads: Number of torch threads; None leaves it unchanged.
        version: Version of dreamy_lens in the process that distributes the runs.
        unsaved: Finished runs that could not be saved, by their names; None does not keep them in memory.
    """

    plan: Plan
    place: SharedFolder
    mark: str
    device: str | None = None
    threads: int | None = None
    version: str = __version__
    unsaved: dict[str, Any] | None = field(default_factory=dict)

    def ready(self) -> None:
        """Load the model, and check every feature against it.

        Raises:
            ModelError: The model cannot be loaded.
            FeatureError: A feature does not fit the model.
            ClusterError: This machine has another version of dreamy_lens, or does not see the shared folder.
        """
        import torch

        if self.version != __version__:
            raise ClusterError(
                f"The worker on {platform.node()!r} has dreamy_lens {__version__}, and the calling process has "
                f"{self.version}: install the same version on all machines."
            )
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        manifest = self.place.read(MANIFEST)
        if manifest is None or manifest.get("mark") != self.mark:
            raise ClusterError(
                f"The worker on {platform.node()!r} does not see the sweep's folder, {self.place}, as the calling "
                "process does: name a folder that all machines share, or a URL such as s3://bucket/sweep."
            )
        if not self.is_loaded:
            self.load()

    @property
    def is_loaded(self) -> bool:
        """Whether the model is in memory."""
        return hasattr(self, "_model")

    def load(self) -> None:
        """Load the model, and check every feature against it. Nothing is written.

        Raises:
            ModelError: The model cannot be loaded.
            FeatureError: A feature does not fit the model.
        """
        from dreamy_lens.features.binding import bind

        self._model = self.plan.model.loaded(self.device)
        fluency = self.plan.fluency_model
        self._fluency = None if fluency is None else fluency.loaded(self.device)
        for feature in self.plan.features:
            bind(feature, self._model)

    def run(self, tasks: Sequence[SweepTask], attempt: int = 1) -> list[dict[str, Any]]:
        """Make runs, all of them at the same time, and save each with its result.

        A run that raises an error of the package gets a result that says so. If several runs are made together, each is
        then tried by itself.

        Args:
            tasks: Runs to make, which have equal settings.
            attempt: Number of this attempt, counted from 1.

        Returns:
            The result of each run, as JSON values; an empty list if the runs were interrupted.
        """
        try:
            runs = self._start(tasks)
            if not self._finish(runs):
                return []
        except DreamyLensError as error:
            if len(tasks) > 1:
                return [result for task in tasks for result in self.run([task], attempt)]
            return [self._try_to_keep(failure(tasks[0], error, attempt))]
        return [self._save(task, run, attempt) for task, run in zip(tasks, runs, strict=True)]

    def keep(self, result: dict[str, Any]) -> dict[str, Any]:
        """Write the result of a run and return it; a run is complete once its result is written."""
        self.place.write(f"{RESULTS}/{result['name']}.json", result)
        return result

    def _start(self, tasks: Sequence[SweepTask]) -> list[Any]:
        """Return a new run for each task."""
        from dreamy_lens.runs.spec import RunSpec
        from dreamy_lens.runs.start import new_run

        plan, runs = self.plan, []
        for task in tasks:
            setting = plan.settings[task.setting]
            options = {"start": setting.start, "constraints": setting.constraints, "fluency_model": self._fluency}
            spec = RunSpec.of(
                plan.features[task.feature], self._model, plan.config(task), named=set(setting.named), **options
            )
            runs.append(new_run(spec))
        return runs

    def _finish(self, runs: list[Any]) -> bool:
        """Take all steps of runs, and return whether they were finished without an interrupt."""
        from dreamy_lens.runs.dreams import Dreams
        from dreamy_lens.runs.worker import RunWorker

        run = runs[0] if len(runs) == 1 else Dreams(runs)
        worker = RunWorker(run, runs[0].config.iterations)
        worker.work()
        if worker.error is not None:
            raise worker.error
        return not worker.interrupted

    def _save(self, task: SweepTask, run: Any, attempt: int) -> dict[str, Any]:
        """Save a finished run, then write and return its result; a run that cannot be saved has failed."""
        name = f"{RUNS}/{task.name}"
        try:
            if self.place.is_url:
                local = Path(tempfile.mkdtemp(prefix="dreamy_lens."))
                try:
                    run.save(local / "run")
                    self.place.put(local / "run", name)
                finally:
                    shutil.rmtree(local, ignore_errors=True)
            else:
                run.save(self.place.local(name), overwrite=True)
            return self.keep({**_result(task, DONE, attempt), **summary(run)})
        except (DreamyLensError, OSError) as error:
            if self.unsaved is not None:
                self.unsaved[task.name] = run
            return self._try_to_keep(failure(task, error, attempt))

    def _try_to_keep(self, result: dict[str, Any]) -> dict[str, Any]:
        """Write the result of a run that failed, if possible, and return it."""
        with contextlib.suppress(DreamyLensError, OSError):
            self.keep(result)
        return result


def summary(run: Any) -> dict[str, Any]:
    """Return the numbers of a finished run that tables of a sweep show, as JSON values."""
    history, rows = run.history, run.frontier_rows
    reference = history.reference() if len(history) else (0.0, 0.0)
    return {
        "iterations": run.iteration,
        "prompts": len(history),
        "seconds": float(history.seconds[-1]) if len(history.seconds) else 0.0,
        "identity": run.identity,
        "frontier": {
            "value": [float(v) for v in history.value[rows]],
            "cross_entropy": [float(c) for c in history.cross_entropy[rows]],
        },
        "reference": [float(coordinate) for coordinate in reference],
    }


def failure(task: SweepTask, error: BaseException | str, attempt: int) -> dict[str, Any]:
    """Return the result of a run that failed.

    Args:
        task: Task of the run.
        error: Error that the run raised, or a sentence on how its workers died.
        attempt: Number of attempts.
    """
    kind = "ClusterError" if isinstance(error, str) else type(error).__name__
    return {**_result(task, FAILED, attempt), "error": str(error), "kind": kind}


def _result(task: SweepTask, status: str, attempt: int) -> dict[str, Any]:
    worker = f"{platform.node()}:{os.getpid()}"
    return {"name": task.name, "seed": task.seed, "status": status, "attempts": attempt, "worker": worker}
