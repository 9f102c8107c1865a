"""The second launch of `triton_decode`: the cutoff from the sample, and each program's tokens with scores up to it."""

from __future__ import annotations

import triton
import triton.language as tl

from npukv.backends import cuda_launch
from npukv.ops.hashing import triton as scoring
from npukv.ops.hashing import triton_sift as sifting
from npukv.ops.hashing.triton_select import _bounds


@triton.jit
def _pulled(codes, mask0, side0, mask1, side1, mask2, side2, one, PLANES: tl.constexpr, BLOCK: tl.constexpr):
    """As `scoring._carried`, of masks [WORDS] of whole planes: a bit of them per bit of a code."""
    a, b, c, d = scoring._quarters(side0[None, :] ^ (codes & mask0[None, :]), BLOCK)
    total, first = a ^ b ^ c, scoring._majority(a, b, c)
    differ = scoring.popcount(total) + scoring.popcount(d)
    if PLANES == 1:
        differ += scoring.popcount(first) << one
    else:
        a, b, c, d = scoring._quarters(side1[None, :] ^ (codes & mask1[None, :]), BLOCK)
        total, carry = a ^ b ^ c, scoring._majority(a, b, c)
        differ += scoring.popcount(total ^ d ^ first) << one
        second = scoring._majority(total, d, first)
        first = carry
        if PLANES == 3:
            a, b, c, d = scoring._quarters(side2[None, :] ^ (codes & mask2[None, :]), BLOCK)
            total, carry = a ^ b ^ c, scoring._majority(a, b, c)
            differ += (scoring.popcount(total) + scoring.popcount(d ^ first ^ second)) << 2
            second = scoring._majority(d, first, second)
            first = carry
        differ += (scoring.popcount(first) + scoring.popcount(second)) << PLANES
    return differ


@triton.jit
def _masks(masks_ptr, row, PLANES: tl.constexpr, WORDS: tl.constexpr):
    at = masks_ptr + row * (2 * PLANES * WORDS) + tl.arange(0, WORDS)
    last: tl.constexpr = 2 * PLANES - 2  # repeated where there are fewer than three
    second: tl.constexpr = 2 if PLANES > 1 else 0
    mask0, side0 = tl.load(at), tl.load(at + WORDS)
    mask1, side1 = tl.load(at + second * WORDS), tl.load(at + (second + 1) * WORDS)
    mask2, side2 = tl.load(at + last * WORDS), tl.load(at + (last + 1) * WORDS)
    u = tl.uint32
    return (
        mask0.to(u, bitcast=True), side0.to(u, bitcast=True), mask1.to(u, bitcast=True), side1.to(u, bitcast=True),
        mask2.to(u, bitcast=True), side2.to(u, bitcast=True),
    )  # fmt: skip


@triton.jit
def _whole(at, capacity, BLOCK: tl.constexpr, GUARD: tl.constexpr):
    """Where a step's loads begin: earlier than the step where it would leave the row."""
    return at if GUARD else tl.minimum(at, capacity - BLOCK)


@triton.jit
def _step(codes_row, at, capacity, lane, word, WORDS: tl.constexpr, BLOCK: tl.constexpr, GUARD: tl.constexpr):
    """A step's codes [BLOCK, WORDS]; GUARD: of a row shorter than a step."""
    whole = _whole(at, capacity, BLOCK, GUARD)
    codes = codes_row + whole.to(tl.int64) * WORDS + lane[:, None] * WORDS + word[None, :]
    if GUARD:
        codes = codes_row + tl.minimum(whole + lane, capacity - 1)[:, None] * WORDS + word[None, :]
    return tl.load(codes)


