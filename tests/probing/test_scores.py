"""Sparse scores against dense ones, and their collection over batches and ranks."""

import numpy as np
import pytest
import torch
import torch.distributed as dist

from ard.probing import SCORERS, ClipScores, SparseScores, read_scores
from ard.probing.scores import CollectScores
from ard.run import Run
from tests.launch import on_ranks

CLIPS, FEATURES = 23, 11


def dense_scores(seed=0):
    """Scores [scorers, clips, features], of which most are 0; clip 4 and feature 6 are silent, some are negative."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(len(SCORERS), CLIPS, FEATURES, generator=generator)
    active = torch.rand(CLIPS, FEATURES, generator=generator) < 0.3
    active[4], active[:, 6] = False, False
    return scores * active


def sparse(dense):
    clips, features = dense[0].nonzero(as_tuple=True)
    values = dense[:, clips, features].T.contiguous()
    return SparseScores(clips.int(), features.int(), values, CLIPS, FEATURES)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scorer", SCORERS)
def test_a_few_features_of_a_few_clips_are_those_of_the_dense_scores(scorer, seed):
    generator = torch.Generator().manual_seed(seed)
    dense = dense_scores(seed)
    expected, scores = dense[SCORERS.index(scorer)], sparse(dense)
    features = torch.randperm(FEATURES, generator=generator)[:5]
    clips = torch.randperm(CLIPS, generator=generator)[:9].sort().values
    assert torch.equal(scores.dense(scorer, features), expected[:, features])
    assert torch.equal(scores.among(clips).dense(scorer, features), expected[clips][:, features])
    nothing = torch.empty(0, dtype=torch.int64)
    assert scores.among(nothing).dense(scorer, features).shape == (0, 5)
    assert scores.dense(scorer, nothing).shape == (CLIPS, 0)
    of_clips, columns, values = scores.of(scorer, features)
    entries = set(zip(of_clips.tolist(), columns.tolist(), values.tolist(), strict=True))
    where = expected[:, features].nonzero().tolist()
    assert entries == {(clip, column, float(expected[clip, features[column]])) for clip, column in where}


def collected(dense, rows, step, kept=None):
    """Collect the scores of some clips, a few at a time."""
    metric = CollectScores()
    kept = torch.ones(CLIPS, dtype=torch.bool) if kept is None else kept
    for part in rows.split(step):
        metric.update(ClipScores(*dense[:, part].double()), part, kept[part])
    return metric


def check(metric, dense, kept=None):
    expected = dense if kept is None else dense * kept[:, None]
    found = metric.compute()
    rows, features = expected[1].nonzero(as_tuple=True)
    assert torch.equal(found["rows"].long(), rows)
    for row in rows.unique():  # within a clip the order is that of the features
        of_clip = found["rows"] == row
        assert torch.equal(found["features"][of_clip].long(), features[rows == row])
    assert torch.equal(found["values"], expected[:, rows, features].T)


@pytest.mark.parametrize("step", [1, 4, CLIPS])
def test_any_order_and_batch_size_gives_the_same_entries(step):
    dense = dense_scores()
    order = torch.randperm(CLIPS, generator=torch.Generator().manual_seed(step))
    check(collected(dense, order, step), dense)
    kept = torch.arange(CLIPS) % 3 > 0
    check(collected(dense, order, step, kept), dense, kept)


def test_without_clips_there_are_no_entries():
    found = CollectScores().compute()
    assert {name: tuple(entry.shape) for name, entry in found.items()} == {
        "rows": (0,),
        "features": (0,),
        "values": (0, len(SCORERS)),
    }


def _rank(rank, world_size, path):
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=world_size)
    dense = dense_scores()
    check(collected(dense, torch.arange(rank, CLIPS, world_size), 2), dense)
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_agree_with_a_single_process(world_size, tmp_path):
    on_ranks(_rank, world_size, tmp_path / "rendezvous")


def test_kept_scores_are_read_by_split(tmp_path):
    cell, dense = Run(tmp_path).cell(3, 8), dense_scores()
    entries = collected(dense, torch.arange(CLIPS), 5).compute()
    stored = {f"eval/{name}": entry for name, entry in entries.items()}
    stored |= {"num_features": torch.tensor(FEATURES), "eval/num_clips": torch.tensor(CLIPS)}
    cell.save_tensors("scores", stored)
    assert read_scores(cell, "probe") is None
    assert torch.equal(read_scores(cell, "eval").dense("ard", torch.arange(FEATURES)), dense[0])


@pytest.mark.parametrize("seed", range(20))
def test_a_few_features_scores_are_those_of_a_scan_of_all(seed):
    rng = np.random.default_rng(seed)
    num_clips, num_features = rng.integers(1, 30), rng.integers(1, 70_000 if seed % 4 == 0 else 40)
    clips, features = np.nonzero(rng.random((num_clips, num_features)) < rng.choice([0, 0.1, 0.7]))
    values = torch.from_numpy(rng.random((len(clips), len(SCORERS)), dtype=np.float32))
    entries = torch.from_numpy(clips.astype(np.int32)), torch.from_numpy(features.astype(np.int32))
    scores = SparseScores(*entries, values, int(num_clips), int(num_features))
    chosen = torch.from_numpy(rng.permutation(num_features)[: rng.integers(0, 9)])
    column = torch.full((int(num_features),), -1)
    column[chosen] = torch.arange(len(chosen))
    kept = column[entries[1].long()] >= 0
    for number, scorer in enumerate(SCORERS):
        expected = entries[0][kept].long(), column[entries[1].long()][kept], values[kept, number]
        for found, wanted in zip(scores.of(scorer, chosen), expected, strict=True):
            assert found.dtype == wanted.dtype
            assert torch.equal(found, wanted)
        dense = torch.zeros(int(num_clips), len(chosen))
        dense[expected[0], expected[1]] = expected[2]
        assert torch.equal(scores.dense(scorer, chosen), dense)
