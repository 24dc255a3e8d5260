"""Names held to what they state, on clips that made them and on clips that did not."""

import json

import numpy as np
import pytest
import torch

from ard.evaluation import StateLabels
from ard.evaluation.scores import read_labelled
from ard.probing import SCORERS
from ard.run import Run
from tests.stores import write_activations

PROBE = [["dog"], ["dog"], ["rain"], ["rain"], ["bell", "rain"], ["bell"]]
EVAL = [["dog"], ["rain"], ["rain", "bell"], ["bell"], ["cat"]]
NAMES = ["dog barking", "rain and a bell", "dog", "thunder", None, "rain"]
TOPS = [[0, 1], [4, 4], [0, 1], [2, 3], [2, 3], [2, 3]]  # rows of clips that made the names


def extract(folder, labels, groups=None):
    grouped = {i: {"group": group} for i, group in (groups or {}).items()}
    known = [{"id": f"{folder.name}-{i}", "labels": of, **grouped.get(i, {})} for i, of in enumerate(labels)]
    write_activations(folder, [(of, torch.zeros(1, 4)) for of in known])


@pytest.fixture
def cell(tmp_path):
    """Six concepts; `active` says where they are active in the evaluation clips."""
    run = Run(tmp_path)
    extract(run.activations("probe"), PROBE)
    extract(run.activations("eval"), EVAL)
    cell = run.cell(0, 8)
    features = torch.tensor([5, 3, 8, 1, 0, 2])
    cell.save_tensors(
        "selections",
        {"ard/0/features": features, "ard/0/m": torch.ones(6), "ard/0/top_ids": torch.tensor(TOPS)},
    )
    cell.save_rows("names", [{"scorer": "ard", "draw": 0, "name": name} for name in NAMES])
    nothing = {"rows": torch.zeros(0).int(), "features": torch.zeros(0).int(), "values": torch.zeros(0, len(SCORERS))}
    scores = {f"{split}/{name}": column for split in ("probe", "eval") for name, column in nothing.items()}
    sizes = {"probe/num_clips": torch.tensor(6), "eval/num_clips": torch.tensor(5), "num_features": torch.tensor(9)}
    cell.save_tensors("scores", {**scores, **sizes})
    clips, concepts = zip(*[(1, 0), (3, 0), (2, 1), (1, 1), (0, 3), (1, 4), (1, 5), (2, 5), (4, 5)], strict=True)
    cell.save_tensors("active", {"clips": torch.tensor(clips), "concepts": torch.tensor(concepts)})
    return cell


def test_a_name_true_of_its_own_clips_and_false_on_unseen_ones_is_counted_wrong(cell):
    result = StateLabels()(cell)
    assert result.details["wrong"] == [{"feature": 1, "name": "thunder"}]  # by the clips that made the names
    figures, details = result.rows[0].figures, result.details
    # dog barking: active in clips of rain and of a bell; rain and a bell: right in one of two; dog: active nowhere;
    # rain: right in two of three. Thunder and no name state no label.
    assert figures["unseen_precision"].value == pytest.approx(np.mean([0, 1 / 2, 0, 2 / 3]))
    assert figures["unseen_recall"].value == pytest.approx(np.mean([0, 1, 0, 1]))
    assert figures["unseen_precision"].n == figures["unseen_recall"].n == 4
    assert details["num_judged_on_unseen"] == 4
    assert details["num_never_active_on_unseen"] == 1
    assert details["num_never_right_on_unseen"] == 1
    listed = {
        row["feature"]: (row["name"], row["num_clips"], row["precision"]) for row in details["mostly_wrong_on_unseen"]
    }
    assert listed == {5: ("dog barking", 2, 0.0), 8: ("dog", 0, 0.0)}


def test_without_evaluation_clips_there_is_nothing_to_hold_names_to(cell):
    cell.save_tensors("active", {})
    result = StateLabels()(cell)
    assert list(result.rows[0].figures) == ["share_stated"]
    assert "num_judged_on_unseen" not in result.details
    saved = json.loads(cell.result_path("stated_labels").read_text(encoding="utf-8"))
    assert saved["rows"][0]["figures"]["share_stated"]["n"] == 3


def test_clips_are_grouped_if_any_has_a_group_and_one_without_is_its_own(cell):
    assert read_labelled(cell, "eval").groups is None
    extract(cell.run.activations("eval"), EVAL, {0: "Ann", 1: "Ann", 3: "Bo"})
    assert read_labelled(cell, "eval").groups == ["Ann", "Ann", "activations-eval-2", "Bo", "activations-eval-4"]
