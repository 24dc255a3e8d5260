"""Decoding: any bytes give a recording that holds its contract, or a failure."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from ard.audio.decoding import decode, decode_pieces, divisor
from ard.types import Failure
from experiments.torture.damage import (
    FILES,
    SHARDS,
    STORES,
    decoding_holds,
    hold,
    shard_reading_holds,
    store_reading_holds,
)
from experiments.torture.sounds import encoded, noise_file, tone

NUM_EXAMPLES = 100


@pytest.mark.slow
def test_damaged_files_give_a_recording_or_a_failure():
    hold(FILES, decoding_holds, NUM_EXAMPLES)


@pytest.mark.slow
def test_damaged_shards_give_what_was_written_or_say_what_is_wrong(tmp_path):
    hold(SHARDS, lambda content: shard_reading_holds(content, tmp_path / "000000.tar"), NUM_EXAMPLES)


@pytest.mark.slow
def test_damaged_stores_give_what_was_written_or_say_what_is_wrong(tmp_path):
    hold(STORES, lambda file: store_reading_holds(file, tmp_path), NUM_EXAMPLES)


@pytest.mark.parametrize(
    ("peak", "is_lossy", "by"),
    [
        (0.3, False, 1.0),
        (1.0, False, 1.0),
        (2.0, False, 2.0),
        (16.0, False, 16.0),
        (17.0, False, 2.0**15),
        (32_768.0, False, 2.0**15),
        (50_000.0, False, 50_000.0),
        (2.0**23, False, 2.0**23),
        (2.0**31, False, 2.0**31),
        (1e12, False, None),
        (1.3, True, 1.0),
        (1.3, False, 1.3),
        (2.0, True, 2.0),
    ],
)
def test_samples_beyond_full_scale_are_divided_by_a_rule(peak, is_lossy, by):
    assert divisor(peak, is_lossy) == by


def test_what_was_divided_keeps_its_shape_and_is_noted():
    samples = tone(0.5)
    recording = decode(encoded(samples * 20_000, subtype="FLOAT"), "x")
    np.testing.assert_allclose(recording.waveform, samples * 20_000 / 2**15, atol=1e-6)
    assert recording.note == "divided by 32768: its samples went up to 10000, beyond full scale"
    pieces = [piece for _, piece in decode_pieces(encoded(samples * 4, subtype="FLOAT"), "x", 0.25)]
    np.testing.assert_allclose(np.concatenate([piece.waveform for piece in pieces]), samples * 2, atol=1e-6)
    assert {piece.note for piece in pieces} == {"divided by 2: its samples went up to 2, beyond full scale"}


def test_samples_of_no_scale_are_a_failure():
    decoded = decode(encoded(tone(0.5) * np.float32(1e30), subtype="FLOAT"), "x")
    assert decoded == Failure("x", "audio", "its samples go up to 5.0e+29, beyond any scale of sound")


def test_a_piece_that_cannot_be_used_takes_no_other_with_it():
    samples = tone(3.0)
    samples[RATE := 16_000] = np.nan
    samples[2 * RATE :] = 0
    decoded = [item for _, item in decode_pieces(encoded(samples, subtype="FLOAT"), "x", 1.0)]
    assert len(decoded[0].waveform) == RATE
    assert decoded[1] == Failure("x#0001", "audio", "has samples that are NaN or infinite")
    assert decoded[2].reason.startswith("silent: its peak is 0.0e+00")


def test_a_silent_or_short_file_is_one_failure_however_many_pieces_it_would_make():
    ((_, silent),) = decode_pieces(encoded(np.zeros(48_000, np.float32)), "x", 1.0)
    assert silent.reason.startswith("silent: ")
    ((_, short),) = decode_pieces(encoded(tone(0.1)), "x", 0.01)
    assert short.reason.startswith("too short: 0.100 s")


@pytest.mark.parametrize("rate_hz", [1, 999, 1_000_001])
def test_a_rate_that_is_none_of_sound_is_a_failure(rate_hz):
    reason = decode(encoded(tone(1.0), rate_hz), "x").reason
    assert reason == f"its sample rate is {rate_hz} Hz, which is not between 1000 and 1000000"


def test_whatever_decoding_raises_is_a_failure_of_that_file(monkeypatch):
    def explode(*_):
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr("ard.audio.decoding.Sndfile", explode)
    assert decode(encoded(tone(1.0)), "x") == Failure("x", "audio", "cannot be decoded (ZeroDivisionError: two lines)")


def test_a_sound_too_long_for_one_clip_is_a_failure_and_not_a_full_memory(monkeypatch):
    monkeypatch.setattr("ard.audio.decoding.MOST_SAMPLES", 10_000)
    reason = "cannot be decoded (MemoryError: more than 10000 samples are too many for one clip: cut the file)"
    assert decode(encoded(tone(1.0)), "x") == Failure("x", "audio", reason)


def test_a_named_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    asked = threading.Thread(target=lambda: answers.append(decode(tmp_path / "pipe.wav", "x")), daemon=True)
    answers = []
    asked.start()
    asked.join(timeout=10)
    assert answers == [Failure("x", "audio", "cannot be read (it is not a regular file)")]


@pytest.mark.slow
def test_long_files_are_cut_in_little_memory(tmp_path):
    (tmp_path / "sounds").mkdir()
    noise_file(tmp_path / "sounds" / "long.wav", 10, 8000)  # 38 MB as floats of two channels
    script = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from ard.audio import FolderClips\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "before = peak()\n"
        "assert round(sum(clip.duration_s for clip in FolderClips(Path(sys.argv[1]), 30.0))) == 600\n"
        "print(peak() - before)\n"
    )
    command = [sys.executable, "-c", script, tmp_path / "sounds"]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert grown < 10, f"{grown} MB"
