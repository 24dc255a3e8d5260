"""Forward hooks on decoder layers: read a layer's output, replace it, stop the pass after the deepest one wanted."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn


class _DeepestLayerReached(Exception):  # noqa: N818  a signal, not an error
    """Ends a forward pass once every wanted layer has been seen."""


def _hidden(output: Any) -> Tensor:
    """Return the hidden states of a layer's output: a tensor or, in older models, a tuple that starts with one."""
    return output[0] if isinstance(output, tuple) else output


@contextmanager
def replace_output(
    layer: nn.Module, change: Callable[[Float[Tensor, "batch positions d_in"]], Float[Tensor, "batch positions d_in"]]
) -> Iterator[None]:
    """Replace the hidden states that a layer returns by ``change`` of them; leave no hook behind, whatever happens."""

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        changed = change(_hidden(output))
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    handle = layer.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def stop_after(layers: nn.ModuleList, wanted: tuple[int, ...]) -> Iterator[dict[int, Tensor]]:
    """Collect the outputs of the wanted layers during one forward pass, which ends after the deepest of them.

    Yields a dict that fills during the pass, layer index (0-based) to hidden states [batch, positions, d_in].
    """
    captured: dict[int, Tensor] = {}

    def reader(index: int) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            captured[index] = _hidden(output)
            if index == max(wanted):
                raise _DeepestLayerReached

        return hook

    with ExitStack() as hooks:
        for index in wanted:
            hooks.callback(layers[index].register_forward_hook(reader(index)).remove)
        with suppress(_DeepestLayerReached):
            yield captured
