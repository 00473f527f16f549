"""`dl.max_activating`: what of a corpus drives features highest."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from dreamy_lens.errors import SettingsError

if TYPE_CHECKING:
    from dreamy_lens.scan.examples import Examples


def max_activating(
    features: Any,
    model: Any = None,
    corpus: Any = None,
    k: int = 64,
    length: int = 12,
    tokens: int | None = None,
    *,
    stride: int | None = None,
    context: int = 24,
    cross_entropy: bool = True,
    sample: int = 1024,
    seed: int | None = 0,
    prepend_bos: bool | None = None,
    fluency_model: Any = None,
    batch_size: int | None = None,
    out: str | os.PathLike[str] | None = None,
    cache: bool = True,
    progress: bool | None = None,
    dtype: Any = None,
    ray: bool | str | None = None,
    address: str | None = None,
    workers: int | None = None,
    cpus_per_worker: float = 1,
    gpus_per_worker: float = 0,
) -> Examples:
    """The windows of a corpus that drive features highest, found in one pass for all of them.

    A window is scored as a prompt of a dream is: by itself, after the model's BOS, so that its value and cross-entropy
    are those that :func:`dreamy_lens.score` gives. Besides the strongest windows, a histogram of all values and a
    uniform sample of the windows are kept, and, where cross-entropy is measured, the strongest window at every quarter
    of a nat, so that the frontier of the whole corpus is known.

    Args:
        features: expressions, their texts, or lists of these. One that leaves an axis of units stands for a feature for
            each unit, and a `*` for all hook points that match: `dl.neurons(2)`, "L2.N*", `dl.neurons()`,
            "blocks.*.hook_resid_post[-1]".
        model: a bridge, a Hugging Face id or folder; None is the embedded model.
        corpus: texts, as for `dl.corpus.open`: None is the documentation of the installed Python packages; a file, a
            folder, a pattern of paths, a URL, a data set or the id of one, or strings.
        k: how many of each feature's strongest windows are kept, each text once.
        length: tokens of a window.
        tokens: scan windows of about so many tokens in all, a random sample of the corpus: of every block its share, or
            of blocks drawn by their characters where that is few windows. None scans all of it.
        stride: tokens from one window to the next; None is `length`.
        context: tokens that are shown on each side of a kept window; the model does not read them.
        cross_entropy: whether that of every window is measured. Without, it is for the kept ones only, and layers
            deeper than the features' are not run.
        sample: windows drawn at random, for quantiles.
        seed: of what is drawn; with None, `tokens` are the first of the corpus.
        prepend_bos: whether a BOS stands before every window; None is the model's convention.
        fluency_model: whose cross-entropy is measured; None is the model.
        batch_size: windows in one pass; None chooses.
        out: a folder for the results. A scan that was stopped goes on from there, a finished one is opened.
        cache: without `out`, whether a finished scan of the same model, corpus, features and settings is opened again,
            and an unfinished one gone on with. They are in ``~/.cache/dreamy_lens/scans``, or where `DREAMY_LENS_CACHE`
            says.
        progress: whether to show a progress bar; None shows one in terminals and notebooks.
        dtype: of a model that is given by name, such as "bfloat16"; None is float32.
        ray: True to share the scan out to a Ray cluster: the one this process is connected to or `RAY_ADDRESS` names,
            or else one that starts on this machine and ends with the scan. A text is an address. What is found is the
            same. `out` can be a URL then, such as `s3://bucket/scan`; a folder has to be one that all workers see.
        address: of a cluster to join: "auto", "host:port" or "ray://host:port".
        workers: how many; None is as many as the cluster has room for.
        cpus_per_worker: cores of each, and torch's threads.
        gpus_per_worker: GPUs of each; 0.25 has four share one. Without, workers use their cores only.

    Returns:
        The examples, feature by feature. An interrupt (Ctrl-C) gives those found so far; calling again goes on.

    Raises:
        FeatureError: or one of its kinds, if a feature does not fit the model.
        CorpusError: there is no such corpus, or nothing of it could be read.
        ExamplesError: `out` holds another scan, or cannot be written.

    >>> import dreamy_lens as dl
    >>> texts = ["Return a copy of the array, with axes transposed and the dtype kept.", "Raise an error if not found."]
    >>> examples = dl.max_activating("L2.N17", corpus=texts, k=2, length=6, cache=False)
    >>> [len(window.ids) for window in examples.of("L2.N17").top]
    [6, 6]
    """
    from dreamy_lens.cluster import ray_cluster
    from dreamy_lens.cluster.model_ref import ModelRef
    from dreamy_lens.scan.scan import Scan
    from dreamy_lens.scan.scanner import ScanSettings

    settings = ScanSettings(k, length, stride, context, tokens, seed, cross_entropy, sample, prepend_bos, batch_size)
    use_ray, address = ray_cluster.wanted(ray, address)
    ray_cluster.checked_share(workers, cpus_per_worker, gpus_per_worker)
    if not use_ray:
        if workers is not None:
            raise SettingsError(f"workers={workers!r} are started on a Ray cluster; add ray=True, or leave it out.")
        if out is not None and "://" in str(out):
            raise SettingsError(f"out={str(out)!r} is a URL, to which a scan on a Ray cluster writes: add ray=True.")
        given = model if dtype is None else ModelRef.of(model, dtype).loaded()
        return Scan(features, given, corpus, settings, fluency_model).run(out=out, cache=cache, progress=progress)
    from dreamy_lens.cluster.cluster_scan import ClusterScan

    sent = ModelRef.of(model, dtype), None if fluency_model is None else ModelRef.of(fluency_model)
    # Here the model is only asked what it has, and workers may need the GPUs.
    here = [None if one is None else one.loaded("cpu") for one in sent]
    scan = Scan(features, here[0], corpus, settings, here[1])
    whole = ClusterScan(scan, *sent, address, workers, cpus_per_worker, gpus_per_worker)
    return whole.run(out=out, cache=cache, progress=progress)
