import os
import tarfile
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ard.audio import (
    FolderClips,
    StoredClips,
    clip_metadata,
    read_audio_manifest,
    read_clips,
    resample,
    write_audio_shards,
)
from ard.audio.decoding import SILENCE_PEAK, unusable
from ard.files import LOCK, in_use
from ard.types import Clip, Failure, UserError


def test_every_file_is_a_clip_or_a_named_failure(sounds):
    items = list(FolderClips(sounds))
    clips = {item.id: item for item in items if isinstance(item, Clip)}
    failures = {item.id: item.reason for item in items if isinstance(item, Failure)}
    assert set(clips) == {"a dog_wav", "b/ünïcode naïve_flac", "b/c d_ogg", "e_f_wav", "g_mp3", "long_wav"}
    assert set(failures) == {"silent.wav", "short.wav", "no samples.wav", "empty.wav", "broken.mp3"}
    assert failures["silent.wav"].startswith("silent: its peak")
    assert failures["short.wav"].startswith("too short: 0.006 s")
    assert failures["no samples.wav"] == "empty: no samples"
    assert failures["empty.wav"] == "empty file"
    assert failures["broken.mp3"].startswith("unreadable")
    assert clips["b/ünïcode naïve_flac"].sample_rate_hz == 44100
    assert all(clip.waveform.ndim == 1 and clip.waveform.dtype == np.float32 for clip in clips.values())


def test_other_files_and_nan_samples_are_named_and_hidden_ones_passed_over(tmp_path):
    (tmp_path / "notes.txt").write_text("no sound", encoding="utf-8")
    (tmp_path / ".hidden.wav").write_text("no sound", encoding="utf-8")
    soundfile.write(tmp_path / "nan.wav", np.full(16000, np.nan, dtype=np.float32), 16000, subtype="FLOAT")
    assert {item.id: item.reason for item in FolderClips(tmp_path)} == {
        "notes.txt": "unreadable: its content cannot be decoded",
        "nan.wav": "has samples that are NaN or infinite",
    }


def test_a_folder_that_a_command_wrote_is_named_and_not_read(tmp_path):
    tone = np.sin(np.arange(8000) / 10)
    for place in (".", "out", "out/below", "b"):
        (tmp_path / place).mkdir(exist_ok=True)
        soundfile.write(tmp_path / place / "a.wav", tone, 16000)
    for place in ("out", "out/below"):
        (tmp_path / place / LOCK).touch()
    failure, *clips = FolderClips(tmp_path)
    assert failure == Failure("out", "audio", "a folder that `ard` wrote: not read")
    assert [clip.id for clip in clips] == ["a_wav", "b/a_wav"]
    with chdir(tmp_path):
        assert [item.id for item in FolderClips(Path())] == ["out", "a_wav", "b/a_wav"]
    halves = FolderClips(tmp_path).parts(0.5, 0)
    assert sorted(item.id for half in halves for item in half) == ["a_wav", "b/a_wav", "out"]


def test_long_files_are_cut_without_losing_a_sample(sounds):
    pieces = [c for c in FolderClips(sounds, segment_s=1.0) if isinstance(c, Clip) and c.id.startswith("long")]
    whole, _ = soundfile.read(sounds / "long.wav", dtype="float32")
    assert [piece.id for piece in pieces] == ["long_wav#0000", "long_wav#0001"]
    assert all(piece.duration_s <= 1.0 for piece in pieces)
    np.testing.assert_array_equal(np.concatenate([piece.waveform for piece in pieces]), whole)


def test_names_that_collide_are_numbered(tmp_path):
    for name in ("a.b.wav", "a_b.wav"):
        soundfile.write(tmp_path / name, np.sin(np.arange(8000) / 10), 16000)
    assert [clip.id for clip in FolderClips(tmp_path)] == ["a_b_wav", "a_b_wav-2"]


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"audio folder .*nowhere' does not exist"):
        FolderClips(tmp_path / "nowhere")


