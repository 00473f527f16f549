"""Loading of models: the embedded model, a Hugging Face id or folder, or a model in memory."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamy_lens._host import working
from dreamy_lens.errors import ModelError, TokenizerError
from dreamy_lens.models import hub
from dreamy_lens.models.names import EMBEDDED_NAME

if TYPE_CHECKING:
    from dreamy_lens.models.hooked_model import HookedModel

# Threads that request a model at the same time get the same HookedModel.
_WRAPPING = threading.RLock()
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "vocab.txt")


def load_model(name: str | Path | None = None, *, device: Any = None, dtype: Any = None, **options: Any) -> Any:
    """Load a model with hook points.

    Args:
        name: Hugging Face id, or local folder with model and tokenizer; None or "embedded" means the embedded model,
            which needs no network: a GPT-NeoX of 5.5 M parameters trained on Python's documentation.
        device: Torch device; default: the first GPU if there is one.
        dtype: Torch dtype or its name; default: float32.
        **options: Arguments of `TransformerBridge.boot_transformers`, such as `revision=` or `trust_remote_code=`.

    Returns:
        A `transformer_lens` `TransformerBridge` in evaluation mode. The model of a folder is named by its
        absolute path, so that it can be loaded again from any working folder.

    Raises:
        ModelError: The model, device or dtype does not exist, or the model cannot be loaded.
        TokenizerError: The folder has no tokenizer.

    >>> model = load_model()
    >>> model.cfg.n_layers, model.cfg.d_model
    (6, 224)
    """
    import torch
    from transformer_lens.model_bridge import TransformerBridge

    embedded = name is None or name == EMBEDDED_NAME
    source = _embedded_folder() if embedded else _checked_source(str(name))
    dtype, device = _checked_dtype(dtype), _checked_device(device)
    unanswered = ""
    try:
        with hub.asked(source) as unanswered, working(f"Loading the model {source[:200]!r}"), _quiet_progress():
            bridge = TransformerBridge.boot_transformers(source, device=device, dtype=dtype or torch.float32, **options)
    except Exception as error:
        if Path(source).exists():
            raise ModelError(f"The folder {source!r} cannot be loaded as a Hugging Face model: {error}") from error
        raise ModelError(
            f"{source!r} is neither a local folder nor a model that could be loaded from the Hugging Face Hub: "
            f"{str(error).rstrip('.')}. There is no such folder in {str(Path.cwd())!r}{unanswered or _if_offline()}. "
            "The embedded model needs no network: load_model()."
        ) from error
    bridge.eval()
    if embedded:
        bridge.cfg.default_prepend_bos = True  # every document it was trained on follows the end-of-text token
        bridge.cfg.model_name = EMBEDDED_NAME
    return bridge


def as_hooked(model: Any = None, *, device: Any = None, dtype: Any = None) -> HookedModel:
    """Return a :class:`~dreamy_lens.models.hooked_model.HookedModel` for a `model` argument.

    The embedded model is loaded once. Repeated calls with the same bridge or backend return the same HookedModel.

    Args:
        model: None (the embedded model), Hugging Face id or folder, bridge, backend (object that derives from
            :class:`~dreamy_lens.models.backend.Backend`), or HookedModel.
        device: Device of a model that is loaded by name; default: the default of :func:`load_model`.
        dtype: Precision of a model that is loaded by name; default: the default of :func:`load_model`.

    Raises:
        ModelError: The model cannot be loaded, or cannot be hooked.
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
        with contextlib.suppress(Exception):  # a model that accepts no attributes is wrapped again each time
            object.__setattr__(model, "_dreamy_lens_access", hooked)
        return hooked


def wrap(model: Any, name: str | None = None) -> HookedModel:
    """Return a new HookedModel for a bridge or backend.

    Args:
        model: Bridge, or object that derives from :class:`~dreamy_lens.models.backend.Backend`.
        name: Name of a bridge in results; default: the bridge's own name. A backend always uses its own name.

    Raises:
        ModelError: The object cannot be hooked.
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
    """Return a Hub id unchanged, or a folder's absolute path; raise an error if the source can be neither."""
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
    """Return the end of a sentence about why a name cannot be a Hub id, or None if it can be one."""
    if source.startswith((".", "/", "~")) or source.count("/") > 1:
        return ""
    # The Hub's client checks more rules; these only reject typed text and paths of other operating systems.
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

    checked = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if checked is not None and isinstance(checked, torch.dtype) and checked.is_floating_point:
        return checked
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
        gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
        reason = str(error).split("\n")[0]
        raise ModelError(
            f"There is no device {device!r} here; there is {', '.join(['cpu', *gpus])} ({reason})"
        ) from None
    return device


@contextlib.contextmanager
def _quiet_progress() -> Iterator[None]:
    """Hide transformers' progress bar for loading weights, so that it does not mix with a script's own progress bar."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
