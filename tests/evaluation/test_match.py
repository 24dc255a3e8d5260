import math

import numpy as np
import pytest
import torch

from ard.evaluation import MatchLabels, MatchReading
from ard.evaluation.scores import Labelled, active_concepts
from ard.naming import read_names
from ard.probing import SCORERS, SparseScores
from ard.run import Run
from ard.types import UserError
from experiments.bench.matching import Size, Space, write_cell

LABELS = ["Wild_animals", "rain", "dog"]
NAMES = [f"{label.replace('_', ' ')} no. {i}" for i, label in enumerate(LABELS * 2)]
FEATURES = 24


@pytest.fixture
def cell(tmp_path):
    return Run(tmp_path).cell(26, 8)


def scored(labels=LABELS, num_clips=20, active=10):
    """Clips in which some features are active; the first is silent."""
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(num_clips, FEATURES, generator=generator).topk(active, dim=1).indices
    values = torch.rand(num_clips, active, generator=generator)
    clips = torch.arange(num_clips, dtype=torch.int32).repeat_interleave(active)[active:]
    of_scorers = values.flatten()[active:, None].expand(-1, len(SCORERS)).contiguous()
    of_clips = [[labels[i % len(labels)], labels[0]] for i in range(num_clips)]
    return Labelled(SparseScores(clips, features.flatten()[active:].int(), of_scorers, num_clips, FEATURES), of_clips)


def matched(cell, names=NAMES, labelled=None, **options):
    """Match the names of a cell that is drawn at random; return the result, and its figures by method."""
    write_cell(cell, Size(FEATURES, 12, 2), names)
    space = Space([label.replace("_", " ") for label in LABELS])
    result = MatchLabels(**options).match(cell, labelled or scored(), space)
    return result, {row.method: {name: figure.value for name, figure in row.figures.items()} for row in result.rows}


def test_labels_as_names_are_the_ceiling_and_shuffled_names_the_null(cell):
    result, found = matched(cell, num_shuffles=3)
    ceiling = found["Labels as names"]
    assert (ceiling["precision"], ceiling["recall"], ceiling["f1"], ceiling["map_at_matches"]) == (1, 1, 1, 1)
    assert ceiling["map"] < 1  # precision over all ranks falls even where every match stands first
    shuffled = next(row for row in result.rows if "shuffled" in row.method)
    assert shuffled.note.startswith("mean of 3 draws; standard deviation over draws: precision ")


def test_concepts_without_names_predict_nothing_and_are_counted(cell):
    result, found = matched(cell, names=[None])
    for method, figures in found.items():
        if method != "Labels as names":
            assert {figures[name] for name in ("precision", "recall", "f1", "map", "map_at_matches")} == {0}
    details = result.details
    assert details["num_concepts_without_name"] == dict.fromkeys(("ard", "mean", "coverage", "random"), 12)
    assert details["num_clips_without_prediction"]["AR&D"] == 20


def test_clips_without_a_prediction_and_one_label_for_all_are_defined(cell):
    result, found = matched(cell, labelled=scored(labels=LABELS[:1]))
    assert all(math.isfinite(figure) for figures in found.values() for figure in figures.values())
    assert result.details["num_labels"] == 1
    assert result.details["num_clips_without_prediction"]["AR&D"] >= 1  # the silent one


@pytest.mark.slow
@pytest.mark.parametrize(
    "reading",
    [
        {"average": "macro"},
        {"assignment": "greedy"},
        {"threshold": "before"},
        {"strict": True, "gamma": 0.9},
        {"average_precision": "references"},
        {"average_precision": "matches"},
        {"average_precision": "pooled"},
        {"average_precision": "classes"},
    ],
)
def test_every_reading_gives_figures_with_intervals_and_is_written(cell, reading):
    result, _ = matched(cell, reading=MatchReading(**reading), result="other")
    assert result.evaluation == "other"
    assert reading.items() <= result.choices.items()
    for row in result.rows:
        for name in ("precision", "recall", "f1", "map"):
            assert 0 <= row.figures[name].low <= row.figures[name].value <= row.figures[name].high <= 1


@pytest.mark.parametrize("scope", ["vocabulary", "distinct"])
def test_one_matching_of_the_whole_vocabulary_has_no_interval(cell, scope):
    result, found = matched(cell, reading=MatchReading(scope=scope))
    named = result.rows[0]
    assert named.figures["f1"].n == 1
    assert math.isnan(named.figures["f1"].low)
    names = read_names(cell)["ard"][0]
    assert found["AR&D"]["precision"] <= len(LABELS) / len(names if scope == "vocabulary" else set(names))


def test_the_rules_of_activity():
    scores, weakest = scored().scores, torch.full((FEATURES,), 0.5)
    features = torch.randperm(FEATURES, generator=torch.Generator().manual_seed(2))[:9]
    dense = scores.dense("mean", features)

    def active(activity, by):
        found = torch.zeros_like(dense, dtype=torch.bool)
        entries = active_concepts(scores, "mean", features, weakest[:9], activity, by)
        found[tuple(torch.from_numpy(x) for x in entries)] = True
        return found

    assert torch.equal(active(0.0, "share"), dense > 0)
    assert torch.equal(active(0.5, "share"), (dense > 0) & (dense >= 0.25))
    assert torch.equal(active(0.8, "quantile"), (dense > 0) & (dense > dense.quantile(0.8, dim=0)))
    every = scored(num_clips=400, active=FEATURES).scores
    always = active_concepts(every, "mean", features, weakest[:9], 0.95, "quantile")
    assert np.bincount(always.concepts).tolist() == [20] * 9
    assert torch.equal(active(2.0, "top").sum(dim=1), (dense > 0).sum(dim=1).clamp_max(2))
    assert (dense.masked_fill(~active(1.0, "top"), 0).amax(dim=1) == dense.amax(dim=1)).all()
    for activity, by, said in ((-0.1, "share", " to 1"), (1.5, "quantile", " to 1"), (-1.0, "top", "")):
        with pytest.raises(
            UserError, match=rf"activity {activity} is out of range for '{by}': give a number from 0{said}$"
        ):
            MatchLabels(activity=activity, active_by=by)
