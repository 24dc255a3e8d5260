"""The plan's formulas against what really runs: the shards, the captures, the training steps, the answers."""

import math

import numpy as np
import pytest
import torch
from lightning import LightningDataModule, Trainer
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, ClapModel

from ard.audio import SyntheticCorpus
from ard.audiollm import load_audiollm
from ard.embedding import load_clap
from ard.naming import CAPTION_PROMPT
from ard.plan.cost import (
    clap_flops,
    clip_bytes,
    encoding_flops,
    model_cost,
    num_audio_tokens,
    num_mel_frames,
    training_flops,
)
from ard.sae import SAETraining, TopKSAE
from ard.types import Clip


def counted(call):
    """What torch's counter sees, and what it does not know: sparse products, and the CPU's own dense one.

    Nor does it know the CPU's fused attention, so attention is done by its formula.
    """
    aten = torch.ops.aten
    unknown = {
        torch.ops.mkldnn._linear_pointwise: lambda x, weight, *_, **__: 2 * math.prod(x) * weight[0],
        aten._embedding_bag: lambda rows, indices, *_, **__: 2 * math.prod(indices) * rows[1],
        aten._embedding_bag_forward_only: lambda rows, indices, *_, **__: 2 * math.prod(indices) * rows[1],
        aten._embedding_bag_per_sample_weights_backward: lambda _, rows, indices, *__, **___: (
            2 * math.prod(indices) * rows[1]
        ),
    }
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=unknown) as counter:
        call()
    return counter.get_total_flops()


@pytest.fixture(scope="module")
def embedded():
    return load_audiollm()


def cost_of(config, deepest=None):
    """The formulas' cost of a model that transformers has loaded."""
    return model_cost(vars(config.audio_config), {"head_dim": None, **vars(config.text_config)}, deepest)


