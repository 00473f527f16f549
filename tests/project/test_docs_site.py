"""The documentation site: every page is in a table of contents, every public name in the reference, no link is dead."""

from __future__ import annotations

import gzip
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *DOCS.rglob("*.rst")])
TOCTREE = re.compile(r"^(?:```\{toctree\}|\.\. toctree::)(.*?)(?:^```$|\Z)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)|:link: (\S+)|(?:href|src)=\"([^\"]+)\"")

pytestmark = pytest.mark.skipif(not (DOCS / "conf.py").is_file(), reason="needs the whole source tree")


def script(name: str) -> ModuleType:
    """A script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def listed_by(page: Path) -> set[Path]:
    """Pages, as files without an ending, that the tables of contents of a page list."""
    tables = TOCTREE.findall(page.read_text(encoding="utf-8"))
    entries = [line.strip() for table in tables for line in table.split("\n")]
    found: set[Path] = set()
    for entry in entries:
        if entry and not entry.startswith(":"):
            name = re.sub(r"^.* <(.+)>$", r"\1", entry)
            here = page.parent / name
            glob = [path.with_suffix("") for path in here.parent.glob(f"{here.name}.md")]
            found |= {path.resolve() for path in (glob if "*" in name else [here])}
    return found


def anchors(page: Path) -> set[str]:
    """Names of the headings of a page in Markdown, as links have them."""
    headings = re.findall(r"^#+ +(.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_every_page_is_in_a_table_of_contents():
    listed = {path for page in PAGES for path in listed_by(page)}
    pages = {page.with_suffix("").resolve() for page in PAGES}
    # docs/searching.md shows docs/search.md: the site's own search has that name.
    assert pages - listed == {DOCS / "index", DOCS / "search"}
    tutorials = {path for path in listed if path.parent.name == "tutorials"} | {DOCS / "tutorials" / "index"}
    assert listed - tutorials - pages == set()


def test_every_public_name_is_in_the_reference():
    reference = script("make_reference")
    for page, text in reference.pages().items():
        path = DOCS / "reference" / f"{page}.rst"
        names = set(re.findall(r"^\.\. auto\w+:: +(\S+)", text, re.MULTILINE))
        assert names or page == "index"
        written = set(re.findall(r"^\.\. auto\w+:: +(\S+)", path.read_text(encoding="utf-8"), re.MULTILINE))
        assert written == names, f"python docs/make_reference.py: {path.name} is out of date"


def test_links_between_pages_lead_to_files_and_headings_that_exist():
    cards = {f"cards/{card.name.removesuffix('.gz')}" for card in (DOCS / "cards").glob("*.html.gz")}
    for page in [path for path in PAGES if path.suffix == ".md"]:
        text = re.sub(r"^```(?!\{).*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for link in [next(filter(None, groups)) for groups in LINK.findall(text)]:
            address, _, anchor = link.partition("#")
            if "://" in link or address in cards:
                continue
            target = page if not address else page.parent / address
            if target.parent.name == "tutorials" and target.suffix == ".ipynb":
                target = ROOT / "notebooks" / target.name
            exists = [path for path in (target, target.with_suffix(".md"), target.with_suffix(".rst")) if path.exists()]
            assert exists, f"{page.relative_to(ROOT)}: {link}"
            assert not anchor or anchor in anchors(exists[0]), f"{page.relative_to(ROOT)}: {link}"


def test_the_gallery_has_twenty_small_cards():
    gallery = script("make_gallery")
    assert len(gallery.FEATURES) == 20
    assert {gallery.file_of(feature) for feature in gallery.FEATURES} == set((DOCS / "cards").glob("*.html.gz"))
    assert sum(card.stat().st_size for card in (DOCS / "cards").iterdir()) < gallery.ALL_TOGETHER
    for feature in gallery.FEATURES:
        card = gzip.decompress(gallery.file_of(feature).read_bytes()).decode()
        assert len(card.encode()) < 200_000 and not re.search(r'(src|href)="https?:', card)
    assert (DOCS / "gallery.md").read_text(encoding="utf-8") == gallery.page()


def test_the_moving_picture_is_small():
    picture = DOCS / "images" / "dream.gif"
    assert picture.read_bytes()[:6] == b"GIF89a" and picture.stat().st_size < 1_000_000
