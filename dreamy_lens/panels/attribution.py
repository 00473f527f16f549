"""Panel of one prompt: which tokens carry a feature, and what substitutes would do to its value."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import traitlets

from dreamy_lens._files import check_page, write_text
from dreamy_lens._host import in_kernel
from dreamy_lens.analysis.attribution import attributions
from dreamy_lens.errors import DreamyLensError, unknown_setting
from dreamy_lens.features.binding import BoundFeature
from dreamy_lens.features.parser import feature_names, parse
from dreamy_lens.html.escaping import with_tooltip
from dreamy_lens.html.page import document
from dreamy_lens.models.load import as_hooked
from dreamy_lens.panels import bundle, state
from dreamy_lens.panels.frozen import frozen
from dreamy_lens.panels.hosts import announce_panel, connect_frozen
from dreamy_lens.panels.live import LivePanel
from dreamy_lens.panels.messages import MessageHandler, PromptInspector
from dreamy_lens.panels.run_view import WEIGHT, edited_keys, first_small_page
from dreamy_lens.panels.sections import SectionHandler, SectionStore, prompt_sections
from dreamy_lens.runs.model_thread import ModelThread
from dreamy_lens.runs.python_code import attribution_code, scorer_code
from dreamy_lens.runs.start import spec_of_scorer
from dreamy_lens.scoring.prompts import as_ids
from dreamy_lens.scoring.scorer import Scorer
from dreamy_lens.search.frames import scorer_around

if TYPE_CHECKING:
    from dreamy_lens.results.attribution import Attribution
    from dreamy_lens.results.steering import Steering
    from dreamy_lens.results.upstream import Upstream
    from dreamy_lens.runs.dream import Dream
    from dreamy_lens.runs.spec import RunSpec

_OPTIONS = ("prepend_bos", "prefix", "suffix", "fluency_model", "batch_size", "share_prefixes", "contexts")


class AttributionPanel(LivePanel):
    """Live view of a prompt under a feature: click a token, try another token, edit the prompt, undo.

    Args:
        feature: Expression, or its text.
        prompt: One text, ids `[n]`, or a Prompt.
        model: Bridge, Hugging Face id or folder; None is the embedded model.
        spec: Spec for runs that are started from the panel; None uses the default settings in the panel's template.
        **options: Keywords of :func:`dreamy_lens.attribution`: `prepend_bos`, `prefix`, `suffix`, `fluency_model`,
            `contexts`, `batch_size`; and `share_prefixes=False` to score whole prompts.

    Raises:
        SettingsError: There is no such option.

    >>> import dreamy_lens as dl
    >>> panel = dl.panels.AttributionPanel("L2.N812", "the same as described only")
    >>> panel.wait().found["tokens"][-1]
    ' only'
    """

    _esm = bundle.view_module("attribution")
    _css = bundle.view_stylesheet()
    subtitle = traitlets.Unicode("").tag(sync=True)
    python = traitlets.Dict().tag(sync=True)
    found = traitlets.Dict(allow_none=True, default_value=None).tag(sync=True)

    def __init__(
        self, feature: Any, prompt: Any, model: Any = None, *, spec: RunSpec | None = None, **options: Any
    ) -> None:
        for name in options:
            if name not in _OPTIONS:
                raise unknown_setting(name, _OPTIONS)
        if options.get("fluency_model") is not None:
            options["fluency_model"] = as_hooked(options["fluency_model"])
        expression = feature if isinstance(feature, BoundFeature) else parse(feature)
        contexts, prefix, suffix = options.pop("contexts", None), options.pop("prefix", ()), options.pop("suffix", ())
        scorer = scorer_around(contexts, expression, as_hooked(model), prefix, suffix, **options)
        ids = as_ids(prompt, scorer.vocabulary, scorer.frame.bos)[0]
        self._thread = ModelThread(self)
        self._inspector = PromptInspector(lambda: scorer, lambda ids, ks: attributions(scorer, ids, ks, renew=False))
        self._sections = _sections(scorer)
        super().__init__(**_labels(scorer), **self._sections.traits, python={"prompt": scorer_code(scorer)})
        self._ids = scorer.check_prompts(ids)[0]
        self._first = self._thread.ask(self._inspect)

        def start(message: dict[str, Any]) -> None:
            self.start_from(message["ids"], lambda: spec_of_scorer(scorer) if spec is None else spec)

        self._cells: list[Any] = []
        self.on_edited(self._freeze)
        sections = SectionHandler(self._sections, self._thread.ask, lambda message: self.send(message))
        commands = {
            "section": sections.hear,
            "start": lambda message: self._thread.ask(lambda: start(message)),
            "keep": lambda message: self._thread.ask(self.keep),
        }
        self.on_msg(MessageHandler(self._inspector, self._thread.ask, self.send, commands).hear)

    def _repr_mimebundle_(self, *args: Any, **kwargs: Any) -> Any:
        if not in_kernel():
            return super()._repr_mimebundle_(*args, **kwargs)
        return self._frozen()

    def _ipython_display_(self) -> None:
        if not in_kernel():
            raise NotImplementedError  # IPython then shows the representation
        from IPython.display import display

        # A saved notebook keeps this frozen view; while the kernel runs, the frozen view connects to the live panel.
        self._cells.append(display(self._frozen(), raw=True, display_id=True))
        connect_frozen(self)

    def _frozen(self) -> dict[str, str]:
        return {"text/html": self.to_html(), "text/plain": repr(self)}

    def _freeze(self) -> None:
        """Write what the user has edited to the cells that show the panel."""
        for cell in self._cells:
            cell.update(self._frozen(), raw=True)

    def __repr__(self) -> str:
        return f"AttributionPanel({self.title}, {self.found['text'] if self.found else ''!r})"

    def wait(self, timeout: float | None = None) -> AttributionPanel:
        """Wait until the attribution of the prompt is computed.

        Args:
            timeout: Most seconds to wait; None waits without a limit.

        Returns:
            This panel.
        """
        self._first.result(timeout)
        return self

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return the view as HTML that needs no kernel: a part of a page for a cell, or a whole page for a file.

        Args:
            path: File to which the page is written; None writes no file.

        Raises:
            FileWriteError: The file cannot be written, or its name promises another format.
        """
        if path is None:
            return self._view()
        check_page(path, "dl.attribution(...).save(path) writes other formats.")
        heading = f"<h1>Attribution of {with_tooltip(self.title, self.full_title)}</h1>"
        page = document(f"Attribution of {self.title}", heading + self._view(), scripts=True)
        write_text(path, page)
        return page

    def _view(self) -> str:
        """Return the view for a cell or a page."""
        self.wait()
        names = ("title", "full_title", "subtitle", "python", "error", "view_state")
        attributions = {key: state.trimmed(entry, 12, 4) for key, entry in self._inspector.known.items()}
        shown = state.trimmed(self.found, 12, 4) if self.found else None
        plain = {name: getattr(self, name) for name in names}
        traits = {**plain, "found": shown, "attributions": attributions, "live": False}
        keys = [*([shown["key"]] if shown else []), *edited_keys(self.view_state)]
        self.fragments = self._sections.fragments(keys)  # where the page connects to this panel, it must show these
        pages = (frozen("attribution", {**traits, **more}, self.live_id) for more in self._sections.frozen_traits(keys))
        return first_small_page(WEIGHT, pages)

    def _inspect(self) -> None:
        self.found = self._inspector.scores(self._ids)
        try:
            self.found = self._inspector.attribution(self._ids)
            self.found = self._inspector.with_series(self._ids)
        except DreamyLensError as error:
            self.error = str(error)


