"""Attention in Triton, for CUDA and, through triton-ascend, for Ascend.

Two kernels. Decoding is bound by the bytes of the cache: the keys of each KV head are split over many programs, each
of which serves all the queries of the head's group, and a second kernel merges their partials. A prompt's chunk is
bound by arithmetic: one program per block of queries walks over the keys.

The launch grid depends on shapes alone; lengths stay on the device, so that a captured graph serves any. Written within
what triton-ascend lowers: indices are clamped before masked gathers, since its lowering loads first and selects after.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)

#: Programs of a decode launch: four for each multiprocessor of the largest cards; of a gathering one.
PROGRAMS, GATHER_PROGRAMS = 528, 1056
#: Partials that the merge holds at once: it walks over more of them step by step.
PARTS = 64
#: Query rows of a KV head's group up to which the keys are split over programs; padded to a power of 2 for tl.dot.
SPLIT_ROWS = 64
#: Keys per step, warps and pipeline stages of the decode kernel.
SPLIT = {"BLOCK": 64, "num_warps": 4, "num_stages": 3}
#: The same where keys are gathered, whose indices are fetched ahead of them: the best of seven settings on an H200.
GATHER = {"BLOCK": 32, "num_warps": 4, "num_stages": 4}
#: The same for 4-byte numbers.
SPLIT_WIDE = {"BLOCK": 32, "num_warps": 4, "num_stages": 2}
#: Queries and keys per step of the chunk kernel.
CHUNK = {"BLOCK_M": 128, "BLOCK": 64, "num_warps": 8, "num_stages": 3}
#: The same for heads wider than 128, which fill the shared memory sooner, and for 4-byte numbers.
CHUNK_LARGE = {"BLOCK_M": 128, "BLOCK": 64, "num_warps": 8, "num_stages": 2}
CHUNK_WIDE = {"BLOCK_M": 32, "BLOCK": 32, "num_warps": 4, "num_stages": 2}


@triton.jit
def _split_kernel(
    query, key, value, bias, length, indices, outs, lses, scale,
    query_b, query_h, query_s, key_b, key_h, key_c, value_b, value_h, value_c, bias_b, bias_h, bias_c,
    index_b, index_h, index_n, keys, rows_all,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, QUERIES: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
    PADDED: tl.constexpr, BLOCK: tl.constexpr, PAGE: tl.constexpr, CAUSAL: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_LENGTH: tl.constexpr, INDEXED: tl.constexpr, PAGED: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One split of one KV head's keys for all rows (query head of the group, query) that read them.

    outs: [splits, B, Hq, S, D] float32 and lses: [splits, B, Hq, S], of the splits alone.
    """
    split = tl.program_id(0)
    batch = tl.program_id(1) // KV_HEADS
    head = tl.program_id(1) % KV_HEADS

    count = keys
    if HAS_LENGTH:
        count = tl.minimum(tl.load(length + batch), keys)
    per_split = tl.cdiv(tl.cdiv(count, tl.num_programs(0)), BLOCK) * BLOCK
    first = split * per_split
    last = tl.minimum(first + per_split, count)

    row = tl.arange(0, ROWS)
    column = tl.arange(0, PADDED)
    real_row = row < GROUP * QUERIES
    in_width = column < WIDTH
    safe_row = tl.where(real_row, row, 0)
    query_head = head * GROUP + safe_row // QUERIES
    query_row = batch.to(tl.int64) * query_b + query_head * query_h + (safe_row % QUERIES) * query_s
    safe_column = column
    if WIDTH != PADDED:  # only then: a choice per column would keep loads from being vectorised
        safe_column = tl.where(in_width, column, 0)
    q = tl.load(
        query + query_row[:, None] + safe_column[None, :], mask=real_row[:, None] & in_width[None, :], other=0.0
    )

    most = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    mean = tl.zeros([ROWS, PADDED], tl.float32)
    key_head = key + batch.to(tl.int64) * key_b + head.to(tl.int64) * key_h
    value_head = value + batch.to(tl.int64) * value_b + head.to(tl.int64) * value_h
    if HAS_BIAS:
        bias_head = bias + batch.to(tl.int64) * bias_b + head.to(tl.int64) * bias_h
    if INDEXED or PAGED:
        index_head = indices + batch.to(tl.int64) * index_b + head.to(tl.int64) * index_h
    for start in tl.range(first, last, BLOCK, num_stages=STAGES):
        position = start + tl.arange(0, BLOCK)
        present = position < last
        if INDEXED:
            named = tl.load(index_head + tl.where(present, position, 0) * index_n, mask=present, other=-1)
            present = named >= 0
            place = tl.where(present, named, 0).to(tl.int64)
        elif PAGED:  # a step never crosses a page
            page = tl.load(index_head + (start // PAGE) * index_n)
            present = position < tl.where(page >= 0, last, 0)
            key_page = tl.maximum(page, 0).to(tl.int64) * key_b
            place = (position % PAGE).to(tl.int64)
        else:
            place = position.to(tl.int64)
            if WIDTH != PADDED:  # the chosen columns make a gather of the load
                place = tl.where(present, place, 0)
        loaded = present[:, None]
        if WIDTH != PADDED:
            loaded = loaded & in_width[None, :]
        if PAGED:
            k_at = key + key_page + head.to(tl.int64) * key_h
            v_at = value + tl.maximum(page, 0).to(tl.int64) * value_b + head.to(tl.int64) * value_h
        else:
            k_at = key_head
            v_at = value_head
        k = tl.load(k_at + place[:, None] * key_c + safe_column[None, :], mask=loaded, other=0.0)
        v = tl.load(v_at + place[:, None] * value_c + safe_column[None, :], mask=loaded, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * (scale * LOG2E)
        if HAS_BIAS:
            added = tl.load(bias_head + place * bias_c, mask=present, other=float("-inf"))
            scores += added[None, :] * LOG2E
        seen = present[None, :]
        if CAUSAL:
            seen = seen & (position[None, :] <= (count - QUERIES + row % QUERIES)[:, None])
        scores = tl.where(seen, scores, float("-inf"))
        now = tl.maximum(most, tl.max(scores, axis=1))
        base = tl.where(now == float("-inf"), 0.0, now)  # -inf - -inf is not a number
        shrink = tl.exp2(most - base)
        weights = tl.exp2(scores - base[:, None])
        total = total * shrink + tl.sum(weights, axis=1)
        mean = mean * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        most = now

    none = total == 0.0
    mean = mean / tl.where(none, 1.0, total)[:, None]
    lse = tl.where(none, float("-inf"), (most + tl.log2(tl.where(none, 1.0, total))) * LN2)
    out_row = (batch * KV_HEADS * GROUP + query_head) * QUERIES + safe_row % QUERIES
    place_out = (split.to(tl.int64) * rows_all + out_row)[:, None] * WIDTH + safe_column[None, :]
    tl.store(outs + place_out, mean, mask=real_row[:, None] & in_width[None, :])
    tl.store(lses + split * rows_all + out_row, lse, mask=real_row)


@triton.jit
def _merge_kernel(
    outs, lses, out, lse, parts, rows_all,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """One row (batch, query head, query): the parts' outputs weighted by their shares of the whole sum."""
    row = tl.program_id(0)
    column = tl.arange(0, PADDED)
    in_width = column < WIDTH
    safe_column = column
    if WIDTH != PADDED:  # only then: a choice per column would keep loads from being vectorised
        safe_column = tl.where(in_width, column, 0)
    most = tl.full([1], float("-inf"), tl.float32)
    total = tl.zeros([1], tl.float32)
    mean = tl.zeros([PADDED], tl.float32)
    for start in range(0, parts, PARTS):
        part = start + tl.arange(0, PARTS)
        there = part < parts
        safe_part = tl.where(there, part, 0)
        each = tl.load(lses + safe_part * rows_all + row, mask=there, other=float("-inf"))
        place = (safe_part.to(tl.int64) * rows_all + row)[:, None] * WIDTH + safe_column[None, :]
        partial = tl.load(outs + place, mask=there[:, None] & in_width[None, :], other=0.0).to(tl.float32)
        partial = tl.where((each > float("-inf"))[:, None], partial, 0.0)  # what saw nothing may hold anything
        now = tl.maximum(most, tl.max(each, axis=0))
        base = tl.where(now == float("-inf"), 0.0, now)
        shrink = tl.exp2((most - base) * LOG2E)
        weights = tl.exp2((each - base) * LOG2E)
        total = total * shrink + tl.sum(weights, axis=0)
        mean = mean * shrink + tl.sum(weights[:, None] * partial, axis=0)
        most = now
    none = total == 0.0
    mean = mean / tl.where(none, 1.0, total)
    tl.store(out + row.to(tl.int64) * WIDTH + safe_column, mean.to(out.dtype.element_ty), mask=in_width)
    tl.store(
        lse + row + tl.arange(0, 1), tl.where(none, float("-inf"), most + tl.log2(tl.where(none, 1.0, total)) * LN2)
    )


@triton.jit
def _chunk_steps(
    q, key, value, bias, scale, key_c, value_c, bias_c, first, stop, last, edge, column, in_width, most, total, mean,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr, MASKED: tl.constexpr, CAUSAL: tl.constexpr,
    HAS_BIAS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Steps over the keys from `first` to before `stop`; `last` is the number of keys, `edge` each query's last key."""
    for start in tl.range(first, stop, BLOCK, num_stages=STAGES):
        position = start + tl.arange(0, BLOCK)
        present = position < last
        place = position.to(tl.int64)
        if WIDTH != PADDED:  # the chosen columns make a gather of the load
            place = tl.where(present, place, 0)
        loaded = present[:, None]
        if WIDTH != PADDED:
            loaded = loaded & in_width[None, :]
        k = tl.load(key + place[:, None] * key_c + column[None, :], mask=loaded, other=0.0)
        v = tl.load(value + place[:, None] * value_c + column[None, :], mask=loaded, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * (scale * LOG2E)
        if HAS_BIAS:
            added = tl.load(bias + place * bias_c, mask=present, other=float("-inf"))
            scores += added[None, :] * LOG2E
        if MASKED:
            seen = present[None, :]
            if CAUSAL:
                seen = seen & (position[None, :] <= edge[:, None])
            scores = tl.where(seen, scores, float("-inf"))
        now = tl.maximum(most, tl.max(scores, axis=1))
        base = tl.where(now == float("-inf"), 0.0, now)
        shrink = tl.exp2(most - base)
        weights = tl.exp2(scores - base[:, None])
        total = total * shrink + tl.sum(weights, axis=1)
        mean = mean * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        most = now
    return most, total, mean


@triton.jit
def _chunk_kernel(
    query, key, value, bias, length, out, lse, scale,
    query_b, query_h, query_s, key_b, key_h, key_c, value_b, value_h, value_c, bias_b, bias_h, bias_c,
    queries, keys,
    HEADS: tl.constexpr, GROUP: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK: tl.constexpr, CAUSAL: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_LENGTH: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One block of queries of one head over all the keys it sees; the blocks that see most start first."""
    block = tl.num_programs(0) - 1 - tl.program_id(0)
    batch = tl.program_id(1) // HEADS
    head = tl.program_id(1) % HEADS
    count = keys
    if HAS_LENGTH:
        count = tl.minimum(tl.load(length + batch), keys)
    row = block * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.arange(0, PADDED)
    real_row = row < queries
    in_width = column < WIDTH
    safe_row = tl.where(real_row, row, 0)
    safe_column = column
    if WIDTH != PADDED:  # only then: a choice per column would keep loads from being vectorised
        safe_column = tl.where(in_width, column, 0)
    query_head = query + batch.to(tl.int64) * query_b + head.to(tl.int64) * query_h
    q = tl.load(
        query_head + safe_row.to(tl.int64)[:, None] * query_s + safe_column[None, :],
        mask=real_row[:, None] & in_width[None, :],
        other=0.0,
    )
    most = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    mean = tl.zeros([BLOCK_M, PADDED], tl.float32)
    key_head = key + batch.to(tl.int64) * key_b + (head // GROUP).to(tl.int64) * key_h
    value_head = value + batch.to(tl.int64) * value_b + (head // GROUP).to(tl.int64) * value_h
    bias_head = bias
    if HAS_BIAS:
        bias_head = bias + batch.to(tl.int64) * bias_b + (head // GROUP).to(tl.int64) * bias_h
    last = count
    if CAUSAL:
        last = tl.minimum(count, tl.maximum(count - queries + (block + 1) * BLOCK_M, 0))
    whole = last  # the steps before it are seen by all queries of the block and need no mask
    if CAUSAL:
        whole = tl.minimum(count, tl.maximum(count - queries + block * BLOCK_M + 1, 0))
    whole = whole // BLOCK * BLOCK
    edge = count - queries + row  # the last key each query sees
    most, total, mean = _chunk_steps(
        q, key_head, value_head, bias_head, scale, key_c, value_c, bias_c, 0, whole, last, edge, safe_column,
        in_width, most, total, mean, WIDTH, PADDED, BLOCK, False, CAUSAL, HAS_BIAS, STAGES,
    )  # fmt: skip
    most, total, mean = _chunk_steps(
        q, key_head, value_head, bias_head, scale, key_c, value_c, bias_c, whole, last, last, edge, safe_column,
        in_width, most, total, mean, WIDTH, PADDED, BLOCK, True, CAUSAL, HAS_BIAS, STAGES,
    )  # fmt: skip
    none = total == 0.0
    mean = mean / tl.where(none, 1.0, total)[:, None]
    out_row = tl.program_id(1).to(tl.int64) * queries + safe_row
    place_out = out_row[:, None] * WIDTH + safe_column[None, :]
    tl.store(out + place_out, mean.to(out.dtype.element_ty), mask=real_row[:, None] & in_width[None, :])
    sums = tl.where(none, float("-inf"), (most + tl.log2(tl.where(none, 1.0, total))) * LN2)
    tl.store(lse + out_row, sums, mask=real_row)


def partial_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None = None,
    length: torch.Tensor | None = None,
    scale: float | None = None,
    causal: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As the reference: split over the keys for a few query rows, else one program per block of queries."""
    batch, heads, queries, width = query.shape
    kv_heads, keys = key.shape[1:3]
    scale = width**-0.5 if scale is None else scale
    if heads // kv_heads * queries <= (SPLIT_ROWS if key.element_size() < 4 else 16):
        strides = (key.stride()[:3], value.stride()[:3])
        return _split(query, key, value, kv_heads, keys, scale, strides, bias=bias, length=length, causal=causal)
    out = query.new_empty(query.shape)
    lse = query.new_empty(query.shape[:3], dtype=torch.float32)
    options = CHUNK_WIDE if key.element_size() == 4 else CHUNK if width <= 128 else CHUNK_LARGE
    _chunk_kernel[(triton.cdiv(queries, options["BLOCK_M"]), batch * heads)](
        query, key, value, bias, length, out, lse, scale,
        *query.stride()[:3], *key.stride()[:3], *value.stride()[:3], *_strides(bias), queries, keys,
        HEADS=heads, GROUP=heads // kv_heads, WIDTH=width, PADDED=_padded(width),
        CAUSAL=causal, HAS_BIAS=bias is not None, HAS_LENGTH=length is not None, STAGES=options["num_stages"],
        **options,
    )  # fmt: skip
    return out, lse


def indexed_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    indices: torch.Tensor,
    bias: torch.Tensor | None = None,
    scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As the reference: the named keys are gathered while they are loaded."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    strides = (key.stride()[:3], value.stride()[:3])
    return _split(query, key, value, key.shape[1], indices.shape[2], scale, strides, bias=bias, indices=indices)


def paged_attention(
    query: torch.Tensor,
    key_pages: torch.Tensor,
    value_pages: torch.Tensor,
    block_table: torch.Tensor,
    length: torch.Tensor,
    scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As the reference: the page's number is looked up for each step of keys."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    page, kv_heads = key_pages.shape[1:3]
    table = block_table[:, None].expand(-1, kv_heads, -1) if block_table.dim() == 2 else block_table
    # to the kernel a page is what a batch row is elsewhere: strides of page, head, token
    strides = tuple((pages.stride(0), pages.stride(2), pages.stride(1)) for pages in (key_pages, value_pages))
    keys = table.shape[-1] * page
    return _split(
        query, key_pages, value_pages, kv_heads, keys, scale, strides, length=length, indices=table, page=page
    )


def merge_partials(outs: torch.Tensor, lses: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """As the reference."""
    return _merge(outs.contiguous(), lses.contiguous(), outs.dtype)


def _split(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    kv_heads: int,
    keys: int,
    scale: float,
    strides: Any,
    *,
    bias: torch.Tensor | None = None,
    length: torch.Tensor | None = None,
    indices: torch.Tensor | None = None,
    causal: bool = False,
    page: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    batch, heads, queries, width = query.shape
    group = heads // kv_heads
    options = SPLIT_WIDE if key.element_size() == 4 else GATHER if indices is not None and not page else SPLIT
    if page:
        options = options | {"BLOCK": min(options["BLOCK"], page)}
    programs = PROGRAMS if indices is None or page else GATHER_PROGRAMS
    splits = max(1, programs // (batch * kv_heads))
    splits = min(triton.cdiv(keys, options["BLOCK"]), splits if splits < PARTS else splits // PARTS * PARTS)
    outs = query.new_empty((splits, *query.shape), dtype=torch.float32)
    lses = query.new_empty((splits, *query.shape[:3]), dtype=torch.float32)
    _split_kernel[(splits, batch * kv_heads)](
        query, key, value, bias, length, indices, outs, lses, scale,
        *query.stride()[:3], *strides[0], *strides[1], *_strides(bias), *_strides(indices),
        keys, batch * heads * queries,
        KV_HEADS=kv_heads, GROUP=group, QUERIES=queries, WIDTH=width, ROWS=_padded(group * queries),
        PADDED=_padded(width), PAGE=max(page, 1), CAUSAL=causal, HAS_BIAS=bias is not None,
        HAS_LENGTH=length is not None, INDEXED=indices is not None and not page, PAGED=page > 0,
        STAGES=options["num_stages"], **options,
    )  # fmt: skip
    return _merge(outs, lses, query.dtype)


def _merge(outs: torch.Tensor, lses: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """outs: [P, B, Hq, S, D], lses: [P, B, Hq, S], both contiguous."""
    out = outs.new_empty(outs.shape[1:], dtype=dtype)
    lse = lses.new_empty(lses.shape[1:])
    width = outs.shape[-1]
    _merge_kernel[(lse.numel(),)](
        outs, lses, out, lse, outs.shape[0], lse.numel(),
        WIDTH=width, PADDED=_padded(width), PARTS=min(PARTS, _padded(outs.shape[0])), num_warps=4,
    )  # fmt: skip
    return out, lse


def _padded(size: int) -> int:
    """A size that tl.arange and tl.dot take."""
    return max(16, triton.next_power_of_2(size))


def _strides(tensor: torch.Tensor | None) -> tuple[int, ...]:
    return (0, 0, 0) if tensor is None else tensor.stride()
