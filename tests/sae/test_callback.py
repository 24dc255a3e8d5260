import json

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from ard.activations import ProbeBatch
from ard.sae import Encoding, InputNorms


def test_norms_are_written_by_position(tmp_path):
    x = torch.arange(5.0)[:, None].expand(5, 128)  # two clips of 3 and 2 tokens
    batch = ProbeBatch(x, torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 1]), [{}, {}])
    callback = InputNorms(tmp_path / "norms.json", 2)
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[callback])
    trainer.test(Encoding("poly", 128), DataLoader([batch], batch_size=None), verbose=False)
    found = json.loads(callback.out.read_text())
    assert found["mean"] == pytest.approx([1.5 * 128**0.5, 2.5 * 128**0.5, 2 * 128**0.5])
    assert found["largest"] == pytest.approx([3 * 128**0.5, 4 * 128**0.5, 2 * 128**0.5])
