"""A checkpoint is there whole or not at all, and one that is damaged is refused by name."""

import itertools
import os

import pytest
import torch

from ard.cli import main
from ard.sae import WholeCheckpoints, is_whole
from tests.sae.trainings import checkpoints, command, fit, refused

pytestmark = pytest.mark.slow


def test_a_checkpoint_is_there_whole_or_not_at_all(store, tmp_path, monkeypatch):
    fit(store, tmp_path)
    path = tmp_path / "some.ckpt"
    path.write_bytes(b"the one before")

    def crash(file):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(KeyboardInterrupt):
        WholeCheckpoints().save_checkpoint({"x": torch.ones(100)}, path)
    assert path.read_bytes() == b"the one before"
    monkeypatch.undo()
    WholeCheckpoints().save_checkpoint({"x": torch.ones(100)}, path)
    assert torch.equal(WholeCheckpoints().load_checkpoint(path)["x"], torch.ones(100))


def test_no_flipped_bit_and_no_cut_of_a_checkpoint_goes_unseen(tmp_path):
    path, x = tmp_path / "x.ckpt", torch.arange(30.0)
    WholeCheckpoints().save_checkpoint({"x": x, "step": 5}, path)
    whole, num_refused = path.read_bytes(), 0
    for position, bit in itertools.product(range(len(whole)), (0, 4)):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << bit
        path.write_bytes(flipped)
        if is_whole(path):  # the bit was one that nobody reads
            found = torch.load(path)
            assert torch.equal(found["x"], x)
            assert found["step"] == 5
        else:
            num_refused += 1
    assert num_refused > 2 * (4 * len(x) + 20)
    for length in range(0, len(whole), 10):
        path.write_bytes(whole[:length])
        assert not is_whole(path)


def test_a_damaged_checkpoint_is_refused_by_name(store, tmp_path, capsys):
    args = command(store, tmp_path / "run", steps=8)
    main(args)
    path = checkpoints(tmp_path / "run") / "epoch=0-step=7.ckpt"
    whole = path.read_bytes()
    damaged = bytearray(whole)
    weight = torch.load(path, weights_only=True)["state_dict"]["saes.0.W_dec"]
    damaged[whole.index(weight.numpy().tobytes())] ^= 1  # elsewhere a byte may be padding
    for content in (whole[: len(whole) // 2], bytes(damaged), b""):
        path.write_bytes(content)
        line = refused([*args, f"--ckpt_path={path}"], capsys)
        assert line == (
            f"ard: checkpoint {str(path)!r} is cut short or damaged: delete it and go on from the one before, "
            "or without"
        )
    path.unlink()
    assert "does not exist: see which .ckpt files are there" in refused([*args, f"--ckpt_path={path}"], capsys)
