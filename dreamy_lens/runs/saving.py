"""Write a run to a folder, and read it back."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dreamy_lens._files import FAILURES, check_folder_name, check_writable, expanded, failure_of
from dreamy_lens._host import versions
from dreamy_lens.errors import DreamyLensError, FeatureError, FileWriteError, RunFolderError, misplaced, quoted
from dreamy_lens.features.expressions import Feature
from dreamy_lens.features.parser import feature_names, parse
from dreamy_lens.results.history import History
from dreamy_lens.results.prompt import Decoder, Prompt, Provenance
from dreamy_lens.results.storage import RUN, read_folder, write_folder
from dreamy_lens.runs.spec import RunRecord, RunSpec
from dreamy_lens.search import constraint_kinds
from dreamy_lens.search.config import SearchConfig
from dreamy_lens.search.optimizers import config_from_dict, config_to_dict
from dreamy_lens.search.steps import State

_MEMORY = "memory_"
"""Beginning of the names of the arrays that an optimiser remembers."""
_PACKAGES = ("dreamy-lens", "torch", "transformers", "transformer-lens", "numpy")


def save_record(record: RunRecord, path: Path, overwrite: bool, own: bool = False) -> None:
    """Write the record of a run to a folder; see :meth:`Dream.save`.

    Args:
        record: Record of the run.
        path: Folder to write.
        overwrite: Whether to replace another run in the folder.
        own: Whether to replace this run in the folder, if it has not been continued further there.

    Raises:
        RunFolderError: The folder holds something that must stay, or cannot be written.
    """
    meta, arrays = pack_record(record)

    def check(old_meta: dict[str, Any], old_arrays: dict[str, np.ndarray]) -> None:
        _check_own(old_meta, old_arrays, record.history, path)

    write_folder(path, meta, arrays, overwrite or own, None if overwrite else check)


def _check_own(meta: dict[str, Any], arrays: dict[str, np.ndarray], history: History, path: Path) -> None:
    """Raise RunFolderError unless a run in a folder is an earlier point of a history.

    Args:
        meta: JSON values of the run in the folder.
        arrays: Arrays of the run in the folder.
        history: History that will replace it.
        path: The folder.
    """
    try:
        saved = History.from_arrays(arrays)
    except DreamyLensError:  # not readable as a run, so nothing is lost
        return
    common = min(len(saved), len(history))
    names = ("ids", "value", "cross_entropy", "iteration")
    is_same = meta.get("kind") == "dream" and all(
        np.array_equal(getattr(saved, name)[:common], getattr(history, name)[:common], equal_nan=name != "ids")
        for name in (names if common else ())
    )
    if is_same and saved.iterations <= history.iterations:
        return
    what = (
        f"holds a longer continuation of this run, with {saved.iterations} iterations instead of {history.iterations}"
        if is_same
        else "holds another run now"
    )
    raise RunFolderError(
        f"{str(path)!r} {what}, which another process saved there. Save into another folder, or replace it with "
        "save(folder, overwrite=True)."
    )


def pack_record(record: RunRecord) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return a record as JSON values and arrays, from which :func:`unpack_record` makes the record again."""
    spec, state = record.spec, record.state
    arrays = record.history.arrays()
    if state is not None:
        arrays["state_population"] = state.population
        arrays["state_non_finite"] = state.non_finite
        arrays |= {f"{_MEMORY}{name}": array for name, array in state.memory.items()}
    if spec.start is not None:
        arrays["start"] = spec.start
    meta = {
        "kind": "dream",
        "provenance": record.provenance.to_dict(),
        "config": config_to_dict(spec.config),
        "constraints": [constraint_kinds.to_dict(c) for c in spec.constraints],
        "fluency_model": record.fluency_name,
        "identity": record.identity,
        "state": None if state is None else {"iteration": state.iteration, "rng": state.rng, "seconds": state.seconds},
        "texts": dict(record.texts),
        "versions": versions(*_PACKAGES),
    }
    return meta, arrays


def texts_of(prompts: Iterable[Prompt]) -> dict[str, dict[str, Any]]:
    """Return text, tokens and round trip of prompts by their ids, so that reading the prompts needs no tokenizer."""
    return {
        ",".join(map(str, p.ids)): {"text": p.text, "tokens": list(p.tokens), "round_trips": p.round_trips}
        for p in prompts
    }


def check_name(path: str | os.PathLike[str]) -> None:
    """Check that the name of a run's folder does not end like that of a file.

    Args:
        path: Folder in which the run will be saved.

    Raises:
        RunFolderError: The folder does not exist, and its name ends like that of a file.
    """
    try:
        check_folder_name(path, "a run", "run.to_html(path) writes pages, run.frontier.save(path) pictures and tables.")
    except FileWriteError as error:
        raise RunFolderError(str(error)) from None


