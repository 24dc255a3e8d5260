"""Every product of a training step in every way: how exact, and how fast."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ard.sae import products
from ard.sae.functional import affine
from ard.sae.products import Order, Way
from ard.types import Codes
from experiments.bench_gpu.measure import (
    ARITHMETICS,
    Row,
    Shape,
    arithmetic,
    forget,
    milliseconds,
    operand,
    peak_tflops,
)

COLUMNS = (512, 256, 128)
"""Widths of the slices in which kernels are tried."""


def card(shape: Shape) -> Iterator[Row]:
    """The device's own matrix products and copies: what all else is compared with."""
    for name, tflops in peak_tflops(shape).items():
        yield {"what": f"matrix product, {name}", "value": tflops, "unit": "TFLOP/s"}
    source = torch.empty(2**16 if shape.model_divisor > 1 else 2**28, device=shape.device)
    copied = torch.empty_like(source)
    ms = milliseconds(partial(copied.copy_, source), shape)
    yield {"what": "copy, read and written", "value": 2 * source.nbytes / ms / 1e6, "unit": "GB/s"}


def exactness(shape: Shape) -> Iterator[Row]:
    """Every way of every product against float64: the largest error, relative to the largest entry.

    The first is against the operands as they are multiplied, the second against those that were to be multiplied.
    """
    d_sae, tokens = shape.middle * shape.d_in // 4, min(shape.tokens, 512)
    x, rows, codes = _operands(shape, tokens, d_sae)
    z = torch.zeros(tokens, d_sae, dtype=torch.float64, device=shape.device)
    z.scatter_(1, codes.indices, codes.values.double())
    whole = {"sum_rows": z @ rows.double(), "sum_tokens": z.T @ x.double(), "dots": x.double() @ rows.double().T}
    whole["dots"] = whole["dots"].gather(1, codes.indices)
    for name in ARITHMETICS:
        x_, rows_, values = (operand(tensor, name) for tensor in (x, rows, codes.values))
        z.scatter_(1, codes.indices, values.double())
        exact = {"sum_rows": z @ rows_.double(), "sum_tokens": z.T @ x_.double()}
        exact["dots"] = (x_.double() @ rows_.double().T).gather(1, codes.indices)
        with arithmetic(name, shape.device):
            for way in products.ways(rows_):
                for product, compute in _ways(x_, rows_, codes).items():
                    found = compute(way).double()
                    yield {
                        "product": product,
                        "arithmetic": name,
                        "way": way,
                        "error": _error(found, exact[product]),
                        "with rounding": _error(found, whole[product]),
                    }


def _error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def speed(shape: Shape) -> Iterator[Row]:
    """Milliseconds of every part of a step: the encoder's product, TopK, the sort, the products in every way."""
    for e in shape.expansions:
        forget(shape.device)
        d_sae = e * shape.d_in
        x, rows, codes = _operands(shape, shape.tokens, d_sae)
        w_enc, b_enc = rows.T, torch.zeros(d_sae, device=shape.device)
        yield {"e": e, "part": "sort by feature", "ms": milliseconds(partial(Order.of, codes.indices, d_sae), shape)}
        yield {
            "e": e,
            "part": "gradient of b_enc",
            "ms": milliseconds(partial(products.sum_values, codes, d_sae), shape),
        }
        for name in ARITHMETICS:
            with arithmetic(name, shape.device):
                x_, w_, rows_ = operand(x, name), operand(w_enc, name), operand(rows, name)
                head: Row = {"e": e, "arithmetic": name}
                encode = milliseconds(partial(affine, x_, w_, b_enc), shape)
                yield {**head, "part": "encoder's product", "ms": encode}
                if name != "tf32":
                    pre = affine(x_, w_, b_enc)
                    topk = milliseconds(partial(torch.topk, pre, shape.k, sorted=False), shape)
                    yield {**head, "part": "torch.topk", "ms": topk}
                    del pre
                for product, compute in _ways(x_, rows_, codes).items():
                    for way in products.ways(rows_):
                        ms = milliseconds(partial(compute, way), shape)
                        yield {**head, "part": product, "way": way, "ms": ms}
        if "triton" in products.ways(rows):
            yield from _slices(shape, e, x.bfloat16(), rows.bfloat16(), codes)
        skewed = _skewed(shape, d_sae)
        for way in products.ways(rows.bfloat16()):
            compute = _ways(x.bfloat16(), rows.bfloat16(), skewed)["sum_tokens"]
            ms = milliseconds(partial(compute, way), shape)
            yield {"e": e, "arithmetic": "bfloat16", "part": "sum_tokens, busy features", "way": way, "ms": ms}


def _slices(shape: Shape, e: int, x: Tensor, rows: Tensor, codes: Codes) -> Iterator[Row]:
    """The kernels with slices of other widths than the one that they choose."""
    from ard.sae import kernels

    indices, k = codes.indices.int(), codes.indices.shape[1]
    starts = torch.arange(0, len(x) * k + 1, k, device=x.device, dtype=torch.int32)
    weights = codes.values.to(rows.dtype).flatten()
    order = Order.of(codes.indices, len(rows))
    tokens, of_token, ends = (order.entries // k).int(), weights[order.entries], order.starts.int()
    for columns in COLUMNS:
        runs: dict[str, Callable[[], Any]] = {
            "sum_rows": partial(kernels.sum_rows, starts, indices.flatten(), weights, rows, columns),
            "sum_tokens": partial(kernels.sum_rows, ends, tokens, of_token, x, columns),
            "dots": partial(kernels.dots, x, indices, rows, columns),
        }
        for product, run in runs.items():
            row: Row = {"e": e, "arithmetic": "bfloat16", "part": product, "ms": milliseconds(run, shape)}
            yield {**row, "way": f"kernel alone, {columns} columns"}


def _operands(shape: Shape, tokens: int, d_sae: int) -> tuple[Tensor, Tensor, Codes]:
    """Return tokens, the rows of a decoder, and codes of these tokens."""
    generator = torch.Generator(shape.device).manual_seed(0)
    x = torch.randn(tokens, shape.d_in, generator=generator, device=shape.device)
    rows = torch.nn.functional.normalize(
        torch.randn(d_sae, shape.d_in, generator=generator, device=shape.device), dim=-1
    )
    values, indices = (x @ rows.T).topk(min(shape.k, d_sae), sorted=False)
    return x, rows, Codes(values.relu(), indices)


def _skewed(shape: Shape, d_sae: int) -> Codes:
    """Return codes in which some features are active on nearly every token, and most on hardly any."""
    generator = torch.Generator(shape.device).manual_seed(1)
    busy = torch.randn(d_sae, generator=generator, device=shape.device)
    pre = torch.randn(shape.tokens, d_sae, generator=generator, device=shape.device).add_(busy)
    values, indices = pre.topk(min(shape.k, d_sae), sorted=False)
    return Codes(values.relu(), indices)


def _ways(x: Tensor, rows: Tensor, codes: Codes) -> dict[str, Callable[[Way], Tensor]]:
    return {
        "sum_rows": lambda way: products.sum_rows(codes, rows, way),
        "sum_tokens": lambda way: products.sum_tokens(codes, x, len(rows), way),
        "dots": lambda way: products.dots(x, codes.indices, rows, way),
    }
