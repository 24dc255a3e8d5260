"""What clips cost: frames, tokens, bytes and FLOPs, by formulas that the tests compare with real runs.

FLOPs are those of torch's ``FlopCounterMode``: a multiplication and an addition count as two. Matrix products,
convolutions and whole attention matrices count (a causal mask saves nothing), element-wise work does not. Models are
built on the meta device, which reads no weights.
"""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForMultimodalLM, ClapModel

from ard.audiollm import stop_after
from ard.audiollm.frames import needed_frames

PerClip = Int[np.ndarray, " clips"]
BLOCK, RECORD = 512, 10_240  # bytes in a tar: a header and a content fill whole blocks, the file fills whole records


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


def model_cost(config: Any, deepest: int | None = None) -> ModelCost:
    """Count an AudioLLM up to and including decoder layer ``deepest`` (0-based; all layers if None)."""
    with torch.device("meta"):
        model = AutoModelForMultimodalLM.from_config(config).eval()
    decoder, tower, audio = model.get_decoder(), model.model.audio_tower, config.audio_config
    last = len(decoder.layers) - 1 if deepest is None else deepest
    width = decoder.config.hidden_size

    def meta(*shape: int) -> Tensor:
        return torch.empty(*shape, dtype=model.dtype, device="meta")

    def encode(length: int) -> None:
        sound = torch.ones(1, 2 * length - 2)  # mel frames that are not padding
        features = {"feature_attention_mask": sound, "input_features": meta(1, audio.num_mel_bins, 2 * length)}
        with needed_frames(tower, features) as needed:
            tower(needed["input_features"])

    def decode(length: int) -> None:
        mask = meta(1, 1, length, length)  # given, so that its values are not looked at
        with stop_after(decoder.layers, (last,)):
            decoder(inputs_embeds=meta(1, length, width), attention_mask=mask, use_cache=False)

    return ModelCost(
        encoder=_stack(encode),
        window=audio.max_source_positions,
        projector=_count(lambda: model.model.multi_modal_projector(meta(1, audio.d_model))),
        decoder=_stack(decode),
        head=_count(lambda: model.lm_head(meta(1, width))),
        num_weights=sum(weight.numel() for weight in model.parameters()),
    )


def encoding_flops(d_in: int, d_sae: int) -> int:
    """Return the FLOPs of encoding one token by a TopK-SAE."""
    return 2 * d_in * d_sae


def training_flops(d_in: int, d_sae: int, k: int, *, robust: bool = False, k_aux: int = 0) -> tuple[int, int]:
    """Return the FLOPs of one token in training: of dense products, and of sparse ones, which gather rows of d_in.

    The encoder is dense. The decoder and the gradients of z, W_dec, W_enc and, with ``robust``, of b_dec are sparse,
    with k features each. AuxK does the same for k_aux dead features; the count is for the worst case, all dead.
    """
    return (2 if k_aux else 1) * encoding_flops(d_in, d_sae), 2 * (5 if robust else 4) * (k + k_aux) * d_in


def clap_flops(config: Any) -> int:
    """Return the FLOPs of one window of audio in CLAP; shorter clips are repeated to fill it."""
    config = copy.deepcopy(config)
    audio = config.audio_config
    audio.enable_fusion = False  # fusion is for audio longer than a window, and clips are cut
    with torch.device("meta"):
        model: Any = ClapModel(config).eval()
        spectrogram = torch.empty(1, 1, audio.spec_size * audio.spec_size // audio.num_mel_bins, audio.num_mel_bins)
        return _count(lambda: model.get_audio_features(input_features=spectrogram))


def padded(size: Any, block: int) -> Any:
    """Round sizes up to whole blocks."""
    return -(-size // block) * block


def _stack(run: Callable[[int], None]) -> Stack:
    """Separate what is linear in positions from what is quadratic, by counting two lengths."""
    two, four = _count(lambda: run(2)), _count(lambda: run(4))
    pair = (four - 2 * two) // 8
    return Stack((two - 4 * pair) // 2, pair)


def _count(call: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def _longest_in_batch(lengths: PerClip, clips_per_batch: int) -> PerClip:
    longest = np.maximum.reduceat(lengths, np.arange(0, len(lengths), clips_per_batch))
    return np.repeat(longest, clips_per_batch)[: len(lengths)]
