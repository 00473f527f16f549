"""Probe of the Hugging Face Hub, whose client tries for minutes, file by file, if it gets no answer."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from dreamy_lens import _waiting
from dreamy_lens.errors import WaitError

ANSWER_SECONDS = 10.0
"""Most seconds that the Hub may take to answer, without `DREAMY_LENS_TIMEOUT`."""

AT_ONCE = "With HF_HUB_OFFLINE=1 in the environment the Hub is not asked, and only its cache is searched."

_CLIENT = "huggingface_hub.utils._http"
"""Logger that writes a line for every attempt of the Hub's client."""

_UNREACHABLE = (errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH)


@contextlib.contextmanager
def asked(source: str) -> Iterator[str]:
    """Use the Hub in the block if it answers, and otherwise only its cache on this machine.

    Args:
        source: Id of a model on the Hub, or a folder, for which the Hub is not asked.

    Yields:
        End of a sentence that says why only the cache is searched; empty if the Hub answers.
    """
    constants = sys.modules.get("huggingface_hub.constants")
    if Path(source).exists() or constants is None or getattr(constants, "HF_HUB_OFFLINE", False):
        yield ""
        return
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    seconds = _waiting.limit(ANSWER_SECONDS)
    try:
        what = f"Waiting for the Hugging Face Hub at {endpoint}"
        reason = _waiting.within(seconds, what, lambda: _ask(endpoint, seconds))
    except WaitError:
        reason = f"gave no answer in {seconds:g} s"
    if reason is None:
        with _one_line_for_retries(endpoint):
            yield ""
        return
    constants.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]
    try:
        yield f", and of the Hub only the cache was searched, because {endpoint} {reason}"
    finally:
        constants.HF_HUB_OFFLINE = False  # type: ignore[attr-defined]


def adapter_folder(source: str, revision: str | None = None) -> Path | None:
    """Return the folder of the Hub's cache with the adapter of an id, downloaded if necessary; None if it is none.

    Args:
        source: Id on the Hub.
        revision: Branch, tag or commit; None is the main branch.
    """
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    try:
        hf_hub_download(source, "adapter_config.json", revision=revision)
    except (EntryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError):
        return None  # a whole model; or an id that does not exist, of which the loading says more
    patterns = ["adapter_*", "*token*", "vocab*", "merges.txt", "special_tokens_map.json", "*.jinja"]
    return Path(snapshot_download(source, revision=revision, allow_patterns=patterns))


def is_unreachable(error: BaseException) -> bool:
    """Return whether an error of the Hub's client says only that the Hub is out of reach and its cache has no copy."""
    kinds = {"LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectError", "ConnectionError"}
    cause: BaseException | None = error
    for _ in range(20):  # a chain of causes may be a circle
        if cause is None:
            break
        if kinds & {kind.__name__ for kind in type(cause).__mro__} or "couldn't connect to 'http" in str(cause):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _ask(endpoint: str, seconds: float) -> str | None:
    """Return None when the Hub has answered anything, or why it cannot be reached; raise WaitError if it says nothing.

    Only what no client could reach counts: a proxy or a certificate may be known to the Hub's client alone.
    """
    try:
        urllib.request.urlopen(f"{endpoint.rstrip('/')}/robots.txt", timeout=seconds).close()
    except OSError as error:  # among them an answer such as 404
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            raise _waiting.too_long(f"Waiting for {endpoint}", seconds) from None
        is_lost = isinstance(reason, socket.gaierror) or getattr(reason, "errno", None) in _UNREACHABLE
        if is_lost and not (os.environ.get("ALL_PROXY") or os.environ.get("all_proxy")):
            return f"cannot be reached ({getattr(reason, 'strerror', None) or reason})"
    return None


@contextlib.contextmanager
def _one_line_for_retries(endpoint: str) -> Iterator[None]:
    """Hide the lines that the Hub's client writes for every attempt, and write one line at the first."""
    told: list[bool] = []

    def is_kept(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if not text.startswith("Retrying in") and "thrown while requesting" not in text:
            return True
        if not told:
            told.append(True)
            with contextlib.suppress(Exception):  # stderr may be closed
                print(f"Waiting for the Hugging Face Hub at {endpoint} (Ctrl-C ends it). {AT_ONCE}", file=sys.stderr)
        return False

    logger = logging.getLogger(_CLIENT)
    logger.addFilter(is_kept)
    try:
        yield
    finally:
        logger.removeFilter(is_kept)
