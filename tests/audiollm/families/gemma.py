"""A tiny Gemma 3n, of random weights and of the real classes, saved as the hub's are."""

from pathlib import Path

import torch
from transformers import (
    Gemma3nAudioFeatureExtractor,
    Gemma3nConfig,
    Gemma3nForConditionalGeneration,
    Gemma3nProcessor,
    SiglipImageProcessor,
)

from tests.audiollm.families.tiny import bpe, llm, save

GEMMA3N_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>{{ message['role'] }}\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}<audio_soft_token>{% else %}{{ part['text'] | trim }}{% endif %}{% endfor %}"
    "<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def gemma3n(folder: Path) -> None:
    """188 audio tokens for every clip, one in 160 ms of it sound; the ids of images, then sounds, follow the text's."""
    special = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<start_of_audio>"]
    vision = {"eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    audio = {"eoa_token": "<end_of_audio>", "audio_token": "<audio_soft_token>"}
    tokenizer = bpe(
        special,
        {"boi_token": "<start_of_image>", "boa_token": "<start_of_audio>", **vision, **audio},
        bos_token="<bos>",
        eos_token="<end_of_turn>",
        pad_token="<pad>",
        padding_side="left",
    )
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in {**vision, **audio}.items()}
    config = Gemma3nConfig(
        text_config={
            **llm(tokenizer),
            "head_dim": 8,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "num_kv_shared_layers": 2,
            "vocab_size_per_layer_input": ids["eoi_token"],
            "hidden_size_per_layer_input": 8,
            "laurel_rank": 8,
        },
        audio_config={
            "vocab_size": len(audio),
            "vocab_offset": ids["eoa_token"],
            "input_feat_size": 16,
            "hidden_size": 16,
            "conf_num_attention_heads": 2,
            "conf_num_hidden_layers": 1,
            "sscp_conv_channel_size": (8, 4),
        },
        vision_config={
            "architecture": "vit_tiny_patch16_224",
            "model_args": {"embed_dim": 16, "depth": 1, "num_heads": 1, "img_size": 32},
            "hidden_size": 16,
            "vocab_size": len(vision),
            "vocab_offset": ids["eoi_token"],
        },
        boi_token_id=tokenizer.boi_token_id,
        boa_token_id=tokenizer.boa_token_id,
        **{f"{name}_id": number for name, number in ids.items()},
    )
    torch.manual_seed(0)
    save(Gemma3nForConditionalGeneration(config), folder)
    features, images = Gemma3nAudioFeatureExtractor(feature_size=16), SiglipImageProcessor()
    Gemma3nProcessor(features, images, tokenizer, chat_template=GEMMA3N_TEMPLATE).save_pretrained(folder)
