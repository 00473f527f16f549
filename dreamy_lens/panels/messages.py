"""Answer the messages of a view on the model thread.

The notebook may call a widget's callbacks on any thread, so a callback only queues the work.
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
from dreamy_lens.scoring.prompts import strip_bos

if TYPE_CHECKING:
    from dreamy_lens.results.attribution import Attribution
    from dreamy_lens.scoring.scorer import Scorer

LOG = logging.getLogger("dreamy_lens")

SUBSTITUTES = 32
"""Number of substitutes tried at each position, as in Figure 1 of the paper."""

QUICK = 8
"""Number of substitutes tried at each position at first. A strip with all substitutes would come too late after a click
while a run goes on: the step in progress takes half of the time that a user accepts, and on a slow core the full number
takes twice the rest."""


class PromptInspector:
    """Scores and attributions of the prompts that a view shows, and the feature's value at every position.

    Args:
        scorer: Function that returns the scorer; called on the model thread.
        attribute: Function of ids and numbers of substitutes that yields one attribution for each number.

    Attributes:
        known: Results by the prompts' keys, each with all substitutes.
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
        """Return the prompt that a message is about.

        Args:
            message: Message of type "look", "try" or "edit".

        Returns:
            Token ids, int64 `[n]`.

        Raises:
            PromptError: The prompt has no tokens, or is too long.
        """
        scorer = self._scorer()
        vocabulary = scorer.vocabulary
        if message["type"] == "edit":
            ids = vocabulary.encode(str(message["text"]))
        else:
            ids = [int(i) for i in message["ids"]]
            if message["type"] == "try":
                at = int(message["position"])
                ids[at : at + 1] = vocabulary.encode(str(message["text"]))
        ids = strip_bos(ids, scorer.frame.bos)  # there is one before every prompt anyway
        if not len(ids):
            raise PromptError("A prompt needs at least one token; type something.")
        return scorer.check_prompts(np.asarray(ids, dtype=np.int64))[0]

    def scores(self, ids: np.ndarray) -> dict[str, Any]:
        """Return the entry of a prompt with its value and cross-entropy only, which is the fastest.

        Args:
            ids: Token ids, int64 `[n]`.
        """
        scores = self.plain.score(ids)
        return self._described(ids, float(scores.value[0]), float(scores.cross_entropy[0]))

    def attribution(self, ids: np.ndarray, k: int = SUBSTITUTES) -> dict[str, Any]:
        """Return the entry of a prompt with its attribution, and keep it in `known`.

        Args:
            ids: Token ids, int64 `[n]`.
            k: Number of substitutes to try at each position.
        """
        *_, entry = self._strips(ids, (k,))
        return entry

    def stages(self, ids: np.ndarray) -> Iterator[dict[str, Any]]:
        """Yield entries of a prompt with more and more results, each computed when it is requested.

        The stages are: its scores; a few substitutes; all substitutes; the values at all positions. Stages whose
        results are already known are skipped.

        Args:
            ids: Token ids, int64 `[n]`.
        """
        if state.key(ids) not in self.known:
            yield self.scores(ids)
        yield from self._strips(ids, (QUICK, SUBSTITUTES))
        if self.known[state.key(ids)]["series"] is None:
            yield self.with_series(ids)

    def _strips(self, ids: np.ndarray, ks: Sequence[int]) -> Iterator[dict[str, Any]]:
        """Yield entries of a prompt with more and more substitutes. Only the last entry is complete, and kept."""
        key = state.key(ids)
        if key not in self.known:
            text = self._text(ids)
            for k, attribution in zip(ks, self._attribute(ids, ks), strict=True):
                if k != ks[-1]:
                    yield state.attributed_entry(attribution, *text, partial=True)
                else:
                    self.known[key] = state.attributed_entry(attribution, *text)
        yield self.known[key]

    def with_series(self, ids: np.ndarray, k: int = SUBSTITUTES) -> dict[str, Any]:
        """Return the entry of a prompt with its attribution and its series, and keep it in `known`.

        The series is the feature's value if the prompt ended at each of its positions.

        Args:
            ids: Token ids, int64 `[n]`.
            k: Number of substitutes to try at each position.
        """
        entry = self.attribution(ids, k)
        if entry["series"] is None:
            entry = self.known[entry["key"]] = {**entry, "series": self._series(ids)}
        return entry

    @property
    def plain(self) -> Scorer:
        """Scorer without prefix sharing, which would have to be verified again for every new length of a prompt."""
        if self._plain is None:
            self._plain = self._scorer().without_sharing()
        return self._plain

    def _series(self, ids: np.ndarray) -> list[float | None]:
        prompt = tuple(map(int, ids))
        return [state.rounded(float(value)) for value in values_at_tokens(self.plain, [prompt])[prompt]]

    def _described(self, ids: np.ndarray, value: float, cross_entropy: float) -> dict[str, Any]:
        tokens = self._scorer().vocabulary.tokens(ids)
        return state.scored_entry(ids, tokens, *self._text(ids), value, cross_entropy)

    def _text(self, ids: np.ndarray) -> tuple[str, bool]:
        vocabulary = self._scorer().vocabulary
        return vocabulary.text(ids), bool(vocabulary.round_trips(ids))


class MessageHandler:
    """Handler of the messages of one view.

    Args:
        inspector: Inspector that answers messages about prompts.
        ask: Function that runs another function on the model thread.
        send: Function that sends a message to the view.
        commands: Functions for all other messages, by their type.
    """

    PROMPT_MESSAGES = ("look", "try", "edit")

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
        """Handle a message without waiting: work that needs the model is queued.

        Args:
            widget: Widget that received the message.
            message: Message of the view.
            buffers: Binary buffers of the message, which are not used.
        """
        kind = str(message.get("type")) if isinstance(message, dict) else ""
        try:
            if kind in self.PROMPT_MESSAGES:
                with self._lock:
                    self._newest = message.get("id")
                self._ask(lambda: self._answer(message))
            elif kind in self._commands:
                self._commands[kind](message)
        except DreamyLensError as error:
            self._send({"type": "notice", "text": str(error)})

    def _answer(self, message: dict[str, Any]) -> None:
        """Send the stages of a prompt, the fastest first, until a newer message comes."""
        number = message.get("id")
        try:
            ids = self._inspector.ids(message)
            for entry in self._inspector.stages(ids):
                self._send({"type": "answer", "id": number, "found": entry})
                if self._newest != number:
                    return
        except DreamyLensError as error:
            self._send({"type": "answer", "id": number, "error": str(error)})
        except Exception as error:
            LOG.exception("A message of a view could not be answered: %r", message)
            self._send({"type": "answer", "id": number, "error": f"{type(error).__name__}: {error}"})
