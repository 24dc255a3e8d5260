import json
from dataclasses import replace

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from ard.activations import ProbeBatch
from ard.audio import SyntheticCorpus, write_audio_shards
from ard.audiollm import load_audiollm
from ard.sae import Encoding, InputNorms, LossRecovered, TopKSAE
from ard.sae.callback import caption_losses
from ard.sae.functional import loss_recovered
from ard.types import UserError


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audio") / "probe"
    write_audio_shards(SyntheticCorpus("probe", num_clips=5), folder)
    return folder


def encode(callback, sae="poly"):
    """Encode two clips of 3 and 2 tokens."""
    x = torch.arange(5.0)[:, None].expand(5, 128)
    batch = ProbeBatch(x, torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 1]), [{}, {}])
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[callback])
    trainer.test(Encoding(str(sae), 128), DataLoader([batch], batch_size=None), verbose=False)
    return json.loads(callback.out.read_text(encoding="utf-8"))


def test_norms_are_written_by_position(tmp_path):
    found = encode(InputNorms(tmp_path / "norms.json", 2))
    assert found["mean"] == pytest.approx([1.5 * 128**0.5, 2.5 * 128**0.5, 2 * 128**0.5])
    assert found["largest"] == pytest.approx([3 * 128**0.5, 4 * 128**0.5, 2 * 128**0.5])


def test_raw_coordinates_recover_all_of_the_loss(tmp_path, audio):
    recovered = LossRecovered(tmp_path / "recovered.json", audio=audio, layer=2, num_clips=4, clips_per_batch=3)
    found = encode(recovered)
    assert found["loss_recovered"] == pytest.approx(1, abs=1e-4)
    assert found["zeroed"] > found["original"] + 0.1  # the embedded model does listen
    assert found["num_clips"] == 4


def test_an_untrained_sae_recovers_little(tmp_path, audio):
    TopKSAE(128, 256, k=1).save_pretrained(tmp_path / "sae")
    recovered = LossRecovered(tmp_path / "recovered.json", audio=audio, layer=2)
    assert encode(recovered, tmp_path / "sae")["loss_recovered"] < 0.9


def test_the_losses_are_those_of_transformers(audio):
    model, clips = load_audiollm(), list(SyntheticCorpus("probe", num_clips=3))
    losses = caption_losses(model, clips, 0)
    alone = []
    for clip in clips:
        prompts = model.prompter([clip])
        said = model.prompter.processor.tokenizer(clip.caption, return_tensors="pt").input_ids
        ids = torch.cat([prompts.features["input_ids"], said], dim=1)
        labels = ids.clone()
        labels[:, : -said.shape[1]] = -100
        features = {**prompts.features, "input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
        alone += [float(model.model(**features).loss)] * said.shape[1]
    assert len(losses) == len(alone)
    assert losses.mean() == pytest.approx(sum(alone) / len(alone), rel=1e-4)


def test_the_share_of_the_loss_is_named():
    assert loss_recovered(1.0, 1.0, 3.0) == 1
    assert loss_recovered(1.0, 3.0, 3.0) == 0
    assert loss_recovered(1.0, 2.0, 1.0) != loss_recovered(1.0, 2.0, 1.0)


def test_clips_without_captions_are_refused(tmp_path):
    write_audio_shards([replace(SyntheticCorpus("probe", num_clips=1)[0], caption=None)], tmp_path / "audio")
    recovered = LossRecovered(tmp_path / "recovered.json", audio=tmp_path / "audio", layer=2)
    with pytest.raises(UserError, match="holds no clip with a caption"):
        encode(recovered)
