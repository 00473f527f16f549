"""Feature browser: choose a model, a hook point, a unit or direction, and settings; start runs and compare them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from ipywidgets import Box, Button, Layout, VBox

from dreamy_lens.features import expressions as ex
from dreamy_lens.html.escaping import escape
from dreamy_lens.models.load import as_hooked
from dreamy_lens.panels.dream import DreamPanel
from dreamy_lens.panels.form import FeatureForm
from dreamy_lens.panels.hosts import announce_panel, display_metadata
from dreamy_lens.panels.runs import RunsPanel
from dreamy_lens.panels.units import examples_in
from dreamy_lens.runs.dream import Dream
from dreamy_lens.runs.dreams import Dreams
from dreamy_lens.runs.progress import advance
from dreamy_lens.runs.spec import RunSpec
from dreamy_lens.runs.start import new_run, side_by_side
from dreamy_lens.search.config import configs_of_seeds
from dreamy_lens.search.optimizers import as_settings

if TYPE_CHECKING:
    from dreamy_lens.models.hooked_model import HookedModel
    from dreamy_lens.scan.examples import Examples

T = TypeVar("T")


class FeatureBrowser(VBox):
    """Form for a feature, and below it the panels of the runs that were started from the form.

    Runs of one feature on one model also share a panel with their merged frontier.

    Args:
        model: Bridge, Hugging Face id or folder; None is the embedded model. It is loaded in the background.
        examples: Examples of a scan, whose windows the form shows; None is none.
        corpus: Corpus of the small scan of a layer's units; None is Python's language reference.
    """

    def __init__(self, model: Any = None, examples: Examples | None = None, corpus: Any = None) -> None:
        self._runs: list[Dream] = []
        self._boxes: dict[Dream, VBox] = {}
        self._shared: dict[tuple[str, ...], RunsPanel] = {}
        self._lock = threading.RLock()
        self.form = FeatureForm(self._use_model, self._start, examples, corpus)
        self._side = Box(layout=Layout(flex_flow="row wrap", align_items="flex-start", width="100%"))
        super().__init__([self.form, self._side])
        self.form.use(model)

    @property
    def runs(self) -> list[Dream]:
        """Runs that were started and not removed, in order."""
        with self._lock:
            return list(self._runs)

    def wait(self, timeout: float | None = None) -> FeatureBrowser:
        """Wait until the model is loaded and the form has answered all messages; runs may still go on.

        Args:
            timeout: Most seconds to wait; None waits without a limit.

        Returns:
            This browser.
        """
        self.form.wait(timeout)
        return self

    def remove(self, run: Dream) -> None:
        """Remove a run and its panel, and stop the run if it still goes on.

        Args:
            run: One of `runs`. Other runs that were started together with it go on.
        """
        with self._lock:
            if run not in self._boxes:
                return
            self._runs.remove(run)
            box = self._boxes.pop(run)
            self._arrange()
        # Runs that were started together share one worker, so only the removal of the last one stops the worker.
        if not any(other.worker is run.worker for other in self._runs):
            run.stop()
        for widget in (*box.children, box):
            widget.close()

    def close(self) -> None:
        """Stop all runs, and close the form and all panels."""
        for run in self.runs:
            self.remove(run)
        self.form.close()
        super().close()

    def __repr__(self) -> str:
        runs = "".join(f"\n  {run!r}" for run in self.runs)
        return f"FeatureBrowser({self.form.model or 'no model yet'}, {len(self.runs)} runs){runs}"

    def _repr_mimebundle_(self, **keywords: Any) -> Any:
        """Add what a saved notebook shows of the browser, which needs a kernel."""
        bundle = super()._repr_mimebundle_(**keywords)
        if bundle:
            name = escape(self.form.model or self.form.loading or "a model")
            bundle["text/html"] = f"<p>Feature browser of {name}. It needs a kernel: run this cell again to use it.</p>"
        return (bundle, metadata) if (metadata := display_metadata(self.form)) else bundle

    def _display_(self) -> Any:
        """Return what marimo displays, which has no boxes: the form and the panels that exist when the cell ends."""
        panels = [box.children[1] for box in self._boxes.values()]
        return sys.modules["marimo"].vstack([self.form, *self._shared.values(), *panels])

    def _use_model(self, hooked: HookedModel, function: Callable[[], T]) -> T:
        """Run a function that uses a model: between two steps if a run is using the model, otherwise in this thread."""
        for run in self.runs:
            if run.active and run.session.scorer.model is hooked:
                return run.ask(function).result()
        return function()

    def _start(self, feature: ex.Feature, hooked: HookedModel, keywords: dict[str, Any]) -> None:
        """Start runs and display their panels; called through :meth:`_use_model`."""
        settings = dict(keywords)
        seeds = settings.pop("seeds", None)
        options = {name: settings.pop(name) for name in ("start", "constraints", "fluency_model") if name in settings}
        if "fluency_model" in options:
            options["fluency_model"] = as_hooked(options["fluency_model"])
        config = as_settings(settings.pop("search", None), settings)
        if seeds is None:
            started: Dream | Dreams = new_run(RunSpec.of(feature, hooked, config, named=set(settings), **options))
        else:
            configs = configs_of_seeds(config, seeds)
            started = side_by_side([feature], hooked, configs, named=set(settings), **options)
        advance(started, config.iterations, progress=False, wait=False)
        for run in [started] if isinstance(started, Dream) else started:
            panel = DreamPanel(run)
            label = f"Remove seed {run.config.seed}"
            button = Button(description=label, tooltip=f"{label} of {run.feature_label} and stop it", icon="times")
            button.layout = Layout(width="auto", align_self="flex-end")
            button.on_click(lambda button, run=run: self.remove(run))
            box = VBox([button, panel], layout=Layout(flex="1 1 32em", min_width="min(32em, 100%)", max_width="100%"))
            with self._lock:
                self._runs.append(run)
                self._boxes[run] = box
        with self._lock:
            self._arrange()

    def _arrange(self) -> None:
        """Lay out the form, the shared panels of comparable runs, and the panel of each run."""
        groups: dict[tuple[str, ...], list[Dream]] = {}
        for run in self._runs:
            origin = run.provenance
            around = origin.prepend_bos, origin.prefix, origin.suffix, origin.contexts
            group = tuple(map(str, (origin.feature, origin.model, *around)))
            groups.setdefault(group, []).append(run)
        comparable = {group: runs for group, runs in groups.items() if len(runs) > 1}
        for group in list(self._shared):
            if list(self._shared[group].run) != comparable.get(group):
                self._shared.pop(group).close()
        for group, runs in comparable.items():
            if group not in self._shared:
                self._shared[group] = RunsPanel(runs)
        self._side.children = [self._boxes[run] for run in self._runs]
        self.children = [self.form, *(self._shared[group] for group in comparable), self._side]


def browse(model: Any = None, *, examples: Any = None, corpus: Any = None) -> FeatureBrowser:
    """Browse a model's features and dream of them, in a notebook.

    Args:
        model: Bridge, Hugging Face id or folder; None is the embedded model. It is loaded in the background, and you
            can choose another one in the browser.
        examples: Examples of a scan (:func:`dreamy_lens.max_activating`), or their folder: the form shows the top
            windows of the feature in them. Without them, the form offers a small scan of the layer.
        corpus: Corpus of the small scan, as :func:`dreamy_lens.corpus.open` takes it; None is Python's language
            reference, of which 20,000 tokens are scanned.

    Raises:
        DreamyLensError: `examples` are no examples of a scan.

    Returns:
        Widget that displays itself as the last line of a notebook cell. Its `runs` are the dreams that you started.

    >>> import dreamy_lens as dl
    >>> browser = dl.browse().wait()
    >>> browser
    FeatureBrowser(embedded, 0 runs)
    >>> len(browser.form.hooks) > 300
    True
    """
    announce_panel()
    return FeatureBrowser(model, examples_in(examples), corpus)  # opened here, before there is a widget to close
