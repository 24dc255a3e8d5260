"""Events in the layouts in which corpora have them, as far as the clips of a folder."""

import json

import numpy as np
import pytest
import soundfile

from ard.audio import FolderClips, WavCaps, clip_metadata, write_audio_shards
from ard.audio.events import between, read_events, read_textgrid
from ard.cli import main
from ard.types import Clip, Event, Failure, UserError

STRONG = (
    "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\n"
    "b0RFKhbpFJA_30000\t0.000\t10.000\t/m/03m9d0z\n"
    "b0RFKhbpFJA_30000\t2.627\t7.237\t/m/053hz1\n"
    "s9d-2nhuJCQ_0\t0.1\t0.2\t/t/dd00125\n"
)
NAMES = "/m/03m9d0z\tWind\n/m/053hz1\tCheering\n/t/dd00125\tGunshot, gunfire\n/m/09x0r\tSpeech\n"
DESED = (
    "filename\tonset\toffset\tevent_label\n"
    "Y00pbt6aJV8Y_350.000_360.000.wav\t0.0\t0.25\tSpeech\n"
    "Y00pbt6aJV8Y_350.000_360.000.wav\t0.1\t0.2\tDishes\n"
    "quiet.wav\t\t\t\n"
)
LONG = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 0.31
tiers? <exists>
size = 3
item []:
    item [1]:
        class = "IntervalTier"
        name = "anna - words"
        xmin = 0
        xmax = 0.31
        intervals: size = 2
        intervals [1]:
            xmin = 0
            xmax = 0.1
            text = ""
        intervals [2]:
            xmin = 0.1
            xmax = 0.31
            text = "say ""hé"" 2 = 3"
    item [2]:
        class = "TextTier"
        name = "clicks"
        xmin = 0
        xmax = 0.31
        points: size = 1
        points [1]:
            number = 0.2
            mark = "click"
    item [3]:
        class = "IntervalTier"
        name = "anna - phones"
        xmin = 0
        xmax = 0.31
        intervals: size = 3
        intervals [1]:
            xmin = 0
            xmax = 0.1
            text = "sil"
        intervals [2]:
            xmin = 0.1
            xmax = 2e-1
            text = "HH"
        intervals [3]:
            xmin = 0.2
            xmax = 0.31
            text = "EY1"
"""
SHORT = """File type = "ooTextFile"
Object class = "TextGrid"

