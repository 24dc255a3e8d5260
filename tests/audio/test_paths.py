"""Every file under a folder once, and names of any bytes as text."""

import os
from pathlib import Path

import pytest

from ard.audio.paths import files_under, id_of, is_key, printable


def test_files_come_in_the_order_of_their_names_at_any_depth(tmp_path):
    for name in ("b/c.wav", "b.wav", "a/z.wav", "a b/x.wav", "B/y.wav", "a/.hidden/w.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    files, errors = files_under(tmp_path)
    assert files == sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert errors == []


def test_each_real_folder_is_visited_once_and_where_it_lies(tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    for folder in (root / "real", elsewhere / "deep"):
        folder.mkdir(parents=True)
        (folder / "x.wav").touch()
    for place, target in {
        "a link": root / "real",
        "self": root,
        "up": tmp_path,
        "out": elsewhere / "deep",
        "out again": elsewhere,
        "nothing": tmp_path / "nowhere",
    }.items():
        (root / place).symlink_to(target)
    (elsewhere / "back").symlink_to(root)
    (root / "circle").symlink_to(root / "circle")
    files, errors = files_under(root)
    found = [path.relative_to(root).as_posix() for path in files]
    assert found == ["circle", "nothing", "out/x.wav", "real/x.wav"]
    assert errors == []


@pytest.mark.parametrize(
    "name", [b"caf\xe9.wav", b"back\\slash.wav", b"two\nlines", "ünïcode\xa0 naïve".encode(), b"\xff"]
)
def test_a_printable_name_is_valid_text_on_one_line_and_tells_the_name(name):
    text = printable(os.fsdecode(name))
    assert len(text.encode().splitlines()) == 1
    escaped = text.encode("latin-1", "backslashreplace").decode("unicode_escape")
    assert os.fsencode(escaped) == name


def test_ordinary_names_stay_as_they_are():
    assert printable("b/c d — naïve.wav") == "b/c d — naïve.wav"
    assert id_of("a/b.c d.wav") == "a/b_c d_wav"
    assert id_of("__MACOSX__/x") == r"\x5f_MACOSX__/x"


@pytest.mark.parametrize("name", ["", ".", "a.wav", "__x__/y", "a\nb", "\udce9"])
def test_an_id_is_always_a_key(name):
    assert not is_key(name)
    assert is_key(id_of(name)) or name == ""
    assert not Path(id_of(name)).is_absolute()
