from itertools import combinations

import pytest
import torch
import torch.distributed as dist

from ard.monosemanticity import WeightedMonosemanticity
from ard.monosemanticity.metric import SilentFeatures
from tests.launch import on_ranks

CLIPS, FEATURES, D = 23, 7, 5


def world(signed):
    """Sparse activations with doubles, a dead feature, one active on one clip, on two, and on all; embeddings."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(-3 if signed else 0, 4, (CLIPS, FEATURES), generator=generator).double()
    a *= torch.rand(CLIPS, FEATURES, generator=generator) < 0.4
    a[:, 0] = 0
    a[:, 1] = 0
    a[4, 1] = 2.5
    a[:, 2] = 0
    a[[3, 9], 2] = torch.tensor([1e-6, 3.0], dtype=torch.float64)
    a[:, 3] = 1 + torch.rand(CLIPS, generator=generator)
    return a, torch.nn.functional.normalize(torch.randn(CLIPS, D, generator=generator).double(), dim=-1)


def brute(a, e):
    """The definition: activations brought to [0, 1], and every pair of clips."""
    scores = []
    for feature in range(FEATURES):
        spread = a[:, feature].max() - a[:, feature].min()
        b = (a[:, feature] - a[:, feature].min()) / spread
        weights = [(float(b[i] * b[j]), float(e[i] @ e[j])) for i, j in combinations(range(CLIPS), 2)]
        total = sum(w for w, _ in weights)
        scores.append(sum(w * cosine for w, cosine in weights) / total if total > 0 else torch.nan)
    return torch.tensor(scores, dtype=torch.float64)


def run(clips, step, signed):
    a, e = world(signed)
    metric = WeightedMonosemanticity(FEATURES, D)
    for part in clips.split(step):
        metric.update(a[part], e[part])
    return metric


def check(metric, signed=False):
    expected = brute(*world(signed))
    assert expected[:2].isnan().all()
    assert not expected[2:].isnan().any()
    torch.testing.assert_close(metric.compute(), expected, equal_nan=True, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("step", [1, 4, CLIPS])
def test_equals_the_sum_over_all_pairs_in_any_order(step, signed):
    check(run(torch.randperm(CLIPS, generator=torch.Generator().manual_seed(step)), step, signed), signed)


def test_partial_runs_merge():
    first, *others = (run(torch.arange(i, CLIPS, 3), 2, False) for i in range(3))
    for other in others:
        first.merge_state(other)
    check(first)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_without_clips_every_feature_is_nan():
    assert WeightedMonosemanticity(FEATURES, D).compute().isnan().all()


NOTED = torch.tensor([[20, 3, 7], [3, 22, 0]])  # of orders


def note(clips, step, num_features=FEATURES):
    silent = torch.rand(CLIPS, num_features, generator=torch.Generator().manual_seed(0)) < 0.5
    metric = SilentFeatures(num_features, NOTED)
    for part in clips.split(step):
        metric.update(silent[part], part)
    return metric, silent


def check_noted(metric, silent):
    noted = metric.compute()
    assert noted.rows.tolist() == [0, 3, 7, 20, 22]
    for rows in NOTED:
        assert torch.equal(noted.silent(rows), silent[rows])


@pytest.mark.parametrize("num_features", [1, 7, 8, 17])
@pytest.mark.parametrize("step", [1, 4, CLIPS])
def test_silent_features_are_noted_for_some_clips_in_any_order(step, num_features):
    order = torch.randperm(CLIPS, generator=torch.Generator().manual_seed(step))
    metric, silent = note(order, step, num_features)
    check_noted(metric, silent)
    assert metric.bits.nbytes == 5 * -(-num_features // 8)


def _rank(rank, world_size, path):
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=world_size)
    check(run(torch.arange(rank, CLIPS, world_size), 2, False))
    check_noted(*note(torch.arange(rank, CLIPS, world_size), 2))
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_agree_with_a_single_process(world_size, tmp_path):
    on_ranks(_rank, world_size, tmp_path / "rendezvous")
