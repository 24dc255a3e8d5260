import csv
import json
import xml.etree.ElementTree

import pytest

from ard.study import Store, draw_concepts, read_answers, write_answers
from ard.types import UserError


@pytest.fixture
def empty(cells, tmp_path):
    """Make the same study once more, without answers."""
    return Store.create(tmp_path / "other" / "study.sqlite", draw_concepts(cells, 5, seed=0), 0)


@pytest.mark.parametrize("name", ["ratings.csv", "label-studio.json"])
def test_what_is_exported_and_imported_is_equal(answered, empty, tmp_path, name):
    write_answers(answered, tmp_path / "out")
    answers = read_answers(tmp_path / "out" / name, empty)
    assert empty.put(answers) == 16
    assert empty.answers() == answered.answers()
    assert empty.put(answers) == 0
    assert not list(tmp_path.rglob("*.partial"))


def test_the_csv_has_a_row_an_answer_with_all_that_is_known(answered, tmp_path):
    write_answers(answered, tmp_path)
    rows = list(csv.DictReader((tmp_path / "ratings.csv").open(encoding="utf-8", newline="")))
    concepts = {concept.key: concept for concept in answered.concepts}
    assert len(rows) == len(answered.answers()) == 16
    for row in rows:
        concept = concepts[row["concept"]]
        assert (row["method"], row["name"], row["kind"]) == (concept.method, concept.name, "person")
    assert {row["label"] for row in rows} >= {"<script>alert(1)</script>", 'a "quoted", comma', "naïve 雨 🎵"}
    assert [row["rating"] for row in rows].count("") == 2


def test_label_studio_gets_a_task_a_concept_and_a_scale_that_begins_at_0(answered, tmp_path):
    write_answers(answered, tmp_path)
    tasks = json.loads((tmp_path / "label-studio.json").read_text(encoding="utf-8"))
    assert len(tasks) == 10
    assert sum(len(task["annotations"]) for task in tasks) == 16
    config = xml.etree.ElementTree.parse(tmp_path / "label-studio.xml").getroot()
    names = {tag.get("name"): tag.tag for tag in config if tag.get("name")}
    assert [choice.get("value") for choice in config.find("Choices")] == list("012345")
    for task in tasks:
        used = {tag.get("value")[1:] for tag in config if tag.get("value", "").startswith("$")}
        assert used <= task["data"].keys()
        for annotation in task["annotations"]:
            for region in annotation["result"]:
                assert region["from_name"] in names
                assert region["to_name"] in names
                assert region["type"] == names[region["from_name"]].lower()
                (key,) = region["value"]
                assert key == {"textarea": "text", "choices": "choices"}[region["type"]]


def test_what_label_studio_itself_wrote_is_read(store, tmp_path):
    concept = store.concepts[0]

    def region(name, **value):
        return {"from_name": name, "to_name": "clip1", "type": "x", "id": "a1", "value": value, "origin": "manual"}

    labelled = [region("label", text=["a dog"]), region("rating", rating=4)]
    when = {"created_at": "2026-01-02T03:04:05Z", "updated_at": "2026-01-02T03:05:05Z", "lead_time": 4.2}
    task = {"id": 77, "data": {"concept": concept.key}, "annotations": []}
    task["annotations"].append({"result": labelled, "completed_by": {"id": 5, "email": "anna@here"}, **when})
    task["annotations"].append({"result": [region("label", text=["a cat"])], "completed_by": 6, **when})
    task["annotations"].append({"result": labelled, "completed_by": 7, "was_cancelled": True, **when})
    path = tmp_path / "export.json"
    path.write_text(json.dumps([task]), encoding="utf-8")
    assert store.put(read_answers(path, store)) == 2
    by_number, by_mail = store.answers()
    assert (by_mail.rater, by_mail.kind, by_mail.label, by_mail.rating) == ("anna@here", "person", "a dog", 4)
    assert (by_mail.first_rating, by_mail.num_changes, by_mail.rated_at) == (4, 0, "2026-01-02T03:05:05Z")
    assert (by_number.rater, by_number.label, by_number.rating, by_number.rated_at) == ("6", "a cat", None, None)


