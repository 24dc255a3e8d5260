"""WavCaps in the layout of the hub's cvssp/WavCaps and of the archives' own folders."""

import json
import os

import pytest

from ard.audio import WavCaps
from ard.types import UserError

ARCHIVE = "mnt/fast/nobackup/scratch4weeks/xm00178/WavCaps/data/waveforms"
AUDIOSET = {
    "Yb0RFKhbpFJA.wav": "A man is speaking.",
    "Y-abc_DEF-12.wav": "Rain falls.",
    "-Kq9s_x-Y0A.wav": "A dog barks.",
    "YmissingFile.wav": "Nobody knows.",
    "Ytruncated_0.wav": "It breaks off.",
}


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def rows_of(subset):
    audio = {"audio": "wav_path"}
    if subset == "AudioSet_SL":
        return [{"id": name, "caption": caption, **audio, "duration": 10.0} for name, caption in AUDIOSET.items()]
    common = {"description": "?", "duration": 1.0, "download_link": "https://...", **audio}
    if subset == "BBC_Sound_Effects":
        named = {"NHU05051026": "['Nature']", "07066104": "[\"Children's toys\", 'Machines']", "07000001": "nan"}
        return [{**common, "category": named[name], "caption": f"BBC {name}.", "id": name} for name in named]
    if subset == "FreeSound":
        own = {
            "file_name": "a.b.wav",
            "href": "/people/x/sounds/2219/",
            "tags": ["rain", "field-recording"],
            "author": "x",
        }
        return [{**common, **own, "id": name, "caption": f"FreeSound {name}."} for name in ("180913", "2219")]
    return [{**common, "title": "Dog", "author": "x", "href": "/d.html", "id": "2219", "caption": "SoundBible 2219."}]


@pytest.fixture
def wavcaps(tmp_path, write_sound):
    """All four subsets unpacked side by side."""
    root = tmp_path / "WavCaps"
    names = {"AudioSet_SL": "as", "BBC_Sound_Effects": "bbc", "FreeSound": "fsd", "SoundBible": "sb"}
    for subset, name in names.items():
        rows = rows_of(subset)
        write_json(root / f"json_files/{subset}/{name}_final.json", {"num_captions_per_audio": 1, "data": rows})
        for row in rows:
            write_sound(
                root / f"Zip_files/{subset}/{ARCHIVE}/{subset}_flac/{row['id'].removesuffix('.wav')}.flac", 32000
            )
    (audioset,) = root.rglob("AudioSet_SL_flac")
    (audioset / "YmissingFile.flac").unlink()
    os.truncate(audioset / "Ytruncated_0.flac", 2000)
    write_sound(audioset / "Yunlisted000.flac")
    (audioset / "._Yb0RFKhbpFJA.flac").write_bytes(b"\0\5\x16\7")
    listed = {"AudioSet": ["Yb0RFKhbpFJA.wav", "Yelsewhere00.wav"], "FreeSound": ["180913"]}
    write_json(root / "json_files/blacklist/blacklist_exclude_all_ac.json", listed)
    return root


def test_audioset_sl_is_read_in_order_and_what_is_missing_is_named(wavcaps, round_trip):
    corpus = WavCaps(wavcaps)
    clips, failures = round_trip(corpus)
    assert len(corpus) == 5
    assert [item.id for item in corpus] == [name.removesuffix(".wav") for name in AUDIOSET]
    assert {name: clip.caption for name, clip in clips.items()} == {
        "Yb0RFKhbpFJA": "A man is speaking.",
        "Y-abc_DEF-12": "Rain falls.",
        "-Kq9s_x-Y0A": "A dog barks.",
    }
    assert {(clip.dataset, clip.sample_rate_hz, clip.labels) for clip in clips.values()} == {("AudioSet_SL", 32000, ())}
    assert failures == {
        "YmissingFile": "missing",
        "Ytruncated_0": "empty: no samples; cut short: 0.00 of 0.33 s could be read",
    }


def test_categories_are_strings_and_tags_are_lists(wavcaps, round_trip):
    bbc, _ = round_trip(WavCaps(wavcaps, "BBC_Sound_Effects"))
    assert {name: clip.labels for name, clip in bbc.items()} == {
        "NHU05051026": ("Nature",),
        "07066104": ("Children's toys", "Machines"),
        "07000001": (),
    }
    freesound, _ = round_trip(WavCaps(wavcaps, "FreeSound"))
    assert freesound["2219"].labels == ("rain", "field-recording")


