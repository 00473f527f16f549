"""Make docs/cards/, a live card for each of twenty features of the embedded model, and docs/gallery.md, their list.

    python docs/make_gallery.py             make the cards that are missing, then the page
    python docs/make_gallery.py --again     make all of them anew

The cards are small and compressed, so that the twenty fit into the repository: a short search, few strips and few
windows. The build of the site unpacks them.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import sys
from html import escape
from pathlib import Path
from typing import Any

import dreamy_lens as dl
from dreamy_lens.html.escaping import visible

HERE = Path(__file__).parent
CARDS, PAGE = HERE / "cards", HERE / "gallery.md"
PACKAGES = ["pydoc_data.topics", "numpy"]
TOKENS, ITERATIONS, STRIPS, TOP = 40_000, 15, 3, 4
ALL_TOGETHER = 2_000_000
"""Bytes of all cards, at most."""

FEATURES = {
    "L2.N812": "a neuron that fires on “only”, where it limits what stands before it",
    "L1.N325": "a neuron: most of its strongest windows end on “See”, the start of “See Also”",
    "L2.N586": "a neuron: most of its strongest windows end on the article “an”",
    "L2.N534": "a neuron: most of its strongest windows end on “it”",
    "L2.N388": "a neuron: most of its strongest windows end on “=” after a variable in an example",
    "L2.N590": "a neuron: most of its strongest windows end on the comma after a keyword argument",
    "L2.N230": "a neuron: most of its strongest windows end on a hyphen",
    "L2.N863": "a neuron with no single reading",
    "L3.N40": "a neuron of layer 3",
    "L3.N129": "a neuron: most of its strongest windows end on the colon after the name of a parameter",
    "L3.N708": "a neuron: most of its strongest windows end on an underscore",
    "L4.N174": "a neuron: most of its strongest windows end on a full stop",
    "L4.N608": "a neuron: most of its strongest windows end on the space between the numbers of an array",
    "L5.N395": "a neuron: most of its strongest windows end on a closing bracket",
    'logit_difference(" the")': "how far “the” is ahead of every other next token",
    'logit_difference(" None")': "how far “None” is ahead of every other next token",
    'logit(" True") - logit(" False")': "“True” against “False” as the next token",
    "blocks.3.attn.hook_pattern[0, -1, 2]": "the attention of a head from the last token to the third",
    "blocks.5.hook_resid_post[-1].norm()": "the length of the residual stream at the last token",
    "0.5 * L2.N812 - L3.N40": "one neuron without another",
}
"""Text of each feature, with what it is or, for a neuron, what its strongest windows in the corpus have in common."""


def name_of(feature: str) -> str:
    """Return the name of the file of a feature's card, without its ending."""
    return re.sub(r"\W+", "_", feature).strip("_")


def file_of(feature: str) -> Path:
    """Return the file of a feature's card."""
    return CARDS / f"{name_of(feature)}.html.gz"


def make_cards(again: bool) -> None:
    """Make the cards that are missing, each with a line about it in docs/cards/cards.json."""
    known: dict[str, Any] = {}
    index = CARDS / "cards.json"
    if index.is_file() and not again:
        known = json.loads(index.read_text(encoding="utf-8"))
    missing = [each for each in FEATURES if each not in known or not file_of(each).is_file()]
    if not missing:
        return
    model = dl.load_model()
    corpus = dl.corpus.open("docstrings", packages=PACKAGES)
    examples = dl.max_activating(list(FEATURES), model, corpus, tokens=TOKENS, k=16, progress=False)
    rules = [dl.constraints.round_trip(), dl.constraints.printable()]
    CARDS.mkdir(exist_ok=True)
    for number, feature in enumerate(missing, 1):
        run = dl.dream(feature, model, iterations=ITERATIONS, constraints=rules, wait=True, progress=False)
        card = dl.card(
            feature, run=run, examples=examples, strips=STRIPS, k=16, continue_tokens=8, parts=(), progress=False
        )
        text = card.to_html(top=TOP)
        file_of(feature).write_bytes(gzip.compress(text.encode(), mtime=0))
        shown = run.frontier.representative()
        known[feature] = {
            "text": shown.text,
            "value": round(float(shown.value), 2),
            "cross_entropy": round(float(shown.cross_entropy), 2),
            "sentence": card.sentence,
        }
        index.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"{number}/{len(missing)} {feature}: {len(text.encode()) / 1e3:.0f} kB", flush=True)


def page() -> str:
    """Return the page of the gallery."""
    known = json.loads((CARDS / "cards.json").read_text(encoding="utf-8"))
    parts = [
        "# Gallery\n",
        f"Twenty features of the embedded model, after {ITERATIONS} iterations of the default search, a few seconds.",
        "Open a card to see its dreams token by token, the text that drives the feature most, and the dreams against",
        f"{TOKENS // 1000}k tokens of documentation. Cards answer clicks, and need no kernel and no network.",
        "`python docs/make_gallery.py` makes them; they open on the site, which `make docs` builds.\n",
        "What is said of a neuron is a first look at windows of this corpus. Its dreams often say something else.",
        "[When a dream misleads](explanation/misleading.md) says what to look for.\n",
        "::::{grid} 1 1 2 2\n:gutter: 3\n",
    ]
    for feature, about in FEATURES.items():
        found = known[feature]
        values = f"Value {found['value']:.2f}, cross-entropy {found['cross_entropy']:.2f}"
        text = escape(visible(found["text"])).replace("`", "&#96;").replace("*", "&#42;").replace("_", "&#95;")
        parts += [
            f":::{{grid-item-card}} `{feature}`",
            f"{about[0].upper()}{about[1:]}.\n",
            f'<pre class="dream">{text}</pre>\n<p class="dream-values">{values}. {escape(found["sentence"])}</p>\n',
            f'<a href="cards/{name_of(feature)}.html">Open the card</a>',
            ":::\n",
        ]
    return "\n".join([*parts, "::::", ""])


def main(argv: list[str] | None = None) -> int:
    """Make what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--again", action="store_true", help="make all cards anew")
    make_cards(parser.parse_args(argv).again)
    size = sum(path.stat().st_size for path in CARDS.iterdir())
    if size > ALL_TOGETHER:
        print(f"The cards have {size / 1e6:.1f} MB, more than {ALL_TOGETHER / 1e6:.0f} MB.", file=sys.stderr)
        return 1
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{len(FEATURES)} cards, {size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
