"""Companions of a run in its folder, beside its record: baselines, starred prompts, and an explanation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from dreamy_lens.errors import RunFolderError, warn
from dreamy_lens.results.prompt import Prompt, PromptTools
from dreamy_lens.results.storage import read_json, write_json

if TYPE_CHECKING:
    from dreamy_lens.results.baselines import Baselines
    from dreamy_lens.results.explanation import Explanation
    from dreamy_lens.results.prompt import Provenance
    from dreamy_lens.search.config import SearchConfig

STARRED = "starred.json"
"""Name of the file in a run's folder that holds the starred prompts."""

STARS_FORMAT = "dreamy_lens starred prompts"


@dataclass
class Companions:
    """Companions of a run that are in memory.

    Attributes:
        baselines: Baselines of the run; None if none are known.
        starred: Starred prompts.
        folder: Folder in which companions were looked for; None if in none.
    """

    baselines: Baselines | None = None
    starred: list[Prompt] = field(default_factory=list)
    folder: Path | None = None


class RunCompanions:
    """Base of :class:`~dreamy_lens.runs.recorded_run.RecordedRun`.

    A folder may hold another run than when a companion was written, so each companion names the run that it belongs to,
    and one of another run is not read.
    """

    provenance: Provenance
    folder: Path | None
    _companions: Companions

    @property
    def config(self) -> SearchConfig:
        """Settings of the search."""
        raise NotImplementedError

    @property
    def identity(self) -> dict[str, Any] | None:
        """JSON values that identify the run's model and what its numbers depend on; None if they are unknown."""
        raise NotImplementedError

    @property
    def explanation(self) -> Explanation | None:
        """Explanation that :func:`dreamy_lens.explain` wrote to the run's folder; None if there is none of this run."""
        from dreamy_lens.results.explanation import STORED, Explanation

        if self.folder is None or not (self.folder / STORED).is_file():
            return None
        found, origin = Explanation.load(self.folder / STORED), self.provenance
        same = (found.feature, found.model, found.seeds) == (origin.feature, origin.model, (origin.seed,))
        return found if same else None

    @property
    def baselines(self) -> Baselines | None:
        """Baselines that :func:`dreamy_lens.baselines` measured for this run; None if there are none.

        They are saved in the run's folder. Tables and the panel of the run show the z-scores of its prompts.
        """
        self._look()
        return self._companions.baselines

    def keep_baselines(self, baselines: Baselines) -> Baselines:
        """Keep baselines with the run, write them to its folder if it has one, and return them.

        Args:
            baselines: Baselines of the run's feature, measured with its model, its length and its template.
        """
        self._look()
        self._companions.baselines = kept = replace(baselines, around=self._around)
        self.save_companions()
        return kept

    @property
    def starred(self) -> list[Prompt]:
        """Prompts that were starred in the run's panel, in the order in which they were starred.

        They are saved in the run's folder. Assign a list to star other prompts.
        """
        self._look()
        return self._companions.starred

    @starred.setter
    def starred(self, prompts: Iterable[Prompt]) -> None:
        self._look()
        self._companions.starred = list(prompts)
        self.save_companions()

    def read_companions(self) -> None:
        """Read the companions in the run's folder now, before the run gets another folder."""
        self._look()

    def save_companions(self) -> None:
        """Write baselines and starred prompts to the run's folder, if it has one."""
        from dreamy_lens.results.baselines import STORED

        if self.folder is None or not self.folder.is_dir():
            return
        if (baselines := self._companions.baselines) is not None:
            baselines.save(self.folder / STORED)
        file = self.folder / STARRED
        if self._companions.starred or file.is_file():
            prompts = [prompt.to_dict() for prompt in self._companions.starred]
            write_json(file, {"format": STARS_FORMAT, "version": 1, **self._name, "prompts": prompts})

    @property
    def _name(self) -> dict[str, Any]:
        """JSON values that tell this run from another in the same folder."""
        origin = self.provenance
        return {"feature": origin.feature, "model": origin.model, "seed": origin.seed, "around": self._around}

    @property
    def _around(self) -> str:
        """What the values of prompts depend on beside feature, model name and length: BOS, template and weights."""
        origin, identity = self.provenance, self.identity or {}
        made_of = [identity.get(name) for name in ("weights", "tokenizer", "dictionaries")]
        return str([origin.prepend_bos, list(origin.prefix), list(origin.suffix), origin.contexts, *made_of])

    def _look(self) -> None:
        """Read the companions in the folder, once for each folder, unless the run has some already."""
        found, folder = self._companions, self.folder
        if folder is None or folder == found.folder:
            return
        found.folder = folder
        try:
            if found.baselines is None:
                found.baselines = self._read_baselines(folder)
            if not found.starred:
                found.starred = self._read_stars(folder)
        except RunFolderError as error:  # the run itself is whole
            warn(f"{error} The run is used without it.", RuntimeWarning)

    def _read_baselines(self, folder: Path) -> Baselines | None:
        from dreamy_lens.results.baselines import STORED, Baselines

        if not (folder / STORED).is_file():
            return None
        found, origin = Baselines.load(folder / STORED), self.provenance
        own = (origin.feature, origin.model, self.config.length, self._around)
        return found if (found.feature, found.model, found.length, found.around) == own else None

    def _read_stars(self, folder: Path) -> list[Prompt]:
        if not (folder / STARRED).is_file():
            return []
        data = read_json(folder / STARRED, STARS_FORMAT)
        try:
            if any(data[name] != value for name, value in self._name.items()):
                return []
            tools = cast(PromptTools, self)
            return [replace(Prompt.from_dict(entry), _tools=tools) for entry in data["prompts"]]
        except (KeyError, TypeError, AttributeError) as error:
            raise RunFolderError(
                f"The file {str(folder / STARRED)!r} holds no complete starred prompts ({error!r}). Delete it, or star "
                "the prompts again."
            ) from None
