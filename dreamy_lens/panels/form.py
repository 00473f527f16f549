"""The feature browser's form: a model, its hook points, a feature, the settings of a run."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from dreamy_lens.errors import DreamyLensError, FeatureSyntaxError
from dreamy_lens.features import expressions as ex
from dreamy_lens.features.binding import bind
from dreamy_lens.features.parser import parse
from dreamy_lens.models.hook_points import hook_points
from dreamy_lens.models.load import EMBEDDED_NAME, as_hooked
from dreamy_lens.panels import bundle, settings
from dreamy_lens.runs.model_thread import ModelThread

if TYPE_CHECKING:
    from dreamy_lens.models.hooked_model import HookedModel

LOG = logging.getLogger("dreamy_lens")


class FeatureForm(anywidget.AnyWidget):
    """Choose a model, a hook point and a feature, and have it checked as it is typed.

    Whatever needs a model happens in the form's own ModelThread, or in the thread of a run that has the model.

    Args:
        where: has a function run where a model may be used, and returns its result.
        start: starts runs of (feature, model, settings); called in the form's thread.
    """

    _esm = bundle.view_module("browser")
    _css = bundle.view_stylesheet("browser")
    live = traitlets.Bool(True).tag(sync=True)
    models = traitlets.List().tag(sync=True)
    model = traitlets.Unicode("").tag(sync=True)
    about = traitlets.Unicode("").tag(sync=True)
    loading = traitlets.Unicode("").tag(sync=True)
    model_error = traitlets.Unicode("").tag(sync=True)
    hooks = traitlets.List().tag(sync=True)
    shapes = traitlets.Dict(allow_none=True, default_value=None).tag(sync=True)
    fields = traitlets.List().tag(sync=True)
    # What the view writes: its fields as they are, so that a second view of the form, or a page that is opened again,
    # shows the same.
    expression = traitlets.Unicode("").tag(sync=True)
    typed = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        where: Callable[[Any, Callable[[], Any]], Any],
        start: Callable[[ex.Feature, Any, dict[str, Any]], None],
    ) -> None:
        self._where, self._start = where, start
        self._thread, self._lock = ModelThread(self), threading.Lock()
        self._models: dict[str, HookedModel] = {}
        self._shapes: dict[str, dict[str, Any]] = {}
        self._own: set[str] = set()
        self._newest: Any = None
        self.hooked: HookedModel | None = None
        super().__init__(models=[EMBEDDED_NAME], fields=[field.to_dict() for field in settings.form_fields()])
        self.on_msg(self._hear)

    def use(self, model: Any) -> None:
        """Look at a model from now on; it is loaded in the background.

        Args:
            model: a bridge, a HookedModel, a name of `models`, a Hugging Face id or folder; None is the embedded one.
        """
        name = str(model).strip() if isinstance(model, str) else EMBEDDED_NAME if model is None else ""
        self.loading, self.model_error = name or "the model", ""
        self._thread.ask(lambda: self._guarded(lambda: self._use(name, model)))

    def wait(self, timeout: float | None = None) -> FeatureForm:
        """Wait until everything asked for until now has been answered."""
        self._thread.ask(lambda: None).result(timeout)
        return self

    def close(self) -> None:
        """Take the form away, and let its models go: ipywidgets may keep what it once showed."""
        super().close()
        self._models.clear()
        self.hooked = None

    def _use(self, name: str, model: Any) -> None:
        try:
            hooked = as_hooked(self._models.get(name, name) if name else model)
        except DreamyLensError as error:
            self.model_error = str(error)
            return
        finally:
            self.loading = ""
        if not name:
            self._own.add(hooked.name)
        self._models[hooked.name] = hooked
        self.hooked = hooked
        config, size = hooked.bridge.cfg, hooked.vocabulary.size
        parts = [f"{hooked.n_layers} layers", f"width {config.d_model}", f"{size:,} tokens"]
        parts += [f"context {hooked.n_ctx:,}"] * bool(hooked.n_ctx)
        names = hooked.hook_names()
        with self.hold_sync():
            self.shapes = self._shapes.get(hooked.name)
            self.hooks = [[name, str(ex.Hook(name))] for name in names]
            self.models = list(dict.fromkeys([*self.models, hooked.name]))
            self.about = " · ".join([*parts, f"{len(names)} hook points", str(hooked.device)])
            self.model = hooked.name
        if self.shapes is None:  # which takes a few passes: a while on a large model
            found = self._where(hooked, lambda: hook_points(hooked))
            shapes = {point.name: None if point.shape is None else list(point.shape) for point in found}
            self._shapes[hooked.name] = self.shapes = shapes

    def _hear(self, widget: Any, message: Any, buffers: Any = None) -> None:
        """A message came; nothing waits here, for it came on whatever thread the notebook chose."""
        kind = message.get("type") if isinstance(message, dict) else None
        if kind == "load":
            self.use(str(message.get("name", "")).strip() or EMBEDDED_NAME)
        elif kind == "check":
            with self._lock:
                self._newest = message.get("id")
            self._thread.ask(lambda: self._guarded(lambda: self._check(message)))
        elif kind == "start":
            self._thread.ask(lambda: self._guarded(lambda: self._begin(message), "started", message.get("id")))

    def _guarded(self, function: Callable[[], Any], kind: str = "notice", number: Any = None) -> None:
        try:
            function()
        except Exception as error:  # of a model or of a user's function; a view must say something
            LOG.exception("The feature browser could not do what it was asked for")
            self.send({"type": kind, "id": number, "error": f"{type(error).__name__}: {error}"})

    def _check(self, message: dict[str, Any]) -> None:
        number, text, typed = message.get("id"), str(message.get("text", "")), dict(message.get("typed") or {})
        if number != self._newest:  # something newer was typed
            return
        answer: dict[str, Any] = {"type": "checked", "id": number, "ok": False, "said": "", "error": "", "python": ""}
        try:
            bound = self._bound(text)
            answer |= {"ok": True, "said": bound.feature.label}
        except DreamyLensError as error:
            answer["error"] = str(error)
            if isinstance(error, FeatureSyntaxError):
                answer["at"] = error.position
        try:
            known = settings.arguments(typed)
            answer["settings_error"] = ""
            if answer["ok"]:
                answer["python"] = settings.python_call(text.strip(), self._python_model(), typed)
                answer["count"] = len(known.get("seeds", [0]))
        except DreamyLensError as error:
            answer["settings_error"] = str(error)
        self.send(answer)

    def _bound(self, text: str) -> Any:
        feature, hooked = parse(text), self.hooked
        if hooked is None:
            raise DreamyLensError("No model is loaded yet.")
        return self._where(hooked, lambda: bind(feature, hooked))

    def _begin(self, message: dict[str, Any]) -> None:
        number, error = message.get("id"), ""
        try:
            known = settings.arguments(dict(message.get("typed") or {}))
            feature, hooked = parse(str(message.get("text", ""))), self.hooked
            if hooked is None:
                raise DreamyLensError("No model is loaded yet.")
            self._where(hooked, lambda: self._start(feature, hooked, known))
        except DreamyLensError as caught:
            error = str(caught)
        self.send({"type": "started", "id": number, "error": error})

    def _python_model(self) -> str:
        """How the present model is written in Python."""
        name = self.hooked.name if self.hooked is not None else EMBEDDED_NAME
        return "model" if name in self._own else "" if name == EMBEDDED_NAME else repr(name)
