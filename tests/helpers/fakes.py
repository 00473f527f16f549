"""Stand-ins for what needs a model or a browser: a decoder over a list of pieces, steps of a search, prompts."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser

import numpy as np

from dreamy_lens.results import Attribution, Frontier, History, HistoryBuilder, Prompt, Provenance
from dreamy_lens.search import Step

ORIGIN = Provenance("L2.N17", "docstrings", seed=3, iteration=None, prepend_bos=True)
HOSTILE = (
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "<!--",
    "]]>",
    "&lt;b&gt;",
    "\u2028",
    "\u2029",
    "\u202e",
    "\u2066",
    "\u200f",
    "\udfff",
    "\ud800",
    "\x00",
    "\x1b[31m",
    "\ufffd",
    "\ufeff",
    "\r\n",
    "\t",
    "    ",
    "",
    "\u0301",
    "\u05e9\u05dc\u05d5\u05dd",
    "`${x}`",
    "\\u003c",
)


class Pieces:
    """A decoder whose token i is the i-th piece; ids from `len(pieces)` on are words."""

    def __init__(self, pieces: tuple[str, ...] = ()) -> None:
        self.pieces = pieces

    def tokens(self, ids) -> list[str]:
        return [self.pieces[i] if i < len(self.pieces) else f" w{i}" for i in ids]

    def text(self, ids) -> str:
        return "".join(self.tokens(ids))

    def round_trips(self, ids) -> bool:
        return sum(ids) % 2 == 0


def steps(iterations: int, new: int = 16, n: int = 4, members: int = 3, seed: int = 0, vocabulary: int = 50):
    """Steps of a search that draws at random, with distinct prompts and a restart every fourth iteration."""
    rng, seen = np.random.default_rng(seed), set()
    for t in range(iterations + 1):
        drawn = [ids for ids in map(tuple, rng.integers(0, vocabulary, (new, n)).tolist()) if ids not in seen]
        ids = np.array(list(dict.fromkeys(drawn)), dtype=np.int64).reshape(-1, n)
        seen.update(map(tuple, ids.tolist()))
        value = rng.normal(t, 3, len(ids)).round(1).astype(np.float32)
        costs = rng.uniform(2, 12, len(ids)).round(1).astype(np.float32)
        restart, seconds = 1.5 if t and t % 4 == 0 else None, 0.5 * t + 0.25
        # A history takes no interest in how a search goes on, so there is no state.
        yield Step(t, ids, value, costs, ids[:members], restart, t, t % 2, seconds, None, 7.0 * t)  # type: ignore[arg-type]


def build(found: Iterator, members: int = 3) -> History:
    builder = HistoryBuilder(np.geomspace(0.1, 10, members))
    for step in found:
        builder.add(step)
    return builder.build()


def prompt(value: float, cross_entropy: float, text: str = " a file", seed: int | None = 3, ids=(1, 2)) -> Prompt:
    origin = Provenance("L2.N17", "docstrings", seed=seed, iteration=1, prepend_bos=True)
    return Prompt(tuple(ids), (text[:2], text[2:]), text, value, cross_entropy, True, origin)


def frontier_of(*points: tuple[float, float], seed: int | None = 3) -> Frontier:
    """A frontier from (value, cross-entropy)."""
    return Frontier(prompt(v, c, f" at {v} {c}", seed) for v, c in points)


def attribution_of(tokens: tuple[str, ...], k: int = 5, seed: int = 0, pieces: tuple[str, ...] = ()) -> Attribution:
    rng, n = np.random.default_rng(seed), len(tokens)
    candidates = rng.integers(100, 200, (n, k))
    decoder = Pieces(pieces)
    names = tuple(
        tuple(decoder.tokens((row % max(1, len(pieces))).tolist() if pieces else row.tolist())) for row in candidates
    )
    values = rng.normal(2, 1, (n, k)).astype(np.float32)
    costs = rng.uniform(3, 6, (n, k)).astype(np.float32)
    return Attribution(np.arange(n), tokens, 3.0, 4.5, candidates, values, costs, names, "L2.N17")


class Reader(HTMLParser):
    """Collects what a browser would make of a piece: elements, attributes and text."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.said: list[str] = []
        self.open: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in ("br", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        self.said.append(data)
