"""The machine's own Chromium, headless, and pages in it that must have no error and ask for nothing from elsewhere."""

import os
import shutil
from contextlib import contextmanager

import pytest
from playwright.sync_api import sync_playwright

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium here: `apt install chromium`, or set CHROMIUM"
)


@contextmanager
def chromium():
    """Start the browser, with sound that needs no click before."""
    with sync_playwright() as playwright:
        with_sound_at_once = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=with_sound_at_once)
        yield browser
        browser.close()


class Visitor:
    """A page of its own, with what went wrong in it and what it asked for."""

    def __init__(self, browser, **settings):
        self.context = browser.new_context(**settings)
        self.context.set_default_timeout(15000)
        self.page, self.errors, self.requests = self.context.new_page(), [], []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on(
            "console", lambda said: self.errors.append(said.text) if said.type in ("error", "warning") else None
        )
        self.page.on("request", lambda request: self.requests.append(request.url))

    def close(self):
        self.context.close()
