import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ard.representatives import SCORERS, RepresentativeClips, clip_scores
from ard.representatives.functional import tie_keys
from ard.types import Codes

FEATURES, P, CLIPS, K = 12, 3, 25, 3
FS = range(FEATURES)


def world(seed=0):
    """Clips of one to six tokens with few distinct activations, so that many scores are equal."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 7, (CLIPS,), generator=generator)
    num_tokens = int(lengths.sum())
    indices = torch.rand(num_tokens, FEATURES - 2, generator=generator).argsort(dim=1)[:, :K]  # the last two are dead
    values = torch.randint(0, 3, (num_tokens, K), generator=generator).float()
    return Codes(values, indices), torch.arange(CLIPS).repeat_interleave(lengths)


def batch(codes, clip_of_token, clips):
    """The tokens of some clips, as one batch."""
    parts = [(clip_of_token == clip).nonzero()[:, 0] for clip in clips.tolist()]
    tokens = torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)
    local = torch.arange(len(parts)).repeat_interleave(torch.tensor([len(part) for part in parts], dtype=torch.int64))
    return Codes(codes.values[tokens], codes.indices[tokens]), local, clips


def brute(codes, clip_of_token, tie_seed=None):
    """Dense scores by the definition, and lists by sorting (score, tie key)."""
    dense = torch.zeros(len(clip_of_token), FEATURES, dtype=torch.float64)
    dense.scatter_(1, codes.indices, codes.values.double())
    lists = {}
    keys = tie_keys(torch.arange(CLIPS).expand(FEATURES, -1), tie_seed)
    for scorer in SCORERS:
        scores = torch.empty(CLIPS, FEATURES, dtype=torch.float64)
        for clip in range(CLIPS):
            z = dense[clip_of_token == clip]
            mu, c = z.mean(dim=0), (z > 0).double().mean(dim=0)
            scores[clip] = {"ard": mu * c, "mean": mu, "coverage": c}[scorer]
        order = [
            [
                sorted(range(CLIPS), key=lambda i, f=f, s=sign: (s * float(scores[i, f]), int(keys[f, i])))[:P]
                for f in range(FEATURES)
            ]
            for sign in (-1, 1)
        ]
        lists[scorer] = tuple(torch.tensor(side) for side in order)
    return lists, dense


def run(order, step, tie_seed=None, seed=0):
    codes, clip_of_token = world(seed)
    metric = RepresentativeClips(FEATURES, P, tie_seed)
    for clips in order.split(step):
        metric.update(*batch(codes, clip_of_token, clips))
    return metric


def check(metric, tie_seed=None, seed=0):
    expected, dense = brute(*world(seed), tie_seed)
    found = metric.compute()
    for scorer in SCORERS:
        assert torch.equal(found[scorer].top_ids, expected[scorer][0])
        assert torch.equal(found[scorer].bottom_ids, expected[scorer][1])
    return dense


@pytest.mark.parametrize("tie_seed", [None, 7])
@pytest.mark.parametrize("step", [1, 4, CLIPS])
@pytest.mark.parametrize("seed", [0, 1])
def test_any_order_and_batch_size_gives_the_brute_force_lists(step, seed, tie_seed):
    order = torch.randperm(CLIPS, generator=torch.Generator().manual_seed(seed))
    dense = check(run(order, step, tie_seed, seed), tie_seed, seed)
    metric = run(order, step, tie_seed, seed)
    assert torch.equal(metric.max_activation, dense.max(dim=0).values.float())
    active = [torch.unique(world(seed)[1][dense[:, f] > 0]).numel() for f in range(FEATURES)]
    assert metric.n_active.tolist() == active


def test_partial_runs_merge():
    first, *others = (run(torch.arange(i, CLIPS, 3), 2) for i in range(3))
    for other in others:
        first.merge_state(other)
    check(first)


def test_seeded_ties_differ_between_features_and_stable_ones_do_not():
    dead = [FEATURES - 2, FEATURES - 1]
    stable, seeded = run(torch.arange(CLIPS), 5).compute(), run(torch.arange(CLIPS), 5, tie_seed=1).compute()
    assert stable["ard"].bottom_ids[dead].tolist() == [[0, 1, 2]] * 2
    first, second = seeded["ard"].bottom_ids[dead].tolist()
    assert first != second


def test_scores_of_one_clip_by_hand():
    codes = Codes(torch.tensor([[2.0, 1.0], [4.0, 0.0]]), torch.tensor([[0, 1], [0, 2]]))
    scores = clip_scores(codes, torch.tensor([0, 0]), 1, 3)
    assert scores.mean.tolist() == [[3.0, 0.5, 0.0]]
    assert scores.coverage.tolist() == [[1.0, 0.5, 0.0]]
    assert scores.ard.tolist() == [[3.0, 0.25, 0.0]]


def test_bad_input_is_named():
    codes, clip_of_token = world()
    with pytest.raises(ValueError, match="p must be at least 1 clip, got 0"):
        RepresentativeClips(FEATURES, 0)
    with pytest.raises(ValueError, match=r"clips \[1\] of the batch have no token"):
        clip_scores(codes, torch.zeros_like(clip_of_token), 2, FEATURES)
    metric = RepresentativeClips(FEATURES, P)
    with pytest.raises(ValueError, match="3 representatives asked for, but only 0 clips were seen"):
        metric.compute()
    broken = Codes(codes.values.clone(), codes.indices)
    broken.values[clip_of_token == 4] = torch.nan
    with pytest.raises(ValueError, match=r"clips in rows \[4\] have a NaN or infinite score"):
        metric.update(broken, clip_of_token, torch.arange(CLIPS))
    twice = run(torch.tensor([0, 1, 2, 3, 0]), 2)
    with pytest.raises(ValueError, match=r"clips in rows \[0.*\] fill two slots"):
        twice.compute()


def _rank(rank, world_size, path):
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=world_size)
    metric = run(torch.arange(rank, CLIPS, world_size), 2)
    check(metric)
    dist.destroy_process_group()


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_agree_with_a_single_process(world_size, tmp_path):
    mp.spawn(_rank, (world_size, tmp_path / "rendezvous"), nprocs=world_size)
