"""From a sound file to a waveform, or to the reason why there is none; shared by every corpus."""

import io
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from jaxtyping import Float

from ard.audio.sound import Sndfile, Sound
from ard.audio.tracks import Track, TrackError, container_of
from ard.types import Failure

SILENCE_PEAK = 2**-13  # -78 dBFS: below the noise floor of any recording, and the same in 16 bits
SHORTEST_S = 0.2  # five audio tokens of Qwen2-Audio
RATES_HZ = (1_000, 1_000_000)  # from the lowest for intelligible speech to the highest for ultrasound
MOST_SAMPLES = 2**30  # in a clip: six hours at 48 kHz, 4 GiB
FULL_SCALES = (1.0, 2.0**15, 2.0**23, 2.0**31)  # of float samples: the proper one, and those of unscaled integers
HEADROOM = 16.0  # 24 dB: how far samples may exceed a full scale before the next one is assumed
OVERSHOOT = 2**0.5  # 3 dB: how far a lossy codec may exceed a full scale that its input kept to


class Recording(NamedTuple):
    """A decoded sound: its samples, mono in [-1, 1], its sample rate, and what was wrong, if anything."""

    waveform: Float[np.ndarray, " samples"]
    sample_rate_hz: int
    note: str | None = None


def decode(audio: Path | bytes | None, name: str) -> Recording | Failure:
    """Decode a file, or its content, to its true end.

    Its content tells its format, whatever its name says: any of libsndfile's (wav, flac, mp3, ogg, opus, aiff, au, caf
    and more), and with PyAV those of :data:`~ard.audio.tracks.CONTAINERS` (m4a, mp4, webm, wma, aac and more).
    A file that is cut short or damaged gives what could be read of it, with a note. Samples beyond full scale are
    divided (see :func:`divisor`), with a note. A file that is missing, cannot be decoded or holds nothing to hear gives
    a failure of that name; so does any other error in decoding.
    """
    ((_, recording),) = decode_pieces(audio, name)
    return recording


def decode_pieces(
    audio: Path | bytes | None, name: str, longest_s: float | None = None
) -> Iterator[tuple[str, Recording | Failure]]:
    """Decode as :func:`decode` does, in equal pieces of at most ``longest_s``, so that no sliver is left at the end.

    Each piece comes with its suffix (``#0003``; empty if there is only one). Only one piece is in memory at a time: the
    file is read once to learn its length and its peak, and then again. A piece that holds nothing to hear gives a
    failure, and the others are kept.
    """
    try:
        if audio is None:
            raise FileNotFoundError
        with _opened(audio) as file:
            yield from _decoded(file, name, longest_s)
    except FileNotFoundError:
        yield "", Failure(name, "audio", "missing")
    except OSError as error:
        yield "", Failure(name, "audio", f"cannot be read ({error.strerror or error})")
    except TrackError as error:
        yield "", Failure(name, "audio", str(error))
    except soundfile.SoundFileError:  # libsndfile's own words mislead: "File does not exist"
        yield "", Failure(name, "audio", "unreadable: its content cannot be decoded")
    except Exception as error:  # whatever it is, the run goes on with its other sounds
        reason = " ".join(str(error).split())[:200]
        yield "", Failure(name, "audio", f"cannot be decoded ({type(error).__name__}: {reason})")


def timed_pieces(
    audio: Path | bytes | None, name: str, longest_s: float | None
) -> Iterator[tuple[float, str, Recording | Failure]]:
    """Decode a file in pieces as :func:`decode_pieces` does, each with the second at which it begins.

    Pieces are equal but for a sample, so that one that holds nothing to hear is as long as the next.
    """
    begun = left_out = 0
    for suffix, recording in decode_pieces(audio, name, longest_s):
        if isinstance(recording, Failure):
            yield 0.0, suffix, recording
            left_out += 1
        else:
            size = len(recording.waveform)
            begun += left_out * size
            yield begun / recording.sample_rate_hz, suffix, recording
            begun, left_out = begun + size, 0


def unusable(waveform: Float[np.ndarray, " samples"], sample_rate_hz: int) -> str | None:
    """Say why a waveform cannot be used; None if it can."""
    low, high = (float(waveform.min()), float(waveform.max())) if len(waveform) else (0.0, 0.0)
    return _unusable(len(waveform), max(high, -low), isfinite(low + high), sample_rate_hz)


def divisor(peak: float, is_lossy: bool) -> float | None:
    """Return the number by which to divide samples with this peak, so that they are in [-1, 1].

    Float samples exceed full scale if they were left as integers (of 16, 24 or 32 bits), or are louder than a file
    should be. Full scale is taken to be the least of 1, 2^15, 2^23 and 2^31 that is at least a sixteenth of the peak,
    or the peak itself if that is larger. None means that there is no such scale. A lossy codec may lift samples beyond
    full scale by up to 3 dB; these are not divided but clipped, as players do.
    """
    if is_lossy and peak <= OVERSHOOT:
        return 1.0
    return next((max(full_scale, peak) for full_scale in FULL_SCALES if peak <= HEADROOM * full_scale), None)


