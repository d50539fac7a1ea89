"""Photograph the top of the report of `make compare` for README: `make pictures`, which compares first if need be.

It needs Chromium, which is the system's. What else the site shows is drawn while it is built.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

SIZE = (1280, 1890)
COLOURS = 128
PLACE = Path(__file__).parent / "compare.png"


def main() -> int:
    """Take the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path, help="report.html of a comparison")
    parser.add_argument("--out", type=Path, default=PLACE)
    given = parser.parse_args()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        sys.stderr.write("needs Chromium: apt install chromium\n")
        return 1
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        view = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]}, color_scheme="light")
        view.goto(given.report.resolve().as_uri())
        taken = view.screenshot(clip={"x": 0, "y": 0, "width": SIZE[0], "height": SIZE[1]})
        browser.close()
    Image.open(io.BytesIO(taken)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(
        given.out, optimize=True
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
