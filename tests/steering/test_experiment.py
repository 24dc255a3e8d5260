"""One column of Table 3 where it is known what the model will say."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from ard.steering import Condition, Design, Interview, Judge, Question, SteeringTask
from ard.steering.experiment import Experiment, Features, Split
from ard.steering.features import Found, NamedFeature
from ard.steering.judge import ExactMatch
from ard.types import Clip, UserError

EMOTIONS = ["neutral", "happy", "sad", "angry"]
TASK = SteeringTask("sad", "happy", "Which emotion?", EMOTIONS, "a happy voice", "a sad voice")
GENDER = Question("Which gender?", {"female": ["female"], "male": ["male"]})
HAPPY, SAD, SPOILS = (1, 2), (5, 6), 3  # features; with SPOILS at 4 or more the answer is no class


class Told(Interview):
    """A model that hears the 4th clip of each emotion as neutral, and obeys the features from 2 times their maximum."""

    def __init__(self, clips):
        self.clips, self.asked = {clip.id: clip for clip in clips}, []

    def __call__(self, audio, clip_ids, conditions):
        self.asked += [(clip_id, condition) for clip_id in clip_ids for condition in conditions]
        return [[self.say(self.clips[clip_id], condition) for clip_id in clip_ids] for condition in conditions]

    def say(self, clip, condition):
        clamp = condition.clamp or {}
        if condition.prompt == GENDER.prompt:
            return "male" if 5 in clamp else clip.gender
        if clamp.get(SPOILS, 0) >= 40:
            return "happy sad"
        if clamp.get(1, 0) >= 20:
            return "happy" if clip.id.endswith(("0", "1", "2", "3", "4")) else "sad"
        if clamp.get(5, 0) >= 20:
            return "sad"
        return "neutral" if clip.id.endswith("3") else clip.emotion

    def surprise(self, audio, prompt, said):
        return [(-math.log(2) * len(answer.split()), len(answer.split())) for answer in said.values()]


class Hesitant(Judge):
    """Exact match that cannot say anything of the clips' answers `sad`."""

    def __call__(self, question, answers, wanted):
        exact = ExactMatch()(question, answers, wanted)
        return [
            None if said == "sad" and wanted == "happy" else is_it for said, is_it in zip(answers, exact, strict=True)
        ]

    @property
    def choices(self):
        return {"judge": "hesitant"}


def clips(split, per_emotion=10):
    silence = np.zeros(0, dtype=np.float32)
    return [
        Clip(f"{split}-{emotion}-{n}", silence, 16000, "t", emotion=emotion, gender="female")
        for emotion in EMOTIONS
        for n in range(per_emotion)
    ]


def find(concept):
    of_concept = {"a happy voice": (1, 2, 3), "a sad voice": (5, 6)}.get(concept, ())
    return Found([NamedFeature(feature, concept, 0.9) for feature in of_concept], "the test")


def experiment(judge=None, **design):
    settings = {"num_features": [1, 2, 3], "multiples": [4.0, 1.0, 2.0], "doses": [1.0, 2.0], "num_draws": 4}
    told = Told([*clips("choose"), *clips("measure")])
    features = Features(find, torch.full((40,), 10.0), torch.full((40,), 7))
    design = Design(**(settings | design))
    return Experiment(told, judge or ExactMatch(), features=features, design=design, seed=0), told


CHOOSE, MEASURE = Split(Path("choose"), clips("choose")), Split(Path("measure"), clips("measure"))


