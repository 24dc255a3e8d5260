"""What the server answers, what it keeps to itself, what it refuses."""

import json
import os
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
from starlette.testclient import TestClient

from ard.app import Asked, Jobs, answer, hear, listen
from ard.app.guard import raters_token
from ard.app.listen import LONGEST_BYTES
from ard.app.page import FILES, PAGES, make_app
from ard.app.serve import addresses, hosts_of, is_loopback, study_app
from ard.audio import StoredClips
from ard.cli import main
from ard.types import UserError
from tests.app.conftest import NASTY, QUESTION, SCRIPT, made, wav

STEERED = {"split": "steer", "id": "app-000000"}


def talk(run, jobs, study=None, **settings):
    """Talk to the application without a socket, as a page at localhost does."""
    study = study_app(run, ["localhost"]) if study is None else study
    app = make_app(run, jobs, study, hosts=["localhost"], **settings)
    return TestClient(app, base_url="http://localhost", follow_redirects=False)


@pytest.fixture(scope="module")
def client(folder, jobs):
    from ard.run import Run

    with talk(Run.load(folder), jobs) as client:
        yield client


def drop(client, content, name="voice.wav", **headers):
    headers = {"Content-Type": "application/octet-stream"} | headers
    return client.post("/api/dropped", params={"name": name}, content=content, headers=headers)


def told(client, path, body):
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in answer.text.splitlines()]


def test_a_dropped_clip_is_heard_as_python_hears_it(client, subject):
    content = wav(made(1))
    dropped = drop(client, content, "a <b>.wav").json()
    clip = hear(content, "a <b>.wav")
    assert (dropped["id"], dropped["duration_s"]) == ("a <b>.wav", clip.duration_s)
    place = {"dropped": dropped["dropped"]}
    events = told(client, "/api/listen", {"clip": place})
    assert {"begun": True} in events
    heard, expected = events[-1]["heard"], listen(subject, clip)
    assert [(one["feature"], one["activations"]) for one in heard["concepts"]] == [
        (fired.feature, fired.activations) for fired in expected.concepts
    ]
    pages = {one["page"].partition("#")[0] for one in heard["concepts"]}
    assert all(client.get(page).status_code == 200 for page in pages)
    sound = client.get(f"/api/dropped/{place['dropped']}")
    assert (sound.headers["content-type"], sound.content[:4]) == ("audio/wav", b"RIFF")
    assert client.get("/api/clip", params=place).json()["wave"] == dropped["wave"]


def test_answers_are_streamed_and_are_those_of_python(client, subject, run):
    feature = next(iter(subject.names))
    rows = [[{"feature": feature, "value": 0}], [{"feature": feature, "value": 8}]]
    body = {"clip": STEERED, "prompt": QUESTION, "settings": rows, "max_new_tokens": 3}
    *streamed, last = told(client, "/api/steer", body)
    from ard.app import Clips

    clip = Clips(run).get(STEERED).clip
    assert last["answers"] == answer(subject, clip, Asked(QUESTION, [{}, {feature: 8.0}], max_new_tokens=3))
    assert last["answers"][2] == last["answers"][0]
    assert {event["answer"] for event in streamed if "answer" in event} == {0, 1, 2, 3}
    assert last["record"]["settings"][1]["features"][0]["multiple_of_maximum"] == 8