def test_tokens_are_those_of_the_processor(embedded):
    prompter = embedded.prompter
    rng = np.random.default_rng(0)
    num_samples = np.concatenate([rng.integers(1000, 70_000, 40), 640 * np.arange(3, 9), 640 * np.arange(3, 9) + 1])
    clips = [Clip(str(n), np.zeros(n, np.float32), 16000, "silence") for n in num_samples]
    found = [int(prompter([clip]).audio.sum()) for clip in clips]
    assert num_audio_tokens(num_mel_frames(num_samples, 400)).tolist() == found
    mel_frames = num_mel_frames(np.array([1600, 16000, 160_000, 478_400, 960_000]), 3000)
    assert num_audio_tokens(mel_frames).tolist() == [2, 25, 250, 747, 750]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_clip_in_a_shard_has_the_bytes_of_safetensors_in_a_tar(dtype):
    from safetensors.torch import save

    for num_tokens in (1, 7, 99, 250, 1000):
        size = len(save({"x": torch.zeros(num_tokens, 48, dtype=dtype)}))
        blocks = 512 + -(-size // 512) * 512 + 1024
        assert clip_bytes(np.array([num_tokens]), 48, dtype.itemsize).tolist() == [blocks]


def heard(prompter, clips, question=""):
    """A batch as the model takes it, the mel frames of its clips, and how many tokens of each prompt are text."""
    batch = prompter(clips, [question] * len(clips))
    (num_text_tokens,) = (batch.valid & ~batch.audio).sum(dim=1).unique().tolist()
    return batch, batch.features["feature_attention_mask"].sum(dim=1).numpy(), num_text_tokens


@pytest.mark.slow
@pytest.mark.parametrize("layers", [[0], [1, 3], [5]])
@pytest.mark.parametrize("num_clips", [1, 2, 5])
def test_captures_have_the_planned_flops(embedded, layers, num_clips):
    clips = list(SyntheticCorpus("plan", 5))
    batches = [heard(embedded.prompter, clips[i : i + num_clips]) for i in range(0, 5, num_clips)]
    mel_frames, num_text_tokens = np.concatenate([frames for _, frames, _ in batches]), batches[0][2]
    assert len(set(mel_frames)) > 1  # so that there is padding
    planned = cost_of(embedded.model.config, max(layers)).prefill_flops(mel_frames, num_text_tokens, num_clips)
    assert planned == sum(counted(lambda b=batch: embedded.capture(b, layers)) for batch, _, _ in batches)


@pytest.mark.parametrize("num_samples", [400, 1279, 1280, 1281, 1600, 8161, 15999, 16000, 40000])
def test_a_clip_of_any_length_has_the_planned_flops(tiny_audiollm, num_samples):
    """Also at and beyond the end of the window, of a second."""
    model = load_audiollm(tiny_audiollm)
    clip = Clip("c", np.ones(num_samples, np.float32), 16000, "constant")
    batch, mel_frames, num_text_tokens = heard(model.prompter, [clip])
    assert num_mel_frames(np.array([num_samples]), 100).tolist() == mel_frames.tolist()
    planned = cost_of(model.model.config, 1).prefill_flops(mel_frames, num_text_tokens)
    assert planned == counted(lambda: model.capture(batch, [1]))


@pytest.mark.slow
def test_answers_have_the_planned_flops(embedded):
    batch, mel_frames, num_text_tokens = heard(embedded.prompter, list(SyntheticCorpus("plan", 3)), CAPTION_PROMPT)
    cost = cost_of(embedded.model.config)
    for num_new_tokens in (1, 4):
        planned = cost.answer_flops(mel_frames, num_text_tokens, 3, num_new_tokens)
        assert planned == counted(lambda n=num_new_tokens: embedded.generate(batch, max_new_tokens=n))


def test_clap_has_the_planned_flops():
    clap = load_clap()
    (clip,) = SyntheticCorpus("plan", 1)
    assert counted(lambda: clap.audio([clip])) == clap_flops(vars(clap.model.config.audio_config))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"patch_embeds_hidden_size": 128, "hidden_size": 1024, "depths": [2, 2, 12, 2]},
        {"depths": [1, 3], "hidden_size": 64, "patch_embeds_hidden_size": 32, "num_attention_heads": [2, 4]},
        {"spec_size": 320, "projection_dim": 64},  # its last windows are filled up
    ],
    ids=["HTSAT-tiny", "HTSAT-base", "two stages", "padded"],
)
def test_clap_of_any_shape_has_the_planned_flops(changes):
    config = AutoConfig.for_model("clap", audio_config={"enable_fusion": False, **changes})
    audio = config.audio_config
    audio.num_hidden_layers = len(audio.depths)
    with torch.device("meta"):
        model = ClapModel(config).eval()
        spectrogram = torch.empty(1, 1, audio.spec_size * audio.spec_size // audio.num_mel_bins, audio.num_mel_bins)
        assert clap_flops(vars(audio)) == counted(lambda: model.get_audio_features(input_features=spectrogram))


class Tokens(LightningDataModule):
    def __init__(self, d_in):
        super().__init__()
        self.d_in = d_in

    def train_dataloader(self):
        return DataLoader(torch.randn(3, 64, self.d_in), batch_size=None)


QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}


@pytest.mark.parametrize(("robust", "k_aux"), [(False, 0), (True, 0), (True, 8)])
def test_training_has_the_planned_flops(robust, k_aux):
    """Features are dead from the first step on, or never."""
    settings = {"k_aux": k_aux, "dead_after_tokens": -1} if k_aux else {}
    module = SAETraining(32, 8, k=4, robust=robust, **settings)
    flops = counted(lambda: Trainer(max_steps=3, enable_checkpointing=False, **QUIET).fit(module, Tokens(32)))
    assert flops == 3 * 64 * sum(training_flops(32, 256, 4, k_aux=k_aux))


def test_encoding_has_the_planned_flops():
    sae = TopKSAE(32, 128, k=4)
    assert counted(lambda: sae.encode(torch.randn(50, 32))) == 50 * encoding_flops(32, 128) == 50 * 2 * 32 * 128