def test_the_smallest_of_the_most_sensitive_is_chosen_and_all_that_was_tried_is_said():
    made, told = experiment()
    choice, said = made.choose(TASK, CHOOSE)
    assert ([feature.feature for feature in choice.features], choice.multiple) == ([1], 2.0)
    assert {clip_id.partition("-")[0] for clip_id, _ in told.asked} == {"choose"}
    tried = {(entry["num_features"], entry["multiple"]): entry["sensitivity"] for entry in said["tried"]}
    assert len(tried) == 9
    assert tried[1, 1.0] == 0
    assert tried[1, 2.0] == tried[1, 4.0] == tried[3, 2.0] == pytest.approx(4 / 9)  # 9 of 10 are heard as sad
    assert tried[3, 4.0] == 0  # spoilt
    assert said["features"] == [{"feature": 1, "name": "a happy voice", "cosine": 0.9, "n_active": 7, "value": 20.0}]
    assert (said["by"], said["num_clips_of_selection"]) == ("the test", 9)


def test_sensitivity_has_its_controls_and_its_other_denominators():
    made, told = experiment(denominators=["predicted", "truth", "dataset"])
    choice, _ = made.choose(TASK, CHOOSE)
    told.asked.clear()
    found = made.measure(TASK, MEASURE, choice, [GENDER])
    assert {clip_id.partition("-")[0] for clip_id, _ in told.asked} == {"measure"}
    assert list(found.figures) == ["No SAE", "SAE, no clamp", "steered", "Rand. Feats.", "Reverse"]
    steered, alone = found.figures["steered"], found.figures["SAE, no clamp"]
    assert (steered["sensitivity"].value, steered["sensitivity"].n) == (pytest.approx(4 / 9), 9)
    assert (steered["sensitivity_of_truth"].value, steered["sensitivity_of_truth"].n) == (0.5, 10)
    assert (steered["sensitivity_of_dataset"].value, steered["sensitivity_of_dataset"].n) == (0.5, 40)
    assert steered["sensitivity"].low < 4 / 9 < steered["sensitivity"].high
    assert (alone["sensitivity"].value, alone["sensitivity_of_dataset"].value) == (0, 9 / 40)
    assert found.figures["Rand. Feats."]["sensitivity"].n == 4  # draws
    assert (found.figures["Reverse"]["sensitivity"].value, found.figures["Reverse"]["sensitivity"].n) == (1, 9)
    assert found.details["reverse"]["without_clamp"]["value"] == 0
    assert [feature["feature"] for feature in found.details["reverse"]["features"]] == [5]


def test_random_features_are_others_of_the_same_number_at_the_same_multiple():
    made, told = experiment()
    choice = made.choose(TASK, CHOOSE)[0]._replace(features=find("a happy voice").features[:2], multiple=3.0)
    told.asked.clear()
    found = made.measure(TASK, MEASURE, choice, [])
    draws = [draw["features"] for draw in found.details["random_features"]]
    assert len(draws) == 4
    assert len({tuple(draw) for draw in draws}) > 1
    clamps = [condition.clamp for _, condition in told.asked if condition.clamp]
    for draw in draws:
        assert len(set(draw)) == 2
        assert not set(draw) & {1, 2}
        assert dict.fromkeys(draw, 30.0) in clamps


def test_the_dose_response_says_how_sound_the_answers_are():
    made, _ = experiment(doses=[4.0, 2.0, 1.0])
    choice = made.choose(TASK, CHOOSE)[0]._replace(features=find("a happy voice").features)
    points = made.measure(TASK, MEASURE, choice, []).details["dose_response"]
    assert [point["multiple"] for point in points] == [None, 0.0, 1.0, 2.0, 4.0]
    assert [round(point["sensitivity"]["value"], 2) for point in points] == [0, 0, 0, 0.44, 0]
    assert [point["readable"]["value"] for point in points] == [1, 1, 1, 1, 0]
    assert [point["mean_num_tokens"] for point in points] == [1, 1, 1, 1, 2]
    assert all(point["perplexity"] == pytest.approx(2) for point in points)
    assert {point["sensitivity"]["n"] for point in points} == {9}


