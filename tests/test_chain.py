import csv

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, WandbLogger

from ard.activations.store import write_manifest, write_shard
from ard.chain import Chain, log_tables
from ard.reports import build_tables
from ard.results import Result
from ard.sae import TopKSAE
from ard.study import FILE, Concept, Store
from tests.reports.conftest import write_about, write_results


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


@pytest.fixture
def tables(tmp_path):
    """The tables of a run with results."""
    write_about(tmp_path)
    write_results(tmp_path)
    return build_tables(tmp_path)


def test_any_logger_takes_the_tables(tables, tmp_path):
    logger = CSVLogger(tmp_path / "logs")
    log_tables(logger, tables)
    logger.save()
    with open(logger.experiment.metrics_file_path, encoding="utf-8") as file:
        logged = next(csv.DictReader(file))
    assert float(logged["table1/AR&D/l3/e8/f1"]) == 0.5
    assert float(logged["table4/Poly. Feats./l2/ms"]) == 2
    assert float(logged["table3/AR&D/l3/e8/sad-happy/sensitivity"]) == 0.5


def test_wandb_gets_tables(tables, monkeypatch):
    logged = {}
    monkeypatch.setattr(WandbLogger, "__init__", lambda self: None)
    monkeypatch.setattr(
        WandbLogger, "log_table", lambda self, key, columns, data: logged.update({key: (columns, data)})
    )
    log_tables(WandbLogger(), tables)
    columns, data = logged["table1"]
    assert dict(zip(columns, data[-1], strict=True))["paper_f1"] == 0.6
    assert np.shape(data) == (5, len(columns))
    assert set(logged) == {"table1", "table3", "table4"}
