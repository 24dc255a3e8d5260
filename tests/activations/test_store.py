import io
import json
import os
import resource
import signal
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import webdataset as wds
import xxhash
from safetensors.torch import load, save

from ard.activations import ActivationDataModule, read_manifest
from ard.activations.layer import read_layer
from ard.activations.store import (
    finished_shards,
    keep_shards,
    read_clip_metadata,
    remove_shards,
    shard_path,
    write_manifest,
    write_shard,
)
from ard.files import LOCK
from ard.run import MANIFEST
from ard.types import Failure, UserError

ABOUT = {"model": "m", "layers": [1, 3], "audio": "x", "dtype": "float32"}


def clip(index, tokens=5):
    x = torch.full((tokens, 4), float(index))
    return {"id": f"c{index}", "num_tokens": tokens, "labels": ["rain"]}, {1: x, 3: -x}


def write(folder, shard, indices, failures=()):
    write_shard(folder, shard, [clip(index) for index in indices], failures, ABOUT)


@pytest.fixture
def store(tmp_path):
    for shard, indices in enumerate([range(3), range(3, 6), range(6, 7)]):
        write(tmp_path, shard, indices)
    write_manifest(tmp_path, 3, 4, ABOUT)
    return tmp_path


def test_the_manifest_says_what_the_shards_hold(store):
    manifest = read_manifest(store)
    assert manifest.clip_ids == tuple(f"c{index}" for index in range(7))
    assert (manifest.layers, manifest.d_in, manifest.num_tokens, manifest.failures) == ((1, 3), 4, 35, ())
    for layer, sign in ((1, 1), (3, -1)):
        xs = [x.clone() for _, xs in read_layer(store, layer).read() for x in xs]
        assert all((x == sign * index).all() for index, x in enumerate(xs))
    known = [clip for shard in manifest.shards for clip in read_clip_metadata(store, shard)]
    assert [(clip["id"], clip["labels"]) for clip in known] == [(f"c{index}", ["rain"]) for index in range(7)]


@pytest.mark.parametrize("folder", ["{}", "pipe:cat {}"])
def test_single_clips_are_read_by_their_rows(store, folder):
    layer = read_layer(folder.format(store), 3)
    read = [(row, x.clone()) for row, x in layer.read_clips({5, 0, 6, 1})]
    assert [row for row, _ in read] == [0, 1, 5, 6]
    assert all(x.shape == (5, 4) and (x == -row).all() for row, x in read)
    assert list(layer.read_clips([])) == []


def test_a_clip_is_not_read_from_a_shard_that_is_another(store):
    layer, path = read_layer(store, 1), shard_path(store, 1, 1)
    content = path.read_bytes()
    path.write_bytes(content[:-8000])
    with pytest.raises(UserError, match=r"^clip 'c5' of activation shard .* is damaged: delete it and run"):
        list(layer.read_clips([5]))
    path.write_bytes(b"x" * 512 + content)
    with pytest.raises(UserError, match=r"^clip 'c3' of activation shard .* is damaged"):
        list(layer.read_clips([3]))
    path.unlink()
    with pytest.raises(UserError, match="is missing: run `ard extract` again"):
        list(layer.read_clips([3]))


def test_only_shards_of_the_same_clips_are_kept(tmp_path):
    audio = ["a", "b", "c"]
    for shard, of_shard in enumerate(audio):
        write_shard(tmp_path, shard, [clip(shard)], (), {**ABOUT, "audio": of_shard})
    write_manifest(tmp_path, 3, 4, ABOUT, audio)
    assert keep_shards(tmp_path, ["a", "x"]) == 1
    assert sorted(path.name for path in tmp_path.rglob("0*")) == ["000000.json", "000000.tar", "000000.tar"]
    assert list(finished_shards(tmp_path, ABOUT, ["a", "x"])) == [0]
    with pytest.raises(UserError, match="no finished extraction"):
        read_manifest(tmp_path)
    with pytest.raises(UserError, match=r"holds shards of another extraction \(audio 'a', now 'y'\)"):
        finished_shards(tmp_path, ABOUT, ["y"])


