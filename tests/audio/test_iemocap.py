"""IEMOCAP in the layout of its release, with the files and lines that are not utterances."""

import os

import numpy as np
import pytest
import soundfile

from ard.audio import IEMOCAP
from ard.audio.iemocap import EMOTIONS
from ard.types import UserError

HEADER = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
RATERS = (
    "C-E1:\tAnger;\t()\nC-E2:\tNeutral; Frustration;\t(curious)\nC-F1:\tNeutral;\t()\n"
    "A-E3:\tval 2; act 4; dom  4;\t()\nA-F1:\tval 3; act 2; dom  1;\t()\n\n"
)
IMPRO = {
    "Ses01F_impro01_F000": ("neu", "Excuse me."),
    "Ses01F_impro01_M000": ("xxx", "Do you have your forms?"),
    "Ses01F_impro01_F001": ("fru", "The café. [LAUGHTER]"),
}
SCRIPT = {"Ses05M_script01_1b_M001": ("hap", None), "Ses05M_script01_1b_F012": ("exc", "It's [a]: colon.")}


def write_dialogue(release, session, dialogue, utterances, write_sound):
    base = release / f"Session{session}"
    rated, spoken = HEADER, ""
    for index, (name, (code, words)) in enumerate(utterances.items()):
        rated += f"[{index}.2901 - {index + 1}.2357]\t{name}\t{code}\t[2.5000, 2.5000, 2.5000]\n{RATERS}"
        spoken += f"{name} [{index:03d}.2901-{index + 1:03d}.2357]: {words}\n" if words else ""
        write_sound(base / f"sentences/wav/{dialogue}/{name}.wav")
    spoken += f"{dialogue}_MXX0 [010.0000-011.0000]: Unrated.\nM: [BREATHING]\n"
    rating = base / f"dialog/EmoEvaluation/{dialogue}.txt"
    junk = b"\0\5\x16\7\0\2\0\0Mac OS X        \xb0\xff"
    for kind, ending, line in (
        ("Attribute", "e1_atr", " :act 4; :val 3; :dom  2;"),
        ("Categorical", "e1_cat", " :Neutral state;"),
        ("Self-evaluation", "f1_atr", " :act 4; :val 3; :dom  1;"),
    ):
        (rating.parent / kind).mkdir(parents=True, exist_ok=True)
        lines = "".join(f"{name}{line}\n" for name in utterances)
        (rating.parent / kind / f"{dialogue}_{ending}.txt").write_text(lines, encoding="utf-8")
        (rating.parent / kind / f"{dialogue}_{ending}.anvil").write_bytes(junk)
    rating.write_text(rated, encoding="utf-8")
    rating.with_name(f"._{dialogue}.txt").write_bytes(junk + rated.encode())
    transcript = base / f"dialog/transcriptions/{dialogue}.txt"
    transcript.parent.mkdir(parents=True, exist_ok=True)
    transcript.write_bytes(spoken.encode("latin-1"))
    transcript.with_name(f"._{dialogue}.txt").write_bytes(junk)
    (base / f"sentences/wav/{dialogue}/._{next(iter(utterances))}.wav").write_bytes(junk)


@pytest.fixture
def release(tmp_path, write_sound):
    """Two sessions of the five, one dialogue each."""
    folder = tmp_path / "corpora" / "IEMOCAP_full_release"
    write_dialogue(folder, 5, "Ses05M_script01_1b", SCRIPT, write_sound)
    write_dialogue(folder, 1, "Ses01F_impro01", IMPRO, write_sound)
    return folder


def test_every_rated_utterance_is_a_clip(release, round_trip):
    corpus = IEMOCAP(release)
    clips, failures = round_trip(corpus)
    assert failures == {}
    assert list(clips) == [*IMPRO, *SCRIPT]
    assert len(corpus) == 5
    assert {name: (clip.emotion, clip.gender, clip.transcript) for name, clip in clips.items()} == {
        "Ses01F_impro01_F000": ("neutral", "female", "Excuse me."),
        "Ses01F_impro01_M000": (None, "male", "Do you have your forms?"),
        "Ses01F_impro01_F001": ("frustrated", "female", "The caf\ufffd. [LAUGHTER]"),
        "Ses05M_script01_1b_M001": ("happy", "male", None),
        "Ses05M_script01_1b_F012": ("excited", "female", "It's [a]: colon."),
    }
    assert {(clip.dataset, clip.sample_rate_hz, clip.caption) for clip in clips.values()} == {("IEMOCAP", 16000, None)}
    assert [clip.group for clip in clips.values()] == ["Ses01F", "Ses01M", "Ses01F", "Ses05M", "Ses05F"]


