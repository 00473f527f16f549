"""Probe of the Hugging Face Hub, whose client tries for minutes, file by file, if it gets no answer."""

from __future__ import annotations

import contextlib
import os
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from dreamy_lens import _waiting
from dreamy_lens.errors import WaitError

ANSWER_SECONDS = 10.0
"""Most seconds that the Hub may take to answer, without `DREAMY_LENS_TIMEOUT`."""


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
        _waiting.within(seconds, f"Waiting for the Hugging Face Hub at {endpoint}", lambda: _ask(endpoint, seconds))
    except WaitError:
        constants.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]
        try:
            yield f", and of the Hub only the cache was searched, because {endpoint} gave no answer in {seconds:g} s"
        finally:
            constants.HF_HUB_OFFLINE = False  # type: ignore[attr-defined]
        return
    yield ""


def _ask(endpoint: str, seconds: float) -> None:
    """Return when the Hub has answered anything, or cannot be reached; raise WaitError if it says nothing."""
    try:
        urllib.request.urlopen(f"{endpoint.rstrip('/')}/robots.txt", timeout=seconds).close()
    except OSError as error:  # an answer such as 404, or a refusal, which the client reports at once
        if isinstance(getattr(error, "reason", error), TimeoutError):
            raise _waiting.too_long(f"Waiting for {endpoint}", seconds) from None
