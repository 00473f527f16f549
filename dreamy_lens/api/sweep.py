"""`dl.sweep`: dream of features x settings x seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dreamy_lens._files import StrPath
from dreamy_lens.cluster.ray_cluster import RayConfig
from dreamy_lens.cluster.shared_folder import SharedFolder
from dreamy_lens.search.config import EPOConfig
from dreamy_lens.search.constraints import Constraint
from dreamy_lens.sweeps.execution import carry_out
from dreamy_lens.sweeps.plan import Plan
from dreamy_lens.sweeps.sweep import Sweep


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
    ray: bool | str | RayConfig | None = None,
    progress: bool | None = None,
    **common: Any,
) -> Sweep:
    """Dream of every feature with every setting and every seed, and save each run as it finishes.

    Called again with the same arguments it does what is missing: after an interrupt, a crash, or with more seeds. Each
    run is the one that :func:`dreamy_lens.dream` finds with its seed. With Ray they are shared out to workers, each of
    which loads the model once; a run whose worker dies is tried again, three times in all. A run that fails is
    reported in `failed`, and the others go on.

    Args:
        features: Expressions or their texts, or one of them.
        model: None (the embedded model), a Hugging Face id or folder, which every worker loads by itself; or a bridge,
            which is sent to the workers.
        out: Folder, which all workers see by the same path, or a URL that fsspec has a driver for, such as
            `s3://bucket/sweep`.
        seeds: Seeds of each feature and variant; None is the seed of `config`.
        settings: Dictionaries of EPO's settings, and of `start` and `constraints`, one for each variant to try.
        start: Initial prompts of all runs, as for :func:`dreamy_lens.dream`.
        constraints: Constraints of all runs.
        fluency_model: Model whose cross-entropy counts as fluency; None is `model`.
        config: EPO's settings of all runs.
        dtype: Precision of a model that is given by name, such as "bfloat16"; None is float32.
        together: How many runs with the same settings are scored in the same passes, which is faster on a GPU and
            changes the last digits only.
        ray: True to share the runs out to a Ray cluster: the one this process is connected to or `RAY_ADDRESS` names,
            or else one that starts on this machine and ends with the sweep. A text is the address of a cluster to join;
            a :class:`~dreamy_lens.cluster.RayConfig` says how many workers there are, and what each gets.
        progress: Whether to show a progress bar; None shows one in terminals and notebooks.
        **common: Fields of :class:`~dreamy_lens.EPOConfig` for all runs, such as `iterations=100`.

    Returns:
        A Sweep. An interrupt ends it early, without an exception, and keeps every finished run.

    Raises:
        FeatureError: A feature does not fit the model; nothing has been searched yet.
        SettingsError: A setting is unknown or outside its range.
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
    RayConfig.check_not_settings(common)
    ray_config = RayConfig.from_argument(ray)
    plan = Plan.from_arguments(
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
    return carry_out(plan, SharedFolder(out), ray=ray_config, together=together, progress=progress)
