"""The sparse products of an SAE, and which way of computing each is the fastest on the device at hand.

Codes Z are sparse, so there are three ways to multiply by them: ``dense`` builds Z and leaves the rest to the device's
matrix units, ``gather`` reads only the rows that are selected, by PyTorch's own operators, and ``triton`` does so by
the kernels of :mod:`ard.sae.kernels`. All ways multiply operands as they are given, bfloat16 or wider, and add up in
float32 or wider; no sum depends on the order in which threads arrive.

A table says which way is taken: on a GPU, training measures it on its first batch (:func:`measure`); where nothing has
been measured, :func:`by_rule` decides.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.util import find_spec
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from ard.types import Codes, UserError

Way = Literal["dense", "gather", "triton"]
WAYS: tuple[Way, ...] = get_args(Way)
Product = Literal["sum_rows", "sum_tokens", "dots"]
PRODUCTS: tuple[Product, ...] = get_args(Product)

ALL_PRODUCTS = "all"
"""The key of a table under which it says the way of every product that it does not list."""

DENSE_FROM: Mapping[str, float] = {"cpu": 0.25, "float32": 0.015, "tf32": 0.0017, "bfloat16": 0.001}
"""If a token keeps at least this share of the features, dense products are faster than torch's sparse ones: on a CPU
(docs/bench.md), and in each arithmetic on an H200."""

REPEATS = 3
"""How often :func:`measure` times each way, after one run that is not counted."""

_table: ContextVar[Mapping[str, str]] = ContextVar("table")
_last = threading.local()


@contextmanager
def using(table: Mapping[str, str]) -> Iterator[None]:
    """Take the ways of a table within this context, and in the backward passes of what is computed in it."""
    token = _table.set(table)
    try:
        yield
    finally:
        _table.reset(token)


def way_of(product: Product, operand: Float[Tensor, "rows d_in"], k: int, d_sae: int) -> Way:
    """Return how a product is computed by the table in use, or else by the rule."""
    table = _table.get({})
    listed = table.get(case(product, operand, k, d_sae)) or table.get(ALL_PRODUCTS)
    return next((way for way in WAYS if way == listed), None) or by_rule(operand, k, d_sae)


def by_rule(operand: Float[Tensor, "rows d_in"], k: int, d_sae: int) -> Way:
    """Return the faster way by torch's own operators, where nothing has been measured."""
    share = DENSE_FROM.get("cpu" if operand.device.type == "cpu" else arithmetic(operand), DENSE_FROM["cpu"])
    return "dense" if k >= share * d_sae else "gather"


def case(product: Product, operand: Float[Tensor, "rows d_in"], k: int, d_sae: int) -> str:
    """Return the key of a product in a table: it depends on the device, the arithmetic and the shape."""
    device = torch.cuda.get_device_name(operand.device) if operand.device.type == "cuda" else operand.device.type
    return f"{product}, K {k} of {d_sae}, d_in {operand.shape[1]}, {arithmetic(operand)}, {device}"


def arithmetic(operand: Tensor) -> str:
    """Return in which arithmetic a device multiplies an operand: its dtype, or tf32."""
    rounds = operand.device.type == "cuda" and torch.get_float32_matmul_precision() != "highest"
    return "tf32" if rounds and operand.dtype == torch.float32 else str(operand.dtype).removeprefix("torch.")


def ways(operand: Tensor) -> tuple[Way, ...]:
    """Return the ways that there are on the device of an operand, for its dtype."""
    kernels = operand.dtype in (torch.float32, torch.bfloat16) and kernels_run_on(operand.device.type)
    return WAYS if kernels else ("dense", "gather")


@cache
def kernels_run_on(device_type: str) -> bool:
    """Return whether Triton is installed and has kernels for this type of device; on a CPU it interprets them."""
    if find_spec("triton") is None:
        return False
    import triton  # its import takes a second

    return device_type == "cuda" or bool(triton.knobs.runtime.interpret)


def check_way(way: str, operand: Tensor) -> None:
    """Refuse a way that there is not.

    Raises:
        UserError: if there is no such way, or not here.
    """
    if way not in WAYS:
        raise UserError(f"products are computed 'fastest' or by one of {', '.join(WAYS)}, not {way!r}")
    if way not in ways(operand):
        raise UserError(
            f"products cannot be computed by {way!r} on {operand.device.type}: install Triton for a GPU (`pip install "
            "triton`), or leave out the setting, and the fastest way that there is will be taken"
        )


def measure(
    codes: Codes, x: Float[Tensor, "tokens d_in"], rows: Float[Tensor, "features d_in"]
) -> tuple[dict[str, str], dict[str, dict[str, float]]]:
    """Time every way of every product on these operands.

    Returns:
        The fastest way of each product, as a table for :func:`using`; and the milliseconds of all, for the log.
    """
    k, d_sae = codes.indices.shape[1], len(rows)
    runs: dict[Product, Callable[[Way], object]] = {
        "sum_rows": lambda way: sum_rows(codes, rows, way),
        "sum_tokens": lambda way: sum_tokens(codes, x, d_sae, way),
        "dots": lambda way: dots(x, codes.indices, rows, way),
    }
    table: dict[str, str] = {}
    times: dict[str, dict[str, float]] = {}
    for product, run in runs.items():
        of_ways: dict[str, float] = {way: _milliseconds(run, way, x.device) for way in ways(rows)}
        key = case(product, rows, k, d_sae)
        table[key], times[key] = min(of_ways, key=of_ways.__getitem__), of_ways
    return table, times


