"""Counts, values and limits as text for sentences."""

from __future__ import annotations

from dreamy_lens.html.numbers import decimals, number

_STEPS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def format_count(n: float) -> str:
    """Format a count with two or three significant digits.

    >>> [format_count(n) for n in (812, 9_999, 12_345, 999_950, 1_234_567, 500_000_000)]
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


def heading_of(column: str) -> str:
    """Return the name of a table's column as words.

    >>> heading_of("best_cross_entropy"), heading_of("seed")
    ('best cross-entropy', 'seed')
    """
    return column.replace("cross_entropy", "cross-entropy").replace("_", " ")


def plural(n: int, noun: str, nouns: str | None = None) -> str:
    """Format a count together with its noun.

    >>> plural(1, "dream"), plural(12_000, "window")
    ('1 dream', '12k windows')
    """
    return f"{format_count(n)} {noun if n == 1 else nouns or noun + 's'}"


def format_values(*numbers: float) -> list[str]:
    """Format several values of a feature with the same number of decimal places, so that a reader can compare them.

    >>> format_values(5.21, 3.94, 1.27)
    ['5.21', '3.94', '1.27']
    """
    places = decimals(numbers, 3)
    return [number(x, places) for x in numbers]


def format_limit(x: float) -> str:
    """Format a limit of the cross-entropy with up to four significant digits.

    >>> format_limit(4.0), format_limit(3.25)
    ('4', '3.25')
    """
    return f"{x:.4g}"
