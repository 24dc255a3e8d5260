import pytest
import torch

from ard.activations.store import write_manifest, write_shard
from ard.chain import Chain
from ard.sae import TopKSAE
from ard.types import UserError


@pytest.fixture
def facts(tmp_path):
    """The facts of a run whose activations are there: one layer of 40 clips of 50 tokens."""
    about = {"model": "none", "layers": [0], "dtype": "float32"}
    clips = [({"id": f"c{n}", "num_tokens": 50}, {0: torch.randn(50, 16)}) for n in range(40)]
    write_shard(tmp_path / "activations", 0, clips, [], about)
    write_manifest(tmp_path / "activations", 1, 16, about)
    settings = {"activations": str(tmp_path / "activations"), "evaluation": None}
    return {**settings, "d_in": 16, "k": 2, "layers": [0], "layer": 0}


def test_the_expansions_of_a_layer_are_trained_together_and_each_is_what_it_is_alone(tmp_path, facts, capsys):
    together = Chain("demo", {"out": str(tmp_path / "together"), **facts})
    together.train(0, [2, 4])
    together.train(0, [2, 4])  # which is done
    assert capsys.readouterr().err.count("SAE: layer 0, expansion 2, 4") == 1
    alone = Chain("demo", {"out": str(tmp_path / "alone"), **facts})
    runs = ("together", "alone")
    for expansion in (2, 4):
        alone.train(0, [expansion])
        weights = [tmp_path / run / f"layer-0/e{expansion}/sae/sae_weights.safetensors" for run in runs]
        assert weights[0].read_bytes() == weights[1].read_bytes()
        kept = [TopKSAE.from_pretrained(tmp_path / run / f"layer-0/e{expansion}/sae").metadata for run in runs]
        assert kept[0]["metrics"] == kept[1]["metrics"]
        assert 0 < kept[0]["metrics"]["fvu"] < 1
        assert (kept[0]["model_name"], kept[0]["layer"]) == ("none", 0)
        assert kept[0]["metrics_on"] == "the clips that it was trained on"
    assert len(list((tmp_path / "alone" / "wandb").glob("offline-run-*"))) == 2  # one for each training


def test_table_3_says_which_clips_are_missing_and_how_to_get_them(tmp_path):
    chain = Chain("paper", {"out": str(tmp_path / "run")})
    with pytest.raises(UserError) as raised:
        chain.table(3)
    said = str(raised.value)
    for task in ("iemocap-emotion", "voxceleb1-gender"):
        folder = tmp_path / "run" / "audio" / task
        assert f"`ard shards audiobench --task {task} --out {folder}`" in said
    assert "\n" not in said
