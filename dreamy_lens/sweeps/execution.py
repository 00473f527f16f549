"""Carries out the plan of a sweep, in this process or on a Ray cluster, and keeps every finished run."""

from __future__ import annotations

import dataclasses
import secrets
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from dreamy_lens._host import progress_bar
from dreamy_lens.cluster.actor_pool import ActorPool, LostJob
from dreamy_lens.cluster.model_ref import dumps
from dreamy_lens.cluster.ray_cluster import Cluster, RayConfig, connected
from dreamy_lens.cluster.shared_folder import SharedFolder
from dreamy_lens.errors import RunFolderError, SettingsError
from dreamy_lens.sweeps.plan import MANIFEST, Plan, SweepTask, add_seeds
from dreamy_lens.sweeps.runner import DONE, FAILED, RESULTS, Runner, failure
from dreamy_lens.sweeps.sweep import Sweep

Groups = list[list[SweepTask]]


def carry_out(
    plan: Plan, place: SharedFolder, ray: RayConfig | None = None, together: int = 1, progress: bool | None = None
) -> Sweep:
    """Make every run of a plan that is missing, and return the sweep; see :func:`dreamy_lens.sweep`.

    Args:
        plan: Runs to make.
        place: Folder or URL to keep the runs in.
        ray: Cluster to run on; None is this process.
        together: How many runs with the same settings are scored in the same passes.
        progress: Whether to show a progress bar; None shows one in terminals and notebooks.

    Raises:
        SettingsError: `together` is not a whole number, or something cannot be sent to workers.
        RunFolderError: The folder holds another sweep, or something else.
    """
    if isinstance(together, bool) or not isinstance(together, int) or together < 1:
        raise SettingsError(f"together is {together!r}; it must be a whole number, at least 1.")
    manifest = _write_manifest(place, plan)
    sweep = _open(place, manifest, plan)
    todo = [task for task in plan.tasks if not sweep.is_done(task)]
    groups = _groups(todo, together)
    runner = Runner(plan, place, manifest["mark"])
    with SweepBar(plan, len(plan.tasks) - len(todo), progress) as bar:
        try:
            if todo and ray is not None:
                with connected(ray, tasks=len(groups)) as cluster:
                    _show_all(_run_on_cluster(cluster, runner, groups, bar), bar)
            elif todo:
                _show_all(_run_here(runner, groups), bar)
        except KeyboardInterrupt:
            bar.interrupted()
    sweep = _open(place, manifest, plan)
    failed = [task for task in todo if sweep.status(task) == FAILED]
    if failed:
        warnings.warn(
            f"{len(failed)} of {len(plan.tasks)} runs failed; the Sweep's .failed says why, and the same call tries "
            "them again.",
            RuntimeWarning,
            stacklevel=3,
        )
    return sweep


def _write_manifest(place: SharedFolder, plan: Plan) -> dict[str, Any]:
    """Return the manifest of a plan, written if it is new.

    Raises:
        RunFolderError: The folder has another sweep, or something else.
    """
    place.check_free_or(MANIFEST)
    asked, existing = plan.to_dict(), place.read(MANIFEST)
    if existing is None and MANIFEST in place.names(""):
        raise RunFolderError(f"The {MANIFEST} in {place} is damaged; copy it again from a whole one, or delete it.")
    if existing is not None and place.names(RESULTS):
        asked = add_seeds(Sweep.checked(existing, place), asked, repr(place))
    else:  # nothing was done with an older one
        asked = {**asked, "mark": secrets.token_hex(8)}
    if asked != existing:
        place.write(MANIFEST, asked)
    return asked


def _open(place: SharedFolder, manifest: dict[str, Any], plan: Plan) -> Sweep:
    fluency = None if plan.fluency_model is None else plan.fluency_model.model
    return Sweep(place, manifest, features=plan.features, model=plan.model.model, fluency_model=fluency)


def _groups(tasks: list[SweepTask], together: int) -> Groups:
    """Return groups of tasks with the same settings, at most `together` in each."""
    groups: Groups = []
    for number in sorted({task.setting for task in tasks}) if together > 1 else []:
        same = [task for task in tasks if task.setting == number]
        groups += [same[i : i + together] for i in range(0, len(same), together)]
    return groups if together > 1 else [[task] for task in tasks]


def _run_here(runner: Runner, groups: Groups) -> Iterator[list[dict[str, Any]]]:
    """Run groups in this process, and yield the results of each."""
    runner.ready()
    for group in groups:
        results = runner.run(group)
        if not results:
            raise KeyboardInterrupt
        yield results


def _run_on_cluster(cluster: Cluster, runner: Runner, groups: Groups, bar: SweepBar) -> Iterator[list[dict[str, Any]]]:
    """Run groups on the workers of a cluster, and yield the results of each."""
    plan = runner.plan
    fluency = None if plan.fluency_model is None else plan.fluency_model.packed()
    worker = dataclasses.replace(
        runner,
        plan=dataclasses.replace(plan, model=plan.model.packed(), fluency_model=fluency),
        device="cuda" if cluster.gpus else "cpu",
        threads=max(1, int(cluster.cpus)),
    )
    try:
        data = dumps(worker)
    except Exception as error:
        raise SettingsError(
            f"The features cannot be sent to workers, because of an object in one of them ({error}). Give sparse "
            "autoencoders and models by their folder or Hugging Face id, and functions that hold nothing but numbers."
        ) from error
    pool = ActorPool(cluster, data, bar.write)
    while groups:
        alone: Groups = []  # of a group that was given up, one run may be to blame
        for group, results in pool.work(groups):
            if isinstance(results, LostJob) and len(group) > 1:
                alone += [[task] for task in group]
            elif isinstance(results, LostJob):
                yield [runner.keep(failure(group[0], results.reason, results.attempts))]
            else:
                yield results
        groups = alone


def _show_all(results: Iterator[list[dict[str, Any]]], bar: SweepBar) -> None:
    """Show results as they come; the workers end with this, also after an interrupt."""
    try:
        for group in results:
            for result in group:
                bar.add(result)
    finally:
        results.close()  # type: ignore[attr-defined]


class SweepBar:
    """Progress bar: finished runs, the best value of the feature that has just finished a run, time left."""

    def __init__(self, plan: Plan, finished: int, shown: bool | None) -> None:
        self._labels = {task.name: plan.features[task.feature].label for task in plan.tasks}
        self._total, self._failed = len(plan.tasks), 0
        self._best: dict[str, float] = {}
        self._bar = progress_bar(shown, total=self._total, initial=finished, desc="sweep", unit="run")
        self._done = finished

    def add(self, result: dict[str, Any]) -> None:
        """Count one more run."""
        label = self._labels[result["name"]]
        if result["status"] == DONE:
            self._done += 1
            self._best[label] = max([self._best.get(label, -float("inf")), *result["frontier"]["value"]])
        else:
            self._failed += 1
        parts = [f"best value {self._best[label]:.3g} of {label}"] if label in self._best else []
        self._bar.set_postfix_str(", ".join([*parts, *([f"{self._failed} failed"] if self._failed else [])]))
        self._bar.update(1)

    def write(self, text: str) -> None:
        """Write a line above the bar."""
        self._bar.write(text, file=sys.stderr)

    def interrupted(self) -> None:
        """Say how many runs are finished."""
        self.write(
            f"Interrupted after {self._done} of {self._total} runs; they are kept, and the same call does the rest."
        )

    def __enter__(self) -> SweepBar:
        return self

    def __exit__(self, *error: Any) -> None:
        self._bar.close()
