"""AxBench's scores by rules against cases counted by hand, and by a served model's ratings."""

import re

import numpy as np
import pytest
from jsonargparse import ArgumentParser
from scipy.stats import hmean

from ard.naming import EndpointChat
from ard.presets import preset_files
from ard.steering import ChatJudge, ExactMatch, Judge, SteeringTask
from ard.steering.axbench import Answers, axbench, harmonic_mean, scored_by, scores_by_rules
from ard.types import UserError

CLASSES = {"happy": ["happy", "cheerful"], "sad": ["sad"]}
TASK = SteeringTask("sad", "happy", "Happy or sad?", CLASSES, "speaking in a happy voice")


def answers(*texts, num_tokens=1, unsteered=1, most=8):
    return Answers(texts, np.full(len(texts), num_tokens), np.full(len(texts), unsteered), most)


@pytest.mark.parametrize(
    ("answer", "concept", "instruction", "fluency", "overall"),
    [
        ("Happy.", 2, 2, 2, 2),
        ("happy, even cheerful", 2, 2, 2, 2),
        ("happy or sad", 1, 1, 2, 3 / (1 + 1 + 1 / 2)),
        ("She is sad.", 0, 2, 2, 0),
        ("a dog in the rain", 0, 0, 2, 0),
        ("happy happy happy", 2, 2, 1, 3 / (1 / 2 + 1 / 2 + 1)),
        ("a happy a happy", 2, 2, 1, 1.5),
        ("a very, very happy one", 2, 2, 2, 2),  # 4 of its 5 words are different ones
        ("", 0, 0, 0, 0),
        (" ?! ", 0, 0, 0, 0),
    ],
)
def test_scores_by_rules_are_those_counted_by_hand(answer, concept, instruction, fluency, overall):
    scores = scores_by_rules(TASK, answers(answer))
    assert [score.tolist() for score in scores] == [[concept], [instruction], [fluency]]
    assert scores.overall.tolist() == [pytest.approx(overall)]


@pytest.mark.parametrize(("num_tokens", "unsteered", "fluency"), [(8, 3, 1), (7, 3, 2), (8, 8, 2)])
def test_an_answer_without_an_end_is_less_fluent_unless_the_unsteered_one_has_none_either(
    num_tokens, unsteered, fluency
):
    scores = scores_by_rules(TASK, answers("happy", num_tokens=num_tokens, unsteered=unsteered))
    assert scores.fluency.tolist() == [fluency]
    both = scores_by_rules(TASK, answers("ha ha", num_tokens=num_tokens, unsteered=unsteered))
    assert both.fluency.tolist() == [fluency - 1]


@pytest.mark.parametrize("seed", range(5))
def test_the_harmonic_mean_is_scipys(seed):
    scores = np.random.default_rng(seed).integers(0, 3, (3, 40)).astype(float)
    np.testing.assert_allclose(harmonic_mean(scores), hmean(scores, axis=0))
    scores[1, :5] = np.nan
    assert np.isnan(harmonic_mean(scores)[:5]).all()


def test_a_model_rates_every_answer_thrice_and_is_asked_once(misbehave, tmp_path):
    ratings = [2, 1, 2, "I cannot say", 1, 2]  # concept, instruction and fluency of two answers
    server = misbehave(*(f"say:As I see it.\nRating: {rating}" for rating in ratings))
    chat = EndpointChat(server.base_url, "a-model", cache=tmp_path / "verdicts.jsonl", max_retries=0, concurrency=1)
    judge = ChatJudge(chat)
    scores = axbench(judge, TASK, answers("It is happy.", "So glad."))
    np.testing.assert_array_equal(np.stack(scores), [[2, 1], [2, np.nan], [1, 2]])
    said = scores.summary(seed=0)
    assert (said["concept"]["value"], said["instruction"]["value"], said["num_unreadable"]) == (1.5, 2, 1)
    assert (said["overall"]["value"], said["overall"]["n"]) == (1.5, 1)
    assert axbench(judge, TASK, answers("It is happy.")).overall.tolist() == [1.5]
    assert len(server.asked) == 6
    asked = [request["messages"][0]["content"] for request in server.asked]
    assert ["speaking in a happy voice" in prompt for prompt in asked] == [True] * 2 + [False] * 4
    assert ["Happy or sad?" in prompt for prompt in asked] == [False] * 2 + [True] * 2 + [False] * 2


def test_the_papers_judge_rates_and_is_asked_once_over_two_runs(misbehave, tmp_path):
    server = misbehave(
        *("say:It does.\nRating: 2", "say:Rating: 1", "400"),  # concept; the last request is refused
        *("say:I rate it a 2.", "say:**Rating: (2)**", "say:Rating: 2"),  # instruction; the first cannot be read
        *("say:Rating: 2", "say:Rating: 1", "say:Rating: 2"),
        then="500",
    )
    judge = of_preset("paper", server.base_url, tmp_path)
    assert scored_by(judge) == "AxBench, by meta-llama/Meta-Llama-3-70B-Instruct"
    texts = answers("It is happy.", "So glad.", "a dog {barks}")
    scores = axbench(judge, TASK, texts)
    expected = [[2, 1, np.nan], [np.nan, 2, 2], [2, 1, 2]]
    np.testing.assert_array_equal(np.stack(scores), expected)
    np.testing.assert_allclose(scores.overall, [np.nan, 1.2, np.nan])
    summary = scores.summary(seed=0)
    assert (summary["num_unreadable"], summary["overall"]["n"], summary["fluency"]["n"]) == (2, 1, 3)
    assert {request["model"] for request in server.asked} == {"meta-llama/Meta-Llama-3-70B-Instruct"}
    assert {request["temperature"] for request in server.asked} == {0}
    assert len(server.asked) == 9
    again = axbench(of_preset("paper", server.base_url, tmp_path), TASK, texts)
    np.testing.assert_array_equal(np.stack(again), expected)
    assert len(server.asked) == 9  # also the refusal and what cannot be read are kept


def test_ratings_that_cannot_be_asked_for_are_no_zeros(misbehave, tmp_path):
    server = misbehave("say:Rating: 2", then="500")
    with pytest.raises(UserError, match=re.escape(server.base_url)):
        axbench(of_preset("paper", server.base_url, tmp_path), TASK, answers("It is happy."))
    healthy = misbehave(then="say:Rating: 1")
    scores = axbench(of_preset("paper", healthy.base_url, tmp_path), TASK, answers("It is happy."))
    assert np.stack(scores).tolist() == [[2], [1], [1]]
    assert len(healthy.asked) == 2


def of_preset(preset, base_url, out):
    """The judge of a preset's steer.yaml, one request at a time."""
    config = preset_files(preset, {"out": out, "judge_endpoint": base_url}, ("steer",))["steer"]
    (settings,) = (callback["init_args"] for callback in config["trainer"]["callbacks"])
    settings["judge"]["init_args"]["chat"]["init_args"] |= {"concurrency": 1, "max_retries": 0}
    parser = ArgumentParser()
    parser.add_argument("--judge", type=Judge)
    return parser.instantiate_classes(parser.parse_object({"judge": settings["judge"]})).judge


def test_who_scores_is_said():
    assert scored_by(ExactMatch()) == "AxBench, by rules"
    assert axbench(ExactMatch(), TASK, answers("happy")).overall.tolist() == [2]
