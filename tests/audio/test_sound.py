"""Sounds are read to their true end, whatever their headers tell, and what was amiss is noted."""

import io

import numpy as np
import pytest
import soundfile

from ard.audio.decoding import decode, decode_pieces
from ard.types import Failure
from experiments.torture.sounds import encoded, flac_that_tells, half, mp3_without_length, tone, wav_that_tells

RATE = 16_000


def all_of(content):
    recording = decode(content, "x")
    assert not isinstance(recording, Failure), recording
    return recording


@pytest.mark.parametrize(
    ("container", "subtype"),
    [
        ("WAV", "PCM_16"),
        ("WAV", "PCM_24"),
        ("WAV", "FLOAT"),
        ("WAVEX", "PCM_16"),
        ("FLAC", "PCM_16"),
        ("OGG", "VORBIS"),
        ("OGG", "OPUS"),
        ("MP3", "MPEG_LAYER_III"),
        ("AIFF", "PCM_16"),
    ],
)
def test_an_ordinary_file_gives_just_what_soundfile_reads(container, subtype, tmp_path):
    stereo = np.stack([tone(3.0), tone(3.0, peak=0.2)[::-1]], axis=1)
    content = encoded(stereo, container=container, subtype=subtype)
    whole, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    waveform, sample_rate_hz, note = all_of(content)
    assert (sample_rate_hz, note) == (rate, None)
    np.testing.assert_allclose(waveform, whole.mean(axis=1), atol=1e-7 if container == "MP3" else 0, rtol=0)
    (tmp_path / "file").write_bytes(content)
    np.testing.assert_array_equal(all_of(tmp_path / "file").waveform, waveform)


def test_mp3_that_does_not_tell_its_length_is_read_whole():
    content = mp3_without_length()
    with soundfile.SoundFile(io.BytesIO(content)) as guessed:
        assert guessed.frames < 9 * 44_100, "libsndfile guesses right: the test tests nothing"
    waveform, _, note = all_of(content)
    assert 10.0 <= len(waveform) / 44_100 < 10.1
    assert note is None
    assert all_of(content + b"TAG" + bytes(125)).waveform.shape == waveform.shape


@pytest.mark.parametrize("num_samples", [0, RATE, 2**36 - 1])
def test_flac_is_read_whole_whatever_its_header_tells(num_samples):
    content = encoded(tone(3.0), container="FLAC")
    waveform, _, note = all_of(flac_that_tells(num_samples, content))
    np.testing.assert_array_equal(waveform, all_of(content).waveform)
    assert note == {
        0: None,
        RATE: "its header says 1.00 s, but 3.00 s were read",
        2**36 - 1: "cut short: 3.00 of 4294967.30 s could be read",
    }.get(num_samples)


@pytest.mark.parametrize(
    ("num_bytes", "note"),
    [
        (0, None),
        (0xFFFFFFFF, None),
        (0x7FFFFF00, None),
        (2 * RATE, "its header says 1.00 s, but 4.00 s were read"),
        (16 * RATE, "cut short: 4.00 of 8.00 s could be read"),
    ],
)
def test_wav_is_read_whole_whatever_its_header_tells(num_bytes, note):
    content = encoded(tone(4.0))
    recording = all_of(wav_that_tells(num_bytes, content))
    np.testing.assert_array_equal(recording.waveform, all_of(content).waveform)
    assert recording.note == note


def test_chunks_after_the_samples_of_wav_are_no_sound():
    content = encoded(tone(1.0)) + b"LIST" + (100_000).to_bytes(4, "little") + bytes(100_000)
    assert len(all_of(content).waveform) == RATE


@pytest.mark.parametrize("container", ["MP3", "OGG"])
def test_files_put_together_are_read_to_the_last(container):
    first, second = (encoded(part, container=container) for part in (tone(2.0), tone(1.0, peak=0.3)))
    waveform, _, note = all_of(first + second)
    np.testing.assert_array_equal(waveform, np.concatenate([all_of(first).waveform, all_of(second).waveform]))
    assert note == ("its header says 2.00 s, but 3.00 s were read" if container == "MP3" else None)


@pytest.mark.parametrize("container", ["MP3", "OGG"])
def test_a_sound_of_another_rate_in_the_same_file_is_noted(container):
    waveform, rate, note = all_of(encoded(tone(2.0), container=container) + encoded(tone(1.0), 8000, container))
    assert (len(waveform) / rate, rate) == (2.0, RATE)
    assert note == "only its first 2.00 s could be read: a sound of another kind follows in the same file"


@pytest.mark.parametrize("container", ["WAV", "FLAC", "MP3", "OGG", "AIFF"])
def test_a_file_that_is_cut_short_gives_what_there_is_and_says_how_much(container):
    content = encoded(tone(20.0), container=container)
    waveform, rate, note = all_of(half(content))
    read_s = len(waveform) / rate
    assert 2 < read_s < 18
    if container == "OGG":
        assert note == f"cut short: its end is missing, {read_s:.2f} s could be read"
    elif container != "AIFF":  # libsndfile mends its header in silence
        assert note == f"cut short: {read_s:.2f} of 20.00 s could be read"
    whole = all_of(content).waveform
    np.testing.assert_allclose(waveform[:RATE], whole[:RATE], atol=1e-6)


def test_flac_that_is_damaged_and_tells_no_length_says_what_could_be_read():
    content = bytearray(flac_that_tells(0, encoded(tone(20.0), container="FLAC")))
    content[len(content) // 2 :] = bytes(len(content) // 2)
    waveform, rate, note = all_of(bytes(content))
    assert note == f"damaged: only its first {len(waveform) / rate:.2f} s could be read"


def test_a_disk_that_fails_is_no_end_of_the_sound(tmp_path, monkeypatch):
    class Failing(io.BytesIO):
        def readinto(self, buffer):
            if self.tell() > 20_000:
                raise OSError(5, "Input/output error")
            return super().readinto(buffer)

    monkeypatch.setattr("ard.audio.decoding.io.BytesIO", Failing)
    assert decode(encoded(tone(4.0)), "x") == Failure("x", "audio", "cannot be read (Input/output error)")


@pytest.mark.parametrize("longest_s", [0.7, 1.0, 3.0, 10.0])
def test_pieces_are_equal_and_lose_no_sample(longest_s):
    content = encoded(tone(3.1), container="FLAC")
    whole = all_of(content).waveform
    pieces = list(decode_pieces(content, "x", longest_s))
    sizes = [len(recording.waveform) for _, recording in pieces]
    assert sizes == [len(part) for part in np.array_split(whole, -(-len(whole) // round(longest_s * RATE)))]
    np.testing.assert_array_equal(np.concatenate([recording.waveform for _, recording in pieces]), whole)
    assert [which for which, _ in pieces] == ([f"#{n:04d}" for n in range(len(pieces))] if len(pieces) > 1 else [""])
