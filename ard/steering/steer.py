"""Set features to a value while the model runs (Sec. 4, Fig. 2)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ard.audiollm import AudioLLM, replace_output
from ard.sae import SparseCoder


@contextmanager
def steer(
    model: AudioLLM,
    coder: SparseCoder,
    layer: int,
    clamp: Mapping[int, float],
    *,
    positions: Literal["all", "audio"] = "all",
    phase: Literal["prefill", "every"] = "prefill",
    keep_error: bool = False,
) -> Iterator[None]:
    """Clamp features of a layer's output inside the block; no hook outlives it.

    The defaults are the procedure of the paper's reference [9]: x is encoded, the features are set before TopK selects,
    and x is replaced by what is decoded, at every token that is not padding; the tokens of later decoding steps are
    replaced by their plain reconstruction. An empty ``clamp`` is thus the control `SAE without clamp`.

    Args:
        model: the AudioLLM.
        coder: an SAE of that layer, or raw coordinates.
        layer: decoder layer, 0-based.
        clamp: feature to value, in units of activation.
        positions: where features are set: at every token, or at audio tokens only.
        phase: set features while the prompt is read, or at every decoding step too (with ``positions="all"``).
        keep_error: add the change to x, x + decode(clamped) - decode(z), and leave all else as it is; an empty
            ``clamp`` then changes nothing, to the last bit.
    """
    state: dict[str, Any] = {}

    def note_inputs(_module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        """Remember, before each pass, whether it reads the prompt and where padding and audio are."""
        cache = kwargs.get("past_key_values")
        state["prefill"] = cache is None or cache.get_seq_length() == 0
        ids, attention = kwargs.get("input_ids"), kwargs.get("attention_mask")
        if state["prefill"] and ids is not None:
            state["valid"] = torch.ones_like(ids, dtype=torch.bool) if attention is None else attention.bool()
            state["audio"] = ids == model.prompter.audio_token_id

    def change(x: Float[Tensor, "batch positions d_in"]) -> Float[Tensor, "batch positions d_in"]:
        clamped_here = bool(clamp) and (state["prefill"] or (phase == "every" and positions == "all"))
        if keep_error and not clamped_here:
            return x
        valid = state["valid"] if state["prefill"] else x.new_ones(x.shape[:2], dtype=torch.bool)
        where = state["audio"] if positions == "audio" and state["prefill"] else valid
        steered = x.clone()
        if keep_error:
            steered[where] += _decoded(coder, x[where], clamp) - _decoded(coder, x[where], {})
            return steered
        steered[valid] = _decoded(coder, x[valid], {})
        if clamped_here:
            steered[where] = _decoded(coder, x[where], clamp)
        return steered

    handle = model.model.model.register_forward_pre_hook(note_inputs, with_kwargs=True)
    try:
        with replace_output(model.layers[layer], change):
            yield
    finally:
        handle.remove()


def _decoded(
    coder: SparseCoder, x: Float[Tensor, "tokens d_in"], clamp: Mapping[int, float]
) -> Float[Tensor, "tokens d_in"]:
    return coder.decode(coder.encode(x.float(), clamp)).to(x.dtype)
