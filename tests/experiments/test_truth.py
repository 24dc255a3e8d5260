"""Known features fire as they should, every measure has its exact value on a toy, and the page is of its file."""

import math
import re
from itertools import permutations
from math import sqrt

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal, norm

from ard.sae import SAETraining, TopKSAE
from ard.sae.functional import fraction_of_variance_unexplained
from experiments.bench import truth as bench
from experiments.truth import __main__ as command
from experiments.truth import tables
from experiments.truth.generator import CORRELATION, Batch, Setting, World
from experiments.truth.measures import Coder, count, match, mean, measure, of_dictionary, share, true_codes
from experiments.truth.trainers import BOUNDS, OURS, TRAINERS, Size, Task, ours, tied, untrained

PLAIN = Setting(16, 16, tree_share=0, pair_share=0, noise=0, bias=0)
FAMILY = Setting(
    8, 8, exponent=2, tree_share=1 / 8, pair_share=0, noise=0, bias=0
)  # feature 0 is the parent of 2, 3, 4, 5


@pytest.mark.parametrize("setting", [Setting(), Setting(24, 96)], ids=["128 wide", "24 wide"])
def test_features_fire_by_zipfs_law_in_trees_and_in_pairs(setting):
    world, num_batches, num_tokens = World(setting, 1), 40, 500
    num, size = num_batches * num_tokens, len(world.frequency)
    joint = torch.zeros(size, size)
    for number in range(num_batches):
        batch = world.batch(number, num_tokens)
        assert batch.x.shape == (num_tokens, setting.width)
        fires = (batch.activations > 0).float()
        joint += fires.T @ fires
        child = (world.parent >= 0).nonzero().flatten()
        assert (fires[:, child] <= fires[:, world.parent[child]]).all()
        assert fires[:, world.children].sum(dim=2).max() == 1

    def assert_share(found, expected):
        expected = torch.as_tensor(expected)
        assert ((found / num - expected).abs() <= 5 * (expected / num).sqrt()).all()

    rank = torch.arange(1, size + 1).double()
    assert_share(joint.diag(), setting.most / rank**setting.exponent)
    assert float(joint.diag().sum()) / num == pytest.approx(world.l0, rel=0.02)
    together = [
        multivariate_normal.cdf(norm.ppf(world.frequency[pair]), cov=[[1, CORRELATION], [CORRELATION, 1]])
        for pair in world.pairs
    ]
    assert len(together) >= 3
    assert_share(joint[world.pairs[:, 0], world.pairs[:, 1]], together)
    assert (torch.tensor(together) > 2 * world.frequency[world.pairs].prod(dim=1)).all()
    first, second = world.pairs[:-1, 0], world.pairs[1:, 0]  # of different pairs
    assert_share(joint[first, second], world.frequency[first] * world.frequency[second])


def test_tokens_are_the_sum_of_their_features():
    world = World(Setting(noise=0), 0)
    batch = world.batch(0, 50)
    expected = [sum(a * d for a, d in zip(of, world.directions, strict=True)) + world.bias for of in batch.activations]
    torch.testing.assert_close(batch.x, torch.stack(expected))
    noise = World(Setting(noise=0.5), 0).batch(0, 50).x - batch.x
    assert float(noise.std()) == pytest.approx(0.5, rel=0.05)
    assert float(world.bias.norm()) == pytest.approx(1)


def test_a_batch_is_made_from_its_number_alone_and_no_other_is_like_it():
    world = World(Setting(), 0)
    batch = world.batch(3, 20)
    assert torch.equal(batch.x, World(Setting(), 0).batch(3, 20).x)
    others = [world.batch(3, 20, "test"), world.batch(4, 20), World(Setting(), 1).batch(3, 20)]
    for other in others:
        assert not torch.equal(other.activations > 0, batch.activations > 0)


def test_directions_have_unit_norm_and_are_orthogonal_where_they_fit():
    for setting in (Setting(16, 16), Setting(16, 64)):
        directions = World(setting, 0).directions
        torch.testing.assert_close(directions.norm(dim=1), torch.ones(len(directions)))
    cosines = World(Setting(16, 16), 0).directions
    torch.testing.assert_close(cosines @ cosines.T, torch.eye(16), atol=1e-5, rtol=0)


