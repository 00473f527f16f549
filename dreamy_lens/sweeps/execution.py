"""Execution of the plan of a sweep, in this process or on a Ray cluster; every finished run is saved."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import sys
from collections.abc import Iterator
from typing import Any

from dreamy_lens._files import FAILURES
from dreamy_lens._folder_lock import FolderBusy, lock_folder
from dreamy_lens._host import progress_bar
from dreamy_lens.cluster.actor_pool import ActorPool, LostJob
from dreamy_lens.cluster.model_ref import dumps
from dreamy_lens.cluster.ray_cluster import Cluster, RayConfig, connected
from dreamy_lens.cluster.shared_folder import SharedFolder
from dreamy_lens.errors import RunFolderError, SettingsError, quoted, warn
from dreamy_lens.sweeps.plan import MANIFEST, Plan, SweepTask, add_seeds
from dreamy_lens.sweeps.runner import DONE, FAILED, RESULTS, Runner, failure
from dreamy_lens.sweeps.sweep import Sweep

Groups = list[list[SweepTask]]


def carry_out(
    plan: Plan, place: SharedFolder, ray: RayConfig | None = None, together: int = 1, progress: bool | None = None
) -> Sweep:
    """Make every missing run of a plan, and return the sweep; see :func:`dreamy_lens.sweep`.

    Args:
        plan: Plan of the sweep.
        place: Folder or URL in which the runs are saved.
        ray: Ray cluster that makes the runs; None makes them in this process.
        together: Number of runs with equal settings that share the model's forward passes.
        progress: Whether to show a progress bar; None shows one in terminals and notebooks.

    Raises:
        SettingsError: `together` is not a whole number, or an object cannot be sent to workers.
        RunFolderError: The folder holds another sweep, or other files.
    """
    if isinstance(together, bool) or not isinstance(together, int) or together < 1:
        raise SettingsError(f"together is {quoted(together)}; it must be a whole number, at least 1.")
    with _sole_writer(place):
        return _carry_out(plan, place, ray, together, progress)


@contextlib.contextmanager
def _sole_writer(place: SharedFolder) -> Iterator[None]:
    """Hold the lock of a sweep's folder on disk, since two sweeps would take each other's runs for their own.

    Raises:
        RunFolderError: Another process works on a sweep in the folder.
    """
    if place.is_url:
        yield
        return
    try:
        with contextlib.suppress(*FAILURES):  # the manifest cannot be written then, which raises a full sentence
            os.makedirs(place.text, exist_ok=True)
        with lock_folder(os.path.join(place.text, MANIFEST), wait=False):
            yield
    except FolderBusy:
        raise RunFolderError(
            f"Another process works on the sweep in {place}: wait until it ends, or name another folder."
        ) from None


def _carry_out(plan: Plan, place: SharedFolder, ray: RayConfig | None, together: int, progress: bool | None) -> Sweep:
    runner = Runner(plan, place, "")
    place.check_free_or(MANIFEST)
    if ray is None and place.read(MANIFEST) is None:
        runner.load()  # a wrong name or feature leaves no folder behind
    manifest = _write_manifest(place, plan)
    runner.mark = manifest["mark"]
    sweep = _open(place, manifest, plan, {})
    unfinished = [task for task in plan.tasks if not sweep.is_done(task)]
    groups = _groups(unfinished, together)
    results: dict[str, dict[str, Any]] = {}
    with SweepBar(plan, len(plan.tasks) - len(unfinished), progress) as bar:
        try:
            if unfinished and ray is not None:
                with connected(ray, tasks=len(groups)) as cluster:
                    _show_all(_run_on_cluster(cluster, runner, groups, bar), bar, results)
            elif unfinished:
                _show_all(_run_here(runner, groups), bar, results)
        except KeyboardInterrupt:
            bar.report_interrupt()
    if results and place.read(MANIFEST) is None:  # the folder was removed while the sweep went on
        with contextlib.suppress(RunFolderError):
            place.write(MANIFEST, manifest)
    sweep = _open(place, manifest, plan, results, runner.unsaved)
    failed = [task for task in plan.tasks if sweep.status(task) == FAILED]
    if failed:
        unsaved = f" The Sweep's .unsaved has {len(runner.unsaved)} runs in memory." if runner.unsaved else ""
        warn(
            f"{len(failed)} of {len(plan.tasks)} runs failed; the Sweep's .failed says why. Repeat the call to try "
            f"them again.{unsaved}",
            RuntimeWarning,
        )
    return sweep


def _write_manifest(place: SharedFolder, plan: Plan) -> dict[str, Any]:
    """Write the manifest of a plan, if the folder does not have it already, and return it.

    Raises:
        RunFolderError: The folder holds another sweep, or other files.
    """
    place.check_free_or(MANIFEST)
    manifest, existing = plan.to_dict(), place.read(MANIFEST)
    if existing is None and MANIFEST in place.names(""):
        raise RunFolderError(f"The {MANIFEST} in {place} is damaged; replace it by an intact copy, or delete it.")
    if existing is not None and place.names(RESULTS):
        manifest = add_seeds(Sweep.checked(existing, place), manifest, repr(place))
    else:  # an existing manifest without results may be replaced
        manifest = {**manifest, "mark": secrets.token_hex(8)}
    if manifest != existing:
        place.write(MANIFEST, manifest)
    return manifest


def _open(
    place: SharedFolder,
    manifest: dict[str, Any],
    plan: Plan,
    results: dict[str, dict[str, Any]],
    unsaved: dict[str, Any] | None = None,
) -> Sweep:
    fluency = None if plan.fluency_model is None else plan.fluency_model.model
    objects = {"features": plan.features, "model": plan.model.model, "fluency_model": fluency}
    return Sweep(place, manifest, results=results, unsaved=unsaved, **objects)


def _groups(tasks: list[SweepTask], together: int) -> Groups:
    """Return groups of tasks with equal settings, at most `together` in each."""
    groups: Groups = []
    for number in sorted({task.setting for task in tasks}) if together > 1 else []:
        setting_tasks = [task for task in tasks if task.setting == number]
        groups += [setting_tasks[i : i + together] for i in range(0, len(setting_tasks), together)]
    return groups if together > 1 else [[task] for task in tasks]


def _run_here(runner: Runner, groups: Groups) -> Iterator[list[dict[str, Any]]]:
    """Run groups of tasks in this process, and yield the results of each group."""
    runner.ready()
    for group in groups:
        results = runner.run(group)
        if not results:
            raise KeyboardInterrupt
        yield results


def _run_on_cluster(cluster: Cluster, runner: Runner, groups: Groups, bar: SweepBar) -> Iterator[list[dict[str, Any]]]:
    """Run groups of tasks on the workers of a cluster, and yield the results of each group."""
    plan = runner.plan
    fluency = None if plan.fluency_model is None else plan.fluency_model.packed()
    worker = dataclasses.replace(
        runner,
        plan=dataclasses.replace(plan, model=plan.model.packed(), fluency_model=fluency),
        device="cuda" if cluster.gpus else "cpu",
        threads=max(1, int(cluster.cpus)),
        unsaved=None,
    )
    try:
        data = dumps(worker)
    except Exception as error:
        raise SettingsError(
            f"The features cannot be sent to workers, because of an object in one of them ({error}). Give sparse "
            "autoencoders and models by their folder or Hugging Face id, and use functions that hold only numbers."
        ) from error
    pool = ActorPool(cluster, data, bar.write)
    while groups:
        separate: Groups = []  # tasks of lost groups, tried one by one because a single task may be the cause
        for group, results in pool.work(groups):
            if isinstance(results, LostJob) and len(group) > 1:
                separate += [[task] for task in group]
            elif isinstance(results, LostJob):
                yield [runner.keep(failure(group[0], results.reason, results.attempts))]
            else:
                yield results
        groups = separate


def _show_all(results: Iterator[list[dict[str, Any]]], bar: SweepBar, collected: dict[str, dict[str, Any]]) -> None:
    """Add results to the progress bar and to a dictionary as they come, and then close their iterator.

    Args:
        results: Results of groups of runs; closing it ends the workers.
        bar: Progress bar.
        collected: Dictionary that gets the results, by the names of their runs.
    """
    try:
        for group_results in results:
            for result in group_results:
                collected[result["name"]] = result
                bar.add(result)
    finally:
        results.close()  # type: ignore[attr-defined]


class SweepBar:
    """Progress bar of a sweep: the finished runs, the highest value of the latest run's feature, the time left.

    Args:
        plan: Plan of the sweep.
        finished: Number of runs that are already finished.
        shown: Whether to show the bar; None shows it in terminals and notebooks.
    """

    def __init__(self, plan: Plan, finished: int, shown: bool | None) -> None:
        self._labels = {task.name: plan.features[task.feature].label for task in plan.tasks}
        self._total, self._failed = len(plan.tasks), 0
        self._best: dict[str, float] = {}
        self._bar = progress_bar(shown, total=self._total, initial=finished, desc="sweep", unit="run")
        self._done = finished

    def add(self, result: dict[str, Any]) -> None:
        """Count the run of a result."""
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

    def report_interrupt(self) -> None:
        """Write how many runs are finished, and how to go on."""
        self.write(
            f"Interrupted after {self._done} of {self._total} runs; they are kept. Repeat the call to make the others."
        )

    def __enter__(self) -> SweepBar:
        return self

    def __exit__(self, *error: Any) -> None:
        self._bar.close()