def check_free(path: str | os.PathLike[str]) -> None:
    """Check before a search that a new run can be saved in a folder.

    Args:
        path: Folder in which the run will be saved.

    Raises:
        RunFolderError: The folder is taken, or cannot be created.
    """
    check_name(path)
    folder = expanded(path)
    try:
        place = folder
        if folder.is_dir() and not any(folder.iterdir()):
            place = folder.absolute().parent
        elif os.path.lexists(folder):
            if (folder / RUN).is_file():
                raise RunFolderError(
                    f"{str(folder)!r} already holds a run; choose another name, delete it first, or continue the run "
                    "in it: load_run(path).resume()."
                )
            raise RunFolderError(
                f"{str(folder)!r} exists and is not a run folder; choose another name, or delete it first."
            )
        check_writable(place)
    except FAILURES as error:
        raise RunFolderError(f"The folder {str(folder)[:300]!r} cannot be created: {failure_of(error)}") from error


def read_record(
    path: str | os.PathLike[str], model: Any = None, fluency_model: Any = None, feature: Feature | None = None
) -> tuple[RunRecord, Path]:
    """Read the record of a run, and return it with the absolute path of its folder; see :func:`dreamy_lens.load_run`.

    Args:
        path: Folder of the run.
        model: Model with which the run continues; None is the model that the run names.
        fluency_model: Fluency model with which the run continues; None is the one that the run names.
        feature: Feature with which the run continues; None parses the feature's saved text.

    Raises:
        RunFolderError: The folder is not that of a run, is damaged, or belongs to another feature.
    """
    if not isinstance(path, (str, os.PathLike)):
        given = misplaced(path, "the folder of a run") or f"{quoted(path)} is not the folder of a run."
        raise RunFolderError(f"{given[0].upper()}{given[1:]}")
    folder = expanded(path).absolute()
    return unpack_record(*read_folder(path), folder, model, fluency_model, feature), folder


def unpack_record(
    meta: dict[str, Any],
    arrays: dict[str, np.ndarray],
    folder: Path | None,
    model: Any = None,
    fluency_model: Any = None,
    feature: Feature | None = None,
) -> RunRecord:
    """Make a record from the JSON values and arrays that :func:`pack_record` returned.

    Args:
        meta: JSON values of the run.
        arrays: Arrays of the run.
        folder: Folder in which the run was saved, or None.
        model: Model with which the run continues; None is the model that the run names.
        fluency_model: Fluency model with which the run continues; None is the one that the run names.
        feature: Feature with which the run continues; None parses the feature's saved text.

    Raises:
        RunFolderError: The values do not come from :func:`pack_record`, or contradict each other or the given feature.
    """
    where = "The run" if folder is None else f"The run in {str(folder)!r}"
    if meta.get("kind") != "dream":
        raise RunFolderError(f"{str(folder)!r} holds a {meta.get('kind')!r}, not a dream; give the folder of a run.")
    history = History.from_arrays(arrays)
    try:
        provenance = Provenance.from_dict(meta["provenance"])
        config = config_from_dict(meta["config"])
        rules = [constraint_kinds.from_dict(c) for c in meta["constraints"]]
        texts = {
            str(ids): {"text": str(t["text"]), "tokens": list(t["tokens"]), "round_trips": bool(t["round_trips"])}
            for ids, t in meta["texts"].items()
        }
        state, saved = None, meta["state"]
        if saved is not None:
            population, lost = arrays["state_population"], arrays["state_non_finite"]
            memory = {name.removeprefix(_MEMORY): a for name, a in arrays.items() if name.startswith(_MEMORY)}
            state = State(int(saved["iteration"]), population, saved["rng"], float(saved["seconds"]), lost, memory)
        names = {"feature": provenance.feature, "model": provenance.model, "fluency model": meta["fluency_model"] or ""}
        odd = [name for name, value in names.items() if not isinstance(value, str)]
        problem = f"its {odd[0]} is not a text" if odd else _contradiction(config, history, state, arrays.get("start"))
        if problem is None and not isinstance(meta["identity"], (dict, type(None))):
            problem = "the identity of its model is missing"
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, DreamyLensError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error).rstrip(".")
        raise RunFolderError(f"{where} is damaged: {reason}. Copy the folder again from an intact one.") from error
    if problem is not None:
        raise RunFolderError(f"{where} is damaged: {problem}. Copy the folder again from an intact one.")
    if feature is not None:
        provenance = replace(provenance, feature=_same_feature(feature, provenance.feature, where))
    spec = RunSpec(feature, model, config, tuple(rules), fluency_model, arrays.get("start"))
    return RunRecord(spec, provenance, history, state, meta["identity"], meta["fluency_model"], texts)


