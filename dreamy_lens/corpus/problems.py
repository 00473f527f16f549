"""Problems in the sources of a corpus: counted by kind, and the first few kept by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

MAX_NAMED = 20
"""Number of problems that are kept by name."""


@dataclass(frozen=True)
class Problem:
    """A line, a file or a document that was skipped, or in which characters were replaced.

    Attributes:
        name: Name of the line, file or document, such as "data/a.jsonl:17".
        why: Clause that says what is wrong.
        kind: Kind under which the problem is counted: "broken line", "no text", "unreadable file", "unknown format" or
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
        counts: Number of problems of each kind.
        first: First twenty problems, in the order of the corpus.

    >>> problems = Problems()
    >>> problems.add(Problem("a.jsonl:3", "not JSON", "broken line"))
    >>> len(problems), str(problems)
    (1, '1 broken line: a.jsonl:3 (not JSON)')
    """

    counts: dict[str, int] = field(default_factory=dict)
    first: list[Problem] = field(default_factory=list)

    def add(self, problem: Problem) -> None:
        """Count a problem."""
        self.counts[problem.kind] = self.counts.get(problem.kind, 0) + 1
        if len(self.first) < MAX_NAMED:
            self.first.append(problem)

    @classmethod
    def total(cls, parts: Iterable[Problems]) -> Problems:
        """Return the sum of several parts, which are given in the order of the corpus."""
        total = cls()
        for part in parts:
            for kind, count in part.counts.items():
                total.counts[kind] = total.counts.get(kind, 0) + count
            total.first += part.first[: MAX_NAMED - len(total.first)]
        return total

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
