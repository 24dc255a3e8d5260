"""Sound that libsndfile does not read: what phones, browsers and Windows write, and the sound tracks of videos.

PyAV reads them, an extra of the package, which brings the libraries of FFmpeg.
"""

import io
import struct
from collections.abc import Iterator
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ard.audio.sound import TOLERANCE_S, Sound, note_of_length

FULL_SCALES = {"u8": 2.0**7, "s16": 2.0**15, "s32": 2.0**31, "s64": 2.0**63, "flt": 1.0, "dbl": 1.0}
"""Full scale of FFmpeg's sample formats; the planar ones have a ``p`` at the end."""

ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")  # marks the part of an ASF header with its lengths


class TrackError(Exception):
    """A file whose container is known, and whose sound cannot be read; the message is the reason."""


class Container(NamedTuple):
    """A kind of file: its name, the bytes that mark it and where they are, and FFmpeg's name for its reader.

    ``states_length`` says whether its header states the length of the sound; of others FFmpeg guesses it.
    """

    name: str
    place: int
    marks: tuple[bytes, ...]
    reader: str
    states_length: bool = True


CONTAINERS = (
    Container("mp4, m4a or mov", 4, (b"ftyp", b"moov", b"mdat", b"wide"), "mov"),
    Container("webm or mkv", 0, (b"\x1a\x45\xdf\xa3",), "matroska"),
    Container("wma or asf", 0, (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",), "asf"),
    Container("aac", 0, (b"\xff\xf1", b"\xff\xf9", b"ADIF"), "aac", states_length=False),
    Container("amr", 0, (b"#!AMR",), "amr", states_length=False),
    Container("caf", 0, (b"caff",), "caf"),
)
"""Told by content, never by the suffix of a name; so no text is taken for a playlist, which would name other files."""


def container_of(file: io.BufferedIOBase) -> Container | None:
    """Return what kind of file this is; None if it is none of ``CONTAINERS``."""
    file.seek(0)
    head = file.read(16)
    return next((kind for kind in CONTAINERS if head[kind.place :].startswith(kind.marks)), None)


class Track(Sound):
    """The sound track of a file, the best one if there are several.

    Where a file is damaged, the packets that cannot be decoded are lost. What can be read of a file is used, with a
    note.

    Raises:
        TrackError: if PyAV is missing, the file cannot be opened, or it has no sound track.
        OSError: if the file cannot be read.
    """

    def __init__(self, file: io.BufferedIOBase, container: Container) -> None:
        super().__init__()
        try:
            self._av: Any = import_module("av")
        except ImportError as error:
            raise TrackError(
                f"{container.name} needs PyAV, which is not installed: run pip install 'ard-audio[formats]'"
            ) from error
        self._file, self._container = file, container
        with self._open() as opened:
            track = opened.streams.best("audio")
            if track is None:
                raise TrackError(f"{container.name} without a sound track")
            context = track.codec_context
            self.sample_rate_hz = context.sample_rate
            self.is_lossy = context.codec.lossy
            self._header_s = self._stated(opened, track)

    def _open(self) -> Any:
        self._file.seek(0)
        try:
            return self._av.open(self._file, format=self._container.reader, metadata_errors="replace")
        except self._av.FFmpegError as error:
            raise TrackError("unreadable: its content cannot be decoded") from error

    def _stated(self, opened: Any, track: Any) -> float | None:
        """Return the length that the header states; that of a whole file may be a video's, and then is left alone."""
        if self._container.reader == "asf":
            return _asf_length(self._file)
        if not self._container.states_length:
            return None
        if track.duration:
            return float(track.duration * track.time_base)
        return opened.duration / self._av.time_base if opened.duration and len(opened.streams) == 1 else None

    def read(self) -> Iterator[Float[np.ndarray, " samples"]]:
        """Read the track to its end, or to where it breaks off or its sample rate changes."""
        num_packets = num_lost = longest = 0
        is_other = False
        with self._open() as opened:
            for packet in self._packets(opened):
                num_packets += 1
                try:
                    frames = packet.decode()
                except self._av.FFmpegError:
                    num_lost += 1
                    continue
                is_other = any(frame.sample_rate != self.sample_rate_hz for frame in frames)
                if is_other:
                    break
                longest = max([longest, *(frame.samples for frame in frames)])
                yield from map(mono, frames)
        read_s = self.num_samples / self.sample_rate_hz
        tolerance_s = max(TOLERANCE_S, 2 * longest / self.sample_rate_hz)  # delay and padding are a frame each at most
        self.note = note_of_length(read_s, self._header_s, tolerance_s, is_other=is_other)
        if num_lost and self.note is None:
            self.note = f"damaged: {num_lost} of {num_packets} packets could not be decoded, {read_s:.2f} s were read"

    def _packets(self, opened: Any) -> Iterator[Any]:
        """Return the packets of the track, up to where the file breaks off."""
        packets = opened.demux(opened.streams.best("audio"))
        while True:
            try:
                packet = next(packets, None)
            except self._av.FFmpegError:
                return
            if packet is None:
                return
            yield packet


def _asf_length(file: io.BufferedIOBase) -> float | None:
    """Return the length in the header of an ASF file, in place of which FFmpeg guesses one if the file is cut."""
    file.seek(0)
    head = file.read(2**16)
    place = head.find(ASF_PROPERTIES)
    if place < 0 or len(head) < place + 88:
        return None
    play, _, preroll_ms = struct.unpack("<3Q", head[place + 64 : place + 88])
    return play / 1e7 - preroll_ms / 1e3 or None


def mono(frame: Any) -> Float[np.ndarray, " samples"]:
    """Return a frame of PyAV as samples in [-1, 1], with the channels mixed down to one."""
    samples, kind = frame.to_ndarray(), frame.format.name.removesuffix("p")
    if not frame.format.is_planar:
        samples = samples.reshape(-1, len(frame.layout.channels)).T
    samples = samples.astype(np.float32) - (FULL_SCALES["u8"] if kind == "u8" else 0)
    return (samples / np.float32(FULL_SCALES[kind])).mean(axis=0, dtype=np.float32)