def test_numbers_that_subsets_share_are_other_sounds(wavcaps):
    (soundbible,) = WavCaps(wavcaps, "SoundBible")
    _, freesound = WavCaps(wavcaps, "FreeSound")
    assert (soundbible.id, soundbible.caption, soundbible.dataset) == ("2219", "SoundBible 2219.", "SoundBible")
    assert (freesound.id, freesound.caption, freesound.dataset) == ("2219", "FreeSound 2219.", "FreeSound")
    assert (soundbible.waveform != freesound.waveform).any()


def test_a_linked_folder_and_an_id_with_dots_are_read(wavcaps, tmp_path, write_sound, round_trip):
    row = {"id": "a.b.c", "caption": "Dots.", "tags": []}
    write_json(wavcaps / "json_files/FreeSound/fsd_final.json", {"data": [row]})
    write_sound(tmp_path / "elsewhere" / "a.b.c.flac")
    (wavcaps / "linked").symlink_to(tmp_path / "elsewhere")
    clips, _ = round_trip(WavCaps(wavcaps, "FreeSound"))
    assert clips["a_b_c"].caption == "Dots."


def test_a_blacklist_leaves_clips_out(wavcaps):
    assert "Yb0RFKhbpFJA" not in {item.id for item in WavCaps(wavcaps, blacklist="all_ac")}
    assert len(WavCaps(wavcaps, blacklist="all_ac")) == len(AUDIOSET) - 1
    assert [clip.id for clip in WavCaps(wavcaps, "FreeSound", blacklist="all_ac")] == ["2219"]


def test_a_blacklist_for_another_subset_or_not_downloaded_is_refused(wavcaps):
    with pytest.raises(UserError, match="blacklist 'test_ac' names no clips of SoundBible: use the subset without"):
        WavCaps(wavcaps, "SoundBible", blacklist="test_ac")
    with pytest.raises(UserError, match=r"blacklist_exclude_test_ac.json' does not exist"):
        WavCaps(wavcaps, blacklist="test_ac")


def test_a_folder_without_json_or_without_audio_is_refused(wavcaps, tmp_path):
    with pytest.raises(UserError, match=r"as_final.json' does not exist: give the folder of cvssp/WavCaps"):
        WavCaps(tmp_path)
    write_json(tmp_path / "bare/json_files/AudioSet_SL/as_final.json", {"data": rows_of("AudioSet_SL")})
    with pytest.raises(UserError, match=r"no .flac file of AudioSet_SL is under .*bare': unpack Zip_files/AudioSet_SL"):
        WavCaps(tmp_path / "bare")


@pytest.mark.parametrize(
    "content", ["version https://git-lfs.github.com/spec/v1\noid sha256:c26e4c7f\n", '{"rows": []}']
)
def test_a_pointer_or_other_json_is_refused(wavcaps, content):
    (wavcaps / "json_files/AudioSet_SL/as_final.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"as_final.json' is not JSON with a list 'data': download it again"):
        WavCaps(wavcaps)


def test_odd_rows_are_clips_with_a_note_or_failures(wavcaps, write_sound):
    (audioset,) = wavcaps.rglob("AudioSet_SL_flac")
    write_sound(audioset / "7.flac")
    rows = [{"id": 7, "caption": "Seven."}, {"id": "Yb0RFKhbpFJA.wav"}, {"caption": "?"}, "no row", {"id": None}]
    write_json(wavcaps / "json_files/AudioSet_SL/as_final.json", {"data": rows})
    seven, without, *failures = WavCaps(wavcaps)
    assert (seven.id, seven.caption, seven.note) == ("7", "Seven.", None)
    assert (without.id, without.caption, without.note) == (
        "Yb0RFKhbpFJA",
        None,
        "its caption is not text but None",
    )
    assert [(failure.id, failure.reason) for failure in failures] == [
        ("row 2", "it has no id: {'caption': '?'}"),
        ("row 3", "it has no id: no row"),
        ("row 4", "it has no id: {'id': None}"),
    ]


def test_a_root_with_links_to_itself_is_walked_once(wavcaps):
    for name in ("self", "json_files/up"):
        (wavcaps / name).symlink_to(wavcaps)
    assert len(list(WavCaps(wavcaps))) == len(AUDIOSET)
