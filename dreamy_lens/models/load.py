"""Load models: the embedded one, any Hugging Face id or folder, or one the user already has."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamy_lens.errors import ModelError, TokenizerError
from dreamy_lens.models.names import EMBEDDED_NAME

if TYPE_CHECKING:
    from dreamy_lens.models.hooked_model import HookedModel

# Two threads that ask for one model at once get the same one.
_WRAPPING = threading.RLock()
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "vocab.txt")


def load_model(name: str | Path | None = None, *, device: Any = None, dtype: Any = None, **options: Any) -> Any:
    """Load a model with hook points.

    Args:
        name: a Hugging Face id, or a local folder with model and tokenizer; None, or "embedded", is the embedded model,
            which needs no network: a GPT-NeoX of 5.5 M parameters trained on Python's documentation.
        device: any torch device; default: the first GPU if there is one.
        dtype: a torch dtype or its name; default: float32.
        **options: passed on to `TransformerBridge.boot_transformers`, such as `revision=` or `trust_remote_code=`.

    Returns:
        A `transformer_lens` `TransformerBridge` in evaluation mode. A folder's is called by its absolute path, so that
        it is found again from any working folder.

    Raises:
        ModelError: there is no such model, device or dtype, or the model cannot be loaded.
        TokenizerError: the folder has no tokenizer.

    >>> model = load_model()
    >>> model.cfg.n_layers, model.cfg.d_model
    (6, 224)
    """
    import torch
    from transformer_lens.model_bridge import TransformerBridge

    embedded = name is None or name == EMBEDDED_NAME
    source = _embedded_folder() if embedded else _checked_source(str(name))
    dtype, device = _checked_dtype(dtype), _checked_device(device)
    try:
        with _quiet_progress():
            bridge = TransformerBridge.boot_transformers(source, device=device, dtype=dtype or torch.float32, **options)
    except Exception as error:
        if Path(source).exists():
            raise ModelError(f"The folder {source!r} cannot be loaded as a Hugging Face model: {error}") from error
        raise ModelError(
            f"{source!r} is neither a local folder nor a model that could be loaded from the Hugging Face Hub: "
            f"{str(error).rstrip('.')}. There is no such folder in {str(Path.cwd())!r}{_if_offline()}. The embedded "
            "model needs no network: load_model()."
        ) from error
    bridge.eval()
    if embedded:
        bridge.cfg.default_prepend_bos = True  # every document it was trained on follows the end-of-text token
        bridge.cfg.model_name = EMBEDDED_NAME
    return bridge


def as_hooked(model: Any = None, *, device: Any = None, dtype: Any = None) -> HookedModel:
    """Return a :class:`~dreamy_lens.models.hooked_model.HookedModel` for whatever users pass as `model`.

    The embedded model is loaded once, and one bridge or backend gives one HookedModel however often it is asked for.

    Args:
        model: None (the embedded model), a Hugging Face id or folder, a bridge, a backend (an object that derives from
            :class:`~dreamy_lens.models.backend.Backend`), or a HookedModel.
        device: device of a model that is loaded by name; default: as for :func:`load_model`.
        dtype: precision of a model that is loaded by name; default: as for :func:`load_model`.

    Raises:
        ModelError: it cannot be loaded, or is nothing that can be hooked.
    """
    from dreamy_lens.models.hooked_model import HookedModel

    if isinstance(model, HookedModel):
        return model
    if model is None or isinstance(model, (str, Path)):
        embedded = model is None or str(model) == EMBEDDED_NAME
        if embedded and device is None and dtype is None:
            with _WRAPPING:
                return _embedded()
        return wrap(load_model(model, device=device, dtype=dtype), EMBEDDED_NAME if embedded else str(model))
    with _WRAPPING:
        cached = getattr(model, "_dreamy_lens_access", None)
        if cached is not None and cached.source is model:
            return cached
        hooked = wrap(model)
        with contextlib.suppress(Exception):  # a model that takes no attributes is wrapped anew each time
            object.__setattr__(model, "_dreamy_lens_access", hooked)
        return hooked


def wrap(model: Any, name: str | None = None) -> HookedModel:
    """Make a new HookedModel of a bridge or of a backend.

    Args:
        model: a bridge, or an object that derives from :class:`~dreamy_lens.models.backend.Backend`.
        name: how results refer to a bridge; default: its own name. A backend says its name itself.

    Raises:
        ModelError: it is nothing that can be hooked.
    """
    from dreamy_lens.models.backend import Backend
    from dreamy_lens.models.hooked_model import HookedModel
    from dreamy_lens.models.transformer_lens_backend import TransformerLensBackend

    return HookedModel(model if Backend in type(model).__mro__ else TransformerLensBackend(model, name))


@lru_cache(maxsize=1)
def _embedded() -> HookedModel:
    return wrap(load_model(), EMBEDDED_NAME)


def _embedded_folder() -> str:
    from dreamy_lens.models.embedded import FOLDER

    if not (FOLDER / "model.safetensors").is_file():
        raise ModelError(
            f"The embedded model's weights are missing from {FOLDER}: the installation is incomplete. Install the "
            "package again, or train the model: python -m training.train --out FOLDER."
        )
    return str(FOLDER)


def _checked_source(source: str) -> str:
    """The Hub id as it is, or the folder's absolute path; an error if it can be neither."""
    folder = Path(source).expanduser()
    if not folder.exists():
        reason = _why_no_hub_id(source)
        if reason is not None:
            raise ModelError(f"There is no folder {source!r} (working folder: {Path.cwd()}){reason}.")
        return source
    if not folder.is_dir():
        raise ModelError(f"{source!r} is a file; name the folder that holds the model: {str(folder.parent)!r}?")
    if not (folder / "config.json").is_file():
        raise ModelError(f"The folder {source!r} has no config.json, so it is not a Hugging Face model folder.")
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise TokenizerError(
            f"The folder {source!r} has a model but no tokenizer (looked for {', '.join(_TOKENIZER_FILES)}). "
            "Save the tokenizer beside the model: tokenizer.save_pretrained(folder)."
        )
    return os.path.abspath(folder)


def _why_no_hub_id(source: str) -> str | None:
    """The rest of a sentence about why the Hub need not be asked for a name, or None if it must be."""
    if source.startswith((".", "/", "~")) or source.count("/") > 1:
        return ""
    # The Hub has more rules, and its client knows them; these tell typed text and paths of other systems from ids.
    if not re.fullmatch(r"([\w.-]+/)?[\w.-]{1,96}", source):
        return ", and a model of the Hugging Face Hub cannot be called so: its id is like 'owner/name'"
    return None


def _if_offline() -> str:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE"):
            return f", and of the Hub only the cache was searched, because {name} is set"
    return ""


def _checked_dtype(dtype: Any) -> Any:
    import torch

    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if found is not None and isinstance(found, torch.dtype) and found.is_floating_point:
        return found
    if dtype is None:
        return None
    raise ModelError(f"{dtype!r} is not a torch dtype that a model can have; use 'float32', 'bfloat16' or 'float16'.")


def _checked_device(device: Any) -> Any:
    import torch

    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        there = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
        reason = str(error).split("\n")[0]
        raise ModelError(
            f"There is no device {device!r} here; there is {', '.join(['cpu', *there])} ({reason})"
        ) from None
    return device


@contextlib.contextmanager
def _quiet_progress() -> Iterator[None]:
    """Silence transformers' progress bar over weights; a script that wants one bar should see one bar."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
