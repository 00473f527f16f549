"""Make docs/first_dream.html, the page of the demo's dream, and docs/images/first_dream.png, a picture of its panel.

python docs/make_picture.py          run the demo's dream first
python docs/make_picture.py RUN      use the demo's run, saved in the folder RUN
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import dreamy_lens as dl
from dreamy_lens import demo
from dreamy_lens.html.page import document
from dreamy_lens.panels.run_view import frozen_run

PAGE = Path(__file__).parent / "first_dream.html"
TARGET = Path(__file__).parent / "images" / "first_dream.png"
FIND_CHROMIUM = Path(__file__).parents[1] / "tests" / "browser" / "find_chromium.py"
SIZE = (1180, 850)


def main() -> None:
    """Run or load the dream, and take the picture."""
    constraints = [dl.constraints.round_trip(), dl.constraints.printable()]
    if len(sys.argv) > 1:
        run = dl.load_run(sys.argv[1])
        assert run.model is not None  # loads the model now, for the attributions
    else:
        run = dl.dream(demo.FEATURE, iterations=demo.ITERATIONS, constraints=constraints, progress=True)
    run.to_html(PAGE)
    html = document(run.feature_label, frozen_run(run), scripts=True)
    search = subprocess.run([sys.executable, FIND_CHROMIUM], capture_output=True, text=True)
    if search.returncode:
        sys.exit(search.stderr)
    browser = search.stdout.strip()
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        page.write_text(html, encoding="utf-8")
        flags = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={SIZE[0]},{SIZE[1]}"]
        flags += ["--force-device-scale-factor=1.5", "--virtual-time-budget=4000"]
        command = [browser, *flags, f"--screenshot={TARGET}", page.as_uri()]
        subprocess.run(command, check=True, capture_output=True)
    print(f"{TARGET}: {TARGET.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
