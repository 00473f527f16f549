"""A sweep as a sequence of finished runs, which are read from its folder when they are used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

from dreamy_lens._files import StrPath
from dreamy_lens.cluster.shared_folder import SharedFolder
from dreamy_lens.errors import RunFolderError, SettingsError, quoted
from dreamy_lens.features.parser import feature_names
from dreamy_lens.sweeps.plan import FORMAT, MANIFEST, VERSION, SweepTask, label_of, tasks_of
from dreamy_lens.sweeps.runner import DONE, FAILED, RESULTS, RUNS

if TYPE_CHECKING:
    import pandas as pd

    from dreamy_lens.features.expressions import Feature
    from dreamy_lens.results.merged import Merged
    from dreamy_lens.runs.dream import Dream

MISSING = "missing"


class Sweep(Sequence["Dream"]):
    """The finished runs of a sweep, in the order of the features, then of the settings, then of the seeds.

    Each run is a :class:`~dreamy_lens.runs.dream.Dream`, which is opened when it is first used. Use
    :func:`dreamy_lens.sweep` to make a sweep, and :meth:`load` to open one.

    Attributes:
        where: Folder or URL of the sweep.
        unsaved: Runs that were finished but could not be saved, for example because the disk was full. They are in
            memory: `run.save(folder)` writes each of them.
        code: Program that makes the sweep again, as Python; "" for one that was opened.
    """

    def __init__(
        self,
        place: SharedFolder,
        manifest: dict[str, Any],
        *,
        features: Sequence[Feature] | None = None,
        model: Any = None,
        fluency_model: Any = None,
        tasks: Sequence[SweepTask] | None = None,
        results: dict[str, dict[str, Any]] | None = None,
        unsaved: dict[str, Dream] | None = None,
        like: Sweep | None = None,
    ) -> None:
        self.where = place.text
        self.code = ""
        self._place, self._manifest, self._features = place, manifest, features
        self._models = (model, fluency_model)
        all_tasks = tasks_of(len(manifest["features"]), len(manifest["settings"]), manifest["seeds"])
        self._tasks = list(all_tasks if tasks is None else tasks)
        if like is None:
            self._results = results_of(place, {} if results is None else results)
            kept = {} if unsaved is None else unsaved
        else:
            self._results, kept = like._results, like._unsaved
        self._unsaved = {task.name: kept[task.name] for task in self._tasks if task.name in kept}
        self.unsaved = list(self._unsaved.values())
        self._opened: dict[SweepTask, Dream] = {} if like is None else like._opened
        self._done = [task for task in self._tasks if self.is_done(task)]

    @classmethod
    def load(cls, out: StrPath, model: Any = None, *, fluency_model: Any = None) -> Sweep:
        """Open a sweep, finished or not.

        Args:
            out: Folder or URL of the sweep.
            model: Model for methods that need one, such as attributions. None is the model of the runs, which is loaded
                by its name when it is needed.
            fluency_model: Model whose cross-entropy counts as fluency, if the runs had one. None is the fluency model
                of the runs, which is loaded by its name when it is needed.

        Raises:
            RunFolderError: There is no sweep, or its manifest is damaged or has a newer format.
        """
        place = SharedFolder(out)
        manifest = place.read(MANIFEST)
        if manifest is None:
            raise RunFolderError(
                f"There is no sweep in {place}: it has no {MANIFEST}, or a damaged one. Give the folder that "
                "sweep(..., out=...) wrote."
            )
        return cls(place, cls.checked(manifest, place), model=model, fluency_model=fluency_model)

    @staticmethod
    def checked(manifest: dict[str, Any], place: SharedFolder) -> dict[str, Any]:
        """Return a manifest; raise RunFolderError if it is not that of a sweep, or has a newer format.

        Args:
            manifest: Content of the manifest.
            place: Folder of the sweep, for messages.
        """
        if manifest.get("format") != FORMAT:
            raise RunFolderError(
                f"The {MANIFEST} in {place} is not the manifest of a sweep. Give the folder that sweep(..., out=...) "
                "wrote."
            )
        if not isinstance(manifest.get("version"), int) or manifest["version"] > VERSION:
            raise RunFolderError(
                f"The sweep in {place} has format version {manifest.get('version')}, and this dreamy_lens reads up to "
                f"{VERSION}. Update with `pip install -U dreamy-lens`."
            )
        missing = [name for name in ("features", "settings", "seeds", "model", "mark") if name not in manifest]
        if missing:
            raise RunFolderError(
                f"The {MANIFEST} in {place} was altered: it has no {missing[0]}. Replace it by an intact copy."
            )
        return manifest

    # The runs and their status.

    def is_done(self, task: SweepTask) -> bool:
        """Return whether a run is finished and saved."""
        return self.status(task) == DONE

    def status(self, task: SweepTask) -> str:
        """Return the status of a run: "done", "failed" or "missing"."""
        return self._results.get(task.name, {}).get("status", MISSING)

    @property
    def features(self) -> list[str]:
        """Labels of the features."""
        return [self._label(number) for number in dict.fromkeys(task.feature for task in self._tasks)]

    @property
    def seeds(self) -> list[int]:
        """Seeds of the runs."""
        return list(dict.fromkeys(task.seed for task in self._tasks))

    @property
    def settings(self) -> list[str]:
        """Labels of the variants of the settings: the settings in which each differs from the common ones."""
        return [self._setting(number) for number in dict.fromkeys(task.setting for task in self._tasks)]

    @property
    def failed(self) -> pd.DataFrame:
        """Table of the failed runs, with the columns feature, settings, seed, attempts and error."""
        frame = self.to_pandas()
        return frame.loc[frame["status"] == FAILED, ["feature", "settings", "seed", "attempts", "error"]]

    def of(self, feature: Any = None, **settings: Any) -> Sweep:
        """Select the runs of a feature, the runs with given settings, or both.

        Args:
            feature: Feature or its text; None selects all features.
            **settings: Settings that the runs must have: `population=4`, `search="gcg"`, `seed=1`, or several seeds,
                `seed=range(4)`.

        Returns:
            A Sweep with the selected runs.

        Raises:
            SettingsError: No run matches.
        """
        tasks = self._tasks
        if feature is not None:
            from dreamy_lens.features.parser import parse

            expression = parse(feature).absolute()
            tasks = [t for t in tasks if self._manifest["features"][t.feature] == str(expression)]
            if not tasks:
                features = ", ".join(self.features)
                raise SettingsError(f"This sweep has no runs of {expression.label}; its features are: {features}.")
        for name, value in settings.items():
            values = [self._value(task, name) for task in tasks]
            several = name == "seed" and isinstance(value, (range, list, tuple))
            wanted = list(value) if several else [_stored(name, value)]
            tasks = [task for task, own_value in zip(tasks, values, strict=True) if own_value in wanted]
            if not tasks:
                raise SettingsError(
                    f"This sweep has no runs with {name}={quoted(value)}; there are: {_listed(values)}."
                )
        model, fluency = self._models
        objects = {"features": self._features, "model": model, "fluency_model": fluency}
        return Sweep(self._place, self._manifest, tasks=tasks, like=self, **objects)

    def merged(self, feature: Any = None, **settings: Any) -> Merged:
        """Merge the finished runs of a feature into one result with a joint frontier.

        See :func:`dreamy_lens.results.merge`.

        Args:
            feature: Feature or its text; None if all runs are of one feature.
            **settings: Settings that the runs must have, such as `population=4`; without any, runs of all settings are
                merged.
        """
        from dreamy_lens.results.merged import merge

        return merge(self.of(feature, **settings))

    def to_pandas(self) -> pd.DataFrame:
        """Return a table with a row for each run, finished or not.

        The columns are feature, settings, one for each setting that varies, seed, status (done, failed, missing), value
        and cross_entropy of the prompt with the highest value, hypervolume, frontier (number of prompts on it), prompts
        (number of evaluated prompts), seconds, attempts, worker, error. A setting that is named as one of the results,
        such as seconds, has the column "seconds setting".

        The hypervolumes of all runs of a feature have the same reference, so that you can compare them: the lowest
        value and the highest cross-entropy that any of the runs evaluated.
        """
        import pandas as pd

        varying = list(dict.fromkeys(name for setting in self._manifest["settings"] for name in setting["given"]))
        results = _numbers({}, None)
        column = {name: f"{name} setting" if name in results else name for name in varying}
        references = self._references()
        rows = []
        for task in self._tasks:
            row = {"feature": self._label(task.feature), "settings": self._setting(task.setting)}
            setting = self._manifest["settings"][task.setting]
            known = _known(setting)
            row |= {column[name]: known.get(name) for name in varying}
            row |= {"seed": task.seed, "status": self.status(task)}
            rows.append(row | _numbers(self._results.get(task.name, {}), references.get(task.feature)))
        columns = ["feature", "settings", *column.values(), "seed", "status", *results]
        return pd.DataFrame(rows, columns=list(dict.fromkeys(columns)))

    def _references(self) -> dict[int, tuple[float, float]]:
        """Return the hypervolume's reference of each feature: lowest value and highest cross-entropy of its runs."""
        references: dict[int, tuple[float, float]] = {}
        for task in self._done:
            value, cross_entropy = self._results[task.name]["reference"]
            low, high = references.get(task.feature, (value, cross_entropy))
            references[task.feature] = min(low, value), max(high, cross_entropy)
        return references

    def _value(self, task: SweepTask, name: str) -> Any:
        if name == "seed":
            return task.seed
        setting = self._manifest["settings"][task.setting]
        values = _known(setting)
        if name not in values:
            raise SettingsError(f"There is no setting {quoted(name)}; there are: seed, {', '.join(values)}.")
        return values[name]

    def _label(self, feature: int) -> str:
        return feature_names(self._manifest["features"][feature])[0]

    def _setting(self, number: int) -> str:
        return label_of(self._manifest["settings"][number]["given"])

    # The sequence of finished runs.

    def _open(self, task: SweepTask) -> Dream:
        from dreamy_lens.runs.dream import Dream

        if task not in self._opened:
            # The text of some features, such as custom functions, cannot be parsed; this process may have the object.
            feature = None if self._features is None else self._features[task.feature]
            self._opened[task] = Dream.load(self._place.local(f"{RUNS}/{task.name}"), *self._models, feature)
        return self._opened[task]

    @overload
    def __getitem__(self, index: int) -> Dream: ...
    @overload
    def __getitem__(self, index: slice) -> list[Dream]: ...
    def __getitem__(self, index: int | slice) -> Dream | list[Dream]:
        return [self._open(t) for t in self._done[index]] if isinstance(index, slice) else self._open(self._done[index])

    def __len__(self) -> int:
        return len(self._done)

    def __repr__(self) -> str:
        counts = ((len(self.features), "feature"), (len(self.settings), "setting"), (len(self.seeds), "seed"))
        shape = " x ".join(f"{n} {name}{'s' * (n != 1)}" for n, name in counts)
        failed = sum(self.status(task) == FAILED for task in self._tasks)
        failures = f", {failed} failed" if failed else ""
        runs = f"{len(self)} of {len(self._tasks)} runs{failures}: {shape}"
        return f"Sweep({runs} on {self._manifest['model']['name']}, in {self.where!r})"

    def _repr_html_(self) -> str:
        import pandas as pd

        from dreamy_lens.html.escaping import escape
        from dreamy_lens.html.page import fragment, html_table, python_details
        from dreamy_lens.html.words import heading_of

        frame = self.to_pandas().drop(columns=["worker", "attempts"])
        empty = [name for name in ("settings", "error") if not frame[name].fillna("").astype(bool).any()]
        frame = frame.drop(columns=empty)
        rows = [["" if pd.isna(cell) else _cell(cell) for cell in row] for row in frame.itertuples(index=False)]
        table = html_table([heading_of(name) for name in frame.columns], rows)
        return fragment(f"<p>{escape(repr(self))}</p>{table}{python_details(self.code)}")


