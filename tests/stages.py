"""Stages of a run by their own commands, on the demo's YAML files, with tiny models and few clips."""

import shutil

import yaml

from ard.audio import SyntheticCorpus, write_audio_shards
from ard.cli import main
from ard.presets import CONFIGS
from ard.run import Run


def extract(out, model, clap, bertscore):
    """Make a run's clips and extract their activations; return what runs more of its stages."""
    facts = {
        "out": out,
        "model": model,
        "clap": clap,
        "bertscore": bertscore,
        "d_in": 32,
        "k": 4,
        "layer": 2,
        "layers": "[0,2]",
        "num_selected": 12,
        "expansion": 2,
        "num_draws": 2,
        "num_steered": 4,
    }
    facts = [f"--run.{name}={value}" for name, value in facts.items()]

    def stage(command, config, *more):
        main([command, "--config", str(CONFIGS / "demo" / f"{config}.yaml"), *facts, *more])

    for split in ("steer", "steer-select"):
        shards = ["shards", "synthetic", "--split", split, "--speech_share", "1.0", "--num_clips", "12"]
        main([*shards, "--out", str(out / "audio" / split)])
    for split in ("probe", "eval"):  # in shards enough for several ranks
        write_audio_shards(SyntheticCorpus(split, num_clips=12, speech_share=0.3), out / "audio" / split, 5)
    stage("extract", "extract")
    stage("extract", "extract", "--run.split=eval", f"--run.activations={out}/activations-eval")
    return stage


def write_scoring(folder, retrieve=(), score=()):
    """Write the demo's test.yaml with the first two evaluators alone, some of their settings changed."""
    config = yaml.safe_load((CONFIGS / "demo" / "test.yaml").read_text(encoding="utf-8"))
    config["trainer"]["callbacks"] = config["trainer"]["callbacks"][:2]
    for callback, settings in zip(config["trainer"]["callbacks"], (retrieve, score), strict=True):
        callback["init_args"] |= dict(settings)
    (folder / "test.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    shutil.copy(CONFIGS / "demo" / "run.yaml", folder)
    return str(folder / "test.yaml")


def apart(run, folder):
    """Return a cell in a run's folder of its own, which has the same audio."""
    cell = Run(folder).cell(2, 2)
    folder.mkdir(exist_ok=True)
    (folder / "audio").symlink_to(run / "audio")
    return cell
