import io
import json
import os
import tarfile
from dataclasses import replace

import numpy as np
import pytest

from ard.audio import check_audio_shards, write_audio_shards
from ard.audio.check import PUBLISHED
from ard.types import Clip, Event, Failure, UserError


def clip(name, seed, dataset="home", rate=16000):
    return Clip(name, 0.1 * np.random.default_rng(seed).standard_normal(5000).astype(np.float32), rate, dataset)


@pytest.fixture
def write(tmp_path):
    def shards(*items):
        write_audio_shards(items, tmp_path / "set", clips_per_shard=3)
        return tmp_path / "set"

    return shards


def add(shard, **files):
    """Append files to a shard, named id__suffix."""
    with tarfile.open(shard, "a") as members:
        for name, content in files.items():
            member = tarfile.TarInfo(name.replace("__", "."))
            member.size = len(content)
            members.addfile(member, io.BytesIO(content))


def test_a_whole_set_has_no_problems(write):
    left_out = Failure("y", "audio", "missing")
    check = check_audio_shards(write(*(clip(f"b/{n}", n) for n in range(7)), left_out, clip("z", 8, "away")))
    assert check.problems == []
    assert check.num_clips == {"home": 7, "away": 1}
    assert check.manifest.failures == [left_out]


def test_events_of_another_sound_are_a_problem(write):
    late = replace(clip("b", 1), events=(Event(0.1, 9.0, "dog"), Event(0.4, 0.5, "dog")))
    folder = write(replace(clip("a", 0), events=(Event(0.0, 0.3, "dog"),)), late)
    assert check_audio_shards(folder).problems == ["b: has an event that begins after its end"]


def test_counts_are_held_against_the_published_ones(write):
    folder = write(clip("a", 0, "SoundBible"), clip("b", 1), Failure("c", "audio", "missing"))
    assert check_audio_shards(folder).problems == ["SoundBible: 1 clips of 1232; 1 were left out when it was written"]


def test_a_complete_count_is_no_problem(write, monkeypatch):
    monkeypatch.setattr("ard.audio.check.PUBLISHED", {"home": 2})
    assert check_audio_shards(write(clip("a", 0), clip("b", 1))).problems == []


def test_the_papers_counts_add_up():
    assert PUBLISHED["AudioSet_SL"] + PUBLISHED["IEMOCAP"] == 118356
    wavcaps = ("AudioSet_SL", "BBC_Sound_Effects", "FreeSound", "SoundBible")
    assert sum(PUBLISHED[subset] for subset in wavcaps) == 403050
    assert PUBLISHED["FSD50K-dev"] + PUBLISHED["FSD50K-eval"] == 51197


def test_duplicates_are_found_wherever_they_lie(write, monkeypatch):
    sounds = [
        clip("a", 0),
        clip("a", 1),
        clip("b", 2),
        clip("c", 3),
        clip("d", 0),
        clip("e", 0, rate=8000),
        clip("a", 4),
    ]
    with monkeypatch.context() as older:  # numbered no ids
        older.setattr("ard.audio.shards._sanitized", lambda clip, _: clip)
        check = check_audio_shards(write(*sounds))
    assert check.duplicate_ids == ["a", "a"]
    assert check.duplicate_sounds == [("d", "a")]
    assert check.problems == ["a: an earlier clip has the same id"] * 2 + ["d: sounds the same as a"]


def test_two_clips_of_one_id_and_one_sound_are_both_duplicates(write, monkeypatch):
    monkeypatch.setattr("ard.audio.shards._sanitized", lambda clip, _: clip)
    check = check_audio_shards(write(clip("a", 0), clip("a", 0)))
    assert (check.duplicate_ids, check.duplicate_sounds) == (["a"], [("a", "a")])


def test_what_cannot_be_read_is_named(write):
    folder = write(clip("a", 0))
    known = json.dumps({"id": "?", "dataset": "home"}).encode()
    add(folder / "000000.tar", broken__flac=b"no sound", broken__json=known, half__json=known, other__flac=b"")
    check = check_audio_shards(folder)
    assert check.problems == [
        "3 clips found, 1 written",
        "broken: unreadable: its content cannot be decoded",
        "other: empty file",
        "half: has no sound",
        "other: has no description",
    ]


@pytest.mark.parametrize(("size", "found"), [(4000, 3), (0, 3), (30000, 5)])
def test_a_shard_that_breaks_off_is_named_and_the_others_are_read(write, size, found):
    folder = write(*(clip(f"{n}", n) for n in range(6)))
    os.truncate(folder / "000000.tar", size)
    check = check_audio_shards(folder)
    assert check.num_clips["home"] == found
    assert check.problems[0] == f"{found} clips found, 6 written"
    assert any(line.startswith("000000.tar: breaks off: ") for line in check.problems)


def test_an_unfinished_set_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no finished audio shards"):
        check_audio_shards(tmp_path)


def test_content_that_was_changed_since_is_found(write):
    folder = write(clip("a", 0))
    with tarfile.open(folder / "000000.tar") as members:
        sound, described = (members.extractfile(member).read() for member in members)

    def rewrite(**files):
        with tarfile.open(folder / "000000.tar", "w"):
            pass
        add(folder / "000000.tar", **files)

    rewrite(a__flac=sound, a__json=described.replace(b"16000", b"16001"))
    assert check_audio_shards(folder).problems == ["0 clips found, 1 written", "a: its description is damaged"]
    for events in ({}, ["dog"], [{"onset_s": 0, "label": "dog"}], [{"onset_s": 2, "offset_s": 1, "label": "dog"}]):
        described = json.dumps({"id": "a", "dataset": "home", "events": events}).encode()
        rewrite(a__flac=sound, a__json=described)
        assert check_audio_shards(folder).problems == ["0 clips found, 1 written", "a: its description is damaged"]
    rewrite(a__flac=sound, a__json=json.dumps({"id": "a", "dataset": "home"}).encode())
    assert check_audio_shards(folder).problems == ["the content does not match the manifest's checksum"]