def test_selectivity_is_the_share_of_other_answers_that_stay():
    made, _ = experiment()
    choice, _ = made.choose(TASK, CHOOSE)
    (kept,) = made.measure(TASK, MEASURE, choice, [GENDER]).details["selectivity"]
    assert (kept["prompt"], kept["unchanged"]["value"], kept["unchanged"]["n"]) == (GENDER.prompt, 1, 9)
    back = choice._replace(features=find("a sad voice").features)
    (spoilt,) = made.measure(TASK, MEASURE, back, [GENDER]).details["selectivity"]
    assert (spoilt["unchanged"]["value"], spoilt["unchanged_without_clamp"]["value"]) == (0, 1)


def test_unreadable_verdicts_leave_the_denominator_and_are_kept_for_the_agreement():
    made, _ = experiment(Hesitant())
    choice = made.choose(TASK, CHOOSE)[0]._replace(features=find("a happy voice").features[:1], multiple=2.0)
    found = made.measure(TASK, MEASURE, choice, [])
    steered = found.figures["steered"]
    assert (steered["sensitivity"].value, steered["sensitivity"].n) == (1, 4)  # 5 of 9 answers are not read
    assert (steered["sensitivity_by_exact_match"].value, steered["sensitivity_by_exact_match"].n) == (
        pytest.approx(4 / 9),
        9,
    )
    assert math.isnan(found.figures["No SAE"]["sensitivity"].value)
    assert sum(judged is None and not exact for judged, exact in made.verdicts) > 5
    unread = [point["verdicts_read"] for point in found.details["dose_response"]]
    assert unread == [0, 0, 0, pytest.approx(4 / 9)]


def test_fewer_clips_may_be_asked_where_they_are_not_the_tables():
    made, told = experiment(most_clips=2)
    choice, said = made.choose(TASK, CHOOSE)
    assert said["num_clips_of_selection"] == 2
    told.asked.clear()
    found = made.measure(TASK, MEASURE, choice, [GENDER])
    assert found.figures["steered"]["sensitivity"].n == 9
    assert found.figures["Reverse"]["sensitivity"].n == 2
    assert {point["sensitivity"]["n"] for point in found.details["dose_response"]} == {2}


def test_without_named_features_nothing_is_steered():
    made, _ = experiment()
    task = SteeringTask("sad", "happy", "Which emotion?", EMOTIONS, "nothing of the kind")
    choice, said = made.choose(task, CHOOSE)
    assert (choice.features, said["tried"]) == ([], [])
    found = made.measure(task, MEASURE, choice, [])
    assert list(found.figures) == ["No SAE", "SAE, no clamp", "steered", "Rand. Feats."]
    assert found.figures["steered"]["sensitivity"].value == 0
    assert found.figures["Rand. Feats."]["sensitivity"].n == 0


def test_words_of_a_class_may_take_others_in():
    merged = {"happy": ["happiness", "happy", "excited"], "sad": ["sad"], "angry": ["anger"]}
    task = SteeringTask("sad", "happy", "Which?", merged, "happy voice")
    silence = np.zeros(0, dtype=np.float32)
    truths = {"excited": "happy", "happy": "happy", "sad": "sad", "angry": "angry", "surprised": None}
    for emotion, expected in truths.items():
        assert task.truth(Clip("a", silence, 16000, "t", emotion=emotion)) == expected
    assert task.truth(Clip("a", silence, 16000, "t", gender="female")) is None
    assert ExactMatch()(task.question, ["They are excited."], "happy") == [True]
    assert task.reverse is None
    assert TASK.reverse is not None
    assert (TASK.reverse.source, TASK.reverse.target, TASK.reverse.concept) == ("happy", "sad", "a sad voice")
    assert TASK.reverse.reverse == TASK
    with pytest.raises(UserError, match=r"'glad' of the task 'sad to glad' is not one of its classes \['neutral'"):
        SteeringTask("sad", "glad", "Which?", EMOTIONS, "glad voice")


def test_conditions_are_told_apart_by_prompt_and_clamp():
    assert Condition("a", None) != Condition("a", {})