def test_a_part_of_a_sound_can_be_had_for_browsers_seek_only_then(client):
    path = f"/api/clips/steer/{NASTY.id}"
    whole = client.get(path)
    assert (whole.status_code, whole.headers["accept-ranges"]) == (200, "bytes")
    size = len(whole.content)
    for asked, first, end in (("0-", 0, size), ("100-199", 100, 200), (f"5-{size + 9}", 5, size)):
        part = client.get(path, headers={"Range": f"bytes={asked}"})
        assert (part.status_code, part.content) == (206, whole.content[first:end])
        assert part.headers["content-range"] == f"bytes {first}-{end - 1}/{size}"
    beyond = client.get(path, headers={"Range": f"bytes={size}-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{size}")
    for other in ("bytes=-5", "bytes=9-3", "bytes=0-1,4-5", f"bytes={'9' * 5000}-", "clips=1-2", ""):
        assert client.get(path, headers={"Range": other}).content == whole.content


def test_a_server_answers_while_a_large_split_is_read(run, jobs, monkeypatch):
    begun, go_on = Event(), Event()

    def slow(folder):
        begun.set()
        assert go_on.wait(20)
        return StoredClips(folder)

    monkeypatch.setattr("ard.app.clips.StoredClips", slow)
    with talk(run, jobs, "none") as client, ThreadPoolExecutor() as threads:
        found = threads.submit(client.get, "/api/clips", params={"split": "steer"})
        assert begun.wait(10)
        dropped = threads.submit(drop, client, wav(made(0)))
        shown = threads.submit(client.get, "/app.js")
        try:
            assert dropped.result(timeout=5).status_code == shown.result(timeout=5).status_code == 200
        finally:
            go_on.set()
        assert found.result().status_code == 200


def test_what_the_pages_show_is_said_of_the_run(client, subject):
    about = client.get("/api/run").json()
    assert about["state"] in ("loading", "ready")
    assert (about["answers"], about["no_study"]) == (True, None)
    assert about["prompts"] == [QUESTION]
    assert (about["splits"], about["limits"]["bytes"]) == (["steer", "probe"], LONGEST_BYTES)
    concepts = client.get("/api/concepts").json()
    assert [(one["feature"], one["name"]) for one in concepts] == list(subject.names.items())
    (nasty,) = client.get("/api/clips", params={"split": "steer", "search": "script"}).json()
    assert nasty["caption"] == SCRIPT
    assert client.get(f"/api/clips/steer/{NASTY.id}").headers["content-type"] == "audio/wav"
    assert client.get("/").headers["location"] == "/report/index.html"
    assert client.get("/rate/").status_code == client.get("/rate/study.js").status_code == 200
    joined = client.post("/rate/api/raters", json={"name": "Cleo"}).json()
    assert client.get(f"/rate/api/raters/{joined['rater']}/concepts/1/clips/1").status_code == 200


@pytest.mark.parametrize("page", [*PAGES, "/report/index.html"])
def test_a_page_may_run_only_what_is_its_own(client, page):
    shown = client.get(page)
    assert "default-src 'self'" in shown.headers["content-security-policy"]
    assert "unsafe" not in shown.headers["content-security-policy"]
    assert shown.headers["x-content-type-options"] == "nosniff"
    assert '<nav class="explorer"' in shown.text
    assert "<script>" not in shown.text
    for name in FILES:
        content = client.get(f"/{name}").text
        assert content
        assert not any(word in content for word in ("innerHTML", "insertAdjacentHTML", "eval(", "document.write"))


@pytest.mark.parametrize(
    "path",
    [
        *("/report/../run.json", "/report/%2e%2e/run.json", "/report/..%2frun.json", "/report//etc/passwd"),
        *("/report/audio/../../study/study.sqlite", "/report/%2fetc%2fpasswd", "/report/a-link.html", "/report/"),
        *(
            "/report/%00.html",
            f"/report/{'a' * 300}.html",
            "/report/.ard.lock",
            "/report/a-folder.html",
            "/run.json",
            "/report.css/../run.json",
            "/study.sqlite",
        ),
        *("/api/clips/steer/..%2f..%2fetc%2fpasswd", "/api/clips/..%2f..%2fetc/passwd", "/api/dropped/..%2fx"),
        *("/api/clip?split=..&id=/etc/passwd", "/api/clips?split=/etc"),
    ],
)
def test_only_files_of_the_run_are_served(served, jobs, path):
    report = served.report.parent
    (report / ".ard.lock").write_text("root:", encoding="utf-8")
    (report / "a-folder.html").mkdir()
    os.symlink("/etc/passwd", report / "a-link.html")
    with talk(served, jobs, "none") as client:
        refused = client.get(path)
        assert refused.status_code in (400, 404)
        assert "root:" not in refused.text
        assert "preset" not in refused.text


def test_what_does_not_fit_is_refused_in_a_line(client):
    good = {"clip": STEERED, "prompt": QUESTION, "settings": [[]]}
    huge = good | {"settings": [[{"feature": 1, "value": 10**400}]]}
    for path, body, status, line in (
        ("/api/steer", huge, 400, "of feature 1 is no number from 0"),
        ("/api/steer", good | {"settings": [[{"feature": 1, "value": -1}]]}, 400, "value -1 of feature 1 is no number"),
        ("/api/listen", {}, 400, "no clip is chosen"),
        ("/api/listen", {"clip": {"split": "steer", "id": "x"}}, 400, "has no clip 'x'"),
        ("/api/steer", good | {"prompt": ""}, 400, "the question is empty"),
        ("/api/steer", good | {"prompt": "x" * 70000}, 413, "this is longer than"),
        ("/api/steer", [1], 400, "not a JSON object"),
    ):
        refused = client.post(path, json=body)
        assert (refused.status_code, line in refused.json()["error"]) == (status, True), refused.text
    for path in ("/api/listen", "/rate/api/raters"):
        deep = client.post(path, content=b"[" * 4000, headers={"Content-Type": "application/json"})
        assert (deep.status_code, deep.json()["error"]) == (400, "this is not a JSON object")
    asked = {"prompt": QUESTION + "<|AUDIO|>"}
    assert "is a special token" in told(client, "/api/steer", good | asked)[-1]["error"]
    too_high = {"settings": [[{"feature": 4096, "value": 1}]]}
    assert "feature 4096 does not exist" in told(client, "/api/steer", good | too_high)[-1]["error"]
    refused = drop(client, b"no sound", "../../etc/passwd")
    assert refused.json()["error"].startswith("'../../etc/passwd' cannot be heard (unreadable")
    assert drop(client, bytes(LONGEST_BYTES + 1)).json()["error"] == "this is longer than 16 MiB"


def test_pages_of_other_sites_are_refused(client):
    content = wav(made(0))
    assert client.post("/api/listen", data={"clip": "a form"}).status_code == 415
    assert drop(client, content, **{"Content-Type": "text/plain"}).status_code == 415
    for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        assert drop(client, content, **headers).status_code == 403
        assert client.post("/rate/api/raters", json={"name": "E"}, headers=headers).status_code == 403
    same = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
    assert drop(client, content, **same).status_code == 200
    assert client.get("/listen", headers={"Host": "evil.example"}).status_code == 400


def test_another_site_may_lead_to_a_page_and_not_read_it(client):
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document"}
    shown = client.get("/report/index.html", headers=link)
    assert (shown.status_code, shown.headers["cross-origin-resource-policy"]) == (200, "same-origin")
    assert client.post("/api/listen", json={"clip": STEERED}, headers=link).status_code == 403
    for site, kind in (("cross-site", "script"), ("same-site", "script"), ("cross-site", "empty")):
        asked = {"Sec-Fetch-Site": site, "Sec-Fetch-Dest": kind}
        assert client.get("/report/assets/concepts.js", headers=asked).status_code == 403
        assert client.get("/api/run", headers=asked).status_code == 403
    assert client.get("/api/run", headers={"Origin": "http://evil.example"}).status_code == 403


def test_an_address_of_ipv6_is_answered(run, jobs):
    app = make_app(run, jobs, "none", hosts=hosts_of("::1"))
    with TestClient(app, base_url="http://[::1]:8642") as client:
        assert client.get("/api/run").status_code == 200
        assert client.get("/api/run", headers={"Host": "[::2]:8642"}).status_code == 400


def test_a_token_opens_everything_and_that_of_raters_the_study_alone(run, jobs):
    everything = ("/listen", "/app.js", "/report/index.html", "/api/run", "/api/concepts", "/rate/", "/")
    for token, opened in (("secret", everything), (raters_token("secret"), ("/rate/",))):
        with talk(run, jobs, token="secret") as client:
            for path in everything:
                assert client.get(path).status_code == 403
                assert client.get(path, params={"token": "guessed"}).status_code == 403
            assert drop(client, b"").status_code == 403
            first = client.get("/rate/", params={"token": token, "x": "1"})
            assert (first.status_code, first.headers["location"]) == (303, "/rate/?x=1")
            assert "HttpOnly; Path=/; SameSite=lax" in first.headers["set-cookie"]
            for path in everything:
                assert (client.get(path).status_code != 403) is (path in opened)
    with talk(run, jobs, token="secret") as client:
        assert client.get("/listen", params={"token": raters_token("secret")}).status_code == 403


def test_a_full_queue_a_missing_study_and_a_missing_model_are_said(run, jobs):
    with talk(run, Jobs(lambda: None, most_waiting=0), "there is no study in 'x'") as client:
        refused = client.post("/api/listen", json={"clip": STEERED})
        assert (refused.status_code, "0 others are waiting" in refused.json()["error"]) == (503, True)
        assert "ard study make" in client.get("/rate/").text
        assert client.get("/api/run").json()["no_study"] == "there is no study in 'x'"

    def missing():
        raise UserError("model 'x' cannot be loaded")

    with talk(run, Jobs(missing)) as client:
        assert told(client, "/api/listen", {"clip": STEERED})[-1] == {"error": "model 'x' cannot be loaded"}
        assert client.get("/api/run").json()["state"] == "model 'x' cannot be loaded"


def test_of_an_encoder_the_pages_say_that_it_does_not_answer(served, jobs):
    (served.folder / "encoder").mkdir()
    (served.folder / "encoder/config.json").write_text('{"model_type": "hubert"}', encoding="utf-8")
    facts = json.loads(served.path.read_text(encoding="utf-8")) | {"model": str(served.folder / "encoder")}
    served.path.write_text(json.dumps(facts), encoding="utf-8")
    with talk(type(served).load(served.folder), jobs, "none") as client:
        about = client.get("/api/run").json()
        assert (about["answers"], about["model"]) == (False, "encoder")


@pytest.mark.parametrize(
    ("host", "alone"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("box", False)]
)
def test_only_this_machine_reaches_a_loopback_address(host, alone):
    assert is_loopback(host) is alone


def test_the_addresses_are_printed():
    assert addresses("::1", 80, None) == ["http://[::1]:80"]
    whole, raters = addresses("0.0.0.0", 8642, "abc")
    assert whole == f"http://{socket.gethostname()}:8642/?token=abc"
    assert (
        raters == f"for raters, the study alone: http://{socket.gethostname()}:8642/rate/?token={raters_token('abc')}"
    )


def test_the_command_refuses_what_it_cannot_serve(folder, tmp_path, capsys, monkeypatch):
    def refused(*args):
        with pytest.raises(SystemExit) as stopped:
            main(["app", *map(str, args)])
        assert stopped.value.code == 2
        return capsys.readouterr()

    assert "holds no run.json" in refused("--run", tmp_path).err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"cannot listen on 127.0.0.1:{port}" in refused("--run", folder, "--port", port).err
    for token in ("", "short", "sixteen letters, but &+%"):
        assert f"the token has {len(token)} characters" in refused("--run", folder, "--token", token).err
    said = refused("--run", folder, "--host", "0.0.0.0", "--port", "99999").err
    assert "whoever reaches 0.0.0.0 and has the token" in said
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "install it with `pip install 'ard-audio[app]'`" in refused("--run", folder).err
