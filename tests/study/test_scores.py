import json
import math

import numpy as np
import pytest

from ard.embedding import load_clap
from ard.evaluation import BERTScore
from ard.evaluation.similarity import mean_of_concepts
from ard.reports import notes
from ard.results import Result
from ard.study import Answer, agreement, score_study
from ard.study.scores import rating_matrix
from ard.types import UserError


def agreement_said(store, clap, path):
    """Score a study, and return what its table says of the raters' agreement."""
    score_study(store, path, clap=clap)
    (said,) = notes.agreement([Result.load(path)])
    return said


@pytest.mark.slow
def test_figures_are_those_of_the_answers(answered, tiny_clap, tiny_roberta, tmp_path):
    result = score_study(answered, tmp_path / "study.json", clap=tiny_clap, bertscore=tiny_roberta)
    assert [row.method for row in result.rows] == ["AR&D", "Poly. Feats."]
    concepts = {concept.key: concept for concept in answered.concepts}
    clap, bertscore = load_clap(tiny_clap), BERTScore(tiny_roberta)
    for row in result.rows:
        answers = [answer for answer in answered.answers() if concepts[answer.concept].method == row.method]
        by_concept = {}
        for answer in answers:
            by_concept.setdefault(answer.concept, []).append(answer)
        ratings = [[a.rating for a in of_one if a.rating is not None] for of_one in by_concept.values()]
        ratings = [of_one for of_one in ratings if of_one]
        score = row.figures["expert_score"]
        assert score.value == pytest.approx(np.mean([np.mean(of_one) for of_one in ratings]))
        assert score.spread == pytest.approx(np.std(np.concatenate(ratings), ddof=1))
        assert score.n == len(ratings)
        cosines, similar = (
            [np.mean([measure(concepts[key].name, a.label) for a in of_one]) for key, of_one in by_concept.items()]
            for measure in (
                lambda name, label: float((clap.text([name]) * clap.text([label])).sum()),
                lambda name, label: bertscore([name], [label])[0],
            )
        )
        assert row.figures["clap_cosine"].value == pytest.approx(np.mean(cosines), abs=1e-5)
        assert row.figures["bertscore"].value == pytest.approx(np.mean(similar), abs=1e-4)
        assert row.expansion == (8 if row.method == "AR&D" else None)
        for figure in row.figures.values():
            assert figure.low <= figure.value <= figure.high


@pytest.mark.slow
def test_agreement_is_the_packages_and_said(answered, tiny_clap, tmp_path):
    result = score_study(answered, tmp_path / "study.json", clap=tiny_clap)
    found = result.details["agreement"]
    matrix = rating_matrix(answered.answers(), answered.concepts)
    assert matrix.shape == (10, 2)
    assert found["all"]["value"] == agreement(matrix)
    assert found["all"]["n"] == int(np.isfinite(matrix).all(axis=1).sum())
    assert found["all"]["low"] <= found["all"]["value"] <= found["all"]["high"]
    assert set(found) == {"all", "AR&D", "Poly. Feats."}
    said = f"alpha (ordinal) of 2 people, over concepts that two or more rated: all {found['all']['value']:.2f}"
    assert said in agreement_said(answered, tiny_clap, tmp_path / "study.json")
    assert "bertscore" not in result.rows[0].figures
    saved = json.loads((tmp_path / "study.json").read_text(encoding="utf-8"))
    assert saved["choices"]["interval"] == "bootstrap over concepts"
    assert Result.load(tmp_path / "study.json").rows[0].figures["expert_score"].spread > 0


def test_alpha_of_one_rater_is_undefined_and_says_so(store, tiny_clap, tmp_path):
    anna = store.join("Anna")
    for concept in store.concepts:
        store.label(anna, concept, "a dog")
    result = score_study(store, tmp_path / "study.json", clap=tiny_clap)
    assert agreement_said(store, tiny_clap, tmp_path / "study.json") == "No person has rated yet."
    assert math.isnan(result.rows[0].figures["expert_score"].value)
    for concept in store.concepts:
        store.rate(anna, concept, 4)
    assert "undefined for a single rater" in agreement_said(store, tiny_clap, tmp_path / "study.json")
    bob = store.join("Bob")
    store.label(bob, store.concepts[0], "a cat")
    assert "undefined for a single rater" in agreement_said(store, tiny_clap, tmp_path / "study.json")
    store.rate(bob, store.concepts[0], 4)
    said = agreement_said(store, tiny_clap, tmp_path / "study.json")
    assert "all undefined, all ratings are equal (n = 1)" in said


def test_raters_of_different_concepts_cannot_agree(store, tiny_clap, tmp_path):
    for place, name in enumerate(("Anna", "Bob")):
        rater, concept = store.join(name), store.concepts[place]
        store.label(rater, concept, "a dog")
        store.rate(rater, concept, place)
    said = agreement_said(store, tiny_clap, tmp_path / "study.json")
    assert said == "Krippendorff's alpha is undefined: no concept was rated by two people."


@pytest.mark.slow
def test_people_and_models_never_share_a_row(answered, tiny_clap, tmp_path):
    alone = score_study(answered, tmp_path / "study.json", clap=tiny_clap)
    answered.put(Answer("m-70b", "llm", c.key, "a dog", rating=5, first_rating=5) for c in answered.concepts[:9])
    answered.put([Answer("m-70b", "llm", answered.concepts[9].key, unanswered="unreadable")])
    both = score_study(answered, tmp_path / "study.json", clap=tiny_clap)
    assert both.rows[:2] == alone.rows
    assert [row.method for row in both.rows[2:]] == ["AR&D, rated by LLM m-70b", "Poly. Feats., rated by LLM m-70b"]
    assert {row.figures["expert_score"].value for row in both.rows[2:]} == {5}
    assert both.details["agreement"] == alone.details["agreement"]
    assert both.details["num_unanswered"] == {"m-70b: unreadable": 1}
    assert all("heard nothing" in row.note for row in both.rows[2:])


def test_a_study_that_nobody_answered_has_no_scores(store, tiny_clap, tmp_path):
    store.join("Anna")
    with pytest.raises(UserError, match=r"nobody has labelled a concept of .* yet: rate with `ard app --run DIR`"):
        score_study(store, tmp_path / "study.json", clap=tiny_clap)
    assert not (tmp_path / "study.json").exists()


def test_concepts_and_not_answers_are_drawn_again():
    values = np.array([0.0, 0, 0, 0, 5, 1])
    figure = mean_of_concepts(values, ["a", "a", "a", "a", "b", "c"], "rating", seed=0)
    assert (figure.value, figure.n) == (2, 3)
    assert (figure.low, figure.high) == (0, 5)
    assert figure.spread == pytest.approx(values.std(ddof=1))
    assert mean_of_concepts(values[:1], ["a"], "rating", seed=0).spread is None
    assert math.isnan(mean_of_concepts(np.empty(0), [], "rating", seed=0).value)
