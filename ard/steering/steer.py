"""Set features to a value, or add a direction, while the model runs (Sec. 4, Fig. 2)."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ard.audiollm import AudioLLM, Positions
from ard.sae import Dictionary
from ard.types import UserError

Where = Literal["all", "audio", "last"]
Phase = Literal["prefill", "every"]


@contextmanager
def steer(
    model: AudioLLM,
    coder: Dictionary | None,
    layer: int,
    clamp: Mapping[int, float] | None = None,
    *,
    add: Float[Tensor, " d_in"] | None = None,
    positions: Where = "all",
    phase: Phase = "prefill",
    keep_error: bool = False,
    maxima: Float[Tensor, " features"] | None = None,
) -> Iterator[None]:
    """Clamp features of a layer's output inside the block, or add a direction to it; no hook outlives the block.

    Blocks may be nested.

    The defaults are the procedure of the paper's reference [9]: at every token that is not padding, x is encoded, the
    features are set before TopK selects, and the decoded codes replace x. Tokens of later decoding steps are replaced
    by their plain reconstruction. An empty ``clamp`` is thus the control `SAE without clamp`.

    TopK sees the value that is set: a feature whose value is not among the k largest of a token is not active there. A
    feature set to 0 is active nowhere, and the next in order takes its place. For other dictionaries, ``encode``
    documents what setting a feature means.

    Args:
        model: the AudioLLM.
        coder: a dictionary of that layer. Without one (None) x is not replaced, and only ``add`` changes it.
        layer: decoder layer, 0-based.
        clamp: feature to value, as an activation, or as a multiple of the feature's maximum if ``maxima`` are given.
        add: a direction, in the length in which it is added to x, after features are set.
        positions: where in the prompt: at every token, at audio tokens, or at the last token.
        phase: only while the prompt is read, or also at every token of the answer.
        keep_error: only add the change to x, x + decode(clamped) - decode(z), and leave all else as it is; an empty
            ``clamp`` then changes nothing, to the last bit.
        maxima: each feature's largest activation on the probing set, the unit of the values.

    Raises:
        UserError: if the layer or a feature does not exist, the SAE or the direction is not as wide as the layer,
            features are to be set without a dictionary, or a value is not finite or is refused by the dictionary's
            ``check_clamp``.
    """
    model.check_layers([layer])
    if coder is not None and coder.d_in != model.d_in:
        raise UserError(
            f"the SAE is for a width of {coder.d_in}, and {model.name!r} is {model.d_in} wide: give an SAE that was "
            f"trained on layer {layer} of this model"
        )
    if add is not None:
        _check_direction(add, model)
    if coder is None and clamp:
        raise UserError(f"features {sorted(clamp)} cannot be set without a dictionary: give one, or a direction alone")
    values = {} if coder is None else clamp_values(coder, clamp or {}, maxima)

    def change(x: Float[Tensor, "clips positions d_in"], at: Positions) -> Float[Tensor, "clips positions d_in"]:
        where = _set_positions(at, positions, phase)
        steered = x if coder is None else _with_features(coder, values, x, at, where, keep_error)
        return steered if add is None else _put(steered, where, partial(torch.add, add.to(x.device)))

    with model.intervene(layer, change):
        yield


def _with_features(
    coder: Dictionary,
    values: Mapping[int, float],
    x: Float[Tensor, "clips positions d_in"],
    at: Positions,
    where: Bool[Tensor, "clips positions"],
    keep_error: bool,
) -> Float[Tensor, "clips positions d_in"]:
    """Set features at some positions; elsewhere x is rebuilt, unless the error is kept."""
    where = where if values else torch.zeros_like(where)
    if keep_error:
        return _put(x, where, partial(_shifted, coder, values))
    steered = _put(x, where, partial(_decoded, coder, values))
    return _put(steered, at.valid & ~where, partial(_decoded, coder, {}))


def _check_direction(direction: Tensor, model: AudioLLM) -> None:
    if direction.shape != (model.d_in,):
        raise UserError(
            f"the direction has the shape {list(direction.shape)}, and {model.name!r} is {model.d_in} wide: give a "
            f"vector of {model.d_in} numbers"
        )
    if not bool(direction.isfinite().all()):
        raise UserError("the direction has numbers that are not finite: give another")


def clamp_values(
    coder: Dictionary, clamp: Mapping[int, float], maxima: Float[Tensor, " features"] | None = None
) -> dict[int, float]:
    """Return the activations to set features to, after checking that they can be set.

    Raises:
        UserError: if one cannot; see :func:`steer`.
    """
    if maxima is not None and maxima.shape != (coder.d_sae,):
        raise UserError(f"{maxima.numel()} maxima are given for {coder.d_sae} features: give one for each feature")
    values = {}
    for feature, value in clamp.items():
        if not 0 <= feature < coder.d_sae:
            raise UserError(f"feature {feature} does not exist: this dictionary has features 0 to {coder.d_sae - 1}")
        values[int(feature)] = float(value) * (1.0 if maxima is None else float(maxima[feature]))
        if not math.isfinite(values[feature]):
            raise UserError(f"feature {feature} cannot be set to {values[feature]}: give a finite value")
        if value != 0 and values[feature] == 0:
            raise UserError(
                f"feature {feature} has no maximum, since no clip of the probing set makes it active: choose another, "
                "or give an absolute value"
            )
    coder.check_clamp(values)
    return values


def _set_positions(at: Positions, positions: Where, phase: Phase) -> Bool[Tensor, "clips positions"]:
    """Return the positions at which features are set in a forward pass."""
    prompt = at.valid & at.prompt
    if positions == "audio":
        prompt = at.audio
    elif positions == "last":
        prompt = prompt & (prompt.flip(1).cumsum(dim=1).flip(1) == 1)
    return prompt | (at.valid & ~at.prompt) if phase == "every" else prompt


def _put(
    x: Float[Tensor, "clips positions d_in"],
    where: Bool[Tensor, "clips positions"],
    make: Callable[[Float[Tensor, "tokens d_in"]], Float[Tensor, "tokens d_in"]],
) -> Float[Tensor, "clips positions d_in"]:
    """Return x with ``make`` applied to the tokens that ``where`` selects; x itself if it selects none."""
    rows = where.flatten().nonzero()[:, 0]
    if len(rows) == 0:
        return x
    tokens = x.flatten(0, 1)
    return tokens.index_copy(0, rows, make(tokens[rows]).to(x.dtype)).view_as(x)


def _decoded(
    coder: Dictionary, clamp: Mapping[int, float], x: Float[Tensor, "tokens d_in"]
) -> Float[Tensor, "tokens d_in"]:
    return coder.decode(coder.encode(_as_weights(coder, x), clamp))


def _shifted(
    coder: Dictionary, clamp: Mapping[int, float], x: Float[Tensor, "tokens d_in"]
) -> Float[Tensor, "tokens d_in"]:
    """Return x + decode(clamped) - decode(z), which both come from one encoding."""
    tokens = _as_weights(coder, x)
    plain, clamped = coder.encode_both(tokens, clamp)
    return tokens + (coder.decode(clamped) - coder.decode(plain))


def _as_weights(coder: Dictionary, x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens d_in"]:
    """Return x in the precision of a dictionary's weights, which is mostly higher than the model's."""
    weights = (*coder.parameters(), *coder.buffers())
    return x.to(next((tensor.dtype for tensor in weights if tensor.is_floating_point()), torch.float32))
