"""Hosts of panels: Colab is asked once for widgets, a terminal says that there are none, modules are complete."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import types

import pytest

import dreamy_lens as dl
from dreamy_lens.panels import FeatureBrowser, bundle, hosts
from dreamy_lens.panels.hosts import NO_WIDGETS, display_metadata

LINES = """\
import dreamy_lens as dl
dl.browse().wait()
dl.explore("L2.N812", "the same as described only")
run = dl.dream("L2.N17", iterations=1, length=4, seed=0)
run
print("the end of", run.iteration)
exit
"""


@pytest.fixture
def colab(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Calls that a stand-in for Colab's module gets."""
    calls: list[str] = []

    class Output(types.ModuleType):
        def __getattr__(self, name: str):
            if name.startswith("__"):
                raise AttributeError(name)
            return lambda *args, **keywords: calls.append(name)

    google, module = types.ModuleType("google"), types.ModuleType("google.colab")
    module.output = Output("google.colab.output")  # pyright: ignore[reportAttributeAccessIssue]
    module.output.__dict__["_widgets"] = types.SimpleNamespace(_installed_url="an address")
    google.colab = module  # pyright: ignore[reportAttributeAccessIssue]
    for name, stand_in in {"google": google, "google.colab": module, "google.colab.output": module.output}.items():
        monkeypatch.setitem(sys.modules, name, stand_in)
    once = pytest.importorskip("anywidget._util").enable_custom_widget_manager_once
    once.cache_clear() if hasattr(once, "cache_clear") else None  # it remembers that it has asked
    return calls


def test_colab_is_asked_once_for_widgets_and_for_nothing_else(colab: list[str], gpt2):
    run = dl.dream("L1.N3", gpt2.bridge, iterations=1, parents=2, children=4, length=4, progress=False)
    assert colab == []  # a run alone needs no widget
    browser = FeatureBrowser(gpt2.bridge).wait()
    panel = run.explore(run.frontier[0])
    assert colab == ["enable_custom_widget_manager"]
    panel.close()
    browser.close()


def test_in_colab_every_thread_can_display_a_panel_and_widgets_around_it(colab: list[str], gpt2):
    """Colab marks outputs for its manager of widgets only in the thread in which the first panel was made."""
    browser = FeatureBrowser(gpt2.bridge).wait()
    mark = {"application/vnd.jupyter.widget-view+json": {"colab": {"custom_widget_manager": {"url": "an address"}}}}
    assert display_metadata(browser.form) == browser._repr_mimebundle_()[1] == mark
    del sys.modules["google.colab.output"]
    assert display_metadata(browser.form) == {} and isinstance(browser._repr_mimebundle_(), dict)
    browser.close()


@pytest.mark.slow
def test_plain_ipython_shows_tables_and_says_that_panels_need_a_notebook(tmp_path):
    pytest.importorskip("IPython")
    words = [sys.executable, "-m", "IPython", "--simple-prompt", "--no-banner", "--colors=NoColor", "--no-confirm-exit"]
    environment = os.environ | {"IPYTHONDIR": str(tmp_path), "HF_HUB_OFFLINE": "1", "TERM": "dumb"}
    done = subprocess.run(
        words, input=LINES, capture_output=True, text=True, timeout=200, env=environment, cwd=tmp_path
    )
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stderr.count(NO_WIDGETS) == 2
    for text in ("FeatureBrowser(embedded, 0 runs)", "AttributionPanel(L2.N812", "cross-entropy", "the end of 1"):
        assert text in done.stdout


def test_notebooks_are_told_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(hosts, "is_notebook", lambda: True)
    hosts.announce_panel()
    assert capsys.readouterr().err == ""


def _marimo(monkeypatch: pytest.MonkeyPatch, used: str) -> None:
    stand_in = types.SimpleNamespace(__version__=used, running_in_notebook=lambda: True)
    monkeypatch.setitem(sys.modules, "marimo", stand_in)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("used", "live"), [("0.20.4", False), ("0.23.13", False), ("0.23.14", True), ("1.0", True)])
def test_a_panel_says_that_an_old_marimo_shows_no_changes(used: str, live: bool, monkeypatch: pytest.MonkeyPatch, gpt2):
    _marimo(monkeypatch, used)
    run = dl.dream("L1.N3", gpt2.bridge, iterations=2, parents=2, children=4, length=4, progress=False).wait()
    run.wait(timeout=60)
    shown = run._display_()
    for panel in (shown, run.explore(run.frontier[0])):
        assert panel.get_state("note")["note"] == panel.note
        panel.update() if panel is shown else None
        assert panel.note == "" if live else f"marimo {used} does not show what changes" in panel.note
        assert live or "Update marimo to 0.23.14 or newer" in panel.note
        assert "Update marimo" not in panel.to_html()  # a saved view can be opened anywhere
        panel.close()
    browser = FeatureBrowser(gpt2.bridge)
    assert ("Update marimo" in browser.form.model_error) != live
    browser.close()


def test_a_kernel_that_has_imported_marimo_is_no_marimo(monkeypatch: pytest.MonkeyPatch):
    _marimo(monkeypatch, "0.20.4")
    assert hosts.limits_of_host()
    monkeypatch.setattr(hosts, "in_kernel", lambda: True)
    assert hosts.limits_of_host() == ""


@pytest.mark.parametrize("view", ["dream", "attribution", "runs", "browser"])
def test_the_module_of_a_view_is_complete(view: str):
    # VS Code and Colab hand the module to anywidget's front end, which cannot find files beside it.
    module = bundle.view_module(view)
    assert not re.search(r"""(?:^|[;\s])import\s*(?:[\w{*]|["'])""", module)
    assert not re.search(r"""(?:import|from|fetch)\s*\(?\s*["'`](?:https?:)?//""", module)
    assert "export default" in module
    sheet = bundle.view_stylesheet(view) if view == "browser" else bundle.view_stylesheet()
    assert "@import" not in sheet and "url(" not in sheet


def test_a_widget_has_the_type_that_vs_code_and_colab_draw(gpt2):
    browser = FeatureBrowser(gpt2.bridge).wait()
    made = browser._repr_mimebundle_()
    data = made[0] if isinstance(made, tuple) else made
    assert data["application/vnd.jupyter.widget-view+json"]["version_major"] == 2
    state = browser.form.get_state()
    assert (state["_model_module"], state["_view_module"]) == ("anywidget", "anywidget")
    assert state["_esm"] == bundle.view_module("browser")  # the module travels in the state, from no address
    browser.close()
