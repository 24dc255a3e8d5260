"""One column of Table 3 where it is known what the model will say."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ard.naming import CAPTION_PROMPT
from ard.steering import Condition, Design, Interview, Judge, Procedure, Question, SteeringTask
from ard.steering.choice import Chooser, Features
from ard.steering.directions import Heard
from ard.steering.experiment import Experiment
from ard.steering.features import Found, NamedFeature
from ard.steering.judge import ExactMatch
from ard.steering.roles import Role
from ard.steering.settings import Setting
from ard.steering.trials import Split, Trials
from ard.types import Clip, UserError

EMOTIONS = ["neutral", "happy", "sad", "angry"]
TASK = SteeringTask("sad", "happy", "Which emotion?", EMOTIONS, "a happy voice", "a sad voice")
GENDER = Question("Which gender?", {"female": ["female"], "male": ["male"]})
HAPPY, SAD, SPOILS = (1, 2), (5, 6), 3  # features; with SPOILS at 4 or more the answer is no class


class Told(Interview):
    """A model that hears the 4th clip of each emotion as neutral, and obeys the features from 2 times their maximum."""

    def __init__(self, clips):
        self.known, self.asked = {clip.id: clip for clip in clips}, []
        self.procedure = Procedure(max_new_tokens=3)

    def __call__(self, audio, clip_ids, conditions):
        self.asked += [(clip_id, condition) for clip_id in clip_ids for condition in conditions]
        return [[self.say(self.known[clip_id], condition) for clip_id in clip_ids] for condition in conditions]

    def hears(self, audio, clip_ids, *, silenced=False):
        means = [one_hot(clip_id.split("-")[1]) * (not silenced) for clip_id in clip_ids]
        return Heard(torch.stack(means), torch.full((len(means),), 2.0))

    def say(self, clip, condition):
        clamp = condition.clamp or {}
        if condition.add is not None:  # 0.9 and more towards happy turns all that is sad
            return "happy" if condition.add[EMOTIONS.index("happy")] >= 0.9 else clip.emotion
        if condition.prompt.endswith(TASK.prompt) and condition.prompt != TASK.prompt:
            return "happy" if "happy" in condition.prompt else clip.emotion
        if condition.prompt == CAPTION_PROMPT:  # under feature 1, every second clip's rain is missed
            return "wind" if 1 in clamp and int(clip.id[-1]) % 2 else "a voice in the rain"
        if condition.prompt == GENDER.prompt:
            return "male" if 5 in clamp else clip.gender
        if clamp.get(SPOILS, 0) >= 40:
            return "happy sad"
        if clamp.get(1, 0) >= 20:
            return "happy" if clip.id.endswith(("0", "1", "2", "3", "4")) else "sad"
        if clamp.get(5, 0) >= 20:
            return "sad"
        return "neutral" if clip.id.endswith("3") else clip.emotion

    def clips(self, audio, clip_ids):
        return [self.known[clip_id] for clip_id in clip_ids]

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


def roles(asked, audio, by_name):
    """Feature 1 does all, 9 a little, and 2 the opposite."""
    task = asked.task
    assert {clip.emotion for clip in asked.clips} == {task.source, task.target}
    assert (len(asked.answers), audio) == (len(asked.clips), Path("choose"))
    effects = {1: 0.5, 9: 0.1, 2: -0.2}
    shared = dict.fromkeys(Role._fields) | {"task": task.name}
    return [Role(**(shared | {"feature": feature, "effect": effect})) for feature, effect in effects.items()]


def one_hot(emotion):
    return torch.nn.functional.one_hot(torch.tensor(EMOTIONS.index(emotion)), 4).float()


class Made:
    """Choice and measurement of one dictionary of 40 features, each with a length of its own."""

    def __init__(self, judge=None, **design):
        settings = {"num_features": [1, 2, 3], "multiples": [4.0, 1.0, 2.0], "doses": [1.0, 2.0], "num_draws": 4}
        self.told = Told([*clips("choose"), *clips("measure")])
        self.directions = torch.diag(torch.linspace(1, 2, 40))
        features = Features(find, roles, torch.full((40,), 7), self.directions)
        maxima = torch.full((40,), 10.0)
        self.trials = Trials(
            self.told, judge or ExactMatch(), maxima=maxima, design=Design(**(settings | design)), seed=0
        )
        self.choose = Chooser(self.trials, features, seed=0)
        self.experiment = Experiment(self.trials, features, seed=0)
        self.measure = self.experiment.measure

    def chosen(self, num_features, multiple, concept="a happy voice"):
        """A choice as if these features of a concept had been chosen by their names."""
        choice = self.choose(TASK, CHOOSE)
        features = tuple(feature.feature for feature in find(concept).features[:num_features])
        return choice._replace(own=choice.own._replace(setting=Setting(features, strength=multiple)))


CHOOSE, MEASURE = Split(Path("choose"), clips("choose")), Split(Path("measure"), clips("measure"))


def test_the_smallest_of_the_most_sensitive_is_chosen_and_all_that_was_tried_is_said():
    made = Made()
    choice = made.choose(TASK, CHOOSE)
    assert choice.own.setting == Setting((1,), strength=2.0)
    assert {clip_id.partition("-")[0] for clip_id, _ in made.told.asked} == {"choose"}
    said = made.experiment.chosen(choice)
    tried = {(entry["num_features"], entry["multiple"]): entry["sensitivity"] for entry in said["tried"]}
    assert len(tried) == 9
    assert tried[1, 1.0] == 0
    assert tried[1, 2.0] == tried[1, 4.0] == tried[3, 2.0] == pytest.approx(4 / 9)  # 9 of 10 are heard as sad
    assert tried[3, 4.0] == 0  # spoilt
    assert said["features"] == [{"feature": 1, "name": "a happy voice", "cosine": 0.9, "n_active": 7, "value": 20.0}]
    assert said["norm"] == pytest.approx(20 * float(made.directions[1, 1]))
    assert (said["by"], said["num_clips_of_selection"]) == ("the test", 9)


def test_every_method_tries_as_many_settings_and_keeps_the_first_of_the_best():
    made = Made()
    choice = made.choose(TASK, CHOOSE)
    others = {one.name: one for one in choice.others}
    assert others["steered, by effect"].about == {"features": [1, 9]}
    assert others["steered, by effect"].setting == Setting((1,), strength=2.0)
    assert {entry["num_features"] for entry in others.pop("steered, by effect").tried} == {1, 2}
    assert list(others) == ["Difference of means", "Linear probe", "Audio minus silence", "Prompt"]
    assert {len(one.tried) for one in (*others.values(), *choice.draws)} == {9}
    towards = one_hot("happy") - one_hot("sad")
    for name in ("Difference of means", "Linear probe"):
        direction = others[name].setting.direction
        torch.testing.assert_close(direction, towards / math.sqrt(2), atol=1e-4, rtol=0)
        assert others[name].setting.strength == pytest.approx(2**0.5)  # of lengths from 1/4 to 4
    assert others["Prompt"].setting.hint == "You hear this: a happy voice."
    assert [entry["sensitivity"] for entry in others["Prompt"].tried[:1]] == [1.0]


def test_the_directions_that_were_tuned_can_be_kept():
    directions = Made().choose(TASK, CHOOSE).directions()
    assert list(directions) == ["Difference of means", "Linear probe", "Audio minus silence"]
    towards = (one_hot("happy") - one_hot("sad")) / math.sqrt(2)
    torch.testing.assert_close(directions["Difference of means"].vector, towards)
    assert {direction.unit for direction in directions.values()} == {
        1.0
    }  # of tokens of mean square 2, mean of length 1
    assert Made().choose(TASK, CHOOSE, alone=True).directions() == {}


def test_sensitivity_has_its_controls_and_its_other_denominators():
    made = Made(denominators=["predicted", "truth", "dataset"])
    choice = made.choose(TASK, CHOOSE)
    made.told.asked.clear()
    found = made.measure(TASK, MEASURE, choice, [GENDER])
    assert {clip_id.partition("-")[0] for clip_id, _ in made.told.asked} == {"measure"}
    assert {"No SAE", "SAE, no clamp", "steered", "Rand. Feats.", "Rand. directions", "Reverse"} < set(found.figures)
    steered, alone = found.figures["steered"], found.figures["SAE, no clamp"]
    assert (steered["sensitivity"].value, steered["sensitivity"].n) == (pytest.approx(4 / 9), 9)
    assert (steered["sensitivity_of_truth"].value, steered["sensitivity_of_truth"].n) == (0.5, 10)
    assert (steered["sensitivity_of_dataset"].value, steered["sensitivity_of_dataset"].n) == (0.5, 40)
    assert steered["sensitivity"].low < 4 / 9 < steered["sensitivity"].high
    assert (alone["sensitivity"].value, alone["sensitivity_of_dataset"].value) == (0, 9 / 40)
    assert found.figures["Rand. Feats."]["sensitivity"].n == 4  # draws
    assert found.figures["Prompt"]["sensitivity"].value == 1
    assert (found.figures["Reverse"]["sensitivity"].value, found.figures["Reverse"]["sensitivity"].n) == (1, 9)
    assert found.details["reverse"]["without_clamp"]["value"] == 0
    assert [feature["feature"] for feature in found.details["reverse"]["features"]] == [5]


def test_random_features_are_others_that_change_as_much_and_are_not_named_for_the_task():
    made = Made(num_draws=30)
    choice = made.choose(TASK, CHOOSE)
    draws = [draw.about["features"] for draw in choice.draws]
    assert len(draws) == 30
    assert len({tuple(draw) for draw in draws}) > 20
    own = {len(setting.features): setting for setting in [choice.own.setting]}
    for draw, tuned in zip(draws, choice.draws, strict=True):
        assert len(set(draw)) == 3
        assert not set(draw) & {1, 2, 3, 5, 6}  # named for the target, or for the source
        assert tuned.setting.features == tuple(draw[: len(tuned.setting.features)])
    for num, setting in own.items():
        same = made.choose._of_norm(setting, draws[0])
        values = same.clamp(made.trials.maxima)
        length = (torch.tensor([*values.values()]) @ made.directions[list(values)]).norm()
        assert (len(values), float(length)) == (num, pytest.approx(made.experiment.chosen(choice)["norm"]))


def test_the_rank_of_ours_among_random_draws_is_the_p_value():
    made = Made(num_draws=19)
    found = made.measure(TASK, MEASURE, made.choose(TASK, CHOOSE), []).details
    for kind in ("random_features", "random_directions"):
        shares = [draw["sensitivity"]["value"] for draw in found[kind]["draws"]]
        assert len(shares) == 19
        reach = sum(share >= found[kind]["ours"]["value"] for share in shares)
        assert found[kind]["p"] == (1 + reach) / 20
    assert {draw["length"] for draw in found["random_directions"]["draws"]} == {
        made.experiment.chosen(made.choose(TASK, CHOOSE))["norm"]
    }


def test_an_untrained_dictionary_is_ranked_among_draws_of_its_own_features():
    made = Made(num_draws=19)
    choice = made.choose(TASK, CHOOSE, alone=True)
    found = made.experiment.measure_alone(TASK, MEASURE, choice, ranked=True)
    whole = made.measure(TASK, MEASURE, choice, [])
    for row, key in (("Rand. Feats.", "random_features"), ("Rand. directions", "random_directions")):
        assert found.details[key] == whole.details[key]
        assert found.figures[row] == whole.figures[row]
        assert len(found.details[key]["draws"]) == 19
    bare = made.choose(TASK, CHOOSE, alone=True, ranked=False)
    assert bare.draws == []
    assert set(made.experiment.measure_alone(TASK, MEASURE, bare).figures) == {"steered", "steered, by effect"}


def test_the_dose_response_says_how_sound_the_answers_are():
    made = Made(doses=[4.0, 2.0, 1.0])
    points = made.measure(TASK, MEASURE, made.chosen(3, 2.0), []).details["dose_response"]
    assert [point["multiple"] for point in points] == [None, 0.0, 1.0, 2.0, 4.0]
    assert [round(point["sensitivity"]["value"], 2) for point in points] == [0, 0, 0, 0.44, 0]
    assert [point["readable"]["value"] for point in points] == [1, 1, 1, 1, 0]
    assert [point["mean_num_tokens"] for point in points] == [1, 1, 1, 1, 2]
    assert all(point["perplexity"] == pytest.approx(2) for point in points)
    assert {point["sensitivity"]["n"] for point in points} == {9}


def test_at_equal_damage_the_dose_counts_that_leaves_the_rest_alone():
    made = Made(doses=[4.0, 2.0, 1.0])
    found = made.measure(TASK, MEASURE, made.chosen(3, 4.0), [GENDER])
    figures = found.figures["steered"]
    assert figures["sensitivity"].value == 0  # at 4 times the maximum no answer is sound
    assert figures["sensitivity_at_equal_damage"].value == pytest.approx(4 / 9)  # at 2 times all are
    back = made.measure(TASK, MEASURE, made.chosen(2, 2.0, "a sad voice"), [GENDER])
    assert (
        back.figures["steered"]["sensitivity_at_equal_damage"].value == 0
    )  # any dose turns the gender: dose 0 is left


def test_at_every_methods_setting_it_is_said_what_is_left():
    made = Made()
    found = made.measure(TASK, MEASURE, made.choose(TASK, CHOOSE), [GENDER]).details
    own, prompt = found["at_setting"], found["methods"]["Prompt"]["at_setting"]
    assert own["sensitivity"]["value"] == pytest.approx(4 / 9)
    assert (own["axbench"]["concept"]["value"], own["axbench"]["overall"]["value"]) == (pytest.approx(8 / 9),) * 2
    assert own["axbench"]["instruction"]["value"] == own["axbench"]["fluency"]["value"] == 2
    assert prompt["axbench"]["overall"]["value"] == 2
    assert [figure["value"] for figure in own["kept"]] == [found["selectivity"][0]["unchanged"]["value"]]
    assert found["methods"]["Prompt"]["dose_response"] == []
    spoilt = made.measure(TASK, MEASURE, made.chosen(3, 4.0), []).details["at_setting"]["axbench"]
    assert [spoilt[name]["value"] for name in ("concept", "instruction", "fluency", "overall")] == [1, 1, 2, 1.2]


@pytest.mark.parametrize(("captions", "chosen", "along"), [("nowhere", 0, 0), ("setting", 1, 0), ("doses", 1, 4)])
def test_captions_are_made_where_the_design_says(captions, chosen, along):
    made = Made(captions=captions)
    split = MEASURE._replace(clips=[replace(clip, labels=("sad voice", "rain")) for clip in MEASURE.clips])
    found = made.measure(TASK, split, made.choose(TASK, CHOOSE), []).details
    assert sum("named" in point for point in found["dose_response"]) == along
    assert ("named" in found["at_setting"]) == bool(chosen)
    if chosen:
        assert (found["at_setting"]["named"]["value"], found["at_setting"]["named"]["n"]) == (pytest.approx(5 / 9), 9)


def test_selectivity_is_the_share_of_other_answers_that_stay():
    made = Made()
    (kept,) = made.measure(TASK, MEASURE, made.choose(TASK, CHOOSE), [GENDER]).details["selectivity"]
    assert (kept["prompt"], kept["unchanged"]["value"], kept["unchanged"]["n"]) == (GENDER.prompt, 1, 9)
    found = made.measure(TASK, MEASURE, made.chosen(2, 2.0, "a sad voice"), [GENDER])
    (spoilt,) = found.details["selectivity"]
    assert (spoilt["unchanged"]["value"], spoilt["unchanged_without_clamp"]["value"]) == (0, 1)


def test_unreadable_verdicts_leave_the_denominator_and_are_kept_for_the_agreement():
    made = Made(Hesitant())
    found = made.measure(TASK, MEASURE, made.chosen(1, 2.0), [])
    steered = found.figures["steered"]
    assert (steered["sensitivity"].value, steered["sensitivity"].n) == (1, 4)  # 5 of 9 answers are not read
    assert (steered["sensitivity_by_exact_match"].value, steered["sensitivity_by_exact_match"].n) == (
        pytest.approx(4 / 9),
        9,
    )
    assert math.isnan(found.figures["No SAE"]["sensitivity"].value)
    assert sum(judged is None and not exact for judged, exact in made.trials.verdicts) > 5
    unread = [point["verdicts_read"] for point in found.details["dose_response"]]
    assert unread == [0, 0, 0, pytest.approx(4 / 9)]


def test_fewer_clips_may_be_asked_where_they_are_not_the_tables():
    made = Made(most_clips=2)
    choice = made.choose(TASK, CHOOSE)
    assert choice.num_clips == 2
    made.told.asked.clear()
    found = made.measure(TASK, MEASURE, choice, [GENDER])
    assert found.figures["steered"]["sensitivity"].n == 9
    assert found.figures["Reverse"]["sensitivity"].n == 2
    assert {point["sensitivity"]["n"] for point in found.details["dose_response"]} == {2}


def test_without_named_features_nothing_is_steered():
    made = Made()
    task = SteeringTask("sad", "happy", "Which emotion?", EMOTIONS, "nothing of the kind")
    choice = made.choose(task, CHOOSE)
    assert (choice.own.setting, choice.own.tried, choice.draws) == (None, [], [])
    found = made.measure(task, MEASURE, choice, [])
    assert "Reverse" not in found.figures
    assert found.figures["steered"]["sensitivity"].value == 0
    assert found.figures["Rand. Feats."]["sensitivity"].n == 0
    assert math.isnan(found.details["random_features"]["p"])


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
