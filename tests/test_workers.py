"""What workers send arrives as it was, and not through /dev/shm; one that is killed ends the run with one line."""

import gc
import os
import signal
from multiprocessing import resource_sharer
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ard.activations import read_manifest
from ard.activations.datamodule import _Clips
from ard.activations.stream import Shuffled
from ard.audio import write_audio_shards
from ard.cli import main
from ard.presets import CONFIGS
from ard.types import Clip
from ard.workers import _Sent, sent
from tests.sae.trainings import X, command, write_store

BATCH = {
    "bf16": torch.randn(50, 3).bfloat16(),
    "strided": torch.arange(12.0).view(3, 4).T,
    "bool": torch.tensor([[True, False]]),
    "number": torch.tensor(3, dtype=torch.int64),
    "empty": torch.empty(0, 7),
    "words": ["a", {"b": 1.5}],
}


class Batches(IterableDataset):
    def __iter__(self):
        yield from [BATCH] * 5


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_batch_arrives_as_it_was_and_not_in_memory_that_torch_shares(num_workers):
    received = list(DataLoader(Batches(), batch_size=None, collate_fn=sent, num_workers=num_workers))
    assert len(received) == 5 * max(1, num_workers)
    for batch in received:
        assert batch["words"] == BATCH["words"]
        for name, tensor in batch.items():
            if name != "words":
                assert torch.equal(tensor, BATCH[name])
                assert tensor.dtype == BATCH[name].dtype
                assert not tensor.is_shared()  # as what comes by /dev/shm is
    if num_workers:  # it can be written to, and is no other's
        received[0]["bf16"][0, 0] = 7.0
        assert received[1]["bf16"][0, 0] != 7.0


def test_a_batch_whose_sender_is_gone_says_so_even_before_the_system_does():
    on_its_way = ForkingPickler.dumps(_Sent(BATCH))
    resource_sharer.stop()  # what gives the batch's memory to the receiver ends with its process
    with pytest.raises(RuntimeError, match="DataLoader worker ended before its batch was received"):
        ForkingPickler.loads(on_its_way)


def die(method, at):
    """Return a method that kills the worker which calls it for the time ``at``."""
    calls = []

    def dying(self, *args):
        calls.append(1)
        if get_worker_info() is not None and len(calls) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return method(self, *args)

    return dying


def extraction(folder, model):
    config = str(CONFIGS / "demo" / "extract.yaml")
    facts = {"out": folder, "split": "probe", "activations": folder / "activations", "model": model, "layers": "[1]"}
    return ["extract", "--config", config, *(f"--run.{name}={value}" for name, value in facts.items())]


@pytest.mark.slow
def test_an_extraction_whose_worker_is_killed_says_so_and_goes_on_when_it_is_called_again(
    tiny_audiollm, tmp_path, monkeypatch, capsys
):
    rng = np.random.default_rng(0)
    clips = [Clip(f"c{i}", rng.standard_normal(8000).astype(np.float32) / 5, 16000, "t") for i in range(8)]
    write_audio_shards(clips, tmp_path / "audio" / "probe", clips_per_shard=1)
    with monkeypatch.context() as patch:
        patch.setattr(_Clips, "_batches", die(_Clips._batches, at=3))
        with pytest.raises(SystemExit, match="2"):
            main(extraction(tmp_path, tiny_audiollm))
    assert "ard: a process that prepares batches was killed" in capsys.readouterr().err
    gc.collect()  # a DataLoader that is still alive watches its dead worker on
    assert not (tmp_path / "activations" / "manifest.json").exists()
    main(extraction(tmp_path, tiny_audiollm))
    assert read_manifest(tmp_path / "activations").clip_ids == tuple(f"c{i}" for i in range(8))


@pytest.mark.slow
def test_a_training_whose_worker_is_killed_says_so(tmp_path, monkeypatch, capsys):
    store = write_store(tmp_path / "activations", X)
    monkeypatch.setattr(Shuffled, "_fill", die(Shuffled._fill, at=6))
    with pytest.raises(SystemExit, match="2"):
        main(command(store, tmp_path / "run", "--data.init_args.num_workers=2"))
    assert "ard: a process that prepares batches was killed" in capsys.readouterr().err
    assert list((tmp_path / "run").rglob("*step=*.ckpt"))  # to go on from


def test_memory_that_runs_out_on_the_device_is_one_line(tmp_path, monkeypatch, capsys):
    def fill(self, *args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB. GPU 0 has ...")

    monkeypatch.setattr(Shuffled, "_cut", fill)
    with pytest.raises(SystemExit, match="2"):
        main(command(write_store(tmp_path / "activations", X), tmp_path / "run"))
    assert "ard: out of memory (CUDA out of memory): make the batches smaller" in capsys.readouterr().err
