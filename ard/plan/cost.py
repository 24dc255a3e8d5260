"""What clips cost: frames, tokens, bytes and FLOPs, by formulas that the tests compare with real runs.

FLOPs are those of torch's ``FlopCounterMode``: a multiplication and an addition count as two. Matrix products,
convolutions and whole attention matrices count (a causal mask saves nothing), element-wise work does not.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int

PerClip = Int[np.ndarray, " clips"]
BLOCK, RECORD = 512, 10_240  # bytes in a tar: a header and a content fill whole blocks, the file fills whole records


def itemsize(dtype: str) -> int:
    """Return the bytes of a number of a dtype, by torch's name for it."""
    return getattr(torch, dtype).itemsize


def num_mel_frames(num_samples: PerClip, window: int) -> PerClip:
    """Return the mel frames of clips at 16 kHz: one for 160 samples, rounded up, and at most ``window``."""
    return np.minimum(-(-num_samples // 160), window)


def num_audio_tokens(mel_frames: PerClip) -> PerClip:
    """Return the audio tokens of clips, 25 a second: mel frames halved twice (``Qwen2AudioProcessor``)."""
    return np.maximum(((mel_frames - 1) // 2 - 1) // 2 + 1, 0)


def clip_bytes(num_tokens: PerClip, d_in: int, itemsize: int) -> PerClip:
    """Return the bytes of each clip in an activation shard: two tar members, safetensors and a JSON of one block.

    A safetensors file is 8 bytes, a header padded to 8, and the tensor [tokens, d_in]. Names beyond 100 characters and
    metadata beyond 512 bytes take more.
    """
    sizes = num_tokens * (d_in * itemsize)
    dtype = {2: "BF16", 4: "F32"}[itemsize]
    template = f'{{"x":{{"dtype":"{dtype}","shape":[,{d_in}],"data_offsets":[0,]}}}}'
    digits = np.char.str_len(num_tokens.astype(str)) + np.char.str_len(sizes.astype(str))
    return BLOCK + padded(8 + padded(len(template) + digits, 8) + sizes, BLOCK) + 2 * BLOCK


def shard_bytes(num_tokens: PerClip, d_in: int, itemsize: int) -> int:
    """Return the bytes of one layer's activation shard: its clips, two closing blocks, padding to whole records."""
    return int(padded(clip_bytes(num_tokens, d_in, itemsize).sum() + 2 * BLOCK, RECORD))


class Stack(NamedTuple):
    """FLOPs of transformer layers: per position, and per pair of positions (attention)."""

    position: int
    pair: int

    def flops(self, lengths: PerClip) -> int:
        """Return the FLOPs of sequences of these lengths."""
        return self.position * int(lengths.sum()) + self.pair * int((lengths**2).sum())


class ModelCost(NamedTuple):
    """FLOPs of the parts of an AudioLLM, and how many weights it has."""

    encoder: Stack
    window: int  # most frames of the encoder
    projector: int  # for one audio token
    decoder: Stack  # up to the deepest layer needed
    head: int  # for the logits of one position
    num_weights: int

    def prefill_flops(self, mel_frames: PerClip, num_text_tokens: int, clips_per_batch: int = 1) -> int:
        """Return the FLOPs of reading prompts, where every clip of a batch costs as much as the longest.

        The encoder computes only the frames that :func:`ard.audiollm.frames.needed_frames` leaves.
        """
        longest = _longest_in_batch(mel_frames, clips_per_batch)
        frames = np.minimum((longest - 1) // 2 + 2, self.window)
        encoded = self.encoder.flops(frames) + self.projector * int((frames // 2).sum())
        return encoded + self.decoder.flops(num_audio_tokens(longest) + num_text_tokens)

    def answer_flops(self, mel_frames: PerClip, num_text_tokens: int, clips_per_batch: int, num_new_tokens: int) -> int:
        """Return the FLOPs of answers: the prompt gives the first token, each further one takes a step.

        Logits are computed at every position of the prompt, as transformers' Qwen2-Audio does.
        """
        prompts = num_audio_tokens(_longest_in_batch(mel_frames, clips_per_batch)) + num_text_tokens
        num_positions, steps = int(prompts.sum()), num_new_tokens - 1
        num_decoded = len(prompts) * steps
        pairs = steps * num_positions + num_decoded * (steps + 1) // 2
        decoded = self.decoder.position * num_decoded + self.decoder.pair * pairs
        logits = self.head * (num_positions + num_decoded)
        return self.prefill_flops(mel_frames, num_text_tokens, clips_per_batch) + decoded + logits


def model_cost(audio: Mapping[str, Any], text: Mapping[str, Any], deepest: int | None = None) -> ModelCost:
    """Count a Qwen2-Audio up to and including decoder layer ``deepest`` (0-based; all layers if None).

    Args:
        audio: the dimensions of its audio encoder, named as in config.json's ``audio_config``.
        text: those of its decoder, named as in ``text_config``.
        deepest: the decoder layer.
    """
    a, num_mels, ffn, num_encoder_layers = (
        audio[name] for name in ("d_model", "num_mel_bins", "encoder_ffn_dim", "encoder_layers")
    )
    d, mlp, num_layers = (text[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    d_head = text["head_dim"] or d // text["num_attention_heads"]
    queries, keys = (
        text["num_attention_heads"] * d_head,
        (text["num_key_value_heads"] or text["num_attention_heads"]) * d_head,
    )
    attention, convolution = d * (2 * queries + 2 * keys), 3 * num_mels * a
    encoder_layer = 4 * a * a + 2 * a * ffn
    encoder_weights = convolution + a + 3 * a * a + a + audio["max_source_positions"] * a + 2 * a
    encoder_weights += num_encoder_layers * (encoder_layer + 3 * a + ffn + a + 4 * a)  # no bias on the keys
    decoder_weights = num_layers * (attention + queries + 2 * keys + 3 * d * mlp + 2 * d) + d
    num_read = num_layers if deepest is None else deepest + 1
    return ModelCost(
        encoder=Stack(
            2 * (2 * convolution + 3 * a * a + num_encoder_layers * encoder_layer), 4 * a * num_encoder_layers
        ),
        window=audio["max_source_positions"],
        projector=2 * a * d,
        decoder=Stack(2 * num_read * (attention + 3 * d * mlp), 4 * num_read * queries),
        head=2 * d * text["vocab_size"],
        num_weights=encoder_weights + (a * d + d) + decoder_weights + 2 * d * text["vocab_size"],
    )


def encoding_flops(d_in: int, d_sae: int) -> int:
    """Return the FLOPs of encoding one token by a TopK-SAE."""
    return 2 * d_in * d_sae


def training_flops(d_in: int, d_sae: int, k: int, *, k_aux: int = 0) -> tuple[int, int]:
    """Return the FLOPs of one token in training: of dense products, and of sparse ones, which gather rows of d_in.

    The encoder is dense. The decoder and the gradients of z, W_dec and W_enc are sparse, with k features each. AuxK
    does the same for k_aux dead features; the count is for the worst case, all dead.
    """
    return (2 if k_aux else 1) * encoding_flops(d_in, d_sae), 2 * 4 * (k + k_aux) * d_in


def clap_flops(audio: Mapping[str, Any]) -> int:
    """Return the FLOPs of one window of audio in CLAP; shorter clips are repeated to fill it.

    Args:
        audio: the dimensions of its audio encoder (HTS-AT, a Swin transformer), named as in config.json's
            ``audio_config``; fusion, which is for audio longer than a window, does not count.
    """
    side, width = audio["spec_size"] // np.atleast_1d(audio["patch_stride"])[0], audio["patch_embeds_hidden_size"]
    flops = 2 * side**2 * np.atleast_1d(audio["patch_size"])[0] ** 2 * audio["patch_embed_input_channels"] * width
    for stage, depth in enumerate(audio["depths"]):
        window = min(audio["window_size"], side)
        in_windows = int(padded(side, window)) ** 2
        attended = in_windows * (8 * width**2 + 4 * window**2 * width)
        flops += depth * (attended + side**2 * 4 * int(audio["mlp_ratio"] * width) * width)
        if stage < len(audio["depths"]) - 1:  # four neighbours become one, twice as wide
            side, width = -(-side // 2), 2 * width
            flops += side**2 * 4 * width**2
    return int(flops) + 2 * audio["projection_dim"] * (audio["hidden_size"] + audio["projection_dim"])


def padded(size: Any, block: int) -> Any:
    """Round sizes up to whole blocks."""
    return -(-size // block) * block


def _longest_in_batch(lengths: PerClip, clips_per_batch: int) -> PerClip:
    longest = np.maximum.reduceat(lengths, np.arange(0, len(lengths), clips_per_batch))
    return np.repeat(longest, clips_per_batch)[: len(lengths)]
