"""A tiny Voxtral, of random weights and of the real classes, saved as the hub's are."""

import base64
import json
from pathlib import Path

import torch
from mistral_common.tokens.tokenizers.tekken import Tekkenizer
from transformers import (
    MistralCommonBackend,
    VoxtralConfig,
    VoxtralForConditionalGeneration,
    VoxtralProcessor,
    WhisperFeatureExtractor,
)

from tests.audiollm.families.tiny import MELS, encoder, llm, save


def voxtral(folder: Path) -> None:
    """12.5 audio tokens a second, silence to the end of the window among them."""
    # The processor takes 24 for the audio token whatever the tokenizer says.
    special = [token["token_str"] for token in Tekkenizer.DEPRECATED_SPECIAL_TOKENS]
    special += [f"<SPECIAL_{i}>" for i in range(len(special), 24)] + ["[AUDIO]", "[BEGIN_AUDIO]", "[TRANSCRIBE]"]
    tekken = {
        "config": {
            "pattern": r"\s*[a-z]+|.",
            "num_vocab_tokens": 256,
            "default_vocab_size": 256 + len(special),
            "default_num_special_tokens": len(special),
            "version": "v7",
        },
        "vocab": [
            {"rank": i, "token_bytes": base64.b64encode(bytes([i])).decode(), "token_str": None} for i in range(256)
        ],
        "special_tokens": [{"rank": i, "token_str": token, "is_control": True} for i, token in enumerate(special)],
        "audio": {
            "sampling_rate": 16000,
            "frame_rate": 12.5,
            "audio_encoding_config": {"num_mel_bins": MELS, "hop_length": 160, "window_size": 400},
            "chunk_length_s": 30.0,  # the processor's own window is not to be set
        },
    }
    (folder / "tekken.json").write_text(json.dumps(tekken), encoding="utf-8")
    tokenizer = MistralCommonBackend.from_pretrained(folder)
    text = {"model_type": "llama", "head_dim": 8, **llm(tokenizer), "vocab_size": 256 + len(special)}
    audio = encoder("voxtral_encoder", encoder_ffn_dim=64, max_source_positions=1500)
    torch.manual_seed(0)
    save(
        VoxtralForConditionalGeneration(VoxtralConfig(audio_config=audio, text_config=text, audio_token_id=24)), folder
    )
    features = WhisperFeatureExtractor(feature_size=MELS, sampling_rate=16000, chunk_length=30)
    VoxtralProcessor(features, tokenizer).save_pretrained(folder)
