"""Merging without atomic additions of rows: tokens in the order of their places, each row read once.

A counting sort lists the tokens of every place side by side. A program takes a block of that list, and owns the places
that begin in it: it sums their rows by a product with the matrix of who belongs where, reads on to where its last place
ends, and writes means. So a place of thousands of tokens costs no more per token than one of two.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from npukv.ops.clustering.triton_rows import columns, padded

#: Tokens of a program that merges, how many of them are those where its places may begin, and places at a time: most
#: programs have fewer, and what they hold for more would crowd others out; warps, registers.
TOKENS, OWN, PLACES, WARPS, REGISTERS = 64, 56, 16, 4, 112


@triton.jit(do_not_specialize=("length", "kept"))
def _count_kernel(places, degrees, counts, totals, length, kept, TOKENS: tl.constexpr):
    """How many tokens go to each place, and the sum of their degrees."""
    row = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    inside = token < length
    place = tl.load(places + row * length + token, mask=inside, other=0)
    degree = tl.load(degrees + row * length + token, mask=inside, other=0.0)
    tl.atomic_add(counts + row * kept + place, 1, mask=inside, sem="relaxed")
    tl.atomic_add(totals + row * kept + place, degree, mask=inside, sem="relaxed")


@triton.jit(do_not_specialize=("kept",))
def _begin_kernel(counts, begins, kept, BLOCK: tl.constexpr):
    """Where each place begins in the list: the tokens of the places before it."""
    row = tl.program_id(0).to(tl.int64)
    passed = 0
    for start in range(0, kept, BLOCK):
        place = start + tl.arange(0, BLOCK)
        count = tl.load(counts + row * kept + place, mask=place < kept, other=0)
        tl.store(begins + row * kept + place, passed + tl.cumsum(count, 0) - count, mask=place < kept)
        passed += tl.sum(count, 0)


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
def _members(x, degrees, order, begin, end, stride, D: tl.constexpr, WIDTH: tl.constexpr):
    """The sum of the rows at order[begin:end] times their degrees, [WIDTH]."""
    column = tl.arange(0, WIDTH)
    safe = columns(D, WIDTH)[None, :]
    sums = tl.zeros([WIDTH], tl.float32)
    for start in range(begin, end, 32):
        slot = start + tl.arange(0, 32)
        token = tl.load(order + slot, mask=slot < end, other=0)
        degree = tl.load(degrees + token, mask=slot < end, other=0.0)
        at = x + token.to(tl.int64)[:, None] * stride + safe
        rows = tl.load(at, mask=(slot < end)[:, None] & (column < D)[None, :], other=0.0)
        sums += tl.sum(rows.to(tl.float32) * degree[:, None], axis=0)
    return sums


@triton.jit
def _listed_rows(x, token, owned, stride, D: tl.constexpr, WIDTH: tl.constexpr):
    real = tl.arange(0, WIDTH) < D
    at = x + token.to(tl.int64)[:, None] * stride + columns(D, WIDTH)[None, :]
    return tl.load(at, mask=owned[:, None] & real[None, :], other=0.0)


@triton.jit
def _means(
    x, rows, out, order, degrees, degree, place, totals, first, last, begin, end, stride,
    D: tl.constexpr, WIDTH: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    """Means of one tensor's rows, at the places that begin in this block, PLACES at a time.

    16-bit rows are summed by products with degrees that are the sum of two such numbers, exact up to 65,536.
    """
    real = tl.arange(0, WIDTH) < D
    column = columns(D, WIDTH)
    for some in range(first, last + 1, PLACES):
        here = some + tl.arange(0, PLACES)
        belongs = place[None, :] == here[:, None]
        total = tl.load(totals + here, mask=here <= last, other=1.0)
        if rows.dtype == tl.float32:
            sums = tl.dot(tl.where(belongs, degree[None, :], 0.0), rows, input_precision="ieee")
        else:
            unit = 1.0
            if rows.dtype == tl.float16:  # a power of two, to stay within its range
                unit = tl.exp2(tl.floor(tl.log2(tl.max(degree, axis=0))))
            part = degree / unit
            heavy = part.to(rows.dtype)
            light = (part - heavy.to(tl.float32)).to(rows.dtype)
            none = tl.zeros_like(heavy)[None, :]
            sums = tl.dot(tl.where(belongs, heavy[None, :], none), rows)
            sums = tl.dot(tl.where(belongs, light[None, :], none), rows, sums) * unit
        if (end > begin) & (last < some + PLACES):
            rest = _members(x, degrees, order, begin, end, stride, D, WIDTH)
            sums += tl.where((here == last)[:, None], rest[None, :], 0.0)
        means = sums / total[:, None] if rows.dtype == tl.float32 else sums * (1 / total)[:, None]
        to = out + here.to(tl.int64)[:, None] * D + column[None, :]
        tl.store(to, means.to(rows.dtype), mask=(here <= last)[:, None] & real[None, :])


@triton.jit(do_not_specialize=("length", "kept", "heads"))
def _merge_kernel(
    keys, values, degrees, order, ordered, ends, out_keys, out_values, totals, length, kept, heads,
    key_b, key_h, key_l, value_b, value_h, value_l,
    D: tl.constexpr, WIDTH: tl.constexpr, D2: tl.constexpr, WIDTH2: tl.constexpr,
    TOKENS: tl.constexpr, OWN: tl.constexpr, PLACES: tl.constexpr, PAIR: tl.constexpr,
):  # fmt: skip
    """The places that begin among the first OWN of a block of the list: means of keys and, if a PAIR, of values.

    What follows those places' beginnings is mostly in the rest of the block; where it is longer, it is read on.
    """
    row = tl.program_id(0).to(tl.int64)
    begin = tl.program_id(1) * OWN
    number = tl.arange(0, TOKENS)
    slot = begin + number
    inside = slot < length
    degrees += row * length
    order += row * length
    ordered += row * length
    place = tl.load(ordered + slot, mask=inside, other=0)
    token = tl.load(order + slot, mask=inside, other=0)
    degree = tl.load(degrees + token, mask=inside, other=0.0)
    previous = tl.maximum(tl.minimum(slot, length - 1) - 1, 0)  # triton-ascend loads first and masks after
    previous = tl.load(ordered + previous, mask=inside & (slot > 0), other=-1)
    begins = inside & (place != previous) & (number < OWN)
    first = tl.min(tl.where(begins, place, kept), axis=0)
    last = tl.max(tl.where(begins, place, -1), axis=0)
    if last >= 0:
        owned = inside & (place >= first) & (place <= last)
        end = tl.load(ends + row * kept + last)
        begin += TOKENS
        keys += (row // heads) * key_b + (row % heads) * key_h
        values += (row // heads) * value_b + (row % heads) * value_h
        # Both tensors' rows are on their way before the first one's are summed.
        rows = _listed_rows(keys, token, owned, key_l, D, WIDTH)
        if PAIR:
            rows2 = _listed_rows(values, token, owned, value_l, D2, WIDTH2)
        _means(
            keys, rows, out_keys + row * kept * D, order, degrees, degree, place, totals + row * kept, first, last,
            begin, end, key_l, D, WIDTH, PLACES,
        )  # fmt: skip
        if PAIR:
            _means(
                values, rows2, out_values + row * kept * D2, order, degrees, degree, place, totals + row * kept, first,
                last, begin, end, value_l, D2, WIDTH2, PLACES,
            )  # fmt: skip


def _merged(
    tensors: tuple[torch.Tensor, ...], degrees: torch.Tensor, places: torch.Tensor, kept: int
) -> tuple[list[torch.Tensor], torch.Tensor]:
    batch, heads, length, width = tensors[0].shape
    rows = batch * heads
    degrees, places = degrees.contiguous(), places.contiguous()
    counts, out_degrees = places.new_zeros(rows, kept), degrees.new_zeros(batch, heads, kept)
    ends = torch.empty_like(counts)
    order, ordered = places.new_empty(2, rows, length)
    grid = (rows, triton.cdiv(length, 512))
    _count_kernel[grid](places, degrees, counts, out_degrees, length, kept, TOKENS=512)
    _begin_kernel[(rows,)](counts, ends, kept, BLOCK=min(4096, padded(kept)), num_warps=8)
    _list_kernel[grid](places, ends, order, ordered, length, kept, TOKENS=512)
    out = [x.new_empty(batch, heads, kept, x.shape[3]) for x in tensors]
    other = tensors[-1].shape[3]
    _merge_kernel[(rows, triton.cdiv(length, OWN))](
        tensors[0], tensors[-1], degrees, order, ordered, ends, out[0], out[-1], out_degrees, length, kept, heads,
        *tensors[0].stride()[:3], *tensors[-1].stride()[:3], D=width, WIDTH=padded(width),
        D2=other, WIDTH2=padded(other), TOKENS=TOKENS, OWN=OWN, PLACES=PLACES, PAIR=len(tensors) == 2, num_warps=WARPS,
        maxnreg=REGISTERS,
    )  # fmt: skip
    return out, out_degrees


def merge_centroids(x: torch.Tensor, degrees: torch.Tensor, places: torch.Tensor, kept: int) -> torch.Tensor:
    """As the reference; the order in which float32 numbers are added may differ from call to call."""
    return _merged((x,), degrees, places, kept)[0][0]


def merge_pair(
    keys: torch.Tensor, values: torch.Tensor, degrees: torch.Tensor, places: torch.Tensor, kept: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As the reference, keys and values in one launch."""
    (key_means, value_means), totals = _merged((keys, values), degrees, places, kept)
    return key_means, value_means, totals
