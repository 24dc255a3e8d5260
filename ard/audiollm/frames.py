"""Let an audio encoder that pads every clip to its whole window compute only the frames that hold sound."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

PADDED = ("Qwen2AudioEncoder", "AudioFlamingo3Encoder")  # their attention skips padding, and positions count from 0
MASKS = ("feature_attention_mask", "input_features_mask")  # one entry for each mel frame; the name depends on the model


def padded_encoder(model: nn.Module) -> nn.Module | None:
    """Return a model's audio encoder if it pads to its window; None if it does not."""
    return next((module for module in model.modules() if type(module).__name__ in PADDED), None)


@contextmanager
def needed_frames(encoder: nn.Module | None, features: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Cut the features of a batch after its longest clip, and let the encoder accept them inside the block.

    Every valid frame comes out as it would from the whole window, up to rounding: two convolutions of width 3, the
    second of stride 2, see at most two mel frames farther, and these are kept.

    Args:
        encoder: from :func:`padded_encoder`; if it is None or there is no mask, the features stay as they are.
        features: the model's input.
    """
    mask = next((features[name] for name in MASKS if name in features), None)
    if encoder is None or mask is None:
        yield dict(features)
        return
    tower: Any = encoder
    longest = (int(mask.sum(dim=-1).max()) - 1) // 2 + 1
    num_frames = min(longest + 1, tower.config.max_source_positions)
    mel = {name: features[name] for name in (*MASKS, "input_features") if name in features}
    cut = {name: tensor[..., : 2 * num_frames] for name, tensor in mel.items()}
    with shortened(tower, num_frames):
        yield {**features, **cut}


@contextmanager
def shortened(tower: Any, num_frames: int) -> Iterator[None]:
    """Let an encoder of Whisper's kind take a window of fewer frames inside the block, with the first positions."""
    whole, positions = tower.config.max_source_positions, tower.embed_positions
    tower.config.max_source_positions = num_frames
    tower.embed_positions = nn.Embedding.from_pretrained(positions.weight[:num_frames])
    try:
        yield
    finally:
        tower.config.max_source_positions = whole
        tower.embed_positions = positions
