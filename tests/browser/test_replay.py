"""The replay of a run in Chromium: it moves without scripts, one frame at a time, and loops."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dreamy_lens.figures import ReplayFrame, replay

if TYPE_CHECKING:
    from playwright.sync_api import Page

SEEN = """(now) => {
  for (const animation of document.getAnimations()) { animation.pause(); animation.currentTime += 0; }
  for (const animation of document.getAnimations()) animation.currentTime = now * 1000;
  return [...document.querySelectorAll("g.r, g.e")].map((g) => getComputedStyle(g).visibility);
}"""


def written(path: Path) -> Path:
    values = np.array([1.0, 2.0, 3.0])
    frames = [ReplayFrame(i, values + 1, values * (i + 1), 2, f" prompt number {i}", 10 * i) for i in range(5)]
    figure = replay(frames, "L2.N812", "embedded, seed 0", seconds=10.0)
    figure.save(path)
    return path


def test_one_frame_at_a_time_is_seen_and_the_last_one_stays(offline_page: Callable[..., Page], tmp_path: Path):
    page = offline_page(written(tmp_path / "replay.html"))
    for now, frame in ((0.1, 0), (1.8, 0), (2.0, 1), (7.4, 3), (7.6, 4), (9.9, 4), (10.1, 0), (12.0, 1)):
        seen = page.evaluate(SEEN, now)
        assert [i for i, how in enumerate(seen) if how == "visible"] == [frame], now
        assert page.get_by_text(f"prompt number {frame}").is_visible()


def test_readers_who_ask_for_less_motion_see_the_end(offline_page: Callable[..., Page], tmp_path: Path):
    page = offline_page(written(tmp_path / "replay.html"))
    page.emulate_media(reduced_motion="reduce")
    seen = page.evaluate("() => [...document.querySelectorAll('g.r, g.e')].map((g) => getComputedStyle(g).visibility)")
    assert seen == ["hidden"] * 4 + ["visible"] and not page.evaluate("() => document.getAnimations().length")
