"""Tokens that are not finite stop a training and are named, or are skipped where that is wanted."""

import itertools
import re

import lightning
import pytest
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from ard.activations import ActivationDataModule
from ard.chain import newest_whole
from ard.types import UserError
from tests.sae.trainings import Stop, X, command, fit, refused, write_store

pytestmark = pytest.mark.slow


@pytest.fixture
def broken_store(tmp_path):
    """Activations with two bad tokens in one clip and one in another."""
    x = X.clone()
    x[2, 1, 3, 0], x[2, 1, 7, 5], x[4, 3, 0, 0] = torch.nan, torch.inf, -torch.inf
    return write_store(tmp_path / "activations", x)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("buffer_tokens", [96, 1000], ids=["refilled", "whole"])
def test_a_token_that_is_not_finite_stops_training_and_is_named(
    broken_store, tmp_path, capfd, buffer_tokens, num_workers
):
    settings = [f"--data.init_args.buffer_tokens={buffer_tokens}", f"--data.init_args.num_workers={num_workers}"]
    line = refused(command(broken_store, tmp_path / "run", *settings), capfd)
    shard = re.escape(repr(f"{broken_store}/layer-1/00000N.tar")).replace("N", "[24]")
    assert re.fullmatch(
        rf"ard: clip 'c(2-1|4-3)' of activation shard {shard} holds NaN or infinity in [12] of 10 tokens: delete the "
        r"shard and run `ard extract` again, which leaves such clips out, or set the data's skip_not_finite to true",
        line,
    )


class Values(lightning.pytorch.loggers.logger.DummyLogger):
    """Keep what is logged."""

    def __init__(self):
        super().__init__()
        self.values = {}

    def log_metrics(self, metrics, step=None):
        self.values |= metrics


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("buffer_tokens", [96, 1000], ids=["refilled", "whole"])
def test_tokens_that_are_not_finite_are_skipped_if_wanted(
    broken_store, tmp_path, caplog, buffer_tokens, num_workers, store
):
    settings = {"skip_not_finite": True, "num_workers": num_workers, "trainer": {"logger": (logger := Values())}}
    settings |= {"buffer_tokens": buffer_tokens}
    trained, trainer = fit(broken_store, tmp_path / "whole", **settings)
    assert all(x.isfinite().all() for x in trained.values())
    said = [record.message for record in caplog.records if record.name.startswith("ard")]
    assert sorted(line.partition(" of ")[0] for line in said) == ["clip 'c2-1'", "clip 'c4-3'"]
    assert "000002.tar' holds NaN or infinity in 2 of 10 tokens: skipped" in min(said)

    plain = ActivationDataModule(store, layer=1, batch_tokens=32, buffer_tokens=buffer_tokens, num_workers=num_workers)
    bad = ActivationDataModule(
        broken_store,
        layer=1,
        batch_tokens=32,
        buffer_tokens=buffer_tokens,
        num_workers=num_workers,
        skip_not_finite=True,
    )
    pairs = list(itertools.islice(zip(plain.train_dataloader(), bad.train_dataloader(), strict=False), 40))
    num_skipped = sum(len(whole) - len(left) for whole, left in pairs)
    assert logger.values["train/skipped_tokens"] == trainer.datamodule.num_skipped == num_skipped > 3
    for whole, left in pairs:  # the stream is the same, but for the tokens that are left out
        assert (whole[None] == left[:, None]).all(dim=-1).any(dim=1).all()

    with pytest.raises(SIGTERMException):
        fit(broken_store, tmp_path / "broken", [Stop(17)], **settings)
    went_on, trainer = fit(broken_store, tmp_path / "broken", went_on=newest_whole(tmp_path / "broken"), **settings)
    assert all(torch.equal(went_on[name], tensor) for name, tensor in trained.items())
    assert trainer.datamodule.num_skipped == num_skipped


def test_a_batch_without_a_finite_token_stops_training(tmp_path):
    store = write_store(tmp_path / "activations", torch.full_like(X, torch.nan))
    data = ActivationDataModule(store, layer=1, batch_tokens=32, skip_not_finite=True)
    with pytest.raises(
        UserError, match=r"activations': a batch of 32 tokens holds only NaN .*: run `ard extract` again"
    ):
        next(iter(data.train_dataloader()))