def _contradiction(config: SearchConfig, history: History, state: State | None, start: np.ndarray | None) -> str | None:
    """Return a contradiction between the parts of a saved run, or None if the search can rely on them."""
    completed, ended = -1 if state is None else state.iteration, history.iterations
    if completed != ended:
        in_state, in_history = ("no iteration" if end < 0 else f"iteration {end}" for end in (completed, ended))
        return f"its state has completed {in_state}, but its history ends with {in_history}"
    if len(history.lambdas) != len(config.lambdas) or not np.allclose(history.lambdas, config.lambdas, rtol=1e-4):
        return f"the {len(history.lambdas)} λs of its history are not those of its settings"
    shape = (len(config.lambdas), config.length)
    if len(history) and history.ids.shape[1] != config.length:
        return f"its prompts have {history.ids.shape[1]} tokens, but its settings say {config.length}"
    for name, ids in (("initial prompts", start), ("prompts without finite scores", state and state.non_finite)):
        if ids is not None and (ids.ndim != 2 or ids.dtype.kind != "i" or (len(ids) and ids.shape[1] != config.length)):
            return f"its {name} are not ids of prompts of {config.length} tokens"
    if state is None:
        return None
    if state.population.shape != shape or state.population.dtype.kind != "i":
        return f"its population has shape {list(state.population.shape)}, but its settings say {list(shape)}"
    rows = history.population[-1]
    if (rows < 0).any() or not np.array_equal(history.ids[rows], state.population):
        return "its population is not the last one of its history"
    if not np.isfinite(state.seconds) or state.seconds < 0:
        return f"its duration is {state.seconds} seconds"
    try:
        if any(number < 0 for number in (*state.rng["state"].values(), state.rng["has_uint32"], state.rng["uinteger"])):
            raise ValueError("a number is negative")  # numpy 1 takes it, and only warns
        np.random.default_rng().bit_generator.state = state.rng
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        return f"the state of its random generator is invalid ({type(error).__name__}: {str(error).rstrip('.')})"
    return None


def _same_feature(given: Feature, saved: str, where: str) -> str:
    """Return the text of a given feature, if it can be the saved feature.

    Objects are compared only by their type here, and files by their names, because files may have been moved. The
    scores, which are compared later, decide the rest.
    """
    text = str(given.absolute())
    with suppress(FeatureError):  # a text that stands for an object cannot be parsed
        if parse(saved).label == given.label:
            return text
    if saved in (text, str(given)):
        return saved
    saved_name, name = feature_names(saved)[0], given.label
    if saved_name == name:  # two files of the same name in different folders
        saved_name, name = saved, text
    raise RunFolderError(f"{where} drives another feature: {saved_name}, not {name}. Give the feature of the run.")


class SavedTexts:
    """Texts that were saved with a run; other prompts are decoded with the tokenizer of the run's model.

    Args:
        texts: Text, tokens and round trip of prompts, by their ids.
        vocabulary: Function that returns the model's tokenizer; called for a prompt that is not among the texts.
    """

    def __init__(self, texts: Mapping[str, Mapping[str, Any]], vocabulary: Callable[[], Decoder]) -> None:
        self._texts, self._vocabulary = texts, vocabulary

    def with_vocabulary(self, vocabulary: Callable[[], Decoder]) -> SavedTexts:
        """Return these texts with another tokenizer, for a copy of the run."""
        return SavedTexts(self._texts, vocabulary)

    def has(self, ids: Iterable[int]) -> bool:
        """Return whether the text of token ids is among the saved texts."""
        return ",".join(str(int(i)) for i in ids) in self._texts

    def _lookup(self, ids: Iterable[int], name: str) -> Any:
        ids = [int(i) for i in ids]
        texts = self._texts.get(",".join(map(str, ids)))
        return texts[name] if texts is not None else getattr(self._vocabulary(), name)(ids)

    def text(self, ids: Iterable[int]) -> str:
        """Return the text of token ids."""
        return self._lookup(ids, "text")

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """Return the text of each token."""
        return self._lookup(ids, "tokens")

    def round_trips(self, ids: Iterable[int]) -> bool:
        """Return whether the text of a prompt encodes to the same ids."""
        return self._lookup(ids, "round_trips")
