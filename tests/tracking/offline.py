"""Read what W&B keeps of offline runs back from their folders, as it is there after ``wandb sync``.

A ``.wandb`` file is a log of wandb's ``Record`` messages in LevelDB's format, which is described in
https://github.com/google/leveldb/blob/main/doc/log_format.md. W&B puts a header of its own before it and takes the
plain CRC-32, where LevelDB masks CRC-32C.
"""

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import ArtifactRecord, HistoryRecord, Record, RunRecord

FILE_HEADER = b":W&B\xe1\xbe\x00"
BLOCK = 32 * 1024
CHUNK_HEADER = struct.Struct("<IHB")  # checksum of type and payload, length of the payload, type
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
FOLLOWERS = {None: (FULL, FIRST), FIRST: (MIDDLE, LAST), MIDDLE: (MIDDLE, LAST)}


@dataclass(frozen=True)
class OfflineArtifact:
    """An artifact that a run logged or used.

    Attributes:
        digest: checksum of the manifest; artifacts of the same name and digest are one version.
        manifest: what it holds, by path: ``digest``, ``size``, and ``local_path`` of a file or ``ref`` of a reference.
        used: the run was made from it, and did not make it.
        has_maker: W&B is told which run made it.
    """

    name: str
    type: str
    digest: str
    metadata: dict[str, Any]
    aliases: list[str]
    manifest: dict[str, dict[str, Any]]
    used: bool
    has_maker: bool
    client_id: str


@dataclass
class OfflineRun:
    """What W&B has of a run after its folders are synced: one, or several if the run was continued.

    Attributes:
        folders: the run's folders, in order.
        resumed: whether each of them goes on with what the one before left.
        config: the settings, without what wandb says of itself; dictionaries within a folder are merged.
        history: a dictionary for each step, with W&B's ``_step``, ``_runtime`` and ``_timestamp``.
        summary: the last value of each metric of the last folder: W&B forgets those of the folders before.
        files: the files of the run, by their names in W&B; they should be there.
        exit_code: what the last folder was finished with; None if it was not finished.
    """

    id: str
    project: str = ""
    entity: str = ""
    group: str = ""
    name: str = ""
    job_type: str = ""
    tags: list[str] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    resumed: list[bool] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    artifacts: list[OfflineArtifact] = field(default_factory=list)
    exit_code: int | None = None

    def table(self, key: str) -> list[dict[str, Any]]:
        """Read the rows of the table that was last logged under a key, by column.

        A sound or a picture is W&B's dictionary of it, with ``file`` for where it is.
        """
        logged = next(row[key] for row in reversed(self.history) if key in row)
        client_id, name = logged["artifact_path"].removeprefix("wandb-client-artifact://").split("/", 1)
        manifest = next(artifact.manifest for artifact in self.artifacts if artifact.client_id == client_id)
        table = json.loads(Path(manifest[name]["local_path"]).read_text(encoding="utf-8"))
        for cell in (cell for row in table["data"] for cell in row if isinstance(cell, dict) and "path" in cell):
            cell["file"] = Path(manifest[cell["path"]]["local_path"])
        return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]

    def replay(self, folder: Path, records: list[Record]) -> None:
        """Go through the records of the run's next folder."""
        self.folders.append(folder)
        self.summary, self.exit_code = {}, None
        next_step = self.history[-1]["_step"] + 1 if self.history else 0
        for record in records:
            match record.WhichOneof("record_type"):
                case "run" if len(self.resumed) < len(self.folders):
                    self._start(record.run)
                case "run":
                    self._describe(record.run)
                case "config":
                    _change(self.config, record.config)
                case "history":
                    row = self._row(record.history)
                    if self.resumed[-1]:
                        row["_step"] = next_step = max(row["_step"], next_step)
                        next_step += 1
                    self.history.append(row)
                case "summary":
                    _change(self.summary, record.summary)
                case "files":
                    self.files |= {file.path: folder / "files" / file.path for file in record.files.files}
                case "artifact":
                    self.artifacts.append(_artifact(record.artifact))
                case "exit":
                    self.exit_code = record.exit.exit_code
        self.config.pop("_wandb", None)

    def _start(self, run: RunRecord) -> None:
        """Begin the run, or go on with it: settings that are given again replace those that were, as a whole."""
        self.resumed.append(run.resume)
        self._describe(run)
        config: dict[str, Any] = {}
        _change(config, run.config)
        self.config = self.config | config if run.resume else config

    def _describe(self, run: RunRecord) -> None:
        """Take what a run says of itself; what it says nothing of stays as it was."""
        names = {"project": "project", "entity": "entity", "group": "run_group", "name": "display_name"}
        for ours, theirs in {**names, "job_type": "job_type"}.items():
            setattr(self, ours, getattr(run, theirs) or getattr(self, ours))
        self.tags = list(run.tags) or self.tags

    def _row(self, record: HistoryRecord) -> dict[str, Any]:
        row: dict[str, Any] = {}
        for item in record.item:
            _put(row, list(item.nested_key), json.loads(item.value_json))
        return row


