"""Forward hooks on layers: read a layer's output, replace it, or stop the pass after the deepest wanted layer."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn


class _DeepestLayerReached(Exception):  # noqa: N818  a signal, not an error
    """Ends a forward pass once every wanted layer has been seen."""


def _hidden(layer: Any, output: Any) -> Tensor:
    """Return the residual stream in a layer's output, which is a tensor or a tuple that starts with one.

    Gemma 3n returns several streams, [altup_num_inputs, batch, positions, d_in]. Its blocks compute the active one, by
    which the others are predicted and corrected.
    """
    hidden = output[0] if isinstance(output, tuple) else output
    return hidden[layer.config.altup_active_idx] if hidden.dim() == 4 else hidden


def _with_hidden(layer: Any, output: Any, hidden: Tensor) -> Any:
    """Return a layer's output with another residual stream and everything else unchanged."""
    if isinstance(output, tuple):
        return (_with_hidden(layer, output[0], hidden), *output[1:])
    if output.dim() == 4:
        output = output.clone()
        output[layer.config.altup_active_idx] = hidden
        return output
    return hidden


@contextmanager
def replace_output(
    layer: nn.Module, change: Callable[[Float[Tensor, "batch positions d_in"]], Float[Tensor, "batch positions d_in"]]
) -> Iterator[None]:
    """Replace a layer's hidden states by ``change`` of them; the hook is removed whatever happens."""

    def hook(module: nn.Module, _inputs: Any, output: Any) -> Any:
        return _with_hidden(module, output, change(_hidden(module, output)))

    handle = layer.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def stop_after(layers: nn.ModuleList, wanted: tuple[int, ...]) -> Iterator[dict[int, Tensor]]:
    """Collect the outputs of the wanted layers during one forward pass, which stops after the deepest.

    Yields a dict that fills during the pass: layer index (0-based) to hidden states [batch, positions, d_in].
    """
    captured: dict[int, Tensor] = {}

    def reader(index: int) -> Callable[..., None]:
        def hook(module: nn.Module, _inputs: Any, output: Any) -> None:
            captured[index] = _hidden(module, output)
            if index == max(wanted):
                raise _DeepestLayerReached

        return hook

    with ExitStack() as hooks:
        for index in wanted:
            hooks.callback(layers[index].register_forward_hook(reader(index)).remove)
        with suppress(_DeepestLayerReached):
            yield captured
