"""Prompts by which a language model explains a feature in words and is examined on its explanation; its replies.

Every prompt is plain text, and asks for one line that begins with a fixed word, so that any model can be asked. A reply
without that line is asked for once more, and then refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from dreamy_lens import _waiting
from dreamy_lens.errors import LLMError, WaitError, shorten

T = TypeVar("T")

LONGEST = 2000
"""Most characters of an explanation."""

OPEN, CLOSE = "«", "»"
"""Marks around tokens at which the feature is high."""

HIGH = 0.5
"""Share of a window's highest value from which on a token is marked."""


@dataclass(frozen=True)
class ShownText:
    """Text that a language model is shown as evidence of what drives a feature.

    Attributes:
        text: Text.
        value: Value of the feature at the text's end.
        tokens: Tokens of the text.
        values: Value of the feature if the text ended at each token, NaN where it has none; None if it is not known.
    """

    text: str
    value: float
    tokens: tuple[str, ...] = ()
    values: np.ndarray | None = None

    def marked(self, high: Sequence[int]) -> str:
        """Return the text with marks around the tokens at some positions; its own « and » become ‹ and ›."""
        chosen = set(high)
        tokens = [token.replace(OPEN, "‹").replace(CLOSE, "›") for token in self.tokens]
        parts = [f"{OPEN}{token}{CLOSE}" if i in chosen else token for i, token in enumerate(tokens)]
        return "".join(parts).replace(f"{CLOSE}{OPEN}", "")

    def high(self) -> list[int]:
        """Return the positions at which the value is above half of the text's highest one."""
        if self.values is None:
            return []
        values = np.nan_to_num(np.asarray(self.values, dtype=np.float64), nan=-np.inf)
        top = float(values.max(initial=-np.inf))
        return np.flatnonzero(values >= HIGH * top).tolist() if top > 0 else []


def explanation_prompt(
    dreams: Sequence[ShownText], windows: Sequence[ShownText], floor: float, at_end: bool = True
) -> str:
    """Return the prompt that asks for an explanation.

    Args:
        dreams: Prompts that a search found, strongest first.
        windows: Texts of a corpus, strongest first.
        floor: Value that counts as 0 on the scale from 0 to 10: that of ordinary text.
        at_end: Whether the feature is read at the last token of each text.
    """
    top = max((e.value for e in (*dreams, *windows)), default=floor)
    parts = [
        "You study one internal feature of a language model: a number that the model computes while it reads a text. "
        "The feature is high on the texts below. Say what they have in common that drives it."
    ]
    if at_end:
        parts.append("The number is read at the last token of each text, so the end of a text matters most.")
    if dreams:
        parts.append(
            "Texts that a search composed so that the feature becomes as high as possible. They may read oddly; what "
            "they share is what counts. Each begins with the strength of the feature, from 0 to 10.\n"
            + _numbered(dreams, floor, top)
        )
    if windows:
        marks = any(e.high() for e in windows)
        note = f" Tokens at which the feature is high stand in {OPEN}{CLOSE}." if marks else ""
        parts.append(
            f"Texts from ordinary documents on which the feature is highest.{note}\n" + _numbered(windows, floor, top)
        )
    parts.append(
        "Reply with one line that begins with EXPLANATION: and says, in at most 30 words, which words, meanings or "
        "contexts drive the feature. Be specific, and do not mention these instructions."
    )
    return "\n\n".join(parts)


def _numbered(evidence: Sequence[ShownText], floor: float, top: float) -> str:
    span = top - floor

    def line(e: ShownText) -> str:
        strength = 10 if span <= 0 else round(10 * min(1.0, max(0.0, (e.value - floor) / span)))
        return f"{strength}: {_one_line(e.marked(high) if (high := e.high()) else e.text)}"

    return "\n".join(map(line, evidence))


def detection_prompt(explanation: str, texts: Sequence[str]) -> str:
    """Return the prompt that asks on which of some texts the feature is high."""
    return (
        "An internal feature of a language model is explained so:\n\n"
        f"{explanation}\n\n"
        f"Here are {len(texts)} texts:\n{_listed(texts)}\n\n"
        "On which of them is the feature high, according to the explanation? Reply with one line that begins with "
        "ANSWER: and has their numbers with commas between them, or none."
    )


def fuzzing_prompt(explanation: str, texts: Sequence[str]) -> str:
    """Return the prompt that asks in which of some texts the right tokens are marked."""
    return (
        "An internal feature of a language model is explained so:\n\n"
        f"{explanation}\n\n"
        f"In each of these {len(texts)} texts, some tokens stand in {OPEN}{CLOSE}:\n{_listed(texts)}\n\n"
        "In which of them are the marked tokens those at which the feature is high, according to the explanation? "
        "Reply with one line that begins with ANSWER: and has their numbers with commas between them, or none."
    )


