import json
import math

import pytest

from tests.tracking.offline import read_runs
from tests.tracking.server import run_python, serve, sync


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
        for name in ("type", "digest", "metadata"):
            assert getattr(synced, name) == getattr(read, name), name
        assert set(synced.aliases) == set(read.aliases)
        assert synced.manifest.keys() == read.manifest.keys()
        for path, entry in read.manifest.items():
            assert all(synced.manifest[path][name] == value for name, value in entry.items())
            assert ("ref" in entry) == (path not in synced.files)
    assert sae.files == {"weights.bin": b"weights"}


ONLINE = """
import wandb

with wandb.init(project="p", id="online", tags=["t"], settings=wandb.Settings(console="off")) as run:
    run.log({"loss": 0.5})
    made = wandb.Artifact("made", "model")
    with made.new_file("a/b.txt") as file:
        file.write("made online")
    run.log_artifact(made, aliases=["best"])
folder = wandb.Api().artifact("somebody/p/made:best").download()
print("read:", open(f"{folder}/a/b.txt").read())
"""


@pytest.mark.slow
def test_an_online_run_is_kept_and_its_artifact_is_fetched_back():
    with serve() as served:
        assert "read: made online\n" in run_python(served, "-c", ONLINE)
    run, made = served.runs["online"], served.artifacts["made:v0"]
    assert (run.tags, run.exit_code, [row["loss"] for row in run.history]) == (["t"], 0, [0.5])
    assert (made.made_by, made.files) == ("online", {"a/b.txt": b"made online"})


ASK = """
import os, sys, urllib.request
urllib.request.urlopen(os.environ["WANDB_BASE_URL"] + "/graphql", sys.argv[1].encode())
"""
ARTIFACT = {"artifactCollectionName": "sae", "artifactTypeName": "model", "digest": "1", "metadata": "", "runName": ""}
QUESTIONS = {
    "Unheard: AttributeError": {"query": "query Unheard {}"},
    "CreateArtifact: KeyError": {"query": "mutation CreateArtifact {}", "variables": {"input": {}}},
    r"not all files of \['sae:v0'\] were there to be sent": {
        "query": "mutation CreateArtifact {}",
        "variables": {"input": {**ARTIFACT, "aliases": []}},
    },
}


@pytest.mark.parametrize("error", QUESTIONS)
def test_what_the_server_cannot_answer_or_did_not_get_whole_fails_a_test(error):
    with serve() as served, pytest.raises(AssertionError, match=error):
        run_python(served, "-c", ASK, json.dumps(QUESTIONS[error]))
