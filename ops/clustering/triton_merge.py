"""Merging without atomic additions of rows: tokens in the order of their places, each row read once.

A counting sort lists the tokens of every place side by side. A program takes a block of that list, and owns the places
that begin in it: it sums their rows by a product with the matrix of who belongs where, reads on to where its last place
ends, and writes means. So a place of thousands of tokens costs no more per token than one of two.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

#: Tokens of a program that merges.
TOKENS = 32


@triton.jit(do_not_specialize=("length", "kept"))
def _count_kernel(places, counts, length, kept, TOKENS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    inside = token < length
    place = tl.load(places + row * length + token, mask=inside, other=0)
    tl.atomic_add(counts + row * kept + place, 1, mask=inside, sem="relaxed")


@triton.jit(do_not_specialize=("length", "kept"))
def _list_kernel(places, ends, order, ordered, length, kept, TOKENS: tl.constexpr):
    """Tokens and their places, in the order of the places. ends: where each begins, and after this where it ends."""
    row = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    inside = token < length
    place = tl.load(places + row * length + token, mask=inside, other=0)
    # Those outside add 0: triton-ascend drops the mask where the old value is asked for.
    slot = tl.atomic_add(ends + row * kept + place, inside.to(tl.int32), mask=inside, sem="relaxed")
    tl.store(order + row * length + slot, token, mask=inside)
    tl.store(ordered + row * length + slot, place, mask=inside)


@triton.jit
def members(
    x, degrees, order, begin, end, stride, D: tl.constexpr, WIDTH: tl.constexpr, TOKENS: tl.constexpr
):  # fmt: skip
    """The sum of the rows at order[begin:end] times their degrees, [WIDTH], and the sum of their degrees."""
    column = tl.arange(0, WIDTH)
    safe_column = tl.minimum(column, D - 1) if D != WIDTH else column
    total = tl.zeros([TOKENS], tl.float32)
    sums = tl.zeros([WIDTH], tl.float32)
    for start in range(begin, end, TOKENS):
        slot = start + tl.arange(0, TOKENS)
        token = tl.load(order + slot, mask=slot < end, other=0)
        degree = tl.load(degrees + token, mask=slot < end, other=0.0)
        rows = tl.load(
            x + token.to(tl.int64)[:, None] * stride + safe_column[None, :],
            mask=(slot < end)[:, None] & (column < D)[None, :],
            other=0.0,
        )
        sums += tl.sum(rows.to(tl.float32) * degree[:, None], axis=0)
        total += degree
    return sums, tl.sum(total, axis=0)


@triton.jit
def _means(
    x, out, order, degrees, token, degree, belongs, partly, last, first, begin, end, stride,
    D: tl.constexpr, WIDTH: tl.constexpr, TOKENS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Means of one tensor's rows; returns the sums of their degrees."""
    column = tl.arange(0, WIDTH)
    real = column < D
    dim = (tl.minimum(column, D - 1) if D != WIDTH else column)[None, :]
    at = x + token.to(tl.int64)[:, None] * stride + dim
    rows = tl.load(at, mask=(degree > 0)[:, None] & real[None, :], other=0.0)
    sums = tl.dot(belongs, rows.to(tl.float32) * degree[:, None], input_precision=PRECISION)
    rest, more = members(x, degrees, order, begin, end, stride, D, WIDTH, TOKENS)
    place = first + tl.arange(0, TOKENS)
    sums += tl.where((place == last)[:, None], rest[None, :], 0.0)
    total = tl.where(place <= last, partly + tl.where(place == last, more, 0.0), 1.0)
    to = out + place.to(tl.int64)[:, None] * D + dim
    tl.store(to, (sums / total[:, None]).to(out.dtype.element_ty), mask=(place <= last)[:, None] & real[None, :])
    return total


