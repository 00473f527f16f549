"""Test the tables of a scan on disk: reading, interrupted writes, and messages about damage."""

from __future__ import annotations

import errno
import json
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dreamy_lens.errors import ExamplesError
from dreamy_lens.scan import ByteDecoder, Tables, arrow_table, storage, token_table
from dreamy_lens.scan.schema import schema

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def some(features: int = 3, windows: int = 50, n: int = 4, seed: int = 0) -> dict[str, Any]:
    """Rows of the three tables."""
    rng = np.random.default_rng(seed)
    plain = ("windows", "non_finite", "mean", "deviation", "minimum", "maximum", "histogram_width", "histogram_start")
    f: dict[str, Any] = {name: rng.integers(0, 9, features) for name in plain}
    f |= {"feature": np.arange(features), "label": [f"L0.N{i}" for i in range(features)]}
    f |= {"histogram": rng.integers(0, 9, (features, 5)), "sample_values": rng.normal(size=(features, 3))}
    f |= {"sample_windows": np.tile([0, 1, 2], (features, 1))}
    w: dict[str, Any] = {"window": np.arange(windows) << 20, "document": ["a.txt"] * windows}
    w |= {"character": np.arange(windows), "ids": rng.integers(0, 99, (windows, n)), "before": [[]] * windows}
    w |= {"after": [[1, 2]] * windows, "cross_entropy": rng.random(windows)}
    rows = features * 2
    k: dict[str, Any] = {
        "feature": np.repeat(np.arange(features), 2),
        "kind": ["top"] * rows,
        "rank": [0, 1] * features,
    }
    k |= {"value": rng.normal(size=rows), "window": rng.integers(0, windows, rows) << 20, "values": [None] * rows}
    return {"features": f, "windows": w, "kept": k}


def content(folder: Path) -> dict[str, Any]:
    found = storage.read_tables(folder)
    return {name: part.all().to_pylist() for name, part in found.parts.items()} | {"seed": found.header["seed"]}


def test_what_is_written_is_read_with_the_schemas_that_are_documented(tmp_path: Path):
    given = some()
    given["windows"]["document"][1] = "half \ud800 and nul \0"
    given["windows"]["cross_entropy"][2] = np.nan
    given["kept"]["values"][0] = [1.5, np.nan]
    storage.write_tables(tmp_path / "x", {"settings": {"k": np.int64(2)}, "seed": 1}, **given)
    assert sorted(os.listdir(tmp_path / "x")) == [
        "examples.json",
        "features.parquet",
        "kept.parquet",
        "windows.parquet",
    ]
    head = json.loads((tmp_path / "x" / "examples.json").read_text())
    assert head["format"] == "dreamy_lens examples" and head["version"] == 1 and head["settings"] == {"k": 2}
    for name in ("features", "windows", "kept"):
        assert pq.read_table(tmp_path / "x" / f"{name}.parquet").schema.equals(schema(name))
    found = storage.read_tables(tmp_path / "x")
    assert found.windows["document"][1].as_py() == "half \\ud800 and nul \0"
    assert found.windows["cross_entropy"][2].as_py() is None
    assert found.kept["values"].to_pylist()[:2] == [[1.5, pytest.approx(np.nan, nan_ok=True)], None]
    assert found.features["sample_values"].to_pylist()[1] == pytest.approx(given["features"]["sample_values"][1])
    assert repr(found) == "Tables(3 features, 50 windows, 6 kept)"
    assert pickle.loads(pickle.dumps(found)).windows.equals(found.windows)


def test_rows_are_looked_up_without_reading_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    given = some(features=5000, windows=20_000)
    storage.write_tables(tmp_path, {}, **given)
    found = storage.read_tables(tmp_path)
    part, read = found.parts["windows"], []
    real = pq.ParquetFile.read_row_groups
    monkeypatch.setattr(
        pq.ParquetFile,
        "read_row_groups",
        lambda self, groups, **more: read.append(groups) or real(self, groups, **more),
    )
    rows = part.where("window", [7 << 20, 19_999 << 20, 5], ["character"])
    assert rows.to_pylist() == [{"character": 7}, {"character": 19_999}]
    assert part._file.metadata.num_row_groups > 10 and len(read[0]) == 2
    kept = found.parts["kept"].where("feature", [4321]).to_pylist()
    assert [row["rank"] for row in kept] == [0, 1] and part.where("window", []).num_rows == 0
    memory = Tables({}, **given).parts["kept"].where("feature", [4321])
    assert memory.to_pylist() == kept