def test_shards_are_removed_and_what_somebody_else_put_beside_them_stays(store):
    mine = [store / "notes.json", store / "layer-1" / "mine.tar", store / "shards" / "mine.json"]
    for path in mine:
        path.write_text("mine", encoding="utf-8")
    remove_shards(store)
    assert {path for path in store.rglob("*") if path.is_file()} == {*mine, store / LOCK}
    assert finished_shards(store, {**ABOUT, "model": "another"}) == {}
    write_shard(store, 0, [clip(0)], (), {**ABOUT, "model": "another"})
    mine[0].rename(store / MANIFEST)
    with pytest.raises(UserError, match="is in use, and not by activation shards: choose another"):
        remove_shards(store)


def test_shards_are_webdataset_tars_of_safetensors(store):
    samples = [
        sample for shard in range(3) for sample in wds.WebDataset(str(shard_path(store, 3, shard)), shardshuffle=False)
    ]
    assert [sample["__key__"] for sample in samples] == [f"c{index}" for index in range(7)]
    assert [json.loads(sample["json"])["num_tokens"] for sample in samples] == [5] * 7
    assert all((load(sample["safetensors"])["x"] == -index).all() for index, sample in enumerate(samples))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_tars_are_to_the_byte_those_of_webdataset(tmp_path, dtype):
    generator = torch.Generator().manual_seed(0)
    ids = ["c", "Vögel/" + "n" * 90, "long" * 60, "empty"]
    sizes = [1, 87, 250, 0]
    clips = [
        ({"id": name, "num_tokens": n, "caption": "é"}, {5: torch.randn(n, 33, generator=generator).to(dtype)})
        for name, n in zip(ids, sizes, strict=True)
    ]
    strided = torch.randn(6, 66, generator=generator).to(dtype)[::2, ::2]
    clips.append(({"id": "strided", "num_tokens": 3}, {5: strided}))
    write_shard(tmp_path, 0, clips, (), {**ABOUT, "layers": [5]})
    expected = io.BytesIO()
    with wds.TarWriter(expected, mtime=0) as tar:
        for known, activations in clips:
            content = save({"x": activations[5].contiguous()})
            tar.write({"__key__": known["id"], "safetensors": content, "json": known})
    assert shard_path(tmp_path, 5, 0).read_bytes() == expected.getvalue()
    shard = finished_shards(tmp_path, {**ABOUT, "layers": [5]})[0]
    assert shard.xxh3 == {5: xxhash.xxh3_64_hexdigest(expected.getvalue())}
    assert shard.num_bytes == {5: len(expected.getvalue())}
    for offset, (_, activations) in zip(shard.offsets, clips, strict=True):
        content = activations[5].contiguous().view(torch.uint8).numpy().tobytes()
        assert expected.getvalue()[offset : offset + len(content)] == content


def test_what_goes_wrong_with_one_layer_ends_the_shard(tmp_path):
    (tmp_path / "layer-3").write_text("in the way", encoding="utf-8")
    with pytest.raises(UserError, match=r"activations folder .* cannot be written \(File exists\)"):
        write(tmp_path, 0, range(2))
    assert finished_shards(tmp_path, ABOUT) == {}
    (tmp_path / "layer-3").unlink()
    with pytest.raises(KeyError):
        write_shard(tmp_path, 0, [({"id": "c", "num_tokens": 5}, {1: torch.ones(5, 4)})], (), ABOUT)
    assert finished_shards(tmp_path, ABOUT) == {}
    assert not list(tmp_path.rglob("*.partial"))
    write(tmp_path, 0, range(2))
    assert list(finished_shards(tmp_path, ABOUT)) == [0]


@pytest.mark.parametrize("where", ["{}", "file://{}", "pipe:cat {}"])
def test_a_store_is_read_from_a_folder_a_url_and_a_command(store, where):
    layer = read_layer(where.format(store), 1)
    assert [float(x[0, 0]) for _, xs in layer.read() for x in xs] == [float(index) for index in range(7)]
    batches = iter(ActivationDataModule(where.format(store), layer=1, batch_tokens=35).train_dataloader())
    assert next(batches).sum() == 5 * 4 * sum(range(7))
    with pytest.raises(UserError, match="holds no finished extraction"):
        read_layer(where.format(store / "nowhere"), 1)


