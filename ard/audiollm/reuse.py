"""Compute what comes before a layer's end once for several answers to the same prompts."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers.cache_utils import DynamicLayer


class _Stored(NamedTuple):
    """What a layer made of the prompts: its output, and the keys and values that it left in the cache."""

    output: Any
    keys: Tensor
    values: Tensor


@contextmanager
def computed_once(
    tower: nn.Module | None, layers: nn.ModuleList, depth: int, asked: Callable[[], Any]
) -> Iterator[None]:
    """Let the audio encoder and the layers up to ``depth`` compute each prompts only once inside the block.

    What they return then is what they returned before, to the last bit, so nothing below the end of layer ``depth``
    may be changed inside the block. Only the pass that fills an empty cache is shortened, and only where every layer's
    cache keeps all positions: elsewhere everything is computed as always. The results of one prompts are kept, those
    of the latest.

    Args:
        tower: the audio encoder; None if it is not known.
        layers: the decoder's layers.
        depth: index of the last layer whose result is kept.
        asked: returns the prompts that are being answered; None outside of answers.
    """
    kept: dict[Any, Any] = {}
    latest: list[Any] = [None]

    def is_known() -> bool:
        """Forget what belongs to other prompts; return whether there are any now."""
        prompts = asked()
        if prompts is not latest[0]:
            kept.clear()
            latest[0] = prompts
        return prompts is not None

    def of_tower(compute: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **inputs: Any) -> Any:
            if not is_known():
                return compute(*args, **inputs)
            key = "tower", _shape(args, inputs)
            if key not in kept:
                kept[key] = compute(*args, **inputs)
            return kept[key]

        return forward

    def of_layer(index: int, compute: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **inputs: Any) -> Any:
            cache = _empty(inputs.get("past_key_values"), index) if is_known() else None
            if cache is None:
                return compute(*args, **inputs)
            key = index, _shape(args, inputs)
            if key not in kept:
                output = compute(*args, **inputs)
                kept[key] = _Stored(output, cache.layers[index].keys, cache.layers[index].values)
            else:
                cache.update(kept[key].keys, kept[key].values, index)
            return kept[key].output

        return forward

    with ExitStack() as stack:
        wrapped = {layer: of_layer(index, layer.forward) for index, layer in enumerate(layers[: depth + 1])}
        if tower is not None:
            wrapped[tower] = of_tower(tower.forward)
        for module, forward in wrapped.items():
            module.forward = forward
            stack.callback(delattr, module, "forward")
        yield


def _shape(args: tuple[Any, ...], inputs: dict[str, Any]) -> tuple[int, ...]:
    """Return the shape of a module's input, which grows with the number of beams."""
    return next(tuple(x.shape) for x in (*args, *inputs.values()) if isinstance(x, Tensor))


def _empty(cache: Any, index: int) -> Any:
    """Return a cache that this layer has not filled and that keeps every position; None for any other."""
    if cache is None or not hasattr(cache, "layers"):
        return None
    every = cache.layers
    is_plain = all(type(layer) is DynamicLayer for layer in every[: index + 1])
    return cache if is_plain and (len(every) <= index or every[index].get_seq_length() == 0) else None