@triton.jit(do_not_specialize=("length", "kept", "heads"))
def _merge_kernel(
    keys, values, degrees, order, ordered, ends, out_keys, out_values, out_degrees, length, kept, heads,
    key_b, key_h, key_l, value_b, value_h, value_l,
    D: tl.constexpr, WIDTH: tl.constexpr, D2: tl.constexpr, WIDTH2: tl.constexpr,
    TOKENS: tl.constexpr, PRECISION: tl.constexpr, TOGETHER: tl.constexpr,
):  # fmt: skip
    """The places that begin in a block of the list, of keys; and of values, by a second layer of programs."""
    row = tl.program_id(0).to(tl.int64)
    begin = tl.program_id(1) * TOKENS
    slot = begin + tl.arange(0, TOKENS)
    inside = slot < length
    degrees += row * length
    order += row * length
    ordered += row * length
    safe = tl.minimum(slot, length - 1)
    place = tl.load(ordered + safe, mask=inside, other=0)
    previous = tl.load(ordered + tl.maximum(safe - 1, 0), mask=inside & (slot > 0), other=-1)
    begins = inside & (place != previous)
    first = tl.min(tl.where(begins, place, kept), axis=0)
    last = tl.max(tl.where(begins, place, -1), axis=0)  # where none begins, nothing is owned
    owned = inside & (place >= first)
    token = tl.load(order + safe, mask=owned, other=0)
    degree = tl.load(degrees + token, mask=owned, other=0.0)
    belongs = owned[None, :] & (place[None, :] - first == tl.arange(0, TOKENS)[:, None])
    partly = tl.sum(tl.where(belongs, degree[None, :], 0.0), axis=1)
    begin += TOKENS
    end = tl.where(last >= 0, tl.load(ends + row * kept + tl.maximum(last, 0)), begin)
    member = belongs.to(tl.float32)
    second = tl.program_id(2) == 1 if TOGETHER else False
    if second:
        _means(
            values + (row // heads) * value_b + (row % heads) * value_h, out_values + row * kept * D2, order,
            degrees, token, degree, member, partly, last, first, begin, end, value_l, D2, WIDTH2, TOKENS, PRECISION,
        )  # fmt: skip
    else:
        total = _means(
            keys + (row // heads) * key_b + (row % heads) * key_h, out_keys + row * kept * D, order, degrees,
            token, degree, member, partly, last, first, begin, end, key_l, D, WIDTH, TOKENS, PRECISION,
        )  # fmt: skip
        here = first + tl.arange(0, TOKENS)
        tl.store(out_degrees + row * kept + here, total, mask=here <= last)


def _merged(
    tensors: tuple[torch.Tensor, ...], degrees: torch.Tensor, places: torch.Tensor, kept: int, together: bool
) -> tuple[list[torch.Tensor], torch.Tensor]:
    batch, heads, length, _ = tensors[0].shape
    rows = batch * heads
    degrees, places = degrees.contiguous(), places.contiguous()
    ends = places.new_zeros(rows, kept)
    order, ordered = places.new_empty(2, rows, length)
    grid = (rows, triton.cdiv(length, 512))
    _count_kernel[grid](places, ends, length, kept, TOKENS=512)
    ends = ends.cumsum(1, dtype=torch.int32) - ends
    _list_kernel[grid](places, ends, order, ordered, length, kept, TOKENS=512)
    out = [x.new_empty(batch, heads, kept, x.shape[3]) for x in tensors]
    out_degrees = degrees.new_empty(batch, heads, kept)
    for first in range(0, len(tensors), 2 if together else 1):
        now = tensors[first : first + 2] if together else tensors[first : first + 1]
        x, other, x_out, other_out = now[0], now[-1], out[first], out[first + len(now) - 1]
        width, width2 = x.shape[3], other.shape[3]
        _merge_kernel[(rows, triton.cdiv(length, TOKENS), len(now))](
            x, other, degrees, order, ordered, ends, x_out, other_out, out_degrees, length, kept, heads,
            *x.stride()[:3], *other.stride()[:3], D=width, WIDTH=_padded(width), D2=width2, WIDTH2=_padded(width2),
            TOKENS=TOKENS, PRECISION=precision(x, together), TOGETHER=len(now) == 2,
        )  # fmt: skip
    return out, out_degrees


def precision(x: torch.Tensor, together: bool) -> str:
    """Of products with rows of x in float32: shortened, as CUDA and Ascend call that, where the rows have 16 bits."""
    return "ieee" if x.element_size() == 4 else "tf32" if together else "hf32"


def merge_centroids(x: torch.Tensor, degrees: torch.Tensor, places: torch.Tensor, kept: int) -> torch.Tensor:
    """As the reference; the order in which float32 numbers are added may differ from call to call."""
    return _merged((x,), degrees, places, kept, True)[0][0]


def merge_pair(
    keys: torch.Tensor,
    values: torch.Tensor,
    degrees: torch.Tensor,
    places: torch.Tensor,
    kept: int,
    together: bool = True,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As the reference.

    Args:
        together: keys and values in one launch; triton-ascend lowers a launch for each.
    """
    (key_means, value_means), totals = _merged((keys, values), degrees, places, kept, together)
    return key_means, value_means, totals


def _padded(size: int) -> int:
    """A size that tl.arange and tl.dot take."""
    return max(16, triton.next_power_of_2(size))
