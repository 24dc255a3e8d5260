import pytest
import torch

from ard.activations.store import write_manifest, write_shard
from ard.chain import Chain
from ard.results import Result
from ard.sae import TopKSAE
from ard.study import FILE, Concept, Store


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


def test_table_2_scores_a_study_that_somebody_answered(tmp_path, facts, tiny_clap, capsys):
    chain = Chain("demo", {"out": str(tmp_path / "run"), "clap": tiny_clap, "expansion": 2, **facts})
    chain.score_study()  # there is none
    concept = Concept("a1", "AR&D", 0, 2, 7, "a dog barking", ("c0", "c1"), ("a dog", "a dog barks"))
    store = Store.create(chain.out / FILE, [concept], seed=0)
    chain.score_study()  # nobody answered
    result = chain.out / "layer-0" / "e2" / "study.json"
    assert not result.exists()
    anna = store.join("Anna")
    store.label(anna, concept, "a dog")
    store.rate(anna, concept, 4)
    chain.score_study()
    (row,) = Result.load(result).rows
    assert (row.method, row.figures["expert_score"].value) == ("AR&D", 4)
    assert capsys.readouterr().err.count("study: ") == 1
