"""Forecasts of side effects where it is known what moves which answers, and by hand."""

import math
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csc_array
from scipy.stats import rankdata

from ard.steering import Design, ExactMatch, Interview, Question, SteeringTask
from ard.steering.choice import Choice, Tuned
from ard.steering.directions import Heard
from ard.steering.forecast import Forecast, Forecaster, along_differences, rank_correlations, together, with_outcome
from ard.steering.settings import Setting
from ard.steering.trials import Split, Trials
from ard.types import Clip

TASK = SteeringTask("sad", "happy", "Which emotion?", ["sad", "happy"], "a happy voice")
GENDER = Question("Which gender?", {"female": ["female"], "male": ["male"]})
NOTHING = Question("Which language?", {"one": ["one"], "other": ["other"]})
SILENCE = np.zeros(0, dtype=np.float32)
SPLIT = Split(
    Path("select"),
    [Clip(f"{gender}-{n}", SILENCE, 16000, "t", gender=gender) for gender in GENDER.classes for n in "123"],
)
DIRECTIONS = torch.eye(4)  # the first feature moves x from female to male, the others elsewhere


class Told(Interview):
    """A model whose layer holds 0 for women and (2, 0, 0, 0) for men."""

    def __init__(self):
        self.clips = lambda audio, clip_ids: [clip for clip in SPLIT.clips if clip.id in clip_ids]

    def __call__(self, audio, clip_ids, conditions):
        return [[one.partition("-")[0] if one != "male-3" else "?" for one in clip_ids] for _ in conditions]

    def hears(self, audio, clip_ids, *, silenced=False):
        means = torch.stack([2 * DIRECTIONS[0] * clip_id.startswith("male") for clip_id in clip_ids])
        return Heard(means, means.square().sum(dim=1) + 9)


def activity(clips, prompt):
    """The features 0 and 1 fire for men, 1 half as often; 2 for women; 3 for all alike."""
    rows = [(2, n == 0, 0, 1) if clip.gender == "male" else (0, 0, 1, 1) for n, clip in enumerate(clips[::-1])]
    return csc_array(np.array(rows[::-1], dtype=float))


def forecasts(*tuned, questions=(GENDER,), doses=(1.0, 2.0)):
    trials = Trials(Told(), ExactMatch(), maxima=torch.full((4,), 3.0), design=Design(doses=list(doses)), seed=0)
    choice = Choice(tuned[0], tuned[1:], [], [], 0)
    return Forecaster(trials, DIRECTIONS, activity)(TASK, SPLIT, choice, questions)


def test_a_setting_is_expected_to_break_what_it_moves():
    own = Tuned("steered", Setting((0,), strength=4.0), [], {})
    beside = Tuned("beside", Setting((3,), strength=1.0), [], {})
    along = Tuned("along", Setting(direction=torch.tensor([0.6, 0.8, 0, 0]), unit=0.5), [], {})
    hint = Tuned("hint", Setting(hint="It is so."), [], {})
    found = {
        (one.method, one.strength): one for one in forecasts(own, beside, along, hint, Tuned("none", None, [], {}))
    }
    assert set(found) == {("steered", s) for s in (1, 2, 4)} | {(m, s) for m in ("beside", "along") for s in (1, 2)}
    spread = math.sqrt(9 + 4 * 2 / 5 - (2 * 2 / 5) ** 2)  # of 3 women and 2 men; the third man's answer is no class
    for strength in (1, 2, 4):
        one = found["steered", strength]
        assert (one.geometry, one.cosine) == (pytest.approx(3 * strength / 2), pytest.approx(1))
        assert one.coactivation == pytest.approx(3 * strength / spread)
    assert (found["beside", 1].geometry, found["beside", 1].cosine) == (0, 0)
    # 3 fires in all 5 clips, 0 in two of them, 2 in the other three
    assert found["beside", 1].coactivation == pytest.approx(3 / spread * math.sqrt(3 / 5))
    assert found["along", 2].geometry == pytest.approx(2 * 0.5 * 0.6 / 2)
    assert found["along", 2].cosine == pytest.approx(0.6)
    assert math.isnan(found["along", 2].coactivation)


