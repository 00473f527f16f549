"""Numbers and names as people say them."""

from __future__ import annotations

from collections.abc import Iterable

from dreamy_lens.html.page import decimals, number

_STEPS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def count(n: float) -> str:
    """How many, in two or three digits that matter.

    >>> [count(n) for n in (812, 9_999, 12_345, 999_950, 1_234_567, 500_000_000)]
    ['812', '9,999', '12k', '1M', '1.2M', '500M']
    """
    if n < 10_000:
        return f"{n:,.0f}"
    for size, name in _STEPS:
        share = n / size
        if share >= 0.9995:
            text = f"{share:.1f}" if share < 9.95 and name != "k" else f"{share:.0f}"
            return f"{text.removesuffix('.0')}{name}"
    return f"{n:,.0f}"


def plural(n: int, one: str, more: str | None = None) -> str:
    """A count with its noun.

    >>> plural(1, "dream"), plural(12_000, "window")
    ('1 dream', '12k windows')
    """
    return f"{count(n)} {one if n == 1 else more or one + 's'}"


def values(*numbers: float) -> list[str]:
    """Values of a feature that are read together, with decimal places that tell them apart.

    >>> values(5.21, 3.94, 1.27)
    ['5.21', '3.94', '1.27']
    """
    places = decimals(numbers, 3)
    return [number(x, places) for x in numbers]


def limit(x: float) -> str:
    """A cross-entropy that somebody chose.

    >>> limit(4.0), limit(3.25)
    ('4', '3.25')
    """
    return f"{x:.4g}"


def listed(items: Iterable[str]) -> str:
    """Things one after the other.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    *first, last = list(items)
    return f"{', '.join(first)} and {last}" if first else last