def test_only_whole_shards_are_finished(tmp_path):
    with pytest.raises(UserError, match="holds no finished extraction"):
        read_manifest(tmp_path)
    for shard in range(3):
        write(tmp_path, shard, [shard])
    shard_path(tmp_path, 3, 3).with_suffix(".partial").write_bytes(b"half a shard")
    assert list(finished_shards(tmp_path, ABOUT)) == [0, 1, 2]
    shard_path(tmp_path, 3, 1).unlink()
    shard_path(tmp_path, 1, 2).write_bytes(b"short")
    assert list(finished_shards(tmp_path, ABOUT)) == [0]


def test_shards_of_another_extraction_are_not_mixed_in(tmp_path):
    write(tmp_path, 0, [0])
    with pytest.raises(UserError, match=r"holds shards of another extraction \(model 'm', now 'n'\)"):
        finished_shards(tmp_path, {**ABOUT, "model": "n"})


def test_a_shard_whose_clips_were_all_left_out_is_finished(tmp_path):
    left_out = [Failure("c0", "activations", "too short")]
    write(tmp_path, 0, [], left_out)
    write(tmp_path, 1, [1])
    write_manifest(tmp_path, 2, 4, ABOUT)
    manifest = read_manifest(tmp_path)
    assert (manifest.clip_ids, manifest.failures) == (("c1",), tuple(left_out))
    assert [shard.clip_ids for shard, _ in read_layer(tmp_path, 1).read()] == [("c1",)]


def test_every_flipped_byte_and_every_cut_is_refused_by_name(store):
    layer = read_layer(store, 1)
    path = shard_path(store, 1, 1)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for position in rng.integers(0, len(whole), 50):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        with pytest.raises(
            UserError, match=r"layer-1/000001.tar' is damaged .*: delete it and run `ard extract` again"
        ):
            list(layer.read())
        path.write_bytes(whole[:position])
        with pytest.raises(
            UserError, match=rf"000001.tar' is cut short or has grown \({position} of {len(whole)} bytes\)"
        ):
            list(layer.read())
    path.unlink()
    with pytest.raises(UserError, match=r"000001.tar' is missing: run `ard extract` again"):
        list(layer.read())


