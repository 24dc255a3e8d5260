import math

import pytest

from tests.tracking.offline import read_runs
from tests.tracking.server import serve, sync


@pytest.fixture(scope="module")
def offline(logged):
    return read_runs(logged)


@pytest.fixture(scope="module")
def served(logged, offline):
    with serve() as served:
        for run in offline.values():  # what was made before what was made from it
            sync(served, *run.folders)
        yield served


def same(value, other):
    """Compare with NaN equal to itself."""
    return repr(value) == repr(other) if isinstance(value, float) and math.isnan(value) else value == other


@pytest.mark.parametrize("id_", ["maker", "user"])
def test_a_synced_run_is_what_is_read_from_its_folders(id_, offline, served):
    read, synced = offline[id_], served.runs[id_]
    for name in ("project", "group", "name", "job_type", "tags", "config", "exit_code"):
        assert getattr(synced, name) == getattr(read, name), name
    assert len(synced.history) == len(read.history)
    for row, other in zip(synced.history, read.history, strict=True):
        assert row.keys() == other.keys()
        assert all(same(row[name], other[name]) for name in row)
    assert synced.summary.keys() == read.summary.keys()
    assert all(same(synced.summary[name], read.summary[name]) for name in read.summary)
    for name, path in read.files.items():
        assert synced.files[name] == path.read_bytes()


def test_synced_artifacts_are_what_is_read_and_say_which_run_made_and_used_them(offline, served):
    assert served.artifacts.keys() == {"run-maker-concepts:v0", "sae:v0"}
    sae = served.artifacts["sae:v0"]
    assert (sae.made_by, sae.used_by, sae.state) == ("maker", ["user"], "COMMITTED")
    for read in offline["maker"].artifacts:
        synced = served.artifacts[f"{read.name}:v0"]
        for name in ("type", "digest", "metadata", "aliases"):
            assert getattr(synced, name) == getattr(read, name), name
        assert synced.manifest.keys() == read.manifest.keys()
        for path, entry in read.manifest.items():
            assert all(synced.manifest[path][name] == value for name, value in entry.items())
            assert ("ref" in entry) == (path not in synced.files)
    assert sae.files == {"weights.bin": b"weights"}