def test_rows_may_come_in_batches_and_in_any_order(tmp_path: Path):
    given = some()
    whole = {name: arrow_table(name, rows) for name, rows in given.items()}
    storage.write_tables(tmp_path / "a", {"seed": 0}, **whole)
    parts = {name: iter(table.to_batches(max_chunksize=7)) for name, table in whole.items()}
    storage.write_tables(tmp_path / "b", {"seed": 0}, **parts)
    mixed = dict(given["windows"])
    order = np.random.default_rng(1).permutation(50)
    mixed = {name: [column[i] for i in order] for name, column in mixed.items()}
    storage.write_tables(tmp_path / "c", {"seed": 0}, **{**given, "windows": mixed})
    assert content(tmp_path / "a") == content(tmp_path / "b") == content(tmp_path / "c")
    again = storage.read_tables(tmp_path / "a")
    storage.write_tables(tmp_path / "a", again.header, **again.parts)
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_wrong_rows_are_refused_and_change_nothing(tmp_path: Path):
    storage.write_tables(tmp_path, {"seed": 0}, **some())
    old = content(tmp_path)
    for name, rows in (("kept", {"feature": [0]}), ("windows", {**some()["windows"], "window": ["a"] * 50})):
        with pytest.raises(ExamplesError, match=f"not rows for the table '{name}', whose columns are"):
            storage.write_tables(tmp_path, {"seed": 1}, **{**some(), name: rows})
    assert content(tmp_path) == old and len(os.listdir(tmp_path)) == 4


@pytest.mark.parametrize("part", range(4))
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int):
    storage.write_tables(tmp_path, {"seed": 0}, **some())
    (tmp_path / "mine.txt").write_text("mine")
    old, files, calls = content(tmp_path), sorted(os.listdir(tmp_path)), []

    def full(*_: Any) -> None:
        calls.append(1)
        if len(calls) > part:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        ExamplesError, match=r"cannot be written to .*: No space left on device. Make room.*held before"
    ):
        storage.write_tables(tmp_path, {"seed": 1}, **some(seed=1))
    assert content(tmp_path) == old and sorted(os.listdir(tmp_path)) == files


def test_a_file_system_that_takes_no_more_is_told_in_a_sentence(tmp_path: Path):
    script = f"""
        import resource, signal, sys
        sys.path.insert(0, {str(Path(__file__).parents[2])!r})
        from dreamy_lens.scan import storage
        from dreamy_lens.errors import ExamplesError
        from tests.scan.test_storage import content, some
        place = {str(tmp_path)!r}
        storage.write_tables(place, {{"seed": 0}}, **some())
        old = content(place)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        try:
            storage.write_tables(place, {{"seed": 1}}, **some(windows=50_000))
        except ExamplesError as error:
            assert content(place) == old
            print(error)
    """
    if sys.platform == "win32":
        pytest.skip("no limits of file sizes")
    run = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert "cannot be written to" in done.stdout and "that it held before are unchanged" in done.stdout
    assert len(os.listdir(tmp_path)) == 4


def test_cut_off_anywhere_the_folder_is_the_old_one_or_the_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Cut(BaseException):
        pass

    seen, real = set(), os.replace
    for after in range(6):
        folder = tmp_path / str(after)
        storage.write_tables(folder, {"seed": 0}, **some())
        old = content(folder)
        left = [after]

        def replace(*given: Any, left: list[int] = left) -> None:
            if not left[0]:
                raise Cut
            left[0] -= 1
            real(*given)

        # What a killed process does not do is tidy up.
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", replace)
            patch.setattr(Path, "unlink", lambda *_, **__: None)
            try:
                storage.write_tables(folder, {"seed": 1}, **some(seed=1))
            except Cut:
                pass
        now = content(folder)
        seen.add(now["seed"])
        assert now == old or (
            now["seed"] == 1 and now["windows"] == arrow_table("windows", some(seed=1)["windows"]).to_pylist()
        )
        storage.write_tables(folder, {"seed": 2}, **some(seed=2))
        assert content(folder)["seed"] == 2
    assert seen == {0, 1}


