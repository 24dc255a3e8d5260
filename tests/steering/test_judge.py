"""The judge against made-up verdicts, a real served model, and servers that do what they should not."""

import math
import re

import pytest
from sklearn.metrics import cohen_kappa_score

from ard.naming import EndpointChat
from ard.steering import ChatJudge, ExactMatch, Question
from ard.steering.judge import agreement, read_rating, read_verdict
from ard.types import UserError

EMOTION = Question("How does the speaker feel?", {"happy": ["happiness", "happy", "excited"], "sad": ["sad"]})
ANSWERS = ["They sound excited.", "sad", "happy or sad", "", "a {dog} barks", "unhappy"]


@pytest.fixture
def judge(tmp_path):
    """Make a judge at an endpoint that waits for nothing long."""

    def make(base_url, **settings):
        quick = {"timeout_s": 5.0, "max_retries": 1, "concurrency": 1, "cache": tmp_path / "verdicts.jsonl"}
        return ChatJudge(EndpointChat(base_url, "a-model", **quick), **settings)

    return make


def test_exact_match_knows_a_class_by_any_of_its_words_and_by_no_other_classs():
    assert ExactMatch()(EMOTION, ANSWERS, "happy") == [True, False, False, False, False, False]
    assert ExactMatch()(EMOTION, ANSWERS, "sad") == [False, True, False, False, False, False]


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        ("Rating: 1", True),
        ("They agree.\n\nRating: 0\n", False),
        ("**Rating:** 1", True),
        ("**Rating: (1)**.", True),
        ("rating : 0", False),
        ("<think>Rating: 1, or not</think>\nRating: 1", True),
        ("Rating: 1\nRating: 1", True),
        ("", None),
        ("1", None),
        ("yes", None),
        ("Rating: 2", None),
        ("Rating: 0.5", None),
        ("Rating: 10", None),
        ("Rating: 1 or 0", None),
        ("Rating: (0 or 1)", None),
        ("Rating: 1\nbecause they agree", None),
        ("Rating: 0\nRating: 1", None),
        ("The rating is 1", None),
        ("I cannot rate this.", None),
    ],
)
def test_only_a_last_line_that_is_a_rating_is_read(said, verdict):
    assert read_verdict(said) is verdict


def test_a_rating_may_be_as_high_as_is_asked_for():
    assert [read_rating(f"Why not.\nRating: {n}", most=2) for n in range(4)] == [0, 1, 2, None]
    assert read_rating("Rating: 2\nRating: 1", most=2) is None
    assert read_rating("Rating: 2\nRating: 1", most=1) == 1  # what is above is no rating


@pytest.mark.slow
def test_a_judge_is_asked_once_for_each_answer_and_reads_what_it_says(misbehave, judge):
    server = misbehave("say:It agrees.\nRating: 1", "say:Rating: 0", "say:who knows", then="say:Rating: 0")
    made = judge(server.base_url)
    verdicts = made(EMOTION, ["glad", "sad", "hm", "sad"], "happy")
    assert verdicts == [True, False, None, False]
    assert len(server.asked) == 3  # the double is asked once
    asked = server.asked[0]
    assert asked["temperature"] == 0
    for part in (EMOTION.prompt, "happiness or happy or excited", "glad"):
        assert part in asked["messages"][0]["content"]
    assert made(EMOTION, ["glad", "sad", "hm"], "happy") == [True, False, None]
    assert judge(server.base_url)(EMOTION, ["hm"], "happy") == [None]  # another process, from the file
    assert len(server.asked) == 3
    made(EMOTION, ["glad"], "sad")  # another reference
    assert len(server.asked) == 4
    assert made.choices["judge"] == "a-model"
    assert made.choices["temperature"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("word", ["500", "half", "drop", "cut", "empty", "html", "other", "401", "404", "null"])
def test_a_broken_server_gives_no_verdict_and_what_came_is_kept(misbehave, judge, word, tmp_path):
    server = misbehave("say:Rating: 1", "say:Rating: 0", then=word)
    answers = [f"answer {n}" for n in range(5)]
    if word == "null":  # an answer without content is one that cannot be read
        assert judge(server.base_url)(EMOTION, answers, "happy") == [True, False, None, None, None]
        return
    with pytest.raises(UserError, match=re.escape(server.base_url)):
        judge(server.base_url)(EMOTION, answers, "happy")
    assert (tmp_path / "verdicts.jsonl").read_text(encoding="utf-8").count("\n") == 2
    healthy = misbehave(then="say:Rating: 1")
    assert judge(healthy.base_url)(EMOTION, answers, "happy") == [True, False, True, True, True]
    assert len(healthy.asked) == 3


@pytest.mark.slow
def test_an_answer_whose_judgement_is_refused_has_no_verdict(misbehave, judge):
    server = misbehave("say:Rating: 1", "400", then="say:<think>Rating: 0</think>Rating: 1")
    assert judge(server.base_url)(EMOTION, ["glad", "sad", "hm"], "happy") == [True, None, True]


@pytest.mark.slow
def test_a_judge_that_is_not_there_is_missed_before_the_work(judge):
    with pytest.raises(UserError, match=r"cannot be reached .*vllm serve a-model"):
        judge("http://127.0.0.1:9/v1").check()


@pytest.mark.slow
def test_a_served_model_judges_and_its_nonsense_is_not_read(served, tiny_chat, tmp_path):
    chat = EndpointChat(served, tiny_chat, cache=tmp_path / "verdicts.jsonl", max_tokens=9)
    judge = ChatJudge(chat, "{reference} {answer}")  # its context is short
    judge.check()
    assert judge(EMOTION, ["happy", "sad"], "happy") == [None, None]  # random weights say no rating
    again = ChatJudge(EndpointChat("http://127.0.0.1:9/v1", tiny_chat, cache=tmp_path / "verdicts.jsonl", max_tokens=9))
    again.template = judge.template
    assert again(EMOTION, ["happy", "sad"], "happy") == [None, None]


def test_the_template_is_the_users_to_write(misbehave, judge):
    server = misbehave(then="say:Rating: 1")
    judge(server.base_url, template="{{json}} Is {answer!s} {reference}?")(EMOTION, ["a {dog}"], "sad")
    assert server.asked[0]["messages"][0]["content"] == "{json} Is a {dog} sad?"
    for template, problem in (
        ("{answer}", "has the fields ['answer']: it needs {reference} and {answer}"),
        ("{answer} {reference} {other}", "has the fields ['answer', 'other', 'reference']"),
        ("{answer} {reference", "cannot be read (expected '}' before end of string): write {{ and }}"),
    ):
        with pytest.raises(UserError, match=re.escape(problem)):
            judge(server.base_url, template=template)


def test_kappa_is_that_of_sklearn_on_what_both_could_read():
    one = [True, True, False, None, False, True, False, False, None]
    other = [True, False, False, True, False, True, True, False, None]
    both = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    kappa, number = agreement(list(zip(one, other, strict=True)))
    assert number == len(both) == 7
    assert kappa == pytest.approx(cohen_kappa_score(*zip(*both, strict=True)))


@pytest.mark.parametrize("pairs", [[], [(None, True)], [(True, True)] * 3])
def test_kappa_is_undefined_where_there_is_nothing_to_agree_on(pairs):
    assert math.isnan(agreement(pairs)[0])
