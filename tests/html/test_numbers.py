"""Numbers as text."""

from __future__ import annotations

from dreamy_lens.html.numbers import decimals, number, perplexity


def test_numbers_are_written_for_people():
    assert number(-0.0001, 2) == "0.00" and number(float("inf"), 1) == "∞"
    assert number(1234.5, 2) == "1,234.50" and number(-2, 1, sign=True) == "−2.0"
    assert [perplexity(x) for x in (7.39, 99.96, 12345.6, float("inf"))] == ["7.4", "100", "12,346", "∞"]
    assert decimals([]) == decimals([0.0]) == 3 and decimals([float("nan"), 20]) == 2