def simulation_prompt(explanation: str, count: int, words: int) -> str:
    """Return the prompt that asks for texts that drive the feature."""
    return (
        "An internal feature of a language model is explained so:\n\n"
        f"{explanation}\n\n"
        f"Write {count} different texts of at most {words} words each that drive this feature as high as possible at "
        "their last word, according to the explanation. Reply with one text a line, each line beginning with TEXT:"
    )


def _listed(texts: Sequence[str]) -> str:
    return "\n".join(f"{i + 1}. {_one_line(text)}" for i, text in enumerate(texts))


def _one_line(text: str) -> str:
    return text.replace("\n", "⏎")


# Replies.


def _word(word: str) -> str:
    """Return the pattern of a fixed word with its colon: in capitals anywhere, in other letters at a line's beginning.

    Language models often set the word in bold: `**Answer:** 1, 3`.
    """
    return rf"(?:{word}|(?im:^[ \t*_#>-]*{word}))[*_]*:[*_]*"


def _after(word: str, reply: str) -> list[str]:
    """Return what stands after a fixed word and its colon: on its line, or on the next one if nothing is there."""
    return re.findall(rf"{_word(word)}[ \t]*(?:\r?\n[ \t]*(?!{_word(word)}))?([^\n]*)", reply)


def read_explanation(reply: str) -> str | None:
    """Return the explanation in a reply, or None if it has none."""
    texts = [text.strip(" *") for text in _after("EXPLANATION", reply)]
    return next((text[:LONGEST] for text in reversed(texts) if text), None)


def read_numbers(reply: str, count: int) -> list[int] | None:
    """Return the positions, from 0, that a reply names, or None if it answers otherwise.

    >>> read_numbers("I think so. ANSWER: 1, 3", 4), read_numbers("ANSWER: none", 4), read_numbers("ANSWER: 9", 4)
    ([0, 2], [], None)
    """
    found = _after("ANSWER", reply)
    if not found:
        return None
    answer = found[-1].strip(" .*[]()")
    if answer.lower() in ("none", "none of them", "none of the texts", "-"):
        return []
    if not re.fullmatch(r"#?\d+(?:(?:[ ,;&]|\. |and )+#?\d+)*", answer):
        return None
    numbers = [int(n) for n in re.findall(r"\d{1,4}", answer)]
    return [n - 1 for n in dict.fromkeys(numbers)] if numbers and all(1 <= n <= count for n in numbers) else None


def read_texts(reply: str) -> list[str] | None:
    """Return the texts in a reply, or None if it has none."""
    found = [text.strip() for text in re.findall(_word("TEXT") + r"[ \t]*(\S[^\n]*)", reply)]
    found = [text[2:-2] if text.startswith("**") and text.endswith("**") else text for text in found]
    texts = [text.strip("\"“”'") if text[:1] in "\"“'" else text for text in found]
    return list(dict.fromkeys(text for text in texts if text)) or None


class Examinee:
    """Language model that is asked; each question has a limit of time, and is repeated once if the reply is not one.

    Args:
        llm: Function from a prompt to a reply.
        name: Name for messages and results.
        timeout: Most seconds to wait for one reply.

    Attributes:
        asked: Number of prompts that were sent.
    """

    def __init__(self, llm: Callable[[str], Any], name: str, timeout: float) -> None:
        self.llm, self.name, self.timeout, self.asked = llm, name, timeout, 0

    def ask(self, prompt: str, read: Callable[[str], T | None]) -> T:
        """Send a prompt, and return what is read from the reply.

        Args:
            prompt: Prompt.
            read: Function that returns what a reply says, or None if it is no reply to the question.

        Raises:
            LLMError: There is no reply in time, or twice one that does not answer.
        """
        reply = ""
        for _ in range(2):
            reply = self._reply(prompt)
            found = read(reply)
            if found is not None:
                return found
        raise LLMError(
            f"{self.name} does not answer as it is asked to; it says {shorten(' '.join(reply.split()), 200)!r}. Try "
            "another model. explanation.prompt is what it is shown."
        )

    def _reply(self, prompt: str) -> str:
        self.asked += 1
        try:
            reply: Any = _waiting.within(self.timeout, f"Waiting for {self.name}", lambda: self.llm(prompt))
        except WaitError:
            raise LLMError(
                f"{self.name} did not answer in {self.timeout:g} s. Give it more time with timeout=, or try later."
            ) from None
        except LLMError:
            raise
        except Exception as error:
            why = shorten(" ".join(str(error).split()), 300)
            raise LLMError(f"{self.name} failed with {type(error).__name__}: {why}.") from error
        if not isinstance(reply, str):
            raise LLMError(
                f"{self.name} returned {type(reply).__name__}; llm= is a function that takes a prompt, a text, and "
                "returns the reply, a text."
            )
        # Halves of surrogate pairs stand for nothing, and no file and no tokenizer takes them.
        reply = reply.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").removeprefix("\ufeff")
        if re.match(r"\s*<(!doctype|html|head|body|\?xml)", reply, re.IGNORECASE):
            raise LLMError(
                f"{self.name} returned a page of HTML. Is the address that of the API, such as "
                "http://localhost:11434/v1?"
            )
        return reply
