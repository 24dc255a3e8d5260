"""What was heard is the whole of it, or it is said; one bad file never ends a run."""

import json
import os
import tracemalloc
from contextlib import chdir
from pathlib import Path

import numpy as np

from ard.audio import FolderClips, WavCaps, check_audio_shards, read_audio_manifest, read_shard, write_audio_shards
from ard.cli import main
from ard.types import Clip, Failure
from experiments.torture.case import Case
from experiments.torture.damage import (
    FILES,
    SHARDS,
    STORES,
    decoding_holds,
    hold,
    shard_reading_holds,
    store_reading_holds,
)
from experiments.torture.sounds import (
    RATE_HZ,
    encoded,
    flac,
    flac_that_tells,
    half,
    mp3_without_length,
    noise_file,
    tone,
    wav_that_tells,
)


def shards_of(folder: Path, *options: str) -> tuple[dict[str, Clip], dict[str, str], dict[str, str]]:
    """Run `ard shards folder` and return what it gave: clips, failures and notes, by id."""
    main(["shards", "folder", "--root", str(folder), "--out", f"{folder}-shards", *options])
    return stored(Path(f"{folder}-shards"))


def stored(shards: Path) -> tuple[dict[str, Clip], dict[str, str], dict[str, str]]:
    """Read a set of shards, which has to be whole: clips, failures and notes, by id."""
    clips = [item for shard in sorted(shards.glob("*.tar")) for item in read_shard(shard)]
    assert all(isinstance(clip, Clip) for clip in clips), "a shard holds what cannot be read"
    problems = check_audio_shards(shards).problems
    assert problems == [], problems
    manifest = read_audio_manifest(shards)
    failures = {failure.id: failure.reason for failure in manifest.failures}
    return (
        {clip.id: clip for clip in clips if isinstance(clip, Clip)},
        failures,
        {note.id: note.reason for note in manifest.notes},
    )


def heard(folder: Path, name: str, content: bytes, duration_s: float, note: str = "", tolerance_s: float = 0.05) -> str:
    """Have a file heard beside a good one, and see that it is so long, and what is said of it."""
    sounds = folder / "sounds"
    sounds.mkdir(exist_ok=True)
    (sounds / name).write_bytes(content)
    (sounds / "good.wav").write_bytes(encoded(tone(1.0, peak=0.4)))
    clips, failures, notes = shards_of(sounds)
    clip_id = name.replace(".", "_")
    assert set(clips) == {"good_wav", clip_id}, failures
    assert abs(clips[clip_id].duration_s - duration_s) < tolerance_s, clips[clip_id].duration_s
    assert note in notes.get(clip_id, ""), notes
    assert note or not notes, notes
    return f"{clips[clip_id].duration_s:.2f} s; {notes.get(clip_id, 'nothing to note')}"


def is_said(folder: Path, name: str, content: bytes, reason: str) -> str:
    """Have a file left out by name beside a good one that is kept."""
    sounds = folder / "sounds"
    sounds.mkdir(exist_ok=True)
    (sounds / name).write_bytes(content)
    (sounds / "good.wav").write_bytes(encoded(tone(1.0)))
    clips, failures, _ = shards_of(sounds)
    assert set(clips) == {"good_wav"}
    assert reason in failures[name], failures
    return failures[name]


def flat_memory(folder: Path) -> str:
    """Cut a long file into pieces, and take little memory."""
    (folder / "sounds").mkdir()
    noise_file(folder / "sounds" / "long.wav", 20, 8000)
    tracemalloc.start()
    try:
        duration_s = sum(c.duration_s for c in FolderClips(folder / "sounds", 30.0) if isinstance(c, Clip))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert round(duration_s) == 1200
    assert peak < 8 * 2**20, f"{peak / 2**20:.1f} MB"
    return f"{duration_s:.0f} s in pieces of 30 s, {peak / 2**20:.1f} MB at most"


def odd_rates(folder: Path) -> str:
    """Keep the rates that FLAC does not hold."""
    (folder / "sounds").mkdir()
    for rate_hz in (65_536, 192_001, 768_000):
        (folder / "sounds" / f"{rate_hz}.wav").write_bytes(encoded(tone(0.3, rate_hz), rate_hz))
    clips, failures, _ = shards_of(folder / "sounds")
    assert not failures, failures
    for clip in clips.values():
        assert clip.id == f"{clip.sample_rate_hz}_wav"
        assert np.abs(clip.waveform - tone(0.3, clip.sample_rate_hz)).max() < 2**-15
    return "clips at " + ", ".join(f"{clip.sample_rate_hz} Hz" for clip in clips.values())


