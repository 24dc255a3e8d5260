"""What is on the screen while commands run, as processes of their own, and how they end when they are stopped."""

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

from ard.presets import CONFIGS

ADVERTISED = re.compile(
    r"Tip|💡|GPU|TPU|HPU|Seed set|https?://|lightning\.ai|litlogger|litmodels|wandb|Trainer\.|anonymous|Predicting|Testing"
    r"|Epoch|it/s|Warning|Traceback|KeyboardInterrupt",
    re.IGNORECASE,
)
STOPPED = "ard: stopped; the same command goes on from "


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder of short sounds, enough for several shards."""
    folder, rng = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0)
    for number in range(390):
        soundfile.write(folder / f"{number}.wav", 0.1 * rng.standard_normal(2000), 8000)
    return folder


def started(*words):
    """Start `ard` in a process group of its own, with both outputs in one."""
    command = [sys.executable, "-m", "ard", *map(str, words)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8", start_new_session=True
    )


def ended(process, *, code=0):
    """Return the lines of a process that ends with this code and advertises nothing."""
    shown = process.communicate(timeout=300)[0]
    assert process.returncode == code, shown
    assert not ADVERTISED.search(shown), shown
    return shown.splitlines()


def interrupted(process, sign):
    """Press Ctrl-C once there is a sign of progress: the terminal sends it to all processes of the group."""
    deadline = time.monotonic() + 120
    while not sign():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGINT)
    *_, last = lines = ended(process, code=130)
    assert last.startswith(STOPPED)
    assert sum(line.startswith("ard: ") for line in lines) == 1
    return lines


@pytest.mark.slow
def test_a_run_that_is_stopped_again_and_again_goes_on_and_advertises_nothing(
    clips, tiny_audiollm, tiny_clap, tmp_path
):
    out = tmp_path / "run"
    command = ["run", "--audio", clips, "--model", tiny_audiollm, "--clap", tiny_clap, "--out", out]
    command += ["--k", "4", "--expansion", "1"]
    first, cell = out / "activations/shards/000000.json", out / "layer-3/e1"
    checkpoints = cell / "checkpoints"

    interrupted(started(*command), first.is_file)
    assert not (out / "activations/manifest.json").exists()
    extracted = first.stat().st_mtime_ns

    *_, last = interrupted(started(*command), lambda: any(checkpoints.glob("*.ckpt")))
    assert first.stat().st_mtime_ns == extracted
    assert last.startswith(f"{STOPPED}its checkpoint")

    lines = interrupted(started(*command), (cell / "concepts.parquet").is_file)
    assert f"· goes on from {checkpoints / 'stopped.ckpt'}" in lines
    assert not any("activations: probe" in line for line in lines)

    facts = [f"--run.{fact}" for fact in (f"out={out}", "d_in=32", "evaluation=null", "k=4", "expansion=4")]
    shown = ended(started("fit", "--config", CONFIGS / "demo/fit.yaml", *facts, "--trainer.max_steps=2"))
    assert set(shown) <= {"  loading the libraries"}  # which takes over two seconds on a busy machine
    assert (out / "layer-3/e4/sae/cfg.json").is_file()
