"""The commands about corpora: `dreamy-lens scan`, `compare` and `card`."""

from __future__ import annotations

import argparse
import re
from typing import Any

import dreamy_lens as dl
from dreamy_lens.cli.options import (
    Commands,
    add_model,
    add_page,
    add_quiet,
    add_ray,
    load_selected_model,
    model_keywords,
    progress_of,
    ray_keywords,
    write_page,
)

SHOWN = 5
"""Windows printed for each feature."""

LISTED = 12
"""Features whose windows are printed."""

_SIZES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}
_WINDOWS = ("length", "stride", "tokens", "seed", "cross_entropy", "prepend_bos")


def add_scan(commands: Commands) -> None:
    """Add the command `scan`."""
    help = "find the texts of a corpus that drive features highest"
    parser = commands.add("scan", _scan, help, features=True)
    every = "what to look for; L2.N* is every neuron of a layer, L*.N3 that of every layer, L*.N* every neuron there is"
    parser.add_argument("feature", metavar="FEATURE", nargs="+", help=every)
    add_model(parser)
    _add_corpus(parser)
    folder = "write the results there; a scan that was stopped goes on from there"
    parser.add_argument("--out", metavar="DIR", help=folder)
    parser.add_argument("-k", type=int, default=64, metavar="N", help="strongest windows kept of each (default 64)")
    _add_windows(parser)
    parser.add_argument("--batch-size", type=int, metavar="N", help="windows in one pass through the model")
    add_page(parser, "write a self-contained page; for a single feature")
    add_quiet(parser)
    add_ray(parser)


def _scan(options: argparse.Namespace) -> None:
    more: dict[str, Any] = {"k": options.k, "batch_size": options.batch_size, "out": options.out}
    more |= ray_keywords(options) | model_keywords(options)
    if options.html:
        model = load_selected_model(options)
        more |= {"model": model, "dtype": None} if options.ray is None else {}  # so that it is loaded only once
        count = _count_features(options.feature, model)
        if count != 1:
            options.misused(f"--html is the page of a single feature, and here are {count:,}")
    corpus, progress = _open_corpus(options), progress_of(options)
    examples = dl.max_activating(options.feature, corpus=corpus, progress=progress, **_windows(options), **more)
    print(examples)
    _print_windows(examples)
    if examples.folder is not None:
        print(f"\nIn {examples.folder}")
    if options.html:
        write_page(examples.of(0), options)


def _print_windows(examples: Any) -> None:
    """Print each feature's strongest windows; of many features, those whose strongest window stands out most."""
    notes: dict[int, str] = dict.fromkeys(range(len(examples)), "")
    if len(notes) > LISTED:
        frame = examples.to_pandas()
        above = (frame["maximum"] - frame["mean"]) / frame["deviation"].where(frame["deviation"] > 0)
        notes = {int(i): f"  ({x:.3g} deviations)" for i, x in above.nlargest(LISTED).items()}  # pyright: ignore
        print(f"\nThe {len(notes)} features whose strongest window is the most deviations above their mean:")
    for i, note in notes.items():
        feature = examples.of(i)
        print(f"\n{feature.label}{note}")
        for window in feature.top[:SHOWN]:
            cost = "" if window.cross_entropy is None else f"cross-entropy {window.cross_entropy:5.2f}  "
            print(f"{window.value:10.4g}  {cost}{window.text!r}")
    if len(notes) < len(examples):
        print(f"\nand {len(examples) - len(notes):,} more features")


def _count_features(expressions: list[str], model: Any) -> int:
    from dreamy_lens.features import families
    from dreamy_lens.scoring.feature_bank import make_banks

    return sum(map(len, make_banks(families.expressions(expressions, model), model)))


def add_compare(commands: Commands) -> None:
    """Add the command `compare`."""
    parser = commands.add("compare", _compare, "hold saved runs against the texts of a corpus")
    parser.add_argument("runs", metavar="RUN", nargs="+", help="folders of saved runs of one feature")
    parser.add_argument("examples", metavar="EXAMPLES", help="the folder that `dreamy-lens scan --out` wrote")
    limit = "compare what is at most this many nats per token; may be repeated"
    parser.add_argument("--limit", type=float, action="append", metavar="X", help=limit)
    whole = "search all of this corpus for the dreams' text, not only the windows that were kept"
    parser.add_argument("--corpus", metavar="SOURCE", help=whole)
    add_page(parser)


