"""What captions still name and transcripts still say, of a model of which it is known what it will say."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ard.naming import CAPTION_PROMPT
from ard.steering import Condition, Design, ExactMatch, Interview, SteeringTask
from ard.steering.captions import MOST_TOKENS, Retelling, bystanders, check_transcription, still_named, word_error_rate
from ard.steering.trials import Split, Trials
from ard.types import Clip, UserError

TASK = SteeringTask("sad", "happy", "Happy or sad?", ["happy", "sad"], "speaking in a happy voice", "a sad voice")
PLAIN, SET = Condition(TASK.prompt, None), Condition(TASK.prompt, {1: 2.0})
HINT = Condition(f"It is happy. {TASK.prompt}", None)


class Told(Interview):
    """A model that names all labels and says all words, but no rain and no `the` once a feature is set."""

    def __init__(self, clips):
        self.known, self.asked = {clip.id: clip for clip in clips}, []

    def __call__(self, audio, clip_ids, conditions):
        self.asked += conditions
        return [[self.say(self.known[clip_id], condition) for clip_id in clip_ids] for condition in conditions]

    def say(self, clip, condition):
        told = " and ".join(clip.labels) if condition.prompt.endswith(CAPTION_PROMPT) else "The cat on the mat."
        return re.sub(r"(?i)rain|the ", "", told) if condition.clamp else told


def retell(clips, conditions, **design):
    """Return what the model was asked, and what was found under each condition."""
    told = Told(clips)
    trials = Trials(told, ExactMatch(), maxima=torch.ones(3), design=Design(**design), seed=0)
    found = Retelling(trials, TASK, Split(Path("measure"), clips), [clip.id for clip in clips])(conditions)
    return told.asked, found


def clip(name, *labels, transcript=None):
    return Clip(name, np.zeros(0, dtype=np.float32), 16000, "t", labels=labels, transcript=transcript)


CLIPS = [clip("a", "sad voice", "rain", "dog"), clip("b", "rain"), clip("c", "sad voice"), clip("d", "owl")]


def test_captions_are_asked_for_under_the_same_conditions_and_compared_clip_by_clip():
    asked, (steered, hinted) = retell(CLIPS, [SET, HINT])
    assert {one.most_tokens for one in asked} == {MOST_TOKENS}
    assert [one.prompt for one in asked] == [CAPTION_PROMPT, CAPTION_PROMPT, f"It is happy. {CAPTION_PROMPT}"]
    assert [one.clamp for one in asked] == [None, {1: 2.0}, None]
    assert (steered["named"]["value"], steered["named"]["n"]) == (pytest.approx((1 / 2 + 0 + 1) / 3), 3)
    assert hinted["named"]["value"] == 1
    assert "word_error_rate" not in steered


def test_clips_whose_labels_are_what_is_steered_are_not_captioned():
    assert retell(CLIPS[2:3], [SET]) == ([], [{}])
    assert retell(CLIPS, []) == ([], [])


def test_transcripts_are_compared_with_those_of_the_clips_or_else_the_unsteered_ones():
    pytest.importorskip("jiwer")
    own = [clip("a", transcript="a cat on the mat"), clip("b", transcript=None)]
    asked, (steered,) = retell(own, [SET], transcription="Write down what is said.")
    assert {one.prompt for one in asked} == {"Write down what is said."}
    rate = steered["word_error_rate"]
    assert rate == {"against": "transcripts", "value": pytest.approx(2 / 5), "unsteered": pytest.approx(1 / 5)}
    _, (steered,) = retell([clip("a"), clip("b")], [SET], transcription="Write down what is said.")
    rate = steered["word_error_rate"]
    assert rate == {"against": "the unsteered transcripts", "value": pytest.approx(2 / 5), "unsteered": 0}


@pytest.mark.parametrize(
    ("labels", "left"),
    [
        (["sad voice", "dog"], ["dog"]),  # the source's features are looked for by `a sad voice`
        (["Happy_voice", "rain"], ["rain"]),  # and the target's by `speaking in a happy voice`
        (["someone happy", "sadness", "voice"], ["sadness"]),  # a class is a word of its own
        (["laughing (happy)"], []),
    ],
)
def test_labels_that_steering_should_change_do_not_count(labels, left):
    assert bystanders(TASK, labels) == left


def test_a_label_that_the_unsteered_caption_did_not_name_cannot_be_lost():
    shares = still_named([["dog", "cat"], ["dog"], []], ["a dog", "a cat", "a dog"], ["a cat", "a dog", ""])
    np.testing.assert_array_equal(shares, [0, np.nan, np.nan])


def edits(one, other):
    """Levenshtein's distance, by its recursion."""
    if not one or not other:
        return len(one) + len(other)
    return min(edits(one[1:], other) + 1, edits(one, other[1:]) + 1, edits(one[1:], other[1:]) + (one[0] != other[0]))


@pytest.mark.parametrize("seed", range(5))
def test_the_word_error_rate_is_levenshteins(seed):
    pytest.importorskip("jiwer")
    rng = np.random.default_rng(seed)
    words = [[list(rng.choice(["a", "cat", "sat"], rng.integers(1, 6))) for _ in range(4)] for _ in range(2)]
    references, transcripts = ([" ".join(of_clip) for of_clip in side] for side in words)
    expected = sum(map(edits, *words)) / sum(map(len, words[0]))
    assert word_error_rate(references, [f" {one.upper()}!" for one in transcripts]) == pytest.approx(expected)
    assert word_error_rate([*references, None, "?"], [*transcripts, "more", "more"]) == pytest.approx(expected)


def test_without_references_there_is_no_word_error_rate():
    pytest.importorskip("jiwer")
    assert np.isnan(word_error_rate([None, ""], ["a cat", ""]))


def test_without_jiwer_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "jiwer", None)
    with pytest.raises(UserError, match=r"needs jiwer: pip install 'ard-audio\[jiwer\]', or leave `transcription` out"):
        check_transcription()
