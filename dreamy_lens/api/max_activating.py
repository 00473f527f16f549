"""Maximally activating windows of a corpus: `max_activating()`."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Any

from dreamy_lens._host import silenced
from dreamy_lens.api.signatures import scan_settings, show_settings
from dreamy_lens.errors import ModelError, keywords_of, quoted

if TYPE_CHECKING:
    from dreamy_lens._files import StrPath
    from dreamy_lens.cluster.ray_cluster import RayConfig
    from dreamy_lens.scan.config import ScanConfig
    from dreamy_lens.scan.examples import Examples


@silenced
def max_activating(
    features: Any,
    model: Any = None,
    corpus: Any = None,
    *,
    config: ScanConfig | None = None,
    fluency_model: Any = None,
    dtype: Any = None,
    out: StrPath | None = None,
    cache: bool = True,
    ray: bool | str | RayConfig | None = None,
    progress: bool | None = None,
    **settings: Any,
) -> Examples:
    """Find the windows of a corpus that drive features to their highest values, in one pass for all features.

    A window is scored like the prompt of a dream: by itself, after the model's BOS. So its value and cross-entropy
    are those that :func:`dreamy_lens.score` returns. Besides the strongest windows, the scan keeps a histogram of all
    values and a uniform random sample of the windows. Where cross-entropy is measured, it also keeps the strongest
    window of every quarter of a nat, so that the frontier of the whole corpus is known.

    Args:
        features: Expressions, their texts, or lists of these. An expression that leaves an axis of units open stands
            for one feature per unit, and a `*` stands for all hook points that match: `dl.neurons(2)`, "L2.N*",
            `dl.neurons()`, "blocks.*.hook_resid_post[-1]".
        model: TransformerBridge, Hugging Face id, or folder of a model; None is the embedded model.
        corpus: Anything that :func:`dreamy_lens.corpus.open` takes: a file, a folder, a pattern of paths, a URL, a
            data set or its Hugging Face id, or a list of texts. None is the documentation of the installed Python
            packages.
        config: Settings of the scan; None is the defaults of :class:`~dreamy_lens.scan.ScanConfig`.
        fluency_model: Model whose cross-entropy is measured, with the same tokenizer; None is `model`.
        dtype: Precision of a model that is given by name, such as "bfloat16"; None is float32.
        out: Folder for the results, or a URL for which fsspec has a driver, such as `s3://bucket/scan`. If it holds an
            unfinished scan, the scan continues; if it holds a finished scan, that is opened. At a URL, an unfinished
            scan continues on the machine that began it, from a folder of the cache.
        cache: Whether, without `out`, to open a finished scan of the same model, corpus, features and settings, and to
            continue an unfinished one. Cached scans are in ``~/.cache/dreamy_lens/scans``, or in the folder `scans` of
            the path in the environment variable `DREAMY_LENS_CACHE`.
        ray: True distributes the scan over a Ray cluster: the one that this process is connected to or that
            `RAY_ADDRESS` names, or else a cluster that starts on this machine and ends with the scan. A text is the
            address of a cluster to join; a :class:`~dreamy_lens.cluster.RayConfig` also sets the number of workers and
            the resources of each. The results are the same as without Ray. A folder `out` must be visible to
            all workers.
        progress: Whether to show a progress bar; None shows it in terminals and notebooks.
        **settings: Fields of :class:`~dreamy_lens.scan.ScanConfig`, such as `k=8`, `length=6`, `tokens="500k"` or
            `cross_entropy=False`.

    Returns:
        The :class:`~dreamy_lens.scan.Examples` of all features. An interrupt (Ctrl-C) ends the scan early and returns
        the examples so far; calling with the same arguments continues the scan.

    Raises:
        FeatureError: A feature does not fit the model.
        CorpusError: The corpus does not exist, or none of it can be read.
        ExamplesError: `out` holds another scan, or cannot be written.
        SettingsError: A setting is unknown or outside its range.
        RunFolderError: There is no driver for the URL `out`.
        ClusterError: Ray is not installed or cannot be reached, or the workers do not become ready.

    >>> import dreamy_lens as dl
    >>> texts = ["Return a copy of the array, with axes transposed and the dtype kept.", "Raise an error if not found."]
    >>> examples = dl.max_activating("L2.N17", corpus=texts, k=2, length=6, cache=False)
    >>> [len(window.ids) for window in examples.of("L2.N17").top]
    [6, 6]
    """
    given = dict(locals())
    from dreamy_lens.cluster.model_ref import ModelRef
    from dreamy_lens.cluster.ray_cluster import RayConfig
    from dreamy_lens.cluster.remote_scan import scan_to_url
    from dreamy_lens.cluster.shared_folder import SharedFolder
    from dreamy_lens.runs.call_code import call_code
    from dreamy_lens.scan.config import ScanConfig
    from dreamy_lens.scan.scan import Scan
    from dreamy_lens.scan.storage import check_out

    RayConfig.check_not_settings(settings)
    config = ScanConfig.from_settings(config, settings, keywords_of(max_activating))
    code = call_code("examples", max_activating, given, _NOT_WRITTEN)
    ray_config = RayConfig.from_argument(ray)
    if out is not None:
        check_out(out)
    if ray_config is None:
        place = SharedFolder(out) if out is not None and "://" in str(out) else None  # an error comes before the work
        local_model = _loaded(model, corpus) if dtype is None else ModelRef.of(model, dtype).loaded()
        scan = Scan(features, local_model, corpus, config, fluency_model, code)
        return (
            scan.run(out=out, cache=cache, progress=progress) if place is None else scan_to_url(scan, place, progress)
        )
    from dreamy_lens.cluster.cluster_scan import ClusterScan

    models = ModelRef.of(model, dtype), None if fluency_model is None else ModelRef.of(fluency_model)
    # This process only checks the features against the model; the workers may need the GPUs.
    local = [None if reference is None else reference.loaded("cpu") for reference in models]
    scan = Scan(features, local[0], corpus, config, local[1], code)
    return ClusterScan(scan, *models, ray_config).run(out=out, cache=cache, progress=progress)


_NOT_WRITTEN = ("out", "cache", "ray", "progress")
"""Arguments that do not change the examples."""

show_settings(max_activating, scan_settings())


def _loaded(model: Any, corpus: Any) -> Any:
    """Return a model that is given by name in memory, and other models unchanged.

    Raises:
        ModelError: There is no such model. If no corpus is given either, the name may be that of a corpus.
    """
    from dreamy_lens.models.load import as_hooked

    if corpus is not None or not isinstance(model, (str, PathLike, list, tuple)):
        return model
    try:
        if not isinstance(model, (list, tuple)):
            return as_hooked(model)
        error = f"{quoted(model)} is given as the model, and it is a {type(model).__name__}."
    except ModelError as cause:
        error = str(cause)
    raise ModelError(f"{error} The second argument is the model; to scan a corpus, write corpus={quoted(model)}.")