def test_shards_hold_what_the_source_gave(sounds, tmp_path):
    out = tmp_path / "shards"
    num_clips, failures = write_audio_shards(FolderClips(sounds), out, clips_per_shard=4)
    assert (num_clips, len(failures)) == (6, 5)
    assert in_use(out) == ["000000.tar", "000001.tar", "manifest.json"]
    manifest = read_audio_manifest(out)
    assert (manifest.num_clips, manifest.failures) == (6, failures)
    originals = [clip for clip in FolderClips(sounds) if isinstance(clip, Clip)]
    for clip, original in zip(read_clips(out), originals, strict=True):
        assert (clip.id, clip.sample_rate_hz, clip.dataset) == (original.id, original.sample_rate_hz, "my sounds")
        np.testing.assert_allclose(clip.waveform, original.waveform.clip(-1, 1), atol=2**-15)


def test_labels_travel_with_the_clip(tmp_path):
    known = Clip("x", np.ones(2000, np.float32) / 2, 8000, "d", "a caption", ("rain",), "happy", "male", "words")
    write_audio_shards([known], tmp_path / "out")
    (read,) = read_clips(tmp_path / "out")
    assert (read.caption, read.labels, read.emotion, read.gender, read.transcript) == (
        "a caption",
        ("rain",),
        "happy",
        "male",
        "words",
    )


def test_the_quietest_clip_that_is_not_silent_can_be_read_again(tmp_path):
    quietest = np.full(2000, SILENCE_PEAK, np.float32)
    assert unusable(quietest, 8000) is None
    assert unusable(quietest * 0.999, 8000).startswith("silent: its peak is 1.2e-04 of full scale")
    write_audio_shards([Clip("quiet", quietest, 8000, "d")], tmp_path / "out")
    (read,) = read_clips(tmp_path / "out")
    assert np.array_equal(read.waveform, quietest)


def test_clips_that_cannot_be_heard_are_passed_over_with_a_warning(tmp_path, caplog, monkeypatch):
    clips = [Clip(name, np.full(n, 0.5, np.float32), 8000, "d") for name, n in (("good", 2000), ("short", 9))]
    with monkeypatch.context() as older:  # wrote whatever it was given
        older.setattr("ard.audio.shards.unusable", lambda *_: None)
        write_audio_shards(clips, tmp_path / "out")
    assert [clip.id for clip in read_clips(tmp_path / "out")] == ["good"]
    assert "clip 'short' of" in caplog.text
    assert "000000.tar is skipped: too short: 0.001 s, at least 0.2 s are needed" in caplog.text


def test_stored_clips_are_those_of_the_shards_in_any_order(tmp_path, caplog, monkeypatch):
    rng = np.random.default_rng(0)
    lengths = {"a/b": 4000, "c": 2000, "d": 3000, "short": 9, "e" * 120: 5000}
    clips = [Clip(name, rng.uniform(-0.9, 0.9, n).astype(np.float32), 8000, "d") for name, n in lengths.items()]
    with monkeypatch.context() as older:
        older.setattr("ard.audio.shards.unusable", lambda *_: None)
        write_audio_shards(clips, tmp_path / "out", clips_per_shard=2)
    read = {clip.id: clip for clip in read_clips(tmp_path / "out")}
    stored = StoredClips(tmp_path / "out")
    assert stored.durations_s == {clip.id: pytest.approx(len(clip.waveform) / 8000, abs=1e-4) for clip in clips}
    assert list(stored.durations_s) == list(lengths) == list(stored.captions)
    caplog.clear()
    order = ["d", "e" * 120, "short", "a/b", "c", "d"]
    found = list(stored(order))
    assert [clip.id for clip in found] == [name for name in order if name != "short"]
    assert "clip 'short' of" in caplog.text
    for clip in found:
        np.testing.assert_array_equal(clip.waveform, read[clip.id].waveform)
        assert clip_metadata(clip) == clip_metadata(read[clip.id])
    with pytest.raises(KeyError):
        list(stored(["nobody"]))