def read_runs(folder: Path) -> dict[str, OfflineRun]:
    """Read all offline runs anywhere below a folder, by id.

    Raises:
        ValueError: for a file that is no log of W&B's, is damaged or ends within a record.
    """
    logs = []
    for path in Path(folder).rglob("offline-run-*/run-*.wandb"):
        records = list(read_records(path))
        run = next(record.run for record in records if record.WhichOneof("record_type") == "run")
        logs.append((run.start_time.ToNanoseconds(), path.parent, run.run_id, records))
    runs: dict[str, OfflineRun] = {}
    for _, parent, id_, records in sorted(logs, key=lambda log: log[0]):
        runs.setdefault(id_, OfflineRun(id_)).replay(parent, records)
    return runs


def read_records(path: Path) -> Iterator[Record]:
    """Read the records of a ``.wandb`` file.

    Raises:
        ValueError: for a file that is no log of W&B's, is damaged or ends within a record.
    """
    content = Path(path).read_bytes()
    if not content.startswith(FILE_HEADER):
        raise ValueError(f"{path} is no log of W&B's: it starts with {content[: len(FILE_HEADER)]!r}")
    place, previous, payload = len(FILE_HEADER), None, b""
    while place < len(content):
        if BLOCK - place % BLOCK < CHUNK_HEADER.size:
            place += BLOCK - place % BLOCK  # zeros, where a header has no room
            continue
        start = end = place + CHUNK_HEADER.size
        if start <= len(content):
            checksum, length, kind = CHUNK_HEADER.unpack(content[place:start])
            end = start + length
        if end > len(content):
            raise ValueError(f"{path} ends within the record at byte {place}")
        if zlib.crc32(content[start - 1 : end]) != checksum or kind not in FOLLOWERS[previous]:
            raise ValueError(f"{path} is damaged at byte {place}")
        payload += content[start:end]
        place, previous = end, kind
        if kind in (FULL, LAST):
            yield Record.FromString(payload)
            previous, payload = None, b""
    if previous is not None:
        raise ValueError(f"{path} ends within the record before byte {place}")


def _change(tree: dict[str, Any], record: Any) -> None:
    """Apply a record of a config or of a summary."""
    for item in record.update:
        _put(tree, list(item.nested_key) or [item.key], json.loads(item.value_json))
    for item in record.remove:
        *parents, last = list(item.nested_key) or [item.key]
        branch = tree
        for key in parents:
            branch = branch.get(key, {})
        branch.pop(last, None)


def _put(tree: dict[str, Any], path: list[str], value: Any) -> None:
    """Put a value into nested dictionaries; one that is a dictionary is merged with what is there."""
    if isinstance(value, dict):
        for key, element in value.items():
            _put(tree, [*path, key], element)
        return
    *parents, last = path
    for key in parents:
        if not isinstance(tree.get(key), dict):
            tree[key] = {}
        tree = tree[key]
    tree[last] = value


def _artifact(record: ArtifactRecord) -> OfflineArtifact:
    names = ("digest", "size", "local_path", "ref")
    return OfflineArtifact(
        name=record.name,
        type=record.type,
        digest=record.digest,
        metadata=json.loads(record.metadata or "{}"),
        aliases=list(record.aliases),
        manifest={
            entry.path: {name: getattr(entry, name) for name in names if getattr(entry, name)}
            for entry in record.manifest.contents
        },
        used=record.use_after_commit,
        has_maker=not record.user_created,
        client_id=record.client_id,
    )
