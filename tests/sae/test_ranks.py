"""Training on several ranks makes of the same batches what one rank makes; what they cannot share is refused."""

import json
import os

import lightning
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from ard.activations import ActivationDataModule
from ard.cli import main
from ard.sae import SAETraining
from tests.launch import finish
from tests.sae.trainings import D_IN, NUM_TOKENS, QUIET, X, command, start, write_store

pytestmark = pytest.mark.slow


class Halves(lightning.LightningDataModule):
    """Batches of 64 tokens, of which every rank gets its share."""

    def train_dataloader(self):
        x = torch.randn(30, 64, 16, generator=torch.Generator().manual_seed(1)) @ torch.randn(
            16, 16, generator=torch.Generator().manual_seed(2)
        )
        return DataLoader(list(x[:, self.trainer.global_rank :: self.trainer.world_size] + 2), batch_size=None)


def follow(out, options, environment):
    """Train on the share of a rank, or on all, and save the weights."""
    os.environ.update(environment)
    ranks = {"devices": 2, "strategy": "ddp"} if environment else {}
    module = SAETraining(16, 4, k=3, lr=1e-3, dead_after_tokens=100, k_aux=8, **options)
    trainer = lightning.Trainer(max_steps=30, **QUIET, **ranks)
    trainer.fit(module, Halves())
    if trainer.is_global_zero:
        torch.save({**module.state_dict(), "dead_share": trainer.callback_metrics["train/dead_share"]}, out)


@pytest.mark.parametrize("options", [{}, {"robust": True}], ids=["plain", "robust"])
def test_two_ranks_at_half_the_batch_follow_one_at_the_full_batch(tmp_path, options):
    follow(tmp_path / "one.pt", options, {})
    finish(start(follow, tmp_path / "two.pt", options, ranks=2))
    one, two = torch.load(tmp_path / "one.pt"), torch.load(tmp_path / "two.pt")
    assert one["dead_share"] > 0
    assert torch.equal(one["tokens_silent"], two["tokens_silent"])
    for name, tensor in one.items():
        off = (two[name] - tensor).double().norm() / tensor.double().norm().clamp_min(1e-12)
        assert off < 1e-5, name


class Seen(lightning.Callback):
    """Note the tokens of every batch, which carry their number."""

    def __init__(self):
        self.tokens = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.tokens += batch[:, 0].long().tolist()


def see(store, out, environment):
    os.environ.update(environment)
    data, seen = ActivationDataModule(store, layer=1, batch_tokens=24, buffer_tokens=1000), Seen()
    steps = NUM_TOKENS // 24
    trainer = lightning.Trainer(max_steps=steps, devices=2, strategy="ddp", callbacks=[seen], **QUIET)
    trainer.fit(SAETraining(D_IN, 4, k=3), data)
    (out / f"{trainer.global_rank}.json").write_text(json.dumps(seen.tokens), encoding="utf-8")


def test_the_tokens_of_two_ranks_are_disjoint_and_together_all_of_an_epoch(tmp_path):
    numbers = torch.arange(NUM_TOKENS).view(*X.shape[:-1], 1).expand(X.shape).bfloat16()  # exact below 256
    store = write_store(tmp_path / "activations", numbers)
    finish(start(see, store, tmp_path, ranks=2))
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(2))
    assert not set(first) & set(second)
    assert sorted(first + second) == list(range(NUM_TOKENS))


def train(store, out, options, environment):
    os.environ.update(environment)
    ranks = ["--trainer.devices=2", "--trainer.strategy=ddp"] if environment else []
    main(command(store, out, *options, *ranks, steps=20))


@pytest.mark.parametrize("skip", [False, True])
def test_two_ranks_make_of_the_same_batches_what_one_makes(tmp_path, skip):
    x = X.clone()
    options = ["--model.init_args.robust=true"]
    if skip:  # so that the ranks have parts of unequal length
        x[2, 1, 3:6] = torch.nan
        options += ["--data.init_args.skip_not_finite=true"]
    store = write_store(tmp_path / "activations", x)
    train(store, tmp_path / "one", options, {})
    finish(start(train, store, tmp_path / "two", options, ranks=2))
    one, two = (
        load_file(tmp_path / name / "layer-1" / "e4" / "sae" / "sae_weights.safetensors") for name in ("one", "two")
    )
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--data.init_args.batch_tokens=31"],
            "batch_tokens is 31, which 2 ranks cannot share evenly: give a multiple",
        ),
        (["--model.init_args.batch_top_k=true"], "max_norm_multiple and batch_top_k need the whole batch"),
        (["--model.init_args.max_norm_multiple=3"], "but each of 2 ranks has only a part: set trainer.devices to 1"),
    ],
)
def test_what_ranks_cannot_share_is_refused(store, tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.setattr(lightning.Trainer, "world_size", 2)
    with pytest.raises(SystemExit):
        main(command(store, tmp_path, *options))
    assert message in capsys.readouterr().err
