"""Tiny Qwen2-Audio, Omnis and Qwen3-ASR, of random weights and of the real classes, saved as the hub's are."""

from pathlib import Path

import torch
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5OmniConfig,
    Qwen2_5OmniForConditionalGeneration,
    Qwen2_5OmniProcessor,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3ASRConfig,
    Qwen3ASRFeatureExtractor,
    Qwen3ASRForConditionalGeneration,
    Qwen3ASRProcessor,
    Qwen3OmniMoeConfig,
    Qwen3OmniMoeForConditionalGeneration,
    Qwen3OmniMoeProcessor,
)

from tests.audiollm.families.tiny import CHATML, bpe, chatml_bpe, encoder, llm, mels, save


def qwen2_audio(folder: Path) -> None:
    """25 audio tokens a second."""
    tokenizer = chatml_bpe("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")
    config = Qwen2AudioConfig(
        audio_config=encoder("qwen2_audio_encoder"),
        text_config={"model_type": "qwen2", **llm(tokenizer)},
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
    torch.manual_seed(0)
    save(Qwen2AudioForConditionalGeneration(config), folder)
    Qwen2AudioProcessor(mels(), tokenizer).save_pretrained(folder)


ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}

OMNI = {
    "image_token": "<|IMAGE|>",
    "audio_token": "<|AUDIO|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}


def omni_config(tokenizer: PreTrainedTokenizerFast, prefix: str, audio: dict, text: dict, suffix: str) -> dict:
    """Return what the configs of both thinkers have in common; ``suffix`` is how they call a token's id."""
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": 32,
        "patch_size": 4,
    }
    return {
        "audio_config": encoder(f"{prefix}_audio_encoder", output_dim=32, **audio),
        "vision_config": {"model_type": f"{prefix}_vision_encoder", **vision},
        "text_config": {
            "model_type": f"{prefix}_text",
            **llm(tokenizer),
            "rope_parameters": ROPE,
            **text,
        },
        "audio_start_token_id": tokenizer.audio_bos_token_id,
        "vision_start_token_id": tokenizer.vision_bos_token_id,  # the hub's files state it; the class has no default
        **{f"{name}_token_{suffix}": getattr(tokenizer, f"{name}_token_id") for name in ("audio", "image", "video")},
    }


def omni_processor(processor_class: type, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Save the processor of either thinker, with those of its eyes."""
    template = CHATML.format(audio="<|audio_bos|><|AUDIO|><|audio_eos|>")
    processor_class(
        Qwen2VLImageProcessor(), Qwen2VLVideoProcessor(), mels(return_attention_mask=True), tokenizer, template
    ).save_pretrained(folder)


def qwen2_5_omni_thinker(folder: Path) -> None:
    """25 audio tokens a second; the encoder attends within chunks of 2 * n_window frames."""
    tokenizer = chatml_bpe(**OMNI)
    config = Qwen2_5OmniThinkerConfig(**omni_config(tokenizer, "qwen2_5_omni", {"n_window": 20}, {}, "index"))
    torch.manual_seed(0)
    save(Qwen2_5OmniThinkerForConditionalGeneration(config), folder)
    omni_processor(Qwen2_5OmniProcessor, tokenizer, folder)


def qwen2_5_omni(folder: Path) -> None:
    """The same thinker in a checkpoint as the hub has it, with a talker and a vocoder."""
    qwen2_5_omni_thinker(folder)
    thinker = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(folder)
    narrow = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = Qwen2_5OmniConfig(
        thinker_config=thinker.config.to_dict(),
        talker_config={
            **narrow,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "embedding_size": 32,
            "rope_parameters": ROPE,
        },
        token2wav_config={
            "dit_config": {**narrow, "head_dim": 8, "emb_dim": 8, "num_embeds": 16, "enc_channels": [16] * 5},
            "bigvgan_config": {"upsample_initial_channel": 64},
        },
    )
    whole = Qwen2_5OmniForConditionalGeneration(config)
    whole.thinker.load_state_dict(thinker.state_dict())
    whole.save_pretrained(folder)


def qwen3_omni_moe(folder: Path) -> None:
    """13 audio tokens a second; a checkpoint as the hub has it, but for the talker, which may be left out."""
    tokenizer = chatml_bpe(**OMNI)
    audio = {"n_window": 50, "n_window_infer": 100, "downsample_hidden_size": 4}
    text = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    thinker = omni_config(tokenizer, "qwen3_omni_moe", audio, text, "id")
    torch.manual_seed(0)
    save(
        Qwen3OmniMoeForConditionalGeneration(Qwen3OmniMoeConfig(thinker_config=thinker, enable_audio_output=False)),
        folder,
    )
    omni_processor(Qwen3OmniMoeProcessor, tokenizer, folder)


# It prints system text and audio only: a user's text is dropped.
QWEN3_ASR_TEMPLATE = (
    "<|im_start|>system\n"
    "{% for message in messages if message['role'] == 'system' %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "<|im_end|>\n<|im_start|>user\n"
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}<|audio_start|><|audio_pad|><|audio_end|>{% endif %}{% endfor %}{% endfor %}"
    "<|im_end|>\n"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def qwen3_asr(folder: Path) -> None:
    """Up to 13 audio tokens for every second, which the encoder hears in windows of two."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|audio_start|>", "<|audio_end|>", "<|audio_pad|>"]
    tokenizer = bpe(
        special,
        {"audio_token": "<|audio_pad|>", "audio_bos_token": "<|audio_start|>", "audio_eos_token": "<|audio_end|>"},
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    config = Qwen3ASRConfig(
        text_config={"model_type": "qwen3", "head_dim": 8, **llm(tokenizer)},
        audio_config={
            "model_type": "qwen3_asr_encoder",
            "num_mel_bins": 16,
            "encoder_layers": 1,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 32,
            "d_model": 16,
            "n_window_infer": 200,
            "output_dim": 32,
            "downsample_hidden_size": 8,
        },
        audio_token_id=tokenizer.convert_tokens_to_ids("<|audio_pad|>"),
        timestamp_token_id=len(tokenizer) - 1,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    save(Qwen3ASRForConditionalGeneration(config), folder)
    features = Qwen3ASRFeatureExtractor(feature_size=16)
    Qwen3ASRProcessor(features, tokenizer, chat_template=QWEN3_ASR_TEMPLATE).save_pretrained(folder)
