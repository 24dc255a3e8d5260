"""The synthetic corpus against its description: everything it says of a clip is true of the clip."""

from collections import Counter

import numpy as np
import pytest

from ard.audio import voices
from ard.audio.signals import RATE_HZ, noise
from ard.audio.synthetic import EMOTIONS, EVENTS, GENDERS, LABELS, SYNTHESIZERS, SyntheticCorpus


@pytest.fixture(scope="module")
def clips():
    return list(SyntheticCorpus("train", 150))


@pytest.mark.slow
def test_a_clip_depends_on_seed_split_and_number_alone(clips):
    again = SyntheticCorpus("train", 9)
    assert len(again) == 9
    for index in (8, 0, 3, -1):
        assert again[index].id == clips[index % 9].id
        np.testing.assert_array_equal(again[index].waveform, clips[index % 9].waveform)
    assert again.scene(3).caption == clips[3].caption
    assert not np.array_equal(SyntheticCorpus("train", 1, seed=1)[0].waveform, clips[0].waveform)


@pytest.mark.slow
def test_splits_share_no_clip(clips):
    other = list(SyntheticCorpus("heldout", 150))
    assert not {clip.waveform.tobytes() for clip in clips} & {clip.waveform.tobytes() for clip in other}
    assert not {clip.id for clip in clips} & {clip.id for clip in other}


def test_a_clip_outside_the_corpus_is_refused():
    with pytest.raises(IndexError, match="clip 2 asked of a corpus of 2: give a smaller index"):
        SyntheticCorpus("train", 2)[2]


def test_waveforms_are_in_range(clips):
    for clip in clips:
        assert clip.sample_rate_hz == RATE_HZ
        assert clip.waveform.dtype == np.float32
        assert 1.5 <= clip.duration_s <= 4.0
        assert np.isfinite(clip.waveform).all()
        assert 10 ** (-16 / 20) - 1e-6 <= np.abs(clip.waveform).max() <= 10 ** (-1 / 20) + 1e-6
    assert np.std([clip.duration_s for clip in clips]) > 0.5


def test_labels_and_captions_agree(clips):
    assert len(set(LABELS)) == len(LABELS) == len(EVENTS) + len(GENDERS) + len(EMOTIONS)
    for clip in clips:
        events = [label for label in clip.labels if label in EVENTS]
        assert set(clip.labels) <= set(LABELS)
        assert events == sorted(events, key=EVENTS.index)
        assert (clip.emotion is None) == (clip.gender is None) == (len(events) == len(clip.labels))
        phrases = clip.caption.replace(" and ", ", ").split(", ")
        assert phrases[-len(events) :] == events if events else len(phrases) == 1
        if clip.gender:
            person, article = {"male": "man", "female": "woman"}[clip.gender], "an" if clip.emotion == "angry" else "a"
            assert phrases[0] == f"a {person} speaking in {article} {clip.emotion} voice"
            assert clip.labels[:2] == (f"{person} speaking", f"{clip.emotion} voice")


def test_shares_of_the_kinds_of_clips():
    corpus = SyntheticCorpus("train", 4000, speech_share=0.3)
    scenes = [corpus.scene(index) for index in range(len(corpus))]
    kinds = Counter((scene.gender is not None, len(scene.events)) for scene in scenes)
    speech, quiet = sum(kinds[True, n] for n in range(4)), sum(kinds[False, n] for n in range(4))
    assert speech / len(scenes) == pytest.approx(0.3, abs=0.03)
    assert kinds[False, 1] / quiet == pytest.approx(0.55, abs=0.03)
    assert kinds[True, 1] / speech == pytest.approx(0.15, abs=0.03)
    assert set(Counter(scene.emotion for scene in scenes)) == {None, *EMOTIONS}
    assert {event for scene in scenes for event in scene.events} == set(EVENTS)


