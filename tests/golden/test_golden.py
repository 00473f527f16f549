"""What was made before goes on: old files open and continue, and what is made now is what was made then.

See `golden/make.py` for what is in `golden/`, and for what may be written anew and what never.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packaging.version import Version
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import dreamy_lens as dl
from tests.golden import cases, make
from tests.golden.make import DATA, HERE

NUMBERS = make.read(DATA / "numbers.json.gz")
OTHERS = make.read(DATA / "others.json")
WORDS = {"cli": make.read(HERE / "cli.json.gz"), "texts": make.read(HERE / "texts.json.gz")}
NEAR = 1e-4
"""How far numbers of two kinds of CPUs may be apart, relative or absolute."""
NEAR_TIES = {"fluency", "overlapping", "scan of a layer"}
"""Recorded results that hold values apart by rounding only."""


def skip_where_rounding_differs(name: str) -> None:
    """Skip a result that depends on rounding where torch rounds in another way than when it was recorded."""
    if name in NEAR_TIES and Version(torch.__version__) < Version("2.7"):
        pytest.skip("torch 2.6 rounds in another way, and this result has near ties")


def same(ours: Any, theirs: Any, where: str = "") -> None:
    """Everything is equal, but numbers with a fraction, which are near."""
    if isinstance(theirs, float) or isinstance(ours, float):
        both_nan = math.isnan(ours) and math.isnan(theirs)
        assert both_nan or math.isclose(ours, theirs, rel_tol=NEAR, abs_tol=NEAR), (where, ours, theirs)
    elif isinstance(theirs, dict):
        assert list(ours) == list(theirs), where
        for name in theirs:
            same(ours[name], theirs[name], f"{where}/{name}")
    elif isinstance(theirs, (list, tuple)):
        assert len(ours) == len(theirs), where
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            same(a, b, f"{where}/{i}")
    else:
        assert ours == theirs, where


def same_words(ours: str, theirs: str) -> None:
    """Texts are equal, but the last digits of numbers with a fraction."""
    number = re.compile(r"(\d+\.\d+(?:e[-+]?\d+)?)")
    a, b = number.split(ours), number.split(theirs)
    equal = a[::2] == b[::2]
    for x, y in zip(a[1::2], b[1::2], strict=False):
        step = 2.001 * 10.0 ** -len(y.partition("e")[0].partition(".")[2])
        equal &= math.isclose(float(x), float(y), rel_tol=1e-3 if "e" in y else NEAR, abs_tol=step * ("e" not in y))
    if not equal:
        lines = (re.sub(r"(>|;|,)", r"\1\n", text).splitlines() for text in (theirs, ours))
        difference = [line[:300] for line in difflib.unified_diff(*lines, "recorded", "now", n=1, lineterm="")]
        pytest.fail("\n".join(difference[:80]), pytrace=False)


@pytest.fixture(scope="module")
def now(tmp_path_factory) -> dict[str, Any]:
    """What a scan that is made now says of versions and of the embedded model."""
    made = dl.max_activating("L0.N1", corpus=make.TEXTS[:1], length=6, out=tmp_path_factory.mktemp("now") / "scan")
    return {name: made.header["identity"][name] for name in ("versions", "weights")}


def copied(name: str, place: Path, now: dict[str, Any]) -> Path:
    """A copy of a stored scan, which takes those of other versions for its own.

    On purpose no scan goes on, or is opened by the call that made it, after an update of the package or of torch, and
    the digest of the weights takes in the folder that the embedded model was loaded from. What is asked here is whether
    the files can be read, so both are brought up to date.
    """
    folder = shutil.copytree(DATA / name, place / Path(name).name)

    def renewed(head: dict[str, Any]) -> dict[str, Any]:
        identity = head["identity"]
        return {**head, "identity": {**identity, **now}}

    for file in (path for path in folder.rglob("*") if path.is_file()):
        if file.name in ("examples.json", "scan.json"):
            file.write_text(json.dumps(renewed(json.loads(file.read_bytes()))))
        elif file.suffix in (".safetensors", ".part"):
            with safe_open(file, framework="np") as whole:
                metadata = whole.metadata()
            head = json.loads(metadata["scan"])
            if renewed(head) != head:
                save_file(load_file(file), file, {**metadata, "scan": json.dumps(renewed(head))})
    return folder


# Old files open.


@pytest.mark.parametrize("name", make.RUN_NAMES)
def test_a_saved_run_opens_with_its_numbers(name):
    same(make.numbers_of(make.opened(DATA, name)), NUMBERS["runs"][name])


@pytest.mark.parametrize("name", sorted(NUMBERS["side by side"]))
def test_a_run_that_was_saved_side_by_side_opens_with_its_numbers(name):
    same(make.numbers_of(dl.load_run(DATA / "side_by_side" / name)), NUMBERS["side by side"][name])


@pytest.mark.parametrize("name", sorted(NUMBERS["scans"]))
def test_saved_examples_open_with_their_numbers(name):
    same(make.examples_of(cases.EXAMPLES.load(DATA / name)), NUMBERS["scans"][name])


def test_a_saved_sweep_opens_with_its_numbers():
    found = cases.SWEEP.load(DATA / "sweep")
    assert len(found) == 8 and not len(found.failed)
    same([make.numbers_of(run) for run in found], NUMBERS["sweep"])


def test_frontiers_merged_runs_and_attributions_that_were_saved_open():
    runs = [dl.load_run(DATA / "side_by_side" / f"run-00{i}") for i in range(2)]
    together, found = cases.MERGE(runs), dl.attribution(make.PRE, make.PROMPT, k=6)
    merged = type(together).load(DATA / "merged.json")
    assert len(merged) == 2
    for ours, theirs in (
        (merged.frontier, together.frontier),
        (type(runs[0].frontier).load(DATA / "frontier.json"), runs[0].frontier),
    ):
        assert len(ours) == len(theirs) > 0
        for a, b in zip(ours, theirs, strict=True):
            same(a.to_dict(), b.to_dict())
    saved = type(found).load(DATA / "attribution.json")
    assert (saved.tokens, saved.candidate_tokens) == (found.tokens, found.candidate_tokens)
    np.testing.assert_allclose(saved.values, found.values, rtol=NEAR, atol=NEAR)
    np.testing.assert_allclose(saved.cross_entropies, found.cross_entropies, rtol=NEAR, atol=NEAR)


# Old files go on.


def marked(file: Path) -> None:
    """Have an unfinished scan count one document more than it read, by which it is known again in what follows."""
    with safe_open(file, framework="np") as whole:
        metadata = whole.metadata()
    head = json.loads(metadata["scan"])
    head["counts"]["documents"] += 1
    save_file(load_file(file), file, {**metadata, "scan": json.dumps(head)})


def with_marks(count: int) -> dict[str, Any]:
    """What the whole scan finds, with so many marks."""
    found = NUMBERS["scans"]["long"]
    return {**found, "counts": {**found["counts"], "documents": found["counts"]["documents"] + count}}


def test_a_saved_run_resumes_as_if_it_had_never_stopped(tmp_path):
    shutil.copytree(DATA / "runs" / "half", tmp_path / "runs" / "half")
    run = make.opened(tmp_path, "half").resume(2, progress=False, save_to=tmp_path / "runs" / "half")
    same(make.numbers_of(run), NUMBERS["runs"]["pre"])
    same(make.numbers_of(make.opened(tmp_path, "half")), NUMBERS["runs"]["pre"])


@pytest.mark.slow
def test_a_scan_that_was_stopped_goes_on_from_there(tmp_path, now):
    place = copied("unfinished", tmp_path, now)
    marked(place / "scan.safetensors")
    found = make.scanned_long(out=place)
    same(make.examples_of(found), with_marks(1))
    assert found.header["complete"] and not (tmp_path / "unfinished" / "scan.safetensors").exists()


@pytest.mark.parametrize("name", ["several", "part", "overlapping"])
def test_a_finished_scan_is_opened_by_the_call_that_made_it(name, tmp_path, now):
    place = copied(f"scans/{name}", tmp_path, now)
    before = json.loads((place / "examples.json").read_bytes())
    found = make.scanned(name, out=place)
    assert found.header["generation"] == before["generation"] and found.header["seconds"] == before["seconds"]
    same(make.examples_of(found), NUMBERS["scans"][f"scans/{name}"])


@pytest.mark.slow
def test_a_scan_on_workers_goes_on_with_the_parcels_that_were_left(tmp_path, now):
    pytest.importorskip("ray", reason="Ray is not installed")
    place = copied("parcels_of_a_scan", tmp_path, now)
    marked(place / "parcels" / "0000.part")
    marked(place / "parcels" / "0001.safetensors")
    found = make.scanned_long(out=place, ray=cases.RAY_CONFIG(workers=1))
    same(make.examples_of(found), with_marks(2))
    assert found.header["complete"] and not (place / "parcels").exists()


def test_a_sweep_that_was_stopped_does_the_rest(tmp_path):
    place = make.unfinished_sweep(tmp_path / "sweep")
    before = {file: file.read_bytes() for file in place.rglob("*") if file.is_file()}
    assert len(cases.SWEEP.load(place)) == 5
    same([make.numbers_of(run) for run in make.swept(place)], NUMBERS["sweep"])
    assert all(file.read_bytes() == content for file, content in before.items())


# What is made now is what was made then.


def plain(file: Path) -> Any:
    """A file as values, without times, marks, sums and versions."""
    left_out = {"seconds", "sha256", "meta_sha256", "bytes", "identity", "versions", "generation", "mark", "worker"}
    left_out.add("code")  # since these files were written

    def cleaned(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: cleaned(one) for name, one in value.items() if name not in left_out}
        return [cleaned(one) for one in value] if isinstance(value, list) else value

    if file.suffix == ".json":
        return cleaned(json.loads(file.read_bytes()))
    if file.suffix == ".parquet":
        import pyarrow.parquet as pq

        table = pq.read_table(file)
        columns = {name: table[name].to_pylist() for name in table.column_names}
        columns = {n: [list(x) if isinstance(x, bytes) else x for x in column] for n, column in columns.items()}
        return {"types": [str(field.type) for field in table.schema], "columns": columns}
    # The work of a run was added after these folders were written; it varies, as the time does.
    arrays = {name: array for name, array in sorted(load_file(file).items()) if name != "token_layers"}
    types = {name: str(array.dtype) for name, array in arrays.items()}
    return {"types": types, "arrays": {n: a.tolist() for n, a in arrays.items() if n != "seconds"}}


def same_files(ours: Path, theirs: Path) -> None:
    """Two folders have the same files, with the same values in them."""
    names = [sorted(str(f.relative_to(root)) for f in root.rglob("*") if f.is_file()) for root in (ours, theirs)]
    assert names[0] == names[1]
    for name in names[0]:
        same(plain(ours / name), plain(theirs / name), name)


@pytest.mark.parametrize("name", make.RUN_NAMES)
def test_a_search_finds_what_it_found_and_saves_the_same_files(name, tmp_path):
    skip_where_rounding_differs(name)
    run = make.searched(name)
    same(make.numbers_of(run), NUMBERS["runs"][name])
    run.save(tmp_path / "run")
    same_files(tmp_path / "run", DATA / "runs" / name)


def test_searches_side_by_side_find_what_they_found_and_save_the_same_files(tmp_path):
    runs = make.side_by_side()
    runs.save(tmp_path / "runs")
    same_files(tmp_path / "runs", DATA / "side_by_side")
    cases.MERGE(runs[:2]).save(tmp_path / "merged.json")
    runs[0].frontier.save(tmp_path / "frontier.json")
    for name in ("merged.json", "frontier.json"):
        same(plain(tmp_path / name), plain(DATA / name), name)


@pytest.mark.parametrize("name", make.SCAN_NAMES)
def test_a_scan_finds_what_it_found_and_saves_the_same_files(name, tmp_path):
    skip_where_rounding_differs(name)
    found = make.scanned(name, out=tmp_path / "scan")
    same(make.examples_of(found), NUMBERS["scans"][f"scans/{name}"])
    same_files(tmp_path / "scan", DATA / "scans" / name)


def test_examples_are_saved_from_memory_as_they_were(tmp_path):
    make.scanned("several", cache=False).save(tmp_path / "examples")
    same_files(tmp_path / "examples", DATA / "examples")


def test_a_sweep_finds_what_it_found_and_saves_the_same_files(tmp_path):
    make.swept(tmp_path / "sweep")
    same_files(tmp_path / "sweep", DATA / "sweep")


def test_attributions_scores_effects_and_settings_are_what_they_were(tmp_path):
    make.make_others(tmp_path)
    same(json.loads((tmp_path / "others.json").read_bytes()), OTHERS)
    written = plain(tmp_path / "attribution.json")
    added = {name: written.pop(name) for name in ("model", "prepend_bos", "prefix", "suffix")}  # since the golden
    same(written, plain(DATA / "attribution.json"))
    assert added == {"model": "embedded", "prepend_bos": True, "prefix": [], "suffix": []}
    old = dl.results.Attribution.load(DATA / "attribution.json")
    assert (old.model, old.prepend_bos, old.prefix, old.suffix) == ("", None, (), ())


@pytest.mark.parametrize(("name", "text"), make.read(DATA / "features.json").items())
def test_a_features_text_is_what_it_was_and_is_read_back(name, text):
    feature = cases.features()[name]
    assert str(feature) == text
    if ".npy" not in text and "safetensors" not in text:  # files that are not there
        assert dl.parse(text) == feature
    assert str(dl.parse(text)) == text


# What people read.


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return {name: make.masked(make.unpacked(page), HERE) for name, page in make.pages()}


@pytest.mark.parametrize("name", make.PAGES)
def test_a_page_is_what_it_was(name, pages):
    assert list(pages) == list(make.PAGES)
    same_words(pages[name], make.unzipped(HERE / "pages" / f"{name}.html.gz"))


@pytest.fixture(scope="module")
def commands() -> dict[str, dict[str, Any]]:
    return make.cli()


@pytest.mark.parametrize("name", list(WORDS["cli"]))
def test_a_command_prints_what_it_printed(name, commands):
    skip_where_rounding_differs(name)
    assert list(commands) == list(WORDS["cli"])
    now, then = commands[name], WORDS["cli"][name]
    assert (now["words"], now["status"]) == (then["words"], then["status"])
    for where in ("out", "err"):
        same_words(unwrapped(now[where]), unwrapped(then[where]))


def unwrapped(text: str) -> str:
    """A text without what versions of Python lay out otherwise in help and usage."""
    if "usage: " not in text:
        return text
    return " ".join(re.sub(r"\(choose from [^)]*\)", lambda found: found[0].replace("'", ""), text).split())


@pytest.fixture(scope="module")
def texts() -> dict[str, dict[str, str]]:
    return make.texts()


@pytest.mark.parametrize("name", list(WORDS["texts"]))
def test_a_result_or_an_error_says_what_it_said(name, texts):
    assert list(texts) == list(WORDS["texts"])
    now, then = texts[name], WORDS["texts"][name]
    assert list(now) == list(then)
    for what in then:
        same_words(now[what], then[what])


def test_every_wrong_call_is_an_error():
    assert [name for name, said in WORDS["texts"]["errors"].items() if said.startswith("no error")] == []


# The whole.


def test_no_public_name_has_lost_examples():
    then, now = make.read(HERE / "examples.json"), make.docstring_examples()
    assert {name: count for name, count in then.items() if now.get(name, 0) < count} == {}


def test_goldens_stay_small():
    files = [file for file in HERE.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    assert sum(file.stat().st_size for file in files) <= 1_000_000


def test_goldens_name_no_folder_and_no_machine():
    import platform

    for file in (file for file in HERE.rglob("*.json*") if file.is_file()):
        text = json.dumps(make.read(file))
        assert str(HERE.parents[1]) not in text and f'"{platform.node()}' not in text, file.name
