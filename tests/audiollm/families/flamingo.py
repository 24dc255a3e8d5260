"""Tiny Audio Flamingo 3 and Music Flamingo, of random weights and of the real classes, saved as the hub's are."""

from pathlib import Path

import torch
from transformers import (
    AudioFlamingo3Config,
    AudioFlamingo3ForConditionalGeneration,
    AudioFlamingo3Processor,
    MusicFlamingoConfig,
    MusicFlamingoForConditionalGeneration,
    MusicFlamingoProcessor,
)

from tests.audiollm.families.tiny import CHATML, WINDOW_S, chatml_bpe, encoder, llm, mels, save


def audio_flamingo3(folder: Path) -> None:
    """25 audio tokens a second; clips are cut into windows, and at three of them here (20 on the hub)."""
    tokenizer = chatml_bpe("<sound>")
    config = AudioFlamingo3Config(
        audio_config=encoder("audioflamingo3_encoder"),
        text_config={"model_type": "qwen2", **llm(tokenizer)},
        audio_token_id=tokenizer.convert_tokens_to_ids("<sound>"),
    )
    torch.manual_seed(0)
    save(AudioFlamingo3ForConditionalGeneration(config), folder)
    template = CHATML.format(audio="<sound>")
    AudioFlamingo3Processor(mels(), tokenizer, template, max_audio_len=3 * WINDOW_S).save_pretrained(folder)


def music_flamingo(folder: Path) -> None:
    """As Audio Flamingo 3, with rotary times and with tokens around the clip."""
    tokenizer = chatml_bpe("<sound>", "<|sound_bos|>", "<|sound_eos|>")
    names = {"audio": "<sound>", "audio_bos": "<|sound_bos|>", "audio_eos": "<|sound_eos|>"}
    config = MusicFlamingoConfig(
        audio_config=encoder("audioflamingo3_encoder"),
        text_config={"model_type": "qwen2", **llm(tokenizer)},
        **{f"{name}_token_id": tokenizer.convert_tokens_to_ids(token) for name, token in names.items()},
    )
    torch.manual_seed(0)
    save(MusicFlamingoForConditionalGeneration(config), folder)
    template = CHATML.format(audio="<sound>")
    MusicFlamingoProcessor(mels(), tokenizer, template, max_audio_len=3 * WINDOW_S).save_pretrained(folder)
