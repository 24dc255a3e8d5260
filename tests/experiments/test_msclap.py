"""experiments/msclap, with a stand-in for Microsoft's package, which cannot be installed beside transformers 5."""

import json
import runpy
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from ard.audio import write_audio_shards
from ard.embedding import load_clap
from ard.types import Clip, UserError

SCRIPT = "experiments/msclap/embed.py"


class StandIn:
    """Answers as msclap's CLAP does: a row a file or text, on no sphere."""

    def __init__(self, version, use_cuda):
        assert (version, use_cuda) == ("2023", False)

    def get_audio_embeddings(self, paths, resample):
        sounds = [soundfile.read(path) for path in paths]
        assert resample
        assert all(len(waveform) <= 7 * rate_hz for waveform, rate_hz in sounds)
        return torch.tensor([[waveform.mean(), 1.0] for waveform, _ in sounds])

    def get_text_embeddings(self, texts):
        return torch.tensor([[len(text), 1.0] for text in texts])


def run(monkeypatch, *args):
    monkeypatch.setitem(sys.modules, "msclap", SimpleNamespace(CLAP=StandIn))
    monkeypatch.setattr(sys, "argv", [SCRIPT, *map(str, args)])
    runpy.run_path(SCRIPT, run_name="__main__")


def test_what_the_script_writes_is_read(tmp_path, monkeypatch):
    levels = np.repeat(np.float32([0.1, 0.2, 0.3]), 8000 * 5)
    clips = [Clip("long", levels, 8000, "t"), Clip("short", levels[:4000], 8000, "t")]
    write_audio_shards(clips, tmp_path / "audio")
    run(monkeypatch, "clips", tmp_path / "audio", tmp_path / "out")
    clap = load_clap(f"computed:{tmp_path / 'out'}")
    expected = torch.nn.functional.normalize(torch.tensor([[0.2, 1.0], [0.1, 1.0]]), dim=1)
    torch.testing.assert_close(clap.audio(clips), expected, atol=1e-4, rtol=0)
    for texts in (["rain", "a dog"], ["a dog", "birds"]):
        with pytest.raises(UserError, match="lacks"):
            clap.text(texts)
        run(monkeypatch, "texts", tmp_path / "out")
    torch.testing.assert_close(
        clap.text(["birds", "rain"]), torch.nn.functional.normalize(torch.tensor([[5.0, 1.0], [4.0, 1.0]]), dim=1)
    )
    assert json.loads((tmp_path / "out" / "missing.json").read_text(encoding="utf-8")) == {"texts": ["birds"]}
