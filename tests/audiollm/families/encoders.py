"""Tiny audio encoders of random weights and of the real classes, saved as the hub's are."""

from pathlib import Path

import torch
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTForAudioClassification,
    ClapAudioConfig,
    ClapAudioModel,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    HubertConfig,
    HubertForCTC,
    PretrainedConfig,
    PreTrainedModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForPreTraining,
    WavLMConfig,
    WavLMModel,
)

from tests.audiollm.families.tiny import MELS, WINDOW_S, save

SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
OF_SAMPLES = {
    **SIZES,
    "conv_dim": (8,) * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "vocab_size": 20,
    "codevector_dim": 8,
    "proj_codevector_dim": 8,
}
MASKED = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}  # as the large models


def _of_samples(model: type[PreTrainedModel], config: type[PretrainedConfig], folder: Path, **more) -> None:
    torch.manual_seed(0)
    save(model(config(**OF_SAMPLES, **more)), folder)
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask="feat_extract_norm" in more).save_pretrained(
        folder
    )


def wav2vec2(folder: Path) -> None:
    """As wav2vec2-base: a norm over the whole clip, and no mask."""
    _of_samples(Wav2Vec2ForPreTraining, Wav2Vec2Config, folder)


def wav2vec2_large(folder: Path) -> None:
    """As wav2vec2-large-lv60."""
    _of_samples(Wav2Vec2ForPreTraining, Wav2Vec2Config, folder, **MASKED)


def hubert(folder: Path) -> None:
    """As hubert-base-ls960."""
    _of_samples(HubertForCTC, HubertConfig, folder)


def hubert_large(folder: Path) -> None:
    """As hubert-large-ll60k."""
    _of_samples(HubertForCTC, HubertConfig, folder, **MASKED)


def wavlm(folder: Path) -> None:
    """As wavlm-base."""
    _of_samples(WavLMModel, WavLMConfig, folder)


def wavlm_large(folder: Path) -> None:
    """As wavlm-large."""
    _of_samples(WavLMModel, WavLMConfig, folder, **MASKED)


def ast(folder: Path) -> None:
    """A window of 1.28 s: 12 moments of 0.1 s in one band less than there are rows of 10 mel bins."""
    config = ASTConfig(**SIZES, max_length=128, num_mel_bins=2 * MELS, time_stride=10, frequency_stride=8)
    torch.manual_seed(0)
    save(ASTForAudioClassification(config), folder)
    ASTFeatureExtractor(num_mel_bins=2 * MELS, max_length=128).save_pretrained(folder)


def _clap_audio() -> ClapAudioConfig:
    return ClapAudioConfig(
        num_mel_bins=MELS,
        spec_size=4 * MELS,
        window_size=2,
        patch_embeds_hidden_size=8,
        depths=(1, 3, 1),
        num_attention_heads=(1, 2, 2),
        hidden_size=32,
        num_hidden_layers=3,
    )


def _clap_extractor(folder: Path, truncation: str) -> None:
    ClapFeatureExtractor(feature_size=MELS, max_length_s=WINDOW_S, truncation=truncation).save_pretrained(folder)


def clap(folder: Path) -> None:
    """Both towers, as clap-htsat-unfused."""
    text = {**SIZES, "vocab_size": 20, "max_position_embeddings": 20}
    torch.manual_seed(0)
    save(ClapModel(ClapConfig(text_config=text, audio_config=_clap_audio().to_dict(), projection_dim=8)), folder)
    _clap_extractor(folder, "rand_trunc")


def clap_audio(folder: Path) -> None:
    """The audio tower alone."""
    torch.manual_seed(0)
    save(ClapAudioModel(_clap_audio()), folder)
    _clap_extractor(folder, "rand_trunc")
