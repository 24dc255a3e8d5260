"""The machine's own Chromium, headless, and pages in it; a server in this process for those that need one."""

import os
import shutil
import socket
from contextlib import contextmanager
from threading import Thread

import anyio
import pytest
import uvicorn
from playwright.sync_api import sync_playwright

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium here: `apt install chromium`, or set CHROMIUM"
)


@contextmanager
def chromium(*flags):
    """Start the browser, with sound that needs no click before."""
    with sync_playwright() as playwright:
        with_sound_at_once = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*with_sound_at_once, *flags])
        yield browser
        browser.close()


class Visitor:
    """A page of its own, with its errors, what it says in the console, and what it asks for."""

    def __init__(self, browser, **settings):
        self.context = browser.new_context(**settings)
        self.context.set_default_timeout(15000)
        self.page, self.errors, self.complaints, self.requests = self.context.new_page(), [], [], []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on(
            "console", lambda said: self.complaints.append(said.text) if said.type in ("error", "warning") else None
        )
        self.page.on("request", lambda request: self.requests.append(request.url))

    def close(self):
        self.context.close()


@contextmanager
def serving(app):
    """Serve an application in this process, which starts at once, and give its address."""
    assert anyio.open_file  # imports its module here: pytest rewrites it, and Python 3.11 may fail to parse in a thread
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        thread = Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join(timeout=10)
