"""Tiny random models of Qwen2-Audio and its kin and of two encoders, of the real classes, saved as the hub's are."""

import base64
import json
from pathlib import Path

import torch
from mistral_common.tokens.tokenizers.tekken import Tekkenizer
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    AudioFlamingo3Config,
    AudioFlamingo3ForConditionalGeneration,
    AudioFlamingo3Processor,
    MistralCommonBackend,
    MusicFlamingoConfig,
    MusicFlamingoForConditionalGeneration,
    MusicFlamingoProcessor,
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
    Qwen3OmniMoeConfig,
    Qwen3OmniMoeForConditionalGeneration,
    Qwen3OmniMoeProcessor,
    VoxtralConfig,
    VoxtralForConditionalGeneration,
    VoxtralProcessor,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

SENTENCES = ["Generate a detailed caption for the audio clip", "a dog barking and rain", "a man speaking, happy or sad"]
WINDOW_S = 2
MELS = 16

# The hub's templates, less what no prompt of ours uses (system turns of the user's own, images, tools, answers).
CHATML = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{{% for message in messages %}}<|im_start|>{{{{ message['role'] }}}}\n"
    "{{% for part in message['content'] %}}"
    "{{% if part['type'] == 'audio' %}}{audio}{{% else %}}{{{{ part['text'] }}}}{{% endif %}}"
    "{{% endfor %}}<|im_end|>\n{{% endfor %}}"
    "{{% if add_generation_prompt %}}<|im_start|>assistant\n{{% endif %}}"
)


def bpe(*audio: str, **named: str) -> PreTrainedTokenizerFast:
    """Train a tokenizer with the family's audio tokens, of which a processor reads the named ones as attributes."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *audio, *named.values()]
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(SENTENCES, vocab_size=300, special_tokens=special, show_progress=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._tokenizer,
        model_max_length=512,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=[*special[1:3], *audio],
        extra_special_tokens=named,
    )


def llm(tokenizer: PreTrainedTokenizerFast) -> dict:
    """Return what every tiny decoder has in its config."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
    }


def encoder(model_type: str, **more: int) -> dict:
    """Return the config of a tiny encoder of Whisper's kind."""
    return {
        "model_type": model_type,
        "num_mel_bins": MELS,
        "encoder_layers": 2,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "d_model": 16,
        "max_source_positions": 50 * WINDOW_S,
        **more,
    }


def mels(**kwargs) -> WhisperFeatureExtractor:
    """Return a feature extractor with a window of two seconds."""
    return WhisperFeatureExtractor(feature_size=MELS, sampling_rate=16000, chunk_length=WINDOW_S, **kwargs)


def save(model: torch.nn.Module, folder: Path) -> None:
    """Save a model as if it were trained: at transformers' own 0.02 a narrow one hardly hears.

    And with biases of zero it would not be seen what reaches over the end of a clip.
    """
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.mul_(10)
            elif name.endswith("bias"):
                weight.normal_(std=0.1)
    model.save_pretrained(folder)


def qwen2_audio(folder: Path) -> None:
    """25 audio tokens a second."""
    tokenizer = bpe("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")
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
    tokenizer = bpe(**OMNI)
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
    tokenizer = bpe(**OMNI)
    audio = {"n_window": 50, "n_window_infer": 100, "downsample_hidden_size": 4}
    text = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    thinker = omni_config(tokenizer, "qwen3_omni_moe", audio, text, "id")
    torch.manual_seed(0)
    save(
        Qwen3OmniMoeForConditionalGeneration(Qwen3OmniMoeConfig(thinker_config=thinker, enable_audio_output=False)),
        folder,
    )
    omni_processor(Qwen3OmniMoeProcessor, tokenizer, folder)


def audio_flamingo3(folder: Path) -> None:
    """25 audio tokens a second; clips are cut into windows, and at three of them here (20 on the hub)."""
    tokenizer = bpe("<sound>")
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
    tokenizer = bpe("<sound>", "<|sound_bos|>", "<|sound_eos|>")
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
