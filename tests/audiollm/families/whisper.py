"""A tiny Whisper, of random weights and of the real classes, saved as the hub's are."""

from pathlib import Path

import torch
from transformers import (
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from tests.audiollm.families.tiny import encoder, mels, save


def whisper(folder: Path) -> None:
    """50 frames a second."""
    config = WhisperConfig(
        **encoder("whisper"),
        vocab_size=100,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=16,
        max_target_positions=20,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    torch.manual_seed(0)
    save(WhisperForConditionalGeneration(config), folder)
    mels().save_pretrained(folder)
