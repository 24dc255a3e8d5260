"""Take the README's pictures of a run's report: `python -m experiments.screenshots runs/demo`."""

import os
import shutil
import sys
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, Page, sync_playwright

from ard.run import Run
from ard.types import UserError

DOCS = Path(__file__).parent.parent / "docs"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
MOMENT_S = 0.8
"""How far the clip in a picture has been played."""


def main(folder: Path) -> None:
    """Write ``report.png``, ``report-map.png`` and ``report-concept.png`` into ``docs``.

    Raises:
        UserError: if the run has no report.
    """
    report = Run.load(folder).report
    if not report.is_file():
        raise UserError(f"'{report}' does not exist: run `ard report --run {folder}` first")
    with sync_playwright() as playwright:
        with_sound_at_once = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=with_sound_at_once)
        first = _opened(browser, report, "light")
        _play_a_moment(first)
        first.screenshot(path=DOCS / "report.png")
        browse = _opened(browser, report, "dark")
        browse.evaluate("document.getElementById('concepts').scrollIntoView({ behavior: 'instant' })")
        browse.locator("#map").focus()
        browse.keyboard.press("ArrowRight")
        browse.wait_for_timeout(500)
        browse.screenshot(path=DOCS / "report-map.png")
        href = first.locator("#best h3 a").nth(1).get_attribute("href")
        concept = _opened(browser, report.parent / str(href), "light")
        _play_a_moment(concept)
        concept.screenshot(path=DOCS / "report-concept.png")
        browser.close()


def _opened(browser: Browser, page: Path, scheme: Literal["light", "dark"]) -> Page:
    opened = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme=scheme)
    opened.goto(page.absolute().as_uri())
    opened.wait_for_timeout(500)  # its pictures
    return opened


def _play_a_moment(page: Page) -> None:
    page.locator(".strip .play").first.click()
    page.wait_for_function(f"() => ARD.current.currentTime > {MOMENT_S}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