def _milliseconds(run: Callable[[Way], object], way: Way, device: torch.device) -> float:
    """Return the shortest of some runs; infinity where a way does not work, as for want of memory."""
    try:
        run(way)
        times = []
        for _ in range(REPEATS):
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            started = time.perf_counter()
            run(way)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(1000 * (time.perf_counter() - started))
    except Exception as error:  # a compiler's, a driver's, want of memory: another way is taken
        logging.getLogger(__name__).warning("products by %r do not work here: %s", way, error)
        return float("inf")
    return min(times)


class Order(NamedTuple):
    """The entries of codes, sorted by feature and then by token."""

    entries: Int[Tensor, " entries"]  # places in the flattened codes
    starts: Int[Tensor, " features_and_1"]  # of each feature among the entries; the last is their number

    @classmethod
    def of(cls, indices: Int[Tensor, "tokens k"], d_sae: int) -> "Order":
        """Sort the entries of codes."""
        features, entries = indices.flatten().to(torch.int32).sort(stable=True)
        every = torch.arange(d_sae + 1, device=indices.device, dtype=torch.int32)
        return cls(entries, torch.searchsorted(features, every))

    @classmethod
    def of_step(cls, indices: Int[Tensor, "tokens k"], d_sae: int) -> "Order":
        """Sort the entries of codes, once for all gradients of a step: the last order is kept.

        It is kept with its indices, so that no others can take their place in memory. In inference there are no
        gradients, and tensors do not tell whether they were changed: nothing is kept.
        """
        if indices.is_inference():
            return cls.of(indices, d_sae)
        where = indices.untyped_storage()._cdata, indices.storage_offset(), indices.shape, indices.stride()
        key = *where, indices._version, d_sae
        kept = getattr(_last, "kept", None)
        if kept is None or kept[0] != key:
            kept = _last.kept = key, indices, cls.of(indices, d_sae)
        return kept[2]


def sum_rows(codes: Codes, rows: Float[Tensor, "features d_in"], way: Way) -> Float[Tensor, "tokens d_in"]:
    """Compute Z rows: for every token, the weighted sum of the rows that it selects."""
    values, indices = codes.values.to(rows.dtype), codes.indices
    if way == "dense":
        return product(_dense(Codes(values, indices), len(rows)), rows)
    if way == "triton":
        from ard.sae import kernels  # which need Triton

        tokens, k = indices.shape
        starts = torch.arange(0, tokens * k + 1, k, device=rows.device, dtype=torch.int32)
        return kernels.sum_rows(starts, indices.flatten().int(), values.flatten(), rows.contiguous())
    return embedding_bag(indices, _wide(rows), per_sample_weights=_wide(values), mode="sum")


def sum_tokens(codes: Codes, x: Float[Tensor, "tokens d_in"], d_sae: int, way: Way) -> Float[Tensor, "features d_in"]:
    """Compute Z^T x: for every feature, the weighted sum of the tokens that select it."""
    values, indices = codes.values.to(x.dtype), codes.indices
    if way == "dense":
        return product(_dense(Codes(values, indices), d_sae).T, x)
    order = Order.of_step(indices, d_sae)
    tokens, weights = order.entries // indices.shape[1], values.flatten()[order.entries]
    if way == "triton":
        from ard.sae import kernels  # which need Triton

        return kernels.sum_rows(order.starts.int(), tokens.int(), weights, x.contiguous())
    return embedding_bag(tokens, _wide(x), order.starts[:-1], per_sample_weights=_wide(weights), mode="sum")


def dots(
    x: Float[Tensor, "tokens d_in"], indices: Int[Tensor, "tokens k"], rows: Float[Tensor, "features d_in"], way: Way
) -> Float[Tensor, "tokens k"]:
    """Compute only the selected entries of x rows^T."""
    num_tokens, k = indices.shape
    if way == "dense":
        return product(x, rows.T).gather(1, indices)
    if way == "triton":
        from ard.sae import kernels  # which need Triton

        return kernels.dots(x.contiguous(), indices.int(), rows.contiguous())
    tokens = torch.arange(num_tokens, device=x.device)
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        _wide(x), _wide(rows), indices.flatten(), tokens * k, tokens.repeat_interleave(k, output_size=num_tokens * k), 0
    ).view(num_tokens, k)


def sum_values(codes: Codes, d_sae: int) -> Float[Tensor, " features"]:
    """Compute Z^T 1: the sum of every feature's values, on a GPU without atomics."""
    values, indices = codes
    if values.device.type == "cpu":
        return values.new_zeros(d_sae).index_add_(0, indices.flatten(), values.flatten())
    order = Order.of_step(indices, d_sae)
    return embedding_bag(order.entries, values.reshape(-1, 1), order.starts[:-1], mode="sum")[:, 0]


def product(a: Float[Tensor, "m n"], b: Float[Tensor, "n l"]) -> Float[Tensor, "m l"]:
    """Compute a b in the operands' own precision, whatever autocast says, and return float32 or wider."""
    if a.dtype != torch.bfloat16:
        return torch.mm(a, b, out=a.new_empty(a.shape[0], b.shape[1]))  # `out` keeps autocast away
    if a.device.type == "cuda":
        return torch.mm(a, b, out_dtype=torch.float32) if "dtype" in torch.ops.aten.mm.overloads() else (a @ b).float()
    return product(a.float(), b.float())


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor


def _dense(codes: Codes, d_sae: int) -> Float[Tensor, "tokens features"]:
    return codes.values.new_zeros(len(codes.values), d_sae).scatter_(1, codes.indices, codes.values)
