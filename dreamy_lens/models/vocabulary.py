"""Vocabulary of a model: tokens that may be proposed, their text, and prompts whose text encodes to the same ids."""

from __future__ import annotations

import hashlib
import numbers
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from dreamy_lens.errors import PromptError, TokenError, TokenizerError, quoted, shorten

REPLACEMENT = "\ufffd"
LONGEST_TARGET = 1000
LONGEST_ANSWER = 100_000
"""Number of characters of the longest target of several tokens."""
"""Largest number of characters of a text that is looked up as one token."""
SHOWN = 12
"""Largest number of tokens that a message shows."""
_BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")


class Vocabulary:
    """Vocabulary of a model.

    Args:
        tokenizer: Hugging Face tokenizer.
        size: Number of rows of the model's embedding, which can exceed the number of tokens of the tokenizer.

    Attributes:
        size: Number of rows of the embedding.
        known: Mask of the ids for which the tokenizer has a token, bool `[size]`.
        allowed: Mask of the tokens that may be proposed, bool `[size]`: known to the tokenizer, not special, and with
            text. It excludes the padding rows of an embedding.
        bos: Id of the BOS token; None if the tokenizer has none, or has one that the embedding has no row for.
        why_no_bos: End of a sentence about the tokenizer that says why `bos` is None.
        digest: Hash of the mapping from ids to text; equal for equal tokenizers.
    """

    def __init__(self, tokenizer: Any, size: int) -> None:
        if tokenizer is None:
            raise TokenizerError("The model has no tokenizer, so prompts cannot be read or written; load it with one.")
        self.tokenizer = tokenizer
        self.size = int(size)
        self._pieces: list[str | None] = [None] * self.size
        self._ids: dict[str, list[int]] | None = None
        # Ids can have gaps, so the number of tokens does not show which ids have a token.
        known = sorted({i for i in tokenizer.get_vocab().values() if 0 <= i < self.size})
        names = dict(zip(known, tokenizer.convert_ids_to_tokens(known), strict=True))
        self.known = np.array([names.get(i) is not None for i in range(self.size)], dtype=bool)
        special = set(tokenizer.all_special_ids)
        added = getattr(tokenizer, "added_tokens_decoder", {})
        special |= {i for i, token in added.items() if getattr(token, "special", False)}
        self.special = frozenset(special)
        self.bos, self.why_no_bos = self._find_bos()
        self.allowed = np.array([bool(k) and i not in special for i, k in enumerate(self.known)])
        self.allowed &= np.array([bool(self.piece(i)) for i in range(self.size)])
        if not self.allowed.any():
            raise TokenizerError(
                f"The tokenizer has {len(tokenizer)} tokens and none that could stand in a prompt; a folder without "
                "tokenizer files gives such an empty one. Add tokenizer.json and tokenizer_config.json."
            )
        self.digest = hashlib.sha256(
            "\0".join(f"{i} {name}" for i, name in names.items()).encode("utf-8", "surrogatepass")
        ).hexdigest()[:16]

    def _find_bos(self) -> tuple[int | None, str]:
        """Return the id of the BOS token, and the reason if there is none."""
        name, token = self.tokenizer.bos_token, self.tokenizer.bos_token_id
        if name is None or token is None:
            return None, "has no BOS token"
        if not 0 <= token < self.size:
            return None, f"has the BOS token {name!r} with id {token}, and the embedding has only {self.size} rows"
        if self.tokenizer.convert_ids_to_tokens(token) != str(name):  # the token for unknown text stands in for it
            return None, f"names {name!r} as its BOS, which is not a token of its vocabulary"
        return int(token), ""

    def text(self, ids: Iterable[int]) -> str:
        """Return the text of token ids; incomplete characters become U+FFFD."""
        return self.tokenizer.decode(
            [int(i) for i in ids], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    def piece(self, token: int) -> str:
        """Return the text of one token as it reads within a longer text."""
        token = int(token)
        if not (0 <= token < self.size and self.known[token]):
            return ""
        piece = self._pieces[token]
        if piece is None:
            piece = self.text([token])
            name = self.tokenizer.convert_ids_to_tokens(token)
            if isinstance(name, str) and name.startswith("▁"):
                # SentencePiece drops the space before a text's first word.
                spaces = len(name) - len(name.lstrip("▁"))
                piece = " " * (spaces - (len(piece) - len(piece.lstrip(" ")))) + piece
            self._pieces[token] = piece
        return piece

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """Return the text of each token."""
        return [self.piece(i) for i in ids]

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, without BOS or other special tokens."""
        try:
            return [int(i) for i in self.tokenizer.encode(text, add_special_tokens=False)]
        except (ValueError, TypeError) as error:
            raise _not_a_text(text, error) from None

    def encode_after(self, text: str) -> list[int]:
        """Return the token ids of a text that follows other text; some tokenizers put a space before a text alone."""
        if not text:
            return []
        for anchor in ("", ".", "a", ")", "\n"):
            head = self.encode(anchor) if anchor else []
            ids = self.encode(anchor + text)
            tail = ids[len(head) :]
            before = head or self.encode("a")
            if ids[: len(head)] == head and self.text(before + tail) == self.text(before) + text:
                return tail
        return self.encode(text)

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of several texts, without special tokens, in one call of the tokenizer.

        Texts may be longer than the model's maximum, as sections of a corpus are; no warning is given.
        """
        try:
            return self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"] if texts else []
        except (ValueError, TypeError):
            return [self.encode(text) for text in texts]  # so that the error names the invalid text

    def round_trips(self, ids: Iterable[int]) -> bool:
        """Return whether the text of a prompt encodes to the same ids."""
        ids = [int(i) for i in ids]
        return self.encode(self.text(ids)) == ids

    def token_id(self, token: str | int) -> int:
        """Return the id of a target given as text or id.

        A text means the token that reads as this text within a longer text, if there is one, or else the token that the
        text encodes to: with SentencePiece, " the" and "the" are two tokens, and both encode with a leading space.

        Raises:
            TokenError: The target is several tokens (the message shows the split), is outside the vocabulary, or is
                neither a text nor an id.
        """
        if isinstance(token, numbers.Integral) and not isinstance(token, bool):
            token = int(token)
            if not (0 <= token < self.size):
                raise TokenError(
                    f"Token {quoted(token)} is outside the vocabulary, which has ids 0 to {self.size - 1}."
                )
            return token
        if not isinstance(token, str):
            raise TokenError(
                f"A target is one token, as a text or as an id; got {quoted(token)} ({type(token).__name__})."
            )
        if len(token) > LONGEST_TARGET:
            raise TokenError(
                f"The target {quoted(token, 40)} is far longer than one token. A target is one token: choose another."
            )
        try:
            single = self._single(token)
            if single is not None:
                return self._with_row(single)
            ids = self.encode(token)
        except PromptError as error:
            raise TokenError(str(error)) from None
        if token in self.tokenizer.all_special_tokens:
            return self._with_row(int(self.tokenizer.convert_tokens_to_ids(token)))
        if not ids:
            raise TokenError(f"The target {quoted(token)} encodes to no token at all; a target is one token.")
        ids = self._within(token, ids)
        if len(ids) == 1:
            return self._with_row(ids[0])
        pieces = self.tokens(ids)
        advice = [f"take the first, {pieces[0]!r} (id {ids[0]})"] if pieces[0].strip() else []
        advice += [f"{variant!r} {change}, which is one token" for variant, change in self.one_token_variants(token)]
        split = " + ".join(map(quoted, pieces[:SHOWN])) + " + …" * (len(pieces) > SHOWN)
        raise TokenError(
            f"The target {quoted(token)} is {len(ids)} tokens here: {split}. A target is one token: "
            f"{'; or '.join(advice) or 'choose another'}."
        )

    def target_ids(self, target: str | int) -> list[int]:
        """Return the ids of a target of one token or several, given as text or id; the text follows other text.

        Raises:
            TokenError: The text has no tokens, or one that the embedding has no row for.
        """
        try:
            return [self.token_id(target)]
        except TokenError:
            if not isinstance(target, str):
                raise
            ids = self.encode_after(target) if len(target) <= LONGEST_ANSWER else []
            if len(ids) < 2:
                raise
            return [self._with_row(i) for i in ids]

    def one_token_variants(self, text: str) -> list[tuple[str, str]]:
        """Return a text with another beginning, with or without a space, if that is one token; and what changes."""
        changes = ((" " + text, "with a leading space"), (text.removeprefix(" "), "without the space"))
        found = []
        for variant, change in changes:
            single = self._single(variant) if variant and variant != text else None
            if single is not None and self.piece(single) == variant:
                found.append((variant, change))
        return found

    def _with_row(self, token: int) -> int:
        """Return the id of a token, or raise TokenError if the embedding has no row for it."""
        if token < self.size:
            return token
        raise TokenError(
            f"The target is {self._named(token)}, and the model's embedding has rows for the ids 0 to {self.size - 1} "
            "only."
        )

    def _single(self, text: str) -> int | None:
        """Return the only token that reads as a text, or else that it encodes to; None if it is several tokens."""
        if self._ids is None:
            ids_of: dict[str, list[int]] = {}
            for i in range(self.size):
                ids_of.setdefault(self.piece(i), []).append(i)
            self._ids = ids_of
        ids = self._ids.get(text, []) if text else []
        ids = [i for i in ids if self.allowed[i]] or ids
        if len(ids) > 1:  # SentencePiece has every ASCII character twice: as itself, and as a byte
            ids = [i for i in ids if not _BYTE.fullmatch(self.tokenizer.convert_ids_to_tokens(i))]
        if len(ids) != 1:
            ids = self.encode(text)
        return ids[0] if len(ids) == 1 else None

    def _within(self, text: str, ids: list[int]) -> list[int]:
        """Return the ids of a text within a longer text: without the space that SentencePiece puts before it."""
        rest = ids[1:]
        is_own = self.piece(ids[0]) == " " and "".join(self.tokens(rest)) == text
        return rest if rest and is_own else ids

    def check(self, ids: Any, what: str = "The prompt") -> Int[np.ndarray, "*batch pos"]:
        """Return the ids of one or several prompts as int64; raise PromptError with the reason if invalid."""
        try:
            array = np.asarray(ids)
        except ValueError:
            raise PromptError(
                f"{what} is given as rows of different lengths; score prompts of one length at a time."
            ) from None
        if array.ndim not in (1, 2) or array.size == 0 or array.dtype.kind not in "iu":
            raise PromptError(
                f"{what} must be token ids [n] or [prompts, n]; got shape {list(array.shape)}, {array.dtype}."
            )
        if array.min() < 0 or array.max() >= self.size:
            bad = int(array.min() if array.min() < 0 else array.max())
            empty = " -1 marks empty places before shorter prompts: history.all_ids() has the tokens." * (bad == -1)
            raise PromptError(
                f"{what} contains {self._named(bad)}, outside the vocabulary, which has ids 0 to {self.size - 1}."
                f"{empty}"
            )
        if not self.known[array].all():
            bad = int(array[~self.known[array]][0])
            raise PromptError(
                f"{what} contains id {bad}, and the tokenizer has no such token: its row of the embedding was never "
                "trained. Use ids of tokens."
            )
        return array.astype(np.int64)

    def _named(self, token: int) -> str:
        """Return an id that has no row in the embedding, with its token if the tokenizer has one."""
        name = self.tokenizer.convert_ids_to_tokens(token) if 0 <= token < len(self.tokenizer) else None
        return f"id {token}" if name is None else f"the token {quoted(name)} with id {token}"


def _not_a_text(text: Any, error: Exception) -> PromptError:
    if not isinstance(text, str):
        return PromptError(f"A text was expected, and got {quoted(text)} ({type(text).__name__}).")
    at = next((i for i, c in enumerate(text) if "\ud800" <= c <= "\udfff"), None)
    if at is None:
        return PromptError(f"The text {text[:40]!r} cannot be tokenized: {shorten(str(error).rstrip('.'), 200)}.")
    return PromptError(
        f"The text {text[:40]!r} cannot be tokenized: its character {at}, {text[at]!r}, is half of a surrogate pair "
        "and stands for nothing by itself. Leave it out, or read the text with the right encoding."
    )
