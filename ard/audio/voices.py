"""Speech-like voices: glottal pulses through moving formants, with a gender and an emotion but no words."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ard.audio.signals import RATE_HZ, Number, Rng, Signal, glide, noise, samples, swell, swing, wander

_FRAME, _HOP = 512, 256
_VOWELS_HZ = np.array(
    [[730, 1090, 2440], [270, 2290, 3010], [300, 870, 2240], [530, 1840, 2480], [570, 840, 2410], [640, 1190, 2390]]
)
_BANDWIDTHS_HZ = np.array([90, 110, 170, 250])


class Range(NamedTuple):
    """Bounds of a uniform draw."""

    low: Number
    high: Number

    def draw(self, rng: Rng) -> float:
        """One value."""
        return float(rng.uniform(self.low, self.high))


class Gender(NamedTuple):
    """What differs between the genders: the pitch at rest, and the formants relative to an average man's."""

    pitch_hz: Range
    formants: Range


class Emotion(NamedTuple):
    """How an emotion is spoken: prosody in the first row of fields, timbre in the others.

    ``pitch`` multiplies the speaker's pitch at rest; ``spread`` is the semitones between syllables and ``bend`` those
    within one; ``rate_hz`` counts syllables; ``pauses`` is the chance of one after a syllable; ``accent_db`` is how
    much loudness varies between syllables. ``tilt_db`` is the fall of the spectrum per octave, ``breath`` the noise in
    the voice, ``roughness`` the irregularity of its pulses, ``attack`` the share of a syllable that its onset takes,
    ``smile`` a factor on the formants.
    """

    pitch: Range
    spread: Range
    bend: Range
    rate_hz: Range
    pauses: Number
    accent_db: Number
    tilt_db: Range
    breath: Range
    roughness: Range
    attack: Number
    smile: Number


GENDERS: Mapping[str, Gender] = {
    "male": Gender(pitch_hz=Range(92, 125), formants=Range(0.93, 1.0)),
    "female": Gender(pitch_hz=Range(185, 235), formants=Range(1.17, 1.26)),
}

EMOTIONS: Mapping[str, Emotion] = {
    "neutral": Emotion(
        *(Range(0.95, 1.05), Range(0.4, 1.0), Range(-1.0, 0.0), Range(3.4, 4.2), 0.12, 1.5),
        *(Range(7, 9), Range(0.03, 0.08), Range(0.0, 0.03), 0.25, 1.0),
    ),
    "happy": Emotion(
        *(Range(1.35, 1.6), Range(3.0, 5.0), Range(3.0, 7.0), Range(5.0, 6.2), 0.08, 4.0),
        *(Range(4, 6), Range(0.03, 0.1), Range(0.0, 0.04), 0.2, 1.07),
    ),
    "sad": Emotion(
        *(Range(0.78, 0.9), Range(0.3, 1.0), Range(-4.5, -2.5), Range(1.8, 2.4), 0.3, 2.0),
        *(Range(12, 15), Range(0.3, 0.5), Range(0.0, 0.05), 0.45, 0.97),
    ),
    "angry": Emotion(
        *(Range(1.1, 1.3), Range(1.5, 3.0), Range(-5.0, -2.0), Range(4.4, 5.6), 0.08, 6.0),
        *(Range(1, 3), Range(0.05, 0.15), Range(0.25, 0.4), 0.05, 1.0),
    ),
}


def speak(rng: Rng, n: int, gender: str, emotion: str) -> Signal:
    """Random syllables in a voice of this gender and emotion; the level does not matter."""
    manner = EMOTIONS[emotion]
    track = _Track(rng, n, manner)
    pitch_hz = GENDERS[gender].pitch_hz.draw(rng) * manner.pitch.draw(rng) * track.pitch
    formants_hz = track.formants_hz * GENDERS[gender].formants.draw(rng) * manner.smile
    voiced = _pulses(rng, pitch_hz, manner.roughness.draw(rng)) * track.loudness
    breath = noise(rng, n, 100, 8000) * track.loudness * manner.breath.draw(rng) * 0.15
    hiss = noise(rng, n, 2800, 7800) * track.hiss * 0.004
    return _filter(voiced + breath, formants_hz, manner.tilt_db.draw(rng)) + hiss


