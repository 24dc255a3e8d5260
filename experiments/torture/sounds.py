"""Sounds as files of many formats, and headers that tell something else than what follows them."""

import io
import struct
from pathlib import Path

import numpy as np
import soundfile

RATE_HZ = 16_000


def tone(duration_s: float, rate_hz: int = RATE_HZ, peak: float = 0.5) -> np.ndarray:
    """A tone that rises, so that every part of it sounds different."""
    time = np.arange(round(duration_s * rate_hz)) / rate_hz
    return (peak * np.sin(2 * np.pi * (200 + 50 * time) * time)).astype(np.float32)


def encoded(samples: np.ndarray, rate_hz: int = RATE_HZ, container: str = "WAV", subtype: str | None = None) -> bytes:
    """The content of a file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate_hz, format=container, subtype=subtype)
    return buffer.getvalue()


def mp3_without_length() -> bytes:
    """MP3 of a quiet half and a loud one, at a bit rate that varies, without the frame that counts the others."""
    rng = np.random.default_rng(0)
    samples = np.concatenate([tone(5.0, 44_100, 0.1), (0.3 * rng.standard_normal(5 * 44_100)).astype(np.float32)])
    buffer = io.BytesIO()
    soundfile.write(
        buffer, samples, 44_100, format="MP3", subtype="MPEG_LAYER_III", bitrate_mode="VARIABLE", compression_level=0.4
    )
    content = buffer.getvalue()
    tag = max(content.find(b"Xing"), content.find(b"Info"))
    following = content.index(content[:2], tag)
    return content[following:]


def flac_that_tells(num_samples: int, content: bytes) -> bytes:
    """FLAC with another number of samples in its header; 0 is for unknown."""
    patched = bytearray(content)
    patched[21] = (patched[21] & 0xF0) | num_samples >> 32
    patched[22:26] = (num_samples & 0xFFFFFFFF).to_bytes(4, "big")
    return bytes(patched)


def wav_that_tells(num_bytes: int, content: bytes) -> bytes:
    """WAV with another size of its data, as a recorder that was killed or a pipe leaves it."""
    place = content.index(b"data") + 4
    return content[:place] + struct.pack("<I", num_bytes) + content[place + 4 :]


def half(content: bytes) -> bytes:
    """The first half of a file."""
    return content[: len(content) // 2]


def flac(duration_s: float = 3.0) -> bytes:
    """FLAC of a tone."""
    return encoded(tone(duration_s), container="FLAC")


def noise_file(path: Path, minutes: float, rate_hz: int, channels: int = 2) -> Path:
    """Write a long file of noise, block by block."""
    block = (0.1 * np.random.default_rng(0).standard_normal((rate_hz, channels))).astype(np.float32)
    with soundfile.SoundFile(path, "w", rate_hz, channels, "PCM_16") as file:
        for _ in range(round(60 * minutes)):
            file.write(block)
    return path