def test_captions_and_labels_of_stored_clips_are_known_without_reading_sound(tmp_path):
    wave = np.full(2000, 0.5, np.float32)
    known = ({"caption": "a dog barks", "labels": ("dog",)}, {"labels": ("dog", "rain")}, {})
    write_audio_shards([Clip(str(n), wave, 8000, "d", **about) for n, about in enumerate(known)], tmp_path)
    stored = StoredClips(tmp_path)
    assert stored.captions == {"0": "a dog barks", "1": "", "2": ""}
    assert stored.labels == {"0": ("dog",), "1": ("dog", "rain"), "2": ()}


def test_a_stored_clip_without_a_description_is_passed_over_with_a_warning(tmp_path, caplog):
    write_audio_shards([Clip("a", np.full(2000, 0.5, np.float32), 8000, "d")], tmp_path)
    with tarfile.open(tmp_path / "000000.tar", "a") as tar:
        tar.addfile(tarfile.TarInfo("lone.flac"))
    assert list(StoredClips(tmp_path).durations_s) == ["a"]
    assert "clip 'lone' of" in caplog.text
    assert "has no description" in caplog.text


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2 + 100], lambda b: b"nothing of a tar" * 100])
def test_a_damaged_shard_is_named(tmp_path, damage):
    noise = np.random.default_rng(0).random(20000).astype(np.float32)
    write_audio_shards([Clip(name, noise, 8000, "d") for name in ("a", "b")], tmp_path / "out")
    shard = tmp_path / "out" / "000000.tar"
    shard.write_bytes(damage(shard.read_bytes()))
    for read in (lambda folder: list(read_clips(folder)), StoredClips):
        with pytest.raises(UserError, match=r"audio shard '.*000000.tar' is damaged \(.*\): make the shards again"):
            read(tmp_path / "out")


