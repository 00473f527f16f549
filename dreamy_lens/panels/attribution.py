"""The panel of one prompt: which tokens carry a feature, and what others would do."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import anywidget
import numpy as np
import traitlets

from dreamy_lens.panels import bundle, state
from dreamy_lens.panels.frozen import frozen
from dreamy_lens.panels.messages import MessageHandler, PromptInspector

if TYPE_CHECKING:
    from dreamy_lens.results.attribution import Attribution
    from dreamy_lens.scoring.scorer import Scorer


class AttributionPanel(anywidget.AnyWidget):
    """A live view of a prompt under a feature: click a token, try another, edit the prompt, undo.

    Args:
        feature: an expression or its text.
        prompt: one text, ids `[n]`, or a Prompt; a Prompt of a run brings the run's feature and model along.
        model: a bridge, a Hugging Face id or folder; None is the embedded model.
        **options: as for :func:`dreamy_lens.attribution`: `prepend_bos`, `prefix`, `suffix`, `fluency_model`.

    >>> import dreamy_lens as dl
    >>> panel = dl.panels.AttributionPanel("L2.N812", "the same as described only")
    >>> panel.wait().found["tokens"][-1]
    ' only'
    """

    _esm = bundle.module("attribution")
    _css = bundle.stylesheet()
    live = traitlets.Bool(True).tag(sync=True)
    live_id = traitlets.Unicode("").tag(sync=True)
    title = traitlets.Unicode("").tag(sync=True)
    subtitle = traitlets.Unicode("").tag(sync=True)
    python = traitlets.Unicode("").tag(sync=True)
    found = traitlets.Dict(allow_none=True, default_value=None).tag(sync=True)
    error = traitlets.Unicode("").tag(sync=True)
    attributions = traitlets.Dict().tag(sync=True)

    def __init__(self, feature: Any, prompt: Any, model: Any = None, **options: Any) -> None:
        from dreamy_lens.analysis.attribution import attributions
        from dreamy_lens.features.parser import parse
        from dreamy_lens.models.load import as_hooked
        from dreamy_lens.scoring.prompts import as_ids
        from dreamy_lens.scoring.scorer import Scorer

        hooked, fluency = as_hooked(model), options.pop("fluency_model", None)
        fluency = None if fluency is None else as_hooked(fluency)
        scorer = Scorer(parse(feature), hooked, fluency_model=fluency, **options)
        self._thread = _OneThread()
        self._looks = PromptInspector(lambda: scorer, lambda ids, ks: attributions(scorer, ids, ks, renew=False))
        ids = as_ids(prompt, scorer.vocabulary)[0]
        self.started: list[Any] = []
        super().__init__(live_id=uuid.uuid4().hex, **_describe(scorer))
        self._ids = scorer.check_prompts(ids)[0]
        self._first = self._thread.ask(self._look)
        commands = {"start": lambda message: self._thread.ask(lambda: self._start(scorer, message["ids"]))}
        self.on_msg(MessageHandler(self._looks, self._thread.ask, self.send, commands).hear)

    def _repr_mimebundle_(self, *args: Any, **kwargs: Any) -> Any:
        from dreamy_lens.runs.progress import in_kernel

        if not in_kernel():
            return super()._repr_mimebundle_(*args, **kwargs)
        # What stays in a saved notebook needs no kernel; while there is this one, the view finds it and is alive.
        return {"text/html": self.to_html(), "text/plain": repr(self)}

    def __repr__(self) -> str:
        return f"AttributionPanel({self.title}, {self.found['text'] if self.found else ''!r})"

    def wait(self, timeout: float | None = None) -> AttributionPanel:
        """Wait until the prompt's own attribution is known."""
        self._first.result(timeout)
        return self

    def to_html(self) -> str:
        """The same view with no kernel."""
        self.wait()
        names = ("title", "subtitle", "python", "error")
        known = {key: state.trimmed(one, 12, 4) for key, one in self._looks.known.items()}
        found = state.trimmed(self.found, 12, 4) if self.found else None
        plain = {name: getattr(self, name) for name in names}
        return frozen(
            "attribution", {**plain, "found": found, "attributions": known, "live": False}, live_id=self.live_id
        )

    def _look(self) -> None:
        from dreamy_lens.errors import DreamyLensError

        self.found = self._looks.scores(self._ids)
        try:
            self.found = self._looks.attribution(self._ids)
            self.found = self._looks.with_series(self._ids)
        except DreamyLensError as error:
            self.error = str(error)

    def _start(self, scorer: Scorer, ids: list[int]) -> None:
        import dreamy_lens
        from dreamy_lens.errors import DreamyLensError
        from dreamy_lens.panels.cells import beside
        from dreamy_lens.panels.dream import DreamPanel

        fluency = None if scorer.fluency is scorer.model else scorer.fluency
        try:
            run = dreamy_lens.dream(
                scorer.bound.feature,
                scorer.model,
                start=np.asarray(ids, dtype=np.int64),
                fluency_model=fluency,
                prepend_bos=scorer.prepend_bos,
                wait=False,
                progress=False,
            )
        except DreamyLensError as error:
            self.send({"type": "notice", "text": str(error)})
            return
        self.started.append(run)
        beside(self, DreamPanel(run))


class _OneThread:
    """Runs functions one after the other in the background; the thread ends when there is nothing to do."""

    def __init__(self) -> None:
        from concurrent.futures import ThreadPoolExecutor

        self._pool = ThreadPoolExecutor(1, "dreamy_lens")

    def ask(self, function: Callable[[], Any]) -> Future:
        """Have a function run."""
        return self._pool.submit(function)


def explore(feature: Any, prompt: Any, model: Any = None, **options: Any) -> AttributionPanel:
    """A prompt to play with: which tokens carry the feature, what others would do, what any text does.

    Args:
        feature: an expression or its text.
        prompt: one text, ids `[n]`, or a Prompt.
        model: a bridge, a Hugging Face id or folder; None is the embedded model.
        **options: as for :func:`dreamy_lens.attribution`: `prepend_bos`, `prefix`, `suffix`, `fluency_model`.

    Returns:
        A panel; as the last line of a cell it shows itself.

    Raises:
        FeatureError: the feature does not fit the model.
        PromptError: the prompt is empty, too long, or not made of the model's tokens.

    >>> import dreamy_lens as dl
    >>> dl.explore("L2.N812", "the same as described only")
    AttributionPanel(blocks.2.mlp.hook_post[-1, 812], 'the same as described only')
    """
    return AttributionPanel(feature, prompt, model, **options).wait()


def frozen_attribution(attribution: Attribution) -> str:
    """An attribution that is known already, as a view that needs no kernel."""
    one = state.trimmed(state.found(attribution, "".join(attribution.tokens), True), 12, 4)
    python = f"dl.parse({attribution.feature!r})" if attribution.feature else ""
    given = {"title": attribution.feature, "subtitle": "", "python": python, "error": "", "attributions": {}}
    return frozen("attribution", {**given, "found": one, "live": False}, live_id=None)


def _describe(scorer: Scorer) -> dict[str, str]:
    feature = scorer.bound.feature
    return {"title": feature.label, "subtitle": scorer.model.name, "python": f"dl.parse({str(feature)!r})"}
