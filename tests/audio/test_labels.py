"""Tables of labels as users have them, and which files of a folder their rows are about."""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from ard.audio import FSD50K, Annotation, FolderClips, held_out, read_clips, read_labels, write_audio_shards
from ard.cli import main
from ard.types import Clip, Failure, UserError


@pytest.fixture
def table(tmp_path):
    """Write a table of labels outside the folder of sounds."""

    def write(content, name="labels.csv"):
        path = tmp_path / "tables" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.fixture
def folder(tmp_path, write_sound):
    """Four sounds, one of them in a subfolder."""
    root = tmp_path / "my sounds"
    for name in ("a.wav", "b.wav", "sub/c.wav", "d.e.wav"):
        write_sound(root / name)
    return root


def write_tone(path, seconds):
    path.parent.mkdir(exist_ok=True)
    soundfile.write(path, np.sin(np.arange(round(seconds * 8000)) / 5), 8000)


def labels_of(root, path, **options):
    return {clip.id: clip.labels for clip in FolderClips(root, labels=path, **options) if isinstance(clip, Clip)}


FSD = 'fname,labels,mids\n64760,"Electric_guitar,Guitar,Music","/m/02sgy,/m/0342h,/m/04rlf"\n16399,Dog,/m/0bt9lr\n'


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (FSD, {"64760": ("Electric_guitar", "Guitar", "Music"), "16399": ("Dog",)}),
        ("file,label\na,dog\nb,rain\na,bark\na,dog\n", {"a": ("dog", "bark"), "b": ("rain",)}),
        ("File;Labels\r\na;dog, bark\r\nb;\r\n\r\n", {"a": ("dog", "bark"), "b": ()}),
        ("path\tlabels\na\tdog;bark ; \n", {"a": ("dog", "bark")}),
        ('\ufefffilename,labels\na,"Speech|Male speech, man speaking"\nb,"Rain, rain"\n',
         {"a": ("Speech", "Male speech, man speaking"), "b": ("Rain, rain",)}),
        ("label,name\ndog,a\nrain,\u2028b\n", {"a": ("dog",), "b": ("rain",)}),
        ("id,label,group\na,dog\n", {"a": ("dog",)}),
    ],
    ids=["FSD50K", "several rows", "semicolons", "tabs", "labels with commas", "another order", "a short row"],
)  # fmt: skip
def test_tables_of_many_hands_are_read(table, content, expected):
    annotations = read_labels(table(content)).annotations
    assert {name: annotation.labels for name, annotation in annotations.items()} == expected


@pytest.mark.parametrize("labels", [[["dog", "a, b"], None], ["dog,a", None]], ids=["lists", "strings"])
def test_parquet_is_told_by_its_content(table, labels):
    path = table("", "labels.data")
    columns = {"id": [7, 8], "labels": labels, "speaker": ["x", None], "audio": [{"bytes": b"1"}, {"bytes": b"2"}]}
    pq.write_table(pa.table(columns), path)
    expected = ("dog", "a, b") if isinstance(labels[0], list) else ("dog", "a")
    assert read_labels(path).annotations == {"7": Annotation(expected, "x"), "8": Annotation()}
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"labels '.*labels.data' are a damaged parquet file \(.*\): make it again"):
        read_labels(path)


def test_a_group_column_comes_before_a_speaker_and_a_source(table):
    path = table("file,label,source,speaker\na,dog,web,Ann\nb,rain,,\na,bark,web,\n")
    assert read_labels(path).annotations == {"a": Annotation(("dog", "bark"), "Ann"), "b": Annotation(("rain",))}
    path = table("file,label,source\na,dog,web\n")
    assert read_labels(path).annotations == {"a": Annotation(("dog",), "web")}


