"""A run's folder with a study of six concepts, two clips each, and the server's process."""

import os
import subprocess
import sys
import time
from urllib.parse import urlsplit

import pytest

from ard.cli import main
from ard.run import Run
from ard.study import Store
from ard.study.page import make_app
from ard.study.sounds import study_sounds
from tests.browser import serving
from tests.reports.conftest import concept, write_about, write_clips, write_concepts

CLIPS = ["dog <b>&\"'", "sub folder/naïve café", "雨 & 'rain'", "v1.2/take.3"]
NAMES = {"poly": ["clock ticking", "<i>wind</i>", "church bell"], "e8": ["dog & <bark>", "rain on tin", "a secret hum"]}


@pytest.fixture
def run(tmp_path):
    """Make the folder, and the study by its command."""
    write_about(tmp_path)
    write_clips(tmp_path, CLIPS)
    for folder, names in NAMES.items():  # the SAE's last, since its folder is where they are written
        write_concepts(
            tmp_path, [concept(31415926 + n, 5.0 - n, CLIPS[n % 2 :], name=name) for n, name in enumerate(names)]
        )
        if folder == "poly":
            (tmp_path / "layer-3/e8").rename(tmp_path / "layer-3/poly")
    (tmp_path / "report").mkdir()
    (tmp_path / "report/index.html").write_text("none is written: the study needs none", encoding="utf-8")
    main(["study", "make", "--run", str(tmp_path), "--concepts", "3"])
    return tmp_path


@pytest.fixture
def store(run):
    """Open the study."""
    return Store(Run(run).study)


class Server:
    """The study that `ard app` serves, in a process of its own, on a free port that it keeps when started again."""

    def __init__(self, run):
        self.run, self.url, self.process, self.log = run, None, None, run / "server.log"

    def start(self):
        port = str(urlsplit(self.url).port) if self.url else "0"
        command = [sys.executable, "-m", "ard", "app", "--run", str(self.run), "--port", port]
        self.log.unlink(missing_ok=True)
        with self.log.open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "COLUMNS": "200"})
        give_up = time.monotonic() + 60
        while time.monotonic() < give_up and self.process.poll() is None:
            found = [
                line
                for line in self.log.read_text(encoding="utf-8").splitlines()
                if line.startswith("http://127.0.0.1:")
            ]
            if found:
                self.url = f"{found[0].strip()}/rate/"
                return self
            time.sleep(0.1)
        raise AssertionError(self.log.read_text(encoding="utf-8"))

    def kill(self):
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait(timeout=30)


@pytest.fixture
def server(run):
    """Start the server's process, and end it."""
    started = Server(run).start()
    yield started
    started.kill()


@pytest.fixture
def url(run, store):
    """Serve the study in this process, and return its address."""
    audio = run / "study" / "audio"
    app = make_app(store, study_sounds(store, run / "audio", audio), audio, hosts=["127.0.0.1"])
    with serving(app) as address:
        yield address
