"""The sparse products of an SAE as Triton kernels, for a GPU; they need the optional package `triton`.

A kernel works through the columns slice by slice, so that the slice of a weight matrix from which rows are gathered
stays in the L2 cache. Every output has one program that sums it, in a fixed order and in float32: there are no atomics,
and equal inputs give equal bits.
"""

from functools import cache

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

ROWS = 16
"""Rows of a matrix that a program gathers at once: enough loads in flight to hide the memory's latency."""

NUM_WARPS = 4
SLICES = (512, 128)
"""Columns of which a program adds up rows: the first number if the cache holds as many of all rows, else the second."""

DOTS_BYTES = 512
"""Bytes of a row that a program multiplies."""


@triton.jit
def sum_rows_kernel(
    starts,
    ids,
    weights,
    rows,
    out,
    width,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Add up weights[j] * rows[ids[j]] for j from starts[i] to starts[i + 1], for one i and one slice of columns."""
    i = tl.program_id(0)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < width
    begin = tl.load(starts + i)
    end = tl.load(starts + i + 1)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(begin, end, ROWS):
        entries = first + tl.arange(0, ROWS)
        there = entries < end
        row = tl.load(ids + entries, mask=there, other=0).to(tl.int64)
        weight = tl.load(weights + entries, mask=there, other=0.0).to(tl.float32)
        mask = there[:, None] & inside[None, :]
        x = tl.load(rows + row[:, None] * width + columns[None, :], mask=mask, other=0.0)
        total += weight[:, None] * x.to(tl.float32)
    tl.store(out + i.to(tl.int64) * width + columns, tl.sum(total, axis=0), mask=inside)


@triton.jit
def dots_kernel(
    ids,
    x,
    rows,
    out,
    width,
    k,
    num_entries,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Multiply a token, x[i], by each of the k rows that it selects, over one slice of columns."""
    i = tl.program_id(0)
    part = tl.program_id(1)
    columns = part * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < width
    token = tl.load(x + i.to(tl.int64) * width + columns, mask=inside, other=0.0).to(tl.float32)
    for first in range(0, k, ROWS):
        entries = first + tl.arange(0, ROWS)
        there = entries < k
        row = tl.load(ids + i * k + entries, mask=there, other=0).to(tl.int64)
        mask = there[:, None] & inside[None, :]
        gathered = tl.load(rows + row[:, None] * width + columns[None, :], mask=mask, other=0.0)
        product = tl.sum(token[None, :] * gathered.to(tl.float32), axis=1)
        tl.store(out + part.to(tl.int64) * num_entries + i * k + entries, product, mask=there)


def sum_rows(
    starts: Int[Tensor, " bags_and_1"],
    ids: Int[Tensor, " entries"],
    weights: Float[Tensor, " entries"],
    rows: Float[Tensor, "rows d_in"],
    columns: int | None = None,
) -> Float[Tensor, "bags d_in"]:
    """Return the weighted sum of rows of each bag, in float32; bag i has the entries starts[i] to starts[i + 1].

    Args:
        starts: where bags start, and where the last one ends; 32-bit.
        ids: the row of each entry; 32-bit.
        weights: the weight of each entry.
        rows: contiguous rows.
        columns: width of a slice; what :func:`columns_of` says if not given.
    """
    width = rows.shape[1]
    columns = columns or columns_of(rows)
    out = rows.new_empty(len(starts) - 1, width, dtype=torch.float32)
    if out.numel():
        grid = (len(out), triton.cdiv(width, columns))
        sum_rows_kernel[grid](starts, ids, weights, rows, out, width, ROWS, columns, num_warps=NUM_WARPS)
    return out


def dots(
    x: Float[Tensor, "tokens d_in"],
    ids: Int[Tensor, "tokens k"],
    rows: Float[Tensor, "rows d_in"],
    columns: int | None = None,
) -> Float[Tensor, "tokens k"]:
    """Return the products of every token with the rows that it selects, in float32; arguments as of :func:`sum_rows`.

    Each slice of columns is summed by itself, and then the slices, in order.
    """
    num_tokens, k = ids.shape
    columns = columns or _at_most(DOTS_BYTES // rows.element_size(), rows)
    parts = triton.cdiv(rows.shape[1], columns)
    out = rows.new_empty(parts, num_tokens, k, dtype=torch.float32)
    if out.numel():
        grid = (num_tokens, parts)
        dots_kernel[grid](ids, x, rows, out, rows.shape[1], k, ids.numel(), ROWS, columns, num_warps=NUM_WARPS)
    return out.sum(dim=0)


def columns_of(rows: Float[Tensor, "rows d_in"]) -> int:
    """Return the columns of a slice, of which the L2 cache is to hold all rows, and no more than there are."""
    wide, narrow = SLICES
    fits = wide * len(rows) * rows.element_size() <= _cache_size(rows.device)
    return _at_most(wide if fits else narrow, rows)


def _at_most(columns: int, rows: Tensor) -> int:
    return min(columns, max(triton.next_power_of_2(rows.shape[1]), 16))


@cache
def _cache_size(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).L2_cache_size if device.type == "cuda" else 2**25
