"""What all live views share: traits, the runs that they follow, and the runs that are started from their prompts."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from dreamy_lens.errors import DreamyLensError
from dreamy_lens.runs.start import from_prompt

if TYPE_CHECKING:
    from dreamy_lens.runs.dream import Dream
    from dreamy_lens.runs.spec import RunSpec


class LivePanel(anywidget.AnyWidget):
    """A live view of runs or prompts, in any host that shows widgets.

    State goes down in traits, which only the thread at work writes while a run goes on; what is clicked comes up as
    messages. A panel does not know where it is shown: it announces each run that is started from it, and what shows
    the panel listens.

    Args:
        **shown: values of the traits.
    """

    live = traitlets.Bool(True).tag(sync=True)
    live_id = traitlets.Unicode("").tag(sync=True)
    title = traitlets.Unicode("").tag(sync=True)
    error = traitlets.Unicode("").tag(sync=True)
    attributions = traitlets.Dict().tag(sync=True)

    def __init__(self, **shown: Any) -> None:
        self._started: list[Dream] = []
        self._endings: list[Callable[[], None]] = []
        self._listeners: list[Callable[[Dream], object]] = []
        super().__init__(live_id=uuid.uuid4().hex, **shown)

    @property
    def started(self) -> list[Dream]:
        """Runs that were started from a prompt here."""
        return self._started

    def state(self) -> Mapping[str, Any]:
        """The traits that change as runs go on."""
        raise NotImplementedError

    def follow(self, runs: Iterable[Dream]) -> None:
        """Show what runs find as they go on, until the panel is closed."""
        self._endings += [run.listen(lambda run: self.update()) for run in runs]

    def update(self) -> None:
        """Show what was found until now."""
        state = self.state()
        with self.hold_sync():  # one message for everything that changed
            for name, value in state.items():
                if getattr(self, name) != value:
                    setattr(self, name, value)

    def on_started(self, function: Callable[[Dream], object]) -> None:
        """Call a function with each run that is started from a prompt here, just before its first step."""
        self._listeners.append(function)

    def start_from(self, ids: Sequence[int], spec: Callable[[], RunSpec]) -> None:
        """Start a run from a prompt, and announce it; the view is told what keeps it from starting.

        Args:
            ids: token ids of the prompt.
            spec: gives what the run is to be like.
        """
        try:
            run = from_prompt(spec(), ids)
        except DreamyLensError as error:
            self.notify(error)
            return
        self.started.append(run)
        for function in self._listeners:
            function(run)
        run.resume(wait=False, progress=False)

    def notify(self, error: DreamyLensError) -> None:
        """Have the view say what went wrong."""
        self.send({"type": "notice", "text": str(error)})

    def close(self) -> None:
        """Take the view away; the runs go on."""
        for end in self._endings:
            end()
        super().close()
