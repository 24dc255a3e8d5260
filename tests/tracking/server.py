"""A W&B server on this machine: as much of its API as ``wandb sync``, an online run and a download want.

Its operations are those of https://github.com/wandb/wandb/tree/main/core/api/graphql; history and summary come by
``file_stream``, files by PUT. An artifact of a name and digest that is there is not made again.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

ENTITY = "somebody"
HISTORY, SUMMARY = "wandb-history.jsonl", "wandb-summary.json"


@dataclass
class SyncedRun:
    """A run.

    Attributes:
        lines: the lines of each file that came by ``file_stream``.
        files: the files that were uploaded, by name.
        exit_code: what the run was finished with; None if it was not.
    """

    id: str
    project: str = ""
    group: str = ""
    name: str = ""
    job_type: str = ""
    tags: list[str] = field(default_factory=list)
    sent_config: str = "{}"
    lines: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    exit_code: int | None = None

    @property
    def config(self) -> dict[str, Any]:
        """The settings, without what wandb says of itself."""
        return {key: entry["value"] for key, entry in json.loads(self.sent_config).items() if key != "_wandb"}

    @property
    def history(self) -> list[dict[str, Any]]:
        """A dictionary for each step."""
        return [json.loads(line) for line in self.lines.get(HISTORY, [])]

    @property
    def summary(self) -> dict[str, Any]:
        """The last value of each metric."""
        return json.loads(self.lines.get(SUMMARY, ["{}"])[-1])


@dataclass
class SyncedArtifact:
    """A version of an artifact.

    Attributes:
        state: PENDING until all of it is there, then COMMITTED.
        sent_manifest: what it holds, as the client says.
        files: its files, by path.
        made_by: the id of the run that made it; None if no run says so.
        used_by: the ids of the runs that were made from it.
    """

    id: str
    name: str
    type: str
    digest: str
    metadata: dict[str, Any]
    made_by: str | None
    state: str = "PENDING"
    aliases: list[str] = field(default_factory=list)
    sent_manifest: bytes = b""
    files: dict[str, bytes] = field(default_factory=dict)
    used_by: list[str] = field(default_factory=list)

    @property
    def manifest(self) -> dict[str, dict[str, Any]]:
        """What it holds, by path."""
        return json.loads(self.sent_manifest)["contents"]


@dataclass
class Server:
    """What was sent, and the answers to it.

    Attributes:
        views: the workspaces that were saved, as they were sent; only ``ENTITY`` may save any.
        unanswered: the requests that it has no answer to; there should be none.
    """

    url: str
    views: list[dict[str, Any]] = field(default_factory=list)
    runs: dict[str, SyncedRun] = field(default_factory=dict)
    artifacts: dict[str, SyncedArtifact] = field(default_factory=dict)
    unanswered: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        """Answer a query or a mutation."""
        if operation == "UpsertView2" and given["entityName"] != ENTITY:
            return {"errors": [{"message": "no such entity"}], "data": None}
        try:
            return {"data": getattr(self, re.sub(r"(?<=[a-z])(?=[A-Z])", "_", operation).lower())(**given)}
        except (AttributeError, KeyError, TypeError) as error:
            self.unanswered.append(f"{operation}: {error!r}")
            return {"errors": [{"message": self.unanswered[-1]}]}

    def server_features_query(self) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def get_default_entity(self) -> dict[str, Any]:
        return self.viewer()

    def viewer(self) -> dict[str, Any]:
        person = {"id": ENTITY, "entity": ENTITY, "username": ENTITY, "email": None, "flags": "{}"}
        return {"viewer": {**person, "teams": {"edges": []}}}

    def upsert_view2(self, **view: Any) -> dict[str, Any]:
        self.views.append(view)
        return {"upsertView": {"view": {"id": "id", "name": view["name"]}, "inserted": True}}

    def organization_core_weave_organization_id(self, **_: Any) -> dict[str, Any]:
        return {"entity": None}

    def run_resume_status(self, project: str, name: str, **_: Any) -> dict[str, Any]:
        owner = {"id": project, "name": project, "entity": {"id": ENTITY, "name": ENTITY}}
        if name not in self.runs:
            return {"model": {**owner, "bucket": None}}
        run = self.runs[name]
        bucket = self._bucket(run) | {"wandbConfig": '{"t": {}}', "notes": None}
        bucket["summaryMetrics"] = run.lines.get(SUMMARY, ["{}"])[-1]
        for file, of in (HISTORY, "history"), ("wandb-events.jsonl", "events"), ("output.log", "log"):
            lines = run.lines.get(file, [])
            bucket |= {f"{of}LineCount": len(lines), f"{of}Tail": json.dumps(lines[-1:])}
        return {"model": {**owner, "bucket": bucket}}

    def upsert_bucket(self, name: str, **given: Any) -> dict[str, Any]:
        is_new = name not in self.runs
        run = self.runs.setdefault(name, SyncedRun(name))
        names = {"project": "project", "group": "groupName", "name": "displayName", "job_type": "jobType"}
        for ours, theirs in {**names, "tags": "tags", "sent_config": "config"}.items():
            if given.get(theirs):
                setattr(run, ours, given[theirs])
        return {"upsertBucket": {"bucket": self._bucket(run), "inserted": is_new}}

    def _bucket(self, run: SyncedRun) -> dict[str, Any]:
        return {
            "id": run.id,
            "name": run.id,
            "displayName": run.name,
            "description": None,
            "config": run.sent_config,
            "tags": run.tags,
            "sweepName": None,
            "project": {"id": run.project, "name": run.project, "entity": {"id": ENTITY, "name": ENTITY}},
            "historyLineCount": len(run.lines.get(HISTORY, [])),
        }

    def create_run_files(self, run: str, files: list[str], **_: Any) -> dict[str, Any]:
        places = [{"name": name, "uploadUrl": f"{self.url}/kept/run/{run}/{name}"} for name in files]
        return {"createRunFiles": {"runID": run, "uploadHeaders": [], "files": places}}

    def create_artifact(self, input: dict[str, Any]) -> dict[str, Any]:
        name, digest = input["artifactCollectionName"], input["digest"]
        versions = [artifact for artifact in self.artifacts.values() if artifact.name == name]
        artifact = next((artifact for artifact in versions if artifact.digest == digest), None)
        if artifact is None:
            id_, metadata = f"{name}:v{len(versions)}", json.loads(input["metadata"] or "{}")
            artifact = SyncedArtifact(id_, name, input["artifactTypeName"], digest, metadata, input["runName"])
            self.artifacts[id_] = artifact
        artifact.aliases += [alias["alias"] for alias in input["aliases"] if alias["alias"] not in artifact.aliases]
        latest = {"id": versions[-1].id} if versions else None
        made = {"id": artifact.id, "state": artifact.state, "artifactSequence": {"latestArtifact": latest}}
        return {"createArtifact": {"artifact": made}}

    def create_artifact_manifest(self, artifactID: str, **_: Any) -> dict[str, Any]:
        file = {"id": artifactID, "uploadUrl": f"{self.url}/kept/manifest/{artifactID}", "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": artifactID, "file": file}}}

    def create_artifact_files(self, input: dict[str, Any]) -> dict[str, Any]:
        nodes = [
            {
                "storagePath": file["name"],
                "uploadUrl": f"{self.url}/kept/artifact/{file['artifactID']}/{file['name']}",
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": file["artifactID"]},
            }
            for file in input["artifactFiles"]
        ]
        return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}

    def commit_artifact(self, artifactID: str) -> dict[str, Any]:
        artifact = self.artifacts[artifactID]
        artifact.state = "COMMITTED"
        return {"commitArtifact": {"artifact": {"id": artifact.id, "digest": artifact.digest}}}

    def use_artifact(self, input: dict[str, Any]) -> dict[str, Any]:
        self.artifacts[input["artifactID"]].used_by.append(input["runName"])
        return {"useArtifact": {"artifact": {"id": input["artifactID"]}}}

    def artifact_type(self, name: str, **_: Any) -> dict[str, Any]:
        artifact = self.version(name)
        return {"project": {"artifact": artifact and {"artifactType": {"name": artifact.type}}}}

    def artifact_membership_by_name(self, project: str, name: str, **_: Any) -> dict[str, Any]:
        kept = self.version(name)
        if kept is None:
            return {"project": {"artifactCollectionMembership": None}}
        version = {"id": kept.id, "versionIndex": int(kept.id.rpartition(":v")[2]), "createdAt": "2026-01-01T00:00:00"}
        owner = {"id": project, "internalId": project, "name": project, "entity": {"name": ENTITY}}
        collection = {"__typename": "ArtifactSequence", "name": kept.name, "project": owner}
        aliases = [{"__typename": "ArtifactAlias", "id": alias, "alias": alias} for alias in kept.aliases]
        artifact = {
            **version,
            "__typename": "Artifact",
            "artifactSequence": collection,
            "artifactType": {"name": kept.type},
            "metadata": json.dumps(kept.metadata),
            "state": kept.state,
            "digest": kept.digest,
            "size": sum(map(len, kept.files.values())),
            "fileCount": len(kept.files),
            "aliases": [{**alias, "artifactCollection": collection} for alias in aliases],
            "tags": [],
            "ttlDurationSeconds": -2,
            "ttlIsInherited": False,
            **dict.fromkeys(("description", "historyStep", "commitHash", "updatedAt")),
        }
        member = {**version, "aliases": aliases, "artifactCollection": collection, "artifact": artifact}
        return {"project": {"artifactCollectionMembership": {**member, "__typename": "ArtifactCollectionMembership"}}}

    def fetch_artifact_manifest(self, id: str) -> dict[str, Any]:
        return {"artifact": {"currentManifest": {"file": {"directUrl": f"{self.url}/kept/manifest/{id}"}}}}

    def get_artifact_membership_file_urls(self, collection: str, alias: str, **_: Any) -> dict[str, Any]:
        artifact = self.version(f"{collection}:{alias}")
        place = f"{self.url}/kept/artifact/{artifact.id}"
        nodes = [{"name": name, "directUrl": f"{place}/{name}"} for name in artifact.files]
        files = {"pageInfo": {"hasNextPage": False, "endCursor": None}, "edges": [{"node": node} for node in nodes]}
        found = {"__typename": "ArtifactSequence", "artifactMembership": {"files": files}}
        return {"project": {"artifactCollection": found}}

    def version(self, name: str) -> SyncedArtifact | None:
        """Find an artifact by its name and version or alias, ``sae:v0``; the last of those that have the alias."""
        name, _, alias = name.partition(":")
        named = [artifact for artifact in self.artifacts.values() if artifact.name == name]
        meant = [artifact for artifact in named if artifact.id == f"{name}:{alias}" or alias in artifact.aliases]
        return meant[-1] if meant else None

    def stream(self, run: SyncedRun, sent: dict[str, Any]) -> None:
        """Take lines of files; those that are sent for the place of others replace them."""
        for name, part in sent.get("files", {}).items():
            place = part["offset"]
            run.lines.setdefault(name, [])[place : place + len(part["content"])] = part["content"]
        if sent.get("complete"):
            run.exit_code = sent["exitcode"]

    def keep(self, kind: str, owner: str, name: str, content: bytes) -> None:
        """Take an uploaded file."""
        if kind == "manifest":
            self.artifacts[owner].sent_manifest = content
        else:
            {"run": self.runs, "artifact": self.artifacts}[kind][owner].files[name] = content

    def give(self, kind: str, owner: str, name: str) -> bytes:
        """Return a file of an artifact, or its manifest."""
        kept = self.artifacts[owner]
        return kept.sent_manifest if kind == "manifest" else kept.files[name]


class Handler(BaseHTTPRequestHandler):
    """Hands requests to ``served``."""

    protocol_version = "HTTP/1.1"
    served: Server

    def reply(self, body: dict[str, Any] | bytes, status: int = 200) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def content(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def place(self) -> list[str]:
        kind, owner, *name = unquote(urlsplit(self.path).path).removeprefix("/kept/").split("/", 2)
        return [kind, owner, "".join(name)]

    def do_POST(self) -> None:
        content, path = self.content(), urlsplit(self.path).path
        with self.served.lock:
            if path == "/graphql":
                sent = json.loads(content)
                operation = re.search(r"(?:query|mutation)\s+(\w+)", sent["query"])[1]  # not all give `operationName`
                self.reply(self.served.answer(operation, sent.get("variables") or {}))
            elif path.endswith("/file_stream"):
                self.served.stream(self.served.runs[path.split("/")[-2]], json.loads(content))
                self.reply({})
            elif path.startswith("/sdk/otel/"):  # how wandb itself fares
                self.reply({})
            else:
                self.served.unanswered.append(f"POST {path}")
                self.reply({}, 404)

    def do_PUT(self) -> None:
        content = self.content()
        with self.served.lock:
            self.served.keep(*self.place(), content)
        self.reply({})

    def do_GET(self) -> None:
        with self.served.lock:
            content = self.served.give(*self.place())
        self.reply(content)

    def log_message(self, *args: object) -> None:
        pass


class Listener(ThreadingHTTPServer):
    """Lets clients go: wandb drops the connections that it kept open."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def serve() -> Iterator[Server]:
    """Serve on a free port of this machine; yields what is sent there."""
    handler = type("ServedHandler", (Handler,), {})
    listener = Listener(("127.0.0.1", 0), handler)
    served = handler.served = Server(f"http://127.0.0.1:{listener.server_port}")
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()


