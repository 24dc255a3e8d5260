"""A hub on this machine: as much of the Hugging Face hub as one push and one pull speak."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest
import yaml


class Hub(BaseHTTPRequestHandler):
    """``repositories`` holds what was committed, ``gated`` the names of those whose files are not given to anybody."""

    protocol_version = "HTTP/1.1"
    repositories: dict[str, dict[str, bytes]]
    gated: set[str]
    requests: list[str]

    def reply(self, body=b"", status=200, **headers):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            asked = json.loads(content)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            self.repositories.setdefault(name, {})
            self.reply({"url": f"http://{self.headers['Host']}/{name}"})
        elif self.path == "/api/validate-yaml":
            self.reply({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [{**file, "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(content)["files"]]
            self.reply({"files": files})
        else:
            name = self.path.removeprefix("/api/models/").partition("/commit/")[0]
            if name not in self.repositories:
                self.reply({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
                return
            for line in map(json.loads, content.splitlines()):
                if line["key"] == "file":
                    self.repositories[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.reply({"commitUrl": f"http://{self.headers['Host']}/{name}/commit/{'0' * 40}", "commitOid": "0" * 40})

    def do_GET(self):
        self.requests.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0].removeprefix("/").removeprefix("api/models/")
        name = "/".join(path.split("/")[:2])
        files, rest = self.repositories.get(name), path[len(name) + 1 :]
        file = rest.partition("/")[2].partition("/")[2] if rest.startswith("resolve/") else ""
        if files is None:
            self.reply({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        elif rest.startswith("tree/"):
            self.reply([{"type": "file", "path": p, "size": len(b), "oid": sha(b)} for p, b in files.items()])
        elif file and name in self.gated:
            self.reply({"error": "Access to model is restricted"}, 403, X_Error_Code="GatedRepo")
        elif file in files:
            self.reply(files[file], X_Repo_Commit="0" * 40, ETag=f'"{sha(files[file])}"')
        elif not rest or rest.startswith("revision/"):
            card = yaml.safe_load(files.get("README.md", b"").decode().partition("---")[2].partition("---")[0])
            listed = [{"rfilename": path, "size": len(content)} for path, content in files.items()]
            self.reply({"id": name, "sha": "0" * 40, "siblings": listed, "cardData": card})
        else:
            self.reply({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit="0" * 40)

    def do_HEAD(self):
        self.do_GET()

    def log_message(self, *args):
        pass


def sha(content):
    return hashlib.sha1(content).hexdigest()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub on this machine with an empty cache; yields its class, which holds what is in it."""
    Hub.repositories, Hub.gated, Hub.requests = {}, set(), []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    constants = huggingface_hub.constants
    _at(f"http://127.0.0.1:{server.server_port}", monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield Hub
    server.shutdown()
    server.server_close()


@pytest.fixture
def no_network(hub, monkeypatch):
    """Call it to have no hub any more: nobody listens at its address."""
    return lambda: _at("http://127.0.0.1:9", monkeypatch)


def _at(address, monkeypatch):
    constants = huggingface_hub.constants
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + template[template.index("/{repo_id}") :])
