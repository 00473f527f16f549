"""The replay of a run as an animation."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

import dreamy_lens as dl
from dreamy_lens.errors import FileWriteError, SettingsError
from dreamy_lens.figures import ReplayFrame, replay
from dreamy_lens.results.history import HistoryBuilder
from dreamy_lens.runs.frames import frames_of
from tests.helpers.fakes import HOSTILE

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def run():
    return dl.dream("L2.N812", iterations=6, length=6, progress=False)


def test_frames_are_the_frontiers_after_the_iterations_that_changed_them(run):
    frames = frames_of(run.history, run.so_far.text)
    assert [f.iteration for f in frames] == sorted({f.iteration for f in frames}) and len(frames) > 2
    for frame in frames:
        rows = run.history.frontier_rows(frame.iteration)
        np.testing.assert_allclose(frame.values, run.history.value[rows])
        assert frame.best == len(rows) - 1 and frame.text == run.so_far.text(run.history.ids[rows[-1]].tolist())
        assert frame.evaluated == (run.history.iteration <= frame.iteration).sum()
    assert frames[-1].iteration == run.history.iterations and frames[-1].text == run.frontier.best().text
    limited = frames_of(run.history, run.so_far.text, max_cross_entropy=5.0)
    fluent = run.frontier.best(max_cross_entropy=5.0)
    assert limited[-1].text == fluent.text
    assert frames_of(run.history, run.so_far.text, max_cross_entropy=0.0)[-1].best == 0
    few = frames_of(run.history, run.so_far.text, most=3)
    assert len(few) == 3 and few[-1].iteration == frames[-1].iteration


def test_a_replay_is_written_as_an_svg_without_scripts_and_as_a_page(run, tmp_path: Path):
    figure = run.replay(tmp_path / "new" / "replay.svg", seconds=8)
    text = (tmp_path / "new" / "replay.svg").read_text(encoding="utf-8")
    assert text == figure.svg and "script" not in text and "8s step-end infinite" in text and "href" not in text
    groups = [g for g in ET.fromstring(text).iter(f"{SVG}g") if g.get("class") in ("r", "e")]
    assert len(groups) == len(frames_of(run.history, run.so_far.text)) and groups[-1].get("class") == "e"
    assert run.frontier.best().text.split()[0] in "".join(groups[-1].itertext())
    assert "prefers-reduced-motion" in text
    run.replay(tmp_path / "page.html")
    assert "<script" not in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_exactly_one_frame_is_seen_at_every_moment():
    values = np.array([1.0, 2.0])
    frames = [ReplayFrame(i, values + 1, values + i, 1, f"text {i}", 10 * i) for i in range(5)]
    svg = replay(frames, "L2.N812", seconds=10.0).svg
    delays = [-float(d or 0) for d in re.findall(r'<g class="[re]"(?: style="animation-delay:-([\d.]+)s")?>', svg)]
    first, end = (float(re.search(rf"@keyframes {name}.*?visible}}([\d.]+)%", svg)[1]) / 10 for name in "re")
    for now in np.arange(0.05, 10, 0.1):
        spans = [first] * 4 + [end]
        seen = [i for i, (delay, span) in enumerate(zip(delays, spans, strict=True)) if (now - delay) % 10 < span]
        assert len(seen) == 1 and seen[0] == (4 if now > 7.5 else int(now / 1.875)), now


def test_a_replay_of_300_iterations_is_small_and_hostile_texts_stay_text():
    rng = np.random.default_rng(0)
    frames = []
    for i in range(90):
        x, y = np.sort(rng.uniform(2, 12, 45)), np.sort(rng.uniform(-1, 9, 45))
        frames.append(
            ReplayFrame(3 * i, x, y, 44, "".join(HOSTILE[j % len(HOSTILE)] for j in range(i, i + 12)), 256 * i)
        )
    svg = replay(frames, HOSTILE[0], HOSTILE[1]).svg
    assert len(svg.encode("utf-8", "replace")) < 300_000
    kinds = {element.tag.removeprefix(SVG) for element in ET.fromstring(svg.encode("utf-8", "replace")).iter()}
    assert kinds == {"svg", "title", "style", "rect", "text", "g", "path", "circle"}


def test_the_file_is_checked_before_the_work(run, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("dreamy_lens.runs.dream.frames_of", lambda *given: pytest.fail("the work began"))
    for name in ("replay.gif", "replay.mp4", "replay.png", "replay"):
        with pytest.raises(FileWriteError, match=r"end the name in \.svg"):
            run.replay(tmp_path / name)
    (tmp_path / "folder.svg").mkdir()
    with pytest.raises(FileWriteError):
        run.replay(tmp_path / "folder.svg")
    for seconds in (0, -1, "8", True, float("nan")):
        with pytest.raises(SettingsError, match="seconds"):
            run.replay(seconds=seconds)


def test_one_frontier_is_a_replay_too_and_an_empty_history_has_no_frames():
    run = dl.dream("L2.N812", iterations=0, length=4, progress=False)
    assert run.replay().svg.count('<g class="e"') == 1
    empty = HistoryBuilder(run.config.lambdas).build()
    assert frames_of(empty, run.so_far.text) == []


@pytest.mark.slow
def test_the_command_line_writes_a_replay(run, tmp_path: Path):
    run.save(tmp_path / "run")
    command = [sys.executable, "-m", "dreamy_lens", "show", str(tmp_path / "run"), "--replay"]
    done = subprocess.run([*command, str(tmp_path / "a.svg")], capture_output=True, text=True, check=True)
    assert "a.svg" in done.stdout and "<svg" in (tmp_path / "a.svg").read_text(encoding="utf-8")
    refused = subprocess.run([*command, str(tmp_path / "a.gif")], capture_output=True, text=True, check=False)
    assert refused.returncode and "end the name in .svg" in refused.stderr and "Traceback" not in refused.stderr
