"""Constraint set: constraints compiled for one vocabulary and the lengths of a run's prompts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np

from dreamy_lens.errors import ConstraintError, PromptError, TokenError, quoted
from dreamy_lens.models.vocabulary import LONGEST_TARGET, REPLACEMENT, Vocabulary
from dreamy_lens.search.constraint_kinds import (
    Chat,
    Constraint,
    Contexts,
    Fix,
    ForbidText,
    ForbidTokens,
    Printable,
    RoundTrip,
    Template,
    Varied,
)
from dreamy_lens.search.constraints import listed_constraints
from dreamy_lens.search.lengths import EMPTY, without_empty


class ConstraintSet:
    """Constraints, compiled for one vocabulary and the lengths of a run's prompts.

    Args:
        constraints: Constraints from :mod:`dreamy_lens.search.constraints`.
        vocabulary: Vocabulary of the model.
        length: Largest number of tokens (n) of a prompt.
        allowed: Tokens that may be proposed apart from constraints, bool `[d_vocab]`; None asks the vocabulary.
        shortest: Smallest number of tokens of a prompt, if prompts may have several lengths; they then stand at the
            right (see :mod:`dreamy_lens.search.lengths`), and None is `length`.

    Attributes:
        allowed: Tokens that may be proposed, bool `[d_vocab]`.
        fixed: Tokens that never change, by position.
        free_positions: Positions that may change, int64 `[<= n]`; of shorter prompts, only the last ones exist.
        frames: Token ids before and after the prompt, with the BOS that a text states, in each context; in one without
            `contexts()`.
        prefix, suffix: Token ids before and after the prompt in the first context.

    Raises:
        ConstraintError: The constraints contradict each other, or leave no token or no position to change.
    """

    def __init__(
        self,
        constraints: Sequence[Constraint],
        vocabulary: Vocabulary,
        length: int,
        allowed: np.ndarray | None = None,
        shortest: int | None = None,
    ) -> None:
        self.constraints = listed_constraints(constraints)
        self.vocabulary = vocabulary
        self.length, self.shortest = length, length if shortest is None else shortest
        self.allowed = (vocabulary.allowed if allowed is None else allowed).copy()
        self.fixed: dict[int, int] = {}
        self._predicates: list[tuple[Constraint, Callable[[np.ndarray, str], bool]]] = []
        texts = _texts_around(self.constraints, vocabulary)
        self._around = [(before.casefold(), after.casefold()) for before, after in texts]
        self.frames = template_frames(self.constraints, vocabulary)
        self.prefix, self.suffix = self.frames[0]
        for c in self.constraints:
            self._add(c)
        self._check_fixed()
        self.free_positions = np.array([i for i in range(length) if i not in self.fixed], dtype=np.int64)
        left = int(self.allowed.sum())
        if left < 2:
            raise ConstraintError(
                f"The constraints leave {'only 1' if left else 'none'} of the vocabulary's {vocabulary.size} tokens, "
                f"so there is nothing to search (constraints: {self.describe()}). Loosen a constraint."
            )
        if not len(self.free_positions):
            raise ConstraintError(
                f"All {length} positions are fixed, so there is nothing to search; free one of them, or lengthen the "
                "prompt."
            )
        if self.shortest < length and self.free_positions[-1] < length - self.shortest:
            longer = f"({self.shortest + 1}, {length})" if self.shortest + 1 < length else str(length)
            raise ConstraintError(
                f"The shortest prompts, of {self.shortest}, have only fixed tokens, so there is one such prompt; free "
                f"a position, or begin with longer prompts: length={longer}."
            )

    def describe(self) -> str:
        """Describe all constraints in words."""
        return "; ".join(c.describe() for c in self.constraints) or "none"

    def check(self, rows: np.ndarray) -> np.ndarray:
        """Return which prompts, `[B, n]` of allowed tokens, obey the constraints on whole prompts: bool `[B]`."""
        if not self._predicates:
            return np.ones(len(rows), dtype=bool)
        prompts = [without_empty(row) for row in rows]
        texts = [self.vocabulary.text(prompt) for prompt in prompts]
        return np.array(
            [all(test(ids, text) for _, test in self._predicates) for ids, text in zip(prompts, texts, strict=True)],
            dtype=bool,
        )

    def may_stand(self, rows: np.ndarray) -> np.ndarray:
        """Return which prompts, `[B, n]`, have a length that may be, allowed tokens, and the fixed ones: bool `[B]`."""
        free = rows[:, self.free_positions]
        good = self.allowed[free]
        if self.shortest < self.length:  # empty places may stand only at the left
            empty = free == EMPTY
            good = (good & ~empty) | (empty & (self.free_positions < self.length - self.shortest))
            good[:, 1:] &= ~empty[:, 1:] | empty[:, :-1]
        good = good.all(axis=1)
        for position, token in self.fixed.items():
            good &= rows[:, position] == token
        return good

    def require(self, rows: np.ndarray) -> None:
        """Raise ConstraintError if one of the start prompts `[B, n]` breaks a constraint, which the message names."""
        for row in rows:
            ids = without_empty(row)
            text, before = self.vocabulary.text(ids), self.length - len(ids)
            for position, token in self.fixed.items():
                if row[position] != token:
                    raise ConstraintError(
                        f"The start {quoted(text)} has {self.vocabulary.piece(row[position])!r} at position "
                        f"{position - before}, where {self.vocabulary.piece(token)!r} is fixed. Change the start, or "
                        "the constraint fix()."
                    )
            banned = [i for i in self.free_positions if i >= before and not self.allowed[row[i]]]
            if banned:
                token = int(row[banned[0]])
                why = f"which may not be used here (constraints: {self.describe()})"
                if not self.vocabulary.allowed[token]:
                    why = "which is special or unused, and cannot stand in a prompt"
                raise ConstraintError(
                    f"The start {quoted(text)} has the token {self.vocabulary.text([token])!r} (id {token}) at "
                    f"position {banned[0] - before}, {why}."
                )
            for constraint, test in self._predicates:
                if not test(ids, text):
                    raise ConstraintError(
                        f"The start {quoted(text)} breaks a constraint: {constraint.describe()}. Change the start, or "
                        "drop the constraint."
                    )

    def random(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Draw random prompts that obey the constraints, int64 `[count, n]`.

        Raises:
            ConstraintError: Too few random prompts obey the constraints.
        """
        candidates = np.flatnonzero(self.allowed)
        prompts: list[np.ndarray] = []
        for _ in range(400):
            rows = rng.choice(candidates, size=(max(count, 32), self.length))
            if self.shortest < self.length:
                empty = rng.integers(self.length - self.shortest + 1, size=len(rows))
                rows[np.arange(self.length) < empty[:, None]] = EMPTY
            for position, token in self.fixed.items():
                rows[:, position] = token
            prompts += list(rows[self.check(rows)])
            if len(prompts) >= count:
                return np.stack(prompts[:count])
        raise ConstraintError(
            f"Of {400 * max(count, 32)} random prompts of {self.length} tokens only {len(prompts)} obey the "
            f"constraints ({self.describe()}), and {count} are needed. Give a start that obeys the constraints, "
            "shorten the prompt, or loosen a constraint."
        )

    def _add(self, c: Constraint) -> None:
        """Apply a constraint to the allowed tokens, the fixed tokens, or the tests of whole prompts."""
        vocabulary = self.vocabulary
        pieces = vocabulary.tokens(range(vocabulary.size)) if isinstance(c, (ForbidText, Printable)) else []
        if isinstance(c, ForbidTokens):
            for token in c.tokens:
                self.allowed[vocabulary.token_id(token)] = False
        elif isinstance(c, ForbidText):
            needle = c.text.casefold()
            self.allowed &= np.array([needle not in piece.casefold() for piece in pieces])
            # An occurrence may begin in the template before the prompt, or end in the template after it.
            margin = len(needle) - 1
            around = {(before[max(0, len(before) - margin) :], after[:margin]) for before, after in self._around}
            self._predicates.append((c, lambda row, text: _is_free_of(needle, text.casefold(), around)))
        elif isinstance(c, Printable):
            self.allowed &= np.array([_prints(piece) for piece in pieces])
        elif isinstance(c, Varied):
            self._predicates.append((c, lambda row, text: c.holds(row)))
        elif isinstance(c, RoundTrip):
            self._predicates.append((c, self._round_trips))
        elif isinstance(c, Fix):
            for position, token in c.at:
                self._fix(position, token)

    def _check_fixed(self) -> None:
        """Raise ConstraintError if a fixed token contains forbidden text, because then no prompt can exist.

        A forbidden *token* may be fixed: then it is not proposed at any other position.
        """
        for position, token in self.fixed.items():
            piece = self.vocabulary.piece(token)
            for c in self.constraints:
                if isinstance(c, ForbidText) and c.text.casefold() in piece.casefold():
                    raise ConstraintError(
                        f"Position {position} is fixed to {piece!r}, but a constraint asks for prompts {c.describe()}; "
                        "drop one of the two constraints."
                    )

    def _fix(self, position: int, token: str | int) -> None:
        """Fix the token at a position; raise ConstraintError if that is impossible."""
        if self.shortest < self.length and not -self.shortest <= position < 0:
            raise ConstraintError(
                f"fix() names position {quoted(position)}, and prompts have {self.shortest} to {self.length} tokens "
                f"here, of which only those counted from the end, -1 to {-self.shortest}, stand in every prompt."
            )
        if not -self.length <= position < self.length:
            raise ConstraintError(
                f"fix() names position {quoted(position)}, and prompts of {self.length} tokens have positions 0 to "
                f"{self.length - 1}."
            )
        try:
            chosen = self.vocabulary.token_id(token)
            self.vocabulary.check([chosen], "The fixed token")
        except (TokenError, PromptError) as error:
            several = self._one_by_one(position, token) if isinstance(token, str) else None
            raise ConstraintError(f"fix() at position {position}: {several or error}") from error
        position %= self.length
        if self.fixed.get(position, chosen) != chosen:
            raise ConstraintError(f"Position {position} is fixed to two different tokens; keep one of them.")
        self.fixed[position] = chosen

    def _one_by_one(self, position: int, text: str) -> str | None:
        """Return how to fix a text that is several tokens, or None if it is not."""
        if len(text) > LONGEST_TARGET:
            return None
        pieces = self.vocabulary.tokens(self.vocabulary.encode(text))
        if len(pieces) < 2:
            return None
        first = position if position >= 0 else position - len(pieces) + 1
        listed = ", ".join(f"{first + i}: {quoted(piece)}" for i, piece in enumerate(pieces[:8]))
        more = ", ..." * (len(pieces) > 8)
        return f"{quoted(text)} is {len(pieces)} tokens here. Fix one token at each position: fix({{{listed}{more}}})."

    def _round_trips(self, row: np.ndarray, text: str) -> bool:
        """Return whether a prompt, inside its template, is encoded back to the same ids."""
        for prefix, suffix in self.frames:
            ids = [*prefix, *row.tolist(), *suffix]
            if self.vocabulary.encode(self.vocabulary.text(ids) if prefix or suffix else text) != ids:
                return False
        return True


