"""Table 1's metrics: in any order, in parts, and on several ranks, the same figures."""

import numpy as np
import pytest
import torch
import torch.distributed as dist

from ard.evaluation import ConceptAveragePrecision, ConceptMatching, MatchReading, average_precision
from ard.evaluation.matching import match
from tests.launch import on_ranks

KINDS = ("ranks", "references", "matches", "pooled", "classes")


def similarity():
    return torch.rand(9, 5, generator=torch.Generator().manual_seed(3)) * 1.2 - 0.2


def clips():
    """Predictions and references of twelve clips; one predicts nothing."""
    rng = np.random.default_rng(0)
    some = [(rng.permutation(9)[: rng.integers(1, 6)], rng.permutation(5)[: rng.integers(1, 4)]) for _ in range(11)]
    some.insert(4, (np.array([], dtype=np.int64), np.array([1])))
    return [[torch.from_numpy(side) for side in sides] for sides in zip(*some, strict=True)]


def metrics(num_resamples=2):
    yield ConceptMatching(similarity(), num_resamples=num_resamples)
    reading = MatchReading(gamma=0.5)
    yield ConceptAveragePrecision(similarity(), reading, num_resamples=num_resamples)
    yield ConceptAveragePrecision(similarity(), reading, kinds=KINDS, num_resamples=num_resamples)


def test_the_figures_are_those_of_the_clips_counted_one_by_one():
    predictions, references = clips()
    cosines = [similarity().double().numpy()[np.ix_(p, r)] for p, r in zip(predictions, references, strict=True)]
    matches = [match(s) for s in cosines]
    metric = ConceptMatching(similarity(), num_resamples=0)
    metric.update(predictions, references)
    matched, said, asked = (sum(n) for n in zip(*((m.sum(), *m.shape) for m in matches), strict=True))
    assert metric.compute().tolist() == [pytest.approx([matched / said, matched / asked, 2 * matched / (said + asked)])]
    metric = ConceptAveragePrecision(similarity(), num_resamples=1)
    metric.update(predictions, references)
    expected = np.mean([average_precision(s, m).ranks for s, m in zip(cosines, matches, strict=True)])
    assert float(metric.compute()[0]) == pytest.approx(expected)


@pytest.mark.parametrize("num_labels", [1, 2, 3])
def test_a_perfect_answer_has_an_average_precision_of_1_at_matches_and_by_label_but_not_over_ranks(num_labels):
    labels = [torch.arange(num_labels), torch.arange(1, num_labels + 1)]
    metric = ConceptAveragePrecision(torch.eye(4), kinds=("references", "classes", "ranks"), num_resamples=1)
    metric.update(labels, labels)
    references, classes, ranks = metric.compute()[0].tolist()
    assert references == classes == 1
    assert ranks == pytest.approx({1: 1.0, 2: 0.79, 3: 0.67}[num_labels], abs=0.005)


@pytest.mark.parametrize("sizes", [[12], [1] * 12, [5, 0, 7]])
def test_the_size_and_the_order_of_batches_do_not_matter(sizes):
    predictions, references = clips()
    order = np.random.default_rng(len(sizes)).permutation(12)
    for whole, parts in zip(metrics(), metrics(), strict=True):
        whole.update(predictions, references)
        start = 0
        for size in sizes:
            batch = order[start : start + size]
            parts.update([predictions[i] for i in batch], [references[i] for i in batch])
            start += size
        torch.testing.assert_close(parts.compute()[0], whole.compute()[0])


def test_the_bootstrap_lies_around_the_figure_and_is_the_same_for_all_metrics_of_a_seed():
    predictions, references = clips()
    one, other = (ConceptMatching(similarity(), num_resamples=500, seed=1) for _ in range(2))
    for metric in (one, other):
        metric.update(predictions, references)
    assert torch.equal(one.compute(), other.compute())
    figures = one.compute()
    assert figures.shape == (501, 3)
    low, high = figures[1:].quantile(torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
    assert ((low < figures[0]) & (figures[0] < high)).all()


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_without_a_clip_every_figure_is_nan():
    for metric in metrics():
        assert metric.compute().isnan().all()


def test_two_parts_merge_into_the_whole():
    predictions, references = clips()
    for whole, first, second in zip(metrics(), metrics(), metrics(), strict=True):
        whole.update(predictions, references)
        first.update(predictions[:5], references[:5])
        second.update(predictions[5:], references[5:])
        first.merge_state(second)
        torch.testing.assert_close(first.compute()[0], whole.compute()[0])  # a merge does not say whose come first


def _rank(rank, world_size, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/{world_size}", rank=rank, world_size=world_size)
    predictions, references = clips()
    found = []
    for metric in metrics():
        metric.update(predictions[rank::world_size], references[rank::world_size])
        found.append(metric.compute())
    if rank == 0:
        torch.save(found, folder / f"{world_size}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_agree_with_one_process(world_size, tmp_path):
    on_ranks(_rank, world_size, tmp_path)
    predictions, references = clips()
    for found, alone in zip(torch.load(tmp_path / f"{world_size}.pt"), metrics(), strict=True):
        alone.update(predictions, references)
        torch.testing.assert_close(found[0], alone.compute()[0])
