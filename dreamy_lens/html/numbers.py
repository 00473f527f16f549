"""Numbers as text: few digits, a true minus sign, separated thousands."""

from __future__ import annotations

import math
from collections.abc import Iterable


def decimals(values: Iterable[float], digits: int = 4) -> int:
    """Return the number of decimal places with which the largest value has `digits` significant digits.

    >>> decimals([0.5, 12.0]), decimals([1234567.0]), decimals([0.00012])
    (2, 0, 6)
    """
    largest = max((abs(v) for v in values if math.isfinite(v)), default=0.0)
    return min(6, max(0, digits - 1 - math.floor(math.log10(largest)))) if largest > 0 else digits - 1


def number(value: float, places: int, sign: bool = False) -> str:
    """Format a number with a true minus sign and separated thousands; NaN becomes a dash.

    >>> number(-1234.5, 1), number(0.25, 1, sign=True), number(float("nan"), 2)
    ('−1,234.5', '+0.2', '-')
    """
    if math.isnan(value):
        return "-"
    text = f"{value:{'+' if sign else ''},.{places}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−").replace("inf", "∞")


def format_perplexity(value: float) -> str:
    """Format a perplexity with three significant digits."""
    return "∞" if math.isinf(value) else f"{value:,.1f}" if value < 99.95 else f"{value:,.0f}"


def format_share(x: float) -> str:
    """Clip a share to the range from 0 to 1 and format it in as few characters as possible, with two decimal places.

    >>> [format_share(x) for x in (0.504, 7.0, -1.0, float("nan"))]
    ['.5', '1', '0', '0']
    """
    share = 0.0 if math.isnan(x) else min(1.0, max(0.0, x))
    return f"{share:.2f}".removesuffix("0").removesuffix(".0").replace("0.", ".")
