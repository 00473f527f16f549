"""Many dreams: features x settings x seeds, saved as they finish, here or on a Ray cluster."""

from __future__ import annotations

import dataclasses
import secrets
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from dreamy_lens.cluster import ray_cluster
from dreamy_lens.cluster.actor_pool import ActorPool, LostJob
from dreamy_lens.cluster.model_ref import dumps
from dreamy_lens.cluster.shared_folder import SharedFolder, StrPath
from dreamy_lens.errors import RunFolderError, SettingsError
from dreamy_lens.search.config import EPOConfig
from dreamy_lens.search.constraints import Constraint
from dreamy_lens.sweeps.plan import MANIFEST, Plan, SweepTask, joined
from dreamy_lens.sweeps.runner import DONE, RESULTS, Runner, failure
from dreamy_lens.sweeps.sweep import Sweep

Groups = list[list[SweepTask]]


def sweep(
    features: Any,
    model: Any = None,
    *,
    out: StrPath,
    seeds: Iterable[int] | None = None,
    settings: Sequence[Mapping[str, Any]] | None = None,
    start: Any = None,
    constraints: Sequence[Constraint] | Constraint = (),
    fluency_model: Any = None,
    config: EPOConfig | None = None,
    dtype: Any = None,
    together: int = 1,
    ray: bool | str | None = None,
    address: str | None = None,
    workers: int | None = None,
    cpus_per_worker: float = 1,
    gpus_per_worker: float = 0,
    progress: bool | None = None,
    **common: Any,
) -> Sweep:
    """Dream of every feature with every setting and every seed, and save each run as it finishes.

    Called again with the same arguments it does what is missing: after an interrupt, a crash, or with more seeds. Each
    run is the one that :func:`dreamy_lens.dream` finds with its seed. With Ray they are shared out to workers, each of
    which loads the model once; a run whose worker dies is tried again, three times in all. A run that fails is
    reported in `failed`, and the others go on.

    Args:
        features: expressions or their texts, or one of them.
        model: None (the embedded model), a Hugging Face id or folder, which every worker loads by itself; or a bridge,
            which is sent to them.
        out: a folder, which all workers see by the same path, or a URL that fsspec has a driver for, such as
            `s3://bucket/sweep`.
        seeds: of each feature and setting; None is the one of `config`.
        settings: dictionaries of EPO's settings, and of `start` and `constraints`, one for each variant to try.
        start: initial prompts of all, as for :func:`dreamy_lens.dream`.
        constraints: of all.
        fluency_model: whose cross-entropy counts as fluency; None is the model itself.
        config: EPO's settings of all.
        dtype: of a model that is given by name, such as "bfloat16"; None is float32.
        together: how many runs with the same settings are scored in the same passes, which is faster on a GPU and
            changes the last digits only.
        ray: True to share the runs out to a Ray cluster: the one this process is connected to or `RAY_ADDRESS` names,
            or else one that starts on this machine and ends with the sweep. A text is an address.
        address: of a cluster to join: "auto", "host:port" or "ray://host:port".
        workers: how many; None is as many as the cluster has room for.
        cpus_per_worker: cores of each, and torch's threads.
        gpus_per_worker: GPUs of each; 0.25 has four share one. Without, workers use their cores only.
        progress: whether to show a bar; None shows one in terminals and notebooks.
        **common: fields of :class:`~dreamy_lens.EPOConfig` for all, such as `iterations=100`.

    Returns:
        A Sweep. An interrupt ends it early, without an exception, and keeps every finished run.

    Raises:
        FeatureError: a feature does not fit the model; nothing has been searched yet.
        SettingsError: a setting is unknown or outside its range.
        RunFolderError: `out` holds another sweep, or something else, or cannot be written.
        ClusterError: Ray is not installed or cannot be reached, or workers do not get ready.

    >>> import tempfile, dreamy_lens as dl
    >>> small = dict(iterations=2, population=2, children=4, progress=False)
    >>> folder = tempfile.TemporaryDirectory()
    >>> lengths = [{"length": 4}, {"length": 6}]
    >>> runs = sweep(["L2.N17", "L3.N5"], seeds=[0, 1], settings=lengths, out=folder.name, **small)
    >>> runs
    Sweep(8 of 8 runs: 2 features x 2 settings x 2 seeds on embedded, in ...)
    >>> runs.merged("L2.N17", length=6)
    Merged(2 runs of blocks.2.mlp.hook_post[-1, 17], ...)
    >>> folder.cleanup()
    """
    use_ray, address = ray_cluster.wanted(ray, address)
    if not use_ray and workers is not None:
        raise SettingsError(f"workers={workers!r} are started on a Ray cluster; add ray=True, or leave it out.")
    ray_cluster.checked_share(workers, cpus_per_worker, gpus_per_worker)
    if isinstance(together, bool) or not isinstance(together, int) or together < 1:
        raise SettingsError(f"together is {together!r}; it must be a whole number, at least 1.")
    plan = Plan.of(
        features,
        model,
        seeds=seeds,
        settings=settings,
        start=start,
        constraints=constraints,
        fluency_model=fluency_model,
        config=config,
        dtype=dtype,
        common=common,
    )
    place = SharedFolder(out)
    manifest = _agreed(place, plan)
    whole = _opened(place, manifest, plan)
    todo = [task for task in plan.tasks if not whole.is_done(task)]
    groups = _groups(todo, together)
    runner = Runner(plan, place, manifest["mark"])
    with _Bar(plan, len(plan.tasks) - len(todo), progress) as bar:
        try:
            if not todo:
                pass
            elif use_ray:
                share = {"workers": workers, "cpus_per_worker": cpus_per_worker, "gpus_per_worker": gpus_per_worker}
                with ray_cluster.cluster(address, tasks=len(groups), **share) as cluster:
                    _finish(_on_ray(cluster, runner, groups, bar), bar)
            else:
                _finish(_here(runner, groups), bar)
        except KeyboardInterrupt:
            bar.interrupted()
    whole = _opened(place, manifest, plan)
    failed = [task for task in todo if whole.status(task) == "failed"]
    if failed:
        warnings.warn(
            f"{len(failed)} of {len(plan.tasks)} runs failed; the Sweep's .failed says why, and the same call tries "
            "them again.",
            RuntimeWarning,
            stacklevel=2,
        )
    return whole


