"""Plotly figures of results, by what they contain."""

from __future__ import annotations

import inspect
import itertools
import json
import logging
import os
import re
import struct
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from dreamy_lens.errors import DreamyLensError, SettingsError, WaitError
from dreamy_lens.figures import attribution_figure, evolution_figure, frontier_figure, runs_figure, save, style
from dreamy_lens.figures.frontier import CLOUD
from dreamy_lens.results import Frontier, SavedRun, merge
from tests.helpers.fakes import HOSTILE, ORIGIN, Pieces, attribution_of, build, frontier_of, prompt, steps


def named(figure) -> dict[str, object]:
    return {trace.name: trace for trace in figure.data}


def test_a_frontier_is_drawn_as_steps_over_its_history_with_others_and_hull():
    frontier, history = frontier_of((1, 2), (1.5, 3), (9, 4)), build(steps(8))
    traces = named(frontier_figure(frontier, {"dataset": frontier_of((0, 1))}, hull=frontier.hull(), history=history))
    assert list(traces) == ["evaluated", "dataset", "frontier", "convex hull"]
    assert list(traces["frontier"].x) == [2, 3, 4] and list(traces["frontier"].y) == [1, 1.5, 9]
    assert traces["frontier"].line.shape == "hv" and list(traces["convex hull"].y) == [1, 9]
    assert len(traces["evaluated"].x) == len(history) and traces["dataset"].line.color != traces["frontier"].line.color
    assert [t.name for t in frontier.plot(others=[frontier]).data] == ["other 1", "frontier"]


def test_a_long_history_is_thinned_and_the_axes_stay_with_the_frontier():
    history = build(steps(30, new=200))
    figure = frontier_figure(frontier_of((40, 3), (50, 6)), history=history)
    assert len(history) > CLOUD == len(figure.data[0].x) and f"of {len(history):,} evaluated" in figure.data[0].name
    low, high = figure.layout.yaxis.range
    assert 30 < low < 40 and 50 < high < 55


def test_several_runs_and_what_they_reach_together():
    runs = [SavedRun(ORIGIN, frontier_of((1, 2), (5, 6))), SavedRun(ORIGIN, frontier_of((2, 3)))]
    merged = merge(runs)
    figure = merged.plot()
    assert [t.name for t in figure.data] == ["seed 3", "seed 3", "all runs"]
    assert list(figure.data[-1].y) == merged.frontier.values.tolist()
    assert runs_figure(merged, dark=True).layout.paper_bgcolor != figure.layout.paper_bgcolor


def test_the_evolution_has_value_and_hypervolume_with_restarts_marked():
    history = build(steps(9))
    figure, frame = evolution_figure(history), history.evolution()
    assert np.array_equal(figure.data[0].y, frame["best_value"]) and np.array_equal(
        figure.data[1].y, frame["hypervolume"]
    )
    assert {shape.x0 for shape in figure.layout.shapes} == {4, 8}
    several = evolution_figure({"a": history, "b": build(steps(5, seed=1))})
    assert [t.name for t in several.data] == ["a", "a", "b", "b"]
    assert len(evolution_figure(build(iter(()))).data) == 2


def test_several_evolutions_are_measured_from_one_reference():
    one, other = build(steps(3)), build(steps(3, seed=5))
    reference = min(one.reference()[0], other.reference()[0]), max(one.reference()[1], other.reference()[1])
    figure = evolution_figure([one, other])
    assert np.array_equal(figure.data[1].y, one.evolution(reference)["hypervolume"])
    assert np.array_equal(figure.data[3].y, other.evolution(reference)["hypervolume"])


def test_the_attribution_figure_has_every_substitute_best_first():
    found = attribution_of((" a", " b", " c"), k=6)
    figure = attribution_figure(found)
    z = np.array(figure.data[0].z, dtype=float)
    assert z.shape == (6, 3) and np.allclose(z[0], -found.drop_to_best) and np.allclose(z[-1], -found.drop_to_worst)
    assert np.all(np.diff(z, axis=0) <= 0) and list(figure.layout.xaxis.ticktext) == [" a", " b", " c"]
    assert figure.data[0].zmin == -figure.data[0].zmax


@pytest.mark.parametrize("dark", [False, True])
def test_hostile_tokens_are_neither_tags_nor_formulas_in_figures(dark):
    pieces = (*HOSTILE, "$x^2$", "<b>")
    frontier = Frontier([prompt(i, i + 1, text) for i, text in enumerate(pieces)])
    figures = [frontier_figure(frontier, dark=dark), attribution_figure(attribution_of(pieces, pieces=pieces), dark)]
    for figure in figures:
        text = json.loads(figure.to_json())
        said = json.dumps([t["text"] for t in text["data"]] + [text["layout"]["xaxis"].get("ticktext", [])])
        assert "$" not in said and "<script" not in said and "<img" not in said
        figure.to_html(include_plotlyjs=False).encode("utf-8")


