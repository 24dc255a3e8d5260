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
PART = 2**12
"""Entries of a row that :func:`top_k` writes from at once."""

SLICES = (512, 256, 128)
"""Columns that a program may sum, most first."""


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
        found = tl.load(rows + row[:, None] * width + columns[None, :], mask=mask, other=0.0)
        product = tl.sum(token[None, :] * found.to(tl.float32), axis=1)
        tl.store(out + part.to(tl.int64) * num_entries + i * k + entries, product, mask=there)


@triton.jit
def ordered(row, BITS: tl.constexpr):
    """Return integers that compare as the entries do."""
    bits = row.to(tl.float32).to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)) >> (32 - BITS)


@triton.jit
def top_k_kernel(x, values, indices, width, k, WIDTH: tl.constexpr, PART: tl.constexpr, BITS: tl.constexpr):
    """Write the k largest entries of row i: those above the k-th, and the first of those that equal it.

    The k-th largest is found two bits at a time, with the row in registers. Then the row is gone through part by part.
    """
    i = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, WIDTH)
    row = tl.load(x + i * width + columns, mask=columns < width, other=0.0)
    least = -(2 ** (BITS - 1))
    key = tl.where(columns < width, ordered(row, BITS), least)
    kth = tl.where(tl.sum((key >= 0).to(tl.int32)) >= k, 0, least)
    for pair in tl.static_range((BITS - 2) // 2):  # two bits at once: three counts in one word
        one = 1 << (BITS - 3 - 2 * pair)
        count = tl.sum(
            (key >= kth + one).to(tl.int64)
            + ((key >= kth + 2 * one).to(tl.int64) << 20)
            + ((key >= kth + 3 * one).to(tl.int64) << 40)
        )
        reached = ((count & 0xFFFFF) >= k).to(tl.int32) + (((count >> 20) & 0xFFFFF) >= k).to(tl.int32)
        kth += one * (reached + ((count >> 40) >= k).to(tl.int32))
    kth = tl.where(tl.sum((key >= kth + 1).to(tl.int32)) >= k, kth + 1, kth)
    first_above = 0
    first_equal = tl.sum((key > kth).to(tl.int32))
    for start in range(0, width, PART):
        place = start + tl.arange(0, PART)
        entries = tl.load(x + i * width + place, mask=place < width, other=0.0)
        above = (ordered(entries, BITS) > kth) & (place < width)
        equal = (ordered(entries, BITS) == kth) & (place < width)
        # Both are counted in one scan: what is above in the lower half of a word, what is equal in the upper one.
        counted = tl.cumsum(above.to(tl.int32) + (equal.to(tl.int32) << 16))
        slot = tl.where(above, first_above + (counted & 0xFFFF), first_equal + (counted >> 16)) - 1
        kept = above | (equal & (slot < k))
        tl.store(values + i * k + slot, entries, mask=kept)
        tl.store(indices + i * k + slot, place.to(tl.int64), mask=kept)
        first_above += tl.sum(above.to(tl.int32))
        first_equal += tl.sum(equal.to(tl.int32))


def sum_rows(
    starts: Int[Tensor, " bags_and_1"],
    ids: Int[Tensor, " entries"],
    weights: Float[Tensor, " entries"],
    rows: Float[Tensor, "rows d_in"],
    columns: int | None = None,
    at_once: int = ROWS,
) -> Float[Tensor, "bags d_in"]:
    """Return the weighted sum of rows of each bag, in float32; bag i has the entries starts[i] to starts[i + 1].

    Args:
        starts: where bags start, and where the last one ends; 32-bit.
        ids: the row of each entry; 32-bit.
        weights: the weight of each entry.
        rows: contiguous rows.
        columns: width of a slice; what :func:`columns_of` says if not given.
        at_once: rows that a program gathers at once.
    """
    width = rows.shape[1]
    columns = columns or columns_of(rows)
    out = rows.new_empty(len(starts) - 1, width, dtype=torch.float32)
    if out.numel():
        grid = (len(out), triton.cdiv(width, columns))
        sum_rows_kernel[grid](starts, ids, weights, rows, out, width, at_once, columns, num_warps=NUM_WARPS)
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
    columns = columns or columns_of(rows)
    parts = triton.cdiv(rows.shape[1], columns)
    out = rows.new_empty(parts, num_tokens, k, dtype=torch.float32)
    if out.numel():
        grid = (num_tokens, parts)
        dots_kernel[grid](ids, x, rows, out, rows.shape[1], k, ids.numel(), ROWS, columns, num_warps=NUM_WARPS)
    return out.sum(dim=0)


def top_k(x: Float[Tensor, "tokens features"], k: int) -> tuple[Float[Tensor, "tokens k"], Int[Tensor, "tokens k"]]:
    """Return the k largest entries of every row and their columns, as `torch.topk` does, in another order.

    Of entries that are equal, the first are taken. A row must fit into the registers of a block of threads (see
    :data:`ard.sae.products.WIDEST_ROW`).
    """
    num_tokens, width = x.shape
    values = x.new_empty(num_tokens, k)
    indices = torch.empty(num_tokens, k, dtype=torch.int64, device=x.device)
    if values.numel():
        held = triton.next_power_of_2(width)
        num_warps = min(max(held // 1024, 4), 32)
        sizes = (held, min(held, PART), 8 * x.element_size())
        top_k_kernel[(num_tokens,)](x, values, indices, width, k, *sizes, num_warps=num_warps)
    return values, indices


def columns_of(rows: Float[Tensor, "rows d_in"]) -> int:
    """Return the widest slice of columns of which half of the L2 cache holds all rows, and no wider than needed."""
    room = _cache_size(rows.device) // 2
    fitting = [width for width in SLICES if width * len(rows) * rows.element_size() <= room]
    needed = triton.next_power_of_2(rows.shape[1])
    return min(fitting[0] if fitting else SLICES[-1], max(needed, 16))


@cache
def _cache_size(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).L2_cache_size if device.type == "cuda" else 2**25
