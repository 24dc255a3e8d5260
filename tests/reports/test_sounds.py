"""The clips of a report: which audio is copied, which becomes smaller, and how waveforms and spectrograms are drawn."""

import io
import json
import re

import numpy as np
import pytest
import soundfile
import webdataset as wds

from ard.reports.sounds import HEIGHT, MOST_BYTES, NUM_BARS, copy_sounds, show_sounds, waveform_path
from ard.reports.spectrogram import DECIBELS, mel_decibels, spectrogram_png
from ard.reports.spectrogram import HEIGHT as BANDS
from ard.reports.spectrogram import WIDTH as MOMENTS

RATE = 16000


def write_shard(folder, clips):
    """Write audio as given, by id: samples and rate become FLAC."""
    folder.mkdir()
    with wds.TarWriter(str(folder / "000000.tar")) as shard:
        for place, (clip_id, (samples, rate)) in enumerate(clips.items()):
            flac = io.BytesIO()
            soundfile.write(flac, samples, rate, format="FLAC")
            shard.write(
                {"__key__": f"{place:06d}", "flac": flac.getvalue(), "json": json.dumps({"id": clip_id}).encode()}
            )


def tone(hertz, seconds=1.0, rate=RATE):
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def test_large_audio_becomes_mp3_of_the_same_length_where_there_is_such_a_rate(tmp_path):
    noise = np.random.default_rng(0).normal(scale=0.2, size=5 * RATE)
    write_shard(tmp_path / "probe", {"long": (noise, RATE), "short": (noise[:RATE], RATE), "odd": (noise, 15999)})
    shown = show_sounds([tmp_path / "probe"], ["short", "long", "odd", "missing"], tmp_path / "out")
    assert {clip: (of.file, of.is_smaller) for clip, of in shown.items()} == {
        "short": ("0000.flac", False),
        "long": ("0001.mp3", True),
        "odd": ("0002.flac", False),
    }
    samples, rate = soundfile.read(tmp_path / "out/0001.mp3")
    assert rate == RATE
    assert len(samples) == pytest.approx(len(noise), rel=0.03)
    assert (tmp_path / "out/0001.mp3").stat().st_size < MOST_BYTES < (tmp_path / "out/0002.flac").stat().st_size


def test_files_of_others_stay(tmp_path):
    write_shard(tmp_path / "probe", {"a": (tone(440), RATE)})
    (tmp_path / "out").mkdir()
    for name in ("0007.flac", "0007.png", "notes.txt", "cover.png"):
        (tmp_path / "out" / name).write_text("x", encoding="utf-8")
    show_sounds([tmp_path / "probe"], ["a"], tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "0000.flac",
        "0000.png",
        "cover.png",
        "notes.txt",
    ]


def test_the_study_gets_its_clips_unchanged(tmp_path):
    noise = np.random.default_rng(0).normal(scale=0.2, size=5 * RATE)
    write_shard(tmp_path / "probe", {"long": (noise, RATE)})
    sounds = copy_sounds([tmp_path / "probe"], ["long"], tmp_path / "out")
    samples, _ = soundfile.read(tmp_path / "out" / sounds["long"].file)
    np.testing.assert_allclose(samples, noise, atol=1e-4)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 48000])
def test_a_higher_tone_is_higher_up(rate):
    rows = [mel_decibels(tone(hertz, rate=rate), rate).mean(axis=1).argmax() for hertz in (200, 800, 3200)]
    assert rows == sorted(set(rows))


def test_a_sound_is_drawn_when_it_is_heard():
    decibels = mel_decibels(np.r_[np.zeros(RATE), tone(1000)], RATE)
    assert decibels.shape == (BANDS, MOMENTS)
    assert decibels.max() == pytest.approx(0)
    loud = decibels.max(axis=0) > -20
    assert not loud[: MOMENTS // 2 - 5].any()
    assert loud[MOMENTS // 2 + 5 : -5].all()


@pytest.mark.parametrize("num_samples", [0, 1, 100])
def test_silence_and_next_to_nothing_are_blank(num_samples):
    assert (mel_decibels(np.zeros(num_samples), RATE) == -DECIBELS).all()


def test_the_picture_is_the_spectrogram():
    decoded = pytest.importorskip("PIL.Image").open
    decibels = mel_decibels(tone(1000), RATE)
    picture = decoded(io.BytesIO(spectrogram_png(tone(1000), RATE)))
    opacity = np.asarray(picture.convert("RGBA"))[:, :, 3]
    assert opacity.shape == (BANDS, MOMENTS)
    np.testing.assert_allclose(opacity[::-1] / 255, (decibels / DECIBELS + 1).clip(0, 1), atol=0.04)


@pytest.mark.parametrize("num_samples", [0, 1, 50, 16000])
def test_a_waveform_stays_in_its_box(num_samples):
    rng = np.random.default_rng(num_samples)
    bars = re.findall(r"M(\d+) ([\d.]+)v([\d.]+)", waveform_path(rng.normal(size=num_samples).astype("float32")))
    assert len(bars) == NUM_BARS
    assert all(float(y) >= 0 and float(y) + float(h) <= HEIGHT + 0.1 for _, y, h in bars)


def test_a_louder_stretch_is_drawn_taller(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.r_[np.zeros(800), 0.5 * np.ones(800)], 16000)
    samples, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    heights = [float(h) for h in re.findall(r"v([\d.]+)", waveform_path(samples))]
    assert max(heights[: NUM_BARS // 2 - 1]) < min(heights[NUM_BARS // 2 + 1 :])