0
0.31
<exists>
3
"IntervalTier"
"anna - words"
0
0.31
2
0
0.1
""
0.1
0.31
"say ""hé"" 2 = 3"
"TextTier"
"clicks"
0
0.31
1
0.2
"click"
"IntervalTier"
"anna - phones"
0
0.31
3
0
0.1
"sil"
0.1
0.2
"HH"
0.2
0.31
"EY1"
"""
SPOKEN = (Event(0.1, 0.2, "phone HH"), Event(0.1, 0.31, 'word say "hé" 2 = 3'), Event(0.2, 0.31, "phone EY1"))


@pytest.fixture
def file(tmp_path):
    """Write a text file and return its path."""

    def write(name, content, encoding="utf-8"):
        path = tmp_path / "events" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding=encoding)
        return path

    return write


def test_strong_labels_of_audioset_are_those_of_the_files_named_after_the_video(file):
    file("mid_to_display_name.tsv", NAMES)
    events = read_events(file("audioset_train_strong.tsv", STRONG))
    of_first = (Event(0.0, 10.0, "Wind"), Event(2.627, 7.237, "Cheering"))
    for stem in ("b0RFKhbpFJA_30000", "Yb0RFKhbpFJA", "b0RFKhbpFJA"):
        of_files, unfitting = events.of([f"below/{stem}.flac", "other.flac"])
        assert of_files == {f"below/{stem}.flac": of_first}
        assert unfitting == ["s9d-2nhuJCQ_0"]
    assert events.of_names["s9d-2nhuJCQ_0"] == (Event(0.1, 0.2, "Gunshot, gunfire"),)


def test_machine_ids_need_their_names(file):
    path = file("strong.tsv", STRONG)
    with pytest.raises(UserError, match=r"are machine ids such as '/m/03m9d0z', and mid_to_display_name.tsv is not"):
        read_events(path)
    file("mid_to_display_name.tsv", "/m/03m9d0z\tWind\n")
    with pytest.raises(UserError, match="has no name for '/m/053hz1': take both files from one release"):
        read_events(path)


def test_a_table_of_desed_has_files_in_which_nothing_is_heard(file):
    assert read_events(file("validation.tsv", DESED)).of_names == {
        "Y00pbt6aJV8Y_350.000_360.000.wav": (Event(0.0, 0.25, "Speech"), Event(0.1, 0.2, "Dishes")),
        "quiet.wav": (),
    }


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "have no column of the file, only : name it one of filename, segment_id"),
        ("file,onset,offset\n", "have no column of the label, only 'file', 'onset', 'offset': name it one of event_l"),
        ("file,onset,offset,label\n", "have no rows: give a row for each event"),
        ("file,onset,offset,label\n,1,2,dog\n", "line 2 of the events .* names no file: name it, or delete the line"),
        ("file,onset,offset,label\na,2,1,dog\n", "line 2 .* has onset '2', offset '1' and label 'dog': give seconds"),
        ("file,onset,offset,label\na,-1,1,dog\n", "has onset '-1', offset '1'"),
        ("file,onset,offset,label\na,x,1,dog\n", "has onset 'x', offset '1'"),
        ("file,onset,offset,label\na,0,inf,dog\n", "has onset '0', offset 'inf'"),
        ("file,onset,offset,label\na,0,1,\n", "has onset '0', offset '1' and label ''"),
        ("file,onset,offset,label\na,0,1,dog,5\n", "line 2 of the events .* has 5 cells, more than the 4 of the head"),
        ('file,onset,offset,label\n"a,0,1,dog\n', "line 2 of the events .* is not CSV"),
    ],
)
def test_a_table_that_is_none_is_refused(file, content, said):
    with pytest.raises(UserError, match=said):
        read_events(file("table.csv", content))


def test_what_cannot_be_read_is_refused(file, tmp_path):
    with pytest.raises(UserError, match=r"nowhere.tsv' do not exist: give a table of events, or a folder of TextGrids"):
        read_events(tmp_path / "nowhere.tsv")
    with pytest.raises(UserError, match="are not UTF-8 text"):
        read_events(file("table.tsv", "file\tonset\toffset\tlabel\na\t0\t1\thé", "latin-1"))
    with pytest.raises(UserError, match=r"no .TextGrid file is under the events"):
        read_events(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("content", [LONG, SHORT], ids=["long", "short"])
def test_both_text_formats_of_textgrids_are_read(file, content, encoding):
    assert read_textgrid(file("a.TextGrid", content, encoding)) == SPOKEN


def test_a_textgrid_of_infinitely_many_tiers_is_refused(file):
    path = file("a.TextGrid", 'File type = "ooTextFile"\nObject class = "TextGrid"\n0\n1\n<exists>\n1e999\n')
    with pytest.raises(UserError, match="is not a whole TextGrid in a text format"):
        read_textgrid(path)


@pytest.mark.parametrize("content", [LONG, SHORT], ids=["long", "short"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.6, 0.95])
def test_a_textgrid_that_breaks_off_is_refused(file, content, share):
    path = file("a.TextGrid", content[: int(share * len(content))])
    with pytest.raises(UserError, match="is not a whole TextGrid in a text format: save it again from Praat"):
        read_textgrid(path)


def test_an_interval_that_ends_before_it_begins_is_refused(file):
    with pytest.raises(UserError, match=r"^tier 'anna - phones' of .* has onset '0.2', offset '0.1' and label"):
        read_textgrid(file("a.TextGrid", SHORT.replace('0.31\n"EY1"', '0.1\n"EY1"')))


def test_a_folder_of_textgrids_lies_as_its_sounds_do(file):
    folder = file("anna/a.TextGrid", LONG).parent.parent
    file("b.textgrid", SHORT)
    assert read_events(folder).of_names == {"anna/a": SPOKEN, "b": SPOKEN}
    assert read_events(folder / "b.textgrid").of_names == {"b": SPOKEN}
    assert read_events(folder).of(["anna/a.wav"]) == ({"anna/a.wav": SPOKEN}, ["b"])


def test_a_piece_of_a_clip_has_its_share_of_the_events():
    events = (Event(0.0, 1.0, "wind"), Event(0.5, 2.5, "dog"), Event(2.0, 3.0, "rain"))
    assert between(events, 1.0, 2.0) == (Event(0.0, 1.0, "dog"),)
    assert between(events, 2.0, 9.0) == (Event(0.0, 0.5, "dog"), Event(0.0, 1.0, "rain"))


def sounds(folder, **lengths_s):
    rng = np.random.default_rng(0)
    folder.mkdir()
    for name, length_s in lengths_s.items():
        soundfile.write(folder / f"{name}.wav", 0.1 * rng.standard_normal(round(length_s * 8000)), 8000)
    return folder


def test_the_clips_of_a_folder_have_their_events(file, tmp_path, round_trip):
    table = file("table.tsv", "file\tonset\toffset\tlabel\nlong\t0.9\t1.6\tdog\nlong\t0\t99\train\nzz.wav\t0\t1\tdog\n")
    folder = sounds(tmp_path / "sounds", long=2.0, other=0.5)
    clips, failures = round_trip(FolderClips(folder, segment_s=1.0, events=table))
    assert failures == {"table.tsv": "1 of its 2 names fit no file; the first: 'zz.wav'"}
    assert {name: clip.events for name, clip in clips.items()} == {
        "long_wav#0000": (Event(0.0, 1.0, "rain"), Event(0.9, 1.0, "dog")),
        "long_wav#0001": (Event(0.0, 1.0, "rain"), Event(0.0, pytest.approx(0.6), "dog")),
        "other_wav": (),
    }
    assert clip_metadata(clips["long_wav#0000"])["events"][1] == {"onset_s": 0.9, "offset_s": 1.0, "label": "dog"}
    assert "events" not in clip_metadata(clips["other_wav"])


def test_pieces_that_cannot_be_heard_take_their_time(tmp_path, file):
    folder = sounds(tmp_path / "sounds", a=4.0)
    signal, rate = soundfile.read(folder / "a.wav")
    signal[:8000] = signal[16000:24000] = 0
    soundfile.write(folder / "a.wav", signal, rate)
    table = file("table.csv", "file,onset,offset,label\na.wav,1.25,1.5,dog\na.wav,3.25,3.5,cat\n")
    items = list(FolderClips(folder, segment_s=1.0, events=table))
    assert [type(item) for item in items] == [Failure, Clip, Failure, Clip]
    assert [items[place].events for place in (1, 3)] == [(Event(0.25, 0.5, "dog"),), (Event(0.25, 0.5, "cat"),)]


def test_textgrids_among_the_sounds_are_no_sounds(tmp_path):
    folder = sounds(tmp_path / "sounds", a=0.5)
    (folder / "a.TextGrid").write_text(LONG, encoding="utf-8")
    (clip,) = FolderClips(folder, events=folder)
    assert clip.events == SPOKEN
    before = FolderClips(folder, events=folder).fingerprint()
    (folder / "a.TextGrid").write_text(LONG.replace("HH", "H"), encoding="utf-8")
    assert FolderClips(folder, events=folder).fingerprint() != before


def test_strong_labels_say_when_in_wavcaps(tmp_path, file):
    listing = tmp_path / "json_files/AudioSet_SL/as_final.json"
    listing.parent.mkdir(parents=True)
    listing.write_text(json.dumps({"data": [{"id": "Yb0RFKhbpFJA.wav", "caption": "Wind."}]}), encoding="utf-8")
    soundfile.write(tmp_path / "Yb0RFKhbpFJA.flac", 0.1 * np.random.default_rng(0).standard_normal(24000), 8000)
    file("mid_to_display_name.tsv", NAMES)
    (clip,) = WavCaps(tmp_path, events=file("strong.tsv", STRONG))
    assert clip.events == (Event(0.0, 3.0, "Wind"), Event(2.627, 3.0, "Cheering"))
    with pytest.raises(UserError, match="none of the 1 files in the events"):
        WavCaps(tmp_path, events=file("other.csv", "file,onset,offset,label\nx,0,1,dog\n"))


def test_the_command_takes_events(tmp_path, file):
    folder = sounds(tmp_path / "sounds", a=0.5)
    table = file("table.csv", "file,onset,offset,label\na,0.1,0.2,dog\n")
    out = tmp_path / "shards"
    main(["shards", "folder", "--root", str(folder), "--events", str(table), "--out", str(out)])
    assert b'"events": [{"onset_s": 0.1, "offset_s": 0.2, "label": "dog"}]' in (out / "000000.tar").read_bytes()


@pytest.mark.parametrize("event", [Event(0.2, 0.1, "dog"), Event(-1.0, 0.1, "dog"), Event(0.0, float("inf"), "dog")])
def test_a_clip_with_an_impossible_event_is_left_out(tmp_path, event):
    clip = Clip("a", np.full(8000, 0.1, dtype=np.float32), 8000, "own", events=(event,))
    assert write_audio_shards([clip], tmp_path / "shards") == (
        0,
        [Failure("a", "audio", "has an event that ends before it begins, or has no time")],
    )
