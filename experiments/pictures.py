"""Take the pictures of the docs from a run's report: ``python -m experiments.pictures runs/demo``.

They are made by the Chromium that is there, or that ``CHROMIUM`` names.
"""

import os
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from ard.reports import write_report

FOLDER = Path(__file__).parent.parent / "docs"
PICTURES = {"doses": "#doses .doses", "draws": "#draws .doses"}
"""By name of the file in docs/: the part of the page."""
WIDTH, HEIGHT = 960, 800


def take(run: Path, folder: Path = FOLDER) -> list[Path]:
    """Write a run's report and take the pictures of it; parts that it lacks are left out."""
    page_file = write_report(run).absolute()
    browser_file = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    taken = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_file, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.goto(page_file.as_uri())
        for name, part in PICTURES.items():
            if page.locator(part).count():
                taken.append(folder / f"{name}.png")
                page.locator(part).screenshot(path=taken[-1])
        browser.close()
    return taken


if __name__ == "__main__":
    take(Path(sys.argv[1]))
