"""Clips of the synthetic corpus whose truth is known, and a small run up to what naming needs."""

from typing import NamedTuple

import pytest
import torch

from ard.audio import SyntheticCorpus
from ard.audio.synthetic import LABELS
from ard.cli import main
from ard.embedding import load_clap
from ard.naming import Concepts
from ard.presets import CONFIGS

P = 4


class Truth(NamedTuple):
    """Concepts whose clips all have a label, and random lists of clips."""

    concepts: Concepts
    labels: list[str]  # of every concept
    random: Concepts


@pytest.fixture(scope="session")
def truth():
    """For every label of at least p of 240 clips, a concept of such clips; and 400 random lists."""
    clips, clap = list(SyntheticCorpus("namers", 240)), load_clap()
    embeddings = torch.cat([clap.audio(clips[start : start + 32]) for start in range(0, len(clips), 32)])
    labels = [clip.labels for clip in clips]
    with_label = {label: [row for row, own in enumerate(labels) if label in own] for label in LABELS}
    tops = {label: rows[:P] for label, rows in with_label.items() if len(rows) >= P}
    generator = torch.Generator().manual_seed(0)
    random = torch.stack([torch.randperm(len(clips), generator=generator)[:P] for _ in range(400)])
    concepts = Concepts(torch.tensor(list(tops.values())), (), embeddings, clap.text, labels)
    return Truth(concepts, list(tops), concepts._replace(top_ids=random))


@pytest.fixture(scope="session")
def folder(tiny_audiollm, tiny_clap, tmp_path_factory):
    """A run's folder up to a trained SAE, and the facts of it."""
    out = tmp_path_factory.mktemp("run")
    facts = {"out": out, "model": tiny_audiollm, "clap": tiny_clap, "d_in": 32, "k": 4, "layer": 2, "layers": "[2]"}
    facts |= {"num_selected": 12, "expansion": 2, "tasks": "[]"}
    facts = [f"--run.{name}={value}" for name, value in facts.items()]
    for split in ("probe", "eval"):
        main(["shards", "synthetic", "--split", split, "--num_clips", "12", "--out", str(out / "audio" / split)])
    main(["extract", "--config", str(CONFIGS / "demo/extract.yaml"), *facts])
    activations = f"--run.activations={out}/activations-eval"
    main(["extract", "--config", str(CONFIGS / "demo/extract.yaml"), *facts, "--run.split=eval", activations])
    main(["fit", "--config", str(CONFIGS / "demo/fit.yaml"), *facts, "--trainer.max_steps=30"])
    return out, facts


@pytest.fixture(scope="session")
def scored(folder):
    """The same run with all that naming needs."""
    out, facts = folder
    main(["test", "--config", str(CONFIGS / "demo/test.yaml"), *facts])
    return out, facts
