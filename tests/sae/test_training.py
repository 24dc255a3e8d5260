"""Training stopped at any moment, and gone on with: the weights are the same."""

import multiprocessing
import os
import shutil
import signal
import time

import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.utilities.exceptions import SIGTERMException

from ard.chain import Chain, newest_whole
from ard.cli import main
from ard.sae import AnnealK, SAETraining, WarmUpAndDecay
from ard.sae.module import check_precision
from ard.steps import work
from ard.types import UserError
from tests.launch import finish
from tests.sae.trainings import D_IN, ROBUST, Stop, checkpoints, command, fit, start, weights

pytestmark = pytest.mark.slow


def slowly(args, environment, seconds_per_step=0.0):
    """Run a command as a session's leader, with checkpoints that take a while to write."""
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # as it is by default; here it is inherited
    os.environ.update(environment)
    fsync, step = os.fsync, SAETraining.training_step
    os.fsync = lambda file: (time.sleep(0.02), fsync(file))
    SAETraining.training_step = lambda *given: (time.sleep(seconds_per_step), step(*given))[1]
    main(args)


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


PRESETS = {"plain": [], "robust": ROBUST}
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
    options = [*ROBUST, "--trainer.devices=2", "--trainer.strategy=ddp"]
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    finish(start(slowly, command(store, unbroken, *options), ranks=2))
    stop(start(slowly, command(store, broken, *options), ranks=2), broken, signal.SIGKILL, 21)
    went_on = f"--ckpt_path={newest_whole(checkpoints(broken))}"
    finish(start(slowly, command(store, broken, *options, went_on), ranks=2))
    assert weights(broken) == weights(unbroken)


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
