"""Read what W&B keeps of offline runs back from their folders, as `wandb sync` would send it.

A ``.wandb`` file is a log in LevelDB's format (https://github.com/google/leveldb/blob/main/doc/log_format.md) of wandb's
``Record`` messages. W&B starts it with a header of its own and takes the plain CRC-32 where LevelDB masks CRC-32C.
"""

import gzip
import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import ArtifactManifest, ArtifactRecord, Record

FILE_HEADER = b":W&B\xe1\xbe\x00"
BLOCK = 32 * 1024
CHUNK_HEADER = struct.Struct("<IHB")  # checksum, length, type
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
EXPECTED = {None: (FULL, FIRST), FIRST: (MIDDLE, LAST), MIDDLE: (MIDDLE, LAST)}


@dataclass(frozen=True)
class OfflineArtifact:
    """An artifact that a run logged, or used.

    Attributes:
        manifest: What it holds: ``digest``, ``size`` and ``ref`` (of a reference) or ``local_path`` (of a file) by path.
        used: It is an input of the run, not an output.
    """

    name: str
    type: str
    digest: str
    description: str
    metadata: dict[str, Any]
    aliases: list[str]
    tags: list[str]
    manifest: dict[str, dict[str, Any]]
    used: bool


@dataclass
class OfflineRun:
    """What W&B keeps of a run, of all its folders if it was continued.

    Attributes:
        folders: The run's folders, the earliest first.
        config: The last value of each setting; dictionaries are merged, as W&B does.
        history: One dictionary for each step, with W&B's own ``_step``, ``_runtime`` and ``_timestamp``.
        summary: The last value of each metric.
        files: The files that belong to the run, by their names in W&B; whether they exist is for the caller to check.
        exit_code: What the last of the folders was finished with; None if it was not finished.
    """

    id: str
    project: str = ""
    entity: str = ""
    group: str = ""
    name: str = ""
    job_type: str = ""
    tags: list[str] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    artifacts: list[OfflineArtifact] = field(default_factory=list)
    exit_code: int | None = None

    def replay(self, record: Record) -> None:
        """Add what a record of the last folder says."""
        kind = record.WhichOneof("record_type")
        match kind:
            case "run":
                run = record.run
                self.project, self.entity, self.group = run.project, run.entity, run.run_group
                self.name, self.job_type, self.tags = run.display_name, run.job_type, list(run.tags)
                update(self.config, run.config)
            case "config":
                update(self.config, record.config)
            case "history":
                row: dict[str, Any] = {}
                for item in record.history.item:
                    put(row, keys(item), json.loads(item.value_json))
                self.history.append(row)
                self.add_media(row)
            case "summary":
                update(self.summary, record.summary)
                for item in record.summary.update:
                    self.add_media(json.loads(item.value_json))
            case "files":
                for item in record.files.files:
                    self.add_files(item.path)
            case "artifact":
                self.artifacts.append(artifact(record.artifact))
            case "exit":
                self.exit_code = record.exit.exit_code

    def add_files(self, pattern: str) -> None:
        """Add the files of the last folder that a name or a pattern is of."""
        folder = self.folders[-1] / "files"
        matching = [path.relative_to(folder).as_posix() for path in folder.glob(pattern) if path.is_file()]
        for name in matching or [pattern]:
            self.files[name] = folder / name

    def add_media(self, value: Any) -> None:
        """Add the files that a logged value refers to."""
        if isinstance(value, list):
            for element in value:
                self.add_media(element)
        elif isinstance(value, dict):
            if "_type" in value and isinstance(value.get("path"), str):
                self.add_files(value["path"])
            for element in value.values():
                self.add_media(element)


def read_runs(folder: Path) -> dict[str, OfflineRun]:
    """Read all offline runs anywhere below a folder, by id; a run that was continued has what all its folders have.

    Raises:
        ValueError: For a file that is no log of W&B's, is damaged or ends in the middle of a record.
    """
    logs = [(path, list(read_records(path))) for path in Path(folder).rglob("offline-run-*/run-*.wandb")]
    runs: dict[str, OfflineRun] = {}
    for path, records in sorted(logs, key=lambda log: started(*log)):
        first = next(record.run for record in records if record.WhichOneof("record_type") == "run")
        run = runs.setdefault(first.run_id, OfflineRun(first.run_id))
        run.folders.append(path.parent)
        run.exit_code = None
        for record in records:
            run.replay(record)
    return runs