def _agreed(place: SharedFolder, plan: Plan) -> dict[str, Any]:
    """The manifest, written if it is new; RunFolderError if the place has another sweep or something else."""
    place.check_free_or(MANIFEST)
    asked, there = plan.to_dict(), place.read(MANIFEST)
    if there is None and MANIFEST in place.names(""):
        raise RunFolderError(f"The {MANIFEST} in {place} is damaged; copy it again from a whole one, or delete it.")
    if there is not None and place.names(RESULTS):
        asked = joined(Sweep.checked(there, place), asked, repr(place))
    else:  # nothing was done with an older one
        asked = {**asked, "mark": secrets.token_hex(8)}
    if asked != there:
        place.write(MANIFEST, asked)
    return asked


def _opened(place: SharedFolder, manifest: dict[str, Any], plan: Plan) -> Sweep:
    fluency = None if plan.fluency_model is None else plan.fluency_model.model
    return Sweep(place, manifest, features=plan.features, model=plan.model.model, fluency_model=fluency)


def _groups(tasks: list[SweepTask], together: int) -> Groups:
    """Runs of the same settings, so many at a time."""
    found: Groups = []
    for number in sorted({task.setting for task in tasks}) if together > 1 else []:
        same = [task for task in tasks if task.setting == number]
        found += [same[i : i + together] for i in range(0, len(same), together)]
    return found if together > 1 else [[task] for task in tasks]


def _here(runner: Runner, groups: Groups) -> Iterator[list[dict[str, Any]]]:
    runner.ready()
    for group in groups:
        results = runner.run(group)
        if not results:
            raise KeyboardInterrupt
        yield results


def _on_ray(cluster: ray_cluster.Cluster, runner: Runner, groups: Groups, bar: _Bar) -> Iterator[list[dict[str, Any]]]:
    plan = runner.plan
    fluency = None if plan.fluency_model is None else plan.fluency_model.packed()
    sent = dataclasses.replace(
        runner,
        plan=dataclasses.replace(plan, model=plan.model.packed(), fluency_model=fluency),
        device="cuda" if cluster.gpus else "cpu",
        threads=max(1, int(cluster.cpus)),
    )
    try:
        data = dumps(sent)
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


def _finish(results: Iterator[list[dict[str, Any]]], bar: _Bar) -> None:
    try:
        for some in results:
            for result in some:
                bar.add(result)
    finally:
        results.close()  # type: ignore[attr-defined]  # which ends the workers, also after an interrupt


class _Bar:
    """Progress: finished of all, the best value of the feature that has just finished a run, time left."""

    def __init__(self, plan: Plan, finished: int, shown: bool | None) -> None:
        from tqdm.auto import tqdm

        from dreamy_lens._host import is_watched

        shown = is_watched() if shown is None else shown
        self._labels = {task.name: plan.features[task.feature].label for task in plan.tasks}
        self._total, self._failed = len(plan.tasks), 0
        self._best: dict[str, float] = {}
        self._bar = tqdm(
            total=self._total, initial=finished, desc="sweep", unit="run", disable=not shown, dynamic_ncols=True
        )
        self._done = finished

    def add(self, result: dict[str, Any]) -> None:
        """One more run."""
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
        """A line above the bar."""
        self._bar.write(text, file=sys.stderr)

    def interrupted(self) -> None:
        """Say what is there."""
        self.write(
            f"Interrupted after {self._done} of {self._total} runs; they are kept, and the same call does the rest."
        )

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *error: Any) -> None:
        self._bar.close()
