"""Waveform arithmetic."""

from math import gcd

import numpy as np
from jaxtyping import Float
from scipy.signal import resample_poly


def resample(
    waveform: Float[np.ndarray, " samples"], from_hz: int, to_hz: int
) -> Float[np.ndarray, " resampled_samples"]:
    """Bring a waveform to another sample rate, with scipy's polyphase filter; the same waveform if the rates agree."""
    if from_hz == to_hz:
        return waveform
    shared = gcd(from_hz, to_hz)
    return resample_poly(waveform, to_hz // shared, from_hz // shared).astype(np.float32)
