"""The few signals that every synthetic sound is built from: noise bands, tones, rings, envelopes, repetition."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from scipy import fft

RATE_HZ = 16_000
"""Sample rate of everything synthetic."""

Rng = np.random.Generator
Signal = Float[np.ndarray, " samples"]
Number = float | int
"""Beartype refuses an int where a float is annotated."""
Curve = Number | Signal
Synthesizer = Callable[[Rng, int], Signal]
"""Makes one event of so many samples with a generator; its level does not matter: the corpus sets it."""

FRAME_S = 0.01
AUDIBLE_DB = -20
GAP_S = 0.1


def samples(duration_s: Number) -> int:
    """Whole samples in a duration, at least one."""
    return max(1, int(duration_s * RATE_HZ))


def noise(rng: Rng, n: int, low_hz: Number, high_hz: Number, slope: Number = 0.0) -> Signal:
    """Gaussian noise between two frequencies, of unit RMS; its amplitude falls as ``frequency ** -slope``."""
    size = fft.next_fast_len(n, real=True)
    frequency = fft.rfftfreq(size, 1 / RATE_HZ).astype(np.float32)
    band = np.flatnonzero((frequency >= low_hz) & (frequency <= high_hz) & (frequency > 0))
    spectrum = np.zeros(len(frequency), np.complex64)
    spectrum[band] = rng.standard_normal(2 * len(band), np.float32).view(np.complex64) * frequency[band] ** -slope
    signal = fft.irfft(spectrum, size)[:n]
    return signal / (np.sqrt(np.mean(signal**2)) + 1e-9)


def glide(points: Sequence[Number] | np.ndarray, n: int) -> Signal:
    """The curve that runs through evenly spaced points."""
    return np.interp(np.linspace(0, len(points) - 1, n), np.arange(len(points)), points).astype(np.float32)


def wander(rng: Rng, n: int, rate_hz: Number, depth: Number) -> Signal:
    """A slow random curve around 1: new values ``rate_hz`` times a second, with standard deviation ``depth``."""
    return glide(1 + depth * rng.standard_normal(int(rate_hz * n / RATE_HZ) + 3), n)


def swing(n: int, rate_hz: Number, depth: Number, phase: Number = 0.0) -> Signal:
    """A sinusoid around 1, for vibrato and tremolo."""
    return (1 + depth * np.sin(2 * np.pi * (rate_hz * np.arange(n) / RATE_HZ + phase))).astype(np.float32)


def harmonics(count: int, slope: Number) -> Float[np.ndarray, " partials"]:
    """Amplitudes of the first harmonics, the h-th being ``h ** -slope``."""
    return np.arange(1, count + 1, dtype=np.float32) ** -slope


def tone(n: int, frequency_hz: Curve, partials: Sequence[Number] | np.ndarray = (1.0,)) -> Signal:
    """A harmonic tone whose fundamental follows a curve; harmonics that would alias are left out."""
    frequency = np.broadcast_to(np.asarray(frequency_hz, np.float64), (n,))
    phase = (2 * np.pi * (np.cumsum(frequency) / RATE_HZ % 1)).astype(np.float32)
    audible = int(0.47 * RATE_HZ / float(frequency.max()))
    signal = np.zeros(n, np.float32)
    for harmonic, amplitude in enumerate(partials[:audible], start=1):
        signal += np.float32(amplitude) * np.sin(np.float32(harmonic) * phase)
    return signal


def ring(n: int, partials: Sequence[tuple[Number, Number, Number]]) -> Signal:
    """Damped sinusoids struck together, each of ``(frequency_hz, amplitude, decay_s)``."""
    time = np.arange(n, dtype=np.float32) / RATE_HZ
    signal = np.zeros(n, np.float32)
    for frequency_hz, amplitude, decay_s in partials:
        signal += np.float32(amplitude) * np.sin(np.float32(2 * np.pi * frequency_hz) * time) * decay(n, decay_s)
    return signal


def decay(n: int, decay_s: Number) -> Signal:
    """Exponential decay from 1."""
    return np.exp(-np.arange(n, dtype=np.float32) / np.float32(decay_s * RATE_HZ))


def swell(n: int, attack: Number = 0.1, release: Number = 0.3) -> Signal:
    """An envelope that rises and falls smoothly; attack and release are shares of its length."""
    time = np.linspace(0, 1, n, dtype=np.float32)
    ramp = np.minimum(np.minimum(time / np.float32(attack), (1 - time) / np.float32(release)), 1)
    return np.sin(0.5 * np.pi * ramp) ** 2


def place(n: int, onsets_s: Sequence[Number] | np.ndarray, grain: Callable[[], Signal]) -> Signal:
    """Sum of fresh grains that start at the given times; what would run past the end is cut."""
    signal = np.zeros(n, np.float32)
    for onset in onsets_s:
        start = int(onset * RATE_HZ)
        if start < n:
            piece = grain()[: n - start]
            signal[start : start + len(piece)] += piece
    return signal


def repeat(rng: Rng, n: int, every_s: tuple[Number, Number], jitter: Number, grain: Callable[[], Signal]) -> Signal:
    """Grains at a steady beat: the period is drawn once from ``every_s``, and every gap differs by ``jitter``."""
    period = rng.uniform(*every_s)
    gaps = period * np.maximum(0.3, 1 + jitter * rng.standard_normal(int(n / RATE_HZ / period) + 2))
    return place(n, rng.uniform(0.02, 0.15) + np.concatenate(([0.0], np.cumsum(gaps))), grain)


def sprinkle(rng: Rng, n: int, per_second: Number, grain: Callable[[], Signal]) -> Signal:
    """Grains at random times, ``per_second`` times the duration of them, but at least one."""
    duration_s = n / RATE_HZ
    return place(n, np.sort(rng.uniform(0, 0.95 * duration_s, max(1, int(per_second * duration_s)))), grain)


def loudness(signal: Signal) -> float:
    """The RMS of the loudest quarter of the 25 ms blocks, so that silence between sounds does not count."""
    power = np.add.reduceat(signal**2, np.arange(0, len(signal), 400)) / 400
    return float(np.sqrt(np.mean(np.sort(power)[-max(1, len(power) // 4) :]) + 1e-12))


def bouts(signal: Signal) -> list[tuple[float, float]]:
    """When a sound is heard: onset and offset of each bout, in seconds.

    It is heard in the frames of ``FRAME_S`` whose RMS is above ``AUDIBLE_DB`` of its own loudness. Bouts are divided by
    gaps longer than ``GAP_S``: five barks are five bouts, and a shower of rain is one.
    """
    size = samples(FRAME_S)
    starts = np.arange(0, len(signal), size)
    ends = np.append(starts[1:], len(signal))
    power = np.add.reduceat(signal**2, starts) / (ends - starts)
    heard = np.flatnonzero(power > (10 ** (AUDIBLE_DB / 20) * loudness(signal)) ** 2)
    parts = np.split(heard, np.flatnonzero(np.diff(heard) > round(GAP_S / FRAME_S) + 1) + 1) if len(heard) else []
    return [(float(starts[part[0]] / RATE_HZ), float(ends[part[-1]] / RATE_HZ)) for part in parts]