def _is_free_of(needle: str, text: str, around: Collection[tuple[str, str]]) -> bool:
    """Return whether a text does not contain another, also across its beginning and its end."""
    return all(needle not in before + text + after for before, after in around)


def contexts_of(constraints: Sequence[Constraint]) -> Contexts | None:
    """Return the constraint that prompts are scored in several contexts; None if there is none."""
    return next((c for c in constraints if isinstance(c, Contexts)), None)


def template_frames(constraints: Sequence[Constraint], vocabulary: Vocabulary) -> list[tuple[list[int], list[int]]]:
    """Return the token ids before and after the prompt in each context: in one without `contexts()`.

    Special tokens in the text, such as those of a chat, are tokens. A BOS that the text begins with is the first of the
    ids: where a BOS stands before every row anyway, the scorer takes it once.

    Args:
        constraints: Constraints, of which at most one is a template, a chat or several contexts.
        vocabulary: Vocabulary of the model.

    Raises:
        ConstraintError: There are several templates, or a template has a token that the model has no row for.
    """
    frames = []
    for before, after in _texts_around(constraints, vocabulary):
        ids = vocabulary.encode(before) if before else [], vocabulary.encode_after(after)
        for part in ids:
            if part:
                try:
                    vocabulary.check(part, "The template")
                except PromptError as error:
                    raise ConstraintError(str(error)) from None
        frames.append(ids)
    return frames


