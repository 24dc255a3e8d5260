"""A tiny Phi-4-multimodal, of random weights and of the real classes, saved as the hub's are."""

from pathlib import Path

import torch
from transformers import (
    Phi4MultimodalConfig,
    Phi4MultimodalFeatureExtractor,
    Phi4MultimodalForCausalLM,
    Phi4MultimodalImageProcessor,
    Phi4MultimodalProcessor,
)

from tests.audiollm.families.tiny import bpe, llm, save

PHI4_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def phi4_multimodal(folder: Path) -> None:
    """One audio token for every 80 ms; no window."""
    special = ["<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>", "<|image|>", "<|audio|>"]
    tokenizer = bpe(
        special,
        {"image_token": "<|image|>", "audio_token": "<|audio|>"},
        bos_token="<|endoftext|>",
        eos_token="<|end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        chat_template=PHI4_TEMPLATE,
    )
    config = Phi4MultimodalConfig(
        **llm(tokenizer),
        audio_config={
            "input_size": 16,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_blocks": 1,
            "num_attention_heads": 2,
            "ext_pw_out_channel": 16,
            "depthwise_separable_out_channel": 16,
            "nemo_conv_channels": 8,
            "bias_max_distance": 50,
            "audio_token_id": tokenizer.convert_tokens_to_ids("<|audio|>"),
        },
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "crop_size": 28,
            "image_token_id": tokenizer.convert_tokens_to_ids("<|image|>"),
        },
    )
    torch.manual_seed(0)
    save(Phi4MultimodalForCausalLM(config), folder)
    features = Phi4MultimodalFeatureExtractor(feature_size=16)
    Phi4MultimodalProcessor(Phi4MultimodalImageProcessor(), features, tokenizer).save_pretrained(folder)
