"""The synthetic corpus: sound events and speech-like voices made on the fly, every clip with its true labels."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple
from zlib import crc32

import numpy as np

from ard.audio import voices
from ard.audio.nature import NATURE
from ard.audio.signals import RATE_HZ, Number, Signal, noise, samples, tone
from ard.audio.things import THINGS
from ard.types import Clip

SYNTHESIZERS = {**NATURE, **THINGS}
"""Every sound event by name, in the order in which captions name them."""
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


class Scene(NamedTuple):
    """What is heard in a clip: its events in canonical order, and the speaker's emotion and gender if one speaks."""

    num_samples: int
    events: tuple[str, ...]
    emotion: str | None = None
    gender: str | None = None

    @property
    def caption(self) -> str:
        """The scene in words, such as ``a man speaking in a happy voice and rain``."""
        phrases = list(self.events)
        if self.gender:
            phrases.insert(0, f"a {_SPEAKERS[self.gender]} speaking in {_article(self.emotion)} {self.emotion} voice")
        return " and ".join(filter(None, (", ".join(phrases[:-1]), phrases[-1])))

    @property
    def labels(self) -> tuple[str, ...]:
        """The scene's members of :data:`LABELS`."""
        spoken = (f"{_SPEAKERS[self.gender]} speaking", f"{self.emotion} voice") if self.gender else ()
        return (*spoken, *self.events)

    @classmethod
    def draw(cls, rng: np.random.Generator, speech_share: float, label: str | None = None) -> "Scene":
        """One scene at random, or one that has a label."""
        num_samples = samples(rng.uniform(*_DURATION_S))
        if label is not None:
            speech_share = float(label not in EVENTS)
        if rng.random() < speech_share:
            emotion, gender = str(rng.choice(EMOTIONS)), str(rng.choice(GENDERS))
            events = _draw_events(rng, int(rng.random() < _SPEECH_WITH_EVENT_SHARE))
            emotion = next((other for other in EMOTIONS if label == f"{other} voice"), emotion)
            gender = next((other for other in GENDERS if label == f"{_SPEAKERS[other]} speaking"), gender)
            return cls(num_samples, events, emotion, gender)
        count = 1 + int(rng.choice(len(_EVENT_COUNT_SHARES), p=_EVENT_COUNT_SHARES))
        events = _draw_events(rng, count)
        if label is not None and label not in events:
            events = tuple(sorted((*events[1:], label), key=EVENTS.index))
        return cls(num_samples, events)

    def render(self, rng: np.random.Generator) -> Signal:
        """Make the sound. An event behind a voice stays in the background; events differ by up to 6 dB."""
        n = self.num_samples
        sources = [_loud_part_to_one(SYNTHESIZERS[event](rng, n)) * _gain(rng, -3, 3) for event in self.events]
        if self.gender and self.emotion:
            voice = _loud_part_to_one(voices.speak(rng, n, self.gender, self.emotion))
            sources = [voice, *(0.4 * source for source in sources)]
        return _record(rng, np.sum(sources, axis=0))


class SyntheticCorpus(Sequence[Clip]):
    """Clips of 1.5 to 4 s at 16 kHz with true captions, labels, emotions and genders.

    Clip ``i`` depends on ``(seed, split, i)`` alone: a longer corpus begins with the same clips, any clip can be made
    on its own, and splits of different names share none.

    Args:
        split: any name; it seeds the clips and begins their ids.
        num_clips: number of clips.
        seed: another seed gives other clips under the same ids.
        speech_share: the chance that a clip is speech.
        every_label: whether the labels take turns, one a clip, beside whatever else is drawn; ``speech_share`` is then
            the share of labels that voices have.
    """

    def __init__(
        self, split: str, num_clips: int, *, seed: int = 0, speech_share: float = 0.3, every_label: bool = False
    ) -> None:
        self.split = split
        self.num_clips = num_clips
        self.seed = seed
        self.speech_share = speech_share
        self.every_label = every_label

    def __len__(self) -> int:
        return self.num_clips

    def __iter__(self) -> Iterator[Clip]:
        return map(self.__getitem__, range(self.num_clips))

    def __getitem__(self, index: int) -> Clip:  # type: ignore[override]  # no slices: a clip is made, not stored
        rng = self._generator(index)
        scene = self._scene(rng, index)
        return Clip(
            id=f"{self.split}-{index % self.num_clips:06d}",
            waveform=scene.render(rng),
            sample_rate_hz=RATE_HZ,
            dataset="synthetic",
            caption=scene.caption,
            labels=scene.labels,
            emotion=scene.emotion,
            gender=scene.gender,
        )

    def scene(self, index: int) -> Scene:
        """What is heard in a clip, without making its sound."""
        return self._scene(self._generator(index), index)

    def _scene(self, rng: np.random.Generator, index: int) -> Scene:
        label = LABELS[index % self.num_clips % len(LABELS)] if self.every_label else None
        return Scene.draw(rng, self.speech_share, label)

    def _generator(self, index: int) -> np.random.Generator:
        if not -self.num_clips <= index < self.num_clips:
            raise IndexError(f"clip {index} asked of a corpus of {self.num_clips}: give a smaller index")
        return np.random.default_rng([self.seed, crc32(self.split.encode()), index % self.num_clips])


def _article(word: str | None) -> str:
    return "an" if word and word[0] in "aeiou" else "a"


def _draw_events(rng: np.random.Generator, count: int) -> tuple[str, ...]:
    return tuple(EVENTS[i] for i in np.sort(rng.choice(len(EVENTS), count, replace=False)))


def _loud_part_to_one(signal: Signal) -> Signal:
    """Scale by the loud part, so that a rare knock and a steady rain are about equally loud."""
    power = np.add.reduceat(signal**2, np.arange(0, len(signal), 400)) / 400
    return signal / np.sqrt(np.mean(np.sort(power)[-max(1, len(power) // 4) :]) + 1e-12)


def _gain(rng: np.random.Generator, low_db: Number, high_db: Number) -> float:
    return float(10 ** (rng.uniform(low_db, high_db) / 20))


def _record(rng: np.random.Generator, signal: Signal) -> Signal:
    """Add low background noise (white, pink or a mains hum) at random; set the peak between -16 and -1 dB."""
    n = len(signal)
    background = (
        lambda: noise(rng, n, 20, 8000),
        lambda: noise(rng, n, 20, 8000, 0.5),
        lambda: tone(n, float(rng.choice([50, 60])), [1, 0.5, 0.3]) + 0.3 * noise(rng, n, 20, 8000, 0.5),
    )[rng.integers(3)]()
    noisy = signal / np.abs(signal).max() + _gain(rng, -60, -38) * background
    return (noisy / np.abs(noisy).max() * _gain(rng, -16, -1)).astype(np.float32)
