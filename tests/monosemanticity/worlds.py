"""Clips with sparse activations and embeddings, and the lists that retrieval makes of them."""

import torch

from ard.probing.functional import clip_scores
from ard.representatives import RepresentativeClips
from ard.types import Codes

P = 4


def unit(*shape, generator):
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def sparse_scores(num_clips, num_features, generator):
    """Scores of features that are active in few to nearly all clips, and silent in the others."""
    share = torch.rand(num_features, generator=generator) ** 3
    active = torch.rand(num_clips, num_features, generator=generator) < share
    return torch.rand(num_clips, num_features, generator=generator).double() * active


def retrieve(scores, ties="stable", tie_seed=0, num_clips_at_once=None):
    """Return what retrieval keeps of clips of one token each, as ``representatives.safetensors`` has it."""
    num_clips, num_features = scores.shape
    metric = RepresentativeClips(num_features, P, ties=ties, tie_seed=tie_seed)
    pre_activations = torch.where(scores > 0, scores, -torch.rand(scores.shape, generator=torch.Generator())).double()
    for rows in torch.arange(num_clips).split(num_clips_at_once or num_clips):
        codes = Codes(scores[rows].float(), torch.arange(num_features).expand(len(rows), -1))
        one_each = torch.arange(len(rows))
        of_clips = clip_scores(codes, one_each, len(rows), num_features)
        metric.update(codes, one_each, rows, pre_activations[rows], of_clips)
    lists, statistics, halves = metric.compute()
    stored = {f"ard/{name}": tensor for name, tensor in lists["ard"]._asdict().items()}
    for name, half in zip(("half0", "half1"), halves, strict=False):
        stored |= {f"{name}/{field}": tensor for field, tensor in half._asdict().items()}
    return stored | {"n_active": statistics.n_active, "half_seed": torch.tensor(0)}
