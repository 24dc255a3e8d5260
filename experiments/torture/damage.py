"""Files and shards damaged at random: what is read of them is what was written, or a failure by name."""

import os
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ard.activations.layer import read_layer
from ard.activations.store import read_clip_metadata, read_manifest, write_manifest, write_shard
from ard.audio import read_shard, write_audio_shards
from ard.audio.decoding import RATES_HZ, SHORTEST_S, Recording, decode
from ard.types import Clip, UserError
from experiments.torture.sounds import RATE_HZ, encoded, flac_that_tells, mp3_without_length, tone

T = TypeVar("T")
NUM_EXAMPLES = 2000
MOST_MEMORY = 64 * 2**20  # bytes, for decoding a file of some kilobytes


@cache
def whole_files() -> tuple[bytes, ...]:
    """Valid files of every format, as short as may be."""
    samples, stereo = tone(0.5), np.stack([tone(0.4), tone(0.4, peak=0.2)], axis=1)
    return (
        encoded(samples),
        encoded(stereo, subtype="FLOAT"),
        encoded(samples, subtype="IMA_ADPCM"),
        encoded(samples, container="FLAC"),
        flac_that_tells(0, encoded(stereo, container="FLAC")),
        encoded(samples, container="OGG", subtype="VORBIS"),
        encoded(samples, container="OGG", subtype="OPUS"),
        encoded(samples, container="MP3"),
        mp3_without_length()[:20_000],
        encoded(samples, container="AIFF"),
        encoded(samples, container="RF64"),
    )


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """Draw a file with bytes changed (the first ones more often, where headers lie), cut out, put in or cut off."""
    content = bytearray(draw(whole))
    for _ in range(draw(st.integers(1, 4))):
        last = min(len(content), draw(st.sampled_from([64, 256, len(content)])))
        place = draw(st.integers(0, max(0, last - 1)))
        how = draw(st.sampled_from(["flip", "word", "cut", "remove", "insert"]))
        if how == "flip" and content:
            content[place] ^= 1 << draw(st.integers(0, 7))
        elif how == "word":
            content[place : place + 4] = draw(
                st.sampled_from([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\x80", b"\x01\0\0\0"])
                | st.binary(max_size=8)
            )
        elif how == "cut":
            del content[draw(st.integers(0, len(content))) :]
        elif how == "remove":
            del content[place : place + draw(st.integers(1, 2000))]
        else:
            content[place:place] = draw(st.binary(max_size=600))
    return bytes(content)


FILES = damaged(st.deferred(lambda: st.sampled_from(whole_files()))) | st.builds(
    bytes.__add__,
    st.sampled_from([b"", b"RIFF\0\0\0\0WAVEfmt ", b"fLaC", b"OggS\0\2", b"\xff\xfb\x90\x64", b"ID3"]),
    st.binary(max_size=3000),
)


def decoding_holds(content: bytes) -> None:
    """Any bytes give a recording that holds its contract, or a failure; and take no giant memory."""
    with bounded_memory():
        decoded = decode(content, "x")
    if isinstance(decoded, Recording):
        waveform, rate_hz, note = decoded
        assert (waveform.ndim, waveform.dtype) == (1, np.float32)
        assert np.abs(waveform).max() <= 1  # NaN is not
        assert RATES_HZ[0] <= rate_hz <= RATES_HZ[1]
        assert len(waveform) >= SHORTEST_S * rate_hz
        assert note is None or note.isprintable()
    else:
        assert decoded.id == "x"
        assert decoded.reason.isprintable()


CLIPS = [Clip(f"c{n}", tone(0.3 + n / 10), RATE_HZ, "home", f"caption {n}", (f"label {n}",)) for n in range(3)]


@cache
def whole_shard() -> bytes:
    """A shard of three clips."""
    with TemporaryDirectory() as folder:
        write_audio_shards(CLIPS, Path(folder) / "shards")
        return (Path(folder) / "shards" / "000000.tar").read_bytes()


SHARDS = damaged(st.deferred(lambda: st.just(whole_shard()))) | st.binary(max_size=2000)


def shard_reading_holds(content: bytes, path: Path) -> None:
    """A damaged shard gives clips as they were written, failures, or one line; and takes no giant memory."""
    path.write_bytes(content)
    with bounded_memory():
        items = or_one_line(lambda: list(read_shard(path)))
    written = {clip.id: clip for clip in CLIPS}
    for item in items or ():
        if isinstance(item, Clip):
            clip = written[item.id]
            assert np.abs(item.waveform - clip.waveform).max() < 2**-15
            assert (item.caption, item.labels, item.sample_rate_hz) == (clip.caption, clip.labels, RATE_HZ)


@cache
def whole_store() -> dict[str, bytes]:
    """The files of a store of activations: two shards of one layer."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        about = {"model": "m", "layers": [1], "audio": "x", "dtype": "float32"}
        for shard in range(2):
            known = {"id": f"c{shard}", "num_tokens": 5, "labels": ["rain"]}
            write_shard(folder, shard, [(known, {1: torch.full((5, 4), float(shard))})], (), about)
        write_manifest(folder, 2, 4, about)
        return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.*"))}


STORES = st.deferred(lambda: st.sampled_from(sorted(whole_store()))).flatmap(
    lambda name: st.tuples(st.just(name), damaged(st.just(whole_store()[name])) | st.binary(max_size=500))
)


def store_reading_holds(file: tuple[str, bytes], folder: Path) -> None:
    """A store of which one file is damaged gives what was written, or one line; and takes no giant memory."""
    for name, content in [*whole_store().items(), file]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    with bounded_memory():
        xs = or_one_line(lambda: [x.tolist() for _, xs in read_layer(folder, 1).read() for x in xs])
        known = or_one_line(lambda: [read_clip_metadata(folder, shard) for shard in read_manifest(folder).shards])
    assert xs in (None, [[[float(shard)] * 4] * 5 for shard in range(2)])
    assert known is None or [[clip["id"] for clip in clips] for clips in known] == [["c0"], ["c1"]]


def or_one_line(read: Callable[[], T]) -> T | None:
    """Return what is read; None if it is refused in one line."""
    try:
        return read()
    except UserError as error:
        line = str(error)
    assert line.isprintable(), line
    return None


@contextmanager
def bounded_memory() -> Iterator[None]:
    """Fail if the block takes memory that a file of some kilobytes has no use for."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MOST_MEMORY, f"{peak} bytes were taken"


@contextmanager
def silent() -> Iterator[None]:
    """Keep what decoders written in C print about damaged files off the terminal."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def hold(strategy: st.SearchStrategy[Any], check: Callable[[Any], None], num_examples: int = NUM_EXAMPLES) -> str:
    """Draw so many inputs and check each."""
    drawn: list[None] = []

    @settings(
        max_examples=num_examples,
        database=None,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def holds(damaged: Any) -> None:
        drawn.append(None)
        check(damaged)

    with silent():
        holds()
    return f"{len(drawn)} inputs: each gave its sound, or a failure by name"
