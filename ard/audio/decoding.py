"""From a file of sound to a waveform, or to the reason why it gives none: what every corpus shares."""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from jaxtyping import Float

from ard.types import Failure

SILENCE_PEAK = 2**-13  # -78 dBFS: below the noise floor of any recording, and the same in 16 bits
SHORTEST_S = 0.2  # five audio tokens of Qwen2-Audio


class Recording(NamedTuple):
    """A decoded sound: its channels mixed down to one, in [-1, 1], and its sample rate."""

    waveform: Float[np.ndarray, " samples"]
    sample_rate_hz: int


def decode(audio: Path | bytes | None, name: str) -> Recording | Failure:
    """Decode a file, or the content of one, in any format of libsndfile (wav, flac, ogg, mp3).

    What is missing, cannot be decoded or holds nothing to hear gives a failure of that name.
    """
    if audio is None or (isinstance(audio, Path) and not audio.is_file()):
        return Failure(name, "audio", "missing")
    if (audio.stat().st_size if isinstance(audio, Path) else len(audio)) == 0:
        return Failure(name, "audio", "empty file")
    file = audio if isinstance(audio, Path) else io.BytesIO(audio)
    try:
        channels, sample_rate_hz = soundfile.read(file, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError):  # libsndfile's own words mislead: "File does not exist"
        return Failure(name, "audio", "unreadable: its content cannot be decoded")
    waveform = channels.mean(axis=1)
    reason = unusable(waveform, sample_rate_hz)
    return Failure(name, "audio", reason) if reason else Recording(waveform, sample_rate_hz)


def unusable(waveform: Float[np.ndarray, " samples"], sample_rate_hz: int) -> str | None:
    """Say why a waveform cannot be used; None if it can."""
    if len(waveform) == 0:
        return "empty: no samples"
    if not np.isfinite(waveform).all():
        return "has samples that are NaN or infinite"
    if len(waveform) < SHORTEST_S * sample_rate_hz:
        return f"too short: {len(waveform) / sample_rate_hz:.3f} s, at least {SHORTEST_S} s are needed"
    peak = float(np.abs(waveform).max())
    if peak < SILENCE_PEAK:
        return f"silent: its peak is {peak:.1e} of full scale, below {SILENCE_PEAK:.0e}"
    return None