@pytest.mark.parametrize("seed", range(3))
def test_no_training_starts_at_the_truth(seed):
    """Both are drawn from seeds, and an SAE that starts where it should arrive has nothing to show."""
    world = World(Setting(), seed)
    for first in (SAETraining(128, 2, seed=seed).sae, TopKSAE(128, 256, k=5)):
        cosines = first.directions() @ world.directions.T
        assert float(cosines.abs().max()) < 0.6


def test_children_that_would_fire_more_often_than_their_parent_are_refused():
    with pytest.raises(ValueError, match="raise exponent"):
        World(Setting(exponent=0.1), 0)


def test_orthogonal_directions_without_noise_give_the_oracle_everything():
    world = World(PLAIN, 0)
    world.directions = torch.eye(16)
    oracle = tied(Task(world, Size(), 16, 0))
    for coder in (oracle, true_codes(world)):
        found = measure(coder, world, 2, 500)
        assert [found[name] for name in ("num_live", "precision", "recall", "cosine")] == [16, 1, 1, 1]
        assert [found[name] for name in ("firing_precision", "firing_recall", "firing_f1", "f1")] == [1, 1, 1, 1]
        assert found["fvu"] == pytest.approx(0, abs=1e-9)
        assert found["silent"] is found["absorbed"] is found["silent_alone"] is None  # there are no trees
    assert found["l0"] == pytest.approx(world.l0, rel=0.05)
    # TopK of 1: the strongest feature alone is seen.
    one = measure(tied(Task(world, Size(), 1, 0)), world, 2, 500)
    assert (one["recall"], one["firing_precision"]) == (1, 1)
    assert one["l0"] == pytest.approx(1, abs=0.35)
    assert one["firing_recall"] < 0.7


def test_an_untrained_sae_is_at_chance():
    world = World(Setting(64, 128), 0)
    found = measure(untrained(Task(world, Size(), 4, 0)), world, 2, 500)
    assert found["recall"] == found["precision"] == 0
    assert found["firing_f1"] is None
    draws = [torch.randn(2, 128, 64, generator=torch.Generator().manual_seed(seed)) for seed in range(10)]
    units = [torch.nn.functional.normalize(drawn, dim=-1) for drawn in draws]
    chance = [float(match(a, torch.ones(128, dtype=torch.bool), b).cosine.mean()) for a, b in units]
    assert abs(found["cosine"] - np.mean(chance)) < 5 * np.std(chance)


@pytest.mark.parametrize("num_latents", [3, 4, 5])
def test_the_match_is_the_best_of_all_permutations_of_live_latents(num_latents):
    generator = torch.Generator().manual_seed(num_latents)
    directions, truth = torch.randn(num_latents, 6, generator=generator), torch.eye(6)[:4]
    live = torch.ones(num_latents, dtype=torch.bool)
    live[1] = False
    found = match(3 * directions, live, truth)
    cosines = torch.nn.functional.normalize(directions, dim=1) @ truth.T
    assert 1 not in found.latent.tolist()
    matched = (found.latent >= 0).nonzero().flatten()
    assert len(matched) == min(num_latents - 1, 4)
    torch.testing.assert_close(found.cosine[matched], cosines[found.latent[matched], matched])
    assert (found.cosine[found.latent < 0] == 0).all()
    candidates = [0, *range(2, num_latents), *[-1] * (4 - (num_latents - 1))]
    best = max(
        sum(float(cosines[latent, feature]) for feature, latent in enumerate(order) if latent >= 0)
        for order in permutations(candidates, 4)
    )
    assert float(found.cosine.sum()) == pytest.approx(best, abs=1e-6)


def test_a_direction_of_the_wrong_sign_matches_nothing():
    found = match(-torch.eye(2), torch.ones(2, dtype=torch.bool), torch.eye(2))
    assert not found.recovered.any()


