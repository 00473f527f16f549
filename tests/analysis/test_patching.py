"""Activation patching: against hooks on plain Hugging Face models, with placebos, and refused where it is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import dreamy_lens as dl
from dreamy_lens.errors import FeatureError, PromptError, RunFolderError, SettingsError
from dreamy_lens.results import Patching
from tests.helpers.models import family
from tests.helpers.plain_hooks import modules_of, run_changed

IDS, NEUTRAL = [5, 9, 7, 30, 12], [8, 41, 3, 77, 20]
FEATURE = "blocks.1.hook_resid_post[-1, 3]"


@pytest.mark.parametrize("component", ["resid_pre", "attn_out", "mlp_out"])
@pytest.mark.parametrize("name", ["gpt2", "neox", "llama", "gemma2"])
def test_every_patch_is_that_of_hooks_on_the_plain_model(name, component):
    own = family(name)
    found = dl.patch(FEATURE, IDS, NEUTRAL, own.bridge, component=component, placebos=0, prepend_bos=True)
    last = modules_of(own.raw, 1)["block"]
    rows = [[0, *IDS], [0, *NEUTRAL]]
    kind, where = {"resid_pre": ("inputs", "block"), "attn_out": ("outputs", "attn"), "mlp_out": ("outputs", "mlp")}[
        component
    ]
    values = [float(run_changed(own.raw, row, read=last)[1][0, -1, 3]) for row in rows]
    assert found.value == pytest.approx(values[0], abs=1e-4)
    assert found.neutral_value == pytest.approx(values[1], abs=1e-4)
    for layer in (0, 1):
        module = modules_of(own.raw, layer)[where]
        kept = []
        for row in rows:
            run_changed(own.raw, row, **{kind: {module: lambda x, kept=kept: (kept.append(x.clone()), x)[1]}})
        for j in (0, 2, 4):
            for grid, source, into in ((found.denoising, 0, 1), (found.noising, 1, 0)):

                def put(x, source=source, j=j, kept=kept):
                    x[:, j + 1] = kept[source][:, j + 1]
                    return x

                _, stream = run_changed(own.raw, rows[into], **{kind: {module: put}}, read=last)
                share = (float(stream[0, -1, 3]) - values[1]) / (values[0] - values[1])
                assert grid[layer, j] == pytest.approx(share, abs=1e-3 / abs(values[0] - values[1]))


def test_the_last_stream_at_the_read_position_restores_everything(gpt2):
    """A neuron of the last layer at the last token reads the stream of that token and what attention brings there."""
    found = dl.patch("blocks.0.hook_resid_post[-1, 3]", IDS, NEUTRAL, gpt2.bridge, component="resid_pre", placebos=0)
    later = dl.patch("blocks.1.hook_resid_pre[-1, 3]", IDS, NEUTRAL, gpt2.bridge, placebos=0)
    assert later.denoising[1, -1] == pytest.approx(1) and later.noising[1, -1] == pytest.approx(0, abs=1e-5)
    np.testing.assert_allclose(later.denoising[1, :-1], 0, atol=1e-5)
    # What comes after the feature changes nothing.
    np.testing.assert_array_equal(found.denoising[1], 0)
    np.testing.assert_array_equal(found.noising[1], 1)


def test_neutral_prompts_and_placebos_are_drawn_the_same_every_time(gpt2):
    one, two = (dl.patch(FEATURE, IDS, model=gpt2.bridge, placebos=3, seed=4) for _ in range(2))
    assert one.to_dict() == two.to_dict() and one.placebos.shape == (3, 2, 5)
    assert "that the model writes" in one.how and len(one.neutral_ids) == 5
    assert dl.patch(FEATURE, IDS, model=gpt2.bridge, placebos=3, seed=5).neutral != one.neutral
    texts = ["The dog runs over the hill and the cat sleeps in the house of the king of the hill."]
    drawn = dl.patch(FEATURE, IDS, model=gpt2.bridge, reference=texts, placebos=1, layers=1)
    assert "windows of 5 tokens" in drawn.how and drawn.layers == (1,) and drawn.placebos.shape == (1, 1, 5)


def test_placebos_are_other_prompts_patched_into_the_neutral_one(gpt2):
    found = dl.patch(FEATURE, IDS, NEUTRAL, gpt2.bridge, placebos=2, seed=1)
    assert len(found.placebo_own_values) == 2
    # A placebo's share at the last stream is that of its own value where the feature reads that stream.
    same = dl.patch("blocks.1.hook_resid_pre[-1, 3]", IDS, NEUTRAL, gpt2.bridge, placebos=2, seed=1)
    expected = (same.placebo_own_values - same.neutral_value) / (same.value - same.neutral_value)
    np.testing.assert_allclose(same.placebos[:, 1, -1], expected, atol=1e-4)


def test_what_cannot_be_patched_is_refused_with_the_reason(gpt2):
    with pytest.raises(PromptError, match=r"has 5 tokens and the neutral prompt 3; patching needs equal lengths"):
        dl.patch(FEATURE, IDS, NEUTRAL[:3], gpt2.bridge)
    with pytest.raises(PromptError, match="is the prompt itself"):
        dl.patch(FEATURE, IDS, IDS, gpt2.bridge)
    with pytest.raises(PromptError, match="One prompt is patched at a time"):
        dl.patch(FEATURE, [IDS, IDS], NEUTRAL, gpt2.bridge)
    with pytest.raises(FeatureError, match="no difference to divide"):
        dl.patch("blocks.0.hook_resid_pre[0, 3]", IDS, [5, 41, 3, 77, 20], gpt2.bridge)
    for settings in ({"component": "keys"}, {"layers": [7]}, {"layers": []}, {"placebos": -1}, {"seeds": 3}):
        with pytest.raises(SettingsError):
            dl.patch(FEATURE, IDS, NEUTRAL, gpt2.bridge, **settings)


def test_results_are_plain_data(gpt2, tmp_path):
    found = dl.patch(FEATURE, IDS, NEUTRAL, gpt2.bridge, placebos=2)
    loaded = dl.load(found.save(tmp_path / "patching.json"))
    assert isinstance(loaded, Patching)
    assert loaded.to_dict() == found.to_dict() and str(loaded) == str(found) and repr(loaded) == repr(found)
    assert len(found.to_pandas()) == 10 and found.plot().svg.count('class="cell"') == 30
    for name in ("p.svg", "p.csv", "p.html"):
        assert found.save(tmp_path / name).stat().st_size > 400
    (tmp_path / "damaged.json").write_text('{"format": "dreamy_lens patching", "version": 1}')
    with pytest.raises(RunFolderError, match="no complete patching"):
        Patching.load(tmp_path / "damaged.json")


def test_hostile_tokens_stay_text():
    hostile = "<script>alert(1)</script>\u202e"
    ids, grid = np.array([1, 2]), np.zeros((1, 2))
    found = Patching(
        *("L0.N1", "<b>model</b>", "resid_pre", hostile, hostile, ids, ids, "given", "", 0, (0,)),
        *((hostile, "a"), (hostile, "b"), 1.0, 0.0, np.zeros(0), grid, grid, np.zeros((0, 1, 2))),
    )
    for page in (found.to_html(), found._repr_html_(), found.plot().svg):
        assert "<script>alert" not in page and "<b>" not in page and "\u202e" not in page
    assert "\u202e" not in str(found)


def test_the_examples_of_the_documentation_run(tmp_path, monkeypatch):
    page = Path(__file__).resolve().parents[2] / "docs" / "causal.md"
    if not page.is_file():
        pytest.skip("the documentation is not part of this copy")
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    exec(example, {})
    assert "<svg" in (tmp_path / "patching.html").read_text(encoding="utf-8")
