"""The sweep file, as W&B's agent runs it; there is no server."""

import itertools

import pytest
import torch
import wandb.wandb_agent
import yaml
from omegaconf import OmegaConf

from ard.cli import main
from ard.presets import CONFIGS
from ard.sae import TopKSAE
from tests.stores import write_activations

SWEEP = yaml.safe_load((CONFIGS / "sweep.yaml").read_text(encoding="utf-8"))
FACTS = OmegaConf.load(CONFIGS / "demo" / "run.yaml")


@pytest.fixture
def agent_runs(tmp_path, monkeypatch):
    """Let W&B's agent start a training with some parameters, and return the command that it would run."""
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_DIR", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):
        monkeypatch.setenv(name, str(tmp_path))  # the agent changes them
    started = []

    class Process:
        def __init__(self, *, command, env, forward_signals):
            started.append(command)

    monkeypatch.setattr(wandb.wandb_agent, "AgentProcess", Process)

    def run(parameters):
        agent = wandb.wandb_agent.Agent(api=None, queue=None, sweep_id="s")
        agent._sweep_command = list(SWEEP["command"])
        values = {name: {"value": value} for name, value in parameters.items()}
        agent._command_run({"run_id": "r", "program": SWEEP["program"], "args": values})
        return started[-1]

    return run


def test_the_agent_trains_one_sae_for_each_combination(agent_runs, tmp_path):
    names = SWEEP["parameters"]
    combinations = itertools.product(*(names[name]["values"] for name in names))
    commands = [tuple(agent_runs(dict(zip(names, values, strict=True)))) for values in combinations]
    assert len(set(commands)) == 27
    for command in commands:
        assert command[:4] == ("/usr/bin/env", "WANDB_MODE=online", "lightning", "fit")


def test_the_parameters_are_facts_of_the_preset():
    assert {name.removeprefix("run.") for name in SWEEP["parameters"]} <= set(FACTS)
    assert SWEEP["parameters"]["run.layer"]["values"] == FACTS.layers
    assert SWEEP["parameters"]["run.expansion"]["values"] == FACTS.expansions
    assert FACTS.k in SWEEP["parameters"]["run.k"]["values"]


def test_the_command_of_the_agent_trains(agent_runs, tmp_path, capsys):
    (tmp_path / "configs").symlink_to(CONFIGS)
    x = torch.randn(2, 300, FACTS.d_in, generator=torch.Generator().manual_seed(0)).bfloat16()
    for name in ("activations", "activations-eval"):
        folder = tmp_path / "runs" / "demo" / name
        write_activations(folder, [({"id": str(place)}, clip) for place, clip in enumerate(x)], layer=1)
    command = agent_runs({"run.layer": 1, "run.expansion": 4, "run.k": 8})
    main([*command[3:], "--trainer.max_steps=2", "--trainer.val_check_interval=1", "--trainer.logger=false"])
    sae = TopKSAE.from_pretrained(tmp_path / "runs/sweep/k8/layer-1/e4/sae")
    assert (sae.k, sae.d_sae) == (8, 4 * FACTS.d_in)
    assert SWEEP["metric"]["name"] == "val/fvu"
    assert sae.metadata["metrics"]["fvu"] > 0
