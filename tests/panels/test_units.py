"""Units of a layer in the feature browser: one that is alive, the most selective ones, their windows, a scan."""

from __future__ import annotations

import time

import numpy as np
import pytest

import dreamy_lens as dl
from dreamy_lens.errors import ExamplesError
from dreamy_lens.panels import FeatureBrowser, form, units
from tests.helpers import models
from tests.panels.test_browser import SMALL, Played

TEXTS = [" ".join(f"word{(i * j) % 23} is {j} of" for j in range(80)) for i in range(40)]
HOOK = "blocks.1.mlp.hook_post"


@pytest.fixture
def played(gpt2, monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.setenv("DREAMY_LENS_CACHE", str(tmp_path))
    play = Played(gpt2.bridge)
    play.form._corpus = TEXTS
    yield play
    play.browser.close()


def tell(played: Played, **message: object) -> None:
    played.form._hear(played.form, message)
    wait_for(lambda: not played.form.scanning)


def wait_for(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def scan(played: Played, text: str = "L1.N3") -> dict:
    before = len(played.said)
    played.form._hear(played.form, {"type": "scan", "text": text})
    wait_for(lambda: played.form.units or len(played.said) > before)
    played.browser.wait()
    return played.form.units


def test_the_first_unit_is_one_that_is_alive(played, gpt2):
    for hook in (HOOK, "blocks.1.attn.hook_pattern", "blocks.0.attn.hook_z"):
        tell(played, type="alive", hook=hook)
        played.browser.wait()
    assert set(played.form.alive) == {HOOK, "blocks.0.attn.hook_z"}  # positions are no units
    unit = played.form.alive[HOOK]
    values = dl.score(f"{HOOK}[..., {unit}].max()", [text[:50] for text in units._TEXTS], gpt2.bridge).value
    assert max(values) > 0
    assert units.alive_unit(played.form.hooked, HOOK) == unit  # always the same one


def test_dead_units_are_never_suggested(gpt2, monkeypatch: pytest.MonkeyPatch):
    hooked = models.hooked(gpt2.bridge) if hasattr(models, "hooked") else FeatureBrowser(gpt2.bridge).wait().form.hooked
    assert hooked is not None
    import torch

    def observe(ids, readers):
        values = torch.zeros(1, ids.shape[1], 5)
        values[0, :, 1] = torch.arange(ids.shape[1])
        values[0, 2, 3] = 4.0  # fires on one token of each text
        values[0, 2, 4] = -4.0
        readers[HOOK](values)

    monkeypatch.setattr(hooked, "observe", observe)
    assert units.alive_unit(hooked, HOOK) == 3
    monkeypatch.setattr(hooked, "observe", lambda ids, readers: readers[HOOK](torch.zeros(1, ids.shape[1], 5)))
    assert units.alive_unit(hooked, HOOK) is None


def test_a_scan_names_the_most_selective_units_and_their_windows(played, gpt2):
    assert played.ask("check", "L1.N3")["windows"] is None and played.ask("check", "L1.N3")["scannable"]
    shown = scan(played)
    assert shown["count"] == 40 and "tokens of 40 texts" in shown["from"]
    kurtosis = [row["kurtosis"] for row in shown["rows"]]
    assert kurtosis == sorted(kurtosis, reverse=True) and len(kurtosis) <= units.SHOWN_UNITS
    first = shown["rows"][0]
    answer = played.ask("check", first["label"])
    assert answer["windows"][0]["tokens"] == first["windows"][0]["tokens"] and answer["windows_from"] == shown["from"]
    ids = [gpt2.bridge.tokenizer.convert_tokens_to_ids(t.replace(" ", "\u0120")) for t in first["windows"][0]["tokens"]]
    if None not in ids:
        value = dl.score(first["label"], np.array([ids]), gpt2.bridge).value[0]
        assert value == pytest.approx(first["windows"][0]["value"], abs=1e-3)
    assert played.ask("check", "0.5 * L1.N3 - L1.N4")["scannable"] is False


def test_a_scan_is_found_again_in_the_cache(played, gpt2, monkeypatch: pytest.MonkeyPatch):
    rows = scan(played)["rows"]
    again = Played(gpt2.bridge)
    again.form._corpus = TEXTS
    monkeypatch.setattr(units.UnitScan, "step", lambda *_: pytest.fail("scanned again"))
    assert scan(again)["rows"] == rows
    again.browser.close()


def test_examples_that_are_given_are_used(gpt2, tmp_path):
    examples = dl.max_activating("L1.N*", gpt2.bridge, TEXTS[:5], k=3, length=6, cache=False, progress=False)
    examples.save(tmp_path / "scan")
    for given in (examples, tmp_path / "scan"):
        browser = dl.browse(gpt2.bridge, examples=given).wait()
        play = Played(gpt2.bridge)
        play.browser.close()
        play.browser, play.form = browser, browser.form
        play.form.send = lambda content, buffers=None, play=play: play.said.append(content)
        answer = play.ask("check", "L1.N3")
        assert [one["value"] for one in answer["windows"]] == [w.value for w in examples.of("L1.N3").top]
        assert scan(play)["count"] == 40 and not play.form._scans  # without a scan of its own
        browser.close()
    with pytest.raises(ExamplesError):
        dl.browse(gpt2.bridge, examples=tmp_path / "nothing")


def test_a_scan_can_be_cancelled_and_answers_meanwhile(played, monkeypatch: pytest.MonkeyPatch):
    steps: list[int] = []

    def step(self: units.UnitScan, seconds: float) -> None:
        steps.append(1)
        time.sleep(0.02)

    monkeypatch.setattr(units.UnitScan, "step", step)
    played.form._hear(played.form, {"type": "scan", "text": "L1.N3"})
    wait_for(lambda: len(steps) > 2)
    assert played.form.scanning["name"].startswith(HOOK)
    assert played.ask("check", "L1.N5")["ok"]  # between two steps
    count = len(steps)
    wait_for(lambda: len(steps) > count)
    tell(played, type="cancel")
    played.browser.wait()
    count = len(steps)
    time.sleep(0.1)
    assert len(steps) == count and played.form.units == {}


def test_a_run_goes_on_between_the_steps_of_a_scan(played, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(form, "STEP_SECONDS", 0.0)
    [run] = played.start(iterations="100000")
    before = run.iteration
    assert scan(played)["rows"]
    assert run.active and run.iteration > before
    run.stop()


def test_what_goes_wrong_with_a_scan_is_said(played):
    played.form._corpus = ["too short"]
    played.form._hear(played.form, {"type": "scan", "text": "L1.N3"})
    wait_for(lambda: played.said)
    played.browser.wait()
    assert played.said[-1]["type"] == "notice" and "token" in played.said[-1]["error"] and played.form.scanning == {}
    played.form._hear(played.form, {"type": "scan", "text": "0.5 * L1.N3 - L1.N4"})
    played.browser.wait()
    assert "units of one hook point" in played.said[-1]["error"]


def test_a_saved_notebook_says_that_the_browser_needs_a_kernel(played):
    html = played.browser._repr_mimebundle_()
    html = html[0] if isinstance(html, tuple) else html
    assert "Feature browser of tiny-gpt2. It needs a kernel" in html["text/html"]


def test_families_leave_the_unit_open():
    shapes = {HOOK: ["position", 40], "blocks.1.attn.hook_z": ["position", 4, 8], "p": [4, "position", "position"]}
    for text, opened in {
        "L1.N3": f"{HOOK}[-1, :]",
        f"{HOOK}[..., 3].max()": f"{HOOK}[:, :].max()",
        "blocks.1.attn.hook_z[-1, 2, 3]": "blocks.1.attn.hook_z[-1, 2, :]",
    }.items():
        family = units.family_of(dl.parse(text), shapes)
        assert family == dl.parse(opened)
        assert units.unit_of(family, 3).digest_key() == dl.parse(text.replace("...", ":")).digest_key()
    for text in (HOOK + "[-1]", "p[0, -1, 2]", 'logit(" a")', f"L1.N3 - {HOOK}[-1, 4]"):
        assert units.family_of(dl.parse(text), shapes) is None, text
    assert SMALL
