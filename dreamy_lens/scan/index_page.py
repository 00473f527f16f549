"""Index of a scan as HTML: one table of all features, and a folder with a page for each feature that it opens.

The table is legible without scripts. A small script sorts and searches it, and keeps only the rows in view in the page.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from dreamy_lens import _files
from dreamy_lens._host import progress_bar
from dreamy_lens.features.parser import feature_names
from dreamy_lens.figures.protocols import TextDecoder
from dreamy_lens.html.escaping import escape, with_tooltip
from dreamy_lens.html.page import copy_script, document, page_rules, python_details
from dreamy_lens.scan.feature_examples import FeatureExamples
from dreamy_lens.scan.index_folder import INDEX, MARK, PAGES, STYLE, check_index_folder, not_written
from dreamy_lens.scan.page import examples_body, stop_notice
from dreamy_lens.scan.tables import Table, Tables
from dreamy_lens.scan.window import Histogram, Window, scanned_part

PAGE_BYTES = 30_000
"""Most bytes of the page of a feature. It shows fewer windows if it would be longer, but always the strongest one."""

BARS = 24
"""Number of bars of the small histogram in a row."""

_AT_ONCE = 256  # features whose rows are in memory together
_SIZES = ((16, 4, 16), (12, 2, 12), (8, 1, 6), (3, 1, 0), (1, 0, 0))
"""Numbers of windows on the page of a feature: of the strongest ones, of those of each quantile, and by fluency."""

_CODE = 2000  # most characters of a program that each page of a folder repeats; the index has it in any case
_TEXT = (44, 20)  # most characters before and after the bold token of a row

_HEADS = (
    ("feature", "", ""),
    ("max", "number", "Highest value of a window"),
    ("above 0", "number", "Share of the windows whose value is above 0"),
    ("skew", "number", "Skewness: 0 for a symmetric distribution"),
    ("kurtosis", "number", "Excess kurtosis: 0 for a normal distribution, large where few windows have high values"),
    ("values", "", "Number of windows by value, from the lowest to the highest, on a logarithmic scale"),
    ("strongest window", "", "The token with the highest value is bold"),
)


def index_page(header: Mapping[str, Any], features: Iterator[FeatureExamples], linked: bool = False) -> str:
    """Return the index of a scan as a page.

    Args:
        header: Header of the scan.
        features: Examples of all features, in order.
        linked: Whether the rows open the pages that :func:`write_index` writes.
    """
    rows = [index_row(feature, linked) for feature in features]
    return _index_document(header, rows)


def index_row(examples: FeatureExamples, linked: bool) -> str:
    """Return the row of a feature; end tags that HTML does not need are left out, because there may be thousands.

    Args:
        examples: Examples of the feature.
        linked: Whether the row opens the page of the feature.
    """
    shape = examples.shape
    name = escape(examples.title)
    name = f'<a href="{PAGES}/{examples.index}.html">{name}</a>' if linked else name
    numbers = (_digits(examples.maximum), _percent(shape.active), _digits(shape.skewness), _digits(shape.kurtosis))
    cells = [name, *numbers, sparkline(examples.histogram)]
    cells.append(_window_line(examples.top[0]) if examples.top else "")
    return f"<tr><td>{'<td>'.join(cells)}"


def sparkline(histogram: Histogram) -> str:
    """Return a histogram as a drawing of 24 bars, in about 150 bytes.

    >>> sparkline(Histogram(1.0, 0, np.array([100, 0, 1])))
    '<svg viewBox="0 0 24 9" preserveAspectRatio="none"><path d="M0 9V0h8V9h8V8h8V9z"/></svg>'
    """
    counts = histogram.counts
    full = np.flatnonzero(counts)
    if not len(full):
        return ""
    counts = counts[full[0] : full[-1] + 1]
    # Whole bins in each bar: a bin that is cut into two would look like two values.
    edges = np.unique(np.linspace(0, len(counts), min(BARS, len(counts)) + 1).round().astype(int))
    bars = np.add.reduceat(counts, edges[:-1])
    top = max(1.0, math.log(float(bars.max())))
    heights = [0 if not n else 1 + round(8 * math.log(n) / top) for n in bars.tolist()]
    ends = np.linspace(0, BARS, len(bars) + 1).round().astype(int)
    widths = np.diff(ends).tolist()
    steps = groupby(range(len(bars)), key=heights.__getitem__)
    drawn = "".join(f"V{9 - height}h{sum(widths[i] for i in same)}" for height, same in steps)
    drawn = f"M0 9{drawn}V9z"
    return f'<svg viewBox="0 0 {BARS} 9" preserveAspectRatio="none"><path d="{drawn}"/></svg>'


def feature_page(examples: FeatureExamples, count: int, neighbours: tuple[str, str], level: int = 0) -> tuple[str, int]:
    """Return the page of a feature in the folder of an index, and the number of its size in the list of sizes.

    Args:
        examples: Examples of the feature.
        count: Number of features of the index.
        neighbours: Short names of the features before and after this one; "" where there is none.
        level: Number of the largest size to try.
    """
    number, (before, after) = examples.index, neighbours
    links = [f'<a href="../{INDEX}">All {count:,} features</a>']
    links += [f'<a rel="prev" href="{number - 1}.html">← {escape(before)}</a>'] * bool(before)
    links += [f'<a rel="next" href="{number + 1}.html">{escape(after)} →</a>'] * bool(after)
    shape = examples.shape
    line = (
        f"Above 0 in {_percent(shape.active)} of the windows. Skewness {_digits(shape.skewness)}, excess kurtosis "
        f"{_digits(shape.kurtosis)} (estimated from the histogram and a random sample)."
    )
    corpus = scanned_part(examples.header)
    top = (
        f'<nav class="dl-nav">{"".join(links)}</nav><h1>{with_tooltip(*examples.names)} in {escape(corpus)}</h1>'
        f'<p class="dl-quiet">{escape(line)}</p>'
    )
    code = python_details(examples.code if len(examples.code) <= _CODE else "")
    settings = f"<h2>Settings</h2>{_settings(examples)}{code}"
    page = ""
    for size in range(level, len(_SIZES)):
        level = size
        body = f"{top}{examples_body(examples, *_SIZES[level])}{settings}"
        page = document(f"{examples.title} in {corpus}", body, shared=f"../{STYLE}")
        if len(page.encode("utf-8", "replace")) <= PAGE_BYTES:
            break
    return page, level


def write_index(
    tables: Tables, reader: TextDecoder, folder: _files.StrPath, overwrite: bool = False, progress: bool | None = None
) -> str:
    """Write the index of a scan as a folder: the index, a style sheet, and a page for each feature.

    The folder appears when it is complete. The pages are written one by one, so that memory holds the rows of the
    index and a part of the tables.

    Args:
        tables: Tables of the scan.
        reader: Decoder of token ids.
        folder: Folder to write.
        overwrite: Whether to replace an index that the folder holds.
        progress: Whether to show a progress bar; None shows it as :func:`dreamy_lens._host.progress_bar` does.

    Returns:
        HTML of the index.

    Raises:
        FileWriteError: The folder holds something else, or cannot be written. Nothing is changed then.
    """
    target = check_index_folder(folder, overwrite)
    labels, count = _names_around(tables), len(tables.parts["features"])
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _files.replacing(target, full=overwrite) as temporary:
            pages = temporary / PAGES
            pages.mkdir(parents=True)
            rows, level = [], 0
            with progress_bar(progress, total=count, desc="Writing pages", unit="page") as bar:
                for feature, neighbours in zip(each_feature(tables, reader), labels, strict=True):
                    # Most pages of a scan have one size; now and then a larger one is tried again.
                    level = max(0, level - (feature.index % 16 == 0))
                    page, level = feature_page(feature, count, neighbours, level)
                    (pages / f"{feature.index}.html").write_bytes(page.encode("utf-8", "replace"))
                    rows.append(index_row(feature, linked=True))
                    bar.update()
            index = _index_document(tables.header, rows)
            (temporary / STYLE).write_text(page_rules(["tokens.css", "index.css"]), encoding="utf-8")
            _files.write_synced(temporary / INDEX, index.encode("utf-8", "replace"))
            _files.sync_folder(temporary)
    except _files.FAILURES as error:
        raise not_written(folder, error) from error
    return index


def each_feature(tables: Tables, reader: TextDecoder) -> Iterator[FeatureExamples]:
    """Yield the examples of every feature, in order; only some features' rows are in memory at a time.

    Args:
        tables: Tables of the scan, in memory or on disk.
        reader: Decoder of token ids.
    """
    count = len(tables.parts["features"])
    for start in range(0, count, _AT_ONCE):
        numbers = range(start, min(start + _AT_ONCE, count))
        features = tables.parts["features"].where("feature", numbers)
        kept = tables.parts["kept"].where("feature", numbers)
        # The sample has the same windows for every feature.
        sample = np.asarray(features["sample_windows"][0].as_py() or [], dtype=np.int64)
        wanted = np.union1d(kept["window"].to_numpy(), sample)
        windows = tables.parts["windows"].where("window", wanted.tolist())
        part = Tables(tables.header, Table(features), Table(windows), Table(kept))
        for number in numbers:
            yield FeatureExamples(part, number, lambda: reader)


def _names_around(tables: Tables) -> Iterator[tuple[str, str]]:
    """Yield, for each feature, the short names of the features before and after it."""
    labels = tables.parts["features"].all(["label"])["label"]
    before, here = "", feature_names(labels[0].as_py())[0] if len(labels) else ""
    for number in range(len(labels)):
        after = feature_names(labels[number + 1].as_py())[0] if number + 1 < len(labels) else ""
        yield before, after
        before, here = here, after


def _index_document(header: Mapping[str, Any], rows: list[str]) -> str:
    """Return the page of the index with the given rows."""
    count, corpus = len(rows), scanned_part(header)
    title = f"{count:,} feature{'s' * (count != 1)} of {header.get('model', 'a model')} in {corpus}"
    counts, settings = header.get("counts", {}), header.get("settings", {})
    facts = (
        f"{counts.get('windows', 0):,} windows of {settings.get('length', '?')} tokens, from "
        f"{counts.get('documents', 0):,} documents. Above 0: share of the windows whose value is above 0. Skewness and "
        "excess kurtosis (large where few windows have high values, 0 for a normal distribution) are estimated from "
        f"each feature's histogram and a random sample of {settings.get('sample', 0):,} windows."
    )
    notice = "" if header.get("complete", True) else f'<p class="dl-warn">{escape(stop_notice(header))}</p>'
    heads = "".join(
        f'<th scope="col"{f" class=dl-{kind}" if kind else ""}{f" title={_quoted(help)}" if help else ""}>{name}'
        for name, kind, help in _HEADS
    )
    body = (
        f'<h1>{escape(title)}</h1><p class="dl-quiet">{escape(facts)}</p>{notice}'
        '<p class="dl-find" hidden><input type="search" aria-label="Search features and windows" '
        'placeholder="Search features and windows"> <span class="dl-quiet" role="status"></span></p>'
        f'<table class="dl-index"><thead><tr>{heads}</thead><tbody>{"".join(rows)}</tbody></table>'
        f"{python_details(str(header.get('code', '')), button=True)}"
        f"<script>{_script()}\n{copy_script()}copies(document)</script>"
    )
    early = "<script>document.documentElement.className='dl-js'</script>"  # before the browser lays out all rows
    page = document(title, body, scripts=True, styles=["index.css"])
    return page.replace("<title>", f"{MARK}{early}<title>", 1)


@cache
def _script() -> str:
    """Return the script of the index, without comments and indentation."""
    lines = (Path(__file__).parent / "index.js").read_text(encoding="utf-8").splitlines()
    return "\n".join(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("//"))


def _settings(examples: FeatureExamples) -> str:
    """Return what was scanned, as a list."""
    header, counts = examples.header, examples.counts
    settings = header.get("settings", {})
    values = {
        "feature": examples.label if len(examples.label) < 400 else examples.title,
        "model": header.get("model"),
        "corpus": header.get("corpus", {}).get("name"),
        "tokens": f"{counts.get('tokens', 0):,}",
        "windows": f"{examples.windows:,} of {settings.get('length', '?')} tokens",
        "tokens from one to the next": settings.get("stride"),
        "seed": settings.get("seed"),
        "BOS before the window": "yes" if header.get("prepend_bos") else "no",
        "values that are not finite": f"{examples.non_finite:,}",
        "versions": ", ".join(f"{name} {version}" for name, version in header.get("versions", {}).items()),
    }
    rows = [f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in values.items() if value not in (None, "")]
    return f"<dl>{''.join(rows)}</dl>"


def _window_line(window: Window) -> str:
    """Return the text of a window around its token of the highest value, which is bold."""
    tokens, values = window.tokens, window.values
    known = values is not None and len(values) == len(tokens) and bool(np.isfinite(values).any())
    place = int(np.nanargmax(values)) if known and values is not None else len(tokens) - 1
    before, after = "".join(tokens[:place]), "".join(tokens[place + 1 :])
    before = before if len(before) <= _TEXT[0] else f"…{before[-_TEXT[0] :]}"
    after = after if len(after) <= _TEXT[1] else f"{after[: _TEXT[1]]}…"
    return f"{escape(before.lstrip())}<b>{escape(tokens[place][:40], token=True)}</b>{escape(after.rstrip())}"


def _digits(x: float) -> str:
    """Return a number with four significant digits and a true minus sign; "-" for NaN.

    >>> _digits(-0.000012345), _digits(math.nan)
    ('−1.234e−05', '-')
    """
    return "-" if math.isnan(x) else f"{x:.4g}".replace("-", "−").replace("inf", "∞")


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.3g} %".replace("-", "−")


def _quoted(text: str) -> str:
    return f'"{escape(text)}"'
