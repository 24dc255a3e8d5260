import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from ard.evaluation import CompareNames, DetectConcepts, FindLabels, MatchLabels
from ard.sae import Encoding
from ard.types import UserError


@pytest.mark.parametrize("callback", [CompareNames, DetectConcepts, FindLabels, MatchLabels])
def test_callbacks_that_want_all_clips_refuse_several_processes(tmp_path, monkeypatch, callback):
    wanted = {"audio": tmp_path, "embeddings": tmp_path} if callback is DetectConcepts else {}
    monkeypatch.setattr(lightning.Trainer, "world_size", 2)
    trainer = lightning.Trainer(accelerator="cpu", logger=False, callbacks=[callback(tmp_path, **wanted)])
    with pytest.raises(UserError, match=r"labels in one process, and there are 2: leave out trainer\.devices here"):
        trainer.test(Encoding("poly", 4), DataLoader([torch.zeros(1)]), verbose=False)
