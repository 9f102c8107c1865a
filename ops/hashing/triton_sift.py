"""Codes sifted for attention: each program's tokens with scores up to a cutoff that a sample of the row gave.

Their list, and the counts of their scores, are what triton_attend.py finds the exact threshold in.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from npukv.ops.hashing import triton as scoring
from npukv.ops.hashing.triton_select import _bounds

#: Programs that fill the card, tokens per step, stages, and how many of a row's tokens the sample holds.
SIFT = {"PROGRAMS": 1024, "BLOCK": 1024, "STAGES": 1, "SAMPLE": 1024}
#: The cutoff's rank in the sample is that of the threshold, and as many of its standard deviations more, and 10.
MARGIN = 6.0
#: Scores below the cutoff that are counted one by one.
WINDOW = 64
#: Threads across which one step's tokens lie.
LANES = tl.constexpr(128)


@triton.jit
def _free(begin, end, budget, sink, recent):
    """The tokens that compete (first, number), how many of them are needed, and how many sink tokens there are."""
    end = tl.maximum(begin, end)
    head = tl.minimum(sink, end - begin)
    free = tl.maximum(end - begin - sink - recent, 0)
    forced = end - begin - free
    return begin + head, free, tl.minimum(budget, end - begin) - forced, head


@triton.jit
def _stretch(free, SPLITS: tl.constexpr, BLOCK: tl.constexpr):
    """Tokens of a program: whole steps."""
    return tl.cdiv(tl.cdiv(free, SPLITS), BLOCK) * BLOCK


@triton.jit
def _sampled(
    codes_row, least, pull, to_one, one, first, free, need, capacity,
    GROUP: tl.constexpr, WORDS: tl.constexpr, PLANES: tl.constexpr, CARRY: tl.constexpr, BITS: tl.constexpr,
    SAMPLE: tl.constexpr, MARGIN: tl.constexpr,
):  # fmt: skip
    """The cutoff, from tokens drawn one each from SAMPLE equal parts of the row's free ones."""
    i = tl.arange(0, SAMPLE)
    wide = free // SAMPLE
    drawn = ((i.to(tl.uint32) * 2654435769) >> 16).to(tl.int32) & 0x7FFF
    place = first + i * wide + i * (free - wide * SAMPLE) // SAMPLE + (drawn * wide >> 15)
    place = tl.minimum(place, capacity - 1)  # where there is nothing to draw
    codes = tl.load(codes_row + place[:, None] * WORDS + tl.arange(0, WORDS)[None, :]).to(tl.uint32, bitcast=True)
    score = scoring._distances(codes, least, pull, to_one, one, GROUP, PLANES, SAMPLE, CARRY)
    expected = tl.maximum(need, 0).to(tl.float32) * SAMPLE / tl.maximum(free, 1).to(tl.float32)
    rank = tl.minimum((expected + MARGIN * tl.sqrt(expected)).to(tl.int32) + 10, SAMPLE)
    cutoff = 0
    for b in tl.static_range(BITS):
        above = cutoff + (1 << (BITS - 1 - b))
        cutoff = tl.where(tl.sum((score < above).to(tl.int32), 0) < rank, above, cutoff)
    return cutoff


@triton.jit
def _listed(list_ptr, score, place, passed, found, BLOCK: tl.constexpr):
    """Append score << 16 | place where `passed`, in order; returns the new length.

    Eight tokens of a thread, LANES apart, are eight bytes of one number, which is added up over the threads at once.
    """
    PARTS: tl.constexpr = BLOCK // LANES
    part = tl.arange(0, PARTS)
    held = tl.reshape(passed.to(tl.int64), [PARTS, LANES])
    packed = tl.sum(held << (8 * part)[:, None].to(tl.int64), 0)
    running = tl.cumsum(packed, 0) - packed
    total = tl.sum(packed, 0)
    before = tl.zeros([PARTS], tl.int32) + found
    for p in tl.static_range(PARTS):
        number = ((total >> (8 * p)) & 255).to(tl.int32)
        before += tl.where(part > p, number, 0)
        found += number
    target = before[:, None] + ((running[None, :] >> (8 * part)[:, None].to(tl.int64)) & 255).to(tl.int32)
    target = tl.reshape(target, [BLOCK])
    tl.store(list_ptr + target, (score << 16) | place, mask=passed)
    return found


