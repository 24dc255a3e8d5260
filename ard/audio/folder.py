"""A folder of the user's own sounds as a source of clips."""

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import xxhash

from ard.audio.decoding import decode, decode_pieces
from ard.audio.labels import Annotation, held_out, read_labels
from ard.audio.paths import files_under, id_of, printable
from ard.files import LOCK
from ard.types import Clip, Failure, UserError


class FolderClips:
    """Iterate over the sounds under a folder, at any depth, in the order of their names; content tells the format.

    A clip's id is its path below the folder, as :func:`~ard.audio.paths.id_of` writes it: dots are replaced, and bytes
    that are not text are escaped. Linked folders are followed, each real folder once. Files that cannot be used and
    folders that cannot be read come out as a :class:`~ard.types.Failure`: only hidden files are left out silently. A
    folder that a command of this package wrote to is not read.

    Args:
        root: the folder, or a single file.
        segment_s: cut files into pieces of at most this many seconds, the window of the model that will hear them.
            Nothing of a long recording is lost, and only one piece is in memory. None leaves files whole.
        labels: a CSV or parquet file with a column ``file`` (a path below the folder, or a name with or without
            suffix), a column ``labels``, and a column ``group`` if some files belong together, such as those of a
            speaker. The pieces of a file have its labels and its group; if it has no group, they are one. How many of
            the table's names fit no file comes out as one failure.
        label_column: the table's column of labels, if it is not ``label`` or ``labels``.
        part: read only the files that are held out (``eval``), or only the others (``probe``); all files of a group are
            on the same side.
        held_out_share: the expected share of the groups, and of files without one, that are held out.
        seed: seed of what is held out.

    Raises:
        UserError: if the folder cannot be read, ``segment_s`` is not above 0, ``held_out_share`` is not between 0 and
            1, or the labels cannot be read or do not fit the files.
    """

    def __init__(
        self,
        root: Path,
        segment_s: float | None = None,
        labels: Path | None = None,
        *,
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
        self.label_column = label_column
        self.part = part
        self.held_out_share = held_out_share
        self.seed = seed
        self._only = None if is_folder else root
        self._annotations: dict[str, Annotation] = {}
        self._unfitting: Failure | None = None
        if self.labels is not None:
            table = read_labels(self.labels, label_column)
            self._annotations, unfitting = table.of(map(self._below, self.files()[0]))
            if unfitting:
                reason = (
                    f"{len(unfitting)} of its {len(table.annotations)} names fit no file; the first: {unfitting[0]!r}"
                )
                self._unfitting = Failure(printable(self.labels.name), "audio", reason)

    def __iter__(self) -> Iterator[Clip | Failure]:
        """Read file by file; one file may give several clips. What no file gives comes out with the part ``probe``."""
        files, errors = self.files()
        if self.part != "eval":
            yield from self._left_out(errors)
        for path, clip_id in self._of_part(files):
            yield from self._read(path, clip_id)

    def __len__(self) -> int:
        """Count the files of the part; a long one gives several clips."""
        return len(self._of_part(self.files()[0]))

    def files(self) -> tuple[list[Path], list[OSError]]:
        """Return the files of both parts, and the errors of folders that could not be read."""
        if self._only:
            return [self._only], []
        files, errors = files_under(self.root)
        written = set(self.written())
        sounds = [path for path in files if not self._is_hidden(path) and written.isdisjoint(path.parents)]
        return [path for path in sounds if not self._is_table(path)], errors

    def written(self) -> list[Path]:
        """Return the outermost folders below the root that a command of this package wrote to."""
        if self._only:
            return []
        locked = {path.parent for path in files_under(self.root)[0] if path.name == LOCK} - {self.root}
        return sorted(folder for folder in locked if locked.isdisjoint(folder.parents) and not self._is_hidden(folder))

    def fingerprint(self) -> str:
        """Return a hash of the names and contents of all files and of the labels.

        A copy of the folder elsewhere has the same, and so has either part.
        """
        digest = xxhash.xxh3_64()
        for path in self.files()[0]:
            digest.update(f"{self._below(path)}\0{_content(path)}\0".encode(errors="surrogateescape"))
        if self.labels is not None:
            digest.update(f"{_content(self.labels)}\0{self.label_column}\0".encode())
        return digest.hexdigest()

    def _is_hidden(self, path: Path) -> bool:
        return path != self._only and any(part.startswith(".") for part in path.relative_to(self.root).parts)

    def _is_table(self, path: Path) -> bool:
        return self.labels is not None and path.name == self.labels.name and path.samefile(self.labels)

    def _below(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _left_out(self, errors: list[OSError]) -> Iterator[Failure]:
        """Return the folders that are not read, and the rows of labels that fit no file."""
        for folder in self.written():
            yield Failure(self._below(folder), "audio", "a folder that `ard` wrote: not read")
        for error in errors:
            folder = Path(os.fsdecode(error.filename))
            if not self._is_hidden(folder):
                yield Failure(printable(self._below(folder)), "audio", f"this folder cannot be read ({error.strerror})")
        if self._unfitting:
            yield self._unfitting

    def _annotation(self, path: Path) -> Annotation:
        return self._annotations.get(self._below(path), Annotation())

    def _of_part(self, files: list[Path]) -> list[tuple[Path, str]]:
        """Return the files of the part, each with its id, which is the same in either part and without parts."""
        taken: set[str] = set()
        named = [(path, _unique(id_of(self._below(path)), taken)) for path in files]
        if self.part is None:
            return named
        drawn = (held_out(self._annotation(path).group or name, self.held_out_share, self.seed) for path, name in named)
        return [one for one, is_held_out in zip(named, drawn, strict=True) if is_held_out == (self.part == "eval")]

    def _read(self, path: Path, clip_id: str) -> Iterator[Clip | Failure]:
        name = printable(self._below(path))
        labels, group = self._annotation(path)
        dataset = printable(os.path.basename(os.path.abspath(self.root)))
        for suffix, recording in decode_pieces(path, name, self.segment_s):
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