@triton.jit(do_not_specialize=scoring.UNSPECIALIZED)
def sift_kernel(
    masks_ptr, sample_ptr, codes_ptr, length_ptr, start_ptr, list_ptr, fine_ptr, totals_ptr, listed_ptr, cutoff_ptr,
    capacity, kv_heads, budget, sink, recent, room, largest,
    WORDS: tl.constexpr, PLANES: tl.constexpr, SPLITS: tl.constexpr, WITH_START: tl.constexpr, WINDOW: tl.constexpr,
    MARGIN: tl.constexpr, PIECES: tl.constexpr, PART: tl.constexpr, BINS: tl.constexpr,
    BLOCK: tl.constexpr, GUARD: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """list [rows, SPLITS, room]: pull << 16 | place, of pulls up to the row's cutoff, ascending places.

    fine [rows, WINDOW, SPLITS]: how many lie 0, 1, ... below the cutoff, or at least WINDOW - 1; totals [rows, WINDOW]
    without SPLITS, listed [rows, SPLITS] without WINDOW; cutoff [rows].
    """
    row = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1)
    begin, end = _bounds(length_ptr, start_ptr, row // kv_heads, capacity, WITH_START)
    lowest, free, need, _ = sifting._free(begin, end, budget, sink, recent)
    chunk = sifting._stretch(free, SPLITS, BLOCK)
    first = lowest + split * chunk
    last = tl.minimum(first + chunk, lowest + free)
    codes_row = codes_ptr + row * capacity * WORDS
    lane, word = tl.arange(0, BLOCK), tl.arange(0, WORDS)
    codes = _step(codes_row, first, capacity, lane, word, WORDS, BLOCK, GUARD)
    if EARLY:  # of the codes above the launch before writes one that is not scored: the token's own
        cuda_launch.wait()
    mask0, side0, mask1, side1, mask2, side2 = _masks(masks_ptr, row, PLANES, WORDS)
    bins, fine = tl.arange(0, BINS), tl.arange(0, WINDOW)
    pieces = tl.arange(0, PIECES)[:, None] * BINS + bins[None, :]
    counted = tl.sum(tl.load(sample_ptr + row * (PIECES * BINS) + pieces), 0)
    fine_own, totals = fine_ptr + row * WINDOW * SPLITS + split, totals_ptr + row * WINDOW
    one = tl.minimum(capacity, 1)
    expected = tl.maximum(need, 0).to(tl.float32) * (PIECES * PART) / tl.maximum(free, 1).to(tl.float32)
    rank = (expected + MARGIN * tl.sqrt(expected)).to(tl.int32) + 10
    cutoff = tl.sum((tl.cumsum(counted, 0) < rank).to(tl.int32), 0)
    cutoff = tl.where(cutoff < BINS - 1, tl.minimum(cutoff, largest), largest)  # the last bin holds all from it on
    cutoff = tl.where(need < free, cutoff, largest)
    cutoff = tl.where(need > 0, cutoff, -1)
    list_row = list_ptr + (row * SPLITS + split) * room
    found = 0
    for at in tl.range(first, last, BLOCK):
        here = codes.to(tl.uint32, bitcast=True)
        ahead = tl.where(at + BLOCK < last, at + BLOCK, at)  # after the last one, what is at hand
        codes = _step(codes_row, ahead, capacity, lane, word, WORDS, BLOCK, GUARD)
        score = _pulled(here, mask0, side0, mask1, side1, mask2, side2, one, PLANES, BLOCK)
        left = lane - (at - _whole(at, capacity, BLOCK, GUARD))  # below 0: a token of the step before
        passed = (score <= cutoff) & (left.to(tl.uint32, bitcast=True) < (last - at).to(tl.uint32))
        found = sifting._listed(list_row, score, at - first + left, passed, found, BLOCK)
    if EARLY:
        cuda_launch.let_the_next_begin()
    tl.debug_barrier()  # the list is read by other threads than wrote it
    binned = tl.zeros([WINDOW], tl.int32)
    for offset in range(0, found, 256):
        item = offset + tl.arange(0, 256)
        below = cutoff - (tl.load(list_row + tl.minimum(item, found - 1)) >> 16)
        binned += tl.histogram(tl.where(item < found, tl.minimum(below, WINDOW - 1), WINDOW - 1), WINDOW)
    binned -= tl.where(fine == WINDOW - 1, tl.cdiv(found, 256) * 256 - found, 0)
    tl.store(fine_own + fine * SPLITS, binned)
    tl.atomic_add(totals + fine, binned, mask=binned > 0, sem="relaxed")
    tl.store(listed_ptr + row * SPLITS + split, found)
    if split == 0:
        tl.store(cutoff_ptr + row, cutoff)
