"""Settings of the documentation site, which `make docs` builds without a network.

Pages such as docs/features.md are read on the web page of the repository too, so their links are those of files. What
they link to outside docs/ is brought in here: a page such as docs/changelog.md stands for a file of the repository, and
the notebooks are copied to docs/tutorials/ before the build.
"""

from __future__ import annotations

import argparse
import gzip
import inspect
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

import dreamy_lens  # noqa: E402
from dreamy_lens.cli.commands import COMMANDS  # noqa: E402
from dreamy_lens.cli.main import make_parser  # noqa: E402

project = "dreamy_lens"
author = "The dreamy_lens contributors"
copyright = author
version = release = dreamy_lens.__version__

extensions = ["myst_nb", "sphinx_design", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
exclude_patterns = ["build", "search.md"]  # search.html is the site's own search: docs/searching.md is that page
source_suffix = {".rst": "restructuredtext", ".md": "myst-nb", ".ipynb": "myst-nb"}
language = "en"
default_role = "literal"  # `x` in a docstring is code
pygments_style = "friendly"
pygments_dark_style = "monokai"

# Pages.
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # the notebooks are committed as they were executed
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # a frozen view needs no library of widgets, and nothing from a server

# Reference.
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "show-inheritance": True}
autosummary_generate = False
toc_object_entries_show_parents = "hide"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_maximum_signature_line_length = 88

# Looks.
html_theme = "furo"
html_title = "dreamy_lens"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_js_files = ["theme.js"]
html_show_sphinx = False
html_copy_source = False
html_theme_options: dict[str, Any] = {"sidebar_hide_name": False, "navigation_with_keys": True}

OUTSIDE = {
    "changelog": "CHANGELOG.md",
    "contributing": "CONTRIBUTING.md",
    "benchmarks": "benchmarks/README.md",
    "searching": "docs/search.md",
    "embedded_model": "dreamy_lens/models/embedded/docstrings-neox-5m/README.md",
}
"""Pages that are files of the repository outside docs/."""

PAGES = {(ROOT / path).resolve(): HERE / f"{page}.md" for page, path in OUTSIDE.items()}
LINK = re.compile(r"(?<!!)\[([^\]\[]*)\]\(([^)\s]+)\)")


def copy_notebooks() -> None:
    """Copy the notebooks to docs/tutorials/, where they are pages."""
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        target = HERE / "tutorials" / notebook.name
        if not target.exists() or target.read_bytes() != notebook.read_bytes():
            shutil.copyfile(notebook, target)


def link_of(text: str, target: str, place: Path, page: Path) -> str:
    """Return a link as the site needs it.

    Args:
        text: Words of the link.
        target: Where it leads, from the file that is read.
        place: File that is read, such as CHANGELOG.md.
        page: Page of the site that shows it.
    """
    address, _, anchor = target.partition("#")
    if "://" in target or not address or address.startswith("mailto:"):
        return f"[{text}]({target})"
    file = (place.parent / address).resolve()
    if file == (ROOT / "README.md").resolve():
        file = HERE / "index.md"
    if file.suffix == ".ipynb" and file.parent == (ROOT / "notebooks").resolve():
        file = HERE / "tutorials" / file.name
    file = PAGES.get(file, file)
    if not file.is_relative_to(HERE):
        return f"`{text}`" if text.strip("`") == text and "/" in text else text  # a file of the repository alone
    if file.suffix == ".md" and text.endswith(".md"):
        text = ""  # the title of the page says more than its path
    return f"[{text}]({os.path.relpath(file, page.parent)}{'#' + anchor if anchor else ''})"


def command_line() -> str:
    """Return the text of the page with all commands, as `--help` prints them."""
    os.environ["COLUMNS"] = "100"
    os.environ["NO_COLOR"] = "1"
    found = next(action for action in make_parser()._actions if isinstance(action, argparse._SubParsersAction))
    parts = [f"## {name}\n\n```text\n{found.choices[name].format_help().rstrip()}\n```\n" for name in COMMANDS]
    return "\n".join(parts)


def read_source(app: Any, docname: str, source: list[str]) -> None:
    """Give a page its text from outside docs/, and its links a place on the site."""
    page = HERE / f"{docname}.md"
    if not page.is_file():
        return
    place = ROOT / OUTSIDE[docname] if docname in OUTSIDE else page
    text = place.read_text(encoding="utf-8") if docname in OUTSIDE else source[0]
    if text.startswith("---\n") and docname in OUTSIDE:
        text = text.partition("\n---\n")[2]  # what the Hub wants to know of a model
    if docname == "reference/command_line":
        text += "\n" + command_line()
    parts = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    parts[::2] = [LINK.sub(lambda m: link_of(m[1], m[2], place, page), part) for part in parts[::2]]
    source[0] = "".join(parts)


def copy_cards(app: Any, error: Exception | None) -> None:
    """Unpack the cards of the gallery beside the pages: they are whole pages themselves."""
    if error is not None or app.builder.format != "html":
        return
    folder = Path(app.outdir) / "cards"
    folder.mkdir(exist_ok=True)
    for card in (HERE / "cards").glob("*.html.gz"):
        (folder / card.stem).write_bytes(gzip.decompress(card.read_bytes()))


def describe_instance(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Describe an object that is called as a function, such as `dl.logit`, by the text of the call."""
    if what == "function" and not inspect.isroutine(value) and type(value).__module__.startswith("dreamy_lens"):
        lines[:] = inspect.cleandoc(type(value).__call__.__doc__ or "").splitlines()


def setup(app: Any) -> None:
    """Connect to Sphinx."""
    copy_notebooks()
    app.connect("autodoc-process-docstring", describe_instance, priority=100)  # before napoleon
    app.connect("source-read", read_source)
    app.connect("build-finished", copy_cards)