def test_firing_and_absorption_by_hand():
    """Feature 0 is the parent, 2 a child whose latent has its parent's direction in it."""
    world = World(FAMILY, 0)
    assert world.children.tolist() == [[2, 3, 4, 5]]
    world.directions = torch.eye(8)
    directions = torch.eye(8)
    directions[2, 0], directions[2, 2] = sqrt(0.5), sqrt(0.5)
    # what fires in every token, and what its latents are: those of features 0, 2 and 3
    tokens = [
        ({0: 1.0, 2: 1.0}, {2: 1.5}),  # absorbed: 1.06 of the parent's 1 are written by the child's latent
        ({0: 1.0, 2: 1.0}, {0: 1.0, 2: 1.0}),
        ({0: 1.0, 2: 1.0}, {2: 0.5}),  # silent, but only .35 are written
        ({0: 1.0}, {}),  # silent, and no child is there
        ({0: 1.0}, {0: 0.5}),
        ({0: 1.0, 3: 1.0}, {0: 1.0}),
        ({}, {3: 0.1}),
    ]
    activations, z = torch.zeros(7, 8), torch.zeros(7, 8)
    for row, (true, found) in enumerate(tokens):
        for feature, value in true.items():
            activations[row, feature] = value
        for latent, value in found.items():
            z[row, latent] = value
    coder = Coder(directions, torch.zeros(8), lambda batch: z[batch.x[:, 0].long()])
    found = match(directions, torch.ones(8, dtype=torch.bool), world.directions)
    assert found.latent.tolist() == list(range(8))
    assert found.recovered.tolist() == [True, True, False, True, True, True, True, True]  # cosine .71 is not enough
    numbered = torch.arange(7.0)[:, None].expand(7, 8)
    halves = (Batch(numbered[part], activations[part]) for part in (slice(0, 3), slice(3, 7)))
    counts = count(coder, world, found, halves)
    assert counts.true.tolist() == [6, 0, 3, 1, 0, 0, 0, 0]
    assert counts.fired.tolist() == [3, 0, 3, 1, 0, 0, 0, 0]
    assert counts.both.tolist() == [3, 0, 3, 0, 0, 0, 0, 0]
    assert [part.tolist() for part in counts.absorption] == [[3, 1, 0, 0], [2, 0, 0, 0], [1, 0, 0, 0]]
    assert (counts.alone.tolist(), counts.silent_alone.tolist()) == ([2], [1])
    of = counts.absorption
    assert mean(share(of.silent, of.together)) == pytest.approx((2 / 3 + 0) / 2)
    assert mean(share(of.absorbed, of.together)) == pytest.approx((1 / 3 + 0) / 2)


def test_the_figures_of_measure_are_those_of_its_counts():
    """By brute force, over all tokens at once."""
    world = World(Setting(24, 96), 0)
    sae = TopKSAE(24, 96, k=3, generator=torch.Generator().manual_seed(5))
    sae.W_dec.data[:60], sae.W_enc.data[:, :60] = world.directions[:60], world.directions[:60].T
    coder = of_dictionary(sae)
    found = measure(coder, world, 3, 200)
    batches = [world.batch(number, 200, "test") for number in range(3)]
    x, a = (torch.cat(parts) for parts in zip(*batches, strict=True))
    z = coder.encode(Batch(x, a))
    assert found["fvu"] == pytest.approx(float(fraction_of_variance_unexplained(x, sae(x).detach())), rel=1e-4)
    assert found["l0"] == pytest.approx(float((z > 0).float().sum(dim=1).mean()))
    live = (z > 0).any(dim=0)
    assert found["num_live"] == int(live.sum())
    recovered = [i for i in range(60) if live[i]]
    assert found["recall"] == pytest.approx(len(recovered) / 96)
    assert found["precision"] == pytest.approx(len(recovered) / int(live.sum()))
    hits = [float(((z[:, i] > 0) & (a[:, i] > 0)).sum()) for i in recovered]
    fired, true = ([float((of[:, i] > 0).sum()) for i in recovered] for of in (z, a))
    assert found["firing_precision"] == pytest.approx(np.mean(np.divide(hits, fired)))
    assert found["firing_recall"] == pytest.approx(np.mean(np.divide(hits, true)))
    assert found["firing_f1"] == pytest.approx(np.mean(2 * np.array(hits) / np.add(fired, true)))
    assert len(recovered) == 60
    assert found["recall_by_decile"] == [1] * 6 + [0] * 4


