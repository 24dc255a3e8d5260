"""Tables of sounds and words that contradict them, as ALME has them and plain."""

import json
from pathlib import Path

import pytest

from ard.audio import Conflict, read_conflicts
from ard.types import UserError

ALME = {
    "stimulus_id": "cv__1",
    "language": "EN",
    "audio_path": "en/clips/1.mp3",
    "ref_text": "We leave at nine.",
    "conflict_text": "We leave at ten.\u2028",
    "question": {"question_text": "When?", "choices": ["nine", "ten"], "flip_type": "time_swap"},
}


def test_alme_is_read_as_its_own_evaluation_reads_it(tmp_path):
    table = tmp_path / "stimuli.jsonl"
    rows = ALME, {**ALME, "stimulus_id": "cv__2"}
    table.write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n", encoding="utf-8")
    first, second = read_conflicts(table, Path("/cv"))
    assert first == Conflict("cv__1", Path("/cv/en/clips/1.mp3"), "We leave at nine.", "We leave at ten.\u2028")
    assert second.id == "cv__2"


def test_a_plain_table_has_three_columns_and_paths_beside_it(tmp_path):
    table = tmp_path / "pairs.csv"
    table.write_text('\ufeffaudio,says,contradicts,note\na/dog.wav,"a dog, near","a\ncat",x\n', encoding="utf-8")
    assert read_conflicts(table) == [Conflict("a/dog.wav", tmp_path / "a/dog.wav", "a dog, near", "a\ncat")]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"audio": "a.wav"}\n', "line 1 of the pairs '.*' has no 'says': give each row audio, says and"),
        ("a.csv", b"audio,says,contradicts\na.wav,dog\n", "line 2 of the pairs '.*' has no 'contradicts'"),
        ("a.jsonl", b"[1]\n", "line 1 of the pairs '.*' is no JSON object: correct it, or give CSV"),
        ("a.jsonl", b"{\n", "line 1 of the pairs '.*' is no JSON object"),
        ("a.csv", b"audio,says,contradicts\n", "pairs '.*' have no rows: give a row for each pair"),
        ("a.csv", b"\xff", "pairs '.*' are not UTF-8 text .*: save them as UTF-8"),
        ("a.csv", b"audio,says,contradicts\na," + 200000 * b"x" + b",b\n", "line 2 of the pairs '.*' is not CSV"),
        ("a.csv", b'audio,says,contradicts\na,"b\nc",d\na,b\n', "line 4 of the pairs '.*' has no 'contradicts'"),
        ("a.jsonl", b"\xff", "pairs '.*' cannot be read .*: give a CSV file or JSON lines in UTF-8"),
        ("", b"", "pairs '.*' cannot be read"),
    ],
)
def test_what_is_no_table_is_refused_in_one_line(tmp_path, name, content, said):
    if name:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_conflicts(tmp_path / name)