def _cell(value: Any) -> str:
    """Return a cell of a table as text."""
    return f"{value:.4g}".replace("-", "−") if isinstance(value, float) else str(value)


def results_of(place: SharedFolder, known: Mapping[str, dict[str, Any]] | None = None) -> dict[str, dict[str, Any]]:
    """Return the results of a sweep's runs by name. A finished run that is damaged or gone has failed.

    Args:
        place: Folder of the sweep.
        known: Results that this process has seen, for runs whose results are not in the folder.
    """
    files = [name for name in place.names(RESULTS) if name.endswith(".json")]
    contents = place.read_all(f"{RESULTS}/{name}" for name in files).values()
    results = {name: {**result, "gone": True} for name, result in (known or {}).items()}
    results |= {str(result.get("name")): result for result in contents}
    runs = set(place.names(RUNS)) if results else set()
    return {name: _checked(result, name in runs) for name, result in results.items()}


def _checked(result: dict[str, Any], has_folder: bool) -> dict[str, Any]:
    """Return the result of a run, as a failure if the run is said to be finished and is not there."""
    if result.get("status") != DONE:
        return result
    name, reason = result.get("name"), None
    if not has_folder:
        reason = f"The folder {RUNS}/{name} was removed after the run was saved."
    elif result.get("gone") or not _is_complete(result):
        reason = f"The file {RESULTS}/{name}.json was removed or damaged after the run was saved."
    if reason is None:
        return result
    plain = {key: result[key] for key in ("name", "seed", "attempts", "worker") if key in result}
    return {**plain, "status": FAILED, "error": reason, "kind": "RunFolderError"}