def sync(served: Server, *folders: Path) -> str:
    """Run ``wandb sync`` on folders as a user does, but for where to; returns what it printed.

    Raises:
        AssertionError: if it fails, wants what the server has not, or ends as if well after an error or without all
            files of an artifact.
    """
    printed = run_python(served, "-m", "wandb", "sync", *(str(folder.absolute()) for folder in folders))
    assert "ERROR" not in printed, printed
    return printed


def run_python(served: Server, *arguments: str) -> str:
    """Run Python in an empty folder as a user who is logged in at the server; returns what it printed.

    Raises:
        AssertionError: if it fails, wants what the server has not, or ends as if well without all files of an artifact.
    """
    with tempfile.TemporaryDirectory() as folder:
        own = {"WANDB_BASE_URL": served.url, "WANDB_API_KEY": "0" * 40, "WANDB_MODE": "online", "NO_PROXY": "127.0.0.1"}
        own |= dict.fromkeys(("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"), folder)
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        command = [sys.executable, *arguments]
        ended = subprocess.run(command, cwd=folder, env={**os.environ, **own}, timeout=60, **pipes)
    assert ended.returncode == 0, ended.stdout
    assert not served.unanswered, served.unanswered
    pending = [artifact.id for artifact in served.artifacts.values() if artifact.state == "PENDING"]
    assert not pending, f"not all files of {pending} were there to be sent:\n{ended.stdout}"
    return ended.stdout