def test_the_column_of_labels_may_have_any_name(table):
    path = table("id,gender\na,male\n")
    assert read_labels(path, "gender").annotations == {"a": Annotation(("male",))}
    with pytest.raises(UserError, match=r"no column 'sex', only 'id', 'gender': name it labels or label, or give its"):
        read_labels(path, "sex")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"labels '.*labels.csv' have no rows: give a row for each file"),
        ("file,label\n\n", "have no rows"),
        ("clip,label\na,dog\n", r"have no column of files, only 'clip', 'label': name it one of file, fname, filename"),
        ("file,gender\na,male\n", r"have no column of labels, only 'file', 'gender': name it labels or label, or"),
        ("file,label\nä,dog\n".encode("latin-1"), r"are not UTF-8 text \(invalid continuation byte at byte 11\): save"),
        ("file,label\na,dog,bark\n", r"line 2 of the labels .* has 3 cells, more than the 2 of the header: put cells"),
        (
            'file,label\na,dog\nb,"rain\nc,bell\n',
            r"line 4 of the labels .* is not CSV \(unexpected end of data\): corr",
        ),
        ("file,label\na,dog\n,bark\n", r"row 2 of the labels '.*labels.csv' names no file: name it, or delete the row"),
        ("file,label,group\na,dog,x\na,bark,y\n", r"put 'a' in two groups, 'x' and 'y': give it one"),
    ],
)
def test_bad_tables_are_refused_in_one_line(table, content, message):
    with pytest.raises(UserError, match=message) as refusal:
        read_labels(table(content))
    assert "\n" not in str(refusal.value)


def test_a_table_that_is_not_there_or_no_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"labels '.*none.csv' do not exist: give a CSV or parquet file of files and"):
        read_labels(tmp_path / "none.csv")
    with pytest.raises(UserError, match=r"labels '.*' cannot be read \(Is a directory\): give a CSV or parquet file"):
        read_labels(tmp_path)


def test_rows_fit_files_by_path_by_name_and_without_suffix(folder, table, write_sound):
    path = table("file,label\n./a.wav,one\nb,two\nsub/c,three\nc.wav,four\nd.e,five\n")
    assert labels_of(folder, path) == {
        "a_wav": ("one",),
        "b_wav": ("two",),
        "sub/c_wav": ("three", "four"),
        "d_e_wav": ("five",),
    }
    write_sound(folder / "Cafe\u0301.wav")  # as macOS writes it
    assert labels_of(folder, table("file,label\nCafé,six\n"))["Cafe\u0301_wav"] == ("six",)


def test_names_that_fit_several_files_or_files_in_two_groups_are_refused(folder, table, write_sound):
    write_sound(folder / "a.flac")
    with pytest.raises(
        UserError, match=r"'a' in the labels .* fits 2 files \('a.flac', 'a.wav'\): give their paths be"
    ):
        FolderClips(folder, labels=table("file,label\na,dog\n"))
    write_sound(folder / "sub" / "a.wav")
    assert labels_of(folder, table("file,label\na.wav,dog\n"))["sub/a_wav"] == ()  # it is the other's path
    with pytest.raises(UserError, match=r"labels .* put 'b.wav' in two groups, 'x' and 'y': give it one"):
        FolderClips(folder, labels=table("file,label,group\nb,dog,x\nb.wav,dog,y\n"))


def test_rows_without_a_file_are_counted_and_files_without_a_row_have_no_labels(folder, table):
    path = table("file,label,group\na,dog,x\nz1,rain,y\nz2,rain,y\n")
    failure, *clips = FolderClips(folder, labels=path)
    assert failure == Failure("labels.csv", "audio", "2 of its 3 names fit no file; the first: 'z1'")
    assert [(clip.labels, clip.group) for clip in clips] == [(("dog",), "x"), ((), None), ((), None), ((), None)]
    with pytest.raises(UserError, match=r"none of the 1 files in the labels .* \(the first is 'z'\) is among the 4 of"):
        FolderClips(folder, labels=table("file,label\nz,dog\n"))


def test_the_table_in_the_folder_is_not_taken_for_a_sound(folder):
    path = folder / "labels.csv"
    path.write_text("file,label\na,dog\n", encoding="utf-8")
    source = FolderClips(folder, labels=path)
    assert len(source) == 4
    assert all(isinstance(item, Clip) for item in source)


def test_pieces_have_their_files_labels_and_a_group(tmp_path, table, round_trip):
    path = table("file,label,group\na,dog,x\nb,rain,\n")
    for name, seconds in (("a", 0.6), ("b", 0.6), ("c", 0.3)):
        write_tone(tmp_path / "sounds" / f"{name}.wav", seconds)
    clips, failures = round_trip(FolderClips(tmp_path / "sounds", 0.4, path))
    assert {name: (clip.labels, clip.group) for name, clip in clips.items()} == {
        "a_wav#0000": (("dog",), "x"),
        "a_wav#0001": (("dog",), "x"),
        "b_wav#0000": (("rain",), "b_wav"),
        "b_wav#0001": (("rain",), "b_wav"),
        "c_wav": ((), None),
    }
    assert not failures


