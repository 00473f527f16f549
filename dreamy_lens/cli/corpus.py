"""The commands about corpora: `dreamy-lens scan`, `compare`, `card`; and `sweep`, from its own file."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dreamy_lens.cli.sweep import add_ray, add_sweep, model_of, ray_of

SHOWN = 5
"""Windows that are printed of a feature."""

LISTED = 12
"""Features whose windows are printed."""

_SIZES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}


def add_commands(command: Callable[..., argparse.ArgumentParser], model: Callable[..., None], load: Any) -> None:
    """Add the commands to a parser.

    Args:
        command: adds one, given its name, function and description.
        model: adds the options that say which model.
        load: loads the model that the options say.
    """
    what = "find the texts of a corpus that drive features highest"
    sub = command("scan", lambda options: _scan(options, load), what, features=True)
    every = "what to look for; L2.N* is every neuron of a layer, L*.N3 that of every layer, L*.N* every neuron there is"
    sub.add_argument("feature", metavar="FEATURE", nargs="+", help=every)
    model(sub)
    _corpus(sub)
    sub.add_argument("--out", metavar="DIR", help="write the results there; a scan that was stopped goes on from there")
    sub.add_argument("-k", type=int, default=64, metavar="N", help="strongest windows kept of each (default 64)")
    _windows(sub)
    sub.add_argument("--batch-size", type=int, metavar="N", help="windows in one pass through the model")
    sub.add_argument("--html", metavar="FILE", help="write a self-contained page; for a single feature")
    sub.add_argument("--quiet", action="store_true", help="no progress bar")
    add_ray(sub)

    sub = command("compare", _compare, "hold saved runs against the texts of a corpus")
    sub.add_argument("runs", metavar="RUN", nargs="+", help="folders of saved runs of one feature")
    sub.add_argument("examples", metavar="EXAMPLES", help="the folder that `dreamy-lens scan --out` wrote")
    limit = "compare what is at most this many nats per token; may be repeated"
    sub.add_argument("--limit", type=float, action="append", metavar="X", help=limit)
    whole = "search all of this corpus for the dreams' text, not only the windows that were kept"
    sub.add_argument("--corpus", metavar="SOURCE", help=whole)
    sub.add_argument("--html", metavar="FILE", help="write a self-contained page")

    what = "write everything there is to see about a feature on one page"
    sub = command("card", lambda options: _card(options, load(options)), what, features=True)
    sub.add_argument("feature", metavar="FEATURE", help="see below")
    model(sub)
    _corpus(sub)
    _windows(sub)
    sub.add_argument("--run", metavar="DIR", dest="run_folder", help="a saved run to show; default: dream now")
    sub.add_argument("--examples", metavar="DIR", help="examples to show; default: scan the corpus now")
    sub.add_argument("--iterations", type=int, metavar="N", help="of the dream (default 300)")
    sub.add_argument("--html", metavar="FILE", required=True, help="the page to write")
    sub.add_argument("--quiet", action="store_true", help="no progress bars")

    add_sweep(command, model, load)


def _corpus(parser: argparse.ArgumentParser) -> None:
    what = "a file, a folder, a pattern, a URL, or a data set's id; default: the documentation of installed packages"
    parser.add_argument("--corpus", metavar="SOURCE", help=what)
    parser.add_argument("--text-field", metavar="NAME", help="the field or column that holds the text")
    parser.add_argument("--separator", metavar="TEXT", help="what stands between the documents of a text file")
    parser.add_argument("--split", metavar="NAME", help="of a data set, or of the documentation")


def _windows(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--length", type=int, default=12, metavar="N", help="tokens of a window (default 12)")
    parser.add_argument("--stride", type=int, metavar="N", help="tokens from one to the next (default: their length)")
    random = "scan a random part of the corpus: windows of so many tokens in all, as in 500k or 100M"
    parser.add_argument("--tokens", type=tokens, metavar="N", help=random)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of what is drawn (default 0)")
    skip = "do not measure it for every window, which saves the layers behind the features'"
    parser.add_argument("--no-cross-entropy", dest="cross_entropy", action="store_false", help=skip)


def tokens(text: str) -> int:
    """A count as people write it.

    >>> tokens("500k"), tokens("1.5M"), tokens("2000")
    (500000, 1500000, 2000)
    """
    found = re.fullmatch(r"(\d+(?:[.,_]\d+)*)\s*([kKmMgGbB]?)", text.strip())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a count; write 500000, 500k or 1.5M")
    return int(float(found[1].replace("_", "").replace(",", "")) * _SIZES[found[2].lower()])


def _open(options: argparse.Namespace) -> Any:
    from dreamy_lens.corpus import open_corpus

    names = {"text_field": options.text_field, "separator": options.separator, "split": options.split}
    given = {name: value for name, value in names.items() if value is not None}
    if "separator" in given:
        given["separator"] = given["separator"].encode("latin-1", "backslashreplace").decode("unicode_escape")
    return open_corpus(options.corpus, **given)


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    names = ("length", "stride", "tokens", "seed", "cross_entropy", "prepend_bos")
    return {name: getattr(options, name) for name in names} | {"progress": False if options.quiet else None}


def _scan(options: argparse.Namespace, load: Any) -> None:
    import dreamy_lens as dl

    more: dict[str, Any] = {"k": options.k, "batch_size": options.batch_size, "out": options.out, **ray_of(options)}
    more |= model_of(options, load)
    if options.html:
        model = load(options)
        more |= {"model": model, "dtype": None} if options.ray is None else {}  # which need not be loaded twice
        count = _count(options.feature, model)
        if count != 1:
            options.misused(f"--html is the page of a single feature, and here are {count:,}")
    examples = dl.max_activating(options.feature, corpus=_open(options), **_settings(options), **more)
    print(examples)
    _print_windows(examples)
    if examples.folder is not None:
        print(f"\nIn {examples.folder}")
    if options.html:
        examples.of(0).to_html(options.html)
        print(f"Written: {Path(options.html).resolve()}")


def _print_windows(examples: Any) -> None:
    """The strongest windows of each feature; of many features, of those whose strongest window stands out most."""
    few: dict[int, str] = dict.fromkeys(range(len(examples)), "")
    if len(few) > LISTED:
        frame = examples.to_pandas()
        above = (frame["maximum"] - frame["mean"]) / frame["deviation"].where(frame["deviation"] > 0)
        few = {int(i): f"  ({x:.3g} deviations)" for i, x in above.nlargest(LISTED).items()}  # pyright: ignore
        print(f"\nThe {len(few)} features whose strongest window is the most deviations above their mean:")
    for i, note in few.items():
        feature = examples.of(i)
        print(f"\n{feature.label}{note}")
        for window in feature.top[:SHOWN]:
            cost = "" if window.cross_entropy is None else f"cross-entropy {window.cross_entropy:5.2f}  "
            print(f"{window.value:10.4g}  {cost}{window.text!r}")
    if len(few) < len(examples):
        print(f"\nand {len(examples) - len(few):,} more features")


def _count(features: Any, model: Any) -> int:
    from dreamy_lens.features.families import expressions
    from dreamy_lens.scoring.feature_bank import make_banks

    return sum(map(len, make_banks(expressions(features, model), model)))


def _compare(options: argparse.Namespace) -> None:
    import dreamy_lens as dl
    from dreamy_lens.scan.examples import Examples

    runs = [dl.load_run(path) for path in options.runs]
    examples, corpus = Examples.load(options.examples), options.corpus
    found = dl.compare(runs[0] if len(runs) == 1 else runs, examples, limits=options.limit, corpus=corpus)
    print(found)
    if options.html:
        found.to_html(options.html)
        print(f"Written: {Path(options.html).resolve()}")


def _card(options: argparse.Namespace, model: Any) -> None:
    import dreamy_lens as dl

    settings = _settings(options)
    progress, bos = settings.pop("progress"), settings.pop("prepend_bos")
    dream: dict[str, Any] = {} if options.iterations is None else {"iterations": options.iterations}
    dream |= {"length": settings.pop("length"), "seed": settings.pop("seed"), "prepend_bos": bos}
    given: dict[str, Any] = {"run": options.run_folder, "examples": options.examples}
    if options.run_folder is not None:
        dream = {}
    if options.examples is None:
        given["scan"] = settings | {"seed": options.seed}
    corpus = _open(options) if options.examples is None else None
    card = dl.card(options.feature, model, corpus, progress=progress, **given, **dream)
    card.to_html(options.html)
    print(f"Written: {Path(options.html).resolve()}")
