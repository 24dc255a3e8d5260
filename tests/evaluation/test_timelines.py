"""The activations along representative clips are those of the dictionary, clip by clip, and can be read back."""

import numpy as np
import pytest
import torch
from safetensors import safe_open

from ard.activations.store import write_manifest, write_shard
from ard.evaluation import KeepTimelines
from ard.evaluation.timelines import activations_of
from ard.reports import read_timelines
from ard.run import Run
from ard.sae import PolyFeatures, TopKSAE
from ard.types import Codes

FEATURES, TOP_IDS = [11, 2, 7], [[0, 6, 3], [5, 0, 1], [6, 2, 4]]


@pytest.fixture
def clips(tmp_path):
    """Seven clips of 1 to 7 tokens in three shards."""
    generator = torch.Generator().manual_seed(0)
    clips = [torch.randn(tokens, 4, generator=generator) for tokens in range(1, 8)]
    clips[6][0, 3] = 1e6
    about = {"model": "none", "layers": [0], "dtype": "float32"}
    folder = Run(tmp_path).activations("probe")
    for shard, rows in enumerate([range(3), range(3, 6), range(6, 7)]):
        write_shard(
            folder, shard, [({"id": f"c{row}", "num_tokens": row + 1}, {0: clips[row]}) for row in rows], [], about
        )
    write_manifest(folder, 3, 4, about)
    return clips


def keep(cell, dictionary, features=FEATURES, top_ids=TOP_IDS):
    ids = torch.tensor(top_ids, dtype=torch.int64).view(-1, 3)
    selection = {"features": torch.tensor(features, dtype=torch.int64), "m": torch.ones(len(features)), "top_ids": ids}
    cell.save_tensors("selections", {f"ard/0/{name}": tensor for name, tensor in selection.items()})
    assert KeepTimelines()(cell, dictionary) is None
    return read_timelines(cell)


def test_every_selected_feature_has_its_activations_in_each_of_its_clips(clips, tmp_path):
    cell, sae = Run(tmp_path).cell(0, 4), TopKSAE(4, 16, k=3, generator=torch.Generator().manual_seed(1))
    timelines = keep(cell, sae)
    assert list(timelines) == sorted(FEATURES)
    for feature, top_ids in zip(FEATURES, TOP_IDS, strict=True):
        for row, own in zip(top_ids, timelines[feature], strict=True):
            codes = sae.encode(clips[row])
            dense = torch.zeros(len(clips[row]), 16).scatter_(1, codes.indices, codes.values).detach()
            np.testing.assert_array_equal(own, dense[:, feature].half().numpy())
    with safe_open(cell.path("timelines"), framework="pt") as stored:
        assert stored.metadata() == {"unit": "activation z_k of a token", "p": "3"}
        assert stored.get_tensor("values").nbytes == 2 * sum(row + 1 for top_ids in TOP_IDS for row in top_ids)


def test_coordinates_keep_their_sign_and_what_is_too_large_is_cut(clips, tmp_path):
    timelines = keep(Run(tmp_path).cell(0, None), PolyFeatures(4), [2, 3], [[6, 5, 4]] * 2)
    for row, own in zip([6, 5, 4], timelines[2], strict=True):
        np.testing.assert_array_equal(own, clips[row][:, 2].half().numpy())
    assert min(own.min() for own in timelines[2]) < 0
    assert timelines[3][0][0] == np.finfo(np.float16).max


def test_without_concepts_the_file_is_empty_and_without_a_file_nothing_is_read(clips, tmp_path):
    cell = Run(tmp_path).cell(0, None)
    assert read_timelines(cell) == {}
    assert keep(cell, PolyFeatures(4), [], []) == {}


def test_activations_of_a_few_features_are_found_among_sparse_codes():
    codes = Codes(torch.tensor([[2.0, 3.0], [4.0, 0.0]]), torch.tensor([[5, 1], [1, 2]]))
    assert activations_of(codes, torch.tensor([1, 0, 5]), 6).tolist() == [[3, 0, 2], [4, 0, 0]]
