"""A folder of the user's own sounds as a source of clips."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import xxhash

from ard.audio.decoding import decode, unusable
from ard.files import LOCK
from ard.types import Clip, Failure, UserError

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")


class FolderClips:
    """Iterate over the sounds under a folder, at any depth, in the order of their names.

    A clip's id is its path below the folder, with dots replaced (a dot would end a WebDataset key). What cannot be
    used comes out as a :class:`~ard.types.Failure` in its place: no file is left out silently. Hidden files are not
    read, nor what a command of this package wrote below the folder.

    Args:
        root: the folder.
        segment_s: cut files into pieces of at most this many seconds, the window of the model that will hear them, so
            that nothing of a long recording is lost; None leaves files whole.

    Raises:
        UserError: if there is no such folder.
    """

    def __init__(self, root: Path, segment_s: float | None = None) -> None:
        if not root.is_dir():
            raise UserError(f"audio folder {str(root)!r} does not exist: give a folder of wav, flac, ogg or mp3 files")
        self.root = root
        self.segment_s = segment_s

    def __iter__(self) -> Iterator[Clip | Failure]:
        """Read file by file; one file may give several clips."""
        for folder in self.written():
            yield Failure(folder.relative_to(self.root).as_posix(), "audio", "a folder that `ard` wrote: not read")
        taken: set[str] = set()
        for path in self.files():
            name = path.relative_to(self.root).as_posix()
            clip_id = _unique(name.replace(".", "_"), taken)
            yield from self._read(path, name, clip_id)

    def files(self) -> list[Path]:
        """Return the files that are read."""
        written = set(self.written())
        return [
            path
            for path in sorted(self.root.rglob("*"))
            if not path.is_dir() and not self._is_hidden(path) and written.isdisjoint(path.parents)
        ]

    def written(self) -> list[Path]:
        """Return the outermost folders below that a command of this package has written to."""
        locked = {lock.parent for lock in self.root.rglob(LOCK)} - {self.root}
        return sorted(folder for folder in locked if locked.isdisjoint(folder.parents) and not self._is_hidden(folder))

    def _is_hidden(self, path: Path) -> bool:
        return any(part.startswith(".") for part in path.relative_to(self.root).parts)

    def fingerprint(self) -> str:
        """Return a hash of the names and contents of the files: the same for a copy of the folder, wherever it lies."""
        digest = xxhash.xxh3_64()
        for path in self.files():
            name = path.relative_to(self.root).as_posix()
            digest.update(f"{name}\0{_content(path)}\0".encode(errors="surrogateescape"))
        return digest.hexdigest()

    def _read(self, path: Path, name: str, clip_id: str) -> Iterator[Clip | Failure]:
        if path.suffix.lower() not in SUFFIXES:
            yield Failure(name, "audio", f"not a {', '.join(s[1:] for s in SUFFIXES)} file")
            return
        recording = decode(path, name)
        if isinstance(recording, Failure):
            yield recording
            return
        waveform, sample_rate_hz = recording
        pieces = [waveform] if self.segment_s is None else _cut(waveform, round(self.segment_s * sample_rate_hz))
        for index, piece in enumerate(pieces):
            piece_id = clip_id if len(pieces) == 1 else f"{clip_id}#{index:04d}"
            reason = unusable(piece, sample_rate_hz)
            if reason:
                yield Failure(f"{name}#{index:04d}", "audio", f"piece of a longer file: {reason}")
            else:
                yield Clip(piece_id, piece, sample_rate_hz, dataset=self.root.name)


def read_clip(path: Path) -> Clip:
    """Read one file of sound as a clip, whole.

    Raises:
        UserError: if it cannot be used, with the reason.
    """
    recording = decode(path, path.name)
    if isinstance(recording, Failure):
        raise UserError(f"audio file {str(path)!r} cannot be used ({recording.reason}): give wav, flac, ogg or mp3")
    return Clip(path.name, *recording, dataset=path.parent.name)


def _content(path: Path) -> str:
    """Return a hash of a file's content; of what cannot be read there is none."""
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            return hashlib.file_digest(file, xxhash.xxh3_64).hexdigest()
    except OSError:
        return ""


def _cut(waveform: np.ndarray, samples: int) -> list[np.ndarray]:
    """Cut into equal pieces of at most that many samples, so that no sliver is left at the end."""
    return np.array_split(waveform, max(1, -(-len(waveform) // samples)))


def _unique(name: str, taken: set[str]) -> str:
    """Return the name, numbered if it was taken before, and take it."""
    unique, number = name, 2
    while unique in taken:
        unique, number = f"{name}-{number}", number + 1
    taken.add(unique)
    return unique
