"""A run as a folder, and back."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dreamy_lens._host import versions
from dreamy_lens.errors import DreamyLensError, FeatureError, RunFolderError
from dreamy_lens.features.expressions import Feature
from dreamy_lens.features.parser import parse
from dreamy_lens.results.history import History
from dreamy_lens.results.prompt import Decoder, Prompt, Provenance
from dreamy_lens.results.storage import RUN, read_folder, write_folder
from dreamy_lens.runs.spec import RunRecord, RunSpec
from dreamy_lens.search import constraints
from dreamy_lens.search.config import EPOConfig
from dreamy_lens.search.optimizers import config_from_dict, config_to_dict
from dreamy_lens.search.steps import State

_PACKAGES = ("dreamy-lens", "torch", "transformers", "transformer-lens", "numpy")


def save(record: RunRecord, path: Path, overwrite: bool) -> None:
    """Write a run to a folder; see :meth:`Dream.save`."""
    write_folder(path, *pack(record), overwrite)


def pack(record: RunRecord) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A run as JSON values and arrays, of which :func:`unpack` makes the record again."""
    spec, state = record.spec, record.state
    arrays = record.history.arrays()
    if state is not None:
        arrays["state_population"] = state.population
        arrays["state_non_finite"] = state.non_finite
    if spec.start is not None:
        arrays["start"] = spec.start
    meta = {
        "kind": "dream",
        "provenance": record.provenance.to_dict(),
        "config": config_to_dict(spec.config),
        "constraints": [constraints.to_dict(c) for c in spec.constraints],
        "fluency_model": record.fluency_name,
        "identity": record.identity,
        "state": None if state is None else {"iteration": state.iteration, "rng": state.rng, "seconds": state.seconds},
        "texts": dict(record.texts),
        "versions": versions(*_PACKAGES),
    }
    return meta, arrays


def texts_of(prompts: Iterable[Prompt]) -> dict[str, dict[str, Any]]:
    """What a tokenizer says about prompts, by their ids, so that reading them needs no model."""
    return {
        ",".join(map(str, p.ids)): {"text": p.text, "tokens": list(p.tokens), "round_trips": p.round_trips}
        for p in prompts
    }


def check_free(path: str | os.PathLike[str]) -> None:
    """Raise RunFolderError if a new run cannot be saved there: better before a search than after it."""
    folder = Path(path)
    try:
        if folder.is_dir() and not any(folder.iterdir()):
            folder = folder.absolute()
        elif os.path.lexists(folder):
            what = "holds a run already" if (folder / RUN).is_file() else "exists and is not a run folder"
            raise RunFolderError(f"{str(folder)!r} {what}; choose another name, or delete it first.")
        # Permissions do not tell everything, so something is created beside the folder, or as near as there is a place.
        near = next(parent for parent in Path(os.path.realpath(folder)).parents if os.path.lexists(parent))
        os.rmdir(tempfile.mkdtemp(prefix=".dreamy_lens.", dir=near))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RunFolderError(
            f"The folder {str(folder)!r} cannot be created: {reason}. Name one where you may write."
        ) from error


def read(
    path: str | os.PathLike[str], model: Any = None, fluency_model: Any = None, feature: Feature | None = None
) -> tuple[RunRecord, Path]:
    """Read a run's record and the whole path of its folder; see :func:`dreamy_lens.load_run`."""
    folder = Path(path).absolute()
    return unpack(*read_folder(path), folder, model, fluency_model, feature), folder


def unpack(
    meta: dict[str, Any],
    arrays: dict[str, np.ndarray],
    folder: Path | None,
    model: Any = None,
    fluency_model: Any = None,
    feature: Feature | None = None,
) -> RunRecord:
    """The record that :func:`pack` took apart.

    Args:
        meta: JSON values of the run.
        arrays: arrays of the run.
        folder: folder that the run was saved in, or None.
        model: model to go on with; None is the one of the run's name.
        fluency_model: fluency model to go on with; None is the one of its name.
        feature: feature to go on with; None is the one of the run's text.

    Raises:
        RunFolderError: they are not what :func:`pack` gives, do not fit together, or are of another feature.
    """
    where = "The run" if folder is None else f"The run in {str(folder)!r}"
    if meta.get("kind") != "dream":
        raise RunFolderError(f"{str(folder)!r} holds {meta.get('kind')!r}, not a dream.")
    history = History.from_arrays(arrays)
    try:
        provenance = Provenance.from_dict(meta["provenance"])
        config = config_from_dict(meta["config"])
        rules = [constraints.from_dict(c) for c in meta["constraints"]]
        texts = {
            str(ids): {"text": str(t["text"]), "tokens": list(t["tokens"]), "round_trips": bool(t["round_trips"])}
            for ids, t in meta["texts"].items()
        }
        state, saved = None, meta["state"]
        if saved is not None:
            population, lost = arrays["state_population"], arrays["state_non_finite"]
            state = State(int(saved["iteration"]), population, saved["rng"], float(saved["seconds"]), lost)
        names = {"feature": provenance.feature, "model": provenance.model, "fluency model": meta["fluency_model"] or ""}
        odd = [name for name, value in names.items() if not isinstance(value, str)]
        wrong = f"its {odd[0]} is not a text" if odd else _misfit(config, history, state, arrays.get("start"))
        if wrong is None and not isinstance(meta["identity"], (dict, type(None))):
            wrong = "what tells its model from others is missing"
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, DreamyLensError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error).rstrip(".")
        raise RunFolderError(f"{where} is not whole: {reason}.") from error
    if wrong is not None:
        raise RunFolderError(f"{where} is not whole: {wrong}. Copy the folder again from a whole one.")
    if feature is not None:
        provenance = replace(provenance, feature=_same_feature(feature, provenance.feature, where))
    spec = RunSpec(feature, model, config, tuple(rules), fluency_model, arrays.get("start"))
    return RunRecord(spec, provenance, history, state, meta["identity"], meta["fluency_model"], texts)


