"""Take the pictures of a run's report and of the explorer: `python -m experiments.screenshots runs/demo`."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, Page, sync_playwright

from ard.run import Run
from ard.types import UserError

DOCS = Path(__file__).parent.parent / "docs"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
STEERED = (186, 638)
"""Concepts of the demo with seed 0: a man and a woman speaking in an angry voice."""
MOMENT_S = 0.8
"""How far the clip in a picture has been played."""


def main(folder: Path) -> None:
    """Write ``report.png``, ``report-map.png``, ``report-concept.png`` and ``app.png`` into ``docs``.

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
        with _served(folder) as url:
            _steered(browser, url).screenshot(path=DOCS / "app.png")
        browser.close()


def _opened(browser: Browser, page: Path, scheme: Literal["light", "dark"]) -> Page:
    opened = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme=scheme)
    opened.goto(page.absolute().as_uri())
    opened.wait_for_timeout(500)  # its pictures
    return opened


@contextmanager
def _served(run: Path) -> Iterator[str]:
    """Start `ard app` on a free port, and yield its address."""
    command = [sys.executable, "-m", "ard", "app", "--run", str(run), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield next(line.strip() for line in server.stdout if line.startswith("http://"))
        finally:
            server.terminate()


def _steered(browser: Browser, url: str) -> Page:
    """Ask the demo's model about a happy voice, with concepts of angry voices at two strengths."""
    page = browser.new_page(viewport={"width": 1280, "height": 1315})
    concepts = [f"feature={feature}" for feature in STEERED]
    page.goto(f"{url}/steer?split=steer&id=steer-000002&{'&'.join(concepts)}")
    page.click("#more")
    for number, value in enumerate((4, 4, 8, 8)):
        page.locator(".set input").nth(number).fill(str(value))
    page.fill("#prompt", "What do you hear?")
    page.click("#ask")
    page.locator("#calls").wait_for()
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    return page


def _play_a_moment(page: Page) -> None:
    page.locator(".strip .play").first.click()
    page.wait_for_function(f"() => ARD.current.currentTime > {MOMENT_S}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