def test_a_source_that_breaks_leaves_the_old_shards(tmp_path):
    def broken():
        yield Clip("x", np.ones(2000, np.float32), 8000, "d")
        raise KeyboardInterrupt

    write_audio_shards([Clip("old", np.ones(2000, np.float32), 8000, "d")], tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        write_audio_shards(broken(), tmp_path / "out")
    assert [clip.id for clip in read_clips(tmp_path / "out")] == ["old"]


def test_unfinished_shards_and_an_unwritable_folder_are_refused(tmp_path):
    with pytest.raises(UserError, match="holds no finished audio shards"):
        next(read_clips(tmp_path))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        write_audio_shards([], tmp_path / "file" / "out")


@pytest.mark.parametrize("from_hz", [8000, 22050, 44100, 48000])
def test_resampling_keeps_a_tone_and_its_length(from_hz):
    tone = np.sin(2 * np.pi * 440 * np.arange(from_hz) / from_hz).astype(np.float32)
    heard = resample(tone, from_hz, 16000)
    assert abs(len(heard) - 16000) <= 1
    assert np.abs(np.fft.rfft(heard)).argmax() == pytest.approx(440, abs=1)
    assert resample(tone, from_hz, from_hz) is tone


def test_a_single_file_is_a_source_of_its_clips_alone(tmp_path):
    for name in ("a.wav", "b.wav"):
        soundfile.write(tmp_path / name, np.sin(np.arange(32_000) / 10), 16_000)
    assert [clip.id for clip in FolderClips(tmp_path / "a.wav", 1.0)] == ["a_wav#0000", "a_wav#0001"]
    assert {clip.dataset for clip in FolderClips(tmp_path / "a.wav")} == {tmp_path.name}


@pytest.mark.parametrize("segment_s", [0.0, -1.0, float("nan")])
def test_segments_of_no_length_are_refused(tmp_path, segment_s):
    with pytest.raises(UserError, match=r"segment_s .* cuts files into nothing: give a number of seconds above 0"):
        FolderClips(tmp_path, segment_s)


def test_a_folder_given_as_a_dot_lends_its_name_to_its_clips(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.wav", np.sin(np.arange(8000) / 10), 16_000)
    monkeypatch.chdir(tmp_path)
    (clip,) = FolderClips(Path())
    assert clip.dataset == tmp_path.name


def test_a_folder_below_one_that_is_closed_is_refused_with_the_reason(tmp_path):
    (tmp_path / "closed" / "sounds").mkdir(parents=True)
    (tmp_path / "closed").chmod(0)
    with chdir(tmp_path):
        if os.geteuid() == 0:  # root may look into everything
            os.seteuid(65534)
        try:
            with pytest.raises(UserError, match=r"audio folder 'closed/sounds' cannot be read \(Permission denied\)"):
                FolderClips(Path("closed/sounds"))
        finally:
            os.seteuid(os.getuid())
            (tmp_path / "closed").chmod(0o700)


def test_what_could_not_be_read_again_is_not_written_and_ids_are_mended(tmp_path):
    sound = np.sin(np.arange(4000, dtype=np.float32) / 10)
    clips = [
        Clip("a", sound, 8000, "d", "\ud800 half a pair", ("la\udce9bel",)),
        Clip("a", sound / 2, 8000, "d", note="cut short"),
        Clip("b.c", sound / 3, 8000, "d"),
        Clip("__x__/y", sound / 4, 8000, "d"),
        Clip("", sound, 8000, "d"),
        Clip("loud", sound * 2, 8000, "d"),
        Clip("short", sound[:9], 8000, "d"),
        Clip("a", sound / 5, 8000, "d"),
    ]
    num_clips, failures = write_audio_shards(clips, tmp_path / "out")
    assert {failure.id: failure.reason for failure in failures} == {
        "": "has no id",
        "loud": "has samples beyond [-1, 1]",
        "short": "too short: 0.001 s, at least 0.2 s are needed",
    }
    read = list(read_clips(tmp_path / "out"))
    assert [clip.id for clip in read] == ["a", "a-2", "b_c", r"\x5f_x__/y", "a-3"]
    assert num_clips == len(read)
    assert (read[0].caption, read[0].labels) == (r"\ud800 half a pair", (r"la\udce9bel",))
    numbered = "its id 'a' was given to an earlier clip: it is 'a-{}' here"
    notes = {note.id: note.reason for note in read_audio_manifest(tmp_path / "out").notes}
    assert notes == {
        "a-2": numbered.format(2) + "; cut short",
        "b_c": "its id 'b.c' cannot name a file in a shard: it is 'b_c' there",
        r"\x5f_x__/y": r"its id '__x__/y' cannot name a file in a shard: it is '\x5f_x__/y' there",
        "a-3": numbered.format(3),
    }
    assert {clip.id: clip.note for clip in read if clip.note} == notes


def test_a_damaged_header_in_the_middle_of_a_shard_is_not_its_end(tmp_path):
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, 4000).astype(np.float32)
    write_audio_shards([Clip(name, sound, 8000, "d") for name in "abc"], tmp_path / "out")
    shard = tmp_path / "out" / "000000.tar"
    with tarfile.open(shard) as members:
        place = members.getmembers()[2].offset
    content = bytearray(shard.read_bytes())
    content[place + 150] ^= 1  # of the checksum
    shard.write_bytes(content)
    with pytest.raises(UserError, match=r"000000.tar' is damaged \(a header is damaged\): make the shards again"):
        list(read_clips(tmp_path / "out"))


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"num_clips": 1, "xxh3": "0", "failures": [{}]}', b"\xff"])
def test_a_damaged_manifest_is_named(tmp_path, content):
    write_audio_shards([Clip("x", np.ones(2000, np.float32), 8000, "d")], tmp_path / "out")
    (tmp_path / "out" / "manifest.json").write_bytes(content)
    with pytest.raises(UserError, match=r"manifest '.*manifest.json' is damaged \(.*\): make the shards again"):
        read_audio_manifest(tmp_path / "out")
