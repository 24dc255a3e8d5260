"""Trained and untrained SAEs are measured by the same code, and F1 on clips that names were not made of."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ard.evaluation import shared_label
from ard.results import unsealed
from ard.sae import TopKSAE
from experiments.training import __main__ as command
from experiments.training import measure, measured, settings
from tests.stores import write_activations

NUM_CLIPS, NUM_TOKENS, D_IN, NUM_KINDS = 64, 6, 8, 4
KINDS = np.arange(NUM_CLIPS) % NUM_KINDS
SMALL = settings.Setting(2, expansion=2, steps=30)


def write_clips(folder):
    """Write clips of four kinds, each a direction of its own."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.eye(D_IN)[:NUM_KINDS]
    x = 4 * directions[KINDS][:, None] + 0.3 * torch.randn(NUM_CLIPS, NUM_TOKENS, D_IN, generator=generator)
    known = [{"id": f"c{i}", "labels": [f"kind {kind}"]} for i, kind in enumerate(KINDS)]
    write_activations(folder, zip(known, x.bfloat16(), strict=True), layer=1)
    noise = 0.2 * torch.randn(NUM_CLIPS, D_IN, generator=generator)
    save_file({"embeddings": directions[KINDS] + noise}, folder.parent / "embeddings.safetensors")
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("clips") / "activations")


@pytest.fixture(scope="module")
def data(clips):
    return measure.read_data(clips, 1, None, str(clips.parent / "embeddings.safetensors"), 4)[0]


def perfect(scale=1.0):
    """An SAE with a feature for each kind, and twelve that are never active."""
    sae = TopKSAE(D_IN, 2 * D_IN, k=1)
    with torch.no_grad():
        sae.W_dec.copy_(torch.cat([torch.eye(D_IN), torch.eye(D_IN)]) * scale)
        sae.W_enc.copy_(sae.W_dec.T)
        sae.b_enc[NUM_KINDS:] = -100
    return sae


def test_the_majority_label_is_shared_label():
    rng = np.random.default_rng(0)
    labels = rng.random((30, 6)) < 0.4
    top = np.array([rng.permutation(30)[:4] for _ in range(200)])
    words = [[f"l{i}" for i in row.nonzero()[0]] for row in labels]
    frequency = {f"l{i}": int(number) for i, number in enumerate(labels.sum(axis=0))}
    expected = [shared_label([words[row] for row in rows], frequency) for rows in top]
    found = measure.majority_labels(top, labels, labels.sum(axis=0))
    assert [None if label < 0 else f"l{label}" for label in found] == expected
    assert {None, "l0"} < set(expected)


def test_features_that_are_the_labels_have_an_f1_of_1(data):
    good = measure.measure(perfect(), data)
    assert [split["f1"] for split in good["splits"]] == pytest.approx([1.0] * measure.NUM_SPLITS, abs=0.12)
    assert all(split["num_live"] == NUM_KINDS for split in good["splits"])
    assert all(split["feature_auroc"] > 0.99 for split in good["splits"])
    assert good["l0"] == pytest.approx(1.0)
    assert good["fvu"] < 0.1 < measure.encode(measure.untrained(perfect(), 0), data).fvu


def test_the_other_halfs_labels_choose_nothing(data):
    """Whatever labels and embeddings the other half has, names, thresholds and choices stay."""
    encoded, halves = measure.encode(perfect(), data), measure.split_halves(NUM_CLIPS, 0)
    labels, embeddings = data.labels.copy(), data.embeddings.clone()
    labels[halves.other] = ~labels[halves.other]
    embeddings[halves.other] = embeddings[halves.other].flip(0)
    other = data._replace(labels=labels, embeddings=embeddings)
    before, after = (measure.name(encoded, of, halves.named) for of in (data, other))
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    split = measure.measure_split(encoded, other, halves, 0)
    same = measure.measure_split(encoded, data, halves, 0)
    assert split["quantile"] == same["quantile"]
    assert split["mean"] == same["mean"]
    assert split["f1"] < 0.6 < same["f1"]


