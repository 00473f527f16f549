"""What a frozen view holds, read from its page."""

from __future__ import annotations

import gzip
import json
import re
from typing import Any

from dreamy_lens.panels.frozen import from_text

DATA = re.compile(r'const data = "([^"]{40,})";.*?slice\(0, (\d+)\)', re.DOTALL)


def content_of(page: str) -> dict[str, Any]:
    """Module, style and state of the only frozen view of a page."""
    ((text, size),) = DATA.findall(page)
    return json.loads(gzip.decompress(from_text(text, int(size))))


def frozen_state(page: str) -> dict[str, Any]:
    """State of the only frozen view of a page."""
    return content_of(page)["state"]
