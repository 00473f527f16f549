"""Draw the layers of the package as docs/images/layers.svg, from the contract that `make lint` checks.

    python docs/make_layers.py            write the picture
    python docs/make_layers.py --check    exit with 1 if the picture is out of date

The layers are read from pyproject.toml, and what a package is for from the first line of its docstring, so that the
picture cannot say anything else than the code.
"""

from __future__ import annotations

import argparse
import ast
import html
import sys
import textwrap
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs" / "images" / "layers.svg"
WIDTH, ROW, GAP, MARGIN = 1000, 64, 10, 16
CHARACTERS = 6.1
"""Width of a character of the small text, in pixels."""

STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1c2733 }
  .name { font-weight: 600 } .about { font-size: 11px; fill: #4a5866 } .arrow { fill: #4a5866 }
  rect { fill: #eef3f8; stroke: #9fb3c8 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e3e9ef } .about, .arrow { fill: #a9b6c3 } rect { fill: #1f2a35; stroke: #4d6176 }
  }
"""


def layers() -> list[list[str]]:
    """Return the layers from top to bottom, each as the names of its packages and modules."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contract = next(c for c in settings["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    return [[name.strip() for name in layer.split("|")] for layer in contract["layers"]]


def purpose(name: str) -> str:
    """Return the first sentence of a package's or a module's docstring."""
    place = ROOT / "dreamy_lens" / name
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    lines = (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").split("\n\n")[0]
    return " ".join(lines.split())


def wrapped(text: str, width: int) -> list[str]:
    """Return a text as at most two lines of `width` characters."""
    first, *rest = textwrap.wrap(text, width) or [""]
    return [first, textwrap.shorten(" ".join(rest), width, placeholder=" …")] if rest else [first]


def drawing() -> str:
    """Return the picture as SVG."""
    rows = layers()
    height = 2 * MARGIN + len(rows) * (ROW + GAP) - GAP + 22
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">']
    parts += ["<title>Layers of dreamy_lens: imports point downwards</title>", f"<style>{STYLE}</style>"]
    for number, names in enumerate(rows):
        y = MARGIN + number * (ROW + GAP)
        box = (WIDTH - 2 * MARGIN - GAP * (len(names) - 1)) / len(names)
        for place, name in enumerate(names):
            x = MARGIN + place * (box + GAP)
            parts.append(f'<rect x="{x:.0f}" y="{y}" width="{box:.0f}" height="{ROW}" rx="6"/>')
            parts.append(f'<text class="name" x="{x + 10:.0f}" y="{y + 19}">{name}</text>')
            for line, text in enumerate(wrapped(purpose(name), int((box - 20) / CHARACTERS))):
                at = f'x="{x + 10:.0f}" y="{y + 36 + 15 * line}"'
                parts.append(f'<text class="about" {at}>{html.escape(text)}</text>')
    foot = "Imports point downwards only; packages of one row do not import each other."
    parts.append(f'<text class="arrow" x="{MARGIN}" y="{height - MARGIN + 4}">{foot}</text>')
    return "\n".join([*parts, "</svg>", ""])


def main() -> int:
    """Write the picture, or compare it with the one that is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare only")
    if parser.parse_args().check:
        current = TARGET.is_file() and TARGET.read_text(encoding="utf-8") == drawing()
        print("up to date" if current else "out of date: run python docs/make_layers.py")
        return int(not current)
    TARGET.write_text(drawing(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
