"""The first launch of `triton_decode`: encode, append, score a sample of the row."""

from __future__ import annotations

import triton
import triton.language as tl

from npukv.backends import cuda_launch
from npukv.ops.hashing import triton as scoring
from npukv.ops.hashing import triton_sift as sifting
from npukv.ops.hashing.triton_select import _bounds


@triton.jit(do_not_specialize=scoring.UNSPECIALIZED)
def begin_kernel(
    query_ptr, key_ptr, value_ptr, weights_ptr, keys_ptr, values_ptr, codes_ptr, length_ptr, start_ptr,
    query_codes_ptr, masks_ptr, sample_ptr, totals_ptr,
    q_b, q_h, k_b, k_h, v_b, v_h, capacity, kv_heads, budget, sink, recent,
    GROUP: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr, D_LIMIT: tl.constexpr, WORDS: tl.constexpr,
    WIDE: tl.constexpr, PLANES: tl.constexpr, WITH_START: tl.constexpr, PIECES: tl.constexpr, PART: tl.constexpr,
    BINS: tl.constexpr, WINDOW: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """sample [rows, PIECES, BINS]: counted pulls, the last bin those from it on; masks [rows, 2 PLANES, WORDS]; zeros
    to totals."""
    row = tl.program_id(0).to(tl.int64)
    piece = tl.program_id(1)
    batch, head = row // kv_heads, row % kv_heads
    dim, column = tl.arange(0, D_LIMIT), tl.arange(0, WORDS * 32)
    word, vector = tl.arange(0, WORDS), tl.arange(0, ROWS)
    inside = dim < D
    safe = dim
    if D < D_LIMIT:
        safe = tl.minimum(dim, D - 1)
    weights = tl.load(
        weights_ptr + (head * D + safe[:, None]) * (WORDS * 32) + column[None, :], mask=inside[:, None], other=0.0
    )
    if EARLY:  # what the launches before write is read after this line alone
        cuda_launch.wait()
    new = tl.load(key_ptr + batch * k_b + head * k_h + safe, mask=inside, other=0.0)
    x = tl.where((vector == GROUP)[:, None], new[None, :], 0.0).to(new.dtype)
    query_head = head * GROUP + tl.minimum(vector, GROUP - 1)
    x += tl.load(
        query_ptr + batch * q_b + query_head[:, None] * q_h + safe[None, :],
        mask=(vector < GROUP)[:, None] & inside[None, :], other=0.0,
    )  # fmt: skip
    begin, end = _bounds(length_ptr, start_ptr, batch, capacity, WITH_START)
    first, free, _, _ = sifting._free(begin, end, budget, sink, recent)
    i = piece * PART + tl.arange(0, PART)
    wide = free // (PIECES * PART)
    drawn = ((i.to(tl.uint32) * 2654435769) >> 16).to(tl.int32) & 0x7FFF
    place = first + i * wide + i * (free - wide * PIECES * PART) // (PIECES * PART) + (drawn * wide >> 15)
    place = tl.minimum(place, capacity - 1)  # where there is nothing to draw
    codes_row = codes_ptr + row * capacity * WORDS
    codes = tl.load(codes_row + place[:, None] * WORDS + word[None, :]).to(tl.uint32, bitcast=True)

    if WIDE:
        projected = tl.dot(x.to(tl.float32), weights.to(tl.float32), input_precision="ieee")
    else:
        projected = tl.dot(x, weights, input_precision="ieee")
    bits = (projected > 0).to(tl.int32)
    ones = tl.reshape(tl.sum(tl.where((vector < GROUP)[:, None], bits, 0), 0), [WORDS, 32])
    majority = tl.maximum(ones, GROUP - ones)
    pull = (2 * majority - GROUP) // (2 - GROUP % 2)
    to_one = tl.where(2 * ones > GROUP, pull, 0)
    one = tl.minimum(capacity, 1)
    score = scoring._pulled(codes, pull, to_one, one, PLANES, PART, True)
    if EARLY:
        cuda_launch.let_the_next_begin()
    bins = tl.arange(0, BINS)
    counted = tl.histogram(tl.minimum(score, BINS - 1), BINS)
    tl.store(sample_ptr + (row * PIECES + piece) * BINS + bins, counted)
    if piece == 0:
        for p in tl.static_range(PLANES):
            at = masks_ptr + (row * PLANES + p) * (2 * WORDS) + word
            tl.store(at, scoring._plane(pull, p).to(tl.int32, bitcast=True))
            tl.store(at + WORDS, scoring._plane(to_one, p).to(tl.int32, bitcast=True))
        tl.store(totals_ptr + row * WINDOW + tl.arange(0, WINDOW), tl.zeros([WINDOW], tl.int32))
    if piece == PIECES - 1:
        slot = tl.load(length_ptr + batch) - 1
        fits = tl.where(slot < capacity, D, 0)
        at = row * capacity + tl.minimum(slot, capacity - 1)
        packed = tl.sum(tl.reshape(bits, [ROWS, WORDS, 32]) << tl.arange(0, 32)[None, None, :], 2)
        target = query_codes_ptr + (row * GROUP + tl.minimum(vector, GROUP - 1))[:, None] * WORDS + word[None, :]
        tl.store(target, packed, mask=(vector < GROUP)[:, None])
        code = tl.sum(tl.where((vector == GROUP)[:, None], packed, 0), 0)
        tl.store(codes_ptr + at * WORDS + word, code, mask=word < fits)
        value = tl.load(value_ptr + batch * v_b + head * v_h + safe, mask=inside, other=0.0)
        tl.store(keys_ptr + at * D + safe, new, mask=dim < fits)
        tl.store(values_ptr + at * D + safe, value, mask=dim < fits)
