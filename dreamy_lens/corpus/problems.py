"""What a corpus passes over: counted by kind, the first few by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

NAMED = 20
"""How many problems are kept by name."""


@dataclass(frozen=True)
class Problem:
    """A line, a file or a document that was passed over, or read with replacements.

    Attributes:
        name: what it is called, as "data/a.jsonl:17".
        why: a clause that says what is wrong.
        kind: what it is counted as: "broken line", "no text", "unreadable file", "unknown format",
            "replaced characters".
    """

    name: str
    why: str
    kind: str

    def __str__(self) -> str:
        return f"{self.name} ({self.why})"


@dataclass
class Problems:
    """Problems counted by kind, and the first of them by name.

    Attributes:
        counts: how many there are of each kind.
        first: the first twenty, in the order of the corpus.

    >>> found = Problems()
    >>> found.add(Problem("a.jsonl:3", "not JSON", "broken line"))
    >>> len(found), str(found)
    (1, '1 broken line: a.jsonl:3 (not JSON)')
    """

    counts: dict[str, int] = field(default_factory=dict)
    first: list[Problem] = field(default_factory=list)

    def add(self, problem: Problem) -> None:
        """Count a problem."""
        self.counts[problem.kind] = self.counts.get(problem.kind, 0) + 1
        if len(self.first) < NAMED:
            self.first.append(problem)

    @classmethod
    def total(cls, parts: Iterable[Problems]) -> Problems:
        """All of several, given in the order of the corpus."""
        found = cls()
        for part in parts:
            for kind, count in part.counts.items():
                found.counts[kind] = found.counts.get(kind, 0) + count
            found.first += part.first[: NAMED - len(found.first)]
        return found

    def __len__(self) -> int:
        return sum(self.counts.values())

    def __iter__(self) -> Iterator[Problem]:
        return iter(self.first)

    def __str__(self) -> str:
        if not self:
            return "no problems"
        counts = ", ".join(f"{n:,} {kind if n == 1 else _plural(kind)}" for kind, n in self.counts.items())
        more = len(self) - len(self.first)
        return f"{counts}: {', '.join(map(str, self.first))}{f' and {more:,} more' if more else ''}"


def _plural(kind: str) -> str:
    return {"no text": "rows without text", "replaced characters": "texts with replaced characters"}.get(
        kind, kind + "s"
    )
