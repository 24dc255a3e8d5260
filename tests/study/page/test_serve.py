"""The server: what it answers, what it keeps to itself, what it refuses."""

import json
import shutil
import socket
import sys

import pytest
from starlette.testclient import TestClient

from ard.app.serve import study_app
from ard.cli import main
from ard.run import Run
from ard.study import StoreError
from ard.study.page import make_app
from ard.study.sounds import study_sounds

from .conftest import NAMES


@pytest.fixture
def client(run, store):
    """Talk to the application without a socket, as a page at localhost does."""
    audio = run / "study" / "audio"
    app = make_app(store, study_sounds(store, run / "audio", audio), audio, hosts=["localhost"])
    with TestClient(app, base_url="http://localhost") as client:
        yield client


def join(client, name="Anna", **more):
    return client.post("/api/raters", json={"name": name, **more})


def test_label_name_rating_and_progress(client, store):
    anna = join(client).json()
    assert (anna["person"], anna["done"], anna["total"], anna["open"]) == ("Anna", 0, 6, [1, 2, 3, 4, 5, 6])
    url = f"/api/raters/{anna['rater']}/concepts/2"
    found = client.get(url).json()
    assert found.keys() == {"waves", "label", "name", "rating"}
    assert (len(found["waves"]), found["label"], found["name"], found["rating"]) == (2, None, None, None)
    said = client.post(f"{url}/label", json={"label": "a dog"}).json()
    expected = store.order(store.join("Anna"))[1]
    assert (said["label"], said["name"], said["rating"]) == ("a dog", expected.name, None)
    assert client.post(f"{url}/label", json={"label": expected.name}).json()["label"] == "a dog"
    rated = client.post(f"{url}/rating", json={"rating": 0}).json()
    assert (rated["rating"], rated["done"], rated["open"]) == (0, 1, [1, 3, 4, 5, 6])
    assert [(a.label, a.rating, a.concept) for a in store.answers()] == [("a dog", 0, expected.key)]


def test_before_its_label_nothing_tells_what_a_concept_is(client, store):
    anna = join(client).json()["rater"]
    seen = client.get("/").text + client.get("/study.js").text + client.get(f"/api/raters/{anna}").text
    for place in range(1, 7):
        answer = client.get(f"/api/raters/{anna}/concepts/{place}")
        clip = client.get(f"/api/raters/{anna}/concepts/{place}/clips/1")
        seen += answer.text + str(answer.headers) + str(clip.headers)
        refused = client.post(f"/api/raters/{anna}/concepts/{place}/rating", json={"rating": 3})
        assert refused.status_code == 400
        seen += refused.text
    secrets = [name for names in NAMES.values() for name in names]
    secrets += [concept.key for concept in store.concepts] + [clip for c in store.concepts for clip in c.clips]
    secrets += ["poly", "Poly", "AR&D", "31415926", "31415927", "31415928"]
    for secret in secrets:
        assert secret not in seen
        assert json.dumps(secret)[1:-1] not in seen


def test_clips_are_the_shards_own_bytes_and_can_be_sought_in(client, run, store):
    anna = join(client).json()["rater"]
    url = f"/api/raters/{anna}/concepts/1/clips/2"
    whole = client.get(url)
    assert whole.headers["content-type"] == "audio/flac"
    assert whole.content[:4] == b"fLaC"
    part = client.get(url, headers={"Range": "bytes=4-9"})
    assert (part.status_code, part.content) == (206, whole.content[4:10])


def test_a_name_that_is_taken_is_taken_up_again_only_on_purpose(client):
    first = join(client, "Anna").json()["rater"]
    taken = join(client, " anna ")
    assert (taken.status_code, taken.json()["done"], taken.json()["total"]) == (409, 0, 6)
    assert "rater" not in taken.json()
    assert join(client, "anna", resume=True).json()["rater"] == first
    assert join(client, "Björn").json()["rater"] != first