def _unusable(num_samples: int, peak: float, is_finite: bool, sample_rate_hz: int) -> str | None:
    if not RATES_HZ[0] <= sample_rate_hz <= RATES_HZ[1]:
        return f"its sample rate is {sample_rate_hz} Hz, which is not between {RATES_HZ[0]} and {RATES_HZ[1]}"
    if num_samples == 0:
        return "empty: no samples"
    if not is_finite:
        return "has samples that are NaN or infinite"
    if num_samples < SHORTEST_S * sample_rate_hz:
        return f"too short: {num_samples / sample_rate_hz:.3f} s, at least {SHORTEST_S} s are needed"
    if peak < SILENCE_PEAK:
        return f"silent: its peak is {peak:.1e} of full scale, below {SILENCE_PEAK:.0e}"
    return None


@contextmanager
def _opened(audio: Path | bytes) -> Iterator[io.BufferedIOBase]:
    if isinstance(audio, bytes):
        yield io.BytesIO(audio)
        return
    if not stat.S_ISREG(audio.stat().st_mode):  # reading a pipe would block
        raise OSError("it is not a regular file")
    with audio.open("rb") as file:
        yield file


def _decoded(file: io.BufferedIOBase, name: str, longest_s: float | None) -> Iterator[tuple[str, Recording | Failure]]:
    if file.seek(0, io.SEEK_END) == 0:
        yield "", Failure(name, "audio", "empty file")
        return
    sound = _sound(file)
    if longest_s is None:
        yield "", _finished(_joined(sound.blocks()), sound, sound.note, name)
        return
    for _ in sound.blocks():
        pass
    peak, note, rate = sound.peak, sound.note, sound.sample_rate_hz
    sizes = _sizes(sound.num_samples, max(1, round(longest_s * rate)))
    reason = _unusable(sound.num_samples, peak, True, rate)
    if reason and sound.is_finite:
        yield "", Failure(name, "audio", and_also(reason, note))
        return
    for index, piece in enumerate(_regrouped(sound.blocks(), sizes)):
        sound.peak = peak  # that of the whole, so that all pieces are divided alike
        is_last = index == len(sizes) - 1
        suffix = f"#{index:04d}" if len(sizes) > 1 else ""
        yield suffix, _finished(piece, sound, note if is_last else None, name + suffix)


def _sound(file: io.BufferedIOBase) -> Sound:
    try:
        return Sndfile(file)
    except soundfile.SoundFileError:
        container = container_of(file)
        if container is None:
            raise
        return Track(file, container)


def _finished(
    waveform: Float[np.ndarray, " samples"], sound: Sound, note: str | None, name: str
) -> Recording | Failure:
    """Scale samples into [-1, 1] in place, and refuse those that hold nothing to hear."""
    by = divisor(sound.peak, sound.is_lossy)
    if by is None:
        reason = f"its samples go up to {sound.peak:.1e}, beyond any scale of sound"
        return Failure(name, "audio", and_also(reason, note))
    if by != 1:
        waveform /= np.float32(by)
        note = and_also(f"divided by {by:g}: its samples went up to {sound.peak:g}, beyond full scale", note)
    if sound.peak > by:
        np.clip(waveform, -1, 1, out=waveform)
    fault = unusable(waveform, sound.sample_rate_hz)
    return Failure(name, "audio", and_also(fault, note)) if fault else Recording(waveform, sound.sample_rate_hz, note)


def and_also(reason: str, note: str | None) -> str:
    """Append a note to a reason, if there is one."""
    return f"{reason}; {note}" if note else reason


def _joined(blocks: Iterator[Float[np.ndarray, " samples"]]) -> Float[np.ndarray, " samples"]:
    """Join blocks into one array that grows in place, without a second copy."""
    joined = bytearray()
    for block in blocks:
        joined += block.data
        if len(joined) > 4 * MOST_SAMPLES:
            raise MemoryError(f"more than {MOST_SAMPLES} samples are too many for one clip: cut the file")
    return np.frombuffer(joined, np.float32)


def _sizes(num_samples: int, most: int) -> list[int]:
    """Return the sizes of equal pieces of at most ``most`` samples."""
    shortest, longer = divmod(num_samples, num_pieces := max(1, -(-num_samples // most)))
    return [shortest + 1] * longer + [shortest] * (num_pieces - longer)


def _regrouped(
    blocks: Iterator[Float[np.ndarray, " samples"]], sizes: list[int]
) -> Iterator[Float[np.ndarray, " samples"]]:
    """Cut a sound that comes in blocks into pieces of these sizes."""
    rest = np.empty(0, np.float32)
    for size in sizes:
        piece, filled = np.empty(size, np.float32), 0
        while filled < size and len(rest := rest if len(rest) else next(blocks, rest)):
            taken = rest[: size - filled]
            piece[filled : filled + len(taken)] = taken
            filled, rest = filled + len(taken), rest[len(taken) :]
        yield piece[:filled]
