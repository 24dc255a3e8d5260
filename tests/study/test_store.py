import sqlite3
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import pytest

from ard.study import Answer, Store, StoreError, draw_concepts
from ard.types import UserError


def test_every_rater_has_an_order_of_their_own_which_stays(store):
    anna, bob = store.join("Anna"), store.join("Bob")
    assert sorted(store.order(anna)) == sorted(store.order(bob)) == sorted(store.concepts)
    assert store.order(anna) != store.order(bob)
    again = Store(store.path)
    assert again.join("  anna ") == anna
    assert again.order(anna) == store.order(anna)
    assert [rater.name for rater in again.raters()] == ["Anna", "Bob"]


def test_the_first_label_stays_and_ratings_that_change_are_counted(store):
    anna, concept = store.join("Anna"), store.concepts[0]
    assert store.label(anna, concept, "  a   dog ").label == "a dog"
    assert store.label(anna, concept, "what the name says").label == "a dog"
    first = store.rate(anna, concept, 2)
    assert (first.rating, first.first_rating, first.num_changes) == (2, 2, 0)
    assert store.rate(anna, concept, 2) == first
    last = store.rate(anna, concept, 0)
    assert (last.rating, last.first_rating, last.num_changes) == (0, 2, 1)
    assert store.answers() == store.answers(anna) == [last]
    assert last.labelled_at <= first.rated_at <= last.rated_at


@pytest.mark.parametrize("rating", [6, -1, 2.5, "3", None, True])
def test_what_is_no_rating_is_refused(store, rating):
    anna, concept = store.join("Anna"), store.concepts[0]
    store.label(anna, concept, "a dog")
    with pytest.raises(UserError, match=r"rating .* is not valid: give a whole number from 0 to 5"):
        store.rate(anna, concept, rating)
    assert store.answers()[0].rating is None


@pytest.mark.parametrize("text", ["", "  \n ", "x" * 201, None, 3, "null\0"])
def test_what_is_no_text_is_refused(store, text):
    with pytest.raises(UserError, match=r"the label .* is empty, too long or not text"):
        store.label(store.join("Anna"), store.concepts[0], text)
    with pytest.raises(UserError, match=r"the rater's name .* is empty, too long or not text"):
        store.join(text)
    assert not store.answers()


def test_a_rating_before_the_label_is_refused(store):
    with pytest.raises(UserError, match="labelled before it is rated"):
        store.rate(store.join("Anna"), store.concepts[0], 3)


def test_a_study_is_made_once(store, cells):
    concepts = draw_concepts(cells, 5, seed=0)
    anna = store.join("Anna")
    store.label(anna, store.concepts[0], "a dog")
    assert len(Store.create(store.path, concepts, 0).answers()) == 1
    with pytest.raises(UserError, match="is a study of other concepts, with 1 answers: export them"):
        Store.create(store.path, draw_concepts(cells, 4, seed=0), 0)
    assert len(store.answers()) == 1


def test_several_write_at_once_and_nothing_is_lost(store):
    raters = [store.join(f"rater {n}") for n in range(8)]

    def work(rater):
        mine = Store(store.path)
        for concept in mine.order(rater):
            mine.label(rater, concept, f"label of {rater.name}")
            mine.rate(rater, concept, 3)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, raters))
    answers = store.answers()
    assert len(answers) == 80
    assert {answer.label for answer in answers if answer.rater == "rater 3"} == {"label of rater 3"}


@pytest.mark.slow
def test_no_confirmed_answer_is_lost_with_a_process_that_is_killed(store):
    code = """
        import sys
        from pathlib import Path
        from ard.study import Store
        store = Store(Path(sys.argv[1]))
        for name in range(1000):
            rater = store.join(f"rater {name}")
            for concept in store.concepts:
                store.rate(rater, concept, store.label(rater, concept, "a dog").num_changes + 3)
                sys.stdout.write(f"rater {name} {concept.key}\\n")
                sys.stdout.flush()
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(store.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        confirmed = [writer.stdout.readline() for _ in range(57)]
        writer.kill()
        confirmed += writer.stdout.read().splitlines(keepends=True)
    kept = {f"{answer.rater} {answer.concept}\n" for answer in Store(store.path).answers() if answer.rating == 3}
    assert {line for line in confirmed if line.endswith("\n")} <= kept
    assert len(kept) <= len(confirmed) + 1


def test_a_damaged_file_is_refused_and_left_as_it_is(store, tmp_path):
    with pytest.raises(UserError, match=r"there is no study in .*: make one with `ard study make"):
        Store(tmp_path / "nowhere.sqlite")
    store.join("Anna")
    whole = store.path.read_bytes()
    for damaged in (b"not a database, whatever its name says" * 100, whole[:4096] + b"\x55" * (len(whole) - 4096), b""):
        path = tmp_path / "damaged.sqlite"
        path.write_bytes(damaged)
        with pytest.raises(
            StoreError, match=r"is damaged, no study, or cannot be used \(.*\): nothing in it was chang"
        ):
            Store(path)
        assert path.read_bytes() == damaged
    with sqlite3.connect(store.path) as db:
        db.execute("DELETE FROM study")
    with pytest.raises(StoreError, match="it is empty"):
        Store(store.path)


def test_a_study_that_vanishes_is_no_new_one(store):
    anna = store.join("Anna")
    store.path.unlink()
    with pytest.raises(StoreError, match="unable to open"):
        store.label(anna, store.concepts[0], "a dog")
    assert not store.path.exists()


def test_the_database_itself_refuses_what_is_no_rating(store):
    anna = store.join("Anna")
    with sqlite3.connect(store.path) as db, pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        db.execute("INSERT INTO answers (rater, concept, rating) VALUES (?, ?, 6)", (anna.id, store.concepts[0].key))


def test_what_came_before_and_what_comes_after_fit_and_what_contradicts_is_refused(store):
    anna, (first, second, *_) = store.join("Anna"), store.concepts
    store.label(anna, first, "a dog")
    labelled = store.answers()
    store.rate(anna, first, 3)
    rated = store.answers()
    store.rate(anna, first, 4)
    changed = store.answers()
    assert store.put([*labelled, *rated]) == 0
    assert store.answers() == changed
    others = [Answer("Anna", "person", second.key, "a cat"), changed[0]._replace(label="a cat")]
    with pytest.raises(
        UserError, match=r"rater 'Anna' has another answer here .*label 'a dog', rating 4.*nothing was imp"
    ):
        store.put(others)
    with pytest.raises(UserError, match="another answer here"):
        store.put([changed[0]._replace(rating=5)])
    assert store.answers() == changed
    assert store.put([changed[0]._replace(rating=5, num_changes=2)]) == 1
    assert store.answers()[0].rating == 5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"concept": "0" * 12}, "is not of this study, which has no such concept"),
        ({"rater": " "}, "the rater's name ' ' is empty"),
        ({"kind": "parrot"}, "has the kind 'parrot', which is neither person nor llm"),
        ({"label": "x" * 300}, "the label .* is empty, too long"),
        ({"rating": 6}, "has the rating 6, not one from 0 to 5"),
        ({"first_rating": -1}, "has the rating -1"),
        ({"label": None}, "has a rating and no label"),
        ({"label": None, "rating": None}, "is empty: nothing was imported"),
    ],
)
def test_one_bad_answer_keeps_all_out(store, change, said):
    good = Answer("Anna", "person", store.concepts[0].key, "a dog", rating=3, first_rating=3)
    bad = good._replace(concept=store.concepts[1].key)._replace(**change)
    with pytest.raises(UserError, match=said):
        store.put([good, bad])
    assert not store.answers()
    assert not store.raters()
