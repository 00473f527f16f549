"""`dl.max_activating`: the texts of a corpus that drive features highest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dreamy_lens.errors import SettingsError

if TYPE_CHECKING:
    from dreamy_lens._files import StrPath
    from dreamy_lens.cluster.ray_cluster import RayConfig
    from dreamy_lens.scan.config import ScanConfig
    from dreamy_lens.scan.examples import Examples


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
    """Find the windows of a corpus that drive features highest, in one pass for all features.

    A window is scored as a prompt of a dream is: by itself, after the model's BOS, so that its value and cross-entropy
    are those that :func:`dreamy_lens.score` gives. Besides the strongest windows, a histogram of all values and a
    uniform sample of the windows are kept, and, where cross-entropy is measured, the strongest window at every quarter
    of a nat, so that the frontier of the whole corpus is known.

    Args:
        features: Expressions, their texts, or lists of these. An expression that leaves an axis of units stands for a
            feature for each unit, and a `*` for all hook points that match: `dl.neurons(2)`, "L2.N*", `dl.neurons()`,
            "blocks.*.hook_resid_post[-1]".
        model: A TransformerBridge, a Hugging Face id or folder; None is the embedded model.
        corpus: Texts, as for `dl.corpus.open`: None is the documentation of the installed Python packages; a file, a
            folder, a pattern of paths, a URL, a data set or the id of one, or strings.
        config: Settings of the scan; None is the default ones.
        fluency_model: Model whose cross-entropy is measured; None is `model`.
        dtype: Precision of a model that is given by name, such as "bfloat16"; None is float32.
        out: Folder for the results. An unfinished scan in it goes on, a finished one is opened.
        cache: Whether, without `out`, a finished scan of the same model, corpus, features and settings is opened again,
            and an unfinished one goes on. Scans are kept in ``~/.cache/dreamy_lens/scans``, or below the variable
            `DREAMY_LENS_CACHE`.
        ray: True to share the scan out to a Ray cluster: the one this process is connected to or `RAY_ADDRESS` names,
            or else one that starts on this machine and ends with the scan. A text is the address of a cluster to join;
            a :class:`~dreamy_lens.cluster.RayConfig` says how many workers there are, and what each gets. The results
            are the same. `out` can be a URL then, such as `s3://bucket/scan`; a folder has to be one that all workers
            see.
        progress: Whether to show a progress bar; None shows one in terminals and notebooks.
        **settings: Fields of :class:`~dreamy_lens.scan.ScanConfig`, such as `k=8`, `length=6`, `tokens=10**6` or
            `cross_entropy=False`.

    Returns:
        The examples, feature by feature. An interrupt (Ctrl-C) ends the scan early and returns the examples so far; the
        same call goes on.

    Raises:
        FeatureError: A feature does not fit the model.
        CorpusError: There is no such corpus, or nothing of it could be read.
        ExamplesError: `out` holds another scan, or cannot be written.
        SettingsError: A setting is unknown or outside its range.
        ClusterError: Ray is not installed or cannot be reached, or workers do not get ready.

    >>> import dreamy_lens as dl
    >>> texts = ["Return a copy of the array, with axes transposed and the dtype kept.", "Raise an error if not found."]
    >>> examples = dl.max_activating("L2.N17", corpus=texts, k=2, length=6, cache=False)
    >>> [len(window.ids) for window in examples.of("L2.N17").top]
    [6, 6]
    """
    from dreamy_lens.cluster.model_ref import ModelRef
    from dreamy_lens.cluster.ray_cluster import RayConfig
    from dreamy_lens.scan.config import ScanConfig
    from dreamy_lens.scan.scan import Scan

    RayConfig.check_not_settings(settings)
    config = ScanConfig.from_settings(config, settings)
    ray_config = RayConfig.from_argument(ray)
    if ray_config is None:
        if out is not None and "://" in str(out):
            raise SettingsError(f"out={str(out)!r} is a URL, to which a scan on a Ray cluster writes: add ray=True.")
        given = model if dtype is None else ModelRef.of(model, dtype).loaded()
        return Scan(features, given, corpus, config, fluency_model).run(out=out, cache=cache, progress=progress)
    from dreamy_lens.cluster.cluster_scan import ClusterScan

    models = ModelRef.of(model, dtype), None if fluency_model is None else ModelRef.of(fluency_model)
    # Here the model is only asked what it has, and workers may need the GPUs.
    local = [None if reference is None else reference.loaded("cpu") for reference in models]
    scan = Scan(features, local[0], corpus, config, local[1])
    return ClusterScan(scan, *models, ray_config).run(out=out, cache=cache, progress=progress)