def latin_names(folder: Path) -> str:
    """Keep files whose names are no UTF-8, with ids of their own."""
    (folder / "sounds").mkdir()
    for index, name in enumerate((b"caf\xe9.wav", b"caf\xe8.wav", b"caf\\udce9.wav", b"two\nlines.wav")):
        Path(os.fsdecode(os.path.join(os.fsencode(folder / "sounds"), name))).write_bytes(
            encoded(tone(0.3 + index / 10))
        )
    Path(os.fsdecode(os.fsencode(folder / "sounds") + b"/bad\xff.wav")).write_bytes(b"no sound")
    clips, failures, _ = shards_of(folder / "sounds")
    names = {r"caf\udce9_wav", r"caf\udce8_wav", r"caf\\udce9_wav", r"two\nlines_wav"}
    assert (set(clips), set(failures)) == (names, {r"bad\udcff.wav"})
    return "ids " + ", ".join(sorted(clips))


def scaled(folder: Path) -> str:
    """Bring float samples beyond full scale into it, and say so."""
    (folder / "sounds").mkdir()
    for name, factor in (("int16", 20_000.0), ("int32", 2.0**30), ("twice", 4.0), ("whole", 1.0), ("mad", 1e30)):
        samples = encoded(tone(0.5) * np.float32(factor), subtype="FLOAT")
        (folder / "sounds" / f"{name}.wav").write_bytes(samples)
    clips, failures, notes = shards_of(folder / "sounds")
    peaks = {name: float(np.abs(clip.waveform).max()) for name, clip in clips.items()}
    expected = {"int16_wav": 10_000 / 2**15, "int32_wav": 2.0**29 / 2**31, "twice_wav": 1.0, "whole_wav": 0.5}
    assert {name: round(peak, 2) for name, peak in peaks.items()} == {k: round(v, 2) for k, v in expected.items()}
    assert (set(notes), set(failures)) == ({"int16_wav", "int32_wav", "twice_wav"}, {"mad.wav"})
    return "; ".join(notes.values())


def linked(folder: Path) -> str:
    """Follow links to folders, each real folder once, and never in a circle."""
    sounds, elsewhere = folder / "sounds", folder / "elsewhere"
    for path in (sounds / "sub", elsewhere):
        path.mkdir(parents=True)
        (path / "a.wav").write_bytes(encoded(tone(0.4)))
    (elsewhere / "b.wav").write_bytes(encoded(tone(0.6)))
    (elsewhere / "a.wav").unlink()
    for name, target in (("link", elsewhere), ("again", elsewhere), ("self", sounds), ("0 sub", sounds / "sub")):
        (sounds / name).symlink_to(target)
    (elsewhere / "back").symlink_to(sounds)
    (sounds / "nothing.wav").symlink_to(folder / "nowhere")
    clips, failures, _ = shards_of(sounds)
    assert (set(clips), failures) == ({"sub/a_wav", "again/b_wav"}, {"nothing.wav": "missing"})
    return "2 clips once each, and a dangling link by name"


def unreadable(folder: Path) -> str:
    """Name a folder that may not be looked into and a file that may not be read, and the reason."""
    sounds = folder / "sounds"
    (sounds / "closed").mkdir(parents=True)
    for path in (sounds / "good.wav", sounds / "secret.wav", sounds / "closed" / "inside.wav"):
        path.write_bytes(encoded(tone(0.5)))
    (sounds / "secret.wav").chmod(0)
    (sounds / "closed").chmod(0)
    os.mkfifo(sounds / "pipe.wav")
    with chdir(sounds):  # what lies above may be closed to others
        if os.geteuid() == 0:  # root may read everything
            os.seteuid(65534)
        try:
            items = list(FolderClips(Path()))
        finally:
            os.seteuid(os.getuid())
            (sounds / "closed").chmod(0o700)
    failures = {item.id: item.reason for item in items if isinstance(item, Failure)}
    assert [item.id for item in items if isinstance(item, Clip)] == ["good_wav"]
    assert failures == {
        "closed": "this folder cannot be read (Permission denied)",
        "secret.wav": "cannot be read (Permission denied)",
        "pipe.wav": "cannot be read (it is not a regular file)",
    }, failures
    return "; ".join(f"{name}: {reason}" for name, reason in failures.items())


def odd_wavcaps(folder: Path) -> str:
    """Write shards that can be read of a WavCaps list with odd rows, below a root with a link to itself."""
    audio, rows = folder / "AudioSet_SL", folder / "json_files" / "AudioSet_SL" / "as_final.json"
    audio.mkdir()
    rows.parent.mkdir(parents=True)
    for index, name in enumerate(("Ya", "7", "Yb", "__x__", "Yn")):
        (audio / f"{name}.flac").write_bytes(flac(0.3 + index / 10))
    listed = [
        {"id": "Ya.wav", "caption": "One."},
        {"id": "Ya.wav", "caption": "Two."},
        {"id": 7, "caption": "A number."},
        {"id": "Yb.wav"},
        {"id": "__x__.wav", "caption": "Marked."},
        {"id": "Yn.wav", "caption": {"text": "no"}, "tags": 5},
        {"caption": "No id."},
        "no row",
    ]
    rows.write_text(json.dumps({"data": listed}), encoding="utf-8")
    (folder / "loop").symlink_to(folder)
    shards = folder / "shards"
    write_audio_shards(WavCaps(folder), shards)
    clips = [clip for clip in read_shard(shards / "000000.tar") if isinstance(clip, Clip)]
    manifest = read_audio_manifest(shards)
    captions = {clip.id: clip.caption for clip in clips}
    x = r"\x5f_x__"
    assert captions == {"Ya": "One.", "Ya-2": "Two.", "7": "A number.", "Yb": None, x: "Marked.", "Yn": None}, captions
    assert {failure.id for failure in manifest.failures} == {"row 6", "row 7"}
    assert {note.id for note in manifest.notes} == {"Ya-2", "Yb", "Yn"}
    return f"{len(clips)} clips with ids of their own, {len(manifest.failures)} rows left out by name"


