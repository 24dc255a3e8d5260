import io
import math

import pytest
from rich.console import Console

from ard.cli import main
from ard.reports import concept_names, find_concepts, find_feature, render_concepts, shown_names
from ard.run import Run
from ard.types import UserError
from tests.reports.conftest import concept, write_concepts

IDS = ["a", "b", "c", "d"]


@pytest.fixture
def catalogue(run):
    rows = [
        concept(1, 2.0, IDS, name="Dog [barking]", clap=0.4, captions=["a dog"]),
        concept(2, 9.0, IDS, name="rain", clap=None, captions=["rain on a doghouse"]),
        concept(3, 5.0, IDS, name="birds", clap=0.7, captions=["birds"]),
        concept(4, math.nan, IDS, name=None, captions=["a dog that is no concept"]),
        concept(5, 5.0, IDS, name="wind", clap=math.nan, captions=[]),
    ]
    write_concepts(run, rows)
    return run


def test_a_list_of_no_line_is_refused(catalogue, capsys):
    for most in (0, -3):
        with pytest.raises(SystemExit):
            main(["concepts", "--run", str(catalogue), "--most", str(most)])
        assert f"most {most} shows no line: give 1 or more" in capsys.readouterr().err


def test_concepts_are_found_by_name_and_caption_and_sorted(catalogue):
    cell = Run.load(catalogue).own

    def found(**asked):
        return [row["feature"] for row in find_concepts(cell, **asked)]

    assert found() == [2, 3, 5, 1]
    assert found(search="DOG") == [2, 1]
    assert found(sort="name") == [3, 1, 2, 5]
    assert found(sort="clap") == [3, 1, 2, 5]
    assert found(search="no such thing") == []


def test_the_command_shows_them(catalogue, capsys):
    main(["concepts", "--run", str(catalogue), "--search", "dog", "--sort", "name", "--most", "1"])
    said = capsys.readouterr()
    assert "Dog [barking]" in said.out
    assert "rain" not in said.out
    assert "1 of 2 concepts, layer 3, expansion 8" in said.err


def test_what_supports_a_name_is_shown_in_the_place_of_a_caption(run, capsys):
    named = {"name": "rain", "made_from": "labels", "support": ["rain in 4 of 4 clips"], "captions": []}
    write_concepts(run, [concept(2, 9.0, IDS, **named)])
    main(["concepts", "--run", str(run)])
    said = " ".join(capsys.readouterr().out.split())
    assert "support" in said
    assert "a caption" not in said
    assert "rain in 4 of 4" in said
    assert "names from labels" in said


def test_a_dictionary_without_concepts_is_named(catalogue):
    with pytest.raises(UserError, match=r"e4/concepts.parquet' does not exist: .* with concepts are \['layer-3/e8'\]"):
        find_concepts(Run.load(catalogue).cell(3, 4))


def test_a_feature_is_found_by_the_words_of_its_name():
    names = {7: "woman speaking", 3: "a man speaking softly", 5: "Man speaking", 9: "man speaking"}
    assert find_feature(names, "man speaking") == 5
    assert find_feature(names, "SOFTLY") == 3
    assert find_feature({7: "woman speaking", 3: "a man speaking softly"}, "man speaking") == 3
    with pytest.raises(UserError, match=r"no feature has 'men speaking' in its name .* closest are \['man speaking'"):
        find_feature({7: "rain", 3: "man speaking"}, "men speaking")


def test_a_dictionary_without_names_has_none(run):
    assert concept_names(Run.load(run).own) == {7: "dog & <bark>", 5: "name 5"}
    assert concept_names(Run.load(run).cell(3, None)) == {}


def test_a_catalogue_without_detection_shows_what_there_is(catalogue, capsys):
    Run.load(catalogue).own.path("detection").unlink()
    for sort in ("m", "detection"):
        main(["concepts", "--run", str(catalogue), "--sort", sort])
        assert "dog" in capsys.readouterr().out


def test_names_that_fail_their_tests_are_shown_as_such(tmp_path):
    cell = Run(tmp_path).cell(3, 8)
    concept = {"layer": 3, "m": 1.0, "n_active": 4, "captions": [], "agreement": 1.0, "clap": 0.5, "support": []}
    cell.save_rows(
        "concepts", [concept | {"feature": n, "name": name} for n, name in enumerate(["dog", "rain", "bell"])]
    )
    tested = {"responsiveness": 0.9, "score": 0.5}
    cell.save_rows(
        "axes",
        [
            tested | {"feature": 0, "passes": True, "fails": []},
            tested | {"feature": 1, "passes": False, "score": 0.1, "fails": ["it fires everywhere"]},
        ],
    )
    assert shown_names(cell) == {0: "dog", 1: "rain [fails its tests]", 2: "bell"}
    assert [concept["feature"] for concept in find_concepts(cell, sort="score")][:2] == [0, 1]
    shown = render_concepts(find_concepts(cell))
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(shown)
    text = console.export_text()
    for words in (("0", "dog", "1.00", "passes"), ("1", "rain", "1.00", "fails"), ("2", "bell", "1.00", "–")):
        assert any(set(words) <= set(line.split()) for line in text.splitlines()), words
