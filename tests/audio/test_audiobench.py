"""AudioBench's data sets as local copies made by `datasets` itself, in both forms of their columns."""

import io
import socket
import sys

import datasets
import numpy as np
import pytest
import soundfile
from datasets import Audio, Dataset, DatasetDict, Features, Value

from ard.audio import AudioBench
from ard.audio.iemocap import EMOTIONS
from ard.types import UserError

FLAT = {"context": Audio(16000), "instruction": Value("string"), "answer": Value("string")}
SIDE = {"text": Value("string"), "audio": Audio(16000)}
NESTED = {"context": SIDE, "instruction": SIDE, "answer": SIDE, "other_attributes": {"index": Value("int64")}}
EMOTIONAL = {
    "From the speaker's speech, it seems they are in a happiness state.": "happy",
    "The speaker's emotion seems frustration.": "frustrated",
    "From the way they talk, it sounds like the speaker is neutral state.": "neutral",
    "The speaker's tone sounds excited.": "excited",
    "The speaker might be feeling anger.": "angry",
    "Sad.": "sad",
    "It sounds like surprise": "surprised",
}
GENDERED = {"The speaker is a female.": "female", "The speaker is a male.": "male", "The speaker is Female": "female"}


def wav(seed, rate=16000):
    buffer = io.BytesIO()
    soundfile.write(buffer, 0.1 * np.random.default_rng(seed).standard_normal(rate // 4), rate, format="WAV")
    return buffer.getvalue()


def encoded(features):
    """The features with sounds as structs: a cast makes sounds of them, where the encoder would want torchcodec."""
    if isinstance(features, Audio):
        return {"bytes": Value("binary"), "path": Value("string")}
    return {name: encoded(inner) for name, inner in features.items()} if isinstance(features, dict) else features


def make(form, answers, sounds=None):
    """A data set of these answers; a sound of its own for each unless given."""
    rows = []
    for index, answer in enumerate(answers):
        sound = wav(index) if sounds is None else sounds[index]
        audio = None if sound is None else {"bytes": sound, "path": None}
        row = {"context": audio, "instruction": "Which (Male or Female)?", "answer": answer}
        if form is NESTED:
            row = {name: {"text": value, "audio": None} for name, value in row.items()}
            row["context"] = {"text": None, "audio": audio}
            row["other_attributes"] = {"index": index}
        rows.append(row)
    return Dataset.from_list(rows, features=Features(encoded(form))).cast(Features(form))


def save(data, how, folder):
    if how == "dataset":
        data.save_to_disk(folder)
    elif how == "dataset of splits":
        DatasetDict({"train": data.select([0]), "test": data}).save_to_disk(folder)
    else:
        (folder / "data").mkdir(parents=True)
        half = len(data) // 2
        data.select(range(half)).to_parquet(folder / "data" / "test-00000-of-00002.parquet")
        data.select(range(half, len(data))).to_parquet(folder / "data" / "test-00001-of-00002.parquet")
        data.to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    return folder


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("a local copy was looked for on the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("how", ["dataset", "dataset of splits", "parquet"])
@pytest.mark.parametrize("form", [FLAT, NESTED], ids=["flat", "nested"])
def test_both_forms_and_all_copies_give_the_same_clips(form, how, tmp_path, round_trip):
    clips, failures = round_trip(AudioBench("iemocap-emotion", save(make(form, EMOTIONAL), how, tmp_path / "copy")))
    assert failures == {}
    assert {name: clip.emotion for name, clip in clips.items()} == {
        f"iemocap-emotion-{index:04d}": emotion for index, emotion in enumerate(EMOTIONAL.values())
    }
    for index, clip in enumerate(clips.values()):
        heard, _ = soundfile.read(io.BytesIO(wav(index)), dtype="float32")
        np.testing.assert_array_equal(clip.waveform, heard)
        assert (clip.dataset, clip.sample_rate_hz, clip.gender) == ("IEMOCAP-Emotion", 16000, None)


def test_emotions_have_the_words_of_iemocap():
    assert set(EMOTIONAL.values()) < set(EMOTIONS.values())


def test_genders(tmp_path, round_trip):
    clips, failures = round_trip(
        AudioBench("voxceleb1-gender", save(make(NESTED, GENDERED), "parquet", tmp_path / "c"))
    )
    assert [(clip.id, clip.gender, clip.emotion, clip.dataset) for clip in clips.values()] == [
        (f"voxceleb1-gender-{index:04d}", gender, None, "VoxCeleb1-Gender")
        for index, gender in enumerate(GENDERED.values())
    ]
    assert failures == {}


@pytest.mark.parametrize("form", [FLAT, NESTED], ids=["flat", "nested"])
def test_an_answer_without_one_class_or_a_row_without_a_sound_is_a_failure(form, tmp_path, round_trip):
    answers = [
        "A malevolent one.",
        "male or female",
        None,
        "The speaker is a male.",
        "male",
        "female",
        "A male speaks.",
    ]
    sounds = [wav(0), wav(1), wav(2), wav(3), None, wav(5)[:20], b""]
    clips, failures = round_trip(
        AudioBench("voxceleb1-gender", save(make(form, answers, sounds), "dataset", tmp_path / "c"))
    )
    assert list(clips) == ["voxceleb1-gender-0003"]
    assert list(failures.values()) == [
        "its answer names 0 classes, not one: 'A malevolent one.'",
        "its answer names 2 classes, not one: 'male or female'",
        "its answer names 0 classes, not one: None",
        "missing",
        "unreadable: its content cannot be decoded",
        "empty file",
    ]


def test_without_a_copy_the_hub_is_asked(monkeypatch, round_trip):
    asked = []

    def load_dataset(path, **settings):
        asked.append((path, settings))
        return make(FLAT, GENDERED).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    clips, _ = round_trip(AudioBench("voxceleb1-gender"))
    assert asked == [("AudioLLMs/voxceleb_gender_test", {"split": "test", "streaming": True})]
    assert [clip.gender for clip in clips.values()] == list(GENDERED.values())


def test_a_hub_out_of_reach_is_said(monkeypatch):
    def load_dataset(*_, **__):
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    said = (
        r"AudioLLMs/iemocap_emotion_recognition cannot be read from the hub \(Couldn't reach the Hub\): give a folder"
    )
    with pytest.raises(UserError, match=said):
        AudioBench("iemocap-emotion")


def test_a_folder_that_is_no_copy_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"cannot be read from '.*nowhere' \(Directory .*nowhere not found"):
        AudioBench("voxceleb1-gender", tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"cannot be read from .* with the split 'test', as --root"):
        AudioBench("voxceleb1-gender", tmp_path)
    DatasetDict(train=make(FLAT, GENDERED)).save_to_disk(tmp_path / "train only")
    with pytest.raises(UserError, match=r"cannot be read from .*train only' \('test'\)"):
        AudioBench("voxceleb1-gender", tmp_path / "train only")
    broken = save(make(FLAT, GENDERED), "parquet", tmp_path / "broken") / "data" / "test-00000-of-00002.parquet"
    broken.write_bytes(broken.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"cannot be read from .*broken' \(.*Parquet"):
        AudioBench("voxceleb1-gender", tmp_path / "broken")


def test_other_columns_are_refused(tmp_path):
    make(FLAT, GENDERED).rename_column("answer", "label").save_to_disk(tmp_path / "copy")
    with pytest.raises(UserError, match=r"columns \['context', 'instruction', 'label'\] lack 'context' and 'answer'"):
        AudioBench("voxceleb1-gender", tmp_path / "copy")


def test_without_datasets_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"not installed: pip install ard-audio\[audiobench\]"):
        AudioBench("voxceleb1-gender", tmp_path)
