"""Batches that are mixed on a GPU are those that are mixed on the CPU."""

from itertools import islice

import pytest
import torch

from ard.activations.layer import read_layer
from ard.activations.store import write_manifest, write_shard
from ard.activations.stream import Shuffled, ShuffledOnDevice
from ard.types import UserError
from tests.device.pretend import CUDA, pretend_cuda

NUM_TOKENS = [7, 30, 1, 22, 13, 40]  # of the clips


def write_store(folder, bad_clip=None):
    generator, about = torch.Generator().manual_seed(0), {"model": "m", "layers": [1], "audio": "x", "dtype": "float32"}
    for shard in range(3):
        clips = []
        for clip, num_tokens in enumerate(NUM_TOKENS):
            x = torch.randn(num_tokens, 3, generator=generator)
            if (shard, clip) == bad_clip:
                x[0] = torch.nan
            clips.append(({"id": f"{shard}-{clip}", "num_tokens": num_tokens}, {1: x}))
        write_shard(folder, shard, clips, [], about)
    write_manifest(folder, 3, 3, about)
    return read_layer(folder, 1)


@pytest.mark.parametrize("skips", [False, True], ids=["all finite", "one not"])
@pytest.mark.parametrize("start", [0, 5, 40])
@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (1, 2)])
@pytest.mark.parametrize("buffer_tokens", [64, 100, 1000], ids=["a buffer of four batches", "of six", "of everything"])
def test_they_are_the_same_in_the_same_order(tmp_path, buffer_tokens, rank, world_size, start, skips):
    layer = write_store(tmp_path, (1, 3) if skips else None)
    settings = (layer, 16, buffer_tokens, 0, skips, start)
    ranks = {"rank": rank, "world_size": world_size}
    expected = list(islice(Shuffled(*settings, **ranks), 50))
    with pretend_cuda():
        found = list(islice(ShuffledOnDevice(*settings, **ranks, device=CUDA), 50))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.device == CUDA
        torch.testing.assert_close(ours.inner, theirs, rtol=0, atol=0)


def test_what_the_reading_thread_meets_is_raised_where_batches_are_taken(tmp_path):
    layer = write_store(tmp_path, (1, 3))
    with pretend_cuda(), pytest.raises(UserError, match=r"clip '1-3' .* holds NaN or infinity in 1 of 22 tokens"):
        list(islice(ShuffledOnDevice(layer, 16, 64, 0, False, device=CUDA), 50))


def test_a_stream_that_is_given_up_lets_its_thread_end(tmp_path):
    layer = write_store(tmp_path)
    with pretend_cuda():
        stream = ShuffledOnDevice(layer, 16, 64, 0, False, device=CUDA)
        batches = iter(stream)
        next(batches)
        batches.close()
    assert stream.stopped
    with pretend_cuda():
        assert len(next(iter(stream))) == 16  # and can be begun again
