"""Sections below a prompt, such as "Where it comes from", which are computed when the user opens them.

A section is computed on the model thread, between two steps of a run: it may change the model while it is computed. Its
HTML is kept for the other views of the run and for frozen views.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamy_lens._host import reporting
from dreamy_lens.errors import DreamyLensError
from dreamy_lens.html.escaping import Html
from dreamy_lens.html.page import read_stylesheet
from dreamy_lens.panels import state
from dreamy_lens.panels.messages import LOG

if TYPE_CHECKING:
    from dreamy_lens.results.steering import Steering
    from dreamy_lens.results.upstream import Upstream

HELD = 24
"""Most sections that are kept for the views of a run; the oldest are forgotten."""

WRITTEN = 12
"""Number of tokens that the model writes when it is steered, as on a card."""

SECTION_STYLE = "".join(map(read_stylesheet, ("style.css", "section.css")))
"""Rules of the sections' HTML, for the shadow root that a view puts it in."""


@dataclass(frozen=True)
class PanelSection:
    """Section that a view can open.

    Attributes:
        name: Name of the section in messages.
        label: Text of its button.
        waiting: Sentence on what is computed, which the view shows until the answer comes.
        compute: Function of token ids, int64 `[n]`, that returns its HTML; called on the model thread.
        whole: Whether the section is about the whole run, so that the ids are not used.
        moment: Function whose result changes when the section must be computed again.
    """

    name: str
    label: str
    waiting: str
    compute: Callable[[np.ndarray], Html]
    whole: bool = False
    moment: Callable[[], object] = lambda: None


class SectionStore:
    """Sections of a prompt or a run, with the HTML of those that were opened.

    Args:
        sections: Sections, in the order of their buttons.
    """

    def __init__(self, sections: Iterable[PanelSection]) -> None:
        self._sections = {section.name: section for section in sections}
        self._found: dict[str, tuple[object, str]] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._sections

    @property
    def traits(self) -> dict[str, Any]:
        """Traits of a view with these sections, by their names."""
        listed = [[s.name, s.label, s.waiting, s.whole] for s in self._sections.values()]
        return {"sections": listed, "section_style": SECTION_STYLE}

    def frozen_traits(self, keys: Iterable[str]) -> list[dict[str, Any]]:
        """Return the traits of frozen views, from one with all sections that were opened to one with none.

        Args:
            keys: Keys of the prompts whose sections are left out last.
        """
        choices = [fragments for fragments in (self.fragments(), self.fragments(keys)) if fragments]
        return [*({**self.traits, "fragments": fragments} for fragments in choices), {}]

    def fragments(self, keys: Iterable[str] | None = None) -> dict[str, str]:
        """Return the HTML of the sections that were opened, by their ids.

        Args:
            keys: Keys of the prompts whose sections are returned, besides those of the run; None takes all prompts.
        """
        wanted = None if keys is None else {"", *keys}
        found = list(self._found.items())
        return {name: html for name, (_, html) in found if wanted is None or name.partition(" ")[2] in wanted}

    def id_of(self, message: Mapping[str, Any]) -> str:
        """Return the id of the section that a message asks for: its name, and the key of the prompt.

        Args:
            message: Message of type "section".
        """
        section = self._sections[message["name"]]
        return f"{section.name} {'' if section.whole else state.key(message['ids'])}"

    def known(self, message: Mapping[str, Any]) -> str | None:
        """Return the HTML of a section if nothing must be computed for it, and None otherwise.

        Args:
            message: Message of type "section".
        """
        moment, html = self._found.get(self.id_of(message), (None, None))
        return html if moment == self._sections[message["name"]].moment() else None

    def html(self, message: Mapping[str, Any]) -> str:
        """Return the HTML of a section; called on the model thread.

        Args:
            message: Message of type "section".

        Raises:
            DreamyLensError: The section cannot be computed; the message gives the reason.
        """
        html, section = self.known(message), self._sections[message["name"]]
        if html is not None:
            return html
        moment = section.moment()
        with reporting(False):  # the view says what is being done
            html = str(section.compute(np.asarray(message["ids"], dtype=np.int64)))
        name = self.id_of(message)
        self._found.pop(name, None)
        self._found[name] = moment, html
        for oldest in list(self._found)[:-HELD]:
            del self._found[oldest]
        return html


class SectionHandler:
    """Handler of the messages by which one view asks for sections.

    Args:
        store: Sections of the view.
        ask: Function that runs another function on the model thread, between two steps.
        send: Function that sends a message to the view.
    """

    def __init__(
        self,
        store: SectionStore,
        ask: Callable[[Callable[[], Any]], Any],
        send: Callable[[dict[str, Any]], None],
    ) -> None:
        self._store, self._ask, self._send = store, ask, send
        self._newest: dict[str, str] = {}

    def hear(self, message: dict[str, Any]) -> None:
        """Answer a message at once if its section is known, and on the model thread otherwise.

        Args:
            message: Message of type "section", with the name of the section and the ids of the prompt.
        """
        if message.get("name") not in self._store:
            return
        name = self._newest[message["name"]] = self._store.id_of(message)
        try:
            html = self._store.known(message)
            if html is None:
                self._ask(lambda: self._answer(name, message))
            else:
                self._send({"type": "section", "id": name, "html": html})
        except DreamyLensError as error:
            self._send({"type": "section", "id": name, "error": str(error)})

    def _answer(self, name: str, message: dict[str, Any]) -> None:
        if self._newest[message["name"]] != name:
            return  # the user has opened the section for another prompt meanwhile
        try:
            self._send({"type": "section", "id": name, "html": self._store.html(message)})
        except DreamyLensError as error:
            self._send({"type": "section", "id": name, "error": str(error)})
        except Exception as error:
            LOG.exception("A section of a view could not be computed: %r", message)
            self._send({"type": "section", "id": name, "error": f"{type(error).__name__}: {error}"})


def prompt_sections(
    upstream: Callable[[np.ndarray], Upstream], steer: Callable[[np.ndarray, int], Steering]
) -> tuple[PanelSection, PanelSection]:
    """Return the sections about one prompt.

    Args:
        upstream: Function of token ids that divides the value among components.
        steer: Function of token ids, and of a number of tokens to write, that steers the model on the prompt.
    """
    return (
        PanelSection(
            "upstream",
            "Where it comes from",
            "Dividing the value among the components of the model…",
            lambda ids: upstream(ids).body(),
        ),
        PanelSection(
            "downstream",
            "What it does",
            "Steering the model with the feature, and with placebos…",
            lambda ids: steer(ids, WRITTEN).body(),
        ),
    )
