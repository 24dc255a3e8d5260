"""Training stopped at any moment, on several ranks, on bad data and from bad checkpoints: the weights are the same."""

import itertools
import json
import multiprocessing
import os
import re
import shutil
import signal
import time

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from ard.activations import ActivationDataModule
from ard.activations.store import write_manifest, write_shard
from ard.chain import Chain, newest_whole
from ard.cli import main
from ard.presets import CONFIGS
from ard.sae import (
    AnnealK,
    LogQuality,
    SAETraining,
    SaveSAE,
    SaveWhenStopped,
    WarmUpAndDecay,
    WholeCheckpoints,
    is_whole,
)
from ard.sae.module import check_precision
from ard.steps import work
from ard.types import UserError
from tests import launch
from tests.launch import finish

pytestmark = pytest.mark.slow

ABOUT = {"model": "m", "layers": [1], "audio": "x", "dtype": "bfloat16"}
NUM_SHARDS, CLIPS_PER_SHARD, TOKENS_PER_CLIP, D_IN = 6, 4, 10, 8
NUM_TOKENS = NUM_SHARDS * CLIPS_PER_SHARD * TOKENS_PER_CLIP
SEED = torch.Generator().manual_seed(0)
X = (torch.randn(NUM_SHARDS, CLIPS_PER_SHARD, TOKENS_PER_CLIP, D_IN, generator=SEED) + 1).bfloat16()


def write_store(folder, x):
    for number, clips in enumerate(x):
        known = [{"id": f"c{number}-{place}", "num_tokens": len(clip)} for place, clip in enumerate(clips)]
        write_shard(folder, number, [(about, {1: clip}) for about, clip in zip(known, clips, strict=True)], [], ABOUT)
    write_manifest(folder, len(x), x.shape[-1], ABOUT)
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store") / "activations", X)


def command(store, out, *more, steps=60, every=7):
    """The paper's training, with a checkpoint every few steps, on tiny activations."""
    out.mkdir(exist_ok=True)
    shutil.copy(CONFIGS / "paper" / "run.yaml", out)
    config = (CONFIGS / "paper" / "fit.yaml").read_text(encoding="utf-8")
    (out / "fit.yaml").write_text(
        config.replace("every_n_train_steps: 5000", f"every_n_train_steps: {every}"), encoding="utf-8"
    )
    facts = {"out": out, "activations": store, "evaluation": "null", "layer": 1, "expansion": 4, "d_in": D_IN, "k": 3}
    trainer = {"max_steps": steps, "val_check_interval": 10, "limit_val_batches": 2, "logger": "false"}
    trainer |= {"enable_progress_bar": "false", "accelerator": "cpu"}
    return [
        *("fit", "--config", str(out / "fit.yaml"), *(f"--run.{name}={value}" for name, value in facts.items())),
        *(f"--trainer.{name}={value}" for name, value in trainer.items()),
        *("--data.init_args.batch_tokens=32", "--data.init_args.buffer_tokens=96", "--model.init_args.lr=1e-2", *more),
    ]


def checkpoints(out):
    return out / "layer-1" / "e4" / "checkpoints"


def weights(out):
    return (out / "layer-1" / "e4" / "sae" / "sae_weights.safetensors").read_bytes()


def slowly(args, environment, seconds_per_step=0.0):
    """Run a command as a session's leader, with checkpoints that take a while to write."""
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # as it is by default; here it is inherited
    os.environ.update(environment)
    fsync, step = os.fsync, SAETraining.training_step
    os.fsync = lambda file: (time.sleep(0.02), fsync(file))
    SAETraining.training_step = lambda *given: (time.sleep(seconds_per_step), step(*given))[1]
    main(args)


def start(target, *args, ranks=1):
    """Start a function in a process of its own, or in one for every rank."""
    return launch.start(target, *args, environments=launch.one_node(ranks) if ranks > 1 else [{}])


def newest_step(out):
    steps = [int(path.stem.partition("step=")[2]) for path in checkpoints(out).glob("*step=*.ckpt")]
    return max(steps, default=0)


def stop(started, out, blow, step):
    """Give every process of a training the blow once it has a checkpoint of that step; return how the first ended.

    Workers get it too, but for SIGTERM, at which DataLoader ends without waiting for the step.
    """
    deadline = time.monotonic() + 120
    while newest_step(out) < step:
        assert all(process.is_alive() for process in started)
        assert time.monotonic() < deadline
        time.sleep(0.001)
    for process in started:
        (os.kill if blow == signal.SIGTERM else os.killpg)(process.pid, blow)
    for process in started:
        process.join(60)
    return started[0].exitcode


