"""Rows of Table 3 against each other, on clips whose answers are known."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from ard.evaluation import measure_steering_differences, pool_steering
from ard.evaluation.functional import holm
from ard.evaluation.steered import mcnemar
from ard.reports import build_tables
from ard.results import Figure, Result, Row
from ard.run import Run
from tests.reports.conftest import write_about

CLIPS = [f"c{n:02d}" for n in range(40)]
CHOICES = {
    "denominator": "truth",
    "num_draws": 9,
    "judge": "exact match of the answer's class",
    "trained_in": "bf16-mixed",
}


def reached(share):
    """Which clips are turned: the first ones."""
    return {clip: float(n < share * len(CLIPS)) for n, clip in enumerate(CLIPS)}


def draws(ours, *shares):
    values = [{"sensitivity": {"value": share}} for share in shares]
    reach = sum(share >= ours for share in shares)
    return {"draws": values, "ours": {"value": ours}, "p": (1 + reach) / (1 + len(shares))}


def save(run, folder, method, tasks):
    figure = Figure(0.5, 0.4, 0.6, 40, "share")
    rows = tuple(Row(method, 3, 8, {"sensitivity": figure}, *shift.split(" to ")) for shift in tasks)
    Result("steering", rows, CHOICES, {"tasks": tasks}).save(run / f"layer-3/{folder}/steering.json")


@pytest.fixture
def run(tmp_path):
    """Two shifts: on the first ours is above all but the prompt, on the second it turns nothing."""
    write_about(tmp_path)
    tasks = {}
    for shift, ours in (("sad to happy", 0.8), ("happy to angry", 0.0)):
        tasks[shift] = {
            "reached": reached(ours),
            "groups": {clip: f"speaker {n // 4}" for n, clip in enumerate(CLIPS)},
            "controls": {"No SAE": reached(0.0)},
            "methods": {
                "Prompt": {"reached": reached(1.0)},
                "steered, by effect": {"reached": {**reached(0.75), "unread": None}},
            },
            "random_features": draws(ours, *[0.1] * 99),
            "random_directions": draws(ours, *[0.1] * 9, 0.9),
        }
    save(tmp_path, "e8", "AR&D", tasks)
    for draw, share in enumerate((0.1, 0.7)):
        untrained = {shift: {"reached": reached(share), "methods": {}} for shift in tasks}
        save(tmp_path, f"e8-untrained-{draw}", "Untrained SAE", untrained)
    return Run(tmp_path)


def compared(run):
    result = measure_steering_differences(run)
    assert run.own.result("steering_differences").rows == result.rows
    found = {}
    for test, row in zip(result.details["tests"], result.rows, strict=True):
        assert (test["source"], test["target"], test["other"]) == (row.source, row.target, row.method)
        found[test["source"], test["other"]] = (test, row.figures["difference"])
    return found


def test_every_other_row_is_compared_on_each_shift(run):
    found = compared(run)
    others = {"No SAE", "Prompt", "AR&D, by effect", "Untrained SAE", "Rand. Feats.", "Rand. directions"}
    assert set(found) == {(source, other) for source in ("sad", "happy") for other in others}
    verdicts = {other: found["sad", other][0]["verdict"] for other in others}
    assert verdicts == {
        "No SAE": "above",
        "Prompt": "below",  # 8 clips that only it turns: p = 2 / 2^8
        "AR&D, by effect": "not told apart",
        "Untrained SAE": "not told apart",  # of its two draws, one is close
        "Rand. Feats.": "above",  # none of 99 reaches ours: p = .01
        "Rand. directions": "not told apart",  # one of 10 does
    }
    assert found["happy", "No SAE"][0]["verdict"] == "not told apart"
    assert found["happy", "Prompt"][0]["verdict"] == "below"


def test_differences_are_paired_and_speakers_resampled_together(run):
    test, figure = compared(run)["sad", "Prompt"]
    assert ([*test["discordant"]], figure.value) == ([0, 8], pytest.approx(-0.2))
    assert (figure.n, figure.over) == (40, "groups of clips")
    assert figure.low < -0.2 < figure.high <= 0
    rng = np.random.default_rng(0)  # the 8 clips are two of ten speakers
    by_hand = np.quantile(-rng.multinomial(10, [0.1] * 10, 20000)[:, 8:].sum(axis=1) / 10, [0.025, 0.975])
    assert (figure.low, figure.high) == (pytest.approx(by_hand[0], abs=0.05), pytest.approx(by_hand[1], abs=0.05))


def test_p_values_are_exact_and_holms(run):
    found = compared(run)
    assert found["sad", "Prompt"][0]["p"] == pytest.approx(2 * binom.cdf(0, 8, 0.5))
    assert found["sad", "Prompt"][0]["p_holm"] == pytest.approx(2 * binom.cdf(0, 8, 0.5))
    assert found["sad", "Rand. Feats."][0]["p"] == 0.01
    assert found["sad", "Rand. Feats."][0]["p_holm"] == 0.02  # the other shift has p = 1


def test_the_table_says_above_which_rows_ours_is(run):
    measure_steering_differences(run)
    notes = build_tables(run.folder, [3])[0].notes
    (said,) = [note for note in notes if note.startswith("Sad → Happy: AR&D is above")]
    assert "above No SAE +0.80" in said
    assert "below Prompt -0.20" in said
    equal = said.partition("It is not told apart from ")[2]
    assert [one.split(" +")[0].split(" -")[0] for one in equal.split("; ")] == [
        "AR&D, by effect",
        "Untrained SAE",
        "Rand. directions",
    ]
    assert any(note.startswith("Happy → Angry: AR&D is below") for note in notes)


def test_a_run_that_steered_nothing_has_no_differences(tmp_path):
    write_about(tmp_path)
    assert measure_steering_differences(Run(tmp_path)) is None


def test_mcnemar_counts_what_only_one_turned():
    own, other = np.array([1.0, 1, 1, 0, 0, 0]), np.array([1.0, 0, 0, 1, 0, 0])
    assert mcnemar(own, other) == ((2, 1), 1.0)
    assert mcnemar(own, own) == ((0, 0), 1.0)


@pytest.mark.parametrize("seed", range(3))
def test_holm_keeps_the_rate_of_any_false_claim(seed):
    """Under the null at four shifts, a claim is made in no more than 5 % of experiments."""
    p_values = np.random.default_rng(seed).uniform(size=(4000, 4))
    assert np.mean([min(holm(row.tolist())) < 0.05 for row in p_values]) < 0.06


def test_runs_of_several_seeds_are_pooled_and_claims_counted(run, tmp_path_factory):
    other = Run(shutil.copytree(run.folder, tmp_path_factory.mktemp("seeds") / "run-1"))
    path = other.own.result_path("steering")
    result = Result.load(path)
    weak = result.details["tasks"]["sad to happy"] | {"reached": reached(0.0)}
    rows = tuple(replace(row, figures={"sensitivity": Figure(0.1, 0.0, 0.2, 40, "share")}) for row in result.rows)
    Result("steering", rows, CHOICES, {"tasks": result.details["tasks"] | {"sad to happy": weak}}).save(path)
    assert pool_steering([run]) is None
    differences = [measure_steering_differences(one) for one in (run, other)]
    pooled = pool_steering([run, other])
    assert {made.choices["trained_in"] for made in (*differences, pooled)} == {"bf16-mixed"}
    (own,) = [row for row in pooled.rows if (row.method, row.source) == ("AR&D", "sad")]
    figure = own.figures["sensitivity"]
    assert (figure.value, figure.low, figure.high, figure.n) == (pytest.approx(0.3), 0.1, 0.5, 2)
    assert figure.spread == pytest.approx(np.std([0.1, 0.5], ddof=1))
    claims = {(one["source"], one["other"]): one for one in pooled.details["claims"]}
    assert claims["sad", "No SAE"] == {
        "source": "sad",
        "target": "happy",
        "other": "No SAE",
        "above": 1,
        "not told apart": 1,
    }
    assert claims["sad", "Prompt"]["below"] == 2
    (said,) = [note for note in build_tables(run.folder, [3])[0].notes if note.startswith("In how many of the runs")]
    assert "Sad → Happy: Prompt 0/2; AR&D, by effect 0/1" in said
