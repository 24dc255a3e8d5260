"""A folder of the user's own sounds as a source of clips."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ard.audio.decoding import decode, unusable
from ard.types import Clip, Failure, UserError

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")


class FolderClips:
    """Iterate over the sounds under a folder, at any depth, in the order of their names.

    A clip's id is its path below the folder, with dots replaced (a dot would end a WebDataset key). What cannot be
    used comes out as a :class:`~ard.types.Failure` in its place: no file is left out silently.

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
        taken: set[str] = set()
        for path in sorted(self.root.rglob("*")):
            name = path.relative_to(self.root).as_posix()
            if path.is_dir() or any(part.startswith(".") for part in path.relative_to(self.root).parts):
                continue
            clip_id = _unique(name.replace(".", "_"), taken)
            yield from self._read(path, name, clip_id)

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
