"""Scores of clips on a pretended GPU are those of the CPU, bit by bit: tie rules compare them."""

import pytest
import torch

from ard.probing import clip_scores
from ard.representatives.metric import RepresentativeClips
from ard.types import Codes
from tests.device.pretend import pretend_cuda

CLIPS, FEATURES, K = 6, 20, 4


def batch(seed):
    """Return codes of clips of several lengths, of which two are alike."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 9, (CLIPS,), generator=generator)
    lengths[3] = lengths[1]
    clip_of_token = torch.arange(CLIPS).repeat_interleave(lengths)
    indices = torch.stack([torch.randperm(FEATURES, generator=generator)[:K] for _ in clip_of_token])
    values = torch.randn(indices.shape, generator=generator).relu()
    for tensor in (indices, values):
        tensor[clip_of_token == 3] = tensor[clip_of_token == 1]
    return Codes(values, indices), clip_of_token, torch.arange(CLIPS)


@pytest.mark.parametrize("seed", range(5))
def test_scores_are_the_same_to_the_last_bit(seed):
    codes, clip_of_token, _ = batch(seed)
    expected = clip_scores(codes, clip_of_token, CLIPS, FEATURES)
    with pretend_cuda(), torch.inference_mode():
        on_device = Codes(*(tensor.to("cuda") for tensor in codes))
        found = [score.cpu() for score in clip_scores(on_device, clip_of_token.to("cuda"), CLIPS, FEATURES)]
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)
        assert torch.equal(ours[1], ours[3])


@pytest.mark.parametrize("ties", ["stable", "seeded_random", "shared_random", "preact"])
def test_lists_are_the_same_by_every_rule_for_ties(ties):
    def retrieve(device):
        metric = RepresentativeClips(FEATURES, 3, ties=ties).to(device)
        for seed in range(3):
            codes, clip_of_token, rows = batch(seed)
            pre = torch.randn(CLIPS, FEATURES, generator=torch.Generator().manual_seed(seed)).double()
            codes, (of_token, rows, pre) = (
                Codes(*(tensor.to(device) for tensor in codes)),
                (tensor.to(device) for tensor in (clip_of_token, rows + CLIPS * seed, pre)),
            )
            metric.update(codes, of_token, rows, pre)
        found = metric.compute()
        return [tensor.cpu() for tensor in (*found.lists["ard"], *found.statistics)]

    expected = retrieve("cpu")
    with pretend_cuda():
        found = retrieve("cuda")
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)
