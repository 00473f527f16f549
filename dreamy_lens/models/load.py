"""Loading of models: the embedded model, a Hugging Face id or folder, or a model in memory."""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import sys
import threading
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dreamy_lens._files import why_no_path
from dreamy_lens._host import working
from dreamy_lens.errors import (
    DreamyLensError,
    ModelError,
    TokenizerError,
    misplaced,
    quoted,
    shorten,
    unknown_setting,
    warn,
)
from dreamy_lens.models import hub
from dreamy_lens.models.embedded import EMBEDDED_NAME
from dreamy_lens.models.installs import no_installs
from dreamy_lens.models.pretrained import base_of, base_revision, is_adapter, load_pretrained
from dreamy_lens.models.vocabulary import Vocabulary

if TYPE_CHECKING:
    from dreamy_lens.models.hooked_model import HookedModel

# Threads that request a model at the same time get the same HookedModel.
_WRAPPING = threading.RLock()
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "vocab.txt")
_TOKENIZER_CONFIG = "tokenizer_config.json"


def load_model(
    name: str | Path | None = None,
    *,
    device: Any = None,
    dtype: Any = None,
    adapter: str | Path | None = None,
    quantization_config: Any = None,
    **options: Any,
) -> Any:
    """Load a model with hook points.

    Args:
        name: Hugging Face id, or local folder with model and tokenizer; None or "embedded" means the embedded model,
            which needs no network: a GPT-NeoX of 5.5 M parameters trained on Python's documentation. The folder of
            an adapter of the library peft, such as LoRA, loads the model that the adapter names, with the adapter.
        device: Torch device; default: the first GPU if there is one.
        dtype: Torch dtype or its name; default: float32.
        adapter: Folder of an adapter that is merged into the weights of the model `name`.
        quantization_config: Quantisation of the weights: a configuration of transformers, such as
            `BitsAndBytesConfig(load_in_8bit=True)`.
        **options: Arguments of `TransformerBridge.boot_transformers`, such as `revision=` or `trust_remote_code=`.

    Returns:
        A `transformer_lens` `TransformerBridge` in evaluation mode. Of a model for text and images, the part for images
        may be missing, with a warning: no library may install what it lacks. The model of a folder is named by its
        absolute path, so that it can be loaded again from any working folder.

    Raises:
        ModelError: The model, device or dtype does not exist, or the model cannot be loaded.
        TokenizerError: The folder has no tokenizer.
        SettingsError: An option is none of TransformerLens, and the message names the nearest one; or it does not go
            together with an adapter or a quantisation.

    >>> model = load_model()
    >>> model.cfg.n_layers, model.cfg.d_model
    (6, 224)
    """
    embedded = name is None or name == EMBEDDED_NAME
    loading = _Loading(device, dtype, None if adapter is None else _adapter_folder(adapter), quantization_config)
    # The first call imports the libraries too, which takes as long as loading a small model: say so at once.
    first = "transformer_lens" not in sys.modules
    what = "embedded model" if embedded else f"model {quoted(name, 200)}"
    with working(f"Loading {'the libraries and ' * first}the {what}", at_once=first):
        return _boot(name, embedded, loading, options)


class _Loading(NamedTuple):
    """Choices of :func:`load_model` that change how the weights are loaded."""

    device: Any
    dtype: Any
    adapter: Path | None
    quantization: Any


