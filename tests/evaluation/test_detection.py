"""The detection score on clips whose truth is known, through the callback."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from lightning import Trainer
from safetensors.torch import save_file
from torch.nn.functional import normalize

from ard.activations import ActivationDataModule, write_parquet
from ard.activations.store import write_manifest, write_shard
from ard.evaluation import DetectConcepts
from ard.results import Result
from ard.sae import Encoding

NAMES = ["dog", None, "rain", "bell", "siren"]
FEATURES = [0, 1, 2, 3, 5]  # of 8; 5 never fires


class Space:
    """A CLAP whose texts are the axes: dog the first, rain the third, and so on."""

    name = "space"

    def text(self, texts):
        return torch.eye(8)[[{"dog": 0, "rain": 2, "bell": 3, "siren": 5}[text] for text in texts]]


def extraction(folder, strength):
    """Activations whose coordinate k is how strongly clip by clip sound k is heard."""
    about = {"model": "none", "layers": [0], "dtype": "float32"}
    clips = [
        ({"id": f"{folder.name}-{n}", "num_tokens": 3}, {0: x.expand(3, 8).contiguous()})
        for n, x in enumerate(strength)
    ]
    write_shard(folder, 0, clips, [], about)
    write_manifest(folder, 1, 8, about)
    return folder


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Five selected raw coordinates, four of them named, and what CLAP hears of the clips."""
    rng = torch.Generator().manual_seed(0)
    probe, heard = torch.rand(40, 8, generator=rng), torch.rand(60, 8, generator=rng)
    for strength in (probe, heard):
        strength[:, 5] = 0
        strength[strength < 0.5] = 0
    activations, evaluation = extraction(tmp_path / "probe", probe), extraction(tmp_path / "eval", heard)
    tops = probe.argsort(dim=0, descending=True)[:4].T.contiguous()
    tops[5] = tops[3]
    weakest = probe.gather(0, tops.T).T.contiguous()
    save_file({"ard/top_scores": weakest}, tmp_path / "representatives.safetensors")
    features = torch.tensor(FEATURES)
    selection = {"ard/0/features": features, "ard/0/m": torch.ones(5), "ard/0/top_ids": tops[features]}
    save_file(
        {name: tensor.contiguous() for name, tensor in selection.items()}, tmp_path / "monosemanticity.safetensors"
    )
    write_parquet([{"scorer": "ard", "draw": 0, "name": name} for name in NAMES], tmp_path / "names.parquet")
    write_parquet([{"feature": feature, "name": "x"} for feature in range(8)], tmp_path / "concepts.parquet")
    spaces = {"probe": normalize(probe + 1e-3, dim=1), "eval": normalize(heard + 1e-3, dim=1)}
    monkeypatch.setattr("ard.evaluation.detection.load_clap", lambda *_, **__: Space())
    monkeypatch.setattr("ard.evaluation.detection.embed_clips", lambda _, audio, *__: spaces[audio.name])

    def run(evaluation_set, **settings):
        data = ActivationDataModule(activations, layer=0, evaluation=evaluation if evaluation_set else None)
        audio = tmp_path / ("eval" if evaluation_set else "probe")
        callback = DetectConcepts(tmp_path, audio=audio, embeddings=tmp_path / "none", **settings)
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
        Trainer(callbacks=[callback], enable_checkpointing=False, **quiet).test(
            Encoding("poly", 8), datamodule=data, verbose=False
        )
        return Result.load(tmp_path / "detection.json"), pq.read_table(tmp_path / "concepts.parquet").to_pylist()

    return SimpleNamespace(run=run, probe=probe, heard=heard, tops=tops, folder=tmp_path)


def test_names_that_are_true_find_their_clips_and_shuffled_ones_do_not(stage):
    result, concepts = stage.run(True)
    own, shuffled = (row.figures["auroc"] for row in result.rows)
    assert [row.method for row in result.rows] == ["Poly. Feats.", "Poly. Feats., names shuffled"]
    assert own.value == 1
    assert shuffled.value < 0.8
    assert own.n == shuffled.n == 3
    expected = {"num_clips": 60, "num_concepts": 5, "num_without_name": 1, "num_fire_never_or_always": 1}
    assert result.details == expected
    assert [concept["detection"] for concept in concepts[:4:2]] == [1, 1]
    for feature in (1, 4, 5, 6, 7):
        assert math.isnan(concepts[feature]["detection"])
    for feature in FEATURES:
        assert concepts[feature]["n_active_unseen"] == int((stage.heard[:, feature] > 0).sum())
    assert concepts[4]["n_active_unseen"] is None


def test_without_an_evaluation_set_the_clips_that_made_names_are_left_out(stage):
    result, concepts = stage.run(False)
    seen = set(stage.tops[FEATURES].flatten().tolist())
    unseen = [row for row in range(40) if row not in seen]
    assert result.details["num_clips"] == len(unseen) < 40
    assert concepts[2]["n_active_unseen"] == int((stage.probe[unseen, 2] > 0).sum())
    assert result.choices["clips"].startswith("clips of the probing set")


def test_a_feature_fires_from_a_share_of_the_weakest_clip_on(stage):
    _, concepts = stage.run(True, activity=0.9)
    least = 0.9 * float(stage.probe[stage.tops[0][-1], 0])
    assert concepts[0]["n_active_unseen"] == int((stage.heard[:, 0] >= least).sum())
    assert 0 < concepts[0]["n_active_unseen"] < int((stage.heard[:, 0] > 0).sum())


def test_without_a_name_there_is_nothing_to_detect(stage):
    rows = [{"scorer": "ard", "draw": 0, "name": None} for _ in NAMES]
    write_parquet(rows, stage.folder / "names.parquet")
    result, _ = stage.run(True)
    assert [row.figures["auroc"].n for row in result.rows] == [0, 0]
    assert (
        json.loads((stage.folder / "detection.json").read_text(encoding="utf-8"))["rows"][0]["figures"]["auroc"][
            "value"
        ]
        is None
    )


@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_shuffled_name_is_another_concepts(count, tmp_path):
    shuffled = DetectConcepts(tmp_path, audio=tmp_path, embeddings=tmp_path)._shuffled(count)
    assert sorted(shuffled) == list(range(count))
    assert count == 1 or not (shuffled == np.arange(count)).any()
