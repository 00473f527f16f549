"""Commands and the first call of a fresh process: what users see comes before libraries that take long to import."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import Future

import pytest

import dreamy_lens as dl
from dreamy_lens.cli.main import main
from dreamy_lens.panels import cells
from dreamy_lens.runs import Dreams

SMALL = {"iterations": 1, "population": 2, "children": 4, "top_k": 16, "length": 4}
TEXTS = ["Return a copy of the array, with axes transposed.", "Raise an error if the file is not found."]

COMMAND = """
import sys
from dreamy_lens.cli.main import main
try:
    main(sys.argv[1:])
finally:
    print(sorted({"torch", "transformers", "transformer_lens", "plotly"} & set(sys.modules)), file=sys.stderr)
"""


def imported_by(*words: str) -> str:
    """The slow libraries that a command imports, of all that there are; the command must succeed."""
    ran = subprocess.run([sys.executable, "-c", COMMAND, *words], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0 and ran.stdout, ran.stderr
    return ran.stderr.splitlines()[-1]


HELPED = ["", "dream", "attribute", "steer", "scan", "compare", "card", "sweep", "hooks", "show"]


@pytest.mark.parametrize("command", HELPED)
def test_help_needs_no_torch(command):
    assert imported_by(*command.split(), "--help") == "[]"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("startup")
    runs = dl.dream("L2.N17", seeds=2, save_to=folder / "runs", **SMALL)
    runs[0].save(folder / "run")
    runs[0].frontier.save(folder / "frontier.json")
    runs[0].frontier.best().attribution(k=2).save(folder / "attribution.json")
    runs.of("L2.N17").save(folder / "merged.json")
    dl.sweep("L2.N17", seeds=2, out=folder / "sweep", **SMALL)
    examples = dl.max_activating("L2.N17", corpus=TEXTS, length=4, k=4, out=folder / "scan")
    dl.compare(runs, examples).save(folder / "comparison.json")
    return folder


FILES = ["frontier.json", "attribution.json", "merged.json", "comparison.json"]


@pytest.mark.parametrize("name", ["run", "runs", "sweep", "scan", *FILES])
def test_what_is_saved_is_shown_without_torch(saved, name):
    assert imported_by("show", str(saved / name)) == "[]"


def test_hook_points_are_listed_without_the_model_the_second_time(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMY_LENS_CACHE", str(tmp_path))
    assert main(["hooks", "mlp", "post"]) == 0
    first = capsys.readouterr().out
    assert "blocks.2.mlp.hook_post  [position, 896]" in first
    assert imported_by("hooks", "mlp", "post") == "[]"
    assert main(["hooks", "mlp", "post"]) == 0 and capsys.readouterr().out == first
    assert main(["hooks", "hook_pst"]) == 1 and "nearest: " in capsys.readouterr().err


def test_hook_points_of_a_changed_folder_are_read_again(neox_folder_copy, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMY_LENS_CACHE", str(tmp_path))
    loads = []
    monkeypatch.setattr("dreamy_lens.cli.model.load_selected_model", lambda options: loads.append(1) or dl_hooked())
    for expected in (1, 1):
        assert main(["hooks", "embed", "--model", str(neox_folder_copy)]) == 0
        assert len(loads) == expected
    (neox_folder_copy / "config.json").write_text((neox_folder_copy / "config.json").read_text() + " ")
    assert main(["hooks", "embed", "--model", str(neox_folder_copy)]) == 0 and len(loads) == 2


def dl_hooked():
    from dreamy_lens.models.load import as_hooked

    return as_hooked()


@pytest.fixture
def neox_folder_copy(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


FIRST_DREAM = """
import sys

class Screen:
    text = ""
    def write(self, text): self.text += text
    def flush(self): pass
    def isatty(self): return True

class Watch:
    def find_spec(self, name, path, target=None):
        if name in ("torch", "transformers", "transformer_lens"):
            print(repr(sys.stderr.text))
            sys.stdout.flush()
            import os
            os._exit(0)

screen = sys.stderr = Screen()
sys.meta_path.insert(0, Watch())
import dreamy_lens as dl
dl.CALL
"""


@pytest.mark.parametrize("call", ['dream("L2.N17")', 'dream(["L2.N17", "L3.N5"], seeds=2)', "load_model()"])
def test_a_first_call_says_what_it_does_before_it_imports_torch(call):
    ran = subprocess.run(
        [sys.executable, "-c", FIRST_DREAM.replace("CALL", call)], capture_output=True, text=True, timeout=120
    )
    assert "Loading the libraries and the embedded model ..." in ran.stdout, ran


def test_a_finished_run_is_shown_at_once_and_completed_later(monkeypatch):
    """Attributions that are missing come later: showing the runs of a folder again took twenty seconds."""
    runs = dl.dream("L2.N17", seeds=2, **SMALL)
    displayed, updated, late = [], [], Future()

    class Handle:
        def update(self, content):
            updated.append(content)

    monkeypatch.setattr(cells, "in_kernel", lambda: True)
    monkeypatch.setattr("IPython.display.display", lambda content, **_: displayed.append(content) or Handle())
    monkeypatch.setattr(cells.RunsPanel, "prepare", lambda panel: [late])
    began = time.monotonic()
    cells.show(runs)
    assert isinstance(runs, Dreams) and len(displayed) == 1 and not updated and time.monotonic() - began < 15
    late.set_result(None)
    assert len(updated) == 1 and "Dreams" not in repr(updated[0])


def test_a_card_without_a_corpus_says_what_it_will_scan(monkeypatch, caplog, tmp_path):
    class Stop(Exception):
        pass

    def stop(*_, **__):
        raise Stop

    monkeypatch.setattr("dreamy_lens.api.card.as_hooked", stop)
    for scan, said in (({}, "more than ten minutes"), ({"tokens": 2000}, "2,000 tokens of the documentation")):
        caplog.clear()
        with pytest.raises(Stop):
            dl.card("L2.N17", scan=scan)
        assert said in caplog.text
    caplog.clear()
    for settings in ({"corpus": TEXTS}, {"progress": False}):
        with pytest.raises(Stop):
            dl.card("L2.N17", **settings)
    assert not caplog.records
