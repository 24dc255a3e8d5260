"""Readings of the scores and rules for ties are options of the evaluators, and do what they say."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from ard.activations.layer import read_layer
from ard.cli import main
from ard.results import Result
from ard.sae import TopKSAE
from tests.stages import apart, extract, write_scoring

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tiny_audiollm, tiny_clap, tiny_roberta, tmp_path_factory):
    """A run's folder with activations and an SAE."""
    out = tmp_path_factory.mktemp("run")
    extract(out, tiny_audiollm, tiny_clap, tiny_roberta)("fit", "fit", "--trainer.max_steps=30")
    return out


def scored(run, clap, folder, retrieve=(), score=()):
    """Score the SAE of a run with other settings of the two evaluators, into a cell of its own."""
    cell = apart(run, folder)
    shutil.copytree(run / "layer-2" / "e2" / "sae", cell.sae)
    facts = {"out": run, "cell": cell.folder, "clap": clap, "d_in": 32, "layer": 2, "expansion": 2}
    given = (f"--run.{name}={value}" for name, value in facts.items())
    main(["test", "--config", write_scoring(folder, retrieve, score), *given])
    return cell.folder


def test_readings_and_tie_rules_are_options(run, tiny_clap, tmp_path):
    reading = {"reading": {"sigma": "trace", "pairs": "ordered"}, "num_null_draws": 100, "false_discovery_rate": 0.5}
    cell = scored(run, tiny_clap, tmp_path / "run", {"ties": "shared_random", "tie_seed": 5}, reading)
    result = Result.load(cell / "monosemanticity.json")
    expected = {"sigma": "trace", "pairs": "ordered", "ddof": 0, "ties": "shared_random", "tie_seed": "5"}
    assert expected.items() <= result.choices.items()
    assert result.choices["num_null_draws"] == 100


def test_the_readings_of_random_representatives_are_options(run, tiny_clap, tmp_path, capsys):
    cell = scored(run, tiny_clap, tmp_path / "run", {"num_random": 3}, {"random_from": "active", "num_draws": 3})
    drawn = load_file(cell / "monosemanticity.safetensors")
    features = drawn["ard/0/features"]
    active = {f: set(clips) for f, clips in enumerate(active_clips(run))}
    for draw in range(3):
        for feature, clips in zip(features.tolist(), drawn[f"random/{draw}/top_ids"].tolist(), strict=True):
            assert len(set(clips) & active[feature]) == min(4, len(active[feature]))
    assert Result.load(cell / "monosemanticity.json").choices["random_from"] == "active"
    kept = {draw: drawn[f"random/{draw}/m"] for draw in range(3)}
    lowest = {"random_from": "active", "num_draws": 3, "random_lowest": True}
    cell = scored(run, tiny_clap, tmp_path / "lowest", {"num_random": 3}, lowest)
    again = load_file(cell / "monosemanticity.safetensors")
    assert torch.equal(again["random/0/top_ids"], drawn["random/0/top_ids"])
    assert not torch.equal(again["random/0/m"], kept[0])
    with pytest.raises(SystemExit, match="2"):
        scored(run, tiny_clap, tmp_path / "refused", {}, {"random_from": "active"})
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "random_from 'active' needs 10 draws from retrieval, and there are 0: give RetrieveRepresentatives num_" in said
    )


def active_clips(run):
    """The clips in which each feature of the run's SAE is active, by the definition."""
    sae = TopKSAE.from_pretrained(run / "layer-2" / "e2" / "sae")
    clips = [x.float() for _, xs in read_layer(run / "activations", 2).read() for x in xs]
    with torch.no_grad():
        codes = [sae.encode(x) for x in clips]
    return [
        [row for row, (values, indices) in enumerate(codes) if (values[indices == feature] > 0).any()]
        for feature in range(sae.d_sae)
    ]


def test_ties_by_pre_activations_take_the_clips_that_are_furthest_from_being_active(run, tiny_clap, tmp_path):
    found = load_file(scored(run, tiny_clap, tmp_path / "run", {"ties": "preact"}) / "representatives.safetensors")
    sae = TopKSAE.from_pretrained(run / "layer-2" / "e2" / "sae")
    clips = [x.float() for _, xs in read_layer(run / "activations", 2).read() for x in xs]
    with torch.no_grad():
        means = torch.stack([sae.pre_activations(x).mean(dim=0) for x in clips])
    dead = (found["n_active"] == 0).nonzero()[:, 0]
    assert len(dead)
    assert torch.equal(found["ard/bottom_ids"][dead], means[:, dead].argsort(dim=0)[:4].T)
    assert torch.equal(found["ard/top_ids"][dead], means[:, dead].argsort(dim=0, descending=True)[:4].T)
