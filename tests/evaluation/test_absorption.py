"""Where the feature that stands for a label stays silent, on clips whose truth is known."""

import json

import pytest
import torch

from ard.evaluation import FindLabels, ProbeLabels
from ard.probing import KeepScores
from ard.representatives import RetrieveRepresentatives
from ard.run import Run
from tests.stores import write_activations

MEN = ("sad man", "angry man", "happy man")
WIDTH = 8


def strength(rng, who):
    """Coordinate 0 is 1 for sad men and .01 for other men, 1 and 2 for the others alone."""
    x = torch.zeros(WIDTH)
    if who in MEN:
        x[0] = 1.0 if who == "sad man" else 0.01
        x[1], x[2] = float(who == "angry man"), float(who == "happy man")
    if who == "dog":
        x[4] = 1.0
    x[5] = 0.3 * torch.rand((), generator=rng)
    return x * (1 + 0.1 * torch.rand((), generator=rng))


def extract(folder, per_kind, labelled=True):
    rng = torch.Generator().manual_seed(len(folder.name))
    kinds = [*MEN, *("sad woman", "dog")] * per_kind
    clips = []
    for n, who in enumerate(kinds):
        labels = who.split() if labelled else []
        x = strength(rng, who).expand(2, WIDTH).contiguous()
        clips.append(({"id": f"{folder.name}-{n}", "labels": labels}, x))
    write_activations(folder, clips)


def make(folder, labelled=True):
    """The raw coordinates of such clips as a dictionary, so a baseline."""
    run = Run(folder)
    extract(run.activations("probe"), 12, labelled)
    extract(run.activations("eval"), 6, labelled)
    cell = run.cell(0, None)
    RetrieveRepresentatives(p=4)(cell)
    KeepScores()(cell)
    return cell


@pytest.fixture(scope="module")
def cell(tmp_path_factory):
    return make(tmp_path_factory.mktemp("men"))


def test_a_feature_of_sad_men_is_not_taken_for_one_of_men(cell):
    result = ProbeLabels(activity=0.5)(cell)
    (row,) = result.rows
    assert row.method == "Poly. Feats."
    man = result.details["per_label"]["man"]
    assert man["features"][0] == 0
    assert man["auroc"]["k1"] == 1  # which says nothing
    assert (man["recall"], man["general"]) == (pytest.approx(1 / 3), False)
    assert {name: part["recall"] for name, part in man["strata"].items()} == {"angry": 0, "happy": 0, "sad": 1}
    assert {name: part["absorption"] for name, part in man["strata"].items()} == {"angry": 1, "happy": 1, "sad": 0}
    assert (man["num_found"], man["num_absorbed"], man["absorption"]) == (18, 12, pytest.approx(2 / 3))
    assert set(man["absorbed_by"][:2]) == {1, 2}
    assert man["split"]
    assert man["f1"]["k1"] < man["f1"]["k4"] == man["f1"]["dense"] == 1
    assert row.figures["share_general"].n == 2  # man, and sad
    dog = result.details["per_label"]["dog"]
    assert (dog["general"], dog["absorption"], dog["split"], dog["recall"]) == (None, 0, False, 1)


def test_nor_is_it_when_labels_are_found_by_ranks(cell):
    result = FindLabels(activity=0.5)(cell)
    man = result.details["per_label"]["man"]
    assert (man["auroc"], man["feature"], man["num_clips"]) == (1, 0, 18)
    assert (man["recall"], man["general"]) == (pytest.approx(1 / 3), False)
    assert man["strata"]["happy"] == {"num_clips": 6, "recall": 0}
    assert result.rows[0].figures["recall"].value < 1
    assert FindLabels()(cell).details["per_label"]["man"]["general"]  # any score above 0 would do


def test_figures_say_of_what_they_are_and_which_way_is_better(cell):
    result = ProbeLabels(activity=0.5, least_clips=13)(cell)
    assert result.details["not_measured"] == ["angry", "dog", "happy", "sad", "woman"]
    figures = ProbeLabels(activity=0.5)(cell).rows[0].figures
    assert {figure.over for figure in figures.values()} == {"labels"}
    assert {name for name, figure in figures.items() if figure.better == "lower"} == {
        "absorption",
        "absorption_k1",
        "share_split",
    }
    saved = json.loads(cell.result_path("probes").read_text(encoding="utf-8"))
    assert set(saved["details"]["per_label"]) == {"angry", "dog", "happy", "man", "sad", "woman"}


def test_labels_that_only_one_split_has_enough_of_are_nothing_to_probe(cell):
    assert ProbeLabels(least_clips=30)(cell) is None
    assert not cell.result_path("probes").exists()


def test_fewer_probing_clips_are_drawn_from_many(cell, monkeypatch):
    monkeypatch.setattr("ard.evaluation.absorption.MOST_CLIPS", 50)
    assert "man" in ProbeLabels(activity=0.5)(cell).details["per_label"]


def test_nothing_is_written_without_labels(tmp_path):
    cell = make(tmp_path, labelled=False)
    assert ProbeLabels()(cell) is None
    assert FindLabels()(cell) is None
    assert not cell.result_path("probes").exists()
