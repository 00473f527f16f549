"""Sweeps over features, settings and seeds: `sweep()`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dreamy_lens._files import StrPath
from dreamy_lens._host import silenced
from dreamy_lens.api.signatures import search_settings, show_settings
from dreamy_lens.cluster.ray_cluster import RayConfig
from dreamy_lens.cluster.shared_folder import SharedFolder
from dreamy_lens.runs.call_code import call_code
from dreamy_lens.search.config import SearchConfig
from dreamy_lens.search.constraint_kinds import Constraint
from dreamy_lens.sweeps.execution import carry_out
from dreamy_lens.sweeps.plan import MANIFEST, Plan
from dreamy_lens.sweeps.sweep import Sweep


@silenced
def sweep(
    features: Any,
    model: Any = None,
    *,
    out: StrPath,
    seeds: Iterable[int] | int | None = None,
    settings: Sequence[Mapping[str, Any]] | None = None,
    start: Any = None,
    constraints: Sequence[Constraint] | Constraint = (),
    fluency_model: Any = None,
    search: SearchConfig | str | None = None,
    dtype: Any = None,
    together: int = 1,
    ray: bool | str | RayConfig | None = None,
    progress: bool | None = None,
    **common: Any,
) -> Sweep:
    """Dream of every feature with every setting and every seed, and save each run when it finishes.

    A second call with the same arguments does only what is missing, for example after an interrupt or a crash, or
    when you add seeds. Each run has the same history as :func:`dreamy_lens.dream` with its seed. With Ray, the runs are
    distributed over workers, and each worker loads the model once. If a worker dies, its run is tried again, three
    times in all. If a run fails, `failed` reports it, and the other runs continue.

    Args:
        features: One feature or several: expressions or their texts.
        model: Hugging Face id or folder of a model, which every worker loads; or a TransformerBridge, which is sent to
            the workers. None is the embedded model.
        out: Folder that all workers see by the same path, or a URL for which fsspec has a driver, such as
            `s3://bucket/sweep`.
        seeds: Seeds to run each feature and setting with, or their number, such as 2 for the seeds 0 and 1; None is the
            seed of `search`.
        settings: Variants to try: one dictionary for each, with settings of the search, `search`, `start` or
            `constraints`.
        start: Initial prompts of all runs, in any form that :func:`dreamy_lens.dream` takes.
        constraints: Constraints of all runs.
        fluency_model: Model whose cross-entropy measures fluency, with the same tokenizer; None is `model`.
        search: Settings of the search of all runs, such as `dl.EPO(...)`, the paper's; None as in `dream()`.
        dtype: Precision of a model that is given by name, such as "bfloat16"; None is float32.
        together: Number of runs with the same settings that are scored in the same forward passes. More is faster on a
            GPU, and changes only the last digits.
        ray: True distributes the runs over a Ray cluster: the one that this process is connected to or that
            `RAY_ADDRESS` names, or else a cluster that starts on this machine and ends with the sweep. A text is the
            address of a cluster to join; a :class:`~dreamy_lens.cluster.RayConfig` also sets the number of workers and
            the resources of each.
        progress: Whether to show a progress bar; None shows it in terminals and notebooks.
        **common: Settings of all runs that replace those of `search`, such as `iterations=100`.

    Returns:
        A :class:`~dreamy_lens.sweeps.Sweep`. An interrupt ends it early, raises no exception, and keeps every finished
        run.

    Raises:
        FeatureError: A feature does not fit the model. No search has begun.
        SettingsError: A setting is unknown or outside its range.
        RunFolderError: `out` holds another sweep or something else, or cannot be written.
        ClusterError: Ray is not installed or cannot be reached, or the workers do not become ready.

    >>> import tempfile, dreamy_lens as dl
    >>> small = dict(iterations=2, population=2, children=4, progress=False)
    >>> folder = tempfile.TemporaryDirectory()
    >>> lengths = [{"length": 4}, {"length": 6}]
    >>> runs = dl.sweep(["L2.N17", "L3.N5"], seeds=[0, 1], settings=lengths, out=folder.name, **small)
    >>> runs
    Sweep(8 of 8 runs: 2 features x 2 settings x 2 seeds on embedded, in ...)
    >>> runs.merged("L2.N17", length=6)
    Merged(2 runs of L2.N17, ...)
    >>> folder.cleanup()
    """
    given = dict(locals())
    RayConfig.check_not_settings(common)
    ray_config = RayConfig.from_argument(ray)
    place = SharedFolder(out)
    place.check_free_or(MANIFEST)  # before a model is loaded
    plan = Plan.from_arguments(
        features,
        model,
        seeds=seeds,
        settings=settings,
        start=start,
        constraints=constraints,
        fluency_model=fluency_model,
        search=search,
        dtype=dtype,
        common=common,
    )
    result = carry_out(plan, place, ray=ray_config, together=together, progress=progress)
    result.code = call_code("sweep", sweep, given, ("ray", "progress"))
    return result


show_settings(sweep, search_settings(), without=["seed"])