def _is_complete(result: dict[str, Any]) -> bool:
    frontier = result.get("frontier")
    return isinstance(frontier, dict) and {"value", "cross_entropy"} <= set(frontier) and "reference" in result


def _known(setting: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a variant by name, with the name of its search."""
    values = {**setting["config"], **setting["given"]}
    search = values.pop("class", None)
    return {**values, "search": setting["given"].get("search", search)}


def _stored(name: str, value: Any) -> Any:
    """Return the value of a setting as the manifest has it: a list for a tuple, and a search by the name of its class.

    >>> _stored("length", (4, 6)), _stored("search", "gcg"), _stored("search", "GCG")
    ([4, 6], 'GCG', 'GCG')
    """
    if name != "search":
        return list(value) if isinstance(value, tuple) else value
    from dreamy_lens.search.optimizers import searches

    if not isinstance(value, str):
        return value.__name__ if isinstance(value, type) else type(value).__name__
    kind = searches().get(value.lower())
    return value if kind is None else kind.__name__


def _numbers(result: dict[str, Any], reference: tuple[float, float] | None) -> dict[str, Any]:
    """Return the columns of a table row that come from a result.

    Args:
        result: Result of the run; empty for a run that is missing.
        reference: Lowest value and highest cross-entropy, for the hypervolume; None if it is not known.
    """
    from dreamy_lens.search.pareto import hypervolume

    frontier = result.get("frontier", {"value": [], "cross_entropy": []})
    value, cross_entropy = frontier["value"], frontier["cross_entropy"]
    nan = float("nan")
    done = result.get("status") == DONE
    return {
        "value": value[-1] if value else nan,
        "cross_entropy": cross_entropy[-1] if value else nan,
        "hypervolume": hypervolume(value, cross_entropy, reference) if done and reference else nan,
        "frontier": len(value),
        "prompts": result.get("prompts", 0),
        "seconds": result.get("seconds", nan),
        "attempts": result.get("attempts", 0),
        "worker": result.get("worker", ""),
        "error": result.get("error", ""),
    }


def _listed(values: list[Any]) -> str:
    return ", ".join(dict.fromkeys(map(repr, values)))
