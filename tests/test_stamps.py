"""What a stamp holds, and what it says when settings change."""

import json
from pathlib import Path

import pytest

from ard.stamps import NO_EFFECT, Stamp, read_stamp, settings_of, write_stamp

OUT = Path("/data/runs/demo")
CONFIG = {
    "seed_everything": 0,
    "model": {"class_path": "ard.sae.SAETraining", "init_args": {"k": 4, "optimizer": {"lr": 0.1}}},
    "data": {"class_path": "ard.activations.ActivationDataModule", "init_args": {"activations": f"{OUT}/activations"}},
    "trainer": {
        "max_steps": 10,
        "callbacks": [
            {"class_path": "ard.sae.LogQuality"},
            {"class_path": "ard.sae.SaveSAE", "init_args": {"out": f"{OUT}/layer-1/e2/sae"}},
            {"class_path": "ard.naming.NameConcepts", "init_args": {"namer": {"class_path": "a.B", "init_args": {}}}},
        ],
    },
}


def test_settings_are_flat_by_dotted_name_and_callbacks_go_by_their_class():
    assert settings_of(CONFIG, OUT) == {
        "seed_everything": 0,
        "model.class_path": "ard.sae.SAETraining",
        "model.k": 4,
        "model.optimizer.lr": 0.1,
        "data.class_path": "ard.activations.ActivationDataModule",
        "data.activations": "<run>/activations",
        "trainer.max_steps": 10,
        "trainer.callbacks.LogQuality": "ard.sae.LogQuality",
        "trainer.callbacks.NameConcepts": "ard.naming.NameConcepts",
        "trainer.callbacks.NameConcepts.namer.class_path": "a.B",
    }


def test_a_run_folder_can_be_moved():
    moved = Path("/elsewhere/mine")
    config = json.loads(json.dumps(CONFIG).replace(str(OUT), str(moved)))
    assert settings_of(config, moved) == settings_of(CONFIG, OUT)
    listed = settings_of({"folders": [{"audio": f"{OUT}/audio/steer"}, str(OUT)]}, OUT)
    assert listed == {"folders": [{"audio": "<run>/audio/steer"}, "<run>"]}


@pytest.mark.parametrize("name", sorted(NO_EFFECT))
def test_a_setting_that_cannot_change_a_result_is_no_part_of_a_stamp(name):
    config = {"a": 1, name: 2, "data": {"init_args": {"b": 3, name: {"deep": 4}}}}
    assert settings_of(config, OUT) == {"a": 1, "data.b": 3}


@pytest.mark.parametrize("setting", ["vocabulary", "pairs"])
def test_what_is_in_a_file_that_people_edit_counts_too(tmp_path, setting):
    path = tmp_path / "mine.txt"
    digests = []
    for phrases in ("owl", "owl\nrain"):
        path.write_text(phrases, encoding="utf-8")
        settings = settings_of({"namer": {"class_path": "a.B", "init_args": {setting: str(path)}}}, OUT)
        assert settings[f"namer.{setting}"] == str(path)
        digests.append(settings[f"namer.{setting}.sha256"])
    assert len(set(digests)) == 2
    assert settings_of({"vocabulary": "audioset"}, OUT) == {"vocabulary": "audioset"}


def test_what_changed_is_said_setting_by_setting():
    before = Stamp({"k": 4, "lr": 0.1, "gone": "x"}, {"fit": "a"})
    now = Stamp({"k": 5, "lr": 0.1, "new": None}, {"fit": "b"})
    assert before.differences(now) == [
        "gone changed from 'x' to nothing",
        "k changed from 4 to 5",
        "new changed from nothing to None",
    ]
    assert before.differences(before) == []


def test_another_need_is_named_where_no_setting_differs():
    before = Stamp({"k": 4}, {"fit": "a", "extract-probe": "b"})
    assert before.differences(Stamp({"k": 4}, {"fit": "c", "extract-probe": "b"})) == ["fit has changed"]
    assert before.differences(Stamp({"k": 4}, {"fit": "a"})) == ["extract-probe has changed"]
    assert Stamp({"k": 4}, {"fit": "a"}).differences(before) == ["extract-probe has changed"]


def test_a_need_that_is_not_known_yet_differs_from_nothing():
    before = Stamp({}, {"fit": "a"})
    assert before.differences(Stamp({}, {"fit": None})) == []
    assert Stamp({}, {"fit": None}).differences(before) == ["fit has changed"]
    assert Stamp({}, {}).differences(Stamp({}, {"fit": None})) == []


def test_a_digest_is_that_of_settings_and_needs_in_any_order():
    stamp = Stamp({"a": 1, "b": [2, None]}, {"x": "1", "y": None})
    assert stamp.digest == Stamp({"b": [2, None], "a": 1}, {"y": None, "x": "1"}).digest
    others = (Stamp({"a": 1, "b": [2]}, stamp.needs), Stamp(stamp.settings, {"x": "2", "y": None}))
    assert len({stamp.digest, *(other.digest for other in others)}) == 3


def test_a_stamp_is_read_as_it_was_written_and_a_damaged_one_is_none(tmp_path):
    path = tmp_path / "stamps" / "fit.json"
    assert read_stamp(path) is None
    settings = settings_of({**CONFIG, "list": [1, {"deep": [0.5, "é"]}], "none": None}, OUT)
    stamp = Stamp(settings, {"extract-probe": "0123", "audio": None})
    write_stamp(path, stamp)
    assert read_stamp(path) == stamp
    assert read_stamp(path).digest == stamp.digest
    evaluated = stamp._replace(results=("matching",))
    write_stamp(path, evaluated)
    assert read_stamp(path) == evaluated
    assert evaluated.digest == stamp.digest
    for damaged in ("", "{", "[]", '{"settings": {}}', "null"):
        path.write_text(damaged, encoding="utf-8")
        assert read_stamp(path) is None


def test_a_setting_that_is_new_changes_nothing_with_what_was_done_before(tmp_path):
    assert settings_of({"model": {"init_args": {"layers": [1], "tokens": "audio"}}}, tmp_path) == {"model.layers": [1]}
    assert settings_of({"model": {"init_args": {"tokens": "text"}}}, tmp_path) == {"model.tokens": "text"}
