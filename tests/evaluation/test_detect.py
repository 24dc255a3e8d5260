"""The detection score on clips whose truth is known, by the evaluator alone."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from ard.evaluation import DetectConcepts
from ard.probing import KeepScores
from ard.run import Run
from tests.stores import write_activations

NAMES = ["dog", None, "rain", "bell", "siren"]
FEATURES = [0, 1, 2, 3, 5]  # of 8; 5 never fires


class Space:
    """A CLAP whose texts are the axes: dog the first, rain the third, and so on."""

    name = "space"

    def text(self, texts):
        return torch.eye(8)[[{"dog": 0, "rain": 2, "bell": 3, "siren": 5}[text] for text in texts]]


def extract(folder, strength):
    """Write activations whose coordinate k is how strongly clip by clip sound k is heard."""
    heard = [x.expand(3, 8).contiguous() for x in strength]
    write_activations(folder, [({"id": f"{folder.name}-{n}"}, x) for n, x in enumerate(heard)])


def write_names(cell, names):
    cell.save_rows("names", [{"scorer": "ard", "draw": 0, "name": name} for name in names])


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Five selected raw coordinates, four of them named, and what CLAP hears of the clips."""
    rng = torch.Generator().manual_seed(0)
    probe, heard = torch.rand(40, 8, generator=rng), torch.rand(60, 8, generator=rng)
    for strength in (probe, heard):
        strength[:, 5] = 0
        strength[strength < 0.5] = 0
    run = Run(tmp_path)
    extract(run.activations("probe"), probe)
    tops = probe.argsort(dim=0, descending=True)[:4].T.contiguous()
    tops[5] = tops[3]
    features = torch.tensor(FEATURES)
    spaces = {"probe": normalize(probe + 1e-3, dim=1), "eval": normalize(heard + 1e-3, dim=1)}
    monkeypatch.setattr(DetectConcepts, "clap", lambda self: Space())
    monkeypatch.setattr(DetectConcepts, "embeddings", lambda self, cell, split: spaces[split])

    def detect(evaluation_set, names=NAMES, **settings):
        if evaluation_set:
            extract(run.activations("eval"), heard)
        cell = run.cell(0, None)
        cell.save_tensors("representatives", {"ard/top_scores": probe.gather(0, tops.T).T})
        selection = {"ard/0/features": features, "ard/0/m": torch.ones(5), "ard/0/top_ids": tops[features]}
        cell.save_tensors("selections", selection)
        write_names(cell, names)
        KeepScores()(cell)
        result = DetectConcepts(**settings)(cell)
        return result, {row["feature"]: row for row in cell.rows("detection")}

    return SimpleNamespace(detect=detect, probe=probe, heard=heard, tops=tops, cell=run.cell(0, None))


def test_names_that_are_true_find_their_clips_and_shuffled_ones_do_not(stage):
    result, concepts = stage.detect(True)
    own, shuffled = (row.figures["auroc"] for row in result.rows)
    assert [row.method for row in result.rows] == ["Poly. Feats.", "Poly. Feats., names shuffled"]
    assert own.value == 1
    assert shuffled.value < 0.8
    assert own.n == shuffled.n == 3
    assert result.rows[0].figures["auroc_all"].value == pytest.approx((3 * 1 + 0.5) / 4)  # the siren fires nowhere
    assert result.rows[0].figures["auroc_all"].n == 4
    expected = {"num_clips": 60, "num_concepts": 5, "num_without_name": 1, "num_fire_never_or_always": 1}
    assert result.details == expected
    assert list(concepts) == FEATURES
    assert [concepts[feature]["detection"] for feature in (0, 2)] == [1, 1]
    for feature in (1, 5):
        assert math.isnan(concepts[feature]["detection"])
    for feature in FEATURES:
        assert concepts[feature]["n_active_unseen"] == int((stage.heard[:, feature] > 0).sum())


def test_without_an_evaluation_set_the_clips_that_made_names_are_left_out(stage):
    result, concepts = stage.detect(False)
    seen = set(stage.tops[FEATURES].flatten().tolist())
    unseen = [row for row in range(40) if row not in seen]
    assert result.details["num_clips"] == len(unseen) < 40
    assert concepts[2]["n_active_unseen"] == int((stage.probe[unseen, 2] > 0).sum())
    assert result.choices["clips"].startswith("clips of the probing set")


def test_a_feature_fires_from_a_share_of_the_weakest_clip_on(stage):
    _, concepts = stage.detect(True, activity=0.9)
    least = 0.9 * float(stage.probe[stage.tops[0][-1], 0])
    assert concepts[0]["n_active_unseen"] == int((stage.heard[:, 0] >= least).sum())
    assert 0 < concepts[0]["n_active_unseen"] < int((stage.heard[:, 0] > 0).sum())


def test_without_a_name_there_is_nothing_to_detect(stage):
    result, _ = stage.detect(True, names=[None] * len(NAMES))
    assert [row.figures["auroc"].n for row in result.rows] == [0, 0]
    saved = json.loads(stage.cell.result_path("detection").read_text(encoding="utf-8"))
    assert saved["rows"][0]["figures"]["auroc"]["value"] is None


@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_shuffled_name_is_another_concepts(count):
    shuffled = DetectConcepts()._shuffled(count)
    assert sorted(shuffled) == list(range(count))
    assert count == 1 or not (shuffled == np.arange(count)).any()