@pytest.mark.parametrize("event", EVENTS)
def test_an_event_is_audible_finite_and_never_twice_the_same(event):
    first, second = (SYNTHESIZERS[event](np.random.default_rng(seed), 2 * RATE_HZ) for seed in (0, 1))
    for signal in (first, second):
        assert signal.shape == (2 * RATE_HZ,)
        assert np.isfinite(signal).all()
        assert np.abs(signal).max() > 1e-3
    assert not np.allclose(first, second)
    assert SYNTHESIZERS[event](np.random.default_rng(0), RATE_HZ).shape == (RATE_HZ,)


@pytest.mark.slow
def test_events_are_distinct():
    """A nearest mean over plain spectra and modulations tells them apart, so a trained ear can."""
    rng = np.random.default_rng(0)
    known, asked = (
        np.stack([[_describe(SYNTHESIZERS[event](rng, 2 * RATE_HZ)) for _ in range(8)] for event in EVENTS])
        for _ in range(2)
    )
    means = known.mean(axis=1)
    scale = (known - means[:, None]).std(axis=(0, 1)) + 1e-6
    distances = np.abs((asked[:, :, None] - means) / scale).mean(axis=-1)
    right = distances.argmin(axis=-1) == np.arange(len(EVENTS))[:, None]
    assert right.mean() > 0.8
    assert right.mean(axis=1).min() > 0


def _describe(signal):
    frames = np.lib.stride_tricks.sliding_window_view(signal, 512)[::256] * np.hanning(512)
    power = np.abs(np.fft.rfft(frames)) ** 2
    bands = np.stack([part.sum(axis=1) for part in np.array_split(power[:, 1:], 32, axis=1)])
    spectrum = np.log(bands.mean(axis=1) / bands.sum() + 1e-7)
    level = np.log(bands.sum(axis=0) / bands.sum() + 1e-6)
    return np.concatenate([spectrum, np.log(np.abs(np.fft.rfft(level - level.mean()))[1:40] + 1)])


@pytest.mark.parametrize("gender", GENDERS)
def test_emotions_differ_in_pitch_and_timbre(gender):
    pitch_hz = voices.GENDERS[gender].pitch_hz
    brightness = {}
    for emotion in EMOTIONS:
        spoken = [voices.speak(np.random.default_rng(seed), 3 * RATE_HZ, gender, emotion) for seed in range(6)]
        assert all(np.isfinite(signal).all() and np.abs(signal).max() > 0 for signal in spoken)
        power = np.mean([np.abs(np.fft.rfft(signal)) ** 2 / np.mean(signal**2) for signal in spoken], axis=0)
        frequency = np.fft.rfftfreq(3 * RATE_HZ, 1 / RATE_HZ)
        voiced = frequency < 2700  # consonants hiss above
        brightness[emotion] = power[voiced & (frequency > 700)].sum() / power[voiced].sum()
        assert frequency[power.argmax()] > 0.5 * pitch_hz.low
    assert brightness["sad"] < brightness["neutral"] < brightness["happy"] < brightness["angry"]


def test_noise_stays_in_its_band_at_unit_rms():
    signal = noise(np.random.default_rng(0), RATE_HZ, 1000, 2000)
    power, frequency = np.abs(np.fft.rfft(signal)) ** 2, np.fft.rfftfreq(RATE_HZ, 1 / RATE_HZ)
    assert np.sqrt(np.mean(signal**2)) == pytest.approx(1, abs=1e-3)
    assert power[(frequency >= 990) & (frequency <= 2010)].sum() / power.sum() > 0.999


def test_labels_can_take_turns():
    made = SyntheticCorpus("made", 2 * len(LABELS) + 1, every_label=True)
    labels = [made.scene(index).labels for index in range(len(made))]
    assert all(LABELS[index % len(LABELS)] in of_clip for index, of_clip in enumerate(labels))
    assert labels[0] != labels[len(LABELS)] or made.scene(0) != made.scene(len(LABELS))
    assert made[3].labels == labels[3]
