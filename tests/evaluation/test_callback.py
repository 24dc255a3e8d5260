import json
import math

import lightning
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from ard.activations import ProbeBatch
from ard.evaluation import CompareNames, DetectConcepts, FindLabels, MatchLabels, MatchReading
from ard.evaluation.scores import LabelledScores
from ard.naming import read_names
from ard.results import Result, Row
from ard.sae import Encoding
from ard.types import Codes, UserError
from tests.evaluation.cells import Cell, Space, write_cell

LABELS = ["Wild_animals", "rain", "dog"]
NAMES = [f"{label.replace('_', ' ')} no. {i}" for i, label in enumerate(LABELS * 2)]
FEATURES = 24
AR_AND_D = Row("AR&D", 26, 8, {})


@pytest.mark.parametrize("callback", [CompareNames, DetectConcepts, FindLabels, MatchLabels])
def test_callbacks_that_want_all_clips_refuse_several_processes(tmp_path, monkeypatch, callback):
    wanted = {"audio": tmp_path, "embeddings": tmp_path} if callback is DetectConcepts else {}
    monkeypatch.setattr(lightning.Trainer, "world_size", 2)
    trainer = lightning.Trainer(accelerator="cpu", logger=False, callbacks=[callback(tmp_path, **wanted)])
    with pytest.raises(UserError, match=r"labels in one process, and there are 2: leave out trainer\.devices here"):
        trainer.test(Encoding("poly", 4), DataLoader([torch.zeros(1)]), verbose=False)


def scored(labels=LABELS, num_clips=20, active=10):
    """Clips of one token that is active in some features; the first is silent."""
    generator = torch.Generator().manual_seed(0)
    indices = torch.rand(num_clips, FEATURES, generator=generator).topk(active, dim=1).indices
    values = torch.rand(num_clips, active, generator=generator)
    values[0] = 0
    metadata = [{"labels": [labels[i % len(labels)], labels[0]]} for i in range(num_clips)]
    scores, clips = LabelledScores(FEATURES), torch.arange(num_clips)
    scores.add(Codes(values, indices), ProbeBatch(torch.empty(num_clips, 0), clips, clips, metadata))
    return scores


def matched(folder, names=NAMES, scores=None, **options):
    write_cell(folder, Cell(FEATURES, 12, 2), names)
    space = Space([label.replace("_", " ") for label in LABELS])
    rows = MatchLabels(folder, **options).match(scores or scored(), space, AR_AND_D)
    assert [row.method for row in Result.load(folder / options.get("result", "matching.json")).rows] == [
        row.method for row in rows
    ]
    return {row.method: {name: figure.value for name, figure in row.figures.items()} for row in rows}


def test_labels_as_names_are_the_ceiling_and_shuffled_names_the_null(tmp_path):
    found = matched(tmp_path, num_shuffles=3)
    ceiling = found["Labels as names"]
    assert (ceiling["precision"], ceiling["recall"], ceiling["f1"], ceiling["map_at_matches"]) == (1, 1, 1, 1)
    assert ceiling["map"] < 1  # precision over all ranks falls even where every match stands first
    shuffled = next(row for row in Result.load(tmp_path / "matching.json").rows if "shuffled" in row.method)
    assert shuffled.note.startswith("mean of 3 draws; standard deviation over draws: precision ")


def test_concepts_without_names_predict_nothing_and_are_counted(tmp_path):
    found = matched(tmp_path, names=[None])
    for method, figures in found.items():
        if method != "Labels as names":
            assert {figures[name] for name in ("precision", "recall", "f1", "map", "map_at_matches")} == {0}
    details = Result.load(tmp_path / "matching.json").details
    assert details["num_concepts_without_name"] == dict.fromkeys(("ard", "mean", "coverage", "random"), 12)
    assert details["num_clips_without_prediction"]["AR&D"] == 20


def test_clips_without_a_prediction_and_one_label_for_all_are_defined(tmp_path):
    found = matched(tmp_path, scores=scored(labels=LABELS[:1]))
    assert all(math.isfinite(figure) for figures in found.values() for figure in figures.values())
    details = json.loads((tmp_path / "matching.json").read_text(encoding="utf-8"))["details"]
    assert details["num_labels"] == 1
    assert details["num_clips_without_prediction"]["AR&D"] >= 1  # the silent one


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
def test_every_reading_gives_figures_with_intervals_and_is_written(tmp_path, reading):
    matched(tmp_path, reading=MatchReading(**reading), result="other.json")
    result = Result.load(tmp_path / "other.json")
    assert reading.items() <= result.choices.items()
    for row in result.rows:
        for name in ("precision", "recall", "f1", "map"):
            assert 0 <= row.figures[name].low <= row.figures[name].value <= row.figures[name].high <= 1


@pytest.mark.parametrize("scope", ["vocabulary", "distinct"])
def test_one_matching_of_the_whole_vocabulary_has_no_interval(tmp_path, scope):
    found = matched(tmp_path, reading=MatchReading(scope=scope))
    named = Result.load(tmp_path / "matching.json").rows[0]
    assert named.figures["f1"].n == 1
    assert math.isnan(named.figures["f1"].low)
    names = read_names(tmp_path)["ard"][0]
    assert found["AR&D"]["precision"] <= len(LABELS) / len(names if scope == "vocabulary" else set(names))


def test_the_rules_of_activity(tmp_path):
    scores, weakest = scored(), torch.full((FEATURES,), 0.5)
    features = torch.randperm(FEATURES, generator=torch.Generator().manual_seed(2))[:9]
    dense = scores.dense("mean", features)

    def active(activity, by):
        found = torch.zeros_like(dense, dtype=torch.bool)
        found[tuple(torch.from_numpy(x) for x in scores.active("mean", features, weakest[:9], activity, by))] = True
        return found

    assert torch.equal(active(0.0, "share"), dense > 0)
    assert torch.equal(active(0.5, "share"), (dense > 0) & (dense >= 0.25))
    assert torch.equal(active(0.8, "quantile"), (dense > 0) & (dense > dense.quantile(0.8, dim=0)))
    every = scored(num_clips=400, active=FEATURES)
    always = every.active("mean", features, weakest[:9], 0.95, "quantile")
    assert np.bincount(always.concepts).tolist() == [20] * 9
    assert torch.equal(active(2.0, "top").sum(dim=1), (dense > 0).sum(dim=1).clamp_max(2))
    assert (dense.masked_fill(~active(1.0, "top"), 0).amax(dim=1) == dense.amax(dim=1)).all()
    for activity, by, said in ((-0.1, "share", " to 1"), (1.5, "quantile", " to 1"), (-1.0, "top", "")):
        with pytest.raises(UserError, match=rf"activity {activity} is no {by}: give a number from 0{said}$"):
            MatchLabels(tmp_path, activity=activity, active_by=by)