def test_training_finds_what_an_untrained_sae_does_not():
    world = World(Setting(16, 16, tree_share=0, pair_share=0), 0)
    task = Task(world, Size(100), 2, 0)
    trained, floor = (measure(train(task), world, 2, 500) for train in (ours(robust=True, lr=1e-2), untrained))
    assert trained["recall"] > 0.4
    assert trained["cosine"] > floor["cosine"] + 0.1
    assert trained["f1"] > floor["f1"]
    assert trained["fvu"] < floor["fvu"]


def made_up(trainer, seed, **figures):
    zeros = dict.fromkeys([*tables.FIGURES, "recall_by_decile", "f1_by_decile"], 0.0)
    return {"trainer": trainer, "k": 4, "seed": seed, **zeros, **figures}


def test_an_option_loses_where_it_is_worse_by_more_than_the_spread_over_seeds():
    worse, mixed = (0.1, 0.2, 0.3), (0.1, 0.9, 0.5)
    rows = [made_up(tables.PAPER, seed, recall=0.5, precision=0.5, absorbed=0.2) for seed in range(3)]
    rows += [made_up("x", s, recall=worse[s], precision=mixed[s], absorbed=0.3 + s / 100, f1=0.1) for s in range(3)]
    cells = tables.Cells({"l0": 4.2, "seeds": [0, 1, 2], "cells": rows})
    assert cells.losses("x", 4) == ["recall", "absorbed"]
    assert cells.difference("x", 4, "recall") == pytest.approx((-0.3, 0.1))
    assert str(cells.difference("x", 4, "f1")) == "+0.100 ± 0.000"
    assert str(tables.Difference(math.nan, math.nan)) == "–"


def test_the_page_is_that_of_its_file():
    content = tables.read_content(command.FOLDER)
    assert tables.page(content) == (command.FOLDER / "truth.md").read_text(encoding="utf-8")
    assert {*BOUNDS, *OURS} <= {cell["trainer"] for cell in content["cells"]}
    assert len(content["seeds"]) >= 3


def test_the_docstring_says_in_what_an_option_loses():
    """In the option's own lines, the figures that the page has in bold for the true K, and no others."""
    cells = tables.Cells(tables.read_content(command.FOLDER))
    entries = dict(
        re.findall(r"^        (\w+): (.*?)(?=^        \w+: |\Z)", SAETraining.__doc__, re.DOTALL | re.MULTILINE)
    )
    for option in tables.OPTIONS:
        said = " ".join(entries[option.strip("`")].split())
        lost = [tables.FIGURES[figure] for figure in cells.losses(option, cells.ks[0])]
        words = re.findall(r"loses to the paper's objective in (.*?) \(docs/truth.md\)", said)
        assert words == ([" and ".join(lost)] if lost else []), option


@pytest.mark.slow
def test_every_trainer_runs_at_toy_size_and_what_is_finished_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "TEST_BATCHES", 1)
    arguments = ["--width", "16", "--features", "32", "--steps", "3", "--seeds", "0", "1"]
    arguments += ["--work", str(tmp_path / "work"), "--out", str(tmp_path)]
    command.main(arguments)
    content = tables.read_content(tmp_path)
    assert {cell["trainer"] for cell in content["cells"]} == set(TRAINERS)
    assert len(content["cells"]) == 2 * (len(TRAINERS) + 2 * len(OURS))
    assert all(0 <= cell["recall"] <= 1 and cell["num_live"] > 0 for cell in content["cells"])
    page = (tmp_path / "truth.md").read_text(encoding="utf-8")
    assert all(f"| {name} |" in page for name in TRAINERS)
    assert "32 features in 16 dimensions" in page
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").iterdir()}
    command.main(arguments)
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / "work").iterdir()}
    for wrong in (["--width", "16", "--features", "40"], ["--seeds", "0"]):
        with pytest.raises(SystemExit):
            command.main(wrong)
    monkeypatch.setattr(bench, "SIZE", Size(3, 64))
    lines = bench.main()
    assert [line.what for line in lines] == [f"{name}: recall of directions" for name in TRAINERS]
    assert lines[0].value == 0
    assert lines[-1].note.endswith("ms of CPU time a step")
