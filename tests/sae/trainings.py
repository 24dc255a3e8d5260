"""Trainings of a small SAE on a store of few tokens: by the command, in processes of their own, by a Trainer."""

import os
import shutil
import signal

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file

from ard.activations import ActivationDataModule
from ard.activations.store import write_manifest, write_shard
from ard.cli import main
from ard.presets import CONFIGS
from ard.sae import LogQuality, SAETraining, SaveSAE, SaveWhenStopped, WholeCheckpoints
from tests import launch

ABOUT = {"model": "m", "layers": [1], "audio": "x", "dtype": "bfloat16"}
NUM_SHARDS, CLIPS_PER_SHARD, TOKENS_PER_CLIP, D_IN = 6, 4, 10, 8
NUM_TOKENS = NUM_SHARDS * CLIPS_PER_SHARD * TOKENS_PER_CLIP
SEED = torch.Generator().manual_seed(0)
X = (torch.randn(NUM_SHARDS, CLIPS_PER_SHARD, TOKENS_PER_CLIP, D_IN, generator=SEED) + 1).bfloat16()
ROBUST = ["--model.init_args.robust=true", "--model.init_args.dead_after_tokens=200"]
QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "use_distributed_sampler": False,
}


def write_store(folder, x):
    for number, clips in enumerate(x):
        known = [{"id": f"c{number}-{place}", "num_tokens": len(clip)} for place, clip in enumerate(clips)]
        write_shard(folder, number, [(about, {1: clip}) for about, clip in zip(known, clips, strict=True)], [], ABOUT)
    write_manifest(folder, len(x), x.shape[-1], ABOUT)
    return folder


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


def start(target, *args, ranks=1):
    """Start a function in a process of its own, or in one for every rank."""
    return launch.start(target, *args, environments=launch.one_node(ranks) if ranks > 1 else [{}])


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
