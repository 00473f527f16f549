"""The runs of a sweep, read from its folder when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

from dreamy_lens._files import StrPath
from dreamy_lens.cluster.shared_folder import SharedFolder
from dreamy_lens.errors import RunFolderError, SettingsError
from dreamy_lens.sweeps.plan import FORMAT, MANIFEST, VERSION, SweepTask, label_of, tasks_of
from dreamy_lens.sweeps.runner import DONE, FAILED, RESULTS, RUNS

if TYPE_CHECKING:
    import pandas as pd

    from dreamy_lens.features.expressions import Feature
    from dreamy_lens.results.merged import Merged
    from dreamy_lens.runs.dream import Dream

MISSING = "missing"


class Sweep(Sequence["Dream"]):
    """The finished runs of a sweep: feature by feature, setting by setting, and seed by seed within each.

    Each is a :class:`~dreamy_lens.runs.dream.Dream`, opened when it is asked for. Made by :func:`dreamy_lens.sweep`
    and by :meth:`load`.

    Attributes:
        where: the folder or URL.
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
        like: Sweep | None = None,
    ) -> None:
        self.where = place.text
        self._place, self._manifest, self._features = place, manifest, features
        self._models = (model, fluency_model)
        every = tasks_of(len(manifest["features"]), len(manifest["settings"]), manifest["seeds"])
        self._tasks = list(every if tasks is None else tasks)
        self._results = results_of(place) if like is None else like._results
        self._opened: dict[SweepTask, Dream] = {} if like is None else like._opened
        self._done = [task for task in self._tasks if self.is_done(task)]

    @classmethod
    def load(cls, out: StrPath, model: Any = None, *, fluency_model: Any = None) -> Sweep:
        """Open a sweep, finished or not.

        Args:
            out: the folder or URL.
            model: for what needs one, such as attributions; None is the one the runs were made with, loaded by its
                name when it is needed.
            fluency_model: likewise, if the runs had another model for that.

        Raises:
            RunFolderError: there is no sweep, or its manifest is damaged or of a newer format.
        """
        place = SharedFolder(out)
        manifest = place.read(MANIFEST)
        if manifest is None:
            raise RunFolderError(f"There is no sweep in {place}: it has no whole {MANIFEST}.")
        return cls(place, cls.checked(manifest, place), model=model, fluency_model=fluency_model)

    @staticmethod
    def checked(manifest: dict[str, Any], place: SharedFolder) -> dict[str, Any]:
        """A manifest that was read; RunFolderError if it is none, or of a newer format."""
        if manifest.get("format") != FORMAT:
            raise RunFolderError(f"The {MANIFEST} in {place} is not one of a sweep.")
        if not isinstance(manifest.get("version"), int) or manifest["version"] > VERSION:
            raise RunFolderError(
                f"The sweep in {place} has format version {manifest.get('version')}, and this dreamy_lens reads up to "
                f"{VERSION}. Update with `pip install -U dreamy-lens`."
            )
        missing = [name for name in ("features", "settings", "seeds", "model", "mark") if name not in manifest]
        if missing:
            raise RunFolderError(f"The {MANIFEST} in {place} was altered: it has no {missing[0]}.")
        return manifest

    # Which runs there are.

    def is_done(self, task: SweepTask) -> bool:
        """Whether a run is finished and saved."""
        return self.status(task) == DONE

    def status(self, task: SweepTask) -> str:
        """Of a run: done, failed or missing."""
        return self._results.get(task.name, {}).get("status", MISSING)

    @property
    def features(self) -> list[str]:
        """The features in short."""
        return [self._label(number) for number in dict.fromkeys(task.feature for task in self._tasks)]

    @property
    def seeds(self) -> list[int]:
        """The seeds."""
        return list(dict.fromkeys(task.seed for task in self._tasks))

    @property
    def settings(self) -> list[str]:
        """The settings, by what is particular to each."""
        return [self._setting(number) for number in dict.fromkeys(task.setting for task in self._tasks)]

    @property
    def failed(self) -> pd.DataFrame:
        """The runs that failed: the rows of :meth:`to_pandas` with feature, settings, seed, attempts and error."""
        frame = self.to_pandas()
        return frame.loc[frame["status"] == FAILED, ["feature", "settings", "seed", "attempts", "error"]]

    def of(self, feature: Any = None, **settings: Any) -> Sweep:
        """The runs of one feature, or with some settings, or both.

        Args:
            feature: an expression or its text; None is all of them.
            **settings: what the runs' settings have to be: `population=4`, `seed=1`.

        Raises:
            SettingsError: there are none.
        """
        tasks = self._tasks
        if feature is not None:
            from dreamy_lens.features.parser import parse

            asked = parse(feature).absolute()
            tasks = [t for t in tasks if self._manifest["features"][t.feature] == str(asked)]
            if not tasks:
                raise SettingsError(f"No run here is of {asked.label}; there are: {', '.join(self.features)}.")
        for name, value in settings.items():
            there = [self._value(task, name) for task in tasks]
            tasks = [task for task, own in zip(tasks, there, strict=True) if own == value]
            if not tasks:
                raise SettingsError(f"No run here has {name}={value!r}; there are: {_listed(there)}.")
        model, fluency = self._models
        more = {"features": self._features, "model": model, "fluency_model": fluency}
        return Sweep(self._place, self._manifest, tasks=tasks, like=self, **more)

    def merged(self, feature: Any = None, **settings: Any) -> Merged:
        """The finished runs of a feature as one, with their joint frontier; see :func:`dreamy_lens.merge`.

        Args:
            feature: an expression or its text; None if all runs are of one.
            **settings: as for :meth:`of`; with none, runs of all settings are joined.
        """
        from dreamy_lens.results.merged import merge

        return merge(self.of(feature, **settings))

    def to_pandas(self) -> pd.DataFrame:
        """A row for each run, finished or not.

        Columns feature, settings, one for each setting that varies, seed, status (done, failed, missing), value and
        cross_entropy of the strongest prompt, hypervolume (all runs of a feature from one reference, so that they
        compare: the lowest value and the highest cross-entropy any of them evaluated), frontier (prompts), prompts
        (evaluated), seconds, attempts, worker, error.
        """
        import pandas as pd

        varying = list(dict.fromkeys(name for one in self._manifest["settings"] for name in one["given"]))
        references = self._references()
        rows = []
        for task in self._tasks:
            row = {"feature": self._label(task.feature), "settings": self._setting(task.setting)}
            given = self._manifest["settings"][task.setting]
            row |= {name: given["given"].get(name, given["config"].get(name)) for name in varying}
            row |= {"seed": task.seed, "status": self.status(task)}
            rows.append(row | _numbers(self._results.get(task.name, {}), references.get(task.feature)))
        columns = ["feature", "settings", *varying, "seed", "status", *_numbers({}, None)]
        return pd.DataFrame(rows, columns=list(dict.fromkeys(columns)))

    def _references(self) -> dict[int, tuple[float, float]]:
        found: dict[int, tuple[float, float]] = {}
        for task in self._done:
            value, cross_entropy = self._results[task.name]["reference"]
            low, high = found.get(task.feature, (value, cross_entropy))
            found[task.feature] = min(low, value), max(high, cross_entropy)
        return found

    def _value(self, task: SweepTask, name: str) -> Any:
        if name == "seed":
            return task.seed
        one = self._manifest["settings"][task.setting]
        found = {**one["config"], **one["given"]}
        if name not in found:
            raise SettingsError(f"There is no setting {name!r}; there are: seed, {', '.join(found)}.")
        return found[name]

    def _label(self, feature: int) -> str:
        return self._manifest["labels"][feature]

    def _setting(self, number: int) -> str:
        return label_of(self._manifest["settings"][number]["given"])

    # A sequence of the finished ones.

    def _open(self, task: SweepTask) -> Dream:
        from dreamy_lens.runs.dream import Dream

        if task not in self._opened:
            # Its text alone may not make the feature again, and this session may have it.
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
        shape = " x ".join(f"{n} {what}{'s' * (n != 1)}" for n, what in counts)
        failed = sum(self.status(task) == FAILED for task in self._tasks)
        told = f", {failed} failed" if failed else ""
        whole = f"{len(self)} of {len(self._tasks)} runs{told}: {shape}"
        return f"Sweep({whole} on {self._manifest['model']['name']}, in {self.where!r})"

    def _repr_html_(self) -> str:
        from dreamy_lens.html.escaping import escape
        from dreamy_lens.html.page import fragment

        table = self.to_pandas().drop(columns=["worker", "attempts"]).to_html(index=False, float_format="{:.4g}".format)
        return fragment(f"<p>{escape(repr(self))}</p>{table}")


def results_of(place: SharedFolder) -> dict[str, dict[str, Any]]:
    """The result of each run that has one, by its name."""
    names = [name for name in place.names(RESULTS) if name.endswith(".json")]
    found = {str(one.get("name")): one for one in place.read_all(f"{RESULTS}/{name}" for name in names).values()}
    runs = set(place.names(RUNS)) if found else set()
    return {name: one for name, one in found.items() if one.get("status") != DONE or (name in runs and _whole(one))}


def _whole(result: dict[str, Any]) -> bool:
    frontier = result.get("frontier")
    return isinstance(frontier, dict) and {"value", "cross_entropy"} <= set(frontier) and "reference" in result


def _numbers(result: dict[str, Any], reference: tuple[float, float] | None) -> dict[str, Any]:
    """A result's part of a row."""
    from dreamy_lens.results.pareto import hypervolume

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
