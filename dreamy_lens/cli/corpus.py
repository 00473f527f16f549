"""Commands for corpora: `dreamy-lens scan`, `compare` and `card`."""

from __future__ import annotations

import argparse
from typing import Any

import dreamy_lens as dl
from dreamy_lens._files import check_file
from dreamy_lens._host import say
from dreamy_lens._warnings import ignored_warnings
from dreamy_lens.cli.commands import Commands
from dreamy_lens.cli.options import (
    add_model,
    add_page,
    add_quiet,
    add_ray,
    announce,
    load_selected_model,
    model_keywords,
    progress_of,
    ray_keywords,
    report_file,
)
from dreamy_lens.cli.output import add_output, document_of, print_result
from dreamy_lens.corpus.documentation import notice_of_scan
from dreamy_lens.errors import SettingsError, shorten
from dreamy_lens.scan.index_folder import is_index_folder

SHOWN = 5
"""Number of windows that are printed for each feature."""

LISTED = 12
"""Largest number of features whose windows are printed."""

_WINDOWS = ("length", "stride", "tokens", "seed", "cross_entropy", "prepend_bos")


def add_scan(commands: Commands) -> None:
    """Add the command `scan`."""
    parser = commands.add("scan", _scan, features=True)
    features = "features to scan for; L2.N* is all neurons of layer 2, L*.N3 neuron 3 of all layers, L*.N* all neurons"
    parser.add_argument("feature", metavar="FEATURE", nargs="+", help=features)
    add_model(parser)
    add_corpus(parser)
    folder = "folder for the results; if it holds an unfinished scan, that continues"
    parser.add_argument("--out", metavar="DIR", help=folder)
    parser.add_argument(
        "-k",
        type=int,
        default=64,
        metavar="N",
        help="number of strongest windows to keep for each feature (default 64)",
    )
    _add_windows(parser)
    parser.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="windows in one pass through the model; default: chosen automatically",
    )
    page = "write the index of the features, with a page for each, into a folder such as layer2/; or, with a name in "
    add_page(parser, page + ".html, one page: of the feature, or of several features the index alone", folders=True)
    add_output(parser, "the features")
    add_quiet(parser)
    add_ray(parser)


def _scan(options: argparse.Namespace) -> int:
    from dreamy_lens.scan.storage import check_out

    keywords: dict[str, Any] = {"k": options.k, "batch_size": options.batch_size, "out": options.out}
    keywords |= ray_keywords(options) | model_keywords(options)
    if options.out is not None:
        check_out(options.out)
    if options.corpus is None:
        say(notice_of_scan(options.tokens, "--tokens 500k", "--corpus SOURCE"))
    announce(f"Scanning {options.corpus or 'the documentation of installed packages'}", options)
    corpus, progress = open_chosen_corpus(options), progress_of(options)
    examples = dl.max_activating(
        options.feature, corpus=corpus, progress=progress, **_window_keywords(options), **keywords
    )

    def as_text() -> None:
        print(examples)
        print_windows(examples)
        if examples.folder is not None:
            print(f"\nIn {examples.folder}")

    single = bool(options.html) and len(examples) == 1 and not is_index_folder(options.html)
    print_result(examples, options, as_text, page=examples.of(0) if single else None)
    return int(options.out is not None and examples.folder is None)  # a warning has said why


def print_windows(examples: Any) -> None:
    """Print the strongest windows of each feature.

    Of many features, print those whose strongest window is the most standard deviations above the mean.
    """
    notes: dict[int, str] = dict.fromkeys(range(len(examples)), "")
    if len(notes) > LISTED:
        frame = examples.to_pandas()
        score = (frame["maximum"] - frame["mean"]) / frame["deviation"].where(frame["deviation"] > 0)
        notes = {int(i): f"  ({x:.3g} deviations)" for i, x in score.nlargest(LISTED).items()}  # pyright: ignore
        print(f"\nThe {len(notes)} features whose strongest window is the most deviations above their mean:")
    for i, note in notes.items():
        feature = examples.of(i)
        print(f"\n{feature.title}{note}")
        for window in feature.top[:SHOWN]:
            fluency = "" if window.cross_entropy is None else f"cross-entropy {window.cross_entropy:5.2f}  "
            print(f"{window.value:10.4g}  {fluency}{window.text!r}")
    if len(notes) < len(examples):
        print(f"\nand {len(examples) - len(notes):,} more features")


def add_compare(commands: Commands) -> None:
    """Add the command `compare`."""
    parser = commands.add("compare", _compare)
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", help="folder of a saved run; several runs must be of the same feature"
    )
    parser.add_argument("examples", metavar="EXAMPLES", help="folder that `dreamy-lens scan --out` wrote")
    limit = "compare dreams and windows of at most this cross-entropy, in nats per token; may be repeated"
    parser.add_argument("--limit", type=float, action="append", metavar="X", help=limit)
    corpus = "search this whole corpus for the text of the dreams, not only the kept windows"
    parser.add_argument("--corpus", metavar="SOURCE", help=corpus)
    add_page(parser)
    add_output(parser, "the dreams and the windows")
    saved = "save the comparison in this file, which `dreamy-lens show` opens"
    parser.add_argument("--out", metavar="FILE", help=saved)


def _compare(options: argparse.Namespace) -> None:
    from dreamy_lens.cluster.remote_scan import open_scan
    from dreamy_lens.comparison.content import SEARCH_ALL

    if options.out:
        check_file(options.out)
    runs = [dl.load_run(path) for path in options.runs]
    examples = open_scan(options.examples)
    run = runs[0] if len(runs) == 1 else runs
    comparison = dl.compare(run, examples, limits=options.limit, corpus=options.corpus)
    text = str(comparison).replace(SEARCH_ALL, "--corpus SOURCE")
    print_result(comparison, options, lambda: print(text))
    if options.out:
        comparison.save(options.out)
        report_file(options.out, options)


