import json
import math
import re
import tracemalloc

import numpy as np
import pytest

from ard.results import Figure, Result, Row, trained_in, write_json


def test_an_estimate_lies_in_its_interval_and_narrows_with_samples():
    rng = np.random.default_rng(0)
    wide, narrow = (Figure.estimate(rng.normal(5, 1, n), np.mean, "s", over="clips", seed=0) for n in (20, 2000))
    for figure in (wide, narrow):
        assert figure.low < figure.value < figure.high
        assert figure.low < 5.2
        assert figure.high > 4.8
    assert narrow.high - narrow.low < (wide.high - wide.low) / 5
    assert Figure.estimate(rng.normal(size=9), np.mean, "s", over="clips", seed=3).n == 9


def test_many_samples_are_resampled_in_little_memory():
    samples = np.random.default_rng(0).random(20000)
    tracemalloc.start()
    Figure.estimate(samples, np.mean, "share", over="clips", seed=0)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 100e6


def test_the_interval_is_that_of_the_seed():
    samples = np.arange(10.0)
    assert Figure.estimate(samples, np.mean, "s", over="clips", seed=1) == Figure.estimate(
        samples, np.mean, "s", over="clips", seed=1
    )


@pytest.mark.parametrize("num", [2, 9, 64, 1201])
def test_means_of_all_resamples_at_once_are_those_of_one_after_the_other(num):
    samples = np.random.default_rng(num).normal(size=num)
    at_once, one_by_one = (
        Figure.estimate(samples, mean, "s", over="clips", seed=1) for mean in (np.mean, lambda drawn: drawn.mean())
    )
    assert at_once == one_by_one


def test_no_samples_and_equal_samples_are_defined():
    nothing = Figure.estimate(np.empty(0), np.mean, "s", over="clips", seed=0)
    assert (nothing.n, math.isnan(nothing.value)) == (0, True)
    same = Figure.estimate(np.full((5, 2), 0.3), np.mean, "s", over="clips", seed=0)
    assert same.low == same.high == pytest.approx(0.3)
    assert math.isnan(Figure.estimate(np.array([0.3]), np.mean, "s", over="clips", seed=0).low)


@pytest.mark.parametrize(
    ("hits", "of", "low", "high"),
    [(0, 29, 0.0, 0.119), (157, 157, 0.977, 1.0), (5, 10, 0.237, 0.763), (1, 1, 0.025, 1.0)],
)
def test_a_share_has_the_interval_of_wilson_and_at_its_ends_that_of_clopper_and_pearson(hits, of, low, high):
    share = Figure.estimate(np.repeat([1.0, 0.0], [hits, of - hits]), np.mean, "share", over="clips", seed=0)
    assert (share.value, share.n, share.over) == (hits / of, of, "clips")
    assert (share.low, share.high) == (pytest.approx(low, abs=1e-3), pytest.approx(high, abs=1e-3))


@pytest.mark.parametrize("statistic", [np.max, np.min])
def test_an_extreme_has_no_interval(statistic):
    extreme = Figure.estimate(np.random.default_rng(0).normal(size=30), statistic, "s", over="concepts", seed=0)
    assert math.isfinite(extreme.value)
    assert math.isnan(extreme.low)
    assert math.isnan(extreme.high)


def test_clips_of_one_speaker_are_resampled_together():
    speakers = np.arange(300) // 30
    samples = (speakers % 2).astype(float)  # every clip of a speaker says the same: there are ten samples, not 300
    alone = Figure.estimate(samples, np.mean, "share", over="clips", seed=0)
    together = Figure.estimate(samples, np.mean, "share", over="speakers", seed=0, groups=speakers)
    assert alone.value == together.value == 0.5
    assert together.high - together.low > 3 * (alone.high - alone.low)
    all_hit = Figure.estimate(np.ones(300), np.mean, "share", over="speakers", seed=0, groups=speakers)
    assert all_hit.low == pytest.approx(0.692, abs=1e-3)  # ten of ten
    one = Figure.estimate(samples, np.mean, "share", over="speakers", seed=0, groups=np.zeros(300))
    assert math.isnan(one.low)


def test_a_result_comes_back_as_it_was(tmp_path):
    figures = {"f1": Figure(0.5, 0.4, 0.6, 10, "share"), "map": Figure(math.nan, math.nan, math.nan, 0, "share")}
    result = Result("matching", (Row("AR&D", 4, 8, figures, note="x"),), {"gamma": 0.7}, {"a": [1]}, 0, 1.5)
    path = tmp_path / "deep" / "matching.json"
    result.save(path)
    again = Result.load(path)
    assert again.rows[0].figures["f1"] == figures["f1"]
    assert math.isnan(again.rows[0].figures["map"].value)
    assert (again.choices, again.details, again.rows[0].note) == ({"gamma": 0.7}, {"a": [1]}, "x")
    saved = json.loads(path.read_text(encoding="utf-8"))
    assert saved["version"]
    assert re.fullmatch("[0-9a-f]{40}", saved["git_commit"] or "0" * 40)


def test_what_is_made_of_results_says_in_what_precision_all_were_trained():
    half, full, unknown = (
        Result("x", (), choices) for choices in ({"trained_in": "bf16-mixed"}, {"trained_in": "32-true"}, {})
    )
    assert trained_in([half, None, half, unknown]) == {"trained_in": "bf16-mixed"}
    assert trained_in([half, full]) == {"trained_in": "32-true, bf16-mixed"}
    assert trained_in([unknown, None]) == {}


def test_json_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": 1}


@pytest.mark.parametrize(
    ("method", "is_own"),
    [
        ("AR&D", True),
        ("AR&D, rated by LLM some/model, 8 bit", True),
        ("AR&D, true labels as raters", True),
        ("AR&D, names shuffled", False),
        ("AR&D, names shuffled, true labels as raters", False),
        ("Poly. Feats.", False),
        ("AR&D-like", False),
    ],
)
def test_a_row_is_the_runs_own_whoever_rated_it_unless_its_names_are_shuffled(method, is_own):
    assert Row(method, 4, 8, {}).is_own is is_own