def test_what_does_not_fit_is_refused_in_a_line_and_keeps_nothing(client, store):
    anna = join(client).json()["rater"]
    url = f"/api/raters/{anna}/concepts/1"
    for path, body, status, said in (
        ("/api/raters", {"name": " "}, 400, "rater's name '' is empty"),
        ("/api/raters", {}, 400, "is empty"),
        (url + "/label", {"label": ""}, 400, "label '' is empty"),
        (url + "/label", {"label": 7}, 400, "not text"),
        (url + "/label", {"label": "x" * 201}, 400, "too long"),
        (url + "/label", {"label": "x" * 9999}, 413, "too long"),
        (url + "/label", [1], 400, "not a JSON object"),
        ("/api/raters/nobody/concepts/1/label", {"label": "a dog"}, 404, "does not have this rater"),
        (f"/api/raters/{anna}/concepts/7/label", {"label": "a dog"}, 404, "no concept 7"),
        (f"/api/raters/{anna}/concepts/0/label", {"label": "a dog"}, 404, "no concept 0"),
    ):
        answer = client.post(path, json=body)
        assert (answer.status_code, said in answer.json()["error"]) == (status, True), (path, body, answer.text)
    assert not store.answers()
    client.post(url + "/label", json={"label": "a dog"})
    for rating in (6, -1, 2.5, "3", None, True):
        answer = client.post(url + "/rating", json={"rating": rating})
        assert answer.status_code == 400
        assert "give a whole number from 0 to 5" in answer.json()["error"]
    assert client.post(url + "/label", content=b"{", headers={"Content-Type": "application/json"}).status_code == 400
    assert client.post(url + "/label", data={"label": "a form elsewhere"}).status_code == 415
    assert client.get(url + "/clips/3").status_code == 404
    assert client.get("/study.sqlite").status_code == 404
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 400
    assert [(a.label, a.rating) for a in store.answers()] == [("a dog", None)]


def test_the_page_may_run_only_what_is_its_own(client):
    answer = client.get("/")
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert "script-src" not in answer.headers["content-security-policy"]
    assert "<script>" not in answer.text
    for path, kind in (("/study.js", "javascript"), ("/study.css", "css"), ("/report.css", "css")):
        assert kind in client.get(path).headers["content-type"]
    assert not any(word in client.get("/study.js").text for word in ("innerHTML", "insertAdjacentHTML", "eval("))


def test_a_store_that_fails_says_so_and_the_page_is_to_ask_again(client, store, monkeypatch):
    anna = join(client).json()["rater"]

    def full(*_):
        raise StoreError("the disk is full")

    monkeypatch.setattr(store, "label", full)
    answer = client.post(f"/api/raters/{anna}/concepts/1/label", json={"label": "a dog"})
    assert (answer.status_code, answer.json()) == (503, {"error": "the disk is full"})


def refused(capsys, *args):
    with pytest.raises(SystemExit) as stopped:
        main([str(arg) for arg in args])
    assert stopped.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_bad_input_is_refused_in_one_line(run, store, capsys, monkeypatch, tmp_path_factory):
    nowhere = tmp_path_factory.mktemp("nowhere")
    for command in (("app",), ("study", "export"), ("study", "score"), ("study", "make")):
        assert "holds no run.json" in refused(capsys, *command, "--run", nowhere)
    assert "is a study of other concepts" in refused(capsys, "study", "make", "--run", run, "--concepts", 2)
    assert "nobody has labelled a concept" in refused(capsys, "study", "score", "--run", run)
    assert "No such file" in refused(capsys, "study", "import", nowhere / "x.csv", "--run", run)
    assert "cannot be written" in refused(capsys, "study", "export", "--run", run, "--out", run / "run.json" / "x")
    rate = ("study", "rate", "--run", run, "--model", "m", "--endpoint")
    assert "is not an endpoint: give one such as" in refused(capsys, *rate, "nonsense")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"cannot listen on 127.0.0.1:{port}" in refused(capsys, "app", "--run", run, "--port", port)
    assert "cannot listen on 127.0.0.1:99999" in refused(capsys, "app", "--run", run, "--port", 99999)
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "uvicorn", None)
        assert "needs the package 'uvicorn': install it with `pip install 'ard-audio[app]'`" in refused(
            capsys, "app", "--run", run
        )
    shutil.move(run / "audio", nowhere / "audio")
    assert "3 of the study's 3 clips" in study_app(Run(run), [])
    shutil.rmtree(run / "study")
    assert "there is no study in" in study_app(Run(run), [])
    for folder in ("e8", "poly"):
        (run / f"layer-3/{folder}/concepts.parquet").unlink()
    assert "no concept of this run has a name" in refused(capsys, "study", "make", "--run", run)
    (run / "study").mkdir()
    (run / "study/study.sqlite").write_bytes(b"no database" * 99)
    assert "is damaged, no study, or cannot be used" in study_app(Run(run), [])


def test_fewer_named_concepts_than_asked_for_are_said(run, capsys):
    shutil.rmtree(run / "study")
    (run / "layer-3/poly/concepts.parquet").unlink()
    main(["study", "make", "--run", str(run)])
    said = capsys.readouterr().err
    assert "AR&D: 3 named concepts, and 50 were asked for" in said
    assert "Poly. Feats.: 0 named concepts" in said
    assert "3 concepts in" in said