# Colours and lines.


def simulated(colour: str, matrix) -> np.ndarray:
    """Return the CIELAB coordinates of a colour for an eye whose response to linear light a matrix changes."""
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    light = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ np.clip(
        np.array(matrix) @ light, 0, 1
    )
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116) / np.cbrt([0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def luminance(colour: str) -> float:
    lightness = simulated(colour, np.eye(3))[0]
    return ((lightness + 16) / 116) ** 3


EYES = {  # Machado, Oliveira and Fernandes (2009), severity 1
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


@pytest.mark.parametrize("eye", EYES)
@pytest.mark.parametrize(("ground", "colours"), [("#ffffff", style.LIGHT), ("#15181c", style.DARK)])
def test_lines_stand_out_and_differ_for_every_colour_vision(eye, ground, colours):
    for one, other in itertools.combinations(colours, 2):
        apart = np.linalg.norm(simulated(one, EYES[eye]) - simulated(other, EYES[eye]))
        assert apart > 10, (one, other)
    for colour in colours:
        low, high = sorted([luminance(colour), luminance(ground)])
        assert (high + 0.05) / (low + 0.05) >= 3, colour


def test_figures_have_the_colours_of_the_pages():
    css = (files("dreamy_lens") / "html" / "style.css").read_text(encoding="utf-8")
    for blue, heat, ground in zip((style.LIGHT[0], style.DARK[0]), style.HEAT, ("#fff", "#15181c"), strict=True):
        assert f"--bar: {blue}" in css and f"--bg: {ground}" in css
        assert "--heat: " + " ".join(re.findall("[0-9]+", heat)) in css
    for dark in (False, True):
        assert all(colour in css for colour in style.palette(dark)[:2])


def test_no_two_lines_differ_by_colour_alone():
    runs = [SavedRun(ORIGIN, frontier_of((i, 2), (5 + i, 6))) for i in range(5)]
    traces = merge(runs).plot().data
    assert len({(t.line.dash, t.marker.symbol) for t in traces}) == len(traces) == 6
    many = merge([*runs, *runs]).plot().data
    assert [t.name for t in many if t.showlegend is not False] == ["10 runs", "all runs"]
    evolutions = evolution_figure([build(steps(3, seed=i)) for i in range(4)])
    assert len({t.line.dash for t in evolutions.data}) == 4


def test_the_frontier_after_several_iterations():
    history = build(steps(16))
    figure = history.plot()
    assert [t.name for t in figure.data] == ["0", "2", "4", "8", "16"]
    for trace in figure.data:
        rows = history.frontier_rows(int(trace.name))
        assert list(trace.y) == history.value[rows].tolist() and list(trace.x) == history.cross_entropy[rows].tolist()
    assert len({t.line.color for t in figure.data}) == len({t.line.dash for t in figure.data}) == 5
    assert figure.data[-1].line.color == "rgb(10, 106, 176)" and "16" in {a.text for a in figure.layout.annotations}
    assert " w" in history.plot(iterations=[3, 5], decoder=Pieces()).data[0].text[0]
    with pytest.raises(SettingsError, match="no iteration 17: the run has 0 to 16"):
        history.plot(iterations=[17])
    assert not build(iter(())).plot().data


# Files.


def every_figure(dark: bool) -> dict:
    frontier, history = frontier_of((1, 2), (1.5, 3), (9, 4)), build(steps(9))
    merged = merge([SavedRun(ORIGIN, frontier), SavedRun(ORIGIN, frontier_of((2, 3)))])
    pieces = (" the", "<b>", "$x$", "\n", " longest")
    return {
        "frontier": frontier_figure(frontier, {"other": frontier}, hull=frontier.hull(), history=history, dark=dark),
        "runs": merged.plot(dark=dark),
        "evolution": evolution_figure(history, dark=dark),
        "frontiers": history.plot(dark=dark),
        "attribution": attribution_of(pieces, pieces=pieces).plot(dark=dark),
    }


@pytest.fixture(scope="module")
def browser():
    """One browser for all images; otherwise each starts its own."""
    kaleido = pytest.importorskip("kaleido", reason="kaleido, which writes images, is not installed")
    if not hasattr(kaleido, "start_sync_server"):
        pytest.skip("kaleido is older than version 1")
    try:
        kaleido.start_sync_server(silence_warnings=True)
    except Exception as error:
        pytest.skip(f"kaleido finds no Chrome or Chromium: {error}")
    yield
    kaleido.stop_sync_server(silence_warnings=True)


TITLES = {
    "frontier": ("cross-entropy (nats per token)", "value"),
    "runs": ("cross-entropy (nats per token)", "value", "all runs"),
    "evolution": ("iteration", "best value", "hypervolume", "restart"),
    "frontiers": ("cross-entropy (nats per token)", "value", "frontier after iteration"),
    "attribution": ("token of the prompt", "substitute, best first", "change of value", "<b>", "$x$"),
}


@pytest.mark.filterwarnings("ignore:.*kopts:UserWarning")
@pytest.mark.parametrize("dark", [False, True])
def test_figures_are_written_as_vectors_and_pixels(browser, tmp_path, dark):
    for name, figure in every_figure(dark).items():
        tree = ElementTree.parse(save(figure, tmp_path / "new" / f"{name}.svg"))
        assert tree.getroot().tag == "{http://www.w3.org/2000/svg}svg"
        said = {"".join(text.itertext()).strip() for text in tree.iter("{http://www.w3.org/2000/svg}text")}
        assert said >= set(TITLES[name]), name
        png = save(figure, tmp_path / f"{name}.png", width=300, height=200).read_bytes()
        assert png[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">II", png[16:24]) == (600, 400)


def test_a_figure_is_a_page_without_a_network(tmp_path):
    page = save(every_figure(True)["attribution"], tmp_path / "figure.html").read_text(encoding="utf-8")
    assert "<html>" in page and "Plotly.newPlot" in page and "cdn.plot.ly/plotly" not in page


def test_what_is_missing_for_images_is_said(tmp_path, monkeypatch):
    figure = frontier_of((1, 2)).plot()
    with pytest.raises(DreamyLensError, match=r"does not end in a format .* \.svg"):
        save(figure, tmp_path / "figure.gif")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "kaleido", None)
        with pytest.raises(DreamyLensError, match=r"dreamy-lens\[export\].*figure\.html"):
            save(figure, tmp_path / "figure.svg")
    monkeypatch.setattr(
        pytest.importorskip("kaleido"), "_global_server", None, raising=False
    )  # that of the other tests
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "no-browser"))
    with pytest.raises(DreamyLensError, match=r"none at BROWSER_PATH=.*no-browser.*chromium"):
        save(figure, tmp_path / "figure.png")
    monkeypatch.delenv("BROWSER_PATH")
    for report, words in (
        ('["A", "ChromeNotFoundError", ""]', r"none was found.*apt-get install chromium.*BROWSER_PATH"),
        ('["ValueError", "", "no fonts"]', r"figure\.pdf could not be drawn \(ValueError: no fonts\)"),
        ("Segmentation fault", r"ended with status 3: Segmentation fault"),
    ):
        program = f"import sys; sys.stdin.buffer.readline(); print({report!r}, file=sys.stderr); sys.exit(3)"
        monkeypatch.setattr(inspect, "getsource", lambda module, program=program: program)
        with pytest.raises(DreamyLensError, match=words):
            save(figure, tmp_path / "figure.pdf")
    assert not list(tmp_path.iterdir())


