"""Frames of a run's replay: its frontier after the iterations that changed it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import numpy as np

from dreamy_lens._files import check_file, ending_of
from dreamy_lens.errors import FileWriteError, quoted
from dreamy_lens.figures.animation import FRAMES, ReplayFrame
from dreamy_lens.results.history import History


def check_replay(path: str | os.PathLike[str]) -> None:
    """Check, before work begins, that a replay can be written to a file.

    Args:
        path: File that will be written.

    Raises:
        FileWriteError: The file cannot be written, or its ending is not .svg or .html.
    """
    if ending_of(path) not in ("svg", "html", "htm"):
        raise FileWriteError(
            f"{quoted(os.fspath(path), 300)} does not end in a format that moves: end the name in .svg, or in .html "
            "for a page. A video or a GIF can be recorded from the page in a browser."
        )
    check_file(path)


def frames_of(
    history: History, text: Callable[[Sequence[int]], str], max_cross_entropy: float | None = None, most: int = FRAMES
) -> list[ReplayFrame]:
    """Return the frontiers of a run as frames of a replay; none if no prompt has finite scores.

    Args:
        history: Every evaluated prompt.
        text: Function that returns the text of token ids.
        max_cross_entropy: Limit under which the best prompt of a frame is taken; None takes the strongest. If no prompt
            is under the limit, the most fluent one is taken.
        most: Most frames; they are spread evenly over the iterations that changed the frontier.
    """
    ends = np.searchsorted(history.iteration, np.arange(history.iterations + 1), side="right")
    changes: list[tuple[int, np.ndarray]] = []
    for iteration in range(len(ends)):
        rows = history.frontier_rows(iteration)
        if len(rows) and (not changes or not np.array_equal(rows, changes[-1][1])):
            changes.append((iteration, rows))
    if not changes:
        return []
    kept = np.unique(np.linspace(0, len(changes) - 1, most).astype(int)).tolist()
    frames = []
    for iteration, rows in (changes[i] for i in kept):
        cross_entropies, values = history.cross_entropy[rows].astype(float), history.value[rows].astype(float)
        under = (
            len(rows)
            if max_cross_entropy is None
            else int(np.searchsorted(cross_entropies, max_cross_entropy, "right"))
        )
        best = max(0, under - 1)
        words = text(history.ids_of(int(rows[best])))
        frames.append(ReplayFrame(iteration, cross_entropies, values, best, words, int(ends[iteration])))
    if frames[-1].iteration < history.iterations:  # the search may go on after the last change
        last = frames[-1]
        moved = (last.cross_entropies, last.values, last.best, last.text, len(history))
        frames[-1] = ReplayFrame(history.iterations, *moved)
    return frames
