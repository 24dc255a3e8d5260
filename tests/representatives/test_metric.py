import io
import math

import pytest
import torch
import torch.distributed as dist

from ard.probing import SCORERS, clip_scores
from ard.representatives import RandomActiveClips, RepresentativeClips
from ard.representatives.functional import ACTIVATION_EDGES, activation_quantiles, half_of, tie_keys
from ard.types import Codes
from tests.launch import on_ranks

FEATURES, P, CLIPS, K = 12, 3, 25, 3
TIES = ["stable", "seeded_random", "shared_random", "preact"]
PRE_ACTIVATIONS = torch.randint(-2, 2, (CLIPS, FEATURES), generator=torch.Generator().manual_seed(5)).float()


def world(seed=0, signed=False):
    """Clips of one to six tokens with few distinct activations, so that many scores are equal."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 7, (CLIPS,), generator=generator)
    num_tokens = int(lengths.sum())
    indices = torch.rand(num_tokens, FEATURES - 2, generator=generator).argsort(dim=1)[:, :K]  # the last two are dead
    values = torch.randint(-2 if signed else 0, 3, (num_tokens, K), generator=generator).float()
    return Codes(values, indices), torch.arange(CLIPS).repeat_interleave(lengths)


def batch(codes, clip_of_token, clips):
    """The tokens of some clips, as one batch."""
    parts = [(clip_of_token == clip).nonzero()[:, 0] for clip in clips.tolist()]
    tokens = torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)
    local = torch.arange(len(parts)).repeat_interleave(torch.tensor([len(part) for part in parts], dtype=torch.int64))
    return Codes(codes.values[tokens], codes.indices[tokens]), local, clips


def brute(codes, clip_of_token, ties, among=range(CLIPS)):
    """Dense codes and scores by the definition, and lists by sorting (score, tie key)."""
    dense = torch.zeros(len(clip_of_token), FEATURES, dtype=torch.float64)
    dense.scatter_(1, codes.indices, codes.values.double())
    lists = {}
    keys = tie_keys(torch.arange(CLIPS).expand(FEATURES, -1), torch.arange(FEATURES)[:, None], ties, 7).numpy()
    wanted = (PRE_ACTIVATIONS * (ties == "preact")).numpy()
    for scorer in SCORERS:
        scores = torch.empty(CLIPS, FEATURES, dtype=torch.float64)
        for clip in range(CLIPS):
            z = dense[clip_of_token == clip]
            mu, c = z.mean(dim=0), (z > 0).double().mean(dim=0)
            scores[clip] = {"ard": mu * c, "mean": mu, "coverage": c}[scorer]
        order = [
            [
                sorted(among, key=lambda i, f=f, s=sign: (s * float(scores[i, f]), s * wanted[i, f], keys[f, i]))
                for f in range(FEATURES)
            ]
            for sign in (-1, 1)
        ]
        lists[scorer] = tuple(torch.tensor(side)[:, :P] for side in order), scores
    return lists, dense


def brute_n_active(dense, clip_of_token, clips):
    return torch.stack([(dense[clip_of_token == clip] > 0).any(dim=0) for clip in clips]).sum(dim=0)


def places(z):
    """Where a feature is active among the tokens of one clip."""
    active = (z > 0).nonzero()[:, 0].tolist()
    return (int(z.argmax()), active[0], active[-1]) if active else (-1, -1, -1)


def run(order, step, ties="stable", seed=0, signed=False):
    codes, clip_of_token = world(seed, signed)
    metric = RepresentativeClips(FEATURES, P, ties=ties, tie_seed=7)
    for clips in order.split(step):
        given = [PRE_ACTIVATIONS[clips]] if ties == "preact" else []
        metric.update(*batch(codes, clip_of_token, clips), *given)
    return metric


def check(metric, ties="stable", seed=0, signed=False):
    codes, clip_of_token = world(seed, signed)
    expected, dense = brute(codes, clip_of_token, ties)
    found = metric.compute()
    for scorer, ((top, bottom), scores) in expected.items():
        of_scorer = found.lists[scorer]
        assert torch.equal(of_scorer.top_ids, top)
        assert torch.equal(of_scorer.bottom_ids, bottom)
        assert torch.equal(of_scorer.top_scores, scores.T.gather(1, top))
        assert torch.equal(of_scorer.bottom_scores, scores.T.gather(1, bottom))
        for f, row in enumerate(top.tolist()):
            where = torch.tensor([places(dense[clip_of_token == clip, f]) for clip in row]).T
            assert torch.equal(torch.stack(of_scorer[-3:])[:, f], where)
    half = half_of(torch.arange(CLIPS), 0)
    for number, of_half in enumerate(found.halves):
        clips = (half == number).nonzero()[:, 0].tolist()
        (top, bottom), scores = brute(codes, clip_of_token, ties, clips)[0]["ard"]
        assert torch.equal(of_half.top_ids, top)
        assert torch.equal(of_half.bottom_ids, bottom)
        assert torch.equal(of_half.n_active, brute_n_active(dense, clip_of_token, clips))
    assert len(found.halves) == 2
    counted = found.statistics
    assert torch.equal(counted.max_activation, dense.max(dim=0).values.float())
    assert counted.n_active.tolist() == [clip_of_token[dense[:, f] > 0].unique().numel() for f in range(FEATURES)]
    assert (counted.num_clips, counted.num_tokens) == (CLIPS, len(dense))
    for f in range(FEATURES):
        of_feature = dense[:, f][dense[:, f] > 0].float()
        histogram = torch.histogram(of_feature, ACTIVATION_EDGES).hist.long()
        assert torch.equal(counted.activation_histogram[f], histogram)


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("step", [1, 4, CLIPS])
@pytest.mark.parametrize("seed", range(4))
def test_any_order_and_batch_size_gives_the_brute_force_lists(step, seed, ties):
    order = torch.randperm(CLIPS, generator=torch.Generator().manual_seed(seed))
    check(run(order, step, ties, seed, signed=seed > 1), ties, seed, signed=seed > 1)


@pytest.mark.parametrize("ties", TIES)
def test_partial_runs_merge_also_when_saved_and_loaded(ties):
    first, *others = (run(torch.arange(i, CLIPS, 3), 2, ties) for i in range(3))
    for other in others:
        file = io.BytesIO()
        torch.save(other.state_dict(), file)
        file.seek(0)
        loaded = RepresentativeClips(FEATURES, P, ties=ties, tie_seed=7)
        loaded.load_state_dict(torch.load(file))
        first.merge_state(loaded)
    check(first, ties)


def test_random_ties_are_of_each_feature_or_of_all_and_stable_ones_the_order_of_the_data():
    dead = [FEATURES - 2, FEATURES - 1]
    stable, seeded, shared = (
        run(torch.arange(CLIPS), 5, ties).compute().lists["ard"].bottom_ids[dead] for ties in TIES[:3]
    )
    assert stable.tolist() == [[0, 1, 2]] * 2
    assert seeded[0].tolist() != seeded[1].tolist()
    assert shared[0].tolist() == shared[1].tolist() != [0, 1, 2]


def test_scores_of_one_clip_by_hand():
    codes = Codes(torch.tensor([[2.0, 1.0], [4.0, 0.0]]), torch.tensor([[0, 1], [0, 2]]))
    scores = clip_scores(codes, torch.tensor([0, 0]), 1, 3)
    assert scores.mean.tolist() == [[3.0, 0.5, 0.0]]
    assert scores.coverage.tolist() == [[1.0, 0.5, 0.0]]
    assert scores.ard.tolist() == [[3.0, 0.25, 0.0]]


def test_quantiles_are_within_the_width_of_a_bin_of_the_exact_ones():
    levels = torch.tensor([0.0, 0.05, 0.5, 0.95, 1.0], dtype=torch.float64)
    values = torch.randn(1000, 4, generator=torch.Generator().manual_seed(0)).exp()
    metric = RepresentativeClips(5, 1)
    metric.update(
        Codes(values, torch.arange(4).expand(1000, -1)), torch.arange(10).repeat_interleave(100), torch.arange(10)
    )
    found = activation_quantiles(metric.compute().statistics.activation_histogram, levels)
    exact = values.double().quantile(levels, dim=0, interpolation="higher").T
    assert (found[:4] / exact).log2().abs().max() <= 1 / 8 + 0.01
    assert found[4].isnan().all()


def test_activations_beyond_the_edges_are_in_the_outermost_bins():
    metric = RepresentativeClips(1, 1)
    metric.update(
        Codes(torch.tensor([[1e-9], [1e9]]), torch.zeros(2, 1, dtype=torch.int64)),
        torch.zeros(2).long(),
        torch.tensor([0]),
    )
    histogram = metric.compute().statistics.activation_histogram[0]
    assert (histogram[0], histogram[-1], histogram.sum()) == (1, 1, 2)


def test_memory_does_not_grow_with_clips():
    def num_bytes(metric):
        return sum(getattr(metric, name).nbytes for name in metric._defaults)

    assert num_bytes(run(torch.arange(4), 1)) == num_bytes(run(torch.arange(CLIPS), 1))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_halves_are_random_of_one_size_and_those_of_the_seed(seed):
    half = half_of(torch.arange(1000), seed)
    for num_clips in (7, 500, 1000):
        assert abs(int(half[:num_clips].sum()) - num_clips / 2) <= 0.5
    assert set(half.tolist()) == {0, 1}
    assert (half[:-1] == half[1:]).double().mean() == pytest.approx(0.25, abs=0.05)  # one pair in two is within a pair
    assert (half == half_of(torch.arange(1000), seed + 1)).double().mean() == pytest.approx(0.5, abs=0.1)


def test_halves_of_fewer_than_p_clips_are_left_out():
    assert run(torch.arange(5), 2).compute().halves == ()


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
    broken.values[clip_of_token == 4] = math.nan
    with pytest.raises(ValueError, match=r"clips in rows \[4\] have a NaN or infinite score"):
        metric.update(broken, clip_of_token, torch.arange(CLIPS))
    with pytest.raises(ValueError, match="ties 'preact' need the clips' mean pre-activations: give them"):
        RepresentativeClips(FEATURES, P, ties="preact").update(codes, clip_of_token, torch.arange(CLIPS))
    twice = run(torch.tensor([0, 1, 2, 3, 0]), 2)
    with pytest.raises(ValueError, match=r"clips in rows \[0.*\] fill two slots"):
        twice.compute()


def _rank(rank, world_size, path):
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=world_size)
    for ties in TIES:
        check(run(torch.arange(rank, CLIPS, world_size), 2, ties), ties)
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_agree_with_a_single_process(world_size, tmp_path):
    on_ranks(_rank, world_size, tmp_path / "rendezvous")


def random_active(order, size):
    codes, clip_of_token = world()
    metric = RandomActiveClips(FEATURES, P, 40, seed=3)
    for start in range(0, CLIPS, size):
        of_batch, local, rows = batch(codes, clip_of_token, order[start : start + size])
        metric.update(clip_scores(of_batch, local, len(rows), FEATURES), rows)
    return metric


def test_random_clips_are_drawn_among_those_where_the_feature_is_active():
    codes, clip_of_token = world()
    active = clip_scores(codes, clip_of_token, CLIPS, FEATURES).coverage > 0
    drawn = random_active(torch.arange(CLIPS), CLIPS).compute()
    assert drawn.shape == (40, FEATURES, P)
    for feature in range(FEATURES):
        wanted = min(P, int(active[:, feature].sum()))
        assert (active[drawn[:, feature], feature].sum(dim=1) == wanted).all()
        assert all(len(set(clips)) == P for clips in drawn[:, feature].tolist())
        if wanted == P:  # in forty draws every clip comes, whichever goes first in the data set
            assert set(drawn[:, feature].flatten().tolist()) == set(active[:, feature].nonzero()[:, 0].tolist())
    again = random_active(torch.randperm(CLIPS, generator=torch.Generator().manual_seed(1)), 4)
    assert torch.equal(again.compute(), drawn)
    first, second = (random_active(half, 5) for half in (torch.arange(12), torch.arange(12, CLIPS)))
    assert not torch.equal(first.compute(), drawn)
    second.merge_state(first)
