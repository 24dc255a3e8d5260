"""The explorer of the small run, served in this process."""

import shutil

import pytest

from ard.app import Jobs, Subject
from ard.app.page import make_app
from ard.app.serve import study_app
from ard.run import Run
from tests.browser import serving


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
    app = make_app(run, jobs, study_app(run, ["127.0.0.1"]), hosts=["127.0.0.1"])
    with serving(app) as address:
        yield address
