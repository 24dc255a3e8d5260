"""Mel spectrograms, drawn small: ink on paper of any colour, a few kilobytes a clip."""

import struct
import zlib
from functools import cache

import numpy as np
from jaxtyping import Float, UInt8

WIDTH, HEIGHT = 200, 40
"""Columns (moments) and rows (mel bands) of a picture."""
WINDOW_S = 0.04
DECIBELS = 60.0
"""What is this much below the loudest is blank."""
INK = (38, 122, 133)
"""Readable on white and on black."""
NUM_SHADES = 16
LOWEST_HZ = 40.0


def spectrogram_png(samples: Float[np.ndarray, " samples"], sample_rate_hz: int) -> bytes:
    """Draw a clip's mel spectrogram as a PNG whose ink is the denser the louder; silence is transparent."""
    loud = mel_decibels(samples, sample_rate_hz) / DECIBELS + 1
    return _png(np.rint(loud.clip(0, 1)[::-1] * (NUM_SHADES - 1)).astype(np.uint8))


def mel_decibels(samples: Float[np.ndarray, " samples"], sample_rate_hz: int) -> Float[np.ndarray, "bands moments"]:
    """Return the power in mel bands, the lowest first, at equal distances over the clip, in dB below the loudest.

    A clip of digital silence is at the floor of ``DECIBELS`` everywhere.
    """
    size = 2 ** max(6, round(np.log2(WINDOW_S * sample_rate_hz)))
    padded = np.pad(samples, size // 2)
    starts = np.linspace(0, len(samples), WIDTH, endpoint=False).astype(int)
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[starts] * np.hanning(size).astype(np.float32)
    power = _filters(size, sample_rate_hz) @ (np.abs(np.fft.rfft(frames)) ** 2).T
    loudest = power.max(initial=0.0)
    floor = 10 ** (-DECIBELS / 10)
    return 10 * np.log10(np.maximum(power / loudest if loudest > 0 else np.zeros_like(power), floor))


@cache
def _filters(size: int, sample_rate_hz: int) -> Float[np.ndarray, "bands frequencies"]:
    """Return mel filters of equal area; bands that are narrower than the spectrum's own resolution stay blank."""
    from transformers.audio_utils import mel_filter_bank  # only where something is drawn

    highest = sample_rate_hz / 2
    bank = mel_filter_bank(size // 2 + 1, HEIGHT, min(LOWEST_HZ, highest / 2), highest, sample_rate_hz, mel_scale="htk")
    return np.ascontiguousarray(bank.T)


def _png(shades: UInt8[np.ndarray, "rows columns"]) -> bytes:
    """Write a picture of ``NUM_SHADES`` shades of ``INK``, from transparent to opaque, four bits a pixel."""
    height, width = shades.shape
    lines = (shades[:, 0::2] << 4) | shades[:, 1::2]
    rows = np.concatenate([np.zeros((height, 1), np.uint8), lines], axis=1)
    opacity = bytes(round(255 * shade / (NUM_SHADES - 1)) for shade in range(NUM_SHADES))
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 4, 3, 0, 0, 0)),
        (b"PLTE", bytes(INK) * NUM_SHADES),
        (b"tRNS", opacity),
        (b"IDAT", zlib.compress(rows.tobytes(), 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
