"""The notes know in words whatever the evaluations may write as a choice."""

from dataclasses import asdict, fields
from inspect import signature
from typing import get_args

import pytest

from ard.evaluation import MatchLabels, MatchReading
from ard.monosemanticity import ScoreMonosemanticity
from ard.reports import notes
from ard.results import Result, Row
from ard.steering.functional import Denominator

READINGS = {field.name: get_args(field.type) for field in fields(MatchReading) if get_args(field.type)}
ACTIVE_BY = get_args(signature(MatchLabels).parameters["active_by"].annotation)
RANDOM_FROM = get_args(signature(ScoreMonosemanticity).parameters["random_from"].annotation)


def result(rows=(), details=None, **choices):
    return Result("any", tuple(rows), choices, details or {})


def read_as(random_from="all", random_lowest=False, **changes):
    """Return the sentence of a reading of Table 1."""
    choices = {**asdict(MatchReading()), "activity": 0.5, "active_by": "share"} | changes
    (said,) = notes.reading([result(**choices)], [result(random_from=random_from, random_lowest=random_lowest)])
    return said


@pytest.mark.parametrize("name", [*READINGS, "strict", "active_by", "random_from", "random_lowest"])
def test_every_reading_of_table_1_has_words_of_its_own(name):
    booleans = {"strict": (True, False), "random_lowest": (True, False)}
    values = {**READINGS, **booleans, "active_by": ACTIVE_BY, "random_from": RANDOM_FROM}[name]
    assert len(values) > 1
    assert len({read_as(**{name: value}) for value in values}) == len(values)


def steered(denominator="truth", judge="exact match of the answer's class", expansion=8, **details):
    choices = {"denominator": denominator, "num_draws": 5, "judge": judge, "axbench": "AxBench, by rules"}
    return notes.steering([result([Row("AR&D", 3, expansion, {})], {"tasks": {}, **details}, **choices)])


def test_every_denominator_of_table_3_has_words_of_its_own():
    assert len({steered(denominator)[0] for denominator in get_args(Denominator)}) == len(get_args(Denominator)) > 1


def test_raw_coordinates_are_a_row_of_table_3_and_have_no_note():
    assert steered(expansion=None) == []


@pytest.mark.parametrize(("kappa", "said"), [(0.5, "others: 0.50."), (None, "others: undefined, since all verdicts")])
def test_a_judges_agreement_with_exact_words_is_said(kappa, said):
    judged = {"kappa_with_exact_match": kappa, "num_judged_by_both": 3, "num_verdicts": 9, "num_unreadable": 1}
    (note,) = steered(judge="a-model", **judged)
    assert "Judge: a-model; 1 of 9 verdicts could not be read" in note
    assert said in note


def test_selectivity_is_said_where_it_is_known():
    def entry(value):
        return {"unchanged": {"value": value}, "unchanged_without_clamp": {"value": 1.0}}

    tasks = {"sad to happy": {"selectivity": [entry(0.5)]}, "female to male": {"selectivity": [entry(None)]}}
    assert steered(tasks=tasks)[0].endswith("stay as they were: sad to happy 0.50 (SAE alone 1.00).")


def test_the_random_draws_are_shown_as_they_are_distributed():
    drawn = {
        "draws": [{"sensitivity": {"value": value}} for value in (0.0, 0.1, 0.2, None, 0.3, 1.0)],
        "ours": {"value": 0.3},
        "p": 0.5,
    }
    none = {"draws": [], "ours": {"value": None}, "p": None}
    tasks = {"sad to happy": {"random_features": drawn, "random_directions": none}}
    said = "sad to happy, 5 random features 0.00 0.10 0.20 0.30 1.00 (AR&D 0.30, p = 0.50)."
    assert steered(tasks=tasks)[0].endswith(said)


def at_setting(scores, kept, *, num_unreadable=0, **more):
    names = ("overall", "concept", "instruction", "fluency")
    rated = {name: {"value": score} for name, score in zip(names, scores, strict=True)}
    return {
        "at_setting": {
            "axbench": rated | {"num_unreadable": num_unreadable},
            "kept": [{"value": value} for value in kept],
            **more,
        }
    }


def test_what_steering_leaves_is_said_for_each_shift_and_method():
    words = {"value": 0.25, "against": "transcripts"}
    methods = {
        "steered, by effect": at_setting([None] * 4, [None], num_unreadable=6),
        "Prompt": at_setting([0, 0, 2, 2], [1.0, 0.75], named={"value": 0.5}, word_error_rate=words),
    }
    own = at_setting([1.2, 1, 1, 2], [0.875])
    _, note = steered(tasks={"sad to happy": {**own, "methods": methods}})
    assert note.startswith("What steering leaves, at each method's setting. Scores: AxBench, by rules, 0 to 2")
    assert note.endswith(
        "still named. sad to happy: AR&D 1.20 (1.00, 1.00, 2.00), kept 0.88; AR&D, by effect 6 ratings unreadable; "
        "Prompt 0.00 (0.00, 2.00, 2.00), kept 1.00 and 0.75, named 0.50, word error rate 0.25 against transcripts."
    )


def test_forecasts_are_said_where_they_have_a_rank_correlation():
    correlations = {"geometry": {"spearman": 0.5, "n": 40}, "coactivation": {"spearman": None, "n": 2}}
    _, note = steered(forecast={"rank_correlation": correlations})
    assert note.endswith("rank correlation with what then changed is geometry +0.50 (40 settings and doses).")
