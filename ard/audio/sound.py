"""Sound files read to their true end, in blocks, without relying on the length in the header.

libsndfile stops where the header says that the sound ends. It guesses the length of an MP3 without such a header from
the first frames. FLAC from a pipe states no length, and a killed recorder leaves a WAV file that states no samples.
"""

import io
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import soundfile
from jaxtyping import Float

BLOCK_SAMPLES = 2**12
"""Samples read at a time, over all channels. Where a file is damaged, a block of them is lost."""

TOLERANCE_S = 0.05  # two frames of MP3: decoders count their delays differently
UNKNOWN = 2**62  # frames or more: libsndfile does not know the length
WAV_UNKNOWN = 0x7FFF0000  # bytes or more: written to a pipe in place of the length
MOST_PADDING = 2**16  # bytes of anything that may follow the last chunk of a WAV file
MOST_UNREAD = 2**11  # bytes that may be left at the end of an MP3: less than two frames
DATA = ("MAT4", "MAT5", "HTK")  # formats that libsndfile reads and that mostly hold something other than sound
NO_END = 2**40  # bytes added to the size that an MP3 shows, so that its length is not guessed from it


class _Part(io.RawIOBase):
    """A part of a file as a file of its own, with some bytes replaced; it may show a greater length than it has.

    libsndfile would swallow an exception and take it for the end, so it is kept and raised by :meth:`raise_error`.
    """

    def __init__(
        self, file: io.BufferedIOBase, start: int, end: int, patches: Mapping[int, bytes] | None = None, extra: int = 0
    ) -> None:
        self._file, self._start, self._end = file, start, end
        self._patches, self._extra = patches or {}, extra
        self._position = 0
        self._error: OSError | None = None

    @property
    def place(self) -> int:
        """The position in the whole file."""
        return self._start + self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        size = self._end - self._start + (self._extra if offset == 0 else 0)
        self._position = offset + (0, self._position, size)[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        place, view = self.place, memoryview(buffer)
        try:
            self._file.seek(place)
            num_bytes = self._file.readinto(view[: max(0, self._end - place)])
        except OSError as error:
            self._error = error
            return 0
        for offset, patch in self._patches.items():
            for index, byte in enumerate(patch, offset - place):
                if 0 <= index < num_bytes:
                    view[index : index + 1] = bytes([byte])
        self._position += num_bytes
        return num_bytes

    def raise_error(self) -> None:
        if self._error:
            raise self._error


class _Stream(soundfile.SoundFile):
    """A sound file that is only read forwards, so that soundfile neither stops at the header's length nor seeks."""

    def seekable(self) -> bool:
        return False

    def mono(self) -> Iterator[Float[np.ndarray, " samples"]]:
        """Read to the end, in blocks, with the channels mixed down to one."""
        buffer = np.empty((max(1, BLOCK_SAMPLES // self.channels), self.channels), np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            while len(block := self.read(out=buffer)):
                yield block.mean(axis=1)


class _Length(NamedTuple):
    """The length in a header, and how to make libsndfile read past it to the true end.

    ``header_s`` is None if the header states no length. Streams that follow one another in one file begin at
    ``starts``. ``patches`` replaces bytes of the header. ``is_cut`` says that the end is missing, if that can be seen.
    """

    end: int
    header_s: float | None
    starts: tuple[int, ...] = (0,)
    patches: Mapping[int, bytes] | None = None
    is_cut: bool = False


class Sound(ABC):
    """An open sound file, mixed down to one channel and read in blocks, as often as wanted.

    Once :meth:`blocks` is exhausted, ``num_samples``, ``peak`` (of the finite samples) and ``is_finite`` (whether all
    are) are set, and ``note`` says what was wrong, if anything: cut short, damaged, or longer than its header says.
    """

    sample_rate_hz: int
    is_lossy: bool

    def __init__(self) -> None:
        self.num_samples = 0
        self.peak = 0.0
        self.is_finite = True
        self.note: str | None = None

    def blocks(self) -> Iterator[Float[np.ndarray, " samples"]]:
        """Read to the end."""
        self.num_samples, self.peak, self.is_finite = 0, 0.0, True
        for block in self.read():
            if len(block):
                self._measure(block)
                yield block

    @abstractmethod
    def read(self) -> Iterator[Float[np.ndarray, " samples"]]:
        """Read to the end, and then set ``note``; ``num_samples`` counts what was read so far."""

    def _measure(self, block: Float[np.ndarray, " samples"]) -> None:
        self.num_samples += len(block)
        peak = float(np.abs(block).max())
        if not np.isfinite(peak):
            self.is_finite = False
            peak = float(np.abs(block[np.isfinite(block)]).max(initial=0.0))
        self.peak = max(self.peak, peak)


class Sndfile(Sound):
    """A sound file in a format of libsndfile.

    Raises:
        soundfile.SoundFileError: if libsndfile cannot read the content as sound.
        OSError: if the file cannot be read.
    """

    def __init__(self, file: io.BufferedIOBase) -> None:
        super().__init__()
        self._file = file
        size, tag = _size(file), _mp3_tag(file, 0)
        part = _Part(file, 0, size, _mp3_size(tag, size) if tag else None)
        try:
            with _Stream(part) as stream:
                self.sample_rate_hz = stream.samplerate
                self.format: str = stream.format
                self.is_lossy = stream.subtype.startswith(("MPEG", "VORBIS", "OPUS"))
                header_s = stream.frames / stream.samplerate if stream.frames < UNKNOWN else None
        finally:
            part.raise_error()
        if self.format in DATA:
            raise soundfile.SoundFileError(f"{self.format} holds data of any kind")
        self._length = _length(file, self.format, header_s)

    def read(self) -> Iterator[Float[np.ndarray, " samples"]]:
        """Read to the true end, over all streams that follow one another."""
        starts, is_broken, is_other = list(self._length.starts), False, False
        while starts and not (is_broken or is_other):
            start = starts.pop(0)
            part = self._part(start, starts[0] if starts else self._length.end)
            try:
                with _Stream(part) as stream:
                    is_other = (stream.samplerate, stream.format) != (self.sample_rate_hz, self.format)
                    yield from stream.mono() if not is_other else ()
            except soundfile.SoundFileError:
                is_broken = not (self.format == "MP3" and self._length.end - part.place < MOST_UNREAD)
            part.raise_error()
            if self.format == "MP3" and start < part.place < self._length.end - MOST_UNREAD:
                starts.append(part.place)  # files were joined: the header is of the first alone
        self.note = self._find_note(is_broken, is_other)

    def _part(self, start: int, end: int) -> _Part:
        if self.format != "MP3":
            return _Part(self._file, start, end, self._length.patches)
        tag = _mp3_tag(self._file, start)
        return _Part(self._file, start, end, _mp3_size(tag, end) if tag else None, 0 if tag else NO_END)

    def _find_note(self, is_broken: bool, is_other: bool) -> str | None:
        read_s, header_s = self.num_samples / self.sample_rate_hz, self._length.header_s
        note = note_of_length(read_s, header_s, TOLERANCE_S, is_other=is_other)
        if note is None and is_broken and header_s is None:
            return f"damaged: only its first {read_s:.2f} s could be read"
        if note is None and self._length.is_cut:
            return f"cut short: its end is missing, {read_s:.2f} s could be read"
        return note


def note_of_length(read_s: float, header_s: float | None, tolerance_s: float, *, is_other: bool) -> str | None:
    """Say in what a sound differs from what its header says, or that one of another kind follows it; None if not."""
    if is_other:
        return f"only its first {read_s:.2f} s could be read: a sound of another kind follows in the same file"
    if header_s and read_s < header_s - tolerance_s:
        return f"cut short: {read_s:.2f} of {header_s:.2f} s could be read"
    if header_s and read_s > header_s + tolerance_s:
        return f"its header says {header_s:.2f} s, but {read_s:.2f} s were read"
    return None


def _length(file: io.BufferedIOBase, container: str, header_s: float | None) -> _Length:
    """Return the length in a header, distrusted for the containers where it may be missing or wrong."""
    if container == "FLAC":
        return _flac_length(file)
    if container in ("WAV", "WAVEX"):
        return _wav_length(file, header_s)
    if container == "MP3":
        return _Length(_mp3_end(file), header_s if _mp3_tag(file, 0) else None)
    if container == "OGG":
        return _ogg_length(file)
    return _Length(_size(file), header_s)


def _flac_length(file: io.BufferedIOBase) -> _Length:
    """Make the number of samples, 36 bits in the first block after ``fLaC``, look unknown."""
    start = _after_id3(file, 0)
    head = _read(file, start, 26)
    if head[:4] != b"fLaC" or len(head) < 26:
        return _Length(_size(file), None)
    sample_rate_hz = int.from_bytes(head[18:21], "big") >> 4
    total = int.from_bytes(head[21:26], "big") & (2**36 - 1)
    header_s = total / sample_rate_hz if total and sample_rate_hz else None
    return _Length(_size(file), header_s, patches={start + 21: bytes([head[21] & 0xF0, 0, 0, 0, 0])})


def _wav_length(file: io.BufferedIOBase, header_s: float | None) -> _Length:
    """Check the size of the ``data`` chunk against the file's; after the chunk, only other chunks may follow."""
    size = _size(file)
    order = ">" if _read(file, 0, 4) == b"RIFX" else "<"
    for place, name, stated in _chunks(file, 12, order):
        if name == b"data":
            available = size - place - 8
            if stated >= WAV_UNKNOWN or available <= 0:
                return _Length(size, None)
            if stated > available:
                return _Length(size, header_s and header_s * stated / available)
            unclaimed = min(size - _after_chunks(file, place + 8 + stated + pad, order) for pad in (stated % 2, 0))
            if unclaimed > (MOST_PADDING if stated else 0):
                return _Length(size, header_s, patches={place + 4: b"\xff\xff\xff\xff"})
            return _Length(size, header_s)
    return _Length(size, header_s)


def _chunks(file: io.BufferedIOBase, place: int, order: str) -> Iterator[tuple[int, bytes, int]]:
    """Iterate over the chunks of a WAV file: where each begins, its name and its size."""
    while len(head := _read(file, place, 8)) == 8 and all(0x20 <= byte < 0x7F for byte in head[:4]):
        (size,) = struct.unpack(f"{order}I", head[4:])
        yield place, head[:4], size
        place += 8 + size + size % 2


def _after_chunks(file: io.BufferedIOBase, place: int, order: str) -> int:
    """Return where the last whole chunk ends."""
    size = _size(file)
    for begin, _, length in _chunks(file, place, order):
        if begin + 8 + length > size:
            return begin
        place = begin + 8 + length + length % 2
    return min(place, size)


class _Tag(NamedTuple):
    """The tag in an MP3's first frame, which describes the whole and holds no sound: where frame and tag begin."""

    frame: int
    place: int
    flags: int


def _mp3_tag(file: io.BufferedIOBase, start: int) -> _Tag | None:
    """Return the Xing (also called ``Info``) or VBRI tag; None if there is none, or it has no length."""
    frame = _after_id3(file, start)
    head = _read(file, frame, 64)
    for name in (b"Xing", b"Info"):
        flags = head[head.find(name) + 7 :][:1]
        if name in head:
            return _Tag(frame, frame + head.index(name), flags[0]) if flags and flags[0] & 1 else None
    return _Tag(frame, frame + head.index(b"VBRI"), 0) if b"VBRI" in head else None


def _mp3_size(tag: _Tag, end: int) -> dict[int, bytes]:
    """Make the tag state the actual size; otherwise mpg123 complains on the terminal."""
    return {tag.place + 12: (end - tag.frame).to_bytes(8, "big")[-4:]} if tag.flags & 2 else {}


def _mp3_end(file: io.BufferedIOBase) -> int:
    """Return where the sound ends: before the tags that may follow it, APE and then ID3v1."""
    end = _size(file)
    if _read(file, max(0, end - 128), 3) == b"TAG":
        end -= 128
    footer = _read(file, max(0, end - 32), 32)
    if footer[:8] == b"APETAGEX":
        has_header = footer[23] & 0x80
        end = max(0, end - int.from_bytes(footer[12:16], "little") - (32 if has_header else 0))
    return end


def _ogg_length(file: io.BufferedIOBase) -> _Length:
    """Walk through the pages: streams may follow one another, and the last page is marked as the last."""
    size, place = _size(file), 0
    starts: list[int] = []
    was_first = is_last = False
    while (head := _read(file, place, 27 + 255))[:4] == b"OggS" and len(head) > 27:
        is_first, is_last = bool(head[5] & 2), bool(head[5] & 4)
        if is_first and not was_first:
            starts.append(place)
        was_first = is_first
        place += 27 + head[26] + sum(head[27 : 27 + head[26]])
    return _Length(size, None, starts=(0, *starts[1:]), is_cut=not is_last or place > size)


def _after_id3(file: io.BufferedIOBase, start: int) -> int:
    """Return where an ID3v2 tag ends; ``start`` if there is none."""
    head = _read(file, start, 10)
    if head[:3] != b"ID3" or len(head) < 10:
        return start
    size = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
    return start + 10 + size


def _read(file: io.BufferedIOBase, place: int, num_bytes: int) -> bytes:
    file.seek(place)
    return file.read(num_bytes)


def _size(file: io.BufferedIOBase) -> int:
    return file.seek(0, io.SEEK_END)
