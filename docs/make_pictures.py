"""Make the four pictures of the README, in docs/images/, from real results of the embedded model.

    python docs/make_pictures.py

The comparison is a plotly figure, which kaleido draws (extra `test`) in a Chromium that is there; Pillow (extra `docs`)
makes it small.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

import dreamy_lens as dl
from dreamy_lens import demo, figures

IMAGES = Path(__file__).parent / "images"
CORPUS = {"packages": ["pydoc_data.topics", "numpy"]}
WIDTH, HEIGHT = 460, 340


def main() -> None:
    """Dream, scan a little, and draw."""
    model = dl.load_model()
    rules = [dl.constraints.round_trip(), dl.constraints.printable()]
    run = dl.dream(demo.FEATURE, model, iterations=demo.ITERATIONS, constraints=rules, wait=True, progress=False)
    examples = dl.max_activating(demo.FEATURE, model, dl.corpus.open("docstrings", **CORPUS), tokens=40_000)
    figure = dl.compare(run, examples).figure()
    figure.update_layout(width=WIDTH, height=HEIGHT)
    figures.save(figure, IMAGES / "compare.png", scale=1.7)
    with Image.open(IMAGES / "compare.png") as picture:
        picture.convert("RGB").quantize(32).save(IMAGES / "compare.png", optimize=True)
    best = run.frontier.representative()
    figures.strip(best, best=2, worst=1, width=WIDTH).save(IMAGES / "strip.svg")
    figures.component_map(best.upstream(), rows=5, width=WIDTH).save(IMAGES / "upstream.svg")
    best.steer(strengths=[2, 8, 32]).plot().save(IMAGES / "steer.svg")
    for name in ("compare.png", "strip.svg", "upstream.svg", "steer.svg"):
        path = IMAGES / name
        print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
