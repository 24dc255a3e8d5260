"""A tiny Granite Speech, of random weights and of the real classes, saved as the hub's are."""

from pathlib import Path

import torch
from transformers import (
    GraniteSpeechConfig,
    GraniteSpeechFeatureExtractor,
    GraniteSpeechForConditionalGeneration,
    GraniteSpeechProcessor,
)

from tests.audiollm.families.tiny import bpe, llm, save

# The hub's templates, less what no prompt of ours uses (tools, documents, several turns).
GRANITE_TEMPLATE = (
    "{% for message in messages %}"
    "<|start_of_role|>{{ message['role'] }}<|end_of_role|>{{ message['content'] }}<|end_of_text|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}"
)


def granite_speech(folder: Path) -> None:
    """Three audio tokens for every 15 frames of 20 ms; 80 mel bins, for a saved extractor forgets any other number."""
    special = ["<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>", "<|audio|>"]
    tokenizer = bpe(
        special,
        {"audio_token": "<|audio|>"},
        bos_token="<|end_of_text|>",
        eos_token="<|end_of_text|>",
        pad_token="<|end_of_text|>",
        padding_side="left",
        chat_template=GRANITE_TEMPLATE,
    )
    config = GraniteSpeechConfig(
        text_config={"model_type": "granite", **llm(tokenizer)},
        encoder_config={
            "num_layers": 2,
            "hidden_dim": 16,
            "feedforward_mult": 2,
            "num_heads": 2,
            "output_dim": 8,
            "context_size": 20,
            "max_pos_emb": 32,
            "conv_kernel_size": 5,
        },
        projector_config={
            "model_type": "blip_2_qformer",
            "hidden_size": 16,
            "encoder_hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "cross_attention_frequency": 1,
        },
        audio_token_index=tokenizer.convert_tokens_to_ids("<|audio|>"),
        has_lora_adapter=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    save(GraniteSpeechForConditionalGeneration(config), folder)
    features = GraniteSpeechFeatureExtractor()
    GraniteSpeechProcessor(features, tokenizer).save_pretrained(folder)