def test_the_folder_around_the_release_will_do(release):
    assert [clip.id for clip in IEMOCAP(release.parent)] == [clip.id for clip in IEMOCAP(release)]


def test_what_is_missing_or_broken_is_named(release, round_trip):
    wavs = release / "Session1/sentences/wav/Ses01F_impro01"
    (wavs / "Ses01F_impro01_F000.wav").unlink()
    os.truncate(wavs / "Ses01F_impro01_M000.wav", 20)
    (wavs / "Ses01F_impro01_F001.wav").write_bytes(b"")
    (release / "Session5/dialog/transcriptions/Ses05M_script01_1b.txt").unlink()
    clips, failures = round_trip(IEMOCAP(release))
    assert failures == {
        "Ses01F_impro01_F000": "missing",
        "Ses01F_impro01_M000": "unreadable: its content cannot be decoded",
        "Ses01F_impro01_F001": "empty file",
    }
    assert {name: clip.transcript for name, clip in clips.items()} == dict.fromkeys(SCRIPT)


def test_every_code_has_a_word_of_its_own(tmp_path, write_sound):
    named = {f"Ses02F_impro01_F{index:03d}": (code, "Words.") for index, code in enumerate(EMOTIONS)}
    write_dialogue(tmp_path, 2, "Ses02F_impro01", named, write_sound)
    emotions = [clip.emotion for clip in IEMOCAP(tmp_path)]
    assert emotions == list(EMOTIONS.values())
    assert emotions.count(None) == 1
    assert len(set(emotions)) == 11


def test_turns_are_events_in_the_pieces_of_a_dialogue(release, round_trip):
    wav = release / "Session1/dialog/wav/Ses01F_impro01.wav"
    wav.parent.mkdir()
    soundfile.write(wav, 0.1 * np.random.default_rng(1).standard_normal((5 * 8000, 2)), 8000)
    corpus = IEMOCAP(release, dialogues=True, segment_s=2.5)
    clips, failures = round_trip(corpus)
    assert len(corpus) == 2
    assert failures == {"Ses05M_script01_1b": "missing"}
    assert list(clips) == ["Ses01F_impro01#0000", "Ses01F_impro01#0001"]
    assert {(clip.dataset, clip.group, clip.emotion) for clip in clips.values()} == {
        ("IEMOCAP-dialogues", "Ses01", None)
    }
    first, second = (
        [(round(onset, 4), round(offset, 4), label) for onset, offset, label in clip.events] for clip in clips.values()
    )
    turns = (0.2901, 1.2357, "female"), (0.2901, 1.2357, "neutral"), (1.2901, 2.2357, "male")
    assert first == [*turns, (2.2901, 2.5, "female"), (2.2901, 2.5, "frustrated")]
    assert second == [(0.0, 0.7357, "female"), (0.0, 0.7357, "frustrated")]


@pytest.mark.parametrize("segment_s", [0, -1.0, float("nan")])
def test_pieces_of_a_dialogue_have_a_length(release, segment_s):
    with pytest.raises(UserError, match=r"^segment_s .* cuts files into nothing"):
        IEMOCAP(release, dialogues=True, segment_s=float(segment_s))


def test_an_unknown_emotion_is_refused(tmp_path, write_sound):
    write_dialogue(tmp_path, 3, "Ses03F_impro01", {"Ses03F_impro01_F000": ("joy", "!")}, write_sound)
    with pytest.raises(UserError, match=r"Ses03F_impro01_F000 in .*txt' has emotion 'joy', not one of \['ang'"):
        IEMOCAP(tmp_path)


def test_a_folder_without_ratings_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no Session\*/dialog/EmoEvaluation/Ses\*.txt is under .*: give the folder of"):
        IEMOCAP(tmp_path)


def test_a_speaker_who_is_neither_f_nor_m_has_no_gender_and_a_note(tmp_path, write_sound):
    write_dialogue(tmp_path, 4, "Ses04F_impro01", {"Ses04F_impro01_X000": ("neu", "Hm.")}, write_sound)
    (clip,) = IEMOCAP(tmp_path)
    assert (clip.gender, clip.group, clip.note) == (None, None, "its speaker is 'X000', neither F nor M")