def add_card(commands: Commands) -> None:
    """Add the command `card`."""
    parser = commands.add("card", _card, features=True)
    parser.add_argument("feature", metavar="FEATURE", help="feature of the page; see below")
    add_model(parser)
    add_corpus(parser)
    _add_windows(parser)
    parser.add_argument(
        "--run", metavar="DIR", dest="run_folder", help="folder of a saved run to show; default: make a new run"
    )
    parser.add_argument("--examples", metavar="DIR", help="folder of examples to show; default: scan the corpus")
    parser.add_argument("--iterations", type=int, metavar="N", help="iterations of the new run (default 300)")
    meaning = "parts on what the dreams mean: mechanisms, upstream, downstream, words, calibration; default: all"
    parser.add_argument("--parts", nargs="*", metavar="NAME", help=meaning)
    parser.add_argument("--llm", metavar="URL", help="ask the language model at this address for an explanation")
    parser.add_argument("--llm-model", metavar="NAME", help="name of the model at that address")
    add_page(parser, "file to write the page to", required=True)
    add_output(parser)
    add_quiet(parser, "show no progress bars")


def _card(options: argparse.Namespace) -> None:
    if options.examples is None and options.corpus is None:
        say(notice_of_scan(options.tokens, "--tokens 500k", "--corpus SOURCE"))
    model, windows = load_selected_model(options), _window_keywords(options)
    dream: dict[str, Any] = {name: windows.pop(name) for name in ("length", "prepend_bos")} | {"seed": options.seed}
    dream |= {} if options.iterations is None else {"iterations": options.iterations}
    keywords: dict[str, Any] = {"run": options.run_folder, "examples": options.examples}
    keywords |= dream if options.run_folder is None else {}
    keywords |= {"scan": windows} if options.examples is None else {}
    keywords |= {"llm": options.llm, "llm_model": options.llm_model}
    keywords |= {} if options.parts is None else {"parts": options.parts}
    announce(f"Making the card of {options.feature}", options)
    corpus = open_chosen_corpus(options) if options.examples is None else None
    card = dl.card(options.feature, model, corpus, progress=progress_of(options), **keywords)
    effect = {"promoted": card.logit_effect.promoted, "suppressed": card.logit_effect.suppressed}
    comparison = document_of(card.comparison) if options.json else {}
    document = {"kind": "Card", "comparison": comparison, "logit_effect": effect, "absent": card.absent}
    print_result(card, options, lambda: None, document)


# Options.


def add_corpus(parser: argparse.ArgumentParser, default: str = "the documentation of installed packages") -> None:
    """Add the options that choose a corpus.

    Args:
        parser: Parser that gets the options.
        default: What is read without them, for the help.
    """
    source = f"file, folder, pattern, URL, or id of a data set; default: {default}"
    parser.add_argument("--corpus", metavar="SOURCE", help=source)
    parser.add_argument("--text-field", metavar="NAME", help="field or column that holds the text")
    parser.add_argument("--separator", metavar="TEXT", help="text between the documents of a text file")
    parser.add_argument("--split", metavar="NAME", help="split of a data set, or of the documentation")


def open_chosen_corpus(options: argparse.Namespace) -> Any:
    """Open the corpus that the options of :func:`add_corpus` choose."""
    names = {"text_field": options.text_field, "separator": options.separator, "split": options.split}
    keywords = {name: value for name, value in names.items() if value is not None}
    if "separator" in keywords:
        keywords["separator"] = unescaped(keywords["separator"])
    return dl.corpus.open(options.corpus, **keywords)


def unescaped(text: str) -> str:
    """Return a text with its escape sequences, such as backslash and n, replaced by the characters they stand for.

    Raises:
        SettingsError: An escape sequence is incomplete or stands for no character.
    """
    try:
        with ignored_warnings():  # Python keeps a sequence that it does not know, and warns
            return text.encode("latin-1", "backslashreplace").decode("unicode_escape")
    except UnicodeDecodeError as error:
        raise SettingsError(
            f"--separator {shorten(text)} has an escape sequence that cannot be read ({error.reason}). A new line is "
            "\\n, a tab \\t, any character \\x and two hexadecimal digits, and a backslash itself \\\\."
        ) from None


def _add_windows(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose the windows of a scan."""
    parser.add_argument("--length", type=int, default=12, metavar="N", help="tokens of a window (default 12)")
    parser.add_argument(
        "--stride", type=int, metavar="N", help="tokens from one window to the next (default: the length)"
    )
    tokens = "scan a random part of the corpus, of this many tokens in all, as in 500k or 100M; default: all of it"
    parser.add_argument("--tokens", type=count_option, metavar="N", help=tokens)
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of everything that is drawn at random (default 0)"
    )
    no_cross_entropy = (
        "do not measure the cross-entropy of every window; then layers deeper than the features' do not run"
    )
    parser.add_argument("--no-cross-entropy", dest="cross_entropy", action="store_false", help=no_cross_entropy)


def _window_keywords(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of :func:`_add_windows` and `prepend_bos` as keywords."""
    return {name: getattr(options, name) for name in _WINDOWS}


def count_option(text: str) -> int:
    """Return the number of an option such as "500k".

    >>> count_option("500k"), count_option("2000")
    (500000, 2000)
    """
    from dreamy_lens.scan.config import parse_count

    try:
        return parse_count(text)
    except SettingsError as error:
        raise argparse.ArgumentTypeError(str(error).rstrip(".")) from None
