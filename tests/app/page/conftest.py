"""The explorer of the small run, served in this process."""

import shutil
import socket
from threading import Thread

import anyio
import pytest
import uvicorn

from ard.app import Jobs, Subject
from ard.app.page import make_app
from ard.app.serve import study_app
from ard.run import Run


@pytest.fixture(scope="session")
def theirs(folder):
    """What the queue's thread works with; no test does, for a model answers one thread at a time."""
    return Subject.load(Run.load(folder), "cpu")


@pytest.fixture(scope="session")
def jobs(theirs):
    """The queue, with the model in its thread."""
    return Jobs(lambda: theirs)


@pytest.fixture
def served(folder, tmp_path):
    """A copy of the run's folder, to change."""
    return Run.load(shutil.copytree(folder, tmp_path / "copy"))


@pytest.fixture(scope="module")
def url(folder, jobs):
    """Serve the run, and return its address."""
    run = Run.load(folder)
    assert anyio.open_file  # imports its module here: pytest rewrites it, and Python 3.11 may fail to parse in a thread
    app = make_app(run, jobs, study_app(run, ["127.0.0.1"]), hosts=["127.0.0.1"])
    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        thread = Thread(target=serving.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        serving.should_exit = True
        thread.join(timeout=10)
