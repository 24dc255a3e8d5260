"""The synthetic corpus: sound events and speech-like voices made on the fly, every clip with its true labels."""

from collections.abc import Iterator, Sequence
from zlib import crc32

import numpy as np

from ard.audio import voices
from ard.audio.nature import NATURE
from ard.audio.signals import RATE_HZ, Signal, noise, samples, tone
from ard.audio.things import THINGS
from ard.types import Clip

SYNTHESIZERS = {**NATURE, **THINGS}
"""Every sound event by its name; this order is the canonical one in captions."""
EVENTS: tuple[str, ...] = tuple(SYNTHESIZERS)
EMOTIONS: tuple[str, ...] = tuple(voices.EMOTIONS)
GENDERS: tuple[str, ...] = tuple(voices.GENDERS)
_SPEAKERS = {"male": "man", "female": "woman"}
LABELS: tuple[str, ...] = (
    *EVENTS,
    *(f"{_SPEAKERS[gender]} speaking" for gender in GENDERS),
    *(f"{emotion} voice" for emotion in EMOTIONS),
)
"""Every label a clip may have: the events, then the speakers, then the emotions."""

_DURATION_S = (1.5, 4.0)
_EVENT_COUNT_SHARES = (0.55, 0.3, 0.15)
_SPEECH_WITH_EVENT_SHARE = 0.15


class SyntheticCorpus(Sequence[Clip]):
    """Clips of 1.5 to 4 s at 16 kHz with true captions, labels, emotions and genders.

    Clip ``i`` depends on ``(seed, split, i)`` alone: a longer corpus begins with the same clips, any clip can be made
    alone, and splits of different names share none.

    Args:
        split: Any name; it seeds the clips and begins their ids.
        num_clips: How many clips there are.
        seed: Another seed gives other clips under the same ids.
        speech_share: The chance that a clip is speech.
    """

    def __init__(self, split: str, num_clips: int, *, seed: int = 0, speech_share: float = 0.3) -> None:
        self.split = split
        self.num_clips = num_clips
        self.seed = seed
        self.speech_share = speech_share

    def __len__(self) -> int:
        return self.num_clips

    def __iter__(self) -> Iterator[Clip]:
        return map(self._clip, range(self.num_clips))

    def __getitem__(self, index: int) -> Clip:  # type: ignore[override]  # no slices: a clip is made, not stored
        if not -self.num_clips <= index < self.num_clips:
            raise IndexError(f"clip {index} of {self.num_clips}")
        return self._clip(index % self.num_clips)

    def _clip(self, index: int) -> Clip:
        rng = np.random.default_rng([self.seed, crc32(self.split.encode()), index])
        n = samples(rng.uniform(*_DURATION_S))
        speech = rng.random() < self.speech_share
        emotion, gender = (str(rng.choice(EMOTIONS)), str(rng.choice(GENDERS))) if speech else (None, None)
        events = _draw_events(rng, speech=speech)
        sources = [_active_rms_to_one(SYNTHESIZERS[event](rng, n)) * _gain(rng, 3.0) for event in events]
        if emotion and gender:
            # An event behind a voice stays behind it.
            voice = _active_rms_to_one(voices.speak(rng, n, gender, emotion))
            sources = [voice, *(0.4 * source for source in sources)]
        return Clip(
            id=f"{self.split}-{index:06d}",
            waveform=_record(rng, np.sum(sources, axis=0)),
            sample_rate_hz=RATE_HZ,
            dataset="synthetic",
            caption=_caption(events, emotion, gender),
            labels=_labels(events, emotion, gender),
            emotion=emotion,
            gender=gender,
        )


def _draw_events(rng: np.random.Generator, *, speech: bool) -> tuple[str, ...]:
    """Names of different events in canonical order."""
    if speech:
        count = int(rng.random() < _SPEECH_WITH_EVENT_SHARE)
    else:
        count = 1 + int(rng.choice(len(_EVENT_COUNT_SHARES), p=_EVENT_COUNT_SHARES))
    return tuple(EVENTS[i] for i in np.sort(rng.choice(len(EVENTS), count, replace=False)))


def _caption(events: Sequence[str], emotion: str | None, gender: str | None) -> str:
    phrases = list(events)
    if emotion and gender:
        phrases.insert(0, f"a {_SPEAKERS[gender]} speaking in a {emotion} voice")
    return " and ".join(filter(None, (", ".join(phrases[:-1]), phrases[-1])))


def _labels(events: Sequence[str], emotion: str | None, gender: str | None) -> tuple[str, ...]:
    return (*((f"{_SPEAKERS[gender]} speaking", f"{emotion} voice") if emotion and gender else ()), *events)


def _active_rms_to_one(signal: Signal) -> Signal:
    """Scale by the loud part, so that a rare knock and a steady rain sound as loud."""
    power = np.add.reduceat(signal**2, np.arange(0, len(signal), 400)) / 400
    return signal / np.sqrt(np.mean(np.sort(power)[-max(1, len(power) // 4) :]) + 1e-12)


def _gain(rng: np.random.Generator, spread_db: float) -> float:
    return float(10 ** (rng.uniform(-spread_db, spread_db) / 20))


def _record(rng: np.random.Generator, signal: Signal) -> Signal:
    """Add low background noise (white, pink or a mains hum) at random; set the peak between -16 and -1 dB."""
    n = len(signal)
    background = (
        lambda: noise(rng, n, 20, 8000),
        lambda: noise(rng, n, 20, 8000, 0.5),
        lambda: tone(n, float(rng.choice([50, 60])), [1, 0.5, 0.3]) + 0.3 * noise(rng, n, 20, 8000, 0.5),
    )[rng.integers(3)]()
    noisy = signal / np.abs(signal).max() + 10 ** (rng.uniform(-60, -38) / 20) * background
    return (noisy / np.abs(noisy).max() * 10 ** (rng.uniform(-16, -1) / 20)).astype(np.float32)
