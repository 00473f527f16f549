"""Form of the feature browser: a model, its hook points, a feature, and the settings of a run."""

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
from dreamy_lens.features.sae.names import is_unknown
from dreamy_lens.models.embedded import EMBEDDED_NAME
from dreamy_lens.models.hook_points import hook_points
from dreamy_lens.models.load import as_hooked
from dreamy_lens.panels import bundle, settings, units
from dreamy_lens.panels.hosts import limits_of_host
from dreamy_lens.runs.model_thread import ModelThread
from dreamy_lens.runs.python_code import model_setup, program
from dreamy_lens.scan.examples import Examples

if TYPE_CHECKING:
    from dreamy_lens.models.hooked_model import HookedModel

LOG = logging.getLogger("dreamy_lens")

STEP_SECONDS = 0.3
"""Seconds of a scan between two looks at other messages and, if a run uses the model, between two of its steps."""


class FeatureForm(anywidget.AnyWidget):
    """Form that lets you choose a model, a hook point and a feature, and checks the feature while you type.

    Functions that need a model run on the form's own ModelThread, or on that of a run that is using the model.

    Args:
        use_model: Function of a model and a function; it calls the latter where the model may be used, and returns its
            result.
        start: Function of feature, model and keywords of `dream()` that starts runs; called on the model thread.
        examples: Examples of a scan, whose windows the form shows; None is none.
        corpus: Corpus of the small scan of a layer's units; None is Python's language reference.
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
    # A unit of each hook point that was asked for, which is alive; the most selective units; the scan in progress.
    alive = traitlets.Dict().tag(sync=True)
    units = traitlets.Dict().tag(sync=True)
    scanning = traitlets.Dict().tag(sync=True)
    # The view writes its fields into these traits, so that a second view of the form, or a reopened page, has them too.
    expression = traitlets.Unicode("").tag(sync=True)
    typed = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        use_model: Callable[[Any, Callable[[], Any]], Any],
        start: Callable[[ex.Feature, Any, dict[str, Any]], None],
        examples: Examples | None = None,
        corpus: Any = None,
    ) -> None:
        self._given, self._corpus = examples, corpus
        self._scans: dict[tuple[str, str], Examples] = {}
        self._scan_wanted: object = None
        self._use_model, self._start = use_model, start
        self._thread, self._lock = ModelThread(self), threading.Lock()
        self._models: dict[str, HookedModel] = {}
        self._shapes: dict[str, dict[str, Any]] = {}
        self._own: set[str] = set()
        self._newest: Any = None
        self.hooked: HookedModel | None = None
        super().__init__(models=[EMBEDDED_NAME], fields=[field.to_dict() for field in settings.form_fields()])
        self.on_msg(self._hear)

    def use(self, model: Any) -> None:
        """Select a model; it is loaded in the background.

        Args:
            model: Bridge, HookedModel, a name in `models`, a Hugging Face id or folder; None is the embedded model.
        """
        name = str(model).strip() if isinstance(model, str) else EMBEDDED_NAME if model is None else ""
        self.loading, self.model_error = name or "the model", limits_of_host()
        self._thread.ask(lambda: self._guarded(lambda: self._select(name, model)))

    def wait(self, timeout: float | None = None) -> FeatureForm:
        """Wait until the form has answered all messages that have come so far.

        Args:
            timeout: Most seconds to wait; None waits without a limit.

        Returns:
            This form.
        """
        self._thread.ask(lambda: None).result(timeout)
        return self

    def close(self) -> None:
        """Close the form, and release its models, because ipywidgets may keep closed widgets in memory."""
        super().close()
        self._models.clear()
        self._scans.clear()
        self._scan_wanted, self.hooked = None, None

    def _select(self, name: str, model: Any) -> None:
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
        size = hooked.vocabulary.size
        parts = [f"{hooked.n_layers} layers", f"width {hooked.d_model}", f"{size:,} tokens"]
        parts += [f"context {hooked.n_ctx:,}"] * bool(hooked.n_ctx)
        names = hooked.hook_names()
        with self.hold_sync():
            self.alive, self.units, self.scanning, self._scan_wanted = {}, {}, {}, None
            self.shapes = self._shapes.get(hooked.name)
            self.hooks = [[name, str(ex.Hook(name))] for name in names]
            self.models = list(dict.fromkeys([*self.models, hooked.name]))
            self.about = " · ".join([*parts, f"{len(names)} hook points", str(hooked.device)])
            self.model = hooked.name
        if self.shapes is None:  # finding the shapes takes a few passes, which are slow on a large model
            points = self._use_model(hooked, lambda: hook_points(hooked))
            shapes = {point.name: None if point.shape is None else list(point.shape) for point in points}
            self._shapes[hooked.name] = self.shapes = shapes

    def _hear(self, widget: Any, message: Any, buffers: Any = None) -> None:
        """Queue the answer to a message; this does not wait, because the notebook may call it on any thread."""
        kind = message.get("type") if isinstance(message, dict) else None
        if kind == "load":
            self.use(str(message.get("name", "")).strip() or EMBEDDED_NAME)
        elif kind == "check":
            with self._lock:
                self._newest = message.get("id")
            self._thread.ask(lambda: self._guarded(lambda: self._check(message)))
        elif kind == "alive":
            self._thread.ask(lambda: self._guarded(lambda: self._suggest(str(message.get("hook", "")))))
        elif kind == "scan":
            self._thread.ask(lambda: self._guarded(lambda: self._scan_units(str(message.get("text", "")))))
        elif kind == "cancel":
            self._scan_wanted = None  # at once: the scan looks at it between two steps
        elif kind == "start":
            self._thread.ask(lambda: self._guarded(lambda: self._begin(message), "started", message.get("id")))

    def _guarded(self, function: Callable[[], Any], kind: str = "notice", number: Any = None) -> None:
        try:
            function()
        except Exception as error:  # a model or a user's function may raise anything, and the view must report it
            LOG.exception("The feature browser could not answer a message.")
            self.send({"type": kind, "id": number, "error": f"{type(error).__name__}: {error}"})

    def _check(self, message: dict[str, Any]) -> None:
        number, text, typed = message.get("id"), str(message.get("text", "")), dict(message.get("typed") or {})
        if number != self._newest:  # the user has typed more since
            return
        answer: dict[str, Any] = {"type": "checked", "id": number, "ok": False, "said": "", "error": "", "python": ""}
        try:
            feature = parse(text)
            if any(isinstance(node, ex.Latent) and is_unknown(node.sae) for node in feature.walk()):
                # What is typed may be half a name: nothing is downloaded before the user starts the run.
                answer |= {"ok": True, "said": f"{feature.long_label}, which is downloaded when you start"}
            else:
                bound = self._bound(text)
                answer |= {"ok": True, "said": bound.feature.long_label, **self._windows(bound.feature)}
        except DreamyLensError as error:
            answer["error"] = str(error)
            if isinstance(error, FeatureSyntaxError):
                answer["at"] = error.position
        try:
            keywords = settings.arguments(typed)
            answer["settings_error"] = ""
            if answer["ok"]:
                model, several = self._python_model(), len(keywords.get("seeds", [0]))
                answer["python"] = settings.python_call(text.strip(), model, typed)
                answer["count"] = several
                setup = [model_setup(self.model)] if model == "model" else []
                answer["program"] = program(f"run{'s' * (several > 1)} = {answer['python']}", setup)
        except DreamyLensError as error:
            answer["settings_error"] = str(error)
        self.send(answer)

    # Units of a layer.

    def _suggest(self, hook: str) -> None:
        """Set the unit of a hook point that a user who has named none sees first."""
        hooked, shape = self.hooked, (self.shapes or {}).get(hook)
        if hooked is None or hook in self.alive or not shape or not isinstance(shape[-1], int):
            return
        unit = self._use_model(hooked, lambda: units.alive_unit(hooked, hook))
        if unit is not None:
            self.alive = {**self.alive, hook: unit}

    def _examples_with(self, feature: ex.Feature) -> Examples | None:
        """Return the examples that have a feature: the given ones, or those of a scan of its layer."""
        hooked = self.hooked
        if hooked is None:
            return None
        scanned = [examples for (model, _), examples in self._scans.items() if model == hooked.name]
        given = [self._given] if units.matching(self._given, hooked.name) and self._given is not None else []
        return next((examples for examples in (*given, *scanned) if feature in examples), None)

    def _windows(self, feature: ex.Feature) -> dict[str, Any]:
        """Return the top windows of a feature if a scan has them, and whether its layer can be scanned."""
        examples = self._examples_with(feature)
        scannable = units.family_of(feature, self.shapes or {}) is not None
        if examples is None:
            return {"windows": None, "scannable": scannable}
        return {
            "windows": units.window_rows(examples.of(feature)),
            "windows_from": self._origin(examples),
            "scannable": scannable,
        }

    def _origin(self, examples: Examples) -> str:
        own = examples is not self._given and self._corpus is None
        return units.describe_examples(examples, units.REFERENCE if own else None)

    def _scan_units(self, text: str) -> None:
        """Show the most selective units of the layer of a feature; scan the layer first, if no scan has it."""
        hooked, feature = self.hooked, self._bound(text).feature
        shapes: dict[str, Any] = self.shapes or {}
        family = units.family_of(feature, shapes)
        if hooked is None or family is None:
            raise DreamyLensError("Only the units of one hook point can be scanned; choose a hook point with units.")
        count = shapes[next(f.name for f in family.walk() if isinstance(f, ex.Hook))][-1]
        known = self._examples_with(feature)
        labels = [] if known is None else units.labels_of(family, known, count)
        if known is not None and len(labels) > 1:
            self._show_units(known, family, labels)
            return
        wanted = self._scan_wanted = object()
        self.scanning = {"part": 0.0, "name": family.long_label}
        try:
            scan = self._use_model(hooked, lambda: units.UnitScan(family, hooked, self._corpus))
        except BaseException:
            self.scanning = {}
            raise
        self._thread.defer(lambda: self._guarded(lambda: self._step(scan, family, hooked, count, wanted)))

    def _step(self, scan: units.UnitScan, family: ex.Feature, hooked: HookedModel, count: int, wanted: object) -> None:
        """Continue a scan for a moment, and queue its next step behind what was asked meanwhile."""
        if self._scan_wanted is not wanted:
            if self._scan_wanted is None:
                self.scanning = {}
            return
        try:
            if scan.examples is None:
                self._use_model(hooked, lambda: scan.step(STEP_SECONDS))
        except BaseException:
            self.scanning = {}
            raise
        if scan.examples is None:
            self.scanning = {"part": scan.part, "name": family.long_label}
            self._thread.defer(lambda: self._guarded(lambda: self._step(scan, family, hooked, count, wanted)))
            return
        self._scans[hooked.name, str(family)] = scan.examples
        self._show_units(scan.examples, family, units.labels_of(family, scan.examples, count))

    def _show_units(self, examples: Examples, family: ex.Feature, labels: list[str]) -> None:
        rows = units.selective_units(examples, labels)
        origin = self._origin(examples)
        with self.hold_sync():
            self.scanning = {}
            self.units = {"name": family.long_label, "from": origin, "rows": rows, "count": len(labels)}

    def _bound(self, text: str) -> Any:
        feature, hooked = parse(text), self.hooked
        if hooked is None:
            raise DreamyLensError("No model is loaded yet; choose one first.")
        return self._use_model(hooked, lambda: bind(feature, hooked))

    def _begin(self, message: dict[str, Any]) -> None:
        number, error = message.get("id"), ""
        try:
            keywords = settings.arguments(dict(message.get("typed") or {}))
            feature, hooked = parse(str(message.get("text", ""))), self.hooked
            if hooked is None:
                raise DreamyLensError("No model is loaded yet; choose one first.")
            self._use_model(hooked, lambda: self._start(feature, hooked, keywords))
        except DreamyLensError as caught:
            error = str(caught)
        self.send({"type": "started", "id": number, "error": error})

    def _python_model(self) -> str:
        """Return the selected model as a Python argument; "" is the embedded model."""
        name = self.hooked.name if self.hooked is not None else EMBEDDED_NAME
        return "model" if name in self._own else "" if name == EMBEDDED_NAME else repr(name)
