"""Does the runs of a sweep, one model at hand: in this process, or as an actor of Ray."""

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
    """Made where it works.

    Args:
        plan: of the sweep.
        place: where its runs are saved.
        mark: of the sweep's manifest, to see that the place is the same one here.
        device: of models that are loaded by name; None is the first GPU if there is one.
        threads: of torch; None leaves them.
        version: of dreamy_lens in the process that asks.
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
            ModelError: it cannot be loaded.
            FeatureError: a feature does not fit it.
            ClusterError: what this process writes would not be seen by others.
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
        found = self.place.read(MANIFEST)
        if found is None or found.get("mark") != self.mark:
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
        """Do runs, several side by side, and save each with its result.

        What the package raises on purpose is a result too; where it concerns several runs each is tried by itself.

        Args:
            tasks: with the same settings.
            attempt: which one this is.

        Returns:
            The result of each, as JSON values; of those that were interrupted there is none.
        """
        try:
            runs = self._opened(tasks)
            if not self._work(runs):
                return []
        except DreamyLensError as error:
            if len(tasks) > 1:
                return [result for task in tasks for result in self.run([task], attempt)]
            return [self.keep(failure(tasks[0], error, attempt))]
        return [self._saved(task, run, attempt) for task, run in zip(tasks, runs, strict=True)]

    def keep(self, result: dict[str, Any]) -> dict[str, Any]:
        """Write a result; a run of which there is one is whole."""
        self.place.write(f"{RESULTS}/{result['name']}.json", result)
        return result

    def _opened(self, tasks: Sequence[SweepTask]) -> list[Any]:
        from dreamy_lens.runs.spec import RunSpec
        from dreamy_lens.runs.start import new_run

        plan, found = self.plan, []
        for task in tasks:
            setting = plan.settings[task.setting]
            more = {"start": setting.start, "constraints": setting.constraints, "fluency_model": self._fluency}
            spec = RunSpec.of(
                plan.features[task.feature], self._model, plan.config(task), named=set(setting.named), **more
            )
            found.append(new_run(spec))
        return found

    def _work(self, runs: list[Any]) -> bool:
        """Whether they came to their end, and were not interrupted."""
        from dreamy_lens.runs.dreams import Dreams
        from dreamy_lens.runs.worker import RunWorker

        run = runs[0] if len(runs) == 1 else Dreams(runs)
        worker = RunWorker(run, runs[0].config.iterations)
        worker.work()
        if worker.error is not None:
            raise worker.error
        return not worker.interrupted

    def _saved(self, task: SweepTask, run: Any, attempt: int) -> dict[str, Any]:
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
    """What a table of runs says about a whole one, as JSON values."""
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
    """The result of a run that failed."""
    kind = "ClusterError" if isinstance(error, str) else type(error).__name__
    return {**_result(task, FAILED, attempt), "error": str(error), "kind": kind}


def _result(task: SweepTask, status: str, attempt: int) -> dict[str, Any]:
    worker = f"{platform.node()}:{os.getpid()}"
    return {"name": task.name, "seed": task.seed, "status": status, "attempts": attempt, "worker": worker}