def test_the_parts_are_the_whole_with_every_group_on_one_side(tmp_path, table):
    root = tmp_path / "sounds"
    for number in range(30):
        write_tone(root / f"{number:02}.wav", 0.6)
    (root / "broken.wav").write_bytes(b"no sound" * 10)
    rows = "".join(f"{number:02},dog,{f'g{number % 7}' if number < 21 else ''}\n" for number in range(30))
    path = table(f"file,label,group\n{rows}none,dog,\n")

    def read(segment_s, **options):
        return list(FolderClips(root, segment_s, path, **options))

    for segment_s in (None, 0.4):
        whole = read(segment_s)
        sides = {part: read(segment_s, part=part, held_out_share=0.4, seed=3) for part in ("probe", "eval")}
        assert sorted(item.id for side in sides.values() for item in side) == sorted(item.id for item in whole)
        for part, side in sides.items():
            clips = [item for item in side if isinstance(item, Clip)]
            assert clips
            assert all(held_out(clip, 0.4, 3) == (part == "eval") for clip in clips)
    source = FolderClips(root, None, path, part="eval", held_out_share=0.4, seed=3)
    assert len(source) == len({item.id for item in source})
    assert source.fingerprint() == FolderClips(root, None, path, part="probe").fingerprint()
    before = source.fingerprint()
    path.write_text(path.read_text(encoding="utf-8").replace("dog", "cat"), encoding="utf-8")
    assert source.fingerprint() != before


def test_a_share_of_the_groups_is_held_out_and_the_seed_draws_anew():
    ids = [str(number) for number in range(4000)]
    drawn = [[held_out(name, 0.3, seed) for name in ids] for seed in (0, 1)]
    for of_seed in drawn:
        assert np.mean(of_seed) == pytest.approx(0.3, abs=0.03)
    both = np.mean(np.logical_and(*drawn))
    assert both == pytest.approx(0.09, abs=0.02)
    assert all(held_out(name, 0.5, 0) for name in ids if held_out(name, 0.3, 0))  # a larger share holds the smaller


@pytest.mark.parametrize("share", [0.0, 1.0, float("nan")])
def test_shares_that_leave_a_part_empty_and_a_column_without_a_table_are_refused(folder, share):
    with pytest.raises(UserError, match=r"held_out_share .* is out of range: give a share between 0 and 1"):
        FolderClips(folder, held_out_share=share)
    with pytest.raises(UserError, match="label_column 'gender' is a column of no table: give the labels, too"):
        FolderClips(folder, label_column="gender")


def test_the_command_writes_labels_and_groups_into_shards(folder, table, tmp_path, capsys):
    path = table("id,gender,speaker\na,male,Bo\nb,female,Ann\nnone,male,Cy\n")
    words = ["--labels", str(path), "--label_column", "gender", "--out", str(tmp_path / "out")]
    main(["shards", "folder", "--root", str(folder), *words])
    assert "labels.csv: 1 of its 3 names fit no file; the first: 'none'" in capsys.readouterr().err
    written = {clip.id: (clip.labels, clip.group) for clip in read_clips(tmp_path / "out")}
    assert written["a_wav"] == (("male",), "Bo")
    assert written["d_e_wav"] == ((), None)
    failures = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))["failures"]
    assert [failure["id"] for failure in failures] == ["labels.csv"]


def test_text_that_is_no_unicode_is_escaped_in_a_group(tmp_path):
    write_audio_shards([Clip("x", np.ones(2000, np.float32), 8000, "d", group="\ud800")], tmp_path / "out")
    assert [clip.group for clip in read_clips(tmp_path / "out")] == [r"\ud800"]
    assert held_out("\ud800", 0.5, 0) == held_out(r"\ud800", 0.5, 0)


def test_real_recordings_have_the_labels_that_fsd50k_gives_them():
    real = os.environ.get("ARD_REAL")
    if not real:
        pytest.skip("ARD_REAL is not set: it names a folder with real recordings in FSD50K's layout")
    root = Path(real) / "clips"
    labelled = labels_of(root / "FSD50K.eval_audio", root / "FSD50K.ground_truth" / "eval.csv")
    assert labelled == {f"{clip.id}_wav": clip.labels for clip in FSD50K(root) if isinstance(clip, Clip)}
    speech = FolderClips(root / "speech", None, root / "speech" / "speech.csv", label_column="gender")
    clips = [clip for clip in speech if isinstance(clip, Clip)]
    assert {clip.labels for clip in clips} == {("male",), ("female",)}
    assert all(clip.group for clip in clips)
