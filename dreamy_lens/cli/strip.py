"""Strip of coloured tokens in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dreamy_lens.html.escaping import visible

if TYPE_CHECKING:
    from dreamy_lens.results.attribution import Attribution

_COLOUR = (178, 24, 43)
"""Red, green and blue of the full colour; on pages the same tokens have this colour."""


def print_strip(attribution: Attribution) -> None:
    """Print the tokens of an attribution, coloured by the drop with the worst substitute; nothing without colours.

    A terminal that is no terminal, or the environment variable `NO_COLOR`, gets no strip: the table says the same.

    Args:
        attribution: Attribution of a prompt.
    """
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal or console.no_color or console.color_system is None:
        return
    drops = np.nan_to_num(np.asarray(attribution.drop_to_worst, dtype=np.float64))
    full = max(float(drops.max(initial=0.0)), 1e-12)
    line = Text()
    for token, drop in zip(attribution.tokens, drops, strict=True):
        strength = min(1.0, max(0.0, float(drop) / full))
        red, green, blue = (round(255 + (colour - 255) * strength) for colour in _COLOUR)
        text = "white" if strength > 0.6 else "black"
        line.append(visible(token, token=True), style=f"{text} on rgb({red},{green},{blue})")
    console.print(line, soft_wrap=True)
    console.print(f"Colour: drop in value with the worst substitute (max {full:.4g})\n", style="dim", soft_wrap=True)