@triton.jit(do_not_specialize=scoring.UNSPECIALIZED)
def _sift_kernel(
    query_ptr, codes_ptr, length_ptr, start_ptr, list_ptr, fine_ptr, cutoff_ptr,
    capacity, kv_heads, budget, sink, recent, room,
    GROUP: tl.constexpr, WORDS: tl.constexpr, PLANES: tl.constexpr, BITS: tl.constexpr, CARRY: tl.constexpr,
    SPLITS: tl.constexpr, WITH_START: tl.constexpr, WINDOW: tl.constexpr, MARGIN: tl.constexpr,
    BLOCK: tl.constexpr, STAGES: tl.constexpr, SAMPLE: tl.constexpr, TOGETHER: tl.constexpr,
):  # fmt: skip
    """list [rows, SPLITS, room]: score << 16 | place, of scores up to the row's cutoff, ascending places.

    fine [rows, SPLITS, WINDOW]: how many lie 0, 1, ... below the cutoff, or at least WINDOW - 1; cutoff [rows].
    """
    row = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1)
    begin, end = _bounds(length_ptr, start_ptr, row // kv_heads, capacity, WITH_START)
    lowest, free, need, _ = _free(begin, end, budget, sink, recent)
    least, pull, to_one = scoring._votes(query_ptr, row, GROUP, WORDS)
    one = tl.minimum(capacity, 1)
    codes_row = codes_ptr + row * capacity * WORDS
    cutoff = _sampled(
        codes_row, least, pull, to_one, one, lowest, free, need, capacity, GROUP, WORDS, PLANES, CARRY, BITS, SAMPLE,
        MARGIN,
    )  # fmt: skip
    cutoff = tl.where(need < free, cutoff, GROUP * WORDS * 32)
    cutoff = tl.where(need > 0, cutoff, -1)
    chunk = _stretch(free, SPLITS, BLOCK)
    first = lowest + split * chunk
    last = tl.minimum(first + chunk, lowest + free)
    whole = first + tl.maximum(last - first, 0) // BLOCK * BLOCK
    list_row = list_ptr + (row * SPLITS + split) * room
    lane, word = tl.arange(0, BLOCK), tl.arange(0, WORDS)
    found = 0
    for at in tl.range(first, whole, BLOCK, num_stages=STAGES):
        codes = tl.load(codes_row + at * WORDS + lane[:, None] * WORDS + word[None, :]).to(tl.uint32, bitcast=True)
        score = scoring._distances(codes, least, pull, to_one, one, GROUP, PLANES, BLOCK, CARRY)
        found = _listed(list_row, score, at - first + lane, score <= cutoff, found, BLOCK)
    if whole < last:
        held = whole + lane < last
        safe = tl.minimum(whole + lane, last - 1)
        codes = tl.load(codes_row + safe[:, None] * WORDS + word[None, :]).to(tl.uint32, bitcast=True)
        score = scoring._distances(codes, least, pull, to_one, one, GROUP, PLANES, BLOCK, CARRY)
        found = _listed(list_row, score, whole - first + lane, held & (score <= cutoff), found, BLOCK)
    if split == 0:
        tl.store(cutoff_ptr + row, cutoff)
    fine_row = fine_ptr + (row * SPLITS + split) * WINDOW
    if TOGETHER:
        tl.debug_barrier()  # the list is read by other threads than wrote it
        _count(list_row, fine_row, found, cutoff, WINDOW)
    else:
        tl.store(fine_row, found)


@triton.jit
def _count(list_row, fine_row, found, cutoff, WINDOW: tl.constexpr):
    fine = tl.arange(0, WINDOW)
    binned = tl.zeros([WINDOW], tl.int32)
    for offset in range(0, found, 256):
        item = offset + tl.arange(0, 256)
        below = cutoff - (tl.load(list_row + tl.minimum(item, found - 1)) >> 16)
        binned += tl.histogram(tl.where(item < found, tl.minimum(below, WINDOW - 1), WINDOW - 1), WINDOW)
    binned -= tl.where(fine == WINDOW - 1, tl.cdiv(found, 256) * 256 - found, 0)
    tl.store(fine_row + fine, binned)


@triton.jit(do_not_specialize=scoring.UNSPECIALIZED)
def _count_kernel(list_ptr, fine_ptr, cutoff_ptr, room, SPLITS: tl.constexpr, WINDOW: tl.constexpr):
    """What the sifting does last, where that is a launch of its own: the list's length lies where its counts go."""
    row = tl.program_id(0).to(tl.int64)
    stretch = row * SPLITS + tl.program_id(1)
    found = tl.load(fine_ptr + stretch * WINDOW)
    _count(list_ptr + stretch * room, fine_ptr + stretch * WINDOW, found, tl.load(cutoff_ptr + row), WINDOW)


def plan(rows: int, capacity: int) -> tuple[int, int]:
    """(programs per row, a power of 2; room for each one's tokens, which 16 bits tell apart)."""
    block = SIFT["BLOCK"]
    splits = max(1, SIFT["PROGRAMS"] // rows)
    splits = 1 << splits.bit_length() - 1  # at most so many
    splits = min(splits, 64, triton.next_power_of_2(triton.cdiv(capacity, block)))
    splits = max(splits, triton.next_power_of_2(triton.cdiv(capacity, 1 << 15)))
    return splits, triton.cdiv(triton.cdiv(capacity, splits), block) * block


def sift(
    query_codes: torch.Tensor,
    key_codes: torch.Tensor,
    length: torch.Tensor,
    start: torch.Tensor | None,
    budget: int,
    sink: int,
    recent: int,
    together: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict[str, int]]:
    """Lists [rows, SPLITS, room], counts [rows, SPLITS, WINDOW], cutoffs [rows], and the sizes that kernels share."""
    batch, kv_heads, capacity, words = key_codes.shape
    rows, group = batch * kv_heads, query_codes.shape[1] // kv_heads
    splits, room = plan(rows, capacity)
    listed, fine = key_codes.new_empty(rows, splits, room), key_codes.new_empty(rows, splits, WINDOW)
    cutoff = key_codes.new_empty(rows)
    sizes = {"GROUP": group, "WORDS": words, "PLANES": scoring.planes(group), "CARRY": scoring.CARRY and words == 4}
    sizes |= {"BITS": (group * words * 32).bit_length(), "SPLITS": splits, "WITH_START": start is not None}
    sizes |= {"WINDOW": WINDOW}
    _sift_kernel[(rows, splits)](
        query_codes, key_codes, length, start, listed, fine, cutoff, capacity, kv_heads, budget, sink, recent, room,
        **sizes, MARGIN=MARGIN, BLOCK=SIFT["BLOCK"], STAGES=SIFT["STAGES"], SAMPLE=SIFT["SAMPLE"], TOGETHER=together,
        num_warps=4,
    )  # fmt: skip
    if not together:
        _count_kernel[(rows, splits)](listed, fine, cutoff, room, SPLITS=splits, WINDOW=WINDOW)
    return listed, fine, cutoff, sizes