def test_files_of_writes_that_were_cut_off_go_when_they_are_old(tmp_path: Path):
    fresh, stale = (tmp_path / f"kept-{digit * 16}.parquet" for digit in "ab")
    tmp_path.mkdir(exist_ok=True)
    for file in (fresh, stale):
        file.write_bytes(b"")
    os.utime(stale, (0, 0))
    storage.write_tables(tmp_path, {}, **some())
    assert fresh.exists() and not stale.exists()  # another process may be writing the fresh one


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("examples.json", None, "has no examples.json, so it holds no examples, or their scan is not finished yet"),
        ("examples.json", lambda b: b[:40], "is not valid JSON"),
        (
            "examples.json",
            lambda b: b.replace(b"dreamy_lens examples", b"something else"),
            "does not have the format",
        ),
        (
            "examples.json",
            lambda b: b.replace(b'"version": 1', b'"version": 7'),
            "version 7, and this dreamy_lens reads versions up to 1",
        ),
        ("examples.json", lambda b: b.replace(b'"rows"', b'"cows"'), "was altered: parts of it are missing"),
        (
            "examples.json",
            lambda b: b.replace(b'"windows": 50', b'"windows": 51'),
            "has 50 rows, and examples.json says 51",
        ),
        ("windows.parquet", None, "is.* damaged: it has no windows.parquet"),
        ("windows.parquet", lambda b: b[:-9], "damaged: windows.parquet is truncated or altered"),
        ("kept.parquet", lambda b: b, "kept.parquet does not belong to its examples.json"),
    ],
)
def test_damage_is_told_in_a_sentence(tmp_path: Path, name: str, change: Any, says: str):
    storage.write_tables(tmp_path / "x", {}, **some())
    storage.write_tables(tmp_path / "y", {}, **some())
    file = tmp_path / "x" / name
    data = (tmp_path / "y" / name if name == "kept.parquet" else file).read_bytes()
    file.unlink()
    if change is not None:
        file.write_bytes(change(data))
    with pytest.raises(ExamplesError, match=says):
        storage.read_tables(tmp_path / "x")
    with pytest.raises(ExamplesError, match="There is no folder"):
        storage.read_tables(tmp_path / "z")


@pytest.mark.parametrize("name", ["features", "windows", "kept", "tokens"])
def test_a_table_without_a_column_or_with_another_type_is_told(tmp_path: Path, name: str):
    tokens = {"id": [1, 2], "bytes": [b"a", b"b"]}
    storage.write_tables(tmp_path, {}, **some(), tokens=tokens)
    file = tmp_path / f"{name}.parquet"
    whole = pq.read_table(file)
    last = whole.schema.names[-1]
    for altered in (
        whole.drop_columns([last]),
        whole.set_column(whole.num_columns - 1, last, pa.array([True] * len(whole))),
    ):
        pq.write_table(altered.replace_schema_metadata(whole.schema.metadata), file)
        says = f"damaged: {name}.parquet was altered: its column '{last}' is missing or has another type"
        with pytest.raises(ExamplesError, match=says):
            storage.read_tables(tmp_path)
    pq.write_table(whole, file)
    assert len(storage.read_tables(tmp_path).parts[name]) == len(whole)


def test_altered_rows_are_found_out_where_they_are_read(tmp_path: Path):
    storage.write_tables(tmp_path, {}, **some())
    file = tmp_path / "windows.parquet"
    column = pq.ParquetFile(file).metadata.row_group(0).column(3)
    data = bytearray(file.read_bytes())
    data[(column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size - 5] ^= 0xFF
    file.write_bytes(bytes(data))
    with pytest.raises(ExamplesError, match=r"windows.parquet' cannot be read: it was truncated or altered"):
        storage.read_tables(tmp_path).parts["windows"].all()


def test_texts_are_read_from_the_bytes_of_tokens(gpt2: Any, tmp_path: Path):
    from dreamy_lens.models import as_hooked

    vocabulary = as_hooked(gpt2.bridge).vocabulary
    texts = ["The dog runs over the hill.", "naïve café → 日本 🙂", "a\tb\n\0"]
    rows = some(windows=3)
    rows["windows"] |= {"ids": [vocabulary.encode(text) for text in texts]}
    storage.write_tables(tmp_path, {}, **rows, tokens=token_table(vocabulary, arrow_table("windows", rows["windows"])))
    found = storage.read_tables(tmp_path).tokens
    reader = ByteDecoder(dict(zip(found["id"].to_pylist(), found["bytes"].to_pylist(), strict=True)))
    for text, ids in zip(texts, rows["windows"]["ids"], strict=True):
        assert reader.text(ids) == text == vocabulary.text(ids)
        assert reader.tokens(ids) == vocabulary.tokens(ids) and reader.text(ids[:-1]) == vocabulary.text(ids[:-1])
