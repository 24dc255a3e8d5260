"""A tiny run's folder: activations with labels, and what CLAP hears of the clips."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import normalize

from ard.activations.store import write_manifest, write_shard
from ard.embedding import Clap
from ard.probing import Evaluator
from ard.run import Run

D_IN = 8
SOUNDS = ["dog", "rain", "bell", "wind", "siren", "cat", "car", "sea"]  # of the coordinates, and of CLAP's axes


class Space(Clap):
    """A CLAP whose axes are sounds."""

    name, d = "space", D_IN

    def hear(self, prepared):
        raise NotImplementedError

    def _read(self, texts):
        return torch.eye(D_IN)[[SOUNDS.index(text) for text in texts]]


@pytest.fixture
def tiny_run(tmp_path, monkeypatch):
    """Make 12 probing clips in three shards and 9 others in two, whose loudest coordinates are their labels."""
    run, generator, spaces = Run(tmp_path / "run"), torch.Generator().manual_seed(0), {}
    about = {"model": "none", "layers": [0], "dtype": "float32"}
    for split, sizes in (("probe", (5, 5, 2)), ("eval", (5, 4))):
        heard = []
        for shard, size in enumerate(sizes):
            clips = []
            for place in range(size):
                x = torch.rand(3 + place, D_IN, generator=generator) * (torch.rand(D_IN, generator=generator) < 0.4)
                heard.append(x.mean(dim=0))
                labels = [SOUNDS[i] for i in heard[-1].topk(2).indices.tolist() if heard[-1][i] > 0]
                known = {"id": f"{split}-{shard}-{place}", "num_tokens": len(x), "labels": labels}
                clips.append((known, {0: x}))
            write_shard(run.activations(split), shard, clips, [], about)
        write_manifest(run.activations(split), len(sizes), D_IN, about)
        spaces[split] = normalize(torch.stack(heard) + 1e-3, dim=1)
    monkeypatch.setattr(Evaluator, "clap", lambda self: Space())
    monkeypatch.setattr(Evaluator, "embeddings", lambda self, cell, split, ranks=None: spaces[split])
    return SimpleNamespace(run=run, cell=run.cell(0, None))
