import re
from pathlib import Path

import pytest
import soundfile
import torch
from safetensors.torch import save_file

from ard.audio import SyntheticCorpus
from ard.sae import TopKSAE

PAGE = Path("docs/steering.md").read_text(encoding="utf-8")


def test_the_example_runs(tmp_path, monkeypatch):
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    folder = tmp_path / "runs" / "demo" / "layer-3" / "e8"
    TopKSAE(128, 1024, k=16).save_pretrained(folder / "sae")
    save_file({"max_activation": torch.full((1024,), 100.0)}, folder / "representatives.safetensors")
    clip = next(iter(SyntheticCorpus("docs", 1, speech_share=1.0)))
    soundfile.write(tmp_path / "voice.wav", clip.waveform, clip.sample_rate_hz)
    monkeypatch.chdir(tmp_path)
    said = {}
    exec(example, said)
    assert said["answers"] != said["model"].generate(said["clips"], [said["question"]])


@pytest.mark.parametrize("option", ["positions", "phase", "keep_error", "maxima"])
def test_every_option_is_on_the_page(option):
    assert re.search(rf"^\| `{option}` \|", PAGE, re.MULTILINE)