PRESETS = {"plain": [], "robust": ["--model.init_args.robust=true", "--model.init_args.dead_after_tokens=200"]}
BLOWS = [(signal.SIGKILL, 7), (signal.SIGTERM, 14), (signal.SIGINT, 35)]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("preset", PRESETS)
def test_training_that_is_stopped_again_and_again_ends_with_the_same_bytes(store, tmp_path, preset, num_workers):
    options = [*PRESETS[preset], f"--data.init_args.num_workers={num_workers}"]
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    finish(start(slowly, command(store, unbroken, *options)))
    went_on = []
    for blow, step in BLOWS:
        args = command(store, broken, *options, *went_on)
        ended = stop(start(slowly, args), broken, blow, step)
        assert ended == (-signal.SIGKILL if blow == signal.SIGKILL else 128 + blow)
        newest = newest_whole(checkpoints(broken))
        if blow != signal.SIGKILL:
            assert newest.name == "stopped.ckpt"
        went_on = [f"--ckpt_path={newest}"]
    finish(start(slowly, command(store, broken, *options, *went_on)))
    assert weights(broken) == weights(unbroken)
    assert not (checkpoints(broken) / "stopped.ckpt").exists()


def test_two_ranks_that_are_killed_end_with_the_same_bytes(store, tmp_path):
    options = [*PRESETS["robust"], "--trainer.devices=2", "--trainer.strategy=ddp"]
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    finish(start(slowly, command(store, unbroken, *options), ranks=2))
    stop(start(slowly, command(store, broken, *options), ranks=2), broken, signal.SIGKILL, 21)
    went_on = f"--ckpt_path={newest_whole(checkpoints(broken))}"
    finish(start(slowly, command(store, broken, *options, went_on), ranks=2))
    assert weights(broken) == weights(unbroken)


class Halves(lightning.LightningDataModule):
    """Batches of 64 tokens, of which every rank gets its share."""

    def train_dataloader(self):
        x = torch.randn(30, 64, 16, generator=torch.Generator().manual_seed(1)) @ torch.randn(
            16, 16, generator=torch.Generator().manual_seed(2)
        )
        return DataLoader(list(x[:, self.trainer.global_rank :: self.trainer.world_size] + 2), batch_size=None)


QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "use_distributed_sampler": False,
}


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


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "64-true"])
def test_a_precision_in_which_training_fails_is_refused(store, tmp_path, capsys, precision):
    with pytest.raises(SystemExit):
        main(command(store, tmp_path, f"--trainer.precision={precision}"))
    wanted = f"trainer.precision is {precision!r}, in which an SAE cannot be trained: choose 32-true or bf16-mixed"
    assert wanted in capsys.readouterr().err


def test_clipping_of_scaled_gradients_is_refused():
    with pytest.raises(
        UserError, match=r"precision is '16-mixed', whose gradients are still scaled when .* choose bf16-mixed"
    ):
        check_precision("16-mixed", clips=True)
    check_precision("16-mixed", clips=False)
    check_precision("bf16-mixed", clips=True)


class Stop(lightning.Callback):
    """Send this process a SIGTERM, after a step or in the validation that follows it."""

    def __init__(self, step, in_validation=False):
        self.step, self.in_validation = step, in_validation

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step and not self.in_validation:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step and self.in_validation:
            os.kill(os.getpid(), signal.SIGTERM)


def fit(store, out, callbacks=(), options=None, trainer=None, went_on=None, **data):
    module = SAETraining(D_IN, 4, k=3, lr=1e-2, **(options or {"robust": True}))
    data = ActivationDataModule(store, layer=1, batch_tokens=32, **{"buffer_tokens": 96, **data})
    saving = [
        ModelCheckpoint(out, every_n_train_steps=8, monitor="step", mode="max", save_top_k=2),
        SaveWhenStopped(out / "stopped.ckpt"),
        SaveSAE(out / "sae"),
        LogQuality(),
    ]
    settings = {**QUIET, "max_steps": 40, "val_check_interval": 12, "num_sanity_val_steps": 0, **(trainer or {})}
    settings |= {"enable_checkpointing": True, "plugins": [WholeCheckpoints()]}
    fitter = lightning.Trainer(callbacks=[*callbacks, *saving], **settings)
    fitter.fit(module, data, ckpt_path=went_on)
    return load_file(out / "sae" / "sae_weights.safetensors"), fitter


