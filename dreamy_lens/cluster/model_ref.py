"""References to models that can be sent to workers, and the pickler that turns objects into bytes."""

from __future__ import annotations

import contextvars
import functools
import importlib
import io
import pickle
import sys
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamy_lens.errors import ModelError, SettingsError, quoted
from dreamy_lens.models.embedded import EMBEDDED_NAME
from dreamy_lens.models.load import as_hooked
from dreamy_lens.models.names import located


@dataclass(frozen=True)
class ModelRef:
    """Reference to a model: by its name, or as an object in memory.

    Attributes:
        name: Hugging Face id, absolute path of a folder, or "embedded"; for an object in memory, the model's own name.
        dtype: Precision of a model that is loaded by name; None is float32.
        digest: Digest of the weights of an object in memory; None for a model that is loaded by name.
        model: Object in memory of this process, or None.
        data: Bytes of the object, for other processes, or None.
    """

    name: str
    dtype: str | None = None
    digest: str | None = None
    model: Any = None
    data: bytes | None = None

    @classmethod
    def of(cls, model: Any, dtype: Any = None) -> ModelRef:
        """Return a reference to a model.

        Args:
            model: Model as users give it: None for the embedded model, a Hugging Face id, a folder, or a bridge.
            dtype: Precision of a model that is loaded by name; None is float32.

        Raises:
            ModelError: The object is not a model that can be hooked.
            SettingsError: A dtype is given for a model that is already in memory.
        """
        if model is None or isinstance(model, (str, Path)):
            name = EMBEDDED_NAME if model is None else located(str(model))
            return cls(name, None if dtype is None else str(dtype).removeprefix("torch."))
        if dtype is not None:
            raise SettingsError(
                f"dtype is {quoted(dtype)}, but the model is in memory already, with a dtype of its own. Leave out "
                "dtype=, or give the model by its Hugging Face id or folder."
            )
        from dreamy_lens.scan.fingerprint import model_digest

        hooked = as_hooked(model)
        return cls(hooked.name, None, model_digest(hooked), hooked.source)

    def packed(self) -> ModelRef:
        """Return a reference for another process, in which an object in memory has become bytes.

        Raises:
            ModelError: The object cannot be sent.
        """
        if self.model is None:
            return self
        try:
            data = dumps(self.model)
        except Exception as error:
            raise ModelError(
                f"The model {self.name!r} is an object in memory that cannot be sent to workers ({error}). Give its "
                "Hugging Face id or folder instead, which every worker loads by itself; save_pretrained(folder) of the "
                "Hugging Face model and of its tokenizer makes such a folder."
            ) from error
        return ModelRef(self.name, None, self.digest, None, data)

    def loaded(self, device: str | None = None) -> Any:
        """Return the model in this process, as a HookedModel.

        Args:
            device: Device of a model that is loaded by name; None is the first GPU if there is one.

        Raises:
            ModelError: The model cannot be loaded.
        """
        if self.model is not None:
            return as_hooked(self.model)
        if self.data is not None:
            return as_hooked(_loads(self.data, self.name))
        if self.name == EMBEDDED_NAME and self.dtype is None:
            embedded = as_hooked(None)
            if device in (None, embedded.device.type):
                return embedded
        return as_hooked(self.name, device=device, dtype=self.dtype)

    @property
    def identity(self) -> dict[str, Any]:
        """Name, dtype and digest, which together identify the model, as JSON values."""
        return {"name": self.name, "dtype": self.dtype, "digest": self.digest}


def _loads(data: bytes, name: str) -> Any:
    try:
        return pickle.loads(data)
    except Exception as error:
        raise ModelError(
            f"The model {name!r}, an object in memory, cannot be unpacked by a worker ({error}). Give "
            "its Hugging Face id or folder; or move it to the CPU first, if workers have no GPU (gpus_per_worker=)."
        ) from error


def dumps(value: Any) -> bytes:
    """Return an object, including its functions, as bytes that `pickle.loads` reads where dreamy_lens is installed.

    A model that has been used holds two things that pickle cannot handle by itself: weak references from hooks to their
    modules, and a context variable of transformers. The pickler rebuilds the former and sends the latter by its name.
    """
    file = io.BytesIO()
    _pickler()(file, protocol=5).dump(value)
    return file.getvalue()


@functools.cache
def _pickler() -> type:
    from dreamy_lens.cluster.ray_cluster import import_ray

    import_ray()
    from ray import cloudpickle  # pyright: ignore

    class Pickler(cloudpickle.CloudPickler):  # pyright: ignore
        def reducer_override(self, obj: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
            if type(obj) in (weakref.ProxyType, weakref.CallableProxyType):
                return weakref.proxy, (obj.__str__.__self__,)
            if _is_context(obj):
                return _named(obj)
            return super().reducer_override(obj)

    return Pickler


def _is_context(obj: Any) -> bool:
    """Return whether an object is a context variable or an instance that holds one."""
    if isinstance(obj, (type, type(sys))):
        return False
    attributes = getattr(obj, "__dict__", None)
    values = attributes.values() if isinstance(attributes, dict) else ()
    return isinstance(obj, contextvars.ContextVar) or any(isinstance(v, contextvars.ContextVar) for v in values)


def _named(obj: Any) -> Any:
    """Return the function and the arguments with which pickle finds an object by its module and name."""
    for module_name, module in list(sys.modules.items()):
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is obj:
                return global_of, (module_name, name)
    raise pickle.PicklingError(f"{obj!r} has no name in any module")


def global_of(module: str, name: str) -> Any:
    """Return an attribute of a module, both given by name."""
    return getattr(importlib.import_module(module), name)
