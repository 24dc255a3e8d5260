"""A tiny GLM-ASR, of random weights and of the real classes, saved as the hub's are."""

from pathlib import Path

import torch
from transformers import (
    GlmAsrConfig,
    GlmAsrForConditionalGeneration,
    GlmAsrProcessor,
    WhisperFeatureExtractor,
)

from tests.audiollm.families.tiny import bpe, llm, save

GLM_ASR_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}<|begin_of_audio|><|pad|><|end_of_audio|><|user|>\n"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def glm_asr(folder: Path) -> None:
    """25 audio tokens for every window of two seconds."""
    special = ["<|endoftext|>", "<|user|>", "<|assistant|>", "<|begin_of_audio|>", "<|end_of_audio|>", "<|pad|>"]
    tokenizer = bpe(special, {}, eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    config = GlmAsrConfig(
        text_config={"model_type": "llama", **llm(tokenizer)},
        audio_config={
            "model_type": "glmasr_encoder",
            "num_mel_bins": 16,
            "hidden_size": 16,
            "intermediate_size": 64,  # four frames of hidden_size, which the projector takes as one
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_position_embeddings": 100,
        },
        audio_token_id=tokenizer.convert_tokens_to_ids("<|pad|>"),
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    save(GlmAsrForConditionalGeneration(config), folder)
    features = WhisperFeatureExtractor(feature_size=16, chunk_length=2)
    GlmAsrProcessor(features, tokenizer, chat_template=GLM_ASR_TEMPLATE).save_pretrained(folder)