STATES = {
    "k and learning rate": {"callbacks": lambda: [AnnealK(11, 30), WarmUpAndDecay(5, 10)]},
    "average": {"callbacks": lambda: [EMAWeightAveraging(decay=0.9, use_buffers=False)]},
    "batch top k": {"options": {"batch_top_k": True}},
    "matryoshka": {"options": {"robust": True, "matryoshka": [0.25, 0.75], "dead_after_tokens": 200}},
    "gradients added up": {"trainer": {"accumulate_grad_batches": 3, "max_steps": 20, "val_check_interval": 36}},
}


@pytest.mark.parametrize("stop", [(19, False), (12, True)], ids=["training", "validation"])
@pytest.mark.parametrize("states", STATES.values(), ids=STATES)
def test_everything_that_has_a_state_goes_on_with_it(store, tmp_path, states, stop):
    callbacks, settings = states.get("callbacks", list), {k: v for k, v in states.items() if k != "callbacks"}
    unbroken, _ = fit(store, tmp_path / "unbroken", callbacks(), **settings)
    with pytest.raises(SIGTERMException):
        fit(store, tmp_path / "broken", [*callbacks(), Stop(*stop)], **settings)
    newest = newest_whole(tmp_path / "broken")
    went_on, _ = fit(store, tmp_path / "broken", callbacks(), went_on=newest, **settings)
    assert set(went_on) == set(unbroken)
    for name, tensor in unbroken.items():
        assert torch.equal(went_on[name], tensor), name


def test_a_training_that_was_killed_after_its_last_step_is_finished(store, tmp_path):
    callbacks = [EMAWeightAveraging(decay=0.9, use_buffers=False), AnnealK(11, 30)]
    unbroken, _ = fit(store, tmp_path, callbacks)
    shutil.rmtree(tmp_path / "sae")
    went_on, _ = fit(store, tmp_path, callbacks, went_on=newest_whole(tmp_path))
    for name, tensor in unbroken.items():
        assert torch.equal(went_on[name], tensor), name


def refused(args, capsys):
    """Run a command that must fail, and return what it shows, which is one line of this project's and no traceback."""
    with pytest.raises(SystemExit) as stopped:
        main(args)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    (line,) = [line for line in said.splitlines() if line.startswith("ard: ")]
    assert said.endswith(f"{line}\n")
    assert "Traceback" not in said
    return line


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


def fit_all(chain):
    """Train the SAEs of a chain whose activations are there."""
    chain._train([one for one in work(chain.facts, [4]) if one.step.name == "fit"])


def test_a_chain_goes_on_in_the_middle_of_a_fit_from_the_newest_checkpoint_that_is_whole(
    store, tmp_path, monkeypatch, capsys
):
    facts = {"activations": str(store), "evaluation": None, "d_in": D_IN, "k": 3, "layers": [1], "layer": 1}
    facts |= {"expansions": [4]}
    chains = {name: Chain("demo", {**facts, "out": str(tmp_path / name)}) for name in ("unbroken", "broken")}
    fit_all(chains["unbroken"])
    capsys.readouterr()
    step, folder = SAETraining.training_step, checkpoints(tmp_path / "broken")

    def stop(module, *given):
        if module.global_step in (150, 350):
            os.kill(os.getpid(), signal.SIGTERM)
        return step(module, *given)

    monkeypatch.setattr(SAETraining, "training_step", stop)
    for _ in range(2):
        with pytest.raises(SystemExit) as stopped:
            fit_all(chains["broken"])
        assert stopped.value.code == 128 + signal.SIGTERM
    assert f"goes on from {folder / 'stopped.ckpt'}" in capsys.readouterr().err
    monkeypatch.undo()
    (folder / "stopped.ckpt").write_bytes((folder / "stopped.ckpt").read_bytes()[:-1])
    fit_all(chains["broken"])
    said = capsys.readouterr().err
    assert f"{folder / 'stopped.ckpt'} is cut short or damaged: passed over" in said
    assert f"goes on from {folder / 'epoch=0-step=200.ckpt'}" in said
    assert weights(tmp_path / "broken") == weights(tmp_path / "unbroken")
    for path in folder.glob("*.ckpt"):
        path.write_bytes(b"")
    assert newest_whole(folder) is None


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