def _misfit(config: EPOConfig, history: History, state: State | None, start: np.ndarray | None) -> str | None:
    """What does not fit together, so that nothing the search does with it can fail."""
    done, ended = -1 if state is None else state.iteration, history.iterations
    if done != ended:
        said, there = ("nothing" if end < 0 else f"iteration {end}" for end in (done, ended))
        return f"the last thing it completed is said to be {said}, and its history ends with {there}"
    if len(history.lambdas) != config.population or not np.allclose(history.lambdas, config.lambdas, rtol=1e-4):
        return f"the {len(history.lambdas)} λs of its history are not those of its settings"
    shape = (config.population, config.length)
    if len(history) and history.ids.shape[1] != config.length:
        return f"its prompts have {history.ids.shape[1]} tokens, and its settings say {config.length}"
    for what, ids in (("initial prompts", start), ("prompts without finite scores", state and state.non_finite)):
        if ids is not None and (ids.ndim != 2 or ids.dtype.kind != "i" or (len(ids) and ids.shape[1] != config.length)):
            return f"its {what} are not ids of prompts of {config.length} tokens"
    if state is None:
        return None
    if state.population.shape != shape or state.population.dtype.kind != "i":
        return f"its population has shape {list(state.population.shape)}, and its settings say {list(shape)}"
    rows = history.population[-1]
    if (rows < 0).any() or not np.array_equal(history.ids[rows], state.population):
        return "its population is not the one in which its history ends"
    if not np.isfinite(state.seconds) or state.seconds < 0:
        return f"it is said to have taken {state.seconds} seconds"
    try:
        np.random.default_rng().bit_generator.state = state.rng
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        return f"the state of its random generator is not one ({type(error).__name__}: {str(error).rstrip('.')})"
    return None


def _same_feature(given: Feature, saved: str, where: str) -> str:
    """The text of the feature that is given to go on with, if it can be the saved one.

    Objects are only told by their kind here, and files by their names, so that they may have been moved: the scores
    say the rest.
    """
    text = str(given.absolute())
    with suppress(FeatureError):  # no text can be parsed that holds an object
        if parse(saved).label == given.label:
            return text
    if saved in (text, str(given)):
        return saved
    raise RunFolderError(f"{where} is of another feature: of {saved}, and {given} was given. Give the one it is of.")


class SavedTexts:
    """The texts that were saved with a run; other prompts are read with the tokenizer of the run's model.

    Args:
        texts: text, tokens and round trip of prompts, by their ids.
        vocabulary: gives the model's tokenizer, which is loaded when a prompt is not among the texts.
    """

    def __init__(self, texts: Mapping[str, Mapping[str, Any]], vocabulary: Callable[[], Decoder]) -> None:
        self._texts, self._vocabulary = texts, vocabulary

    def with_vocabulary(self, vocabulary: Callable[[], Decoder]) -> SavedTexts:
        """The same texts for a copy of the run, which has a model of its own."""
        return SavedTexts(self._texts, vocabulary)

    def _lookup(self, ids: Iterable[int], what: str) -> Any:
        ids = [int(i) for i in ids]
        texts = self._texts.get(",".join(map(str, ids)))
        return texts[what] if texts is not None else getattr(self._vocabulary(), what)(ids)

    def text(self, ids: Iterable[int]) -> str:
        """The text that ids stand for."""
        return self._lookup(ids, "text")

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """Each token by itself."""
        return self._lookup(ids, "tokens")

    def round_trips(self, ids: Iterable[int]) -> bool:
        """Whether the text of a prompt encodes to the very same ids."""
        return self._lookup(ids, "round_trips")
