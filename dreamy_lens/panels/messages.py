"""What a view asks for, answered by the thread that owns the model.

Callbacks of widgets come on whatever thread the notebook chooses, so they do no more than ask.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamy_lens.errors import DreamyLensError, PromptError
from dreamy_lens.panels import state
from dreamy_lens.scoring.prefix_values import values_at_tokens

if TYPE_CHECKING:
    from dreamy_lens.results.attribution import Attribution
    from dreamy_lens.scoring.scorer import Scorer

LOG = logging.getLogger("dreamy_lens")

SUBSTITUTES = 32
"""Tried at each position, as in Figure 1 of the paper."""

QUICK = 8
"""Tried at each position first. With all of them a strip comes too late for a click while a run goes on: the step that
has just begun takes half of the time that there is, and a slow core takes twice the rest for them."""


class PromptInspector:
    """Scores and attributions of the prompts that a view looks at, and the feature's value at every position.

    Args:
        scorer: function that gives the scorer; called where the model may be used.
        attribute: function that gives attributions of ids with more and more substitutes, each when it is asked for.

    Attributes:
        known: results by the prompts' keys, each with all of the substitutes.
    """

    def __init__(
        self,
        scorer: Callable[[], Scorer],
        attribute: Callable[[np.ndarray, Sequence[int]], Iterator[Attribution]],
    ) -> None:
        self._scorer, self._attribute = scorer, attribute
        self._plain: Scorer | None = None
        self.known: dict[str, dict[str, Any]] = {}

    def ids(self, message: dict[str, Any]) -> np.ndarray:
        """The prompt that a message is about, int64 `[n]`.

        Raises:
            PromptError: it has no tokens, or is too long.
        """
        vocabulary = self._scorer().vocabulary
        if message["type"] == "edit":
            ids = vocabulary.encode(str(message["text"]))
        else:
            ids = [int(i) for i in message["ids"]]
            if message["type"] == "try":
                at = int(message["position"])
                ids[at : at + 1] = vocabulary.encode(str(message["text"]))
        if not len(ids):
            raise PromptError("A prompt needs at least one token; type something.")
        return self._scorer().check_prompts(np.asarray(ids, dtype=np.int64))[0]

    def scores(self, ids: np.ndarray) -> dict[str, Any]:
        """Value and cross-entropy only: known soonest."""
        found = self.plain.score(ids)
        return self._described(ids, float(found.value[0]), float(found.cross_entropy[0]))

    def attribution(self, ids: np.ndarray, k: int = SUBSTITUTES) -> dict[str, Any]:
        """With what k substitutes at each position do, which is kept."""
        *_, one = self._strips(ids, (k,))
        return one

    def stages(self, ids: np.ndarray) -> Iterator[dict[str, Any]]:
        """What is known of a prompt, more each time, and worked out when it is asked for.

        Its scores; what a few substitutes do; what all of them do; the values at all positions. Begins with what is
        known already.
        """
        if state.key(ids) not in self.known:
            yield self.scores(ids)
        yield from self._strips(ids, (QUICK, SUBSTITUTES))
        if self.known[state.key(ids)]["series"] is None:
            yield self.with_series(ids)

    def _strips(self, ids: np.ndarray, ks: Sequence[int]) -> Iterator[dict[str, Any]]:
        """With what substitutes do, more of them each time. Only the last is kept: no other is the final one."""
        one = state.key(ids)
        if one not in self.known:
            text = self._text(ids)
            for k, found in zip(ks, self._attribute(ids, ks), strict=True):
                if k != ks[-1]:
                    yield state.found(found, *text, partial=True)
                else:
                    self.known[one] = state.found(found, *text)
        yield self.known[one]

    def with_series(self, ids: np.ndarray, k: int = SUBSTITUTES) -> dict[str, Any]:
        """With the feature's value if the prompt ended at each of its positions, which is kept too."""
        one = self.attribution(ids, k)
        if one["series"] is None:
            one = self.known[one["key"]] = {**one, "series": self._series(ids)}
        return one

    @property
    def plain(self) -> Scorer:
        """Scores prompts of any length at once: finding out how they share prefixes would take longer."""
        if self._plain is None:
            self._plain = self._scorer().without_sharing()
        return self._plain

    def _series(self, ids: np.ndarray) -> list[float | None]:
        prompt = tuple(map(int, ids))
        return [state.rounded(float(value)) for value in values_at_tokens(self.plain, [prompt])[prompt]]

    def _described(self, ids: np.ndarray, value: float, cross_entropy: float) -> dict[str, Any]:
        tokens = self._scorer().vocabulary.tokens(ids)
        return state.scored(ids, tokens, *self._text(ids), value, cross_entropy)

    def _text(self, ids: np.ndarray) -> tuple[str, bool]:
        vocabulary = self._scorer().vocabulary
        return vocabulary.text(ids), bool(vocabulary.round_trips(ids))


class MessageHandler:
    """Answer the messages of one view.

    Args:
        inspector: inspector of the prompts that are asked about.
        ask: function that runs another one where the model may be used.
        send: function that sends a message to the view.
        commands: functions for the other messages, by their type.
    """

    LOOKS = ("look", "try", "edit")

    def __init__(
        self,
        inspector: PromptInspector,
        ask: Callable[[Callable[[], Any]], Any],
        send: Callable[[dict[str, Any]], None],
        commands: Mapping[str, Callable[[dict[str, Any]], object]],
    ) -> None:
        self._inspector, self._ask, self._send, self._commands = inspector, ask, send, commands
        self._newest: Any = None
        self._lock = threading.Lock()

    def hear(self, widget: Any, message: Any, buffers: Any = None) -> None:
        """Answer a message: what needs the model is asked for, and nothing waits here."""
        kind = str(message.get("type")) if isinstance(message, dict) else ""
        try:
            if kind in self.LOOKS:
                with self._lock:
                    self._newest = message.get("id")
                self._ask(lambda: self._answer(message))
            elif kind in self._commands:
                self._commands[kind](message)
        except DreamyLensError as error:
            self._send({"type": "notice", "text": str(error)})

    def _answer(self, message: dict[str, Any]) -> None:
        """Whatever can be said soonest first, until something newer is asked."""
        number = message.get("id")
        try:
            ids = self._inspector.ids(message)
            for one in self._inspector.stages(ids):
                self._send({"type": "answer", "id": number, "found": one})
                if self._newest != number:
                    return
        except DreamyLensError as error:
            self._send({"type": "answer", "id": number, "error": str(error)})
        except Exception as error:
            LOG.exception("A view's question could not be answered: %r", message)
            self._send({"type": "answer", "id": number, "error": f"{type(error).__name__}: {error}"})