def _boot(name: str | os.PathLike[str] | None, embedded: bool, loading: _Loading, options: dict[str, Any]) -> Any:
    """Load a model; see :func:`load_model`."""
    import torch
    from transformer_lens.model_bridge import TransformerBridge

    _check_options(TransformerBridge.boot_transformers, options)
    dtype, device = _checked_dtype(loading.dtype), _checked_device(loading.device)
    adapter, called = loading.adapter, None
    if not embedded and adapter is None and _names_adapter(str(name)):
        adapter = Path(os.path.abspath(Path(str(name)).expanduser()))
        source, called = _checked_source(base_of(adapter)), str(adapter)
        options = _with_revision(options, source, adapter)
    else:
        source = _embedded_folder() if embedded else _checked_source(str(name))
    unanswered = ""
    stopped: list[str] = []
    try:
        # Weights that are made in inference mode could have no gradients.
        with (
            hub.asked(source) as unanswered,
            _quiet_progress(),
            torch.inference_mode(False),
            no_installs() as stopped,
        ):
            precision = dtype or torch.float32
            if adapter is None and not Path(source).exists():
                adapter = hub.adapter_folder(source, options.get("revision"))
                if adapter is not None:
                    source, called = _checked_source(base_of(adapter)), source
                    options = {key: value for key, value in options.items() if key != "revision"}  # the adapter's own
                    options = _with_revision(options, source, adapter)
            if adapter is not None or loading.quantization is not None:
                wrapped, options = load_pretrained(source, device, precision, adapter, loading.quantization, options)
                options["hf_model"] = wrapped
            bridge = TransformerBridge.boot_transformers(source, device=device, dtype=precision, **options)
    except DreamyLensError:
        raise
    except Exception as error:
        if Path(source).exists() and not _has_tokenizer_files(source) and isinstance(error, ValueError):
            raise TokenizerError(
                f"The folder {quoted(source, 300)} has a model but no tokenizer: it has {_TOKENIZER_CONFIG}, and that "
                f"tokenizer needs more files, such as {', '.join(_TOKENIZER_FILES)}. Save it again beside the model: "
                "tokenizer.save_pretrained(folder)."
            ) from error
        if Path(source).exists():
            tried = f" It needs what {stopped[0]!r} would install; nothing was installed." if stopped else ""
            raise ModelError(
                f"The folder {quoted(source, 300)} cannot be loaded as a Hugging Face model: {error}{tried}"
            ) from error
        # The library's own sentence about a lost connection has line breaks, and a URL that is of no help here.
        reason = " ".join(str(error).split()).rstrip(".")
        if hub.is_unreachable(error):
            reason = "its cache on this machine has no such model, and the Hub did not give it"
        offline = _if_offline()
        raise ModelError(
            f"{quoted(source, 300)} is neither a local folder nor a model that could be loaded from the Hugging Face "
            f"Hub: {reason}. There is no such folder in {str(Path.cwd())!r}"
            f"{offline or unanswered}. {'' if offline else f'{hub.AT_ONCE} '}"
            "The embedded model needs no network: load_model()."
        ) from error
    if stopped:
        warn(
            f"Of {source!r} only the part for text was loaded. For the rest, TransformerLens tried to run "
            f"{stopped[0]!r}, and was stopped, because dreamy_lens lets no library install anything. "
            "Features of text need nothing more; for other uses of the model, install the package yourself.",
            RuntimeWarning,
        )
    bridge.eval()
    if Path(source).is_dir() and not _has_tokenizer_files(source):
        Vocabulary(bridge.tokenizer, bridge.cfg.d_vocab)  # an empty tokenizer is an error
    if adapter is not None:
        # An adapter gives this model again only if it names the model itself.
        bridge.cfg.model_name = called or f"{source} with the adapter {adapter}"
    if embedded:
        bridge.cfg.default_prepend_bos = True  # every document it was trained on follows the end-of-text token
        bridge.cfg.model_name = EMBEDDED_NAME
    return bridge


def _with_revision(options: dict[str, Any], source: str, adapter: Path) -> dict[str, Any]:
    """Add the revision that an adapter states of its model, unless an option names one, or the model is a folder."""
    revision = None if Path(source).is_dir() else base_revision(adapter)
    return {"revision": revision, **options} if revision is not None else options