def changed(path, old, new):
    path.write_text(path.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("{key}", "abcabcabcabc", "concept 'abcabcabcabc' is not of this study"),
        ("{name}", "another name", "has another name here: this is another study's file"),
        ("rater,kind", "who,kind", "line 2 lacks rater"),
        (",1,2", ",3.5,2", "invalid literal for int"),
    ],
)
def test_a_csv_that_does_not_fit_is_refused_whole(answered, empty, tmp_path, old, new, said):
    write_answers(answered, tmp_path)
    first = answered.answers()[0]
    name = next(concept.name for concept in answered.concepts if concept.key == first.concept)
    path = changed(tmp_path / "ratings.csv", old.format(key=first.concept, name=name), new)
    with pytest.raises(UserError, match=rf"holds no ratings that can be read \(.*{said}.*\): nothing was imported"):
        read_answers(path, empty)


def test_a_rater_without_a_name_and_a_rating_of_6_are_refused(answered, empty, tmp_path):
    write_answers(answered, tmp_path)
    answers = read_answers(tmp_path / "ratings.csv", empty)
    path = changed(tmp_path / "ratings.csv", "Anna,person", ",person")
    with pytest.raises(UserError, match="the rater's name '' is empty"):
        empty.put(read_answers(path, empty))
    with pytest.raises(UserError, match=r"has the rating 6, not one from 0 to 5: nothing was imported"):
        empty.put([*answers[:-1], answers[-1]._replace(rating=6)])
    tasks = json.loads((tmp_path / "label-studio.json").read_text(encoding="utf-8"))
    for task in tasks:
        for annotation in task["annotations"]:
            annotation["result"] = [region for region in annotation["result"] if region["from_name"] != "rater"]
    (tmp_path / "label-studio.json").write_text(json.dumps(tasks), encoding="utf-8")
    with pytest.raises(UserError, match="does not say who made it: neither a region 'rater' nor 'completed_by'"):
        read_answers(tmp_path / "label-studio.json", empty)
    assert not empty.answers()


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"a": 1}', '[{"data": {}}]', '[{"data": null}]', "[null]"])
def test_json_that_is_no_export_is_refused(store, tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"holds no ratings that can be read \("):
        read_answers(path, store)


def test_files_that_are_not_there_or_of_another_kind_are_refused(store, tmp_path):
    with pytest.raises(UserError, match=r"holds no ratings that can be read \(.*No such file"):
        read_answers(tmp_path / "none.csv", store)
    with pytest.raises(UserError, match=r"is neither .csv nor .json: give a file"):
        read_answers(tmp_path / "ratings.xlsx", store)
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00" * 9)
    with pytest.raises(UserError, match="holds no ratings that can be read"):
        read_answers(tmp_path / "bytes.csv", store)


def test_numbers_that_are_not_whole_and_files_that_are_too_much_are_refused(answered, empty, tmp_path):
    write_answers(answered, tmp_path)
    tasks = json.loads((tmp_path / "label-studio.json").read_text(encoding="utf-8"))
    rated = next(
        region
        for task in tasks
        for a in task["annotations"]
        for region in a["result"]
        if region["from_name"] == "rating"
    )
    for rating, said in ((3.7, "3.7 is not a whole number"), (float("inf"), "float infinity|is not a whole")):
        rated["value"] = {"rating": rating}
        (tmp_path / "label-studio.json").write_text(json.dumps(tasks), encoding="utf-8")
        with pytest.raises(UserError, match=rf"holds no ratings that can be read \(.*({said})"):
            read_answers(tmp_path / "label-studio.json", empty)
    (tmp_path / "deep.json").write_text("[" * 100_000, encoding="utf-8")
    (tmp_path / "wide.csv").write_text("rater,kind,concept,label,rating\n" + "a" * 200_000, encoding="utf-8")
    for name in ("deep.json", "wide.csv"):
        with pytest.raises(UserError, match="holds no ratings that can be read"):
            read_answers(tmp_path / name, empty)
    (tmp_path / "empty.csv").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="it has no answers"):
        read_answers(tmp_path / "empty.csv", empty)


def test_a_label_of_several_lines_stays_several_lines(answered, empty, tmp_path):
    write_answers(answered, tmp_path)
    first = answered.answers()[0]
    path = changed(tmp_path / "ratings.csv", f",{first.label},", ',"rain\non a roof",')
    assert "rain\non a roof" in {answer.label for answer in read_answers(path, empty)}
