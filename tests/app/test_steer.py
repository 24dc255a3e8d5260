"""Answers as they are streamed are those that Python gives, and a concept at 0 changes nothing."""

import pytest

from ard.app import Asked, Stopped, answer, read_asked
from ard.steering import steer
from ard.types import UserError

from .conftest import QUESTION


def strong(subject, number=1):
    """Return features that are set, with multiples that change the answer."""
    features = list(subject.names)[:number]
    return dict.fromkeys(features, 8.0)


def test_every_answer_is_the_one_that_python_gives_and_zero_is_the_unsteered_one(subject, clip):
    clamp, told = strong(subject, 4), []
    asked = Asked("What do you hear?", [{}, clamp], max_new_tokens=12)
    answers = answer(subject, clip, asked, told.append)
    model, how = subject.model, {"maxima": subject.maxima}
    (unsteered,) = model.generate([clip], ["What do you hear?"], 12)
    with steer(model, subject.coder, 3, {}):
        (passed,) = model.generate([clip], ["What do you hear?"], 12)
    with steer(model, subject.coder, 3, clamp, keep_error=True, **how):
        (steered,) = model.generate([clip], ["What do you hear?"], 12)
    assert answers == [unsteered, passed, unsteered, steered]
    assert len({unsteered, passed, steered}) == 3  # so that none could stand for another
    for place, text in enumerate(answers):
        seen = [event["text"] for event in told if event["answer"] == place]
        assert len(seen) > 1
        assert seen[-1] == text
    assert [event["answer"] for event in told] == sorted(event["answer"] for event in told)


def test_positions_phase_and_the_error_are_those_that_were_asked_for(subject, clip):
    clamp = strong(subject, 2)
    asked = Asked(QUESTION, [clamp, {}], keep_error=False, positions="audio", phase="every", max_new_tokens=4)
    answers = answer(subject, clip, asked)
    with steer(subject.model, subject.coder, 3, clamp, maxima=subject.maxima, positions="audio", phase="every"):
        assert answers[2] == subject.model.generate([clip], [QUESTION], 4)[0]
    assert answers[3] == answers[1]  # with nothing set and no error kept: passed through


def test_an_answer_is_stopped_between_two_tokens_and_leaves_no_hook(subject, clip):
    told = []

    def stop(event):
        told.append(event)
        if len(told) == 3:
            raise Stopped

    with pytest.raises(Stopped):
        answer(subject, clip, Asked("What do you hear?", [strong(subject)]), stop)
    assert len(told) == 3
    layers = [*subject.model.layers, subject.model.model]
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers)
    assert answer(subject, clip, Asked(QUESTION, [{}]))[0] == subject.model.generate([clip], [QUESTION])[0]


def test_what_is_no_question_is_refused(subject, clip):
    good = {"prompt": QUESTION, "settings": [[{"feature": 3, "value": 0}, {"feature": 4, "value": 2}]]}
    assert read_asked(good) == Asked(QUESTION, [{4: 2}])
    row = good["settings"][0][1]
    for change, line in (
        ({"prompt": " "}, "the question is empty or too long"),
        ({"prompt": "x" * 2001}, "give 1 to 2000 characters"),
        ({"settings": []}, "are not 1 to 4"),
        ({"settings": [[]] * 5}, "are not 1 to 4"),
        ({"settings": ["x"]}, "feature 'None' is no number"),
        ({"settings": [[row, row]]}, "is given twice"),
        ({"settings": [[{"feature": 3, "value": "9"}]]}, "value '9' of feature 3 is no number"),
        ({"max_new_tokens": 257}, "max_new_tokens 257 is not a whole number from 1 to 256"),
        ({"max_new_tokens": True}, "max_new_tokens True is not"),
        ({"positions": "nowhere"}, "positions 'nowhere' is not known: give one of ['all', 'audio', 'last']"),
        ({"phase": []}, "phase '[]' is not known"),
        ({"keep_error": "no"}, "keep_error 'no' is not known"),
    ):
        with pytest.raises(UserError) as refused:
            read_asked(good | change)
        assert line in str(refused.value)
    one = next(iter(subject.names))
    for setting, line in (
        ({1024: 1.0}, "feature 1024 does not exist"),
        ({one: -1.0}, f"feature {one} cannot be set to"),
        ({one: float("inf")}, "give a finite value"),
    ):
        with pytest.raises(UserError) as refused:
            answer(subject, clip, Asked(QUESTION, [setting]))
        assert line in str(refused.value)
