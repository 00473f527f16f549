"""Sources of text: how a corpus is made from paths, URLs, data sets, lists and iterators."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dreamy_lens._host import working
from dreamy_lens.corpus import hub
from dreamy_lens.corpus.corpus import Corpus, Shard
from dreamy_lens.corpus.documentation import PACKAGES, SPLITS
from dreamy_lens.corpus.files import ReadOptions, file_shards
from dreamy_lens.corpus.memory import DocstringShard, IterableShard, SinglePassShard, TextShard, first_of, named_text
from dreamy_lens.corpus.paths import COMPRESSIONS, FORMATS, File, find_files, is_glob, is_url
from dreamy_lens.corpus.problems import Problem, Problems
from dreamy_lens.corpus.sections import BLOCK, SECTION
from dreamy_lens.errors import CorpusError, SettingsError, quoted

VERSION = 1
"""Version of the rules that turn a source into sections and blocks; a part of every fingerprint."""

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(:[\w.\[\]%+-]+)?|[\w.-]+:[\w.\[\]%+-]+")
_FILE_OPTIONS = ("text_field", "separator", "encoding", "storage_options")


def open_corpus(
    source: Any = None,
    *,
    split: str | None = None,
    config: str | None = None,
    text_field: str | None = None,
    separator: str | None = None,
    encoding: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    packages: Iterable[str] | None = None,
) -> Corpus:
    r"""Open nearly anything that holds text as a corpus. Nothing is tokenized, and most text is read only when needed.

    Args:
        source: One of

            - None or "docstrings": the documentation that ships with installed packages, first the documents that the
              embedded model was trained on, then the held-out ones. The first use in a process takes half a minute.
            - a path, or several as `pathlib.Path`: .txt and .md (a file is a document, unless there is a `separator`);
              .jsonl, .ndjson and .json (a row is a document); .parquet (a row is a document). All but .parquet may be
              compressed, and then end in .gz or .zst.
            - a folder, with all files below it by name, except hidden ones; or a pattern: ``"data/*.jsonl.gz"``.
            - a URL that fsspec can open: ``"s3://bucket/folder"``, ``"gs://bucket/part-*.parquet"``.
            - a `datasets` data set, or its name on the Hub, which is streamed: "owner/name" or "owner/name:train".
            - a list of texts, or of objects with `.text` and `.source`.
            - a function that returns an iterator of texts, or an iterable. A generator can be read only once.
            - a corpus, which is returned unchanged.
        split: Split of the documentation ("train" or "held_out"), or of a data set.
        config: Configuration of a data set on the Hub.
        text_field: Field or column with the texts; None takes "text", else "content", else the only one with strings.
        separator: Text between the documents of a text file, such as ``"<|endoftext|>"`` or ``"\n\n\n"``.
        encoding: Encoding of text files; it must keep ASCII. None is "utf-8".
        storage_options: Options that fsspec needs to open a URL.
        packages: Packages of the documentation; None is `dreamy_lens.corpus.PACKAGES`.

    Returns:
        A corpus, whose `.problems` count what was skipped.

    Raises:
        CorpusError: The source does not exist, or has no text.
        SettingsError: An option does not apply to the source, or has a wrong value.

    >>> from dreamy_lens import corpus
    >>> corpus.open(["A text.", "Another one."])
    <corpus '2 texts': 1 shard>
    """
    options = {
        "split": split,
        "config": config,
        "text_field": text_field,
        "separator": separator,
        "encoding": encoding,
        "storage_options": storage_options,
        "packages": packages,
    }
    given = {name: value for name, value in options.items() if value is not None}
    if isinstance(source, Corpus):
        _check_options(given, (), "a corpus that is open")
        return source
    with working("Opening the corpus"):
        corpus = _opened(source, given)
    if source is None or isinstance(source, (str, os.PathLike)):
        corpus.source = None if source is None else os.fspath(source), given
    return corpus


def _opened(source: Any, given: dict[str, Any]) -> Corpus:
    """Return the corpus of a source with the options that are given; see :func:`open_corpus`."""
    if source is None or (isinstance(source, str) and source == "docstrings"):
        _check_options(given, ("split", "packages"), "the documentation")
        return _documentation(**given)
    if isinstance(source, os.PathLike):
        _check_options(given, _FILE_OPTIONS, "files")
        return _files(os.fspath(source), **given)
    if isinstance(source, str):
        return _named(source, given)
    if hub.is_dataset(source):
        _check_options(given, ("split", "text_field"), "a data set")
        return _dataset(source, "data set", **given)
    if isinstance(source, (list, tuple)) and source and all(isinstance(item, os.PathLike) for item in source):
        _check_options(given, _FILE_OPTIONS, "files")
        return _several_files(source, **given)
    _check_options(given, (), "texts")
    return _texts(source)


def _check_options(given: Mapping[str, Any], known: Sequence[str], kind: str) -> None:
    """Raise SettingsError if an option is given that does not apply to a kind of source."""
    for name in given:
        if name not in known:
            options = f"; its options are {', '.join(known)}" if known else ""
            raise SettingsError(f"{name}= does not apply to {kind}{options}.")


def _named(source: str, given: dict[str, Any]) -> Corpus:
    """Return the corpus of a string: of local files or a URL if they exist, else of a data set on the Hub."""
    local = os.path.expanduser(source)
    try:
        exists = bool(source) and os.path.exists(local)
    except ValueError:  # the string has a NUL
        exists = False
    if not exists and ("\n" in source or " " in source.strip() or not source or len(source) > 1000):
        raise CorpusError(
            f"There is no file {source[:60]!r}. If it is a text, give a list of texts: [{source[:20]!r}]."
        )
    if exists or is_url(source) or (is_glob(source) and not _HUB_NAME.fullmatch(source)):
        _check_options(given, _FILE_OPTIONS, "files")
        return _files(source, **given)
    means_hub = "split" in given or "config" in given
    is_file = source.lower().endswith((*FORMATS, *COMPRESSIONS)) or source.startswith((".", "/", "~"))
    is_file |= "/" in source and os.path.isdir(source.partition("/")[0])
    if (_HUB_NAME.fullmatch(source) or means_hub) and not is_file:
        _check_options(given, ("split", "config", "text_field"), "a data set on the Hub")
        name, dataset = hub.load_dataset(source, given.get("split"), given.get("config"))
        return _dataset(dataset, name, text_field=given.get("text_field"))
    if means_hub:
        _check_options(given, _FILE_OPTIONS, "files")
    return _files(source, **given)  # raises an error that names the files that exist


def _corpus(name: str, shards: list[Shard], fingerprint: Any, problems: Problems | None = None) -> Corpus:
    """Return a corpus whose fingerprint also depends on how sources are cut.

    Args:
        name: Name of the corpus, to show.
        shards: Shards of the corpus.
        fingerprint: JSON value that changes when the source changes, or a function that returns it.
        problems: Problems found while the source was opened.
    """

    def full_fingerprint() -> str:
        source_fingerprint = fingerprint() if callable(fingerprint) else fingerprint
        return hashlib.sha256(json.dumps([VERSION, SECTION, BLOCK, source_fingerprint]).encode()).hexdigest()[:16]

    return Corpus(name, shards, full_fingerprint, problems or Problems())


def _documentation(split: str | None = None, packages: Iterable[str] = PACKAGES) -> Corpus:
    if split is not None and split not in SPLITS:
        raise SettingsError(f"There is no split {quoted(split)}; use 'train', 'held_out', or None for both.")
    packages = tuple(packages)
    splits = [s for s in SPLITS if split in (None, s)]
    shards: list[Shard] = [DocstringShard(s, packages) for s in splits]
    name = f"docstrings:{split}" if split else "docstrings"
    return _corpus(name, shards, lambda: ["docstrings", splits, [_version(package) for package in packages]])


def _version(package: str) -> list[str]:
    """Return texts that change when a package changes: its version, or the sizes and times of its files."""
    if package in ("stdlib", "pydoc_data.topics"):
        return [package, sys.version]
    try:
        return [package, importlib.metadata.version(package)]
    except importlib.metadata.PackageNotFoundError:
        pass
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    roots = (spec.submodule_search_locations or []) if spec else []
    stats = [path.stat() for root in roots for path in sorted(Path(root).rglob("*.py"))]
    return [package, *(f"{stat.st_size} {stat.st_mtime_ns}" for stat in stats)]


def _read_options(options: Mapping[str, Any]) -> tuple[ReadOptions, dict[str, Any]]:
    """Return how files are read, and the options of fsspec; raise SettingsError if an option has a wrong value."""
    options = dict(options)
    storage = dict(options.pop("storage_options", {}))
    settings = ReadOptions(**options)
    if settings.separator == "":
        raise SettingsError("separator= is an empty text; leave it out if each file is one document.")
    try:
        keeps_ascii = "a \n".encode(settings.encoding) == b"a \n"
        (settings.separator or "").encode(settings.encoding)
    except LookupError:
        raise SettingsError(
            f"There is no encoding {quoted(settings.encoding)}; give a name that Python knows, such as "
            "'utf-8' or 'latin-1'."
        ) from None
    except UnicodeEncodeError:
        raise SettingsError(
            f"The separator {quoted(settings.separator)} cannot be written in {settings.encoding}; change one of "
            "the two."
        ) from None
    if not keeps_ascii:
        raise SettingsError(
            f"The encoding {settings.encoding} does not keep ASCII, so its files cannot be read here. Convert them to "
            "UTF-8."
        )
    return settings, storage


def _files(source: str, **options: Any) -> Corpus:
    settings, storage = _read_options(options)
    name, files, problems = find_files(source, storage)
    return _corpus_of_files(name, files, settings, problems)


def _several_files(paths: Iterable[os.PathLike[str]], **options: Any) -> Corpus:
    settings, _ = _read_options(options)
    files, problems = [], Problems()
    for path in paths:
        _, path_files, path_problems = find_files(os.fspath(path), {})
        files += path_files
        problems = Problems.total([problems, path_problems])
    return _corpus_of_files(f"{len(files)} files", files, settings, problems)


def _corpus_of_files(name: str, files: list[File], settings: ReadOptions, problems: Problems) -> Corpus:
    if not any(file.size for file in files):
        raise CorpusError(f"There is no text in {name}: {'the file is' if len(files) == 1 else 'all files are'} empty.")
    stamps = [[file.name, file.size, file.stamp] for file in files]
    shards = file_shards(files, settings)
    return _corpus(name, shards, [stamps, settings.text_field, settings.separator, settings.encoding], problems)


def _dataset(source: Any, name: str, split: str | None = None, text_field: str | None = None) -> Corpus:
    name, shards, fingerprint = hub.dataset_shards(source, name, split, text_field)
    return _corpus(name, shards, fingerprint)


def _texts(source: Any) -> Corpus:
    """Return the corpus of a list, an iterable, an iterator, or a function."""
    kind = type(source).__name__
    if isinstance(source, (bytes, bytearray, set, frozenset, Mapping)) or kind == "DataFrame":
        advice = {
            "DataFrame": "give one of its columns",
            "set": "a set has no order; give sorted(...)",
            "frozenset": "a set has no order; give sorted(...)",
            "bytes": "decode them, and give a list of texts",
            "bytearray": "decode them, and give a list of texts",
        }.get(kind, "give list(....values())")
        raise CorpusError(f"Expected texts, but got {kind}: {advice}.")
    if isinstance(source, (list, tuple)):
        return _list(source)
    if isinstance(source, Iterator):
        name = f"{kind} {getattr(source, '__qualname__', '')}".strip()
        return _corpus(name, [SinglePassShard(name, source)], f"once-{uuid.uuid4()}")
    if isinstance(source, Iterable):
        first = first_of(source)
        _check_texts(first, kind)
        shard = IterableShard(kind, source)
    elif isinstance(source, Callable):
        shard = IterableShard(getattr(source, "__qualname__", kind), source)
    else:
        raise CorpusError(
            f"There is no corpus in {source!r:.60} ({kind}). Give a path, a folder, a pattern, a URL, a list of texts, "
            "an iterable of texts, or a data set."
        )
    return _corpus(shard.name, [shard], shard.fingerprint)


def _list(texts: Sequence[Any]) -> Corpus:
    _check_texts(texts, "the list")
    first = texts[0]
    if isinstance(first, str) and first.lower().endswith((*FORMATS, *COMPRESSIONS)) and os.path.isfile(first):
        raise CorpusError(
            f"{quoted(first, 300)} is a file. A list of str is a list of texts; give pathlib.Path objects for files."
        )
    shard = TextShard("texts", texts)
    if not shard.characters:
        raise CorpusError("All texts of the list are empty; give at least one text that is not.")
    return _corpus(f"{len(texts)} text{'s' * (len(texts) != 1)}", [shard], shard.fingerprint)


def _check_texts(items: Sequence[Any], name: str) -> None:
    """Raise CorpusError if there is no text among items."""
    if not items:
        raise CorpusError(f"There is no text in {name}: it is empty.")
    if all(isinstance(named_text(item, ""), Problem) for item in items):
        raise CorpusError(
            f"Expected texts, but the items of {name} are of type {type(items[0]).__name__}. Give str, or objects with "
            ".text."
        )