SILENT = """#!/bin/sh
echo $$ > {pid}
exec sleep 600
"""


@pytest.fixture
def silent_browser(tmp_path, monkeypatch):
    """A browser that starts and says nothing; the path of the file with its number."""
    monkeypatch.setattr(
        pytest.importorskip("kaleido"), "_global_server", None, raising=False
    )  # that of the other tests
    if os.name == "nt":
        pytest.skip("the browser of this test is a shell script")
    program, pid = tmp_path / "browser", tmp_path / "pid"
    program.write_text(SILENT.format(pid=pid))
    program.chmod(0o755)
    monkeypatch.setenv("BROWSER_PATH", str(program))
    return pid


def ended(pid: int) -> bool:
    """Return whether a process ends within a minute; one that was not waited for yet counts as ended."""
    for _ in range(600):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.1)
    return False


def test_a_browser_that_says_nothing_is_ended(silent_browser, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("DREAMY_LENS_TIMEOUT", "5")
    wait = pytest.raises(WaitError, match=r"browser .* took longer than 5 seconds.*DREAMY_LENS_TIMEOUT.*figure\.html")
    with caplog.at_level(logging.INFO, "dreamy_lens.progress"), wait:  # pytest has a log, and lines go to it
        save(frontier_of((1, 2)).plot(), tmp_path / "figure.svg")
    assert "Waiting for the browser that draws the figure, at most 5 s (Ctrl-C ends it)" in caplog.text
    assert not (tmp_path / "figure.svg").exists()
    if silent_browser.exists():  # on a busy machine, the limit may come before the browser
        assert ended(int(silent_browser.read_text()))


def test_ctrl_c_ends_the_wait_for_a_browser(silent_browser, tmp_path):
    script = f"""
import os, signal, threading, time
from pathlib import Path
from dreamy_lens.figures import save
import plotly.graph_objects as go
pid = Path({str(silent_browser)!r})
def press():
    while not pid.exists() or not pid.read_text().strip():
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=press, daemon=True).start()
try:
    save(go.Figure(), {str(tmp_path / "figure.svg")!r})
except KeyboardInterrupt:
    print("interrupted")
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=120)
    assert (child.returncode, child.stdout) == (0, "interrupted\n"), child.stderr
    assert ended(int(silent_browser.read_text()))