class _Track:
    """The syllables of one clip as curves: ``pitch`` (a factor), ``loudness``, ``hiss`` of consonants, formants."""

    def __init__(self, rng: Rng, n: int, manner: Emotion) -> None:
        self.pitch, self.loudness, self.hiss = np.ones(n, np.float32), np.zeros(n, np.float32), np.zeros(n, np.float32)
        rate_hz, spread, bend = manner.rate_hz.draw(rng), manner.spread.draw(rng), manner.bend.draw(rng)
        vowels: list[tuple[int, np.ndarray]] = []
        start = samples(rng.uniform(0.02, 0.15))
        while start < n - samples(0.08):
            m = samples(rng.uniform(0.85, 1.15) / rate_hz)
            if rng.random() < 0.3:
                c = min(samples(rng.uniform(0.05, 0.1)), n - start)
                self.hiss[start : start + c] = swell(c, 0.3, 0.3) * rng.uniform(0.5, 1)
                start += c
            stop = min(start + m, n)
            semitones = spread * rng.standard_normal() + glide([0, bend * rng.uniform(0.6, 1.2)], m)[: stop - start]
            self.pitch[start:stop] = 2 ** (semitones / 12)
            gain = 10 ** (rng.uniform(-manner.accent_db, 0) / 20)
            self.loudness[start:stop] = gain * swell(m, manner.attack, 0.3)[: stop - start]
            vowels.append((start, _VOWELS_HZ[rng.integers(len(_VOWELS_HZ))] * rng.uniform(0.95, 1.05)))
            start = stop + (samples(rng.uniform(0.12, 0.35)) if rng.random() < manner.pauses else 0)
        frames = np.arange(0, n + _FRAME, _HOP)
        onsets, targets = [at for at, _ in vowels], np.stack([vowel for _, vowel in vowels])
        moving = [np.interp(frames, onsets, target) for target in targets.T]
        self.formants_hz = np.stack([*moving, np.full(len(frames), 3500.0)], axis=1)


def _pulses(rng: Rng, pitch_hz: Signal, roughness: float) -> Signal:
    """One impulse a period; ``roughness`` moves and scales them at random and weakens every other one."""
    n = len(pitch_hz)
    jitter = wander(rng, n, 100, 0.01 + 0.25 * roughness)
    cycle = np.floor(np.cumsum(pitch_hz * np.maximum(jitter, 0.4), dtype=np.float64) / RATE_HZ)
    at = np.flatnonzero(np.diff(cycle)) + 1
    height = (1 - roughness * (np.arange(len(at)) % 2)) * (1 + roughness * rng.uniform(-1, 1, len(at)))
    pulses = np.zeros(n, np.float32)
    pulses[at] = height * np.sqrt(RATE_HZ / pitch_hz[at]) * 0.1
    return pulses * swing(n, rng.uniform(60, 75), 0.9 * min(1.0, 2 * roughness))


def _filter(source: Signal, formants_hz: Float[np.ndarray, "frames formants"], tilt_db: Number) -> Signal:
    """Shape a source with moving resonances and a spectral tilt, frame by frame, by overlap and add."""
    n, num_frames = len(source), len(source) // _HOP + 1
    window = np.hanning(_FRAME + 1)[:-1].astype(np.float32)
    padded = np.pad(source, (_FRAME // 2, _FRAME))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _FRAME)[::_HOP][:num_frames] * window
    frequency = np.fft.rfftfreq(_FRAME, 1 / RATE_HZ).astype(np.float32)
    distance = (frequency[None, None] - formants_hz[:num_frames, :, None]) / _BANDWIDTHS_HZ[None, :, None]
    response = np.sum(1 / (1 + distance.astype(np.float32) ** 2), axis=1) + 0.02
    response *= 10 ** (-tilt_db / 20 * np.log2(np.maximum(frequency, 150) / 150))
    response[:, frequency < 60] = 0
    shaped = np.fft.irfft(np.fft.rfft(frames, axis=1) * response, axis=1).astype(np.float32)
    signal = np.zeros((num_frames + 1) * _HOP, np.float32)
    signal[: num_frames * _HOP] += shaped[:, :_HOP].ravel()
    signal[_HOP:] += shaped[:, _HOP:].ravel()
    return signal[_FRAME // 2 : _FRAME // 2 + n]