def template_ids(constraints: Sequence[Constraint], vocabulary: Vocabulary) -> tuple[list[int], list[int]]:
    """Return the token ids before and after the prompt in the first context; see :func:`template_frames`."""
    return template_frames(constraints, vocabulary)[0]


def _texts_around(constraints: Sequence[Constraint], vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Return the text before and after the prompt in each context."""
    given = [c for c in constraints if isinstance(c, (Template, Chat, Contexts))]
    if len(given) > 1:
        kinds = " or chat" * any(isinstance(c, Chat) for c in given)
        several = any(isinstance(c, Contexts) for c in given)
        advice = "; put all of them into contexts([...])." if several else ". contexts([...]) takes several."
        raise ConstraintError(f"There can be only one template{kinds}; got {len(given)}{advice}")
    if not given:
        return [("", "")]
    frames = given[0].frames if isinstance(given[0], Contexts) else given
    return [_text_around(frame, vocabulary) for frame in frames if isinstance(frame, (Template, Chat))]


def _text_around(frame: Template | Chat, vocabulary: Vocabulary) -> tuple[str, str]:
    """Return the text of a template or chat before and after the prompt."""
    if isinstance(frame, Chat):
        return frame.texts(vocabulary.tokenizer)
    before, after = frame.text.split("{dream}")
    return before, after


def _prints(piece: str) -> bool:
    """Return whether a token's text is printable, new lines and tabs included."""
    return bool(piece) and REPLACEMENT not in piece and all(c.isprintable() or c in "\n\t" for c in piece)