def test_halves_and_quarters_share_no_clip():
    halves = measure.split_halves(21, 3)
    assert sorted([*halves.named, *halves.other]) == list(range(21))
    assert sorted(np.concatenate(halves.quarters)) == sorted(halves.named)


def test_coherence_is_the_mean_cosine_of_pairs(data):
    rows = torch.tensor([[0, 1, 5], [2, 6, 10]])
    expected = [
        np.mean([float(data.embeddings[a] @ data.embeddings[b]) for i, a in enumerate(r) for b in r[i + 1 :]])
        for r in rows.tolist()
    ]
    assert measure.pairs_mean(data.embeddings, rows).tolist() == pytest.approx(expected, abs=1e-6)


def test_the_control_is_random_but_for_k_and_b_dec():
    sae = TopKSAE(D_IN, 2 * D_IN, k=3, pre_bias=True)
    with torch.no_grad():
        sae.b_dec.fill_(0.5)
    control = measure.untrained(sae, 0)
    assert (control.k, control.pre_bias) == (3, True)
    assert torch.equal(control.b_dec, sae.b_dec)
    assert torch.equal(control.W_enc, control.W_dec.T)
    assert not torch.equal(control.W_dec, measure.untrained(sae, 1).W_dec)


def test_intervals_grow_for_splits_that_overlap():
    values = np.array([0.1, 0.2, 0.3, 0.2, 0.2])
    found = measured.estimate(values)
    assert found.value == pytest.approx(0.2)
    assert found.high - 0.2 == pytest.approx(2.776 * values.std(ddof=1) * math.sqrt(1.2), rel=1e-3)


def test_rank_correlation_leaves_out_what_is_no_number():
    assert measure.rank_correlation(np.array([1, 2, np.nan, 3]), np.array([1.0, 4, 0, 9])) == pytest.approx(1)
    assert math.isnan(measure.rank_correlation(np.ones(4), np.arange(4)))


def test_a_variation_is_compared_with_the_setting_that_lacks_it():
    longer = SMALL._replace(steps=90)
    varied = SMALL._replace(batch_top_k=True)
    assert varied.without({SMALL, longer}) == [("BatchTopK", SMALL)]
    assert longer.without({SMALL, longer}) == [("90 steps", SMALL)]
    assert SMALL.without({SMALL, longer}) == []


@pytest.mark.slow
def test_a_grid_is_trained_measured_and_shown_and_nothing_is_done_twice(clips, tmp_path, monkeypatch):
    varied = [SMALL, SMALL._replace(k=3), SMALL._replace(anneal_from=8), SMALL._replace(batch_top_k=True)]
    grid = [*((setting, 0) for setting in varied), (SMALL, 1), (SMALL._replace(k=3), 1)]
    monkeypatch.setitem(settings.GRIDS, "demo", lambda: grid)
    monkeypatch.setattr(measure, "NUM_CHANCE_DRAWS", 200)
    embeddings = str(clips.parent / "embeddings.safetensors")
    common = ["--activations", str(clips), "--layer", "1", "--embeddings", embeddings, "--num-selected", "4"]
    command.main(["run", "--grid", "demo", *common, "--work", str(tmp_path / "toy")])
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name != "data.json"}
    command.main(["run", "--grid", "demo", *common, "--work", str(tmp_path / "toy")])
    assert all(path.stat().st_mtime_ns == when for path, when in files.items() if path.is_file())
    command.main(["table", str(tmp_path / "toy"), "--out", str(tmp_path)])
    page = (tmp_path / "training.md").read_text(encoding="utf-8")
    assert "| K 2, e 2, 30 steps, robust | 2 |" in page
    assert "| BatchTopK | K 2, e 2, 30 steps, robust |" in page
    assert "| K (e 2, 30 steps) |" in page
    kept = unsealed((tmp_path / "training.json").read_bytes())
    assert len(kept["data"]["toy"]["settings"]) == 4
    json.dumps(kept, allow_nan=False)
