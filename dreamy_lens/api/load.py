"""Open whatever was saved: `load()`."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from dreamy_lens.errors import RunFolderError, names_keywords, quoted

RUN_FOLDER = "run-000"
"""Name of the first folder inside the folder of several runs."""


@names_keywords
def load(path: str | os.PathLike[str], model: Any = None, *, fluency_model: Any = None, feature: Any = None) -> Any:
    """Open what dreamy_lens saved: a run, several runs, a sweep, a scan, a study, or a file of one of their results.

    Args:
        path: Folder of a run (`run.save`), of several (`runs.save`), of a sweep (`dl.sweep(out=)`), of a scan
            (`dl.max_activating(out=)`), both also at a URL, or of a study (`dl.studies.seeds(out=)`); or a JSON file of
            a frontier, of merged runs, of an attribution (`.save`) or of a comparison (`comparison.save`).
        model: Model to continue with or to compute with; None is the model that was saved, loaded when it is needed.
        fluency_model: Fluency model of runs that had one; None is the one that was saved.
        feature: Feature of a single run whose text alone cannot rebuild it; see :func:`dreamy_lens.load_run`.

    Returns:
        :class:`Dream`, :class:`Dreams`, :class:`~dreamy_lens.sweeps.Sweep`, :class:`~dreamy_lens.scan.Examples`,
        :class:`~dreamy_lens.results.StudyResult`, :class:`~dreamy_lens.results.Frontier`,
        :class:`~dreamy_lens.results.Merged`,
        :class:`~dreamy_lens.results.Attribution` or :class:`~dreamy_lens.comparison.Comparison`.

    Raises:
        RunFolderError: There is nothing at the path, or nothing that dreamy_lens saved, or it is damaged.
        ExamplesError: The tables of a scan are damaged.

    >>> import tempfile, dreamy_lens as dl
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     runs = dl.dream("L2.N17", seeds=2, iterations=1, population=2, children=4, length=6, save_to=folder)
    ...     [run.config.seed for run in dl.load(folder)]
    [0, 1]
    """
    place = os.fspath(path)
    kind = kind_of(place)
    if kind in ("run", "runs", "study") and "://" in place:
        raise RunFolderError(
            f"{quoted(place)} holds a {kind.removesuffix('s')}, which is opened from a folder of this machine: copy "
            "the folder. Sweeps and scans are opened at URLs."
        )
    if kind == "run":
        from dreamy_lens.api.dream import load_run

        return load_run(path, model, fluency_model=fluency_model, feature=feature)
    if kind == "runs":
        from dreamy_lens.runs.dreams import Dreams

        return Dreams.load(path, model, fluency_model=fluency_model)
    if kind == "sweep":
        from dreamy_lens.sweeps.sweep import Sweep

        return Sweep.load(path, model, fluency_model=fluency_model)
    if kind == "scan":
        if "://" in place:
            from dreamy_lens.cluster.remote_scan import open_scan

            return open_scan(place, model)
        from dreamy_lens.scan.examples import Examples

        return Examples.load(path, model)
    if kind == "study":
        from dreamy_lens.results.study import StudyResult

        return StudyResult.load(path)
    return _load_file(place)


def kind_of(path: str) -> str:
    """Return what is saved at a path: "run", "runs", "sweep", "scan", "study" or "file".

    Args:
        path: Folder, file, or URL of a sweep or a scan.

    Raises:
        RunFolderError: There is nothing at the path, or a folder with nothing that dreamy_lens saved.
    """
    from dreamy_lens.cluster.shared_folder import SharedFolder
    from dreamy_lens.results.storage import RUN, read_folder
    from dreamy_lens.results.study import PLAN, STUDY
    from dreamy_lens.scan.storage import CHECKPOINT_FILE, HEADER
    from dreamy_lens.sweeps.plan import MANIFEST

    if "://" in path:
        names = SharedFolder(path).names("")
    else:
        folder = Path(path).expanduser()
        if folder.is_file():
            return "file"
        names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    kinds = {RUN: "run", MANIFEST: "sweep", HEADER: "scan", STUDY: "study", RUN_FOLDER: "runs"}
    found = next((kind for name, kind in kinds.items() if name in names), None)
    if found is not None:
        return found
    if CHECKPOINT_FILE in names:
        raise RunFolderError(
            f"{quoted(path)} holds a scan that has not ended; the call or command that began it continues it."
        )
    if PLAN in names:
        raise RunFolderError(
            f"{quoted(path)} holds a study that has not ended; the call or command that began it continues it."
        )
    if names:
        known = "a run (run.json), runs (run-000, ...), a sweep (sweep.json), a scan (examples.json)"
        known += " or a study (study.json)"
        raise RunFolderError(
            f"{quoted(path)} is a folder without {known} in it; it has: {', '.join(sorted(names)[:6])}."
        )
    read_folder(path)  # raises, and names the runs that are near
    return "run"


def _load_file(path: str) -> Any:
    """Open a JSON file of a result, by the format that it names."""
    from dreamy_lens.comparison import comparison, storage
    from dreamy_lens.results import (
        ablation,
        attribution,
        baselines,
        explanation,
        frontier,
        mechanisms,
        merged,
        patching,
        steering,
        upstream,
    )

    kinds = {
        frontier.FORMAT: frontier.Frontier,
        merged.FORMAT: merged.Merged,
        attribution.FORMAT: attribution.Attribution,
        upstream.FORMAT: upstream.Upstream,
        steering.FORMAT: steering.Steering,
        ablation.FORMAT: ablation.Ablation,
        patching.FORMAT: patching.Patching,
        mechanisms.FORMAT: mechanisms.Mechanisms,
        baselines.FORMAT: baselines.Baselines,
        explanation.FORMAT: explanation.Explanation,
        storage.FORMAT: comparison.Comparison,
    }
    content: Any = None
    with suppress(OSError, ValueError):
        content = json.loads(Path(path).expanduser().read_bytes())
    form = content.get("format") if isinstance(content, dict) else None
    if form not in kinds:
        raise RunFolderError(
            f"{quoted(path)} is a file, and not one of a frontier, of merged runs, of an attribution, of upstream "
            "contributions, of mechanisms, of a steering, of an ablation, of a patching, of baselines, of an "
            "explanation or of a comparison; a run, a sweep, a scan and a study are folders."
        )
    return kinds[form].load(Path(path).expanduser())
