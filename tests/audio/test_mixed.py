"""Mixtures of stored clips: their levels, labels and order, and what cannot be mixed."""

from collections import Counter

import numpy as np
import pytest

from ard.audio import MixedClips, read_clips, write_audio_shards
from ard.types import Clip, UserError

RATE_HZ = 16000


def tone(name, hz, seconds=1.0, labels=(), rate_hz=RATE_HZ, amplitude=0.3):
    time_s = np.arange(int(seconds * rate_hz)) / rate_hz
    return Clip(name, (amplitude * np.sin(2 * np.pi * hz * time_s)).astype(np.float32), rate_hz, "tones", labels=labels)


@pytest.fixture
def stored(tmp_path):
    clips = [tone(f"low-{i}", 200, labels=("low",)) for i in range(6)]
    write_audio_shards([*clips, tone("high", 3000, 0.4, labels=("high",), rate_hz=22050)], tmp_path / "audio")
    return tmp_path / "audio"


def power_at(clip, hz):
    spectrum = np.abs(np.fft.rfft(clip.waveform)) ** 2
    return spectrum[np.abs(np.fft.rfftfreq(len(clip.waveform), 1 / clip.sample_rate_hz) - hz) < 30].sum()


def test_a_mixture_has_its_clip_above_its_background_by_the_level(stored):
    for clip in MixedClips(stored, levels_db=[20, 3]):
        if clip.mixture.source.startswith("low") and clip.mixture.background == "high":
            level_db = 10 * np.log10(power_at(clip, 200) / power_at(clip, 3000))
            assert level_db == pytest.approx(clip.mixture.level_db, abs=0.7)
            assert len(clip.waveform) == RATE_HZ
            assert np.abs(clip.waveform).max() <= 1
            assert clip.labels == ("low", "high")
            break
    else:
        pytest.fail("no low tone before the high one")


def test_every_clip_is_mixed_once_with_another_that_shares_no_label_with_it(stored):
    mixed = list(MixedClips(stored))
    assert Counter(clip.mixture.source for clip in mixed) == Counter([*(f"low-{i}" for i in range(6)), "high"])
    assert all(clip.mixture.source != clip.mixture.background for clip in mixed)
    assert {clip.mixture.background for clip in mixed if clip.mixture.source.startswith("low")} == {"high"}
    assert Counter(clip.mixture.level_db for clip in mixed) == {10: 4, 0: 3}


def test_labels_take_turns(stored):
    assert {clip.mixture.source == "high" for clip in MixedClips(stored, num_clips=2)} == {True, False}


def test_a_seed_gives_the_same_mixtures_and_shards_keep_what_they_were_mixed_from(stored, tmp_path):
    first, again = (list(MixedClips(stored, seed=3)) for _ in range(2))
    assert all(np.array_equal(one.waveform, other.waveform) for one, other in zip(first, again, strict=True))
    write_audio_shards(first, tmp_path / "made")
    assert [clip.mixture for clip in read_clips(tmp_path / "made")] == [clip.mixture for clip in first]
    assert [clip.mixture for clip in MixedClips(stored, seed=4)] != [clip.mixture for clip in first]


def test_a_background_that_begins_with_silence_can_be_mixed(tmp_path):
    late = np.zeros(2 * RATE_HZ, dtype=np.float32)
    late[-10:] = 0.5
    write_audio_shards([Clip("late", late, RATE_HZ, "tones"), tone("low", 200)], tmp_path / "audio")
    assert all(np.isfinite(clip.waveform).all() for clip in MixedClips(tmp_path / "audio"))


def test_what_cannot_be_mixed_is_refused(tmp_path):
    write_audio_shards([tone("low", 200)], tmp_path / "audio")
    with pytest.raises(UserError, match="holds 1 clips: two or more are needed"):
        list(MixedClips(tmp_path / "audio"))
    with pytest.raises(UserError, match="no level"):
        MixedClips(tmp_path / "audio", levels_db=[])
    with pytest.raises(UserError, match="no finished audio shards"):
        list(MixedClips(tmp_path / "none"))