def started(path: Path, records: list[Record]) -> tuple[int, int]:
    """Find when the run of a log was started, in seconds and nanoseconds."""
    for record in records:
        if record.WhichOneof("record_type") == "run":
            return record.run.start_time.seconds, record.run.start_time.nanos
    raise ValueError(f"{path} says of no run that it was started")


def read_records(path: Path) -> Iterator[Record]:
    """Read the records of a ``.wandb`` file.

    Raises:
        ValueError: For a file that is no log of W&B's, is damaged or ends in the middle of a record.
    """
    content = Path(path).read_bytes()
    if not content.startswith(FILE_HEADER):
        raise ValueError(f"{path} is no log of W&B's: it starts with {content[: len(FILE_HEADER)]!r}")
    place, previous, payload = len(FILE_HEADER), None, b""
    while place < len(content):
        left = BLOCK - place % BLOCK
        if left < CHUNK_HEADER.size:
            place += left  # a block's last bytes hold zeros where no header fits
            continue
        start, end = place + CHUNK_HEADER.size, place + CHUNK_HEADER.size
        if start <= len(content):
            checksum, length, kind = CHUNK_HEADER.unpack(content[place:start])
            end = start + length
        if end > len(content) or start > len(content):
            raise ValueError(f"{path} ends in the middle of the record at byte {place}")
        if zlib.crc32(content[start - 1 : end]) != checksum:
            raise ValueError(f"{path} is damaged: the checksum of the record at byte {place} is wrong")
        if kind not in EXPECTED[previous]:
            raise ValueError(f"{path} is damaged: the record at byte {place} has a part of type {kind} out of order")
        payload += content[start:end]
        previous, place = kind, end
        if kind in (FULL, LAST):
            yield Record.FromString(payload)
            previous, payload = None, b""
    if previous is not None:
        raise ValueError(f"{path} ends in the middle of a record")


def read_table(file: Path) -> list[dict[str, Any]]:
    """Read the rows of a logged ``wandb.Table``, by column; media are their dictionaries in W&B."""
    table = json.loads(Path(file).read_text(encoding="utf-8"))
    return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]


def update(tree: dict[str, Any], record: Any) -> None:
    """Apply a record of a config or of a summary."""
    for item in record.update:
        put(tree, keys(item), json.loads(item.value_json))
    for item in record.remove:
        *parents, last = keys(item)
        branch = tree
        for key in parents:
            branch = branch.get(key, {})
        branch.pop(last, None)


def keys(item: Any) -> list[str]:
    """Name the keys to an item's value, the outermost first."""
    return list(item.nested_key) or [item.key]


def put(tree: dict[str, Any], path: list[str], value: Any) -> None:
    """Put a value in its place in nested dictionaries; a dictionary is merged with what is there."""
    if isinstance(value, dict):
        for key, element in value.items():
            put(tree, [*path, key], element)
        return
    *parents, last = path
    for key in parents:
        if not isinstance(tree.get(key), dict):
            tree[key] = {}
        tree = tree[key]
    tree[last] = value


def artifact(record: ArtifactRecord) -> OfflineArtifact:
    """Make an artifact of its record."""
    return OfflineArtifact(
        name=record.name,
        type=record.type,
        digest=record.digest,
        description=record.description,
        metadata=json.loads(record.metadata or "{}"),
        aliases=list(record.aliases),
        tags=list(record.tags),
        manifest=manifest(record.manifest),
        used=record.use_after_commit,
    )


def manifest(record: ArtifactManifest) -> dict[str, dict[str, Any]]:
    """List what an artifact holds, by path; W&B keeps a long list in a file of its own."""
    if record.manifest_file_path:
        lines = gzip.decompress(Path(record.manifest_file_path).read_bytes()).splitlines()
        return {entry.pop("path"): entry for entry in map(json.loads, lines)}
    names = ("digest", "size", "ref", "local_path")
    return {
        entry.path: {name: getattr(entry, name) for name in names if getattr(entry, name)} for entry in record.contents
    }
