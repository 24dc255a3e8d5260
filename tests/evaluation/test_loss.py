from dataclasses import replace

import pytest
import torch

from ard.audio import SyntheticCorpus, write_audio_shards
from ard.audiollm import load_audiollm
from ard.evaluation import LossRecovered
from ard.evaluation.loss import caption_losses
from ard.run import Run
from ard.sae import TopKSAE
from ard.types import UserError
from tests.stores import write_activations


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("run"))
    write_audio_shards(SyntheticCorpus("probe", num_clips=5), run.audio("probe"))
    write_activations(run.activations("probe"), [({"id": "c"}, torch.zeros(1, 128))], 2, "embedded")
    return run


@pytest.mark.slow
def test_raw_coordinates_recover_all_of_the_loss(run):
    found = LossRecovered(num_clips=4, clips_per_batch=3)(run.cell(2, None)).details
    assert found["loss_recovered"] == pytest.approx(1, abs=1e-4)
    assert found["zeroed"] > found["original"] + 0.1  # the embedded model does listen
    assert found["num_clips"] == 4


@pytest.mark.slow
def test_an_untrained_sae_recovers_little(run):
    cell = run.cell(2, 2)
    TopKSAE(128, 256, k=1).save_pretrained(cell.sae)
    assert LossRecovered()(cell).details["loss_recovered"] < 0.9


def test_the_losses_are_those_of_transformers():
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


def test_clips_without_captions_are_refused(tmp_path):
    run = Run(tmp_path)
    write_audio_shards([replace(SyntheticCorpus("probe", num_clips=1)[0], caption=None)], run.audio("probe"))
    with pytest.raises(UserError, match="holds no clip with a caption"):
        LossRecovered()(run.cell(2, None))
