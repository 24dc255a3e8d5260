"""Compute what comes before a layer's end once for several answers to the same prompts."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicLayer
from transformers.utils.generic import ModelOutput


class Asked(NamedTuple):
    """What is being answered."""

    prompts: Any
    suffix: tuple[tuple[int, ...], ...]  # tokens behind each prompt
    times: int  # copies of the whole batch in a pass


class _Stored(NamedTuple):
    """What a layer made of the prompts: its output, and the keys and values that it left in the cache."""

    output: Tensor
    keys: Tensor
    values: Tensor


@contextmanager
def computed_once(
    tower: nn.Module | None, layers: nn.ModuleList, depth: int, asked: Callable[[], Asked | None]
) -> Iterator[None]:
    """Let the audio encoder and the layers up to ``depth`` compute each prompts only once inside the block.

    They return what they returned before, so nothing below the end of layer ``depth`` may be changed inside the block.
    Shortened are passes that fill an empty cache, where every layer's cache keeps all positions, and passes without a
    cache, also of several copies of the batch. Everything else is computed as always, and so are layers that pass on
    more than one residual stream (Gemma 3n). The results of one prompts are kept, those of the latest.

    Args:
        tower: the audio encoder; None if it is not known.
        layers: the decoder's layers.
        depth: index of the last layer whose result is kept.
        asked: returns what is being answered; None outside of answers.
    """
    kept: dict[Any, Any] = {}
    latest: list[Asked | None] = [None]

    def now() -> Asked | None:
        """Return what is being answered, and forget what belongs to anything else."""
        current, last = asked(), latest[0]
        if current is None or last is None or current.prompts is not last.prompts or current.suffix != last.suffix:
            kept.clear()
        latest[0] = current
        return current

    def once(key: Any, times: int, compute: Callable[[], Any]) -> Any:
        """Return a module's output for as many copies of the batch, from that for one where it is known."""
        one = kept.get((key, 1))
        if times > 1 and one is not None and (copies := _copies(one, times)) is not None:
            return copies
        if (output := kept.get((key, times))) is None:
            output = compute()
            if _copies(output, 1) is not None:
                kept[key, times] = output
        return output

    def of_tower(compute: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **inputs: Any) -> Any:
            current = now()
            if current is None:
                return compute(*args, **inputs)
            return once(("tower", _shape(args, inputs, current.times)), current.times, lambda: compute(*args, **inputs))

        return forward

    def of_layer(index: int, compute: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **inputs: Any) -> Any:
            current, cache = now(), inputs.get("past_key_values")
            if current is None or (cache is not None and not _is_empty(cache, index)):
                return compute(*args, **inputs)
            key = index, _shape(args, inputs, current.times)
            if cache is None:
                return once(key, current.times, lambda: compute(*args, **inputs))
            stored = kept.get((key, "cached"))
            if stored is None:
                output = compute(*args, **inputs)
                if _copies(output, 1) is not None:
                    filled = cache.layers[index]
                    kept[key, "cached"] = _Stored(output, filled.keys, filled.values)
                return output
            cache.update(stored.keys, stored.values, index)
            return stored.output

        return forward

    with ExitStack() as stack:
        wrapped = {layer: of_layer(index, layer.forward) for index, layer in enumerate(layers[: depth + 1])}
        if tower is not None:
            wrapped[tower] = of_tower(tower.forward)
        for module, forward in wrapped.items():
            module.forward = forward
            stack.callback(delattr, module, "forward")
        yield


def _shape(args: tuple[Any, ...], inputs: dict[str, Any], times: int) -> tuple[int, ...]:
    """Return the shape of a module's input for one copy of the batch; it grows with the number of beams."""
    first = next(x for x in (*args, *inputs.values()) if isinstance(x, Tensor))
    return first.shape[0] // times, *first.shape[1:]


def _copies(output: Any, times: int) -> Any:
    """Return an output as it would be for several copies of the batch; None if it is not clear how."""
    if isinstance(output, Tensor) and output.dim() == 3:
        return torch.cat([output] * times)
    if isinstance(output, ModelOutput) and all(isinstance(x, Tensor) and x.dim() == 3 for x in output.values()):
        return type(output)(**{name: torch.cat([x] * times) for name, x in output.items()})
    return None


def _is_empty(cache: Any, index: int) -> bool:
    """Return whether a layer has not filled its cache yet, and the cache keeps every position."""
    layers = getattr(cache, "layers", None)
    if layers is None or not all(type(layer) is DynamicLayer for layer in layers[: index + 1]):
        return False
    return len(layers) <= index or layers[index].get_seq_length() == 0