def test_a_question_that_is_answered_alike_has_no_forecast():
    own = Tuned("steered", Setting((0,)), [], {})
    assert {one.prompt for one in forecasts(own, questions=(NOTHING, GENDER))} == {GENDER.prompt}


@pytest.mark.parametrize("seed", range(5))
def test_geometry_is_the_largest_over_all_pairs_of_means(seed):
    generator = torch.Generator().manual_seed(seed)
    change, means = torch.randn(6, generator=generator), torch.randn(4, 6, generator=generator)
    pairs = list(permutations(means, 2))
    moved = max(float(change @ (b - a) / (b - a).square().sum()) for a, b in pairs)
    cosine = max(float(torch.cosine_similarity(change, b - a, dim=0)) for a, b in pairs)
    assert along_differences(change, means) == (pytest.approx(moved, rel=1e-4), pytest.approx(cosine, rel=1e-4))
    assert along_differences(torch.zeros(6), means) == along_differences(change, means[:1].expand(3, -1)) == (0, 0)


def test_features_fire_together_as_far_as_the_cosine_of_their_activity_says():
    fires = csc_array(np.array([[1.0, 0, 2, 0], [1, 0, 0, 0], [0, 3, 0, 0]]))
    np.testing.assert_allclose(together(fires, [0, 1, 2, 3], [0, 2]), [1, 0, 1, 0])
    np.testing.assert_allclose(together(fires, [0, 1], [2]), [1 / math.sqrt(2), 0])
    assert together(fires, [0, 1], []).tolist() == [0, 0]


def test_each_forecast_stands_beside_what_then_changed():
    def point(dose, *kept):
        return {"multiple": dose, "kept": [{"value": value} for value in kept]}

    def effects(*points, chosen=()):
        prompts = [{"prompt": prompt} for prompt in ("a", "b")]
        return {"dose_response": points, "at_setting": point(None, *chosen), "selectivity": prompts}

    measured = effects(point(None, 1, 1), point(0.0, 1, 1), point(1.0, 0.9, 0.5), chosen=(0.25, 0.75))
    measured["methods"] = {"other": effects(chosen=(0.0, 1.0))}
    asked = [("steered", 1.0, "a"), ("steered", 1.0, "b"), ("steered", 1.5, "b"), ("other", 3.0, "a")]
    rows = with_outcome([Forecast("t", *one, 0.1, 0.2, 0.3) for one in asked], measured, "steered")
    assert [row["changed"] for row in rows] == pytest.approx([0.1, 0.5, 0.25, 1.0])
    assert rows[2] == {**Forecast("t", "steered", 1.5, "b", 0.1, 0.2, 0.3)._asdict(), "changed": 0.25}


@pytest.mark.parametrize("seed", range(5))
def test_the_rank_correlation_is_that_of_the_ranks(seed):
    rng = np.random.default_rng(seed)
    rows = [
        {"geometry": g, "cosine": 0.5, "coactivation": g if n % 2 else math.nan, "changed": c}
        for n, (g, c) in enumerate(rng.integers(0, 5, (30, 2)))
    ]
    rows += [{"geometry": 1.0, "cosine": 0.1, "coactivation": 1.0, "changed": math.nan}]
    found = rank_correlations(rows)
    geometry, changed = ([row[name] for row in rows[:30]] for name in ("geometry", "changed"))
    assert found["geometry"] == {
        "spearman": pytest.approx(np.corrcoef(rankdata(geometry), rankdata(changed))[0, 1]),
        "n": 30,
    }
    assert (found["coactivation"]["n"], found["cosine"]["n"]) == (15, 30)
    assert math.isnan(found["cosine"]["spearman"])  # all are expected to break as much
    assert math.isnan(rank_correlations(rows[:2])["geometry"]["spearman"])
    assert rank_correlations([])["geometry"]["n"] == 0