def _compare(options: argparse.Namespace) -> None:
    from dreamy_lens.scan.examples import Examples

    runs = [dl.load_run(path) for path in options.runs]
    examples = Examples.load(options.examples)
    run = runs[0] if len(runs) == 1 else runs
    comparison = dl.compare(run, examples, limits=options.limit, corpus=options.corpus)
    print(comparison)
    if options.html:
        comparison.to_html(options.html)
        print(f"Written: {options.html}")


def add_card(commands: Commands) -> None:
    """Add the command `card`."""
    help = "write everything there is to see about a feature on one page"
    parser = commands.add("card", _card, help, features=True)
    parser.add_argument("feature", metavar="FEATURE", help="see below")
    add_model(parser)
    _add_corpus(parser)
    _add_windows(parser)
    parser.add_argument("--run", metavar="DIR", dest="run_folder", help="a saved run to show; default: dream now")
    parser.add_argument("--examples", metavar="DIR", help="examples to show; default: scan the corpus now")
    parser.add_argument("--iterations", type=int, metavar="N", help="of the dream (default 300)")
    add_page(parser, "the page to write", required=True)
    add_quiet(parser, "no progress bars")


def _card(options: argparse.Namespace) -> None:
    model, windows = load_selected_model(options), _windows(options)
    dream: dict[str, Any] = {name: windows.pop(name) for name in ("length", "prepend_bos")} | {"seed": options.seed}
    dream |= {} if options.iterations is None else {"iterations": options.iterations}
    more: dict[str, Any] = {"run": options.run_folder, "examples": options.examples}
    more |= dream if options.run_folder is None else {}
    more |= {"scan": windows} if options.examples is None else {}
    corpus = _open_corpus(options) if options.examples is None else None
    write_page(dl.card(options.feature, model, corpus, progress=progress_of(options), **more), options)


# Options.


def _add_corpus(parser: argparse.ArgumentParser) -> None:
    what = "a file, a folder, a pattern, a URL, or a data set's id; default: the documentation of installed packages"
    parser.add_argument("--corpus", metavar="SOURCE", help=what)
    parser.add_argument("--text-field", metavar="NAME", help="the field or column that holds the text")
    parser.add_argument("--separator", metavar="TEXT", help="what stands between the documents of a text file")
    parser.add_argument("--split", metavar="NAME", help="of a data set, or of the documentation")


def _open_corpus(options: argparse.Namespace) -> Any:
    names = {"text_field": options.text_field, "separator": options.separator, "split": options.split}
    given = {name: value for name, value in names.items() if value is not None}
    if "separator" in given:
        given["separator"] = given["separator"].encode("latin-1", "backslashreplace").decode("unicode_escape")
    return dl.corpus.open(options.corpus, **given)


def _add_windows(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--length", type=int, default=12, metavar="N", help="tokens of a window (default 12)")
    parser.add_argument("--stride", type=int, metavar="N", help="tokens from one to the next (default: their length)")
    random = "scan a random part of the corpus: windows of so many tokens in all, as in 500k or 100M"
    parser.add_argument("--tokens", type=parse_count, metavar="N", help=random)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of what is drawn (default 0)")
    skip = "do not measure it for every window, which saves the layers behind the features'"
    parser.add_argument("--no-cross-entropy", dest="cross_entropy", action="store_false", help=skip)


def _windows(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of :func:`_add_windows`, and whether a BOS stands before a window, as keywords."""
    return {name: getattr(options, name) for name in _WINDOWS}


def parse_count(text: str) -> int:
    """Return a count as people write it.

    >>> parse_count("500k"), parse_count("1.5M"), parse_count("2000")
    (500000, 1500000, 2000)
    """
    match = re.fullmatch(r"(\d+(?:[.,_]\d+)*)\s*([kKmMgGbB]?)", text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a count; write 500000, 500k or 1.5M")
    return int(float(match[1].replace("_", "").replace(",", "")) * _SIZES[match[2].lower()])