def check_source(model: Any) -> None:
    """Raise ModelError if a model that is given by name cannot exist: a folder without a model, or no name of a model.

    Whether the Hugging Face Hub has a model is not asked. Ensembles and adapters are checked when they are loaded.

    Args:
        model: Model in any form that `model=` takes.

    >>> check_source(None)
    """
    if isinstance(model, (str, Path)) and str(model) != EMBEDDED_NAME:
        if not str(model).lstrip().startswith("ensemble(") and not _names_adapter(str(model)):
            _checked_source(str(model))


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
    if model is None or isinstance(model, (str, Path)):
        if str(model).lstrip().startswith("ensemble("):
            return _ensemble_of(str(model), device, dtype)
        embedded = model is None or str(model) == EMBEDDED_NAME
        if embedded and device is None and dtype is None:
            with _WRAPPING:
                return _embedded()
        hooked = wrap(load_model(model, device=device, dtype=dtype), EMBEDDED_NAME if embedded else str(model))
        hooked.loaded_by_name = device is None and dtype is None
        return hooked
    # After a model that is given by name, which says what it does before torch is imported.
    from dreamy_lens.models.hooked_model import HookedModel

    if isinstance(model, HookedModel):
        return model
    if wrong := misplaced(model, "a model"):
        if not hasattr(model, "hook_dict") and not hasattr(model, "hook_names"):  # neither a bridge nor a backend
            raise ModelError(f"{wrong[0].upper()}{wrong[1:]}")
    with _WRAPPING:
        cached = getattr(model, "_dreamy_lens_access", None)
        if cached is not None and cached.source is model:
            return cached
        hooked = wrap(model)
        with contextlib.suppress(Exception):  # a model that accepts no attributes is wrapped again each time
            object.__setattr__(model, "_dreamy_lens_access", hooked)
        return hooked


def _ensemble_of(name: str, device: Any, dtype: Any) -> HookedModel:
    """Load the models that the name of an ensemble states."""
    from dreamy_lens.models.ensemble import Ensemble, check_members, parts_of_name

    parts = parts_of_name(name)
    if parts is None:
        raise ModelError(f'{quoted(name)} names no ensemble; write ensemble("a", "b") with names in double quotes.')
    names, mean = parts
    check_members(len(names), name, mean)
    return wrap(Ensemble([as_hooked(each, device=device, dtype=dtype) for each in names], mean))


def wrap(model: Any, name: str | None = None) -> HookedModel:
    """Return a new HookedModel for a bridge or backend.

    Args:
        model: Bridge, or object that derives from :class:`~dreamy_lens.models.backend.Backend`.
        name: Name of a bridge in results; default: the bridge's own name. A backend always uses its own name.

    Raises:
        ModelError: The object cannot be hooked, or its configuration states something that it does not compute.
    """
    from dreamy_lens.models.backend import Backend
    from dreamy_lens.models.hooked_model import HookedModel
    from dreamy_lens.models.hooked_transformer_backend import HookedTransformerBackend
    from dreamy_lens.models.stated import check_settings, say_disagreements
    from dreamy_lens.models.transformer_lens_backend import TransformerLensBackend

    if Backend in type(model).__mro__:
        return HookedModel(model)
    # Asked of the object and not of its class: HookedTransformer does not exist in TransformerLens 4.
    own = hasattr(model, "W_E") and not hasattr(model, "original_model")
    backend = (HookedTransformerBackend if own else TransformerLensBackend)(model, name)
    settings = backend.settings()
    check_settings(backend.name, settings)
    say_disagreements(backend.name, settings, backend.tokenizer)
    return HookedModel(backend)


@lru_cache(maxsize=1)
def _embedded() -> HookedModel:
    hooked = wrap(load_model(), EMBEDDED_NAME)
    hooked.loaded_by_name = True
    return hooked


def _embedded_folder() -> str:
    from dreamy_lens.models.embedded import FOLDER

    if not (FOLDER / "model.safetensors").is_file():
        raise ModelError(
            f"The embedded model's weights are missing from {FOLDER}: the installation is incomplete. Install the "
            "package again, or train the model: python -m training.train --out FOLDER."
        )
    return str(FOLDER)


def _check_options(load: Any, options: dict[str, Any]) -> None:
    """Raise SettingsError if an option is none of the function that loads; its own error would blame the model."""
    parameters = inspect.signature(load).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    known = [name for name in parameters if name != "model_name"]  # which is the argument `name`
    for name in options:
        if name not in known:
            raise unknown_setting(name, known)


