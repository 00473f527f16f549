"""Attribution as data: drops, substitutes, tables and files."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamy_lens.errors import RunFolderError
from dreamy_lens.results import Attribution
from tests.helpers.fakes import HOSTILE, attribution_of

numbers = st.floats(-100, 100, width=32) | st.sampled_from([np.nan, np.inf, -np.inf])


@given(st.integers(1, 4), st.integers(0, 5), st.data())
def test_drops_and_substitutes_are_those_of_the_definition(n, k, data):
    values = np.array(data.draw(st.lists(numbers, min_size=n * k, max_size=n * k)), dtype=np.float32).reshape(n, k)
    candidates = np.array(data.draw(st.lists(st.integers(0, 6), min_size=n * k, max_size=n * k)), dtype=np.int64)
    candidates, value = candidates.reshape(n, k), data.draw(st.floats(-100, 100))
    names = tuple(tuple(map(str, row)) for row in candidates.tolist())
    found = Attribution(np.arange(n), ("x",) * n, value, 2.0, candidates, values, values, names)
    for i in range(n):
        # The prompt's own token and scores that are not finite count for nothing.
        counted = [float(v) for v, c in zip(values[i], candidates[i], strict=True) if np.isfinite(v) and c != i]
        if counted:
            assert found.drop_to_worst[i] == value - min(counted)
            assert found.drop_to_best[i] == value - max(counted)
        else:
            assert np.isnan(found.drop_to_worst[i]) and np.isnan(found.drop_to_best[i])
        assert [s.value for s in found.top(i, k)] == sorted(counted, reverse=True)
        assert [s.value for s in found.worst(i, 2)] == sorted(counted)[:2]
        assert all(s.change == s.value - value and s.token == str(s.token_id) for s in found.top(i))
    frame = found.to_pandas()
    assert len(frame) == sum(len(found.top(i, k)) for i in range(n))
    assert str(found) and repr(found) and found._repr_html_()


def test_it_never_changes_what_it_was_made_of():
    found = attribution_of((" a", " b"))
    kept = {f.name: np.copy(getattr(found, f.name)) for f in dataclasses.fields(found)}
    found.to_html(), found.to_pandas(), str(found), found.top(0), found.worst(0), found._repr_html_()
    assert all(np.array_equal(kept[name], getattr(found, name)) for name in kept)


def test_the_strip_says_what_the_numbers_are(tmp_path):
    values = np.array([[1.0, 2.0], [3.0, 3.5]], dtype=np.float32)
    candidates, names = np.array([[7, 8], [7, 8]]), ((" p", " q"), (" p", " q"))
    found = Attribution(np.array([1, 2]), (" a", " b"), 3.0, 2.0, candidates, values, values, names, "L2.N17")
    page = found.to_html(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text("utf-8") == page
    assert "Attribution of L2.N17" in page and "the worst of 2 substitutes (max 2.00)" in page
    assert 'style="--d:1;--h:.5"><i title="worst −2.00, best −1.00"' in page
    assert 'dl-up" tabindex="0" style="--d:0;--h:0"><i title="worst 0.00, best +0.50"' in page
    assert "1 of 2: best<q> q</q> −1.00<q> p</q> −2.00<br>worst<q> p</q> −2.00" in page


def test_a_feature_that_nothing_weakens_still_has_a_strip():
    flat = np.zeros((2, 2), dtype=np.float32)
    found = Attribution(np.array([1, 2]), ("a", "b"), 0.0, 2.0, np.full((2, 2), 9), flat, flat, (("p", "q"),) * 2)
    assert found.drop_to_worst.tolist() == [0, 0] and "--d:0;--h:0" in found._repr_html_()


def test_it_survives_its_file(tmp_path):
    found = attribution_of(HOSTILE, pieces=HOSTILE)
    found.values[0, 0] = np.nan
    read = Attribution.load(found.save(tmp_path / "a.json"))
    assert all(
        np.array_equal(getattr(read, n), getattr(found, n), equal_nan=True) for n in ("ids", "values", "candidates")
    )
    assert (read.tokens, read.candidate_tokens, read.value) == (found.tokens, found.candidate_tokens, found.value)
    assert (read.feature, read.cross_entropy, read.values.dtype) == ("L2.N17", 4.5, np.float32)
    data = (tmp_path / "a.json").read_text()
    (tmp_path / "a.json").write_text(data.replace('"candidates"', '"candidate"'))
    with pytest.raises(RunFolderError, match="not a complete attribution"):
        Attribution.load(tmp_path / "a.json")


def test_arrays_that_do_not_fit_are_refused():
    found = attribution_of((" a", " b"))
    for name, wrong in (("ids", np.arange(3)), ("values", found.values[:, :2]), ("candidate_tokens", ((), ()))):
        with pytest.raises(ValueError, match="do not fit together"):
            dataclasses.replace(found, **{name: wrong})
