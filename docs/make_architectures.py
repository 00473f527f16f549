"""Write docs/architectures.md: what is right and what is refused on each architecture.

    python docs/make_architectures.py

Each row comes from an examination of a tiny model with random weights against the plain Hugging Face model, which the
tests repeat (`tests/trust`). It takes about a minute and needs the tests' dependencies.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architectures.md"


def main() -> None:
    """Examine every architecture and write the page with a row for each."""
    sys.path.insert(0, str(ROOT))
    from tests.trust.findings import KINDS, row
    from tests.trust.zoo import ARCHITECTURES

    before = PAGE.read_text(encoding="utf-8").partition("\n| architecture ")[0]
    lines = [f"| architecture | {' | '.join(KINDS)} | not computed, and why |", "|---" * (len(KINDS) + 2) + "|"]
    for architecture in ARCHITECTURES.values():
        lines.append(row(architecture))
        print(lines[-1], flush=True)
    PAGE.write_text("\n".join([before, *lines]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