def _checked_source(source: str) -> str:
    """Return a Hub id unchanged, or a folder's absolute path; raise an error if the source can be neither."""
    if not source.strip():
        raise ModelError(
            "The name of the model is empty. Give a Hugging Face id or a folder; load_model() without a name loads the "
            "embedded model."
        )
    impossible = why_no_path(source)
    if impossible is not None:
        raise ModelError(f"{quoted(source)} cannot be a model's folder: {impossible}. Give an id or a folder.")
    folder = Path(source).expanduser()
    if not os.path.lexists(folder):
        reason = _why_no_hub_id(source)
        if reason is not None:
            raise ModelError(f"There is no folder {quoted(source, 300)} (working folder: {Path.cwd()}){reason}.")
        return source
    if not folder.is_dir():
        raise ModelError(
            f"{quoted(source, 300)} is a file; name the folder that holds the model: {str(folder.parent)!r}?"
        )
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"The folder {quoted(source, 300)} has no config.json, so it is not a Hugging Face model folder."
        )
    # Tokenizers of bytes or of code points need no file but their configuration.
    if not any((folder / name).is_file() for name in (*_TOKENIZER_FILES, _TOKENIZER_CONFIG)):
        raise TokenizerError(
            f"The folder {quoted(source, 300)} has a model but no tokenizer: neither {_TOKENIZER_CONFIG} nor any of "
            f"{', '.join(_TOKENIZER_FILES)}. Save the tokenizer beside the model: tokenizer.save_pretrained(folder)."
        )
    return os.path.abspath(folder)


def _has_tokenizer_files(folder: str) -> bool:
    """Return whether a folder has one of the files that most tokenizers need."""
    return any((Path(folder) / name).is_file() for name in _TOKENIZER_FILES)


def _names_adapter(source: str) -> bool:
    """Return whether the name of a model is that of an adapter's folder."""
    return why_no_path(source) is None and is_adapter(Path(source).expanduser())


def _adapter_folder(adapter: Any) -> Path:
    """Return the absolute path of an adapter's folder; raise ModelError if it is none."""
    impossible = why_no_path(str(adapter))
    if impossible is not None:
        raise ModelError(f"{quoted(str(adapter))} cannot be an adapter's folder: {impossible}. Give another folder.")
    folder = Path(str(adapter)).expanduser()
    if not is_adapter(folder):
        what = "There is no folder" if not folder.is_dir() else "There is no adapter_config.json in the folder"
        raise ModelError(
            f"{what} {quoted(str(adapter), 300)}, so it is no adapter of the library peft (working folder: "
            f"{Path.cwd()})."
        )
    return Path(os.path.abspath(folder))


def _why_no_hub_id(source: str) -> str | None:
    """Return the end of a sentence about why a name cannot be a Hub id, or None if it can be one."""
    if source.startswith((".", "/", "~")) or source.count("/") > 1:
        return ""
    if re.match(r"L\d+\.[A-Z]", source):
        return ", and this is a feature: the feature comes before the model, as in dream(feature, model)"
    # The Hub's client checks more rules; these only reject typed text and paths of other operating systems.
    if not re.fullmatch(r"([\w.-]+/)?[\w.-]{1,96}", source):
        prompt = ". If it is a prompt, it comes before the model" if re.search(r"\s", source) else ""
        return f", and a model of the Hugging Face Hub cannot be called so: its id is like 'owner/name'{prompt}"
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
    raise ModelError(
        f"{quoted(dtype)} is not a torch dtype that a model can have; use 'float32', 'bfloat16' or 'float16'."
    )


def _checked_device(device: Any) -> Any:
    import torch

    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        if torch.empty(0, device=device).device.type == "meta":
            raise ModelError("A model on the device 'meta' has no weights, only their shapes; use 'cpu' or a GPU.")
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
        reason = shorten(str(error).split("\n")[0], 200)
        raise ModelError(
            f"There is no device {quoted(device)} here; there is {', '.join(['cpu', *gpus])} ({reason})."
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
