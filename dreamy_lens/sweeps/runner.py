"""The worker that makes the runs of a sweep: in this process, or as an actor of Ray."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
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
    """Makes runs of a sweep, and saves each with its result.

    Args:
        plan: Plan of the sweep.
        place: Folder that the runs are saved in.
        mark: Random text in the sweep's manifest, by which a worker knows that it sees the same folder.
        device: Device of models that are loaded by name; None is the first GPU if there is one.
        threads: Threads of torch; None leaves them as they are.
        version: Version of dreamy_lens in the process that shares out the runs.
    """

    plan: Plan
    place: SharedFolder
    mark: str
    device: str | None = None
    threads: int | None = None
    version: str = __version__

    def ready(self) -> None:
        """Load the model, and check every feature against it.

        Raises:
            ModelError: The model cannot be loaded.
            FeatureError: A feature does not fit the model.
            ClusterError: Other processes would not see what this one writes.
        """
        import torch

        from dreamy_lens.features.binding import bind

        if self.version != __version__:
            raise ClusterError(
                f"The worker on {platform.node()!r} has dreamy_lens {__version__}, and this process {self.version}: "
                "install the same version on all machines."
            )
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        manifest = self.place.read(MANIFEST)
        if manifest is None or manifest.get("mark") != self.mark:
            raise ClusterError(
                f"The worker on {platform.node()!r} does not see the sweep's folder, {self.place}, as others do: "
                "name a folder that all machines share, or a URL such as s3://bucket/sweep."
            )
        self._model = self.plan.model.loaded(self.device)
        fluency = self.plan.fluency_model
        self._fluency = None if fluency is None else fluency.loaded(self.device)
        for feature in self.plan.features:
            bind(feature, self._model)

    def run(self, tasks: Sequence[SweepTask], attempt: int = 1) -> list[dict[str, Any]]:
        """Make runs, several side by side, and save each with its result.

        An error of the package is a result too; if it concerns several runs, each is tried by itself.

        Args:
            tasks: Runs to make, which have the same settings.
            attempt: Number of this attempt.

        Returns:
            The result of each run, as JSON values; none if the runs were interrupted.
        """
        try:
            runs = self._start(tasks)
            if not self._finish(runs):
                return []
        except DreamyLensError as error:
            if len(tasks) > 1:
                return [result for task in tasks for result in self.run([task], attempt)]
            return [self.keep(failure(tasks[0], error, attempt))]
        return [self._save(task, run, attempt) for task, run in zip(tasks, runs, strict=True)]

    def keep(self, result: dict[str, Any]) -> dict[str, Any]:
        """Write a result, which says that its run is whole."""
        self.place.write(f"{RESULTS}/{result['name']}.json", result)
        return result

    def _start(self, tasks: Sequence[SweepTask]) -> list[Any]:
        from dreamy_lens.runs.spec import RunSpec
        from dreamy_lens.runs.start import new_run

        plan, runs = self.plan, []
        for task in tasks:
            setting = plan.settings[task.setting]
            more = {"start": setting.start, "constraints": setting.constraints, "fluency_model": self._fluency}
            spec = RunSpec.of(
                plan.features[task.feature], self._model, plan.config(task), named=set(setting.named), **more
            )
            runs.append(new_run(spec))
        return runs

    def _finish(self, runs: list[Any]) -> bool:
        """Take all steps of runs, and return whether they came to their end without an interrupt."""
        from dreamy_lens.runs.dreams import Dreams
        from dreamy_lens.runs.worker import RunWorker

        run = runs[0] if len(runs) == 1 else Dreams(runs)
        worker = RunWorker(run, runs[0].config.iterations)
        worker.work()
        if worker.error is not None:
            raise worker.error
        return not worker.interrupted

    def _save(self, task: SweepTask, run: Any, attempt: int) -> dict[str, Any]:
        name = f"{RUNS}/{task.name}"
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


def summary(run: Any) -> dict[str, Any]:
    """Return what a table of runs says about a finished run, as JSON values."""
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
        "reference": [float(part) for part in reference],
    }


def failure(task: SweepTask, error: BaseException | str, attempt: int) -> dict[str, Any]:
    """Return the result of a run that failed."""
    kind = "ClusterError" if isinstance(error, str) else type(error).__name__
    return {**_result(task, FAILED, attempt), "error": str(error), "kind": kind}


def _result(task: SweepTask, status: str, attempt: int) -> dict[str, Any]:
    worker = f"{platform.node()}:{os.getpid()}"
    return {"name": task.name, "seed": task.seed, "status": status, "attempts": attempt, "worker": worker}
