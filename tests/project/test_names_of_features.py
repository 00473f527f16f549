"""Names of features: people read short ones everywhere, with hook points in tooltips, and files keep the whole text."""

from __future__ import annotations

import ast
import json

import numpy as np
import pytest

import dreamy_lens as dl
from dreamy_lens.cli.main import main
from dreamy_lens.features.parser import feature_names
from dreamy_lens.panels import AttributionPanel, DreamPanel, RunsPanel
from dreamy_lens.results import merge

SMALL = {"iterations": 1, "population": 2, "children": 4, "top_k": 16, "length": 4}
TEXTS = ["Return a copy of the array, with axes transposed.", "Raise an error if the file is not found."]
INLINE = "data:float32,"
WITH_PROGRAM = ("report", "cell", "attribution", "comparison", "card", "examples", "features")


def directed() -> dl.features.Feature:
    width = dl.load_model().cfg.d_model
    return dl.hook("blocks.2.hook_resid_post")[-1] @ np.random.default_rng(0).normal(size=width)


FEATURES = {
    "direction": (directed, r"blocks.2.hook_resid_post[-1] @ v224#", r"blocks.2.hook_resid_post[-1] @ v224#"),
    "neuron": (lambda: "L2.N812", "L2.N812", "blocks.2.mlp.hook_post[-1, 812]"),
    "sum": (
        lambda: 0.5 * dl.parse("L2.N812") - directed(),
        "0.5 * L2.N812 - (blocks.2.hook_resid_post[-1] @ v224#",
        "0.5 * blocks.2.mlp.hook_post[-1, 812] - (blocks.2.hook_resid_post[-1] @ v224#",
    ),
}


@pytest.mark.parametrize("name", FEATURES)
def test_people_read_short_names_and_files_keep_the_whole(tmp_path, name, capsys):
    make, short, long = FEATURES[name]
    feature = make()
    run = dl.dream(feature, save_to=tmp_path / "run", **SMALL)
    opened = dl.load_run(tmp_path / "run")
    attribution = run.frontier.best().attribution(k=2)
    merged = merge([run, opened])
    examples = dl.max_activating(feature, corpus=TEXTS, length=4, k=4, out=tmp_path / "scan")
    comparison = dl.compare(run, examples)
    card = dl.card(feature, run=run, examples=examples, parts="upstream")
    # The short name, in words.
    for text in (repr(run), str(run), repr(opened), repr(merged), repr(comparison), repr(card), repr(examples.of(0))):
        assert short in text and INLINE not in text
    # The short name with the hook points as its tooltip, on pages and in cells.
    pages = {
        "report": run.to_html(static=True),
        "page": opened.to_html(strips=1),
        "cell": run._repr_html_(),
        "attribution": attribution.to_html(),
        "comparison": comparison.to_html(),
        "card": card.to_html(static=True),
        "examples": examples.of(0).to_html(),
        "features": examples._repr_html_(),
        "merged": merged._repr_html_(),
    }
    for page, html in pages.items():
        read, *code = html.split('<details class="dl-python">')
        assert short in html and INLINE not in read, page
        assert len(code) == (page in WITH_PROGRAM), page
        assert (f'<span title="{long}' in html) == (short != long), page
    for panel in (DreamPanel(opened), RunsPanel([run, opened]), AttributionPanel(feature, "a text").wait()):
        assert panel.title.startswith(short) and panel.full_title.startswith(long)
        assert f'title="{long}' in panel.to_html() or short == long
    # The terminal.
    assert main(["show", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out.startswith(short)
    # Everything, where it is kept.
    whole = str(dl.parse(feature))
    saved = json.loads((tmp_path / "run" / "run.json").read_text())["meta"]["provenance"]["feature"]
    assert saved == whole == opened.provenance.feature == attribution.feature and opened.feature == dl.parse(feature)
    assert examples.labels == (whole,) and comparison.feature == whole
    call = ast.parse(DreamPanel(run).python["run"]).body[-1].value
    assert str(dl.parse(call.args[0].value)) == whole


def test_a_name_that_cannot_be_parsed_has_a_short_direction_too():
    text = f'custom("mine") + {directed()}'
    assert feature_names(text)[0].startswith('custom("mine") + blocks.2.hook_resid_post[-1] @ v224#')


def test_runs_of_files_with_one_name_in_two_folders_are_two_features(tmp_path):
    width, files = dl.load_model().cfg.d_model, [tmp_path / name / "v.npy" for name in ("one", "two")]
    for file in files:
        file.parent.mkdir()
        np.save(file, np.ones(width, dtype=np.float32))
    runs = dl.dream([f'blocks.2.hook_resid_post[-1] @ "{file}"' for file in files], **SMALL)
    assert RunsPanel(runs).groups == ['blocks.2.hook_resid_post[-1] @ "v.npy"'] * 2
    with pytest.raises(dl.errors.SettingsError, match=r"one/v\.npy.*two/v\.npy"):
        merge(runs)
