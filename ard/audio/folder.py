"""A folder of the user's own sounds as a source of clips."""

import copy
import hashlib
import os
import stat
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import xxhash

from ard.audio.decoding import decode, timed_pieces
from ard.audio.events import NAMES_FILE, TEXTGRID, between, read_events
from ard.audio.labels import Annotation, held_out, read_labels
from ard.audio.paths import files_under, id_of, printable
from ard.console import Progress
from ard.files import LOCK
from ard.types import Clip, Event, Failure, UserError


class _Listing(NamedTuple):
    """What lies under a folder: its sounds, folders that could not be read, and those that this package wrote."""

    sounds: list[Path]
    errors: list[OSError]
    written: list[Path]


class FolderClips:
    """Iterate over the sounds under a folder, at any depth, in the order of their names; content tells the format.

    A clip's id is its path below the folder, as :func:`~ard.audio.paths.id_of` writes it: dots are replaced, and bytes
    that are not text are escaped. Linked folders are followed, each real folder once. Files that cannot be used and
    folders that cannot be read come out as a :class:`~ard.types.Failure`: only hidden files are left out silently. A
    folder that a command of this package wrote to is not read. The folder is listed once.

    Args:
        root: the folder, or a single file.
        segment_s: cut files into pieces of at most this many seconds, the window of the model that will hear them.
            Nothing of a long recording is lost, and only one piece is in memory. None leaves files whole.
        labels: a CSV or parquet file with a column ``file`` (a path below the folder, or a name with or without
            suffix), a column ``labels``, and a column ``group`` if some files belong together, such as those of a
            speaker. The pieces of a file have its labels and its group; if it has no group, they are one. How many of
            the table's names fit no file comes out as one failure.
        events: when something is heard in the files, as :func:`~ard.audio.events.read_events` reads it: a table in the
            layout of AudioSet's strong labels or of DESED, or a folder of TextGrids. A piece of a file has its share.
        label_column: the table's column of labels, if it is not ``label`` or ``labels``.
        part: read only the files that are held out (``eval``), or only the others (``probe``); all files of a group are
            on the same side.
        held_out_share: the expected share of the groups, and of files without one, that are held out.
        seed: seed of what is held out.

    Raises:
        UserError: if the folder cannot be read, ``segment_s`` is not above 0, ``held_out_share`` is not between 0 and
            1, or the labels or events cannot be read or do not fit the files.
    """

    def __init__(
        self,
        root: Path,
        segment_s: float | None = None,
        labels: Path | None = None,
        *,
        events: Path | None = None,
        label_column: str | None = None,
        part: Literal["probe", "eval"] | None = None,
        held_out_share: float = 0.3,
        seed: int = 0,
    ) -> None:
        try:
            is_folder = stat.S_ISDIR(root.stat().st_mode)
        except OSError as error:
            reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
            raise UserError(f"audio folder {str(root)!r} {reason}: give a folder of sound files") from error
        if segment_s is not None and not segment_s > 0:
            raise UserError(f"segment_s {segment_s} cuts files into nothing: give a number of seconds above 0")
        if not 0 < held_out_share < 1:
            raise UserError(f"held_out_share {held_out_share} is out of range: give a share between 0 and 1")
        if label_column is not None and labels is None:
            raise UserError(f"label_column {label_column!r} is a column of no table: give the labels, too")
        self.root = root if is_folder else root.parent
        self.segment_s = segment_s
        self.labels = None if labels is None else Path(labels)  # a preset's YAML has a text
        self.events = None if events is None else Path(events)
        self.label_column = label_column
        self.part = part
        self.held_out_share = held_out_share
        self.seed = seed
        self._only = None if is_folder else root
        self._annotations: dict[str, Annotation] = {}
        self._events: dict[str, tuple[Event, ...]] = {}
        self._unfitting: list[Failure] = []
        if self.labels is not None:
            table = read_labels(self.labels, label_column)
            self._annotations, unfitting = table.of(map(self._below, self._listing.sounds))
            self._note_unfitting(self.labels, unfitting, len(table.annotations))
        if self.events is not None:
            timed = read_events(self.events)
            self._events, unfitting = timed.of(map(self._below, self._listing.sounds))
            self._note_unfitting(self.events, unfitting, len(timed.of_names))

    def _note_unfitting(self, path: Path, unfitting: list[str], num_names: int) -> None:
        if unfitting:
            reason = f"{len(unfitting)} of its {num_names} names fit no file; the first: {unfitting[0]!r}"
            self._unfitting.append(Failure(printable(path.name), "audio", reason))

    def __iter__(self) -> Iterator[Clip | Failure]:
        """Read file by file; one file may give several clips. What no file gives comes out with the part ``probe``."""
        if self.part != "eval":
            yield from self._left_out()
        for path, clip_id in self._of_part:
            yield from self._read(path, clip_id)

    def __len__(self) -> int:
        """Count the files of the part; a long one gives several clips."""
        return len(self._of_part)

    def parts(self, held_out_share: float, seed: int) -> "tuple[FolderClips, FolderClips]":
        """Return the files that are not held out, and those that are, without listing the folder again."""
        _ = self._named  # which the copies share
        probe, evaluation = copy.copy(self), copy.copy(self)
        probe.part, evaluation.part = "probe", "eval"
        for one in (probe, evaluation):
            one.held_out_share, one.seed = held_out_share, seed
            one.__dict__.pop("_of_part", None)
        return probe, evaluation

    @cached_property
    def _listing(self) -> _Listing:
        """The files of both parts."""
        if self._only:
            return _Listing([self._only], [], [])
        files, errors = files_under(self.root)
        locked = {path.parent for path in files if path.name == LOCK} - {self.root}
        written = [folder for folder in locked if locked.isdisjoint(folder.parents) and not self._is_hidden(folder)]
        seen = [path for path in files if not self._is_hidden(path) and not self._is_sidecar(path)]
        sounds = [path for path in seen if set(written).isdisjoint(path.parents)] if written else seen
        return _Listing(sounds, errors, sorted(written))

    @cached_property
    def _named(self) -> list[tuple[Path, str]]:
        """The files of both parts, each with its id, which is the same in either part and without parts."""
        taken: set[str] = set()
        return [(path, _unique(id_of(self._below(path)), taken)) for path in self._listing.sounds]

    def fingerprint(self) -> str:
        """Return a hash of the names and contents of all files, of the labels and of the events.

        A copy of the folder elsewhere has the same, and so has either part.
        """
        digest = xxhash.xxh3_64()
        sounds = self._listing.sounds
        with Progress("looking for changes", len(sounds), "files") as progress:
            for path in sounds:
                digest.update(f"{self._below(path)}\0{_content(path)}\0".encode(errors="surrogateescape"))
                progress.advance()
        if self.labels is not None:
            digest.update(f"{_content(self.labels)}\0{self.label_column}\0".encode())
        if self.events is not None:
            digest.update(repr(sorted(self._events.items())).encode(errors="surrogateescape"))
        return digest.hexdigest()

    def _is_hidden(self, path: Path) -> bool:
        return path != self._only and "/." in f"/{self._below(path)}"

    def _is_sidecar(self, path: Path) -> bool:
        """Say whether a file holds the labels or events rather than a sound."""
        if self.events is not None and (path.suffix.lower() == TEXTGRID or path.name == NAMES_FILE):
            return True
        return any(
            table is not None and path.name == table.name and path.samefile(table)
            for table in (self.labels, self.events)
        )

    def _below(self, path: Path) -> str:
        """Return the path below the root; pathlib takes five times as long."""
        return path.as_posix()[self._start :] or "."

    @cached_property
    def _start(self) -> int:
        """Where paths below the root begin: pathlib writes no root that is the current folder."""
        root = self.root.as_posix()
        return 0 if root == "." else len(root) + (not root.endswith("/"))

    def _left_out(self) -> Iterator[Failure]:
        """Return the folders that are not read, and the rows of labels that fit no file."""
        for folder in self._listing.written:
            yield Failure(self._below(folder), "audio", "a folder that `ard` wrote: not read")
        for error in self._listing.errors:
            folder = Path(os.fsdecode(error.filename))
            if not self._is_hidden(folder):
                yield Failure(printable(self._below(folder)), "audio", f"this folder cannot be read ({error.strerror})")
        yield from self._unfitting

    def _annotation(self, path: Path) -> Annotation:
        return self._annotations.get(self._below(path), Annotation())

    @cached_property
    def _of_part(self) -> list[tuple[Path, str]]:
        """The files of the part, each with its id."""
        if self.part is None:
            return self._named
        wanted = self.part == "eval"
        return [
            (path, name)
            for path, name in self._named
            if held_out(self._annotation(path).group or name, self.held_out_share, self.seed) == wanted
        ]

    def _read(self, path: Path, clip_id: str) -> Iterator[Clip | Failure]:
        name = printable(self._below(path))
        labels, group = self._annotation(path)
        events = self._events.get(self._below(path), ())
        dataset = printable(os.path.basename(os.path.abspath(self.root)))
        for start_s, suffix, recording in timed_pieces(path, name, self.segment_s):
            if isinstance(recording, Failure):
                yield recording._replace(reason=f"piece of a longer file: {recording.reason}") if suffix else recording
            else:
                waveform, sample_rate_hz, note = recording
                of_file = clip_id if suffix else None
                yield Clip(
                    clip_id + suffix,
                    waveform,
                    sample_rate_hz,
                    dataset,
                    labels=labels,
                    group=group or of_file,
                    events=between(events, start_s, start_s + len(waveform) / sample_rate_hz),
                    note=note,
                )


def read_clip(path: Path) -> Clip:
    """Read a whole sound file as one clip.

    Raises:
        UserError: if it cannot be used; the message gives the reason.
    """
    recording = decode(path, path.name)
    if isinstance(recording, Failure):
        raise UserError(f"audio file {str(path)!r} cannot be used ({recording.reason}): give another one")
    waveform, sample_rate_hz, note = recording
    return Clip(printable(path.name), waveform, sample_rate_hz, printable(path.parent.name), note=note)


def _content(path: Path) -> str:
    """Return a hash of a file's content; an empty string if it cannot be read."""
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            return hashlib.file_digest(file, xxhash.xxh3_64).hexdigest()
    except OSError:
        return ""


def _unique(name: str, taken: set[str]) -> str:
    """Return the name, with a number if it is taken, and add it to those taken."""
    unique, number = name, 2
    while unique in taken:
        unique, number = f"{name}-{number}", number + 1
    taken.add(unique)
    return unique
