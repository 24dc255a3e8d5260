import pytest
import torch

from ard.activations import ActivationDataModule, read_manifest, stored_ids
from ard.activations.store import ShardWriter, shard_path
from ard.types import UserError

LAYERS = (1, 3)


def clip(index, tokens=5):
    x = torch.full((tokens, 4), float(index))
    return {"id": f"c{index}", "num_tokens": tokens, "labels": ["rain"]}, {1: x, 3: -x}


def write(folder, indices, clips_per_shard=3):
    writer = ShardWriter(folder, LAYERS, clips_per_shard)
    for index in indices:
        writer.add(*clip(index))
    return writer


@pytest.fixture
def store(tmp_path):
    write(tmp_path, range(7)).close("m", 4, {})
    return tmp_path


def test_the_manifest_says_what_the_shards_hold(store):
    manifest = read_manifest(store)
    assert manifest.clip_ids == tuple(f"c{index}" for index in range(7))
    assert (manifest.layers, manifest.d_in, manifest.num_tokens, manifest.failures) == (LAYERS, 4, 35, ())
    assert stored_ids(store, LAYERS) == [["c0", "c1", "c2"], ["c3", "c4", "c5"], ["c6"]]


def test_a_stopped_run_goes_on_after_its_last_whole_shard(tmp_path):
    write(tmp_path, range(5))  # stopped: one whole shard, two clips waiting, no manifest
    with pytest.raises(UserError, match="holds no finished extraction"):
        read_manifest(tmp_path)
    shard_path(tmp_path, 3, 1).with_suffix(".partial").write_bytes(b"half a shard")
    assert stored_ids(tmp_path, LAYERS) == [["c0", "c1", "c2"]]
    write(tmp_path, range(3, 7)).close("m", 4, {})
    assert read_manifest(tmp_path).clip_ids == tuple(f"c{index}" for index in range(7))


def test_a_shard_that_one_layer_lacks_is_made_again(tmp_path):
    write(tmp_path, range(6))
    shard_path(tmp_path, 3, 1).unlink()
    assert stored_ids(tmp_path, LAYERS) == [["c0", "c1", "c2"]]


def test_clips_without_tokens_or_with_nan_are_left_out_and_named(tmp_path):
    writer = write(tmp_path, range(2))
    metadata, activations = clip(2)
    activations[3][0, 0] = torch.nan
    writer.add(metadata, activations)
    writer.add(*clip(3, tokens=0))
    writer.close("m", 4, {})
    assert read_manifest(tmp_path).clip_ids == ("c0", "c1")
    assert [(failure.id, failure.reason) for failure in read_manifest(tmp_path).failures] == [
        ("c2", "the forward pass gave NaN or infinity"),
        ("c3", "no audio tokens: the clip is too short"),
    ]


def test_training_batches_hold_every_token_once_an_epoch(store):
    data = ActivationDataModule(store, layer=1, batch_tokens=5, buffer_tokens=100)
    batches = iter(data.train_dataloader())
    for _ in range(3):
        epoch = torch.cat([next(batches) for _ in range(7)])
        assert epoch[:, 0].sort().values.tolist() == [float(i) for i in range(7) for _ in range(5)]


def test_a_buffer_smaller_than_the_store_mixes_and_loses_nothing(store):
    data = ActivationDataModule(store, layer=3, batch_tokens=5, buffer_tokens=15)
    batches = iter(data.train_dataloader())
    seen = torch.cat([next(batches) for _ in range(7)])
    assert seen.shape == (35, 4)
    assert seen[:, 0].sort().values.tolist() == [float(-i) for i in reversed(range(7)) for _ in range(5)]
    assert len(seen[:5].unique(dim=0)) > 1


def test_a_batch_larger_than_the_store_is_filled(store):
    batch = next(iter(ActivationDataModule(store, layer=1, batch_tokens=50).train_dataloader()))
    assert batch.shape == (50, 4)


def test_validation_reads_every_token_in_order(store):
    x = torch.cat(list(ActivationDataModule(store, layer=1, batch_tokens=8).val_dataloader()))
    assert x[:, 0].tolist() == [float(i) for i in range(7) for _ in range(5)]


def test_probing_batches_are_whole_clips_with_their_rows(store):
    (loader,) = ActivationDataModule(store, layer=1, clips_per_batch=4).test_dataloader()
    first, second = loader
    assert (first.rows.tolist(), second.rows.tolist()) == ([0, 1, 2, 3], [4, 5, 6])
    assert second.clip_of_token.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert [known["labels"] for known in second.metadata] == [["rain"]] * 3
    assert second.x[:, 0].tolist() == [4.0] * 5 + [5.0] * 5 + [6.0] * 5


def test_a_layer_that_was_not_extracted_and_an_empty_store_are_refused(store, tmp_path):
    with pytest.raises(UserError, match="layer 2 was not extracted"):
        ActivationDataModule(store, layer=2).train_dataloader()
    ShardWriter(tmp_path / "empty", LAYERS, 3).close("m", 4, {})
    with pytest.raises(UserError, match="holds no tokens"):
        ActivationDataModule(tmp_path / "empty", layer=1).train_dataloader()