def test_a_full_disk_is_named_and_what_was_whole_is_kept(tmp_path):
    write(tmp_path, 0, [0])
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # no file may grow beyond 4 KB
    try:
        with pytest.raises(UserError, match=r"the disk is full: make room .* and run the same command again"):
            write(tmp_path, 1, range(20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert list(finished_shards(tmp_path, ABOUT)) == [0]
    assert not list(tmp_path.rglob("*.partial"))


def test_a_read_only_folder_is_named(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    nobody = os.geteuid() == 0  # root may write everywhere
    if nobody:
        os.seteuid(65534)
    try:
        with pytest.raises(UserError, match=r"locked': cannot be written \(Permission denied\)"):
            write(folder, 0, [0])
    finally:
        if nobody:
            os.seteuid(0)


@pytest.mark.parametrize("layer", [1, 3])
@pytest.mark.parametrize("buffer_tokens", [100, 35, 15, 5])
def test_training_batches_hold_every_token_as_often(store, layer, buffer_tokens):
    data = ActivationDataModule(store, layer=layer, batch_tokens=5, buffer_tokens=buffer_tokens)
    batches = list(islice(data.train_dataloader(), 42))  # 6 epochs of 35 tokens, and 14 buffers of 15
    seen = torch.cat(batches)[:, 0].abs()
    assert torch.bincount(seen.long()).tolist() == [30] * 7
    if buffer_tokens > 5:
        assert any(len(batch.unique(dim=0)) > 1 for batch in batches)
    if buffer_tokens >= 35:
        for epoch in range(6):
            assert torch.bincount(seen[35 * epoch :][:35].long()).tolist() == [5] * 7


def trainer(**settings):
    """A stand-in for a Trainer on the CPU."""
    on_cpu = SimpleNamespace(root_device=torch.device("cpu"))
    return SimpleNamespace(accumulate_grad_batches=1, strategy=on_cpu, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("buffer_tokens", [100, 15])
@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_the_stream_goes_on_from_any_batch(store, buffer_tokens, num_workers):
    settings = {"layer": 1, "batch_tokens": 5, "buffer_tokens": buffer_tokens, "num_workers": num_workers}
    unbroken = list(islice(ActivationDataModule(store, **settings).train_dataloader(), 20))
    for start in (1, 2, 3, 7, 13):
        data = ActivationDataModule(store, **settings)
        data.trainer = trainer(global_step=start, global_rank=0, world_size=1)
        for went_on, expected in zip(data.train_dataloader(), unbroken[start:], strict=False):
            assert torch.equal(went_on, expected)


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("buffer_tokens", [12, 1000])
def test_ranks_take_turns_at_the_tokens_of_every_batch(store, buffer_tokens, num_workers):
    settings = {"layer": 1, "batch_tokens": 6, "buffer_tokens": buffer_tokens, "num_workers": num_workers}
    whole = list(islice(ActivationDataModule(store, **settings).train_dataloader(), 12))
    for rank in range(3):
        data = ActivationDataModule(store, **settings)
        data.trainer = trainer(global_step=0, global_rank=rank, world_size=3)
        for part, batch in zip(islice(data.train_dataloader(), 12), whole, strict=True):
            assert torch.equal(part, batch[rank::3])


def test_a_batch_that_ranks_cannot_share_evenly_is_refused(store):
    data = ActivationDataModule(store, layer=1, batch_tokens=5)
    data.trainer = trainer(global_step=0, global_rank=0, world_size=2)
    with pytest.raises(UserError, match=r"batch_tokens is 5, which 2 ranks cannot share evenly: give a multiple of 2"):
        data.train_dataloader()


def test_a_batch_larger_than_the_store_is_filled(store):
    batch = next(iter(ActivationDataModule(store, layer=1, batch_tokens=50).train_dataloader()))
    assert batch.shape == (50, 4)


def test_validation_reads_every_token_in_order(store):
    x = torch.cat(list(ActivationDataModule(store, layer=1, batch_tokens=8).val_dataloader()))
    assert x[:, 0].tolist() == [float(i) for i in range(7) for _ in range(5)]


def test_probing_batches_are_whole_clips_with_their_rows(store):
    (loader,) = ActivationDataModule(store, layer=1, clips_per_batch=2).test_dataloader()
    first, second, *others = loader
    assert (first.rows.tolist(), second.rows.tolist()) == ([0, 1], [2])  # batches end with their shard
    assert [batch.rows.tolist() for batch in others] == [[3, 4], [5], [6]]
    assert first.clip_of_token.tolist() == [0] * 5 + [1] * 5
    assert [known["labels"] for known in first.metadata] == [["rain"]] * 2
    assert first.x[:, 0].tolist() == [0.0] * 5 + [1.0] * 5


def test_a_layer_that_was_not_extracted_and_an_empty_store_are_refused(store, tmp_path):
    with pytest.raises(UserError, match="layer 2 was not extracted"):
        ActivationDataModule(store, layer=2).train_dataloader()
    write(tmp_path / "empty", 0, [])
    write_manifest(tmp_path / "empty", 1, 4, ABOUT)
    with pytest.raises(UserError, match="holds no tokens"):
        ActivationDataModule(tmp_path / "empty", layer=1).train_dataloader()


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b"\xff", b'{"shards": 5}'])
def test_a_damaged_manifest_or_description_is_named(store, content):
    whole = (store / "manifest.json").read_bytes()
    (store / "manifest.json").write_bytes(content)
    with pytest.raises(
        UserError, match=r"manifest.json' is missing or damaged \(.*\): delete it and run `ard extract`"
    ):
        read_manifest(store)
    (store / "manifest.json").write_bytes(whole)
    (store / "shards/000001.json").write_bytes(content)
    assert list(finished_shards(store, ABOUT)) == [0, 2]
    with pytest.raises(UserError, match=r"shards/000001.json' is missing or damaged \(.*\): delete it and run"):
        read_clip_metadata(store, read_manifest(store).shards[1])


def test_a_digit_that_changed_in_a_manifest_is_found(store):
    path = store / "manifest.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"d_in": 4', '"d_in": 2'), encoding="utf-8")
    with pytest.raises(UserError, match=r"manifest.json' is missing or damaged \(its checksum does not match\)"):
        read_manifest(store)
