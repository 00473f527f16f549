"""What a dream leaves behind, as plain data: prompts, history, frontier, attribution, and the folders that keep them.

Nothing here needs a model or torch: results are read, compared, drawn and saved on any machine.
"""

from __future__ import annotations

from dreamy_lens.results.attribution import Attribution, Substitute
from dreamy_lens.results.frontier import Frontier, hull_rows, hypervolume, non_dominated
from dreamy_lens.results.history import History, HistoryBuilder
from dreamy_lens.results.prompt import Decoder, Prompt, Provenance

__all__ = [
    "Attribution",
    "Decoder",
    "Frontier",
    "History",
    "HistoryBuilder",
    "Prompt",
    "Provenance",
    "Substitute",
    "hull_rows",
    "hypervolume",
    "non_dominated",
]
