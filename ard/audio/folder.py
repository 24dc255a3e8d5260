"""A folder of the user's own sounds as a source of clips."""

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import xxhash

from ard.audio.decoding import decode, decode_pieces
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

    Raises:
        UserError: if the folder cannot be read, or ``segment_s`` is not above 0.
    """

    def __init__(self, root: Path, segment_s: float | None = None) -> None:
        try:
            is_folder = stat.S_ISDIR(root.stat().st_mode)
        except OSError as error:
            reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
            raise UserError(f"audio folder {str(root)!r} {reason}: give a folder of sound files") from error
        if segment_s is not None and not segment_s > 0:
            raise UserError(f"segment_s {segment_s} cuts files into nothing: give a number of seconds above 0")
        self.root = root if is_folder else root.parent
        self.segment_s = segment_s
        self._only = None if is_folder else root

    def __iter__(self) -> Iterator[Clip | Failure]:
        """Read file by file; one file may give several clips."""
        for folder in self.written():
            yield Failure(folder.relative_to(self.root).as_posix(), "audio", "a folder that `ard` wrote: not read")
        taken: set[str] = set()
        files, errors = self.files()
        for error in errors:
            folder = Path(os.fsdecode(error.filename))
            if not self._is_hidden(folder):
                name = printable(folder.relative_to(self.root).as_posix())
                yield Failure(name, "audio", f"this folder cannot be read ({error.strerror})")
        for path in files:
            yield from self._read(path, taken)

    def __len__(self) -> int:
        """Count the files; a long one gives several clips."""
        return len(self.files()[0])

    def files(self) -> tuple[list[Path], list[OSError]]:
        """Return the files to read, and the errors of folders that could not be read."""
        if self._only:
            return [self._only], []
        files, errors = files_under(self.root)
        written = set(self.written())
        return [path for path in files if not self._is_hidden(path) and written.isdisjoint(path.parents)], errors

    def written(self) -> list[Path]:
        """Return the outermost folders below the root that a command of this package wrote to."""
        if self._only:
            return []
        locked = {path.parent for path in files_under(self.root)[0] if path.name == LOCK} - {self.root}
        return sorted(folder for folder in locked if locked.isdisjoint(folder.parents) and not self._is_hidden(folder))

    def fingerprint(self) -> str:
        """Return a hash of the names and contents of the files; a copy of the folder elsewhere has the same."""
        digest = xxhash.xxh3_64()
        for path in self.files()[0]:
            name = path.relative_to(self.root).as_posix()
            digest.update(f"{name}\0{_content(path)}\0".encode(errors="surrogateescape"))
        return digest.hexdigest()

    def _is_hidden(self, path: Path) -> bool:
        return path != self._only and any(part.startswith(".") for part in path.relative_to(self.root).parts)

    def _read(self, path: Path, taken: set[str]) -> Iterator[Clip | Failure]:
        below = path.relative_to(self.root).as_posix()
        name, clip_id = printable(below), _unique(id_of(below), taken)
        dataset = printable(os.path.basename(os.path.abspath(self.root)))
        for suffix, recording in decode_pieces(path, name, self.segment_s):
            if isinstance(recording, Failure):
                yield recording._replace(reason=f"piece of a longer file: {recording.reason}") if suffix else recording
            else:
                waveform, sample_rate_hz, note = recording
                yield Clip(clip_id + suffix, waveform, sample_rate_hz, dataset, note=note)


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
