"""What the tiny models of all families have in common: a tokenizer, a decoder's sizes, weights as if trained."""

from pathlib import Path

import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast, WhisperFeatureExtractor

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


def bpe(special: list[str], named: dict[str, str], **kwargs) -> PreTrainedTokenizerFast:
    """Train a tokenizer with the special tokens, of which a processor reads the named ones as attributes."""
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(SENTENCES, vocab_size=300, special_tokens=special, show_progress=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._tokenizer, model_max_length=512, extra_special_tokens=named, **kwargs
    )


def chatml_bpe(*audio: str, **named: str) -> PreTrainedTokenizerFast:
    """Train a tokenizer for the template above with the family's audio tokens."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *audio, *named.values()]
    others = {"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
    return bpe(special, named, additional_special_tokens=[*special[1:3], *audio], **others)


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