def one_file(folder: Path) -> str:
    """Take a single file in the place of a folder."""
    (folder / "only.wav").write_bytes(encoded(tone(2.0)))
    (folder / "other.wav").write_bytes(encoded(tone(1.0)))
    (clip,) = FolderClips(folder / "only.wav")
    assert isinstance(clip, Clip), clip
    assert clip.id == "only_wav"
    return f"one clip of {clip.duration_s:.1f} s"


CASES = [
    Case(
        "MP3 without the frame that counts the others",
        lambda folder: heard(folder, "x.mp3", mp3_without_length(), 10.03),
        quick=True,
    ),
    Case(
        "two MP3 files put together",
        lambda folder: heard(folder, "x.mp3", 2 * encoded(tone(2.0), container="MP3"), 4.0, "its header says 2.00 s"),
        quick=True,
    ),
    Case(
        "two Ogg files put together",
        lambda folder: heard(folder, "x.ogg", 2 * encoded(tone(2.0), container="OGG"), 4.0),
        quick=True,
    ),
    Case(
        "FLAC with an unknown number of samples",
        lambda folder: heard(folder, "x.flac", flac_that_tells(0, flac()), 3.0),
        quick=True,
    ),
    Case(
        "FLAC that tells of 2^36 - 1 samples",
        lambda folder: heard(folder, "x.flac", flac_that_tells(2**36 - 1, flac()), 3.0, "cut short: 3.00 of 4294967.3"),
        quick=True,
    ),
    Case(
        "FLAC that tells of 1 s of its 3 s",
        lambda folder: heard(folder, "x.flac", flac_that_tells(RATE_HZ, flac()), 3.0, "its header says 1.00 s"),
        quick=True,
    ),
    Case(
        "WAV that tells of no samples, as a killed recorder leaves it",
        lambda folder: heard(folder, "x.wav", wav_that_tells(0, encoded(tone(3.0))), 3.0),
        quick=True,
    ),
    Case(
        "WAV of an unknown length, as a pipe leaves it",
        lambda folder: heard(folder, "x.wav", wav_that_tells(0xFFFFFFFF, encoded(tone(3.0))), 3.0),
        quick=True,
    ),
    Case(
        "WAV that is cut short",
        lambda folder: heard(folder, "x.wav", encoded(tone(3.0))[: 44 + 2 * RATE_HZ], 1.0, "cut short: 1.00 of 3.00 s"),
        quick=True,
    ),
    Case(
        "MP3 that is cut short",
        lambda folder: heard(
            folder, "x.mp3", half(encoded(tone(4.0), container="MP3")), 2.0, "of 4.00 s could be read"
        ),
    ),
    Case(
        "Ogg that is cut short",
        lambda folder: heard(
            folder, "x.ogg", half(encoded(tone(20.0), container="OGG")), 7.0, "its end is missing", 5.0
        ),
    ),
    Case("WAV at 65,536, 192,001 and 768,000 Hz", odd_rates, quick=True),
    Case("file names in Latin-1, with a backslash, with a line break", latin_names, quick=True),
    Case("float WAV in the range of int16 or int32, or with a peak at 2", scaled, quick=True),
    Case("linked folders, also to themselves", linked, quick=True),
    Case("a folder and a file that may not be read, and a pipe", unreadable, quick=True),
    Case("WavCaps: ids twice and as numbers, no captions, a link to itself", odd_wavcaps, quick=True),
    Case("one file in the place of a folder", one_file, quick=True),
    Case(
        "WAV at 1 Hz", lambda folder: is_said(folder, "x.wav", encoded(tone(1.0), 1), "sample rate is 1 Hz"), quick=True
    ),
    Case("20 minutes of stereo in pieces", flat_memory),
    Case("files of every format, damaged at random", lambda _: hold(FILES, decoding_holds)),
    Case(
        "audio shards, damaged at random",
        lambda folder: hold(SHARDS, lambda content: shard_reading_holds(content, folder / "000000.tar")),
    ),
    Case(
        "activation shards, damaged at random",
        lambda folder: hold(STORES, lambda file: store_reading_holds(file, folder)),
    ),
]
