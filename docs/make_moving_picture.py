"""Record docs/images/dream.gif: the replay of a dream in its panel, and a click on a token, in Chromium.

    python docs/make_moving_picture.py [PAGE]

PAGE is a page that `run.to_html` has written, by default docs/first_dream.html. Needs Playwright with a Chromium (extra
`test`) and Pillow (extra `docs`). Every frame is the page as a reader sees it.
"""

from __future__ import annotations

import io
import math
import subprocess
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

HERE = Path(__file__).parent
TARGET = HERE / "images" / "dream.gif"
FIND_CHROMIUM = HERE.parent / "tests" / "browser" / "find_chromium.py"
WIDTH, HEIGHT, SHOWN = 900, 2600, 700  # pixels: of the window, and of the picture from the panel's upper edge
STEP, HOLD, END = 110, 1600, 3200  # milliseconds
SCROLL = 8
COLOURS, LARGEST = 64, 1_000_000


def shot(page: Page, top: float) -> Image.Image:
    """Return the upper part of the panel as a picture."""
    page.wait_for_timeout(60)  # two frames of the browser
    clip = {"x": 0, "y": top, "width": WIDTH, "height": SHOWN}
    return Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")  # pyright: ignore[reportArgumentType]


def record(path: Path, browser: str) -> list[tuple[Image.Image, int]]:
    """Return the frames, with the time that each stays."""
    frames: list[tuple[Image.Image, int]] = []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", "--hide-scrollbars"])
        page = chromium.new_context(offline=True, viewport={"width": WIDTH, "height": HEIGHT}).new_page()
        page.goto(path.resolve().as_uri())
        page.wait_for_selector(".dlp-dream")
        top = page.locator(".dlp-dream").bounding_box()["y"] - 6  # pyright: ignore[reportOptionalSubscript]
        slider = page.locator(".dlp-dream label", has_text="Iteration").locator("input[type=range]")
        last = int(slider.get_attribute("max") or 0)
        for step in [*range(0, last, 1), last]:
            slider.evaluate("(e, v) => { e.value = v; e.dispatchEvent(new Event('input', {bubbles: true})) }", step)
            frames.append((shot(page, top), HOLD if step == last else STEP))
        tokens = page.locator(".dlp-dream button.dlp-token")
        tokens.last.click()
        bottom = tokens.first.bounding_box()["y"] - SHOWN / 4  # pyright: ignore[reportOptionalSubscript]
        for part in range(1, SCROLL + 1):
            eased = (1 - math.cos(math.pi * part / SCROLL)) / 2
            frames.append((shot(page, top + eased * (bottom - top)), STEP if part < SCROLL else END))
        chromium.close()
    return frames


def main() -> int:
    """Record and write the picture."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "first_dream.html"
    search = subprocess.run([sys.executable, FIND_CHROMIUM], capture_output=True, text=True)
    if search.returncode:
        print(search.stderr, file=sys.stderr)
        return 1
    frames = record(path, search.stdout.strip())
    both = Image.new("RGB", (WIDTH, 2 * SHOWN))
    for place, frame in enumerate((frames[-SCROLL - 1][0], frames[-1][0])):  # the plane, and the tokens
        both.paste(frame, (0, place * SHOWN))
    palette = both.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE)
    images = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame, _ in frames]
    times = [time for _, time in frames]
    images[0].save(TARGET, save_all=True, append_images=images[1:], duration=times, loop=0, optimize=False)
    size = TARGET.stat().st_size
    print(f"{TARGET}: {len(frames)} frames, {size / 1e3:.0f} kB")
    return size > LARGEST


if __name__ == "__main__":
    sys.exit(main())