def explore(feature: Any, prompt: Any, model: Any = None, **options: Any) -> AttributionPanel:
    """Explore a prompt: see which tokens carry the feature, and try substitutes or any other text.

    Args:
        feature: Expression, or its text.
        prompt: One text, ids `[n]`, or a Prompt.
        model: Bridge, Hugging Face id or folder; None is the embedded model.
        **options: Keywords of :func:`dreamy_lens.attribution`: `prepend_bos`, `prefix`, `suffix`, `fluency_model`,
            `batch_size`; and `share_prefixes=False` to score whole prompts.

    Returns:
        Panel that displays itself as the last line of a notebook cell.

    Raises:
        FeatureError: The feature does not fit the model.
        PromptError: The prompt is empty, too long, or has tokens that the model does not have.
        SettingsError: There is no such option.

    >>> import dreamy_lens as dl
    >>> dl.explore("L2.N812", "the same as described only")
    AttributionPanel(L2.N812, 'the same as described only')
    """
    announce_panel()
    return AttributionPanel(feature, prompt, model, **options).wait()


def explore_run(run: Dream, prompt: Any) -> AttributionPanel:
    """Explore a prompt under a run's feature, in its template.

    Args:
        run: Run whose feature, models and template the panel uses; runs started from the panel use its spec.
        prompt: One text, ids `[n]`, or a Prompt.

    Returns:
        Panel of the prompt.
    """
    announce_panel()
    scorer = run.session.scorer
    template = {"prefix": scorer.prefix, "suffix": scorer.suffix}
    around = {"prepend_bos": scorer.prepend_bos, **({"contexts": scorer.origin} if scorer.origin else template)}
    fluency = None if scorer.fluency is scorer.model else scorer.fluency
    return AttributionPanel(scorer.bound, prompt, scorer.model, spec=run.spec, fluency_model=fluency, **around).wait()


def frozen_attribution(attribution: Attribution) -> str:
    """Return the view of a finished attribution as HTML that needs no kernel.

    Args:
        attribution: Attribution to show.
    """
    shown = state.trimmed(state.attributed_entry(attribution, "".join(attribution.tokens), True), 12, 4)
    origin = (attribution.feature, attribution.model, attribution.prepend_bos, attribution.prefix, attribution.suffix)
    # The contexts are known to the run alone; code with the first of them would give other numbers.
    can_repeat = bool(attribution.feature) and not attribution.contexts
    code = attribution_code(*origin, k=attribution.candidates.shape[1]) if can_repeat else ""
    title, full_title = feature_names(attribution.feature)
    traits = {
        "title": title,
        "full_title": full_title,
        "subtitle": "",
        "python": {"prompt": code} if code else {},
        "error": "",
        "attributions": {},
    }
    return frozen("attribution", {**traits, "found": shown, "live": False}, live_id=None)


def _sections(scorer: Scorer) -> SectionStore:
    """Return the sections that a panel of a prompt can open."""

    def upstream(ids: np.ndarray) -> Upstream:
        from dreamy_lens.analysis.upstream import decompose

        return decompose(scorer, ids)

    def steer(ids: np.ndarray, count: int) -> Steering:
        from dreamy_lens.analysis.steering import steer_prompt

        return steer_prompt(scorer, ids, n_tokens=count)

    return SectionStore(prompt_sections(upstream, steer))


def _labels(scorer: Scorer) -> dict[str, str]:
    feature = scorer.bound.feature
    names = {"title": feature.label, "full_title": feature.long_label}
    return {**names, "subtitle": scorer.model.name}
