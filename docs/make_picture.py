"""Make the README's picture, docs/images/first_dream.png: the demo's dream as a page, photographed by Chromium.

python docs/make_picture.py [RUN]    # RUN: the demo's run, saved; without it the dream is dreamed again
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import dreamy_lens as dl
from dreamy_lens import demo
from dreamy_lens.results import drawing, markup, strips

TARGET = Path(__file__).parent / "images" / "first_dream.png"
FIND_CHROMIUM = Path(__file__).parents[1] / "tests" / "browser" / "find_chromium.py"
SIZE = (900, 860)


def main() -> None:
    """Dream, or load the dream, and take the picture."""
    rules = [dl.constraints.round_trip(), dl.constraints.printable()]
    if len(sys.argv) > 1:
        run = dl.load_run(sys.argv[1])
    else:
        run = dl.dream(demo.FEATURE, iterations=demo.ITERATIONS, constraints=rules, progress=True)
    frontier, count = run.frontier, f"{len(run.history):,}"
    intro = f"{count} prompts of {run.config.length} tokens evaluated; no other beats these {len(frontier)} in both."
    places = [frontier.prompts.index(p) for p in frontier.spread(9)][1:6:2]
    sections = []
    for i, found in ((i, frontier[i].attribution()) for i in places):
        note = f'<p class="dl-note"><strong>{i + 1}</strong> {strips.scores(found)}</p>'
        sections.append(f'<section class="dl-dream">{note}{strips.attribution_strip(found)}</section>')
    drawn = drawing.frontier_svg(frontier, [str(i + 1) for i in range(len(frontier))], history=run.history)
    title = f"A dream of {run.feature.label}"
    legend = f'<p class="dl-note">{strips.LEGEND}</p>'
    body = f"<h1>{title}</h1><p>{intro}</p>{drawn}{legend}{''.join(sections)}"
    html = markup.document(title, body)
    looked = subprocess.run([sys.executable, FIND_CHROMIUM], capture_output=True, text=True)
    if looked.returncode:
        sys.exit(looked.stderr)
    browser = looked.stdout.strip()
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        page.write_text(html, encoding="utf-8")
        flags = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={SIZE[0]},{SIZE[1]}"]
        command = [browser, *flags, "--force-device-scale-factor=1.5", f"--screenshot={TARGET}", page.as_uri()]
        subprocess.run(command, check=True, capture_output=True)
    print(f"{TARGET}: {TARGET.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
